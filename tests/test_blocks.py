# SPDX-License-Identifier: BSD-3-Clause
"""DropBlock drops whole squares, of a mean area that is the rate, and scales by what this very draw has kept."""

import copy
import fractions
import itertools
import math
import pickle

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import BlockMask, DropoutMask, PhiloxStream

# Shapes with channels first, and block sizes: odd and even, of one element, as large as the map, larger than it.
CASES = [
    ((2, 3, 9, 11), 3),
    ((2, 3, 9, 11), 4),
    ((5, 3, 8, 8), 1),
    ((5, 7, 4, 6), 4),
    ((5, 7, 3, 5), 7),
    ((3, 7, 9), 2),
    ((3, 2, 1, 40), 2),
    ((1, 1, 1, 1), 1),
    ((11, 70, 13, 15), 5),  # more than is worked on at a time
]


def squares(shape, block_size, gamma, key, call=0):
    """What is kept, with channels first: a square after the other."""
    *maps, height, width = shape
    size = min(block_size, height, width)
    seeds = ~np.asarray(DropoutMask((*maps, height - size + 1, width - size + 1), gamma, key=key, call=call))
    keep = np.ones(shape, bool)
    for *place, i, j in np.argwhere(seeds):
        keep[(*place, slice(i, i + size), slice(j, j + size))] = False
    return keep


def mean_dropped_area(height, width, block_size, gamma):
    """Over all that seeds can be: each set of them with its probability."""
    size = min(block_size, height, width)
    places = list(itertools.product(range(height - size + 1), range(width - size + 1)))
    gamma, mean = fractions.Fraction(gamma), 0
    for seeds in itertools.product((False, True), repeat=len(places)):
        dropped = {
            (i + down, j + along)
            for (i, j), is_seed in zip(places, seeds, strict=True)
            if is_seed
            for down, along in itertools.product(range(size), repeat=2)
        }
        mean += gamma ** sum(seeds) * (1 - gamma) ** (len(places) - sum(seeds)) * len(dropped)
    return mean / (height * width)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("shape", "block_size"), CASES, ids=str)
def test_it_drops_the_squares_of_its_seeds_and_scales_by_what_is_kept(shape, block_size, rate, dtype, either):
    stream, same_stream = (PhiloxStream.from_key(2026, 5) for _ in range(2))
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y, mask = fastdrop.drop_block2d(x, rate, block_size, rng=stream, return_mask=True)
    keep = squares(shape, block_size, mask.gamma, 2026, 5)
    kept = np.count_nonzero(keep)
    number = np.float64 if dtype == np.float64 else np.float32
    expected = np.where(keep, x.astype(number) * number(keep.size / max(kept, 1)), number(0)).astype(dtype)
    np.testing.assert_array_equal(np.asarray(mask), keep)
    np.testing.assert_array_equal(mask.packbits(), np.packbits(keep, axis=None, bitorder="little"))
    assert mask.scale == (keep.size / kept if kept else 0)
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(mask.backward(x, out=np.empty_like(x)), expected, strict=True)
    np.testing.assert_array_equal(mask.to_array(np.float64), keep * mask.scale)
    last, last_mask = fastdrop.drop_block2d(
        np.moveaxis(x, -3, -1), rate, block_size, data_format="channels_last", rng=same_stream, return_mask=True
    )
    np.testing.assert_array_equal(np.moveaxis(last, -1, -3), y, strict=True)
    np.testing.assert_array_equal(last_mask, np.moveaxis(keep, -3, -1))


@pytest.mark.parametrize(("height", "width", "block_size"), [(3, 5, 2), (4, 4, 3), (3, 3, 1), (2, 9, 7), (2, 3, 5)])
@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 0.9, 1 - 1e-9])
def test_the_mean_dropped_area_is_the_rate(height, width, block_size, rate):
    step = 2.0**-32
    gamma = BlockMask((1, height, width), rate, block_size, key=1).gamma
    assert gamma / step == round(gamma / step)
    wrong = abs(mean_dropped_area(height, width, block_size, gamma) - fractions.Fraction(rate))
    for neighbour in (gamma - step, gamma + step):
        if 0 <= neighbour <= 1:
            area = mean_dropped_area(height, width, block_size, neighbour)
            assert wrong <= abs(area - fractions.Fraction(rate)) + fractions.Fraction(1e-15)  # as sums are rounded


@pytest.mark.parametrize(
    ("height", "width", "block_size", "rate", "threshold"),
    [(56, 56, 7, 0.1, 11658225), (14, 14, 7, 0.1, 29052677), (28, 20, 4, 0.5, 253881438)],
)
def test_the_seeds_of_a_rate_are_these_for_ever(height, width, block_size, rate, threshold):
    """Masks depend on them. A search in rational numbers, of which nothing is left here, found the same."""
    assert BlockMask((1, height, width), rate, block_size, key=1).gamma * 2**32 == threshold


@pytest.mark.parametrize(("rate", "block_size"), [(0.1, 7), (0.5, 4), (0.9, 3)])
def test_as_much_is_dropped_as_the_rate_says(rate, block_size):
    areas = [
        1 - np.asarray(BlockMask((8, 64, 14, 12), rate, block_size, key=9, call=call)).mean(axis=(2, 3))
        for call in range(10)
    ]
    maps = np.concatenate(areas).reshape(-1)
    assert abs(maps.mean() - rate) < 4 * maps.std() / math.sqrt(maps.size)  # standard errors: maps are independent


def test_blocks_of_one_element_are_dropout(either):
    stream = PhiloxStream(3)
    for rate in (0.1, 0.5, 1 / 3):
        block = BlockMask((2, 3, 6, 7), rate, 1, key=stream.key)
        assert block.gamma == DropoutMask(1, rate, key=1).threshold / 2**32
        np.testing.assert_array_equal(block, np.asarray(DropoutMask((2, 3, 6, 7), rate, key=stream.key)))


def test_one_sample_is_a_batch_of_one_and_what_survives_a_higher_rate_survives_a_lower_one(either):
    x = np.random.default_rng(0).standard_normal((6, 10, 10))
    one = fastdrop.drop_block2d(x, 0.3, 3, rng=3)
    np.testing.assert_array_equal(one, fastdrop.drop_block2d(x[np.newaxis], 0.3, 3, rng=3)[0])
    kept = [np.asarray(BlockMask(x.shape, rate, 3, key=4)) for rate in (0, 0.1, 0.3, 0.6, 1)]
    assert all((more | ~fewer).all() for more, fewer in itertools.pairwise(kept))
    assert kept[0].all()
    assert np.count_nonzero(kept[1]) > np.count_nonzero(kept[3]) > np.count_nonzero(kept[4]) == 0


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (4, 0, 8, 8), (4, 3, 0, 8), (4, 3, 8, 0), (0, 0, 0)])
def test_there_may_be_nothing_to_drop_from(shape, either):
    for data_format in ("channels_first", "channels_last"):
        x = np.empty(shape, np.float32)
        y, mask = fastdrop.drop_block2d(x, 0.5, 3, data_format=data_format, rng=1, return_mask=True)
        assert y.shape == mask.apply(x).shape == np.asarray(mask).shape == shape
        assert mask.packbits().shape == (0,)
        assert (mask.scale, 0 <= mask.gamma <= 1) == (0, True)


# The mask as a value

WHOLES = [
    BlockMask((2, 3, 9, 8), 0.3, 4, key=7, call=2),
    BlockMask((2, 9, 8, 3), keep_prob=0.7, block_size=3, key=7, data_format="channels_last"),
    BlockMask((3, 9, 8), 0.6, 2, key=2**64 - 1),
    fastdrop.drop_block2d(np.ones((2, 3, 4, 5)), 0.0, rng=1, return_mask=True)[1],
    fastdrop.drop_block2d(np.ones(5), training=False, return_mask=True)[1],
]


@pytest.mark.parametrize("mask", [*WHOLES, WHOLES[0][1, 1:], WHOLES[1][..., 2]], ids=repr)
def test_a_mask_is_a_value(mask):
    x = np.ones(mask.shape)
    pickled = [pickle.loads(pickle.dumps(mask, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in (*pickled, copy.copy(mask), copy.deepcopy(mask), mask[...]):
        assert same == mask
        assert hash(same) == hash(mask)
        assert (type(same), repr(same), same.shape) == (BlockMask, repr(mask), mask.shape)
        np.testing.assert_array_equal(same.apply(x), mask.apply(x))
    assert len(pickle.dumps(mask)) < 180
    for name in ("rate", "keep_prob", "block_size", "gamma", "scale", "shape", "unknown"):
        with pytest.raises(AttributeError):
            setattr(mask, name, 1)
    with pytest.raises(TypeError, match=r"BlockMask cannot stand in numpy.multiply, which would lose its scale"):
        x * mask
    np.testing.assert_array_equal(np.logical_not(mask), ~np.asarray(mask))
    with pytest.raises(ValueError, match=r"dy must have the shape of the mask"):
        mask.backward(np.ones(77))


@pytest.mark.parametrize("mask", WHOLES, ids=repr)
def test_what_a_mask_shows_makes_it_again(mask):
    assert eval(repr(mask), vars(fastdrop)) == mask


def test_masks_differ_where_anything_does():
    made = {"shape": (2, 4, 6, 8), "rate": 0.25, "block_size": 3, "key": 1, "call": 2, "data_format": "channels_first"}
    other = {"shape": (2, 4, 8, 6), "rate": 0.5, "block_size": 4, "key": 2, "call": 3, "data_format": "channels_last"}
    masks = [BlockMask(**made), *(BlockMask(**{**made, name: value}) for name, value in other.items())]
    assert len(set(masks)) == len(masks)
    assert BlockMask(**made) in masks
    assert masks[0] != DropoutMask((2, 4, 6, 8), 0.25, key=1, call=2)


@pytest.mark.parametrize("mask", WHOLES[:3], ids=repr)
def test_a_part_has_the_decisions_and_the_scale_of_the_whole(mask, either):
    x = np.random.default_rng(0).standard_normal(mask.shape)
    y = mask.apply(x)
    for index in (1, slice(1, 2), (..., slice(1, None)), (0, slice(1, 3), 2), (slice(0, 1), ..., 0)):
        part = mask[index]
        assert part.scale == mask.scale
        np.testing.assert_array_equal(part.apply(x[index]), y[index])
        np.testing.assert_array_equal(part, np.asarray(mask)[index])
        np.testing.assert_array_equal(part.packbits(), np.packbits(np.asarray(mask)[index], bitorder="little"))
        np.testing.assert_array_equal(part[...].backward(x[index]), y[index])


def test_a_block_mask_transposed_or_reversed_is_not_the_whole(either):
    mask = fastdrop.BlockMask((3, 8, 8), 0.3, 3, key=1)
    keep = np.asarray(mask)
    for same, expected in ((mask.transpose(0, 2, 1), keep.transpose(0, 2, 1)), (mask[:, ::-1], keep[:, ::-1])):
        np.testing.assert_array_equal(same, expected)
        np.testing.assert_array_equal(same.packbits(), np.packbits(expected, bitorder="little"))
        assert pickle.loads(pickle.dumps(same)) == same
        assert same != mask


def test_a_broken_state_is_refused():
    restored, (*whole, part) = WHOLES[0][1].__reduce__()
    shape, strides, offset = part
    for broken in (
        (shape, strides, offset + 1),
        (shape, strides[:-1], offset),
        (shape, (-(10**6), *strides[1:]), offset),
    ):
        with pytest.raises(ValueError, match="a mask's state must have"):
            restored(*whole, broken)


def test_a_mask_costs_no_memory_and_its_blocks_little():
    def make_many():
        masks = [BlockMask((2**20, 64, 32, 32), 0.1, key=1, call=call) for call in range(100)]
        return masks, masks[0][0].shape, hash(masks[0])

    assert helpers.peak_memory(make_many) < 1 << 20
    x = np.ones((64, 64, 32, 32), np.float32)
    mask = BlockMask(x.shape, 0.1, key=1)
    assert helpers.peak_memory(mask.packbits) < x.nbytes / 8
    if helpers.compiled():  # the reference has an index of 8 bytes for each element that it applies bits to
        assert helpers.peak_memory(lambda: fastdrop.drop_block2d(x, 0.1, rng=1, out=x)) < x.nbytes / 8


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"block_size": 2.0}, TypeError, "block_size must be an int of at least 1, got 2.0 of type float"),
        ({"block_size": (3, 3)}, TypeError, "block_size must be an int of at least 1, got a tuple"),
        ({"block_size": True}, TypeError, "block_size must be an int of at least 1"),
        ({"data_format": "NCHW"}, ValueError, "data_format must be 'channels_first' or 'channels_last', got 'NCHW'"),
        ({"rate": 1.5}, ValueError, "rate must be from 0 to 1, got 1.5"),
    ],
)
def test_function_mask_and_layer_refuse_alike(options, error, message):
    for make in (
        lambda **options: fastdrop.drop_block2d(np.ones((2, 3, 4, 5)), **options),
        lambda **options: BlockMask((2, 3, 4, 5), **options, key=1),
        fastdrop.DropBlock2d,
    ):
        with pytest.raises(error, match=message):
            make(**options)


@pytest.mark.parametrize("shape", [(), (5,), (5, 6), (1,) * 5])
def test_maps_have_height_width_and_channels(shape, either):
    for data_format, named in (("channels_first", "N, C, H, W"), ("channels_last", "N, H, W, C")):
        message = rf"\({named}\) or \({named[3:]}\) in {{}} with {data_format}, got \("
        with pytest.raises(ValueError, match="x must have shape " + message.format("drop_block2d")):
            fastdrop.drop_block2d(np.ones(shape), 0.5, data_format=data_format)
        with pytest.raises(ValueError, match="shape must be " + message.format("BlockMask")):
            BlockMask(shape, 0.5, data_format=data_format, key=1)
    x = np.ones(shape)
    for rate, training in ((0.5, False), (0.0, True)):
        y, mask = fastdrop.drop_block2d(x, rate, training=training, rng=1, return_mask=True)
        assert y is x
        assert mask.apply(x) is x
        assert (mask.scale, mask.gamma) == (1, 0)
    assert BlockMask(shape, 0, key=1).apply(x) is x


def test_the_layer_prints_what_it_was_given():
    layer = fastdrop.DropBlock2d(0.1, 5, data_format="channels_last", rng=PhiloxStream.from_key(1))
    assert repr(layer).startswith("DropBlock2d(0.1, block_size=5, data_format='channels_last', rng=")
