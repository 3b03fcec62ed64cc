# SPDX-License-Identifier: BSD-3-Clause
"""Every kernel gives the bits of the reference, at any length, place, alignment and rate, and writes nothing else."""

import itertools
import subprocess
import sys
import textwrap

import helpers
import ml_dtypes
import numpy as np
import pytest
from helpers import TESTS, Operation, normal_elements
from hypothesis import given
from hypothesis import strategies as st

TILE = 2048
GUARD = 128  # bytes on either side, more than any vector is wide
HALVES = pytest.mark.parametrize(
    "dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=lambda dtype: dtype.name
)
FRACTION_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}

# Every size at which a kernel changes its way: lanes, groups, blocks, steps and tiles of all instruction sets.
EDGES = [0, 8, 16, 32, 64, 128, 256, 512, 1024, TILE, 2 * TILE, 3 * TILE]
lengths = st.builds(lambda edge, by: max(edge + by, 0), st.sampled_from(EDGES), st.integers(-3, 3)) | st.integers(
    0, 3 * TILE
)
starts = st.builds(
    lambda base, by: max(base + by, 0),
    st.sampled_from([0, 2**31, 2**32, 2**34, 2**39, 2**40, 2**62]),
    st.builds(lambda edge, by: edge + by, st.sampled_from([*EDGES, *(-edge for edge in EDGES)]), st.integers(-3, 3))
    | st.integers(-5000, 5000),
)
keys = st.integers(0, 2**64 - 1)
calls = st.integers(0, 2**56 - 1)

RATES = [0.5, 0.25, 0.75, 0.125, 1 / 256, 255 / 256, 1 / 512, 2**-32, 1e-9, 1 - 2**-32, 1 - 1e-9, 0.1, 0.3, 0.9]
thresholds = st.one_of(
    st.sampled_from(RATES).map(lambda rate: round(rate * 2**32)),
    st.sampled_from([0, 1, 2**24 - 1, 2**24, 2**24 + 1, 2**32 - 1, 2**32]),
    st.integers(0, 31).map(lambda bit: 1 << bit),
    st.integers(0, 2**32),
)
scales = st.sampled_from([1.0, 2.0, 4 / 3, 1 / 0.9, 1 / (1 - 0.3), 2.0**32, 1e9]) | st.floats(1, 100)


def special_values(dtype):
    """NaNs of both signs and several payloads, infinities, zeros, subnormals, and what overflows when scaled."""
    fraction = FRACTION_BITS[dtype.name]
    sign = 1 << 8 * dtype.itemsize - 1
    infinity = sign - (1 << fraction)
    quiet = 1 << fraction - 1
    positive = [0, 1, 2, quiet, 2 * quiet - 1, 2 * quiet, infinity - 1, infinity, infinity - 2 * quiet]
    positive += [infinity + 1, infinity + quiet, infinity + quiet + 1, infinity + quiet - 1, infinity + 2 * quiet - 1]
    return np.array([pattern | s for pattern in positive for s in (0, sign)], UNSIGNED[dtype.itemsize]).view(dtype)


def values(dtype, n, seed):
    """One half random bits and plain numbers, one half special values."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype)
    plain = rng.random(n) < 0.3
    x[plain] = rng.standard_normal(n)[plain].astype(dtype)
    special = rng.random(n) < 0.5
    return np.where(special, rng.choice(special_values(dtype), n), x)


def bits_of(x):
    return x.view(UNSIGNED[x.itemsize]) if x.itemsize > 1 else x.view(np.uint8)


class Guarded:
    """An array within a larger buffer, ``shift`` elements past a multiple of 64 bytes."""

    def __init__(self, n, dtype, shift):
        dtype = np.dtype(dtype)
        memory = np.empty(n * dtype.itemsize + 2 * GUARD + 128, np.uint8)
        memory = memory[-memory.ctypes.data % 64 :]
        self.memory = memory[: GUARD + shift * dtype.itemsize + n * dtype.itemsize + GUARD]
        self.memory[:] = np.arange(len(self.memory)) * 37 + 11
        self.before = GUARD + shift * dtype.itemsize
        self.after = self.before + n * dtype.itemsize
        self.array = self.memory[self.before : self.after].view(dtype)
        self.original = self.memory.copy()

    def is_intact_outside(self):
        same = self.memory == self.original
        return same[: self.before].all() and same[self.after :].all()

    def is_untouched(self):
        return np.array_equal(self.memory, self.original)


def guarded_values(dtype, n, seed, shift):
    x = Guarded(n, dtype, shift)
    bits_of(x.array)[:] = bits_of(values(dtype, n, seed))
    x.original = x.memory.copy()
    return x


shifts = st.integers(0, 31)


@given(
    n=lengths,
    start=starts,
    key=keys,
    call=calls,
    threshold=thresholds,
    scale=scales,
    shift_x=shifts,
    shift_y=shifts,
    past_caches=st.booleans(),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_dropout_meets_the_reference(
    compiled, oracle, dtype, n, start, key, call, threshold, scale, shift_x, shift_y, past_caches, in_place, seed
):
    per_line = 64 // dtype.itemsize
    x = guarded_values(dtype, n, seed, shift_x % per_line)
    expected = np.empty(n, dtype)
    oracle.apply(x.array, expected, 0, n, key, call, threshold, scale, start)
    y = x if in_place else Guarded(n, dtype, shift_y % per_line)
    compiled.apply(x.array, y.array, 0, n, key, call, threshold, scale, start, past_caches=past_caches)
    np.testing.assert_array_equal(bits_of(y.array), bits_of(expected))
    assert y.is_intact_outside()
    assert in_place or x.is_untouched()


@given(n=lengths, start=starts, key=keys, call=calls, threshold=thresholds, shift=shifts)
def test_masks_meet_the_reference(compiled, oracle, n, start, key, call, threshold, shift):
    expected = np.empty(n, np.bool_)
    oracle.keep(expected, 0, n, key, call, threshold, start)
    keep = Guarded(n, np.uint8, shift)
    compiled.keep(keep.array.view(np.bool_), 0, n, key, call, threshold, start)
    np.testing.assert_array_equal(keep.array, expected)  # as numbers, so that a true of 2 does not pass
    assert keep.is_intact_outside()
    bits = compiled.keep_bits(n, key, call, threshold, start)
    np.testing.assert_array_equal(bits, np.packbits(expected, bitorder="little"))


@given(
    n=lengths,
    first=st.integers(0, 70),
    scale=scales,
    shift_x=shifts,
    shift_y=shifts,
    shift_bits=st.integers(0, 15),
    past_caches=st.booleans(),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_given_bits_are_applied_from_any_bit_on(
    compiled, oracle, dtype, n, first, scale, shift_x, shift_y, shift_bits, past_caches, in_place, seed
):
    per_line = 64 // dtype.itemsize
    x = guarded_values(dtype, n, seed, shift_x % per_line)
    bits = Guarded((first + n + 7) // 8, np.uint8, shift_bits)
    keep = np.unpackbits(bits.array, bitorder="little")[first : first + n]
    kept = np.empty(n, dtype)
    oracle.apply(x.array, kept, 0, n, 0, 0, 0, scale)
    expected = np.where(keep, bits_of(kept), 0)
    y = x if in_place else Guarded(n, dtype, shift_y % per_line)
    if n > 0:
        compiled.apply(x.array, y.array, 0, n, 0, 0, 0, scale, first, None, bits.array, past_caches=past_caches)
    np.testing.assert_array_equal(bits_of(y.array), expected)
    assert y.is_intact_outside()
    assert bits.is_untouched()
    assert in_place or x.is_untouched()


@pytest.mark.parametrize("past_caches", [False, True], ids=["cached", "past-caches"])
def test_every_alignment_of_x_and_out(compiled, oracle, dtype, past_caches):
    """Stores past the caches take aligned places only; the elements before the first of them go another way."""
    n, key, call, threshold, scale = TILE + 300, 5, 6, round(0.3 * 2**32), 1 / 0.7
    x = values(dtype, n, 1)
    expected = np.empty(n, dtype)
    oracle.apply(x, expected, 0, n, key, call, threshold, scale, 77)
    for shift in range(64 // dtype.itemsize):
        for other in (0, 1, shift):
            source = guarded_values(dtype, n, 1, other)
            y = Guarded(n, dtype, shift)
            compiled.apply(source.array, y.array, 0, n, key, call, threshold, scale, 77, past_caches=past_caches)
            np.testing.assert_array_equal(bits_of(y.array), bits_of(expected))
            assert y.is_intact_outside()


def test_every_length_up_to_a_step(compiled, oracle):
    x = values(np.dtype(np.float32), 600, 2)
    expected = np.empty_like(x)
    oracle.apply(x, expected, 0, 600, 3, 1, round(0.1 * 2**32), 1 / 0.9, 1000)
    keep = bits_of(expected) != 0
    for n in range(601):
        y = Guarded(n, np.float32, 3)
        compiled.apply(x[:n], y.array, 0, n, 3, 1, round(0.1 * 2**32), 1 / 0.9, 1000)
        np.testing.assert_array_equal(bits_of(y.array), bits_of(expected[:n]))
        assert y.is_intact_outside()
    assert keep.any()


@given(n=st.integers(1, 5000), at=st.integers(0, 5000), size=lengths, key=keys, threshold=thresholds)
def test_a_part_of_an_array_leaves_the_rest_alone(implementation, oracle, n, at, size, key, threshold, dtype):
    """``start`` and ``stop`` choose elements of x and out, whose places in the stream count from ``offset``."""
    start, stop = min(at, n), min(at + size, n)
    x = values(dtype, n, 3)
    keep = np.empty(n, np.bool_)
    oracle.keep(keep, 0, n, key, 9, threshold, 12345)
    all_kept = np.empty(n, dtype)
    oracle.apply(x, all_kept, 0, n, 0, 0, 0, 1.5)
    untouched = np.full(n, 7, dtype)
    expected = untouched.copy()
    expected[start:stop] = np.where(keep, all_kept, np.zeros((), dtype))[start:stop]
    y = untouched.copy()
    implementation.apply(x, y, start, stop, key, 9, threshold, 1.5, 12345)
    np.testing.assert_array_equal(bits_of(y), bits_of(expected))
    written = np.full(n, 7, np.uint8)
    implementation.keep(written.view(np.bool_), start, stop, key, 9, threshold, 12345)
    np.testing.assert_array_equal(written[start:stop], keep[start:stop])
    assert (written[:start] == 7).all()
    assert (written[stop:] == 7).all()


@pytest.mark.parametrize(
    "layout", [np.s_[:, ::-1], np.s_[::-1, ::2], np.s_[:, 3:-4]], ids=["reversed", "strided", "cut"]
)
def test_a_part_of_a_strided_array_leaves_the_rest_alone(implementation, oracle, dtype, layout):
    """A thread that works on a part of an array must not write to another one's."""
    x = values(dtype, 40_000, 6).reshape(100, 400)[layout]
    for start in (0, 1, 8191, 8192, 20_000):
        stop = min(start + 10_000, x.size)
        expected = np.full(x.shape, 7, dtype)
        oracle.apply(np.ascontiguousarray(x), expected, start, stop, 1, 2, round(0.3 * 2**32), 1 / 0.7, 99)
        memory = np.full((100, 400), 7, dtype)
        implementation.apply(x, memory[layout], start, stop, 1, 2, round(0.3 * 2**32), 1 / 0.7, 99)
        np.testing.assert_array_equal(bits_of(memory[layout].copy()), bits_of(expected))
        memory[layout] = 7
        assert (memory == 7).all()


# Operations. Where two NaNs meet in an addition, or infinities of different signs, IEEE 754 does not say what NaN comes
# of it, and machines and compilers differ; so only one of the arrays that are added holds such values.

ADDING = (Operation.DROPOUT_ADD, Operation.BIAS_DROPOUT_ADD)
WITH_OTHER = (*ADDING, Operation.RELU_BACKWARD, Operation.ZONEOUT)
WITH_NORMALS = (Operation.GAUSSIAN_DROPOUT, Operation.GAUSSIAN_NOISE)
BESIDE_DROPOUT = [op for op in Operation if op != Operation.DROPOUT]
WITH_BITS = [op for op in BESIDE_DROPOUT if op not in WITH_NORMALS]

periods = st.integers(32, 5000) | st.sampled_from([32, 33, 63, 64, 65, 127, 128, 129, 2047, 2048, 2049])
numbers = st.sampled_from([0.0, -0.0, 1e-40, 0.3, -1.7580993408473766, 70000.0]) | st.floats(-3, 3)


def tame(x):
    """x with the highest bit of all exponents cleared: numbers below 2, zeros and subnormals."""
    bits_of(x)[...] &= UNSIGNED[x.itemsize](~(1 << 8 * x.itemsize - 2) & (1 << 8 * x.itemsize) - 1)


@st.composite
def works(draw, ops):
    """An operation and its numbers, and in what memory it is done."""
    return {
        "op": draw(st.sampled_from(ops)),
        "period": draw(periods),
        "shifts": draw(st.tuples(shifts, shifts, shifts, shifts)),
        "out": draw(st.sampled_from(["new", "new", "x", "other"])),
        "wild": draw(st.sampled_from(["x", "other", "bias"])),
        "seed": draw(st.integers(0, 2**32)),
        "numbers": {"scale": draw(scales), "shift": draw(numbers), "fill": draw(numbers)},
        "past_caches": draw(st.booleans()),
    }


def terms_of(op, other, bias):
    """Those arguments of an operation that it has."""
    terms = {"op": op}
    if op in WITH_OTHER:
        terms["other"] = other
    if op == Operation.BIAS_DROPOUT_ADD:
        terms["bias"] = bias
    return terms


def assert_meets(oracle, kernels, dtype, work, start, stop, **where):
    """Kernels give the bits of the oracle for elements start .. stop-1 of arrays, and write nothing else."""
    arrays = {}
    for i, name in enumerate(("x", "new", "other", "bias")):
        n = work["period"] if name == "bias" else stop
        arrays[name] = guarded_values(dtype, n, work["seed"] + i, work["shifts"][i] % (64 // dtype.itemsize))
        if work["op"] in ADDING and name != work["wild"]:
            tame(arrays[name].array)
            arrays[name].original = arrays[name].memory.copy()
    x, out = arrays["x"].array, arrays[work["out"]]
    how = where | work["numbers"] | terms_of(work["op"], arrays["other"].array, arrays["bias"].array)
    expected = out.array.copy()
    oracle.apply(x.copy(), expected, start, stop, **how)
    kernels.apply(x, out.array, start, stop, **how, past_caches=work["past_caches"])
    np.testing.assert_array_equal(bits_of(out.array), bits_of(expected))
    assert out.is_intact_outside()
    assert all(array.is_untouched() for array in arrays.values() if array is not out)


@given(
    work=works(BESIDE_DROPOUT),
    n=lengths,
    start=st.integers(0, 70) | st.integers(0, 6000),
    offset=starts,
    key=keys,
    call=calls,
    threshold=thresholds,
)
def test_operations_meet_the_reference(compiled, oracle, dtype, work, n, start, offset, key, call, threshold):
    assert_meets(
        oracle, compiled, dtype, work, start, start + n, key=key, call=call, threshold=threshold, offset=offset
    )


@given(
    work=works(WITH_BITS),
    n=lengths,
    start=st.integers(0, 70) | st.integers(0, 6000),
    offset=st.integers(0, 70),
    shift_bits=st.integers(0, 15),
)
def test_operations_with_given_bits_meet_the_reference(compiled, oracle, dtype, work, n, start, offset, shift_bits):
    bits = Guarded((offset + start + n + 7) // 8, np.uint8, shift_bits)
    assert_meets(
        oracle, compiled, dtype, work, start, start + n, key=0, call=0, threshold=0, offset=offset, bits=bits.array
    )
    assert bits.is_untouched()


TENTH = round(0.1 * 2**32)


def test_masks_of_few_elements_meet_the_reference(compiled, oracle):
    """A step or less of them, by every number of planes."""
    thresholds = [0, 1, TENTH, (1 << 32) - 1, 1 << 32, *(1 << bit for bit in range(23, 32))]
    for n, threshold, start in itertools.product((1, 40, 128, 129, 500, 1024, 1100), thresholds, (0, 77, 2**34 - 100)):
        expected, keep = np.empty(n, np.bool_), np.empty(n, np.bool_)
        oracle.keep(expected, 0, n, 3, 1, threshold, start)
        compiled.keep(keep, 0, n, 3, 1, threshold, start)
        np.testing.assert_array_equal(keep, expected)
        bits = compiled.keep_bits(n, 3, 1, threshold, start)
        np.testing.assert_array_equal(bits, np.packbits(expected, bitorder="little"))


def test_every_operation_with_every_store_meets_the_reference(compiled, oracle, dtype):
    """The ways through the core, of which random cases may miss one."""
    numbers = {"scale": 1.25, "shift": 0.3, "fill": -1.1}
    for op, past_caches in itertools.product(Operation, (False, True)):
        work = {"op": op, "period": 33, "shifts": (0, 3, 1, 0), "out": "new", "wild": "x", "seed": 5}
        work |= {"numbers": numbers, "past_caches": past_caches}
        for n in (1, 40, 1100, 2 * TILE + 77):
            for threshold in (0, TENTH, 1 << 31, 1 << 32):
                how = {"key": 3, "call": 1, "threshold": threshold, "offset": 77}
                assert_meets(oracle, compiled, dtype, work, 0, n, **how)
            if op not in WITH_NORMALS:
                bits = np.random.default_rng(n).integers(0, 256, (n + 88) // 8, np.uint8)
                how = {"key": 0, "call": 0, "threshold": 0, "offset": 77}
                assert_meets(oracle, compiled, dtype, work, 0, n, **how, bits=bits)


@pytest.mark.parametrize("period", [32, 33, 61, 64, 100, 1000])
def test_a_bias_begins_anew_at_any_element(compiled, oracle, dtype, period):
    """Its end and beginning meet within every group of elements, and before, in and behind the whole ones."""
    n = 3 * TILE
    x, other, bias = (
        np.random.default_rng(i).standard_normal(size).astype(dtype) for i, size in enumerate((n, n, period))
    )
    how = {"key": 8, "call": 1, "threshold": 1 << 31, "scale": 2.0, "op": Operation.BIAS_DROPOUT_ADD}
    expected = np.empty_like(x)
    oracle.apply(x, expected, 0, n, **how, other=other, bias=np.tile(bias, -(-n // period)))
    for start in range(0, period + 33, 5):
        y = Guarded(n, dtype, start % 8)
        compiled.apply(x, y.array, start, n, **how, other=other, bias=bias)
        np.testing.assert_array_equal(bits_of(y.array[start:]), bits_of(expected[start:]))
        assert y.is_intact_outside()


def by_formula(op, x, chosen, scale, other, bias, shift, fill):
    """An operation as ``Operation`` states it, on numbers that are none of the edge cases; chosen: bools or normals."""
    number = np.float64 if x.dtype == np.float64 else np.float32
    x, other, bias = (array.astype(number) for array in (x, other, bias))
    scale, shift, fill, zero = number(scale), number(shift), number(fill), number(0)
    formulas = {
        Operation.DROPOUT: lambda: np.where(chosen, x * scale, zero),
        Operation.DROPOUT_ADD: lambda: other + np.where(chosen, x * scale, zero),
        Operation.BIAS_DROPOUT_ADD: lambda: other + np.where(chosen, (x + bias) * scale, zero),
        Operation.RELU_DROPOUT: lambda: np.where(chosen & (x > 0), x * scale, zero),
        Operation.RELU_BACKWARD: lambda: np.where(chosen & (other != 0), x * scale, zero),
        Operation.ALPHA_DROPOUT: lambda: np.where(chosen, x * scale + shift, fill),
        Operation.ZONEOUT: lambda: np.where(chosen, x, other),
        Operation.GAUSSIAN_DROPOUT: lambda: x * (1 + scale * chosen),
        Operation.GAUSSIAN_NOISE: lambda: x + scale * chosen,
    }
    return formulas[op]()


def numbers_of(dtype, n, seed):
    """Plain numbers and zeros."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.1, 0, rng.standard_normal(n)).astype(dtype)


@pytest.mark.parametrize("op", Operation, ids=lambda op: op.name.lower())
def test_operations_are_what_they_say(implementation, oracle, dtype, op):
    """Each step is rounded once to the arithmetic type, and the result to the dtype: by NumPy and ml_dtypes."""
    n, key, call, offset = 3000, 21, 5, 77
    x, other, bias = numbers_of(dtype, n, 1), numbers_of(dtype, n, 2), numbers_of(dtype, 57, 3)
    how = {"scale": 1 / 0.7, "shift": 0.3, "fill": -1.1}
    chosen = np.empty(n, np.bool_)
    oracle.keep(chosen, 0, n, key, call, 1 << 31, offset)
    if op in WITH_NORMALS:
        chosen = normal_elements(0, n, key, call, offset, None)
    expected = by_formula(op, x, chosen, other=other, bias=np.tile(bias, 53)[:n], **how).astype(dtype)
    y = np.empty_like(x)
    implementation.apply(x, y, 0, n, key, call, 1 << 31, offset=offset, **terms_of(op, other, bias), **how)
    np.testing.assert_array_equal(bits_of(y), bits_of(expected))


# Places in the stream that are not those of a contiguous array.


@st.composite
def placings(draw):
    """Lengths and strides of up to four dimensions, as slices and broadcasts of larger masks have them."""
    ndim = draw(st.integers(1, 4))
    limit = {1: 5000, 2: 80, 3: 18, 4: 8}[ndim]
    lengths = [draw(st.integers(1, limit)) for _ in range(ndim)]
    if draw(st.booleans()):
        lengths[-1] = draw(st.sampled_from([1, 31, 32, 33, 127, 128, 129, 600]))
    steps = st.sampled_from([0, 1, 2, 3, 31, 47, 48, 128, 129, 700, -1, -2, -31, -48, -129])
    strides = [draw(steps) for _ in range(ndim)]
    if draw(st.booleans()):
        strides[-1] = 1
    return tuple(zip(lengths, strides, strict=True))


@given(
    dims=placings(),
    offset=st.sampled_from([0, 5, 2**32 - 100, 2**40 + 3]),
    key=keys,
    threshold=thresholds,
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    given_bits=st.booleans(),
    op=st.sampled_from(BESIDE_DROPOUT),
)
def test_strided_places_in_the_stream(
    implementation, oracle, dims, offset, key, threshold, dtype, bounds, given_bits, op
):
    shape = [length for length, _ in dims]
    n = int(np.prod(shape))
    index = sum(c * stride for c, (_, stride) in zip(np.indices(shape), dims, strict=True)).reshape(-1)
    before = -int(index.min())
    index += before
    span = int(index.max()) + 1
    drawn = np.empty(span, np.bool_)
    oracle.keep(drawn, 0, span, key, 1, threshold, offset)
    keep = drawn[index]
    bits = None
    if given_bits:
        offset = offset % 29
        bits = np.packbits(np.concatenate([np.ones(offset, np.bool_), drawn]), bitorder="little")
    first, offset = offset, offset + before
    start, stop = sorted(int(bound * n) for bound in bounds)
    x = values(dtype, n, 4)
    all_kept = np.empty(n, dtype)
    oracle.apply(x, all_kept, 0, n, 0, 0, 0, 1.25)
    expected = np.full(n, 7, dtype)
    expected[start:stop] = np.where(keep, all_kept, np.zeros((), dtype))[start:stop]
    y = np.full(n, 7, dtype)
    implementation.apply(x, y, start, stop, key, 1, threshold, 1.25, offset, dims, bits)
    np.testing.assert_array_equal(bits_of(y), bits_of(expected))
    written = np.empty(n, np.bool_)
    implementation.keep(written, start, stop, key, 1, threshold, offset, dims, bits)
    np.testing.assert_array_equal(written[start:stop], keep[start:stop])
    chosen = keep
    if op in WITH_NORMALS:
        bits = None
        offset = first + before
        chosen = normal_elements(0, span, key, 1, first, None)[index]
    x, other, bias = numbers_of(dtype, n, 1), numbers_of(dtype, n, 2), numbers_of(dtype, 57, 3)
    how = {"scale": 1.25, "shift": 0.3, "fill": -1.1}
    y = np.full(n, 7, dtype)
    expected = y.copy()
    every = by_formula(op, x, chosen, other=other, bias=np.tile(bias, n // 57 + 1)[:n], **how).astype(dtype)
    expected[start:stop] = every[start:stop]
    how |= {"offset": offset, "dims": dims, "bits": bits}
    implementation.apply(x, y, start, stop, key, 1, threshold, **terms_of(op, other, bias), **how)
    np.testing.assert_array_equal(bits_of(y), bits_of(expected))


@pytest.mark.parametrize("given_bits", [False, True], ids=["drawn", "given"])
def test_decisions_that_are_repeated_any_number_of_times(compiled, oracle, given_bits):
    """Words of repeated bits, for whatever lengths they hold whole runs; any element may be the first or the last."""
    offset = 77 if given_bits else 2**32 - 777
    decisions = np.empty(9000, np.bool_)
    oracle.keep(decisions, 0, 9000, 3, 1, TENTH, offset)
    bits = np.packbits(np.concatenate([np.ones(77, np.bool_), decisions]), bitorder="little") if given_bits else None
    for length in (*range(1, 67), 100, 127, 128, 600, 1023, 1024, 1500):
        runs = min(9000, 30_000 // length)
        n = runs * length
        expected = np.repeat(decisions[:runs], length)
        x = np.arange(1, n + 1, dtype=np.float32)
        for start, stop in (
            (0, n),
            (1, n - 1),
            (length // 2, n),
            (length, n - length),
            (3 * length + 1, 3 * length + 2),
        ):
            how = {"key": 3, "call": 1, "threshold": TENTH, "offset": offset, "dims": ((runs, 1), (length, 0))}
            y = Guarded(n, np.float32, 3)
            compiled.apply(x, y.array, start, stop, **how, bits=bits, scale=2.0)
            np.testing.assert_array_equal(y.array[start:stop], np.where(expected, x * 2, 0)[start:stop])
            assert np.array_equal(y.memory[: y.before + 4 * start], y.original[: y.before + 4 * start])
            assert np.array_equal(y.memory[y.before + 4 * stop :], y.original[y.before + 4 * stop :])
            keep = Guarded(n, np.uint8, 1)
            compiled.keep(keep.array.view(np.bool_), start, stop, **how, bits=bits)
            np.testing.assert_array_equal(keep.array[start:stop], expected[start:stop])
            assert np.array_equal(keep.memory[: keep.before + start], keep.original[: keep.before + start])
            assert np.array_equal(keep.memory[keep.before + stop :], keep.original[keep.before + stop :])


@pytest.mark.parametrize(
    "dims", [((50, 7), (9, 1), (13, 0)), ((40, 300), (30, 0), (33, 1)), ((3, 5000), (40, 0), (7, 3))]
)
def test_shared_decisions_in_an_outer_dimension_too(implementation, oracle, dims):
    """Runs and rows that are repeated, few at a time and again in another place."""
    n = int(np.prod([length for length, _ in dims]))
    index = sum(c * stride for c, (_, stride) in zip(np.indices([m for m, _ in dims]), dims, strict=True)).reshape(-1)
    drawn = np.empty(int(index.max()) + 1, np.bool_)
    oracle.keep(drawn, 0, drawn.size, 3, 1, TENTH, 2**40 + 3)
    bits = np.packbits(drawn, bitorder="little")
    for start, stop in ((0, n), (1, n - 1), (n // 3, min(n, n // 3 + 1500)), (n - 1, n)):
        for given_bits, offset in ((None, 2**40 + 3), (bits, 0)):
            keep = np.empty(n, np.bool_)
            implementation.keep(keep, start, stop, 3, 1, TENTH, offset, dims, given_bits)
            np.testing.assert_array_equal(keep[start:stop], drawn[index][start:stop])
            y = np.empty(n, np.float16)
            implementation.apply(np.ones_like(y), y, start, stop, 3, 1, TENTH, 2.0, offset, dims, given_bits)
            np.testing.assert_array_equal(y[start:stop], drawn[index][start:stop] * 2)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.25, 0.1, 1e-9, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("stride", [48, 100, 128, 1024, 2**33 + 1, -129, 47, 5, -3])
def test_elements_apart_from_each_other(compiled, oracle, rate, stride):
    """Columns, slices with steps and such: each in a block of its own, or a few in one."""
    threshold, n = round(rate * 2**32), 1100
    offset = 2**32 - 50_000 if stride > 0 else 2**32 + 100_000
    expected, keep = np.empty(n, np.bool_), np.empty(n, np.bool_)
    oracle.keep(expected, 0, n, 7, 2, threshold, offset, ((n, stride),))
    for start, stop in ((0, n), (1, 2), (3, 20), (5, 261), (100, 356), (n - 7, n)):
        compiled.keep(keep, start, stop, 7, 2, threshold, offset, ((n, stride),))
        np.testing.assert_array_equal(keep[start:stop], expected[start:stop])


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize(
    ("rows", "row", "stride"),
    [
        (60, 487, 512),
        (300, 16, 4096),
        (500, 1, 40),
        (400, 3, 100),
        (70, 129, 129 + 7),
        (9, 1023, 1100),
        (5, 1500, 9000),
    ],
)
def test_windows_whose_rows_straddle_blocks(compiled, oracle, rate, rows, row, stride):
    """Pieces end within rows, and where the blocks that are drawn together are all in use."""
    threshold, n, dims = round(rate * 2**32), rows * row, ((rows, stride), (row, 1))
    expected, keep = np.empty(n, np.bool_), np.empty(n, np.bool_)
    for offset in (0, 13, 2**32 - 777):
        oracle.keep(expected, 0, n, 7, 2, threshold, offset, dims)
        for start, stop in ((0, n), (1, n - 1), (n // 2, n)):
            compiled.keep(keep, start, stop, 7, 2, threshold, offset, dims)
            np.testing.assert_array_equal(keep[start:stop], expected[start:stop])
        y = Guarded(n, np.float32, 1)
        compiled.apply(np.ones(n, np.float32), y.array, 0, n, 7, 2, threshold, 2.0, offset, dims)
        np.testing.assert_array_equal(y.array, expected * 2.0)
        assert y.is_intact_outside()


@given(dims=placings(), offset=st.integers(0, 30), seed=st.integers(0, 100))
def test_given_bits_are_brought_into_the_order_of_the_array(implementation, dims, offset, seed):
    shape = [length for length, _ in dims]
    n = int(np.prod(shape))
    index = sum(c * stride for c, (_, stride) in zip(np.indices(shape), dims, strict=True)).reshape(-1)
    offset -= int(index.min())
    index += offset
    given_bits = np.random.default_rng(seed).integers(0, 256, int(index.max()) // 8 + 1, np.uint8)
    expected = np.packbits(np.unpackbits(given_bits, bitorder="little")[index], bitorder="little")
    np.testing.assert_array_equal(implementation.order_bits(n, offset, dims, given_bits), expected)


ACROSS = [(64, 64), (128, 200), (3, 130), (65, 7, 66), (2, 5, 70, 9), (1000, 2), (63, 65), (8, 129), (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("lengths", ACROSS, ids=str)
def test_bits_are_transposed_for_every_order_of_axes(implementation, lengths):
    n = int(np.prod(lengths))
    given_bits = np.random.default_rng(n).integers(0, 256, n // 8 + 1, np.uint8)
    bits = np.unpackbits(given_bits, bitorder="little")[:n].reshape(lengths)
    strides = [int(np.prod(lengths[axis + 1 :])) for axis in range(len(lengths))]
    for order in itertools.permutations(range(len(lengths))):
        dims = tuple((lengths[axis], strides[axis]) for axis in order)
        expected = np.packbits(bits.transpose(order), axis=None, bitorder="little")
        np.testing.assert_array_equal(implementation.order_bits(n, 0, dims, given_bits), expected)


@pytest.mark.parametrize("op", Operation, ids=lambda op: op.name.lower())
def test_memory_at_addresses_is_as_good_as_an_array(implementation, oracle, dtype, op):
    n = 6000
    x, other, bias = numbers_of(dtype, n, 1), numbers_of(dtype, n, 2), numbers_of(dtype, 57, 3)
    how = {"scale": 1.25, **({"shift": 0.3, "fill": -1.1} if op == Operation.ALPHA_DROPOUT else {})}
    how |= terms_of(op, other, bias)
    period = {"period": len(bias)} if op == Operation.BIAS_DROPOUT_ADD else {}
    for start, place in ((0, {}), (0, {"offset": 77, "dims": ((60, 100), (100, 1))}), (41, {"offset": 3})):
        y, expected = np.full(n, 7, dtype), np.full(n, 7, dtype)
        oracle.apply(x, expected, start, n, 9, 0, 1 << 30, **how, **place)
        implementation.apply_at(x, y, start, 9, 1 << 30, **how, **place, **period)
        np.testing.assert_array_equal(bits_of(y), bits_of(expected))


def test_addresses_that_cannot_be_right_are_refused(compiled):
    x = np.ones(100, np.float32)
    apply_at, draw, index_map = compiled.real.apply_at, helpers.Draw(1, 0, 1 << 31), helpers.IndexMap()
    at = x.ctypes.data
    float32 = helpers.Dtype.FLOAT32
    for arguments in (
        (99, float32, at, at, 100),
        (0, 7, at, at, 100),
        (0, float32, at + 1, at, 99),
        (0, float32, 0, at, 100),
        (0, float32, at, 0, 100),
        (0, float32, at, at, -1),
        (Operation.DROPOUT_ADD, float32, at, at, 100),
        (Operation.BIAS_DROPOUT_ADD, float32, at, at, 100),
    ):
        with pytest.raises(ValueError, match=r"\("):
            apply_at(*arguments, draw, index_map, 2.0)
    assert (x == 1).all()


def test_one_decision_for_a_long_run(implementation):
    """A row of more elements than there are in the constant string of set bits that its kept rows are applied with."""
    x = np.arange(1, 80_001, dtype=np.float32).reshape(8, 10_000)
    y = np.empty_like(x)
    implementation.apply(x, y, 0, x.size, 3, 0, 1 << 31, 2.0, 0, ((8, 1), (10_000, 0)))
    keep = np.empty(8, np.bool_)
    implementation.keep(keep, 0, 8, 3, 0, 1 << 31)
    assert keep.any()
    assert not keep.all()
    np.testing.assert_array_equal(y, np.where(keep[:, None], x * 2, 0))


@pytest.mark.parametrize("op", [Operation.DROPOUT, *WITH_BITS], ids=lambda op: op.name.lower())
def test_one_decision_for_a_long_run_of_every_operation(compiled, oracle, dtype, op):
    """As for runs of single elements, of which there are as many."""
    n, length, how = 8, 2500, {"key": 3, "call": 0, "threshold": 1 << 31, "scale": 2.0, "shift": 0.3, "fill": -1.1}
    x, other, bias = (numbers_of(dtype, size, seed) for seed, size in enumerate((n * length, n * length, 100)))
    decisions = np.empty(n, np.bool_)
    oracle.keep(decisions, 0, n, 3, 0, 1 << 31)
    assert 0 < np.count_nonzero(decisions) < n
    bits = np.packbits(np.repeat(decisions, length), bitorder="little")
    expected, y = np.empty_like(x), np.empty_like(x)
    oracle.apply(x, expected, 0, x.size, **how, bits=bits, **terms_of(op, other, bias))
    compiled.apply(x, y, 0, x.size, **how, dims=((n, 1), (length, 0)), **terms_of(op, other, bias))
    np.testing.assert_array_equal(bits_of(y), bits_of(expected))


# Rounding, NaN and the other edges of the formats.

SCALES = [1.0, 2.0, 1 / 0.9, 1 / 0.7, 3.0, 10.0, 1024.0, 2.0**31, 1 / (1 - (1 - 2**-32)), 1e9]
TINY_SCALES = [0.3, 2.0**-14]  # no rate asks for them; they drive the results through all of the subnormals


@HALVES
@pytest.mark.parametrize("scale", SCALES + TINY_SCALES)
def test_every_half_precision_number(compiled, oracle, dtype, scale):
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    expected = np.empty_like(x)
    oracle.apply(x, expected, 0, x.size, 0, 0, 0, scale)
    drawn, applied = np.empty_like(x), np.empty_like(x)
    compiled.apply(x, drawn, 0, x.size, 0, 0, 0, scale)
    compiled.apply(x, applied, 0, x.size, 0, 0, 0, scale, 0, None, np.full(8192, 255, np.uint8))
    np.testing.assert_array_equal(bits_of(drawn), bits_of(expected))
    np.testing.assert_array_equal(bits_of(applied), bits_of(expected))


@HALVES
@pytest.mark.parametrize("scale", SCALES + TINY_SCALES)
def test_half_precision_rounds_the_float32_product_once(implementation, dtype, scale):
    """Against the casts of NumPy and ml_dtypes. NaNs, which they may treat otherwise, have a test of their own."""
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    wide = x.astype(np.float32)
    numbers = ~np.isnan(wide)
    with np.errstate(all="ignore"):
        expected = (wide * np.float32(scale)).astype(dtype)
    y = np.empty_like(x)
    implementation.apply(x, y, 0, x.size, 0, 0, 0, scale)
    np.testing.assert_array_equal(bits_of(y)[numbers], bits_of(expected)[numbers])


@pytest.mark.parametrize("bits", [None, np.full(32, 255, np.uint8)], ids=["drawn", "given"])
def test_a_kept_nan_is_quiet_with_its_sign_and_payload(implementation, dtype, bits):
    """IEEE 754's rule for an operation on one NaN: the quiet bit is set, and nothing else changes."""
    unsigned = UNSIGNED[dtype.itemsize]
    fraction = FRACTION_BITS[dtype.name]
    infinity = bits_of(np.array(np.inf, dtype))
    quiet = unsigned(1 << fraction - 1)
    payloads = np.random.default_rng(5).integers(1, 1 << fraction, 128).astype(unsigned)
    payloads[:fraction] = unsigned(1) << np.arange(fraction).astype(unsigned)
    nans = np.concatenate([infinity | payloads, infinity | payloads | unsigned(1 << 8 * dtype.itemsize - 1)])
    y = np.empty(256, dtype)
    implementation.apply(nans.view(dtype), y, 0, 256, 0, 0, 0, 1 / 0.9, 0, None, bits)
    np.testing.assert_array_equal(bits_of(y), nans | quiet)


@pytest.mark.parametrize("given_bits", [False, True], ids=["drawn", "given"])
def test_dropped_elements_are_plus_zero_whatever_they_held(implementation, dtype, given_bits):
    x = np.tile(special_values(dtype), 100)
    bits = np.zeros((x.size + 7) // 8, np.uint8) if given_bits else None
    y = np.ones_like(x)
    implementation.apply(x, y, 0, x.size, 0, 0, 1 << 32, 0.0 if not given_bits else 2.0, 0, None, bits)
    assert not bits_of(y).any()


def in_float64(x):
    with np.errstate(invalid="ignore"):  # a cast of a signalling NaN is one
        return x.astype(np.float64)


def test_a_relu_lets_nan_through_and_makes_zero_of_what_is_not_positive(implementation, dtype):
    x = special_values(dtype)
    y, plain = np.empty_like(x), np.empty_like(x)
    implementation.apply(x, plain, 0, x.size, 0, 0, 0, 1.25)
    implementation.apply(x, y, 0, x.size, 0, 0, 0, 1.25, op=Operation.RELU_DROPOUT)
    np.testing.assert_array_equal(bits_of(y), np.where(in_float64(x) <= 0, 0, bits_of(plain)))


def test_the_gradient_of_a_relu_passes_where_its_result_is_not_zero(implementation, dtype):
    """A NaN and the least subnormal are not."""
    other = special_values(dtype)
    x = np.tile(np.array(3, dtype), other.size)
    y = np.empty_like(x)
    implementation.apply(x, y, 0, x.size, 0, 0, 0, 2.0, op=Operation.RELU_BACKWARD, other=other)
    np.testing.assert_array_equal(bits_of(y), bits_of(np.where(in_float64(other) == 0, 0, 6).astype(dtype)))


@pytest.mark.parametrize("threshold", [0, 1 << 32], ids=["kept", "dropped"])
def test_zoneout_moves_elements_as_they_are(implementation, dtype, threshold):
    """Signalling NaNs too."""
    new = special_values(dtype)
    old = new[::-1].copy()
    y = np.empty_like(new)
    implementation.apply(new, y, 0, new.size, 0, 0, threshold, 3.0, op=Operation.ZONEOUT, other=old)
    np.testing.assert_array_equal(bits_of(y), bits_of(new if threshold == 0 else old))


def test_what_alpha_dropout_drops_it_fills(implementation, dtype):
    x = np.tile(special_values(dtype), 100)
    y = np.empty_like(x)
    implementation.apply(x, y, 0, x.size, 0, 0, 1 << 32, 2.0, op=Operation.ALPHA_DROPOUT, shift=0.1, fill=1 / 3)
    arithmetic = np.float64 if dtype == np.float64 else np.float32
    np.testing.assert_array_equal(bits_of(y), bits_of(np.full(x.size, arithmetic(1 / 3)).astype(dtype)))


@HALVES
@pytest.mark.parametrize("op", BESIDE_DROPOUT, ids=lambda op: op.name.lower())
def test_every_half_precision_number_in_every_operation(compiled, oracle, dtype, op):
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    rng = np.random.default_rng(9)
    other, bias = (rng.uniform(-2, 2, n).astype(dtype) for n in (x.size, 100))
    terms = terms_of(op, other, bias)
    for threshold in (0, 1 << 30):
        expected, y = np.empty_like(x), np.empty_like(x)
        for kernels, out in ((oracle, expected), (compiled, y)):
            kernels.apply(x, out, 0, x.size, 6, 0, threshold, 1 / 0.7, shift=0.3, fill=-1.1, **terms)
        np.testing.assert_array_equal(bits_of(y), bits_of(expected))


MANY_TILES = 40 * TILE + 77


@pytest.mark.parametrize("past_caches", [False, True], ids=["cached", "past-caches"])
@pytest.mark.parametrize("op", Operation, ids=lambda op: op.name.lower())
def test_tails_of_many_tiles_meet_the_reference(compiled, oracle, dtype, op, past_caches):
    """Enough of them for several batches, of which all but the last are full and are settled behind the elements."""
    work = {"op": op, "period": 33, "shifts": (0, 3, 1, 0), "out": "new", "wild": "x", "seed": 5}
    work |= {"numbers": {"scale": 1.25, "shift": 0.3, "fill": -1.1}, "past_caches": past_caches}
    for start, threshold in ((0, TENTH), (77, TENTH), (2**34 - 1000, round(0.7 * 2**32) | 1)):
        how = {"key": 3, "call": 1, "threshold": threshold, "offset": start}
        assert_meets(oracle, compiled, dtype, work, 0, MANY_TILES, **how)


def test_masks_of_many_tiles_meet_the_reference(compiled, oracle):
    for start, threshold in itertools.product((0, 77, 2**34 - 1000), (TENTH, 3 << 20, (1 << 32) - 12345)):
        expected, keep = np.empty(MANY_TILES, np.bool_), np.empty(MANY_TILES, np.bool_)
        oracle.keep(expected, 0, MANY_TILES, 3, 1, threshold, start)
        compiled.keep(keep, 0, MANY_TILES, 3, 1, threshold, start)
        np.testing.assert_array_equal(keep, expected)
        bits = compiled.keep_bits(MANY_TILES, 3, 1, threshold, start)
        np.testing.assert_array_equal(bits, np.packbits(expected, bitorder="little"))


def test_a_long_draw_is_its_tiles_beside_each_other(compiled):
    """By so many calls that in some of them a batch of tails ends with the last group of a tile."""
    start, tiles = 5, MANY_TILES // TILE
    y = Guarded(tiles * TILE, np.float32, 3)
    x = np.ones(tiles * TILE, np.float32)
    for call in range(400):
        compiled.apply(x, y.array, 0, tiles * TILE, 3, call, TENTH, 1.0, start)
        bits = [compiled.keep_bits(TILE, 3, call, TENTH, start + tile * TILE) for tile in range(tiles)]
        keep = np.unpackbits(np.concatenate(bits), bitorder="little")
        np.testing.assert_array_equal(y.array, keep.astype(np.float32))


@pytest.mark.parametrize(("threshold", "kept"), [(0, 10**5), (1, 10**5), (2**32 - 1, 0), (2**32, 0)])
def test_thresholds_at_the_ends_keep_all_or_nothing(implementation, threshold, kept):
    """At 0 nothing is below and at 2**32 everything is. One short of either, 2**-32 of the elements are not."""
    assert np.bitwise_count(implementation.keep_bits(10**5, 1, 1, threshold)).sum() == kept


# Tiles in which so many elements share the upper byte of the threshold that their tails take several rounds of every
# vector width. There are 8 in the mean; these were found by a search through the tiles of keys 1 and 2.
CROWDED_TILES = [
    pytest.param(1, 0, 68, 17, id="17"),
    pytest.param(1, 10880, 164, 25, id="25"),
    pytest.param(2, 390812736, 240, 33, id="33"),
]


@pytest.mark.parametrize(("key", "block", "byte", "undecided"), CROWDED_TILES)
def test_tiles_with_many_undecided_elements(compiled, oracle, key, block, byte, undecided):
    start = block * 128
    below, above = (compiled.keep_bits(TILE, key, 0, edge << 24, start) for edge in (byte, byte + 1))
    assert np.bitwise_count(below ^ above).sum() == undecided  # the case is what it is meant to be
    for low in (1, 2**22 + 12345, 2**23, 2**24 - 1):
        threshold = (byte << 24) + low
        expected = oracle.keep_bits(TILE, key, 0, threshold, start)
        np.testing.assert_array_equal(compiled.keep_bits(TILE, key, 0, threshold, start), expected)
        keep = np.empty(3 * TILE, np.bool_)
        before = min(start, TILE)
        compiled.keep(keep, 0, 3 * TILE, key, 0, threshold, start - before)
        np.testing.assert_array_equal(np.packbits(keep[before : before + TILE], bitorder="little"), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are made inaccessible with Linux's mprotect")
def test_nothing_past_the_ends_is_read(compiled):
    """Arrays and bits end where the next page cannot be read, and begin where the one before cannot: a process
    of its own would die of the first byte too far."""
    program = f"""
        import ctypes, mmap, sys
        import ml_dtypes, numpy as np
        sys.path.insert(0, {str(TESTS)!r})
        import helpers
        from helpers import Operation
        kernels = helpers.find({compiled.name!r})
        page = mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        holders = []

        def room():
            memory = mmap.mmap(-1, 8 * page)
            holders.append(memory)
            view = np.frombuffer(memory, np.uint8)
            for at in (0, 7 * page):
                assert libc.mprotect(ctypes.c_void_p(view.ctypes.data + at), page, 0) == 0
            return view[page : 7 * page]

        rooms = [room() for _ in range(5)]
        for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
            item = np.dtype(dtype).itemsize
            for n in [*range(1, 70), 127, 128, 129, 255, 256, 257, 511, 513, 1023, 1025, 2047, 2048, 2049, 3000]:
                for first in (0, 3, 8):
                    for end in (False, True):
                        part = slice(-n * item, None) if end else slice(n * item)
                        x, y = (r[part].view(dtype) for r in rooms[:2])
                        size = (first + n + 7) // 8
                        bits = rooms[2][-size:] if end else rooms[2][:size]
                        bits[:] = 0x5A
                        kernels.apply(x, y, 0, n, 1, 2, 0x19999999, 1.1, first)
                        kernels.apply(x, y, 0, n, 1, 2, 3, 1.1, first, None, bits)
                        keep = (rooms[1][-n:] if end else rooms[1][:n]).view(np.bool_)
                        kernels.keep(keep, 0, n, 1, 2, 0x19999999, first)
                        kernels.keep(keep, 0, n, 1, 2, 0, first, ((n, 1),), bits)
                        for row in (1, 3, 64, 70):
                            k = n // row * row
                            if k > 0:
                                dims = ((n // row, row), (row, 1))
                                kernels.apply(x[:k], y[:k], 0, k, 1, 2, 3, 1.1, first + n - k, dims, bits)
                                kernels.apply(x[:k], y[:k], 0, k, 1, 2, 3, 1.1, first + n - 1, ((k, -1),), bits)
                        other = rooms[3][part].view(dtype)
                        period = max(n, 32)
                        bias = rooms[4][slice(-period * item, None) if end else slice(period * item)].view(dtype)
                        for op in Operation:
                            terms = dict(op=op, other=other, bias=bias)
                            kernels.apply(x, y, 0, n, 1, 2, 0x19999999, 1.1, first, **terms)
                            if op not in (Operation.GAUSSIAN_DROPOUT, Operation.GAUSSIAN_NOISE):
                                kernels.apply(x, y, 0, n, 1, 2, 3, 1.1, first, None, bits, **terms)
        print("done")
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
