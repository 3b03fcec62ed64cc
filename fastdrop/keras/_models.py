# SPDX-License-Identifier: BSD-3-Clause
"""Models that stand already: the exchange of their layers, and what Keras has compiled of them.

A layer stays the object that it is, with its name, its seed and its place in the model, and becomes one of another
class. So a functional model's graph, shared layers and references to a layer hold.
"""

from __future__ import annotations

import gc
import warnings
from typing import Any

import keras
from keras.src.models import Functional

from fastdrop.keras import _layers

_OURS = {layer.__bases__[-1]: layer for layer in _layers.LAYERS}
_KERASS = {ours: kerass for kerass, ours in _OURS.items()}


def replace_layers(model: keras.layers.Layer) -> int:
    """Make each layer of dropout or noise in a model one of fastdrop's, in place.

    It reaches layers within layers too, such as those of a nested model or of ``MultiHeadAttention``. The model keeps
    its weights, its seeds and what it was compiled with. When it is saved, the file names fastdrop's layers. Layers
    that others make for themselves, such as that of attention, are Keras's again when the model is loaded: replace them
    anew.

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        That is built.

    Returns
    -------
    int
        How many layers were replaced.

    Warns
    -----
    UserWarning
        Where other layers drop by themselves, as recurrent cells do, and names them: these are left to Keras.
        ``enable`` reaches them.

    Examples
    --------
    >>> import keras, fastdrop.keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5, seed=7)])
    >>> fastdrop.keras.replace_layers(model)
    1
    >>> type(model.layers[-1]).__module__
    'fastdrop.keras'
    """
    count = _exchange(model, _OURS)
    others = [layer.path or layer.name for layer in _all_layers(model) if _drops_by_itself(layer)]
    if others:
        warnings.warn(
            f"{', '.join(others)}: dropout within these layers is left to Keras; fastdrop.keras.enable() reaches it",
            stacklevel=2,
        )
    return count


def restore_layers(model: keras.layers.Layer) -> int:
    """Make each of fastdrop's layers in a model Keras's own again, in place: the reverse of ``replace_layers``.

    A model that is saved then can be loaded where fastdrop is not installed.

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        That is built.

    Returns
    -------
    int
        How many layers were restored.
    """
    return _exchange(model, _KERASS)


def _exchange(model: Any, classes: dict[Any, Any]) -> int:
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model must be a model or layer of Keras, got a {type(model).__name__}")
    if not model.built:
        raise ValueError("model must be built, so that all of its layers are there: call it once, or model.build")
    named = _named_in_files(model)
    found = [layer for layer in _all_layers(model) if type(layer) in classes]
    for layer in found:
        object.__setattr__(layer, "__class__", classes[type(layer)])
        if type(layer) in _KERASS:
            _layers.settle(layer)
            layer.is_named_in_files = id(layer) in named
        else:
            layer.supports_jit = True
            layer.__dict__.pop("is_named_in_files", None)
    if found:
        compile_anew()
    return len(found)


def _all_layers(model: Any) -> list[Any]:
    """A layer and all within it, each once."""
    layers = {id(layer): layer for layer in model._flatten_layers()}
    return list(layers.values())


def _named_in_files(model: Any) -> set[int]:
    """The ids of layers whose classes stand in a model's file, and which are not made by the layer around them."""
    inner = []
    if isinstance(model, (Functional, keras.Sequential)):
        inner = model.layers
    elif isinstance(model, keras.layers.Wrapper):
        inner = [model.layer]
    return {id(model)}.union(*map(_named_in_files, inner))


def _drops_by_itself(layer: Any) -> bool:
    """Whether a layer that is not exchanged draws masks: a recurrent cell, or an attention without a layer for it."""
    has_seed = isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)
    rates = [getattr(layer, name, 0) for name in ("rate", "dropout", "recurrent_dropout")]
    is_dropping = any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
    return has_seed and is_dropping and type(layer) not in _KERASS


def compile_anew() -> None:
    """Let Keras make the functions of all models anew, which hold what layers did when they were made.

    Keras has no list of its models, so they are sought among all objects of the process.
    """
    for model in gc.get_objects():
        if not issubclass(type(model), keras.Model):
            continue
        for kind in ("train", "test", "predict"):
            if getattr(model, f"{kind}_function", None) is not None:
                getattr(model, f"make_{kind}_function")(force=True)
