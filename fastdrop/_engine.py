# SPDX-License-Identifier: BSD-3-Clause
"""From checked arguments to the kernels: the result's memory, the split over threads, the choice of stores."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdrop import _backend, _threads
from fastdrop._arguments import bare
from fastdrop._kernels import Bools, Draw, IndexMap, Operands, Operation

# Bytes of a result from which it is stored past the caches, where two arrays of this size leave nothing of each other.
NONTEMPORAL = 32 << 20

# How hard NumPy's iterator looks whether arrays share memory. The stubs of NumPy know of 0 and -1 alone.
ITERATORS_WORK: Any = 1

IN_ORDER = IndexMap()


def result_for(x: np.ndarray) -> np.ndarray:
    """An array for the result: x's shape, subclass, order of axes in memory, and dtype in native byte order."""
    array = bare(x)
    dtype = array.dtype
    if dtype.isnative:
        y = np.empty_like(x)
    else:
        dtype = dtype.newbyteorder("=")
        y = np.empty_like(x, dtype=dtype)
    if array is not x and not (
        isinstance(y, np.ndarray)
        and (bare(y).shape, bare(y).dtype) == (array.shape, dtype)
        and not np.may_share_memory(bare(y), array)
    ):
        raise TypeError(
            f"numpy.empty_like must give a new array of shape {array.shape} and dtype {dtype} for a "
            f"{type(x).__name__}, got a {type(y).__name__}"
        )
    return y


def apart(x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
    """x, or a copy of it where an element of y has memory of another element of x.

    Such a copy is made in any case, by NumPy's iterator if not here. Here it can be made before a draw.
    """
    if y is None or x is y:
        return x
    array, out = bare(x), bare(y)
    if _is_elementwise(array, out):
        return x
    try:
        is_apart = not np.shares_memory(array, out, max_work=ITERATORS_WORK)
    except np.exceptions.TooHardError:
        is_apart = False
    return x if is_apart else array.copy("K")


def copied(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """What is to be returned where nothing is dropped: x itself, or out with x's elements."""
    if out is None:
        return x
    np.copyto(bare(out), bare(x), casting="safe")
    return out


def apply(operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap = IN_ORDER) -> None:
    """``Kernels.apply`` for the whole of an array."""
    kernels = _backend.running
    # In place the line is in the cache already, and it would be sent out for nothing.
    is_in_place = operands.y is operands.x or operands.y is operands.other
    x, y, scale, other, *rest = operands
    x, y, other = bare(x), bare(y), None if other is None else bare(other)
    operands = Operands(x, y, scale, other, *rest)
    size = x.size
    inputs = (x,) if other is None else (x, other)
    nontemporal = y.nbytes > NONTEMPORAL and not is_in_place
    if _threads.pay(size) and all(_is_elementwise(array, y) for array in inputs):
        _threads.share(
            lambda chunks, from_front: kernels.apply(
                operation, operands, draw, index_map, chunks, from_front, nontemporal
            ),
            size,
        )
    else:
        kernels.apply(operation, operands, draw, index_map, _threads.whole(size), True, nontemporal)


def keep(shape: tuple[int, ...], draw: Draw, index_map: IndexMap) -> Bools:
    """``Kernels.keep`` for the whole of a mask: a new array of booleans."""
    kernels = _backend.running
    out = np.empty(shape, np.bool_)
    if _threads.pay(out.size):
        _threads.share(lambda chunks, from_front: kernels.keep(out, draw, index_map, chunks, from_front), out.size)
    else:
        kernels.keep(out, draw, index_map, _threads.whole(out.size))
    return out


def _is_elementwise(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether an element of y shares memory with no element of x but its own, so that their order is free."""
    if not np.may_share_memory(x, y):
        return True
    # NumPy's iterator wants the very same dtype object, or it makes a copy of what overlaps.
    return _address(x) == _address(y) and x.strides == y.strides and x.dtype is y.dtype


def _address(x: np.ndarray) -> int:
    address: int = x.__array_interface__["data"][0]
    return address
