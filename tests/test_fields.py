"""Every field of every config does something: changed, it changes a number that somebody sees, or is refused."""

import ast
import math
import typing
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

import positronic
from config_walk import WHOLE, at, every_kind, nodes, put
from positronic.adapters.lora import LoRAConfig
from positronic.config import Config, ModelConfig
from positronic.data import TokenBatch
from positronic.errors import PositronicError
from positronic.generation import generate
from positronic.mixers.radius import PairConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.models import build
from positronic.nn.rope import StretchConfig
from positronic.observe import describe
from positronic.recipes import RunConfig
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer
from positronic.train import TrainConfig
from positronic.train.objectives.dpo import DPOConfig
from positronic.train.objectives.next_token import AuxiliaryWeight, NextTokenConfig
from positronic.train.optimizers import AdamWConfig, MuonConfig
from positronic.train.schedules import ScheduleConfig

TOKENS = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(0))
TOKENS[:, 9], TOKENS[:, 15] = 7, 3
"""Documents end at 7; at 3 if the field says so."""


PARTS = {
    "projector": ValueProjectorConfig(),
    "prune": PairConfig(radius=6.0),
    "rope_stretch": StretchConfig(trained=16),
}
"""What may stand where there is nothing."""
ONE_VALUE = {"sha256", "tied"}
"""Refused in every other model: another file's digest, and what several heads on one key cannot be."""


ELSEWHERE = "chimera", "weights"
"""What stands there fits none of the narrow models where nothing does; `tests/nn/test_bit_linear.py` sees it."""


def others(name: Any, value: Any, hint: Any) -> Iterator[Any]:
    """Other values for a field, the likeliest to be possible first."""
    return (other for other in _guesses(name, value, hint) if other != value or type(other) is not type(value))


def _guesses(name: Any, value: Any, hint: Any) -> Iterator[Any]:
    if name in PARTS and value is None:
        yield PARTS[name].to_json()
    if name == "fused":  # the form that is no other where scores allow none
        yield False
    if value is None:
        yield from (2, 0.9, 2.0, True, False, "0" * 64)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value * 2, value // 2, value + 1, value - 1, value + 2, 1, 0)
    elif isinstance(value, float):
        yield from (value * 0.5, value * 1.25, value + 0.1)
    elif typing.get_origin(hint) is Literal:
        yield from (choice for choice in typing.get_args(hint) if choice != value)
    elif isinstance(value, list) and value and isinstance(value[0], str):
        yield from (value[::-1], value[:-1])
    elif isinstance(value, list):
        yield from ([2 * x for x in value], value[:-1], [x + 1 for x in value], [x - 1 for x in value])
    elif isinstance(value, str):
        yield "1" * 64


def numbers(config: ModelConfig) -> dict[str, torch.Tensor]:
    """What is seen of a model: sizes, first weights, and with every parameter moved its loss and its logits."""
    counted = describe(config)
    model: Any = build(config, 0)
    with torch.no_grad():
        model.logits(model(TOKENS).hidden)
    first = {f"first {name}": p.detach().clone() for name, p in model.named_parameters()}
    first |= {f"buffer {name}": b.clone() for name, b in model.named_buffers()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))))
        targets = TOKENS.roll(-1, 1)
        torch.manual_seed(0)
        batch = TokenBatch(TOKENS, targets, torch.ones_like(TOKENS, dtype=torch.bool))
        objective = NextTokenConfig().build()
        loss = objective(model, batch, objective.counts(batch))
        state = model.init_state(2)
        cached = model(TOKENS, state)
        exits = model(TOKENS, options=ForwardOptions(loops="auto" if len(config.loop_depths) > 1 else None))
    return first | {
        "sizes": torch.tensor([counted.total, counted.flops_per_token, counted.state_fixed, counted.state_per_token]),
        "loss": loss.total,
        "logits": model.logits(model(TOKENS).hidden).detach(),
        "cached": model.logits(cached.hidden).detach(),
        "exits": exits.hidden,
        "depths": torch.tensor(config.loop_depths),
        "room": torch.tensor([takes(model, n) for n in (40, 100, 200, 300)]),
    }


def takes(model: Any, n: int) -> bool:
    """Whether a prompt of n bytes is short enough."""
    try:
        generate(model, byte_tokenizer(), "x" * n)
    except PositronicError:
        return False
    return True


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() != b.keys() or any(a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a)


def model_fields() -> list:
    """Each field of each config of a model that holds a value, once a kind."""
    found, seen = [], {ELSEWHERE}
    for family, model in WHOLE.items():
        for path, config in nodes(model):
            for field in fields(config):
                value, mark = getattr(config, field.name), (config.kind, field.name)
                parts = value if isinstance(value, tuple) else (value,)
                if mark not in seen and not any(isinstance(part, Config) for part in parts):
                    seen.add(mark)
                    name = ".".join(map(str, (family, *path, field.name)))
                    found.append(pytest.param(family, (*path, field.name), type(config), id=name))
    return found


@pytest.fixture(scope="module")
def known():
    return {family: numbers(config) for family, config in WHOLE.items()}


@pytest.mark.parametrize(("family", "path", "kind"), model_fields())
def test_a_field_of_a_model_changes_what_is_seen(family, path, kind, known):
    tree, refused = WHOLE[family].to_json(), []
    for value in others(path[-1], at(tree, path), typing.get_type_hints(kind)[path[-1]]):
        try:
            found = numbers(ModelConfig.from_json(put(tree, path, value)))
        except PositronicError as error:
            refused.append(str(error))
            continue
        assert differ(found, known[family]), f"{'.'.join(map(str, path))} = {value!r} changes nothing"
        return
    assert refused
    assert path[-1] in ONE_VALUE, f"every other value is refused: {refused}"


def test_what_is_seen_of_a_model_is_the_same_twice(known):
    for family, config in WHOLE.items():
        assert not differ(numbers(ModelConfig.from_json(config.to_json())), known[family])


@pytest.mark.parametrize("shape", ["wsd", "cosine"])
@pytest.mark.parametrize("field", [field.name for field in fields(ScheduleConfig)])
def test_a_field_of_a_schedule_changes_the_rate_or_is_refused(shape, field):
    """`wsd` and `cosine` have fields of their own."""
    config = ScheduleConfig(shape=shape)
    for value in {"shape": ["wsd", "cosine"], "warmup": [7]}.get(field, [0.35]):
        try:
            changed = config.replace(**{field: value})
        except PositronicError:
            continue
        rates = [[c.scale(step, 50) for step in range(50)] for c in (config, changed)]
        assert rates[0] != rates[1] or changed == config


def moved(config: Any) -> list[float]:
    """A weight, a norm and an embedding after three updates, with the first rate at a fifth of its peak."""
    model: Any = build(WHOLE["transformer"], 0)
    optimizer = config.build(model)
    for step in range(3):
        optimizer.zero_grad()
        model.logits(model(TOKENS[:, step:]).hidden).square().mean().backward()
        optimizer.step(0.2 * (step + 1))
    return [float(p.detach().double().abs().sum()) for p in model.parameters()]


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, f.name) for kind in (AdamWConfig, MuonConfig) for f in fields(kind)]
)
def test_a_field_of_an_optimizer_changes_its_steps(kind, field):
    config = kind()
    other = {"betas": (0.5, 0.5), "eps": 1e-2}.get(field, 0.3)
    assert moved(config.replace(**{field: other})) != moved(config)


def total_loss(config: NextTokenConfig, model: nn.Module, batch: TokenBatch) -> float:
    objective = config.build()
    return float(objective(model, batch, objective.counts(batch)).total.detach())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained():
    """A model with every auxiliary loss, and a batch."""
    config = WHOLE["metric"]
    config = config.replace(mixture=config.mixture.replace(entropy_floor=1.0))
    model: Any = build(config, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model, TokenBatch(TOKENS, TOKENS.roll(-1, 1), torch.ones_like(TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("name", [weight.name for weight in NextTokenConfig().auxiliary])
def test_a_weight_of_an_auxiliary_loss_is_what_it_is_multiplied_by(name, trained):
    """Ten times the weight is ten times what it adds; and the weights are those of the published objective."""
    published = {"moe.balance": 0.01, "mtp": 0.3, "jepa": 0.1, "metric.triangle": 0.01, "mixture.entropy": 1e-3}
    config = NextTokenConfig()
    assert {w.name: w.weight for w in config.auxiliary} == published
    assert config.z_loss == 1e-4
    family = "quazimoto" if name == "moe.balance" else "metric"
    model, batch = trained if family == "metric" else (build(WHOLE[family], 3), trained[1])
    without, once, tenfold = (
        total_loss(
            config.replace(
                auxiliary=tuple(
                    AuxiliaryWeight(name=w.name, weight=times * w.weight if w.name == name else w.weight)
                    for w in config.auxiliary
                )
            ),
            model,
            batch,
        )
        for times in (0, 1, 10)
    )
    assert once > without
    assert math.isclose(tenfold - without, 10 * (once - without), rel_tol=2e-3, abs_tol=2e-6)


def test_the_weight_of_the_squared_log_partition_is_what_it_is_multiplied_by(trained):
    model, batch = trained
    with torch.no_grad():
        partition = model.logits(model(TOKENS).hidden).logsumexp(-1).square().mean()
    parts = [total_loss(NextTokenConfig(z_loss=weight), model, batch) for weight in (0.0, 0.1)]
    assert math.isclose(parts[1] - parts[0], 0.1 * float(partition), rel_tol=1e-3)


def read_names() -> set[str]:
    """Every attribute that some code of the package reads, validation aside."""
    found: set[str] = set()
    for file in Path(positronic.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                node.body = [ast.Pass()]
        loads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        found |= {node.attr for node in loads if isinstance(node.ctx, ast.Load)}
    return found


def test_every_field_of_every_config_is_read_somewhere():
    """Of those that plan a run, too, whose effect takes a run to see."""
    read = read_names()
    kinds = {*every_kind().values(), RunConfig, TrainConfig, LoRAConfig, DPOConfig}
    assert not [f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind) if field.name not in read]
