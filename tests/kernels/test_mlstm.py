import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.mlstm import (
    LOOP,
    Cell,
    ChunkContext,
    LoopContext,
    floored,
    read,
    read_chunked,
    read_reference,
    write,
    write_chunked,
    write_reference,
)

H, K, V = 3, 16, 24
CUTS = [(1, 16), (7, 10), (3, 1, 13), (1,) * 17]


def arguments(
    tokens: int, rows: int = 2, dtype: torch.dtype = torch.float32, strength: float = 1.0, seed: int = 0
) -> dict[str, Tensor]:
    """Random tokens with documents and padding anywhere, and a memory that is not empty; gate logits of any sign."""
    generator = torch.Generator().manual_seed(seed + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    padding = torch.rand(rows, tokens, generator=generator) < 0.1
    return {
        "q": normal(rows, tokens, H, K),
        "k": normal(rows, tokens, H, K) / K**0.5,
        "v": normal(rows, tokens, H, V),
        "log_i": (strength * normal(rows, tokens, H)).masked_fill(padding[..., None], -torch.inf),
        "log_f": F.logsigmoid(strength * normal(rows, tokens, H) + 2).masked_fill(padding[..., None], 0.0),
        "fresh": (torch.rand(rows, tokens, generator=generator) < 0.03) & ~padding,
        "c": normal(rows, H, V, K),
        "n": normal(rows, H, K),
        "m": normal(rows, H),
    }


def run(writing, reading, given: dict[str, Tensor], **settings) -> tuple[Tensor, Cell]:
    k, v, log_i, log_f, fresh = (given[name] for name in ("k", "v", "log_i", "log_f", "fresh"))
    context, after = writing(k, v, log_i, log_f, Cell(given["c"], given["n"], given["m"]), fresh, **settings)
    return reading(given["q"], context), after


def loop(given: dict[str, Tensor]) -> tuple[Tensor, Cell]:
    return run(write_reference, read_reference, given)


def chunks(given: dict[str, Tensor], chunk: int = 64) -> tuple[Tensor, Cell]:
    return run(write_chunked, read_chunked, given, chunk=chunk)


FORMS = {"loop": loop, "chunks": chunks}


def part(given: dict[str, Tensor], begin: int, end: int, cell: Cell | None = None) -> dict[str, Tensor]:
    cut = {name: x if name in "cnm" else x[:, begin:end] for name, x in given.items()}
    return cut if cell is None else {**cut, **cell._asdict()}


def empty(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(x) if name in "cnm" else x for name, x in given.items()}


def one_sided(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same where all summands have one sign: as well conditioned as sums can be."""
    return given | {name: given[name].abs() for name in ("q", "k", "v", "c", "n")}


def unscaled(cell: Cell) -> tuple[Tensor, Tensor]:
    """C e^m and n e^m, which no choice of m changes."""
    scale = cell.m.exp()[..., None]
    return cell.c * scale[..., None], cell.n * scale


def normed(h: Tensor) -> Tensor:
    """What a layer makes of it."""
    return F.rms_norm(h, h.shape[-1:], eps=1e-6)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def worst(ours: tuple[Tensor, Cell], theirs: tuple[Tensor, Cell]) -> float:
    pairs = [(ours[0], theirs[0]), *zip(unscaled(ours[1]), unscaled(theirs[1]), strict=True)]
    return max(relative_error(a, b) for a, b in pairs)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_memory_is_a_sum_of_writes_that_fade(form):
    """No stabiliser, no loop: sums in float64 over the tokens of a document."""
    given = empty(arguments(40, dtype=torch.float64))
    h = form(given)[0]
    document = given["fresh"].long().cumsum(1)
    for row, t in torch.cartesian_prod(torch.arange(2), torch.arange(40)).tolist():
        found, total = torch.zeros(H, V, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
        for s in range(t + 1):
            if document[row, s] != document[row, t]:
                continue
            weight = (given["log_f"][row, s + 1 : t + 1].sum(0) + given["log_i"][row, s]).exp()
            weight = weight * (given["k"][row, s] * given["q"][row, t]).sum(-1)
            found, total = found + weight[:, None] * given["v"][row, s], total + weight
        expected = found / total.abs().clamp(min=1.0)[:, None]
        assert (h[row, t] - expected).abs().max() < 1e-12


def test_two_tokens_by_hand():
    one = torch.ones(1, 2, 1, 1)
    log_i, log_f = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[0.0], [-1.0]]])
    start = Cell(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1))
    value = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    context, after = write_reference(one, value, log_i, log_f, start, torch.zeros(1, 2, dtype=torch.bool))
    e3 = torch.tensor(-3.0).exp().item()  # exp(-1 + 0 - 2): how much of the first is left in units of e^2
    assert after.m.item() == 2
    assert after.n.item() == pytest.approx(e3 + 1)
    assert after.c.item() == pytest.approx(3 * e3 + 5)
    assert read_reference(one, context).flatten().tolist() == pytest.approx([3, (3 * e3 + 5) / (e3 + 1)])
    weak = read_reference(0.1 * one, context)[0, 0].item()
    assert weak == pytest.approx(0.3), "below the floor of 1 nothing is divided"


@pytest.mark.parametrize("chunk", [16, 32, 64, 100, 256])
@pytest.mark.parametrize("tokens", [17, 64, 150, 300])
def test_chunks_equal_the_loop_over_documents_and_padding(tokens, chunk):
    given = arguments(tokens, dtype=torch.float64, strength=3.0)
    assert worst(chunks(given, chunk), loop(given)) < 1e-10


@pytest.mark.parametrize("tokens", [17, 64, 150, 513])
def test_chunks_equal_the_loop_in_float32(tokens):
    given = arguments(tokens, strength=3.0)
    assert worst(chunks(given), loop(given)) < 1e-3, "n . q may nearly cancel"
    given = one_sided(given)
    assert worst(chunks(given), loop(given)) < 1e-5, "nothing cancels"


@pytest.mark.parametrize("chunk", [16, 64])
@pytest.mark.parametrize("tokens", [17, 150])
def test_gradients_of_chunks_are_those_of_the_loop(tokens, chunk):
    def gradients(form) -> list[Tensor]:
        given = {
            name: x.requires_grad_(x.is_floating_point())
            for name, x in arguments(tokens, dtype=torch.float64, strength=2.0).items()
        }
        h, after = form(given)
        (h.square().sum() + sum(x.square().sum() for x in unscaled(after))).backward()
        return [x.grad for x in given.values() if x.requires_grad]

    for a, b in zip(gradients(lambda given: chunks(given, chunk)), gradients(loop), strict=True):
        assert relative_error(a.nan_to_num(), b.nan_to_num()) < 1e-9
        assert a.isfinite().all()
        assert b.isfinite().all()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_stabiliser_changes_a_result(form):
    """A memory in other units is the same memory; and an empty one has no units at all."""
    given = arguments(100, dtype=torch.float64)
    plain = form(given)
    for shift in (-20.0, 7.0, 60.0):
        scale = torch.tensor(-shift, dtype=torch.float64).exp()
        moved = {**given, "c": given["c"] * scale, "n": given["n"] * scale, "m": given["m"] + shift}
        assert worst(form(moved), plain) < 1e-10, shift
    start = empty(given)
    for m in (-40.0, 9.0, 40.0):
        assert worst(form({**start, "m": torch.full_like(start["m"], m)}), form(start)) < 1e-10, m


@pytest.mark.parametrize("cut", CUTS)
def test_splitting_the_loop_changes_no_bit(cut):
    given = arguments(17)
    given["fresh"][0, 5] = given["fresh"][1, 12] = True
    h, after = loop(given)
    pieces, cell, begin = [], None, 0
    for length in cut:
        said, cell = run(write, read, part(given, begin, begin + length, cell))
        begin += length
        pieces.append(said)
    assert torch.equal(torch.cat(pieces, 1), h)
    assert all(torch.equal(a, b) for a, b in zip(cell, after, strict=True))


def test_rows_of_the_loop_equal_separate_runs_to_the_bit():
    given = arguments(16, rows=3)
    together = run(write, read, given)
    for row in range(3):
        h, after = run(write, read, {name: x[row : row + 1] for name, x in given.items()})
        assert torch.equal(h[0], together[0][row])
        assert all(torch.equal(a[0], b[row]) for a, b in zip(after, together[1], strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_comes_later_changes_no_bit(form):
    given = arguments(512)
    h = form(given)[0]
    for t in (1, 63, 64, 65, 300, 511):
        other = arguments(512, strength=4.0, seed=1)
        mixed = {
            name: x if name in "cnm" else torch.cat([x[:, :t], other[name][:, t:]], 1) for name, x in given.items()
        }
        again = form(mixed)[0]
        assert torch.equal(again[:, :t], h[:, :t]), t
        assert not torch.equal(again[:, t:], h[:, t:]), t


@pytest.mark.parametrize("tokens", [LOOP, 100])
def test_where_nothing_is_divided_is_said(tokens):
    given = arguments(tokens, strength=3.0)
    floors, _ = run(write, floored, given)
    ones = {"v": torch.ones_like(given["v"]), "c": given["n"][..., None, :].expand_as(given["c"])}
    means, _ = run(write, read, given | ones)
    assert floors.any()
    assert not floors.all()
    assert torch.equal(floors, means[..., 0].abs() < 1 - 1e-6), "a mean of ones is 1, and less where not divided"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("begin", [1, 30, 64, 100])
def test_a_document_begins_with_an_empty_memory(form, begin):
    given = arguments(130)
    given["fresh"][:, begin:] = False
    given["fresh"][:, begin] = True
    h, after = form(given)
    expected, cell = form(empty(part(given, begin, 130)))
    assert worst((normed(h[:, begin:]), after), (normed(expected), cell)) < 1e-5
    before = {name: x.clone() for name, x in given.items()}
    before["v"][:, :begin], before["log_i"][:, :begin] = 1e4, 15.0
    assert torch.equal(form(before)[0][:, begin:], h[:, begin:]), "not a trace of the document before"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_padding_changes_nothing(form):
    given = arguments(150)
    given["fresh"][:] = False
    real = given["log_i"][0, :, 0].isfinite()
    row = {name: x[:1] for name, x in given.items()}
    bare = {name: x if name in "cnm" else x[:, real] for name, x in row.items()}
    h, after = form(row)
    assert not real.all()
    assert worst((normed(h[:, real]), after), (normed(form(bare)[0]), form(bare)[1])) < 1e-5
    other = {**row, "k": row["k"].clone(), "v": row["v"].clone()}
    other["k"][:, ~real], other["v"][:, ~real] = 1e3, -1e3
    assert torch.equal(form(other)[0][:, real], h[:, real])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_where_nothing_was_written_nothing_is_found_and_gradients_are_numbers(form):
    given = empty(arguments(70))
    given["log_i"][:, :40], given["log_f"][:, :40] = -torch.inf, 0.0
    given["fresh"][:] = False
    given["fresh"][:, 40] = True
    leaves = [given[name].requires_grad_() for name in ("q", "k", "v", "log_i", "log_f")]
    h, after = form(given)
    assert h[:, :40].abs().max() == 0
    normed(h).square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert all(x.isfinite().all() for x in after)
    assert leaves[3].grad[:, :40].abs().max() == 0


@pytest.mark.parametrize("gate", [15.0, -15.0])
@pytest.mark.parametrize("value", ["alike", "contradicting"])
def test_a_hundred_thousand_equal_keys_stay_finite(value, gate):
    tokens, one = 100_000, torch.ones(1, 1, 1, 8)
    sign = torch.ones(tokens) if value == "alike" else 1.0 - 2.0 * (torch.arange(tokens) % 2)
    v = sign.view(1, tokens, 1, 1).expand(1, tokens, 1, 8)
    log_i = torch.full((1, tokens, 1), gate)
    log_f = F.logsigmoid(torch.full((1, tokens, 1), 15.0))
    start = Cell(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8), torch.zeros(1, 1))
    k = one.expand(1, tokens, 1, 8)
    context, after = write(k, v, log_i, log_f, start, torch.zeros(1, tokens, dtype=torch.bool))
    assert isinstance(context, ChunkContext)
    h = read(one.expand(1, tokens, 1, 8), context)
    assert h.isfinite().all()
    assert all(x.isfinite().all() for x in after)
    assert h.abs().max() <= 1 + 1e-5, "a mean of what was written, or less"
    if gate > 0 and value == "alike":
        assert (h - 1).abs().max() < 1e-5
    if value == "contradicting":
        assert h[:, -1].abs().max() < 1e-4


def test_gates_at_their_ends_neither_overflow_nor_lose_what_was_written():
    given = one_sided(arguments(300, strength=40.0))
    given["log_i"] = 15 * torch.tanh(given["log_i"] / 15)
    exact = loop({name: x.double() if x.is_floating_point() else x for name, x in given.items()})
    for form in FORMS.values():
        assert worst(form(given), exact) < 1e-5


def test_the_loop_runs_short_calls_and_where_it_is_asked_for(monkeypatch):
    def context(tokens: int, **settings):
        kept = []
        run(lambda *given, **more: kept.append(write(*given, **more)) or kept[0], read, arguments(tokens), **settings)
        return kept[0][0]

    assert isinstance(context(LOOP), LoopContext)
    assert isinstance(context(LOOP + 1), ChunkContext)
    assert isinstance(context(LOOP + 1, keep_rollback=True), LoopContext)
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert isinstance(context(LOOP + 1), LoopContext)


def test_rows_of_a_context_can_be_read_alone():
    for tokens in (LOOP, 100):
        given = arguments(tokens, rows=3)
        cell = Cell(given["c"], given["n"], given["m"])
        context, _ = write(given["k"], given["v"], given["log_i"], given["log_f"], cell, given["fresh"])
        rows = torch.tensor([2, 0])
        chosen = type(context)(*(x[rows] for x in context))
        assert relative_error(read(given["q"][rows], chosen), read(given["q"], context)[rows]) < 1e-6


def test_autocast_leaves_the_memory_its_precision():
    given = arguments(40)
    plain = run(write, read, given)
    with torch.autocast("cpu", torch.bfloat16):
        low = run(write, read, given)
    assert low[0].dtype == torch.float32
    assert torch.equal(low[0], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(low[1], plain[1], strict=True))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("parallel.native", "mlstm_parallel__native_autograd"),
        ("chunkwise.native", "mlstm_chunkwise__native_autograd"),
        ("recurrent.native_sequence", "mlstm_recurrent_sequence__native_fw"),
    ],
)
def test_it_is_the_memory_of_its_authors(module, function):
    """mlstm-kernels scales queries and not keys, and takes logits of the forget gates."""
    theirs = getattr(pytest.importorskip(f"mlstm_kernels.torch.{module}"), function)
    given = empty(arguments(192, dtype=torch.float64))
    given["fresh"][:] = False
    f = 2 + torch.randn(2, 192, H, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given |= {"log_i": given["log_i"].clamp(min=-15.0), "log_f": F.logsigmoid(f)}
    q, k, v = (given[name].transpose(1, 2) for name in ("q", "k", "v"))
    h = theirs(q=q, k=k * K**0.5, v=v, i=given["log_i"].mT, f=f.mT, eps=0.0, dtype_state=torch.float64)
    for ours in FORMS.values():
        assert relative_error(ours(given)[0], h.transpose(1, 2)) < 1e-10


@pytest.mark.slow
def test_the_compiled_chunks_equal_the_loop():
    given = arguments(150)
    compiled = torch.compile(chunks, fullgraph=True, dynamic=False)
    with torch.no_grad():
        assert worst(compiled(given), loop(given)) < 1e-3
