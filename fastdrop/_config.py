# SPDX-License-Identifier: BSD-3-Clause
"""What runs here."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from fastdrop import _backend, _threads
from fastdrop._version import __version__


@overload
def show_config(mode: Literal["stdout"] = ...) -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, the instruction sets, the threads and the caches that fastdrop works with.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}
        Print it, or return it as a dictionary.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    core = _backend.compiled
    config: dict[str, Any] = {
        "fastdrop": __version__,
        "running": _backend.running.name,
        "instruction sets built": list(core.built()) if core is not None else [],
        "instruction sets of this machine": list(core.supported()) if core is not None else [],
        "threads": _threads.get_num_threads(),
        "last-level cache": last_level_cache(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
    }
    if mode == "dicts":
        return config
    for name, value in config.items():
        text = ", ".join(value) or "none" if isinstance(value, list) else value
        if name == "last-level cache":
            text = "unknown" if value is None else f"{value / (1 << 20):.4g} MiB"
        print(f"{name + ':':<34}{text}")
    return None


def last_level_cache() -> int | None:
    """Its size in bytes, None where the system does not tell."""
    levels: dict[int, int] = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                levels[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    if sys.platform == "darwin":
        for level in (2, 3):
            if (found := _sysctl(f"hw.l{level}cachesize")) > 0:
                levels[level] = found
    return levels[max(levels)] if levels else None


def _sysctl(name: str) -> int:
    """A number that macOS knows by this name, or 0."""
    import ctypes

    value = ctypes.c_int64(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value
