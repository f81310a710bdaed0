"""Learn a vocabulary of byte pairs from a text, compare it with characters and words of it, and train a model on it.

Nine tenths of the text are learnt from; bits per byte are measured on the last tenth, by frequencies alone (chapter
1). The model is that of train_simple, with tokens in place of characters: generate_bpe lets it write.

Examples:
  python -m positronic_course.scripts.train_bpe
  python -m positronic_course.scripts.train_bpe --vocab-size 1000 --data-file my.txt --out my-tokenizer.json
  python -m positronic_course.scripts.train_bpe --epochs 0       only the vocabulary
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
    learn_merges,
    unigram_bits_per_byte,
)
from positronic_course.ch10_training import TrainingConfig
from positronic_course.scripts import train_simple
from positronic_course.scripts.console import BPE_MODEL, read_text, run

VOCABULARY = 2000
"""Pieces, where the text supports so many."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("train_bpe", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocab-size", type=int, help=f"pieces, the 256 bytes among them ({VOCABULARY}, or all)")
    parser.add_argument("--data-file", type=Path, help="a UTF-8 text; without it, the course's stories")
    parser.add_argument("--out", type=Path, default=Path("tokenizer.json"), help="where it goes (tokenizer.json)")
    parser.add_argument(
        "--config", choices=train_simple.CONFIGS, default="improved", help="size of the model (improved)"
    )
    parser.add_argument("--epochs", type=int, default=TrainingConfig.epochs, help="0: no model (%(default)s)")
    parser.add_argument("--model-path", type=Path, default=BPE_MODEL, help=f"where the model is kept ({BPE_MODEL})")
    parser.add_argument("--clean", action="store_true", help="forget the model there and begin again")
    a = parser.parse_args(arguments)

    text = read_text(a.data_file)
    cut = len(text) * 9 // 10
    seen, unseen = text[:cut], text[cut:]
    if not unseen.strip():
        raise CourseError(f"{a.data_file} has nothing to learn from: {len(text)} characters. Give a longer text.")
    learnt = BPETokenizer.learn(seen, a.vocab_size) if a.vocab_size else BPETokenizer(learn_merges(seen, VOCABULARY))
    vocab_size = len(learnt)
    a.out.write_text(learnt.to_json(), "utf-8")

    if a.vocab_size is None and vocab_size < VOCABULARY:
        print(f"This text supports {vocab_size} pieces, and no {VOCABULARY}: no pair occurs twice any more.")
    print("the longest pieces:", *sorted(map(show, learnt.pieces[256:]), key=len, reverse=True)[:12], sep="  ")
    words = {word for word in WORD.findall(seen) if len(word.encode("utf-8")) > 1}
    word = WordTokenizer.learn(seen, min(256 + len(words), vocab_size))
    for tokenizer in (CharTokenizer.learn(seen), word, learnt):
        ids = tokenizer.encode(unseen)
        assert tokenizer.decode(ids) == unseen
        bits = unigram_bits_per_byte(tokenizer, seen, unseen)
        per_token = len(unseen.encode("utf-8")) / len(ids)
        print(f"{tokenizer.kind:5} W = {len(tokenizer):5}  {per_token:.2f} bytes a token  {bits:.3f} bits per byte")
    print(f"{len(learnt)} pieces -> {a.out}")
    if a.epochs == 0:
        return 0
    words_of_training = ["--config", a.config, "--epochs", str(a.epochs), "--out", str(a.model_path)]
    text_file = ["--data-file", str(a.data_file)] if a.data_file else []
    begin = ["--clean"] if a.clean else []
    return train_simple.main([*words_of_training, *text_file, *begin, "--tokenizer", str(a.out)])


def show(piece: bytes) -> str:
    return repr(piece.decode("utf-8", errors="replace"))


if __name__ == "__main__":
    run(main)
