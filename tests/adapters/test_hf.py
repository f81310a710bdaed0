"""Every family loads, answers and generates in Transformers as it does in our own house."""

import torch
from hf_example import PROMPT, greedy, rows, said
from transformers import AutoModel, AutoModelForCausalLM


def test_logits_are_ours(ours, theirs):
    tokens = rows(2, 40)
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, ours.logits(ours(tokens).hidden))


def test_no_weight_is_missing_or_too_many(folder):
    _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found


def test_the_base_model_gives_what_the_embedding_is_multiplied_by(theirs, folder):
    tokens = rows(2, 12)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(tokens).last_hidden_state
        assert torch.equal(theirs.base_model(tokens).last_hidden_state, hidden)
        assert torch.equal(theirs.get_output_embeddings()(hidden), theirs(tokens).logits)


def test_greedy_text_is_ours(ours, theirs):
    text = greedy(ours, PROMPT, 40)
    assert said(theirs, PROMPT, 40) == text
    assert len(set(text)) > 10  # it does not repeat itself


def test_text_without_a_cache_is_the_same(theirs):
    assert said(theirs, PROMPT, 24, use_cache=False) == said(theirs, PROMPT, 24)
