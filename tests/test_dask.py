# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop.dask beside fastdrop: the same bits, whatever the chunks and the scheduler; and nothing too soon."""

import pickle
import subprocess
import sys
import time

import dask_chunks
import helpers
import numpy as np
import pytest
from conftest import DTYPES, FAMILY, FUNCTIONS
from dask_helpers import assert_same, da, defined, fd
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import imported

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

dask = imported("dask")
xr = imported("xarray")

LAZY = [function for function in FUNCTIONS if function.name != "drop_block2d"]
OF_ONE_ARRAY = [function for function in LAZY if len(function.operands) == 1]
WITH_LABELS = [function for function in OF_ONE_ARRAY if function.name != "relu_dropout"]
BACKWARDS = {"dropout_add": "dropout_add_backward", "zoneout": "zoneout_backward"}


def named(functions):
    return pytest.mark.parametrize("function", functions, ids=[function.name for function in functions])


def chunks_of(length):
    """Ways to cut an axis, into chunks of no length too."""
    return st.lists(st.integers(0, length), max_size=4).map(lambda cuts: tuple(np.diff([0, *sorted(cuts), length])))


def chunkings(shape):
    return st.tuples(*(chunks_of(length).map(lambda lengths: tuple(map(int, lengths))) for length in shape))


def lazy(array, chunks):
    return da.from_array(array, chunks=chunks)


def sample(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# The same bits


@named(LAZY)
@pytest.mark.parametrize("training", [True, False])
@settings(max_examples=10)
@given(data=st.data())
def test_the_result_is_that_of_the_computed_array(function, training, data):
    arrays = function.arrays(data.draw(st.sampled_from(DTYPES)))
    rate = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9] + [1.0] * (function.name != "gaussian_dropout")))
    stream = {"key": data.draw(st.integers(0, 2**64 - 1)), "call": data.draw(st.integers(0, 2**56 - 2))}
    options = {"training": training, "return_mask": True}
    expected, mask = defined(function.name, *arrays, rate, rng=PhiloxStream.from_key(**stream), **options)
    cut = [lazy(array, data.draw(chunkings(array.shape))) for array in arrays]
    y, lazy_mask = getattr(fd, function.name)(*cut, rate, rng=PhiloxStream.from_key(**stream), **options)
    scheduler = data.draw(st.sampled_from(["synchronous", "threads"]))
    assert_same(np.asarray(y.compute(scheduler=scheduler)), expected)
    assert (y.dtype, y.shape, y.chunks) == (expected.dtype, expected.shape, cut[0].chunks)
    assert lazy_mask == mask
    assert type(lazy_mask) is type(mask)


@settings(max_examples=60)
@given(data=st.data())
def test_masks_of_any_shape_in_any_chunks(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    x, rate, key = sample(*shape), data.draw(st.floats(0.0, 1.0)), data.draw(st.integers(0, 2**64 - 1))
    noise_shape = [data.draw(st.sampled_from([1, None, n])) for n in shape]
    expected = defined("dropout", x, rate, noise_shape=noise_shape, rng=PhiloxStream.from_key(key))
    cut = lazy(x, data.draw(chunkings(shape)))
    y = fd.dropout(cut, rate, noise_shape=noise_shape, rng=PhiloxStream.from_key(key))
    assert_same(np.asarray(y.compute(scheduler="synchronous")), expected)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler_gives_the_same(scheduler):
    x = sample(40, 50)
    y = fd.dropout(lazy(x, (7, 9)), 0.3, rng=5)
    assert_same(y.compute(scheduler=scheduler, num_workers=2), defined("dropout", x, 0.3, rng=5))


@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["dropout", "drop_path"])
def test_modes(name, training, mode):
    x = sample(11, 13)
    options = {"training": training, "mode": mode, "rng": 4}
    y = getattr(fd, name)(lazy(x, (4, 5)), 0.3, **options)
    assert_same(np.asarray(y), defined(name, x, 0.3, **options))


@pytest.mark.parametrize("name", ["dropout1d", "dropout2d", "dropout3d"])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_channels_that_lie_in_many_chunks(name, data_format):
    x = np.ones(FAMILY[name].shape, np.float32)
    y = getattr(fd, name)(lazy(x, 2), keep_prob=0.5, data_format=data_format, rng=3)
    assert_same(y.compute(), defined(name, x, keep_prob=0.5, data_format=data_format, rng=3))


@pytest.mark.parametrize("options", [{"shared_axes": 1}, {"shared_axes": (0, -1)}, {"noise_shape": (None, 1)}])
def test_shared_axes(options):
    x = sample(7, 8, 9)
    y = fd.dropout(lazy(x, (2, 3, 4)), 0.5, rng=3, **options)
    assert_same(y.compute(), defined("dropout", x, 0.5, rng=3, **options))


def test_other_memory_layouts_and_orders_of_bytes_of_chunks():
    x = sample(40, 30)
    expected = defined("dropout", x, 0.3, rng=1)
    assert_same(np.asarray(fd.dropout(lazy(np.asfortranarray(x), (7, 8)), 0.3, rng=1)), expected)
    assert_same(np.asarray(fd.dropout(lazy(x.T, (8, 7)).T, 0.3, rng=1)), expected)
    swapped = fd.dropout(lazy(x.astype(">f4"), (7, 8)), 0.3, rng=1)
    assert swapped.dtype == np.float32
    assert_same(swapped.compute(), expected)


def test_a_masked_array_stays_one():
    x = np.ma.masked_greater(sample(9, 10), 1.0)
    y, expected = fd.dropout(lazy(x, (4, 3)), 0.5, rng=1), defined("dropout", x, 0.5, rng=1)
    assert isinstance(y._meta, np.ma.MaskedArray)
    result = y.compute()
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert_same(result.filled(7), expected.filled(7))


def test_what_is_cut_out_of_the_result_is_what_lies_there():
    x = sample(30, 20)
    y, expected = fd.dropout(lazy(x, (7, 6)), 0.5, rng=2), defined("dropout", x, 0.5, rng=2)
    assert_same(y[5:23, ::3].compute(), expected[5:23, ::3])
    assert_same(y.rechunk((30, 1)).T.compute(), expected.T)


def test_chunks_have_other_masks():
    y = fd.dropout(da.ones((4, 1000), chunks=(1, 1000)), 0.5, rng=0).compute()
    assert len({row.tobytes() for row in y}) == 4


# The mask, and the backward pass


def test_slices_of_the_mask_are_those_of_the_chunks():
    x = lazy(sample(30, 20), (7, 6))
    y, mask = fd.dropout(x, 0.5, rng=2, return_mask=True)
    for block in np.ndindex(x.numblocks):
        slices = slice(7 * block[0], 7 * block[0] + 7), slice(6 * block[1], 6 * block[1] + 6)
        inside = tuple(slice(part.start, min(part.stop, n)) for part, n in zip(slices, x.shape, strict=True))
        assert_same(mask[inside].apply(x.blocks[block].compute()), y.blocks[block].compute())
    assert len(pickle.dumps(mask)) < 200


@named(WITH_LABELS)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_backward_in_other_chunks_has_the_same_mask(function, rate):
    (x,) = function.arrays()
    dy = function.arrays(seed=1)[0]
    _, mask = getattr(fd, function.name)(lazy(x, 3), rate, rng=2, return_mask=True)
    expected, expected_mask = defined(function.name, x, rate, rng=2, return_mask=True)
    dx = fd.backward(mask, lazy(dy, 4))
    with helpers.using("reference"):
        assert_same(np.asarray(dx), expected_mask.backward(dy))
    assert dx.chunks == lazy(dy, 4).chunks
    assert_same(np.asarray(fd.apply(mask, lazy(x, 5))), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BACKWARDS)
def test_backward_of_two_arrays(name, training):
    x, other, dy = (sample(9, 10, seed=seed) for seed in range(3))
    options = {"rng": 2, "training": training, "return_mask": True}
    _, mask = getattr(fd, name)(lazy(x, 3), lazy(other, 4), 0.3, **options)
    _, expected_mask = defined(name, x, other, 0.3, **options)
    assert mask == expected_mask
    backward = BACKWARDS[name]
    gradients = getattr(fd, backward)(lazy(dy, 5), mask)
    for gradient, expected in zip(gradients, defined(backward, dy, expected_mask), strict=True):
        assert_same(gradient.compute(), expected)


def test_backward_of_bias_dropout_add():
    x, residual, dy = (sample(9, 10, seed=seed) for seed in range(3))
    _, mask = fd.bias_dropout_add(lazy(x, 3), lazy(x[0], 4), lazy(residual, 5), 0.3, rng=2, return_mask=True)
    dx, dbias, dresidual = fd.bias_dropout_add_backward(lazy(dy, 4), mask)
    expected = defined("bias_dropout_add_backward", dy, mask)
    assert_same(dx.compute(), expected[0])
    np.testing.assert_allclose(dbias.compute(), expected[1], rtol=1e-5)  # float32, added up in another order
    assert dbias.dtype == np.float32
    assert_same(dresidual.compute(), dy)


@pytest.mark.parametrize("is_numpy", [True, False])
def test_backward_of_relu_dropout(is_numpy):
    x, dy = sample(9, 10), sample(9, 10, seed=1)
    y, mask = fd.relu_dropout(lazy(x, 3), 0.3, rng=2, return_mask=True)
    dx = fd.relu_dropout_backward(lazy(dy, 4), y.compute() if is_numpy else y, mask)
    assert_same(dx.compute(), defined("relu_dropout_backward", dy, defined("relu_dropout", x, 0.3, rng=2), mask))


def test_arrays_beside_x_may_be_numpys_and_have_other_chunks():
    x, residual, bias = sample(9, 10), sample(9, 10, seed=1), sample(10, seed=2)
    expected = defined("bias_dropout_add", x, bias, residual, 0.3, rng=2)
    for own_bias, own_residual in ((bias, residual), (lazy(bias, 3), lazy(residual, (2, 9)))):
        y = fd.bias_dropout_add(lazy(x, 4), own_bias, own_residual, 0.3, rng=2)
        assert_same(y.compute(), expected)
        assert y.chunks == lazy(x, 4).chunks


def test_zoneout_with_a_mask_that_is_there():
    new, old = sample(9, 10), sample(9, 10, seed=1)
    given = DropoutMask(new.shape, 0.4, key=3)
    y, mask = fd.zoneout(lazy(new, 4), lazy(old, 4), mask=given, return_mask=True)
    expected, expected_mask = defined("zoneout", new, old, mask=given, return_mask=True)
    assert_same(y.compute(), expected)
    assert mask == expected_mask


def test_a_mask_from_an_array_stands_in_the_graph_once():
    keep, x = np.random.default_rng(0).random((100, 90)) < 0.7, sample(100, 90)
    mask = DropoutMask.from_array(keep, 0.3)
    y = fd.apply(mask, lazy(x, 10))
    assert_same(y.compute(), mask.apply(x))
    assert y.name == fd.apply(mask, lazy(x, 10)).name
    tasks = [len(pickle.dumps(task)) for key, task in dict(y.dask).items() if key[0] == y.name]
    assert len(tasks) == 90
    assert max(tasks) < len(mask.packbits())


# Lazy


def not_to_be_computed(*shape, dtype=np.float32):
    empty = np.empty((0,) * len(shape), dtype)
    return da.map_blocks(dask_chunks.refused, lazy(np.zeros(shape, dtype), 4), dtype=dtype, meta=empty)


@named(LAZY)
def test_building_the_graph_computes_nothing_and_knows_the_dtype(function, dtype):
    arrays = [not_to_be_computed(*array.shape, dtype=dtype) for array in function.arrays()]
    y = getattr(fd, function.name)(*arrays, 0.3)
    assert (y.dtype, type(y._meta)) == (dtype, np.ndarray)
    with pytest.raises(AssertionError, match="a chunk was computed"):
        y.compute(scheduler="synchronous")


def test_where_nothing_is_dropped_x_itself_comes_back():
    x = not_to_be_computed(8, 9)
    mask = DropoutMask(x.shape, 0.0, key=1)
    assert fd.dropout(x, 0.0) is x
    assert fd.dropout(x, 0.5, training=False) is x
    assert fd.gaussian_noise(x, 0.0) is x
    assert fd.backward(mask, x) is x
    assert fd.backward(fastdrop.GaussianMask(x.shape, 0.5, key=1, additive=True), x) is x


def test_computing_again_gives_the_same_and_leaves_x_as_it_was():
    chunks = [sample(5, 6, seed=seed) for seed in range(4)]
    before = [chunk.copy() for chunk in chunks]
    x = da.concatenate([da.from_delayed(dask.delayed(chunk), (5, 6), np.float32) for chunk in chunks])
    for name in ("dropout", "relu_dropout", "alpha_dropout", "gaussian_noise"):
        y = getattr(fd, name)(x, 0.5)
        assert_same(y.compute(), y.compute())
    for chunk, original in zip(chunks, before, strict=True):
        assert_same(chunk, original)


def test_one_thread_works_on_a_chunk_whatever_is_set():
    chunks = sys.modules["fastdrop.dask._chunks"]
    x, mask = lazy(sample(8, 9), 4), DropoutMask((8, 9), 0.5, key=1)
    with fastdrop.num_threads(7):
        y = chunks.mapped("probe", dask_chunks.threads_of_fastdrop, mask, x)
        np.testing.assert_array_equal(y.compute(scheduler="synchronous"), 1)
        np.testing.assert_array_equal(y.compute(scheduler="threads"), 1)
        assert fastdrop.get_num_threads() == 7


# Names


def test_the_same_key_gives_the_same_name_and_another_another():
    x = lazy(sample(8, 9), 4)
    same = [fd.dropout(x, 0.5, rng=seed).name for seed in (1, [1], np.random.SeedSequence(1))]
    same += [fd.dropout(lazy(sample(8, 9), 4), 0.5, rng=PhiloxStream(1)).name]
    assert len(set(same)) == 1
    assert same[0].startswith("dropout-")
    generator, stream = np.random.default_rng(1), PhiloxStream(1)
    others = [fd.dropout(x, 0.5, rng=rng).name for rng in (None, None, generator, generator, 2)]
    others += [fd.dropout(x, 0.5, rng=stream).name for _ in range(2)][1:]
    others += [fd.dropout(x, rate, rng=1).name for rate in (0.5000001, 1.0)]
    others += [fd.dropout(x.rechunk(3), 0.5, rng=1).name, fd.dropout(x + 1, 0.5, rng=1).name]
    others += [fd.dropout(x, 0.5, rng=1, shared_axes=1).name, fd.dropout(x, 0.5, rng=1, mode="downscale_in_infer").name]
    others += [getattr(fd, name)(x, 0.5, rng=1).name for name in ("alpha_dropout", "relu_dropout", "gaussian_noise")]
    residuals = [fd.dropout_add(x, other, 0.5, rng=1).name for other in (x, x + 1)]
    assert len({*same, *others, *residuals}) == 1 + len(others) + len(residuals)


def test_names_of_masks_applied():
    x, mask = lazy(sample(8, 9), 4), fastdrop.AlphaMask((8, 9), 0.5, key=1)
    names = [fd.apply(mask, x).name, fd.backward(mask, x).name]
    assert names == [fd.apply(mask, x).name, fd.backward(mask, x).name]
    assert len({*names, fd.apply(DropoutMask((8, 9), 0.5, key=1), x).name}) == 3


def test_names_tell_what_is_done_with_masks_of_the_same_numbers():
    x, alpha = lazy(sample(8, 9), 4), fastdrop.AlphaMask((8, 9), 0.5, key=0)
    assert fd.apply(alpha, x).name != fd.apply(DropoutMask((8, 9), 0.5, key=0, scale=alpha.scale), x).name
    drawn = fd.zoneout(x, x, mask=DropoutMask((8, 9), 0.5, key=0))
    assert drawn.name != fd.zoneout(x, x, 0.5, training=False).name


def test_names_are_the_same_in_every_process():
    code = (
        "import dask.array as da, fastdrop.dask as fd; x = da.ones((8, 9), chunks=4); "
        "print(fd.dropout(x, 0.5, rng=1).name, fd.gaussian_noise(x, 0.5, rng=1).name)"
    )
    names = set()
    for seed in ("1", "2"):
        environment = {**helpers.environment(), "PYTHONHASHSEED": seed}
        arguments = [sys.executable, "-W", "ignore", "-c", code]
        names.add(subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout)
    x = da.ones((8, 9), chunks=4)
    assert names == {f"{fd.dropout(x, 0.5, rng=1).name} {fd.gaussian_noise(x, 0.5, rng=1).name}\n"}


# Large graphs


def test_a_graph_of_100_000_chunks():
    """It is built within 10 s, with its tasks, of this process's time: other processes may be busy too."""
    x = da.ones((100_000, 4), chunks=(1, 4), dtype=np.float32)
    begin = time.process_time()
    y = fd.dropout(x, 0.5, rng=1)
    assert time.process_time() - begin < 1
    layer = y.dask.layers[y.name]
    assert not layer.is_materialized()
    # A place in the array for each chunk, and not a mask.
    assert len(pickle.dumps(y.dask)) - len(pickle.dumps(x.dask)) < 10 * 100_000
    tasks = dict(layer)
    assert time.process_time() - begin < 10
    assert len(tasks) == 100_000
    assert len(pickle.dumps(tasks[(y.name, 99_999, 0)])) < 1000
    last = DropoutMask(x.shape, 0.5, key=PhiloxStream(1).key)[-1:]
    assert_same(y[-1:].compute(), last.apply(np.ones((1, 4), np.float32)))


def test_an_array_of_more_than_2_to_the_40_elements():
    x = da.ones((1 << 30, 1 << 20), chunks=(1 << 26, 1 << 16), dtype=np.float32)
    y, mask = fd.dropout(x, 0.5, rng=1, return_mask=True)
    where = slice((1 << 30) - 2, 1 << 30), slice((1 << 20) - 3, 1 << 20)
    small = da.ones((2, 3), dtype=np.float32)
    assert_same(fd.apply(mask[where], small).compute(), mask[where].apply(np.ones((2, 3), np.float32)))
    assert y.shape == x.shape


# Bad input


class Sparse:
    """An array of a kind that Dask takes for chunks, and that is none of NumPy's."""

    ndim, shape, dtype = 2, (0, 0), np.dtype(np.float32)

    def __getitem__(self, index):
        return self

    def __array_function__(self, *args): ...
    def __array_ufunc__(self, *args): ...


def of_sparse():
    x = da.ones((8, 9), chunks=4, dtype=np.float32)
    return da.Array(x.dask, x.name, x.chunks, dtype=x.dtype, meta=Sparse())


def of_unknown_chunks():
    x = da.ones(8, chunks=4)
    return x[x > 0]


BAD_ARRAYS = {
    "numpy": (lambda: np.ones(3), TypeError, "Dask array.*got numpy.ndarray: .*fastdrop.dropout"),
    "list": (lambda: [1.0], TypeError, "Dask array.*got list"),
    "None": (lambda: None, TypeError, "Dask array.*got NoneType"),
    "integers": (lambda: da.ones(3, dtype=int), TypeError, "an array of float16.*got dtype int64"),
    "complex": (lambda: da.ones(3, dtype=complex), TypeError, "an array of float16.*got dtype complex128"),
    "unknown chunks": (of_unknown_chunks, ValueError, r"known sizes.*\(nan,\): x.compute_chunk_sizes\(\)"),
    "sparse": (of_sparse, TypeError, "a Dask array of NumPy arrays, got one of .*Sparse"),
    "Dataset": (lambda: xr.Dataset({"a": ("t", [1.0])}), TypeError, r"xarray.Dataset.*x.map\(fastdrop.dask.dropout"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_an_array_that_is_refused(bad, training):
    make, error, message = BAD_ARRAYS[bad]
    stream = PhiloxStream(1)
    with pytest.raises(error, match=f"^x must .*{message}"):
        fd.dropout(make(), 0.5, rng=stream, training=training)
    assert stream.call == 0


@named(LAZY)
@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), "0.5", None])
def test_a_rate_that_is_refused(function, rate):
    stream = PhiloxStream(1)
    arrays = [lazy(array, 3) for array in function.arrays()]
    with pytest.raises((TypeError, ValueError), match=function.amount):
        getattr(fd, function.name)(*arrays, rate, rng=stream)
    assert stream.call == 0


@named(LAZY)
def test_the_first_array_is_named_in_the_error(function):
    stream = PhiloxStream(1)
    arrays = [lazy(array.astype(int), 3) for array in function.arrays()]
    with pytest.raises(TypeError, match=f"^{function.operands[0]} must be"):
        getattr(fd, function.name)(*arrays, 0.5, rng=stream)
    assert stream.call == 0


REFUSED = {
    "noise_shape": ("dropout", {"noise_shape": (2, 9)}, ValueError, "noise_shape must hold"),
    "axes": ("dropout", {"shared_axes": 2}, ValueError, "shared_axes must be from -2 to 1"),
    "name of an axis": ("dropout", {"shared_axes": "time"}, TypeError, "shared_axes must be an int"),
    "both": ("dropout", {"shared_axes": 1, "noise_shape": (8, 1)}, ValueError, "noise_shape or shared_axes, not both"),
    "mode": ("dropout", {"mode": "upscale"}, ValueError, "mode must be"),
    "training": ("dropout", {"training": 1}, TypeError, "training must be True or False"),
    "return_mask": ("dropout", {"return_mask": "yes"}, TypeError, "return_mask must be True or False"),
    "rate and keep_prob": ("dropout", {"rate": 0.5, "keep_prob": 0.5}, ValueError, "rate or keep_prob, not both"),
    "data_format": ("dropout1d", {"data_format": "NCL"}, ValueError, "data_format must be"),
    "dimensions": ("dropout2d", {}, ValueError, "x must have shape"),
    "gaussian": ("gaussian_dropout", {"rate": 1.0}, ValueError, "rate must be below 1"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_an_option_that_is_refused_as_the_core_refuses_it(refused):
    name, options, error, message = REFUSED[refused]
    stream, x = PhiloxStream(1), sample(8, 9)
    with pytest.raises(error, match=message) as of_core:
        getattr(fastdrop, name)(x, rng=stream, **options)
    with pytest.raises(error) as lazily:
        getattr(fd, name)(lazy(x, 4), rng=stream, **options)
    assert str(lazily.value) == str(of_core.value)
    assert stream.call == 0


def test_an_rng_that_is_refused():
    with pytest.raises(TypeError, match="rng must be"):
        fd.dropout(lazy(sample(8, 9), 4), 0.5, rng="seed")


def test_out_is_no_argument_because_chunks_may_have_other_readers():
    x = lazy(sample(8, 9), 4)
    with pytest.raises(TypeError, match="out"):
        fd.dropout(x, 0.5, out=x)


@pytest.mark.parametrize(
    ("residual", "error", "message"),
    [
        (np.ones((9, 8), np.float32), ValueError, "residual must have the shape of x"),
        (np.ones((8, 9)), TypeError, "residual must have the dtype of x"),
        ([1.0], TypeError, "residual must be a Dask array, got list"),
        (None, TypeError, "residual must be a Dask array, got NoneType"),
    ],
)
def test_an_array_beside_x_that_is_refused(residual, error, message):
    stream, x = PhiloxStream(1), lazy(sample(8, 9), 4)
    for other in (residual, lazy(residual, 4)) if isinstance(residual, np.ndarray) else (residual,):
        with pytest.raises(error, match=f"^{message}"):
            fd.dropout_add(x, other, 0.5, rng=stream)
    assert stream.call == 0


def test_a_masked_array_beside_another_is_refused_when_the_graph_is_built():
    x, residual = lazy(sample(8, 9), 4), lazy(np.ma.masked_greater(sample(8, 9), 1.0), 4)
    with pytest.raises(TypeError, match="residual must be a plain ndarray beside x, got a MaskedArray"):
        fd.dropout_add(x, residual, 0.5)


def test_a_bias_that_is_refused():
    stream, x = PhiloxStream(1), lazy(sample(8, 9), 4)
    for bias in (np.ones(8, np.float32), da.ones(8, dtype=np.float32)):
        with pytest.raises(ValueError, match="bias must have the shape of x's last dimension"):
            fd.bias_dropout_add(x, bias, x, 0.5, rng=stream)
    assert stream.call == 0


def test_masks_that_are_refused():
    x = lazy(sample(8, 9), 4)
    with pytest.raises(ValueError, match=r"x must have the shape of the mask, \(9, 8\), got \(8, 9\)"):
        fd.apply(DropoutMask((9, 8), 0.5, key=1), x)
    with pytest.raises(ValueError, match=r"dy must have the shape of the mask"):
        fd.backward(DropoutMask((9, 8), 0.5, key=1), x)
    with pytest.raises(TypeError, match="mask must be a DropoutMask"):
        fd.apply(np.ones((8, 9), bool), x)
    with pytest.raises(TypeError, match="x must be a Dask array or an xarray object, got numpy"):
        fd.apply(DropoutMask((8, 9), 0.5, key=1), np.ones((8, 9)))
    with pytest.raises(TypeError, match="mask must be a DropoutMask"):
        fd.dropout_add_backward(x, fastdrop.AlphaMask((8, 9), 0.5, key=1))
    with pytest.raises(ValueError, match="mask must have the shape of new"):
        fd.zoneout(x, x, mask=DropoutMask((9, 8), 0.5, key=1))
    with pytest.raises(ValueError, match="give a mask, or rate"):
        fd.zoneout(x, x, 0.5, mask=DropoutMask((8, 9), 0.5, key=1))
    with pytest.raises(ValueError, match="mask must be as zoneout returns it"):
        fd.zoneout_backward(x, DropoutMask((8, 9), 0.5, key=1))


def test_a_failure_after_the_draw_gives_the_call_back(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(da, "blockwise", fail)
    stream = PhiloxStream(1)
    with pytest.raises(MemoryError):
        fd.dropout(lazy(sample(8, 9), 4), 0.5, rng=stream)
    assert stream.call == 0


def test_a_stream_moves_by_one_call_in_training_alone():
    stream, x = PhiloxStream(1), lazy(sample(8, 9), 4)
    for call, (rate, training) in enumerate([(0.5, True), (0.0, True), (1.0, True)]):
        fd.dropout(x, rate, rng=stream, training=training).compute()
        assert stream.call == call + 1
    fd.dropout(x, 0.5, rng=stream, training=False)
    assert stream.call == 3


# xarray


def labelled(data):
    coords = {"time": np.arange(8) * 10, "place": ("space", list("abcdefghi"))}
    x = xr.DataArray(data, dims=("time", "space"), coords=coords, attrs={"units": "K"}, name="temperature")
    x.encoding = {"dtype": "int16", "scale_factor": 0.01}
    return x


@pytest.mark.parametrize("is_dask", [True, False])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "gaussian_noise", "drop_path"])
def test_a_data_array_keeps_all_but_its_numbers(name, is_dask):
    numbers = sample(8, 9)
    x = labelled(lazy(numbers, 4) if is_dask else numbers)
    y, mask = getattr(fd, name)(x, 0.5, rng=1, return_mask=True)
    expected, expected_mask = defined(name, numbers, 0.5, rng=1, return_mask=True)
    assert isinstance(y.data, da.Array) == is_dask
    assert y.chunks == x.chunks
    assert y.identical(labelled(expected))
    assert_same(y.values, expected)
    assert mask == expected_mask
    # In a file the values would be rounded to these integers.
    assert (y.encoding, x.encoding["dtype"]) == ({}, "int16")
    dx = fd.backward(mask, y)
    assert dx.identical(labelled(expected_mask.backward(expected)))


def test_a_variable():
    numbers = sample(8, 9)
    x = xr.Variable(("time", "space"), lazy(numbers, 4), attrs={"units": "K"})
    y = fd.dropout(x, 0.5, rng=1)
    assert y.identical(xr.Variable(("time", "space"), defined("dropout", numbers, 0.5, rng=1), attrs={"units": "K"}))


@pytest.mark.parametrize(("names", "axes"), [("time", 0), (["space"], 1), (("space", "time"), (0, 1)), (1, 1)])
@pytest.mark.parametrize("is_dask", [True, False])
def test_decisions_are_shared_along_dimensions_by_their_names(names, axes, is_dask):
    numbers = sample(8, 9)
    y = fd.dropout(labelled(lazy(numbers, 4) if is_dask else numbers), 0.5, shared_axes=names, rng=1)
    assert_same(y.values, defined("dropout", numbers, 0.5, shared_axes=axes, rng=1))


def test_the_name_of_a_dimension_that_is_not_there():
    stream = PhiloxStream(1)
    with pytest.raises(ValueError, match=r"shared_axes must name dimensions of x, \('time', 'space'\), got 'level'"):
        fd.dropout(labelled(lazy(sample(8, 9), 4)), 0.5, shared_axes=["time", "level"], rng=stream)
    assert stream.call == 0


def test_where_nothing_is_dropped_the_data_array_itself_comes_back():
    x = labelled(not_to_be_computed(8, 9))
    assert fd.dropout(x, 0.5, training=False) is x
    assert fd.dropout(x, 0.0) is x


def test_chunks_of_a_data_array_do_not_repeat_one_mask_as_apply_ufunc_makes_them():
    x = xr.DataArray(da.ones((4, 1000), chunks=(1, 1000)), dims=("chunk", "element"))
    options = {"dask": "parallelized", "output_dtypes": [x.dtype]}
    repeated = xr.apply_ufunc(lambda block: fastdrop.dropout(block, 0.5, rng=0), x, **options).values
    assert len({row.tobytes() for row in repeated}) == 1
    assert len({row.tobytes() for row in fd.dropout(x, 0.5, rng=0).values}) == 4


def test_each_variable_of_a_dataset_has_its_own_mask():
    x = xr.Dataset({name: ("t", da.ones(1000, chunks=100)) for name in "ab"}, attrs={"title": "both"})
    y = x.map(fd.dropout, args=(0.5,), rng=PhiloxStream(1), keep_attrs=True)
    for call, name in enumerate("ab"):
        expected = defined("dropout", np.ones(1000), 0.5, rng=PhiloxStream.from_key(PhiloxStream(1).key, call))
        assert_same(y[name].values, expected)
    assert y.attrs == x.attrs


@pytest.mark.parametrize("name", ["dropout_add", "zoneout"])
def test_functions_of_two_arrays_refuse_what_has_labels(name):
    x = labelled(lazy(sample(8, 9), 4))
    first = FAMILY[name].operands[0]
    with pytest.raises(TypeError, match=rf"^{first} must be a Dask array, got an xarray.DataArray.*pass {first}.data"):
        getattr(fd, name)(x, x, 0.5)


# What is to come of Dask


def test_with_dasks_query_planning_masks_are_the_same():
    code = """
import sys
try:
    import dask.array as da
    da.ones(1).expr
except (ImportError, AttributeError):
    sys.exit("no query planning")
import numpy as np, fastdrop, fastdrop.dask
x = da.ones((30, 20), chunks=(7, 6), dtype=np.float32)
y = fastdrop.dask.dropout_add(fastdrop.dask.dropout(x, 0.5, rng=1), x, 0.5, rng=2).compute()
x = np.ones((30, 20), np.float32)
print(np.array_equal(y, fastdrop.dropout_add(fastdrop.dropout(x, 0.5, rng=1), x, 0.5, rng=2)))
"""
    environment = {**helpers.environment(), "DASK_ARRAY__QUERY_PLANNING": "True"}
    arguments = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if result.stderr == "no query planning\n":
        pytest.skip("this Dask has no query planning for arrays")
    assert (result.stdout, result.stderr) == ("True\n", "")
