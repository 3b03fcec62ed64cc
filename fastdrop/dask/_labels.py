# SPDX-License-Identifier: BSD-3-Clause
"""xarray's objects: the array within, and the same object around another array. xarray is not imported for that."""

from __future__ import annotations

import sys
from typing import Any

from fastdrop.dask import _library


def is_labelled(x: object) -> bool:
    """Whether it is a DataArray or a Variable."""
    xarray = sys.modules.get("xarray")
    if xarray is None or not isinstance(x, (xarray.DataArray, xarray.Variable)):
        return False
    _library.check("xarray", xarray.__version__, _library.OLDEST_XARRAY)
    return True


def is_dataset(x: object) -> bool:
    """Whether it holds several arrays."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(x, xarray.Dataset)


def data_of(x: Any) -> Any:
    """The array within, and anything else as it is."""
    return x.data if is_labelled(x) else x


def around(x: Any, y: Any) -> Any:
    """What ``data_of`` was called with, around another array: dimensions, coordinates, attributes and name stay."""
    if not is_labelled(x):
        return y
    labelled = x.copy(deep=False, data=y)
    # How x was packed in a file says nothing of y: it may have been integers there.
    labelled.encoding = {}
    return labelled


def axes_of(x: Any, axes: Any) -> Any:
    """Axes as the core takes them, where some may be the names of dimensions. What is none is left for it to refuse."""
    if not is_labelled(x):
        return axes
    if isinstance(axes, str):
        return _axis_of(x, axes)
    if isinstance(axes, (list, tuple)):
        return tuple(_axis_of(x, axis) for axis in axes)
    return axes


def _axis_of(x: Any, axis: Any) -> Any:
    if not isinstance(axis, str):
        return axis
    if axis not in x.dims:
        raise ValueError(f"shared_axes must name dimensions of x, {x.dims}, got {axis!r}")
    return x.dims.index(axis)
