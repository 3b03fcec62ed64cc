# SPDX-License-Identifier: BSD-3-Clause
"""What may stand in a mask's brackets, and the part of the mask that it means."""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any, SupportsIndex, TypeAlias

from fastdrop import _arguments

Index: TypeAlias = SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType, ...]


def part(
    index: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset of the part at an index, for slices without steps, ints and an Ellipsis."""
    new_shape, new_strides = [], []
    for at, length, stride in zip(_expanded(index, shape), shape, strides, strict=True):
        first, n = _range(at, length)
        offset += first * stride
        if n is not None:
            new_shape.append(n)
            new_strides.append(stride)
    return tuple(new_shape), tuple(new_strides), offset


def _expanded(index: Any, shape: tuple[int, ...]) -> list[Any]:
    """One index for each dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise ValueError(f"a mask's index can have one Ellipsis, got {index!r}")
    missing = len(shape) - (len(parts) - len(dots))
    if missing < 0:
        raise ValueError(f"a mask of shape {shape} takes at most {len(shape)} indices, got {index!r}")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * missing + parts[at + len(dots) :]


def _range(at: Any, length: int) -> tuple[int, int | None]:
    """First element and number of them; no number for an int, which takes its dimension away."""
    if isinstance(at, slice):
        try:
            start, stop, step = (None if n is None else operator.index(n) for n in (at.start, at.stop, at.step))
        except TypeError:
            raise TypeError(f"a mask's slice must have ints as bounds, got {at}") from None
        if step not in (None, 1):
            raise ValueError(f"a mask can be sliced without steps only, got {at}")
        if any(bound is not None and not -length <= bound <= length for bound in (start, stop)):
            raise ValueError(f"a mask's slice must stay within its dimension of length {length}, got {at}")
        first, last, _ = slice(start, stop).indices(length)
        return first, max(last - first, 0)
    if not _arguments.is_index(at):
        raise TypeError(f"a mask takes slices without steps, ints and an Ellipsis as indices, got {at!r}")
    first = operator.index(at)
    if not -length <= first < length:
        raise ValueError(f"a mask's index must be within its dimension of length {length}, got {first}")
    return first % length, None
