# SPDX-License-Identifier: BSD-3-Clause
"""A plugin of pytest for Keras's own tests, which come in its wheel: they run with fastdrop in the place of its layers.

FASTDROP_KERAS_BY says how: ``layers`` puts fastdrop's classes where tests look for Keras's; or it is ``enable``.
"""

import os

import keras
import keras.src.layers
import pytest

import fastdrop.keras

if os.environ["FASTDROP_KERAS_BY"] == "enable":
    fastdrop.keras.enable()
else:
    for name in fastdrop.keras.__all__:
        if hasattr(keras.src.layers, name):
            setattr(keras.src.layers, name, getattr(fastdrop.keras, name))


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: of Keras")


def pytest_collection_modifyitems(items):
    """As Keras's own conftest.py has it, which does not come in the wheel."""
    if keras.backend.backend() == "numpy":
        for item in items:
            if item.get_closest_marker("requires_trainable_backend"):
                item.add_marker(pytest.mark.skip(reason="Keras does not train on NumPy"))
