# SPDX-License-Identifier: BSD-3-Clause
"""Statements, as a user would write them, timed in turn.

Each size of array is a *group* of *contenders*. A *round* times every contender of a group once, in a new random order,
each on buffers that it has just used; so what disturbs the machine for a while disturbs all of them. A time is the
median over the rounds, and a ratio is the median of the ratios within the rounds.
"""

from __future__ import annotations

import math
import statistics
import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from fastdrop import _backend
from fastdrop._functions import dropout
from fastdrop._threads import num_threads
from fastdrop._tools.arrays import placed
from fastdrop._tools.progress import Progress
from fastdrop._tools.units import format_size

RATES = (0.1, 0.5)
RECIPE = "x * (rng.random(x.shape) < keep) / keep"

MIN_TIME = 5e-4  # seconds of one measurement: the timer's resolution and its call do not show
MIN_ROUNDS, MAX_ROUNDS = 5, 301
SLOW = 0.02  # seconds: a call of this length leaves nothing in the caches that an untimed call would restore
NOISY = 1.5  # a round is noted in which the baseline takes so many times its best


@dataclass
class Contender:
    """A statement to time, and its times."""

    name: str
    statement: str
    names: dict[str, object] = field(repr=False)
    nbytes: int  # read and written by a call
    isa: str
    threads: int = 1
    is_recipe: bool = False
    repetitions: int = 1
    every: int = 1  # timed in each so many rounds
    seconds: list[float | None] = field(default_factory=list)

    def time(self, repetitions: int) -> float:
        """Seconds of so many calls."""
        timer = timeit.Timer(self.statement, globals=self.names)
        with _backend._using(self.isa), num_threads(self.threads):
            return timer.timeit(repetitions)

    def calibrate(self) -> float:
        """Choose the repetitions that make a measurement long enough, and return about how long it takes."""
        n = 1
        self.time(1)
        # The best of three, or one disturbed call would pass for a slow statement and be timed alone ever after.
        while (taken := min(self.time(n) for _ in range(3))) < MIN_TIME / 2:
            n *= 2
        self.repetitions = max(math.ceil(MIN_TIME * n / taken), 1)
        return taken / n * self.repetitions

    def measure(self) -> float:
        """Seconds of one call, on warm buffers."""
        last = next((taken for taken in reversed(self.seconds) if taken is not None), 0.0)
        if last < SLOW:
            self.time(1)
        return self.time(self.repetitions) / self.repetitions

    @property
    def median(self) -> float:
        return statistics.median(taken for taken in self.seconds if taken is not None)


@dataclass
class Group:
    """Contenders that are timed in turn. The first one is the baseline, by which a disturbed round is told."""

    name: str
    contenders: list[Contender]
    elements: int
    nbytes: int  # of the array
    dtype: str
    weight: float = 1.0  # of the time for all groups

    def __getitem__(self, name: str) -> Contender:
        return next(contender for contender in self.contenders if contender.name == name)

    def measure(self, seconds: float, rng: np.random.Generator, progress: Bar) -> None:
        """Time rounds for so long, within the limits of their number."""
        began = time.monotonic()
        costs = {contender.name: contender.calibrate() for contender in self.contenders}
        recipe = sum(costs[contender.name] for contender in self.contenders if contender.is_recipe)
        others = sum(costs.values()) - recipe
        every = min(max(round(recipe / (2 * others)), 1), 8)
        least = max(MIN_ROUNDS, 2 * every + 1)  # three rounds with the recipe
        for contender in self.contenders:
            contender.every = every if contender.is_recipe else 1
        for number in range(MAX_ROUNDS):
            elapsed = time.monotonic() - began
            if number >= least and elapsed >= seconds:
                break
            progress.update(elapsed / seconds, f"{self.name}: {number} rounds")
            for i in rng.permutation(len(self.contenders)):
                contender = self.contenders[i]
                contender.seconds.append(None if number % contender.every else contender.measure())

    def forget_unfinished_round(self) -> None:
        """Leave each contender with as many rounds as the others, where the last round was interrupted."""
        rounds = min(len(contender.seconds) for contender in self.contenders)
        for contender in self.contenders:
            del contender.seconds[rounds:]

    @property
    def is_measured(self) -> bool:
        """Whether there is a round. Each contender takes part in the first one."""
        return self.rounds > 0

    @property
    def rounds(self) -> int:
        return len(self.contenders[0].seconds)

    def noisy_rounds(self) -> list[int]:
        """Numbers of the rounds in which the baseline was far from its best."""
        baseline = [taken for taken in self.contenders[0].seconds if taken is not None]
        return [number for number, taken in enumerate(baseline) if taken > NOISY * min(baseline)]

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of how many times as long one contender takes as another."""
        pairs = zip(self[name].seconds, self[to].seconds, strict=True)
        return statistics.median(a / b for a, b in pairs if a is not None and b is not None)


class Bar:
    """The bar of the whole run, to which each step adds its share."""

    def __init__(self, total: float) -> None:
        self.bar = Progress()
        self._total = total
        self._done = 0.0
        self._share = 0.0

    def begin(self, share: float) -> None:
        """Go on to a step of so many seconds."""
        self._done += self._share
        self._share = share

    def update(self, fraction: float, text: str) -> None:
        """Show how much of the step is done, from 0 to 1."""
        self.bar.update((self._done + self._share * min(fraction, 1.0)) / self._total, text)


def array_group(x: np.ndarray, rates: Sequence[float], isa: str, threads: int, with_recipe: bool = True) -> Group:
    """Copy, dropout and recipe on one array."""
    y = placed(x) if x.flags.c_contiguous else np.zeros_like(x)
    package = SimpleNamespace(dropout=dropout)  # what a statement calls fastdrop
    names: dict[str, object] = {"np": np, "fastdrop": package, "x": x, "y": y, "rng": np.random.default_rng(0)}
    name = format_size(x.nbytes)
    group = Group(name, [], x.size, x.nbytes, x.dtype.name, weight=3.0 if x.nbytes > 16 << 20 else 1.0)

    def add(kind: str, statement: str, keep: float | None = None) -> None:
        known = names | {"keep": keep}
        is_recipe = keep is not None
        group.contenders.append(Contender(kind, statement, known, 2 * x.nbytes, isa, threads, is_recipe))

    add("copy", "np.copyto(y, x)")
    for rate in rates:
        add(f"dropout {rate}", f"fastdrop.dropout(x, {rate}, out=y)")
    for rate in rates if with_recipe else ():
        add(f"recipe {rate}", RECIPE, keep=1.0 - rate)
    return group
