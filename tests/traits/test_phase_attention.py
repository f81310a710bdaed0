import pytest
import torch
from alone import CUTS, Alone, at_once, opened

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.kernels.attention import Documents
from positronic.probe import Probe, capture
from positronic.state import Step
from positronic.traits.phase_attention import PhaseAttentionConfig, phase_features

D, RINGS = 12, (2, 3, 5, 7, 11)
N = sum(RINGS)
SLOTS = (0, 1, 3)


def organ(slots=SLOTS, dim=16):
    return opened(PhaseAttentionConfig(slots=slots, dim=dim).build(D, RINGS))


def phases_of(batch, length, seed=0):
    return 3 * torch.randn(batch, length, N, generator=torch.Generator().manual_seed(seed))


def caller(organ, phases):
    """Runs the organ on tokens of `phases`; what it gets for x is not a number, so that reading it would show."""

    def call(step, state, t0, t1):
        y, after, _ = organ(torch.full((len(phases), t1 - t0, D), torch.nan), phases[:, t0:t1], step, state)
        return y, after

    return call


def blank(phases):
    return torch.zeros(phases.shape[:2], dtype=torch.long)


def whole(organ, phases, **wishes):
    return at_once(caller(organ, phases), blank(phases), **wishes)


def error(a, b):
    return float((a - b).abs().max() / b.abs().max())


def definition(organ, phases):
    """Token by token, slot by slot, in float64."""
    organ, phases = organ.double(), phases.double()
    y = torch.zeros(*phases.shape)
    for i, slot in enumerate(organ.config.slots):
        first, m = sum(RINGS[:slot]), RINGS[slot] + RINGS[slot + 1]
        theta = phases[..., first : first + m]
        f = torch.cat([theta.cos(), theta.sin()], -1) / m**0.5
        q, k, v = (f @ organ.qkv[i].weight.T).chunk(3, -1)
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        tau = (1 + organ.sharpness[i].exp()).log()
        for t in range(phases.shape[1]):
            p = torch.softmax(tau * (k[:, : t + 1] @ q[:, t, :, None])[..., 0], -1)
            o = (p[..., None] * v[:, : t + 1]).sum(1)
            y[:, t, first : first + m] += torch.tanh(organ.gates[i].g) * (o @ organ.out[i].weight.T)
    organ.float()
    return y


@torch.no_grad()
def test_all_slots_in_one_call_equal_the_definition():
    phases = phases_of(2, 9)
    assert error(whole(organ(), phases), definition(organ(), phases)) < 1e-5


def test_products_of_features_are_mean_cosines_of_phase_differences():
    a, b = phases_of(1, 2).double()[0]
    assert (phase_features(a) * phase_features(b)).sum().item() == pytest.approx((a - b).cos().mean().item(), abs=1e-6)
    assert phase_features(a).square().sum().item() == pytest.approx(1, abs=1e-6)


def test_a_common_shift_of_all_tokens_leaves_the_products_of_features():
    f, shifted = phase_features(phases_of(1, 9)), phase_features(phases_of(1, 9) + 1.7)
    assert (f @ f.mT - shifted @ shifted.mT).abs().max() < 1e-6
    assert (f - shifted).abs().max() > 0.1, "the features themselves must turn, or nothing was tested"


@torch.no_grad()
def test_one_token_alone_recalls_its_own_value_exactly():
    m, phases = organ(), phases_of(2, 1)
    probe = Probe(m, {"*:heads": capture})
    whole(m, phases, probe=probe)
    values = [
        qkv(phase_features(phases[..., first:end])).chunk(3, -1)[2]
        for (first, end), qkv in zip(m.spans, m.qkv, strict=True)
    ]
    assert torch.equal(probe.seen[":heads"][0], torch.stack(values, 1))


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 32])
@pytest.mark.parametrize("cut", CUTS)
def test_feeding_in_parts_equals_feeding_at_once(cut, capacity):
    m, phases = organ(), phases_of(2, 17)
    alone = Alone(m, caller(m, phases), 2, capacity=capacity)
    parts = torch.cat([alone.feed(piece) for piece in blank(phases).split(list(cut), 1)], 1)
    assert error(parts, whole(m, phases)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kept", range(6))
def test_committing_a_part_equals_never_having_fed_the_rest(kept):
    m, phases = organ(), phases_of(2, 9 + 5 + 4)
    straight = torch.cat([phases[:, : 9 + kept], phases[:, 14:]], 1)
    drafted, plain = Alone(m, caller(m, phases), 2), Alone(m, caller(m, straight), 2)
    drafted.feed(blank(phases)[:, :9])
    drafted.feed(blank(phases)[:, :5], keep_rollback=True)
    drafted.commit(kept)
    drafted.fed = 14  # what follows is not what the draft said
    plain.feed(blank(phases)[:, :9])
    if kept:
        plain.feed(blank(phases)[:, :kept])
    assert error(drafted.feed(blank(phases)[:, :4]), plain.feed(blank(phases)[:, :4])) < 1e-5


@torch.no_grad()
def test_documents_do_not_see_each_other():
    m, phases = organ(), phases_of(2, 17)
    segments = torch.tensor([[0] * 6 + [1] * 11] * 2)
    apart = torch.cat([whole(m, phases[:, :6]), whole(m, phases[:, 6:])], 1)
    assert error(whole(m, phases, segments=segments), apart) < 1e-5
    alone = Alone(m, caller(m, phases), 2)
    pieces = zip(blank(phases).split([4, 13], 1), segments.split([4, 13], 1), strict=True)
    assert error(torch.cat([alone.feed(piece, segments=s) for piece, s in pieces], 1), apart) < 1e-5
    assert error(whole(m, phases), apart) > 1e-2, "the documents must matter, or nothing was tested"


@torch.no_grad()
def test_the_documents_of_the_models_attention_are_used_as_they_are():
    m, phases = organ(), phases_of(2, 17)
    segments = torch.tensor([[0] * 6 + [1] * 11] * 2)
    tokens = blank(phases)
    shared = Step(tokens, tokens, shared={"documents": Documents.of(segments)})  # its own segments name one document
    assert torch.equal(m(phases, phases, shared).y, whole(m, phases, segments=segments))


@torch.no_grad()
def test_padding_changes_nothing():
    m, phases = organ(), phases_of(2, 13)
    valid = torch.tensor([[False] * 4 + [True] * 9] * 2)
    clean = whole(m, phases[:, 4:])
    assert error(whole(m, phases, valid=valid)[:, 4:], clean) < 1e-5
    alone = Alone(m, caller(m, phases), 2)
    pieces = zip(blank(phases).split([6, 7], 1), valid.split([6, 7], 1), strict=True)
    padded = torch.cat([alone.feed(piece, valid=v) for piece, v in pieces], 1)
    assert error(padded[:, 4:], clean) < 1e-5


@torch.no_grad()
def test_the_future_cannot_change_the_past():
    m, phases = organ(), phases_of(2, 17)
    for t in (1, 8, 16):
        other = torch.cat([phases[:, :t], phases_of(2, 17 - t, seed=9)], 1)
        assert torch.equal(whole(m, phases)[:, :t], whole(m, other)[:, :t]), f"currents before {t} moved"


@torch.no_grad()
def test_only_the_rings_of_its_slots_get_a_current():
    y = whole(organ(slots=(1, 3)), phases_of(2, 9))
    touched = y.abs().amax((0, 1)) > 0
    assert touched.tolist() == [False] * RINGS[0] + [True] * (N - RINGS[0])


def test_a_new_organ_is_silent_and_already_learns():
    torch.manual_seed(0)
    m = PhaseAttentionConfig(slots=SLOTS, dim=16).build(D, RINGS)
    y = whole(m, phases_of(2, 9))
    assert torch.equal(y, torch.zeros(2, 9, N))
    (y * torch.randn(2, 9, N)).sum().backward()
    silent = [name for name, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_every_parameter_of_an_open_organ_gets_gradient():
    m = organ()
    whole(m, phases_of(2, 9)).square().sum().backward()
    silent = [name for name, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize("tau", [0.01, 8.0, 900.0])
def test_the_sharpness_starts_where_it_is_asked_to(tau):
    m = PhaseAttentionConfig(slots=(0,), tau=tau).build(D, RINGS)
    assert torch.nn.functional.softplus(m.sharpness).item() == pytest.approx(tau, rel=1e-4)


@torch.no_grad()
def test_autocast_moves_the_current_by_its_own_rounding_only():
    m, phases = organ(), phases_of(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        low = whole(m, phases)
    assert error(low.float(), whole(m, phases)) < 2e-2


def test_ten_layers_have_the_specified_size():
    m = PhaseAttentionConfig().build(768, (4, 8, 16, 32, 64, 128, 256))
    assert 10 * sum(p.numel() for p in m.parameters()) == 1_129_020


@pytest.mark.parametrize("wrong", [{"slots": ()}, {"slots": (1, 1)}, {"slots": (-1,)}, {"dim": 8}, {"tau": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PhaseAttentionConfig(**wrong)


@pytest.mark.parametrize("rings", [(4, 8, 16, 32, 64, 128), (4,), ()])
def test_a_slot_between_rings_that_are_not_there_is_refused(rings):
    with pytest.raises(ConfigError, match="add rings"):
        PhaseAttentionConfig().build(D, rings)


def test_config_to_json_to_config_is_identity():
    config = PhaseAttentionConfig(slots=(0, 2), dim=48, tau=3.0)
    assert Config.from_json(config.to_json()) == config
