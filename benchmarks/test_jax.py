# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of JAX's arrays, beside what JAX's users write: alone, with its backward pass, and within a training step.

A case is ``fastdrop.jax.dropout`` under ``jax.jit``, and its reference the select by ``jax.random.bernoulli`` that
Flax and Equinox have, under ``jax.jit`` too. Results are new arrays, as users have them, and inputs are made once. XLA
takes all CPUs that the process may use, and fastdrop as many: for one thread, run it on one CPU (``taskset -c 0``).

fastdrop's results are shown to have the bits of the reference, in the forward and the backward pass, before they are
timed, and a step's gradients to be those of plain products with the masks that are due.
"""

import functools
import importlib.util
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.measuring import Turn, WrongResult, about, numbers, same_bits
from fastdrop import _backend, _threads

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what JAX deprecates of itself is not ours to mend
    pytest.mark.once,  # it takes seconds to import, and to compile
]

KI, MI = 1 << 10, 1 << 20
CPUS = _threads._usable_cpus()
SEED = 7
# Threads of XLA go on spinning for a while when their work is done.
SPINNING = 3e-3

# How many times JAX's speed is asked for, by elements.
FORWARD = {64: 2.8, 256 * KI: 6.5, 4 * MI: 20.0}
STEP = 1.17
MODEL = "MLP 784-1024-1024-10, batch 512"
WIDTHS, BATCH = (784, 1024, 1024, 10), 512
MEMORY = 16  # bytes, in arrays
SLOW_ROUNDS = 31


def missing() -> str | None:
    """Why nothing can be measured here, and what to do."""
    if importlib.util.find_spec("jax") is None:
        return "fastdrop.jax: jax is not installed, which pip install -e '.[bench-jax]' does"
    return None


@pytest.fixture
def jax() -> Any:
    """JAX, with fastdrop.jax imported too."""
    why = missing()
    if why:
        pytest.skip(why)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.import_module("fastdrop.jax._library").jax


def fastdrops(key: Any, x: Any, rate: float) -> Any:
    return importlib.import_module("fastdrop.jax").dropout(key, x, rate)


def jaxs(key: Any, x: Any, rate: float) -> Any:
    """Dropout as it is written with JAX alone."""
    jax = importlib.import_module("jax")
    keep_prob = 1.0 - rate
    return jax.numpy.where(jax.random.bernoulli(key, keep_prob, x.shape), x / keep_prob, 0)


def none(key: Any, x: Any, rate: float) -> Any:
    return x


def times_as_fast(least: float) -> dict[str, Any]:
    """A bound of so many times JAX's speed."""
    return {"name": f"JAX, at least {least:g} times its speed", "over": {"JAX": 1}, "at_most": 1 / least}


def finished(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that ends when its result is there."""
    jax = importlib.import_module("jax")
    return lambda: jax.block_until_ready(call(*arguments))


def expected(x: np.ndarray, key: Any, rate: float) -> np.ndarray:
    """What the mask of a key makes of an array, by the reference."""
    mask = importlib.import_module("fastdrop.jax").mask(key, x.shape, rate)
    with _backend._using("reference"):
        return mask.apply(x)


def show(y: np.ndarray, x: np.ndarray, rate: float) -> None:
    """That JAX does dropout: it drops as often as the rate says, and scales what it keeps."""
    dropped = y == 0
    if not np.allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=1e-6):
        raise WrongResult(f"JAX: what is kept is not x / {1 - rate}")
    deviation = abs(dropped.mean() - rate) / (rate * (1 - rate) / x.size) ** 0.5
    if deviation > 5:
        raise WrongResult(f"JAX: {dropped.mean()} are dropped, {deviation:.1f} standard deviations from {rate}")


@pytest.mark.parametrize("elements", FORWARD)
def test_forward(in_turn, jax, elements, rate):
    call, reference = (jax.jit(functools.partial(function, rate=rate)) for function in (fastdrops, jaxs))
    key = jax.random.key(SEED)

    def make() -> Turn:
        given = numbers(4 * elements)
        x = jax.numpy.asarray(given)

        def proof() -> None:
            got, own = np.asarray(call(key, x)), np.asarray(reference(key, x))
            same_bits(got, expected(given, key, rate), "the forward pass")
            if elements > 1000:  # of fewer the share says nothing
                show(own, given, rate)

        return Turn(finished(call, key, x), {"JAX": finished(reference, key, x)}, proof)

    what = about("forward", "dropout", 4 * elements, rate, threads=CPUS, out="fresh")
    what |= {"client": "JAX", "called": "jitted"}
    fewest = SLOW_ROUNDS if elements >= 4 * MI else 0
    in_turn(make, what, (times_as_fast(FORWARD[elements]),), fewest=fewest, pause=SPINNING if CPUS > 1 else 0.0)


def test_forward_and_backward(in_turn, jax, rate):
    """A dropout and its backward pass in one program, and what is kept in between where they are two."""
    elements = 256 * KI

    def both(function: Callable[..., Any]) -> Any:
        def run(key: Any, x: Any, dy: Any) -> Any:
            y, pull = jax.vjp(lambda x: function(key, x, rate), x)
            return y, pull(dy)[0]

        return jax.jit(run)

    def kept(function: Callable[..., Any], x: Any) -> int:
        _, pull = jax.vjp(lambda x: function(key, x, rate), x)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pull) if leaf is not x)

    call, reference = both(fastdrops), both(jaxs)
    key = jax.random.key(SEED)

    def make() -> Turn:
        given, above = numbers(4 * elements), numbers(4 * elements, seed=1)
        x, dy = jax.numpy.asarray(given), jax.numpy.asarray(above)

        def proof() -> None:
            y, dx = map(np.asarray, call(key, x, dy))
            own = np.asarray(reference(key, x, dy)[1])
            same_bits(y, expected(given, key, rate), "the forward pass")
            same_bits(dx, expected(above, key, rate), "the backward pass")
            show(own, above, rate)

        return Turn(finished(call, key, x, dy), {"JAX": finished(reference, key, x, dy)}, proof)

    x = jax.numpy.ones(elements)
    memory = kept(fastdrops, x)
    what = about(
        *("forward and backward", "dropout", 4 * elements, rate),
        **{"threads": CPUS, "out": "fresh", "moved": None, "memory": memory},
    )
    what |= {"client": "JAX", "called": "jitted", "peer_memory": kept(jaxs, x)}
    bounds = ({"name": f"{MEMORY} bytes kept in arrays", "memory": MEMORY},)
    in_turn(make, what, bounds, pause=SPINNING if CPUS > 1 else 0.0)


def test_step(in_turn, jax):
    """Forward and backward pass of an MLP, without an optimizer; beside JAX, and beside no dropout at all."""
    rate = 0.5
    rng = np.random.default_rng(SEED)
    shapes = itertools.pairwise(WIDTHS)
    weights = [jax.numpy.asarray(rng.standard_normal(shape).astype(np.float32) / shape[0] ** 0.5) for shape in shapes]
    x = jax.numpy.asarray(rng.standard_normal((BATCH, WIDTHS[0])).astype(np.float32))
    classes = jax.numpy.asarray(rng.integers(WIDTHS[-1], size=BATCH))

    def step_with(function: Callable[..., Any]) -> Any:
        def loss(weights: Any, key: Any, x: Any, classes: Any) -> Any:
            h = x
            for layer, w in enumerate(weights[:-1]):
                h = function(jax.random.fold_in(key, layer), jax.nn.relu(h @ w), rate)
            logits = jax.nn.log_softmax(h @ weights[-1])
            return -jax.numpy.take_along_axis(logits, classes[:, None], 1).mean()

        return jax.jit(jax.value_and_grad(loss))

    def by_products(key: Any, x: Any, rate: float) -> Any:
        factors = importlib.import_module("fastdrop.jax").mask(key, x.shape, rate).to_array()
        return x * factors

    steps = {name: step_with(f) for name, f in (("fastdrop", fastdrops), ("JAX", jaxs), ("without dropout", none))}
    key = jax.random.key(SEED)

    def make() -> Turn:
        calls = {name: finished(step, weights, key, x, classes) for name, step in steps.items()}

        def proof() -> None:
            with jax.disable_jit():
                due = step_with(by_products)(weights, key, x, classes)
            found = {name: jax.tree.leaves(call()) for name, call in calls.items()}
            for number, (got, other) in enumerate(zip(found["fastdrop"], jax.tree.leaves(due), strict=True)):
                error = float(abs(got - other).max() / abs(other).max())
                if not error < 1e-4:  # sums of thousands of products, in another order
                    raise WrongResult(f"the step: gradient {number} is off by {error:.2g} of its largest element")
            if np.array_equal(found["JAX"][0], found["without dropout"][0]):
                raise WrongResult("the step with JAX's dropout drops nothing")

        references = {name: call for name, call in calls.items() if name != "fastdrop"}
        return Turn(calls["fastdrop"], references, proof)

    what = about("training step", MODEL, x.nbytes, rate, threads=CPUS, out="fresh", moved=None)
    what |= {"client": "JAX", "called": "jitted"}
    in_turn(make, what, (times_as_fast(STEP),), fewest=SLOW_ROUNDS, pause=SPINNING if CPUS > 1 else 0.0)
