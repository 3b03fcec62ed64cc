# SPDX-License-Identifier: BSD-3-Clause
"""Masks of recurrent nets stay along a sequence where they must, are fresh where they must, and can be drawn again."""

import copy
import itertools
import json
import pickle
from collections import OrderedDict
from typing import NamedTuple

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, DropoutWrapper, LSTMState, PhiloxStream, RecurrentDropout

GATES, TIME, BATCH, FEATURES, UNITS = 3, 5, 4, 7, 6
KEY = 0x0123456789ABCDEF


def numbers(*shape, dtype=np.float64):
    """Numbers of which none is 0, so that a 0 in a result is a dropped element."""
    size = np.prod(shape, dtype=int)
    return (np.random.default_rng(size).uniform(0.5, 1.5, shape) * (-1) ** np.arange(size).reshape(shape)).astype(dtype)


def drawn(rate=0.5, per_gate=True, call=0):
    """The masks of the input: (gates, batch, features)."""
    dropout = RecurrentDropout(rate, gates=GATES, per_gate=per_gate, rng=PhiloxStream.from_key(KEY, call))
    return dropout.draw(BATCH, FEATURES, UNITS).input


def gate_masks(rate=0.5, per_gate=True, call=0):
    """The same for each gate, from DropoutMask alone."""
    if per_gate:
        mask = DropoutMask((GATES, BATCH, FEATURES), rate, key=KEY, call=call)
        return [mask[gate] for gate in range(GATES)]
    return [DropoutMask((BATCH, FEATURES), rate, key=KEY, call=call)] * GATES


def central_difference(f, x, step=1e-6):
    """The gradient of f at x, element by element."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[i] += step
        back[i] -= step
        gradient[i] = (f(there) - f(back)) / (2 * step)
    return gradient


# RecurrentDropout: which masks


@pytest.mark.parametrize("per_gate", [True, False])
def test_the_masks_are_two_draws_of_dropout_mask(either, per_gate):
    dropout = RecurrentDropout(0.3, 0.6, gates=4, per_gate=per_gate, rng=PhiloxStream.from_key(KEY, 11))
    masks = dropout.draw(batch=BATCH, features=FEATURES, units=UNITS)
    gates = (4,) if per_gate else ()
    assert masks.input.mask == DropoutMask((*gates, BATCH, FEATURES), 0.3, key=KEY, call=11)
    assert masks.state.mask == DropoutMask((*gates, BATCH, UNITS), 0.6, key=KEY, call=12)
    assert dropout.rng.call == 13


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("per_gate", [True, False])
def test_each_gate_sees_what_its_mask_lets_through(either, dtype, rate, per_gate):
    x = numbers(BATCH, FEATURES, dtype=dtype)
    y = drawn(rate, per_gate).apply(x)
    assert y.shape == (GATES, BATCH, FEATURES)
    assert y.dtype == dtype
    for seen, mask in zip(y, gate_masks(rate, per_gate), strict=True):
        np.testing.assert_array_equal(seen, mask.apply(x))


@pytest.mark.parametrize("per_gate", [True, False])
def test_gates_share_a_mask_or_do_not_as_they_are_told(per_gate):
    dropped = drawn(0.5, per_gate).apply(numbers(BATCH, FEATURES)) == 0
    pairs = itertools.combinations(dropped, 2)
    assert all(np.array_equal(one, other) is not per_gate for one, other in pairs)


@pytest.mark.parametrize("gates", [3, 4])
def test_by_default_gates_share_a_mask_as_in_keras_unless_the_state_is_dropped(gates):
    dropout = RecurrentDropout(0.5, gates=gates, rng=7)
    assert dropout.per_gate is None
    shared = dropout.draw(BATCH, FEATURES, UNITS)
    seen = shared.input.apply(numbers(BATCH, FEATURES))
    assert all(np.array_equal(one, seen[0]) for one in seen)
    assert (shared.input.per_gate, shared.state.per_gate) == (False, False)
    dropout.recurrent_dropout = 0.25  # the rule holds for the rates of the draw
    own = dropout.draw(BATCH, FEATURES, UNITS)
    assert own == RecurrentDropout(
        0.5, 0.25, gates=gates, per_gate=True, rng=PhiloxStream.from_key(PhiloxStream(7).key, 2)
    ).draw(BATCH, FEATURES, UNITS)
    assert (own.input.per_gate, own.state.per_gate) == (True, True)
    restored = RecurrentDropout(gates=gates)
    restored.load_state_dict(dropout.state_dict())
    assert restored.draw(BATCH, FEATURES, UNITS) == dropout.draw(BATCH, FEATURES, UNITS)
    dropout.recurrent_dropout = 0
    assert not dropout.draw(BATCH, FEATURES, UNITS).input.per_gate


def test_a_mask_for_all_gates_is_that_of_the_first_gate():
    own, shared = (RecurrentDropout(0.5, per_gate=flag, rng=7).draw(BATCH, FEATURES, UNITS) for flag in (True, False))
    np.testing.assert_array_equal(shared.input.mask, np.asarray(own.input.mask)[0])


def test_each_batch_gets_fresh_masks():
    dropout = RecurrentDropout(0.5, 0.5, rng=7)
    one, other = dropout.draw(BATCH, FEATURES, UNITS), dropout.draw(BATCH, FEATURES, UNITS)
    assert not np.array_equal(one.input.mask, other.input.mask)
    assert not np.array_equal(one.state.mask, other.state.mask)


def test_input_and_state_have_different_masks():
    masks = RecurrentDropout(0.5, 0.5, rng=7).draw(BATCH, UNITS, UNITS)
    assert not np.array_equal(masks.input.mask, masks.state.mask)


def test_an_int_seeds_a_stream():
    dropout = RecurrentDropout(0.5, rng=7)
    assert dropout.rng.key == PhiloxStream(7).key
    assert [dropout.draw(BATCH, FEATURES, UNITS).input.call for _ in range(3)] == [0, 2, 4]


@pytest.mark.parametrize("make", [RecurrentDropout, lambda rng: DropoutWrapper(cell, rng=rng)])
def test_a_generator_gives_a_key_once(make):
    generator = np.random.default_rng(5)
    key = int(copy.deepcopy(generator).integers(0, 1 << 64, dtype=np.uint64))
    dropout = make(rng=generator)
    assert (dropout.rng.key, dropout.rng.call) == (key, 0)


def test_without_rng_each_object_has_a_stream_of_its_own():
    assert len({RecurrentDropout().rng.key, RecurrentDropout().rng.key, DropoutWrapper(cell).rng.key}) == 3


def test_a_stream_is_shared_and_can_be_set():
    stream = PhiloxStream(7)
    dropout = RecurrentDropout(rng=stream)
    assert dropout.rng is stream
    dropout.rng = 8
    assert (dropout.rng.key, dropout.rng.call) == (PhiloxStream(8).key, 0)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_call_numbers_do_not_depend_on_the_rates(rates):
    dropout = RecurrentDropout(*rates, rng=7)
    dropout.draw(BATCH, FEATURES, UNITS)
    dropout.dropout = dropout.recurrent_dropout = 0.5
    masks = dropout.draw(BATCH, FEATURES, UNITS)
    assert (masks.input.call, masks.state.call) == (2, 3)


def test_evaluation_keeps_everything_and_draws_nothing():
    dropout = RecurrentDropout(0.5, 0.5, rng=7)
    x = numbers(BATCH, FEATURES)
    assert dropout.eval() is dropout
    masks = dropout.draw(BATCH, FEATURES, UNITS)
    np.testing.assert_array_equal(masks.input.apply(x), np.stack([x] * 4))
    assert np.asarray(masks.state.mask).all()
    assert dropout.rng.call == 0
    assert dropout.train() is dropout
    assert dropout.draw(BATCH, FEATURES, UNITS).input.call == 0


def test_always_draws_in_evaluation_too():
    dropout = RecurrentDropout(0.5, 0.5, rng=7, always=True).eval()
    assert dropout.is_stochastic
    assert dropout.draw(BATCH, FEATURES, UNITS) == RecurrentDropout(0.5, 0.5, rng=7).draw(BATCH, FEATURES, UNITS)
    dropout.always = False
    assert not dropout.is_stochastic


def test_a_draw_may_say_itself_whether_it_draws():
    sizes = (BATCH, FEATURES, UNITS)
    dropout = RecurrentDropout(0.5, 0.5, rng=7, always=True)
    with fastdrop.stochastic(dropout):
        assert dropout.draw(*sizes, training=False) == RecurrentDropout(0.5, 0.5, rng=7).eval().draw(*sizes)
    assert dropout.rng.call == 0
    dropout.always = False
    training = RecurrentDropout(0.5, 0.5, rng=7).draw(*sizes)
    assert dropout.eval().draw(*sizes, training=True) == training
    assert not dropout.training
    with pytest.raises(TypeError, match="training must be True or False, got 'False'"):
        dropout.draw(*sizes, training="False")
    assert dropout.rng.call == 2


def test_a_step_may_say_itself_whether_it_draws():
    x = numbers(BATCH, UNITS)
    inner = DropoutWrapper(cell, 0.5, rng=8, always=True)
    wrapper = DropoutWrapper(inner, 0.9, 0.5, 0.7, rng=7, always=True)
    with fastdrop.stochastic(wrapper):
        y, state = wrapper(x, zeros(), training=False)
    np.testing.assert_array_equal((y, *state), (lambda y, state: (y, *state))(*cell(x, zeros())))
    assert (wrapper.rng.call, inner.rng.call) == (0, 0)
    assert {wrapper.masks.input.rate, wrapper.masks.output.rate, inner.masks.input.rate} == {0.0}
    inner.always = wrapper.always = False
    wrapper.eval()(x, zeros(), training=True)
    assert (wrapper.rng.call, inner.rng.call) == (4, 4)
    assert wrapper.masks.output.rate == inner.masks.input.rate == 0.5
    assert not wrapper.training
    with pytest.raises(TypeError, match="training must be True or False, got 1"):
        wrapper(x, zeros(), training=1)
    assert wrapper.rng.call == 4


def test_monte_carlo_passes_draw_new_masks_where_they_are_asked_for():
    dropout = RecurrentDropout(0.5, rng=7).eval()
    wrapper = DropoutWrapper(cell, output_keep_prob=0.5, rng=7).eval()
    x = numbers(BATCH, UNITS)

    def net(x):
        wrapper.start_sequence()
        y, _ = wrapper(dropout.draw(BATCH, UNITS, UNITS).input.apply(x)[0], zeros())
        return y

    with pytest.warns(UserWarning, match="nothing was drawn"):
        assert not fastdrop.mc_predict(net, x, 5).variance.any()
    with fastdrop.stochastic(dropout, wrapper):
        assert (fastdrop.mc_predict(net, x, 50).variance > 0).all()
    assert (dropout.rng.call, wrapper.rng.call) == (100, 200)


# RecurrentDropout: what can be done with them


@pytest.mark.parametrize("per_gate", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("time_axis", [0, 1])
def test_the_masks_of_a_sequence_are_those_of_each_of_its_steps(either, time_axis, rate, per_gate):
    masks = drawn(rate, per_gate)
    steps = numbers(TIME, BATCH, FEATURES)
    y = masks.apply(np.moveaxis(steps, 0, time_axis), time_axis=time_axis)
    for t in range(TIME):
        np.testing.assert_array_equal(np.take(y, t, axis=1 + time_axis), masks.apply(steps[t]))


@pytest.mark.parametrize("time_axis", [0, 1])
def test_a_sequence_can_be_reproduced_with_noise_shape(time_axis):
    shape = (GATES, TIME, BATCH, FEATURES) if time_axis == 0 else (GATES, BATCH, TIME, FEATURES)
    noise_shape = (GATES, 1, BATCH, FEATURES) if time_axis == 0 else (GATES, BATCH, 1, FEATURES)
    mask = DropoutMask(shape, 0.1, key=KEY, noise_shape=noise_shape)
    x = numbers(*shape[1:])
    expected = mask.apply(np.stack([x] * GATES))
    np.testing.assert_array_equal(drawn(0.1).apply(x, time_axis=time_axis), expected)


def test_a_batch_is_two_draws_and_its_steps_none(either, monkeypatch):
    recorded = helpers.record(monkeypatch)
    masks = RecurrentDropout(0.1, 0.1, rng=7).draw(BATCH, FEATURES, UNITS)
    assert recorded.draws == 2
    for _ in range(TIME):
        masks.input.backward(masks.input.apply(numbers(BATCH, FEATURES)))
        masks.state.backward(masks.state.apply(numbers(BATCH, UNITS)))
    masks.input.apply(numbers(TIME, BATCH, FEATURES), time_axis=0)
    assert recorded.draws == 2


def test_rate_0_gives_views_of_x_itself():
    x = numbers(BATCH, FEATURES)
    y = drawn(0.0).apply(x)
    assert np.shares_memory(y, x)
    assert not y.flags.writeable


def test_rate_1_drops_all_even_what_is_not_finite(either):
    x = np.full((BATCH, FEATURES), np.nan)
    x[0] = -np.inf
    masks = drawn(1.0)
    assert np.array_equal(masks.apply(x), np.zeros((GATES, BATCH, FEATURES)))
    assert np.array_equal(masks.backward(np.stack([x] * GATES)), np.zeros((BATCH, FEATURES)))


def test_one_mask_for_all_gates_is_applied_once():
    y = drawn(per_gate=False).apply(numbers(BATCH, FEATURES))
    assert y.strides[0] == 0
    assert not y.flags.writeable


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("per_gate", [True, False])
def test_the_result_goes_where_out_says(either, rate, per_gate):
    masks = drawn(rate, per_gate)
    x = numbers(BATCH, FEATURES, dtype=np.float32)
    for dtype in (np.float32, np.float64):
        out = np.full((GATES, BATCH, FEATURES), np.nan, dtype)
        assert masks.apply(x, out) is out
        np.testing.assert_array_equal(out, masks.apply(x))


@pytest.mark.parametrize("gate", range(GATES))
@pytest.mark.parametrize("per_gate", [True, False])
def test_out_may_overlap_x(either, gate, per_gate):
    masks = drawn(0.5, per_gate)
    out = numbers(GATES, BATCH, FEATURES)
    expected = masks.apply(out[gate].copy())
    np.testing.assert_array_equal(masks.apply(out[gate], out), expected)


def test_any_layout_gives_the_same(either):
    masks = drawn(0.3)
    x = numbers(BATCH, FEATURES)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(">f8"), x.tolist()):
        np.testing.assert_array_equal(masks.apply(other), masks.apply(x))
    dy = numbers(GATES, BATCH, FEATURES)
    for other in (np.asfortranarray(dy), dy.astype(">f8"), dy.tolist()):
        np.testing.assert_array_equal(masks.backward(other), masks.backward(dy))


def test_sizes_of_0_work(either):
    masks = RecurrentDropout(0.5, 0.5, rng=7).draw(0, FEATURES, UNITS)
    assert masks.input.apply(np.empty((0, FEATURES))).shape == (4, 0, FEATURES)
    assert masks.state.backward(np.empty((4, 0, UNITS))).shape == (0, UNITS)
    for time_axis, shape in enumerate([(0, BATCH, FEATURES), (BATCH, 0, FEATURES)]):
        assert drawn().apply(np.empty(shape), time_axis=time_axis).shape == (GATES, *shape)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("per_gate", [True, False])
def test_the_backward_pass_is_the_sum_over_the_gates(either, rate, per_gate):
    # Numbers with few bits, whose sums are exact in any order; 1 / (1 - 0.1) is not among them and multiplies the sum
    # or its terms, which differ in their last bits.
    dy = np.round(16 * numbers(GATES, BATCH, FEATURES)) / 16
    expected = sum(mask.apply(part) for part, mask in zip(dy, gate_masks(rate, per_gate), strict=True))
    got = drawn(rate, per_gate).backward(dy)
    if rate == 0.1:
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-14)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("per_gate", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_gradients_of_a_step_equal_finite_differences(rate, per_gate):
    masks = drawn(rate, per_gate)
    x, weights, dy = numbers(BATCH, FEATURES), numbers(GATES, FEATURES, UNITS), numbers(GATES, BATCH, UNITS)

    def loss(x):
        return np.sum(masks.apply(x) @ weights * dy)

    # The loss is linear in x, so that only rounding, 2**-53 of some hundreds over a step of 1e-6, makes a difference.
    np.testing.assert_allclose(masks.backward(dy @ weights.mT), central_difference(loss, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("per_gate", [True, False])
@pytest.mark.parametrize("time_axis", [0, 1])
def test_gradients_of_a_sequence_equal_finite_differences(time_axis, per_gate):
    masks = drawn(0.3, per_gate)
    shape = (2, BATCH, FEATURES) if time_axis == 0 else (BATCH, 2, FEATURES)
    x, dy = numbers(*shape), numbers(GATES, *shape)

    def loss(x):
        return np.sum(masks.apply(x, time_axis=time_axis) * dy)

    # As above: the loss is linear.
    expected = central_difference(loss, x)
    np.testing.assert_allclose(masks.backward(dy, time_axis=time_axis), expected, rtol=0, atol=1e-6)


# RecurrentDropout: checkpoints and mistakes


def test_a_checkpoint_continues_with_the_next_masks():
    dropout = RecurrentDropout(0.5, 0.25, gates=3, per_gate=False, rng=7)
    dropout.draw(BATCH, FEATURES, UNITS)
    for restored in (pickle.loads(pickle.dumps(dropout)), copy.deepcopy(dropout)):
        assert repr(restored) == repr(dropout)
        assert restored.draw(BATCH, FEATURES, UNITS) == copy.deepcopy(dropout).draw(BATCH, FEATURES, UNITS)


# What a saved state may go through.
SAVED = {
    "as it is": lambda state, path: state,
    "json": lambda state, path: json.loads(json.dumps(state)),
    "savez": lambda state, path: through_savez(state, path / "state.npz"),
}


def through_savez(state, path):
    np.savez(path, **state)
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_a_stream_of_its_own(copied):
    dropout = RecurrentDropout(0.5, rng=7)
    ahead = copied(dropout).draw(BATCH, FEATURES, UNITS)
    assert dropout.rng.call == 0
    assert dropout.draw(BATCH, FEATURES, UNITS) == ahead


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED.keys())
def test_a_state_brings_back_rates_and_stream(saved, tmp_path):
    dropout = RecurrentDropout(0.5, 0.25, rng=7)
    dropout.draw(BATCH, FEATURES, UNITS)
    state = saved(dropout.state_dict(), tmp_path)
    expected = dropout.draw(BATCH, FEATURES, UNITS)
    restored = RecurrentDropout(rng=8)
    stream = restored.rng
    restored.load_state_dict(state)
    assert restored.draw(BATCH, FEATURES, UNITS) == expected
    assert restored.rng is stream  # which other objects may share


def test_the_state_of_a_used_up_stream_can_be_saved():
    dropout = RecurrentDropout(0.5, rng=PhiloxStream.from_key(KEY, (1 << 56) - 2))
    dropout.draw(BATCH, FEATURES, UNITS)
    restored = RecurrentDropout()
    restored.load_state_dict(dropout.state_dict())
    with pytest.raises(ValueError, match="used up its 2\\*\\*56 calls"):
        restored.draw(BATCH, FEATURES, UNITS)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "DropoutWrapper"}, ValueError, "layer must be 'RecurrentDropout' in a state for this object"),
        ({"dropout": 2.0}, ValueError, "dropout must be from 0 to 1, got 2.0"),
        ({"key": -1}, ValueError, "key must be from 0 to"),
        ({"call": 0.5}, TypeError, "call must be an int from 0 to"),
        ({"call": (1 << 56) + 1}, ValueError, "call must be from 0 to"),
        ({"more": 1}, ValueError, "state must hold layer, dropout, recurrent_dropout, key, call and nothing else, got"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, message):
    dropout = RecurrentDropout(0.5, 0.25, rng=7)
    before = dropout.state_dict()
    with pytest.raises(error, match=message):
        dropout.load_state_dict({**before, "dropout": 0.1, "call": 5, **change})
    with pytest.raises(TypeError, match=r"state must be a mapping with layer, .* of type list"):
        dropout.load_state_dict([before])
    assert dropout.state_dict() == before


def test_drawn_masks_pickle_as_numbers(either):
    masks = RecurrentDropout(0.5, 0.5, rng=7).draw(32, 100, 100)
    pickled = pickle.dumps(masks)
    assert len(pickled) < 300  # the bits alone are 3200 bytes
    restored = pickle.loads(pickled)
    assert restored == masks
    assert hash(restored) == hash(masks)
    x = numbers(32, 100)
    np.testing.assert_array_equal(restored.state.apply(x), masks.state.apply(x))


def test_drawn_masks_are_immutable():
    with pytest.raises(AttributeError):
        drawn().rate = 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 1.5}, ValueError, "dropout must be from 0 to 1, got 1.5"),
        ({"dropout": np.nan}, ValueError, "dropout must be from 0 to 1, got nan"),
        ({"dropout": "0.5"}, TypeError, "dropout must be a real number from 0 to 1, got '0.5' of type str"),
        ({"recurrent_dropout": -0.1}, ValueError, "recurrent_dropout must be from 0 to 1, got -0.1"),
        ({"gates": 0}, ValueError, "gates must be at least 1, got 0"),
        ({"gates": 4.0}, TypeError, "gates must be an int of at least 1, got 4.0 of type float"),
        ({"per_gate": 1}, TypeError, "per_gate must be True or False, got 1 of type int"),
        ({"always": None}, TypeError, "always must be True or False, got None"),
        ({"rng": "seed"}, TypeError, "rng must be None, an int"),
        ({"rng": -1}, ValueError, "rng must be at least 0, got -1"),
    ],
)
def test_recurrent_dropout_names_the_bad_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        RecurrentDropout(**arguments)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((-1, 7, 6), ValueError, "batch must be from 0 to"),
        ((4, 7.0, 6), TypeError, "features must be an int from 0 to .* got 7.0 of type float"),
        ((4, 7, None), TypeError, "units must be an int from 0 to .* got None"),
        ((4, 7, True), TypeError, "units must be an int from 0 to .* got True"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_size_is_named_and_uses_up_no_call(sizes, error, message, training):
    dropout = RecurrentDropout(0.5, rng=7).train(training)
    with pytest.raises(error, match=message):
        dropout.draw(*sizes)
    assert dropout.rng.call == 0


def test_a_rate_can_be_set_only_to_a_probability():
    dropout = RecurrentDropout(0.5, rng=7)
    with pytest.raises(ValueError, match=r"recurrent_dropout must be from 0 to 1, got 2"):
        dropout.recurrent_dropout = 2
    assert dropout.recurrent_dropout == 0.0


X = np.ones((BATCH, FEATURES))
DY = np.ones((GATES, BATCH, FEATURES))
SEQUENCE = np.ones((TIME, BATCH, FEATURES))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.apply(X.T), ValueError, r"x must have the shape \(batch, depth\), \(4, 7\), got \(7, 4\)"),
        (lambda m: m.apply(SEQUENCE), ValueError, r"got \(5, 4, 7\); say with time_axis where the steps"),
        (
            lambda m: m.apply(X, time_axis=0),
            ValueError,
            r"x must have the shape \(time, batch, depth\) with .*\(4, 7\)",
        ),
        (lambda m: m.apply(SEQUENCE, time_axis=1), ValueError, r"x must have the shape \(batch, time, depth\)"),
        (lambda m: m.apply(SEQUENCE, time_axis=2), ValueError, "time_axis must be 0, 1 or None, got 2"),
        (lambda m: m.apply(SEQUENCE, time_axis=-3), ValueError, "time_axis must be 0, 1 or None, got -3"),
        (lambda m: m.apply(SEQUENCE, time_axis=False), ValueError, "time_axis must be 0, 1 or None, got False"),
        (lambda m: m.apply(X.astype(int)), TypeError, "x must be an array of float16, bfloat16"),
        (
            lambda m: m.apply(X, X),
            ValueError,
            r"out must have the shape \(gates, \*x.shape\), \(3, 4, 7\), got \(4, 7\)",
        ),
        (lambda m: m.apply(X, DY.astype(np.float32)), TypeError, "out must hold every value of dtype float64"),
        (lambda m: m.apply(X, DY.tolist()), TypeError, "out must be a NumPy array, got a list"),
        (lambda m: m.apply(X, np.broadcast_to(X, DY.shape)), ValueError, "out is read-only"),
        (lambda m: m.backward(X), ValueError, r"dy must have 3 gates as its first axis, got shape \(4, 7\)"),
        (lambda m: m.backward(1.0), ValueError, r"dy must have 3 gates as its first axis, got shape \(\)"),
        (lambda m: m.backward(DY[:, :2]), ValueError, r"dy\[0\] must have the shape \(batch, depth\), \(4, 7\)"),
        (lambda m: m.backward(DY, time_axis=0), ValueError, r"dy\[0\] must have the shape \(time, batch, depth\)"),
        (lambda m: m.backward(DY > 0), TypeError, "dy must be an array of float16, bfloat16"),
    ],
)
def test_a_bad_array_is_named(call, error, message):
    for rate, per_gate in itertools.product([0.0, 0.5], [True, False]):
        with pytest.raises(error, match=message):
            call(drawn(rate, per_gate))


# DropoutWrapper: TensorFlow's meaning


def cell(x, state):
    """An LSTM without its weights: enough to see what goes where."""
    c = 0.5 * state.c + np.tanh(x)
    h = np.tanh(c) + 0.25 * state.h
    return h, LSTMState(c, h)


def zeros(batch=BATCH):
    return LSTMState(np.zeros((batch, UNITS)), np.zeros((batch, UNITS)))


def steps(wrapper, n=TIME, batch=BATCH):
    """Outputs, states and masks of the first steps of a wrapper, or of a cell, which has no masks."""
    state = zeros(batch)
    results = []
    for x in numbers(n, batch, UNITS):
        y, state = wrapper(x, state)
        results.append((y, state, getattr(wrapper, "masks", None)))
    return results


@pytest.mark.parametrize("variational", [False, True])
def test_each_step_can_be_reproduced(either, variational):
    wrapper = DropoutWrapper(cell, 0.9, 0.5, 0.7, variational, rng=PhiloxStream.from_key(KEY, 20))
    state = zeros()
    for t, (x, (y, new_state, _)) in enumerate(zip(numbers(TIME, BATCH, UNITS), steps(wrapper), strict=True)):
        # In this order: the input, the state's c and h, the output.
        first = 20 if variational else 20 + 4 * t
        noise_shape = (1, UNITS) if variational else None

        def mask(call, keep_prob, noise_shape=noise_shape):
            return DropoutMask((BATCH, UNITS), 1 - keep_prob, key=KEY, call=call, noise_shape=noise_shape)

        expected_y, state = cell(mask(first, 0.9).apply(x), state)
        state = LSTMState(state.c, mask(first + 2, 0.7).apply(state.h))
        np.testing.assert_array_equal(new_state.c, state.c)
        np.testing.assert_array_equal(new_state.h, state.h)
        np.testing.assert_array_equal(y, mask(first + 3, 0.5).apply(expected_y))
    assert wrapper.rng.call == (24 if variational else 20 + 4 * TIME)


def test_what_is_dropped_of_the_output_does_not_reach_the_next_step():
    plain = steps(cell)
    dropped = steps(DropoutWrapper(cell, output_keep_prob=0.5, rng=7))
    for (y, state, _), (dropped_y, dropped_state, masks) in zip(plain, dropped, strict=True):
        np.testing.assert_array_equal(dropped_state.h, state.h)
        np.testing.assert_array_equal(dropped_y, masks.output.apply(y))
    assert all(0 < np.count_nonzero(y) < y.size for y, _, _ in dropped)


def test_masks_are_fresh_at_each_step_and_for_each_row():
    masks = np.stack([masks.output for _, _, masks in steps(DropoutWrapper(cell, output_keep_prob=0.5, rng=7))])
    assert len({step.tobytes() for step in masks}) == TIME
    assert not (masks == masks[:, :1]).all()


def test_variational_masks_stay_for_all_steps_and_rows_of_a_sequence():
    wrapper = DropoutWrapper(cell, 0.5, 0.5, 0.5, True, rng=7)
    sequences = []
    for _ in range(3):
        wrapper.start_sequence()
        kept = [[masks.input, masks.state.h, masks.output] for _, _, masks in steps(wrapper)]
        kept = np.array([[np.asarray(mask) for mask in step] for step in kept])
        assert kept.shape == (TIME, 3, BATCH, UNITS)
        assert (kept == kept[:1, :, :1]).all()
        sequences.append(kept[0, :, 0].tobytes())
        assert len({row.tobytes() for row in kept[0, :, 0]}) == 3
    assert len(set(sequences)) == 3
    assert wrapper.rng.call == 12


def test_variational_masks_are_held_until_a_new_sequence_is_started():
    wrapper = DropoutWrapper(cell, output_keep_prob=0.5, variational_recurrent=True, rng=7)
    (_, _, one), (_, _, other) = steps(wrapper, 1)[0], steps(wrapper, 1)[0]
    assert one == other
    assert wrapper.start_sequence() is wrapper
    assert steps(wrapper, 1)[0][2] != one


def test_variational_masks_serve_a_batch_of_any_size():
    wrapper = DropoutWrapper(cell, output_keep_prob=0.5, variational_recurrent=True, rng=7)
    one, other = (np.asarray(steps(wrapper, 1, batch)[0][2].output) for batch in (BATCH, 1))
    np.testing.assert_array_equal(one[:1], other)


def test_variational_masks_share_nothing_beyond_the_batch():
    def images(x, state):
        return x, state

    wrapper = DropoutWrapper(images, output_keep_prob=0.5, variational_recurrent=True, rng=7)
    wrapper(numbers(2, 3, 4, 5), ())
    assert wrapper.masks.output.noise_shape == (1, 3, 4, 5)


def test_after_variational_recurrent_is_switched_off_masks_are_fresh():
    wrapper = DropoutWrapper(cell, output_keep_prob=0.5, variational_recurrent=True, rng=7)
    steps(wrapper, 1)
    wrapper.variational_recurrent = False
    assert len({masks.output for _, _, masks in steps(wrapper)}) == TIME


def test_keep_prob_1_gives_the_arrays_themselves():
    x, y = numbers(BATCH, UNITS), numbers(BATCH, UNITS)
    state = zeros()
    seen = []

    def spy(x, state):
        seen.extend([x, state])
        return y, state

    wrapper = DropoutWrapper(spy, rng=7)
    got_y, got_state = wrapper(x, state)
    assert got_y is y
    assert got_state.c is state.c
    assert got_state.h is state.h
    assert seen[0] is x


def test_keep_prob_0_drops_everything(either):
    wrapper = DropoutWrapper(cell, 0.0, 0.0, 0.0, rng=7)
    x = np.full((BATCH, UNITS), np.nan)
    y, state = wrapper(x, zeros())
    assert np.array_equal(y, np.zeros((BATCH, UNITS)))
    assert np.array_equal(state.h, np.zeros((BATCH, UNITS)))
    assert not np.isnan(state.c).any()


@pytest.mark.parametrize("keep_probs", list(itertools.product([1.0, 0.5], repeat=3)))
@pytest.mark.parametrize("state_filter", [None, False, True])
@pytest.mark.parametrize("variational", [False, True])
def test_call_numbers_do_not_depend_on_what_is_dropped(keep_probs, state_filter, variational):
    wrapper = DropoutWrapper(cell, *keep_probs, variational, state_filter, rng=PhiloxStream.from_key(KEY))
    for t, (_, _, masks) in enumerate(steps(wrapper)):
        first = 0 if variational else 4 * t
        calls = [masks.input.call, masks.state.c.call, masks.state.h.call, masks.output.call]
        assert calls == [first, first + 1, first + 2, first + 3]


@pytest.mark.parametrize("variational", [False, True])
def test_evaluation_is_the_cell_and_draws_nothing(variational):
    wrapper = DropoutWrapper(cell, 0.5, 0.5, 0.5, variational, rng=7)
    plain = steps(cell)
    assert wrapper.eval() is wrapper
    for (y, state, _), (got_y, got_state, masks) in zip(plain, steps(wrapper), strict=True):
        np.testing.assert_array_equal(got_y, y)
        np.testing.assert_array_equal(got_state, state)
        assert {masks.input.rate, masks.state.c.rate, masks.state.h.rate, masks.output.rate} == {0.0}
    assert wrapper.rng.call == 0


def test_evaluation_in_the_middle_of_a_sequence_does_not_change_its_masks():
    wrapper = DropoutWrapper(cell, output_keep_prob=0.5, variational_recurrent=True, rng=7)
    before = steps(wrapper, 1)[0][2]
    steps(wrapper.eval())
    assert steps(wrapper.train(), 1)[0][2] == before


def test_always_drops_in_evaluation_too():
    wrapper = DropoutWrapper(cell, 0.9, 0.5, 0.7, rng=7, always=True).eval()
    got = [masks for _, _, masks in steps(wrapper)]
    assert got == [masks for _, _, masks in steps(DropoutWrapper(cell, 0.9, 0.5, 0.7, rng=7))]


def test_keep_probs_can_be_set_between_steps():
    wrapper = DropoutWrapper(cell, output_keep_prob=0.9, rng=7)
    steps(wrapper, 1)
    wrapper.output_keep_prob = 0.5
    assert steps(wrapper, 1)[0][2].output.rate == 0.5
    with pytest.raises(ValueError, match=r"output_keep_prob must be from 0 to 1, got 1.5"):
        wrapper.output_keep_prob = 1.5


def test_wrappers_wrap_wrappers():
    inner = DropoutWrapper(cell, input_keep_prob=0.5, variational_recurrent=True, rng=7)
    outer = DropoutWrapper(inner, output_keep_prob=0.5, rng=8)
    first = steps(outer, 1)[0][2]
    assert first.input.rate == 0.0
    held = inner.masks.input
    assert held.rate == 0.5
    outer.start_sequence()
    steps(outer, 1)
    assert inner.masks.input != held
    outer.eval()
    assert not inner.training
    outer.train()
    assert inner.training


def test_what_lets_a_wrapper_draw_lets_those_inside_draw_too():
    def nested(**options):
        inner = DropoutWrapper(cell, 0.5, rng=7)
        return inner, DropoutWrapper(DropoutWrapper(inner, rng=8), 0.5, rng=9, **options).eval()

    inner, outer = nested()
    with fastdrop.stochastic(outer):
        assert (inner.is_stochastic, outer.is_stochastic) == (True, True)
        steps(outer, 1)
        assert inner.rng.call == 4
    assert (inner.is_stochastic, outer.is_stochastic) == (False, False)
    with fastdrop.stochastic(inner):
        assert (inner.is_stochastic, outer.is_stochastic) == (True, False)
    outer.always = True
    assert inner.is_stochastic
    outer.always = False
    assert not inner.is_stochastic
    with pytest.raises(TypeError, match="always must be True or False, got 1"):
        outer.always = 1
    inner, outer = nested(always=True)
    assert (inner.always, inner.is_stochastic, outer.is_stochastic) == (True, True, True)

    # What the inner one was told by itself is not taken back, nor does a mistake change it.
    inner = DropoutWrapper(cell, 0.5, rng=7, always=True)
    assert DropoutWrapper(inner, 0.5).cell.always
    inner.always = False
    with pytest.raises(TypeError, match="rng must be"):
        DropoutWrapper(inner, always=True, rng=0.5)
    assert not inner.always


# DropoutWrapper: structures and filters


class Memory(NamedTuple):
    key: np.ndarray
    value: np.ndarray


def structured(x, state):
    """A cell whose three arguments and results are structures; its state comes back as it went in."""
    return x, state


def structured_state():
    a, b, c, d, e, f = numbers(6, BATCH, UNITS)
    return (LSTMState(a, b), [Memory(c, d), {"z": e, "a": f}], ())


def dropped_leaves(state_filter, state, training=True):
    """For each leaf of the state, whether a wrapper drops it."""
    wrapper = DropoutWrapper(structured, state_keep_prob=0.0, dropout_state_filter=state_filter, rng=7)
    _, new_state = wrapper(numbers(BATCH, UNITS), state)
    return [not leaf.any() for leaf in helpers.leaves(new_state)]


@pytest.mark.parametrize(
    ("state_filter", "expected"),
    [
        # In the order of the leaves: c, h, key, value, "a", "z".
        (None, [0, 1, 1, 1, 1, 1]),
        (True, [1, 1, 1, 1, 1, 1]),
        (False, [0, 0, 0, 0, 0, 0]),
        (np.False_, [0, 0, 0, 0, 0, 0]),
        ((True, False, True), [1, 1, 0, 0, 0, 0]),
        ([False, True, False], [0, 0, 1, 1, 1, 1]),
        ((LSTMState(c=True, h=False), [False, True], ()), [1, 0, 0, 0, 1, 1]),
        (((False, True), [Memory(True, False), {"z": True, "a": False}], True), [0, 1, 1, 0, 0, 1]),
        (lambda part: True, [1, 1, 1, 1, 1, 1]),
        (lambda part: False, [0, 0, 0, 0, 0, 0]),
        (lambda part: not isinstance(part, (LSTMState, dict)), [0, 0, 1, 1, 0, 0]),
        (lambda part: Memory(False, True) if isinstance(part, Memory) else True, [1, 1, 0, 1, 1, 1]),
        (lambda part: {"a": False, "z": True} if isinstance(part, dict) else True, [1, 1, 1, 1, 0, 1]),
        # Where the answer for a part is True the part itself is asked again, as in TensorFlow.
        (lambda part: (True, False, True) if isinstance(part, tuple) and len(part) == 3 else True, [1, 1, 0, 0, 0, 0]),
        (lambda part: (True, True, True) if isinstance(part, tuple) and len(part) == 3 else part is not part, [0] * 6),
    ],
)
def test_the_filter_says_what_is_dropped_of_the_state(state_filter, expected):
    assert dropped_leaves(state_filter, structured_state()) == [bool(flag) for flag in expected]


class LSTMStateTuple(NamedTuple):
    """That of TensorFlow: not ours, and with the same names."""

    c: np.ndarray
    h: np.ndarray


class Turned(NamedTuple):
    h: np.ndarray
    steps: np.ndarray
    c: np.ndarray


def test_the_memory_of_every_named_tuple_with_c_and_h_is_left_alone():
    a, b, c = numbers(3, BATCH, UNITS)
    assert dropped_leaves(None, LSTMStateTuple(a, b)) == [False, True]
    assert dropped_leaves(None, [LSTMStateTuple(a, b), Turned(a, b, c)]) == [False, True, True, True, False]
    assert dropped_leaves(None, (a, b)) == [True, True], "a plain pair does not say which part is the memory"
    wrapper = DropoutWrapper(structured, state_keep_prob=0.5, rng=7)
    _, state = wrapper(a, LSTMStateTuple(a, b))
    assert isinstance(state, LSTMStateTuple)
    assert state.c is a


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("seed", "it is 'rng' here"),
        ("dropout_state_filter_visitor", "it is 'dropout_state_filter' here"),
        ("dtype", "arrays say it themselves"),
        ("input_size", "arrays say it themselves"),
    ],
)
def test_arguments_of_tensorflows_wrapper_that_have_another_name_here_are_named(name, pieces):
    with pytest.raises(TypeError, match=f"DropoutWrapper takes no argument '{name}': {pieces}"):
        DropoutWrapper(cell, **{name: None})


@pytest.mark.parametrize("variational", [False, True])
def test_keep_probs_are_used_as_they_were_given(variational):
    wrapper = DropoutWrapper(cell, 0.1, 0.01, 0.1, variational, rng=7)
    restored = DropoutWrapper(cell, variational_recurrent=variational)
    restored.load_state_dict(wrapper.state_dict())
    for each in (wrapper, restored):
        each(np.ones((BATCH, UNITS)), zeros())
        masks = [each.masks.input, each.masks.state.h, each.masks.output]
        assert [(mask.keep_prob, mask.scale) for mask in masks] == [(0.1, 10), (0.1, 10), (0.01, 100)]


def test_the_filter_is_asked_as_in_tensorflow():
    asked = []

    def visitor(part):
        asked.append(part)
        return (True, False) if isinstance(part, tuple) else True

    state = (LSTMState(*numbers(2, BATCH, UNITS)), numbers(BATCH, UNITS))
    assert dropped_leaves(visitor, state) == [True, False, False]
    assert [type(part) for part in asked] == [tuple, LSTMState, np.ndarray]


def test_structures_come_back_as_they_went_in():
    state = structured_state()
    x = OrderedDict(b=numbers(BATCH, UNITS), a=[numbers(BATCH, 2)])
    wrapper = DropoutWrapper(structured, 0.5, 0.5, 0.5, rng=PhiloxStream.from_key(KEY))
    y, new_state = wrapper(x, state)
    assert type(y) is type(wrapper.masks.output) is OrderedDict
    assert list(y) == ["b", "a"]
    for got in (new_state, wrapper.masks.state):
        assert [type(part) for part in got] == [LSTMState, list, tuple]
        assert [type(part) for part in got[1]] == [Memory, dict]
        assert list(got[1][1]) == ["z", "a"]
    np.testing.assert_array_equal(x["b"], numbers(BATCH, UNITS))  # what came in is as it was


def test_the_keys_of_a_dict_are_taken_in_sorted_order():
    wrapper = DropoutWrapper(structured, 0.5, rng=7)
    for x in ({"a": numbers(2, 3), "b": numbers(2, 3)}, {"b": numbers(2, 3), "a": numbers(2, 3)}):
        first = wrapper.rng.call
        wrapper(x, ())
        assert [wrapper.masks.input[name].call for name in "ab"] == [first, first + 1]


def test_what_is_not_dropped_may_be_anything():
    state = (numbers(BATCH, UNITS), 3, None)
    wrapper = DropoutWrapper(structured, state_keep_prob=0.5, dropout_state_filter=(True, False, False), rng=7)
    _, new_state = wrapper("a word", state)
    assert new_state[1:] == (3, None)
    _, dstate = wrapper.masks.backward_outputs(None, (numbers(BATCH, UNITS), None, None))
    np.testing.assert_array_equal(dstate[0], new_state[0])


# DropoutWrapper: backward


class RNN:
    """A recurrent net of tanh cells with weights, and its gradients; a wrapper stands around each step."""

    def __init__(self, **options):
        self.w, self.u = numbers(UNITS, UNITS) / 4, numbers(UNITS, UNITS) / 3
        self.options = options

    def cell(self, x, state):
        c = 0.5 * state.c + np.tanh(x @ self.w + state.h @ self.u)
        h = np.sin(c)
        self.steps.append((x, state, c))
        return h, LSTMState(c, h)

    def run(self, xs, state):
        """The outputs and the last state, always with the same masks."""
        self.steps, self.masks = [], []
        wrapper = DropoutWrapper(self.cell, rng=PhiloxStream.from_key(KEY), **self.options)
        ys = []
        for x in xs:
            y, state = wrapper(x, state)
            ys.append(y)
            self.masks.append(wrapper.masks)
        return np.stack(ys), state

    def gradients(self, dys, dstate):
        """Gradients with respect to xs and the first state."""
        dxs = []
        for (x, state, c), masks, dy in zip(self.steps[::-1], self.masks[::-1], dys[::-1], strict=True):
            dy, dstate = masks.backward_outputs(dy, dstate)
            dc = dstate.c + (dy + dstate.h) * np.cos(c)
            da = dc * (1 - np.tanh(x @ self.w + state.h @ self.u) ** 2)
            dxs.append(masks.backward_input(da @ self.w.T))
            dstate = LSTMState(0.5 * dc, da @ self.u.T)
        return np.stack(dxs[::-1]), dstate


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("state_filter", [None, True])
def test_gradients_through_time_equal_finite_differences(variational, state_filter):
    net = RNN(
        input_keep_prob=0.8,
        output_keep_prob=0.5,
        state_keep_prob=0.7,
        variational_recurrent=variational,
        dropout_state_filter=state_filter,
    )
    xs, c, h = numbers(3, 2, UNITS), numbers(2, UNITS), numbers(2, UNITS) / 2
    dys, dc, dh = numbers(3, 2, UNITS), -numbers(2, UNITS), numbers(2, UNITS) / 3

    def loss(xs, c, h):
        ys, state = net.run(xs, LSTMState(c, h))
        return np.sum(ys * dys) + np.sum(state.c * dc) + np.sum(state.h * dh)

    loss(xs, c, h)
    dxs, dstate = net.gradients(dys, LSTMState(dc, dh))
    # Central differences with a step of 1e-6 are off by about 1e-10 from rounding, and by 1e-12 from curvature.
    close = {"rtol": 1e-6, "atol": 1e-8}
    np.testing.assert_allclose(dxs, central_difference(lambda a: loss(a, c, h), xs), **close)
    np.testing.assert_allclose(dstate.c, central_difference(lambda a: loss(xs, a, h), c), **close)
    np.testing.assert_allclose(dstate.h, central_difference(lambda a: loss(xs, c, a), h), **close)


def test_gradients_may_come_in_other_sequences_and_leave_in_those_of_the_arrays():
    wrapper = DropoutWrapper(cell, state_keep_prob=0.5, rng=7)
    steps(wrapper, 1)
    dy, dc, dh = numbers(3, BATCH, UNITS)
    _, dstate = wrapper.masks.backward_outputs(dy, [dc, dh])
    assert isinstance(dstate, LSTMState)
    assert dstate.c is dc
    np.testing.assert_array_equal(dstate.h, wrapper.masks.state.h.apply(dh))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a: m.backward_outputs(a, a), r"dstate must have the structure LSTMState\(.*\), got \.\.\."),
        (lambda m, a: m.backward_outputs(a, (a, a, a)), r"dstate must have the structure LSTMState"),
        (lambda m, a: m.backward_outputs(a, {"c": a, "h": a}), r"dstate must have the structure LSTMState"),
        (lambda m, a: m.backward_outputs(a[:1], (a, a)), r"dy must have the shape of the mask, \(4, 6\), got \(1, 6\)"),
    ],
)
def test_gradients_must_have_the_structure_of_the_masks(call, message):
    wrapper = DropoutWrapper(cell, 0.5, 0.5, 0.5, rng=7)
    steps(wrapper, 1)
    with pytest.raises(ValueError, match=message):
        call(wrapper.masks, numbers(BATCH, UNITS))


# DropoutWrapper: checkpoints and mistakes


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("variational", [False, True])
def test_a_checkpoint_in_the_middle_of_a_sequence_continues_with_the_masks_that_would_have_come(variational, copied):
    wrapper = DropoutWrapper(cell, 0.9, 0.5, 0.5, variational, rng=7)
    steps(wrapper, 2)
    restored = copied(wrapper)
    assert restored.masks == wrapper.masks
    assert repr(restored) == repr(wrapper)
    expected = [masks for _, _, masks in steps(wrapper)]
    assert [masks for _, _, masks in steps(restored)] == expected
    copied(wrapper).start_sequence()
    assert wrapper.state_dict()["input_calls"] == ([0] if variational else [])


@pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_copy_of_wrappers_within_wrappers_moves_none_of_them(is_shared, copied):
    stream = PhiloxStream(7)
    inner = DropoutWrapper(cell, 0.5, rng=stream)
    outer = DropoutWrapper(DropoutWrapper(inner, 0.5, rng=8), 0.5, rng=stream if is_shared else 9)
    steps(outer, 1)
    before = outer.state_dict()
    again = copied(outer)
    ahead = [all_masks(again) for _ in steps(again)]
    assert outer.state_dict() == before
    assert [all_masks(outer) for _ in steps(outer)] == ahead


def all_masks(wrapper):
    """Of the last step, from the outermost wrapper inwards."""
    return [wrapper.masks, *(all_masks(wrapper.cell) if isinstance(wrapper.cell, DropoutWrapper) else [])]


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED.keys())
def test_a_state_brings_back_wrappers_within_wrappers(saved, tmp_path):
    def nested(seed):
        return DropoutWrapper(DropoutWrapper(cell, 0.5, 0.5, 0.5, True, rng=seed), 0.9, rng=seed + 1)

    outer = nested(7)
    steps(outer, 2)
    state = saved(outer.state_dict(), tmp_path)
    restored = nested(9)
    restored.load_state_dict(state)
    assert restored.state_dict() == outer.state_dict()
    expected = [all_masks(outer) for _ in steps(outer)]
    assert [all_masks(restored) for _ in steps(restored)] == expected

    # One that knows nothing of the inner wrapper, or something wrong, changes neither.
    before = restored.state_dict()
    old = {name: value for name, value in nested(11).state_dict().items() if not name.startswith("cell.")}
    with pytest.raises(ValueError, match=r"state must hold layer, .*cell\.layer, .*cell\.key, .* and nothing else"):
        restored.load_state_dict(old)
    with pytest.raises(ValueError, match="call must be from 0 to"):
        restored.load_state_dict({**nested(11).state_dict(), "cell.call": -1})
    with pytest.raises(ValueError, match="call must be from 0 to"):
        restored.load_state_dict({**nested(11).state_dict(), "call": -1})
    assert restored.state_dict() == before


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED.keys())
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("n", [0, 2])
def test_a_state_brings_back_keep_probs_stream_and_held_masks(variational, n, saved, tmp_path):
    wrapper = DropoutWrapper(cell, 0.9, 0.5, 0.5, variational, rng=7)
    steps(wrapper, n)
    state = saved(wrapper.state_dict(), tmp_path)
    restored = DropoutWrapper(cell, variational_recurrent=variational, rng=8)
    steps(restored, 1)
    restored.load_state_dict(state)
    assert restored.state_dict() == wrapper.state_dict()
    expected = [masks for _, _, masks in steps(wrapper)]
    assert [masks for _, _, masks in steps(restored)] == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "RecurrentDropout"}, ValueError, "layer must be 'DropoutWrapper' in a state for this object"),
        ({"state_keep_prob": "1"}, TypeError, "state_keep_prob must be a real number from 0 to 1, got '1'"),
        ({"input_calls": 3}, TypeError, "input_calls must be a list of ints, got 3"),
        ({"output_calls": [0.5]}, TypeError, "output_calls must be an int from 0 to"),
        ({"output_calls": [-1]}, ValueError, "output_calls must be from 0 to"),
        ({"call": -1}, ValueError, "call must be from 0 to"),
    ],
)
def test_a_wrappers_state_that_does_not_fit_changes_nothing(change, error, message):
    wrapper = DropoutWrapper(cell, 0.9, 0.5, 0.5, True, rng=7)
    steps(wrapper, 1)
    before = wrapper.state_dict()
    with pytest.raises(error, match=message):
        wrapper.load_state_dict({**before, "input_keep_prob": 0.1, "state_calls": [8, 9], "call": 5, **change})
    assert wrapper.state_dict() == before


def test_another_stream_gives_a_sequence_other_masks():
    wrapper = DropoutWrapper(cell, 0.5, variational_recurrent=True, rng=7)
    before = steps(wrapper, 1)[0][2]
    wrapper.rng = 8
    after = steps(wrapper, 1)[0][2]
    assert after.input.key == PhiloxStream(8).key != before.input.key
    assert wrapper.rng.call == 4


def test_wrappers_that_share_a_stream_still_share_it_after_a_checkpoint():
    stream = PhiloxStream(7)
    forward, backward = pickle.loads(pickle.dumps([DropoutWrapper(cell, 0.5, rng=stream) for _ in range(2)]))
    assert forward.rng is backward.rng
    assert steps(forward, 1)[0][2].input.call + 4 == steps(backward, 1)[0][2].input.call


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cell": None}, TypeError, r"cell must be a callable \(x, state\) -> \(y, state\), got None"),
        ({"input_keep_prob": 1.5}, ValueError, "input_keep_prob must be from 0 to 1, got 1.5"),
        ({"output_keep_prob": -1}, ValueError, "output_keep_prob must be from 0 to 1, got -1"),
        ({"state_keep_prob": None}, TypeError, "state_keep_prob must be a real number from 0 to 1, got None"),
        ({"dropout_state_filter": (True, 1)}, TypeError, "dropout_state_filter must say True or False.* got 1"),
        ({"dropout_state_filter": LSTMState(c=None, h=True)}, TypeError, "dropout_state_filter must .* got None"),
        ({"variational_recurrent": "yes"}, TypeError, "variational_recurrent must be True or False, got 'yes'"),
        ({"always": 1}, TypeError, "always must be True or False, got 1"),
        ({"rng": 0.5}, TypeError, "rng must be None, an int"),
    ],
)
def test_dropout_wrapper_names_the_bad_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        DropoutWrapper(**{"cell": cell, **arguments})


@pytest.mark.parametrize(
    ("state_filter", "error", "message"),
    [
        (lambda part: None, TypeError, "dropout_state_filter must say True or False.* got None"),
        (lambda part: (False, "h"), TypeError, "dropout_state_filter must say True or False.* got 'h'"),
        (
            lambda part: (True, True, True),
            ValueError,
            r"the state under dropout_state_filter must have the structure \(\.\.\., \.\.\., ",
        ),
        ((True, True, False), ValueError, "the state under dropout_state_filter must have the structure"),
        ({"c": True}, ValueError, "the state under dropout_state_filter must have the structure"),
        ((True, (True, True)), ValueError, r"structure \(\.\.\., \.\.\.\), got \.\.\."),
    ],
)
def test_a_filter_that_does_not_fit_the_state_is_an_error(state_filter, error, message):
    wrapper = DropoutWrapper(cell, state_keep_prob=0.5, dropout_state_filter=state_filter, rng=7)
    with pytest.raises(error, match=message):
        steps(wrapper, 1)


@pytest.mark.parametrize(
    ("x", "variational", "error", "message"),
    [
        (np.arange(6), False, TypeError, "the input of the cell must be an array of float16"),
        ("a word", False, TypeError, "the input of the cell must be an array of float16"),
        (np.ones(6), True, ValueError, r"the input of the cell must have the shape \(batch, depth, ...\) with vari"),
        ([np.ones((2, 6)), np.ones(())], True, ValueError, r"the input of the cell must .* got \(\)"),
    ],
)
def test_a_bad_input_is_named_and_uses_up_no_call(x, variational, error, message):
    wrapper = DropoutWrapper(structured, 0.5, variational_recurrent=variational, rng=7)
    with pytest.raises(error, match=message):
        wrapper(x, ())
    assert wrapper.rng.call == 0
    assert wrapper.masks is None


def test_a_bad_state_or_output_is_named():
    x = numbers(BATCH, UNITS)
    with pytest.raises(TypeError, match="the state of the cell must be an array of float16"):
        DropoutWrapper(structured, state_keep_prob=0.5, rng=7)(x, (x, 3))
    with pytest.raises(TypeError, match="the output of the cell must be an array of float16"):
        DropoutWrapper(lambda x, state: (3, state), output_keep_prob=0.5, rng=7)(x, x)
    with pytest.raises(TypeError, match=r"cell must return a pair \(y, state\), got ndarray"):
        DropoutWrapper(lambda x, state: x, rng=7)(x, x)


def test_a_sequence_whose_structure_changes_is_an_error():
    wrapper = DropoutWrapper(structured, 0.5, variational_recurrent=True, rng=7)
    wrapper([numbers(2, 3)], ())
    with pytest.raises(ValueError, match=r"the input of the cell must hold the same number of arrays .* got 2 after 1"):
        wrapper([numbers(2, 3), numbers(2, 3)], ())
    wrapper.start_sequence()
    wrapper([numbers(2, 3), numbers(2, 3)], ())
