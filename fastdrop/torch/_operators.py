# SPDX-License-Identifier: BSD-3-Clause
"""Dropout as operators that PyTorch can trace, batch and differentiate: ``torch.ops.fastdrop``.

``fastdrop::draw`` makes of a random key what a mask is drawn by, as a small tensor, and ``fastdrop::dropout`` is a pure
function of it. The key comes from ``torch.randint``, which all of PyTorch's transformations know as random: they do not
merge two of them, give each sample of a ``vmap`` its own if asked for, and repeat it where a checkpoint is computed
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdrop.torch import _masks, _shards
from fastdrop.torch._masks import Draw, Numbers
from fastdrop.torch._shards import MAX_SHARDS, Shard

_WIDTH = 1 + 4 * MAX_SHARDS  # numbers of a draw: the key, and (dim, start, held, total) of each shard
_WHOLE = Shard(0, 0, 1, 1)

_library = torch.library.Library("fastdrop", "DEF")
_library.define("draw(Tensor key) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    "dropout(Tensor input, Tensor draw, float p, float scale, float shift=0.0, float fill=0.0, int[] shared_dims=[])"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _draw(key: Tensor) -> Tensor:
    """The numbers of draws, for keys of shape (..., 1)."""
    shards = _shards.said()
    rest = [number for shard in (*shards, *[_WHOLE] * (MAX_SHARDS - len(shards))) for number in shard]
    keys = [_shards.of_rank(number) for number in key.reshape(-1).tolist()]
    # The key of a rank may have 64 bits, of which int64 takes the upper half as negative numbers.
    rows = [[number - (number >> 63 << 64), *rest] for number in keys]
    return torch.tensor(rows, dtype=torch.int64).reshape(*key.shape[:-1], _WIDTH)


def _dropout(
    input: Tensor,
    draw: Tensor,
    p: float,
    scale: float,
    shift: float = 0.0,
    fill: float = 0.0,
    shared_dims: Sequence[int] = (),
) -> Tensor:
    key, *rest = draw.tolist()
    shards = tuple(Shard(*rest[i : i + 4]) for i in range(0, len(rest), 4))
    drawn = Draw(key % (1 << 64), p, tuple(shared_dims), tuple(shard for shard in shards if shard.held < shard.total))
    return _masks.apply(drawn, Numbers(scale, shift, fill), input)


_library.impl("draw", _draw, "CPU")
_library.impl("dropout", _dropout, "CPU")


@torch.library.register_fake("fastdrop::draw", lib=_library)
def _fake_draw(key: Tensor) -> Tensor:
    return key.new_empty((*key.shape[:-1], _WIDTH))


@torch.library.register_fake("fastdrop::dropout", lib=_library)
def _fake_dropout(input: Tensor, draw: Tensor, p: float, *numbers: Any) -> Tensor:
    torch._check(input.dtype in _masks.DTYPES, lambda: f"input must be of a floating dtype, got {input.dtype}")
    return torch.empty_like(input)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, draw, ctx.p, ctx.scale, _, _, ctx.shared_dims = inputs
    ctx.save_for_backward(draw)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (draw,) = ctx.saved_tensors
    dx = torch.ops.fastdrop.dropout(grad, draw, ctx.p, ctx.scale, 0.0, 0.0, ctx.shared_dims)
    return dx, None, None, None, None, None, None


torch.library.register_autograd("fastdrop::dropout", _backward, setup_context=_keep_for_backward, lib=_library)


def _batched_draw(info: Any, in_dims: tuple[int | None, ...], key: Tensor) -> tuple[Tensor, int]:
    (key_dim,) = in_dims
    assert key_dim is not None
    return torch.ops.fastdrop.draw(key.movedim(key_dim, 0)), 0


def _batched_dropout(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    draw: Tensor,
    p: float,
    scale: float,
    shift: float = 0.0,
    fill: float = 0.0,
    shared_dims: Sequence[int] = (),
) -> tuple[Tensor, int]:
    input_dim, draw_dim = in_dims[:2]
    numbers = p, scale, shift, fill
    if draw_dim is None:  # one mask for the batch
        assert input_dim is not None
        dims = [0, *(d + 1 for d in shared_dims)]
        return torch.ops.fastdrop.dropout(input.movedim(input_dim, 0), _behind_batch(draw), *numbers, dims), 0
    samples = [input] * info.batch_size if input_dim is None else input.movedim(input_dim, 0).unbind()
    draws = draw.movedim(draw_dim, 0).unbind()
    dropped = [
        torch.ops.fastdrop.dropout(sample, own, *numbers, shared_dims)
        for sample, own in zip(samples, draws, strict=True)
    ]
    return torch.stack(dropped), 0


def _behind_batch(draw: Tensor) -> Tensor:
    """A draw whose shards are along the same dimensions, in front of which there is another now."""
    is_dim = torch.arange(_WIDTH) % 4 == 1
    return torch.where(is_dim & (draw >= 0), draw + 1, draw)


torch.library.register_vmap("fastdrop::draw", _batched_draw, lib=_library)
torch.library.register_vmap("fastdrop::dropout", _batched_dropout, lib=_library)


class Transformed(torch.autograd.Function):
    """The operator for ``torch.func``, which wants derivatives of both modes."""

    @staticmethod
    def forward(
        input: Tensor, draw: Tensor, p: float, scale: float, shift: float, fill: float, shared_dims: Sequence[int]
    ) -> Tensor:
        dropped: Tensor = torch.ops.fastdrop.dropout(input, draw, p, scale, shift, fill, shared_dims)
        return dropped

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep_for_backward(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (draw,) = ctx.saved_tensors
        dx: Tensor = Transformed.apply(grad, draw, ctx.p, ctx.scale, 0.0, 0.0, ctx.shared_dims)
        return dx, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Tensor:
        (draw,) = ctx.saved_tensors
        dy: Tensor = Transformed.apply(tangent, draw, ctx.p, ctx.scale, 0.0, 0.0, ctx.shared_dims)
        return dy

    vmap = staticmethod(_batched_dropout)


def fresh_draw(input: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """What the next mask is drawn by. At 1, and without elements' values, nothing is random: no number is used up."""
    if p < 1.0 and input.device.type != "meta":
        options: Any = {} if generator is None else {"generator": generator}  # compilers know of no None here
        key = torch.randint(0, _masks.KEYS, (1,), dtype=torch.int64, device="cpu", **options)
    else:
        key = torch.zeros(1, dtype=torch.int64, device="cpu")
    drawn: Tensor = torch.ops.fastdrop.draw(key)
    return drawn


def as_tensor(draw: Draw) -> Tensor:
    """A draw that was made already."""
    shards = (*draw.shards, *[_WHOLE] * (MAX_SHARDS - len(draw.shards)))
    numbers = [draw.key - (draw.key >> 63 << 64), *(number for shard in shards for number in shard)]
    return torch.tensor(numbers, dtype=torch.int64)


def dropout(input: Tensor, draw: Tensor, p: float, numbers: Numbers, shared_dims: Sequence[int] = ()) -> Tensor:
    """The operator, by the way that suits what goes on."""
    arguments = input, draw, p, *numbers, shared_dims
    if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
        transformed: Tensor = Transformed.apply(*arguments)
        return transformed
    dropped: Tensor = torch.ops.fastdrop.dropout(*arguments)
    return dropped
