# SPDX-License-Identifier: BSD-3-Clause
"""Dropout in thinc and spaCy, beside thinc's own: masks, layers, and training steps with their optimizer.

A case is fastdrop's ops or a model after ``fastdrop.thinc.replace_dropout``, and its reference thinc as it comes; steps
stand beside the same step without dropout too. Each party of a step has a model of its own, which begins with the same
weights.

fastdrop's masks and results are shown to have the bits of the reference before they are timed, and a step to end with
the weights that thinc's own layers give with the masks that are due.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import Turn, WrongResult, about, kept, numbers, same_bits
from fastdrop import _backend

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what thinc and spaCy say of others is not ours to mend
    pytest.mark.once,  # they take seconds to import
]

SEED = 7
WIDTH = 256  # of the arrays, in elements; spaCy's are 96 or 256
ROWS = (1, 64, 1024, 16384)
RATES = (0.1, 0.5)
PARTIES = ("fastdrop", "thinc", "without dropout")
SLOW_ROUNDS = 31  # of some hundred milliseconds, whose differences are small

# How many times thinc's speed is asked for: of masks from so many elements on.
MASK, FROM = 12.0, 1024 * WIDTH
STEPS = {
    "thinc MLP 784-256-256-10, batch 512": 1.1,
    "spaCy tagger, 32 docs": 1.04,
    "spaCy tagger and NER, 32 docs": 1.04,
}


def imported(*modules: str) -> Any:
    """The last of these modules, where all of them can be had."""
    for module in modules:
        library = module.partition(".")[0]
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed, which pip install -e '.[bench-{library}]' does")
    return [importlib.import_module(module) for module in modules][-1]


@pytest.fixture
def thinc() -> Iterator[Any]:
    """thinc's names, and NumPy's global generator as it was afterwards."""
    before = np.random.get_state()
    imported("thinc", "fastdrop.thinc")
    yield imported("thinc.api")
    np.random.set_state(before)


def times_as_fast(least: float) -> dict[str, Any]:
    """A bound of so many times thinc's speed."""
    return {"name": f"thinc, at least {least:g} times its speed", "over": {"thinc": 1}, "at_most": 1 / least}


def next_key() -> int:
    """The key of the next mask, from NumPy's global generator."""
    low, high = np.random.randint(0, 2**32, 2, np.uint32).tolist()
    return low + (high << 32)


# Masks and layers


@pytest.mark.parametrize("rows", ROWS)
def test_mask(in_turn, thinc, rows, rate):
    """A mask as an array, as a layer asks its ops for it."""
    shape = rows, WIDTH
    ours, own = thinc.get_ops("fastdrop"), thinc.get_ops("cpu")

    def make() -> Turn:
        def proof() -> None:
            thinc.fix_random_seed(SEED)
            with _backend._using("reference"):
                expected = fastdrop.DropoutMask(shape, rate, key=next_key()).to_array()
            thinc.fix_random_seed(SEED)
            same_bits(ours.get_dropout_mask(shape, rate), expected, "the mask")

        return Turn(
            lambda: ours.get_dropout_mask(shape, rate), {"thinc": lambda: own.get_dropout_mask(shape, rate)}, proof
        )

    nbytes = 4 * rows * WIDTH
    what = about("mask", "get_dropout_mask", nbytes, rate, out="fresh", moved=nbytes)
    what |= {"client": "thinc", "called": "ops.get_dropout_mask"}
    in_turn(make, what, (times_as_fast(MASK),) if rows * WIDTH >= FROM else ())


@pytest.mark.parametrize("rows", ROWS)
def test_forward_and_backward(in_turn, thinc, rows, rate):
    """A Dropout layer and its backward pass."""
    ours, own = imported("fastdrop.thinc").Dropout(rate), thinc.Dropout(rate)
    nbytes = 4 * rows * WIDTH

    def make() -> Turn:
        X, dY = (numbers(nbytes, seed=seed).reshape(rows, WIDTH) for seed in range(2))

        def both(layer: Any) -> Callable[[], Any]:
            def call() -> tuple[np.ndarray, np.ndarray]:
                Y, backprop = layer(X, is_train=True)
                return Y, backprop(dY)

            return call

        def proof() -> None:
            thinc.fix_random_seed(SEED)
            mask = fastdrop.DropoutMask(X.shape, rate, key=next_key())
            thinc.fix_random_seed(SEED)
            for got, given, of in zip(both(ours)(), (X, dY), ("forward", "backward"), strict=True):
                with _backend._using("reference"):
                    same_bits(got, mask.apply(given), f"the {of} pass")

        return Turn(both(ours), {"thinc": both(own)}, proof)

    memory = kept(fastdrop.DropoutMask((rows, WIDTH), rate, key=next_key()))
    what = about("forward and backward", "Dropout", nbytes, rate, out="fresh", moved=4 * nbytes, memory=memory)
    what |= {"client": "thinc", "called": "layer(X, is_train=True)", "peer_memory": nbytes}
    in_turn(make, what)


# Training steps


class Step(NamedTuple):
    """A step of a model or a pipeline, and its models."""

    call: Callable[[], object]
    models: list[Any]
    nbytes: int

    def weights(self) -> list[np.ndarray]:
        nodes = [node for model in self.models for node in model.walk()]
        return [node.get_param(name) for node in nodes for name in node.param_names if node.has_param(name)]


def mlp(rate: float) -> Step:
    """The net of thinc's introduction, wider."""
    thinc = imported("thinc.api")
    thinc.fix_random_seed(SEED)
    model = thinc.chain(thinc.Relu(256, dropout=rate), thinc.Relu(256, dropout=rate), thinc.Softmax())
    X, Y = numbers(4 * 512 * 784).reshape(512, 784), np.eye(10, dtype=np.float32)[np.arange(512) % 10]
    model.initialize(X, Y)
    optimizer = thinc.Adam(0.001)

    def call() -> None:
        Yh, backprop = model.begin_update(X)
        backprop(Yh - Y)
        model.finish_update(optimizer)

    return Step(call, [model], X.nbytes)


def pipeline(*components: str) -> Callable[[float], Step]:
    """A blank English pipeline with components as they come, and made-up documents of 10 to 40 words."""

    def make(rate: float) -> Step:
        spacy = imported("spacy")
        random = np.random.default_rng(SEED)
        nlp = spacy.blank("en")
        for name in components:
            nlp.add_pipe(name)
        examples = []
        for _ in range(32):
            words = random.integers(0, 3000, random.integers(10, 40)).tolist()
            annotations = {
                "tags": [f"T{word % 7}" for word in words],
                "entities": ["U-A" if word % 9 == 0 else "O" for word in words],
            }
            doc = nlp.make_doc(" ".join(f"w{word}" for word in words))
            examples.append(spacy.training.Example.from_dict(doc, annotations))
        imported("thinc.api").fix_random_seed(SEED)
        nlp.initialize(lambda: examples)
        models = [component.model for _, component in nlp.pipeline]
        tokens = sum(len(example.x) for example in examples)
        return Step(lambda: nlp.update(examples, drop=rate), models, 4 * 96 * tokens)

    return make


MAKERS = dict(zip(STEPS, (mlp, pipeline("tagger"), pipeline("tagger", "ner")), strict=True))


def parties(name: str, rate: float) -> dict[str, Step]:
    """A step for each, with the same weights."""
    steps = {party: MAKERS[name](0.0 if party == "without dropout" else rate) for party in PARTIES}
    for model in steps["fastdrop"].models:
        imported("fastdrop.thinc").replace_dropout(model)
    return steps


def prove(name: str, rate: float) -> None:
    """Show that fastdrop's steps give the weights of thinc's layers with masks of the reference, and thinc's others."""
    thinc = imported("thinc.api")
    steps = parties(name, rate)
    due = MAKERS[name](rate)
    for model in due.models:
        for node in model.walk():
            node.ops = thinc.get_ops("fastdrop")
    for _ in range(2):
        for step in (*steps.values(), due):
            thinc.fix_random_seed(SEED)
            with _backend._using("reference" if step is due else _backend.running.name):
                step.call()
    for number, weights in enumerate(zip(*(step.weights() for step in (*steps.values(), due)), strict=True)):
        same_bits(weights[0], weights[-1], f"{name}: the weights number {number}")
    for one, other in ((0, 1), (1, 2)):
        pairs = zip(*(steps[PARTIES[party]].weights() for party in (one, other)), strict=True)
        if all(np.array_equal(*pair) for pair in pairs):
            raise WrongResult(f"{name}: {PARTIES[one]} and {PARTIES[other]} end with the same weights")


def step_cases() -> Iterator:
    """Those in the short set that a bound is for, at the lower rate."""
    for name in STEPS:
        for rate in RATES:
            is_short = rate == RATES[0] and "NER" not in name
            yield pytest.param(name, rate, id=f"{name}-{rate}", marks=() if is_short else pytest.mark.full)


@pytest.mark.parametrize(("name", "rate"), list(step_cases()))
def test_step(in_turn, thinc, name, rate):
    """Forward and backward pass and optimizer, beside thinc, and beside no dropout at all."""
    if name.startswith("spaCy"):
        imported("spacy", "spacy.training")

    def make() -> Turn:
        steps = parties(name, rate)
        references = {party: steps[party].call for party in PARTIES[1:]}
        return Turn(steps["fastdrop"].call, references, lambda: prove(name, rate))

    nbytes = MAKERS[name](rate).nbytes
    what = about("training step", name, nbytes, rate, out="fresh", moved=None)
    what |= {"client": "thinc", "called": "replace_dropout"}
    in_turn(make, what, (times_as_fast(STEPS[name]),) if rate == RATES[0] else (), fewest=SLOW_ROUNDS)
