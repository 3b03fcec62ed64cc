# SPDX-License-Identifier: BSD-3-Clause
"""Runs of the suite, read from their JSON, and what their rounds say.

A ratio is taken within a round, of the case's seconds to those of its reference. A round is good if no reference that
the ratio is taken to needs more than OFF times its best in the same pass; the others are left out. The ratio of a pass
is the median of its good rounds, and the ratio of a case the geometric mean of its passes.

Its interval comes from a bootstrap: passes are drawn anew with replacement, and within each its rounds, in blocks of
neighbours because those share their buffers (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.5
and 8.6). Passes are few, so a variance among n of them, drawn that way, comes out n / (n - 1) times too small; the
deviations are made longer by the root of that.
"""

import json
import math
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastdrop._tools.output import Failure

FORMAT = 1  # of what the suite adds to pytest-benchmark's JSON; raised when a field changes its meaning
OFF = 1.1
BLOCK = 4  # rounds that are drawn together, as many as have the same buffers
DRAWS = 500
LEVEL = 0.95


class BadResult(Failure):
    """A file that is no run of this suite, or not a whole one. The message names it."""


@dataclass(frozen=True)
class Estimate:
    """A ratio with its interval at LEVEL, and how many of the rounds it is taken from."""

    ratio: float
    low: float
    high: float
    error: float  # standard error of the ratio's logarithm
    good: int
    rounds: int

    @property
    def is_noisy(self) -> bool:
        """Whether so many rounds were left out, or they differ so much, that the ratio says little."""
        return self.good < max(5, self.rounds / 5) or self.high > 1.25 * self.low


@dataclass(frozen=True)
class Case:
    """What was measured, round by round; see benchmarks.measuring.about for the fields of ``about``."""

    name: str
    about: dict[str, Any]
    bounds: tuple[dict[str, Any], ...]
    seconds: np.ndarray
    references: dict[str, np.ndarray]
    passes: tuple[int, ...]  # rounds of each
    _estimates: dict[tuple, Estimate] = field(default_factory=dict, repr=False)  # so that each is made once

    @property
    def reference(self) -> str:
        """What it is compared with when nothing else is said."""
        return next(iter(self.references))

    @property
    def median(self) -> float:
        """Seconds, over all rounds."""
        return float(np.median(self.seconds))

    def median_of(self, reference: str) -> float:
        return float(np.median(self.references[reference]))

    @property
    def estimate(self) -> Estimate:
        """Of the ratio to the reference."""
        return self.estimate_over({self.reference: 1})

    def estimate_over(self, over: dict[str, float]) -> Estimate:
        """Of the ratio to a sum of references, each times its factor."""
        key = tuple(over.items())
        if key not in self._estimates:
            passes = self.logarithms(over)
            center = float(np.mean([np.median(rounds) for rounds in passes]))
            deviations = self.deviations(passes, center)
            low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            self._estimates[key] = Estimate(
                math.exp(center),
                math.exp(center + low),
                math.exp(center + high),
                float(np.std(deviations)),
                sum(map(len, passes)),
                len(self.seconds),
            )
        return self._estimates[key]

    def logarithms(self, over: dict[str, float]) -> list[np.ndarray]:
        """Of the ratios of the good rounds, for each pass."""
        base = sum(factor * self.references[name] for name, factor in over.items())
        ratios = self.seconds / np.maximum(base, 1e-12)
        passes, begin = [], 0
        for rounds in self.passes:
            part = slice(begin, begin + rounds)
            times = [self.references[name][part] for name in over]
            good = np.logical_and.reduce([seconds <= OFF * seconds.min() for seconds in times])
            # Where no round is good for all references at once, none is better than another.
            passes.append(np.log(ratios[part][good] if good.any() else ratios[part]))
            begin += rounds
        return passes

    def deviations(self, passes: list[np.ndarray], center: float) -> np.ndarray:
        """How far the logarithm of the ratio goes from itself when rounds and passes are drawn anew, DRAWS times."""
        n = len(passes)
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))  # the same at each reading
        # Of each pass as many medians as it may be drawn for.
        medians = np.stack([_medians(rounds, (DRAWS, n), generator) for rounds in passes])
        drawn = generator.integers(n, size=(DRAWS, n))
        means = np.take_along_axis(medians, drawn[None], axis=0)[0].mean(axis=1)
        return (means - center) * math.sqrt(n / (n - 1) if n > 1 else 1.0)


def _medians(rounds: np.ndarray, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Medians of rounds that are drawn anew, in blocks; the first round follows the last one."""
    n = len(rounds)
    blocks = -(-n // BLOCK)
    first = generator.integers(n, size=(*shape, blocks, 1))
    at = (first + np.arange(BLOCK)).reshape(*shape, blocks * BLOCK)[..., :n] % n
    return np.median(rounds[at], axis=-1)


MACHINE = {  # fields of the environment, in words
    "cpu": "CPU",
    "model": "model of the CPU",
    "cpus": "number of CPUs",
    "isas": "list of instruction sets",
    "isa": "instruction set",
}


@dataclass(frozen=True)
class Run:
    """One measurement of the suite."""

    path: Path
    date: str  # ISO 8601, UTC
    environment: dict[str, Any]
    cases: dict[str, Case]

    @property
    def commit(self) -> str:
        """Seven digits, and whether there were changes that it does not have."""
        commit = self.environment["commit"]
        return "unversioned" if commit is None else commit[:7] + ("+" if self.environment["dirty"] else "")

    @property
    def machine(self) -> dict[str, Any]:
        """What must be the same for ratios of two runs to say something of a change in fastdrop."""
        return {field: self.environment.get(field) for field in MACHINE}

    def select(self, **fields: Any) -> list[Case]:
        """The cases of which ``about`` has these values."""
        return [case for case in self.cases.values() if all(case.about.get(k) == v for k, v in fields.items())]


def short_name(node: str) -> str:
    """A case's name without the folders of its file. What stands behind the colons may have slashes of its own."""
    file, colons, case = node.partition("::")
    return file.rpartition("/")[2] + colons + case


def read(path: Path) -> Run:
    """A run from its file; BadResult if it is none, or if anything in it is not what the suite writes."""
    document = _document(path)
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise BadResult(f"{path}: not a file of pytest-benchmark's: it has no list of benchmarks")
    machine = document.get("machine_info")
    environment = machine.get("fastdrop") if isinstance(machine, dict) else None
    if not isinstance(environment, dict) or not _is_int(environment.get("fastdrop_format")):
        raise BadResult(f"{path}: of pytest-benchmark's, but not of fastdrop's suite: machine_info.fastdrop is missing")
    if environment["fastdrop_format"] != FORMAT:
        newer = environment["fastdrop_format"] > FORMAT
        raise BadResult(
            f"{path}: written in format {environment['fastdrop_format']}, and this reads format {FORMAT}: "
            + ("use the fastdrop that wrote it, or a later one" if newer else "measure again")
        )
    lacking = [field for field in ENVIRONMENT if field not in environment]
    if lacking:
        raise BadResult(f"{path}: machine_info.fastdrop lacks {', '.join(lacking)}")
    try:
        _check(environment, ENVIRONMENT | FURTHER_ENVIRONMENT, "machine_info.fastdrop.")
        date = document.get("datetime", "")
        _check({"datetime": date}, {"datetime": _is_text})
    except ValueError as error:
        raise BadResult(f"{path}: {error}") from error
    if not document["benchmarks"]:
        raise BadResult(f"{path}: there is no benchmark in it")
    cases: dict[str, Case] = {}
    for number, record in enumerate(document["benchmarks"]):
        name = record.get("fullname") if isinstance(record, dict) else None
        name = short_name(name) if isinstance(name, str) else f"number {number}"
        if name in cases:
            raise BadResult(f"{path}: {name} is there twice")
        try:
            cases[name] = _case(name, record)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BadResult(f"{path}: benchmark {name}: {why}") from error
    return Run(path, date[:19], environment, cases)


def _document(path: Path) -> Any:
    """What the JSON of a file holds."""
    try:
        # A pipe to which nobody writes is empty, and not waited for.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(number, "rb") as file:
            kind = os.fstat(number).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
                raise BadResult(f"{path}: {'Is a directory' if stat.S_ISDIR(kind) else 'not a file'}")
            if stat.S_ISFIFO(kind):
                os.set_blocking(number, True)
            text = file.read().decode()
    except OSError as error:
        raise BadResult(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadResult(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    if not text.strip():
        raise BadResult(f"{path}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadResult(f"{path}: not JSON, or cut off: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise BadResult(f"{path}: not a run: lists within lists without end") from error
    except ValueError as error:  # an int of more digits than Python reads
        raise BadResult(f"{path}: {error}") from error


# What must be what: a field, and whether its value is one that the suite writes.

Check: TypeAlias = Callable[[Any], bool]

MOST = 1e18  # of numbers: what is larger is no size and no time


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


ENVIRONMENT: dict[str, Check] = {
    "fastdrop": _is_text,
    "commit": _or_none(_is_text),
    "dirty": _or_none(_is_bool),
    "cpu": _is_text,
    "cpus": _is_int,
    "isa": _is_text,
    "isas": _list_of(_is_text),
    "threads": _is_int,
    "python": _is_text,
    "numpy": _is_text,
    "set": _is_text,
    "failed": _list_of(_is_text),
}
# What may be absent.
FURTHER_ENVIRONMENT: dict[str, Check] = {
    "family": _or_none(_is_text),
    "model": _or_none(_is_text),
    "caches": _dict_of(_is_number),
    "platform": _or_none(_is_text),
    "compiler": _or_none(_is_text),
    "flags": _list_of(_is_text),
    "huge pages": _or_none(_is_text),
    "load": _or_none(_dict_of(_is_number)),
    "stolen": _or_none(_is_number),
    "seconds": _is_number,
    "complete": _is_bool,
    "skipped": _list_of(_dict_of(_is_text)),
    "peers": _dict_of(_is_text),
}
ABOUT: dict[str, Check] = {
    "operation": _is_text,
    "function": _is_text,
    "bytes": _is_number,
    "elements": _is_number,
    "dtype": _is_text,
    "rate": _is_number,
    "isa": _is_text,
    "threads": _is_int,
    "out": _is_text,
    "moved": _or_none(_is_number),
    "peer": _or_none(_is_text),
    "planes": _is_int,
    "memory": _or_none(_is_number),
    "axis": _or_none(_is_text),
}
FURTHER_ABOUT: dict[str, Check] = {
    "statement": _is_text,
    "dims": _is_int,
    "data_format": _is_text,
    "per_gate": _is_bool,
    "client": _is_text,
    "called": _is_text,
    "layout": _is_text,
    "objects": _is_number,
    "peer_memory": _is_number,
}


def _check(values: Any, checks: dict[str, Check], of: str = "") -> None:
    """Raise ValueError for a value that is not what it must be. What is absent is not looked at."""
    if not isinstance(values, dict):
        raise ValueError(f"{of.rstrip('.')} is not an object: {_shown(values)}")
    for key, check in checks.items():
        if key in values and not check(values[key]):
            raise ValueError(f"{of}{key} cannot be {_shown(values[key])}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _case(name: str, record: dict[str, Any]) -> Case:
    extra = record["extra_info"]
    seconds = _times(record["stats"]["data"], "stats.data")
    references = {key: _times(value, key) for key, value in extra["references"].items()}
    passes = extra["passes"]
    if not _list_of(_is_int)(passes):
        raise ValueError(f"passes are not numbers of rounds: {_shown(passes)}")
    if not references:
        raise ValueError("it has no reference")
    if any(len(times) != len(seconds) for times in references.values()) or sum(passes) != len(seconds):
        raise ValueError("the case, its references and its passes do not have equally many rounds")
    if not passes or min(passes) < 1:
        raise ValueError("a pass without rounds")
    for key in ABOUT:
        extra["case"][key]
    _check(extra["case"], ABOUT | FURTHER_ABOUT, "case.")
    if "client" in extra["case"]:  # a report says how it was called, and how it is beside that library's own
        extra["case"]["called"]
        references[extra["case"]["client"]]
    for bound in extra["bounds"]:
        for reference in bound.get("over", ()):
            references[reference]
        limit = next((kind for kind in ("seconds", "memory") if kind in bound), "at_most")
        if limit == "memory" and extra["case"]["memory"] is None:
            raise ValueError("a bound of the memory of a case that says nothing of it")
        _check(
            {"name": bound.get("name"), limit: bound.get(limit), "over": bound.get("over", {})},
            {"name": _is_text, limit: _is_above_zero, "over": _dict_of(_is_factor)},
            "bound.",
        )
        if limit == "at_most" and not bound.get("over"):
            raise ValueError("a bound over nothing")
    return Case(name, extra["case"], tuple(extra["bounds"]), seconds, references, tuple(passes))


def _is_above_zero(value: Any) -> bool:
    return _is_number(value) and value > 1 / MOST


def _is_factor(value: Any) -> bool:
    """An empty call, say, may be taken off."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _times(values: Any, of: str) -> np.ndarray:
    seconds = np.array(values, dtype=float)
    if seconds.ndim != 1 or not seconds.size or not all(map(_is_above_zero, values)):
        raise ValueError(f"{of} are not seconds: a list of finite numbers above zero")
    return seconds
