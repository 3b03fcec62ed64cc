# SPDX-License-Identifier: BSD-3-Clause
"""What Dask's workers are to run for tests. They import this file, which imports little: their memory is measured."""

import numpy as np

from fastdrop import get_num_threads

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def bits(array):
    """The elements of an array as integers, NaN and the sign of zeros included."""
    array = np.ascontiguousarray(array)
    return array.view(BITS[array.dtype.itemsize])


def counted(first, n):
    """Elements of an array of float32 in C order, from one on: 1, 2, ... 1024, 1, 2 ..."""
    return ((np.arange(first, first + n, dtype=np.uint64) & 1023) + 1).astype(np.float32)


def rows_of(first, stop, columns):
    """Rows of an array that nobody has as a whole."""
    return counted(first * columns, (stop - first) * columns).reshape(-1, columns)


def made(columns, block_info=None):
    """A chunk of whole rows of it."""
    (first, stop), _ = block_info[None]["array-location"]
    return rows_of(first, stop, columns)


def checksum_of(chunk):
    """The sum of all its bits as integers, modulo 2**64: no order of chunks changes it."""
    return bits(chunk).sum(dtype=np.uint64, keepdims=True)


def refused(shape):
    """A chunk that nobody shall compute."""
    raise AssertionError("a chunk was computed")


def threads_of_fastdrop(mask, x):
    """In the place of what is done with a chunk: how many threads may work on it."""
    return np.full(x.shape, get_num_threads(), x.dtype)


def finished_tasks(dask_scheduler):
    """How many tasks of a scheduler have ended so far."""
    return sum(prefix.state_counts["memory"] for prefix in dask_scheduler.task_prefixes.values())
