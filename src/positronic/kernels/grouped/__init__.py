"""Products of rows with matrices of which each serves a run of them, in the precision of autocast.

One operator for a compiler, whose graph stays whole: what runs inside may wait for the lengths of the runs or not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from positronic.kernels.grouped.reference import outer_reference, product_reference
from positronic.kernels.grouped.unwaited import outer_unwaited, product_unwaited
from positronic.kernels.registry import Form, best_form, operator, register

__all__ = ["grouped_product"]

ALIGNED = 16
"""Bytes of which a row must be a multiple, for PyTorch's own."""


def grouped_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x (M, K), weight (G, N, K), ends (G,) int32 -> (M, N): row t times W_g^T, ends_{g-1} <= t < ends_g."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if _autocasts(kind) else x.dtype
    found: Tensor = _product(x.to(dtype), weight.to(dtype), ends)
    return found


def _autocasts(kind: str) -> bool:
    return kind != "meta" and torch.is_autocast_enabled(kind)


@torch.library.custom_op(operator("grouped_product", __name__), mutates_args=())
def _product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    found: Tensor = best_form("grouped_product", x, weight)(x, weight, ends)
    return found


@_product.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(x), weight.shape[1])


@torch.library.custom_op(operator("grouped_outer", __name__), mutates_args=())
def _outer(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    found: Tensor = best_form("grouped_outer", dy, x)(dy, x, ends)
    return found


@_outer.register_fake
def _(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(ends), dy.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, ends = ctx.saved_tensors
    dy = dy.contiguous()
    return (
        _product(dy, weight.mT, ends) if ctx.needs_input_grad[0] else None,
        _outer(dy, x, ends) if ctx.needs_input_grad[1] else None,
        None,
    )


_product.register_autograd(_gradients, setup_context=_keep)
if __name__.startswith("positronic."):  # once a process, where exported code may be a second copy

    @register_flop_formula(torch.ops.positronic.grouped_product)
    def _flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * x[0] * weight[1] * weight[2]


def _unaligned(x: Tensor, other: Tensor) -> str | None:
    widths = (x.shape[-1], *other.shape[-2:]) if other.dim() > 2 else (x.shape[-1], other.shape[-1])
    return "takes widths that are multiples of 8" if any(2 * width % ALIGNED for width in widths) else None


def _unwaited(run: Any) -> Form:
    return Form(
        kind="torch",
        name="unwaited",
        run=run,
        takes="bfloat16 on CUDA, widths that are multiples of 8",
        devices=("cuda",),
        dtypes=(torch.bfloat16,),
        refuses=_unaligned,
    )


register("grouped_product", _unwaited(product_unwaited), Form(kind="reference", run=product_reference))
register("grouped_outer", _unwaited(outer_unwaited), Form(kind="reference", run=outer_reference))
