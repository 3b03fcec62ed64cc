# SPDX-License-Identifier: BSD-3-Clause
"""The masks of tensors: what they are drawn by, and the kernels on tensors' memory.

A mask is a few numbers, from PyTorch's own generator, and its elements are those of the tensor in C order, however it
lies in memory. Nothing here records gradients.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastdrop import _backend, _engine, _geometry, _threads
from fastdrop._geometry import Place
from fastdrop._kernels import Dtype, IndexMap, Operation
from fastdrop._masks import alpha_numbers
from fastdrop.torch import _shards
from fastdrop.torch._shards import Shard

# Keys are below it: what torch.randint can give.
KEYS = (1 << 63) - 1

DTYPES = {
    torch.float16: Dtype.FLOAT16,
    torch.bfloat16: Dtype.BFLOAT16,
    torch.float32: Dtype.FLOAT32,
    torch.float64: Dtype.FLOAT64,
}

MIN_PERIOD = 32  # elements of the shortest bias that kernels take

_local = threading.local()
_plain_dropout_at = _backend.plain_dropout_at


class Draw(NamedTuple):
    """What a mask is drawn by, with p and the shape of a tensor. It is all that is kept for the backward pass."""

    key: int
    p: float
    shared: tuple[int, ...] = ()  # dimensions along which elements are dropped together
    shards: tuple[Shard, ...] = ()

    @property
    def threshold(self) -> int:
        """An element is dropped iff its 32 random bits are below it. round() takes ties to even."""
        return round(self.p * 4294967296.0)


class Numbers(NamedTuple):
    """What is done with elements: ``x * scale + shift`` where kept, ``fill`` where dropped."""

    scale: float
    shift: float = 0.0
    fill: float = 0.0

    @property
    def is_dropout(self) -> bool:
        """Whether it is that, and not alpha dropout."""
        return self.shift == 0.0 and self.fill == 0.0

    @property
    def gradient(self) -> Numbers:
        """The derivative."""
        return self if self.is_dropout else Numbers(self.scale)


def dropout_numbers(p: float) -> Numbers:
    return Numbers(1.0 / (1.0 - p) if p < 1.0 else 0.0)


def alpha_dropout_numbers(p: float) -> Numbers:
    hash(p)  # to a compiler a p that changes is a symbol, whose root it rounds wrongly and refuses, unless it is fixed
    return Numbers(*alpha_numbers.__wrapped__(p))  # who compiles warns of caches


@lru_cache(maxsize=1024)
def _place(
    shape: tuple[int, ...], strides: tuple[int, ...], shared: tuple[int, ...], shards: tuple[Shard, ...]
) -> Place:
    """Where the elements of a tensor lie in the stream, in the order of its memory, which is dense."""
    ndim = len(shape)
    whole, starts = list(shape), [0] * ndim
    for dim, start, held, total in shards:
        if not -ndim <= dim < ndim:
            raise ValueError(f"shard: dim must be a dimension of what is dropped from, of shape {shape}, got {dim}")
        if shape[dim] % held != 0:
            raise ValueError(f"shard: count must divide dimension {dim} of what is dropped from, {shape}, got {held}")
        piece = shape[dim] // held
        whole[dim], starts[dim] = piece * total, piece * start
    drawn = tuple(1 if d in shared else length for d, length in enumerate(whole))
    steps = _geometry.strides_of(tuple(whole), drawn)
    steps = tuple(0 if d in shared else step for d, step in enumerate(steps))
    offset = sum(start * step for start, step in zip(starts, steps, strict=True))
    order = sorted((d for d in range(ndim) if shape[d] > 1), key=lambda d: -strides[d])
    return _geometry.place_in_memory(shape, steps, tuple(order), offset)


def next_draw(x: Tensor, p: float, shared: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Draw:
    """The draw of the next mask for a tensor. At 1 nothing is random, and no number is used up."""
    shards = _shards.said()
    if shards:
        _place(tuple(x.shape), x.stride(), shared, shards)  # or an error, before anything is drawn
    return Draw(next_key(generator) if p < 1.0 else 0, float(p), shared, shards)


def next_key(generator: torch.Generator | None = None) -> int:
    """A key from a generator of the CPU, by default PyTorch's own: what ``torch.randint(KEYS, (1,))`` would give."""
    try:
        number = _local.number
    except AttributeError:
        with torch.inference_mode(False):  # else it could not be used outside of it
            number = _local.number = torch.empty((), dtype=torch.int64, device="cpu")
    if generator is None:
        number.random_(0, KEYS)
    else:
        number.random_(0, KEYS, generator=generator)
    key: int = number.item()
    return _shards.of_rank(key)


def _is_dense(x: Tensor, y: Tensor) -> bool:
    """Whether x lies in memory as y does, which is dense, and its elements are what stands there."""
    return (
        x.stride() == y.stride() and not x.is_neg() and not x._is_zerotensor() and x.data_ptr() % x.element_size() == 0
    )


def dropped_in_order(x: Tensor, p: float, key: int) -> Tensor | None:
    """Dropout of a contiguous tensor, where it is no more than that: None for a large or an odd one."""
    size = x.numel()
    if size >= _backend.LARGE or x.is_neg() or x._is_zerotensor():
        return None
    y = torch.empty_like(x)
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    threads = 1 if size < _backend.SHARED else _threads.number_for(size, torch.get_num_threads)
    is_done = _plain_dropout_at(DTYPES[x.dtype], x.data_ptr(), y.data_ptr(), size, key, p, scale, threads)
    return y if is_done else None


def apply(
    draw: Draw,
    numbers: Numbers,
    x: Tensor,
    out: Tensor | None = None,
    operation: Operation | None = None,
    other: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """An operation with the mask of a draw on a strided CPU tensor of one of the dtypes.

    Parameters
    ----------
    draw, numbers
        What decides, and what is done with elements.
    x : Tensor
    out : Tensor, optional
        x itself, for in place.
    operation : Operation, optional
        By default the one that the numbers tell: dropout or alpha dropout.
    other : Tensor, optional
        A second tensor of x's shape and dtype.
    bias : Tensor, optional
        Of x's dtype, as long as its last dimension.
    """
    if (
        operation is None
        and out is None
        and numbers == dropout_numbers(draw.p)
        and not (draw.shared or draw.shards)
        and x.is_contiguous()
    ):
        y = dropped_in_order(x, draw.p, draw.key)
        if y is not None:
            return y
    if operation is None:
        operation = Operation.DROPOUT if numbers.is_dropout else Operation.ALPHA_DROPOUT
    if x.is_contiguous() and not (x.is_neg() or x._is_zerotensor() or x.data_ptr() % x.element_size()):
        y = torch.empty_like(x) if out is None else out
        is_in_order = bias is not None or not (draw.shared or draw.shards)
    else:
        # Of what is not dense the copy is, and then one array is read and written.
        y = torch.empty_like(x, memory_format=torch.contiguous_format if bias is not None else torch.preserve_format)
        if not _is_dense(x, y):
            x = y.copy_(x)
        elif out is not None:
            y = out
        is_in_order = False
    size = y.numel()
    c_draw = _backend.Draw(draw.key, 0, draw.threshold)
    if is_in_order and not draw.shards:
        index_map = _engine.IN_ORDER
    else:
        place = _place(tuple(y.shape), y.stride(), draw.shared, draw.shards)
        index_map = _engine.index_map_at(place, c_draw)
    others = 0, 0, 0
    if other is not None:
        if not _is_dense(other, y):
            other = torch.empty_like(y).copy_(other)
        others = other.data_ptr(), 0, 0
        if bias is not None:
            bias = bias.repeat(-(-MIN_PERIOD // bias.numel()))
            others = others[0], bias.data_ptr(), bias.numel()
    _run(operation, y, x, size, c_draw, index_map, numbers, others)
    if out is not None:
        if y is not out:
            out.copy_(y)
        else:
            torch.autograd.graph.increment_version(out)
        return out
    return y


def _run(
    operation: Operation,
    y: Tensor,
    x: Tensor,
    size: int,
    draw: _backend.Draw,
    index_map: IndexMap,
    numbers: Numbers,
    others: tuple[int, int, int],
) -> None:
    kernels = _backend.running
    dtype = DTYPES[y.dtype]
    x_at, y_at = x.data_ptr(), y.data_ptr()
    place = x_at, y_at, size, draw, index_map
    if size < _backend.SHARED:
        kernels.apply_at(operation, dtype, *place, *numbers, *others)
        return
    nontemporal = y.nbytes >= _engine.NONTEMPORAL and y_at not in (x_at, others[0])
    threads = _threads.number_for(size, torch.get_num_threads)
    kernels.apply_at(operation, dtype, *place, *numbers, *others, nontemporal, threads)


def keep(draw: Draw, x: Tensor) -> Tensor:
    """The mask for a tensor, as contiguous booleans."""
    shape = tuple(x.shape)
    place = _place(shape, _geometry.strides_of(shape, None), draw.shared, draw.shards)
    c_draw = _backend.Draw(draw.key, 0, draw.threshold)
    return torch.from_numpy(_engine.keep(shape, c_draw, _backend.IndexMap(place.offset, place.dims)))
