# SPDX-License-Identifier: BSD-3-Clause
"""What runs here."""

from __future__ import annotations

import contextlib
import platform
import sys
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from fastdrop import _backend, _threads
from fastdrop._version import __version__

CACHES = "/sys/devices/system/cpu/cpu0/cache"  # where Linux describes them


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


def caches() -> dict[str, int]:
    """Bytes by level and kind (L1d, L1i, L2, L3), as far as the system tells of its first CPU."""
    from pathlib import Path  # which takes longer to import than most of this package

    found = {}
    for index in sorted(Path(CACHES).glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            if (nbytes := _bytes(size)) > 0:  # some hypervisors say 0K
                found[f"L{int(level)}{letter}"] = nbytes
    if sys.platform == "darwin":
        named = {"L1d": "hw.l1dcachesize", "L1i": "hw.l1icachesize", "L2": "hw.l2cachesize", "L3": "hw.l3cachesize"}
        found = {level: size for level, name in named.items() if (size := _sysctl(name)) > 0}
    return found


def _bytes(text: str) -> int:
    """A size as sysfs writes it."""
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0)
    return int(text[:-1] if shift else text) << shift


def last_level_cache() -> int | None:
    """Its size in bytes, None where the system does not tell."""
    found = {level: size for level, size in caches().items() if not level.endswith("i")}
    return found[max(found)] if found else None


def _sysctl(name: str) -> int:
    """A number that macOS knows by this name, or 0."""
    import ctypes

    value = ctypes.c_int64(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value


def get_include() -> str:
    """The folder with the headers and the sources of the C core, for programs that draw without Python.

    Returns
    -------
    str
        A path. ``fastdrop.h`` in it is the contract of the core, and says what each function does. A program that calls
        the kernels compiles ``dispatch.c`` and ``isa_*.c`` with its own files, without ``-ffast-math`` and with
        ``-ffp-contract=off``: examples/dropout_in_c.c is one. The interface of C may change with any release.

    Examples
    --------
    >>> import os, fastdrop
    >>> os.path.exists(os.path.join(fastdrop.get_include(), "fastdrop.h"))
    True
    """
    package = Path(__file__).parent
    installed = package / "csrc"  # in a checkout they stand beside the package
    return str(installed if installed.exists() else package.parent / "csrc")
