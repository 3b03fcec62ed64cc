# SPDX-License-Identifier: BSD-3-Clause
"""Whether the kernels of this machine do what they promise: ``python -m fastdrop verify``.

Each implementation has to give answers that others have published, and then the bits of the NumPy reference on random
cases, through the public functions. A case is made of a seed and its number alone, so that it can be made again.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

import fastdrop
from fastdrop import _reference
from fastdrop._masks import alpha_numbers
from fastdrop._operations import Operation

# rounds, counter, key, words: published with Random123 (D. E. Shaw Research), tests/kat_vectors.
PHILOX = (
    (7, "00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)

# key, call, start, n, rate, keep bits in little bit order: from tests/vectors/stream_v1.json, which a program made
# that shares no code with this project. The last one passes 2**32 in the element index and in the call.
STREAM = (
    (0, 0, 0, 300, 0.5, "d5e827668dc569e14cac57bcd8db009ba4cce4f8db00b25ceb74a5b167ff7e0929a3fa04a602"),
    (0, 0, 0, 300, 0.1, "f5ffefffffe7fdfffeeffffefffbb7fbefdfffffdb4dfe7dff7ef7fbffff7fffefffff9ca70f"),
    (
        0xDEADBEEFCAFEF00D,
        4294967301,
        4294967232,
        256,
        0.1,
        "7fffb7ffff7bbffddefffffaffffaff4bfffffeffef7dfff7bebff7ffdfda7ff",
    ),
)

# key, call, start, bits of normal numbers: from tests/vectors/normals_v1.json, made by a program of its own too. The
# last ones pass 2**34 in the element index, which is 2**32 in that of the block.
NORMALS = (
    (0, 0, 0, "3f213af2 bfe73d87 beb54d6d 3ec82ad3 bfab1ffd bf87e968 3f48eafc be38cb1a"),
    (
        0xDEADBEEFCAFEF00D,
        4294967301,
        17179869180,
        "bf2656a4 401198ec 3f0a7e67 3f0f6696 3ec31c60 3e7b1710 be98a90d bf19be5d",
    ),
)

RATES = (0.5, 0.25, 0.75, 0.125, 0.1, 0.2, 0.3, 0.9, 1 / 3, 2.0**-32, 1e-6, 1.0 - 1e-6, 1.0 - 2.0**-32, 1.0, 0.0)
MIN_CASES = 50  # however slow the machine
GUARD = 64  # bytes around every array
FILL = 0xA5  # what they hold; the same in either byte order, and no NaN


class Progress:
    """A progress bar on stderr, or nothing where that is no terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file
        self._shown = self._file.isatty()
        self._next = 0.0
        self._began = time.monotonic()

    def update(self, fraction: float, text: str) -> None:
        """Show how much of the whole is done, from 0 to 1, and what is being done."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + 0.1
        fraction = min(max(fraction, 0.0), 1.0)
        elapsed = now - self._began
        left = f"{math.ceil(elapsed / fraction - elapsed)} s left" if fraction > 0.02 else ""
        filled = round(30 * fraction)
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {fraction:4.0%}  {text:<34} {left:>10}"
        self._file.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        self._file.flush()

    def clear(self) -> None:
        """Take the bar away, so that other text can be written."""
        if self._shown:
            self._file.write("\r\x1b[K")
            self._file.flush()
            self._next = 0.0


# What runs an operation: the public functions, and the masks that have it.
FUNCTIONS = {
    Operation.DROPOUT: "dropout",
    Operation.DROPOUT_ADD: "dropout_add",
    Operation.BIAS_DROPOUT_ADD: "bias_dropout_add",
    Operation.RELU_DROPOUT: "relu_dropout",
    Operation.RELU_BACKWARD: "relu_dropout_backward",
    Operation.ALPHA_DROPOUT: "alpha_dropout",
    Operation.ZONEOUT: "zoneout",
    Operation.GAUSSIAN_DROPOUT: "gaussian_dropout",
    Operation.GAUSSIAN_NOISE: "gaussian_noise",
}
MASKS: dict[Operation, Any] = {
    Operation.DROPOUT: fastdrop.DropoutMask,
    Operation.ALPHA_DROPOUT: fastdrop.AlphaMask,
    Operation.GAUSSIAN_DROPOUT: fastdrop.GaussianMask,
    Operation.GAUSSIAN_NOISE: fastdrop.GaussianMask,
}
ADDING = (Operation.DROPOUT_ADD, Operation.BIAS_DROPOUT_ADD)
WITH_OTHER = (*ADDING, Operation.RELU_BACKWARD, Operation.ZONEOUT)
NORMAL = (Operation.GAUSSIAN_DROPOUT, Operation.GAUSSIAN_NOISE)


@dataclass
class Result:
    """What was found about one implementation."""

    name: str
    known_answers: int = 0
    comparisons: int = 0
    difference: str | None = None


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
    stream: bool
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
            return f"{FUNCTIONS[self.op]}({arguments}), num_threads({self.threads})"
        if self.what == "parts":
            return (
                f"Kernels.apply(x, out, op={self.op.name}) in parts at {self.cuts}, offset={self.index}, "
                f"stream={self.stream}, rate={self.rate!r}, {draw}"
            )
        shape, noise = self.mask_shapes()
        part = ", ".join(f"{low}:{low + n}" for (low, _), n in zip(self.margins, self.x.shape, strict=True))
        use = {"mask.apply": "mask.apply(x, out)", "keep": "np.asarray(mask)", "packbits": "mask.packbits()"}[self.what]
        index = f"{self.index}{', ' if part else ''}{part}"
        last = f"additive={self.op == Operation.GAUSSIAN_NOISE}" if self.op in NORMAL else f"noise_shape={noise}"
        mask = f"{MASKS[self.op].__name__}({shape}, {self._amount()}, {draw}, {last})[{index}]"
        return f"{use}, num_threads({self.threads})\nmask: {mask}"

    def _amount(self) -> str:
        is_stddev = self.op == Operation.GAUSSIAN_NOISE or (self.what == "mask.apply" and self.op in NORMAL)
        return f"stddev={_numbers(self)[0]!r}" if is_stddev else f"rate={self.rate!r}"

    def mask_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and noise_shape of the whole mask, of which the last along the first axis is used."""
        shape = tuple(low + n + high for n, (low, high) in zip(self.x.shape, self.margins, strict=True))
        noise = shape if self.noise_shape is None else self.noise_shape
        return (self.index + 1, *shape), (self.index + 1, *noise)


def dtypes() -> list[np.dtype]:
    """What has kernels, as far as it is installed."""
    found: list[np.dtype] = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)]
    bfloat16 = bfloat16_dtype()
    return found if bfloat16 is None else [*found, bfloat16]


def bfloat16_dtype() -> np.dtype | None:
    """The dtype of ml_dtypes, None where it is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return dtype


def verify(
    *,
    seed: int = 0,
    seconds: float | None = None,
    cases: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[Result]:
    """Compare every implementation of this machine with known answers and with the reference.

    Parameters
    ----------
    seed : int
        Names the sequence of cases.
    seconds : float, optional
        How long to go on.
    cases : int, optional
        How many cases to make, whatever the time.
    progress : callable, optional
        Is told how much is done, from 0 to 1, and a text.

    Returns
    -------
    list of Result
        One for each of ``fastdrop._kernel_names()``. What differs is not looked at any further.
    """
    results = [Result(name) for name in fastdrop._kernel_names()]
    for result in results:
        try:
            _check_known_answers(result)
        except Exception as error:  # whatever a broken implementation may raise is a finding
            result.difference = f"known answers: raised {type(error).__name__}: {error}"
    began = time.monotonic()
    number = 0
    while any(result.difference is None for result in results):
        elapsed = time.monotonic() - began
        if number >= (MIN_CASES if cases is None else cases) and (seconds is None or elapsed >= seconds):
            break
        if progress is not None:
            fraction = number / cases if cases else elapsed / seconds if seconds else 0.0
            progress(fraction, f"verify: {number} cases")
        _check_case(results, seed, number)
        number += 1
    return results


def _check_known_answers(result: Result) -> None:
    kernels: Any = fastdrop._find_kernels(result.name)
    for rounds, counter, key, expected in PHILOX:
        words = kernels.philox(_words(counter), _words(key), rounds)
        result.known_answers += 1
        if tuple(words) != _words(expected):
            got = " ".join(f"{word:08x}" for word in words)
            result.difference = (
                f"known answer of Philox4x32-{rounds} (Random123's kat_vectors): counter {counter}, key {key}\n"
                f"got {got}, must be {expected}"
            )
            return
    for draw_key, call, start, n, rate, expected in STREAM:
        bits = kernels.keep_bits(n, draw_key, call, _threshold(rate), start)
        result.known_answers += 1
        if bits.tobytes().hex() != expected:
            result.difference = (
                f"known answer of the stream (tests/vectors/stream_v1.json): key={draw_key:#x}, call={call}, "
                f"start={start}, n={n}, rate={rate}\ngot     {bits.tobytes().hex()}\nmust be {expected}"
            )
            return
    for draw_key, call, start, expected in NORMALS:
        normals = np.full(len(expected.split()), -0.0, np.float32)  # to which anything can be added without a change
        kernels.apply(normals, normals, 0, normals.size, draw_key, call, 0, 1.0, start, op=Operation.GAUSSIAN_NOISE)
        result.known_answers += 1
        got = " ".join(f"{bits:08x}" for bits in normals.view(np.uint32))
        if got != expected:
            result.difference = (
                f"known answer of normal numbers (tests/vectors/normals_v1.json): key={draw_key:#x}, call={call}, "
                f"start={start}\ngot     {got}\nmust be {expected}"
            )
            return


def _threshold(rate: float) -> int:
    """As the stream's contract has it; the package's own is among what is verified."""
    return round(rate * 2.0**32)


def _numbers(case: Case) -> tuple[float, float, float]:
    """Scale, shift and fill of its operation."""
    rate = case.rate
    match case.op:
        case Operation.ALPHA_DROPOUT:
            return alpha_numbers(rate)
        case Operation.GAUSSIAN_DROPOUT:
            return math.sqrt(rate / (1.0 - rate)), 0.0, 0.0
        case Operation.GAUSSIAN_NOISE:
            return rate, 0.0, 0.0
        case Operation.ZONEOUT:
            return 1.0, 0.0, 0.0
    return (1.0 / (1.0 - rate) if rate < 1.0 else 0.0), 0.0, 0.0


def _words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


# Random cases


def _check_case(results: list[Result], seed: int, number: int) -> None:
    """Compare one case on all implementations that have been right so far."""
    rng = np.random.default_rng([seed, number])
    case = make_case(rng)
    values = _values(rng, case)
    expected = _expected(case, values)
    for result in results:
        if result.difference is not None:
            continue
        result.comparisons += 1
        try:
            fault = _fault(case, values, expected, result.name)
        except Exception as error:
            fault = f"raised {type(error).__name__}: {error}"
        if fault is not None:
            repeat = f"python -m fastdrop verify --seed {seed} --cases {number + 1}"
            result.difference = f"case {number} of seed {seed}: {case}\n{fault}\nto repeat it: {repeat}"


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
    if op == Operation.BIAS_DROPOUT_ADD and ndim == 0:
        op = Operation.DROPOUT_ADD
    period = 0
    if op == Operation.BIAS_DROPOUT_ADD:
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
    elif kind == "other" and op in WITH_OTHER:
        out = "other itself"
    else:
        out = "x itself" if kind == "x" else "None" if what != "parts" else _layout(rng, shape, dtype)
    if out == "x's memory, one element further":
        strides = tuple(dtype.itemsize * math.prod(shape[d + 1 :]) for d in range(ndim))
        x = Layout(dtype, shape, strides, GUARD, 2 * GUARD + (size + 1) * dtype.itemsize)
    else:
        x = _layout(rng, shape, dtype, may_broadcast=out != "x itself")
    other = _layout(rng, shape, dtype, may_broadcast=out != "other itself") if op in WITH_OTHER else None
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
        stream=bool(rng.random() < 0.5),
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


def _values(rng: np.random.Generator, case: Case) -> dict[str, np.ndarray]:
    """What arrays hold, by name: numbers as in a neural net, or any bits, so NaN, infinities and subnormals too.

    What is added to x is always the former: which NaN comes of two is up to the machine and the compiler.
    """
    values = {"x": _array_values(rng, case.x, case.random_bits)}
    if case.op == Operation.BIAS_DROPOUT_ADD:
        values["bias"] = rng.standard_normal(case.period, np.float32).astype(values["x"].dtype)
    if case.other is not None:
        values["other"] = _array_values(rng, case.other, case.random_bits and case.op not in ADDING)
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


def _expected(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """The right answer: the reference on all of the mask at once, and one step more."""
    x = values["x"]
    drawn = _drawn(case)
    # Along an axis of one shared decision there is nothing to cut off.
    part = tuple(
        slice(low, low + n) if drawn.shape[d] == low + n + high else slice(None)
        for d, (n, (low, high)) in enumerate(zip(x.shape, case.margins, strict=True))
    )
    drawn = np.broadcast_to(drawn[part], x.shape)
    if case.what == "keep":
        return drawn
    if case.what == "packbits":
        return np.packbits(drawn, axis=None, bitorder="little")
    if case.rate == 0.0 and case.what != "parts" and case.op in MASKS:
        return x
    scale, shift, fill = _numbers(case)
    if case.op == Operation.DROPOUT:
        return np.where(drawn, _reference.scaled(x, scale), np.zeros((), x.dtype))
    if case.op == Operation.ZONEOUT:
        return np.where(drawn, x, values["other"])
    wide: dict[str, Any] = {"other": None, "bias": None}
    wide |= {name: _reference.widened(array) for name, array in values.items()}
    if case.what == "parts" and case.period > 0:
        wide["bias"] = np.resize(wide["bias"], x.shape)
    with np.errstate(all="ignore"):
        y = _reference.operated(case.op, wide["x"], drawn, scale, wide["other"], wide["bias"], shift, fill)
        return np.asarray(_reference.narrowed(y, x.dtype))  # for lack of dimensions a number


def _drawn(case: Case) -> np.ndarray:
    """Which elements of the whole mask are kept, or their normal numbers."""
    shape, start = case.x.shape, case.index
    if case.what != "parts":
        shape = case.mask_shapes()[1][1:]
        start *= math.prod(shape)
    if case.op in NORMAL:
        return _reference.normal_elements(0, math.prod(shape), case.key, case.call, start, None).reshape(shape)
    keep = np.empty(shape, np.bool_)
    is_backward = case.what == "function" and case.op == Operation.RELU_BACKWARD  # which draws nothing
    threshold = 0 if is_backward else _threshold(case.rate)
    _reference.Kernels().keep(keep, 0, keep.size, case.key, case.call, threshold, start)
    return keep


def _fault(case: Case, values: dict[str, np.ndarray], expected: np.ndarray, name: str) -> str | None:
    """What is wrong with the answer of an implementation, None if nothing is."""
    buffers = {}
    arrays = {array: held.copy() for array, held in values.items()}
    buffers["x"], arrays["x"] = case.x.array()
    if case.other is not None:
        buffers["other"], arrays["other"] = case.other.array()
    with np.errstate(all="ignore"):
        for array, held in values.items():
            arrays[array][...] = held
    out, written = None, ""  # and which of the arrays it is
    if isinstance(case.out, Layout):
        written = "out"
        buffers["out"], out = case.out.array()
    elif case.out in ("x itself", "other itself"):
        written = case.out.split()[0]
        out = arrays[written]
    elif case.out != "None":
        written = "x"
        x = arrays["x"]
        out = np.ndarray(x.shape, x.dtype, buffers["x"], case.x.offset + x.dtype.itemsize, x.strides)
    with fastdrop._using(name), fastdrop.num_threads(case.threads), np.errstate(all="ignore"):
        got = _answer(case, arrays, out)
        if case.what in ("keep", "packbits"):
            return _first_difference(got, expected)
        if out is not None and got is not out:
            return "out was not returned"
        fault = _first_difference(got, expected.astype(got.dtype))
    if fault is not None:
        return fault
    if out is not None and (written != "x" or out is arrays["x"]):
        out[...] = np.full(out.dtype.itemsize, FILL, np.uint8).view(out.dtype)[0]
        if np.any(buffers[written] != FILL):
            return "bytes outside of out were written"
    for array, held in values.items():
        if array != written and _first_difference(arrays[array], held.astype(arrays[array].dtype)) is not None:
            return f"{array} was written"
    return None


def _answer(case: Case, arrays: dict[str, np.ndarray], out: np.ndarray | None) -> np.ndarray:
    """The answer of the implementation in use."""
    if case.what == "function":
        return _answer_of_function(case, arrays, out)
    x = arrays["x"]
    scale, shift, fill = _numbers(case)
    if case.what == "parts":
        assert out is not None
        draw = (case.key, case.call, _threshold(case.rate), scale, case.index, None, None, case.stream)
        terms: dict[str, Any] = {"op": case.op, "shift": shift, "fill": fill}
        terms |= {name: arrays[name] for name in arrays if name != "x"}
        for start, stop in _parts(case.cuts, x.size):
            fastdrop._kernels.apply(x, out, start, stop, *draw, **terms)
        return out
    shape, noise_shape = case.mask_shapes()
    if case.op in NORMAL:
        more: dict[str, Any] = {"additive": case.op == Operation.GAUSSIAN_NOISE}
    else:
        more = {"noise_shape": noise_shape}
    amount = scale if case.op in NORMAL else case.rate
    mask = MASKS[case.op](shape, amount, key=case.key, call=case.call, **more)
    mask = mask[(case.index, *(slice(low, low + n) for n, (low, _) in zip(x.shape, case.margins, strict=True)))]
    if case.what == "keep":
        return np.asarray(mask)
    return mask.packbits() if case.what == "packbits" else mask.apply(x, out)


def _answer_of_function(case: Case, arrays: dict[str, np.ndarray], out: np.ndarray | None) -> np.ndarray:
    if case.op == Operation.RELU_BACKWARD:
        mask = fastdrop.DropoutMask(case.x.shape, case.rate, key=case.key, call=case.call)
        return fastdrop.relu_dropout_backward(arrays["x"], arrays["other"], mask, out)
    operands = [arrays[name] for name in ("x", "bias", "other") if name in arrays]
    more = {"noise_shape": case.noise_shape} if case.op == Operation.DROPOUT else {}
    stream = fastdrop.PhiloxStream.from_key(case.key, case.call)
    function = getattr(fastdrop, FUNCTIONS[case.op])
    answer: np.ndarray = function(*operands, case.rate, rng=stream, out=out, **more)
    return answer


def _parts(cuts: tuple[int, ...], size: int) -> Iterator[tuple[int, int]]:
    yield from zip((0, *cuts), (*cuts, size), strict=True)


def _first_difference(got: np.ndarray, expected: np.ndarray) -> str | None:
    """Where two arrays do not have the same bits."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"got {got.dtype} {got.shape}, must be {expected.dtype} {expected.shape}"
    kind = f"u{got.dtype.itemsize}"
    got_bits = np.ascontiguousarray(got).view(kind).reshape(-1)
    expected_bits = np.ascontiguousarray(expected).view(kind).reshape(-1)
    differ = np.flatnonzero(got_bits != expected_bits)
    if not len(differ):
        return None
    first = int(differ[0])
    at = tuple(int(i) for i in np.unravel_index(first, got.shape))
    digits = 2 * got.dtype.itemsize
    return (
        f"element {at}: got {_item(got, at)} (bits {got_bits[first]:0{digits}x}), "
        f"must be {_item(expected, at)} (bits {expected_bits[first]:0{digits}x}); "
        f"{len(differ)} of {got.size} elements differ"
    )


def _item(array: np.ndarray, at: tuple[int, ...]) -> Any:
    return array[at].item() if array.dtype.kind != "V" else float(array[at])


# The report


def report(results: list[Result]) -> str:
    """A line for each implementation, with the first difference in full, and what was not verified."""
    lines = []
    for result in results:
        verdict = "ok" if result.difference is None else "DIFFERS"
        counts = f"{result.known_answers:>2} known answers, {result.comparisons:>7,} comparisons"
        lines.append(f"{result.name:<12}{counts}   {verdict}")
        if result.difference is not None:
            lines += [f"    {line}" for line in result.difference.splitlines()]
    core: Any = fastdrop._core
    for name in core.built() if core is not None else ():
        if name not in fastdrop._kernel_names():
            lines.append(f"{name:<12}NOT VERIFIED: built, but this machine can not run it")
    if core is None:
        lines.append("compiled core: NOT VERIFIED, this build has none")
    if bfloat16_dtype() is None:
        lines.append("bfloat16    NOT VERIFIED: ml_dtypes is not installed")
    return "\n".join(lines)


def run(*, seed: int, seconds: float | None, cases: int | None) -> int:
    """The command: print what was found, and return the exit status."""
    progress = Progress()
    try:
        results = verify(seed=seed, seconds=seconds, cases=cases, progress=progress.update)
    finally:
        progress.clear()
    print(report(results))
    different = [result.name for result in results if result.difference is not None]
    if different:
        print(f"\n{', '.join(different)}: wrong on this machine (seed {seed})")
        return 1
    return 0
