# SPDX-License-Identifier: BSD-3-Clause
"""Whether the kernels of this machine do what they promise: ``python -m fastdrop verify``.

Each implementation must give answers that others have published, and then the bits of the NumPy reference on random
cases, through the public functions. A case is made of a seed and its number alone, so that it can be made again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from fastdrop import _backend, _reference
from fastdrop._backend import Draw, IndexMap, Operands
from fastdrop._kernels import Operation
from fastdrop._masks import DropoutMask
from fastdrop._streams import PhiloxStream
from fastdrop._threads import num_threads
from fastdrop._tools import known_answers
from fastdrop._tools.arrays import bfloat16_dtype
from fastdrop._tools.cases import FILL, FUNCTIONS, MASKS, Case, Layout, make_case, values_of
from fastdrop._tools.known_answers import threshold
from fastdrop._tools.output import say
from fastdrop._tools.progress import Progress

MIN_CASES = 50  # however slow the machine


@dataclass
class Result:
    """What was found about one implementation."""

    name: str
    known_answers: int = 0
    comparisons: int = 0
    difference: str | None = None


def verify(
    *,
    seed: int = 0,
    seconds: float | None = None,
    cases: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[Result]:
    """Compare every implementation of this machine with known answers and with the reference.

    Parameters
    ----------
    seed : int
        Names the sequence of cases.
    seconds : float, optional
        How long to go on.
    cases : int, optional
        How many cases to make, whatever the time.
    progress : callable, optional
        Is told how much is done, from 0 to 1, and a text.

    Returns
    -------
    list of Result
        One for each of ``_backend.names()``. What differs is not looked at any further.
    """
    results = [Result(name) for name in _backend.names()]
    for result in results:
        try:
            for difference in known_answers.differences(_backend.find(result.name)):
                result.known_answers += 1
                if difference is not None:
                    result.difference = difference
                    break
        except Exception as error:  # whatever a broken implementation may raise is a finding
            result.difference = f"known answers: raised {type(error).__name__}: {error}"
    began = time.monotonic()
    number = 0
    while any(result.difference is None for result in results):
        elapsed = time.monotonic() - began
        if number >= (MIN_CASES if cases is None else cases) and (seconds is None or elapsed >= seconds):
            break
        if progress is not None:
            fraction = number / cases if cases else elapsed / seconds if seconds else 0.0
            progress(fraction, f"verify: {number} cases")
        _check_case(results, seed, number)
        number += 1
    return results


def _check_case(results: list[Result], seed: int, number: int) -> None:
    """Compare one case on all implementations that have been right so far."""
    rng = np.random.default_rng([seed, number])
    case = make_case(rng)
    values = values_of(rng, case)
    expected = _expected(case, values)
    for result in results:
        if result.difference is not None:
            continue
        result.comparisons += 1
        try:
            fault = _fault(case, values, expected, result.name)
        except Exception as error:
            fault = f"raised {type(error).__name__}: {error}"
        if fault is not None:
            repeat = f"python -m fastdrop verify --seed {seed} --cases {number + 1}"
            result.difference = f"case {number} of seed {seed}: {case}\n{fault}\nto repeat it: {repeat}"


def _expected(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """The right answer: the reference on all of the mask at once, and one step more."""
    x = values["x"]
    drawn = _drawn(case)
    # Along an axis of one shared decision there is nothing to cut off.
    part = tuple(
        slice(low, low + n) if drawn.shape[d] == low + n + high else slice(None)
        for d, (n, (low, high)) in enumerate(zip(x.shape, case.margins, strict=True))
    )
    drawn = np.broadcast_to(drawn[part], x.shape)
    if case.what == "keep":
        return drawn
    if case.what == "packbits":
        return np.packbits(drawn, axis=None, bitorder="little")
    if case.rate == 0.0 and case.what != "parts" and case.op in MASKS:
        return x
    scale, shift, fill = case.numbers()
    if case.op == Operation.DROPOUT:
        return np.where(drawn, _reference.scaled(x, scale), np.zeros((), x.dtype))
    if case.op == Operation.ZONEOUT:
        return np.where(drawn, x, values["other"])
    wide = {name: _reference.widened(array) for name, array in values.items()}
    other, bias = wide.get("other"), wide.get("bias")
    if case.what == "parts" and bias is not None:
        bias = np.resize(bias, x.shape)
    with np.errstate(all="ignore"):
        numbers = Operands(x, x, scale, shift=shift, fill=fill)
        y = _reference.operated(case.op, wide["x"], drawn, numbers, other, bias)
        return np.asarray(_reference.narrowed(y, x.dtype))  # for lack of dimensions a number


def _drawn(case: Case) -> np.ndarray:
    """Which elements of the whole mask are kept, or their normal numbers."""
    shape, start = case.x.shape, case.index
    if case.what != "parts":
        shape = case.mask_shapes()[1][1:]
        start *= math.prod(shape)
    if case.op.reads_normals:
        return _reference.normal_elements(0, math.prod(shape), Draw(case.key, case.call), IndexMap(start)).reshape(
            shape
        )
    is_backward = case.what == "function" and case.op == Operation.RELU_BACKWARD  # which draws nothing
    limit = 0 if is_backward else threshold(case.rate)
    return _reference.keep_range(start, math.prod(shape), case.key, case.call, limit).reshape(shape)


def _fault(case: Case, values: dict[str, np.ndarray], expected: np.ndarray, name: str) -> str | None:
    """What is wrong with the answer of an implementation, None if nothing is."""
    buffers = {}
    arrays = {array: held.copy() for array, held in values.items()}
    buffers["x"], arrays["x"] = case.x.array()
    if case.other is not None:
        buffers["other"], arrays["other"] = case.other.array()
    with np.errstate(all="ignore"):
        for array, held in values.items():
            arrays[array][...] = held
    out, written = None, ""  # and which of the arrays it is
    if isinstance(case.out, Layout):
        written = "out"
        buffers["out"], out = case.out.array()
    elif case.out in ("x itself", "other itself"):
        written = case.out.split()[0]
        out = arrays[written]
    elif case.out != "None":
        written = "x"
        x = arrays["x"]
        out = np.ndarray(x.shape, x.dtype, buffers["x"], case.x.offset + x.dtype.itemsize, x.strides)
    with _backend._using(name), num_threads(case.threads), np.errstate(all="ignore"):
        got = _answer(case, arrays, out)
        if case.what in ("keep", "packbits"):
            return _first_difference(got, expected)
        if out is not None and got is not out:
            return "out was not returned"
        fault = _first_difference(got, expected.astype(got.dtype))
    if fault is not None:
        return fault
    if out is not None and (written != "x" or out is arrays["x"]):
        out[...] = np.full(out.dtype.itemsize, FILL, np.uint8).view(out.dtype)[0]
        if np.any(buffers[written] != FILL):
            return "bytes outside of out were written"
    for array, held in values.items():
        if array != written and _first_difference(arrays[array], held.astype(arrays[array].dtype)) is not None:
            return f"{array} was written"
    return None


def _answer(case: Case, arrays: dict[str, np.ndarray], out: np.ndarray | None) -> np.ndarray:
    """The answer of the implementation in use."""
    if case.what == "function":
        return _answer_of_function(case, arrays, out)
    if case.what == "parts":
        assert out is not None
        return _answer_in_parts(case, arrays, out)
    mask = case.mask()
    if case.what == "keep":
        return np.asarray(mask)
    if case.what == "packbits":
        assert isinstance(mask, DropoutMask)
        return mask.packbits()
    return mask.apply(arrays["x"], out)


def _answer_of_function(case: Case, arrays: dict[str, np.ndarray], out: np.ndarray | None) -> np.ndarray:
    if case.op == Operation.RELU_BACKWARD:
        mask = DropoutMask(case.x.shape, case.rate, key=case.key, call=case.call)
        return FUNCTIONS[case.op](arrays["x"], arrays["other"], mask, out)
    operands = [arrays[name] for name in ("x", "bias", "other") if name in arrays]
    more = {"noise_shape": case.noise_shape} if case.op == Operation.DROPOUT else {}
    stream = PhiloxStream.from_key(case.key, case.call)
    return FUNCTIONS[case.op](*operands, case.rate, rng=stream, out=out, **more)


def _answer_in_parts(case: Case, arrays: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
    scale, shift, fill = case.numbers()
    for start, stop in _parts(case.cuts, out.size):
        _backend.running.apply(
            case.op,
            Operands(arrays["x"], out, scale, arrays.get("other"), arrays.get("bias"), shift, fill),
            Draw(case.key, case.call, threshold(case.rate)),
            IndexMap(case.index),
            nontemporal=case.nontemporal,
            part=(start, stop),
        )
    return out


def _parts(cuts: tuple[int, ...], size: int) -> Iterator[tuple[int, int]]:
    yield from zip((0, *cuts), (*cuts, size), strict=True)


def _first_difference(got: np.ndarray, expected: np.ndarray) -> str | None:
    """Where two arrays do not have the same bits."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"got {got.dtype} {got.shape}, must be {expected.dtype} {expected.shape}"
    kind = f"u{got.dtype.itemsize}"
    got_bits = np.ascontiguousarray(got).view(kind).reshape(-1)
    expected_bits = np.ascontiguousarray(expected).view(kind).reshape(-1)
    differ = np.flatnonzero(got_bits != expected_bits)
    if not len(differ):
        return None
    first = int(differ[0])
    at = tuple(int(i) for i in np.unravel_index(first, got.shape))
    digits = 2 * got.dtype.itemsize
    return (
        f"element {at}: got {_item(got, at)} (bits {got_bits[first]:0{digits}x}), "
        f"must be {_item(expected, at)} (bits {expected_bits[first]:0{digits}x}); "
        f"{len(differ)} of {got.size} elements differ"
    )


def _item(array: np.ndarray, at: tuple[int, ...]) -> object:
    return array[at].item() if array.dtype.kind != "V" else float(array[at])


# The report


def report(results: list[Result]) -> str:
    """A line for each implementation, with the first difference in full, and what was not verified."""
    lines = []
    for result in results:
        verdict = "ok" if result.difference is None else "DIFFERS"
        counts = f"{result.known_answers:>2} known answers, {result.comparisons:>7,} comparisons"
        lines.append(f"{result.name:<12}{counts}   {verdict}")
        if result.difference is not None:
            lines += [f"    {line}" for line in result.difference.splitlines()]
    core: ModuleType | None = _backend.compiled
    for name in core.built() if core is not None else ():
        if name not in _backend.names():
            lines.append(f"{name:<12}NOT VERIFIED: built, but this machine cannot run it")
    if core is None:
        lines.append("compiled core: NOT VERIFIED, this build has none")
    if bfloat16_dtype() is None:
        lines.append("bfloat16    NOT VERIFIED: ml_dtypes is not installed")
    return "\n".join(lines)


def run(*, seed: int, seconds: float | None, cases: int | None) -> int:
    """The command: print what was found, and return the exit status."""
    progress = Progress()
    try:
        results = verify(seed=seed, seconds=seconds, cases=cases, progress=progress.update)
    finally:
        progress.clear()
    text = report(results)
    different = [result.name for result in results if result.difference is not None]
    if different:
        text += f"\n\n{', '.join(different)}: wrong on this machine (seed {seed})"
    say(text)
    return 1 if different else 0
