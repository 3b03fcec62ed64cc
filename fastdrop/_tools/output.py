# SPDX-License-Identifier: BSD-3-Clause
"""What a command writes, and how it ends: never in a traceback, whose exit status 1 would pass for a verdict.

Status 0 and 1 are verdicts. Status 2 says that there is none, and one line on stderr says why; 130 that the command was
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Failure(Exception):
    """Why a command cannot do its work."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help is not lost in silence where stdout does not take it."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout and file is not None:
            say(message.rstrip("\n"))
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def guarded(prog: str, command: Callable[[], int]) -> int:
    """Run a command, and return its exit status, whatever it meets.

    Parameters
    ----------
    prog : str
        What the user called it: its line on stderr begins with that.
    command : callable
        Returns the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to end
    try:
        try:
            return command()
        finally:
            with _stdout():
                pass  # help and version of argparse, which are still in the buffer
    except KeyboardInterrupt:
        complain(f"{prog}: interrupted")
        return 130
    except Failure as error:
        why = str(error)
    except MemoryError:
        why = "not enough memory"
    except OSError as error:
        why = reason(error)
    except Exception as error:
        if sys.flags.dev_mode:
            traceback.print_exc()
        why = f"{type(error).__name__}: {error} (python -X dev shows where)"
    complain(f"{prog}: error: {why}")
    return 2


def say(text: str) -> None:
    """Print a text, at once."""
    with _stdout():
        print(text)


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    """Write to stdout, and find out whether it takes it. A reader that has had enough, as ``head``, is no error."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be tried again at exit.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        if not isinstance(error, BrokenPipeError):
            raise Failure(f"stdout: {error.strerror}") from None


def complain(text: str) -> None:
    """A line on stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(one_line(text), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text with escapes for whatever would break its line, or move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: OSError) -> str:
    """What the system says of a file, without its number."""
    why = error.strerror or str(error)
    return why if error.filename is None else f"{error.filename}: {why}"


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns


class OutputFile:
    """A file that is written when all is done, and known to be writable before anything is.

    What it holds stays until then. One that is new goes away again if it is not written.

    Parameters
    ----------
    path : Path
        A file, or a device or pipe.
    nbytes : int
        For so much there must be room.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self.path = path
        self._is_unwanted = not path.exists()
        with self._failures():
            self._file = io.FileIO(path, "wb", opener=_open_as_it_is)
        try:
            with self._failures():
                self._is_regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
                if self._is_regular:
                    end = self._file.seek(0, os.SEEK_END)
                    try:
                        self._write(bytes(nbytes))
                        os.fsync(self._file.fileno())
                    finally:
                        self._file.truncate(end)
                else:
                    self._file.write(b"")  # of this /dev/full complains already
        except BaseException:
            self.close()
            raise

    def write(self, text: str) -> None:
        """Write all of it, in place of what is there."""
        with self._failures():
            if self._is_regular:
                self._file.seek(0)
            self._write(text.encode())
            if self._is_regular:
                self._file.truncate()
        self._is_unwanted = False

    def close(self) -> None:
        """Close it, and take it away if it is new and nothing was written."""
        self._file.close()
        if self._is_unwanted:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]  # of a disk that is nearly full takes a part

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failure(f"{str(self.path)!r} cannot be written: {error.strerror}") from None


def _open_as_it_is(path: str, flags: int) -> int:
    """Open a file without cutting it off, and a pipe that nobody reads without waiting for a reader: an error."""
    number = os.open(path, flags & ~os.O_TRUNC | getattr(os, "O_NONBLOCK", 0), 0o666)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number
