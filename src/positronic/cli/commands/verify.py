"""Try a checkpoint in everything that a model card says of it: loading, organs and gates, cache, memories.

The folder is loaded strictly, digests and all. Then the model reads one prompt: without each of its organs in turn,
with a cache and anew for every token, before and after another request. The exit code is 1 if anything fails.

Examples:
  positronic verify my-run/last
  positronic verify tuned/last --prompt "Hello, who are you?" --chat
  positronic verify my-run/last --json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from positronic.cli.console import print_json, table
from positronic.cli.parts.named_models import newest_of
from positronic.errors import CheckpointError, GenerationError, TokenizerError

if TYPE_CHECKING:
    from positronic.observe import Verified

OTHER = "Nobody had lit the lamp on the hill that night, and the ships went by far out at sea."
"""What another request says in between."""


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder, or a run's for its newest checkpoint."""
    prompt: str = "The value of the expression"
    """What the model reads."""
    chat: bool = False
    """The prompt is a user's message."""
    tokens: int = 40
    """Compare so many tokens with a cache and without."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        if self.tokens < 1:
            raise GenerationError(f"--tokens is {self.tokens}; compare 1 or more (40 is usual).")
        from positronic.checkpoint import load
        from positronic.generation.requests.prompt import prompt_ids
        from positronic.observe import verify
        from positronic.text import Message
        from positronic.train import pick_device

        folder = newest_of(self.folder)
        place = pick_device(self.device, "float32")
        try:
            model, tokenizer = load(folder, device=place.torch_device)
        except (CheckpointError, TokenizerError) as error:
            return self._unloaded(folder, str(error))
        prompt = prompt_ids(tokenizer, [Message("user", self.prompt)] if self.chat else self.prompt)
        held = model.config.max_positions
        if len(prompt) >= held:
            raise GenerationError(f"The prompt has {len(prompt)} tokens and the model holds {held}; shorten it.")
        found = verify(model, prompt, tokenizer.encode(OTHER)[:held], self.tokens)
        if self.json:
            loaded = {"ok": True, "family": model.config.kind, "parameters": found.parameters}
            print_json({"folder": str(folder)} | found.to_json() | {"load": loaded})
        else:
            self._tell(folder, model.config.kind, found)
        return int(not found.ok)

    def _unloaded(self, folder: Path, why: str) -> int:
        if self.json:
            print_json({"folder": str(folder), "ok": False, "load": {"ok": False, "said": why}})
        else:
            table(f"{folder}: failed", ["", "found", ""], [("strict load", why, "FAILED")])
        return 1

    def _tell(self, folder: Path, family: str, found: "Verified") -> None:
        rows = [("strict load", f"{found.parameters:,} parameters of family {family}", "ok")]
        ill = ", ".join(found.not_finite)
        rows.append(("finite", ill or "every weight, every logit of the prompt", _word(not ill)))
        if not ill:
            rows += [
                ("cache", _cache(found), _word(found.cache.ok)),
                ("memory", _memory(found), _word(found.memory.ok)),
            ]
        table(f"{folder}: {'verified' if found.ok else 'failed'}", ["", "found", ""], rows)
        columns = ["organ", "modules", "gates, tanh g", "without it: logits", "flips", "next token"]
        if found.organs:
            table("Organs, and the prompt without each of them", columns, [_organ(organ) for organ in found.organs])


def _word(ok: bool) -> str:
    return "ok" if ok else "FAILED"


def _cache(found: "Verified") -> str:
    cache = found.cache
    if cache.margin is None:
        return f"{cache.tokens} tokens as without a cache"
    return f"{cache.same} of {cache.tokens} tokens as without a cache, then another that is {cache.margin:.2g} likelier"


def _memory(found: "Verified") -> str:
    memory = found.memory
    if memory.change:
        return f"another request moved a logit by {memory.change:.3g}"
    if memory.carried is None:
        return "no test-time memory; another request moved nothing"
    return (
        f"another request moved nothing; its {memory.memories} memories would, by {memory.carried.largest_change:.3g}"
    )


def _organ(organ: Any) -> tuple[str, ...]:
    gates = "" if not organ.gates else f"{min(organ.gates):+.3f} to {max(organ.gates):+.3f}"
    if organ.without is None:
        return organ.name.replace("_", " "), str(organ.modules), gates, "", "", "not heard in what it says"
    next_token = "flips" if organ.without.next_flips else "stays"
    moved = f"{organ.without.largest_change:.3g}"
    return organ.name.replace("_", " "), str(organ.modules), gates, moved, str(organ.without.flips), next_token
