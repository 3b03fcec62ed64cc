# SPDX-License-Identifier: BSD-3-Clause
"""What test_keras.py measures: nets of Keras with its own layers of dropout and with fastdrop's, and their oracle.

Only who measures with Keras imports it, when the backend is chosen.
"""

from typing import Any

import keras
import numpy as np

import fastdrop
import fastdrop.keras
from benchmarks.measuring import WrongResult
from fastdrop import _backend

SEED = 7
BATCH, FEATURES, WIDTH, CLASSES = 512, 784, 1024, 10


class Oracle(keras.layers.Layer):
    """Dropout by masks of the reference, as a plain product that the backend differentiates by itself."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate, self.seed, self.count = rate, seed, 0

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        mask = fastdrop.DropoutMask(tuple(inputs.shape), self.rate, key=self.seed + (self.count << 32))
        self.count += 1
        with _backend._using("reference"):
            return inputs * keras.ops.convert_to_tensor(mask.to_array())


def net(dropout: Any, rate: float, seeds: tuple[int | None, int | None] = (1, 2)) -> keras.Model:
    """An MLP with two layers of dropout, always with the same weights."""
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    model = keras.Sequential(
        [
            *(keras.Input((FEATURES,), batch_size=BATCH), layers.Dense(WIDTH, activation="relu")),
            *(dropout(rate, seed=seeds[0]), layers.Dense(WIDTH, activation="relu"), dropout(rate, seed=seeds[1])),
            layers.Dense(CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=dropout is Oracle)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    return generator.standard_normal((BATCH, FEATURES), np.float32), generator.integers(CLASSES, size=BATCH)


def prove(rate: float, trains: bool) -> None:
    """Show that a pass of our net is that with the masks that are due, and so are the weights after two steps."""
    x, labels = data()
    ours, oracle = net(fastdrop.keras.Dropout, rate), net(Oracle, rate)
    found, expected = ([model(x, training=True)] for model in (ours, oracle))
    if trains:
        for _ in range(2):
            ours.train_on_batch(x, labels)
            oracle.train_on_batch(x, labels)
        found += ours.get_weights()
        expected += oracle.get_weights()
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        error = np.abs(one - other).max() / np.abs(other).max()
        if not error < 1e-4:  # sums of hundreds of products, in another order
            raise WrongResult(f"array {number} is off by {error:.2g} of its largest element")


def show(rate: float) -> None:
    """That Keras's layer does dropout: as often as the rate says, and not the same twice."""
    x = keras.ops.ones((BATCH, WIDTH))
    layer = keras.layers.Dropout(rate)
    once, again = (keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(2))
    share = float(np.mean(once == 0))
    if abs(share - rate) > 5 * (rate * (1 - rate) / once.size) ** 0.5 or np.array_equal(once, again):
        raise WrongResult(f"Keras drops {share} at rate {rate}, or the same twice")
