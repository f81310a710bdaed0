"""TinyStories (Eldan and Li 2023, arXiv 2305.07759; CDLA-Sharing-1.0) through `datasets`, where there is a network."""

import json
import os
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from positronic.errors import DataError

__all__ = ["WAYS", "fetch", "out_of_reach"]

NAME, HUB = "roneneldan/TinyStories", "https://huggingface.co"
BYTES = 200_000_000
"""Of text: more than 5,000 updates of 16,384 tokens read once would need no file of 2 GB."""
TIMEOUT_S = 5
WAYS = (
    "There are three ways to text: TinyStories, which needs a network and `pip install datasets`; a file or folder of "
    "yours, DATA=my-text/ (--data my-text/); or what comes with Python, DATA=embedded (--data embedded)."
)


def out_of_reach() -> str | None:
    """Why TinyStories cannot be had here; None: it can."""
    if find_spec("datasets") is None:
        return "`datasets` is not installed"
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None  # it answers, whatever it says to us
    except OSError as error:
        return f"{HUB} does not answer ({getattr(error, 'reason', error)})"
    return None


def fetch(file: Path, max_bytes: int = BYTES) -> int:
    """Write stories to a jsonl until there are `max_bytes` of text; the bytes written."""
    import datasets

    size = 0
    try:
        with file.open("w", encoding="utf-8") as out:
            for story in datasets.load_dataset(NAME, split="train", streaming=True):
                size += len(story["text"].encode())
                out.write(json.dumps({"text": story["text"]}, ensure_ascii=False) + "\n")
                if size >= max_bytes:
                    break
    except Exception as error:  # of any of the libraries below `datasets`; the answer to all of them is the same
        raise DataError(f"TinyStories could not be fetched ({type(error).__name__}: {error}). {WAYS}") from error
    return size
