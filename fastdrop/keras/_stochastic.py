# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout: which layers draw though the model is not trained, and from what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.backend import random_seed_dtype

from fastdrop import _streams
from fastdrop._contexts import Entered
from fastdrop._streams import RNG, PhiloxStream
from fastdrop.keras import _drawing
from fastdrop.keras._noise import WORD


class _Kept(NamedTuple):
    """The layers of a context, by identity, and the stream that they draw from in it, if not from their own seeds."""

    layers: frozenset[int]
    stream: PhiloxStream | None


_kept: Entered[_Kept] = Entered("fastdrop.keras.stochastic")


def draws(layer: Any, training: Any) -> bool:
    """Whether a layer draws in this call, told to whoever watches."""
    return _streams.tell(bool(training) or any(id(layer) in kept.layers for kept in _kept.values()))


def words_for(layer: Any) -> Callable[[], Any]:
    """What gives the two words of the layer's next mask, here and now."""
    for kept in reversed(_kept.values()):
        if kept.stream is not None and id(layer) in kept.layers:
            return partial(_next_words, kept.stream)
    next_words: Callable[[], Any] = layer.seed_generator.next
    return next_words


def _next_words(stream: PhiloxStream) -> Any:
    """Two words of a key, as the backend's seed generators give them."""
    key = _streams.fold_in(*stream.next_draw())
    words = np.array([_drawing.held(key % WORD), _drawing.held(key // WORD)])
    return keras.ops.convert_to_tensor(words, random_seed_dtype())


class stochastic:
    """A context in which the layers of fastdrop in a model draw, and nothing else is as in training.

    It holds for the calling thread, or asyncio task, alone, and for models that are called: ``model(x)``. What Keras
    has compiled (``model.predict`` and its like, but for the NumPy backend) does as it did when it was compiled.

    Parameters
    ----------
    *models : keras.Model or keras.layers.Layer
        At least one, with a layer of fastdrop inside: ``replace_layers`` makes those of a model that stands already.
    rng : any that ``fastdrop.dropout`` takes, optional
        What the layers draw from inside, in the order in which they run, in place of their seed generators, which stand
        still. Without it their masks are the next ones of these.

    Examples
    --------
    >>> import fastdrop, fastdrop.keras, keras
    >>> model = keras.Sequential([keras.Input((100,)), fastdrop.keras.Dropout(0.5, seed=1), keras.layers.Dense(1)])
    >>> def f(x, stream):
    ...     with fastdrop.keras.stochastic(model, rng=stream):
    ...         return keras.ops.convert_to_numpy(model(x))
    >>> prediction = fastdrop.mc_predict(f, keras.ops.ones((3, 100)), 50, rng=7)
    >>> prediction.variance.shape
    (3, 1)
    """

    def __init__(self, *models: keras.layers.Layer, rng: RNG = None) -> None:
        if not models:
            raise ValueError("models must be at least one model or layer, got none")
        found: set[int] = set()
        for model in models:
            if not isinstance(model, keras.layers.Layer):
                raise TypeError(
                    f"models must be models or layers of Keras, got {model!r} of type {type(model).__name__}"
                )
            layers = {id(layer) for layer in model._flatten_layers() if type(layer).__module__ == "fastdrop.keras"}
            if not layers:
                raise ValueError(
                    f"models must have layers of fastdrop inside, and {model.name} has none: "
                    "fastdrop.keras.replace_layers makes its layers of dropout such"
                )
            found |= layers
        self._kept = _Kept(frozenset(found), None if rng is None else _streams.stream(rng))

    def __enter__(self) -> None:
        _kept.enter(self, self._kept)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _kept.leave(self)
