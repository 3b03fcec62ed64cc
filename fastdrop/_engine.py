# SPDX-License-Identifier: BSD-3-Clause
"""From checked arguments to the kernels: the result's memory, the split over threads, the choice of stores."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

import fastdrop
from fastdrop import _threads


def _last_level_cache() -> int:
    """Bytes, or a usual size where the system does not tell."""
    for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        if name in getattr(os, "sysconf_names", ()):
            try:
                size = os.sysconf(name)
            except (OSError, ValueError):
                continue
            if size > 0:
                return size
    return 32 << 20


LAST_LEVEL_CACHE = _last_level_cache()

# Arrays of fewer elements go to the kernel at once: they are neither shared by threads nor larger than the caches.
LARGE = min(_threads.MIN_SHARED, LAST_LEVEL_CACHE // 8)


def result_for(x: np.ndarray) -> np.ndarray:
    """An array for the result: x's shape, subclass, order of axes in memory, and dtype in native byte order."""
    dtype = x.dtype
    if dtype.isnative:
        return np.empty_like(x)
    return np.empty_like(x, dtype=dtype.newbyteorder("="))


def copied(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """What is to be returned where nothing is dropped: x itself, or out with x's elements."""
    if out is None:
        return x
    np.copyto(out, x, casting="safe")
    return out


@functools.lru_cache
def threshold_and_scale(rate: float) -> tuple[int, float]:
    """D, an integer up to 2**32, and what kept elements are multiplied by (at rate 1 there are none).

    The product is exact and round() takes ties to even; the scale is rounded once more, to the arithmetic type.
    """
    return round(rate * 4294967296.0), 1.0 / (1.0 - rate) if rate < 1.0 else 0.0


def apply(x, out, key, call, threshold, scale, offset=0, dims=None, bits=None, terms=None) -> None:
    """``Kernels.apply`` for the whole of an array. ``terms`` holds its arguments op, other, bias, shift and fill."""
    size = x.size
    if size >= LARGE:
        _apply_large(x, out, key, call, threshold, scale, offset, dims, bits, terms or {})
    elif terms is None:
        fastdrop._kernels.apply(x, out, 0, size, key, call, threshold, scale, offset, dims, bits)
    else:
        fastdrop._kernels.apply(x, out, 0, size, key, call, threshold, scale, offset, dims, bits, **terms)


def _apply_large(x, out, key, call, threshold, scale, offset, dims, bits, terms) -> None:
    kernels: Any = fastdrop._kernels
    other = terms.get("other")
    inputs = (x,) if other is None else (x, other)
    # In place the line is in the cache already, and it would be sent out for nothing.
    stream = out.nbytes > LAST_LEVEL_CACHE and out is not x and out is not other
    how = (key, call, threshold, scale, offset, dims, bits, stream)

    def work(start: int, stop: int) -> None:
        kernels.apply(x, out, start, stop, *how, **terms)

    def take_chunks(chunks: Any, from_front: bool) -> None:
        kernels.apply(x, out, 0, x.size, *how, chunks, from_front, **terms)

    if not _threads.pay(x.size) or not all(_is_elementwise(array, out) for array in inputs):
        work(0, x.size)
    elif kernels.name != "reference" and all(_is_direct(array) for array in (*inputs, out)) and x.dtype is out.dtype:
        _threads.share_without_gil(take_chunks, x.size)
    else:
        _threads.share(work, x.size)


def keep(shape, key, call, threshold, offset=0, dims=None, bits=None) -> np.ndarray:
    """``Kernels.keep`` for the whole of a mask: a new array of booleans."""
    kernels = fastdrop._kernels
    out = np.empty(shape, np.bool_)

    def work(start: int, stop: int) -> None:
        kernels.keep(out, start, stop, key, call, threshold, offset, dims, bits)

    _threads.share(work, out.size)
    return out


def _is_elementwise(x: np.ndarray, out: np.ndarray) -> bool:
    """Whether an element of out shares memory with no element of x but its own, so that their order is free."""
    if not np.may_share_memory(x, out):
        return True
    # NumPy's iterator wants the very same dtype object, or it makes a copy of what overlaps.
    return _address(x) == _address(out) and x.strides == out.strides and x.dtype is out.dtype


def _is_direct(x: np.ndarray) -> bool:
    """Whether kernels work on the memory as it is."""
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def _address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]
