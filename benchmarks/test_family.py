# SPDX-License-Identifier: BSD-3-Clause
"""The family beside plain dropout, the copy and the same in NumPy."""

import math

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import Turn, about, kept, numbers, placed, proven, same_bits, stream
from fastdrop import _backend

ROWS, FEATURES = 2048, 1024


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return numbers(4 * math.prod(shape), seed=seed).reshape(shape)


def fused_case(in_turn, function, shapes, rate, in_numpy, extra_read) -> None:
    """A fused function beside plain dropout and beside the same in several passes."""

    def operands() -> list[np.ndarray]:
        return [floats(*shape, seed=seed) for seed, shape in enumerate(shapes)]

    def make() -> Turn:
        arrays = operands()
        x, y = arrays[0], placed(arrays[0])
        draws = stream()
        references = {
            "np.copyto": lambda: np.copyto(y, x),
            "dropout": lambda: fastdrop.dropout(x, rate, rng=draws, out=y),
            "in NumPy calls": lambda: in_numpy(draws, y, *arrays),
        }
        if extra_read:
            other = arrays[-1]
            references |= {
                "np.add": lambda: np.add(x, other, out=y),
                "np.negative": lambda: np.negative(x, out=y),
            }
        return Turn(
            lambda: function(*arrays, rate, rng=draws, out=y),
            references,
            lambda: proven(lambda out: function(*arrays, rate, rng=stream(), out=out), y),
        )

    nbytes = 4 * math.prod(shapes[0])
    result, mask = function(*operands(), rate, return_mask=True)
    memory = kept(result, mask) if function is fastdrop.relu_dropout else kept(mask)
    moved = nbytes + sum(4 * math.prod(shape) for shape in shapes)
    plain = {"name": "plain dropout", "over": {"dropout": 1}, "at_most": 1.15}
    if extra_read:
        plain["name"] += " and the extra array's reading"
        plain["over"] |= {"np.add": 1, "np.negative": -1}
    bounds = (
        plain,
        {"name": "the same in NumPy calls around dropout", "over": {"in NumPy calls": 1}, "at_most": 0.5},
    )
    in_turn(make, about("forward", function.__name__, nbytes, rate, moved=moved, memory=memory), bounds)


def test_dropout_add(in_turn, rate):
    def in_numpy(draws, y, x, residual):
        np.add(residual, fastdrop.dropout(x, rate, rng=draws), out=y)

    shapes = (ROWS, FEATURES), (ROWS, FEATURES)
    fused_case(in_turn, fastdrop.dropout_add, shapes, rate, in_numpy, True)


def test_bias_dropout_add(in_turn, rate):
    def in_numpy(draws, y, x, bias, residual):
        np.add(residual, fastdrop.dropout(x + bias, rate, rng=draws), out=y)

    shapes = (ROWS, FEATURES), (FEATURES,), (ROWS, FEATURES)
    fused_case(in_turn, fastdrop.bias_dropout_add, shapes, rate, in_numpy, True)


def test_relu_dropout(in_turn, rate):
    def in_numpy(draws, y, x):
        fastdrop.dropout(np.maximum(x, 0), rate, rng=draws, out=y)

    fused_case(in_turn, fastdrop.relu_dropout, ((ROWS, FEATURES),), rate, in_numpy, False)


def test_relu_dropout_backward(in_turn, rate):
    def make() -> Turn:
        x, dy = floats(ROWS, FEATURES), floats(ROWS, FEATURES, seed=1)
        y, mask = fastdrop.relu_dropout(x, rate, rng=stream(), return_mask=True)
        y, dx = placed(y), placed(dy)

        def proof() -> None:
            got = fastdrop.relu_dropout_backward(dy, y, mask, out=dx)
            with _backend._using("reference"):
                same_bits(got, np.where(x > 0, mask.apply(dy), np.float32(0)), "relu_dropout_backward")

        return Turn(
            lambda: fastdrop.relu_dropout_backward(dy, y, mask, out=dx),
            {"np.copyto": lambda: np.copyto(dx, dy), "np.multiply": lambda: np.multiply(dy, y, out=dx)},
            proof,
        )

    nbytes = 4 * ROWS * FEATURES
    bound = {"name": "np.multiply of the same arrays", "over": {"np.multiply": 1}, "at_most": 1.15}
    in_turn(make, about("backward", "relu_dropout", nbytes, rate, moved=3 * nbytes), (bound,))


def test_zoneout(in_turn, rate):
    def make() -> Turn:
        new, old = floats(ROWS, FEATURES), floats(ROWS, FEATURES, seed=1)
        y = placed(new)
        draws, generator = stream(), np.random.default_rng(0)
        return Turn(
            lambda: fastdrop.zoneout(new, old, rate, rng=draws, out=y),
            {
                "np.copyto": lambda: np.copyto(y, new),
                "in NumPy": lambda: np.where(generator.random(new.shape, np.float32) < rate, old, new),
            },
            lambda: proven(lambda out: fastdrop.zoneout(new, old, rate, rng=stream(), out=out), y),
        )

    nbytes = 4 * ROWS * FEATURES
    few = np.zeros((1, FEATURES), np.float32)
    memory = kept(fastdrop.zoneout(few, few, rate, return_mask=True)[1])
    in_turn(make, about("forward", "zoneout", nbytes, rate, moved=3 * nbytes, memory=memory))


def one_operand_case(in_turn, function, shape, rate, references, bounds, **options) -> None:
    """A function of x alone, beside the copy and others. ``references(x, y)`` gives those."""

    def make() -> Turn:
        x = floats(*shape)
        y = placed(x)
        draws = stream()
        return Turn(
            lambda: function(x, rate, rng=draws, out=y, **options),
            {"np.copyto": lambda: np.copyto(y, x), **references(x, y)},
            lambda: proven(lambda out: function(x, rate, rng=stream(), out=out, **options), y),
        )

    memory = kept(function(floats(*shape), rate, return_mask=True, **options)[1])
    in_turn(make, about("forward", function.__name__, 4 * math.prod(shape), rate, memory=memory, **options), bounds)


def copies(most: float) -> tuple[dict, ...]:
    return ({"name": "the copy", "over": {"np.copyto": 1}, "at_most": most},)


COPY = copies(1.0)


@pytest.mark.parametrize(
    ("function", "shape", "options", "bounds"),
    [
        pytest.param(fastdrop.dropout1d, (32, 1024, 64), {}, (), id="dropout1d"),
        pytest.param(fastdrop.dropout2d, (32, 64, 32, 32), {}, COPY, id="dropout2d-channels_first"),
        pytest.param(
            fastdrop.dropout2d, (32, 32, 32, 64), {"data_format": "channels_last"}, COPY, id="dropout2d-channels_last"
        ),
        pytest.param(fastdrop.dropout3d, (32, 64, 16, 8, 8), {}, (), id="dropout3d"),
        pytest.param(fastdrop.drop_block2d, (32, 64, 32, 32), {}, (), id="drop_block2d"),
        pytest.param(fastdrop.drop_path, (32, 64, 32, 32), {}, COPY, id="drop_path"),
        pytest.param(fastdrop.dropout2d, (64, 256, 4, 4), {}, copies(1.2), id="dropout2d-small_maps"),
        pytest.param(fastdrop.drop_path, (65536, 4), {}, copies(1.3), id="drop_path-short_samples"),
        pytest.param(fastdrop.embedding_dropout, (8192, 256), {}, (), id="embedding_dropout"),
        pytest.param(fastdrop.feature_alpha_dropout, (32, 64, 32, 32), {}, (), id="feature_alpha_dropout"),
    ],
)
def test_shared(in_turn, function, shape, options, bounds, rate):
    one_operand_case(in_turn, function, shape, rate, lambda x, y: {}, bounds, **options)


@pytest.mark.parametrize("function", [fastdrop.gaussian_dropout, fastdrop.gaussian_noise])
def test_gaussian(in_turn, function):
    generator = np.random.default_rng(0)

    def references(x, y):
        return {"standard_normal": lambda: np.multiply(x, generator.standard_normal(x.shape, np.float32), out=y)}

    bound = {"name": "x * rng.standard_normal", "over": {"standard_normal": 1}, "at_most": 0.1}
    one_operand_case(in_turn, function, (512, 512), 0.1, references, (bound,))


def test_alpha_dropout(in_turn, rate):
    draws = stream()

    def references(x, y):
        return {"dropout": lambda: fastdrop.dropout(x, rate, rng=draws, out=y)}

    bound = {"name": "plain dropout", "over": {"dropout": 1}, "at_most": 1.15}
    one_operand_case(in_turn, fastdrop.alpha_dropout, (ROWS, FEATURES), rate, references, (bound,))
