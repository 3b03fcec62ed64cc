# SPDX-License-Identifier: BSD-3-Clause
"""Masks that are drawn when they are looked at."""

from __future__ import annotations

import operator
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

import fastdrop
from fastdrop import _arguments, _engine

Dims: TypeAlias = tuple[tuple[int, int], ...] | None


class DropoutMask:
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

    Attributes
    ----------
    shape, rate, key, call, noise_shape
        As given; ``noise_shape`` with its None filled in, and None where it is ``shape``. ``key`` and ``call`` are
        None for a mask made by ``from_array``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.DropoutMask((4, 6), 0.5, key=2026)
    >>> np.asarray(mask)[1].astype(int)
    array([1, 0, 0, 0, 1, 1])
    >>> np.array_equal(np.asarray(mask[1:3, 2:]), np.asarray(mask)[1:3, 2:])
    True
    """

    _STATE = ("shape", "rate", "key", "call", "noise_shape", "_offset", "_strides", "_bits")
    __slots__ = (*_STATE, "_dims")
    __iter__ = None  # indexing raises ValueError, which the old iteration protocol does not expect

    shape: tuple[int, ...]
    rate: float
    key: int | None
    call: int | None
    noise_shape: tuple[int, ...] | None
    _offset: int  # of the first element, in the stream or in _bits
    _strides: tuple[int, ...]  # there, in elements; 0 along a dimension that shares its decisions
    _bits: bytes | None  # keep bits from an array, in place of the stream
    _dims: Dims  # what follows from shape and _strides, as Kernels take it

    def __init__(self, shape: Any, rate: float, *, key: int, call: int = 0, noise_shape: Any = None) -> None:
        shape = _arguments.mask_shape(shape)
        noise = _arguments.noise_lengths(noise_shape, shape)
        self._fill(
            shape,
            _arguments.probability(rate, "rate"),
            _arguments.unsigned(key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(call, "call", _arguments.CALL_BITS),
            noise,
            0,
            _strides(shape, noise),
            None,
        )

    @classmethod
    def from_array(cls, keep: npt.ArrayLike, rate: float) -> DropoutMask:
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
        return _restore(keep.shape, rate, None, None, None, 0, _strides(keep.shape, None), bits)

    def _fill(self, *values: Any) -> None:
        for name, value in zip(self._STATE, values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_dims", _collapsed(self.shape, self._strides))

    def _state(self) -> tuple:
        return tuple(getattr(self, name) for name in self._STATE)

    # What follows from the parameters

    @property
    def keep_prob(self) -> float:
        """The probability to keep, ``1 - rate``."""
        return 1.0 - self.rate

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by, ``1 / (1 - rate)``, or 0 at rate 1, where there are none."""
        return _engine.threshold_and_scale(self.rate)[1]

    @property
    def threshold(self) -> int:
        """An element is dropped iff its 32 random bits are below this: rate * 2**32, rounded, ties to even."""
        return _engine.threshold_and_scale(self.rate)[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

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
        if not fastdrop._kernels.are_plain(x, out):
            x = _arguments.float_array(x)
            if out is not None:
                _arguments.output(out, x)
        if x.shape != self.shape:
            raise ValueError(f"x must have the shape of the mask, {self.shape}, got {x.shape}")
        if self.rate == 0.0 and self._bits is None:
            return _engine.copied(x, out)
        result = _engine.result_for(x) if out is None else out
        threshold, scale = _engine.threshold_and_scale(self.rate)
        _engine.apply(x, result, *self._draw(), threshold, scale, *self.places())
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
            raise ValueError("a DropoutMask has no memory to share: np.asarray(mask) draws a new array")
        keep = _engine.keep(self.shape, *self._draw(), self.threshold, *self.places())
        return keep if dtype is None else keep.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> DropoutMask:
        """The mask of the part ``x[index]`` of an array, for slices without steps, ints and an Ellipsis."""
        slices = _expanded(index, self.shape)
        shape, noise_shape, strides = [], [], []
        offset = self._offset
        drawn_shape = self.noise_shape or self.shape
        for at, length, drawn, stride in zip(slices, self.shape, drawn_shape, self._strides, strict=True):
            first, n = _range(at, length)
            offset += first * stride
            if n is not None:
                shape.append(n)
                noise_shape.append(n if drawn == length else 1)
                strides.append(stride)
        noise = None if noise_shape == shape else tuple(noise_shape)
        return _restore(tuple(shape), self.rate, self.key, self.call, noise, offset, tuple(strides), self._bits)

    def _draw(self) -> tuple[int, int]:
        return self.key or 0, self.call or 0

    def places(self) -> tuple[int, Dims, npt.NDArray[np.uint8] | None]:
        """Where the elements lie, as ``Kernels`` takes it: offset, dims, bits."""
        dims = self._dims
        if self._bits is not None:
            return self._offset, dims, np.frombuffer(self._bits, np.uint8)
        if dims is not None and any(stride == 0 for _, stride in dims):
            # Decisions that many elements share are drawn once, and kept as bits for the time of the call.
            span = 1 + sum((n - 1) * stride for n, stride in dims)
            if span > 8 * self.size:  # a narrow part of a wide mask
                return self._offset, dims, None
            return 0, dims, fastdrop._kernels.keep_bits(span, *self._draw(), self.threshold, self._offset)
        return self._offset, dims, None

    # What a value is expected to have

    def __eq__(self, other: object) -> bool:
        return self._state() == other._state() if isinstance(other, DropoutMask) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._state())

    def __reduce__(self) -> tuple:
        if self._bits is None and self._offset == 0 and self._strides == _strides(self.shape, self.noise_shape):
            return _whole, (self.shape, self.rate, self.key, self.call, self.noise_shape)
        return _restore, self._state()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a DropoutMask is immutable: {name} can not be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a DropoutMask is immutable: {name} can not be deleted")

    def __repr__(self) -> str:
        if self._bits is not None:
            return f"<DropoutMask from an array: shape={self.shape}, rate={self.rate}>"
        noise = "" if self.noise_shape is None else f", noise_shape={self.noise_shape}"
        text = f"DropoutMask({self.shape}, {self.rate}, key={self.key:#x}, call={self.call}{noise})"
        whole = self._offset == 0 and self._strides == _strides(self.shape, self.noise_shape)
        return text if whole else f"<part of a mask, from element {self._offset} on: {text}>"


def _whole(shape: Any, rate: float, key: int, call: int, noise_shape: Any) -> DropoutMask:
    """Unpickle a mask that its parameters say all about."""
    return _restore(shape, rate, key, call, noise_shape, 0, _strides(shape, noise_shape), None)


def _restore(*state: Any) -> DropoutMask:
    """A mask from values that need no check."""
    mask = DropoutMask.__new__(DropoutMask)
    mask._fill(*state)
    return mask


def _strides(shape: tuple[int, ...], noise_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Steps in the stream, in elements, along each dimension: 0 along one that shares its decisions."""
    strides = []
    step = 1
    for length, drawn in zip(reversed(shape), reversed(noise_shape or shape), strict=True):
        strides.append(step if drawn == length else 0)
        step *= drawn
    return tuple(reversed(strides))


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
