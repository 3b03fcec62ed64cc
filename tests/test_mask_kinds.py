# SPDX-License-Identifier: BSD-3-Clause
"""Masks of alpha dropout, of normal numbers and with a scale of their own are values like every other mask."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastdrop
from fastdrop import AlphaMask, DropoutMask, GaussianMask

SHAPE = (7, 6, 50)
KEEP = np.random.default_rng(1).random(SHAPE) < 0.6

MASKS = {
    "scale": DropoutMask(SHAPE, 0.4, key=1, call=2, scale=1.0),
    "scale 0": DropoutMask(SHAPE, 0.4, key=1, call=2, scale=0.0),
    "scale, shared": DropoutMask(SHAPE, 0.4, key=1, call=2, noise_shape=(7, 1, 50), scale=3.5),
    "scale without drops": DropoutMask(SHAPE, 0, key=1, call=2, scale=0.7),
    "scale, part": DropoutMask((9, 8, 60), 0.4, key=1, call=2, scale=-1.0)[1:8, 2:, :50],
    "alpha": AlphaMask(SHAPE, 0.4, key=1, call=2),
    "alpha, shared": AlphaMask(SHAPE, 0.4, key=1, call=2, noise_shape=(7, 6, 1)),
    "alpha, part": AlphaMask((9, 8, 60), 0.4, key=1, call=2)[1:8, 2:, :50],
    "alpha, rate 0": AlphaMask(SHAPE, 0, key=1, call=2),
    "alpha, rate 1": AlphaMask(SHAPE, 1, key=1, call=2),
    "alpha, from an array": AlphaMask.from_array(KEEP, 0.4),
    "Gaussian": GaussianMask(SHAPE, 0.4, key=1, call=2),
    "Gaussian, part": GaussianMask((9, 8, 60), 0.4, key=1, call=2)[1:8, 2:, :50],
    "Gaussian, stddev 0": GaussianMask(SHAPE, 0, key=1, call=2),
    "additive": GaussianMask(SHAPE, 0.4, key=1, call=2, additive=True),
    "additive, part": GaussianMask((9, 8, 60), 0.4, key=1, call=2, additive=True)[1:8, 2:, :50],
}
INDICES = [np.s_[:], np.s_[2], np.s_[1:4], np.s_[..., 7:41], np.s_[2:, 1:3, -5:], np.s_[-1, 2:2], np.s_[3, 2, 1], ()]


@pytest.fixture(params=MASKS)
def mask(request, either):
    return MASKS[request.param]


def test_a_pickled_or_copied_mask_is_the_same_mask(mask):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    again = [pickle.loads(pickle.dumps(mask, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in (*again, copy.copy(mask), copy.deepcopy(mask)):
        assert same == mask
        assert hash(same) == hash(mask)
        assert (type(same), repr(same)) == (type(mask), repr(mask))
        np.testing.assert_array_equal(same.apply(x), mask.apply(x))
        np.testing.assert_array_equal(same.backward(x), mask.backward(x))


def test_masks_of_different_kinds_or_numbers_are_different(either):
    assert len({*MASKS.values()}) == len(MASKS)
    for (name, one), (other_name, other) in itertools.product(MASKS.items(), repeat=2):
        assert (one == other) == (name == other_name)
    assert all(mask != "mask" for mask in MASKS.values())
    assert GaussianMask(5, 0.4, key=1) != GaussianMask(5, 0.4, key=1, additive=True)
    assert AlphaMask(5, 0.4, key=1) != DropoutMask(5, 0.4, key=1)


def test_a_scale_that_is_the_usual_one_makes_no_other_mask():
    usual, named = DropoutMask(5, 0.6, key=1), DropoutMask(5, 0.6, key=1, scale=1 / (1 - 0.6))
    assert (usual, hash(usual), repr(usual)) == (named, hash(named), repr(named))
    assert DropoutMask(5, 0, key=1) == DropoutMask(5, 0, key=1, scale=1)
    assert (
        fastdrop.dropout([1.0], 0, mode="downscale_in_infer", rng=1, return_mask=True)[1]
        == (fastdrop.dropout([1.0], 0, rng=1, return_mask=True)[1])
    )


def test_repr_evaluates_to_an_equal_mask_if_it_is_not_a_part(mask):
    if mask in (MASKS[name] for name in MASKS if name.endswith(("part", "from an array"))):
        assert repr(mask).startswith("<")
    else:
        assert eval(repr(mask), vars(fastdrop)) == mask


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (DropoutMask((4, 6), 0.25, key=255, scale=1.0), "DropoutMask((4, 6), 0.25, key=0xff, call=0, scale=1.0)"),
        (AlphaMask((4, 6), 0.25, key=255, call=3), "AlphaMask((4, 6), 0.25, key=0xff, call=3)"),
        (GaussianMask(9, 0.25, key=255), "GaussianMask((9,), 0.25, key=0xff, call=0)"),
        (GaussianMask(9, 2, key=255, additive=True), "GaussianMask((9,), 2.0, key=0xff, call=0, additive=True)"),
        (
            GaussianMask(9, 2, key=255)[1:],
            "<part of a mask, from element 1 on: GaussianMask((8,), 2.0, key=0xff, call=0)>",
        ),
        (AlphaMask.from_array([True], 0.5), "<AlphaMask from an array: shape=(1,), rate=0.5>"),
    ],
    ids=["scale", "alpha", "Gaussian", "additive", "part", "array"],
)
def test_repr_tells_the_draw(mask, text):
    assert repr(mask) == text


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_part_of_the_mask_is_the_mask_of_the_part(mask, index):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    part = mask[index]
    assert type(part) is type(mask)
    assert part.shape == x[index].shape == np.asarray(part).shape
    assert (part.ndim, part.size) == (x[index].ndim, x[index].size)
    np.testing.assert_array_equal(np.asarray(part), np.asarray(mask)[index])
    np.testing.assert_array_equal(part.apply(x[index]), mask.apply(x)[index])
    np.testing.assert_array_equal(part.backward(x[index]), mask.backward(x)[index])


def test_a_mask_can_not_be_changed(mask):
    for name in ("shape", "rate", "stddev", "additive", "key", "scale", "_scale", "_offset", "unknown"):
        with pytest.raises(AttributeError):
            setattr(mask, name, 1)
    with pytest.raises(AttributeError):
        del mask.key


def test_a_mask_is_no_sequence_and_shares_no_memory(mask):
    with pytest.raises(TypeError, match="not iterable"):
        iter(mask)
    with pytest.raises(ValueError, match="no memory to share"):
        np.array(mask, copy=False)
    np.testing.assert_array_equal(np.asarray(mask, np.float64), np.asarray(mask).astype(np.float64), strict=True)
    np.asarray(mask)[...] = 7
    assert (np.asarray(mask) != 7).all()


def test_results_go_into_out_and_x_stays(mask):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    before = x.copy()
    for do in (mask.apply, mask.backward):
        y = do(x)
        for out in (np.full(SHAPE, 7, np.float32), np.full(SHAPE, 7, np.float64)):
            assert do(x, out=out) is out
            np.testing.assert_array_equal(out, y)
        np.testing.assert_array_equal(x, before)
        in_place = x.copy()
        assert do(in_place, out=in_place) is in_place
        np.testing.assert_array_equal(in_place, y)


def test_a_scale_takes_the_place_of_the_usual_one(either):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    for name in ("scale", "scale 0", "scale, shared", "scale without drops", "scale, part"):
        mask = MASKS[name]
        expected = np.where(mask, x * mask.scale, 0)
        np.testing.assert_array_equal(mask.apply(x), expected)
        np.testing.assert_array_equal(mask.backward(x), expected)


def test_an_alpha_mask_from_an_array_is_alpha_dropout_by_it(either):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    drawn = AlphaMask(SHAPE, 0.4, key=1)
    replay = AlphaMask.from_array(np.asarray(drawn), 0.4)
    np.testing.assert_array_equal(replay.apply(x), drawn.apply(x))
    np.testing.assert_array_equal(replay.backward(x), drawn.backward(x))
    np.testing.assert_allclose(  # to the digits that are given here
        AlphaMask.from_array([True, False], 0).apply(np.array([3.0, 3.0])), [3, -1.7580993408473766], rtol=1e-15
    )
    assert AlphaMask.from_array(KEEP, 0.4).scale == drawn.scale != DropoutMask(SHAPE, 0.4, key=1).scale


def test_the_numbers_of_a_gaussian_mask_are_the_same_for_every_dtype_and_kind(either):
    """1 + stddev * N and stddev * N of one N."""
    factor, term = (GaussianMask(SHAPE, 1.0, key=1, additive=additive) for additive in (False, True))
    normals = np.asarray(term)
    np.testing.assert_array_equal(np.asarray(factor), np.float32(1) + normals, strict=True)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(term.apply(np.zeros(SHAPE, dtype)), normals.astype(dtype), strict=True)
    np.testing.assert_array_equal(term.apply(np.zeros(SHAPE, np.float16)), normals.astype(np.float16), strict=True)
    dy = np.ones(SHAPE)
    assert term.backward(dy) is dy


@pytest.mark.parametrize("mask", [GaussianMask(5, 0, key=1), AlphaMask(5, 0, key=1), DropoutMask(5, 0, key=1)])
def test_a_mask_that_does_nothing_gives_x_itself(mask, either):
    x = np.array([1.0, np.nan, -0.0, np.inf, 5e-324])
    assert mask.apply(x) is x
    assert mask.backward(x) is x
    out = np.full(5, 7.0)
    assert mask.apply(x, out) is out
    assert out.tobytes() == x.tobytes()
