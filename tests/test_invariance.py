# SPDX-License-Identifier: BSD-3-Clause
"""A mask depends on key, call, element and rate alone: not on threads, chunks, dtype, or what is asked of it.

So do normal numbers, and what is done with either.
"""

import helpers
import numpy as np
import pytest
from helpers import Operation, alpha_numbers
from hypothesis import given
from hypothesis import strategies as st

import fastdrop

KEY, CALL = 0x123456789ABCDEF0, 3
CHUNK = 1 << 14
UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def mask_of(shape, rate=0.3, **more):
    return fastdrop.DropoutMask(shape, rate, key=KEY, call=CALL, **more)


def bits_of(x):
    return np.ascontiguousarray(x).view(UNSIGNED[x.itemsize])


@pytest.fixture
def oracle_keep(oracle):
    def keep(n, rate=0.3, start=0):
        out = np.empty(n, np.bool_)
        oracle.keep(out, 0, n, KEY, CALL, round(rate * 2**32), start)
        return out

    return keep


def gaussian_mask_of(shape, stddev=0.5, additive=False):
    return fastdrop.GaussianMask(shape, stddev, key=KEY, call=CALL, additive=additive)


@pytest.fixture
def oracle_normals(oracle):
    def draw(n, start=0):
        out = np.empty(n, np.float32)
        zeros = np.full(n, -0.0, np.float32)  # to which anything can be added without a change
        oracle.apply(zeros, out, 0, n, KEY, CALL, 0, 1.0, start, op=Operation.GAUSSIAN_NOISE)
        return out

    return draw


@pytest.fixture
def chunks(monkeypatch):
    """The parts that large work was cut into, as it goes on."""
    return helpers.watch_sharing(monkeypatch)[1]


# Threads


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK + 77])
def test_any_number_of_threads_gives_the_same_bits(implementation, oracle_keep, chunks, monkeypatch, threads, n):
    helpers.share_from(monkeypatch, size=2 * CHUNK, chunk=CHUNK // 4)
    x = np.arange(1, n + 1, dtype=np.float32)
    keep = oracle_keep(n)
    mask = mask_of(n)
    with fastdrop.num_threads(threads):
        y = mask.apply(x)
        in_place = x.copy()
        mask.apply(in_place, out=in_place)
        drawn = np.asarray(mask)
    expected = np.where(keep, x * np.float32(mask.scale), np.float32(0))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(in_place, expected)
    np.testing.assert_array_equal(drawn, keep)
    assert (len(chunks) > 3) == (
        implementation.shares and threads > 1 and n >= 2 * CHUNK
    )  # else there were no threads to differ


LAYOUTS = {
    "transposed": lambda a: a.reshape(-1, 400).T,
    "reversed": lambda a: a[::-1],
    "every-second": lambda a: a[: 2 * (len(a) // 2)].reshape(-1, 2)[:, 0],
    "unaligned": lambda a: a.view(np.uint8)[3 : 3 + 4 * (len(a) - 1)].view(np.float32),
    "swapped": lambda a: a.view(np.dtype(np.float32).newbyteorder()),
}


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_arrays_of_any_layout(implementation, oracle_keep, chunks, monkeypatch, threads, layout):
    """More than once, because what one thread does to another's part shows only when they meet."""
    helpers.share_from(monkeypatch, size=2 * CHUNK, chunk=CHUNK // 4)
    x = LAYOUTS[layout](np.full(501 * 400, 1.0, np.float32))
    x[...] = 3
    mask = mask_of(x.shape, 0.5)
    expected = np.where(oracle_keep(x.size, 0.5).reshape(x.shape), np.float32(6), np.float32(0))
    with fastdrop.num_threads(threads):
        for _ in range(3):
            out = LAYOUTS[layout](np.full(501 * 400, 7, np.float32))
            mask.apply(x, out=out)
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(x, 3)
        mask.apply(x, out=x)
        np.testing.assert_array_equal(x, expected)
    assert (len(chunks) > 4) == (implementation.shares and threads > 1)


# What they read, and how they are called.
FUNCTIONS = [
    ("other", lambda x, other, **how: fastdrop.dropout_add(x, other, 0.3, **how)),
    ("other", lambda x, other, **how: fastdrop.bias_dropout_add(x, np.arange(x.shape[-1], dtype="f4"), other, **how)),
    ("other", lambda x, other, **how: fastdrop.zoneout(x, other, 0.3, **how)),
    ("x", lambda x, other, **how: fastdrop.relu_dropout(x, 0.3, **how)),
    ("x", lambda x, other, **how: fastdrop.alpha_dropout(x, 0.3, **how)),
    ("x", lambda x, other, **how: fastdrop.gaussian_dropout(x, 0.3, **how)),
    ("x", lambda x, other, **how: fastdrop.gaussian_noise(x, 0.3, **how)),
]


def results_of_functions(layout):
    """All arrays after each function, with memory of its own for the result, and in place of the last that it reads."""
    results = []
    rng = fastdrop.PhiloxStream.from_key(KEY, CALL)
    for last, function in FUNCTIONS:
        for place in ("new", last):
            arrays = {name: layout(np.full(501 * 400, 7, np.float32)) for name in ("x", "other", "new")}
            arrays["x"][...] = np.linspace(-1, 1, arrays["x"].size, dtype=np.float32).reshape(arrays["x"].shape)
            arrays["other"][...] = arrays["x"] * 2
            function(arrays["x"], arrays["other"], rng=rng, out=arrays[place])
            results += arrays.values()
    return results


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("layout", ["contiguous", *LAYOUTS])
def test_threads_share_every_function(implementation, chunks, monkeypatch, threads, layout):
    """They work on what is theirs, and its place in the bias, in the stream and in the other array goes with it."""
    make = LAYOUTS.get(layout, lambda a: a.reshape(-1, 400))
    with fastdrop.num_threads(1):
        alone = results_of_functions(make)
    assert not chunks
    helpers.share_from(monkeypatch, size=2 * CHUNK, chunk=CHUNK // 4)
    with fastdrop.num_threads(threads):
        shared = results_of_functions(make)
    assert (len(chunks) > 2 * len(FUNCTIONS) * 4) == implementation.shares
    for one, many in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, many)


@given(data=st.data())
def test_threads_and_chunks_of_any_size(implementation, oracle_keep, data):
    """Boundaries of the chunks anywhere, not only between tiles, and stores of either kind."""
    n = data.draw(st.integers(1, 20_000))
    rate = data.draw(st.sampled_from([0.1, 0.5, 0.75]))
    mask = mask_of(n, rate)
    x = np.arange(1, n + 1, dtype=np.float64)
    keep = oracle_keep(n, rate)
    with pytest.MonkeyPatch.context() as patch, fastdrop.num_threads(data.draw(st.sampled_from([2, 3, 7]))):
        helpers.share_from(patch, size=0, chunk=data.draw(st.sampled_from([100, 1000, 2047, 2048, 4096])))
        helpers.store_past_caches(patch, always=data.draw(st.booleans()))
        np.testing.assert_array_equal(mask.apply(x), np.where(keep, x * mask.scale, 0))
        np.testing.assert_array_equal(np.asarray(mask), keep)
        noise = gaussian_mask_of(n, 0.5).apply(x)
    np.testing.assert_array_equal(noise, gaussian_mask_of(n, 0.5).apply(x))


# Chunks


@st.composite
def blocks(draw, most=4):
    """A shape, and a slice or an int for each dimension."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=most).filter(lambda s: np.prod(s) < 40_000)))
    index = []
    for n in shape:
        if draw(st.integers(0, 4)) == 0:
            index.append(draw(st.integers(-n, n - 1)))
        else:
            first, last = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
            index.append(slice(first, last))
    return shape, tuple(index)


@given(
    block=blocks(), rate=st.sampled_from([0.1, 0.25, 0.5, 0.9]), noise=st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_a_block_of_the_mask_is_the_mask_of_the_block(implementation, oracle_keep, block, rate, noise):
    shape, index = block
    noise_shape = tuple(1 if shared else n for n, shared in zip(shape, noise, strict=False))
    mask = mask_of(shape, rate, noise_shape=noise_shape)
    keep = np.broadcast_to(oracle_keep(int(np.prod(noise_shape)), rate).reshape(noise_shape), shape)
    x = np.arange(1, keep.size + 1, dtype=np.float32).reshape(shape)
    whole = np.where(keep, x * np.float32(mask.scale), np.float32(0))
    np.testing.assert_array_equal(mask.apply(x), whole)
    part = mask[index]
    np.testing.assert_array_equal(part.apply(x[index]), whole[index])
    np.testing.assert_array_equal(np.asarray(part), keep[index])
    np.testing.assert_array_equal(part.packbits(), np.packbits(keep[index], axis=None, bitorder="little"))


@given(
    block=blocks(), rate=st.sampled_from([0.1, 0.25, 0.5, 0.9]), noise=st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_a_block_of_an_alpha_mask_is_the_alpha_mask_of_the_block(implementation, oracle_keep, block, rate, noise):
    shape, index = block
    noise_shape = tuple(1 if shared else n for n, shared in zip(shape, noise, strict=False))
    mask = fastdrop.AlphaMask(shape, rate, key=KEY, call=CALL, noise_shape=noise_shape)
    keep = np.broadcast_to(oracle_keep(int(np.prod(noise_shape)), rate).reshape(noise_shape), shape)
    x = np.arange(1, keep.size + 1, dtype=np.float32).reshape(shape)
    whole = mask.apply(x)
    scale, shift, fill = (np.float32(number) for number in alpha_numbers(rate))
    np.testing.assert_array_equal(whole, np.where(keep, x * scale + shift, fill))
    gradient = np.where(keep, x * scale, np.float32(0))
    part = mask[index]
    assert type(part) is fastdrop.AlphaMask
    np.testing.assert_array_equal(part.apply(x[index]), whole[index])
    np.testing.assert_array_equal(part.backward(x[index]), gradient[index])
    np.testing.assert_array_equal(np.asarray(part), keep[index])


@given(block=blocks(), additive=st.booleans(), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_a_block_of_a_gaussian_mask_is_the_gaussian_mask_of_the_block(
    implementation, oracle_normals, block, additive, dtype
):
    shape, index = block
    mask = gaussian_mask_of(shape, 0.5, additive)
    noise = np.float32(0.5) * oracle_normals(int(np.prod(shape))).reshape(shape)
    factors = noise if additive else 1 + noise
    np.testing.assert_array_equal(np.asarray(mask), factors)
    x = np.linspace(-2, 2, noise.size).astype(dtype).reshape(shape)
    whole = mask.apply(x)
    part = mask[index]
    assert type(part) is fastdrop.GaussianMask
    np.testing.assert_array_equal(bits_of(part.apply(x[index])), bits_of(whole[index]))
    np.testing.assert_array_equal(np.asarray(part), factors[index])
    gradient = x if additive else whole
    np.testing.assert_array_equal(bits_of(part.backward(x[index])), bits_of(gradient[index]))


@given(cuts=st.lists(st.integers(0, 3000), max_size=12).map(sorted), additive=st.booleans())
def test_chunks_of_any_start_and_length_have_the_normals_of_the_whole(implementation, oracle_normals, cuts, additive):
    n = 3000
    mask = gaussian_mask_of(n, 2.0, additive)
    x = np.linspace(-3, 3, n, dtype=np.float32)
    noise = 2 * oracle_normals(n)
    out = np.empty_like(x)
    for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
        mask[start:stop].apply(x[start:stop], out=out[start:stop])
    np.testing.assert_array_equal(out, x + noise if additive else x * (1 + noise))


@pytest.mark.parametrize("start", [2**32 - 700, 2**34 - 700, 2**38 - 700, 2**40 + 33, 2**62 - 3000])
def test_parts_of_huge_gaussian_masks(implementation, oracle_normals, start):
    """Rows of any place, and a column, whose elements do not follow each other."""
    mask = gaussian_mask_of((2**61, 2), 1.0, additive=True)
    first = start // 2
    normals = oracle_normals(2000, 2 * first).reshape(1000, 2)
    np.testing.assert_array_equal(np.asarray(mask[first : first + 1000]), normals)
    np.testing.assert_array_equal(np.asarray(mask[first : first + 1000, 1]), normals[:, 1])


def test_tails_of_a_group_that_lies_in_the_last_two_tiles(compiled):
    """Drawn before the last tile, they are to be cleared after the group is applied: once in thousands of calls."""
    mask, whole = fastdrop.DropoutMask(4_000_000, 0.1, key=11), slice(1014504, 1014504 + 17857)
    with helpers.using("reference"):
        expected = mask[whole].apply(np.ones(17857, np.float32))
    memory = np.empty(17857 + 32, np.float32)
    aligned = -(memory.ctypes.data // 4) % 16
    for first in range(aligned, aligned + 16):
        y = memory[first : first + 17857]
        np.testing.assert_array_equal(mask[whole].apply(np.ones(17857, np.float32), out=y), expected)


@pytest.mark.parametrize("rate", [0.1, 1 / 3])
def test_thousands_of_long_parts_are_those_of_the_whole(compiled, rate, dtypes):
    """What goes wrong once in a thousand draws is seen by thousands only: of every length, start and alignment."""
    mask = fastdrop.DropoutMask(1 << 20, rate, key=5)
    with helpers.using("reference"):
        keep = np.asarray(mask)
    numbers = np.random.default_rng(1)
    x = {dtype: np.ones(40_064, dtype) for dtype in dtypes}
    y = {dtype: np.empty_like(x[dtype]) for dtype in dtypes}
    wrong = []
    for i in range(4000):
        n, first = int(numbers.integers(1, 40_000)), int(numbers.integers(0, 33))
        start = int(numbers.integers(0, mask.size - n))
        part, dtype = mask[start : start + n], dtypes[i % len(dtypes)]
        out = y[dtype][first : first + n]
        part.apply(x[dtype][:n], out=out)
        if not np.array_equal(out != 0, keep[start : start + n]):
            wrong.append((start, n, first, str(dtype)))
        if not np.array_equal(part, keep[start : start + n]):
            wrong.append((start, n, "booleans"))
    assert wrong == []


@given(block=blocks(), rate=st.sampled_from([0.1, 0.5]), data=st.data())
def test_blocks_of_blocks(implementation, oracle_keep, block, rate, data):
    """Slicing twice, by an Ellipsis and by ints from the end, is slicing."""
    shape, index = block
    mask = mask_of(shape, rate)
    keep = oracle_keep(int(np.prod(shape)), rate).reshape(shape)
    part, kept = mask[index], keep[index]
    if part.ndim > 0:
        n = part.shape[-1]
        first, last = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        part, kept = part[..., first:last], kept[..., first:last]
        if part.shape[0] > 0:
            part, kept = part[-1], kept[-1]
    np.testing.assert_array_equal(np.asarray(part), kept)
    x = np.ones(kept.shape, np.float32)
    np.testing.assert_array_equal(part.apply(x) != 0, kept)


@given(rows=st.integers(1, 60), columns=st.integers(1, 400), down=st.integers(1, 60), across=st.integers(1, 400))
def test_tiling_an_array_with_blocks_rebuilds_it(implementation, oracle_keep, rows, columns, down, across):
    mask = mask_of((rows, columns), 0.1)
    x = np.arange(1, rows * columns + 1, dtype=np.float32).reshape(rows, columns)
    out = np.full_like(x, np.nan)
    down, across = max(down, rows // 8), max(across, columns // 8)
    for top in range(0, rows, down):
        for left in range(0, columns, across):
            at = np.s_[top : min(top + down, rows), left : min(left + across, columns)]
            mask[at].apply(x[at], out=out[at])
    keep = oracle_keep(rows * columns, 0.1).reshape(rows, columns)
    np.testing.assert_array_equal(out, np.where(keep, x * np.float32(mask.scale), np.float32(0)))


# Dtypes and ways to ask


@pytest.mark.parametrize("shape", [(1,), (33,), (3, 5, 7), (70, 90), (5000,)])
def test_one_mask_for_every_dtype_and_every_way_to_ask(implementation, oracle_keep, dtypes, shape):
    mask = mask_of(shape)
    keep = oracle_keep(int(np.prod(shape))).reshape(shape)
    np.testing.assert_array_equal(np.asarray(mask), keep)
    np.testing.assert_array_equal(mask.packbits(), np.packbits(keep, axis=None, bitorder="little"))
    for dtype in dtypes:
        x = np.ones(shape, dtype)
        y, drawn = fastdrop.dropout(x, 0.3, rng=fastdrop.PhiloxStream.from_key(KEY, CALL), return_mask=True)
        assert drawn == mask
        np.testing.assert_array_equal(y != 0, keep)
        np.testing.assert_array_equal(bits_of(mask.apply(x)), bits_of(y))
        replayed = fastdrop.DropoutMask.from_array(keep, 0.3)
        np.testing.assert_array_equal(bits_of(replayed.apply(x)), bits_of(y))
        in_place = x.copy()
        assert mask.apply(in_place, out=in_place) is in_place
        np.testing.assert_array_equal(bits_of(in_place), bits_of(y))
        out = np.full(shape, 9, dtype)
        assert mask.apply(x, out=out) is out
        np.testing.assert_array_equal(bits_of(out), bits_of(y))
        np.testing.assert_array_equal(x, np.ones(shape, dtype))


@pytest.mark.parametrize("shape", [(1,), (33,), (3, 5, 7), (5000,)])
def test_the_same_normals_for_every_dtype(implementation, oracle_normals, dtypes, shape):
    """They are numbers of float32, which are rounded where the dtype is narrower: once, with what is done with them."""
    normals = oracle_normals(int(np.prod(shape))).reshape(shape)
    x = np.linspace(-2, 2, normals.size).reshape(shape)
    for dtype in dtypes:
        number = np.float64 if dtype == np.float64 else np.float32
        zeros = np.full(shape, -0.0, dtype)
        added = gaussian_mask_of(shape, 1.0, additive=True).apply(zeros)
        np.testing.assert_array_equal(bits_of(added), bits_of(normals.astype(dtype)))
        y = x.astype(dtype)
        multiplied = y.astype(number) * (1 + number(0.3) * normals.astype(number))
        np.testing.assert_array_equal(bits_of(gaussian_mask_of(shape, 0.3).apply(y)), bits_of(multiplied.astype(dtype)))


def test_reshaping_keeps_the_mask_because_elements_count_in_c_order(implementation):
    masks = [np.asarray(mask_of(shape)).reshape(-1) for shape in [(5040,), (5040, 1), (7, 720), (2, 3, 4, 5, 6, 7)]]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    normals = [np.asarray(gaussian_mask_of(shape)).reshape(-1) for shape in [(5040,), (7, 720), (2, 3, 4, 5, 6, 7)]]
    for factors in normals[1:]:
        np.testing.assert_array_equal(factors, normals[0])


@pytest.mark.parametrize(
    ("shape", "noise_shape"),
    [
        ((64, 50), (64, 1)),
        ((64, 50), (1, 50)),
        ((64, 50), (1, 1)),
        ((8, 12, 300), (8, None, 1)),
        ((8, 12, 300), (None, 1, None)),
        ((4, 1, 5, 6, 70), (4, 1, 1, 6, 1)),
        ((3, 70_000), (3, 1)),
        ((600, 700), (1, 700)),
    ],
)
def test_noise_shape_draws_the_small_mask_and_broadcasts_it(implementation, oracle_keep, dtype, shape, noise_shape):
    drawn = tuple(own if n is None else n for n, own in zip(noise_shape, shape, strict=True))
    keep = np.broadcast_to(oracle_keep(int(np.prod(drawn)), 0.5).reshape(drawn), shape)
    x = np.ones(shape, dtype)
    rng = fastdrop.PhiloxStream.from_key(KEY, CALL)
    y, mask = fastdrop.dropout(x, 0.5, rng=rng, noise_shape=noise_shape, return_mask=True)
    np.testing.assert_array_equal(y.astype(np.float32), np.where(keep, 2, 0))
    np.testing.assert_array_equal(bits_of(mask.apply(x)), bits_of(y))
    np.testing.assert_array_equal(np.asarray(mask), keep)
    np.testing.assert_array_equal(mask.packbits(), np.packbits(keep, axis=None, bitorder="little"))


# Rates


@given(
    rates=st.lists(st.floats(0, 1) | st.sampled_from([0.3, 0.5, 2**-32, 1 - 2**-32]), min_size=2, max_size=5).map(
        sorted
    ),
    key=st.integers(0, 2**64 - 1),
    n=st.integers(1, 5000),
)
def test_what_survives_a_rate_survives_any_lower_one(implementation, rates, key, n):
    lower = np.ones(n, np.bool_)
    for rate in rates:
        keep = np.asarray(fastdrop.DropoutMask(n, rate, key=key))
        assert not (keep & ~lower).any()
        lower = keep


def test_nested_masks_differ_by_what_the_rates_differ_by(implementation):
    """Nesting is no accident of equal masks: kept at 0.3 and dropped at 0.5 is a fifth of the elements."""
    keep3, keep5 = (np.asarray(mask_of(100_000, rate)) for rate in (0.3, 0.5))
    assert not (keep5 & ~keep3).any()
    between = np.count_nonzero(keep3 & ~keep5)
    sigma = (100_000 * 0.2 * 0.8) ** 0.5
    assert abs(between - 20_000) < 4 * sigma
