# SPDX-License-Identifier: BSD-3-Clause
"""Dropout together with what stands beside it in a network, in one pass over memory."""

from __future__ import annotations

import numpy as np

import fastdrop
from fastdrop import _arguments, _engine, _streams
from fastdrop._masks import _whole
from fastdrop._operations import Operation

# Kernels take a bias of at least 32 elements; a longer one is wrapped around less often.
MIN_BIAS = 2048


def dropout_add(
    x, residual, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False
):
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
    """
    return _fused(Operation.DROPOUT_ADD, x, rate, keep_prob, training, rng, out, return_mask, residual=residual)


def dropout_add_backward(dy, mask):
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
        The second is dy itself.
    """
    dy = _arguments.float_array(dy, "dy")
    return mask.backward(dy), dy


def bias_dropout_add(
    x,
    bias,
    residual,
    rate=_arguments.DEFAULT_RATE,
    *,
    keep_prob=None,
    training=True,
    rng=None,
    out=None,
    return_mask=False,
):
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
    """
    return _fused(
        Operation.BIAS_DROPOUT_ADD, x, rate, keep_prob, training, rng, out, return_mask, residual=residual, bias=bias
    )


def bias_dropout_add_backward(dy, mask):
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
        itself.
    """
    dy = _arguments.float_array(dy, "dy")
    if dy.ndim == 0:
        raise ValueError("dy must have features along its last dimension, got an array of no dimension")
    dx = mask.backward(dy)
    wide = np.float64 if dy.dtype.type is np.float64 else np.float32
    dbias = dx.reshape(-1, dx.shape[-1]).sum(axis=0, dtype=wide).astype(dx.dtype, copy=False)
    return dx, dbias, dy


def relu_dropout(
    x, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False
):
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
    """
    return _fused(Operation.RELU_DROPOUT, x, rate, keep_prob, training, rng, out, return_mask)


def relu_dropout_backward(dy, y, mask, out=None):
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
    """
    dy = _checked(dy, out, "dy")
    y = _arguments.alike(y, dy, "y", "dy")
    if dy.shape != mask.shape:
        raise ValueError(f"dy must have the shape of the mask, {mask.shape}, got {dy.shape}")
    dx = _engine.result_for(dy) if out is None else out
    _engine.apply(dy, dx, 0, 0, 0, mask.scale, terms={"op": Operation.RELU_BACKWARD, "other": y})
    return dx


def zoneout(
    new, old, rate=_arguments.DEFAULT_RATE, *, keep_prob=None, training=True, rng=None, out=None, return_mask=False
):
    """Leave random elements of a recurrent state as they were.

    Parameters
    ----------
    new, old : array_like of float16, bfloat16, float32 or float64, of the same shape and dtype
        The state after and before a step.
    rate : float
        The probability that an element stays as it was.
    keep_prob, training, rng, out
        As for ``dropout``. When not training the result is what training expects: ``keep_prob * new + rate * old``.
    return_mask : bool
        Return the mask too. ``zoneout_backward(dy, mask)`` is the backward pass.

    Returns
    -------
    y : ndarray
        ``new`` where kept, ``old`` where dropped.
    mask : DropoutMask
        Only with ``return_mask``.

    References
    ----------
    D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    """
    rate = _arguments.rate_of(rate, keep_prob)
    new = _checked(new, out, "new")
    old = _arguments.alike(old, new, "old", "new")
    source = _streams.source(rng)
    y = _engine.result_for(new) if out is None else out
    if training:
        mask = _whole(new.shape, rate, *source.next_draw(), None, 1.0)
        _engine.apply(new, y, *mask._draw(), mask.threshold, 1.0, terms={"op": Operation.ZONEOUT, "other": old})
    else:
        mask = _whole(new.shape, 0.0, 0, 0, None, 1.0 - rate)
        before = _engine.result_for(old)
        _engine.apply(old, before, 0, 0, 0, rate)
        _engine.apply(new, y, 0, 0, 0, 1.0 - rate, terms={"op": Operation.DROPOUT_ADD, "other": before})
    return (y, mask) if return_mask else y


def zoneout_backward(dy, mask):
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
    """
    dy = _arguments.float_array(dy, "dy")
    dnew = mask.backward(dy)
    dold = _engine.result_for(dy)
    if mask.scale == 1.0:
        zeros = np.zeros(dy.shape, dy.dtype)
        terms = {"op": Operation.ZONEOUT, "other": dy}
        _engine.apply(zeros, dold, *mask._draw(), mask.threshold, 1.0, *mask.places(), terms)
    else:
        _engine.apply(dy, dold, 0, 0, 0, 1.0 - mask.scale)
    return dnew, dold


def _fused(op, x, rate, keep_prob, training, rng, out, return_mask, residual=None, bias=None):
    rate = _arguments.rate_of(rate, keep_prob)
    x = _checked(x, out, "x")
    terms = {"op": op}
    if residual is not None:
        terms["other"] = _arguments.alike(residual, x, "residual", "x")
    if bias is not None:
        terms["bias"] = _repeated_bias(bias, x)
    source = _streams.source(rng)
    y = _engine.result_for(x) if out is None else out
    key, call = source.next_draw() if training else (0, 0)
    if not training:
        rate = 0.0
    threshold, scale = _engine.threshold_and_scale(rate)
    _engine.apply(x, y, key, call, threshold, scale, terms=terms)
    return (y, _whole(x.shape, rate, key, call, None)) if return_mask else y


def _checked(x, out, name):
    if not fastdrop._kernels.are_plain(x, out):
        x = _arguments.float_array(x, name)
        if out is not None:
            _arguments.output(out, x, name)
    return x


def _repeated_bias(bias, x):
    """The bias in memory of its own, as often as makes it long enough."""
    bias = _arguments.float_array(bias, "bias")
    if bias.dtype.newbyteorder("=") != x.dtype.newbyteorder("="):
        raise TypeError(f"bias must have the dtype of x, {x.dtype}, got {bias.dtype}")
    if x.ndim == 0 or bias.shape != x.shape[-1:]:
        raise ValueError(f"bias must have the shape of x's last dimension, {x.shape[-1:]}, got {bias.shape}")
    times = -(-MIN_BIAS // max(len(bias), 1))
    return np.tile(bias.astype(bias.dtype.newbyteorder("="), copy=False), times)
