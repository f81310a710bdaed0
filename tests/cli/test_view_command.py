"""view writes one page, and says in one sentence why it does not."""

import json
import re

import pytest

from positronic.checkpoint import save
from positronic.cli import main
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build, preset
from positronic.models.transformer import TransformerConfig
from positronic.text import byte_tokenizer

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    config = preset("positronic-tiny").replace(d_model=32, context=32, max_positions=64, n_layers=2)
    config = config.replace(attention=config.attention.replace(head_dim=16, rank=16, rope_dims=8))
    model = build(config.fitted(TOKENIZER.vocab_size, TOKENIZER.eot_id), 1, tokenizer=TOKENIZER)
    return save(tmp_path_factory.mktemp("rings") / "model", model, TOKENIZER)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size,
        d_model=16,
        context=32,
        max_positions=32,
        n_layers=1,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=24),
    )
    return save(tmp_path_factory.mktemp("plain") / "model", build(config, 1), TOKENIZER)


def view(folder, out, *words, prompt="The lamp"):
    return main(["view", str(folder), "--prompt", prompt, "--out", str(out), "--device", "cpu", *map(str, words)])


@pytest.mark.parametrize("family", ["rings", "plain"])
def test_one_page_holds_the_run_and_asks_for_nothing(family, request, tmp_path, capsys):
    out = tmp_path / "view.html"
    assert view(request.getfixturevalue(family), out, "--tokens", 4, "--json") == 0
    said, text = json.loads(capsys.readouterr().out), out.read_text("utf-8")
    assert said["bytes"] == len(out.read_bytes())
    assert said["layers"] == ([1, 2] if family == "rings" else [])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["tokens"]) == said["tokens"] >= len("The lamp")
    assert "".join(data["pieces"]).startswith("The lamp")
    assert not re.search(r'(src|href)="(?!data:)', text), "the page names an address"


def test_one_layer_is_recorded_alone(rings, tmp_path, capsys):
    assert view(rings, tmp_path / "view.html", "--tokens", 2, "--layer", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == [2]


@pytest.mark.parametrize(
    ("words", "prompt", "said"),
    [
        (["--layer", "3"], "a", "--layer is 3, and this model has layers 1 to 2"),
        (["--layer", "0"], "a", "--layer is 0, and this model has layers 1 to 2"),
        ([], "", "The prompt is empty after tokenizing"),
        (["--tokens", "0"], "a", "--tokens is 0"),
        ([], "x" * 70, "Shorten it by 6"),
        (["--temperature", "-1"], "a", "temperature is -1"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(rings, tmp_path, capsys, words, prompt, said):
    out = tmp_path / "view.html"
    assert view(rings, out, *words, prompt=prompt) == 2
    printed, error = capsys.readouterr()
    assert said in error
    assert error.count("\n") == 1
    assert not printed
    assert not out.exists()


def test_a_place_that_is_not_there_is_named(rings, tmp_path, capsys):
    assert view(rings, tmp_path / "no" / "view.html") == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_family_without_layers_to_look_into_takes_no_layer(plain, tmp_path, capsys):
    assert view(plain, tmp_path / "view.html", "--layer", 1) == 2
    assert "has none; leave it out" in capsys.readouterr().err
