"""Gated delta: a matrix a head that each token corrects along its key, and that a gate lets fade.

    q = l2norm(silu(n W_q)) / sqrt(K)    k = l2norm(silu(conv(n W_k)))    v = silu(conv(n W_v))    n = RMSNorm(x)
    beta = sigmoid(n W_b)                log alpha = -exp(a_log) softplus(n W_a + dt_bias)         one of each a head
    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T       o_t = S_t q_t            (`kernels.delta`)
    y = RMSNorm(RMSNorm_head(o) * silu(n W_g1 W_g2)) W_o

conv is causal, depthwise, inside one document, and l2norm(z) = z / sqrt(|z|^2 + 1e-6). At padding beta and log alpha
are 0, which leaves S as it was. Queries have no convolution: who reads knows its own token alone, and may read again.

Shapes   x, y (B, T, D); q, k, v, o (B, T, H, K), usually D = H K; S (B, H, K, K), float32 whatever x is.
State    S and the last kernel - 1 rows of n W_k and n W_v: 4 (H K^2 + 6 D) bytes a row, at any context length. For a
         commit what stood before the call and the call's k, v, log alpha and beta, which the same loop reads again.
Cost     8 D^2 + 4 D rank operations a token for the maps, and 7 D K for the memory, in chunks of C tokens 8 D (C + K).
Weights  W_q and W_g1 are rows of one matrix `query`, which reading needs, W_k and W_v of `kv`, W_b and W_a of `gates`,
         which is applied in float32, as it steers exponentials. 4 D^2 + (10 + 2 H + 2 rank) D + 2 H + K parameters.
Init     N(0, 0.02^2); W_o N(0, (0.02 / sqrt(residual branches))^2), the gain before it 0.1. The convolution is nearly
         the identity, but every second channel of a key holds the token before: who asks finds what followed, from the
         start. Time constants are spread over the heads: exp(a_log) evenly from 1 to 16, softplus(dt_bias) evenly in
         log from 1e-3 to 1e-1.
Source   Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", arXiv 2412.06464. Here queries are not convolved, the
         output gate is of low rank, and a norm stands before the output matrix.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.delta import Chunks, Memories, read, replay, write
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.causal_conv import CausalConv
from positronic.nn.causal_window import WindowState
from positronic.nn.linear import Router, linear, residual_std
from positronic.nn.norm import QUIET, NormConfig, RMSNorm, RMSNormConfig, unit
from positronic.nn.parts import PartsState
from positronic.probe import Tap
from positronic.state import Step
from positronic.tree import Replayed

__all__ = ["DeltaState", "GatedDelta", "GatedDeltaConfig", "Strengths", "unit_keys"]

FASTEST = 16.0
"""exp(a_log) of the last head at the start; the first has 1."""
SHORTEST, LONGEST = 1e-3, 1e-1
"""Steps of time, softplus(dt_bias), of the first and of the last head at the start."""

Context = Memories | Chunks
Strengths = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys (B, T, H, K) and logits (B, T, H) -> keys as they are written, and how strongly, (B, T, H)."""


@dataclass(frozen=True, kw_only=True)
class GatedDeltaConfig(MixerConfig, kind="gated_delta"):
    n_heads: Annotated[int, AtMost(1024)] = 6
    """Heads, a memory each; together they are usually as wide as the model."""
    head_dim: Annotated[int, AtMost(4096)] = 64
    """Width of a head's queries, keys and values."""
    gate_rank: Annotated[int, AtMost(65_536)] = 64
    """Rank of the output gate's map; a multiple of 64 can be packed."""
    conv: Annotated[int, AtMost(256)] = 4
    """Tokens that a key and a value are made of, their own included."""
    norm: NormConfig = RMSNormConfig()
    """Of what the layer reads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads < 1 or self.head_dim < 1 or self.gate_rank < 1:
            raise ConfigError(
                f"{self.kind} has n_heads {self.n_heads}, head_dim {self.head_dim} and gate_rank {self.gate_rank}; "
                f"use 1 or more of each (heads of 64 and a rank of 64 are usual)."
            )
        if self.conv < 2:
            raise ConfigError(f"{self.kind}.conv is {self.conv}, which sees no other token; use 2 or more (4).")

    def build(self, d_model: int, n_branches: int = 1) -> "GatedDelta":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return GatedDelta(self, d_model, n_branches)


@dataclass(frozen=True)
class DeltaState(Replayed):
    """What the heads remember."""

    memory: Tensor
    """(B, H, K, K) S, float32."""
    rollback: "tuple[DeltaState, tuple[Tensor, ...]] | None" = None
    """Before the last call; and that call's k, v (B, T, H, K), log alpha, beta (B, T, H) and fresh (B, T)."""

    def after(self, *rows: Tensor) -> "DeltaState":
        k, v, log_decay, beta, fresh = rows
        return DeltaState(replay(k, v, log_decay, beta, self.memory, fresh))


def unit_keys(k: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of length 1, written with a strength below 1."""
    return unit(k), F.logsigmoid(logits).exp()  # sigmoid's own bits would depend on a token's place in the call


class GatedDelta(nn.Module):
    """strengths: what makes of keys and logits that which is written."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "decay": Tap("logarithm of the share that the memory keeps, (B, T, H)"),
        "strength": Tap("how strongly tokens are written, (B, T, H)"),
        "heads": Tap("what each head has read, (B, T, H, K)"),
    }

    def __init__(self, config: GatedDeltaConfig, d_model: int, n_branches: int = 1, strengths: Strengths = unit_keys):
        super().__init__()
        self.config, c = config, config
        width = c.n_heads * c.head_dim
        self.widths, self.strengths = [width, c.gate_rank], strengths
        self.norm = c.norm.build(d_model)
        self.query = linear(d_model, sum(self.widths), ternary=True)
        self.kv = linear(d_model, 2 * width, ternary=True)
        self.conv = CausalConv(2 * width, c.conv, shifted=width)
        self.gates = Router(d_model, 2 * c.n_heads)
        self.a_log, self.dt_bias = (nn.Parameter(torch.empty(c.n_heads)) for _ in range(2))
        self.gate = linear(c.gate_rank, width, ternary=True)
        self.head_norm = RMSNorm(c.head_dim)
        self.out_norm = RMSNorm(width, start=QUIET)
        self.out = linear(width, d_model, residual_std(n_branches), ternary=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        heads = self.config.n_heads
        init.copy_(self.a_log, torch.linspace(1.0, FASTEST, heads).log())
        dt = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), heads)
        init.copy_(self.dt_bias, dt + torch.log(-torch.expm1(-dt)))

    def init_state(self, batch: int, capacity: int = 0) -> PartsState:
        return PartsState((self._empty(batch), self.conv.init_state(batch)))

    def prepare(self, step: Step) -> dict[str, Any]:
        """How far back keys and values look, and which tokens begin a document."""
        return self.conv.prepare(step) | step.prepare_fresh()

    def forward(self, x: Tensor, step: Step, state: PartsState | None = None) -> MixerOutput:
        context, after = self.write(x, step, state)
        return MixerOutput(self.read(x, context, step), after)

    def write(
        self, x: Tensor, step: Step, state: PartsState | None = None
    ) -> tuple[Memories | Chunks, PartsState | None]:
        """What x (B, T, D) leaves to read, and the state after it (None when it had none)."""
        before, window = (self._empty(len(x)), None) if state is None else state.parts
        assert isinstance(before, DeltaState)
        assert window is None or isinstance(window, WindowState)
        rows, window = self.rows(x, step, window)
        k, v, log_decay, beta, fresh = rows
        context, memory = write(k, v, log_decay, beta, before.memory, fresh, step.keep_rollback)
        if state is None:
            return context, None
        kept = (DeltaState(before.memory), rows) if step.keep_rollback else None
        return context, PartsState((DeltaState(memory, kept), window))

    def read(self, x: Tensor, context: Context, step: Step) -> Tensor:
        """y (B, T, D): queries of x, of the same tokens, against what was written."""
        q, gate = self.query(self.norm(x)).split(self.widths, -1)
        q = unit(self._heads(F.silu(q.float()))) / self.config.head_dim**0.5
        o = step.tap(self, "heads", read(q, context))
        said = self.head_norm(o).flatten(2) * F.silu(self.gate(gate))
        return self.out(self.out_norm(said.to(x.dtype)))

    def rows(
        self, x: Tensor, step: Step, window: WindowState | None = None
    ) -> tuple[tuple[Tensor, ...], WindowState | None]:
        """What of x (B, T, D) enters the memory: k, v (B, T, H, K), log alpha, beta (B, T, H), fresh (B, T)."""
        n = self.norm(x)
        both, window = self.conv(self.kv(n), step, window)
        k, v = (self._heads(half) for half in F.silu(both.float()).chunk(2, -1))
        logits, decay = self.gates(n).chunk(2, -1)
        k, beta = self.strengths(k, logits)
        log_decay = self.a_log.float().exp() * F.logsigmoid(-decay - self.dt_bias.float())
        beta = step.where_real(step.tap(self, "strength", beta), padding=0.0)
        log_decay = step.where_real(step.tap(self, "decay", log_decay), padding=0.0)
        return (k, v, log_decay, beta, step.fresh), window

    def _empty(self, batch: int) -> DeltaState:
        c = self.config
        return DeltaState(self.a_log.new_zeros(batch, c.n_heads, c.head_dim, c.head_dim, dtype=torch.float32))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, K)."""
        return x.unflatten(-1, (-1, self.config.head_dim))
