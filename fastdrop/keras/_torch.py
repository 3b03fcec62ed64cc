# SPDX-License-Identifier: BSD-3-Clause
"""Keras's PyTorch backend: the operators of fastdrop.torch, and normal noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from fastdrop._masks import GaussianMask
from fastdrop.keras import _noise
from fastdrop.keras._noise import Kind, Lengths, Noise
from fastdrop.torch import _autograd, _masks, _operators, _shards
from fastdrop.torch._masks import Draw

# Of the kinds that the operators of fastdrop.torch know.
_NUMBERS = {Kind.DROPOUT: _masks.dropout_numbers, Kind.ALPHA_DROPOUT: _masks.alpha_dropout_numbers}

SUPPORTS_JIT = True
SEEDS = range(-(1 << 31), 1 << 31)


def is_ours(inputs: Any) -> bool:
    is_dense = isinstance(inputs, Tensor) and inputs.layout is torch.strided and not inputs.is_nested
    return is_dense and inputs.device.type in ("cpu", "meta")


@torch.compiler.disable  # a break in what is compiled, as Keras's own seed generator is
def applied(inputs: Tensor, noise: Noise, noise_shape: Sequence[Any] | None, draw: Callable[[], Tensor]) -> Tensor:
    lengths = _noise.lengths_of(noise_shape, tuple(inputs.shape))
    if inputs.device.type == "meta":  # by which Keras asks for shapes; it draws nothing then
        return torch.empty_like(inputs)
    if noise.kind not in _NUMBERS:
        return _perturbed(inputs, noise, lengths, draw())
    shared = () if lengths is None else tuple(d for d, n in enumerate(lengths) if n == 1)
    rate = float(noise.amount)
    numbers = _NUMBERS[noise.kind](rate)
    key = _shards.of_rank(_noise.key_of(draw().tolist()))
    drawn = Draw(key, rate, shared, _shards.said())
    if _autograd.is_plain(inputs):
        return _autograd.dropped(inputs, drawn, numbers)
    return _operators.dropout(inputs, _operators.as_tensor(drawn), rate, numbers, shared)


def _perturbed(inputs: Tensor, noise: Noise, lengths: Lengths, words: Tensor) -> Tensor:
    """Normal noise, for which PyTorch's client has no operator."""
    shape, whole, part = tuple(inputs.shape), list(inputs.shape), [slice(None)] * inputs.dim()
    for dim, start, held, total in _shards.said():
        piece = shape[dim] // held
        whole[dim], part[dim] = piece * total, slice(piece * start, piece * (start + held))
    drawn = None if lengths is None else tuple(1 if n == 1 else w for n, w in zip(lengths, whole, strict=True))
    key = _shards.of_rank(_noise.key_of(words.tolist()))
    mask = noise.mask(tuple(whole), key, drawn)[tuple(part)]
    perturbed: Tensor = _Perturbed.apply(inputs, mask)
    return perturbed


class _Perturbed(torch.autograd.Function):
    """Of which the derivative is the same factors again, or none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: GaussianMask) -> Tensor:
        ctx.mask = mask
        return _tensor(mask.apply(_array(x)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad if ctx.mask.additive else _Perturbed.apply(grad, ctx.mask), None


def _array(x: Tensor) -> np.ndarray:
    x = x.detach().resolve_neg()
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype is torch.bfloat16 else x.numpy()


def _tensor(y: np.ndarray) -> Tensor:
    if y.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(y.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(y)
