# SPDX-License-Identifier: BSD-3-Clause
"""Dropout of PyTorch's tensors, beside PyTorch's own: alone, with its backward pass, and within training steps.

A case is ``torch.nn.functional.dropout`` with ``fastdrop.torch.enable()``, and its reference the same function without;
both are switched outside of what is timed. "named" cases call ``fastdrop.torch.dropout`` instead. Results are new
tensors, as users have them, and inputs are made once.

fastdrop's results are shown to have the bits of the reference, in the forward and the backward pass, before they are
timed, and a step's gradients to be those of plain products with the masks that are due.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.measuring import Turn, about
from fastdrop import _threads

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what PyTorch deprecates of itself is not ours to mend
    pytest.mark.once,  # it takes seconds to import, and half a minute to compile
]

KI, MI = 1 << 10, 1 << 20
CPUS = _threads._usable_cpus()
THREADS = sorted({1, min(2, CPUS)})
# Threads of OpenMP go on spinning for a while when their work is done.
SPINNING = 3e-3
RATES = (0.1, 0.5)

# How many times PyTorch's speed is asked for, by elements and p.
FORWARD = {
    64: (0.8, 0.8),
    KI: (1.0, 1.0),
    16 * KI: (8.0, 12.0),
    256 * KI: (12.0, 20.0),
    4 * MI: (12.0, 22.0),
}
FORWARD_AND_BACKWARD = 10.0
HALF = 8.0
LAYOUTS = {"channels_last (16, 64, 32, 32)": MI, ".t() of 1024 x 1024": MI}  # and their elements
LAYOUT = 6.0
MEMORY = 100  # bytes, in tensors
SHARE = 0.08  # of a step
# Of some hundred milliseconds: a share is a small difference of long times, and new memory has long tails.
SLOW_ROUNDS = 31

# By the step, p, whether compiled, and threads.
STEPS = {
    ("pre-norm block 16 x 128 x 256", 0.1, "eager", 1): 1.38,
    ("pre-norm block 16 x 128 x 256", 0.1, "eager", 2): 1.7,
    ("pre-norm block 16 x 128 x 256", 0.1, "compiled", 1): 1.74,
    ("encoder layer 4 x 128 x 768", 0.1, "eager", 1): 1.15,
    ("encoder layer 4 x 128 x 768", 0.1, "eager", 2): 1.15,
    ("MLP 784-1024-1024-10, batch 512", 0.5, "eager", 1): 1.34,
    ("MLP 784-1024-1024-10, batch 512", 0.5, "eager", 2): 1.34,
}


def missing() -> str | None:
    """Why nothing can be measured here, and what to do."""
    if importlib.util.find_spec("torch") is None:
        return "fastdrop.torch: torch is not installed, which pip install -e '.[bench-torch]' does"
    return None


@pytest.fixture
def pytorch() -> Any:
    """benchmarks.pytorch, which imports PyTorch."""
    why = missing()
    if why:
        pytest.skip(why)
    return importlib.import_module("benchmarks.pytorch")


def times_as_fast(least: float) -> dict[str, Any]:
    """A bound of so many times PyTorch's speed."""
    return {"name": f"PyTorch, at least {least:g} times its speed", "over": {"PyTorch": 1}, "at_most": 1 / least}


def in_words(threads: int) -> str:
    return f"{threads}thread{'s' * (threads > 1)}"


def called(way: str, records: bool) -> str:
    """How it was called, in words."""
    words = {"enabled": "F.dropout with enable()", "named": "fastdrop.torch.dropout", "compiled": "F.dropout, compiled"}
    return words[way] + (", recording gradients" if records else "")


# Dropout alone


def forward_cases() -> Iterator:
    """Each size, p, way to call and number of threads. The short set has what the bounds ask for in words."""
    for elements, leasts in FORWARD.items():
        for rate, least in zip(RATES, leasts, strict=True):
            for threads in THREADS:
                for way in ("enabled", "named"):
                    for records in (False, True):
                        is_short = way == "enabled" and (threads == 1 or (elements >= 256 * KI and not records))
                        graph = "recorded" if records else "plain"
                        yield pytest.param(
                            *(elements, rate, threads, way, records, least),
                            id=f"{elements}-{rate}-{in_words(threads)}-{way}-{graph}",
                            marks=() if is_short else pytest.mark.full,
                        )


@pytest.mark.parametrize(("elements", "rate", "threads", "way", "records", "least"), list(forward_cases()))
def test_forward(in_turn, pytorch, elements, rate, threads, way, records, least):
    what = {"elements": elements, "rate": rate, "threads": threads, "way": way, "records": records}
    forward(in_turn, pytorch, least, **what)


@pytest.mark.parametrize("threads", THREADS, ids=in_words)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(in_turn, pytorch, dtype, rate, threads):
    if dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        pytest.skip("bfloat16: ml_dtypes is not installed")
    forward(in_turn, pytorch, HALF, elements=256 * KI, rate=rate, threads=threads, dtype=dtype)


@pytest.mark.parametrize("threads", THREADS, ids=in_words)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels_last", "t"])
def test_layouts(in_turn, pytorch, layout, rate, threads):
    forward(in_turn, pytorch, LAYOUT, elements=LAYOUTS[layout], rate=rate, threads=threads, layout=layout)


def forward(
    in_turn: Any,
    pytorch: Any,
    least: float,
    *,
    elements: int,
    rate: float,
    threads: int,
    way: str = "enabled",
    records: bool = False,
    dtype: str = "float32",
    layout: str = "contiguous",
) -> None:
    """Measure a forward pass."""
    pytorchs = pytorch.F.dropout
    dropout = pytorch.fastdrop.torch.dropout if way == "named" else pytorchs
    nbytes = elements * getattr(pytorch.torch, dtype).itemsize

    def make() -> Turn:
        x = pytorch.tensor(nbytes, dtype, layout).requires_grad_(records)

        def before(reference: str | None) -> None:
            pytorch.switch(reference is None and way == "enabled")

        def proof() -> None:
            before(None)
            pytorch.prove(lambda x: dropout(x, rate), x, rate)
            before("PyTorch")
            if elements > 1000:  # of fewer the share says nothing, and two masks may be the same
                pytorch.show(x, rate)

        return Turn(lambda: dropout(x, rate), {"PyTorch": lambda: pytorchs(x, rate)}, proof, before)

    what = about("forward", "dropout", nbytes, rate, dtype=dtype, threads=threads, out="fresh")
    what |= {"client": "PyTorch", "called": called(way, records), "layout": layout}
    with pytorch.settings(threads):
        fewest = SLOW_ROUNDS if elements >= 4 * MI else 0
        in_turn(make, what, (times_as_fast(least),), fewest=fewest, pause=SPINNING if threads > 1 else 0.0)


def forward_and_backward_cases() -> Iterator:
    for threads in THREADS:
        for rate in RATES:
            for way in ("enabled", "named"):
                marks = () if way == "enabled" else pytest.mark.full
                name = f"{rate}-{in_words(threads)}-{way}"
                yield pytest.param(rate, threads, way, id=name, marks=marks)
    yield pytest.param(0.1, 1, "compiled", id="0.1-1thread-compiled")  # for what it keeps


@pytest.mark.parametrize(("rate", "threads", "way"), list(forward_and_backward_cases()))
def test_forward_and_backward(in_turn, pytorch, rate, threads, way):
    """A dropout and its backward pass, and what it keeps in between.

    Compiled, both sides are: PyTorch's own dropout is then code that is fused, and no speed was asked for.
    """
    torch, own = pytorch.torch, pytorch.F.dropout
    nbytes = 4 * 256 * KI

    def contenders() -> dict[str | None, Any]:
        """Functions of a tensor; PyTorch's by its name, fastdrop's by None."""
        if way == "compiled":
            return {name: torch.compile(pytorch.copied(pytorch.dropout)) for name in (None, "PyTorch")}
        ours = pytorch.fastdrop.torch.dropout if way == "named" else own
        return {None: ours, "PyTorch": own}

    functions = contenders()

    def before(reference: str | None) -> None:
        pytorch.switch(reference is None and way != "named")

    def make() -> Turn:
        x = pytorch.tensor(nbytes, "float32", "contiguous").requires_grad_()
        dy = pytorch.tensor(nbytes, "float32", "contiguous", seed=1)

        def both(reference: str | None) -> Any:
            function = functions[reference]

            def call() -> None:
                x.grad = None
                function(x, rate).backward(dy)

            return call

        def proof() -> None:
            before(None)
            prove = pytorch.prove_compiled if way == "compiled" else pytorch.prove
            prove(lambda x: functions[None](x, rate), x, rate)
            before("PyTorch")
            pytorch.show(x, rate, functions["PyTorch"])

        return Turn(both(None), {"PyTorch": both("PyTorch")}, proof, before)

    with pytorch.settings(threads):
        x = pytorch.tensor(nbytes, "float32", "contiguous").requires_grad_()
        found = {}
        for reference, function in functions.items():
            before(reference)
            found[reference] = pytorch.saved(functools.partial(function, p=rate), x)
        memory, pytorchs = found[None], found["PyTorch"]
        what = about(
            "forward and backward", "dropout", nbytes, rate, threads=threads, out="fresh", moved=None, memory=memory
        )
        what |= {"client": "PyTorch", "called": called(way, True), "layout": "contiguous"}
        what |= {"peer_memory": pytorchs}
        if way != "compiled":  # whose objects are those of what was compiled
            before(None)
            what |= {"objects": pytorch.objects(functions[None](x, rate))}
        bounds = ({"name": f"{MEMORY} bytes kept in tensors", "memory": MEMORY},)
        if way != "compiled":
            bounds = (times_as_fast(FORWARD_AND_BACKWARD), *bounds)
        in_turn(make, what, bounds, pause=SPINNING if threads > 1 else 0.0)


# Training steps


def step_cases() -> Iterator:
    for (model, rate, mode, threads), least in STEPS.items():
        if threads in THREADS:
            name = f"{model.partition(' ')[0]}-{rate}-{mode}-{in_words(threads)}"
            yield pytest.param(model, rate, mode, threads, least, id=name)


@pytest.mark.parametrize(("model", "rate", "mode", "threads", "least"), list(step_cases()))
def test_step(in_turn, pytorch, model, rate, mode, threads, least):
    """Forward and backward pass of a model, without an optimizer; beside PyTorch, and beside no dropout at all."""
    with pytorch.settings(threads):
        step = pytorch.Step(model, rate, mode == "compiled")

        def make() -> Turn:
            references = {"PyTorch": step, "without dropout": step}
            return Turn(step, references, step.prove, lambda reference: step.use(reference or "fastdrop"))

        what = about("training step", model, step.x.nbytes, rate, threads=threads, out="fresh", moved=None)
        what |= {"client": "PyTorch", "called": mode, "layout": "contiguous"}
        bounds = [times_as_fast(least)]
        if model.startswith("pre-norm"):
            limit = {"over": {"without dropout": 1}, "at_most": 1 / (1 - SHARE)}
            bounds.append({"name": f"the step without dropout, for a share of at most {SHARE:.0%}", **limit})
        in_turn(make, what, tuple(bounds), fewest=SLOW_ROUNDS, pause=SPINNING if threads > 1 else 0.0)
