# SPDX-License-Identifier: BSD-3-Clause
"""The arrays that are verified and timed: their dtypes, what they hold, and where they lie in memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np


def dtypes() -> list[np.dtype]:
    """What has kernels, as far as it is installed."""
    found: list[np.dtype] = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)]
    bfloat16 = bfloat16_dtype()
    return found if bfloat16 is None else [*found, bfloat16]


def bfloat16_dtype() -> np.dtype | None:
    """The dtype of ml_dtypes, None where it is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return dtype


def random_array(nbytes: int | None, dtype: np.dtype) -> np.ndarray:
    """An array of so many bytes, or of one element."""
    n = 1 if nbytes is None else nbytes // dtype.itemsize
    return placed(np.random.default_rng(1).standard_normal(n, np.float32).astype(dtype))


def placed(array: np.ndarray) -> np.ndarray:
    """A copy that begins 16 bytes into a page, where malloc has large arrays begin when they get pages of their own.

    Left to chance, a y that begins a few cache lines after x, modulo the page, costs some statements a quarter of
    their speed: the processor takes a load for one of what was just stored.
    """
    page = 4096
    buffer = np.zeros(array.nbytes + 2 * page, np.uint8)
    start = -buffer.ctypes.data % page + 16
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def free_memory() -> int | None:
    """Bytes that Linux has for new arrays: what the machine has left, and what a container may have."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(limit).read_text()))
    return min(found, default=None)
