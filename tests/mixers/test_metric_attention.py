"""Metric heads: what each score is, what pruning does, what is cached, what the triangle loss sees, what is refused."""

import pytest
import torch
from torch import Tensor

from positronic.config import MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.metric import Metric, as_keys, metric_key_bias
from positronic.mixers.metric_attention import MetricAttention, MetricMHAConfig, MetricMQAConfig
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config, MahaDiagConfig, ScoreConfig
from positronic.mixers.radius import BallConfig, PairConfig
from positronic.nn.init import initialize
from positronic.nn.rope import rotate, rotation
from positronic.probe import Probe, capture, replace
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.tree import n_bytes

D, T = 48, 12
MHA = MetricMHAConfig(n_heads=4, n_kv_heads=4, head_dim=24)
MQA = MetricMQAConfig(n_heads=4, head_dim=24)
SCORES = [L2Config(), MahaDiagConfig(), CosineConfig(), DotConfig()]


def opened(config: MixerConfig, scale: float = 0.3) -> MetricAttention:
    """Matrices large, and what starts at a constant moved away from it."""
    mixer, generator = config.build(D), torch.Generator().manual_seed(1)
    initialize(mixer, 0)
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return mixer.eval()


def stream(length: int = T, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def run(mixer: MetricAttention, x: Tensor, state=None, probe: Probe | None = None, shift: int = 0):
    tokens = torch.arange(x.shape[1]).expand(len(x), -1)
    step = Step.of(tokens, None, ForwardOptions(probe=probe))
    return mixer(x, Step(tokens, step.positions + shift, options=step.options), state)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_diagonal_metric_of_ones_is_plain_distance_to_the_bit():
    plain, weighed = (MHA.replace(score=score).build(D) for score in (L2Config(), MahaDiagConfig()))
    weighed.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(run(plain, stream()).y, run(weighed, stream()).y)


@torch.no_grad()
@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_scores_are_what_their_names_say(score: ScoreConfig):
    """Up to what is constant in the keys, for one query and two heads that share a key."""
    width = 16
    made = score.build(2, 1, width)
    for p in made.parameters():
        p.add_(0.3 * random(*p.shape, seed=5))
    q, k = random(1, 2, 1, width, seed=1).double(), random(1, 1, 9, width, seed=2).double()
    metric = Metric(made.alpha.double(), score.slope(width), score.distance)
    v = torch.eye(9, dtype=torch.float64)[None, None]
    keys = as_keys(made(k).double(), None, metric, torch.float64)
    weights = metric_key_bias(made(q).double(), keys, v, metric, torch.ones(1, 1, 1, 9, dtype=torch.bool))[0, :, 0]
    q, k, root = q[0, :, 0], k[0, 0], width**0.5
    explicit = {
        "l2": lambda: -torch.cdist(q, k).square() / root,
        "maha_diag": lambda: -((q[:, None] - k).square() * made.log_m[0].exp().repeat(2)).sum(-1) / root,
        "cosine": lambda: torch.cosine_similarity(q[:, None], k, dim=-1),
        "dot": lambda: q @ k.T / root,
    }[score.kind]()
    expected = torch.softmax(made.alpha.double()[:, None] * explicit, -1)
    assert (weights - expected).abs().max() < 1e-6, "the maps are float32"


@torch.no_grad()
def test_the_maps_of_all_scores_commute_with_rotation():
    """Else scores would depend on absolute positions."""
    cos, sin = rotation(torch.tensor([[0, 3, 777]]), 16, 10_000.0)
    for config in SCORES:
        score, x = config.build(2, 2, 16), random(1, 2, 3, 16)
        for p in score.parameters():
            p.add_(random(*p.shape, seed=3))
        assert (score(rotate(x, cos, sin)) - rotate(score(x), cos, sin)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("config", [MHA, MQA], ids=lambda c: c.kind)
def test_shifting_all_positions_changes_no_score(config):
    """Waves of energy count positions, so they are left out here."""
    mixer, x = opened(config), stream()
    mixer.rope.waves.zero_()
    here, there = run(mixer, x).y, run(mixer, x, shift=777).y
    assert (here - there).abs().max() < 1e-4 * here.abs().max()


@torch.no_grad()
def test_a_cosine_head_is_a_distance_of_unit_vectors_and_ignores_lengths():
    score = CosineConfig().build(4, 4, 16)
    q, k, v = random(2, 4, 6, 16, seed=1), random(2, 4, 6, 16, seed=2), random(2, 4, 6, 24, seed=3)
    causal = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()

    def attend(q: Tensor, k: Tensor, metric: Metric) -> Tensor:
        return metric_key_bias(q, as_keys(k, None, metric, torch.float32), v, metric, causal)

    cosine = Metric(score.alpha, score.config.slope(16), distance=False)
    truth = attend(score(q), score(k), cosine)
    assert (attend(score(7 * q), score(0.1 * k), cosine) - truth).abs().max() < 1e-5
    unit = Metric(score.alpha * 16**0.5 / 2, L2Config().slope(16))
    assert (attend(score(q), score(k), unit) - truth).abs().max() < 1e-5


@torch.no_grad()
def test_sharpness_stays_within_its_bounds():
    for config, most in ((L2Config(), 50.0), (CosineConfig(), 100.0)):
        score = config.build(3, 3, 16)
        score.log_alpha.copy_(torch.tensor([-20.0, 0.0, 20.0]))
        assert torch.allclose(score.alpha, torch.tensor([1e-3, 1.0, most]))
    assert CosineConfig().build(1, 1, 16).alpha == pytest.approx(10.0)


@torch.no_grad()
def test_one_key_for_all_heads_is_that_head_repeated():
    one, many = opened(MQA), MHA.replace(projector=None).build(D)
    own = one.state_dict()
    q, k, v = own["qkv.weight"].split(one.widths)
    own["qkv.weight"] = torch.cat([q, k.repeat(4, 1), v.repeat(4, 1)])
    for name in ("score.log_m", "rope.bend", "rope.level", "rope.waves", "ball.origin", "ball.radius"):
        own[name] = own[name].repeat_interleave(4, 0)
    many.load_state_dict(own)
    assert (run(one, stream()).y - run(many, stream()).y).abs().max() < 1e-5


def silenced(mixer: MetricAttention) -> Probe:
    """No penalty on any key."""
    return Probe(mixer, {":penalty": replace(torch.zeros_like)})


@torch.no_grad()
def test_a_ball_that_holds_all_keys_changes_no_bit_and_a_small_one_does():
    mixer, x = opened(MHA), stream()
    mixer.ball.radius.fill_(1e3)
    assert torch.equal(run(mixer, x).y, run(mixer, x, probe=silenced(mixer)).y)
    mixer.ball.radius.fill_(5.0)
    assert (run(mixer, x).y - run(mixer, x, probe=silenced(mixer)).y).abs().max() > 1e-2


@torch.no_grad()
def test_a_new_ball_prunes_no_key_of_a_new_model_of_the_published_size():
    mixer = MetricMHAConfig().build(768)
    probe = Probe(mixer, {":penalty": capture})
    x = torch.nn.functional.rms_norm(random(1, 64, 768), (768,))
    run(mixer, x, probe=probe)
    penalty = probe.seen[":penalty"][0]
    assert penalty.shape == (1, 12, 64)
    assert not penalty.any()


@torch.no_grad()
@pytest.mark.parametrize("score", [MahaDiagConfig(), CosineConfig()], ids=lambda score: score.kind)
def test_a_penalty_hangs_on_the_key_alone_and_grows_with_its_distance_from_the_origin(score):
    ball, made = BallConfig(radius=1.5, beta=0.5).build(3, 16), score.build(3, 3, 16)
    for p in (ball.origin, *made.parameters()):
        p.add_(0.4 * random(*p.shape, seed=4))
    k = random(2, 3, 50, 16)
    found = ball(k, made)
    for h in range(3):
        m = made.log_m[h].exp().repeat(2) if score.diagonal else torch.ones(16)
        x = k[:, h] / k[:, h].norm(dim=-1, keepdim=True) if score.unit else k[:, h]
        away = (m * (x - ball.origin[h]).square()).sum(-1)
        assert (found[:, h] + 0.5 * (away - 1.5**2).clamp(min=0)).abs().max() < 1e-5
    assert (found < 0).any()
    assert torch.equal(ball(k[:, :, 7:8], made), found[:, :, 7:8])


@torch.no_grad()
def test_hard_pruning_removes_what_soft_pruning_leaves_two_billionths_of():
    ball, made = BallConfig(radius=2.0).build(1, 16), L2Config().build(1, 1, 16)
    k = random(1, 1, 200, 16)
    soft = ball(k, made)
    hard = BallConfig(radius=2.0, hard=True).build(1, 16)(k, made)
    far = soft < -20
    assert 0.05 < far.float().mean() < 0.95
    assert torch.equal(hard[~far], soft[~far])
    assert (hard[far] == -3e4).all()
    assert soft.min() >= -3e4


@pytest.mark.parametrize("prune", [BallConfig(radius=1e-3, beta=1e6), PairConfig(radius=1e-3)], ids=lambda p: p.kind)
def test_where_every_key_is_pruned_nothing_is_said_and_gradients_are_finite(prune):
    mixer, x = opened(MHA.replace(prune=prune)), stream()
    with torch.no_grad():
        if mixer.ball is not None:
            mixer.ball.radius.fill_(1e-3)
    if prune.kind == "pair":
        assert mixer.radius == 1e-3
    y = run(mixer, x).y
    assert not y.any()
    y.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mixer.parameters())


@torch.no_grad()
def test_a_pair_out_of_reach_does_not_change_what_a_query_reads():
    mixer, x = opened(MHA.replace(prune=PairConfig(radius=4.0)), 0.1), stream()
    probe = Probe(mixer, {":heads": capture})
    run(mixer, x, probe=probe)
    bare = mixer.config.replace(prune=BallConfig(radius=1e3)).build(D)
    bare.load_state_dict(mixer.state_dict(), strict=False)
    seen = Probe(bare, {":heads": capture})
    run(bare, x, probe=seen)
    assert (probe.seen[":heads"][0] - seen.seen[":heads"][0]).abs().max() > 1e-2


@torch.no_grad()
def test_a_cache_holds_final_keys_and_gated_values():
    mixer, x = opened(MQA), stream()
    probe = Probe(mixer, {":energy": capture})
    tokens = torch.zeros(2, T, dtype=torch.long)
    begun = DecodeState.new([mixer.init_state(2)], 2, x.device)
    state = mixer(x, Step.of(tokens, begun, ForwardOptions(probe=probe)), begun.layers[0]).state
    kv, energy = state.kv, probe.seen[":energy"][0]
    assert kv.lead == 1, "a sink in front of the tokens"
    v = mixer.qkv(x)[..., -24:] * energy
    assert (kv.values[:, 0, 1 : T + 1] - v).abs().max() < 1e-6
    k = kv.keys[:, 0, 1 : T + 1]
    assert (k[..., 16:19].sum(-1) + k[..., :16].square().sum(-1) / 4).abs().max() < 1e-5
    grown = n_bytes(MQA.build(D).init_state(1, 128)) - n_bytes(MQA.build(D).init_state(1, 64))
    assert grown == 64 * 2 * 24 * 4


def crossed(mixer: MetricAttention) -> MetricAttention:
    """Every token's key is its query turned round: two alike are far apart, and both near to one unlike them."""
    q, k, _ = mixer.qkv.weight.data.split(mixer.widths)
    k.copy_(-q)
    return mixer


def line(length: int = 40) -> Tensor:
    """Near to a line, where distances are uneven."""
    return stream(length) * (0.05 + torch.eye(D)[0])


def triangle_of(mixer: MetricAttention, x: Tensor) -> Tensor:
    return run(mixer, x).aux["metric.triangle"].mean()


@torch.no_grad()
def test_the_triangle_loss_sees_scaled_vectors_but_neither_sharpness_nor_rotation():
    mixer, x = crossed(opened(MHA)), line()
    loss = triangle_of(mixer, x)
    assert loss > 0
    mixer.score.log_alpha.add_(1.0)
    mixer.rope.bend.add_(1.0)
    assert torch.equal(triangle_of(mixer, x), loss)
    mixer.score.log_m.add_(random(*mixer.score.log_m.shape))
    assert not torch.equal(triangle_of(mixer, x), loss)


@torch.no_grad()
@pytest.mark.parametrize("score", [L2Config(), MahaDiagConfig(), CosineConfig()], ids=lambda score: score.kind)
def test_tied_maps_violate_no_triangle(score):
    tied, free = opened(MHA.replace(score=score, tied=True)), opened(MHA.replace(score=score))
    assert triangle_of(tied, line()) < 1e-9
    assert triangle_of(crossed(free), line()) > 1e-2
    assert tied.qkv.weight.shape[0] == free.qkv.weight.shape[0] - 4 * 16


def test_the_triangle_loss_reaches_queries_keys_and_metric_and_nothing_else():
    mixer = crossed(opened(MHA))
    triangle_of(mixer, line()).backward()
    reached = {name for name, p in mixer.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"qkv.weight", "score.log_m"}
    assert not mixer.qkv.weight.grad[-4 * 24 :].any(), "values"


@torch.no_grad()
def test_a_cached_call_has_no_triangle_loss_and_neither_has_a_dot_product():
    tokens = torch.zeros(2, T, dtype=torch.long)
    mixer = MHA.build(D)
    begun = DecodeState.new([mixer.init_state(2)], 2, torch.device("cpu"))
    assert not mixer(stream(), Step.of(tokens, begun), begun.layers[0]).aux
    assert not run(MHA.replace(score=DotConfig(), triangles=0).build(D), stream()).aux


@torch.no_grad()
@pytest.mark.parametrize("config", [MHA, MQA], ids=lambda c: c.kind)
def test_the_definition_says_what_runs(config, monkeypatch):
    mixer, x = opened(config.replace(prune=BallConfig(radius=2.0, beta=0.1))), stream()
    runs = run(mixer, x).y
    assert (run(opened(mixer.config.replace(fused=False)), x).y - runs).abs().max() < 1e-5 * runs.abs().max()
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert (run(mixer, x).y - runs).abs().max() < 1e-5 * runs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_says_nearly_the_same(dtype):
    mixer, x = opened(MHA, 0.1), stream()
    truth = run(mixer, x).y
    y = run(mixer.to(dtype), x.to(dtype)).y
    assert y.dtype == dtype
    assert (y.float() - truth).norm() < 2e-2 * truth.norm()


@pytest.mark.parametrize(
    ("radius", "said"), [(0.0, "radius above 0"), (-1.0, "radius above 0"), (float("nan"), "finite number")]
)
@pytest.mark.parametrize("prune", [BallConfig, PairConfig])
def test_a_radius_that_holds_no_key_is_refused(prune, radius, said):
    with pytest.raises(ConfigError, match=rf"radius is .*{said}"):
        prune(radius=radius)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prune": PairConfig(), "fused": True}, "leave fused unset"),
        ({"prune": PairConfig(), "score": DotConfig(), "triangles": 0}, "no distance to prune by"),
        ({"score": DotConfig()}, "and 0 where"),
        ({"triangles": -1}, "use 0 or more"),
        ({"tied": True, "n_kv_heads": 2}, "as many of both"),
        ({"n_kv_heads": 3}, "positive multiple"),
        ({"head_dim": 8}, "even number of 10 or more"),
        ({"head_dim": 25}, "even number"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        MHA.replace(**changes)
    with pytest.raises(ConfigError, match="beta"):
        BallConfig(beta=0.0)
