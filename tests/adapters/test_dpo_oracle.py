"""Preference beside TRL's: the same model, the same pairs, the same losses, step after step."""

import math
from dataclasses import replace

import pytest
import torch
from hf_example import MODELS
from torch.nn import functional as F

pytest.importorskip("trl")

from datasets import Dataset
from start import ANSWERS, ASKED, PAIRS, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig as TheirConfig
from trl import DPOTrainer

import positronic.adapters.hf
from positronic.checkpoint import save
from positronic.data import TokenBatch
from positronic.models import build
from positronic.text import Message, byte_tokenizer, render
from positronic.train import DPOConfig

TOKENIZER = byte_tokenizer()
BETA, STEPS, N = 0.3, 5, 6


def encoded(asked, answer):
    """A chat as tokens and as what of it counts, its last newline left out."""
    ids, mask = render(TOKENIZER, [Message.from_dict(one) for one in asked + answer])
    return ids[:-1], mask[:-1]


def ours(pairs):
    """A row a pair: the chosen chat, then the rejected one, as `encode_pairs` lays them down."""
    windows, counts = [], []
    for chosen, rejected in pairs:
        ids, mask = [], []
        for one in (chosen, rejected):
            ids += [*one[0], TOKENIZER.eot_id]
            mask += [*one[1], False]
        windows.append(torch.tensor(ids))
        counts.append(torch.tensor(mask))
    longest = max(map(len, windows))
    padded = torch.stack([F.pad(row, (0, longest - len(row))) for row in windows])
    counted = torch.stack([F.pad(row, (0, longest - len(row))) for row in counts])
    real = torch.stack([torch.arange(longest) < len(row) for row in windows])
    return TokenBatch.of(padded, counted, real, boundary_id=TOKENIZER.eot_id)


def theirs(trainer, pairs):
    """The same by TRL's collator: chosen rows, then rejected rows, padded."""
    rows = []
    for (chosen, mask), (rejected, _) in pairs:
        n = mask.index(True)
        rows.append({"prompt_ids": chosen[:n], "chosen_ids": chosen[n:], "rejected_ids": rejected[n:]})
    return trainer.data_collator(rows)


def test_losses_are_those_of_trl(family, tmp_path):
    """From log 2 on, over five steps of the same optimizer; nothing but the preference is minimised."""
    folder = save(tmp_path / "model", build(MODELS[family].config, 0), TOKENIZER)
    rows = [PAIRS[i] for i in range(N)]
    pairs = [(encoded(ASKED[i], ANSWERS[i]), encoded(ASKED[i], rows[i]["rejected"])) for i in range(N)]
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        args=TheirConfig(beta=BETA, **settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    (model, _), (reference, _) = positronic.load(folder), positronic.load(folder)
    silent = tuple(replace(one, weight=0.0) for one in DPOConfig().auxiliary)
    objective = DPOConfig(beta=BETA, nll=0.0, auxiliary=silent).build({"reference": reference})
    batch, their_batch = ours(pairs), theirs(trainer, pairs)
    counts = objective.counts(batch)
    assert (counts["pairs"], counts["targets"]) == (N, int(their_batch["completion_mask"].sum()))
    forms = {
        "ours": (model, lambda: objective(model, batch, counts).total),
        "theirs": (trainer.model, lambda: trainer.compute_loss(trainer.model, dict(their_batch))),
    }
    losses = {}
    for name, (module, loss_of) in forms.items():
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        losses[name] = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["ours"][0] == losses["theirs"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert losses["ours"] == pytest.approx(losses["theirs"], abs=1e-4)
    assert losses["ours"][-1] < 0.98 * losses["ours"][0]
