"""Show what each token of a text reads from: the attention weights of a trained model, as text and as a picture.

Rows are readers, columns what they read. The numbers are those of the model's own forward pass; each row sums to 1.

Examples:
  python -m positronic_course.scripts.visualize_attention "The lamp on the hill"
  python -m positronic_course.scripts.visualize_attention "The lamp on the hill" --layer 0 --head 2
  python -m positronic_course.scripts.visualize_attention "The lamp on the hill" --compare-heads --out heads.png
"""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from positronic_course import CourseError
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch10_training import read
from positronic_course.ch12_looking import as_text, attention_of, picture, reach, spread
from positronic_course.scripts.console import MODEL, run

WIDEST = 100
"""Tokens that fit a line of the terminal."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "visualize_attention", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", metavar="TEXT", help="what the model shall read")
    parser.add_argument("--model-path", type=Path, default=MODEL, help=f"folder of train_simple ({MODEL})")
    parser.add_argument("--layer", type=int, help="counted from 0 (the last)")
    parser.add_argument("--head", type=int, default=0, help="counted from 0 (0)")
    parser.add_argument("--compare-heads", action="store_true", help="all heads of the layer")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), help="the picture (attention.png)")
    a = parser.parse_args(arguments)

    saved, tokenizer, parameters = read(a.model_path)
    config = ModelConfig(**saved["model"])
    layer = config.n_layers - 1 if a.layer is None else a.layer
    for name, number, count in (("--layer", layer, config.n_layers), ("--head", a.head, config.n_heads)):
        if not 0 <= number < count:
            raise CourseError(f"{name} is {number}; this model has {count}, counted from 0: use 0 to {count - 1}.")
    ids = tokenizer.encode(a.text)
    pieces = [tokenizer.decode([number]) for number in ids]
    p = attention_of(parameters, config, ids)[layer]
    heads = {f"layer {layer}, head {h}": p[h] for h in (range(config.n_heads) if a.compare_heads else [a.head])}

    for title, one in heads.items():
        print(f"{title}: reads {reach(one):.1f} tokens back on average, from {spread(one):.1f} tokens at a time")
        if len(ids) <= WIDEST:
            print(as_text(one, pieces) + "\n")
    if find_spec("matplotlib") is None:
        print("No picture: matplotlib is not installed (pip install matplotlib).")
        return
    picture(heads, pieces, a.out)
    print(f"-> {a.out}")


if __name__ == "__main__":
    run(main)
