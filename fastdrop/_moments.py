# SPDX-License-Identifier: BSD-3-Clause
"""Mean and variance of the outputs of many passes, which come one by one, or in batches, and need not be kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Moments:
    """What is known of the outputs so far: how many there were, their mean, and their squared distances from it.

    Parameters
    ----------
    expected : int
        How many there will be.
    with_samples : bool
        Whether to keep them.

    Notes
    -----
    ``add`` is the recurrence of B. P. Welford, Technometrics 4 (1962), and ``merge`` that of T. F. Chan, G. H. Golub
    and R. J. LeVeque, COMPSTAT 1982, both in float64. What is infinite or NaN in any output has no variance.
    """

    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]  # the sum of the squared distances from the mean
    _spare: npt.NDArray[np.float64]

    def __init__(self, expected: int, with_samples: bool) -> None:
        self.n = 0
        self.samples: np.ndarray | None = None
        self.is_drawn: set[bool] = set()  # what the layers that f called said of it
        self._expected, self._with_samples = expected, with_samples

    def add(self, y: np.ndarray) -> None:
        """One more output, whose memory may change afterwards."""
        if self.n == 0:
            self.mean = y.astype(np.float64)
            self.squares = np.zeros_like(self.mean)
            self._spare = np.empty((2, *y.shape))
        else:
            self._check(y, f"pass {self.n + 1}")
            distance, step = self._spare[0, ...], self._spare[1, ...]
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(distance, y)
                distance -= self.mean
                self.mean += np.divide(distance, self.n + 1, out=step)
                np.copyto(step, y)
                step -= self.mean
                self.squares += np.multiply(step, distance, out=step)
        if self._with_samples:
            self._keep(y[np.newaxis])
        self.n += 1

    def merge(self, batch: Moments) -> None:
        """A batch of outputs that follow, which is used up."""
        self.is_drawn |= batch.is_drawn
        if self.n == 0:
            self.mean, self.squares = batch.mean, batch.squares
        else:
            self._check(batch.mean, f"the passes from {self.n + 1} on")
            n, distance, spare = self.n + batch.n, batch.mean, batch.squares
            with np.errstate(over="ignore", invalid="ignore"):
                distance -= self.mean
                self.squares += batch.squares
                np.square(distance, out=spare)
                self.squares += np.multiply(spare, self.n * batch.n / n, out=spare)
                self.mean += np.multiply(distance, batch.n / n, out=distance)
            is_finite = np.isfinite(self.mean)
            if not is_finite.all():
                self.squares[~is_finite] = np.nan
        if batch.samples is not None:
            self._keep(batch.samples)
        self.n += batch.n

    def variance(self) -> npt.NDArray[np.float64]:
        """That of the population: divided by how many outputs there were."""
        return self.squares / self.n

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_spare"}

    def _check(self, y: np.ndarray, passes: str) -> None:
        if y.shape != self.mean.shape:
            raise ValueError(
                f"f must return the same shape in every pass, got {y.shape} in {passes} after {self.mean.shape}"
            )

    def _keep(self, ys: np.ndarray) -> None:
        """Put the next outputs beside the others, in a dtype that holds all."""
        if self.samples is None and len(ys) == self._expected > 1:
            self.samples = ys  # a batch that is all there is, in memory of its own
            return
        if self.samples is None:
            self.samples = np.empty((self._expected, *ys.shape[1:]), ys.dtype)
        if ys.dtype != self.samples.dtype:
            self.samples = self.samples.astype(np.promote_types(self.samples.dtype, ys.dtype))
        self.samples[self.n : self.n + len(ys)] = ys
