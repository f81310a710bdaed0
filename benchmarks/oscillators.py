"""One oscillator mixer against SwiGLU of equal size: forward, and forward with backward, and what each organ adds.

    python -m benchmarks.oscillators --device cuda         32 rows of 2,048, bfloat16, compiled
    python -m benchmarks.oscillators                       CPU: 2 rows of 256, float32, eager

Everything reads the same input and writes the same residual stream. Peers are three forms of SwiGLU, of which the
fastest counts: gate and up as two products, as one, and at a width that is a multiple of 128.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from benchmarks.mixers import VOCABULARY, Form, OneProduct, measure, ratio, run
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import preset
from positronic.train import Device

EQUAL, ALIGNED = 2_696, 2_688


def compare(rows: int, length: int, rounds: int, device: Device) -> dict[str, Any]:
    """The peers, the bare oscillators, and these with one organ each and with all."""
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
    forms = {name: Form(mixer, compiled) for name, mixer in (peers | ours).items()}
    shared = whole.shared_parts(VOCABULARY)
    results = measure(forms, shared, d, rows=rows, length=length, rounds=rounds, device=device)
    return {"compiled": compiled, **results, "ratio": ratio(results, peers)}


if __name__ == "__main__":
    run("oscillators", __doc__, compare)
