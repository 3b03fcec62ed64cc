# SPDX-License-Identifier: BSD-3-Clause
"""Dropout together with what stands beside it: the functions that end as more than their mask applied.

Of xarray's objects they take none: two of them may have other coordinates, or the same dimensions in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from fastdrop import _arguments, _fused
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._kernels import Operation
from fastdrop._masks import DropoutMask
from fastdrop._streams import RNG
from fastdrop.dask import _chunks
from fastdrop.dask._masks import backward

if TYPE_CHECKING:
    import dask.array as da
    import numpy.typing as npt

Lazy: TypeAlias = "da.Array"
Beside: TypeAlias = Union["da.Array", "npt.NDArray[Any]"]


def dropout_add(
    x: Lazy,
    residual: Beside,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """``residual + dropout(x)``: ``fastdrop.dropout_add``, lazily.

    Parameters
    ----------
    x : dask.array.Array of float16, bfloat16, float32 or float64
        Any shape and chunks, of known sizes.
    residual : dask.array.Array or ndarray, of x's shape and dtype
        What the result of the dropout is added to. It is brought into x's chunks.
    rate, keep_prob, training, rng, return_mask
        As for ``dropout``. When not training the result is ``residual + x``.

    Returns
    -------
    y : dask.array.Array
        Of x's shape, dtype and chunks; rounded once to the dtype.
    mask : DropoutMask
        Only with ``return_mask``. ``fastdrop.dask.dropout_add_backward(dy, mask)`` is the backward pass.

    Examples
    --------
    >>> import dask.array as da, fastdrop.dask
    >>> x = da.ones((2, 3), chunks=2)
    >>> fastdrop.dask.dropout_add(x, 10 * x, 0.5, rng=0).compute()
    array([[10., 10., 12.],
           [12., 10., 12.]])
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    arrays = {"x": x, "residual": residual}
    call = _chunks.checked("dropout_add", arrays, (training, rng, return_mask), takes_labels=False)
    masks = _chunks.masks_of(call, checked_rate)
    return _chunks.dropped("dropout_add", _dropout_add, call, (x, residual), *masks)


def dropout_add_backward(dy: Lazy, mask: DropoutMask) -> tuple[Any, Any]:
    """The backward pass of ``dropout_add``.

    Parameters
    ----------
    dy : dask.array.Array
        The gradient with respect to the result, in any chunks.
    mask : DropoutMask
        What the forward pass returned.

    Returns
    -------
    dx, dresidual : dask.array.Array
        The second is dy itself, and so is the first where nothing was dropped.
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    return backward(mask, dy), dy


def bias_dropout_add(
    x: Lazy,
    bias: Beside,
    residual: Beside,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """``residual + dropout(x + bias)``: ``fastdrop.bias_dropout_add``, lazily.

    Parameters
    ----------
    x : dask.array.Array of float16, bfloat16, float32 or float64, shape (..., features)
        In any chunks, of known sizes.
    bias : dask.array.Array or ndarray of x's dtype, shape (features,)
        Added along the last dimension.
    residual, rate, keep_prob, training, rng, return_mask
        As for ``dropout_add``. When not training the result is ``residual + (x + bias)``.

    Returns
    -------
    y, mask
        As for ``dropout_add``. ``fastdrop.dask.bias_dropout_add_backward(dy, mask)`` is the backward pass.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    bias_there = bias if isinstance(bias, np.ndarray) else _stand_in(bias, "bias", "bias_dropout_add")
    arrays = {"x": x, "residual": residual}
    options = training, rng, return_mask
    call = _chunks.checked("bias_dropout_add", arrays, options, takes_labels=False, bias=(bias_there,))
    masks = _chunks.masks_of(call, checked_rate)
    return _chunks.dropped("bias_dropout_add", _bias_dropout_add, call, (x, residual, bias), *masks)


def bias_dropout_add_backward(dy: Lazy, mask: DropoutMask) -> tuple[Any, Any, Any]:
    """The backward pass of ``bias_dropout_add``.

    Parameters
    ----------
    dy, mask
        As for ``dropout_add_backward``.

    Returns
    -------
    dx, dbias, dresidual : dask.array.Array
        The second has the shape (features,) and is summed in float32, or in float64 for float64, in an order that goes
        by the chunks: to the last bits it is theirs. The third is dy itself, and so is the first where nothing was
        dropped.
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    dx = backward(mask, dy)
    if dx.ndim == 0:
        raise ValueError("dy must have features along its last dimension, got an array of no dimension")
    wide = np.float64 if dx.dtype == np.float64 else np.float32
    return dx, dx.sum(axis=tuple(range(dx.ndim - 1)), dtype=wide).astype(dx.dtype), dy


def relu_dropout(
    x: Lazy,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """``dropout(relu(x))``: ``fastdrop.relu_dropout``, lazily.

    Parameters
    ----------
    x : dask.array.Array of float16, bfloat16, float32 or float64
        Any shape and chunks, of known sizes.
    rate, keep_prob, training, rng, return_mask
        As for ``dropout``. When not training the result is ``relu(x)``.

    Returns
    -------
    y : dask.array.Array
        Of x's shape, dtype and chunks.
    mask : DropoutMask
        Only with ``return_mask``. ``fastdrop.dask.relu_dropout_backward(dy, y, mask)`` is the backward pass.
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    call = _chunks.checked("relu_dropout", {"x": x}, (training, rng, return_mask), takes_labels=False)
    return _chunks.dropped("relu_dropout", _relu_dropout, call, (x,), *_chunks.masks_of(call, checked_rate))


def relu_dropout_backward(dy: Lazy, y: Beside, mask: DropoutMask) -> Any:
    """The backward pass of ``relu_dropout``.

    Parameters
    ----------
    dy : dask.array.Array
        The gradient with respect to the result, in any chunks.
    y : dask.array.Array or ndarray, of dy's shape and dtype
        The result of the forward pass. It is brought into dy's chunks.
    mask : DropoutMask
        What the forward pass returned, for its scale.

    Returns
    -------
    dx : dask.array.Array
        Of dy's shape, dtype and chunks.
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    gradient, _ = mask._checked(_stand_in(dy, "dy", "relu_dropout_backward"), None, "dy")
    result = y if isinstance(y, np.ndarray) else _stand_in(y, "y", "relu_dropout_backward")
    _arguments.same_kind(result, gradient, "y", "dy")
    return _chunks.mapped("relu_dropout_backward", _relu_dropout_backward, mask, dy, y)


def zoneout(
    new: Lazy,
    old: Beside,
    rate: Number = DEFAULT_RATE,
    *,
    keep_prob: Number | None = None,
    mask: DropoutMask | None = None,
    training: bool = True,
    rng: RNG = None,
    return_mask: bool = False,
) -> Any:
    """Leave random elements of a recurrent state as they were: ``fastdrop.zoneout``, lazily.

    Parameters
    ----------
    new : dask.array.Array of float16, bfloat16, float32 or float64
        The state after a step, in any chunks, of known sizes.
    old : dask.array.Array or ndarray, of the shape and dtype of ``new``
        The state before it. It is brought into the chunks of ``new``.
    rate, mask, keep_prob, training, rng, return_mask
        As for ``fastdrop.zoneout``.

    Returns
    -------
    y : dask.array.Array
        ``new`` where kept, ``old`` where dropped.
    mask : DropoutMask
        Only with ``return_mask``. ``fastdrop.dask.zoneout_backward(dy, mask)`` is the backward pass.
    """
    if mask is not None:
        _arguments.of_type(mask, "mask", DropoutMask)
        if not isinstance(rate, _arguments.UnsetRate) or keep_prob is not None or rng is not None:
            raise ValueError("give a mask, or rate, keep_prob and rng to draw one, not both")
    checked_rate = _arguments.rate_of(rate, keep_prob) if mask is None else Rate(mask.rate, mask.keep_prob)
    arrays = {"new": new, "old": old}
    call = _chunks.checked("zoneout", arrays, (training, rng, return_mask), takes_labels=False)
    if mask is not None and mask.shape != call.shape:
        raise ValueError(f"mask must have the shape of new, {call.shape}, got {mask.shape}")
    if not call.training:
        at_the_rate = DropoutMask._made(call.shape, None, 0, 0, 0, *checked_rate, 1.0)
        y = _chunks.mapped("zoneout", _zoneout_expected, at_the_rate, new, old)
        return (y, _fused._expectation(call.shape, checked_rate)) if call.return_mask else y
    if mask is not None:
        held = mask._unscaled()
        y = _chunks.mapped("zoneout", _zoneout, held, new, old)
        return (y, held) if call.return_mask else y
    masks = _chunks.masks_of(call, checked_rate, scale=1.0)
    return _chunks.dropped("zoneout", _zoneout, call, (new, old), *masks)


def zoneout_backward(dy: Lazy, mask: DropoutMask) -> tuple[Any, Any]:
    """The backward pass of ``zoneout``.

    Parameters
    ----------
    dy, mask
        As for ``dropout_add_backward``.

    Returns
    -------
    dnew, dold : dask.array.Array
    """
    _arguments.of_type(mask, "mask", DropoutMask)
    mask._checked(_stand_in(dy, "dy", "zoneout_backward"), None, "dy")
    dold = _chunks.mapped("zoneout_backward", _zoneout_backward_old, mask, dy)
    return backward(mask, dy), dold


def _stand_in(x: Any, name: str, function: str) -> np.ndarray:
    return _chunks.stand_in(x, name, function, takes_labels=False)


# What is done with a chunk


def _dropout_add(mask: DropoutMask, x: np.ndarray, residual: np.ndarray) -> np.ndarray:
    return mask._applied(Operation.DROPOUT_ADD, *mask._checked(x, None, "x"), residual)


def _bias_dropout_add(mask: DropoutMask, x: np.ndarray, residual: np.ndarray, bias: np.ndarray) -> np.ndarray:
    array, out = mask._checked(x, None, "x")
    return mask._applied(Operation.BIAS_DROPOUT_ADD, array, out, residual, _arguments.repeated_bias(bias, array))


def _relu_dropout(mask: DropoutMask, x: np.ndarray) -> np.ndarray:
    return mask._applied(Operation.RELU_DROPOUT, *mask._checked(x, None, "x"))


def _relu_dropout_backward(mask: DropoutMask, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _fused.relu_dropout_backward(dy, y, mask)


def _zoneout(mask: DropoutMask, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return _fused.zoneout(new, old, mask=mask)


def _zoneout_expected(mask: DropoutMask, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return _fused.zoneout(new, old, mask=mask, training=False)


def _zoneout_backward_old(mask: DropoutMask, dy: np.ndarray) -> np.ndarray:
    return _fused.zoneout_backward(dy, mask)[1]
