"""Metric attention: queries find keys by distance, and values pass a gate of bounded energy on the way into the cache.

    q, k, v   = n W_q, n W_k, e (*) n W_v              n is normed by the mixture this is a head of; e its energy
    q', k'    = rotate(score(q)), rotate(score(k))     BlackHoleRoPE; scores as in `metric_scores`
    o         = softmax(z(q', k') + penalty) v         causal, inside one document, beside a sink where keys are pruned
    y         = projector(o) W_o

`metric_mha` has a key for each head of queries and a projector; `metric_mqa` one key and one value for all heads, which
therefore share its metric, origin and radius, while sharpness and sink are each head's own.

Shapes   n, y (B, T, D); q (B, H, T, K), k (B, G, T, K), v (B, G, T, V) with K = V - 8; head h reads group h // (H / G).
State    keys with their bias and penalty, and gated values: 2 G V numbers a token, final when written. The token
         before and where its document began (BlackHoleRoPE).
Cost     2 D (H K + G K + G V + H V) operations a token for the maps, 2 H (V + V) for each token it sees.
Losses   metric.triangle: see `kernels.metric.triangle`; of whole rows alone.
Weights  W_q, W_k and W_v are rows of one matrix `qkv`: one product reads n. Tied, W_k is W_q.
Init     N(0, 0.02^2); W_o N(0, (0.02 / sqrt(residual branches))^2); sinks -8.
Source   Kim et al. 2021, arXiv 2006.04710 (tied maps make it Lipschitz); Shazeer 2019, arXiv 1911.02150 (one key).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.metric import (
    SPARE,
    Metric,
    as_keys,
    causal_metric_attention,
    masked_metric_attention,
    sink_row,
    triangles,
)
from positronic.lm import NONE, MixerOutput
from positronic.mixers.metric_scores import MahaDiagConfig, ScoreConfig
from positronic.mixers.radius import BallConfig, PairConfig, PruneConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.nn import init
from positronic.nn.black_hole_rope import BlackHoleRoPEConfig
from positronic.nn.causal_window import WindowState, prepare_look_back
from positronic.nn.documents import documents_of
from positronic.nn.kv import KVState, prepare_seen
from positronic.nn.linear import linear, residual_std
from positronic.nn.rope import rotate
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["MetricAttention", "MetricAttentionConfig", "MetricMHAConfig", "MetricMQAConfig", "MetricState"]

FIRST_SINK, LARGEST_SINK = -8.0, 30.0


@dataclass(frozen=True, kw_only=True)
class MetricAttentionConfig(MixerConfig):
    n_heads: Annotated[int, AtMost(1024)] = 12
    """Heads of queries."""
    n_kv_heads: Annotated[int, AtMost(1024)] = 12
    """Heads of keys and values; each serves n_heads / n_kv_heads heads of queries."""
    head_dim: Annotated[int, AtMost(4096)] = 64
    """Width of a value; a query or key is 8 narrower, and its bias fills the rest."""
    score: ScoreConfig = MahaDiagConfig()
    """What brings queries and keys together."""
    rope: BlackHoleRoPEConfig = BlackHoleRoPEConfig()
    """Rotation of queries and keys, energy of values."""
    prune: PruneConfig | None = BallConfig()
    """Which keys lose their weight. None: none, and there is no sink."""
    projector: ValueProjectorConfig | None = None
    """What widens what has been read. None: nothing."""
    tied: bool = False
    """One map for queries and keys: bounded slope, no violated triangles."""
    triangles: Annotated[int, AtMost(4096)] = 64
    """Random triples a row and head in the triangle loss; 0 for no such loss."""
    fused: bool | None = None
    """True: only the library's fused kernels will do. False: none of them. None: where the scores allow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_kv_heads < 1 or self.n_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"{self.kind}.n_heads is {self.n_heads} with n_kv_heads {self.n_kv_heads}; use a positive multiple."
            )
        if self.metric_dim < 2 or self.metric_dim % 2:
            raise ConfigError(
                f"{self.kind}.head_dim is {self.head_dim}, which leaves {self.metric_dim} dimensions for distances; "
                f"use an even number of {SPARE + 2} or more (64 is usual)."
            )
        if self.tied and self.n_kv_heads != self.n_heads:
            raise ConfigError(
                f"{self.kind} ties {self.n_heads} heads of queries to {self.n_kv_heads} of keys; use as many of both."
            )
        if not self.score.metric and isinstance(self.prune, PairConfig):
            raise ConfigError(f"{self.kind}: {self.score.kind} has no distance to prune by; use ball, or no prune.")
        if self.triangles < 0 or (self.triangles and not self.score.metric):
            raise ConfigError(
                f"{self.kind}.triangles is {self.triangles} with score {self.score.kind}; use 0 or more, and 0 where "
                f"the score is no distance."
            )
        if self.fused and isinstance(self.prune, PairConfig):
            raise ConfigError(
                f"{self.kind}: fused kernels do not show the scores that pruning by pairs needs; "
                f"leave fused unset, or prune by a ball."
            )

    @property
    def metric_dim(self) -> int:
        """Width of a query or key."""
        return self.head_dim - SPARE

    def build(self, d_model: int, n_branches: int = 1) -> "MetricAttention":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return MetricAttention(self, d_model, n_branches)


@dataclass(frozen=True, kw_only=True)
class MetricMHAConfig(MetricAttentionConfig, kind="metric_mha"):
    projector: ValueProjectorConfig | None = ValueProjectorConfig()
    """What widens what has been read. None: nothing."""


@dataclass(frozen=True, kw_only=True)
class MetricMQAConfig(MetricAttentionConfig, kind="metric_mqa"):
    n_kv_heads: Annotated[int, AtMost(1024)] = 1
    """Heads of keys and values; each serves n_heads / n_kv_heads heads of queries."""


@dataclass(frozen=True)
class MetricState(State):
    """Keys and values so far, and the token before, from which the energy of the next value starts."""

    kv: KVState
    previous: WindowState


class MetricAttention(nn.Module):
    """A head of a mixture: x has been normed."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "energy": Tap("factors of values, (B, T, G)", torch.ones_like, "black_hole_rope"),
        "penalty": Tap("what is taken off the scores of keys, (B, G, T)", torch.zeros_like, "ball"),
        "keys": Tap("keys before they turn, (B, G, T, K)"),
        "heads": Tap("what each head has read, (B, H, T, V)"),
        "excess": Tap("by how much triples break the triangle rule"),
        "current": Tap("what it says as a head of a mixture", torch.zeros_like),
    }

    def __init__(self, config: MetricAttentionConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config, c = config, config
        self.d_model = d_model
        self.widths = [c.n_heads * c.metric_dim, c.n_kv_heads * c.metric_dim, c.n_kv_heads * c.head_dim]
        if c.tied:
            self.widths[1] = 0
        self.qkv = linear(d_model, sum(self.widths))
        self.score = c.score.build(c.n_heads, c.n_kv_heads, c.metric_dim)
        self.rope = c.rope.build(c.n_kv_heads, c.metric_dim // 2)
        self.ball = c.prune.build(c.n_kv_heads, c.metric_dim) if isinstance(c.prune, BallConfig) else None
        self.radius = c.prune.radius if isinstance(c.prune, PairConfig) else None
        self.sink = None if c.prune is None else nn.Parameter(torch.empty(c.n_heads))
        self.projector = None if c.projector is None else c.projector.build(c.n_heads * c.head_dim)
        self.out = linear(c.n_heads * c.head_dim, d_model, residual_std(n_branches))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.sink is not None:
            init.constant_(self.sink, FIRST_SINK)

    def init_state(self, batch: int, capacity: int = 0) -> MetricState:
        c = self.config
        front = None if self.sink is None else sink_row(self.rope.level.new_empty(1, 1, 1, c.head_dim))[0, 0]
        kv = KVState.new(self.rope.level, batch, c.n_kv_heads, c.head_dim, capacity, front)
        return MetricState(kv, self.rope.init_state(batch, self.d_model))

    def prepare(self, step: Step) -> dict[str, Any]:
        """Who sees whom in a call that goes on from a state, how far back tokens may look, and the rope's waves."""
        seen = prepare_seen(step, 0 if self.sink is None else 1)
        return seen | prepare_look_back(step, 1) | self.rope.prepare(step)

    def forward(self, x: Tensor, step: Step, state: MetricState | None = None) -> MixerOutput:
        c, metric, root = self.config, self._metric(), self.score.root()
        q, k, v = self._heads(x)
        energy, previous = self.rope.energy(x, step, None if state is None else state.previous)
        v = (v.float() * step.tap(self, "energy", energy).mT[..., None]).to(v.dtype)  # (B, G, T, V)
        penalty = None if self.ball is None else step.tap(self, "penalty", self.ball(k, self.score, root))
        q, k = self.score(q, root), step.tap(self, "keys", self.score(k, root))
        aux = NONE if state is not None or not c.triangles else self._triangles(q, k, step)
        turn = self.rope.turn(step)
        q, k = rotate(q, *self._of_queries(turn)), rotate(k, *turn)
        if state is None or previous is None:
            o, after = causal_metric_attention(q, k, penalty, v, metric, documents_of(step), c.fused), None
        else:
            keys = as_keys(k, penalty, metric, v.dtype)
            keys, values, allowed, kv = state.kv.extend(keys, v, step)
            o = masked_metric_attention(q, keys, values, metric, allowed, c.fused)
            after = MetricState(kv, previous)
        o = step.tap(self, "heads", o).transpose(1, 2).flatten(2)
        if self.projector is not None:
            o = self.projector(o, step)
        return MixerOutput(self.out(o), after, aux)

    def _heads(self, x: Tensor) -> list[Tensor]:
        """q (B, H, T, K), k (B, G, T, K), v (B, G, T, V)."""
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        parts = zip(
            (q, q if self.config.tied else k, v), (self.config.n_heads, *[self.config.n_kv_heads] * 2), strict=True
        )
        return [part.unflatten(-1, (n, -1)).transpose(1, 2) for part, n in parts]

    def _of_queries(self, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """cos and sin (B, G, T, K) of keys' heads for all heads of queries; one broadcasts over all."""
        group = self.config.n_heads // self.config.n_kv_heads
        return turn if 1 in (group, self.config.n_kv_heads) else tuple(x.repeat_interleave(group, 1) for x in turn)

    def _metric(self) -> Metric:
        sink = None if self.sink is None else self.sink.float().clamp(-LARGEST_SINK, LARGEST_SINK)
        score = self.config.score
        return Metric(self.score.alpha, score.slope(self.config.metric_dim), score.distance, self.radius, sink)

    def _triangles(self, q: Tensor, k: Tensor, step: Step) -> dict[str, Tensor]:
        found = triangles(q, k, step.tokens, step.valid, self.config.triangles, self.config.score.unit)
        step.tap(self, "excess", found.excess)
        return {"metric.triangle": found.loss}
