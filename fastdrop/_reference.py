# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop in NumPy: the algorithm to read, the oracle of the tests, and the fallback without a compiler.

A dropout mask is a set of random numbers, one for each element, compared with a threshold. Here the random number
``U(i)`` of element ``i`` is 32 bits wide and a pure function of a key, a call number and ``i``, so that any part of
a mask can be drawn at any time, in any order. Element ``i`` is dropped iff ``U(i) < D`` with ``D = rate * 2**32``.

The bits of ``U(i)`` come from Philox, which turns a counter of four 32-bit words into four random words, a *block*:

- The upper eight bits are *planes*. A block of plane ``b`` holds bit ``31 - b`` of 128 consecutive elements, so eight
  blocks decide nearly everything about 128 elements, and a rate such as 0.5, whose ``D`` has one bit set, takes one.
- The lower 24 bits are the *tail*. Only the elements whose upper bits equal those of ``D``, 1 in 256, look at it.

:class:`Kernels` has the methods of the compiled class of the same name, and shares no code with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

PLANES = 8
TAIL_DOMAIN = 8
BLOCK = 128  # elements that share a block of a plane
CHUNK = 1024  # blocks that are drawn at a time: their words stay in the cache

Words = tuple[npt.NDArray[np.uint64], ...]
Bools = npt.NDArray[np.bool_]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox4x32(counter: Sequence[npt.ArrayLike], key: tuple[int, int], rounds: int = 10) -> Words:
    """Philox4x32 of arrays of counters.

    Parameters
    ----------
    counter : four array_like of int
        The 32-bit words of the counters.
    key : (int, int)
        The two 32-bit words of the key.
    rounds : int
        10 in the stream; 7 is the least that passes the usual statistical tests.

    Returns
    -------
    four ndarray of uint64
        32-bit words.

    References
    ----------
    J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
    """
    w0, w1, w2, w3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(rounds):
        product0 = w0 * np.uint64(0xD2511F53)
        product1 = w2 * np.uint64(0xCD9E8D57)
        w0 = (product1 >> HALF) ^ w1 ^ np.uint64(k0)
        w2 = (product0 >> HALF) ^ w3 ^ np.uint64(k1)
        w1 = product1 & LOW
        w3 = product0 & LOW
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF  # the golden ratio
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF  # sqrt(3) - 1
    return w0, w1, w2, w3


def words(index: npt.NDArray[np.uint64], key: int, call: int, domain: npt.ArrayLike) -> Words:
    """The four words of the stream at each index. Domains 0 to 7 are the planes, 8 is the tail."""
    counter = (index & LOW, index >> HALF, call & 0xFFFFFFFF, (call >> 32) * 256 + np.asarray(domain))
    return philox4x32(counter, (key & 0xFFFFFFFF, key >> 32))


def plane_bits(blocks: npt.NDArray[np.uint64], key: int, call: int, planes: int) -> npt.NDArray[np.uint8]:
    """The bits of the first planes for whole blocks, packed in little bit order: shape (planes, len(blocks), 16).

    The planes are an axis of their own, and NumPy's broadcasting computes once what they share: in the first rounds
    of Philox half of the words do not depend on the plane.
    """
    w = words(blocks, key, call, np.arange(planes)[:, np.newaxis])
    return np.stack(w, axis=-1).astype("<u4").view(np.uint8)


def keep_blocks(blocks: npt.NDArray[np.uint64], key: int, call: int, threshold: int) -> Bools:
    """Which of the 128 elements of each block are kept: shape (len(blocks), 128)."""
    if threshold == 1 << 32:
        return np.zeros((len(blocks), BLOCK), np.bool_)
    below = np.zeros((len(blocks), BLOCK // 8), np.uint8)
    undecided = np.full_like(below, 0xFF)
    # With no set bit of the threshold left, what is undecided can not fall below it any more.
    planes = next(n for n in range(PLANES + 1) if n == PLANES or threshold << n & 0xFFFFFFFF == 0)
    for plane, bits in enumerate(plane_bits(blocks, key, call, planes)):
        if threshold >> (31 - plane) & 1:
            below |= undecided & ~bits
            undecided &= bits
        else:
            undecided &= ~bits
    keep = np.unpackbits(~below, bitorder="little").view(np.bool_)
    if threshold & 0xFFFFFF:
        at = np.flatnonzero(np.unpackbits(undecided, bitorder="little").view(np.bool_))
        element = blocks[at // BLOCK] * np.uint64(BLOCK) + (at % BLOCK).astype(np.uint64)
        w = np.stack(words(element // np.uint64(4), key, call, TAIL_DOMAIN))
        tail = w[element % np.uint64(4), np.arange(len(at))] >> np.uint64(8)
        keep[at] = tail >= threshold & 0xFFFFFF
    return keep.reshape(-1, BLOCK)


def keep_range(start: int, n: int, key: int, call: int, threshold: int) -> Bools:
    """Which of the elements start .. start+n-1 are kept."""
    keep = np.empty(n, np.bool_)
    first, last = start // BLOCK, (start + n + BLOCK - 1) // BLOCK
    for block in range(first, last, CHUNK):
        blocks = np.arange(block, min(block + CHUNK, last), dtype=np.uint64)
        chunk = keep_blocks(blocks, key, call, threshold).reshape(-1)
        low = max(start - block * BLOCK, 0)
        high = min(start + n - block * BLOCK, len(chunk))
        keep[block * BLOCK + low - start : block * BLOCK + high - start] = chunk[low:high]
    return keep


def keep_anywhere(index: npt.NDArray[np.int64], key: int, call: int, threshold: int) -> Bools:
    """Which of the elements at the given indices are kept. Each block that they lie in is drawn once."""
    blocks, row = np.unique(index.astype(np.uint64) // np.uint64(BLOCK), return_inverse=True)
    keep = np.empty((len(blocks), BLOCK), np.bool_)
    for i in range(0, len(blocks), CHUNK):
        keep[i : i + CHUNK] = keep_blocks(blocks[i : i + CHUNK], key, call, threshold)
    return keep[row.reshape(index.shape), index % BLOCK]


def keep_elements(first, n, key, call, threshold, offset, dims, bits) -> Bools:
    """Which of n elements of an array are kept, from the one at position ``first`` on; the rest as for Kernels."""
    if dims is None and bits is None:
        return keep_range(offset + first, n, key, call, threshold)
    index = np.arange(first, first + n)
    if dims is not None:
        coordinates = np.unravel_index(index, [length for length, _ in dims])
        index = sum((c * stride for c, (_, stride) in zip(coordinates, dims, strict=True)), start=np.zeros_like(index))
    index = index + offset
    if bits is None:
        return keep_anywhere(index, key, call, threshold)
    return (bits[index // 8] >> (index % 8).astype(np.uint8) & 1).view(np.bool_)


def scaled(x: np.ndarray, scale: float) -> np.ndarray:
    """x * scale in the arithmetic type of x's dtype, rounded once to the dtype, in native byte order."""
    with np.errstate(all="ignore"):
        if x.dtype.type is np.float64:
            return x * np.float64(scale)
        if x.dtype.type is np.float32:
            return x * np.float32(scale)
        if x.dtype.type is np.float16:
            return (x.astype(np.float32) * np.float32(scale)).astype(np.float16)
        # bfloat16 is the upper half of a float32: widen by a shift, round the lower half to nearest, ties to even.
        # A NaN is safe, because its lower half is 0 and no carry can leave its payload.
        native = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
        wide = (native.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        bits = (wide * np.float32(scale)).view(np.uint32)
        odd = bits >> 16 & 1
        return ((bits + 0x7FFF + odd) >> 16).astype(np.uint16).view(native.dtype).reshape(x.shape)


def selected(y: np.ndarray, keep: Bools) -> np.ndarray:
    """y with +0 where it is not kept, whatever stood there: its bits are multiplied by 0, not its numbers."""
    y = np.ascontiguousarray(y).reshape(keep.shape)
    bits = y.view(f"u{y.itemsize}")
    bits *= keep
    return y


class Kernels:
    """The kernels in NumPy.

    Parameters of the methods, here and in the compiled class:

    ``key``, ``call``, ``threshold``
        The draw: integers below 2**64, 2**56, and up to 2**32.
    ``start``, ``stop``
        The part of the array in work, in elements in C order.
    ``offset``, ``dims``
        Where the elements of the array lie in the stream: the element with coordinates c has the index
        ``offset + sum(c[d] * dims[d][1])``, and ``dims[d][0]`` is the length of dimension d. ``dims`` may be of fewer
        dimensions than the array, and None means ``offset + i`` for element i.
    ``bits``
        None, or keep bits as by ``packbits(bitorder="little")`` that replace the stream; indices then count in it.
    """

    name = "reference"

    def are_plain(self, x: object, out: object) -> TypeGuard[np.ndarray]:
        """Whether x, and out if it is not None, need no look at layout, dtype or shape. False may mean either."""
        return False

    def philox(self, counter: Sequence[int], key: tuple[int, int], rounds: int = 10) -> tuple[int, ...]:
        """The four words of one counter."""
        return tuple(int(word) for word in philox4x32(counter, key, rounds))

    def apply(self, x, out, start, stop, key, call, threshold, scale, offset=0, dims=None, bits=None, stream=False):
        """Write the kept elements of x, times scale, to out, and zeros for the dropped ones.

        ``stream`` asks for stores that bypass the caches, which NumPy does not have.
        """
        x, out = x.view(np.ndarray), out.view(np.ndarray)  # a subclass may give assignment another meaning
        keep = keep_elements(start, stop - start, key, call, threshold, offset, dims, bits)
        if stop - start == x.size:
            out[...] = selected(scaled(x, scale), keep.reshape(x.shape))
        else:
            out.flat[start:stop] = selected(scaled(x.reshape(-1)[start:stop], scale), keep)

    def keep(self, out, start, stop, key, call, threshold, offset=0, dims=None, bits=None):
        """Write to elements start .. stop-1 of a contiguous array of booleans which of them are kept."""
        part = keep_elements(start, stop - start, key, call, threshold, offset, dims, bits)
        out.reshape(-1)[start:stop] = part

    def keep_bits(self, n, key, call, threshold, start=0):
        """The keep bits of n elements from ``start`` on, as by ``packbits(bitorder="little")``."""
        return np.packbits(keep_range(start, n, key, call, threshold), bitorder="little")
