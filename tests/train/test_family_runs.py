"""Training families with every organ: resumed, added up, saved, begun from less; nothing is left out."""

import random
from contextlib import suppress

import pytest
import torch
from family_example import BYTES, EOT, MYCEL, QUAZIMOTO, logits_of, tokens_of
from killed_run import CONFIG, TOKENIZER, Stops, validate
from torch import Tensor
from train_example import Stream

from positronic.checkpoint import load, load_model
from positronic.errors import CheckpointError
from positronic.models import build, mixer_only
from positronic.train import AdamWConfig, MuonConfig, NextTokenConfig, TrainState, init_from, resume, start

WHOLE = QUAZIMOTO.small(vocab_size=BYTES, boundary_id=EOT)
T = 40
"""Tokens of a row: more than the token loops take, and no whole number of chunks."""
CANCELLED = 1e-9
"""Rounding left where a scalar's gradient is a sum whose terms cancel; the whole gradient is of size 1."""
OPTIMIZERS = {"adamw": AdamWConfig(lr=1e-2), "muon": MuonConfig(lr=1e-2)}


def config_of(optimizer: str, steps: int = 9):
    """Checkpoints every third step, rows that do not fill the last micro-batch."""
    short = CONFIG.replace(steps=steps, seq_len=T, batch_tokens=4 * T, micro_rows=3, optimizer=OPTIMIZERS[optimizer])
    return short.replace(evaluate_every=4, checkpoint_every=3)


def stream() -> Stream:
    return Stream(vocab_size=BYTES, padded=True, seq_len=T)


def train(out, model, config, observers=()) -> TrainState:
    return start(
        config,
        model=model,
        tokenizer=TOKENIZER,
        data=stream(),
        out=out,
        device="cpu",
        validate=validate,
        observers=observers,
    )


def whole(seed: int = 1):
    return build(WHOLE, seed, tokenizer=TOKENIZER)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def unbroken(request, tmp_path_factory):
    """Optimizer, run folder and model of a run that nothing disturbed."""
    run, model = tmp_path_factory.mktemp(request.param) / "run", whole()
    assert train(run, model, config_of(request.param)).stopped == "finished"
    return request.param, run, model.eval()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_a_random_step_goes_on_to_the_same_bytes(tmp_path, unbroken, seed):
    optimizer, done, _ = unbroken
    config, run, killed = config_of(optimizer), tmp_path / "run", random.Random(seed).randrange(4, 9)
    with suppress(Stops.Stopped):
        train(run, whole(), config, [Stops(killed)])
    assert not (run / "step-00000009").exists()
    assert resume(run, config, data=stream(), device="cpu", validate=validate).stopped == "finished"
    ours, theirs = (folder / "last" / "model.safetensors" for folder in (done, run))
    assert theirs.read_bytes() == ours.read_bytes()


def test_a_killed_run_of_the_colony_goes_on_to_the_same_bytes(tmp_path):
    config, colony = config_of("muon"), MYCEL.small(vocab_size=BYTES, boundary_id=EOT)
    train(tmp_path / "unbroken", build(colony, 1, tokenizer=TOKENIZER), config)
    with suppress(Stops.Stopped):
        train(tmp_path / "killed", build(colony, 1, tokenizer=TOKENIZER), config, [Stops(5)])
    assert resume(tmp_path / "killed", config, data=stream(), device="cpu", validate=validate).stopped == "finished"
    ours, theirs = (tmp_path / name / "last" / "model.safetensors" for name in ("unbroken", "killed"))
    assert theirs.read_bytes() == ours.read_bytes()


def test_training_opens_every_gate_and_every_silent_matrix(unbroken):
    _, _, model = unbroken
    new = dict(whole().named_parameters())
    still = [name for name, p in model.named_parameters() if torch.equal(p, new[name])]
    assert not still


@torch.no_grad()
def test_a_checkpoint_gives_back_every_bit(unbroken):
    _, run, model = unbroken
    loaded, tokenizer = load(run / "last")
    canon = loaded.shared["engram"].canon
    assert torch.equal(canon, model.shared["engram"].canon)
    assert not torch.equal(canon, torch.arange(BYTES, dtype=canon.dtype)), "the identity proves nothing"
    assert tokenizer.sha256 == TOKENIZER.sha256
    assert loaded.config == model.config
    tokens = tokens_of(2, T).index_fill(1, torch.tensor([13]), EOT)
    assert torch.equal(logits_of(loaded.eval(), tokens), logits_of(model, tokens))
    guesses, ours = (m.drafts(m(tokens).hidden) for m in (loaded, model))
    assert torch.equal(guesses, ours)


def gradients(model, parts) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of the full objective over micro-batches of one batch, and its terms."""
    objective = NextTokenConfig().build()
    batch = stream().next(8)
    counts, sums = objective.counts(batch), {}
    for part in parts:
        loss = objective(model, batch.rows(part), counts)
        loss.total.backward()
        for name, value in loss.terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: p.grad for name, p in model.named_parameters()}, objective.means(sums, counts)


@pytest.mark.parametrize("cut", [4, 3])
def test_two_micro_batches_are_one_batch(cut):
    """Draft heads, JEPA head and balance of experts included: rows are padded and documents end inside them."""
    ours, terms = gradients(QUAZIMOTO.opened(whole()), [slice(0, 8)])
    theirs, others = gradients(QUAZIMOTO.opened(whole()), [slice(0, cut), slice(cut, 8)])
    assert {"moe.balance", "mtp.1", "mtp.4", "jepa.4", "jepa.std"} <= terms.keys()
    for name, value in terms.items():
        assert others[name] == pytest.approx(value, rel=1e-5), name
    for name, g in ours.items():
        assert (theirs[name] - g).norm() < 1e-5 * g.norm() + CANCELLED, name


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A trained model of oscillators alone."""
    run = tmp_path_factory.mktemp("bare") / "run"
    train(run, build(mixer_only(WHOLE), 1, tokenizer=TOKENIZER), config_of("adamw", steps=2))
    return run / "last"


@torch.no_grad()
def test_organs_may_be_added_to_trained_oscillators(bare):
    model, old = whole(seed=5), load_model(bare)
    init_from(bare, model)
    tokens = tokens_of(2, T).index_fill(1, torch.tensor([13]), EOT)
    assert torch.equal(logits_of(model.eval(), tokens), logits_of(old.eval(), tokens))
    for name, values in old.state_dict().items():
        assert torch.equal(model.state_dict()[name], values), name


def test_oscillators_that_begin_from_added_organs_train_on(bare, tmp_path):
    model = whole(seed=5)
    init_from(bare, model)
    assert train(tmp_path / "run", model, config_of("adamw", steps=2)).stopped == "finished"


def test_organs_cannot_be_left_out_of_a_trained_model(unbroken):
    _, run, _ = unbroken
    with pytest.raises(CheckpointError, match=r"not in this model.*--init"):
        init_from(run / "last", build(mixer_only(WHOLE), seed=5))


OPENING = (".g", "shared.ring_controller.decoder", "down.weight")
"""How the names of the zero-started parameters that open an organ end."""
BEHIND_ZEROS = ("trunk.4.", "trunk.5.mixer.gate.", "trunk.5.mixer.up.", "drafts.")
"""HRM, experts and draft heads, whose contents wait for a matrix of zeros to move; the router learns to balance."""


def test_new_organs_learn_from_the_first_step_and_what_zeros_hide_from_the_second():
    """Of the controllers' decoder the column of the drive moves in the second, when there is a current to drive."""
    model = whole()
    opening = {name: p for name, p in model.named_parameters() if name.endswith(OPENING) and not p.any()}
    gates, matrices = 2 * (1 + 1 + 2 + 4), 1 + 1 + 1 + 4
    assert len(opening) == gates + matrices
    first, _ = gradients(model, [slice(0, 8)])
    assert all(g.isfinite().all() for g in first.values())
    asleep = {name for name, g in first.items() if not g.any()}
    assert asleep == {name for name in first if name.startswith(BEHIND_ZEROS) and name not in opening}
    for name, p in opening.items():
        assert name[-2:] != ".g" or p.grad.all(), name
    assert not first["shared.ring_controller.decoder"][..., 3].any()

    with torch.no_grad():
        for p in opening.values():
            p -= p.grad
    model.zero_grad()
    second, _ = gradients(model, [slice(0, 8)])
    assert all(g.isfinite().all() for g in second.values())
    assert not [name for name, g in second.items() if not g.any()]
    assert second["shared.ring_controller.decoder"].any(0).any(0).all()
