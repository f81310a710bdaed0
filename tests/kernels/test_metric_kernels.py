"""Attention by distance: all forms are the definition, gradients included, and distances obey what they must."""

import itertools
import math
from functools import partial

import pytest
import torch
from forms_example import standing_in
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from positronic.errors import DeviceError
from positronic.kernels.attention import Documents, fused
from positronic.kernels.metric import (
    Metric,
    as_keys,
    as_queries,
    causal_metric_attention,
    masked_metric_attention,
    metric_key_bias,
    metric_lanes,
    metric_lanes_causal,
    metric_reference,
    sink_row,
    triangles,
    with_sink,
)
from positronic.kernels.metric.triangle import excesses, triples

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

B, H, T, K, V = 2, 4, 7, 24, 32
SLOPE = K**-0.5
FORMS = {"key bias": metric_key_bias, "lanes": metric_lanes}
KINDS = {
    "distance": Metric(torch.ones(H), SLOPE),
    "angle": Metric(torch.ones(H), 0.5, distance=False),
}


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def causal(rows: int = B, tokens: int = T) -> Tensor:
    return torch.ones(rows, 1, tokens, tokens, dtype=torch.bool).tril()


def with_true(allowed: Tensor) -> Tensor:
    """The mask with the sink in front."""
    return torch.cat([torch.ones_like(allowed[..., :1]), allowed], -1)


def leaves(groups: int, dtype: torch.dtype, sunk: bool) -> dict[str, Tensor]:
    """Everything a gradient is asked for; queries and keys about as long as those of a new model."""
    found = {
        "q": 0.6 * vectors(B, H, T, K, seed=1),
        "k": 0.6 * vectors(B, groups, T, K, seed=2),
        "v": vectors(B, groups, T, V, seed=3),
        "m": (0.3 * vectors(groups, K, seed=4)).exp(),
        "alpha": 0.5 + vectors(H, seed=5).abs(),
        "penalty": -vectors(B, groups, T, seed=6).abs(),
    }
    found |= {"sink": vectors(H, seed=7)} if sunk else {}
    return {name: x.to(dtype).requires_grad_() for name, x in found.items()}


def attend(run, kind: Metric, x: dict[str, Tensor], allowed: Tensor | None = None) -> Tensor:
    """Attention of scaled vectors, m on both sides, with the sink in front where there is one."""
    groups, dtype, allowed = x["k"].shape[1], x["q"].dtype, causal() if allowed is None else allowed
    root = x["m"].sqrt()[:, None]
    q = x["q"] * root.repeat_interleave(H // groups, 0)
    metric = kind._replace(alpha=x["alpha"], sink=x.get("sink"))
    keys, v = as_keys(x["k"] * root, x["penalty"], metric, dtype), x["v"]
    if metric.sink is not None:
        (keys, v), allowed = with_sink(keys, v), with_true(allowed)
    return run(q, keys, v, metric, allowed)


def gradients(o: Tensor, x: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = vectors(*o.shape, seed=9).to(o.dtype)
    return dict(zip(x, torch.autograd.grad((o * weight).sum(), list(x.values())), strict=True))


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("groups", [1, 2, H])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_definition_with_its_gradients(form, kind, groups, sunk):
    exact, single = (leaves(groups, dtype, sunk) for dtype in (torch.float64, torch.float32))
    truth, found = attend(metric_reference, KINDS[kind], exact), attend(FORMS[form], KINDS[kind], single)
    assert (found - truth).abs().max() < 1e-6
    expected = gradients(truth, exact)
    for name, gradient in gradients(found, single).items():
        assert relative_error(gradient, expected[name]) < 1e-5, name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_definition_in_double_precision(form):
    x = leaves(2, torch.float64, sunk=True)
    truth, found = (attend(run, KINDS["distance"], x) for run in (metric_reference, FORMS[form]))
    assert (found - truth).abs().max() < 1e-12
    expected = gradients(truth, x)
    for name, gradient in gradients(found, x).items():
        assert relative_error(gradient, expected[name]) < 1e-11, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_is_softmax_of_explicit_scores(kind):
    """One head, one query, by hand; leaving out |q|^2 changes no weight."""
    x = leaves(H, torch.float64, sunk=False)
    metric = KINDS[kind]._replace(alpha=x["alpha"])
    q, k, v = x["q"][0, 1], x["k"][0, 1], x["v"][0, 1]
    t, alpha = 4, x["alpha"][1].item()
    if metric.distance:
        scores = [-alpha * SLOPE * sum((q[t, c] - k[s, c]) ** 2 for c in range(K)) for s in range(t + 1)]
    else:
        scores = [alpha * sum(q[t, c] * k[s, c] for c in range(K)) for s in range(t + 1)]
    weights = torch.softmax(torch.stack(scores), 0)
    keys = as_keys(x["k"], None, metric, torch.float64)
    o = metric_reference(x["q"], keys, x["v"], metric, causal())
    assert (o[0, 1, t] - weights @ v[: t + 1]).abs().max() < 1e-14


def score_errors(parts: int, side: str, scale: float = 1.0, made=lambda form: form, place: str = "cpu") -> Tensor:
    """Of bfloat16 lane scores against explicit distances of the rounded vectors, with so many parts of the bias."""
    q, k = (scale * vectors(1, 1, 64, 56, seed=s).to(place, torch.float32) for s in (1, 2))
    metric, sharp = Metric(torch.tensor([1.37], device=place), 56**-0.5), side == "keys"
    keys = made(as_keys)(k, None, metric, torch.bfloat16, sharp).double()
    queries = made(as_queries)(q, metric, torch.bfloat16, not sharp).double()
    keys[..., 56 + parts : 59] = 0
    alpha = (metric.alpha if sharp else metric.alpha.bfloat16()).double()
    q, k, c = queries[..., :56], keys[..., :56], 2 * alpha * metric.slope
    q, k = (q, k / c) if sharp else (q / c, k)
    explicit = alpha * metric.slope * (q.square().sum(-1)[..., None] - torch.cdist(q, k).square())
    return (queries @ keys.mT - explicit).abs().max()


@pytest.mark.parametrize("side", ["queries", "keys"])
def test_three_lanes_carry_the_bias_in_bfloat16_and_fewer_do_not(side):
    """At the key lengths of a new model, about 4, and whichever side sharpness rides on."""
    one, two, three = (score_errors(parts, side, scale=4 / 56**0.5) for parts in (1, 2, 3))
    assert three < 1e-6 < two < 1e-3 < 5e-3 < one < 0.06
    assert score_errors(3, side, scale=4.0) < 3e-7 * 1.37 * 16 * 56 / 56**0.5, (
        "more than float32 rounds so large a bias"
    )


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("side", ["queries", "keys"])
def test_a_compiler_keeps_all_three(side, place):
    """It drops a cast to bfloat16 that is undone in the same kernel, and with it what casts would have split."""
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    assert score_errors(3, side, scale=4 / 56**0.5, made=compiled, place=place) < 1e-6


def test_in_bfloat16_attention_is_that_of_the_rounded_vectors():
    x = {name: value.detach() for name, value in leaves(1, torch.float32, sunk=True).items()}
    metric = KINDS["distance"]._replace(alpha=x["alpha"].bfloat16().float(), sink=x["sink"].bfloat16().float())
    keys, v = as_keys(x["k"], x["penalty"], metric, torch.bfloat16), x["v"].bfloat16()
    rounded = as_queries(x["q"], metric, torch.bfloat16)[..., :K].double() / (2 * SLOPE * metric.alpha[:, None, None])
    (keys, v), allowed = with_sink(keys, v), with_true(causal())
    exact = [part.double() for part in (rounded, keys, v)]
    truth = metric_reference(*exact, metric._replace(alpha=metric.alpha.double(), sink=metric.sink.double()), allowed)
    o = metric_lanes(x["q"], keys, v, metric, allowed)
    assert o.dtype == torch.bfloat16
    assert relative_error(o, truth) < 2 * 2**-8, "more than bfloat16 rounds weights and outputs"


def test_one_key_for_all_heads_is_that_key_repeated():
    one, exact = leaves(1, torch.float64, sunk=True), torch.float64
    many = leaves(H, exact, sunk=True) | {"k": one["k"].expand(-1, H, -1, -1), "v": one["v"].expand(-1, H, -1, -1)}
    many |= {"m": one["m"].expand(H, -1), "penalty": one["penalty"].expand(-1, H, -1)}
    for run in (metric_reference, *FORMS.values()):
        assert (attend(run, KINDS["distance"], one) - attend(run, KINDS["distance"], many)).abs().max() < 1e-14


def plain(q: Tensor, k: Tensor, v: Tensor, metric: Metric = KINDS["distance"]) -> Tensor:
    metric = metric._replace(alpha=metric.alpha.to(q.dtype))
    return metric_key_bias(q, as_keys(k, None, metric, q.dtype), v, metric, causal())


def test_distances_do_not_see_where_the_origin_is_nor_how_space_is_turned():
    q, k, v = vectors(B, H, T, K, seed=1), vectors(B, H, T, K, seed=2), vectors(B, H, T, V, seed=3)
    truth, moved, turn = plain(q, k, v), vectors(K, seed=4), torch.linalg.qr(vectors(K, K, seed=5)).Q
    assert (plain(q + moved, k + moved, v) - truth).abs().max() < 1e-12
    assert (plain(q @ turn, k @ turn, v) - truth).abs().max() < 1e-12
    sharper = KINDS["distance"]._replace(alpha=torch.full((H,), 1 / 9, dtype=torch.float64))
    assert (plain(3 * q, 3 * k, v, sharper) - truth).abs().max() < 1e-12
    dot = Metric(torch.ones(H), SLOPE, distance=False)
    assert (plain(q + moved, k + moved, v, dot) - plain(q, k, v, dot)).abs().max() > 1e-2, "a dot product does"


@pytest.mark.parametrize("run", [metric_reference, metric_key_bias, metric_lanes])
def test_a_row_of_which_all_keys_are_pruned_goes_to_zero_and_stays_finite(run):
    x = leaves(2, torch.float32, sunk=True)
    sizes = []
    for penalty in (-1.0, -10.0, -100.0, -3e4):
        pruned = x | {"penalty": torch.full((B, 2, T), penalty, requires_grad=True)}
        o = attend(run, KINDS["distance"], pruned)
        assert all(gradient.isfinite().all() for gradient in gradients(o, pruned).values())
        sizes.append(o.abs().max().item())
    assert sizes[0] > sizes[1] > sizes[2] >= sizes[3] == 0.0
    assert sizes[1] < 1e-2


@pytest.mark.parametrize("run", [metric_reference, metric_key_bias, metric_lanes])
def test_a_mask_that_leaves_a_row_empty_gives_zeros_there_and_finite_gradients(run):
    x, allowed = leaves(2, torch.float32, sunk=False), causal()
    allowed[:, :, 3] = False
    o = attend(run, KINDS["distance"], x, allowed)
    assert torch.equal(o[:, :, 3], torch.zeros(B, H, V))
    assert o[:, :, 2].abs().min() > 0
    assert all(gradient.isfinite().all() for gradient in gradients(o, x).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_lets_a_query_see_what_is_within_it(kind):
    x = {name: value.detach() for name, value in leaves(2, torch.float64, sunk=True).items()}
    metric = KINDS[kind]._replace(alpha=x["alpha"], sink=x["sink"], radius=1.41 if kind == "angle" else 4.1)
    q, k = x["q"], x["k"]
    if kind == "angle":
        q, k = (y / y.norm(dim=-1, keepdim=True) for y in (q, k))
    near = torch.cdist(q.unflatten(1, (2, -1)), k[:, :, None]).flatten(1, 2) <= metric.radius
    assert 0.2 < near[:, :, *torch.tril_indices(T, T)].double().mean() < 0.8
    keys, v = with_sink(as_keys(k, x["penalty"], metric, torch.float64), x["v"])
    allowed = with_true(causal())
    truth = metric_reference(q, keys, v, metric, allowed)
    bare = metric._replace(radius=None)
    seen = allowed & torch.cat([torch.ones(B, H, T, 1, dtype=torch.bool), near], -1)
    by_mask = torch.cat([metric_reference(q, keys, v, bare, seen[:, h : h + 1])[:, h : h + 1] for h in range(H)], 1)
    assert (truth - by_mask).abs().max() < 1e-14
    assert (metric_key_bias(q, keys, v, metric, allowed) - truth).abs().max() < 1e-12
    wide = metric._replace(radius=1e3)
    assert torch.equal(metric_reference(q, keys, v, wide, allowed), metric_reference(q, keys, v, bare, allowed))


def test_the_sink_is_a_key_that_says_nothing():
    """o sigmoid(lse - sink): what a sink takes, given the log-sum-exp of the others."""
    x = leaves(2, torch.float64, sunk=True)
    alone = {name: value for name, value in x.items() if name != "sink"}
    metric = KINDS["distance"]._replace(alpha=x["alpha"])
    root = x["m"].sqrt()[:, None]
    q, k = x["q"] * root.repeat_interleave(2, 0), (x["k"] * root).repeat_interleave(2, 1)
    z = metric.alpha[:, None, None] * SLOPE * (2 * q @ k.mT - k.square().sum(-1)[:, :, None])
    z = (z + x["penalty"].repeat_interleave(2, 1)[:, :, None]).masked_fill(~causal(), -torch.inf)
    share = torch.sigmoid(z.logsumexp(-1) - x["sink"][:, None])
    expected = attend(metric_reference, KINDS["distance"], alone) * share[..., None]
    for run in (metric_reference, *FORMS.values()):
        assert (attend(run, KINDS["distance"], x) - expected).abs().max() < 1e-14


def in_blocks(segments: Tensor) -> Documents:
    """What `Documents.of` gives while training on CUDA, elsewhere too."""
    if segments.is_cuda:
        return Documents.of(segments)
    padded = torch.nn.functional.pad(segments, (0, -segments.shape[1] % fused.BLOCK), value=-1)
    size = padded.shape[1]

    def visible(b, h, t, s):
        return (t >= s) & (padded[b, t] == padded[b, s])

    blocks = create_block_mask(visible, len(segments), None, size, size, device="cpu", BLOCK_SIZE=fused.BLOCK)
    return Documents(blocks=blocks, segments=segments)


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("form", ["definition", "not fused", "radius", "float16"])
def test_forms_that_know_no_blocks_read_documents_and_padding_all_the_same(form, place, monkeypatch):
    segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [-1, -1, 0, 0, 0, 1, 1]], device=place)
    documents = in_blocks(segments)
    assert documents.blocks is not None
    if form == "definition":
        monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    x = {name: value.to(place) for name, value in leaves(H, torch.float32, sunk=True).items()}
    metric = KINDS["distance"]._replace(alpha=x["alpha"], sink=x["sink"], radius=5.0 if form == "radius" else None)
    v = x["v"].half() if form == "float16" else x["v"]
    given, fused_or_not = (x["q"], x["k"], x["penalty"], v, metric), False if form == "not fused" else None
    o = causal_metric_attention(*given, documents, fused_or_not)
    assert torch.equal(o, causal_metric_attention(*given, Documents(documents.mask()), fused_or_not))
    assert not torch.equal(o, causal_metric_attention(*given, None, fused_or_not))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cached", [False, True])
def test_the_definition_runs_in_every_dtype(cached, dtype, kind, monkeypatch):
    """Queries and keys stay wide in a mixer, values and lanes have the dtype of the model; autocast changes nothing."""
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    x = leaves(2, torch.float32, sunk=False)
    metric, v = KINDS[kind]._replace(alpha=x["alpha"]), x["v"].to(dtype)
    keys = as_keys(x["k"], x["penalty"], metric, dtype)

    def run() -> Tensor:
        if cached:
            return masked_metric_attention(x["q"], keys, v, metric, causal())
        return causal_metric_attention(x["q"], x["k"], x["penalty"], v, metric, None)

    exact = metric_reference(x["q"].double(), keys.double(), v.double(), metric, causal())
    assert run().dtype == dtype
    assert (run() - exact).abs().max() < 4 * torch.finfo(dtype).eps + 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        under = run()
    assert torch.equal(under, run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [2, H])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("layout", ["one document", "documents", "blocks"])
def test_whole_rows_are_masked_calls(layout, sunk, groups, kind, monkeypatch):
    """The block-sparse kernel runs compiled on CUDA; uncompiled it is the same arithmetic."""
    monkeypatch.setattr(fused, "_compiled_flex", lambda: flex_attention)
    x = leaves(groups, torch.float32, sunk)
    if layout == "blocks":  # no gradients there on the CPU
        x = {name: value.detach() for name, value in x.items()}
    segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1, 1]])
    same, documents = causal(), None
    if layout != "one document":
        same = same & (segments[:, None, :, None] == segments[:, None, None, :])
        documents = Documents(same)
    if layout == "blocks":
        documents = in_blocks(segments)
    metric = KINDS[kind]._replace(alpha=x["alpha"], sink=x.get("sink"))
    o = metric_lanes_causal(x["q"], x["k"], x["penalty"], x["v"], metric, documents)
    without_m = x | {"m": torch.ones(groups, K)}
    truth = attend(metric_reference, KINDS[kind], without_m, same)
    assert (o - truth).abs().max() < 1e-6
    if layout == "blocks":
        return
    names = {name: value for name, value in x.items() if name != "m"}
    expected = gradients(truth, names)
    for name, gradient in gradients(o, names).items():
        assert relative_error(gradient, expected[name]) < 1e-5, name


@needs_cuda
def test_a_gpu_s_compiler_draws_the_same_triples():
    tokens = TOKENS.cuda()
    for ours, eager in zip(torch.compile(triples)(tokens, None, H, 64), triples(tokens, None, H, 64), strict=True):
        assert torch.equal(ours, eager)


@needs_cuda
@pytest.mark.parametrize("groups", [1, H])
@pytest.mark.parametrize("cut", [False, True])
def test_training_on_cuda_is_the_definition(cut, groups):
    """Fused and block-sparse kernels in bfloat16, the sink from the log-sum-exp where documents are cut."""
    tokens, place = 256, torch.device("cuda")
    segments = (torch.arange(tokens, device=place) // 100).expand(B, -1) if cut else None
    x = leaves(groups, torch.float32, sunk=True) | {
        "q": 0.4 * vectors(B, H, tokens, 56, seed=1).float(),
        "k": 0.4 * vectors(B, groups, tokens, 56, seed=2).float(),
        "v": vectors(B, groups, tokens, 64, seed=3).float(),
        "penalty": -vectors(B, groups, tokens, seed=6).float().abs(),
    }
    names = {name: x[name].detach().to(place).requires_grad_() for name in ("q", "k", "v", "penalty", "alpha", "sink")}
    metric = Metric(names["alpha"], 56**-0.5, sink=names["sink"])
    given = names["q"], names["k"], names["penalty"], names["v"].bfloat16()
    o = causal_metric_attention(*given, metric, Documents.of(segments), fused=True)
    allowed = causal(B, tokens).to(place)
    if segments is not None:
        allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
    exact = with_sink(as_keys(names["k"], names["penalty"], metric, torch.float32), names["v"])
    truth = metric_reference(names["q"], *exact, metric, with_true(allowed))
    assert relative_error(o, truth) < 2e-2
    weight = vectors(*o.shape, seed=9).float().to(place)
    found, expected = (torch.autograd.grad((y.float() * weight).sum(), list(names.values())) for y in (o, truth))
    for name, ours, theirs in zip(names, found, expected, strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm(), name


def test_what_runs_where(monkeypatch):
    """float16 cannot hold the bias of a long key, so its scores are formed in float32."""
    q, k, v = (40 * vectors(B, H, T, K, seed=s).float() for s in (1, 2, 3))
    long = k * 40  # |k|^2 / sqrt(K) far above 65504
    metric = Metric(torch.ones(H), SLOPE)
    keys, values = as_keys(long, None, metric, torch.float16), v.half()
    assert long.square().sum(-1).min() * SLOPE > 65_504
    o = causal_metric_attention(q, long, None, values, metric, None)
    assert o.dtype == torch.float16
    assert o.isfinite().all()
    truth = metric_reference(q.double(), keys.double(), values.double(), metric, causal())
    assert relative_error(o, truth) < 1e-3
    with pytest.raises(DeviceError, match="float16"):
        causal_metric_attention(q, long, None, values, metric, None, fused=True)
    lanes, key_bias, definition = (
        standing_in(monkeypatch, "masked_metric_attention", form)
        for form in ("torch (lanes)", "torch (key bias)", "reference")
    )
    keys = as_keys(k, None, metric, torch.float32)
    assert masked_metric_attention(q, keys, v, metric, causal()) is lanes
    assert masked_metric_attention(q, keys, v, metric, causal(), fused=False) is key_bias
    assert masked_metric_attention(q, keys, v, metric._replace(radius=2.0), causal()) is key_bias
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert masked_metric_attention(q, keys, v, metric, causal()) is definition


def test_a_sink_row_is_read_by_its_mark_alone():
    row = sink_row(as_keys(vectors(B, 2, T, K), None, KINDS["distance"], torch.float64))
    assert row.shape == (B, 2, 1, K + 8)
    assert row.sum() == row.max() * B * 2 == B * 2


TOKENS = torch.randint(0, 50, (3, 40), generator=torch.Generator().manual_seed(0))


def images() -> tuple[Tensor, Tensor]:
    """A query and a key for each of 40 tokens, near to a line, where distances are uneven enough to break triangles."""
    along = 0.1 + 4 * torch.eye(K, dtype=torch.float64)[0]
    return along * vectors(3, H, 40, K, seed=1), along * vectors(3, 2, 40, K, seed=2)


def test_a_triangle_is_violated_by_no_more_than_the_two_images_of_its_middle():
    q, k = images()
    places, _ = triples(TOKENS, None, H, 64)
    excess = excesses(q, k, places)
    assert (excess >= 0).all()
    assert (excess > 0).any()
    own = (q - k.repeat_interleave(2, 1)).norm(dim=-1)  # (B, H, T)
    assert (excess <= own.gather(2, places[..., 1]) + 1e-9).all()


@pytest.mark.parametrize("angle", [False, True])
def test_tied_vectors_violate_no_triangle(angle):
    q, _ = images()
    q = q / q.norm(dim=-1, keepdim=True) if angle else q
    assert triangles(q, q, TOKENS, None, 64, angle).loss.max() < (1e-6 if angle else 1e-20)


def test_the_loss_is_the_mean_squared_excess_of_the_triples_it_names():
    q, k = images()
    places, real = triples(TOKENS, None, H, 16)
    total = 0.0
    for b, h, i in itertools.product(range(3), range(H), range(16)):
        x, y, z = places[b, h, i].tolist()
        d = {(i, j): (q[b, h, i] - k[b, h // 2, j]).norm() for i, j in itertools.permutations((x, y, z), 2)}
        total += max(0.0, float(d[x, z] - d[x, y] - d[y, z])) ** 2
    found = triangles(q, k, TOKENS, None, 16).loss.mean()
    assert found > 0
    assert abs(float(found) - total / (3 * H * 16)) < 1e-9
    assert real.tolist() == [40, 40, 40]


def test_angles_obey_and_break_the_inequality_as_distances_do():
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in images())
    places, _ = triples(TOKENS, None, H, 64)
    excess, (a, b, c) = excesses(q, k, places, angle=True), places[0, 0, 0].tolist()
    angle = {(i, j): math.acos(float(q[0, 0, i] @ k[0, 0, j])) for i, j in ((a, c), (a, b), (b, c))}
    assert abs(float(excess[0, 0, 0]) - max(0.0, angle[a, c] - angle[a, b] - angle[b, c])) < 1e-6


def test_triples_are_distinct_real_tokens_spread_over_the_row():
    valid = torch.ones_like(TOKENS, dtype=torch.bool)
    valid[0, :13], valid[1, 30:], valid[2, 5:9] = False, False, False
    places, real = triples(TOKENS, valid, H, 256)
    assert real.tolist() == [27, 30, 36]
    assert (places[..., 0] != places[..., 1]).all()
    assert (places[..., 1] != places[..., 2]).all()
    assert (places[..., 0] != places[..., 2]).all()
    for row in range(3):
        assert valid[row][places[row].flatten()].all()
        counts = places[row].flatten().bincount(minlength=40)[valid[row]]
        expected = 3 * H * 256 / int(real[row])
        assert (counts - expected).abs().max() < 6 * expected**0.5, "some tokens are drawn too often"


def test_a_row_gets_its_triples_whatever_stands_beside_it_and_other_rows_get_others():
    alone, _ = triples(TOKENS[1:2], None, H, 32)
    beside, _ = triples(TOKENS, None, H, 32)
    assert torch.equal(alone[0], beside[1])
    assert not torch.equal(beside[0], beside[1])
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), TOKENS[1:2]], 1)
    shifted, _ = triples(padded, torch.arange(45)[None] >= 5, H, 32)
    assert torch.equal(shifted[0] - 5, alone[0])


def test_the_loss_of_a_row_hangs_on_no_other_row():
    q, k = images()
    valid = torch.arange(40) < torch.tensor([40, 17, 2])[:, None]
    whole = triangles(q, k, TOKENS, valid, 64)
    rows = [triangles(q[i : i + 1], k[i : i + 1], TOKENS[i : i + 1], valid[i : i + 1], 64).loss for i in range(3)]
    assert rows[2] == 0, "two tokens make no triangle"
    assert (whole.loss - torch.cat(rows)).abs().max() < 1e-12
