# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of elements, and of what belongs together: channels, samples, weights, rows of a table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Literal, SupportsIndex, TypeAlias, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _backend, _prologue
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._kernels import Operation
from fastdrop._masks import DropoutMask
from fastdrop._prologue import Groups, Lengths
from fastdrop._streams import RNG

UPSCALE: Final = "upscale_in_train"
DOWNSCALE: Final = "downscale_in_infer"
CHANNELS_FIRST: Final = "channels_first"
CHANNELS_LAST: Final = "channels_last"
Mode: TypeAlias = Literal["upscale_in_train", "downscale_in_infer"]
DataFormat: TypeAlias = Literal["channels_first", "channels_last"]


class NoiseOptions(TypedDict, total=False):
    """Arguments that have the same meaning everywhere. ``dropout`` explains them."""

    training: bool
    rng: RNG
    out: np.ndarray | None


class Options(NoiseOptions, total=False):
    """The same, of functions that have a rate. With ``return_mask=True`` they return the mask too."""

    keep_prob: Number | None


class ChannelOptions(Options, total=False):
    """Those of ``dropout2d``."""

    data_format: DataFormat


class PathOptions(Options, total=False):
    """Those of ``drop_path``."""

    mode: Mode


class ShapedOptions(Options, total=False):
    """Those of ``alpha_dropout`` and ``gaussian_dropout``."""

    noise_shape: Iterable[SupportsIndex | None] | None


class ElementOptions(ShapedOptions, total=False):
    """Those of ``dropout``."""

    shared_axes: SupportsIndex | Iterable[SupportsIndex] | None
    mode: Mode


@overload
def dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ElementOptions]
) -> np.ndarray: ...
@overload
def dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ElementOptions]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ElementOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
@_backend.plain_dropout(_prologue.plain)
def dropout(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    noise_shape: Iterable[SupportsIndex | None] | None = None,
    shared_axes: SupportsIndex | Iterable[SupportsIndex] | None = None,
    mode: Mode = UPSCALE,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random elements to zero and scale the others up, so that the expected value stays what it was.

    Each element is dropped with probability ``rate``, independently of the others; a kept one is multiplied by
    ``1 / (1 - rate)``.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout. A subclass of ndarray keeps its class, and a unit or hidden elements with it; with
        ``out``, or beside another array, it is refused. So are arrays of other libraries, such as tensors with
        gradients and Dask arrays, which the result would no longer be.
    rate : float
        The probability to drop, from 0 to 1; drawn exactly, as a multiple of 2**-32.
    keep_prob : float, optional
        ``1 - rate``, instead of it.
    training : bool
        False gives x itself and draws nothing.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast, as in TensorFlow: any that broadcasts to x's. Each
        length is 1 (one decision along this dimension) or the array's own, which None stands for; lengths that are
        missing on the left are 1.
    shared_axes : int or sequence of int, optional
        The same, said by the axes along which one decision is shared.
    mode : {"upscale_in_train", "downscale_in_infer"}
        Where the scaling is done. The second is the original form: kept elements stay as they are in training, and
        otherwise all are multiplied by ``1 - rate``.
    rng : None, int, sequence of int, numpy.random.SeedSequence, Generator or BitGenerator, or DrawSource
        Where the mask comes from. None is a stream of the module's own, keyed from the operating system's entropy.
        An int, a sequence of int or a SeedSequence names one mask: the same at every call. A Generator gives one key
        a call. A PhiloxStream takes its next call number, and any other DrawSource says key and call number itself.
    out : ndarray, optional
        Where the result goes: of x's shape, and of a dtype that holds x's values without loss. It may be x itself,
        or overlap it in any way; a subclass of ndarray is taken as x itself only.
    return_mask : bool
        Return the mask too.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. Dropped elements are +0, whatever x holds there. At rate 0, and when not
        training, it is x itself, unless ``out`` is given or x is no ndarray.
    mask : DropoutMask
        Only with ``return_mask``. ``mask.apply(dy)`` is the backward pass; it keeps no memory meanwhile.

    Raises
    ------
    TypeError, ValueError
        For an argument that is refused; ``out`` and the stream are left as they were.

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
    array([[0., 0., 2., 2.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> dx = mask.backward(np.ones_like(y))

    One decision for each row, and nothing outside training:

    >>> fastdrop.dropout(x, 0.5, shared_axes=1, rng=2)
    array([[2., 2., 2., 2.],
           [0., 0., 0., 0.]], dtype=float32)
    >>> fastdrop.dropout(x, 0.5, training=False) is x
    True
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    checked_mode = _arguments.one_of(mode, "mode", (UPSCALE, DOWNSCALE))
    call = _prologue.checked(
        {"x": x},
        (training, rng, out, return_mask),
        noise_shape_of=None if noise_shape is None and shared_axes is None else lengths_of(noise_shape, shared_axes),
    )
    return _drop(call, checked_rate, checked_mode)


def _drop(call: _prologue.Call, rate: Rate, mode: str) -> Any:
    """Dropout that scales in training, or that scales in inference."""
    if mode == UPSCALE:
        return _prologue.dropped(call, rate)
    return _prologue.dropped(call, rate, scale=1.0, idle_scale=rate.keep_prob)


def lengths_of(noise_shape: Any, shared_axes: Any) -> Groups:
    """The lengths that a mask is drawn in, said in either way."""

    def lengths(shape: tuple[int, ...]) -> Lengths:
        if shared_axes is None:
            return _arguments.noise_lengths(noise_shape, shape)
        if noise_shape is not None:
            raise ValueError(f"give noise_shape or shared_axes, not both: got {noise_shape!r} and {shared_axes!r}")
        shared = _arguments.axes(shared_axes, len(shape), "shared_axes")
        return _without_axes(shape, shared)

    return lengths


@functools.lru_cache  # networks draw masks of the same few shapes again and again
def _without_axes(shape: tuple[int, ...], shared: Collection[int]) -> Lengths:
    """The lengths of a mask that shares one decision along these axes."""
    return _arguments.noise_lengths(tuple(1 if axis in shared else n for axis, n in enumerate(shape)), shape)


@overload
def dropout1d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ChannelOptions]
) -> np.ndarray: ...
@overload
def dropout1d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ChannelOptions]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropout1d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ChannelOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def dropout1d(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of sequences to zero as a whole: PyTorch's ``dropout1d``.

    As ``dropout2d``, for arrays of shape (N, C, L) with ``channels_first`` and (N, L, C) with ``channels_last``, or the
    same without N. Keras's SpatialDropout1D has channels last.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> fastdrop.dropout1d(np.ones((2, 3, 4)), 0.5, rng=0)
    array([[[0., 0., 0., 0.],
            [0., 0., 0., 0.],
            [2., 2., 2., 2.]],
    <BLANKLINE>
           [[2., 2., 2., 2.],
            [0., 0., 0., 0.],
            [2., 2., 2., 2.]]])
    """
    return _dropout_channels("L", x, rate, keep_prob, data_format, (training, rng, out, return_mask))


@overload
def dropout2d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ChannelOptions]
) -> np.ndarray: ...
@overload
def dropout2d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ChannelOptions]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropout2d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ChannelOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def dropout2d(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of images to zero as a whole and scale the others up: PyTorch's ``dropout2d``.

    Neighbours in a channel are so alike that dropping single elements takes little from it: J. Tompson et al.,
    "Efficient object localization using convolutional networks", CVPR 2015.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        (N, C, H, W) for ``channels_first``, (N, H, W, C) for ``channels_last``; or the same without N. Three dimensions
        are one image here, and for now (N, C, L) in PyTorch, which warns: that is ``dropout1d``. Where nothing is
        dropped, because of ``training`` or a rate of 0, any shape will do.
    data_format : {"channels_first", "channels_last"}
        Where the channels are. Keras's SpatialDropout2D has them last by default.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> images = np.ones((2, 3, 8, 8), np.float32)
    >>> y = fastdrop.dropout2d(images, 0.5, rng=0)
    >>> y.max(axis=(2, 3))
    array([[0., 0., 2.],
           [2., 0., 2.]], dtype=float32)
    >>> last = fastdrop.dropout2d(images.transpose(0, 2, 3, 1), 0.5, data_format="channels_last", rng=0)
    >>> np.array_equal(last, y.transpose(0, 2, 3, 1))
    True
    """
    return _dropout_channels("HW", x, rate, keep_prob, data_format, (training, rng, out, return_mask))


@overload
def dropout3d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[ChannelOptions]
) -> np.ndarray: ...
@overload
def dropout3d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[ChannelOptions]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropout3d(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ChannelOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def dropout3d(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random channels of volumes to zero as a whole: PyTorch's ``dropout3d``.

    As ``dropout2d``, for arrays of shape (N, C, D, H, W) with ``channels_first`` and (N, D, H, W, C) with
    ``channels_last``, or the same without N. Keras's SpatialDropout3D has channels last.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> fastdrop.dropout3d(np.ones((2, 3, 4, 8, 8)), 0.5, rng=0).max(axis=(2, 3, 4))
    array([[0., 0., 2.],
           [2., 0., 2.]])
    """
    return _dropout_channels("DHW", x, rate, keep_prob, data_format, (training, rng, out, return_mask))


@overload
def drop_path(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[PathOptions]
) -> np.ndarray: ...
@overload
def drop_path(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[PathOptions]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def drop_path(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[PathOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def drop_path(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    mode: Mode = UPSCALE,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random samples to zero as a whole and scale the others up: stochastic depth.

    It goes at the end of a residual branch, so that a sample skips the whole branch or none of it: G. Huang et al.,
    "Deep networks with stochastic depth", ECCV 2016.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, shape (N, ...)
        One sample after another.
    mode : {"upscale_in_train", "downscale_in_infer"}
        Where the scaling is done. The second is the form of the paper: samples that are kept stay as they are in
        training, and otherwise all are multiplied by ``1 - rate``.
    rate, keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y, mask
        As for ``dropout``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x, branch = np.zeros((4, 3)), np.ones((4, 3))
    >>> x + fastdrop.drop_path(branch, 0.5, rng=1)
    array([[2., 2., 2.],
           [0., 0., 0.],
           [2., 2., 2.],
           [2., 2., 2.]])
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    checked_mode = _arguments.one_of(mode, "mode", (UPSCALE, DOWNSCALE))
    options = training, rng, out, return_mask
    if checked_mode == UPSCALE:
        y = _prologue.plain_groups(x, samples, rate, keep_prob, options)
        if y is not None:
            return y
    call = _prologue.checked({"x": x}, options, groups=(samples, checked_rate))
    return _drop(call, checked_rate, checked_mode)


def samples(shape: tuple[int, ...]) -> Lengths:
    """The lengths of a mask of (N, ...) that drops samples as a whole."""
    if len(shape) == 0:
        raise ValueError("x must have samples along its first dimension, got an array of no dimension")
    return _without_axes(shape, range(1, len(shape)))


@overload
def dropconnect(
    weights: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[Options]
) -> np.ndarray: ...
@overload
def dropconnect(
    weights: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[Options]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropconnect(
    weights: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[Options]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def dropconnect(
    weights: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
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

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x, weights = np.ones((2, 4)), np.ones((4, 3))
    >>> dropped, mask = fastdrop.dropconnect(weights, 0.5, rng=0, return_mask=True)
    >>> y = x @ dropped
    >>> dweights = mask.backward(x.T @ np.ones_like(y))
    >>> dweights
    array([[0., 0., 4.],
           [4., 0., 4.],
           [4., 4., 4.],
           [4., 0., 0.]])
    """
    y = _prologue.plain(Operation.DROPOUT, weights, None, rate, keep_prob, None, training, rng, out, return_mask)
    if y is not None:
        return y
    checked_rate = _arguments.rate_of(rate, keep_prob)
    return _prologue.dropped(_prologue.checked({"weights": weights}, (training, rng, out, return_mask)), checked_rate)


@overload
def embedding_dropout(
    table: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[Options]
) -> np.ndarray: ...
@overload
def embedding_dropout(
    table: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[Options]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def embedding_dropout(
    table: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[Options]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def embedding_dropout(
    table: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random rows of an embedding's table to zero and scale the others up: a word drops wherever it stands.

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

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> table = np.ones((5, 2))
    >>> words = [3, 1, 3, 0]
    >>> fastdrop.embedding_dropout(table, 0.5, rng=0)[words]
    array([[2., 2.],
           [0., 0.],
           [2., 2.],
           [0., 0.]])
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    options = training, rng, out, return_mask
    y = _prologue.plain_groups(table, rows, rate, keep_prob, options)
    if y is not None:
        return y
    call = _prologue.checked({"table": table}, options, groups=(rows, checked_rate))
    return _prologue.dropped(call, checked_rate)


def rows(shape: tuple[int, ...]) -> Lengths:
    """The lengths of a mask of (words, features) that drops words as a whole."""
    if len(shape) != 2:
        raise ValueError(f"table must have two dimensions, (words, features), got shape {shape}")
    return _without_axes(shape, (1,))


def _dropout_channels(
    lengths: str,
    x: object,
    rate: object,
    keep_prob: object,
    data_format: object,
    options: _prologue.Given,
    name: str | None = None,
) -> Any:
    """Dropout of whole channels, whose lengths have one letter each; of a layer of that name in batches alone."""
    checked_rate = _arguments.rate_of(rate, keep_prob)
    planes = planes_of(lengths, data_format, name)
    y = _prologue.plain_groups(x, planes, rate, keep_prob, options)
    if y is not None:
        return y
    call = _prologue.checked({"x": x}, options, groups=(planes, checked_rate))
    return _prologue.dropped(call, checked_rate)


def planes_of(lengths: str, data_format: object, name: str | None = None) -> Groups:
    """From a shape to the lengths of a mask that drops channels as a whole. Arguments as for ``_dropout_channels``."""
    channels = _arguments.one_of(data_format, "data_format", (CHANNELS_FIRST, CHANNELS_LAST))

    def planes(shape: tuple[int, ...]) -> Lengths:
        function = name or f"dropout{len(lengths)}d"
        return _without_axes(shape, plane_axes(shape, lengths, channels, function, takes_one=name is None))

    return planes


def plane_axes(
    shape: tuple[int, ...],
    lengths: str,
    channels: str,
    name: str,
    *,
    takes_one: bool = True,
    subject: str = "x must have shape",
) -> range:
    """The axes of one channel, whose lengths have one letter each, in a batch, or in one sample where that is taken.

    It is a ValueError if the shape is neither, which says the name of the function.
    """
    sample = "C" + lengths if channels == CHANNELS_FIRST else lengths + "C"
    if len(shape) - len(sample) not in ((0, 1) if takes_one else (1,)):
        alone = f" or ({', '.join(sample)})" if takes_one else ""
        raise ValueError(f"{subject} (N, {', '.join(sample)}){alone} in {name} with {channels}, got {shape}")
    first = len(shape) - len(sample) + sample.index(lengths)
    return range(first, first + len(lengths))


def spatial_dropout(lengths: str) -> Callable[..., Any]:
    """What Keras's layer SpatialDropout1D, 2D or 3D does: channels are last by default, and x is a batch."""

    def function(
        x: npt.ArrayLike,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        data_format: DataFormat = CHANNELS_LAST,
        training: bool = True,
        rng: RNG = None,
        out: np.ndarray | None = None,
        return_mask: bool = False,
    ) -> Any:
        name = f"SpatialDropout{len(lengths)}D"
        return _dropout_channels(lengths, x, rate, keep_prob, data_format, (training, rng, out, return_mask), name)

    return function
