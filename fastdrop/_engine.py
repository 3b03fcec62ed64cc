# SPDX-License-Identifier: BSD-3-Clause
"""From checked arguments to the kernels: the result's memory, the split over threads, the choice of stores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdrop import _backend, _foreign, _geometry, _threads
from fastdrop._geometry import Place
from fastdrop._kernels import Bits, Bools, Draw, IndexMap, Operands, Operation, bare

# Bytes of a result from which it is stored past the caches, measured with somebody who reads it afterwards. On Zen 4
# (32 MiB of last-level cache) both together then take 0.97 to 1.07 of the time at 8 MiB and 0.84 to 0.97 at 16 MiB; a
# loop over the same two arrays takes 1.2 at 8 MiB and rate 0.5, where it finds them in that cache. On an Intel Xeon (2
# MiB a core, and more that is shared) a call and its reader take 0.8 from 8 MiB on, and a third more at 2 MiB.
NONTEMPORAL = 16 << 20

# How hard NumPy's iterator looks whether arrays share memory. The stubs of NumPy know of 0 and -1 alone.
ITERATORS_WORK: Any = 1

IN_ORDER = _backend.IndexMap()


def result_for(x: np.ndarray) -> np.ndarray:
    """An array for the result: x's shape, subclass, order of axes in memory, and dtype in native byte order."""
    if type(x) is np.ndarray and x.dtype.isnative:
        return np.empty_like(x)
    dtype = bare(x).dtype
    dtype = dtype if dtype.isnative else dtype.newbyteorder("=")
    if _foreign.is_plain(x):
        return np.empty_like(x, dtype=dtype, subok=type(x) is np.matrix)  # a memmap would have no file
    # A copy has what the class keeps beside the elements, such as a unit or which of them are hidden.
    y: object = x.copy(order="K")
    if isinstance(y, np.ndarray) and bare(y).dtype != dtype:
        y = y.astype(dtype)
    return _believed_copy(y, x, dtype)


def _believed_copy(y: object, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What the class of x gave as its copy, if that is one."""
    array = bare(x)
    if (
        not isinstance(y, np.ndarray)
        or (type(y), bare(y).shape, bare(y).dtype) != (type(x), array.shape, dtype)
        or np.may_share_memory(bare(y), array)
    ):
        raise TypeError(
            f"the copy of a {type(x).__name__} must be another one with memory of its own, of shape {array.shape} and "
            f"dtype {dtype}, got a {type(y).__name__}"
        )
    return y


def out_for_converted(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Where the result goes for an x that was made from what is no array, and may not own its memory.

    So such input has a new array as its result also where nothing is dropped, and an array has itself.
    """
    return result_for(x) if out is None else out


def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x, or a copy of it where an element of y has memory of another element of x.

    Such a copy is made in any case, by NumPy's iterator if not here. Here it can be made before a draw.
    """
    if x is y or _backend.are_plain(x, y):
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
    if out is None or out is x:
        return x
    np.copyto(bare(out), bare(x), casting="safe")
    return out


def apply(operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap = IN_ORDER) -> None:
    """``Kernels.apply`` for the whole of an array."""
    size = operands.x.size
    if not operation.reads_normals and size > 0:
        order = None
        if operands.y.ndim > 1 and not (operands.x.flags.c_contiguous and operands.y.flags.c_contiguous):
            order = _order_of_memory(operation, operands)
        if order is not None:
            strides = _geometry.strides_along(operands.y.shape, index_map.dims)
            place = _geometry.place_in_memory(operands.y.shape, strides, order, index_map.offset)
            operands = _transposed(operands, order)
            index_map = index_map_at(place, draw, index_map.bits)
        elif index_map.dims is not None:
            index_map = index_map_at(_geometry.place_of(index_map.dims, index_map.offset), draw, index_map.bits)
    if size < _backend.SHARED:
        _backend.running.apply(operation, operands, draw, index_map)
    else:
        _apply_large(operation, operands, draw, index_map, size)


def _order_of_memory(operation: Operation, operands: Operands) -> tuple[int, ...] | None:
    """The axes as they follow in memory, of arrays that are dense and all in one order, which is not C's.

    They are walked as they lie in memory.
    """
    x, y, other = operands.x, operands.y, operands.other
    if other is None and x.flags.f_contiguous and y.flags.f_contiguous:
        return tuple(range(y.ndim - 1, -1, -1))
    order = tuple(sorted(range(y.ndim), key=lambda axis: (y.shape[axis] == 1, -y.strides[axis])))
    if operation.reads_bias and y.shape[-1] > 1 and order[y.ndim - 1 - y.shape.count(1)] != y.ndim - 1:
        return None  # the bias would not stand along the innermost axis
    arrays = (x, y) if other is None else (x, y, other)
    return order if all(array.transpose(order).flags.c_contiguous for array in arrays) else None


def _transposed(operands: Operands, order: tuple[int, ...]) -> Operands:
    """The same with other views of the arrays. What is one array stays one."""
    x, y, other = operands.x, operands.y, operands.other
    in_order = y.transpose(order)

    def view(array: np.ndarray) -> np.ndarray:
        return in_order if array is y else array.transpose(order)

    others = None if other is None else view(other)
    return _backend.Operands(view(x), in_order, operands.scale, others, operands.bias, operands.shift, operands.fill)


def index_map_at(place: Place, draw: Draw, bits: Bits | None = None) -> IndexMap:
    """The index map of an array in the order of its memory, for a draw or for the bits that replace it.

    Decisions that elements share, or that lie across the array's order, are drawn here, and brought into that order:
    an eighth of a byte for each.
    """
    offset = place.offset
    try:
        if bits is None and place.span > 0:
            bits = _backend.running.keep_bits(place.span, draw, place.first)
            offset -= place.first
        if bits is not None and place.crossed is not None:
            size = math.prod(length for length, _ in place.crossed)
            bits = _backend.running.order_bits(size, _backend.IndexMap(offset, place.crossed, bits))
            return _backend.IndexMap(0, place.ordered, bits)
    except MemoryError:  # without these bits it takes longer
        pass
    return _backend.IndexMap(offset, place.dims, bits)


def _apply_large(operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap, size: int) -> None:
    y = operands.y
    inputs = (operands.x,) if operands.other is None else (operands.x, operands.other)
    # In place the line is in the cache already, and it would be sent out for nothing.
    nontemporal = y.nbytes >= NONTEMPORAL and not any(array is y for array in inputs)
    threads = _threads.number_for(size)
    if threads > 1 and not all(_is_elementwise(array, y) for array in inputs):
        threads = 1
    _backend.running.apply(operation, operands, draw, index_map, nontemporal, threads)


def keep(shape: tuple[int, ...], draw: Draw, index_map: IndexMap) -> Bools:
    """``Kernels.keep`` for the whole of a mask: a new array of booleans."""
    out = np.empty(shape, np.bool_)
    if index_map.dims is not None and out.size > 0:
        index_map = index_map_at(_geometry.place_of(index_map.dims, index_map.offset), draw, index_map.bits)
    _backend.running.keep(out, draw, index_map, _threads.number_for(out.size))
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
