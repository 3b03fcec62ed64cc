# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of plain tensors, as they are in eager mode, and its derivatives.

Who traces, batches or replaces tensors gets the operators instead, which take several times as long to call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastdrop._kernels import Operation
from fastdrop.torch import _masks, _operators, _shards
from fastdrop.torch._masks import Draw, Numbers

_PLAIN_TYPES = frozenset((Tensor, torch.nn.Parameter))
_modes = torch._C._len_torch_dispatch_stack
_are_transforms_active = torch._C._are_functorch_transforms_active
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor  # also of a transformation that has ended
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by the older vmap of is_grads_batched
_is_grad_enabled = torch.is_grad_enabled


def is_plain(x: Tensor, are_modes_allowed: bool = False) -> bool:
    """Whether the memory of x is all that there is to know of it, and nobody watches what is done with it."""
    return (
        type(x) in _PLAIN_TYPES
        and x.is_cpu
        and x.dtype in _masks.DTYPES
        and x.layout is torch.strided
        and not x.is_nested
        and (are_modes_allowed or not _modes())
        and not _are_transforms_active()
        and not _is_transformed(x)
    )


def _records(x: Tensor, *others: Tensor | None) -> bool:
    """Whether derivatives are wanted."""
    if forward_ad._current_level >= 0:
        return True
    if not _is_grad_enabled():
        return False
    return x.requires_grad or any(other is not None and other.requires_grad for other in others)


def drop(
    x: Tensor,
    p: float,
    numbers_of: Callable[[float], Numbers],
    shared: tuple[int, ...] = (),
    inplace: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dropout or alpha dropout of a plain tensor, with the next mask."""
    if (
        numbers_of is _masks.dropout_numbers
        and p < 1.0
        and not (shared or inplace or _shards.said())
        and generator is None
        and not _records(x)
        and x.is_contiguous()
    ):  # the usual case, in which the call itself takes the time
        key = _masks.next_key()
        y = _masks.dropped_in_order(x, p, key)
        return y if y is not None else _masks.apply(Draw(key, p), numbers_of(p), x)
    return dropped(x, _masks.next_draw(x, p, shared, generator), numbers_of(p), inplace)


def dropped(x: Tensor, draw: Draw, numbers: Numbers, inplace: bool = False) -> Tensor:
    """Dropout or alpha dropout of a plain tensor."""
    if _records(x):
        y: Tensor = _apply_dropout(x, draw, numbers, inplace)
        return y
    return _masks.apply(draw, numbers, x, x if inplace else None)


def _linear(x: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
    """The derivative in the direction of x, which may be of any kind."""
    if is_plain(x) and not _is_batched(x):
        return dropped(x, draw, numbers.gradient)
    return _operators.dropout(x, _operators.as_tensor(draw), draw.p, numbers.gradient, draw.shared)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: Draw, numbers: Numbers, inplace: bool) -> Tensor:
        ctx.draw, ctx.numbers, ctx.inplace = draw, numbers, inplace
        if inplace:
            ctx.mark_dirty(x)
        return _masks.apply(draw, numbers, x, x if inplace else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _linear(grad, ctx.draw, ctx.numbers), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Tensor:
        dy = _linear(tangent, ctx.draw, ctx.numbers)
        return tangent.copy_(dy) if ctx.inplace else dy


# Without what Function.apply does in front for transformations, which plain tensors have none of.
_apply_dropout = torch._C._FunctionBase.__dict__["apply"].__get__(None, _Dropout)


def relu_dropped(x: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
    """Dropout of what is positive in a plain tensor."""
    if _records(x):
        y: Tensor = _ReluDropout.apply(x, draw, numbers)
        return y
    return _masks.apply(draw, numbers, x, operation=Operation.RELU_DROPOUT)


class _ReluDropout(torch.autograd.Function):
    """The result tells what was positive, as far as it was kept; and what was dropped has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
        y = _masks.apply(draw, numbers, x, operation=Operation.RELU_DROPOUT)
        ctx.draw, ctx.numbers = draw, numbers
        ctx.save_for_backward(y)
        ctx.save_for_forward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if is_plain(grad) and not _records(grad) and not _is_batched(grad):
            return _masks.apply(ctx.draw, ctx.numbers, grad, operation=Operation.RELU_BACKWARD, other=y), None, None
        return _linear(torch.where(y != 0, grad, 0), ctx.draw, ctx.numbers), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return _linear(torch.where(y != 0, tangent, 0), ctx.draw, ctx.numbers)


def bias_dropped_add(x: Tensor, bias: Tensor | None, residual: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
    """``residual`` plus dropout of ``x + bias``, all plain."""
    if _records(x, bias, residual):
        y: Tensor = _BiasDropoutAdd.apply(x, bias, residual, draw, numbers)
        return y
    return _fused_add(x, bias, residual, draw, numbers)


def _fused_add(x: Tensor, bias: Tensor | None, residual: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
    operation = Operation.DROPOUT_ADD if bias is None else Operation.BIAS_DROPOUT_ADD
    return _masks.apply(draw, numbers, x, operation=operation, other=residual, bias=bias)


class _BiasDropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor, draw: Draw, numbers: Numbers) -> Tensor:
        ctx.draw, ctx.numbers = draw, numbers
        return _fused_add(x, bias, residual, draw, numbers)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_bias, of_residual, *_ = ctx.needs_input_grad
        dx = _linear(grad, ctx.draw, ctx.numbers) if of_x or of_bias else None
        dbias = dx.sum(tuple(range(dx.ndim - 1))) if of_bias and dx is not None else None
        return dx if of_x else None, dbias, grad if of_residual else None, None, None

    @staticmethod
    def jvp(
        ctx: Any, tangent: Tensor | None, bias_tangent: Tensor | None, residual_tangent: Tensor | None, *others: Any
    ) -> Tensor:
        if tangent is None:
            tangent = bias_tangent
        elif bias_tangent is not None:
            tangent = tangent + bias_tangent
        if tangent is None:
            assert residual_tangent is not None
            return residual_tangent.clone()
        dy = _linear(tangent, ctx.draw, ctx.numbers)
        return dy if residual_tangent is None else residual_tangent + dy
