# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmark suite is made of: arrays, proofs, rounds that are measured in turn, and a record of the machine.

Machines are shared and their speed changes from one second to the next, so a time says little and a ratio to something
else that was measured a moment before or after says much. In each round the case and each of its references are timed,
in an order that is shuffled anew. pytest-benchmark times the case and keeps its seconds; those of the references stand
beside them, round by round, in ``extra_info``.
"""

import contextlib
import functools
import gc
import operator
import os
import platform
import random
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastdrop
from benchmarks.instructions import build_flags
from benchmarks.results import BLOCK, FORMAT, OFF
from fastdrop import _backend, _threads
from fastdrop._config import caches as caches
from fastdrop._tools.arrays import bfloat16_dtype
from fastdrop._tools.arrays import placed as placed
from fastdrop._tools.bench import cpu_model
from fastdrop._tools.units import format_size

ROOT = Path(__file__).parents[1]

KIB, MIB = 1 << 10, 1 << 20
KEY = 0x5EED


# Rounds


@dataclass(frozen=True)
class Effort:
    """How much time a case may take. Seconds, and numbers of rounds."""

    turn: float = 400e-6  # that a contender is repeated for in a round: the clock's steps do not show in it
    rounds: int = 101  # that are enough
    fewest: int = 11
    budget: float = 0.4  # for the rounds of a case on a quiet machine
    patience: float = 1.2  # the same while less than a third of the rounds are good

    @property
    def most(self) -> int:
        return 3 * self.rounds

    def share(self, passes: int) -> "Effort":
        """What one of so many passes does, that do together what this says."""
        return Effort(
            self.turn,
            rounds=-(-self.rounds // passes),
            fewest=max(-(-self.fewest // passes), min(self.fewest, FEWEST)),
            budget=self.budget / passes,
            patience=self.patience / passes,
        )


FEWEST = 4  # rounds of which there is a median that one disturbed round does not move
QUICK = Effort(turn=20e-6, rounds=3, fewest=2, budget=0.0, patience=0.0)
STAY = BLOCK  # rounds with one set of buffers
WARM, PASSES = 2e-3, 4  # seconds, and calls: where one of them is reached, the caches are warm
SLOW = 0.02  # seconds: a call of this length leaves nothing in the caches that a call before it would restore


class Turn(NamedTuple):
    """A case, what it is compared with, and the proof that it is right. All of them work on the same buffers.

    ``before`` is called with a reference's name, or with None for the case, before this one is warmed and timed. It is
    for settings of the process that belong to one of them.
    """

    case: Callable[[], object]
    references: dict[str, Callable[[], object]]
    proof: Callable[[], None]
    before: Callable[[str | None], object] = lambda name: None


class Enough(BaseException):
    """Ends pytest-benchmark's rounds. Not an Exception, which it would take for a failure of the case."""


def repetitions(call: Callable[[], object], turn: float) -> int:
    """How often to call it in a round."""
    call()
    repeat = 1
    while True:
        # The best of three: one call that was disturbed would pass for a slow one.
        seconds = min(timed(call, repeat) for _ in range(3 if repeat > 1 else 2)) * repeat
        if seconds >= turn / 4:
            return max(round(repeat * turn / seconds), 1)
        repeat *= 2


def timed(call: Callable[[], object], repeat: int) -> float:
    """Seconds of one call."""
    turns = range(repeat)
    begin = time.perf_counter()
    for _ in turns:
        call()
    return (time.perf_counter() - begin) / repeat


@dataclass
class Rounds:
    """The references' part of a case's rounds, and when there are enough of them.

    ``begin``, the case itself, timed by whoever drives this, and ``end`` make a round. ``end`` raises Enough where it
    was the last one. How the pages of a buffer lie in memory makes some calls faster than others by a few per cent, and
    no single set of buffers is the truth: STAY rounds work with one set, and the next as many with the next.
    """

    turns: list[Turn]
    effort: Effort
    judged: tuple[tuple[str, ...], ...] = ()  # references that a ratio is taken to, alone or together
    pause: float = 0.0  # seconds before each is timed
    clock: Callable[[], float] = time.monotonic
    seconds: dict[str, list[float]] = field(init=False)
    iterations: int = field(init=False)  # of the case in a round

    def __post_init__(self) -> None:
        first = self.turns[0]
        self.seconds = {name: [] for name in first.references}
        self._repeat = {}
        for name, call in first.references.items():
            first.before(name)
            self._repeat[name] = repetitions(call, self.effort.turn)
        first.before(None)
        self.iterations = repetitions(first.case, self.effort.turn)
        self._case_is_slow = timed(first.case, 1) > SLOW
        self._shuffle = random.Random(1)
        self._number = 0
        self._waiting: list[str] = []
        self._began = self.clock()

    def case(self) -> None:
        """The case on the buffers of this round."""
        self._turn.case()

    @property
    def _turn(self) -> Turn:
        return self.turns[self._number // STAY % len(self.turns)]

    def begin(self) -> None:
        """Time the references that come before the case."""
        if len(self.turns) > 1 and self._number % STAY == 0:
            for name, call in {None: self._turn.case, **self._turn.references}.items():
                self._turn.before(name)
                call()
        order = list(self.seconds)
        self._shuffle.shuffle(order)
        place = self._shuffle.randrange(len(order) + 1)
        self._time(order[:place])
        self._waiting = order[place:]
        self._turn.before(None)
        self._warm(self.case, self._case_is_slow)

    def end(self) -> None:
        """Time those that come after it."""
        self._time(self._waiting)
        self._number += 1
        if self._is_enough():
            raise Enough

    def good(self) -> int:
        """How many rounds are good: in which no reference is far from its best. The least of what is judged."""
        least = self._number
        for names in self.judged:
            limits = [OFF * min(self.seconds[name]) for name in names]
            rounds = zip(*(self.seconds[name] for name in names), strict=True)
            good = sum(all(map(operator.le, times, limits)) for times in rounds)
            least = min(least, good)
        return least

    def _is_enough(self) -> bool:
        elapsed, effort = self.clock() - self._began, self.effort
        if self._number < effort.fewest or (self._number < effort.rounds and elapsed < effort.budget):
            return False
        return elapsed >= effort.patience or self._number >= effort.most or 3 * self.good() >= self._number

    def _time(self, names: list[str]) -> None:
        references = self._turn.references
        for name in names:
            last = self.seconds[name][-1] if self.seconds[name] else 0.0
            self._turn.before(name)
            self._warm(references[name], last > SLOW)
            self.seconds[name].append(timed(references[name], self._repeat[name]))

    def _warm(self, call: Callable[[], object], is_slow: bool) -> None:
        """Bring back to the caches what was driven out of them. The last of them keeps little of a first pass."""
        if self.pause:
            time.sleep(self.pause)
        end = time.perf_counter() + WARM
        for _ in range(0 if is_slow else PASSES):
            call()
            if time.perf_counter() > end:
                break


def placements(nbytes: int) -> int:
    """How many sets of buffers to measure with.

    One where all fits into the inner caches, and one where nothing stays in any of them.
    """
    return 4 if 256 * KIB <= nbytes <= 16 * MIB else 1


def measure(
    benchmark: Any,
    make: Callable[[], Turn],
    about: dict[str, Any],
    bounds: tuple[dict[str, Any], ...] = (),
    *,
    effort: Effort,
    pause: float = 0.0,
) -> None:
    """Prove a case, and measure it in turn with its references.

    Parameters
    ----------
    benchmark : pytest_benchmark.fixture.BenchmarkFixture
    make : callable
        Gives the case on new buffers, each time that it is called.
    about : dict
        What the case is, from ``about()``.
    bounds : tuple of dict
        ``{"name": ..., "over": {reference: factor, ...}, "at_most": x}`` asks that the case take at most x times as
        long as the sum of those references, ``{"name": ..., "seconds": x}`` that it take at most x seconds, and
        ``{"name": ..., "memory": x}`` that it keep at most x bytes for the backward pass.
    effort : Effort
    pause : float
        Seconds to wait before each is timed, for those whose threads go on spinning when their work is done.
    """
    with _backend._using(about["isa"]), fastdrop.num_threads(about["threads"]):
        first = make()
        first.proof()
        benchmark.group = f"{about['function']}, {format_size(about['bytes'])}"
        benchmark.extra_info |= {"case": about, "bounds": list(bounds), "load": [_load()]}
        if benchmark.disabled:
            for name, call in first.references.items():
                first.before(name)
                call()
            first.before(None)
            benchmark.pedantic(first.case)
            return
        turns = [first, *(make() for _ in range(placements(about["bytes"]) - 1))]
        with _no_garbage():
            first_reference = next(iter(first.references))
            judged = {(first_reference,), *(tuple(bound["over"]) for bound in bounds if "over" in bound)}
            rounds = Rounds(turns, effort, tuple(judged), pause)
            rounds.begin()

            def end_and_begin() -> None:
                rounds.end()
                rounds.begin()

            case = first.case if len(turns) == 1 else rounds.case
            with contextlib.suppress(Enough):
                benchmark.pedantic(case, teardown=end_and_begin, rounds=effort.most, iterations=rounds.iterations)
        seconds = {name: [digits(value) for value in times] for name, times in rounds.seconds.items()}
        first_times = np.array(seconds[first_reference])
        benchmark.extra_info |= {
            "references": seconds,
            "placements": len(turns),
            "passes": [len(first_times)],
            "off": np.flatnonzero(first_times > OFF * first_times.min()).tolist(),  # rounds that its ratio leaves out
        }


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Garbage is collected before, and not meanwhile."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def digits(seconds: float) -> float:
    """Five of them, which is more than a clock is worth."""
    return float(f"{seconds:.5g}")


# Arrays and what is said of a case


@functools.lru_cache(maxsize=4)
def _numbers(elements: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(elements, np.float32)


def numbers(nbytes: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """A new array of so many bytes with normal numbers. All of its pages are there, and begin where malloc's do."""
    kind = dtype_of(dtype)
    return placed(_numbers(nbytes // kind.itemsize, seed).astype(kind, copy=False))


def dtype_of(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    kind = bfloat16_dtype()
    if kind is None:
        pytest.skip("bfloat16: ml_dtypes is not installed")
    return kind


def stream() -> fastdrop.PhiloxStream:
    return fastdrop.PhiloxStream.from_key(KEY)


def planes(rate: float) -> int:
    """How many planes a rate needs: up to the last bit that is set among the upper eight of D, and all with a tail."""
    threshold = round(rate * 2**32)
    upper, lower = threshold >> 24, threshold & 0xFFFFFF
    if lower:
        return 8
    return 8 - ((upper & -upper).bit_length() - 1) if 0 < upper < 256 else 0


def kept(*objects: Any) -> int:
    """Bytes that a backward pass finds in memory: arrays by their elements, all else as Python stores it."""
    total = 0
    for value in objects:
        if isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, fastdrop.DropoutMask | fastdrop.GaussianMask):
            total += sys.getsizeof(value) + kept(value._state)
        elif isinstance(value, tuple):
            total += sys.getsizeof(value) + kept(*value)
        elif value is not None:
            total += sys.getsizeof(value)
    return total


def about(
    operation: str,
    function: str,
    nbytes: int,
    rate: float,
    *,
    dtype: str = "float32",
    isa: str | None = None,
    threads: int = 1,
    out: str = "given",
    moved: float | None = None,
    memory: int | None = None,
    peer: str | None = None,
    axis: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What a case is, for the JSON.

    Parameters
    ----------
    operation, function : str
        "forward", "backward", "apply", "mask bits", ...; and the function's name.
    nbytes : int
        Of the array that the case is about.
    rate : float
        The probability to drop, or what stands in its place.
    dtype : str
        Of that array.
    isa : str, optional
        Which of fastdrop's kernels run; those that it has chosen, by default.
    threads : int
        How many may work on it.
    out : {'given', 'fresh'}
        Whether the result goes to an array that is there already.
    moved : float, optional
        Bytes that a call reads and writes; twice those of the array by default.
    memory : int, optional
        Bytes kept for the backward pass.
    peer : str, optional
        The name of another library.
    axis : {'size', 'threads', 'rate', 'dims'}, optional
        The growth series that it belongs to.
    **more
        Anything else.
    """
    return {
        "operation": operation,
        "function": function,
        "bytes": nbytes,
        "elements": nbytes // dtype_of(dtype).itemsize,
        "dtype": dtype,
        "rate": rate,
        "planes": planes(rate),
        "isa": isa or _backend.running.name,
        "threads": threads,
        "out": out,
        "moved": 2 * nbytes if moved is None else moved,
        "memory": memory,
        "peer": peer,
        "axis": axis,
    } | more


# Proofs


class WrongResult(AssertionError):
    """A case whose result is wrong has no time."""


WHOLE = 1 << 21  # elements that the reference does in a tenth of a second
PART = 1 << 16


def same_bits(got: np.ndarray, expected: np.ndarray, of: str) -> None:
    """Raise WrongResult where two arrays differ in shape, dtype or a bit."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise WrongResult(f"{of}: {got.dtype}{got.shape} in place of {expected.dtype}{expected.shape}")
    bits = np.dtype(f"u{got.dtype.itemsize}")
    different = got.view(bits) != expected.view(bits)
    if different.any():
        first = np.unravel_index(int(np.argmax(different)), got.shape)
        raise WrongResult(
            f"{of}: {np.count_nonzero(different)} elements are wrong, the first of them at {tuple(map(int, first))}: "
            f"{got[first]!r} in place of {expected[first]!r}"
        )


def proven(
    call: Callable[[np.ndarray | None], np.ndarray],
    out: np.ndarray | None = None,
    part: Callable[[slice], np.ndarray] | None = None,
) -> None:
    """Show that a call gives the bits of the reference, with the kernels and threads that are to be measured.

    Parameters
    ----------
    call : callable
        Takes where the result is to go, or None, and gives the result: the same one each time.
    out : ndarray, optional
        Where it goes when it is measured.
    part : callable
        Gives a slice of the result, calculated alone. Needed for large ones, which would take the reference long. They
        are compared as a whole with other kernels, and with the reference at the beginning, from a place on that is no
        multiple of anything, and at the end.
    """
    running = _backend.running.name
    got = call(out)
    if part is None or got.size <= WHOLE:
        with _backend._using("reference"):
            same_bits(got, call(None), f"{running} beside the reference")
        return
    other = "portable" if running != "portable" else _backend.names()[-1]
    with _backend._using(other), fastdrop.num_threads(1):
        same_bits(got, call(None), f"{running} beside {other}")
    with _backend._using("reference"):
        for first in (0, got.size // 2 + 12345, got.size - PART):
            at = slice(first, first + PART)
            same_bits(got[at], part(at), f"{running} beside the reference, elements from {first} on")


# The machine


def environment() -> dict[str, Any]:
    """What runs here, and where."""
    config = fastdrop.show_config("dicts")
    cpu = _cpuinfo()
    return {
        "fastdrop_format": FORMAT,
        "fastdrop": config["fastdrop"],
        **commit(),
        "cpu": cpu_model(),
        "family": cpu.get("cpu family"),
        "model": cpu.get("model"),
        "caches": caches(),
        "cpus": _threads._usable_cpus(),
        "isa": config["running"],
        "isas": list(_backend.names()[1:]),
        "threads": config["threads"],
        "python": config["python"],
        "numpy": config["numpy"],
        "platform": platform.platform(),
        "compiler": compiler(),
        "flags": flags(),
        "huge pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def commit() -> dict[str, Any]:
    """Of the checkout that this file stands in; None where there is none."""
    try:
        head = _git("rev-parse", "HEAD").strip()
        return {"commit": head, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], check=True, capture_output=True, text=True).stdout


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first CPU."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    return {}


def compiler() -> str | None:
    """Which compiler made the core, as it signed the file; None for another kind of file, or no core."""
    if _backend.compiled is None:
        return None
    signed = re.search(
        rb"GCC: \([^)]*\) [\w.]+|[\w ]*clang version [\w.]+", Path(_backend.compiled.__file__).read_bytes()
    )
    return signed[0].decode().strip() if signed else None


def flags() -> list[str]:
    """What the compiler was told: what Python itself was built with, and what setup.py adds."""
    return [*(sysconfig.get_config_var("CFLAGS") or "").split(), *build_flags()]


def _chosen(path: str) -> str | None:
    """The word in brackets."""
    with contextlib.suppress(OSError):
        chosen = re.search(r"\[(\w+)\]", Path(path).read_text())
        return chosen[1] if chosen else None
    return None


def _load() -> float | None:
    """How many processes want a CPU, as a mean over a minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@dataclass
class Watch:
    """The load while the suite runs, and what of the CPUs' time the hypervisor took for others."""

    loads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._ticks = self._cpu_ticks()
        self.look()

    def look(self) -> None:
        load = _load()
        if load is not None:
            self.loads.append(load)

    def record(self) -> dict[str, Any]:
        self.look()
        loads = self.loads
        ticks = [now - then for now, then in zip(self._cpu_ticks(), self._ticks, strict=True)]
        mean = round(sum(loads) / len(loads), 2) if loads else None
        return {
            "load": {"first": loads[0], "mean": mean, "largest": max(loads), "last": loads[-1]} if loads else None,
            "stolen": max(round(ticks[7] / sum(ticks), 4), 0.0) if sum(ticks) else None,
            "seconds": round(time.monotonic() - self._began, 1),
        }

    @staticmethod
    def _cpu_ticks() -> list[int]:
        """user, nice, system, idle, iowait, irq, softirq, steal: of all CPUs since they were started."""
        with contextlib.suppress(OSError):
            return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return [0] * 8
