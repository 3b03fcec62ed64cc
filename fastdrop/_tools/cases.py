# SPDX-License-Identifier: BSD-3-Clause
"""Random calls of everything that has kernels: what ``verify`` compares.

A case is made of the numbers of a random generator alone, so that it can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastdrop._functions import dropout
from fastdrop._fused import bias_dropout_add, dropout_add, relu_dropout, relu_dropout_backward, zoneout
from fastdrop._kernels import Operation
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask, alpha_numbers
from fastdrop._noise import alpha_dropout, gaussian_dropout, gaussian_noise
from fastdrop._tools.arrays import dtypes

RATES = (0.5, 0.25, 0.75, 0.125, 0.1, 0.2, 0.3, 0.9, 1 / 3, 2.0**-32, 1e-6, 1.0 - 1e-6, 1.0 - 2.0**-32, 1.0, 0.0)
GUARD = 64  # bytes around every array
FILL = 0xA5  # what they hold; the same in either byte order, and no NaN

# What runs an operation: the public functions, and the masks that have it.
FUNCTIONS: dict[Operation, Callable[..., np.ndarray]] = {
    Operation.DROPOUT: dropout,
    Operation.DROPOUT_ADD: dropout_add,
    Operation.BIAS_DROPOUT_ADD: bias_dropout_add,
    Operation.RELU_DROPOUT: relu_dropout,
    Operation.RELU_BACKWARD: relu_dropout_backward,
    Operation.ALPHA_DROPOUT: alpha_dropout,
    Operation.ZONEOUT: zoneout,
    Operation.GAUSSIAN_DROPOUT: gaussian_dropout,
    Operation.GAUSSIAN_NOISE: gaussian_noise,
}
MASKS: dict[Operation, type[DropoutMask | GaussianMask]] = {
    Operation.DROPOUT: DropoutMask,
    Operation.ALPHA_DROPOUT: AlphaMask,
    Operation.GAUSSIAN_DROPOUT: GaussianMask,
    Operation.GAUSSIAN_NOISE: GaussianMask,
}


@dataclass(frozen=True)
class Layout:
    """Where the elements of an array lie in a buffer."""

    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    nbytes: int

    def array(self) -> tuple[np.ndarray, np.ndarray]:
        """A new buffer, filled, and the array in it."""
        buffer = np.full(self.nbytes, FILL, np.uint8)
        return buffer, np.ndarray(self.shape, self.dtype, buffer, self.offset, self.strides)

    def __str__(self) -> str:
        order = "" if self.dtype.isnative else ", byte-swapped"
        return f"{self.dtype.name} {self.shape}{order}, strides {self.strides}, {self.offset} bytes into a buffer"


@dataclass(frozen=True)
class Case:
    """All about one comparison. ``margins`` are the elements of the mask before and after the part that is used."""

    what: str
    op: Operation
    x: Layout
    other: Layout | None
    period: int  # of the bias, 0 without one
    out: str | Layout
    rate: float
    key: int
    call: int
    index: int
    margins: tuple[tuple[int, int], ...]
    noise_shape: tuple[int, ...] | None
    cuts: tuple[int, ...]
    nontemporal: bool
    threads: int
    random_bits: bool

    def __str__(self) -> str:
        lines = [self._call(), f"x: {self.x}, {'random bits' if self.random_bits else 'normal numbers'}"]
        if self.what in ("function", "mask.apply", "parts"):
            lines.append(f"out: {self.out}")
        if self.other is not None:
            lines.append(f"other: {self.other}")
        if self.period > 0:
            lines.append(f"bias: {self.period} elements")
        return "\n".join(lines)

    def _call(self) -> str:
        draw = f"key={self.key:#x}, call={self.call}"
        if self.what == "function":
            operands = ["x", *["bias"] * (self.period > 0), *["other"] * (self.other is not None)]
            shared = "" if self.noise_shape is None else f"noise_shape={self.noise_shape}, "
            arguments = f"{', '.join(operands)}, {self._amount()}, out=out, {shared}{draw}"
            return f"{FUNCTIONS[self.op].__name__}({arguments}), num_threads({self.threads})"
        if self.what == "parts":
            return (
                f"Kernels.apply({self.op.name}, x, out) in parts at {self.cuts}, offset={self.index}, "
                f"nontemporal={self.nontemporal}, rate={self.rate!r}, {draw}"
            )
        shape, noise = self.mask_shapes()
        part = ", ".join(f"{low}:{low + n}" for (low, _), n in zip(self.margins, self.x.shape, strict=True))
        use = {"mask.apply": "mask.apply(x, out)", "keep": "np.asarray(mask)", "packbits": "mask.packbits()"}[self.what]
        index = f"{self.index}{', ' if part else ''}{part}"
        last = f"additive={self.op == Operation.GAUSSIAN_NOISE}" if self.op.reads_normals else f"noise_shape={noise}"
        mask = f"{MASKS[self.op].__name__}({shape}, {self._amount()}, {draw}, {last})[{index}]"
        return f"{use}, num_threads({self.threads})\nmask: {mask}"

    def _amount(self) -> str:
        is_stddev = self.op == Operation.GAUSSIAN_NOISE or (self.what == "mask.apply" and self.op.reads_normals)
        return f"stddev={self.numbers()[0]!r}" if is_stddev else f"rate={self.rate!r}"

    def mask_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and noise_shape of the whole mask, of which the last along the first axis is used."""
        shape = tuple(low + n + high for n, (low, high) in zip(self.x.shape, self.margins, strict=True))
        noise = shape if self.noise_shape is None else self.noise_shape
        return (self.index + 1, *shape), (self.index + 1, *noise)

    def mask(self) -> DropoutMask | GaussianMask:
        """The part of a mask that is used."""
        shape, noise_shape = self.mask_shapes()
        part: tuple[int | slice, ...]
        part = (self.index, *(slice(low, low + n) for n, (low, _) in zip(self.x.shape, self.margins, strict=True)))
        if self.op.reads_normals:
            additive = self.op == Operation.GAUSSIAN_NOISE
            return GaussianMask(shape, self.numbers()[0], key=self.key, call=self.call, additive=additive)[part]
        kind = AlphaMask if self.op == Operation.ALPHA_DROPOUT else DropoutMask
        return kind(shape, self.rate, key=self.key, call=self.call, noise_shape=noise_shape)[part]

    def numbers(self) -> tuple[float, float, float]:
        """Scale, shift and fill of its operation."""
        rate = self.rate
        match self.op:
            case Operation.ALPHA_DROPOUT:
                return alpha_numbers(rate)
            case Operation.GAUSSIAN_DROPOUT:
                return math.sqrt(rate / (1.0 - rate)), 0.0, 0.0
            case Operation.GAUSSIAN_NOISE:
                return rate, 0.0, 0.0
            case Operation.ZONEOUT:
                return 1.0, 0.0, 0.0
        return (1.0 / (1.0 - rate) if rate < 1.0 else 0.0), 0.0, 0.0


def make_case(rng: np.random.Generator) -> Case:
    """A random case."""
    what = str(rng.choice(["function", "mask.apply", "parts", "keep", "packbits"], p=[0.35, 0.25, 0.25, 0.1, 0.05]))
    dtype = dtypes()[rng.integers(len(dtypes()))]
    shape = _shape(rng)
    size = math.prod(shape)
    ndim = len(shape)
    op = Operation.DROPOUT
    if what in ("function", "parts") and rng.random() < 0.8:
        op = Operation(int(rng.integers(len(Operation))))
    elif what == "mask.apply" and rng.random() < 0.5:
        op = list(MASKS)[rng.integers(len(MASKS))]
    if op.reads_bias and ndim == 0:
        op = Operation.DROPOUT_ADD
    period = 0
    if op.reads_bias:
        period = shape[-1] if what == "function" else int(rng.integers(32, 3000))
    margins = tuple((0, 0) for _ in shape)
    noise_shape = None
    if what not in ("function", "parts") and rng.random() < 0.4 and size < 100_000:
        margins = tuple((int(low), int(high)) for low, high in rng.integers(0, 4, (ndim, 2)))
    has_noise_shape = op == Operation.DROPOUT or (op == Operation.ALPHA_DROPOUT and what == "mask.apply")
    if what != "parts" and has_noise_shape and rng.random() < 0.2:
        whole = (low + n + high for n, (low, high) in zip(shape, margins, strict=True))
        noise_shape = tuple(n if rng.random() < 0.5 else 1 for n in whole)
    start = (0, 0, 1 << 32, 1 << 40)[rng.integers(4)] + int(rng.integers(-5000, 5000))
    start = max(start, 0)
    drawn = math.prod(n + low + high for n, (low, high) in zip(shape, margins, strict=True))
    kind = rng.choice(["new", "x", "other", "array", "wider", "overlapping"], p=[0.3, 0.15, 0.1, 0.3, 0.1, 0.05])
    out: str | Layout
    if what == "parts" and kind in ("new", "overlapping"):
        kind = "array"  # those that call the kernels see to both
    if kind == "array":
        out = _layout(rng, shape, dtype)
    elif kind == "wider" and dtype.kind == "f":
        out = _layout(rng, shape, np.dtype(np.float64))
    elif kind == "overlapping" and size > 1:
        out = "x's memory, one element further"
    elif kind == "other" and op.reads_other:
        out = "other itself"
    else:
        out = "x itself" if kind == "x" else "None" if what != "parts" else _layout(rng, shape, dtype)
    if out == "x's memory, one element further":
        strides = tuple(dtype.itemsize * math.prod(shape[d + 1 :]) for d in range(ndim))
        x = Layout(dtype, shape, strides, GUARD, 2 * GUARD + (size + 1) * dtype.itemsize)
    else:
        x = _layout(rng, shape, dtype, may_broadcast=out != "x itself")
    other = _layout(rng, shape, dtype, may_broadcast=out != "other itself") if op.reads_other else None
    rate = float(rng.choice(RATES)) if rng.random() < 0.6 else float(rng.random())
    return Case(
        what=what,
        op=op,
        x=x,
        other=other,
        period=period,
        out=out,
        rate=0.5 if op == Operation.GAUSSIAN_DROPOUT and rate == 1.0 else rate,  # whose variance is infinite there
        key=int(rng.integers(0, 1 << 64, dtype=np.uint64)),
        call=int(rng.integers(0, 1 << int(rng.choice([1, 33, 56])))),
        index=start if what == "parts" else 0 if what == "function" else start // max(drawn, 1),
        margins=margins,
        noise_shape=noise_shape,
        cuts=tuple(sorted(int(cut) for cut in rng.integers(0, size + 1, int(rng.integers(3))))),
        nontemporal=bool(rng.random() < 0.5),
        threads=int(rng.integers(1, 4)),
        random_bits=bool(rng.random() < 0.5),
    )


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    """Zero to four dimensions: mostly up to a few tiles, sometimes around the edge of one, sometimes many."""
    kind = rng.random()
    if kind < 0.03:
        return (int(rng.integers(262_144, 500_000)),) if kind < 0.02 else (int(rng.integers(600, 900)), 517)
    if kind < 0.3:
        edge = int(rng.choice([1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 6144]))
        return (max(edge + int(rng.integers(-2, 3)), 0),)
    ndim = int(rng.choice([0, 1, 2, 3, 4], p=[0.05, 0.35, 0.3, 0.2, 0.1]))
    longest = 8000.0 ** (1 / max(ndim, 1))
    return tuple(int(longest ** rng.random()) if rng.random() > 0.01 else 0 for _ in range(ndim))


def _layout(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, may_broadcast: bool = False) -> Layout:
    """Contiguous in half of the cases; else with axes in any order, steps, negative strides, odd addresses."""
    strides = [0] * len(shape)
    plain = rng.random() < 0.5
    axes = list(range(len(shape)))[::-1]
    if not plain:
        rng.shuffle(axes)
        if dtype.kind == "f" and rng.random() < 0.2:
            dtype = dtype.newbyteorder()
    step = dtype.itemsize
    offset = GUARD + int(rng.integers(16)) * dtype.itemsize
    if not plain and rng.random() < 0.2:
        offset += int(rng.integers(1, dtype.itemsize))
    for axis in axes:
        if not plain and may_broadcast and rng.random() < 0.1:
            continue
        gap = 1 if plain or rng.random() < 0.6 else int(rng.integers(2, 4))
        strides[axis] = gap * step
        if not plain and rng.random() < 0.2:
            strides[axis] = -gap * step
            offset += max(shape[axis] - 1, 0) * gap * step
        step *= gap * max(shape[axis], 1)
    return Layout(dtype, shape, tuple(strides), offset, offset + step + GUARD)


def values_of(rng: np.random.Generator, case: Case) -> dict[str, np.ndarray]:
    """What arrays hold, by name: numbers as in a neural net, or any bits, so NaN, infinities and subnormals too.

    What is added to x is always the former: which NaN comes of two is up to the machine and the compiler.
    """
    values = {"x": _array_values(rng, case.x, case.random_bits)}
    if case.op.reads_bias:
        values["bias"] = rng.standard_normal(case.period, np.float32).astype(values["x"].dtype)
    if case.other is not None:
        is_added = case.op in (Operation.DROPOUT_ADD, Operation.BIAS_DROPOUT_ADD)  # IEEE 754 leaves open which NaN wins
        values["other"] = _array_values(rng, case.other, case.random_bits and not is_added)
    return values


def _array_values(rng: np.random.Generator, layout: Layout, random_bits: bool) -> np.ndarray:
    dtype = layout.dtype.newbyteorder("=")
    if random_bits:
        count = math.prod(layout.shape) * dtype.itemsize
        values = np.frombuffer(rng.bytes(count), np.uint8).view(dtype).reshape(layout.shape)
    else:
        values = rng.standard_normal(layout.shape, np.float32).astype(dtype)
    _, array = layout.array()
    with np.errstate(all="ignore"):
        array[...] = values  # where elements share memory, the last one counts
        return array.astype(dtype)
