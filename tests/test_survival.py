# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong around a call leaves arrays, streams and the process in order.

Signals at random moments, handlers that call back, arrays that lie, sources that do more than draw, no memory, and
objects that no constructor has made.
"""

import itertools
import pickle
import signal
import subprocess
import sys

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import AlphaMask, DropoutMask, GateMasks, GaussianMask, PhiloxStream

PATIENCE = 120  # seconds until a program that hangs is given up: longer than any takes on a loaded machine

needs_core = pytest.mark.skipif(helpers.compiled() is None, reason="fastdrop was built without its compiled core")
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no timers of intervals")


def run_script(code):
    """A program's output, run on what the environment chooses. It shows where it is if it hangs."""
    # The exit of a forked child would wait for faulthandler's thread, which it does not have: children call os._exit(),
    # or cancel it in time.
    head = f"import faulthandler; faulthandler.dump_traceback_later({PATIENCE - 20}, exit=True)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + code],
        env=helpers.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Signals

COMMON = """
import os, pickle, random, signal, sys, time
import numpy as np
import fastdrop
import helpers

fastdrop.set_num_threads(3)
n = 1 << 20
x, out, added = (np.ones(n, np.float32) for _ in range(3))
strided, strided_out = np.ones((1024, 2048), np.float32)[:, ::2], np.ones((1024, 1024), np.float32)
some, some_out = np.ones(n // 8, np.float32), np.empty(n // 8, np.float32)
mask = fastdrop.DropoutMask(n, 0.1, key=1)
expected = fastdrop.dropout(x, 0.1, rng=5)
calls = [
    lambda: fastdrop.dropout(x, 0.1, rng=5, out=out),
    lambda: fastdrop.dropout(strided, 0.1, rng=5, out=strided_out),
    lambda: fastdrop.dropout(strided, 0.5, noise_shape=(1024, 1), rng=5, out=strided_out),
    lambda: fastdrop.dropout_add(x, added, 0.1, rng=5, out=out),
    lambda: mask.apply(x, out),
    lambda: np.asarray(mask),
    lambda: fastdrop.dropout(some, 0.1, rng=5, out=some_out),
]
more_threads = iter(range(4, 33))

def start_a_thread():  # in the next call that is shared, until there are as many as chunks
    fastdrop.set_num_threads(next(more_threads, 3))
"""


@needs_timers
def test_after_an_exception_of_a_handler_no_element_changes_and_calls_work():
    """Signals come once or again and again, while threads start, in calls, and while these end."""
    code = """
is_armed = False

def interrupt(*_):
    if is_armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
until = time.monotonic() + 4
while time.monotonic() < until:
    call = random.choice(calls)
    if random.random() < 0.3:
        start_a_thread()
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-3), random.choice([0, 2e-5, 1e-4]))
        for _ in range(3):
            call()
        is_armed = False
    except KeyboardInterrupt:
        is_armed = False
        interrupted += 1
        before = out.tobytes(), strided_out.tobytes(), some_out.tobytes()
        time.sleep(0.001)
        assert before == (out.tobytes(), strided_out.tobytes(), some_out.tobytes())
    signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupted > 0
assert np.array_equal(fastdrop.dropout(x, 0.1, rng=5), expected)
print("done")
"""
    assert run_script(COMMON + code) == "done\n"


@needs_timers
def test_ctrl_c_ends_the_process_whether_threads_start_or_work():
    code = """
faulthandler.cancel_dump_traceback_later()
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
# What a shell runs in the background ignores Ctrl+C, and so does all that is started there: Python leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in range(30):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(60, exit=True)  # nobody else would end it
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-3))
            while True:
                random.choice(calls)()
        except KeyboardInterrupt:
            sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("done")
"""
    assert run_script(COMMON + code) == "done\n"


@needs_timers
def test_a_handler_may_call_spawn_pickle_draw_and_fork_in_the_middle_of_all_of_these():
    code = """
stream, fresh = fastdrop.PhiloxStream(7), fastdrop.PhiloxStream.from_key(3)
layer = fastdrop.Dropout(0.5, rng=stream)
keys, draws, fresh_keys = [], [], []

def fork():
    child = os.fork()
    if child == 0:
        stream.spawn(1), stream.next_draw(), fastdrop.dropout(x, 0.1), pickle.dumps(stream)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

deeds = [
    lambda: keys.extend(child.key for child in stream.spawn(2)),
    lambda: fresh_keys.extend(child.key for child in fresh.spawn(1)),
    lambda: (pickle.dumps(stream), pickle.dumps(layer), layer.state_dict()),
    lambda: np.array_equal(fastdrop.dropout(x, 0.1, rng=5), expected) or os._exit(1),
    lambda: draws.append(stream.next_draw()),
    fork,
]
signal.signal(signal.SIGALRM, lambda *_: random.choice(deeds)())
until = time.monotonic() + 4
while time.monotonic() < until:
    for longest, deed in ((3e-4, deeds[0]), (1e-4, deeds[1]), (2e-3, deeds[3])):
        fresh, fresh_keys[:] = fastdrop.PhiloxStream.from_key(random.getrandbits(60)), []
        if random.random() < 0.2:
            start_a_thread()
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
        for _ in range(3):
            deed()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(set(fresh_keys)) == len(fresh_keys)
assert len(set(keys)) == len(keys)
assert len(set(draws)) == len(draws)
print("done")
"""
    assert run_script(COMMON + code) == "done\n"


@needs_timers
@needs_core
def test_a_child_that_was_forked_in_the_middle_of_a_call_does_not_wait_for_threads_that_it_lacks():
    """It has the whole result: the handler that forks runs when no thread is at work."""
    code = """
parent = os.getpid()
children = []

def fork(*_):
    child = os.fork()
    if child != 0:
        children.append(child)

signal.signal(signal.SIGALRM, fork)
for _ in range(30):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
    for _ in range(4):
        same = np.array_equal(fastdrop.dropout(x, 0.1, rng=5), expected)
    if os.getpid() != parent:
        os._exit(7 if same else 1)
    assert same
    signal.setitimer(signal.ITIMER_REAL, 0)
assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {7}
print("done")
"""
    assert run_script(COMMON + code) == "done\n"


# Arrays that lie


class Lying(np.ndarray):
    """An array that says something else of itself than what it is."""

    @property
    def shape(self):
        return (3,)

    @property
    def size(self):
        return 1 << 21

    @property
    def nbytes(self):
        return 1 << 40

    @property
    def ndim(self):
        return 1

    @property
    def strides(self):
        return (0,)

    @property
    def dtype(self):
        return np.dtype(np.float64)

    @property
    def flags(self):
        return None


class Answering(np.ndarray):
    """An array whose copy is what is set here."""

    answer = None

    def copy(self, order="C"):
        return self.answer


class Failing(np.ndarray):
    def __array_finalize__(self, other):
        if other is not None:
            raise ZeroDivisionError


def one_of_a_class(function, kind):
    """Arrays for a function, the first of them of a subclass, and what is wrong with them before all else."""
    arrays = function.arrays()
    arrays[0] = np.ndarray.__new__(kind, arrays[0].shape, np.float32)
    return arrays, "must be a plain ndarray" if len(arrays) > 1 else None


def test_what_an_array_says_of_itself_is_not_believed(function, either):
    arrays = function.arrays()
    expected, mask = function(*arrays, 0.4, rng=3, return_mask=True)
    for i, array in enumerate(arrays):
        x = array.copy().view(Lying)
        some = [*arrays[:i], x, *arrays[i + 1 :]]
        if len(arrays) > 1:
            with pytest.raises(TypeError, match="must be a plain ndarray"):
                function(*some, 0.4, rng=3)
            continue
        y, same = function(*some, 0.4, rng=3, return_mask=True)
        np.testing.assert_array_equal(y.view(np.ndarray), expected)
        assert same == mask
        assert function(x, 0.4, rng=3, out=x) is x
        np.testing.assert_array_equal(x.view(np.ndarray), expected)


ANSWERS = {
    "short": np.zeros(3, np.float32).view(Answering),
    "wide": np.zeros((7, 5, 9, 2)).view(Answering),
    "another class": np.zeros((7, 5, 9), np.float32),
    "None": None,
    "str": "x",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_copy_of_another_kind_is_refused_before_a_draw(answer, function, either):
    arrays, wrong = one_of_a_class(function, Answering)
    stream = PhiloxStream(3)
    for given in (answer, arrays[0]):
        arrays[0].answer = given
        with pytest.raises(TypeError, match=wrong or "the copy of a Answering must be another one with memory of its"):
            function(*arrays, 0.4, rng=stream)
    assert stream.call == 0


def test_an_error_of_the_subclass_comes_before_a_draw(function, either):
    arrays, wrong = one_of_a_class(function, Failing)
    stream = PhiloxStream(3)
    with pytest.raises(TypeError if wrong else ZeroDivisionError, match=wrong):
        function(*arrays, 0.4, rng=stream)
    assert stream.call == 0


class Resizing(np.random.Generator):
    """A generator that makes an array larger or smaller while it is drawn from."""

    array, size = None, 0

    def integers(self, *args, **options):
        self.array.resize(self.size, refcheck=False)
        return super().integers(*args, **options)


@pytest.mark.parametrize("size", [3, 200_000])
def test_an_array_that_a_source_resizes_is_refused(size, function, either):
    for which in range(len(function.operands) + 1):
        arrays = function.arrays()
        out = np.empty(function.shape, np.float32)
        rng = Resizing(np.random.PCG64(1))
        rng.array, rng.size = [*arrays, out][which], size
        if which < len(function.operands) and function.operands[which] == "bias":
            continue  # of which there is a copy
        with pytest.raises(ValueError, match=r"rng has changed the shape of an array"):
            function(*arrays, 0.4, rng=rng, out=out)


# No memory


@pytest.fixture
def no_memory(monkeypatch):
    """Every array that NumPy is asked for fails, from the n-th on."""

    def fail_from(n):
        asked = itertools.count()
        for name in ("empty", "empty_like", "zeros_like"):
            real = getattr(np, name)

            def failing(*args, real=real, **options):
                if next(asked) >= n:
                    raise MemoryError(n)
                return real(*args, **options)

            monkeypatch.setattr(np, name, failing)

    return fail_from


def test_without_memory_for_the_result_no_stream_moves(function, no_memory, either):
    arrays, stream = [array[::-1] for array in function.arrays()], PhiloxStream(3)  # which are not plain
    no_memory(function.name == "bias_dropout_add")
    with pytest.raises(MemoryError):
        function(*arrays, 0.4, rng=stream)
    assert stream.call == 0


LAYERS = [
    fastdrop.Dropout,
    fastdrop.DropConnect,
    fastdrop.DropPath,
    fastdrop.AlphaDropout,
    fastdrop.GaussianDropout,
    fastdrop.GaussianNoise,
]


@pytest.mark.parametrize("kind", LAYERS, ids=[kind.__name__ for kind in LAYERS])
def test_without_memory_no_layer_moves_its_stream(kind, no_memory, either):
    layer = kind(0.4, rng=3)
    x = np.ones((4, 5), np.float32)[::-1]
    no_memory(0)
    with pytest.raises(MemoryError):
        layer(x)
    assert layer.rng.call == 0


def test_without_memory_for_recurrent_masks_the_stream_does_not_move(either):
    for at in ((1 << 30, 1 << 30, 1), (1, 1, 1 << 30), (1 << 20, 1, 1 << 30)):
        dropout = fastdrop.RecurrentDropout(0.5, 0.5, gates=1 << 20, rng=3)
        with pytest.raises((MemoryError, ValueError)):
            dropout.draw(*at)
        assert dropout.rng.call == 0


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("n", range(6))
def test_a_step_of_nested_wrappers_that_fails_anywhere_moves_no_stream(n, variational, either):
    def make():
        stream = PhiloxStream(3)
        inner = fastdrop.DropoutWrapper(lambda x, h: (x + h, x - h), 0.5, 0.5, 0.5, variational, rng=stream)
        return fastdrop.DropoutWrapper(inner, 0.5, 0.5, 0.5, variational, rng=stream)

    x, h = np.ones((4, 5), np.float32), np.ones((4, 5), np.float32)
    expected = make()(x, h)
    wrapper = make()
    before = wrapper.state_dict()
    with pytest.MonkeyPatch.context() as patch:
        results = itertools.count()
        real = np.empty_like

        def failing(*args, **options):
            if next(results) == n:
                raise MemoryError
            return real(*args, **options)

        patch.setattr(np, "empty_like", failing)
        patch.setattr(fastdrop.DropoutMask, "apply", helpers.apply_without_plain_calls)
        with pytest.raises(MemoryError):
            wrapper(x, h)
    assert wrapper.state_dict() == before
    assert wrapper.masks is wrapper.cell.masks is None
    for got, want in zip(wrapper(x, h), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited on Linux")
def test_without_memory_for_a_copy_of_what_overlaps_no_stream_moves():
    code = """
import resource
import numpy as np
import fastdrop

n = 1 << 24
memory = np.ones(n + 1000, np.float32)
x, out, other = memory[:n], memory[1000:], np.ones(n, np.float32)
stream = fastdrop.PhiloxStream(3)
fastdrop.dropout_add(x[:10], x[:10], 0.4, rng=7, out=out[:10])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
for call in (
    lambda: fastdrop.dropout(x, 0.4, rng=stream, out=out),
    lambda: fastdrop.dropout(x, 0.0, rng=stream, out=out),
    lambda: fastdrop.dropout_add(other, x, 0.4, rng=stream, out=out),
    lambda: fastdrop.alpha_dropout(x, 0.4, rng=stream, out=out),
    lambda: fastdrop.gaussian_noise(x, 0.4, rng=stream, out=out),
    lambda: fastdrop.dropout(x, 0.4, rng=stream),
):
    try:
        call()
    except MemoryError:
        print(stream.call)
"""
    assert run_script(code) == "0\n" * 6


# Objects that nobody has made


MASKS = (DropoutMask, AlphaMask, GaussianMask, fastdrop.BlockMask)
WRONG_STATES = [
    ((9,), None, 0, None, None, (0.5, 0.5, 2.0, b"\xff")),  # fewer bits than elements
    ((3,), (9,), 0, None, None, (0.5, 0.5, 2.0, b"\xff")),
    ((3,), None, 7, None, None, (0.5, 0.5, 2.0, b"\xff")),
    ((3,), None, -1, 1, 2, 0.5),
    ((3,), None, 1 << 63, 1, 2, 0.5),
    ((3,), None, "0", 1, 2, 0.5),
    ((3,), (-1,), 0, 1, 2, 0.5),
    ((3,), (1, 1), 0, 1, 2, 0.5),
    ((3,), ("1",), 0, 1, 2, 0.5),
    ((3,), 1, 0, 1, 2, 0.5),
    ((3,), (1 << 62,), 0, 1, 2, 0.5),
    ((1 << 62, 4), None, 0, 1, 2, 0.5),
    ((-3,), None, 0, 1, 2, 0.5),
    ("ab", None, 0, 1, 2, 0.5),
    (None, None, 0, 1, 2, 0.5),
    ((3,), None, 0, -1, 2, 0.5),
    ((3,), None, 0, 1 << 64, 2, 0.5),
    ((3,), None, 0, "1", 2, 0.5),
    ((3,), None, 0, 1, -5, 0.5),
    ((3,), None, 0, 1, 1 << 56, 0.5),
    ((3,), None, 0, 1, None, 0.5),
    ((3,), None, 0, None, None, 0.5),
    ((3,), None, 0, 1, 2, (0.5, 0.5, 2.0, b"\xff")),
    ((3,), None, 0, None, None, (0.5, 0.5, 2.0, [255])),
    ((3,), None, 0, 1, 2, 1.5),
    ((3,), None, 0, 1, 2, float("nan")),
    ((3,), None, 0, 1, 2, (0.5, 0.5, float("inf"), None)),
    ((3,), None, 0, 1, 2, (0.5, 2.0, 2.0, None)),
    ((3,), None, 0, 1, 2, (0.5, 0.0, 2.0, None)),
    ((3,), None, 0, 1, 2, (0.5, 2.0)),
    ((3,), None, 0, 1, 2, None),
    ((3,), None, 0, 1, 2, 0.5, int),
    ((3,), None, 0, 1, 2, 0.5, None),
    ((3,), None, 0, 1, 2, (-0.5, False), GaussianMask),
    ((3,), None, 0, 1, 2, (0.5, 1), GaussianMask),
    ((3,), None, 0, 1, 2, 0.5, GaussianMask),
]


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("state", WRONG_STATES, ids=str)
def test_a_wrong_state_of_a_mask_is_refused(state):
    restore = DropoutMask(3, 0.5, key=1).__reduce__()[0]
    kinds = (*MASKS[:2],) if len(state) == 6 else ()
    for arguments in (state, *((*state, kind) for kind in kinds)):
        with pytest.raises((TypeError, ValueError)):
            pickle.loads(pickle.dumps(Reduced(restore, arguments)))


@pytest.mark.parametrize("key", [-1, 1 << 64, "1", None])
@pytest.mark.parametrize("call", [0, -5, (1 << 56) + 1, "1", None])
@pytest.mark.parametrize("seed", [None, 5, "seed"])
def test_a_wrong_state_of_a_stream_is_refused(key, call, seed):
    restore, (kind, *_) = PhiloxStream(3).__reduce__()
    for arguments in ((kind, key, 0, None), (kind, 1, -5, None), (kind, key, call, seed), (int, 1, 1, None)):
        with pytest.raises((TypeError, ValueError)):
            pickle.loads(pickle.dumps(Reduced(restore, arguments)))


@pytest.mark.parametrize("at", range(7))
@pytest.mark.parametrize("wrong", [-1, 1 << 70, "1", None, float("nan")])
def test_a_wrong_state_of_recurrent_masks_is_refused(at, wrong):
    kind, numbers = GateMasks(4, 2, 3, True, 0.5, 1, 0).__reduce__()
    with pytest.raises((TypeError, ValueError, MemoryError)):
        pickle.loads(pickle.dumps(Reduced(kind, (*numbers[:at], wrong, *numbers[at + 1 :]))))


VALUES = (None, (), (5,), (-1,), "a", -1, 5, 1 << 63, 1 << 70, 1.5, float("nan"), b"", b"\xff", np.ones(5, np.float32))
ARGUMENTS = ((), *((value,) for value in VALUES), *itertools.product(VALUES, repeat=2))


def test_objects_without_their_fields_and_wrong_arguments_of_private_methods_crash_nothing():
    """In a process of its own, as a crash would be the end of all tests."""
    code = """
import numpy as np
import fastdrop
import test_survival
import helpers

ALLOWED = TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, IndexError, NotImplementedError
x = np.ones(5, np.float32)
for kind in (*test_survival.MASKS, fastdrop.PhiloxStream, *helpers.kinds_of_state()):
    for name in dir(kind):
        if name in ("__new__", "__class__", "__init_subclass__", "__subclasshook__"):
            continue
        for arguments in test_survival.ARGUMENTS:
            thing = kind.__new__(kind)
            try:
                found = getattr(thing, name)
                found(*arguments)
                thing.apply(x), np.asarray(thing)
            except ALLOWED:
                pass
for kind in test_survival.MASKS:
    for wrong in test_survival.VALUES:
        try:
            kind.apply(wrong, x)
        except ALLOWED:
            pass
print("done")
"""
    assert run_script(code) == "done\n"


@needs_core
@pytest.mark.parametrize("wrong", ["nope", "", None, 5])
def test_kernels_that_are_not_there_cannot_be_made(wrong):
    with pytest.raises((TypeError, ValueError)):
        helpers.compiled().Kernels(wrong)


@needs_core
def test_kernels_refuse_what_is_not_as_their_callers_should_have_it(compiled):
    """What each would be a wild read or write."""
    x, bias = np.ones(640, np.float32), np.ones(64, np.float32)
    good = {"x": x, "out": np.empty_like(x), "start": 0, "stop": 640, "key": 1, "call": 0, "threshold": 1 << 31}
    good |= {"scale": 2.0, "op": helpers.Operation.BIAS_DROPOUT_ADD, "other": x, "bias": bias}
    compiled.apply(**good)
    ones = np.ones(80, np.uint8)
    wrong = [
        *({"x": a} for a in (None, [1.0], x[:639], x.astype("i4"), x.astype("i2"), x.astype("c8"), x.reshape(2, 320))),
        *({"out": a} for a in (None, x[:639].copy(), np.empty(640, "i4"), np.empty((640, 1), "f4"))),
        *({"other": a} for a in (None, x[:639], x.astype("c8"), x.reshape(640, 1))),
        *({"bias": a} for a in (None, bias[:31], bias.astype("f8"), bias[::2], bias.astype(">f4"), bias.astype("f2"))),
        *({"stop": n} for n in (641, 1 << 62)),
        *({"start": n, "stop": 640} for n in (-1, 641)),
        *({"call": n} for n in (-1, 1 << 56)),
        *({"threshold": n} for n in (-1, (1 << 32) + 1)),
        *({"op": n} for n in (-1, 9, 1 << 20)),
        *({"offset": n} for n in (-1, (1 << 63) - 600, 1 << 63)),
        *({"bits": b} for b in (ones[:79], ones[:0], ones.astype("i8"), ones[::2], "bits")),
        {"bits": ones, "offset": 1},
        {"bits": ones, "offset": -1},
        {"bits": ones, "op": helpers.Operation.GAUSSIAN_NOISE},
        *(
            {"dims": d}
            for d in (((640, -1),), ((0, 1), (640, 1)), ((-640, 1), (-1, 1)), ((639, 1),), ((640, 1 << 60),))
        ),
        *({"dims": d} for d in (((1 << 32, 0), (1 << 32, 0), (640, 1)), ((1, 1),) * 65, ((640,),), 5)),
        {"dims": ((640, 2),), "bits": ones},
    ]
    for change in wrong:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            compiled.apply(**{**good, **change})
    for n in (1 << 64) - 1, (1 << 64) - 7, 1 << 63, -1:
        with pytest.raises((MemoryError, ValueError, OverflowError)):
            compiled.keep_bits(n, 1, 0, 1 << 31)
    for rounds in (-1, 11):
        with pytest.raises(ValueError, match=str(rounds)):
            compiled.philox((0,) * 4, (0,) * 2, rounds)
