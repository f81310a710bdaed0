"""One oscillator mixer against SwiGLU of equal size: forward, and forward with backward, and what each organ adds.

    python -m benchmarks.oscillators --device cuda         32 rows of 2,048, bfloat16, compiled
    python -m benchmarks.oscillators                       CPU: 2 rows of 256, float32, eager

Everything reads the same input and writes the same residual stream. Peers are three forms of SwiGLU, of which the
fastest counts: gate and up as two products, as one, and at a width that is a multiple of 128. The dynamics are those of
PyTorch's operations; on a GPU the bare mixer and the one with all organs run with the fused dynamics too, and the
dynamics run alone beside float64.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mixers import CALLS, VOCABULARY, Form, OneProduct, asking, measure, ratio, repeat, run
from benchmarks.record import alternate, spread
from positronic.kernels.kuramoto import RingField, integrate, integrate_mean_field
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import preset
from positronic.train import Device

EQUAL, ALIGNED = 2_696, 2_688
GOALS = {"oscillators": 2.0, "with all organs": 5.0}
"""Times the fastest SwiGLU, forward and backward, on a GPU."""
CHECKED = 256
"""Tokens whose phases and gradients are compared with float64."""


def compare(rows: int, length: int, rounds: int, device: Device) -> dict[str, Any]:
    """The peers, the bare oscillators, these with one organ each and with all, and the fused forms."""
    config: Any = preset("positronic-144m")
    d, branches, whole = config.d_model, 2 * config.n_layers, config.oscillators
    bare: KuramotoConfig = replace(whole, phase_seed=None, controller=None, injections=())
    peers: dict[str, nn.Module] = {
        f"swiglu {EQUAL}, two products": SwiGLUConfig(hidden=EQUAL).build(d, branches),
        f"swiglu {EQUAL}, one product": OneProduct(d, EQUAL, branches),
        f"swiglu {ALIGNED}, one product": OneProduct(d, ALIGNED, branches),
    }
    ours: dict[str, nn.Module] = {
        "oscillators": bare.build(d, branches),
        "with phase seed": replace(bare, phase_seed=whole.phase_seed).build(d, branches),
        "with ring controller": replace(bare, controller=whole.controller).build(d, branches),
        **{f"with {organ.kind}": replace(bare, injections=(organ,)).build(d, branches) for organ in whole.injections},
        "with all organs": whole.build(d, branches),
    }
    compiled = device.torch_device.type == "cuda"
    forms = {name: Form(mixer, compiled, kernels="torch") for name, mixer in (peers | ours).items()}
    for name, mixer in (("oscillators", bare), ("with all organs", whole)) if compiled else ():
        forms[f"{name}, fused"] = Form(mixer.build(d, branches), compiled)
    results = measure(forms, whole.shared_parts(VOCABULARY), d, rows=rows, length=length, rounds=rounds, device=device)
    results = {"compiled": compiled, **results, "ratio": ratio(results, peers)}
    if not compiled:
        return results
    goals = _goals(results["ratio"]["forward and backward"])
    return {**results, "goals": goals, "dynamics": dynamics(bare, rows * length, rounds, device)}


def _goals(found: dict[str, float]) -> dict[str, Any]:
    """What was asked of the bare mixer and of all organs, beside what each form of the dynamics gave."""
    return {
        goal: {"asked": asked, **{name: t for name, t in found.items() if name.partition(", ")[0] == goal}}
        for goal, asked in GOALS.items()
    }


def dynamics(config: KuramotoConfig, tokens: int, rounds: int, device: Device) -> dict[str, Any]:
    """The rings alone, float32 in and out, compiled: times, and the largest relative error against float64."""
    place = device.torch_device
    generator = torch.Generator().manual_seed(0)
    n, r = config.n_oscillators, len(config.rings)
    draw = partial(torch.randn, generator=generator)
    given = [
        2 * draw(tokens, n),
        draw(tokens, n).tanh(),
        0.5 * draw(r, r),
        0.5 * draw(r),
        0.5 * draw(r),
        draw(()),
        draw(()),
    ]
    given = [x.to(place) for x in given]
    few = [x[:CHECKED].double() if len(x.shape) and len(x) == tokens else x.double() for x in given]
    right = _phases_and_gradients(partial(_steps, integrate_mean_field, config), few)
    forms, errors = {}, {}
    for name, kernels in (("mean field", "torch"), ("fused", "")):
        whole = torch.compile(partial(_steps, integrate, config), dynamic=False)
        got = asking(kernels, _phases_and_gradients, whole, [x.float() for x in few])
        errors[name] = [float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(got, right, strict=True)]
        forms[name] = kernels, whole
    settle = torch.cuda.synchronize
    timed = {
        kind: alternate(
            {
                name: partial(asking, kernels, repeat, partial(call, whole, given), CALLS)
                for name, (kernels, whole) in forms.items()
            },
            rounds=rounds,
            settle=settle,
        )
        for kind, call in (("forward", _phases), ("forward and backward", _phases_and_gradients))
    }
    return {
        "tokens": tokens,
        "seconds": {
            kind: {name: spread([t / CALLS for t in seconds]) for name, seconds in runs.items()}
            for kind, runs in timed.items()
        },
        "errors of phases, then of gradients: theta, omega, K, al, c, phi0, Om": errors,
    }


def _steps(form: Any, config: KuramotoConfig, theta: Tensor, omega: Tensor, *field: Tensor) -> Tensor:
    after: Tensor = form(theta, omega, None, RingField(*field), config.rings, config.steps, config.dt)
    return after


@torch.no_grad()
def _phases(call: Any, given: list[Tensor]) -> None:
    call(*given)


def _phases_and_gradients(call: Any, given: list[Tensor]) -> list[Tensor]:
    given = [x.detach().requires_grad_() for x in given]
    after = call(*given)
    return [after.detach(), *torch.autograd.grad(after, given, given[0].detach())]


if __name__ == "__main__":
    run("oscillators", __doc__, compare)
