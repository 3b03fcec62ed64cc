# SPDX-License-Identifier: BSD-3-Clause
"""Threads change how long a call takes and nothing else, whoever calls, forks, fails or ends meanwhile."""

import contextlib
import contextvars
import ctypes
import ctypes.util
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

PATIENCE = 60  # seconds until a test that hangs is given up: longer than anything here takes on a loaded machine

needs_core = pytest.mark.skipif(helpers.compiled() is None, reason="fastdrop was built without its compiled core")
needs_pool = pytest.mark.skipif(not helpers.can_share(), reason="here Python cannot call the pool of the compiled core")
on_linux = pytest.mark.skipif(
    helpers.compiled() is None or sys.platform != "linux", reason="needs the core, and what Linux says of its threads"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.fixture
def small_chunks(monkeypatch):
    """Arrays of a few thousand elements are split, into chunks that end neither at rows nor at one another's tiles."""
    helpers.share_from(monkeypatch, size=4096, chunk=2000)


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
    for size in (helpers.MIN_SHARED - 1, helpers.MIN_SHARED, helpers.MIN_SHARED + 1, 19 * 65_536 + 77):
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


@needs_pool
def test_work_is_shared_by_as_many_threads_as_are_set():
    for threads in (1, 2, 4, 2, 1):
        work, workers = meet(threads)
        with fastdrop.num_threads(threads):
            helpers.share(work, 16 * helpers.CHUNK)
        assert len(workers) == threads
        assert threading.get_ident() in workers


@needs_pool
def test_the_caller_works_from_the_front_and_helpers_from_the_back():
    """So each finds in its caches what it worked on in the call before."""
    barrier = threading.Barrier(3)
    firsts = {}

    def work(start, stop):
        if firsts.setdefault(threading.get_ident(), start) == start:
            barrier.wait(PATIENCE)

    with fastdrop.num_threads(3):
        helpers.share(work, 100, chunk=10)
    assert firsts.pop(threading.get_ident()) == 0
    assert sorted(firsts.values()) == [80, 90]


@needs_pool
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 7, 2048, 100_000])
def test_every_element_is_worked_on_once(chunk, threads):
    for size in (0, 1, 6, 7, 8, 2047, 4096, 4097):
        done = []
        with fastdrop.num_threads(threads):
            helpers.share(lambda start, stop, done=done: done.append((start, stop)), size, chunk)
        assert [i for start, stop in sorted(done) for i in range(start, stop)] == list(range(size))


@needs_pool
def test_who_has_begun_is_waited_for():
    caller = threading.get_ident()
    all_in = threading.Barrier(3)
    seen, at_work = set(), set()

    def work(start, stop):
        me = threading.get_ident()
        if me in seen:
            return
        seen.add(me)
        all_in.wait(PATIENCE)
        if me != caller:
            at_work.add(me)
            time.sleep(0.3)  # so that a caller that does not wait, or not until all are done, returns too early
            at_work.remove(me)

    with fastdrop.num_threads(3):
        for _ in range(2):
            seen.clear()
            helpers.share(work, 16 * helpers.CHUNK)
            assert len(seen) == 3
            assert not at_work


@needs_pool
def test_who_has_not_begun_is_not_waited_for(tmp_path):
    code = """
busy, end = threading.Event(), threading.Event()

def hold(start, stop):
    if threading.current_thread() is not holder:
        busy.set()
        end.wait(30)
    else:
        busy.wait(30)

holder = threading.Thread(target=helpers.share, args=(hold, 2, 1))
holder.start()
assert busy.wait(30)  # the one thread of the pool is in another job, and comes to none of these
for _ in range(5):
    workers = set()
    helpers.share(lambda *_: workers.add(threading.get_ident()), x.size)
    assert workers == {threading.get_ident()}
    assert computes()
assert not end.is_set()
end.set()
holder.join()
assert uses_threads()
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@on_linux
@pytest.mark.parametrize("call", ["fastdrop.dropout(a, 0.1, out=b)", "mask.apply(a, b)", "fastdrop.relu_dropout(a)"])
def test_threads_are_there_only_when_an_array_needs_them(call, tmp_path):
    code = f"""
import functools
SMALL, LARGE = helpers.MIN_SHARED_AWAKE, helpers.MIN_SHARED

@functools.cache
def prepared(size):
    return np.ones(size, np.float32), np.empty(size, np.float32), fastdrop.DropoutMask(size, 0.1, key=1)

def call(size):
    a, b, mask = prepared(size)
    {call}

def in_a_row(size):
    for _ in range(1000):
        call(size)

assert helpers.threads_in_pool(0) == 0
in_a_row(SMALL - 1)
with fastdrop.num_threads(1):
    in_a_row(SMALL), call(LARGE)
for _ in range(5):
    time.sleep(0.05)  # long after a call: it would take longer to wake a thread than it saves
    call(SMALL)
assert helpers.threads_in_pool(0) == 0
in_a_row(SMALL)
assert helpers.threads_in_pool(1) == 1
time.sleep(0.05)
with fastdrop.num_threads(4):
    call(SMALL)
    assert helpers.threads_in_pool(1) == 1
    call(LARGE)
assert helpers.threads_in_pool(3) == 3
call(LARGE)
assert helpers.threads_in_pool(3) == 3
print("done")
"""
    head = COMMON.replace("with fastdrop.num_threads(1):\n    expected = fastdrop.dropout(x, 0.1, rng=5)\n", "")
    assert run_script(tmp_path, head + code)[0] == "done\n"


@needs_core
def test_dropout_and_masks_of_large_arrays_are_shared(monkeypatch):
    shared, _ = helpers.watch_sharing(monkeypatch)
    x = np.ones(helpers.MIN_SHARED, np.float32)
    with fastdrop.num_threads(2):  # on a machine with one CPU too
        _, mask = fastdrop.dropout(x, 0.1, rng=1, return_mask=True)
        mask.apply(x)
        np.asarray(mask)
    assert shared == [x.size] * 3


@on_linux
def test_there_are_no_more_threads_than_chunks_however_many_are_set(tmp_path):
    code = """
fastdrop.set_num_threads(10**30)
assert computes()
small, strided = x[: helpers.MIN_SHARED_AWAKE], np.ones(2 << 20, np.float32)[::2]
for array in (small, strided) * 20:
    fastdrop.dropout(array, 0.1, rng=5)
    np.asarray(fastdrop.DropoutMask(array.size, 0.1, key=1))
assert fastdrop.get_num_threads() == 10**30
assert np.array_equal(fastdrop.dropout(strided, 0.1, rng=5), expected)
print(2 <= helpers.threads_in_pool(2) <= x.size // helpers.CHUNK)
"""
    assert run_script(tmp_path, COMMON + code)[0] == "True\n"


@on_linux
def test_threads_are_started_once():
    x = np.ones(helpers.MIN_SHARED, np.float32)
    with fastdrop.num_threads(3):
        for _ in range(20):
            fastdrop.dropout(x, 0.1)
        started = helpers.threads_in_pool(2)
        for _ in range(20):
            fastdrop.dropout(x, 0.1)
    assert started == helpers.threads_in_pool(started) >= 2


@on_linux
def test_idle_threads_take_no_time(tmp_path):
    code = """
for _ in range(3):
    assert uses_threads()
    time.sleep(0.05)  # a helper looks for more work only for a moment
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.02
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@on_linux
def test_threads_leave_signals_to_the_program_but_report_their_own_faults():
    work, _ = meet(2)
    with fastdrop.num_threads(2):
        helpers.share(work, 16 * helpers.CHUNK)
    tasks = helpers.pool_tasks()
    assert tasks
    for task in tasks:
        status = dict(line.split(":", 1) for line in Path(f"/proc/self/task/{task}/status").read_text().splitlines())
        blocked = {i + 1 for i in range(64) if int(status["SigBlk"], 16) >> i & 1}
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD} <= blocked
        assert not {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL} & blocked


@on_linux
def test_a_thread_that_is_on_the_cpu_of_its_caller_moves_to_another(tmp_path):
    """Else both have one CPU between them, as long as the scheduler leaves it so: it does, where it saves CPUs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU")
    code = """
assert uses_threads()  # before the caller is kept to one CPU, which a new thread would take over
usable = sorted(os.sched_getaffinity(0))
first = {}

def work(start, stop):
    me = threading.get_native_id()
    if me not in first:
        first[me] = current_cpu()
        if me != os.getpid():
            assert os.sched_getaffinity(0) == set(usable)  # as before
            checked.append(me)
        barrier.wait(30)

import ctypes
current_cpu = ctypes.CDLL(None).sched_getcpu
apart, checked = 0, []
for i in range(50):
    barrier = threading.Barrier(2)
    first.clear()
    os.sched_setaffinity(0, {usable[i % 2]})
    for task in helpers.pool_tasks():
        os.sched_setaffinity(task, {usable[i % 2]})  # both on one
        os.sched_setaffinity(task, usable)
    helpers.share(work, x.size)
    apart += len(set(first.values())) == 2
assert len(checked) == 50
assert apart >= 35, apart  # else they are so 5 to 25 times
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


@needs_pool
def test_all_threads_compute_as_their_caller_does(either, small_chunks):
    """A program may have set how numbers are rounded, or that denormals are zero, for the calling thread alone."""
    try:
        math = ctypes.CDLL(ctypes.util.find_library("m"))
        before = math.fegetround()
    except (AttributeError, OSError, TypeError):
        pytest.skip("there is no C library for mathematics to be found")
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    results = []
    for direction in (before, 0x400, 0xC00):  # of x86-64; elsewhere they may not be known
        if math.fesetround(direction) == 0:
            try:
                for threads in (1, 2, 4):
                    with fastdrop.num_threads(threads):
                        results.append([fastdrop.dropout(x, 0.1, rng=5).tobytes() for _ in range(20)])
            finally:
                math.fesetround(before)
    assert all(ys == [ys[0]] * 20 for ys in results)
    for alone in range(0, len(results), 3):
        assert results[alone] == results[alone + 1] == results[alone + 2]


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


@needs_pool
def test_a_call_from_a_worker_of_the_pool_does_not_hang(small_chunks):
    # Each of the two threads that share waits for helpers, of which there are no more than those that are busy.
    x = np.ones(40_000, np.float32)
    expected = fastdrop.dropout(x, 0.1, rng=5)
    results = []
    finished = threading.Event()

    def call():
        with fastdrop.num_threads(2):
            helpers.share(lambda *_: results.append(fastdrop.dropout(x, 0.1, rng=5)), 4, chunk=1)
        finished.set()

    threading.Thread(target=call, daemon=True).start()
    assert finished.wait(PATIENCE)
    assert len(results) == 4
    for y in results:
        np.testing.assert_array_equal(y, expected)


@needs_pool
def test_many_callers_at_once_each_get_their_own_work_done():
    """With more seats than there are threads, and jobs that come and go while others wait for theirs."""
    start = threading.Barrier(6)
    done = [[] for _ in range(6)]

    def call(i):
        start.wait(PATIENCE)
        for round in range(30):
            with fastdrop.num_threads(1 + (i + round) % 4):
                helpers.share(lambda first, stop: done[i].extend(range(first, stop)), 5 + i, chunk=1)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [sorted(work) for work in done] == [sorted(list(range(5 + i)) * 30) for i in range(6)]


# Errors


def test_an_error_in_any_thread_reaches_the_caller_and_the_threads_work_on(compiled, small_chunks):
    """NumPy's iterators ask for memory in every thread, and whatever they are not given is an error."""
    testcapi = pytest.importorskip("_testcapi", reason="this Python cannot pretend to have no memory")
    if not hasattr(testcapi, "set_nomemory"):
        pytest.skip("this Python cannot pretend to have no memory")
    x = np.ones((100, 400), np.float32)[:, ::2]
    out = np.empty_like(x)
    expected = fastdrop.dropout(x, 0.1, rng=5)
    call = helpers.prepared_apply(compiled, x, out, 0.1, rng=5, threads=3)
    failed = 0
    for n in range(1, 60):
        out[...] = 7
        testcapi.set_nomemory(n, n + 1 + n % 3)
        try:
            call()
        except MemoryError:
            failed += 1
        else:
            testcapi.remove_mem_hooks()
            np.testing.assert_array_equal(out, expected)
        finally:
            testcapi.remove_mem_hooks()
    assert failed > 5
    call()
    np.testing.assert_array_equal(out, expected)
    if helpers.can_share():
        work, workers = meet(3)
        with fastdrop.num_threads(3):
            helpers.share(work, 16 * helpers.CHUNK)
        assert len(workers) == 3


@on_linux
@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_no_more_threads_can_be_had_those_there_are_do_the_work(left, tmp_path):
    code = f"""
import resource
left = {left}
if left > 0:
    with fastdrop.num_threads(left + 1):
        computes()
assert helpers.threads_in_pool(left) == left
out = np.empty_like(x)
all_in = threading.Barrier(1 + left)
seen, done, at_work = set(), [], set()

def work(start, stop):
    me = threading.get_ident()
    if me not in seen:
        seen.add(me)
        all_in.wait(30)
        at_work.add(me)
        if me != caller:
            time.sleep(0.2)  # so that a caller that does not wait returns too early
        at_work.remove(me)
    done.append(start)

caller = threading.get_ident()
helpers.share(lambda *_: None, 1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 10), limit[1]))  # less than a thread's stack
try:
    with fastdrop.num_threads(4):
        helpers.share(work, 16 * helpers.CHUNK)
        assert not at_work
        assert helpers.threads_in_pool(left) == left
        for _ in range(5):
            fastdrop.dropout(x, 0.1, rng=5, out=out)
finally:
    resource.setrlimit(resource.RLIMIT_AS, limit)
assert sorted(done) == [start for start, _ in helpers.chunks_of(16 * helpers.CHUNK)]
assert len(seen) == 1 + left
assert np.array_equal(out, expected)
with fastdrop.num_threads(4):
    computes()
assert helpers.threads_in_pool(3) == 3
print("done")
"""
    assert run_script(tmp_path, COMMON + code)[0] == "done\n"


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
    if helpers.running().name == "reference" or not helpers.can_share():  # which has no use for them
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


@pytest.mark.parametrize("before", ["computes()", "helpers.threads_in_pool(0) == 0"], ids=["after calls", "first call"])
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
helpers.share_from(pytest.MonkeyPatch(), size=n, chunk=n // 8)
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
