# SPDX-License-Identifier: BSD-3-Clause
"""Keras's JAX backend: the functions of fastdrop.jax, which JAX compiles and differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fastdrop import jax as client
from fastdrop._masks import AlphaMask, DropoutMask
from fastdrop.keras import _noise
from fastdrop.keras._noise import Noise

SUPPORTS_JIT = True
SEEDS = range(1 << 32)


def is_ours(inputs: Any) -> bool:
    return isinstance(inputs, jax.Array)


def applied(
    inputs: jax.Array, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], jax.Array]
) -> jax.Array:
    lengths = _noise.lengths_of(noise_shape, inputs.shape)
    if noise.kind is DropoutMask:
        return client.dropout(draw(), inputs, noise.amount, noise_shape=lengths)
    if noise.kind is AlphaMask:
        return client.alpha_dropout(draw(), inputs, noise.amount, noise_shape=lengths)
    if noise.is_added:
        return client.gaussian_noise(draw(), inputs, noise.amount, noise_shape=lengths)
    ...
