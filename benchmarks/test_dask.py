# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of Dask's arrays, beside the same graph with a multiplication, and beside the recipe with Dask's own numbers.

Chunks are in memory before, and results stay chunks: no time goes into collecting them. Each call builds its graph
anew, as training does, with a new key. The result is shown to have the bits of the reference before it is timed.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import MIB, Turn, about, same_bits
from fastdrop import _backend, _threads
from fastdrop._tools.arrays import placed

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what Dask deprecates of itself is not ours to mend
    pytest.mark.once,  # it takes a second to import
]

CPUS = _threads._usable_cpus()
WORKERS = sorted({1, min(2, CPUS)})
SIZES = {MIB: 32, 8 * MIB: 16, 64 * MIB: 4}  # of chunks, and how many; past the caches, where most of Dask's are, too
MULTIPLICATION, RECIPE = "x * c", "dask.array.random, compare, multiply"
MOST = 1.1  # times the multiplication's time
GRAPH = 10.0  # seconds for as many chunks as this
GRAPH_CHUNKS = 100_000
SLOW_ROUNDS = 31


@pytest.fixture
def da() -> Any:
    if importlib.util.find_spec("dask") is None:
        pytest.skip("fastdrop.dask: dask is not installed, which pip install -e '.[dask]' does")
    importlib.import_module("fastdrop.dask")
    return importlib.import_module("dask.array")


@pytest.mark.parametrize("nbytes", SIZES, ids=lambda nbytes: f"{nbytes // MIB}MiB")
@pytest.mark.parametrize("workers", WORKERS, ids=lambda workers: f"{workers}worker{'s' * (workers > 1)}")
def test_chunks(in_turn, da, rate, workers, nbytes):
    """All chunks of an array, by Dask's threads."""
    fd = fastdrop.dask
    chunks = SIZES[nbytes]
    shape = chunks, nbytes // 4
    scale = np.float32(1 / (1 - rate))

    def make() -> Turn:
        numbers = placed(np.random.default_rng(1).standard_normal(shape, np.float32))
        x = da.from_array(numbers, chunks=(1, shape[1]), name="x").persist(scheduler="synchronous")
        stream = fastdrop.PhiloxStream(7)

        def computed(y: Any) -> Any:
            return y.persist(scheduler="threads", num_workers=workers)

        def recipe() -> Any:
            keep = da.random.default_rng().random(x.shape, dtype=np.float32, chunks=x.chunks) >= rate
            return computed(x * keep * scale)

        def proof() -> None:
            y, mask = fd.dropout(x, rate, rng=stream, return_mask=True)
            with _backend._using("reference"):
                same_bits(computed(y).compute(), mask.apply(numbers), "Dask's chunks")

        references = {MULTIPLICATION: lambda: computed(x * scale), RECIPE: recipe}
        return Turn(lambda: computed(fd.dropout(x, rate, rng=stream)), references, proof)

    what = about("chunks", "fastdrop.dask.dropout", chunks * nbytes, rate, threads=workers, out="fresh")
    bound = {"name": f"the same graph with x * c, at most {MOST:g} times its time", "over": {MULTIPLICATION: 1}}
    in_turn(make, what, ({**bound, "at_most": MOST},), fewest=SLOW_ROUNDS)


def test_graph(in_turn, da):
    """The graph of many chunks, with its tasks; nothing is computed."""
    fd = fastdrop.dask
    x = da.ones((GRAPH_CHUNKS, 4), chunks=(1, 4), dtype=np.float32)

    def make() -> Turn:
        stream = fastdrop.PhiloxStream(7)
        factors = iter(np.arange(2, 1 << 20, dtype=np.float32))

        def tasks(y: Any) -> dict[Any, Any]:
            return dict(y.dask.layers[y.name])

        def proof() -> None:
            assert len(tasks(fd.dropout(x, 0.5, rng=stream))) == GRAPH_CHUNKS

        case = lambda: tasks(fd.dropout(x, 0.5, rng=stream))  # noqa: E731
        return Turn(case, {MULTIPLICATION: lambda: tasks(x * next(factors))}, proof)

    what = about("graph of 100,000 chunks", "fastdrop.dask.dropout", x.nbytes, 0.5, moved=None, out="fresh")
    bounds = ({"name": f"{GRAPH:g} s", "seconds": GRAPH},)
    in_turn(make, what, bounds)
