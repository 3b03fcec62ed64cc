# SPDX-License-Identifier: BSD-3-Clause
"""Where the key and the call number of a mask come from."""

from __future__ import annotations

import operator
import os
import threading
from typing import Any, TypeAlias, Union

import numpy as np

from fastdrop import _arguments

RNG: TypeAlias = Union[
    int, np.integer, np.random.SeedSequence, np.random.Generator, np.random.BitGenerator, "PhiloxStream", None
]

_END = 1 << _arguments.CALL_BITS

# For spawning: one lock for all streams, because one can be carried over a fork.
_lock = threading.Lock()


class PhiloxStream:
    """A key and a counter of calls: each mask drawn from the stream takes the next call number.

    Drawing is safe from many threads, which never get the same call number. A stream pickles and copies with its
    state, so a checkpoint that holds it continues with the mask that would have come next.

    Parameters
    ----------
    seed : int, sequence of int, numpy.random.SeedSequence, or None
        What ``key`` is made from: ``numpy.random.SeedSequence(seed).generate_state(1, numpy.uint64)``. None takes
        fresh entropy from the operating system.

    Attributes
    ----------
    key : int
        64 bits. Streams with different keys are independent.
    call : int
        The number that the next mask takes, below 2**56.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> stream = fastdrop.PhiloxStream(7)
    >>> x = np.ones(1000, np.float32)
    >>> first, second = (fastdrop.dropout(x, 0.5, rng=stream) for _ in range(2))
    >>> stream.call
    2
    >>> replay = fastdrop.PhiloxStream.from_key(stream.key, call=1)
    >>> np.array_equal(fastdrop.dropout(x, 0.5, rng=replay), second)
    True
    """

    # The calls are a range iterator: next() on it is atomic, costs a third of taking a lock, and ends at the last call.
    __slots__ = ("_calls", "_key", "_seed", "__weakref__")

    def __init__(self, seed: Any = None) -> None:
        self._seed: np.random.SeedSequence | None = _arguments.seed_sequence(seed)
        self._key = int(self._seed.generate_state(1, np.uint64)[0])
        self._calls = iter(range(_END))

    @classmethod
    def from_key(cls, key: int, call: int = 0) -> PhiloxStream:
        """The stream of a given 64-bit key, from a given call number on."""
        stream = cls.__new__(cls)
        stream._key = _arguments.unsigned(key, "key", _arguments.KEY_BITS)
        stream._calls = iter(range(_arguments.unsigned(call, "call", _arguments.CALL_BITS), _END))
        stream._seed = None
        return stream

    @property
    def key(self) -> int:
        return self._key

    @property
    def call(self) -> int:
        return _END - operator.length_hint(self._calls)

    def next_draw(self) -> tuple[int, int]:
        """Use up a call number: (key, call) of the next mask."""
        try:
            return self._key, next(self._calls)
        except StopIteration:
            message = f"the stream with key {self._key:#x} has used up its 2**56 calls: spawn another"
            raise ValueError(message) from None

    def spawn(self, n: int) -> list[PhiloxStream]:
        """New streams with keys of their own, for workers or layers.

        They are those of ``numpy.random.SeedSequence.spawn``, so that no two of a family share a key, whoever spawned
        them; spawning again gives others. A stream made by ``from_key`` spawns from its key as a seed.

        Parameters
        ----------
        n : int
            How many, at least 1.
        """
        n = _arguments.count(n, "n")
        with _lock:
            if self._seed is None:
                self._seed = np.random.SeedSequence(self._key)
            children = self._seed.spawn(n)
        return [type(self)(child) for child in children]

    def __getstate__(self) -> tuple[int, int, np.random.SeedSequence | None]:
        with _lock:
            return self._key, self.call, self._seed

    def __setstate__(self, state: tuple[int, int, np.random.SeedSequence | None]) -> None:
        self._key, call, self._seed = state
        self._calls = iter(range(call, _END))

    def __repr__(self) -> str:
        return f"PhiloxStream.from_key({self._key:#018x}, call={self.call})"


class _GeneratorSource:
    """A numpy.random.Generator, which gives a fresh key for every mask."""

    __slots__ = ("_generator",)

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def next_draw(self) -> tuple[int, int]:
        return int(self._generator.integers(0, 1 << _arguments.KEY_BITS, dtype=np.uint64)), 0


def source(rng: Any) -> PhiloxStream | _GeneratorSource:
    """What gives the next (key, call) for an argument ``rng``. Nothing is drawn yet."""
    if rng is None:
        return _default
    if isinstance(rng, PhiloxStream):
        return rng
    if isinstance(rng, np.random.Generator):
        return _GeneratorSource(rng)
    if isinstance(rng, np.random.BitGenerator):
        return _GeneratorSource(np.random.Generator(rng))
    if isinstance(rng, np.random.SeedSequence) or _arguments.is_index(rng):
        return PhiloxStream(_arguments.seed_sequence(rng, "rng"))
    raise TypeError(
        "rng must be None, an int of at least 0, a numpy.random.SeedSequence, Generator or BitGenerator, or a "
        f"fastdrop.PhiloxStream, got {rng!r} of type {type(rng).__name__}"
    )


def _new_default() -> None:
    """Key the module's own stream from the operating system's entropy."""
    global _default
    _default = PhiloxStream()


def _after_fork_in_child() -> None:
    _lock.release()
    _new_default()  # two workers shall not draw the same masks by accident


_default: PhiloxStream
_new_default()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
