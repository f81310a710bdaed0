"""Mixture of experts: SwiGLU experts, one shared by all tokens and the rest chosen by a router, two a token.

    e(x) = (silu(x G_e) * (x U_e)) W_e          x normed first
    p = softmax(x R) over the E routed experts;  C = the `top` largest of p, ties to the lowest index
    y = sum over shared experts e(x) + sum over e in C of p_e / (sum over C of p) e(x)

    moe.balance of a row = E sum_e f_e P_e      f_e: share of the row's choices that fell on e, without gradient
                                                P_e: mean of p_e over the row; both over real tokens

The balance is 1 when the choices are uniform. It is of each row alone, so that it adds up over parts of a batch.

Shapes   x, y (B, T, D); p (B, T, E); hidden (B, T, all F), experts side by side, the shared ones first.
State    none, and no capacity that could be exceeded: a token's experts depend on nothing but the token.
Cost     6 D F operations a token and expert, for all experts: those not chosen are computed and weighed by 0. At 1 + 4
         experts and top 2 that is 5/3 of the operations needed (35 M instead of 21 M at D 768, F 1536), in exchange
         for three plain products without gather, sort or host wait, whose rows keep their bits beside any other rows.
Init     G, U, R ~ N(0, 0.02^2); W zero, so the organ starts as a no-op.
Source   Shazeer et al. 2017, arXiv 1701.06538; Lepikhin et al. 2020, "GShard", arXiv 2006.16668, and Fedus et al. 2021,
         "Switch Transformer", arXiv 2101.03961 (balance); Dai et al. 2024, "DeepSeekMoE", arXiv 2401.06066 (the shared
         expert). Changed: balance by row and not by batch, so that it adds up over micro-batches; nothing is dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.nn.linear import Router, linear
from positronic.nn.norm import RMSNorm
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["MoE", "MoEConfig", "largest"]


@dataclass(frozen=True, kw_only=True)
class MoEConfig(MixerConfig, kind="moe"):
    experts: Annotated[int, AtMost(256)] = 4
    """Experts that the router chooses from."""
    shared: Annotated[int, AtMost(256)] = 1
    """Experts that every token passes through."""
    top: Annotated[int, AtMost(256)] = 2
    """Experts chosen for a token."""
    hidden: Annotated[int, AtMost(262_144)] = 1536
    """Width between the gate and the way down of one expert."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.top <= self.experts:
            raise ConfigError(
                f"moe.top is {self.top} of {self.experts} experts; use 2 up to all of them. The weight of a single "
                f"chosen expert would be 1 whatever the router says, so that it would not learn."
            )
        if self.shared < 0 or self.hidden < 1:
            raise ConfigError(
                f"moe has {self.shared} shared experts of width {self.hidden}; use 0 or more (1 is usual) of width 1 "
                f"or more (2 d_model is usual)."
            )

    def build(self, d_model: int, n_branches: int = 1) -> "MoE":
        """The module; it starts silent, however many residual branches the trunk has."""
        return MoE(self, d_model)


def largest(p: Tensor, top: int) -> Tensor:
    """(..., E) bool: the `top` largest of p (..., E), ties to the lowest index (`torch.topk` leaves ties open)."""
    ours, theirs = p[..., :, None], p[..., None, :]
    earlier = torch.ones(p.shape[-1], p.shape[-1], dtype=torch.bool, device=p.device).tril(-1)
    ahead = (theirs > ours) | ((theirs == ours) & earlier)  # (..., E, E)
    return ahead.sum(-1) < top


class MoE(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "weights": Tap("shares of the experts, (B, T, E)"),
    }

    def __init__(self, config: MoEConfig, d_model: int):
        super().__init__()
        self.config = config
        self.norm = RMSNorm(d_model)
        self.router = Router(d_model, config.experts)
        n_experts = config.shared + config.experts
        self.gate = linear(d_model, n_experts * config.hidden)
        self.up = linear(d_model, n_experts * config.hidden)
        self.down = linear(n_experts * config.hidden, d_model, std=0)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        x = self.norm(x)
        p = self.router(x).softmax(-1)  # (B, T, E)
        chosen = largest(p, self.config.top)
        routed = p * chosen
        routed = step.tap(self, "weights", routed / routed.sum(-1, keepdim=True))  # (B, T, E)
        weights = F.pad(routed, (self.config.shared, 0), value=1.0)  # (B, T, all)
        hidden = F.silu(self.gate(x)) * self.up(x)  # (B, T, all F)
        weighed = hidden.unflatten(-1, (-1, self.config.hidden)) * weights.to(hidden.dtype)[..., None]
        return MixerOutput(self.down(weighed.flatten(-2)), None, {"moe.balance": self._balance(p, chosen, step)})

    def _balance(self, p: Tensor, chosen: Tensor, step: Step) -> Tensor:
        tokens = step.where_real(p.new_ones(1), padding=0.0).sum(1)  # (B, 1)
        choices = step.where_real(chosen.to(p.dtype), padding=0.0).sum(1)  # (B, E)
        mass = step.where_real(p, padding=0.0).sum(1)  # (B, E)
        return self.config.experts / self.config.top * (choices * mass / tokens.clamp(min=1).square()).sum(-1)  # (B,)
