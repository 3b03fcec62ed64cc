# SPDX-License-Identifier: BSD-3-Clause
"""The price of a call: one element, and arrays of 8 x 8 called in every way, beside np.multiply of the same array.

A lambda stands around each of them, and what an empty one costs is taken off both sides.
"""

from collections.abc import Callable

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KEY, Turn, about, numbers, placed, proven, stream

# Times np.multiply. Those of one element were asked for as such; the others in microseconds, at most so many where
# np.multiply takes 0.55.
ONE = {("given", 0.1): 0.6, ("given", 0.5): 0.5, ("fresh", 0.1): 0.7, ("fresh", 0.5): 0.6}
SMALL = {
    "return_mask": 1.0 / 0.55,
    "mask.apply": 0.6 / 0.55,
    "Generator": 1.5 / 0.55,
    "noise_shape": 2.0 / 0.55,
    "int": 4.0 / 0.55,
}


def beside_multiply(at_most: float) -> dict:
    """A bound for (call - empty) / (np.multiply - empty), in the form that bounds have."""
    over = {"np.multiply": 1, "an empty call": (1 - at_most) / at_most}
    return {"name": "np.multiply, both without an empty call", "over": over, "at_most": round(at_most, 3)}


def references(x: np.ndarray, out: np.ndarray | None) -> dict[str, Callable[[], object]]:
    return {"np.multiply": lambda: np.multiply(x, 1.25, out=out), "an empty call": lambda: None}


@pytest.mark.parametrize("out", ["given", "fresh"])
def test_one_element(in_turn, rate, out):
    def make() -> Turn:
        x = numbers(4)
        given = placed(x) if out == "given" else None
        draws = stream()
        return Turn(
            lambda: fastdrop.dropout(x, rate, rng=draws, out=given),
            references(x, given),
            lambda: proven(lambda out: fastdrop.dropout(x, rate, rng=stream(), out=out), given),
        )

    in_turn(make, about("forward", "dropout", 4, rate, out=out), (beside_multiply(ONE[out, rate]),))


@pytest.mark.parametrize("way", SMALL)
def test_8_by_8(in_turn, rate, way):
    x = numbers(4 * 64).reshape(8, 8)
    mask = fastdrop.DropoutMask(x.shape, rate, key=KEY)
    generator = np.random.default_rng(0)
    ways: dict[str, Callable[[], object]] = {
        "return_mask": lambda: fastdrop.dropout(x, rate, return_mask=True),
        "mask.apply": lambda: mask.apply(x),
        "Generator": lambda: fastdrop.dropout(x, rate, rng=generator),
        "noise_shape": lambda: fastdrop.dropout(x, rate, noise_shape=(8, 1)),
        "int": lambda: fastdrop.dropout(x, rate, rng=2026),
    }
    same_each_time: dict[str, Callable[[], np.ndarray]] = {
        "return_mask": lambda: fastdrop.dropout(x, rate, rng=1, return_mask=True)[1].apply(x),
        "Generator": lambda: fastdrop.dropout(x, rate, rng=np.random.default_rng(0)),
        "noise_shape": lambda: fastdrop.dropout(x, rate, rng=1, noise_shape=(8, 1)),
    }
    proof = same_each_time.get(way, ways[way])

    def make() -> Turn:
        return Turn(ways[way], references(x, None), lambda: proven(lambda _: proof()))

    in_turn(make, about(f"8 x 8, {way}", "dropout", x.nbytes, rate, out="fresh"), (beside_multiply(SMALL[way]),))
