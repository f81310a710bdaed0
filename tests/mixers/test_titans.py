"""Titans against its definition, token by token; what it remembers, what it forgets, and what may be switched off."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from laws import Alone, enliven, relative_error, whole
from positronic import tree
from positronic.errors import ConfigError
from positronic.generation.requests.memories import memories_in, with_memories
from positronic.kernels.deep_memory import learn_reference, recall
from positronic.mixers.deep_memory import DeepMemoryConfig, DeepMemoryState
from positronic.mixers.titans import Titans, TitansConfig
from positronic.nn.rope import rotate, rotation
from positronic.observe.ablate import ablate, organs_of
from positronic.probe import Probe, capture, replace
from positronic.state import DecodeState, ForwardOptions, Step

D = 32
SMALL = TitansConfig(n_kv_heads=2, head_dim=8, window=8, slots=4, memory=DeepMemoryConfig(chunk=4, theta_max=0.25))
USUAL = SMALL.replace(memory=DeepMemoryConfig())
"""With chunks of 64 tokens."""


def vectors(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, tokens, D, generator=torch.Generator().manual_seed(seed))


def sample(batch: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which tokens are real, and their documents."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, tokens, generator=g) < 0.8
    return valid, (torch.rand(batch, tokens, generator=g) < 0.03).long().cumsum(1)


def alive(config: TitansConfig, scale: float = 0.3) -> Titans:
    """Random values everywhere, and a memory that keeps for a while what it writes plainly."""
    m = enliven(config.build(D), scale)
    if m.memory is not None:
        with torch.no_grad():
            m.memory.gate_bias.add_(torch.tensor([2.0, 0.0, -5.0])[:, None])
    return m


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def by_hand(m: Titans, x: Tensor, valid: Tensor, segments: Tensor, frozen: tuple[int, ...] = ()) -> Tensor:
    """The definition of one row, x (T, D): a loop over tokens, heads and whatever each meets."""
    c, memory = m.config, m.memory
    n_heads, groups, width = m.n_heads, c.n_kv_heads, c.head_dim
    weights = momentum = start = None if memory is None else memory.start[None]
    seen, chunk, said, position, document = [], [], [], 0, None
    for t in range(len(x)):
        if not valid[t]:
            said.append(torch.zeros(D))
            continue
        if document != segments[t]:
            document, seen, chunk, weights = segments[t], [], [], start
            momentum = None if start is None else torch.zeros_like(start)
        n = m.norm(x[t])
        cos, sin = (part[0] for part in rotation(torch.tensor([[position]]), width, 10_000.0))  # (1, 1, K)
        q, *asked = m.query(n).view(-1, n_heads, width)
        k, v = m.keys_values(n).view(2, groups, width)
        seen = [*seen, (rotate(k[:, None], cos, sin)[:, 0], v)][-c.window :]
        turned = rotate(q[:, None], cos, sin)[:, 0]
        if memory is not None:
            recalled = memory.norm(recall(weights[0], unit(asked[0])))  # (H, K)
            own = m.keys_values(m.recalled_norm(recalled.flatten())).view(2, groups, width)
        heads = []
        for h in range(n_heads):
            g = h // (n_heads // groups)
            # The window is met by the turned query, all else by the query as it is: one softmax over both.
            logits = [(turned[h] * k[g]).sum() for k, _ in seen] + [(q[h] * k).sum() for k in m.slots[0, g]]
            values = [v[g] for _, v in seen] + list(m.slots[1, g])
            if memory is not None:
                logits, values = [*logits, (q[h] * own[0, g]).sum()], [*values, own[1, g]]
            heads.append(((torch.stack(logits) / math.sqrt(width)).softmax(0)[:, None] * torch.stack(values)).sum(0))
        o = torch.cat(heads)
        if memory is not None:
            o = o * (1 + torch.tanh(m.gate * recalled.flatten()))
            chunk.append((n, 0.0 if t in frozen else 1.0))
            if len(chunk) == memory.config.chunk:
                if t not in frozen:
                    weights, momentum = learned(memory, chunk, weights, momentum)
                chunk = []
        said.append(m.out(m.inner_norm(o)))
        position += 1
    return torch.stack(said)


def learned(memory, chunk: list[tuple[Tensor, float]], weights: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
    """What a whole chunk makes of the memory of one row, by the kernel's definition."""
    c, (heads, _, _, width) = memory.config, memory.start.shape
    n = torch.stack([n for n, _ in chunk])
    k, v = unit(memory.keys_values(n).view(len(n), 2, heads, width)).unbind(1)
    gates = torch.sigmoid(memory.gates(n).view(len(n), 3, heads) + memory.gate_bias)
    gates = gates * torch.tensor([c.theta_max, 1.0, 1.0])[:, None]
    written = torch.tensor([w for _, w in chunk])[:, None, None].expand(-1, heads, 1)
    gates = torch.cat([gates.mT, written], -1)
    found = learn_reference(
        k[None, None], v[None, None], gates[None, None], None, weights, momentum, memory.start[None], c.trust, c.cap
    )
    return found.weights[:, 1], found.momentum


BOLD = DeepMemoryConfig(chunk=5, expand=1, theta_max=2.0, trust=0.3, cap=1.0)
CONFIGS = {
    "small": SMALL,
    "usual chunks": USUAL,
    "one group, bold memory": SMALL.replace(n_kv_heads=1, window=5, memory=BOLD),
    "wide window": SMALL.replace(window=70, memory=DeepMemoryConfig(chunk=7, theta_max=0.25)),
    "without memory": SMALL.replace(memory=None),
}


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("padded", [False, True])
def test_whole_rows_are_the_definition(config, padded):
    m, x = alive(config), vectors(2, 150)
    valid, segments = sample(2, 150)
    segments[1] = 0
    valid = valid if padded else torch.ones_like(valid)
    found = whole(m, x, segments=segments, **({"valid": valid} if padded else {}))
    for row in range(2):
        truth, real = by_hand(m, x[row], valid[row], segments[row]), valid[row]
        assert relative_error(found[row, real], truth[real]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("cut", [(150,), (70, 80), (1,) * 20 + (130,), (64, 1, 1, 20, 64)])
def test_calls_are_the_definition_and_frozen_tokens_count_but_are_not_written(config, cut):
    m, x = alive(config), vectors(1, 150)
    valid, segments = sample(1, 150, seed=3)
    bounds = [0, *torch.tensor(cut).cumsum(0).tolist()]
    for bound in bounds[1:-1]:  # a document of one call is numbered anew in the next: cuts fall where none begins
        segments[:, bound:] += (segments[:, bound - 1] - segments[:, bound])[:, None]
    alone, said, frozen = Alone(m, 1), [], []
    for i, (a, b) in enumerate(pairwise(bounds)):
        write = i % 3 != 1
        frozen += [] if write else range(a, b)
        said.append(alone.feed(x[:, a:b], valid=valid[:, a:b], segments=segments[:, a:b], write_memory=write))
    truth, real = by_hand(m, x[0], valid[0], segments[0], tuple(frozen)), valid[0]
    assert relative_error(torch.cat(said, 1)[0, real], truth[real]) < 1e-5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_of_whole_rows_are_those_of_the_definition(config):
    m, x = alive(config), vectors(1, 90).requires_grad_()
    valid, segments = sample(1, 90, seed=5)
    told = torch.randn(90, D, generator=torch.Generator().manual_seed(6)) * valid[0, :, None]
    wanted = [x, *m.parameters()]
    both = whole(m, x, valid=valid, segments=segments)[0], by_hand(m, x[0], valid[0], segments[0])
    found = [torch.autograd.grad((said * told).sum(), wanted, allow_unused=True) for said in both]
    for ours, theirs, w in zip(*found, wanted, strict=True):
        assert (ours is None or not ours.any()) if theirs is None else relative_error(ours, theirs) < 1e-4, w.shape


def count(config: TitansConfig, d_model: int) -> int:
    return sum(p.numel() for p in config.build(d_model).parameters())


@pytest.mark.parametrize(("heads", "groups", "expand"), [(2, 1, 2), (6, 2, 2), (10, 2, 2), (40, 8, 1)])
def test_parameters_are_counted_as_specified(heads, groups, expand):
    config = TitansConfig(n_kv_heads=groups, memory=DeepMemoryConfig(expand=expand))
    width = 64 * heads
    with torch.device("meta"):
        found = count(config, width)
    maps = 5 * width**2 + 2 * width * 64 * groups + 3 * width * heads + 3 * heads
    assert found == width + maps + 128 * 64 * groups + 2 * heads * 64**2 * expand + 64 + 3 * width


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("config", [SMALL, USUAL, SMALL.replace(window=100)], ids=["small", "usual", "wide"])
def test_the_future_changes_no_bit_of_the_past_up_to_512_tokens(config, padded):
    m, x = alive(config), vectors(2, 512)
    valid, segments = sample(2, 512)
    wishes = {"segments": segments} | ({"valid": valid} if padded else {})
    for t in (1, 63, 64, 65, 200, 511):
        other, changed = x.clone(), dict(wishes)
        other[:, t:] = vectors(2, 512 - t, seed=9)
        moved = segments.clone()
        moved[:, t + 1 :] += 1 + torch.arange(511 - t) // 7  # documents end elsewhere, too
        changed["segments"] = moved
        real = valid[:, :t] if padded else torch.ones(2, t, dtype=torch.bool)
        assert torch.equal(whole(m, x, **wishes)[:, :t][real], whole(m, other, **changed)[:, :t][real]), t


def test_four_million_tokens_on_a_query_is_turned_as_far_as_its_place_asks():
    mixer, place = USUAL.build(D), 3_999_999
    step = Step(torch.tensor([[1]]), torch.tensor([[place]]))
    turned = mixer.prepare(step)[mixer.layout].cos[0, 0, 0, 1]
    assert abs(float(turned) - math.cos(place * 1e4 ** (-2 / USUAL.head_dim))) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 8192])
def test_a_state_is_as_large_after_4096_tokens_as_after_64(capacity):
    alone, sizes = Alone(alive(USUAL), 1, capacity), [tree.n_bytes(USUAL.build(D).init_state(1))]
    for tokens in (64, 3, 1, 4028):
        alone.feed(vectors(1, tokens))
        sizes.append(tree.n_bytes(alone.state.layers))
        storages = [x.untyped_storage() for _, x, _ in tree.tensors(alone.state.layers)]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        assert sum(held.values()) < 1.5 * sizes[-1], "no call is held in memory by a view"
    assert len(set(sizes)) == 1


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_calls_with_a_state_ask_no_device_what_it_holds(padded):
    """The meta device holds nothing."""
    m, on = alive(SMALL).to("meta"), {"device": "meta"}
    state = DecodeState.new([m.init_state(2)], 2, torch.device("meta"))
    for tokens in (1, 5, 90):
        valid = torch.ones(2, tokens, dtype=torch.bool, **on) if padded else None
        options = ForwardOptions(valid=valid, segments=torch.zeros(2, tokens, dtype=torch.long, **on))
        step = Step.of(torch.zeros(2, tokens, dtype=torch.long, **on), state, options)
        y, layer, _ = m(torch.zeros(2, tokens, D, **on), step, state.layers[0])
        state = step.next_state(state, [layer])
        assert y.shape == (2, tokens, D)


def memory_of(alone: Alone) -> DeepMemoryState:
    (found,) = memories_in(alone.state)
    assert isinstance(found, DeepMemoryState)
    return found


@torch.no_grad()
def test_a_frozen_memory_stays_to_the_bit_while_the_rest_goes_on():
    m = alive(SMALL)
    alone, writing = Alone(m, 2), Alone(m, 2)
    alone.feed(vectors(2, 16)), writing.feed(vectors(2, 16))  # whole chunks: no token waits to be learned
    before, ring = memory_of(alone), alone.state.layers[0].ring
    for tokens in (1, 9, 40):
        x = vectors(2, tokens, seed=tokens)
        alone.feed(x, write_memory=False), writing.feed(x)
        assert torch.equal(memory_of(alone).weights, before.weights)
        assert torch.equal(memory_of(alone).momentum, before.momentum)
    assert not torch.equal(memory_of(writing).weights, before.weights)
    assert not torch.equal(alone.state.layers[0].ring.rows, ring.rows)
    for kept, new in zip(alone.state.layers[0].ring.rows, writing.state.layers[0].ring.rows, strict=True):
        assert torch.equal(kept, new), "the window does not know that the memory is frozen"
    segments = torch.tensor([[0, 0, 1, 1]] * 2)
    alone.feed(vectors(2, 4), write_memory=False, segments=segments)
    assert torch.equal(memory_of(alone).weights[0], m.memory.start), "a document that ends is forgotten all the same"


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, USUAL], ids=["small", "usual"])
@pytest.mark.parametrize("tokens", [3, 31, 70])
def test_a_conversation_kept_in_the_middle_of_a_chunk_goes_on_with_the_same_bits(config, tokens):
    m = alive(config)
    alone = Alone(m, 1)
    alone.feed(vectors(1, tokens))
    kept = {path: tensor.clone() for path, tensor, _ in tree.tensors(alone.state)}
    blank = Alone(m, 1)
    blank.state = tree.filled(blank.state, kept)
    for more in (1, 2, 61, 1, 30):
        x = vectors(1, more, seed=more)
        assert torch.equal(alone.feed(x), blank.feed(x))
    assert all(
        torch.equal(a, b) for (_, a, _), (_, b, _) in zip(*map(tree.tensors, (alone.state, blank.state)), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 4, 6, 11])
def test_a_commit_is_never_having_read_the_rest_to_the_bit(kept, padded):
    """Given the same rows: what enters a memory of a token must not depend on the others of its call."""
    m = alive(SMALL)
    alone = Alone(m, 2)
    alone.feed(vectors(2, 18))
    valid = torch.tensor([[True] * 4 + [False] * 2 + [True] * 5, [False] + [True] * 10])
    segments = torch.tensor([[0] * 6 + [1] * 5, [0] * 11])
    wishes: dict[str, Any] = {"segments": segments} | ({"valid": valid} if padded else {})
    before = alone.state
    alone.feed(vectors(2, 11, seed=2), keep_rollback=True, **wishes)
    committed = alone.state.commit(range(kept))
    memory = committed.layers[0].memory
    if not kept:
        (was,), rings = memories_in(before), [s.layers[0].ring.unrolled(s.position) for s in (committed, before)]
        assert torch.equal(*rings)
        assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(*map(tree.tensors, (memory, was)), strict=True))
        return
    tokens, place, fresh, real, start = memory_of(alone).rollback[1]
    (old,) = memories_in(before)
    for t in range(kept):  # one by one
        here = slice(t, t + 1)
        old = old.after(tokens[:, here], place[:, here], fresh[:, here] & real[:, here], real[:, here], start[:, here])
    assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(*map(tree.tensors, (memory, old)), strict=True))
    whole_call = Alone(m, 2)
    whole_call.state = before
    whole_call.feed(vectors(2, 11, seed=2), **wishes)
    if kept == 11:
        pairs = zip(*map(tree.tensors, (committed.layers, whole_call.state.layers)), strict=True)
        assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in pairs)
    assert memory.rollback is None
    assert memory_of(alone).rollback[0].rollback is None, "no state holds all before it"


@torch.no_grad()
def test_a_memory_that_outlives_its_conversation_is_what_the_next_begins_with():
    m = alive(SMALL)
    alone, fresh, next_one = Alone(m, 1), Alone(m, 1), Alone(m, 1)
    alone.feed(vectors(1, 18))
    next_one.state = with_memories(fresh.state, list(memories_in(alone.state)))
    carried = memory_of(next_one)
    assert torch.equal(carried.weights, memory_of(alone).weights)
    assert not carried.buffer.any(), "the beginning of a chunk is not carried into another conversation"
    x = vectors(1, 3, seed=5)
    assert not torch.equal(next_one.feed(x), fresh.feed(x))


def taken(context: Any, rows: Tensor) -> Any:
    """Rows of a context."""
    if isinstance(context, tuple):
        return type(context)(*(taken(part, rows) for part in context))
    return context[rows] if isinstance(context, Tensor) else context


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("tokens", [9, 90])
@pytest.mark.parametrize("cached", [False, True])
def test_other_queries_of_some_rows_read_what_was_written(config, tokens, cached):
    m, x, y = alive(config), vectors(3, tokens), vectors(3, tokens, seed=4)
    valid, segments = sample(3, tokens)
    options = ForwardOptions(valid=valid, segments=segments)
    state = DecodeState.new([m.init_state(3)], 3, torch.device("cpu")) if cached else None
    step = Step.of(torch.zeros(3, tokens, dtype=torch.long), state, options)
    context, _ = m.write(x, step, state.layers[0] if state else None)
    assert torch.equal(m.read(x, context, step), m(x, step, state.layers[0] if state else None).y)
    rows = torch.tensor([2, 0])
    other = Step.of(torch.zeros(2, tokens, dtype=torch.long))  # of no meaning to what was written
    said = m.read(y[rows], taken(context, rows), other)
    real = valid[rows]
    assert torch.equal(said[real], m.read(y, context, step)[rows][real])


def test_the_memory_is_an_organ_of_its_own(monkeypatch):
    m = alive(SMALL)
    x = vectors(1, 18)
    probe = Probe(m, {"memory:current": replace(torch.zeros_like)})
    with torch.no_grad():
        without = whole(m, x, probe=probe)
        monkeypatch.setattr(type(m.memory), "read", lambda self, q, known, step: torch.zeros_like(q))
        assert torch.equal(whole(m, x), without)
        monkeypatch.undo()
        assert not torch.equal(whole(m, x), without)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = m

        def forward(self, tokens, options):
            return whole(self.layer, vectors(*tokens.shape), probe=options.probe)

    assert list(organs_of(Model())) == ["deep_memory"]
    assert ablate(Model(), ["deep_memory"]).verbs.keys() == {"layer.memory:current"}


@torch.no_grad()
def test_taps_show_what_they_declare():
    m, x = alive(SMALL), vectors(2, 18)
    probe = Probe(m, {"*": capture})
    whole(m, x, probe=probe)
    shapes = {name: tuple(seen[0].shape) for name, seen in probe.seen.items()}
    assert shapes == {
        ":heads": (2, 18, 4, 8),
        ":weights": (2, 2, 1, 2, 18, 18 + 4 + 1),
        "memory:current": (2, 18, 4, 8),
        "memory:gates": (2, 18, 4, 3),
        "memory:memory": (2, 5, 4, 2, 16, 8),
        "memory:share": (2, 4, 4),
    }
    assert (probe.seen[":weights"][0].sum(-1) - 1).abs().max() < 1e-6


@torch.no_grad()
def test_where_no_chunk_ends_a_share_is_of_none():
    m, x = alive(SMALL), vectors(2, 3)
    probe = Probe(m, {"memory:share": capture})
    whole(m, x, probe=probe)
    assert probe.seen["memory:share"][0].shape == (2, 0, 4)


def test_a_new_memory_is_heard_through_its_slot_alone():
    m = USUAL.build(D)
    assert not m.gate.any()
    assert m.memory.gate_bias.tolist() == [[-2.0] * 4, [0.0] * 4, [-7.0] * 4]
    size = DeepMemoryConfig().build(128, 2, 64).start.square().mean((0, 2, 3)).sqrt()
    assert (size * torch.tensor([64, 128]).sqrt() - 1).abs().max() < 0.05


@pytest.mark.parametrize("tokens", [9, 90])
def test_where_nothing_is_written_gradients_are_numbers(tokens):
    m, x = alive(SMALL), vectors(2, tokens).requires_grad_()
    whole(m, x, write_memory=False).square().sum().backward()
    whole(m, x, valid=torch.zeros(2, tokens, dtype=torch.bool)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    assert x.grad.isfinite().all()
    assert not m.memory.keys_values.weight.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [12, 90])
def test_bfloat16_is_near(tokens):
    m, x = alive(SMALL, 0.1), vectors(2, tokens)
    truth = whole(m, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(whole(m, x).float(), truth) < 0.05
    m = m.to(torch.bfloat16)
    assert relative_error(whole(m, x.bfloat16()).float(), truth) < 0.08
    alone = Alone(m, 2)
    said = torch.cat([alone.feed(piece) for piece in x.bfloat16().split(5, 1)], 1)
    assert said.dtype == torch.bfloat16
    assert relative_error(said.float(), truth) < 0.08
    assert memory_of(alone).weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_kv_heads": 0}, "1 or more"),
        ({"head_dim": 7}, "even number"),
        ({"window": 0}, "1 or more"),
        ({"slots": 0}, "1 or more"),
    ],
)
def test_impossible_layers_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SMALL.replace(**wrong)


@pytest.mark.parametrize(("d_model", "wrong"), [(30, {}), (32, {"n_kv_heads": 3}), (32, {"head_dim": 64})])
def test_heads_fill_the_stream_and_their_groups(d_model, wrong):
    with pytest.raises(ConfigError, match="divides d_model"):
        SMALL.replace(**wrong).build(d_model)


@pytest.mark.parametrize("wrong", [{"expand": 0}, {"chunk": 0}, {"theta_max": 0.0}, {"trust": 0.0}, {"cap": 0.5}])
def test_impossible_memories_are_refused(wrong):
    with pytest.raises(ConfigError, match="use"):
        DeepMemoryConfig(**wrong)
