"""Experts: SwiGLU experts, one shared by all tokens and two of the rest chosen by scores that need no balance loss.

    e(n) = D_e RMSNorm(silu(G_e n) * (U_e n))              n = RMSNorm(x); one gain of width I for all experts
    s = sigmoid(R n) in float32;  C = the `top` largest of s + b, ties to the lowest index
    y = e_shared(n) + sum over e in C, in order, of s_e / (sum over C of s) e(n)

b chooses and never weighs. Its gradient is each expert's load minus the mean load, in real tokens (`nn.load_bias`).

Up to 512 tokens a call every expert reads every token, and those not chosen are weighed by 0: a product over a part of
the rows rounds by their number, and a row would not keep its bits beside others. Beyond, (token, expert) pairs are
sorted by expert, stably, the shared one in front; three products over its runs, back in order, and a sum over each
token's experts. Nothing is dropped, nothing added up in an order that may change, and where bfloat16 runs on CUDA the
host waits for no count.

Shapes   x, y (B, T, D); s (B, T, E); G, U (1 + E, I, D), D_e (1 + E, D, I), the shared one first.
State    none: a token's experts depend on nothing but the token.
Cost     6 D I operations a token and expert: 1 + top of them, up to 512 tokens 1 + E.
Init     N(0, 0.02^2), D_e N(0, (0.02 / sqrt(residual branches))^2), b = 0, the gain before D_e 0.1.
Source   DeepSeek-V3, arXiv 2412.19437 (sigmoid scores, shared expert), Wang et al. 2024, arXiv 2408.15664 (bias). Here
         a norm stands before the way down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.grouped import grouped_product
from positronic.lm import MixerOutput
from positronic.mixers.moe import largest
from positronic.nn.linear import Matrices, Router, residual_std
from positronic.nn.load_bias import LoadBias
from positronic.nn.norm import QUIET, RMSNorm
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["Experts", "ExpertsConfig"]

ALL = 512
"""Tokens of a call up to which all experts read all tokens."""


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig(MixerConfig, kind="experts"):
    experts: Annotated[int, AtMost(256)] = 8
    """Experts that are chosen from; beside them stands one that every token passes through."""
    top: Annotated[int, AtMost(256)] = 2
    """Experts chosen for a token."""
    hidden: Annotated[int, AtMost(262_144)] = 256
    """Width between the gate and the way down of one expert; a multiple of 8, better of 128, runs fastest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.top <= self.experts:
            raise ConfigError(
                f"experts.top is {self.top} of {self.experts} experts; use 2 up to all of them. The weight of a single "
                f"chosen expert would be 1 whatever the router says, so that it would not learn."
            )
        if self.hidden < 1:
            raise ConfigError(f"experts.hidden is {self.hidden}; use 1 or more (2/3 of d_model is usual).")

    def build(self, d_model: int, n_branches: int = 1) -> "Experts":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return Experts(self, d_model, n_branches)


class Experts(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "weights": Tap("shares of the experts, (B, T, E), 0 where not chosen"),
    }

    def __init__(self, config: ExpertsConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.norm = RMSNorm(d_model)
        self.router = Router(d_model, config.experts)
        self.balance = LoadBias(config.experts)
        self.gate = Matrices(1 + config.experts, d_model, config.hidden, ternary=True)
        self.up = Matrices(1 + config.experts, d_model, config.hidden, ternary=True)
        self.inner_norm = RMSNorm(config.hidden, start=QUIET)
        self.down = Matrices(1 + config.experts, config.hidden, d_model, residual_std(n_branches), ternary=True)

    @property
    def idle_parameters(self) -> int:
        """Those of experts that a token does not choose."""
        matrices = self.gate.weight, self.up.weight, self.down.weight
        return (self.config.experts - self.config.top) * sum(weight[0].numel() for weight in matrices)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        n = self.norm(x)
        logits = self.router(n)
        chosen = largest(self.balance(logits.sigmoid()), self.config.top)  # (B, T, E)
        # s_e / (sum over C of s), whose quotient stays finite where all s are 0
        weights = F.logsigmoid(logits).masked_fill(~chosen, -torch.inf).softmax(-1)
        weights = step.tap(self, "weights", weights)
        mix = self._sorted if chosen[..., 0].numel() > ALL else self._all
        y = mix(n.flatten(0, 1), weights.flatten(0, 1), chosen.flatten(0, 1)).view_as(x)
        real = chosen if step.valid is None else chosen & step.valid[..., None]
        return MixerOutput(self.balance.counted(y, real.sum((0, 1))))

    def _all(self, n: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """n (N, D), weights and chosen (N, E) -> y (N, D): every expert for every token."""
        gate, up = (F.linear(x, w.flatten(0, 1)) for x, w in (m.operands(n) for m in (self.gate, self.up)))
        hidden = (F.silu(gate) * up).unflatten(-1, (-1, self.config.hidden))  # (N, 1 + E, I)
        units, down = self.down.operands(self.inner_norm(hidden))
        said = units.transpose(0, 1) @ down.mT  # (1 + E, N, D)
        shares = F.pad(weights, (1, 0), value=1.0).T[..., None]  # (1 + E, N, 1)
        return (shares * said).sum(0).to(said.dtype)

    def _sorted(self, n: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same: each token's own experts alone."""
        experts = torch.arange(chosen.shape[-1], device=n.device)
        picked = torch.where(chosen, experts, len(experts)).sort(-1).values[:, : self.config.top]  # (N, top), rising
        shares = (weights[:, None] * (picked[..., None] == experts)).sum(-1)  # a gather's gradient would be scattered
        order = F.pad(picked + 1, (1, 0)).flatten().argsort(stable=True)  # (N (1 + top),)
        back = order.argsort()
        ends = F.pad(chosen.sum(0), (1, 0), value=len(n)).cumsum(0).int()  # (1 + E,)
        rows = _Taken.apply(n, order, back, 1 + self.config.top)
        gate, up = (grouped_product(*m.operands(rows), ends) for m in (self.gate, self.up))
        said = grouped_product(*self.down.operands(self.inner_norm(F.silu(gate) * up)), ends)
        said = _Taken.apply(said, back, order, 1).unflatten(0, (len(n), -1))  # (N, 1 + top, D)
        return (F.pad(shares, (1, 0), value=1.0)[..., None] * said).sum(1).to(said.dtype)


class _Taken(torch.autograd.Function):
    """Rows of x, each `copies` times, in another order: there and back without a sum whose order could change."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.copies = copies
        return x[order // copies]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return gradient[back].unflatten(0, (-1, ctx.copies)).sum(1), None, None, None
