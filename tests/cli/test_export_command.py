"""`positronic export` as a stranger uses it: what it writes, and what it refuses in one sentence."""

import json

import pytest
import torch

import positronic
from positronic.checkpoint import save
from positronic.cli import main
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig
from positronic.text import byte_tokenizer

SMALL = TransformerConfig(
    vocab_size=384,
    d_model=32,
    context=32,
    max_positions=64,
    n_layers=2,
    attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16, rank=None, rope_dims=8),
    channel=SwiGLUConfig(hidden=32),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints; its newest is what a run's folder stands for."""
    run = tmp_path_factory.mktemp("cli") / "run"
    for step in (1, 2):
        save(run / f"step-{step:08d}", build(SMALL, seed=step), byte_tokenizer())
    return run


def answer(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["export", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["export", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    return err


def test_a_run_is_exported_with_its_code_and_both_ways_are_said(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "hf-remote-code", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert f"{sum(p.numel() for p in build(SMALL).parameters()):,} parameters of family transformer" in out
    assert "import positronic.adapters.hf" in err
    assert "trust_remote_code=True" in err
    auto_map = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"}
    assert all((tmp_path / "out" / f"{place.partition('.')[0]}.py").is_file() for place in auto_map.values())
    first = next(positronic.load(tmp_path / "out")[0].parameters())
    assert torch.equal(first, next(positronic.load(run / "step-00000002")[0].parameters()))


def test_bf16_is_half_as_large_and_says_what_it_is(run, tmp_path, capsys):
    whole = answer(capsys, run, "--format", "safetensors", "--out", tmp_path / "whole")
    half = answer(capsys, run, "--format", "safetensors-bf16", "--out", tmp_path / "half")
    assert (whole["dtype"], half["dtype"]) == ("float32", "bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[0] > 1.8 * sizes[1]
    assert half["n_bytes"] == sum(path.stat().st_size for path in (tmp_path / "half").iterdir())
    assert sorted(half["files"]) == sorted(path.name for path in (tmp_path / "half").iterdir())


def test_weights_are_cut_into_files(run, tmp_path, capsys):
    big = build(SMALL.replace(vocab_size=384, d_model=1024), seed=0)
    save(tmp_path / "big", big, byte_tokenizer())
    found = answer(capsys, tmp_path / "big", "--shard-size", "1MB", "--out", tmp_path / "out")
    shards = [name for name in found["files"] if name.startswith("model-")]
    assert len(shards) > 1
    assert torch.equal(next(positronic.load(tmp_path / "out")[0].parameters()), next(big.parameters()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "gguf"], "llama.cpp has none for these families; use --format hf-remote-code"),
        (["--format", "safetensor"], "There is no format 'safetensor'. Did you mean safetensors"),
        (["--format", "safetensors-bf16", "--dtype", "float16"], "use --format safetensors."),
        (["--shard-size", "12"], "--shard-size is '12'; write 500MB or 2GB, say."),
        (["--shard-size", "0GB"], "--shard-size is '0GB'; write 500MB or 2GB, say."),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(run, tmp_path, capsys, words, said):
    assert said in complaint(capsys, run, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_or_no_checkpoint_is_refused(run, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").write_text("mine")
    assert "Give the export a new name" in complaint(capsys, run, "--out", tmp_path / "taken")
    assert "has no manifest.json" in complaint(capsys, tmp_path / "taken", "--out", tmp_path / "out")
    assert "There is no checkpoint at" in complaint(capsys, tmp_path / "nowhere", "--out", tmp_path / "out")
    nested = tmp_path / "taken" / "diary.txt" / "out"
    assert "could not be written:" in complaint(capsys, run, "--out", nested)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
