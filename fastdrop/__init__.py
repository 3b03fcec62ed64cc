# SPDX-License-Identifier: BSD-3-Clause
"""Dropout on the CPU for NumPy arrays, at the price of a copy.

>>> import numpy as np, fastdrop
>>> x = np.ones((256, 1024), np.float32)
>>> y, mask = fastdrop.dropout(x, 0.1, return_mask=True)  # forward
>>> dx = mask.apply(np.ones_like(y))                      # backward
"""

from __future__ import annotations as _annotations

import os as _os
import warnings as _warnings
from collections.abc import Iterator as _Iterator
from contextlib import contextmanager as _contextmanager

from fastdrop import _reference

try:
    import fastdrop._core as _core
except ImportError as _error:
    _is_missing = isinstance(_error, ModuleNotFoundError) and _error.name == "fastdrop._core"
    if not _is_missing and _os.environ.get("FASTDROP_NO_EXTENSION") != "1":
        raise
    _core = None  # type: ignore[assignment]

__version__ = "0.1.0"


def _find_kernels(name: str) -> _core.Kernels | _reference.Kernels:
    """The kernels of that name: ``reference``, or an instruction set that this machine can run."""
    if name == "reference":
        return _reference.Kernels()
    if _core is None or name not in _core.supported():
        raise ValueError(f"{name!r} can not run here; these can: {', '.join(_kernel_names())}")
    return _core.Kernels(name)


def _kernel_names() -> tuple[str, ...]:
    """The reference and the instruction sets of this machine, from the plainest to the fastest."""
    return ("reference", *(_core.supported() if _core is not None else ()))


def _choose_kernels() -> _core.Kernels | _reference.Kernels:
    """What is to run, by the environment: what was asked for and is not to be had is an error."""
    isa = _os.environ.get("FASTDROP_ISA")
    no_extension = _os.environ.get("FASTDROP_NO_EXTENSION", "0")
    if no_extension not in ("0", "1", ""):
        raise ValueError(f"FASTDROP_NO_EXTENSION must be 0 or 1, got {no_extension!r}")
    if no_extension == "1" or _core is None:
        if isa is not None:
            why = "FASTDROP_NO_EXTENSION=1 is set" if no_extension == "1" else "this build has no compiled core"
            raise ValueError(f"FASTDROP_ISA={isa!r} asks for the compiled core, but {why}: unset one of them")
        if no_extension != "1":
            _warnings.warn(
                "fastdrop was built without its compiled core: the NumPy reference runs instead, with the same "
                "results, many times slower. Reinstall with a C compiler, or set FASTDROP_NO_EXTENSION=1 to say "
                "that this is meant.",
                RuntimeWarning,
                stacklevel=3,
            )
        return _reference.Kernels()
    if isa is None:
        return _core.Kernels(_core.supported()[-1])
    if isa not in _core.supported():
        reason = "this machine can not run it" if isa in _core.built() else "this build does not have it"
        raise ValueError(f"FASTDROP_ISA={isa!r}: {reason}; allowed here: {', '.join(_core.supported())}")
    return _core.Kernels(isa)


@_contextmanager
def _using(name: str) -> _Iterator[None]:
    """Run other kernels for a while, in all of the process: for tests and measurements."""
    global _kernels
    before = _kernels
    _kernels = _find_kernels(name)
    try:
        yield
    finally:
        _kernels = before


_kernels = _choose_kernels()

from fastdrop._config import show_config  # noqa: E402  the kernels are chosen first
from fastdrop._functions import (  # noqa: E402
    drop_path,
    dropconnect,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    embedding_dropout,
)
from fastdrop._fused import (  # noqa: E402
    bias_dropout_add,
    bias_dropout_add_backward,
    dropout_add,
    dropout_add_backward,
    relu_dropout,
    relu_dropout_backward,
    zoneout,
    zoneout_backward,
)
from fastdrop._gate_masks import GateMasks, RecurrentDropout, RecurrentMasks  # noqa: E402
from fastdrop._layers import (  # noqa: E402
    AlphaDropout,
    DropConnect,
    Dropout,
    DropPath,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask  # noqa: E402
from fastdrop._monte_carlo import Prediction, mc_predict, stochastic  # noqa: E402
from fastdrop._noise import alpha_dropout, feature_alpha_dropout, gaussian_dropout, gaussian_noise  # noqa: E402
from fastdrop._streams import RNG, PhiloxStream  # noqa: E402
from fastdrop._threads import get_num_threads, num_threads, set_num_threads  # noqa: E402
from fastdrop._wrapper import DropoutWrapper, LSTMState, StepMasks  # noqa: E402

__all__ = [
    "RNG",
    "AlphaDropout",
    "AlphaMask",
    "DropConnect",
    "DropPath",
    "Dropout",
    "DropoutMask",
    "DropoutWrapper",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GateMasks",
    "GaussianDropout",
    "GaussianMask",
    "GaussianNoise",
    "LSTMState",
    "PhiloxStream",
    "Prediction",
    "RecurrentDropout",
    "RecurrentMasks",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StepMasks",
    "alpha_dropout",
    "bias_dropout_add",
    "bias_dropout_add_backward",
    "drop_path",
    "dropconnect",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_add_backward",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "get_num_threads",
    "mc_predict",
    "num_threads",
    "relu_dropout",
    "relu_dropout_backward",
    "set_num_threads",
    "show_config",
    "stochastic",
    "zoneout",
    "zoneout_backward",
]
