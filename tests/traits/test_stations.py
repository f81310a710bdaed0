"""Stations: what a token writes and reads is decided by where its tips grew, and by nothing behind it in the row."""

import pytest
import torch
from alone import CUTS, Alone, at_once, opened
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.nn.init import initialize
from positronic.probe import Probe, capture
from positronic.state import Step
from positronic.traits.stations import Stations, StationsConfig, anchors

D, N, P, E, V = 32, 9, 5, 3, 16
AXES = (3,) * N


def organ(**changes) -> Stations:
    return opened(StationsConfig(**{"stations": P, "per_station": E, "dim": V} | changes).build(D, AXES))


def vectors_of(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, tokens, D, generator=torch.Generator().manual_seed(seed))


def tips_of(x: Tensor) -> Tensor:
    """Positions (B, T, N, 3) that follow from the vectors, inside the ball."""
    return torch.tanh(x[..., : 3 * N].unflatten(-1, (N, 3))) / 2


def reading(stations: Stations, x: Tensor, tips: Tensor | None = None):
    """What `Alone` calls: x (B, T, D) and its tips, in pieces."""
    positions = tips_of(x) if tips is None else tips

    def call(step: Step, state, begin: int, end: int):
        y, after, _ = stations(x[:, begin:end], positions[:, begin:end], step, state)
        return y, after

    return call


def tokens_of(rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, tokens, dtype=torch.long)


def whole(stations: Stations, x: Tensor, tips: Tensor | None = None, **wishes) -> Tensor:
    return at_once(reading(stations, x, tips), tokens_of(*x.shape[:2]), **wishes)


@torch.no_grad()
def engagement(stations: Stations, tips: Tensor) -> Tensor:
    """(B, T, P) as the tap shows it."""
    probe = Probe(stations, {":engagement": capture})
    whole(stations, torch.zeros(*tips.shape[:2], D), tips, probe=probe)
    return probe.seen[":engagement"][0]


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def test_a_layer_has_the_parameters_and_the_state_of_the_specification():
    stations = StationsConfig().build(768, (3,) * 96)
    assert sum(p.numel() for p in stations.parameters()) == 482_833
    state = stations.init_state(1)
    assert state.s_in.numel() + state.s_out.numel() == 7168
    assert state.stores.dtype == torch.float32


def test_keys_start_at_unit_scale_gates_closed_and_reach_at_a_third():
    stations = StationsConfig().build(64, AXES)
    assert abs(stations.keys.std() - 1) < 0.1
    assert abs(stations.decoders.weight.std() / 0.02 - 1) < 0.1
    assert stations.gate.g.abs().max() == 0
    assert float(stations.reach.exp().detach()) == pytest.approx(0.35)


def test_anchors_are_halton_points_of_the_ball_away_from_each_other():
    points = anchors(16)
    assert points.norm(dim=-1).max() <= 0.8
    assert points[0].tolist() == pytest.approx([1.6 * x - 0.8 for x in (21 / 32, 5 / 27, 9 / 25)])
    assert torch.cdist(points, points).add(torch.eye(16)).min() > 0.2
    assert torch.equal(anchors(40)[:16], points)


def test_anchors_are_never_saved_and_made_again_when_a_model_is_filled():
    stations = StationsConfig().build(D, AXES)
    assert "anchors" not in stations.state_dict()
    expected = anchors(16).float()
    assert torch.equal(stations.anchors, expected)
    with torch.device("meta"):
        empty = nn.ModuleDict({"organ": StationsConfig().build(D, AXES)})
    empty.to_empty(device="cpu")
    initialize(empty, 3)
    assert torch.equal(empty["organ"].anchors, expected)


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
def test_feeding_in_parts_equals_feeding_at_once(cut):
    stations, x = organ(), vectors_of(2, 17)
    alone = Alone(stations, reading(stations, x), 2)
    parts = torch.cat([alone.feed(piece) for piece in tokens_of(2, 17).split(list(cut), 1)], 1)
    assert relative_error(parts, whole(stations, x)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("cut", [(16,), (1, 15), (3, 13), (1,) * 16])
def test_however_a_call_is_split_the_same_is_written(cut):
    stations, x = organ(), vectors_of(2, 16)
    one, other = (Alone(stations, reading(stations, x), 2) for _ in range(2))
    one.feed(tokens_of(2, 16))
    for piece in tokens_of(2, 16).split(list(cut), 1):
        other.feed(piece)
    assert relative_error(other.state.layers[0].stores, one.state.layers[0].stores) < 1e-6


@torch.no_grad()
def test_the_first_token_reads_exactly_nothing_and_the_second_something():
    for tokens in (5, 40):
        y = whole(organ(), vectors_of(2, tokens))
        assert y[:, 0].abs().max() == 0
        assert y[:, 1].abs().max() > 0


@torch.no_grad()
def test_the_second_token_reads_what_the_first_wrote():
    """The equations by hand, one station and specialist after another."""
    stations, x = organ(write_max=0.4), vectors_of(1, 2)
    tips = tips_of(x)[0]
    first, second = (stations.project.weight @ token for token in x[0])
    q, v_in, v_out = (first[i * V :][:V] for i in range(3))
    expected = torch.zeros(D)
    for s in range(P):
        gap = (tips - stations.anchors[s]).square().sum(-1)  # (2, N)
        eng = torch.exp(-gap / (2 * stations.reach.exp() ** 2)).mean(-1)
        w = 0.4 * first[3 * V + s].sigmoid() * eng[0] * (stations.keys[s] @ q / 4).softmax(0)
        s_in, s_out = w[:, None] * v_in.tanh(), w[:, None] * v_out.tanh()  # (E, V)
        alpha = ((stations.keys[s] + s_in) @ second[:V] / 4).softmax(0)
        decoded = stations.decoders.weight[:, s * V : (s + 1) * V] @ (alpha @ s_out)
        expected += stations.gate.g[s].tanh() * eng[1] * decoded
    assert relative_error(whole(stations, x)[0, 1], expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("tokens", [10, 40])
def test_stations_out_of_reach_neither_write_nor_speak(tokens):
    stations, x = organ(), vectors_of(2, tokens)
    stations.reach.fill_(-1.0)
    stations.anchors.add_(100.0)
    assert engagement(stations, tips_of(x)).abs().max() == 0
    alone = Alone(stations, reading(stations, x), 2)
    assert alone.feed(tokens_of(2, tokens)).abs().max() == 0
    assert alone.state.layers[0].stores.abs().max() == 0


@torch.no_grad()
def test_a_station_far_away_is_left_alone_while_near_ones_are_written():
    stations, x = organ(), vectors_of(1, 12)
    stations.reach.fill_(-1.0)
    stations.anchors[2] = 100.0
    alone = Alone(stations, reading(stations, x), 1)
    alone.feed(tokens_of(1, 12))
    written = alone.state.layers[0].stores.abs().amax((0, 1, 3, 4))
    assert written[2] == 0
    assert (written[[0, 1, 3, 4]] > 0).all()


@torch.no_grad()
def test_tips_that_come_nearer_engage_a_station_more():
    stations, start = organ(), tips_of(vectors_of(1, 1))
    for s in range(P):
        way = [start + t * (stations.anchors[s] - start) for t in torch.linspace(0, 1, 20)]
        engaged = torch.stack([engagement(stations, tips)[0, 0, s] for tips in way])
        assert (engaged.diff() > 0).all()
        assert engaged[0] > 0
        assert engaged[-1] == 1


@torch.no_grad()
def test_no_token_writes_more_than_its_engagement_allows():
    stations, x = organ(), 10 * vectors_of(2, 12)
    empty = stations.init_state(2)
    stores = empty.stores
    alone = Alone(stations, reading(stations, x), 2)
    for t in range(12):
        alone.feed(tokens_of(2, 1))
        after = alone.state.layers[0].stores
        most = 0.5 * engagement(stations, tips_of(x))[:, t, None, :, None, None] * (1 + stores.abs())
        assert ((after - stores).abs() <= most).all()
        stores = after
    assert 0 < stores.abs().max() < 1


@torch.no_grad()
def test_growth_decides_who_is_read():
    """The same stream, other tips: other stations are written, and other words come back."""
    stations, x = organ(), vectors_of(1, 12)
    stations.reach.fill_(-1.5)
    near = [stations.anchors[s].expand(1, 12, N, 3) for s in (0, 1)]
    a, b = (Alone(stations, reading(stations, x, tips), 1) for tips in near)
    one, other = a.feed(tokens_of(1, 12)), b.feed(tokens_of(1, 12))
    norms = [state.state.layers[0].stores.abs().sum((0, 1, 3, 4)) for state in (a, b)]
    assert (norms[0].argmax(), norms[1].argmax()) == (0, 1)
    assert relative_error(one, other) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("accepted", [(5, 5, 5), (1,) * 15, (2, 3, 1, 4, 5), (3, 0, 2, 5, 5)])
def test_committing_drafts_of_any_part_changes_no_bit(accepted):
    """Every call is five tokens wide, as exact decoding runs: what is not accepted is taken back."""
    stations, x = organ(), vectors_of(1, 20)
    plain, drafted = (Alone(stations, reading(stations, x), 1) for _ in range(2))
    expected, found = [], []
    for _ in range(3):
        expected.append(plain.feed(tokens_of(1, 5), keep_rollback=True))
        plain.commit(5)
    for kept in accepted:
        found.append(drafted.feed(tokens_of(1, 5), keep_rollback=True)[:, :kept])
        drafted.commit(kept)
    assert torch.equal(torch.cat(found, 1), torch.cat(expected, 1))
    assert torch.equal(drafted.state.layers[0].stores, plain.state.layers[0].stores)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [10, 40])
def test_frozen_writes_leave_the_stores_and_make_each_token_its_own(tokens):
    stations, begun = organ(), vectors_of(2, 9)
    x = torch.cat([begun, vectors_of(2, tokens, seed=2)], 1)
    back = torch.cat([begun, x[:, 9:].flip(1)], 1)
    forward, backward = (Alone(stations, reading(stations, inputs), 2) for inputs in (x, back))
    forward.feed(tokens_of(2, 9)), backward.feed(tokens_of(2, 9))
    before = forward.state.layers[0].stores
    y = forward.feed(tokens_of(2, tokens), write_memory=False)
    mirrored = backward.feed(tokens_of(2, tokens), write_memory=False)
    assert torch.equal(forward.state.layers[0].stores, before)
    assert y.abs().max() > 0
    assert relative_error(mirrored.flip(1), y) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("tokens", [17, 90])
def test_documents_do_not_read_each_other(tokens):
    stations, x = organ(), vectors_of(2, tokens)
    segments = (torch.arange(tokens) >= 6).long().expand(2, -1)
    apart = torch.cat([whole(stations, x[:, :6]), whole(stations, x[:, 6:])], 1)
    assert relative_error(whole(stations, x, segments=segments), apart) < 1e-5
    alone = Alone(stations, reading(stations, x), 2)
    pieces = zip(tokens_of(2, tokens).split([4, tokens - 4], 1), segments.split([4, tokens - 4], 1), strict=True)
    assert relative_error(torch.cat([alone.feed(p, segments=s) for p, s in pieces], 1), apart) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("pads", [4, 30])
def test_padding_changes_nothing(pads):
    stations, x = organ(), vectors_of(2, 9)
    padded = torch.cat([vectors_of(2, pads, seed=3), x], 1)
    valid = (torch.arange(pads + 9) >= pads).expand(2, -1)
    assert relative_error(whole(stations, padded, valid=valid)[:, pads:], whole(stations, x)) < 1e-5


@torch.no_grad()
def test_another_row_changes_no_bit_of_this_one():
    stations, x, other = organ(), vectors_of(2, 12), vectors_of(2, 12, seed=5)
    other[0] = x[0]
    a, b = (Alone(stations, reading(stations, inputs), 2) for inputs in (x, other))
    for piece in tokens_of(2, 12).split(4, 1):
        assert torch.equal(a.feed(piece)[0], b.feed(piece)[0])
    a, b = a.state.layers[0], b.state.layers[0]
    assert torch.equal(a.stores[0], b.stores[0])
    assert not torch.equal(a.stores[1], b.stores[1])


def test_a_closed_gate_is_silent_while_its_content_learns():
    stations, x = StationsConfig(stations=P, per_station=E, dim=V).build(D, AXES), vectors_of(2, 40)
    tips = tips_of(x).requires_grad_()
    y = whole(stations, x, tips)
    assert y.abs().max() == 0
    (y * vectors_of(2, 40, seed=1)).sum().backward()
    for name, p in stations.named_parameters():
        assert p.grad.abs().max() > 0, name
    assert tips.grad[:, 1:].abs().amax((-1, -2)).min() > 0, "growth learns whom to reach"


def test_training_in_chunks_has_the_gradients_of_the_loop(monkeypatch):
    x, valid = vectors_of(2, 90), torch.ones(2, 90, dtype=torch.bool)
    valid[0, 70:] = valid[1, :8] = False

    def run():
        stations, given, tips = organ(), x.clone().requires_grad_(), tips_of(x).requires_grad_()
        y = whole(stations, given, tips, valid=valid)
        y.square().sum().backward()
        return [y.detach(), given.grad, tips.grad, *(p.grad for p in stations.parameters())]

    chunked = run()
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    for a, b in zip(chunked, run(), strict=True):
        assert relative_error(a, b) < 1e-5


def test_training_keeps_no_differences_to_the_anchors():
    stations, x, kept = organ(), vectors_of(2, 64), {}
    parameters = {p.data_ptr() for p in stations.parameters()}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.data_ptr()] = saved.untyped_storage().nbytes() / 4
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y = whole(stations, x.requires_grad_(), tips_of(x.detach()).requires_grad_())
    assert y.requires_grad
    numbers = sum(n for place, n in kept.items() if place not in parameters) / x[..., 0].numel()
    assert numbers < D + 3 * N + 3 * V + 3 * P + 10, numbers


def test_taps_show_engagement_choice_memory_and_the_gated_readout():
    stations, x = organ(), vectors_of(2, 9)
    model = nn.ModuleDict({"organ": stations})
    probe = Probe(model, {"*": capture})
    y = whole(stations, x, probe=probe)
    seen = {name: values[0] for name, values in probe.seen.items()}
    assert torch.equal(seen["organ:current"], y)
    assert seen["organ:engagement"].shape == (2, 9, P)
    assert seen["organ:choice"].shape == (2, 9, P, E)
    assert seen["organ:memory"].shape == (2, 2, P, E, V)


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="16, 7 and 32"):
        StationsConfig(stations=0)
    with pytest.raises(ConfigError, match="write_max"):
        StationsConfig(write_max=1.0)
    assert Config.from_json(StationsConfig(dim=8).to_json()) == StationsConfig(dim=8)
