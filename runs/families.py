"""All families trained on blend-v1 and their controls in one table: size, bits per byte, grammar, last words, speed.

    python runs/families.py --kept KEPT ... --results docs/results --eval EVAL --out docs/results/families [--device D]

KEPT are checkpoint folders, named NAME or NAME-bf16 as `reference_runs.py inspect` keeps them; EVAL holds the
benchmarks (blimp, lambada). Each is scored unless OUT/NAME-tasks.json is there already, which --again makes anew. Bits
per byte, parameters and speed are those of the runs themselves: every file of RESULTS, however deep, that a run of
`train` wrote, seeds of one NAME together. Writes OUT.md beside OUT. Without --kept only the table is made. Needs no
command line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from experiment import circumstances, write_json
from report import mean, runs_in

from positronic.checkpoint import load
from positronic.eval import benchmark, open_task
from positronic.train import pick_device

TASKS = ("blimp", "lambada")
ALONE = "", "alone on the device"
"""Notes of runs whose speed is their own."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=Path, nargs="*", default=[])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="items of each task, or part of one; all when not given")
    parser.add_argument("--again", action="store_true", help="score models that were scored before")
    a = parser.parse_args(arguments)
    if a.kept and a.eval is None:
        parser.error("--kept needs --eval, the folder of blimp and lambada")
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    runs = runs_below(a.results)
    for folder in a.kept:
        name = folder.name.removesuffix("-bf16")
        if name not in runs:
            parser.error(f"no run below {a.results} is of a model {name!r}; there are {', '.join(runs) or 'none'}")
        if a.again or not (a.out / f"{name}-tasks.json").exists():
            write_json(a.out / f"{name}-tasks.json", scored(name, folder, a))
    found = [json.loads(path.read_text("utf-8")) for path in sorted(a.out.glob("*-tasks.json"))]
    lines = report(runs, {one["scored"]: one for one in found}, a)
    a.out.with_suffix(".md").write_text("\n".join(lines), "utf-8")


def scored(name: str, folder: Path, a: argparse.Namespace) -> dict[str, Any]:
    """What a kept model makes of the benchmarks."""
    place = pick_device(a.device)
    model, tokenizer = load(folder, device=place.torch_device)
    tasks = {}
    for task in TASKS:
        start = time.perf_counter()
        with place.autocast():
            found = benchmark(model, tokenizer, open_task(task, a.eval).first(a.limit)).to_json()
        tasks[task] = found | {"seconds": round(time.perf_counter() - start, 1)}
        print(f"{name}: {task} {found['acc']:.4f}", flush=True)
    command = f"python runs/families.py --kept {folder.name}" + (f" --limit {a.limit}" if a.limit else "")
    return {**circumstances(command, a.device, tokenizer), "scored": name, "tasks": tasks}


def runs_below(results: Path) -> dict[str, list[dict[str, Any]]]:
    """The runs by model, all seeds of each, the largest model first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, run in runs_in({p: json.loads(p.read_text("utf-8")) for p in sorted(results.rglob("*.json"))}).items():
        if not run.get("excerpt"):
            seeds = found.setdefault(run["model"], [])
            seeds.append(run)
            if run["training"]["tokens"] != seeds[0]["training"]["tokens"]:
                raise SystemExit(
                    f"{path} has another number of tokens than other runs of {run['model']}; name it apart"
                )
    return dict(sorted(found.items(), key=lambda item: (-item[1][0]["parameters"], item[0])))


def report(runs: dict[str, list[dict[str, Any]]], tasks: dict[str, Any], a: argparse.Namespace) -> list[str]:
    """The page, line by line."""
    return [
        "# All families on blend-v1",
        "",
        *_summary(runs, tasks),
        "",
        "Bits per byte on the blend's valid texts, weighed by the blend's shares, over all seeds of a run; ± half the "
        "distance between the best and the worst. At 40 M tokens nothing has converged, the large models least: from "
        "38 M parameters on they take half as many updates, of twice the tokens; moa-20m and its scores read 20 M. "
        "Read a model beside its control, and not beside another size. BLiMP and LAMBADA on the weights that were "
        "kept, those of one seed: mean accuracy over paradigms (chance 0.5), share of last words that greedy decoding "
        "says, their perplexity, each ± its standard error. Speed: the median step in training, which depends on the "
        "size of a batch and on what else ran: shared, beside other runs. A dash where nothing was kept.",
        "",
        "## Bits per byte by text",
        "",
        *_by_text(runs),
        "",
        *_by_paradigm(runs, tasks),
        "## Commands",
        "",
        *(f"- `{run['command']}`" for seeds in runs.values() for run in seeds),
        *(f"- `{one['command']} ...`" for one in tasks.values()),
        f"- this page: `python runs/families.py --results {a.results} --out {a.out}`",
        "",
    ]


def _summary(runs: dict[str, list[dict[str, Any]]], tasks: dict[str, Any]) -> list[str]:
    columns = ["model", "parameters", "tokens", "bits/byte", "BLiMP", "LAMBADA", "perplexity", "tokens/s", "device"]
    rows = []
    for name, seeds in runs.items():
        of_tasks = tasks[name]["tasks"] if name in tasks else {}
        rows.append(
            [
                name,
                f"{seeds[0]['parameters']:,}",
                f"{seeds[0]['training']['tokens'] / 1e6:.0f} M",
                mean([run["scores"]["blend"]["bits_per_byte"] for run in seeds]),
                _measured(of_tasks.get("blimp"), "acc", ".4f"),
                _measured(of_tasks.get("lambada"), "acc", ".4f"),
                _measured(of_tasks.get("lambada"), "perplexity", ",.0f"),
                f"{statistics.median(run['training']['speed']['tokens_per_s'] for run in seeds):,.0f}"
                + (" (shared)" if any(run["note"] not in ALONE for run in seeds) else ""),
                seeds[0]["device"]["device"],
            ]
        )
    return _table(columns, rows)


def _by_text(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    texts = dict.fromkeys(text for seeds in runs.values() for run in seeds for text in run["scores"])
    rows = [
        [
            text,
            *(
                mean([run["scores"][text]["bits_per_byte"] for run in seeds if text in run["scores"]])
                for seeds in runs.values()
            ),
        ]
        for text in texts
    ]
    return _table(["text", *runs], rows)


def _by_paradigm(runs: dict[str, list[dict[str, Any]]], tasks: dict[str, Any]) -> list[str]:
    names = [name for name in runs if name in tasks]
    if not names:
        return []
    parts = {name: tasks[name]["tasks"]["blimp"]["parts"] for name in names}
    rows = [
        [paradigm, *(_measured(parts[name].get(paradigm), "acc", ".3f") for name in names)]
        for paradigm in parts[names[0]]
    ]
    return ["## BLiMP by paradigm", "", *_table(["paradigm", *names], rows), ""]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in [columns, *rows]]
    return [lines[0], "|---|" + "---:|" * (len(columns) - 1), *lines[1:]]


def _measured(task: dict[str, Any] | None, metric: str, form: str) -> str:
    if task is None:
        return "-"
    stderr = task[f"{metric}_stderr"]
    return f"{task[metric]:{form}}" + ("" if stderr is None else f" ± {stderr:{form}}")


if __name__ == "__main__":
    main()
