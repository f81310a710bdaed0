"""What the heads learn from: pairs within one document, by their definition, adding up over micro-batches."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_example import Stream, W, small_config, trainer

from positronic.data import TokenBatch
from positronic.errors import ConfigError
from positronic.lm import LMOutput
from positronic.models import build
from positronic.nn import init
from positronic.train import AuxiliaryWeight, NextTokenConfig, SFTConfig
from positronic.train.objectives.heads import FARTHEST, ahead, count_ahead, same_document
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig


class WithHeads(nn.Module):
    """A small trunk with draft heads and a JEPA head."""

    def __init__(self, drafts: int = 3, distance: int = 2):
        super().__init__()
        self.config = small_config()
        self.inner = build(self.config, seed=1)
        self.drafts = MTPConfig(heads=drafts, hidden=24).build(32) if drafts else None
        self.latents = JEPAConfig(ahead=distance, hidden=24).build(32) if distance else None
        init.initialize(self, 1)
        for name, weight in self.named_parameters():
            if name.startswith("drafts") and weight.dim() == 2:
                nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))

    def init_state(self, batch, capacity=0):
        return self.inner.init_state(batch, capacity)

    def forward(self, tokens, state=None, options=None):
        return self.inner(tokens, state, options)

    def logits(self, hidden):
        return self.inner.logits(hidden)


def weighed(**weights: float) -> NextTokenConfig:
    return NextTokenConfig(auxiliary=tuple(AuxiliaryWeight(name=k, weight=v) for k, v in weights.items()))


def batch_of(kind: str, rows: int = 6) -> TokenBatch:
    """Rows of one document, of several, with padding, or with a loss mask full of holes."""
    batch = Stream(padded=kind == "padded", masked=kind == "masked").next(rows)
    if kind == "packed":
        ends = torch.zeros_like(batch.tokens).index_fill(1, torch.tensor([3, 4, 11]), 1)
        segments = ends.cumsum(1) - ends
        return TokenBatch(batch.tokens, batch.targets, batch.loss_mask, segments, row_bytes=batch.row_bytes)
    return batch


KINDS = ["plain", "packed", "padded", "masked"]


def pairs(batch: TokenBatch, k: int, mask: torch.Tensor | None) -> list[tuple[int, int]]:
    """(b, t) such that t and t+k are of one document and t+k is in the mask, one by one."""
    found, (rows, length) = [], batch.tokens.shape
    for b in range(rows):
        for t in range(length - k):
            together = batch.segments is None or batch.segments[b, t] == batch.segments[b, t + k]
            real = batch.valid is None or bool(batch.valid[b, t] & batch.valid[b, t + k])
            if together and real and (mask is None or mask[b, t + k]):
                found.append((b, t))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_counted_as_they_are_used(kind):
    batch = batch_of(kind)
    counts = count_ahead(batch)
    for k in range(1, FARTHEST + 1):
        assert counts[f"targets.{k}"] == len(pairs(batch, k, batch.loss_mask)), k
        assert counts[f"tokens.{k}"] == len(pairs(batch, k, None)) == int(same_document(batch, k).sum()), k


def test_what_stands_ahead_is_zero_beyond_the_row():
    x = torch.arange(1, 7).view(2, 3)
    assert ahead(x, 2).tolist() == [[3, 0, 0], [6, 0, 0]]
    assert ahead(x, 5).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_draft_heads_learn_the_tokens_after_the_next(kind):
    model, batch = WithHeads(), batch_of(kind)
    hidden = model(batch.tokens, options=batch.options()).hidden
    objective = weighed(mtp=0.3, jepa=0.0).build()
    counts = objective.counts(batch)
    loss = objective(model, batch, counts)
    plain = NextTokenConfig().build()(model.inner, batch, counts).total
    means = []
    for k in (1, 2, 3):
        logits = model.logits(model.drafts[k - 1](hidden))
        where = pairs(batch, k, batch.loss_mask)
        nats = [F.cross_entropy(logits[b, t], batch.targets[b, t + k]) for b, t in where]
        means.append(torch.stack(nats).mean())
        assert objective.means(loss.terms, counts)[f"mtp.{k}"] == pytest.approx(means[-1].item(), rel=1e-5)
    expected = plain + 0.3 * torch.stack(means).mean()
    ours, theirs = (torch.autograd.grad(x, list(model.parameters()), allow_unused=True) for x in (loss.total, expected))
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, _), a, b in zip(model.named_parameters(), ours, theirs, strict=True):
        if not name.startswith("latents"):
            assert (a - b).norm() <= 1e-4 * b.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_jepa_head_learns_the_direction_of_the_trunk_ahead(kind):
    model, batch = WithHeads(), batch_of(kind)
    hidden = model(batch.tokens, options=batch.options()).hidden
    objective = weighed(mtp=0.0, jepa=0.1).build()
    counts = objective.counts(batch)
    loss = objective(model, batch, counts)
    guess = model.latents(hidden)
    where = pairs(batch, 2, None)
    distances = [1 - F.cosine_similarity(guess[b, t], hidden[b, t + 2].detach(), dim=0) for b, t in where]
    expected = torch.stack(distances).mean()
    share = loss.total - NextTokenConfig().build()(model.inner, batch, counts).total
    assert share.item() == pytest.approx(0.1 * expected.item(), rel=1e-3)
    assert objective.means(loss.terms, counts)["jepa.2"] == pytest.approx(expected.item(), rel=1e-5)
    weights = [*model.latents.parameters(), model.inner.embed.weight]
    ours, theirs = (torch.autograd.grad(x, weights) for x in (share, 0.1 * expected))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


class Given:
    """Heads over given hidden vectors."""

    def __init__(self, hidden, model):
        self.hidden, self.drafts, self.latents = hidden, model.drafts, model.latents
        self.parameters, self.logits = model.parameters, model.logits

    def __call__(self, tokens, options=None):
        return LMOutput(self.hidden)


def test_what_is_guessed_gets_no_gradient_from_the_guess():
    model, batch = WithHeads(drafts=0, distance=13), batch_of("plain")
    hidden = torch.randn(6, 16, 32, requires_grad=True)
    gradients = []
    for weight in (1.0, 0.0):
        objective = weighed(jepa=weight).build()
        total = objective(Given(hidden, model), batch, objective.counts(batch)).total
        gradients.append(torch.autograd.grad(total, hidden)[0])
    reached = (gradients[0] - gradients[1]).abs().sum(-1) > 0
    assert torch.equal(reached, same_document(batch, 13))
    assert 0 < reached.sum() < batch.tokens.numel()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_micro_batches_add_up_to_the_batch(kind, n):
    model, objective, batch = WithHeads(), NextTokenConfig().build(), batch_of(kind, 8)
    counts = objective.counts(batch)
    whole = objective(model, batch, counts)
    parts = [objective(model, batch.rows(slice(i, i + n)), counts) for i in range(0, 8, n)]
    weights = list(model.parameters())
    ours = torch.autograd.grad(sum(part.total for part in parts), weights)
    for (name, _), a, b in zip(model.named_parameters(), ours, torch.autograd.grad(whole.total, weights), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm(), name
    assert list(parts[0].terms) == list(whole.terms)
    for name, value in whole.terms.items():
        assert sum(part.terms[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5), name


def test_padding_a_batch_changes_nothing():
    model, objective, batch = WithHeads(), NextTokenConfig().build(), batch_of("packed", 4)
    padding = torch.zeros(4, 5, dtype=torch.long)
    never = padding.bool()
    padded = TokenBatch(
        torch.cat([batch.tokens, padding], 1),
        torch.cat([batch.targets, padding], 1),
        torch.cat([batch.loss_mask, never], 1),
        torch.cat([batch.segments, padding - 1], 1),
        torch.cat([torch.ones_like(batch.loss_mask), never], 1),
        batch.row_bytes,
    )
    counts = objective.counts(batch)
    assert objective.counts(padded) == counts
    found, expected = objective(model, padded, counts), objective(model, batch, counts)
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    for name, value in expected.terms.items():
        assert found.terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_rows_too_short_for_a_head_give_nothing_and_still_reach_every_weight():
    model, objective = WithHeads(drafts=4, distance=4), NextTokenConfig().build()
    batch = Stream(seq_len=3).next(4)
    counts = objective.counts(batch)
    assert [counts[f"targets.{k}"] for k in (2, 3, 4)] == [4, 0, 0]
    loss = objective(model, batch, counts)
    loss.total.backward()
    means = objective.means({name: value.item() for name, value in loss.terms.items()}, counts)
    assert [means["mtp.3"], means["mtp.4"], means["jepa.4"]] == [0, 0, 0]
    assert means["mtp.2"] > 1
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    assert all(weight.grad.abs().max() == 0 for head in list(model.drafts)[2:] for weight in head.parameters())


def test_drafts_are_never_read_off_another_document():
    model, objective, batch = WithHeads(), NextTokenConfig().build(), batch_of("packed")
    alone = TokenBatch(batch.tokens, batch.targets, batch.loss_mask, row_bytes=batch.row_bytes)
    packed, single = objective.counts(batch), objective.counts(alone)
    assert single["targets.1"] == 6 * 15
    assert packed["targets.1"] == 6 * (15 - 3), "three documents end inside every row"
    hidden = torch.randn(6, 16, 32, requires_grad=True)
    drafts = weighed(mtp=1.0, jepa=0.0).build()
    total = (
        drafts(Given(hidden, model), batch, packed).total
        - weighed(mtp=0.0, jepa=0.0).build()(Given(hidden, model), batch, packed).total
    )
    reached = torch.autograd.grad(total, hidden)[0].abs().sum(-1) > 1e-6
    assert torch.equal(reached, same_document(batch, 1)), "a document's last token reads nothing ahead"


def test_deviation_tells_a_collapsed_trunk_from_a_sound_one():
    model, objective, batch = WithHeads(), NextTokenConfig().build(), batch_of("padded")
    counts = objective.counts(batch)
    noise = torch.randn(6, 16, 32)
    for hidden, low, high in ((noise, 0.7, 1.0), (noise[:, :1] + 0.01 * noise, 0.0, 0.02)):
        terms = objective(Given(hidden, model), batch, counts).terms
        assert low < objective.means(terms, counts)["jepa.std"] < high
    unit = noise / noise.square().mean(-1, keepdim=True).sqrt()
    rows = [unit[b, :n] for b, n in enumerate(batch.valid.sum(1).tolist())]
    expected = sum(len(row) * row.std(0, correction=0).mean().item() for row in rows) / counts["tokens"]
    terms = objective(Given(noise, model), batch, counts).terms
    assert objective.means(terms, counts)["jepa.std"] == pytest.approx(expected, rel=1e-4)


def test_the_familys_weights_are_the_default():
    weights = {entry.name: entry.weight for entry in NextTokenConfig().auxiliary}
    assert weights | {"moe.balance": 0.01, "mtp": 0.3, "jepa": 0.1} == weights


def test_heads_without_a_weight_are_refused():
    batch = batch_of("plain")
    for weights, name in (({"jepa": 0.1}, "mtp"), ({"mtp": 0.3}, "jepa")):
        objective = weighed(**weights).build()
        with pytest.raises(ConfigError, match=name):
            objective(WithHeads(), batch, objective.counts(batch))


def test_a_head_beyond_what_is_counted_is_refused():
    objective, batch = NextTokenConfig().build(), batch_of("plain")
    with pytest.raises(ConfigError, match=f"{FARTHEST + 1} tokens ahead"):
        objective(WithHeads(drafts=0, distance=FARTHEST + 1), batch, objective.counts(batch))


def test_fine_tuning_trains_heads_on_the_assistants_words_alone():
    model, objective, batch = WithHeads(), SFTConfig().build(), batch_of("masked")
    counts = objective.counts(batch)
    loss = objective(model, batch, counts)
    other = TokenBatch(
        batch.tokens,
        torch.where(batch.loss_mask, batch.targets, (batch.targets + 1) % W),
        batch.loss_mask,
        batch.segments,
        row_bytes=batch.row_bytes,
    )
    assert torch.equal(objective(model, other, counts).total, loss.total)
    assert {"mtp.1", "mtp.3", "jepa.2", "jepa.std"} <= objective.means(loss.terms, counts).keys()


def test_training_teaches_the_heads():
    """Draft heads learn a text whose every token gives the one after the next away."""
    rows = torch.arange(17).expand(8, -1) % 6 + 1
    stream = SimpleNamespace(next=lambda n: TokenBatch.of(rows[:n], spelled_bytes=torch.ones(W, dtype=torch.long)))
    stream.position, stream.seek = dict, lambda position: None
    run, recorder = trainer(model=WithHeads(), stream=stream, steps=40)
    run.run()
    first, last = recorder.steps[0], recorder.steps[-1]
    for name in ("mtp.1", "mtp.2", "mtp.3", "jepa.2"):
        assert last[name] < 0.5 * first[name], (name, first[name], last[name])
