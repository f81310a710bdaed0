"""Bits per byte of raw UTF-8 on any text, the number that compares models whatever their vocabulary; and benchmarks.

Every token of every document is predicted once, from the document's beginning or from at least half a context.

A task is a file of --data-dir by its name: NAME.jsonl or NAME_anything.jsonl (plain, .gz, .xz, .zst), or a folder or
.tar of such files, whose parts count the same. Its lines hold sentence_good and sentence_bad; or query, choices and
gold; or context_options, continuation and gold; or context and continuation. With --harness lm-eval the same files, or
any task of lm-eval's own list, are scored by lm-eval.

Examples:
  positronic eval my-run/last --data held-out.txt
  positronic eval my-run/last --data novels_valid.jsonl.xz peps_valid.jsonl.xz --json
  positronic eval my-run/last --data held-out.txt --without engram specialists
  positronic eval my-run/last --data held-out.txt --loops 1 2 4 6
  positronic eval my-run/last --tasks blimp,lambada,arc_easy --data-dir benchmarks --limit 200
  positronic eval my-run/last --tasks hellaswag --harness lm-eval
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from positronic.cli.console import print_json, say, table
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.lm import LM
    from positronic.probe import Probe
    from positronic.text import Tokenizer


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text to measure on."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Benchmarks to score, by name, parted by commas or spaces."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the files of benchmarks lie."""
    limit: int | None = None
    """Score the first so many items of each task, or of each part of one."""
    harness: Literal["positronic", "lm-eval"] = "positronic"
    """Who reads tasks and works out the scores."""
    context: int | None = None
    """Tokens the model sees at once; the model's own when not given."""
    stride: int | None = None
    """Tokens by which the window moves on; half a context when not given."""
    max_bytes: int | None = None
    """Measure on at most this much of each path."""
    without: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORGAN ...")] = ()
    """Silence these organs, named by the kind of their config: attention, engram, moe, ..."""
    loops: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """For a model with a loop: measure texts at each of these depths; at the usual one when not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, float32 or bfloat16."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.checkpoint import load
        from positronic.observe import ablate
        from positronic.train import pick_device

        names = [name for word in self.tasks for name in word.split(",") if name]
        self._check(names)
        place = pick_device(self.device, self.precision)
        model, tokenizer = load(self.folder, device=place.torch_device)
        probe = ablate(model, self.without) if self.without else None
        with place.autocast():
            if self.harness == "lm-eval":
                found = self._by_lm_eval(model, tokenizer, names, probe)
            else:
                found = self._by_depth(model, tokenizer, probe) | self._tasks(model, tokenizer, names, probe)
        if self.json:
            print_json(found | {"without": list(self.without)})
            return
        title = f"{self.folder} without {', '.join(self.without)}" if self.without else str(self.folder)
        if "sources" in found:
            columns = ["text", "bits/byte", "±", "nats/token", "bytes", "tokens"]
            table(title, columns, [_text_row(*item) for item in [*found["sources"].items(), ("all", found)]])
        if "loops" in found:
            columns = ["loops", "bits/byte", "±", "nats/token", "bytes", "tokens"]
            table(title, columns, [_text_row(*item) for item in found["loops"].items()])
        if "tasks" in found:
            table(title, ["task", "n", "", "", "±"], _task_rows(found["tasks"]))
            for name, task in found["tasks"].items():
                if "parts" in task:
                    table(f"{name}, by part", ["part", "n", "", "", "±"], _task_rows(task["parts"]))

    def _check(self, names: Sequence[str]) -> None:
        """Refuse what cannot be measured, or would have no effect, before anything is loaded."""
        if not names and not self.data:
            raise ConfigError(
                "There is nothing to measure on; give --data PATH, or --tasks NAME and --data-dir FOLDER."
            )
        if names and self.harness == "positronic" and self.data_dir is None:
            raise ConfigError(f"--tasks {names[0]} is read from a file; say where it lies: --data-dir FOLDER.")
        if not names and (self.limit is not None or self.data_dir is not None):
            raise ConfigError("--limit and --data-dir are for tasks; name some with --tasks, or leave them out.")
        if not self.data and (self.stride is not None or self.max_bytes is not None):
            raise ConfigError("--stride and --max-bytes are for text; name some with --data, or leave them out.")
        if self.loops and not self.data:
            raise ConfigError("--loops is for text; name some with --data, or leave it out.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}; score 1 item or more.")
        if self.harness == "lm-eval" and self.stride is not None:
            raise ConfigError("lm-eval moves its windows on by a whole context; leave --stride out.")

    def _by_depth(self, model: "LM", tokenizer: "Tokenizer", probe: "Probe | None") -> dict[str, Any]:
        """The texts' scores, or those at each depth."""
        if not self.loops:
            return self._texts(model, tokenizer, probe)
        for depth in self.loops:
            model.config.check_loops(depth)
        return {"loops": {str(depth): self._texts(model, tokenizer, probe, depth) for depth in self.loops}}

    def _texts(
        self, model: "LM", tokenizer: "Tokenizer", probe: "Probe | None", loops: int | None = None
    ) -> dict[str, Any]:
        """Bits per byte of each text and of all together."""
        from positronic.data import excerpt, open_source
        from positronic.eval import Score, bits_per_byte_stderr, document_scores

        if not self.data:
            return {}
        sources: dict[str, dict[str, Any]] = {}
        totals = []
        for path in self.data:
            start = time.perf_counter()
            documents = excerpt(open_source(path), self.max_bytes)
            how: dict[str, Any] = {"context": self.context, "stride": self.stride, "probe": probe, "loops": loops}
            scores = document_scores(model, tokenizer, documents, **how)
            totals.append(Score.total(scores))
            sources[path] = totals[-1].to_json() | {
                "documents": len(scores),
                "bits_per_byte_stderr": bits_per_byte_stderr(scores),
                "seconds": round(time.perf_counter() - start, 3),
            }
            depth = "" if loops is None else f" at {loops} loops"
            say(f"{path}: {totals[-1].bits_per_byte:.4f} bits/byte{depth}")
        return Score.total(totals).to_json() | {"sources": sources}

    def _tasks(
        self, model: "LM", tokenizer: "Tokenizer", names: Sequence[str], probe: "Probe | None"
    ) -> dict[str, Any]:
        """Each benchmark's scores; all files are read before the first is scored."""
        from positronic.eval import benchmark, open_task

        if not names:
            return {}
        assert self.data_dir is not None, "checked"
        scores = {}
        for task in [open_task(name, self.data_dir).first(self.limit) for name in names]:
            start = time.perf_counter()
            found = benchmark(model, tokenizer, task, context=self.context, probe=probe).to_json()
            scores[task.name] = found | {"file": task.path.name, "seconds": round(time.perf_counter() - start, 3)}
            say(f"{task.name}: accuracy {found['acc']:.4f}")
        return {"tasks": scores}

    def _by_lm_eval(
        self, model: "LM", tokenizer: "Tokenizer", names: Sequence[str], probe: "Probe | None"
    ) -> dict[str, Any]:
        """What lm-eval makes of tasks and texts."""
        try:
            from positronic.adapters.lm_eval import Harness, evaluate
        except ImportError as error:
            raise ConfigError(f"{error}") from error
        from positronic.data import excerpt, open_source

        start = time.perf_counter()
        texts = {path: excerpt(open_source(path), self.max_bytes) for path in self.data}
        lm = Harness(model, tokenizer, context=self.context, probe=probe)
        found = evaluate(lm, names, self.data_dir, texts=texts, limit=self.limit)
        return {"tasks": found, "harness": "lm-eval", "seconds": round(time.perf_counter() - start, 3)}


def _text_row(name: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{score['bits_per_byte']:.4f}",
        _error(score.get("bits_per_byte_stderr")),
        f"{score['nats_per_token']:.4f}",
        f"{score['bytes']:,}",
        f"{score['tokens']:,}",
    )


def _task_rows(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each metric of each task."""
    for name, task in tasks.items():
        for metric in [key.removesuffix("_stderr") for key in task if key.endswith("_stderr")]:
            yield (
                name,
                f"{task['n']:,}",
                metric.replace("_", " "),
                f"{task[metric]:.4f}",
                _error(task[f"{metric}_stderr"]),
            )


def _error(stderr: float | None) -> str:
    return "" if stderr is None else f"{stderr:.4f}"
