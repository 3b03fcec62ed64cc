# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of elements, and of what belongs together: channels, samples, weights, rows of a table."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

import fastdrop
from fastdrop import _arguments, _engine, _streams
from fastdrop._masks import DropoutMask, _whole
from fastdrop._streams import RNG

UPSCALE = "upscale_in_train"
DOWNSCALE = "downscale_in_infer"
CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"
Mode: TypeAlias = Literal["upscale_in_train", "downscale_in_infer"]


@overload
def dropout(
    x: npt.ArrayLike,
    rate: float = ...,
    *,
    keep_prob: float | None = ...,
    training: bool = ...,
    noise_shape: Any = ...,
    shared_axes: Any = ...,
    mode: Mode = ...,
    rng: RNG = ...,
    out: np.ndarray | None = ...,
    return_mask: Literal[False] = ...,
) -> np.ndarray: ...
@overload
def dropout(
    x: npt.ArrayLike,
    rate: float = ...,
    *,
    keep_prob: float | None = ...,
    training: bool = ...,
    noise_shape: Any = ...,
    shared_axes: Any = ...,
    mode: Mode = ...,
    rng: RNG = ...,
    out: np.ndarray | None = ...,
    return_mask: Literal[True],
) -> tuple[np.ndarray, DropoutMask]: ...
def dropout(
    x,
    rate=_arguments.DEFAULT_RATE,
    *,
    keep_prob=None,
    training=True,
    noise_shape=None,
    shared_axes=None,
    mode=UPSCALE,
    rng=None,
    out=None,
    return_mask=False,
):
    """Set random elements to zero and scale the others up, so that the expected value stays what it was.

    Each element is dropped with probability ``rate``, independently of the others; a kept one is multiplied by
    ``1 / (1 - rate)``.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout.
    rate : float
        The probability to drop, from 0 to 1; drawn exactly, as a multiple of 2**-32.
    keep_prob : float, optional
        ``1 - rate``, instead of it.
    training : bool
        False gives x itself and draws nothing.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast, as in TensorFlow: one length a dimension, 1 (one
        decision along this dimension) or the array's own, which None stands for.
    shared_axes : int or sequence of int, optional
        The same, said by the axes along which one decision is shared.
    mode : {"upscale_in_train", "downscale_in_infer"}
        Where the scaling is done. The second is the original form: kept elements stay as they are in training, and
        otherwise all are multiplied by ``1 - rate``.
    rng : None, int, numpy.random.SeedSequence, Generator or BitGenerator, or PhiloxStream
        Where the mask comes from. None is a stream of the module's own, keyed from the operating system's entropy.
        An int or a SeedSequence names one mask: the same at every call. A Generator gives one key a call. A
        PhiloxStream takes its next call number.
    out : ndarray, optional
        Where the result goes: of x's shape, and of a dtype that holds x's values without loss. It may be x itself,
        or overlap it in any way.
    return_mask : bool
        Return the mask too.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. Dropped elements are +0, whatever x holds there. At rate 0, and when not
        training, it is x itself, unless ``out`` is given.
    mask : DropoutMask
        Only with ``return_mask``. ``mask.apply(dy)`` is the backward pass; it keeps no memory meanwhile.

    Raises
    ------
    TypeError, ValueError
        For an argument that can not be; ``out`` and the stream are left as they were.

    Notes
    -----
    In training every call uses up a call number of its stream, whatever the rate, so that changing a rate does not
    shift the masks that follow.

    The method is N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15
    (2014); by default with the scaling moved from inference to training, which is called inverted dropout.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.ones((2, 4), np.float32)
    >>> y, mask = fastdrop.dropout(x, 0.5, rng=0, return_mask=True)
    >>> y
    array([[0., 0., 0., 0.],
           [2., 2., 2., 2.]], dtype=float32)
    >>> dx = mask.apply(np.ones_like(y))
    """
    rate = _arguments.rate_of(rate, keep_prob)
    if not fastdrop._kernels.are_plain(x, out):
        x = _arguments.float_array(x)
        if out is not None:
            _arguments.output(out, x)
    if shared_axes is not None:
        noise_shape = _without_axes(x.shape, noise_shape, shared_axes)
    if noise_shape is not None:
        noise_shape = _arguments.noise_lengths(noise_shape, x.shape)
    if mode is not UPSCALE:
        _arguments.one_of(mode, "mode", (UPSCALE, DOWNSCALE))
    source = _streams.source(rng)
    if return_mask or noise_shape is not None or mode is not UPSCALE or not training or rate == 0.0:
        return _with_mask(x, rate, noise_shape, mode, training, source, out, return_mask)
    # What is called most takes the shortest way.
    y = out if out is not None else _engine.result_for(x)
    key, call = source.next_draw()
    threshold, scale = _engine.threshold_and_scale(rate)
    _engine.apply(x, y, key, call, threshold, scale)
    return y


def _with_mask(x, rate, noise_shape, mode, training, source, out, return_mask):
    """``dropout`` with checked arguments, by way of a mask."""
    if training:
        y = out if out is not None or rate == 0.0 else _engine.result_for(x)
        key, call = source.next_draw()
        mask = _whole(x.shape, rate, key, call, noise_shape, None if mode == UPSCALE else 1.0)
    else:
        y = out
        mask = _whole(x.shape, 0.0, 0, 0, None, None if mode == UPSCALE else 1.0 - rate)
    y = mask._scaled(x, y, mask.scale)
    return (y, mask) if return_mask else y


def _without_axes(shape: tuple[int, ...], noise_shape: Any, shared_axes: Any) -> tuple[int, ...]:
    """A noise_shape that shares one decision along these axes."""
    if noise_shape is not None:
        raise ValueError(f"give noise_shape or shared_axes, not both: got {noise_shape!r} and {shared_axes!r}")
    shared = _arguments.axes(shared_axes, len(shape), "shared_axes")
    return tuple(1 if axis in shared else n for axis, n in enumerate(shape))


def _dropout_shared(x, rate, keep_prob, first, last, training, rng, out, return_mask):
    """``dropout`` with one decision along the axes from first to before last."""
    rate = _arguments.rate_of(rate, keep_prob)
    if out is not None:
        _arguments.output(out, x)
    noise_shape = x.shape[:first] + (1,) * (last - first) + x.shape[last:]
    return _with_mask(x, rate, noise_shape, UPSCALE, training, _streams.source(rng), out, return_mask)


def _dropout_channels(dims, x, rate, keep_prob, data_format, *options):
    """Dropout of whole channels, each of so many dimensions."""
    x = _arguments.float_array(x)
    _arguments.one_of(data_format, "data_format", (CHANNELS_FIRST, CHANNELS_LAST))
    if x.ndim not in (dims + 1, dims + 2):
        raise ValueError(
            f"x must have {dims + 2} dimensions, or {dims + 1} without a batch, for dropout{dims}d, got {x.ndim}"
        )
    first = x.ndim - dims if data_format == CHANNELS_FIRST else x.ndim - dims - 1
    return _dropout_shared(x, rate, keep_prob, first, first + dims, *options)


_CHANNELS = """Set random channels to zero as a whole and scale the others up{aka}.

    Neighbours in a channel are so alike that dropping single elements takes little from it: J. Tompson et al.,
    "Efficient object localization using convolutional networks", CVPR 2015.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        {first} for ``channels_first``, {last} for ``channels_last``; or the same without N.
    data_format : {{"channels_first", "channels_last"}}
        Where the channels are.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """


def dropout1d(
    x,
    rate=_arguments.DEFAULT_RATE,
    *,
    keep_prob=None,
    data_format="channels_first",
    training=True,
    rng=None,
    out=None,
    return_mask=False,
):
    return _dropout_channels(1, x, rate, keep_prob, data_format, training, rng, out, return_mask)


def dropout2d(
    x,
    rate=_arguments.DEFAULT_RATE,
    *,
    keep_prob=None,
    data_format="channels_first",
    training=True,
    rng=None,
    out=None,
    return_mask=False,
):
    return _dropout_channels(2, x, rate, keep_prob, data_format, training, rng, out, return_mask)


def dropout3d(
    x,
    rate=_arguments.DEFAULT_RATE,
    *,
    keep_prob=None,
    data_format="channels_first",
    training=True,
    rng=None,
    out=None,
    return_mask=False,
):
    return _dropout_channels(3, x, rate, keep_prob, data_format, training, rng, out, return_mask)


for _function, _first, _last in (
    (dropout1d, "(N, C, L)", "(N, L, C)"),
    (dropout2d, "(N, C, H, W)", "(N, H, W, C)"),
    (dropout3d, "(N, C, D, H, W)", "(N, D, H, W, C)"),
):
    _aka = f", as Keras's SpatialDropout{_function.__name__[-2].upper()}D"
    _function.__doc__ = _CHANNELS.format(aka=_aka, first=_first, last=_last)


def drop_path(x, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False):
    """Set random samples to zero as a whole and scale the others up: stochastic depth.

    It goes at the end of a residual branch, so that a sample skips the whole branch or none of it: G. Huang et al.,
    "Deep networks with stochastic depth", ECCV 2016.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, shape (N, ...)
        One sample after another.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    x = _arguments.float_array(x)
    if x.ndim == 0:
        raise ValueError("x must have samples along its first dimension, got an array of no dimension")
    return _dropout_shared(x, rate, keep_prob, 1, x.ndim, training, rng, out, return_mask)


def dropconnect(
    weights, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False
):
    """Set random weights to zero and scale the others up, in place of random activations.

    The dropped weights serve no sample of the batch; the gradient of the weights goes through ``mask.backward``. The
    method is L. Wan et al., "Regularization of neural networks using DropConnect", ICML 2013, with one mask a batch and
    the scaling in training, as S. Merity et al., "Regularizing and optimizing LSTM language models", ICLR 2018, use it
    for recurrent weights.

    Parameters
    ----------
    weights : array_like of float16, bfloat16, float32 or float64
        Any shape.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    return dropout(
        _arguments.float_array(weights, "weights"),
        rate,
        keep_prob=keep_prob,
        training=training,
        rng=rng,
        out=out,
        return_mask=return_mask,
    )


def embedding_dropout(
    table, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False
):
    """Set random rows of an embedding's table to zero and scale the others up: a word falls wherever it stands.

    The method is Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks",
    NIPS 2016.

    Parameters
    ----------
    table : array_like of float16, bfloat16, float32 or float64, shape (words, features)
        Look words up in the result.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.
    """
    table = _arguments.float_array(table, "table")
    if table.ndim != 2:
        raise ValueError(f"table must have two dimensions, (words, features), got shape {table.shape}")
    return _dropout_shared(table, rate, keep_prob, 1, 2, training, rng, out, return_mask)
