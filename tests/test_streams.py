# SPDX-License-Identifier: BSD-3-Clause
"""Where masks come from: keys, call numbers, every form of `rng`, and that no mask is given out twice."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

X = np.ones(300, np.float32)
LAST_CALL = 2**56 - 1


def drawn(rng, rate=0.5):
    """The mask of one call."""
    return fastdrop.dropout(X, rate, rng=rng, return_mask=True)[1]


def key_of(*seed, **spawned):
    return int(np.random.SeedSequence(*seed, **spawned).generate_state(1, np.uint64)[0])


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


# Keys and calls


@pytest.mark.parametrize(
    ("seed", "key"),
    [
        # From NumPy, whose SeedSequence is stable across versions: SeedSequence(seed).generate_state(1, np.uint64).
        (0, 0xDB2CD7E7B0F478BE),
        (7, 0xEAD0F7017C326E58),
        (2**200, 0x41B62F2C298E7285),
        ([1, 2, 3], 0xB45F843FE3D1FC80),
    ],
)
def test_the_key_of_a_seed_is_that_of_numpys_seed_sequence(seed, key):
    assert PhiloxStream(seed).key == key == key_of(seed)
    assert PhiloxStream(np.random.SeedSequence(seed)).key == key


def test_a_stream_without_a_seed_is_keyed_anew_each_time():
    assert len({PhiloxStream().key for _ in range(100)}) == 100


def test_a_key_may_be_any_of_64_bits_and_is_taken_as_it_is(either):
    for key in (0, 1, 2**32, 2**63, 2**64 - 1, np.uint64(2**64 - 1)):
        stream = PhiloxStream.from_key(key)
        assert (stream.key, stream.call) == (int(key), 0)
        assert drawn(stream) == DropoutMask(300, 0.5, key=key)
    # All 64 bits matter, those of the upper word too.
    masks = {DropoutMask(300, 0.5, key=1 << bit).packbits().tobytes() for bit in range(64)}
    assert len(masks) == 64


def test_all_56_bits_of_the_call_matter(either):
    masks = {DropoutMask(300, 0.5, key=1, call=1 << bit).packbits().tobytes() for bit in range(56)}
    assert len(masks) == 56


def test_every_mask_takes_one_call_whatever_the_rate_and_none_without_training(either):
    stream = PhiloxStream(7)
    for call, rate in enumerate([0.5, 0, 1, 0.1, 1e-300, 1 - 2**-53]):
        assert stream.call == call
        mask = drawn(stream, rate)
        assert (mask.key, mask.call, mask.rate) == (stream.key, call, rate)
        fastdrop.dropout(X, rate, rng=stream, training=False)
    fastdrop.dropout(X, 0.5, rng=stream, out=np.empty_like(X))
    fastdrop.dropout(np.ones((0, 3)), 0.5, rng=stream)
    fastdrop.dropout(np.ones((4, 3)), 0.5, rng=stream, noise_shape=(4, 1))
    assert stream.call == 9


def test_applying_or_drawing_a_mask_again_moves_no_stream():
    stream = PhiloxStream(7)
    mask = drawn(stream)
    mask.apply(X)
    np.asarray(mask)
    mask[3:].packbits()
    assert stream.call == 1


def test_changing_one_rate_does_not_change_later_masks(either):
    later = []
    for rate in (0, 0.3, 1):
        stream = PhiloxStream(7)
        fastdrop.dropout(X, rate, rng=stream)
        later.append(fastdrop.dropout(X, 0.5, rng=stream).tobytes())
    assert len(set(later)) == 1


def test_from_key_starts_at_a_call(either):
    stream = PhiloxStream(7)
    masks = [drawn(stream) for _ in range(5)]
    again = PhiloxStream.from_key(stream.key, call=3)
    assert again.call == 3
    assert [drawn(again), drawn(again)] == masks[3:]
    np.testing.assert_array_equal(masks[3], DropoutMask(300, 0.5, key=stream.key, call=3))
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 5


def test_key_and_call_cannot_be_set():
    stream = PhiloxStream(7)
    for name in ("key", "call"):
        with pytest.raises(AttributeError):
            setattr(stream, name, 1)


def test_a_stream_ends_after_its_last_call_with_a_clear_error():
    stream = PhiloxStream.from_key(0xABC, call=LAST_CALL - 1)
    assert [drawn(stream).call, drawn(stream).call] == [LAST_CALL - 1, LAST_CALL]
    out = np.full_like(X, 7)
    for ended in (stream, pickle.loads(pickle.dumps(stream)), copy.copy(stream)):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"0xabc.*2\*\*56.*spawn"):
                fastdrop.dropout(X, 0.5, rng=ended, out=out)
        assert ended.call == 2**56
    assert (out == 7).all()


def test_repr_is_what_makes_the_stream_again():
    stream = PhiloxStream.from_key(255, call=3)
    assert repr(stream) == "PhiloxStream.from_key(0x00000000000000ff, call=3)"
    again = eval(repr(stream), {"PhiloxStream": PhiloxStream})
    assert (again.key, again.call) == (255, 3)


# Spawning


def test_spawned_streams_are_those_of_numpys_seed_sequence():
    stream = PhiloxStream(42)
    first, second = stream.spawn(3), stream.spawn(2)
    children = np.random.SeedSequence(42).spawn(5)
    expected = [int(child.generate_state(1, np.uint64)[0]) for child in children]
    assert [child.key for child in first + second] == expected
    assert len({stream.key, *expected}) == 6
    assert all(type(child) is PhiloxStream and child.call == 0 for child in first)


def test_children_spawn_children_of_their_own():
    family = [PhiloxStream(42)]
    for _ in range(3):
        family += [child for parent in family for child in parent.spawn(2)]
    assert len({stream.key for stream in family}) == len(family) == 27


def test_spawning_does_not_move_the_stream():
    stream = PhiloxStream(42)
    drawn(stream)
    stream.spawn(2)
    assert (stream.key, stream.call) == (key_of(42), 1)


@pytest.mark.parametrize("key", [99, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1])
def test_a_stream_from_a_key_spawns_from_all_of_the_key_as_a_seed(key):
    stream = PhiloxStream.from_key(key, call=5)
    keys = [child.key for _ in range(2) for child in stream.spawn(2)]
    assert keys == [int(s.generate_state(1, np.uint64)[0]) for s in np.random.SeedSequence(key).spawn(4)]


class Named(PhiloxStream):
    """A class of a user's own."""


@pytest.mark.parametrize("make", [Named, Named.from_key])
def test_a_subclass_of_a_stream_makes_streams_of_its_class(make):
    stream = make(5)
    assert type(stream) is Named
    assert [type(child) for child in stream.spawn(2)] == [Named, Named]
    again = make(5)
    for same in (pickle.loads(pickle.dumps(again)), copy.copy(again), copy.deepcopy(again)):
        assert type(same) is Named
        assert drawn(same) == DropoutMask(300, 0.5, key=stream.key)


def test_a_copied_or_pickled_stream_spawns_what_the_original_would():
    for stream in (PhiloxStream(42), PhiloxStream.from_key(42)):
        stream.spawn(2)
        for again in (pickle.loads(pickle.dumps(stream)), copy.copy(stream), copy.deepcopy(stream)):
            assert [s.key for s in again.spawn(2)] == [s.key for s in copy.deepcopy(stream).spawn(2)]


def test_two_threads_that_spawn_from_one_stream_share_no_key():
    stream = PhiloxStream(42)
    keys = in_threads(8, lambda: [child.key for _ in range(50) for child in stream.spawn(1)])
    assert len(set(keys)) == 400


# Saving and copying


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_stream_continues_with_the_mask_that_would_have_come(protocol):
    stream = PhiloxStream(7)
    for _ in range(3):
        drawn(stream)
    again = pickle.loads(pickle.dumps(stream, protocol))
    assert (again.key, again.call) == (stream.key, 3)
    assert [drawn(again) for _ in range(3)] == [drawn(stream) for _ in range(3)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_stream_continues_and_does_not_move_the_original(copied):
    stream = PhiloxStream(7)
    drawn(stream)
    again = copied(stream)
    ahead = [drawn(again) for _ in range(3)]
    assert stream.call == 1
    assert [drawn(stream) for _ in range(3)] == ahead


# The forms of rng


@pytest.mark.parametrize("form", [int, np.int64, np.uint8, np.random.SeedSequence], ids=lambda form: form.__name__)
def test_a_seed_names_one_mask_the_same_at_every_call(form, either):
    masks = [drawn(form(11)), drawn(form(11)), drawn(11)]
    assert masks == [DropoutMask(300, 0.5, key=key_of(11))] * 3
    assert drawn(form(12)) != masks[0]


def test_a_seed_sequence_is_not_changed_by_drawing_from_it():
    seed = np.random.SeedSequence(11, spawn_key=(4,))
    assert drawn(seed) == drawn(seed)
    assert drawn(seed).key == key_of(11, spawn_key=(4,))
    assert seed.n_children_spawned == 0


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_a_generator_gives_one_64_bit_key_a_call(bits, either):
    generator, same, counted = (np.random.Generator(bits(5)) for _ in range(3))
    masks = [drawn(generator) for _ in range(3)]
    assert masks == [drawn(same) for _ in range(3)]
    keys = [int(counted.integers(0, 2**64, dtype=np.uint64)) for _ in range(3)]
    assert [(mask.key, mask.call) for mask in masks] == [(key, 0) for key in keys]
    # Exactly as many bits were used up, so what the caller draws next is what it would be.
    assert generator.random(4).tolist() == counted.random(4).tolist()


def test_a_generator_uses_one_draw_whatever_the_rate_and_none_without_training():
    generator, counted = np.random.default_rng(5), np.random.default_rng(5)
    for rate in (0, 0.3, 1):
        drawn(generator, rate)
        fastdrop.dropout(X, rate, rng=generator, training=False)
        counted.bit_generator.random_raw()
        assert generator.bit_generator.state == counted.bit_generator.state


def test_a_bit_generator_is_as_the_generator_around_it():
    bits = np.random.PCG64(5)
    masks = [drawn(bits) for _ in range(3)]
    generator = np.random.default_rng(5)
    assert masks == [drawn(generator) for _ in range(3)]
    assert bits.state == generator.bit_generator.state


def test_without_rng_every_call_gives_another_mask_of_one_key():
    masks = [drawn(None) for _ in range(20)]
    assert len({mask.key for mask in masks}) == 1
    assert [mask.call for mask in masks] == list(range(masks[0].call, masks[0].call + 20))
    assert len({fastdrop.dropout(X).tobytes() for _ in range(20)}) == 20


def test_numpys_global_generator_is_neither_used_nor_moved():
    def state():
        return np.random.get_state()[1].tolist()  # noqa: NPY002  the legacy generator is what this is about

    before = state()
    assert len({fastdrop.dropout(X).tobytes() for _ in range(3)}) == 3
    assert state() == before


# Processes and threads

PRINT_KEY = "import fastdrop; print(fastdrop.dropout([1.0], return_mask=True)[1].key)"


def test_two_processes_have_different_streams():
    assert run_python(PRINT_KEY) != run_python(PRINT_KEY)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_has_a_stream_of_its_own():
    printed = run_python(
        "import os, fastdrop\n"
        "def show():\n"
        "    mask = fastdrop.dropout([1.0], return_mask=True)[1]\n"
        "    os.write(1, f'{mask.key} {mask.call}\\n'.encode())\n"
        "show()\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        show()\n"
        "        grandchild = os.fork()\n"
        "        if grandchild == 0:\n"
        "            show()\n"
        "            os._exit(0)\n"
        "        os.waitpid(grandchild, 0)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "show()\n"
    )
    draws = [tuple(map(int, line.split())) for line in printed.splitlines()]
    parent_before, *children, parent_after = draws
    assert parent_after == (parent_before[0], parent_before[1] + 1), "the parent's stream goes on"
    assert len(children) == 4
    assert len({key for key, _ in [parent_before, *children]}) == 5
    assert {call for _, call in children} == {0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_while_other_threads_draw_and_spawn_leaves_no_stream_locked():
    printed = run_python(
        "import os, threading, warnings, fastdrop\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # fork with threads: what is tested here\n"
        "stream, end = fastdrop.PhiloxStream(1), threading.Event()\n"
        "def draw():\n"
        "    while not end.is_set():\n"
        "        fastdrop.dropout([1.0], rng=stream)\n"
        "        stream.spawn(1)\n"
        "threads = [threading.Thread(target=draw) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for _ in range(30):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        fastdrop.dropout([1.0], rng=stream)\n"
        "        stream.spawn(1)\n"
        "        fastdrop.dropout([1.0])\n"
        "        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "end.set()\n"
        "for thread in threads: thread.join()\n"
        "print('done')\n"
    )
    assert printed == "done\n"


def in_threads(n, work):
    """The lists that `work` returns in n threads that start together, as one list."""
    results, errors = [], []
    start = threading.Barrier(n)

    def run():
        start.wait()
        try:
            results.extend(work())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(n)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as many switches between threads as can be
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    return results


@pytest.mark.parametrize("rng", [PhiloxStream(3), PhiloxStream.from_key(3, call=2**32 - 8000), None])
def test_threads_that_draw_from_one_stream_share_no_call_number(rng):
    first = drawn(rng).call + 1
    x = np.ones(2, np.float32)

    def draw():
        return [fastdrop.dropout(x, 0.5, rng=rng, return_mask=True)[1].call for _ in range(2000)]

    calls = in_threads(8, draw)
    assert sorted(calls) == list(range(first, first + 16000))


def test_threads_that_draw_from_one_generator_share_no_key():
    generator = np.random.default_rng(3)
    keys = in_threads(8, lambda: [drawn(generator).key for _ in range(500)])
    counted = np.random.default_rng(3)
    assert sorted(keys) == sorted(int(counted.integers(0, 2**64, dtype=np.uint64)) for _ in range(4000))


# Anybody's source


class Replayed:
    """A source that gives out what is in a list."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def next_draw(self):
        return self.draws.pop(0)


CALLS = {
    "dropout": lambda x, rng: fastdrop.dropout(x, 0.5, rng=rng, return_mask=True),
    "dropout, shared": lambda x, rng: fastdrop.dropout(x, 0.5, noise_shape=(20, 1), rng=rng, return_mask=True),
    "alpha_dropout": lambda x, rng: fastdrop.alpha_dropout(x, 0.5, rng=rng, return_mask=True),
    "gaussian_dropout": lambda x, rng: fastdrop.gaussian_dropout(x, 0.5, rng=rng, return_mask=True),
    "gaussian_noise": lambda x, rng: fastdrop.gaussian_noise(x, 0.5, rng=rng, return_mask=True),
    "dropout_add": lambda x, rng: fastdrop.dropout_add(x, x, 0.5, rng=rng, return_mask=True),
    "drop_path": lambda x, rng: fastdrop.drop_path(x, 0.5, rng=rng, return_mask=True),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_any_object_that_gives_keys_and_calls_is_a_source(call, either):
    x = np.random.default_rng(1).standard_normal((20, 15)).astype(np.float32)
    drawn = [(0, 0), (2**64 - 1, 2**56 - 1), (np.uint64(7), np.int32(9))]
    source = Replayed(*drawn)
    assert isinstance(source, fastdrop.DrawSource)
    for key, number in drawn:
        y, mask = call(x, source)
        assert (mask.key, mask.call) == (key, number)
        expected, same = call(x, PhiloxStream.from_key(key, number))
        assert mask == same
        assert y.tobytes() == expected.tobytes()
    assert source.draws == []


def test_a_stream_is_a_source_and_a_seed_is_none():
    assert isinstance(PhiloxStream(1), fastdrop.DrawSource)
    assert not isinstance(7, fastdrop.DrawSource)


@pytest.mark.parametrize("bad", [{"rate": 1.5}, {"out": np.empty(7)}, {"noise_shape": (7,)}, {"training": 1}])
def test_a_source_is_asked_only_where_all_other_arguments_are_right(bad):
    source = Replayed((1, 2))
    with pytest.raises((TypeError, ValueError)):
        fastdrop.dropout(X, rng=source, **bad)
    fastdrop.dropout(X, 0.5, rng=source, training=False)
    assert source.draws == [(1, 2)]


@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        (7, TypeError, r"rng\.next_draw\(\) must return a key and a call number, got 7"),
        ((7,), TypeError, "a key and a call number"),
        (None, TypeError, "a key and a call number, got None"),
        ((1.5, 0), TypeError, r"the key of rng\.next_draw\(\) must be an int"),
        ((-1, 0), ValueError, r"the key of rng\.next_draw\(\) must be from 0 to 2\*\*64 - 1, got -1"),
        ((2**64, 0), ValueError, "the key of"),
        ((0, 2**56), ValueError, r"the call of rng\.next_draw\(\) must be from 0 to 2\*\*56 - 1"),
        ((0, True), TypeError, "the call of"),
    ],
)
def test_a_source_that_returns_something_else_is_told_so(drawn, error, message, either):
    out = np.full_like(X, 7)
    with pytest.raises(error, match=message):
        fastdrop.dropout(X, 0.5, rng=Replayed(drawn), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("rng", [PhiloxStream, Replayed, object(), 1.5, "7"], ids=repr)
def test_what_is_no_source_is_refused_with_what_is(rng):
    with pytest.raises(TypeError, match=r"rng must be .* an object with next_draw\(\) -> \(key, call\), got"):
        fastdrop.dropout(X, 0.5, rng=rng)


def test_layers_that_share_a_source_do_not_share_masks():
    stream = PhiloxStream(3)

    class Forwarded:
        def next_draw(self):
            return stream.next_draw()

    first, second = (fastdrop.Dropout(0.5, rng=Forwarded()) for _ in range(2))
    assert first.rng.key == fastdrop.fold_in(stream.key, 0)
    assert second.rng.key == fastdrop.fold_in(stream.key, 1)
    assert first(X).tobytes() != second(X).tobytes()


# Keys of places


def test_no_two_places_have_one_key(either):
    parts = [*range(40), 2**32, 2**32 + 1, 2**63, 2**64 - 1, "", "0", "1", "\0", "layer", "Layer", "läyer", "\ud800"]
    paths = [(), *((part,) for part in parts), *((a, b) for a in parts for b in parts)]
    paths += [(1,) * n for n in range(3, 40)] + [(0,) * n for n in range(3, 40)]
    assert len({fastdrop.fold_in(key, *path) for key in (0, 1, 2**32) for path in paths}) == 3 * len(paths)


def test_folding_a_path_is_folding_its_parts_one_after_the_other():
    key = PhiloxStream(7).key
    assert fastdrop.fold_in(key) == key
    assert fastdrop.fold_in(fastdrop.fold_in(key, "a", 1), 2) == fastdrop.fold_in(key, "a", 1, 2)
    assert fastdrop.fold_in(np.uint64(key), np.int8(5)) == fastdrop.fold_in(key, 5)


BITS = [(1 << bit, 0) for bit in range(64)]


def test_all_bits_of_a_key_and_of_a_part_matter():
    assert (
        len({fastdrop.fold_in(1 << bit, 0) for bit in range(64)} | {fastdrop.fold_in(0, 1 << b) for b in range(64)})
        == 128
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "key must be from 0"),
        ((1.0,), TypeError, "key must be an int"),
        ((None, 1), TypeError, "key must be an int"),
        ((0, -1), ValueError, r"path must hold ints from 0 to 2\*\*64 - 1, got -1"),
        ((0, 1, 2**64), ValueError, "path must hold ints from 0"),
        ((0, 1.5), TypeError, "path must hold ints and strs, got 1.5 of type float"),
        ((0, True), TypeError, "path must hold ints and strs, got True"),
        ((0, b"a"), TypeError, "path must hold ints and strs"),
        ((0, (1, 2)), TypeError, "path must hold ints and strs"),
        ((0, None), TypeError, "path must hold ints and strs"),
    ],
)
def test_a_path_of_something_else_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        fastdrop.fold_in(*arguments)
