# SPDX-License-Identifier: BSD-3-Clause
"""JAX itself, and the module that XLA calls; or one line that says what to install or to build."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

try:
    import jax
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib"):
        raise
    raise ModuleNotFoundError(
        "fastdrop.jax needs JAX, which is not installed: python -m pip install jax", name=error.name
    ) from None

from fastdrop import _backend, _engine, _jax_build, _threads

# The oldest release that the tests have run with.
OLDEST = (0, 7)

# Under this name XLA knows the operation, and an exported program calls it. Other attributes would need another name.
TARGET = "fastdrop_dropout_v1"

BUILD = f"build it by: {_jax_build.COMMAND}"


def _check_release() -> None:
    release = tuple(int(number) for number in re.findall(r"\d+", jax.__version__)[:2])
    if release < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(
            f"fastdrop.jax needs JAX {oldest} or newer, got {jax.__version__}: python -m pip install -U jax", name="jax"
        )


def _core() -> object:
    """The capsule of the compiled core."""
    if _backend.compiled is None:
        is_asked_for = os.environ.get("FASTDROP_NO_EXTENSION") == "1"
        why = "FASTDROP_NO_EXTENSION=1 is set: unset it" if is_asked_for else "this build has none: reinstall fastdrop"
        raise ImportError(f"fastdrop.jax needs fastdrop's compiled core, but {why}", name="fastdrop._core")
    return _backend.compiled.client


def _load() -> ctypes.CDLL:
    path = _jax_build.built()
    if path is None:
        raise ImportError(
            f"fastdrop.jax has a module for XLA, which is not built: {BUILD}", name="fastdrop.jax._ffi"
        ) from None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path} cannot be loaded ({error}): {BUILD}", name="fastdrop.jax._ffi") from None


def _check_interface(library: ctypes.CDLL) -> None:
    """An ImportError where XLA would refuse the module: it does so when it starts, and then does not start at all."""
    version = (ctypes.c_int * 2)()
    library.fastdrop_jax_interface(version)
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    found = re.findall(r"^#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)$", header, re.MULTILINE)
    if [str(number) for number in version] != found:
        raise ImportError(
            f"{library._name} was built for version {version[0]}.{version[1]} of XLA's interface, and the JAX "
            f"{jax.__version__} that is installed has {'.'.join(found)}: {BUILD}",
            name="fastdrop.jax._ffi",
        )


def _register() -> None:
    """Join the core, the module and XLA."""
    _check_release()
    core = _core()
    library = _load()
    _check_interface(library)
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    connect = library.fastdrop_jax_connect
    connect.restype, connect.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    if not connect(address(core, b"fastdrop.client"), _engine.NONTEMPORAL, _threads.bought_cpus()):
        raise ImportError(
            f"{library._name} was built for another version of fastdrop: {BUILD}", name="fastdrop.jax._ffi"
        )
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.fastdrop_jax_dropout), platform="cpu")


_register()
