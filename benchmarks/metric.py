"""Attention by distance against plain attention of equal shapes: forward and backward, in every form it can run in.

python -m benchmarks.metric --device cuda         16 rows of 2,048, 12 heads of 64, bfloat16, compiled
python -m benchmarks.metric                       CPU: 2 rows of 256, float32, eager

kernel    from queries (12 heads of 56), keys and values (12, or one) to what is read; plain attention has heads of 64
          and runs the library's own function. Building the lanes counts.
layer     a whole mixer, normed stream in and residual branch out: maps, rotation, energy, projector where named. Rows
          are one document: a sink then lengthens them by one, which packed rows are spared
explicit  the same as `kernel` at rows short enough for the definition, which forms every difference of vectors

Forward, and backward to all that is learned or given. On CUDA each form is a graph that is replayed: what the host does
between kernels, which a training step hides behind the layers before, is left out of all alike.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.mixers import run
from benchmarks.record import alternate, spread
from positronic.kernels.attention import Documents, causal_attention
from positronic.kernels.metric import (
    Metric,
    as_keys,
    causal_metric_attention,
    metric_key_bias,
    metric_reference,
)
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.metric_attention import MetricMHAConfig, MetricMQAConfig
from positronic.mixers.metric_scores import DotConfig
from positronic.nn.init import initialize
from positronic.state import Step
from positronic.train import Device

D, HEADS, VALUE, WIDTH = 768, 12, 64, 56
DOCUMENT_TOKENS = 400


class Case(NamedTuple):
    """What is run, and what it is differentiated by."""

    form: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]


def measure(rows: int, length: int, rounds: int, device: Device) -> dict[str, Any]:
    place, cuda = device.torch_device, device.torch_device.type == "cuda"
    dtype = torch.bfloat16 if device.bfloat16 else torch.float32
    short = (1, 512) if cuda else (1, 128)
    groups: dict[str, dict[str, Case]] = {
        "kernel": kernels(rows, length, dtype, place, compiled=cuda),
        "layer": layers(rows, length, device, compiled=cuda),
        "explicit": explicit(*short, dtype, place),
    }
    settle = torch.cuda.synchronize if cuda else lambda: None
    seconds: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    for group, cases in groups.items():
        runs = {name: _both(case) for name, case in cases.items()}
        memory[group] = {name: _peak_gb(run) for name, run in runs.items()} if cuda else {}
        if cuda:
            runs = {name: _captured(run) for name, run in runs.items()}
        timed = alternate(runs, rounds=rounds, settle=settle)
        seconds[group] = {name: spread(s) for name, s in timed.items()}
    return {
        "rows": rows,
        "length": length,
        "explicit_rows": short[0],
        "explicit_length": short[1],
        "heads": HEADS,
        "precision": str(dtype).removeprefix("torch."),
        "compiled": cuda,
        "replayed": cuda,
        "peak_gb_above_input": memory,
        "seconds_forward_and_backward": seconds,
        "ratio": {group: _ratios(forms) for group, forms in seconds.items()},
    }


def kernels(rows: int, length: int, dtype: torch.dtype, place: torch.device, compiled: bool) -> dict[str, Case]:
    """Plain attention first: what the ones of its name are compared with."""
    plain = _leaves(rows, length, HEADS, VALUE, dtype, place)
    ours = {groups: _leaves(rows, length, groups, WIDTH, dtype, place) for groups in (HEADS, 1)}
    one = _leaves(rows, length, 1, VALUE, dtype, place)
    segments = (torch.arange(length, device=place) // DOCUMENT_TOKENS).expand(rows, -1)
    documents = Documents.of(segments)
    metric, sunk = _metric(place), _metric(place, sink=True)
    make: Callable[[Any], Any] = partial(torch.compile, dynamic=False) if compiled else lambda form: form
    theirs, lanes = make(_plain), make(_metric_attention)
    return {
        "plain": _case(theirs, plain, None),
        "plain, one key": _case(theirs, one, None),
        "plain, documents": _case(theirs, plain, documents),
        "lanes": _case(lanes, ours[HEADS], metric, None),
        "lanes and sink": _case(lanes, ours[HEADS], sunk, None),
        "lanes, one key": _case(lanes, ours[1], metric, None),
        "lanes and sink, one key": _case(lanes, ours[1], sunk, None),
        "lanes, documents": _case(lanes, ours[HEADS], metric, documents),
        "lanes and sink, documents": _case(lanes, ours[HEADS], sunk, documents),
    }


def layers(rows: int, length: int, device: Device, compiled: bool) -> dict[str, Case]:
    """Mixers of equal heads; the projector apart, which plain attention does not have."""
    place = device.torch_device
    plain = AttentionConfig(n_heads=HEADS, n_kv_heads=HEADS, rank=None, rope_dims=VALUE, qk_norm=False)
    bare = MetricMHAConfig(projector=None, prune=None)
    forms = {
        "plain": plain,
        "plain, one key": plain.replace(n_kv_heads=1),
        "metric": bare,
        "metric, ball and sink": MetricMHAConfig(projector=None),
        "metric, ball, sink and projector": MetricMHAConfig(),
        "dot product in the same layer": bare.replace(score=DotConfig(), triangles=0),
        "metric, one key": MetricMQAConfig(prune=None),
        "metric, ball and sink, one key": MetricMQAConfig(),
    }
    tokens = torch.arange(rows * length, device=place).view(rows, length) % 16_512
    x = _random(rows, length, D, place=place).requires_grad_()
    found: dict[str, Case] = {}
    for name, config in forms.items():
        mixer = config.build(D, 24).to(place)
        initialize(mixer, 0)
        if compiled:
            mixer.compile(dynamic=False)
        found[name] = Case(partial(_layer, mixer, x, Step.of(tokens), device), (x, *mixer.parameters()))
    return found


def explicit(rows: int, length: int, dtype: torch.dtype, place: torch.device) -> dict[str, Case]:
    """Uncompiled: what each form materialises is what is measured."""
    plain = _leaves(rows, length, HEADS, VALUE, dtype, place)
    ours, metric = _leaves(rows, length, HEADS, WIDTH, dtype, place), _metric(place)
    allowed = torch.ones(1, 1, length, length, dtype=torch.bool, device=place).tril()

    def run(form: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, metric: Metric) -> Tensor:
        keys = as_keys(k.float(), None, metric, torch.float32)
        return form(q.float(), keys, v.float(), metric, allowed)

    return {
        "plain": _case(_plain, plain, None),
        "lanes": _case(_metric_attention, ours, metric, None),
        "key bias, float32": _case(partial(run, metric_key_bias), ours, metric),
        "distances one by one, float32": _case(partial(run, metric_reference), ours, metric),
    }


def _case(form: Callable[..., Tensor], leaves: tuple[Tensor, ...], *rest: Any) -> Case:
    """form(*leaves, *rest); what a metric learns is differentiated by as well."""
    learned = [x for metric in rest if isinstance(metric, Metric) for x in (metric.alpha, metric.sink) if x is not None]
    return Case(partial(form, *leaves, *rest), (*leaves, *learned))


def _metric(place: torch.device, sink: bool = False) -> Metric:
    alpha = torch.ones(HEADS, device=place, requires_grad=True)
    logit = torch.full((HEADS,), -8.0, device=place, requires_grad=True) if sink else None
    return Metric(alpha, WIDTH**-0.5, sink=logit)


def _leaves(
    rows: int, length: int, groups: int, width: int, dtype: torch.dtype, place: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as an attention's maps give them."""
    shapes = ((HEADS, width), (groups, width), (groups, VALUE))
    made = (_random(rows, heads, length, w, place=place, seed=i) for i, (heads, w) in enumerate(shapes))
    q, k, v = (x.to(dtype).requires_grad_() for x in made)
    return q, k, v


def _random(*shape: int, place: torch.device, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(place)


def _plain(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    return causal_attention(q, k, v, documents)


def _metric_attention(q: Tensor, k: Tensor, v: Tensor, metric: Metric, documents: Documents | None) -> Tensor:
    return causal_metric_attention(q, k, None, v, metric, documents, fused=True)


def _layer(mixer: nn.Module, x: Tensor, step: Step, device: Any) -> Tensor:
    with device.autocast():
        return mixer(x, step).y


def _both(case: Case) -> Callable[[], None]:
    """Forward and backward."""
    weight = torch.ones_like(case.form())

    def run() -> None:
        torch.autograd.grad(case.form(), case.leaves, weight)

    return run


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """The kernels of a run, in their order, without the host."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _peak_gb(run: Callable[[], None]) -> float:
    """Of a run after the first, which makes what all share."""
    run()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def _ratios(forms: dict[str, dict[str, float]]) -> dict[str, float]:
    """Over the plain form of the same keys and documents."""
    found = {}
    for name, measured in forms.items():
        tail = next((tail for tail in (", one key", ", documents") if name.endswith(tail)), "")
        base = forms.get(f"plain{tail}", forms["plain"])
        found[name] = round(measured["median_s"] / base["median_s"], 3)
    return {name: ratio for name, ratio in found.items() if not name.startswith("plain")}


if __name__ == "__main__":
    run("metric", __doc__, measure, on_cuda=(16, 2048, 100))
