# SPDX-License-Identifier: BSD-3-Clause
"""From checked arguments to the kernels: the result's memory, the split over threads, the choice of stores."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdrop import _backend, _foreign, _threads
from fastdrop._kernels import Bools, Chunks, Draw, IndexMap, Operands, Operation

# Bytes of a result from which it is stored past the caches, where two arrays of this size leave nothing of each other.
NONTEMPORAL = 32 << 20

# How hard NumPy's iterator looks whether arrays share memory. The stubs of NumPy know of 0 and -1 alone.
ITERATORS_WORK: Any = 1

IN_ORDER = _backend.IndexMap()


def result_for(x: np.ndarray) -> np.ndarray:
    """An array for the result: x's shape, subclass, order of axes in memory, and dtype in native byte order."""
    if type(x) is np.ndarray and x.dtype.isnative:
        return np.empty_like(x)
    array = _foreign.bare(x)
    dtype = array.dtype.newbyteorder("=")
    if _foreign.is_plain(x):
        return np.empty_like(x, dtype=dtype, subok=type(x) is np.matrix)  # a memmap would have no file
    # A copy has what the class keeps beside the elements, such as a unit or which of them are hidden.
    y = x.copy(order="K").astype(dtype, copy=False)
    if not isinstance(y, np.ndarray) or not _is_like(_foreign.bare(y), array, dtype):
        raise TypeError(
            f"a copy of a {type(x).__name__} must be a new array of its shape {array.shape} and dtype {dtype}, "
            f"got a {type(y).__name__}"
        )
    return y


def _is_like(y: np.ndarray, x: np.ndarray, dtype: np.dtype) -> bool:
    return y.shape == x.shape and y.dtype == dtype and not np.may_share_memory(y, x)


def out_for_converted(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Where the result goes for an x that was made from what is no array, and may not own its memory.

    So such input has a new array as its result also where nothing is dropped, and an array has itself.
    """
    return result_for(x) if out is None else out


def apart(x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
    """x, or a copy of it where an element of y has memory of another element of x.

    Such a copy is made in any case, by NumPy's iterator if not here. Here it can be made before a draw.
    """
    if y is None or x is y:
        return x
    array, out = _foreign.bare(x), _foreign.bare(y)
    if _is_elementwise(array, out):
        return x
    try:
        is_apart = not np.shares_memory(array, out, max_work=ITERATORS_WORK)
    except np.exceptions.TooHardError:
        is_apart = False
    return x if is_apart else array.copy("K")


def copied(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """What is to be returned where nothing is dropped: x itself, or out with x's elements."""
    if out is None or out is x:
        return x
    np.copyto(_foreign.bare(out), _foreign.bare(x), casting="safe")
    return out


def apply(operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap = IN_ORDER) -> None:
    """``Kernels.apply`` for the whole of an array."""
    x = operands.x
    size = (x if type(x) is np.ndarray else _foreign.bare(x)).size
    if size < _backend.LARGE:
        _backend.running.apply(operation, operands, draw, index_map)
    else:
        _apply_large(operation, operands, draw, index_map, size)


def _apply_large(operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap, size: int) -> None:
    kernels = _backend.running
    y = _foreign.bare(operands.y)
    inputs = [_foreign.bare(array) for array in (operands.x, operands.other) if array is not None]
    # In place the line is in the cache already, and it would be sent out for nothing.
    is_in_place = operands.y is operands.x or operands.y is operands.other
    nontemporal = y.nbytes > NONTEMPORAL and not is_in_place

    def work(chunks: Chunks | None, from_front: bool) -> None:
        kernels.apply(operation, operands, draw, index_map, chunks, from_front, nontemporal)

    if _threads.pay(size) and all(_is_elementwise(array, y) for array in inputs):
        _threads.share(work, size)
    else:
        work(None, True)


def keep(shape: tuple[int, ...], draw: Draw, index_map: IndexMap) -> Bools:
    """``Kernels.keep`` for the whole of a mask: a new array of booleans."""
    kernels = _backend.running
    out = np.empty(shape, np.bool_)
    if _threads.pay(out.size):
        _threads.share(lambda chunks, from_front: kernels.keep(out, draw, index_map, chunks, from_front), out.size)
    else:
        kernels.keep(out, draw, index_map)
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
