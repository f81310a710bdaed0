"""How Transformers loads a folder of ours, in which types and places, and what it is refused."""

import json
import shutil

import pytest
import torch
from hf_example import rows
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import positronic
from positronic.adapters.export import export_checkpoint
from positronic.adapters.hf import PositronicForCausalLM
from positronic.errors import CheckpointError, ConfigError, TokenizerError


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


def test_the_head_says_how_wide_it_is_as_a_linear_map_does(theirs):
    head = theirs.get_output_embeddings()
    assert (head.in_features, head.out_features) == (theirs.config.hidden_size, theirs.config.vocab_size)


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
    (tmp_path / "model" / "manifest.json").unlink()
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


OPENED = [AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification]


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def shards(folder, tmp_path):
    """The same weights in four files at least."""
    size = (folder / "model.safetensors").stat().st_size
    return export_checkpoint(folder, tmp_path / "shards", shard_bytes=size // 4).folder


def flip(path, place=-9):
    """One bit of the file is another, near its end: a number of some weight."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(bytes(data))


def pickled(folder):
    """The folder's own weights beside them as PyTorch pickles them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")


@pytest.mark.parametrize("opened", OPENED)
def test_a_flipped_bit_is_refused(opened, copy):
    opened.from_pretrained(copy)
    flip(copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not the file that was saved"):
        opened.from_pretrained(copy)


@pytest.mark.parametrize("opened", OPENED)
def test_a_flipped_bit_of_any_shard_is_refused(opened, shards):
    files = sorted(shards.glob("model-*.safetensors"))
    assert len(files) > 3
    opened.from_pretrained(shards)
    for file in files:
        flip(file)
        with pytest.raises(CheckpointError, match=f"{file.name} is not the file that was saved"):
            opened.from_pretrained(shards)
        flip(file)


def test_a_truncated_shard_and_an_index_that_points_elsewhere_are_refused(shards):
    file = sorted(shards.glob("model-*.safetensors"))[1]
    whole, index = file.read_bytes(), shards / "model.safetensors.index.json"
    file.write_bytes(whole[:-16])
    with pytest.raises(CheckpointError, match="was saved with"):
        AutoModelForCausalLM.from_pretrained(shards)
    file.write_bytes(whole)
    data = json.loads(index.read_text())
    data["weight_map"] = dict.fromkeys(data["weight_map"], file.name)
    index.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="index"):
        AutoModelForCausalLM.from_pretrained(shards)


def test_weights_that_no_manifest_lists_are_refused(folder, shards):
    """Transformers would prefer one file to the shards."""
    shutil.copy(folder / "model.safetensors", shards)
    with pytest.raises(CheckpointError, match="does not list"):
        AutoModelForCausalLM.from_pretrained(shards)


def test_another_config_beside_the_weights_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["core"]["context"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not the config"):
        AutoModelForCausalLM.from_pretrained(copy)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("opened", OPENED)
def test_a_pickle_is_read_in_no_case(opened, sealed, copy):
    """Beside good weights, beside bad ones, alone, or where the config names it."""
    pickled(copy)
    if not sealed:
        (copy / "manifest.json").unlink()
    opened.from_pretrained(copy)
    with pytest.raises(ConfigError, match="never unpickles"):
        opened.from_pretrained(copy, use_safetensors=False)
    config = AutoConfig.from_pretrained(copy)
    config.transformers_weights = "pytorch_model.bin"
    with pytest.raises(CheckpointError, match="transformers_weights"):
        opened.from_pretrained(copy, config=config)
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:40])
    with pytest.raises(CheckpointError):
        opened.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pickle" if not sealed else "missing"):
        opened.from_pretrained(copy)
    with pytest.raises((CheckpointError, OSError), match=r"pickle|Repo id"):  # Transformers may look for a hub's folder
        opened.from_pretrained(copy / "pytorch_model.bin")


def test_pickled_matrices_of_an_adapter_are_not_read(folder, tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="never unpickles"):
        AutoModelForCausalLM.from_pretrained(folder).load_adapter(str(tmp_path))


@pytest.mark.parametrize("name", ["variant", "gguf_file"])
def test_other_files_of_weights_are_refused(name, folder):
    with pytest.raises(ConfigError, match=name):
        PositronicForCausalLM.from_pretrained(folder, **{name: "fp16"})


def test_a_folder_is_found_by_subfolder_too(copy):
    AutoModelForCausalLM.from_pretrained(copy.parent, subfolder=copy.name)
    flip(copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not the file that was saved"):
        AutoModelForCausalLM.from_pretrained(copy.parent, subfolder=copy.name)


def test_what_is_saved_over_a_checkpoint_is_held_to_its_own_manifest(copy):
    model = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.01)
    model.save_pretrained(copy)
    again = AutoModelForCausalLM.from_pretrained(copy)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(("asked", "multiple", "size"), [(400, None, 400), (390, 16, 400), (300, None, 300)])
def test_another_vocabulary_keeps_what_is_known_of_old_tokens(asked, multiple, size, theirs, folder, tmp_path):
    tokens = rows(2, 20)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.resize_token_embeddings(384) is model.get_input_embeddings()
    resized = model.resize_token_embeddings(asked, pad_to_multiple_of=multiple)
    assert resized is model.get_input_embeddings()
    assert resized.weight.shape[0] == model.config.vocab_size == size
    wanted, found = logits_of(theirs, tokens), logits_of(model, tokens)
    kept = min(size, 384)
    assert (found[..., :kept] - wanted[..., :kept]).abs().max() < 1e-5 * wanted.abs().max()
    if size > 384:
        old = resized.weight[:384].float().mean(0)
        assert torch.allclose(resized.weight[384:], old.expand(size - 384, -1), atol=1e-6)
        assert torch.isfinite(logits_of(model, torch.full((1, 4), size - 1))).all()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path), tokens), found)
    with pytest.raises(TokenizerError, match="384 entries"):
        positronic.load(tmp_path)


def test_a_new_model_of_the_other_size_knows_the_same_of_each_token(folder):
    """Tables that follow from ids alone are those that a model of that size has from the start."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(400)
    fresh = AutoModelForCausalLM.from_config(model.config)
    tables = dict(fresh.named_buffers())
    for name, table in model.named_buffers():
        assert torch.equal(table, tables[name]), name


def test_another_embedding_serves_the_head_as_well(folder):
    model, tokens = AutoModelForCausalLM.from_pretrained(folder), rows(1, 12)
    other = torch.nn.Embedding(384, model.config.hidden_size)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    assert model.get_output_embeddings().weight is other.weight
    with torch.no_grad():
        hidden = model.base_model(tokens).last_hidden_state
        assert torch.equal(model(tokens).logits, hidden @ other.weight.T)
    with pytest.raises(ConfigError, match="does not fit"):
        model.set_input_embeddings(torch.nn.Embedding(385, model.config.hidden_size))


def test_the_tokenizer_knows_how_much_the_model_holds(tokenizer, ours):
    held = ours.config.max_positions
    assert tokenizer.model_max_length == held
    assert len(tokenizer("a" * (held + 5), truncation=True)["input_ids"]) == held
