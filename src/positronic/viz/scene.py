"""What a page replays, as JSON values: text, expectations, norms of what each block adds, a scene of tapped tensors.

A scene says which taps it draws and makes numbers of what passed there. A model whose layers have none gets the rest.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.generation import SamplingParams
from positronic.lm import LM
from positronic.mixers.colony import Colony
from positronic.mixers.kuramoto import Kuramoto
from positronic.nn.stack import Residual
from positronic.observe.record import Recording, record
from positronic.probe import Verb, capture, summarise
from positronic.text import Tokenizer
from positronic.viz.colony import Colonies
from positronic.viz.numbers import digits
from positronic.viz.rings import Rings

__all__ = ["Scene", "replay", "scene_of"]


class Scene(Protocol):
    """What is drawn of some layers: which taps, and their numbers."""

    @property
    def script(self) -> str:
        """The module in `static` that draws them."""
        ...

    @property
    def patterns(self) -> Sequence[str]:
        """Addresses of the taps to capture."""
        ...

    def fixed(self) -> list[dict[str, Any]]:
        """By layer, what is the same for all tokens."""
        ...

    def frames(self, recording: Recording) -> list[list[dict[str, Any]]]:
        """By moment and layer, what is drawn."""
        ...


def scene_of(model: LM, layer: int | None = None) -> tuple[Scene | None, list[int]]:
    """The scene of a model's layers and their numbers, from 1; of one layer if asked for. None: it has none."""
    parts = dict(cast(nn.Module, model).named_modules())
    rings = {path: part for path, part in parts.items() if isinstance(part, Kuramoto)}
    colonies = {path: part for path, part in parts.items() if isinstance(part, Colony)}
    paths = list(rings or colonies)
    if not paths and layer is not None:
        raise ConfigError("--layer picks a layer of oscillators or tips, and this model has none; leave it out.")
    if layer is not None and not 1 <= layer <= len(paths):
        raise ConfigError(f"--layer is {layer}, and this model has layers 1 to {len(paths)}; use one of these.")
    numbers = list(range(1, len(paths) + 1)) if layer is None else [layer]
    shown = {paths[n - 1] for n in numbers}
    if rings:
        return Rings({path: part for path, part in rings.items() if path in shown}), numbers
    if colonies:
        return Colonies({path: part for path, part in colonies.items() if path in shown}), numbers
    return None, []


def replay(
    model: LM,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    tokens: int,
    layer: int | None = None,
    sampler: SamplingParams,
) -> dict[str, Any]:
    """Generate, record, and give all that a page shows as JSON values."""
    scene, layers = scene_of(model, layer)
    blocks = {path: m for path, m in cast(nn.Module, model).named_modules() if isinstance(m, Residual)}
    verbs: dict[str, Verb] = {f"{path}:branch": summarise(_norm) for path in blocks}
    verbs |= dict.fromkeys(() if scene is None else scene.patterns, capture)
    recording = record(model, tokenizer, prompt, verbs, tokens=tokens, sampler=sampler)
    return {
        "format": "positronic view 1",
        "model": {
            "family": model.config.kind,
            "parameters": sum(p.numel() for p in cast(nn.Module, model).parameters()),
        },
        "prompt": prompt,
        "sampling": {"temperature": sampler.temperature, "top_p": sampler.top_p, "seed": sampler.seed},
        "ended": recording.stop_reason,
        **_spoken(recording, tokenizer),
        "blocks": [_kind(block.mixer) for block in blocks.values()],
        "norms": [[digits(m.seen[f"{path}:branch"][0]) for path in blocks] for m in recording.moments],
        "scene": None if scene is None else scene.script,
        "layers": layers,
        "fixed": [] if scene is None else scene.fixed(),
        "frames": [] if scene is None else scene.frames(recording),
    }


def _spoken(recording: Recording, tokenizer: Tokenizer) -> dict[str, Any]:
    """Texts of all tokens that are read or likely, and what was expected after each of those that were read."""
    moments = recording.moments
    decoder = tokenizer.decoder(special=True)
    pieces = [decoder.push(token) for token in (*(m.read for m in moments), moments[-1].next)]
    named = {a.token for m in moments for a in m.alternatives} | {m.next for m in moments}
    tokens = [
        {
            "read": m.read,
            "next": m.next,
            "drawn": m.drawn,
            "probability": _short(m.probability),
            "entropy": _short(m.entropy_bits),
            "alternatives": [[a.token, _short(a.probability)] for a in m.alternatives],
        }
        for m in moments
    ]
    return {
        "pieces": pieces,
        "texts": {token: tokenizer.decode([token], special=True) for token in sorted(named)},
        "tokens": tokens,
    }


def _norm(x: Tensor) -> Tensor:
    """(1, T, D) -> (T,)"""
    return x.float().norm(dim=-1)[0]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _kind(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    return config.kind if isinstance(config, Config) else type(module).__name__.lower()
