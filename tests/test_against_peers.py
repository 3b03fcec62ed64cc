# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, Keras and thinc themselves, run beside fastdrop: with the same mask they give the same numbers.

The peer runs as it is, but for the one call in which it draws: there it is handed fastdrop's mask. So its noise shape,
its scale, its order of operations and its own backward pass are what fastdrop is compared with. The other way round, a
mask that a peer drew by itself is read from it and replayed by ``DropoutMask.from_array``.

Each test needs one peer and is skipped where that is not installed; FASTDROP_TEST_PEERS makes this an error. Where
fastdrop differs on purpose a test says so in its name.
"""

from contextlib import contextmanager

import ml_dtypes
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask

# Of Keras's own variables, which NumPy asks for their memory.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

RATES = [0.1, 0.3, 0.5, 0.9]


def normals(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def keep_of(mask):
    keep = np.asarray(mask)
    assert keep.any(), "this mask drops all, so it tells nothing"
    assert not keep.all(), "this mask drops nothing, so it tells nothing"
    return keep


def drawn(mask, shape):
    """The decisions of a mask in the shape in which a peer draws them, which must be the one that fastdrop draws in."""
    ones = (1,) * (len(shape) - mask.ndim)  # a peer may add a batch of one
    assert (*ones, *(mask.noise_shape or mask.shape)) == shape
    return keep_of(mask).reshape(ones + mask.shape)[tuple(slice(n) for n in shape)]


def assert_frequency(keep, rate):
    """As many are dropped as the rate says, within 5 standard deviations."""
    assert abs(np.mean(~keep) - rate) < 5 * (rate * (1 - rate) / keep.size) ** 0.5


# PyTorch


def tensor(torch, a):
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(a.copy())


def numbers(torch, t):
    t = t.detach()
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()


@contextmanager
def drawn_in_torch(torch, *masks):
    """What PyTorch draws meanwhile: these masks, one after the other, and neither more nor fewer."""
    from torch.utils._python_dispatch import TorchDispatchMode

    left = list(masks)

    class Draws(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is not torch.ops.aten.bernoulli_.float:
                return func(*args, **(kwargs or {}))
            noise, keep_prob = (*args, 0.5)[:2]  # a default is left out
            mask = left.pop(0)
            assert keep_prob == mask.keep_prob
            return noise.copy_(torch.from_numpy(drawn(mask, tuple(noise.shape)).copy()))

    with Draws():
        yield
    assert not left, "PyTorch did not draw"


def forward_and_gradients(torch, function, masks, dy, *operands):
    """PyTorch's result, and the gradients with respect to the operands, with masks held."""
    leaves = [tensor(torch, a).requires_grad_() for a in operands]
    with drawn_in_torch(torch, *masks):
        y = function(torch.nn.functional, *leaves)
    gradients = torch.autograd.grad(y, leaves, tensor(torch, dy))
    return numbers(torch, y), [numbers(torch, gradient) for gradient in gradients]


# (fastdrop's function, PyTorch's, a shape)
TORCH = {
    "dropout": (fastdrop.dropout, lambda F, x, p: F.dropout(x, p), (40, 50)),
    "dropout1d": (fastdrop.dropout1d, lambda F, x, p: F.dropout1d(x, p), (20, 30, 3)),
    "dropout1d without a batch": (fastdrop.dropout1d, lambda F, x, p: F.dropout1d(x, p), (300, 3)),
    "dropout2d": (fastdrop.dropout2d, lambda F, x, p: F.dropout2d(x, p), (20, 30, 3, 2)),
    "dropout3d": (fastdrop.dropout3d, lambda F, x, p: F.dropout3d(x, p), (20, 30, 3, 2, 4)),
    "dropout3d without a batch": (fastdrop.dropout3d, lambda F, x, p: F.dropout3d(x, p), (300, 3, 2, 4)),
    # What users of PyTorch write where it has no function of its own, as timm and fastai do.
    "drop_path": (fastdrop.drop_path, lambda F, x, p: x * F.dropout(x.new_ones(len(x), 1, 1), p), (300, 3, 2)),
    "embedding_dropout": (
        fastdrop.embedding_dropout,
        lambda F, x, p: x * F.dropout(x.new_ones(len(x), 1), p),
        (300, 5),
    ),
    "dropconnect": (fastdrop.dropconnect, lambda F, x, p: F.dropout(x, p), (40, 50)),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", TORCH)
def test_torch_with_the_same_mask_has_the_same_result_and_gradient(name, rate, dtype, torch):
    ours, peers, shape = TORCH[name]
    x, dy = normals(shape, dtype), normals(shape, dtype, seed=1)
    y, mask = ours(x, rate, rng=3, return_mask=True)
    expected, (dx,) = forward_and_gradients(torch, lambda F, x: peers(F, x, rate), [mask], dy, x)
    # Bit for bit but for the sign of zeros, of which a test below speaks.
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(mask.backward(dy), dx, strict=True)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("rate", RATES)
def test_a_mask_that_torch_drew_replays(rate, dtype, torch):
    x, dy = normals((200, 300), dtype), normals((200, 300), dtype, seed=1)
    torch.manual_seed(3)
    leaf = tensor(torch, x).requires_grad_()
    expected = torch.nn.functional.dropout(leaf, rate)
    (dx,) = torch.autograd.grad(expected, leaf, tensor(torch, dy))
    keep = numbers(torch, expected) != 0
    assert_frequency(keep, rate)
    mask = DropoutMask.from_array(keep, rate)
    np.testing.assert_array_equal(mask.apply(x), numbers(torch, expected), strict=True)
    np.testing.assert_array_equal(mask.backward(dy), numbers(torch, dx), strict=True)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", ["f2", "bfloat16"])
def test_torch_rounds_the_scale_to_half_precision_and_fastdrop_does_not(dtype, rate, torch):
    x = normals((40, 50), dtype)
    y, mask = fastdrop.dropout(x, rate, rng=3, return_mask=True)
    expected, _ = forward_and_gradients(torch, lambda F, x: F.dropout(x, rate), [mask], np.ones_like(x), x)
    keep = keep_of(mask)
    rounded = np.array(mask.scale).astype(dtype).astype("f4")
    np.testing.assert_array_equal(expected, np.where(keep, x.astype("f4") * rounded, 0).astype(dtype), strict=True)
    # Nearer to the exact product: half a unit in the last place, which is what rounding to the dtype costs, and next to
    # nothing for the float32 product that is rounded. The spacing of subnormals is that of the smallest normal number.
    exact = np.where(keep, x.astype("f8") / (1 - rate), 0)
    info = ml_dtypes.finfo(x.dtype)
    unit = np.spacing(np.maximum(abs(exact), float(info.tiny))) / np.finfo("f8").eps * float(info.eps)
    assert (abs(y.astype("f8") - exact) / unit).max() <= 0.5 + 2**-10
    if rounded != np.float32(mask.scale):
        assert (abs(expected.astype("f8") - exact) / unit).max() > 0.55


def test_dropped_negatives_are_minus_zero_in_torch_and_plus_zero_here(torch):
    x = -np.ones(300, np.float32)
    y, mask = fastdrop.dropout(x, 0.5, rng=3, return_mask=True)
    expected, _ = forward_and_gradients(torch, lambda F, x: F.dropout(x, 0.5), [mask], x, x)
    dropped = ~keep_of(mask)
    assert np.signbit(expected[dropped]).all()
    assert not np.signbit(y[dropped]).any()


def test_dropped_nan_and_infinity_are_nan_in_torch_and_zero_here(torch):
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32), 400)
    y, mask = fastdrop.dropout(x, 0.5, rng=3, return_mask=True)
    expected, _ = forward_and_gradients(torch, lambda F, x: F.dropout(x, 0.5), [mask], x, x)
    keep = keep_of(mask)
    np.testing.assert_array_equal(y[keep], expected[keep], strict=True)
    np.testing.assert_array_equal(np.isnan(expected[~keep]), ~np.isfinite(x[~keep]))
    assert not y[~keep].any()


def test_at_rate_1_torch_keeps_nan_and_minus_zero_and_fastdrop_gives_plus_zero(torch):
    x = np.array([1.0, -1.0, -0.0, np.inf, np.nan], np.float32)
    expected, (dx,) = forward_and_gradients(torch, lambda F, x: F.dropout(x, 1.0), [], np.ones_like(x), x)
    np.testing.assert_array_equal(expected, [0, 0, 0, np.nan, np.nan])
    assert np.signbit(expected[1:3]).all()
    y, mask = fastdrop.dropout(x, 1.0, return_mask=True)
    assert y.tobytes() == bytes(y.nbytes)
    np.testing.assert_array_equal(mask.backward(np.ones_like(x)), dx, strict=True)


@pytest.mark.parametrize(
    "name", ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]
)
def test_at_rate_0_and_outside_training_both_give_the_very_object_back(name, torch):
    x = normals((2, 3, *(4,) * (int(name[7]) if name[-1] == "d" else 1)))
    t = tensor(torch, x)
    for rate, training in [(0.0, True), (0.5, False), (1.0, False)]:
        assert getattr(torch.nn.functional, name)(t, rate, training=training) is t
        assert getattr(fastdrop, name)(x, rate, training=training) is x


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
def test_where_nothing_is_dropped_torch_does_not_look_at_the_shape_either(shape, torch):
    x = normals(shape) if shape else np.array(1.0, np.float32)
    t = tensor(torch, x)
    for rate, training in [(0.0, True), (0.5, False)]:
        assert torch.nn.functional.feature_alpha_dropout(t, rate, training=training) is t
        assert fastdrop.feature_alpha_dropout(x, rate, training=training) is x
    with pytest.raises(RuntimeError):
        torch.nn.functional.feature_alpha_dropout(t, 0.5, training=True)
    with pytest.raises(ValueError, match="dimensions"):
        fastdrop.feature_alpha_dropout(x, 0.5)


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_that_is_no_probability_is_the_same_error(rate, name, torch):
    x = normals((2, 3))
    with pytest.raises(ValueError, match="probability"):
        getattr(torch.nn.functional, name)(tensor(torch, x), rate, training=True)
    with pytest.raises(ValueError, match="rate"):
        getattr(fastdrop, name)(x, rate)


def test_inplace_of_torch_is_out_here(torch):
    x = normals(300)
    result = x.copy()
    y, mask = fastdrop.dropout(result, 0.3, rng=3, out=result, return_mask=True)
    t = tensor(torch, x)
    with drawn_in_torch(torch, mask):
        expected = torch.nn.functional.dropout(t, 0.3, inplace=True)
    assert expected.data_ptr() == t.data_ptr()
    assert y is result
    np.testing.assert_array_equal(result, numbers(torch, t), strict=True)


def test_dropout2d_of_three_dimensions_is_a_batch_of_rows_in_torch_and_one_image_here(torch):
    x = normals((20, 30, 3))
    mask = DropoutMask(x.shape, 0.5, key=3, noise_shape=(20, 30, 1))
    with drawn_in_torch(torch, mask), pytest.warns(UserWarning, match="This behavior will change"):
        expected = torch.nn.functional.dropout2d(tensor(torch, x), 0.5)
    np.testing.assert_array_equal(mask.apply(x), numbers(torch, expected), strict=True)
    _, mask = fastdrop.dropout2d(x, 0.5, return_mask=True)
    assert mask.noise_shape == (20, 1, 1)


ALPHA = {"alpha_dropout": (40, 50), "feature_alpha_dropout": (20, 30, 3, 2)}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ALPHA)
def test_alpha_dropout_of_torch_has_the_same_result_and_gradient(name, rate, dtype, torch):
    x, dy = normals(ALPHA[name], dtype), normals(ALPHA[name], dtype, seed=1)
    y, mask = getattr(fastdrop, name)(x, rate, rng=3, return_mask=True)
    expected, (dx,) = forward_and_gradients(torch, lambda F, x: getattr(F, name)(x, rate, training=True), [mask], dy, x)
    keep = keep_of(mask)
    eps = np.finfo(dtype).eps
    # Both round the scale and the shift of what is kept, the product and the sum, in the same places. But for the
    # product of SELU's two constants, 1.75809934084737685994..., PyTorch has the second nearest double. In float32 it
    # makes no difference; in float64 scale and shift may differ in the last place, which numbers below 5 multiply.
    result_tolerance, gradient_tolerance = (0, 0) if dtype == "f4" else (8 * eps, 2 * eps)
    np.testing.assert_allclose(y[keep], expected[keep], rtol=0, atol=result_tolerance, strict=True)
    np.testing.assert_allclose(mask.backward(dy), dx, rtol=gradient_tolerance, atol=0, strict=True)
    # What becomes of the dropped is one number here, rounded once. PyTorch rounds two that are no larger than 1.76, and
    # their sum, each by half a unit in the last place at most.
    assert len(np.unique(y[~keep])) == len(np.unique(expected[~keep])) == 1
    np.testing.assert_allclose(y[~keep], expected[~keep], rtol=0, atol=2 * eps, strict=True)


def test_alpha_dropout_at_rate_1_is_zero_in_torch_too(torch):
    x = abs(normals(300))
    expected, (dx,) = forward_and_gradients(
        torch, lambda F, x: F.alpha_dropout(x, 1.0, training=True), [], np.ones_like(x), x
    )
    y, mask = fastdrop.alpha_dropout(x, 1.0, return_mask=True)
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(mask.backward(np.ones_like(x)), dx, strict=True)


# (the layer, which has the name of PyTorch's module, and a shape)
LAYERS = [
    ("Dropout", (40, 50)),
    ("Dropout1d", (20, 30, 3)),
    ("Dropout1d", (300, 3)),
    ("Dropout2d", (20, 30, 3, 2)),
    ("Dropout3d", (20, 30, 3, 2, 4)),
    ("Dropout3d", (300, 3, 2, 4)),
    ("AlphaDropout", (40, 50)),
    ("FeatureAlphaDropout", (20, 30, 3)),
]


@pytest.mark.parametrize(("name", "shape"), LAYERS)
def test_a_layer_trains_and_evaluates_as_the_module_of_torch(name, shape, torch):
    layer, module = getattr(fastdrop, name)(0.3, rng=3), getattr(torch.nn, name)(0.3)
    x, dy = normals(shape), normals(shape, seed=1)
    masks = []
    for _ in range(2):
        y = layer.train()(x)
        masks.append(layer.mask)
        expected, (dx,) = forward_and_gradients(torch, lambda _, x: module.train()(x), [layer.mask], dy, x)
        # The tolerance is that of alpha dropout above; the others drop to 0 and are exact.
        tolerance = 2 * np.finfo("f4").eps if "Alpha" in name else 0
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance, strict=True)
        np.testing.assert_array_equal(layer.backward(dy), dx, strict=True)
        t = tensor(torch, x)
        assert torch.equal(module.eval()(t), t)  # itself; for one sample without a batch a view of it
        assert layer.eval()(x) is x
    assert not np.array_equal(*masks), "the second mask is not a fresh one"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("rate", RATES)
def test_fused_functions_are_the_compositions_that_users_of_torch_write(rate, dtype, torch):
    shape = (60, 50)
    x, residual, dy = (normals(shape, dtype, seed) for seed in range(3))
    bias = normals(shape[-1], dtype, 3)

    y, mask = fastdrop.dropout_add(x, residual, rate, rng=3, return_mask=True)
    expected, gradients = forward_and_gradients(
        torch, lambda F, x, residual: residual + F.dropout(x, rate), [mask], dy, x, residual
    )
    np.testing.assert_array_equal(y, expected, strict=True)
    for ours, peers in zip(fastdrop.dropout_add_backward(dy, mask), gradients, strict=True):
        np.testing.assert_array_equal(ours, peers, strict=True)

    y, mask = fastdrop.bias_dropout_add(x, bias, residual, rate, rng=3, return_mask=True)
    expected, (dx, dbias, dresidual) = forward_and_gradients(
        torch, lambda F, x, bias, residual: residual + F.dropout(x + bias, rate), [mask], dy, x, bias, residual
    )
    ours = fastdrop.bias_dropout_add_backward(dy, mask)
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(ours[0], dx, strict=True)
    np.testing.assert_array_equal(ours[2], dresidual, strict=True)
    # Sums over the batch, in another order: each addition rounds, and the terms are what may be lost against.
    magnitude = abs(dx).sum(axis=0)
    assert (abs(ours[1] - dbias) <= shape[0] * np.finfo(dtype).eps * magnitude).all()
    assert ours[1].dtype == dbias.dtype

    y, mask = fastdrop.relu_dropout(x, rate, rng=3, return_mask=True)
    expected, (dx,) = forward_and_gradients(torch, lambda F, x: F.dropout(F.relu(x), rate), [mask], dy, x)
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(fastdrop.relu_dropout_backward(dy, y, mask), dx, strict=True)


@pytest.mark.parametrize("rate", RATES)
def test_zoneout_is_dropout_of_the_difference_as_its_authors_wrote_it(rate, torch):
    new, old, dy = (normals((40, 50), "f8", seed) for seed in range(3))
    y, mask = fastdrop.zoneout(new, old, rate, rng=3, return_mask=True)
    # The mask's own scale is 1. PyTorch scales up by 1 / (1 - rate), and the formula down again.
    held = DropoutMask(mask.shape, rate, key=mask.key, call=mask.call)
    expected, (dnew, dold) = forward_and_gradients(
        torch, lambda F, new, old: (1 - rate) * F.dropout(new - old, rate) + old, [held], dy, new, old
    )
    # Where nothing is rounded here, there a difference, two products and a sum are, each by half a unit in the last
    # place of numbers of less than 8, or for the products of so much over 1 - rate, scaled down again.
    np.testing.assert_allclose(y, expected, rtol=0, atol=2 * 8 * np.finfo("f8").eps)
    for ours, peers in zip(fastdrop.zoneout_backward(dy, mask), (dnew, dold), strict=True):
        np.testing.assert_allclose(ours, peers, rtol=0, atol=2 * 8 * np.finfo("f8").eps)


def test_dropout_of_a_stacked_lstm_of_torch_acts_between_its_layers_only(torch):
    """And there it is plain dropout of all outputs: a new decision at each step."""
    steps, batch, features, units, layers, rate = 7, 5, 3, 4, 3, 0.4
    torch.manual_seed(3)
    stacked = torch.nn.LSTM(features, units, layers, dropout=rate, dtype=torch.float64)
    singles = [torch.nn.LSTM(features if i == 0 else units, units, dtype=torch.float64) for i in range(layers)]
    for i, single in enumerate(singles):
        single.load_state_dict({f"{name[:-1]}0": w for name, w in stacked.state_dict().items() if name[-1] == str(i)})
    x, dy = normals((steps, batch, features), "f8"), normals((steps, batch, units), "f8", seed=1)

    stream, masks, tape, values = fastdrop.PhiloxStream(3), [], [], x
    for i, single in enumerate(singles):
        if i > 0:
            values, mask = fastdrop.dropout(values, rate, rng=stream, return_mask=True)
            masks.append(mask)
        leaf = tensor(torch, values).requires_grad_()
        tape.append((leaf, single(leaf)[0]))
        values = numbers(torch, tape[-1][1])
    gradient = dy
    for i, (leaf, y) in reversed(list(enumerate(tape))):
        (gradient,) = torch.autograd.grad(y, leaf, tensor(torch, gradient))
        gradient = numbers(torch, gradient) if i == 0 else masks[i - 1].backward(numbers(torch, gradient))

    leaf = tensor(torch, x).requires_grad_()
    with drawn_in_torch(torch, *masks):
        y, _ = stacked(leaf)
    (dx,) = torch.autograd.grad(y, leaf, tensor(torch, dy))
    np.testing.assert_array_equal(values, numbers(torch, y), strict=True)
    np.testing.assert_array_equal(gradient, numbers(torch, dx), strict=True)


# Keras


class HandedOut:
    """A Generator that hands out what it was given, in place of what it would draw."""

    def __init__(self, masks, kept):
        self.masks = masks
        self.kept = kept

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.where(drawn(self.masks.pop(0), tuple(size)), self.kept, 1.0 - self.kept)

    def normal(self, loc=0.0, scale=1.0, size=None):
        mask = self.masks.pop(0)
        assert (loc, scale, tuple(size)) == (0.0 if mask.additive else 1.0, mask.stddev, mask.shape)
        return np.asarray(mask, np.float64)


@contextmanager
def drawn_in_keras(*masks, kept=0.0):
    """What Keras draws meanwhile: these masks, one after the other, and neither more nor fewer.

    Its dropout keeps small uniform numbers, and its alpha dropout large ones: ``kept`` is the number for what is kept.
    """
    left = list(masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: HandedOut(left, kept))
        yield
    assert not left, "Keras did not draw"


# (fastdrop's function, Keras's layer, a shape)
KERAS = {
    "Dropout": (fastdrop.dropout, lambda layers, rate: layers.Dropout(rate), (40, 50)),
    "Dropout of time steps": (
        lambda x, rate, **options: fastdrop.dropout(x, rate, noise_shape=(None, 1, None), **options),
        lambda layers, rate: layers.Dropout(rate, noise_shape=(None, 1, None)),
        (20, 4, 30),
    ),
    "Dropout with shared axes": (
        lambda x, rate, **options: fastdrop.dropout(x, rate, shared_axes=(0, -1), **options),
        lambda layers, rate: layers.Dropout(rate, noise_shape=(1, None, 1)),
        (3, 300, 4),
    ),
    "Dropout of samples": (
        fastdrop.drop_path,
        lambda layers, rate: layers.Dropout(rate, noise_shape=(None, 1, 1)),
        (300, 4, 3),
    ),
    "SpatialDropout1D": (
        lambda x, rate, **options: fastdrop.dropout1d(x, rate, data_format="channels_last", **options),
        lambda layers, rate: layers.SpatialDropout1D(rate),
        (20, 3, 30),
    ),
}
for dims, shape in ((2, (3, 2)), (3, (3, 2, 4))):
    for data_format in ("channels_first", "channels_last"):
        KERAS[f"SpatialDropout{dims}D {data_format}"] = (
            lambda x, rate, dims=dims, data_format=data_format, **options: getattr(fastdrop, f"dropout{dims}d")(
                x, rate, data_format=data_format, **options
            ),
            lambda layers, rate, dims=dims, data_format=data_format: getattr(layers, f"SpatialDropout{dims}D")(
                rate, data_format=data_format
            ),
            (20, 30, *shape) if data_format == "channels_first" else (20, *shape, 30),
        )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", KERAS)
def test_keras_with_the_same_mask_has_the_same_result(name, rate, keras):
    ours, peers, shape = KERAS[name]
    x = normals(shape)
    y, mask = ours(x, rate, rng=3, return_mask=True)
    with drawn_in_keras(mask):
        expected = peers(keras.layers, rate)(x, training=True)
    # Keras divides by a rounded 1 - rate where fastdrop multiplies by a rounded 1 / (1 - rate): two roundings each, of
    # half a unit in the last place at most, and so none where both are powers of two.
    tolerance = 0 if rate == 0.5 else 2 * np.finfo("f4").eps
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=0, strict=True)


@pytest.mark.parametrize("rate", RATES)
def test_a_mask_that_keras_drew_replays(rate, keras):
    x = normals((200, 300))
    expected = keras.layers.Dropout(rate, seed=3)(x, training=True)
    keep = expected != 0
    assert_frequency(keep, rate)
    y = DropoutMask.from_array(keep, rate).apply(x)
    np.testing.assert_allclose(y, expected, rtol=2 * np.finfo("f4").eps, atol=0, strict=True)  # as above


@pytest.mark.parametrize("rate", RATES)
def test_alpha_dropout_of_keras_has_the_same_result(rate, keras):
    x = normals((40, 50))
    y, mask = fastdrop.alpha_dropout(x, rate, rng=3, return_mask=True)
    with drawn_in_keras(mask, kept=1.0):
        expected = keras.layers.AlphaDropout(rate)(x, training=True)
    # Both round scale and shift to float32, the product and the sum; for dropped ones Keras does it all again, with
    # numbers no larger than 1.76, and fastdrop has the result, rounded once.
    keep = keep_of(mask)
    np.testing.assert_array_equal(y[keep], expected[keep], strict=True)
    np.testing.assert_allclose(y[~keep], expected[~keep], rtol=0, atol=3 * np.finfo("f4").eps, strict=True)


def test_alpha_dropout_of_keras_shares_decisions_by_noise_shape_too(keras):
    x = normals((20, 4, 30))
    layer = fastdrop.AlphaDropout(0.3, noise_shape=(None, 1, None), rng=3)
    y = layer(x)
    with drawn_in_keras(layer.mask, kept=1.0):
        expected = keras.layers.AlphaDropout(0.3, noise_shape=(None, 1, None))(x, training=True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=3 * np.finfo("f4").eps, strict=True)  # as above


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_spatial_layer_is_that_of_keras_by_default_and_takes_what_that_takes(dims, keras):
    name, lengths = f"SpatialDropout{dims}D", (3, 2, 4)[:dims]
    x = normals((20, *lengths, 30))
    layer, peers = getattr(fastdrop, name)(0.5, rng=3), getattr(keras.layers, name)(0.5)
    y = layer(x)
    with drawn_in_keras(layer.mask):
        expected = peers(x, training=True)
    np.testing.assert_array_equal(y, expected, strict=True)
    assert layer(x, training=False) is x
    assert peers(x, training=False) is x
    for shape in ((*lengths, 30), (20, *lengths, 30, 1)):
        with pytest.raises(ValueError, match="ndim"):
            peers(normals(shape), training=True)
        with pytest.raises(ValueError, match="x must have shape"):
            layer(normals(shape))


@pytest.mark.parametrize("rate", RATES)
def test_gaussian_dropout_of_keras_with_the_same_normals_has_the_same_result(rate, keras):
    x = normals((40, 50))
    y, mask = fastdrop.gaussian_dropout(x, rate, rng=3, return_mask=True)
    with drawn_in_keras(mask):
        expected = keras.layers.GaussianDropout(rate)(x, training=True)
    np.testing.assert_array_equal(y, expected, strict=True)


@pytest.mark.parametrize("stddev", [0.1, 1.0])
def test_gaussian_noise_of_keras_with_the_same_normals_has_the_same_result(stddev, keras):
    x = normals((40, 50))
    y, mask = fastdrop.gaussian_noise(x, stddev, rng=3, return_mask=True)
    with drawn_in_keras(mask):
        expected = keras.layers.GaussianNoise(stddev)(x, training=True)
    np.testing.assert_array_equal(y, expected, strict=True)


@pytest.mark.parametrize("name", ["GaussianDropout", "GaussianNoise"])
def test_normals_that_keras_draws_itself_follow_the_same_law(name, keras):
    import scipy.stats

    x = np.ones(2**18, np.float32)
    if name == "GaussianDropout":
        ours, peers = fastdrop.gaussian_dropout(x, 0.3, rng=3), keras.layers.GaussianDropout(0.3, seed=3)
        variance = 0.3 / 0.7
    else:
        ours, peers = fastdrop.gaussian_noise(x, 0.7, rng=3), keras.layers.GaussianNoise(0.7, seed=3)
        variance = 0.7**2
    expected = peers(x, training=True)
    for values in (ours, expected):
        values = values.astype("f8")
        assert abs(values.mean() - 1) < 5 * (variance / x.size) ** 0.5
        assert abs(values.var() / variance - 1) < 5 * (2 / x.size) ** 0.5
    assert scipy.stats.ks_2samp(ours, expected).pvalue > 1e-4


@pytest.mark.parametrize("name", ["Dropout", "SpatialDropout1D", "AlphaDropout", "GaussianDropout", "GaussianNoise"])
def test_outside_training_and_at_0_keras_gives_the_very_object_back_too(name, keras):
    functions = {
        "Dropout": fastdrop.dropout,
        "SpatialDropout1D": fastdrop.dropout1d,
        "AlphaDropout": fastdrop.alpha_dropout,
        "GaussianDropout": fastdrop.gaussian_dropout,
        "GaussianNoise": fastdrop.gaussian_noise,
    }
    x = normals((2, 3, 4))
    for amount, training in [(0.0, True), (0.5, False)]:
        assert getattr(keras.layers, name)(amount)(x, training=training) is x
        assert functions[name](x, amount, training=training) is x


def test_at_rate_1_keras_gives_plus_zero_too(keras):
    x = np.array([1.0, -1.0, -0.0, np.inf, np.nan], np.float32)
    expected = keras.layers.Dropout(1.0)(x, training=True)
    assert fastdrop.dropout(x, 1.0).tobytes() == expected.tobytes() == bytes(x.nbytes)


def test_dropped_nan_and_infinity_are_zero_in_keras_too(keras):
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -1.0], np.float32), 400)
    y, mask = fastdrop.dropout(x, 0.5, rng=3, return_mask=True)
    with drawn_in_keras(mask):
        expected = keras.layers.Dropout(0.5)(x, training=True)
    assert y.tobytes() == expected.tobytes()


def test_alpha_dropout_at_rate_1_divides_by_zero_in_keras_and_is_zero_here(keras):
    x = normals(300)
    with pytest.raises(ZeroDivisionError):
        keras.layers.AlphaDropout(1.0)(x, training=True)
    assert not fastdrop.alpha_dropout(x, 1.0).any()


def test_gaussian_dropout_at_rate_1_divides_by_zero_in_keras_and_is_refused_here(keras):
    x = normals(300)
    with pytest.raises(ZeroDivisionError):
        keras.layers.GaussianDropout(1.0)(x, training=True)
    with pytest.raises(ValueError, match="rate must be below 1"):
        fastdrop.gaussian_dropout(x, 1.0)


# Keras's recurrent layers

SEQUENCES = (6, 9, 5)  # batch, steps, features
UNITS = 4
# Keras sums in another order, with another exp, in float32 even where it is given float64. An error of some units in
# the last place is carried from step to step; the outputs are below 1, and a wrong mask changes them by tenths.
NET_TOLERANCE = 1e-5


def recurrent_layer(keras, kind, dropout, recurrent_dropout):
    """A layer of Keras with weights that are not symmetric in any way."""
    layer = getattr(keras.layers, kind)(
        UNITS,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        return_sequences=True,
        seed=3,
    )
    layer.build(SEQUENCES)
    layer.set_weights([normals(w.shape, w.dtype, seed) for seed, w in enumerate(layer.get_weights())])
    return layer


def by_gate(weights, gates):
    """(depth, gates * units) to (gates, depth, units)."""
    return weights.reshape(len(weights), gates, UNITS).transpose(1, 0, 2)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm(x, weights, masks):
    """An LSTM in NumPy whose input and state are dropped by fastdrop's masks."""
    kernel, recurrent, bias = weights
    gates = masks.input.apply(x, time_axis=1)
    h = c = np.zeros((len(x), UNITS), x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        z = gates[:, :, t] @ by_gate(kernel, 4) + masks.state.apply(h) @ by_gate(recurrent, 4)
        i, f, g, o = z + bias.reshape(4, 1, UNITS)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def gru(x, weights, masks):
    """A GRU in NumPy, in the form that cuDNN has too, whose input and state are dropped by fastdrop's masks."""
    kernel, recurrent, biases = weights
    gates = masks.input.apply(x, time_axis=1)
    h = np.zeros((len(x), UNITS), x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        from_input = gates[:, :, t] @ by_gate(kernel, 3) + biases[0].reshape(3, 1, UNITS)
        from_state = masks.state.apply(h) @ by_gate(recurrent, 3) + biases[1].reshape(3, 1, UNITS)
        update, reset = sigmoid(from_input[:2] + from_state[:2])
        h = update * h + (1 - update) * np.tanh(from_input[2] + reset * from_state[2])
        outputs.append(h)
    return np.stack(outputs, axis=1)


RECURRENT = {"LSTM": (lstm, 4), "GRU": (gru, 3)}


@pytest.mark.parametrize(("dropout", "recurrent_dropout"), [(0.5, 0.5), (0.3, 0.1), (0.0, 0.4), (0.4, 0.0)])
@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_net_of_keras_runs_on_these_masks(kind, dropout, recurrent_dropout, keras):
    net, gates = RECURRENT[kind]
    x = normals(SEQUENCES)
    layer = recurrent_layer(keras, kind, dropout, recurrent_dropout)
    masks = fastdrop.RecurrentDropout(dropout, recurrent_dropout, gates=gates, rng=3).draw(
        SEQUENCES[0], SEQUENCES[2], UNITS
    )
    # Without a recurrent dropout Keras multiplies all gates' input by one mask; with it each gate has masks of its own.
    per_gate = recurrent_dropout > 0
    assert masks.input.per_gate == masks.state.per_gate == per_gate
    of_input, of_state = (
        [] if part.rate == 0 else [part.mask[gate] for gate in range(gates)] if per_gate else [part.mask]
        for part in masks
    )
    with drawn_in_keras(*of_input, *of_state):
        expected = layer(x, training=True)
    np.testing.assert_allclose(net(x, layer.get_weights(), masks), expected, rtol=0, atol=NET_TOLERANCE, strict=True)
    undropped = recurrent_layer(keras, kind, 0.0, 0.0)(x)
    assert abs(expected - undropped).max() > 0.1, "nothing was dropped"


@pytest.mark.parametrize("kind", RECURRENT)
def test_masks_that_keras_draws_stay_along_a_sequence_change_with_the_batch_and_replay(kind, keras):
    _, gates = RECURRENT[kind]
    layer = recurrent_layer(keras, kind, 0.5, 0.3)
    seen = {"get_dropout_mask": [], "get_recurrent_dropout_mask": []}
    with pytest.MonkeyPatch.context() as patch:
        for name, masks in seen.items():
            original = getattr(layer.cell, name)

            def recorded(x, original=original, masks=masks):
                masks.append(original(x))
                return masks[-1]

            patch.setattr(layer.cell, name, recorded)
        for _ in range(2):
            layer(normals(SEQUENCES), training=True)
    batch, steps, features = SEQUENCES
    ours = fastdrop.RecurrentDropout(0.5, 0.3, gates=gates, rng=3)
    of_ours = ours.draw(batch, features, UNITS)
    for masks, depth, part in zip(seen.values(), (features, UNITS), of_ours, strict=True):
        first, second = masks[: len(masks) // 2], masks[len(masks) // 2 :]
        assert len(first) == len(second) == 1 + steps  # once before the loop, to draw
        for of_batch in (first, second):
            assert all(mask is of_batch[0] for mask in of_batch), "not constant along the sequence"
        assert not np.array_equal(first[0], second[0])
        drawn_masks = np.stack(first[0])
        assert drawn_masks.shape == part.mask.shape == (gates, batch, depth)
        assert len({mask.tobytes() for mask in drawn_masks}) == gates, "two gates share a mask"
        replayed = DropoutMask.from_array(drawn_masks != 0, part.rate).apply(np.ones_like(drawn_masks))
        # 1 / (1 - rate), with 1 - rate rounded to float32 first or not.
        np.testing.assert_allclose(replayed, drawn_masks, rtol=2 * np.finfo("f4").eps, atol=0, strict=True)


def test_keras_draws_outside_training_too_and_fastdrop_does_not(keras):
    layer = recurrent_layer(keras, "LSTM", 0.5, 0.5)
    state = np.array(layer.cell.seed_generator.state)
    layer(normals(SEQUENCES), training=False)
    assert not np.array_equal(np.array(layer.cell.seed_generator.state), state)

    ours = fastdrop.RecurrentDropout(0.5, 0.5, rng=3).eval()
    call = ours.rng.call
    masks = ours.draw(SEQUENCES[0], SEQUENCES[2], UNITS)
    assert ours.rng.call == call
    assert np.asarray(masks.input.mask).all()
    assert np.asarray(masks.state.mask).all()


@pytest.mark.parametrize("kind", RECURRENT)
def test_rate_1_drops_nothing_in_a_recurrent_net_of_keras_and_all_here(kind, keras):
    net, gates = RECURRENT[kind]
    x = normals(SEQUENCES)
    layer = recurrent_layer(keras, kind, 1.0, 1.0)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))

    masks = fastdrop.RecurrentDropout(1.0, 1.0, gates=gates, rng=3).draw(SEQUENCES[0], SEQUENCES[2], UNITS)
    assert not masks.input.apply(x, time_axis=1).any()
    assert not masks.state.apply(np.ones((SEQUENCES[0], UNITS))).any()
    # Which is what Keras gives for an input of zeros and weights of the state of zeros.
    kernel, recurrent, bias = layer.get_weights()
    layer.set_weights([kernel, np.zeros_like(recurrent), bias])
    expected = layer(np.zeros_like(x), training=True)
    result = net(x, (kernel, recurrent, bias), masks)
    np.testing.assert_allclose(result, expected, rtol=0, atol=NET_TOLERANCE, strict=True)


# thinc, of spaCy


@contextmanager
def drawn_in_thinc(*masks):
    """What thinc draws meanwhile: these masks, one after the other, and neither more nor fewer."""
    left = list(masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "uniform", lambda low, high, size: drawn(left.pop(0), tuple(size)).astype(float))
        yield
    assert not left, "thinc did not draw"


def containers(thinc):
    """For each kind of batch that thinc knows: how to make one of an array of shape (30, 8), and the arrays in it."""
    lengths = thinc.NumpyOps().asarray1i

    def padded(x):
        by_step = x.reshape(10, 3, 8)
        return thinc.Padded(by_step, size_at_t=lengths([3] * 10), lengths=lengths([10] * 3), indices=lengths([0, 1, 2]))

    return {
        "array": (lambda x: x, lambda batch: [batch]),
        "list": (lambda x: [x[:10], x[10:]], lambda batch: batch),
        "Ragged": (lambda x: thinc.Ragged(x, lengths([10, 15, 5])), lambda batch: [batch.dataXd]),
        "Padded": (padded, lambda batch: [batch.data]),
    }


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["array", "list", "Ragged", "Padded"])
def test_thinc_with_the_same_masks_has_the_same_result_and_gradient(kind, rate, thinc):
    wrapped, arrays_in = containers(thinc)[kind]
    batch, gradient = wrapped(normals((30, 8))), wrapped(normals((30, 8), seed=1))
    stream = fastdrop.PhiloxStream(3)
    ours = [fastdrop.dropout(x, rate, rng=stream, return_mask=True) for x in arrays_in(batch)]
    with drawn_in_thinc(*(mask for _, mask in ours)):
        result, backprop = thinc.Dropout(rate)(batch, is_train=True)
    expected = zip(arrays_in(result), arrays_in(backprop(gradient)), arrays_in(gradient), strict=True)
    for (y, mask), (peers, dx, dy) in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(y, peers, strict=True)
        np.testing.assert_array_equal(mask.backward(dy), dx, strict=True)


@pytest.mark.parametrize("rate", RATES)
def test_a_mask_that_thinc_drew_replays(rate, thinc):
    x = normals((200, 300))
    thinc.fix_random_seed(3)
    expected, backprop = thinc.Dropout(rate)(x, is_train=True)
    keep = expected != 0
    assert_frequency(keep, rate)
    mask = DropoutMask.from_array(keep, rate)
    np.testing.assert_array_equal(mask.apply(x), expected, strict=True)
    np.testing.assert_array_equal(mask.backward(x), backprop(x), strict=True)


@pytest.mark.parametrize("rate", [0.0, *RATES, 1.0])
def test_the_array_of_get_dropout_mask_is_dropout_of_ones(rate, thinc):
    ones = np.ones((40, 50), np.float32)
    y, mask = fastdrop.dropout(ones, rate, rng=3, return_mask=True)
    with drawn_in_thinc(*([mask] if 0 < rate < 1 else [])):
        expected = thinc.NumpyOps().get_dropout_mask(ones.shape, rate)
    np.testing.assert_array_equal(y, expected, strict=True)


def test_at_rate_0_and_in_prediction_thinc_gives_the_very_object_back_too(thinc):
    x = normals((30, 8))
    model = thinc.Dropout(0.5)
    assert model.predict(x) is x
    assert fastdrop.dropout(x, 0.5, training=False) is x
    thinc.set_dropout_rate(model, 0.0)
    assert model(x, is_train=True)[0] is x
    assert fastdrop.dropout(x, 0.0) is x


def test_dropped_nan_is_nan_in_thinc_and_zero_here(thinc):
    x = np.full((30, 8), np.nan, np.float32)
    y, mask = fastdrop.dropout(x, 0.5, rng=3, return_mask=True)
    with drawn_in_thinc(mask):
        expected, _ = thinc.Dropout(0.5)(x, is_train=True)
    assert np.isnan(expected).all()
    np.testing.assert_array_equal(np.isnan(y), keep_of(mask))
