# SPDX-License-Identifier: BSD-3-Clause
"""The ground floor: the compiled core or its likeness in Python, and which kernels run.

Nothing here knows of dropout. Modules that need the kernels read ``_backend.running`` when they do, because
:func:`_using` may have changed it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from fastdrop import _core_in_python, _kernels, _reference
from fastdrop._kernels import Kernels

# In elements. A large array is worth it to wake a thread; plain calls, which never leave C, are of fewer. A smaller one
# is worth it to be shared with a thread that is awake, and its chunks are worth it to be taken one by one.
LARGE = 1 << 20
SHARED = 1 << 16
CHUNK = 1 << 14


def _load() -> ModuleType | None:
    """The compiled core; None in a build without one, or where the environment asks for the reference."""
    no_extension = os.environ.get("FASTDROP_NO_EXTENSION", "0")
    if no_extension not in ("0", "1", ""):
        raise ValueError(f"FASTDROP_NO_EXTENSION must be 0 or 1, got {no_extension!r}")
    if no_extension == "1":
        return None
    try:
        import fastdrop._core as core
    except ModuleNotFoundError as error:
        if error.name != "fastdrop._core":
            raise
        return None
    return core


def names() -> tuple[str, ...]:
    """The reference and the instruction sets of this machine, from the plainest to the fastest."""
    return ("reference", *(compiled.supported() if compiled is not None else ()))


def find(name: str) -> Kernels:
    """The kernels of that name: ``reference``, or an instruction set that this machine can run."""
    if name == "reference":
        return _reference.Kernels()
    if compiled is None or name not in compiled.supported():
        raise ValueError(f"{name!r} cannot run here; these can: {', '.join(names())}")
    kernels: Kernels = compiled.Kernels(name)
    return kernels


def _chosen_name() -> str:
    """What is to run, by the environment: what was asked for and is not to be had is an error."""
    isa = os.environ.get("FASTDROP_ISA") or None
    if compiled is None:
        asked_for = os.environ.get("FASTDROP_NO_EXTENSION") == "1"
        if isa is not None:
            why = "FASTDROP_NO_EXTENSION=1 is set" if asked_for else "this build has no compiled core"
            raise ValueError(f"FASTDROP_ISA={isa!r} asks for the compiled core, but {why}: unset one of them")
        if not asked_for:
            warnings.warn(
                "fastdrop was built without its compiled core: the NumPy reference runs instead, with the same "
                "results, many times slower. Reinstall with a C compiler, or set FASTDROP_NO_EXTENSION=1 to say "
                "that this is meant.",
                RuntimeWarning,
                stacklevel=_level_of_the_import(),
            )
        return "reference"
    allowed: tuple[str, ...] = compiled.supported()
    if isa is None:
        return allowed[-1]
    if isa not in allowed:
        reason = "this machine cannot run it" if isa in compiled.built() else "this build does not have it"
        raise ValueError(f"FASTDROP_ISA={isa!r}: {reason}; allowed here: {', '.join(allowed)}")
    return isa


def _level_of_the_import() -> int:
    """The stack level, for a warning of whoever calls this, of the line that imports fastdrop."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and (name := str(frame.f_globals.get("__name__"))).startswith(
        ("fastdrop", "importlib")
    ):
        level += not name.startswith("importlib")  # which the warning does not count
        frame = frame.f_back
    return level


def _run(kernels: Kernels) -> None:
    global running
    running = kernels
    if compiled is not None:
        compiled.use(kernels if isinstance(kernels, compiled.Kernels) else None, LARGE, SHARED, CHUNK)


@contextmanager
def _using(name: str) -> Iterator[Kernels]:
    """Run other kernels for a while, in all of the process: for tests and measurements."""
    before = running
    _run(find(name))
    try:
        yield running
    finally:
        _run(before)


compiled = _load()

if TYPE_CHECKING or compiled is None:
    Draw = _kernels.Draw
    IndexMap = _kernels.IndexMap
    Operands = _kernels.Operands
    DropoutState = _core_in_python.DropoutState
    MaskState = _core_in_python.MaskState
    PlainCalls = _core_in_python.PlainCalls
    StreamState = _core_in_python.StreamState
    are_plain = _core_in_python.are_plain
    ask_for_threads = _core_in_python.ask_for_threads
    has_just_shared = _core_in_python.has_just_shared
    plain_apply = _core_in_python.plain_apply
    plain_dropout = _core_in_python.plain_dropout
    plain_dropout_at = _core_in_python.plain_dropout_at
    set_threads_of_clients = _core_in_python.set_threads_of_clients
    usable_cpus = _core_in_python.usable_cpus
else:
    Draw = compiled.Draw
    IndexMap = compiled.IndexMap
    Operands = compiled.Operands
    DropoutState = compiled.DropoutState
    MaskState = compiled.MaskState
    PlainCalls = compiled.PlainCalls
    StreamState = compiled.StreamState
    are_plain = compiled.are_plain
    ask_for_threads = compiled.ask_for_threads
    has_just_shared = compiled.has_just_shared
    plain_apply = compiled.plain_apply
    plain_dropout = compiled.plain_dropout
    plain_dropout_at = compiled.plain_dropout_at
    set_threads_of_clients = compiled.set_threads_of_clients
    usable_cpus = compiled.usable_cpus

running: Kernels
_run(find(_chosen_name()))
