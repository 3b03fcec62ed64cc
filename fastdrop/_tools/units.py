# SPDX-License-Identifier: BSD-3-Clause
"""Numbers as a reader takes them in: three digits and a unit."""

from __future__ import annotations


def format_size(nbytes: int) -> str:
    """Bytes with the unit in which they are a short number."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << shift:
            return f"{nbytes / (1 << shift):.4g} {unit}"
    return f"{nbytes} B"


def format_time(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        value = seconds * scale
        if value < 999.5 or unit == "s":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def format_speed(nbytes: int, seconds: float) -> str:
    """GB/s; nothing where the call is all that takes time."""
    speed = nbytes / seconds / 1e9
    return f"{speed:.1f}" if speed >= 0.05 else "-"


def format_ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"
