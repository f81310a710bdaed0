"""Every token once, every loss by its definition, every run to the same bits however often it is stopped."""

import json
from math import log

import numpy as np
import pytest
from stories import TEXT, small_trainer

from positronic_course import CourseError, ch10_training
from positronic_course.ch01_tokenizers import BPETokenizer
from positronic_course.ch07_loss import forward
from positronic_course.ch10_training import Corpus, Trainer, batches, checkpoints, evaluate, read


def bits(trainer):
    """Everything that a run is made of."""
    arrays = trainer.parameters | {f"optimiser.{name}": a for name, a in trainer.optimiser.to_arrays().items()}
    return {name: a.tobytes() for name, a in arrays.items()} | {"losses": trainer.losses, "history": trainer.history}


def run(trainer, to=None):
    for step in trainer.run():
        if step == to:
            break
    return trainer


@pytest.mark.parametrize("n", [50, 100, 107])
def test_in_an_epoch_every_token_is_a_target_once_but_for_a_rest_shorter_than_a_window(n):
    epoch = list(batches(np.arange(n), context=10, rows=3, seed=0, epoch=0))
    ids, targets = (np.concatenate([pair[i].ravel() for pair in epoch]) for i in (0, 1))
    assert len(np.unique(targets)) == len(targets) == n // 10 * 10
    assert np.array_equal(targets, (ids + 1) % n)
    assert {len(pair[0]) for pair in epoch[:-1]} == {3}


def test_the_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        return np.concatenate([targets for _, targets in batches(np.arange(100), 10, 3, seed, epoch)])

    assert np.array_equal(order(1, 2), order(1, 2))
    assert not np.array_equal(order(1, 2), order(1, 3))
    assert not np.array_equal(order(1, 2), order(2, 2))


def test_the_last_tenth_is_held_out_and_its_first_token_is_guessed_from_the_training_text():
    corpus = Corpus.of(TEXT)
    cut = len(TEXT) * 9 // 10
    assert corpus.tokenizer.decode(corpus.training) == TEXT[:cut]
    assert corpus.tokenizer.decode(corpus.held_out) == TEXT[cut - 1 :]


def test_characters_of_the_held_out_text_that_were_never_seen_are_spelt_in_bytes():
    corpus = Corpus.of("\u00e9a\n" * 30 + "\u00fc")
    assert len(corpus.tokenizer) == 257
    assert corpus.tokenizer.decode(corpus.held_out).endswith("\u00fc")


def test_evaluation_equals_the_sum_over_tokens_one_by_one():
    tokenizer = BPETokenizer.learn(TEXT, 280)
    trainer = small_trainer()
    corpus = Corpus.of(TEXT, tokenizer)
    config = type(trainer.config)(**(trainer.settings()["model"] | {"vocab_size": len(tokenizer)}))
    trainer = Trainer(config, trainer.training, corpus)
    ids, T = corpus.training[:71], config.context
    nats = 0.0
    for at in range(1, len(ids)):
        begin = (at - 1) // T * T
        logits = forward(trainer.parameters, ids[None, begin:at], config)[0][0, -1].astype(np.float64)
        nats -= logits[ids[at]] - log(np.exp(logits).sum())
    found = evaluate(trainer.parameters, config, ids, tokenizer)
    assert found["nats_per_token"] == pytest.approx(nats / 70, rel=1e-6)
    n_bytes = len(tokenizer.decode(ids).encode()) - len(tokenizer.pieces[ids[0]])
    assert found["bits_per_byte"] == pytest.approx(nats / log(2) / n_bytes, rel=1e-6)


def test_training_lowers_both_losses_and_stays_in_float32():
    trainer = run(small_trainer(epochs=8))
    assert trainer.history[-1]["training"] < trainer.history[0]["training"] - 0.5
    assert trainer.history[-1]["held_out"] < trainer.history[0]["held_out"] - 0.5
    kept = {**trainer.parameters, **trainer.optimiser.to_arrays()}
    assert {a.dtype for name, a in kept.items() if name != "steps"} == {np.dtype("float32")}


@pytest.mark.parametrize("cut", [1, 7, 12, 25])
def test_a_run_goes_on_to_the_same_bits_from_any_step(cut, tmp_path):
    whole = run(small_trainer())
    assert whole.steps_an_epoch == 12
    run(small_trainer(), to=cut).save(tmp_path)
    second = small_trainer()
    second.go_on(tmp_path)
    assert len(second.losses) == cut
    assert bits(run(second)) == bits(whole)


def test_a_finished_run_goes_no_further(tmp_path):
    whole = run(small_trainer())
    whole.save(tmp_path)
    again = small_trainer()
    again.go_on(tmp_path)
    assert list(again.run()) == []
    assert bits(again) == bits(whole)


@pytest.mark.parametrize("file", [0, 1])
def test_a_kill_in_the_middle_of_writing_leaves_the_old_checkpoint(file, tmp_path, monkeypatch):
    whole = run(small_trainer())
    trainer = run(small_trainer(), to=5)
    trainer.save(tmp_path)
    run(trainer, to=9)
    written, savez = [], np.savez

    def killed(path, **arrays):
        written.append(path)
        if len(written) == file + 1:
            path.write_bytes(b"PK\x03\x04 half a file")
            raise KeyboardInterrupt
        savez(path, **arrays)

    monkeypatch.setattr(ch10_training.np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.save(tmp_path)
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000005"]
    second = small_trainer()
    second.go_on(tmp_path)
    run(second, to=20).save(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000020"]
    assert bits(run(second)) == bits(whole)


def test_a_kill_between_the_new_checkpoint_and_the_end_of_the_old_leaves_the_new(tmp_path, monkeypatch):
    trainer = run(small_trainer(), to=5)
    trainer.save(tmp_path)
    run(trainer, to=9)

    def killed(path, **_):
        if path.name.startswith("step-"):
            (path / "config.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(ch10_training.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.save(tmp_path)
    monkeypatch.undo()
    second = small_trainer()
    second.go_on(tmp_path)
    assert len(second.losses) == 9


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "is empty"), ("  \n\n ", "is empty"), ("one line of text, and no more\n", "a single line")],
)
def test_a_text_without_lines_is_refused(text, found):
    with pytest.raises(CourseError, match=found):
        Corpus.of(text)


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(CourseError, match="has 8 tokens, and one window of this model takes 16"):
        small_trainer("abcd\nefgh")


def test_a_loss_that_is_not_finite_ends_the_run():
    trainer = small_trainer()
    trainer.parameters["blocks.0.feed.up"][0, 0] = np.nan
    with pytest.raises(CourseError, match="gradient of step 0 is nan"):
        run(trainer)
    assert trainer.losses == []


def saved(folder):
    run(small_trainer(), to=3).save(folder)
    return checkpoints(folder)[-1]


def test_another_vocabulary_another_text_and_other_settings_are_refused_by_name(tmp_path):
    saved(tmp_path)
    bpe = Corpus.of(TEXT, BPETokenizer.learn(TEXT, 280))
    ours = small_trainer()
    other = Trainer(type(ours.config)(**(ours.settings()["model"] | {"vocab_size": 280})), ours.training, bpe)
    with pytest.raises(
        CourseError, match=r"vocabulary of 256 \(char\), this run has another one of 280 \(bpe\).*--clean"
    ):
        other.go_on(tmp_path)
    with pytest.raises(CourseError, match=r"begun with training\.epochs 4, this one has 5"):
        small_trainer(epochs=5).go_on(tmp_path)
    with pytest.raises(CourseError, match=r"begun with model\.d_hidden 24, this one has 32"):
        small_trainer(d_hidden=32).go_on(tmp_path)
    with pytest.raises(CourseError, match=r"begun with corpus\.sha256"):
        small_trainer(TEXT.replace("boat", "bark")).go_on(tmp_path)


def test_a_tokenizer_of_another_size_is_refused():
    trainer = small_trainer()
    with pytest.raises(CourseError, match="made for a vocabulary of 256, the tokenizer has 280"):
        Trainer(trainer.config, trainer.training, Corpus.of(TEXT, BPETokenizer.learn(TEXT, 280)))


def test_a_missing_model_says_how_to_train_one(tmp_path):
    with pytest.raises(CourseError, match=r"no model in .*nowhere.*train_simple"):
        read(tmp_path / "nowhere")


def test_files_of_two_models_are_refused(tmp_path):
    checkpoint = saved(tmp_path)
    (checkpoint / "tokenizer.json").write_text(BPETokenizer.learn(TEXT, 280).to_json(), "utf-8")
    with pytest.raises(CourseError, match=r"says 256 pieces, tokenizer\.json has 280, the embedding 256"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "parameters.npz", "optimiser.npz"])
@pytest.mark.parametrize("damage", ["halved", "emptied", "removed", "replaced"])
def test_a_damaged_file_is_named_and_never_half_read(name, damage, tmp_path):
    checkpoint = saved(tmp_path)
    path = checkpoint / name
    whole = path.read_bytes()
    match damage:
        case "halved":
            path.write_bytes(whole[: len(whole) // 2])
        case "emptied":
            path.write_bytes(b"")
        case "removed":
            path.unlink()
        case "replaced":
            path.write_bytes(json.dumps({"model": {}}).encode())
    with pytest.raises(CourseError, match=checkpoint.name):
        small_trainer().go_on(tmp_path)


def test_arrays_that_would_run_code_are_not_loaded(tmp_path):
    checkpoint = saved(tmp_path)
    np.savez(checkpoint / "parameters.npz", embedding=np.array([print], dtype=object))
    with pytest.raises(CourseError, match="cannot be read"):
        read(tmp_path)
