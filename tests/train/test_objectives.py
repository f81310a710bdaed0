"""Objectives: sums over global counts, so that nothing depends on how a batch is cut or padded."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from train_example import Stream, small_config

from positronic.config import Config
from positronic.data import TokenBatch
from positronic.errors import ConfigError, TrainingError
from positronic.kernels.cross_entropy import cross_entropy_slice, slice_in_place, slice_reference
from positronic.lm import LMOutput
from positronic.models import build
from positronic.train import AuxiliaryWeight, NextTokenConfig, SFTConfig
from positronic.train.objectives.cross_entropy import cross_entropy_reference, sliced_cross_entropy


def gradients(model, objective, batches, counts):
    model.zero_grad()
    for batch in batches:
        objective(model, batch, counts).total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def worst(ours, theirs):
    return max(float((ours[k] - theirs[k]).norm() / theirs[k].norm().clamp(min=1e-12)) for k in theirs)


@pytest.mark.parametrize("slice_targets", [1, 7, 64, 100])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_slices_give_the_definition_and_its_gradient(slice_targets, z_loss):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 30))
    bystander = nn.Parameter(torch.zeros(3))
    hidden = torch.randn(64, 8, requires_grad=True)
    targets, mask = torch.randint(0, 30, (64,)), torch.rand(64) < 0.7
    weights = [*head.parameters(), bystander]
    expected = cross_entropy_reference(head, hidden, targets, mask, 50, z_loss)
    expected_gradients = torch.autograd.grad(3 * expected.total, [hidden, *head.parameters()])
    found = sliced_cross_entropy(
        head, weights, hidden, targets, mask, count=50, z_loss=z_loss, slice_targets=slice_targets
    )
    found_gradients = torch.autograd.grad(3 * found.total, [hidden, *head.parameters()])
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        without = sliced_cross_entropy(
            head, weights, hidden, targets, mask, count=50, z_loss=z_loss, slice_targets=slice_targets
        )
    torch.testing.assert_close(tuple(without), tuple(x.detach() for x in expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_accumulating_micro_batches_equals_one_batch(n):
    model, objective = build(small_config(), seed=1), NextTokenConfig().build()
    batch = Stream(padded=True).next(8)
    counts = objective.counts(batch)
    parts = [batch.rows(slice(i, i + n)) for i in range(0, 8, n)]
    whole = gradients(model, objective, [batch], counts)
    assert worst(gradients(model, objective, parts, counts), whole) < 1e-6


def test_padding_a_batch_changes_nothing():
    model, objective = build(small_config(), seed=1), NextTokenConfig().build()
    batch = Stream().next(4)
    padding = torch.zeros(4, 5, dtype=torch.long)
    never = padding.bool()
    padded = TokenBatch(
        torch.cat([batch.tokens, padding], 1),
        torch.cat([batch.targets, padding], 1),
        torch.cat([batch.loss_mask, never], 1),
        valid=torch.cat([torch.ones_like(batch.loss_mask), never], 1),
        row_bytes=batch.row_bytes,
    )
    assert objective.counts(padded) == objective.counts(batch)
    plain = gradients(model, objective, [batch], objective.counts(batch))
    assert worst(gradients(model, objective, [padded], objective.counts(padded)), plain) < 1e-5


def test_masked_targets_receive_no_gradient():
    """The gradient of the loss by the hidden vector in front of a masked target is exactly zero."""
    model, objective = build(small_config(), seed=1), SFTConfig().build()
    batch = Stream(masked=True).next(4)
    hidden = torch.randn(4, 16, 32, requires_grad=True)
    spy = SimpleNamespace(parameters=model.parameters, logits=model.logits, drafts=None, latents=None)
    front = type("Front", (), {"__call__": lambda self, tokens, options: LMOutput(hidden), **vars(spy)})()
    front.logits, front.parameters = model.logits, model.parameters
    objective(front, batch, objective.counts(batch)).total.backward()
    reached = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(reached, batch.loss_mask)


def test_a_masked_loss_ignores_what_the_masked_targets_are():
    model, objective = build(small_config(), seed=1), NextTokenConfig().build()
    batch = Stream(masked=True).next(4)
    other = TokenBatch(
        batch.tokens,
        torch.where(batch.loss_mask, batch.targets, batch.targets.flip(1)),
        batch.loss_mask,
        batch.segments,
        row_bytes=batch.row_bytes,
    )
    counts = objective.counts(batch)
    assert torch.equal(objective(model, batch, counts).total, objective(model, other, counts).total)


class WithAuxiliary(nn.Module):
    """A model that reports how large its embedding is."""

    def __init__(self):
        super().__init__()
        self.inner = build(small_config(), seed=1)
        self.config, self.drafts, self.latents = self.inner.config, None, None

    def forward(self, tokens, state=None, options=None):
        output = self.inner(tokens, state, options)
        return LMOutput(output.hidden, None, {"size.mean": self.inner.embed(tokens).square().mean()})

    def logits(self, hidden):
        return self.inner.logits(hidden)


def test_an_auxiliary_loss_is_weighed_by_name_and_adds_up_over_micro_batches():
    model = WithAuxiliary()
    batch = Stream().next(4)
    plain = NextTokenConfig().build()
    with pytest.raises(ConfigError, match=r"size\.mean"):
        plain(model, batch, plain.counts(batch))
    objective = NextTokenConfig(auxiliary=(AuxiliaryWeight(name="size.mean", weight=0.5),)).build()
    counts = objective.counts(batch)
    whole = objective(model, batch, counts)
    base = plain(model.inner, batch, counts).total
    mean = model.inner.embed(batch.tokens).square().mean()
    assert whole.total.item() == pytest.approx((base + 0.5 * mean).item(), rel=1e-6)
    parts = [objective(model, batch.rows(slice(i, i + 1)), counts) for i in range(4)]
    assert sum(p.total.item() for p in parts) == pytest.approx(whole.total.item(), rel=1e-6)
    sums = {name: sum(p.terms[name].item() for p in parts) for name in whole.terms}
    assert objective.means(sums, counts)["size.mean"] == pytest.approx(mean.item(), rel=1e-5)


def test_batches_from_which_nothing_can_be_learned_are_refused():
    batch = Stream().next(2)
    empty = TokenBatch(batch.tokens, batch.targets, torch.zeros_like(batch.loss_mask), row_bytes=batch.row_bytes)
    with pytest.raises(TrainingError, match="no target"):
        NextTokenConfig().build().counts(empty)
    with pytest.raises(TrainingError, match="no assistant token"):
        SFTConfig().build().counts(empty)


@pytest.mark.parametrize("config", [NextTokenConfig(auxiliary=(AuxiliaryWeight(name="a", weight=1.0),)), SFTConfig()])
def test_configs_survive_json(config):
    assert Config.from_json(config.to_json()) == config


def test_a_micro_batch_without_a_target_adds_nothing():
    model, objective = build(small_config(), seed=1), NextTokenConfig().build()
    batch = Stream().next(4)
    batch.loss_mask[2:] = False
    counts = objective.counts(batch)
    alone = gradients(model, objective, [batch.rows(slice(0, 2))], counts)
    assert worst(gradients(model, objective, [batch.rows(slice(0, 2)), batch.rows(slice(2, 4))], counts), alone) == 0


@pytest.mark.parametrize("asked", ["torch", "reference"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_slice_has_the_sums_and_the_gradient_of_its_definition(dtype, tolerance, asked, monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", asked)
    torch.manual_seed(0)
    z, targets, mask = (5 * torch.randn(40, 30)).to(dtype), torch.randint(0, 30, (40,)), torch.rand(40)
    ours, right = cross_entropy_slice(z, targets, mask, 0.01, 1e-2), slice_reference(z, targets, mask, 0.01, 1e-2)
    assert ours[1].dtype == dtype
    torch.testing.assert_close(ours[0], right[0], rtol=1e-5, atol=1e-5)
    assert (ours[1].float() - right[1].float()).norm() < tolerance * right[1].float().norm()
    assert asked == "torch" or torch.equal(ours[1], right[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernel runs on a GPU")
@pytest.mark.parametrize("width", [30, 2048, 16_512])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_fused_kernel_gives_the_plain_ones_sums_and_gradient(width, dtype, tolerance):
    from positronic.kernels.cross_entropy.triton import slice_kernel

    torch.manual_seed(0)
    z = (5 * torch.randn(300, width, device="cuda")).to(dtype)
    targets, mask = torch.randint(0, width, (300,), device="cuda"), torch.rand(300, device="cuda") < 0.7
    ours, theirs = slice_kernel(z, targets, mask, 0.01, 1e-2), slice_in_place(z, targets, mask, 0.01, 1e-2)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    error = (ours[1].float() - theirs[1].float()).norm() / theirs[1].float().norm()
    assert error < tolerance
