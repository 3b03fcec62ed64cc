# SPDX-License-Identifier: BSD-3-Clause
"""Which part of a mask a block of an array takes, where ``jax.shard_map`` has cut the array."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from fastdrop import _arguments

Axes = tuple[str, ...]


class Shards(NamedTuple):
    """A block of a whole, which is cut along some dimensions, each by axes of the mesh."""

    block: tuple[int, ...]
    whole: tuple[int, ...]
    cuts: tuple[tuple[int, Axes], ...]  # (dimension, axes)

    def operands(self, x: Array, words: Array, strides: tuple[int, ...]) -> tuple[tuple[Array, ...], tuple[int, ...]]:
        """The operands of the primitive, and the steps in the stream from one block to the next."""
        # Along a dimension that shares its decisions all blocks have the same.
        cuts = [(dim, axes) for dim, axes in self.cuts if strides[dim] != 0]
        steps = tuple(self.block[dim] * strides[dim] for dim, _ in cuts)
        others = [words]
        if cuts:
            others.append(jnp.stack([jax.lax.axis_index(axes).astype(jnp.int32) for _, axes in cuts]))
        varying = frozenset().union(*map(_varying_axes, others)) - _varying_axes(x)
        return (_varying(x, tuple(sorted(varying))), *others), steps


def of(spec: Any, block: tuple[int, ...]) -> Shards:
    """The place of a block by the spec that cut it from a whole."""
    if spec is None:
        return Shards(block, block, ())
    if not isinstance(spec, PartitionSpec):
        raise TypeError(f"spec must be a jax.sharding.PartitionSpec or None, got {_arguments._described(spec)}")
    if len(spec) > len(block):
        raise ValueError(f"spec must have at most one entry for each of the {len(block)} dimensions of x, got {spec}")
    cuts = tuple((dim, _axes(entry, spec)) for dim, entry in enumerate(spec) if entry not in (None, ()))
    whole = list(block)
    for dim, axes in cuts:
        for axis in axes:
            whole[dim] *= _size(axis, spec)
    return Shards(block, _arguments.mask_shape(whole), cuts)


def noise_lengths(noise_shape: Any, block: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which the mask of a whole is drawn, given in the lengths of a block."""
    pattern = _arguments.noise_pattern(noise_shape)
    if pattern is not None and block != whole:
        behind = zip(reversed(pattern), reversed(block), strict=False)
        lengths = [None if n == own != 1 else n for n, own in behind]
        if len(pattern) <= len(block) and all(n in (None, 1) for n in lengths):
            return _arguments.noise_lengths(lengths[::-1], whole)
    return _arguments.noise_lengths(noise_shape, block)


def _axes(entry: Any, spec: PartitionSpec) -> Axes:
    axes = entry if isinstance(entry, tuple) else (entry,)
    if not all(isinstance(axis, str) for axis in axes):
        raise ValueError(f"spec must hold names of the mesh's axes, tuples of them, or None, got {spec}")
    return axes


def _size(axis: str, spec: PartitionSpec) -> int:
    try:
        return int(jax.lax.axis_size(axis))
    except NameError:
        raise ValueError(
            f"spec must name axes of the mesh that jax.shard_map is given around the call, got {axis!r} in {spec}"
        ) from None


# In shard_map JAX knows of each value along which axes it varies from block to block, and derivatives depend on it.


def _varying_axes(x: Array) -> frozenset[str]:
    kind: Any = jax.typeof(x)
    found: frozenset[str] = kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma
    return found


def _varying(x: Array, axes: Axes) -> Array:
    """x as one that varies along these axes too."""
    if not axes:
        return x
    lax: Any = jax.lax
    cast: Array = lax.pcast(x, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, axes)
    return cast
