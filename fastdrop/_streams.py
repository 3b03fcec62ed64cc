# SPDX-License-Identifier: BSD-3-Clause
"""Where the key and the call number of a mask come from."""

from __future__ import annotations

import hashlib
import operator
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, SupportsIndex, TypeAlias, TypeGuard, Union, runtime_checkable

import numpy as np

from fastdrop import _arguments, _backend
from fastdrop._contexts import Entered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

Seed: TypeAlias = Union[
    SupportsIndex, "Sequence[SupportsIndex]", "npt.NDArray[np.integer[Any]]", "np.random.SeedSequence", None
]
RNG: TypeAlias = Union[Seed, "np.random.Generator", "np.random.BitGenerator", "DrawSource"]

# For what is no single step: spawning, and to set a stream. One for all streams, because a stream can be carried over a
# fork; and a handler of a signal may come in between.
_lock = threading.RLock()


@runtime_checkable
class DrawSource(Protocol):
    """What the argument ``rng`` may be: any object that gives out keys and call numbers.

    A ``PhiloxStream`` is one. Another lets the masks follow the random state of another library, or come from a list.

    Methods
    -------
    next_draw()
        The key and the call number of the next mask: two ints, from 0 to 2**64 - 1 and from 0 to 2**56 - 1. Each pair
        names one mask of a shape and a rate. It is asked once a mask, after all other arguments were found right. A
        layer asks it once, when it is made, and keys its own stream with ``fold_in(key, call)``.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> class StepOfTraining:
    ...     step = 0
    ...     def next_draw(self):
    ...         return 2026, self.step
    >>> source = StepOfTraining()
    >>> isinstance(source, fastdrop.DrawSource)
    True
    >>> fastdrop.dropout(np.ones(8), 0.5, rng=source)
    array([2., 2., 0., 0., 0., 2., 2., 2.])
    """

    def next_draw(self) -> tuple[int, int]: ...


class PhiloxStream(_backend.StreamState):
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

    __slots__ = ("_seed",)

    _seed: np.random.SeedSequence | None  # None until somebody spawns from a stream that has none

    def __init__(self, seed: Seed = None) -> None:
        self._seed = _arguments.seed_sequence(seed)
        self._set(int(self._seed.generate_state(1, np.uint64)[0]), 0)

    @classmethod
    def from_key(cls, key: SupportsIndex, call: SupportsIndex = 0) -> Self:
        """The stream of a given 64-bit key, from a given call number on."""
        stream = cls.__new__(cls)
        stream._restore(key, _arguments.unsigned(call, "call", _arguments.CALL_BITS), None)
        return stream

    def _restore(self, key: object, call: object, seed: np.random.SeedSequence | None) -> None:
        """Set all that the stream is."""
        checked = _arguments.unsigned(key, "key", _arguments.KEY_BITS), _arguments.next_call(call)
        with _lock:
            self._set(*checked)
            self._seed = seed

    def next_draw(self) -> tuple[int, int]:
        """Use up a call number: (key, call) of the next mask."""
        drawn = self._take()
        if drawn is None:
            raise ValueError(f"the stream with key {self.key:#x} has used up its 2**56 calls: spawn another")
        return drawn

    def _take_back(self, drawn: tuple[int, int]) -> None:
        """Undo a draw of which nothing has come, unless there was another since."""
        with _lock:
            self._untake(*drawn)

    def spawn(self, n: SupportsIndex) -> list[Self]:
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
                seed = np.random.SeedSequence(self.key)
                if self._seed is None:  # a signal's handler has not spawned from it meanwhile
                    self._seed = seed
            while True:
                before = self._seed.n_children_spawned
                children = self._seed.spawn(n)
                # NumPy counts them when all are made. If a handler has spawned in the middle, it has these too.
                if self._seed.n_children_spawned == before + n:
                    break
        return [type(self)(child) for child in children]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), *self._state())

    def _state(self) -> tuple[int, int, np.random.SeedSequence | None]:
        with _lock:
            return *self._get(), _copied(self._seed)

    def __repr__(self) -> str:
        key, call = self._get()
        return f"PhiloxStream.from_key({key:#018x}, call={call})"


def _restored(cls: type[PhiloxStream], key: int, call: int, seed: np.random.SeedSequence | None) -> PhiloxStream:
    """A stream in the state that was pickled, which may have come from anywhere."""
    if not (isinstance(cls, type) and issubclass(cls, PhiloxStream)):
        raise TypeError(f"a stream's state must be of a PhiloxStream, got {cls!r}")
    if seed is not None and not isinstance(seed, np.random.SeedSequence):
        raise TypeError(f"a stream's state must have a numpy.random.SeedSequence or None as its seed, got {seed!r}")
    stream = cls.__new__(cls)
    stream._restore(key, call, seed)
    return stream


def _copied(seed: np.random.SeedSequence | None) -> np.random.SeedSequence | None:
    """A seed that counts its children for itself from now on."""
    return None if seed is None else np.random.SeedSequence(**seed.state)


_FOLDING = 32  # the domain of the counter that makes keys: no mask and no noise has it


def fold_in(key: SupportsIndex, *path: SupportsIndex | str) -> int:
    """The key of a place in a program, such as a layer, a step of training and a rank, from a key for the whole.

    Whoever knows the place knows the key: nothing is counted, and there is no order in which places must come.

    Parameters
    ----------
    key : int
        64 bits, such as ``PhiloxStream(seed).key``.
    *path : int or str
        Where the new key is used, part by part: ints from 0 to 2**64 - 1, and names. The order matters, and so does
        the number of parts: ``(1,)``, ``(1, 0)``, ``(0, 1)`` and ``("1",)`` are four places.

    Returns
    -------
    int
        A key of 64 bits; ``key`` itself for no path.

    Notes
    -----
    One part after the other is put through Philox4x32-10, from which masks come too::

        w = philox4x32_10(counter=(part % 2**32, part // 2**32, kind, 32), key=(key % 2**32, key // 2**32))
        key = w[0] + 2**32 * w[1]

    kind is 0 for an int and 1 for a name, whose part is
    ``int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")``. The 32 sets this use of a key
    apart from all masks that are drawn by it. So ``fold_in(fold_in(key, a), b) == fold_in(key, a, b)``, and two
    different paths have the same key by accident only: among n keys with a probability of about ``n**2 / 2**65``.

    Examples
    --------
    >>> import fastdrop
    >>> key = fastdrop.PhiloxStream(7).key
    >>> hex(fastdrop.fold_in(key, "encoder", 3))
    '0x1da9459344ad98dc'
    >>> mask = fastdrop.DropoutMask((4, 6), 0.5, key=fastdrop.fold_in(key, "encoder", 3), call=1234)
    """
    folded = _arguments.unsigned(key, "key", _arguments.KEY_BITS)
    for part in path:
        if isinstance(part, str):
            name = part.encode("utf-8", "surrogatepass")  # a file's name may have surrogates
            kind, number = 1, int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        elif _arguments.is_index(part):
            kind, number = 0, operator.index(part)
            if not 0 <= number < 1 << _arguments.KEY_BITS:
                raise ValueError(f"path must hold ints from 0 to 2**64 - 1, got {part!r}")
        else:
            raise TypeError(f"path must hold ints and strs, got {part!r} of type {type(part).__name__}")
        low, high, *_ = _backend.running.philox((*_words(number), kind, _FOLDING), _words(folded))
        folded = low + (high << 32)
    return folded


def _words(number: int) -> tuple[int, int]:
    return number & 0xFFFFFFFF, number >> 32


class _GeneratorSource:
    """A numpy.random.Generator, which gives a fresh key for every mask."""

    __slots__ = ("_generator",)

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def next_draw(self) -> tuple[int, int]:
        return int(self._generator.integers(0, 1 << _arguments.KEY_BITS, dtype=np.uint64)), 0


class _SeedSource:
    """A seed, which names one mask."""

    __slots__ = ("_seed",)

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self._seed = seed

    def next_draw(self) -> tuple[int, int]:
        return int(self._seed.generate_state(1, np.uint64)[0]), 0


class _CheckedSource:
    """Somebody's own source, which may return anything."""

    __slots__ = ("_source",)

    def __init__(self, source: DrawSource) -> None:
        self._source = source

    def next_draw(self) -> tuple[int, int]:
        drawn: Any = self._source.next_draw()
        if not isinstance(drawn, (tuple, list)) or len(drawn) != 2:
            raise TypeError(f"rng.next_draw() must return a key and a call number, got {drawn!r}")
        key, call = drawn
        return (
            _arguments.unsigned(key, "the key of rng.next_draw()", _arguments.KEY_BITS),
            _arguments.unsigned(call, "the call of rng.next_draw()", _arguments.CALL_BITS),
        )


def source(rng: object) -> DrawSource:
    """What gives the next (key, call) for an argument ``rng``. Nothing is drawn yet."""
    if rng is None:
        return default
    if isinstance(rng, PhiloxStream):
        return rng
    if _is_source(rng):
        return _CheckedSource(rng)
    if _arguments.is_seed(rng):
        return _SeedSource(_arguments.seed_sequence(rng, "rng"))
    if isinstance(rng, np.random.Generator):
        return _GeneratorSource(rng)
    if isinstance(rng, np.random.BitGenerator):
        return _GeneratorSource(np.random.Generator(rng))
    legacy = isinstance(rng, np.random.RandomState) or rng is np.random
    advice = ": np.random.default_rng(seed) makes a Generator" if legacy else ""
    raise TypeError(
        "rng must be None, an int of at least 0, a sequence of such, a numpy.random.SeedSequence, Generator or "
        "BitGenerator, a fastdrop.PhiloxStream, or an object with next_draw() -> (key, call), "
        f"got {rng!r} of type {type(rng).__name__}{advice}"
    )


def _is_source(rng: object) -> TypeGuard[DrawSource]:
    return callable(getattr(rng, "next_draw", None)) and not isinstance(rng, type)


def take_back(source: DrawSource, drawn: tuple[int, int]) -> None:
    """Undo a draw of which nothing has come, where the source can, so that a call that fails has moved no stream."""
    if isinstance(source, PhiloxStream):
        source._take_back(drawn)


def stream(rng: RNG) -> PhiloxStream:
    """The stream of an object that draws again and again, for its argument ``rng``: a seed is the stream's."""
    if rng is None:
        return PhiloxStream()
    if isinstance(rng, PhiloxStream):
        return rng
    if _arguments.is_seed(rng):
        return PhiloxStream(_arguments.seed_sequence(rng, "rng"))
    key, call = source(rng).next_draw()
    # A Generator gives a fresh key, a source may give the same one with another call number.
    return PhiloxStream.from_key(fold_in(key, call) if _is_source(rng) else key)


_watching: Entered[set[bool]] = Entered("fastdrop.watching")


@contextmanager
def watching(is_drawn: set[bool]) -> Iterator[None]:
    """Let those who could draw say whether they do. Plain calls say nothing: they always draw."""
    owner = object()
    _watching.enter(owner, is_drawn)
    try:
        yield
    finally:
        _watching.leave(owner)


def tell(is_drawn: bool) -> bool:
    """Whoever watches hears whether something is drawn, outside of plain calls; return it."""
    for _, heard in _watching.entries():
        heard.add(is_drawn)
    return is_drawn


def _new_key() -> None:
    """Key the package's own stream from the operating system's entropy."""
    default._restore(int.from_bytes(os.urandom(8), "little"), 0, None)


def _after_fork_in_child() -> None:
    _new_key()  # two workers shall not draw the same masks by accident
    _lock.release()


default = PhiloxStream.__new__(PhiloxStream)
_new_key()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
