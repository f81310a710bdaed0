"""The loop: the middle of a trunk, passed as often as asked, drawn to where it was entered.

    e = RMSNorm(prelude(x))    h_0 = e
    z_r = e + A (h_r-1 - e)    h_r = core(z_r)    r = 1 .. R           y = coda(h_R)
    A = exp(-clamp(softplus(b) exp(a), 1e-4, 20))                      one a channel, in (0, 1)

That is the exact flow of h' = -exp(a) (h - e) over a time softplus(b), with e held. z_1 is e itself, so that depth 1 is
the plain stack for any weights.

first_write     iteration 1 writes memories and reads them, later ones only read, with fresh queries: what is remembered
                does not depend on the depth, and each token may have its own
per_iteration   each iteration has memories of its own, and the depth is the usual one

Depth    in training R of n rows are quantiles of min(max(1, Poisson(mean)), most), dealt by torch's generator: equal
         counts every step. Below 16 rows their common offset is drawn as well. Otherwise the usual depth, or as asked.
Exit     a token's iterations end behind the one that has changed it by less than `exit_below` of its length.
Gradient through the last iteration of h alone: those between the first and the last run without. What the first writes
         always carries gradient.
Shapes   x, e, h (B, T, D); a, b, A (D,).
State    of the blocks, and the iterations spent by each row, (B,).
Cost     an iteration is one pass through the blocks, without what only writes.
Init     a = 0, A = sqrt(1/5).
Source   Parcae, arXiv 2604.12946 (decay, norm behind the prelude, Poisson depths, truncated gradient), with the exact
         gain in place of Euler's; memories of the first recursion: Mixture-of-Recursions, arXiv 2507.10524.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.nn import init
from positronic.nn.norm import RMSNorm
from positronic.nn.stack import Passed, Stack, added
from positronic.probe import Tap
from positronic.state import Loops, State, Step

__all__ = ["LoopConfig", "LoopState", "Looped", "quantiles"]

SECTIONS = ("prelude", "loop", "coda")
FEW_ROWS = 16
"""Rows below which the offset of the quantiles is drawn."""
SLOWEST, FASTEST = 1e-4, 20.0
"""Bounds of a time constant: within them A is below 1 in float32."""
LARGEST = 80.0
"""Of either factor before they are multiplied: no product overflows."""
START = math.sqrt(1 / 5)


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Config, kind="loop"):
    usual: Annotated[int, AtMost(64)] = 2
    """Iterations where none are asked for."""
    most: Annotated[int, AtMost(64)] = 6
    """Iterations, at most."""
    mean: Annotated[float, AtMost(64)] = 2.0
    """Mean of the Poisson distribution that depths in training come from; 0: always the usual depth."""
    memory: Literal["first_write", "per_iteration"] = "first_write"
    """Whether later iterations read what the first has written, or have memories of their own."""
    exit_below: float = 0.01
    """Relative change of a token below which its iterations end, where early exit is asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.usual <= self.most:
            raise ConfigError(f"loop.usual is {self.usual} of at most {self.most}; use 1 up to loop.most.")
        if self.mean < 0 or self.exit_below <= 0:
            raise ConfigError(
                f"loop has mean {self.mean} and exit_below {self.exit_below}; use a mean of 0 or more and a positive "
                f"exit_below (2 and 0.01 are usual)."
            )

    @property
    def depths(self) -> Sequence[int]:
        """Those that may be asked for."""
        return [self.usual] if self.memory == "per_iteration" else range(1, self.most + 1)

    @property
    def mean_depth(self) -> float:
        """Iterations of a row in training, on average."""
        if not self.mean or self.memory == "per_iteration":
            return self.usual
        return 1 + sum(1 - poisson_cdf(depth, self.mean) for depth in range(1, self.most))

    def check(self, loops: Loops | Tensor, least: int = 0) -> None:
        """Raise `ConfigError` where a call cannot have this depth."""
        if self.memory == "per_iteration" and not _is_one_of(loops, (None, 0, self.usual)):
            raise ConfigError(
                f"This model keeps a memory for each iteration, so that its depth is always {self.usual}; leave out "
                f"--loops, or train with looping.memory=first_write."
            )
        if not isinstance(loops, Tensor) and loops not in (None, "auto", *range(least, self.most + 1)):
            raise ConfigError(f"--loops is {loops}; use 1 to {self.most}, the most that this model knows, or auto.")


def _is_one_of(loops: Loops | Tensor, these: Sequence[int | None]) -> bool:
    return not isinstance(loops, Tensor) and loops in these


def poisson_cdf(k: int, mean: float) -> float:
    """Probability of at most k."""
    return math.fsum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(k + 1))


def quantiles(n: int, mean: float, most: int, offset: float = 0.5) -> list[int]:
    """n depths, falling: quantiles of min(max(1, Poisson(mean)), most) at (i + offset) / n."""
    bounds = [poisson_cdf(depth, mean) for depth in range(1, most)]
    return [1 + sum((i + offset) / n > bound for bound in bounds) for i in range(n)][::-1]


@dataclass(frozen=True)
class LoopState(State):
    """What a conversation has spent."""

    spent: Tensor
    """(B,) iterations of all tokens read so far, float32."""
    rollback: tuple[Tensor] | None = None
    """(B, T+1) the same before the last call and after each of its tokens."""


class Looped(nn.Module):
    """The way through a trunk of prelude, loop and coda: a `Walk` with weights."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "change": Tap("relative change of each token by each iteration, (B, T, R); to be seen, not changed"),
        "decay": Tap("A, (D,)"),
    }

    def __init__(self, config: LoopConfig, d_model: int):
        super().__init__()
        self.config = config
        self.norm = RMSNorm(d_model)
        self.log_rate = nn.Parameter(torch.empty(d_model))
        self.time = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.log_rate)
        init.constant_(self.time, math.log(math.expm1(-math.log(START))))

    def init_state(self, trunk: Stack, batch: int, capacity: int = 0) -> list[State | None]:
        more = list(trunk.sections["loop"]) * (self._memories - 1)
        later = [trunk[place].init_state(batch, capacity) for place in more]  # type: ignore[operator]
        spent = torch.zeros(batch, dtype=torch.float32, device=self.time.device)
        return [*trunk.init_state(batch, capacity), *later, LoopState(spent)]

    def forward(self, trunk: Stack, x: Tensor, step: Step, states: Sequence[State | None] | None = None) -> Passed:
        self.config.check(step.loops)
        held, later = self._apart(trunk, states)
        x, first, aux = trunk.through(trunk.sections["prelude"], x, step, held["prelude"])
        loop = self._loop(trunk, self.norm(x), step, held["loop"], later)
        x, last, losses = trunk.through(trunk.sections["coda"], loop.x, step, held["coda"])
        aux = added(added(aux, loop.aux), losses)
        if states is None:
            return Passed(x, [], aux)
        here = len(trunk.sections["loop"])
        spent = _counted(states[-1], loop.iterations, step)
        return Passed(x, [*first, *loop.states[:here], *last, *loop.states[here:], spent], aux)

    def draws(self, step: Step, states: Sequence[State | None] | None) -> bool:
        """Whether a call after these states gives each row a depth that is drawn."""
        alike = states is not None or step.loops is not None or self.config.memory == "per_iteration"
        return self.training and not alike and self.config.mean > 0

    @property
    def reads_again(self) -> bool:
        """Whether later iterations read what the first has written."""
        return self._memories == 1

    @property
    def _memories(self) -> int:
        """States that a block in the loop has."""
        return self.config.usual if self.config.memory == "per_iteration" else 1

    def _apart(
        self, trunk: Stack, states: Sequence[State | None] | None
    ) -> tuple[dict[str, Sequence[State | None] | None], Sequence[State | None]]:
        """The states of each section, and those of the loop's later iterations."""
        if states is None:
            return dict.fromkeys(SECTIONS), []
        return {name: [states[place] for place in trunk.sections[name]] for name in SECTIONS}, states[len(trunk) : -1]

    def _loop(
        self, trunk: Stack, e: Tensor, step: Step, own: Sequence[State | None] | None, later: Sequence[State | None]
    ) -> "Iterated":
        if self._memories > 1:
            return self._each_its_own(trunk, e, step, None if own is None else [*own, *later])
        if self.draws(step, own):
            return self._drawn(trunk, e, step)
        depth = self.config.usual if step.loops is None else step.loops
        if isinstance(depth, int):
            return self._alike(trunk, e, step, own, depth or self.config.usual)
        return self._each_token(trunk, e, step, own, depth)

    def _drawn(self, trunk: Stack, e: Tensor, step: Step) -> "Iterated":
        """Rows in falling order of drawn depths, so that an iteration runs for those alone that need it."""
        c, n = self.config, len(e)
        depths = quantiles(n, c.mean, c.most, 0.5 if n >= FEW_ROWS else float(torch.rand(())))
        order = torch.randperm(n).to(e.device)
        inside, step, e = trunk.sections["loop"], trunk.prepared(step.rows(order), whole_rows=True), e[order]
        (x, _, aux), contexts = trunk.enter(inside, e, step)
        more = sum(depth > 1 for depth in depths)
        h = x[:more].detach()
        with torch.no_grad():
            for r in range(2, max(depths)):
                rows = slice(sum(depth > r for depth in depths))
                h = torch.cat(
                    [self._again(trunk, e[rows], h[rows], of(contexts, rows), step.rows(rows)), h[rows.stop :]]
                )
        if more:
            rows = slice(more)
            h = self._again(trunk, e[rows], h, of(contexts, rows), step.rows(rows))
        back = order.argsort()
        return Iterated(torch.cat([h, x[more:]])[back], [], {name: loss[back] for name, loss in aux.items()}, 1)

    def _alike(
        self, trunk: Stack, e: Tensor, step: Step, states: Sequence[State | None] | None, depth: int
    ) -> "Iterated":
        """The same depth for all tokens."""
        (x, after, aux), contexts = trunk.enter(trunk.sections["loop"], e, step, states)
        passed = [e, x]
        for r in range(2, depth + 1):
            with torch.set_grad_enabled(r == depth and torch.is_grad_enabled()):
                passed.append(self._again(trunk, e, passed[-1].detach(), contexts, step))
        if step.probe is not None:
            step.tap(self, "change", torch.stack([_change(*pair) for pair in pairwise(passed)], -1))
        return Iterated(passed[-1], after, aux, depth)

    def _each_token(
        self,
        trunk: Stack,
        e: Tensor,
        step: Step,
        states: Sequence[State | None] | None,
        depth: Tensor | Literal["auto"],
    ) -> "Iterated":
        """As many iterations as a row was given, or as a token needs."""
        c = self.config
        (x, after, aux), contexts = trunk.enter(trunk.sections["loop"], e, step, states)
        asked = torch.full((len(e),), c.most, device=e.device) if isinstance(depth, str) else depth
        most = torch.where(asked > 0, asked, c.usual).clamp(max=c.most)[:, None]  # (B, 1)
        iterations = torch.ones(e.shape[:2], device=e.device)
        goes_on = (most > 1).expand_as(iterations)
        before = e
        for r in range(2, c.most + 1):
            if isinstance(depth, str):
                goes_on = goes_on & (_change(before, x) >= c.exit_below)
            if e.device.type == "cpu" and not torch.compiler.is_compiling() and not goes_on.any():
                break
            before, new = x, self._again(trunk, e, x.detach(), contexts, step)
            x = torch.where(goes_on[..., None], new, x)
            iterations = iterations + goes_on
            goes_on = goes_on & (most > r)
        return Iterated(x, after, aux, iterations)

    def _each_its_own(self, trunk: Stack, e: Tensor, step: Step, states: Sequence[State | None] | None) -> "Iterated":
        """As many iterations as there are memories."""
        inside, depth = trunk.sections["loop"], self.config.usual
        x, after = e, []
        aux: Mapping[str, Tensor] = {}
        for r in range(depth):
            own = None if states is None else states[r * len(inside) : (r + 1) * len(inside)]
            with torch.set_grad_enabled(r == depth - 1 and torch.is_grad_enabled()):
                z = self._drawn_to(e, x.detach(), step) if r else e
                x, those, aux = trunk.through(inside, z, step, own)
            after += those
        return Iterated(x, after, aux, depth)

    def _again(self, trunk: Stack, e: Tensor, h: Tensor, contexts: Sequence[Any], step: Step) -> Tensor:
        """One iteration after the first."""
        return trunk.again(trunk.sections["loop"], self._drawn_to(e, h, step), contexts, step)

    def _drawn_to(self, e: Tensor, h: Tensor, step: Step) -> Tensor:
        """e + A (h - e)"""
        rate = F.softplus(self.time.float()).clamp(max=LARGEST) * self.log_rate.float().clamp(max=LARGEST).exp()
        decay = step.tap(self, "decay", (-rate.clamp(SLOWEST, FASTEST)).exp())
        return (e.float() + decay * (h.float() - e.float())).to(e.dtype)


class Iterated(NamedTuple):
    """What a loop has made of the stream."""

    x: Tensor
    """(B, T, D)"""
    states: list[State | None]
    """Of the blocks, first iteration first."""
    aux: Mapping[str, Tensor]
    """Losses (B,) of the first iteration, or of the last where each has its own memories."""
    iterations: Tensor | int
    """Of each token, (B, T)."""


def of(contexts: Any, rows: slice) -> Any:
    """These rows of contexts: tensors, named tuples and lists of them, None."""
    if contexts is None or isinstance(contexts, Tensor):
        return None if contexts is None else contexts[rows]
    parts = [of(part, rows) for part in contexts]
    return parts if isinstance(contexts, list) else type(contexts)(*parts)


def _change(before: Tensor, x: Tensor) -> Tensor:
    """(B, T): how far an iteration has moved each token, of its length."""
    x, before = x.float(), before.float()
    return (x - before).norm(dim=-1) / (x.norm(dim=-1) + 1e-6)


def _counted(state: State | None, iterations: Tensor | int, step: Step) -> LoopState:
    """The state after a call of so many iterations."""
    assert isinstance(state, LoopState), "the last state of a loop counts"
    spent = torch.ones(step.tokens.shape, device=state.spent.device) * iterations
    if step.valid is not None:
        spent = spent.masked_fill(~step.valid, 0.0)
    total = torch.cat([state.spent[:, None], state.spent[:, None] + spent.cumsum(1)], 1)
    return LoopState(total[:, -1], (total,) if step.keep_rollback else None)
