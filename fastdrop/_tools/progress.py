# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import TextIO


class Progress:
    """A progress bar on stderr, or nothing where that is no terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file  # None where stderr is closed
        self._shown = self._file is not None and self._file.isatty()
        self._next = 0.0
        self._began = time.monotonic()

    def update(self, fraction: float, text: str) -> None:
        """Show how much of the whole is done, from 0 to 1, and what is being done."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + 0.1
        fraction = min(max(fraction, 0.0), 1.0)
        elapsed = now - self._began
        left = f"{math.ceil(elapsed / fraction - elapsed)} s left" if fraction > 0.02 else ""
        filled = round(30 * fraction)
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {fraction:4.0%}  {text:<34} {left:>10}"
        self._file.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        self._file.flush()

    def clear(self) -> None:
        """Take the bar away, so that other text can be written."""
        if self._shown:
            self._file.write("\r\x1b[K")
            self._file.flush()
            self._next = 0.0
