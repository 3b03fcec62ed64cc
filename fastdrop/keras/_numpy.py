# SPDX-License-Identifier: BSD-3-Clause
"""Keras's NumPy backend, whose tensors are arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdrop.keras import _noise
from fastdrop.keras._noise import Noise

SUPPORTS_JIT = True  # there is nothing to compile
SEEDS = range(1 << 32)


def is_ours(inputs: Any) -> bool:
    return isinstance(inputs, (np.ndarray, np.generic))


def applied(
    inputs: np.ndarray, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], np.ndarray]
) -> np.ndarray:
    shape = np.shape(inputs)
    lengths = _noise.lengths_of(noise_shape, shape)
    return noise.mask(shape, _noise.key_of(draw().tolist()), lengths).apply(inputs)
