# SPDX-License-Identifier: BSD-3-Clause
"""Dropout as a primitive of JAX: its rules for each transformation, and the custom call that it is compiled to.

Operands
    x of shape (*keys, *rest); the words of keys, uint32 of shape (*keys, 2 or 4); and, where x is one part of a whole,
    the numbers of the part, int32 of shape (*keys, n).

Parameters
    op
        What is done with the elements, a ``fastdrop._kernels.Operation``.
    threshold
        Of dropping: the rate in units of 2**-32.
    numbers
        Scale, shift and fill, as ``csrc/fastdrop.h`` explains them.
    strides
        Of the mask along each axis of ``rest``, in elements of the stream; 0 along one that shares its decisions.
    steps
        From one part to the next in the stream, for each of a part's numbers.
    threads
        How many may work on it; 0 for what ``fastdrop.set_num_threads`` says when it runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastdrop import _geometry
from fastdrop._kernels import Operation
from fastdrop.jax._library import TARGET

primitive = Primitive("fastdrop")


# Eagerly


@functools.lru_cache(maxsize=1024)
def _compiled(**parameters: Any) -> Callable[..., Array]:
    return jax.jit(functools.partial(primitive.bind, **parameters))


@primitive.def_impl
def _run(*operands: Any, **parameters: Any) -> Array:
    return _compiled(**parameters)(*operands)


@primitive.def_abstract_eval
def _like_x(x: Any, *others: Any, **parameters: Any) -> Any:
    return x.strip_weak_type()


# Derivatives: dropout and Gaussian dropout are linear in x.


def _derivative(primals: Sequence[Any], tangents: Sequence[Any], *, op: int, **parameters: Any) -> tuple[Any, Any]:
    y = primitive.bind(*primals, op=op, **parameters)
    dx, dy = tangents[0], tangents[0]
    if op != Operation.GAUSSIAN_NOISE and not isinstance(dx, ad.Zero):
        dy = primitive.bind(dx, *primals[1:], **_linear(op, **parameters))
    return y, dy


def _linear(op: int, *, numbers: tuple[float, float, float], **parameters: Any) -> dict[str, Any]:
    """The parameters of what is done with small changes of x."""
    op = Operation.DROPOUT if op == Operation.ALPHA_DROPOUT else op
    return {"op": int(op), "numbers": (numbers[0], 0.0, 0.0), **parameters}


def _transposed(dy: Any, x: Any, *others: Any, **parameters: Any) -> list[Any]:
    dx = ad.Zero(x.aval) if isinstance(dy, ad.Zero) else primitive.bind(dy, *others, **parameters)
    return [dx, *[None] * len(others)]


ad.primitive_jvps[primitive] = _derivative
ad.primitive_transposes[primitive] = _transposed


# Batches


def _batched(
    operands: Sequence[Any], axes: Sequence[int | None], *, strides: tuple[int, ...], **parameters: Any
) -> tuple[Any, int]:
    x, *others = operands
    x_axis, *other_axes = axes
    keys = x.ndim - (x_axis is not None) - len(strides)
    if all(axis is None for axis in other_axes):
        # One mask for the batch: an axis more along which decisions are shared.
        axis = x_axis
        if axis is not None and axis < keys:
            x, axis = jnp.moveaxis(x, axis, keys), keys
        assert axis is not None
        strides = (*strides[: axis - keys], 0, *strides[axis - keys :])
        return primitive.bind(x, *others, strides=strides, **parameters), axis
    # A mask for each of the batch: an axis more of keys.
    (length,) = {operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None}
    first = [
        jnp.broadcast_to(operand, (length, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands, axes, strict=True)
    ]
    return primitive.bind(*first, strides=strides, **parameters), 0


batching.primitive_batchers[primitive] = _batched


# Compiled


def _lowered(
    context: Any,
    *operands: Any,
    op: int,
    threshold: int,
    numbers: tuple[float, float, float],
    strides: tuple[int, ...],
    steps: tuple[int, ...],
    threads: int,
) -> Any:
    shape = context.avals_in[0].shape
    rest = shape[len(shape) - len(strides) :]
    dims, span = _places(rest, strides)
    lower = jax.ffi.ffi_lowering(TARGET)
    return lower(
        context,
        *operands,
        op=np.int64(op),
        threshold=np.int64(threshold),
        numbers=np.array(numbers, np.float64),
        lengths=np.array([length for length, _ in dims], np.int64),
        strides=np.array([stride for _, stride in dims], np.int64),
        span=np.int64(0 if op in (Operation.GAUSSIAN_DROPOUT, Operation.GAUSSIAN_NOISE) else span),
        steps=np.array(steps or (0,), np.int64),
        threads=np.int64(threads),
    )


def _places(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], int]:
    """The fewest dimensions of a mask, of which there is one at least, and how many decisions to draw at once."""
    dims = _geometry.dims_of(shape, strides)
    if dims is None:
        return ((math.prod(shape), 1),), 0
    return dims, _geometry.place_of(dims, 0).span


def _refused(context: Any, *operands: Any, **parameters: Any) -> Any:
    raise NotImplementedError(
        "fastdrop.jax runs on the CPU, and x is to be on another device: use jax.random.bernoulli there"
    )


mlir.register_lowering(primitive, _refused)
mlir.register_lowering(primitive, _lowered, platform="cpu")
