# SPDX-License-Identifier: BSD-3-Clause
"""The family beside plain dropout, the copy and NumPy: ``python -m pytest benchmarks``.

Every case proves its result against the reference before it is measured.
"""

import numpy as np
import pytest

import fastdrop

MIB = 1 << 20
KEY = 0x5EED
FEATURES = 1024


@pytest.fixture(params=[0.1, 0.5])
def rate(request: pytest.FixtureRequest) -> float:
    return request.param


def stream() -> fastdrop.PhiloxStream:
    return fastdrop.PhiloxStream.from_key(KEY)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def proven(function, *args, **options) -> None:
    """The result is that of the reference, bit for bit."""
    got = function(*args, rng=stream(), **options)
    with fastdrop._using("reference"):
        assert got.tobytes() == function(*args, rng=stream(), **options).tobytes()


def fused_case(in_turn, function, operands, rate, in_numpy, extra_read) -> None:
    """A fused function beside plain dropout and beside the same in several passes."""
    x = operands[0]
    y, t = np.empty_like(x), np.empty_like(x)
    proven(function, *operands, rate)
    draws = stream()
    plain = {
        "dropout": lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
        "in NumPy calls": lambda: in_numpy(draws, t, y),
    }
    reading = (
        {"np.add": lambda: np.add(x, t, out=y), "np.negative": lambda: np.negative(x, out=y)} if extra_read else {}
    )
    over = {"dropout": 1, **({"np.add": 1, "np.negative": -1} if extra_read else {})}
    in_turn(
        lambda: function(*operands, rate, rng=draws, out=y),
        {**plain, **reading},
        (
            {"name": "plain dropout and the extra array's reading", "over": over, "at_most": 1.15},
            {"name": "the same in NumPy calls around dropout", "over": {"in NumPy calls": 1}, "at_most": 0.5},
        ),
    )


def test_dropout_add(in_turn, rate):
    x, residual = floats(2048, FEATURES), floats(2048, FEATURES, seed=1)

    def in_numpy(draws, t, y):
        np.add(residual, fastdrop.dropout(x, rate, rng=draws), out=y)

    fused_case(in_turn, fastdrop.dropout_add, (x, residual), rate, in_numpy, True)


def test_bias_dropout_add(in_turn, rate):
    x, bias, residual = floats(2048, FEATURES), floats(FEATURES, seed=2), floats(2048, FEATURES, seed=1)

    def in_numpy(draws, t, y):
        np.add(residual, fastdrop.dropout(x + bias, rate, rng=draws), out=y)

    fused_case(in_turn, fastdrop.bias_dropout_add, (x, bias, residual), rate, in_numpy, True)


def test_relu_dropout(in_turn, rate):
    x = floats(2048, FEATURES)

    def in_numpy(draws, t, y):
        fastdrop.dropout(np.maximum(x, 0), rate, rng=draws, out=y)

    fused_case(in_turn, fastdrop.relu_dropout, (x,), rate, in_numpy, False)


def test_relu_dropout_backward(in_turn, rate):
    x, dy = floats(2048, FEATURES), floats(2048, FEATURES, seed=1)
    y, mask = fastdrop.relu_dropout(x, rate, rng=stream(), return_mask=True)
    dx = fastdrop.relu_dropout_backward(dy, y, mask)
    assert np.array_equal(dx, mask.apply(dy) * (x > 0))
    in_turn(
        lambda: fastdrop.relu_dropout_backward(dy, y, mask, out=dx),
        {"np.multiply": lambda: np.multiply(dy, y, out=dx)},
        ({"name": "np.multiply of the same arrays", "over": {"np.multiply": 1}, "at_most": 1.15},),
    )


@pytest.mark.parametrize(
    ("function", "shape", "options"),
    [
        pytest.param(fastdrop.dropout2d, (32, 64, 32, 32), {}, id="dropout2d-channels_first"),
        pytest.param(
            fastdrop.dropout2d, (32, 32, 32, 64), {"data_format": "channels_last"}, id="dropout2d-channels_last"
        ),
        pytest.param(fastdrop.drop_path, (32, 64, 32, 32), {}, id="drop_path"),
    ],
)
def test_shared(in_turn, function, shape, options, rate):
    x = floats(*shape)
    y = np.empty_like(x)
    proven(function, x, rate, **options)
    draws = stream()
    in_turn(
        lambda: function(x, rate, rng=draws, out=y, **options),
        {"np.copyto": lambda: np.copyto(y, x)},
        ({"name": "the copy", "over": {"np.copyto": 1}, "at_most": 1.0},),
    )


@pytest.mark.parametrize("function", [fastdrop.gaussian_dropout, fastdrop.gaussian_noise])
def test_gaussian(in_turn, function):
    x = floats(512, 512)
    y = np.empty_like(x)
    proven(function, x, 0.1)
    draws, generator = stream(), np.random.default_rng(0)

    def in_numpy() -> None:
        np.multiply(x, generator.standard_normal(x.shape, np.float32), out=y)

    in_turn(
        lambda: function(x, 0.1, rng=draws, out=y),
        {"np.copyto": lambda: np.copyto(y, x), "standard_normal": in_numpy},
        ({"name": "x * rng.standard_normal", "over": {"standard_normal": 1}, "at_most": 0.1},),
    )


def test_alpha_dropout(in_turn, rate):
    x = floats(2048, FEATURES)
    y = np.empty_like(x)
    proven(fastdrop.alpha_dropout, x, rate)
    draws = stream()
    in_turn(
        lambda: fastdrop.alpha_dropout(x, rate, rng=draws, out=y),
        {"dropout": lambda: fastdrop.dropout(x, rate, rng=draws, out=y)},
        ({"name": "plain dropout", "over": {"dropout": 1}, "at_most": 1.15},),
    )
