"""Experts: who is chosen, with what weight, what they add up to, and a balance that adds up too."""

import pytest
import torch
from torch.nn import functional as F

from positronic.errors import ConfigError
from positronic.mixers.moe import MoEConfig, largest
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step

D, HIDDEN = 32, 24


def lively(**settings):
    mixer = MoEConfig(hidden=HIDDEN, **settings).build(D)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in mixer.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
    return mixer


def run(mixer, x, **wishes):
    tokens = torch.zeros(x.shape[:2], dtype=torch.long)
    return mixer(x, Step(tokens, tokens, options=ForwardOptions(**wishes)))


def balance(mixer, x, **wishes) -> list[float]:
    """Of each row."""
    return run(mixer, x, **wishes).aux["moe.balance"].tolist()


def vectors(rows: int = 3, length: int = 9, seed: int = 0):
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def experts(mixer):
    """(gate, up, down) of each expert, the shared ones first."""
    gates, ups = mixer.gate.weight.split(HIDDEN), mixer.up.weight.split(HIDDEN)
    return list(zip(gates, ups, mixer.down.weight.split(HIDDEN, 1), strict=True))


def test_it_has_the_specified_size():
    assert sum(p.numel() for p in MoEConfig().build(768, 22).parameters()) == 17_698_560


@pytest.mark.parametrize("settings", [{}, {"shared": 0}, {"experts": 6, "top": 3, "shared": 2}, {"top": 4}])
def test_a_token_gets_what_its_own_experts_say(settings):
    mixer, x = lively(**settings), vectors()
    config, y, every = mixer.config, run(mixer, x).y, experts(mixer)
    for row, t in torch.cartesian_prod(torch.arange(3), torch.arange(9)).tolist():
        n = mixer.norm(x[row, t])
        p = (mixer.router.weight @ n).softmax(-1).tolist()
        best = sorted(range(config.experts), key=lambda e, p=p: (-p[e], e))[: config.top]
        shares = [(every[e], 1.0) for e in range(config.shared)]
        shares += [(every[config.shared + e], p[e] / sum(p[i] for i in best)) for e in best]
        expected = sum(share * (F.silu(g @ n) * (u @ n)) @ d.T for (g, u, d), share in shares)
        assert (y[row, t] - expected).abs().max() < 1e-5 * y.abs().max()


def test_permuting_experts_with_their_router_rows_changes_nothing():
    mixer, x = lively(), vectors()
    before, order = run(mixer, x), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for weight in (mixer.gate.weight, mixer.up.weight, mixer.down.weight.T):
            blocks = weight.view(5, HIDDEN, D) if weight.is_contiguous() else weight.unflatten(0, (5, HIDDEN))
            blocks[1:] = blocks[1:][order].clone()
        mixer.router.weight.copy_(mixer.router.weight[order])
    after = run(mixer, x)
    assert (after.y - before.y).abs().max() / before.y.abs().max() < 1e-5
    assert after.aux["moe.balance"].tolist() == pytest.approx(before.aux["moe.balance"].tolist(), rel=1e-6)


def test_weights_sum_to_one_over_the_chosen():
    mixer, x = lively(), vectors()
    probe = Probe(mixer, {"*:weights": capture})
    run(mixer, x, probe=probe)
    (weights,) = probe.seen[":weights"]
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    assert ((weights > 0).sum(-1) == 2).all()


def test_ties_go_to_the_lowest_index():
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4], [0.1, 0.1, 0.7, 0.1], [0.2, 0.3, 0.2, 0.3]])
    assert [row.nonzero()[:, 0].tolist() for row in largest(p, 2)] == [[0, 1], [1, 3], [0, 2], [1, 3]]
    drawn = torch.randint(0, 4, (500, 6), generator=torch.Generator().manual_seed(0)).float()
    stable = drawn.sort(dim=-1, descending=True, stable=True).indices[:, :3].sort(-1).values
    assert torch.equal(torch.stack([row.nonzero()[:, 0] for row in largest(drawn, 3)]), stable)


def test_the_balance_of_uniform_choices_is_one_and_of_a_single_favourite_more():
    mixer, x = lively(), vectors()
    with torch.no_grad():
        mixer.router.weight.zero_()
        assert balance(mixer, x) == pytest.approx([1.0] * len(x), rel=1e-6)
        mixer.norm.weight.fill_(1.0)
        mixer.router.weight[0] = 50 * x[0, 0]
    assert balance(mixer, x[:1, :1]) == pytest.approx([2.0], rel=1e-4), "half of all slots, all of the mass"


def test_the_balance_of_a_row_hangs_on_no_other_row():
    mixer, x = lively(), vectors(6, 12)
    valid = torch.arange(12) < torch.tensor([12, 3, 7, 1, 12, 5])[:, None]
    whole = balance(mixer, x, valid=valid)
    alone = [balance(mixer, x[i : i + 1], valid=valid[i : i + 1])[0] for i in range(6)]
    assert alone == pytest.approx(whole, rel=1e-6)
    assert max(whole) > min(whole) + 0.01


def test_padding_does_not_count():
    mixer, x = lively(), vectors(1, 9)
    padded = torch.cat([x, 5 * vectors(1, 6, seed=3)], 1)
    valid = torch.arange(15)[None] < 9
    assert balance(mixer, padded, valid=valid) == pytest.approx(balance(mixer, x), rel=1e-6)
    assert balance(mixer, padded) != pytest.approx(balance(mixer, x), rel=1e-3)
    assert balance(mixer, x, valid=torch.zeros(1, 9, dtype=torch.bool)) == [0]


def test_a_new_organ_is_silent_and_its_way_down_is_the_first_to_learn():
    mixer, x = MoEConfig(hidden=HIDDEN).build(D), vectors()
    y = run(mixer, x).y
    assert torch.equal(y, torch.zeros_like(x))
    (x + y).square().sum().backward()
    assert (mixer.down.weight.grad.unflatten(1, (5, HIDDEN)).norm(dim=(0, 2)) > 0).all()
    with torch.no_grad():
        mixer.down.weight -= 1e-2 * mixer.down.weight.grad
    mixer.zero_grad()
    (x + run(mixer, x).y).square().sum().backward()
    assert not [name for name, p in mixer.named_parameters() if not p.grad.norm() > 0]


def test_the_choice_is_made_in_float32_whatever_the_products_are():
    mixer, x = lively(), vectors()
    probe = Probe(mixer, {"*:weights": capture})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(mixer, x, probe=probe)
    plain = run(mixer, x, probe=probe)
    assert rounded.y.dtype is torch.bfloat16
    assert rounded.aux["moe.balance"].dtype is torch.float32
    assert torch.equal(*probe.seen[":weights"])
    assert (rounded.y - plain.y).abs().max() / plain.y.abs().max() < 2e-2


def test_it_compiles_without_a_break():
    mixer, x = lively(), vectors()
    plain = run(mixer, x)
    mixer.compile(fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(mixer, x, valid=torch.arange(9)[None].expand(3, 9) < 7)
    compiled = run(mixer, x)
    assert (compiled.y - plain.y).abs().max() < 1e-5
    assert compiled.aux["moe.balance"].tolist() == pytest.approx(plain.aux["moe.balance"].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"), [({"top": 1}, "would not learn"), ({"top": 5}, "5 of 4"), ({"hidden": 0}, "moe has")]
)
def test_impossible_settings_are_errors(settings, words):
    with pytest.raises(ConfigError, match=words):
        MoEConfig(**settings)
