"""Our models in lm-eval: its tasks and metrics over our likelihoods, and our local files as tasks of its own kind.

    lm = Harness(model, tokenizer)                    an LM of lm-eval's, for its `simple_evaluate` too
    evaluate(lm, ["blimp", "hellaswag"], folder)      the folder's own where it holds them, else those of lm-eval's list

loglikelihood          cut and batched as in `eval.continuations`
loglikelihood_rolling  `bits_per_byte` in windows that overlap by one token, which is lm-eval's rule
generate_until         our batched decoder, greedy unless the task samples
Tasks of lm-eval's own list fetch their data where there is a network; local ones need none.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from positronic.config import did_you_mean
from positronic.data import Document
from positronic.errors import ConfigError, DataError
from positronic.eval import Task, document_scores, encode_pairs, find_task, likelihoods, open_task
from positronic.eval.tasks import COMPLETION, CONTEXTS, Form, Item
from positronic.generation import GREEDY, Engine, Row, SamplingParams, Stop, Writer
from positronic.generation.decoding.writer import FREE
from positronic.generation.requests.stream import TextStream
from positronic.lm import LM
from positronic.probe import Probe
from positronic.text import Tokenizer

try:
    import lm_eval.evaluator
    from datasets import Dataset
    from lm_eval.api.group import AggMetricConfig, Group
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM as HarnessLM  # noqa: N811
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
except ModuleNotFoundError as error:
    raise ImportError("positronic.adapters.lm_eval needs lm-eval: pip install 'positronic[eval]'.") from error

__all__ = ["Harness", "evaluate", "local_task", "text_task"]

GENERATED_ROWS = 16
"""Prompts that are continued at once."""
DRAWS = 1000
"""Of the standard errors that lm-eval finds by drawing items again."""


class Harness(HarnessLM):
    """A model of ours as lm-eval sees one: texts in, likelihoods and texts out."""

    def __init__(self, model: LM, tokenizer: Tokenizer, *, context: int | None = None, probe: Probe | None = None):
        """context: tokens that the model sees at once, its own when not given; probe watches or replaces at taps."""
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.context, self.probe = context, probe

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.sha256

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(ln p, greedy) of each (context, continuation)."""
        found = likelihoods(
            self.model,
            encode_pairs(self.tokenizer, [request.args for request in requests]),
            context=self.context,
            probe=self.probe,
        )
        return [(one.log_p, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """ln p of each text."""
        texts = [request.args[0] for request in requests]
        context = self.context or self.model.config.context
        scores = iter(
            document_scores(
                self.model,
                self.tokenizer,
                [Document(text, "") for text in texts],
                context=context,
                stride=context,
                probe=self.probe,
            )
        )
        return [-next(scores).nats if text else 0.0 for text in texts]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The text after each prompt, up to a stop string, the end of the document or the number of tokens asked for.

        A prompt that would leave no room for these in the context loses its beginning, but keeps half of the context.
        """
        if self.probe is not None:
            raise ConfigError("A task that generates text is decoded with every organ; leave --without out.")
        engine = Engine(self.model, max_rows=GENERATED_ROWS)
        prompts = self.tokenizer.encode_batch([request.args[0] for request in requests])
        streams = [
            self._added(engine, number, ids, one.args[1])
            for number, (ids, one) in enumerate(zip(prompts, requests, strict=True))
        ]
        while engine.busy:
            engine.step()
        for stream in streams:
            stream.finish()
        return [stream.text for stream in streams]

    def _added(self, engine: Engine, number: int, prompt: Sequence[int], wishes: Mapping[str, Any]) -> TextStream:
        """What will be said after this prompt, drawn from the stream of its number."""
        params, until, n_tokens = _sampling(wishes)
        held = self.context or self.model.config.context
        n_tokens = min(n_tokens, held // 2)
        ids = [*self.tokenizer.lead, *prompt][n_tokens - held :] or [self.tokenizer.eot_id]
        ends = {self.tokenizer.eot_id: "eot", self.tokenizer.im_end_id: "stop_token"}
        stream = TextStream(self.tokenizer.decoder(), until, ends)
        stop = Stop(tokens=ends, max_new_tokens=n_tokens, heard=stream.hear)
        text = Writer(replace(params, stream=number), stop, FREE, ids, len(ids), self.model.config.max_positions)
        engine.add(Row(text, unread=ids[:-1], wants_state=False))
        return stream


def _sampling(wishes: Mapping[str, Any]) -> tuple[SamplingParams, list[str], int]:
    """How to draw, where to stop and after how many tokens, in lm-eval's words."""
    asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(wishes)))
    until, n_tokens = asked.pop("until"), asked.pop("max_gen_toks")
    if not asked.pop("do_sample"):
        return GREEDY, [text for text in until if text], n_tokens
    known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    if unknown := sorted(asked.keys() - set(known)):
        raise ConfigError(
            f"A task asks for {', '.join(unknown)} in sampling; known are {', '.join(known)}. Leave it out."
        )
    asked.setdefault("top_p", 1.0)
    return SamplingParams(**asked), [text for text in until if text], n_tokens


def evaluate(
    lm: HarnessLM,
    names: Sequence[str],
    folder: Path | None = None,
    *,
    texts: Mapping[str, Sequence[Document]] | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """lm-eval's results by task, in the form of our own; `texts` are measured in bits per byte.

    limit: items of each task. A task that cannot be had raises `DataError`, which says how to get it.
    """
    with _quiet():
        here = {name: find_task(name, folder) if folder else None for name in names}
        built = [local_task(open_task(name, folder)) for name, path in here.items() if folder and path]
        built += [text_task(name, documents) for name, documents in (texts or {}).items()]
        built += [task for name, path in here.items() if path is None for task in _own_tasks(name, folder)]
        loaded = TaskManager(include_defaults=False).load(built)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(DEFAULT_OTHER_SEED)
        with redirect_stdout(sys.stderr):
            found = lm_eval.evaluator.evaluate(
                lm, loaded, limit=limit, bootstrap_iters=DRAWS, log_samples=False, confirm_run_unsafe_code=False
            )
    return _in_our_form(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's remarks on settings that are meant, and with its draws in this process, which is cheaper."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@cache
def _own_list() -> TaskManager:
    """lm-eval's list, thousands of files."""
    return TaskManager()


def _own_tasks(name: str, folder: Path | None) -> list[ConfigurableTask | Group]:
    """What `name` means in lm-eval's list."""
    manager = _own_list()
    if name not in manager.all_tasks:
        raise DataError(
            f"Neither a local file nor lm-eval has a task {name!r}. {did_you_mean(name, manager.all_tasks)}"
        )
    try:
        loaded = manager.load([name])
    except OSError as error:
        place = f"{folder}/{name}.jsonl" if folder else f"FOLDER/{name}.jsonl with --data-dir FOLDER"
        raise DataError(
            f"The data of lm-eval's task {name!r} is not on this machine and cannot be fetched: {error}. Run the same "
            f"where there is a network and bring its cache (HF_HOME), or put it into {place}, in a form that "
            f"`positronic eval --help` names."
        ) from error
    return list(loaded["groups"].values())[:1] or list(loaded["tasks"].values())


def local_task(task: Task) -> ConfigurableTask | Group:
    """A task of ours as one of lm-eval's; of several parts a group of tasks, each counting the same."""
    if len(task.parts) == 1:
        return _configured(task.name, task.form, *task.parts.values())
    group = Group(
        task.name,
        aggregate_metric_list=[AggMetricConfig(metric=name, weight_by_size=False) for name in task.form.metrics],
    )
    for part, items in task.parts.items():
        group.add(_configured(f"{task.name}_{part}", task.form, items))
    return group


def text_task(name: str, documents: Sequence[Document]) -> ConfigurableTask:
    """Bits per byte of texts."""
    settings = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"}
    return _task(name, settings, ["bits_per_byte"], [{"text": one.text} for one in documents if one.text])


def _configured(name: str, form: Form, items: Sequence[Item]) -> ConfigurableTask:
    settings = {"output_type": "multiple_choice", "target_delimiter": form.delimiter}
    if form is CONTEXTS:
        settings |= {"doc_to_text": "gold", "doc_to_choice": "contexts", "doc_to_target": "text"}
    elif form is COMPLETION:
        settings |= {"doc_to_text": "context", "doc_to_target": "text", "output_type": "loglikelihood"}
    else:
        settings |= {"doc_to_text": "context", "doc_to_choice": "texts", "doc_to_target": "gold"}
    rows = [
        {
            "context": item.contexts[0],
            "contexts": list(item.contexts),
            "text": form.delimiter + item.texts[0] if form is COMPLETION else item.texts[0],
            "texts": list(item.texts),
            "gold": item.gold,
        }
        for item in items
    ]
    return _task(name, settings, form.metrics, rows)


def _task(
    name: str, settings: Mapping[str, str], metrics: Sequence[str], rows: list[dict[str, Any]]
) -> ConfigurableTask:
    lower = {"perplexity", "bits_per_byte"}  # these aggregate by rules of their own, the others by the mean
    asked = [
        {
            "metric": metric,
            "aggregation": metric if metric in lower else "mean",
            "higher_is_better": metric not in lower,
        }
        for metric in metrics
    ]
    data = {"test": Dataset.from_list(rows)}
    fixed = {"task": name, "custom_dataset": lambda: data, "test_split": "test", "num_fewshot": 0}
    return ConfigurableTask(config={**fixed, **settings, "metric_list": asked})


def _in_our_form(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """n, and each metric beside its standard error; the tasks of a group as its parts."""
    scores = {name: _numbers(one) for name, one in found["results"].items()}
    groups = found["group_subtasks"]
    inside = {member for members in groups.values() for member in members}
    for name, members in groups.items():
        scores[name]["parts"] = {member.removeprefix(f"{name}_"): scores[member] for member in members}
    return {name: score for name, score in scores.items() if name not in inside}


def _numbers(one: Mapping[str, Any]) -> dict[str, Any]:
    """ "acc,none" is acc, "acc_stderr,none" its standard error, "N/A" None."""
    numbers = {key.removesuffix(",none"): value for key, value in one.items() if "," in key}
    return {"n": one.get("sample_len")} | {
        key: None if value == "N/A" else float(value) for key, value in numbers.items()
    }
