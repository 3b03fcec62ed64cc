# SPDX-License-Identifier: BSD-3-Clause
"""Masks that are drawn when they are looked at."""

from __future__ import annotations

import functools
import operator
from typing import Any, NoReturn, Self, TypeAlias

import numpy as np
import numpy.typing as npt

import fastdrop
from fastdrop import _arguments, _engine
from fastdrop._operations import Operation

Dims: TypeAlias = tuple[tuple[int, int], ...] | None


def _in_state(position: int) -> Any:
    """An attribute that stands in a mask's state."""
    return property(lambda mask: mask._state[position])


class _Mask:
    """What masks of all kinds are: a key, a call number, and where the elements lie in the stream."""

    # One tuple holds all that a mask is: layers make one at every call, and setting nine attributes took a microsecond.
    __slots__ = ("_state",)
    __iter__ = None  # indexing raises ValueError, which the old iteration protocol does not expect

    _state: tuple
    shape: tuple[int, ...] = _in_state(0)
    key: int | None = _in_state(1)
    call: int | None = _in_state(2)
    _offset: int = _in_state(3)  # of the first element, in the stream
    _strides: tuple[int, ...] = _in_state(4)  # there, in elements; 0 along a dimension that shares its decisions

    def _fill(self, *state: Any) -> None:
        object.__setattr__(self, "_state", state)

    @property
    def _dims(self) -> Dims:
        """Where the elements lie, as Kernels take it."""
        return _collapsed(self.shape, self._strides)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

    def _draw(self) -> tuple[int, int]:
        return self.key or 0, self.call or 0

    def _check(self, x: Any, out: Any, name: str) -> np.ndarray:
        """x, as an array that the mask can be applied to, with the result in out."""
        x = _arguments.operand(x, out, name)
        if x.shape != self.shape:
            raise ValueError(f"{name} must have the shape of the mask, {self.shape}, got {x.shape}")
        return x

    def __getitem__(self, index: Any) -> Self:
        """The mask of the part ``x[index]`` of an array, for slices without steps, ints and an Ellipsis."""
        shape, strides = [], []
        offset = self._offset
        for at, length, stride in zip(_expanded(index, self.shape), self.shape, self._strides, strict=True):
            first, n = _range(at, length)
            offset += first * stride
            if n is not None:
                shape.append(n)
                strides.append(stride)
        _, key, call, _, _, *rest = self._state
        return _restore(type(self), tuple(shape), key, call, offset, tuple(strides), *rest)

    @property
    def _is_whole(self) -> bool:
        """Whether it is not a part of another."""
        return self._offset == 0 and self._strides == _strides(self.shape, _noise_shape(self.shape, self._strides))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._state == other._state if isinstance(other, _Mask) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._state))

    def __reduce__(self) -> tuple:
        return _restore, (type(self), *self._state)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"masks are immutable: {name} can not be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"masks are immutable: {name} can not be deleted")

    def _described(self, text: str) -> str:
        return text if self._is_whole else f"<part of a mask, from element {self._offset} on: {text}>"


class DropoutMask(_Mask):
    """The mask of one draw, without its memory: a recipe of a few numbers, carried out when needed.

    Applied again it gives the same zeros at the same places, so it is what a backward pass needs, and a part of it
    (``mask[2:4]``) is what a chunk or a shard of the array needs. It is immutable, hashable and small to pickle.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the arrays that it applies to.
    rate : float
        The probability to drop, from 0 to 1.
    key : int
        64 bits, as ``PhiloxStream.key``.
    call : int
        The number of the draw, below 2**56.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn: one length a dimension, 1 (one decision along this dimension) or the
        array's own, which None stands for.
    scale : float, optional
        What kept elements are multiplied by. ``1 / (1 - rate)`` by default, which keeps the expected value; 1 for the
        form of dropout that scales at inference instead.

    Attributes
    ----------
    shape, rate, key, call, noise_shape, scale
        As given; ``noise_shape`` with its None filled in, and None where it is ``shape``. ``key`` and ``call`` are
        None for a mask made by ``from_array``. ``scale`` is 0 at rate 1, where nothing is kept, unless it was given.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.DropoutMask((4, 6), 0.5, key=2026)
    >>> np.asarray(mask)[1].astype(int)
    array([1, 1, 0, 0, 0, 1])
    >>> np.array_equal(np.asarray(mask[1:3, 2:]), np.asarray(mask)[1:3, 2:])
    True
    """

    __slots__ = ()

    rate: float = _in_state(5)
    _bits: bytes | None = _in_state(6)  # keep bits from an array, in place of the stream
    _scale: float | None = _in_state(7)  # None where it follows from the rate

    def __init__(
        self,
        shape: Any,
        rate: float,
        *,
        key: int,
        call: int = 0,
        noise_shape: Any = None,
        scale: float | None = None,
    ) -> None:
        shape = _arguments.mask_shape(shape)
        noise = _arguments.noise_lengths(noise_shape, shape)
        rate = _arguments.probability(rate, "rate")
        self._fill(
            shape,
            _arguments.unsigned(key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(call, "call", _arguments.CALL_BITS),
            0,
            _strides(shape, noise),
            rate,
            None,
            None if scale is None else _unusual(_arguments.finite(scale, "scale"), rate),
        )

    @classmethod
    def from_array(cls, keep: npt.ArrayLike, rate: float) -> Self:
        """A mask from booleans that somebody else drew, for example to replay a published result.

        Parameters
        ----------
        keep : array_like of bool
            True where an element is kept. It is packed to one bit an element.
        rate : float
            Sets the scale of the kept elements, 1 / (1 - rate), and nothing else; 0 leaves them as they are.
        """
        keep = np.asarray(keep)
        if keep.dtype != np.bool_:
            raise TypeError(f"keep must be an array of bool, got dtype {keep.dtype}: pass keep.astype(bool)")
        rate = _arguments.probability(rate, "rate")
        if rate == 1.0 and keep.any():
            raise ValueError("rate must be below 1 where keep keeps any element, because the scale is 1 / (1 - rate)")
        bits = np.packbits(keep, axis=None, bitorder="little").tobytes()
        return _restore(cls, keep.shape, None, None, 0, _strides(keep.shape, None), rate, bits, None)

    # What follows from the parameters

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        return _noise_shape(self.shape, self._strides)

    @property
    def keep_prob(self) -> float:
        """The probability to keep, ``1 - rate``."""
        return 1.0 - self.rate

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by."""
        return _engine.threshold_and_scale(self.rate)[1] if self._scale is None else self._scale

    @property
    def threshold(self) -> int:
        """An element is dropped iff its 32 random bits are below this: rate * 2**32, rounded, ties to even."""
        return _engine.threshold_and_scale(self.rate)[0]

    # What a mask is for

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Drop and scale the elements of an array by this mask: the forward pass again, or the backward pass.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64, of the mask's shape
            Activations, or the gradient with respect to them.
        out : ndarray, optional
            Where the result goes; x itself for in place. Of x's shape, and of a dtype that holds x's without loss.

        Returns
        -------
        ndarray
            ``x * scale`` where kept, +0 where dropped; ``out`` if given. At rate 0 it is x itself.
        """
        return self._scaled(self._check(x, out, "x"), out, self.scale)

    def backward(self, dy: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient with respect to x, of the gradient with respect to the result: the same as ``apply``.

        Parameters
        ----------
        dy : array_like of float16, bfloat16, float32 or float64, of the mask's shape
            The gradient with respect to the result.
        out : ndarray, optional
            As in ``apply``.
        """
        return self._scaled(self._check(dy, out, "dy"), out, self.scale)

    def _scaled(self, x: np.ndarray, out: np.ndarray | None, scale: float) -> np.ndarray:
        _, key, call, _, _, rate, bits, _ = self._state  # at once: seven properties take half a microsecond
        if rate == 0.0 and bits is None and scale == 1.0:
            return _engine.copied(x, out)
        result = _engine.result_for(x) if out is None else out
        threshold, _ = _engine.threshold_and_scale(rate)
        _engine.apply(x, result, key or 0, call or 0, threshold, scale, *self.places())
        return result

    def packbits(self) -> npt.NDArray[np.uint8]:
        """The mask as one bit an element in C order, little bit order: what ``numpy.packbits`` makes of it.

        Returns
        -------
        ndarray of uint8, shape ((size + 7) // 8,)
            Element i is bit ``i % 8`` of byte ``i // 8``, 1 where kept. Unused bits are 0.
        """
        offset, dims, bits = self.places()
        if dims is None and bits is None:
            return fastdrop._kernels.keep_bits(self.size, *self._draw(), self.threshold, offset)
        return np.packbits(np.asarray(self), axis=None, bitorder="little")

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("masks have no memory to share: np.asarray(mask) draws a new array")
        keep = _engine.keep(self.shape, *self._draw(), self.threshold, *self.places())
        return keep if dtype is None else keep.astype(dtype, copy=False)

    def places(self) -> tuple[int, Dims, npt.NDArray[np.uint8] | None]:
        """Where the elements lie, as ``Kernels`` takes it: offset, dims, bits."""
        shape, _, _, offset, strides, _, bits, _ = self._state
        dims = _collapsed(shape, strides)
        if bits is not None:
            return offset, dims, np.frombuffer(bits, np.uint8)
        span = 0 if dims is None else _span(dims)
        if 0 < span <= 8 * self.size:  # else it is a narrow part of a wide mask
            return 0, dims, fastdrop._kernels.keep_bits(span, *self._draw(), self.threshold, offset)
        return offset, dims, None

    # What a value is expected to have

    def __reduce__(self) -> tuple:
        if self._bits is None and self._is_whole:
            state = (self.shape, self.rate, self.key, self.call, self.noise_shape)
            is_usual = type(self) is DropoutMask and self._scale is None
            return _whole, state if is_usual else (*state, self._scale, type(self))
        return super().__reduce__()

    def __repr__(self) -> str:
        name = type(self).__name__
        scale = "" if self._scale is None else f", scale={self._scale}"
        if self._bits is not None:
            return f"<{name} from an array: shape={self.shape}, rate={self.rate}{scale}>"
        noise = "" if self.noise_shape is None else f", noise_shape={self.noise_shape}"
        return self._described(f"{name}({self.shape}, {self.rate}, key={self.key:#x}, call={self.call}{noise}{scale})")


class AlphaMask(DropoutMask):
    """The mask of an alpha dropout, which sets elements to SELU's lower limit and shifts and scales all.

    It has the parameters and attributes of a ``DropoutMask``, of which ``scale`` follows from the rate.
    ``apply`` is the forward pass, and ``backward`` the gradient: dropped elements have none.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.AlphaMask(5, 0.5, key=2026)
    >>> np.asarray(mask).astype(int)
    array([1, 1, 0, 0, 0])
    >>> mask.apply(np.zeros(5)).round(3)
    array([ 0.779,  0.779, -0.779, -0.779, -0.779])
    >>> mask.backward(np.ones(5)).round(3)
    array([0.886, 0.886, 0.   , 0.   , 0.   ])
    """

    __slots__ = ()

    def __init__(self, shape: Any, rate: float, *, key: int, call: int = 0, noise_shape: Any = None) -> None:
        super().__init__(shape, rate, key=key, call=call, noise_shape=noise_shape)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by, and then shifted: ``((1 - rate) * (1 + rate * limit**2))**-0.5``."""
        return alpha_numbers(self.rate)[0]

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Alpha dropout by this mask: the forward pass again. Parameters as for ``DropoutMask.apply``."""
        x = self._check(x, out, "x")
        if self.rate == 0.0 and self._bits is None:
            return _engine.copied(x, out)
        result = _engine.result_for(x) if out is None else out
        scale, shift, fill = alpha_numbers(self.rate)
        terms = {"op": Operation.ALPHA_DROPOUT, "shift": shift, "fill": fill}
        _engine.apply(x, result, *self._draw(), self.threshold, scale, *self.places(), terms)
        return result


@functools.lru_cache
def alpha_numbers(rate: float) -> tuple[float, float, float]:
    """Scale and shift of kept elements, and what dropped ones become, such that mean 0 and variance 1 stay.

    With keep = 1 - rate and SELU's limit L for very negative input, values x with mean 0 and variance 1 have, once some
    are set to L, the mean ``rate * L`` and the variance ``keep * (1 + rate * L**2)``. At rate 1 all become 0, to which
    everything tends there.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NIPS 2017, whose lambda
    and alpha (here as float64) make the limit: ``L = -lambda * alpha``.
    """
    if rate == 1.0:
        return 0.0, 0.0, 0.0
    limit = -1.0507009873554805 * 1.6732632423543772
    scale = ((1.0 - rate) * (1.0 + rate * limit * limit)) ** -0.5
    shift = -scale * rate * limit
    return scale, shift, scale * limit * (1.0 - rate)  # which is scale * limit + shift without its cancellation


class GaussianMask(_Mask):
    """The normal numbers of one draw, without their memory.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the arrays that it applies to.
    stddev : float
        The standard deviation of the noise, at least 0.
    key, call : int
        As for a ``DropoutMask``.
    additive : bool
        Whether the noise is added to the elements (``x + stddev * N``), or they are multiplied by one plus the noise
        (``x * (1 + stddev * N)``).

    Notes
    -----
    The numbers are made in float32 from Box and Muller's transform of 31 + 32 random bits, the same for every dtype,
    and none is larger than 6.66. They come from a domain of the stream of their own: a ``DropoutMask`` with the same
    key and call is independent of them.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.GaussianMask(3, 0.5, key=2026)
    >>> np.asarray(mask)
    array([0.8868489, 1.0589284, 1.2773517], dtype=float32)
    >>> mask.apply(np.full(3, 10, np.float32))
    array([ 8.868489, 10.589284, 12.773518], dtype=float32)
    """

    __slots__ = ()

    stddev: float = _in_state(5)
    additive: bool = _in_state(6)

    def __init__(self, shape: Any, stddev: float, *, key: int, call: int = 0, additive: bool = False) -> None:
        shape = _arguments.mask_shape(shape)
        self._fill(
            shape,
            _arguments.unsigned(key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(call, "call", _arguments.CALL_BITS),
            0,
            _strides(shape, None),
            _arguments.standard_deviation(stddev),
            _arguments.flag(additive, "additive"),
        )

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Multiply or add: the forward pass again.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64, of the mask's shape
        out : ndarray, optional
            Where the result goes; x itself for in place. Of x's shape, and of a dtype that holds x's without loss.

        Returns
        -------
        ndarray
            Of x's shape and dtype, or ``out``. With a standard deviation of 0 it is x itself.
        """
        return self._perturbed(self._check(x, out, "x"), out)

    def backward(self, dy: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient with respect to x: dy times what x was multiplied by, or dy itself where noise was added."""
        dy = self._check(dy, out, "dy")
        return _engine.copied(dy, out) if self.additive else self._perturbed(dy, out)

    def _perturbed(self, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        if self.stddev == 0.0:
            return _engine.copied(x, out)
        result = _engine.result_for(x) if out is None else out
        op = Operation.GAUSSIAN_NOISE if self.additive else Operation.GAUSSIAN_DROPOUT
        _engine.apply(x, result, *self._draw(), 0, self.stddev, self._offset, self._dims, None, {"op": op})
        return result

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """What elements are multiplied by, or what is added to them, in float32."""
        if copy is False:
            raise ValueError("masks have no memory to share: np.asarray(mask) draws a new array")
        factors = self._perturbed(np.full(self.shape, 0 if self.additive else 1, np.float32), None)
        return factors if dtype is None else factors.astype(dtype, copy=False)

    def __repr__(self) -> str:
        additive = ", additive=True" if self.additive else ""
        text = f"GaussianMask({self.shape}, {self.stddev}, key={self.key:#x}, call={self.call}{additive})"
        return self._described(text)


def _whole(
    shape: Any,
    rate: float,
    key: int,
    call: int,
    noise_shape: Any,
    scale: float | None = None,
    cls: type = DropoutMask,
) -> Any:
    """A mask that its parameters say all about, which need no check."""
    scale = None if scale is None else _unusual(scale, rate)
    return _restore(cls, shape, key, call, 0, _strides(shape, noise_shape), rate, None, scale)


def _unusual(scale: float, rate: float) -> float | None:
    """None for the scale that follows from the rate, so that masks which do the same are equal."""
    return None if scale == _engine.threshold_and_scale(rate)[1] else scale


def _whole_gaussian(shape: tuple[int, ...], key: int, call: int, stddev: float, additive: bool) -> GaussianMask:
    """``_whole`` for normal numbers."""
    return _restore(GaussianMask, shape, key, call, 0, _strides(shape, None), stddev, additive)


def _restore(cls: type, *state: Any) -> Any:
    """A mask from values that need no check."""
    mask: Any = object.__new__(cls)
    mask._fill(*state)
    return mask


def _noise_shape(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a mask is drawn, None where it is its own."""
    noise = tuple(min(n, 1) if stride == 0 else n for n, stride in zip(shape, strides, strict=True))
    return None if noise == shape else noise


# Networks draw masks of the same few shapes again and again.
@functools.lru_cache
def _strides(shape: tuple[int, ...], noise_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Steps in the stream, in elements, along each dimension: 0 along one that shares its decisions."""
    strides = []
    step = 1
    for length, drawn in zip(reversed(shape), reversed(noise_shape or shape), strict=True):
        strides.append(step if drawn == length else 0)
        step *= max(drawn, 1)
    return tuple(reversed(strides))


@functools.lru_cache
def _collapsed(shape: tuple[int, ...], strides: tuple[int, ...]) -> Dims:
    """(length, stride) of the fewest dimensions that say the same; None for elements that follow each other."""
    dims: list[tuple[int, int]] = []
    for length, stride in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if dims and dims[-1][1] == length * stride:
            dims[-1] = (dims[-1][0] * length, stride)
        else:
            dims.append((length, stride))
    follow_each_other = not dims or (len(dims) == 1 and dims[0][1] == 1) or 0 in shape
    return None if follow_each_other else tuple(dims)


@functools.lru_cache
def _span(dims: tuple[tuple[int, int], ...]) -> int:
    """How many decisions to draw once for the time of a call, because elements share them; 0 where they do not."""
    if all(stride != 0 for _, stride in dims):
        return 0
    return 1 + sum((n - 1) * stride for n, stride in dims)


def _expanded(index: Any, shape: tuple[int, ...]) -> list[Any]:
    """One index for each dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise ValueError(f"a mask's index can have one Ellipsis, got {index!r}")
    missing = len(shape) - (len(parts) - len(dots))
    if missing < 0:
        raise ValueError(f"a mask of shape {shape} takes at most {len(shape)} indices, got {index!r}")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * missing + parts[at + len(dots) :]


def _range(at: Any, length: int) -> tuple[int, int | None]:
    """First element and number of them; no number for an int, which takes its dimension away."""
    if isinstance(at, slice):
        if at.step not in (None, 1):
            raise ValueError(f"a mask can be sliced without steps only, got {at}")
        try:
            bounds = [None if bound is None else operator.index(bound) for bound in (at.start, at.stop)]
        except TypeError:
            raise TypeError(f"a mask's slice must have ints as bounds, got {at}") from None
        if any(bound is not None and not -length <= bound <= length for bound in bounds):
            raise ValueError(f"a mask's slice must stay within its dimension of length {length}, got {at}")
        first, last, _ = slice(*bounds).indices(length)
        return first, max(last - first, 0)
    if not _arguments.is_index(at):
        raise TypeError(f"a mask takes slices without steps, ints and an Ellipsis as indices, got {at!r}")
    first = operator.index(at)
    if not -length <= first < length:
        raise ValueError(f"a mask's index must be within its dimension of length {length}, got {first}")
    return first % length, None
