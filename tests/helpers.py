# SPDX-License-Identifier: BSD-3-Clause
"""All that tests know of the inside of the package. Where the inside moves, this file follows, and no test does.

Programs that tests run in a process of their own import it too, from ``TESTS``.
"""

import dataclasses
import threading
from pathlib import Path

import fastdrop
from fastdrop import _engine, _masks, _operations, _reference, _streams, _threads

TESTS = Path(__file__).parent
PACKAGE = Path(fastdrop.__file__).parent

Operation = _operations.Operation
alpha_numbers = _masks.alpha_numbers
philox4x32 = _reference.philox4x32
normal_pair = _reference.normal_pair
normal_elements = _reference.normal_elements


# Kernels


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Kernels of one implementation, called as the tests call them."""

    real: object

    @property
    def name(self):
        return self.real.name

    def philox(self, counter, key, rounds):
        return self.real.philox(counter, key, rounds)

    def apply(self, x, out, start, stop, key, call, threshold, scale, offset=0, dims=None, bits=None, **more):
        """Elements start .. stop-1 of x to out. ``more`` is past_caches, or an operation and what it reads."""
        if "past_caches" in more:
            more["stream"] = more.pop("past_caches")
        self.real.apply(x, out, start, stop, key, call, threshold, scale, offset, dims, bits, **more)

    def keep(self, out, start, stop, key, call, threshold, offset=0, dims=None, bits=None):
        self.real.keep(out, start, stop, key, call, threshold, offset, dims, bits)

    def keep_bits(self, n, key, call, threshold, start=0):
        return self.real.keep_bits(n, key, call, threshold, start)


def compiled():
    """The compiled module, or None."""
    return fastdrop._core


def names():
    """The implementations that run here, from the plainest to the fastest."""
    return fastdrop._kernel_names()


def using(name):
    """A context in which these kernels run."""
    return fastdrop._using(name)


def running():
    return Kernels(fastdrop._kernels)


def find(name):
    return Kernels(fastdrop._find_kernels(name))


def oracle():
    return Kernels(_reference.Kernels())


class Altered:
    """Kernels that do something before or after each apply: what a subclass says."""

    def __init__(self, kernels):
        self._kernels = kernels

    def __getattr__(self, name):
        return getattr(self._kernels, name)

    def before(self, is_drawn, is_plain):
        """Of an apply whose mask is drawn and not given, or that was called for plain dropout."""

    def after(self, out, stop, op, other):
        pass

    def apply(self, x, out, start, stop, key, call, threshold, scale, offset=0, dims=None, bits=None, *rest, **terms):
        self.before(is_drawn=bits is None, is_plain="op" not in terms)
        self._kernels.apply(x, out, start, stop, key, call, threshold, scale, offset, dims, bits, *rest, **terms)
        if stop > start:
            self.after(out, stop, terms.get("op", Operation.DROPOUT), terms.get("other"))


def alter(monkeypatch, name, altered):
    """Whoever looks for the kernels of that name finds them altered."""
    find = fastdrop._find_kernels
    monkeypatch.setattr(fastdrop, "_find_kernels", lambda n: altered(find(n)) if n == name else find(n))


def pretend_names(monkeypatch, names):
    monkeypatch.setattr(fastdrop, "_kernel_names", lambda: names)


class _Recorded(Altered):
    draws = 0

    def before(self, is_drawn, is_plain):
        self.draws += is_drawn

    def keep_bits(self, *args):
        self.draws += 1
        return self._kernels.keep_bits(*args)


def record(monkeypatch):
    """Let the running kernels count in ``draws`` how often they draw a mask."""
    recorded = _Recorded(fastdrop._kernels)
    monkeypatch.setattr(fastdrop, "_kernels", recorded)
    return recorded


# Threads

MIN_SHARED = _threads.MIN_SHARED  # elements from which threads share an array
MIN_CHUNK = _threads.MIN_CHUNK


def share_from(monkeypatch, size, chunk, free_chunk=None):
    """Let threads share arrays of so many elements, in chunks of so many."""
    monkeypatch.setattr(_threads, "MIN_SHARED", size)
    monkeypatch.setattr(_threads, "MIN_CHUNK", chunk)
    monkeypatch.setattr(_threads, "FREE_CHUNK", free_chunk or chunk)
    monkeypatch.setattr(_engine, "LARGE", 0)


def store_past_caches(monkeypatch, always):
    """Let large results be stored past the caches, always or never."""
    monkeypatch.setattr(_engine, "LAST_LEVEL_CACHE", 0 if always else 1 << 40)
    monkeypatch.setattr(_engine, "LARGE", 0)


def leave_to_the_caller(monkeypatch):
    """Let no array be large: each goes straight to the kernel."""
    monkeypatch.setattr(_engine, "LARGE", 1 << 62)


def share(work, size):
    _threads.share(work, size)


def chunks_of(size, threads):
    """The (start, stop) into which threads cut work."""
    return list(_threads._chunks(size, threads))


def has_pool():
    return _threads._pool is not None


def take_threads_from(monkeypatch, pool):
    monkeypatch.setattr(_threads, "_shared_pool", lambda threads: pool)


def watch_sharing(monkeypatch, works=True):
    """The sizes of what is shared between threads, and the parts into which it is cut, as it goes on."""
    sizes, parts = [], []
    share, share_without_gil = _threads.share, _threads.share_without_gil

    def watched(work, size):
        def part(start, stop):
            parts.append((start, stop))
            work(start, stop)

        sizes.append(size)
        if works:
            share(part, size)

    def watched_without_gil(take_chunks, size):
        sizes.append(size)
        parts.extend((start, min(start + _threads.FREE_CHUNK, size)) for start in range(0, size, _threads.FREE_CHUNK))
        if works:
            share_without_gil(take_chunks, size)

    monkeypatch.setattr(_threads, "share", watched)
    monkeypatch.setattr(_threads, "share_without_gil", watched_without_gil)
    return sizes, parts


def apply_from_both_ends(kernels, x, out, scale, length, helpers):
    """x * scale to out, in chunks that the calling thread takes from the front and helpers from the back.

    Whether all chunks were done when all threads had come back.
    """
    chunks = fastdrop._core.Chunks(x.size, length)

    def take(from_front):
        kernels.real.apply(x, out, 0, x.size, 1, 2, 0, scale, 0, None, None, False, chunks, from_front)

    threads = [threading.Thread(target=take, args=(False,)) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    take(True)
    for thread in threads:
        thread.join(60)
    return chunks.wait(1)


def waiting_finds_chunks_missing():
    """Of chunks that nobody has taken."""
    return not fastdrop._core.Chunks(10, 4).wait(10)


# Streams


def default_stream():
    """The module's own, from which ``rng=None`` draws."""
    return _streams._default


# Nested states


def leaves(structure):
    """The arrays of a state, in the order in which they are dropped."""
    return fastdrop._recurrent._leaves(structure)
