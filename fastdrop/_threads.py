# SPDX-License-Identifier: BSD-3-Clause
"""How many threads work on a large array. The threads themselves are those of ``csrc/pool.c``."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import SupportsIndex

from fastdrop import _arguments, _backend
from fastdrop._contexts import Entered

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
    cpus = _backend.usable_cpus()
    if cpus == 0:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return cpus if quota is None or cpus < quota else quota


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
        At least 1. An array of fewer than about a million elements is left to the calling thread, unless the threads
        have just worked on another one; of fewer than about 65,000, always.
    """
    global _set
    _set = _arguments.count(n, "n")
    _backend.set_threads_of_clients(_set)


def get_num_threads() -> int:
    """How many threads may work on one array, here and now."""
    return entered() or _set or _usable_cpus()


def entered() -> int:
    """What ``num_threads`` says here and now; 0 outside of it."""
    entries = _entered.entries()
    return entries[-1][1] if entries else 0


def bought_cpus() -> int:
    """How many CPUs' time the process may use, whichever CPUs it may run on."""
    return _quota() or os.cpu_count() or 1


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


def number_for(size: int, most: Callable[[], int] = get_num_threads) -> int:
    """How many threads shall work on so many elements, of as many as ``most()`` says may."""
    if size < _backend.SHARED or not _backend.running.releases_gil:
        return 1
    if size < _backend.LARGE and not _backend.has_just_shared():
        return 1
    return max(1, min(most(), size // _backend.CHUNK))


_backend.ask_for_threads(get_num_threads)
_backend.set_threads_of_clients(_set or 0)
