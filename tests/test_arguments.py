# SPDX-License-Identifier: BSD-3-Clause
"""Bad input gets a clear error and nothing is lost: `out` and the streams stay as they were. Good input works."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream, _streams

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
MASK = DropoutMask((4, 5), 0.5, key=1)
FLOATS = "float16, bfloat16, float32 or float64"


def case(name, given, error, *pieces):
    """A row of a table: what is given, the error, and what its message must hold."""
    return pytest.param(given, error, pieces, id=name)


def assert_refused(error, pieces, call):
    with pytest.raises(error) as caught:
        call()
    missing = [piece for piece in pieces if piece not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"


def position(rng):
    """What a draw changes in a source of masks."""
    if rng is None:
        rng = _streams._default
    return (rng.key, rng.call) if isinstance(rng, PhiloxStream) else rng.bit_generator.state


def read_only(array):
    array.flags.writeable = False
    return array


def broadcast_view(shape):
    """Writable, with all elements at one place."""
    return np.lib.stride_tricks.as_strided(np.ones(1, np.float32), shape, (0,) * len(shape))


BAD_ARGUMENTS = [
    case("rate below 0", {"rate": -0.1}, ValueError, "rate", "0 to 1", "-0.1"),
    case("rate just below 0", {"rate": -5e-324}, ValueError, "rate", "0 to 1", "-5e-324"),
    case("rate above 1", {"rate": 1.5}, ValueError, "rate", "0 to 1", "1.5"),
    case("rate just above 1", {"rate": np.nextafter(1.0, 2.0)}, ValueError, "rate", "0 to 1", "1.0000000000000002"),
    case("rate an int above 1", {"rate": 2}, ValueError, "rate", "0 to 1", "2"),
    case("rate a huge int", {"rate": 10**400}, ValueError, "rate", "0 to 1"),
    case("rate NaN", {"rate": float("nan")}, ValueError, "rate", "0 to 1", "nan"),
    case("rate infinite", {"rate": float("inf")}, ValueError, "rate", "0 to 1", "inf"),
    case("rate a string", {"rate": "0.5"}, TypeError, "rate", "0 to 1", "'0.5'", "str"),
    case("rate None", {"rate": None}, TypeError, "rate", "0 to 1", "None"),
    case("rate a bool", {"rate": True}, TypeError, "rate", "0 to 1", "True", "bool"),
    case("rate a NumPy bool", {"rate": np.False_}, TypeError, "rate", "0 to 1", "False", "bool"),
    case("rate complex", {"rate": 0.5 + 0j}, TypeError, "rate", "0 to 1", "complex"),
    case("rate an array", {"rate": np.array([0.1, 0.2])}, TypeError, "rate", "0 to 1", "ndarray"),
    case("rate a list", {"rate": [0.5]}, TypeError, "rate", "0 to 1", "list"),
    case("keep_prob below 0", {"keep_prob": -0.5}, ValueError, "keep_prob", "0 to 1", "-0.5"),
    case("keep_prob above 1", {"keep_prob": 1.1}, ValueError, "keep_prob", "0 to 1", "1.1"),
    case("keep_prob NaN", {"keep_prob": np.nan}, ValueError, "keep_prob", "0 to 1", "nan"),
    case("keep_prob a bool", {"keep_prob": True}, TypeError, "keep_prob", "0 to 1", "True"),
    case("keep_prob a string", {"keep_prob": "1"}, TypeError, "keep_prob", "0 to 1", "'1'"),
    case("both", {"rate": 0.1, "keep_prob": 0.9}, ValueError, "rate", "keep_prob", "0.1", "0.9", "not both"),
    case("both, rate as by default", {"rate": float("0.5"), "keep_prob": 0.9}, ValueError, "keep_prob", "not both"),
    case("noise_shape too short", {"noise_shape": (1,)}, ValueError, "noise_shape", "(1,)", "(2, 3)"),
    case("noise_shape too long", {"noise_shape": (1, 2, 3)}, ValueError, "noise_shape", "(1, 2, 3)", "(2, 3)"),
    case("noise_shape empty", {"noise_shape": ()}, ValueError, "noise_shape", "()", "(2, 3)"),
    case("noise_shape of wrong lengths", {"noise_shape": (2, 2)}, ValueError, "noise_shape", "(2, 2)", "(2, 3)"),
    case("noise_shape of length 0", {"noise_shape": (0, 3)}, ValueError, "noise_shape", "(0, 3)", "(2, 3)"),
    case("noise_shape negative", {"noise_shape": (-1, 3)}, ValueError, "noise_shape", "(-1, 3)", "(2, 3)"),
    case("noise_shape an int", {"noise_shape": 3}, TypeError, "noise_shape", "3", "sequence"),
    case("noise_shape of floats", {"noise_shape": (1.0, 3)}, TypeError, "noise_shape", "(1.0, 3)", "ints"),
    case("noise_shape a string", {"noise_shape": "ab"}, TypeError, "noise_shape", "'ab'", "ints"),
    case("rng negative", {"rng": -1}, ValueError, "rng", "-1", "at least 0"),
    case("rng a float", {"rng": 1.0}, TypeError, "rng", "1.0", "float", "SeedSequence", "PhiloxStream"),
    case("rng a bool", {"rng": True}, TypeError, "rng", "True", "bool", "SeedSequence", "PhiloxStream"),
    case("rng a string", {"rng": "7"}, TypeError, "rng", "'7'", "str", "SeedSequence", "PhiloxStream"),
    case("rng a list", {"rng": [7]}, TypeError, "rng", "[7]", "list", "SeedSequence", "PhiloxStream"),
    case("rng legacy", {"rng": np.random.RandomState(0)}, TypeError, "rng", "RandomState", "Generator"),
    case("rng a module", {"rng": np.random}, TypeError, "rng", "module", "Generator"),
    case("x of int", {"x": np.ones((2, 3), int)}, TypeError, "x must", FLOATS, "int64", "astype(np.float64)"),
    case("x of int8", {"x": np.ones((2, 3), np.int8)}, TypeError, "x must", FLOATS, "int8", "astype(np.float32)"),
    case("x of bool", {"x": np.ones((2, 3), bool)}, TypeError, "x must", FLOATS, "bool", "astype(np.float32)"),
    case("x of object", {"x": X.astype(object)}, TypeError, "x must", FLOATS, "object", "astype"),
    case("x of strings", {"x": X.astype(str)}, TypeError, "x must", FLOATS, "<U", "astype"),
    case("x of bytes", {"x": X.astype("S8")}, TypeError, "x must", FLOATS, "S8", "astype"),
    case("x of dates", {"x": X.astype(int).astype("M8[D]")}, TypeError, "x must", FLOATS, "datetime64[D]"),
    case("x of durations", {"x": X.astype(int).astype("m8[s]")}, TypeError, "x must", FLOATS, "timedelta64[s]"),
    case("x of complex", {"x": X.astype(complex)}, TypeError, "x must", FLOATS, "complex128", "real and imaginary"),
    case("x of records", {"x": np.ones((2, 3), [("a", "f4")])}, TypeError, "x must", FLOATS, "'a'"),
    case("x None", {"x": None}, TypeError, "x must", FLOATS, "object"),
    case("x a list of ints", {"x": [[1, 2, 3], [4, 5, 6]]}, TypeError, "x must", FLOATS, "int64"),
    case("out of another shape", {"out": np.ones((3, 2), np.float32)}, ValueError, "out", "(2, 3)", "(3, 2)"),
    case("out of fewer dimensions", {"out": np.ones(6, np.float32)}, ValueError, "out", "(2, 3)", "(6,)"),
    case("out to broadcast from", {"out": np.ones((1, 3), np.float32)}, ValueError, "out", "(2, 3)", "(1, 3)"),
    case("out narrower", {"out": np.ones((2, 3), np.float16)}, TypeError, "out", "float32", "float16"),
    case("out of int", {"out": np.ones((2, 3), np.int64)}, TypeError, "out", "float32", "int64"),
    case("out of bool", {"out": np.ones((2, 3), bool)}, TypeError, "out", "float32", "bool"),
    case("out of object", {"out": np.ones((2, 3), object)}, TypeError, "out", "float32", "object"),
    case("out of strings", {"out": np.ones((2, 3), "U32")}, TypeError, "out", "float32", "U32"),
    case("out read-only", {"out": read_only(np.ones((2, 3), np.float32))}, ValueError, "out", "read-only"),
    case("out a broadcast view", {"out": broadcast_view((2, 3))}, ValueError, "out", "broadcast", "share memory"),
    case("out a list", {"out": [[0.0] * 3] * 2}, TypeError, "out", "array", "list"),
    case("out a scalar", {"out": np.float32(1)}, TypeError, "out", "array", "float32"),
    case("out a type", {"out": np.float32}, TypeError, "out", "array", "type"),
    case(
        "out of float32 for float64",
        {"x": X.astype(np.float64), "out": np.ones((2, 3), np.float32)},
        TypeError,
        "out",
        "float64",
        "float32",
    ),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("given", "error", "pieces"), BAD_ARGUMENTS)
def test_bad_input_is_refused_and_neither_out_nor_a_stream_is_changed(given, error, pieces, training, implementation):
    arguments = {"x": X, "rate": 0.5, "out": np.full(X.shape, 7, np.float32), "training": training, **given}
    if "keep_prob" in given and "rate" not in given:
        del arguments["rate"]
    out = arguments["out"]
    before = out.tobytes() if isinstance(out, np.ndarray) else None
    sources = [given["rng"]] if "rng" in given else [PhiloxStream(1), np.random.default_rng(1), None]
    for rng in sources:
        watched = None if "rng" in given else rng
        start = position(watched)
        assert_refused(error, pieces, partial(fastdrop.dropout, **{**arguments, "rng": rng}))
        assert position(watched) == start, f"{watched!r} has moved"
    assert before is None or out.tobytes() == before


def test_longdouble_is_refused_with_advice():
    if np.dtype(np.longdouble) == np.float64:
        pytest.skip("longdouble is float64 on this platform")
    x = X.astype(np.longdouble)
    assert_refused(TypeError, ("x must", FLOATS, x.dtype.name, "astype(np.float64)"), lambda: fastdrop.dropout(x))


def test_a_legacy_random_state_is_not_drawn_from():
    legacy = np.random.RandomState(3)
    before = legacy.get_state()[1].tobytes(), legacy.get_state()[2]
    assert_refused(TypeError, ("rng", "RandomState"), lambda: fastdrop.dropout(X, rng=legacy))
    assert (legacy.get_state()[1].tobytes(), legacy.get_state()[2]) == before


BAD_MASKS = [
    case("shape negative", {"shape": -1}, ValueError, "shape", "at least 0", "-1"),
    case("shape with a negative length", {"shape": (3, -2)}, ValueError, "shape", "at least 0", "(3, -2)"),
    case("shape a float", {"shape": 3.0}, TypeError, "shape", "int", "3.0"),
    case("shape of floats", {"shape": (3.0, 2)}, TypeError, "shape", "ints", "(3.0, 2)"),
    case("shape a string", {"shape": "33"}, TypeError, "shape", "ints", "'33'"),
    case("shape None", {"shape": None}, TypeError, "shape", "int", "None"),
    case("shape of too many dimensions", {"shape": (1,) * 65}, ValueError, "shape", "at most 64", "65"),
    # Element indices are 64 bits wide: a larger mask could not be drawn, so it must not be made.
    case("shape past all indices", {"shape": (2**40, 2**40)}, ValueError, "shape"),
    case("rate out of range", {"rate": 1.01}, ValueError, "rate", "0 to 1", "1.01"),
    case("rate a bool", {"rate": False}, TypeError, "rate", "0 to 1", "False"),
    case("rate a string", {"rate": "x"}, TypeError, "rate", "0 to 1", "'x'"),
    case("key negative", {"key": -1}, ValueError, "key", "2**64 - 1", "-1"),
    case("key of 65 bits", {"key": 2**64}, ValueError, "key", "2**64 - 1", str(2**64)),
    case("key a float", {"key": 1.0}, TypeError, "key", "2**64 - 1", "1.0", "float"),
    case("key a bool", {"key": True}, TypeError, "key", "2**64 - 1", "True", "bool"),
    case("key a string", {"key": "1"}, TypeError, "key", "2**64 - 1", "'1'", "str"),
    case("key None", {"key": None}, TypeError, "key", "2**64 - 1", "None"),
    case("key an array", {"key": np.array([1, 2])}, TypeError, "key", "2**64 - 1", "ndarray"),
    case("call negative", {"call": -1}, ValueError, "call", "2**56 - 1", "-1"),
    case("call of 57 bits", {"call": 2**56}, ValueError, "call", "2**56 - 1", str(2**56)),
    case("call a float", {"call": 0.0}, TypeError, "call", "2**56 - 1", "0.0", "float"),
    case("call a bool", {"call": False}, TypeError, "call", "2**56 - 1", "False", "bool"),
    case("noise_shape of wrong length", {"noise_shape": (1, 1)}, ValueError, "noise_shape", "(1, 1)", "(4, 5, 6)"),
    case("noise_shape of wrong lengths", {"noise_shape": (4, 2, 1)}, ValueError, "noise_shape", "(4, 2, 1)"),
    case("noise_shape an int", {"noise_shape": 1}, TypeError, "noise_shape", "1"),
]


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_MASKS)
def test_a_mask_of_bad_parameters_is_not_made(given, error, pieces):
    arguments = {"shape": (4, 5, 6), "rate": 0.5, "key": 1, **given}
    assert_refused(error, pieces, lambda: DropoutMask(**arguments))


BAD_INDICES = [
    case("step", np.s_[::2], ValueError, "step"),
    case("negative step", np.s_[:, ::-1], ValueError, "step"),
    case("slice beyond the end", np.s_[0:5], ValueError, "length 4", "0, 5"),
    case("slice from beyond the end", np.s_[5:], ValueError, "length 4", "5"),
    case("slice before the start", np.s_[:, -6:], ValueError, "length 5", "-6"),
    case("int beyond the end", 4, ValueError, "length 4", "4"),
    case("int before the start", np.s_[:, -6], ValueError, "length 5", "-6"),
    case("too many", np.s_[0, 0, 0], ValueError, "(4, 5)", "(0, 0, 0)", "at most 2"),
    case("two Ellipses", np.s_[..., ...], ValueError, "one Ellipsis"),
    case("newaxis", np.newaxis, TypeError, "slices", "ints", "None"),
    case("newaxis in the place of a dimension", np.s_[:, np.newaxis], TypeError, "slices", "ints", "None"),
    case("float", 1.0, TypeError, "slices", "ints", "1.0"),
    case("float in a slice", np.s_[1.5:], TypeError, "slice", "ints", "1.5"),
    case("bool", True, TypeError, "slices", "ints", "True"),
    case("string", "key", TypeError, "slices", "ints", "'key'"),
    case("list", [0, 1], TypeError, "slices", "ints", "[0, 1]"),
    case("array", np.array([0, 1]), TypeError, "slices", "ints", "array"),
    case("array of bools", np.array([True, False] * 2), TypeError, "slices", "ints", "array"),
]


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_INDICES)
def test_an_index_that_a_mask_can_not_take_is_refused(given, error, pieces):
    assert_refused(error, pieces, lambda: MASK[given])


BAD_APPLICATIONS = [
    case("x of another shape", {"x": np.ones((5, 4))}, ValueError, "x", "(4, 5)", "(5, 4)"),
    case("x of as many elements", {"x": np.ones(20)}, ValueError, "x", "(4, 5)", "(20,)"),
    case("x to broadcast", {"x": np.ones((1, 5))}, ValueError, "x", "(4, 5)", "(1, 5)"),
    case("x a scalar", {"x": 1.0}, ValueError, "x", "(4, 5)", "()"),
    case("x of int", {"x": np.ones((4, 5), int)}, TypeError, "x", FLOATS, "int64"),
    case("out of another shape", {"out": np.ones((5, 4))}, ValueError, "out", "(4, 5)", "(5, 4)"),
    case("out narrower", {"out": np.ones((4, 5), np.float32)}, TypeError, "out", "float64", "float32"),
    case("out read-only", {"out": read_only(np.ones((4, 5)))}, ValueError, "out", "read-only"),
    case("out a list", {"out": []}, TypeError, "out", "list"),
]


@pytest.mark.parametrize("mask", [MASK, MASK[:], DropoutMask((4, 5), 0, key=1)], ids=["plain", "sliced", "rate 0"])
@pytest.mark.parametrize(("given", "error", "pieces"), BAD_APPLICATIONS)
def test_a_mask_is_not_applied_to_what_does_not_fit_and_out_is_untouched(given, error, pieces, mask, implementation):
    arguments = {"x": np.ones((4, 5)), "out": np.full((4, 5), 7.0), **given}
    before = np.array(arguments["out"]).tobytes()
    assert_refused(error, pieces, lambda: mask.apply(**arguments))
    assert np.array(arguments["out"]).tobytes() == before


BAD_OTHERS = [
    case("from_array of int", lambda: DropoutMask.from_array([0, 1], 0.5), TypeError, "keep", "bool", "int64"),
    case("from_array of float", lambda: DropoutMask.from_array(np.ones(2), 0.5), TypeError, "keep", "bool", "float64"),
    case("from_array at rate 1", lambda: DropoutMask.from_array([True], 1), ValueError, "rate", "below 1"),
    case("from_array at rate 2", lambda: DropoutMask.from_array([True], 2), ValueError, "rate", "0 to 1", "2"),
    case("from_array, rate a bool", lambda: DropoutMask.from_array([True], True), TypeError, "rate", "True"),
    case("seed negative", lambda: PhiloxStream(-1), ValueError, "seed", "at least 0", "-1"),
    case("seed a float", lambda: PhiloxStream(1.5), TypeError, "seed", "int", "1.5", "float"),
    case("seed a bool", lambda: PhiloxStream(True), TypeError, "seed", "int", "True", "bool"),
    case("seed a string", lambda: PhiloxStream("7"), TypeError, "seed", "int", "'7'", "str"),
    case("seed with a negative", lambda: PhiloxStream([1, -1]), ValueError, "seed", "at least 0", "[1, -1]"),
    case("seed with a float", lambda: PhiloxStream([1, 1.5]), TypeError, "seed", "ints", "[1, 1.5]"),
    case("seed an array of floats", lambda: PhiloxStream(np.ones(2)), TypeError, "seed", "int", "ndarray"),
    case("seed a Generator", lambda: PhiloxStream(np.random.default_rng()), TypeError, "seed", "Generator"),
    case("from_key negative", lambda: PhiloxStream.from_key(-1), ValueError, "key", "2**64 - 1", "-1"),
    case("from_key of 65 bits", lambda: PhiloxStream.from_key(2**64), ValueError, "key", "2**64 - 1", str(2**64)),
    case("from_key of a float", lambda: PhiloxStream.from_key(1.0), TypeError, "key", "2**64 - 1", "1.0"),
    case("from_key, call of 57 bits", lambda: PhiloxStream.from_key(1, 2**56), ValueError, "call", "2**56 - 1"),
    case("from_key, call negative", lambda: PhiloxStream.from_key(1, -1), ValueError, "call", "2**56 - 1", "-1"),
    case("from_key, call a string", lambda: PhiloxStream.from_key(1, "0"), TypeError, "call", "2**56 - 1", "'0'"),
    case("spawn none", lambda: PhiloxStream(1).spawn(0), ValueError, "n must", "at least 1", "0"),
    case("spawn a float", lambda: PhiloxStream(1).spawn(2.0), TypeError, "n must", "at least 1", "2.0"),
    case("set_num_threads(0)", lambda: fastdrop.set_num_threads(0), ValueError, "n must", "at least 1", "0"),
    case("set_num_threads(1.0)", lambda: fastdrop.set_num_threads(1.0), TypeError, "n must", "at least 1", "1.0"),
    case("set_num_threads(None)", lambda: fastdrop.set_num_threads(None), TypeError, "n must", "at least 1", "None"),
    case("num_threads(-1)", lambda: fastdrop.num_threads(-1), ValueError, "n must", "at least 1", "-1"),
    case("num_threads('2')", lambda: fastdrop.num_threads("2"), TypeError, "n must", "at least 1", "'2'"),
    case("num_threads(True)", lambda: fastdrop.num_threads(True), TypeError, "n must", "at least 1", "True"),
    case("show_config mode", lambda: fastdrop.show_config(mode="x"), ValueError, "mode", "stdout", "dicts", "'x'"),
]


@pytest.mark.parametrize(("call", "error", "pieces"), BAD_OTHERS)
def test_bad_input_elsewhere_is_refused(call, error, pieces, capsys):
    threads = fastdrop.get_num_threads()
    assert_refused(error, pieces, call)
    assert fastdrop.get_num_threads() == threads
    assert capsys.readouterr().out == ""


# Good input


def kept(rate=0.5, **arguments):
    return fastdrop.dropout(np.ones(500, np.float64), rate, rng=3, **arguments)


@pytest.mark.parametrize(
    ("rate", "same"),
    [
        (0, 0.0),
        (1, 1.0),
        (np.int64(1), 1.0),
        (Fraction(1, 4), 0.25),
        (np.float32(0.25), 0.25),
        (np.float16(0.75), 0.75),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (-0.0, 0.0),
    ],
)
def test_a_rate_may_be_any_real_number(rate, same):
    mask = DropoutMask(500, rate, key=1)
    assert mask == DropoutMask(500, same, key=1)
    assert type(mask.rate) is float
    np.testing.assert_array_equal(kept(rate), kept(same))


@pytest.mark.parametrize(("keep_prob", "rate"), [(0.75, 0.25), (0.5, 0.5), (1, 0), (0, 1), (0.9, 1 - 0.9)])
def test_keep_prob_is_one_minus_rate(keep_prob, rate):
    y, mask = fastdrop.dropout(np.ones(500), keep_prob=keep_prob, rng=3, return_mask=True)
    np.testing.assert_array_equal(y, kept(rate))
    assert (mask.rate, mask.keep_prob) == (rate, 1 - rate)


def test_the_default_rate_is_one_half():
    np.testing.assert_array_equal(fastdrop.dropout(np.ones(500), rng=3), kept(0.5))


def test_noise_shape_may_hold_none_and_be_any_sequence_of_ints():
    x = np.ones((6, 5))
    expected = fastdrop.dropout(x, noise_shape=(6, 1), rng=3)
    for same in ([6, 1], (None, 1), np.array([6, 1]), [np.int8(6), np.int64(1)]):
        np.testing.assert_array_equal(fastdrop.dropout(x, noise_shape=same, rng=3), expected)
    np.testing.assert_array_equal(fastdrop.dropout(x, noise_shape=(None, None), rng=3), fastdrop.dropout(x, rng=3))


@pytest.mark.parametrize(
    ("dtype", "wider"), [("f2", "f4"), ("f2", "f8"), ("f4", "f8"), ("bfloat16", "f4"), ("bfloat16", "f8")]
)
def test_out_may_be_of_a_dtype_that_holds_every_value(dtype, wider, implementation):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x = np.linspace(-3, 3, 300).astype(dtype)
    out = np.full(300, 7, wider)
    assert fastdrop.dropout(x, 0.25, rng=5, out=out) is out
    # The result is rounded to x's dtype first: `out` decides where it goes and not what it is.
    np.testing.assert_array_equal(out, fastdrop.dropout(x, 0.25, rng=5).astype(wider), strict=True)


def test_a_list_of_floats_is_an_array():
    np.testing.assert_array_equal(fastdrop.dropout([1.0, 2.0], 0, rng=0), np.array([1.0, 2.0]), strict=True)


# The edges of the rate

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 5e-8]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_rate_0_returns_x_itself_and_uses_a_call(dtype, implementation):
    x = np.array(SPECIAL, dtype)
    stream = PhiloxStream(1)
    assert fastdrop.dropout(x, 0, rng=stream) is x
    assert stream.call == 1
    out = np.full_like(x, 7)
    assert fastdrop.dropout(x, 0.0, rng=stream, out=out) is out
    assert stream.call == 2
    assert out.tobytes() == x.tobytes()


@pytest.mark.parametrize("rate", [1, 1 - 2**-53])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_rate_of_1_or_one_that_rounds_to_it_gives_positive_zeros(rate, dtype, implementation):
    x = np.array(SPECIAL * 40, dtype)
    stream = PhiloxStream(1)
    zeros = np.zeros_like(x).tobytes()
    out = np.full_like(x, 7)
    with np.errstate(all="raise"):
        y, mask = fastdrop.dropout(x, rate, rng=stream, return_mask=True)
        fastdrop.dropout(x, rate, rng=stream, out=out)
        assert mask.apply(x).tobytes() == zeros
    assert (y.tobytes(), out.tobytes()) == (zeros, zeros)
    assert stream.call == 2
    assert not np.asarray(mask).any()


def test_a_rate_that_rounds_to_0_drops_nothing_and_copies(implementation):
    x = np.array(SPECIAL * 40)
    y = fastdrop.dropout(x, 1e-300, rng=1)
    assert y is not x
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


@pytest.mark.parametrize("rate", [0, 0.5, 1])
@pytest.mark.parametrize("rng", [PhiloxStream(1), np.random.default_rng(1), None], ids=["stream", "Generator", "None"])
def test_not_training_returns_x_itself_and_draws_nothing(rate, rng):
    x = np.array(SPECIAL)
    before = position(rng)
    assert fastdrop.dropout(x, rate, training=False, rng=rng) is x
    out = np.full_like(x, 7)
    assert fastdrop.dropout(x, rate, training=False, rng=rng, out=out) is out
    assert out.tobytes() == x.tobytes()
    assert position(rng) == before


@pytest.mark.parametrize("arguments", [{"rate": 0}, {"training": False}], ids=["rate 0", "not training"])
def test_the_copy_into_out_is_right_where_out_overlaps_x(arguments):
    buffer = np.arange(1000, dtype=np.float32)
    fastdrop.dropout(buffer[:-1], **arguments, out=buffer[1:])
    np.testing.assert_array_equal(buffer[1:], np.arange(999))
