"""Decoding beside its peers, all in the same run: one row, several, rows that come and go, beginnings that are kept.

    python -m benchmarks.decode                                     CPU, float32, one thread: results/decode.json
    python -m benchmarks.decode --device cuda --dtype both          results/decode_cuda.json
    python -m benchmarks.decode --against FOLDER --compile          and 074ff9c's loop, checked out there; and compiled
    python -m benchmarks.decode --presets tinygpt-tiny --tokens 8 --rounds 2 --to /tmp        a look
    python -m benchmarks.decode --only forms --checkpoint FOLDER    trained models, with drafts, on text

Parts, each described in its file in benchmarks/decoding; weights are random, prompts too, and 128 tokens long:

    one_row       the engine, a plain loop, 074ff9c's, Transformers' Llama of the control's size in three forms
    steps         a step's operations on a CPU; on CUDA its kernels and the share of the time in which the GPU works
    batches       4 and 16 rows, on CUDA 64 as well, against one
    joining       16 rows of 1,024 tokens, of which one leaves and another joins every 16 rounds
    prefix        the first token of a prompt of 2,000 tokens that are kept, against reading them
    forms         sampled, uncached, with drafts, exact; only where --forms or --checkpoint asks for it

Contestants take turns, round by round; a ratio is the median of the rounds' ratios. At the end a table of what was
asked for and what was measured.
"""

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding.against import Against
from benchmarks.decoding.batches import joining, several
from benchmarks.decoding.forms import TEXTS, all_forms, random_prompts
from benchmarks.decoding.goals import goals, summary, table
from benchmarks.decoding.llama import Llama, reason_of
from benchmarks.decoding.one_row import one_row
from benchmarks.decoding.prefix import first_token
from benchmarks.decoding.steps import kernels, llama_operations, operations
from benchmarks.decoding.subject import PROMPT, Setting, Subject
from benchmarks.record import RESULTS, write
from positronic.checkpoint import load
from positronic.models import PRESETS
from positronic.models.transformer import TransformerConfig

SMALL = "tinygpt-15m", "positronic-15m", "mycel-10m", "moa-20m"
LARGE = "positronic-144m", "control-144m"
COUNTED = ("positronic-tiny",)
"""Whose operations are counted as well."""
PARTS = "one_row", "steps", "batches", "joining", "prefix"
SIZES = {"cpu": (4, 16), "cuda": (4, 16, 64)}
LONGEST_BATCH = {"cpu": 24, "cuda": 96}
"""Rounds of a batch that are timed, at most; on CUDA what fits into one extent of 256."""
DTYPES = {"float32": ("float32",), "bfloat16": ("bfloat16",), "both": ("bfloat16", "float32")}


def main() -> None:
    a = _arguments()
    torch.set_num_threads(a.threads)
    device = torch.device(a.device)
    on_cuda = device.type == "cuda"
    presets = a.presets or (SMALL + LARGE if on_cuda else SMALL)
    tokens = a.tokens or (128 if on_cuda else 64)
    dtypes = DTYPES[a.dtype or ("bfloat16" if on_cuda else "float32")]
    settings = {
        dtype: Setting(device, getattr(torch, dtype), a.threads, tokens, a.rounds, a.compile) for dtype in dtypes
    }
    found: dict[str, dict[str, Any]] = {dtype: {} for dtype in dtypes}

    def keep() -> Path:
        """Write what there is: a machine that is lent for minutes may be gone before the end."""
        return write(
            "decode_cuda" if on_cuda else "decode",
            shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]]),
            {
                "prompt_tokens": PROMPT,
                "tokens": tokens,
                "rounds": a.rounds,
                "dtypes": found,
                "goals": [goal.record() for goal in goals(device.type, found)],
            },
            packages=("torch", "numpy", "transformers", *(("triton",) if on_cuda else ())),
            to=a.to,
        )

    with ExitStack() as stack:
        against = stack.enter_context(Against(a.against)) if a.against else None
        for parts in ({*a.only} - {"steps"}, {*a.only} & {"steps"}):  # a profiler may slow what comes after it
            for dtype in dtypes if parts else ():
                _measure(found[dtype], settings[dtype], parts, presets, against, keep)
        for dtype in dtypes:
            for folder in a.checkpoint:
                found[dtype].setdefault("forms", {})[folder.name] = _trained(folder, settings[dtype])
    path = keep()
    for dtype, parts_found in found.items():
        print("\n".join(summary(dtype, parts_found)))
    print(table(goals(device.type, found)))
    print(path)
    if any("failed" in parts_found for parts_found in found.values()):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = f"{', '.join(SMALL)}; on CUDA {', '.join(LARGE)} as well"
    parser.add_argument("--presets", nargs="+", choices=PRESETS, metavar="NAME", help=f"usually {usual}")
    parser.add_argument("--tokens", type=int, help="that one row says; usually 64, on CUDA 128")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs; usually 5")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU; usually 1")
    parser.add_argument("--device", default="cpu", help="usually cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="usually float32, on CUDA bfloat16")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of commit 074ff9c")
    parser.add_argument(
        "--only", nargs="+", choices=(*PARTS, "forms"), default=PARTS, metavar="PART", help="these parts"
    )
    parser.add_argument("--compile", action="store_true", help="the engine compiled as well: minutes for each preset")
    parser.add_argument("--forms", action="store_true", help="the part `forms` as well")
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[], metavar="FOLDER", help="their `forms` as well"
    )
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    a = parser.parse_args()
    a.only = [*a.only, *(["forms"] if a.forms else [])]
    return a


def _measure(
    found: dict[str, Any],
    setting: Setting,
    parts: Collection[str],
    presets: Sequence[str],
    against: Against | None,
    keep: Callable[[], Path],
) -> None:
    """Put every part of these, preset by preset, into `found`. What fails is said there, and the rest goes on."""
    subjects = [Subject(name, setting) for name in presets]
    kind = setting.device.type
    peer = next((subject for subject in subjects if Llama.stands_beside(subject.model.config)), None)
    llama = _llama(peer, found) if peer is not None and {"one_row", "steps"} & set(parts) else None

    def each(part: str, measure: Callable[[Subject], Any], among: Sequence[Subject] = subjects) -> None:
        for subject in among:
            print(f"{part}: {subject.name}, {setting.dtype}", file=sys.stderr, flush=True)
            try:
                found.setdefault(part, {})[subject.name] = measure(subject)
            except Exception as error:
                traceback.print_exc()
                found.setdefault("failed", {})[f"{part}, {subject.name}"] = reason_of(error)
            keep()

    if "one_row" in parts:
        each("one_row", lambda subject: one_row(subject, against, llama if subject is peer else None))
    if "batches" in parts:
        rounds_a_row = min(setting.tokens, LONGEST_BATCH[kind])
        each("batches", lambda subject: several(subject, SIZES[kind], rounds_a_row))
    if "joining" in parts:
        each("joining", joining, subjects[:1])
    if "prefix" in parts:
        each("prefix", first_token, subjects[:1])
    if "forms" in parts:
        each("forms", lambda subject: all_forms(subject.model, random_prompts(subject.model), setting))
    if "steps" in parts and setting.cuda:
        each("kernels", kernels)
    elif "steps" in parts:
        counted = [Subject(name, setting) for name in COUNTED if presets == SMALL]
        each("operations", lambda subject: operations(subject, against), [*subjects, *counted])
        if llama is not None and peer is not None:
            found["operations"]["Llama"] = llama_operations(llama, peer.prompt)


def _llama(peer: Subject, found: dict[str, Any]) -> Llama | None:
    """The peer of the control; where there is none, `found` says why."""
    config = peer.model.config
    assert isinstance(config, TransformerConfig), "asked before"
    try:
        llama = Llama(config, peer.setting)
    except ImportError as error:
        found["llama_missing"] = f"{error}; `pip install transformers` brings the rows of its Llama."
        return None
    found["llama"] = {"beside": peer.name, "parameters": llama.parameters}
    return llama


def _trained(folder: Path, setting: Setting) -> dict[str, Any]:
    """A trained model's forms, after texts."""
    model, tokenizer = load(folder)
    model = model.to(setting.device, setting.dtype).eval()  # type: ignore[attr-defined]
    return all_forms(model, {name: tokenizer.encode(text) for name, text in TEXTS.items()}, setting)


if __name__ == "__main__":
    main()
