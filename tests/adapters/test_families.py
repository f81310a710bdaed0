"""Every family lives where its users already do: a fresh process, pipelines, Trainer, TRL, PEFT and lm-eval.

The trainings are those of `examples/`, run whole. A family joins by its line in `FAMILIES` of `family_example`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_example import MODELS, greedy, rows
from torch.nn import functional as F

pytest.importorskip("trl")
pytest.importorskip("peft")
pytest.importorskip("lm_eval")

import fresh_process
import hf_trainer
import lm_eval_tasks
import peft_lora
import start
import trl_dpo
import trl_sft
from peft import PeftModel
from transformers import AutoModelForCausalLM

import positronic
from positronic.checkpoint import save
from positronic.data.batches.batch import TokenBatch
from positronic.models import build
from positronic.state import ForwardOptions, Step
from positronic.text import Message, byte_tokenizer, render
from positronic.train import NextTokenConfig

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A speaking model of every family."""
    place = tmp_path_factory.mktemp("families")
    return {name: save(place / name, model.speaking(), TOKENIZER) for name, model in MODELS.items()}


@pytest.fixture(scope="session")
def fresh(folders, tmp_path_factory):
    """What one new process finds in all folders."""
    out = tmp_path_factory.mktemp("fresh") / "answers.json"
    words = [sys.executable, fresh_process.__file__, str(out), *map(str, folders.values())]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = json.loads(out.read_text("utf-8"))
    return {name: found[str(folder)] for name, folder in folders.items()}


def test_a_fresh_process_reads_the_same_logits(family, ours, fresh):
    tokens = torch.tensor([TOKENIZER.encode(fresh_process.PROMPTS[1])])
    with torch.no_grad():
        logits = ours.logits(ours(tokens).hidden)[0]
    assert (torch.tensor(fresh[family]["logits"]) - logits).abs().max() < 1e-5 * logits.abs().max()


def test_greedy_text_is_ours(family, ours, fresh):
    wanted = [greedy(ours, TOKENIZER.encode(text), fresh_process.NEW) for text in fresh_process.PROMPTS]
    assert fresh[family]["alone"] == wanted
    assert len({tuple(row) for row in wanted}) == len(wanted)


def test_text_without_a_cache_and_in_a_padded_batch_is_the_same(family, fresh):
    assert fresh[family]["uncached"] == fresh[family]["alone"]
    assert fresh[family]["together"] == fresh[family]["alone"]


def test_the_pipeline_answers_strings_and_chats(family, ours, fresh):
    assert fresh[family]["pipeline"] == [TOKENIZER.decode(row) for row in fresh[family]["alone"]]
    asked = render(TOKENIZER, [Message.from_dict(one) for one in fresh_process.CHAT], generate=True).ids
    answer = TOKENIZER.decode(greedy(ours, asked, fresh_process.NEW))
    assert fresh[family]["chat"] == {"role": "assistant", "content": answer}


@pytest.mark.parametrize("example", [hf_trainer, trl_sft, trl_dpo, peft_lora], ids=lambda one: one.__name__)
def test_an_example_learns_all_its_rows_by_the_answers_alone_and_is_read_again(example, family, tmp_path):
    """Thirty steps lower the loss on all rows by a fifth, labels stand on answers, and what is saved says the same."""
    model = build(MODELS[family].config, 0)
    with torch.no_grad():
        model.embed.weight.mul_(6)  # as large as after training: LoRA leaves it alone, and logits have to differ
    base, out = save(tmp_path / "base", model, TOKENIZER), tmp_path / "out"
    trainer, before, after = example.main(["--model", str(base), "--out", str(out)])
    assert after < 0.8 * before
    assert counted(next(iter(trainer.get_train_dataloader()))) <= {*ANSWERED, UNLIKED}
    tokens = rows(2, 24)
    with torch.no_grad():
        if example is peft_lora:
            learned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out / "adapter")(tokens)
            assert relative(logits_in(out / "merged", tokens), learned.logits) < 1e-4
        else:
            assert relative(logits_in(out / "tuned", tokens), trainer.model.eval()(tokens).logits) < 1e-5


ANSWERED = [answer[0]["content"] for answer in start.ANSWERS]
UNLIKED = start.OTHER[0]["content"]


def counted(batch: dict[str, torch.Tensor]) -> set[str]:
    """The texts that carry loss, each up to the end of its turn; every row has one at least."""
    mask = batch["completion_mask"].bool() if "completion_mask" in batch else batch["labels"] != -100
    texts = [TOKENIZER.decode(ids[on].tolist(), special=True) for ids, on in zip(batch["input_ids"], mask, strict=True)]
    assert all(texts)
    ended = [text.removesuffix("\n").removesuffix("<|im_end|>") for text in texts]
    assert all(text.removesuffix("\n") == one + "<|im_end|>" for text, one in zip(texts, ended, strict=True))
    return {answer for one in ended for answer in one.split("<|im_end|>")}


def logits_in(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What our own house reads in a folder."""
    model, _ = positronic.load(folder)
    return model.logits(model(tokens).hidden)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_a_packed_row_costs_what_its_chats_cost_alone(family, folders, tmp_path):
    """No attention and no memory of a family reaches from one chat into the next."""
    packed = trl_sft.trainer(folders[family], tmp_path)
    batch, model = next(iter(packed.get_train_dataloader())), packed.model.eval()
    starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
    assert len(starts) > 3
    sums, count = 0.0, 0
    with torch.no_grad():
        together = packed.compute_loss(model, dict(batch)).item()
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            ids, labels = batch["input_ids"][:, start:end], batch["labels"][0, start + 1 : end]
            sums += F.cross_entropy(model(ids).logits[0, :-1], labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    assert together == pytest.approx(sums / count, rel=1e-4)


def test_trl_and_trainer_train_on_our_whole_loss(family, folders, tmp_path):
    """Packed rows and padded ones: cross entropy, z-loss, organs and heads, as our own loop adds them up."""
    packed, padded = trl_sft.trainer(folders[family], tmp_path), hf_trainer.trainer(folders[family], tmp_path)
    objective = NextTokenConfig().build()
    for training in (packed, padded):
        batch, model = next(iter(training.get_train_dataloader())), training.model.train()
        found = training.compute_loss(model, dict(batch)).item()
        tokens, targets = batch["input_ids"], F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
        places, mask = batch.get("position_ids"), batch.get("attention_mask")
        valid = None if mask is None else mask.bool()
        documents = None if places is None else (places == 0).cumsum(1)
        segments = Step.of(tokens, None, ForwardOptions(valid=valid, segments=documents), TOKENIZER.eot_id).segments
        rows = TokenBatch(tokens, targets.clamp(min=0), targets != -100, segments, valid)
        with torch.no_grad():
            wanted = objective(model.lm, rows, objective.counts(rows)).total.item()
        assert found == pytest.approx(wanted, rel=1e-6)


def test_lm_eval_gives_our_scores_and_its_own_alike(family, folders, tmp_path):
    scores = lm_eval_tasks.main(["--model", str(folders[family]), "--out", str(tmp_path)])
    assert scores["hf"] == scores["ours"]
    assert scores["bits_per_byte"] > 0
