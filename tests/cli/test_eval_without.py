"""eval --without measures the model with organs silenced, and says which."""

import json

import pytest

from positronic.checkpoint import save
from positronic.cli import main
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig
from positronic.text import byte_tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    place = tmp_path_factory.mktemp("without")
    config = TransformerConfig(
        vocab_size=384,
        d_model=16,
        context=32,
        max_positions=32,
        n_layers=1,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=24),
    )
    model = build(config, 1)
    for weight in model.parameters():
        weight.data.mul_(6 if weight.dim() == 2 else 1)
    (place / "text.txt").write_text("A lamp on a desk, and nobody there. " * 5, "utf-8")
    save(place / "model", model, byte_tokenizer())
    return ["eval", str(place / "model"), "--data", str(place / "text.txt"), "--device", "cpu"]


def answer(capsys, words):
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_organs_off_change_the_score_and_are_named_in_the_result(words, capsys):
    whole = answer(capsys, words)
    found = {
        off: answer(capsys, [*words, "--without", *off])
        for off in [("swiglu",), ("attention",), ("attention", "swiglu")]
    }
    assert whole["without"] == []
    assert {off: tuple(score["without"]) for off, score in found.items()} == {off: off for off in found}
    scores = {whole["bits_per_byte"], *(score["bits_per_byte"] for score in found.values())}
    assert len(scores) == 4, "an organ that was switched off changed nothing"
    assert {score["bytes"] for score in found.values()} == {whole["bytes"]}


def test_the_table_says_what_was_off(words, capsys):
    assert main([*words, "--without", "swiglu"]) == 0
    assert "without swiglu" in capsys.readouterr().out


def test_an_organ_that_the_model_lacks_is_refused(words, capsys):
    capsys.readouterr()
    assert main([*words, "--without", "engram"]) == 2
    out, err = capsys.readouterr()
    assert "it has attention, swiglu" in err
    assert "Traceback" not in err + out
