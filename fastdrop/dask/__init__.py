# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of Dask's arrays, and of xarray's objects: lazy, and the same mask whatever the chunks.

>>> import dask.array as da, fastdrop.dask
>>> x = da.ones((1000, 1000), chunks=(300, 400))
>>> y, mask = fastdrop.dask.dropout(x, 0.1, rng=0, return_mask=True)  # forward; nothing is computed yet
>>> dx = fastdrop.dask.backward(mask, da.ones_like(y))                # backward, in chunks of any shape

Each function has the name, the arguments and the meaning of the one in ``fastdrop``, and computes to the same bits:
chunks, schedulers and workers decide nothing.
"""

from fastdrop.dask import _library as _library  # first, because it says what to install
from fastdrop.dask._functions import (
    alpha_dropout,
    drop_path,
    dropconnect,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    embedding_dropout,
    feature_alpha_dropout,
    gaussian_dropout,
    gaussian_noise,
)
from fastdrop.dask._fused import (
    bias_dropout_add,
    bias_dropout_add_backward,
    dropout_add,
    dropout_add_backward,
    relu_dropout,
    relu_dropout_backward,
    zoneout,
    zoneout_backward,
)
from fastdrop.dask._masks import apply, backward

__all__ = [
    "alpha_dropout",
    "apply",
    "backward",
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
    "relu_dropout",
    "relu_dropout_backward",
    "zoneout",
    "zoneout_backward",
]
