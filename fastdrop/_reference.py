# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop in NumPy: the algorithm to read, the oracle of the tests, and the fallback without a compiler.

A dropout mask is a set of random numbers, one for each element, compared with a threshold. Here the random number
``U(i)`` of element ``i`` is 32 bits wide and a pure function of a key, a call number and ``i``, so that any part of
a mask can be drawn at any time, in any order. Element ``i`` is dropped iff ``U(i) < D`` with ``D = rate * 2**32``.

The bits of ``U(i)`` come from Philox, which turns a counter of four 32-bit words into four random words, a *block*:

- The upper eight bits are *planes*. A block of plane ``b`` holds bit ``31 - b`` of 128 consecutive elements, so eight
  blocks decide nearly everything about 128 elements, and a rate such as 0.5, whose ``D`` has one bit set, takes one.
- The lower 24 bits are the *tail*. Only the elements whose upper bits equal those of ``D``, 1 in 256, look at it.

:class:`Kernels` has the methods of the compiled class of the same name, and shares no code with it. What they mean
stands in :mod:`fastdrop._kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastdrop._kernels import Bits, Bools, Dims, Draw, IndexMap, Operands, Operation

PLANES = 8
TAIL_DOMAIN = 8
BLOCK = 128  # elements that share a block of a plane
CHUNK = 1024  # blocks that are drawn at a time: their words stay in the cache
UNIT = 64  # elements whose normal numbers come from the same 16 blocks
NORMAL_DOMAIN = 16

# Of -2 * ln(1 + f) / f, of sin(pi / 4 * v) / v in v**2, and of cos(pi / 4 * v) in v**2: minimax fits, found with
# Lawson's iteration, whose errors are below 1.4e-6 (relative), 6e-7 and 7e-8.
MINUS_2_LN = (-2.00000175, 1.00002797, -0.66632059, 0.49793585, -0.40909511, 0.37565461, -0.24421963)
SIN = (0.78539423, -0.080714, 0.00242711)
COS = (0.99999997, -0.30842425, 0.01584992, -0.00031888051)

Words = tuple[npt.NDArray[np.uint64], ...]

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
    # With no set bit of the threshold left, what is undecided cannot be below it any more.
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
    found: Bools = keep[row.reshape(index.shape), index % BLOCK]
    return found


def element_indices(first: int, n: int, offset: int, dims: Dims) -> npt.NDArray[np.int64]:
    """Where n elements of an array lie in the stream, from the one at position ``first`` on."""
    index = np.arange(first, first + n)
    if dims is not None:
        coordinates = np.unravel_index(index, [length for length, _ in dims])
        index = sum((c * stride for c, (_, stride) in zip(coordinates, dims, strict=True)), start=np.zeros_like(index))
    return index + offset


def keep_elements(first: int, n: int, draw: Draw, index_map: IndexMap) -> Bools:
    """Which of n elements of an array are kept, from the one at position ``first`` on."""
    offset, dims, bits = index_map.offset, index_map.dims, index_map.bits
    if dims is None and bits is None:
        return keep_range(offset + first, n, draw.key, draw.call, draw.threshold)
    index = element_indices(first, n, offset, dims)
    if bits is None:
        return keep_anywhere(index, draw.key, draw.call, draw.threshold)
    return (bits[index // 8] >> (index % 8).astype(np.uint8) & 1).view(np.bool_)


def normal_units(units: npt.NDArray[np.uint64], key: int, call: int) -> npt.NDArray[np.float32]:
    """The normal numbers of whole units of 64 elements: shape (len(units), 64).

    Box and Muller's transform: of two uniform numbers one gives the distance from the origin and the other the angle
    of a point in the plane, both of whose coordinates are normal. Every step is an addition, a multiplication or a
    square root of float32, which IEEE 754 defines to the last bit, so that all machines agree: that is why there are
    polynomials here and no ``np.log`` or ``np.cos``.

    References
    ----------
    G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).
    """
    blocks = np.add.outer(units * np.uint64(16), np.arange(16, dtype=np.uint64))
    w = [word.astype(np.uint32) for word in words(blocks, key, call, NORMAL_DOMAIN)]
    return np.concatenate([*normal_pair(w[0], w[1]), *normal_pair(w[2], w[3])], axis=1)


def normal_pair(w0: npt.NDArray[np.uint32], w1: npt.NDArray[np.uint32]) -> tuple[np.ndarray, np.ndarray]:
    """Two normal numbers from two words of 32 bits."""
    f32 = np.float32
    # u is a multiple of 2**-31, and 2**k * (1 + f) with 1 + f from sqrt(1/2) to sqrt(2). The exponent k is taken as it
    # stands in the bits of a float32, 23 places up.
    u = ((w0 >> 1).astype(f32) + f32(0.5)).view(np.uint32) - np.uint32(31 << 23)
    k = (u - np.uint32(0x3F3504F3)) & np.uint32(0xFF800000)
    f = (u - k).view(f32) + f32(-1.0)
    minus_2_ln_u = k.view(np.int32).astype(f32) * f32(-1.3862944 / 8388608) + f * polynomial(f, MINUS_2_LN)
    radius = np.sqrt(minus_2_ln_u)
    # The angle is within a quarter turn around 0; one spare bit of each word turns it to any of the four quarters.
    v = w1.view(np.int32).astype(f32) * f32(2.0**-31)
    s = radius * (v * polynomial(v * v, SIN))
    c = radius * (polynomial(v * v, COS).view(np.uint32) ^ (w1 << 31)).view(f32)
    swap = (w0 & 1).view(np.int32).astype(np.bool_)
    return np.where(swap, s, c), np.where(swap, c, s)


def polynomial(x: npt.NDArray[np.float32], coefficients: Sequence[float]) -> npt.NDArray[np.float32]:
    """Horner's rule; the constant comes first."""
    y = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        y = y * x + np.float32(coefficient)
    return y


def normal_elements(first: int, n: int, draw: Draw, index_map: IndexMap) -> npt.NDArray[np.float32]:
    """The normal numbers of n elements of an array, from the one at position ``first`` on."""
    index = element_indices(first, n, index_map.offset, index_map.dims).astype(np.uint64)
    units, row = np.unique(index // np.uint64(UNIT), return_inverse=True)
    normals = np.empty((len(units), UNIT), np.float32)
    for i in range(0, len(units), CHUNK):
        normals[i : i + CHUNK] = normal_units(units[i : i + CHUNK], draw.key, draw.call)
    found: npt.NDArray[np.float32] = normals[row, index % np.uint64(UNIT)]
    return found


def widened(x: np.ndarray) -> np.ndarray:
    """x in its arithmetic type: float64 for float64, float32 for the others; in native byte order."""
    if x.dtype.type in (np.float64, np.float32):
        return x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.type is np.float16:
        return x.astype(np.float32)
    # bfloat16 is the upper half of a float32.
    native = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    return (native.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(x.shape)


def narrowed(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """y rounded from the arithmetic type of a dtype to the dtype, in native byte order."""
    if dtype.type in (np.float64, np.float32):
        return y
    if dtype.type is np.float16:
        return y.astype(np.float16)
    # To nearest, ties to even. A NaN is safe: its lower half is 0 and no carry can leave its payload.
    bits = np.ascontiguousarray(y).view(np.uint32)
    odd = bits >> 16 & 1
    return ((bits + 0x7FFF + odd) >> 16).astype(np.uint16).view(dtype.newbyteorder("=")).reshape(y.shape)


def scaled(x: np.ndarray, scale: float) -> np.ndarray:
    """x * scale in the arithmetic type of x's dtype, rounded once to the dtype, in native byte order."""
    wide = widened(x)
    with np.errstate(all="ignore"):
        return narrowed(wide * wide.dtype.type(scale), x.dtype)


def selected(y: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """y with +0 where it is not kept, whatever stood there: its bits are multiplied by 0, not its numbers."""
    y = np.ascontiguousarray(y).reshape(keep.shape)
    bits = y.view(f"u{y.itemsize}")
    bits *= keep
    return y


def operated(
    operation: Operation,
    x: np.ndarray,
    keep: np.ndarray,
    numbers: Operands,
    other: np.ndarray | None,
    bias: np.ndarray | None,
) -> np.ndarray:
    """The result of an operation, all in the arithmetic type of x. For some of them ``keep`` holds normal numbers."""
    number = x.dtype.type
    scale, shift, fill = number(numbers.scale), number(numbers.shift), number(numbers.fill)
    y: np.ndarray
    match operation:
        case Operation.DROPOUT_ADD:
            y = other + selected(x * scale, keep)
        case Operation.BIAS_DROPOUT_ADD:
            y = other + selected((x + bias) * scale, keep)
        case Operation.RELU_DROPOUT:
            y = selected(np.where(x <= 0, number(0), x) * scale, keep)
        case Operation.RELU_BACKWARD:
            y = selected(x * scale, keep & (other != 0))
        case Operation.ALPHA_DROPOUT:
            y = np.where(keep, x * scale + shift, fill)
        case Operation.GAUSSIAN_DROPOUT:
            y = x * (number(1) + scale * keep.astype(number))
        case Operation.GAUSSIAN_NOISE:
            y = x + scale * keep.astype(number)
        case _:
            raise AssertionError(operation)
    return y


class Kernels:
    """The kernels in NumPy."""

    name = "reference"
    releases_gil = False  # NumPy holds it so often that two threads take longer than one

    def philox(self, counter: Sequence[int], key: tuple[int, int], rounds: int = 10) -> tuple[int, ...]:
        return tuple(int(word) for word in philox4x32(counter, key, rounds))

    def apply(
        self,
        operation: int,
        operands: Operands,
        draw: Draw,
        index_map: IndexMap,
        nontemporal: bool = False,  # which NumPy has no stores for
        threads: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        start, stop = (0, operands.x.size) if part is None else part
        self._apply_part(Operation(operation), operands, draw, index_map, start, stop)

    def apply_at(
        self,
        operation: int,
        dtype: int,
        x: int,
        y: int,
        size: int,
        draw: Draw,
        index_map: IndexMap,
        scale: float,
        shift: float = 0.0,
        fill: float = 0.0,
        other: int = 0,
        bias: int = 0,
        period: int = 0,
        nontemporal: bool = False,
        threads: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        if size == 0:
            return
        y_array = array_at(y, size, dtype)
        operands = Operands(
            y_array if x == y else array_at(x, size, dtype),
            y_array,
            scale,
            None if other == 0 else y_array if other == y else array_at(other, size, dtype),
            None if bias == 0 else array_at(bias, period, dtype),
            shift,
            fill,
        )
        self.apply(operation, operands, draw, index_map, nontemporal, threads, part)

    def _apply_part(
        self, operation: Operation, operands: Operands, draw: Draw, index_map: IndexMap, start: int, stop: int
    ) -> None:
        """The operation with elements start .. stop-1."""
        x, y = operands.x, operands.y
        is_whole = stop - start == x.size
        shape = x.shape if is_whole else (stop - start,)

        def part(array: np.ndarray) -> np.ndarray:
            return array if is_whole else array.reshape(-1)[start:stop]

        other = bias = None
        if operands.other is not None:
            other = part(operands.other)
        if operands.bias is not None:
            bias = widened(operands.bias[np.arange(start, stop) % len(operands.bias)]).reshape(shape)
        keep: np.ndarray  # or normal numbers
        if operation.reads_normals:
            keep = normal_elements(start, stop - start, draw, index_map).reshape(shape)
        else:
            keep = keep_elements(start, stop - start, draw, index_map).reshape(shape)
        if operation is Operation.DROPOUT:
            result = selected(scaled(part(x), operands.scale), keep)
        elif operation is Operation.ZONEOUT:  # no arithmetic, which a NaN would feel
            assert other is not None
            result = np.where(keep, part(x), other)
        else:
            with np.errstate(all="ignore"):
                wide_other = None if other is None else widened(other)
                wide = operated(operation, widened(part(x)), keep, operands, wide_other, bias)
                result = narrowed(wide, x.dtype)
        if is_whole:
            y[...] = result
        else:
            y.flat[start:stop] = result

    def keep(
        self,
        out: Bools,
        draw: Draw,
        index_map: IndexMap,
        threads: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        start, stop = (0, out.size) if part is None else part
        out.reshape(-1)[start:stop] = keep_elements(start, stop - start, draw, index_map)

    def keep_bits(self, n: int, draw: Draw, start: int = 0) -> Bits:
        return np.packbits(keep_range(start, n, draw.key, draw.call, draw.threshold), bitorder="little")

    def order_bits(self, n: int, index_map: IndexMap) -> Bits:
        return np.packbits(keep_elements(0, n, Draw(), index_map), bitorder="little")


def array_at(address: int, n: int, dtype: int) -> np.ndarray:
    """Memory as an array, of which bfloat16 has no dtype in NumPy: the functions above take its bits in integers."""
    import ctypes  # which takes longer to import than most of this package

    kind = np.dtype(("f2", "u2", "f4", "f8")[dtype])
    memory = (ctypes.c_uint8 * (n * kind.itemsize)).from_address(address)
    array: np.ndarray = np.frombuffer(memoryview(memory), kind)
    return array
