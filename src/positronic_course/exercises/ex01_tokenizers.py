"""Exercises: bytes and tokenizers.

python -m positronic_course.exercises.ex01_tokenizers
"""

from positronic_course.exercises import Answer, expect, run, true


def utf8_length(code: int) -> int:
    """How many bytes does UTF-8 spend on the character with this code point? (easy)

    Up to 7 bits fit into one byte, up to 11 into two, up to 16 into three, everything else takes four.
    """
    return ...


def check_utf8_length(answer: Answer) -> None:
    for character in "A\x7f\x80é߿ࠀ日\uffff\U00010000🌅\U0010ffff":
        expect(f"utf8_length(0x{ord(character):X})", answer(ord(character)), len(character.encode("utf-8")))


def best_pair(words: dict[str, int]) -> str:
    """The two neighbouring characters that occur most often, as a string of two; words: word -> how often it occurs.

    Each place counts: "aaa" holds the pair "aa" twice. Of pairs that are equally frequent, take the first in the
    alphabet.
    """
    return ...


def check_best_pair(answer: Answer) -> None:
    # Counted by hand: aa 3, ab 3 + 2 = 5, bc 4.
    for words, pair in (
        ({"aab": 3, "ab": 2, "bc": 4}, "ab"),
        ({"aaa": 2, "bc": 3}, "aa"),
        ({"xy": 2, "cd": 2}, "cd"),
        ({"q": 9, "no": 1}, "no"),
    ):
        found = answer(words)
        true(found == pair, f"best_pair({words}) is {found!r}; counted by hand it is {pair!r}.")


def bits_per_byte(nats_a_token: float, n_tokens: int, n_bytes: int) -> float:
    """A model's loss is a mean over tokens, in nats (natural logarithm). What is it in bits per byte of the text?

    Derive it: first the total in nats, then how many bits a nat is, then for each byte.
    """
    return ...


def check_bits_per_byte(answer: Answer) -> None:
    from math import log

    expect("256 equally likely bytes, one a token", answer(log(256), 100, 100), 8)
    expect("the same loss with tokens of four bytes", answer(log(256), 25, 100), 2)
    expect("a coin thrown for each byte", answer(log(2), 7, 7), 1)


if __name__ == "__main__":
    run(globals())
