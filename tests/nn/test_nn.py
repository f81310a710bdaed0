import pytest
import torch
from torch import nn

from positronic.kernels.soft_clamp import soft_clamp
from positronic.nn import init
from positronic.nn.gate import OPEN, Gate, GatedLinear
from positronic.nn.linear import Router, linear
from positronic.nn.norm import RMSNorm
from positronic.nn.rope import rotate, rotation


def test_a_closed_gate_is_exactly_silent_yet_lets_gradient_through():
    gate, x, organ = Gate(), torch.randn(3), torch.randn(3, requires_grad=True)
    y = x + gate(organ)
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.allclose(organ.grad, torch.full((3,), gate.leak))
    assert gate.g.grad.abs() > 0


def test_an_open_gate_passes_nine_tenths():
    assert Gate(OPEN, leak=0)(torch.ones(1)).item() == pytest.approx(0.9)


def test_gates_on_weights_are_gates_on_what_each_input_says():
    def run(form):
        generator = torch.Generator().manual_seed(0)
        gate = Gate(shape=(5, 1))
        with torch.no_grad():
            gate.g.normal_(generator=generator)
        x, weight = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, 3, 5, 4), (7, 20)))
        y = form(x, weight, gate)
        (y * torch.arange(y.numel()).view(y.shape).cos()).sum().backward()
        return [y, x.grad, weight.grad, gate.g.grad]

    def each(x, weight, gate):
        said = torch.einsum("btev,nev->bten", x, weight.unflatten(1, (5, 4)))
        return gate(said).sum(2)

    def shares(x, weight, gate):
        decoders = GatedLinear(20, [7])
        del decoders.weight
        decoders.weight = weight
        return decoders(x[:, :, None], [gate])

    for ours, theirs in zip(run(shares), run(each), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@torch.no_grad()
def test_a_few_tokens_are_decoded_as_many_are():
    torch.manual_seed(0)
    decoders, gates = GatedLinear(20, [7, 3, 1]), [Gate(shape=(5, 1)) for _ in range(3)]
    for gate in gates:
        gate.g.normal_()
    x = torch.randn(2, 40, 3, 5, 4)
    pieces = torch.cat([decoders(piece, gates) for piece in x.split([8, 1, 31], 1)], 1)
    assert torch.allclose(pieces, decoders(x, gates), atol=1e-6)


def test_soft_clamp_is_odd_bounded_and_straight_at_zero():
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64, requires_grad=True)
    y = soft_clamp(x)
    y.sum().backward()
    assert torch.allclose(y, -y.flip(0), atol=1e-12)
    assert y.abs().max() <= 10
    assert (y.diff() >= 0).all()
    assert x.grad[500].item() == pytest.approx(1.0)


def test_rms_norm_is_its_formula_with_statistics_in_float32():
    norm, x = RMSNorm(8), torch.randn(4, 8)
    assert torch.allclose(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), atol=1e-6)
    assert norm(x.bfloat16()).dtype is torch.bfloat16


def test_rotation_keeps_lengths_and_scores_depend_on_distance_alone():
    q, k = torch.randn(1, 1, 6, 16), torch.randn(1, 1, 6, 16)
    near, far = torch.arange(6)[None], torch.arange(6)[None] + 1000
    scores = [
        torch.einsum("bhtk,bhsk->ts", rotate(q, *rotation(p, 8, 1e4)), rotate(k, *rotation(p, 8, 1e4)))
        for p in (near, far)
    ]
    assert (scores[0] - scores[1]).abs().max() < 1e-3
    assert torch.allclose(rotate(q, *rotation(near, 8, 1e4)).norm(dim=-1), q.norm(dim=-1), atol=1e-5)


def small(organ: bool) -> nn.Module:
    model = nn.Module()
    model.first = linear(4, 4)
    if organ:
        model.organ = linear(4, 4)
    model.last = linear(4, 4)
    return model


def test_adding_an_organ_moves_no_other_tensor():
    with_organ, without = small(True), small(False)
    init.initialize(with_organ, 5), init.initialize(without, 5)
    assert torch.equal(with_organ.first.weight, without.first.weight)
    assert torch.equal(with_organ.last.weight, without.last.weight)
    assert not torch.equal(with_organ.first.weight, with_organ.last.weight)


def test_what_is_loaded_is_left_alone():
    model = small(False)
    nn.init.constant_(model.first.weight, 7.0)
    init.initialize(model, 5, loaded=["first.weight"])
    assert (model.first.weight == 7).all()
    assert not (model.last.weight == 7).any()


def test_the_stream_of_a_tensor_is_golden():
    model = small(False)
    init.initialize(model, 0)
    assert model.first.weight[0].tolist() == pytest.approx(GOLDEN, abs=1e-7)


GOLDEN = [-0.0108001037, -0.0037093048, 0.0212765373, 0.0122345882]
"""The first four values of `first.weight` at seed 0: a checkpoint's start can be made again years later."""


@pytest.mark.parametrize("experts", [2, 3, 4, 9])
def test_a_router_rounds_a_row_alike_wherever_it_stands(experts):
    rows, router = torch.randn(8, 48), Router(48, experts, std=1.0)
    logits = router(rows)
    assert (logits.double() - rows.double() @ router.weight.double().T).abs().max() < 1e-5
    for shift in range(1, 8):
        assert torch.equal(router(rows.roll(shift, 0)).roll(-shift, 0), logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router(rows), logits)
