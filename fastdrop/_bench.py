# SPDX-License-Identifier: BSD-3-Clause
"""How fast it is here: ``python -m fastdrop bench``.

Each size of array is a *group* of *contenders*, statements as a user would write them. A *round* times every contender
of a group once, in a new random order, each on buffers that it has just used; so what disturbs the machine for a while
disturbs all of them. A time is the median over the rounds, and a ratio is the median of the ratios within the rounds.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fastdrop
from fastdrop import _threads, _verify

SCHEMA = 1  # of the JSON file; raised when a field changes its meaning

SIZES = (None, 16 << 10, 1 << 20, 8 << 20, 64 << 20)  # bytes; None is one element
RATES = (0.1, 0.5)
RECIPE = "x * (rng.random(x.shape) < keep) / keep"

MIN_TIME = 5e-4  # seconds of one measurement: the timer's resolution and its call do not show
MIN_ROUNDS, MAX_ROUNDS = 5, 301
SLOW = 0.02  # seconds: a call of this length leaves nothing in the caches that an untimed call would have to restore
NOISY = 1.5  # a round is noted in which the baseline takes so many times its best


@dataclass
class Contender:
    """A statement to time, and its times."""

    name: str
    statement: str
    names: dict[str, Any] = field(repr=False)
    nbytes: int  # read and written by a call
    isa: str
    threads: int = 1
    is_recipe: bool = False
    repetitions: int = 1
    every: int = 1  # timed in each so many rounds
    seconds: list[float | None] = field(default_factory=list)

    def time(self, repetitions: int) -> float:
        """Seconds of so many calls."""
        timer = timeit.Timer(self.statement, globals=self.names)
        with fastdrop._using(self.isa), fastdrop.num_threads(self.threads):
            return timer.timeit(repetitions)

    def calibrate(self) -> float:
        """Choose the repetitions that make a measurement long enough, and return about how long it takes."""
        n = 1
        self.time(1)
        # The best of three, or one disturbed call would pass for a slow statement and be timed alone ever after.
        while (taken := min(self.time(n) for _ in range(3))) < MIN_TIME / 2:
            n *= 2
        self.repetitions = max(math.ceil(MIN_TIME * n / taken), 1)
        return taken / n * self.repetitions

    def measure(self) -> float:
        """Seconds of one call, on warm buffers."""
        last = next((taken for taken in reversed(self.seconds) if taken is not None), 0.0)
        if last < SLOW:
            self.time(1)
        return self.time(self.repetitions) / self.repetitions

    @property
    def median(self) -> float:
        return statistics.median(taken for taken in self.seconds if taken is not None)


@dataclass
class Group:
    """Contenders that are timed in turn. The first one is the baseline, by which a disturbed round is told."""

    name: str
    contenders: list[Contender]
    elements: int
    nbytes: int  # of the array
    dtype: str
    weight: float = 1.0  # of the time for all groups

    def __getitem__(self, name: str) -> Contender:
        return next(contender for contender in self.contenders if contender.name == name)

    def measure(self, seconds: float, rng: np.random.Generator, progress: Progress) -> None:
        """Time rounds for so long, within the limits of their number."""
        began = time.monotonic()
        costs = {contender.name: contender.calibrate() for contender in self.contenders}
        recipe = sum(costs[contender.name] for contender in self.contenders if contender.is_recipe)
        others = sum(costs.values()) - recipe
        every = min(max(round(recipe / (2 * others)), 1), 8)
        least = max(MIN_ROUNDS, 2 * every + 1)  # three rounds with the recipe
        for contender in self.contenders:
            contender.every = every if contender.is_recipe else 1
        for number in range(MAX_ROUNDS):
            elapsed = time.monotonic() - began
            if number >= least and elapsed >= seconds:
                break
            progress.update(elapsed / seconds, f"{self.name}: {number} rounds")
            for i in rng.permutation(len(self.contenders)):
                contender = self.contenders[i]
                contender.seconds.append(None if number % contender.every else contender.measure())

    @property
    def rounds(self) -> int:
        return len(self.contenders[0].seconds)

    def noisy_rounds(self) -> list[int]:
        """Numbers of the rounds in which the baseline was far from its best."""
        baseline = [taken for taken in self.contenders[0].seconds if taken is not None]
        return [number for number, taken in enumerate(baseline) if taken > NOISY * min(baseline)]

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of how many times as long one contender takes as another."""
        pairs = zip(self[name].seconds, self[to].seconds, strict=True)
        return statistics.median(a / b for a, b in pairs if a is not None and b is not None)


class Progress:
    """The bar of the whole run, to which each step adds its share."""

    def __init__(self, total: float) -> None:
        self.bar = _verify.Progress()
        self._total = total
        self._done = 0.0
        self._share = 0.0

    def begin(self, share: float) -> None:
        """Go on to a step of so many seconds."""
        self._done += self._share
        self._share = share

    def update(self, fraction: float, text: str) -> None:
        """Show how much of the step is done, from 0 to 1."""
        self.bar.update((self._done + self._share * min(fraction, 1.0)) / self._total, text)


# What is timed


def array_group(x: np.ndarray, rates: Sequence[float], isa: str, threads: int, with_recipe: bool = True) -> Group:
    """Copy, dropout and recipe on one array."""
    y = placed(x) if x.flags.c_contiguous else np.zeros_like(x)
    names = {"np": np, "fastdrop": fastdrop, "x": x, "y": y, "rng": np.random.default_rng(0)}
    name = format_size(x.nbytes)
    group = Group(name, [], x.size, x.nbytes, x.dtype.name, weight=3.0 if x.nbytes > 16 << 20 else 1.0)

    def add(kind: str, statement: str, **more: Any) -> None:
        known = names | {"keep": more.pop("keep", None)}
        group.contenders.append(Contender(kind, statement, known, 2 * x.nbytes, isa, threads, **more))

    add("copy", "np.copyto(y, x)")
    for rate in rates:
        add(f"dropout {rate}", f"fastdrop.dropout(x, {rate}, out=y)")
    for rate in rates if with_recipe else ():
        add(f"recipe {rate}", RECIPE, keep=1.0 - rate, is_recipe=True)
    return group


def random_array(nbytes: int | None, dtype: np.dtype) -> np.ndarray:
    """An array of so many bytes, or of one element."""
    n = 1 if nbytes is None else nbytes // dtype.itemsize
    return placed(np.random.default_rng(1).standard_normal(n, np.float32).astype(dtype))


def placed(array: np.ndarray) -> np.ndarray:
    """A copy that begins 16 bytes into a page, where malloc has large arrays begin when they get pages of their own.

    Left to chance, a y that begins a few cache lines after x, modulo the page, costs some statements a quarter of
    their speed: the processor takes a load for one of what was just stored.
    """
    page = 4096
    buffer = np.zeros(array.nbytes + 2 * page, np.uint8)
    start = -buffer.ctypes.data % page + 16
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass
class Mark:
    """A target that the project sets itself, and what was measured."""

    case: str
    target: float
    unit: str
    group: str = ""
    contender: str = ""
    baseline: str = ""
    at_least: bool = False  # the target is a number of times faster, not a number of times the baseline's time
    missing: str = ""  # why it can not be measured here
    value: float | None = None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def evaluate(self, groups: dict[str, Group]) -> None:
        """Take the value from what was measured."""
        if not self.missing:
            group = groups[self.group]
            pair = (self.baseline, self.contender) if self.at_least else (self.contender, self.baseline)
            self.value = group.ratio(*pair)

    def target_text(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.target:.2f} x {self.unit}"

    def verdict(self) -> str:
        if self.value is None:
            return f"not measured: {self.missing}"
        if self.met:
            return "met"
        percent = 100 * abs(self.value / self.target - 1)
        return f"missed by {percent:.{1 if percent < 10 else 0}f} %"


def marks_and_groups() -> tuple[list[Mark], dict[str, Group]]:
    """The targets, float32 and one thread if they say nothing else, and the groups that measure them."""
    here = fastdrop._kernels.name
    float32 = np.dtype(np.float32)
    marks: list[Mark] = []
    groups: dict[str, Group] = {}
    copies = (
        ("avx512", 1 << 20, (1.8, 1.1)),
        ("avx512", 8 << 20, (2.0, 1.2)),
        ("avx512", 64 << 20, (1.0, 0.9)),
        ("avx2", 1 << 20, (4.0, 1.3)),
    )
    for isa, nbytes, targets in copies:
        key = f"{isa} {format_size(nbytes)}"
        missing = "" if isa in fastdrop._kernel_names() else f"no {isa}"
        if not missing:
            groups[key] = array_group(random_array(nbytes, float32), RATES, isa, 1, with_recipe=False)
            groups[key].name = key
        for rate, target in zip(RATES, targets, strict=True):
            case = f"{isa}, {format_size(nbytes)}, rate {rate}"
            marks.append(Mark(case, target, "copy", key, f"dropout {rate}", "copy", missing=missing))

    one = array_group(random_array(None, float32), RATES, here, 1, with_recipe=False)
    one.name = "one element"
    multiply = "np.multiply(x, c, out=y)"
    one.contenders[0] = Contender("multiply", multiply, one.contenders[0].names | {"c": 1.25}, 2 * one.nbytes, here)
    groups[one.name] = one
    for rate in RATES:
        marks.append(Mark(f"one element, rate {rate}", 1.6, "np.multiply", one.name, f"dropout {rate}", "multiply"))

    two = array_group(random_array(8 << 20, float32), RATES[:1], here, 1, with_recipe=False)
    two.name = "two threads"
    forward = two[f"dropout {RATES[0]}"]
    two.contenders.append(Contender("two threads", forward.statement, forward.names, forward.nbytes, here, threads=2))
    missing = "" if _threads._usable_cpus() >= 2 else "one CPU"
    if not missing:
        groups[two.name] = two
    case = f"speed of two threads, 8 MiB, rate {RATES[0]}"
    marks.append(Mark(case, 1.6, "one thread", two.name, "two threads", forward.name, at_least=True, missing=missing))

    kinds, kind_marks = _kinds(here)
    groups[kinds.name] = kinds
    return marks + kind_marks, groups


def _kinds(isa: str) -> tuple[Group, list[Mark]]:
    """The backward pass and the other dtypes, beside the forward pass in float32, at 1 MiB of float32."""
    x = random_array(1 << 20, np.dtype(np.float32))
    group = array_group(x, RATES, isa, 1, with_recipe=False)
    group.name = "1 MiB, kinds"
    marks = []
    bfloat16 = _verify.bfloat16_dtype()
    others: dict[str, tuple[str, np.ndarray | None]] = {
        "float64": ("1 MiB", placed(x[: x.size // 2].astype(np.float64))),
        "float16": (f"{x.size:,} elements", placed(x.astype(np.float16))),
        "bfloat16": (f"{x.size:,} elements", None if bfloat16 is None else placed(x.astype(bfloat16))),
    }
    for rate in RATES:
        forward = f"dropout {rate}"
        backward = f"backward {rate}"
        _, mask = fastdrop.dropout(x, rate, return_mask=True)
        names = {"mask": mask, "dy": x, "dx": group[forward].names["y"]}
        group.contenders.append(Contender(backward, "mask.apply(dy, out=dx)", names, 2 * x.nbytes, isa))
        # No figure comes with "as the forward pass": two equal times are rarely nearer than this to each other.
        case = f"mask.apply, 1 MiB, rate {rate}"
        marks.append(Mark(case, 1.05, "dropout", group.name, backward, forward))
    for dtype, (length, array) in others.items():
        for rate in RATES:
            name = f"{dtype} {rate}"
            missing = "no ml_dtypes" if array is None else ""
            if array is not None:
                names = {"fastdrop": fastdrop, "x": array, "y": placed(array)}
                statement = f"fastdrop.dropout(x, {rate}, out=y)"
                group.contenders.append(Contender(name, statement, names, 2 * array.nbytes, isa))
            case = f"{dtype}, {length}, rate {rate}"
            marks.append(Mark(case, 1.0, "float32", group.name, name, f"dropout {rate}", missing=missing))
    return group, marks


# Text


def format_size(nbytes: int) -> str:
    """Bytes with the unit in which they are a short number."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << shift:
            return f"{nbytes / (1 << shift):.4g} {unit}"
    return f"{nbytes} B"


def format_time(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        value = seconds * scale
        if value < 999.5 or unit == "s":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def format_speed(nbytes: int, seconds: float) -> str:
    """GB/s; nothing where the call is all that takes time."""
    speed = nbytes / seconds / 1e9
    return f"{speed:.1f}" if speed >= 0.05 else "-"


def format_ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"


def size_table(groups: Iterable[Group], rates: Sequence[float]) -> str:
    """A row for each group. The columns of two rates fit in a line; more of them make more tables."""
    blocks = []
    for first in range(0, len(rates), 2):
        shown = rates[first : first + 2]
        titles = f"{'':10}{'np.copyto(y, x)':^18}" + "".join(f"   {f'rate {rate}':^33}" for rate in shown)
        columns = f"{'array':>10}{'time':>10}{'GB/s':>8}"
        columns += f"   {'time':>8}{'GB/s':>7}{'x copy':>8}{'x recipe':>10}" * len(shown)
        rule = f"{'':10} {'-' * 17}" + f"   {'-' * 33}" * len(shown)
        lines = [titles.rstrip(), rule, columns]
        for group in groups:
            copy = group["copy"]
            line = f"{group.name:>10}{format_time(copy.median):>10}{format_speed(copy.nbytes, copy.median):>8}"
            for rate in shown:
                name = f"dropout {rate}"
                ours = group[name]
                to_copy = format_ratio(group.ratio(name, "copy"))
                faster = format_ratio(group.ratio(f"recipe {rate}", name))
                line += f"   {format_time(ours.median):>8}{format_speed(ours.nbytes, ours.median):>7}"
                line += f"{to_copy:>8}{faster:>10}"
            lines.append(line)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def marks_table(marks: Iterable[Mark]) -> str:
    """A row for each target."""
    marks = list(marks)
    lines = [f"{'case':<40}{'target':<28}{'measured':>8}", "-" * 99]
    for mark in marks:
        value = "   " if mark.value is None else f"{mark.value:>8.2f}   "
        lines.append(f"{mark.case:<40}{mark.target_text():<28}{value}{mark.verdict()}")
    measured = [mark for mark in marks if mark.value is not None]
    lines.append(f"\n{sum(bool(mark.met) for mark in measured)} of {len(measured)} targets met")
    return "\n".join(lines)


def cpu_model() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# The file


def _group_record(group: Group) -> dict[str, Any]:
    baseline = group.contenders[0].name
    return {
        "name": group.name,
        "dtype": group.dtype,
        "elements": group.elements,
        "bytes": group.nbytes,
        "baseline": baseline,
        "rounds": group.rounds,
        "noisy rounds": group.noisy_rounds(),
        "contenders": [
            {
                "name": contender.name,
                "statement": contender.statement,
                "instruction set": contender.isa,
                "threads": contender.threads,
                "bytes read and written": contender.nbytes,
                "repetitions": contender.repetitions,
                "addresses modulo 4096": {
                    name: value.ctypes.data % 4096
                    for name, value in contender.names.items()
                    if isinstance(value, np.ndarray)
                },
                "seconds": contender.seconds,
                "median": contender.median,
                "median ratio to baseline": group.ratio(contender.name, baseline),
            }
            for contender in group.contenders
        ],
    }


def _mark_record(mark: Mark) -> dict[str, Any]:
    return {
        "case": mark.case,
        "target": mark.target_text(),
        "group": mark.group,
        "contender": mark.contender,
        "baseline": mark.baseline,
        "value": mark.value,
        "met": mark.met,
        "not measured": mark.missing or None,
    }


def record(
    settings: dict[str, Any],
    verified: Iterable[_verify.Result],
    groups: Iterable[Group],
    mark_groups: Iterable[Group],
    marks: Iterable[Mark],
) -> dict[str, Any]:
    """All that was measured, for the JSON file. Times are in seconds; None where a round left a contender out."""
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": fastdrop.show_config("dicts")
        | {"cpu": cpu_model(), "cpus of this process": _threads._usable_cpus(), "platform": platform.platform()},
        "settings": settings,
        "verified": [
            {"name": result.name, "known answers": result.known_answers, "comparisons": result.comparisons}
            for result in verified
        ],
        "groups": [_group_record(group) for group in groups],
        "mark groups": [_group_record(group) for group in mark_groups],
        "marks": [_mark_record(mark) for mark in marks],
    }


# The command


def run(
    *,
    seconds: float,
    sizes: Sequence[int | None],
    dtype: np.dtype,
    rates: Sequence[float],
    isa: str,
    threads: int,
    with_marks: bool,
    array: np.ndarray | None = None,
    array_name: str | None = None,
    json_file: Path | None = None,
) -> int:
    """The command: verify, measure, print, and return the exit status.

    Parameters
    ----------
    seconds : float
        About how long all of it may take.
    sizes : sequence of int or None
        Bytes of the arrays; None is one element.
    dtype : numpy.dtype
        Of the arrays.
    rates : sequence of float
        At least 0 and below 1.
    isa : str
        One of ``fastdrop._kernel_names()``.
    threads : int
        How many may work on one array in the first table.
    with_marks : bool
        Measure the project's targets too.
    array, array_name : ndarray and str, optional
        To be timed in place of the sizes.
    json_file : Path, optional
        Where all that was measured is written.
    """
    progress = Progress(seconds)
    try:
        verify_seconds = min(seconds / 10, 5.0)
        progress.begin(verify_seconds)
        verified = _verify.verify(seconds=verify_seconds, progress=progress.update)
        wrong = [result.name for result in verified if result.difference is not None]
        if wrong:
            progress.bar.clear()
            print(_verify.report(verified))
            print(f"\n{', '.join(wrong)}: wrong on this machine, so nothing was timed")
            return 1
        marks, mark_groups = marks_and_groups() if with_marks else ([], {})
        arrays = [array] if array is not None else [random_array(nbytes, dtype) for nbytes in sizes]
        groups = [array_group(x, rates, isa, threads) for x in arrays]
        _measure([*groups, *mark_groups.values()], seconds - verify_seconds, progress)
    finally:
        progress.bar.clear()
    for mark in marks:
        mark.evaluate(mark_groups)

    shown = groups[0].dtype
    comparisons = sum(result.comparisons for result in verified)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"fastdrop {fastdrop.__version__} on {cpu_model()}, {versions}")
    print(f"verified: {comparisons:,} comparisons of {len(verified)} implementations, no difference")
    print(f"\n{array_name or 'arrays'} of {shown}, {isa}, {threads} thread{'s' * (threads > 1)}\n")
    print(size_table(groups, rates))
    print(f"\nx copy:    times as long as np.copyto(y, x)\nx recipe:  times as fast as {RECIPE}")
    print(_rounds_text([*groups, *mark_groups.values()]))
    if marks:
        print(f"\n{marks_table(marks)}")
    if json_file is not None:
        settings = {
            "seconds": seconds,
            "rates": list(rates),
            "instruction set": isa,
            "threads": threads,
            "array": array_name,
            "recipe": RECIPE,
            "noisy round": f"the baseline takes more than {NOISY} times its best",
        }
        text = json.dumps(record(settings, verified, groups, mark_groups.values(), marks), indent=1)
        try:
            json_file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"python -m fastdrop bench: error: argument --json: {json_file}: {error.strerror}", file=sys.stderr)
            return 2
        print(f"\nwritten: {json_file}")
    return 0


def _measure(groups: Sequence[Group], seconds: float, progress: Progress) -> None:
    """Share the time out by weight; what a group does not need goes to those after it."""
    rng = np.random.default_rng()
    end = time.monotonic() + seconds
    weight = sum(group.weight for group in groups)
    for group in groups:
        progress.begin(seconds * group.weight / sum(other.weight for other in groups))
        share = max(end - time.monotonic(), 0.0) * group.weight / weight
        group.measure(max(share, 1e-3), rng, progress)
        weight -= group.weight


def _rounds_text(groups: Sequence[Group]) -> str:
    """How many rounds there were, and how many were disturbed."""
    rounds = [group.rounds for group in groups]
    noisy = sum(len(group.noisy_rounds()) for group in groups)
    span = f"{min(rounds)}" if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
    text = f"medians of {span} rounds; noisy ones (baseline over {NOISY} x its best): {noisy} of {sum(rounds)}"
    worst = [group.name for group in groups if 4 * len(group.noisy_rounds()) > group.rounds]
    return text + (f"\nnoisy in more than a quarter of the rounds: {', '.join(worst)}" if worst else "")
