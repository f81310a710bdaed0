"""A conversation in a file goes on as it would have in memory, with its own model alone, or not at all."""

import json
import os
import pickle
import random
from dataclasses import replace

import pytest
import torch
from checkpoint_example import parts, put_parts
from checkpoint_tokenizer import small_tokenizer

from positronic.checkpoint import conversation_state, load_conversation, save_conversation
from positronic.errors import CheckpointError
from positronic.generation import Conversation, generate
from positronic.state import ForwardOptions
from remembering import equal_bits, ledger_of, remembering

TOKENS = small_tokenizer()
HOW = {"max_new_tokens": 12, "temperature": 0.8}


def fresh_model(seed: int = 0):
    return remembering(seed, vocab_size=TOKENS.vocab_size)


@pytest.fixture(scope="module")
def model():
    return fresh_model()


def ask(model, prompt, **how):
    return list(generate(model, TOKENS, prompt, **(HOW | how)))[-1].result


@pytest.fixture
def said(model):
    return ask(model, "The lamp is lit").state


@pytest.fixture
def kept(model, said, tmp_path):
    return save_conversation(tmp_path / "kept.safetensors", said, model, TOKENS)


@pytest.mark.parametrize(
    "how", [{}, {"exact": True}, {"exact": True, "speculative": True}, {"freeze_memory": True}, {"cache": False}]
)
def test_a_kept_conversation_goes_on_as_in_memory_to_the_bit(model, tmp_path, how):
    first = ask(model, "The lamp is lit", **how).state
    file = save_conversation(tmp_path / "kept", first, model, TOKENS)
    loaded = load_conversation(file, fresh_model(), TOKENS)
    assert (loaded.tokens, loaded.exact, loaded.writes) == (first.tokens, first.exact, first.writes)
    straight, later = (
        ask(m, " and", seed=2, state=state, **how) for m, state in ((model, first), (fresh_model(), loaded))
    )
    assert later.tokens == straight.tokens
    assert later.forwards == straight.forwards
    if how.get("cache", True):
        assert equal_bits(later.state.state, straight.state.state)
        assert torch.equal(later.state.hidden, straight.state.hidden)


def test_a_conversation_that_begins_with_the_end_of_a_document_is_read_back(tmp_path):
    made = remembering(0, vocab_size=TOKENS.vocab_size, boundary_id=TOKENS.eot_id)
    said = ask(made, "").state
    assert int(said.state.segment[0]) == 2
    loaded = load_conversation(save_conversation(tmp_path / "kept", said, made, TOKENS), made, TOKENS)
    assert equal_bits(loaded.state, said.state)


def test_only_new_tokens_are_read_after_loading(model, kept, said):
    loaded = load_conversation(kept, model, TOKENS)
    assert equal_bits(loaded.state, said.state)
    assert torch.equal(loaded.hidden, said.hidden)
    assert int(loaded.state.position[0]) == len(loaded.tokens) - 1


def test_a_loaded_conversation_is_a_value(model, kept):
    loaded = load_conversation(kept, model)
    first = ask(model, " there", seed=2, state=loaded)
    ask(model, " nowhere at all", seed=3, state=loaded)
    assert ask(model, " there", seed=2, state=loaded).tokens == first.tokens
    assert equal_bits(load_conversation(kept, model).state, loaded.state), "the file moved with the state"


def test_what_commit_needs_is_left_out(model, said, tmp_path):
    block = torch.tensor([[said.tokens[-1], 5, 6]])
    state = said.state.select(torch.tensor([0]))
    state = model(block, state, ForwardOptions(keep_rollback=True)).state
    trailed = replace(said, tokens=(*said.tokens, 5, 6, 7), state=state)
    assert trailed.state.rollback is not None
    assert trailed.state.layers[-1].pages[0].rollback is not None
    file = save_conversation(tmp_path / "kept", trailed, model)
    header, _ = parts(file)
    assert not [name for name in header if "rollback" in name]
    loaded = load_conversation(file, model)
    assert loaded.state.rollback is loaded.state.layers[-1].pages[0].rollback is None
    assert torch.equal(ledger_of(loaded), ledger_of(trailed))


def test_the_file_holds_tensors_by_path_and_names_no_class(model, kept, said):
    header, _ = parts(kept)
    assert {"tokens", "hidden", "state.layers.0.keys", "state.layers.2.pages.0.memory"} <= set(header)
    assert header["state.layers.0.keys"]["shape"] == [1, 1, len(said.tokens) - 1, 16]
    assert not [name for name in ("KVState", "LedgerState", "DecodeState", "positronic") if name in json.dumps(header)]


def test_equal_conversations_give_equal_files(model, said, tmp_path):
    a, b = (save_conversation(tmp_path / name, said, model, TOKENS).read_bytes() for name in "ab")
    assert a == b


def test_tokens_alone_and_an_empty_conversation_are_kept_too(model, tmp_path):
    for conversation in (Conversation(), Conversation((5, 6, 7)), Conversation((5,), model.init_state(1))):
        loaded = load_conversation(save_conversation(tmp_path / "kept", conversation, model), model)
        assert (loaded.tokens, loaded.state) == (conversation.tokens, None)


def test_another_models_or_tokenizers_conversation_is_refused(model, kept):
    with pytest.raises(CheckpointError, match=r"--keep-memory .* belongs to another model"):
        load_conversation(kept, fresh_model(seed=1))
    nearly = fresh_model()
    with torch.no_grad():
        nearly.head.norm.weight.view(-1)[0] += 1e-6
    with pytest.raises(CheckpointError, match="another model"):
        load_conversation(kept, nearly)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        load_conversation(kept, model, small_tokenizer(other=True))
    assert load_conversation(kept, model).tokens


def test_a_truncated_file_is_refused_at_every_length(model, kept):
    whole, draw = kept.read_bytes(), random.Random(0)
    for length in [0, 1, 7, 8, 9, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(40))]:
        kept.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="Name another file"):
            load_conversation(kept, model)


def test_no_changed_byte_goes_unnoticed(model, kept):
    whole, draw = kept.read_bytes(), random.Random(1)
    head = int.from_bytes(whole[:8], "little")
    for at in [
        *range(8),
        *(draw.randrange(8, 8 + head) for _ in range(80)),
        *draw.sample(range(8 + head, len(whole)), 40),
    ]:
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        kept.write_bytes(changed)
        with pytest.raises(CheckpointError):
            load_conversation(kept, model)


def test_values_under_other_names_and_a_newer_format_are_refused(model, kept):
    header, data = parts(kept)
    a, b = "state.layers.0.keys", "state.layers.0.values"
    put_parts(kept, header | {a: header[b], b: header[a]}, data)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_conversation(kept, model)
    body = json.loads(header["__metadata__"]["conversation"])
    del body["digest"]
    for change, said in (({"format": 3}, "Upgrade positronic"), ({"format": 1}, "earlier build")):
        changed = body | change
        text = json.dumps(changed | {"digest": conversation_state.json_digest(changed)})
        put_parts(kept, header | {"__metadata__": {"conversation": text}}, data)
        with pytest.raises(CheckpointError, match=said):
            load_conversation(kept, model)


@pytest.mark.parametrize("content", [b"", b"my notes", pickle.dumps({"a": 1}), (2).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_no_conversation_is_refused_and_left_alone(model, tmp_path, content):
    file = tmp_path / "notes"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="holds no conversation"):
        load_conversation(file, model)
    assert file.read_bytes() == content
    with pytest.raises(CheckpointError, match="holds no conversation"):
        load_conversation(tmp_path, model)


def test_a_failing_save_leaves_the_old_file_and_nothing_else(model, kept, said, monkeypatch):
    before = kept.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"could not be written .*No space left"):
        save_conversation(kept, Conversation(said.tokens), model)
    assert kept.read_bytes() == before
    assert os.listdir(kept.parent) == [kept.name]
    with pytest.raises(CheckpointError, match="could not be written"):
        save_conversation(kept / "below", said, model)


def test_an_exact_width_that_fails_here_is_forgotten_with_its_state(model, tmp_path, monkeypatch):
    first = ask(model, "The lamp is lit", exact=True).state
    file = save_conversation(tmp_path / "kept", first, model)
    monkeypatch.setattr(conversation_state, "rows_agree", lambda model, exact: False)
    loaded = load_conversation(file, model)
    assert (loaded.tokens, loaded.state, loaded.exact) == (first.tokens, None, None)
