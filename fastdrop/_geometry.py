# SPDX-License-Identifier: BSD-3-Clause
"""Where the elements of a mask lie in the stream: strides, and the fewest dimensions that say the same."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

from fastdrop import _arguments
from fastdrop._kernels import Dims


def noise_shape_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a mask is drawn, None where it is its own."""
    noise = tuple(min(n, 1) if stride == 0 else n for n, stride in zip(shape, strides, strict=True))
    return None if noise == shape else noise


# Networks draw masks of the same few shapes again and again.
@functools.lru_cache
def strides_of(shape: tuple[int, ...], noise_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Steps in the stream, in elements, along each dimension: 0 along one that shares its decisions."""
    strides = []
    step = 1
    for length, drawn in zip(reversed(shape), reversed(noise_shape or shape), strict=True):
        strides.append(step if drawn == length else 0)
        step *= max(drawn, 1)
    return tuple(reversed(strides))


@functools.lru_cache
def dims_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> Dims:
    """(length, stride) of the fewest dimensions that say the same; None for elements that follow each other."""
    dims: list[tuple[int, int]] = []
    for length, stride in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if dims and dims[-1][1] == length * stride:
            dims[-1] = (dims[-1][0] * length, stride)
        else:
            dims.append((length, stride))
    follow_each_other = not dims or (len(dims) == 1 and dims[0][1] == 1) or 0 in shape
    return None if follow_each_other else tuple(dims)


@functools.lru_cache
def index_map_of(shape: tuple[int, ...], noise_shape: tuple[int | None, ...]) -> tuple[tuple[int, ...], Dims, int]:
    """Strides, dims and the decisions to draw at once of a mask that is drawn in a noise_shape, which is checked."""
    strides = strides_of(shape, _arguments.noise_lengths(noise_shape, shape))
    dims = dims_of(shape, strides)
    return strides, dims, 0 if dims is None else place_of(dims, 0).span


def first_and_last(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> tuple[int, int]:
    """The lowest and the highest index of an element, of a mask that has any."""
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return offset + sum(step for step in steps if step < 0), offset + sum(step for step in steps if step > 0)


# Decisions that are drawn at once are held as bits. So many for each element of an array: else it is a narrow part of a
# wide mask, whose elements are drawn by themselves.
_MOST_HELD = 16

# A row of so many elements is drawn and applied in one step, wherever the row before it lies.
_LONG_ROW = 1024


class Place(NamedTuple):
    """Where the elements of an array lie in the stream, in the order of the array's memory."""

    offset: int
    dims: Dims
    span: int = 0  # decisions to draw at once, because elements share them or lie across their order; or 0
    first: int = 0  # the index of the first of them
    crossed: Dims = None  # the dimensions of decisions that are to be brought into the array's order
    ordered: Dims = None  # and then those of the array


def place_in_memory(shape: tuple[int, ...], strides: tuple[int, ...], order: tuple[int, ...], offset: int) -> Place:
    """For an array that is dense in memory, with its axes from the outermost to the innermost there.

    Parameters
    ----------
    shape : tuple of int
    strides : tuple of int
        Steps in the stream along each axis.
    order : tuple of int
        The axes as they follow in memory. Those of length 1 may be missing.
    offset : int
        The index of the first element.
    """
    dims = dims_of(tuple(shape[axis] for axis in order), tuple(strides[axis] for axis in order))
    return Place(offset, None) if dims is None else place_of(dims, offset)


@functools.lru_cache(maxsize=1024)
def place_of(dims: tuple[tuple[int, int], ...], offset: int) -> Place:
    """For the fewest dimensions of an array, in the order of its memory."""
    drawn = tuple(dim for dim in dims if dim[1] != 0)
    is_shared = drawn != dims
    is_across = any(abs(outer[1]) < abs(inner[1]) for outer, inner in pairwise(drawn))
    span = 1 + sum((length - 1) * abs(stride) for length, stride in drawn)
    # A decision for elements that follow each other, or for all, is drawn on the way.
    is_on_the_way = len(dims) <= 2 and dims[-1][1] == 0 and drawn in ((), ((dims[0][0], 1),))
    is_at_once = (is_shared and not is_on_the_way) or (is_across and (dims[-1][0] < _LONG_ROW or dims[-1][1] != 1))
    if not is_at_once or span > _MOST_HELD * math.prod(length for length, _ in dims):
        span = 0
    crossed = ordered = None
    if is_across and abs(drawn[-1][1]) != 1:
        crossed = drawn
        shape = tuple(length for length, _ in dims)
        ordered = dims_of(shape, strides_of(shape, tuple(length if stride != 0 else 1 for length, stride in dims)))
    first = offset + sum((length - 1) * stride for length, stride in drawn if stride < 0)
    return Place(offset, dims, span, first, crossed, ordered)


@functools.lru_cache(maxsize=1024)
def walked_dims(shape: tuple[int, ...], strides: tuple[int, ...]) -> Dims:
    """The dims of a part of a mask, where its decisions need not be held or brought into another order; else None."""
    dims = dims_of(shape, strides)
    if dims is None:
        return ((math.prod(shape), 1),)
    place = place_of(dims, 0)
    return dims if place.span == 0 and place.crossed is None else None


@functools.lru_cache
def strides_along(shape: tuple[int, ...], dims: Dims) -> tuple[int, ...]:
    """Steps in the stream along each axis of an array, of the fewest dimensions that say the same."""
    left = [] if dims is None else list(dims)
    length, stride = left.pop() if left else (math.prod(shape), 1)
    strides = []
    for n in reversed(shape):
        if length == 1 and left:
            length, stride = left.pop()
        strides.append(stride)
        length //= max(n, 1)
        stride *= n
    return tuple(reversed(strides))
