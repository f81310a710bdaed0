"""Files of a tokenizer: what loads is what was saved, transformers reads it alike, all else is refused in words."""

import hashlib
import json
import os
import random

import pytest
import tokenizers

from positronic.errors import TokenizerError
from positronic.text import CHAT_TEMPLATE, Tokenizer, byte_tokenizer, train_bpe
from positronic.text.definition import merged

TEXT = "The naïve 日本 tokenizer's 123 words,\n\n  indented <|im_end|> and\tfree 🙂.\r\n"


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_tokenizer_loads_as_itself(tokenizer, folder):
    for path in (folder, str(folder), folder / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.definition == tokenizer.definition
        assert (loaded.kind, loaded.vocab_size, loaded.sha256) == (
            tokenizer.kind,
            tokenizer.vocab_size,
            tokenizer.sha256,
        )
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


def test_the_hash_is_that_of_the_file_without_what_reads_marks(tokenizer, folder):
    """And such a file, as earlier ones are, is the same tokenizer."""
    plain = tokenizer.definition.to_bytes()
    assert tokenizer.sha256 == hashlib.sha256(plain).hexdigest()
    saved = (folder / "tokenizer.json").read_bytes()
    assert saved != plain
    (folder / "tokenizer.json").write_bytes(plain)
    loaded = Tokenizer.load(folder)
    assert (loaded.definition, loaded.sha256) == (tokenizer.definition, tokenizer.sha256)
    loaded.save(folder)
    assert (folder / "tokenizer.json").read_bytes() == saved


def test_plain_bytes_are_one_file_for_ever():
    assert byte_tokenizer().sha256 == "1fc13581ef121c7c214f9038d38fbfe02446d1611bf94b92ecc37a6036dd2c68"


def test_saving_twice_gives_the_same_bytes(tokenizer, folder, tmp_path):
    Tokenizer.load(folder).save(tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_hash_survives_being_written_by_another_program(tokenizer, folder):
    runtime = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    runtime.enable_truncation(7)
    runtime.enable_padding(length=9)
    runtime.save(str(folder / "tokenizer.json"))
    loaded = Tokenizer.load(folder)
    assert loaded.sha256 == tokenizer.sha256
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


def test_transformers_opens_the_folder_and_gives_the_same_ids(tokenizer, folder, english):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == tokenizer.vocab_size
    for text in (TEXT, english[0], "é", " ", "\n"):
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == text
    assert theirs("a<|im_end|>")["input_ids"] == [*tokenizer.encode("a"), tokenizer.im_end_id]
    assert theirs.decode([*tokenizer.encode("a"), tokenizer.im_end_id], skip_special_tokens=True) == "a"
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (
        tokenizer.im_end_id,
        tokenizer.eot_id,
        tokenizer.special["<|reserved_0|>"],
    )
    assert theirs.chat_template == CHAT_TEMPLATE


def test_transformers_saves_what_we_load(tokenizer, folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs(["a", "a b c"], padding=True, truncation=True, max_length=2)
    theirs.save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").sha256 == tokenizer.sha256


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"No tokenizer at .*nothing.*tokenizer train"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match=r"No tokenizer at .*tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="not a plain file"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b'{"model": 3}',
        b"[" * 100_000,
        b"\x80\x04pickle",
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(tmp_path)


def test_a_truncated_file_is_refused(tmp_path, tokenizer):
    whole = tokenizer.definition.to_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        (tmp_path / "tokenizer.json").write_bytes(whole[:length])
        with pytest.raises(TokenizerError, match="damaged"):
            Tokenizer.load(tmp_path)


def test_another_programs_tokenizer_is_refused(tmp_path):
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    foreign.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="another program's"):
        Tokenizer.load(tmp_path)


CHANGES = {
    "control token renamed": lambda data, _: data["added_tokens"][3].update(content="<|sys|>"),
    "control token not special": lambda data, _: data["added_tokens"][0].update(special=False),
    "control token missing": lambda data, _: data["added_tokens"].pop(),
    "control token one more": lambda data, _: data["added_tokens"].append(data["added_tokens"][-1]),
    "control tokens in another order": lambda data, _: data["added_tokens"].reverse(),
    "ids swapped": lambda data, draw: _swap(data["model"]["vocab"], draw),
    "id missing": lambda data, draw: data["model"]["vocab"].pop(draw.choice(sorted(data["model"]["vocab"]))),
    "id doubled": lambda data, draw: data["model"]["vocab"].update({draw.choice(sorted(data["model"]["vocab"])): 5}),
    "id of another type": lambda data, _: data["model"]["vocab"].update({"a": "97"}),
    "piece outside the alphabet": lambda data, _: data["model"]["vocab"].update({" a": len(data["model"]["vocab"])}),
    "normalizer": lambda data, _: data.update(normalizer={"type": "NFC"}),
    "post-processor": lambda data, _: data.update(post_processor={"type": "ByteLevel"}),
    "prefix space": lambda data, _: _byte_level(data).update(add_prefix_space=True),
    "word expression switched": lambda data, _: _byte_level(data).update(use_regex=not _byte_level(data)["use_regex"]),
    "decoder": lambda data, _: data.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "model of another type": lambda data, _: data["model"].update(type="Unigram"),
    "dropout": lambda data, _: data["model"].update(dropout=0.5),
    "key missing": lambda data, draw: data.pop(draw.choice(["added_tokens", "pre_tokenizer", "decoder", "model"])),
    "key unknown": lambda data, _: data.update(extra=[1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused_and_says_where(tmp_path, tokenizer, change):
    for seed in range(3):
        data = json.loads(tokenizer.definition.to_bytes())
        CHANGES[change](data, random.Random(seed))
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        with pytest.raises(TokenizerError, match=r"damaged or another program's tokenizer: .*Train one|implies|imply"):
            Tokenizer.load(tmp_path)


def test_a_changed_expression_of_spike_is_refused(tmp_path, spike):
    data = json.loads(spike.definition.to_bytes())
    data["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = "."
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=r"pre_tokenizer\.pretokenizers is not what its pieces"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("length", [17, 300, 5_000])
def test_a_piece_longer_than_spike_learns_is_refused(tmp_path, spike, length):
    data = json.loads(spike.definition.to_bytes())
    data["model"]["vocab"]["a" * length] = len(data["model"]["vocab"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=rf"tokenizer.json is damaged.*A piece has {length:,} bytes.*at most 16"):
        Tokenizer.load(tmp_path)


def test_a_long_piece_of_bpe_loads(tmp_path):
    Tokenizer(merged([(b"a" * 2**k, b"a" * 2**k) for k in range(12)])).save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("a" * 4096) == [267]


@pytest.mark.parametrize("place", ["model", "added_tokens", "pre_tokenizer", "extra"])
def test_a_file_nested_deep_is_refused(tmp_path, spike, place):
    whole = json.loads(spike.definition.to_bytes()) | {place: "HERE"}
    for depth in (500, 100_000):
        data = json.dumps(whole).replace('"HERE"', "[" * depth + "]" * depth)
        (tmp_path / "tokenizer.json").write_text(data)
        with pytest.raises(TokenizerError, match="damaged"):
            Tokenizer.load(tmp_path)


def test_changed_merges_are_refused(tmp_path):
    whole = json.loads(train_bpe(["ab ab abc abc"], 387).definition.to_bytes())
    for merges in (whole["model"]["merges"][1:], [["a", "zz"]], [["a"]], [[1, 2]], "text"):
        data = whole | {"model": whole["model"] | {"merges": merges}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        with pytest.raises(TokenizerError, match="damaged"):
            Tokenizer.load(tmp_path)


def _swap(vocab: dict[str, int], draw: random.Random) -> None:
    a, b = draw.sample([piece for piece, index in vocab.items() if index < 256], 2)
    vocab[a], vocab[b] = vocab[b], vocab[a]


def _byte_level(data: dict) -> dict:
    stage = data["pre_tokenizer"]
    return stage["pretokenizers"][0] if stage["type"] == "Sequence" else stage
