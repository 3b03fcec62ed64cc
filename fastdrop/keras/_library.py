# SPDX-License-Identifier: BSD-3-Clause
"""Keras itself with a backend, or one line that says what to install."""

from __future__ import annotations

# The oldest release that the tests have run with; the newest is 3.15.1.
OLDEST = (3, 6)

# What Keras's backends are made of, by the names under which it is imported.
_PARTS_OF_BACKENDS = ("jax", "jaxlib", "openvino", "scipy", "tensorflow", "torch")


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What to say where Keras, or the backend that it shall run on, cannot be found; the error itself for all else."""
    if error.name == "keras":
        said = "fastdrop.keras needs Keras 3, which is not installed: python -m pip install keras"
    elif error.name in _PARTS_OF_BACKENDS:
        said = (
            f"fastdrop.keras needs a backend of Keras, and the one that is chosen needs {error.name}, which is not "
            f"installed: python -m pip install {error.name}, or choose another by KERAS_BACKEND"
        )
    else:
        return error
    return ModuleNotFoundError(said, name=error.name)


try:
    import keras
except ModuleNotFoundError as error:
    said = _missing(error)
    if said is error:
        raise
    raise said from None

if tuple(int(number) for number in keras.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(
        f"fastdrop.keras needs Keras {OLDEST[0]}.{OLDEST[1]} or newer, got {keras.__version__}: python -m pip install "
        "--upgrade keras",
        name="keras",
    )
