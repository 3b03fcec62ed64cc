# SPDX-License-Identifier: BSD-3-Clause
"""What holds inside ``with``, for the calling thread or asyncio task alone."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class Entered(Generic[T]):
    """The contexts of one kind that the thread or task is in, each with its value.

    They need not be left in the reverse of the order in which they were entered: two generators, each within a context
    of its own, may end in either. So each takes out its own entry, and not the last one.
    """

    def __init__(self, name: str) -> None:
        self._entries: ContextVar[tuple[tuple[object, T], ...]] = ContextVar(name, default=())
        # Each with its context, from the outermost to the innermost. A function of C: it is asked in every call.
        self.entries: Callable[[], tuple[tuple[object, T], ...]] = self._entries.get

    def values(self) -> list[T]:
        """Of the outermost context to the innermost."""
        return [value for _, value in self.entries()]

    def enter(self, context: object, value: T) -> None:
        self._entries.set((*self.entries(), (context, value)))

    def leave(self, context: object) -> None:
        """Take out the entry of a context, the last one if it was entered more than once."""
        entries = self.entries()
        for i in reversed(range(len(entries))):
            if entries[i][0] is context:
                self._entries.set(entries[:i] + entries[i + 1 :])
                return
        name = type(context).__name__
        raise RuntimeError(f"{name} must be left in the thread or task that entered it, and as often as it was entered")
