# SPDX-License-Identifier: BSD-3-Clause
"""Masks that are there, applied to Dask's arrays: the forward pass again, and the backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdrop._masks import DropoutMask, GaussianMask
from fastdrop.dask import _chunks
from fastdrop.dask._chunks import Mask


def apply(mask: Mask, x: Any) -> Any:
    """``mask.apply(x)``, lazily: the forward pass again.

    Parameters
    ----------
    mask : DropoutMask, AlphaMask or GaussianMask
        Of any origin.
    x : dask.array.Array of float16, bfloat16, float32 or float64, xarray.DataArray or Variable
        Of the mask's shape, in any chunks.

    Returns
    -------
    dask.array.Array, or what x is
        In x's chunks; x itself where the mask changes nothing.

    Examples
    --------
    >>> import dask.array as da, fastdrop.dask
    >>> mask = fastdrop.DropoutMask((4, 6), 0.5, key=2026)
    >>> fastdrop.dask.apply(mask, da.ones((4, 6), chunks=(2, 3))).compute()[1]
    array([2., 2., 0., 0., 0., 2.])
    """
    _check(mask, x, "x", "apply")
    return _chunks.mapped("apply", _chunks.applied, mask, x)


def backward(mask: Mask, dy: Any) -> Any:
    """``mask.backward(dy)``, lazily: the gradient with respect to x, of the gradient with respect to the result.

    Parameters
    ----------
    mask : DropoutMask, AlphaMask or GaussianMask
        What the forward pass returned.
    dy : dask.array.Array of float16, bfloat16, float32 or float64, xarray.DataArray or Variable
        The gradient with respect to the result, of the mask's shape. Its chunks need not be those of the forward pass.

    Returns
    -------
    dask.array.Array, or what dy is
        In dy's chunks; dy itself where the mask changes nothing, or noise was added.

    Examples
    --------
    >>> import dask.array as da, fastdrop.dask
    >>> x = da.ones((2, 4), chunks=(1, 4))
    >>> y, mask = fastdrop.dask.dropout(x, 0.5, rng=0, return_mask=True)
    >>> fastdrop.dask.backward(mask, da.ones((2, 4), chunks=(2, 1))).compute()
    array([[0., 0., 2., 2.],
           [0., 2., 2., 2.]])
    """
    _check(mask, dy, "dy", "backward")
    if type(mask) is DropoutMask or (isinstance(mask, GaussianMask) and not mask.additive):
        return _chunks.mapped("backward", _chunks.applied, mask, dy)  # which is the same for these
    return dy if isinstance(mask, GaussianMask) else _chunks.mapped("backward", _backward, mask, dy)


def _check(mask: object, x: object, name: str, function: str) -> None:
    if not isinstance(mask, (DropoutMask, GaussianMask)):
        raise TypeError(f"mask must be a DropoutMask, AlphaMask or GaussianMask, got {type(mask).__name__}")
    mask._checked(_chunks.stand_in(x, name, f"DropoutMask.{function}"), None, name)


def _backward(mask: Mask, dy: Any) -> np.ndarray:
    return mask.backward(dy)
