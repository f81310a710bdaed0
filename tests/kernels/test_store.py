import pytest
import torch
from torch import Tensor

from positronic.kernels.store import LOOP, choose, recall, recall_chunked, recall_reference

G, E, V = 3, 7, 32
CUTS = [(1, 16), (7, 10), (3, 1, 13), (1,) * 17]


def arguments(
    tokens: int, rows: int = 2, shared: bool = False, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random tokens with some documents, some padding and stores that are not empty; `top` is left to the test."""
    generator = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    groups = 1 if shared else G
    padding = torch.rand(rows, tokens, generator=generator) < 0.1
    return {
        "q": normal(rows, tokens, groups, V),
        "address": normal(rows, tokens, G, E),
        "w": 0.5 * normal(rows, tokens, G, E).sigmoid() * ~padding[..., None, None],
        "v": normal(rows, tokens, 2, groups, V).tanh(),
        "stores": normal(rows, 2, G, E, V).tanh(),
        "fresh": (torch.rand(rows, tokens, generator=generator) < 0.03) & ~padding,
    }


def part(given: dict[str, Tensor], begin: int, end: int, stores: Tensor) -> dict[str, Tensor]:
    return {**{name: x[:, begin:end] for name, x in given.items() if name != "stores"}, "stores": stores}


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def test_the_loop_is_the_closed_form():
    given = arguments(40, dtype=torch.float64)
    given["fresh"][:] = False
    rollback = recall_reference(**given, top=2).rollback
    w, v, c = given["w"], given["v"], torch.log1p(-given["w"]).cumsum(1)
    for t in range(41):
        last = c[:, t - 1] if t else torch.zeros_like(c[:, 0])  # (B, G, E)
        expected = last.exp()[:, None, ..., None] * given["stores"]
        weights = (last[:, None] - c[:, :t]).exp() * w[:, :t]  # (B, t, G, E)
        expected = expected + torch.einsum("bsge,bsigv->bigev", weights, v[:, :t])
        assert (rollback[:, t] - expected).abs().max() < 3e-15


def test_a_write_is_rounded_as_written():
    given = arguments(1)
    s, w, v = given["stores"], given["w"][:, 0, None, :, :, None], given["v"][:, 0, :, :, None]
    assert torch.equal(recall_reference(**given, top=2).stores, s + w * (v - s))


def test_stores_stay_inside_the_unit_cube():
    given = arguments(2000, rows=1)
    given["w"][:], given["v"] = 0.5, given["v"].sign()
    for form in (recall_reference, recall_chunked):
        assert form(**given, top=2).stores.abs().max() <= 1 + 1e-6
    given["v"] *= 0.999
    assert recall_reference(**given, top=2).stores.abs().max() < 1


@pytest.mark.parametrize("form", [recall_reference, recall_chunked])
def test_a_token_is_read_by_later_tokens_alone(form):
    given = arguments(40)
    given["fresh"][:] = False
    other = {name: x.clone() for name, x in given.items()}
    other["v"][:, 20], other["w"][:, 20] = -given["v"][:, 20], 0.4
    a, b = form(**given, top=E), form(**other, top=E)
    assert torch.equal(a.read[:, :21], b.read[:, :21])
    assert torch.equal(a.choice[:, :21], b.choice[:, :21])
    assert (a.read[:, 21] - b.read[:, 21]).abs().min(-1).values.max() > 0
    assert not torch.equal(a.choice[:, 21], b.choice[:, 21])


def test_empty_stores_read_exactly_zero():
    given = arguments(1)
    assert recall(**given | {"stores": torch.zeros_like(given["stores"])}, top=2).read.abs().max() == 0


@pytest.mark.parametrize("cut", CUTS)
def test_splitting_the_loop_changes_no_bit(cut):
    given = arguments(17)
    given["fresh"][0, 5] = given["fresh"][1, 12] = True
    whole = recall_reference(**given, top=2)
    stores, choices, reads, begin = given["stores"], [], [], 0
    for length in cut:
        piece = recall(**part(given, begin, begin + length, stores), top=2)
        stores, begin = piece.stores, begin + length
        choices.append(piece.choice)
        reads.append(piece.read)
        assert torch.equal(stores, whole.rollback[:, begin])
    assert torch.equal(torch.cat(choices, 1), whole.choice)
    assert torch.equal(torch.cat(reads, 1), whole.read)


def test_rows_of_the_loop_equal_separate_runs_to_the_bit():
    given = arguments(16)
    together = recall(**given, top=2)
    for row in range(2):
        alone = recall(**{name: x[row : row + 1] for name, x in given.items()}, top=2)
        for a, b in zip(alone[:3], together[:3], strict=True):
            assert torch.equal(a[0], b[row])


def test_a_document_begins_with_empty_stores():
    given = arguments(16)
    given["fresh"][:] = False
    given["fresh"][:, 6] = True
    packed = recall(**given, top=2)
    alone = recall(**part(given, 6, 16, torch.zeros_like(given["stores"])), top=2)
    assert torch.equal(packed.read[:, 6:], alone.read)
    assert torch.equal(packed.stores, alone.stores)


@pytest.mark.parametrize("top", [2, E])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tokens", [17, 32, 150])
def test_chunks_equal_the_loop_with_gradients_over_documents_and_padding(tokens, shared, top):
    def run(form):
        given = {name: x.requires_grad_(x.is_floating_point()) for name, x in arguments(tokens, shared=shared).items()}
        out = form(**given, top=top)
        (out.read.square().sum() + out.choice.square().sum() + out.stores.square().sum()).backward()
        return [*out[:3], *(x.grad for x in given.values() if x.requires_grad)]

    for a, b in zip(run(recall_chunked), run(recall_reference), strict=True):
        assert relative_error(a, b) < 1e-5


def test_chunks_stay_exact_where_stores_forget_fastest_and_hardly():
    given = arguments(320, dtype=torch.float32)
    given["w"][:, :160], given["w"][:, 160:] = 0.5, 1e-3
    a, b = recall_chunked(**given, top=2), recall_reference(**given, top=2)
    assert relative_error(a.read, b.read) < 1e-5
    assert relative_error(a.stores, b.stores) < 1e-5


def test_equal_scores_choose_the_lowest_index():
    scores = torch.tensor([[1.0, 1, 1, 1], [0, 1, 1, 1], [1, 0, 2, 1], [2, 1, 1, 2]])
    chosen = choose(scores, 2) > 0
    assert chosen.nonzero()[:, 1].view(4, 2).tolist() == [[0, 1], [1, 2], [0, 2], [0, 3]]
    assert choose(scores, 2)[0].tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("top", [1, 2, 6, 7])
def test_choices_are_a_softmax_over_the_largest(top):
    scores = torch.randn(50, E, generator=torch.Generator().manual_seed(0))
    values, where = scores.topk(top)
    expected = torch.zeros_like(scores).scatter(1, where, values.softmax(-1))
    assert (choose(scores, top) - expected).abs().max() < 1e-6


def test_the_loop_runs_short_calls_and_where_it_is_asked_for(monkeypatch):
    assert recall(**arguments(LOOP), top=2).rollback is not None
    long = arguments(LOOP + 1)
    assert recall(**long, top=2).rollback is None
    rollback = recall(**long, top=2, keep_rollback=True).rollback
    assert rollback.shape[1] == LOOP + 2
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert torch.equal(recall(**long, top=2).rollback, rollback)


def test_autocast_leaves_the_stores_their_precision():
    given = arguments(40)
    plain = recall(**given, top=2)
    with torch.autocast("cpu", torch.bfloat16):
        low = recall(**given, top=2)
    for a, b in zip(low[:3], plain[:3], strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
