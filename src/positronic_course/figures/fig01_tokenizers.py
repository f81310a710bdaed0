"""Vocabularies of all sizes."""

from positronic_course.ch01_tokenizers import BPETokenizer, CharTokenizer, WordTokenizer, unigram_bits_per_byte
from positronic_course.drawing import Drawing
from positronic_course.scripts.console import read_text

SIZES = (276, 306, 356, 406, 446, 486, 536, 586)


def figure() -> Drawing:
    """Left: what a text of the stories costs when each piece costs what its frequency says. Words and byte pairs become
    cheaper with every piece, pairs faster. Right: how many bytes a token then spells."""
    text = read_text(None)
    seen, unseen = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    drawing = Drawing(2)
    costs = drawing.panel(0, "Bits per byte", SIZES[::7], (2, 4.5), x="vocabulary W", y="bits per byte")
    lengths = drawing.panel(1, "Bytes a token", SIZES[::7], (0, 3), x="vocabulary W", y="bytes")
    for colour, kind in enumerate((CharTokenizer, WordTokenizer, BPETokenizer)):
        bits, spelt = [], []
        for size in SIZES:
            tokenizer = CharTokenizer.learn(seen) if kind is CharTokenizer else kind.learn(seen, size)
            bits.append(unigram_bits_per_byte(tokenizer, seen, unseen))
            spelt.append(len(unseen.encode("utf-8")) / len(tokenizer.encode(unseen)))
        costs.line(SIZES, bits, colour, kind.kind)
        lengths.line(SIZES, spelt, colour, kind.kind)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
