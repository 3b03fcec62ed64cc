# SPDX-License-Identifier: BSD-3-Clause
"""What tests of fastdrop.keras share. A file that imports this is skipped where Keras is missing or not asked for.

A process has one backend of Keras: NumPy, or the one that FASTDROP_TEST_KERAS_BACKEND names in the processes which
test_keras_backends.py starts.
"""

import os
import tempfile

import ml_dtypes
import numpy as np
import pytest
from helpers import using
from peers import MISSING_PEERS, imported

if "keras" in MISSING_PEERS:
    pytest.skip(f"keras: {MISSING_PEERS['keras']}", allow_module_level=True)

BACKEND = os.environ.get("FASTDROP_TEST_KERAS_BACKEND", "numpy")

with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
    patch.setenv("KERAS_BACKEND", BACKEND)
    patch.setenv("KERAS_HOME", home)  # the user's own configuration stays as it is
    keras = imported("keras")
    fk = imported("fastdrop.keras")
assert keras.backend.backend() == BACKEND

DTYPES = ["float16", "bfloat16", "float32", "float64"]
trains = pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")


def on(*backends):
    """For a test of some backends."""
    return pytest.mark.skipif(BACKEND not in backends, reason=f"a test on {' and '.join(backends)}")


def dtype_of(name):
    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)


def normals(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(dtype))


def array(t):
    """The elements of a tensor as NumPy has them."""
    if BACKEND == "torch":
        t = t.detach()
        import torch

        return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()
    return np.asarray(t)


def tensor(a):
    """A tensor of the backend, of the dtype of an array."""
    return keras.ops.convert_to_tensor(a, dtype=a.dtype.name)


def assert_same(actual, expected):
    """Bit for bit, NaN and the sign of zeros included."""
    actual, expected = (array(t) if not isinstance(t, np.ndarray) else t for t in (actual, expected))
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    kind = f"u{actual.itemsize}"
    np.testing.assert_array_equal(np.ascontiguousarray(actual).view(kind), np.ascontiguousarray(expected).view(kind))


def state(layer):
    """The two words of a layer's seed generator: the seed, and how many masks were drawn."""
    return array(keras.ops.convert_to_tensor(layer.seed_generator.state)).tolist()


def defined(mask, x):
    """The definition: a mask applied by the reference."""
    with using("reference"):
        return mask.apply(x)


def gradient(function, x, dy):
    """The derivative of a function of one tensor in the direction of dy, as the backend has it."""
    if BACKEND == "torch":
        leaf = tensor(x).requires_grad_()
        function(leaf).backward(tensor(dy))
        return leaf.grad
    if BACKEND == "tensorflow":
        import tensorflow as tf

        leaf = tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(leaf)
            y = function(leaf)
        return tape.gradient(y, leaf, tensor(dy))
    import jax

    return jax.vjp(function, tensor(x))[1](tensor(dy))[0]
