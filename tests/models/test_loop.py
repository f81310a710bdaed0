"""The loop: depth 1 is the plain stack, memories do not depend on the depth, drawn depths are what was asked for."""

import pytest
import torch
from chimera_example import small_chimera

from laws import enliven, logits_of, tokens_of
from positronic.errors import ConfigError
from positronic.models import build, preset
from positronic.nn.loop import SECTIONS, LoopConfig, Looped, LoopState, quantiles
from positronic.state import ForwardOptions, Step
from positronic.tree import tensors

DEPTHS = [1, 2, 6]


@pytest.fixture(scope="module")
def model():
    """Weights of a third of the laws' size: iterated six times, larger ones multiply roundings a hundredfold."""
    return enliven(build(small_chimera(n_layers=6, prelude=1, coda=1)), scale=0.1)


def at_depth(model, tokens, loops, state=None, **options):
    return model(tokens, state, ForwardOptions(loops=loops, **options))


def test_quantiles_follow_the_truncated_distribution():
    depths = quantiles(10_000, mean=2.0, most=6)
    assert depths == sorted(depths, reverse=True)
    assert sum(depths) / len(depths) == pytest.approx(LoopConfig().mean_depth, abs=1e-3)
    assert depths.count(1) / len(depths) == pytest.approx(3 * 0.1353352832, abs=1e-3)  # at most 1: e^-2 (1 + 2)
    assert set(depths) == set(range(1, 7))
    assert LoopConfig().mean_depth == pytest.approx(2.13, abs=0.01)


@torch.no_grad()
def test_depth_1_is_the_plain_stack_to_the_bit(model):
    tokens = tokens_of(2, 17, end=True)
    step = model.trunk.prepared(Step.of(tokens, None, None, 7), whole_rows=True)
    x = model.embed(tokens)
    for name in SECTIONS:
        x = model.walk.norm(x) if name == "loop" else x
        x = model.trunk.through(model.trunk.sections[name], x, step).x
    assert torch.equal(at_depth(model, tokens, 1).hidden, x)


@torch.no_grad()
def test_memories_in_the_loop_are_the_same_for_every_depth(model):
    prompt, more = tokens_of(2, 21, end=True), tokens_of(2, 3, seed=4)
    kept = []
    for depth in [*range(1, 7), "auto"]:
        state = at_depth(model, prompt, depth, model.init_state(2)).state
        state = at_depth(model, more, depth, state).state
        last = model.trunk.sections["loop"].stop
        kept.append([x for _, x, _ in tensors(state.layers[:last])])
    for other in kept[1:]:
        assert all(torch.equal(a, b) for a, b in zip(kept[0], other, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("loops", [*DEPTHS, "auto"])
@pytest.mark.parametrize("length", [17, 150])
def test_the_future_changes_no_bit_at_any_depth(model, loops, length):
    a, b = tokens_of(2, length, end=True), tokens_of(2, length, end=True)
    cut = length // 2
    b[:, cut:] = tokens_of(2, length - cut, seed=5)
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[1, :3] = valid[0, cut - 2] = False
    ours, theirs = (at_depth(model, x, loops, valid=valid).hidden[:, :cut][valid[:, :cut]] for x in (a, b))
    assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("loops", [*DEPTHS, "auto"])
@pytest.mark.parametrize("cut", [(1, 16), (7, 10), (3, 1, 13), (1,) * 17])
def test_every_depth_streams_what_it_says_at_once(model, loops, cut):
    tokens, state, said = tokens_of(2, 17, end=True), model.init_state(2), []
    for piece in tokens.split(list(cut), 1):
        out = at_depth(model, piece, loops, state)
        state = out.state
        said.append(model.logits(out.hidden))
    whole = model.logits(at_depth(model, tokens, loops).hidden)
    assert (torch.cat(said, 1) - whole).abs().max() < 1e-4


@torch.no_grad()
def test_rows_of_one_call_have_depths_of_their_own(model):
    tokens, depths = tokens_of(5, 20, end=True), torch.tensor([3, 1, 0, 6, 2])
    together = at_depth(model, tokens, depths).hidden
    for row, depth in enumerate(depths.tolist()):
        alone = at_depth(model, tokens[row : row + 1], depth).hidden
        assert (together[row] - alone[0]).abs().max() < 1e-5 * alone.abs().max()


@torch.no_grad()
def test_early_exit_ends_each_token_where_it_has_come_to_rest(model):
    tokens, config = tokens_of(2, 20), model.walk.config
    loose = enliven(build(model.config.replace(looping=config.replace(exit_below=1e9))))
    tight = enliven(build(model.config.replace(looping=config.replace(exit_below=1e-12))))
    assert torch.equal(at_depth(loose, tokens, "auto").hidden, at_depth(loose, tokens, 1).hidden)
    assert torch.equal(at_depth(tight, tokens, "auto").hidden, at_depth(tight, tokens, config.most).hidden)
    seen = []
    for below in (1e-12, 0.3, 1e9):
        some = enliven(build(model.config.replace(looping=config.replace(exit_below=below))))
        spent = at_depth(some, tokens, "auto", some.init_state(2)).state.layers[-1]
        seen.append(float(spent.spent.sum()))
    assert seen[0] == config.most * tokens.numel()
    assert seen[2] == tokens.numel()
    assert seen[2] <= seen[1] <= seen[0]


@torch.no_grad()
def test_a_state_knows_what_was_spent(model):
    tokens = tokens_of(2, 9)
    valid = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
    state = at_depth(model, tokens, 3, model.init_state(2), valid=valid).state
    after = at_depth(model, tokens_of(2, 4, seed=3), 5, state, keep_rollback=True).state
    assert isinstance(after.layers[-1], LoopState)
    assert after.layers[-1].spent.tolist() == [3 * 5 + 5 * 4, 3 * 9 + 5 * 4]
    assert after.commit(range(2)).layers[-1].spent.tolist() == [3 * 5 + 5 * 2, 3 * 9 + 5 * 2]


@pytest.mark.parametrize("n", [5, 16, 24])
def test_drawn_rows_say_what_their_depth_says(model, n):
    """Whatever the order in which rows are dealt depths, and the same depths every time from 16 rows on."""
    tokens = tokens_of(n, 20, end=True)
    with torch.no_grad():
        at = torch.stack([at_depth(model, tokens, depth).hidden for depth in range(1, 7)])
    model.train()
    dealt = []
    for seed in range(2):
        torch.manual_seed(seed)
        drawn = model(tokens).hidden.detach()
        error = (at - drawn).abs().amax((2, 3)) / at.abs().amax()  # (6, n)
        assert error.amin(0).max() < 1e-5
        dealt.append((error.argmin(0) + 1).tolist())
        torch.manual_seed(seed)
        assert torch.equal(model(tokens).hidden.detach(), drawn)
    model.eval()
    if n >= 16:
        assert sorted(dealt[0], reverse=True) == sorted(dealt[1], reverse=True) == quantiles(n, 2.0, 6)
        assert dealt[0] != dealt[1]


def test_gradient_passes_the_last_iteration_alone_and_the_first_writes(model):
    """What the first iteration writes is read by the last: its keys are trained at depth 4 as well."""
    tokens = tokens_of(2, 20)
    model.zero_grad()
    at_depth(model, tokens, 4).hidden.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if "trunk" in name and (p.grad is None or not p.grad.any())]
    assert not silent
    assert model.walk.time.grad.any()
    model.zero_grad()


@pytest.mark.parametrize(("loops", "memory"), [(None, "first_write"), (3, "first_write"), (None, "per_iteration")])
def test_recomputed_gradients_equal_plain_ones(model, loops, memory):
    tokens, found = tokens_of(4, 20), []
    model = enliven(build(model.config.replace(looping=LoopConfig(memory=memory))), scale=0.1).train()
    for recompute in (False, True):
        model.trunk.recompute = recompute
        model.zero_grad()
        torch.manual_seed(3)
        at_depth(model, tokens, loops).hidden.square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@torch.no_grad()
@pytest.mark.parametrize("size", [1e4, -1e4, 1e38, 0.0])
def test_the_pull_to_the_entry_is_below_1_for_any_parameters(size):
    loop = Looped(LoopConfig(), 8)
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        loop.log_rate.fill_(size * signs[0])
        loop.time.fill_(size * signs[1])
        e, h = torch.zeros(1, 1, 8), torch.ones(1, 1, 8)
        decay = loop._drawn_to(e, h, Step.of(torch.zeros(1, 1, dtype=torch.long)))
        assert (decay >= 0).all()
        assert (decay < 1).all()


@torch.no_grad()
def test_a_thousand_iterations_stay_bounded(model):
    tokens = tokens_of(2, 9)
    step = model.trunk.prepared(Step.of(tokens, None, None, 7), whole_rows=True)
    e, places = model.walk.norm(model.embed(tokens)), model.trunk.sections["loop"]
    (h, _, _), contexts = model.trunk.enter(places, e, step)
    sizes = []
    for _ in range(1000):
        h = model.walk._again(model.trunk, e, h, contexts, step)
        sizes.append(float(h.norm(dim=-1).max()))
    assert max(sizes[500:]) <= 2 * max(sizes[:100])


@torch.no_grad()
def test_iterations_with_memories_of_their_own_stream_and_have_one_depth():
    model = enliven(build(small_chimera(looping=LoopConfig(usual=3, memory="per_iteration"))), scale=0.1)
    tokens = tokens_of(2, 17, end=True)
    whole, state, said = logits_of(model, tokens), model.init_state(2), []
    assert len(state.layers) == 3 * len(model.trunk) + 1
    for piece in tokens.split([5, 12], 1):
        out = model(piece, state)
        state = out.state
        said.append(model.logits(out.hidden))
    assert (torch.cat(said, 1) - whole).abs().max() < 1e-4
    for loops in ("auto", 2, 4):
        with pytest.raises(ConfigError, match="its depth is always 3"):
            at_depth(model, tokens, loops)


@torch.no_grad()
def test_a_single_iteration_with_memories_of_its_own_stays_one_in_training():
    model = build(small_chimera(looping=LoopConfig(usual=1, mean=6.0, memory="per_iteration"))).train()
    tokens = tokens_of(4, 17)
    assert torch.equal(model(tokens).hidden, model.eval()(tokens).hidden)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prelude": 2, "coda": 2}, "leaves none to the loop"),
        ({"pattern": ("GD", "QQ")}, "each of GD, XM, TM, SK"),
        ({"pattern": ()}, "one mixer or more"),
        ({"experts_every": 0}, "use 1 or more"),
        ({"d_model": 40}, "d_model|heads|width"),
    ],
)
def test_what_no_chimera_can_be_is_refused_in_a_sentence(change, said):
    with pytest.raises(ConfigError, match=said):
        build(small_chimera(**change))


def test_depths_that_cannot_be_are_refused_in_a_sentence(model):
    for loops, said in ((7, "use 1 to 6"), (-1, "use 1 to 6"), (0, "use 1 to 6")):
        with pytest.raises(ConfigError, match=said):
            model.config.check_loops(loops)
    with pytest.raises(ConfigError, match="no loop"):
        preset("tinygpt-tiny").check_loops(2)
    with pytest.raises(ConfigError, match=r"loop\.usual is 7"):
        LoopConfig(usual=7)
