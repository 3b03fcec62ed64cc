# SPDX-License-Identifier: BSD-3-Clause
"""Every function of the family is its definition in plain NumPy around a mask, and so is its gradient."""

import dataclasses
import decimal
import math

import helpers
import numpy as np
import pytest
from conftest import FAMILY

import fastdrop
from fastdrop import BlockMask, DropoutMask, GaussianMask, PhiloxStream

DROPPING = (
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "drop_block2d", "drop_path", "dropconnect"),
    *("embedding_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("dropout_add", "bias_dropout_add", "relu_dropout", "zoneout"),
)
FUSED = ("dropout_add", "bias_dropout_add", "relu_dropout", "zoneout")
AMOUNTS = (0.25, 0.5, 0.9)


def assert_same_bits(y, expected):
    assert (type(y), y.dtype, y.shape) == (type(expected), expected.dtype, expected.shape)
    unlike = np.flatnonzero(y.reshape(-1).view(f"u{y.itemsize}") != expected.reshape(-1).view(f"u{y.itemsize}"))
    assert unlike.size == 0, f"{unlike.size} elements differ, first {unlike[0]}: {y.flat[unlike[0]]!r}"


def selu_numbers(rate):
    """Scale, shift and fill of alpha dropout to 50 digits: from the condition that mean 0 and variance 1 stay."""
    with decimal.localcontext(prec=50):
        rate = decimal.Decimal(rate)
        limit = -decimal.Decimal("1.0507009873554804934193349852946") * decimal.Decimal(
            "1.6732632423543772848170429916717"
        )
        mean, variance = rate * limit, (1 - rate) * (1 + rate * limit**2)
        scale = 1 / variance.sqrt()
        return [float(number) for number in (scale, -scale * mean, scale * (limit - mean))]


def normals(mask):
    """The standard normal numbers of a mask: its noise, with a standard deviation of 1, added to 0."""
    return np.asarray(GaussianMask(mask.shape, 1.0, key=mask.key, call=mask.call, additive=True))


def definition(function, mask, number, *arrays):
    """The function on arrays of its arithmetic type, whose numbers ``number`` makes."""
    x = arrays[0]
    if isinstance(mask, GaussianMask):
        noise = number(mask.stddev) * normals(mask).astype(number)
        return x + noise if mask.additive else x * (number(1) + noise)
    keep = np.asarray(mask)
    if "alpha" in function.name:
        scale, shift, fill = map(number, helpers.alpha_numbers(mask.rate))
        return np.where(keep, x * scale + shift, fill)
    usual = 1 / (1 - mask.rate)
    scale, zero = number(keep.size / keep.sum() if isinstance(mask, BlockMask) else usual), number(0)
    match function.name:
        case "dropout_add":
            return arrays[1] + np.where(keep, x * scale, zero)
        case "bias_dropout_add":
            return arrays[2] + np.where(keep, (x + arrays[1]) * scale, zero)
        case "relu_dropout":
            return np.where(keep, np.where(x <= 0, zero, x) * scale, zero)
        case "zoneout":
            return np.where(keep, x, arrays[1])
    return np.where(keep, x * scale, zero)


def widened(arrays, dtype):
    """Arrays in the arithmetic type of a dtype, and that type."""
    number = np.float64 if dtype == np.float64 else np.float32
    return [array.astype(number) for array in arrays], number


def test_each_function_is_its_definition_bit_for_bit(function, dtype, either):
    arrays = function.arrays(dtype)
    for amount in AMOUNTS:
        stream = PhiloxStream(11)
        fastdrop.dropout(np.ones(3), rng=stream)
        y, mask = function(*arrays, **{function.amount: amount}, rng=stream, return_mask=True)
        assert mask == function.mask(amount, stream, 1)
        wide, number = widened(arrays, dtype)
        assert_same_bits(y, definition(function, mask, number, *wide).astype(dtype))
        assert_same_bits(function(*arrays, **{function.amount: amount}, rng=PhiloxStream.from_key(stream.key, 1)), y)


@pytest.mark.parametrize("rate", [1e-9, 0.05, 0.5, 0.99, 1 - 1e-9])
def test_the_numbers_of_alpha_dropout_follow_from_mean_0_and_variance_1(rate):
    # Each is the result of less than ten operations, of which 1 - rate is exact where it is small.
    np.testing.assert_allclose(helpers.alpha_numbers(rate), selu_numbers(rate), rtol=10 * np.finfo(float).eps)


def without_noise(function, dtype, *arrays, rate):
    """What is given outside training, where nothing is random."""
    (x, *others), number = widened(arrays, dtype)
    match function.name:
        case "dropout_add":
            return others[0] + x
        case "bias_dropout_add":
            return others[1] + (x + others[0])
        case "relu_dropout":
            return np.where(x <= 0, number(0), x)
        case "zoneout" if 0 < rate < 1:
            # The part of the old state is rounded to the dtype before the other one is added.
            return (number(rate) * others[0]).astype(dtype).astype(number) + number(1 - rate) * x
        case "zoneout":
            return others[0] if rate == 1 else x
    return x


def test_outside_training_nothing_is_random(function, dtype, either):
    arrays = function.arrays(dtype)
    for amount in (0.0, 0.3, 0.9):
        stream = PhiloxStream(11)
        y, mask = function(*arrays, **{function.amount: amount}, training=False, rng=stream, return_mask=True)
        assert stream.call == 0
        assert_same_bits(y, without_noise(function, dtype, *arrays, rate=amount).astype(dtype))
        assert_same_bits(function(*arrays, **{function.amount: amount}, training=False, rng=stream), y)
        if function.name not in FUSED:
            assert y is arrays[0]
            assert mask.apply(y) is y
            assert mask.backward(y) is y


def test_at_amount_0_x_itself_comes_back_unless_there_is_something_to_add(function, dtype, either):
    for training in (True, False):
        arrays = function.arrays(dtype)
        y, mask = function(*arrays, **{function.amount: 0}, training=training, rng=1, return_mask=True)
        assert_same_bits(y, without_noise(function, dtype, *arrays, rate=0).astype(dtype))
        assert (y is arrays[0]) == (function.name not in FUSED)
        out = np.full_like(arrays[0], 7)
        assert function(*arrays, **{function.amount: 0}, training=training, rng=1, out=out) is out
        assert_same_bits(out, y)
        if "gaussian" not in function.name:
            assert np.asarray(mask).all()


@pytest.mark.parametrize("function", DROPPING, indirect=True)
def test_at_rate_1_nothing_of_x_is_left(function, dtype, either):
    arrays = function.arrays(dtype)
    arrays[0].flat[3:6] = np.nan, np.inf, -np.inf
    y, mask = function(*arrays, 1, rng=1, return_mask=True)
    rest = arrays[-1] if len(arrays) > 1 else np.zeros(function.shape, dtype)
    if function.name != "zoneout":
        rest = rest + np.zeros((), dtype)  # which makes a zero positive
    assert_same_bits(y, rest)
    assert not np.asarray(mask).any()
    assert_same_bits(mask.backward(np.full(function.shape, np.nan, dtype)), np.zeros(function.shape, dtype))


def test_zoneout_at_rate_0_and_1_is_one_of_its_operands_and_feels_nothing_of_the_other(dtype, either):
    for training in (True, False):
        random = np.random.default_rng(0)
        new, old = (random.standard_normal(300).astype(dtype) for _ in range(2))
        bad = np.full(300, np.nan, dtype)
        bad[::2] = np.inf
        new[:2] = old[:2] = 0.0, -0.0
        dy = np.ones(300, dtype)
        zeros = np.zeros(300, dtype)
        for operands, rate, expected, gradients in (
            ((new, bad), 0, new, (dy, zeros)),
            ((bad, old), 1, old, (zeros, dy)),
        ):
            y, mask = fastdrop.zoneout(*operands, rate, training=training, rng=1, return_mask=True)
            assert_same_bits(y, expected)
            assert y is not expected
            for gradient, right in zip(fastdrop.zoneout_backward(dy, mask), gradients, strict=True):
                assert_same_bits(gradient, right)


# Shapes matter where something is dropped, and nowhere else


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("dropout1d", shape) for shape in [(), (5,), (1, 2, 3, 4)]),
        *(("dropout2d", shape) for shape in [(), (5,), (5, 6), (1,) * 5]),
        *(("dropout3d", shape) for shape in [(), (5, 6), (1,) * 6]),
        *(("feature_alpha_dropout", shape) for shape in [(), (5,)]),
        *(("embedding_dropout", shape) for shape in [(), (5,), (1, 2, 3)]),
        ("drop_path", ()),
    ],
)
def test_an_array_that_could_not_be_dropped_comes_back_where_nothing_is(name, shape, either):
    function, x = getattr(fastdrop, name), np.ones(shape, np.float32)
    for rate, training in ((0.5, False), (0.0, True), (1.0, False), (0.0, False)):
        y, mask = function(x, rate, training=training, rng=1, return_mask=True)
        assert y is x
        assert mask.apply(x) is x
        out = np.zeros(shape, np.float32)
        assert function(x, rate, training=training, rng=1, out=out) is out
        assert (out == 1).all()
    with pytest.raises(ValueError, match=r"(x|table) must have .*dimension|(x|table) must have shape"):
        function(x, 0.5, rng=1)


# What a peer has


@pytest.mark.parametrize("name", ["alpha_dropout", "gaussian_dropout", "gaussian_noise"])
def test_noise_shape_of_noise_is_the_small_mask_broadcast(name, dtype, either):
    x = np.random.default_rng(0).standard_normal((7, 6, 50)).astype(dtype)
    for noise_shape in ((7, 1, 50), (None, 6, 1), (1, 50), (), (7, 6, 50), None):
        y, mask = getattr(fastdrop, name)(x, 0.3, noise_shape=noise_shape, rng=3, return_mask=True)
        lengths = mask.noise_shape or x.shape
        small = dataclasses.replace(FAMILY[name], shape=lengths).mask(0.3, PhiloxStream(3), 0)
        np.testing.assert_array_equal(mask, np.broadcast_to(np.asarray(small), x.shape))
        wide, number = widened([x], dtype)
        if name == "alpha_dropout":
            expected = definition(FAMILY[name], mask, number, *wide)
        else:
            noise = number(mask.stddev) * np.broadcast_to(normals(small), x.shape).astype(number)
            expected = wide[0] + noise if mask.additive else wide[0] * (number(1) + noise)
        assert_same_bits(y, expected.astype(dtype))
        assert_same_bits(mask.apply(x), y)
    with pytest.raises(ValueError, match="noise_shape"):
        getattr(fastdrop, name)(x, 0.3, noise_shape=(2, 50))


def test_drop_path_scales_where_its_mode_says(dtype, either):
    x = np.ones((40, 3), dtype)
    options = {"mode": "downscale_in_infer", "rng": 3}
    y, mask = fastdrop.drop_path(x, 0.25, return_mask=True, **options)
    assert_same_bits(y, np.where(mask, x, np.zeros((), dtype)))
    assert mask == DropoutMask(x.shape, 0.25, key=PhiloxStream(3).key, noise_shape=(40, 1), scale=1)
    assert_same_bits(fastdrop.drop_path(x, 0.25, training=False, **options), (x * np.float32(0.75)).astype(dtype))
    with pytest.raises(ValueError, match="mode must be 'upscale_in_train' or 'downscale_in_infer', got 'row'"):
        fastdrop.drop_path(x, 0.25, mode="row")


def test_zoneout_by_a_given_mask(dtype, either):
    new, old = FAMILY["zoneout"].arrays(dtype)
    shape, keep = new.shape, np.random.default_rng(1).random(new.shape) < 0.6
    stream = helpers.default_stream()
    before = stream.call
    for mask in (
        DropoutMask(shape, 0.3, key=1),
        DropoutMask(shape, keep_prob=0.1, key=1, noise_shape=(shape[0], 1, 1)),
        DropoutMask.from_array(keep, 0),
        DropoutMask.from_array(keep, 0.5),
        fastdrop.zoneout(new, old, 0.3, rng=5, return_mask=True)[1],
    ):
        y, used = fastdrop.zoneout(new, old, mask=mask, return_mask=True)
        assert_same_bits(y, np.where(mask, new, old))
        assert (used.scale, used.key, used.call, used.rate) == (1, mask.key, mask.call, mask.rate)
        dnew, dold = fastdrop.zoneout_backward(np.ones(shape, dtype), used)
        assert_same_bits(dnew, np.where(mask, np.ones((), dtype), np.zeros((), dtype)))
        assert_same_bits(dold, np.where(mask, np.zeros((), dtype), np.ones((), dtype)))
        assert_same_bits(
            fastdrop.zoneout(new, old, mask=mask, training=False),
            fastdrop.zoneout(
                new, old, training=False, **({"keep_prob": 0.1} if mask.keep_prob == 0.1 else {"rate": mask.rate})
            ),
        )
    assert stream.call == before
    out = old.copy()
    assert fastdrop.zoneout(new, out, mask=mask, out=out) is out
    assert_same_bits(out, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": np.ones((7, 5, 9), bool)}, TypeError, "mask must be a DropoutMask, got an ndarray"),
        ({"mask": DropoutMask((7, 5), 0.5, key=1)}, ValueError, r"mask must have the shape of new, \(7, 5, 9\)"),
        ({"rate": 0.5}, ValueError, "give a mask, or rate, keep_prob and rng to draw one, not both"),
        ({"keep_prob": 0.5}, ValueError, "give a mask, or rate, keep_prob and rng to draw one, not both"),
        ({"rng": 1}, ValueError, "give a mask, or rate, keep_prob and rng to draw one, not both"),
    ],
)
def test_zoneout_refuses_a_mask_that_does_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        fastdrop.zoneout(*FAMILY["zoneout"].arrays(), **{"mask": DropoutMask((7, 5, 9), 0.5, key=1), **options})


def test_alpha_dropout_takes_a_keep_prob_as_it_was_given(either):
    x = np.ones(1000)
    with decimal.localcontext(prec=50):
        limit = decimal.Decimal("1.7580993408473768")
        keep = decimal.Decimal("0.1")
        scale = float(1 / (keep * (1 + (1 - keep) * limit**2)).sqrt())
    _, mask = fastdrop.alpha_dropout(x, keep_prob=0.1, rng=3, return_mask=True)
    assert abs(mask.scale - scale) <= 2 * np.spacing(scale)


# What training says and does to the stream


@pytest.mark.parametrize("amount", [0, 0.3, 1 - 2**-40])
def test_each_call_in_training_uses_one_call_number_whatever_the_amount(function, amount):
    arrays = function.arrays()
    stream = PhiloxStream(3)
    for n in range(3):
        y, mask = function(*arrays, **{function.amount: amount}, rng=stream, return_mask=True)
        assert stream.call == n + 1
        assert (mask.key, mask.call) == (stream.key, n)
        assert mask == function.mask(amount, stream, n)
    function(*arrays, **{function.amount: amount}, rng=stream, out=np.empty_like(y))
    assert stream.call == 4
    function(*arrays, **{function.amount: amount}, training=False, rng=stream)
    assert stream.call == 4


def test_calls_that_follow_each_other_have_masks_of_their_own(function):
    arrays = [np.ones_like(array) for array in function.arrays()]
    if function.name == "zoneout":
        arrays[1][...] = 0
    stream = PhiloxStream(3)
    first, second = (function(*arrays, **{function.amount: 0.5}, rng=stream) for _ in range(2))
    assert (first != second).any()
    seeded = [function(*arrays, **{function.amount: 0.5}, rng=np.random.default_rng(8)) for _ in range(2)]
    assert_same_bits(*seeded)
    named = [function(*arrays, **{function.amount: 0.5}, rng=8) for _ in range(2)]
    assert_same_bits(*named)
    assert_same_bits(named[0], function(*arrays, **{function.amount: 0.5}, rng=PhiloxStream(8)))
    # Of six channels two masks in 64 are equal; of so many calls not all.
    fresh = {function(*arrays, **{function.amount: 0.5}).tobytes() for _ in range(30)}
    assert len(fresh) > 1


@pytest.mark.parametrize("function", [*DROPPING, "gaussian_dropout"], indirect=True)
def test_keep_prob_is_one_minus_rate(function):
    arrays = function.arrays()
    assert_same_bits(function(*arrays, keep_prob=0.75, rng=1), function(*arrays, 0.25, rng=1))
    assert_same_bits(function(*arrays, rng=1), function(*arrays, rate=0.5, rng=1))


# Where the result goes


def test_the_result_has_memory_of_its_own_and_the_operands_stay(function, either):
    arrays = function.arrays()
    before = [array.copy() for array in arrays]
    y = function(*arrays, **{function.amount: 0.5}, rng=1)
    assert not any(np.shares_memory(y, array) for array in arrays)
    for array, copied in zip(arrays, before, strict=True):
        assert_same_bits(array, copied)


def test_out_may_be_any_of_the_operands(function, dtype, either):
    for training in (True, False):
        options = {function.amount: 0.3, "training": training, "rng": 1}
        expected = function(*function.arrays(dtype), **options).copy()
        for i in range(len(function.operands)):
            arrays = function.arrays(dtype)
            if arrays[i].shape == function.shape:
                assert function(*arrays, **options, out=arrays[i]) is arrays[i]
                assert_same_bits(arrays[i], expected)


def test_out_may_be_shifted_within_the_memory_of_an_operand(function, either):
    for training in (True, False):
        options = {function.amount: 0.3, "training": training, "rng": 1}
        expected = function(*function.arrays(), **options)
        for i in range(len(function.operands)):
            arrays = function.arrays()
            if arrays[i].shape == function.shape:
                memory = np.empty(arrays[i].size + 3, np.float32)
                for given, out in ((memory[3:], memory[:-3]), (memory[:-3], memory[3:])):
                    given[...] = arrays[i].reshape(-1)
                    operands = [*arrays[:i], given.reshape(function.shape), *arrays[i + 1 :]]
                    y = function(*operands, **options, out=out.reshape(function.shape))
                    assert_same_bits(y.copy(), expected)


def test_out_may_be_of_a_wider_dtype_and_of_any_layout(function, dtype, either):
    arrays = function.arrays(dtype)
    for training in (True, False):
        options = {function.amount: 0.3, "training": training, "rng": 1}
        expected = function(*arrays, **options)
        backwards = np.full(function.shape[::-1], 7, np.float64).T
        assert function(*arrays, **options, out=backwards) is backwards
        np.testing.assert_array_equal(backwards, expected.astype(np.float64), strict=True)
        steps = np.full((*function.shape[:-1], 2 * function.shape[-1]), 7, dtype)
        function(*arrays, **options, out=steps[..., ::2])
        assert_same_bits(np.ascontiguousarray(steps[..., ::2]), expected)
        assert (steps[..., 1::2] == 7).all()


def test_operands_may_be_of_any_layout_byte_order_and_lists(function, either):
    arrays = function.arrays()
    for training in (True, False):
        options = {function.amount: 0.3, "training": training, "rng": 1}
        expected = function(*arrays, **options)
        swapped = [array.astype(array.dtype.newbyteorder()) for array in arrays]
        transposed = [array.T.copy().T for array in arrays]
        for same in (swapped, transposed, [*transposed[:1], *swapped[1:]], [*swapped[:1], *arrays[1:]]):
            np.testing.assert_array_equal(function(*same, **options), expected)
        doubles = function(*[array.tolist() for array in arrays], **options)
        np.testing.assert_array_equal(
            doubles, function(*[array.astype(np.float64) for array in arrays], **options), strict=True
        )


@pytest.mark.parametrize("function", DROPPING, indirect=True)
def test_what_is_dropped_does_not_leak(function, dtype, either):
    arrays = function.arrays(dtype)
    clean, mask = function(*arrays, 0.5, rng=1, return_mask=True)
    for bad in (np.nan, np.inf, -np.inf):
        arrays[0][~np.asarray(mask)] = bad
        if function.name == "zoneout":
            arrays[1][np.asarray(mask)] = bad
        assert_same_bits(function(*arrays, 0.5, rng=1), clean)


# Gradients


def backward(function, dy, y, mask):
    """The gradient with respect to each operand, as a user gets it."""
    match function.name:
        case "dropout_add":
            return fastdrop.dropout_add_backward(dy, mask)
        case "bias_dropout_add":
            return fastdrop.bias_dropout_add_backward(dy, mask)
        case "relu_dropout":
            return (fastdrop.relu_dropout_backward(dy, y, mask),)
        case "zoneout":
            return fastdrop.zoneout_backward(dy, mask)
    return (mask.backward(dy),)


def differences(f, arrays, step):
    """Central differences of a scalar function with respect to every element of every array."""
    for array in arrays:
        slope = np.empty_like(array)
        for i, value in enumerate(array.flat):
            array.flat[i] = value + step
            above = f(*arrays)
            array.flat[i] = value - step
            slope.flat[i] = (above - f(*arrays)) / (2 * step)
            array.flat[i] = value
        yield slope


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_gradients_are_those_of_finite_differences(function, amount, training, either):
    at_most = 2 if len(function.shape) > 3 else 4
    function = dataclasses.replace(function, shape=tuple(min(n, at_most) for n in function.shape))
    arrays = function.arrays(np.float64)
    step = 2.0**-10
    for array in arrays:  # no relu bends within a step
        array[np.abs(array) < 2 * step] = 0.5
    options = {function.amount: amount, "training": training, "rng": 5}
    y, mask = function(*arrays, **options, return_mask=True)
    if isinstance(mask, DropoutMask) and training and amount > 0:
        assert 0 < np.count_nonzero(mask) < y.size
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = backward(function, dy, y, mask)
    slopes = differences(lambda *operands: np.sum(dy * function(*operands, **options)), arrays, step)
    # Every function is linear within a step, so all of the error is rounding: of a sum of less than a hundred terms of
    # some units, 1e-13 at most, divided by the step.
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-9)


def test_gradients_have_the_dtype_of_dy_and_one_rounding(function, dtype, either):
    arrays = function.arrays(dtype)
    for amount in (0.3, 0.5):
        y, mask = function(*arrays, **{function.amount: amount}, rng=5, return_mask=True)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
        dx, *others = backward(function, dy, y, mask)
        (wide,), number = widened([dy], dtype)
        if "gaussian" in function.name:
            factor = number(1) + number(mask.stddev) * normals(mask).astype(number)
            expected = wide if mask.additive else wide * factor
        else:
            is_open = np.asarray(mask) & (arrays[0] > 0) if function.name == "relu_dropout" else np.asarray(mask)
            expected = np.where(is_open, wide * number(mask.scale), number(0))
        assert_same_bits(dx, expected.astype(dtype))
        if function.name == "zoneout":
            assert_same_bits(others[0], np.where(mask, np.zeros((), dtype), dy))
        elif others:
            assert others[-1] is dy


def test_the_gradient_of_a_bias_is_summed_wide(dtype, either):
    x = np.ones((1000, 3), dtype)
    _, mask = fastdrop.bias_dropout_add(x, x[0], x, 0.5, rng=5, return_mask=True)
    dx, dbias, _ = fastdrop.bias_dropout_add_backward(x, mask)
    # Whole numbers, which neither float32 nor its sum rounds; the halves round them once.
    assert_same_bits(dbias, dx.astype(np.float64).sum(axis=0).astype(dtype))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3), (4,), (2, 3, 4)], ids=str)
def test_the_gradient_of_a_bias_has_its_shape(shape, either):
    x = np.ones(shape)
    y, mask = fastdrop.bias_dropout_add(x, np.ones(shape[-1:]), x, 0.25, rng=5, return_mask=True)
    dx, dbias, dresidual = fastdrop.bias_dropout_add_backward(x, mask)
    assert (y.shape, dx.shape, dbias.shape, dresidual.shape) == (shape, shape, shape[-1:], shape)
    np.testing.assert_array_equal(dbias, dx.reshape(math.prod(shape[:-1]), shape[-1]).sum(axis=0))


@pytest.mark.parametrize("rate", [0.1, 0.3, 1 / 3])
def test_outside_training_the_gradients_of_zoneout_add_up_to_dy(rate, either):
    new, old = np.ones(3), np.zeros(3)
    _, mask = fastdrop.zoneout(new, old, rate, training=False, return_mask=True)
    dnew, dold = fastdrop.zoneout_backward(np.ones(3), mask)
    np.testing.assert_array_equal(dnew, 1 - rate)
    np.testing.assert_array_equal(dnew + dold, 1)


# In place


def test_gradients_go_into_out(function, either):
    arrays = function.arrays()
    y, mask = function(*arrays, **{function.amount: 0.4}, rng=5, return_mask=True)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    if function.name == "relu_dropout":
        expected = fastdrop.relu_dropout_backward(dy, y, mask)
        outs = (np.full_like(dy, 7), dy.copy(), y)
        for out in outs:
            given = out if out is outs[1] else dy
            assert fastdrop.relu_dropout_backward(given, y.copy() if out is y else y, mask, out=out) is out
    else:
        expected = mask.backward(dy)
        outs = (np.full_like(dy, 7), dy.copy())
        for out in outs:
            assert mask.backward(out if out is outs[1] else dy, out=out) is out
    for out in outs:
        assert_same_bits(out, expected)


# The law of alpha dropout


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("group", [1, 50], ids=["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_keeps_mean_and_variance(rate, group, either):
    groups = 40_000 // group
    x = np.random.default_rng(12).standard_normal((groups // 8, 8, group))
    apply = fastdrop.alpha_dropout if group == 1 else fastdrop.feature_alpha_dropout
    y = apply(x, rate, rng=34)
    # The standard errors of the mean and of the second moment, over groups that are dropped as a whole: kept ones have
    # the mean b and the variance a**2 / group, and their mean squares have the mean a**2 + b**2.
    a, b, fill = selu_numbers(rate)
    spread_of_mean = (1 - rate) * (a**2 / group + b**2) + rate * fill**2
    fourth = (1 - rate) * ((a**2 + b**2) ** 2 + (2 * a**4 + 4 * a**2 * b**2) / group) + rate * fill**4
    assert abs(y.mean()) < 4 * math.sqrt(spread_of_mean / groups)
    assert abs(np.square(y).mean() - 1) < 4 * math.sqrt((fourth - 1) / groups)


@pytest.mark.parametrize("amount", [0, 0.0])
@pytest.mark.parametrize("training", [True, False])
def test_where_nothing_is_dropped_the_bits_of_every_nan_are_copied(amount, training, dtype, either):
    bits = np.arange(1 << 16, dtype=np.uint16).astype(f"u{dtype.itemsize}") << 8 * (dtype.itemsize - 2)
    x = bits.view(dtype)  # all exponents, with NaN that signal among them
    for name in ("dropout", "dropconnect", "alpha_dropout", "gaussian_dropout"):
        for out in (np.empty_like(x), x.copy(), np.empty((len(x), 2), dtype)[:, 0]):
            given = out if out.tobytes() == x.tobytes() else x
            y = getattr(fastdrop, name)(given, amount, out=out, rng=1, training=training)
            assert y is out
            np.testing.assert_array_equal(np.ascontiguousarray(y).view(bits.dtype), bits)
