# SPDX-License-Identifier: BSD-3-Clause
"""The layers of ``keras.layers``, which they are in all but where their random numbers come from."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import keras
import numpy as np

from fastdrop import _arguments
from fastdrop._arguments import Number
from fastdrop.keras import _drawing, _stochastic
from fastdrop.keras._noise import WORD, Kind, Noise

Layer = TypeVar("Layer", bound=type[keras.layers.Layer])
NoiseShape: TypeAlias = Sequence[int | None] | None
_STATE = "seed_generator_state"  # in files

DataFormat: TypeAlias = Literal["channels_first", "channels_last"] | None


def _public(layer: Layer) -> Layer:
    """A layer that saved models name by where it is public, and not by a file of this package."""
    layer.__module__ = "fastdrop.keras"
    registered: Layer = keras.saving.register_keras_serializable(package="fastdrop")(layer)
    return registered


def _check(name: str, amount: Any, seed: Any) -> None:
    """What Keras lets pass, or says of something else. A number that is too large or too small it refuses itself."""
    with contextlib.suppress(ValueError):
        _arguments.probability(amount, name)
    _drawing.check_seed(seed)


def settle(layer: Any) -> None:
    """Tell Keras what becomes of a model with this layer when Keras compiles it."""
    layer.supports_jit = _drawing.supports_jit


class _Seeded:
    """What Keras's layers do not do: they begin anew with their seed where a model is loaded."""

    # Whether who loads a file makes this layer from it. One that another layer makes for itself is Keras's then, which
    # takes no state.
    is_named_in_files = True

    def save_own_variables(self, store: Any) -> None:
        """Put the state of the seed generator into a file, beside the weights of other layers."""
        super().save_own_variables(store)  # type: ignore[misc]
        if self.is_named_in_files and hasattr(self, "seed_generator"):
            words = keras.ops.convert_to_numpy(self.seed_generator.state)
            store[_STATE] = words.astype(np.int64) % WORD  # which each backend can hold, in its own way

    def load_own_variables(self, store: Any) -> None:
        """Take it from there, if it is there: Keras's own layers have not put it into a file."""
        names = list(store.keys())  # a store cannot be asked for one
        if _STATE not in names:
            super().load_own_variables(store)  # type: ignore[misc]
        elif hasattr(self, "seed_generator"):
            words = [_drawing.held(int(word)) for word in store[_STATE]]
            self.seed_generator.state.assign(np.array(words, self.seed_generator.state.dtype))


def _applied(layer: Any, inputs: Any, noise: Noise, noise_shape: NoiseShape = None) -> Any:
    return _drawing.applied(inputs, noise, noise_shape, _stochastic.words_for(layer))


def _dropped(layer: Any, inputs: Any, training: bool, noise_shape: NoiseShape) -> Any:
    if not _stochastic.draws(layer, training) or layer.rate == 0:
        return inputs
    if layer.rate == 1:  # nothing is random, and as in Keras the seed stays
        return keras.ops.zeros_like(inputs)
    return _applied(layer, inputs, Noise(Kind.DROPOUT, layer.rate), noise_shape)


@_public
class Dropout(_Seeded, keras.layers.Dropout):
    """Set random elements to zero and divide the others by ``1 - rate``: ``keras.layers.Dropout``, faster.

    Parameters
    ----------
    rate : float
        The probability to drop, from 0 to 1.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast. None stands for the length of the inputs.
    seed : int, optional
        Of the layer's ``SeedGenerator``. By default Keras makes one, which ``keras.utils.set_random_seed`` sets.
    **kwargs
        Those of every layer: ``name``, ``dtype`` and so on.

    Raises
    ------
    TypeError, ValueError
        For an argument or for inputs that are refused. Nothing is drawn then.

    Notes
    -----
    The seed generator gives two words for a mask: the seed, and how many masks it has given before. They are the mask's
    key, so that the same seed gives the same mask on each backend, for each dtype and on each machine. They are also
    all that is kept for the backward pass.

    Inputs are of float16, bfloat16, float32 or float64. What is dropped is 0, also where it was infinite or no number.

    Examples
    --------
    >>> import keras, fastdrop.keras
    >>> layer = fastdrop.keras.Dropout(0.25, seed=7)
    >>> y = layer(keras.ops.ones((1, 8)), training=True)
    >>> (keras.ops.convert_to_numpy(y) > 0).astype(int).tolist()
    [[1, 1, 1, 1, 1, 1, 1, 0]]
    """

    def __init__(self, rate: Number, noise_shape: NoiseShape = None, seed: int | None = None, **kwargs: Any) -> None:
        _check("rate", rate, seed)
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)
        _arguments.noise_pattern(noise_shape)  # at which older releases of Keras do not look
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return _dropped(self, inputs, training, self.noise_shape)


@_public
class SpatialDropout1D(_Seeded, keras.layers.SpatialDropout1D):
    """Drop whole channels of (samples, steps, channels): ``keras.layers.SpatialDropout1D``, faster.

    Parameters
    ----------
    rate, seed
        As for ``Dropout``.
    name : str, optional
    dtype : str or keras.DTypePolicy, optional
    """

    def __init__(self, rate: Number, seed: int | None = None, name: str | None = None, dtype: Any = None) -> None:
        _check("rate", rate, seed)
        super().__init__(rate, seed=seed, name=name, dtype=dtype)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return _dropped(self, inputs, training, (None, 1, None))


@_public
class SpatialDropout2D(_Seeded, keras.layers.SpatialDropout2D):
    """Drop whole channels of images: ``keras.layers.SpatialDropout2D``, faster.

    Parameters
    ----------
    rate, seed
        As for ``Dropout``.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are. By default ``keras.config.image_data_format()``.
    name : str, optional
    dtype : str or keras.DTypePolicy, optional
    """

    def __init__(
        self,
        rate: Number,
        data_format: DataFormat = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        _check("rate", rate, seed)
        super().__init__(rate, data_format=data_format, seed=seed, name=name, dtype=dtype)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return _dropped(self, inputs, training, _of_channels(self.data_format, 2))


@_public
class SpatialDropout3D(_Seeded, keras.layers.SpatialDropout3D):
    """Drop whole channels of volumes: ``keras.layers.SpatialDropout3D``, faster.

    Parameters
    ----------
    rate, data_format, seed, name, dtype
        As for ``SpatialDropout2D``.
    """

    def __init__(
        self,
        rate: Number,
        data_format: DataFormat = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        _check("rate", rate, seed)
        super().__init__(rate, data_format=data_format, seed=seed, name=name, dtype=dtype)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return _dropped(self, inputs, training, _of_channels(self.data_format, 3))


def _of_channels(data_format: str, dims: int) -> NoiseShape:
    """One decision for each channel of each sample."""
    shared = (1,) * dims
    return (None, None, *shared) if data_format == "channels_first" else (None, *shared, None)


@_public
class AlphaDropout(_Seeded, keras.layers.AlphaDropout):
    """Set random elements to SELU's lower limit and keep mean and variance: ``keras.layers.AlphaDropout``, faster.

    Parameters
    ----------
    rate, noise_shape, seed, **kwargs
        As for ``Dropout``.

    Notes
    -----
    At rate 1 the result is zero, the limit of what it is before. There Keras divides by zero.
    """

    def __init__(self, rate: Number, noise_shape: NoiseShape = None, seed: int | None = None, **kwargs: Any) -> None:
        _check("rate", rate, seed)
        _arguments.noise_pattern(noise_shape)
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not _stochastic.draws(self, training) or self.rate == 0:
            return inputs
        return _applied(self, inputs, Noise(Kind.ALPHA_DROPOUT, self.rate), self.noise_shape)


@_public
class GaussianDropout(_Seeded, keras.layers.GaussianDropout):
    """Multiply by normal numbers of mean 1 and variance ``rate / (1 - rate)``, as ``keras.layers.GaussianDropout``.

    Parameters
    ----------
    rate : float
        From 0 to 1. At 1 the variance is infinite, and to train is a ValueError.
    seed, **kwargs
        As for ``Dropout``.
    """

    def __init__(self, rate: Number, seed: int | None = None, **kwargs: Any) -> None:
        _check("rate", rate, seed)
        super().__init__(rate, seed=seed, **kwargs)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not _stochastic.draws(self, training) or self.rate == 0:
            return inputs
        if self.rate == 1:
            raise ValueError(
                "rate must be below 1 for GaussianDropout in training, whose variance is rate / (1 - rate), got "
                f"{self.rate}"
            )
        return _applied(self, inputs, Noise(Kind.GAUSSIAN_DROPOUT, self.rate))


@_public
class GaussianNoise(_Seeded, keras.layers.GaussianNoise):
    """Add normal numbers of mean 0: ``keras.layers.GaussianNoise``, faster.

    Parameters
    ----------
    stddev : float
        The standard deviation, from 0 to 1.
    seed, **kwargs
        As for ``Dropout``.
    """

    def __init__(self, stddev: Number, seed: int | None = None, **kwargs: Any) -> None:
        _check("stddev", stddev, seed)
        super().__init__(stddev, seed=seed, **kwargs)
        settle(self)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not _stochastic.draws(self, training) or self.stddev == 0:
            return inputs
        return _applied(self, inputs, Noise(Kind.GAUSSIAN_NOISE, self.stddev))


LAYERS = (
    Dropout,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    AlphaDropout,
    GaussianDropout,
    GaussianNoise,
)
