# SPDX-License-Identifier: BSD-3-Clause
"""A net of Keras with fastdrop's layers of dropout, beside the same net with Keras's own.

A process has one backend of Keras, so there is nothing to be measured without ``KERAS_BACKEND=numpy`` or another. On
NumPy, where Keras does not train, a case is a pass of Monte-Carlo dropout, ``model(x, training=True)``; elsewhere it is
``model.train_on_batch``. Keras compiles both nets as it does by itself. Layers have no seed, as most have none: there
Keras on PyTorch is at its fastest.

fastdrop's net is shown to have the outputs and the weights that plain products with the masks of the reference give.
"""

import importlib
import importlib.util
import os
from typing import Any

import pytest

from benchmarks.measuring import Turn, about

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.once]

# How many times Keras's speed is asked for.
LEAST = {"numpy": 1.45, "torch": 1.3}
RATE = 0.5
SLOW_ROUNDS = 31


def missing() -> str | None:
    """Why nothing can be measured here, and what to do."""
    if importlib.util.find_spec("keras") is None:
        return "fastdrop.keras: keras is not installed, which pip install -e '.[bench-keras]' does"
    if not os.environ.get("KERAS_BACKEND"):
        return "fastdrop.keras: set KERAS_BACKEND to numpy, torch, tensorflow or jax"
    return None


@pytest.fixture
def models() -> Any:
    """benchmarks.keras_models, which imports Keras, on one thread."""
    why = missing()
    if why:
        pytest.skip(why)
    return importlib.import_module("benchmarks.keras_models")


def test_step(in_turn, models):
    keras = models.keras
    backend = keras.backend.backend()
    if backend != os.environ["KERAS_BACKEND"]:
        pytest.skip(f"fastdrop.keras: another case has imported Keras with {backend}")
    trains = backend != "numpy"
    if backend == "torch":
        importlib.import_module("torch").set_num_threads(1)

    def make() -> Turn:
        x, labels = models.data()
        ours, kerass = (
            models.net(layer, RATE, (None, None)) for layer in (models.fastdrop.keras.Dropout, keras.layers.Dropout)
        )

        def call_of(model: Any) -> Any:
            if trains:
                return lambda: model.train_on_batch(x, labels)
            return lambda: model(x, training=True)

        def proof() -> None:
            models.prove(RATE, trains)
            models.show(RATE)

        return Turn(call_of(ours), {"Keras": call_of(kerass)}, proof)

    operation = "train_on_batch" if trains else "Monte-Carlo pass"
    name = f"MLP 784-1024-1024-10, batch 512, Keras on {backend}"
    what = about(operation, name, 4 * models.BATCH * models.FEATURES, RATE, out="fresh", moved=None)
    what |= {"client": "Keras", "called": operation}
    least = LEAST.get(backend)
    bounds = ()
    if least is not None:
        bounds = ({"name": f"Keras, at least {least:g} times its speed", "over": {"Keras": 1}, "at_most": 1 / least},)
    in_turn(make, what, bounds, fewest=SLOW_ROUNDS)
