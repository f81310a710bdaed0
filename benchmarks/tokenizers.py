"""Tokenizers of one size on one text: length-max ("spike") beside BPE. Training, encoding speed, bytes per token.

    python -m benchmarks.tokenizers --train TEXT... --valid TEXT...

    training    seconds and peak memory of a process of its own, the text in memory; BPE learns with every core
    encoding    MB/s on the same documents in turn: ours; `tokenizers` and tiktoken with the very merges of that BPE,
                by one core and by all. Cold means that no word was seen before. Where the load average exceeds the
                cores, others were at work, and the least time says more than the median.
    sizes       bytes per token on each valid text, by both vocabularies

TEXT is what `positronic train --data` takes. From each document of the training texts the same share is used.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tiktoken

from benchmarks.record import alternate, spread, write
from positronic.data import open_source
from positronic.text import Tokenizer, train_bpe, train_length_max
from positronic.text.longest_match import longest_match_reference

GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TRAINERS = {"spike": train_length_max, "bpe": train_bpe}
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="TEXT")
    parser.add_argument("--valid", nargs="+", required=True, metavar="TEXT")
    parser.add_argument("--vocab-size", type=int, default=16_512)
    parser.add_argument("--train-mb", type=float, default=50)
    parser.add_argument("--encode-mb", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        training = {kind: apart(train, kind, a.train, a.train_mb, a.vocab_size, folder) for kind in TRAINERS}
        spike, bpe = (Tokenizer.load(Path(folder, kind)) for kind in TRAINERS)
    names = [Path(path).name for path in a.valid]
    results = {
        "vocab_size": a.vocab_size,
        "train_texts": [Path(path).name for path in a.train],
        "training": training,
        "encoding": encoding(spike, bpe, list(texts(a.valid, a.encode_mb)), a.rounds),
        "bytes_per_token": {
            name: {kind: bytes_per_token(tokenizer, path) for kind, tokenizer in (("spike", spike), ("bpe", bpe))}
            for name, path in zip(names, a.valid, strict=True)
        },
    }
    command = f"python -m benchmarks.tokenizers --train {' '.join(results['train_texts'])} --valid {' '.join(names)}"
    print(write("tokenizers", command, results, packages=("tokenizers", "tiktoken", "numpy")))


def texts(paths: list[str], megabytes: float) -> Iterator[str]:
    """The same share of every document, `megabytes` in all; all of it when there is no more."""
    total = sum(len(document.text.encode()) for path in paths for document in open_source(path))
    share = min(1.0, megabytes * MB / total)
    for path in paths:
        for document in open_source(path):
            yield document.text[: int(share * len(document.text))]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed by a fresh process, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def train(kind: str, paths: list[str], megabytes: float, vocab_size: int, folder: str) -> dict[str, float]:
    text = list(texts(paths, megabytes))
    start = time.perf_counter()
    tokenizer = TRAINERS[kind](text, vocab_size)
    seconds = time.perf_counter() - start
    tokenizer.save(Path(folder, kind))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"bytes": sum(len(part.encode()) for part in text), "seconds": seconds, "peak_bytes": peak}


def encoding(spike: Tokenizer, bpe: Tokenizer, documents: list[str], rounds: int) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    merges = {piece: index for index, piece in enumerate(bpe.definition.pieces)}
    tik = tiktoken.Encoding("bpe", pat_str=GPT2_WORDS, mergeable_ranks=merges, special_tokens={})
    short = documents[:: max(1, len(documents) // 40)]
    ids = {piece: index for index, piece in enumerate(spike.definition.pieces)}

    def runtime(tokenizer: Tokenizer, batch: list[str], parallel: bool) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = str(parallel).lower()
        tokenizer.runtime.encode_batch_fast(batch, add_special_tokens=False)

    forms: dict[str, tuple[list[str], Callable[[list[str]], Any]]] = {
        "spike": (documents, spike.encode_batch),
        "spike, cold": (documents, lambda batch: Tokenizer(spike.definition).encode_batch(batch)),
        "spike, definition": (short, lambda batch: [list(longest_match_reference(t.encode(), ids)) for t in batch]),
        "spike, by tokenizers, 1 core": (short, lambda batch: runtime(spike, batch, False)),
        "bpe, by tokenizers, 1 core": (documents, lambda batch: runtime(bpe, batch, False)),
        f"bpe, by tokenizers, {cores} cores": (documents, lambda batch: runtime(bpe, batch, True)),
        "bpe, by tiktoken, 1 core": (documents, lambda batch: tik.encode_ordinary_batch(batch, num_threads=1)),
        f"bpe, by tiktoken, {cores} cores": (documents, lambda b: tik.encode_ordinary_batch(b, num_threads=cores)),
    }
    timed = alternate({name: partial(form, batch) for name, (batch, form) in forms.items()}, rounds=rounds, warmup=1)
    sizes = {name: sum(len(text.encode()) for text in batch) for name, (batch, _) in forms.items()}
    return {
        "bytes": sizes["spike"],
        "load_average": os.getloadavg()[0],
        "tiktoken_gives_the_ids_of_tokenizers": tik.encode_ordinary_batch(documents) == bpe.encode_batch(documents),
        "forms": {
            name: {"mb_per_s": sizes[name] / MB / spread(seconds)["median_s"], "bytes": sizes[name], **spread(seconds)}
            for name, seconds in timed.items()
        },
    }


def bytes_per_token(tokenizer: Tokenizer, path: str) -> float:
    encoded = tokenizer.encode_batch([document.text for document in open_source(path)])
    return sum(map(tokenizer.n_bytes, encoded)) / sum(map(len, encoded))


if __name__ == "__main__":
    main()
