"""Learn a vocabulary of byte pairs from a text, and compare it with characters and words of the same text.

Nine tenths of the text are learnt from; bits per byte are measured on the last tenth, by frequencies alone (chapter
1).

Examples:
  python -m positronic_course.scripts.train_bpe
  python -m positronic_course.scripts.train_bpe --vocab-size 1000 --data-file my.txt --out my-tokenizer.json
  python -m positronic_course.scripts.train_simple --data-file my.txt --tokenizer my-tokenizer.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from positronic_course import CourseError
from positronic_course.ch01_tokenizers import (
    WORD,
    BPETokenizer,
    CharTokenizer,
    WordTokenizer,
    unigram_bits_per_byte,
)
from positronic_course.scripts.console import read_text, run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("train_bpe", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=512, help="pieces, the 256 bytes among them (512)")
    parser.add_argument("--data-file", type=Path, help="a UTF-8 text; without it, the course's stories")
    parser.add_argument("--out", type=Path, default=Path("tokenizer.json"), help="where it goes (tokenizer.json)")
    a = parser.parse_args(arguments)

    text = read_text(a.data_file)
    cut = len(text) * 9 // 10
    seen, unseen = text[:cut], text[cut:]
    if not unseen.strip():
        raise CourseError(f"{a.data_file} has nothing to learn from: {len(text)} characters. Give a longer text.")
    learnt = BPETokenizer.learn(seen, a.vocab_size)
    a.out.write_text(learnt.to_json(), "utf-8")

    print("the longest pieces:", *sorted(map(show, learnt.pieces[256:]), key=len, reverse=True)[:12], sep="  ")
    words = {word for word in WORD.findall(seen) if len(word.encode("utf-8")) > 1}
    word = WordTokenizer.learn(seen, min(256 + len(words), a.vocab_size))
    for tokenizer in (CharTokenizer.learn(seen), word, learnt):
        ids = tokenizer.encode(unseen)
        assert tokenizer.decode(ids) == unseen
        bits = unigram_bits_per_byte(tokenizer, seen, unseen)
        per_token = len(unseen.encode("utf-8")) / len(ids)
        print(f"{tokenizer.kind:5} W = {len(tokenizer):5}  {per_token:.2f} bytes a token  {bits:.3f} bits per byte")
    print(f"{len(learnt)} pieces -> {a.out}")


def show(piece: bytes) -> str:
    return repr(piece.decode("utf-8", errors="replace"))


if __name__ == "__main__":
    run(main)
