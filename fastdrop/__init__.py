# SPDX-License-Identifier: BSD-3-Clause
"""Dropout on the CPU for NumPy arrays, at the price of a copy.

>>> import numpy as np, fastdrop
>>> x = np.ones((256, 1024), np.float32)
>>> y, mask = fastdrop.dropout(x, 0.1, return_mask=True)  # forward
>>> dx = mask.apply(np.ones_like(y))                      # backward
"""

from fastdrop._blocks import BlockMask, drop_block2d
from fastdrop._config import get_include, show_config
from fastdrop._functions import (
    drop_path,
    dropconnect,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    embedding_dropout,
)
from fastdrop._fused import (
    bias_dropout_add,
    bias_dropout_add_backward,
    dropout_add,
    dropout_add_backward,
    relu_dropout,
    relu_dropout_backward,
    zoneout,
    zoneout_backward,
)
from fastdrop._gate_masks import GateMasks, RecurrentDropout, RecurrentMasks
from fastdrop._layers import (
    AlphaDropout,
    DropBlock2d,
    DropConnect,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask
from fastdrop._monte_carlo import Prediction, mc_predict, stochastic
from fastdrop._noise import alpha_dropout, feature_alpha_dropout, gaussian_dropout, gaussian_noise
from fastdrop._streams import RNG, DrawSource, PhiloxStream, fold_in
from fastdrop._threads import get_num_threads, num_threads, set_num_threads
from fastdrop._version import __version__ as __version__
from fastdrop._wrapper import DropoutWrapper, LSTMState, StepMasks

__all__ = [
    "RNG",
    "AlphaDropout",
    "AlphaMask",
    "BlockMask",
    "DrawSource",
    "DropBlock2d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
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
    "drop_block2d",
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
    "fold_in",
    "gaussian_dropout",
    "gaussian_noise",
    "get_include",
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
