"""How Transformers loads a folder of ours, in which types and places, and what it is refused."""

import shutil

import pytest
import torch
from hf_example import rows
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM

import positronic
from positronic.errors import CheckpointError, ConfigError


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens).logits.float()


def test_bfloat16_rounds_weights_and_no_table(theirs, folder):
    """Tables of phases, hashes and angles follow from the config, whatever the weights are loaded as."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    cast, tokens = AutoModelForCausalLM.from_pretrained(folder).bfloat16(), rows(2, 24)
    assert torch.equal(logits_of(cast, tokens), logits_of(model, tokens))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tables = dict(theirs.named_buffers())
    for name, table in model.named_buffers():
        assert table.dtype == tables[name].dtype, name
        assert torch.equal(table, tables[name]), name
    wanted = logits_of(theirs, tokens)
    assert (logits_of(model, tokens) - wanted).norm() < 0.1 * wanted.norm()
    assert model.generate(tokens, max_new_tokens=4, do_sample=False, eos_token_id=None).shape == (2, 28)


def test_recomputing_blocks_leaves_every_gradient(folder):
    tokens, found = rows(2, 24), []
    for recompute in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        if recompute:
            model.activation_checkpointing_enable()
            assert model.model.trunk.recompute
        model(tokens, labels=tokens).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_head_is_the_embedding(theirs):
    """One tensor under one name: nothing to tie, nothing saved twice."""
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    size = theirs.config.vocab_size
    assert [name for name, value in theirs.state_dict().items() if value.dim() == 2 and len(value) == size] == [
        "model.embed.weight"
    ]


def test_what_is_saved_is_read_to_the_bit_by_both_houses(theirs, folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.01)
    model.save_pretrained(tmp_path)
    tokens, (ours, _) = rows(2, 24), positronic.load(tmp_path)
    wanted = logits_of(model, tokens)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path), tokens), wanted)
    with torch.no_grad():
        assert torch.equal(ours.logits(ours(tokens).hidden), model(tokens, use_cache=False).logits)
    assert not torch.equal(wanted, logits_of(theirs, tokens))


def test_weights_that_do_not_fit_are_refused_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(weights) if name.startswith("trunk."))
    save_file({name: w for name, w in weights.items() if name != lost}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"do not fit its config .missing_keys: model.{lost}"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("where", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_places_the_whole_model(theirs, folder, where):
    tokens = rows(1, 12)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=where)
    assert torch.equal(logits_of(model, tokens), logits_of(theirs, tokens))


def test_a_device_map_that_takes_the_model_apart_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="one device"):
        AutoModelForCausalLM.from_pretrained(folder, device_map={"": "disk"}, offload_folder=tmp_path)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_a_kernel_that_the_scores_forbid_is_refused(folder, kernel):
    with pytest.raises(ConfigError, match=f"'{kernel}' is a kernel for plain dot products"):
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel)


def test_another_vocabulary_is_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.resize_token_embeddings(384) is model.get_input_embeddings()
    with pytest.raises(ConfigError, match="cannot become one of 400"):
        model.resize_token_embeddings(400)
