# SPDX-License-Identifier: BSD-3-Clause
"""What kernels are asked to do: operations, their operands, and the methods that every implementation has.

The compiled class and the one in NumPy both meet :class:`Kernels`. The names are those of ``csrc/fastdrop.h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Bits: TypeAlias = npt.NDArray[np.uint8]


class Operation(IntEnum):
    """An operation on the elements of an array, by the number that it has in C, and what it reads beside ``x``.

    ``d`` is ``x * scale`` where an element is kept and +0 where it is dropped; ``N`` is a standard normal number. All
    is computed in the order in which it is written, each step rounded to the arithmetic type: float64 for float64,
    float32 for the other dtypes. The result is rounded once to the dtype.
    """

    DROPOUT = 0  # d
    DROPOUT_ADD = 1, "other"  # other + d
    BIAS_DROPOUT_ADD = 2, "other", "bias"  # other + d, with x + bias for x; element i takes bias[i % len(bias)]
    RELU_DROPOUT = 3  # d, with +0 for x where x <= 0
    RELU_BACKWARD = 4, "other"  # d where other != 0, else +0
    ALPHA_DROPOUT = 5  # x * scale + shift where kept, fill where dropped
    ZONEOUT = 6, "other"  # x where kept, other where dropped
    GAUSSIAN_DROPOUT = 7, "normals"  # x * (1 + scale * N)
    GAUSSIAN_NOISE = 8, "normals"  # x + scale * N

    reads_other: bool
    reads_bias: bool
    reads_normals: bool  # in place of decisions

    def __new__(cls, number: int, *reads: str) -> Self:
        operation = int.__new__(cls, number)
        operation._value_ = number
        operation.reads_other = "other" in reads
        operation.reads_bias = "bias" in reads
        operation.reads_normals = "normals" in reads
        return operation


class Dtype(IntEnum):
    """A dtype of elements, by the number that it has in C."""

    FLOAT16 = 0
    BFLOAT16 = 1
    FLOAT32 = 2
    FLOAT64 = 3

    @property
    def itemsize(self) -> int:
        return (2, 2, 4, 8)[self]


def bare(x: np.ndarray) -> np.ndarray:
    """An array without its subclass, which may say of its shape, its dtype and its memory what it likes."""
    return x if type(x) is np.ndarray else np.ndarray.view(x, np.ndarray)


class Operands:
    """The arrays and numbers that an operation works on, as ``fd_operands`` has them; see :class:`Operation`.

    The arrays are without their subclasses, and what is given as one array is one array here.
    """

    __slots__ = ("x", "y", "scale", "other", "bias", "shift", "fill")

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        scale: float = 1.0,
        other: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        shift: float = 0.0,
        fill: float = 0.0,
    ) -> None:
        self.x = bare(x)
        self.y = self.x if y is x else bare(y)
        self.scale = scale
        self.other = None if other is None else self.y if other is y else bare(other)
        self.bias = bias
        self.shift = shift
        self.fill = fill


class Draw(NamedTuple):
    """One draw of decisions or normal numbers, as ``fd_draw`` has it."""

    key: int = 0  # below 2**64
    call: int = 0  # below 2**56
    threshold: int = 0  # an element is dropped iff its 32 random bits are below it: from 0 to 2**32


Dims: TypeAlias = tuple[tuple[int, int], ...] | None


class IndexMap(NamedTuple):
    """Where the elements of an array lie in the stream, as ``fd_index_map`` has it.

    The element with coordinates c has the index ``offset + sum(c[d] * dims[d][1])``, and ``dims[d][0]`` is the length
    of dimension d. ``dims`` may be of fewer dimensions than the array, and None means ``offset + i`` for element i.
    ``bits`` is None, or keep bits as by ``packbits(bitorder="little")`` that replace the stream; indices then count in
    it.
    """

    offset: int = 0
    dims: Dims = None
    bits: Bits | None = None


class Kernels(Protocol):
    """An implementation: one instruction set of the C core, or the reference in NumPy."""

    @property
    def name(self) -> str: ...

    @property
    def releases_gil(self) -> bool:
        """Whether other threads can work meanwhile, so that several of them take less time than one."""

    def philox(self, counter: Sequence[int], key: tuple[int, int], rounds: int = 10) -> tuple[int, ...]:
        """The four words of one counter: the generator alone, for its known answers."""

    def apply(
        self,
        operation: int,
        operands: Operands,
        draw: Draw,
        index_map: IndexMap,
        nontemporal: bool = False,
        threads: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Do an operation with the elements of ``operands.x``, in C order.

        The records are those of ``fastdrop._backend``, which are C objects where there is a compiled core.

        ``nontemporal`` asks for stores that bypass the caches, where there are such. Up to ``threads`` threads work on
        the array, in chunks; no element of y may then have memory of another element of an array that is read. When
        this returns, none of them is at work any more. With ``part``, (start, stop), it is these elements alone, on the
        calling thread: what a thread does with a chunk.
        """

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
        """The same for arrays of other libraries: at addresses, of so many elements that follow each other.

        ``dtype`` is a :class:`Dtype`. An array that is read is y itself or shares no memory with it, and all are
        aligned to their elements. Nobody may free them meanwhile.
        """

    def keep(
        self,
        out: Bools,
        draw: Draw,
        index_map: IndexMap,
        threads: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Write to the elements of a contiguous array which of them are kept."""

    def keep_bits(self, n: int, draw: Draw, start: int = 0) -> Bits:
        """The keep bits of n elements from ``start`` on, as by ``packbits(bitorder="little")``."""

    def order_bits(self, n: int, index_map: IndexMap) -> Bits:
        """The bits that an index map of n elements has been given, in the order of the array, packed likewise."""
