"""mLSTM: a matrix memory a head that exponential gates write and fade.

    q = W_q n     k = W_k n / sqrt(K)     v = W_v n                  n = RMSNorm(x)
    i~ = cap(w_i n + b_i)     f~ = cap(w_f n + b_f)                  cap(z) = 15 tanh(z / 15), in float32
    C_t = f_t C_{t-1} + i_t v_t k_t^T     n_t = f_t n_{t-1} + i_t k_t     i = exp(i~), f = sigmoid(f~)
    h_t = C_t q_t / max(|n_t . q_t|, 1)
    y = W_o RMSNorm(RMSNorm_head(h) * sigmoid(W_o2 W_o1 n))

written here without the stabiliser, which changes no result: `kernels.mlstm` has both forms with it.

Shapes   x, y (B, T, D); q, k, v, h (B, T, H, K), usually H K = D; i~, f~ (B, T, H); W_o1 (r, D), W_o2 (H K, r).
State    C, n and the stabiliser m, float32: 4 (H K^2 + H K + H) bytes a row, at any context length.
Cost     8 D^2 + 4 D (H + r) operations a token for the maps; for the memory 5 H K^2 in the loop, in chunks of C
         tokens 4 H K (C + K) and the states between. Reading again saves W_k, W_v, the gates and all that is written.
Weights  W_k over W_v, and W_q over W_o1, are rows of one matrix each: what writes and what reads. One gain of width K
         for all heads.
Init     N(0, 0.02^2), W_o N(0, (0.02 / sqrt(residual branches))^2), the gain before it 0.1; w_i = w_f = 0,
         b_i = `input_bias`, b_f from 3 to 6 spread evenly over the heads: half-lives of 14 to 208 tokens.
Source   Beck et al. 2024, arXiv 2405.04517; gates, caps, norm and shape of the layer as in xLSTM 7B, arXiv 2503.13427.
         Here keys and queries are as wide as values, the output gate has low rank, and a norm stands before W_o.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.mlstm import Cell, Context, floored, read, write, write_reference
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.linear import Router, linear, residual_std
from positronic.nn.norm import QUIET, RMSNorm
from positronic.probe import Tap
from positronic.state import Step
from positronic.tree import Replayed

__all__ = ["MLSTM", "MLSTMConfig", "MLSTMState"]

CAP = 15.0
"""Largest gate logit, either way."""
FORGET_BIAS = 3.0, 6.0
"""Of the first and of the last head."""


@dataclass(frozen=True, kw_only=True)
class MLSTMConfig(MixerConfig, kind="mlstm"):
    n_heads: Annotated[int, AtMost(1024)] = 6
    """Heads; times head_dim usually the width of the stream."""
    head_dim: Annotated[int, AtMost(4096)] = 64
    """Width of a head's queries, keys and values."""
    gate_rank: Annotated[int, AtMost(65_536)] = 64
    """Rank of the output gate."""
    input_bias: float = -10.0
    """Input gates' logit at the start. At -10 the layer is silent for hundreds of steps; below 100 M parameters -3 is
    usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_heads", "head_dim", "gate_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"mlstm.{name} is {getattr(self, name)}; use 1 or more.")

    def build(self, d_model: int, n_branches: int = 1) -> "MLSTM":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return MLSTM(self, d_model, n_branches)


@dataclass(frozen=True)
class MLSTMState(Replayed):
    """The memory of all heads, in units of e^m."""

    c: Tensor
    """(B, H, V, K)"""
    n: Tensor
    """(B, H, K)"""
    m: Tensor
    """(B, H)"""
    rollback: tuple["MLSTMState", tuple[Tensor, ...]] | None = None
    """The state before the last call, and its k, v, log i, log f and fresh."""

    @property
    def cell(self) -> Cell:
        return Cell(self.c, self.n, self.m)

    def after(self, *rows: Tensor) -> "MLSTMState":
        k, v, log_i, log_f, fresh = rows
        return MLSTMState(*write_reference(k, v, log_i, log_f, self.cell, fresh)[1])


class MLSTM(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "input": Tap("logits of the input gates, i~ (B, T, H)"),
        "forget": Tap("logs of the forget gates, log f (B, T, H)"),
        "floored": Tap("where |n . q| is below 1, (B, T, H); to be seen, not changed"),
        "heads": Tap("what each head has read, h (B, T, H, K)"),
    }

    def __init__(self, config: MLSTMConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        width = config.n_heads * config.head_dim
        self.norm = RMSNorm(d_model)
        self.key_value = linear(d_model, 2 * width, ternary=True)
        self.query = linear(d_model, width + config.gate_rank, ternary=True)
        self.gates = Router(d_model, 2 * config.n_heads, std=0)
        self.input_bias = nn.Parameter(torch.empty(config.n_heads))
        self.forget_bias = nn.Parameter(torch.empty(config.n_heads))
        self.open = linear(config.gate_rank, width, ternary=True)
        self.head_norm = RMSNorm(config.head_dim)
        self.out_norm = RMSNorm(width, start=QUIET)
        self.out = linear(width, d_model, residual_std(n_branches), ternary=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.input_bias, self.config.input_bias)
        init.copy_(self.forget_bias, torch.linspace(*FORGET_BIAS, self.config.n_heads))

    def init_state(self, batch: int, capacity: int = 0) -> MLSTMState:
        heads, width = self.config.n_heads, self.config.head_dim
        zeros = partial(self.norm.weight.new_zeros, dtype=torch.float32)
        return MLSTMState(zeros(batch, heads, width, width), zeros(batch, heads, width), zeros(batch, heads))

    def prepare(self, step: Step) -> dict[str, Any]:
        """Where documents begin."""
        return step.prepare_fresh()

    def forward(self, x: Tensor, step: Step, state: MLSTMState | None = None) -> MixerOutput:
        context, after = self.write(x, step, state)
        return MixerOutput(self.read(x, context, step), after)

    def write(self, x: Tensor, step: Step, state: MLSTMState | None = None) -> tuple[Context, MLSTMState | None]:
        before = self.init_state(len(x)) if state is None else MLSTMState(*state.cell)
        written, fresh = self._written(self.norm(x), step), step.fresh
        context, cell = write(*written, before.cell, fresh, step.keep_rollback)
        if state is None:
            return context, None
        return context, MLSTMState(*cell, (before, (*written, fresh)) if step.keep_rollback else None)

    def read(self, x: Tensor, context: Context, step: Step) -> Tensor:
        c = self.config
        query, gate = self.query(self.norm(x)).split([c.n_heads * c.head_dim, c.gate_rank], -1)
        q = self._heads(query)
        if step.probe is not None:
            step.tap(self, "floored", floored(q, context))
        h = step.tap(self, "heads", read(q, context))
        said = self.head_norm(h).flatten(-2).to(x.dtype) * self.open(gate).sigmoid()
        return self.out(self.out_norm(said))

    def _written(self, n: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What enters the memory, float32: k, v (B, T, H, K), log i and log f (B, T, H); padding writes nothing."""
        key, value = self.key_value(n).chunk(2, -1)
        i, f = self.gates(n).chunk(2, -1)
        i = step.tap(self, "input", _cap(i + self.input_bias.float()))
        log_f = step.tap(self, "forget", F.logsigmoid(_cap(f + self.forget_bias.float())))
        log_i, log_f = step.where_real(i, padding=-torch.inf), step.where_real(log_f, padding=0.0)
        return self._heads(key) * self.config.head_dim**-0.5, self._heads(value), log_i, log_f

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H K) -> (B, T, H, K) float32."""
        return x.float().unflatten(-1, (-1, self.config.head_dim))


def _cap(z: Tensor) -> Tensor:
    return CAP * torch.tanh(z / CAP)
