# SPDX-License-Identifier: BSD-3-Clause
"""Memory layout is no argument of a mask: any x and any out give the bits of a contiguous copy, and nothing else moves.

Arrays here are larger than the 8192 elements that NumPy's iterator buffers, and no length is a multiple of a lane.
"""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from helpers import MIN_SHARED, Operation, alpha_numbers

import fastdrop

KEY, CALL = 0xFEEDFACE12345678, 7
ROWS, COLUMNS = 67, 190
RATE = 0.3
UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def plain(x):
    """A copy as the kernels take it: C-contiguous, aligned, native."""
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C", subok=False)


def same_bits(x, y):
    assert x.dtype == y.dtype
    assert x.shape == y.shape
    x, y = plain(x), plain(y)
    np.testing.assert_array_equal(x.view(UNSIGNED[x.itemsize]), y.view(UNSIGNED[y.itemsize]))


def random_bits(shape, dtype, seed=0):
    """Numbers of all sizes, NaNs and infinities among them."""
    dtype = np.dtype(dtype)
    n = int(np.prod(shape))
    return np.random.default_rng(seed).integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype).reshape(shape)


@pytest.fixture
def dropped(oracle):
    """What dropout must give for x, computed by the oracle on a contiguous copy."""

    def compute(x, rate=RATE, key=KEY, call=CALL):
        x = plain(np.asarray(x))
        y = np.empty_like(x)
        oracle.apply(x, y, 0, x.size, key, call, round(rate * 2**32), 1 / (1 - rate))
        return y

    return compute


def stream():
    return fastdrop.PhiloxStream.from_key(KEY, CALL)


def mask_of(x):
    return fastdrop.DropoutMask(np.shape(x), RATE, key=KEY, call=CALL)


def unaligned(dtype):
    return np.empty(ROWS * COLUMNS * np.dtype(dtype).itemsize + 1, np.uint8)[1:].view(dtype).reshape(ROWS, COLUMNS)


def memory_of(array):
    """The bytes of all that an array is a view of."""
    owner = array if array.base is None else array.base
    return owner.reshape(-1, order="A").view(np.uint8)


def fill(array, values):
    """``array[...] = values`` in the array's byte order, as integers, so that no cast touches a NaN."""
    unsigned = np.dtype(UNSIGNED[array.itemsize])
    array.view(unsigned if array.dtype.isnative else unsigned.newbyteorder())[...] = plain(values).view(unsigned)


# From a dtype to an array, or to a view of a larger one, of that layout.
LAYOUTS = {
    "C": lambda dtype: np.empty((ROWS, COLUMNS), dtype),
    "F": lambda dtype: np.empty((ROWS, COLUMNS), dtype, order="F"),
    "transposed": lambda dtype: np.empty((5, ROWS, 38), dtype).transpose(1, 2, 0),
    "strided": lambda dtype: np.empty((ROWS, 2 * COLUMNS), dtype)[:, ::2],
    "rows-apart": lambda dtype: np.empty((3 * ROWS, COLUMNS + 9), dtype)[1::3, 4:-5],
    "reversed": lambda dtype: np.empty((ROWS, COLUMNS), dtype)[::-1, ::-1],
    "columns-reversed": lambda dtype: np.empty((ROWS, COLUMNS), dtype)[:, ::-1],
    "unaligned": unaligned,
    "in-records": lambda dtype: np.empty((ROWS, COLUMNS), [("pad", "u1"), ("value", dtype)])["value"],
    "one-column": lambda dtype: np.empty((20_000, 3), dtype)[:, 1:2],
    "6-d": lambda dtype: np.empty((3, 5, 2, 7, 11, 9), dtype)[:, ::-1].transpose(5, 0, 2, 1, 4, 3),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def orders(dtype):
    """A dtype in either byte order."""
    return dtype, dtype.newbyteorder()


def test_any_layout_of_x_gives_the_bits_of_a_contiguous_copy(either, dropped, layout, dtype):
    for ordered_dtype in orders(dtype):
        x = layout(ordered_dtype)
        fill(x, random_bits(x.shape, ordered_dtype.newbyteorder("=")))
        before = memory_of(x).tobytes()
        expected = dropped(x)
        same_bits(fastdrop.dropout(x, RATE, rng=stream()), expected)
        same_bits(mask_of(x).apply(x), expected)
        assert memory_of(x).tobytes() == before


def test_any_layout_of_out_is_filled_and_nothing_beside_it(either, dropped, layout, dtype):
    for ordered_dtype in orders(dtype):
        out = layout(ordered_dtype)
        memory = memory_of(out)
        memory[:] = np.arange(memory.size) * 37 + 11
        before = memory.copy()
        x = random_bits(out.shape, ordered_dtype.newbyteorder("="))
        fill(out, dropped(x))
        expected = memory.tobytes()
        memory[:] = before
        assert fastdrop.dropout(x, RATE, rng=stream(), out=out) is out
        assert memory.tobytes() == expected
        memory[:] = before
        assert mask_of(x).apply(x, out=out) is out
        assert memory.tobytes() == expected


def test_in_place_in_any_layout(either, dropped, layout, dtype):
    for ordered_dtype in orders(dtype):
        x = layout(ordered_dtype)
        memory = memory_of(x)
        memory[:] = np.arange(memory.size) * 37 + 11
        fill(x, random_bits(x.shape, ordered_dtype.newbyteorder("=")))
        before = memory.copy()
        fill(x, dropped(x))
        expected = memory.tobytes()
        memory[:] = before
        assert fastdrop.dropout(x, RATE, rng=stream(), out=x) is x
        assert memory.tobytes() == expected


@pytest.mark.parametrize(
    ("x_layout", "out_layout"), [("C", "F"), ("F", "C"), ("reversed", "strided"), ("unaligned", "in-records")]
)
def test_x_and_out_of_different_layouts(either, dropped, dtype, x_layout, out_layout):
    x, out = LAYOUTS[x_layout](dtype), LAYOUTS[out_layout](dtype.newbyteorder())
    fill(x, random_bits(x.shape, dtype))
    fastdrop.dropout(x, RATE, rng=stream(), out=out)
    same_bits(plain(out), dropped(x))


def test_results_keep_the_order_of_axes(either):
    """As NumPy's own functions do: order="K"."""
    x = np.ones((ROWS, COLUMNS, 3), np.float32).transpose(2, 0, 1)
    assert fastdrop.dropout(x, RATE, rng=stream()).strides == (x * 2).strides
    assert fastdrop.dropout(np.asfortranarray(x), RATE, rng=stream()).flags.f_contiguous


def test_broadcast_input_has_a_mask_of_its_full_shape(either, dropped, dtype):
    for x in (
        np.broadcast_to(random_bits((1, COLUMNS), dtype), (ROWS, COLUMNS)),
        np.broadcast_to(random_bits((ROWS, 1), dtype), (ROWS, COLUMNS)),
        np.broadcast_to(random_bits((), dtype), (3, ROWS, COLUMNS)),
    ):
        expected = dropped(x)
        same_bits(fastdrop.dropout(x, RATE, rng=stream()), expected)
        out = np.empty(x.shape, dtype, order="F")
        mask_of(x).apply(x, out=out)
        same_bits(out, expected)


@pytest.mark.parametrize(
    ("shape", "strides"), [((500, 1), (4, 0)), ((1, 500), (0, 4)), ((1, 500, 1), (8, 4, 0))], ids=str
)
def test_an_axis_of_length_1_may_have_any_stride(either, dropped, shape, strides):
    """Its elements share no memory, so it is no broadcast view. NumPy itself may leave it with a stride of 0."""
    x = random_bits(shape, np.float32)
    memory = np.full(x.size, 7, np.float32)
    out = np.lib.stride_tricks.as_strided(memory, shape, strides)
    assert fastdrop.dropout(x, RATE, rng=stream(), out=out) is out
    same_bits(memory.reshape(shape), dropped(x))
    memory[...] = x.reshape(-1)
    same_bits(fastdrop.dropout(out, RATE, rng=stream()), dropped(x))
    fastdrop.dropout(out, RATE, rng=stream(), out=out)
    same_bits(memory.reshape(shape), dropped(x))


@pytest.mark.parametrize(("call", "kept"), [(6, True), (7, False)], ids=["kept", "dropped"])
def test_arrays_without_dimensions(either, dropped, dtype, call, kept):
    x = np.array(3, dtype)
    stream = fastdrop.PhiloxStream.from_key(KEY, call)
    expected = dropped(x, 0.5, call=call)
    assert (expected != 0) == kept
    y, mask = fastdrop.dropout(x, 0.5, rng=stream, return_mask=True)
    assert isinstance(y, np.ndarray)
    same_bits(y, expected)
    same_bits(mask.apply(x), expected)
    assert bool(np.asarray(mask)) == kept
    out = np.array(9, dtype)
    assert mask.apply(x, out=out) is out
    same_bits(out, expected)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (5, 0, 7), (2**40, 0)])
def test_empty_arrays(either, dtype, shape):
    x = np.empty(shape, dtype)
    rng = stream()
    y, mask = fastdrop.dropout(x, RATE, rng=rng, return_mask=True)
    assert (y.shape, y.dtype, y is x) == (shape, dtype, False)
    assert rng.call == CALL + 1
    assert mask.apply(x).shape == np.asarray(mask).shape == shape
    assert mask.packbits().shape == (0,)
    assert fastdrop.dropout(x, RATE, rng=rng, out=x) is x
    strided = np.empty((*shape, 2), dtype)[..., 0]
    assert fastdrop.dropout(strided, RATE, rng=rng, out=strided) is strided


def test_lists_and_scalars_are_taken_as_numpy_takes_them(either, dropped):
    values = [[1.5, -2.0, 3.25], [4.0, 5.0, -6.0]]
    same_bits(fastdrop.dropout(values, RATE, rng=stream()), dropped(np.array(values)))
    same_bits(mask_of(values).apply(values), dropped(np.array(values)))
    for scalar in (2.5, np.float32(2.5), np.float16(2.5), ml_dtypes.bfloat16(2.5)):
        same_bits(np.asarray(fastdrop.dropout(scalar, RATE, rng=stream())), dropped(np.asarray(scalar)))


# Dense memory in every order of axes: with rims of squares of 64 x 64 bits, flat squares, and rows.
DENSE = [(70, 130), (128, 64), (3, 200), (65, 8), (5, 66, 9), (2, 3, 70), (2, 3, 4, 5, 6), (3, 2, 33, 2, 7)]


@pytest.mark.parametrize("shape", DENSE, ids=str)
def test_every_order_of_axes(either, dropped, shape):
    x = random_bits(shape, np.float32)
    for order in itertools.permutations(range(len(shape))):
        lies_so = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        y = fastdrop.dropout(lies_so, RATE, rng=stream())
        assert y.strides == lies_so.strides or 1 in shape
        same_bits(y, dropped(x))
        same_bits(mask_of(x).apply(lies_so), dropped(x))


@pytest.mark.parametrize("noise_shape", [(5, 1, 9), (1, 66, 1), (5, 66, 1), (1, 1, 9), (5, 1, 1)], ids=str)
def test_shared_decisions_in_every_order_of_axes(either, noise_shape):
    x = np.random.default_rng(0).standard_normal((5, 66, 9))
    keep = np.asarray(fastdrop.DropoutMask(noise_shape, RATE, key=KEY, call=CALL))
    expected = np.where(keep, x * (1 / (1 - RATE)), 0)
    mask = fastdrop.DropoutMask(x.shape, RATE, key=KEY, call=CALL, noise_shape=noise_shape)
    for order in itertools.permutations(range(3)):
        lies_so = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        y = fastdrop.dropout(lies_so, RATE, rng=stream(), noise_shape=noise_shape)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(mask.transpose(order).apply(x.transpose(order)), expected.transpose(order))
        np.testing.assert_array_equal(
            mask.transpose(order)[1:, ::2], np.broadcast_to(keep, x.shape).transpose(order)[1:, ::2]
        )


def test_a_bias_along_the_innermost_axis_of_any_order(either):
    x, bias, residual = np.random.default_rng(0).standard_normal((3, 5, 40, 7)), np.arange(7.0), np.ones((5, 40, 7))
    expected = fastdrop.bias_dropout_add(x[0], bias, residual, RATE, rng=stream())
    for order in itertools.permutations(range(3)):
        back = np.argsort(order)
        arrays = [np.ascontiguousarray(a.transpose(order)).transpose(back) for a in (x[0], residual)]
        y = fastdrop.bias_dropout_add(arrays[0], bias, arrays[1], RATE, rng=stream())
        np.testing.assert_array_equal(y, expected)


# Subclasses


class Named(np.ndarray):
    """An array with an attribute, as NumPy's guide to subclassing shows it."""

    def __array_finalize__(self, other):
        self.name = getattr(other, "name", None)


# np.matrix warns wherever it is made, by us or by NumPy.
matrices = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")


@matrices
def test_subclasses_stay_what_they_are(either, dropped, dtype):
    values = random_bits((ROWS, COLUMNS), dtype)
    named = values.view(Named)
    named.name = "activations"
    for x in (named, values.view(np.matrix)):
        for y in (
            fastdrop.dropout(x, RATE, rng=stream()),
            mask_of(x).apply(x),
            fastdrop.dropout(x.astype(dtype.newbyteorder()), RATE, rng=stream()),
        ):
            assert type(y) is type(x)
            same_bits(np.asarray(y), dropped(values))
    assert fastdrop.dropout(named, RATE, rng=stream()).name == "activations"
    in_place = named.copy()
    assert fastdrop.dropout(in_place, RATE, rng=stream(), out=in_place) is in_place
    same_bits(np.asarray(in_place), dropped(values))


def test_the_result_for_a_memmap_is_an_array(either, dropped, dtype, tmp_path):
    """As NumPy's functions give it: what has no file is no memmap."""
    values = random_bits((ROWS, COLUMNS), dtype)
    x = np.memmap(tmp_path / "x", dtype, "w+", shape=values.shape)
    fill(x, values)
    for y in (fastdrop.dropout(x, RATE, rng=stream()), mask_of(x).apply(x)):
        assert type(y) is np.ndarray
        same_bits(y, dropped(values))
    out = np.memmap(tmp_path / "out", dtype, "w+", shape=values.shape)
    assert fastdrop.dropout(x, RATE, rng=stream(), out=out) is out
    same_bits(np.asarray(out), dropped(values))
    assert fastdrop.dropout(x, training=False) is x


@matrices
def test_a_matrix_keeps_its_two_dimensions(either, dropped):
    x = np.matrix(np.ones((5, 40), np.float32))[:, ::2]
    y = fastdrop.dropout(x, RATE, rng=stream())
    assert type(y) is np.matrix
    same_bits(np.asarray(y), dropped(x))


def test_masked_arrays_stay_masked(either, dropped, dtype):
    """The data beneath, and what is masked: dropout hides nothing and shows nothing."""
    hidden = np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.5
    x = np.ma.MaskedArray(random_bits((ROWS, COLUMNS), dtype), hidden)
    for y in (fastdrop.dropout(x, RATE, rng=stream()), mask_of(x).apply(x)):
        assert type(y) is np.ma.MaskedArray
        same_bits(y.data, dropped(x.data))
        np.testing.assert_array_equal(np.ma.getmaskarray(y), hidden)
    np.testing.assert_array_equal(x.mask, hidden)


def test_masked_arrays_as_out(either, dropped):
    hidden = np.arange(300) % 3 == 0
    x = np.ma.MaskedArray(np.arange(300, dtype=np.float32), hidden)
    expected = dropped(x.data)
    fastdrop.dropout(x, RATE, rng=stream(), out=x)
    same_bits(x.data, expected)
    np.testing.assert_array_equal(x.mask, hidden)


# Overlap: the result is what it would be had x been copied first.

OVERLAPS = {
    "same": lambda a: (a[:-7], a[:-7]),
    "forward-by-1": lambda a: (a[:-1], a[1:]),
    "backward-by-1": lambda a: (a[1:], a[:-1]),
    "forward-by-many": lambda a: (a[: -(len(a) // 3)], a[len(a) // 3 :]),
    "backward-by-many": lambda a: (a[len(a) // 3 :], a[: -(len(a) // 3)]),
    "reversed": lambda a: (a, a[::-1]),
    "both-reversed": lambda a: (a[::-1], a[::-1]),
    "stride-into-whole": lambda a: (a[::2], a[: len(a) // 2]),
    "whole-into-stride": lambda a: (a[: len(a) // 2], a[::2]),
    "strides-that-interleave": lambda a: (a[::2], a[1::2]),
    "transposed": lambda a: (square(a), square(a).T),
    "broadcast-source": lambda a: (np.broadcast_to(a[100:200], (len(a) // 100, 100)), a.reshape(-1, 100)),
}
SMALL, LARGE = 14_600, 2 * MIN_SHARED + 448  # so that threads share half of it, and both are multiples of 100


def square(a):
    side = math.isqrt(len(a))
    return a[: side**2].reshape(side, side)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_out_that_overlaps_x_gets_what_a_copy_would_have_given(either, dropped, dtypes, overlap):
    """Also where threads share the work, none of which may read what another has written."""
    for n, dtype in [*((SMALL, dtype) for dtype in dtypes), (LARGE, np.dtype(np.float32))]:
        memory = random_bits(n, dtype)
        x, out = OVERLAPS[overlap](memory)
        assert n == SMALL or x.size >= MIN_SHARED
        twin = memory.copy()
        fill(OVERLAPS[overlap](twin)[1], dropped(x))
        with fastdrop.num_threads(3):
            assert fastdrop.dropout(x, RATE, rng=stream(), out=out) is out
        same_bits(memory, twin)


def test_out_that_overlaps_x_between_elements(either, dropped, dtype):
    """Shifted by a byte: no element of out lies on one of x."""
    for x_at, out_at in ((0, 1), (1, 0)):
        memory = np.random.default_rng(1).integers(0, 256, 20_000 * dtype.itemsize + 1, np.uint8)
        twin = memory.copy()
        x, out = (memory[at : len(memory) - 1 + at].view(dtype) for at in (x_at, out_at))
        fill(twin[out_at : len(memory) - 1 + out_at].view(dtype), dropped(x))
        fastdrop.dropout(x, RATE, rng=stream(), out=out)
        np.testing.assert_array_equal(memory, twin)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (np.float16, np.float32),
        (np.float16, np.float64),
        (np.float32, np.float64),
        (np.float32, np.longdouble),
        (ml_dtypes.bfloat16, np.float32),
        (ml_dtypes.bfloat16, np.float64),
    ],
)
def test_a_wider_out_holds_the_result_of_the_narrow_dtype(either, dropped, narrow, wide):
    """The product is rounded to x's dtype first: out= changes where the result goes and nothing about its values."""
    x = random_bits((ROWS, COLUMNS), narrow)
    with np.errstate(invalid="ignore"):
        x[np.isnan(x)] = 1  # what a cast makes of a NaN is NumPy's affair
    expected = dropped(x).astype(wide)
    for out in (
        np.empty(x.shape, wide),
        np.empty(x.shape, wide, order="F"),
        np.empty((ROWS, 2 * COLUMNS), wide)[:, ::2],
    ):
        fastdrop.dropout(x, RATE, rng=stream(), out=out)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


def test_in_place_through_two_views_of_swapped_memory(either, dropped, dtype):
    """The views are of equal dtypes, which are not the same object; and large enough for threads."""
    memory = random_bits(MIN_SHARED + 77, dtype).view(dtype.newbyteorder())
    x, out = (memory.view(dtype.newbyteorder()) for _ in range(2))
    assert x.dtype is not out.dtype
    expected = dropped(x)
    with fastdrop.num_threads(3):
        fastdrop.dropout(x, RATE, rng=stream(), out=out)
    same_bits(plain(out), expected)


def test_a_wider_out_that_overlaps_x(either, dropped):
    memory = np.zeros(20_000, np.float64)
    x = memory.view(np.float32)[100:20_100]
    x[...] = np.arange(20_000)
    expected = dropped(x).astype(np.float64)
    fastdrop.dropout(x, RATE, rng=stream(), out=memory)
    same_bits(memory, expected)


# The functions that do more than drop: how they are called, and what kernels do for them.


def bias_for(x):
    """Of x's dtype and byte order, and not contiguous."""
    return np.random.default_rng(3).uniform(-1, 1, 2 * x.shape[-1]).astype(x.dtype)[::2]


FUNCTIONS = {
    "dropout_add": lambda x, other, **how: fastdrop.dropout_add(x, other, RATE, rng=stream(), **how),
    "bias_dropout_add": lambda x, other, **how: fastdrop.bias_dropout_add(
        x, bias_for(x), other, RATE, rng=stream(), **how
    ),
    "relu_dropout": lambda x, other, **how: fastdrop.relu_dropout(x, RATE, rng=stream(), **how),
    "relu_backward": lambda x, other, **how: fastdrop.relu_dropout_backward(x, other, mask_of(x), **how),
    "alpha_dropout": lambda x, other, **how: fastdrop.alpha_dropout(x, RATE, rng=stream(), **how),
    "zoneout": lambda x, other, **how: fastdrop.zoneout(x, other, RATE, rng=stream(), **how),
    "gaussian_dropout": lambda x, other, **how: fastdrop.gaussian_dropout(x, RATE, rng=stream(), **how),
    "gaussian_noise": lambda x, other, **how: fastdrop.gaussian_noise(x, RATE, rng=stream(), **how),
}
ADDING = ("dropout_add", "bias_dropout_add")
WITH_OTHER = (*ADDING, "relu_backward", "zoneout")
NUMBERS = {
    "alpha_dropout": dict(zip(("scale", "shift", "fill"), alpha_numbers(RATE), strict=True)),
    "gaussian_dropout": {"scale": math.sqrt(RATE / (1 - RATE))},
    "gaussian_noise": {"scale": RATE},
}

functions = pytest.mark.parametrize("name", FUNCTIONS)


def other_for(name, shape, dtype):
    """What is added holds no NaN and no infinity: which NaN comes of two is not defined."""
    if name not in ADDING:
        return random_bits(shape, dtype, 1)
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


@pytest.fixture
def worked(oracle):
    """What a function must give, computed by the oracle on contiguous copies."""

    def compute(name, x, other):
        how = {"op": Operation[name.upper()], "scale": 1 / (1 - RATE)} | NUMBERS.get(name, {})
        x = plain(np.asarray(x))
        if name in WITH_OTHER:
            how["other"] = plain(np.asarray(other))
        if name == "bias_dropout_add":
            how["bias"] = plain(bias_for(x))
        y = np.empty_like(x)
        oracle.apply(x, y, 0, x.size, KEY, CALL, 0 if name == "relu_backward" else round(RATE * 2**32), **how)
        return y

    return compute


def test_every_operation_has_a_function_here():
    assert {Operation[name.upper()] for name in FUNCTIONS} == set(Operation) - {Operation.DROPOUT}


def test_functions_take_any_layout(either, worked, layout, dtype):
    """Of x, and of what goes with it."""
    for ordered_dtype in orders(dtype):
        for name, function in FUNCTIONS.items():
            x, other = layout(ordered_dtype), layout(ordered_dtype)
            fill(x, random_bits(x.shape, ordered_dtype.newbyteorder("=")))
            fill(other, other_for(name, x.shape, ordered_dtype.newbyteorder("=")))
            before = memory_of(x).tobytes(), memory_of(other).tobytes()
            same_bits(function(x, other), worked(name, x, other))
            assert (memory_of(x).tobytes(), memory_of(other).tobytes()) == before


def test_functions_fill_out_of_any_layout_and_nothing_beside_it(either, worked, layout, dtype):
    for ordered_dtype in orders(dtype):
        for name, function in FUNCTIONS.items():
            out = layout(ordered_dtype)
            memory = memory_of(out)
            memory[:] = np.arange(memory.size) * 37 + 11
            before = memory.copy()
            x = random_bits(out.shape, ordered_dtype.newbyteorder("="))
            other = other_for(name, out.shape, ordered_dtype.newbyteorder("="))
            fill(out, worked(name, x, other))
            expected = memory.tobytes()
            memory[:] = before
            assert function(x, other, out=out) is out
            assert memory.tobytes() == expected


def test_functions_in_place_in_any_layout(either, worked, layout, dtype):
    """Of x, and of the other array."""
    for ordered_dtype in orders(dtype):
        native = ordered_dtype.newbyteorder("=")
        for name, function in FUNCTIONS.items():
            for is_other in (False, True)[: 1 + (name in WITH_OTHER)]:
                out = layout(ordered_dtype)
                memory = memory_of(out)
                memory[:] = np.arange(memory.size) * 37 + 11
                x, other = random_bits(out.shape, native), other_for(name, out.shape, native)
                fill(out, worked(name, x, other))
                expected = memory.tobytes()
                fill(out, other if is_other else x)
                assert function(*((x, out) if is_other else (out, other)), out=out) is out
                assert memory.tobytes() == expected


@functions
def test_functions_with_arrays_of_different_layouts(either, worked, dtype, name):
    x, other, out = LAYOUTS["F"](dtype), LAYOUTS["reversed"](dtype.newbyteorder()), LAYOUTS["in-records"](dtype)
    fill(x, random_bits(x.shape, dtype))
    fill(other, other_for(name, x.shape, dtype))
    expected = worked(name, x, other)
    FUNCTIONS[name](x, other, out=out)
    same_bits(plain(out), expected)
    same_bits(FUNCTIONS[name](plain(x), other), expected)
    same_bits(FUNCTIONS[name](x, plain(other)), expected)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_functions_with_out_that_overlaps_x_or_the_other_array(either, worked, dtype, overlap):
    for name, function in FUNCTIONS.items():
        for is_other in (False, True)[: 1 + (name in WITH_OTHER)]:
            memory = other_for(name, SMALL, dtype) if is_other else random_bits(SMALL, dtype)
            source, out = OVERLAPS[overlap](memory)
            beside = random_bits(out.shape, dtype, 5) if is_other else other_for(name, out.shape, dtype)
            x, other = (beside, source) if is_other else (source, beside)
            twin = memory.copy()
            fill(OVERLAPS[overlap](twin)[1], worked(name, x, other))
            assert function(x, other, out=out) is out
            same_bits(memory, twin)


# x, other and out as parts of one array: from either side, all the same, and one against the others.
OVERLAPS_OF_BOTH = {
    "by-1": (np.s_[:-2], np.s_[2:], np.s_[1:-1]),
    "by-many": (np.s_[3000:], np.s_[:-3000], np.s_[1500:-1500]),
    "same": (np.s_[:], np.s_[:], np.s_[:]),
    "reversed": (np.s_[:], np.s_[::-1], np.s_[:]),
}


@pytest.mark.parametrize("overlap", OVERLAPS_OF_BOTH)
@pytest.mark.parametrize("n", [SMALL, MIN_SHARED + 3077], ids=["small", "large"])
def test_functions_with_out_that_overlaps_both(either, worked, overlap, n):
    """The large arrays are past the size from which threads share the work."""
    for name in WITH_OTHER:
        memory = np.random.default_rng(2).standard_normal(n, np.float32)
        x, other, out = (memory[part] for part in OVERLAPS_OF_BOTH[overlap])
        twin = memory.copy()
        twin[OVERLAPS_OF_BOTH[overlap][2]] = worked(name, x, other)
        with fastdrop.num_threads(3):
            FUNCTIONS[name](x, other, out=out)
        same_bits(memory, twin)


@matrices
@functions
def test_matrices_and_memmaps_are_arrays_to_functions(either, worked, dtype, name, tmp_path):
    values, other = random_bits((ROWS, COLUMNS), dtype), other_for(name, (ROWS, COLUMNS), dtype)
    memmap = np.memmap(tmp_path / "x", dtype, "w+", shape=values.shape)
    fill(memmap, values)
    function = FUNCTIONS[name]
    expected = worked(name, values, other)
    for x, others, kind in (
        (values.view(np.matrix), (other, other.view(np.matrix)), np.matrix),
        (memmap, (other,), np.ndarray),
    ):
        for beside in others:
            y = function(x, beside)
            assert type(y) is kind
            same_bits(np.asarray(y), expected)
        same_bits(np.asarray(function(x, other, out=x.copy())), expected)
    if name in WITH_OTHER:
        with pytest.raises(TypeError, match="must be an ndarray beside"):
            function(values, other.view(np.matrix))


class Quantity(np.ndarray):
    """Numbers with a unit, which NumPy's functions heed."""

    unit = None

    def __array_finalize__(self, other):
        self.unit = getattr(other, "unit", self.unit)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        raise TypeError("these units do not go together")


class Masked(np.ndarray):
    """Numbers some of which are hidden, in the manner of astropy: a new array of its kind hides none."""

    hidden = None

    @classmethod
    def of(cls, values, hidden):
        masked = values.view(cls)
        masked.hidden = hidden
        return masked

    def copy(self, order="C"):
        return self.of(np.asarray(self).copy(order), self.hidden.copy())

    def __array_function__(self, function, types, args, options):
        result = function(*[a.view(np.ndarray) if isinstance(a, Masked) else a for a in args], **options)
        return self.of(result, np.zeros(result.shape, bool))


def quantity(values):
    array = values.view(Quantity)
    array.unit = "km"
    return array


@functions
def test_functions_of_one_array_keep_units_and_hidden_elements(either, worked, dtype, name):
    if name in WITH_OTHER:
        return
    values = random_bits((ROWS, COLUMNS), dtype)
    hidden = np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.5
    function, expected = FUNCTIONS[name], worked(name, values, None)
    for y in (function(quantity(values), None), function(q := quantity(values.copy()), None, out=q)):
        assert (type(y), y.unit) == (Quantity, "km")
        same_bits(np.asarray(y), expected)
    y = function(Masked.of(values, hidden), None)
    np.testing.assert_array_equal(y.hidden, hidden)
    same_bits(np.asarray(y), expected)
    x = np.ma.MaskedArray(values, hidden)
    y = function(x, None)
    assert type(y) is np.ma.MaskedArray
    same_bits(y.data, expected)
    np.testing.assert_array_equal(np.ma.getmaskarray(y), hidden)
    y.mask[...] = False
    np.testing.assert_array_equal(x.mask, hidden)


@functions
def test_where_arrays_meet_none_may_be_more_than_its_numbers(either, dtype, name):
    """Units could differ, and hidden elements would be shown: NumPy's functions are left to decide that."""
    values, other = random_bits((ROWS, COLUMNS), dtype), other_for(name, (ROWS, COLUMNS), dtype)
    rest = values.copy()
    before = rest.tobytes()
    for more, advice in (
        (quantity, r"got a Quantity.*\.view\(numpy\.ndarray\)"),
        (np.ma.MaskedArray, r"got a MaskedArray.*\.filled\(\.\.\.\)"),
    ):
        calls = [
            lambda more=more: FUNCTIONS[name](more(values), other, out=rest),
            lambda more=more: FUNCTIONS[name](values, other, out=more(rest)),
            lambda more=more: FUNCTIONS[name](more(values), other, out=more(rest)),
        ]
        if name in WITH_OTHER:
            calls += [
                lambda more=more: FUNCTIONS[name](more(values), other),
                lambda more=more: FUNCTIONS[name](values, more(other)),
                lambda more=more: FUNCTIONS[name](more(values), more(other)),
            ]
        for call in calls:
            with pytest.raises(TypeError, match=rf"must be a plain ndarray .*{advice}"):
                call()
        assert rest.tobytes() == before


def test_a_bias_and_its_gradient_are_plain():
    x, bias = np.ones((4, 6)), np.ones(6)
    mask = fastdrop.DropoutMask(x.shape, 0.5, key=1)
    for more in (quantity, np.ma.MaskedArray):
        with pytest.raises(TypeError, match="bias must be a plain ndarray beside x"):
            fastdrop.bias_dropout_add(x, more(bias), x)
        with pytest.raises(TypeError, match="dy must be a plain ndarray"):
            fastdrop.bias_dropout_add_backward(more(x), mask)


@matrices
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_gradient_of_a_bias_has_one_dimension(rate):
    x = np.ones((4, 6))
    mask = fastdrop.DropoutMask(x.shape, rate, key=1)
    expected = fastdrop.bias_dropout_add_backward(x, mask)
    dx, dbias, dresidual = fastdrop.bias_dropout_add_backward(x.view(np.matrix), mask)
    assert (type(dx), type(dbias), type(dresidual)) == (np.matrix, np.ndarray, np.matrix)
    same_bits(dbias, expected[1])
    assert dbias.shape == (6,)


def test_masks_of_gates_are_for_plain_arrays():
    masks = fastdrop.RecurrentDropout(0.5, rng=1).draw(batch=2, features=3, units=3)
    for more in (quantity, np.ma.MaskedArray):
        with pytest.raises(TypeError, match="x must be a plain ndarray"):
            masks.input.apply(more(np.ones((2, 3))))
        with pytest.raises(TypeError, match="dy must be a plain ndarray"):
            masks.input.backward(more(np.ones((4, 2, 3))))


@functions
def test_what_is_only_read_may_be_read_only(either, worked, dtype, name, monkeypatch):
    x, other = random_bits((ROWS, COLUMNS), dtype), other_for(name, (ROWS, COLUMNS), dtype)
    bias = bias_for(x)
    for array in (x, other, bias):
        array.flags.writeable = False
    monkeypatch.setitem(globals(), "bias_for", lambda x: bias)
    expected = worked(name, x, other)
    same_bits(FUNCTIONS[name](x, other), expected)
    same_bits(FUNCTIONS[name](x[:, ::-1], other), worked(name, x[:, ::-1], other))
    for array, is_other in ((x, False), (other, True)):
        if is_other and name not in WITH_OTHER:
            continue
        with pytest.raises(ValueError, match="out is read-only"):
            FUNCTIONS[name](x, other, out=array)


def test_functions_of_arrays_without_dimensions(either, worked, dtype):
    """But for the one whose bias stands along the last of them."""
    x, other = np.array(3, dtype), np.array(2, dtype)
    for name in [name for name in FUNCTIONS if name != "bias_dropout_add"]:
        expected = worked(name, x, other)
        y = FUNCTIONS[name](x, other)
        assert isinstance(y, np.ndarray)
        same_bits(y, expected)
        out = np.array(9, dtype)
        assert FUNCTIONS[name](x, other, out=out) is out
        same_bits(out, expected)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (5, 0, 7), (2**40, 0)])
def test_functions_of_empty_arrays(either, dtype, shape):
    x, other = np.empty(shape, dtype), np.empty(shape, dtype)
    for function in FUNCTIONS.values():
        y = function(x, other)
        assert (y.shape, y.dtype, y is x) == (shape, dtype, False)
        assert function(x, other, out=x) is x
        strided = np.empty((*shape, 2), dtype)[..., 0]
        assert function(strided, other, out=strided) is strided
        assert function(x, strided, out=x) is x


@functions
@pytest.mark.parametrize(
    ("narrow", "wide"), [(np.float16, np.float32), (np.float32, np.float64), (ml_dtypes.bfloat16, np.float32)]
)
def test_a_wider_out_of_a_function_holds_the_result_of_the_narrow_dtype(either, worked, name, narrow, wide):
    x, other = (np.random.default_rng(i).standard_normal((ROWS, COLUMNS)).astype(narrow) for i in range(2))
    expected = worked(name, x, other).astype(wide)
    for out in (np.empty(x.shape, wide), np.empty((ROWS, 2 * COLUMNS), wide)[:, ::2]):
        FUNCTIONS[name](x, other, out=out)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


# More elements than 32 bits count, none of which take memory.

HUGE = (2**20, 2**20)


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        (HUGE, np.s_[0, :5000]),
        (HUGE, np.s_[2**12 - 1 : 2**12 + 1, 2**20 - 3000 :]),  # rows on either side of element 2**32
        (HUGE, np.s_[4095:4098, 17:2017]),
        (HUGE, np.s_[-3:, -1001:]),
        (HUGE, np.s_[1000:1005, 12345]),
        (HUGE, np.s_[-1, -1]),
        ((2**31, 2**31), np.s_[2**31 - 5 :, 2**31 - 777 :]),
        ((2**21, 2**20, 2**21), np.s_[-2:, 2**19 - 1 : 2**19 + 1, 5:805]),
        ((2**40 + 5000,), np.s_[2**40 - 1000 : 2**40 + 4000]),
        ((2**62,), np.s_[2**62 - 5000 :]),
    ],
)
def test_parts_of_huge_masks(either, oracle, shape, index):
    mask = fastdrop.DropoutMask(shape, RATE, key=KEY, call=CALL)[index]
    index = index if isinstance(index, tuple) else (index,)
    ranges = [
        range(n)[at] if isinstance(at, slice) else range(n)[at : at + 1 or None]
        for at, n in zip(index, shape, strict=True)
    ]
    rows = [0]
    for r, n in zip(ranges[:-1], shape[:-1], strict=True):
        rows = [(row + i) for row in (row * n for row in rows) for i in r]
    expected = np.empty((len(rows), len(ranges[-1])), np.bool_)
    for row, keep in zip(rows, expected, strict=True):
        first = row * shape[-1] + ranges[-1][0]
        oracle.keep(keep, 0, len(keep), KEY, CALL, mask.threshold, first)
    np.testing.assert_array_equal(np.asarray(mask).reshape(expected.shape), expected)
    np.testing.assert_array_equal(np.packbits(expected, bitorder="little"), mask.packbits())
    x = np.arange(expected.size, dtype=np.float32).reshape(mask.shape) + 1
    y = mask.apply(x)
    np.testing.assert_array_equal((y != 0).reshape(expected.shape), expected)
    np.testing.assert_array_equal(y[y != 0], (x * np.float32(mask.scale))[y != 0])


def test_elements_2_to_the_32_apart_do_not_repeat(either):
    mask = fastdrop.DropoutMask(HUGE, 0.5, key=KEY)
    rows = [mask[row].packbits().tobytes() for row in (0, 2**12, 2**19, 2**20 - 1)]
    assert len(set(rows)) == 4


@pytest.mark.parametrize("shape", [(2**31, 2**31), (2**63 - 1,), (2**32, 2**31 - 1)], ids=str)
def test_huge_masks_know_their_size_and_have_a_last_element(shape, oracle):
    mask = fastdrop.DropoutMask(shape, RATE, key=KEY, call=CALL)
    assert mask.size == math.prod(shape)
    row = mask[-1] if len(shape) == 2 else mask
    keep = np.empty(40, np.bool_)
    oracle.keep(keep, 0, 40, KEY, CALL, mask.threshold, mask.size - 40)
    np.testing.assert_array_equal(np.asarray(row[-40:]), keep)


def test_a_column_of_a_huge_mask_with_shared_decisions(either, oracle):
    """A million decisions, shared by 2 elements each, that lie 2**20 elements apart in the stream."""
    whole = fastdrop.DropoutMask((2**20, 2**20, 2), RATE, key=KEY, call=CALL, noise_shape=(None, None, 1))
    part = whole[:, 5:6]
    keep = np.asarray(part)
    assert keep.shape == (2**20, 1, 2)
    for row in (0, 1, 4095, 4096, 2**20 - 1):
        one = np.empty(1, np.bool_)
        oracle.keep(one, 0, 1, KEY, CALL, whole.threshold, row * 2**20 + 5)
        assert (keep[row] == one).all()
