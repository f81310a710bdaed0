"""Let the model of train_bpe continue a text: generate_text, where that model is kept.

Examples:
  python -m positronic_course.scripts.generate_bpe "Once upon a time"
  python -m positronic_course.scripts.generate_bpe "The cat" --temperature 0.5 --num-samples 3
"""

import sys
from collections.abc import Sequence

from positronic_course.scripts import generate_text
from positronic_course.scripts.console import BPE_MODEL, run


def main(arguments: Sequence[str] | None = None) -> None:
    """What `generate_text` does; --model-path, where it is given, comes last and holds."""
    given = sys.argv[1:] if arguments is None else arguments
    generate_text.main(["--model-path", str(BPE_MODEL), *given])


if __name__ == "__main__":
    run(main)
