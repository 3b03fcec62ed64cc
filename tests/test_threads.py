# SPDX-License-Identifier: BSD-3-Clause
"""Threads change how long a call takes and nothing else, whoever calls, forks, fails or ends meanwhile."""

import contextlib
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

PATIENCE = 60  # seconds until a test that hangs is given up: longer than anything here takes on a loaded machine

needs_core = pytest.mark.skipif(helpers.compiled() is None, reason="fastdrop was built without its compiled core")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.fixture
def small_chunks(monkeypatch):
    """Arrays of a few thousand elements are split, into chunks that end neither at rows nor at one another's tiles."""
    helpers.share_from(monkeypatch, size=4096, chunk=2048)


@pytest.fixture
def settings():
    """The number of threads is put back."""
    before = fastdrop.get_num_threads()
    yield
    fastdrop.set_num_threads(before)


def run_script(tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join(map(str, (helpers.PACKAGE.parent, helpers.TESTS)))
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def meet(parties):
    """Work for `share` that goes on only when as many threads as told are in it at the same time."""
    barrier = threading.Barrier(parties)
    workers = set()

    def work(start, stop):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            barrier.wait(PATIENCE)

    return work, workers


# The same result


LAYOUTS = {
    "contiguous": lambda a: a,
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_any_number_of_threads_gives_the_same_result(dtype, layout, implementation, small_chunks):
    x = LAYOUTS[layout](np.random.default_rng(0).standard_normal((101, 211)).astype(dtype))
    for noise_shape in (None, (101, 1), (1, 211)):
        results = set()
        for threads in (1, 2, 3, 8):
            with fastdrop.num_threads(threads):
                y, mask = fastdrop.dropout(x, 0.1, rng=5, noise_shape=noise_shape, return_mask=True)
                backward = mask.apply(x)
                in_place = x.copy()
                fastdrop.dropout(in_place, 0.1, rng=5, noise_shape=noise_shape, out=in_place)
                keep = np.asarray(mask)
                results.add((y.tobytes(), backward.tobytes(), in_place.astype(dtype).tobytes(), keep.tobytes()))
        assert len(results) == 1
        np.testing.assert_array_equal(keep, np.asarray(mask[:50]).tolist() + np.asarray(mask[50:]).tolist())


def test_the_result_is_the_same_at_the_sizes_where_threads_set_in(implementation):
    stream = PhiloxStream(5)
    for size in (helpers.MIN_SHARED - 1, helpers.MIN_SHARED, helpers.MIN_SHARED + 1, 19 * helpers.MIN_CHUNK + 77):
        x = np.ones(size, np.float32)
        results = []
        for threads in (1, 4):
            with fastdrop.num_threads(threads):
                results.append(fastdrop.dropout(x, 0.1, rng=PhiloxStream.from_key(stream.key, call=size)))
        np.testing.assert_array_equal(*results)
        np.testing.assert_array_equal(results[0] != 0, DropoutMask(size, 0.1, key=stream.key, call=size))


@pytest.mark.parametrize("shift", [-300, -1, 1, 300, 2048])
def test_an_out_that_overlaps_x_is_right_with_any_number_of_threads(shift, implementation, small_chunks):
    n = 20000
    expected = fastdrop.dropout(np.arange(1.0, n + 1), 0.3, rng=5)
    with fastdrop.num_threads(4):
        buffer = np.zeros(n + 2 * 2048)
        x, out = buffer[2048 : 2048 + n], buffer[2048 + shift :][:n]
        x[...] = np.arange(1.0, n + 1)
        fastdrop.dropout(x, 0.3, rng=5, out=out)
    np.testing.assert_array_equal(out, expected)


# x and out of two million elements, which threads share, and which kernels cannot take as they are. In terms of the
# program below.
LARGE_PAIRS = {
    "a wider out": "x, np.zeros(n)",
    "a narrower x in the memory of out": "inside(4), memory.view(np.float64)[:n]",
    "byte-swapped": "(swapped := x.astype(x.dtype.newbyteorder())), np.zeros(n, swapped.dtype)",
    "byte-swapped, in place": "(swapped := x.astype(x.dtype.newbyteorder())), swapped",
    "byte-swapped out": "x, np.zeros(n, x.dtype.newbyteorder())",
    "every second of x": "np.repeat(x, 2)[::2], np.zeros(n, np.float32)",
    "every second of out": "x, np.zeros(2 * n, np.float32)[::2]",
    "backwards": "x[::-1], np.zeros(n, np.float32)",
    "transposed": "x.reshape(side, side).T, np.zeros((side, side), np.float32)",
    "unaligned": "inside(1), np.zeros(4 * n + 3, np.uint8)[3:].view(np.float32)",
    "unaligned x": "inside(1), np.zeros(n, np.float32)",
    "unaligned out": "x, np.zeros(4 * n + 1, np.uint8)[1:].view(np.float32)",
    "out in x's memory, a byte further": "inside(0), memory[1 : 4 * n + 1].view(np.float32)",
    "out in x's memory, with other strides": "(square := inside(0).reshape(side, side)), square.T",
    "out every second of x's memory": "inside(0), memory[: 8 * n].view(np.float32)[::2]",
}


def test_large_arrays_that_are_not_plain_are_right_and_no_thread_waits_for_ever(implementation, tmp_path):
    """In a process of its own, which says where it is and ends itself if it hangs."""
    code = f"""
import faulthandler, sys
import numpy as np
import helpers
import fastdrop
side = 1450
n = side * side
assert n > helpers.MIN_SHARED
memory = np.zeros(8 * n + 8, np.uint8)
x = np.arange(1, n + 1, dtype=np.float32)

def inside(at):
    view = memory[at : at + 4 * n].view(np.float32)
    view[...] = x
    return view

def alone(x):
    with fastdrop.num_threads(1):
        return fastdrop.dropout(np.array(x, np.float32, order="C"), 0.1, rng=5)

with helpers.using({implementation.name!r}):
    for pair, text in {LARGE_PAIRS!r}.items():
        print(pair, file=sys.stderr)
        faulthandler.dump_traceback_later({PATIENCE // 4}, exit=True)
        first, out = eval(text)
        expected = alone(first).astype(out.dtype.newbyteorder("="))
        with fastdrop.num_threads(2):
            fastdrop.dropout(first, 0.1, rng=5, out=out)
        np.testing.assert_array_equal(out, expected)
print("done")
"""
    assert run_script(tmp_path, code)[0] == "done\n"


# Who works


@needs_core
def test_work_is_shared_by_as_many_threads_as_are_set():
    for threads in (1, 2, 4):
        work, workers = meet(threads)
        with fastdrop.num_threads(threads):
            helpers.share(work, 16 * helpers.MIN_CHUNK)
        assert len(workers) == threads
        assert threading.get_ident() in workers


def test_chunks_taken_from_both_ends_make_up_the_array(compiled):
    for size in (1, 2047, 4096, 100_001):
        for beside in (0, 1, 3):
            x, out = np.ones(size, np.float32), np.zeros(size, np.float32)
            assert helpers.apply_from_both_ends(compiled, x, out, 3.0, 1000, beside)
            np.testing.assert_array_equal(out, 3)


@needs_core
def test_closing_waits_for_chunks_that_were_taken_and_for_no_others():
    assert helpers.closing_waits_for_a_chunk_that_was_taken()


def test_every_element_is_worked_on_once(small_chunks):
    for size in (0, 1, 2047, 4096, 4097, 100_000):
        done = []
        with fastdrop.num_threads(5):
            helpers.share(lambda start, stop, done=done: done.append((start, stop)), size)
        assert [i for start, stop in sorted(done) for i in range(start, stop)] == list(range(size))


def test_a_small_array_is_left_to_the_calling_thread():
    workers = set()
    with fastdrop.num_threads(8):
        helpers.share(lambda *_: workers.add(threading.get_ident()), helpers.MIN_SHARED - 1)
    assert workers == {threading.get_ident()}


@needs_core
def test_dropout_and_masks_of_large_arrays_are_shared(monkeypatch):
    shared, _ = helpers.watch_sharing(monkeypatch, works=False)
    x = np.ones(helpers.MIN_SHARED, np.float32)
    with fastdrop.num_threads(2):  # on a machine with one CPU too
        _, mask = fastdrop.dropout(x, 0.1, rng=1, return_mask=True)
        mask.apply(x)
        np.asarray(mask)
    assert shared == [x.size] * 3


# The setting


def test_the_number_of_threads_can_be_set_and_read(settings):
    for n in (3, np.int64(5), 1):
        fastdrop.set_num_threads(n)
        assert fastdrop.get_num_threads() == n


def test_the_context_nests_and_ends_with_an_exception_too(settings):
    fastdrop.set_num_threads(7)
    with fastdrop.num_threads(3):
        assert fastdrop.get_num_threads() == 3
        with contextlib.suppress(KeyError), fastdrop.num_threads(2):
            assert fastdrop.get_num_threads() == 2
            raise KeyError
        assert fastdrop.get_num_threads() == 3
        fastdrop.set_num_threads(9)
        assert fastdrop.get_num_threads() == 3
    assert fastdrop.get_num_threads() == 9


def test_the_context_is_set_on_entry_and_can_be_used_again(settings):
    fastdrop.set_num_threads(7)
    three = fastdrop.num_threads(3)
    assert fastdrop.get_num_threads() == 7
    for _ in range(2):
        with three:
            assert fastdrop.get_num_threads() == 3
        assert fastdrop.get_num_threads() == 7


def test_one_context_object_may_be_entered_within_itself_and_by_many_threads(settings):
    fastdrop.set_num_threads(7)
    three = fastdrop.num_threads(3)
    with three, three:
        assert fastdrop.get_num_threads() == 3
    assert fastdrop.get_num_threads() == 7
    inside = threading.Barrier(2)

    def enter():
        with three:
            inside.wait(PATIENCE)
            found = fastdrop.get_num_threads()
            inside.wait(PATIENCE)
        return found, fastdrop.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(enter) for _ in range(2)]] == [(3, 7)] * 2


def test_contexts_may_be_left_in_any_order(settings):
    fastdrop.set_num_threads(7)
    two, three = fastdrop.num_threads(2), fastdrop.num_threads(3)
    two.__enter__()
    three.__enter__()
    two.__exit__(None, None, None)
    assert fastdrop.get_num_threads() == 3
    three.__exit__(None, None, None)
    assert fastdrop.get_num_threads() == 7
    with pytest.raises(RuntimeError, match="num_threads must be left in the thread or task that entered it"):
        three.__exit__(None, None, None)


def test_the_context_holds_for_its_own_thread_alone(settings):
    fastdrop.set_num_threads(7)
    with fastdrop.num_threads(2), ThreadPoolExecutor(1) as pool:
        assert pool.submit(fastdrop.get_num_threads).result() == 7
        assert pool.submit(contextvars.copy_context().run, fastdrop.get_num_threads).result() == 2


# Many callers


def test_calls_from_many_threads_at_once_are_right(implementation, small_chunks):
    inputs = [np.random.default_rng(i).standard_normal(10_000 + 501 * i).astype(np.float32) for i in range(8)]
    expected = [fastdrop.dropout(x, 0.1, rng=i) for i, x in enumerate(inputs)]
    start = threading.Barrier(len(inputs))

    def call(i):
        start.wait(PATIENCE)
        with fastdrop.num_threads(1 + i % 4):
            return [fastdrop.dropout(inputs[i], 0.1, rng=i) for _ in range(20)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        for want, got in zip(expected, pool.map(call, range(len(inputs))), strict=True):
            for y in got:
                np.testing.assert_array_equal(y, want)


@needs_core
def test_a_call_from_a_worker_of_the_pool_does_not_hang(small_chunks):
    # Each of the two threads that share waits for helpers, of which there are no more than those that are busy.
    x = np.ones(40_000, np.float32)
    expected = fastdrop.dropout(x, 0.1, rng=5)
    results = []
    finished = threading.Event()

    def call():
        with fastdrop.num_threads(2):
            helpers.share(lambda *_: results.append(fastdrop.dropout(x, 0.1, rng=5)), 8192)
        finished.set()

    threading.Thread(target=call, daemon=True).start()
    assert finished.wait(PATIENCE)
    assert len(results) == 4
    for y in results:
        np.testing.assert_array_equal(y, expected)


# Errors


@needs_core
@pytest.mark.parametrize("failing", ["first helper", "second helper", "caller"])
def test_an_error_in_one_thread_reaches_the_caller_when_no_thread_is_at_work_any_more(failing):
    caller = threading.get_ident()
    all_in = threading.Barrier(3)
    order = []
    at_work = set()

    def work(start, stop):
        me = threading.get_ident()
        if me in order:
            return
        order.append(me)
        all_in.wait(PATIENCE)
        beside = [i for i in order if i != caller]
        role = "caller" if me == caller else ["first helper", "second helper"][beside.index(me)]
        if role == failing:
            raise ZeroDivisionError(failing)
        at_work.add(role)
        time.sleep(0.2)  # longer than the way of the error, so that whoever does not wait is found out
        at_work.discard(role)

    with fastdrop.num_threads(3), pytest.raises(ZeroDivisionError, match=failing):
        helpers.share(work, 16 * helpers.MIN_CHUNK)
    assert at_work == set()


@needs_core
def test_after_an_error_the_threads_work_on():
    def fail(start, stop):
        raise ZeroDivisionError

    with fastdrop.num_threads(2):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                helpers.share(fail, 16 * helpers.MIN_CHUNK)
        work, workers = meet(2)
        helpers.share(work, 16 * helpers.MIN_CHUNK)
    assert len(workers) == 2


@needs_core
@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_no_more_threads_can_be_had_those_that_began_are_waited_for(left, monkeypatch):
    caller = threading.get_ident()
    all_in = threading.Barrier(1 + left)
    seen, done = set(), []

    def work(start, stop):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            all_in.wait(PATIENCE)
            if threading.get_ident() != caller:
                time.sleep(0.2)  # so that a caller that does not wait returns too early
        done.append(start)

    helpers.limit_threads(monkeypatch, left)
    with fastdrop.num_threads(4):
        helpers.share(work, 16 * helpers.MIN_CHUNK)
    assert sorted(done) == [start for start, _ in helpers.chunks_of(16 * helpers.MIN_CHUNK, 4)]


@needs_core
def test_threads_are_started_once():
    x = np.ones(helpers.MIN_SHARED, np.float32)
    with fastdrop.num_threads(3):
        for _ in range(20):
            fastdrop.dropout(x, 0.1)
        started = helpers.threads_in_pool()
        for _ in range(20):
            fastdrop.dropout(x, 0.1)
    assert started == helpers.threads_in_pool() >= 2


# The GIL


@pytest.mark.parametrize("layout", ["contiguous", "every other", "noise_shape", "mask"])
def test_python_goes_on_in_other_threads_while_a_kernel_runs(layout, monkeypatch):
    if helpers.compiled() is None:
        pytest.skip("the NumPy reference holds the GIL where NumPy does")
    if helpers.running().name == "reference":
        pytest.skip("FASTDROP_NO_EXTENSION=1: the NumPy reference holds the GIL where NumPy does")
    # Straight to the kernel: NumPy's look at overlaps, on the way of large arrays, gives up the GIL too.
    helpers.leave_to_the_caller(monkeypatch)
    x = np.ones((2048, 2048), np.float32)
    if layout == "every other":
        x = np.ones((2048, 4096), np.float32)[:, ::2]
    out = np.ones_like(x)
    noise_shape = (2048, 1) if layout == "noise_shape" else None
    mask = DropoutMask(x.shape, 0.1, key=1)
    started, ended = threading.Event(), threading.Event()

    def kernel():
        started.set()
        if layout == "mask":
            np.asarray(mask)
        else:
            fastdrop.dropout(x, 0.1, rng=1, out=out, noise_shape=noise_shape)
        ended.set()

    # A thread is not made to give up the GIL for longer than this test takes, so what runs here between the start and
    # the end of the call does so because the call gave it up. A loaded machine may look away for a whole call, so
    # there are many; a call that never gives it up fails at all of them.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        with helpers.using("portable"), fastdrop.num_threads(1):
            kernel()  # a first call may import something, which gives up the GIL
            for _ in range(100):
                started.clear(), ended.clear()
                thread = threading.Thread(target=kernel)
                thread.start()
                started.wait()
                went_on = not ended.is_set()
                thread.join()
                if went_on:
                    return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("nothing else ran during 100 calls")


# Processes

COMMON = """
import os, sys, threading, time, warnings
import numpy as np
import fastdrop
import helpers
warnings.simplefilter("ignore", DeprecationWarning)  # a fork while there are threads: what is tested here
fastdrop.set_num_threads(2)
x = np.ones(1 << 20, np.float32)
with fastdrop.num_threads(1):
    expected = fastdrop.dropout(x, 0.1, rng=5)

def computes():
    return np.array_equal(fastdrop.dropout(x, 0.1, rng=5), expected)

def uses_threads():
    if helpers.running().name == "reference":  # which has no use for them
        return True
    workers, barrier = set(), threading.Barrier(2)
    def work(start, stop):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            barrier.wait(30)
    helpers.share(work, x.size)
    return len(workers) == 2
"""


@needs_fork
def test_a_forked_child_computes_with_threads_after_the_parent_used_them(tmp_path):
    code = """
assert computes() and uses_threads()
for _ in range(5):
    child = os.fork()
    if child == 0:
        good = computes() and uses_threads()
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(7 if computes() and uses_threads() else 1)
        os._exit(7 if good and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 7 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert computes() and uses_threads()
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@needs_fork
def test_a_fork_while_other_threads_are_in_calls_leaves_a_child_that_computes(tmp_path):
    code = """
end = threading.Event()
def call():
    while not end.is_set():
        fastdrop.dropout(x, 0.1)
threads = [threading.Thread(target=call) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(7 if computes() and uses_threads() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
end.set()
for thread in threads: thread.join()
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=needs_fork), pytest.param("forkserver", marks=needs_fork), "spawn"]
)
def test_multiprocessing_works_and_its_workers_have_streams_of_their_own(method, tmp_path):
    code = """
import multiprocessing

def child(i):
    mask = fastdrop.dropout(x, 0.1, return_mask=True)[1]
    time.sleep(0.2)  # so that both workers get some
    return computes() and uses_threads(), os.getpid(), (mask.key, mask.call)

if __name__ == "__main__":
    computes()
    with multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else METHOD).Pool(2) as pool:
        good, processes, draws = zip(*pool.map(child, range(4), chunksize=1))
    assert all(good) and len(set(processes)) == 2
    assert len(set(draws)) == 4, draws
    print("done")
"""
    assert run_script(tmp_path, COMMON + f"METHOD = {method!r}\n" + code)[0] == "done\n"


@needs_fork
def test_a_stream_and_a_mask_that_are_sent_to_a_process_give_the_same_there(tmp_path):
    code = """
import multiprocessing

def child(stream, mask):
    return fastdrop.dropout(x, 0.1, rng=stream), mask.apply(x), stream.call

if __name__ == "__main__":
    stream = fastdrop.PhiloxStream(3)
    mask = fastdrop.dropout(x, 0.3, rng=stream, return_mask=True)[1]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        y, backward, call = pool.apply(child, (stream, mask))
    assert np.array_equal(backward, mask.apply(x))
    assert np.array_equal(y, fastdrop.dropout(x, 0.1, rng=stream)) and call == stream.call == 2
    print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@pytest.mark.parametrize("before", ["computes()", "helpers.threads_in_pool() == 0"], ids=["after calls", "first call"])
def test_a_call_at_the_exit_of_the_interpreter_is_right(before, tmp_path):
    # The pool takes no more work then, or cannot even be made.
    code = f"""
import atexit
assert {before}
atexit.register(lambda: print("atexit", computes()))
"""
    assert run_script(tmp_path, COMMON + code) == ("atexit True\n", "")


def test_daemon_threads_in_calls_do_not_stop_the_exit_of_the_interpreter(tmp_path):
    code = """
def call():
    while True:
        fastdrop.dropout(x, 0.1)
for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
time.sleep(0.2)
print("done")
"""
    for _ in range(3):
        assert run_script(tmp_path, COMMON + code) == ("done\n", "")


def test_a_thread_that_outlives_the_main_thread_finishes_its_calls(tmp_path):
    code = """
def call():
    threading.main_thread().join()
    print("thread", all(computes() for _ in range(5)))
threading.Thread(target=call).start()
"""
    assert run_script(tmp_path, COMMON + code) == ("thread True\n", "")


# Interrupts


INTERRUPTED = """
import signal, time
import numpy as np
import pytest
import helpers
import fastdrop

ROUNDS, PAUSE = 20, 0.05
n = 1 << 19 if NAME == "reference" else 1 << 22
# More threads than CPUs, and chunks so large that some thread is at work on its own when the caller is done.
helpers.share_from(pytest.MonkeyPatch(), size=n, chunk=n // 8, free_chunk=n // 8)
x, out = np.ones(n, np.float32), np.zeros(n, np.float32)
some = out[::1024]  # which takes no time to fill
mask = fastdrop.GaussianMask(n, 0.1, key=1)
fastdrop.set_num_threads(8)
signal.signal(signal.SIGALRM, signal.default_int_handler)
with helpers.using(NAME):
    took = []
    for _ in range(3):
        began = time.perf_counter()
        mask.apply(x, out=out)
        took.append(time.perf_counter() - began)
    interrupted = changed = 0
    for i in range(ROUNDS):
        try:
            signal.setitimer(signal.ITIMER_REAL, min(took) * (i + 1) / ROUNDS)
            mask.apply(x, out=out)
            time.sleep(1)  # the signal comes here if not in the call
        except KeyboardInterrupt:
            some[...] = 7
            interrupted += 1
            time.sleep(PAUSE + max(took))
            changed += bool((some != 7).any())
    mask.apply(x, out=out)
    with fastdrop.num_threads(1):
        right = np.array_equal(out, mask.apply(x))
print(interrupted == ROUNDS, changed, right)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform sends a process no signals after a time")
def test_after_an_interrupt_no_thread_writes_to_out_any_more(either, tmp_path):
    """Who catches a KeyboardInterrupt may use out for something else. A real signal, and a process for it."""
    code = INTERRUPTED.replace("NAME", repr(either.name))
    assert run_script(tmp_path, code)[0] == "True 0 True\n"
