"""Flags of commands that write text: how the next token is drawn, and who drafts ahead."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from positronic.cli.console import say
from positronic.errors import GenerationError

if TYPE_CHECKING:
    from positronic.generation import Proposer
    from positronic.lm import LM

__all__ = ["Drawing", "DrawingFlags"]

SAMPLED = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
"""What a `SamplingParams` has from the flags."""


@dataclass(frozen=True)
class Drawing:
    """How the next token is drawn."""

    max_new_tokens: int = 256
    """Stop after this many tokens."""
    temperature: float = 0.7
    """0 takes the most likely token; higher is freer."""
    top_k: int = 0
    """Keep the K most likely tokens; 0 keeps all."""
    top_p: float = 0.92
    """Keep the most likely tokens of this mass; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the best; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that occurred less likely."""
    seed: int = 0
    """The same seed gives the same text."""
    stop: tuple[str, ...] = ()
    """Strings that end the text."""
    speculative: bool = False
    """Draft tokens ahead and check several in one forward: fewer forwards, and the same text up to near-ties, which
    roundings may decide otherwise."""
    drafts: Literal["heads", "lookup"] | None = None
    """With --speculative, who drafts: the model's own heads, or what followed the last tokens earlier in the text.
    Not given: the heads where the model has any, else lookup."""
    exact: bool = False
    """Fix the width of every forward, so that text with drafts equals text without to the bit, near-ties included."""
    loops: int | Literal["auto"] | None = None
    """For a model with a loop: how often it is passed, or auto, as often as each token needs. Not given: as usual."""
    compile: Literal["auto", "on", "off"] = "auto"
    """auto: on CUDA, run rounds as graphs. on: have PyTorch compile them too, on a CPU as well; the first time that
    takes a minute or more, so it pays for long texts and long talks. off: call the model as it stands."""

    def settings(self, model: "LM") -> dict[str, Any]:
        """As keyword arguments of `positronic.generate`, for this model; what cannot be raises `GenerationError`."""
        self.check()
        from positronic.generation import Engine

        model.config.check_loops(self.loops)
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("drafts", "compile")}
        return plain | {"speculative": self._proposer(model), "engine": Engine(model, compile=self.compile)}

    def check(self) -> None:
        """Raise where a number is out of its range."""
        from positronic.generation import SamplingParams

        SamplingParams(**{name: getattr(self, name) for name in SAMPLED})

    def _proposer(self, model: "LM") -> "Proposer | bool":
        """What drafts; what was asked for and is not there is an error, what was left open is said."""
        from positronic.generation import Heads, NGram

        if not self.speculative:
            if self.drafts is not None:
                raise GenerationError(f"--drafts {self.drafts} says who drafts; add --speculative, or leave it out.")
            return False
        if model.drafts is not None:
            return NGram() if self.drafts == "lookup" else Heads(model)
        if self.drafts == "heads":
            raise GenerationError(
                "--drafts heads asks the model's own heads for drafts, and this model has none; use --drafts lookup, "
                "which copies from the text."
            )
        if self.drafts is None:
            say("(this model has no draft heads: drafts are looked up in the text, as with --drafts lookup)")
        return NGram()


DrawingFlags = tyro.conf.OmitArgPrefixes[Drawing]
