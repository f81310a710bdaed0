from dataclasses import replace

import pytest
import torch
from alone import CUTS, Alone, at_once, opened
from torch import Tensor

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.nn import init
from positronic.nn.stack import SharedParts
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step
from positronic.traits.ring_controller import ControllerState, RingControllerConfig, observe

RINGS = (2, 3, 5, 8)
N, R = sum(RINGS), len(RINGS)
LONG = 45
"""Tokens of a call that runs in chunks, and is no whole number of them."""


def decoder(scale: float = 0.3) -> SharedParts:
    return SharedParts({"ring_controller": opened(RingControllerConfig().build_shared(50, RINGS), scale)})


def layer(eta: float = 0.25):
    return RingControllerConfig(eta=eta).build(12, RINGS)


def phases_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(batch, length, N, generator=torch.Generator().manual_seed(seed))


def frequencies_of(phases: Tensor) -> Tensor:
    return torch.tanh(phases.roll(1, -1))


def caller(organ, phases: Tensor):
    """Runs the controllers on tokens of `phases`; gives the four modulations as (B, t, 4, R)."""

    def call(step, state, t0, t1):
        part = phases[:, t0:t1]
        modulation, after = organ(part, frequencies_of(part), step, state)
        return torch.stack(modulation, 2), after

    return call


def blank(phases: Tensor) -> Tensor:
    return torch.zeros(phases.shape[:2], dtype=torch.long)


def whole(phases: Tensor, shared: SharedParts | None = None, **wishes) -> Tensor:
    return at_once(caller(layer(), phases), blank(phases), shared or decoder(), **wishes)


def streaming(phases: Tensor, shared: SharedParts | None = None) -> Alone:
    organ = layer()
    return Alone(organ, caller(organ, phases), len(phases), shared or decoder())


def feed(alone: Alone, documents: Tensor, **wishes) -> Tensor:
    """Feed as many tokens as `documents` (B, t) has, a new document where its number is another than before."""
    before = getattr(alone, "document", torch.zeros_like(documents[:, 0]))
    state = alone.state
    alone.state = replace(state, began=torch.where(documents[:, 0] == before, state.began, state.position))
    alone.document = documents[:, -1]
    return alone.feed(torch.zeros_like(documents), segments=documents, **wishes)


def memory(alone: Alone) -> ControllerState:
    return alone.state.layers[0]


def same_memory(a: Alone, b: Alone) -> bool:
    pairs = zip(*((m.weight, m.last) for m in (memory(a), memory(b))), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def definition(phases: Tensor, shared: SharedParts, documents: Tensor, valid: Tensor) -> Tensor:
    """Row by row, ring by ring, token by token, in float64."""
    d, eta = shared["ring_controller"].decoder.double(), 0.25
    x = observe(phases.double(), frequencies_of(phases).double(), RINGS)
    out = torch.zeros(*phases.shape[:2], 4, R)
    for b in range(len(x)):
        for r in range(R):
            w, last, document = torch.zeros(4, 5).double(), torch.zeros(5).double(), 0
            for t in range(x.shape[1]):
                if not valid[b, t]:
                    continue
                if documents[b, t] != document:
                    w, last, document = torch.zeros(4, 5).double(), torch.zeros(5).double(), documents[b, t]
                e = x[b, t, r, :4] - w @ last
                w = w + eta * torch.outer(e, last) / (1e-6 + last @ last)
                last = x[b, t, r]
                swing = torch.tanh(torch.cat([last, w @ last, e]) @ d[r]) / 2
                out[b, t, :, r] = torch.tensor([1.0, 0, 1, 1]) + swing
    return out


def layout(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Documents and padding at all sorts of places: in front, inside, in a row, at the end."""
    documents = torch.zeros(batch, length, dtype=torch.long)
    valid = torch.ones(batch, length, dtype=torch.bool)
    documents[0, 11:], documents[0, 12:], documents[1, 32:] = 1, 2, 1
    valid[0, 8:13], valid[1, :5], valid[1, 30:34], valid[1, -3:] = False, False, False, False
    return documents, valid


@torch.no_grad()
def test_a_fresh_decoder_modulates_nothing_to_the_bit():
    phases = phases_of(2, LONG)
    shared = SharedParts({"ring_controller": RingControllerConfig().build_shared(50, RINGS)})
    neutral = torch.tensor([1.0, 0.0, 1.0, 1.0])[:, None].expand(2, LONG, 4, R)
    assert torch.equal(whole(phases, shared), neutral)
    assert torch.equal(streaming(phases, shared).feed(blank(phases)[:, :9]), neutral[:, :9])


@torch.no_grad()
def test_a_controller_built_without_memory_is_neutral_once_initialized():
    with torch.device("meta"):
        organ = layer()
    organ.to_empty(device="cpu")
    init.initialize(organ, seed=0)
    assert organ.neutral.tolist() == [1, 0, 1, 1]
    assert not organ.state_dict()


@torch.no_grad()
def test_an_observation_is_the_ring_s_order_its_mean_frequency_and_one():
    phases = phases_of(1, 3)
    x = observe(phases, frequencies_of(phases), RINGS)
    z = torch.stack([torch.exp(1j * ring).mean(-1) for ring in phases.split(RINGS, -1)], -1)
    assert (x[..., 0] - z.abs()).abs().max() < 1e-6
    assert (x[..., 1] - z.real).abs().max() < 1e-6
    assert (x[..., 2] - z.imag).abs().max() < 1e-6
    assert (
        x[..., 3] - torch.stack([f.mean(-1) for f in frequencies_of(phases).split(RINGS, -1)], -1)
    ).abs().max() < 1e-6
    assert (x[..., 4] == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("length", [16, LONG])
def test_controllers_equal_the_definition_over_documents_and_padding(length):
    phases, shared = phases_of(2, LONG)[:, :length], decoder()
    documents, valid = (x[:, :length] for x in layout(2, LONG))
    ours = whole(phases, shared, valid=valid, segments=documents)
    theirs = definition(phases, shared, documents, valid)
    assert ((ours - theirs) * valid[..., None, None]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.25, 0.9])
def test_constant_rings_surprise_less_by_one_minus_eta_a_token(eta):
    phases, organ = phases_of(1, 1).expand(1, 12, N), layer(eta)
    probe = Probe(organ, {":error": capture})
    at_once(caller(organ, phases), blank(phases), decoder(), probe=probe)
    size = probe.seen[":error"][0].norm(dim=-1)[0]  # (T, R)
    assert torch.equal(size[0], size[1])
    early = slice(1, 5) if eta > 0.5 else slice(1, 11)
    ratio = size[2:][early] / size[1:-1][early]
    assert (ratio - (1 - eta)).abs().max() < 1e-3, ratio


@torch.no_grad()
@pytest.mark.parametrize("length", [17, LONG])
def test_the_future_cannot_change_the_past(length):
    phases = phases_of(2, length)
    for t in (1, 8, 16):
        other = torch.cat([phases[:, :t], phases_of(2, length - t, seed=9)], 1)
        assert torch.equal(whole(phases)[:, :t], whole(other)[:, :t]), f"modulations before {t} moved"


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS[1:])
def test_no_split_of_the_tokens_changes_a_bit(cut):
    phases = phases_of(2, 17)
    segments = torch.tensor([[0] * 17, [0] * 5 + [1] * 12])

    def fed(lengths) -> tuple[Tensor, Alone]:
        alone = streaming(phases)
        return torch.cat([feed(alone, piece) for piece in segments.split(lengths, 1)], 1), alone

    (parts, alone), (singles, one_by_one) = fed(list(cut)), fed([1] * 17)
    assert torch.equal(parts, singles)
    assert same_memory(alone, one_by_one)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(LONG,), (20, 25), (32, 1, 12), (11, 34)])
def test_long_calls_continue_short_ones(lengths):
    phases, shared = phases_of(2, LONG), decoder()
    documents, valid = layout(2, LONG)
    alone = streaming(phases, shared)
    pieces = zip(documents.split(list(lengths), 1), valid.split(list(lengths), 1), strict=True)
    parts = torch.cat([feed(alone, numbers, valid=real) for numbers, real in pieces], 1)
    theirs = definition(phases, shared, documents, valid)
    assert ((parts - theirs) * valid[..., None, None]).abs().max() < 1e-5


@torch.no_grad()
def test_left_padding_changes_no_bit_of_a_short_call():
    pad, phases = phases_of(2, 4, seed=3), phases_of(2, 12)
    padded = torch.cat([pad, phases], 1)
    valid = torch.tensor([[False] * 4 + [True] * 12] * 2)
    alone, clean = streaming(padded), streaming(phases)
    assert torch.equal(alone.feed(blank(padded), valid=valid)[:, 4:], clean.feed(blank(phases)))
    assert same_memory(alone, clean)


@torch.no_grad()
def test_rings_that_are_nearly_still_are_predicted_the_same_in_chunks():
    phases, shared = phases_of(2, 1) + 1e-4 * phases_of(2, 200, seed=1), decoder()
    everything = torch.ones(2, 200, dtype=torch.bool)
    assert (whole(phases, shared) - definition(phases, shared, ~everything, everything)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("draft", [5, 20])
@pytest.mark.parametrize("kept", range(6))
def test_committing_a_part_equals_decoding_only_that(kept, draft):
    phases = phases_of(2, 9 + draft)
    rejected, new = phases_of(2, draft - kept, seed=2), torch.tensor([[0] * 2 + [1] * (draft - 2), [0] * draft])
    drafted = torch.cat([phases[:, : 9 + kept], rejected, phases[:, 9 + kept :]], 1)
    alone, plain = streaming(drafted), streaming(phases)
    for either in (alone, plain):
        either.feed(blank(phases)[:, :9])
    feed(alone, new, keep_rollback=True)
    alone.commit(kept)
    for t in range(kept):
        feed(plain, new[:, t : t + 1])
    assert same_memory(alone, plain)
    assert memory(alone).rollback is None


@torch.no_grad()
def test_rows_do_not_talk_to_each_other():
    phases, other = phases_of(3, LONG), phases_of(3, LONG, seed=5)
    other[0] = phases[0]
    assert torch.equal(whole(phases)[0], whole(other)[0])
    a, b, alone = streaming(phases), streaming(other), streaming(phases[:1])
    for length in (1, 9, 20):
        row = a.feed(blank(phases)[:, :length])[0]
        assert torch.equal(row, b.feed(blank(phases)[:, :length])[0])
        assert torch.equal(row, alone.feed(blank(phases)[:1, :length])[0]), length


@torch.no_grad()
def test_a_selected_row_goes_on_as_before():
    phases = phases_of(3, 14)
    alone = streaming(phases)
    alone.feed(blank(phases)[:, :9])
    rows = torch.tensor([2, 0, 2])
    branch = streaming(phases[rows])
    branch.state, branch.fed = alone.state.select(rows), 9
    assert torch.equal(branch.feed(blank(phases)[:, :5]), alone.feed(blank(phases)[:, :5])[rows])


def test_the_decoder_learns_from_zero_and_nothing_flows_into_the_dynamics():
    shared = SharedParts({"ring_controller": RingControllerConfig().build_shared(50, RINGS)})
    phases = phases_of(2, LONG).requires_grad_()
    frequencies = frequencies_of(phases_of(2, LONG, seed=1)).requires_grad_()
    step, _ = shared(Step.of(blank(phases)))
    modulation, _ = layer()(phases, frequencies, step)
    sum(m.sum() for m in modulation).backward()
    slope = shared["ring_controller"].decoder.grad
    assert phases.grad is None
    assert frequencies.grad is None
    assert (slope.abs() > 0).all(), "every feature reaches every modulation"


@torch.no_grad()
@pytest.mark.parametrize("length", [4, 20])
def test_frozen_writes_keep_the_map_and_still_look(length):
    phases = phases_of(2, 30)
    alone = streaming(phases)
    alone.feed(blank(phases)[:, :9])
    before = memory(alone).weight
    frozen = alone.feed(blank(phases)[:, :length], write_memory=False)
    last = phases[:, 9 + length - 1]
    assert torch.equal(memory(alone).weight, before)
    assert (memory(alone).last - observe(last, frequencies_of(last), RINGS)).abs().max() < 1e-6
    assert (frozen - whole(phases)[:, 9 : 9 + length]).abs().max() > 1e-3, "writing would have been heard"
    feed(alone, torch.ones(2, 1, dtype=torch.long), write_memory=False)
    assert not memory(alone).weight.any(), "a document that begins while writes are frozen begins empty"


@torch.no_grad()
def test_taps_see_the_errors_and_the_modulations():
    phases, organ = phases_of(2, 9), layer()
    probe = Probe(organ, {":*": capture})
    y = at_once(caller(organ, phases), blank(phases), decoder(), probe=probe)
    assert probe.seen[":error"][0].shape == (2, 9, R, 4)
    assert torch.equal(probe.seen[":modulation"][0].transpose(2, 3), y)
    assert torch.equal(y, whole(phases))


@torch.no_grad()
def test_half_precision_phases_are_remembered_in_float32():
    phases, organ, shared = phases_of(2, 20), layer(), decoder()
    alone = Alone(organ, caller(organ, phases.bfloat16()), 2, shared)
    with torch.autocast("cpu", torch.bfloat16):
        y = alone.feed(blank(phases))
    assert (y.dtype, memory(alone).weight.dtype, memory(alone).last.dtype) == (torch.float32,) * 3


def test_seven_rings_cost_364_parameters_and_175_numbers_a_row():
    rings = (4, 8, 16, 32, 64, 128, 256)
    config = RingControllerConfig()
    organ, shared = config.build(768, rings), config.build_shared(16512, rings)
    assert sum(p.numel() for p in shared.parameters()) == 364
    assert not list(organ.parameters())
    state = organ.init_state(3)
    assert (state.weight[0].numel() + state.last[0].numel(), len(state.weight)) == (175, 3)
    assert shared.init_state(3) is None


@pytest.mark.parametrize("eta", [0.0, -0.5, 2.0])
def test_rates_that_never_settle_are_refused(eta):
    with pytest.raises(ConfigError, match="between 0 and 2"):
        RingControllerConfig(eta=eta)


def test_config_to_json_to_config_is_identity():
    config = RingControllerConfig(eta=0.5)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.slow
def test_the_compiled_training_step_equals_the_eager_one():
    phases, shared, organ = phases_of(2, LONG), decoder(), layer()
    documents, valid = layout(2, LONG)

    def run(call):
        tokens = blank(phases)
        step, _ = shared(Step.of(tokens, None, ForwardOptions(valid=valid, segments=documents)))
        modulation, _ = call(phases, frequencies_of(phases), step)
        slope = torch.autograd.grad(sum((m * m).sum() for m in modulation), shared["ring_controller"].decoder)
        return [*(m.detach() for m in modulation), *slope]

    compiled = run(torch.compile(organ, fullgraph=True, dynamic=False))
    assert all(error(a, b) < 1e-5 for a, b in zip(compiled, run(organ), strict=True))
