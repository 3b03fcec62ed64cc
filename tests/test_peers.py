# SPDX-License-Identifier: BSD-3-Clause
"""Bugs that other dropouts had, each as the promise that fastdrop makes instead."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import philox4x32, using

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

FLOATS = ["f2", "bfloat16", "f4", "f8"]
VECTORS = json.loads((Path(__file__).parent / "vectors" / "stream_v1.json").read_text())["cases"]


def array(values, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return np.asarray(values).astype(dtype)


def uniforms():
    """(key, call, element, U(element)) of the test vectors: numbers that stand on the edge of their own rates."""
    found = {}
    for vector in VECTORS:
        for i, text in enumerate(vector["first_uniforms"]):
            found[int(vector["key"], 16), vector["call"], vector["start"] + i] = int(text, 16)
    return [(*where, u) for where, u in found.items()]


# A uniform that includes 1.0, or <= for <: drops at rate 0, keeps at rate 1
# (pytorch #15356, #26807; mxnet #9816, #12314)


@pytest.mark.parametrize(("rate", "kept"), [(0, 10**7), (1e-300, 10**7), (1 - 2**-53, 0), (1, 0)])
def test_rate_0_drops_nothing_and_rate_1_keeps_nothing_of_ten_million(rate, kept, either):
    assert np.count_nonzero(np.asarray(DropoutMask(10**7, rate, key=3))) == kept


def test_an_element_is_dropped_iff_its_uniform_is_below_the_rate_and_not_at_it(either):
    for key, call, element, u in uniforms():
        kept = {d: np.asarray(DropoutMask(element + 1, d / 2**32, key=key, call=call)[element]) for d in (u, u + 1)}
        assert (kept[u].item(), kept[u + 1].item()) == (True, False)


# Rates below 2^-23, or in half precision, that cannot be reached (jax #28017; TensorFlow in bfloat16)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rates_that_are_2_to_the_minus_32_apart_are_told_apart_in_every_dtype(dtype, either):
    x = array([1.0], dtype)
    for key, call, element, u in uniforms():
        masks = [DropoutMask(element + 1, d / 2**32, key=key, call=call)[element:] for d in (u, u + 1)]
        assert [bool(mask.apply(x)[0] != 0) for mask in masks] == [True, False]


def test_the_rates_of_one_in_a_million_and_less_drop_that_many(either):
    # Nested masks: what a tiny rate drops, a larger one drops too, and the numbers follow the binomial law.
    n = 2**22
    dropped = [np.flatnonzero(~np.asarray(DropoutMask(n, 2.0**-k, key=3))) for k in (16, 20, 24)]
    for k, found in zip((16, 20, 24), dropped, strict=True):
        expected = n / 2**k
        assert abs(len(found) - expected) <= 4 * max(expected, 1) ** 0.5
    assert set(dropped[2]) <= set(dropped[1]) <= set(dropped[0])
    assert len(dropped[0]) > len(dropped[1]) > 0


# 8-bit rounding of the rate with the exact scale (FlashAttention, TransformerEngine)


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.9])
def test_the_rate_is_not_rounded_to_8_bits_and_the_mean_stays(rate, either):
    n = 2**22
    x = np.ones(n, np.float32)
    y = fastdrop.dropout(x, rate, rng=3)
    sigma = (rate * (1 - rate) / n) ** 0.5
    rounded = round(rate * 256) / 256
    assert abs(rounded - rate) > 8 * sigma, "this many elements cannot tell the two rates apart"
    assert abs(np.mean(y == 0) - rate) < 4 * sigma
    assert abs(y.mean(dtype=np.float64) - 1) < 4 * sigma / (1 - rate)


# NaN or infinity times 0 (pytorch #59421); -0 for a dropped negative


@pytest.mark.parametrize("rate", [0.3, 0.5, 1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_dropped_element_is_positive_zero_whatever_it_was(dtype, rate, either):
    x = array(np.resize([np.nan, -np.nan, np.inf, -np.inf, -1.0, -0.0, 1.0, 1e4], 3000), dtype)
    y, mask = fastdrop.dropout(x, rate, rng=3, return_mask=True)
    dropped = ~np.asarray(mask)
    assert dropped.sum() >= 300
    assert y[dropped].tobytes() == bytes(dropped.sum() * x.itemsize)
    backward = mask.apply(x)
    assert backward[dropped].tobytes() == bytes(dropped.sum() * x.itemsize)
    # And what is kept is not cleaned either.
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.isnan(y[~dropped]), np.isnan(x[~dropped]))
        np.testing.assert_array_equal(np.isinf(y[~dropped]), np.isinf(x[~dropped]))
        np.testing.assert_array_equal(np.signbit(y[~dropped & ~np.isnan(x)]), np.signbit(x[~dropped & ~np.isnan(x)]))


# 1 / (1 - p) at p = 1 (axon #367, MXNet)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rate_1_gives_zeros_forward_and_backward_without_a_warning(dtype, either):
    x = array(np.arange(300.0), dtype)
    with np.errstate(all="raise"):
        y, mask = fastdrop.dropout(x, 1.0, rng=3, return_mask=True)
        dx = mask.apply(x)
    assert np.isfinite(mask.scale)
    assert y.tobytes() == dx.tobytes() == bytes(x.nbytes)


# The backward pass infers the mask from output != 0 (dfdx #110)


def test_the_gradient_of_a_kept_zero_is_not_lost(either):
    x = np.zeros(1000, np.float32)
    y, mask = fastdrop.dropout(x, 0.5, rng=3, return_mask=True)
    assert not y.any()
    dx = mask.apply(np.ones_like(x))
    np.testing.assert_array_equal(dx, np.where(np.asarray(mask), np.float32(2), np.float32(0)))
    assert 400 < np.count_nonzero(dx) < 600


# Masks that depend on threads, grid or vendor (pytorch #25690, #194676; nGraph #3006)


def test_the_mask_is_one_whatever_draws_it_in_whatever_shape_dtype_and_number_of_threads(either):
    n = 3 * 2**17 + 60
    expected = np.asarray(DropoutMask(n, 0.1, key=3))
    with using("reference"):
        np.testing.assert_array_equal(expected, DropoutMask(n, 0.1, key=3))
    for threads in (1, 3):
        for shape in ((n,), (12, -1), (-1, 6, 2)):
            for dtype in ("f2", "f4", "f8"):
                x = np.ones(n, dtype).reshape(shape)
                with fastdrop.num_threads(threads):
                    y = fastdrop.dropout(x, 0.1, rng=PhiloxStream.from_key(3))
                np.testing.assert_array_equal(y.reshape(-1) != 0, expected)


# 32-bit offsets that wrap: forward and backward differ (pytorch #187684)


def test_indices_do_not_wrap_at_32_bits_of_elements_blocks_or_words(either):
    mask = DropoutMask(2**45, 0.3, key=3)
    # 2^31 and 2^32 elements; 2^32 words of the tail, with 4 elements each; 2^32 blocks of a plane, with 128 each.
    starts = [0, 2**31, 2**32, 2**33, 2**34, 2**38, 2**39, 2**44]
    parts = [np.asarray(mask[start : start + 512]) for start in starts]
    assert len({part.tobytes() for part in parts}) == len(starts)
    for start in starts[1:]:
        around = mask[start - 300 : start + 300]
        halves = [np.asarray(mask[start - 300 : start]), np.asarray(mask[start : start + 300])]
        np.testing.assert_array_equal(around, np.concatenate(halves))
        x = np.ones(600, np.float32)
        np.testing.assert_array_equal(around.apply(x) != 0, np.concatenate(halves))


def test_the_tail_of_far_elements_is_that_of_their_own_64_bit_index(either):
    # At 255/256 the planes decide; half a 256th more leaves all that they keep to the upper bit of the tail.
    planes, both = (DropoutMask(2**45, rate, key=3) for rate in (255 / 256, 255.5 / 256))
    for start in (0, 2**32, 2**34, 2**35, 2**44):
        left = start + np.flatnonzero(planes[start : start + 4096])
        assert 4 <= len(left) <= 32
        tails = [philox4x32((i // 4 % 2**32, i // 4 >> 32, 0, 8), (3, 0))[i % 4] >> 8 for i in left.tolist()]
        expected = [i for i, tail in zip(left, tails, strict=True) if tail >= 1 << 23]
        assert (start + np.flatnonzero(both[start : start + 4096])).tolist() == expected


# Fresh masks when a checkpoint is recomputed (pytorch #14253; OLMo-core #828)


def test_recomputing_from_a_saved_stream_gives_the_masks_of_the_first_time(either):
    layers = [(0.1, (30, 40)), (0.0, (30, 40)), (0.5, (7,)), (1.0, (3, 3)), (0.3, (100, 5))]
    stream = PhiloxStream(3)
    fastdrop.dropout(np.ones(5), 0.5, rng=stream)
    saved = pickle.dumps(stream)

    def forward(rng):
        return [fastdrop.dropout(np.ones(shape), rate, rng=rng).tobytes() for rate, shape in layers]

    first = forward(stream)
    assert forward(pickle.loads(saved)) == first
    assert forward(stream) != first
    assert stream.call == 1 + 2 * len(layers), "recomputing has moved the stream"


# Hidden seed state, one seed for many layers, an address as the seed (keras #17548; xformers #173; Paddle #7796);
# no more than 4096 seeds (MXNet)


def test_layers_with_streams_of_one_seed_have_masks_of_their_own(either):
    x = np.ones(1000)
    masks = [fastdrop.dropout(x, 0.5, rng=stream).tobytes() for stream in PhiloxStream(3).spawn(20)]
    assert len(set(masks)) == 20
    again = [fastdrop.dropout(x, 0.5, rng=stream).tobytes() for stream in PhiloxStream(3).spawn(20)]
    assert again == masks


def test_streams_do_not_move_each_other():
    x = np.ones(1000)
    alone = [fastdrop.dropout(x, 0.5, rng=stream) for stream in [PhiloxStream(3)] * 3]
    stream = PhiloxStream(3)
    for expected in alone:
        np.testing.assert_array_equal(fastdrop.dropout(x, 0.5, rng=stream), expected)
        fastdrop.dropout(x, 0.5, rng=PhiloxStream(4))
        fastdrop.dropout(x, 0.5, rng=np.random.default_rng(3))
        fastdrop.dropout(x, 0.5)


def test_the_mask_does_not_depend_on_where_the_arrays_lie(either):
    buffer = np.ones(5000)
    results = {fastdrop.dropout(buffer[i : i + 1000], 0.5, rng=3).tobytes() for i in (0, 1, 7, 64, 4000)}
    assert len(results) == 1


def test_ten_thousand_fresh_streams_have_ten_thousand_keys():
    assert len({PhiloxStream().key for _ in range(10_000)}) == 10_000


# Drop and keep swapped (tiny-dnn #961; nd4j #1864)


def test_rate_is_what_is_dropped_and_keep_prob_what_is_kept(either):
    x = np.ones(10_000)
    assert 800 < np.count_nonzero(fastdrop.dropout(x, 0.1, rng=3) == 0) < 1200
    assert 800 < np.count_nonzero(fastdrop.dropout(x, keep_prob=0.1, rng=3)) < 1200
    mask = DropoutMask(10_000, 0.1, key=3)
    assert np.count_nonzero(np.asarray(mask)) > 8800, "True is for keep"
    assert int(np.bitwise_count(mask.packbits()).sum()) > 8800, "a set bit is for keep"
    np.testing.assert_array_equal(DropoutMask.from_array([True, False], 0.5).apply([3.0, 3.0]), [6, 0])


# The mask output is unwritten or wrong (mxnet #15659; onnxruntime #1487)


@pytest.mark.parametrize("noise_shape", [None, (1, 70), (50, 1)], ids=str)
@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("training", [True, False])
def test_the_mask_that_is_returned_is_the_mask_that_was_applied(training, rate, noise_shape, either):
    x = np.ones((50, 70))
    arguments = {"training": training, "noise_shape": noise_shape, "rng": PhiloxStream(3)}
    y, mask = fastdrop.dropout(x, rate, **arguments, return_mask=True)
    keep = np.asarray(mask)
    np.testing.assert_array_equal(keep, y != 0)
    np.testing.assert_array_equal(mask.packbits(), np.packbits(y != 0, bitorder="little"))
    np.testing.assert_array_equal(y, keep * mask.scale)


# A seed for each call (pytorch #76580), and masks in and out (chainer #4907), which users asked for


def test_each_call_may_have_a_seed_and_a_mask_of_its_own(either):
    x = np.random.default_rng(0).standard_normal(1000)
    y, mask = fastdrop.dropout(x, 0.3, rng=11, return_mask=True)
    np.testing.assert_array_equal(fastdrop.dropout(x, 0.3, rng=11), y)
    assert not np.array_equal(fastdrop.dropout(x, 0.3, rng=12), y)
    np.testing.assert_array_equal(DropoutMask.from_array(np.asarray(mask), 0.3).apply(x), y)
