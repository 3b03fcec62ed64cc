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
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1  # of what the suite adds to pytest-benchmark's JSON; raised when a field changes its meaning
OFF = 1.1
BLOCK = 4  # rounds that are drawn together, as many as have the same buffers
DRAWS = 500
LEVEL = 0.95


class BadResult(Exception):
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


def read(path: Path) -> Run:
    """A run from its file; BadResult if it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadResult(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadResult(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    if not text.strip():
        raise BadResult(f"{path}: the file is empty")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadResult(f"{path}: not JSON, or cut off: line {error.lineno}: {error.msg}") from error
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise BadResult(f"{path}: not a file of pytest-benchmark's: it has no list of benchmarks")
    machine = document.get("machine_info")
    environment = machine.get("fastdrop") if isinstance(machine, dict) else None
    if not isinstance(environment, dict) or not isinstance(environment.get("fastdrop_format"), int):
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
    if not document["benchmarks"]:
        raise BadResult(f"{path}: there is no benchmark in it")
    cases: dict[str, Case] = {}
    for number, record in enumerate(document["benchmarks"]):
        name = record.get("fullname") if isinstance(record, dict) else None
        name = name.rpartition("/")[2] if isinstance(name, str) else f"number {number}"
        if name in cases:
            raise BadResult(f"{path}: {name} is there twice")
        try:
            cases[name] = _case(name, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BadResult(f"{path}: benchmark {name}: {why}") from error
    return Run(path, str(document.get("datetime", ""))[:19], environment, cases)


ENVIRONMENT = (
    "fastdrop",
    "commit",
    "dirty",
    "cpu",
    "cpus",
    "isa",
    "isas",
    "threads",
    "python",
    "numpy",
    "set",
    "failed",
)
ABOUT = ("operation", "function", "bytes", "elements", "dtype", "rate", "isa", "threads", "out", "moved", "peer")


def _case(name: str, record: dict[str, Any]) -> Case:
    extra = record["extra_info"]
    seconds = _times(record["stats"]["data"], "stats.data")
    references = {key: _times(value, key) for key, value in extra["references"].items()}
    passes = tuple(extra["passes"])
    if not references:
        raise ValueError("it has no reference")
    if any(len(times) != len(seconds) for times in references.values()) or sum(passes) != len(seconds):
        raise ValueError("the case, its references and its passes do not have equally many rounds")
    if not passes or min(passes) < 1:
        raise ValueError("a pass without rounds")
    for key in ABOUT:
        extra["case"][key]
    for bound in extra["bounds"]:
        for reference in bound.get("over", ()):
            references[reference]
    return Case(name, extra["case"], tuple(extra["bounds"]), seconds, references, passes)


def _times(values: list[float], of: str) -> np.ndarray:
    seconds = np.array(values, dtype=float)
    if seconds.ndim != 1 or not seconds.size or not np.all(np.isfinite(seconds) & (seconds > 0)):
        raise ValueError(f"{of} are not seconds: a list of finite numbers above zero")
    return seconds
