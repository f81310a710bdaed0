"""What an engine that pages keys and values can hold, what it makes of it, and in which words the rest is refused.

The engine is not installed here. A stand-in pages one request as it does: attention over all tokens of the call.
"""

import sys
from dataclasses import fields
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hf_example import rows
from torch import nn
from torch.nn import functional as F

from positronic.adapters.vllm import Served, ServedConfig, unservable
from positronic.config import Config
from positronic.errors import ConfigError
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.mlp import MLPConfig
from positronic.mixers.moe import MoEConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build, preset
from positronic.models.mycel import MycelConfig
from positronic.models.quazimoto import QuazimotoConfig
from positronic.models.transformer import TransformerConfig
from positronic.nn.norm import LayerNormConfig
from positronic.nn.rope import StretchConfig
from positronic.state import ForwardOptions, Step
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.hrm import HRMConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig
from positronic.traits.phase_attention import PhaseAttentionConfig
from positronic.traits.ring_controller import RingControllerConfig
from positronic.traits.specialists import SpecialistsConfig
from positronic.traits.stations import StationsConfig


@pytest.mark.parametrize("name", ["control-tiny", "mycel-tiny-mixer-only", "positronic-tiny-mixer-only"])
def test_what_remembers_keys_and_values_alone_is_served(name):
    assert unservable(build(preset(name)), frozen=False) is None


def test_stores_are_served_frozen_and_on_request():
    model = build(preset("mycel-tiny"))
    assert unservable(model, frozen=True) is None
    assert "freeze_memory" in unservable(model, frozen=False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("positronic-tiny", "n-gram"),
        ("positronic-tiny", "controllers"),
        ("moa-tiny", "convolution"),
        ("chimera-tiny", "in the middle of a chunk"),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_other_memory_is_named_and_refused(name, says, frozen):
    assert says in unservable(build(preset(name)), frozen)


class Pages(nn.Module):
    """The engine's attention over one request, q (N, H K) and k, v (N, G K)."""

    def __init__(self, num_heads, head_size, scale, num_kv_heads=None, cache_config=None, prefix=""):
        super().__init__()
        self.heads, self.groups, self.width, self.scale = num_heads, num_kv_heads, head_size, scale

    def forward(self, q, k, v):
        q, k, v = (x.unflatten(1, (-1, self.width)).transpose(0, 1) for x in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
        return o.transpose(0, 1).flatten(1)


@pytest.fixture
def engine(monkeypatch):
    """Served models by their configs."""
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    attention = ModuleType("vllm.model_executor.layers.attention")
    attention.Attention = Pages
    monkeypatch.setitem(sys.modules, attention.__name__, attention)

    def served(model, frozen):
        config = ServedConfig(core=model.config.to_json(), freeze_memory=frozen)
        given = SimpleNamespace(
            model_config=SimpleNamespace(hf_config=config),
            parallel_config=SimpleNamespace(world_size=1),
            cache_config=None,
        )
        made = Served(vllm_config=given)
        made.load_weights(model.named_parameters())
        return made

    return served


ATTENTION = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=24, rope_dims=8)
SMALL = {"vocab_size": 300, "d_model": 48, "context": 32, "max_positions": 64, "n_layers": 2, "attention": ATTENTION}
REFINERS = (HRMConfig(hidden=32), MoEConfig(hidden=32))
STRETCH = StretchConfig(factor=4.0, trained=16)
CONTROL = TransformerConfig(**SMALL, channel=SwiGLUConfig(hidden=64))
LAYER = LayerNormConfig()
GPT2 = CONTROL.replace(
    attention=ATTENTION.replace(norm=LAYER, bias=True),
    channel=MLPConfig(hidden=64, norm=LAYER, bias=True),
    norm=LAYER,
    learned_positions=True,
)
LLAMA = CONTROL.replace(attention=ATTENTION.replace(rank=None, rope_stretch=STRETCH), tied=False)
RINGS = QuazimotoConfig(**SMALL, oscillators=KuramotoConfig(rings=(4, 8, 16)))
TIPS = MycelConfig(**SMALL, colony=ColonyConfig(tips=8, centres=4))
STORED = TIPS.replace(colony=TIPS.colony.replace(stations=StationsConfig(stations=4, per_station=3, dim=8)))
ORGANS = RINGS.replace(oscillators=RINGS.oscillators.replace(phase_seed=FractalPhaseConfig()), refiners=REFINERS)

OTHERWISE = {
    "inner_norm": True,
    "n_heads": 2,
    "n_kv_heads": 4,
    "head_dim": 32,
    "rank": None,
    "rope_dims": 16,
    "rope_base": 50.0,
    "rope_stretch": STRETCH,
    "factor": 2.0,
    "slow_turns": 0.5,
    "fast_turns": 8.0,
    "trained": 30,
    "norm": LayerNormConfig(),
    "epsilon": 0.1,
    "bias": True,
    "learned_positions": True,
    "tied": False,
    "qk_norm": False,
    "exclusive": True,
    "score_cap": 2.0,
    "rings": (8, 8, 8),
    "steps": 2,
    "dt": 0.1,
    "readout": 2,
    "phase_seed": FractalPhaseConfig(),
    "controller": RingControllerConfig(),
    "injections": (PhaseAttentionConfig(slots=(1,), dim=16),),
    "tips": 12,
    "centres": 6,
    "stations": StationsConfig(stations=4, per_station=3, dim=8),
    "hidden": 40,
    "per_station": 2,
    "dim": 16,
    "write_max": 0.25,
    "experts": 3,
    "shared": 0,
    "top": 3,
    "levels": 2,
    "sha256": None,
    "vocab_size": 290,
    "d_model": 32,
    "context": 16,
    "max_positions": 48,
    "boundary_id": 7,
    "n_layers": 1,
    "attention": ATTENTION.replace(rope_base=50.0),
    "channel": SwiGLUConfig(hidden=40),
    "oscillators": KuramotoConfig(rings=(8, 8)),
    "colony": ColonyConfig(tips=12, centres=6),
    "refiners": REFINERS,
    "drafts": MTPConfig(heads=2, hidden=16),
    "latents": JEPAConfig(hidden=16),
}
"""Another value of every field that a served config may have."""
OTHERWISE_OF = {("stations", "stations"): 6}
"""By kind and field, where a field of another kind has the same name."""


def everywhere(config, path=()):
    """(path, config) of a config and of all that it holds."""
    yield path, config
    for f in fields(config):
        value = getattr(config, f.name)
        for i, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, Config):
                yield from everywhere(part, (*path, (f.name, i if isinstance(value, tuple) else None)))


def changed(config, path, name, value):
    """The config with one field of the part at `path` changed."""
    if not path:
        return config.replace(**{name: value})
    (field, i), *rest = path
    held = getattr(config, field)
    if i is None:
        return config.replace(**{field: changed(held, rest, name, value)})
    parts = [changed(part, rest, name, value) if n == i else part for n, part in enumerate(held)]
    return config.replace(**{field: tuple(parts)})


def walk():
    for i, config in enumerate((CONTROL, RINGS, TIPS, STORED, ORGANS, GPT2, LLAMA)):
        yield pytest.param(config, None, id=f"{i}.{config.kind}")
        for path, part in everywhere(config):
            for f in fields(part):
                value = OTHERWISE_OF.get((part.kind, f.name), OTHERWISE[f.name])
                if value != getattr(part, f.name):
                    label = ".".join([config.kind, *(name for name, _ in path), f.name])
                    yield pytest.param(changed(config, path, f.name, value), f.name, id=f"{i}.{label}")


def loud(config):
    """A model in which everything is heard."""
    model = build(config, seed=3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(
                torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * (0.1 if p.dim() > 1 else 0.3)
            )
    return model


def logits(model, tokens):
    step = Step(tokens, tokens, options=ForwardOptions(write_memory=False))
    return model.logits(model(tokens, model.init_state(1), step).hidden)[0]


REFUSED = {"score_cap", "injections", "controller"}


@torch.no_grad()
@pytest.mark.parametrize(("config", "name"), walk())
def test_every_field_of_a_served_config_is_heard_or_refused(config, name, engine):
    """A field that the engine dropped would change what our model says and not what the served one says."""
    model, tokens = loud(config), rows(1, 14).clamp(min=8)
    if name in REFUSED:
        with pytest.raises(ConfigError, match="positronic chat"):
            engine(model, frozen=True)
        return
    served = engine(model, frozen=True)
    found = served.compute_logits(served(tokens[0], torch.arange(14)))
    wanted = logits(model, tokens)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(
    "organ", [PhaseAttentionConfig(slots=(1,), dim=16), SpecialistsConfig(per_ring=2, dim=8, top=1)]
)
def test_an_organ_that_remembers_is_not_served_as_if_it_did_not(organ):
    model = build(RINGS.replace(oscillators=RINGS.oscillators.replace(injections=(organ,))))
    assert unservable(model, frozen=False) is not None
    assert (unservable(model, frozen=True) is None) == isinstance(organ, SpecialistsConfig)


def test_a_bound_on_scores_is_refused_wherever_it_stands(engine):
    for config in (CONTROL, RINGS, TIPS):
        model = build(config.replace(attention=ATTENTION.replace(score_cap=30.0)))
        with pytest.raises(ConfigError, match=r"attention\.score_cap"):
            engine(model, frozen=True)
