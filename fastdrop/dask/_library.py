# SPDX-License-Identifier: BSD-3-Clause
"""Dask itself, or one line that says what to install."""

from __future__ import annotations

INSTALL = 'python -m pip install --upgrade "dask[array,distributed]" xarray'

# The modules that Dask's arrays need beside NumPy, and that a bare "pip install dask" may leave out.
_PARTS = ("dask", "tlz", "toolz")

try:
    import dask
    import dask.array
except ModuleNotFoundError as error:
    if error.name not in _PARTS:
        raise
    raise ModuleNotFoundError(
        f"fastdrop.dask needs Dask's arrays, and {error.name} is not installed: {INSTALL}", name=error.name
    ) from None

# The oldest releases that the tests have run with.
OLDEST = (2025, 1)
OLDEST_XARRAY = (2024, 7)


def release(version: str) -> tuple[int, int]:
    """Year and month of a version."""
    year, month = version.split(".")[:2]
    return int(year), int(month)


def check(name: str, version: str, oldest: tuple[int, int]) -> None:
    """An ImportError for a library that is too old."""
    if release(version) < oldest:
        raise ImportError(
            f"fastdrop.dask needs {name} {oldest[0]}.{oldest[1]} or newer, got {version}: {INSTALL}", name=name
        )


check("dask", dask.__version__, OLDEST)
