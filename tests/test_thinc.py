# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for thinc gives the masks of the reference, by keys of NumPy's global generator, with thinc's meaning."""

import gc
import subprocess
import sys
import tracemalloc
import types
from functools import partial
from pathlib import Path

import helpers
import numpy as np
import pytest
from thinc_helpers import assert_same, dropped, ft, keys_of, mask_of, normals, state, thinc

RATES = [0.1, 0.3, 0.5, 0.9]
KINDS = ["array", "list", "Ragged", "Padded"]
BAD_RATES = [
    (-0.1, ValueError, "must be from 0 to 1, got -0.1"),
    (1.5, ValueError, "must be from 0 to 1, got 1.5"),
    (float("nan"), ValueError, "must be from 0 to 1, got nan"),
    ("0.5", TypeError, "must be a real number from 0 to 1, got '0.5' of type str"),
    (True, TypeError, "must be a real number from 0 to 1, got True of type bool"),
    (np.ones(2), TypeError, "must be a real number from 0 to 1, got an ndarray"),
]

ids = partial(pytest.mark.parametrize, ids=str)


@pytest.fixture(autouse=True)
def _global_generator_as_before():
    before = np.random.get_state()
    yield
    np.random.set_state(before)


def batch(kind, dtype=np.float32, seed=0):
    """A batch of a kind, and the arrays in it."""
    x = normals(30, 8, dtype=dtype, seed=seed)
    lengths = thinc.NumpyOps().asarray1i
    if kind == "Padded":
        of = {"size_at_t": lengths([3] * 10), "lengths": lengths([10] * 3), "indices": lengths([0, 1, 2])}
        return thinc.Padded(x.reshape(10, 3, 8), **of)
    made = {"array": lambda: x, "list": lambda: [x[:10], x[10:]], "Ragged": lambda: thinc.Ragged(x, lengths([25, 5]))}
    return made[kind]()


def arrays_in(batch):
    return batch if isinstance(batch, list) else [batch if isinstance(batch, np.ndarray) else batch.data]


def assert_rest_is(batch, other):
    """But for their arrays these are the same."""
    assert type(batch) is type(other)
    for name in ("lengths", "size_at_t", "indices"):
        assert getattr(batch, name, None) is getattr(other, name, None)


def assert_refused(call, error, *words):
    """An error that says these, and nothing is drawn."""
    before = state()
    with pytest.raises(error) as caught:
        call()
    assert state() == before, "numbers were drawn"
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


# Ops


@ids("shape", [(), (1,), 7, (0, 3), (1023,), (40, 50), (3, 1, 5, 2), np.array([4, 6])])
@ids("rate", [1e-9, *RATES, np.float32(0.25), 1 / 3])
def test_a_mask_of_the_ops_is_that_of_the_reference(shape, rate, either):
    ops = thinc.get_ops("fastdrop")
    for key in keys_of(3, 3):
        assert_same(ops.get_dropout_mask(shape, rate), mask_of(shape, rate, key))


@ids("drop", [None, 0, 0.0, -0.0, np.float32(0)])
def test_where_nothing_is_dropped_the_mask_is_ones_and_nothing_is_drawn(drop):
    before = state()
    assert_same(ft.FastdropOps().get_dropout_mask((3, 4), drop), np.ones((3, 4), np.float32))
    assert state() == before


@ids("drop", [1, 1.0])
def test_where_all_is_dropped_the_mask_is_zeros_and_nothing_is_drawn(drop):
    before = state()
    assert_same(ft.FastdropOps().get_dropout_mask((3, 4), drop), np.zeros((3, 4), np.float32))
    assert state() == before


@ids(("drop", "error", "words"), BAD_RATES)
def test_ops_refuse_what_is_no_rate(drop, error, words):
    assert_refused(lambda: ft.FastdropOps().get_dropout_mask((3, 4), drop), error, f"drop {words}")


@ids(("shape", "error"), [((3, -1), ValueError), ((2.5, 3), TypeError), (None, TypeError), ("12", TypeError)])
@ids("drop", [0.0, 0.5, 1.0])
def test_ops_refuse_what_is_no_shape(shape, error, drop):
    assert_refused(lambda: ft.FastdropOps().get_dropout_mask(shape, drop), error, "shape must")


def test_keys_come_from_the_generator_that_numpy_has_been_given():
    own = np.random.get_bit_generator()
    generator = np.random.PCG64(5)
    low, high = (word & 0xFFFFFFFF for word in np.random.PCG64(5).random_raw(2).tolist())
    np.random.set_bit_generator(generator)
    try:
        mask = ft.FastdropOps().get_dropout_mask((40, 50), 0.5)
    finally:
        np.random.set_bit_generator(own)
    assert_same(mask, mask_of((40, 50), 0.5, low + (high << 32)))


def test_ops_are_those_of_the_cpu_but_for_their_masks():
    own = type(thinc.get_ops("cpu"))
    assert ft.FastdropOps.__bases__ == (own,)
    assert {name for name in vars(ft.FastdropOps) if not name.startswith("__")} == {"name", "get_dropout_mask"}
    assert type(thinc.get_ops("fastdrop")) is ft.FastdropOps
    assert own is not ft.FastdropOps
    assert isinstance(thinc.registry.resolve({"ops": {"@ops": "FastdropOps"}})["ops"], ft.FastdropOps)
    with thinc.use_ops("fastdrop", use_blis=False):
        assert type(thinc.Linear().ops) is ft.FastdropOps
        assert not thinc.get_current_ops().use_blis


# The layer


@ids("rate", RATES)
@ids("dtype", [np.float32, np.float64])
@ids("kind", KINDS)
def test_a_layer_does_what_the_reference_does_in_both_passes(kind, dtype, rate, either):
    X, dY = batch(kind, dtype), batch(kind, dtype, seed=1)
    keys = keys_of(3, len(arrays_in(X)))
    Y, backprop = ft.Dropout(rate)(X, is_train=True)
    after = state()
    for _ in range(2):  # which may ask for the gradient again
        dX = backprop(dY)
        for given, result, passed in ((X, Y, "forward"), (dY, dX, "backward")):
            assert_rest_is(result, given)
            assert len(arrays_in(result)) == len(keys), passed
            for y, x, key in zip(arrays_in(result), arrays_in(given), keys, strict=True):
                assert_same(y, dropped(x, rate, key))
    assert state() == after, "the backward pass draws"


@ids("kind", KINDS)
@ids("dtype", [np.float32, np.float16, np.int32, np.uint64, np.bool_])
def test_a_layer_does_what_thincs_does_with_masks_of_the_ops(kind, dtype):
    """In both of thinc's dtypes, and what thinc makes of others: of halves float32, of integers what NumPy makes."""
    X, dY = batch(kind, dtype), batch(kind, seed=1)
    results = []
    for layer in (thinc.Dropout(0.3), ft.Dropout(0.3)):
        layer.ops = ft.FastdropOps()
        np.random.seed(4)
        Y, backprop = layer(X, is_train=True)
        results.append((Y, backprop(dY), state()))
    (Y, dX, end), (ours, our_dX, our_end) = results
    assert our_end == end
    assert_rest_is(ours, Y)
    for peers, own in ((Y, ours), (dX, our_dX)):
        for y, expected in zip(arrays_in(own), arrays_in(peers), strict=True):
            np.testing.assert_array_equal(y, expected, strict=True)


def test_of_float64_the_scale_is_not_rounded_to_float32_as_thincs_is():
    (key,) = keys_of(3)
    Y, _ = ft.Dropout(0.3)(np.ones((40, 50)), is_train=True)
    kept = mask_of((40, 50), 0.3, key) != 0
    assert set(Y[kept]) == {1 / (1 - 0.3)} != {float(np.float32(1 / (1 - 0.3)))}
    assert not Y[~kept].any()


def test_any_layout_of_an_array_has_the_same_mask():
    x = normals(30, 8)
    given = {"F": np.asfortranarray(x), "part": np.zeros((30, 16), np.float32)[:, ::2], "swapped": x.astype(">f4")}
    given["part"][...] = x
    (key,) = keys_of(3)
    for name, array in given.items():
        np.random.seed(3)
        Y, backprop = ft.Dropout(0.3)(array, is_train=True)
        np.testing.assert_array_equal(Y, dropped(x, 0.3, key), err_msg=name)
        np.testing.assert_array_equal(backprop(array), dropped(x, 0.3, key), err_msg=name)


@ids("kind", KINDS)
@ids("how", ["rate 0", "no rate", "disabled", "predict"])
def test_where_nothing_is_dropped_a_batch_comes_back_as_it_is(kind, how):
    X, dY = batch(kind), batch(kind, seed=1)
    layer = ft.Dropout({"rate 0": 0.0, "no rate": 0.5}.get(how, 0.5))
    layer.attrs["is_enabled"] = how != "disabled"
    if how == "no rate":
        thinc.set_dropout_rate(layer, None)
    before = state()
    Y, backprop = layer(X, is_train=how != "predict")
    assert Y is X
    assert backprop(dY) is dY
    assert layer.predict(X) is X
    assert state() == before


@ids("kind", KINDS)
def test_at_rate_1_all_is_zero_and_nothing_is_drawn(kind):
    X = batch(kind)
    for x in arrays_in(X):
        x[...] = np.nan
    before = state()
    Y, backprop = ft.Dropout(1.0)(X, is_train=True)
    for array in (*arrays_in(Y), *arrays_in(backprop(X))):
        assert_same(array, np.zeros_like(array))
    assert state() == before


def test_what_is_dropped_is_zero_whatever_it_was():
    x = np.full((40, 50), np.inf, np.float32)
    (key,) = keys_of(3)
    Y, _ = ft.Dropout(0.5)(x, is_train=True)
    assert_same(Y, np.where(mask_of(x.shape, 0.5, key) != 0, x, 0).astype(np.float32))


@ids("X", [[], np.zeros((0, 8), np.float32), [np.zeros((0, 8), np.float32)]])
def test_a_batch_of_nothing_stays_one(X):
    Y, backprop = ft.Dropout(0.5)(X, is_train=True)
    for result in (Y, backprop(X)):
        assert type(result) is type(X)
        assert [array.shape for array in result] == [array.shape for array in X]


def test_the_backward_pass_keeps_no_mask_in_memory():
    x = np.ones((1000, 1000), np.float32)
    layer = ft.Dropout(0.5)
    layer(x, is_train=True)  # what is made once is not counted
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        Y, backprop = layer(x, is_train=True)
        del Y
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < 2000  # bytes, of Python's objects
    assert backprop(x).any()


@ids(("rate", "error", "words"), BAD_RATES)
def test_layers_refuse_what_is_no_rate(rate, error, words):
    assert_refused(lambda: ft.Dropout(rate), error, f"rate {words}")
    layer = thinc.set_dropout_rate(ft.Dropout(), rate)
    assert_refused(lambda: layer(normals(3, 4), is_train=True), error, f"dropout_rate {words}")


@ids(
    ("X", "words"),
    [
        (5.0, "a float"),
        ([normals(3), 5.0], "a list with a float"),
        ("words", "a str"),
        ({"a": normals(3)}, "a dict"),
        (None, "a NoneType"),
    ],
)
def test_layers_refuse_what_is_no_batch(X, words):
    layer = ft.Dropout(0.5)
    assert_refused(
        lambda: layer(X, is_train=True), TypeError, "X must be an array, a Ragged, a Padded or a list", words
    )
    backprop = layer(normals(3, 4), is_train=True)[1]
    assert_refused(lambda: backprop(X), TypeError, "dY must be an array, a Ragged, a Padded or a list", words)


@ids("X", [np.array(["a"]), np.array([None]), [normals(3), np.array([None])], np.zeros(3, "M8[s]")])
def test_layers_refuse_what_are_no_numbers(X):
    assert_refused(lambda: ft.Dropout(0.5)(X, is_train=True), TypeError, "X must be of numbers, got dtype")


@ids("kind", KINDS)
@ids("other", KINDS)
def test_the_backward_pass_refuses_a_batch_of_another_kind_or_shape(kind, other):
    backprop = ft.Dropout(0.5)(batch(kind), is_train=True)[1]
    wrong = batch(other)
    if kind != other:
        assert_refused(lambda: backprop(wrong), TypeError, "dY must be a", "as X was, got a", type(wrong).__name__)
        return
    if kind == "list":
        assert_refused(lambda: backprop(wrong[:1]), ValueError, "dY must have the shapes of X")
        wrong = wrong[::-1]
    elif kind == "array":
        wrong = wrong[:1]  # which NumPy would repeat
    else:
        wrong.data = wrong.data[:-1]
    assert_refused(lambda: backprop(wrong), ValueError, "dY must have the shapes of X", "got [(")


def test_arrays_on_a_gpu_are_left_to_thinc(monkeypatch):
    class OnGpu:
        shape = (3, 4)

    X = OnGpu()
    monkeypatch.setattr(ft, "is_cupy_array", lambda batch: isinstance(batch, OnGpu))
    monkeypatch.setattr(ft, "_thincs_forward", lambda *given: (given, "thinc's"))
    for given in (X, [X], thinc.Padded(X, *[normals(3)] * 3)):
        layer = ft.Dropout(0.5)
        (model, passed, is_train), backprop = layer(given, is_train=True)
        assert (model, passed, is_train, backprop) == (layer, given, True, "thinc's")


# Models that are there already

WITH_DROPOUT = {
    name: getattr(thinc, name)
    for name in ("Relu", "Maxout", "Mish", "Gelu", "Swish", "Dish", "HardSwish", "HardSwishMobilenet", "ClippedLinear")
}


def watched(monkeypatch):
    """The shapes of masks that are drawn from here on: in thinc's own way, and in ours."""
    of_thinc, ours = [], []
    own, next_mask = thinc.Ops.get_dropout_mask, ft._next_mask
    monkeypatch.setattr(
        thinc.Ops, "get_dropout_mask", lambda ops, shape, drop: of_thinc.append(shape) or own(ops, shape, drop)
    )
    monkeypatch.setattr(ft, "_next_mask", lambda shape, rate: ours.append(shape) or next_mask(shape, rate))
    return of_thinc, ours


@ids("name", WITH_DROPOUT)
def test_the_dropout_of_each_layer_that_has_some_is_replaced(name, monkeypatch):
    model = thinc.chain(WITH_DROPOUT[name](8, 8, dropout=0.2), WITH_DROPOUT[name](8, 8, dropout=0.2))
    model.initialize(normals(5, 8))
    of_thinc, ours = watched(monkeypatch)
    assert ft.replace_dropout(model) == 2
    _, backprop = model(normals(5, 8), is_train=True)
    backprop(normals(5, 8))
    assert (of_thinc, ours) == ([], [(5, 8), (5, 8)])
    assert ft.replace_dropout(model) == 0


def embeddings():
    ids = np.arange(12, dtype="i").reshape(4, 3)
    yield "Embed", thinc.Embed(8, 20, column=0, dropout=0.5), ids, (8,)
    yield "HashEmbed", thinc.HashEmbed(8, 20, column=0, dropout=0.5), ids.astype(np.uint64), (8,)
    yield "HashEmbed in a list", thinc.with_array(thinc.HashEmbed(8, 20, column=0, dropout=0.5)), [ids, ids], (8,)
    yield "LSTM", thinc.with_padded(thinc.LSTM(8, 6, dropout=0.5)), [normals(5, 6), normals(2, 6)], None


@pytest.mark.parametrize(("model", "X", "shape"), [pytest.param(*row, id=name) for name, *row in embeddings()])
def test_other_layers_that_draw_masks_ask_our_ops_for_them(model, X, shape, monkeypatch):
    model = model.copy()
    model.initialize(X)
    of_thinc, ours = watched(monkeypatch)
    assert ft.replace_dropout(model) == 1
    np.random.seed(3)
    Y, _ = model(X, is_train=True)
    assert of_thinc == []
    assert ours == [shape or model.layers[0].get_param("LSTM").shape]
    if shape:
        (key,) = keys_of(3)
        for y, plain in zip(arrays_in(Y), arrays_in(model.predict(X)), strict=True):
            np.testing.assert_array_equal(y, plain * mask_of(shape, 0.5, key), strict=True)
    assert ft.replace_dropout(model) == 0


def test_what_is_not_thincs_own_is_left_as_it_is():
    class Masks(thinc.NumpyOps):
        pass

    def forward(model, X, is_train):
        return X, lambda dY: dY

    theirs = thinc.Model("dropout", forward, attrs={"dropout_rate": 0.5, "is_enabled": True}, ops=Masks())
    embedding = thinc.HashEmbed(8, 20, dropout=0.5)
    embedding.ops = Masks()
    model = thinc.chain(theirs, thinc.Linear(8, 8), embedding, ft.Dropout(0.5))
    ops = [node.ops for node in model.walk()]
    assert ft.replace_dropout(model) == 0
    assert [node.ops for node in model.walk()] == ops
    assert theirs._func is forward


def test_ops_keep_their_settings_when_they_are_replaced():
    embedding = thinc.HashEmbed(8, 20, dropout=0.5)
    embedding.ops = thinc.get_ops("cpu", use_blis=False)
    other = thinc.Linear(8, 8)
    assert ft.replace_dropout(thinc.chain(embedding, other)) == 1
    assert (type(embedding.ops), embedding.ops.use_blis) == (ft.FastdropOps, False)
    assert type(other.ops) is ft.FastdropOps.__base__


def test_a_layer_that_stands_in_two_places_is_one():
    layer = thinc.Dropout(0.5)
    model = thinc.chain(thinc.concatenate(layer, thinc.Linear(4, 4)), thinc.chain(layer, thinc.Linear(4, 8)))
    assert ft.replace_dropout(model) == 1
    pipeline = types.SimpleNamespace(
        components=[("a", types.SimpleNamespace(model=thinc.chain(thinc.Dropout(0.1), layer)))]
    )
    assert ft.replace_dropout(pipeline) == 1


def test_components_without_a_model_are_passed_over():
    components = [
        ("a", len),
        ("b", types.SimpleNamespace(model=True)),
        ("c", types.SimpleNamespace(model=thinc.Dropout(0.1))),
    ]
    assert ft.replace_dropout(types.SimpleNamespace(components=components)) == 1


@ids("model", [None, "en_core_web_sm", [thinc.Dropout(0.5)], thinc.NumpyOps()])
def test_what_is_neither_a_model_nor_a_pipeline_is_refused(model):
    assert_refused(
        lambda: ft.replace_dropout(model), TypeError, "model must be a thinc Model or a spaCy pipeline, got a "
    )


def test_rates_that_are_set_afterwards_are_those_that_are_dropped_at():
    x = normals(40, 50)
    for layer in (ft.Dropout(0.1), thinc.Dropout(0.1)):
        ft.replace_dropout(layer)
        for rate in (0.5, 0.3):
            thinc.set_dropout_rate(layer, rate)
            (key,) = keys_of(3)
            assert_same(layer(x, is_train=True)[0], dropped(x, rate, key))


# Training


def trained(change, use="cpu", seed=7):
    """The weights of a net after some steps."""
    thinc.fix_random_seed(seed)
    X, Y = normals(32, 10), np.eye(3, dtype="f")[np.arange(32) % 3]
    with thinc.use_ops(use):
        embedded = thinc.chain(thinc.HashEmbed(8, 40, column=0, seed=1, dropout=0.2), thinc.Maxout(16, dropout=0.2))
        model = thinc.chain(
            thinc.Relu(16, dropout=0.2), thinc.LayerNorm(), thinc.Mish(16, dropout=0.2), thinc.Softmax()
        )
    for net, given in ((embedded, np.arange(64, dtype=np.uint64).reshape(32, 2)), (model, X)):
        net.initialize(given, normals(32, 16) if net is embedded else Y)
        change(net)
        optimizer = thinc.Adam(0.01)
        for _ in range(5):
            result, backprop = net.begin_update(given)
            backprop(result - (normals(32, 16, seed=2) if net is embedded else Y))
            net.finish_update(optimizer)
    return [node.get_param(name) for net in (embedded, model) for node in net.walk() for name in node.param_names]


def same(weights, others):
    return all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


def test_a_seed_gives_the_same_net_whichever_way_fastdrop_is_asked():
    def keep(net):
        pass

    replaced = trained(ft.replace_dropout)
    assert same(trained(ft.replace_dropout), replaced)
    assert same(trained(keep, use="fastdrop"), replaced)
    assert same(trained(ft.replace_dropout, use="fastdrop"), replaced)
    assert not same(trained(ft.replace_dropout, seed=8), replaced)
    assert not same(trained(keep), replaced)


# What is saved


def test_what_is_saved_is_what_thinc_saves():
    own, replaced = (thinc.chain(thinc.Linear(4, 4), thinc.Dropout(0.3)) for _ in range(2))
    ours = thinc.chain(thinc.Linear(4, 4), ft.Dropout(0.3))
    ft.replace_dropout(replaced)
    for model in (own, ours, replaced):
        model.initialize(normals(2, 4))
        model.layers[0].set_param("W", normals(4, 4))
    saved = own.to_bytes()
    assert ours.to_bytes() == replaced.to_bytes() == saved
    assert b"fastdrop" not in saved
    for model in (own, ours, replaced):
        model.layers[1].attrs["dropout_rate"] = 0.9
        model.from_bytes(saved)
        assert model.layers[1].attrs["dropout_rate"] == 0.3


def test_a_config_names_the_layer():
    config = thinc.Config().from_str('[model]\n@layers = "fastdrop.Dropout.v1"\nrate = 0.25\n')
    layer = thinc.registry.resolve(config)["model"]
    assert (layer.name, layer.attrs, layer._func) == ("dropout", {"dropout_rate": 0.25, "is_enabled": True}, ft.forward)
    assert thinc.registry.fill({"model": {"@layers": "fastdrop.Dropout.v1"}})["model"]["rate"] == 0.0


@ids("X", [*map(batch, KINDS), "words", 5.0])
def test_thinc_validates_what_goes_into_a_layer_as_it_does_for_its_own(X):
    """By the annotations of the function. Some releases refuse what is no batch, others do not look."""

    def refusal(layer):
        try:
            layer.initialize(X, X)
        except thinc.DataValidationError as error:
            return str(error)
        return None

    with thinc.data_validation(True):
        assert refusal(ft.Dropout(0.3)) == refusal(thinc.Dropout(0.3))


def test_a_copy_of_a_layer_is_one_of_ours():
    model = thinc.chain(thinc.Linear(4, 4), thinc.Dropout(0.3))
    ft.replace_dropout(model)
    assert [node._func is ft.forward for node in model.copy().walk()] == [False, False, True]


# thinc's own tests

PLUGIN = """
import thinc.api, thinc.backends, thinc.backends.numpy_ops, thinc.layers.dropout
import fastdrop.thinc as ft

thinc.layers.dropout.forward = ft.forward
for module in (thinc.api, thinc.backends, thinc.backends.numpy_ops):
    module.NumpyOps = ft.FastdropOps
drawn = []
next_mask = ft._next_mask
ft._next_mask = lambda shape, rate: drawn.append(shape) or next_mask(shape, rate)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"masks drawn by fastdrop: {len(drawn)}")
"""
OF_THINC = ("backends/test_ops.py", "layers/test_layers_api.py", "layers/test_linear.py", "layers/test_feed_forward.py")
OF_THINC += ("layers/test_hash_embed.py", "layers/test_lstm.py", "model/test_model.py", "model/test_validation.py")


def test_thincs_own_tests_of_dropout_and_of_layers_with_some_pass(tmp_path):
    (tmp_path / "fastdrop_in_thinc.py").write_text(PLUGIN)
    environment = helpers.environment()
    environment["PYTHONPATH"] += f":{tmp_path}"
    folder = Path(sys.modules["thinc"].__file__).parent / "tests"
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "fastdrop_in_thinc",
        "-k",
        "drop or layers_api or model or lstm or embed",
    )
    command = [sys.executable, "-m", "pytest", *options, *OF_THINC]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = dict(reversed(part.split()[:2]) for part in result.stdout.splitlines()[-1].split(", "))
    assert int(counts["passed"]) > 200
    assert "masks drawn by fastdrop: 0" not in result.stdout
