"""The colony of mycel-79m against SwiGLU of equal size and against its own definition: time, and memory for backward.

    python -m benchmarks.colony --device cuda              32 rows of 2,048, bfloat16, eager and compiled
    python -m benchmarks.colony                            CPU: 2 rows of 256, float32, eager

Everything reads the same input and writes the same residual stream; peers are two forms of SwiGLU, of which the fastest
counts. Two naive forms say what growth costs when autograd keeps what it meets: the triple sum of the definition, all
pairs of tips through all centres, on fewer rows and counted by the token, and growth through the centres, whose
differences [tips, centres, 3] stay for backward. Growth is that of PyTorch's operations; on a GPU the colony runs
compiled with fused growth too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mixers import VOCABULARY, Form, OneProduct, measure, ns_per_token, ratio, run
from positronic.kernels.colony import ColonyField, Grown, bounded, grow_factored, limited
from positronic.kernels.soft_clamp import soft_clamp
from positronic.lm import MixerOutput
from positronic.mixers.colony import OUTPUT_BOUND, Colony, ColonyConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import preset
from positronic.state import Step
from positronic.train import Device

EQUAL = 416
GOAL_TIME, GOAL_MEMORY = 4.0, 1 / 8


class Naive(nn.Module):
    """A bare colony whose growth is a plain function, all of it on autograd's tape."""

    def __init__(self, colony: Colony, grow: Callable[..., Grown]):
        super().__init__()
        self.colony, self.grow = colony, grow

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        colony = self.colony
        n, c = colony.norm(x), colony.config
        p, g = colony.tips(n).float().unflatten(-1, (2, c.tips, 3)).unbind(-3)
        p, velocity, density = self.grow(p, g, colony.field(), c.steps, c.dt)
        z = torch.cat([p, velocity, density[..., None]], -1).flatten(-2)
        return MixerOutput(soft_clamp(colony.gate(colony.readout(z.to(n.dtype))), OUTPUT_BOUND))


def grow_naive(position: Tensor, growth: Tensor, field: ColonyField, steps: int, dt: float) -> Grown:
    """The definition with all pairs of tips in one tensor (..., N, N, F), where `grow_reference` loops over tips."""
    p, g = bounded(position), growth
    velocity = torch.zeros_like(g)
    for _ in range(steps):
        g = field.persistence * g + field.tropism * _sense(p, field)[1]
        velocity = limited(g, field.speed)
        p = bounded(p + dt * velocity)
    return Grown(p, velocity, _sense(p, field)[0])


def _sense(p: Tensor, field: ColonyField) -> tuple[Tensor, Tensor]:
    d = field.centres - p[..., None, :]  # (..., N, F, 3)
    kap = torch.exp(-d.square().sum(-1) / (2 * field.width**2))  # (..., N, F)
    pairs = kap[..., :, None, :] * kap[..., None, :, :] / p.shape[-2]  # (..., N, N, F)
    slope = d / field.width[:, None] ** 2
    return pairs.sum((-1, -2)), (pairs[..., None] * slope[..., :, None, :, :]).sum((-2, -3))


def compare(rows: int, length: int, rounds: int, device: Device) -> dict[str, Any]:
    """Peers, the colony bare and with its organs, and the naive forms; on a GPU each eager and compiled."""
    config: Any = preset("mycel-79m")
    d, branches, whole = config.d_model, 2 * config.n_layers, config.colony
    bare: ColonyConfig = replace(whole, phase_seed=None, stations=None)
    peers: dict[str, Callable[[], nn.Module]] = {
        f"swiglu {EQUAL}, two products": lambda: SwiGLUConfig(hidden=EQUAL).build(d, branches),
        f"swiglu {EQUAL}, one product": lambda: OneProduct(d, EQUAL, branches),
    }
    ours: dict[str, Callable[[], nn.Module]] = {
        "colony": lambda: bare.build(d, branches),
        "with phase seed": lambda: replace(bare, phase_seed=whole.phase_seed).build(d, branches),
        "with stations": lambda: replace(bare, stations=whole.stations).build(d, branches),
        "with all organs": lambda: whole.build(d, branches),
        "naive, through centres": lambda: Naive(bare.build(d, branches), grow_factored),
        "naive, triple sum": lambda: Naive(bare.build(d, branches), grow_naive),
    }
    ways = {"eager": False, "compiled": True} if device.torch_device.type == "cuda" else {"eager": False}
    forms = {
        f"{name}, {way}": Form(mixer(), compiled, rows=1 if "triple" in name else None, kernels="torch")
        for way, compiled in ways.items()
        for name, mixer in (peers | ours).items()
    }
    if device.torch_device.type == "cuda":
        for name in ("colony", "with all organs"):
            forms[f"{name}, fused"] = Form(ours[name](), True)
    shared = whole.shared_parts(VOCABULARY)
    results = measure(forms, shared, d, rows=rows, length=length, rounds=rounds, device=device)
    fastest = ratio(results, [f"{peer}, {way}" for peer in peers for way in ways])
    return {**results, "ratio": fastest, "goals": _goals(results, fastest)}


def _goals(results: dict[str, Any], fastest: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What was asked of the bare colony, beside what was found; naive forms beside its last form, fused on a GPU."""
    memory, times = results["bytes_per_token"], ns_per_token(results, "forward and backward")
    colonies, naive = ([name for name in memory if name.startswith(kind)] for kind in ("colony", "naive"))
    ours = colonies[-1]
    over_naive = {
        f"{kind}_over_naive": {
            "asked": GOAL_MEMORY,
            "of": ours,
            **{name: round(memory[ours][kind] / memory[name][kind], 5) for name in naive},
        }
        for kind in memory[ours]
    }
    return {
        "times_swiglu": {"asked": GOAL_TIME, **{name: fastest["forward and backward"][name] for name in colonies}},
        **over_naive,
        "naive_over_time": {"of": ours, **{name: round(times[name] / times[ours], 2) for name in naive}},
    }


if __name__ == "__main__":
    run("colony", __doc__, compare)
