# SPDX-License-Identifier: BSD-3-Clause
"""The modules of ``torch.nn``, which they are in all but what their forward pass calls."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdrop.torch import _functional


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout``, by ``fastdrop.torch.dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(torch.nn.Dropout1d):
    """``torch.nn.Dropout1d``, by ``fastdrop.torch.dropout1d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(torch.nn.Dropout2d):
    """``torch.nn.Dropout2d``, by ``fastdrop.torch.dropout2d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(torch.nn.Dropout3d):
    """``torch.nn.Dropout3d``, by ``fastdrop.torch.dropout3d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(torch.nn.AlphaDropout):
    """``torch.nn.AlphaDropout``, by ``fastdrop.torch.alpha_dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """``torch.nn.FeatureAlphaDropout``, by ``fastdrop.torch.feature_alpha_dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        return _functional.feature_alpha_dropout(input, self.p, self.training, self.inplace)


class DropPath(torch.nn.Module):
    """Drop whole samples, by ``fastdrop.torch.drop_path``: with the arguments of timm's module.

    Parameters
    ----------
    drop_prob : float
        The probability to drop a sample.
    scale_by_keep : bool
        Divide the samples that are kept by ``1 - drop_prob``.
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"drop_prob must be a probability from 0 to 1, got {drop_prob}")
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        return _functional.drop_path(x, self.drop_prob, self.training, self.scale_by_keep)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"
