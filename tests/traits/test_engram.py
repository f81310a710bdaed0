"""Engram: rows are the hash of the last ids and of nothing else, however tokens are fed; a closed gate is silent."""

import math

import pytest
import torch
from alone import CUTS, Alone, at_once, opened
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError, TokenizerError
from positronic.nn.stack import SharedParts
from positronic.probe import Probe, capture
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.traits.engram import EngramConfig, EngramTables, hash_constants, hashed_rows

D, W, END = 32, 50, 7
RINGS = (4, 8, 8, 16)
SMALL = EngramConfig(slots=(0, 2), heads=2, rows=64, dim=4, width=8, seed=3)
DEFAULT_RINGS = (4, 8, 16, 32, 64, 128, 256)


def rows_by_hand(config: EngramConfig, codes: list[int]) -> list[list[int]]:
    """The definition in Python's unbounded integers: codes, newest first -> row of each table of each slot."""

    def number(index: int) -> int:
        z = config.seed
        for _ in range(index + 1):
            z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return (z ^ z >> 31) | 1

    found = []
    for slot in config.slots:
        found.append([])
        for order in range(1, config.orders + 1):
            for head in range(config.heads):
                first = ((slot * config.orders + order - 1) * config.heads + head) * (config.orders + 1)
                acc = sum(codes[i] * number(first + i) for i in range(order)) % 2**64
                acc ^= acc >> 29
                acc = acc * number(first + config.orders) % 2**64
                found[-1].append(acc * config.rows // 2**64)
    return found


def tokens_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(8, W, (batch, length), generator=torch.Generator().manual_seed(seed))


def small_tables(config: EngramConfig = SMALL) -> EngramTables:
    """Tables that hold their own row numbers: what is looked up says where it stood."""
    part = config.build_shared(W, RINGS)
    numbers = torch.arange(config.rows, dtype=torch.float32)
    part.table.data.copy_(numbers[:, None].expand_as(part.table))
    part.fit_vocabulary([max(8, token - token % 3) if token > 8 else token for token in range(W)])
    return part


def rows_of(value: Tensor, config: EngramConfig = SMALL) -> Tensor:
    """(B, T, slots, V) of such tables -> (B, T, slots, orders heads) rows."""
    return value.unflatten(-1, (-1, config.dim))[..., 0].long()


def stream(part: EngramTables, tokens: Tensor, cut, valid: Tensor | None = None) -> Tensor:
    """Feed in pieces, documents ending at END as in a model."""
    state, values, at = DecodeState.new([part.init_state(len(tokens))], len(tokens), torch.device("cpu")), [], 0
    for piece in tokens.split(list(cut), 1):
        real = None if valid is None else valid[:, at : at + piece.shape[1]]
        step = Step.of(piece, state, ForwardOptions(valid=real), END)
        value, after = part(step, state.layers[0])
        values.append(value)
        state, at = step.next_state(state, [after], END), at + piece.shape[1]
    return torch.cat(values, 1)


@torch.no_grad()
def test_rows_are_the_hash_of_the_last_three_codes_of_the_document():
    part, tokens = small_tables(), tokens_of(3, 17)
    tokens[:, 6] = tokens[1, 7] = END
    found = rows_of(part(Step.of(tokens, boundary_id=END))[0])
    canon = part.canon.tolist()
    for row, ids in enumerate(tokens.tolist()):
        document: list[int] = []
        for t, token in enumerate(ids):
            document = [] if token == END else document
            document.append(canon[token] + 1)
            codes = [*reversed(document), 0, 0][:3]
            assert found[row, t].tolist() == rows_by_hand(SMALL, codes), f"row {row}, token {t}"
            document = [] if token == END else document


@pytest.mark.parametrize("seed", range(5))
def test_any_codes_and_any_sizes_hash_as_unbounded_integers_do(seed):
    generator = torch.Generator().manual_seed(seed)
    config = EngramConfig(slots=(1, 4), orders=1 + seed, heads=2, rows=2 ** (1 + 3 * seed), seed=2**63 + seed)
    codes = torch.randint(0, 2**31, (20, config.orders), generator=generator)
    found = hashed_rows(codes, *hash_constants(config), config.rows)
    assert found.tolist() == [rows_by_hand(config, window) for window in codes.tolist()]


def test_the_rows_of_the_default_config_are_golden():
    codes = torch.tensor([[1, 0, 0], [263, 32, 16_512], [16_512, 16_512, 16_512]])
    found = hashed_rows(codes, *hash_constants(EngramConfig()), 8192)
    assert found.tolist() == GOLDEN
    assert [rows_by_hand(EngramConfig(), window) for window in codes.tolist()] == GOLDEN


def test_the_constants_are_those_of_splitmix64():
    factors, _ = hash_constants(EngramConfig(seed=1234567, orders=1, heads=1, slots=(0, 1)))
    assert [int(a) % 2**64 for a in factors.flatten()] == [6457827717110365317, 9817491932198370423]


def test_the_hashes_of_a_slot_do_not_depend_on_the_other_slots():
    both, alone = hash_constants(EngramConfig(slots=(0, 4))), hash_constants(EngramConfig(slots=(4,)))
    assert all(torch.equal(a[1], b[0]) for a, b in zip(both, alone, strict=True))


def test_hashes_fill_the_tables_evenly():
    codes = torch.cartesian_prod(*[torch.arange(32)] * 3)
    found = hashed_rows(codes, *hash_constants(EngramConfig()), 8192)[:, 0, 8:]  # order 3: 32,768 windows, 4 each
    for head in range(4):
        unused = (found[:, head].bincount(minlength=8192) == 0).float().mean().item()
        assert unused == pytest.approx(math.exp(-4), abs=0.005), "a random map leaves exp(-4) of the rows unused"


@torch.no_grad()
def test_pieces_of_one_canon_look_up_the_same_rows():
    part = small_tables()
    tokens = tokens_of(2, 17)
    same = part.canon[tokens].long()
    assert not torch.equal(same, tokens)
    assert torch.equal(part(Step.of(tokens))[0], part(Step.of(same))[0])


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
def test_cached_rows_equal_whole_rows_to_the_bit(cut):
    part, tokens = opened(SMALL.build_shared(W, RINGS)), tokens_of(3, 17)
    tokens[0, 3] = tokens[1, 0] = tokens[1, 10] = tokens[2, 16] = END
    whole, _ = part(Step.of(tokens, boundary_id=END))
    assert torch.equal(stream(part, tokens, cut), whole)


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
def test_padding_anywhere_is_as_if_it_were_not_there(cut):
    part = opened(SMALL.build_shared(W, RINGS))
    valid = torch.ones(2, 17, dtype=torch.bool)
    valid[0, :4] = valid[1, 6:9] = valid[1, 15:] = False
    tokens = tokens_of(2, 17)
    tokens[1, 4] = END
    found = stream(part, tokens, cut, valid)
    for row in range(2):
        real = tokens[row, valid[row]][None]
        assert torch.equal(found[row, valid[row]], part(Step.of(real, boundary_id=END))[0][0])
    whole, _ = part(Step.of(tokens, None, ForwardOptions(valid=valid), END))
    assert torch.equal(whole[valid], found[valid])


def organ_of(seed: int = 0) -> tuple[nn.Module, EngramTables, Tensor]:
    part, tables = opened(SMALL.build(D, RINGS)), opened(SMALL.build_shared(W, RINGS))
    return part, tables, torch.randn(2, 17, D, generator=torch.Generator().manual_seed(seed))


def calls(part: nn.Module, x: Tensor):
    def call(step: Step, state: None, begin: int, end: int):
        out = part(x[:, begin:end], x.new_zeros(2, end - begin, sum(RINGS)), step, state)
        return out.y, out.state

    return call


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
def test_the_current_of_pieces_equals_that_of_the_whole(cut):
    part, tables, x = organ_of()
    tokens, shared = tokens_of(2, 17), SharedParts({"engram": tables})
    alone = Alone(part, calls(part, x), 2, shared)
    pieces = torch.cat([alone.feed(piece) for piece in tokens.split(list(cut), 1)], 1)
    whole = at_once(calls(part, x), tokens, shared)
    assert (pieces - whole).abs().max() / whole.abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kept", range(6))
def test_committing_a_part_equals_never_having_fed_the_rest(kept):
    part, tables, _ = organ_of()
    tokens, shared = tokens_of(2, 17), SharedParts({"engram": tables})

    def call(step: Step, state: None, begin: int, end: int):
        return step.shared["engram"], None

    drafted, plain = Alone(part, call, 2, shared), Alone(part, call, 2, shared)
    draft = tokens_of(2, 5, seed=4)
    for alone in (drafted, plain):
        alone.feed(tokens[:, :9])
    drafted.feed(draft, keep_rollback=True, segments=torch.tensor([[0, 0, 1, 1, 1]] * 2))
    drafted.commit(kept)
    if kept:
        plain.feed(draft[:, :kept], segments=torch.tensor([[0, 0, 1, 1, 1][:kept]] * 2))
    ours, theirs = drafted.state.layers[1], plain.state.layers[1]
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(drafted.feed(tokens[:, 9:12]), plain.feed(tokens[:, 9:12]))


@torch.no_grad()
def test_select_takes_the_windows_of_its_rows():
    part = small_tables()
    tokens = tokens_of(3, 5)
    _, state = part(Step.of(tokens), part.init_state(3))
    rows = torch.tensor([2, 0, 2])
    more = Step.of(tokens_of(3, 4, seed=1)[rows])
    one_by_one = [part(Step.of(more.tokens[i : i + 1]), state.select(rows[i : i + 1]))[0] for i in range(3)]
    assert torch.equal(part(more, state.select(rows))[0], torch.cat(one_by_one))


@torch.no_grad()
def test_the_current_is_the_equation_on_its_two_rings_and_zero_elsewhere():
    part, tables, x = organ_of()
    tokens = tokens_of(2, 17)
    y = at_once(calls(part, x), tokens, SharedParts({"engram": tables})).double()
    values = tables(Step.of(tokens))[0].double()
    expected, edges = torch.zeros_like(y), [0, 4, 12, 20, 36]
    for i, slot in enumerate(SMALL.slots):
        value = values[:, :, i]
        q = x.double() @ part.query.weight[8 * i : 8 * i + 8].double().T
        k = value @ part.keys[i].weight.double().T
        q, k = (v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() for v in (q, k))
        s = (q * k).sum(-1, keepdim=True) / math.sqrt(8)
        gate = (1 + torch.erf(part.a[i].double() * s + part.b[i].double())) / 2
        normed = value / (value.square().mean(-1, keepdim=True) + 1e-6).sqrt() * part.norms[i].weight.double()
        begin, end = edges[slot], edges[slot + 2]
        expected[..., begin:end] += 0.5 * gate * (normed @ part.outs[i].weight.double().T)
    assert (y - expected).abs().max() / expected.abs().max() < 1e-4
    only = opened(SMALL.replace(slots=(1,)).build(D, RINGS))
    alone = opened(SMALL.replace(slots=(1,)).build_shared(W, RINGS))
    y = at_once(calls(only, x), tokens, SharedParts({"engram": alone}))
    assert not y[..., :4].any()
    assert not y[..., 20:].any()
    assert y[..., 4:20].all()


def test_a_new_engram_is_silent_while_all_of_it_learns():
    part, tables = SMALL.build(D, RINGS), SMALL.build_shared(W, RINGS)
    x = torch.randn(2, 17, D, generator=torch.Generator().manual_seed(0))
    y = at_once(calls(part, x), tokens_of(2, 17), SharedParts({"engram": tables}))
    assert torch.equal(y, torch.zeros_like(y))
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    parameters = [*part.named_parameters(), *tables.named_parameters()]
    assert not [name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0]


@torch.no_grad()
def test_taps_show_the_gates_and_the_current():
    part, tables, x = organ_of()
    probe = Probe(part, {"*": capture})
    tokens = tokens_of(2, 17)
    y = at_once(calls(part, x), tokens, SharedParts({"engram": tables}), probe=probe)
    assert set(probe.seen) == {":gate", ":current"}
    assert torch.equal(probe.seen[":current"][0], y)
    gate = probe.seen[":gate"][0]
    assert gate.shape == (2, 17, 2)
    assert 0 <= gate.min() < gate.max() <= 1


def test_parameters_are_counted_as_in_the_budget():
    with torch.device("meta"):
        layer = EngramConfig().build(768, DEFAULT_RINGS)
        tables = EngramConfig().build_shared(16_512, DEFAULT_RINGS)
    assert sum(p.numel() for p in layer.parameters()) == 174_825
    assert sum(p.numel() for p in tables.parameters()) == 7_077_888


def test_a_checkpoint_keeps_the_canon_and_rebuilds_the_constants():
    part, other = small_tables(), SMALL.build_shared(W, RINGS)
    assert set(part.state_dict()) == {"table", "canon"}
    assert other.canon.tolist() == list(range(W))
    other.load_state_dict(part.state_dict())
    tokens = tokens_of(2, 17)
    assert torch.equal(other.canon, part.canon)
    assert torch.equal(other(Step.of(tokens))[0], part(Step.of(tokens))[0])


def test_a_canon_of_another_vocabulary_is_refused():
    part = SMALL.build_shared(W, RINGS)
    with pytest.raises(TokenizerError, match="51 canonical ids"):
        part.fit_vocabulary(range(51))
    with pytest.raises(TokenizerError, match="below 50"):
        part.fit_vocabulary([50] * W)


@pytest.mark.parametrize(
    "wrong", [{"rows": 1000}, {"rows": 1}, {"slots": ()}, {"slots": (1, 1)}, {"slots": (-1,)}, {"orders": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"engram.{next(iter(wrong))}"):
        EngramConfig(**wrong)


def test_a_slot_beyond_the_rings_is_refused():
    config = EngramConfig(slots=(0, 3))
    for build in (lambda: config.build(D, RINGS), lambda: config.build_shared(W, RINGS)):
        with pytest.raises(ConfigError, match="slot 3, and between 4 rings there are 3"):
            build()


def test_config_to_json_to_config_is_identity():
    assert Config.from_json(SMALL.to_json()) == SMALL


GOLDEN = [
    [
        [7491, 2298, 6193, 1827, 6335, 1363, 5467, 6286, 5996, 249, 3756, 3968],
        [4476, 4651, 7041, 1735, 6649, 793, 5605, 5278, 4220, 2635, 211, 3004],
        [7450, 144, 7334, 665, 3043, 7444, 5150, 6085, 2764, 7976, 7292, 5532],
    ],
    [
        [4264, 8068, 2769, 5628, 6269, 3847, 1010, 4518, 6106, 6652, 7502, 1699],
        [8079, 2219, 5799, 1213, 5264, 3712, 6707, 6687, 7172, 2675, 5332, 4479],
        [1436, 2956, 7581, 839, 4507, 5093, 7391, 7647, 5610, 7917, 670, 3878],
    ],
    [
        [4719, 8122, 6399, 2069, 4029, 1039, 7293, 3223, 1281, 1047, 5345, 5900],
        [4423, 4320, 123, 4784, 249, 1934, 8184, 901, 6872, 2365, 2528, 7526],
        [3378, 6509, 82, 2881, 2019, 601, 37, 7969, 4752, 7569, 3873, 7355],
    ],
]
"""Rows by window, slot and table: a model trained on one machine looks up the same rows on any other."""
