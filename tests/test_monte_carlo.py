# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout: which layers stay stochastic, where and for how long, and the moments of many passes."""

import asyncio
import contextvars
import itertools
import multiprocessing
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import helpers
import ml_dtypes
import numpy as np
import pytest

import fastdrop
from fastdrop import Dropout, DropoutWrapper, PhiloxStream, RecurrentDropout, mc_predict, stochastic

X = np.ones(64, np.float32)
PATIENCE = 60  # seconds until a test that hangs is given up


def layers(n):
    return [Dropout(0.5, rng=stream).eval() for stream in PhiloxStream(3).spawn(n)]


def active(*of):
    """For each layer whether it is stochastic by what it says, and by what it does."""
    said = [layer.is_stochastic for layer in of]
    assert said == [layer(X) is not X for layer in of]
    return said


# The context


def test_chosen_layers_draw_within_and_not_after():
    a, b = layers(2)
    assert active(a, b) == [False, False]
    with stochastic(a):
        assert active(a, b) == [True, False]
    assert active(a, b) == [False, False]
    with stochastic(a, b):
        assert active(a, b) == [True, True]
    assert active(a, b) == [False, False]


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("Dropout", 0.5),
        ("Dropout1d", 0.5),
        ("DropPath", 0.5),
        ("DropConnect", 0.5),
        ("EmbeddingDropout", 0.5),
        ("AlphaDropout", 0.5),
        ("FeatureAlphaDropout", 0.5),
        ("GaussianDropout", 0.5),
        ("GaussianNoise", 1.0),
    ],
)
def test_what_is_drawn_within_is_what_training_would_draw(name, amount):
    layer, training = (getattr(fastdrop, name)(amount, rng=4) for _ in range(2))
    x = np.ones((20, 30), np.float32)
    layer.eval()
    with stochastic(layer):
        assert layer.training is False
        y = layer(x)
        np.testing.assert_array_equal(y, training(x))
        assert not np.array_equal(y, x)
        np.testing.assert_array_equal(layer.backward(x), training.backward(x))
    assert layer(x) is x


def test_contexts_nest_and_add_up():
    a, b, c = layers(3)
    with stochastic(a):
        with stochastic(b):
            assert active(a, b, c) == [True, True, False]
            with stochastic(a, c):
                assert active(a, b, c) == [True, True, True]
            assert active(a, b, c) == [True, True, False]
        assert active(a, b, c) == [True, False, False]
    assert active(a, b, c) == [False, False, False]


def test_a_context_can_be_entered_again_and_within_itself():
    (a,) = layers(1)
    context = stochastic(a)
    assert active(a) == [False], "made is not entered"
    for _ in range(2):
        with context:
            with context:
                assert active(a) == [True]
            assert active(a) == [True]
        assert active(a) == [False]


def test_contexts_may_be_left_in_any_order():
    a, b = layers(2)

    def within(layer):
        with stochastic(layer):
            yield

    first, second = within(a), within(b)
    next(first), next(second)
    first.close()
    assert active(a, b) == [False, True]
    second.close()
    assert active(a, b) == [False, False]


def test_a_context_that_is_left_elsewhere_or_twice_says_so():
    context = stochastic(*layers(1))
    message = "stochastic must be left in the thread or task that entered it"
    with pytest.raises(RuntimeError, match=message):
        context.__exit__(None, None, None)
    context.__enter__()
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=message):
        pool.submit(context.__exit__, None, None, None).result(PATIENCE)
    context.__exit__(None, None, None)


def test_an_exception_ends_a_context_and_goes_on():
    a, b = layers(2)
    error = KeyError("from within")
    with stochastic(a):
        with pytest.raises(KeyError) as caught, stochastic(b):
            raise error
        assert caught.value is error
        assert active(a, b) == [True, False]
    assert active(a, b) == [False, False]


def test_a_context_changes_neither_training_nor_always():
    training, always = Dropout(rng=1), Dropout(rng=2, always=True).eval()
    with stochastic(training, always):
        training.eval()
        assert active(training, always) == [True, True]
    assert active(training, always) == [False, True]
    assert (training.training, always.training, always.always) == (False, False, True)


def test_a_context_is_not_part_of_a_copy_or_a_state():
    (a,) = layers(1)
    with stochastic(a):
        again = Dropout()
        again.load_state_dict(a.state_dict())
        assert active(a, again.eval()) == [True, False]


def test_another_thread_is_not_in_the_context():
    (a,) = layers(1)
    inside, seen = threading.Event(), threading.Event()
    found = []

    def serve():
        assert inside.wait(PATIENCE)
        found.extend(active(a))
        seen.set()

    thread = threading.Thread(target=serve)  # begun outside, whatever a thread may inherit
    thread.start()
    with stochastic(a):
        inside.set()
        assert seen.wait(PATIENCE)
        assert active(a) == [True]
    thread.join(PATIENCE)
    assert found == [False]


def test_a_copied_context_takes_it_to_another_thread():
    (a,) = layers(1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(active, a).result(PATIENCE) == [False]
        with stochastic(a):
            context = contextvars.copy_context()
        assert pool.submit(context.run, active, a).result(PATIENCE) == [True]
        assert pool.submit(active, a).result(PATIENCE) == [False]
    assert active(a) == [False]


def test_each_task_has_its_own_context_and_gives_it_to_those_that_it_starts():
    a, b = layers(2)
    found = {}

    async def one(name, layer, turn, other_turn):
        with stochastic(layer):
            turn.set()
            await other_turn.wait()
            found[name] = active(a, b)
            found[name + "'s"] = await asyncio.create_task(child())

    async def child():
        return active(a, b)

    async def main():
        turns = asyncio.Event(), asyncio.Event()
        await asyncio.gather(one("first", a, turns[0], turns[1]), one("second", b, turns[1], turns[0]))
        found["outside"] = active(a, b)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert found == {
        "first": [True, False],
        "first's": [True, False],
        "second": [False, True],
        "second's": [False, True],
        "outside": [False, False],
    }


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((), ValueError),
        ((None,), TypeError),
        (([Dropout()],), TypeError),
        ((Dropout,), TypeError),
        ((Dropout(), fastdrop.dropout), TypeError),
    ],
    ids=["nothing", "None", "a list", "a class", "a function"],
)
def test_what_is_no_layer_is_refused(given, error):
    with pytest.raises(error, match="layers must be"):
        stochastic(*given)


# Moments


def outputs_of(values):
    """An f that gives these, one after the other."""
    rest = iter(values)
    return lambda x: next(rest)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int32, np.uint64, bool])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 0), (2, 3, 4)], ids=str)
def test_mean_and_variance_are_those_of_all_samples_in_float64(shape, dtype):
    for n in (1, 2, 3, 50):
        values = np.maximum(np.random.default_rng(1).standard_normal((n, *shape)) * 3 + 4, 0).astype(dtype)
        mean, variance, samples = mc_predict(outputs_of(values), None, n, return_samples=True)
        assert samples.dtype == values.dtype
        np.testing.assert_array_equal(samples, values)
        for got, expected in ((mean, values.astype(float).mean(0)), (variance, values.astype(float).var(0))):
            assert got.dtype == np.float64
            assert got.shape == shape
            # Both ways round each of n terms a few times: n * 2**-52 of values below 20, and their squares.
            np.testing.assert_allclose(got, expected, rtol=0, atol=400 * n * 2**-52)


def test_fields_have_names_and_samples_are_left_out_unless_asked_for():
    prediction = mc_predict(outputs_of([1.0, 4.0]), None, 2)
    assert prediction._fields == ("mean", "variance", "samples")
    assert prediction == (2.5, 2.25, None)
    assert (prediction.mean, prediction.variance, prediction.samples) == (2.5, 2.25, None)
    assert isinstance(prediction.mean, np.float64)


@pytest.mark.parametrize("number", [float, np.float32, np.float64, np.array, int], ids=lambda number: number.__name__)
def test_outputs_may_be_numbers(number):
    mean, variance, samples = mc_predict(outputs_of([number(1), number(2), number(6)]), None, 3, return_samples=True)
    assert (mean, variance, samples.tolist()) == (3.0, 14 / 3, [1, 2, 6])


def test_a_small_spread_of_large_numbers_is_not_lost():
    values = 1e9 + np.array([4.0, 7.0, 13.0, 16.0] * 250)
    mean, variance, _ = mc_predict(outputs_of(values), None, 1000)
    # The mean is near 2**30, so it cannot be told nearer than to 2**-23; a rounding of the mean by d changes the
    # variance by d * 2 * 6 a pass at most. The sum of squares less the square of sums would be off by hundreds.
    assert mean == pytest.approx(1e9 + 10, abs=1e-6)
    assert variance == pytest.approx(22.5, abs=1e-5)


def test_sums_that_float32_cannot_hold_are_right():
    values = np.full((300, 2), 3e38, np.float32)
    mean, variance, _ = mc_predict(outputs_of(values), None, 300)
    assert mean.tolist() == [float(values[0, 0])] * 2
    assert variance.tolist() == [0.0, 0.0]


def test_outputs_that_do_not_change_have_a_variance_of_exactly_0():
    y = np.array([0.1, 1e300, -7.3e-200])
    mean, variance, _ = mc_predict(lambda x: y, None, 77)
    assert mean.tobytes() == y.tobytes()
    assert variance.tobytes() == np.zeros(3).tobytes()


def test_an_output_that_is_not_finite_spoils_no_other_and_warns_not():
    values = np.ones((4, 4))
    values[1, 0], values[2, 1], values[0, 2] = np.nan, np.inf, -np.inf
    mean, variance, _ = mc_predict(outputs_of(values), None, 4)
    assert np.isfinite(mean).tolist() == np.isfinite(variance).tolist() == [False, False, False, True]
    assert (mean[3], variance[3]) == (1, 0)
    assert np.isnan(variance[:3]).all()


def test_an_f_that_reuses_its_memory_is_read_in_time():
    buffer = np.zeros(2)

    def f(x):
        buffer[:] += x
        return buffer

    mean, variance, samples = mc_predict(f, np.array([1.0, 2.0]), 3, return_samples=True)
    assert samples.tolist() == [[1, 2], [2, 4], [3, 6]]
    assert mean.tolist() == [2, 4]
    assert variance.tolist() == [2 / 3, 8 / 3]
    assert buffer.tolist() == [3, 6], "what f returned was not written to"


def test_what_is_returned_is_no_view_of_what_f_returns():
    y = np.zeros(3)
    mean, variance, samples = mc_predict(lambda x: y, None, 1, return_samples=True)
    y[:] = 9
    assert not mean.any()
    assert not variance.any()
    assert not samples.any()


def test_samples_take_the_dtype_that_holds_all_outputs():
    samples = mc_predict(outputs_of([1, np.float32(0.5), 2.5]), None, 3, return_samples=True).samples
    assert samples.dtype == np.float64
    assert samples.tolist() == [1, 0.5, 2.5]


def test_x_is_passed_as_it_is_and_f_is_called_n_times():
    x, seen = object(), []

    def f(given):
        seen.append(given)
        return 0.0

    mc_predict(f, x, 5)
    assert len(seen) == 5
    assert all(given is x for given in seen)


def test_memory_does_not_grow_with_n_unless_samples_are_wanted():
    y = np.ones(100_000, np.float32)

    def peak(n, **options):
        return helpers.peak_memory(lambda: mc_predict(lambda x: y, None, n, **options))

    assert peak(100) < peak(2) + y.nbytes
    assert peak(2) < 6 * 8 * y.size
    assert peak(100, return_samples=True) > 100 * y.nbytes


def test_the_moments_are_those_of_dropout():
    x = np.random.default_rng(2).standard_normal(2000)
    layer = Dropout(0.25, rng=8, always=True).eval()
    n = 4000
    mean, variance, _ = mc_predict(layer, x, n)
    # x * Bernoulli(0.75) / 0.75 has mean x and variance x**2 / 3. The sums over 2000 independent elements are normal
    # to good approximation; 6 standard errors are passed by chance in 2 of 10**9 seeds, and the seed is fixed.
    z = (mean - x) / np.abs(x) * np.sqrt(3 * n)
    assert abs(z.mean()) * np.sqrt(x.size) < 6
    assert abs((z**2).mean() - 1) * np.sqrt(x.size / 2) < 6
    ratio = variance / (x**2 / 3) * n / (n - 1)  # the unbiased estimate
    # Its variance: (kurtosis - 1) / n nearly, and a Bernoulli number with p has kurtosis 1 / (p (1 - p)) - 3.
    assert abs(ratio.mean() - 1) * np.sqrt(x.size * n / (1 / (0.75 * 0.25) - 4)) < 6


def test_passes_are_reproducible_and_draw_one_mask_each():
    x = np.ones(100)
    results = []
    for _ in range(2):
        a, b = Dropout(0.5, rng=1).eval(), Dropout(0.2, rng=2).eval()
        with stochastic(a, b):
            results.append(mc_predict(lambda x, a=a, b=b: b(a(x)), x, 20, return_samples=True))
        assert (a.rng.call, b.rng.call) == (20, 20)
    assert results[0].samples.tobytes() == results[1].samples.tobytes()
    assert results[0].variance.tobytes() == results[1].variance.tobytes()
    assert len({sample.tobytes() for sample in results[0].samples}) == 20


def test_without_a_stochastic_layer_all_passes_are_the_same_and_a_warning_says_so():
    layer, wrapper = Dropout(0.5, rng=1).eval(), DropoutWrapper(lambda x, state: (x, state), 0.5).eval()
    recurrent = RecurrentDropout(0.5).eval()
    for f in (
        layer,
        lambda x: fastdrop.alpha_dropout(x, 0.5, training=False),
        lambda x: wrapper(x, x)[0],
        lambda x: recurrent.draw(1, X.size, 5).input.apply(X[None]),
        lambda x: fastdrop.zoneout(x, x, 0.5, training=False),
    ):
        with pytest.warns(UserWarning, match=r"nothing was drawn.*stochastic.*always=True") as caught:
            assert not mc_predict(f, X, 5).variance.any()
        assert caught[0].filename == __file__
    with stochastic(layer):
        assert mc_predict(layer, X, 5).variance.any()


def test_passes_may_be_the_same_by_chance_or_for_want_of_dropout():
    rates = Dropout(0.5, rng=1), Dropout(0.5, rng=1).eval()
    assert not mc_predict(lambda x: rates[1](rates[0](x)) > 100, X, 5).variance.any()
    noise = np.random.default_rng(0)
    assert mc_predict(lambda x: rates[1](x) + noise.random(), X, 5).variance.any()
    assert not mc_predict(np.sin, X, 5).variance.any()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "pieces"),
    [
        ({"n": 0}, ValueError, ["n must be at least 1", "0"]),
        ({"n": -3}, ValueError, ["n must be at least 1", "-3"]),
        ({"n": 2.0}, TypeError, ["n must be an int", "2.0"]),
        ({"n": True}, TypeError, ["n must be an int", "True"]),
        ({"n": None}, TypeError, ["n must be an int", "None"]),
        ({"f": 3}, TypeError, ["f must be callable", "3"]),
        ({"return_samples": 1}, TypeError, ["return_samples must be True or False", "1"]),
        ({"progress": "yes"}, TypeError, ["progress must be True or False", "'yes'"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_refused_before_any_pass(arguments, error, pieces):
    calls = []
    given = {"f": calls.append, "x": 1.0, "n": 3} | arguments
    with pytest.raises(error) as caught:
        mc_predict(**given)
    assert all(piece in str(caught.value) for piece in pieces), caught.value
    assert not calls


@pytest.mark.parametrize(
    "shapes", [((3,), (4,)), ((3,), (3, 1)), ((3,), ()), ((), (1,)), ((2, 3), (3, 2)), ((3,), (1,))], ids=str
)
def test_an_output_of_another_shape_is_refused(shapes):
    with pytest.raises(ValueError, match=r"f must return the same shape.*pass 3") as caught:
        mc_predict(outputs_of([np.ones(shapes[0]), np.ones(shapes[0]), np.ones(shapes[1])]), None, 3)
    assert all(str(shape) in str(caught.value) for shape in shapes)


@pytest.mark.parametrize(
    "y",
    [
        None,
        "one",
        1j,
        np.ones(2, complex),
        np.ones(2, np.longdouble),
        [object()],
        [[1.0], [1.0, 2.0]],
        np.ones(2, "m8[s]"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("before", [0, 1], ids=["in the first pass", "in the second"])
def test_an_output_that_is_no_real_number_is_refused(before, y):
    if np.result_type(np.longdouble) == np.float64 and getattr(y, "dtype", None) == np.longdouble:
        pytest.skip("long double is float64 here")
    with pytest.raises(TypeError, match=r"f must return a real number"):
        mc_predict(outputs_of([*[np.ones(2)] * before, y]), None, 2)


def test_an_error_of_f_goes_on_as_it_is():
    error = ZeroDivisionError("in f")

    def f(x):
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        mc_predict(f, None, 3, progress=True)
    assert caught.value is error


def test_warnings_of_f_are_not_kept_quiet():
    def f(x):
        return np.ones(2) / np.zeros(2)

    with pytest.warns(RuntimeWarning, match="divide by zero"):
        mc_predict(f, None, 1)


# The progress bar


class Screen:
    """A stderr that remembers, and says whether it is a terminal."""

    def __init__(self, is_terminal):
        self.text = ""
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_bar_is_shown_on_a_terminal_when_asked_for_and_goes_away(monkeypatch):
    texts = {}
    for is_terminal in (True, False):
        for progress in (True, False):
            screen = Screen(is_terminal)
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stderr", screen)
                result = mc_predict(outputs_of([1.0, 3.0]), None, 2, progress=progress)
            assert result == (2.0, 1.0, None)
            texts[is_terminal, progress] = screen.text
    assert "pass 1 of 2" in texts[True, True]
    assert "50%" in texts[True, True]
    assert texts[True, True].endswith("\r\x1b[K")
    assert {texts[False, True], texts[True, False], texts[False, False]} == {""}


def test_a_bar_goes_away_when_f_fails(monkeypatch):
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(StopIteration):
        mc_predict(outputs_of([1.0]), None, 2, progress=True)
    assert "pass 1 of 2" in screen.text
    assert screen.text.endswith("\r\x1b[K")


# Seeded passes


WEIGHTS = np.random.default_rng(3).standard_normal((64, 5)).astype(np.float32)


def one_pass(x, stream):
    """At the top of the module, so that other processes find it."""
    return fastdrop.dropout(fastdrop.dropout(x, 0.5, rng=stream), 0.3, rng=stream) @ WEIGHTS


def a_pass_by_hand(k, seed=7):
    key = fastdrop.fold_in(PhiloxStream(seed).key, 0, k)
    once = fastdrop.DropoutMask(64, 0.5, key=key, call=0).apply(X)
    return fastdrop.DropoutMask(64, 0.3, key=key, call=1).apply(once) @ WEIGHTS


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("n", [1, 2, 63, 65, 200])
def test_a_seeded_pass_is_the_same_alone_and_among_many(n):
    samples = mc_predict(one_pass, X, n, rng=7, return_samples=True).samples
    for k in {0, n // 2, n - 1}:
        np.testing.assert_array_equal(samples[k], a_pass_by_hand(k))
        alone = mc_predict(one_pass, X, 1, rng=7, start=k, return_samples=True)
        np.testing.assert_array_equal(alone.samples[0], samples[k])
        np.testing.assert_array_equal(alone.mean, samples[k])
        np.testing.assert_array_equal(
            mc_predict(one_pass, X, n - k, rng=7, start=k, return_samples=True).samples, samples[k:]
        )


@pytest.mark.parametrize("n", [1, 3, 64, 65, 500, 1500])
def test_the_moments_of_batches_are_those_of_all_samples(n):
    mean, variance, samples = mc_predict(one_pass, X, n, rng=7, return_samples=True)
    exact = samples.astype(np.float64)
    assert len({sample.tobytes() for sample in samples}) == n
    # n sums, each rounded once, of numbers of this size.
    tolerance = n * np.finfo(np.float64).eps
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=0, atol=tolerance * abs(exact).max())
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=0, atol=tolerance * (exact**2).max())
    assert equal((mean, variance), mc_predict(one_pass, X, n, rng=7)[:2])


@pytest.mark.parametrize("offset", [1e8, -1e8])
def test_batches_lose_no_small_spread_of_large_numbers(offset):
    _, variance, samples = mc_predict(
        lambda x, s: one_pass(x, s).astype(np.float64) + offset, X, 400, rng=7, return_samples=True
    )
    np.testing.assert_allclose(variance, samples.var(axis=0), rtol=1e-6)  # of numbers with 8 digits before the point


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", [0, 1, 70, 129])
def test_what_is_not_finite_in_a_seeded_pass_has_no_variance_and_spoils_no_other(bad, where):
    count = itertools.count()

    def f(x, stream):
        return np.array([bad if next(count) == where else 1.0, stream.key % 2])

    mean, variance, _ = mc_predict(f, X, 130, rng=7)
    assert not np.isfinite(mean[0])
    assert np.isnan(variance[0])
    assert 0.2 < variance[1] < 0.26  # of zeros and ones


@pytest.mark.parametrize("workers", [1, 2, 5], ids=lambda n: f"{n} threads")
def test_any_number_of_threads_predicts_the_same_bits(workers):
    expected = mc_predict(one_pass, X, 150, rng=7, return_samples=True)
    assert equal(mc_predict(one_pass, X, 150, rng=7, workers=workers, return_samples=True), expected)


def test_executors_of_threads_and_processes_predict_the_same_bits():
    expected = mc_predict(one_pass, X, 150, rng=7, return_samples=True)
    with ThreadPoolExecutor(3) as pool:
        assert equal(mc_predict(one_pass, X, 150, rng=7, workers=pool, return_samples=True), expected)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert equal(mc_predict(one_pass, X, 150, rng=7, workers=pool, return_samples=True), expected)


def test_passes_do_run_side_by_side():
    barrier = threading.Barrier(2, timeout=PATIENCE)

    def f(x, stream):
        barrier.wait()
        return x[0]

    assert mc_predict(f, X, 2, rng=7, workers=2).mean == 1.0


def test_what_is_done_does_not_run_far_ahead_of_what_is_merged():
    pool = Lazy()
    expected = mc_predict(one_pass, X, 3000, rng=7)
    assert equal(mc_predict(one_pass, X, 3000, rng=7, workers=pool)[:2], expected[:2])
    assert 1 < pool.most <= 64


class Lazy:
    """An executor that works when it is asked for a result, and counts who waits."""

    def __init__(self):
        self.waiting = self.most = 0

    def submit(self, function, *arguments):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return Later(self, function, arguments)


class Later:
    def __init__(self, pool, function, arguments):
        self.pool, self.work = pool, lambda: function(*arguments)
        self.is_cancelled = False

    def result(self):
        self.pool.waiting -= 1
        return self.work()

    def cancel(self):
        self.is_cancelled = True
        self.pool.waiting -= 1


@pytest.mark.parametrize("workers", [1, 2, Lazy()], ids=["1", "2", "executor"])
def test_an_error_of_a_seeded_pass_goes_on_and_nothing_is_left_waiting(workers):
    def f(x, stream):
        if stream.key == fastdrop.fold_in(PhiloxStream(7).key, 0, 70):
            raise ZeroDivisionError("pass 70")
        return x

    with pytest.raises(ZeroDivisionError, match="pass 70"):
        mc_predict(f, X, 3000, rng=7, workers=workers)
    if isinstance(workers, Lazy):
        assert workers.waiting == 0


@pytest.mark.parametrize(
    "kind", [int, np.random.SeedSequence, PhiloxStream, np.random.default_rng], ids=lambda k: k.__name__
)
def test_every_form_of_rng_seeds_the_passes(kind):
    first = mc_predict(one_pass, X, 20, rng=kind(7))
    assert equal(mc_predict(one_pass, X, 20, rng=kind(7))[:2], first[:2])
    assert not equal(mc_predict(one_pass, X, 20, rng=kind(8))[:2], first[:2])


def test_two_predictions_of_one_stream_differ():
    stream = PhiloxStream(7)
    first, second = (mc_predict(one_pass, X, 20, rng=stream) for _ in range(2))
    assert stream.call == 2
    assert not equal(first[:2], second[:2])


@pytest.mark.parametrize("workers", [1, 3])
def test_layers_draw_from_the_stream_of_the_pass_in_any_thread(workers):
    a, b = Dropout(0.5, rng=1).eval(), Dropout(0.3, rng=2).eval()

    def f(x, stream):
        with stochastic(a, b, rng=stream):
            return b(a(x)) @ WEIGHTS

    assert equal(mc_predict(f, X, 150, rng=7, workers=workers), mc_predict(one_pass, X, 150, rng=7))
    assert (a.rng.call, b.rng.call) == (0, 0)


def test_the_innermost_context_with_a_stream_gives_it():
    a, b = layers(2)
    with stochastic(a, b, rng=5), stochastic(a, rng=6), stochastic(a, b):
        for layer, seed in ((a, 6), (b, 5)):
            layer(X)
            assert layer.mask.key == PhiloxStream(seed).key
    with stochastic(a, rng=None):
        a(X)
        assert a.mask.key == a.rng.key
    assert (a.rng.call, b.rng.call) == (1, 0)


@pytest.mark.parametrize("variational", [False, True])
def test_wrappers_and_gate_masks_draw_from_it_too(variational):
    def cell(x, state):
        return x + state, state

    wrapper = DropoutWrapper(cell, 0.5, 0.5, 0.5, rng=1, variational_recurrent=variational).eval()
    gates = RecurrentDropout(0.5, rng=2).eval()
    x = np.ones((2, 8), np.float32)
    with stochastic(wrapper, gates, rng=9) as _:
        for _ in range(2):
            wrapper(x, x)
            assert {mask.key for mask in (wrapper.masks.input, wrapper.masks.state, wrapper.masks.output)} == {
                PhiloxStream(9).key
            }
        assert gates.draw(batch=2, features=3, units=4).input.key == PhiloxStream(9).key
    assert (wrapper.rng.call, gates.rng.call) == (0, 0)


def test_threads_run_in_the_contexts_of_the_caller():
    (layer,) = layers(1)
    with stochastic(layer):
        result = mc_predict(lambda x, stream: layer(x).sum(), X, 200, rng=7, workers=2)
    assert result.variance > 0


def test_seeded_passes_without_dropout_are_noticed_wherever_they_ran():
    (layer,) = layers(1)
    for workers in (1, 2):
        with pytest.warns(UserWarning, match="nothing was drawn"):
            mc_predict(lambda x, stream: layer(x), X, 5, rng=7, workers=workers)


@pytest.mark.parametrize(
    ("arguments", "error", "pieces"),
    [
        ({"rng": -1}, ValueError, ["rng must be at least 0"]),
        ({"rng": 1.5}, TypeError, ["rng must be"]),
        ({"rng": 1, "start": -1}, ValueError, ["start must be from 0"]),
        ({"rng": 1, "start": 1.0}, TypeError, ["start must be an int"]),
        ({"rng": 1, "workers": 0}, ValueError, ["workers must be at least 1"]),
        ({"rng": 1, "workers": True}, TypeError, ["workers must be an int"]),
        ({"rng": 1, "workers": "all"}, TypeError, ["workers must be an int", "'all'"]),
        ({"workers": 2}, ValueError, ["workers needs an rng"]),
        ({"workers": Lazy()}, ValueError, ["workers needs an rng"]),
        ({"start": 3}, ValueError, ["start needs an rng"]),
    ],
    ids=str,
)
def test_a_bad_argument_of_seeded_passes_is_refused_before_any(arguments, error, pieces):
    calls, stream = [], PhiloxStream(1)
    given = {"f": lambda *a: calls.append(a), "x": 1.0, "n": 3} | arguments
    with pytest.raises(error) as caught:
        mc_predict(**given)
    assert all(piece in str(caught.value) for piece in pieces), caught.value
    if arguments.get("rng") == 1:
        with pytest.raises(error):
            mc_predict(**(given | {"rng": stream}))
    assert (calls, stream.call) == ([], 0)
