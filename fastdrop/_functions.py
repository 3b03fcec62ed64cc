# SPDX-License-Identifier: BSD-3-Clause
"""Dropout as a function."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

import fastdrop
from fastdrop import _arguments, _engine, _streams
from fastdrop._masks import DropoutMask, _whole
from fastdrop._streams import RNG


@overload
def dropout(
    x: npt.ArrayLike,
    rate: float = ...,
    *,
    keep_prob: float | None = ...,
    training: bool = ...,
    noise_shape: Any = ...,
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

    The method is inverted dropout: N. Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15 (2014), with the scaling moved from inference to training.

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
    if noise_shape is not None:
        noise_shape = _arguments.noise_lengths(noise_shape, x.shape)
    source = _streams.source(rng)
    if not training:
        y = _engine.copied(x, out)
        return (y, _whole(x.shape, 0.0, 0, 0, None)) if return_mask else y
    y = out if out is not None else _engine.result_for(x) if rate > 0.0 else x
    key, call = source.next_draw()
    mask = _whole(x.shape, rate, key, call, noise_shape) if return_mask or noise_shape is not None else None
    if rate == 0.0:
        y = _engine.copied(x, out)
    else:
        threshold, scale = _engine.threshold_and_scale(rate)
        if noise_shape is None:
            _engine.apply(x, y, key, call, threshold, scale)
        else:
            _engine.apply(x, y, key, call, threshold, scale, *mask.places())
    return (y, mask) if return_mask else y
