# SPDX-License-Identifier: BSD-3-Clause
"""DropBlock: squares of a feature map are dropped together, so that no neighbour gives away what is missing.

A square is dropped by one decision, that of its seed: the corner at its top and left. Seeds are the elements of a
``DropoutMask`` of their own, which has one for each place where a square fits into its map.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, SupportsIndex, TypeAlias, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _backend, _functions, _geometry, _masks, _prologue
from fastdrop._arguments import DEFAULT_RATE, Number
from fastdrop._functions import CHANNELS_FIRST, CHANNELS_LAST, ChannelOptions, DataFormat
from fastdrop._kernels import Bits, Bools, Operation
from fastdrop._masks import DropoutMask
from fastdrop._streams import RNG

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIZE = 7

# Elements of which the blocks are made at a time, so that their booleans stay in the cache of a core.
_CHUNK = 1 << 17

_Part: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]


class _Recipe(NamedTuple):
    """What a mask is drawn by, beside its key and call number: of a part that of the whole."""

    rate: float
    keep_prob: float
    block_size: int
    data_format: str
    shape: tuple[int, ...]


class BlockMask(_masks._Mask):
    """The mask of one DropBlock, without its memory: a recipe of a few numbers, carried out when needed.

    Applied again it gives the same zeros at the same places, so it is what a backward pass needs. It is immutable,
    hashable and small to pickle. A part of it (``mask[2:4]``) has the decisions and the scale of the whole, which is
    drawn for it.

    Parameters
    ----------
    shape : sequence of int
        (N, C, H, W) for ``channels_first``, (N, H, W, C) for ``channels_last``; or the same without N. At rate 0 any
        shape will do.
    rate : float
        The part of the elements that is dropped in the mean, from 0 to 1.
    block_size : int
        The side of the squares that are dropped, at least 1. Where a map is smaller, it is the shorter side of the map.
    keep_prob : float, optional
        ``1 - rate``, instead of it.
    key : int
        64 bits, as ``PhiloxStream.key``.
    call : int
        The number of the draw, below 2**56.
    data_format : {"channels_first", "channels_last"}
        Where the channels are. The decisions are the same in both.

    Attributes
    ----------
    shape, rate, keep_prob, block_size, key, call, data_format
        As given; of ``rate`` and ``keep_prob`` the one that was not given is 1 minus the other.
    gamma : float
        The probability of a seed, at which the mean dropped area is ``rate``: a multiple of 2**-32.
    scale : float
        What kept elements are multiplied by: the number of elements of the whole mask, divided by how many of them are
        kept; 0 where none is. The mask is drawn to tell.

    Notes
    -----
    With ``size = min(block_size, H, W)``, the seeds are the elements that ``DropoutMask((N, C, H - size + 1, W - size +
    1), gamma, key=key, call=call)`` drops. That of row i and column j drops the elements of rows i to i + size - 1 and
    columns j to j + size - 1 of its map.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> mask = fastdrop.BlockMask((1, 6, 12), 0.25, 3, key=2026)
    >>> np.asarray(mask)[0].astype(int)
    array([[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
           [1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1],
           [1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]])
    >>> mask.scale == 72 / 54
    True
    >>> round(mask.gamma, 6)
    0.058205
    """

    __slots__ = ("_recipe",)

    _recipe: _Recipe

    def __init__(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        rate: Number = DEFAULT_RATE,
        block_size: SupportsIndex = BLOCK_SIZE,
        *,
        keep_prob: Number | None = None,
        key: SupportsIndex,
        call: SupportsIndex = 0,
        data_format: DataFormat = CHANNELS_FIRST,
    ) -> None:
        lengths = _arguments.mask_shape(shape)
        checked = _arguments.rate_of(rate, keep_prob)
        size = _arguments.count(block_size, "block_size")
        channels = _arguments.one_of(data_format, "data_format", (CHANNELS_FIRST, CHANNELS_LAST))
        if checked.rate > 0.0:
            _functions.plane_axes(lengths, "HW", channels, "BlockMask", subject="shape must be")
        self._place(
            lengths,
            None,
            0,
            _arguments.unsigned(key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(call, "call", _arguments.CALL_BITS),
        )
        object.__setattr__(self, "_recipe", _Recipe(*checked, size, channels, lengths))

    @classmethod
    def _made(
        cls,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int,
        key: int | None,
        call: int | None,
        *numbers: Any,
    ) -> Self:
        mask = cls.__new__(cls)
        mask._place(shape, strides, offset, key, call)
        object.__setattr__(mask, "_recipe", _Recipe(*numbers))
        return mask

    def _numbers(self) -> _Recipe:
        return self._recipe

    @property
    def rate(self) -> float:
        return self._recipe.rate

    @property
    def keep_prob(self) -> float:
        return self._recipe.keep_prob

    @property
    def block_size(self) -> int:
        return self._recipe.block_size

    @property
    def data_format(self) -> str:
        return self._recipe.data_format

    @property
    def gamma(self) -> float:
        return _threshold(*self._maps()[1:4], self.keep_prob) / 4294967296.0 if self.rate > 0.0 else 0.0

    @property
    def scale(self) -> float:
        return self._drawn().scale

    @property
    def _is_whole(self) -> bool:
        return self.shape == self._recipe.shape and self._offset == 0 and self._is_in_order

    def _maps(self) -> tuple[int, int, int, int, int]:
        """How the whole lies in memory, and the side of its blocks: groups, height, width, block, channels of a group.

        A group is a map where channels come first, and all maps of a sample where they are last.
        """
        *samples, a, b, c = self._recipe.shape
        channels, height, width = (a, b, c) if self.data_format == CHANNELS_FIRST else (c, a, b)
        block = min(self.block_size, height, width)
        if self.data_format == CHANNELS_FIRST:
            return math.prod(samples) * channels, height, width, block, 1
        return math.prod(samples), height, width, block, channels

    def _drawn(self) -> DropoutMask:
        """The same decisions and the same scale, held as one bit an element of the whole."""
        if self.rate == 0.0:
            return DropoutMask._made(self.shape, None, 0, 0, 0, *_prologue.KEEP_ALL, 1.0)
        bits = self._keep_bits()
        kept = int(np.bitwise_count(bits).sum())
        scale = math.prod(self._recipe.shape) / kept if kept > 0 else 0.0
        place = self.shape, self._strides, self._offset, None, None
        return DropoutMask._made(*place, self.rate, self.keep_prob, scale, bits.tobytes())

    def _keep_bits(self) -> Bits:
        """The keep bits of the whole, in C order."""
        groups, height, width, block, channels = self._maps()
        size = height * width * channels
        bits = np.empty((groups * size + 7) // 8, np.uint8)
        if bits.size == 0:
            return bits
        draw = _backend.Draw(self.key or 0, self.call or 0, _threshold(height, width, block, self.keep_prob))
        rows, columns = height - block + 1, width - block + 1
        whole_bytes = 8 // math.gcd(size, 8)
        n = min(whole_bytes * max(_CHUNK // (whole_bytes * size), 1), groups)
        # The same memory for all chunks: a page that is new costs more than to fill it.
        seeds = np.empty((n, channels, rows, columns), np.bool_)
        keep, spare = np.empty((2, n * size), np.bool_)
        for first in range(0, groups, n):
            n = min(n, groups - first)
            seeds, keep, spare = seeds[:n], keep[: n * size], spare[: n * size]
            _backend.running.keep(seeds, draw, _backend.IndexMap(first * channels * rows * columns))
            keep.fill(True)
            keep.reshape(n, height, width, channels)[:, :rows, :columns] = seeds.transpose(0, 2, 3, 1)
            # No seed stands so near the end of its row or map that a block would run on into the next one.
            for step in (channels, channels * width):
                keep, spare = _widened(keep, spare, block, step)
            packed = np.packbits(keep, bitorder="little")
            bits[first * size // 8 :][: packed.size] = packed
        return bits

    # What a mask is for

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Drop and scale the elements of an array by this mask: the forward pass again, or the backward pass.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64, of the mask's shape
            Activations, or the gradient with respect to them.
        out : ndarray, optional
            Where the result goes; x itself for in place. Of x's shape, and of a dtype that holds x's without loss.

        Returns
        -------
        ndarray
            ``x * scale`` where kept, +0 where dropped; ``out`` if given. At rate 0 it is x itself.
        """
        return self._applied(Operation.DROPOUT, *self._checked(x, out, "x"))

    def backward(self, dy: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient with respect to x, of the gradient with respect to the result: the same as ``apply``.

        The scale counts as a constant, which it is: it depends on the draw and not on x.

        Parameters
        ----------
        dy : array_like of float16, bfloat16, float32 or float64, of the mask's shape
            The gradient with respect to the result.
        out : ndarray, optional
            As in ``apply``.
        """
        return self._applied(Operation.DROPOUT, *self._checked(dy, out, "dy"))

    def _applied(
        self,
        operation: Operation,
        x: np.ndarray,
        out: np.ndarray | None,
        other: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> np.ndarray:
        return self._drawn()._applied(operation, x, out, other, bias)

    def packbits(self) -> npt.NDArray[np.uint8]:
        """The mask as one bit an element in C order, little bit order: as for ``DropoutMask.packbits``."""
        return self._keep_bits() if self._is_whole and self.rate > 0.0 else self._drawn().packbits()

    def to_array(self, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
        """The mask as numbers that carry its scale: as for ``DropoutMask.to_array``."""
        return self._drawn().to_array(dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self._drawn().__array__(dtype, copy)

    # What a value is expected to have

    def __reduce__(self) -> tuple[Any, ...]:
        given = {"rate": self.rate} if self.keep_prob == 1.0 - self.rate else {"keep_prob": self.keep_prob}
        whole = self._recipe.shape, self.block_size, self.key, self.call, self.data_format, given
        return _restored, whole if self._is_whole else (*whole, (self.shape, self._strides, self._offset))

    def __repr__(self) -> str:
        amount = f"{self.rate}" if self.keep_prob == 1.0 - self.rate else f"keep_prob={self.keep_prob}"
        channels = "" if self.data_format == CHANNELS_FIRST else f", data_format={self.data_format!r}"
        draw = f"block_size={self.block_size}, key={self.key:#x}, call={self.call}{channels}"
        return self._described(f"BlockMask({self.shape}, {amount}, {draw})")


def _restored(
    shape: tuple[int, ...],
    block_size: int,
    key: int,
    call: int,
    data_format: DataFormat,
    given: dict[str, float],
    part: _Part | None = None,
) -> BlockMask:
    """A mask in the state that was pickled, which may have come from anywhere."""
    mask = BlockMask(shape, block_size=block_size, key=key, call=call, data_format=data_format, **given)
    if part is None:
        return mask
    lengths, strides, offset = part
    lengths = _arguments.mask_shape(lengths)
    _masks.check_places(lengths, strides, offset)
    of_whole = BlockMask._made(lengths, strides, offset, mask.key, mask.call, *mask._numbers())
    if of_whole.size > 0 and _geometry.first_and_last(lengths, strides, offset)[1] >= mask.size:
        raise ValueError(f"a mask's state must have its elements within the whole of shape {shape}, got {part}")
    return of_whole


def _widened(keep: Bools, spare: Bools, times: int, step: int) -> tuple[Bools, Bools]:
    """What is dropped drops with it the elements that follow it in so many steps less one. Both arrays are used up.

    They come back with the result first.
    """
    done = 1
    while done < times:  # twice as many with each turn, but for the last
        shift = min(done, times - done) * step
        spare[:shift] = keep[:shift]
        np.logical_and(keep[shift:], keep[:-shift], out=spare[shift:])
        keep, spare = spare, keep
        done += shift // step
    return keep, spare


@functools.lru_cache  # networks drop blocks of maps of the same few shapes again and again
def _threshold(height: int, width: int, block: int, keep_prob: float) -> int:
    """That of the seeds, with which the mean kept area of a map is nearest to keep_prob.

    An element that lies in n blocks is kept if none of them is dropped: with the probability ``(1 - gamma)**n``. The
    paper and its implementations take gamma from a formula that is right as long as blocks never overlap.

    It decides on masks, so it must come out the same everywhere: there is no step but sums that are rounded once and
    products in a fixed order. A power of the platform's library may differ in its last bit.
    """
    if block == 0:
        return 0
    by_row, by_column = (np.unique(_blocks_over(n, block), return_counts=True) for n in (height, width))
    times, elements = (np.multiply.outer(*pair).reshape(-1) for pair in zip(by_row, by_column, strict=True))
    factors = np.empty(times.max())

    def kept(threshold: int) -> float:
        factors.fill(1.0 - threshold / 4294967296.0)
        powers = np.multiply.accumulate(factors)
        return math.fsum((elements * powers[times - 1]).tolist()) / (height * width)

    low, high = 0, 1 << 32  # kept(high) <= keep_prob, and below low it is more
    while low < high:
        middle = (low + high) // 2
        if kept(middle) <= keep_prob:
            high = middle
        else:
            low = middle + 1
    return high - 1 if high > 0 and kept(high - 1) - keep_prob < keep_prob - kept(high) else high


def _blocks_over(length: int, block: int) -> npt.NDArray[np.int64]:
    """In how many blocks each place of a line lies."""
    place = np.arange(length)
    first, last = np.maximum(place - block + 1, 0), np.minimum(place, length - block)
    counts: npt.NDArray[np.int64] = last - first + 1
    return counts


@overload
def drop_block2d(
    x: npt.ArrayLike,
    rate: Number = ...,
    block_size: SupportsIndex = ...,
    *,
    return_mask: Literal[False] = ...,
    **options: Unpack[ChannelOptions],
) -> np.ndarray: ...
@overload
def drop_block2d(
    x: npt.ArrayLike,
    rate: Number = ...,
    block_size: SupportsIndex = ...,
    *,
    return_mask: Literal[True],
    **options: Unpack[ChannelOptions],
) -> tuple[np.ndarray, BlockMask]: ...
@overload
def drop_block2d(
    x: npt.ArrayLike,
    rate: Number = ...,
    block_size: SupportsIndex = ...,
    *,
    return_mask: bool,
    **options: Unpack[ChannelOptions],
) -> np.ndarray | tuple[np.ndarray, BlockMask]: ...
def drop_block2d(
    x: npt.ArrayLike,
    rate: Number = DEFAULT_RATE,
    block_size: SupportsIndex = BLOCK_SIZE,
    *,
    keep_prob: Number | None = None,
    data_format: DataFormat = CHANNELS_FIRST,
    training: bool = True,
    rng: RNG = None,
    out: np.ndarray | None = None,
    return_mask: bool = False,
) -> Any:
    """Set random squares of each channel to zero and scale the rest up: DropBlock.

    What a convolution loses at one place, its neighbours still tell; what lies in a square is lost.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        (N, C, H, W) for ``channels_first``, (N, H, W, C) for ``channels_last``; or the same without N. Where nothing is
        dropped, because of ``training`` or a rate of 0, any shape will do.
    rate : float
        The part of the elements that is dropped in the mean, from 0 to 1. The paper takes 0.1, and raises it from 0 in
        the course of the training.
    block_size : int
        The side of the squares, even or odd. Where a map is smaller, it is the shorter side of the map; 1 drops single
        elements.
    data_format : {"channels_first", "channels_last"}
        Where the channels are.
    keep_prob, training, rng, out, return_mask
        As for ``dropout``.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, or ``out``. Dropped elements are +0, whatever x holds there. At rate 0, and when not
        training, it is x itself, unless ``out`` is given.
    mask : BlockMask
        Only with ``return_mask``. ``mask.backward(dy)`` is the backward pass; it keeps no memory meanwhile.

    Notes
    -----
    Each place of a map where a square fits is the seed of one with the probability gamma, in each sample and channel by
    itself. Squares may overlap. gamma is the multiple of 2**-32 with which the mean dropped area is ``rate``. The
    formula of the paper, of timm and of torchvision ignores the overlaps and drops less: 0.38 at rate 0.5, of a map of
    56 x 56 in blocks of 7. Elements near the edges lie in fewer squares, and are dropped less often than others.

    Kept elements are multiplied by the number of elements of x divided by how many of them are kept in this draw, as in
    timm and torchvision: their weight in the array as a whole is always the same, and a sample of which more is dropped
    than of the others is not made up for it. At rate 1, and where a draw keeps nothing, all is 0.

    The method is G. Ghiasi, T.-Y. Lin, Q. V. Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018. timm's ``DropBlock2d`` has by default a faster approximation, which cuts squares off at the edges.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> x = np.ones((1, 7, 14), np.float32)
    >>> y, mask = fastdrop.drop_block2d(x, 0.2, 3, rng=2, return_mask=True)
    >>> np.asarray(mask)[0].astype(int)
    array([[1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
           [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    >>> mask.scale == 98 / 80
    True
    >>> dx = mask.backward(np.ones_like(y))
    """
    checked_rate = _arguments.rate_of(rate, keep_prob)
    size = _arguments.count(block_size, "block_size")
    channels = _arguments.one_of(data_format, "data_format", (CHANNELS_FIRST, CHANNELS_LAST))

    def check_shape(shape: tuple[int, ...]) -> None:
        _functions.plane_axes(shape, "HW", channels, "drop_block2d")

    call = _prologue.checked({"x": x}, (training, rng, out, return_mask), groups=(check_shape, checked_rate))
    shape = call.shape
    if not call.training:
        mask = BlockMask._made(shape, None, 0, 0, 0, *_prologue.KEEP_ALL, size, channels, shape)
        y = mask._applied(Operation.DROPOUT, call.x, call.out)
    else:
        result = call.out if checked_rate.rate == 0.0 else call.result()
        call = call.without_overlap()
        drawn = call.draw(result)
        try:
            mask = BlockMask._made(shape, None, 0, *drawn, *checked_rate, size, channels, shape)
            y = mask._applied(Operation.DROPOUT, call.x, result)
        except BaseException:
            call.take_back(drawn)
            raise
    return (y, mask) if call.return_mask else y
