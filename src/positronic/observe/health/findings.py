"""What health can find, by name: when it is said, how bad it is, and what to do.

    dead gate             broken  trained, |tanh g| < CLOSED, and g stands bit for bit where it began, or gets no
                                  gradient from the data, or lets none through (no leak) although it began open
    closed gate           watch   trained, and all gates of an organ at |tanh g| < CLOSED, though they can still open
    saturated gate        watch   |tanh g| > SATURATED, where its gradient is 1 - tanh^2 g < 0.002
    NaN weight            broken  a parameter holds NaN
    infinite weight       broken  a parameter holds an infinity
    not finite            broken  a value, a gradient or the score is NaN or infinite
    silent matrix         broken  trained, and a matrix is exactly 0
    no gradient           broken  trained, and no parameter of the organ gets gradient from the data
    silent block          broken  trained, and what a block adds to the stream is exactly 0
    large weights         watch   rms of an organ's matrices > LARGE_RMS
    collapsed router      broken  the experts in use are no more than one token needs, or less than a quarter of all
    starved expert        watch   an expert gets less than STARVED of a fair share
    idle specialist       watch   a specialist is read less than STARVED of a fair share of its ring
    locked ring           watch   mean |Z| after the dynamics > LOCKED: all its oscillators say the same
    full store            watch   rms of a store > FULL of its bound, 1: it holds nothing but its last writes
    stuck lookup          watch   an engram gate is shut (or open) for more than STUCK of all tokens
    saturated controller  watch   more than HALF of its wishes stand at their bound
    crowded shell         watch   more than CROWDED of all tips end beyond the knee, where gradient shrinks
    unreached station     watch   mean engagement of a station < UNREACHED: it neither hears nor says anything
    silent head           watch   rms of a head < SILENT of the layer's largest
    collapsed mixture     broken  all heads of a mixture but one get less than STARVED of a fair share
    unheard head          watch   a head of a mixture gets less than STARVED of a fair share; of a HyperFFN, all but one
    sharpness at bound    watch   alpha of a metric head stands where the clamp stops its gradient
    narrow ball           watch   more than HALF of the keys lie so far outside of the ball that they are gone
    brief memory          watch   every head of a recurrent mixer forgets half within BRIEF tokens
    faint writes          watch   every head writes with a mean strength < FAINT
    floored normaliser    watch   in every head of an mLSTM more than FLOORED of all tokens divide by the floor
    unheard memory        watch   less than UNHEARD of the attention of a Titans layer falls on what is recalled
    hemmed memory         watch   in every head the trust region cuts what more than HALF of all chunks write
    collapsed experts     broken  as a collapsed router, of experts whose bias should keep them equally busy
    unused expert         watch   as a starved expert, of the same
    idle iteration        watch   the last usual iteration of a loop changes tokens by less than its `exit_below`
    silent units          watch   more than HALF of the hidden units have an rms < SILENT of the median
    useless draft head    watch   trained, and a head agrees with the model less often than USELESS
    collapsed features    broken  deviation of the features over tokens < FLAT: the trunk says the same of every token
    logit scale at bound  watch   the scale stands where the clamp stops its gradient
    worse than a guess    broken  trained, and bits per byte are no better than a uniform guess

"Trained" is TRAINED_STEPS or more optimizer steps by the checkpoint's own record; without a record (weights alone) it
is a norm or logit scale that is no longer 1 everywhere, as every new model's is. A new organ is closed and silent by
design, so of a new model only what is not finite is said. The gradient is that of the next-token loss on the data:
draft heads and the JEPA head, which it does not reach, are left out. An expert is in use from STARVED of a fair share
on. Of a ball of metric heads, "silent matrix" and "no gradient" are not said: it rests until a key leaves it.
"""

from typing import NamedTuple

__all__ = [
    "BRIEF",
    "BROKEN",
    "CLOSED",
    "CROWDED",
    "FAINT",
    "FINDINGS",
    "FLAT",
    "FLOORED",
    "FULL",
    "HALF",
    "LARGE_RMS",
    "LOCKED",
    "OK",
    "SATURATED",
    "SILENT",
    "STARVED",
    "STUCK",
    "TRAINED_STEPS",
    "UNHEARD",
    "UNREACHED",
    "USELESS",
    "WATCH",
    "Finding",
]

OK, WATCH, BROKEN = "ok", "watch", "broken"

TRAINED_STEPS = 20
CLOSED = 1e-4
SATURATED = 0.999
LARGE_RMS = 4.0
STARVED = 0.05
LOCKED = 0.999
FULL = 0.9
STUCK = 0.95
HALF = 0.5
CROWDED = 0.6
UNREACHED = 1e-3
SILENT = 1e-3
USELESS = 0.01
FLAT = 0.05
BRIEF = 2.0
FAINT = 0.01
FLOORED = 0.95
UNHEARD = 1e-3


class Finding(NamedTuple):
    verdict: str
    advice: str


FINDINGS: dict[str, Finding] = {
    "dead gate": Finding(
        BROKEN, "The organ cannot be heard again. See that the optimizer has its gate and that gradient reaches it."
    ),
    "closed gate": Finding(
        WATCH, "The organ is not heard. `positronic ablate` says whether it is missed; leave it out."
    ),
    "saturated gate": Finding(WATCH, "The gate can hardly move any more. Lower its rate, or scale the organ up."),
    "NaN weight": Finding(BROKEN, "Go back to an earlier checkpoint and lower the rate."),
    "infinite weight": Finding(BROKEN, "Go back to an earlier checkpoint and lower the rate."),
    "not finite": Finding(
        BROKEN, "It spreads from a weight that is not finite, if there is one, else from the first layer named."
    ),
    "silent matrix": Finding(BROKEN, "It never moved from its start at 0. See that gradient and optimizer reach it."),
    "no gradient": Finding(BROKEN, "Nothing in it can learn. See whether its gate is dead or its output is cut off."),
    "silent block": Finding(BROKEN, "The block does nothing. Look at its gate and at its last matrix."),
    "large weights": Finding(WATCH, "Raise the weight decay or lower the rate."),
    "collapsed router": Finding(BROKEN, "All tokens go to the same experts. Raise the weight of the balance loss."),
    "starved expert": Finding(WATCH, "Raise the weight of the balance loss, or use fewer experts."),
    "idle specialist": Finding(WATCH, "Use fewer specialists a ring, or read more of them."),
    "locked ring": Finding(WATCH, "The ring carries one number. Lower its coupling, or leave the ring out."),
    "full store": Finding(WATCH, "Lower the largest share of a write."),
    "stuck lookup": Finding(WATCH, "The lookup ignores its context. `positronic ablate` says whether it helps at all."),
    "saturated controller": Finding(WATCH, "It asks for more than it may. Look at the ring's coupling and centre."),
    "crowded shell": Finding(WATCH, "Start positions nearer to the middle, or lower the speed."),
    "unreached station": Finding(WATCH, "Use fewer stations, or let them reach further."),
    "silent head": Finding(WATCH, "Use fewer heads."),
    "collapsed mixture": Finding(BROKEN, "One head says everything. Give the router an entropy floor (0.7 is usual)."),
    "unheard head": Finding(WATCH, "Leave it out, or give the router an entropy floor."),
    "sharpness at bound": Finding(WATCH, "It gets no gradient there. Lower the rate, or choose another score."),
    "narrow ball": Finding(WATCH, "Raise the radius, or leave prune out."),
    "brief memory": Finding(WATCH, "It remembers nothing. Lower a_log or the start of the forget gates."),
    "faint writes": Finding(WATCH, "Nothing enters its memory. See how the strengths' logits have drifted."),
    "floored normaliser": Finding(
        WATCH, "The layer is next to silent. Start `input_bias` higher: -3 is usual below 100 M parameters."
    ),
    "unheard memory": Finding(WATCH, "`positronic ablate` says whether it is missed; leave the memory out."),
    "hemmed memory": Finding(WATCH, "Its bound has become its rate. Lower `theta_max`, or raise `trust`."),
    "collapsed experts": Finding(BROKEN, "All tokens go to the same experts. See that the optimizer moves their bias."),
    "unused expert": Finding(WATCH, "Use fewer experts, or train on: their bias is moved by 0.001 a step."),
    "idle iteration": Finding(WATCH, "Pass the loop less often, or with `--loops auto`."),
    "silent units": Finding(WATCH, "Use a narrower layer, or a lower rate."),
    "useless draft head": Finding(WATCH, "Drafting with it costs more than it saves; draft fewer tokens."),
    "collapsed features": Finding(BROKEN, "Lower the weight of the JEPA loss, or train without it."),
    "logit scale at bound": Finding(WATCH, "It gets no gradient there. Look at the size of the embedding."),
    "worse than a guess": Finding(BROKEN, "The model has learned nothing of this text. Is it the text's tokenizer?"),
}
