# SPDX-License-Identifier: BSD-3-Clause
"""What a caller may pass, checked in one place.

Every function here returns its argument in the form that the rest of the package works with, or raises a TypeError or
ValueError that names the argument, says what came and says what is allowed. None has any other effect.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastdrop import _backend, _foreign
from fastdrop._kernels import bare

T = TypeVar("T")
Number: TypeAlias = float | np.floating[Any] | np.integer[Any] | np.ndarray[tuple[()], np.dtype[Any]]

KEY_BITS = 64
CALL_BITS = 56

# Kernels take a bias of at least 32 elements. A longer one wraps around less often, and this one stays in the cache.
MIN_BIAS = 512

FLOATS = "float16, bfloat16, float32 or float64"
_FLOATS = (np.float32, np.float64, np.float16)


class UnsetRate(float):
    """A rate that was not given, told by its type from the same number that was."""


DEFAULT_RATE = UnsetRate(0.5)


class Rate(NamedTuple):
    """The probabilities to drop and to keep an element, one of them exactly as it was given."""

    rate: float
    keep_prob: float

    @property
    def threshold(self) -> int:
        """D: an element is dropped iff its 32 random bits are below it. round() takes ties to even."""
        return round(self.rate * 4294967296.0)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by, where nothing else was asked for.

        At rate 1 there are none, however small the keep_prob that was given.
        """
        return 1.0 / self.keep_prob if self.rate < 1.0 else 0.0


def rate_of(rate: object, keep_prob: object = None) -> Rate:
    """Both probabilities, from whichever was given."""
    if keep_prob is None:
        return _rate(rate if type(rate) is float else probability(rate, "rate"))
    if not isinstance(rate, UnsetRate):
        raise ValueError(
            f"give rate or keep_prob, not both: got rate={rate!r} and keep_prob={keep_prob!r} "
            "(rate is the probability to drop, keep_prob = 1 - rate)"
        )
    kept = probability(keep_prob, "keep_prob")
    return Rate(1.0 - kept, kept)


@functools.lru_cache  # networks drop at the same few rates again and again
def _rate(dropped: float) -> Rate:
    return Rate(probability(dropped, "rate"), 1.0 - dropped)


def probability(value: Any, name: str) -> float:
    """A float in [0, 1]."""
    number = _real(value, name, "a real number from 0 to 1")
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
    return number


def finite(value: Any, name: str) -> float:
    """A float that is neither infinite nor NaN."""
    number = _real(value, name, "a real number")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def _real(value: Any, name: str, allowed: str) -> float:
    """A float: of a real number, of a NumPy scalar, or of an array of no dimension, as other libraries hold rates."""
    number = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    is_real = isinstance(number, numbers.Real) or (isinstance(number, np.generic) and number.dtype.name == "bfloat16")
    if not is_real or isinstance(number, (bool, np.bool_)):
        raise TypeError(f"{name} must be {allowed}, got {_described(value)}")
    try:
        return float(number)
    except OverflowError:
        return math.inf


def standard_deviation(value: Any) -> float:
    """A finite float of at least 0."""
    number = finite(value, "stddev")
    if number < 0.0:
        raise ValueError(f"stddev must be at least 0, got {value!r}")
    return number


def float_array(x: object, name: str = "x") -> np.ndarray:
    """An ndarray, or a subclass, of a dtype that has kernels."""
    given = x
    if not isinstance(x, np.ndarray):
        _foreign.refuse(x, f"{name} must be an array of {FLOATS}", name)
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of {FLOATS}, got {_described(given)}: {error}") from None
    array = bare(x)
    dtype = array.dtype
    if dtype.type not in _FLOATS and dtype.name != "bfloat16":
        came = f"dtype {dtype}{_advice(dtype)}" if dtype.kind != "O" or array.ndim > 0 else _described(given)
        raise TypeError(f"{name} must be an array of {FLOATS}, got {came}")
    return x


def float_dtype(value: Any) -> np.dtype[Any]:
    """A dtype that has kernels, in native byte order."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype must be {FLOATS}, got {value!r}") from None
    if dtype.type not in _FLOATS and dtype.name != "bfloat16":
        raise TypeError(f"dtype must be {FLOATS}, got {dtype}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def _advice(dtype: np.dtype) -> str:
    if dtype.kind in "biu":
        wide = "float64" if dtype.itemsize > 2 else "float32"
        return f"; scaled values are not integers: convert it with .astype(np.{wide})"
    if dtype.kind == "c":
        return "; pass the real and imaginary parts, with the same key and call if they are to drop together"
    if dtype.kind == "f":
        return "; convert it with .astype(np.float64)"
    return "; if its elements are numbers, convert it with .astype(np.float32)"


def operand(x: object, out: object, name: str) -> np.ndarray:
    """x as by ``float_array``, with an ``out``, unless it is None, that can take the result for it."""
    if _backend.are_plain(x, out):
        return x
    array = float_array(x, name)
    if out is not None:
        output(out, array, name)
    return array


def output(out: object, x: np.ndarray, name: str = "x") -> None:
    """``out`` is an array that can take the result for x."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {_described(out)}")
    if out is not x:
        for array, own_name in ((x, name), (out, "out")):
            _foreign.refuse_subclass(
                array, f"{own_name} must be a plain ndarray where out is another array than {name}", own_name
            )
    y, x = bare(out), bare(x)
    if y.shape != x.shape:
        raise ValueError(f"out must have the shape of {name}, {x.shape}, got {y.shape}")
    if not y.flags.writeable:
        raise ValueError("out is read-only: pass an array that can be written to")
    is_number = y.dtype.kind in "fc" or y.dtype.name == "bfloat16"
    if y.dtype is not x.dtype and not (is_number and np.can_cast(x.dtype, y.dtype, "safe")):
        raise TypeError(f"out must hold every value of dtype {x.dtype} without loss, got dtype {y.dtype}")
    if y.size > 0 and 0 in y.strides and any(n > 1 and step == 0 for n, step in zip(y.shape, y.strides, strict=True)):
        raise ValueError("out is a broadcast view whose elements share memory: pass an array with its own")


def mask_shape(shape: Any) -> tuple[int, ...]:
    """The shape of a mask: a tuple of lengths, or one length."""
    try:
        lengths = tuple(operator.index(n) for n in shape) if np.iterable(shape) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape must be an int or a sequence of ints, got {shape!r}") from None
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape must have lengths of at least 0, got {lengths}")
    if math.prod(lengths) >= 1 << 63:
        raise ValueError(f"shape must have less than 2**63 elements, got {lengths}")
    if len(lengths) > 64:
        raise ValueError(f"shape must have at most 64 dimensions, got {len(lengths)}")
    return lengths


def noise_lengths(noise_shape: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a mask for ``shape`` is drawn, None where that is ``shape`` itself."""
    lengths = given_lengths(noise_shape)
    if lengths is None:
        return None
    if len(lengths) > len(shape):
        raise ValueError(
            f"noise_shape must have at most one length for each of the {len(shape)} dimensions of {shape}, "
            f"got {noise_shape!r}"
        )
    lengths = (1,) * (len(shape) - len(lengths)) + lengths  # NumPy's rule: what is missing on the left is 1
    if any(n not in (None, 1, own) for n, own in zip(lengths, shape, strict=True)):
        raise ValueError(
            f"noise_shape must hold 1 or None or the array's own length in each dimension of {shape}, "
            f"got {noise_shape!r}"
        )
    full = tuple(own if n is None else n for n, own in zip(lengths, shape, strict=True))
    return None if full == shape else full


def first_row(start: Any, shape: tuple[int, ...], noise_shape: tuple[int | None, ...] | None) -> int:
    """The row of a larger mask with which one of this shape begins; 0 where all its rows share their decisions.

    The noise_shape tells that as it was given: of a single row nothing else does.
    """
    if not is_index(start):
        raise TypeError(f"start must be an int of at least 0, got {_described(start)}")
    row = operator.index(start)
    if row < 0:
        raise ValueError(f"start must be at least 0, got {row}")
    if row == 0:
        return 0
    if len(shape) == 0:
        raise ValueError(f"start must be 0 for a mask of no dimension, got {row}")
    if (row + shape[0]) * math.prod(shape[1:]) >= 1 << 63:
        raise ValueError(f"start must leave the mask's elements below 2**63, got {row} for shape {shape}")
    return 0 if noise_shape is not None and (len(noise_shape) < len(shape) or noise_shape[0] == 1) else row


def axes(value: Any, ndim: int, name: str) -> tuple[int, ...]:
    """Distinct axes of an array of ndim dimensions, from 0 on, given as an int or a sequence of ints."""
    given = tuple(value) if np.iterable(value) else (value,)
    if not all(is_index(axis) for axis in given):
        raise TypeError(f"{name} must be an int or a sequence of ints, got {value!r}")
    numbers_of_axes = [operator.index(axis) for axis in given]
    if any(not -ndim <= axis < ndim for axis in numbers_of_axes):
        allowed = f"from {-ndim} to {ndim - 1} for an array of {ndim}" if ndim > 0 else "() for an array of no"
        raise ValueError(f"{name} must be {allowed} dimensions, got {value!r}")
    found = tuple(axis % ndim for axis in numbers_of_axes)
    if len(set(found)) < len(found):
        raise ValueError(f"{name} must not name an axis twice, got {value!r}")
    return found


def one_of(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    return value


def same_kind(other: object, x: np.ndarray, name: str, x_name: str) -> np.ndarray:
    """An array of x's shape and dtype, but for the order of bytes."""
    array = float_array(other, name)
    both_plain(array, x, name, x_name)
    if array.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {x_name}, {x.shape}, got {array.shape}")
    same_dtype(array, x, name, x_name)
    return array


def both_plain(other: np.ndarray, x: np.ndarray, name: str, x_name: str) -> None:
    """The arrays are numbers and nothing else, and their sum in NumPy is of x's class."""
    for array, own_name, beside in ((x, x_name, name), (other, name, x_name)):
        _foreign.refuse_subclass(array, f"{own_name} must be a plain ndarray beside {beside}", own_name)
    if type(other) is np.matrix and type(x) is not np.matrix:
        raise TypeError(
            f"{name} must be an ndarray beside {x_name}, which is no matrix: use {name}.view(numpy.ndarray)"
        )


def same_dtype(other: np.ndarray, x: np.ndarray, name: str, x_name: str) -> None:
    """The arrays have one dtype, but for the order of bytes."""
    if other.dtype is not x.dtype and other.dtype.newbyteorder("=") != x.dtype.newbyteorder("="):
        raise TypeError(
            f"{name} must have the dtype of {x_name}, {x.dtype}, got {other.dtype}: convert it with "
            f".astype({x_name}.dtype)"
        )


def repeated_bias(bias: object, x: np.ndarray) -> np.ndarray:
    """A bias along x's last dimension, in memory of its own, as often as makes it long enough for kernels."""
    if bare(x).ndim == 0:
        raise ValueError("x must have features along its last dimension, got an array of no dimension")
    array = float_array(bias, "bias")
    both_plain(array, x, "bias", "x")
    if array.shape != x.shape[-1:]:
        raise ValueError(f"bias must have the shape of x's last dimension, {x.shape[-1:]}, got {array.shape}")
    same_dtype(array, x, "bias", "x")
    times = -(-MIN_BIAS // max(len(array), 1))
    repeated = np.empty((times, len(array)), array.dtype.newbyteorder("="))
    repeated[...] = array
    return repeated.reshape(-1)


def of_type(value: object, name: str, kind: type) -> None:
    """A value of this very type: an AlphaMask is a DropoutMask, but stands for another operation."""
    if type(value) is not kind:
        raise TypeError(f"{name} must be a {kind.__name__}, got {_described(value)}")


def noise_pattern(noise_shape: Any) -> tuple[int | None, ...] | None:
    """A noise_shape for arrays that are not there yet, as far as it can be checked."""
    lengths = given_lengths(noise_shape)
    if lengths is not None and any(n is not None and n < 0 for n in lengths):
        raise ValueError(f"noise_shape must hold lengths of at least 0, got {noise_shape!r}")
    return lengths


def given_lengths(noise_shape: Any) -> tuple[int | None, ...] | None:
    """A noise_shape as it was given, whatever the lengths."""
    if noise_shape is None:
        return None
    given = tuple(noise_shape) if np.iterable(noise_shape) else None
    if given is None or not all(n is None or is_index(n) for n in given):
        raise TypeError(f"noise_shape must be None or a sequence of ints and None, got {noise_shape!r}")
    return tuple(None if n is None else operator.index(n) for n in given)


def axes_pattern(value: Any, name: str) -> int | tuple[int, ...] | None:
    """Axes of arrays that are not there yet, as far as they can be checked."""
    if value is None or is_index(value):
        return None if value is None else operator.index(value)
    given = tuple(value) if np.iterable(value) else (value,)
    if not all(is_index(axis) for axis in given):
        raise TypeError(f"{name} must be an int or a sequence of ints, got {value!r}")
    found = tuple(operator.index(axis) for axis in given)
    if len(set(found)) < len(found):
        raise ValueError(f"{name} must not name an axis twice, got {value!r}")
    return found


def unsigned(value: Any, name: str, bits: int) -> int:
    """An int from 0 to 2**bits - 1."""
    if not is_index(value):
        raise TypeError(f"{name} must be an int from 0 to 2**{bits} - 1, got {_described(value)}")
    number = operator.index(value)
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{name} must be from 0 to 2**{bits} - 1, got {number}")
    return number


def next_call(value: Any) -> int:
    """The number of a stream's next call: one more than the last where all are used up."""
    if not is_index(value):
        raise TypeError(f"call must be an int from 0 to 2**{CALL_BITS}, got {_described(value)}")
    call = operator.index(value)
    if not 0 <= call <= 1 << CALL_BITS:
        raise ValueError(f"call must be from 0 to 2**{CALL_BITS}, got {call}")
    return call


def seed_sequence(seed: Any, name: str = "seed") -> np.random.SeedSequence:
    """A SeedSequence from an int, a sequence of ints, another SeedSequence, or None for fresh entropy."""
    if isinstance(seed, np.random.SeedSequence):
        return seed
    if seed is None:
        return np.random.SeedSequence()
    if not is_seed(seed):
        raise TypeError(
            f"{name} must be an int of at least 0, a sequence of such, a numpy.random.SeedSequence or None, "
            f"got {_described(seed)}"
        )
    parts = [seed] if is_index(seed) else list(seed if isinstance(seed, Sequence) else np.asarray(seed))
    if not all(is_index(part) for part in parts):
        raise TypeError(f"{name} must hold ints of at least 0 only, got {seed!r}")
    # The seed keeps numbers of its own: it makes others from them later, and a list may have changed by then.
    numbers = [operator.index(part) for part in parts]
    if any(number < 0 for number in numbers):
        raise ValueError(f"{name} must be at least 0, got {seed!r}")
    return np.random.SeedSequence(numbers[0] if is_index(seed) else numbers)


def is_seed(value: Any) -> bool:
    """Whether it stands for a seed, as far as its type says."""
    return (
        is_index(value)
        or isinstance(value, np.random.SeedSequence)
        or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))
        or (hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1)  # a key of JAX is an array of two ints
    )


def count(value: Any, name: str) -> int:
    """An int of at least 1."""
    if not is_index(value):
        raise TypeError(f"{name} must be an int of at least 1, got {_described(value)}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return number


def flag(value: Any, name: str) -> bool:
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_described(value)}")
    return bool(value)


def is_index(value: Any) -> bool:
    """Whether it stands for an int: bools and arrays of any library, which have ``__index__`` too, do not."""
    if type(value) is int:
        return True
    is_array = isinstance(value, np.ndarray) or getattr(value, "ndim", 0) != 0
    return hasattr(value, "__index__") and not is_array and not isinstance(value, (bool, np.bool_))


def _described(value: Any) -> str:
    name = type(value).__name__
    if value is None or isinstance(value, (numbers.Number, np.generic, str, bytes)):
        return f"{value!r} of type {name}"
    if isinstance(value, np.ndarray):
        return f"an ndarray of shape {value.shape}"
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
