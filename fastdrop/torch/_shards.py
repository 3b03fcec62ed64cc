# SPDX-License-Identifier: BSD-3-Clause
"""Which part of a mask this process takes, where several processes train one net.

A rank that holds a slice of a tensor takes the same slice of the tensor's mask, if it says which. Then a net that is
trained by any number of ranks drops what one process would. Ranks that say nothing draw masks of their own.
"""

from __future__ import annotations

from operator import index
from types import TracebackType
from typing import NamedTuple, Self, SupportsIndex

import torch

from fastdrop import _arguments, _backend

MAX_SHARDS = 2  # along how many dimensions at a time: those of the data, and of the sequence or the features

# Of the stream that gives a rank its keys: no mask is drawn from it.
_DOMAIN = 17


_is_distributed = torch.distributed.is_initialized if torch.distributed.is_available() else bool


class Shard(NamedTuple):
    """Pieces start .. start+held-1 of so many equal ones, along a dimension."""

    dim: int
    start: int
    held: int
    total: int


# What was said; None where nothing was. It is the process's and not the thread's, because autograd has threads of its
# own, in which checkpoints draw again.
_said: tuple[Shard, ...] | None = None


class shard:
    """Take one slice of every mask from now on: that of the slice of the tensors which this process holds.

    All processes must draw the same numbers, so give them the same ``torch.manual_seed``. The mask is that of the whole
    tensor, which is ``total / count`` times as long along ``dim`` as the one that is dropped from.

    Parameters
    ----------
    start : int
        The first piece that this process holds: its rank, where each holds one.
    total : int
        How many equal pieces there are: the number of ranks, where each holds one.
    count : int
        How many of them this process holds, for parts that are not equal. Three processes that share a batch of 8 hold
        the pieces 0, 1, 2; 3, 4, 5; 6, 7 of 8.
    dim : int
        The dimension that is cut: 0 for the batch, 1 for the sequence or heads of (batch, heads, ...), -1 for features.
        It is that of each tensor from which something is dropped.

    Notes
    -----
    It holds in all of the process, for the backward pass too, until it is said anew for this dimension. ``shard(0, 1)``
    says that the whole is here, so that all ranks drop the same. As a context manager it is taken back at the end of
    the block; where checkpoints are computed again, the backward pass must be in the block too.

    Ranks that say nothing draw different masks once ``torch.distributed`` is initialized, also from the same seed.

    Examples
    --------
    >>> import torch, fastdrop.torch
    >>> x = torch.ones(4, 6)
    >>> seed = torch.manual_seed(7)
    >>> whole = fastdrop.torch.dropout(x)
    >>> seed = torch.manual_seed(7)
    >>> with fastdrop.torch.shard(1, 2):
    ...     half = fastdrop.torch.dropout(x[2:])
    >>> torch.equal(half, whole[2:])
    True
    """

    def __init__(
        self, start: SupportsIndex, total: SupportsIndex, *, count: SupportsIndex = 1, dim: SupportsIndex = 0
    ) -> None:
        global _said
        pieces = _arguments.count(total, "total")
        held = _arguments.count(count, "count")
        first = _arguments.unsigned(start, "start", 63)
        if first + held > pieces:
            raise ValueError(f"start and count must be pieces of a total of {pieces}, got {first} and {held}")
        if not _arguments.is_index(dim):
            raise TypeError(f"dim must be an int, got {dim!r}")
        along = index(dim)
        others = [] if _said is None else [other for other in _said if other.dim != along]
        said = (*others, *([Shard(along, first, held, pieces)] if held < pieces else []))
        if len(said) > MAX_SHARDS:
            raise ValueError(
                f"dim must be one of {[other.dim for other in others]}, or one of these given up, got {along}"
            )
        self._before = _said
        _said = said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _said
        _said = self._before


def said() -> tuple[Shard, ...]:
    """The shards of a mask that is drawn now."""
    return _said or ()


def of_rank(key: int) -> int:
    """The key of this rank, for one that all ranks have drawn: the same where it takes part in one mask."""
    if _said is not None or not _is_distributed():
        return key
    rank = torch.distributed.get_rank()
    if rank == 0:
        return key
    words = _backend.running.philox((rank, 0, 0, _DOMAIN), (key & 0xFFFFFFFF, key >> 32))
    return words[0] | words[1] << 32
