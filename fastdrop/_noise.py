# SPDX-License-Identifier: BSD-3-Clause
"""Dropout that keeps more than the mean, for networks that normalize themselves, and noise from a normal law."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _prologue
from fastdrop._arguments import DEFAULT_RATE, Number
from fastdrop._functions import NoiseOptions, Options, ShapedOptions
from fastdrop._kernels import Operation
from fastdrop._masks import AlphaMask, GaussianMask
from fastdrop._prologue import Lengths
from fastdrop._streams import RNG


class ShapedNoiseOptions(NoiseOptions, total=False):
    """Those of ``gaussian_noise``. ``dropout`` explains them."""

    noise_shape: Iterable[SupportsIndex | None] | None


@overload
def alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ShapedOptions]
) -> np.ndarray: ...
@overload
def alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ShapedOptions]
) -> tuple[np.ndarray, AlphaMask]: ...
@overload
def alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ShapedOptions]
) -> np.ndarray | tuple[np.ndarray, AlphaMask]: ...
def alpha_dropout(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    noise_shape: Iterable[SupportsIndex | None] | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random elements to SELU's lower limit, then shift and scale all, so that mean 0 and variance 1 stay.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        What comes out of SELU activations, of any shape.
    rate, keep_prob, training, rng, out
        As for ``dropout``. At rate 1 the result is zero, the limit of what it is before.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast, as for ``dropout``.
    return_mask : bool
        Return the mask too, an ``AlphaMask``, whose ``backward`` is the backward pass.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. At rate 0, and when not training, it is x itself, unless ``out`` is given.
    mask : AlphaMask
        Only with ``return_mask``.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.random.default_rng(0).standard_normal(100_000)
    >>> y, mask = fastdrop.alpha_dropout(x, 0.2, rng=1, return_mask=True)
    >>> [round(float(number), 2) for number in (x.std(), y.std())]
    [1.0, 1.0]
    >>> dropped = ~np.asarray(mask)
    >>> np.unique(y[dropped]).round(3)
    array([-1.236])
    >>> dx = mask.backward(np.ones_like(y))
    >>> np.unique(dx[dropped])
    array([0.])
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    noise_shape_of = partial(_arguments.noise_lengths, noise_shape)
    call = _prologue.checked({"x": x}, (training, rng, out, return_mask), noise_shape_of=noise_shape_of)
    return _prologue.dropped(call, checked_rate, Operation.ALPHA_DROPOUT, AlphaMask)


@overload
def feature_alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[Options]
) -> np.ndarray: ...
@overload
def feature_alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[Options]
) -> tuple[np.ndarray, AlphaMask]: ...
@overload
def feature_alpha_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[Options]
) -> np.ndarray | tuple[np.ndarray, AlphaMask]: ...
def feature_alpha_dropout(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of whole channels: one decision for all that follows the first two dimensions.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, shape (N, C, ...)
    rate, keep_prob, training, rng, out, return_mask
        As for ``alpha_dropout``.

    Returns
    -------
    y, mask
        As for ``alpha_dropout``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.zeros((1, 4, 2), np.float32)
    >>> fastdrop.feature_alpha_dropout(x, 0.5, rng=3)
    array([[[-0.77919394, -0.77919394],
            [ 0.77919394,  0.77919394],
            [ 0.77919394,  0.77919394],
            [ 0.77919394,  0.77919394]]], dtype=float32)
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _prologue.checked({"x": x}, (training, rng, out, return_mask), groups=(features, checked_rate))
    return _prologue.dropped(call, checked_rate, Operation.ALPHA_DROPOUT, AlphaMask)


def features(shape: tuple[int, ...]) -> Lengths:
    """The lengths of a mask of (N, C, ...) that drops channels as a whole."""
    if len(shape) < 2:
        raise ValueError(f"x must have at least two dimensions, (N, C, ...), got shape {shape}")
    return _arguments.noise_lengths(shape[:2] + (1,) * (len(shape) - 2), shape)


@overload
def gaussian_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ShapedOptions]
) -> np.ndarray: ...
@overload
def gaussian_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ShapedOptions]
) -> tuple[np.ndarray, GaussianMask]: ...
@overload
def gaussian_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ShapedOptions]
) -> np.ndarray | tuple[np.ndarray, GaussianMask]: ...
def gaussian_dropout(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    noise_shape: Iterable[SupportsIndex | None] | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Multiply elements by normal numbers of mean 1 and variance ``rate / (1 - rate)``, which is that of dropout.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout.
    rate : float
        From 0 to less than 1.
    keep_prob, training, rng, out
        As for ``dropout``.
    noise_shape : sequence of int or None, optional
        The shape in which the normal numbers are drawn and then broadcast, as for ``dropout``.
    return_mask : bool
        Return the mask too, a ``GaussianMask``, whose ``backward`` is the backward pass.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. At rate 0, and when not training, it is x itself, unless ``out`` is given.
    mask : GaussianMask
        Only with ``return_mask``.

    References
    ----------
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014), section
    10.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.ones(100_000, np.float32)
    >>> y, mask = fastdrop.gaussian_dropout(x, 0.2, rng=1, return_mask=True)
    >>> [round(float(number), 2) for number in (y.mean(), y.var())]
    [1.0, 0.25]
    >>> np.array_equal(mask.backward(x), y)
    True
    """
    stddev = stddev_of(rate, keep_prob)
    call = _prologue.checked(
        {"x": x}, (training, rng, out, return_mask), noise_shape_of=partial(_arguments.noise_lengths, noise_shape)
    )
    return _prologue.perturbed(call, stddev, additive=False)


def stddev_of(rate: object, keep_prob: object) -> float:
    """The standard deviation of the factors of a gaussian_dropout."""
    dropped, kept = _arguments.rate_of(rate, keep_prob)
    if dropped == 1.0:
        given = "rate=1" if keep_prob is None else f"keep_prob={keep_prob!r}"
        raise ValueError(
            "rate must be below 1, and keep_prob above 2**-54, for gaussian_dropout, whose variance is "
            f"rate / (1 - rate), got {given}"
        )
    return math.sqrt(dropped / kept)


@overload
def gaussian_noise(
    x: npt.ArrayLike, stddev: Number, *, return_mask: Literal[False] = ..., **options: Unpack[ShapedNoiseOptions]
) -> np.ndarray: ...
@overload
def gaussian_noise(
    x: npt.ArrayLike, stddev: Number, *, return_mask: Literal[True], **options: Unpack[ShapedNoiseOptions]
) -> tuple[np.ndarray, GaussianMask]: ...
@overload
def gaussian_noise(
    x: npt.ArrayLike, stddev: Number, *, return_mask: bool, **options: Unpack[ShapedNoiseOptions]
) -> np.ndarray | tuple[np.ndarray, GaussianMask]: ...
def gaussian_noise(
    x: npt.ArrayLike,
    stddev: Number,
    *,
    noise_shape: Iterable[SupportsIndex | None] | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Add normal numbers of mean 0 to elements.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout.
    stddev : float
        The standard deviation of the noise, at least 0, in the unit of x.
    noise_shape : sequence of int or None, optional
        The shape in which the normal numbers are drawn and then broadcast, as for ``dropout``.
    training, rng, out
        As for ``dropout``.
    return_mask : bool
        Return the mask too, a ``GaussianMask``; its ``backward`` gives the gradient back as it is.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. With a standard deviation of 0, and when not training, it is x itself,
        unless ``out`` is given.
    mask : GaussianMask
        Only with ``return_mask``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> y = fastdrop.gaussian_noise(np.full(100_000, 20.0), 0.1, rng=1)
    >>> [round(float(number), 3) for number in (y.mean(), y.std())]
    [20.0, 0.1]
    """
    checked_stddev = _arguments.standard_deviation(stddev)
    call = _prologue.checked(
        {"x": x}, (training, rng, out, return_mask), noise_shape_of=partial(_arguments.noise_lengths, noise_shape)
    )
    return _prologue.perturbed(call, checked_stddev, additive=True)
