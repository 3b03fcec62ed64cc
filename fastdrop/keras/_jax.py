# SPDX-License-Identifier: BSD-3-Clause
"""Keras's JAX backend: the functions of fastdrop.jax, which JAX compiles and differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fastdrop.jax import _functions as client
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
    function = getattr(client, noise.kind.value)
    applied: jax.Array = function(draw(), inputs, noise.amount, noise_shape=lengths)
    return applied
