# SPDX-License-Identifier: BSD-3-Clause
"""The public functions, whose arguments are looked at before anything is traced."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from fastdrop import _arguments, _geometry, _threads
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._kernels import Operation
from fastdrop._masks import alpha_numbers
from fastdrop.jax import _keys, _shards
from fastdrop.jax._primitive import primitive

NoiseShape = Iterable[SupportsIndex | None] | None


def dropout(
    key: Any,
    x: Any,
    rate: Number = DEFAULT_RATE,
    *,
    noise_shape: NoiseShape = None,
    training: bool = True,
    spec: PartitionSpec | None = None,
) -> Array:
    """Set random elements to zero and divide the others by ``1 - rate``.

    Parameters
    ----------
    key : key of JAX
        Typed, as from ``jax.random.key``, or raw, as from ``jax.random.PRNGKey``: 2 or 4 words. The same key gives the
        same mask: use one for each call, by ``jax.random.split`` or ``fold_in``.
    x : array of float16, bfloat16, float32 or float64
        Of any shape, on the CPU.
    rate : float
        The probability to drop, from 0 to 1. It is part of what is compiled, and so not traced.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast. Each length is 1 (one decision along this dimension) or
        that of x, which None stands for; lengths that are missing on the left are 1.
    training : bool
        Otherwise x is returned.
    spec : jax.sharding.PartitionSpec, optional
        Within ``jax.shard_map``: how x is a block of a whole, as in ``in_specs``. Each block then takes its part of the
        one mask of the whole. Without it x is a whole for itself, and blocks that have the same key the same mask.

    Returns
    -------
    Array
        Of the shape and dtype of x. It is x itself at rate 0, and where not training.

    Raises
    ------
    TypeError, ValueError
        That name the argument; nothing has been drawn.

    See Also
    --------
    mask : The same mask for NumPy.

    Notes
    -----
    It is linear in x, and differentiable any number of times in both modes. What is kept for the backward pass is the
    key. What is dropped is 0, also where x is infinite or no number.

    Under ``jax.vmap`` one key for all is one mask for all, and a batch of keys is a mask for each.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastdrop.jax
    >>> fastdrop.jax.dropout(jax.random.key(0), jnp.ones(8), 0.25)
    Array([0., 0., 0., 0., 0., 0., 0., 0.], dtype=float32)
    """
    checked = _rate(rate)
    array, place = _checked(key, x, noise_shape, training, spec)
    if place is None or checked.rate == 0.0:
        return array
    return _applied(Operation.DROPOUT, array, place, (checked.scale, 0.0, 0.0), checked.threshold)


def alpha_dropout(
    key: Any,
    x: Any,
    rate: Number = DEFAULT_RATE,
    *,
    noise_shape: NoiseShape = None,
    training: bool = True,
    spec: PartitionSpec | None = None,
) -> Array:
    """Set random elements to SELU's lower limit, then shift and scale all, so that mean 0 and variance 1 stay.

    Parameters
    ----------
    key, x, rate, noise_shape, training, spec
        As for ``dropout``. At rate 1 the result is zero.

    Returns
    -------
    Array
        Of the shape and dtype of x. It is x itself at rate 0, and where not training.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NIPS 2017.
    """
    checked = _rate(rate)
    array, place = _checked(key, x, noise_shape, training, spec)
    if place is None or checked.rate == 0.0:
        return array
    return _applied(Operation.ALPHA_DROPOUT, array, place, alpha_numbers(*checked), checked.threshold)


def gaussian_dropout(
    key: Any,
    x: Any,
    rate: Number = DEFAULT_RATE,
    *,
    noise_shape: NoiseShape = None,
    training: bool = True,
    spec: PartitionSpec | None = None,
) -> Array:
    """Multiply elements by normal numbers of mean 1 and variance ``rate / (1 - rate)``, which is that of dropout.

    Parameters
    ----------
    key, x, noise_shape, training, spec
        As for ``dropout``.
    rate : float
        From 0 to less than 1.

    Returns
    -------
    Array
        Of the shape and dtype of x. It is x itself at rate 0, and where not training.

    References
    ----------
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014), section
    10.
    """
    dropped, kept = _rate(rate)
    if dropped == 1.0:
        raise ValueError(
            f"rate must be below 1 for gaussian_dropout, whose variance is rate / (1 - rate), got {rate!r}"
        )
    array, place = _checked(key, x, noise_shape, training, spec)
    if place is None or dropped == 0.0:
        return array
    return _applied(Operation.GAUSSIAN_DROPOUT, array, place, (math.sqrt(dropped / kept), 0.0, 0.0))


def gaussian_noise(
    key: Any,
    x: Any,
    stddev: Number,
    *,
    noise_shape: NoiseShape = None,
    training: bool = True,
    spec: PartitionSpec | None = None,
) -> Array:
    """Add normal numbers of mean 0 to elements.

    Parameters
    ----------
    key, x, noise_shape, training, spec
        As for ``dropout``.
    stddev : float
        The standard deviation of the noise, at least 0, in the unit of x.

    Returns
    -------
    Array
        Of the shape and dtype of x. It is x itself with a standard deviation of 0, and where not training.
    """
    deviation = _arguments.standard_deviation(_static(stddev, "stddev"))
    array, place = _checked(key, x, noise_shape, training, spec)
    if place is None or deviation == 0.0:
        return array
    return _applied(Operation.GAUSSIAN_NOISE, array, place, (deviation, 0.0, 0.0))


# What is looked at


def _static(number: Any, name: str) -> Any:
    """A number that is known while JAX traces, as NumPy has it."""
    if isinstance(number, jax.core.Tracer):
        raise TypeError(
            f"{name} must be a number that is known while JAX traces, got a traced value: name it in static_argnames "
            "of jax.jit, or take it from around the function"
        )
    return np.asarray(number) if isinstance(number, jax.Array) else number


def _rate(rate: Any) -> Rate:
    return _arguments.rate_of(_static(rate, "rate"))


class _Place(NamedTuple):
    """Where a mask is drawn from."""

    words: Array
    strides: tuple[int, ...]
    shards: _shards.Shards


def _checked(key: Any, x: Any, noise_shape: Any, training: Any, spec: Any) -> tuple[Array, _Place | None]:
    """x as an array, and where its mask is; None where there is nothing to be done."""
    array = _float_array(x)
    is_training = _arguments.flag(training, "training")
    shards = _shards.of(spec, array.shape)
    noise = _shards.noise_lengths(noise_shape, array.shape, shards.whole)
    words = _keys.words_of(key)
    if not is_training or array.size == 0:
        return array, None
    strides = _geometry.strides_of(shards.whole, noise)
    return array, _Place(words, strides, shards)


def _float_array(x: Any) -> Array:
    if not isinstance(x, (jax.Array, np.ndarray, np.generic, float)):
        raise TypeError(f"x must be an array of {_arguments.FLOATS}, got {_arguments._described(x)}")
    array = jnp.asarray(x)
    if array.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64):
        raise TypeError(f"x must be an array of {_arguments.FLOATS}, got dtype {array.dtype}")
    if not all(isinstance(length, int) for length in array.shape):
        raise TypeError(f"x must have a shape that is known while JAX traces, got {array.shape}")
    return array


def _applied(op: Operation, x: Array, place: _Place, numbers: tuple[float, float, float], threshold: int = 0) -> Array:
    operands, steps = place.shards.operands(x, place.words, place.strides)
    y: Array = primitive.bind(
        *operands,
        op=int(op),
        threshold=threshold,
        numbers=numbers,
        strides=place.strides,
        steps=steps,
        threads=_threads.entered(),
    )
    return y
