# SPDX-License-Identifier: BSD-3-Clause
"""The module of fastdrop.jax for XLA: where it is, and how it is compiled.

It is compiled with fastdrop where JAX can be imported then, and by one command where JAX came later. A C compiler is
all that this takes, because the module knows nothing of Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from fastdrop._config import get_include
from fastdrop._version import __version__

COMMAND = "python -m fastdrop build-jax"

PACKAGE = Path(__file__).parent
SOURCE = PACKAGE / "jax" / "_ffi.c"
_FLAGS = ["-O2", "-std=c11", "-g0", "-fPIC", "-shared"]


def built() -> Path | None:
    """The module that was built last; None where there is none."""
    found = [path for folder in _folders() if (path := folder / _name()).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def build() -> Path:
    """Compile the module for the JAX that is installed, and return where it is.

    Raises
    ------
    RuntimeError
        That says what is missing, or what the compiler says.
    """
    try:
        import jax
    except ImportError as error:
        raise RuntimeError(f"JAX cannot be imported ({error}): python -m pip install jax") from None
    includes = [jax.ffi.include_dir(), get_include()]
    compiler = _compiler()
    folder = _writable_folder()
    # Who loads the module while another process builds it finds the old one or the new one, and no half.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-jax-") as scratch:
        made = Path(scratch) / _name()
        command = [*compiler, *_FLAGS, *(f"-I{path}" for path in includes), str(SOURCE), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise RuntimeError(f"{shlex.join(compiler)} cannot be run ({error}): set CC to a C compiler") from None
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} has failed:\n{done.stderr.strip()}")
        os.replace(made, folder / _name())
    return folder / _name()


def _name() -> str:
    """As setuptools names it."""
    return f"_ffi{sysconfig.get_config_var('EXT_SUFFIX')}"


def _folders() -> list[Path]:
    """Where the module may be: beside its source, or where that folder is not the user's to write to, in a cache."""
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [SOURCE.parent, caches / "fastdrop" / __version__]


def _writable_folder() -> Path:
    beside, cache = _folders()
    if os.access(beside, os.W_OK):
        return beside
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _compiler() -> list[str]:
    """``CC``, or the compiler that Python was built with, or what the system calls its C compiler."""
    named = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = shlex.split(named)
    return command if shutil.which(command[0]) or os.environ.get("CC") else ["cc"]
