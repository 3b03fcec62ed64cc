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
def shared_span(dims: tuple[tuple[int, int], ...]) -> int:
    """How many decisions to draw once for the time of a call, because elements share them; 0 where that is no gain.

    It is none where they do not, nor where those that share one follow each other: that is drawn on the way.
    """
    if all(stride != 0 for _, stride in dims) or (len(dims) == 2 and dims[0][1] == 1):
        return 0
    return 1 + sum((n - 1) * stride for n, stride in dims)


@functools.lru_cache
def index_map_of(shape: tuple[int, ...], noise_shape: tuple[int | None, ...]) -> tuple[tuple[int, ...], Dims, int]:
    """Strides, dims and span of a mask that is drawn in a noise_shape, which is checked."""
    strides = strides_of(shape, _arguments.noise_lengths(noise_shape, shape))
    dims = dims_of(shape, strides)
    return strides, dims, shared_span(dims) if dims is not None else 0


def last_index(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> int:
    """The highest index of an element, of a mask that has any."""
    return offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


class Place(NamedTuple):
    """Where the elements of an array lie in the stream, in the order of the array's memory."""

    offset: int
    dims: Dims
    span: int  # decisions to draw at once, because elements share them or lie across their order; or 0
    is_across: bool  # they are to be brought into the order of the memory then


@functools.lru_cache(maxsize=1024)
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
    if dims is None:
        return Place(offset, None, 0, False)
    span = 1 + sum((length - 1) * stride for length, stride in dims)
    is_shared = any(stride == 0 for _, stride in dims)
    is_across = not is_shared and (dims[-1][1] > 1 or any(outer[1] < inner[1] for outer, inner in pairwise(dims)))
    is_at_once = (is_shared or is_across) and span <= 8 * math.prod(shape)  # else it is a narrow part of a wide mask
    return Place(offset, dims, span if is_at_once else 0, is_across)


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
