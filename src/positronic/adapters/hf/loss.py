"""What organs and heads add to the loss when another program trains the model, weighed as our own objective does.

    added = share * sum over names of weight * loss        share = targets of this call / targets of the whole step

A caller that accumulates gradients says how many targets the step has (`num_items_in_batch`), and each call adds its
part; without that number a call is the whole step.
"""

from torch import Tensor
from torch.nn import functional as F

from positronic.data.batch import TokenBatch
from positronic.lm import LM, LMOutput
from positronic.state import Step
from positronic.train.objectives.next_token import NextTokenConfig

__all__ = ["IGNORED", "auxiliary_loss"]

IGNORED = -100
"""The label of a token that carries no loss."""


def auxiliary_loss(
    lm: LM, output: LMOutput, step: Step, labels: Tensor, num_items_in_batch: Tensor | int | None
) -> Tensor | float:
    """To be added to the cross entropy of labels (B, T), which are the tokens themselves or IGNORED."""
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
    counted = targets != IGNORED
    here = int(counted.sum())
    if here == 0 or not (output.aux or lm.drafts or lm.latents):
        return 0.0
    segments = Step.of(step.tokens, None, step, lm.config.boundary_id).segments
    batch = TokenBatch(step.tokens, targets.clamp(min=0), counted, segments, step.valid)
    objective = NextTokenConfig().build()
    added, _ = objective.auxiliary(lm, output, batch, objective.counts(batch))
    return added if num_items_in_batch is None else added * (here / num_items_in_batch)
