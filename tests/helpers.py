# SPDX-License-Identifier: BSD-3-Clause
"""All that tests know of the inside of the package. Where the inside moves, this file follows, and no test does.

Programs that tests run in a process of their own import it too, from ``TESTS``.
"""

import dataclasses
import os
import threading
import tracemalloc
from pathlib import Path

import fastdrop
from fastdrop import _backend, _config, _engine, _kernels, _masks, _nested, _reference, _streams, _threads
from fastdrop._backend import Draw, IndexMap, Operands

TESTS = Path(__file__).parent
PACKAGE = Path(fastdrop.__file__).parent

Operation = _kernels.Operation
Dtype = _kernels.Dtype
alpha_numbers = _masks.alpha_numbers
philox4x32 = _reference.philox4x32
normal_pair = _reference.normal_pair


def normal_elements(first, n, key, call, offset, dims):
    return _reference.normal_elements(first, n, Draw(key, call), IndexMap(offset, dims))


# Kernels


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Kernels of one implementation, called as the tests call them."""

    real: object

    @property
    def name(self):
        return self.real.name

    @property
    def shares(self):
        """Whether several threads work on a large array with these kernels."""
        return self.real.releases_gil

    def philox(self, counter, key, rounds):
        return self.real.philox(counter, key, rounds)

    def apply(
        self,
        x,
        out,
        start,
        stop,
        key,
        call,
        threshold,
        scale,
        offset=0,
        dims=None,
        bits=None,
        op=Operation.DROPOUT,
        past_caches=False,
        **operands,
    ):
        """Elements start .. stop-1 of x to out. ``operands`` are those that the operation has beside x and scale."""
        self.real.apply(
            op,
            Operands(x, out, scale, **operands),
            Draw(key, call, threshold),
            IndexMap(offset, dims, bits),
            part(start, stop),
            nontemporal=past_caches,
        )

    def keep(self, out, start, stop, key, call, threshold, offset=0, dims=None, bits=None):
        self.real.keep(out, Draw(key, call, threshold), IndexMap(offset, dims, bits), part(start, stop))

    def keep_bits(self, n, key, call, threshold, start=0):
        return self.real.keep_bits(n, Draw(key, call, threshold), start)

    def order_bits(self, n, offset, dims, bits):
        return self.real.order_bits(n, IndexMap(offset, dims, bits))

    def apply_at(self, x, out, start, key, threshold, offset=0, dims=None, op=Operation.DROPOUT, **operands):
        """The same as ``apply`` for the memory of contiguous arrays, from an element on to the end."""
        addresses = {name: operands.pop(name).ctypes.data for name in ("other", "bias") if name in operands}
        dtype = _kernels.Dtype[x.dtype.name.upper()]
        place = x.ctypes.data, out.ctypes.data, x.size, Draw(key, 0, threshold), IndexMap(offset, dims)
        chunks = None if start == 0 else part(start, x.size)
        self.real.apply_at(op, dtype, *place, chunks=chunks, **addresses, **operands)


def part(start, stop):
    return _backend.Chunks(start, stop, max(stop - start, 1))


def compiled():
    """The compiled module, or None."""
    return _backend.compiled


def names():
    """The implementations that run here, from the plainest to the fastest."""
    return _backend.names()


def using(name):
    """A context in which these kernels run."""
    return _backend._using(name)


def running():
    return Kernels(_backend.running)


def find(name):
    return Kernels(_backend.find(name))


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

    def apply(self, operation, operands, draw, index_map, *rest, **options):
        self.before(is_drawn=index_map.bits is None, is_plain=operation == Operation.DROPOUT)
        self._kernels.apply(operation, operands, draw, index_map, *rest, **options)
        if operands.y.size > 0:
            self.after(operands.y, operands.y.size, operation, operands.other)


def alter(monkeypatch, name, altered):
    """Whoever looks for the kernels of that name finds them altered. No plain call goes past them."""
    find = _backend.find
    monkeypatch.setattr(_backend, "find", lambda n: altered(find(n)) if n == name else find(n))


def pretend_names(monkeypatch, names):
    monkeypatch.setattr(_backend, "names", lambda: names)


class _Recorded(Altered):
    draws = 0

    def before(self, is_drawn, is_plain):
        self.draws += is_drawn

    def keep_bits(self, *args):
        self.draws += 1
        return self._kernels.keep_bits(*args)


class _Running:
    """Which kernels run: for a monkeypatch, which puts them back."""

    @property
    def kernels(self):
        return _backend.running

    @kernels.setter
    def kernels(self, kernels):
        _backend._run(kernels)


def record(monkeypatch):
    """Let the running kernels count in ``draws`` how often they draw a mask. No call is plain."""
    recorded = _Recorded(_backend.running)
    monkeypatch.setattr(_Running(), "kernels", recorded)
    return recorded


def kinds_of_state():
    """The classes that masks and streams have their fields from."""
    return _backend.MaskState, _backend.DropoutState, _backend.StreamState


def apply_without_plain_calls(mask, x, out=None):
    """What ``DropoutMask.apply`` does where a call is not plain."""
    return mask._applied(Operation.DROPOUT, *mask._checked(x, out, "x"))


def environment():
    """The variables for a program of a test's own, which imports this package and these helpers."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PACKAGE.parent, TESTS)))}


# Threads

MIN_SHARED = _backend.LARGE  # elements from which threads share an array
MIN_CHUNK = _threads.MIN_SHARE


class _Large:
    """From which size on arrays are shared, and calls no longer plain: for a monkeypatch, which puts it back."""

    @property
    def size(self):
        return _backend.LARGE

    @size.setter
    def size(self, size):
        _backend.LARGE = size
        _backend._run(_backend.running)


def share_from(monkeypatch, size, chunk, free_chunk=None):
    """Let threads share arrays of so many elements, in chunks of so many, of which each is to find one at least."""
    monkeypatch.setattr(_Large(), "size", size)
    monkeypatch.setattr(_threads, "MIN_SHARE", chunk)
    monkeypatch.setattr(_threads, "CHUNK", free_chunk or chunk)


def pretend_caches(monkeypatch, folder):
    """Have the caches of the first CPU described in this folder, as sysfs does."""
    monkeypatch.setattr(_config.sys, "platform", "linux")
    monkeypatch.setattr(_config, "CACHES", str(folder))


def store_past_caches(monkeypatch, always):
    """Let results that do not come from plain calls be stored past the caches, always or never."""
    monkeypatch.setattr(_engine, "NONTEMPORAL", -1 if always else 1 << 62)


def leave_to_the_caller(monkeypatch):
    """Let no array be large: each goes straight to the kernel."""
    monkeypatch.setattr(_Large(), "size", 1 << 62)


def share(work, size):
    """Call work(start, stop) for the chunks of an array, from as many threads as pay. It may be Python."""
    if _threads.pay(size):
        _threads.share(lambda chunks, from_front: _reference.take_chunks(chunks, from_front, size, work), size)
    else:
        work(0, size)


def chunks_of(size, threads):
    """The (start, stop) into which threads cut work."""
    return [(start, min(start + _threads.CHUNK, size)) for start in range(0, size, _threads.CHUNK)]


def cpu_quota(root):
    """How many CPUs the files of a system below this folder give to the process, or None."""
    return _threads._quota(str(root))


def give_quota(monkeypatch, cpus):
    """Let the process have so many CPUs' time, and nobody have set a number of threads."""
    monkeypatch.setattr(_threads, "_quota", lambda: cpus)
    monkeypatch.setattr(_threads, "_set", None)


def threads_in_pool():
    return len(_threads._pool._threads)


def forget_threads():
    """A new pool, of which no thread has been started."""
    _threads._pool = _threads._Pool()


def limit_threads(monkeypatch, most):
    """A new pool, which can start no more threads than these."""
    start = _threads.start_new_thread

    def start_new_thread(*args):
        if threads_in_pool() == most:
            raise RuntimeError("can't start new thread")
        return start(*args)

    monkeypatch.setattr(_threads, "_pool", _threads._Pool())
    monkeypatch.setattr(_threads, "start_new_thread", start_new_thread)


def watch_sharing(monkeypatch, works=True):
    """The sizes of what is shared between threads, and the parts into which it is cut, as it goes on."""
    sizes, parts = [], []
    share = _threads.share

    def watched(work, size):
        sizes.append(size)
        parts.extend(chunks_of(size, 0))
        if works:
            share(work, size)

    monkeypatch.setattr(_threads, "share", watched)
    return sizes, parts


def apply_from_both_ends(kernels, x, out, scale, length, helpers):
    """x * scale to out, in chunks that the calling thread takes from the front and helpers from the back.

    Whether all chunks were done when all threads had come back.
    """
    chunks = _backend.Chunks(0, x.size, length)

    def take(from_front):
        kernels.real.apply(Operation.DROPOUT, Operands(x, out, scale), Draw(), IndexMap(), chunks, from_front)

    threads = [threading.Thread(target=take, args=(False,)) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    take(True)
    for thread in threads:
        thread.join(60)
    return chunks.take(True) == chunks.take(False) == (x.size, x.size)


def closing_waits_for_a_chunk_that_was_taken():
    """Whether it does, and not for those that nobody has taken, nor for one of the caller, who is at work no more."""
    chunks = _backend.Chunks(0, 10, 4)
    closed = threading.Event()
    chunks.take(True)
    chunks.take(False)
    closing = threading.Thread(target=lambda: (chunks.close(), closed.set()))
    closing.start()
    waited = not closed.wait(0.2)
    chunks.finish(False)
    return waited and closed.wait(60) and chunks.take(True) == (10, 10)


# Streams


def peak_memory(work):
    """The most bytes that are held at a time in addition to what was held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def default_stream():
    """The package's own, from which ``rng=None`` draws."""
    return _streams.default


# Nested states


def leaves(structure):
    """The arrays of a state, in the order in which they are dropped."""
    return _nested.leaves(structure)


def watch_torch_masks(monkeypatch, tell):
    """Call ``tell`` whenever fastdrop.torch applies a mask, with the number of elements."""
    from fastdrop.torch import _masks

    within = []  # one of them calls the other

    def watched(function, position):
        def told(*arguments, **options):
            within.append(function)
            try:
                result = function(*arguments, **options)
            finally:
                within.pop()
            if result is not None and not within:
                tell(arguments[position].numel())
            return result

        return told

    monkeypatch.setattr(_masks, "apply", watched(_masks.apply, 2))
    monkeypatch.setattr(_masks, "dropped_in_order", watched(_masks.dropped_in_order, 0))
