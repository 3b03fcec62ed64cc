# SPDX-License-Identifier: BSD-3-Clause
"""From JAX's keys to those of masks.

Two words w, as threefry has them, are the key ``w[0] + 2**32 * w[1]`` of a mask, whose call is 0. Four words, as rbg
has them, are ``fastdrop.fold_in(w[0] + 2**32 * w[1], w[2] + 2**32 * w[3])``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fastdrop import _arguments, _streams
from fastdrop._arguments import DEFAULT_RATE, Number
from fastdrop._masks import DropoutMask
from fastdrop._streams import RNG

_WHAT_KEYS_ARE = "key must be one key of JAX: of jax.random.key(seed), or a uint32 array of 2 or 4 words"


def words_of(key: Any) -> Array:
    """The words of one key, 2 or 4, which may be traced."""
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"{_WHAT_KEYS_ARE}, got {_arguments._described(key)}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"{_WHAT_KEYS_ARE}, got keys of shape {key.shape}: use jax.vmap for a batch of them")
        words = jax.random.key_data(key)
        if words.shape not in ((2,), (4,)):
            raise TypeError(f"{_WHAT_KEYS_ARE}, got one of {jax.random.key_impl(key)}, which has shape {words.shape}")
        return words
    if key.dtype != np.uint32:
        raise TypeError(f"{_WHAT_KEYS_ARE}, got an array of dtype {key.dtype}")
    if key.shape not in ((2,), (4,)):
        advice = ": use jax.vmap for a batch of them" if key.ndim > 1 else ""
        raise ValueError(f"{_WHAT_KEYS_ARE}, got shape {key.shape}{advice}")
    return key if isinstance(key, jax.Array) else jnp.asarray(key)


def mask(
    key: Any,
    shape: SupportsIndex | Sequence[SupportsIndex],
    rate: Number = DEFAULT_RATE,
    *,
    noise_shape: Sequence[SupportsIndex | None] | None = None,
) -> DropoutMask:
    """The mask that ``dropout`` draws by a key, for NumPy: what was kept, for a look or another library.

    Parameters
    ----------
    key : key of JAX
        Not traced: outside of ``jax.jit`` and other transformations.
    shape : int or sequence of int
        That of x.
    rate, noise_shape
        As for ``dropout``.

    Returns
    -------
    fastdrop.DropoutMask
        ``numpy.asarray(mask)`` is True where an element is kept.

    Examples
    --------
    >>> import jax, numpy as np, fastdrop.jax
    >>> np.asarray(fastdrop.jax.mask(jax.random.key(0), 8, 0.25)).astype(int)
    array([1, 0, 1, 0, 1, 1, 1, 1])
    """
    words = words_of(key)
    if isinstance(words, jax.core.Tracer):
        raise TypeError("key must be known where its mask is asked for, got one that is traced: call it outside of jit")
    first, *others = [int(low) + (int(high) << 32) for low, high in np.asarray(words).reshape(-1, 2)]
    return DropoutMask(shape, rate, key=_streams.fold_in(first, *others), noise_shape=noise_shape)


def key_of(rng: RNG) -> Array:
    """A key of JAX from what fastdrop draws by, such as the stream of a pass of ``fastdrop.mc_predict``.

    Parameters
    ----------
    rng : any that ``fastdrop.dropout`` takes
        A stream takes its next call number.

    Returns
    -------
    Array of uint32, shape (2,)
        The words of ``fastdrop.fold_in(key, call)``: a raw key, also for ``jax.random``.

    Examples
    --------
    >>> import fastdrop, fastdrop.jax
    >>> fastdrop.jax.key_of(7).tolist()
    [4231949813, 1192845040]
    """
    key = _streams.fold_in(*_streams.source(rng).next_draw())
    return jnp.array([key & 0xFFFFFFFF, key >> 32], jnp.uint32)
