"""Health: every module of a model looked at, from its weights and from one reading of some text."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.lm import LM
from positronic.nn.gate import Gate
from positronic.nn.head import LMHead
from positronic.nn.norm import LayerNorm, RMSNorm
from positronic.nn.stack import Residual
from positronic.observe.health.findings import (
    BROKEN,
    CLOSED,
    FINDINGS,
    LARGE_RMS,
    OK,
    SATURATED,
    TRAINED_STEPS,
    WATCH,
)
from positronic.observe.health.heads import Scored, read_heads, read_score
from positronic.observe.health.organs import rms
from positronic.observe.health.registry import READERS, Reader, Reading, numbers
from positronic.observe.module_paths import module_paths, place_of
from positronic.probe import Probe, Verb, summarise
from positronic.state import ForwardOptions

__all__ = ["Health", "Line", "health", "sample_rows", "worst"]

SAMPLE_TOKENS = 2048
"""Tokens that are read with all taps watched."""
GRADIENT_TOKENS = 256
"""Tokens whose loss is differentiated."""
NEVER_WELL = ("NaN weight", "infinite weight", "not finite")
"""What is said of a new model, too."""
MAY_REST, RESTING = ("ball",), ("silent matrix", "no gradient")
"""Organs that these are not said of: a ball in which all keys lie stays where it began until one leaves it."""
Found = tuple[str, Reading]
"""Path of a module in `module_paths`, and something about it."""


class Line(NamedTuple):
    organ: str
    layer: int | None
    reading: str
    values: tuple[float, ...]
    verdict: str
    """ok, watch or broken."""
    finding: str
    """What is not ok, a name in `FINDINGS`."""
    detail: str
    advice: str
    """What to do about it."""

    @property
    def place(self) -> str:
        """In words."""
        organ = self.organ.replace("_", " ")
        return organ if self.layer is None else f"{organ} of layer {self.layer}"

    def to_json(self) -> dict[str, Any]:
        """Numbers that JSON cannot hold become null."""
        return self._asdict() | {"values": [x if abs(x) < inf else None for x in self.values]}


def worst(lines: Iterable[Line]) -> str:
    """The worst verdict among them."""
    return max((line.verdict for line in lines), key=(OK, WATCH, BROKEN).index)


@dataclass(frozen=True)
class Health:
    lines: tuple[Line, ...]
    """In the order of the model."""
    trained: bool
    steps: int | None
    """Optimizer steps by the checkpoint's record; None: it has none."""

    @property
    def verdict(self) -> str:
        """The worst of all."""
        return worst(self.lines)

    def findings(self) -> dict[str, list[Line]]:
        """What is not ok by its name, the worst first, and where."""
        found = {name: [line for line in self.lines if line.finding == name] for name in FINDINGS}
        by_verdict = sorted((name for name in found if found[name]), key=lambda name: FINDINGS[name].verdict != BROKEN)
        return {name: found[name] for name in by_verdict}

    def groups(self) -> dict[tuple[str, str], list[Line]]:
        """By organ and reading, the lines of all layers, organs in the model's order; what is shared stands apart."""
        organs = list(dict.fromkeys(line.organ for line in self.lines))
        layered = {line.organ for line in self.lines if line.layer is not None}
        found: dict[tuple[str, str], list[Line]] = {}
        for line in sorted(self.lines, key=lambda line: organs.index(line.organ)):
            shared = line.layer is None and line.organ in layered
            found.setdefault((line.organ, line.reading + ", shared" * shared), []).append(line)
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "trained": self.trained,
            "steps": self.steps,
            "lines": [line.to_json() for line in self.lines],
        }


def sample_rows(ids: Sequence[Sequence[int]], begin_id: int, context: int) -> Tensor:
    """Texts one after another, each behind what begins a document, as rows (B, T) without padding."""
    stream = [token for text in ids for token in (begin_id, *text)]
    length = min(context, len(stream))
    n = min(max(1, SAMPLE_TOKENS // length), len(stream) // length)
    return torch.tensor(stream[: n * length]).view(n, length)


def health(model: LM, rows: Tensor, *, steps: int | None = None, score: Scored | None = None) -> Health:
    """Look at a model in eval mode that reads `rows` (B, T), T of 2 or more; `score` is that of some text."""
    module = cast(nn.Module, model)
    trained = _moved(module) if steps is None else steps >= TRAINED_STEPS
    slopes = _gradients(model, rows[:1, : GRADIENT_TOKENS + 1])
    with torch.no_grad():
        found = [*_weights(module), *_slopes(module, slopes), *_gates(module, slopes), *_passing(model, rows)]
    if score is not None:
        found.extend(read_score(score, model.config.vocab_size))
    order = {path: i for i, (path, _) in enumerate(module.named_modules())}
    where = module_paths(module)
    found.sort(key=lambda pair: order[pair[0]])
    return Health(tuple(_line(*where[path], reading, trained) for path, reading in found), trained, steps)


def _line(organ: str, layer: int | None, reading: Reading, trained: bool) -> Line:
    finding = reading.finding
    if not finding and not all(abs(x) < inf for x in reading.values):
        finding = "not finite"
    if (not trained and finding not in NEVER_WELL) or (organ in MAY_REST and finding in RESTING):
        finding = ""
    verdict, advice = FINDINGS[finding] if finding else (OK, "")
    return Line(organ, layer, reading.name, reading.values, verdict, finding, reading.detail if finding else "", advice)


def _moved(model: nn.Module) -> bool:
    """Whether a norm or a logit scale is no longer 1 everywhere."""
    parts = [module for module in model.modules() if isinstance(module, RMSNorm | LayerNorm | LMHead)]
    constants = (part.scale if isinstance(part, LMHead) else part.weight for part in parts)
    return any(bool((x != 1).any()) for x in constants)


def _weights(model: nn.Module) -> Iterator[Found]:
    """By place, the rms of all its matrices."""
    where = module_paths(model)
    owned: dict[str, list[tuple[str, Tensor]]] = {}
    for name, p in model.named_parameters():
        owned.setdefault(place_of(name, where), []).append((name, p))
    for path, parameters in owned.items():
        matrices = [p for _, p in parameters if p.dim() > 1]
        size = _rms(matrices or [p for _, p in parameters])
        finding, detail = next(filter(None, (_ill(name, p) for name, p in parameters)), ("", ""))
        if not finding and float(size) > LARGE_RMS:
            finding = "large weights"
        yield path, Reading("weights", numbers(size), finding, detail)


def _ill(name: str, p: Tensor) -> tuple[str, str] | None:
    if p.isnan().any():
        return "NaN weight", name
    if p.isinf().any():
        return "infinite weight", name
    return ("silent matrix", name) if p.dim() > 1 and not p.any() else None


def _rms(tensors: Sequence[Tensor]) -> Tensor:
    return (sum(t.float().square().sum() for t in tensors) / sum(t.numel() for t in tensors)) ** 0.5


@torch.enable_grad()
def _gradients(model: LM, rows: Tensor) -> dict[str, Tensor]:
    """Of the next-token loss, by parameter, zeros where none arrives; heads that it cannot reach are left out."""
    module = cast(nn.Module, model)
    beside = {id(p) for head in (model.drafts, model.latents) if head for p in cast(nn.Module, head).parameters()}
    watched = {name: p for name, p in module.named_parameters() if id(p) not in beside and p.requires_grad}
    logits = model.logits(model(rows[:, :-1]).hidden)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    slopes = torch.autograd.grad(loss, list(watched.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(watched, slopes, strict=True))


def _slopes(model: nn.Module, slopes: Mapping[str, Tensor]) -> Iterator[Found]:
    """By place, the rms of the gradient."""
    where = module_paths(model)
    owned: dict[str, list[Tensor]] = {}
    for name, slope in slopes.items():
        owned.setdefault(place_of(name, where), []).append(slope)
    for path, parts in owned.items():
        size = _rms(parts)
        yield path, Reading("gradient", numbers(size), "" if size != 0 else "no gradient")


def _gates(model: nn.Module, slopes: Mapping[str, Tensor]) -> Iterator[Found]:
    """By place and name, tanh g of all its gates."""
    where = module_paths(model)
    banks: dict[tuple[str, str], list[tuple[str, Gate]]] = {}
    for path, gate in model.named_modules():
        if isinstance(gate, Gate):
            owner = place_of(path, where)
            name = re.sub(r"\.\d+", "", path.removeprefix(f"{owner}."))
            banks.setdefault((owner, name), []).append((path, gate))
    for (owner, name), gates in banks.items():
        opening = torch.cat([gate.g.detach().float().tanh().flatten() for _, gate in gates])
        dead = next((path for path, gate in gates if _dead(gate, slopes.get(f"{path}.g"))), "")
        finding = "dead gate" if dead else ""
        if not dead and (opening.abs() < CLOSED).all():
            finding = "closed gate"
        elif not dead and (opening.abs() > SATURATED).any():
            finding = "saturated gate"
        yield owner, Reading(name.replace("_", " "), numbers(opening), finding, dead or gates[0][0])


def _dead(gate: Gate, slope: Tensor | None) -> bool:
    """Whether a gate of a trained model is closed and stays so."""
    g = gate.g.detach().float()
    cut_off = gate.leak == 0 and gate.start != 0
    lost = (g == gate.start) if slope is None else (g == gate.start) | (slope == 0)
    return bool(((g.tanh().abs() < CLOSED) & (lost | cut_off)).any())


def _passing(model: LM, rows: Tensor) -> Iterator[Found]:
    """What passes the taps, and what is read off the trunk."""
    module = cast(nn.Module, model)
    where = module_paths(module)
    readers: list[tuple[str, nn.Module, Reader]] = []
    verbs: dict[str, Verb] = {}
    for path, part in module.named_modules():
        if isinstance(part, Residual):
            verbs[f"{path}:branch"] = summarise(partial(rms, part))
        for reader in READERS.get(where[path].organ, ()) if path in where else ():
            readers.append((path, part, reader))
            verbs |= {f"{path}:{tap}": summarise(partial(look, part)) for tap, look in reader.taps.items()}
    probe = Probe(module, verbs)
    hidden = model(rows, options=ForwardOptions(probe=probe)).hidden
    for path, part in module.named_modules():
        if f"{path}:branch" in probe.seen and isinstance(part, Residual):
            size = probe.seen[f"{path}:branch"][0]
            yield f"{path}.mixer", Reading("added to the stream", numbers(size), "" if size != 0 else "silent block")
    for path, part, reader in readers:
        seen = {tap: probe.seen[f"{path}:{tap}"][0] for tap in reader.taps if f"{path}:{tap}" in probe.seen}
        if len(seen) == len(reader.taps):
            yield from ((path, reading) for reading in reader.read(part, seen))
    yield from read_heads(model, rows, hidden)
