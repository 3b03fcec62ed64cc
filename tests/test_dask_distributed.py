# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop.dask on real workers: two processes with far less memory than the array, one of which may be killed."""

import os
import signal

import dask_chunks
import numpy as np
import pytest
from dask_helpers import (
    MIB,
    Peaks,
    assert_same,
    checksum,
    cluster,
    da,
    defined,
    expected_checksum,
    fd,
    large,
    pids,
    wait_until,
)
from peers import imported

import fastdrop

distributed = imported("distributed")

# What a worker needs for Python, NumPy and Dask is about 125 MiB of its peak.
SMALL_LIMIT, SMALL_PEAK = 250 * MIB, 200 * MIB

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of connections to a worker that was killed


@pytest.fixture(scope="module")
def two_workers():
    with cluster(SMALL_LIMIT) as (client, workers):
        yield client, workers


def test_workers_give_what_numpy_gives(two_workers):
    x = np.random.default_rng(0).standard_normal((70, 90)).astype(np.float32)
    y, mask = fd.dropout(da.from_array(x, chunks=(20, 17)), 0.3, rng=1, return_mask=True)
    assert_same(y.compute(), defined("dropout", x, 0.3, rng=1))
    dx = fd.backward(mask, da.from_array(x, chunks=(9, 50)))
    assert_same(dx.compute(), defined("dropout", x, 0.3, rng=1))


@pytest.mark.parametrize("name", ["alpha_dropout", "gaussian_noise", "relu_dropout", "dropout_add"])
def test_workers_know_every_kind_of_mask(two_workers, name):
    x = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    arrays = (x, x) if name == "dropout_add" else (x,)
    y = getattr(fd, name)(*(da.from_array(array, chunks=13) for array in arrays), 0.3, rng=1)
    assert_same(y.compute(), defined(name, *arrays, 0.3, rng=1))


def test_a_mask_from_an_array_reaches_the_workers(two_workers):
    keep, x = np.random.default_rng(0).random((100, 90)) < 0.7, np.ones((100, 90), np.float32)
    mask = fastdrop.DropoutMask.from_array(keep, 0.3)
    assert_same(fd.apply(mask, da.from_array(x, chunks=20)).compute(), mask.apply(x))


def test_a_result_that_workers_hold_is_found_by_its_name(two_workers):
    client, _ = two_workers
    x = da.ones((64, 64), chunks=16, dtype=np.float32)
    held = fd.dropout(x, 0.5, rng=1).persist()
    distributed.wait(held)
    before = client.run_on_scheduler(dask_chunks.finished_tasks)
    again = fd.dropout(x, 0.5, rng=1).persist()
    distributed.wait(again)
    assert client.run_on_scheduler(dask_chunks.finished_tasks) == before
    other = fd.dropout(x, 0.5, rng=2).persist()
    distributed.wait(other)
    assert client.run_on_scheduler(dask_chunks.finished_tasks) > before


def test_400_mb_on_two_workers_of_250_mib_of_which_one_is_killed():
    with cluster(SMALL_LIMIT) as (client, workers):
        assert_streams(client, workers, large(25_000, 4_000, 130), SMALL_PEAK)


@pytest.mark.asked_for("FASTDROP_TEST_4GB")
@pytest.mark.parametrize("function", ["dropout", "gaussian_dropout"])
def test_4_gb_on_two_workers_of_700_mib_of_which_one_is_killed(function, capsys):
    x = large(100_000, 10_000, 400)
    with cluster(700 * MIB) as (client, workers):
        peaks = assert_streams(client, workers, x, 300 * MIB, function)
    with capsys.disabled():
        mib = ", ".join(f"{peak / MIB:.0f}" for peak in peaks)
        print(f"\n{function}: {x.nbytes / 1e9:.1f} GB in {x.npartitions} chunks; peaks of workers, in MiB: {mib}")


def assert_streams(client, workers, x, most, function="dropout"):
    """Drop an array and check all of its bits, while workers have little memory, and one is killed amid the work.

    Return the peaks of the workers, the killed one's and its successor's among them.
    """
    y, mask = getattr(fd, function)(x, 0.1, rng=2026, return_mask=True)
    with Peaks(workers) as peaks:
        before = client.run_on_scheduler(dask_chunks.finished_tasks)
        future = client.compute(checksum(y))
        wait_until(lambda: client.run_on_scheduler(dask_chunks.finished_tasks) >= before + x.npartitions // 4, 300)
        killed = pids(workers)[0]
        assert not future.done()
        os.kill(killed, signal.SIGKILL)
        result = int(np.asarray(future.result(timeout=600)).item())
        wait_until(lambda: len(set(pids(workers)) - {killed}) == 2, 60)
    # In this process the parts have another size, and no part of them is Dask's.
    assert result == expected_checksum(mask, rows_a_part=333)
    found = [peak for peak in peaks.by_pid.values() if peak > 0]
    assert len(found) == 3
    assert max(found) < most
    assert x.nbytes > most
    return found
