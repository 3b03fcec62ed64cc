# SPDX-License-Identifier: BSD-3-Clause
"""Masks that are drawn when they are looked at."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _backend, _engine, _foreign, _geometry, _indexing
from fastdrop._arguments import DEFAULT_RATE, Number, Rate
from fastdrop._kernels import IndexMap, Operation, bare

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a mask may be asked as an array of booleans. Arithmetic with these would drop and not scale.
_LOGIC = (
    *(np.equal, np.not_equal, np.logical_and, np.logical_or, np.logical_xor, np.logical_not),
    *(np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert),
)


class _Mask(_backend.MaskState):
    """What masks of all kinds have in common: the part at an index, equality, immutability."""

    __slots__ = ()
    _is_factor: ClassVar[bool] = False  # whether to apply it is to multiply each element by 0 or by the scale
    __iter__ = None  # indexing raises ValueError, which the old iteration protocol does not expect

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        return _geometry.noise_shape_of(self.shape, self._strides)

    def _noise_shape_in_repr(self) -> str:
        return "" if self.noise_shape is None else f", noise_shape={self.noise_shape}"

    def _place_rows(self, shape: Any, noise_shape: Any, start: Any, key: Any, call: Any) -> None:
        """Set where the elements lie and what they are drawn by, from arguments of a constructor."""
        lengths = _arguments.mask_shape(shape)
        given = _arguments.given_lengths(noise_shape)
        strides = _geometry.strides_of(lengths, _arguments.noise_lengths(given, lengths))
        first = _arguments.first_row(start, lengths, given)
        self._place(
            lengths,
            strides,
            first * strides[0] if first > 0 else 0,
            _arguments.unsigned(key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(call, "call", _arguments.CALL_BITS),
        )

    def _numbers(self) -> tuple[Any, ...]:
        """What there is beside the key, the call number and the places of the elements, in the order of ``_made``."""
        raise NotImplementedError

    def _packed_numbers(self) -> Any:
        """The same in a pickle."""
        return self._numbers()

    def _index_map(self) -> IndexMap:
        raise NotImplementedError

    def _factor(self) -> float:
        raise NotImplementedError

    def _shift_and_fill(self) -> tuple[float, float]:
        """What alpha dropout adds to kept elements and puts in the place of others."""
        return 0.0, 0.0

    def _changes_nothing(self) -> bool:
        raise NotImplementedError

    def _checked(self, x: object, out: np.ndarray | None, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """x, as an array that the mask can be applied to, and out, if that is where the result goes."""
        array = _arguments.operand(x, out, name)
        shape = bare(array).shape
        if shape != self.shape:
            raise ValueError(f"{name} must have the shape of the mask, {self.shape}, got {shape}")
        return array, out if array is x else _engine.out_for_converted(array, out)

    def _applied(
        self,
        operation: Operation,
        x: np.ndarray,
        out: np.ndarray | None,
        other: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> np.ndarray:
        """An operation with this mask, on arrays that have been checked."""
        if self._changes_nothing() and other is None and operation is not Operation.RELU_DROPOUT:
            return _engine.copied(x, out)
        y = _engine.result_for(x) if out is None else out
        operands = _backend.Operands(x, y, self._factor(), other, bias, *self._shift_and_fill())
        _engine.apply(operation, operands, self._draw(), self._index_map())
        return y

    def __getitem__(self, index: _indexing.Index) -> Self:
        """The mask of the part ``x[index]`` of an array, for slices, ints, None and an Ellipsis."""
        shape, strides, offset = _indexing.part(index, self.shape, self._strides, self._offset)
        return self._made(shape, strides, offset, self.key, self.call, *self._numbers())

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError(f"len() of a {type(self).__name__} without dimensions")
        return self.shape[0]

    def __bool__(self) -> bool:
        return True  # there is a mask, of whatever length

    @property
    def T(self) -> Self:
        """The mask of the transposed array ``x.T``: all axes in reverse order."""
        return self.transpose()

    def transpose(self, *axes: SupportsIndex | Sequence[SupportsIndex] | None) -> Self:
        """The mask of ``x.transpose(axes)``: the same decisions, with axes in another order. It is as lazy as this one.

        Parameters
        ----------
        *axes : int, or one sequence of int
            The axes of this mask in the order in which the new one has them. Without any, or with None, they are
            reversed.

        Returns
        -------
        A mask of the same kind
            ``np.asarray(mask.transpose(axes))`` is ``np.asarray(mask).transpose(axes)``.

        Examples
        --------
        >>> import numpy as np, fastdrop
        >>> mask = fastdrop.DropoutMask((2, 3, 4), 0.5, key=2026)
        >>> mask.transpose(2, 0, 1).shape
        (4, 2, 3)
        >>> x = np.ones((2, 3, 4))
        >>> np.array_equal(mask.T.apply(x.T), mask.apply(x).T)
        True
        """
        order = _indexing.axes_of(axes, self.ndim)
        shape, strides = self.shape, self._strides
        new_shape, new_strides = tuple(shape[axis] for axis in order), tuple(strides[axis] for axis in order)
        return self._made(new_shape, new_strides, self._offset, self.key, self.call, *self._numbers())

    @classmethod
    def _made(
        cls,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int,
        key: int | None,
        call: int | None,
        *numbers: Any,
    ) -> Self:
        """A mask of values that need no check."""
        raise NotImplementedError

    @property
    def _is_whole(self) -> bool:
        """Whether it is not a part of another."""
        return self._offset == 0 and self._strides == _geometry.strides_of(self.shape, self.noise_shape)

    def _state(self) -> tuple[Any, ...]:
        return self.shape, self._strides, self._offset, self.key, self.call, *self._numbers()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Mask):
            return NotImplemented
        return type(self) is type(other) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash((type(self), self._state()))

    def __reduce__(self) -> tuple[Any, ...]:
        strides = None if self._is_in_order else self._strides
        state = self.shape, strides, self._offset, self.key, self.call, self._packed_numbers()
        return _restored, state if type(self) is DropoutMask else (*state, type(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"masks are immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"masks are immutable: {name} cannot be deleted")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """What NumPy's functions and operators do with a mask: logic, and ``where=mask``, but no arithmetic."""
        drawn, out = [isinstance(value, _Mask) for value in inputs], options.get("out", ())
        if (any(drawn) and ufunc not in _LOGIC) or any(isinstance(value, _Mask) for value in out):
            otherwise = ", or x * mask.to_array(x.dtype)" if self._is_factor else ""
            raise TypeError(
                f"{type(self).__name__} cannot stand in numpy.{ufunc.__name__}, which would lose its scale: "
                f"use mask.apply(x){otherwise}, or np.asarray(mask) for what was drawn"
            )
        arrays = [np.asarray(value) if is_mask else value for value, is_mask in zip(inputs, drawn, strict=True)]
        if isinstance(options.get("where"), _Mask):
            options["where"] = np.asarray(options["where"])
        return getattr(ufunc, method)(*arrays, **options)

    def _described(self, text: str) -> str:
        if self._is_whole:
            return text
        steps = "" if self._is_in_order else f", in steps of {self._strides}"
        return f"<part of a mask, from element {self._offset} on{steps}: {text}>"


class DropoutMask(_backend.DropoutState, _Mask):
    """The mask of one draw, without its memory: a recipe of a few numbers, carried out when needed.

    Applied again it gives the same zeros at the same places, so it is what a backward pass needs, and a part of it
    (``mask[2:4]``) is what a chunk or a shard of the array needs. Slices with steps, ``mask.T`` and ``mask[None]`` are
    masks of the same views of the array. It is immutable, hashable and small to pickle.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the arrays that it applies to.
    rate : float
        The probability to drop, from 0 to 1.
    keep_prob : float, optional
        ``1 - rate``, instead of it.
    key : int
        64 bits, as ``PhiloxStream.key``.
    call : int
        The number of the draw, below 2**56.
    noise_shape : sequence of int or None, optional
        The shape in which the mask is drawn and then broadcast. Each length is 1 (one decision along this dimension) or
        the array's own, which None stands for; lengths that are missing on the left are 1.
    scale : float, optional
        What kept elements are multiplied by. ``1 / keep_prob`` by default, which keeps the expected value; 1 for the
        form of dropout that scales at inference instead.
    start : int
        The row of a larger mask, along its first axis, with which this one begins: the part ``whole[start : start +
        shape[0]]`` of a mask that is not to be made, because nobody knows yet how many rows it will have. All other
        lengths are the whole's; a part along other axes is taken from it by ``mask[:, a:b]``.

    Attributes
    ----------
    shape, rate, keep_prob, key, call, noise_shape, scale
        As given; of ``rate`` and ``keep_prob`` the one that was not given is 1 minus the other. ``noise_shape`` with
        all its lengths, and None where it is ``shape``. ``key`` and ``call`` are None for a mask made by
        ``from_array``. ``scale`` is 0 at rate 1, where nothing is kept, unless it was given.
    threshold : int
        An element is dropped iff its 32 random bits are below this: ``rate * 2**32``, rounded, ties to even.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.DropoutMask((4, 6), 0.5, key=2026)
    >>> np.asarray(mask)[1].astype(int)
    array([1, 1, 0, 0, 0, 1])
    >>> np.array_equal(np.asarray(mask[1:3, 2:]), np.asarray(mask)[1:3, 2:])
    True
    >>> fastdrop.DropoutMask((2, 6), 0.5, key=2026, start=1) == mask[1:3]  # of however many rows
    True
    """

    __slots__ = ()
    _is_factor = True

    def __init__(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        key: SupportsIndex,
        call: SupportsIndex = 0,
        noise_shape: Sequence[SupportsIndex | None] | None = None,
        scale: Number | None = None,
        start: SupportsIndex = 0,
    ) -> None:
        self._place_rows(shape, noise_shape, start, key, call)
        checked = _arguments.rate_of(rate, keep_prob)
        number = self._usual_scale(checked) if scale is None else _arguments.finite(scale, "scale")
        self._decide(*checked, number, None)

    @classmethod
    def from_array(cls, keep: npt.ArrayLike, rate: Number = DEFAULT_RATE, *, keep_prob: Number | None = None) -> Self:
        """A mask that somebody else drew, for example to replay a published result.

        Parameters
        ----------
        keep : array_like of bool, or of float16, bfloat16, float32 or float64
            True where an element is kept. It is packed to one bit an element. Numbers are a mask that carries its
            scale, as thinc and Chainer have it, and ``to_array``: each is 0 or the scale, which is at least 1.
        rate : float
            Sets the scale of the kept elements, 1 / (1 - rate), and nothing else; 0 leaves them as they are. Booleans
            need it, or the ``keep_prob``; numbers say it themselves.
        keep_prob : float, optional
            ``1 - rate``, instead of it.

        Examples
        --------
        >>> import numpy as np, fastdrop
        >>> fastdrop.DropoutMask.from_array([True, False, True], 0.5).apply(np.full(3, 10.0))
        array([20.,  0., 20.])
        >>> fastdrop.DropoutMask.from_array([2.0, 0.0, 2.0])
        <DropoutMask from an array: shape=(3,), rate=0.5>
        """
        if isinstance(keep, np.ndarray):
            _foreign.refuse_subclass(keep, "keep must be a plain ndarray", "keep")
        else:
            _foreign.refuse(keep, "keep must be an array of bool", "keep")
        array = np.asarray(keep)
        is_rate_given = not isinstance(rate, _arguments.UnsetRate) or keep_prob is not None
        if array.dtype != np.bool_ and (is_rate_given or not cls._is_factor):
            raise TypeError(
                f"keep must be an array of bool, got dtype {array.dtype}: pass keep.astype(bool)"
                f"{', or a mask that carries its scale and no rate' if cls._is_factor else ''}"
            )
        if array.dtype != np.bool_:
            scale = _scale_in(_arguments.float_array(array, "keep"))
            checked = Rate(0.0 if scale == 1.0 else 1.0 - 1.0 / scale, 1.0 / scale) if scale > 0.0 else Rate(1.0, 0.0)
            return cls._of_booleans(array != 0, checked, scale)
        if not is_rate_given:
            raise TypeError("rate or keep_prob must be given where keep is an array of bool, to set the scale")
        checked = _arguments.rate_of(rate, keep_prob)
        if checked.rate == 1.0 and array.any():
            raise ValueError("rate must be below 1 where keep keeps any element, because the scale is 1 / (1 - rate)")
        return cls._of_booleans(array, checked, cls._usual_scale(checked))

    @classmethod
    def _of_booleans(cls, keep: np.ndarray, rate: Rate, scale: float) -> Self:
        """The mask of booleans that have been checked."""
        bits = np.packbits(keep, axis=None, bitorder="little").tobytes()
        return cls._made(keep.shape, None, 0, None, None, *rate, scale, bits)

    def _numbers(self) -> tuple[float, float, float, bytes | None]:
        return self.rate, self.keep_prob, self.scale, self._bits

    def _packed_numbers(self) -> float | tuple[float, float, float, bytes | None]:
        usual = Rate(self.rate, 1.0 - self.rate)
        numbers = self._numbers()
        return self.rate if numbers == (*usual, self._usual_scale(usual), None) else numbers

    def _unscaled(self) -> Self:
        """The same decisions, of which kept elements stay as they are."""
        place = self.shape, self._strides, self._offset, self.key, self.call
        return self._made(*place, self.rate, self.keep_prob, 1.0, self._bits)

    @staticmethod
    def _usual_scale(rate: Rate) -> float:
        """What follows from the rate."""
        return rate.scale

    @staticmethod
    def _checked_numbers(rate: Any, keep_prob: Any, scale: Any, bits: Any) -> tuple[float, float, float, bytes | None]:
        """Those of a state, in the order of ``_made``."""
        if bits is not None and not isinstance(bits, bytes):
            raise TypeError(f"a mask's state must have its bits as bytes, got {bits!r}")
        dropped, kept = _arguments.probability(rate, "rate"), _arguments.probability(keep_prob, "keep_prob")
        if dropped != 1.0 - kept and kept != 1.0 - dropped:
            raise ValueError(f"a mask's state must have a keep_prob of 1 - rate, got {keep_prob!r} and {rate!r}")
        return dropped, kept, _arguments.finite(scale, "scale"), bits

    # What follows from the parameters

    def _index_map(self) -> IndexMap:
        if self._bits is None and self._is_in_order:
            return _backend.IndexMap(self._offset) if self._offset else _engine.IN_ORDER
        bits = None if self._bits is None else np.frombuffer(self._bits, np.uint8)
        return _backend.IndexMap(self._offset, _geometry.dims_of(self.shape, self._strides), bits)

    def _factor(self) -> float:
        return self.scale

    def _changes_nothing(self) -> bool:
        return self.rate == 0.0 and self.scale == 1.0 and self._bits is None

    # What a mask is for

    @_backend.plain_apply(_geometry.walked_dims)
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
        return self._applied(Operation.DROPOUT, *self._checked(x, out, "x"))

    @_backend.plain_apply(_geometry.walked_dims)
    def backward(self, dy: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient with respect to x, of the gradient with respect to the result: the same as ``apply``.

        Parameters
        ----------
        dy : array_like of float16, bfloat16, float32 or float64, of the mask's shape
            The gradient with respect to the result.
        out : ndarray, optional
            As in ``apply``.
        """
        return self._applied(Operation.DROPOUT, *self._checked(dy, out, "dy"))

    def packbits(self) -> npt.NDArray[np.uint8]:
        """The mask as one bit an element in C order, little bit order: what ``numpy.packbits`` makes of it.

        Returns
        -------
        ndarray of uint8, shape ((size + 7) // 8,)
            Element i is bit ``i % 8`` of byte ``i // 8``, 1 where kept. Unused bits are 0.
        """
        if self._bits is None and self._is_in_order:
            return _backend.running.keep_bits(self.size, self._draw(), self._offset)
        return np.packbits(np.asarray(self), axis=None, bitorder="little")

    def to_array(self, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
        """The mask as numbers that carry its scale, as thinc and Chainer have masks: what elements are multiplied by.

        ``x * mask.to_array(x.dtype)`` is ``mask.apply(x)`` for finite x of float32 and float64, but for the sign of
        zeros. For float16 and bfloat16 ``apply`` multiplies in float32, and by the scale as float32 has it.

        Parameters
        ----------
        dtype : float16, bfloat16, float32 or float64
            What the scale is rounded to.

        Returns
        -------
        ndarray of the mask's shape
            ``scale`` where kept, 0 where dropped: of memory of its own, which the mask has not.

        Examples
        --------
        >>> import numpy as np, fastdrop
        >>> fastdrop.DropoutMask(6, 0.5, key=2026).to_array()
        array([2., 2., 0., 0., 0., 2.], dtype=float32)
        """
        return self.apply(np.ones(self.shape, _arguments.float_dtype(dtype)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("masks have no memory to share: np.asarray(mask) draws a new array")
        keep = _engine.keep(self.shape, self._draw(), self._index_map())
        return keep if dtype is None else keep.astype(dtype, copy=False)

    # What a value is expected to have

    def __repr__(self) -> str:
        name = type(self).__name__
        is_usual = self.scale == self._usual_scale(Rate(self.rate, self.keep_prob))
        scale = "" if is_usual else f", scale={self.scale}"
        if self._bits is not None:
            return f"<{name} from an array: shape={self.shape}, rate={self.rate}{scale}>"
        amount = f"{self.rate}" if self.keep_prob == 1.0 - self.rate else f"keep_prob={self.keep_prob}"
        draw = f"key={self.key:#x}, call={self.call}{self._noise_shape_in_repr()}"
        return self._described(f"{name}({self.shape}, {amount}, {draw}{scale})")


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
    _is_factor = False

    def __init__(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        rate: Number = DEFAULT_RATE,
        *,
        keep_prob: Number | None = None,
        key: SupportsIndex,
        call: SupportsIndex = 0,
        noise_shape: Sequence[SupportsIndex | None] | None = None,
        start: SupportsIndex = 0,
    ) -> None:
        super().__init__(shape, rate, keep_prob=keep_prob, key=key, call=call, noise_shape=noise_shape, start=start)

    @staticmethod
    def _usual_scale(rate: Rate) -> float:
        return alpha_numbers(*rate)[0]

    def _shift_and_fill(self) -> tuple[float, float]:
        return alpha_numbers(self.rate, self.keep_prob)[1:]

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Alpha dropout by this mask: the forward pass again. Parameters as for ``DropoutMask.apply``."""
        return self._applied(Operation.ALPHA_DROPOUT, *self._checked(x, out, "x"))

    def to_array(self, dtype: npt.DTypeLike = np.float32) -> NoReturn:
        """Refused: alpha dropout shifts elements too, so no array of factors stands for its mask."""
        raise TypeError("an AlphaMask has no array of factors, because it shifts elements too: use mask.apply(x)")


@functools.lru_cache
def alpha_numbers(rate: float, keep_prob: float | None = None) -> tuple[float, float, float]:
    """Scale and shift of kept elements, and what dropped ones become, such that mean 0 and variance 1 stay.

    With keep_prob = 1 - rate and SELU's limit L for very negative input, values x with mean 0 and variance 1 have, once
    some are set to L, the mean ``rate * L`` and the variance ``keep_prob * (1 + rate * L**2)``. At rate 1 all become 0,
    to which everything tends there.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NIPS 2017, whose lambda
    and alpha (here as float64) make the limit: ``L = -lambda * alpha``.
    """
    if rate == 1.0:
        return 0.0, 0.0, 0.0
    kept = 1.0 - rate if keep_prob is None else keep_prob
    limit = -1.0507009873554805 * 1.6732632423543772
    scale = (kept * (1.0 + rate * limit * limit)) ** -0.5
    shift = -scale * rate * limit
    return scale, shift, scale * limit * kept  # which is scale * limit + shift without its cancellation


class GaussianMask(_Mask):
    """The normal numbers of one draw, without their memory.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the arrays that it applies to.
    stddev : float
        The standard deviation of the noise, at least 0.
    key, call, noise_shape, start
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

    __slots__ = ("_noise",)

    _noise: tuple[float, bool]

    def __init__(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        stddev: Number,
        *,
        key: SupportsIndex,
        call: SupportsIndex = 0,
        noise_shape: Sequence[SupportsIndex | None] | None = None,
        additive: bool = False,
        start: SupportsIndex = 0,
    ) -> None:
        self._place_rows(shape, noise_shape, start, key, call)
        noise = _arguments.standard_deviation(stddev), _arguments.flag(additive, "additive")
        object.__setattr__(self, "_noise", noise)

    @classmethod
    def _made(
        cls,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int,
        key: int | None,
        call: int | None,
        *numbers: Any,
    ) -> Self:
        mask = cls.__new__(cls)
        mask._place(shape, strides, offset, key, call)
        object.__setattr__(mask, "_noise", numbers)
        return mask

    def _numbers(self) -> tuple[float, bool]:
        return self._noise

    @staticmethod
    def _checked_numbers(stddev: Any, additive: Any) -> tuple[float, bool]:
        """Those of a state, in the order of ``_made``."""
        return _arguments.standard_deviation(stddev), _arguments.flag(additive, "additive")

    @property
    def stddev(self) -> float:
        return self._noise[0]

    @property
    def additive(self) -> bool:
        return self._noise[1]

    def _index_map(self) -> IndexMap:
        return _backend.IndexMap(
            self._offset, None if self._is_in_order else _geometry.dims_of(self.shape, self._strides)
        )

    def _factor(self) -> float:
        return self.stddev

    def _changes_nothing(self) -> bool:
        return self.stddev == 0.0

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
        return self._perturbed(*self._checked(x, out, "x"))

    def backward(self, dy: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient with respect to x: dy times what x was multiplied by, or dy itself where noise was added."""
        array, out = self._checked(dy, out, "dy")
        return _engine.copied(array, out) if self.additive else self._perturbed(array, out)

    def _perturbed(self, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        operation = Operation.GAUSSIAN_NOISE if self.additive else Operation.GAUSSIAN_DROPOUT
        return self._applied(operation, x, out)

    def to_array(self, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
        """What elements of a dtype are multiplied by, or what is added to them, as for ``DropoutMask.to_array``."""
        kind = _arguments.float_dtype(dtype)
        return self._perturbed(np.full(self.shape, 0 if self.additive else 1, kind), None)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """The same in float32."""
        if copy is False:
            raise ValueError("masks have no memory to share: np.asarray(mask) draws a new array")
        factors = self.to_array()
        return factors if dtype is None else factors.astype(dtype, copy=False)

    def __repr__(self) -> str:
        additive = ", additive=True" if self.additive else ""
        draw = f"key={self.key:#x}, call={self.call}{self._noise_shape_in_repr()}"
        return self._described(f"GaussianMask({self.shape}, {self.stddev}, {draw}{additive})")


def _scale_in(array: np.ndarray) -> float:
    """The scale of a mask that carries it: 0 where nothing is kept."""
    scale = float(array.max(initial=0.0))
    if not (scale == 0.0 or 1.0 <= scale < math.inf) or not ((array == 0) | (array == scale)).all():
        raise ValueError(
            "keep must hold 0 where an element is dropped and one number of at least 1, the scale, where it is kept; "
            "for other numbers pass keep.astype(bool) and a rate"
        )
    return scale


def _restored(
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    offset: int,
    key: int | None,
    call: int | None,
    numbers: Any,
    cls: type[DropoutMask | GaussianMask] = DropoutMask,
) -> DropoutMask | GaussianMask:
    """A mask in the state that was pickled, which may have come from anywhere."""
    if not (isinstance(cls, type) and issubclass(cls, (DropoutMask, GaussianMask))):
        raise TypeError(f"a mask's state must be of a class of masks, got {cls!r}")
    shape = _arguments.mask_shape(shape)
    check_places(shape, strides, offset)
    if key is not None:
        key = _arguments.unsigned(key, "key", _arguments.KEY_BITS)
        call = _arguments.unsigned(call, "call", _arguments.CALL_BITS)
    if isinstance(numbers, float) and issubclass(cls, DropoutMask):
        rate = _arguments.rate_of(numbers)
        numbers = (*rate, cls._usual_scale(rate), None)
    elif not isinstance(numbers, tuple):
        raise TypeError(f"a mask's state must have its numbers in a tuple, got {numbers!r}")
    mask = cls._made(shape, strides, offset, key, call, *cls._checked_numbers(*numbers))
    bits = mask._bits if isinstance(mask, DropoutMask) else None
    if (key is None) != (bits is not None):
        raise ValueError("a mask's state must have a key or bits, and not both")
    end = 1 + _geometry.first_and_last(shape, mask._strides, offset)[1] if mask.size > 0 else 0
    if bits is not None and end > 8 * len(bits):
        raise ValueError(f"a mask's state must have a bit for each of {end} elements, got {8 * len(bits)} bits")
    return mask


def check_places(shape: tuple[int, ...], strides: Any, offset: Any) -> None:
    """Where the elements of a mask lie, of a shape that is checked: within 63 bits, from 0 on."""
    given = _geometry.strides_of(shape, None) if strides is None else strides
    if not (isinstance(given, tuple) and all(type(number) is int for number in (offset, *given))):
        raise TypeError(f"a mask's state must have ints as offset and strides, got {offset!r} and {strides!r}")
    is_one_each = len(given) == len(shape)
    first, last = _geometry.first_and_last(shape, given, offset) if is_one_each and 0 not in shape else (offset, offset)
    if not is_one_each or offset < 0 or first < 0:
        raise ValueError(
            f"a mask's state must have an offset and, for each length of {shape}, a stride, with elements from 0 on, "
            f"got {offset} and {strides}"
        )
    if max(offset, last, *map(abs, given)) >= 1 << 63:
        raise ValueError(f"a mask's state must have its elements below 2**63, got {offset} and {strides} for {shape}")
