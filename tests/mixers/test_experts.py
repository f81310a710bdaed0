"""Experts: who is chosen and with what weight, two ways to compute them, and a bias that learns from loads alone."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from positronic.errors import ConfigError
from positronic.mixers import experts
from positronic.mixers.experts import Experts, ExpertsConfig
from positronic.nn.init import initialize
from positronic.nn.stack import Residual, Stack
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step
from positronic.train.balance import Balance

D, E = 32, 5
CONFIG = ExpertsConfig(experts=E, hidden=24)
MANY = 600
"""Tokens beyond which pairs are sorted."""


def lively(config: ExpertsConfig = CONFIG) -> Experts:
    mixer, generator = config.build(D), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in mixer.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
    return mixer


def vectors(rows: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def step_of(x: Tensor, **wishes) -> Step:
    return Step.of(torch.zeros(x.shape[:2], dtype=torch.long), None, ForwardOptions(**wishes))


def run(mixer, x: Tensor, **wishes) -> Tensor:
    return mixer(x, step_of(x, **wishes)).y


def weights_of(mixer: Experts, x: Tensor, **wishes) -> Tensor:
    probe = Probe(mixer, {"*:weights": capture})
    run(mixer, x, probe=probe, **wishes)
    return probe.seen[":weights"][0]


def gradients(mixer, x: Tensor, **wishes) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    mixer.zero_grad()
    y = run(mixer, x, **wishes)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    return {"x": x.grad} | {name: p.grad for name, p in mixer.named_parameters()}


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize(("d", "n", "hidden"), [(128, 4, 128), (384, 8, 256), (2560, 16, 1728)])
def test_it_has_the_specified_size(d, n, hidden):
    with torch.device("meta"):
        mixer = ExpertsConfig(experts=n, hidden=hidden).build(d)
    assert sum(p.numel() for p in mixer.parameters()) == d + d * n + n + 3 * (n + 1) * d * hidden + hidden
    assert mixer.idle_parameters == 3 * (n - 2) * d * hidden


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(top=3), CONFIG.replace(experts=2), CONFIG.replace(top=E)])
@pytest.mark.parametrize("padded", [False, True])
def test_sorted_pairs_say_and_learn_what_all_experts_do(config, padded, monkeypatch):
    mixer, x = lively(config), vectors(2, MANY // 2)
    wishes = {"valid": torch.rand(2, MANY // 2, generator=torch.Generator().manual_seed(0)) > 0.3} if padded else {}
    y, found = run(mixer, x, **wishes), gradients(mixer, x, **wishes)
    monkeypatch.setattr(experts, "ALL", MANY)
    monkeypatch.delattr(experts, "grouped_product")  # what sorted pairs cannot do without
    assert relative_error(y, run(mixer, x, **wishes)) < 1e-5
    expected = gradients(mixer, x, **wishes)
    for name, gradient in found.items():
        assert relative_error(gradient, expected[name]) < 1e-5 if expected[name].any() else not gradient.any(), name


def test_experts_that_nobody_chooses_get_no_gradient_and_change_nothing():
    mixer, x = lively(), vectors(2, MANY // 2)
    with torch.no_grad():
        mixer.balance.bias.copy_(torch.tensor([0.0, -9.0, 0.0, 0.0, -9.0]))
    y, found = run(mixer, x), gradients(mixer, x)
    for name in ("gate", "up", "down"):
        silent = [not part.any() for part in found[f"{name}.weight"]]
        assert silent == [False, False, True, False, False, True], "the first is shared"
    with torch.no_grad():
        mixer.up.weight[2].fill_(7.0)
    assert torch.equal(run(mixer, x), y)


@pytest.mark.parametrize("length", [9, MANY])
def test_the_order_of_tokens_changes_nothing(length):
    mixer, x = lively(), vectors(1, length)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0))
    assert relative_error(run(mixer, x[:, order]), run(mixer, x)[:, order]) < 1e-5


@pytest.mark.parametrize("length", [9, MANY])
def test_a_bias_chooses_and_never_weighs(length):
    mixer, x = lively(), vectors(1, length)
    with torch.no_grad():
        mixer.balance.bias.zero_()
        plain, y = weights_of(mixer, x), run(mixer, x)
        mixer.balance.bias.fill_(0.4)
        assert torch.equal(run(mixer, x), y), "equal for all experts"
        mixer.balance.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
        weights = weights_of(mixer, x)
    assert (weights[..., 0] > 0).all()
    assert not (plain[..., 0] > 0).all()
    assert ((weights > 0).sum(-1) == 2).all()
    s = mixer.router(mixer.norm(x)).sigmoid() * (weights > 0)
    assert relative_error(weights, s / s.sum(-1, keepdim=True)) < 1e-6
    same = ((weights > 0) == (plain > 0)).all(-1)
    assert same.any()
    assert torch.equal(weights[same], plain[same])


def test_ties_go_to_the_lowest_index():
    mixer = lively()
    with torch.no_grad():
        mixer.router.weight.zero_()
        mixer.balance.bias.copy_(torch.tensor([0.0, 0.5, 0.0, 0.0, 0.5]))
    assert weights_of(mixer, vectors())[0, 0].tolist() == [0, 0.5, 0, 0, 0.5]
    with torch.no_grad():
        mixer.balance.bias.copy_(torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))
    assert weights_of(mixer, vectors())[0, 0].tolist() == [0.5, 0, 0.5, 0, 0]


def test_a_router_at_its_ends_still_weighs():
    mixer = lively()
    with torch.no_grad():
        mixer.router.weight.copy_(-1e3 * torch.rand(E, D))
        x = vectors().abs()
    assert weights_of(mixer, x).isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(mixer, x).values())


def loads(mixer: Experts, x: Tensor, **wishes) -> Tensor:
    chosen = weights_of(mixer, x, **wishes) > 0
    valid = wishes.get("valid")
    return (chosen if valid is None else chosen & valid[..., None]).sum((0, 1)).float()


@pytest.mark.parametrize("length", [9, MANY])
@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_of_the_bias_is_load_minus_mean_load_whatever_comes_from_above(length, padded):
    mixer, x = lively(), vectors(2, length)
    wishes = {"valid": torch.rand(2, length, generator=torch.Generator().manual_seed(0)) > 0.5} if padded else {}
    load = loads(mixer, x, **wishes)
    real = wishes["valid"].sum().item() if padded else 2 * length
    assert load.sum() == 2 * real
    for scale in (0.0, 1.0, -1e-9, 1e9):
        mixer.zero_grad()
        (scale * run(mixer, x, **wishes)).sum().backward()
        assert torch.equal(mixer.balance.bias.grad, load - load.mean())


def test_loads_add_up_over_micro_batches():
    mixer, x = lively(), vectors(6, 11)
    whole = gradients(mixer, x)["balance.bias"]
    mixer.zero_grad()
    for part in x.split(2):
        run(mixer, part).sum().backward()
    assert relative_error(mixer.balance.bias.grad, whole) < 1e-6


@pytest.mark.parametrize("length", [9, MANY])
def test_recomputing_and_compiling_count_no_load_twice(length):
    mixer, x = lively(), vectors(1, length)
    expected = gradients(mixer, x)

    class Again(torch.nn.Module):
        def forward(self, x, step):
            return checkpoint(mixer, x, step, use_reentrant=False)

        def named_parameters(self):
            return mixer.named_parameters()

        def zero_grad(self):
            mixer.zero_grad()

    recomputed = gradients(Again(), x)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in recomputed.items())
    mixer.compile(fullgraph=True, backend="aot_eager")
    for form in (mixer, Again()):
        compiled = gradients(form, x)
        assert torch.equal(compiled["balance.bias"], expected["balance.bias"])
        assert all(relative_error(gradient, expected[name]) < 1e-5 for name, gradient in compiled.items())


@pytest.mark.slow
@pytest.mark.parametrize("length", [9, MANY])
def test_a_compiled_block_says_and_learns_the_same(length):
    block, x = Residual(lively()), vectors(1, length)
    expected, y = gradients(block, x), run(block, x)
    block.compile(fullgraph=True, dynamic=False)
    assert relative_error(run(block, x), y) < 1e-5
    assert all(relative_error(g, expected[name]) < 1e-5 for name, g in gradients(block, x).items())


def test_a_trunk_that_recomputes_its_blocks_counts_once():
    trunk, x = Stack(Residual(lively()), Residual(lively())), vectors()
    trunk.train()

    def learned() -> list[Tensor]:
        trunk.zero_grad()
        trunk(x.clone().requires_grad_(), step_of(x)).x.sum().backward()
        return [p.grad for p in trunk.parameters()]

    plain = learned()
    trunk.recompute = True
    assert all(torch.equal(a, b) for a, b in zip(plain, learned(), strict=True))


def test_a_skewed_router_is_balanced_within_some_hundred_steps():
    mixer, x = ExpertsConfig(experts=8, hidden=8).build(D), vectors(2, 240)
    initialize(mixer, 0)
    with torch.no_grad():
        x = x + 0.5
        mixer.router.weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
        mixer.router.weight[0] += 0.05

    def imbalance() -> float:
        load = loads(mixer, x)
        return float(load.max() / load.mean() - 1)

    optimizer, skewed = Balance([mixer.balance.bias]), imbalance()
    for _ in range(400):
        mixer.zero_grad()
        run(mixer, x).sum().backward()
        optimizer.step()
    assert skewed > 1
    assert imbalance() < 0.15
    assert mixer.balance.bias.abs().max() <= 0.4 + 1e-6


def test_the_choice_is_made_in_float32_whatever_the_products_are():
    mixer = lively()
    for length in (9, MANY):
        x = vectors(1, length)
        plain, weights = run(mixer, x), weights_of(mixer, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = run(mixer, x)
            assert torch.equal(weights_of(mixer, x), weights)
        assert rounded.dtype is torch.bfloat16
        assert relative_error(rounded, plain) < 3e-2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gradients(mixer, x)
        assert all(gradient.dtype is torch.float32 for gradient in found.values())


def test_a_token_gets_what_its_own_experts_say():
    mixer, x = lively(), vectors(1, MANY)
    y, weights = run(mixer, x)[0], weights_of(mixer, x)[0]
    for t in (0, 17, MANY - 1):
        n = mixer.norm(x[0, t])

        def said(i: int, n: Tensor = n) -> Tensor:
            hidden = F.silu(mixer.gate.weight[i] @ n) * (mixer.up.weight[i] @ n)
            return mixer.down.weight[i] @ mixer.inner_norm(hidden)

        expected = said(0) + sum(weights[t, e] * said(1 + e) for e in range(E))
        assert relative_error(y[t], expected) < 1e-5


@pytest.mark.parametrize(
    ("settings", "words"), [({"top": 1}, "would not learn"), ({"top": 6}, "6 of 5"), ({"hidden": 0}, "hidden is 0")]
)
def test_impossible_settings_are_errors(settings, words):
    with pytest.raises(ConfigError, match=words):
        CONFIG.replace(**settings)
