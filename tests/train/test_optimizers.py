"""Optimizers: who is decayed, who is orthogonalised, and memory that survives as plain tensors."""

import pytest
import torch
from train_example import small_config

from positronic.config import Config
from positronic.errors import CheckpointError, ConfigError
from positronic.models import build
from positronic.train import AdamWConfig, MuonConfig
from positronic.train.muon import Muon


def stepped(config, n=2):
    model = build(small_config(), seed=1)
    optimizers = config.build(model)
    for k in range(n):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, 0.1 * (i + 1) * (-1) ** k)
        optimizers.step(0.5)
    return model, optimizers


def test_only_matrices_and_the_embedding_are_decayed():
    """Under a gradient of zero, decay is all that moves a weight: by 1 - lr * decay."""
    for config in (AdamWConfig(lr=0.1, weight_decay=0.5), MuonConfig(lr=0.1, weight_decay=0.5)):
        model = build(small_config(), seed=1)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizers = config.build(model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizers.step(1.0)
        for name, p in model.named_parameters():
            factor = 0.95 if p.dim() == 2 else 1.0
            torch.testing.assert_close(p.detach(), before[name] * factor, msg=name)


def test_muon_moves_the_matrices_of_the_trunk_and_nothing_else():
    _, optimizers = stepped(MuonConfig())
    muon = {path.split("/")[1] for path in optimizers.state_tensors() if path.startswith("muon/")}
    model = build(small_config())
    assert muon == {n for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("trunk.")}
    assert "embed.weight" not in muon


def test_muons_step_has_the_size_of_adamws():
    """Root mean square of the update 0.2 times the rate, whatever the shape."""
    before = build(small_config(), seed=1).state_dict()
    model = build(small_config(), seed=1)
    optimizers = MuonConfig(lr=1e-2, weight_decay=0.0).build(model)
    torch.manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizers.step(1.0)
    for name, p in model.named_parameters():
        if p.dim() == 2 and name.startswith("trunk."):
            update = (p.detach() - before[name]).square().mean().sqrt()
            assert 0.1e-2 < update < 0.3e-2, name


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()])
def test_memory_restored_goes_on_bit_for_bit(config):
    model, optimizers = stepped(config)
    memory = {name: t.clone() for name, t in optimizers.state_tensors().items()}
    twin = build(small_config(), seed=2)
    twin.load_state_dict(model.state_dict())
    restored = config.build(twin)
    restored.load_state_tensors(memory)
    for m, o in ((model, optimizers), (twin, restored)):
        for p in m.parameters():
            p.grad = torch.full_like(p, 0.3)
        o.step(1.0)
    for name, p in model.named_parameters():
        assert torch.equal(p, twin.get_parameter(name)), name


def test_memory_of_another_optimizer_or_model_is_refused():
    _, adamw = stepped(AdamWConfig())
    _, muon = stepped(MuonConfig())
    with pytest.raises(CheckpointError, match="--optimizer"):
        adamw.load_state_tensors(muon.state_tensors())
    with pytest.raises(CheckpointError, match="nothing as adamw/"):
        adamw.load_state_tensors({})
    memory = adamw.state_tensors()
    name = next(name for name in memory if name.endswith("exp_avg"))
    with pytest.raises(CheckpointError, match=r"\[7\]"):
        adamw.load_state_tensors({**memory, name: torch.zeros(7)})


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"betas": (0.9,)}, {"betas": (0.9, 1.0)}, {"weight_decay": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        AdamWConfig(**settings)


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig(lr=1e-3, momentum=0.9)])
def test_configs_survive_json(config):
    assert Config.from_json(config.to_json()) == config


def test_muon_in_batches_is_the_librarys_muon():
    """Up to the rounding of bfloat16 products, over several steps, tall and wide matrices, several of a shape."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 40), (40, 24), (24, 40), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    batched = Muon(ours, lr=0.05, weight_decay=0.1, momentum=0.95)
    library = torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        batched.step(), library.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 0.02 * 4 * 0.05 * 0.2 * max(a.shape) ** 0.5
        torch.testing.assert_close(
            batched.state[a]["momentum_buffer"], library.state[b]["momentum_buffer"], rtol=1e-6, atol=1e-6
        )


def test_a_skipped_step_changes_nothing_whatever_the_gradients_are():
    model, optimizers = stepped(MuonConfig())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    memory = {path: value.clone() for path, value in optimizers.state_tensors().items() if not path.endswith("/step")}
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizers.step(1.0, skip=torch.ones(()))
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(torch.equal(optimizers.state_tensors()[path], value) for path, value in memory.items())
