# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop.jax draws NumPy's masks, under all of JAX's transformations."""

import functools
import itertools
import re
import threading

import helpers
import numpy as np
import pytest
from conftest import COMPILED
from hypothesis import given
from hypothesis import strategies as st
from jax_helpers import (
    DTYPES,
    NAMES,
    RATE,
    assert_same,
    defined,
    defined_gradient,
    defined_mask,
    fj,
    jax,
    jnp,
    key_of,
    masks_key,
    normals,
)

import fastdrop

check_grads = pytest.importorskip("jax.test_util").check_grads


@pytest.fixture
def x64():
    """JAX with numbers of 64 bits."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def by(name, key, rate=RATE, **options):
    """The function of x alone."""
    return lambda x: getattr(fj, name)(key, x, rate, **options)


# The same bits as NumPy's


@pytest.mark.parametrize("shape", [(), (0,), (1,), (127,), (4099,), (3, 0, 2), (33, 70), (5, 1, 6, 31)])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.dtype.name)
@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_numpys(name, dtype, shape, x64):
    x, key = normals(*shape, dtype=dtype), key_of(len(shape))
    assert_same(jax.jit(by(name, key))(x), defined(name, key, x))


@pytest.mark.parametrize("name", NAMES)
def test_without_jit_it_is_the_same(name):
    x = normals(33, 70)
    assert_same(by(name, key_of(1))(x), defined(name, key_of(1), x))
    with jax.disable_jit():
        assert_same(jax.jit(by(name, key_of(1)))(x), defined(name, key_of(1), x))


@pytest.mark.parametrize("rate", [2**-32, 0.1, 0.125, 0.5, 0.9, 1 - 2**-32, 1.0])
def test_every_rate(rate):
    x = normals(20_000)
    assert_same(fj.dropout(key_of(1), x, rate), defined("dropout", key_of(1), x, rate))


@given(st.data())
def test_shapes_rates_and_noise_shapes(data):
    name = data.draw(st.sampled_from(NAMES))
    shape = tuple(data.draw(st.lists(st.integers(1, 40), max_size=4)))
    noise_shape = tuple(
        data.draw(st.sampled_from((1, None, n))) for n in shape[data.draw(st.integers(0, len(shape))) :]
    )
    rate = data.draw(st.sampled_from((0.1, 0.25, 0.5)))
    x, key = normals(*shape), key_of(data.draw(st.integers(0, 99)))
    assert_same(by(name, key, rate, noise_shape=noise_shape)(x), defined(name, key, x, rate, noise_shape))


@pytest.mark.parametrize("noise_shape", [(64, 1, 1, 50), (1, 1, 1, 50), (64, 1, 1, 1), (1, 30, 1, 50)])
def test_shared_decisions_of_large_arrays(noise_shape):
    x = normals(64, 30, 20, 50)
    assert_same(
        by("dropout", key_of(2), noise_shape=noise_shape)(x), defined("dropout", key_of(2), x, RATE, noise_shape)
    )


def test_numbers_of_64_bits_change_no_mask(x64):
    x = normals(1000)
    y = fj.dropout(key_of(3), x, RATE)
    jax.config.update("jax_enable_x64", False)
    assert_same(y, fj.dropout(key_of(3), x, RATE))


def test_denormals_keep_their_bits():
    """XLA lets its threads take them for zeros."""
    x = jnp.asarray(np.full(10_000, 1e-40, np.float32))
    assert_same(fj.dropout(key_of(1), x, 0.5), defined("dropout", key_of(1), x, 0.5))
    assert np.asarray(fj.dropout(key_of(1), x, 0.5)).max() > 0.0


def test_what_is_dropped_is_zero_whatever_x_holds():
    x = jnp.array([np.nan, np.inf, -np.inf, -1.0] * 50)
    y = np.asarray(fj.dropout(key_of(1), x, 0.5))
    dropped = ~np.asarray(fj.mask(key_of(1), x.shape, 0.5))
    assert dropped.sum() > 50
    assert_same(y[dropped], np.zeros(dropped.sum(), np.float32))
    assert_same(fj.dropout(key_of(1), x, 1.0), np.zeros(200, np.float32))
    assert_same(jax.grad(lambda x: fj.dropout(key_of(1), x, 1.0).sum())(x), np.zeros(200, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_x_itself_where_nothing_is_done(name):
    x = normals(5, 6)
    assert by(name, key_of(1), 0)(x) is x
    assert by(name, key_of(1), training=False)(x) is x
    assert by(name, None, training=False)(x) is x
    assert_same(by(name, key_of(1), 0.0)(np.asarray(x)), x)


def test_numpys_arrays_and_numbers():
    x = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    assert_same(fj.dropout(key_of(1), x), defined("dropout", key_of(1), x, 0.5))
    assert_same(fj.dropout(key_of(1), x, np.float32(0.25)), defined("dropout", key_of(1), x, 0.25))
    assert_same(fj.dropout(key_of(1), x, jnp.float32(0.25)), defined("dropout", key_of(1), x, 0.25))
    assert_same(fj.dropout(key_of(1), x[3], 0.25), defined("dropout", key_of(1), x[3], 0.25))


# Keys


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_kind(impl):
    x = normals(3000)
    for seed in (0, 1, 2**31 - 1):
        typed, raw = jax.random.key(seed, impl=impl), jax.random.PRNGKey(seed, impl=impl)
        expected = defined("dropout", typed, x)
        for key in (typed, raw, np.asarray(raw), jax.random.wrap_key_data(raw, impl=impl)):
            assert_same(fj.dropout(key, x, RATE), expected)
            assert_same(jax.jit(lambda key: fj.dropout(key, x, RATE))(key), expected)
            assert fj.mask(key, x.shape, RATE) == defined_mask("dropout", typed, x.shape)


def test_each_word_of_a_key_counts():
    x = jnp.ones(500)
    for words in (2, 4):
        keys = [np.zeros(words, np.uint32), *np.eye(words, dtype=np.uint32) << 31, *np.eye(words, dtype=np.uint32)]
        masks = {bytes(np.asarray(fj.dropout(key, x))) for key in keys}
        assert len(masks) == len(keys)


def test_the_mask_of_a_key_for_numpy():
    mask = fj.mask(key_of(1), (4, 6), 0.25, noise_shape=(4, 1))
    assert mask == fastdrop.DropoutMask((4, 6), 0.25, key=masks_key(key_of(1)), noise_shape=(4, 1))
    with pytest.raises(TypeError, match="key must be known where its mask is asked for"):
        jax.jit(lambda key: fj.mask(key, 3))(key_of(1))


# Derivatives


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_numpys(name):
    x, dy = normals(40, 50), normals(40, 50, seed=1)
    for transformed in (by(name, key_of(4)), jax.jit(by(name, key_of(4)))):
        _, pull = jax.vjp(transformed, x)
        assert_same(pull(dy)[0], defined_gradient(name, key_of(4), dy))
        _, pushed = jax.jvp(transformed, (x,), (dy,))
        assert_same(pushed, defined_gradient(name, key_of(4), dy))
    assert_same(jax.linearize(by(name, key_of(4)), x)[1](dy), defined_gradient(name, key_of(4), dy))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise_shape", [None, (1, None)])
def test_derivatives_of_every_order_and_mode(name, noise_shape, x64):
    x = normals(3, 4, dtype=jnp.float64)

    def wavy(x):
        return jnp.sin(by(name, key_of(5), noise_shape=noise_shape)(jnp.sin(x)))

    check_grads(wavy, (x,), order=3, modes=("fwd", "rev"))  # within its tolerance, as finite differences are


@pytest.mark.parametrize("name", ["dropout", "gaussian_dropout"])
def test_what_is_linear_can_be_transposed(name):
    dy = normals(30)
    transposed = jax.linear_transpose(by(name, key_of(1)), jax.ShapeDtypeStruct((30,), jnp.float32))
    assert_same(transposed(dy)[0], defined_gradient(name, key_of(1), dy))


def test_a_gradient_that_nobody_asks_for():
    def only_the_other(x):
        y, other = fj.dropout(key_of(1), x), x * 2
        return other.sum() + jax.lax.stop_gradient(y).sum()

    assert_same(jax.grad(only_the_other)(jnp.ones(4)), np.full(4, 2, np.float32))
    _, dy = jax.jvp(lambda z: fj.dropout(key_of(1), jnp.ones(4)) + z, (0.0,), (1.0,))
    assert_same(dy, np.ones(4, np.float32))


def test_the_key_alone_is_kept_for_the_backward_pass():
    _, pull = jax.vjp(lambda x: fj.dropout(key_of(1), x, RATE), normals(1000))
    kept = jax.tree.leaves(pull)
    assert sum(np.asarray(array).nbytes for array in kept) == 8


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_draw_the_same_again(name):
    x = normals(20, 30)

    def loss(x, wrap):
        def block(x, key):
            return jnp.tanh(getattr(fj, name)(key, jnp.tanh(x), RATE))

        for layer in range(3):
            x = wrap(block)(x, key_of(layer))
        return (x * x).sum()

    expected = jax.jit(jax.grad(loss), static_argnums=1)(x, lambda block: block)
    again = jax.jit(jax.grad(loss), static_argnums=1)(x, jax.checkpoint)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(x, jax.checkpoint))
    # XLA fuses what is computed again in another way.
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)
    assert_same(np.asarray(again) == 0, np.asarray(expected) == 0)


# Batches


def loop(function, batch):
    return np.stack([np.asarray(function(i)) for i in range(batch)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise_shape", [None, (None, 1), (1, 6)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_key_is_one_mask_for_all_of_a_batch(name, axis, noise_shape):
    x = np.moveaxis(np.asarray(normals(4, 5, 6)), 0, axis)
    y = jax.vmap(by(name, key_of(1), noise_shape=noise_shape), in_axes=axis)(x)
    assert_same(y, loop(lambda i: defined(name, key_of(1), x.take(i, axis), RATE, noise_shape), 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise_shape", [None, (None, 1), (1, 6)])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("raw_axis", [None, 0, 1])
def test_a_batch_of_keys_is_a_mask_for_each(name, axis, noise_shape, raw_axis):
    keys = jax.random.split(key_of(6), 4)
    given, key_axis = keys, 0
    if raw_axis is not None:
        given, key_axis = jnp.moveaxis(jax.random.key_data(keys), 0, raw_axis), raw_axis
    x = normals(5, 6) if axis is None else jnp.moveaxis(normals(4, 5, 6), 0, axis)

    def function(key, x):
        return getattr(fj, name)(key, x, RATE, noise_shape=noise_shape)

    y = jax.jit(jax.vmap(function, in_axes=(key_axis, axis)))(given, x)

    def expected(i):
        return defined(name, keys[i], x if axis is None else x.take(i, axis), RATE, noise_shape)

    assert_same(y, loop(expected, 4))


@pytest.mark.parametrize("batched", list(itertools.product(["key", "x", "both"], repeat=2)), ids="-".join)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_batches_of_batches(batched, axis):
    """Every way in which two nested batches can be of keys, of x or of both, and x's along any axis."""
    lengths = (3, 4)
    of_keys = [length for length, kind in zip(lengths, batched, strict=True) if kind != "x"]
    of_x = [length for length, kind in zip(lengths, batched, strict=True) if kind != "key"]
    keys = jax.random.split(key_of(7), tuple(of_keys)) if of_keys else key_of(7)
    x = normals(*of_x, 5, 130)
    moved = x
    for place in reversed(range(len(of_x))):  # the inner batch has its axis in what the outer one leaves
        moved = jnp.moveaxis(moved, place, axis if axis < 0 else axis + place)

    function = fj.dropout
    for kind in reversed(batched):
        function = jax.vmap(function, in_axes=(None if kind == "x" else 0, None if kind == "key" else axis))
    y = function(keys, moved)
    for i, j in np.ndindex(*lengths):
        at = dict(zip(("outer", "inner"), (i, j), strict=True))
        index = [at[level] for level, kind in zip(("outer", "inner"), batched, strict=True) if kind != "x"]
        place = [at[level] for level, kind in zip(("outer", "inner"), batched, strict=True) if kind != "key"]
        assert_same(y[i, j], defined("dropout", keys[tuple(index)], x[tuple(place)], 0.5))


def test_gradients_for_each_of_a_batch():
    x, keys = normals(6, 40), jax.random.split(key_of(8), 6)
    gradients = jax.jit(jax.vmap(jax.grad(lambda x, key: (fj.dropout(key, x, RATE) ** 2).sum())))(x, keys)
    for i in range(6):
        dy = 2 * defined("dropout", keys[i], x[i])
        assert_same(gradients[i], defined_gradient("dropout", keys[i], dy))


def test_a_batch_of_nothing():
    assert jax.vmap(fj.dropout)(jax.random.split(key_of(1), 0), jnp.ones((0, 3))).shape == (0, 3)


def test_large_batches_of_keys_are_shared_by_threads_at_any_element(monkeypatch):
    helpers.share_from(monkeypatch, 4096, 2048)
    keys, x = jax.random.split(key_of(9), 5), normals(5, 3, 1001)
    with fastdrop.num_threads(3):
        for noise_shape in (None, (1, 1001), (3, 1)):
            y = jax.vmap(functools.partial(fj.dropout, rate=RATE, noise_shape=noise_shape))(keys, x)
            for i in range(5):
                assert_same(y[i], defined("dropout", keys[i], x[i], RATE, noise_shape))


# Control flow


def test_in_loops_and_branches():
    x, keys = normals(50), jax.random.split(key_of(10), 4)
    expected = np.asarray(x)
    for key in keys:
        expected = defined("dropout", key, expected)

    def step(x, key):
        return fj.dropout(key, x, RATE), None

    assert_same(jax.lax.scan(step, x, keys)[0], expected)
    assert_same(jax.lax.fori_loop(0, 4, lambda i, x: fj.dropout(keys[i], x, RATE), x), expected)
    assert_same(
        jax.lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, fj.dropout(keys[s[0]], s[1], RATE)), (0, x))[1],
        expected,
    )
    for is_dropped in (True, False):
        y = jax.jit(lambda b: jax.lax.cond(b, lambda: fj.dropout(keys[0], x, RATE), lambda: x))(is_dropped)
        assert_same(y, defined("dropout", keys[0], x) if is_dropped else x)
    mapped = jax.lax.map(lambda key: fj.dropout(key, x, RATE), keys)
    assert_same(mapped, loop(lambda i: defined("dropout", keys[i], x), 4))
    gradient = jax.jit(jax.grad(lambda x: jax.lax.scan(step, x, keys)[0].sum()))(x)
    expected = np.ones(50, np.float32)
    for key in reversed(keys):
        expected = defined_gradient("dropout", key, expected)
    assert_same(gradient, expected)


def test_what_is_given_away_is_not_needed():
    x = normals(1000)
    expected = defined("dropout", key_of(1), x)
    assert_same(jax.jit(lambda x: fj.dropout(key_of(1), x, RATE), donate_argnums=0)(x), expected)


# The core that runs


@pytest.mark.parametrize("name", COMPILED)
def test_every_instruction_set(name):
    x = normals(10_000)
    with helpers.using(name):
        assert_same(fj.dropout(key_of(1), x, 0.1), defined("dropout", key_of(1), x, 0.1))


def test_the_reference_is_no_core_to_call():
    with helpers.using("reference"), pytest.raises(Exception, match="the reference in NumPy runs in place"):
        fj.dropout(key_of(1), jnp.ones(10)).block_until_ready()


def test_results_past_the_caches():
    x = normals(5 << 20)
    assert_same(fj.dropout(key_of(1), x, RATE), defined_mask("dropout", key_of(1), x.shape).apply(np.asarray(x)))


def test_many_calls_at_once():
    """XLA's threads call it, and users' threads call XLA."""
    x = normals(1 << 20)
    keys = jax.random.split(key_of(11), 6)
    expected = [defined_mask("dropout", key, x.shape).apply(np.asarray(x)) for key in keys]
    found = [[] for _ in keys]
    together = jax.jit(lambda keys: [fj.dropout(key, x, RATE) for key in keys])

    def work(i):
        for _ in range(3):
            found[i].append(fj.dropout(keys[i], x, RATE))

    with_threads = [threading.Thread(target=work, args=(i,)) for i in range(len(keys))]
    for thread in with_threads:
        thread.start()
    at_once = together(list(keys))
    for thread in with_threads:
        thread.join()
    for i in range(len(keys)):
        assert len(found[i]) == 3
        for y in (*found[i], at_once[i]):
            assert_same(y, expected[i])


# Programs that are kept


def test_an_exported_program_draws_the_same():
    x = normals(30, 40)
    step = jax.jit(jax.grad(lambda key, x: (fj.dropout(key, x, RATE) ** 2).sum(), argnums=1))
    key = jax.random.key_data(key_of(1))
    allowed = [jax.export.DisabledSafetyCheck.custom_call("fastdrop_dropout_v1")]
    packed = jax.export.export(step, disabled_checks=allowed)(key, x).serialize()
    again = jax.export.deserialize(packed)
    assert_same(again.call(key, x), step(key, x))


def test_lowered_for_another_device_it_says_that_it_cannot():
    with pytest.raises(NotImplementedError, match=r"fastdrop\.jax runs on the CPU"):
        jax.export.export(jax.jit(fj.dropout, static_argnums=2), platforms=["cuda"])(key_of(1), jnp.ones(3), 0.5)


WELL_FORMED = {
    "op": np.int64(0),
    "threshold": np.int64(1 << 31),
    "numbers": np.array([2.0, 0.0, 0.0]),
    "lengths": np.array([6], np.int64),
    "strides": np.array([1], np.int64),
    "span": np.int64(0),
    "steps": np.array([0], np.int64),
    "threads": np.int64(0),
}


def call_target(*operands, result=None, **attributes):
    """The custom call by itself, as a program from elsewhere may have it."""
    operands = operands or (jnp.ones(6), jnp.zeros(2, jnp.uint32))
    result = jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype) if result is None else result
    call = jax.ffi.ffi_call("fastdrop_dropout_v1", result)
    return np.asarray(jax.jit(lambda *operands: call(*operands, **{**WELL_FORMED, **attributes}))(*operands))


def test_the_custom_call_by_itself():
    key = jnp.array([5, 6], jnp.uint32)
    assert_same(call_target(jnp.ones(6), key), defined("dropout", key, np.ones(6, np.float32), 0.5))


def test_blocks_far_out_in_a_whole():
    """Steps of 64 bits by numbers of 32."""
    key, blocks = jnp.array([5, 6], jnp.uint32), jnp.array([3, 7], jnp.int32)
    steps = np.array([1 << 40, (1 << 33) + 1], np.int64)
    first = 3 * int(steps[0]) + 7 * int(steps[1])
    mask = fastdrop.DropoutMask(1 << 50, 0.5, key=masks_key(key))[first : first + 6]
    assert_same(call_target(jnp.ones(6), key, blocks, steps=steps), mask.apply(np.ones(6, np.float32)))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"op": np.int32(0)}, "op, threshold, span and threads must be int64"),
        ({"op": np.int64(1)}, "op must be that of dropout"),
        ({"op": np.int64(-1)}, "op must be that of dropout"),
        ({"op": np.int64(99)}, "op must be that of dropout"),
        ({"threshold": np.int64(-1)}, "threshold, span and threads must be in range"),
        ({"threshold": np.int64((1 << 32) + 1)}, "threshold, span and threads must be in range"),
        ({"threads": np.int64(-1)}, "threshold, span and threads must be in range"),
        ({"span": np.int64(-1)}, "threshold, span and threads must be in range"),
        ({"span": np.int64(8), "op": np.int64(7)}, "threshold, span and threads must be in range"),
        ({"span": np.int64(5)}, "within the span"),
        ({"numbers": np.array([2.0])}, "numbers must be scale, shift and fill"),
        ({"numbers": np.array([2, 0, 0], np.int64)}, "numbers must be scale, shift and fill"),
        ({"lengths": np.array([5], np.int64)}, "lengths must be those of x"),
        ({"lengths": np.array([3], np.int64)}, "lengths and strides must be those of x"),
        ({"lengths": np.array([0], np.int64)}, "lengths must be those of x"),
        ({"lengths": np.array([-6], np.int64)}, "lengths must be those of x"),
        ({"lengths": np.array([2, 3], np.int64)}, "as many lengths as strides"),
        ({"lengths": np.ones(65, np.int64), "strides": np.ones(65, np.int64)}, "as many lengths as strides"),
        ({"strides": np.array([-1], np.int64)}, "strides at least 0"),
    ],
)
def test_a_malformed_program_is_refused(attributes, message):
    with pytest.raises(Exception, match=re.escape(message)):
        call_target(**attributes)


@pytest.mark.parametrize(
    ("operands", "result", "message"),
    [
        ((jnp.ones(6),), None, "2 or 3 operands and 1 result are expected"),
        ((jnp.ones(6, jnp.int32), jnp.zeros(2, jnp.uint32)), None, "x must be of float16"),
        ((jnp.ones(6), jnp.zeros(2, jnp.uint32)), jax.ShapeDtypeStruct((7,), jnp.float32), "the result like it"),
        ((jnp.ones(6), jnp.zeros(2, jnp.uint32)), jax.ShapeDtypeStruct((6,), jnp.float16), "the result like it"),
        ((jnp.ones(6), jnp.zeros(2, jnp.int32)), None, "keys must be of uint32"),
        ((jnp.ones(6), jnp.zeros((), jnp.uint32)), None, "keys must be of uint32"),
        ((jnp.ones(6), jnp.zeros(3, jnp.uint32)), None, "a key must be 2 or 4 words"),
        ((jnp.ones(6), jnp.zeros((4, 2), jnp.uint32)), None, "each key must be for as many elements"),
        ((jnp.ones(6), jnp.zeros((0, 2), jnp.uint32)), None, "each key must be for as many elements"),
        ((jnp.ones(6), jnp.zeros(2, jnp.uint32), jnp.zeros(1)), None, "shards must be numbers of int32"),
        ((jnp.ones(6), jnp.zeros(2, jnp.uint32), jnp.int32(0)), None, "shards must be numbers of int32"),
        (
            (jnp.ones(6), jnp.zeros(2, jnp.uint32), jnp.zeros((2, 1), jnp.int32)),
            None,
            "shards must be numbers of int32",
        ),
        ((jnp.ones(6), jnp.zeros(2, jnp.uint32), jnp.zeros(2, jnp.int32)), None, "there must be a step"),
    ],
)
def test_malformed_operands_are_refused(operands, result, message):
    with pytest.raises(Exception, match=re.escape(message)):
        call_target(*operands, result=result)


# What is no good


X, KEY = np.ones((2, 3), np.float32), np.zeros(2, np.uint32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((7, X), TypeError, "key must be one key of JAX: .* got 7 of type int"),
        ((None, X), TypeError, "key must be one key of JAX: .* got None"),
        ((KEY.astype(np.int32), X), TypeError, "key must be .* dtype int32"),
        ((KEY[:1], X), ValueError, r"key must be .* got shape \(1,\)$"),
        ((np.zeros((3, 2), np.uint32), X), ValueError, r"key must be .* got shape \(3, 2\): use jax\.vmap"),
        ((KEY, [1.0]), TypeError, "x must be an array of float16, bfloat16, float32 or float64, got a list"),
        ((KEY, 1), TypeError, "x must be an array of float16, bfloat16, float32 or float64, got 1 of type int"),
        ((KEY, X.astype(np.int32)), TypeError, "x must be an array of float16, .*, got dtype int32"),
        ((KEY, X.astype(np.complex64)), TypeError, "x must be an array of float16, .*, got dtype complex64"),
        ((KEY, X > 0), TypeError, "x must be an array of float16, .*, got dtype bool"),
        ((KEY, X, -0.1), ValueError, "(rate|stddev) must be (from 0 to 1|at least 0), got -0.1"),
        ((KEY, X, float("nan")), ValueError, "(rate|stddev) must be (from 0 to 1|finite), got nan"),
        ((KEY, X, "0.5"), TypeError, "(rate|stddev) must be a real number"),
        ((KEY, X, True), TypeError, "(rate|stddev) must be a real number"),
        ((KEY, X, np.array([0.5])), TypeError, "(rate|stddev) must be a real number"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name, arguments, error, message):
    function = getattr(fj, name)
    arguments = (*arguments, RATE) if len(arguments) < 3 else arguments
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise_shape": (2, 2)}, ValueError, "noise_shape must hold 1 or None or the array's own length"),
        ({"noise_shape": (1, 2, 3)}, ValueError, "noise_shape must have at most one length for each of the 2 dim"),
        ({"noise_shape": 3.5}, TypeError, "noise_shape must be None or a sequence of ints and None, got 3.5"),
        ({"training": 1}, TypeError, "training must be True or False, got 1"),
        ({"training": None}, TypeError, "training must be True or False, got None"),
        ({"spec": "batch"}, TypeError, r"spec must be a jax\.sharding\.PartitionSpec or None, got 'batch'"),
        (
            {"spec": jax.sharding.PartitionSpec(None, None, None)},
            ValueError,
            "spec must have at most one entry for each",
        ),
        ({"spec": jax.sharding.PartitionSpec("batch")}, ValueError, "spec must name axes of the mesh .* got 'batch'"),
        ({"spec": jax.sharding.PartitionSpec(jax.sharding.PartitionSpec.UNCONSTRAINED)}, ValueError, "spec must hold"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_options_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(fj, name)(KEY, X, RATE, **options)


def test_keys_that_are_no_single_key():
    with pytest.raises(ValueError, match=r"got keys of shape \(2,\): use jax\.vmap for a batch of them"):
        fj.dropout(jax.random.split(key_of(1)), X)


def test_a_rate_of_1_has_no_gaussian_noise():
    with pytest.raises(ValueError, match="rate must be below 1 for gaussian_dropout"):
        fj.gaussian_dropout(KEY, X, 1.0)
    with pytest.raises(ValueError, match=r"rate must be from 0 to 1, got 1\.5"):
        fj.dropout(KEY, X, 1.5)


@pytest.mark.parametrize(("name", "argument"), [("dropout", "rate"), ("gaussian_noise", "stddev")])
def test_traced_numbers_and_flags_are_refused(name, argument):
    with pytest.raises(TypeError, match=f"{argument} must be a number that is known while JAX traces"):
        jax.jit(getattr(fj, name))(KEY, X, 0.5)
    with pytest.raises(TypeError, match="training must be True or False"):
        jax.jit(lambda training: fj.dropout(KEY, X, training=training))(True)


def test_shapes_that_are_not_known_are_refused():
    shape = jax.export.symbolic_shape("batch, 3")
    with pytest.raises(TypeError, match="x must have a shape that is known while JAX traces"):
        jax.export.export(jax.jit(lambda x: fj.dropout(KEY, x)))(jax.ShapeDtypeStruct(shape, jnp.float32))
