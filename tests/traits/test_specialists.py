import pytest
import torch
from alone import CUTS, Alone, at_once, opened
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.probe import Probe, capture
from positronic.state import Step
from positronic.traits.specialists import Specialists, SpecialistsConfig

D, RINGS = 32, (4, 8, 16)


def organ(**changes) -> Specialists:
    return opened(SpecialistsConfig(per_ring=5, dim=16, **changes).build(D, RINGS))


def vectors_of(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, tokens, D, generator=torch.Generator().manual_seed(seed))


def reading(specialists: Specialists, x: Tensor):
    """What `Alone` calls: x (B, T, D), in pieces."""

    def call(step: Step, state, begin: int, end: int):
        y, after, _ = specialists(x[:, begin:end], x.new_zeros(()), step, state)
        return y, after

    return call


def tokens_of(rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, tokens, dtype=torch.long)


def whole(specialists: Specialists, x: Tensor, **wishes) -> Tensor:
    return at_once(reading(specialists, x), tokens_of(*x.shape[:2]), **wishes)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def test_a_layer_has_the_parameters_of_the_specification():
    rings = (4, 8, 16, 32, 64, 128, 256)
    specialists = SpecialistsConfig().build(768, rings)
    per_ring = [3 * 768 * 32 + 768 * 7 + 7 * 32 + 7 * 32 * n + 7 for n in rings]
    assert sum(p.numel() for p in specialists.parameters()) == sum(per_ring) == 669_137


def test_a_row_has_the_state_of_the_specification():
    state = SpecialistsConfig().build(768, (4, 8, 16, 32, 64, 128, 256)).init_state(1)
    assert state.s_in.numel() + state.s_out.numel() == 3136
    assert state.stores.dtype == torch.float32


def test_keys_start_at_unit_scale_and_gates_closed():
    specialists = SpecialistsConfig().build(64, (32, 64))
    assert abs(specialists.keys.std() - 1) < 0.1
    assert abs(specialists.decoders.weight.std() / 0.02 - 1) < 0.1
    assert all(gate.g.abs().max() == 0 for gate in specialists.gates)


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
def test_feeding_in_parts_equals_feeding_at_once(cut):
    specialists, x = organ(), vectors_of(2, 17)
    alone = Alone(specialists, reading(specialists, x), 2)
    parts = torch.cat([alone.feed(piece) for piece in tokens_of(2, 17).split(list(cut), 1)], 1)
    assert relative_error(parts, whole(specialists, x)) < 1e-5


@torch.no_grad()
def test_the_first_token_emits_exactly_nothing_and_the_second_something():
    for tokens in (5, 40):
        y = whole(organ(), vectors_of(2, tokens))
        assert y[:, 0].abs().max() == 0
        assert y[:, 1].abs().max() > 0


@torch.no_grad()
def test_the_second_token_reads_what_the_first_wrote():
    """The equations by hand, one ring and specialist after another."""
    specialists, x = organ(write_max=0.4), vectors_of(1, 2)
    first, second = (specialists.project.weight @ token for token in x[0])
    expected = torch.zeros(sum(RINGS))
    for r, oscillators in enumerate(torch.arange(sum(RINGS)).split(RINGS)):
        q, v_in, v_out = (first[i * 48 + r * 16 :][:16] for i in range(3))
        keys, write = specialists.keys[r], first[144 + 5 * r :][:5]
        w = 0.4 * write.sigmoid() * (keys @ q / 4).softmax(0)
        s_in, s_out = w[:, None] * v_in.tanh(), w[:, None] * v_out.tanh()  # (E, V)
        a = (keys + s_in) @ second[r * 16 :][:16] / 4
        pi = a[a.topk(2).indices].softmax(0)
        for share, e in zip(pi, a.topk(2).indices, strict=True):
            said = specialists.decoders.weight[oscillators][:, 16 * e : 16 * e + 16] @ s_out[e]
            expected[oscillators] += share * specialists.gates[r].g[e].tanh() * said
    assert relative_error(whole(specialists, x)[0, 1], expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("accepted", [(5, 5, 5), (1,) * 15, (2, 3, 1, 4, 5), (3, 0, 2, 5, 5)])
def test_committing_drafts_of_any_part_changes_no_bit(accepted):
    """Every call is five tokens wide, as exact decoding runs: what is not accepted is taken back."""
    specialists, x = organ(), vectors_of(1, 20)
    plain, drafted = (Alone(specialists, reading(specialists, x), 1) for _ in range(2))
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
@pytest.mark.parametrize("kept", range(6))
def test_committing_equals_replaying_with_padding_in_place_of_the_rest(kept):
    specialists, x = organ(), vectors_of(2, 14)
    begun, draft = tokens_of(2, 9), tokens_of(2, 5)
    drafted, replayed = (Alone(specialists, reading(specialists, x), 2) for _ in range(2))
    drafted.feed(begun), replayed.feed(begun)
    drafted.feed(draft, keep_rollback=True, segments=torch.tensor([[0, 0, 1, 1, 2]] * 2))
    drafted.commit(kept)
    valid = (torch.arange(5) < kept).expand(2, 5)
    replayed.feed(draft, valid=valid, segments=torch.tensor([[0, 0, 1, 1, 2]] * 2))
    a, b = drafted.state.layers[0], replayed.state.layers[0]
    assert torch.equal(a.stores, b.stores)
    assert a.rollback is None


@torch.no_grad()
def test_another_row_changes_no_bit_of_this_one():
    specialists, x, other = organ(), vectors_of(2, 12), vectors_of(2, 12, seed=5)
    other[0] = x[0]
    a, b = (Alone(specialists, reading(specialists, inputs), 2) for inputs in (x, other))
    for piece in tokens_of(2, 12).split(4, 1):
        assert torch.equal(a.feed(piece)[0], b.feed(piece)[0])
    a, b = a.state.layers[0], b.state.layers[0]
    assert torch.equal(a.stores[0], b.stores[0])
    assert not torch.equal(a.stores[1], b.stores[1])


@torch.no_grad()
def test_a_carried_state_equals_one_long_run():
    specialists, x = organ(), vectors_of(2, 120)
    alone = Alone(specialists, reading(specialists, x), 2)
    parts = torch.cat([alone.feed(tokens_of(2, length)) for length in (50, 3, 67)], 1)
    assert relative_error(parts, whole(specialists, x)) < 1e-5


@torch.no_grad()
def test_selected_rows_continue_as_their_own():
    specialists, x = organ(), vectors_of(3, 12)
    rows = torch.tensor([2, 0, 2])
    trunk, branch = (Alone(specialists, reading(specialists, inputs), 3) for inputs in (x, x[rows]))
    trunk.feed(tokens_of(3, 8))
    branch.state, branch.fed = trunk.state.select(rows), 8
    assert torch.equal(branch.feed(tokens_of(3, 4)), trunk.feed(tokens_of(3, 4))[rows])


@torch.no_grad()
@pytest.mark.parametrize("tokens", [10, 40])
def test_frozen_writes_leave_the_stores_and_make_each_token_its_own(tokens):
    specialists, begun = organ(), vectors_of(2, 9)
    x = torch.cat([begun, vectors_of(2, tokens, seed=2)], 1)
    back = torch.cat([begun, x[:, 9:].flip(1)], 1)
    forward, backward = (Alone(specialists, reading(specialists, inputs), 2) for inputs in (x, back))
    forward.feed(tokens_of(2, 9)), backward.feed(tokens_of(2, 9))
    before = forward.state.layers[0].stores
    y = forward.feed(tokens_of(2, tokens), write_memory=False)
    mirrored = backward.feed(tokens_of(2, tokens), write_memory=False)
    assert torch.equal(forward.state.layers[0].stores, before)
    assert y.abs().max() > 0
    assert relative_error(mirrored.flip(1), y) < 1e-5
    assert whole(specialists, x, write_memory=False).abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("pads", [4, 30])
def test_padding_changes_nothing(pads):
    specialists = organ()
    x = vectors_of(2, 9)
    padded = torch.cat([vectors_of(2, pads, seed=3), x], 1)
    valid = (torch.arange(pads + 9) >= pads).expand(2, -1)
    assert relative_error(whole(specialists, padded, valid=valid)[:, pads:], whole(specialists, x)) < 1e-5
    a, b = (Alone(specialists, reading(specialists, inputs), 2) for inputs in (padded, x))
    a.feed(tokens_of(2, pads + 9), valid=valid), b.feed(tokens_of(2, 9))
    assert relative_error(a.state.layers[0].stores, b.state.layers[0].stores) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("tokens", [17, 90])
def test_documents_do_not_read_each_other(tokens):
    specialists, x = organ(), vectors_of(2, tokens)
    segments = (torch.arange(tokens) >= 6).long().expand(2, -1)
    apart = torch.cat([whole(specialists, x[:, :6]), whole(specialists, x[:, 6:])], 1)
    assert relative_error(whole(specialists, x, segments=segments), apart) < 1e-5
    alone = Alone(specialists, reading(specialists, x), 2)
    pieces = zip(tokens_of(2, tokens).split([4, tokens - 4], 1), segments.split([4, tokens - 4], 1), strict=True)
    assert relative_error(torch.cat([alone.feed(p, segments=s) for p, s in pieces], 1), apart) < 1e-5
    assert alone.state.segment.tolist() == [1, 1]


@torch.no_grad()
def test_stores_stay_inside_the_unit_cube():
    specialists = organ()
    x = 10 * vectors_of(2, 300)
    alone = Alone(specialists, reading(specialists, x), 2)
    for piece in tokens_of(2, 300).split(100, 1):
        alone.feed(piece)
    assert 0.5 < alone.state.layers[0].stores.abs().max() < 1


@torch.no_grad()
def test_equal_specialists_are_read_from_the_lowest():
    specialists = organ()
    nn.init.constant_(specialists.keys, 0.1)
    holder = nn.ModuleDict({"organ": specialists})
    probe = Probe(holder, {"*:choice": capture})
    whole(specialists, vectors_of(1, 1), probe=probe)
    assert probe.seen["organ:choice"][0][0, 0].tolist() == [[0.5, 0.5, 0, 0, 0]] * len(RINGS)


@torch.no_grad()
def test_taps_show_current_choice_and_memory():
    specialists, x = organ(), vectors_of(2, 9)
    holder = nn.ModuleDict({"organ": specialists})
    probe = Probe(holder, {"*": capture})
    y = whole(specialists, x, probe=probe)
    seen = {name: values[0] for name, values in probe.seen.items()}
    assert torch.equal(seen["organ:current"], y)
    assert seen["organ:choice"].shape == (2, 9, 3, 5)
    assert seen["organ:memory"].shape == (2, 2, 3, 5, 16)


def test_a_closed_gate_is_silent_while_its_content_learns():
    specialists = SpecialistsConfig(per_ring=5, dim=16).build(D, RINGS)
    y = whole(specialists, vectors_of(2, 40))
    assert y.abs().max() == 0
    (y * vectors_of(2, 40, seed=1)[..., : sum(RINGS)]).sum().backward()
    for name, p in specialists.named_parameters():
        assert p.grad.abs().max() > 0, name
    rows = specialists.project.weight.grad.split([3 * 16] * 3 + [15])
    assert all(part.abs().max() > 0 for part in rows), "queries, values in, values out, write logits"


def test_training_in_chunks_has_the_gradients_of_the_loop(monkeypatch):
    x, valid = vectors_of(2, 90), torch.ones(2, 90, dtype=torch.bool)
    valid[0, 70:] = valid[1, :8] = False
    segments = torch.tensor([[0] * 40 + [1] * 50, [0] * 8 + [1] * 33 + [2] * 49])

    def run():
        specialists, given = organ(), x.clone().requires_grad_()
        y = whole(specialists, given, valid=valid, segments=segments)
        y.square().sum().backward()
        return [y.detach(), given.grad, *(p.grad for p in specialists.parameters())]

    chunked = run()
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    for a, b in zip(chunked, run(), strict=True):
        assert relative_error(a, b) < 1e-5


def test_training_keeps_the_projections_and_little_else():
    specialists, x, kept = organ(), vectors_of(2, 64), {}
    parameters = {p.data_ptr() for p in specialists.parameters()}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.data_ptr()] = saved.untyped_storage().nbytes() / 4
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        whole(specialists, x)
    numbers = sum(size for where, size in kept.items() if where not in parameters) / x[..., 0].numel()
    projections = sum(specialists.widths)
    assert projections <= numbers < 1.5 * projections + D, f"{numbers} numbers a token, projections are {projections}"


@torch.no_grad()
def test_autocast_leaves_the_stores_in_float32():
    specialists, x = organ(), vectors_of(2, 40)
    alone = Alone(specialists, reading(specialists, x), 2)
    with torch.autocast("cpu", torch.bfloat16):
        alone.feed(tokens_of(2, 40))
        projected = specialists.project(x)
    assert projected.dtype == torch.bfloat16
    fresh, step = torch.zeros(2, 40, dtype=torch.bool), Step.of(tokens_of(2, 40))
    _, expected = specialists._consult(projected, fresh, specialists.init_state(2).stores, step)
    assert alone.state.layers[0].stores.dtype == torch.float32
    assert torch.equal(alone.state.layers[0].stores, expected.stores)


@pytest.mark.parametrize("wrong", [{"per_ring": 0}, {"dim": 0}, {"top": 0}, {"top": 8}, {"write_max": 1.0}])
def test_impossible_specialists_are_refused(wrong):
    with pytest.raises(ConfigError):
        SpecialistsConfig(**wrong)


def test_config_to_json_to_config_is_identity():
    config = SpecialistsConfig(per_ring=3, top=1, write_max=0.25)
    assert Config.from_json(config.to_json()) == config
