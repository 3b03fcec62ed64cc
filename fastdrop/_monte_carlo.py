# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout: how sure a net is, from many passes with the dropout left on.

Y. Gal and Z. Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning",
ICML 2016. Their predictive mean and variance are the moments of the outputs of stochastic passes.
"""

from __future__ import annotations

import contextvars
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Any, NamedTuple, Protocol, SupportsIndex, TypeVar, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _foreign, _streams
from fastdrop._moments import Moments
from fastdrop._streams import RNG, PhiloxStream
from fastdrop._training import Kept, TrainingMode, kept_stochastic

Input = TypeVar("Input")

# Passes are shared out in so many batches, of at most so many passes. Both decide on the last bits of the moments, and
# so depend on nothing but the number of passes.
_BATCHES = 64
_LARGEST_BATCH = 16

_IN_FLIGHT = 64  # batches that an executor of unknown size has at a time: what is done waits in memory for its turn


@runtime_checkable
class Executor(Protocol):
    """Who takes passes: what ``mc_predict`` needs of executors, and of a ``dask.distributed.Client``."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


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
    rng : any that ``PhiloxStream`` takes, a PhiloxStream, or another DrawSource, optional
        What all of them draw from inside, in the order in which they run, in place of their own streams, which stand
        still meanwhile. Threads that run the same layers, each inside a context of its own, then draw independently of
        each other: what a pass of ``mc_predict`` needs. A DropoutWrapper holds the masks of its sequence, and so can be
        used by one thread at a time.

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

    def __init__(self, *layers: TrainingMode, rng: RNG = None) -> None:
        if not layers:
            raise ValueError("layers must be at least one layer, got none")
        for layer in layers:
            if not isinstance(layer, TrainingMode):
                raise TypeError(
                    f"layers must be layers of fastdrop, each an argument of its own, got {layer!r} "
                    f"of type {type(layer).__name__}"
                )
        self._layers = layers
        self._stream = None if rng is None else _streams.stream(rng)

    def __enter__(self) -> None:
        found = (inner for layer in self._layers for inner in layer._with_all_inside())
        kept_stochastic.enter(self, Kept(frozenset(found), self._stream))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept_stochastic.leave(self)


@overload
def mc_predict(
    f: Callable[[Input], npt.ArrayLike],
    x: Input,
    n: SupportsIndex,
    *,
    rng: None = ...,
    return_samples: bool = ...,
    progress: bool = ...,
) -> Prediction: ...
@overload
def mc_predict(
    f: Callable[[Any, PhiloxStream], npt.ArrayLike],
    x: Any,
    n: SupportsIndex,
    *,
    rng: RNG,
    start: SupportsIndex = ...,
    workers: SupportsIndex | Executor = ...,
    return_samples: bool = ...,
    progress: bool = ...,
) -> Prediction: ...
def mc_predict(
    f: Callable[..., npt.ArrayLike],
    x: Any,
    n: SupportsIndex,
    *,
    rng: RNG = None,
    start: SupportsIndex = 0,
    workers: SupportsIndex | Executor = 1,
    return_samples: bool = False,
    progress: bool = False,
) -> Prediction:
    """Mean and variance of the outputs of n stochastic passes.

    Parameters
    ----------
    f : callable
        One pass, which draws new masks. Without ``rng`` it is called as ``f(x)``, and draws because its layers are made
        with ``always=True``, or train, or because ``mc_predict`` is called within ``fastdrop.stochastic(*layers)``.
        With ``rng`` it is called as ``f(x, stream)``, with a PhiloxStream of this very pass, from which it draws all
        its masks: as ``fastdrop.dropout(h, rng=stream)``, within ``fastdrop.stochastic(*layers, rng=stream)``, or,
        in other libraries, by ``stream.key`` as a seed. It returns a number, or an array of any shape of integers or
        of floats of at most 64 bits, and of the same shape each time; it may be the same array with other values.
    x : any
        What is passed to f.
    n : int
        The number of passes, at least 1.
    rng : int, or any other that ``dropout`` takes, optional
        Seeds the passes, each by itself: pass k draws from the key ``fold_in(key, call, k)``, where ``key, call`` is
        what ``rng`` gives. So its output is the same alone or among a thousand, in whatever order they run.
    start : int
        The number of the first pass, for more passes of the same prediction. It needs an ``rng``.
    workers : int or executor
        How many threads share the passes, or an executor that takes them: of ``concurrent.futures``, a
        ``dask.distributed.Client``, or another object with ``submit(function, *arguments)``, whose futures have
        ``result()``. To other processes f and x are sent by pickle; a Client takes a future of its own for x. It needs
        an ``rng``. The prediction is the same, to the last bit, whoever does the work.
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
    sums of squares and products", Technometrics 4 (1962), which does not lose small variances of large numbers. With
    ``rng`` the passes are taken in batches, whose moments are merged in their order as in T. F. Chan, G. H. Golub,
    R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", COMPSTAT 1982. The
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

    Seeded passes, on two threads; and pass 7 of them alone:

    >>> def f(x, stream):
    ...     return fastdrop.dropout(x, 0.5, rng=stream) @ weights
    >>> many = fastdrop.mc_predict(f, np.ones((3, 100)), 1000, rng=0, workers=2, return_samples=True)
    >>> one = fastdrop.mc_predict(f, np.ones((3, 100)), 1, rng=0, start=7)
    >>> np.array_equal(one.mean, many.samples[7])
    True
    """
    if not callable(f):
        raise TypeError(f"f must be callable, got {f!r} of type {type(f).__name__}")
    n = _arguments.count(n, "n")
    return_samples = _arguments.flag(return_samples, "return_samples")
    progress = _arguments.flag(progress, "progress")
    start = _arguments.unsigned(start, "start", 63)
    executor = workers if isinstance(workers, Executor) else _arguments.count(workers, "workers")
    if rng is None:
        if start != 0 or executor != 1:
            given = "workers" if executor != 1 else "start"
            raise ValueError(f"{given} needs an rng, by which each pass has masks of its own, whoever does it")
        jobs = [_Job(f, None, 0, n, return_samples)]
    else:
        key, call = _streams.source(rng).next_draw()
        seed = _streams.fold_in(key, call)
        size = min(-(-n // _BATCHES), _LARGEST_BATCH)
        firsts = range(start, start + n, size)
        jobs = [_Job(f, seed, first, min(size, start + n - first), return_samples) for first in firsts]
    done = Moments(n, return_samples)
    if progress:
        from fastdrop._tools.progress import Progress  # which few need, and no import of the package

        bar = Progress()
        try:
            _add_up(done, jobs, x, executor, lambda k: bar.update(k / n, f"pass {k} of {n}"))
        finally:
            bar.clear()
    else:
        _add_up(done, jobs, x, executor, lambda k: None)
    variance = done.variance()
    if done.is_drawn == {False} and not np.any(variance):
        warnings.warn(
            "nothing was drawn, so that all passes gave the same: call mc_predict within fastdrop.stochastic(*layers), "
            "or make the layers with always=True",
            stacklevel=2,
        )
    return Prediction(done.mean[()], variance[()], done.samples)


class _Job(NamedTuple):
    """Passes that follow each other, for one worker, which may be another process."""

    f: Callable[..., object]
    seed: int | None  # a key, into which the number of each pass is folded
    first: int
    n: int
    return_samples: bool

    def __call__(self, x: object, show: Callable[[int], object] | None = None) -> Moments:
        moments = Moments(self.n, self.return_samples)
        for k in range(self.first, self.first + self.n):
            given = () if self.seed is None else (PhiloxStream.from_key(_streams.fold_in(self.seed, k)),)
            with _streams.watching(moments.is_drawn):
                y = self.f(x, *given)
            moments.add(_output(y))
            if show is not None:
                show(k + 1)
        return moments


def _add_up(
    done: Moments, jobs: Sequence[_Job], x: object, workers: int | Executor, show: Callable[[int], object]
) -> None:
    """Do all jobs, and merge what they found in their order."""
    start = jobs[0].first
    if workers == 1:
        for job in jobs:
            done.merge(job(x, lambda k: show(k - start)))
    elif isinstance(workers, int):
        with ThreadPoolExecutor(workers) as pool:
            _add_up(done, jobs, x, pool, show)
    else:
        with closing(_spread(jobs, x, workers)) as found:
            for moments in found:
                done.merge(moments)
                show(done.n)


def _spread(jobs: Sequence[_Job], x: object, executor: Executor) -> Generator[Moments, None, None]:
    """What the jobs found, in their order, of which a few at a time are with an executor."""
    waiting: deque[Any] = deque()
    try:
        for job in jobs:
            if len(waiting) == _IN_FLIGHT:
                yield waiting.popleft().result()
            # Threads are in the contexts that the caller is in.
            through = (contextvars.copy_context().run,) if isinstance(executor, ThreadPoolExecutor) else ()
            waiting.append(executor.submit(*through, job, x))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


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
