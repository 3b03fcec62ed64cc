# SPDX-License-Identifier: BSD-3-Clause
"""Every dropout of Keras in the process, without a change in the model.

Whatever Keras drops, it drops by one function of its backend: the layers of dropout, attention, recurrent cells, and
``keras.random.dropout``, which other libraries call. It is that function which is replaced. The layers of alpha dropout
and normal noise draw by other means; there it is what these layers do when they are called.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import keras
from keras.src import backend
from keras.src.random.seed_generator import draw_seed

from fastdrop.keras import _drawing, _layers, _models
from fastdrop.keras._noise import Kind, Noise

_NOISE_LAYERS: dict[Any, Any] = {
    keras.layers.AlphaDropout: _layers.AlphaDropout,
    keras.layers.GaussianDropout: _layers.GaussianDropout,
    keras.layers.GaussianNoise: _layers.GaussianNoise,
}

_kerass: dict[Any, Any] | None = None  # what has been replaced, by where it stands


class enable:
    """Let fastdrop do every dropout of Keras in this process, from now on.

    To call it twice is to call it once. As a context manager it holds for the block. Models are what they were, and so
    are their files. What Keras has compiled of a model is compiled anew, when it is called next. Tensors of other
    devices, of integers and sparse ones are left to Keras.

    Raises
    ------
    RuntimeError
        On a backend of Keras that fastdrop does not know.

    Examples
    --------
    >>> import keras, fastdrop.keras
    >>> with fastdrop.keras.enable():
    ...     y = keras.layers.Dropout(0.5)(keras.ops.ones((4, 4)), training=True)
    >>> fastdrop.keras.is_enabled()
    False
    """

    def __init__(self) -> None:
        self._was_enabled = is_enabled()
        if not self._was_enabled:
            _replace()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._was_enabled:
            disable()


def disable() -> None:
    """Give all dropout back to Keras."""
    global _kerass
    if _kerass is not None:
        backend.random.dropout = _kerass.pop(backend.random)
        for layer, call in _kerass.items():
            layer.call = call
        _kerass = None
        _models.compile_anew()


def is_enabled() -> bool:
    """Whether fastdrop does the dropout of Keras."""
    return _kerass is not None


def _replace() -> None:
    global _kerass
    if _drawing.backend is None:
        raise RuntimeError(_drawing.unknown_backend())
    _kerass = {backend.random: backend.random.dropout, **{layer: layer.call for layer in _NOISE_LAYERS}}
    backend.random.dropout = _replaced_dropout(backend.random.dropout)
    for layer, ours in _NOISE_LAYERS.items():
        layer.call = _replaced_call(layer.call, ours.call)
    _models.compile_anew()


def _replaced_dropout(kerass: Any) -> Any:
    """The function of Keras's backend, by fastdrop where that takes the tensor."""

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if not 0 < rate < 1 or not _drawing.takes(inputs):
            return kerass(inputs, rate, noise_shape=noise_shape, seed=seed)
        return _drawing.applied(inputs, Noise(Kind.DROPOUT, rate), noise_shape, lambda: _words(seed))

    return dropout


def _words(seed: Any) -> Any:
    """What Keras draws masks by: the next two words of a generator, or the two of a seed or of a key of JAX."""
    is_key = keras.backend.backend() == "jax" and keras.ops.is_tensor(seed)
    return seed if is_key else draw_seed(seed)


def _replaced_call(kerass: Any, ours: Any) -> Any:
    def call(self: Any, inputs: Any, training: bool = False) -> Any:
        return (ours if _drawing.takes(inputs) else kerass)(self, inputs, training=training)

    return call
