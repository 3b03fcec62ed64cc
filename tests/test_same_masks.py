# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/reproducibility.md: one mask, asked for in every library, and there in every way that it has.

Each cell is what the function of its name has tried, and found to be the mask that NumPy has. To write the table anew,
with all of the libraries: ``FASTDROP_TEST_PEERS=torch,jax,keras,tensorflow,dask,thinc python tests/test_same_masks.py``
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from peers import MISSING_PEERS, imported

import fastdrop

PAGE = Path(__file__).parent.parent / "docs" / "reproducibility.md"
BEGIN, END = "<!-- same masks: begin -->\n", "<!-- same masks: end -->\n"
COLUMNS = "cut into", "threads", "processes, devices", "dtypes"
NONE = "-"

SHAPE, RATE = (1200, 1000), 0.3  # so many elements that threads do share them
WORDS = 2026, 11  # of a key, as JAX and Keras have them
KEY = WORDS[0] + (WORDS[1] << 32)
DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
X = np.ones(SHAPE, np.float32)


def mask_of(key):
    return fastdrop.DropoutMask(SHAPE, RATE, key=key)


EXPECTED = np.asarray(mask_of(KEY))


def check(y, key=KEY, expected=None):
    """What is dropped is what the mask of a key drops, and not all or nothing."""
    expected = (EXPECTED if key == KEY else np.asarray(mask_of(key))) if expected is None else expected
    np.testing.assert_array_equal(np.asarray(y) != 0, expected)
    assert 0.69 < expected.mean() < 0.71


def of_process(first_and_last):
    """At the top of the module, so that other processes find it."""
    first, last = first_and_last
    return mask_of(KEY)[first:last].apply(X[first:last])


def in_numpy():
    for n in (1, 7, 500):
        rows = [slice(i, min(i + n, SHAPE[0])) for i in range(0, SHAPE[0], n)]
        check(np.concatenate([mask_of(KEY)[part].apply(X[part]) for part in rows]))
    for n in (1, 2, 3):
        with fastdrop.num_threads(n):
            check(mask_of(KEY).apply(X))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        check(np.concatenate(list(pool.map(of_process, [(0, 300), (300, 1000), (1000, 1200)]))))
    for dtype in DTYPES.values():
        check(mask_of(KEY).apply(X.astype(dtype)).astype(np.float32))
    return "rows: 1, 7, 500 at a time", "1, 2, 3", "2 processes", ", ".join(DTYPES)


def in_torch():
    torch, client = imported("torch"), imported("fastdrop.torch")
    from torch_helpers import key_of

    key = key_of(7)

    def dropped(x):
        torch.manual_seed(7)
        return client.dropout(x, RATE)

    x = torch.from_numpy(X)
    for ranks in (2, 3):
        parts = []
        for rank, rows in enumerate(x.chunk(ranks)):
            with client.shard(rank, ranks):
                parts.append(dropped(rows))
        check(torch.cat(parts), key)
    threads = torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        check(dropped(x), key)
    torch.set_num_threads(threads)
    for name in DTYPES:
        check(dropped(x.to(getattr(torch, name))).float(), key)
    return "the parts of 2 and of 3 ranks", "1, 2, 3", NONE, ", ".join(DTYPES)


JAX = """
import sys
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
import fastdrop.jax
from test_same_masks import DTYPES, RATE, WORDS, X, check
key = jnp.array(WORDS, jnp.uint32)
for n in (1, 2, 3):
    with fastdrop.num_threads(n):
        check(fastdrop.jax.dropout(key, jnp.asarray(X), RATE))
        check(jax.jit(lambda x: fastdrop.jax.dropout(key, x, RATE))(X))
for name in DTYPES:
    check(fastdrop.jax.dropout(key, jnp.asarray(X, name), RATE).astype(jnp.float32))
rows = jax.sharding.PartitionSpec("rows", None)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
part = lambda x: fastdrop.jax.dropout(key, x, RATE, spec=rows)
check(jax.jit(jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=rows))(jnp.asarray(X)))
assert jax.device_count() == 4
"""


def in_jax():
    _run(JAX, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
    return NONE, "1, 2, 3", "the shards of 4 devices", ", ".join(DTYPES)


KERAS = """
import sys
sys.path[:0] = {path!r}
import keras
import fastdrop.keras
from test_same_masks import DTYPES, RATE, WORDS, X, check
if keras.backend.backend() == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
for name in DTYPES:
    layer = fastdrop.keras.Dropout(RATE, seed=1, dtype=name)
    layer.seed_generator.state.assign(keras.ops.convert_to_tensor(WORDS, layer.seed_generator.state.dtype))
    y = layer(keras.ops.cast(keras.ops.convert_to_tensor(X), name), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == name
    check(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")))
"""


def in_keras(backend):
    _run(KERAS, KERAS_BACKEND=backend, JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")
    return NONE, NONE, NONE, ", ".join(DTYPES)


def in_dask():
    da, client, distributed = imported("dask.array"), imported("fastdrop.dask"), imported("distributed")
    sources = fastdrop.PhiloxStream.from_key

    def dropped(x):
        return client.dropout(x, RATE, rng=sources(KEY))

    for chunks in ((1200, 1000), (7, 1000), (500, 300), (1, 1000)):
        check(dropped(da.from_array(X, chunks=chunks)).compute(scheduler="synchronous"))
    x = da.from_array(X, chunks=(100, 500))
    for n in (1, 2, 3):
        check(dropped(x).compute(scheduler="threads", num_workers=n))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        check(dropped(x).compute())
    for dtype in DTYPES.values():
        check(dropped(x.astype(dtype)).astype(np.float32).compute(scheduler="synchronous"))
    return "chunks of 4 sizes", "1, 2, 3", "2 workers of a cluster", ", ".join(DTYPES)


def in_xarray():
    xarray, client = imported("xarray"), imported("fastdrop.dask")
    imported("dask.array")
    array = xarray.DataArray(X, dims=("time", "cell"))
    for x in (array, *(array.chunk(chunks) for chunks in ({"time": 100}, {"cell": 70}, {"time": 500, "cell": 999}))):
        y = client.dropout(x, RATE, rng=fastdrop.PhiloxStream.from_key(KEY))
        assert isinstance(y, xarray.DataArray)
        check(y.compute())
    return "nothing, and chunks of 3 sizes", NONE, NONE, "float32"


def in_thinc():
    thinc, client = imported("thinc.api"), imported("fastdrop.thinc")
    low, high = np.random.RandomState(7).randint(0, 2**32, 2, np.uint32).tolist()
    key = low + (high << 32)
    layer = client.Dropout(RATE)
    for dtype in (np.float32, np.float64):
        thinc.fix_random_seed(7)
        check(layer(X.astype(dtype), is_train=True)[0], key)
    thinc.fix_random_seed(7)
    check(client.FastdropOps().get_dropout_mask(SHAPE, RATE), key)
    return NONE, NONE, NONE, "float32, float64"


ROWS = {
    "NumPy": ((), in_numpy),
    "PyTorch": (("torch",), in_torch),
    "JAX": (("jax",), in_jax),
    "Keras on NumPy": (("keras",), lambda: in_keras("numpy")),
    "Keras on PyTorch": (("keras", "torch"), lambda: in_keras("torch")),
    "Keras on TensorFlow": (("keras", "tensorflow"), lambda: in_keras("tensorflow")),
    "Keras on JAX": (("keras", "jax"), lambda: in_keras("jax")),
    "Dask": (("dask",), in_dask),
    "xarray": (("dask",), in_xarray),
    "thinc, spaCy": (("thinc",), in_thinc),
}


def _run(code, **variables):
    """A library in a process of its own: it is set up when it is imported."""
    path = [str(Path(__file__).parent), str(Path(fastdrop.__file__).parent.parent)]
    environment = os.environ | variables
    done = subprocess.run(
        [sys.executable, "-c", code.format(path=path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def row(name, cells):
    return f"| {name} | {' | '.join(cells)} |"


def parts_of_the_page():
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    table, after = rest.split(END)
    return before, table, after


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table_is_what_is_found(name):
    peers, found_in = ROWS[name]
    for peer in peers:
        if peer in MISSING_PEERS:
            pytest.skip(f"{peer}: {MISSING_PEERS[peer]}")
    assert row(name, found_in()) in parts_of_the_page()[1].splitlines()


def test_the_table_has_these_rows_and_no_other():
    lines = parts_of_the_page()[1].split("\n")
    assert lines[0] == row("library", COLUMNS)
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:-1]] == list(ROWS)


if __name__ == "__main__":
    before, _, after = parts_of_the_page()
    lines = [row("library", COLUMNS), "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [row(name, found_in()) for name, (_, found_in) in ROWS.items()]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")
