# SPDX-License-Identifier: BSD-3-Clause
"""Dropout as objects, for training loops that are written by hand.

A layer is one of the package's functions, its parameters, and a stream of its own. It adds what a training loop wants
to keep in one place: whether it trains, the mask of the last forward pass, and a state for checkpoints.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _blocks, _functions, _noise
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._blocks import BlockMask
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask
from fastdrop._streams import RNG
from fastdrop._training import Stochastic, parameters_of

Mask = TypeVar("Mask", bound=DropoutMask | GaussianMask | BlockMask)
# None before the first forward pass, which nobody who has had one should have to rule out.
MaybeNone: TypeAlias = Any

# What the docstrings of the layers share: their parameters by name, and what follows them.
_PARAMETERS = {
    "rate": """
rate : float
    The probability to drop, from 0 to 1. It can be set later, as ``keep_prob`` can, and holds from the next forward
    pass on.""",
    "stddev": """
stddev : float
    The standard deviation of the noise, at least 0. It can be set later, and holds from the next forward pass on.""",
    "block_size": """
block_size : int
    The side of the squares, at least 1. Where a map is smaller, it is the shorter side of the map.""",
    "keep_prob": """
keep_prob : float, optional
    ``1 - rate``, instead of it: kept elements are divided by just this number.""",
    "noise_shape": """
noise_shape : sequence of int or None, optional
    The shape in which the mask is drawn and then broadcast. Each length is 1 (one decision along this dimension) or the
    array's own, which None stands for; lengths that are missing on the left are 1.""",
    "shared_axes": """
shared_axes : int or sequence of int, optional
    The axes along which one decision holds, instead of ``noise_shape``.""",
    "mode": """
mode : {"upscale_in_train", "downscale_in_infer"}
    Divide by ``1 - rate`` in training, or multiply by it in inference.""",
    "data_format": """
data_format : {"channels_last", "channels_first"}
    Which axis holds the channels.""",
    "rng": """
rng : None, int, sequence of int, numpy.random.SeedSequence, Generator or BitGenerator, or DrawSource
    Where the layer's stream comes from. None takes fresh entropy from the operating system. An int, a sequence of int
    or a SeedSequence is the seed of the stream: unlike for the function, where it names one mask, successive calls give
    successive masks. A Generator gives a key, once. A PhiloxStream is used as it is, and may be shared. Two layers with
    the same seed draw the same masks: give each one of ``PhiloxStream(seed).spawn(n)``.""",
    "always": """
always : bool
    Draw in inference too, as Monte-Carlo dropout does (see ``fastdrop.mc_predict``).""",
}

_ATTRIBUTES = """
Attributes
----------
training : bool
    True at first. ``train()`` and ``eval()`` set it.
always : bool
    As given; it can be set later.
mask : {mask} or None
    The mask of the last forward pass, which ``backward`` applies; None before the first.
rng : PhiloxStream
    The layer's stream. It can be set later, to all that the parameter may be.
is_stochastic : bool
    Whether a forward pass would draw, here and now.

Notes
-----
A layer pickles and copies with its stream's state, so that a copy draws the masks that the original would draw. So does
a forked process: give its layers streams of their own.

In inference any number of threads may call a layer. In training masks are never given out twice either, but ``mask``
is that of whichever forward pass came last, so threads that train need a layer each."""


class _Layer(Stochastic, Generic[Mask]):
    """A function of this package with its parameters and a stream.

    A subclass says which function, what kind of mask it returns, and which number tells how much it disturbs.
    """

    _function: ClassVar[Callable[..., Any]]  # of several signatures, of which a Callable can be only one
    _mask_type: ClassVar[str] = "DropoutMask"
    _NUMBERS = ("rate",)

    mask: Mask | MaybeNone

    def __init__(self, amount: dict[str, float], rng: RNG, always: bool, **options: object) -> None:
        self._amount = amount  # as the argument that the function takes
        self._options = options
        self.mask = None
        super().__init__(rng, always)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A user's docstring is the user's, whatever stands in it.
        if cls.__module__ == __name__ and cls.__doc__ is not None and "{parameters}" in cls.__doc__:
            names = parameters_of(cls.__init__) or ()
            parameters = "".join(_PARAMETERS[name] for name in names[1:])  # after self
            shared = f"Parameters\n----------{parameters}\n{_ATTRIBUTES.format(mask=cls._mask_type)}"
            cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("{parameters}", shared)

    def forward(self, x: npt.ArrayLike, training: bool | None = None) -> np.ndarray:
        """The function's result for x, which is left as it is; ``mask`` becomes what was drawn for it.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            Of a shape that the function takes.
        training : bool, optional
            Whether to draw in this pass, whatever ``training``, ``always`` and ``fastdrop.stochastic`` say. None leaves
            it to them.

        Returns
        -------
        ndarray
            Of x's shape and dtype; x itself where nothing changes.
        """
        y: np.ndarray
        y, self.mask = self._function(
            x, **self._amount, training=self._draws(training), rng=self._stream_here, return_mask=True, **self._options
        )
        return y

    def __call__(self, x: npt.ArrayLike, training: bool | None = None) -> np.ndarray:
        """The same as ``forward``."""
        # The forward pass of a subclass need not know of training.
        return self.forward(x) if training is None else self.forward(x, training=training)

    def backward(self, dy: npt.ArrayLike) -> np.ndarray:
        """The gradient with respect to the last x, of the gradient with respect to its result.

        Parameters
        ----------
        dy : array_like of float16, bfloat16, float32 or float64, of the last x's shape

        Returns
        -------
        ndarray
            Of dy's shape and dtype; dy itself where the last forward pass changed nothing.
        """
        if self.mask is None:
            raise ValueError(f"{type(self).__name__}.backward needs the mask of a forward pass: call forward first")
        dx: np.ndarray = self.mask.backward(dy)
        return dx

    def __repr__(self) -> str:
        defaults = inspect.signature(self._function).parameters
        options = [f"{name}={value!r}" for name, value in self._options.items() if value != defaults[name].default]
        always = ["always=True"] if self.always else []
        amount = [repr(n) if name != "keep_prob" else f"keep_prob={n!r}" for name, n in self._amount.items()]
        arguments = ", ".join([*amount, *options, f"rng={self._stream!r}", *always])
        return f"{type(self).__name__}({arguments}){'' if self.training else '.eval()'}"


class _RateLayer(_Layer[Mask]):
    """A layer that drops at a rate."""

    _EXACT = ("keep_prob",)

    def __init__(self, rate: object, keep_prob: object, rng: RNG, always: bool, **options: object) -> None:
        super().__init__(self._checked_amount(rate, keep_prob), rng, always, **options)

    @classmethod
    def _checked_amount(cls, rate: object, keep_prob: object = None) -> dict[str, float]:
        dropped, kept = cls._checked_rate(rate, keep_prob)
        return {"rate": dropped} if kept == 1.0 - dropped else {"keep_prob": kept}

    @staticmethod
    def _checked_rate(rate: object, keep_prob: object = None) -> Rate:
        return _arguments.rate_of(rate, keep_prob)

    @property
    def rate(self) -> float:
        return self._amount["rate"] if "rate" in self._amount else 1.0 - self._amount["keep_prob"]

    @rate.setter
    def rate(self, rate: Number) -> None:
        self._amount = self._checked_amount(rate)

    @property
    def keep_prob(self) -> float:
        return self._amount["keep_prob"] if "keep_prob" in self._amount else 1.0 - self._amount["rate"]

    @keep_prob.setter
    def keep_prob(self, keep_prob: Number) -> None:
        self._amount = self._checked_amount(DEFAULT_RATE, keep_prob)

    def state_dict(self) -> dict[str, Any]:
        exact = {name: value for name, value in self._amount.items() if name in self._EXACT}
        return super().state_dict() | exact

    def _prepared_for(self, values: dict[str, object]) -> Callable[[], None]:
        amount = self._checked_amount(values["rate"])
        if "keep_prob" in values:
            exact = self._checked_amount(DEFAULT_RATE, values["keep_prob"])
            if 1.0 - exact.get("keep_prob", 1.0 - amount["rate"]) != amount["rate"]:
                raise ValueError(f"keep_prob must be 1 - rate, got {values['keep_prob']!r} and {values['rate']!r}")
            amount = exact
        load_rest = super()._prepared_for(values)

        def load() -> None:
            load_rest()
            self._amount = amount

        return load

    def _checked(self, name: str, value: object) -> float:
        return self._checked_rate(value).rate


class _PlainLayer(_RateLayer[Mask]):
    """A layer whose function takes a rate and nothing else."""

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        super().__init__(rate, keep_prob, rng, always)


class _ShapedLayer(_RateLayer[Mask]):
    """A layer whose function takes a rate and a noise_shape."""

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        noise_shape: Iterable[SupportsIndex | None] | None = None,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        super().__init__(rate, keep_prob, rng, always, noise_shape=_arguments.noise_pattern(noise_shape))


class _SpatialLayer(_RateLayer[DropoutMask]):
    """A layer that drops whole channels of a batch, as Keras's do."""

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        data_format: _functions.DataFormat = "channels_last",
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        formats = _functions.CHANNELS_FIRST, _functions.CHANNELS_LAST
        super().__init__(
            rate,
            keep_prob,
            rng,
            always,
            data_format=_arguments.one_of(data_format, "data_format", formats),
        )


class Dropout(_RateLayer[DropoutMask]):
    """``fastdrop.dropout`` as a layer: sets random elements to zero and scales the others up.

    {parameters}

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> layer = fastdrop.Dropout(0.5, rng=2026)
    >>> x = np.ones((2, 6), np.float32)
    >>> y = layer(x)
    >>> dx = layer.backward(np.ones_like(y))
    >>> np.array_equal(dx, y)
    True
    >>> layer.eval()(x) is x
    True

    A checkpoint in the middle of an epoch, and the mask that comes after it:

    >>> state = layer.train().state_dict()
    >>> y = layer(x)
    >>> again = fastdrop.Dropout()
    >>> again.load_state_dict(state)
    >>> np.array_equal(again(x), y)
    True
    """

    _function = staticmethod(_functions.dropout)

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        noise_shape: Iterable[SupportsIndex | None] | None = None,
        shared_axes: SupportsIndex | Iterable[SupportsIndex] | None = None,
        mode: _functions.Mode = "upscale_in_train",
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        if noise_shape is not None and shared_axes is not None:
            raise ValueError(f"give noise_shape or shared_axes, not both: got {noise_shape!r} and {shared_axes!r}")
        super().__init__(
            rate,
            keep_prob,
            rng,
            always,
            noise_shape=_arguments.noise_pattern(noise_shape),
            shared_axes=_arguments.axes_pattern(shared_axes, "shared_axes"),
            mode=_arguments.one_of(mode, "mode", (_functions.UPSCALE, _functions.DOWNSCALE)),
        )


class Dropout1d(_PlainLayer[DropoutMask]):
    """``fastdrop.dropout1d`` as a layer, and PyTorch's of this name: whole channels of (N, C, L) or (C, L).

    {parameters}
    """

    _function = staticmethod(_functions.dropout1d)


class Dropout2d(_PlainLayer[DropoutMask]):
    """``fastdrop.dropout2d`` as a layer, and PyTorch's of this name: whole channels of (N, C, H, W) or (C, H, W).

    Three dimensions are one image here, and for now (N, C, L) in PyTorch, which warns: that is ``Dropout1d``.

    {parameters}
    """

    _function = staticmethod(_functions.dropout2d)


class Dropout3d(_PlainLayer[DropoutMask]):
    """``fastdrop.dropout3d`` as a layer, and PyTorch's of this name: whole channels of (N, C, D, H, W) or (C, D, H, W).

    {parameters}
    """

    _function = staticmethod(_functions.dropout3d)


class DropBlock2d(_RateLayer[BlockMask]):
    """``fastdrop.drop_block2d`` as a layer: drops squares of the channels of (N, C, H, W) or (C, H, W).

    timm and torchvision have it by this name; timm's rate is 0.1 if you say nothing.

    {parameters}
    """

    _function = staticmethod(_blocks.drop_block2d)
    _mask_type = "BlockMask"

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        block_size: SupportsIndex = _blocks.BLOCK_SIZE,
        *,
        keep_prob: Number | None = None,
        data_format: _functions.DataFormat = "channels_first",
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        formats = _functions.CHANNELS_FIRST, _functions.CHANNELS_LAST
        super().__init__(
            rate,
            keep_prob,
            rng,
            always,
            block_size=_arguments.count(block_size, "block_size"),
            data_format=_arguments.one_of(data_format, "data_format", formats),
        )


class SpatialDropout1D(_SpatialLayer):
    """Keras's layer of this name: drops features of whole sequences (N, L, C), or (N, C, L) with channels first.

    {parameters}
    """

    _function = staticmethod(_functions.spatial_dropout("L"))


class SpatialDropout2D(_SpatialLayer):
    """Keras's layer of this name: drops channels of (N, H, W, C), or (N, C, H, W) with channels first.

    {parameters}
    """

    _function = staticmethod(_functions.spatial_dropout("HW"))


class SpatialDropout3D(_SpatialLayer):
    """Keras's layer of this name: drops channels of (N, D, H, W, C), or (N, C, D, H, W) with channels first.

    {parameters}
    """

    _function = staticmethod(_functions.spatial_dropout("DHW"))


class DropPath(_RateLayer[DropoutMask]):
    """``fastdrop.drop_path`` as a layer: drops whole samples, at the end of a residual branch.

    {parameters}
    """

    _function = staticmethod(_functions.drop_path)

    def __init__(
        self,
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        mode: _functions.Mode = "upscale_in_train",
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        checked_mode = _arguments.one_of(mode, "mode", (_functions.UPSCALE, _functions.DOWNSCALE))
        super().__init__(rate, keep_prob, rng, always, mode=checked_mode)


class DropConnect(_PlainLayer[DropoutMask]):
    """``fastdrop.dropconnect`` as a layer: drops weights, which are what ``forward`` takes.

    {parameters}
    """

    _function = staticmethod(_functions.dropconnect)


class EmbeddingDropout(_PlainLayer[DropoutMask]):
    """``fastdrop.embedding_dropout`` as a layer: drops whole rows of a table, which is what ``forward`` takes.

    {parameters}
    """

    _function = staticmethod(_functions.embedding_dropout)


class AlphaDropout(_ShapedLayer[AlphaMask]):
    """``fastdrop.alpha_dropout`` as a layer: keeps mean and variance, for networks with SELU.

    {parameters}
    """

    _function = staticmethod(_noise.alpha_dropout)
    _mask_type = "AlphaMask"


class FeatureAlphaDropout(_PlainLayer[AlphaMask]):
    """``fastdrop.feature_alpha_dropout`` as a layer: alpha dropout of whole channels of (N, C, ...).

    {parameters}
    """

    _function = staticmethod(_noise.feature_alpha_dropout)
    _mask_type = "AlphaMask"


class GaussianDropout(_ShapedLayer[GaussianMask]):
    """``fastdrop.gaussian_dropout`` as a layer: multiplies by normal numbers of mean 1. The rate must be below 1.

    {parameters}
    """

    _function = staticmethod(_noise.gaussian_dropout)
    _mask_type = "GaussianMask"

    @staticmethod
    def _checked_rate(rate: object, keep_prob: object = None) -> Rate:
        checked = _arguments.rate_of(rate, keep_prob)
        if checked.rate == 1.0:
            raise ValueError("rate must be below 1 for GaussianDropout, whose variance is rate / (1 - rate), got 1.0")
        return checked


class GaussianNoise(_Layer[GaussianMask]):
    """``fastdrop.gaussian_noise`` as a layer: adds normal numbers of mean 0.

    {parameters}
    """

    _function = staticmethod(_noise.gaussian_noise)
    _mask_type = "GaussianMask"
    _NUMBERS = ("stddev",)

    def __init__(
        self,
        stddev: Number,
        *,
        noise_shape: Iterable[SupportsIndex | None] | None = None,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        amount = {"stddev": _arguments.standard_deviation(stddev)}
        super().__init__(amount, rng, always, noise_shape=_arguments.noise_pattern(noise_shape))

    @property
    def stddev(self) -> float:
        return self._amount["stddev"]

    @stddev.setter
    def stddev(self, stddev: Number) -> None:
        self._amount = {"stddev": _arguments.standard_deviation(stddev)}

    def _checked(self, name: str, value: object) -> float:
        return _arguments.standard_deviation(value)
