"""Check every gradient of the course against finite differences, and print how far each is off.

One line an array: chapter, operation, array, relative error. Ends with status 1 if one is above the tolerance.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
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
from positronic_course.checking import check_gradients

TOLERANCE = 1e-6

B, T, S, D, H, F, W = 2, 3, 5, 8, 2, 6, 7
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


def cases(seed: int = 0) -> list[Case]:
    """All operations of the course that have a backward, in float64."""
    rng = np.random.default_rng(seed)

    def some(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Numbers of both signs, small enough to leave every softmax soft: a saturated one has no gradient to check."""
        return {name: rng.normal(scale=0.5, size=shape) for name, shape in shapes.items()}

    ids, targets = rng.integers(0, W, size=(2, B, T))
    weights = np.array([[1.0, 0.0, 1.0], [0.5, 1.0, 0.0]])
    turn = ch02.rotation(np.arange(4, 4 + T), D // H, dtype=np.float64)
    cos, sin = turn
    past = tuple(rng.normal(size=(2, B, H, S - T, D // H)))
    stream = {"x": (B, T, D)}
    heads: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value", "out"), (D, D))
    plain = {"up": (D, F), "down": (F, D)}
    gated = plain | {"gate": (D, F)}

    def multi_head(x: np.ndarray, n_heads: int, turn: Any, past: Any = None, **p: np.ndarray) -> tuple:
        return ch05.multi_head(x, p, n_heads, turn, past)

    def feed_forward(x: np.ndarray, activation: str, **p: np.ndarray) -> tuple:
        return ch06.feed_forward(x, p, activation)

    def block(x: np.ndarray, config: ch06.BlockConfig, turn: Any, **p: np.ndarray) -> tuple:
        return ch06.block(x, p, config, turn)

    def model(ids: np.ndarray, config: ch07.ModelConfig, **parameters: np.ndarray) -> tuple:
        return ch07.forward(parameters, ids, config)

    made = [
        Case("ch02", "embed", ch02.embed, ch02.embed_backward, some(table=(W, D)), {"ids": ids}),
        Case(
            "ch02",
            "learned_positions",
            ch02.learned_positions,
            ch02.learned_positions_backward,
            some(x=(B, T, D), table=(S, D)),
            {"start": 1},
        ),
        Case(
            "ch02",
            "rotate",
            lambda x, cos, sin: (ch02.rotate(x, cos, sin), (cos, sin)),
            lambda dy, saved: ch02.rotate_backward(dy, *saved),
            some(x=(B, H, T, D // H)),
            {"cos": cos, "sin": sin},
        ),
        Case("ch03", "linear", ch03.linear, ch03.linear_backward, some(x=(B, T, D), w=(D, F), b=(F,))),
        Case("ch03", "layer_norm", ch03.layer_norm, ch03.layer_norm_backward, some(x=(B, T, D), gain=(D,), bias=(D,))),
        Case("ch03", "rms_norm", ch03.rms_norm, ch03.rms_norm_backward, some(x=(B, T, D), gain=(D,))),
        Case("ch04", "relu", ch04.relu, ch04.relu_backward, some(x=(B, T, D))),
        Case("ch04", "gelu", ch04.gelu, ch04.gelu_backward, some(x=(B, T, D))),
        Case("ch04", "swish", ch04.swish, ch04.swish_backward, some(x=(B, T, D))),
        Case("ch05", "softmax", lambda z: (ch05.softmax(z),) * 2, ch05.softmax_backward, some(z=(B, T, S))),
        Case(
            "ch05",
            "attention",
            ch05.attention,
            ch05.attention_backward,
            some(q=(B, H, T, D // H), k=(B, H, S, D // H), v=(B, H, S, D // H)),
        ),
        Case(
            "ch05",
            "multi_head",
            multi_head,
            ch05.multi_head_backward,
            some(**stream, **heads),
            {"n_heads": H, "turn": None},
        ),
        Case(
            "ch05",
            "multi_head, rotary, with a past",
            multi_head,
            ch05.multi_head_backward,
            some(**stream, **heads),
            {"n_heads": H, "turn": turn, "past": past},
        ),
    ]
    for activation in ch04.ACTIVATIONS:
        for title, shapes in (("plain", plain), ("gated", gated)):
            made.append(
                Case(
                    "ch06",
                    f"feed_forward, {title} {activation}",
                    feed_forward,
                    ch06.feed_forward_backward,
                    some(**stream, **shapes),
                    {"activation": activation},
                )
            )
    for norm, parts in (("rms", ("gain",)), ("layer", ("gain", "bias"))):
        inside: dict[str, tuple[int, ...]] = {
            f"{place}_norm.{name}": (D,) for place in ("attention", "feed") for name in parts
        }
        inside |= {f"attention.{name}": shape for name, shape in heads.items()}
        inside |= {f"feed.{name}": shape for name, shape in gated.items()}
        made.append(
            Case(
                "ch06",
                f"block, {norm}",
                block,
                ch06.block_backward,
                some(**stream, **inside),
                {"config": ch06.BlockConfig(d_model=D, n_heads=H, d_hidden=F, norm=norm), "turn": turn},
            )
        )
    for title, among in (("cross_entropy", None), ("cross_entropy, weighted", weights)):
        made.append(
            Case(
                "ch07",
                title,
                ch07.cross_entropy,
                lambda dloss, saved: dloss * ch07.cross_entropy_backward(saved),
                some(logits=(B, T, W)),
                {"targets": targets, "weights": among},
            )
        )
    for positions, norm, activation, has_gate in (
        ("rotary", "rms", "swish", True),
        ("learned", "layer", "gelu", False),
        ("sinusoidal", "layer", "relu", True),
    ):
        config = ch07.ModelConfig(
            vocab_size=W,
            d_model=D,
            n_heads=H,
            n_layers=2,
            d_hidden=F,
            context=T,
            positions=positions,
            norm=norm,
            activation=activation,
            gated=has_gate,
        )
        inputs = some(**ch08.shapes(config))
        made.append(
            Case(
                "ch07",
                f"model, {positions} {norm} {activation}",
                model,
                ch07.backward,
                inputs,
                {"ids": ids, "config": config},
            )
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gradient_check", description=__doc__)
    parser.add_argument("--json", action="store_true", help="write a list of records instead of a table")
    parser.add_argument("--seed", type=int, default=0, help="seed of the numbers that are tried (default 0)")
    parser.add_argument("--chapter", help="only this chapter, as in ch05")
    options = parser.parse_args(arguments)
    records: list[dict[str, Any]] = [
        {"chapter": case.chapter, "operation": case.operation, "array": name, "error": error}
        for case in cases(options.seed)
        if options.chapter in (None, case.chapter)
        for name, error in case.errors().items()
    ]
    if not records:
        parser.error(f"there is nothing to check in {options.chapter!r}; name a chapter from ch02 to ch07.")
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
