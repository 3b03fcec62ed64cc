# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for JAX on the CPU: pure functions of JAX's own keys, for all of JAX's transformations.

>>> import jax, jax.numpy as jnp, fastdrop.jax
>>> key = jax.random.key(0)
>>> y = jax.jit(fastdrop.jax.dropout, static_argnames="rate")(key, jnp.ones((2, 3)), rate=0.5)

They are operations of XLA, by the kernels of fastdrop's core, and their masks are those that fastdrop draws in NumPy:
``fastdrop.jax.mask(key, shape, rate)`` is the ``fastdrop.DropoutMask`` of a key.
"""

from fastdrop.jax import _library as _library  # first, because it says what to install
from fastdrop.jax._functions import alpha_dropout, dropout, gaussian_dropout, gaussian_noise
from fastdrop.jax._keys import key_of, mask

__all__ = ["alpha_dropout", "dropout", "gaussian_dropout", "gaussian_noise", "key_of", "mask"]
