# SPDX-License-Identifier: BSD-3-Clause
"""The calls that never leave C give what all others give, and everything that is not plain goes to these."""

import itertools
import sys
import threading

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

needs_core = pytest.mark.skipif(helpers.compiled() is None, reason="fastdrop was built without its compiled core")

X = np.arange(1, 65, dtype=np.float32).reshape(8, 8)

PLAIN = {
    "rate": {"rate": 0.1},
    "rate of NumPy": {"rate": np.float64(0.1)},
    "keep_prob": {"keep_prob": 0.9},
    "stream": {"rng": PhiloxStream(3)},
    "int": {"rng": 2026},
    "Generator": {"rng": np.random.default_rng(3)},
    "noise_shape": {"noise_shape": (8, 1)},
    "None in noise_shape": {"noise_shape": (1, None)},
    "out": {"out": np.zeros_like(X)},
    "in place": {"out": X.copy()},
    "return_mask": {"return_mask": True},
}

BIT_GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


def python_functions_called(call):
    """The names of the package's Python functions that run in a call."""
    names = []

    def note(frame, event, _):
        if event == "call" and "fastdrop" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return names


@needs_core
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_a_plain_call_never_leaves_c(options, dtype):
    options = {name: value.astype(dtype) if name == "out" else value for name, value in options.items()}
    fastdrop.dropout(X.astype(dtype), **options)  # a shape that was not there before is looked at once
    assert python_functions_called(lambda: fastdrop.dropout(X.astype(dtype), **options)) == []


@needs_core
@pytest.mark.parametrize("out", [None, np.empty_like(X)], ids=["new", "given"])
def test_a_mask_is_applied_without_leaving_c(out):
    for mask in (DropoutMask((8, 8), 0.1, key=1), DropoutMask((20, 8), 0.1, key=1)[4:12]):
        assert python_functions_called(lambda mask=mask: mask.apply(X, out)) == []
        assert python_functions_called(lambda mask=mask: mask.backward(X, out)) == []


@given(
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    rate=st.sampled_from([0.1, 0.5, 0.75, 1 / 3, 2.0**-32, 1 - 2.0**-32, 2.0**-40, 0.0, 1.0]),
    shared=st.lists(st.booleans(), min_size=4, max_size=4),
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    where=st.sampled_from(["new", "given", "in place"]),
    key=st.integers(0, 2**64 - 1),
    call=st.integers(0, 2**56 - 1),
)
def test_a_plain_call_gives_what_the_oracle_gives(shape, rate, shared, dtype, where, key, call):
    x = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape).astype(dtype)
    noise_shape = tuple(1 if one else n for one, n in zip(shared, shape, strict=False)) if any(shared) else None
    results = []
    for name in ("reference", helpers.names()[-1]):
        with helpers.using(name):
            stream = PhiloxStream.from_key(key, call)
            given = x.copy()
            out = {"new": None, "given": np.full_like(x, 7), "in place": given}[where]
            y, mask = fastdrop.dropout(given, rate, noise_shape=noise_shape, rng=stream, out=out, return_mask=True)
            results.append((y.tobytes(), y.dtype, y.shape, mask, mask.apply(x).tobytes(), stream.call))
            assert out is None or y is out
    assert results[0] == results[1]
    assert results[0][-1] == call + 1
    assert results[0][3] == DropoutMask(shape, rate, key=key, call=call, noise_shape=noise_shape)


@pytest.mark.parametrize("make", BIT_GENERATORS)
def test_a_generator_gives_the_key_that_its_integers_give(make):
    ours, same = np.random.Generator(make(5)), np.random.Generator(make(5))
    for _ in range(3):
        mask = fastdrop.dropout(X, 0.5, rng=ours, return_mask=True)[1]
        assert (mask.key, mask.call) == (int(same.integers(0, 2**64, dtype=np.uint64)), 0)
        # And on the way that is not plain.
        mask = fastdrop.dropout(X.T, 0.5, rng=ours, return_mask=True)[1]
        assert mask.key == int(same.integers(0, 2**64, dtype=np.uint64))


@given(seed=st.integers(0, 2**70) | st.integers(0, 2**32) | st.integers(2**64 - 3, 2**64 + 3))
def test_an_int_names_the_mask_of_its_seed_sequence(seed):
    key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    assert fastdrop.dropout(X, 0.5, rng=seed, return_mask=True)[1] == DropoutMask((8, 8), 0.5, key=key)
    assert PhiloxStream(seed).key == key


@pytest.mark.parametrize("shift", [-65, -64, -63, -1, 1, 63, 64])
def test_an_out_that_overlaps_x_is_right(shift, implementation):
    buffer = np.zeros(300, np.float32)
    x, out = buffer[100:164], buffer[100 + shift :][:64]
    x[...] = np.arange(1, 65)
    expected = fastdrop.dropout(x.copy(), 0.3, rng=5)
    assert fastdrop.dropout(x, 0.3, rng=5, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_keep_prob_is_what_was_given():
    for keep_prob, most in ((0.1, 10.0), (0.01, 100.0), (0.3, 1 / 0.3)):
        y, mask = fastdrop.dropout(np.ones(1000), keep_prob=keep_prob, rng=1, return_mask=True)
        assert (y.max(), mask.keep_prob, mask.scale) == (most, keep_prob, most)
        assert mask.apply(np.ones(1000)).max() == most


def test_lengths_that_were_right_as_ints_are_not_right_as_other_numbers():
    fastdrop.dropout(X, 0.5, noise_shape=(8, 1))
    for wrong in ((8.0, 1), (8, 1.0)):
        with pytest.raises(TypeError, match="noise_shape"):
            fastdrop.dropout(X, 0.5, noise_shape=wrong)


def test_a_rate_that_was_given_beside_keep_prob_is_refused_even_if_it_is_the_usual_one():
    with pytest.raises(ValueError, match="not both"):
        fastdrop.dropout(X, 0.5, keep_prob=0.5)


def test_what_is_refused_leaves_the_stream_where_it_was():
    stream = PhiloxStream(1)
    read_only = np.empty_like(X)
    read_only.flags.writeable = False
    for options in ({"out": read_only}, {"out": np.empty(3)}, {"rate": "0.1"}, {"noise_shape": (2, 2)}):
        with pytest.raises((TypeError, ValueError)):
            fastdrop.dropout(X, rng=stream, **options)
    assert stream.call == 0


def test_the_last_call_of_a_stream_is_drawn_and_no_other():
    stream = PhiloxStream.from_key(7, 2**56 - 1)
    assert fastdrop.dropout(X, 0.5, rng=stream, return_mask=True)[1].call == 2**56 - 1
    for _ in range(2):
        with pytest.raises(ValueError, match="used up"):
            fastdrop.dropout(X, 0.5, rng=stream)
    assert stream.call == 2**56


def test_threads_that_draw_from_a_stream_never_get_the_same_call():
    stream = PhiloxStream(1)
    start = threading.Barrier(4)
    taken = [[] for _ in range(4)]

    def draw(calls):
        start.wait(60)
        for _ in range(2000):
            calls.append(fastdrop.dropout(X, 0.5, rng=stream, return_mask=True)[1].call)

    threads = [threading.Thread(target=draw, args=(calls,)) for calls in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*taken)) == list(range(8000))


def test_a_stream_that_is_set_meanwhile_gives_a_key_with_its_own_calls():
    stream = fastdrop.Dropout(0.5, rng=PhiloxStream.from_key(0))
    states = [{"layer": "Dropout", "rate": 0.5, "key": key, "call": key * 1_000_000} for key in (1, 2, 3)]
    ended = threading.Event()

    def set_again():
        for state in itertools.cycle(states):
            stream.load_state_dict(state)
            if ended.is_set():
                return

    thread = threading.Thread(target=set_again)
    stream.load_state_dict(states[0])
    thread.start()
    try:
        drawn = [stream.rng.next_draw() for _ in range(20_000)]
    finally:
        ended.set()
        thread.join()
    assert all(key == call // 1_000_000 for key, call in drawn)
