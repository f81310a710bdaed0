"""What every mixer and every language model must obey. A mixer joins MIXERS by one line, a family joins MODELS."""

import math
from dataclasses import replace

import pytest
import torch
from chimera_example import small_chimera
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from positronic.config import Config, ModelConfig
from positronic.data import TokenBatch
from positronic.errors import StateError
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.channel_mix import ChannelMixConfig
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.deep_memory import DeepMemoryConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.gated_delta import GatedDeltaConfig
from positronic.mixers.hyper_ffn import HyperFFNConfig
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.local_conv import LocalConvConfig
from positronic.mixers.metric_attention import MetricMHAConfig, MetricMQAConfig
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config
from positronic.mixers.mixture import MixtureConfig
from positronic.mixers.mlp import MLPConfig
from positronic.mixers.mlstm import MLSTMConfig
from positronic.mixers.moe import MoEConfig
from positronic.mixers.radius import BallConfig, PairConfig
from positronic.mixers.span_knot import SpanKnotConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.mixers.titans import TitansConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.models import build
from positronic.models.metric import MetricConfig
from positronic.models.mycel import MycelConfig
from positronic.models.quazimoto import QuazimotoConfig
from positronic.models.transformer import TransformerConfig
from positronic.nn.loop import LoopConfig
from positronic.nn.norm import LayerNormConfig
from positronic.nn.rope import StretchConfig
from positronic.observe.health.registry import READERS
from positronic.probe import Probe, capture
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.train import NextTokenConfig
from positronic.traits.engram import EngramConfig
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.hrm import HRMConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig
from positronic.traits.phase_attention import PhaseAttentionConfig
from positronic.traits.ring_controller import RingControllerConfig
from positronic.traits.specialists import SpecialistsConfig
from positronic.traits.stations import StationsConfig

D, W, END = 32, 50, 7
RINGS = (4, 8, 16)
BALL = BallConfig(radius=1.0, beta=0.05)
"""Soft enough that keys outside of it, most of them, are still heard."""
FRESH = BallConfig(radius=0.1)
"""The same for the keys of a new model."""
MHA = MetricMHAConfig(n_heads=2, n_kv_heads=2, head_dim=16, prune=BALL, projector=ValueProjectorConfig(hidden=24))
MQA = MetricMQAConfig(n_heads=4, head_dim=16, prune=BALL)

LAYER = LayerNormConfig()
QUICK = DeepMemoryConfig(chunk=4, theta_max=1.0, trust=0.5)
"""Chunks end within the rows of the laws, and what they write is heard."""
TITANS = TitansConfig(n_kv_heads=2, head_dim=8, window=8, slots=4, memory=QUICK)

MIXERS: dict[str, Config] = {
    "attention": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=24, rope_dims=8),
    "attention-plain": AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=16, rank=None, rope_dims=0, qk_norm=False),
    "attention-exclusive": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=24, rope_dims=8, exclusive=True),
    "attention-capped": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=24, rope_dims=8, score_cap=2.0),
    "attention-gpt2": AttentionConfig(
        n_heads=2, n_kv_heads=2, head_dim=16, rank=None, rope_dims=0, qk_norm=False, norm=LAYER, bias=True
    ),
    "attention-stretched": AttentionConfig(
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        rank=None,
        rope_dims=8,
        qk_norm=False,
        rope_stretch=StretchConfig(factor=4.0, trained=16),
    ),
    "swiglu": SwiGLUConfig(hidden=48),
    "swiglu-inner": SwiGLUConfig(hidden=48, inner_norm=True),
    "mlp": MLPConfig(hidden=48, norm=LAYER, bias=True),
    "kuramoto": KuramotoConfig(rings=RINGS),
    "kuramoto-organs": KuramotoConfig(
        rings=RINGS, injections=(PhaseAttentionConfig(slots=(0, 1), dim=16), SpecialistsConfig(per_ring=3, dim=16))
    ),
    "colony": ColonyConfig(tips=12, centres=6),
    "colony-stations": ColonyConfig(tips=12, centres=6, stations=StationsConfig(stations=5, per_station=3, dim=16)),
    "metric-mha": MHA,
    "metric-mqa": MQA,
    "metric-l2": MHA.replace(score=L2Config(), prune=None, tied=True),
    "metric-cosine": MHA.replace(score=CosineConfig(), prune=BALL.replace(hard=True)),
    "metric-dot": MQA.replace(score=DotConfig(), triangles=0, prune=None),
    "metric-pairs": MHA.replace(n_kv_heads=1, prune=PairConfig(radius=6.0)),
    "local-conv": LocalConvConfig(),
    "channel-mix": ChannelMixConfig(hidden=24),
    "mixture": MixtureConfig(heads=(LocalConvConfig(), MHA, ChannelMixConfig(hidden=24), MQA), hidden=16, groups=2),
    "mixture-top": MixtureConfig(heads=(LocalConvConfig(), MHA, MQA), hidden=16, groups=4, top=2, gain=4 / 3),
    "hyper-ffn": HyperFFNConfig(hidden=48, rank=4),
    "hrm": HRMConfig(hidden=48),
    "moe": MoEConfig(hidden=24),
    "gated-delta": GatedDeltaConfig(n_heads=2, head_dim=16, gate_rank=8),
    "span-knot": SpanKnotConfig(n_heads=4, head_dim=8, gate_rank=8),
    "span-knot-efla": SpanKnotConfig(n_heads=4, head_dim=8, gate_rank=8, efla=True),
    "experts": ExpertsConfig(experts=5, hidden=24),
    "mlstm": MLSTMConfig(n_heads=2, head_dim=16, gate_rank=12),
    "titans": TITANS,
    "titans-one-group": TITANS.replace(n_kv_heads=1, window=5, memory=QUICK.replace(chunk=3, expand=1, cap=1.0)),
    "titans-without-memory": TITANS.replace(memory=None),
}
SIZES = {"vocab_size": W, "d_model": D, "context": 64, "max_positions": 256, "boundary_id": END, "n_layers": 2}
MODELS: dict[str, ModelConfig] = {
    "transformer": TransformerConfig(
        **SIZES,
        attention=MIXERS["attention"],
        channel=MIXERS["swiglu"],
    ),
    "gpt2": TransformerConfig(
        **SIZES,
        attention=MIXERS["attention-gpt2"],
        channel=MIXERS["mlp"],
        norm=LAYER,
        learned_positions=True,
    ),
    "llama": TransformerConfig(
        **SIZES,
        attention=MIXERS["attention-stretched"],
        channel=MIXERS["swiglu"],
        tied=False,
    ),
    "quazimoto": QuazimotoConfig(
        **SIZES,
        attention=MIXERS["attention"],
        oscillators=KuramotoConfig(
            rings=RINGS,
            phase_seed=FractalPhaseConfig(),
            controller=RingControllerConfig(),
            injections=(
                PhaseAttentionConfig(slots=(1,), dim=16),
                EngramConfig(slots=(0, 1), heads=2, rows=64, dim=8, width=16),
                SpecialistsConfig(per_ring=3, dim=16),
            ),
        ),
        refiners=(HRMConfig(hidden=32), MoEConfig(hidden=24)),
        drafts=MTPConfig(heads=3, hidden=24),
        latents=JEPAConfig(ahead=2, hidden=24),
    ),
    "mycel": MycelConfig(
        **SIZES,
        attention=MIXERS["attention"],
        colony=ColonyConfig(
            tips=12,
            centres=6,
            phase_seed=FractalPhaseConfig(levels=4),
            stations=StationsConfig(stations=5, per_station=3, dim=16),
        ),
        refiners=(HRMConfig(hidden=32), MoEConfig(hidden=24)),
        drafts=MTPConfig(heads=3, hidden=24),
        latents=JEPAConfig(ahead=2, hidden=24),
    ),
    "metric": MetricConfig(
        **SIZES,
        mixture=MixtureConfig(
            heads=(LocalConvConfig(), MHA.replace(prune=FRESH), ChannelMixConfig(hidden=24), MQA.replace(prune=FRESH)),
            hidden=16,
            groups=2,
        ),
        channel=HyperFFNConfig(hidden=48, rank=4),
        drafts=MTPConfig(heads=3, hidden=24),
    ),
    **{f"chimera-{depth}": small_chimera(vocab_size=W, looping=LoopConfig(usual=depth)) for depth in (1, 2, 6)},
    "chimera-per-iteration": small_chimera(vocab_size=W, looping=LoopConfig(memory="per_iteration")),
}
CUTS = [(1, 16), (7, 10), (16, 1), (3, 1, 13), (1,) * 17]


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def enliven(module: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Random values everywhere, zero-started ones included, so that no law holds because a part is silent."""
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.dim() == 1 else 0.0, std=scale, generator=generator)
    return module.eval()


@pytest.fixture(params=MIXERS)
def mixer(request):
    return enliven(MIXERS[request.param].build(D))


GENTLE = {"chimera-6": 0.1, "chimera-per-iteration": 0.1}
"""Scales of values where larger ones would multiply roundings a hundredfold: of what is iterated."""


@pytest.fixture(params=MODELS)
def model(request):
    return enliven(build(MODELS[request.param]), GENTLE.get(request.param, 0.3))


def tokens_of(batch: int, length: int, seed: int = 0, end: bool = False) -> Tensor:
    tokens = torch.randint(8, W, (batch, length), generator=torch.Generator().manual_seed(seed))
    return tokens.index_fill(1, torch.tensor([length // 3]), END) if end else tokens


def vectors_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(seed))


class Alone:
    """One mixer with what a model would keep for it: runs vectors in pieces, as a model runs tokens."""

    def __init__(self, mixer, batch: int, capacity: int = 0):
        layers = [mixer.init_state(batch, capacity)]
        self.mixer, self.state = mixer, DecodeState.new(layers, batch, torch.device("cpu"), capacity)

    def feed(self, x: Tensor, **wishes) -> Tensor:
        tokens = torch.zeros(x.shape[:2], dtype=torch.long)
        step = Step.of(tokens, self.state, ForwardOptions(**wishes))
        y, layer, _ = self.mixer(x, step, self.state.layers[0])
        self.state = step.next_state(self.state, [layer])
        return y


def whole(mixer, x: Tensor, **wishes) -> Tensor:
    tokens = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    return mixer(x, Step.of(tokens, None, ForwardOptions(**wishes)), None).y


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_is_usable_as_built(name):
    """Memory that nobody has filled is not a number here."""
    torch.use_deterministic_algorithms(True)
    try:
        built = MIXERS[name].build(D)
    finally:
        torch.use_deterministic_algorithms(False)
    unfilled = [path for path, tensor in (*built.named_parameters(), *built.named_buffers()) if tensor.isnan().any()]
    assert not unfilled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_mixer_on_cuda_says_and_learns_what_it_does_here(mixer):
    """Rows long enough for the forms of training, a document that begins on the way, padding in front. An H200 says
    3e-6 and, where distances are clamped or what is written is solved for, up to 2e-4."""
    x, valid, segments = vectors_of(2, 150), torch.ones(2, 150, dtype=torch.bool), torch.zeros(2, 150, dtype=torch.long)
    valid[1, :9], segments[0, 70:] = False, 1

    def run(place: str) -> list[Tensor]:
        mixer.to(place).zero_grad()
        given = x.to(place).detach().requires_grad_()
        y = whole(mixer, given, valid=valid.to(place), segments=segments.to(place))
        y[valid].square().sum().backward()
        return [t.detach().cpu() for t in (y[valid], given.grad[valid], *(p.grad for p in mixer.parameters()))]

    for there, here in zip(run("cuda"), run("cpu"), strict=True):
        assert relative_error(there, here) < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 32])
@pytest.mark.parametrize("cut", CUTS)
def test_feeding_in_parts_equals_feeding_at_once(mixer, cut, capacity):
    x = vectors_of(2, 17)
    alone = Alone(mixer, 2, capacity)
    parts = torch.cat([alone.feed(piece) for piece in x.split(list(cut), 1)], 1)
    assert relative_error(parts, whole(mixer, x)) < 1e-5


@torch.no_grad()
def test_the_future_cannot_change_the_past(mixer):
    x = vectors_of(2, 17)
    for t in (1, 8, 16):
        other = torch.cat([x[:, :t], vectors_of(2, 17 - t, seed=9)], 1)
        assert torch.equal(whole(mixer, x)[:, :t], whole(mixer, other)[:, :t]), f"outputs before {t} moved"


@torch.no_grad()
def test_padding_changes_nothing(mixer):
    x, pad = vectors_of(2, 9), vectors_of(2, 4, seed=3)
    valid = torch.tensor([[False] * 4 + [True] * 9] * 2)
    padded = torch.cat([pad, x], 1)
    assert relative_error(whole(mixer, padded, valid=valid)[:, 4:], whole(mixer, x)) < 1e-5
    alone, clean = Alone(mixer, 2), Alone(mixer, 2)
    alone.feed(padded, valid=valid), clean.feed(x)
    more = vectors_of(2, 5, seed=4)
    assert relative_error(alone.feed(more), clean.feed(more)) < 1e-5
    assert torch.equal(alone.state.position, clean.state.position)


@torch.no_grad()
def test_rows_at_different_places_go_on_as_each_alone(mixer):
    x, more = vectors_of(2, 9), vectors_of(2, 5, seed=4)
    valid = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
    together = Alone(mixer, 2)
    together.feed(x, valid=valid)
    said = together.feed(more)
    for row, real in enumerate(valid):
        alone = Alone(mixer, 1)
        alone.feed(x[row : row + 1, real])
        assert relative_error(said[row : row + 1], alone.feed(more[row : row + 1])) < 1e-5


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(mixer):
    x = vectors_of(2, 17)
    segments = torch.tensor([[0] * 6 + [1] * 11] * 2)
    packed = whole(mixer, x, segments=segments)
    apart = torch.cat([whole(mixer, x[:, :6]), whole(mixer, x[:, 6:])], 1)
    assert relative_error(packed, apart) < 1e-5
    alone = Alone(mixer, 2)
    pieces = zip(x.split([4, 13], 1), segments.split([4, 13], 1), strict=True)
    streamed = torch.cat([alone.feed(piece, segments=numbers) for piece, numbers in pieces], 1)
    assert relative_error(streamed, apart) < 1e-5


class Noticed(dict):
    """Values that remember which of them were read."""

    def __init__(self, values):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)


@torch.no_grad()
def test_what_a_mixer_wants_prepared_is_what_it_reads(mixer):
    """Of documents, in whole rows, or going on and committed in part: nothing is worked out that no layer asks for."""
    if not hasattr(mixer, "prepare"):
        return
    alone, x, segments = Alone(mixer, 2), vectors_of(2, 17), torch.tensor([[0] * 6 + [1] * 11] * 2)
    wanted, read = set(), set()
    for state in (None, alone.state):
        options = ForwardOptions(segments=segments, keep_rollback=state is not None)
        step = Step.of(torch.zeros(2, 17, dtype=torch.long), state, options)
        shared = Noticed(mixer.prepare(step))
        mixer(x, replace(step, shared=shared), None if state is None else state.layers[0])
        wanted |= shared.keys()
        read |= shared.read
    assert not wanted - read


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 32])
@pytest.mark.parametrize("kept", range(6))
def test_committing_a_part_equals_never_having_fed_the_rest(mixer, kept, capacity):
    x, draft, more = vectors_of(2, 9), vectors_of(2, 5, seed=2), vectors_of(2, 4, seed=4)
    speculative, plain = Alone(mixer, 2, capacity), Alone(mixer, 2, capacity)
    speculative.feed(x), plain.feed(x)
    speculative.feed(draft, keep_rollback=True)
    speculative.state = speculative.state.commit(range(kept))
    if kept:
        plain.feed(draft[:, :kept])
    assert torch.equal(speculative.state.position, plain.state.position)
    assert relative_error(speculative.feed(more), plain.feed(more)) < 1e-5


@torch.no_grad()
def test_an_old_state_continues_as_if_nothing_had_followed_it(mixer):
    alone = Alone(mixer, 2)
    alone.feed(vectors_of(2, 9))
    old = alone.state
    more = vectors_of(2, 4, seed=4)
    first = alone.feed(more)
    alone.feed(vectors_of(2, 3, seed=5))
    alone.state = old
    assert torch.equal(alone.feed(more), first)


@torch.no_grad()
def test_select_branches_without_sharing(mixer):
    alone = Alone(mixer, 3)
    alone.feed(vectors_of(3, 9))
    trunk, rows = alone.state, torch.tensor([2, 0, 2])
    branch = trunk.select(rows)
    more = vectors_of(3, 4, seed=4)
    expected = alone.feed(more)
    alone.state = branch
    assert relative_error(alone.feed(more[rows]), expected[rows]) < 1e-5
    after_branch = alone.state
    alone.state = trunk
    alone.feed(vectors_of(3, 2, seed=8))
    alone.state = after_branch
    alone.feed(more)  # the trunk's continuation took nothing from the branch


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 32])
@pytest.mark.parametrize("begun", [False, True])
def test_rows_of_a_state_that_holds_nothing_can_be_selected(mixer, begun, capacity):
    alone, x, rows = Alone(mixer, 2, capacity), vectors_of(3, 9), torch.tensor([1, 0, 1])
    if begun:
        alone.feed(vectors_of(2, 4, seed=5), keep_rollback=True)
        alone.state = alone.state.commit([])
    alone.state = alone.state.select(rows)
    fresh = Alone(mixer, 3, capacity)
    assert relative_error(alone.feed(x), fresh.feed(x)) < 1e-5
    assert relative_error(alone.feed(x), fresh.feed(x)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 128])
def test_joined_rows_go_on_as_each_alone_while_rows_leave_and_return(mixer, capacity):
    lengths = (5, 37, 90)
    alone = [Alone(mixer, 1, capacity) for _ in lengths]
    for row, length in zip(alone, lengths, strict=True):
        row.feed(vectors_of(1, length, seed=length))
    together = Alone(mixer, 0, capacity)
    together.state = DecodeState.join([row.state for row in alone])
    apart: list[DecodeState] = []
    for rows, tokens in (((0, 1, 2), 3), ((0, 2), 1), ((2,), 20), ((2, 1), 4), ((2, 1, 0), 1)):
        here = [row for row in range(3) if row not in rows]
        together.state = DecodeState.join([together.state, *apart])
        order = getattr(together, "order", [0, 1, 2])
        apart = [together.state.select(torch.tensor([order.index(row)])) for row in here]
        together.state = together.state.select(torch.tensor([order.index(row) for row in rows]))
        together.order = [*rows, *here]
        x = vectors_of(3, tokens, seed=tokens)
        said = together.feed(x[list(rows)])
        for i, row in enumerate(rows):
            expected = alone[row].feed(x[row : row + 1])
            assert relative_error(said[i : i + 1], expected) < 1e-5, f"row {row} of {rows}"


@torch.no_grad()
def test_rows_do_not_talk_to_each_other(mixer):
    x, other = vectors_of(3, 9), vectors_of(3, 9, seed=5)
    other[0] = x[0]
    assert torch.equal(whole(mixer, x)[0], whole(mixer, other)[0])
    a, b = Alone(mixer, 3), Alone(mixer, 3)
    for piece, different in zip(x.split(3, 1), other.split(3, 1), strict=True):
        assert torch.equal(a.feed(piece)[0], b.feed(different)[0])


def test_every_parameter_gets_gradient(mixer):
    whole(mixer, vectors_of(2, 9)).square().sum().backward()
    silent = [name for name, p in mixer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_tap_that_is_off_adds_no_operation(mixer, monkeypatch):
    x = vectors_of(2, 9)
    with CountOperations() as untapped:
        whole(mixer, x)
    monkeypatch.setattr(Step, "tap", lambda self, owner, name, x: x)
    with CountOperations() as without_taps:
        whole(mixer, x)
    assert untapped.count == without_taps.count


@pytest.mark.parametrize("config", [*MIXERS.values(), *MODELS.values()], ids=[*MIXERS, *MODELS])
def test_config_to_json_to_config_is_identity(config):
    assert Config.from_json(config.to_json()) == config


def logits_of(model, tokens: Tensor, **wishes) -> Tensor:
    return model.logits(model(tokens, options=ForwardOptions(**wishes) if wishes else None).hidden)


def stream(model, tokens: Tensor, cut, capacity: int = 0) -> tuple[Tensor, DecodeState]:
    state, logits = model.init_state(len(tokens), capacity), []
    for piece in tokens.split(list(cut), 1):
        out = model(piece, state)
        state = out.state
        logits.append(model.logits(out.hidden))
    return torch.cat(logits, 1), state


@torch.no_grad()
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_a_model_streams_what_it_says_at_once(model, cut, end):
    tokens = tokens_of(2, 17, end=end)
    logits, state = stream(model, tokens, cut)
    assert (logits - logits_of(model, tokens)).abs().max() < 1e-4
    assert state.position.tolist() == [17, 17]


@torch.no_grad()
def test_a_document_that_ended_is_forgotten(model):
    tokens = tokens_of(1, 18, end=True)
    cut = 18 // 3 + 1
    logits = logits_of(model, tokens)
    assert (logits[:, cut:] - logits_of(model, tokens[:, cut:])).abs().max() < 1e-4
    streamed, _ = stream(model, tokens, (cut, 18 - cut))
    assert (streamed[:, cut:] - logits[:, cut:]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kept", range(6))
def test_a_model_commits_over_document_ends(model, kept):
    tokens, draft, more = tokens_of(2, 9), tokens_of(2, 5, seed=2, end=True), tokens_of(2, 4, seed=3)
    state = model(tokens, model.init_state(2)).state
    after = model(draft, state, ForwardOptions(keep_rollback=True)).state.commit(range(kept))
    out = model(more, after)
    straight = torch.cat([tokens, draft[:, :kept], more], 1)
    assert (model.logits(out.hidden) - logits_of(model, straight)[:, -4:]).abs().max() < 1e-4


@torch.no_grad()
def test_left_padding_changes_no_logit(model):
    tokens = tokens_of(2, 9)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), tokens], 1)
    valid = torch.tensor([[False] * 4 + [True] * 9] * 2)
    assert (logits_of(model, padded, valid=valid)[:, 4:] - logits_of(model, tokens)).abs().max() < 1e-4


@torch.no_grad()
def test_a_model_is_causal_to_the_bit(model):
    a, b = tokens_of(2, 17), tokens_of(2, 17)
    b[:, 9:] = tokens_of(2, 8, seed=5)
    assert torch.equal(logits_of(model, a)[:, :9], logits_of(model, b)[:, :9])


def test_the_first_loss_is_that_of_a_uniform_guess(model):
    fresh = build(model.config)
    tokens = tokens_of(4, 64)
    loss = torch.nn.functional.cross_entropy(logits_of(fresh, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() / math.log(W) - 1) < 0.01


def test_equal_seeds_build_equal_models(model):
    a, b, c = (build(model.config, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_every_parameter_of_a_fresh_model_gets_gradient_in_two_steps(model):
    """In the first step, or in the second where what it feeds starts as a matrix of zeros."""
    fresh = build(model.config)
    batch = TokenBatch.of(tokens_of(2, 17), boundary_id=END)
    objective = NextTokenConfig().build()
    counts, silent = objective.counts(batch), {name for name, _ in fresh.named_parameters()}
    for _ in range(2):
        fresh.zero_grad()
        objective(fresh, batch, counts).total.backward()
        silent -= {name for name, p in fresh.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        with torch.no_grad():
            for p in fresh.parameters():
                p -= 0.1 * p.grad
    assert not silent


@torch.no_grad()
def test_watching_changes_no_bit(model):
    tokens = tokens_of(2, 9)
    probe = Probe(model, {"*": capture})
    assert torch.equal(logits_of(model, tokens, probe=probe), logits_of(model, tokens))
    assert probe.seen


@torch.no_grad()
def test_what_passes_at_a_tap_is_declared_by_its_module(model):
    """So that health, scenes and ablation need to know no mechanism by name."""
    probe = Probe(model, {"*": capture})
    logits_of(model, tokens_of(2, 9), probe=probe)
    for address in probe.seen:
        path, _, name = address.partition(":")
        assert name in type(model.get_submodule(path)).taps, address
    for module in model.modules():
        kind = getattr(getattr(module, "config", None), "kind", "")
        read = {tap for reader in READERS.get(kind, ()) for tap in reader.taps}
        assert read <= set(getattr(module, "taps", read)), f"health reads taps of {kind} that it has not"


def test_a_commit_needs_a_trail_and_a_beginning(model):
    tokens = tokens_of(1, 5)
    with torch.no_grad():
        bare = model(tokens, model.init_state(1)).state
        trailed = model(tokens, model.init_state(1), ForwardOptions(keep_rollback=True)).state
    with pytest.raises(StateError, match="keep_rollback"):
        bare.commit([0])
    with pytest.raises(StateError, match="no beginning"):
        trailed.commit([1])
