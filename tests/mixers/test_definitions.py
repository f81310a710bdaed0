"""Every mixer against its equations, written out in NumPy token by token: no line is shared with what is tested.

Parameters are drawn anew, large enough that no activation is in its linear part and no gate is closed. `e` is a
parameter by its name, in float64; x (T, D) is one row.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from positronic.config import Config
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.channel_mix import ChannelMixConfig
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.gated_delta import GatedDeltaConfig
from positronic.mixers.hyper_ffn import HyperFFNConfig
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.local_conv import LocalConvConfig
from positronic.mixers.metric_attention import MetricMHAConfig, MetricMQAConfig
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config
from positronic.mixers.mixture import MixtureConfig
from positronic.mixers.mlp import MLPConfig
from positronic.mixers.mlstm import MLSTMConfig
from positronic.mixers.moe import MoEConfig
from positronic.mixers.radius import BallConfig, PairConfig
from positronic.mixers.span_knot import SpanKnotConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.nn.black_hole_rope import BlackHoleRoPEConfig
from positronic.nn.init import initialize
from positronic.nn.norm import LayerNormConfig, RMSNormConfig
from positronic.nn.rope import StretchConfig
from positronic.state import Step
from positronic.traits.hrm import HRMConfig

D, T = 24, 9
Array = np.ndarray
Parameters = dict[str, Array]

erf = np.vectorize(math.erf)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def silu(z: Array) -> Array:
    return z * sigmoid(z)


def gelu(z: Array) -> Array:
    return z * (1 + erf(z / math.sqrt(2))) / 2


def softmax(z: Array) -> Array:
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def normed(x: Array, weight: Array) -> Array:
    return np.stack([row / math.sqrt((row**2).mean() + 1e-6) * weight for row in x])


def layer_normed(x: Array, e: Parameters, epsilon: float) -> Array:
    return np.stack(
        [(row - row.mean()) / math.sqrt(row.var() + epsilon) * e["norm.weight"] + e["norm.bias"] for row in x]
    )


def behind(e: Parameters, name: str) -> Array:
    """The vector behind a matrix, 0 where there is none."""
    return e.get(f"{name}.bias", np.zeros(1))


def read(c: Any, e: Parameters, x: Array) -> Array:
    """What a mixer with a norm of several kinds reads."""
    if isinstance(c.norm, LayerNormConfig):
        return layer_normed(x, e, c.norm.epsilon)
    return np.stack([row / math.sqrt((row**2).mean() + c.norm.epsilon) * e["norm.weight"] for row in x])


def bounded(y: Array, bound: float) -> Array:
    return bound * erf(math.sqrt(math.pi) * y / (2 * bound))


def within(e: Parameters, name: str) -> Parameters:
    """The parameters of a part, under their own names."""
    return {path.removeprefix(f"{name}."): value for path, value in e.items() if path.startswith(f"{name}.")}


def convolved(u: Array, now: Array, past: Array) -> Array:
    z = np.zeros_like(u)
    for t in range(len(u)):
        z[t] = now * u[t]
        for j in range(1, len(past) + 1):
            if t >= j:
                z[t] += past[j - 1] * u[t - j]
    return z


def local_conv(c: LocalConvConfig, e: Parameters, n: Array) -> Array:
    return silu(convolved(n @ e["into.weight"].T, e["conv.now"], e["conv.past"])) @ e["out.weight"].T


def channel_mix(c: ChannelMixConfig, e: Parameters, n: Array) -> Array:
    return gelu(n @ e["up.weight"].T) @ e["down.weight"].T


def swiglu(c: SwiGLUConfig, e: Parameters, x: Array) -> Array:
    n = read(c, e, x)
    gate, up = (n @ e[f"{name}.weight"].T + behind(e, name) for name in ("gate", "up"))
    hidden = silu(gate) * up
    hidden = normed(hidden, e["inner_norm.weight"]) if c.inner_norm else hidden
    return hidden @ e["down.weight"].T + behind(e, "down")


def mlp(c: MLPConfig, e: Parameters, x: Array) -> Array:
    z = read(c, e, x) @ e["up.weight"].T + behind(e, "up")
    hidden = z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return hidden @ e["down.weight"].T + behind(e, "down")


def hyper_ffn(c: HyperFFNConfig, e: Parameters, x: Array) -> Array:
    n = normed(x, e["norm.weight"])
    branches = [
        (silu(n @ e["gate.weight"].T) * (n @ e["up.weight"].T)) @ e["down.weight"].T,
        silu(convolved(n, e["conv.now"], e["conv.past"])) @ e["mix.weight"].T,
        n @ e["narrow.weight"].T @ e["widen.weight"].T,
    ]
    shares = [softmax(row @ e["router.weight"].T) for row in n]
    return np.stack([sum(shares[t][m] * branches[m][t] for m in range(3)) for t in range(len(x))])


def mixture(c: MixtureConfig, e: Parameters, x: Array) -> Array:
    n, y = normed(x, e["norm.weight"]), np.zeros_like(x)
    for t in range(len(x)):
        logits = silu(n[t] @ e["router.weight"].T) @ e["choose.weight"].T / c.temperature + e["bias"]
        shares = softmax(logits)
        if c.top is not None:
            heard = sorted(range(len(shares)), key=lambda m: (-shares[m], m))[: c.top]
            shares = np.array([s if m in heard else 0.0 for m, s in enumerate(shares)])
            shares = shares / shares.sum()
        for m, head in enumerate(c.heads):
            gate = np.repeat(2 * sigmoid(e["gates"][m]), D // c.groups)
            y[t] += c.gain * shares[m] * gate * DEFINITIONS[head.kind](head, within(e, f"heads.{m}"), n)[t]
    return y


def value_projector(e: Parameters, o: Array) -> Array:
    said = (silu(o @ e["opening.weight"].T) * (o @ e["up.weight"].T)) @ e["down.weight"].T
    return o + np.tanh(e["gate.g"]) * said


def turned(pairs: Array, angles: Array) -> Array:
    """Lanes i and i + K / 2 turned by angle i."""
    a, b = np.split(pairs, 2)
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])


def wave(x: float, frequencies: Array, coefficients: Array) -> float:
    cosines, sines = np.split(coefficients, 2)
    angle = 2 * math.pi * x * frequencies
    return float((cosines * np.cos(angle) + sines * np.sin(angle)).sum())


def metric_attention(c: MetricMHAConfig, e: Parameters, n: Array) -> Array:
    width, group = c.head_dim - 8, c.n_heads // c.n_kv_heads
    sizes = [c.n_heads * width, c.n_kv_heads * width, c.n_kv_heads * c.head_dim]
    w_q, w_k, w_v = np.split(e["qkv.weight"], np.cumsum(sizes)[:2])
    q, k, v = (
        (n @ w.T).reshape(T, heads, -1) for w, heads in ((w_q, c.n_heads), (w_k, c.n_kv_heads), (w_v, c.n_kv_heads))
    )
    r = c.rope
    for g in range(c.n_kv_heads):
        for t in range(T):
            before = n[t - 1] if t else np.zeros(D)
            lengths = np.linalg.norm(n[t]) + np.linalg.norm(before)
            apart = np.linalg.norm(n[t] - before) / (lengths + 1e-6) if t else 0.0
            periods = 8.0 * 2.0 ** np.arange(r.periods)
            s = e["rope.level"][g] + wave(t, 1 / periods, e["rope.waves"][g]) + e["rope.surprise"] * apart
            rest = math.log((1 - r.least_energy) / (r.most_energy - 1))
            v[t, g] *= 1 + (r.most_energy - r.least_energy) * (sigmoid(rest + s) - sigmoid(rest))
    score, alpha = c.score.kind, np.exp(e["score.log_alpha"]).clip(1e-3, 100 if c.score.kind == "cosine" else 50)
    pairs = width // 2
    frequency = np.zeros((c.n_kv_heads, pairs))
    for g in range(c.n_kv_heads):
        for i in range(pairs):
            bend = 0.5 * math.tanh(wave((i + 0.5) / pairs, np.arange(1, r.harmonics + 1), e["rope.bend"][g]))
            frequency[g, i] = r.base ** (-i / pairs) * math.exp(bend)

    def scaled(vector: Array, g: int) -> Array:
        if score == "cosine":
            return vector / max(np.linalg.norm(vector), 1e-6)
        return vector * np.exp(0.5 * np.tile(e["score.log_m"][g], 2)) if score == "maha_diag" else vector

    o = np.zeros((T, c.n_heads, c.head_dim))
    for h in range(c.n_heads):
        g = h // group
        for t in range(T):
            logits, values = [], []
            for s in range(t + 1):
                a, b = turned(scaled(q[t, h], g), t * frequency[g]), turned(scaled(k[s, g], g), s * frequency[g])
                if isinstance(c.prune, PairConfig) and np.linalg.norm(a - b) > c.prune.radius:
                    continue
                z = {"cosine": a @ b, "dot": a @ b / math.sqrt(width)}.get(
                    score, (2 * a @ b - b @ b) / math.sqrt(width)
                )
                penalty = 0.0
                if isinstance(c.prune, BallConfig):
                    origin = e["ball.origin"][g]
                    gap = scaled(k[s, g], g) - (origin if score == "cosine" else scaled(origin, g))
                    penalty = -min(c.prune.beta * max(gap @ gap - e["ball.radius"][g] ** 2, 0), 3e4)
                    penalty = -3e4 if c.prune.hard and penalty < -20 else penalty
                logits.append(alpha[h] * z + penalty)
                values.append(v[s, g])
            if c.prune is not None:
                logits.append(min(max(e["sink"][h], -30.0), 30.0))
                values.append(np.zeros(c.head_dim))
            o[t, h] = softmax(np.array(logits)) @ np.array(values)
    o = o.reshape(T, -1)
    if c.projector is not None:
        o = value_projector(within(e, "projector"), o)
    return o @ e["out.weight"].T


def stretched(frequency: float, c: StretchConfig) -> float:
    """By wavelengths, as it was published."""
    wavelength = 2 * math.pi / frequency
    if wavelength < c.trained / c.fast_turns:
        return frequency
    if wavelength > c.trained / c.slow_turns:
        return frequency / c.factor
    smooth = (c.trained / wavelength - c.slow_turns) / (c.fast_turns - c.slow_turns)
    return (1 - smooth) * frequency / c.factor + smooth * frequency


def attention(c: AttentionConfig, e: Parameters, x: Array) -> Array:
    n, d_query, d_group = read(c, e, x), c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    w_q, w_k, w_v = np.split(e["qkv.weight"], np.cumsum([c.rank or d_query, d_group]))
    b_q, b_k, b_v = np.split(behind(e, "qkv") + np.zeros(len(e["qkv.weight"])), np.cumsum([c.rank or d_query, d_group]))
    q = n @ w_q.T + b_q
    if c.rank is not None:
        q = normed(q, e["query.0.weight"]) @ e["query.1.weight"].T
    q, k, v = (z.reshape(T, -1, c.head_dim) for z in (q, n @ w_k.T + b_k, n @ w_v.T + b_v))
    still = c.head_dim - c.rope_dims
    frequency = c.rope_base ** (-np.arange(0, c.rope_dims, 2) / max(c.rope_dims, 1))
    if c.rope_stretch is not None:
        frequency = np.array([stretched(f, c.rope_stretch) for f in frequency])

    def placed(vector: Array, name: str, t: int) -> Array:
        vector = normed(vector[None], e[f"{name}.weight"])[0] if c.qk_norm else vector
        return np.concatenate([vector[:still], turned(vector[still:], t * frequency)])

    o = np.zeros((T, c.n_heads, c.head_dim))
    for h in range(c.n_heads):
        g = h // (c.n_heads // c.n_kv_heads)
        for t in range(T):
            keys = [placed(k[s, g], "key_norm", s) for s in range(t + 1)]
            z = np.array([placed(q[t, h], "query_norm", t) @ key for key in keys]) / math.sqrt(c.head_dim)
            z = z if c.score_cap is None else bounded(z, c.score_cap)
            o[t, h] = softmax(z) @ v[: t + 1, g]
            if c.exclusive:
                own = v[t, g]
                o[t, h] -= (o[t, h] @ own) * own / max(own @ own, 1e-6)
    y = o.reshape(T, -1)
    if c.rank is None:
        return y @ e["out.weight"].T + behind(e, "out")
    return y @ e["out.0.weight"].T @ e["out.1.weight"].T + behind(e, "out.1")


def moe(c: MoEConfig, e: Parameters, x: Array) -> Array:
    n, y = normed(x, e["norm.weight"]), np.zeros_like(x)
    for t in range(len(x)):
        hidden = (silu(n[t] @ e["gate.weight"].T) * (n[t] @ e["up.weight"].T)).reshape(-1, c.hidden)
        said = [hidden[i] @ e["down.weight"][:, i * c.hidden : (i + 1) * c.hidden].T for i in range(len(hidden))]
        p = softmax(n[t] @ e["router.weight"].T)
        chosen = sorted(range(c.experts), key=lambda i: (-p[i], i))[: c.top]
        y[t] = sum(said[: c.shared]) + sum(p[i] / p[chosen].sum() * said[c.shared + i] for i in chosen)
    return y


def experts(c: ExpertsConfig, e: Parameters, x: Array) -> Array:
    n, y = normed(x, e["norm.weight"]), np.zeros_like(x)
    for t in range(len(x)):
        hidden = [silu(g @ n[t]) * (u @ n[t]) for g, u in zip(e["gate.weight"], e["up.weight"], strict=True)]
        said = [d @ normed(h[None], e["inner_norm.weight"])[0] for d, h in zip(e["down.weight"], hidden, strict=True)]
        s = sigmoid(e["router.weight"] @ n[t])
        chosen = sorted(range(c.experts), key=lambda i: (-(s + e["balance.bias"])[i], i))[: c.top]
        y[t] = said[0] + sum(s[i] / s[chosen].sum() * said[1 + i] for i in chosen)
    return y


def mlstm(c: MLSTMConfig, e: Parameters, x: Array) -> Array:
    """Without a stabiliser, which float64 does not need."""
    n, width = normed(x, e["norm.weight"]), c.head_dim
    k, v = ((n @ w.T).reshape(T, c.n_heads, width) for w in np.split(e["key_value.weight"], 2))
    query, gate = np.split(e["query.weight"], [c.n_heads * width])
    q, opened = (n @ query.T).reshape(T, c.n_heads, width), sigmoid(n @ gate.T @ e["open.weight"].T)
    w_i, w_f = np.split(e["gates.weight"], 2)
    i = np.exp(15 * np.tanh((n @ w_i.T + e["input_bias"]) / 15))
    f = sigmoid(15 * np.tanh((n @ w_f.T + e["forget_bias"]) / 15))
    y = np.zeros_like(x)
    for t in range(T):
        h = np.zeros((c.n_heads, width))
        for head in range(c.n_heads):
            memory, total = np.zeros((width, width)), np.zeros(width)
            for s in range(t + 1):
                memory = f[s, head] * memory + i[s, head] * np.outer(v[s, head], k[s, head]) / math.sqrt(width)
                total = f[s, head] * total + i[s, head] * k[s, head] / math.sqrt(width)
            h[head] = memory @ q[t, head] / max(abs(total @ q[t, head]), 1)
        said = normed(h, e["head_norm.weight"]).reshape(-1) * opened[t]
        y[t] = normed(said[None], e["out_norm.weight"])[0] @ e["out.weight"].T
    return y


def hrm(c: HRMConfig, e: Parameters, x: Array) -> Array:
    y = np.zeros_like(x)
    for t in range(len(x)):
        z = e["start"]
        for _ in range(c.steps):
            known = normed(z[None], e["latent_norm.weight"]) @ e["recall.weight"].T
            g, a, b = np.split(
                (known + normed(x[t : t + 1], e["norm.weight"]) @ e["inject.weight"].T)[0], [D, D + c.hidden]
            )
            z = z + sigmoid(g + 2) * ((silu(a) * b) @ e["down.weight"].T)
        y[t] = np.tanh(e["gate.g"]) * (z - e["start"])
    return y


def kuramoto(c: KuramotoConfig, e: Parameters, x: Array) -> Array:
    n, y = normed(x, e["norm.weight"]), np.zeros_like(x)
    ring = np.repeat(np.arange(len(c.rings)), c.rings)
    for t in range(len(x)):
        theta, omega = np.split(n[t] @ e["bank.weight"].T, 2)
        omega = np.tanh(omega)
        for k in range(c.steps):
            centre = e["centre_phase"] + e["centre_speed"] * k * c.dt
            speed = np.zeros_like(theta)
            for i in range(len(theta)):
                r = ring[i]
                pull = sum(
                    e["coupling"][r, ring[j]] / c.rings[ring[j]] * math.sin(theta[j] - theta[i] - e["lag"][r])
                    for j in range(len(theta))
                )
                speed[i] = omega[i] + pull + e["centre"][r] * math.sin(centre - theta[i])
            theta = theta + c.dt * speed
        features = np.concatenate([np.cos(theta), np.sin(theta)])
        y[t] = bounded(np.tanh(e["gate.g"]) * (gelu(features @ e["up.weight"].T) @ e["down.weight"].T), 10.0)
    return y


def colony(c: ColonyConfig, e: Parameters, x: Array) -> Array:
    n, y = normed(x, e["norm.weight"]), np.zeros_like(x)
    width = 0.1 + np.log1p(np.exp(e["width"]))
    keep, speed = sigmoid(e["persistence"]), np.log1p(np.exp(e["speed"]))

    def inside(p: Array) -> Array:
        r = np.linalg.norm(p)
        return p if r <= 0.75 else p / r * (0.75 + 0.25 * math.tanh((r - 0.75) / 0.25))

    def sensed(p: Array, i: int) -> tuple[float, Array]:
        near = np.exp(-((e["centres"] - p[:, None]) ** 2).sum(-1) / (2 * width**2))  # (N, F)
        pairs = (near * near[i]).sum(0) / len(p)  # (F,)
        return pairs.sum(), (pairs[:, None] * (e["centres"] - p[i]) / width[:, None] ** 2).sum(0)

    for t in range(len(x)):
        p, g = (half.reshape(-1, 3) for half in np.split(n[t] @ e["tips.weight"].T, 2))
        p = np.stack([inside(tip) for tip in p])
        for _ in range(c.steps):
            g = keep * g + e["tropism"] * np.stack([sensed(p, i)[1] for i in range(c.tips)])
            velocity = speed * g / np.sqrt((g**2).sum(-1, keepdims=True) + 1e-4)
            p = np.stack([inside(tip) for tip in p + c.dt * velocity])
        density = [[sensed(p, i)[0]] for i in range(c.tips)]
        z = np.concatenate([p, velocity, np.array(density)], 1).reshape(-1)
        y[t] = bounded(np.tanh(e["gate.g"]) * (z @ e["readout.weight"].T), 10.0)
    return y


def gated_delta(c: GatedDeltaConfig, e: Parameters, x: Array) -> Array:
    n, y, memory = read(c, e, x), np.zeros_like(x), np.zeros((c.n_heads, c.head_dim, c.head_dim))
    w_q, w_gate = np.split(e["query.weight"], [D])
    w_strength, w_decay = np.split(e["gates.weight"], 2)
    both = silu(convolved(n @ e["kv.weight"].T, e["conv.now"], e["conv.past"]))
    q, k, v = (z.reshape(T, c.n_heads, -1) for z in (silu(n @ w_q.T), both[:, :D], both[:, D:]))
    gate = silu(n @ w_gate.T @ e["gate.weight"].T)

    def unit(z: Array) -> Array:
        return z / math.sqrt(z @ z + 1e-6)

    for t in range(T):
        o = []
        for h in range(c.n_heads):
            logit, dt = n[t] @ w_strength[h], np.log1p(np.exp(n[t] @ w_decay[h] + e["dt_bias"][h]))
            key, beta = unit(k[t, h]), sigmoid(logit)
            if isinstance(c, SpanKnotConfig) and c.efla:
                key = k[t, h]
                beta = (1 - math.exp(-math.log1p(math.exp(logit)) * (key @ key))) / (key @ key)
            turn = np.eye(c.head_dim) - beta * np.outer(key, key)
            memory[h] = math.exp(-math.exp(e["a_log"][h]) * dt) * memory[h] @ turn + beta * np.outer(v[t, h], key)
            o.append(memory[h] @ unit(q[t, h]) / math.sqrt(c.head_dim))
        o = normed(np.stack(o), e["head_norm.weight"]).reshape(-1) * gate[t]
        y[t] = normed(o[None], e["out_norm.weight"])[0] @ e["out.weight"].T
    return y


DEFINITIONS: dict[str, Callable] = {
    "attention": attention,
    "channel_mix": channel_mix,
    "colony": colony,
    "gated_delta": gated_delta,
    "experts": experts,
    "hrm": hrm,
    "hyper_ffn": hyper_ffn,
    "kuramoto": kuramoto,
    "local_conv": local_conv,
    "metric_mha": metric_attention,
    "metric_mqa": metric_attention,
    "mixture": mixture,
    "mlp": mlp,
    "mlstm": mlstm,
    "moe": moe,
    "span_knot": gated_delta,
    "swiglu": swiglu,
}
ROPE = BlackHoleRoPEConfig(harmonics=3, periods=2)
BALL = BallConfig(radius=2.0, beta=0.3)
MHA = MetricMHAConfig(
    n_heads=2, n_kv_heads=2, head_dim=16, rope=ROPE, prune=BALL, projector=ValueProjectorConfig(hidden=10)
)
MQA = MetricMQAConfig(n_heads=4, head_dim=12, rope=ROPE, prune=BALL)
LOW = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8, rank=10, rope_dims=4)
CASES: dict[str, Config] = {
    "local conv": LocalConvConfig(),
    "local conv of 2": LocalConvConfig(kernel=2),
    "channel mix": ChannelMixConfig(hidden=20),
    "swiglu": SwiGLUConfig(hidden=20),
    "hyper ffn": HyperFFNConfig(hidden=20, kernel=3, rank=4),
    "metric mha": MHA,
    "metric mqa": MQA,
    "metric l2": MHA.replace(score=L2Config(), prune=None, projector=None),
    "metric cosine": MHA.replace(score=CosineConfig(), prune=BALL.replace(radius=0.5, hard=True)),
    "metric dot": MQA.replace(score=DotConfig(), triangles=0),
    "metric pairs": MHA.replace(prune=PairConfig(radius=4.0)),
    "mixture": MixtureConfig(heads=(LocalConvConfig(), MHA, ChannelMixConfig(hidden=20), MQA), hidden=8, groups=3),
    "mixture of top": MixtureConfig(
        heads=(LocalConvConfig(), ChannelMixConfig(hidden=20), LocalConvConfig(kernel=3)),
        hidden=8,
        groups=4,
        top=2,
        gain=1.5,
        temperature=0.7,
    ),
    "attention": LOW,
    "attention of full rank": LOW.replace(rank=None, qk_norm=False, rope_dims=0),
    "attention exclusive and capped": LOW.replace(exclusive=True, score_cap=1.5, rope_base=100.0),
    "attention with vectors": LOW.replace(norm=LayerNormConfig(), bias=True),
    "attention of GPT-2": LOW.replace(
        rank=None, qk_norm=False, rope_dims=0, norm=LayerNormConfig(epsilon=0.1), bias=True
    ),
    "attention stretched": LOW.replace(
        head_dim=16, rope_dims=16, rope_base=100.0, rope_stretch=StretchConfig(factor=3.0, trained=20)
    ),
    "swiglu with vectors": SwiGLUConfig(hidden=20, norm=RMSNormConfig(epsilon=0.1), bias=True),
    "swiglu with a norm inside": SwiGLUConfig(hidden=20, inner_norm=True),
    "experts": ExpertsConfig(experts=4, hidden=10),
    "many experts": ExpertsConfig(experts=9, top=4, hidden=6),
    "mlp": MLPConfig(hidden=20),
    "mlp of GPT-2": MLPConfig(hidden=20, norm=LayerNormConfig(), bias=True),
    "mlstm": MLSTMConfig(n_heads=3, head_dim=8, gate_rank=5, input_bias=-1.0),
    "mlstm of one head": MLSTMConfig(n_heads=1, head_dim=10, gate_rank=D, input_bias=2.0),
    "moe": MoEConfig(hidden=6),
    "moe without shared experts": MoEConfig(hidden=6, experts=5, shared=0, top=3),
    "hrm": HRMConfig(hidden=14),
    "kuramoto": KuramotoConfig(rings=(3, 4, 5), readout=1),
    "one slow ring": KuramotoConfig(rings=(6,), steps=2, dt=0.1, readout=2),
    "colony": ColonyConfig(tips=4, centres=3),
    "colony of long steps": ColonyConfig(tips=3, centres=2, steps=2, dt=0.6),
    "gated delta": GatedDeltaConfig(n_heads=3, head_dim=8, gate_rank=6),
    "gated delta of one head": GatedDeltaConfig(
        n_heads=1, head_dim=24, gate_rank=5, conv=2, norm=LayerNormConfig(epsilon=0.1)
    ),
    "span knot": SpanKnotConfig(n_heads=4, head_dim=6, gate_rank=4),
    "span knot by EFLA": SpanKnotConfig(n_heads=4, head_dim=6, gate_rank=4, efla=True),
}
LARGE = {"log_alpha": 0.3, "log_m": 0.3, "coupling": 0.5, "width": 0.5, "speed": 0.5, "radius": 0.2}
"""What must stay near where it starts."""


def drawn(config: Config, seed: int) -> torch.nn.Module:
    """The mixer with every parameter moved: matrices so that what comes out is as large as what goes in."""
    mixer, generator = config.build(D), torch.Generator().manual_seed(seed)
    initialize(mixer, seed)
    with torch.no_grad():
        for name, p in mixer.named_parameters():
            last = name.rpartition(".")[2]
            noise = torch.randn(p.shape, generator=generator)
            if last == "weight" and p.dim() == 2:
                p.copy_(noise * 1.5 / p.shape[1] ** 0.5)
            else:
                p.add_(LARGE.get(last, 0.5) * noise)
    return mixer.eval()


def parameters(mixer: torch.nn.Module) -> Parameters:
    return {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}


def compare(mixer: torch.nn.Module, seed: int = 0) -> None:
    x = torch.randn(1, T, D, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = mixer(x, Step.of(torch.arange(T)[None])).y[0].double().numpy()
    expected = DEFINITIONS[mixer.config.kind](mixer.config, parameters(mixer), x[0].double().numpy())
    assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-2, "nothing is said"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_mixer_is_its_equation(name, seed):
    compare(drawn(CASES[name], seed), seed)


@pytest.mark.parametrize("logit", [-45.0, 29.0, 45.0, 1e6])
def test_a_sinks_logit_is_held_within_30(logit):
    """Beyond it a key at the sink's distance would be gone for good."""
    mixer = drawn(MHA.replace(projector=None, score=DotConfig(), triangles=0), 3)
    with torch.no_grad():
        mixer.sink.fill_(logit)
        mixer.score.log_alpha.fill_(math.log(50))
        mixer.qkv.weight.mul_(1.5)
    compare(mixer)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_a_value_projector_is_its_equation(size):
    projector = ValueProjectorConfig(hidden=10).build(D)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in projector.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.4 if p.dim() else 1.0))
        o = size * torch.randn(T, D, generator=generator)
        found = projector(o[None], Step.of(torch.zeros(1, T, dtype=torch.long)))[0].numpy()
    expected = value_projector(parameters(projector), o.double().numpy())
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected - o.numpy()).max() > 1e-3 * size
