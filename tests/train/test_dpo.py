"""Preference: log 2 at the start, antisymmetric in its two answers, the published loss, and no step without a pair."""

import json
import math
from dataclasses import replace

import pytest
import torch
from chimera_example import small_chimera
from family_example import FAMILIES
from killed_run import Stops
from torch.nn import functional as F
from train_example import small_config

from laws import enliven
from positronic.checkpoint import load, save
from positronic.data import pair_mixture
from positronic.errors import ConfigError, TrainingError
from positronic.models import build
from positronic.recipes import RunConfig, train_run
from positronic.text import byte_tokenizer
from positronic.train import AdamWConfig, DPOConfig, TrainConfig

TOKENIZER = byte_tokenizer()
ROW = 96


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [{"prompt": f"count to {i}", "chosen": f"it is {i}.", "rejected": "go away"} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def batch(pairs, tmp_path_factory):
    mixture = pair_mixture([str(pairs)], TOKENIZER, seq_len=ROW, one_in=None, cache=tmp_path_factory.mktemp("cache"))
    return mixture.next(6)


def small(seed=0):
    return build(small_config(TOKENIZER.vocab_size, ROW), seed)


def log_probabilities(model, batch):
    """By hand: one pair after the other, each document alone in its row."""
    found = []
    for row in range(len(batch)):
        for document in range(0, int(batch.segments[row].max()) + 1, 2):
            here = batch.segments[row] == document
            tokens, targets, mask = batch.tokens[row][here], batch.targets[row][here], batch.loss_mask[row][here]
            log_p = F.log_softmax(model.logits(model(tokens[None]).hidden[0]), -1)
            found.append(log_p.gather(-1, targets[:, None])[:, 0][mask].sum())
    return torch.stack(found).view(-1, 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_published_one(batch, smoothing):
    model, reference = small(1), small(2)
    objective = DPOConfig(beta=0.3, label_smoothing=smoothing, nll=0.0).build({"reference": reference})
    counts = objective.counts(batch)
    gain = log_probabilities(model, batch) - log_probabilities(reference, batch)
    margin = 0.3 * (gain[:, 0] - gain[:, 1])
    wanted = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    assert counts["pairs"] == len(gain)
    assert objective(model, batch, counts).total.item() == pytest.approx(wanted.mean().item(), rel=1e-5)


def test_an_untouched_model_pays_log_two_exactly(batch):
    model = small()
    objective = DPOConfig().build({"reference": small()})
    counts = objective.counts(batch)
    means = objective.means({k: v.item() for k, v in objective(model, batch, counts).terms.items()}, counts)
    assert means["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert means["margin"] == means["chosen"] == means["rejected"] == 0.0


def looped(scale=0.1):
    """A model in training, whose loop has a say."""
    config = small_chimera(vocab_size=TOKENIZER.vocab_size, context=ROW, boundary_id=TOKENIZER.eot_id)
    return enliven(build(config), scale).train()


def test_a_loop_is_passed_as_often_by_a_model_as_by_its_reference(batch):
    model, reference = looped(), looped().eval()
    torch.manual_seed(0)
    assert not torch.equal(model(batch.tokens).hidden, model(batch.tokens).hidden), "no depth is drawn"
    objective = DPOConfig().build({"reference": reference})
    terms = objective(model, batch, objective.counts(batch)).terms
    assert terms["margin"] == terms["chosen"] == terms["rejected"] == 0.0


def test_the_gradient_is_antisymmetric_at_the_start(batch):
    turned = replace(batch, segments=torch.where(batch.segments < 0, batch.segments, batch.segments ^ 2))
    found = []
    for one in (batch, turned):
        model = small()
        objective = DPOConfig(nll=0.0).build({"reference": small()})
        objective(model, batch if one is batch else one, objective.counts(one)).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], -found[1], rtol=1e-4, atol=1e-8)
    assert found[0].abs().max() > 0


@pytest.mark.parametrize(("make", "other"), [(small, 2), (looped, 0.12)])
def test_micro_batches_add_up_to_the_batch(batch, make, other):
    """Equal rows say the same beside any others: nothing about them is drawn."""
    model, objective = make(), DPOConfig().build({"reference": make(other)})
    counts = objective.counts(batch)
    parts = sum(objective(model, batch.rows(slice(i, i + 2)), counts).total.item() for i in range(0, len(batch), 2))
    assert parts == pytest.approx(objective(model, batch, counts).total.item(), rel=1e-5)


def test_a_batch_without_a_pair_is_refused(batch):
    with pytest.raises(TrainingError, match="no pair of answers"):
        DPOConfig().build({"reference": small()}).counts(replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)))
    with pytest.raises(ConfigError, match="beta"):
        DPOConfig(beta=0.0)


def preferring(config, base, pairs, **changes):
    train = TrainConfig(
        objective=DPOConfig(),
        optimizer=AdamWConfig(lr=3e-3, weight_decay=0.0),
        steps=12,
        seq_len=64,
        batch_tokens=8 * 64,
        evaluate_every=6,
        checkpoint_every=4,
    )
    return RunConfig(model=config, data=(str(pairs),), init=str(base), train=train, held_out_one_in=8, **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_what_is_preferred(family, pairs, tmp_path):
    config = FAMILIES[family].small().fitted(TOKENIZER.vocab_size, TOKENIZER.eot_id)
    save(tmp_path / "base", build(config, 0, tokenizer=TOKENIZER), TOKENIZER)
    run = preferring(config, tmp_path / "base", pairs)
    state = train_run(run, tmp_path / "run", tokenizer=TOKENIZER, device="cpu", cache=tmp_path / "cache")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    measured = [event for event in events if event["event"] == "evaluation"]
    assert state.stopped == "finished"
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert measured[-1]["accuracy"] == 1.0


def test_an_interrupted_run_goes_on_against_the_same_reference(pairs, tmp_path):
    save(tmp_path / "base", small(), TOKENIZER)
    run = preferring(small().config, tmp_path / "base", pairs)
    cache = tmp_path / "cache"
    train_run(run, tmp_path / "whole", tokenizer=TOKENIZER, device="cpu", cache=cache)
    with pytest.raises(Stops.Stopped):
        train_run(run, tmp_path / "broken", tokenizer=TOKENIZER, device="cpu", cache=cache, observers=[Stops(8)])
    train_run(run, tmp_path / "broken", go_on=True, device="cpu", cache=cache)
    whole, broken = (load(tmp_path / name / "last")[0].state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
