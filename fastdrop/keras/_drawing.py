# SPDX-License-Identifier: BSD-3-Clause
"""Noise on tensors of the backend that runs, from its random state."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import keras

from fastdrop import _arguments
from fastdrop.keras._noise import WORD, Noise

_DTYPES = ("float16", "bfloat16", "float32", "float64")


class _Backend(Protocol):
    """What the module of a backend has."""

    SUPPORTS_JIT: bool  # whether Keras may compile a model that drops, where it is left to it
    SEEDS: range  # what a SeedGenerator can hold

    def is_ours(self, inputs: Any) -> bool:
        """Whether the tensor is of a kind, and on a device, where fastdrop drops."""

    def applied(self, inputs: Any, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], Any]) -> Any:
        """The noise on a tensor that is ours, by the two words that are drawn when all else is known to be right."""


def _backend_of_keras() -> _Backend | None:
    """None for one that trains nothing, as OpenVINO."""
    name = keras.backend.backend()
    if name not in ("numpy", "torch", "tensorflow", "jax"):
        return None
    return cast(_Backend, importlib.import_module(f"fastdrop.keras._{name}"))


backend = _backend_of_keras()
supports_jit = backend is None or backend.SUPPORTS_JIT


def takes(inputs: Any) -> bool:
    """Whether the tensor is one that fastdrop drops from."""
    return backend is not None and backend.is_ours(inputs) and keras.backend.standardize_dtype(inputs.dtype) in _DTYPES


def applied(inputs: Any, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], Any]) -> Any:
    """The noise on a tensor, or an error that says why it is none of ours."""
    if backend is None:
        raise RuntimeError(unknown_backend())
    name = keras.backend.backend()
    if not backend.is_ours(inputs):
        where = getattr(inputs, "device", None)
        raise TypeError(
            f"inputs must be a dense tensor of {name}{' on the CPU' if name == 'torch' else ''}, got a "
            f"{type(inputs).__name__}{'' if where is None else f' on {where}'}: the layers of keras.layers may know "
            "how to drop from it, and fastdrop.keras.restore_layers gives a model these"
        )
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if dtype not in _DTYPES:
        raise TypeError(f"inputs must be of {_arguments.FLOATS}, got {dtype}")
    return backend.applied(inputs, noise, noise_shape, draw)


def unknown_backend() -> str:
    name = keras.backend.backend()
    return f"fastdrop.keras drops on NumPy, PyTorch, TensorFlow and JAX, and the backend of Keras is {name}"


def check_seed(seed: Any) -> None:
    """A ValueError for a seed that the backend's SeedGenerator cannot hold, of which only Keras on some says so."""
    if backend is not None and type(seed) is int and seed not in backend.SEEDS:
        first, last = backend.SEEDS[0], backend.SEEDS[-1]
        raise ValueError(
            f"seed must be from {first} to {last}, for the {keras.backend.backend()} backend of Keras, got {seed}"
        )


def held(word: int) -> int:
    """One of the words that make a key, as the backend's SeedGenerator can hold it."""
    return word if backend is None or word in backend.SEEDS else word - WORD
