# SPDX-License-Identifier: BSD-3-Clause
"""Dropout beside the copy, in pytest-benchmark: ``python -m pytest benchmarks``.

Every case proves its result against the reference before it is measured. Compare within a group: absolute times are
those of the machine of the day. ``python -m fastdrop bench`` measures in turn with the copy and gives ratios.
"""

import numpy as np
import pytest

import fastdrop
from fastdrop import _reference

KIB = 1 << 10
MIB = 1 << 20
SIZES = {"one": 4, "16KiB": 16 * KIB, "1MiB": MIB, "8MiB": 8 * MIB}
KEY = 0x5EED


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def x(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(request.param // 4, np.float32)


@pytest.fixture(params=[0.1, 0.5])
def rate(request: pytest.FixtureRequest) -> float:
    return request.param


def expected(x: np.ndarray, rate: float) -> np.ndarray:
    y = np.empty_like(x)
    threshold = round(rate * 2**32)
    _reference.Kernels().apply(x, y, 0, x.size, KEY, 0, threshold, 1 / (1 - rate))
    return y


def test_copy(benchmark, x):
    y = np.empty_like(x)
    benchmark.group = f"{x.nbytes} bytes"
    benchmark(np.copyto, y, x)


def test_dropout(benchmark, x, rate):
    y = np.empty_like(x)
    assert (
        fastdrop.dropout(x, rate, rng=fastdrop.PhiloxStream.from_key(KEY), out=y).tobytes()
        == expected(x, rate).tobytes()
    )
    stream = fastdrop.PhiloxStream.from_key(KEY)
    benchmark.group = f"{x.nbytes} bytes"
    benchmark(fastdrop.dropout, x, rate, rng=stream, out=y)


def test_apply(benchmark, x, rate):
    y = np.empty_like(x)
    mask = fastdrop.DropoutMask(x.shape, rate, key=KEY)
    assert mask.apply(x, out=y).tobytes() == expected(x, rate).tobytes()
    benchmark.group = f"{x.nbytes} bytes"
    benchmark(mask.apply, x, out=y)


def test_packbits(benchmark, x, rate):
    mask = fastdrop.DropoutMask(x.shape, rate, key=KEY)
    keep = np.unpackbits(mask.packbits(), count=x.size, bitorder="little").view(np.bool_)
    assert np.array_equal(keep, _reference.keep_range(0, x.size, KEY, 0, round(rate * 2**32)))
    benchmark.group = f"{x.nbytes} bytes"
    benchmark(mask.packbits)
