"""What a model card promises, tried on the model itself: its organs, its cache, and that no request hears another.

    organs     which are there, how far their gates stand open (tanh g), and what the logits of a prompt lose without
    finite     no weight, no gate and no logit of that prompt is NaN or infinite
    cache      the most likely text with a cache is that of reading everything anew for each token
    memory     a request answers to the bit as it did before another one filled the test-time memories; and how far it
               would move if these were handed on

Two ways of reading round differently, and where two tokens are likely to within `NEAR_TIE` either may be taken: a text
that parts from the other there and nowhere else is the same text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from positronic.generation import GREEDY, Conversation, Stop, Uncached, decode, memories_alone
from positronic.generation.requests.conversation import resume
from positronic.generation.requests.memories import memories_in
from positronic.lm import LM
from positronic.nn.gate import Gate
from positronic.observe.ablate import Moved, ablate, moved, organs_of
from positronic.observe.module_paths import kind_of, module_paths, place_of

__all__ = ["Verified", "verify"]

NEAR_TIE = 1e-3
"""Of logits: less than moves any text that is worth comparing, more than float32 rounds."""


@dataclass(frozen=True)
class Organ:
    name: str
    """Kind of its config."""
    modules: int
    """How many there are of it."""
    gates: tuple[float, ...]
    """How far each of its gates stands open, tanh g; none where it has none."""
    without: Moved | None
    """What the prompt's logits become without it; None where nothing would be heard of it: a head."""


@dataclass(frozen=True)
class Cached:
    tokens: int
    """Compared, one by one."""
    same: int
    """How many from the first on are the same."""
    margin: float | None
    """By how much, in logits, the one was likelier than the other where they part; None: nowhere."""

    @property
    def ok(self) -> bool:
        return self.margin is None or self.margin <= NEAR_TIE


@dataclass(frozen=True)
class Remembered:
    memories: int
    """States in which the model learns while it reads."""
    change: float
    """Of a logit, absolute, after another request: 0, or something got through."""
    carried: Moved | None
    """The same where the memories are handed on; None: there are none."""

    @property
    def ok(self) -> bool:
        return self.change == 0


@dataclass(frozen=True)
class Verified:
    parameters: int
    not_finite: tuple[str, ...]
    """Weights that are not finite; "logits" if these are not."""
    organs: tuple[Organ, ...]
    cache: Cached
    memory: Remembered

    @property
    def ok(self) -> bool:
        return not self.not_finite and self.cache.ok and self.memory.ok

    def to_json(self) -> dict[str, Any]:
        """Numbers that JSON cannot hold become null."""
        return {
            "ok": self.ok,
            "parameters": self.parameters,
            "finite": {"ok": not self.not_finite, "not_finite": list(self.not_finite)},
            "organs": [_plain(asdict(organ) | {"without": _fields(organ.without)}) for organ in self.organs],
            "cache": {"ok": self.cache.ok} | _plain(asdict(self.cache)),
            "memory": {"ok": self.memory.ok} | _plain(asdict(self.memory) | {"carried": _fields(self.memory.carried)}),
        }


@torch.no_grad()
def verify(model: LM, prompt: Sequence[int], other: Sequence[int], tokens: int = 40) -> Verified:
    """Try a model in eval mode on the tokens of a prompt, and of another request that comes in between."""
    module = cast(nn.Module, model)
    logits = _logits(model, Conversation(), prompt)
    ill = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    if not logits.isfinite().all():
        ill.append("logits")
    if ill:
        nothing = Cached(0, 0, None), Remembered(0, 0.0, None)
        return Verified(_count(module), tuple(ill), (), *nothing)
    return Verified(
        _count(module), (), _organs(model, prompt), _cached(model, prompt, tokens), _remembered(model, prompt, other)
    )


def _organs(model: LM, prompt: Sequence[int]) -> tuple[Organ, ...]:
    module, where = cast(nn.Module, model), module_paths(cast(nn.Module, model))
    gates: dict[str, list[float]] = {}
    for path, gate in module.named_modules():
        if isinstance(gate, Gate):
            gates.setdefault(where[place_of(path, where)].organ, []).extend(gate.g.float().tanh().flatten().tolist())
    audible = organs_of(model)
    without = dict(zip(audible, moved(model, prompt, [ablate(model, [name]) for name in audible]), strict=True))
    kinds = [kind_of(part) for path, part in module.named_modules() if path]
    names = dict.fromkeys(kind for kind in kinds if kind in audible or kind in gates)
    for name in (*audible, *gates):
        names.setdefault(name)
    heads = [kind_of(cast(nn.Module, head)) for head in (model.drafts, model.latents) if head is not None]
    return tuple(
        Organ(name, kinds.count(name), tuple(gates.get(name, ())), without.get(name))
        for name in dict.fromkeys([*names, *filter(None, heads)])
    )


def _cached(model: LM, prompt: Sequence[int], n: int) -> Cached:
    """Two ways to the most likely text."""
    ours, theirs = _greedy(model, prompt, n), _greedy(Uncached(model), prompt, n)
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    if same == len(ours):
        return Cached(len(ours), same, None)
    logits = _logits(model, Conversation(), [*prompt, *ours[:same]])[-1]
    return Cached(len(ours), same, float((logits[ours[same]] - logits[theirs[same]]).abs()))


def _greedy(model: LM, prompt: Sequence[int], n: int) -> list[int]:
    """The most likely text, whatever ends there, as far as the model has room."""
    start = resume(model, Conversation(), prompt)
    assert start.state is not None, "a conversation that goes on has a state"
    said = decode(
        model, start.state, prompt[-1], sampler=GREEDY, stop=Stop(max_new_tokens=n), history=prompt, hidden=start.hidden
    )
    return [emission.token for emission in said]


def _remembered(model: LM, prompt: Sequence[int], other: Sequence[int]) -> Remembered:
    before = _logits(model, Conversation(), prompt)
    between = resume(model, Conversation(), other)
    after = _logits(model, Conversation(), prompt)
    memories = sum(1 for _ in memories_in(between.state))
    change = float((after - before).abs().max())
    if not memories:
        return Remembered(0, change, None)
    carried = _logits(model, memories_alone(model, between), prompt)
    flipped = carried.argmax(-1) != before.argmax(-1)
    moved = Moved(float((carried - before).abs().max()), int(flipped.sum()), bool(flipped[-1]))
    return Remembered(memories, change, moved)


def _logits(model: LM, before: Conversation, ids: Sequence[int]) -> Tensor:
    """(T, W) after each token, as a request reads them."""
    state = resume(model, before, ids[:1]).state
    assert state is not None, "a conversation that goes on has a state"
    tokens = torch.tensor([list(ids)], device=state.position.device)
    return model.logits(model(tokens, state).hidden[0]).float()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _fields(moved: Moved | None) -> dict[str, Any] | None:
    return None if moved is None else moved._asdict()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    finite = {key: None if isinstance(x, float) and not abs(x) < float("inf") else x for key, x in values.items()}
    return {key: _plain(x) if isinstance(x, dict) else x for key, x in finite.items()}
