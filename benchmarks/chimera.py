"""Chimera's memories in chunks against their token loops and their authors' code, its decoding, its training step.

python -m benchmarks.chimera                     CPU: one row of 512 tokens, 4 heads of 64, float32, eager
python -m benchmarks.chimera --device cuda       32 rows of 1,024; and steps of training

kernels    forward, and backward to all that is given: the loop over tokens, which is the definition; the chunked form;
           and, where the packages are found, flash-linear-attention's gated delta rule and mlstm-kernels' memory
decoding   the engine, one row, greedy: at 1, 2 and 4 loops behind a prompt of 100 tokens, and at the usual depth behind
           one of 10,000
training   on CUDA alone: bfloat16, blocks compiled, Muon, random tokens; beside the control of equal size

Tokens are one document. OMP_NUM_THREADS=1 for one thread.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.decoding.subject import Setting, Subject, engine_of
from benchmarks.mixers import run
from benchmarks.record import alternate, in_turn, ratio, spread
from benchmarks.training_worker import Training
from positronic.generation import GREEDY, Engine, Stop, decode
from positronic.kernels.deep_memory import learn_adjoint, learn_reference
from positronic.kernels.delta import read_chunked, read_reference, write_chunked, write_reference
from positronic.kernels.mlstm import Cell
from positronic.kernels.mlstm import read_chunked as find_chunked
from positronic.kernels.mlstm import read_reference as find_reference
from positronic.kernels.mlstm import write_chunked as put_chunked
from positronic.kernels.mlstm import write_reference as put_reference
from positronic.models import preset
from positronic.train import Device, MuonConfig

HEADS, WIDTH, CHUNK, INSIDE = 4, 64, 64, 128
MODEL, CONTROL = "chimera-35m", "control-35m"
LOOPS, NEAR, FAR, SAID = (1, 2, 4), 100, 10_000, 48
STEPS = 12

Given = dict[str, Tensor]
Form = Callable[[Given], Tensor]


class Peers(NamedTuple):
    """A memory in its forms, and what they are given."""

    given: Given
    forms: dict[str, Form]
    missing: dict[str, str]


def measure(rows: int, length: int, rounds: int, device: Device) -> dict[str, Any]:
    place, cuda = device.torch_device, device.torch_device.type == "cuda"
    settle = torch.cuda.synchronize if cuda else lambda: None
    memories = {"delta": deltas, "mlstm": mlstms, "deep_memory": deep_memories}
    seconds: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, made in memories.items():
        peers = made(rows, length, place)
        runs = {form: partial(_both, call, peers.given) for form, call in peers.forms.items()}
        timed = alternate(runs, rounds=rounds, warmup=1, settle=settle)
        seconds[name] = {form: spread(taken) for form, taken in timed.items()}
        ratios[name] = {f"{form} / chunks": ratio(taken, timed["chunks"])["median"] for form, taken in timed.items()}
        missing |= peers.missing
    return {
        "rows": rows,
        "length": length,
        "heads": HEADS,
        "width": WIDTH,
        "seconds_forward_and_backward": seconds,
        "ratio": ratios,
        "missing": missing,
        "decoding": decoding(Setting(place, torch.float32, torch.get_num_threads(), SAID, rounds)),
        "training": {name: training(name, device) for name in (CONTROL, MODEL)} if cuda else None,
    }


def deltas(rows: int, length: int, place: torch.device) -> Peers:
    given = _tokens(rows, length, place) | {"memory": torch.zeros(rows, HEADS, WIDTH, WIDTH, device=place)}
    given |= {"decay": -F.softplus(given.pop("gate") - 2), "beta": given.pop("other").sigmoid()}
    fresh = torch.zeros(rows, length, dtype=torch.bool, device=place)

    def ours(write: Any, read: Any, g: Given) -> Tensor:
        context, _ = write(g["k"], g["v"], g["decay"], g["beta"], g["memory"], fresh)
        found: Tensor = read(g["q"], context)
        return found

    forms: dict[str, Form] = {
        "chunks": partial(ours, write_chunked, read_chunked),
        "loop": partial(ours, write_reference, read_reference),
    }
    module = "fla.ops.gated_delta_rule" + ("" if place.type == "cuda" else ".naive")
    name = "chunk_gated_delta_rule" if place.type == "cuda" else "naive_chunk_gated_delta_rule"

    def theirs(function: Any, g: Given) -> Tensor:
        parts = {x: g[x].bfloat16() if place.type == "cuda" else g[x] for x in "qkv"}
        found: Tensor = function(**parts, g=g["decay"], beta=g["beta"], scale=1.0)[0]
        return found.float()

    return _beside(given, forms, "flash-linear-attention", module, name, theirs)


def mlstms(rows: int, length: int, place: torch.device) -> Peers:
    given = _tokens(rows, length, place)
    given |= {"i": given.pop("gate"), "f": given.pop("other") + 2}
    cell = Cell(*(torch.zeros(rows, HEADS, *shape, device=place) for shape in ((WIDTH, WIDTH), (WIDTH,), ())))
    fresh = torch.zeros(rows, length, dtype=torch.bool, device=place)

    def ours(write: Any, read: Any, g: Given) -> Tensor:
        context, _ = write(g["k"] / WIDTH**0.5, g["v"], g["i"], F.logsigmoid(g["f"]), cell, fresh)
        found: Tensor = read(g["q"], context)
        return found

    forms: dict[str, Form] = {
        "chunks": partial(ours, put_chunked, find_chunked),
        "loop": partial(ours, put_reference, find_reference),
    }
    kind = ("triton_xl_chunk", "mlstm_chunkwise__xl_chunk") if place.type == "cuda" else ("native", "")
    name = kind[1] or "mlstm_chunkwise__native_autograd"

    def theirs(function: Any, g: Given) -> Tensor:
        q, k, v, i, f = (g[x].transpose(1, 2).contiguous() for x in "qkvif")
        found = function(q=q, k=k, v=v, i=i, f=f, chunk_size=CHUNK)
        return found if isinstance(found, Tensor) else found[0]

    return _beside(given, forms, "mlstm-kernels", f"mlstm_kernels.torch.chunkwise.{kind[0]}", name, theirs)


def deep_memories(rows: int, length: int, place: torch.device) -> Peers:
    tokens = _tokens(rows, length, place)
    n = length // CHUNK
    k, v = (tokens[x][:, : n * CHUNK].view(rows, n, CHUNK, HEADS, WIDTH) for x in "kv")
    gates = torch.rand(rows, n, CHUNK, HEADS, 4, generator=torch.Generator().manual_seed(1)).to(place)
    gates = torch.stack([0.01 * gates[..., 0], gates[..., 1], 0.01 * gates[..., 2], torch.ones_like(gates[..., 3])], -1)
    start = torch.randn(1, HEADS, 2, INSIDE, WIDTH, generator=torch.Generator().manual_seed(2)).to(place) / WIDTH**0.5
    given = {"k": k, "v": v, "gates": gates, "start": start}

    def ours(form: Any, g: Given) -> Tensor:
        begun = g["start"].expand(rows, -1, -1, -1, -1)
        found: Tensor = form(g["k"], g["v"], g["gates"], None, begun, torch.zeros_like(begun), g["start"], 0.1, 4.0)[0]
        return found

    forms: dict[str, Form] = {"chunks": partial(ours, learn_adjoint), "loop": partial(ours, learn_reference)}
    return Peers(_leaves(given), forms, {})


def decoding(setting: Setting) -> dict[str, Any]:
    """Seconds a token and tokens a second, by loops and by what was read before."""
    subject = Subject(MODEL, setting, max_positions=2 * FAR)
    near, far = subject.draw(NEAR), subject.draw(FAR)
    states = {len(prompt): (prompt, *subject.after(prompt)) for prompt in (near, far)}
    engine = engine_of(subject.model)

    def seconds(read: int, loops: int) -> float:
        prompt, state, hidden = states[read]
        how: dict[str, Any] = {"sampler": GREEDY, "stop": Stop(max_new_tokens=SAID), "hidden": hidden, "loops": loops}
        return setting.seconds(partial(_say, engine, subject, state, prompt, how)) / SAID

    usual = subject.model.config.usual_depth
    cases = {f"{loops} loops after {NEAR}": partial(seconds, NEAR, loops) for loops in LOOPS}
    cases |= {f"{usual} loops after {FAR}": partial(seconds, FAR, usual)}
    taken = in_turn(cases, rounds=setting.rounds, warmup=1)
    late = ratio(taken[f"{usual} loops after {NEAR}"], taken[f"{usual} loops after {FAR}"])
    spreads = {name: spread(times) for name, times in taken.items()}
    return {
        "model": MODEL,
        "seconds_a_token": spreads,
        "tokens_per_s": {name: 1 / times["median_s"] for name, times in spreads.items()},
        "rate_after_10000_over_that_after_100": late,
    }


def training(name: str, device: Device) -> dict[str, Any]:
    """Steps of one model: 32 rows of its context."""
    rows, context = 32, preset(name).context
    steps = Training(name, rows, context, str(device.torch_device), MuonConfig())
    first, _, *taken = (steps.time(1)["seconds"] for _ in range(STEPS))
    found = spread(taken)
    return {
        "first_step_s": first,
        "seconds_a_step": found,
        "tokens_per_s": rows * context / found["median_s"],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def _tokens(rows: int, length: int, place: torch.device) -> Given:
    """Unit queries and keys, values (B, T, H, 64), and two logits (B, T, H) of gates."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, length, HEADS, WIDTH, generator=draw).to(place) for _ in range(3))
    gate, other = (torch.randn(rows, length, HEADS, generator=draw).to(place) for _ in range(2))
    return {"q": F.normalize(q, dim=-1), "k": F.normalize(k, dim=-1), "v": v, "gate": gate, "other": other}


def _leaves(given: Given) -> Given:
    return {name: x.detach().requires_grad_() for name, x in given.items()}


def _beside(given: Given, forms: dict[str, Form], package: str, module: str, name: str, call: Any) -> Peers:
    """Our forms and, if it is found and runs here, what others call the same."""
    given = _leaves(given)
    try:
        theirs = partial(call, getattr(importlib.import_module(module), name))
        _both(theirs, given)
    except Exception as error:  # whatever a package of others ends in: it is written down
        return Peers(given, forms, {package: f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
    return Peers(given, {**forms, package: theirs}, {})


def _both(form: Form, given: Mapping[str, Tensor]) -> None:
    """Forward and backward."""
    form(dict(given)).float().square().sum().backward()


def _say(engine: Engine, subject: Subject, state: Any, prompt: list[int], how: dict[str, Any]) -> None:
    for _ in decode(subject.model, state, prompt[-1], history=prompt, engine=engine, **how):
        pass


if __name__ == "__main__":
    run("chimera", __doc__, measure, on_cuda=(32, 1024, 7), on_cpu=(1, 512, 7), peers=("fla-core", "mlstm_kernels"))
