"""Normalized ids: forms that read the same share one."""

from positronic.text import Tokenizer, normalized_ids
from positronic.text.definition import Definition

BYTES = tuple(bytes([b]) for b in range(256))


def test_case_width_and_one_leading_space_do_not_matter():
    same = [" The", "the", "The", " THE", "\uff54\uff48\uff45"]
    apart = ["  the", "them", "\nthe", "the "]
    tokenizer = Tokenizer(Definition("spike", (*BYTES, *(text.encode() for text in same + apart))))
    ids = normalized_ids(tokenizer)
    assert {ids[256 + k] for k in range(len(same))} == {256}
    first = 256 + len(same)
    assert ids[first : first + len(apart)] == list(range(first, first + len(apart)))


def test_letters_meet_in_lower_case_at_the_lesser_id():
    tokenizer = Tokenizer(Definition("bytes", BYTES))
    ids = normalized_ids(tokenizer)
    assert ids[ord("a")] == ids[ord("A")] == ord("A")
    assert ids[0x80:0x100] == list(range(0x80, 0x100)), "bytes that are no characters stand for themselves"


def test_a_normalized_id_is_its_own_and_the_least(tokenizer):
    ids = normalized_ids(tokenizer)
    assert len(ids) == tokenizer.vocab_size
    assert all(ids[canonical] == canonical <= index for index, canonical in enumerate(ids))


def test_control_tokens_stand_for_themselves(tokenizer):
    first = tokenizer.vocab_size - 128
    assert normalized_ids(tokenizer)[first:] == list(range(first, tokenizer.vocab_size))
