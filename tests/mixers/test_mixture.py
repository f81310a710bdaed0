"""Mixtures: weights that sum to one, gates around one, heads that can be had alone, a floor under evenness."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.config import MixerConfig
from positronic.errors import ConfigError
from positronic.mixers.channel_mix import ChannelMixConfig
from positronic.mixers.hyper_ffn import HyperFFNConfig
from positronic.mixers.local_conv import LocalConvConfig
from positronic.mixers.metric_attention import MetricMHAConfig, MetricMQAConfig
from positronic.mixers.mixture import MixtureConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.nn.init import initialize
from positronic.probe import Probe, capture, replace
from positronic.state import ForwardOptions, Step

D, T = 32, 10
HEADS = (
    LocalConvConfig(),
    MetricMHAConfig(n_heads=2, n_kv_heads=2, head_dim=16, projector=ValueProjectorConfig(hidden=8)),
    ChannelMixConfig(hidden=24),
    MetricMQAConfig(n_heads=2, head_dim=16),
)
MIXTURE = MixtureConfig(heads=HEADS, hidden=16, groups=4)
FFN = HyperFFNConfig(hidden=48, rank=4)


def new(config: MixerConfig):
    mixer = config.build(D)
    initialize(mixer, 0)
    return mixer.eval()


def opened(config: MixerConfig, scale: float = 0.4):
    """Away from the start: the router has preferences, gates differ from one."""
    mixer, generator = new(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return mixer


def stream(seed: int = 0) -> Tensor:
    return torch.randn(2, T, D, generator=torch.Generator().manual_seed(seed))


def run(mixer, x: Tensor, verbs=None, **wishes):
    tokens = torch.zeros(2, T, dtype=torch.long)
    probe = Probe(mixer, verbs or {"*": capture})
    out = mixer(x, Step.of(tokens, None, ForwardOptions(probe=probe, **wishes)))
    return out, {name.lstrip(":"): found[0] for name, found in probe.seen.items()}


@torch.no_grad()
@pytest.mark.parametrize("config", [MIXTURE, MIXTURE.replace(top=2), MIXTURE.replace(biased=False), FFN])
def test_weights_are_shares_of_one(config):
    weights = run(opened(config), stream())[1]["weights"]
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    assert (weights >= 0).all()
    assert weights.std(1).max() > 0.01, "tokens are all routed alike"


@torch.no_grad()
@pytest.mark.parametrize(("config", "n"), [(MIXTURE, 4), (FFN, 3)])
def test_a_new_router_weighs_all_alike(config, n):
    assert (run(new(config), stream())[1]["weights"] - 1 / n).abs().max() < 1e-7


@torch.no_grad()
def test_a_mixture_is_the_weighed_sum_of_its_gated_heads():
    mixer, x = opened(MIXTURE.replace(gain=1.5)), stream()
    out, seen = run(mixer, x)
    gates = 2 * torch.sigmoid(mixer.gates)
    assert (gates > 0).all()
    assert (gates < 2).all()
    expected = sum(
        1.5 * seen["weights"][..., m, None] * gates[m].repeat_interleave(D // 4) * seen[f"heads.{m}:current"]
        for m in range(4)
    )
    assert (out.y - expected).abs().max() < 1e-5
    n = mixer.norm(x)
    logits = F.silu(n @ mixer.router.weight.T) @ mixer.choose.weight.T / 2 + mixer.bias
    assert (logits.softmax(-1) - seen["weights"]).abs().max() < 1e-6


@torch.no_grad()
def test_new_feature_gates_are_one_to_the_bit():
    mixer = new(MIXTURE)
    assert torch.equal(2 * torch.sigmoid(mixer.gates), torch.ones(4, 4))


@torch.no_grad()
@pytest.mark.parametrize("m", range(4))
def test_a_router_that_chooses_one_head_gives_that_head_alone(m):
    mixer, x = new(MIXTURE), stream()
    mixer.bias[m] = 1e4
    alone, _, _ = mixer.heads[m](mixer.norm(x), Step.of(torch.zeros(2, T, dtype=torch.long)))
    assert torch.equal(run(mixer, x)[0].y, alone)


@torch.no_grad()
def test_with_top_the_best_heads_share_what_the_others_lose_and_the_first_wins_a_tie():
    soft, mixer, x = opened(MIXTURE), opened(MIXTURE.replace(top=2)), stream()
    all_weights, weights = run(soft, x)[1]["weights"], run(mixer, x)[1]["weights"]
    assert ((weights > 0).sum(-1) == 2).all()
    best = all_weights.topk(2, -1)
    shares = best.values / best.values.sum(-1, keepdim=True)
    assert (weights.gather(-1, best.indices) - shares).abs().max() < 1e-6
    assert torch.equal(run(new(MIXTURE.replace(top=2)), x)[1]["weights"][0, 0], torch.tensor([0.5, 0.5, 0, 0]))


def test_gradient_reaches_every_head_from_the_first_step():
    mixer = new(MIXTURE)
    run(mixer, stream())[0].y.square().sum().backward()
    for head in mixer.heads:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        assert next(head.parameters()).grad.any()
    assert mixer.choose.weight.grad.any()
    assert mixer.gates.grad.all()


@torch.no_grad()
def test_a_floor_under_evenness_counts_what_falls_short_at_real_tokens():
    mixer, x = opened(MIXTURE.replace(entropy_floor=0.9), 1.5), stream()
    valid = torch.arange(T) < torch.tensor([[T], [4]])
    out, seen = run(mixer, x, valid=valid)
    evenness = torch.special.entr(seen["weights"]).sum(-1) / math.log(4)
    short = [(0.9 - row[real]).clamp(min=0).mean().item() for row, real in zip(evenness, valid, strict=True)]
    assert out.aux["mixture.entropy"].tolist() == pytest.approx(short, abs=1e-6)
    assert min(short) > 0.01
    assert run(new(MIXTURE.replace(entropy_floor=1.0)), x)[0].aux["mixture.entropy"].max() < 1e-6
    assert "mixture.entropy" not in run(opened(MIXTURE), x)[0].aux
    few = run(opened(MIXTURE.replace(entropy_floor=0.9, top=2), 1.5), x, valid=valid)[0]
    assert torch.equal(few.aux["mixture.entropy"], out.aux["mixture.entropy"])


@pytest.mark.parametrize("collapsed", [False, True])
def test_the_floor_pulls_up_a_head_that_is_not_heard(collapsed):
    """A share that is 0, by `top` or by underflow, has a gradient all the same, and a finite one."""
    mixer = opened(MIXTURE.replace(entropy_floor=1.0, top=2), 1.5)
    if collapsed:
        mixer = opened(MIXTURE.replace(entropy_floor=1.0), 1.5)
        with torch.no_grad():
            mixer.bias[0] = 150
    run(mixer, stream())[0].aux["mixture.entropy"].sum().backward()
    gradient = mixer.bias.grad
    assert gradient.isfinite().all()
    assert collapsed or gradient.all()


@torch.no_grad()
def test_a_mixture_reports_the_triangles_of_both_its_metric_heads():
    mixer, x = opened(MIXTURE), stream()
    out, seen = run(mixer, x)
    sums = [seen[f"heads.{m}:excess"].square().mean((1, 2)) for m in (1, 3)]
    assert seen["heads.1:excess"].shape == (2, 2, 64)
    assert out.aux["metric.triangle"].tolist() == pytest.approx(sum(sums).tolist(), abs=1e-6)


@torch.no_grad()
def test_a_silenced_head_takes_its_share_with_it():
    mixer, x = opened(MIXTURE), stream()
    whole, seen = run(mixer, x)
    without, _ = run(mixer, x, {"heads.2:current": replace(torch.zeros_like)})
    share = seen["weights"][..., 2, None] * (2 * torch.sigmoid(mixer.gates[2])).repeat_interleave(D // 4)
    assert (whole.y - without.y - share * seen["heads.2:current"]).abs().max() < 1e-5


@torch.no_grad()
def test_a_hyper_ffn_is_its_three_branches_weighed():
    mixer, x = opened(FFN), stream()
    out, seen = run(mixer, x)
    n = mixer.norm(x)
    kernel = torch.cat([mixer.conv.past.flip(0), mixer.conv.now[None]]).T[:, None]
    z = F.conv1d(F.pad(n.mT, (4, 0)), kernel, groups=D).mT
    branches = [
        (F.silu(n @ mixer.gate.weight.T) * (n @ mixer.up.weight.T)) @ mixer.down.weight.T,
        F.silu(z) @ mixer.mix.weight.T,
        n @ mixer.narrow.weight.T @ mixer.widen.weight.T,
    ]
    weights = (n @ mixer.router.weight.T).softmax(-1)
    assert (seen["weights"] - weights).abs().max() < 1e-6
    expected = sum(w * y for w, y in zip(weights.split(1, -1), branches, strict=True))
    assert (out.y - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_a_local_convolution_reaches_as_far_back_as_its_kernel():
    mixer, x = opened(LocalConvConfig(kernel=3)), stream()
    tokens = torch.zeros(2, T, dtype=torch.long)
    changed = x.index_fill(1, torch.tensor([4]), 0.0)
    moved = (mixer(x, Step.of(tokens)).y != mixer(changed, Step.of(tokens)).y).any(-1).any(0)
    assert moved.nonzero().flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": HEADS[:1]}, "use 2 heads or more"),
        ({"hidden": 0}, "1 or more of the others"),
        ({"top": 1}, "use 2 up to all"),
        ({"top": 5}, "use 2 up to all"),
        ({"temperature": 0.0}, "above 0"),
        ({"gain": -1.0}, "above 0"),
        ({"entropy_floor": 1.5}, "above 0 up to 1"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        MIXTURE.replace(**changes)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="does not divide d_model 32"):
        MIXTURE.replace(groups=5).build(D)
    with pytest.raises(ConfigError, match="2 or more"):
        LocalConvConfig(kernel=1)
    with pytest.raises(ConfigError, match="2 and 1 or more"):
        HyperFFNConfig(rank=0)
    with pytest.raises(ConfigError, match="1 or more"):
        ChannelMixConfig(hidden=0)
    with pytest.raises(ConfigError, match="leave the projector out"):
        ValueProjectorConfig(hidden=0)
