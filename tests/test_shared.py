# SPDX-License-Identifier: BSD-3-Clause
"""What belongs together is dropped together, and what does not is not: axes, channels, samples, rows of a table."""

import itertools

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

CHANNELS = {1: fastdrop.dropout1d, 2: fastdrop.dropout2d, 3: fastdrop.dropout3d}
LENGTHS = (4, 5, 3)  # of a channel, in each of its dimensions
SHARING = ("dropout1d", "dropout2d", "dropout3d", "drop_path", "embedding_dropout", "feature_alpha_dropout")


def small(array, axes):
    """One element of those that are dropped together."""
    return array[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(array.ndim))]


@pytest.mark.parametrize("function", SHARING, indirect=True)
def test_they_are_dropped_together_by_the_decisions_of_the_small_mask(function, dtype, either):
    stream = PhiloxStream(6)
    ones = np.ones(function.shape, dtype)
    y, mask = function(ones, 0.4, rng=stream, return_mask=True)
    first = small(y, function.shared)
    np.testing.assert_array_equal(y, np.broadcast_to(first, y.shape))
    decisions = np.asarray(DropoutMask(first.shape, 0.4, key=stream.key))
    assert 0 < np.count_nonzero(decisions) < decisions.size
    kept, dropped = y[np.broadcast_to(decisions, y.shape)], y[~np.broadcast_to(decisions, y.shape)]
    assert len(np.unique(kept)) == len(np.unique(dropped)) == 1
    assert kept[0] != dropped[0]
    assert mask.noise_shape == first.shape
    np.testing.assert_array_equal(mask, np.broadcast_to(decisions, y.shape))


@pytest.mark.parametrize("function", SHARING, indirect=True)
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_decisions_are_independent_of_each_other(function, rate):
    calls = 3000
    ones = np.ones(function.shape, np.float32)
    stream = PhiloxStream(9)
    masks = (function(ones, rate, rng=stream, return_mask=True)[1] for _ in range(calls))
    kept = np.array([small(np.asarray(mask), function.shared).reshape(-1) for mask in masks])
    # Within 5 standard errors, for there are some hundred of these comparisons in all.
    assert np.abs(kept.mean(axis=0) - (1 - rate)).max() < 5 * np.sqrt(rate * (1 - rate) / calls)
    agree = kept[:, 0:-1:2] == kept[:, 1::2]
    expected = rate**2 + (1 - rate) ** 2
    assert abs(agree.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / agree.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("function", [fastdrop.dropout1d, fastdrop.feature_alpha_dropout], ids=lambda f: f.__name__)
def test_long_channels_and_neighbours_that_are_decided_alike(function, rate, dtype, either):
    """Channels of some length are set or cleared at once, together with those beside them that are decided alike."""
    for length in (1023, 1024, 1025, 9000):
        x = np.random.default_rng(0).standard_normal((3, 11, length)).astype(dtype)
        x[:, ::3, ::100] = np.nan
        y, mask = function(x, rate, rng=4, return_mask=True)
        part = mask[1:, 2:9, 5:]
        with helpers.using("reference"):
            expected, _ = function(x, rate, rng=4, return_mask=True)
        np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))
        np.testing.assert_array_equal(part.apply(x[1:, 2:9, 5:]).view(np.uint8), y[1:, 2:9, 5:].copy().view(np.uint8))


@pytest.mark.parametrize("dims", CHANNELS)
@pytest.mark.parametrize("has_batch", [True, False], ids=["batch", "one"])
def test_channels_last_is_channels_first_with_its_axes_moved(dims, has_batch, either):
    shape = (6, 7, *LENGTHS[:dims]) if has_batch else (7, *LENGTHS[:dims])
    x = np.random.default_rng(0).standard_normal(shape)
    channel = 1 if has_batch else 0
    apply = CHANNELS[dims]
    y, mask = apply(x, 0.4, rng=3, return_mask=True)
    last, last_mask = apply(np.moveaxis(x, channel, -1), 0.4, data_format="channels_last", rng=3, return_mask=True)
    np.testing.assert_array_equal(np.moveaxis(last, -1, channel), y)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(last_mask), -1, channel), mask)
    np.testing.assert_array_equal(apply(x, 0.4, data_format="channels_first", rng=3), y)
    axes = tuple(range(channel + 1, x.ndim))
    np.testing.assert_array_equal(y, fastdrop.dropout(x, 0.4, shared_axes=axes, rng=3))


@pytest.mark.parametrize("dims", CHANNELS)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_one_sample_is_a_batch_of_one(dims, data_format, either):
    shape = (9, *LENGTHS[:dims]) if data_format == "channels_first" else (*LENGTHS[:dims], 9)
    x = np.random.default_rng(0).standard_normal(shape)
    one = CHANNELS[dims](x, 0.4, data_format=data_format, rng=3)
    batch = CHANNELS[dims](x[np.newaxis], 0.4, data_format=data_format, rng=3)
    np.testing.assert_array_equal(one, batch[0])
    assert 0 < np.count_nonzero(one) < one.size


@pytest.mark.parametrize("shape", [(12,), (12, 3), (12, 3, 4, 5)], ids=str)
def test_drop_path_drops_samples_of_any_shape(shape, either):
    y, mask = fastdrop.drop_path(np.ones(shape), 0.5, rng=1, return_mask=True)
    whole = np.asarray(DropoutMask(12, 0.5, key=PhiloxStream(1).key))
    np.testing.assert_array_equal(y.reshape(12, -1), np.repeat(whole[:, np.newaxis] * 2.0, y.size // 12, axis=1))
    np.testing.assert_array_equal(np.asarray(mask).reshape(12, -1)[:, 0], whole)


def test_a_word_is_dropped_wherever_it_stands(either):
    table = np.random.default_rng(0).standard_normal((20, 3))
    words = np.array([[3, 7, 3, 1, 3], [7, 0, 3, 19, 1]])
    y, mask = fastdrop.embedding_dropout(table, 0.5, rng=2, return_mask=True)
    is_kept = np.asarray(mask)[:, 0]
    assert 0 < np.count_nonzero(is_kept[words]) < words.size
    np.testing.assert_array_equal(y[words], table[words] * 2 * is_kept[words][..., np.newaxis])


def test_dropconnect_drops_single_weights(either):
    weights = np.random.default_rng(0).standard_normal((30, 20))
    np.testing.assert_array_equal(fastdrop.dropconnect(weights, 0.3, rng=1), fastdrop.dropout(weights, 0.3, rng=1))


# Axes


@pytest.mark.parametrize("shape", [(6,), (6, 5), (4, 3, 6)], ids=str)
def test_shared_axes_is_the_noise_shape_with_1_there(shape, either):
    x = np.random.default_rng(0).standard_normal(shape)
    for n in range(len(shape) + 1):
        for axes in itertools.permutations(range(len(shape)), n):
            noise_shape = tuple(1 if axis in axes else length for axis, length in enumerate(shape))
            y, mask = fastdrop.dropout(x, 0.4, noise_shape=noise_shape, rng=3, return_mask=True)
            from_end = tuple(axis - len(shape) for axis in axes)
            given = [axes, list(axes), from_end, np.array(axes, int), tuple(map(np.int8, axes))]
            if n == 1:
                given += [axes[0], from_end[0], np.int64(axes[0])]
            if axes == tuple(range(n)):
                given += [range(n)]
            for same in given:
                again, same_mask = fastdrop.dropout(x, 0.4, shared_axes=same, rng=3, return_mask=True)
                np.testing.assert_array_equal(again, y)
                assert same_mask == mask
                layer = fastdrop.Dropout(0.4, shared_axes=same, rng=PhiloxStream(3))
                np.testing.assert_array_equal(layer(x), y)


def test_no_shared_axes_is_plain_dropout(either):
    x = np.random.default_rng(0).standard_normal((30, 40))
    y, mask = fastdrop.dropout(x, 0.4, rng=3, return_mask=True)
    for nothing in ((), [], None):
        again, same = fastdrop.dropout(x, 0.4, shared_axes=nothing, rng=3, return_mask=True)
        np.testing.assert_array_equal(again, y)
        assert same == mask
    assert fastdrop.dropout(np.float64(1), 0, shared_axes=()) == 1


@pytest.mark.parametrize("noise_shape", [(None, 1), (1, None), (None, None), [30, 1], (1, 1)], ids=str)
def test_noise_shape_draws_a_small_mask(noise_shape, either):
    stream = PhiloxStream(4)
    y = fastdrop.dropout(np.ones((30, 40)), 0.25, noise_shape=noise_shape, rng=stream)
    drawn = tuple(own if n is None else n for n, own in zip(noise_shape, (30, 40), strict=True))
    decisions = np.asarray(DropoutMask(drawn, 0.25, key=stream.key))
    np.testing.assert_array_equal(y, np.broadcast_to(np.where(decisions, 1 / 0.75, 0), (30, 40)))


# Where to scale


@pytest.mark.parametrize("shared_axes", [None, 1], ids=["single", "rows"])
@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 1])
def test_downscale_in_infer_leaves_kept_elements_and_scales_outside_training(rate, shared_axes, dtype, either):
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal((30, 40)).astype(dtype) for _ in range(2))
    options = {"mode": "downscale_in_infer", "shared_axes": shared_axes, "rng": PhiloxStream(2)}
    y, mask = fastdrop.dropout(x, rate, **options, return_mask=True)
    up, up_mask = fastdrop.dropout(x, rate, shared_axes=shared_axes, rng=2, return_mask=True)
    keep, zero = np.asarray(mask), np.zeros((), dtype)
    np.testing.assert_array_equal(keep, up_mask)
    np.testing.assert_array_equal(y == 0, up == 0)
    np.testing.assert_array_equal(y, np.where(keep, x, zero), strict=True)
    np.testing.assert_array_equal(mask.apply(x), y, strict=True)
    np.testing.assert_array_equal(mask.backward(dy), np.where(keep, dy, zero), strict=True)
    assert (mask.scale, mask.rate) == (1, rate)
    assert (y is x) == (rate == 0)
    out = np.full_like(x, 7)
    assert fastdrop.dropout(x, rate, **{**options, "rng": 2}, out=out) is out
    np.testing.assert_array_equal(out, y)

    stream = PhiloxStream(2)
    options["rng"] = stream
    y, mask = fastdrop.dropout(x, rate, **options, training=False, return_mask=True)
    assert stream.call == 0
    number = np.float64 if dtype == np.float64 else np.float32
    factor = number(1 - rate)
    np.testing.assert_array_equal(y, (x.astype(number) * factor).astype(dtype), strict=True)
    np.testing.assert_array_equal(mask.backward(dy), (dy.astype(number) * factor).astype(dtype), strict=True)
    assert np.asarray(mask).all() == (rate < 1)  # at 1 all is zero, infinity too, which a factor of 0 would not give
    assert (y is x) == (rate == 0)
    assert fastdrop.dropout(x, rate, **options, training=False, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert fastdrop.dropout(x, rate, **options, training=False, out=x) is x
    np.testing.assert_array_equal(x, y)


def test_both_modes_have_the_same_expected_value():
    x = np.ones(100_000)
    for training, tolerance in ((True, 4 * np.sqrt(0.3 * 0.7 / x.size)), (False, 1e-12)):  # 4 standard errors; rounding
        down = fastdrop.dropout(x, 0.3, mode="downscale_in_infer", training=training, rng=1).mean()
        assert abs(down - 0.7) < tolerance
        assert abs(fastdrop.dropout(x, 0.3, training=training, rng=1).mean() - 1) < tolerance / 0.7


# Nested masks


@pytest.mark.parametrize(
    "function",
    [*SHARING, "dropout", "dropconnect", "alpha_dropout", "dropout_add", "bias_dropout_add", "relu_dropout", "zoneout"],
    indirect=True,
)
def test_what_survives_a_higher_rate_survives_a_lower_one(function, either):
    arrays = function.arrays()
    kept = [np.asarray(function(*arrays, rate, rng=3, return_mask=True)[1]) for rate in (0, 0.1, 0.3, 0.5, 0.7, 1)]
    for more, fewer in itertools.pairwise(kept):
        assert (more | ~fewer).all()
    counts = [np.count_nonzero(keep) for keep in kept]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == kept[0].size
    assert counts[1] > counts[4] > counts[5] == 0


def test_functions_of_one_stream_position_share_their_mask(either):
    """The mask is a function of key, call and place alone, so forward passes of several kinds can agree on one."""
    x = np.abs(np.random.default_rng(0).standard_normal((20, 30))) + 1
    zero = np.zeros_like(x)
    expected = fastdrop.dropout(x, 0.4, rng=3)
    for same in (
        fastdrop.dropconnect(x, 0.4, rng=3),
        fastdrop.dropout_add(x, zero, 0.4, rng=3),
        fastdrop.bias_dropout_add(x, zero[0], zero, 0.4, rng=3),
        fastdrop.relu_dropout(x, 0.4, rng=3),
    ):
        np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(fastdrop.zoneout(x, zero, 0.4, rng=3) != 0, expected != 0)
    np.testing.assert_array_equal(fastdrop.alpha_dropout(x, 0.4, rng=3) > 0, expected != 0)
