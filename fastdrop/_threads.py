# SPDX-License-Identifier: BSD-3-Clause
"""How many threads work on a large array, and the pool they come from.

The pool is the standard library's and its threads hold no GIL while a kernel runs. Work is handed out in chunks that
whoever is free takes, the calling thread included: one that wakes late takes fewer, and none is waited for that has
not begun.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import fastdrop
from fastdrop import _arguments

# In elements, and multiples of the kernels' tile. Waking a thread takes as long as 200,000 elements or more: below
# MIN_SHARED two threads gain little, or lose.
MIN_CHUNK = 1 << 16
FREE_CHUNK = 1 << 15
MIN_SHARED = 1 << 20
POLLS = 10_000

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()
# The number of the innermost num_threads(), and what it stands within.
_override: ContextVar[tuple[int, Any] | None] = ContextVar("fastdrop.num_threads", default=None)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_environment() -> int:
    text = os.environ.get("FASTDROP_NUM_THREADS")
    if text is None:
        return _usable_cpus()
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"FASTDROP_NUM_THREADS must be an int of at least 1, got {text!r}")
    return int(text)


_default = _from_environment()


def set_num_threads(n: int) -> None:
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
    inner = _override.get()
    return inner[0] if inner else _default


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

    def __init__(self, n: int) -> None:
        self._n = _arguments.count(n, "n")

    def __enter__(self) -> None:
        _override.set((self._n, _override.get()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inner = _override.get()
        assert inner is not None
        _override.set(inner[1])


def pay(size: int) -> bool:
    """Whether several threads shall work on so many elements."""
    return size >= MIN_SHARED and get_num_threads() > 1


def share(work: Callable[[int, int], object], size: int) -> None:
    """Call ``work(start, stop)`` for chunks that make up ``range(size)``, from as many threads as pay."""
    if not pay(size):
        work(0, size)
        return
    helpers = max(min(get_num_threads(), size // MIN_CHUNK), 1) - 1
    chunks = deque(_chunks(size, helpers + 1))

    def take_chunks() -> None:
        while True:
            try:
                start, stop = chunks.popleft()
            except IndexError:
                return
            work(start, stop)

    lock = threading.Lock()
    at_work = 0
    is_open = True
    errors: list[BaseException] = []

    def help_out() -> None:
        nonlocal at_work
        with lock:
            if not is_open:
                return
            at_work += 1
        try:
            take_chunks()
        except BaseException as error:
            errors.append(error)
        finally:
            with lock:
                at_work -= 1

    try:
        try:
            pool = _shared_pool(helpers)
            for _ in range(helpers):
                pool.submit(help_out)
        except RuntimeError:
            pass  # no more threads, or the interpreter is ending: whoever has begun does it
        take_chunks()
    finally:
        chunks.clear()
        with lock:
            is_open = False
        while at_work > 0:
            time.sleep(5e-5)
    if errors:
        raise errors[0]


def share_without_gil(take_chunks: Callable[[Any, bool], object], size: int) -> None:
    """The same for work that takes its chunks itself, as the kernels do on plain memory.

    ``take_chunks`` gets the ``Chunks`` of the compiled module, and whether to take them from the front. It can not
    fail. A thread that comes late finds none left.
    """
    chunks = fastdrop._core.Chunks(size, FREE_CHUNK)
    try:
        pool = _shared_pool(get_num_threads() - 1)
        for _ in range(min(get_num_threads(), size // MIN_CHUNK) - 1):
            pool.submit(take_chunks, chunks, False)
    except RuntimeError:
        pass
    take_chunks(chunks, True)
    # Others are on their last chunks. To be woken when they are done takes as long as many of those.
    while not chunks.wait(POLLS):
        time.sleep(5e-5)


def _chunks(size: int, threads: int) -> Iterator[tuple[int, int]]:
    """Parts of ``range(size)``: large ones first, as each costs a few steps in Python, and small ones to end alike."""
    start = 0
    while start < size:
        part = max(2 * (size - start) // (3 * threads) // MIN_CHUNK, 1) * MIN_CHUNK
        yield start, min(start + part, size)
        start += part


def _shared_pool(threads: int) -> ThreadPoolExecutor:
    """The pool, at least as large as asked for."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool._max_workers < threads:
            _pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdrop")
        return _pool


def _forget_pool() -> None:
    """In a forked child, where the parent's threads do not exist."""
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
