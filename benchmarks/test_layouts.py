# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of memory in other orders than C, and parts of masks, beside what the same elements cost in order."""

import math

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KEY, Turn, about, numbers, placed, proven, same_bits, stream
from fastdrop import _backend


def in_order_of(axes: tuple[int, ...], shape: tuple[int, ...], memory: np.ndarray) -> np.ndarray:
    """An array of this shape over memory in which its axes follow each other in another order."""
    return memory.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        pytest.param("F order", (512, 512), (1, 0), id="F-1MiB"),
        pytest.param("F order", (4096, 4096), (1, 0), id="F-64MiB"),
        pytest.param("channels_last", (16, 64, 16, 16), (0, 2, 3, 1), id="channels_last-1MiB"),
        pytest.param("channels_last", (32, 128, 64, 64), (0, 2, 3, 1), id="channels_last-64MiB"),
    ],
)
def test_order_of_axes(in_turn, name, shape, axes, rate):
    nbytes = 4 * math.prod(shape)

    def make() -> Turn:
        memory = numbers(nbytes)
        x = in_order_of(axes, shape, memory)
        y = in_order_of(axes, shape, placed(memory))
        straight, into, draws = memory.reshape(shape), placed(memory).reshape(shape), stream()

        def proof() -> None:
            got = fastdrop.dropout(x, rate, rng=stream(), out=y)
            same_bits(np.ascontiguousarray(got), fastdrop.dropout(x.copy("C"), rate, rng=stream()), name)

        return Turn(
            lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
            {
                "np.copyto": lambda: np.copyto(y, x),
                "C order": lambda: fastdrop.dropout(straight, rate, rng=draws, out=into),
            },
            proof,
        )

    bound = {"name": "the same in C order", "over": {"C order": 1}, "at_most": 2.0}
    in_turn(make, about("forward", f"dropout of {name}", nbytes, rate), (bound,))


def test_column_of_a_mask(in_turn, rate):
    def make() -> Turn:
        whole = numbers(4 << 18).reshape(512, 512)
        x, y = whole[:, 77], placed(whole).reshape(512, 512)[:, 77]
        mask = fastdrop.DropoutMask(whole.shape, rate, key=KEY)[:, 77]
        return Turn(
            lambda: mask.apply(x, out=y),
            {"np.copyto": lambda: np.copyto(y, x), "np.multiply": lambda: np.multiply(x, 1.25, out=y)},
            lambda: proven(lambda out: mask.apply(x, out=out), y),
        )

    bound = {"name": "np.multiply of it", "over": {"np.multiply": 1}, "at_most": 3.0}
    in_turn(make, about("apply", "a column of a mask", 4 * 512, rate), (bound,))


def test_window_of_a_mask(in_turn, rate):
    rows, columns = 300, 487

    def make() -> Turn:
        x = numbers(4 * rows * columns).reshape(rows, columns)
        y = placed(x)
        part = fastdrop.DropoutMask((512, 512), rate, key=KEY)[100 : 100 + rows, 20 : 20 + columns]
        own = fastdrop.DropoutMask((rows, columns), rate, key=KEY)

        def proof() -> None:
            got = part.apply(x, out=y)
            with _backend._using("reference"):
                same_bits(got, part.apply(x), "a window beside the reference")

        return Turn(
            lambda: part.apply(x, out=y),
            {"np.copyto": lambda: np.copyto(y, x), "own mask": lambda: own.apply(x, out=y)},
            proof,
        )

    bound = {"name": "a mask of its own", "over": {"own mask": 1}, "at_most": 1.5}
    in_turn(make, about("apply", "a window of a mask", 4 * rows * columns, rate), (bound,))
