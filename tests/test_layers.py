# SPDX-License-Identifier: BSD-3-Clause
"""A layer is its function with a stream of its own: same bits, same gradient, and a state that goes on where it was."""

import copy
import functools
import inspect
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastdrop
from fastdrop import PhiloxStream

LAST_CALL = 2**56 - 1

# Each layer in each of its forms: class, function, the number that says how much, other arguments, shape of x.
FORMS = [
    ("Dropout", "dropout", 0.3, {}, (3, 4, 5)),
    ("Dropout", "dropout", 0.3, {"noise_shape": (None, 1, 5)}, (3, 4, 5)),
    ("Dropout", "dropout", 0.3, {"shared_axes": -1}, (3, 4, 5)),
    ("Dropout", "dropout", 0.3, {"shared_axes": (0, 2)}, (3, 4, 5)),
    ("Dropout", "dropout", 0.3, {"mode": "downscale_in_infer"}, (3, 4, 5)),
    ("Dropout1d", "dropout1d", 0.4, {}, (5, 7, 3)),
    ("Dropout2d", "dropout2d", 0.4, {}, (5, 7, 3, 2)),
    ("Dropout3d", "dropout3d", 0.4, {}, (5, 7, 3, 2, 2)),
    ("DropBlock2d", "drop_block2d", 0.4, {}, (5, 7, 9, 8)),
    ("DropBlock2d", "drop_block2d", 0.4, {"block_size": 3, "data_format": "channels_last"}, (5, 9, 8, 7)),
    ("SpatialDropout1D", "dropout1d", 0.4, {}, (5, 3, 7)),
    ("SpatialDropout1D", "dropout1d", 0.4, {"data_format": "channels_first"}, (5, 7, 3)),
    ("SpatialDropout2D", "dropout2d", 0.4, {}, (5, 3, 2, 7)),
    ("SpatialDropout2D", "dropout2d", 0.4, {"data_format": "channels_first"}, (5, 7, 3, 2)),
    ("SpatialDropout3D", "dropout3d", 0.4, {}, (5, 3, 2, 2, 7)),
    ("SpatialDropout3D", "dropout3d", 0.4, {"data_format": "channels_first"}, (5, 7, 3, 2, 2)),
    ("DropPath", "drop_path", 0.4, {}, (40, 3)),
    ("DropPath", "drop_path", 0.4, {"mode": "downscale_in_infer"}, (40, 3)),
    ("DropConnect", "dropconnect", 0.3, {}, (8, 9)),
    ("EmbeddingDropout", "embedding_dropout", 0.4, {}, (40, 3)),
    ("AlphaDropout", "alpha_dropout", 0.3, {}, (6, 10)),
    ("AlphaDropout", "alpha_dropout", 0.3, {"noise_shape": (1, None)}, (6, 40)),
    ("FeatureAlphaDropout", "feature_alpha_dropout", 0.3, {}, (6, 10, 2)),
    ("GaussianDropout", "gaussian_dropout", 0.3, {}, (6, 10)),
    ("GaussianDropout", "gaussian_dropout", 0.3, {"noise_shape": (6, 1)}, (6, 10)),
    ("GaussianNoise", "gaussian_noise", 0.3, {}, (6, 10)),
    ("GaussianNoise", "gaussian_noise", 0.3, {"noise_shape": (1, None)}, (6, 10)),
]
NAMES = list(dict.fromkeys(form[0] for form in FORMS))
RATE_LAYERS = [name for name in NAMES if name != "GaussianNoise"]


class Form:
    """A row of the table, made concrete."""

    def __init__(self, name, function, amount, options, shape):
        self.layer_class = getattr(fastdrop, name)
        self.function = getattr(fastdrop, function)
        if name.startswith("Spatial"):  # whose default is that of Keras
            self.function = functools.partial(self.function, data_format="channels_last")
        self.amount, self.options, self.shape = amount, options, shape

    def layer(self, rng=7, **more):
        return self.layer_class(self.amount, rng=rng, **self.options, **more)

    def x(self, dtype=np.float32, seed=0):
        return np.random.default_rng(seed).standard_normal(self.shape).astype(dtype)


def form_id(form):
    return "-".join([form[0], *map(str, form[3].values())])


@pytest.fixture(params=FORMS, ids=form_id)
def form(request):
    return Form(*request.param)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def make(name, amount=0.25, **arguments):
    return getattr(fastdrop, name)(amount, **arguments)


def x_for(name, seed=0):
    return Form(*next(form for form in FORMS if form[0] == name)).x(seed=seed)


def bits(*arrays):
    return [array.tobytes() for array in arrays]


# The layer is its function


def test_every_layer_is_in_the_table():
    layers = {
        name
        for name, value in vars(fastdrop).items()
        if inspect.isclass(value) and value.__module__ == fastdrop.Dropout.__module__
    }
    assert layers == set(NAMES)
    assert layers <= set(fastdrop.__all__)


def test_a_layer_gives_the_bits_of_its_function_call_after_call(form, dtype, either):
    layer, stream = form.layer(), PhiloxStream(7)
    masks = []
    for seed in range(4):
        x = form.x(dtype, seed)
        before = x.copy()
        y, mask = form.function(x, form.amount, rng=stream, return_mask=True, **form.options)
        assert bits(layer(x)) == bits(y)
        assert layer.mask == mask
        assert bits(x) == bits(before)
        masks.append(mask)
    assert len(set(masks)) == 4
    assert layer.rng.call == stream.call == 4


def test_a_layer_in_inference_gives_what_its_function_gives_and_draws_nothing(form, either):
    layer, x = form.layer().eval(), form.x()
    y, mask = form.function(x, form.amount, training=False, rng=0, return_mask=True, **form.options)
    assert bits(layer(x)) == bits(y)
    assert (layer(x) is x) == (y is x)
    assert layer.mask == mask
    assert layer.rng.call == 0
    assert bits(layer.train()(x)) == bits(form.layer()(x)), "the stream has not moved"


def test_backward_is_that_of_the_mask_in_training_and_in_inference(form, dtype, either):
    layer, x, dy = form.layer(), form.x(dtype), form.x(dtype, seed=1)
    layer(x)
    assert bits(layer.backward(dy)) == bits(layer.mask.backward(dy))
    assert bits(layer.backward(dy)) == bits(layer.mask.backward(dy)), "as often as asked for"
    layer.eval()(x)
    if form.options.get("mode") == "downscale_in_infer":
        assert bits(layer.backward(dy)) == bits(layer(dy)), "multiplying by 1 - rate is its own gradient"
    else:
        assert layer.backward(dy) is dy


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_gradient_is_that_of_finite_differences_with_the_mask_held(form, mode, either):
    layer = form.layer()
    getattr(layer, mode)()
    x, dy = form.x(np.float64), form.x(np.float64, seed=1)
    state = layer.state_dict()

    def loss(x):
        layer.load_state_dict(state)
        return np.sum(layer(x) * dy)

    h = 2.0**-3
    numeric = np.empty_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        numeric[at] = (loss(up) - loss(down)) / (2 * h)
    layer.load_state_dict(state)
    layer(x)
    # Every layer is affine in x, so a difference has no error but that of rounding: sums of a few hundred numbers
    # near 1, each with a relative error of 2**-53, over 2 h.
    np.testing.assert_allclose(layer.backward(dy), numeric, rtol=0, atol=1e-11)
    if mode == "train":
        assert not np.array_equal(layer.backward(dy), dy) or form.function is fastdrop.gaussian_noise


# A layer with a peer's name is the peer's layer


def test_spatial_dropout_drops_features_of_a_sequence_and_not_its_time_steps(either):
    y = fastdrop.SpatialDropout1D(0.5, rng=1)(np.ones((20, 4, 30)))
    assert (y == y[:, :1]).all()
    assert len(np.unique(y[0, 0])) == 2


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spatial_dropout_takes_batches_alone_and_torchs_dropout_single_samples_too(dims, either):
    lengths = (3, 2, 4)[:dims]
    spatial, plain = (getattr(fastdrop, name)(0.5, rng=1) for name in (f"SpatialDropout{dims}D", f"Dropout{dims}d"))
    for shape in ((*lengths, 5), (*lengths, 5, 1, 1), (5,), ()):
        with pytest.raises(
            ValueError, match=rf"x must have shape \(N, .*, C\) in SpatialDropout{dims}D with channels_l"
        ):
            spatial(np.ones(shape))
        assert spatial.rng.call == 0
    batch, sample = plain(np.ones((50, 20, *lengths))), plain(np.ones((20, *lengths)))
    for y in (batch.reshape(1000, -1), sample.reshape(20, -1)):
        assert (y == y[:, :1]).all()
        assert len(np.unique(y)) == 2
    with pytest.raises(ValueError, match=rf"x must have shape \(N, C, .*\) or \(C, .*\) in dropout{dims}d"):
        plain(np.ones((1, 1, *lengths, 5)))
    for layer in (spatial.eval(), plain.eval()):
        x = np.ones(5)
        assert layer(x) is x


@pytest.mark.parametrize("name", RATE_LAYERS)
def test_the_rate_can_be_given_as_its_complement_or_left_out(name):
    cls = getattr(fastdrop, name)
    assert cls(keep_prob=0.75).rate == cls(0.25).rate == cls(rate=0.25).rate == 0.25
    assert cls().rate == 0.5


def test_a_rate_that_is_changed_while_training_holds_from_the_next_pass_on(form, either):
    layer, stream, x = form.layer(), PhiloxStream(7), form.x()
    attribute = "stddev" if form.function is fastdrop.gaussian_noise else "rate"
    for amount in (form.amount, 0.7, 0, np.float32(0.125), 0.9):
        setattr(layer, attribute, amount)
        assert getattr(layer, attribute) == amount
        assert type(getattr(layer, attribute)) is float
        assert bits(layer(x)) == bits(form.function(x, amount, rng=stream, **form.options))
    layer(x)
    mask = layer.mask
    setattr(layer, attribute, 0.1)
    assert layer.mask is mask, "backward is still that of the pass before"


@pytest.mark.parametrize("name", RATE_LAYERS)
def test_a_keep_prob_is_used_as_it_was_given_in_every_copy_of_the_layer(name, tmp_path, either):
    layer, x = getattr(fastdrop, name)(keep_prob=0.1, rng=5), x_for(name)
    form = next(Form(*form) for form in FORMS if form[0] == name)
    expected, mask = form.function(x, keep_prob=0.1, rng=PhiloxStream(5), return_mask=True)
    assert layer.keep_prob == 0.1
    restored = [getattr(fastdrop, name)() for _ in range(3)]
    for again, through in zip(restored, (through_json, through_pickle, through_savez), strict=True):
        again.load_state_dict(through(layer.state_dict(), tmp_path))
    later = getattr(fastdrop, name)(0.3, rng=5)
    later.keep_prob = 0.1
    for same in (*restored, later, eval(repr(layer), vars(fastdrop)), copy.deepcopy(layer), layer):
        assert (same.keep_prob, same.rate) == (0.1, 0.9)
        assert bits(same(x)) == bits(expected)
        assert same.mask == mask
    layer.rate = 0.9
    assert layer.keep_prob == 1 - 0.9
    for bad, error in ((1.5, ValueError), ("0.5", TypeError)):
        refused(error, ["keep_prob"], lambda bad=bad: setattr(layer, "keep_prob", bad))


def test_a_state_without_keep_prob_is_of_a_rate():
    layer = fastdrop.Dropout(keep_prob=0.1, rng=5)
    layer.load_state_dict(fastdrop.Dropout(0.9, rng=6).state_dict())
    assert (layer.rate, layer.keep_prob) == (0.9, 1 - 0.9)
    state = fastdrop.Dropout(keep_prob=0.1, rng=7).state_dict()
    before = layer.state_dict()
    refused(ValueError, ["keep_prob", "1 - rate"], lambda: layer.load_state_dict(state | {"keep_prob": 0.2}))
    refused(TypeError, ["keep_prob", "'x'"], lambda: layer.load_state_dict(state | {"keep_prob": "x"}))
    refused(ValueError, ["nothing else"], lambda: layer.load_state_dict(state | {"p": 0.2}))
    assert layer.state_dict() == before


def test_a_list_that_is_changed_after_construction_changes_no_layer():
    noise_shape, axes = [None, 1], [0]
    by_shape = fastdrop.Dropout(noise_shape=noise_shape, rng=1)
    by_axes = fastdrop.Dropout(shared_axes=axes, rng=1)
    noise_shape[0], axes[0] = 1, 1
    x = np.ones((50, 40), np.float32)
    assert all(len(set(row)) == 1 for row in by_shape(x))
    assert all(len(set(column)) == 1 for column in by_axes(x).T)


def test_a_noise_shape_with_a_0_fits_an_array_without_elements_alone():
    layer = fastdrop.Dropout(0.5, noise_shape=(0, None), rng=1)
    y = layer(np.ones((0, 3)))
    assert (y.shape, layer.mask.shape, layer.rng.call) == ((0, 3), (0, 3), 1)
    with pytest.raises(ValueError, match=r"noise_shape must hold 1 or None or .* of \(2, 3\), got \(0, None\)"):
        layer(np.ones((2, 3)))
    assert layer.rng.call == 1


# Training and inference


def test_train_and_eval_return_the_layer(name):
    layer = make(name)
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(False) is layer
    assert layer.training is False


def test_always_draws_in_inference_as_in_training(form, either):
    layer, x = form.layer(always=True), form.x()
    training = form.layer()
    for switch in (layer.eval, layer.train, layer.eval):
        switch()
        assert layer.is_stochastic
        assert bits(layer(x)) == bits(training(x))
    layer.always = False
    assert not layer.is_stochastic
    stream = layer.rng.call
    layer(x)
    assert layer.rng.call == stream


def test_a_call_may_say_itself_whether_it_draws(form, either):
    layer, training, x = form.layer(always=True), form.layer(), form.x()
    for switch, say in ((layer.train, False), (layer.eval, np.False_)):
        switch()
        with fastdrop.stochastic(layer):
            quiet = layer(x, training=say)
        assert bits(quiet) == bits(form.layer().eval()(x))
        assert (layer.rng.call, layer.training) == (0, switch == layer.train)
    layer.always = False
    assert bits(layer(x, training=True)) == bits(training(x))
    assert bits(layer.forward(x, training=np.True_)) == bits(training.forward(x, training=None))
    assert layer.mask == training.mask
    assert not layer.training
    for bad in ("False", 1, 0, [], np.array([True])):
        refused(TypeError, ["training must be True or False"], lambda bad=bad: layer(x, training=bad))
    assert layer.rng.call == 2


def test_the_mask_is_that_of_the_last_pass_and_none_before(name):
    layer = make(name, rng=3)
    assert layer.mask is None
    layer(x_for(name))
    first = layer.mask
    layer(x_for(name))
    assert None is not first != layer.mask
    assert (layer.mask.key, layer.mask.call) == (layer.rng.key, 1)


def test_backward_before_any_forward_is_a_clear_error(name):
    with pytest.raises(ValueError, match=rf"{name}\.backward.*forward"):
        make(name).backward(np.ones((2, 2)))


# Where the stream comes from


def key_of(seed):
    return PhiloxStream(seed).key


def test_without_rng_each_layer_has_entropy_of_its_own(name):
    layers = [make(name) for _ in range(20)]
    assert len({layer.rng.key for layer in layers}) == 20
    before = fastdrop.dropout(np.ones(1), return_mask=True)[1].call
    layers[0](x_for(name))
    assert fastdrop.dropout(np.ones(1), return_mask=True)[1].call == before + 1, "not the module's own stream"
    assert layers[0].rng.call == 1


@pytest.mark.parametrize("form_of_seed", [int, np.int64, np.random.SeedSequence], ids=lambda form: form.__name__)
def test_a_seed_is_that_of_a_stream_so_that_calls_differ(name, form_of_seed):
    layer, same = make(name, rng=form_of_seed(11)), make(name, rng=11)
    assert layer.rng.key == key_of(11)
    x = x_for(name)
    first, second = layer(x), layer(x)
    assert bits(first, second) == bits(same(x), same(x))
    assert bits(first) != bits(second)


@pytest.mark.parametrize("wrapped", [False, True], ids=["BitGenerator", "Generator"])
def test_a_generator_gives_its_key_once(name, wrapped):
    bit_generator = np.random.PCG64(5)
    layer = make(name, rng=np.random.Generator(bit_generator) if wrapped else bit_generator)
    counted = np.random.default_rng(5)
    assert layer.rng.key == int(counted.integers(0, 2**64, dtype=np.uint64))
    for _ in range(3):
        layer(x_for(name))
    assert bit_generator.state == counted.bit_generator.state
    assert layer.rng.call == 3


def test_a_stream_is_used_as_it_is_and_can_be_shared(name):
    stream, counted = PhiloxStream(5), PhiloxStream(5)
    one, other = make(name, rng=stream), make(name, rng=stream)
    assert one.rng is other.rng is stream
    x = x_for(name)
    together = [one(x), other(x), one(x)]
    alone = make(name, rng=counted)
    assert bits(*together) == bits(alone(x), alone(x), alone(x))
    assert stream.call == 3


def test_spawned_streams_make_layers_that_differ_where_one_seed_does_not(name):
    x = x_for(name)
    one, other = (make(name, rng=stream) for stream in PhiloxStream(5).spawn(2))
    assert bits(one(x)) != bits(other(x))
    assert bits(make(name, rng=5)(x)) == bits(make(name, rng=5)(x))


def test_a_stream_can_be_given_later(name):
    layer, x = make(name), x_for(name)
    layer.rng = 5
    assert bits(layer(x)) == bits(make(name, rng=5)(x))
    stream = PhiloxStream(6)
    layer.rng = stream
    assert layer.rng is stream
    for bad in ("seed", -1, 0.5):
        with pytest.raises((TypeError, ValueError), match=r"rng.*at least 0"):
            layer.rng = bad
    assert layer.rng is stream


# Checkpoints


def through_json(state, tmp_path):
    return json.loads(json.dumps(state))


def through_pickle(state, tmp_path):
    return pickle.loads(pickle.dumps(state))


def through_savez(state, tmp_path):
    np.savez(tmp_path / "state.npz", **state)
    return np.load(tmp_path / "state.npz")  # without allow_pickle


class DataSet:
    """What HDF5 makes of a value, as h5py gives it."""

    def __init__(self, value):
        self._array = np.array(value.encode() if isinstance(value, str) else value)

    def __array__(self, dtype=None, copy=None):
        return self._array

    def __getitem__(self, index):
        return self._array[index]


def through_data_sets(state, tmp_path):
    return {name: DataSet(value) for name, value in state.items()}


def through_values_of_data_sets(state, tmp_path):
    return {name: DataSet(value)[()] for name, value in state.items()}


@pytest.mark.parametrize(
    "through", [through_json, through_pickle, through_savez, through_data_sets, through_values_of_data_sets]
)
def test_a_state_restores_the_mask_that_would_have_come_next(form, through, tmp_path, either):
    x = form.x()
    for key in (255, 2**63 + 1, 2**64 - 1):
        layer = form.layer(rng=PhiloxStream.from_key(key, call=2**32 - 2))
        for _ in range(3):
            layer(x)
        state = through(layer.state_dict(), tmp_path)
        expected = bits(*(layer(x) for _ in range(3)))
        again = form.layer(rng=None)
        again.load_state_dict(state)
        assert bits(*(again(x) for _ in range(3))) == expected
        layer.load_state_dict(state)
        assert bits(*(layer(x) for _ in range(3))) == expected
        if through is through_savez:
            state.close()


def test_a_state_is_plain_and_does_not_change_with_the_layer(name):
    layer = make(name, rng=5)
    state = layer.state_dict()
    amount = "stddev" if name == "GaussianNoise" else "rate"
    assert state == {"layer": name, amount: 0.25, "key": key_of(5), "call": 0}
    assert {type(value) for value in state.values()} == {str, float, int}
    layer(x_for(name))
    assert state["call"] == 0
    assert layer.state_dict()["call"] == 1


def test_a_state_holds_the_rate_that_was_set_but_not_whether_the_layer_trains(name):
    layer = make(name, rng=5)
    attribute = "stddev" if name == "GaussianNoise" else "rate"
    setattr(layer, attribute, 0.7)
    again = make(name).eval()
    again.load_state_dict(layer.state_dict())
    assert getattr(again, attribute) == 0.7
    assert again.training is False


def test_a_training_that_stops_in_the_middle_of_an_epoch_goes_on_with_the_same_bits(tmp_path):
    """Gradient descent on a net with two dropout layers, in one go and in two parts with a checkpoint between."""
    rng = np.random.default_rng(3)
    x, target = rng.standard_normal((64, 5)), rng.standard_normal((64, 1))
    start = [rng.standard_normal((5, 8)), rng.standard_normal((8, 1))]

    def steps(weights, layers, batches):
        for batch in batches:
            rows = slice(8 * batch, 8 * batch + 8)
            hidden = layers[1](np.maximum(layers[0](x[rows]) @ weights[0], 0))
            dy = hidden @ weights[1] - target[rows]
            dhidden = layers[1].backward(dy @ weights[1].T) * (hidden > 0)
            weights[1] -= 0.01 * hidden.T @ dy
            weights[0] -= 0.01 * layers[0].mask.apply(x[rows]).T @ dhidden
            layers[0].backward(dhidden @ weights[0].T)
        return weights

    def layers(seed):
        return [fastdrop.Dropout(0.2, rng=stream) for stream in PhiloxStream(seed).spawn(2)]

    whole = steps([w.copy() for w in start], layers(1), range(8))

    first_part = layers(1)
    weights = steps([w.copy() for w in start], first_part, range(5))
    np.savez(tmp_path / "weights.npz", *weights)
    (tmp_path / "layers.json").write_text(json.dumps([layer.state_dict() for layer in first_part]))

    second_part = layers(999)
    for layer, state in zip(second_part, json.loads((tmp_path / "layers.json").read_text()), strict=True):
        layer.load_state_dict(state)
    with np.load(tmp_path / "weights.npz") as saved:
        weights = steps([saved["arr_0"], saved["arr_1"]], second_part, range(5, 8))
    assert bits(*weights) == bits(*whole)


def test_layers_that_share_a_stream_still_share_it_after_loading():
    x = np.ones(200, np.float32)

    def pair(seed):
        stream = PhiloxStream(seed)
        return [fastdrop.Dropout(0.5, rng=stream), fastdrop.Dropout(0.5, rng=stream)]

    layers = pair(1)
    layers[0](x)
    states = [layer.state_dict() for layer in layers]
    expected = bits(*(layer(x) for layer in layers * 2))
    again = pair(2)
    for layer, state in zip(again, states, strict=True):
        layer.load_state_dict(state)
    assert bits(*(layer(x) for layer in again * 2)) == expected
    assert len(set(expected)) == 4


def test_a_used_up_stream_is_restored_as_used_up():
    layer = fastdrop.Dropout(rng=PhiloxStream.from_key(1, call=LAST_CALL))
    x = np.ones(10)
    layer(x)
    again = fastdrop.Dropout()
    again.load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match=r"2\*\*56"):
        again(x)


def test_loading_leaves_the_spawned_family_where_the_key_stays_and_changes_it_with_the_key():
    layer = fastdrop.Dropout(rng=PhiloxStream(5))
    state = layer.state_dict()
    layer.load_state_dict(state)
    assert layer.rng.spawn(1)[0].key == PhiloxStream(5).spawn(1)[0].key
    layer.load_state_dict(state | {"key": 99})
    assert layer.rng.spawn(1)[0].key == PhiloxStream.from_key(99).spawn(1)[0].key


BAD_STATES = [
    ("not a mapping", lambda state: list(state.items()), TypeError, ["state", "mapping", "list"]),
    ("None", lambda state: None, TypeError, ["state", "mapping", "None"]),
    ("empty", lambda state: {}, ValueError, ["state", "key", "call", "nothing"]),
    ("a key is missing", lambda state: {k: state[k] for k in state if k != "call"}, ValueError, ["state", "call"]),
    ("a key too many", lambda state: state | {"training": True}, ValueError, ["state", "training", "nothing else"]),
    ("of another layer", lambda state: state | {"layer": "Zoneout"}, ValueError, ["layer", "Zoneout"]),
    ("of layers", lambda state: state | {"layer": np.array(["a", "b"])}, ValueError, ["layer", "a"]),
    ("key negative", lambda state: state | {"key": -1}, ValueError, ["key", "2**64", "-1"]),
    ("key too large", lambda state: state | {"key": 2**64}, ValueError, ["key", "2**64"]),
    ("key a float", lambda state: state | {"key": 1e10}, TypeError, ["key", "int", "float"]),
    ("key a bool", lambda state: state | {"key": True}, TypeError, ["key", "int", "bool"]),
    ("key None", lambda state: state | {"key": None}, TypeError, ["key", "int", "None"]),
    ("call negative", lambda state: state | {"call": -1}, ValueError, ["call", "2**56", "-1"]),
    ("call too large", lambda state: state | {"call": 2**56 + 1}, ValueError, ["call", "2**56"]),
    ("call a string", lambda state: state | {"call": "3"}, TypeError, ["call", "int", "'3'"]),
]
BAD_AMOUNTS = [
    ("negative", -0.5, ValueError),
    ("NaN", float("nan"), ValueError),
    ("a string", "0.5", TypeError),
    ("None", None, TypeError),
    ("an array", np.array([0.5]), TypeError),
    ("a bool", True, TypeError),
]


def refused(error, pieces, call):
    with pytest.raises(error) as caught:
        call()
    missing = [piece for piece in pieces if piece not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"


@pytest.mark.parametrize(("change", "error", "pieces"), [pytest.param(*row[1:], id=row[0]) for row in BAD_STATES])
def test_a_wrong_state_is_refused_and_changes_nothing(name, change, error, pieces):
    layer = make(name, 0.25, rng=5)
    other = make(name, 0.75, rng=6)
    other(x_for(name))
    layer(x_for(name))
    before, mask, stream = repr(layer), layer.mask, layer.rng
    refused(error, pieces, lambda: layer.load_state_dict(change(other.state_dict())))
    assert repr(layer) == before
    assert layer.mask is mask
    assert layer.rng is stream


@pytest.mark.parametrize(("bad", "error"), [pytest.param(*row[1:], id=row[0]) for row in BAD_AMOUNTS])
def test_a_bad_rate_is_refused_wherever_it_comes_from_and_changes_nothing(name, bad, error):
    attribute = "stddev" if name == "GaussianNoise" else "rate"
    generator = np.random.default_rng(5)
    before = generator.bit_generator.state
    refused(error, [attribute], lambda: make(name, bad, rng=generator))
    assert generator.bit_generator.state == before
    layer = make(name, rng=5)
    shown = repr(layer)
    refused(error, [attribute], lambda: setattr(layer, attribute, bad))
    refused(error, [attribute], lambda: layer.load_state_dict({**layer.state_dict(), "key": 1, attribute: bad}))
    assert repr(layer) == shown


def test_a_state_of_another_class_is_refused_even_with_the_same_names():
    refused(
        ValueError, ["DropPath", "Dropout"], lambda: fastdrop.Dropout().load_state_dict(make("DropPath").state_dict())
    )


# Copies


def everything(layer):
    return (repr(layer), layer.mask, layer.training, layer.always)


def test_a_pickled_or_copied_layer_goes_on_as_the_original_would(form, either):
    x, dy = form.x(), form.x(seed=1)
    pickled = [lambda layer, n=n: pickle.loads(pickle.dumps(layer, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
    for copied in (*pickled, copy.copy, copy.deepcopy):
        layer = form.layer()
        layer(x)
        again = copied(layer)
        assert type(again) is type(layer)
        assert everything(again) == everything(layer)
        assert bits(again.backward(dy)) == bits(layer.backward(dy))
        ahead = bits(again(x), again(x))
        assert layer.rng.call == 1, "the copy has a stream of its own"
        assert bits(layer(x), layer(x)) == ahead
        assert [child.key for child in again.rng.spawn(2)] == [child.key for child in layer.rng.spawn(2)]


def test_layers_pickled_together_share_what_they_shared():
    stream = PhiloxStream(5)
    layers = [fastdrop.Dropout(rng=stream), fastdrop.Dropout(rng=stream)]
    for again in (pickle.loads(pickle.dumps(layers)), copy.deepcopy(layers)):
        assert again[0].rng is again[1].rng is not stream


def test_a_layer_pickles_to_a_few_hundred_bytes_however_large_its_x():
    layer = fastdrop.Dropout(rng=5)
    layer(np.ones((1000, 1000), np.float32))
    assert len(pickle.dumps(layer)) < 1000


# How it reads


def test_repr_is_what_makes_a_layer_that_goes_on(form, either):
    x = form.x()
    for switch in ("train", "eval"):
        for always in (False, True):
            layer = form.layer(always=always)
            layer(x)
            getattr(layer, switch)()
            again = eval(repr(layer), {**vars(fastdrop)})
            assert everything(again)[2:] == everything(layer)[2:]
            assert repr(again) == repr(layer)
            assert bits(again(x)) == bits(layer(x))


def test_repr_leaves_out_what_is_usual():
    stream = PhiloxStream.from_key(255, call=3)
    shown = "rng=PhiloxStream.from_key(0x00000000000000ff, call=3)"
    assert repr(fastdrop.Dropout(0.25, rng=stream)) == f"Dropout(0.25, {shown})"
    assert repr(fastdrop.Dropout(keep_prob=0.75, noise_shape=[None, 1], rng=stream, always=True).eval()) == (
        f"Dropout(0.25, noise_shape=(None, 1), {shown}, always=True).eval()"
    )
    first = fastdrop.SpatialDropout2D(0.5, data_format="channels_first", rng=stream)
    assert repr(first) == f"SpatialDropout2D(0.5, data_format='channels_first', {shown})"
    assert repr(fastdrop.SpatialDropout2D(0.5, rng=stream)) == f"SpatialDropout2D(0.5, {shown})"
    assert repr(fastdrop.Dropout(keep_prob=0.1, rng=stream)) == f"Dropout(keep_prob=0.1, {shown})"
    assert repr(fastdrop.GaussianNoise(1.5, rng=stream)) == f"GaussianNoise(1.5, {shown})"


def test_a_class_of_a_users_own_works():
    class Half(fastdrop.Dropout):
        def __init__(self, seed):
            super().__init__(0.5, shared_axes=0, rng=seed)

        def forward(self, x):
            return super().forward(x) / 2

    layer, x = Half(3), np.ones((5, 50))
    expected = fastdrop.Dropout(0.5, shared_axes=0, rng=3)(x) / 2
    assert bits(layer(x)) == bits(expected), "calling goes through its forward"
    assert repr(layer).startswith("Half(0.5, shared_axes=0, rng=PhiloxStream")
    other = Half(4)
    other.load_state_dict(layer.state_dict())
    assert bits(other(x)) == bits(layer(x))


def test_a_users_docstring_stays_as_it_is():
    class Mine(fastdrop.Dropout):
        """With {parameters} and {mask}."""

        def __init__(self, strength):
            super().__init__(strength)

    assert Mine.__doc__ == "With {parameters} and {mask}."


def test_the_help_of_a_layer_says_all_of_its_parameters(name):
    cls = getattr(fastdrop, name)
    text = inspect.getdoc(cls)
    for parameter in inspect.signature(cls).parameters:
        assert f"\n{parameter} : " in text, parameter
    for section in ("Parameters\n---", "Attributes\n---", "Notes\n---"):
        assert text.count(section) == 1
    assert "{" not in text.replace('{"', "")
    assert max(map(len, text.splitlines())) <= 120
    layer = make(name, rng=5)
    layer(x_for(name))
    assert f"mask : {type(layer.mask).__name__} or None" in text


# Bad input


BAD_ARGUMENTS = [
    ("Dropout", {"rate": 0.5, "keep_prob": 0.4}, ValueError, ["rate", "keep_prob"]),
    ("Dropout", {"keep_prob": 1.5}, ValueError, ["keep_prob", "0 to 1", "1.5"]),
    ("Dropout", {"noise_shape": 3}, TypeError, ["noise_shape", "sequence", "3"]),
    ("Dropout", {"noise_shape": "12"}, TypeError, ["noise_shape", "sequence", "'12'"]),
    ("Dropout", {"noise_shape": (1, 2.0)}, TypeError, ["noise_shape", "sequence", "2.0"]),
    ("Dropout", {"noise_shape": (1, True)}, TypeError, ["noise_shape", "sequence", "True"]),
    ("Dropout", {"noise_shape": (1, -2)}, ValueError, ["noise_shape", "at least 0", "-2"]),
    ("Dropout", {"shared_axes": 1.0}, TypeError, ["shared_axes", "int", "1.0"]),
    ("Dropout", {"shared_axes": (0, None)}, TypeError, ["shared_axes", "int", "None"]),
    ("Dropout", {"shared_axes": (0, 0)}, ValueError, ["shared_axes", "twice"]),
    ("Dropout", {"shared_axes": 0, "noise_shape": (1, None)}, ValueError, ["shared_axes", "noise_shape", "both"]),
    ("Dropout", {"mode": "upscale"}, ValueError, ["mode", "upscale_in_train", "downscale_in_infer", "'upscale'"]),
    ("Dropout", {"rng": "seed"}, TypeError, ["rng", "seed"]),
    ("Dropout", {"rng": -1}, ValueError, ["rng", "-1"]),
    ("Dropout", {"always": 1}, TypeError, ["always", "True or False", "1"]),
    ("SpatialDropout1D", {"data_format": "NCHW"}, ValueError, ["data_format", "channels_first", "NCHW"]),
    ("SpatialDropout2D", {"data_format": None}, ValueError, ["data_format", "channels_last", "None"]),
    ("SpatialDropout3D", {"data_format": "channels"}, ValueError, ["data_format", "channels_last", "channels"]),
    ("GaussianDropout", {"rate": 1.0}, ValueError, ["rate", "below 1"]),
    ("GaussianNoise", {"stddev": float("inf")}, ValueError, ["stddev", "finite"]),
    ("GaussianNoise", {"stddev": -1e-300}, ValueError, ["stddev", "at least 0"]),
]


@pytest.mark.parametrize(
    ("name", "arguments", "error", "pieces"),
    [pytest.param(*row, id="-".join([row[0], *map(str, row[1])])) for row in BAD_ARGUMENTS],
)
def test_a_bad_argument_is_refused_at_construction_and_no_key_is_drawn(name, arguments, error, pieces):
    generator = np.random.default_rng(5)
    before = generator.bit_generator.state
    given = {"rng": generator} | ({"stddev": 1.0} if name == "GaussianNoise" else {}) | arguments
    refused(error, pieces, lambda: getattr(fastdrop, name)(**given))
    assert generator.bit_generator.state == before


@pytest.mark.parametrize(
    ("name", "given", "pieces"),
    [
        ("Dropout", {"seed": 7}, ["Dropout takes no argument 'seed'", "it is 'rng' here"]),
        ("Dropout", {"p": 0.5}, ["it is 'rate' here"]),
        ("AlphaDropout", {"seed": 7}, ["it is 'rng' here"]),
        ("GaussianNoise", {"stddev": 1.0, "seed": 7}, ["GaussianNoise takes no argument 'seed'", "it is 'rng' here"]),
        ("Dropout2d", {"p": 0.5, "inplace": True}, ["it is 'rate' here"]),
        ("Dropout2d", {"inplace": True}, ["'inplace'", "out"]),
        ("DropPath", {"drop_prob": 0.5}, ["it is 'rate' here"]),
        ("Dropout", {"axis": 1}, ["it is 'shared_axes' here"]),
        ("SpatialDropout1D", {"dtype": "float32"}, ["'dtype'", "arrays say it"]),
        ("SpatialDropout1D", {"noise_shape": (1, 2)}, ["unexpected keyword argument 'noise_shape'"]),
        ("Dropout", {"nonsense": 1}, ["unexpected keyword argument 'nonsense'"]),
        ("RecurrentDropout", {"seed": 7}, ["RecurrentDropout takes no argument 'seed'", "it is 'rng' here"]),
    ],
)
def test_an_argument_that_a_peer_calls_otherwise_is_named_as_here(name, given, pieces):
    refused(TypeError, pieces, lambda: getattr(fastdrop, name)(**given))


def test_what_only_the_function_can_refuse_leaves_stream_and_mask_as_they_were(form):
    layer, x = form.layer(), form.x()
    layer(x)
    mask = layer.mask
    for bad in (x.astype(int), "x", x.astype(complex)):
        with pytest.raises(TypeError, match="float32"):
            layer(bad)
    with pytest.raises(ValueError, match=r"shape of the mask"):
        layer.backward(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="float32"):
        layer.backward(x.astype(int))
    if form.options.get("noise_shape"):
        with pytest.raises(ValueError, match="noise_shape"):
            layer(x[0])
    assert layer.mask is mask
    assert layer.rng.call == 1


def test_training_modes_are_bools():
    layer = fastdrop.Dropout()
    for bad in (1, "eval", None):
        refused(TypeError, ["mode", "True or False"], lambda bad=bad: layer.train(bad))
    assert layer.training is True


# Threads


def test_threads_that_use_one_layer_get_no_mask_twice():
    layer = fastdrop.Dropout(0.5, rng=5)
    x = np.ones(128, np.float64)
    barrier = threading.Barrier(8)

    def draw(_):
        barrier.wait(60)
        return [layer(x).tobytes() for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        drawn = [y for ys in pool.map(draw, range(8)) for y in ys]
    alone = fastdrop.Dropout(0.5, rng=5)
    assert sorted(drawn) == sorted(alone(x).tobytes() for _ in range(400))


def test_threads_in_inference_get_their_x_back():
    layer = fastdrop.Dropout(0.5, rng=5).eval()
    with ThreadPoolExecutor(8) as pool:
        xs = [np.full(10, i, np.float32) for i in range(200)]
        assert all(y is x for y, x in zip(pool.map(layer, xs), xs, strict=True))
    assert layer.rng.call == 0
