# SPDX-License-Identifier: BSD-3-Clause
"""Bad input gets a clear error and nothing is lost: `out` and the streams stay as they were. Good input works."""

import itertools
from fractions import Fraction
from functools import partial

import helpers
import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, PhiloxStream

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
        rng = helpers.default_stream()
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
    case("noise_shape short of the left", {"noise_shape": (2,)}, ValueError, "noise_shape", "(2,)", "(2, 3)"),
    case("noise_shape larger than x", {"noise_shape": (1, 2, 3)}, ValueError, "noise_shape", "(1, 2, 3)", "(2, 3)"),
    case("noise_shape too long", {"noise_shape": (1, 2, 3)}, ValueError, "noise_shape", "(1, 2, 3)", "(2, 3)"),
    case("noise_shape of wrong lengths", {"noise_shape": (2, 2)}, ValueError, "noise_shape", "(2, 2)", "(2, 3)"),
    case("noise_shape of length 0", {"noise_shape": (0, 3)}, ValueError, "noise_shape", "(0, 3)", "(2, 3)"),
    case("noise_shape negative", {"noise_shape": (-1, 3)}, ValueError, "noise_shape", "(-1, 3)", "(2, 3)"),
    case("noise_shape an int", {"noise_shape": 3}, TypeError, "noise_shape", "3", "sequence"),
    case("noise_shape of floats", {"noise_shape": (1.0, 3)}, TypeError, "noise_shape", "(1.0, 3)", "ints"),
    case("noise_shape of bools", {"noise_shape": (True, 3)}, TypeError, "noise_shape", "(True, 3)", "ints"),
    case("noise_shape a string", {"noise_shape": "ab"}, TypeError, "noise_shape", "'ab'", "ints"),
    case("noise_shape and axes", {"noise_shape": (1, 3), "shared_axes": 0}, ValueError, "not both", "(1, 3)", "0"),
    case("shared_axes beyond the end", {"shared_axes": 2}, ValueError, "shared_axes", "-2 to 1", "got 2"),
    case("shared_axes before the start", {"shared_axes": (0, -3)}, ValueError, "shared_axes", "-2 to 1", "(0, -3)"),
    case("shared_axes of no dimension", {"x": np.float32(1), "out": None, "shared_axes": 0}, ValueError, "must be ()"),
    case("shared_axes twice", {"shared_axes": (0, 0)}, ValueError, "shared_axes", "twice", "(0, 0)"),
    case("shared_axes twice by both names", {"shared_axes": [1, -1]}, ValueError, "shared_axes", "twice", "[1, -1]"),
    case("shared_axes a float", {"shared_axes": 1.0}, TypeError, "shared_axes", "int or a sequence of ints", "1.0"),
    case("shared_axes of floats", {"shared_axes": (0, 1.0)}, TypeError, "shared_axes", "ints", "(0, 1.0)"),
    case("shared_axes a string", {"shared_axes": "0"}, TypeError, "shared_axes", "ints", "'0'"),
    case("shared_axes a bool", {"shared_axes": True}, TypeError, "shared_axes", "ints", "True"),
    case("shared_axes with None", {"shared_axes": (0, None)}, TypeError, "shared_axes", "ints", "None"),
    case("shared_axes of rows", {"shared_axes": np.array([[0]])}, TypeError, "shared_axes", "ints", "[[0]]"),
    case(
        "mode unknown", {"mode": "downscale"}, ValueError, "mode", "upscale_in_train", "downscale_in_infer", "got 'do"
    ),
    case("mode None", {"mode": None}, ValueError, "mode", "upscale_in_train", "downscale_in_infer", "None"),
    case("mode a bool", {"mode": True}, ValueError, "mode", "upscale_in_train", "downscale_in_infer", "True"),
    case("mode a list", {"mode": ["upscale_in_train"]}, ValueError, "mode must be", "got ['upscale_in_train']"),
    case("mode an array", {"mode": np.array(["a", "b"])}, ValueError, "mode must be", "got array(['a', 'b']"),
    case("rng negative", {"rng": -1}, ValueError, "rng", "-1", "at least 0"),
    case("rng a float", {"rng": 1.0}, TypeError, "rng", "1.0", "float", "SeedSequence", "PhiloxStream"),
    case("rng a bool", {"rng": True}, TypeError, "rng", "True", "bool", "SeedSequence", "PhiloxStream"),
    case("rng a string", {"rng": "7"}, TypeError, "rng", "'7'", "str", "SeedSequence", "PhiloxStream"),
    case("rng of floats", {"rng": [7.0]}, TypeError, "rng", "[7.0]", "ints"),
    case("rng of rows", {"rng": np.ones((2, 2), int)}, TypeError, "rng", "array", "SeedSequence"),
    case("rng a mask", {"rng": DropoutMask(3, 0.5, key=1)}, TypeError, "rng", "DropoutMask", "ints"),
    case("rng with a negative", {"rng": (7, -1)}, ValueError, "rng", "(7, -1)", "at least 0"),
    case("rng an array of no dimension", {"rng": np.array(7)}, TypeError, "rng", "array(7)", "SeedSequence"),
    case("rng bytes", {"rng": b"7"}, TypeError, "rng", "b'7'", "SeedSequence"),
    case("rng legacy", {"rng": np.random.RandomState(0)}, TypeError, "rng", "RandomState", "np.random.default_rng"),
    case("rng a module", {"rng": np.random}, TypeError, "rng", "module", "np.random.default_rng"),
    case("x of int", {"x": np.ones((2, 3), int)}, TypeError, "x must", FLOATS, "int64", "astype(np.float64)"),
    case("x of int32", {"x": np.ones((2, 3), np.int32)}, TypeError, "x must", FLOATS, "int32", "astype(np.float64)"),
    case("x of uint32", {"x": np.ones((2, 3), np.uint32)}, TypeError, "x must", FLOATS, "uint32", "astype(np.float64)"),
    case("x of int16", {"x": np.ones((2, 3), np.int16)}, TypeError, "x must", FLOATS, "int16", "astype(np.float32)"),
    case("x of int8", {"x": np.ones((2, 3), np.int8)}, TypeError, "x must", FLOATS, "int8", "astype(np.float32)"),
    case("x of bool", {"x": np.ones((2, 3), bool)}, TypeError, "x must", FLOATS, "bool", "astype(np.float32)"),
    case("x of object", {"x": X.astype(object)}, TypeError, "x must", FLOATS, "object", "astype"),
    case("x of strings", {"x": X.astype(str)}, TypeError, "x must", FLOATS, "<U", "astype"),
    case("x of bytes", {"x": X.astype("S8")}, TypeError, "x must", FLOATS, "S8", "astype"),
    case("x of dates", {"x": X.astype(int).astype("M8[D]")}, TypeError, "x must", FLOATS, "datetime64[D]"),
    case("x of durations", {"x": X.astype(int).astype("m8[s]")}, TypeError, "x must", FLOATS, "timedelta64[s]"),
    case("x of complex", {"x": X.astype(complex)}, TypeError, "x must", FLOATS, "complex128", "real and imaginary"),
    case("x of records", {"x": np.ones((2, 3), [("a", "f4")])}, TypeError, "x must", FLOATS, "'a'"),
    case("x None", {"x": None}, TypeError, "x must", FLOATS, "None"),
    case("x lists of unequal lengths", {"x": [[1.0], [1.0, 2.0]]}, ValueError, "x must", FLOATS, "list", "inhomogen"),
    case("x a list of ints", {"x": [[1, 2, 3], [4, 5, 6]]}, TypeError, "x must", FLOATS, "int64"),
    case("out of another shape", {"out": np.ones((3, 2), np.float32)}, ValueError, "out", "(2, 3)", "(3, 2)"),
    case("out of fewer dimensions", {"out": np.ones(6, np.float32)}, ValueError, "out", "(2, 3)", "(6,)"),
    case("out to broadcast from", {"out": np.ones((1, 3), np.float32)}, ValueError, "out", "(2, 3)", "(1, 3)"),
    case("out narrower", {"out": np.ones((2, 3), np.float16)}, TypeError, "out", "float32", "float16"),
    case("out of int", {"out": np.ones((2, 3), np.int64)}, TypeError, "out", "float32", "int64"),
    case("out of bool", {"out": np.ones((2, 3), bool)}, TypeError, "out", "float32", "bool"),
    case(
        "out of complex64 for float64",
        {"x": X.astype(np.float64), "out": np.ones((2, 3), np.complex64)},
        *(TypeError, "out", "float64", "complex64"),
    ),
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


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_ARGUMENTS)
def test_bad_input_is_refused_and_neither_out_nor_a_stream_is_changed(given, error, pieces, either):
    arguments = {"x": X, "rate": 0.5, "out": np.full(X.shape, 7, np.float32), **given}
    if "keep_prob" in given and "rate" not in given:
        del arguments["rate"]
    out = arguments["out"]
    before = out.tobytes() if isinstance(out, np.ndarray) else None
    sources = [given["rng"]] if "rng" in given else [PhiloxStream(1), np.random.default_rng(1), None]
    for rng, training in itertools.product(sources, (True, False)):
        watched = None if "rng" in given else rng
        start = position(watched)
        assert_refused(error, pieces, partial(fastdrop.dropout, **{**arguments, "rng": rng, "training": training}))
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


# The family

# What every function refuses alike, in arguments of these names; {name} is that of its first array.
BAD_FOR_ALL = [
    case("out of another shape", {"out": lambda x: np.ones((*x.shape, 1), x.dtype)}, ValueError, "out", "of {name}, ("),
    case("out narrower", {"out": lambda x: x.astype(np.float16)}, TypeError, "out", "float32", "float16"),
    case("out of int", {"out": lambda x: x.astype(int)}, TypeError, "out", "float32", "int64"),
    case("out read-only", {"out": lambda x: read_only(x.copy())}, ValueError, "out", "read-only"),
    case("out a broadcast view", {"out": lambda x: broadcast_view(x.shape)}, ValueError, "out", "share memory"),
    case("out a list", {"out": lambda x: x.tolist()}, TypeError, "out", "NumPy array", "list"),
    case("rng a float", {"rng": lambda x: 1.0}, TypeError, "rng", "1.0", "float", "PhiloxStream"),
    case("rng a bool", {"rng": lambda x: True}, TypeError, "rng", "True", "bool", "PhiloxStream"),
    case("rng negative", {"rng": lambda x: -1}, ValueError, "rng", "-1", "at least 0"),
    case("array of int", {"first": lambda x: x.astype(int)}, TypeError, "{name} must", FLOATS, "int64", "float64"),
    case("array of bool", {"first": lambda x: x > 0}, TypeError, "{name} must", FLOATS, "bool", "float32"),
    case("array of objects", {"first": lambda x: x.astype(object)}, TypeError, "{name} must", FLOATS, "object"),
    case("array None", {"first": lambda x: None}, TypeError, "{name} must", FLOATS, "got None"),
    case("array of complex", {"first": lambda x: x + 0j}, TypeError, "{name} must", FLOATS, "complex64", "imaginary"),
    case("amount negative", {"amount": lambda x: -0.5}, ValueError, "{amount}", "0", "got -0.5"),
    case("amount NaN", {"amount": lambda x: np.nan}, ValueError, "{amount}", "got nan"),
    case("amount infinite", {"amount": lambda x: np.inf}, ValueError, "{amount}", "got inf"),
    case("amount too large for a float", {"amount": lambda x: 10**400}, ValueError, "{amount}", "got 1000000"),
    case("amount a string", {"amount": lambda x: "0.5"}, TypeError, "{amount}", "real number", "'0.5'", "str"),
    case("amount a bool", {"amount": lambda x: True}, TypeError, "{amount}", "real number", "True", "bool"),
    case("amount None", {"amount": lambda x: None}, TypeError, "{amount}", "real number", "None"),
    case("amount an array", {"amount": lambda x: x}, TypeError, "{amount}", "real number", "ndarray of shape"),
]


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_FOR_ALL)
def test_every_function_refuses_it_and_loses_nothing(function, given, error, pieces, either):
    arrays = function.arrays()
    out = np.full(function.shape, 7, np.float32)
    options = {"amount": 0.5, "out": out}
    options |= {name: make(arrays[0]) for name, make in given.items()}
    first = options.pop("first") if "first" in given else arrays[0]
    options[function.amount] = options.pop("amount")
    pieces = [piece.format(name=function.operands[0], amount=function.amount) for piece in pieces]
    sources = [options.pop("rng")] if "rng" in given else [PhiloxStream(1), np.random.default_rng(1), None]
    for rng, training in itertools.product(sources, (True, False)):
        watched = None if "rng" in given else rng
        start = position(watched)
        assert_refused(error, pieces, partial(function, first, *arrays[1:], **options, rng=rng, training=training))
        assert position(watched) == start, f"{watched!r} has moved"
    assert (out == 7).all()


BAD_FOR_SOME = {
    "dropout1d": [
        case(
            "dimensions",
            {"x": np.ones(3), "training": True},
            ValueError,
            "x must",
            "(N, C, L) or (C, L)",
            "dropout1d",
            "got (3,)",
        ),
        case(
            "data_format", {"data_format": "NCW"}, ValueError, "data_format", "channels_first", "channels_last", "NCW"
        ),
    ],
    "dropout2d": [
        case(
            "too few dimensions",
            {"x": np.ones((2, 3)), "training": True},
            ValueError,
            "(N, C, H, W) or (C, H, W)",
            "got (2, 3)",
        ),
        case(
            "too many dimensions",
            {"x": np.ones((1, 2, 1, 1, 1)), "training": True},
            ValueError,
            "x must",
            "got (1, 2, 1, 1, 1)",
        ),
        case(
            "too few dimensions, channels last",
            {"x": np.ones((2, 3)), "data_format": "channels_last", "training": True},
            ValueError,
            "x must have shape (N, H, W, C) or (H, W, C)",
            "dropout2d with channels_last",
            "got (2, 3)",
        ),
        case(
            "data_format", {"data_format": "NCHW"}, ValueError, "data_format", "channels_first", "channels_last", "NC"
        ),
        case("data_format None", {"data_format": None}, ValueError, "data_format", "channels_first", "None"),
        case("data_format an array", {"data_format": np.ones(2)}, ValueError, "data_format must be", "got array"),
    ],
    "dropout3d": [
        case(
            "dimensions",
            {"x": np.ones((2, 3)), "training": True},
            ValueError,
            "x must",
            "(N, C, D, H, W) or (C, D, H, W)",
            "(2, 3)",
        ),
        case("data_format", {"data_format": 1}, ValueError, "data_format", "channels_first", "channels_last", "1"),
    ],
    "drop_path": [
        case("dimensions", {"x": np.float32(1), "training": True}, ValueError, "x must have samples", "no dimension")
    ],
    "embedding_dropout": [
        case(
            "one dimension",
            {"table": np.ones(3), "training": True},
            ValueError,
            "table",
            "two dimensions",
            "(words, features)",
            "(3,)",
        ),
        case(
            "three dimensions",
            {"table": np.ones((1, 2, 3)), "training": True},
            ValueError,
            "table",
            "two dimensions",
            "(1, 2, 3)",
        ),
    ],
    "feature_alpha_dropout": [
        case(
            "dimensions",
            {"x": np.ones(3), "training": True},
            ValueError,
            "x must",
            "at least two dimensions",
            "(N, C, ...)",
            "(3,)",
        ),
    ],
    "gaussian_dropout": [
        case("rate 1", {"rate": 1}, ValueError, "rate must be below 1", "rate / (1 - rate)", "got rate=1"),
        case("keep_prob 0", {"keep_prob": 0}, ValueError, "keep_prob above 2**-54", "got keep_prob=0"),
        case("keep_prob next to 0", {"keep_prob": 2**-54}, ValueError, "keep_prob above 2**-54", "got keep_prob=5.5"),
    ],
    "gaussian_noise": [
        case("stddev below 0", {"stddev": -5e-324}, ValueError, "stddev must be at least 0", "got -5e-324"),
    ],
    "dropout_add": [
        case(
            "residual of another shape", {"residual": np.ones((9, 5), "f4")}, ValueError, "residual", "of x, (7", "(9"
        ),
        case(
            "residual turned", {"residual": np.ones((9, 5, 7), "f4")}, ValueError, "residual", "of x, (7", "(9, 5, 7)"
        ),
        case("residual a number", {"residual": 1.0}, ValueError, "residual must have the shape of x", "got ()"),
        case("residual to broadcast", {"residual": np.ones((1, 5, 9), "f4")}, ValueError, "residual", "got (1, 5, 9)"),
        case(
            "residual of another dtype", {"residual": np.ones((7, 5, 9))}, TypeError, "residual", "float32", "float64"
        ),
        case("residual of int", {"residual": np.ones((7, 5, 9), int)}, TypeError, "residual must", FLOATS, "int64"),
        case("residual None", {"residual": None}, TypeError, "residual must be an array", FLOATS, "got None"),
    ],
    "bias_dropout_add": [
        case(
            "residual of another shape", {"residual": np.ones((9, 5), "f4")}, ValueError, "residual", "of x, (7", "(9"
        ),
        case(
            "residual of another dtype", {"residual": np.ones((7, 5, 9))}, TypeError, "residual", "float32", "float64"
        ),
        case("residual None", {"residual": None}, TypeError, "residual must be an array", FLOATS, "got None"),
        case("bias longer", {"bias": np.ones(10, "f4")}, ValueError, "bias", "x's last dimension, (9,)", "got (10,)"),
        case("bias shorter", {"bias": np.ones(8, "f4")}, ValueError, "bias", "x's last dimension, (9,)", "got (8,)"),
        case("bias to broadcast", {"bias": np.ones(1, "f4")}, ValueError, "bias", "x's last dimension, (9,)", "(1,)"),
        case("bias a row", {"bias": np.ones((1, 9), "f4")}, ValueError, "bias", "x's last dimension, (9,)", "(1, 9)"),
        case("bias a number", {"bias": 1.0}, ValueError, "bias", "x's last dimension, (9,)", "got ()"),
        case("bias of another dtype", {"bias": np.ones(9)}, TypeError, "bias", "dtype of x, float32", "float64"),
        case("bias of int", {"bias": np.ones(9, int)}, TypeError, "bias must", FLOATS, "int64"),
        case("bias None", {"bias": None}, TypeError, "bias must be an array", FLOATS, "got None"),
        case("no features", {"x": np.float32(1), "out": None}, ValueError, "x must have features", "no dimension"),
    ],
    "zoneout": [
        case(
            "old of another shape", {"old": np.ones((9, 5), "f4")}, ValueError, "old", "shape of new, (7", "got (9, 5)"
        ),
        case("old turned", {"old": np.ones((9, 5, 7), "f4")}, ValueError, "old", "shape of new, (7", "got (9, 5, 7)"),
        case("old of another dtype", {"old": np.ones((7, 5, 9))}, TypeError, "old", "of new, float32", "got float64"),
        case("old of int", {"old": np.ones((7, 5, 9), int)}, TypeError, "old must", FLOATS, "int64"),
        case("old None", {"old": None}, TypeError, "old must be an array", FLOATS, "got None"),
    ],
}


@pytest.mark.parametrize(
    ("function", "given", "error", "pieces"),
    [pytest.param(name, *row.values, id=f"{name}: {row.id}") for name, rows in BAD_FOR_SOME.items() for row in rows],
    indirect=["function"],
)
def test_what_a_function_cannot_take_it_refuses_and_loses_nothing(function, given, error, pieces, either):
    arrays = dict(zip(function.operands, function.arrays(), strict=True))
    options = dict(given)
    if "keep_prob" not in given:
        options.setdefault(function.amount, 0.5)
    for name in arrays.keys() & given.keys():
        arrays[name] = options.pop(name)
    out = np.full(np.shape(arrays[function.operands[0]]), 7, np.float64)
    for rng, training in itertools.product((PhiloxStream(1), np.random.default_rng(1), None), (True, False)):
        start = position(rng)
        arguments = {"out": out, "training": training, **options, "rng": rng}
        assert_refused(error, pieces, partial(function, *arrays.values(), **arguments))
        assert position(rng) == start, f"{rng!r} has moved"
    assert (out == 7).all()


def test_of_many_mistakes_every_function_names_the_same_one_first(function):
    """The amount, the first array, out, the other arrays, and then training, return_mask and rng."""
    first, *others = function.operands
    right = dict(zip(function.operands, function.arrays(), strict=True))
    right |= {"out": None, "training": True, "return_mask": False, "rng": 1, function.amount: 0.5}
    wrong = {function.amount: "half", first: np.ones(3, int), "out": "y"}
    wrong |= dict.fromkeys(others, "z") | {"training": "no", "return_mask": "yes", "rng": "1"}
    named = []
    while wrong:
        with pytest.raises(TypeError) as caught:
            function(**{**right, **wrong})
        named.append(str(caught.value).split(" must ")[0])
        del wrong[named[-1]]
    assert named == [function.amount, first, "out", *others, "training", "return_mask", "rng"]


@pytest.mark.parametrize("keep_prob", [0.5, 1])
def test_rate_and_keep_prob_together_are_refused(function, keep_prob):
    stream = PhiloxStream(1)
    give_both = partial(function, *function.arrays(), 0.25, keep_prob=keep_prob, rng=stream)
    pieces = ("keep_prob",) if function.amount == "stddev" else ("rate=0.25", f"keep_prob={keep_prob}", "not both")
    assert_refused(TypeError if function.amount == "stddev" else ValueError, pieces, give_both)
    assert stream.call == 0


DY = np.ones((4, 5))
KEPT = DropoutMask((4, 5), 0.5, key=1, scale=1.0)
ANOTHER = fastdrop.GaussianMask((4, 5), 0.5, key=1)
ALPHA = fastdrop.AlphaMask((4, 5), 0.5, key=1)
UNFIT = [
    case("mask None", {"mask": None}, TypeError, "mask must be a DropoutMask", "got None"),
    case("mask an array", {"mask": DY > 0}, TypeError, "mask must be a DropoutMask", "got an ndarray of"),
    case("mask Gaussian", {"mask": ANOTHER}, TypeError, "mask must be a DropoutMask", "got a GaussianMask"),
    case("mask of alpha dropout", {"mask": ALPHA}, TypeError, "mask must be a DropoutMask", "got an AlphaMask"),
    case("mask of another shape", {"mask": KEPT[1:]}, ValueError, "dy must", "shape of the mask, (3, 5)", "got (4, 5)"),
    case("dy of int", {"dy": np.ones((4, 5), int)}, TypeError, "dy must", FLOATS, "int64"),
    case("dy None", {"dy": None}, TypeError, "dy must", FLOATS, "got None"),
]


@pytest.mark.parametrize(
    "backward",
    [
        fastdrop.dropout_add_backward,
        fastdrop.bias_dropout_add_backward,
        partial(fastdrop.relu_dropout_backward, y=DY),
        fastdrop.zoneout_backward,
    ],
    ids=["dropout_add", "bias_dropout_add", "relu_dropout", "zoneout"],
)
@pytest.mark.parametrize(("given", "error", "pieces"), UNFIT)
def test_backward_functions_refuse_what_does_not_fit(backward, given, error, pieces, either):
    assert_refused(error, pieces, partial(backward, **{"dy": DY, "mask": KEPT, **given}))


BAD_BACKWARD = [
    case(
        "bias without features",
        partial(fastdrop.bias_dropout_add_backward, np.float64(1), DropoutMask((), 0.5, key=1)),
        ValueError,
        "dy must have features",
        "no dimension",
    ),
    case(
        "zoneout with a mask that scales",
        partial(fastdrop.zoneout_backward, DY, MASK),
        ValueError,
        "mask must be as zoneout returns it",
        "scale 2.0",
        "DropoutMask((4, 5), 0.5",
    ),
    case(
        "relu with y of another shape",
        partial(fastdrop.relu_dropout_backward, DY, DY[:1], MASK),
        ValueError,
        "y must have the shape of dy, (4, 5), got (1, 5)",
    ),
    case(
        "relu with y of another dtype",
        partial(fastdrop.relu_dropout_backward, DY, DY.astype(np.float32), MASK),
        TypeError,
        "y must have the dtype of dy, float64, got float32",
    ),
    case(
        "relu with y and mask swapped",
        partial(fastdrop.relu_dropout_backward, DY, MASK, DY),
        TypeError,
        "mask must be a DropoutMask, got an ndarray",
    ),
    case(
        "relu into an out of another shape",
        partial(fastdrop.relu_dropout_backward, DY, DY, MASK, np.ones((5, 4))),
        ValueError,
        "out must have the shape of dy, (4, 5), got (5, 4)",
    ),
    case(
        "relu into read-only memory",
        partial(fastdrop.relu_dropout_backward, DY, DY, MASK, read_only(np.ones((4, 5)))),
        ValueError,
        "out is read-only",
    ),
]


@pytest.mark.parametrize(("call", "error", "pieces"), BAD_BACKWARD)
def test_a_backward_function_refuses_what_it_cannot_take(call, error, pieces, either):
    assert_refused(error, pieces, call)


BAD_MASKS = [
    case("shape negative", {"shape": -1}, ValueError, "shape", "at least 0", "-1"),
    case("shape with a negative length", {"shape": (3, -2)}, ValueError, "shape", "at least 0", "(3, -2)"),
    case("shape a float", {"shape": 3.0}, TypeError, "shape", "int", "3.0"),
    case("shape of floats", {"shape": (3.0, 2)}, TypeError, "shape", "ints", "(3.0, 2)"),
    case("shape a string", {"shape": "33"}, TypeError, "shape", "ints", "'33'"),
    case("shape None", {"shape": None}, TypeError, "shape", "int", "None"),
    case("shape of too many dimensions", {"shape": (1,) * 65}, ValueError, "shape", "at most 64", "65"),
    # Element indices are 64 bits wide: a larger mask could not be drawn, so it must not be made.
    case("shape past all indices", {"shape": (2**40, 2**40)}, ValueError, "shape", "2**63"),
    case("shape of 2**63", {"shape": 2**63}, ValueError, "shape", "less than 2**63 elements", str(2**63)),
    case("shape of 2**63 in all", {"shape": (2**32, 2**31)}, ValueError, "shape", "less than 2**63 elements"),
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
    case("noise_shape too long", {"noise_shape": (1,) * 4}, ValueError, "noise_shape", "(1, 1, 1, 1)", "(4, 5, 6)"),
    case("noise_shape of wrong lengths", {"noise_shape": (4, 2, 1)}, ValueError, "noise_shape", "(4, 2, 1)"),
    case("noise_shape an int", {"noise_shape": 1}, TypeError, "noise_shape", "1"),
]


@pytest.mark.parametrize("kind", [DropoutMask, fastdrop.AlphaMask])
@pytest.mark.parametrize(("given", "error", "pieces"), BAD_MASKS)
def test_a_mask_of_bad_parameters_is_not_made(given, error, pieces, kind):
    arguments = {"shape": (4, 5, 6), "rate": 0.5, "key": 1, **given}
    assert_refused(error, pieces, lambda: kind(**arguments))


@pytest.mark.parametrize(("scale", "error"), [("2", TypeError), (True, TypeError), (np.nan, ValueError)])
def test_a_mask_of_a_bad_scale_is_not_made(scale, error):
    assert_refused(error, ("scale", repr(scale)), lambda: DropoutMask(3, 0.5, key=1, scale=scale))


BAD_GAUSSIAN_MASKS = [row for row in BAD_MASKS if {"rate", "noise_shape"}.isdisjoint(row.values[0])] + [
    case("stddev below 0", {"stddev": -1}, ValueError, "stddev", "at least 0", "-1"),
    case("stddev NaN", {"stddev": np.nan}, ValueError, "stddev", "finite", "nan"),
    case("stddev infinite", {"stddev": np.inf}, ValueError, "stddev", "finite", "inf"),
    case("stddev too large for a float", {"stddev": 10**400}, ValueError, "stddev", "finite", "10000"),
    case("stddev a string", {"stddev": "x"}, TypeError, "stddev", "real number", "'x'"),
    case("stddev a bool", {"stddev": False}, TypeError, "stddev", "real number", "False"),
    case("additive a string", {"additive": "no"}, TypeError, "additive", "True or False", "'no'"),
    case("additive an int", {"additive": 1}, TypeError, "additive", "True or False", "1 of type int"),
]


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_GAUSSIAN_MASKS)
def test_a_gaussian_mask_of_bad_parameters_is_not_made(given, error, pieces):
    arguments = {"shape": (4, 5, 6), "stddev": 0.5, "key": 1, **given}
    assert_refused(error, pieces, lambda: fastdrop.GaussianMask(**arguments))


BAD_INDICES = [
    case("step of 0", np.s_[::0], ValueError, "step", "0"),
    case("float as step", np.s_[::2.0], TypeError, "slice", "ints", "2.0"),
    case("slice beyond the end", np.s_[0:5], ValueError, "length 4", "0, 5"),
    case("slice from beyond the end", np.s_[5:], ValueError, "length 4", "5"),
    case("slice before the start", np.s_[:, -6:], ValueError, "length 5", "-6"),
    case("int beyond the end", 4, ValueError, "length 4", "4"),
    case("int before the start", np.s_[:, -6], ValueError, "length 5", "-6"),
    case("too many", np.s_[0, 0, 0], ValueError, "(4, 5)", "(0, 0, 0)", "at most 2"),
    case("two Ellipses", np.s_[..., ...], ValueError, "one Ellipsis"),
    case("too many beside newaxis", np.s_[0, np.newaxis, 0, 0], ValueError, "(4, 5)", "None", "at most 2"),
    case("float", 1.0, TypeError, "slices", "ints", "1.0"),
    case("float in a slice", np.s_[1.5:], TypeError, "slice", "ints", "1.5"),
    case("bool", True, TypeError, "slices", "ints", "True"),
    case("string", "key", TypeError, "slices", "ints", "'key'"),
    case("list", [0, 1], TypeError, "slices", "ints", "[0, 1]"),
    case("array", np.array([0, 1]), TypeError, "slices", "ints", "array"),
    case("array of bools", np.array([True, False] * 2), TypeError, "slices", "ints", "array"),
]


@pytest.mark.parametrize(("given", "error", "pieces"), BAD_INDICES)
def test_an_index_that_a_mask_cannot_take_is_refused(given, error, pieces):
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


@pytest.mark.parametrize(
    "mask",
    [
        *(MASK, MASK[:], DropoutMask((4, 5), 0, key=1), fastdrop.AlphaMask((4, 5), 0.5, key=1)),
        *(fastdrop.GaussianMask((4, 5), stddev, key=1, additive=flag) for stddev in (0, 1) for flag in (False, True)),
    ],
    ids=["plain", "sliced", "rate 0", "alpha", "stddev 0", "stddev 0, additive", "Gaussian", "additive"],
)
@pytest.mark.parametrize(("given", "error", "pieces"), BAD_APPLICATIONS)
def test_a_mask_is_not_applied_to_what_does_not_fit_and_out_is_untouched(given, error, pieces, mask, either):
    x, out = ({"x": np.ones((4, 5)), "out": np.full((4, 5), 7.0), **given}[name] for name in ("x", "out"))
    before = np.array(out).tobytes()
    assert_refused(error, pieces, lambda: mask.apply(x, out))
    pieces = ["dy" if piece == "x" else piece for piece in pieces]
    assert_refused(error, pieces, lambda: mask.backward(x, out))
    assert np.array(out).tobytes() == before


BAD_OTHERS = [
    case("from_array of int", lambda: DropoutMask.from_array([0, 1], 0.5), TypeError, "keep", "bool", "int64"),
    case("from_array of float", lambda: DropoutMask.from_array(np.ones(2), 0.5), TypeError, "keep", "bool", "float64"),
    case("from_array without a rate", lambda: DropoutMask.from_array([True]), TypeError, "rate or keep_prob", "bool"),
    case("from_array of int, no rate", lambda: DropoutMask.from_array([0, 2]), TypeError, "keep", FLOATS, "int64"),
    case("from_array of two scales", lambda: DropoutMask.from_array([0, 2.0, 3.0]), ValueError, "keep", "the scale"),
    case("from_array, scale below 1", lambda: DropoutMask.from_array([0, 0.5]), ValueError, "keep", "at least 1"),
    case("from_array, scale negative", lambda: DropoutMask.from_array([0, -2.0]), ValueError, "keep", "at least 1"),
    case("from_array with NaN", lambda: DropoutMask.from_array([0, np.nan]), ValueError, "keep", "at least 1"),
    case("from_array with infinity", lambda: DropoutMask.from_array([0, np.inf]), ValueError, "keep", "at least 1"),
    case("from_array of scaled alpha", lambda: fastdrop.AlphaMask.from_array([0, 2.0]), TypeError, "keep", "bool"),
    case("from_array at rate 1", lambda: DropoutMask.from_array([True], 1), ValueError, "rate", "below 1"),
    case("from_array at rate 2", lambda: DropoutMask.from_array([True], 2), ValueError, "rate", "0 to 1", "2"),
    case("from_array, rate a bool", lambda: DropoutMask.from_array([True], True), TypeError, "rate", "True"),
    case("seed negative", lambda: PhiloxStream(-1), ValueError, "seed", "at least 0", "-1"),
    case("seed a float", lambda: PhiloxStream(1.5), TypeError, "seed", "int", "1.5", "float"),
    case("seed a bool", lambda: PhiloxStream(True), TypeError, "seed", "int", "True", "bool"),
    case("seed a string", lambda: PhiloxStream("7"), TypeError, "seed", "int", "'7'", "str"),
    case("seed with a negative", lambda: PhiloxStream([1, -1]), ValueError, "seed", "at least 0", "[1, -1]"),
    case("seed with a float", lambda: PhiloxStream([1, 1.5]), TypeError, "seed", "ints", "[1, 1.5]"),
    case("seed an array of floats", lambda: PhiloxStream(np.ones(2)), TypeError, "seed", "ints", "array([1., 1.])"),
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
        (np.array(0.25), 0.25),
        (np.array(0.75, np.float16), 0.75),
        (np.array(1), 1.0),
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


def test_numbers_may_be_arrays_of_no_dimension_wherever_they_are_taken(either):
    x, number = np.ones((4, 50)), np.array(0.25)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for given in (number, ml_dtypes.bfloat16(0.25), np.array(0.25, ml_dtypes.bfloat16)):
        np.testing.assert_array_equal(
            fastdrop.dropout(x, keep_prob=given, rng=3), fastdrop.dropout(x, keep_prob=0.25, rng=3)
        )
        assert fastdrop.GaussianMask(3, given, key=1) == fastdrop.GaussianMask(3, 0.25, key=1)
        assert DropoutMask(3, 0.5, key=1, scale=given) == DropoutMask(3, 0.5, key=1, scale=0.25)
        assert DropoutMask.from_array([True], given) == DropoutMask.from_array([True], 0.25)
        assert fastdrop.Dropout(given).rate == fastdrop.Dropout(keep_prob=given).rate - 0.5 == 0.25
        assert fastdrop.GaussianNoise(given).stddev == fastdrop.RecurrentDropout(given).dropout == 0.25
        assert fastdrop.DropoutWrapper(max, given).input_keep_prob == 0.25
    for bad in (np.array(True), np.array("0.25"), np.array([0.25]), np.array(0.25j)):
        with pytest.raises(TypeError, match="rate must be a real number from 0 to 1"):
            fastdrop.dropout(x, bad)


@pytest.mark.parametrize("seed", [[1, 2], (0, 2**70), np.array([3, 4]), np.array([3, 4], np.uint32), range(3), []])
def test_a_sequence_of_ints_is_the_seed_that_numpy_makes_of_it(seed, function):
    key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    assert PhiloxStream(seed).key == key
    assert PhiloxStream(seed).spawn(1)[0].key == PhiloxStream(np.random.SeedSequence(seed)).spawn(1)[0].key
    arrays = function.arrays()
    named, same = (
        function(*arrays, **{function.amount: 0.5}, rng=rng, return_mask=True) for rng in (seed, PhiloxStream(seed))
    )
    assert named[1] == same[1]
    assert fastdrop.Dropout(rng=seed).rng.key == fastdrop.RecurrentDropout(rng=seed).rng.key == key


class ForeignArray:
    """An array of another library, as JAX's keys are."""

    ndim = 1

    def __array__(self, dtype=None, copy=None):
        return np.array([3, 4], np.uint32)

    def __index__(self):
        raise TypeError("only integer scalar arrays can be converted to a scalar index")


def test_an_array_of_another_library_is_a_seed_too():
    assert PhiloxStream(ForeignArray()).key == PhiloxStream([3, 4]).key
    expected = fastdrop.dropout(np.ones(50), rng=[3, 4])
    np.testing.assert_array_equal(fastdrop.dropout(np.ones(50), rng=ForeignArray()), expected)


def test_a_seed_does_not_follow_later_changes_of_its_list():
    seed = [1, 2]
    stream = PhiloxStream(seed)
    seed[0] = 5
    assert stream.spawn(1)[0].key == PhiloxStream([1, 2]).spawn(1)[0].key


@pytest.mark.parametrize("noise_shape", [(), (1,), (3,), (None,), (1, 3), (2, 1), (1, 1, 3), (1, None), (4, 1, 1)])
def test_noise_shape_is_any_shape_that_broadcasts_to_that_of_x(noise_shape, either):
    x = np.ones((4, 2, 3))
    lengths = tuple(own if n is None else n for n, own in zip(noise_shape[::-1], x.shape[::-1], strict=False))[::-1]
    small = np.asarray(DropoutMask(lengths, 0.5, key=PhiloxStream(5).key))
    y, mask = fastdrop.dropout(x, 0.5, noise_shape=noise_shape, rng=5, return_mask=True)
    np.testing.assert_array_equal(y, np.broadcast_to(np.where(small, 2.0, 0.0), x.shape))
    assert mask == DropoutMask(x.shape, 0.5, key=PhiloxStream(5).key, noise_shape=noise_shape)
    np.testing.assert_array_equal(fastdrop.Dropout(0.5, noise_shape=noise_shape, rng=5)(x), y)


def test_noise_shape_may_hold_the_0_of_an_array_without_elements():
    for noise_shape in ((0, 3), (0, 1), (1, 3), (3,), (1,), ()):
        assert fastdrop.dropout(np.ones((0, 3)), noise_shape=noise_shape, rng=1).shape == (0, 3)


def test_noise_shape_may_hold_none_and_be_any_sequence_of_ints():
    x = np.ones((6, 5))
    expected = fastdrop.dropout(x, noise_shape=(6, 1), rng=3)
    for same in ([6, 1], (None, 1), np.array([6, 1]), [np.int8(6), np.int64(1)]):
        np.testing.assert_array_equal(fastdrop.dropout(x, noise_shape=same, rng=3), expected)
    np.testing.assert_array_equal(fastdrop.dropout(x, noise_shape=(None, None), rng=3), fastdrop.dropout(x, rng=3))


@pytest.mark.parametrize(
    ("dtype", "wider"), [("f2", "f4"), ("f2", "f8"), ("f4", "f8"), ("bfloat16", "f4"), ("bfloat16", "f8")]
)
def test_out_may_be_of_a_dtype_that_holds_every_value(dtype, wider, either):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x = np.linspace(-3, 3, 300).astype(dtype)
    out = np.full(300, 7, wider)
    assert fastdrop.dropout(x, 0.25, rng=5, out=out) is out
    # The result is rounded to x's dtype first: `out` decides where it goes and not what it is.
    np.testing.assert_array_equal(out, fastdrop.dropout(x, 0.25, rng=5).astype(wider), strict=True)


@pytest.mark.parametrize(("dtype", "wider"), [("f2", "c8"), ("f4", "c8"), ("f4", "c16"), ("f8", "c16")])
def test_out_may_be_complex_and_its_imaginary_parts_become_zero(dtype, wider, either):
    x = np.linspace(-3, 3, 300).astype(dtype)
    for rate, training in itertools.product((0, 0.25, 1), (True, False)):
        options = {"rate": rate, "training": training, "rng": 5}
        for out in (np.full(300, 7 + 7j, wider), np.full(600, 7 + 7j, wider)[::2]):
            assert fastdrop.dropout(x, **options, out=out) is out
            np.testing.assert_array_equal(out, fastdrop.dropout(x, **options).astype(wider), strict=True)
            assert not out.imag.any()


class Index:
    """An int in all but its class. It says once what it is: who asks again gets another answer."""

    def __init__(self, number):
        self.answers = iter([number])

    def __index__(self):
        return next(self.answers, -(10**9))


class Broken:
    def __index__(self):
        raise RuntimeError("no number now")


# Calls with an int for n, and a number that it may be.
OF_INTS = {
    "rng": (lambda n: fastdrop.dropout(X, rng=n), 7),
    "rng of a layer": (lambda n: fastdrop.Dropout(rng=n).rng.key, 7),
    "seed": (lambda n: PhiloxStream(n).key, 2**70),
    "sequence of seeds": (lambda n: PhiloxStream([n, 3]).key, 7),
    "key": (lambda n: PhiloxStream.from_key(n).key, 2**63),
    "call": (lambda n: PhiloxStream.from_key(1, n).call, 7),
    "key of a mask": (lambda n: DropoutMask(5, 0.5, key=n), 7),
    "call of a mask": (lambda n: DropoutMask(5, 0.5, key=1, call=n), 7),
    "length": (lambda n: DropoutMask(n, 0.5, key=1), 7),
    "lengths": (lambda n: DropoutMask((n, 2), 0.5, key=1), 7),
    "noise_shape": (lambda n: fastdrop.dropout(X, noise_shape=(n, None), rng=1), 1),
    "noise_shape of a layer": (lambda n: repr(fastdrop.Dropout(noise_shape=(n, None), rng=1)), 1),
    "shared_axes": (lambda n: fastdrop.dropout(X, shared_axes=n, rng=1), 1),
    "sequence of shared_axes": (lambda n: fastdrop.dropout(X, shared_axes=[n], rng=1), -1),
    "shared_axes of a layer": (lambda n: repr(fastdrop.Dropout(shared_axes=n, rng=1)), 1),
    "index": (lambda n: DropoutMask((5, 2), 0.5, key=1)[n], -2),
    "slice": (lambda n: DropoutMask((5, 2), 0.5, key=1)[n:], 2),
    "step": (lambda n: DropoutMask((5, 2), 0.5, key=1)[::n], 1),
    "spawn": (lambda n: [stream.key for stream in PhiloxStream(1).spawn(n)], 3),
    "passes": (lambda n: fastdrop.mc_predict(np.sin, X, n).mean, 3),
    "gates": (lambda n: fastdrop.RecurrentDropout(gates=n).gates, 3),
    "batch": (lambda n: fastdrop.RecurrentDropout(0.5, rng=1).draw(n, 3, 4), 2),
    "time_axis": (lambda n: fastdrop.RecurrentDropout().draw(2, 3, 4).input.apply(np.ones((2, 5, 3)), time_axis=n), 1),
    "threads": (lambda n: threads_within(n), 3),
}


def threads_within(n):
    with fastdrop.num_threads(n):
        return fastdrop.get_num_threads()


@pytest.mark.parametrize("name", OF_INTS)
def test_an_int_may_be_of_any_class_that_says_which(name):
    call, number = OF_INTS[name]
    np.testing.assert_equal(call(Index(number)), call(number))
    with pytest.raises(RuntimeError, match="no number now"):
        call(Broken())


def test_an_int_that_fails_to_say_which_changes_nothing():
    stream, before = PhiloxStream(1), fastdrop.get_num_threads()
    for wrong in (
        lambda: stream.spawn(Broken()),
        lambda: fastdrop.set_num_threads(Broken()),
        lambda: fastdrop.dropout(X, shared_axes=Broken(), rng=stream),
        lambda: fastdrop.RecurrentDropout(0.5, rng=stream).draw(2, 3, Broken()),
    ):
        with pytest.raises(RuntimeError, match="no number now"):
            wrong()
    assert stream.call == 0
    assert stream.spawn(1)[0].key == PhiloxStream(1).spawn(1)[0].key
    assert fastdrop.get_num_threads() == before


def test_a_list_of_floats_is_an_array():
    np.testing.assert_array_equal(fastdrop.dropout([1.0, 2.0], 0, rng=0), np.array([1.0, 2.0]), strict=True)


# The edges of the rate

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 5e-8]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_rate_0_returns_x_itself_and_uses_a_call(dtype, either):
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
def test_a_rate_of_1_or_one_that_rounds_to_it_gives_positive_zeros(rate, dtype, either):
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


def test_a_rate_that_rounds_to_0_drops_nothing_and_copies(either):
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
