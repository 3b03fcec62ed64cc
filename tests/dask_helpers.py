# SPDX-License-Identifier: BSD-3-Clause
"""What tests of fastdrop.dask share. A file that imports this is skipped where Dask is missing or not asked for.

Workers in other processes import it too, for the functions that they are to run.
"""

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dask_chunks import bits, checksum_of, made, rows_of
from helpers import environment, using
from peers import MISSING_PEERS, imported

import fastdrop

if "dask" in MISSING_PEERS:
    pytest.skip(f"dask: {MISSING_PEERS['dask']}", allow_module_level=True)

da = imported("dask.array")
fd = imported("fastdrop.dask")

MIB = 1 << 20


def assert_same(actual, expected):
    """Bit for bit."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(bits(actual), bits(expected))


def defined(name, *arrays, **options):
    """What NumPy's function of that name gives: the definition, by the reference."""
    with using("reference"):
        return getattr(fastdrop, name)(*arrays, **options)


# An array that nobody has as a whole


def large(rows, columns, rows_a_chunk):
    """An array of float32 whose chunks are made where they are needed."""
    chunks = da.core.normalize_chunks((rows_a_chunk, columns), shape=(rows, columns))
    return da.map_blocks(made, columns, chunks=chunks, meta=np.empty((0, 0), np.float32))


def checksum(y):
    """The same of a Dask array, lazily."""
    return y.map_blocks(checksum_of, chunks=(1, 1), dtype=np.uint64, meta=np.empty((0, 0), np.uint64)).sum()


def expected_checksum(mask, rows_a_part):
    """The same of ``large`` dropped by a mask, in this process, without Dask, in parts of another size."""
    rows, columns = mask.shape
    total = 0
    for first in range(0, rows, rows_a_part):
        stop = min(first + rows_a_part, rows)
        total += int(checksum_of(mask[first:stop].apply(rows_of(first, stop, columns)))[0, 0])
    return total % 2**64


# Workers


@contextlib.contextmanager
def cluster(memory_limit):
    """A client of two workers, each a process of one thread; and the cluster."""
    distributed = imported("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    nannies = {"PYTHONPATH": environment()["PYTHONPATH"]}
    with (
        distributed.LocalCluster(memory_limit=memory_limit, env=nannies, silence_logs=50, **options) as workers,
        distributed.Client(workers) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client, workers


def pids(workers):
    """The processes of the workers that run now."""
    return [nanny.pid for nanny in workers.workers.values() if nanny.pid is not None]


def high_water(pid):
    """The most memory that a process has had in use, in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Peaks:
    """Watches the memory of workers, those that come later and those that go among them."""

    def __init__(self, workers):
        self.by_pid = {}
        self._workers = workers
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._ended.wait(0.02):
            self.look()

    def look(self):
        for pid in pids(self._workers):
            self.by_pid[pid] = max(self.by_pid.get(pid, 0), high_water(pid))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.look()
        self._ended.set()
        self._thread.join()


def wait_until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
