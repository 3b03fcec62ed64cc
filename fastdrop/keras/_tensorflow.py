# SPDX-License-Identifier: BSD-3-Clause
"""Keras's TensorFlow backend: masks on the memory of its tensors, eagerly and from graphs.

What stands in a graph is a call of Python, which TensorFlow runs wherever it runs the graph, but for XLA. The backward
pass has the two words that the mask was drawn by, and draws it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

from fastdrop.keras import _noise
from fastdrop.keras._noise import Mask, Noise

SUPPORTS_JIT = False  # so that "auto" compiles without XLA
SEEDS = range(-(1 << 63), 1 << 63)

# TensorFlow's kernels take for granted that tensors begin at multiples of this, and end the process otherwise.
_ALIGNMENT = 64


def is_ours(inputs: Any) -> bool:
    return isinstance(inputs, tf.Tensor)


def applied(
    inputs: tf.Tensor, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], tf.Tensor]
) -> tf.Tensor:
    if control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()):
        raise RuntimeError(
            "fastdrop cannot drop in code that XLA compiles: use tf.function without jit_compile=True, and "
            'model.compile with jit_compile=False or "auto"'
        )
    if noise_shape is None or _is_known(inputs.shape, noise_shape):
        drawn_in: Any = _noise.lengths_of(noise_shape, tuple(inputs.shape)) if noise_shape is not None else None
        return _transformed(noise, inputs, draw(), drawn_in)
    drawn_in, check = _checked_lengths(inputs, noise_shape)
    with tf.control_dependencies([check]):  # before anything is drawn
        return _transformed(noise, inputs, draw(), drawn_in)


def _is_known(shape: tf.TensorShape, noise_shape: Sequence[Any]) -> bool:
    """Whether all lengths are known while a graph is made."""
    return shape.is_fully_defined() and not any(tf.is_tensor(length) for length in noise_shape)


def _checked_lengths(inputs: tf.Tensor, noise_shape: Sequence[Any]) -> tuple[tf.Tensor, tf.Operation]:
    """The lengths to draw in, which are known when the graph runs, and what asserts that the tensor has them."""
    rank = inputs.shape.rank
    if rank is not None:
        known = [1 if own is None or tf.is_tensor(own) else own for own in inputs.shape]
        sought = [
            None if i < rank and (tf.is_tensor(length) or inputs.shape[i] is None) else length
            for i, length in enumerate(noise_shape)
        ]
        _noise.lengths_of(sought, tuple(known))  # or an error at once
    own = tf.shape(inputs)
    lengths = tf.stack(
        [own[i] if length is None else tf.cast(length, tf.int32) for i, length in enumerate(noise_shape)]
    )
    fits = tf.reduce_all((lengths == 1) | (lengths == own[tf.size(own) - len(noise_shape) :]))
    said = "noise_shape must hold 1 or None or the length of inputs in each dimension, got lengths"
    return lengths, tf.debugging.Assert(fits, [said, lengths, "for", own])


def _transformed(noise: Noise, x: tf.Tensor, words: tf.Tensor, drawn_in: Any, is_gradient: bool = False) -> tf.Tensor:
    """The forward pass of a mask, or its backward pass, which is linear and so its own derivative."""
    inputs = [words, drawn_in] if tf.is_tensor(drawn_in) else [words]

    def computed(x: Any, words: Any, *lengths: Any) -> np.ndarray:
        shape = np.shape(x)
        known = _noise.lengths_of(lengths[0].tolist(), shape) if lengths else drawn_in
        return _computed(noise.mask(shape, _noise.key_of(words.tolist()), known), np.asarray(x), is_gradient)

    @tf.custom_gradient
    def function(x: tf.Tensor) -> Any:
        if tf.executing_eagerly():
            y = _tensor(computed(np.asarray(x), *(tensor.numpy() for tensor in inputs)))
        else:
            y = tf.numpy_function(computed, [x, *inputs], x.dtype, stateful=False)
            y.set_shape(x.shape)
        return y, lambda dy: dy if noise.is_added else _transformed(noise, dy, words, drawn_in, is_gradient=True)

    return function(x)


def _computed(mask: Mask, x: np.ndarray, is_gradient: bool) -> np.ndarray:
    """The result, in memory that TensorFlow takes without a copy."""
    size = math.prod(x.shape) * x.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    out = memory[start : start + size].view(x.dtype).reshape(x.shape)
    return (mask.backward if is_gradient else mask.apply)(x, out)


def _tensor(y: np.ndarray) -> tf.Tensor:
    """The tensor of an aligned array, on its memory. The protocol for that has no bfloat16."""
    is_known = y.dtype.kind == "f"
    shared = tf.experimental.dlpack.from_dlpack((y if is_known else y.view(np.uint16)).__dlpack__())
    return shared if is_known else tf.bitcast(shared, tf.bfloat16)
