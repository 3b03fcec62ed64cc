# SPDX-License-Identifier: BSD-3-Clause
"""Dropout together with what stands beside it in a network, in one pass over memory."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _engine, _foreign, _prologue
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._backend import Draw, Operands
from fastdrop._functions import Options
from fastdrop._kernels import Operation, bare
from fastdrop._masks import DropoutMask
from fastdrop._streams import RNG


@overload
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[False] = ...,
    **options: Unpack[Options],
) -> np.ndarray: ...
@overload
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[True],
    **options: Unpack[Options],
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: bool,
    **options: Unpack[Options],
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """``residual + dropout(x)``, as it ends the branches of a transformer.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout.
    residual : array_like of x's shape and dtype
        What the result of the dropout is added to.
    rate, keep_prob, training, rng
        As for ``dropout``. When not training the result is ``residual + x``.
    out : ndarray, optional
        Where the result goes: of x's shape, and of a dtype that holds x's values without loss. It may be x or the
        residual.
    return_mask : bool
        Return the mask too. ``dropout_add_backward(dy, mask)`` is the backward pass.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``; rounded once to the dtype.
    mask : DropoutMask
        Only with ``return_mask``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x, residual = np.ones((2, 3)), np.full((2, 3), 10.0)
    >>> y, mask = fastdrop.dropout_add(x, residual, 0.5, rng=0, return_mask=True)
    >>> y
    array([[10., 10., 12.],
           [12., 10., 12.]])
    >>> dx, dresidual = fastdrop.dropout_add_backward(np.ones_like(y), mask)
    """
    y = _prologue.plain(Operation.DROPOUT_ADD, x, residual, rate, keep_prob, None, training, rng, out, return_mask)
    if y is not None:
        return y
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _prologue.checked({"x": x, "residual": residual}, (training, rng, out, return_mask))
    return _prologue.dropped(call, checked_rate, Operation.DROPOUT_ADD)


def dropout_add_backward(dy: npt.ArrayLike, mask: DropoutMask) -> tuple[np.ndarray, np.ndarray]:
    """The backward pass of ``dropout_add``.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the result.
    mask : DropoutMask
        What the forward pass returned.

    Returns
    -------
    dx, dresidual : ndarray
        The second is dy itself, and so is the first where nothing was dropped.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.ones((2, 3))
    >>> y, mask = fastdrop.dropout_add(x, x, 0.5, rng=0, return_mask=True)
    >>> fastdrop.dropout_add_backward(np.ones_like(y), mask)[0]
    array([[0., 0., 2.],
           [2., 0., 2.]])
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    gradient = _own(dy)
    return mask.backward(gradient), gradient


@overload
def bias_dropout_add(
    x: npt.ArrayLike,
    bias: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[False] = ...,
    **options: Unpack[Options],
) -> np.ndarray: ...
@overload
def bias_dropout_add(
    x: npt.ArrayLike,
    bias: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[True],
    **options: Unpack[Options],
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def bias_dropout_add(
    x: npt.ArrayLike,
    bias: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: bool,
    **options: Unpack[Options],
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def bias_dropout_add(
    x: npt.ArrayLike,
    bias: npt.ArrayLike,
    residual: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """``residual + dropout(x + bias)``, as it ends the branches of a transformer.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64, shape (..., features)
        The result of a matrix product.
    bias : array_like of x's dtype, shape (features,)
        Added along the last dimension.
    residual : array_like of x's shape and dtype
        What the result of the dropout is added to.
    rate, keep_prob, training, rng
        As for ``dropout``. When not training the result is ``residual + (x + bias)``.
    out : ndarray, optional
        Where the result goes: of x's shape, and of a dtype that holds x's values without loss. It may be x or the
        residual.
    return_mask : bool
        Return the mask too. ``bias_dropout_add_backward(dy, mask)`` is the backward pass.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``; rounded once to the dtype.
    mask : DropoutMask
        Only with ``return_mask``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x, bias, residual = np.ones((2, 3)), np.arange(3.0), np.full((2, 3), 10.0)
    >>> y, mask = fastdrop.bias_dropout_add(x, bias, residual, 0.5, rng=0, return_mask=True)
    >>> y
    array([[10., 10., 16.],
           [12., 10., 16.]])
    >>> dx, dbias, dresidual = fastdrop.bias_dropout_add_backward(np.ones_like(y), mask)
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _prologue.checked({"x": x, "residual": residual}, (training, rng, out, return_mask), bias=(bias,))
    return _prologue.dropped(call, checked_rate, Operation.BIAS_DROPOUT_ADD)


def bias_dropout_add_backward(dy: npt.ArrayLike, mask: DropoutMask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The backward pass of ``bias_dropout_add``.

    Parameters
    ----------
    dy : array_like, shape (..., features)
        The gradient with respect to the result.
    mask : DropoutMask
        What the forward pass returned.

    Returns
    -------
    dx, dbias, dresidual : ndarray
        The second has the shape (features,) and is summed in float32, or in float64 for float64. The third is dy
        itself, and so is the first where nothing was dropped.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.ones((4, 3))
    >>> y, mask = fastdrop.bias_dropout_add(x, np.arange(3.0), x, 0.5, rng=0, return_mask=True)
    >>> fastdrop.bias_dropout_add_backward(np.ones_like(y), mask)[1]
    array([6., 2., 6.])
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    gradient = _own(dy)
    _foreign.refuse_subclass(gradient, "dy must be a plain ndarray", "dy")
    if gradient.ndim == 0:
        raise ValueError("dy must have features along its last dimension, got an array of no dimension")
    dx = mask.backward(gradient)
    array = bare(dx)
    wide = np.float64 if array.dtype.type is np.float64 else np.float32
    rows = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    return dx, rows.sum(axis=0, dtype=wide).astype(array.dtype, copy=False), gradient


@overload
def relu_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[False] = ..., **options: Unpack[Options]
) -> np.ndarray: ...
@overload
def relu_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: Literal[True], **options: Unpack[Options]
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def relu_dropout(
    x: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[Options]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def relu_dropout(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """``dropout(relu(x))``; relu gives +0 where ``x <= 0``, so a NaN stays.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Any shape and memory layout.
    rate, keep_prob, training, rng, out
        As for ``dropout``. When not training the result is ``relu(x)``.
    return_mask : bool
        Return the mask too. ``relu_dropout_backward(dy, y, mask)`` is the backward pass.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``.
    mask : DropoutMask
        Only with ``return_mask``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.array([[-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, 1.0]])
    >>> y, mask = fastdrop.relu_dropout(x, 0.5, rng=0, return_mask=True)
    >>> y
    array([[0., 0., 0., 2.],
           [0., 0., 2., 2.]])
    >>> dx = fastdrop.relu_dropout_backward(np.ones_like(y), y, mask)
    """
    y = _prologue.plain(Operation.RELU_DROPOUT, x, None, rate, keep_prob, None, training, rng, out, return_mask)
    if y is not None:
        return y
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _prologue.checked({"x": x}, (training, rng, out, return_mask))
    return _prologue.dropped(call, checked_rate, Operation.RELU_DROPOUT)


def relu_dropout_backward(
    dy: npt.ArrayLike, y: npt.ArrayLike, mask: DropoutMask, out: np.ndarray | None = None
) -> np.ndarray:
    """The backward pass of ``relu_dropout``.

    Where y is not zero, its element was positive and kept, because scaling up never leads to zero. So nothing is drawn
    again, and nothing is kept that the next layer does not keep anyway.

    Parameters
    ----------
    dy : array_like of float16, bfloat16, float32 or float64
        The gradient with respect to the result.
    y : array_like of dy's shape and dtype
        The result of the forward pass.
    mask : DropoutMask
        What the forward pass returned, for its scale.
    out : ndarray, optional
        Where the result goes; dy for in place.

    Returns
    -------
    dx : ndarray
        Of dy's shape and dtype, or ``out``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> y, mask = fastdrop.relu_dropout(np.array([3.0, 3.0, 0.0, -3.0]), 0.2, rng=2, return_mask=True)
    >>> fastdrop.relu_dropout_backward(np.ones(4), y, mask)
    array([1.25, 0.  , 0.  , 0.  ])
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    gradient, out = mask._checked(dy, out, "dy")
    result = _arguments.same_kind(y, gradient, "y", "dy")
    dx = _engine.result_for(gradient) if out is None else out
    _engine.apply(Operation.RELU_BACKWARD, Operands(gradient, dx, mask.scale, result), Draw())
    return dx


class ZoneoutOptions(Options, total=False):
    """Those of ``zoneout``."""

    mask: DropoutMask | None


@overload
def zoneout(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[False] = ...,
    **options: Unpack[ZoneoutOptions],
) -> np.ndarray: ...
@overload
def zoneout(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    rate: Number = ...,
    *,
    return_mask: Literal[True],
    **options: Unpack[ZoneoutOptions],
) -> tuple[np.ndarray, DropoutMask]: ...
@overload
def zoneout(
    new: npt.ArrayLike, old: npt.ArrayLike, rate: Number = ..., *, return_mask: bool, **options: Unpack[ZoneoutOptions]
) -> np.ndarray | tuple[np.ndarray, DropoutMask]: ...
def zoneout(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    mask: DropoutMask | None = None,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Leave random elements of a recurrent state as they were.

    Parameters
    ----------
    new, old : array_like of float16, bfloat16, float32 or float64, of the same shape and dtype
        The state after and before a step.
    rate : float
        The probability that an element stays as it was.
    mask : DropoutMask, optional
        The mask to use, instead of a rate and a new draw, for example the one of the step before: ``new`` where it
        keeps, ``old`` where it drops, whatever its scale. Its rate is the one that counts when not training.
    keep_prob, training, rng, out
        As for ``dropout``. When not training the result is what training expects: ``keep_prob * new + rate * old``,
        whose second part is rounded to the dtype before the first is added.
    return_mask : bool
        Return the mask too. ``zoneout_backward(dy, mask)`` is the backward pass.

    Returns
    -------
    y : ndarray
        ``new`` where kept, ``old`` where dropped.
    mask : DropoutMask
        Only with ``return_mask``. Its scale is 1.

    References
    ----------
    D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> new, old = np.ones((2, 4)), np.zeros((2, 4))
    >>> y, mask = fastdrop.zoneout(new, old, 0.5, rng=0, return_mask=True)
    >>> y
    array([[0., 0., 1., 1.],
           [0., 1., 1., 1.]])
    >>> dnew, dold = fastdrop.zoneout_backward(np.ones_like(y), mask)
    >>> fastdrop.zoneout(new, old, 0.25, training=False)
    array([[0.75, 0.75, 0.75, 0.75],
           [0.75, 0.75, 0.75, 0.75]])
    """
    if mask is not None:
        _arguments.of_type(mask, "mask", DropoutMask)
        if not isinstance(rate, _arguments.UnsetRate) or keep_prob is not None or rng is not None:
            raise ValueError("give a mask, or rate, keep_prob and rng to draw one, not both")
    checked_rate = _arguments.rate_of(rate, keep_prob) if mask is None else Rate(mask.rate, mask.keep_prob)
    call = _prologue.checked({"new": new, "old": old}, (training, rng, out, return_mask))
    if mask is not None and mask.shape != call.x.shape:
        raise ValueError(f"mask must have the shape of new, {call.x.shape}, got {mask.shape}")
    if mask is not None and call.training:
        held = mask._unscaled()
        y = held._applied(Operation.ZONEOUT, call.x, call.out, call.other)
        return (y, held) if call.return_mask else y
    if call.training:
        return _prologue.dropped(call, checked_rate, Operation.ZONEOUT, scale=1.0)
    assert call.other is not None
    y = call.result()
    if checked_rate.rate in (0.0, 1.0):
        np.copyto(y, call.x if checked_rate.rate == 0.0 else call.other, casting="safe")
    else:
        before = _engine.result_for(call.other)
        _engine.apply(Operation.DROPOUT, Operands(call.other, before, checked_rate.rate), Draw())
        _engine.apply(Operation.DROPOUT_ADD, Operands(call.x, y, checked_rate.keep_prob, before), Draw())
    return (y, _expectation(call.x.shape, checked_rate)) if call.return_mask else y


def _expectation(shape: tuple[int, ...], rate: Rate) -> DropoutMask:
    """The mask of a zoneout outside training, whose backward pass shares the gradient in the same proportion."""
    if rate.rate == 1.0:
        return DropoutMask._made(shape, None, 0, 0, 0, 1.0, 0.0, 1.0)
    return DropoutMask._made(shape, None, 0, 0, 0, 0.0, 1.0, rate.keep_prob)


def zoneout_backward(dy: npt.ArrayLike, mask: DropoutMask) -> tuple[np.ndarray, np.ndarray]:
    """The backward pass of ``zoneout``.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the result.
    mask : DropoutMask
        What the forward pass returned.

    Returns
    -------
    dnew, dold : ndarray

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> new, old = np.ones((2, 3)), np.zeros((2, 3))
    >>> y, mask = fastdrop.zoneout(new, old, 0.5, rng=0, return_mask=True)
    >>> dnew, dold = fastdrop.zoneout_backward(np.ones_like(y), mask)
    >>> dold
    array([[1., 1., 0.],
           [0., 1., 0.]])
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    gradient = _own(dy)
    if mask.scale != 1.0 and mask.rate != 0.0:
        raise ValueError(
            f"mask must be as zoneout returns it, of scale 1 or rate 0, got scale {mask.scale} in {mask!r}"
        )
    dnew = mask.backward(gradient)
    dold = _engine.result_for(gradient)
    if mask.scale == 1.0:
        zeros = np.zeros_like(bare(gradient))
        _engine.apply(Operation.ZONEOUT, Operands(zeros, dold, 1.0, gradient), mask._draw(), mask._index_map())
    else:
        _engine.apply(Operation.DROPOUT, Operands(gradient, dold, 1.0 - mask.scale), Draw())
    return dnew, dold


def _own(dy: npt.ArrayLike) -> np.ndarray:
    """A gradient that may be returned as it is: the array that was given, or a new one."""
    gradient = _arguments.float_array(dy, "dy")
    return gradient if gradient is dy else _engine.copied(gradient, _engine.result_for(gradient))
