# SPDX-License-Identifier: BSD-3-Clause
"""All that tests know of the inside of the package. Where the inside moves, this file follows, and no test does.

Programs that tests run in a process of their own import it too, from ``TESTS``.
"""

import ctypes
import dataclasses
import os
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

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
            nontemporal=past_caches,
            part=(start, stop),
        )

    def keep(self, out, start, stop, key, call, threshold, offset=0, dims=None, bits=None):
        self.real.keep(out, Draw(key, call, threshold), IndexMap(offset, dims, bits), part=(start, stop))

    def keep_bits(self, n, key, call, threshold, start=0):
        return self.real.keep_bits(n, Draw(key, call, threshold), start)

    def order_bits(self, n, offset, dims, bits):
        return self.real.order_bits(n, IndexMap(offset, dims, bits))

    def apply_at(self, x, out, start, key, threshold, offset=0, dims=None, op=Operation.DROPOUT, **operands):
        """The same as ``apply`` for the memory of contiguous arrays, from an element on to the end."""
        addresses = {name: operands.pop(name).ctypes.data for name in ("other", "bias") if name in operands}
        dtype = _kernels.Dtype[x.dtype.name.upper()]
        place = x.ctypes.data, out.ctypes.data, x.size, Draw(key, 0, threshold), IndexMap(offset, dims)
        part = None if start == 0 else (start, x.size)
        self.real.apply_at(op, dtype, *place, part=part, **addresses, **operands)


def compiled():
    """The compiled module, or None."""
    return _backend.compiled


def names():
    """The implementations that run here, from the plainest to the fastest."""
    return _backend.names()


def using(name):
    """A context in which these kernels run."""
    return _backend._using(name)


def applied_by_reference(mask, x, name):
    """What a mask makes of an array, by the reference, and whatever runs elsewhere in the process meanwhile."""
    y = np.empty_like(x)
    operands = Operands(x, y, mask._factor(), None, None, *mask._shift_and_fill())
    _reference.Kernels().apply(Operation[name.upper()], operands, mask._draw(), mask._index_map())
    return y


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
MIN_SHARED_AWAKE = _backend.SHARED  # the same while they are awake from another one
CHUNK = _backend.CHUNK  # elements of the smallest chunk


class _Setting:
    """A number of the backend's, which plain calls follow too: for a monkeypatch, which puts it back."""

    def __init__(self, name):
        self.name = name

    @property
    def value(self):
        return getattr(_backend, self.name)

    @value.setter
    def value(self, value):
        setattr(_backend, self.name, value)
        _backend._run(_backend.running)


def share_from(monkeypatch, size, chunk):
    """Let threads share arrays of so many elements and wake up for it, in chunks of so many."""
    for name, value in (("LARGE", size), ("SHARED", size), ("CHUNK", chunk)):
        monkeypatch.setattr(_Setting(name), "value", value)


def pretend_caches(monkeypatch, folder):
    """Have the caches of the first CPU described in this folder, as sysfs does."""
    monkeypatch.setattr(_config.sys, "platform", "linux")
    monkeypatch.setattr(_config, "CACHES", str(folder))


def store_past_caches(monkeypatch, always):
    """Let results that do not come from plain calls be stored past the caches, always or never."""
    monkeypatch.setattr(_engine, "NONTEMPORAL", -1 if always else 1 << 62)


def leave_to_the_caller(monkeypatch):
    """Let no array be large: each goes straight to the kernel."""
    for name in ("LARGE", "SHARED"):
        monkeypatch.setattr(_Setting(name), "value", 1 << 62)


def can_share():
    """Whether share() finds the pool's function: extension modules show no others on Windows."""
    return compiled() is not None and sys.platform != "win32"


def share(work, size, chunk=CHUNK):
    """Call work(start, stop) for the chunks of so many elements, from as many threads of the pool as are set.

    It is Python, whose errors stay where they are. What it does is as much as any part of an array to the pool.
    """
    part = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function = ctypes.CDLL(compiled().__file__).fd_share
    function.argtypes = part, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int
    function.restype = None
    in_parts = part(lambda _, worker, first, n: work(first, first + n))
    function(in_parts, None, size, chunk, fastdrop.get_num_threads())


def prepared_apply(kernels, x, out, rate, rng, threads):
    """A function that does nothing but to call kernels for dropout."""
    mask = fastdrop.dropout(x, rate, rng=rng, return_mask=True)[1]
    operands, draw, index_map = Operands(x, out, mask.scale), Draw(mask.key, mask.call, mask.threshold), IndexMap()
    apply = kernels.real.apply
    return lambda: apply(0, operands, draw, index_map, False, threads)


def chunks_of(size, chunk=CHUNK):
    """The (start, stop) into which share() cuts work."""
    return [(start, min(start + chunk, size)) for start in range(0, size, chunk)]


def cpu_quota(root):
    """How many CPUs the files of a system below this folder give to the process, or None."""
    return _threads._quota(str(root))


def give_quota(monkeypatch, cpus):
    """Let the process have so many CPUs' time, and nobody have set a number of threads."""
    monkeypatch.setattr(_threads, "_quota", lambda: cpus)
    monkeypatch.setattr(_threads, "_set", None)


def pool_tasks():
    """The native ids of the threads of the pool, as Linux shows them."""
    return [int(p.parent.name) for p in Path("/proc/self/task").glob("*/comm") if p.read_text() == "fastdrop\n"]


def threads_in_pool(expected):
    """How many there are, which are looked for until so many have been there for long enough to give their name."""
    until = time.monotonic() + 20
    while len(pool_tasks()) < expected and time.monotonic() < until:
        time.sleep(0.001)
    return len(pool_tasks())


class _Watched(Altered):
    """Kernels that note what they share between threads."""

    def __init__(self, kernels):
        super().__init__(kernels)
        self.sizes, self.parts = [], []

    def note(self, size, threads):
        if threads > 1:
            self.sizes.append(size)
            self.parts.extend(chunks_of(size, _backend.CHUNK))

    def apply(self, operation, operands, draw, index_map, nontemporal=False, threads=1):
        self.note(operands.x.size, threads)
        self._kernels.apply(operation, operands, draw, index_map, nontemporal, threads)

    def keep(self, out, draw, index_map, threads=1):
        self.note(out.size, threads)
        self._kernels.keep(out, draw, index_map, threads)


def watch_sharing(monkeypatch):
    """The sizes of what is shared between threads, and about the parts into which it is cut, as it goes on.

    No call is plain.
    """
    watched = _Watched(_backend.running)
    monkeypatch.setattr(_Running(), "kernels", watched)
    return watched.sizes, watched.parts


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
