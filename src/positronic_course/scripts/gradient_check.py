"""Check every gradient of the course against finite differences, and print how far each is off.

One line an array: chapter, operation, array, relative error. Ends with status 1 if one is above the tolerance.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from positronic_course import ch02_embeddings as ch02
from positronic_course import ch03_linear_and_norms as ch03
from positronic_course import ch04_activations as ch04
from positronic_course import ch05_attention as ch05
from positronic_course import ch06_block as ch06
from positronic_course import ch07_loss as ch07
from positronic_course import ch08_initialisation as ch08
from positronic_course import ch13_oscillators as ch13
from positronic_course import ch15_classification as ch15
from positronic_course import ch16_instructions as ch16
from positronic_course import ch17_preference as ch17
from positronic_course import ch18_low_rank as ch18
from positronic_course.checking import check_gradients

TOLERANCE = 1e-6

B, T, S, D, H, F, W = 2, 3, 5, 8, 2, 6, 7
R, N = 3, 12
C, RANK = 4, 2
"""Sizes of the arrays: small, because every number is moved twice, and different wherever that can show a mistake."""


@dataclass(frozen=True)
class Case:
    """One operation and its backward, with something to try them on."""

    chapter: str
    operation: str
    f: Callable[..., tuple]
    """f(**inputs, **constants) -> y, saved"""
    f_backward: Callable[[Any, Any], Any]
    """dy, saved -> gradients of the inputs, in their order or by name"""
    inputs: dict[str, np.ndarray]
    """Arrays that have a gradient."""
    constants: dict[str, Any] = field(default_factory=dict)
    """Arguments that have none."""

    def errors(self) -> dict[str, float]:
        """Relative error of each input's gradient."""
        return check_gradients(lambda **inputs: self.f(**inputs, **self.constants), self.f_backward, self.inputs)


def some(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Numbers of both signs, small enough to leave every softmax soft: a saturated one has no gradient to check."""
    return {name: rng.normal(scale=0.5, size=shape) for name, shape in shapes.items()}


STREAM = {"x": (B, T, D)}
HEADS: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value", "out"), (D, D))
PLAIN: dict[str, tuple[int, ...]] = {"up": (D, F), "down": (F, D)}
GATED = PLAIN | {"gate": (D, F)}


def turn() -> ch05.Turn:
    return ch02.rotation(np.arange(4, 4 + T), D // H, dtype=np.float64)


def embeddings(rng: np.random.Generator) -> Iterator[Case]:
    ids = {"ids": rng.integers(0, W, size=(B, T))}
    yield Case("ch02", "embed", ch02.embed, ch02.embed_backward, some(rng, table=(W, D)), ids)
    arrays = some(rng, **STREAM, table=(T + 2, D))
    yield Case(
        "ch02", "learned_positions", ch02.learned_positions, ch02.learned_positions_backward, arrays, {"start": 1}
    )
    yield Case(
        "ch02",
        "rotate",
        lambda x, cos, sin: (ch02.rotate(x, cos, sin), (cos, sin)),
        lambda dy, saved: ch02.rotate_backward(dy, *saved),
        some(rng, x=(B, H, T, D // H)),
        dict(zip(("cos", "sin"), turn(), strict=True)),
    )


def linear_and_norms(rng: np.random.Generator) -> Iterator[Case]:
    x = {"x": (B, T, D)}
    yield Case("ch03", "linear", ch03.linear, ch03.linear_backward, some(rng, **x, w=(D, F), bias=(F,)))
    yield Case("ch03", "layer_norm", ch03.layer_norm, ch03.layer_norm_backward, some(rng, **x, gain=(D,), bias=(D,)))
    yield Case("ch03", "rms_norm", ch03.rms_norm, ch03.rms_norm_backward, some(rng, **x, gain=(D,)))


def activations(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ch04", "relu", ch04.relu, ch04.relu_backward, some(rng, **STREAM))
    yield Case("ch04", "gelu", ch04.gelu, ch04.gelu_backward, some(rng, **STREAM))
    yield Case("ch04", "swish", ch04.swish, ch04.swish_backward, some(rng, **STREAM))


def attention(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ch05", "softmax", lambda z: (ch05.softmax(z),) * 2, ch05.softmax_backward, some(rng, z=(B, T, S)))
    seen = (B, H, S, D // H)
    arrays = some(rng, q=(B, H, T, D // H), k=seen, v=seen)
    yield Case("ch05", "attention", ch05.attention, ch05.attention_backward, arrays)

    def multi_head(x: np.ndarray, n_heads: int, turn: Any, past: Any, **parameters: np.ndarray) -> tuple:
        return ch05.multi_head(x, parameters, n_heads, turn, past)

    past = tuple(rng.normal(size=(2, B, H, S - T, D // H)))
    for title, constants in (
        ("multi_head", {"turn": None, "past": None}),
        ("multi_head, rotary, with a past", {"turn": turn(), "past": past}),
    ):
        arrays = some(rng, **STREAM, **HEADS)
        yield Case("ch05", title, multi_head, ch05.multi_head_backward, arrays, {"n_heads": H, **constants})


def blocks(rng: np.random.Generator) -> Iterator[Case]:
    def feed_forward(x: np.ndarray, activation: str, **parameters: np.ndarray) -> tuple:
        return ch06.feed_forward(x, parameters, activation)

    def block(x: np.ndarray, config: ch06.BlockConfig, turn: Any, **parameters: np.ndarray) -> tuple:
        return ch06.block(x, parameters, config, turn)

    for activation in ch04.ACTIVATIONS:
        for title, shapes in (("plain", PLAIN), ("gated", GATED)):
            arrays, constants = some(rng, **STREAM, **shapes), {"activation": activation}
            title = f"feed_forward, {title} {activation}"
            yield Case("ch06", title, feed_forward, ch06.feed_forward_backward, arrays, constants)
    for norm, parts in (("rms", ("gain",)), ("layer", ("gain", "bias"))):
        inside: dict[str, tuple[int, ...]] = {
            f"{at}_norm.{name}": (D,) for at in ("attention", "feed") for name in parts
        }
        inside |= {f"attention.{name}": shape for name, shape in HEADS.items()}
        inside |= {f"feed.{name}": shape for name, shape in GATED.items()}
        config = ch06.BlockConfig(d_model=D, n_heads=H, d_hidden=F, norm=norm)
        arrays = some(rng, **STREAM, **inside)
        yield Case("ch06", f"block, {norm}", block, ch06.block_backward, arrays, {"config": config, "turn": turn()})


def losses_and_models(rng: np.random.Generator) -> Iterator[Case]:
    def model(ids: np.ndarray, config: ch07.ModelConfig, **parameters: np.ndarray) -> tuple:
        return ch07.forward(parameters, ids, config)

    ids, targets = rng.integers(0, W, size=(2, B, T))
    for title, weights in (
        ("cross_entropy", None),
        ("cross_entropy, weighted", np.array([[1.0, 0.0, 1.0], [0.5, 1.0, 0.0]])),
    ):
        yield Case(
            "ch07",
            title,
            ch07.cross_entropy,
            lambda dloss, saved: dloss * ch07.cross_entropy_backward(saved),
            some(rng, logits=(B, T, W)),
            {"targets": targets, "weights": weights},
        )
    sizes: dict[str, Any] = {"vocab_size": W, "d_model": D, "n_heads": H, "n_layers": 2, "d_hidden": F, "context": T}
    for config in (
        ch07.ModelConfig(**sizes),
        ch07.ModelConfig(**sizes, positions="learned", norm="layer", activation="gelu", gated=False),
        ch07.ModelConfig(**sizes, positions="sinusoidal", norm="layer", activation="relu"),
    ):
        title = f"model, {config.positions} {config.norm} {config.activation}"
        arrays, constants = some(rng, **ch08.shapes(config)), {"ids": ids, "config": config}
        yield Case("ch07", title, model, ch07.backward, arrays, constants)


def oscillators(rng: np.random.Generator) -> Iterator[Case]:
    def oscillators(x: np.ndarray, **parameters: np.ndarray) -> tuple:
        return ch13.oscillators(x, parameters)

    def block(x: np.ndarray, turn: Any, **parameters: np.ndarray) -> tuple:
        return ch13.block(x, parameters, H, turn, "oscillators")

    between: dict[str, tuple[int, ...]] = {"coupling": (R, R), "lag": (R,)}
    phases = some(rng, theta=(B, T, R, N // R), omega=(B, T, R, N // R), **between)
    yield Case("ch13", "integrate", ch13.integrate, ch13.integrate_backward, phases, {"steps": 3, "dt": 0.4})
    rings = {"bank": (D, 2 * N), "out": (2 * N, D)} | between
    yield Case("ch13", "oscillators", oscillators, ch13.oscillators_backward, some(rng, **STREAM, **rings))
    inside: dict[str, tuple[int, ...]] = {f"{at}_norm.gain": (D,) for at in ("attention", "feed")}
    inside |= {f"attention.{name}": shape for name, shape in HEADS.items()}
    inside |= {f"feed.{name}": shape for name, shape in rings.items()}
    yield Case("ch13", "oscillator_block", block, ch13.block_backward, some(rng, **STREAM, **inside), {"turn": turn()})


TINY = ch07.ModelConfig(vocab_size=W, d_model=D, n_heads=H, n_layers=2, d_hidden=F, context=T)
COUNTED = np.array([[1.0, 1.0, 0.0], [0.0, 0.5, 1.0]])
"""Weights (B, T) of the tokens that count."""


def classification(rng: np.random.Generator) -> Iterator[Case]:
    def classify(ids: np.ndarray, weights: np.ndarray, **parameters: np.ndarray) -> tuple:
        return ch15.classify(parameters, ids, weights, TINY)

    yield Case("ch15", "pool", ch15.pool, ch15.pool_backward, some(rng, **STREAM), {"weights": COUNTED})
    arrays = some(rng, **ch08.shapes(TINY)) | some(rng, **{"class.w": (D, C), "class.bias": (C,)})
    constants = {"ids": rng.integers(0, W, size=(B, T)), "weights": COUNTED}
    yield Case("ch15", "classify", classify, ch15.classify_backward, arrays, constants)


def instructions(rng: np.random.Generator) -> Iterator[Case]:
    yield Case(
        "ch16",
        "answer_loss",
        ch16.answer_loss,
        lambda dloss, saved: dloss * ch07.cross_entropy_backward(saved),
        some(rng, logits=(B, T, W)),
        {"targets": rng.integers(0, W, size=(B, T)), "weights": COUNTED},
    )


def preferences(rng: np.random.Generator) -> Iterator[Case]:
    constants: dict[str, Any] = {"targets": rng.integers(0, W, size=(B, T)), "weights": COUNTED}
    arrays = some(rng, logits=(B, T, W))
    yield Case("ch17", "log_probability", ch17.log_probability, ch17.log_probability_backward, arrays, constants)
    arrays = some(rng, chosen=(5,), rejected=(5,))
    constants = {"reference": (rng.normal(size=5), rng.normal(size=5)), "beta": 0.7}
    yield Case("ch17", "preference", ch17.preference, ch17.preference_backward, arrays, constants)


def adapters(rng: np.random.Generator) -> Iterator[Case]:
    shapes = {"x": (B, T, D), "shrink": (D, RANK), "grow": (RANK, F)}
    constants: dict[str, Any] = {"w": rng.normal(size=(D, F)), "scale": 1.5}

    def low_rank(x: np.ndarray, shrink: np.ndarray, grow: np.ndarray, w: np.ndarray, scale: float) -> tuple:
        return ch18.low_rank(x, w, shrink, grow, scale)

    yield Case("ch18", "low_rank", low_rank, ch18.low_rank_backward, some(rng, **shapes), constants)
    model = some(rng, **ch08.shapes(TINY))
    inside = {name: value.shape for name, value in ch18.new_adapters(model, RANK).items()}

    def adapted(ids: np.ndarray, model: dict[str, np.ndarray], scale: float, **own: np.ndarray) -> tuple:
        logits, saved = ch07.forward(ch18.merged(model, own, scale), ids, TINY)
        return logits, (saved, own, scale)

    def adapted_backward(dlogits: np.ndarray, saved: tuple) -> dict[str, np.ndarray]:
        saved_model, own, scale = saved
        return ch18.projected(ch07.backward(dlogits, saved_model), own, scale)

    constants = {"ids": rng.integers(0, W, size=(B, T)), "model": model, "scale": 1.5}
    yield Case("ch18", "adapted", adapted, adapted_backward, some(rng, **inside), constants)


CHAPTERS = (
    embeddings,
    linear_and_norms,
    activations,
    attention,
    blocks,
    losses_and_models,
    oscillators,
    classification,
    instructions,
    preferences,
    adapters,
)


def cases(seed: int = 0) -> list[Case]:
    """All operations of the course that have a backward, in float64."""
    rng = np.random.default_rng(seed)
    return [case for chapter in CHAPTERS for case in chapter(rng)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gradient_check", description=__doc__)
    parser.add_argument("--json", action="store_true", help="write a list of records instead of a table")
    parser.add_argument("--seed", type=int, default=0, help="seed of the numbers that are tried (default 0)")
    parser.add_argument("--chapter", help="only this chapter, as in ch05")
    options = parser.parse_args(arguments)
    found = cases(options.seed)
    if options.chapter and options.chapter not in {case.chapter for case in found}:
        known = ", ".join(sorted({case.chapter for case in found}))
        parser.error(f"there is nothing to check in {options.chapter!r}; name one of {known}, or none for all.")
    records: list[dict[str, Any]] = [
        {"chapter": case.chapter, "operation": case.operation, "array": name, "error": error}
        for case in found
        if options.chapter in (None, case.chapter)
        for name, error in case.errors().items()
    ]
    if options.json:
        print(json.dumps(records, indent=1))
    else:
        for record in records:
            verdict = "" if record["error"] < TOLERANCE else "  WRONG"
            print(f"{record['chapter']}  {record['operation']:32} {record['array']:28} {record['error']:.1e}{verdict}")
        worst = max(records, key=lambda record: record["error"])
        print(f"{len(records)} arrays; the worst is {worst['error']:.1e} ({worst['operation']}, {worst['array']}).")
    return int(any(record["error"] >= TOLERANCE for record in records))


if __name__ == "__main__":
    sys.exit(main())
