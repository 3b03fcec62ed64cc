# SPDX-License-Identifier: BSD-3-Clause
"""The masks of an LSTM's batch, and what a step pays for them, beside the same in NumPy.

The aim is 10 us for the eight masks of four gates, input and state, of 32 sequences with 100 features and 100 units.
"""

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KEY, Turn, about, kept, numbers, placed, same_bits
from fastdrop import _reference
from fastdrop._backend import Draw

GATES, BATCH, FEATURES, UNITS = 4, 32, 100, 100


def masks(rate: float, per_gate: bool = True) -> fastdrop.RecurrentDropout:
    return fastdrop.RecurrentDropout(rate, rate, per_gate=per_gate, rng=fastdrop.PhiloxStream.from_key(KEY))


def prove(rate: float, per_gate: bool = True) -> None:
    drawn = masks(rate, per_gate).draw(BATCH, FEATURES, UNITS)
    for call, (kind, depth) in enumerate(zip(drawn, (FEATURES, UNITS), strict=True)):
        n = BATCH * depth * (GATES if per_gate else 1)
        expected = _reference.Kernels().keep_bits(n, Draw(KEY, call, round(rate * 2**32)))
        same_bits(kind.mask.packbits(), np.asarray(expected), "the masks")
        shown = np.unpackbits(expected, count=n, bitorder="little").reshape(-1, BATCH, depth).astype(bool)
        kept_ones = kind.apply(np.ones((BATCH, depth))) > 0
        same_bits(kept_ones, np.broadcast_to(shown, (GATES, BATCH, depth)), "the masks, applied to ones")


@pytest.mark.parametrize("per_gate", [True, False], ids=["per-gate", "shared"])
def test_draw(in_turn, rate, per_gate):
    gates = GATES if per_gate else 1
    decisions = gates * BATCH * (FEATURES + UNITS)

    def make() -> Turn:
        dropout = masks(rate, per_gate)
        rng = np.random.default_rng(0)

        def in_numpy() -> list[np.ndarray]:
            return [rng.random((gates, BATCH, n), np.float32) >= rate for n in (FEATURES, UNITS)]

        return Turn(lambda: dropout.draw(BATCH, FEATURES, UNITS), {"in NumPy": in_numpy}, lambda: prove(rate, per_gate))

    drawn = masks(rate, per_gate).draw(BATCH, FEATURES, UNITS)
    memory = kept(*(kind._bits for kind in drawn))
    what = about("draw", "RecurrentDropout", 4 * decisions, rate, out="fresh", moved=decisions / 8, memory=memory)
    in_turn(make, what | {"per_gate": per_gate}, ({"name": "10 us", "seconds": 10e-6},))


def test_apply(in_turn, rate):
    state = masks(rate).draw(BATCH, FEATURES, UNITS).state

    def make() -> Turn:
        h = numbers(4 * BATCH * UNITS).reshape(BATCH, UNITS)
        y = placed(np.zeros((GATES, BATCH, UNITS), np.float32))
        factors = np.asarray(state.mask) * np.float32(1 / (1 - rate))
        return Turn(
            lambda: state.apply(h, y),
            {"np.copyto": lambda: np.copyto(y, h), "np.multiply": lambda: np.multiply(h, factors, out=y)},
            lambda: same_bits(state.apply(h, y), h * factors + 0, "a step's state"),
        )

    nbytes = 4 * GATES * BATCH * UNITS
    in_turn(make, about("apply", "RecurrentDropout", nbytes, rate, moved=nbytes + nbytes // GATES))
