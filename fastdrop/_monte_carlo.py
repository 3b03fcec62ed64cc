# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout: how sure a net is, from many passes with the dropout left on.

Y. Gal and Z. Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning",
ICML 2016. Their predictive mean and variance are the moments of the outputs of stochastic passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _foreign, _streams
from fastdrop._training import TrainingMode, kept_stochastic

Input = TypeVar("Input")


class Prediction(NamedTuple):
    """What ``mc_predict`` found.

    Attributes
    ----------
    mean, variance : ndarray of float64, of the outputs' shape
        The variance is that of the population: divided by the number of passes. Numbers for outputs that are numbers.
    samples : ndarray or None
        All outputs, in their own dtype and of shape ``(n, *shape)``, if they were asked for.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> layer = fastdrop.Dropout(0.5, rng=0, always=True)
    >>> mean, variance, samples = fastdrop.mc_predict(layer, np.ones(3), 100, return_samples=True)
    >>> np.allclose(mean, samples.mean(axis=0)), np.allclose(variance, samples.var(axis=0))
    (True, True)
    """

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    samples: np.ndarray | None


class stochastic:
    """A context in which these layers draw in inference too, as if they had been made with ``always=True``.

    It holds for the calling thread, or asyncio task, alone: other threads that run the same layers meanwhile get what
    they would get without it. A thread that takes part runs in a copy of the context, as
    ``contextvars.copy_context().run(f)`` does; a task that is started inside has one of its own accord. Contexts nest,
    and an inner one adds its layers to those of the outer one.

    The masks are the next ones of the layers' streams. Where training must go on as if there had been no such passes,
    keep each layer's ``state_dict()`` before them, and load it afterwards.

    Parameters
    ----------
    *layers : layers of this package
        At least one. A DropoutWrapper whose cell is a DropoutWrapper stands for both.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> layer, other = fastdrop.Dropout(0.5, rng=1).eval(), fastdrop.Dropout(0.5, rng=2).eval()
    >>> x = np.ones(1000)
    >>> with fastdrop.stochastic(layer):
    ...     np.array_equal(layer(x), x), np.array_equal(other(x), x)
    (False, True)
    >>> np.array_equal(layer(x), x)
    True
    """

    def __init__(self, *layers: TrainingMode) -> None:
        if not layers:
            raise ValueError("layers must be at least one layer, got none")
        for layer in layers:
            if not isinstance(layer, TrainingMode):
                raise TypeError(
                    f"layers must be layers of fastdrop, each an argument of its own, got {layer!r} "
                    f"of type {type(layer).__name__}"
                )
        self._layers = layers

    def __enter__(self) -> None:
        found = (inner for layer in self._layers for inner in layer._with_all_inside())
        kept_stochastic.enter(self, frozenset(found))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept_stochastic.leave(self)


def mc_predict(
    f: Callable[[Input], npt.ArrayLike], x: Input, n: int, *, return_samples: bool = False, progress: bool = False
) -> Prediction:
    """Mean and variance of the outputs of n stochastic passes.

    Parameters
    ----------
    f : callable
        ``f(x)`` is one pass, which draws new masks: because its layers are made with ``always=True``, or train, or
        because it is called within ``fastdrop.stochastic(*layers)``. It returns a number, or an array of any shape of
        integers or of floats of at most 64 bits, and of the same shape each time; it may be the same array with
        other values.
    x : any
        What is passed to f.
    n : int
        The number of passes, at least 1.
    return_samples : bool
        Keep all outputs. Without it the memory needed does not grow with n.
    progress : bool
        Show a progress bar on stderr, if that is a terminal.

    Returns
    -------
    Prediction
        A named tuple of mean, variance and samples; samples is None without ``return_samples``.

    Raises
    ------
    TypeError, ValueError
        For an argument or an output that cannot be.

    Warns
    -----
    UserWarning
        If f called dropout, but outside training only, and so gave the same output in all passes.

    Notes
    -----
    Moments are accumulated in float64, by the recurrence of B. P. Welford, "Note on a method for calculating corrected
    sums of squares and products", Technometrics 4 (1962), which does not lose small variances of large numbers. The
    variance is divided by n, as ``numpy.var`` and Gal and Ghahramani do; times ``n / (n - 1)`` it is the unbiased
    estimate. It is the spread that the dropout makes: for the variance of an observation, add that of the noise. An
    output that is infinite or NaN in any pass has no variance, and its mean is NaN or infinite.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> weights = np.full((100, 1), 0.01)
    >>> layer = fastdrop.Dropout(0.5, rng=0, always=True).eval()
    >>> prediction = fastdrop.mc_predict(lambda x: layer(x) @ weights, np.ones((3, 100)), 1000)
    >>> prediction.mean.round(1).ravel(), prediction.variance.round(2).ravel()
    (array([1., 1., 1.]), array([0.01, 0.01, 0.01]))
    """
    if not callable(f):
        raise TypeError(f"f must be callable, got {f!r} of type {type(f).__name__}")
    n = _arguments.count(n, "n")
    return_samples = _arguments.flag(return_samples, "return_samples")
    is_drawn: set[bool] = set()

    def watched(x: Input) -> npt.ArrayLike:
        with _streams.watching(is_drawn):
            return f(x)

    if _arguments.flag(progress, "progress"):
        from fastdrop._tools.progress import Progress  # which few need, and no import of the package

        bar = Progress()
        try:
            prediction = _moments(watched, x, n, return_samples, lambda k: bar.update(k / n, f"pass {k} of {n}"))
        finally:
            bar.clear()
    else:
        prediction = _moments(watched, x, n, return_samples, lambda k: None)
    if is_drawn == {False} and not np.any(prediction.variance):
        warnings.warn(
            "nothing was drawn, so that all passes gave the same: call mc_predict within fastdrop.stochastic(*layers), "
            "or make the layers with always=True",
            stacklevel=2,
        )
    return prediction


def _moments(
    f: Callable[[Input], object], x: Input, n: int, return_samples: bool, show: Callable[[int], object]
) -> Prediction:
    y = _output(f(x))
    mean = y.astype(np.float64)
    squares = np.zeros_like(mean)  # the sum of the squared distances from the mean
    distance, step = np.empty_like(mean), np.empty_like(mean)
    samples = np.empty((n, *y.shape), y.dtype) if return_samples else None
    for k in range(1, n + 1):
        if k > 1:
            y = _output(f(x))
            if y.shape != mean.shape:
                raise ValueError(
                    f"f must return the same shape in every pass, got {y.shape} in pass {k} after {mean.shape}"
                )
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(distance, y)
                distance -= mean
                mean += np.divide(distance, k, out=step)
                np.copyto(step, y)
                step -= mean
                squares += np.multiply(step, distance, out=step)
        if samples is not None:
            if y.dtype != samples.dtype:
                samples = samples.astype(np.promote_types(samples.dtype, y.dtype))
            samples[k - 1] = y
        show(k)
    squares /= n
    return Prediction(mean[()], squares[()], samples)


def _output(y: object) -> np.ndarray:
    """What f returned, as an array, if its values are float64's."""
    what_must_be = "f must return a real number or a plain array of such"
    if isinstance(y, np.ndarray):
        _foreign.refuse_subclass(y, what_must_be, "it")
    else:
        _foreign.refuse(y, what_must_be, "it")
    try:
        array = np.asarray(y)
    except ValueError as error:
        raise TypeError(f"f must return a real number or an array of such, got a {type(y).__name__}: {error}") from None
    if not np.can_cast(array.dtype, np.float64, "safe"):
        raise TypeError(
            "f must return a real number or an array of such, of at most 64 bits, "
            f"got a {type(y).__name__} of dtype {array.dtype}"
        )
    return array
