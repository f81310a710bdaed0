"""What holds of every tokenizer, whatever its kind."""

import pickle
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from positronic.errors import TokenizerError
from positronic.text import CONTROL_TOKENS, Tokenizer

N_STRINGS = 100_000
FRAGMENTS = [
    *(bytes([b]) for b in range(256)),
    *(name.encode() for name in CONTROL_TOKENS[:16]),
    *(" ", "  ", "\n", "\r\n", "\t", "the", " of", "é", "日本", "🙂", "\u0085", "\u2028", "\ufeff", "e\u0301", "ﬁ"),
]
FRAGMENTS = [part.encode() if isinstance(part, str) else part for part in FRAGMENTS]


def random_strings(seed: int, count: int) -> list[bytes]:
    """Half of them random bytes, half of them random fragments; up to twelve of either."""
    draw = random.Random(seed)
    noise = [draw.randbytes(draw.randrange(13)) for _ in range(count // 2)]
    return noise + [b"".join(draw.choices(FRAGMENTS, k=draw.randrange(13))) for _ in range(count - len(noise))]


def test_100000_random_byte_strings_come_back_as_they_were(tokenizer):
    for data in random_strings(0, N_STRINGS):
        ids = tokenizer.encode_bytes(data)
        assert tokenizer.decode_bytes(ids) == data
        assert not ids or max(ids) < tokenizer.eot_id, f"a control token came from {data!r}"


def test_encoding_what_was_decoded_gives_the_same_ids(tokenizer):
    for data in random_strings(1, 2_000):
        ids = tokenizer.encode_bytes(data)
        assert tokenizer.encode_bytes(tokenizer.decode_bytes(ids)) == ids


@given(text=st.text(max_size=40))
@settings(max_examples=300)
def test_any_text_comes_back_and_encodes_as_its_bytes_do(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_bytes(text.encode()) == ids


def test_the_runtime_gives_the_same_ids(tokenizer, english):
    texts = [text.decode() for text in random_strings(2, 10_000) if _is_utf8(text)] + [english[0], "".join(english[:3])]
    ours = tokenizer.encode_batch(texts)
    theirs = [found.ids for found in tokenizer.runtime.encode_batch(texts, add_special_tokens=False)]
    assert len(texts) > 1_000
    assert ours == theirs == [tokenizer.encode(text) for text in texts]
    assert all(tokenizer.runtime.decode(ids) == text for ids, text in zip(ours, texts, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        *CONTROL_TOKENS,
        "".join(CONTROL_TOKENS),
        "<|im_<|im_end|>end|>",
        "<|im_end|",
        "|im_end|> <think>\n</think>",
        "<<think>>",
        " <|endoftext|>\n",
        "<|reserved_112|><|reserved_113|>",
    ],
)
def test_no_control_token_comes_from_untrusted_text(tokenizer, text):
    for ids in (
        tokenizer.encode(text),
        tokenizer.encode_batch([text])[0],
        tokenizer.encode_bytes(text.encode() + b"\xff"),
    ):
        assert max(ids) < tokenizer.vocab_size - len(CONTROL_TOKENS)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_are_the_last_128_ids_in_their_order(tokenizer):
    first = tokenizer.vocab_size - 128
    assert [tokenizer.special[name] for name in CONTROL_TOKENS] == list(range(first, tokenizer.vocab_size))
    assert CONTROL_TOKENS[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert len(CONTROL_TOKENS) == 128
    assert CONTROL_TOKENS[15] == "<|reserved_0|>"
    assert (tokenizer.eot_id, tokenizer.im_end_id) == (first, first + 2)
    assert all(tokenizer.runtime.token_to_id(name) == index for name, index in tokenizer.special.items())


def test_the_first_256_ids_are_the_bytes(tokenizer):
    assert tokenizer.token_bytes[:256] == tuple(bytes([b]) for b in range(256))
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size


def test_no_two_ids_spell_the_same_bytes(tokenizer):
    spelt = [piece for piece in tokenizer.token_bytes if piece]
    assert len(set(spelt)) == len(spelt) == tokenizer.vocab_size - 128


def test_no_piece_holds_the_name_of_a_control_token(tokenizer):
    assert not [piece for piece in tokenizer.token_bytes for name in CONTROL_TOKENS if name.encode() in piece]


@pytest.mark.parametrize("special", [False, True])
def test_a_stream_decodes_to_the_whole_and_shows_only_complete_characters(tokenizer, special):
    draw = random.Random(3)
    for _ in range(500):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(30))]
        ids += tokenizer.encode("naïve 日本 🙂"[: draw.randrange(14)])
        stream = tokenizer.decoder(special)
        parts = [stream.push(index) for index in ids]
        assert "".join(parts) + stream.finish() == tokenizer.decode(ids, special)


def test_a_stream_holds_back_what_is_not_yet_a_character(tokenizer):
    stream = tokenizer.decoder()
    assert [stream.push(byte) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert stream.push(0xE2) == ""
    assert stream.finish() == "\ufffd"


def test_control_tokens_are_shown_only_when_asked_for_and_spell_no_bytes(tokenizer):
    ids = [*tokenizer.encode("a"), tokenizer.im_end_id, tokenizer.vocab_size - 1]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, special=True) == "a<|im_end|><|reserved_112|>"
    assert tokenizer.decode_bytes(ids) == b"a"


def test_bytes_are_counted_exactly(tokenizer, english):
    ids = tokenizer.encode(english[0] + "é🙂")
    assert tokenizer.n_bytes(ids) == len(english[0].encode()) + 6
    assert tokenizer.n_bytes(np.array([*ids, tokenizer.eot_id], np.uint16)) == len(english[0].encode()) + 6
    assert tokenizer.n_bytes([]) == 0


def test_invalid_bytes_are_shown_by_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode_bytes(b"a\xffb")) == "a\ufffdb"


def test_normal_forms_are_kept_apart(tokenizer):
    texts = [unicodedata.normalize(form, "é ﬁ Å") for form in ("NFC", "NFD", "NFKC")]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_half_a_surrogate_pair_is_refused_in_words(tokenizer):
    with pytest.raises(TokenizerError, match="Character 2 of the text"):
        tokenizer.encode("ab\ud800c")


def test_an_id_outside_the_vocabulary_is_refused_in_words(tokenizer):
    with pytest.raises(TokenizerError, match=f"vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(TokenizerError, match=f"vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode_bytes([-100])


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert isinstance(copy, Tokenizer)
    assert copy.sha256 == tokenizer.sha256
    assert copy.encode("a word") == tokenizer.encode("a word")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
