"""Where a loss or gradient stopped being finite: searched only after it happened, so a healthy step pays nothing.

Weights and optimizer are looked at before each checkpoint: a bad update can ruin them while every loss was finite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["first_nonfinite", "first_unsound"]


def first_nonfinite(model: nn.Module, calls: Sequence[Callable[[], Tensor]], gradients: Mapping[str, bool]) -> str:
    """Words for the first place that is not finite: a weight, a module's output, the loss, or a gradient.

    `calls` repeat the forward passes of the step and return their losses; `gradients` says which parameters' gradients
    were finite, in the model's order. On a GPU the next step may have moved the weights since; then a fault that only
    the old weights had is no longer found in a module, and its gradients alone bear witness.
    """
    for path, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the weights {path}"
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for call in calls:
            found = _first_output(model, call)
            if found is not None:
                return found
    for path, finite in reversed(
        list(gradients.items())
    ):  # they flow from the head down: the last is the first to break
        if not finite:
            return f"the gradient of {path}"
    return "the sum over micro-batches"


@torch.no_grad()
def first_unsound(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor, all on one device, that holds NaN or an infinity; None: there is none.

    The device is read once, whatever their number.
    """
    numbers = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not numbers:
        return None
    largest = torch._foreach_norm(list(numbers.values()), math.inf)
    finite = torch.stack([x.isfinite() for x in largest]).tolist()
    return next((name for name, sound in zip(numbers, finite, strict=True) if not sound), None)


def _first_output(model: nn.Module, call: Callable[[], Tensor]) -> str | None:
    found: list[str] = []

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(_finite(x) for x in _tensors(output)):
                found.append(path)

        return look

    hooks = [module.register_forward_hook(hook(path)) for path, module in model.named_modules() if path]
    try:
        loss = call()
    finally:
        for handle in hooks:
            handle.remove()
    if found:
        return f"the output of {found[0]}"
    return None if _finite(loss) else "the loss"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in _tensors(item)]
    return [t for item in value for t in _tensors(item)] if isinstance(value, tuple | list) else []


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(x.isfinite().all())
