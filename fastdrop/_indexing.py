# SPDX-License-Identifier: BSD-3-Clause
"""What may stand in a mask's brackets, and the part of the mask that it means."""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any, SupportsIndex, TypeAlias

from fastdrop import _arguments

Index: TypeAlias = SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType | None, ...] | None


def part(
    index: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset of the part at an index, for slices, ints, None and an Ellipsis."""
    new_shape: list[int] = []
    new_strides: list[int | None] = []
    axes = zip(shape, strides, strict=True)
    for at in _expanded(index, shape):
        if at is None:
            new_shape.append(1)
            new_strides.append(None)
            continue
        length, stride = next(axes)
        first, n, step = _range(at, length)
        offset += first * stride
        if n is not None:
            new_shape.append(n)
            new_strides.append(stride * step)
    return tuple(new_shape), _filled(new_shape, new_strides), offset


def _filled(shape: list[int], strides: list[int | None]) -> tuple[int, ...]:
    """Strides of new axes: any would do, and these make of a whole mask another whole one."""
    filled: list[int] = []
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        filled.append(step if stride is None else stride)
        step = filled[-1] * max(length, 1)
    return tuple(reversed(filled))


def axes_of(axes: tuple[Any, ...], ndim: int) -> tuple[int, ...]:
    """The axes of a mask in a new order, as ``transpose`` takes them: each by itself, or all in a sequence, or none."""
    given = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))) else axes
    if given is None or (given == () and len(axes) == 0):
        return tuple(reversed(range(ndim)))
    if not all(_arguments.is_index(axis) for axis in given):
        raise TypeError(f"axes must be ints, got {axes!r}")
    order = tuple(operator.index(axis) for axis in given)
    if sorted(axis + ndim * (axis < 0) for axis in order) != list(range(ndim)):
        raise ValueError(f"axes must be each of the {ndim} axes of the mask once, got {order}")
    return tuple(axis % ndim for axis in order)


def _expanded(index: Any, shape: tuple[int, ...]) -> list[Any]:
    """One index for each dimension, and None for each new one."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise ValueError(f"a mask's index can have one Ellipsis, got {index!r}")
    missing = len(shape) - sum(part is not None for part in parts) + len(dots)
    if missing < 0:
        raise ValueError(f"a mask of shape {shape} takes at most {len(shape)} indices, got {index!r}")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * missing + parts[at + len(dots) :]


def _range(at: Any, length: int) -> tuple[int, int | None, int]:
    """First element, number of them and step; no number for an int, which takes its dimension away."""
    if isinstance(at, slice):
        try:
            start, stop, step = (None if n is None else operator.index(n) for n in (at.start, at.stop, at.step))
        except TypeError:
            raise TypeError(f"a mask's slice must have ints as bounds and step, got {at}") from None
        if step == 0:
            raise ValueError(f"a mask's slice cannot have a step of 0, got {at}")
        if any(bound is not None and not -length <= bound <= length for bound in (start, stop)):
            raise ValueError(f"a mask's slice must stay within its dimension of length {length}, got {at}")
        elements = range(length)[slice(start, stop, step)]
        n = len(elements)
        if elements.step < 0 and n == 0:
            return 0, 0, 1
        return elements.start, n, elements.step if n > 1 else 1
    if not _arguments.is_index(at):
        raise TypeError(f"a mask takes slices, ints, None and an Ellipsis as indices, got {at!r}")
    first = operator.index(at)
    if not -length <= first < length:
        raise ValueError(f"a mask's index must be within its dimension of length {length}, got {first}")
    return first % length, None, 1
