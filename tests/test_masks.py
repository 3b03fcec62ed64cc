# SPDX-License-Identifier: BSD-3-Clause
"""A mask of any kind is a small immutable value, drawn when it is looked at, whole or in part, always the same."""

import copy
import itertools
import pickle

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import AlphaMask, DropoutMask, GaussianMask, PhiloxStream

SHAPE = (7, 6, 50)
KEEP = np.random.default_rng(1).random(SHAPE) < 0.6
LARGER_KEEP = np.random.default_rng(1).random((9, 8, 60)) < 0.6

# Every way in which a mask can be laid out, and every kind.
DROPPING = {
    "plain": DropoutMask(SHAPE, 0.4, key=1),
    "1-d": DropoutMask(2500, 0.4, key=1),
    "0-d": DropoutMask((), 0.5, key=4),
    "empty": DropoutMask((3, 0, 2), 0.4, key=1),
    "rate 0": DropoutMask(SHAPE, 0, key=1),
    "rate 1": DropoutMask(SHAPE, 1, key=1),
    "rate 0.5": DropoutMask(SHAPE, 0.5, key=1),
    "keep_prob": DropoutMask(SHAPE, keep_prob=0.1, key=1),
    "shared along the last": DropoutMask(SHAPE, 0.4, key=1, noise_shape=(7, 6, 1)),
    "shared along the first": DropoutMask(SHAPE, 0.4, key=1, noise_shape=(1, 6, 50)),
    "shared in the middle": DropoutMask(SHAPE, 0.4, key=1, noise_shape=(7, 1, 50)),
    "shared by all": DropoutMask(SHAPE, 0.4, key=1, noise_shape=(1, 1, 1)),
    "1-d, part": DropoutMask(5000, 0.4, key=1)[100:2600],
    "part": DropoutMask((20, 9, 70), 0.4, key=1)[11:18, 2:8, 15:65],
    "shared, part": DropoutMask((20, 9, 70), 0.4, key=1, noise_shape=(20, 1, 70))[11:18, 2:8, 15:65],
    "from an array": DropoutMask.from_array(KEEP, 0.4),
    "from an array, part": DropoutMask.from_array(LARGER_KEEP, 0.4)[1:8, 1:7, 3:53],
}
SCALED = {
    "scale": DropoutMask(SHAPE, 0.4, key=1, call=2, scale=1.0),
    "scale 0": DropoutMask(SHAPE, 0.4, key=1, call=2, scale=0.0),
    "scale, shared": DropoutMask(SHAPE, 0.4, key=1, call=2, noise_shape=(7, 1, 50), scale=3.5),
    "scale without drops": DropoutMask(SHAPE, 0, key=1, call=2, scale=0.7),
    "scale, part": DropoutMask((9, 8, 60), 0.4, key=1, call=2, scale=-1.0)[1:8, 2:, :50],
}
ALPHA = {
    "alpha": AlphaMask(SHAPE, 0.4, key=1, call=2),
    "alpha, shared": AlphaMask(SHAPE, 0.4, key=1, call=2, noise_shape=(7, 6, 1)),
    "alpha, part": AlphaMask((9, 8, 60), 0.4, key=1, call=2)[1:8, 2:, :50],
    "alpha, keep_prob": AlphaMask(SHAPE, keep_prob=0.1, key=1, call=2),
    "alpha, rate 0": AlphaMask(SHAPE, 0, key=1, call=2),
    "alpha, rate 1": AlphaMask(SHAPE, 1, key=1, call=2),
    "alpha, from an array": AlphaMask.from_array(KEEP, 0.4),
}
GAUSSIAN = {
    "Gaussian": GaussianMask(SHAPE, 0.4, key=1, call=2),
    "Gaussian, part": GaussianMask((9, 8, 60), 0.4, key=1, call=2)[1:8, 2:, :50],
    "Gaussian, stddev 0": GaussianMask(SHAPE, 0, key=1, call=2),
    "additive": GaussianMask(SHAPE, 0.4, key=1, call=2, additive=True),
    "additive, part": GaussianMask((9, 8, 60), 0.4, key=1, call=2, additive=True)[1:8, 2:, :50],
    "Gaussian, shared along the last": GaussianMask(SHAPE, 0.4, key=1, call=2, noise_shape=(7, 6, 1)),
    "Gaussian, shared in the middle": GaussianMask(SHAPE, 0.4, key=1, call=2, noise_shape=(1, 50)),
    "additive, shared by all": GaussianMask(SHAPE, 0.4, key=1, call=2, noise_shape=(), additive=True),
    "additive, shared, part": GaussianMask((9, 8, 60), 0.4, key=1, call=2, noise_shape=(9, 1, 60), additive=True)[
        1:8, 2:, :50
    ],
}
MASKS = DROPPING | SCALED | ALPHA | GAUSSIAN

INDICES = [
    np.s_[:],
    np.s_[...],
    (),
    np.s_[0],
    np.s_[-1],
    np.s_[6, 5, 49],
    np.s_[-7, -6, -50],
    np.s_[2:5],
    np.s_[2:5, 1:3],
    np.s_[2:5, 1:3, 7:41],
    np.s_[:, :, 1:],
    np.s_[:, 2],
    np.s_[..., 3],
    np.s_[..., -5:-2],
    np.s_[1, ..., 3:9],
    np.s_[1:3, ..., :],
    np.s_[-3:-1, :4, 8],
    np.s_[::1, 0:6:1],
    np.s_[3:3],
    np.s_[5:2],
    np.s_[7:],
    np.s_[:, 2:2, 1:3],
    np.s_[np.int64(2) : np.uint8(4), np.int8(-1)],
    np.s_[1:4],
    np.s_[..., 7:41],
    np.s_[2:, 1:3, -5:],
    np.s_[-1, 2:2],
    np.s_[::2],
    np.s_[::-1],
    np.s_[..., ::-3],
    np.s_[5:1:-2, ::-1, 40:3:-7],
    np.s_[1::3, 4, ::5],
    np.s_[0:3:3],
    np.s_[2:5:-1],
    None,
    np.s_[None, 2, ..., None],
    np.s_[:, None, ::-1, 3:8, None],
]


@pytest.fixture(params=MASKS)
def mask(request):
    return MASKS[request.param]


@pytest.fixture(params=[name for name in MASKS if name not in GAUSSIAN])
def dropping(request):
    """Masks that drop."""
    return MASKS[request.param]


@pytest.fixture(params=[name for name, mask in MASKS.items() if mask.shape == SHAPE])
def mask_3d(request):
    return MASKS[request.param]


def packed(keep):
    return np.packbits(keep, axis=None, bitorder="little")


# Laziness


def test_a_mask_far_larger_than_memory_is_made_sliced_and_drawn_in_part(either):
    huge = DropoutMask((2**30, 2**10), 0.3, key=5)
    corner = huge[-3:, -500:]
    below_the_middle = huge[2**29 : 2**29 + 40, 7]
    assert helpers.peak_memory(lambda: (pickle.dumps(corner), hash(huge), repr(huge), huge == corner)) < 1 << 20
    assert helpers.peak_memory(lambda: np.asarray(corner)) < 1 << 20
    assert helpers.peak_memory(lambda: np.asarray(below_the_middle)) < 1 << 20
    keep, column = np.asarray(corner), np.asarray(below_the_middle)
    flat = DropoutMask(2**40, 0.3, key=5)
    rows = [flat[2**40 - row * 2**10 - 500 :][:500] for row in (2, 1, 0)]
    np.testing.assert_array_equal(keep, rows)
    assert column.tolist() == [np.asarray(flat[(2**29 + row) * 2**10 + 7]).item() for row in range(40)]


def test_a_part_of_a_shared_mask_needs_memory_for_that_part_alone(either):
    wide = DropoutMask((2**20, 2**20, 2), 0.3, key=5, noise_shape=(2**20, 2**20, 1))
    assert helpers.peak_memory(lambda: np.asarray(wide[:50, 9])) < 1 << 20
    column = np.asarray(wide[:50, 9])
    np.testing.assert_array_equal(column, np.broadcast_to(np.asarray(wide[:50, 9, :1]), (50, 2)))


# The value


def test_a_mask_has_what_it_was_made_from_as_attributes():
    mask = DropoutMask([4, np.int64(6)], 0.25, key=2**64 - 1, call=2**56 - 1, noise_shape=(None, 1))
    assert (mask.shape, mask.rate, mask.key, mask.call) == ((4, 6), 0.25, 2**64 - 1, 2**56 - 1)
    assert (mask.noise_shape, mask.ndim, mask.size) == ((4, 1), 2, 24)
    assert (mask.keep_prob, mask.scale, mask.threshold) == (0.75, 1 / 0.75, 2**30)
    assert DropoutMask(5, 0.25, key=1).shape == (5,)
    assert DropoutMask(5, 0.25, key=1).call == 0
    assert DropoutMask((4, 6), 0.25, key=1, noise_shape=(4, None)).noise_shape is None


@pytest.mark.parametrize(
    ("rate", "threshold"),
    [
        (0, 0),
        (1, 2**32),
        (0.5, 2**31),
        (2**-32, 1),
        (2**-33, 0),  # ties go to even
        (3 * 2**-33, 2),
        (5 * 2**-33, 2),
        (1 - 2**-33, 2**32),
        (1 - 2**-32, 2**32 - 1),
        (0.1, 429496730),
        (1e-300, 0),
    ],
)
def test_the_threshold_is_the_rate_in_units_of_2_to_the_minus_32_ties_to_even(rate, threshold):
    assert DropoutMask(1, rate, key=0).threshold == threshold


@pytest.mark.parametrize(("keep_prob", "scale"), [(0.1, 10), (0.01, 100), (1e-300, 0), (5e-324, 0), (0, 0), (1, 1)])
def test_a_keep_prob_that_was_given_is_kept_as_it_is_and_sets_the_scale(keep_prob, scale, either):
    made = DropoutMask(50, keep_prob=keep_prob, key=PhiloxStream(3).key)
    y, drawn = fastdrop.dropout(np.ones(50), keep_prob=keep_prob, rng=3, return_mask=True)
    for mask in (made, drawn, pickle.loads(pickle.dumps(drawn)), drawn[:], eval(repr(drawn), vars(fastdrop))):
        assert mask == made
        assert (mask.keep_prob, mask.scale) == (keep_prob, scale)
        assert mask.apply(np.ones(50)).tobytes() == y.tobytes()
    assert DropoutMask.from_array([True], keep_prob=0.1).scale == 10
    assert AlphaMask(9, keep_prob=0.1, key=1) != AlphaMask(9, 0.9, key=1)
    with pytest.raises(ValueError, match="not both"):
        DropoutMask(50, 0.5, keep_prob=0.5, key=1)


def test_masks_are_equal_iff_they_are_the_same_draw():
    base = {"shape": (4, 6), "rate": 0.25, "key": 1, "call": 2, "noise_shape": (4, 1)}
    mask = DropoutMask(**base)
    assert mask == DropoutMask(**base)
    assert hash(mask) == hash(DropoutMask(**base))
    others = [
        DropoutMask(**{**base, **other})
        for other in (
            {"shape": (4, 7)},
            {"rate": 0.26},
            {"key": 2},
            {"call": 3},
            {"noise_shape": (1, 6)},
            {"noise_shape": None},
        )
    ]
    others += [mask[1:], mask[:, 1:], mask[1:3], mask[2:4]]
    assert all(mask != other for other in others)
    assert len({mask, *others, DropoutMask(**base)}) == len(others) + 1
    assert mask != "mask"
    assert mask[:] == mask[0:4, ...] == mask
    assert mask[1:][1:3] == mask[2:4]
    assert DropoutMask.from_array([True, False], 0.5) == DropoutMask.from_array(np.array([True, False]), 0.5)
    assert DropoutMask.from_array([True, False], 0.5) != DropoutMask.from_array([True, True], 0.5)


def test_masks_of_different_kinds_or_numbers_are_different():
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


def test_a_mask_cannot_be_changed(mask):
    before = np.asarray(mask)
    for name in ("shape", "rate", "stddev", "additive", "key", "call", "noise_shape", "threshold", "scale", "unknown"):
        with pytest.raises(AttributeError):
            setattr(mask, name, 1)
    for name in ("shape", "key"):
        with pytest.raises(AttributeError):
            delattr(mask, name)
    np.asarray(mask)[...] = 7
    if not isinstance(mask, GaussianMask):
        mask.packbits()[...] = 0
    np.testing.assert_array_equal(mask, before)


def test_a_mask_from_an_array_does_not_follow_later_changes_of_the_array():
    keep = np.ones((4, 5), bool)
    mask = DropoutMask.from_array(keep, 0.5)
    keep[...] = False
    assert np.asarray(mask).all()


def test_a_pickled_or_copied_mask_is_the_same_mask(mask):
    x = np.random.default_rng(0).standard_normal(mask.shape)
    pickled = [pickle.loads(pickle.dumps(mask, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in (*pickled, copy.copy(mask), copy.deepcopy(mask)):
        assert same == mask
        assert hash(same) == hash(mask)
        assert (type(same), repr(same), same.shape) == (type(mask), repr(mask), mask.shape)
        np.testing.assert_array_equal(same, mask)
        np.testing.assert_array_equal(same.apply(x), mask.apply(x))
        np.testing.assert_array_equal(same.backward(x), mask.backward(x))


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        (DropoutMask((2**30, 2**10), 0.1, key=2**64 - 1, call=2**56 - 1), 100),
        (DropoutMask((2**30, 2**10), 0.1, key=2**64 - 1, call=2**56 - 1, noise_shape=(2**30, 1)), 110),
        (DropoutMask((2**30, 2**10), 0.1, key=2**64 - 1, call=2**56 - 1)[5:, 3:], 130),
        (DropoutMask.from_array(np.ones(8000, bool), 0.1), 1000 + 100),
    ],
    ids=["plain", "shared", "part", "from an array: a bit an element"],
)
def test_a_mask_pickles_to_a_few_dozen_bytes(mask, most):
    assert len(pickle.dumps(mask)) <= most


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (
            DropoutMask((4, 6), 0.25, key=255, call=3, noise_shape=(4, 1)),
            "DropoutMask((4, 6), 0.25, key=0xff, call=3, noise_shape=(4, 1))",
        ),
        (DropoutMask.from_array([True], 0.5), "<DropoutMask from an array: shape=(1,), rate=0.5>"),
        (DropoutMask((4, 6), 0.25, key=255, scale=1.0), "DropoutMask((4, 6), 0.25, key=0xff, call=0, scale=1.0)"),
        (AlphaMask((4, 6), 0.25, key=255, call=3), "AlphaMask((4, 6), 0.25, key=0xff, call=3)"),
        (GaussianMask(9, 0.25, key=255), "GaussianMask((9,), 0.25, key=0xff, call=0)"),
        (GaussianMask(9, 2, key=255, additive=True), "GaussianMask((9,), 2.0, key=0xff, call=0, additive=True)"),
        (
            GaussianMask((4, 6), 2, key=255, noise_shape=(4, 1)),
            "GaussianMask((4, 6), 2.0, key=0xff, call=0, noise_shape=(4, 1))",
        ),
        (DropoutMask(9, keep_prob=0.1, key=255), "DropoutMask((9,), keep_prob=0.1, key=0xff, call=0)"),
        (
            GaussianMask(9, 2, key=255)[1:],
            "<part of a mask, from element 1 on: GaussianMask((8,), 2.0, key=0xff, call=0)>",
        ),
        (AlphaMask.from_array([True], 0.5), "<AlphaMask from an array: shape=(1,), rate=0.5>"),
    ],
    ids=[
        "plain",
        "from an array",
        "scale",
        "alpha",
        "Gaussian",
        "additive",
        "Gaussian, shared",
        "keep_prob",
        "part",
        "array",
    ],
)
def test_repr_tells_the_draw(mask, text):
    assert repr(mask) == text


def test_repr_evaluates_to_an_equal_mask_if_it_is_not_a_part(mask):
    if repr(mask).startswith("<"):
        assert any(mask is MASKS[name] for name in MASKS if name.endswith(("part", "from an array")))
    else:
        assert eval(repr(mask), vars(fastdrop)) == mask


def test_iteration_is_refused_in_clear_words(mask):
    for iterate in (iter, list, lambda mask: [*mask], lambda mask: 1 in mask):
        with pytest.raises(TypeError, match=rf"{type(mask).__name__}.* not iterable"):
            iterate(mask)


# As an array


def test_as_an_array_it_is_a_fresh_array_of_its_shape(mask, either):
    """Of booleans, or of normal numbers."""
    array = np.asarray(mask)
    dtype = np.float32 if isinstance(mask, GaussianMask) else np.bool_
    assert (type(array), array.dtype, array.shape) == (np.ndarray, dtype, mask.shape)
    assert dtype is np.float32 or set(np.unique(array.view(np.uint8))) <= {0, 1}
    assert array.flags.writeable
    np.testing.assert_array_equal(np.array(mask, copy=True), array)


def test_as_an_array_it_takes_a_dtype(mask):
    for dtype in (np.float32, np.float64, np.int8, "bool", object):
        np.testing.assert_array_equal(np.asarray(mask, dtype), np.asarray(mask).astype(dtype), strict=True)


def test_as_an_array_it_cannot_share_memory(mask):
    with pytest.raises(ValueError, match="no memory to share"):
        np.array(mask, copy=False)


def test_arithmetic_with_a_mask_is_refused_because_it_would_not_scale(mask):
    x = np.ones(mask.shape)
    for operate in (
        *(lambda: x * mask, lambda: mask * x, lambda: x + mask, lambda: mask / x, lambda: np.multiply(x, mask)),
        *(lambda: np.multiply(mask, 2.0), lambda: np.add.outer(x, mask), lambda: x.__imul__(mask)),
        *(lambda: np.add(x, x, out=(mask,)), lambda: np.float64(2) * mask),
    ):
        with pytest.raises(TypeError, match=rf"{type(mask).__name__} cannot stand in numpy\..*mask\.apply\(x\)"):
            operate()
    assert (x == 1).all()


def test_logic_with_a_mask_is_that_of_its_booleans(dropping):
    keep = np.asarray(dropping)
    for mask in (dropping, keep):
        np.testing.assert_array_equal(keep == mask, np.ones_like(keep))
        np.testing.assert_array_equal(mask & keep, keep)
        np.testing.assert_array_equal(np.logical_not(mask), ~keep)
        np.testing.assert_array_equal(np.negative(keep * 2.0, where=mask, out=np.zeros(keep.shape)), keep * -2.0)


@pytest.mark.parametrize("name", DROPPING | SCALED)
def test_to_array_is_what_elements_are_multiplied_by(name, either, dtypes):
    mask = MASKS[name]
    for dtype in dtypes:
        factors = mask.to_array(dtype)
        assert (type(factors), factors.dtype, factors.shape) == (np.ndarray, dtype, mask.shape)
        if dtype in (np.float32, np.float64):
            x = np.random.default_rng(0).standard_normal(mask.shape).astype(dtype)
            np.testing.assert_array_equal(x * factors, mask.apply(x), strict=True)
    assert mask.to_array().dtype == np.float32
    assert mask.to_array().flags.writeable


@pytest.mark.parametrize("name", GAUSSIAN)
def test_to_array_of_normal_numbers_is_what_elements_are_multiplied_by_or_added_to(name, either):
    mask = MASKS[name]
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).standard_normal(mask.shape).astype(dtype)
        array = mask.to_array(dtype)
        np.testing.assert_array_equal(x + array if mask.additive else x * array, mask.apply(x), strict=True)


def test_what_is_no_array_of_factors_is_refused():
    with pytest.raises(TypeError, match=r"shifts elements too: use mask.apply\(x\)"):
        ALPHA["alpha"].to_array()
    for bad in (int, "nonsense", object, bool):
        with pytest.raises(TypeError, match="dtype must be float16, bfloat16, float32 or float64"):
            DROPPING["plain"].to_array(bad)


def test_packbits_is_what_numpy_packs(dropping, either):
    np.testing.assert_array_equal(dropping.packbits(), packed(np.asarray(dropping)), strict=True)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 100, 128])
def test_packbits_of_any_run_begins_at_bit_0_and_ends_in_zeros(start, either):
    keep = np.asarray(DropoutMask(5000, 0.2, key=9))
    for n in (0, 1, 7, 8, 9, 127, 128, 129, 2047, 2048, 2049):
        part = DropoutMask(5000, 0.2, key=9)[start : start + n]
        np.testing.assert_array_equal(part.packbits(), packed(keep[start : start + n]), strict=True)


# Slicing


def test_a_part_of_the_mask_is_the_mask_of_the_part(mask_3d, either):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    whole, applied, gradient = np.asarray(mask_3d), mask_3d.apply(x), mask_3d.backward(x)
    for index in INDICES:
        part = mask_3d[index]
        assert type(part) is type(mask_3d)
        assert (part.key, part.call) == (mask_3d.key, mask_3d.call)
        assert (part.shape, part.ndim, part.size) == (whole[index].shape, whole[index].ndim, whole[index].size)
        message = f"index {index}"
        np.testing.assert_array_equal(part, whole[index], message)
        np.testing.assert_array_equal(part.apply(x[index]), applied[index], message)
        np.testing.assert_array_equal(part.backward(x[index]), gradient[index], message)
        if not isinstance(part, GaussianMask):
            assert part.rate == mask_3d.rate
            np.testing.assert_array_equal(part.packbits(), packed(whole[index]), message)


def test_parts_of_parts_of_parts_are_parts(mask_3d, either):
    random = np.random.default_rng(7)
    for _ in range(40):
        part, expected = mask_3d, np.asarray(mask_3d)
        for _ in range(4):
            index = []
            for n in part.shape:
                a, b = sorted(int(i) for i in random.integers(0, n + 1, 2))
                at = slice(a, b) if a == b or random.random() < 0.8 else a
                index.append(at)
            part, expected = part[tuple(index)], expected[tuple(index)]
        np.testing.assert_array_equal(part, expected)


def test_a_mask_is_put_together_from_the_masks_of_its_blocks(mask_3d, either):
    together = np.zeros(SHAPE, np.asarray(mask_3d).dtype)
    edges = [(0, 3, 7), (0, 1, 6), (0, 17, 33, 50)]
    for block in itertools.product(*(itertools.pairwise(edge) for edge in edges)):
        index = tuple(slice(*bounds) for bounds in block)
        together[index] = mask_3d[index]
    np.testing.assert_array_equal(together, mask_3d)


def test_noise_shape_of_a_part_is_that_of_the_part():
    mask = DropoutMask((8, 6, 5), 0.4, key=1, noise_shape=(8, 1, 5))
    assert mask[2:5].noise_shape == (3, 1, 5)
    assert mask[:, 2:4].noise_shape == (8, 1, 5)
    assert mask[1].noise_shape == (1, 5)
    assert mask[:, 1].noise_shape is None


@pytest.mark.parametrize("kind", [DropoutMask, AlphaMask, GaussianMask])
def test_a_mask_of_noise_shape_is_the_small_mask_broadcast(kind, either):
    for noise_shape in itertools.product(*((1, n) for n in SHAPE)):
        small = np.asarray(kind(noise_shape, 0.4, key=1))
        mask = kind(SHAPE, 0.4, key=1, noise_shape=noise_shape)
        assert mask.noise_shape == (None if noise_shape == SHAPE else noise_shape)
        np.testing.assert_array_equal(mask, np.broadcast_to(small, SHAPE))


def test_a_transposed_mask_is_the_mask_of_the_transposed_array(mask_3d, either):
    x = np.random.default_rng(0).standard_normal(SHAPE)
    whole, applied, gradient = np.asarray(mask_3d), mask_3d.apply(x), mask_3d.backward(x)
    for order in itertools.permutations(range(3)):
        mask = mask_3d.transpose(order)
        assert type(mask) is type(mask_3d)
        assert mask.shape == whole.transpose(order).shape
        np.testing.assert_array_equal(mask, whole.transpose(order))
        for values in (x.transpose(order), np.ascontiguousarray(x.transpose(order))):
            np.testing.assert_array_equal(mask.apply(values), applied.transpose(order))
            np.testing.assert_array_equal(mask.backward(values), gradient.transpose(order))
        assert mask.transpose(np.argsort(order).tolist()) == mask_3d
        assert pickle.loads(pickle.dumps(mask)) == mask
        for index in (np.s_[1:, ::2], np.s_[::-1, 3], np.s_[2:5, None, 1:4, -3:], np.s_[0]):
            part = mask[index]
            expected = whole.transpose(order)[index]
            np.testing.assert_array_equal(part, expected)
            y = applied.transpose(order)[index]
            np.testing.assert_array_equal(part.apply(x.transpose(order)[index]), y)
            np.testing.assert_array_equal(part.T.apply(x.transpose(order)[index].T.copy()), y.T)


def test_every_way_to_say_the_order_of_axes():
    mask = DropoutMask((2, 3, 4), 0.4, key=1)
    assert mask.T == mask.transpose() == mask.transpose(None) == mask.transpose(2, 1, 0) == np.transpose(mask)
    assert mask.transpose(0, 2, 1) == mask.transpose([0, 2, 1]) == mask.transpose((0, -1, -2))
    assert mask != mask.T
    assert mask == mask.T.T
    assert hash(mask.T.T) == hash(mask)
    assert mask[None] == mask.transpose(0, 1, 2)[None] == DropoutMask((1, 2, 3, 4), 0.4, key=1)
    assert DropoutMask((5, 1), 0.4, key=1) == DropoutMask((1, 5), 0.4, key=1).T
    assert mask[..., None].shape == (2, 3, 4, 1)
    assert repr(mask.T) == (
        "<part of a mask, from element 0 on, in steps of (1, 4, 12): DropoutMask((4, 3, 2), 0.4, key=0x1, call=0)>"
    )
    assert DropoutMask((), 0.4, key=1) == DropoutMask((), 0.4, key=1).T
    for bad in ((0, 1), (0, 1, 1), (0, 1, 3), (0, 1, 2, 3), ((),)):
        with pytest.raises(ValueError, match="axes must be each of the 3 axes of the mask once"):
            mask.transpose(*bad)
    with pytest.raises(TypeError, match="axes must be ints"):
        mask.transpose(0.0, 1, 2)


def test_a_mask_is_as_long_as_its_first_dimension(mask):
    assert mask
    if mask.ndim > 0:
        assert len(mask) == mask.shape[0]
    else:
        with pytest.raises(TypeError, match="without dimensions"):
            len(mask)


def test_a_reversed_mask_has_a_state_that_cannot_leave_the_stream():
    mask = DropoutMask(100, 0.4, key=1)[::-1]
    restored, state = mask.__reduce__()
    assert restored(*state) == mask
    with pytest.raises(ValueError, match="elements from 0 on"):
        restored(state[0], state[1], 98, *state[3:])


# Applying


@pytest.mark.parametrize("name", DROPPING | SCALED)
def test_a_mask_is_applied_by_select_and_scale(name, either):
    """By its definition: a select, then one rounding of the product in double. So is its gradient."""
    mask = MASKS[name]
    x = np.random.default_rng(0).standard_normal(mask.shape)
    y = mask.apply(x)
    np.testing.assert_array_equal(y, np.where(np.asarray(mask), x * mask.scale, 0.0), strict=True)
    np.testing.assert_array_equal(mask.backward(x), y)
    assert not np.signbit(y[~np.asarray(mask)]).any()


def test_results_go_into_out_and_x_stays(mask, either):
    x = np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    before = x.copy()
    for do in (mask.apply, mask.backward):
        y = do(x)
        for out in (np.full(mask.shape, 7, np.float32), np.full(mask.shape, 7, np.float64)):
            assert do(x, out=out) is out
            np.testing.assert_array_equal(out, y)
        np.testing.assert_array_equal(x, before)
        in_place = x.copy()
        assert do(in_place, out=in_place) is in_place
        np.testing.assert_array_equal(in_place, y)


@pytest.mark.parametrize("noise_shape", [None, (1, 40, 1), (30, 1, 1), (30, 40, 1)], ids=str)
@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 1])
def test_the_backward_pass_is_the_forward_pass_again(rate, noise_shape, either, dtypes):
    for dtype in dtypes:
        x = np.random.default_rng(0).standard_normal((30, 40, 9)).astype(dtype)
        y, mask = fastdrop.dropout(x, rate, noise_shape=noise_shape, rng=PhiloxStream(3), return_mask=True)
        assert mask.apply(x).tobytes() == y.tobytes()
        ones = np.ones(x.shape, dtype)
        scale = np.ones((), dtype) * np.asarray(mask.scale, dtype)
        np.testing.assert_array_equal(mask.apply(ones), np.where(mask, scale, np.zeros((), dtype)), strict=True)
        np.testing.assert_array_equal(y == 0, ~np.asarray(mask) | (x == 0))


def test_a_mask_serves_arrays_of_every_dtype(either):
    mask = DropoutMask((31, 40), 0.3, key=2)
    for dtype in ("f2", "f4", "f8"):
        np.testing.assert_array_equal(mask.apply(np.ones((31, 40), dtype)) != 0, mask)


@pytest.mark.parametrize("noise_shape", [None, (30, 1), (1, 40)], ids=str)
def test_return_mask_gives_the_mask_of_this_very_call(noise_shape, either):
    stream = PhiloxStream(3)
    x = np.ones((30, 40))
    for call in range(3):
        y, mask = fastdrop.dropout(x, 0.3, noise_shape=noise_shape, rng=stream, return_mask=True)
        assert mask == DropoutMask((30, 40), 0.3, key=stream.key, call=call, noise_shape=noise_shape)
        np.testing.assert_array_equal(y != 0, mask)
    out = np.empty_like(x)
    result = fastdrop.dropout(x, 0.3, rng=stream, out=out, return_mask=True)
    assert type(result) is tuple
    assert result[0] is out
    np.testing.assert_array_equal(out != 0, result[1])


def test_the_mask_does_not_depend_on_whether_it_is_returned():
    x = np.ones((30, 40))
    np.testing.assert_array_equal(
        fastdrop.dropout(x, 0.3, rng=3, return_mask=True)[0], fastdrop.dropout(x, 0.3, rng=3, return_mask=False)
    )


@pytest.mark.parametrize("arguments", [{"rate": 0}, {"rate": 0.5, "training": False}], ids=["rate 0", "not training"])
def test_the_mask_where_nothing_is_dropped_keeps_all_and_scales_nothing(arguments, either):
    x = np.array([[1.0, np.nan, -0.0], [np.inf, 5.0, 6.0]])
    y, mask = fastdrop.dropout(x, **arguments, noise_shape=(2, 1), rng=PhiloxStream(3), return_mask=True)
    assert y is x
    assert (mask.shape, mask.rate, mask.scale) == ((2, 3), 0, 1)
    assert np.asarray(mask).all()
    assert mask.apply(x) is x
    out = np.full_like(x, 7)
    assert mask.apply(x, out=out).tobytes() == x.tobytes()


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


@pytest.mark.parametrize("noise_shape", [(5, 1, 1), (5, 3, 1), (1, 1, 1), (1, 3, 700), (5, 1, 700)], ids=str)
def test_a_normal_number_that_elements_share_is_the_same_in_every_implementation(noise_shape, compiled, dtypes):
    x = np.random.default_rng(0).standard_normal((5, 3, 700)).astype(np.float32)
    x.flat[::7] = np.resize([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 6e4], x.flat[::7].size)
    for dtype, additive, stddev in itertools.product(dtypes, (False, True), (0.5, 1e-30)):
        mask = GaussianMask(x.shape, stddev, key=3, noise_shape=noise_shape, additive=additive)
        values = x.astype(dtype)
        y = mask.apply(values)
        with helpers.using("reference"):
            assert mask.apply(values).tobytes() == y.tobytes()
        part = np.s_[1:4, :2, 5:690]
        assert mask[part].apply(values[part]).tobytes() == y[part].tobytes()


@pytest.mark.parametrize("mask", [GaussianMask(5, 0, key=1), AlphaMask(5, 0, key=1), DropoutMask(5, 0, key=1)])
def test_a_mask_that_does_nothing_gives_x_itself(mask, either):
    x = np.array([1.0, np.nan, -0.0, np.inf, 5e-324])
    assert mask.apply(x) is x
    assert mask.backward(x) is x
    out = np.full(5, 7.0)
    assert mask.apply(x, out) is out
    assert out.tobytes() == x.tobytes()


# From an array


def test_from_array_keeps_what_is_true_and_takes_the_scale_from_the_rate(either):
    keep = np.array([[True, False, True], [False, False, True]])
    x = np.array([[1.0, np.nan, 3.0], [np.inf, 5.0, 6.0]])
    mask = DropoutMask.from_array(keep, 0.75)
    np.testing.assert_array_equal(mask, keep)
    np.testing.assert_array_equal(mask.apply(x), [[4, 0, 12], [0, 0, 24]])
    assert (mask.shape, mask.rate, mask.key, mask.call, mask.noise_shape) == ((2, 3), 0.75, None, None, None)


@pytest.mark.parametrize("name", [name for name, mask in (DROPPING | SCALED).items() if mask.scale >= 1])
def test_from_array_takes_a_mask_that_carries_its_scale(name, either, dtypes):
    mask = MASKS[name]
    for dtype in dtypes:
        factors = mask.to_array(dtype)
        replay = DropoutMask.from_array(factors)
        np.testing.assert_array_equal(replay, mask)
        np.testing.assert_array_equal(replay.to_array(dtype), factors, strict=True)
        x = np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
        if dtype == np.float32:
            np.testing.assert_array_equal(replay.apply(x), mask.apply(x))


def test_from_array_takes_the_rate_from_the_scale():
    mask = DropoutMask.from_array(np.array([4, 0, 4, 0, 0], np.float32))
    assert (mask.rate, mask.keep_prob, mask.scale, mask.shape) == (0.75, 0.25, 4, (5,))
    assert DropoutMask.from_array([1.0, 1.0]).rate == 0
    assert DropoutMask.from_array([0.0, 0.0]).rate == 1
    assert DropoutMask.from_array(np.empty(0)).shape == (0,)


def test_from_array_at_rate_0_drops_and_scales_nothing(either):
    keep = np.array([True, False, True, False])
    x = np.array([1.0, 2.0, -3.0, np.nan])
    mask = DropoutMask.from_array(keep, 0)
    np.testing.assert_array_equal(mask.apply(x), [1, 0, -3, 0])
    np.testing.assert_array_equal(mask[1:].apply(x[1:]), [0, -3, 0])
    np.testing.assert_array_equal(mask, keep)


def test_from_array_at_rate_1_takes_a_mask_that_drops_all(either):
    mask = DropoutMask.from_array(np.zeros(9, bool), 1)
    assert mask.apply(np.full(9, np.nan)).tobytes() == bytes(72)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (257,), (5, 1, 13)], ids=str)
def test_from_array_takes_any_shape(shape, either):
    keep = np.random.default_rng(2).random(shape) < 0.5
    mask = DropoutMask.from_array(keep, 0.5)
    x = np.ones(shape)
    np.testing.assert_array_equal(mask, keep)
    np.testing.assert_array_equal(mask.apply(x), keep * 2.0)
    np.testing.assert_array_equal(mask.packbits(), np.packbits(keep, axis=None, bitorder="little"))


def test_from_array_takes_any_layout_in_c_order(either):
    keep = np.random.default_rng(2).random((20, 30)) < 0.5
    for same in (np.asfortranarray(keep), np.repeat(keep, 2, axis=1)[:, ::2], keep[::-1][::-1], keep.tolist()):
        np.testing.assert_array_equal(DropoutMask.from_array(same, 0.5), keep)


@pytest.mark.parametrize("name", DROPPING)
def test_from_array_replays_a_mask_that_was_drawn(name, either):
    mask = DROPPING[name]
    replay = DropoutMask.from_array(np.asarray(mask), keep_prob=mask.keep_prob)
    x = np.random.default_rng(0).standard_normal(mask.shape)
    np.testing.assert_array_equal(replay.apply(x), mask.apply(x))


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


# Rows of a mask whose number of rows nobody knows yet


@pytest.mark.parametrize("kind", [DropoutMask, AlphaMask, GaussianMask])
@pytest.mark.parametrize("inner", [(), (50,), (6, 50), (1,), (0,)], ids=str)
def test_rows_from_a_start_are_those_of_the_whole(kind, inner, either):
    drawn = [None, *((None, *(tuple(c))) for c in itertools.product(*((1, n) for n in inner)))]
    drawn += [(1, *c[1:]) for c in drawn if c is not None] + [inner, inner[1:]] * bool(inner)
    for noise_shape in drawn:
        whole = kind((23, *inner), 0.4, key=1, call=2, noise_shape=noise_shape)
        for first, last in ((0, 23), (0, 5), (1, 2), (5, 5), (7, 16), (22, 23)):
            rows = kind((last - first, *inner), 0.4, key=1, call=2, noise_shape=noise_shape, start=first)
            np.testing.assert_array_equal(rows, np.asarray(whole)[first:last])
            x = np.ones(rows.shape)
            np.testing.assert_array_equal(rows.apply(x), whole.apply(np.ones(whole.shape))[first:last])
            if last - first > 1 and 0 not in inner:
                assert rows == whole[first:last]
            assert pickle.loads(pickle.dumps(rows)) == rows


def test_rows_far_from_the_start_need_no_whole(either):
    for start, width in ((2**40, 100), (2**61 - 3, 4), (2**62 - 3, 2), (2**63 - 3, 1)):
        rows = DropoutMask((2, width), 0.4, key=1, start=start)
        one_by_one = [DropoutMask(1, 0.4, key=1, start=start * width + i) for i in range(2 * width)]
        np.testing.assert_array_equal(np.asarray(rows).reshape(-1), np.concatenate(one_by_one))
        assert rows == DropoutMask((start + 2, width), 0.4, key=1)[start:]


def test_a_stream_of_batches_has_one_mask_however_it_is_cut():
    whole = np.asarray(DropoutMask((100, 8), 0.3, key=5))
    for batch in (1, 7, 33, 100):
        cut, first = [], 0
        while first < 100:
            n = min(batch, 100 - first)
            cut.append(np.asarray(DropoutMask((n, 8), 0.3, key=5, start=first)))
            first += n
        np.testing.assert_array_equal(np.concatenate(cut), whole)


@pytest.mark.parametrize("kind", [DropoutMask, AlphaMask, GaussianMask])
@pytest.mark.parametrize(
    ("shape", "start", "error", "message"),
    [
        ((3, 4), -1, ValueError, "start must be at least 0, got -1"),
        ((3, 4), 1.0, TypeError, "start must be an int of at least 0, got 1.0"),
        ((3, 4), None, TypeError, "start must be an int"),
        ((3, 4), True, TypeError, "start must be an int"),
        ((), 1, ValueError, "start must be 0 for a mask of no dimension, got 1"),
        ((3, 4), 2**61, ValueError, r"start must leave the mask's elements below 2\*\*63"),
        (3, 2**63, ValueError, "start must leave"),
    ],
)
def test_a_start_that_cannot_be_is_refused(kind, shape, start, error, message):
    with pytest.raises(error, match=message):
        kind(shape, 0.4, key=1, start=start)
    kind((), 0.4, key=1, start=0)
