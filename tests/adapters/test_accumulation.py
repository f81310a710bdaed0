"""A step of several rows moves the weights alike however its rows are dealt out to calls.

Rows are of unequal length, and of each another part is answered for, so that tokens, targets and pairs of tokens some
way apart all stand in other proportions.
"""

import pytest
import torch
from hf_example import rows
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import positronic.adapters.hf  # noqa: F401  (registers)
from positronic.adapters.hf.loss import IGNORED
from positronic.data import TokenBatch
from positronic.train import NextTokenConfig

LENGTHS, ASKED = (40, 31, 12, 22), (0, 20, 3, 5)
EVEN = {"lengths": (24,) * 4, "asked": (0,) * 4}


def batch(lengths=LENGTHS, asked=ASKED):
    tokens, place = rows(len(lengths), max(lengths)), torch.arange(max(lengths))
    real, prompt = place < torch.tensor(lengths)[:, None], place < torch.tensor(asked)[:, None]
    labels = tokens.masked_fill(~real | prompt, IGNORED)
    return {"input_ids": tokens, "attention_mask": real.long(), "labels": labels}


def targets_of(given):
    return int((given["labels"][:, 1:] != IGNORED).sum())


def gradients(model, parts, count):
    """By Transformers' calls of these parts of a step."""
    model.train().zero_grad()
    for part in parts:
        model(**part, num_items_in_batch=count).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dealt(given, sizes):
    pieces = {name: value.split(sizes) for name, value in given.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(sizes))]


def apart(found, wanted):
    """The largest difference of a gradient, against all of its kind; what nearly cancels is a sum of roundings."""
    return max(((found[name] - wanted[name]).norm() / wanted[name].norm().clamp(min=1e-3)).item() for name in wanted)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("number", [int, torch.tensor], ids=["int", "tensor"])
def test_gradients_are_the_same_however_rows_are_dealt_out(family, folder, sizes, number):
    model, given = AutoModelForCausalLM.from_pretrained(folder), batch()
    count = number(targets_of(given))
    whole = gradients(model, [given], count)
    assert apart(gradients(model, dealt(given, sizes), count), whole) < 1e-4


def test_a_row_without_padding_says_the_same(family, folder):
    """One row a call is not padded at all."""
    model, given = AutoModelForCausalLM.from_pretrained(folder), batch()
    count = targets_of(given)
    alone = [
        {name: value[:, :length] for name, value in part.items()}
        for part, length in zip(dealt(given, (1, 1, 1, 1)), LENGTHS, strict=True)
    ]
    assert apart(gradients(model, alone, count), gradients(model, [given], count)) < 1e-4


def test_rows_alike_weigh_as_in_our_own_training(family, folder):
    """Where all rows have as many tokens and targets, both ways to weigh them are one."""
    model, given = AutoModelForCausalLM.from_pretrained(folder).train(), batch(**EVEN)
    told = model(**given, num_items_in_batch=targets_of(given)).loss
    assert told.item() == pytest.approx(model(**given).loss.item(), rel=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1)], ids=str)
def test_our_own_objective_adds_up(family, ours, sizes):
    """Its counts are of the whole step, known before the first call."""
    given, objective = batch(), NextTokenConfig().build()
    targets = F.pad(given["labels"][:, 1:], (0, 1), value=IGNORED)
    held = TokenBatch(
        given["input_ids"], targets.clamp(min=0), targets != IGNORED, valid=given["attention_mask"].bool()
    )
    counts, found = objective.counts(held), []
    for parts in ([held], [held.rows(slice(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]):
        ours.zero_grad()
        for part in parts:
            objective(ours, part, counts).total.backward()
        found.append({name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None})
        ours.zero_grad()
    assert apart(found[1], found[0]) < 1e-4


def stepped(trainer_class, folder, out, at_once, **more):
    """The weights after one step over four rows, so many a call."""
    settings = {
        "output_dir": str(out),
        "max_steps": 1,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": 4 // at_once,
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer_class(model, settings).train()
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}


def test_a_step_of_the_trainer_is_the_same(family, folder, tmp_path):
    data = [{name: value[0] for name, value in part.items()} for part in dealt(batch(), (1, 1, 1, 1))]

    def trainer(model, settings):
        return Trainer(model, TrainingArguments(**settings), train_dataset=data)

    whole, parts = (stepped(trainer, folder, tmp_path, n) for n in (4, 1))
    assert apart(parts, whole) < 1e-3


def test_a_step_of_trl_is_the_same(family, folder, tokenizer, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    chats = [
        ("What?", "This, and nothing else."),
        ("Who wrote the long book there?", "I."),
        ("a", "b c d e f g"),
        ("1", "2"),
    ]
    data = datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
            for q, a in chats
        ]
    )

    def trainer(model, settings):
        return trl.SFTTrainer(
            model, trl.SFTConfig(**settings, bf16=False), train_dataset=data, processing_class=tokenizer
        )

    whole, parts = (stepped(trainer, folder, tmp_path, n) for n in (4, 1))
    assert apart(parts, whole) < 1e-3
