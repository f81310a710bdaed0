"""What the demo shows of its model's drafts: they change no token."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from positronic.generation import Result
    from positronic.lm import LM
    from positronic.text import Tokenizer
    from positronic.viz import Table

__all__ = ["Drafted", "with_and_without_drafts"]


class Drafted(NamedTuple):
    """The most likely continuation of a prompt, token by token and with the model's own drafts."""

    prompt: str
    plain: "Result"
    drafted: "Result"

    def said(self) -> str:
        """What the two have in common, and what not."""
        kept, proposed = self.drafted.draft.accepted, self.drafted.draft.proposed
        return (
            f"Both ways the same {len(self.plain.tokens)} tokens, compared one by one: the model's {proposed} drafts, "
            f"of which {kept} were kept ({kept / max(1, proposed):.0%}), changed none of them and saved "
            f"{len(self.plain.tokens) - self.drafted.forwards} of {self.plain.forwards} forwards."
        )

    def table(self) -> "Table":
        """Forwards and seconds of both."""
        from positronic.viz import Table

        runs = {"token by token": self.plain, "with the model's own drafts": self.drafted}
        rows = [_row(name, run) for name, run in runs.items()]
        sample = (self.prompt, self.plain.text)
        return Table("Drafts that change no token", ("", "forwards", "time"), rows, self.said(), sample)


def _row(name: str, run: "Result") -> tuple[str, ...]:
    return name, str(run.forwards), f"{run.seconds.decode:.2f} s"


def with_and_without_drafts(model: "LM", tokenizer: "Tokenizer", prompt: str, max_new_tokens: int) -> Drafted:
    """Greedy text in exact mode, in which drafts must change nothing: asserted here."""
    from positronic.generation import Heads, Proposer, generate

    def run(proposer: Proposer | bool) -> "Result":
        pieces = generate(
            model,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=0,
            exact=True,
            speculative=proposer,
        )
        result = list(pieces)[-1].result
        assert result is not None, "generation ends with a result"
        return result

    plain, drafted = run(False), run(Heads(model))
    assert plain.tokens == drafted.tokens, f"drafts changed the text: {plain.text!r} became {drafted.text!r}"
    return Drafted(prompt, plain, drafted)
