import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from laws import Alone, enliven, relative_error
from positronic.errors import ConfigError
from positronic.kernels.delta import Chunks, Memories, read_chunked, read_reference, write_chunked, write_reference
from positronic.mixers.gated_delta import GatedDelta, GatedDeltaConfig, unit_keys
from positronic.mixers.span_knot import SpanKnotConfig, exact_flow, flowing_keys
from positronic.nn.init import initialize
from positronic.state import ForwardOptions, Step
from positronic.tree import n_bytes

D = 32
SIZES = {"n_heads": 4, "head_dim": 8, "gate_rank": 8}
CONFIGS = {
    "gated delta": GatedDeltaConfig(**SIZES),
    "span knot": SpanKnotConfig(**SIZES),
    "efla": SpanKnotConfig(**SIZES, efla=True),
}


@pytest.fixture(params=CONFIGS)
def mixer(request) -> GatedDelta:
    return enliven(CONFIGS[request.param].build(D))


def x_of(tokens: int, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(rows, tokens, D, generator=torch.Generator().manual_seed(seed))


def step_of(x: Tensor, **wishes) -> Step:
    return Step.of(torch.zeros(x.shape[:2], dtype=torch.long), None, ForwardOptions(**wishes))


def twin(config: GatedDeltaConfig, of: GatedDelta) -> GatedDelta:
    built = config.build(D)
    built.load_state_dict(of.state_dict())
    return built.eval()


@pytest.mark.parametrize(("d_model", "heads", "rank"), [(128, 2, 64), (384, 6, 64), (640, 10, 64), (2560, 40, 128)])
def test_parameters_are_as_many_as_the_equations_need(d_model, heads, rank):
    for config in (GatedDeltaConfig, SpanKnotConfig):
        with torch.device("meta"):
            built = config(n_heads=heads, gate_rank=rank).build(d_model)
        d, h, r = d_model, heads, rank
        needed = d + 4 * d**2 + 8 * d + 2 * d * h + 2 * h + 2 * d * r + 64 + d
        assert sum(p.numel() for p in built.parameters()) == needed


def test_time_constants_start_spread_over_the_heads():
    built = GatedDeltaConfig(n_heads=6).build(384)
    initialize(built, 0)
    assert built.a_log.exp().tolist() == pytest.approx([1, 4, 7, 10, 13, 16])
    dt = F.softplus(built.dt_bias)
    assert dt.tolist() == pytest.approx([10 ** (-3 + 2 * i / 5) for i in range(6)], rel=1e-4)
    kept = torch.exp(-built.a_log.exp() * dt)
    half_lives = (math.log(0.5) / kept.log()).tolist()
    assert half_lives[0] == pytest.approx(693, rel=1e-2)
    assert half_lives[-1] == pytest.approx(0.433, rel=1e-2)
    assert torch.isfinite(GatedDeltaConfig(n_heads=1, head_dim=D).build(D).dt_bias).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 0}, "n_heads 0.*use 1 or more"),
        ({"head_dim": 0}, "head_dim 0.*use 1 or more"),
        ({"gate_rank": 0}, "gate_rank 0.*use 1 or more"),
        ({"conv": 1}, "conv is 1.*use 2 or more"),
    ],
)
@pytest.mark.parametrize("kind", [GatedDeltaConfig, SpanKnotConfig])
def test_widths_that_do_not_fit_are_refused_in_a_sentence(kind, changes, said):
    with pytest.raises(ConfigError, match=f"{kind.kind}.*{said}"):
        kind(**{**SIZES, **changes}).build(D)


@pytest.mark.parametrize("tokens", [9, 40])
@torch.no_grad()
def test_a_call_writes_and_then_reads(mixer, tokens):
    x = x_of(tokens)
    context, after = mixer.write(x, step_of(x))
    assert after is None
    assert isinstance(context, Memories if tokens <= 16 else Chunks)
    assert torch.equal(mixer.read(x, context, step_of(x)), mixer(x, step_of(x)).y)


@pytest.mark.parametrize("tokens", [9, 40])
@torch.no_grad()
def test_another_reading_asks_for_some_rows_and_only_with_a_tokens_own_vector(mixer, tokens):
    x, other = x_of(tokens, rows=3), x_of(tokens, rows=3, seed=1)
    context, _ = mixer.write(x, step_of(x))
    y = mixer.read(other, context, step_of(x))
    rows = torch.tensor([2, 0])
    some = mixer.read(other[rows], type(context)(*(part[rows] for part in context)), step_of(x[rows]))
    assert relative_error(some, y[rows]) < 1e-6
    changed = other.clone()
    changed[:, 5] = x[:, 5]
    moved = (mixer.read(changed, context, step_of(x)) != y).any(-1)
    assert moved[:, 5].all()
    assert moved.sum() == 3, "what a token reads depends on what others asked for"


@pytest.mark.parametrize("extreme", [1.0, 30.0, 1e4])
@torch.no_grad()
def test_no_input_blows_a_memory_up_or_turns_it_over(mixer, extreme):
    """Eigenvalues of what a token does to a memory lie in [0, 1], whatever the gates are told."""
    mixer.gates.weight.mul_(extreme)
    x = x_of(40)
    (k, v, log_decay, beta, fresh), _ = mixer.rows(x, step_of(x))
    identity = torch.eye(8, dtype=torch.float64).expand(80, 4, 8, 8)
    one = (part.flatten(0, 1)[:, None] for part in (k.double(), 0 * v.double(), log_decay.double(), beta.double()))
    turn = write_reference(*one, identity, fresh.flatten()[:, None])[1]
    values = torch.linalg.eigvalsh(turn)
    assert values.min() > -1e-6
    assert values.max() < 1 + 1e-6


@torch.no_grad()
def test_strengths_have_the_bits_of_each_token_alone():
    """Vector code ends somewhere, and sigmoid or softplus round otherwise behind it; three heads fill no register."""
    generator = torch.Generator().manual_seed(0)
    k, logits = (4 * torch.randn(1, 16, 3, *width, generator=generator) for width in ((8,), ()))
    for strengths in (unit_keys, flowing_keys):
        whole = strengths(k, logits)
        for n in (1, 2, 5, 8):
            for t in range(17 - n):
                some = strengths(k[:, t : t + n].clone(), logits[:, t : t + n].clone())
                assert all(torch.equal(a, b[:, t : t + n]) for a, b in zip(some, whole, strict=True))


@pytest.mark.parametrize(("length", "comes_out"), [(0.0, 0.0), (1e-3, 0.5**0.5), (1.0, 1.0), (1e4, 1.0)])
def test_keys_come_out_with_length_1_unless_there_is_hardly_one(length, comes_out):
    key, beta = unit_keys(torch.tensor([[[[0.6, 0.8]]]]) * length, torch.full((1, 1, 1), 2.0))
    assert key.norm().item() == pytest.approx(comes_out, abs=1e-6)
    assert beta.item() == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("kept", [0, 1, 4, 20])
@torch.no_grad()
def test_a_commit_has_the_bits_of_never_having_read_the_rest(mixer, kept):
    x, segments = x_of(20, seed=3), torch.tensor([[0] * 3 + [1] * 17] * 2)
    alone = Alone(mixer, 2)
    alone.feed(x_of(9))
    before = alone.state.layers[0]
    alone.feed(x, segments=segments, keep_rollback=True)
    memory, window = alone.state.commit(range(kept)).layers[0].parts
    k, v, log_decay, beta, fresh = (row[:, :kept] for row in alone.state.layers[0].parts[0].rollback[1])
    expected = write_reference(k, v, log_decay, beta, before.parts[0].memory, fresh)[1] if kept else None
    assert torch.equal(memory.memory, before.parts[0].memory if expected is None else expected)
    if kept == 20:
        assert torch.equal(memory.memory, alone.state.layers[0].parts[0].memory)
    assert memory.rollback is None
    assert window.rows.shape == (2, 3, 2 * D)


@torch.no_grad()
def test_a_kept_call_holds_no_matrix_a_token_and_no_call_before_it(mixer):
    alone = Alone(mixer, 2)
    for seed in (0, 1):
        alone.feed(x_of(9, seed=seed), keep_rollback=True)
    before, rows = alone.state.layers[0].parts[0].rollback
    assert before.rollback is None
    assert sum(row.numel() for row in rows) == 2 * 9 * (2 * D + 2 * 4 + 1)


@torch.no_grad()
def test_what_is_remembered_does_not_grow(mixer):
    alone = Alone(mixer, 2, capacity=64)
    sizes = set()
    for tokens in (1, 16, 40, 300):
        alone.feed(x_of(tokens))
        sizes.add(n_bytes(alone.state.layers))
    assert sizes == {2 * 4 * (4 * 8 * 8 + 3 * 2 * D)}


@pytest.mark.parametrize("pads", [0.2, 0.7])
@torch.no_grad()
def test_padding_anywhere_changes_nothing(mixer, pads):
    x, generator = x_of(60, rows=1), torch.Generator().manual_seed(1)
    valid = torch.rand(1, 60, generator=generator) >= pads
    whole = mixer(x, step_of(x, valid=valid)).y[valid]
    bare = mixer(x[valid][None], step_of(x[valid][None])).y[0]
    assert relative_error(whole, bare) < 1e-5
    alone, clean = Alone(mixer, 1), Alone(mixer, 1)
    parts = torch.cat([alone.feed(a, valid=b) for a, b in zip(x.split(13, 1), valid.split(13, 1), strict=True)], 1)
    assert relative_error(parts[valid], bare) < 1e-5
    clean.feed(x[valid][None])
    assert relative_error(alone.state.layers[0].parts[0].memory, clean.state.layers[0].parts[0].memory) < 1e-5


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_512_tokens_are_causal_to_the_bit_over_documents_and_padding(mixer, padded):
    x, other, generator = x_of(512, rows=1), x_of(512, rows=1, seed=9), torch.Generator().manual_seed(2)
    segments = (torch.rand(1, 512, generator=generator) < 0.02).long().cumsum(1)
    valid = torch.rand(1, 512, generator=generator) > 0.2 if padded else None
    y = mixer(x, step_of(x, segments=segments, valid=valid)).y
    for t in (1, 63, 64, 65, 200, 511):
        mixed = torch.cat([x[:, :t], other[:, t:]], 1)
        later = torch.cat([segments[:, :t], segments[:, t:] + 1], 1)
        moved = mixer(mixed, step_of(mixed, segments=later, valid=valid)).y
        assert torch.equal(y[:, :t], moved[:, :t]), f"outputs before {t} moved"


@torch.no_grad()
def test_a_model_in_bfloat16_and_autocast_keep_a_memory_in_float32(mixer):
    x, exact = x_of(40), Alone(mixer, 2)
    y = exact.feed(x)
    for low in ("autocast", "weights"):
        other = twin(mixer.config, mixer)
        alone = Alone(other if low == "autocast" else other.bfloat16(), 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=low == "autocast"):
            said = alone.feed(x if low == "autocast" else x.bfloat16())
        memory = alone.state.layers[0].parts[0].memory
        assert memory.dtype == torch.float32
        assert said.dtype == torch.bfloat16
        assert 1e-4 < relative_error(memory, exact.state.layers[0].parts[0].memory) < 0.1
        assert relative_error(said.float(), y) < 0.1


def test_a_span_knot_without_efla_is_a_gated_delta_to_the_bit():
    delta = enliven(CONFIGS["gated delta"].build(D))
    knot, flow = (twin(CONFIGS[name], delta) for name in ("span knot", "efla"))
    assert knot.config.kind == "span_knot"
    for tokens in (9, 40):
        x, said = x_of(tokens), {}
        for one in (delta, knot, flow):
            one.zero_grad()
            y = one(x, step_of(x)).y
            y.square().sum().backward()
            said[one] = [y, *(p.grad for p in one.parameters())]
        assert all(torch.equal(a, b) for a, b in zip(said[delta], said[knot], strict=True))
        assert relative_error(said[flow][0].detach(), said[delta][0].detach()) > 1e-2


@pytest.mark.parametrize("length", [0.0, 1e-5, 1e-3, 0.999e-3, 1e-2, 1.0, 7.0])
@pytest.mark.parametrize("logit", [-20.0, -1.0, 2.0])
@torch.no_grad()
def test_efla_follows_the_matrix_exponential(logit, length):
    """[S v] moves along [S v] [[-k k^T, 0], [k^T, 0]] for a time b: dS/dt = -S k k^T + v k^T, and v stands still."""
    generator = torch.Generator().manual_seed(0)
    k = length * F.normalize(torch.randn(1, 1, 1, 8, generator=generator, dtype=torch.float64), dim=-1)
    v, memory = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for shape in ((1, 1, 5), (1, 5, 8)))
    logits, log_decay = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (logit, -0.3))
    key, a = flowing_keys(k, logits)
    after = write_reference(key, v, log_decay, a, memory, torch.zeros(1, 1, dtype=torch.bool))[1]
    flow = torch.zeros(9, 9, dtype=torch.float64)
    flow[:8, :8], flow[8, :8] = -torch.outer(k.flatten(), k.flatten()), k.flatten()
    start = torch.cat([memory[0, 0] * math.exp(-0.3), v[0, 0, 0, :, None]], 1)
    moved = start @ torch.linalg.matrix_exp(F.softplus(logits).item() * flow)
    assert (after[0, 0] - moved[:, :8]).abs().max() < 1e-12


@torch.no_grad()
def test_keys_of_all_lengths_keep_chunks_exact():
    generator = torch.Generator().manual_seed(0)
    k, v, q = F.normalize(torch.randn(3, 1, 300, 2, 64, generator=generator), dim=-1)
    lengths = 10 ** (4 * torch.rand(1, 300, 2, 1, generator=generator) - 2)
    k, a = flowing_keys(lengths * k, torch.randn(1, 300, 2, generator=generator))
    written = k, v, torch.full((1, 300, 2), -0.01), a, torch.zeros(1, 2, 64, 64), torch.zeros(1, 300).bool()
    exact = read_reference(q.double(), write_reference(*(x.double() for x in written[:5]), written[5])[0])
    assert relative_error(read_chunked(q, write_chunked(*written)[0]), exact) < 1e-5


@pytest.mark.parametrize("apart", [True, False])
@torch.no_grad()
def test_a_long_key_that_flows_a_hundred_thousand_times_stays_finite(apart):
    tokens, generator = 100_000, torch.Generator().manual_seed(0)
    key, value = torch.randn(2, 1, 1, 1, 64, generator=generator)
    k, a = flowing_keys(key.expand(1, tokens, 1, 64), torch.full((1, tokens, 1), 3.0))
    v = value * ((-1.0) ** torch.arange(tokens)[:, None, None] if apart else torch.ones(tokens, 1, 1))
    empty, fresh = torch.zeros(1, 1, 64, 64), torch.zeros(1, tokens, dtype=torch.bool)
    _, memory = write_chunked(k, v, torch.zeros(1, tokens, 1), a, empty, fresh)
    assert torch.isfinite(memory).all()
    assert relative_error((memory * key[0, 0]).sum(-1), v[:, -1]) < 1e-4, "so long a key is written whole"


def test_the_flow_of_short_and_long_keys_has_a_gradient():
    square = torch.tensor([0.0, 1e-12, 1e-6, 1.1e-6, 1.0, 1e6], requires_grad=True)
    time = torch.tensor([2.0] * 6, requires_grad=True)
    flow = exact_flow(time, square)
    assert flow.tolist() == pytest.approx([2.0, 2.0, 2.0, 2.0, 1 - math.exp(-2), 1e-6], rel=1e-5)
    flow.sum().backward()
    assert torch.isfinite(time.grad).all()
    assert square.grad[:4].tolist() == pytest.approx([-2.0] * 4, rel=0.2), "d/dlambda is -b^2 / 2 at short keys"
