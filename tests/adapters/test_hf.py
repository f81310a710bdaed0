"""Every family loads, answers and generates in Transformers as it does in our own house.

What a process that has only the folder finds is in `test_families`.
"""

import copy

import pytest
import torch
from drafting import Oracle
from hf_example import PROMPT, rows, said

pytest.importorskip("transformers")

from transformers import AutoModel, AutoModelForCausalLM

from positronic.adapters.hf import StateCache, speculative
from positronic.errors import GenerationError


def test_no_weight_is_missing_or_too_many(folder):
    _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found


def test_the_base_model_gives_what_the_embedding_is_multiplied_by(theirs, folder):
    tokens = rows(2, 12)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(tokens).last_hidden_state
        assert torch.equal(theirs.base_model(tokens).last_hidden_state, hidden)
        assert torch.equal(theirs.get_output_embeddings()(hidden), theirs(tokens).logits)


def test_reading_a_prompt_in_pieces_changes_no_token(theirs):
    prompt = rows(1, 33)[0].tolist()
    assert said(theirs, prompt, 16, prefill_chunk_size=7) == said(theirs, prompt, 16)


def test_a_state_of_fixed_room_changes_no_token(theirs):
    assert said(theirs, PROMPT, 24, cache_implementation="static") == said(theirs, PROMPT, 24)


def test_beams_go_on_from_where_they_came(theirs, monkeypatch):
    """Beams exchange rows in this text: without the exchange the cached text is another than the uncached one."""
    how = {"num_beams": 4, "length_penalty": 0.0}
    uncached = said(theirs, PROMPT, 16, use_cache=False, **how)
    assert said(theirs, PROMPT, 16, **how) == uncached
    monkeypatch.setattr(StateCache, "reorder_cache", lambda cache, beams: None)
    assert said(theirs, PROMPT, 16, **how) != uncached


def test_two_samples_of_a_prompt_are_rows_of_their_own(theirs):
    how = {"max_new_tokens": 12, "do_sample": True, "eos_token_id": None, "num_return_sequences": 2}
    torch.manual_seed(3)
    cached = theirs.generate(torch.tensor([PROMPT]), **how)
    torch.manual_seed(3)
    assert torch.equal(cached, theirs.generate(torch.tensor([PROMPT]), use_cache=False, **how))
    assert cached[0].tolist() != cached[1].tolist()


@pytest.mark.parametrize("sample", [False, True])
def test_speculation_says_what_generate_says(theirs, sample):
    how = {"do_sample": sample, "temperature": 0.5, "repetition_penalty": 1.2} if sample else {}
    found = []
    for loop in (None, speculative):
        torch.manual_seed(5)
        found.append(said(theirs, PROMPT, 40, custom_generate=loop, **how))
    assert found[0] == found[1]


def test_right_drafts_save_forwards(theirs, monkeypatch):
    text = said(theirs, PROMPT, 40)
    forward, calls = theirs.model.forward, []
    monkeypatch.setattr(theirs.model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    assert said(theirs, PROMPT, 40, custom_generate=speculative, proposer=Oracle(text)) == text
    assert len(calls) == 1 + 8  # the prompt; then rounds of four right drafts and one token more


def test_a_snapshot_is_gone_on_from_twice(theirs):
    tokens = rows(1, 20)
    with torch.no_grad():
        cache = theirs(tokens[:, :8]).past_key_values
        before = cache.snapshot()
        first = theirs(tokens[:, 8:], past_key_values=cache).logits
        cache.restore(before)
        theirs(rows(1, 5, seed=1), past_key_values=cache)
        cache.restore(before)
        again = theirs(tokens[:, 8:], past_key_values=cache).logits
        copied = copy.deepcopy(before)
        cache.restore(copied)
        third = theirs(tokens[:, 8:], past_key_values=cache).logits
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    assert cache.get_seq_length() == 20


def test_requests_remember_nothing_of_each_other(theirs):
    tokens = rows(1, 12)
    with torch.no_grad():
        first = theirs(tokens).logits
        theirs.generate(rows(1, 30, seed=9), max_new_tokens=4, do_sample=False)
        assert torch.equal(theirs(tokens).logits, first)


def test_documents_of_a_row_do_not_see_each_other(theirs):
    """Positions that begin again at 0 begin a document, with a cache and without."""
    parts = [rows(1, n, seed=n) for n in (5, 9, 7)]
    places = torch.cat([torch.arange(p.shape[1]) for p in parts])[None]
    with torch.no_grad():
        alone = torch.cat([theirs(p).logits for p in parts], 1)
        for use_cache in (False, True):
            packed = theirs(torch.cat(parts, 1), position_ids=places, use_cache=use_cache).logits
            assert (packed - alone).abs().max() < 1e-4 * alone.abs().max()
        leaking = theirs(torch.cat(parts, 1)).logits
    assert (leaking - alone).abs().max() > 1e-2 * alone.abs().max()


def test_a_row_may_begin_in_the_middle_of_a_document(theirs):
    """And may be read in pieces, each of which begins one document at most."""
    parts = [rows(1, n, seed=n) for n in (10, 14)]
    tokens, places = torch.cat(parts, 1), torch.cat([torch.arange(5, 15), torch.arange(14)])[None]
    with torch.no_grad():
        alone = theirs(parts[1]).logits
        packed = theirs(tokens, position_ids=places).logits[:, 10:]
        first = theirs(tokens[:, :4], position_ids=places[:, :4], use_cache=True)
        second = theirs(tokens[:, 4:], position_ids=places[:, 4:], past_key_values=first.past_key_values)
        for found in (packed, second.logits[:, 6:]):
            assert (found - alone).abs().max() < 1e-4 * alone.abs().max()
        with pytest.raises(GenerationError, match="goes on from past_key_values"):
            theirs(parts[1], position_ids=torch.arange(14)[None], past_key_values=second.past_key_values)


def test_documents_that_positions_do_not_tell_are_refused(theirs):
    tokens = rows(1, 9)
    lengths = torch.tensor([0, 4, 9], dtype=torch.int32)
    for cut in ({"cu_seq_lens_q": lengths}, {"seq_idx": torch.zeros(1, 9, dtype=torch.int32)}):
        with pytest.raises(GenerationError, match="without position_ids"):
            theirs(tokens, **cut)
        theirs(tokens, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), **cut)


def test_a_cache_that_is_asked_for_takes_no_part_of_the_loss(theirs):
    tokens = rows(2, 12)
    theirs.train()
    try:
        losses = [theirs(tokens, labels=tokens, use_cache=use_cache).loss for use_cache in (None, False, True)]
    finally:
        theirs.eval()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_a_packed_row_may_be_longer_than_any_document(theirs):
    """TRL lays all rows of a batch into one; what has no room is a document, not a row."""
    held = theirs.config.max_position_embeddings
    tokens, places = rows(1, held + 16), torch.arange(held + 16)[None]
    with torch.no_grad():
        theirs(tokens, position_ids=places % 64)
        with pytest.raises(GenerationError, match=f"the model holds {held}"):
            theirs(tokens, position_ids=places % (held + 8))


def test_only_the_logits_asked_for_are_made(theirs):
    tokens = rows(2, 9)
    with torch.no_grad():
        every = theirs(tokens).logits
        assert (theirs(tokens, logits_to_keep=2).logits - every[:, -2:]).abs().max() < 1e-4
        places = torch.tensor([0, 4, 7])
        assert (theirs(tokens, logits_to_keep=places).logits - every[:, places]).abs().max() < 1e-4
