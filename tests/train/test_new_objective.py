"""A new objective is its own file: declared here, it is trained, measured and resumed by what trains all others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from killed_run import TOKENIZER, Stops, stream
from torch import nn
from torch.nn import functional as F
from train_example import small_config

from positronic.checkpoint import load, save
from positronic.config import Config, override
from positronic.errors import ConfigError, TokenizerError
from positronic.lm import LM
from positronic.models import build
from positronic.recipes import RunConfig, read_run, train_run
from positronic.recipes.tasks import MEASURES, MIXTURES
from positronic.text import train_length_max
from positronic.train import (
    AdamWConfig,
    Counts,
    DataKind,
    DPOConfig,
    Loss,
    Measure,
    NextToken,
    NextTokenConfig,
    ObjectiveConfig,
    SFTConfig,
    TrainConfig,
    read_events,
    resume,
    start,
)

ROW = 32


@dataclass(frozen=True, kw_only=True)
class PullConfig(ObjectiveConfig, kind="pull"):
    """Next-token prediction, and a pull of the logits towards a teacher's."""

    teacher: str | None = None
    """Checkpoint of the teacher. None: the model as it was before."""
    weight: float = 0.5
    """Of the squared distance."""

    @property
    def helpers(self) -> Mapping[str, str | None]:
        return {"teacher": self.teacher}

    def build(self, helpers: Mapping[str, LM]) -> "Pull":
        return Pull(self, helpers["teacher"])


class Pull:
    seen: nn.Module
    """The teacher that was asked last."""

    def __init__(self, config: PullConfig, teacher: LM):
        self.config, self.teacher, self.prediction = config, teacher, NextToken(NextTokenConfig())

    def counts(self, batch) -> Counts:
        return self.prediction.counts(batch)

    def __call__(self, model, batch, counts) -> Loss:
        Pull.seen = self.teacher
        loss = self.prediction(model, batch, counts)
        ours, theirs = (one.logits(one(batch.tokens, options=batch.options()).hidden) for one in (model, self.teacher))
        assert not theirs.requires_grad
        far = F.mse_loss(ours, theirs, reduction="none").mean(-1)[batch.loss_mask].sum()
        return Loss(loss.total + self.config.weight * far / counts["targets"], {**loss.terms, "pull": far.detach()})

    def means(self, sums, counts) -> dict[str, float]:
        return self.prediction.means(sums, counts)


def folder_of(path, seed, tokenizer=TOKENIZER):
    return save(path, build(small_config(tokenizer.vocab_size, ROW), seed, tokenizer=tokenizer), tokenizer)


@pytest.fixture
def teacher(tmp_path):
    return folder_of(tmp_path / "teacher", 7)


@pytest.fixture
def sources(tmp_path):
    """A file of each kind of data that a `pull` reads."""
    turns = [
        [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"it is {2 * i}"}] for i in range(40)
    ]
    (tmp_path / "text.txt").write_text("".join(f"{i} and {2 * i} are two numbers\n" for i in range(400)))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    return {"texts": str(tmp_path / "text.txt"), "conversations": str(tmp_path / "chats.jsonl")}


def training(teacher=None, **changes):
    return TrainConfig(
        objective=PullConfig(teacher=None if teacher is None else str(teacher)),
        optimizer=AdamWConfig(lr=1e-2),
        steps=2,
        seq_len=ROW,
        batch_tokens=4 * ROW,
        evaluate_every=1,
        checkpoint_every=1,
        **changes,
    )


def pulling(sources, kind, teacher=None, **changes):
    return RunConfig(
        model=small_config(context=ROW),
        data=(sources[kind],),
        conversations=kind == "conversations",
        held_out_one_in=8,
        train=training(teacher),
        **changes,
    )


def bits(run):
    return (run / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["texts", "conversations"])
def test_it_is_trained_measured_and_resumed_to_the_same_bits(kind, sources, teacher, tmp_path):
    run, how = pulling(sources, kind, teacher), {"device": "cpu", "cache": tmp_path / "cache"}
    before = (teacher / "model.safetensors").read_bytes()
    train_run(run, tmp_path / "whole", tokenizer=TOKENIZER, **how)
    with pytest.raises(Stops.Stopped):
        train_run(run, tmp_path / "killed", tokenizer=TOKENIZER, observers=[Stops(2)], **how)
    train_run(run, tmp_path / "killed", go_on=True, **how)
    train_run(run, tmp_path / "stopped", tokenizer=TOKENIZER, until=1, **how)
    assert train_run(run, tmp_path / "stopped", go_on=True, **how).stopped == "finished"
    assert bits(tmp_path / "whole") == bits(tmp_path / "killed") == bits(tmp_path / "stopped")
    assert read_run(tmp_path / "whole") == run
    events = read_events(tmp_path / "whole" / "metrics.jsonl")
    assert [e["step"] for e in events if e["event"] == "evaluation" and e["bits_per_byte"] > 0] == [0, 1, 2]
    assert (teacher / "model.safetensors").read_bytes() == before


def test_its_helper_is_frozen_and_pulls(sources, teacher, tmp_path):
    how = {"tokenizer": TOKENIZER, "device": "cpu", "cache": tmp_path / "cache"}
    run = pulling(sources, "texts", teacher)
    train_run(run, tmp_path / "pulled", **how)
    given = dict(load(teacher)[0].named_parameters())
    assert not Pull.seen.training
    for name, parameter in Pull.seen.named_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, given[name])
    train_run(override(run, ["train.objective.weight=0"]), tmp_path / "free", **how)
    assert bits(tmp_path / "pulled") != bits(tmp_path / "free")


def test_start_and_resume_take_helpers_by_the_names_that_the_objective_declares(teacher, tmp_path):
    def begin(out, **how):
        model = build(small_config(TOKENIZER.vocab_size, ROW), 1)
        return start(training(teacher), model=model, tokenizer=TOKENIZER, data=stream(), out=out, device="cpu", **how)

    def given():
        return {"teacher": load(teacher)[0]}

    begin(tmp_path / "whole", helpers=given())
    begin(tmp_path / "half", helpers=given(), until=1)
    with pytest.raises(ConfigError, match="pull asks these frozen models: teacher; and these were given: none"):
        resume(tmp_path / "half", data=stream(), device="cpu")
    assert resume(tmp_path / "half", data=stream(), device="cpu", helpers=given()).stopped == "finished"
    assert bits(tmp_path / "whole") == bits(tmp_path / "half")
    with pytest.raises(ConfigError, match="given: judge, teacher"):
        begin(tmp_path / "other", helpers={**given(), "judge": load(teacher)[0]})
    assert not (tmp_path / "other" / "last").exists()


def test_a_helper_without_a_checkpoint_is_the_one_that_the_run_begins_from(sources, teacher, tmp_path):
    how = {"tokenizer": TOKENIZER, "device": "cpu", "cache": tmp_path / "cache"}
    train_run(pulling(sources, "texts", init=str(teacher)), tmp_path / "run", **how)
    given = dict(load(teacher)[0].named_parameters())
    assert all(torch.equal(parameter, given[name]) for name, parameter in Pull.seen.named_parameters())
    with pytest.raises(ConfigError, match="as it was before, its teacher; name its checkpoint as init"):
        train_run(pulling(sources, "texts"), tmp_path / "none", **how)
    with pytest.raises(ConfigError, match="keeps its vocabulary"):
        pulling(sources, "texts", init=str(teacher), reinit_embeddings=True)
    pulling(sources, "texts", teacher, init=str(teacher), reinit_embeddings=True)


def test_a_helper_of_another_vocabulary_is_refused_before_data_are_read(tmp_path):
    teacher = folder_of(tmp_path / "foreign", 0, train_length_max(["some text and some more text"] * 20, 386))
    run = pulling({"texts": "nothing-is-there.txt"}, "texts", teacher)
    with pytest.raises(TokenizerError, match="the teacher of the objective pull, has another vocabulary"):
        train_run(run, tmp_path / "run", tokenizer=TOKENIZER, device="cpu")


def test_what_objectives_declare_stands_in_the_tables_of_recipes():
    assert set(get_args(DataKind)) == set(MIXTURES)
    assert set(get_args(Measure)) == set(MEASURES)
    for config in (c for c in Config.registry.values() if issubclass(c, ObjectiveConfig)):
        assert config.reads, config.kind
        assert set(config.reads) <= set(MIXTURES), config.kind
        assert set(config.reads.values()) <= set(MEASURES), config.kind


AUXILIARY = [
    {"kind": "auxiliary_weight", "name": name, "weight": weight}
    for name, weight in [
        ("moe.balance", 0.01),
        ("mtp", 0.3),
        ("jepa", 0.1),
        ("metric.triangle", 0.01),
        ("mixture.entropy", 0.001),
    ]
]
PREDICTION = {"kind": "next_token", "z_loss": 0.0001, "slice_targets": None, "auxiliary": AUXILIARY}
PREFERENCE = {"beta": 0.1, "label_smoothing": 0.0, "length_normalised": False, "nll": 0.05, "auxiliary": AUXILIARY}
WRITTEN = [
    (NextTokenConfig(), PREDICTION),
    (SFTConfig(), {"kind": "sft", "prediction": PREDICTION}),
    (DPOConfig(), {"kind": "dpo", **PREFERENCE}),
]


@pytest.mark.parametrize(("objective", "written"), WRITTEN, ids=[written["kind"] for _, written in WRITTEN])
def test_an_objective_is_written_down_as_ever_and_read_by_its_kind(objective, written):
    train = TrainConfig(objective=objective)
    assert train.to_json()["objective"] == written
    assert TrainConfig.from_json({"kind": "train", "objective": written}) == train
    with pytest.raises(ConfigError, match=r"objective\.kind is 'adamw', which is no ObjectiveConfig"):
        TrainConfig.from_json({"kind": "train", "objective": AdamWConfig().to_json()})
