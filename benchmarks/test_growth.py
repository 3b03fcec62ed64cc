# SPDX-License-Identifier: BSD-3-Clause
"""How the cost grows: with threads, with the rate, with the number of dimensions that do not lie side by side.

How it grows with the size, over eight decades, is a part of test_dropout.py: its plain cases.
"""

import math

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KEY, MIB, Turn, about, kept, numbers, placed, proven, stream
from fastdrop import _threads

CPUS = _threads._usable_cpus()
RUN = 256  # elements that lie side by side in an array that is not contiguous
# The other 1024 places of a MiB, by the number of dimensions.
OUTER = {0: (), 1: (1024,), 2: (32, 32), 3: (16, 8, 8), 4: (8, 8, 4, 4), 5: (4, 4, 4, 4, 4)}
# One plane for each of the first eight, and what is left of the others decides a tail.
PLANES = [2.0**-n for n in range(1, 9)]
IN_SHORT = (0.5, 0.25, 0.125, 0.1, 1e-6)


def mask(shape: tuple[int, ...], rate: float) -> fastdrop.DropoutMask:
    return fastdrop.DropoutMask(shape, rate, key=KEY)


@pytest.mark.parametrize("threads", sorted({1, CPUS}.union(2**n for n in range(1, CPUS.bit_length()) if 2**n < CPUS)))
@pytest.mark.parametrize("nbytes", [8 * MIB, 64 * MIB], ids=["8MiB", "64MiB"])
def test_threads(in_turn, nbytes, rate, threads):
    def make() -> Turn:
        x = numbers(nbytes)
        y = placed(x)
        draws = stream()

        def one_thread() -> None:
            with fastdrop.num_threads(1):
                fastdrop.dropout(x, rate, rng=draws, out=y)

        return Turn(
            lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
            {"np.copyto": lambda: np.copyto(y, x), "one thread": one_thread},
            lambda: proven(
                lambda out: fastdrop.dropout(x, rate, rng=stream(), out=out),
                y,
                lambda at: mask(x.shape, rate)[at].apply(x[at]),
            ),
        )

    bound = {"name": "1.8 times as fast as one thread", "over": {"one thread": 1}, "at_most": 1 / 1.8}
    memory = kept(mask((nbytes // 4,), rate))
    what = about("forward", "dropout", nbytes, rate, threads=threads, memory=memory, axis="threads")
    in_turn(make, what, (bound,) if (nbytes, rate, threads) == (8 * MIB, 0.1, 2) else ())


@pytest.mark.parametrize(
    "rate",
    [
        pytest.param(rate, id=f"{rate:.4g}", marks=() if rate in IN_SHORT else pytest.mark.full)
        for rate in (*PLANES, 0.1, 0.9, 1e-6)
    ],
)
def test_rate(in_turn, rate):
    def make() -> Turn:
        x = numbers(MIB)
        y = placed(x)
        draws = stream()
        return Turn(
            lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
            {"np.copyto": lambda: np.copyto(y, x)},
            lambda: proven(lambda out: fastdrop.dropout(x, rate, rng=stream(), out=out), y),
        )

    in_turn(make, about("forward", "dropout", MIB, rate, memory=kept(mask((MIB // 4,), rate)), axis="rate"))


@pytest.mark.parametrize("dims", OUTER)
def test_dims(in_turn, dims, rate):
    shape = (*OUTER[dims], RUN) if dims else (1024 * RUN,)
    # One more along each dimension but the first, so that none can be taken together with the one before it.
    padded = (*shape[:1], *(length + 1 for length in shape[1:]))

    def make() -> Turn:
        x = numbers(4 * math.prod(padded)).reshape(padded)[tuple(slice(length) for length in shape)]
        y = placed(np.ascontiguousarray(x))
        draws = stream()
        return Turn(
            lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
            {"np.copyto": lambda: np.copyto(y, x)},
            lambda: proven(lambda out: fastdrop.dropout(x, rate, rng=stream(), out=out), y),
        )

    in_turn(make, about("forward", "dropout", MIB, rate, memory=kept(mask(shape, rate)), axis="dims", dims=dims))
