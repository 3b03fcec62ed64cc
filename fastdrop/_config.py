# SPDX-License-Identifier: BSD-3-Clause
"""What runs here."""

from __future__ import annotations

import platform
from typing import Any, Literal, overload

import numpy as np

import fastdrop
from fastdrop import _engine, _threads


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
    core = fastdrop._core
    config: dict[str, Any] = {
        "fastdrop": fastdrop.__version__,
        "running": fastdrop._kernels.name,
        "instruction sets built": list(core.built()) if core is not None else [],
        "instruction sets of this machine": list(core.supported()) if core is not None else [],
        "threads": _threads.get_num_threads(),
        "last-level cache": _engine.LAST_LEVEL_CACHE,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
    }
    if mode == "dicts":
        return config
    for name, value in config.items():
        text = ", ".join(value) or "none" if isinstance(value, list) else value
        print(f"{name + ':':<34}{f'{value >> 20} MiB' if name == 'last-level cache' else text}")
    return None
