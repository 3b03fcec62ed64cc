# SPDX-License-Identifier: BSD-3-Clause
"""Structures of arrays: tuples, named tuples, lists and dicts in any depth; everything else is a leaf."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any, TypeAlias

Structure: TypeAlias = Any


def parts(structure: Structure) -> list[Structure] | None:
    """What a structure holds, or None for a leaf."""
    if isinstance(structure, dict):
        return [structure[name] for name in sorted(structure)]
    return list(structure) if isinstance(structure, (tuple, list)) else None


def _names(structure: Structure) -> set[object] | None:
    return set(structure) if isinstance(structure, dict) else None


def leaves(structure: Structure) -> list[Any]:
    """All leaves, in the order of the structure, where a dict's keys are sorted."""
    held = parts(structure)
    return [structure] if held is None else [leaf for part in held for leaf in leaves(part)]


def with_leaves(structure: Structure, others: Iterator[Any]) -> Structure:
    """The same structure with other leaves."""
    held = parts(structure)
    if held is None:
        return next(others)
    replaced = [with_leaves(part, others) for part in held]
    if isinstance(structure, dict):
        result = copy.copy(structure)
        result.update(zip(sorted(structure), replaced, strict=True))
        return result
    return structure._make(replaced) if hasattr(structure, "_make") else type(structure)(replaced)


def pairs(structure: Structure, other: Structure, name: str) -> Iterator[tuple[Any, Structure]]:
    """The leaves of a structure, each with what another one has in its place."""
    held = parts(structure)
    if held is None:
        yield structure, other
        return
    matching = parts(other)
    if matching is None or len(matching) != len(held) or _names(structure) != _names(other):
        raise ValueError(f"{name} must have the structure {outline(structure)}, got {outline(other)}")
    for part, match in zip(held, matching, strict=True):
        yield from pairs(part, match, name)


def outline(structure: Structure) -> str:
    """A structure without its leaves, for messages."""
    return repr(with_leaves(structure, itertools.repeat(...))).replace("Ellipsis", "...")
