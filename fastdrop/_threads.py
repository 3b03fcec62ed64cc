# SPDX-License-Identifier: BSD-3-Clause
"""How many threads work on a large array, and the pool they come from.

The threads hold no GIL while a kernel of the core runs. Work is handed out in chunks that whoever is free takes, the
calling thread included: one that wakes late takes fewer, and none is waited for that has not begun.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import SupportsIndex

from fastdrop import _arguments, _backend
from fastdrop._contexts import Entered
from fastdrop._kernels import Chunks

# In elements, and multiples of the kernels' tile. Waking a thread takes as long as 200,000 elements or more: below
# _backend.LARGE two threads gain little, or lose.
CHUNK = 1 << 15
MIN_SHARE = 1 << 16  # for each thread

_entered: Entered[int] = Entered("fastdrop.num_threads")


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_environment() -> int:
    text = os.environ.get("FASTDROP_NUM_THREADS", "")
    if text == "":
        return _usable_cpus()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):
        raise ValueError(f"FASTDROP_NUM_THREADS must be an int of at least 1, got {text!r}")
    return int(text)


_default = _from_environment()


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads may work on one array, in all of the process.

    The default is ``FASTDROP_NUM_THREADS``, or the CPUs that this process may use. Masks do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. Arrays below about a million elements are always left to the calling thread.
    """
    global _default
    _default = _arguments.count(n, "n")


def get_num_threads() -> int:
    """How many threads may work on one array, here and now."""
    numbers = _entered.values()
    return numbers[-1] if numbers else _default


class num_threads:
    """A context in which ``n`` threads may work on one array.

    It holds for the calling thread, or asyncio task, alone.

    Examples
    --------
    >>> import fastdrop
    >>> with fastdrop.num_threads(1):
    ...     fastdrop.get_num_threads()
    1
    """

    def __init__(self, n: SupportsIndex) -> None:
        self._n = _arguments.count(n, "n")

    def __enter__(self) -> None:
        _entered.enter(self, self._n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entered.leave(self)


def pay(size: int) -> bool:
    """Whether several threads shall work on so many elements."""
    return size >= _backend.LARGE and get_num_threads() > 1


def share(work: Callable[[Chunks, bool], None], size: int) -> None:
    """Call ``work(chunks, from_front)`` from as many threads as may work on so many elements.

    It takes chunks until there are none left. When this returns, or raises, no thread is at work any more.
    """
    chunks = _backend.Chunks(0, size, CHUNK)
    try:
        try:
            for _ in range(min(get_num_threads(), size // MIN_SHARE) - 1):
                _pool.submit(lambda: work(chunks, False))
        except RuntimeError:
            pass  # no more threads, or the interpreter is ending: whoever has begun does it
        work(chunks, True)
    finally:
        chunks.close()
    if chunks.error is not None:
        raise chunks.error


class _Pool:
    """Threads that wait for jobs. They end with the process, and none is there before the first job.

    The standard library's executor costs an import, and waits for its threads at exit: forever, if a signal came while
    one of them was started.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._idle -= 1
            is_short = self._idle < 0
        self._jobs.put(job)
        if is_short:
            try:
                threading.Thread(target=self._serve, name="fastdrop", daemon=True).start()
            except RuntimeError:
                with self._lock:
                    self._idle += 1
                raise

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            with contextlib.suppress(BaseException):  # the chunks hold it, and whoever shares them raises it
                job()
            del job  # and the arrays with it
            with self._lock:
                self._idle += 1


def _forget_pool() -> None:
    """In a forked child, where the parent's threads do not exist."""
    global _pool
    _pool = _Pool()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
