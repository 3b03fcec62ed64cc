# SPDX-License-Identifier: BSD-3-Clause
"""What a user would take instead: the same array and the same rate, in turn with fastdrop and with the copy.

Each peer runs as its users run it, and gives a new array. It first shows that it did dropout: zeros where dropped, all
else scaled, as often as the rate says, and not twice the same. What it keeps in memory for the backward pass is counted
in what it returns or stores. A peer that is not installed is skipped with the name of the group that installs it.
"""

import functools
import gc
import importlib
import importlib.util
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KIB, MIB, Turn, WrongResult, about, kept, numbers, placed, stream
from fastdrop import _threads
from fastdrop._tools.units import format_size

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what peers deprecate, or say of each other's threads, is not ours to mend
    pytest.mark.once,  # some of them take ten seconds to import
]

ONE = 4
RECIPE = "NumPy Generator float32"
CPUS = _threads._usable_cpus()
SEED = 7
# Threads of OpenMP go on spinning for a while when their work is done.
SPINNING = 3e-3

# Before they are imported: no telling of what they found, and nothing in the user's home.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.path.join(tempfile.gettempdir(), "fastdrop-benchmarks-keras"),
}


@dataclass(frozen=True)
class Ready:
    """A peer that is ready to work on an array at a rate."""

    call: Callable[[], Any]  # finished when it returns
    result: Callable[[Any], np.ndarray]  # of what a call has returned, as an array
    memory: Callable[[], int]  # bytes kept for the backward pass, by a call like it
    restore: Callable[[], object] = lambda: None  # settings that it had to change


@dataclass(frozen=True)
class Peer:
    name: str
    modules: tuple[str, ...]
    group: str  # of pyproject.toml
    statement: str
    threads: str  # "one", "all", or "chosen": it runs with one, and with all
    prepare: Callable[[np.ndarray, float, int], Ready]


PEERS: list[Peer] = []


def peer(name: str, statement: str, *modules: str, group: str = "", threads: str = "one") -> Callable:
    """Add what a function prepares to the peers."""

    def add(prepare: Callable[[np.ndarray, float, int], Ready]) -> Callable:
        PEERS.append(Peer(name, modules, group, statement, threads, prepare))
        return prepare

    return add


@functools.cache
def imported(module: str) -> Any:
    """A peer's module. If it is installed and cannot be imported, that is an error."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


# NumPy


def recipe(x: np.ndarray, rate: float, uniform: Callable[[tuple[int, ...]], np.ndarray]) -> Ready:
    """Booleans from a comparison, and two multiplications; the booleans are what the backward pass needs."""
    keep_prob = 1.0 - rate

    def call() -> tuple[np.ndarray, np.ndarray]:
        keep = uniform(x.shape) < keep_prob
        return x * keep / keep_prob, keep

    return Ready(call, lambda returned: returned[0], lambda: kept(call()[1]))


@peer("NumPy rand", "keep = np.random.rand(*x.shape) < keep_prob; y = x * keep / keep_prob")
def numpy_rand(x, rate, threads):
    return recipe(x, rate, lambda shape: np.random.rand(*shape))  # noqa: NPY002  as many still write it


@peer(RECIPE, "keep = rng.random(x.shape, np.float32) < keep_prob; y = x * keep / keep_prob")
def numpy_generator(x, rate, threads):
    rng = np.random.default_rng(SEED)
    return recipe(x, rate, lambda shape: rng.random(shape, np.float32))


@peer("NumPy Philox float32", "the same with rng = np.random.Generator(np.random.Philox(seed))")
def numpy_philox(x, rate, threads):
    rng = np.random.Generator(np.random.Philox(SEED))
    return recipe(x, rate, lambda shape: rng.random(shape, np.float32))


def mkl(x: np.ndarray, rate: float, brng: str) -> Ready:
    state = imported("mkl_random").MKLRandomState(SEED, brng=brng)
    return recipe(x, rate, state.random_sample)


@peer("mkl_random SFMT", "keep = state.random_sample(x.shape) < keep_prob; y = x * keep / keep_prob", "mkl_random")
def mkl_sfmt(x, rate, threads):
    return mkl(x, rate, "SFMT19937")


@peer("mkl_random Philox", "the same with MKLRandomState(seed, brng='PHILOX4X32X10')", "mkl_random")
def mkl_philox(x, rate, threads):
    return mkl(x, rate, "PHILOX4X32X10")


# Loops


@functools.cache
def compiled_loop(parallel: bool) -> Callable[[np.ndarray, float, np.float32], tuple[np.ndarray, np.ndarray]]:
    numba = imported("numba")

    def dropout(x, rate, scale):
        y, keep = np.empty_like(x), np.empty(x.size, np.bool_)
        for i in numba.prange(x.size):
            keep[i] = np.random.random() >= rate  # noqa: NPY002  the only generator that numba has in parallel
            y[i] = x[i] * scale if keep[i] else np.float32(0)
        return y, keep

    return numba.njit(parallel=parallel)(dropout)


def loop(x: np.ndarray, rate: float, threads: int, parallel: bool) -> Ready:
    numba, compiled = imported("numba"), compiled_loop(parallel)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    scale = np.float32(1 / (1 - rate))
    return Ready(
        lambda: compiled(x, rate, scale),
        lambda returned: returned[0],
        lambda: kept(compiled(x, rate, scale)[1]),
        lambda: numba.set_num_threads(before),
    )


LOOP = "for i in prange(x.size): keep[i] = np.random.random() >= rate; y[i] = x[i] * scale if keep[i] else 0"


@peer("numba", LOOP.replace("prange", "range"), "numba")
def numba_loop(x, rate, threads):
    return loop(x, rate, threads, False)


@peer("numba prange", LOOP, "numba", threads="all")
def numba_prange(x, rate, threads):
    return loop(x, rate, threads, True)


# Frameworks


@peer("thinc get_dropout_mask", "mask = ops.get_dropout_mask(x.shape, rate); y = x * mask", "thinc")
def thinc_mask(x, rate, threads):
    ops = imported("thinc.api").NumpyOps()

    def call() -> tuple[np.ndarray, np.ndarray]:
        mask = ops.get_dropout_mask(x.shape, rate)
        return x * mask, mask

    return Ready(call, lambda returned: returned[0], lambda: kept(call()[1]))


@peer("PyTorch F.dropout", "F.dropout(x, rate), where x requires a gradient", "torch", threads="chosen")
def torch_dropout(x, rate, threads):
    torch = imported("torch")
    leaf = torch.from_numpy(x).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    def call() -> Any:
        return torch.nn.functional.dropout(leaf, rate)

    def memory() -> int:
        saved = {}

        def note(tensor: Any) -> Any:
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = call()
        return sum(nbytes for address, nbytes in saved.items() if address not in (leaf.data_ptr(), y.data_ptr()))

    return Ready(call, lambda y: y.detach().numpy(), memory, lambda: torch.set_num_threads(before))


def on_tape(x: np.ndarray, dropout: Callable[[Any], Any]) -> Ready:
    """A function of TensorFlow's. A tape holds its tensors as Python objects, so they can be counted."""
    tf = imported("tensorflow")
    tensor = tf.constant(x)

    def tensors() -> dict[int, Any]:
        return {id(value): value for value in gc.get_objects() if type(value) is type(tensor)}

    def memory() -> int:
        dropout(tensor)
        gc.collect()
        before = tensors()
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = dropout(tensor)
        new = [value for key, value in tensors().items() if key not in before and value is not y]
        return sum(value.dtype.size * value.shape.num_elements() for value in new)

    return Ready(lambda: dropout(tensor), lambda y: y.numpy(), memory)


@peer("TensorFlow tf.nn.dropout", "tf.nn.dropout(x, rate)", "tensorflow", threads="all")
def tensorflow_dropout(x, rate, threads):
    tf = imported("tensorflow")
    return on_tape(x, lambda tensor: tf.nn.dropout(tensor, rate))


@peer(
    "Keras Dropout",
    "keras.layers.Dropout(rate)(x, training=True), on TensorFlow",
    "keras",
    "tensorflow",
    group="keras",
    threads="all",
)
def keras_dropout(x, rate, threads):
    keras = imported("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip(f"Keras Dropout: its backend is {keras.backend.backend()}, set KERAS_BACKEND=tensorflow")
    layer = keras.layers.Dropout(rate)
    return on_tape(x, lambda tensor: layer(tensor, training=True))


@peer(
    "JAX",
    "jax.jit of lax.select(random.bernoulli(key, keep_prob, x.shape), x / keep_prob, 0), and of the next key",
    "jax",
    threads="all",
)
def jax_select(x, rate, threads):
    jax = imported("jax")
    keep_prob = 1.0 - rate
    array = jax.numpy.asarray(x)
    key = jax.random.key(SEED)

    def select(array: Any, key: Any) -> Any:
        keep = jax.random.bernoulli(key, keep_prob, array.shape)
        return jax.lax.select(keep, array / keep_prob, jax.numpy.zeros_like(array))

    @jax.jit
    def step(array: Any, key: Any) -> tuple[Any, Any]:
        key, now = jax.random.split(key)
        return select(array, now), key

    def call() -> Any:
        nonlocal key
        y, key = step(array, key)
        return y.block_until_ready()

    def memory() -> int:
        _, backward = jax.vjp(lambda array: select(array, key), array)
        return sum(value.nbytes for value in jax.tree.leaves(backward) if value is not array)

    return Ready(call, np.asarray, memory)


def missing(one: Peer) -> str | None:
    """Why a peer is not measured here, and what to do."""
    lacking = [module for module in one.modules if importlib.util.find_spec(module) is None]
    if not lacking:
        return None
    group = one.group or one.modules[0]
    verb = "are" if len(lacking) > 1 else "is"
    return f"{one.name}: {' and '.join(lacking)} {verb} not installed, which pip install -e '.[bench-{group}]' does"


def show(ready: Ready, x: np.ndarray, rate: float, name: str) -> None:
    """That the peer does dropout. Scales are rounded in different places, twice at most, so to 3 units in the last."""
    y = ready.result(ready.call())
    if y.shape != x.shape or y.dtype != x.dtype:
        raise WrongResult(f"{name}: {y.dtype}{y.shape} in place of {x.dtype}{x.shape}")
    dropped = y == 0
    if not np.allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=4e-7, atol=0):
        raise WrongResult(f"{name}: what is kept is not x / {1 - rate}")
    if x.size < 1000:
        return
    deviation = abs(np.mean(dropped) - rate) / (rate * (1 - rate) / x.size) ** 0.5
    if deviation > 5:
        raise WrongResult(f"{name}: {np.mean(dropped)} are dropped, {deviation:.1f} standard deviations from {rate}")
    if np.array_equal(ready.result(ready.call()) == 0, dropped):
        raise WrongResult(f"{name}: the same mask twice")


SIZES = (ONE, 16 * KIB, MIB, 8 * MIB, 64 * MIB)
RATES = (0.1, 0.5)


def is_short(name: str, nbytes: int, rate: float) -> bool:
    """Whether the short set has it: one element, where the call is all, a MiB, and the recipe in all sizes."""
    return (nbytes, rate) in ((ONE, 0.1), (MIB, 0.1), (MIB, 0.5)) or (name == RECIPE and rate == 0.1)


def parameters() -> Iterator:
    """Each peer, with one thread or all that there are, on each array."""
    for one in PEERS:
        for threads in {"one": [1], "all": [CPUS], "chosen": sorted({1, CPUS})}[one.threads]:
            name = f"{one.name}-{threads}thread{'s' * (threads > 1)}".replace(" ", "_")
            for nbytes, rate in itertools.product(SIZES, RATES):
                size = "one" if nbytes == ONE else format_size(nbytes).replace(" ", "")
                marks = () if is_short(one.name, nbytes, rate) else pytest.mark.full
                yield pytest.param(one.name, threads, nbytes, rate, id=f"{name}-{size}-{rate}", marks=marks)


@pytest.mark.parametrize(("name", "threads", "nbytes", "rate"), list(parameters()))
def test_peer(in_turn, name, threads, nbytes, rate):
    one = next(one for one in PEERS if one.name == name)
    why = missing(one)
    if why:
        pytest.skip(why)
    x = numbers(nbytes)
    ready = one.prepare(x, rate, threads)

    def make() -> Turn:
        y = placed(x)
        draws = stream()
        references = {
            "np.copyto": lambda: np.copyto(y, x),
            "fastdrop": lambda: fastdrop.dropout(x, rate, rng=draws),
        }
        return Turn(ready.call, references, lambda: show(ready, x, rate, one.name))

    what = about(
        "forward",
        "dropout",
        nbytes,
        rate,
        threads=threads,
        out="fresh",
        memory=ready.memory(),
        peer=one.name,
        statement=one.statement,
    )
    try:
        in_turn(make, what, pause=SPINNING if threads > 1 else 0.0)
    finally:
        ready.restore()
