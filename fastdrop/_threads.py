# SPDX-License-Identifier: BSD-3-Clause
"""How many threads work on a large array, and the pool they come from.

The threads hold no GIL while a kernel of the core runs. Work is handed out in chunks that whoever is free takes, the
calling thread included: one that wakes late takes fewer, and none is waited for that has not begun.

A handler of a signal may come in after any call, and do there what it likes: raise, call, fork. So nothing here takes a
lock, and what must not be cut off in the middle is one call into C, because handlers run between those.
"""

from __future__ import annotations

import contextlib
import math
import os
from _thread import start_new_thread
from collections.abc import Callable
from functools import cache
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


def _asked_for() -> int | None:
    """The number of threads by the environment: ours, or OpenMP's, of which what cannot be is not ours to refuse."""
    text = os.environ.get("FASTDROP_NUM_THREADS", "")
    if text != "":
        if not _is_count(text):
            raise ValueError(f"FASTDROP_NUM_THREADS must be an int of at least 1, got {text!r}")
        return int(text)
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # of nested regions: "4,2"
    return int(outermost) if _is_count(outermost) else None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1


def _usable_cpus() -> int:
    """The CPUs that the process may use now, of which a container may have bought less time than there are."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _quota() or cpus)


@cache
def _quota(root: str = "/") -> int | None:
    """How many CPUs' time Linux gives to the process's control groups, rounded up; None where there is no limit."""
    limits = [limit for folder in _control_groups(root) if (limit := _limit(folder)) is not None]
    return max(1, math.ceil(min(limits))) if limits else None


def _control_groups(root: str) -> list[str]:
    """The folders of the process's control groups and of those around them, of version 2 and version 1.

    In a container the names may be those that hold outside, of folders that it does not see: its own is the outermost.
    """
    folders = []
    for line in _text(root, "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) < 3:
            continue
        _, controllers, name = fields
        mounts = [""] if controllers == "" else [controllers, "cpu"] if "cpu" in controllers.split(",") else []
        parts = name.strip("/").split("/")
        for mount in mounts:
            folders += [
                os.path.join(root, "sys/fs/cgroup", mount, *parts[:depth]) for depth in range(len(parts), -1, -1)
            ]
    return folders


def _limit(folder: str) -> float | None:
    """CPUs by the quota and the period of a control group."""
    words = _text(folder, "cpu.max").split() or [
        *_text(folder, "cpu.cfs_quota_us").split(),
        *_text(folder, "cpu.cfs_period_us").split(),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None  # "max" and -1 say that there is no limit
    return int(words[0]) / int(words[1])


def _text(folder: str, name: str) -> str:
    """What stands in a file, or nothing."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read()
    return ""


_set = _asked_for()


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads may work on one array, in all of the process.

    The default is ``FASTDROP_NUM_THREADS``; where that is not set, ``OMP_NUM_THREADS``; and where neither is, the CPUs
    that the process may use at the time of a call, by its affinity and by the quota of its container. Masks do not
    depend on it.

    Parameters
    ----------
    n : int
        At least 1. Arrays below about a million elements are always left to the calling thread.
    """
    global _set
    _set = _arguments.count(n, "n")


def get_num_threads() -> int:
    """How many threads may work on one array, here and now."""
    numbers = _entered.values()
    if numbers:
        return numbers[-1]
    return _usable_cpus() if _set is None else _set


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
    """Whether several threads shall work on so many elements.

    NumPy, in which the reference is written, holds the GIL so often that two threads take longer than one.
    """
    return size >= _backend.LARGE and _backend.running.name != "reference" and get_num_threads() > 1


def share(work: Callable[[Chunks, bool], None], size: int) -> None:
    """Call ``work(chunks, from_front)`` from as many threads as may work on so many elements.

    It takes chunks until there are none left. When this returns, or raises, no thread is at work any more.
    """
    pool = _pool
    chunks = _backend.Chunks(0, size, CHUNK)
    to_do: Callable[[Chunks, bool], None] | None = work

    def help() -> None:
        begun = to_do
        if begun is not None:
            begun(chunks, False)

    try:
        pool.submit(help, min(get_num_threads(), size // MIN_SHARE) - 1)
        work(chunks, True)
    finally:
        # A handler's exception comes out of a call, and so out of one of those above, or of close() when it is done.
        if pool is _pool:
            chunks.close()
        to_do = None  # a helper that comes later finds nothing, and meanwhile no array is held for it
    if pool is not _pool:
        raise RuntimeError(
            "the process was forked in the middle of a call, whose other threads the child does not have"
        )
    if chunks.error is not None:
        raise chunks.error


class _Pool:
    """Threads that wait for jobs. They end with the process, and none is there before the first job.

    The standard library's executor costs an import, has locks, and waits for its threads at exit: forever, if a signal
    came while one of them was started. A thread of the lowest level is started in one step.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads: list[int] = []  # one may be missing that was cut off before it was counted: there is one more

    def submit(self, job: Callable[[], None], times: int) -> None:
        """Let so many threads call it, or as many as there can be, when they are free."""
        try:
            while len(self._threads) < times:
                self._threads.append(start_new_thread(self._serve, ()))
        except RuntimeError:
            pass  # no more threads, or the interpreter is ending
        for _ in range(min(times, len(self._threads))):
            self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            with contextlib.suppress(BaseException):  # the chunks hold it, and whoever shares them raises it
                job()
            del job  # and what it holds


def _forget_pool() -> None:
    """In a forked child, where the parent's threads do not exist."""
    global _pool
    _pool = _Pool()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
