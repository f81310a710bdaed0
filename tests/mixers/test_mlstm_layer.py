"""mLSTM as a layer: its size, how it starts, what it remembers, and a read that can be asked again."""

import pytest
import torch
from torch.nn import functional as F

from positronic.errors import ConfigError
from positronic.mixers.mlstm import MLSTMConfig, MLSTMState
from positronic.nn.init import initialize
from positronic.probe import Probe, capture
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.tree import n_bytes

D = 32
CONFIG = MLSTMConfig(n_heads=2, head_dim=16, gate_rank=12)


def lively(config: MLSTMConfig = CONFIG):
    mixer, generator = config.build(D), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in mixer.parameters():
            p.normal_(1.0 if p.dim() == 1 else 0.0, 0.3, generator=generator)
    return mixer


def vectors(rows: int = 2, length: int = 40, seed: int = 0):
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def step_of(x, state=None, **wishes) -> Step:
    return Step.of(torch.zeros(x.shape[:2], dtype=torch.long), state, ForwardOptions(**wishes))


def run(mixer, x, **wishes):
    return mixer(x, step_of(x, **wishes)).y


class Conversation:
    def __init__(self, mixer, batch: int = 2):
        self.mixer, self.state = mixer, DecodeState.new([mixer.init_state(batch)], batch, torch.device("cpu"))

    def feed(self, x, **wishes):
        step = step_of(x, self.state, **wishes)
        y, after, _ = self.mixer(x, step, self.state.layers[0])
        self.state = step.next_state(self.state, [after])
        return y


@pytest.mark.parametrize(("d", "heads", "rank"), [(128, 2, 64), (384, 6, 64), (2560, 40, 128)])
def test_it_has_the_specified_size(d, heads, rank):
    with torch.device("meta"):
        mixer = MLSTMConfig(n_heads=heads, gate_rank=rank).build(d)
    expected = d + 4 * d**2 + 2 * d * heads + 2 * heads + 2 * d * rank + 64 + d
    assert sum(p.numel() for p in mixer.parameters()) == expected


def test_a_row_remembers_as_many_bytes_as_specified_after_any_number_of_tokens():
    conversation = Conversation(lively())
    assert n_bytes(MLSTMConfig(n_heads=40).build(2560).init_state(1)) == 665_760
    before = n_bytes(conversation.state.layers)
    for tokens in (1, 17, 200):
        conversation.feed(vectors(length=tokens))
        assert n_bytes(conversation.state.layers) == before


def test_a_new_layer_has_constant_gates_whose_memories_last_from_few_to_many_tokens():
    mixer = MLSTMConfig(n_heads=4, head_dim=8).build(D)
    initialize(mixer, 0)
    probe = Probe(mixer, {"*:input": capture, "*:forget": capture})
    run(mixer, vectors(), probe=probe)
    (i,), (log_f,) = probe.seen[":input"], probe.seen[":forget"]
    assert torch.equal(i, torch.full_like(i, 15 * torch.tanh(torch.tensor(-10 / 15)).item()))
    half_lives = torch.tensor(0.5).log() / log_f[0, 0]
    assert half_lives.tolist() == pytest.approx([13.73, 34.86, 86.5, 207.3], rel=1e-3)
    assert torch.equal(log_f, log_f[:1, :1].expand_as(log_f))


def test_logits_of_gates_are_held_within_15():
    mixer = lively()
    with torch.no_grad():
        mixer.gates.weight.mul_(1e4)
    probe = Probe(mixer, {"*:input": capture, "*:forget": capture})
    y = run(mixer, vectors(), probe=probe)
    assert y.isfinite().all()
    assert probe.seen[":input"][0].abs().max() <= 15
    assert probe.seen[":forget"][0].min() >= F.logsigmoid(torch.tensor(-15.0))


def test_reading_what_was_written_is_the_call():
    mixer, x = lively(), vectors()
    for length in (5, 40):
        step = step_of(x[:, :length])
        context, after = mixer.write(x[:, :length], step)
        assert after is None
        assert torch.equal(mixer.read(x[:, :length], context, step), run(mixer, x[:, :length]))


@pytest.mark.parametrize("length", [5, 40])
def test_a_read_of_some_rows_needs_nothing_else_of_the_call(length):
    """A loop sorts its rows and leaves some behind; their documents and padding are in the context."""
    mixer, x, other = lively(), vectors(3, length), vectors(3, length, seed=1)
    valid = torch.rand(3, length, generator=torch.Generator().manual_seed(0)) > 0.2
    segments = torch.arange(length).div(4, rounding_mode="floor").expand(3, -1)
    step, rows = step_of(x, valid=valid, segments=segments), torch.tensor([2, 0])
    context, _ = mixer.write(x, step)
    chosen = type(context)(*(part[rows] for part in context))
    said = mixer.read(other[rows], chosen, step_of(other[rows]))
    whole = mixer.read(other, context, step)[rows]
    assert (said - whole)[valid[rows]].abs().max() < 1e-5 * whole.abs().max()


def test_how_tokens_are_cut_into_short_calls_changes_no_bit():
    mixer, x = lively(), vectors(length=16)
    whole = Conversation(mixer)
    y = whole.feed(x)
    for cut in ((1,) * 16, (3, 1, 12), (8, 8)):
        parts = Conversation(mixer)
        assert torch.equal(torch.cat([parts.feed(piece) for piece in x.split(list(cut), 1)], 1), y)
        assert torch.equal(parts.state.layers[0].c, whole.state.layers[0].c)


@pytest.mark.parametrize("kept", [0, 1, 7, 20])
def test_a_commit_has_the_bits_of_never_having_read_the_rest(kept):
    mixer, x, draft = lively(), vectors(length=9), vectors(length=20, seed=2)
    drafted, plain = Conversation(mixer), Conversation(mixer)
    drafted.feed(x), plain.feed(x)
    drafted.feed(draft, keep_rollback=True)
    drafted.state = drafted.state.commit(range(kept))
    for t in range(kept):
        plain.feed(draft[:, t : t + 1])
    ours, theirs = drafted.state.layers[0], plain.state.layers[0]
    assert isinstance(ours, MLSTMState)
    assert ours.rollback is None
    assert all(torch.equal(a, b) for a, b in zip(ours.cell, theirs.cell, strict=True))


def test_what_a_call_keeps_for_a_commit_is_rows_and_no_matrix_a_token():
    conversation = Conversation(lively())
    conversation.feed(vectors(length=12), keep_rollback=True)
    conversation.feed(vectors(length=12), keep_rollback=True)
    before, rows = conversation.state.layers[0].rollback
    assert before.rollback is None
    assert sum(row[0, 0].numel() for row in rows) == 2 * D + 2 * CONFIG.n_heads + 1


@pytest.mark.parametrize("length", [5, 40])
def test_padding_leaves_what_is_remembered(length):
    conversation = Conversation(lively())
    conversation.feed(vectors())
    before = conversation.state.layers[0]
    conversation.feed(vectors(length=length, seed=1), valid=torch.zeros(2, length, dtype=torch.bool))
    after = conversation.state.layers[0]
    assert torch.equal(before.m, after.m)
    assert torch.equal(before.c, after.c)
    assert torch.equal(before.n, after.n)


def test_who_watches_sees_where_what_is_found_is_divided_by_no_normaliser():
    mixer, x = lively(), vectors(length=16)
    probe = Probe(mixer, {"*:floored": capture})
    run(mixer, x, probe=probe)
    context, _ = mixer.write(x, step_of(x))
    q = mixer.query(mixer.norm(x))[..., :D].unflatten(-1, (2, 16))
    normaliser = (context.n * context.m.exp()[..., None] * q).sum(-1).abs()
    (floored,) = probe.seen[":floored"]
    assert torch.equal(floored, normaliser < 1)
    assert floored.any()
    assert not floored.all()


@pytest.mark.parametrize("length", [16, 40])
def test_padding_gives_no_gradient_and_takes_none(length):
    mixer, x = lively(), vectors(length=length).requires_grad_()
    valid = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) > 0.3
    (run(mixer, x, valid=valid) * valid[..., None]).square().sum().backward()
    assert x.grad[~valid].abs().max() == 0
    assert x.grad[valid].abs().min(-1).values.max() > 0
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_the_memory_is_float32_whatever_the_products_are():
    mixer, x = lively(), vectors(length=40)
    probe = Probe(mixer, {"*": capture})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = run(mixer, x.bfloat16(), probe=probe)
        context, _ = mixer.write(x, step_of(x))
    assert y.dtype is torch.bfloat16
    assert {seen[0].dtype for address, seen in probe.seen.items() if address != ":floored"} == {torch.float32}
    assert {part.dtype for part in context} == {torch.float32}
    plain = run(mixer, x)
    assert (y - plain).abs().max() < 5e-2 * plain.abs().max()


@pytest.mark.parametrize("length", [16, 40])
def test_it_compiles_without_a_break(length):
    mixer, x = lively(), vectors(length=length)
    plain = run(mixer, x)
    mixer.compile(fullgraph=True, backend="aot_eager")
    assert (run(mixer, x) - plain).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"n_heads": 0}, "n_heads is 0"), ({"head_dim": -1}, "head_dim is -1"), ({"gate_rank": 0}, "use 1 or more")],
)
def test_impossible_settings_are_errors(settings, words):
    with pytest.raises(ConfigError, match=words):
        CONFIG.replace(**settings)
