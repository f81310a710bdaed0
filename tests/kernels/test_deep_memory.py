"""A network trained while it reads: the closed form is the recurrence, its gradients autograd's, all is finite."""

import itertools

import pytest
import torch
from forms_example import standing_in
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.kernels.deep_memory import (
    gradient,
    learn,
    learn_adjoint,
    learn_reference,
    recall,
    recall_together,
)
from positronic.kernels.deep_memory.chunked import weigh
from positronic.kernels.deep_memory.reference import Limits

H, K = 4, 8
TRUST, CAP = 0.1, 4.0
USUAL = (TRUST, CAP, 1.0)
CUT = (1e-3, CAP, 50.0)
"""The trust region cuts every chunk."""
CAPPED = (10.0, 1.01, 500.0)
"""The cap holds every chunk."""


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def inputs(n: int = 3, size: int = 5, expand: int = 2, steps: float = 1.0, dtype=torch.float64, seed: int = 0):
    """k, v, gates, anew, weights, momentum and start of two rows; some tokens are not written."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    k, v = unit(normal(2, n, size, H, K)), unit(normal(2, n, size, H, K))
    theta, eta, alpha = torch.sigmoid(normal(3, 2, n, size, H) + torch.tensor([-2.0, 0.0, -5.0]).view(3, 1, 1, 1, 1))
    written = (torch.rand(2, n, size, 1, generator=g) < 0.8).double().expand(2, n, size, H)
    gates = torch.stack([steps * theta / 64, eta, alpha, written], -1)
    start = normal(1, H, 2, expand * K, K) * torch.tensor([1 / K, 1 / (expand * K)]).sqrt()[:, None, None]
    weights = start + 0.1 * normal(2, *start.shape[1:])
    anew = torch.arange(2)[:, None] + 1 == torch.arange(n)  # row 0 begins anew before its second chunk, 1 its third
    given = k, v, gates, weights, 0.01 * normal(*weights.shape), start
    k, v, gates, weights, momentum, start = (x.to(dtype) for x in given)
    return k, v, gates, anew, weights, momentum, start


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def test_two_tokens_by_hand():
    """One head of width 1 with one unit: M(k) = b silu(a k)."""
    a, b, theta, eta, alpha = 2.0, 3.0, 0.01, 0.5, 0.1
    k, v = torch.ones(1, 1, 2, 1, 1), torch.tensor([1.0, -1.0]).view(1, 1, 2, 1, 1)
    gates = torch.tensor([theta, eta, alpha, 1.0]).expand(1, 1, 2, 1, 4)
    start = torch.tensor([a, b]).view(1, 1, 2, 1, 1)
    found = learn_reference(k, v, gates, None, start, torch.zeros_like(start), start, 100.0, 100.0)
    s = 1 / (1 + 2.718281828459045**-a)
    silu, slope = a * s, s + a * s * (1 - s)
    of_b = [silu * (b * silu - 1), silu * (b * silu + 1)]
    of_a = [b * (b * silu - 1) * slope, b * (b * silu + 1) * slope]
    for i, (first, grads) in enumerate(((a, of_a), (b, of_b))):
        s1 = -theta * grads[0]
        s2 = eta * s1 - theta * grads[1]
        m2 = (1 - alpha) * ((1 - alpha) * first + s1) + s2
        assert found.weights[0, 1, 0, i].item() == pytest.approx(m2, rel=1e-5)
        assert found.momentum[0, 0, i].item() == pytest.approx(s2, rel=1e-5)


def test_the_gradient_in_closed_form_is_that_of_the_loss():
    k, v, *_, weights, _, _ = inputs()
    k, v, weights = k[:, 0, 0], v[:, 0, 0], weights.requires_grad_()
    first, second = weights.unbind(2)
    said = (second.mT @ F.silu(first @ k[..., None]))[..., 0]
    loss = 0.5 * (said - v).square().sum()
    (truth,) = torch.autograd.grad(loss, weights)
    assert error(gradient(weights, k, v), truth) < 1e-14


@pytest.mark.parametrize("form", [learn_reference, learn_adjoint])
def test_every_form_is_the_recurrence_with_the_gradients_of_autograd(form):
    """S_t and M_t token by token, each gradient asked of autograd at the weights that the chunk began with."""
    k, v, gates, anew, weights, momentum, start = inputs()
    for row, head in itertools.product(range(2), range(H)):
        w, s, begin = weights[row, head], momentum[row, head], start[0, head]
        for c in range(k.shape[1]):
            if anew[row, c]:
                w, s = begin, torch.zeros_like(s)
            base, kept = w, 1.0
            for t in range(k.shape[2]):
                theta, eta, alpha, written = gates[row, c, t, head]
                if not written:
                    continue
                at = base.clone().requires_grad_()
                loss = 0.5 * (at[1].T @ F.silu(at[0] @ k[row, c, t, head]) - v[row, c, t, head]).square().sum()
                s = eta * s - theta * torch.autograd.grad(loss, at)[0]
                w, kept = (1 - alpha) * w + s, (1 - alpha) * kept
            moved = w - kept * base
            share = min(1.0, 0.02 * float(begin.norm()) / float((moved.square().sum() + 1e-12).sqrt()))
            w, s = kept * base + share * moved, share * s
        found = form(k, v, gates, anew, weights, momentum, start, 0.02, CAP)
        assert (found.share < 1).any()
        assert error(found.weights[row, -1, head], w) < 1e-12
        assert error(found.momentum[row, head], s) < 1e-12


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("trust", "cap", "steps"), [USUAL, CUT, CAPPED])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_chunks_equal_the_definition(size, trust, cap, steps, dtype, bound):
    given = inputs(4, size, steps=steps, dtype=dtype)
    fast, slow = (f(*given, trust, cap) for f in (learn_adjoint, learn_reference))
    assert max(error(a, b) for a, b in zip(fast, slow, strict=True)) < bound
    if trust < TRUST:
        assert (slow.share < 1).any()


@pytest.mark.parametrize(("trust", "cap", "steps"), [USUAL, CUT, CAPPED])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_gradients_of_chunks_are_those_of_the_definition(size, trust, cap, steps):
    found = []
    for f in (learn_adjoint, learn_reference):
        given = [x if x.dtype == torch.bool else x.requires_grad_() for x in inputs(4, size, steps=steps)]
        learned = f(*given, trust, cap)
        g = torch.Generator().manual_seed(7)
        told = sum((x * torch.randn(x.shape, generator=g, dtype=x.dtype)).sum() for x in learned[:2])
        found.append(torch.autograd.grad(told, [x for x in given if x.requires_grad]))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        assert error(ours, theirs) < 1e-10


@pytest.mark.parametrize("form", [learn_reference, learn_adjoint])
def test_where_nothing_is_written_a_memory_stays_to_the_bit_and_gradients_are_numbers(form):
    k, v, gates, _, weights, momentum, start = inputs(2, dtype=torch.float32)
    gates = gates.clone()
    gates[0, ..., 3] = 0.0
    weights = 5 * weights  # beyond the cap, which nobody may enforce on a memory that is frozen
    given = [x.requires_grad_() for x in (k, v, gates, weights, momentum, start)]
    found = form(*given[:3], None, *given[3:], TRUST, CAP)
    assert torch.equal(found.weights[0], weights[0].expand_as(found.weights[0]))
    assert torch.equal(found.momentum[0], momentum[0])
    assert not torch.equal(found.weights[1, 1], weights[1])
    grads = torch.autograd.grad(found.weights.sum() + found.momentum.sum(), given)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("form", [learn_reference, learn_adjoint])
def test_a_memory_that_is_zero_and_told_nothing_has_gradients(form):
    """Its moves have length 0, where a plain norm has none."""
    k, v, gates, _, weights, momentum, start = inputs(2)
    gates = gates.detach() * torch.tensor([0.0, 1.0, 1.0, 1.0])
    given = [x.requires_grad_() for x in (k, v, gates, 0 * weights, 0 * momentum, start)]
    found = form(*given[:3], None, *given[3:], TRUST, CAP)
    grads = torch.autograd.grad(found.weights.square().sum(), given, allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_chunks_one_by_one_are_those_of_one_call_to_the_bit():
    k, v, gates, anew, weights, momentum, start = inputs(4, 64, dtype=torch.float32)
    whole = learn_adjoint(k, v, gates, anew, weights, momentum, start, TRUST, CAP)
    for c in range(4):
        here = slice(c, c + 1)
        one = learn_adjoint(k[:, here], v[:, here], gates[:, here], anew[:, here], weights, momentum, start, TRUST, CAP)
        weights, momentum = one.weights[:, 1], one.momentum
        assert torch.equal(weights, whole.weights[:, c + 1]), c
    assert torch.equal(momentum, whole.momentum)


@pytest.mark.parametrize("form", [learn_reference, learn_adjoint])
def test_a_row_keeps_its_bits_beside_other_rows(form):
    given = inputs(3, 16, dtype=torch.float32)
    rows = [x if len(x) == 1 else x[1:] for x in given]
    alone, beside = form(*rows, TRUST, CAP), form(*given, TRUST, CAP)
    for a, b in zip(alone, beside, strict=True):
        assert torch.equal(a[0], b[1])


def test_no_chunk_moves_further_than_its_region_and_no_matrix_grows_beyond_its_cap():
    k, v, gates, _, weights, momentum, start = inputs(6, 16, steps=3000.0)
    found = learn(k, v, gates, None, weights, momentum, start, 0.8, 1.2)
    before, after = found.weights[:, :-1], found.weights[:, 1:]
    assert torch.equal(before[:, 0], weights)
    kept = torch.where(gates[..., 3] > 0, 1 - gates[..., 2], 1.0).prod(2)[..., None, None, None]
    sizes = start.square().sum((-2, -1)).sqrt()
    uncapped = (after.square().sum((-2, -1)).sqrt() < 1.1999 * sizes).all(-1)
    moved = (after - kept * before).square().sum((-3, -2, -1)).sqrt() / start.square().sum((-3, -2, -1)).sqrt()
    assert moved[uncapped].max() < 0.8 + 1e-9
    assert (found.share < 1).all()
    assert (after.square().sum((-2, -1)).sqrt() <= 1.2 * sizes + 1e-9).all()
    assert not uncapped.all()


@pytest.mark.parametrize("eta", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("contradicting", ["never", "each token", "each chunk"])
def test_100_000_tokens_on_one_key_stay_finite_and_the_pair_is_learned(eta, contradicting):
    g = torch.Generator().manual_seed(0)
    n, size, width = 64, 64, 16
    start = (
        torch.randn(1, H, 2, 2 * width, width, generator=g) * torch.tensor([width, 2 * width])[:, None, None] ** -0.5
    )
    k, v = (unit(torch.randn(H, width, generator=g)) for _ in range(2))
    sign = torch.ones(n, size)
    if contradicting == "each token":
        sign[:, 1::2] = -1
    elif contradicting == "each chunk":
        sign[1::2] = -1
    alpha = torch.tensor([0.0, 0.001, 0.01, 0.03])  # one a head
    gates = torch.stack([torch.full((H,), 1 / 64), torch.full((H,), eta), alpha, torch.ones(H)], -1)
    many = k.expand(1, n, size, H, width), sign[..., None, None] * v, gates.expand(1, n, size, H, 4)
    weights, momentum, largest = start, torch.zeros_like(start), 0.0
    for _ in range(25):  # 102,400 tokens
        found = learn(many[0], many[1][None], many[2], None, weights, momentum, start, TRUST, CAP)
        weights, momentum = found.weights[:, -1], found.momentum
        sizes = found.weights.square().sum((-2, -1)).sqrt() / start.square().sum((-2, -1)).sqrt()
        largest = max(largest, float(sizes.max()))
    assert weights.isfinite().all()
    assert momentum.isfinite().all()
    assert largest < 1.5, "the cap of 4 is a net that nothing falls into"
    distance = (recall(weights[0], k) - v).norm(dim=-1)
    if contradicting == "never" and eta < 0.99:
        assert distance[0] < 0.05
        assert (distance < (recall(start[0], k) - v).norm(dim=-1)).all()


class Memory(nn.Module):
    """M(k) as their layer takes it: weights (2, e K, K)."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.first, self.second = (nn.Parameter(w) for w in weights)

    def forward(self, k: Tensor) -> Tensor:
        return F.silu(k @ self.first.mT) @ self.second


def test_it_is_the_memory_of_titans_pytorch_where_nothing_is_bounded():
    """Gradients of 16 tokens at the weights before them; momentum and forgetting of each token."""
    theirs = pytest.importorskip("titans_pytorch")
    g = torch.Generator().manual_seed(0)
    start = torch.randn(1, 1, 2, 2 * K, K, generator=g) / K**0.5
    bare = {"pre_rmsnorm": False, "mem_model_norm_add_residual": False, "adaptive_step_transform": torch.sigmoid}
    torch.manual_seed(0)
    layer = theirs.NeuralMemory(K, chunk_size=1, batch_size=16, model=Memory(start[0, 0]), **bare).double()
    start, x = start.double(), torch.randn(1, 48, K, generator=g, dtype=torch.float64)
    with torch.no_grad():
        k, v = layer.to_keys(x), layer.to_values(x)
        steps = [layer.to_adaptive_step(x)[0], layer.to_momentum(x)[0, 0, :, 0], layer.to_decay_factor(x)[0, :, 0]]
        theta, eta, alpha = (step.sigmoid() for step in steps)
        gates = torch.stack([theta * 2 / K, eta, alpha, torch.ones(48)], -1)  # their loss is a mean of squares
    k, v, gates = (part.view(1, 3, 16, 1, -1) for part in (k, v, gates))
    found = learn_reference(k, v, gates, None, start, torch.zeros_like(start), start, 1e9, 1e9)
    weights, momentum = layer(x)[1].states
    for name, ours, moving in zip(("first", "second"), found.weights[0, -1, 0], found.momentum[0, 0], strict=True):
        assert error(weights[name][0], ours) < 1e-12
        assert error(momentum[name].flatten(0, -3)[0], moving) < 1e-12


def test_asking_together_is_asking_one_by_one():
    *_, weights, _, start = inputs()
    q = torch.randn(2, H, 9, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    each = torch.stack([recall(weights, one) for one in q.unbind(2)], 2)
    assert error(recall_together(weights, q), each) < 1e-13
    assert error(recall_together(start[0], q), torch.stack([recall(start, one) for one in q.unbind(2)], 2)) < 1e-13


def test_a_token_that_asks_by_itself_keeps_its_bits_beside_others():
    weights = torch.randn(2, 5, H, 2, 128, 64, generator=torch.Generator().manual_seed(0))
    q = torch.randn(2, 5, H, 64, generator=torch.Generator().manual_seed(1))
    together = recall(weights, q)
    for b, t in itertools.product(range(2), range(5)):
        assert torch.equal(recall(weights[b : b + 1, t : t + 1], q[b : b + 1, t : t + 1])[0, 0], together[b, t])


def test_reduced_precision_of_matrix_products_does_not_reach_a_memory():
    given = inputs(3, 16, dtype=torch.float32)
    plain = learn(*given, TRUST, CAP)
    with torch.autocast("cpu", torch.bfloat16):
        cast = learn(*given, TRUST, CAP)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_the_environment_chooses_the_definition(monkeypatch):
    given = inputs(2, 3)
    ran = standing_in(monkeypatch, "deep_memory", "torch (adjoint)")
    assert learn(*given, TRUST, CAP) is ran
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    slow = learn(*given, TRUST, CAP)
    assert all(torch.equal(a, b) for a, b in zip(slow, learn_reference(*given, TRUST, CAP), strict=True))


@pytest.mark.slow
def test_the_compiled_chunks_equal_the_definition():
    given = inputs(3, 16, dtype=torch.float32)
    with torch.no_grad():
        compiled = torch.compile(learn, fullgraph=True, dynamic=False)(*given, TRUST, CAP)
    assert max(error(a, b) for a, b in zip(compiled, learn_reference(*given, TRUST, CAP), strict=True)) < 1e-5


@pytest.mark.parametrize("anew", [True, False])
def test_it_is_one_operation_each_way_of_a_graph(anew):
    k, v, gates, begins, weights, momentum, start = inputs(3, 16, dtype=torch.float32)
    given = [x.requires_grad_() for x in (k, v, gates, weights, momentum, start)]

    def learned(form) -> list[Tensor]:
        out = form(*given[:3], begins if anew else None, *given[3:], TRUST, CAP)
        return [*out, *torch.autograd.grad(out.weights.square().sum() + out.momentum.sum(), given)]

    compiled = torch.compile(learn, fullgraph=True, dynamic=False, backend="aot_eager")
    assert max(error(a, b) for a, b in zip(learned(compiled), learned(learn), strict=True)) < 1e-6
    walk = torch.ops.positronic.deep_memory.default
    chunks, limits = weigh(k, v, gates, begins if anew else None), Limits.of(start, TRUST, CAP)
    torch.library.opcheck(
        walk, [*chunks, weights, momentum, start, *limits, True], test_utils=("test_schema", "test_faketensor")
    )
