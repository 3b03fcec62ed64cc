# SPDX-License-Identifier: BSD-3-Clause
"""What :mod:`fastdrop._core` has beside its kernels, for a build without a compiler: the same names and behaviour.

Promises to threads rest on a lock here, and there on atomic counters.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Self, TypeGuard, TypeVar

import numpy as np

from fastdrop._kernels import Draw

Function = TypeVar("Function", bound=Callable[..., Any])

CALLS = 1 << 56  # of a stream

# One for all streams: what it guards takes less time than to make another. No other thread holds it over a fork. A
# signal's handler may take it again in the middle, so what it guards is read and written with no call between.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class StreamState:
    """A key, and a counter of calls that threads share."""

    __slots__ = ("_key_and_call", "__weakref__")

    _key_and_call: tuple[int, int]

    @property
    def key(self) -> int:
        return self._key_and_call[0]

    @property
    def call(self) -> int:
        return self._key_and_call[1]

    def _get(self) -> tuple[int, int]:
        """Key and call number, of one moment."""
        return self._key_and_call

    def _set(self, key: int, call: int) -> None:
        """Set both."""
        with _lock:
            self._key_and_call = key, call

    def _take(self) -> tuple[int, int] | None:
        """Use up a call number: (key, call), or None where none is left."""
        with _lock:
            key, call = self._key_and_call
            if call >= CALLS:
                return None
            self._key_and_call = key, call + 1
        return key, call

    def _untake(self, key: int, call: int) -> None:
        """Take back the last call number, unless another was used up since."""
        with _lock:
            if self._key_and_call == (key, call + 1):
                self._key_and_call = key, call


class MaskState:
    """The fields of a mask that no change can reach: what it was drawn by, and where its elements lie in the stream."""

    __slots__ = ("_shape", "_given_strides", "_first", "_drawn_by")

    _shape: tuple[int, ...]
    _given_strides: tuple[int, ...] | None
    _first: int
    _drawn_by: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def key(self) -> int | None:
        return None if self._drawn_by is None else self._drawn_by[0]

    @property
    def call(self) -> int | None:
        return None if self._drawn_by is None else self._drawn_by[1]

    @property
    def _offset(self) -> int:
        return self._first

    @property
    def _strides(self) -> tuple[int, ...]:
        """Steps in the stream along each dimension, in elements; 0 along one that shares its decisions."""
        return own_strides(self._shape) if self._given_strides is None else self._given_strides

    @property
    def _is_in_order(self) -> bool:
        """Whether the elements follow each other in the stream, from the offset on."""
        return self._given_strides is None

    def _draw(self) -> Draw:
        """What the mask was drawn by, as kernels take it."""
        return Draw(self.key or 0, self.call or 0)

    def _place(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int,
        key: int | None,
        call: int | None,
    ) -> None:
        """Set these fields, of a mask that nobody else has yet. Without a key it is not drawn."""
        fill(self, "_shape", shape)
        fill(self, "_given_strides", None if strides is None or are_own(strides, shape) else strides)
        fill(self, "_first", offset)
        fill(self, "_drawn_by", None if key is None or call is None else (key, call))


class DropoutState(MaskState):
    """The fields of a mask of dropout."""

    __slots__ = ("_chances", "_packed")

    _chances: tuple[float, float, float]
    _packed: bytes | None

    @property
    def rate(self) -> float:
        return self._chances[0]

    @property
    def keep_prob(self) -> float:
        return self._chances[1]

    @property
    def scale(self) -> float:
        return self._chances[2]

    @property
    def _bits(self) -> bytes | None:
        return self._packed

    @property
    def threshold(self) -> int:
        """An element is dropped iff its 32 random bits are below this: rate * 2**32, rounded, ties to even."""
        return round(self.rate * 4294967296.0)

    def _draw(self) -> Draw:
        return Draw(self.key or 0, self.call or 0, self.threshold)

    @classmethod
    def _made(
        cls,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int,
        key: int | None,
        call: int | None,
        rate: float,
        keep_prob: float,
        scale: float,
        bits: bytes | None = None,
    ) -> Self:
        """A mask of values that need no check."""
        mask = cls.__new__(cls)
        mask._place(shape, strides, offset, key, call)
        mask._decide(rate, keep_prob, scale, bits)
        return mask

    def _decide(self, rate: float, keep_prob: float, scale: float, bits: bytes | None) -> None:
        """Set these fields, of a mask that nobody else has yet."""
        fill(self, "_chances", (rate, keep_prob, scale))
        fill(self, "_packed", bits)


fill = object.__setattr__  # which the masks' own does not let through


def are_own(strides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether these are the same as own_strides(), but for axes along which there is nowhere to go."""
    places = zip(shape, strides, own_strides(shape), strict=True)
    return all(given == own or length == 1 for length, given, own in places)


def own_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a mask that is not a part of another and shares no decisions."""
    strides = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def are_plain(x: object, out: object) -> TypeGuard[np.ndarray]:
    """Whether nothing need be looked at, which takes as long here as to look."""
    return False


def plain_dropout_at(
    dtype: int, x: int, y: int, size: int, key: int, rate: float, scale: float, threads: int = 1
) -> bool:
    """Dropout at addresses, where that is simple; without a compiler it is not."""
    return False


def ask_for_threads(number: Callable[[], int]) -> None:
    """Let plain calls, which there are none of, learn how many threads may work on an array."""


def has_just_shared() -> bool:
    """Whether helpers of the last call would still be awake; here no call has any."""
    return False


def set_threads_of_clients(number: int) -> None:
    """Let so many threads work on an array of a client with C of its own, which cannot work here."""


def usable_cpus() -> int:
    """How many CPUs the calling thread may use; 0 where that is not known."""
    return 0


class PlainCalls:
    """Calls that never leave C: none, without a compiler."""

    def __init__(
        self, default_stream: StreamState, mask_type: type, unset_rate: float, index_map_of: Callable[..., Any]
    ) -> None:
        pass

    def __call__(
        self,
        operation: int,
        x: object,
        other: object,
        rate: object,
        keep_prob: object,
        noise_shape: object,
        training: object,
        rng: object,
        out: object,
        return_mask: object,
    ) -> Any:
        """What the function is to return; None for a call that is not plain, of which nothing has been done."""
        return None


def plain_dropout(plain: PlainCalls) -> Callable[[Function], Function]:
    """A decorator for ``dropout`` that would do plain calls itself."""
    return lambda general: general


def plain_apply(walked_dims: Callable[..., Any]) -> Callable[[Function], Function]:
    """The same for a method."""
    return lambda general: general
