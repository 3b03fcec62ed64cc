# SPDX-License-Identifier: BSD-3-Clause
"""What is done with the elements of a tensor, and the mask that does it on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from fastdrop import _arguments
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask

Lengths: TypeAlias = tuple[int, ...] | None
Mask: TypeAlias = DropoutMask | GaussianMask

WORD = 1 << 32


class Noise(NamedTuple):
    """A kind of noise and how much of it: a rate, or the standard deviation of normal noise."""

    kind: type[DropoutMask] | type[GaussianMask]
    amount: float
    is_added: bool = False

    def mask(self, shape: tuple[int, ...], key: int, lengths: Lengths) -> Mask:
        """The mask of a tensor, drawn in these lengths and then broadcast; None means the tensor's own."""
        if issubclass(self.kind, DropoutMask):
            return self.kind(shape, self.amount, key=key, noise_shape=lengths)
        return self.kind(shape, self.amount, key=key, noise_shape=lengths, additive=self.is_added)


def key_of(words: Sequence[int]) -> int:
    """The key of a mask, for the state of a SeedGenerator: the seed, and how many masks it has given before.

    Backends hold these words in integers of different kinds, whose lower 32 bits count.
    """
    first, second = words
    return int(first) % WORD + int(second) % WORD * WORD


def lengths_of(noise_shape: Sequence[Any] | None, shape: tuple[int, ...]) -> Lengths:
    """The shape in which a mask is drawn, None where that is the tensor's own.

    As in Keras, None stands for the tensor's length at the same place, counted from the left, also where there are
    fewer lengths than dimensions.
    """
    if noise_shape is None:
        return None
    if len(noise_shape) > len(shape):
        return _arguments.noise_lengths(noise_shape, shape)  # which is an error
    filled = tuple(shape[i] if length is None else length for i, length in enumerate(noise_shape))
    return _arguments.noise_lengths(filled, shape)
