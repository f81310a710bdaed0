from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.delta import (
    LOOP,
    Chunks,
    Memories,
    read,
    read_chunked,
    read_reference,
    replay,
    write,
    write_chunked,
    write_reference,
)

H, K, V = 3, 8, 5
SIZES = [16, 32, 64, 100, 256]
CUTS = [(1, 16), (7, 10), (3, 1, 13), (1,) * 17]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def arguments(
    tokens: int,
    rows: int = 2,
    heads: int = H,
    widths: tuple[int, int] = (K, V),
    dtype: torch.dtype = torch.float32,
    begins: float = 0.03,
    pads: float = 0.1,
) -> dict[str, Tensor]:
    """Unit keys and all else at random; some documents, some padding and memories that are not empty."""
    generator, (k, v) = torch.Generator().manual_seed(tokens), widths

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    real = torch.rand(rows, tokens, generator=generator) >= pads
    return {
        "q": F.normalize(normal(rows, tokens, heads, k), dim=-1),
        "k": F.normalize(normal(rows, tokens, heads, k), dim=-1),
        "v": normal(rows, tokens, heads, v),
        "log_decay": -F.softplus(normal(rows, tokens, heads) - 2) * real[..., None],
        "beta": normal(rows, tokens, heads).mul(2).sigmoid() * real[..., None],
        "memory": normal(rows, heads, v, k),
        "fresh": (torch.rand(rows, tokens, generator=generator) < begins) & real,
    }


def part(given: dict[str, Tensor], begin: int, end: int, memory: Tensor) -> dict[str, Tensor]:
    return {**{name: x[:, begin:end] for name, x in given.items()}, "memory": memory}


def loop(q: Tensor, **written: Tensor) -> tuple[Tensor, Tensor]:
    """o and the memory after the call."""
    context, memory = write_reference(**written)
    return read_reference(q, context), memory


def chunked(q: Tensor, size: int = 64, **written: Tensor) -> tuple[Tensor, Tensor]:
    context, memory = write_chunked(**written, size=size)
    return read_chunked(q, context), memory


def chosen(q: Tensor, **written: Tensor) -> tuple[Tensor, Tensor]:
    context, memory = write(**written)
    return read(q, context), memory


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).detach())  # of 0 nothing but 0 is near


def worst(fast: tuple[Tensor, ...], slow: tuple[Tensor, ...]) -> float:
    """Not a number if one of them is not, which Python's own max would pass over."""
    return float(torch.tensor([relative_error(a, b) for a, b in zip(fast, slow, strict=True)]).max())


def test_two_tokens_by_hand():
    k, v = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[2.0], [10.0]])
    written = {
        "k": k[None, :, None],
        "v": v[None, :, None],
        "log_decay": torch.tensor([0.0, -0.6931472])[None, :, None],  # the second token halves
        "beta": torch.tensor([0.5, 0.25])[None, :, None],
        "memory": torch.zeros(1, 1, 1, 2),
        "fresh": torch.zeros(1, 2, dtype=torch.bool),
    }
    o, memory = loop(k[None, :, None], **written)  # S = [1, 0], then [0.5, 0] + 0.25 (10 - 0.5 * 0.6) [0.6, 0.8]
    assert o.flatten().tolist() == pytest.approx([1.0, 0.5 * 0.6 + 2.425])
    assert memory.flatten().tolist() == pytest.approx([0.5 + 2.425 * 0.6, 2.425 * 0.8])


def test_the_loop_is_the_rule_as_it_was_published():
    given = arguments(40, dtype=torch.float64)
    after = write_reference(**{name: x for name, x in given.items() if name != "q"})[0].after
    s, identity = given["memory"], torch.eye(K, dtype=torch.float64)
    for t in range(40):
        k, v, begins = given["k"][:, t], given["v"][:, t], given["fresh"][:, t, None, None, None]
        alpha, beta = (given[name][:, t, :, None, None] for name in ("log_decay", "beta"))
        s = torch.where(begins, 0.0, s)
        turn = identity - beta * k[..., :, None] * k[..., None, :]
        s = alpha.exp() * s @ turn + beta * v[..., :, None] * k[..., None, :]
        assert (after[:, t] - s).abs().max() < 1e-14


def test_a_memory_in_flash_linear_attention_is_ours_transposed():
    naive = pytest.importorskip("fla.ops.gated_delta_rule.naive", exc_type=ImportError)
    given = arguments(150, begins=0.0, dtype=torch.float64)
    given["fresh"][:] = False
    for form in (naive.naive_recurrent_gated_delta_rule, naive.naive_chunk_gated_delta_rule):
        o, memory = form(
            **{name: given[name].float() for name in "qkv"},
            beta=given["beta"].float(),
            g=given["log_decay"].float(),
            scale=1.0,
            initial_state=given["memory"].mT.float(),
            output_final_state=True,
        )
        for ours in (loop(**given), chunked(**given)):
            assert worst((o, memory.mT), ours) < 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tokens", [1, 17, 64, 100, 300])
def test_chunks_equal_the_loop_over_documents_and_padding(tokens, size, dtype):
    given = arguments(tokens, dtype=dtype)
    assert worst(chunked(**given, size=size), loop(**given)) < TOLERANCE[dtype]


@pytest.mark.parametrize(("tokens", "size", "chunks"), [(100, 64, 2), (128, 64, 2), (129, 64, 3), (17, 64, 1)])
def test_chunks_are_as_long_as_they_are_asked_to_be_and_no_longer_than_the_call(tokens, size, chunks):
    context, _ = write_chunked(**{name: x for name, x in arguments(tokens).items() if name != "q"}, size=size)
    length = min(size, tokens)
    assert context.k.shape == (2, chunks, H, length, K)
    assert context.kept.shape == (2, chunks, H, length, length)
    assert context.before.shape == (2, chunks, H, V, K)


@pytest.mark.parametrize(("begins", "forgets"), [(0.0, 1), (0.03, 1), (0.5, 1), (0.0, 40), (0.03, 40)])
@pytest.mark.parametrize("size", [16, 64, 100])
def test_gradients_of_chunks_equal_those_of_the_loop(size, begins, forgets):
    def run(form):
        given = arguments(150, dtype=torch.float64, begins=begins)
        given["log_decay"] *= forgets
        given = {name: x.requires_grad_(x.is_floating_point()) for name, x in given.items()}
        o, memory = form(**given)
        (o.square().sum() + memory.pow(3).sum()).backward()
        return [x.grad for x in given.values() if x.requires_grad]

    assert worst(run(lambda **given: chunked(**given, size=size)), run(loop)) < 1e-11


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("log_decay", [0.0, -1e-3, -2.0, -30.0])
def test_one_key_written_256_times_over_keeps_chunks_exact(log_decay, size, dtype):
    given = arguments(300, widths=(64, 64), rows=1, heads=2, dtype=dtype, begins=0.0, pads=0.0)
    given["k"][:, 20:276], given["beta"][:, 20:276] = given["k"][:, 20:21], 0.999
    given["log_decay"][:] = log_decay * torch.linspace(0.5, 1.0, 300, dtype=dtype)[:, None]
    exact = loop(**{name: x if name == "fresh" else x.double() for name, x in given.items()})
    assert worst(chunked(**given, size=size), exact) < TOLERANCE[dtype]


def test_no_decay_is_next_to_the_smallest_number_there_is():
    """With those a CPU computes a hundred times more slowly, and heads that forget fast have many."""
    given = {name: x for name, x in arguments(300, begins=0.0, pads=0.0).items() if name != "q"}
    given["log_decay"][:, :, 0], given["log_decay"][:, :, 1] = -1.6, -40.0
    context, _ = write_chunked(**given)
    for decays in (context.kept, context.since):
        assert decays[decays > 0].min() > 1e-30
        assert decays.min() < 1e-20


@pytest.mark.parametrize("form", [loop, chunked])
@pytest.mark.parametrize("apart", [True, False])
def test_a_hundred_thousand_writes_under_one_key_stay_finite(form, apart):
    """The same value, or two that contradict each other, a token at a time; nothing is ever forgotten by decay."""
    tokens = 100_000 if form is chunked else 4_000
    given = arguments(16, rows=1, heads=1, widths=(64, 64), begins=0.0, pads=0.0)
    wide = {name: x if name == "memory" else x[:, :1].expand(1, tokens, *x.shape[2:]) for name, x in given.items()}
    sign = (-1.0) ** torch.arange(tokens)[:, None, None] if apart else torch.ones(())
    wide |= {"v": sign * wide["v"], "beta": torch.full((1, tokens, 1), 0.9), "log_decay": torch.zeros(1, tokens, 1)}
    o, memory = form(**wide | {"q": wide["k"]})
    assert torch.isfinite(o).all()
    assert torch.isfinite(memory).all()
    last, fixed = wide["v"][:, -1], 0.9 / (2 - 0.9) if apart else 1.0  # what a contradicted key settles at
    assert relative_error(o[:, -1], fixed * last) < 1e-4


@pytest.mark.parametrize("form", [loop, chunked])
def test_without_decay_a_memory_grows_by_no_more_than_a_value_a_token(form):
    given = arguments(500, begins=0.0, pads=0.0)
    given["memory"], given["log_decay"] = torch.zeros_like(given["memory"]), torch.zeros_like(given["log_decay"])
    given["beta"] = torch.ones_like(given["beta"])
    longest = given["v"].norm(dim=-1).amax()
    for t in (1, 2, 17, 100, 500):
        memory = form(**part(given, 0, t, given["memory"]))[1]
        assert (memory.norm(dim=(-2, -1)) <= longest * t).all(), t


@pytest.mark.parametrize("form", [loop, chunked])
def test_no_token_blows_a_memory_up_or_turns_it_over(form):
    """What a call does to a memory, as a matrix of its own: written with values of 0, from the identity."""
    given = arguments(1, rows=200, widths=(K, K), pads=0.0, begins=0.0, dtype=torch.float64)
    given["v"] = torch.zeros_like(given["v"])
    given["memory"] = torch.eye(K, dtype=torch.float64).expand(200, H, K, K)
    turn = form(**given)[1]
    assert relative_error(turn, turn.mT) < 1e-14
    values = torch.linalg.eigvalsh(turn)
    assert -1e-14 < values.min() < 0.2
    assert 0.9 < values.max() < 1 + 1e-14


@pytest.mark.parametrize("size", [16, 64, 100])
@pytest.mark.parametrize("tokens", [60, 512])
def test_the_future_changes_no_bit_of_the_past(tokens, size):
    given, other = arguments(tokens), arguments(tokens + 1)
    form = loop if tokens < 100 and size == 16 else (lambda **given: chunked(**given, size=size))
    o = form(**given)[0]
    for t in (1, 8, 15, 16, 31, 64, 65, 200, tokens - 1):
        if t < tokens:
            mixed = {name: torch.cat([x[:, :t], other[name][:, t:tokens]], 1) for name, x in given.items()}
            moved = form(**mixed | {"memory": given["memory"]})[0]
            assert torch.equal(o[:, :t], moved[:, :t]), f"outputs before {t} moved"
            assert not torch.equal(o[:, t], moved[:, t])


@pytest.mark.parametrize("form", [loop, chunked])
@pytest.mark.parametrize("cuts", [(0,), (1,), (6, 7), (15, 16, 40), (63, 64, 65)])
def test_packed_documents_equal_documents_apart(cuts, form):
    given = arguments(90, begins=0.0, dtype=torch.float64)
    given["fresh"][:, list(cuts)] = True
    o, memory = form(**given)
    ends, empty, said = [*cuts, 90], torch.zeros_like(given["memory"]), []
    if cuts[0]:
        said.append(form(**part(given, 0, cuts[0], given["memory"]))[0])
    for begin, end in pairwise(ends):
        one, last = form(**part(given, begin, end, empty))
        said.append(one)
    if form is loop:
        assert torch.equal(o, torch.cat(said, 1))
        assert torch.equal(memory, last)
    else:
        assert worst((o, memory), (torch.cat(said, 1), last)) < 1e-12


@pytest.mark.parametrize("form", [loop, chunked])
def test_padding_writes_nothing_and_forgets_nothing(form):
    given = arguments(90, pads=0.4, begins=0.0)
    row = {name: x[:1] for name, x in given.items()}
    real = row["beta"][0, :, 0] > 0
    o, memory = form(**row)
    bare = {name: x if name == "memory" else x[:, real] for name, x in row.items()}
    clean = form(**bare)
    if form is loop:
        assert torch.equal(memory, clean[1])
        assert torch.equal(o[:, real], clean[0])
    else:
        assert worst((o[:, real], memory), clean) < 1e-5


@pytest.mark.parametrize("cut", CUTS)
def test_splitting_the_loop_changes_no_bit(cut):
    given = arguments(17)
    given["fresh"][0, 5] = given["fresh"][1, 12] = True
    context, _ = write_reference(**{name: x for name, x in given.items() if name != "q"})
    whole, memory, begin = read_reference(given["q"], context), given["memory"], 0
    for length in cut:
        o, memory = chosen(**part(given, begin, begin + length, memory))
        assert torch.equal(o, whole[:, begin : begin + length])
        begin += length
        assert torch.equal(memory, context.after[:, begin - 1])


@pytest.mark.parametrize("kept", [1, 5, 17])
def test_a_replay_of_a_beginning_has_the_bits_of_the_call(kept):
    given = {name: x for name, x in arguments(17).items() if name != "q"}
    given["fresh"][0, 5] = given["fresh"][1, 12] = True
    context, _ = write(**given, keep_rollback=True)
    assert torch.equal(replay(**part(given, 0, kept, given["memory"])), context.after[:, kept - 1])


@pytest.mark.parametrize("tokens", [LOOP, 90])
def test_rows_keep_their_bits_alone_and_in_another_order(tokens):
    given = arguments(tokens, rows=3)
    together = chosen(**given)
    for row in range(3):
        alone = chosen(**{name: x[row : row + 1] for name, x in given.items()})
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[row])
    order = torch.tensor([2, 0, 0])
    context = write(**{name: x for name, x in given.items() if name != "q"}).context
    assert torch.equal(read(given["q"][order], type(context)(*(x[order] for x in context))), together[0][order])


def test_short_calls_and_the_environment_choose_the_loop(monkeypatch):
    short, long = ({name: x for name, x in arguments(t).items() if name != "q"} for t in (LOOP, LOOP + 1))
    assert isinstance(write(**short).context, Memories)
    assert isinstance(write(**long).context, Chunks)
    kept = write(**long, keep_rollback=True)
    assert isinstance(kept.context, Memories)
    monkeypatch.setenv("POSITRONIC_KERNELS", "delta=reference")
    assert torch.equal(write(**long).memory, kept.memory)


@pytest.mark.parametrize("tokens", [LOOP, 90])
def test_autocast_leaves_the_memory_its_precision(tokens):
    given = arguments(tokens)
    plain = chosen(**given)
    with torch.autocast("cpu", torch.bfloat16):
        low = chosen(**given)
    for a, b in zip(low, plain, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.slow
def test_the_compiled_chunks_equal_the_loop_with_gradients():
    def run(form):
        given = {name: x.requires_grad_(x.is_floating_point()) for name, x in arguments(150).items()}
        o, memory = form(**given)
        (o.square().sum() + memory.pow(3).sum()).backward()
        return [o, memory, *(x.grad for x in given.values() if x.requires_grad)]

    assert worst(run(torch.compile(chunked, fullgraph=True, dynamic=False)), run(loop)) < 1e-5
