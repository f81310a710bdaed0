"""The model card of an exported folder: what this is, how it is opened, and what is left to its owner to say."""

from dataclasses import dataclass
from pathlib import Path

from positronic.checkpoint import RunFolder
from positronic.config import ModelConfig
from positronic.train import read_events

__all__ = ["Card", "held_out_score"]


@dataclass(frozen=True)
class Card:
    name: str
    config: ModelConfig
    parameters: int
    bits_per_byte: float | None
    """Of held-out text, as the run measured it; None: not known."""

    def text(self) -> str:
        """README.md, as model hubs read it."""
        score = "" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f} bits per byte of its held-out text. "
        config = self.config
        return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [positronic, {config.kind}]
# license: which one these weights have is yours to say
---
# {self.name}

A language model of the family `{config.kind}`: {self.parameters:,} parameters, a vocabulary of {config.vocab_size:,},
made for rows of {config.context:,} tokens, up to {config.max_positions:,} in one sequence. {score}It was made with
positronic; what it was trained on, what it is for and where it fails is yours to write here.

## Opening it

Where positronic is installed (`pip install "positronic[hf]"`), import it and nothing else is needed:

```python
import positronic.adapters.hf
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{self.name}")
tokenizer = AutoTokenizer.from_pretrained("{self.name}")
```

Anywhere else let Transformers run the code that lies in this folder. Read it first, as any code:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{self.name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{self.name}", trust_remote_code=True)
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=60)[0]))
```

In chats, what a user types stays text: control tokens come from the chat template alone. Text given to `tokenizer(...)`
directly may spell them; give `split_special_tokens=True` for text that you do not trust. Weights are held to
`manifest.json` when they are loaded, and no pickle is read.

If Transformers does not know the model type `positronic`, or asks to allow custom code, one of the two is missing.
"""


def held_out_score(checkpoint: Path) -> float | None:
    """Bits per byte that a run wrote down when it saved this checkpoint; None: it did not, or the run is not here."""
    run, metrics = RunFolder(checkpoint.parent), checkpoint.parent / "metrics.jsonl"
    events = read_events(metrics) if metrics.is_file() else []
    here = [e for e in events if e["event"] == "evaluation" and run.checkpoint_path(e["step"]) == checkpoint]
    return here[-1].get("bits_per_byte") if here else None
