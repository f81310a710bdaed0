"""--keep-memory carries a conversation from one command to the next, --freeze-memory leaves its memories alone."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from positronic.checkpoint import load, load_conversation, load_memories, save
from positronic.cli import main
from positronic.generation import generate, memories_alone
from positronic.models import build
from positronic.text import byte_tokenizer
from remembering import equal_bits, remembering

sys.path.append(str(Path(__file__).parents[1] / "viz"))
from view_example import oscillators

TOKENS = byte_tokenizer()
SETTINGS = {"max_new_tokens": 8, "temperature": 0.0, "exact": True}
WORDS = ["--max-new-tokens", "8", "--temperature", "0", "--exact", "--device", "cpu"]


def plain(seed=0):
    """A model that a config alone rebuilds."""
    return build(remembering().config, seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("flags") / "model", plain(), TOKENS)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "talk.safetensors"


def answer(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not out
    return err


def test_a_kept_conversation_goes_on_in_the_next_command(folder, file, capsys):
    words = ["generate", folder, *WORDS, "--json", "--keep-memory", file]
    first = answer(capsys, *words, "--prompt", "The lamp")
    second = answer(capsys, *words, "--prompt", " is lit")
    model, state, said = plain().eval(), None, []
    for prompt in ("The lamp", " is lit"):
        result = list(generate(model, TOKENS, prompt, state=state, **SETTINGS))[-1].result
        state = result.state
        said.append(list(result.tokens))
    assert [first["tokens"], second["tokens"]] == said
    assert second["prompt_tokens"] == len("The lamp is lit") + 8
    assert load_conversation(file, model, TOKENS).tokens == state.tokens


def test_without_the_flag_every_request_starts_anew_and_writes_nothing(folder, file, capsys):
    words = ["generate", folder, *WORDS, "--json", "--prompt", "The lamp"]
    assert answer(capsys, *words)["tokens"] == answer(capsys, *words)["tokens"]
    assert not list(file.parent.iterdir())


def test_frozen_memory_is_kept_as_it_was(folder, file, capsys):
    words = ["generate", folder, *WORDS, "--json", "--keep-memory", file, "--prompt", "The lamp"]
    answer(capsys, *words)
    answer(capsys, *words, "--freeze-memory")
    assert load_conversation(file, plain()).writes == ((0, True), (15, False))


def lines(monkeypatch, *said):
    left = iter(said)
    monkeypatch.setattr("builtins.input", lambda _="": next(left))


def test_kept_memory_passes_from_line_to_line(folder, file, capsys, monkeypatch):
    lines(monkeypatch, "The lamp", " is lit", "")
    assert main([*map(str, ["generate", folder, *WORDS, "--interactive", "--keep-memory", file])]) == 0
    together = load_conversation(file, plain())
    file.unlink()
    words = ["generate", folder, *WORDS, "--json", "--keep-memory", file]
    for prompt in ("The lamp", " is lit"):
        answer(capsys, *words, "--prompt", prompt)
    assert load_conversation(file, plain()).tokens == together.tokens
    lines(monkeypatch, "The lamp", "The lamp", "")
    assert main([*map(str, ["generate", folder, *WORDS, "--interactive", "--stats"])]) == 0
    assert capsys.readouterr().err.count("[8 + 8 tokens") == 2, "a line went on from another without --keep-memory"


def test_a_chat_goes_on_where_the_last_one_ended(folder, file, capsys, monkeypatch):
    for said in (["Hello", "/quit"], ["And then?", "/quit"]):
        lines(monkeypatch, *said)
        assert main([*map(str, ["chat", folder, *WORDS, "--keep-memory", file])]) == 0
    text = TOKENS.decode(load_conversation(file, plain()).tokens, special=True)
    assert text.count("<|user|>") == 2
    assert text.index("Hello") < text.index("And then?")
    words = ["chat", folder, *WORDS, "--keep-memory", file, "--system", "Be brief."]
    assert "comes too late" in complaint(capsys, *words)
    lines(monkeypatch, "/reset", "Anew", "/quit")
    assert main([*map(str, ["chat", folder, *WORDS, "--keep-memory", file])]) == 0
    assert "Hello" not in TOKENS.decode(load_conversation(file, plain()).tokens)


def test_what_cannot_be_gone_on_from_is_refused_before_anything_is_said(folder, file, capsys, tmp_path):
    words = ["generate", folder, *WORDS, "--prompt", "The lamp", "--keep-memory"]
    other = save(tmp_path / "other", plain(seed=1), TOKENS)
    answer(capsys, "generate", other, *words[2:], file, "--json")
    assert f"--keep-memory {file} belongs to another model" in complaint(capsys, *words, file)
    file.write_bytes(file.read_bytes()[:-1])
    assert "no conversation that can be read" in complaint(capsys, *words, file)
    assert "no such folder" in complaint(capsys, *words, tmp_path / "nowhere" / "talk")
    assert "too late" in complaint(capsys, *_chat_after(folder, file, capsys))


def _chat_after(folder, file, capsys):
    file.unlink()
    words = ["generate", folder, *WORDS, "--chat", "--prompt", "Hello", "--keep-memory", file]
    answer(capsys, *words, "--json")
    return [*words, "--system", "Be brief."]


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """A model whose memories are those of rings."""
    return save(tmp_path_factory.mktemp("rings") / "model", oscillators(), TOKENS)


ALONE = ["--keep", "ring-memory"]


def test_memories_alone_go_on_and_the_conversation_does_not(rings, file, capsys):
    words = ["generate", rings, *WORDS[:-3], "--device", "cpu", "--json", "--keep-memory", file, *ALONE]
    first = answer(capsys, *words, "--prompt", "The lamp")
    second = answer(capsys, *words, "--prompt", "Who")
    assert second["prompt_tokens"] == len("Who")
    model, _ = load(rings)
    ours = list(generate(model, TOKENS, "The lamp", max_new_tokens=8, temperature=0))[-1].result
    alone = memories_alone(model, ours.state)
    assert list(ours.tokens) == first["tokens"]
    again = list(generate(model, TOKENS, "Who", max_new_tokens=8, temperature=0, state=alone))[-1].result
    assert list(again.tokens) == second["tokens"]
    kept, wanted = load_memories(file, model).begun, memories_alone(model, again.state).begun
    assert all(equal_bits(a, b) for a, b in zip(kept, wanted, strict=True))


def test_memories_alone_pass_from_line_to_line(rings, file, capsys, monkeypatch):
    words = ["generate", rings, *WORDS[:-3], "--device", "cpu", "--keep-memory", file, *ALONE]
    lines(monkeypatch, "The lamp", "Who", "")
    assert main([*map(str, words), "--interactive"]) == 0
    together = load_memories(file, load(rings)[0]).begun
    file.unlink()
    for prompt in ("The lamp", "Who"):
        answer(capsys, *words, "--json", "--prompt", prompt)
    alone = load_memories(file, load(rings)[0]).begun
    assert all(equal_bits(a, b) for a, b in zip(together, alone, strict=True))


def test_a_chat_begins_with_memories_and_keeps_them_over_a_reset(rings, file, monkeypatch, capsys):
    words = ["chat", rings, *WORDS[:-3], "--device", "cpu", "--keep-memory", file, *ALONE]
    lines(monkeypatch, "The lamp", "/reset", "Who", "quit")
    assert main([*map(str, words), "--system", "Be brief."]) == 0
    assert main([*map(str, words), "--system", "Be brief.", "Again"]) == 0
    assert load_memories(file, load(rings)[0]).begun


@pytest.mark.parametrize("damage", ["short", "flipped", "conversation", "other model", "text", "pipe"])
def test_memories_that_are_not_those_kept_are_refused(rings, folder, file, capsys, damage):
    words = ["generate", rings, *WORDS[:-3], "--device", "cpu", "--prompt", "x"]
    kept = [*words, "--keep-memory", file, *ALONE]
    if damage == "conversation":
        answer(capsys, *words, "--json", "--keep-memory", file)
    elif damage == "text":
        file.write_text("no memories")
    elif damage == "pipe":
        os.mkfifo(file)
    else:
        answer(capsys, *kept, "--json")
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw[:-8] if damage == "short" else raw if damage == "flipped" else file.read_bytes())
    if damage == "other model":
        other = oscillators()
        with torch.no_grad():
            next(other.parameters()).add_(1)
        kept[1] = save(file.parent / "other", other, TOKENS)
    assert str(file) in complaint(capsys, *kept)


def test_keep_without_a_file_or_without_memories_is_refused(folder, rings, file, capsys):
    assert "--keep-memory FILE" in complaint(capsys, "generate", rings, "--prompt", "x", *ALONE)
    words = ["generate", folder, "--prompt", "x", "--keep-memory", file, *ALONE]
    assert "no memories" in complaint(capsys, *words)
