"""`positronic fractal`: a table is built, hashed, and recognised; a wrong one ends in one sentence and code 2."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from positronic.checkpoint import save
from positronic.cli import main
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.language_model import LanguageModel
from positronic.models.transformer import TransformerConfig
from positronic.text import byte_tokenizer
from positronic.traits.fractal_phase import FractalPhaseConfig, fractal_sha256, fractal_table

RINGS = (4, 8)


@dataclass(frozen=True, kw_only=True)
class SeededConfig(TransformerConfig, kind="test_seeded"):
    """A model with a fractal table somewhere inside: what `verify` has to find."""

    seeds: tuple[FractalPhaseConfig, ...] = ()

    def build(self) -> LanguageModel:
        model = LanguageModel(self)
        for number, seed in enumerate(self.seeds):
            model.add_module(f"seed{number}", seed.build_shared(self.vocab_size, RINGS))
        return model


def checkpoint(folder, *seeds):
    tokenizer = byte_tokenizer()
    config = SeededConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=16,
        context=16,
        max_positions=16,
        n_layers=1,
        attention=AttentionConfig(n_heads=1, n_kv_heads=1, head_dim=8, rank=None, rope_dims=0),
        channel=SwiGLUConfig(hidden=8),
        seeds=seeds,
    )
    return save(folder, build(config), tokenizer)


def answer(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["fractal", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["fractal", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not out
    return err


@pytest.mark.parametrize("levels", [1, 3])
def test_a_table_that_was_built_verifies(tmp_path, capsys, levels):
    path, more = tmp_path / "table.npy", ["--levels", levels] if levels > 1 else []
    built = answer(capsys, "build", "--vocab-size", 300, "--columns", 12, "--out", path, *more)
    table = np.load(path)
    assert np.array_equal(table, fractal_table(300, 12, levels))
    assert built["sha256"] == fractal_sha256(table)
    (found,) = answer(capsys, "verify", path, "--sha256", built["sha256"], *more)["tables"]
    assert found | {"file": found["name"]} == built | {"name": str(path), "pinned": True}


def test_one_changed_number_is_found_and_named(tmp_path, capsys):
    table = fractal_table(30, 12)
    table[17, 5] += 1
    np.save(tmp_path / "table.npy", table)
    assert "row 17, column 5" in complaint(capsys, "verify", tmp_path / "table.npy")


def test_another_hash_and_other_levels_are_refused(tmp_path, capsys):
    np.save(tmp_path / "table.npy", fractal_table(30, 12))
    assert "--sha256 asks for 00" in complaint(capsys, "verify", tmp_path / "table.npy", "--sha256", "00" * 32)
    assert "levels 2" in complaint(capsys, "verify", tmp_path / "table.npy", "--levels", 2)
    assert "use 1 to 4" in complaint(capsys, "verify", tmp_path / "table.npy", "--levels", 6)


def test_what_is_no_table_is_refused(tmp_path, capsys):
    np.save(tmp_path / "floats.npy", np.zeros((3, 4)))
    (tmp_path / "text.npy").write_text("no table")
    whole = (tmp_path / "floats.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    assert "int16" in complaint(capsys, "verify", tmp_path / "floats.npy")
    for name in ("text.npy", "cut.npy"):
        assert "no whole file" in complaint(capsys, "verify", tmp_path / name)
    assert "No such file" in complaint(capsys, "verify", tmp_path / "nothing.npy")
    assert "manifest.json" in complaint(capsys, "verify", tmp_path)
    nowhere = tmp_path / "no" / "folder.npy"
    assert "another --out" in complaint(capsys, "build", "--vocab-size", 3, "--columns", 4, "--out", nowhere)


def test_a_checkpoint_is_compared_with_the_hash_in_its_config(tmp_path, capsys):
    vocab_size = byte_tokenizer().vocab_size
    plain, levels = (fractal_sha256(fractal_table(vocab_size, sum(RINGS), n)) for n in (1, 2))
    folder = checkpoint(tmp_path / "pinned", FractalPhaseConfig(sha256=plain), FractalPhaseConfig(levels=2))
    tables = {table["name"]: table for table in answer(capsys, "verify", folder)["tables"]}
    assert {name: table["sha256"] for name, table in tables.items()} == {"seed0": plain, "seed1": levels}
    assert {name: table["pinned"] for name, table in tables.items()} == {"seed0": True, "seed1": False}
    assert main(["fractal", "verify", str(folder)]) == 0
    assert "stores no hash of seed1" in capsys.readouterr().err
    assert "--sha256 asks for" in complaint(capsys, "verify", folder, "--sha256", plain)
    assert "--levels" in complaint(capsys, "verify", folder, "--levels", 2)


def test_a_checkpoint_whose_table_this_build_makes_otherwise_is_refused(tmp_path, capsys, monkeypatch):
    table = fractal_table(byte_tokenizer().vocab_size, sum(RINGS))
    folder = checkpoint(tmp_path / "pinned", FractalPhaseConfig(sha256=fractal_sha256(table)))
    monkeypatch.setattr("positronic.traits.fractal_phase.ANGLE_STEPS", 2**12)
    said = complaint(capsys, "verify", folder)
    assert f"its config asks for {fractal_sha256(table)}" in said


def test_a_checkpoint_without_fractal_phases_says_so(tmp_path, capsys):
    assert "no fractal phases" in complaint(capsys, "verify", checkpoint(tmp_path / "plain"))
