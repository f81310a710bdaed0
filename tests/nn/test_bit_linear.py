"""Maps that are trained as floats and multiply as three values, and the float model that each is the twin of."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.config import override
from positronic.errors import ConfigError
from positronic.kernels.ternary import product, quantised_activations, quantised_weights
from positronic.models import build, preset
from positronic.nn.linear import Matrices, linear
from positronic.nn.ternary import BitLinear, BitMatrices, Rounding, TernaryConfig, convert

ROUNDED = (BitLinear, BitMatrices)


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def twins(**changes: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """chimera-tiny in floats and rounded, of the same seed."""
    config = preset("chimera-tiny")
    return build(config, 1).eval(), build(config.replace(weights=TernaryConfig(**changes)), 1).eval()


def shared(model: torch.nn.Module, value: float) -> None:
    for module in model.modules():
        if isinstance(module, Rounding):
            module.share.fill_(value)


def test_twins_have_the_same_names_and_draws():
    plain, rounded = (dict(model.named_parameters()) for model in twins())
    assert list(plain) == list(rounded)
    assert all(p.equal(rounded[name]) for name, p in plain.items())
    assert not [name for name in twins()[1].state_dict() if "rounding" in name]


@torch.no_grad()
def test_what_has_not_set_out_is_its_twin_to_the_bit():
    plain, rounded = twins()
    tokens = torch.arange(300)[None] % 200
    whole = rounded(tokens).hidden
    assert (whole - plain(tokens).hidden).abs().max() > 0.1
    shared(rounded, 0.0)
    assert rounded(tokens).hidden.equal(plain(tokens).hidden)


@pytest.mark.parametrize("name", ["chimera-35m", "chimera-150m", "chimera-2.7b"])
def test_nearly_all_that_is_no_embedding_is_ternary(name):
    with torch.device("meta"):
        model = convert(preset(name).build(), TernaryConfig())
    ternary = sum(module.weight.numel() for module in model.modules() if isinstance(module, ROUNDED))
    whole = sum(p.numel() for p in model.parameters()) - model.embed.weight.numel()
    assert 0.97 < ternary / whole < 1
    assert {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, ROUNDED)} == {
        *("query", "kv", "key_value", "keys_values", "gate", "open", "out", "up", "down"),
    }


@pytest.mark.parametrize("changes", [{}, {"group": 64}, {"scale": "median"}, {"scale": "tensor"}])
def test_gradients_pass_through_the_rounding(changes):
    config = TernaryConfig(**changes)
    plain = linear(192, 24, ternary=True)
    made = BitLinear(plain, config)
    x = vectors(3, 5, 192).requires_grad_()
    y = made(x)
    weight = quantised_weights(plain.weight, config.group, config.scale).weights()
    levels = quantised_activations(x).values()
    assert y.equal(F.linear(levels, weight))
    y.sum().backward()
    assert x.grad.equal(torch.ones(3, 5, 24) @ weight)
    assert made.weight.grad.equal(torch.ones(15, 24).T @ levels.flatten(0, 1))


def test_activations_may_stay_floats():
    made = BitLinear(linear(128, 8), TernaryConfig(activations=False))
    x = vectors(4, 128)
    assert made(x).equal(F.linear(x, quantised_weights(made.weight).weights()))


def test_on_the_way_a_matrix_is_between():
    made = BitLinear(linear(128, 8), TernaryConfig())
    made.rounding.share.fill_(0.25)
    w = made.weight
    assert (made.rounding.weight(w) - (0.75 * w + 0.25 * quantised_weights(w).weights())).abs().max() < 1e-8


def test_a_bias_is_added_as_it_is():
    plain = linear(64, 8, bias=True)
    torch.nn.init.normal_(plain.bias)
    assert BitLinear(plain, TernaryConfig())(torch.zeros(2, 64)).equal(plain.bias.expand(2, 8))


@torch.no_grad()
def test_whole_numbers_say_what_floats_say():
    for made in twins()[1].modules():
        if isinstance(made, BitLinear):
            x = vectors(16, made.in_features)
            exact = product(quantised_activations(x), quantised_weights(made.weight))
            assert (made(x) - exact).abs().max() <= 1e-5 * exact.abs().max()


@torch.no_grad()
def test_experts_are_rounded_each_by_itself():
    plain = Matrices(3, 128, 16, ternary=True)
    x, weight = BitMatrices(plain, TernaryConfig()).operands(vectors(4, 128))
    assert x.equal(quantised_activations(vectors(4, 128)).values())
    for one, matrix in zip(weight, plain.weight, strict=True):
        assert one.equal(quantised_weights(matrix).weights())


def test_a_width_that_no_block_divides_is_refused():
    config = override(preset("chimera-tiny-ternary"), ["channel.hidden=100"])
    with pytest.raises(ConfigError, match=r"mixer.down reads 100 numbers.*multiples of 64"):
        build(config)


def test_a_rounded_matrix_learns():
    torch.manual_seed(0)
    made, target = BitLinear(linear(64, 8), TernaryConfig()), vectors(8, 64).sign()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(200):
        x = torch.randn(64, 64)
        loss = (made(x) - x @ target.T / 50).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
