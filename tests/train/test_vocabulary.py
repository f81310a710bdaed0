"""Beginning from a model with another vocabulary: refused, or the trunk is kept and all that goes by ids is new."""

import json

import pytest
import torch
from family_example import MYCEL, QUAZIMOTO
from train_example import small_config

from positronic.checkpoint import load_model, save
from positronic.cli import main
from positronic.errors import CheckpointError, ConfigError, TokenizerError
from positronic.models import build
from positronic.recipes import RunConfig, fit_to, train_run
from positronic.text import Tokenizer, byte_tokenizer, train_bpe, train_length_max
from positronic.train import DPOConfig, TrainConfig, trunk_from

TEXT = "Nobody had lit the lamp, and the lamp was cold. " * 40
BY_ID = {"control": {"embed.weight"}, "colony": {"embed.weight"}}
BY_ID["untied"] = {"embed.weight", "unembed.weight"}
BY_ID["rings"] = {"embed.weight", "shared.engram.table", "shared.engram.canon"}
CONFIGS = {
    "control": small_config,
    "untied": lambda: small_config().replace(tied=False),
    "rings": QUAZIMOTO.small,
    "colony": MYCEL.small,
}
TOKENIZERS = {"longer": lambda: train_length_max([TEXT], 394), "bpe": lambda: train_bpe([TEXT], 412)}
"""Of as many entries as the text has use for."""


@pytest.fixture(scope="module", params=CONFIGS)
def old(request, tmp_path_factory):
    """Family, and a checkpoint of it whose tokenizer is plain bytes; weights are such as no new model has."""
    tokenizer = byte_tokenizer()
    model = build(fit_to(CONFIGS[request.param](), tokenizer), seed=7, tokenizer=tokenizer)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.125
    return request.param, save(tmp_path_factory.mktemp(request.param) / "old", model, tokenizer)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join([TEXT] * 30), "utf-8")
    return path


def run_from(old, text, **settings) -> RunConfig:
    train = TrainConfig(steps=2, seq_len=16, batch_tokens=32, evaluate_every=0)
    return RunConfig(
        model=load_model(old).config, data=(str(text),), held_out_one_in=5, train=train, init=str(old), **settings
    )


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_another_vocabulary_is_refused_before_anything_is_written(old, text, tmp_path, tokenizer):
    with pytest.raises(
        TokenizerError, match=r"another vocabulary.*every id would mean another piece.*--reinit-embeddings"
    ):
        train_run(run_from(old[1], text), tmp_path / "run", tokenizer=TOKENIZERS[tokenizer](), device="cpu")
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_of_the_same_size_is_refused_too(old, text, tmp_path):
    one, other = (train_length_max([t], 390) for t in (TEXT, TEXT.upper()))
    assert one.vocab_size == other.vocab_size
    model = build(fit_to(load_model(old[1]).config, one) if old[0] == "control" else small_config(390), tokenizer=one)
    folder = save(tmp_path / "one", model, one)
    with pytest.raises(TokenizerError, match="another vocabulary"):
        train_run(run_from(folder, text), tmp_path / "run", tokenizer=other, device="cpu")


def test_the_same_vocabulary_in_a_file_of_other_bytes_is_the_same(old, text, tmp_path):
    file = tmp_path / "tok" / "tokenizer.json"
    byte_tokenizer().save(file.parent)
    before = file.read_bytes()
    file.write_text(json.dumps(json.loads(before), indent=7), "utf-8")
    assert file.read_bytes() != before
    state = train_run(
        run_from(old[1], text), tmp_path / "run", tokenizer=Tokenizer.load(file.parent), device="cpu", until=0
    )
    assert state.counters.step == 0
    ours, theirs = (load_model(folder).state_dict() for folder in (tmp_path / "run" / "last", old[1]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_trunk_is_kept_and_what_goes_by_ids_is_new(old, text, tmp_path, tokenizer):
    family, folder = old
    other = TOKENIZERS[tokenizer]()
    run = run_from(folder, text, reinit_embeddings=True)
    train_run(run, tmp_path / "run", tokenizer=other, device="cpu", until=0)
    began = load_model(tmp_path / "run" / "last")
    theirs = load_model(folder).state_dict()
    fresh = build(began.config, run.model_seed, tokenizer=other).state_dict()
    assert began.config.vocab_size == other.vocab_size
    for name, values in began.state_dict().items():
        assert torch.equal(values, (fresh if name in BY_ID[family] else theirs)[name]), name
    state = train_run(run, tmp_path / "run", go_on=True, device="cpu")
    assert (state.stopped, state.counters.step) == ("finished", 2)


def test_organs_cannot_be_added_together_with_a_vocabulary(tmp_path):
    old, tokenizer = small_config(384), byte_tokenizer()
    folder = save(tmp_path / "old", build(old), tokenizer)
    with pytest.raises(CheckpointError, match="no part can be added"):
        trunk_from(folder, build(old.replace(n_layers=3, vocab_size=500)))


def test_new_embeddings_without_another_model_or_with_preferences_are_refused():
    plain = RunConfig(model=small_config(), data=("x",))
    with pytest.raises(ConfigError, match="it needs init"):
        plain.replace(reinit_embeddings=True)
    with pytest.raises(ConfigError, match="preferences"):
        plain.replace(reinit_embeddings=True, init="x", train=TrainConfig(objective=DPOConfig()))


def test_the_command_refuses_and_keeps_the_trunk_where_asked(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    folder = save(tmp_path / "old", build(small_config(384)), byte_tokenizer())
    train_length_max([TEXT], 390).save(tmp_path / "tok")
    words = ["train", "--init", str(folder), "--tokenizer", str(tmp_path / "tok"), "--data", str(text)]
    words += ["--out", str(tmp_path / "run"), "--device", "cpu", "--steps", "2", "--batch-tokens", "64"]
    assert main(words) == 2
    assert "--reinit-embeddings" in capsys.readouterr().err
    assert main([*words, "--reinit-embeddings"]) == 0
    assert Tokenizer.load(tmp_path / "run" / "last").vocab_size == 390
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert main(["train", "--resume", "--reinit-embeddings", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
