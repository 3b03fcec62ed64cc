# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for Keras 3, on each of its backends.

>>> import keras, fastdrop.keras
>>> model = keras.Sequential([keras.layers.Dense(64), fastdrop.keras.Dropout(0.1, seed=7)])

The layers have the names, arguments and meaning of those in ``keras.layers``. For models that stand already there are
``replace_layers``, which makes their layers of dropout ours, and ``enable``, which reaches whatever Keras drops.

Masks come from Keras's own ``SeedGenerator``, whose state is saved with the model. The same state gives the same mask
on NumPy, PyTorch, TensorFlow and JAX.
"""

from fastdrop.keras import _library as _library  # first, because it says what to install
from fastdrop.keras._layers import (
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from fastdrop.keras._models import replace_layers, restore_layers
from fastdrop.keras._stochastic import stochastic
from fastdrop.keras._switch import disable, enable, is_enabled

__all__ = [
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "disable",
    "enable",
    "is_enabled",
    "replace_layers",
    "restore_layers",
    "stochastic",
]
