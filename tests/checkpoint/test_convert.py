"""GPT-2 and Llama, tiny and random, say here what they say in Transformers; what is not understood is refused."""

import json
import os
import shutil

import pytest
import torch

from positronic.cli import main
from positronic.errors import CheckpointError, ConfigError, PositronicError, TokenizerError
from positronic.generation import generate

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

from foreign_example import ENTRIES, MIXED, gpt2, gpt2_tokenizer, llama, llama_tokenizer, saved  # noqa: E402

from positronic.checkpoint import convert, load  # noqa: E402

STRETCH = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
MAKE = {
    "gpt2": lambda: (gpt2(), gpt2_tokenizer()),
    "gpt2-wide": lambda: (gpt2(n_inner=56, layer_norm_epsilon=1e-3, n_layer=1), gpt2_tokenizer()),
    "gpt2-untied": lambda: (gpt2(tie_word_embeddings=False), gpt2_tokenizer()),
    "llama": lambda: (llama(), llama_tokenizer()),
    "llama-tied": lambda: (llama(tie_word_embeddings=True, num_key_value_heads=4), llama_tokenizer()),
    "llama-vectors": lambda: (llama(attention_bias=True, mlp_bias=True, head_dim=12), llama_tokenizer()),
    "llama-stretched": lambda: (llama(rope_parameters=STRETCH, rms_norm_eps=1e-3), llama_tokenizer()),
    "llama-base": lambda: (
        llama(rope_parameters={"rope_type": "default", "rope_theta": 77.0}, num_key_value_heads=1),
        llama_tokenizer(),
    ),
}
PLAIN = ("gpt2", "llama")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By name: the original, its vocabulary, its folder and ours; made once."""
    known = {}

    def find(name):
        if name not in known:
            model, tokenizer = MAKE[name]()
            place = tmp_path_factory.mktemp(name)
            folder = saved(model, tokenizer, place / "theirs")
            convert(folder, place / "ours")
            known[name] = (model, tokenizer, folder, place / "ours")
        return known[name]

    return find


def ids_of(batch, length, seed=0):
    return torch.randint(0, ENTRIES, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", MAKE)
def test_logits_are_the_originals_cached_and_uncached(name, made):
    """For any ids, those that end documents included."""
    theirs, _, _, folder = made(name)
    ours, tokenizer = load(folder)
    tokens = ids_of(2, 60)
    tokens[:, 20] = tokenizer.eot_id
    wanted = theirs(tokens).logits
    found = ours.logits(ours(tokens).hidden)[..., :ENTRIES]
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    state, pieces = ours.init_state(2), []
    for piece in tokens.split([7, 1, 30, 1, 1, 20], 1):
        out = ours(piece, state)
        state = out.state
        pieces.append(ours.logits(out.hidden)[..., :ENTRIES])
    assert (torch.cat(pieces, 1) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", MAKE)
def test_greedy_text_is_the_originals(name, made):
    theirs, vocabulary, _, folder = made(name)
    model, tokenizer = load(folder)
    text = "The lamp on the hill"
    prompt = vocabulary.encode(text).ids  # with what stands in front of a text there
    ends = {"eos_token_id": tokenizer.eot_id, "pad_token_id": ENTRIES - 1}
    whole = theirs.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, **ends)[0].tolist()
    *_, last = generate(model, tokenizer, text, temperature=0, max_new_tokens=40)
    assert [*last.result.state.tokens] == whole


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_tokens_that_are_added_say_the_mean_and_take_their_share_at_most(name, made):
    ours, _ = load(made(name)[3])
    logits = ours.logits(ours(ids_of(2, 40)).hidden)
    old, new = logits[..., :ENTRIES], logits[..., ENTRIES:]
    assert (new - old.mean(-1, keepdim=True)).abs().max() < 1e-5
    assert (new.max(-1).values < old.max(-1).values).all()
    share = logits.softmax(-1)[..., ENTRIES:].sum(-1).max()
    assert share < new.shape[-1] / logits.shape[-1]


@pytest.mark.parametrize("name", PLAIN)
def test_a_vocabulary_keeps_its_ids(name, made):
    _, theirs, _, folder = made(name)
    model, ours = load(folder)
    theirs.encode_special_tokens = True  # names in a text stay text here
    for text in (MIXED, MIXED * 3, "", " ", "\n \n", "a", "'re 1234567", MIXED[::-1], "\t\u3000é\u0301ﬁ"):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.encode_bytes(text.encode()) == ids
        assert ours.decode(ids) == text
        stream = ours.encoder()
        assert [index for part in text for index in stream.feed(part)] + stream.finish() == ids
    assert ours.decode_bytes(ours.encode_bytes(b"\xffab\xfe")) == b"\xffab\xfe"
    assert ours.vocab_size == model.config.vocab_size == ENTRIES + 127
    assert len(set(ours.special.values())) == 128
    assert ours.eot_id == {"gpt2": 0, "llama": 1}[name]
    assert ours.lead == {"gpt2": (), "llama": (0,)}[name]
    assert min(index for word, index in ours.special.items() if word != "<|endoftext|>") == ENTRIES
    assert ours.decode([ENTRIES - 1, ours.eot_id], special=True) == f"<|unused_{ENTRIES - 1}|><|endoftext|>"
    assert ours.decode([ENTRIES - 1, ours.eot_id]) == ""


def test_older_files_of_a_vocabulary_are_the_same(made, tmp_path):
    """No type, merges as text, an unknown token that no byte leaves room for; or only what the file is made of."""
    from positronic.text import Tokenizer, read_foreign

    _, _, folder, ours = made("gpt2")
    data = json.loads((folder / "tokenizer.json").read_text())
    model = {
        **data["model"],
        "unk_token": "<|endoftext|>",
        "merges": [" ".join(pair) for pair in data["model"]["merges"]],
    }
    del model["type"]
    (tmp_path / "old.json").write_text(json.dumps(data | {"model": model}))
    assert read_foreign(tmp_path / "old.json", 0, ENTRIES).sha256 == Tokenizer.load(ours).sha256
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *model["merges"]]))
    transformers.GPT2Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert read_foreign(tmp_path / "tokenizer.json", 0, ENTRIES).sha256 == Tokenizer.load(ours).sha256


@pytest.mark.parametrize("name", PLAIN)
def test_a_vocabulary_of_another_programs_goes_through_transformers_and_back(name, made, tmp_path):
    from positronic.text import Tokenizer

    _, ours = load(made(name)[3])
    theirs = transformers.AutoTokenizer.from_pretrained(made(name)[3])
    assert len(theirs) == ours.vocab_size
    assert theirs(MIXED, split_special_tokens=True)["input_ids"] == [*ours.lead, *ours.encode(MIXED)]
    theirs.save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).sha256 == ours.sha256


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_shards_half_precision_and_a_base_model_are_read(name, made, tmp_path):
    theirs, vocabulary, _, _ = made(name)
    saved(theirs, vocabulary, tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    convert(tmp_path / "shards", tmp_path / "whole")
    tokens = ids_of(1, 20)
    ours, _ = load(tmp_path / "whole")
    assert (ours.logits(ours(tokens).hidden)[..., :ENTRIES] - theirs(tokens).logits).abs().max() < 1e-5
    half = type(theirs)(theirs.config).to(torch.bfloat16)
    half.load_state_dict(theirs.state_dict())
    saved(half, vocabulary, tmp_path / "half")
    half = type(theirs).from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    assert convert(tmp_path / "half", tmp_path / "halved").dtype == "bfloat16"
    ours, _ = load(tmp_path / "halved")
    same = half(tokens).logits
    assert (ours.logits(ours(tokens).hidden)[..., :ENTRIES] - same).abs().max() < 1e-5
    if theirs.config.tie_word_embeddings:  # its weights are all of the model, under names without a prefix
        saved(theirs.base_model, vocabulary, tmp_path / "base")
        convert(tmp_path / "base", tmp_path / "headed")
        ours, _ = load(tmp_path / "headed")
        assert (ours.logits(ours(tokens).hidden)[..., :ENTRIES] - theirs(tokens).logits).abs().max() < 1e-5


def test_the_masks_of_older_files_are_passed_over(made, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(made("gpt2")[2], tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 96, 96).tril(), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    tensors |= masks
    save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (made("gpt2")[3] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["gpt2", "gpt2-untied", "llama", "llama-vectors"])
def test_every_command_reads_it(name, made, tmp_path, capsys):
    _, _, folder, ours = made(name)

    def told(command, *words):
        assert main([command, *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = told("convert", folder, "--out", tmp_path / "again")
    assert (found["model_type"], found["added"], found["vocab_size"]) == (name.split("-")[0], 127, ENTRIES + 127)
    assert main(["convert", str(folder), "--out", str(tmp_path / "spoken")]) == 0
    assert "the last 127 of them our control tokens" in capsys.readouterr().out
    data = tmp_path / "texts.jsonl"
    texts = [f"The lamp {n} on the hill was lit and the ships went by." for n in range(9)]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert told("describe", ours)["parameters"]["total"] == found["parameters"]
    assert told("generate", ours, "--prompt", "The lamp", "--max-new-tokens", 5, "--device", "cpu")["tokens"]
    assert told("verify", ours, "--device", "cpu")["ok"]
    assert told("eval", ours, "--data", data, "--device", "cpu")["bits_per_byte"] > 0
    channel = "mlp" if name.startswith("gpt2") else "swiglu"
    health = told("health", ours, "--data", data, "--device", "cpu")
    assert {"attention", channel} <= {line["organ"] for line in health["lines"]}
    ablated = told("ablate", ours, "--data", data, "--device", "cpu")
    assert {row["organ"] for row in ablated["without"]} == {"attention", channel}
    page = tmp_path / "view.html"
    told("view", ours, "--prompt", "The lamp", "--tokens", 3, "--out", page, "--device", "cpu")
    assert page.stat().st_size > 10_000


SETTINGS = {
    "gpt2": {
        "activation_function": "gelu",
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
        "add_cross_attention": True,
        "n_ctx": 7,
        "n_embd": 33,
        "n_layer": "2",
        "n_head": 0,
        "n_inner": -1,
        "layer_norm_epsilon": 0,
        "tie_word_embeddings": 1,
        "eos_token_id": "0",
        "quantization_config": {"bits": 4},
        "unheard_of": False,
    },
    "llama": {
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_theta": "10000",
        "sliding_window": 16,
        "partial_rotary_factor": 0.5,
        "head_dim": 7,
        "attention_bias": "yes",
        "mlp_bias": 0,
        "num_key_value_heads": 3,
        "hidden_size": None,
        "eos_token_id": [[1]],
        "vocab_size": 10**9,
    },
}


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in SETTINGS for setting in SETTINGS[name]])
def test_a_setting_that_is_not_understood_is_refused_by_its_name(name, setting, made, tmp_path):
    folder = shutil.copytree(made(name)[2], tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {setting: SETTINGS[name][setting]}))
    with pytest.raises((CheckpointError, ConfigError), match=rf"{setting}.*\.$"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["beta_fast", "rope_theta", "factor", "original_max_position_embeddings"])
def test_a_setting_of_rotations_is_read_or_refused(inside, made, tmp_path):
    folder = shutil.copytree(made("llama-stretched")[2], tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"][inside] = {"beta_fast": 32}.get(inside)
    (folder / "config.json").write_text(json.dumps(config))
    if inside == "rope_theta":  # then it is 10,000
        convert(folder, tmp_path / "out")
        return
    with pytest.raises(CheckpointError, match=rf"rope_parameters.*{inside}"):
        convert(folder, tmp_path / "out")


def test_rotations_in_the_words_of_older_files_are_the_same(made, tmp_path):
    folder = shutil.copytree(made("llama-stretched")[2], tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    newer = config.pop("rope_parameters")
    config |= {"rope_theta": newer.pop("rope_theta"), "rope_scaling": newer}
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "out")
    assert load(tmp_path / "out")[0].config == load(made("llama-stretched")[3])[0].config


def change_tensors(change):
    def run(folder):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return run


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def disguised(folder):
    torch.save({}, folder / "model.safetensors")


def index_of(content):
    def run(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return run


FIRST, LAST = "transformer.h.0.attn.c_attn.weight", "transformer.ln_f.bias"
FOLDERS = {
    "missing tensor": (change_tensors(lambda t: t.pop(LAST)), "lacks ln_f.bias"),
    "surplus tensor": (change_tensors(lambda t: t.update(extra=torch.ones(2))), "holds beside .* extra"),
    "a head beside a tied one": (
        change_tensors(lambda t: t.update({"lm_head.weight": torch.ones(ENTRIES, 32)})),
        r"holds beside .* lm_head\.weight",
    ),
    "another shape": (change_tensors(lambda t: t.update({FIRST: t[FIRST].T.contiguous()})), r"float32 \[96, 32\]"),
    "whole numbers": (change_tensors(lambda t: t.update({LAST: t[LAST].int()})), r"ln_f\.bias as int32"),
    "a name twice": (change_tensors(lambda t: t.update({"ln_f.bias": t[LAST].clone()})), r"ln_f\.bias twice"),
    "a pickle": (pickled, r"pytorch_model\.bin is a pickle.*never unpickles.*save_pretrained"),
    "a pickle by another name": (disguised, "is a pickle"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "no map": (index_of({}), "no weight_map"),
    "a shard elsewhere": (index_of({"weight_map": {"x": "../model-00001-of-00001.safetensors"}}), "no shard"),
    "no shard": (index_of({"weight_map": {"x": "model-00001-of-00001.safetensors"}}), "is missing|no whole"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json.*AutoTokenizer"),
    "a pipe for a vocabulary": (
        lambda folder: ((folder / "tokenizer.json").unlink(), os.mkfifo(folder / "tokenizer.json")),
        "no tokenizer.json",
    ),
    "another model": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        "model_type 'bert', and models of type gpt2 and llama are converted",
    ),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "model_type 'None'"),
    "ours": (lambda folder: (folder / "config.json").write_text('{"model_type": "positronic"}'), "of ours already"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_that_is_not_whole_is_refused(what, made, tmp_path):
    folder = shutil.copytree(made("gpt2")[2], tmp_path / "changed")
    change, said = FOLDERS[what]
    change(folder)
    with pytest.raises(CheckpointError, match=said):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def vocabulary(change):
    def run(folder):
        data = json.loads((folder / "tokenizer.json").read_text())
        change(data)
        (folder / "tokenizer.json").write_text(json.dumps(data))

    return run


def characters(data):
    """As SentencePiece's: pieces of characters, bytes for the rest."""
    data["model"]["vocab"] = {word.replace("Ġ", "▁"): index for word, index in data["model"]["vocab"].items()}


def without(piece):
    def run(data):
        vocab = data["model"]["vocab"]
        last = max(vocab, key=vocab.get)
        vocab[last] = vocab.pop(piece)
        data["model"]["merges"] = [pair for pair in data["model"]["merges"] if "".join(pair) != last]

    return run


VOCABULARIES = {
    "unigram": (lambda data: data["model"].update(type="Unigram"), "type 'Unigram'"),
    "byte fallback": (lambda data: data["model"].update(byte_fallback=True), "byte_fallback"),
    "dropout": (lambda data: data["model"].update(dropout=0.1), "dropout"),
    "normalizer": (lambda data: data.update(normalizer={"type": "NFC"}), "normalizer"),
    "metaspace": (
        lambda data: data.update(pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}),
        "pre_tokenizer",
    ),
    "prefix space": (lambda data: data["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer"),
    "no words": (lambda data: data["pre_tokenizer"].update(use_regex=False), "pre_tokenizer"),
    "tokens cut out": (lambda data: data["added_tokens"][0].update(special=False), "cuts '<|endoftext|>' out of any"),
    "pieces of characters": (characters, "characters and not the 256"),
    "a byte that nothing spells": (without("!"), "no piece for some bytes"),
    "a hole": (lambda data: data["model"]["vocab"].update(x=9_999), "no meaning|not the form"),
    "too many": (
        lambda data: data["added_tokens"].extend(
            data["added_tokens"][0] | {"id": 320 + n, "content": f"<{n}>"} for n in range(30)
        ),
        "350 entries, and the model's embedding 340",
    ),
    "end is text": (lambda data: data["added_tokens"].clear(), "id 0 is text.*eos_token_id"),
    "two names": (
        lambda data: data["added_tokens"].append(data["added_tokens"][0] | {"id": 320}),
        "two of its ids have one name",
    ),
    "text behind": (
        lambda data: data.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}],
            }
        ),
        "post_processor",
    ),
    "roberta": (lambda data: data.update(post_processor={"type": "RobertaProcessing"}), "post_processor"),
    "no pieces": (lambda data: data["model"].update(merges=[["zz", "qq"]]), "merges what are no pieces"),
    "a control token as text": (
        lambda data: data["model"]["vocab"].update({"<think>": data["model"]["vocab"].pop("!")}),
        "control token <think>",
    ),
    "no model": (lambda data: data.pop("model"), "not the form"),
    "no list": (lambda data: data.update(added_tokens=3), "not the form"),
}


@pytest.mark.parametrize("what", VOCABULARIES)
def test_a_vocabulary_that_is_not_understood_is_refused(what, made, tmp_path):
    folder = shutil.copytree(made("gpt2")[2], tmp_path / "changed")
    change, said = VOCABULARIES[what]
    vocabulary(change)(folder)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json.*({said}).*\.$"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_stands_there_is_not_written_over(made, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(PositronicError, match="not an empty folder"):
        convert(made("gpt2")[2], tmp_path)
    assert main(["convert", str(tmp_path / "nowhere"), "--out", str(tmp_path / "new")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_a_converted_model_is_trained_on_as_any_other(name, made):
    """With the end of a document as a boundary, what follows it sees nothing before, and its places begin anew."""
    model, tokenizer = load(made(name)[3])
    config = model.config.fitted(tokenizer.vocab_size, tokenizer.eot_id)
    bounded = config.build()
    bounded.load_state_dict(model.state_dict())
    tokens = ids_of(1, 30).clamp(min=2)
    tokens[0, 11] = tokenizer.eot_id
    whole, rest = (bounded.logits(bounded(t).hidden) for t in (tokens, tokens[:, 12:]))
    assert (whole[:, 12:] - rest).abs().max() < 1e-5 * whole.abs().max()
