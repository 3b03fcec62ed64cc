# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of elements, and of what belongs together, and noise: the functions of one array."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, Union

from fastdrop import _arguments, _functions, _noise, _prologue
from fastdrop._arguments import DEFAULT_RATE, Number
from fastdrop._functions import CHANNELS_FIRST, DOWNSCALE, UPSCALE, DataFormat, Mode
from fastdrop._masks import AlphaMask, DropoutMask
from fastdrop._streams import RNG
from fastdrop.dask import _chunks, _labels

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

Lazy: TypeAlias = Union["da.Array", "xr.DataArray", "xr.Variable"]
NoiseShape: TypeAlias = Iterable[SupportsIndex | None] | None
SharedAxes: TypeAlias = SupportsIndex | str | Iterable[SupportsIndex | str] | None


def dropout(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    noise_shape: NoiseShape = None,
    shared_axes: SharedAxes = None,
    mode: Mode = UPSCALE,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random elements to zero and scale the others up: ``fastdrop.dropout``, lazily, of arrays of any size.

    The mask is drawn when this is called and not when the result is computed. It goes by the position of an element in
    the whole array, so it is that of ``fastdrop.dropout`` for the computed array, whatever the chunks, the scheduler
    and the workers.

    Parameters
    ----------
    x : dask.array.Array of float16, bfloat16, float32 or float64, xarray.DataArray or Variable
        Any shape and chunks, of known sizes; chunks are NumPy arrays, masked ones among them. An object of xarray may
        hold a NumPy array as well, which is computed at once.
    rate, keep_prob, training, noise_shape, mode
        As for ``fastdrop.dropout``.
    shared_axes : int, str, or sequence of them, optional
        The axes along which one decision is shared; of an object of xarray also the names of its dimensions.
    rng : None, int, sequence of int, numpy.random.SeedSequence, Generator or BitGenerator, or DrawSource
        As for ``fastdrop.dropout``. It is drawn from once, in the calling process. With the same key and call number
        the result has the same name, so that Dask knows it again.
    return_mask : bool
        Return the mask too.

    Returns
    -------
    y : dask.array.Array, or what x is
        Of x's shape, dtype and chunks. An object of xarray keeps its dimensions, coordinates, attributes and name. At
        rate 0, and when not training, it is x itself.
    mask : DropoutMask
        Only with ``return_mask``. ``fastdrop.dask.backward(mask, dy)`` is the backward pass, and ``mask[a:b]`` the mask
        of the part ``y[a:b]``.

    Raises
    ------
    TypeError, ValueError
        For an argument that is refused. Nothing is drawn then, and no stream moved.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop.dask
    >>> x = da.ones((2, 4), chunks=(1, 3), dtype=np.float32)
    >>> y = fastdrop.dask.dropout(x, 0.5, rng=0)
    >>> y
    dask.array<dropout, shape=(2, 4), dtype=float32, chunksize=(1, 3), chunktype=numpy.ndarray>
    >>> y.compute()
    array([[0., 0., 2., 2.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> np.array_equal(y.compute(), fastdrop.dropout(np.ones((2, 4), np.float32), 0.5, rng=0))
    True

    One decision for each row, and nothing outside training:

    >>> fastdrop.dask.dropout(x, 0.5, shared_axes=1, rng=2).compute()
    array([[2., 2., 2., 2.],
           [0., 0., 0., 0.]], dtype=float32)
    >>> fastdrop.dask.dropout(x, 0.5, training=False) is x
    True
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    checked_mode = _arguments.one_of(mode, "mode", (UPSCALE, DOWNSCALE))
    noise_shape_of = _functions.lengths_of(noise_shape, _labels.axes_of(x, shared_axes))
    call = _chunks.checked("dropout", {"x": x}, (training, rng, return_mask), noise_shape_of=noise_shape_of)
    return _dropped("dropout", call, x, checked_rate, checked_mode)


def dropout1d(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of sequences to zero as a whole: ``fastdrop.dropout1d``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        (N, C, L) or (C, L), or with ``channels_last`` (N, L, C) or (L, C), whatever the names of dimensions.
    data_format : {"channels_first", "channels_last"}
        Where the channels are.
    rate, keep_prob, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    return _channels_dropped("L", x, rate, keep_prob, data_format, (training, rng, return_mask))


def dropout2d(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of images to zero as a whole: ``fastdrop.dropout2d``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        (N, C, H, W) or (C, H, W), or with ``channels_last`` (N, H, W, C) or (H, W, C). A channel that lies in several
        chunks drops in all of them or in none.
    data_format, rate, keep_prob, training, rng, return_mask
        As for ``dropout1d``.

    Returns
    -------
    y, mask
        As for ``dropout``.

    Examples
    --------
    >>> import dask.array as da, fastdrop.dask
    >>> images = da.ones((2, 3, 8, 8), chunks=(1, 2, 4, 5))
    >>> fastdrop.dask.dropout2d(images, 0.5, rng=0).max(axis=(2, 3)).compute()
    array([[0., 0., 2.],
           [2., 0., 2.]])
    """
    return _channels_dropped("HW", x, rate, keep_prob, data_format, (training, rng, return_mask))


def dropout3d(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of volumes to zero as a whole: ``fastdrop.dropout3d``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        (N, C, D, H, W) or (C, D, H, W), or with ``channels_last`` (N, D, H, W, C) or (D, H, W, C).
    data_format, rate, keep_prob, training, rng, return_mask
        As for ``dropout1d``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    return _channels_dropped("DHW", x, rate, keep_prob, data_format, (training, rng, return_mask))


def drop_path(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    mode: Mode = UPSCALE,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random samples to zero as a whole: ``fastdrop.drop_path``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable, shape (N, ...)
        One sample after another.
    rate, keep_prob, mode, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    checked_mode = _arguments.one_of(mode, "mode", (UPSCALE, DOWNSCALE))
    groups = _functions.samples, checked_rate
    call = _chunks.checked("drop_path", {"x": x}, (training, rng, return_mask), groups=groups)
    return _dropped("drop_path", call, x, checked_rate, checked_mode)


def dropconnect(
    weights: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random weights to zero, in place of activations: ``fastdrop.dropconnect``, lazily.

    Parameters
    ----------
    weights : dask.array.Array, xarray.DataArray or Variable
        Any shape.
    rate, keep_prob, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _chunks.checked("dropconnect", {"weights": weights}, (training, rng, return_mask))
    return _dropped("dropconnect", call, weights, checked_rate)


def embedding_dropout(
    table: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random rows of an embedding's table to zero: ``fastdrop.embedding_dropout``, lazily.

    Parameters
    ----------
    table : dask.array.Array, xarray.DataArray or Variable, shape (words, features)
        Look words up in the result.
    rate, keep_prob, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    groups = _functions.rows, checked_rate
    call = _chunks.checked("embedding_dropout", {"table": table}, (training, rng, return_mask), groups=groups)
    return _dropped("embedding_dropout", call, table, checked_rate)


def alpha_dropout(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    noise_shape: NoiseShape = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Set random elements to SELU's lower limit and keep mean 0 and variance 1: ``fastdrop.alpha_dropout``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        What comes out of SELU activations, of any shape.
    rate, keep_prob, noise_shape, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y : dask.array.Array, or what x is
        As for ``dropout``.
    mask : AlphaMask
        Only with ``return_mask``.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    noise_shape_of = partial(_arguments.noise_lengths, noise_shape)
    call = _chunks.checked("alpha_dropout", {"x": x}, (training, rng, return_mask), noise_shape_of=noise_shape_of)
    return _chunks.dropped(
        "alpha_dropout", _chunks.applied, call, (x,), *_chunks.masks_of(call, checked_rate, AlphaMask)
    )


def feature_alpha_dropout(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of whole channels: ``fastdrop.feature_alpha_dropout``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable, shape (N, C, ...)
    rate, keep_prob, training, rng, return_mask
        As for ``alpha_dropout``.

    Returns
    -------
    y, mask
        As for ``alpha_dropout``.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    name, groups = "feature_alpha_dropout", (_noise.features, checked_rate)
    call = _chunks.checked(name, {"x": x}, (training, rng, return_mask), groups=groups)
    return _chunks.dropped(name, _chunks.applied, call, (x,), *_chunks.masks_of(call, checked_rate, AlphaMask))


def gaussian_dropout(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    noise_shape: NoiseShape = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Multiply elements by normal numbers of mean 1: ``fastdrop.gaussian_dropout``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        Any shape.
    rate : float
        From 0 to less than 1; the variance is ``rate / (1 - rate)``, which is that of dropout.
    keep_prob, noise_shape, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y : dask.array.Array, or what x is
        As for ``dropout``.
    mask : GaussianMask
        Only with ``return_mask``.
    """
    stddev = _noise.stddev_of(rate, keep_prob)
    return _perturbed("gaussian_dropout", x, stddev, noise_shape, (training, rng, return_mask), additive=False)


def gaussian_noise(
    x: Lazy,
    stddev: Number,
    *,
    noise_shape: NoiseShape = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Add normal numbers of mean 0 to elements: ``fastdrop.gaussian_noise``, lazily.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or Variable
        Any shape.
    stddev : float
        The standard deviation of the noise, at least 0, in the unit of x.
    noise_shape, training, rng, return_mask
        As for ``dropout``.

    Returns
    -------
    y : dask.array.Array, or what x is
        As for ``dropout``; x itself with a standard deviation of 0.
    mask : GaussianMask
        Only with ``return_mask``.
    """
    checked_stddev = _arguments.standard_deviation(stddev)
    return _perturbed("gaussian_noise", x, checked_stddev, noise_shape, (training, rng, return_mask), additive=True)


def _dropped(function: str, call: _prologue.Call, x: Any, rate: _arguments.Rate, mode: str = UPSCALE) -> Any:
    """Dropout that scales in training, or that scales in inference."""
    options = {} if mode == UPSCALE else {"scale": 1.0, "idle_scale": rate.keep_prob}
    return _chunks.dropped(function, _chunks.applied, call, (x,), *_chunks.masks_of(call, rate, DropoutMask, **options))


def _channels_dropped(
    lengths: str, x: Any, rate: object, keep_prob: object, data_format: object, options: tuple[object, object, object]
) -> Any:
    """Dropout of whole channels, whose lengths have one letter each."""
    function = f"dropout{len(lengths)}d"
    checked_rate = _arguments.rate_of(rate, keep_prob)
    groups = _functions.planes_of(lengths, data_format), checked_rate
    return _dropped(function, _chunks.checked(function, {"x": x}, options, groups=groups), x, checked_rate)


def _perturbed(
    function: str, x: Any, stddev: float, noise_shape: object, options: tuple[object, object, object], *, additive: bool
) -> Any:
    noise_shape_of = partial(_arguments.noise_lengths, noise_shape)
    call = _chunks.checked(function, {"x": x}, options, noise_shape_of=noise_shape_of)
    masks = _chunks.noise_masks_of(call, stddev, additive=additive)
    return _chunks.dropped(function, _chunks.applied, call, (x,), *masks)
