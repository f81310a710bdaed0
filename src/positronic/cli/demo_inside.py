"""What the demo shows of its model beside the score: drafts that change no token, and what goes on in each layer."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from positronic.generation import Result
    from positronic.lm import LM
    from positronic.mixers.kuramoto import Kuramoto
    from positronic.text import Tokenizer
    from positronic.viz import Table

__all__ = ["Drafted", "inside", "with_and_without_drafts"]


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


def inside(model: Any, tokenizer: "Tokenizer", text: str) -> "list[Table]":
    """How far each organ's gates have opened, and how far rings are in step while the model reads `text`."""
    from positronic.mixers.kuramoto import Kuramoto
    from positronic.viz import Table

    banks = {path: bank for path, bank in model.named_modules() if isinstance(bank, Kuramoto)}
    columns = ("", *(f"layer {number}" for number in range(1, len(banks) + 1)))
    opened = [_openings(bank) for bank in banks.values()]
    gates = [(name, *(f"{layer[name]:.3f}" for layer in opened)) for name in opened[0]]
    seen = _coherence(model, banks, tokenizer.encode(text)[: model.config.context])
    rings = [
        (f"ring of {size}", *(f"{before[ring]:.2f} \N{RIGHTWARDS ARROW} {after[ring]:.2f}" for before, after in seen))
        for ring, size in enumerate(next(iter(banks.values())).config.rings)
    ]
    return [
        Table("How far the gates have opened", columns, gates, "Mean |tanh g|: an organ starts silent, at 0."),
        Table(
            "How far rings are in step",
            columns,
            rings,
            "Mean |Z| over held-out tokens, before and after the dynamics: 1 when all phases of a ring are one.",
        ),
    ]


def _openings(bank: "Kuramoto") -> dict[str, float]:
    """By organ, the mean |tanh g| of its gates in this layer."""
    from positronic.nn.gate import Gate

    own: dict[str, Any] = {"oscillators (open from the start)": bank.gate}
    if bank.config.phase_seed is not None:
        own[bank.config.phase_seed.kind] = bank.seed_gate
    own |= {config.kind: organ for config, organ in zip(bank.config.injections, bank.injections, strict=True)}
    found = {}
    for name, part in own.items():
        strengths = [gate.g.detach().tanh().abs().flatten() for gate in part.modules() if isinstance(gate, Gate)]
        found[name.replace("_", " ")] = sum(float(s.sum()) for s in strengths) / sum(len(s) for s in strengths)
    return found


def _coherence(model: Any, banks: dict[str, Any], tokens: list[int]) -> list[tuple[list[float], list[float]]]:
    """A layer's |Z| of each ring before and after the dynamics, mean over `tokens`."""
    import torch

    from positronic.kernels.kuramoto import order_parameters
    from positronic.probe import Probe, summarise
    from positronic.state import Step

    rings = next(iter(banks.values())).config.rings

    def coherence(phases: "Tensor") -> list[float]:
        re, im = order_parameters(phases.float(), rings)
        return torch.hypot(re, im).mean((0, 1)).tolist()

    probe = Probe(model, {f"{path}:*phase": summarise(coherence) for path in banks})
    row = torch.tensor([tokens])
    with torch.no_grad():
        model(row, step=Step(row, row, probe=probe))
    return [(probe.seen[f"{path}:first_phase"][0], probe.seen[f"{path}:phase"][0]) for path in banks]
