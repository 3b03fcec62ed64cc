# SPDX-License-Identifier: BSD-3-Clause
"""The masks of an LSTM's batch, and what a step pays for them, in pytest-benchmark: ``python -m pytest benchmarks``.

The aim is 10 us for the eight masks of four gates, input and state, of 32 sequences with 100 features and 100 units.
"""

import numpy as np
import pytest

import fastdrop
from fastdrop import _reference

GATES, BATCH, FEATURES, UNITS = 4, 32, 100, 100
KEY = 0x5EED


@pytest.fixture(params=[0.1, 0.5])
def rate(request: pytest.FixtureRequest) -> float:
    return request.param


def masks(rate: float, per_gate: bool = True) -> fastdrop.RecurrentDropout:
    """Shown to be right before they are measured."""
    dropout = fastdrop.RecurrentDropout(rate, rate, per_gate=per_gate, rng=fastdrop.PhiloxStream.from_key(KEY))
    for call, (kind, depth) in enumerate(zip(dropout.draw(BATCH, FEATURES, UNITS), (FEATURES, UNITS), strict=True)):
        n = BATCH * depth * (GATES if per_gate else 1)
        expected = _reference.Kernels().keep_bits(n, KEY, call, round(rate * 2**32))
        assert kind.mask.packbits().tobytes() == expected.tobytes()
        shown = np.unpackbits(expected, count=n, bitorder="little").reshape(-1, BATCH, depth).astype(bool)
        assert np.array_equal(kind.apply(np.ones((BATCH, depth))) > 0, np.broadcast_to(shown, (GATES, BATCH, depth)))
    return dropout


@pytest.mark.parametrize("per_gate", [True, False], ids=["per-gate", "shared"])
def test_draw(benchmark, rate, per_gate):
    dropout = masks(rate, per_gate)
    benchmark.group = "masks of a batch"
    benchmark(dropout.draw, BATCH, FEATURES, UNITS)


def test_draw_in_numpy(benchmark, rate):
    rng = np.random.default_rng(0)
    benchmark.group = "masks of a batch"
    benchmark(lambda: [rng.random((GATES, BATCH, n), np.float32) >= rate for n in (FEATURES, UNITS)])


def test_apply(benchmark, rate):
    state = masks(rate).draw(BATCH, FEATURES, UNITS).state
    h = np.random.default_rng(0).standard_normal((BATCH, UNITS), np.float32)
    benchmark.group = "a step's state, once for each gate"
    benchmark(state.apply, h, np.empty((GATES, BATCH, UNITS), np.float32))


def test_apply_in_numpy(benchmark, rate):
    factors = np.asarray(masks(rate).draw(BATCH, FEATURES, UNITS).state.mask) * np.float32(1 / (1 - rate))
    h = np.random.default_rng(0).standard_normal((BATCH, UNITS), np.float32)
    benchmark.group = "a step's state, once for each gate"
    benchmark(np.multiply, h, factors, np.empty((GATES, BATCH, UNITS), np.float32))
