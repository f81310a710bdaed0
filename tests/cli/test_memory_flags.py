"""--keep-memory carries a conversation from one command to the next, --freeze-memory leaves its memories alone."""

import json

import pytest

from positronic.checkpoint import load_conversation, save
from positronic.cli import main
from positronic.generation import generate
from positronic.models import build
from positronic.text import byte_tokenizer
from remembering import remembering

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
