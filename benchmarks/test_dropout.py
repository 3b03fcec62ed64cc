# SPDX-License-Identifier: BSD-3-Clause
"""Dropout and its mask: operation x size x rate x dtype x instruction set x threads x a given or a fresh result.

Each case is measured in turn with np.copyto of the same buffers. The plain case is float32 with the fastest
instruction set, one thread and a given result: the short set departs from it in one of these at a time, the full set
in all of them.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import pytest

import fastdrop
from benchmarks.measuring import KEY, KIB, MIB, Turn, about, dtype_of, kept, numbers, placed, proven, stream
from fastdrop import _backend, _threads
from fastdrop._tools.units import format_size

ONE = 4
SIZES = (ONE, 16 * KIB, MIB, 8 * MIB, 64 * MIB, 256 * MIB)
RATES = (0.1, 0.5)
ALL_RATES = (*RATES, 0.25, 1e-6)
DTYPES = ("float16", "bfloat16", "float32", "float64")
ISAS = _backend.names()[1:]
CPUS = _threads._usable_cpus()

# Times the copy, in the plain case but for the instruction set.
COPIES = {
    ("avx512", 4 * KIB): {0.1: 2.0, 0.5: 1.3},
    ("avx512", 16 * KIB): {0.1: 1.8, 0.5: 1.1},
    ("avx512", 256 * KIB): {0.1: 1.45, 0.5: 1.05},
    ("avx512", MIB): {0.1: 1.35, 0.5: 1.12},
    ("avx512", 8 * MIB): {0.1: 1.05, 0.5: 1.0},
    ("avx512", 64 * MIB): {0.1: 0.70, 0.5: 0.58},
    ("avx2", MIB): {0.1: 2.0, 0.5: 1.15},
}


@dataclass(frozen=True)
class Case:
    """What is measured. The fields are the parameters of the test, in their order."""

    operation: str = "forward"
    nbytes: int = MIB
    rate: float = 0.1
    dtype: str = "float32"
    isa: str = ISAS[-1]
    threads: int = 1
    out: str = "given"

    def is_plain_but_for(self, *names: str) -> bool:
        """Whether it is the plain case of its size and rate, but for these fields."""
        given = {name: getattr(self, name) for name in ("nbytes", "rate", *names)}
        return self == Case(**given)

    @property
    def is_sensible(self) -> bool:
        """Whether it differs from the others: a mask has no dtype, a small array is left to one thread."""
        if self.operation.startswith("mask") and not self.is_plain_but_for("operation", "isa"):
            return False
        if self.threads > 1 and (self.nbytes < 8 * MIB or self.isa != ISAS[-1]):
            return False
        if self.nbytes == ONE:
            return self.is_plain_but_for("operation", "isa", "out")
        return self.nbytes < 256 * MIB or self.isa == ISAS[-1]

    @property
    def id(self) -> str:
        size = "one" if self.nbytes == ONE else format_size(self.nbytes).replace(" ", "")
        threads = f"{self.threads}thread{'s' * (self.threads > 1)}"
        operation = self.operation.replace(" ", "_")
        return f"{operation}-{size}-{self.rate:g}-{self.dtype}-{self.isa}-{threads}-{self.out}"


def short_set() -> Iterator[Case]:
    for rate in RATES:
        for shift in (*range(0, 27, 2), 21):  # eight decades, and 8 MiB
            yield Case(nbytes=ONE << shift, rate=rate)
        for operation in ("backward", "apply", "mask bits", "mask booleans"):
            for nbytes in SIZES[:4]:
                yield Case(operation, nbytes, rate)
        for nbytes in SIZES[:5]:
            yield Case(nbytes=nbytes, rate=rate, out="fresh")
        for isa in ISAS[:-1]:
            for nbytes in (MIB, 8 * MIB):
                yield Case(nbytes=nbytes, rate=rate, isa=isa)
        # As many elements as a MiB of float32 has, or as many bytes.
        yield Case(nbytes=MIB // 2, rate=rate, dtype="float16")
        yield Case(nbytes=MIB // 2, rate=rate, dtype="bfloat16")
        yield Case(nbytes=MIB, rate=rate, dtype="float64")


def full_set() -> Iterator[Case]:
    for shift in range(27):
        for rate in RATES:
            yield Case(nbytes=ONE << shift, rate=rate)
    operations = ("forward", "backward", "mask bits")
    all_threads = sorted({1, CPUS})
    for values in itertools.product(operations, SIZES, ALL_RATES, DTYPES, ISAS, all_threads, ("given", "fresh")):
        if Case(*values).is_sensible:
            yield Case(*values)


def parameters() -> list:
    """Cases of one size and dtype follow each other, for they share their numbers."""
    short = set(short_set())
    cases = sorted(short.union(full_set()), key=lambda case: (case.nbytes, case.dtype, case.id))
    return [pytest.param(*astuple(case), id=case.id, marks=() if case in short else pytest.mark.full) for case in cases]


def bounds(case: Case) -> Iterator[dict]:
    """What is asked of it: in the same rounds, at most so many times what it is compared with."""
    copies = COPIES.get((case.isa, case.nbytes), {}).get(case.rate)
    if copies is not None and case.is_plain_but_for("isa"):
        yield {"name": "the copy", "over": {"np.copyto": 1}, "at_most": copies}
    if case.nbytes == MIB and case.operation in ("backward", "apply") and case.is_plain_but_for("operation"):
        yield {"name": "the forward pass", "over": {"dropout": 1}, "at_most": 1.02}
    if has_float32(case):
        what = "as many bytes" if case.dtype == "float64" else "as many elements"
        yield {"name": f"float32, {what}", "over": {"float32": 1}, "at_most": 1.0}


def has_float32(case: Case) -> bool:
    """Whether it is compared with float32: with a MiB of it."""
    nbytes = MIB if case.dtype == "float64" else MIB // 2
    return case.dtype != "float32" and case.nbytes == nbytes and case.is_plain_but_for("dtype")


@pytest.mark.parametrize(("operation", "nbytes", "rate", "dtype", "isa", "threads", "out"), parameters())
def test_dropout(in_turn, operation, nbytes, rate, dtype, isa, threads, out):
    case = Case(operation, nbytes, rate, dtype, isa, threads, out)
    elements = nbytes // dtype_of(dtype).itemsize
    mask = fastdrop.DropoutMask((elements,), rate, key=KEY)

    def make() -> Turn:
        x = numbers(nbytes, dtype)
        y = placed(x)
        given = y if out == "given" else None
        draws = stream()
        references = {"np.copyto": lambda: np.copyto(y, x)}
        if out == "fresh":
            references["x.copy()"] = x.copy
        if operation in ("backward", "apply"):
            references["dropout"] = lambda: fastdrop.dropout(x, rate, rng=draws, out=given)
        if has_float32(case):
            single = numbers(MIB)
            into = placed(single)
            references["float32"] = lambda: fastdrop.dropout(single, rate, rng=draws, out=into)
        if nbytes == ONE and operation == "forward":
            references["np.multiply"] = lambda: np.multiply(x, 1.25, out=given)

        def part(at: slice) -> np.ndarray:
            return mask[at].apply(x[at])

        def bits(at: slice) -> np.ndarray:
            return mask[8 * at.start : 8 * at.stop].packbits()

        if operation == "forward":
            return Turn(
                lambda: fastdrop.dropout(x, rate, rng=draws, out=given),
                references,
                lambda: proven(lambda out: fastdrop.dropout(x, rate, rng=stream(), out=out), given, part),
            )
        if operation in ("backward", "apply"):
            call = mask.backward if operation == "backward" else mask.apply
            proof = functools.partial(proven, lambda out: call(x, out=out), given, part)
            return Turn(lambda: call(x, out=given), references, proof)
        draw = mask.packbits if operation == "mask bits" else functools.partial(np.asarray, mask)
        return Turn(draw, references, lambda: proven(lambda _: draw(), part=bits if draw == mask.packbits else None))

    moved = {"mask bits": elements / 8, "mask booleans": elements}.get(operation)
    in_turn(
        make,
        about(
            operation,
            "dropout",
            nbytes,
            rate,
            dtype=dtype,
            isa=isa,
            threads=threads,
            out=out,
            moved=moved,
            memory=kept(mask) if operation == "forward" else None,
            axis="size" if case.is_plain_but_for() else None,
        ),
        tuple(bounds(case)),
    )
