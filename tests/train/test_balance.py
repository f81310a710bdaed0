"""Biases that choose experts: moved by the sign of their loads, apart from all that other weights go through."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed_run import CONFIG, TOKENIZER, stream
from safetensors.torch import load_file
from test_trainer import through_files
from torch import Tensor
from train_example import Stream, small_config, trainer, with_experts

from positronic.checkpoint import load, save
from positronic.models import build
from positronic.nn.load_bias import LoadBias
from positronic.recipes import RunConfig, train_run
from positronic.train import AdamWConfig, DPOConfig, MuonConfig, NextTokenConfig, ScheduleConfig, SFTConfig, start
from positronic.train.balance import STEP

OPTIMIZERS = {"adamw": AdamWConfig(lr=1e-2), "muon": MuonConfig(lr=1e-2)}


def biases(model) -> dict[str, Tensor]:
    return {path: p for path, p in model.named_parameters() if path.endswith("balance.bias")}


def gradients_of(model, stream: Stream, rows: int) -> dict[str, Tensor]:
    """Of one batch, without a trainer."""
    objective, batch = NextTokenConfig().build(), stream.next(rows)
    objective(model, batch, objective.counts(batch)).total.backward()
    return {path: p.grad.clone() for path, p in model.named_parameters()}


@pytest.mark.parametrize("micro_rows", [8, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_is_a_thousandth_against_the_load_whatever_rate_and_clip_are(kind, micro_rows):
    expected = gradients_of(with_experts(), Stream(padded=True), 8)
    for clip, warmup in ((1.0, 3), (1e-6, 100)):
        settings = {"optimizer": OPTIMIZERS[kind], "clip": clip, "schedule": ScheduleConfig(warmup=warmup)}
        made, _ = trainer(model=with_experts(), micro_rows=micro_rows, stream=Stream(padded=True), **settings)
        made.run(1)
        for path, bias in biases(made.model).items():
            assert torch.equal(bias, -STEP * expected[path].sign()), path
            assert torch.equal(bias.grad, expected[path]), "neither scaled nor clipped"
            assert expected[path].sign().any()


def test_loads_have_no_part_in_the_gradients_norm():
    expected = gradients_of(with_experts(), Stream(), 8)
    made, seen = trainer(model=with_experts())
    made.run(1)
    of_weights = torch.stack([g.norm() for path, g in expected.items() if "balance" not in path]).norm()
    assert seen.steps[0]["grad_norm"] == pytest.approx(of_weights.item(), rel=1e-5)
    assert expected["trunk.2.mixer.balance.bias"].norm() > 10 * of_weights


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_rule_remembers_nothing_and_takes_nothing_from_others(kind):
    model = with_experts()
    optimizers = OPTIMIZERS[kind].build(model)
    remembered = {path.split("/")[1] for path in optimizers.state_tensors()}
    assert remembered == {path for path, _ in model.named_parameters()} - biases(model).keys()
    assert not [path for path in optimizers.state_tensors() if path.startswith("balance/")]
    assert "balance" not in OPTIMIZERS[kind].build(build(small_config())).parts


def test_muon_takes_each_experts_matrix_by_itself():
    model = with_experts()
    optimizers = MuonConfig(lr=1e-2, weight_decay=0.0).build(model)
    assert "muon/trunk.3.mixer.gate.weight/momentum_buffer" in optimizers.state_tensors()
    before = {path: p.detach().clone() for path, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    model.get_parameter("trunk.3.mixer.gate.weight").grad[2] *= 1e3
    optimizers.step(1.0)
    for name in ("gate", "up", "down"):
        path = f"trunk.3.mixer.{name}.weight"
        moved = (model.get_parameter(path).detach() - before[path]).square().mean((1, 2)).sqrt()
        assert (moved > 0.1e-2).all(), name
        assert (moved < 0.3e-2).all(), name


def test_a_skipped_step_leaves_the_biases():
    model = with_experts()
    optimizers = AdamWConfig().build(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizers.step(1.0, skip=torch.ones(()))
    assert not any(bias.any() for bias in biases(model).values())
    optimizers.zero_grad()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizers.step(0.0, skip=torch.zeros(()))
    assert all(torch.equal(bias, torch.full_like(bias, -STEP)) for bias in biases(model).values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_run_equals_the_unbroken_run_bit_for_bit(kind):
    settings = {"optimizer": OPTIMIZERS[kind], "micro_rows": 3}
    whole, _ = trainer(**settings, stream=Stream(padded=True), model=with_experts())
    whole.run()
    first, _ = trainer(**settings, stream=Stream(padded=True), model=with_experts())
    first.run(5)
    part, weights = through_files(first.snapshot()), {k: v.clone() for k, v in first.model.state_dict().items()}
    second, _ = trainer(**settings, stream=Stream(padded=True), model=with_experts(seed=99))
    second.model.load_state_dict(weights)
    second.restore(part)
    second.run()
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, second.model.state_dict()[name]), name
    assert any(bias.any() for bias in biases(whole.model).values())


def test_recomputing_blocks_changes_no_bit():
    plain, _ = trainer(steps=4, model=with_experts())
    plain.run()
    model = with_experts()
    model.trunk.recompute = True
    again, _ = trainer(steps=4, model=model)
    again.run()
    for name, values in plain.model.state_dict().items():
        assert torch.equal(values, again.model.state_dict()[name]), name


def test_loads_add_up_over_processes(tmp_path):
    """Up to a factor: DDP takes means."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = subprocess.run(
        [*command, str(here / "two_ranks.py"), str(tmp_path), "adamw", "2", "experts"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, _ = trainer(model=with_experts(), micro_rows=8, stream=Stream(padded=True), steps=2)
    alone.run()
    found = load_file(tmp_path / "model.safetensors")
    for path, bias in biases(alone.model).items():
        assert torch.equal(found[path], bias), path
        assert len(bias.unique()) > 1


def drawn_biases(model) -> dict[str, Tensor]:
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, LoadBias):
                part.bias.copy_(torch.tensor([0.01, -0.02, 0.03, 0.0]))
    return {path: bias.detach().clone() for path, bias in biases(model).items()}


@pytest.mark.parametrize(("objective", "moves"), [(NextTokenConfig(), True), (SFTConfig(), False)])
def test_biases_stand_still_while_chats_are_learned(objective, moves, tmp_path):
    model = with_experts(vocab_size=TOKENIZER.vocab_size)
    before = drawn_biases(model)
    config = CONFIG.replace(steps=3, objective=objective)
    start(config, model=model, tokenizer=TOKENIZER, data=stream(), out=tmp_path / "run", device="cpu")
    kept, _ = load(tmp_path / "run" / "last")
    for path, bias in biases(kept).items():
        assert torch.equal(bias, before[path]) != moves, path


def test_biases_stand_still_while_preferences_are_learned(tmp_path):
    model = with_experts(vocab_size=TOKENIZER.vocab_size, context=96)
    before = drawn_biases(model)
    save(tmp_path / "base", model, TOKENIZER)
    lines = [{"prompt": f"count to {i}", "chosen": f"it is {i}.", "rejected": "go away"} for i in range(40)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train = CONFIG.replace(objective=DPOConfig(), steps=3, seq_len=64, batch_tokens=4 * 64, evaluate_every=0)
    run = RunConfig(model=model.config, data=(str(pairs),), init=str(tmp_path / "base"), train=train)
    train_run(run, tmp_path / "run", tokenizer=TOKENIZER, device="cpu", cache=tmp_path / "cache")
    kept, _ = load(tmp_path / "run" / "last")
    assert all(torch.equal(bias, before[path]) for path, bias in biases(kept).items())
    assert not torch.equal(kept.embed.weight, model.embed.weight)
