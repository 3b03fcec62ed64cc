# SPDX-License-Identifier: BSD-3-Clause
"""What is done with the elements of a tensor, and the mask that does it on any backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from fastdrop import _arguments
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask

Lengths: TypeAlias = tuple[int, ...] | None
Mask: TypeAlias = DropoutMask | GaussianMask

WORD = 1 << 32


class Kind(Enum):
    """What is done, by the name of fastdrop's function for it."""

    DROPOUT = "dropout"
    ALPHA_DROPOUT = "alpha_dropout"
    GAUSSIAN_DROPOUT = "gaussian_dropout"
    GAUSSIAN_NOISE = "gaussian_noise"


class Noise(NamedTuple):
    """A kind of noise and how much of it: a rate, or for what is added the standard deviation."""

    kind: Kind
    amount: float

    @property
    def is_added(self) -> bool:
        """Whether the gradient passes as it is."""
        return self.kind is Kind.GAUSSIAN_NOISE

    def mask(self, shape: tuple[int, ...], key: int, lengths: Lengths) -> Mask:
        """The mask of a tensor, drawn in these lengths and then broadcast; None means the tensor's own."""
        amount = self.amount
        match self.kind:
            case Kind.DROPOUT:
                return DropoutMask(shape, amount, key=key, noise_shape=lengths)
            case Kind.ALPHA_DROPOUT:
                return AlphaMask(shape, amount, key=key, noise_shape=lengths)
            case Kind.GAUSSIAN_DROPOUT:
                return GaussianMask(shape, math.sqrt(amount / (1.0 - amount)), key=key, noise_shape=lengths)
            case Kind.GAUSSIAN_NOISE:
                return GaussianMask(shape, amount, key=key, noise_shape=lengths, additive=True)


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
