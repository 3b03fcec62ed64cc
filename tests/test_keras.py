# SPDX-License-Identifier: BSD-3-Clause
"""Layers for Keras give the masks of the reference on each backend, with Keras's meaning of every name."""

import math
import warnings

import keras_helpers
import numpy as np
import pytest
from keras_helpers import BACKEND, DTYPES, assert_same, defined, fk, gradient, keras, normals, on, state, tensor, trains

import fastdrop
from fastdrop import AlphaMask, DropoutMask, GaussianMask

pytestmark = [
    # Of Keras's own variables, which NumPy asks for their memory.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
layers = keras.layers
ops = keras.ops
SEED = 7
WORD = 2**32


def dropout_mask(shape, key, rate=0.3, shared=()):
    noise_shape = tuple(1 if axis in shared else n for axis, n in enumerate(shape))
    return DropoutMask(shape, rate, key=key, noise_shape=noise_shape)


# By what the layer is: how it is made, a shape of inputs, and its mask by a key.
CASES = {
    "Dropout": (lambda of, **o: of.Dropout(0.3, **o), (4, 5, 6), dropout_mask),
    "Dropout at 0.5": (lambda of, **o: of.Dropout(0.5, **o), (33, 7), lambda s, key: dropout_mask(s, key, 0.5)),
    "Dropout of steps": (
        lambda of, **o: of.Dropout(0.3, noise_shape=(None, 1, None), **o),
        (4, 5, 6),
        lambda s, key: dropout_mask(s, key, shared=(1,)),
    ),
    "Dropout of features": (
        lambda of, **o: of.Dropout(0.3, noise_shape=(1, 6), **o),
        (4, 5, 6),
        lambda s, key: dropout_mask(s, key, shared=(0, 1)),
    ),
    "SpatialDropout1D": (
        lambda of, **o: of.SpatialDropout1D(0.3, **o),
        (4, 5, 6),
        lambda s, key: dropout_mask(s, key, shared=(1,)),
    ),
    "SpatialDropout2D": (
        lambda of, **o: of.SpatialDropout2D(0.3, **o),
        (4, 2, 3, 6),
        lambda s, key: dropout_mask(s, key, shared=(1, 2)),
    ),
    "SpatialDropout2D first": (
        lambda of, **o: of.SpatialDropout2D(0.3, data_format="channels_first", **o),
        (4, 6, 2, 3),
        lambda s, key: dropout_mask(s, key, shared=(2, 3)),
    ),
    "SpatialDropout3D": (
        lambda of, **o: of.SpatialDropout3D(0.3, **o),
        (4, 2, 3, 2, 6),
        lambda s, key: dropout_mask(s, key, shared=(1, 2, 3)),
    ),
    "SpatialDropout3D first": (
        lambda of, **o: of.SpatialDropout3D(0.3, data_format="channels_first", **o),
        (4, 6, 2, 3, 2),
        lambda s, key: dropout_mask(s, key, shared=(2, 3, 4)),
    ),
    "AlphaDropout": (lambda of, **o: of.AlphaDropout(0.3, **o), (4, 5, 6), lambda s, key: AlphaMask(s, 0.3, key=key)),
    "AlphaDropout of steps": (
        lambda of, **o: of.AlphaDropout(0.3, noise_shape=(None, 1, None), **o),
        (4, 5, 6),
        lambda s, key: AlphaMask(s, 0.3, key=key, noise_shape=(None, 1, None)),
    ),
    "GaussianDropout": (
        lambda of, **o: of.GaussianDropout(0.3, **o),
        (4, 5, 6),
        lambda s, key: GaussianMask(s, math.sqrt(0.3 / 0.7), key=key),
    ),
    "GaussianNoise": (
        lambda of, **o: of.GaussianNoise(0.3, **o),
        (4, 5, 6),
        lambda s, key: GaussianMask(s, 0.3, key=key, additive=True),
    ),
}
cases = pytest.mark.parametrize("case", CASES)
NAMES = [name for name in fk.__all__ if name[0].isupper()]


@pytest.fixture(autouse=True)
def _is_off_afterwards():
    yield
    was_enabled = fk.is_enabled()
    fk.disable()
    assert not was_enabled


# The masks


@pytest.mark.parametrize("dtype", DTYPES)
@cases
def test_a_layer_applies_the_masks_of_its_seed_and_of_how_many_there_were(case, dtype):
    """The key is the same on all backends, so the mask is, and the result to the bit."""
    make, shape, mask = CASES[case]
    layer = make(fk, seed=SEED, dtype=dtype)
    for count in range(3):
        x = normals(shape, dtype, seed=count)
        assert state(layer) == [SEED, count]
        assert_same(layer(tensor(x), training=True), defined(mask(shape, SEED + WORD * count), x))


@trains
@pytest.mark.parametrize("dtype", DTYPES)
@cases
def test_the_gradient_is_the_backward_pass_of_the_mask(case, dtype):
    make, shape, mask = CASES[case]
    layer = make(fk, seed=SEED, dtype=dtype)
    x, dy = normals(shape, dtype), normals(shape, dtype, seed=1)
    expected = mask(shape, SEED).backward(dy)
    assert_same(gradient(lambda x: layer(x, training=True), x, dy), expected)
    assert state(layer)[1] == 1


@on("tensorflow", "jax")  # for torch.compile see below
@cases
def test_in_compiled_code_masks_are_those_of_eager_calls(case):
    make, shape, mask = CASES[case]
    layer = make(fk, seed=SEED)
    x, dy = normals(shape), normals(shape, seed=1)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec(lengths, tf.float32) for lengths in ((shape[0], *(None,) * (len(shape) - 1)),) * 2]
        run = tf.function(
            lambda x, dy: (layer(x, training=True), gradient_again(x, dy)), input_signature=signature, autograph=False
        )

        def gradient_again(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return tape.gradient(y, x, dy)

        for count in (0, 2):
            y, dx = run(x, dy)
            assert_same(y, defined(mask(shape, SEED + WORD * count), x))
            assert_same(dx, mask(shape, SEED + WORD * (count + 1)).backward(dy))
        return
    import jax

    @jax.jit
    def run(words, x):
        return layer.stateless_call([], [words], x, training=True)

    words = layer.seed_generator.state.value
    for count in range(2):
        y, (words,) = run(words, x)
        assert_same(y, defined(mask(shape, SEED + WORD * count), x))
    assert state(layer) == [SEED, 0]


@on("torch")
def test_torch_compiles_around_a_layer():
    import torch

    layer = fk.Dropout(0.3, seed=SEED)
    run = torch.compile(lambda x: layer(x, training=True) * 2.0, backend="eager")
    x = normals((4, 5))
    for count in range(2):
        assert_same(run(tensor(x)), defined(dropout_mask((4, 5), SEED + WORD * count), x) * np.float32(2))


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (70, 1000)])
def test_any_shape_will_do(shape):
    x = normals(shape, "float32") if shape else np.array(2.0, np.float32)
    y = fk.Dropout(0.3, seed=SEED)(tensor(x), training=True)
    assert_same(y, defined(DropoutMask(shape, 0.3, key=SEED), x))


def test_dropped_nan_and_infinity_are_zero():
    x = np.full((4, 50), np.nan, np.float32)
    x[2:] = np.inf
    y = keras_helpers.array(fk.Dropout(0.5, seed=SEED)(tensor(x), training=True))
    keep = np.asarray(DropoutMask(x.shape, 0.5, key=SEED))
    np.testing.assert_array_equal(y[~keep], 0)
    assert not np.isfinite(y[keep]).any()


def test_a_layer_in_mixed_precision_drops_in_the_precision_of_computation():
    x = normals((4, 5, 6))
    y = fk.Dropout(0.3, seed=SEED, dtype="mixed_bfloat16")(tensor(x), training=True)
    expected = x.astype(keras_helpers.dtype_of("bfloat16"))
    assert_same(y, defined(dropout_mask(x.shape, SEED), expected))


# The meaning of Keras


@cases
def test_outside_training_inputs_are_given_back_and_the_seed_stays(case):
    make, shape, _ = CASES[case]
    layer = make(fk, seed=SEED)
    x = tensor(normals(shape))
    assert layer(x) is x
    assert layer(x, training=False) is x
    assert state(layer) == [SEED, 0]


@pytest.mark.parametrize("name", NAMES)
def test_at_0_inputs_are_given_back(name):
    x = tensor(normals({"2": (2, 3, 4, 5), "3": (2, 3, 2, 4, 5)}.get(name[-2], (2, 3, 4))))
    layer = getattr(fk, name)(0)
    assert layer(x, training=True) is x
    assert not hasattr(layer, "seed_generator")


def test_at_rate_1_all_is_zero_whatever_it_was_and_the_seed_stays_as_in_keras():
    x = np.full((2, 3), np.nan, np.float32)
    for of in (fk, layers):
        layer = of.Dropout(1, seed=SEED)
        assert_same(layer(tensor(x), training=True), np.zeros((2, 3), np.float32))
        assert state(layer) == [SEED, 0]


def test_alpha_dropout_at_rate_1_is_zero_and_gaussian_dropout_refuses_where_keras_divides_by_zero():
    x = tensor(normals((2, 3)))
    assert_same(fk.AlphaDropout(1.0)(x, training=True), np.zeros((2, 3), np.float32))
    layer = fk.GaussianDropout(1.0, seed=SEED)
    assert layer(x) is x
    with pytest.raises(ValueError, match=r"^rate must be below 1 for GaussianDropout in training"):
        layer.call(x, training=True)
    assert state(layer) == [SEED, 0]
    for name in ("AlphaDropout", "GaussianDropout"):
        with pytest.raises(ZeroDivisionError):
            getattr(layers, name)(1.0).call(x, training=True)


@cases
def test_a_layer_is_keras_own_but_for_its_class(case):
    make, _, _ = CASES[case]
    ours, kerass = make(fk, seed=SEED, name="it"), make(layers, seed=SEED, name="it")
    assert isinstance(ours, type(kerass))
    assert ours.get_config() == kerass.get_config()
    assert ours.supports_masking == kerass.supports_masking
    assert ours.input_spec == kerass.input_spec or repr(ours.input_spec) == repr(kerass.input_spec)
    assert type(ours).__module__ == "fastdrop.keras"
    assert type(ours).from_config(ours.get_config()).get_config() == kerass.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras_by_name_order_and_default(name):
    import inspect

    ours, kerass = (inspect.signature(getattr(of, name)).parameters.values() for of in (fk, layers))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in kerass]


# What is refused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amount", [-0.1, 1.1, math.nan, math.inf])
def test_an_amount_outside_of_0_to_1_is_keras_error(name, amount):
    argument = "stddev" if name == "GaussianNoise" else "rate"
    with pytest.raises(ValueError, match=f"argument `{argument}`. Expected a float value between 0 and 1"):
        getattr(fk, name)(amount)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amount", [None, "0.5", True, [0.5]])
def test_an_amount_that_is_no_number_is_named(name, amount):
    argument = "stddev" if name == "GaussianNoise" else "rate"
    with pytest.raises(TypeError, match=f"^{argument} must be a real number from 0 to 1, got"):
        getattr(fk, name)(amount)


def test_a_seed_that_the_backend_cannot_hold_is_named():
    most = {"numpy": 2**32, "jax": 2**32, "torch": 2**31, "tensorflow": 2**63}[BACKEND] - 1
    assert_same(
        fk.Dropout(0.5, seed=most)(tensor(np.ones((2, 9), np.float32)), training=True),
        defined(DropoutMask((2, 9), 0.5, key=most % WORD), np.ones((2, 9), np.float32)),
    )
    with pytest.raises(ValueError, match=rf"^seed must be from -?\d+ to {most}, for the {BACKEND} backend"):
        fk.Dropout(0.5, seed=most + 1)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        fk.Dropout(0.5, seed="7")


def test_a_negative_seed_means_its_lower_bits_where_keras_takes_it():
    if BACKEND in ("numpy", "jax"):
        with pytest.raises(ValueError, match=r"^seed must be from 0 to"):
            fk.Dropout(0.5, seed=-1)
    else:
        x = np.ones((2, 9), np.float32)
        y = fk.Dropout(0.5, seed=-1)(tensor(x), training=True)
        assert_same(y, defined(DropoutMask((2, 9), 0.5, key=WORD - 1), x))


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout"])
@pytest.mark.parametrize("noise_shape", [(3, 1, 1), (4, 5, 6, 1), (1, 2), (None, 5)])
def test_a_noise_shape_that_does_not_fit_is_named_and_nothing_is_drawn(name, noise_shape):
    layer = getattr(fk, name)(0.3, noise_shape=noise_shape, seed=SEED)
    with pytest.raises(ValueError, match="noise_shape must"):
        layer.call(tensor(normals((4, 5, 6))), training=True)
    assert state(layer) == [SEED, 0]


@pytest.mark.parametrize("noise_shape", ["12", 3, (1.5, None)])
def test_a_noise_shape_that_is_none_is_named(noise_shape):
    with pytest.raises((TypeError, ValueError), match="noise_shape"):  # Keras's error, or ours where Keras has none
        fk.Dropout(0.3, noise_shape=noise_shape)
    with pytest.raises(TypeError, match=r"^noise_shape must be"):
        fk.AlphaDropout(0.3, noise_shape=noise_shape)


@cases
def test_integers_are_refused_and_nothing_is_drawn(case):
    make, shape, _ = CASES[case]
    layer = make(fk, seed=SEED)
    with pytest.raises(TypeError, match="inputs must be of float16, bfloat16, float32 or float64, got int32"):
        layer.call(tensor(np.ones(shape, np.int32)), training=True)
    assert state(layer) == [SEED, 0]


def test_what_is_no_dense_tensor_is_refused_and_nothing_is_drawn():
    layer = fk.Dropout(0.5, seed=SEED)
    inputs = [[[1.0, 2.0]]]
    if BACKEND == "torch":
        import torch

        inputs.append(torch.eye(3).to_sparse())
    if BACKEND == "tensorflow":
        import tensorflow as tf

        inputs += [tf.sparse.eye(3), tf.ragged.constant([[1.0], [2.0, 3.0]])]
    for value in inputs:
        with pytest.raises(TypeError, match=r"^inputs must be a dense tensor of .*restore_layers"):
            layer.call(value, training=True)
    assert state(layer) == [SEED, 0]


@on("tensorflow")
def test_tensorflow_asserts_lengths_that_it_learns_late_before_anything_is_drawn():
    import tensorflow as tf

    for signature in (tf.TensorSpec((None, None), tf.float32), tf.TensorSpec(None, tf.float32)):
        layer = fk.Dropout(0.3, noise_shape=(4, 1), seed=SEED)
        run = tf.function(lambda x, layer=layer: layer.call(x, training=True), input_signature=[signature])
        x = normals((4, 5))
        assert_same(run(x), defined(dropout_mask((4, 5), SEED, shared=(1,)), x))
        with pytest.raises(tf.errors.InvalidArgumentError, match="noise_shape must hold 1 or None or the length"):
            run(normals((3, 5)))
        assert state(layer) == [SEED, 1]
    run = tf.function(lambda x: fk.Dropout(0.3, noise_shape=(4, 2)).call(x, training=True))
    with pytest.raises(ValueError, match="noise_shape must hold"):  # what is known while a graph is made, at once
        run.get_concrete_function(tf.TensorSpec((None, 3), tf.float32))


@on("tensorflow")
def test_xla_of_tensorflow_is_refused_with_what_to_do_and_keras_leaves_it_out():
    import tensorflow as tf

    layer = fk.Dropout(0.3, seed=SEED)
    run = tf.function(lambda x: layer(x, training=True), jit_compile=True, autograph=False)
    with pytest.raises(RuntimeError, match=r"in code that XLA compiles: .* jit_compile=False"):
        run(normals((4, 5)))
    assert state(layer) == [SEED, 0]
    model = keras.Sequential([keras.Input((5,)), layer, layers.Dense(1)])
    with pytest.warns(UserWarning, match="Proceeding with `jit_compile=False`"):
        model.compile("sgd", "mse", jit_compile=True)
    model.fit(normals((4, 5)), np.zeros((4, 1)), verbose=0)
    assert state(layer) == [SEED, 1]


@on("torch")
def test_torch_asks_for_shapes_without_a_draw():
    import torch

    layer = fk.Dropout(0.3, seed=SEED)
    y = layer.call(torch.empty((2, 3), device="meta"), training=True)
    assert (y.shape, y.device.type, state(layer)) == ((2, 3), "meta", [SEED, 0])


@on("torch")
def test_ranks_of_torch_take_their_parts_of_one_mask():
    from fastdrop.torch import shard

    for case in ("Dropout", "Dropout of steps", "AlphaDropout", "GaussianDropout", "GaussianNoise"):
        make, shape, mask = CASES[case]
        x = normals(shape)
        whole = defined(mask(shape, SEED), x)
        with shard(1, 2):
            part = make(fk, seed=SEED)(tensor(x[2:]), training=True)
        assert_same(part, whole[2:])


# Models and files


def nested_model(of, rate=0.4, attention_rate=0.4):
    """A model with layers of dropout in it, in a model within, in a wrapper and in attention."""
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="first")(inputs)
    x = of.Dropout(rate, seed=1, name="drop")(x)
    x = layers.MultiHeadAttention(2, 4, dropout=attention_rate, seed=2)(x, x)
    inner = keras.Sequential([keras.Input((5, 8)), of.SpatialDropout1D(rate, seed=3), of.GaussianNoise(0.1, seed=4)])
    x = inner(x)
    x = layers.TimeDistributed(of.AlphaDropout(rate, seed=5))(x)
    return keras.Model(inputs, layers.Dense(1)(of.GaussianDropout(rate, seed=6)(x)))


def dropping(model):
    found = {id(layer): layer for layer in model._flatten_layers() if hasattr(layer, "seed_generator")}
    return list(found.values())


def test_a_saved_model_goes_on_with_the_mask_that_would_have_come_next(tmp_path):
    model = nested_model(fk, attention_rate=0.0)
    x = normals((3, 5, 8))
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert sorted(map(state, dropping(loaded))) == sorted(map(state, dropping(model)))
    assert {type(layer) for layer in dropping(loaded)} == {type(layer) for layer in dropping(model)}
    assert_same(loaded(x, training=True), keras_helpers.array(model(x, training=True)))


def test_weights_go_on_with_the_next_mask_too_and_those_of_keras_layers_load(tmp_path):
    path = tmp_path / "some.weights.h5"
    models = [keras.Sequential([keras.Input((8,)), layers.Dense(3), of.Dropout(0.3, seed=SEED)]) for of in (fk, layers)]
    ours, kerass = models
    x = normals((4, 8))
    ours(x, training=True)
    ours.save_weights(path)
    ours(x, training=True)
    ours.load_weights(path)
    assert state(ours.layers[-1]) == [SEED, 1]
    kerass.save_weights(path)
    ours.load_weights(path)
    assert state(ours.layers[-1]) == [SEED, 1]


@pytest.mark.parametrize("words", [[2**32 - 1, 5], [7, 2**31]])
def test_a_state_of_another_backend_is_the_same_key(words):
    layer = fk.Dropout(0.3, seed=SEED)
    layer.load_own_variables({"seed_generator_state": np.array(words)})
    x = np.ones((2, 9), np.float32)
    assert_same(layer(tensor(x), training=True), dropout_mask(x.shape, words[0] + WORD * words[1]).apply(x))
    store = {}
    layer.save_own_variables(store)
    assert [int(word) for word in store["seed_generator_state"]] == [words[0], words[1] + 1]


def test_a_model_with_restored_layers_is_a_file_of_keras_alone(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3), fk.Dropout(0.3, seed=SEED)])
    fk.restore_layers(model)
    model.save(tmp_path / "model.keras")
    with keras.saving.CustomObjectScope({"fastdrop>Dropout": None}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is layers.Dropout
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()


def test_layers_of_a_model_are_replaced_where_they_are_and_restored():
    model, ours = nested_model(layers), nested_model(fk)
    ours.set_weights(model.get_weights())
    x = normals((3, 5, 8))
    before = keras_helpers.array(model(x))
    places = dropping(model)
    assert fk.replace_layers(model) == 6
    assert fk.replace_layers(model) == 0
    assert dropping(model) == places
    assert {type(layer).__module__ for layer in places} == {"fastdrop.keras"}
    assert_same(model(x), before)
    fk.replace_layers(ours)  # the one in its attention
    assert_same(model(x, training=True), keras_helpers.array(ours(x, training=True)))
    assert sorted(map(state, places)) == sorted(map(state, dropping(ours)))
    assert all(count > 0 for _, count in map(state, places))
    assert model.get_layer("drop") is places[0] or isinstance(model.get_layer("drop"), fk.Dropout)
    assert fk.restore_layers(model) == 6
    assert {type(layer).__module__.partition(".")[0] for layer in places} == {"keras"}
    assert all(layer.supports_jit for layer in places)


def test_a_model_with_replaced_layers_loads_with_ours(tmp_path):
    model = nested_model(layers)
    x = normals((3, 5, 8))
    fk.replace_layers(model)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ours, kerass = (
        [layer for layer in dropping(loaded) if type(layer).__module__.startswith(of)] for of in ("fastdrop", "keras")
    )
    by_seed = dict(map(state, dropping(model)))
    assert [state(layer) for layer in kerass] == [[2, 0]]  # which attention made for itself
    assert sorted(map(state, ours)) == [[seed, by_seed[seed]] for seed in (1, 3, 4, 5, 6)]
    fk.restore_layers(model)
    model.save(tmp_path / "restored.keras")
    loaded = keras.saving.load_model(tmp_path / "restored.keras")
    assert not [layer for layer in dropping(loaded) if type(layer).__module__.startswith("fastdrop")]


def test_layers_that_drop_by_themselves_are_named_when_layers_are_replaced():
    inputs = keras.Input((5, 8))
    x = layers.LSTM(4, dropout=0.3, return_sequences=True, name="recurrent")(inputs)
    x = layers.Attention(dropout=0.3, name="attends")([x, x])
    model = keras.Model(inputs, layers.Dropout(0.3)(x))
    with pytest.warns(UserWarning, match=r"recurrent.*enable\(\) reaches it") as caught:
        assert fk.replace_layers(model) == 1
    assert "attends" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fk.replace_layers(keras.Sequential([keras.Input((5, 8)), layers.LSTM(4), layers.Dropout(0.5)]))


def test_a_model_that_is_not_built_or_none_is_refused():
    with pytest.raises(ValueError, match=r"^model must be built"):
        fk.replace_layers(keras.Sequential([layers.Dense(3), layers.Dropout(0.5)]))
    for function in (fk.replace_layers, fk.restore_layers):
        with pytest.raises(TypeError, match=r"^model must be a model or layer of Keras, got a list"):
            function([layers.Dropout(0.5)])


@trains
def test_a_net_trains_to_the_same_weights_from_the_same_seeds():
    x, y = normals((64, 5, 8)), normals((64, 5, 1), seed=1)

    def trained():
        keras.utils.set_random_seed(3)
        model = nested_model(fk)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses = model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False).history["loss"]
        counts = [state(layer)[1] for layer in dropping(model)]
        assert all(count % 8 == 0 and count > 0 for count in counts)  # TimeDistributed may draw for each step
        return losses, model.get_weights()

    (losses, weights), (again, others) = trained(), trained()
    assert losses == again
    assert losses[1] < losses[0]
    for own, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(own, other)


# The switch


def seeded(function):
    """What a function gives with a fresh layer or seed, as an array."""
    return keras_helpers.array(function())


def test_enable_reaches_all_that_keras_drops_and_disable_gives_it_back():
    x = normals((4, 5, 6))
    ones, key = np.ones((4, 6), np.float32), SEED
    reached = {
        "layer": (lambda: layers.Dropout(0.3, seed=SEED)(x, training=True), dropout_mask(x.shape, key).apply(x)),
        "spatial": (
            lambda: layers.SpatialDropout1D(0.3, seed=SEED)(x, training=True),
            dropout_mask(x.shape, key, shared=(1,)).apply(x),
        ),
        "alpha": (
            lambda: layers.AlphaDropout(0.3, seed=SEED)(x, training=True),
            AlphaMask(x.shape, 0.3, key=key).apply(x),
        ),
        "gaussian": (
            lambda: layers.GaussianDropout(0.3, seed=SEED)(x, training=True),
            GaussianMask(x.shape, math.sqrt(0.3 / 0.7), key=key).apply(x),
        ),
        "noise": (
            lambda: layers.GaussianNoise(0.3, seed=SEED)(x, training=True),
            GaussianMask(x.shape, 0.3, key=key, additive=True).apply(x),
        ),
        "function": (lambda: keras.random.dropout(tensor(x), 0.3, seed=SEED), dropout_mask(x.shape, key).apply(x)),
        "noise shape": (
            lambda: keras.random.dropout(tensor(x), 0.3, noise_shape=(None, 1, None), seed=SEED),
            dropout_mask(x.shape, key, shared=(1,)).apply(x),
        ),
        "cell": (
            lambda: layers.LSTMCell(6, dropout=0.3, seed=SEED).get_dropout_mask(tensor(ones)),
            dropout_mask(ones.shape, key).apply(ones),
        ),
    }
    kerass = {name: seeded(function) for name, (function, _) in reached.items()}
    switch = fk.enable()
    assert fk.is_enabled()
    for name, (function, expected) in reached.items():
        assert_same(seeded(function), expected)
        assert not np.array_equal(kerass[name], expected)
    with fk.enable():  # is no other
        pass
    assert fk.is_enabled()
    with switch:
        pass
    assert not fk.is_enabled()
    if BACKEND != "torch":  # where Keras draws by PyTorch's own random state if it can
        for name, (function, _) in reached.items():
            np.testing.assert_array_equal(seeded(function), kerass[name])


@pytest.mark.parametrize("make", [layers.Attention, layers.AdditiveAttention])
def test_enable_reaches_attention(make):
    x = tensor(normals((2, 3, 4)))

    def scores():
        layer = make(dropout=0.5, seed=SEED)
        undropped = layer([x, x], return_attention_scores=True)[1]
        return keras_helpers.array(undropped), keras_helpers.array(
            layer([x, x], training=True, return_attention_scores=True)[1]
        )

    with fk.enable():
        undropped, dropped = scores()
    np.testing.assert_array_equal(dropped == 0, ~np.asarray(DropoutMask((2, 3, 3), 0.5, key=SEED)))
    np.testing.assert_allclose(dropped[dropped != 0], 2 * undropped[dropped != 0], rtol=1e-6)


def test_what_fastdrop_does_not_take_is_left_to_keras_while_it_is_enabled():
    x = tensor(normals((2, 3)))
    with fk.enable():
        assert layers.Dropout(0.0)(x, training=True) is x
        assert_same(layers.Dropout(1.0)(x, training=True), np.zeros((2, 3), np.float32))
        if BACKEND in ("numpy", "torch"):
            numbers = keras.random.dropout(tensor(np.full((50, 3), 2, np.int32)), 0.5, seed=3)
            assert set(np.unique(keras_helpers.array(numbers))) <= {0, 4}


def test_seeds_of_every_kind_are_taken_while_it_is_enabled():
    x = tensor(np.ones((2, 50), np.float32))
    generator = keras.random.SeedGenerator(SEED)
    with fk.enable():
        for count in range(2):
            y = keras.random.dropout(x, 0.3, seed=generator)
            assert_same(y, dropout_mask((2, 50), SEED + WORD * count).apply(np.ones((2, 50), np.float32)))
        first, second = (seeded(lambda: keras.random.dropout(x, 0.5)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_what_keras_has_compiled_is_compiled_anew():
    @keras.saving.register_keras_serializable(package="test")
    class Stochastic(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.3, seed=SEED)

        def call(self, x):
            return self.drop(x, training=True)

    x = normals((4, 6))
    model = Stochastic()

    def count_of_masks():
        return state(model.drop)[1]

    def is_ours():
        count = count_of_masks()
        return np.array_equal(model.predict(x, verbose=0), dropout_mask(x.shape, SEED + WORD * count).apply(x))

    assert not is_ours()
    with fk.enable():
        assert is_ours()
        assert is_ours()
    assert not is_ours()
    fk.replace_layers(model)
    assert is_ours()
    fk.restore_layers(model)
    assert not is_ours()


def test_no_stream_of_fastdrop_is_moved():
    before = fastdrop._streams.default.call
    nested_model(fk)(normals((3, 5, 8)), training=True)
    with fk.enable():
        nested_model(layers)(normals((3, 5, 8)), training=True)
    assert fastdrop._streams.default.call == before


@pytest.mark.parametrize("name", fk.__all__)
def test_docstrings_name_every_parameter_and_their_examples_run(name):
    import doctest
    import inspect

    value = getattr(fk, name)
    if not hasattr(layers, name):
        for parameter in inspect.signature(value).parameters:
            documented = inspect.getsource(value)
            assert f"    {parameter} : " in documented or f"    *{parameter} : " in documented
    report = []
    for test in doctest.DocTestFinder().find(value, name, globs={}):
        assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)
