# SPDX-License-Identifier: BSD-3-Clause
"""What tests of fastdrop.jax share. A file that imports this is skipped where JAX is missing or not asked for."""

import numpy as np
import pytest
from helpers import applied_by_reference, philox4x32
from peers import MISSING_PEERS, imported

import fastdrop

if "jax" in MISSING_PEERS:
    pytest.skip(f"jax: {MISSING_PEERS['jax']}", allow_module_level=True)

jax = imported("jax")
jnp = imported("jax.numpy")
fj = imported("fastdrop.jax")
imported("jax.export")  # older releases do not do it themselves

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
NAMES = ["dropout", "alpha_dropout", "gaussian_dropout", "gaussian_noise"]
RATE = 0.3


def key_of(*path):
    """A key that no other path gives."""
    key = jax.random.key(2026)
    for part in path:
        key = jax.random.fold_in(key, part)
    return key


def masks_key(key):
    """The key of a mask for a key of JAX, as the documentation has it."""
    words = key if key.dtype == np.uint32 else jax.random.key_data(key)
    w = [int(word) for word in words]
    if len(w) == 4:
        w = [int(word) for word in philox4x32((w[2], w[3], 0, 32), (w[0], w[1]))]
    return w[0] + 2**32 * w[1]


def defined_mask(name, key, shape, rate=RATE, noise_shape=None):
    """The mask that is due, for NumPy."""
    drawn_by = {"key": masks_key(key), "noise_shape": noise_shape}
    if name == "gaussian_noise":
        return fastdrop.GaussianMask(shape, rate, additive=True, **drawn_by)
    if name == "gaussian_dropout":
        return fastdrop.GaussianMask(shape, (rate / (1 - rate)) ** 0.5, **drawn_by)
    return {"dropout": fastdrop.DropoutMask, "alpha_dropout": fastdrop.AlphaMask}[name](shape, rate, **drawn_by)


def defined(name, key, x, rate=RATE, noise_shape=None):
    """What the function is to give: by the reference in NumPy.

    Calls of JAX may go on meanwhile, which need the compiled core.
    """
    x = np.asarray(x)
    return applied_by_reference(defined_mask(name, key, x.shape, rate, noise_shape), x, name)


def defined_gradient(name, key, dy, rate=RATE, noise_shape=None):
    """What the backward pass is to give."""
    dy = np.asarray(dy)
    mask = defined_mask(name, key, dy.shape, rate, noise_shape)
    if name == "gaussian_noise":
        return dy
    if name == "alpha_dropout":
        drawn_by = {"key": mask.key, "noise_shape": noise_shape}
        name, mask = "dropout", fastdrop.DropoutMask(dy.shape, rate, scale=mask.scale, **drawn_by)
    return applied_by_reference(mask, dy, name)


def normals(*shape, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def assert_same(actual, expected):
    """Bit for bit, NaN and the sign of zeros included."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    bits = np.dtype(f"u{actual.itemsize}")
    np.testing.assert_array_equal(np.ascontiguousarray(actual).view(bits), np.ascontiguousarray(expected).view(bits))
