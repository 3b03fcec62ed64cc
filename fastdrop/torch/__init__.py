# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for PyTorch on the CPU.

>>> import torch, fastdrop.torch
>>> switch = fastdrop.torch.enable()         # from here on every dropout of CPU tensors in this process
>>> model = torch.nn.TransformerEncoderLayer(64, 4, dropout=0.1)
>>> y = model(torch.zeros(10, 2, 64))
>>> fastdrop.torch.disable()

The functions and modules have the names, arguments and meaning of those in ``torch.nn.functional`` and ``torch.nn``,
for code that names them instead. Masks come from PyTorch's own random numbers: ``torch.manual_seed``, ``fork_rng``,
checkpoints and the workers of a ``DataLoader`` mean what they always mean.
"""

from fastdrop.torch import _library as _library  # first, because it says what to install
from fastdrop.torch._functional import (
    alpha_dropout,
    bias_dropout_add,
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
    relu_dropout,
)
from fastdrop.torch._modules import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureAlphaDropout,
)
from fastdrop.torch._overrides import disable, enable, is_enabled
from fastdrop.torch._shards import shard
from fastdrop.torch._stochastic import stochastic

__all__ = [
    "AlphaDropout",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "alpha_dropout",
    "bias_dropout_add",
    "disable",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "enable",
    "feature_alpha_dropout",
    "is_enabled",
    "relu_dropout",
    "shard",
    "stochastic",
]
