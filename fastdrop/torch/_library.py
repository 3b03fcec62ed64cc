# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch itself, or one line that says what to install."""

from __future__ import annotations

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "fastdrop.torch needs PyTorch, which is not installed: python -m pip install torch", name="torch"
    ) from None

# The oldest release that the tests have run with; the newest is 2.14.1.
OLDEST = (2, 9)


def release() -> tuple[int, int]:
    """Major and minor number of the PyTorch that runs."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def check_release() -> None:
    """A RuntimeError for a PyTorch whose inside is not known to be what is replaced here."""
    if release() < OLDEST:
        raise RuntimeError(
            f"fastdrop.torch needs PyTorch {OLDEST[0]}.{OLDEST[1]} or newer, got {torch.__version__}: upgrade it"
        )
