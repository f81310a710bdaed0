import pytest
import torch
from forms_example import standing_in
from torch import Tensor

from positronic.kernels.predictor import LOOP, predict, predict_chunked, predict_reference
from positronic.kernels.predictor.chunked import CHUNK

R, M = 3, 5
MANY = 4 * CHUNK + 5


def series(batch: int, tokens: int, scale: float = 1.0, seed: int = 0, alike: float = 1.0) -> Tensor:
    """Observations whose last entry is 1 in units of `scale`; `alike` is how far they differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(batch, 1, R, M, generator=generator)
    x = common + alike * torch.randn(batch, tokens, R, M, generator=generator)
    x[..., -1] = 1
    return scale * x


def shifted(x: Tensor, continues: Tensor) -> Tensor:
    key = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return key * continues[..., None, None]


def inputs(x: Tensor, eta: float = 0.25, cuts: tuple[int, ...] = (), weight: Tensor | None = None):
    """All arguments for rows in which documents begin at `cuts`, one token later in every further row."""
    batch, tokens = x.shape[:2]
    continues = torch.ones(batch, tokens, dtype=torch.bool)
    for row in range(batch):
        continues[row, [cut + row for cut in cuts]] = False
    weight = torch.zeros(batch, R, M - 1, M) if weight is None else weight
    return x, shifted(x, continues), torch.full((batch, tokens), eta), continues, weight


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def worst(fast, slow) -> float:
    return max(error(a, b) for a, b in zip(fast[:3], slow[:3], strict=True))


def test_two_tokens_by_hand():
    x = torch.tensor([[[2.0, 0, 0, 0, 1]], [[3.0, 0, 0, 0, 1]]])[None]  # (1, 2, 1, 5)
    key, continues = torch.cat([torch.zeros_like(x[:, :1]), x[:, :1]], 1), torch.ones(1, 2, dtype=torch.bool)
    p = predict_reference(x, key, torch.full((1, 2), 0.5), continues, torch.zeros(1, 1, M - 1, M))
    assert p.error[0, :, 0].tolist() == [[2, 0, 0, 0], [3, 0, 0, 0]], "the first token is wholly a surprise"
    assert p.ahead[0, 0, 0].tolist() == [0, 0, 0, 0], "nothing is expected before anything was learned"
    assert p.weight[0, 0, 0].tolist() == pytest.approx([0.5 * 3 * 2 / 5, 0, 0, 0, 0.5 * 3 / 5], abs=1e-6)
    assert p.ahead[0, 1, 0, 0].item() == pytest.approx(0.6 * 3 + 0.3, abs=1e-6)


@pytest.mark.parametrize("eta", [0.1, 0.25, 1.0, 1.7])
def test_the_error_of_a_constant_decays_by_one_minus_eta_a_token(eta):
    x = series(1, 1).expand(1, 12, R, M)
    e = predict_reference(*inputs(x.double(), eta, weight=torch.zeros(1, R, M - 1, M).double())).error[0]
    for t in range(2, 12):
        bound = (1 - eta) * e[t - 1]
        assert (e[t] - bound).abs().max() < 1e-6 * e[1].abs().max(), f"token {t}"
    assert torch.equal(e[0], e[1]), "token 0 has nothing to learn from"


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("eta", [0.05, 0.25, 1.0, 1.9])
def test_the_distance_to_any_fixed_linear_map_never_grows(eta, scale):
    generator = torch.Generator().manual_seed(3)
    law = torch.randn(1, R, M - 1, M, generator=generator, dtype=torch.float64)
    key = scale * torch.randn(1, 60, R, M, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.pad((law[:, None] * key[..., None, :]).sum(-1), (0, 1), value=1.0)
    *_, rate, continues, weight = inputs(x, eta)
    rollback = predict_reference(x, key, rate, continues, weight.double()).rollback
    distance = (rollback - law[:, None]).square().sum((-1, -2)).sqrt()[0]  # (T+1, R)
    assert (distance[1:] <= distance[:-1]).all(), (distance[1:] - distance[:-1]).max()
    assert (distance[-1] < 0.5 * distance[0]).all() if scale >= 1 and eta > 0.05 else (distance[-1] < distance[0]).all()


@pytest.mark.parametrize("cuts", [(), (5,), (0, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK)])
@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, CHUNK + 1, MANY, 8 * CHUNK])
def test_chunks_equal_the_definition_over_documents(tokens, cuts):
    weight = torch.randn(3, R, M - 1, M, generator=torch.Generator().manual_seed(7))
    given = inputs(series(3, tokens), cuts=tuple(c for c in cuts if c + 2 < tokens), weight=weight)
    assert worst(predict_chunked(*given), predict_reference(*given)) < 1e-5


@pytest.mark.parametrize("eta", [0.25, 1.0, 1.9])
@pytest.mark.parametrize("alike", [0.0, 1e-4, 1e-2])
def test_chunks_equal_the_definition_when_all_observations_are_alike(eta, alike):
    given = inputs(series(2, 20 * CHUNK + 3, alike=alike), eta)
    chunked, definition = predict_chunked(*given), predict_reference(*given)
    exact = predict_reference(*(a.double() if a.is_floating_point() else a for a in given))
    scale = exact.error.abs().max()
    ours, theirs = ((p.error - exact.error).abs().max() / scale for p in (chunked, definition))
    assert ours < 1e-5, f"the definition itself errs by {theirs:.1e}"
    assert error(chunked.weight, definition.weight) < 1e-5


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_chunks_equal_the_definition_at_any_scale(scale):
    given = inputs(series(2, MANY, scale))
    assert worst(predict_chunked(*given), predict_reference(*given)) < 1e-5


def test_tokens_without_a_rate_teach_nothing_in_either_form():
    x, key, rate, continues, weight = inputs(series(2, MANY), cuts=(9,))
    rate[0, 20:40], rate[1, :] = 0.0, 0.0
    weight = torch.randn(2, R, M - 1, M, generator=torch.Generator().manual_seed(7))
    slow = predict_reference(x, key, rate, continues, weight)
    assert worst(predict_chunked(x, key, rate, continues, weight), slow) < 1e-5
    assert torch.equal(slow.rollback[0, 20], slow.rollback[0, 40])
    assert torch.equal(slow.rollback[1, :11], weight[1].expand(11, R, M - 1, M)), "row 1 begins a document at token 10"
    assert not slow.rollback[1, 11:].any()


@pytest.mark.parametrize("form", [predict_reference, predict_chunked])
def test_later_observations_change_no_bit_of_earlier_ones(form):
    given = inputs(series(2, MANY))
    for t in (1, 8, CHUNK, 2 * CHUNK + 3):
        x = torch.cat([given[0][:, :t], series(2, MANY - t, seed=5)], 1)
        other = form(*inputs(x))
        for a, b in zip(form(*given)[:2], other[:2], strict=True):
            assert torch.equal(a[:, :t], b[:, :t]), t


@pytest.mark.parametrize("form", [predict_reference, predict_chunked])
def test_a_row_keeps_its_bits_beside_other_rows(form):
    x = series(3, MANY)
    alone, beside = form(*inputs(x[:1])), form(*inputs(x))
    for a, b in zip(alone[:3], beside[:3], strict=True):
        assert torch.equal(a[0], b[0])


def test_reduced_precision_of_matrix_products_does_not_reach_the_chunks():
    given = inputs(series(2, MANY))
    plain = predict_chunked(*given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = predict_chunked(*given)
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], cast[:3], strict=True))


def test_short_calls_and_the_environment_choose_the_definition(monkeypatch):
    short, long = inputs(series(1, LOOP)), inputs(series(1, LOOP + 1))
    ran = standing_in(monkeypatch, "predictor", "torch (chunked)")
    assert predict(*short).rollback is not None
    assert predict(*long) is ran
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert predict(*long).rollback is not None


@pytest.mark.slow
def test_the_compiled_chunks_equal_the_definition():
    given = inputs(series(2, 2 * CHUNK + 3), cuts=(7,))
    with torch.no_grad():
        compiled = torch.compile(predict_chunked, fullgraph=True, dynamic=False)(*given)
    assert worst(compiled, predict_reference(*given)) < 1e-5
