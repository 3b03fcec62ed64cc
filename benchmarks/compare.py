# SPDX-License-Identifier: BSD-3-Clause
"""What became slower or faster between two runs, beyond what two runs of the same code differ by.

    python -m benchmarks.compare OLD.json NEW.json
    python -m benchmarks.compare OLD.json NEW.json --markdown summary.md

What is compared are ratios to the reference, never times. Exit status: 0 if nothing is slower, 1 if something is or if
a case has failed, 2 if there is no verdict: the runs cannot be compared, or the summary not be written.

The ratio of two ratios has an interval from the standard errors that a bootstrap gives for both (benchmarks.results).
Those come from few passes and are themselves uncertain: each is drawn towards the median of all cases of the run, as if
that were known from PRIOR more passes, and Student's t with all those degrees of freedom makes up the interval (Smyth,
Statistical Applications in Genetics and Molecular Biology 3, 2004, article 3). Its level is such that with a
probability of 1 - ALPHA none of the cases is reported if none has changed (Bonferroni). And a change of less than
LEAST is not reported, however sure. Of 1000 simulated pairs of runs of the same code none was reported where only
rounds differ, and 5 where passes differ by 2 % too (tests/test_benchmark_results.py).

Runs of a single pass do not show how far passes differ. Where there are MANY cases the spread of their changes stands
in for it, at the price that a change of most cases by different amounts hides itself.
"""

import argparse
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import MACHINE, BadResult, Run, read, short_name
from benchmarks.views import code, escaped, ratio
from fastdrop._tools.output import Failure, Parser, guarded, say

ALPHA = 0.01
LEAST = 0.02
PRIOR = 8
MANY = 20
NORMAL_MAD = 1.4826  # the standard deviation of normal numbers in units of their median absolute deviation
MAD_EFFICIENCY = 0.37  # of so many times as few normal numbers a standard deviation knows as much
SURE = 200  # degrees of freedom where only rounds are known


@dataclass(frozen=True)
class Change:
    """A case in two runs. Factors of its ratio to the reference: above 1 is slower."""

    name: str
    old: float
    new: float
    factor: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """'slower', 'faster' or 'same'."""
        if self.low > 1 and self.factor >= 1 + LEAST:
            return "slower"
        if self.high < 1 and self.factor <= 1 / (1 + LEAST):
            return "faster"
        return "same"


@dataclass(frozen=True)
class Comparison:
    old: Run
    new: Run
    changes: tuple[Change, ...]
    gone: tuple[str, ...]  # cases that only the old run has
    added: tuple[str, ...]
    seen: float  # the factor from which on half of the cases would have been reported
    passes: int  # the fewer of the two runs'

    def those(self, verdict: str) -> list[Change]:
        """The largest changes first."""
        found = [change for change in self.changes if change.verdict == verdict]
        return sorted(found, key=lambda change: -abs(math.log(change.factor)))

    @property
    def is_worse(self) -> bool:
        return bool(self.those("slower") or self.new.environment["failed"])


def compare(old: Run, new: Run) -> Comparison:
    """Two runs of one machine. Other libraries are not judged: their speed is not fastdrop's."""
    names = [name for name in old.cases if name in new.cases and not old.cases[name].about["peer"]]
    if not names:
        raise BadResult(f"{old.path} and {new.path} have no case in common")
    pairs = [(old.cases[name], new.cases[name]) for name in names]
    logarithms = np.array([math.log(b.estimate.ratio / a.estimate.ratio) for a, b in pairs])
    variances = np.array([a.estimate.error**2 + b.estimate.error**2 for a, b in pairs])
    passes = min(len(case.passes) for pair in pairs for case in pair)
    if passes > 1:
        own = np.array([len(a.passes) + len(b.passes) - 2 for a, b in pairs])
        prior = min(PRIOR, len(pairs) - 1)  # the others say nothing where there are none
        variances = (prior * np.median(variances) + own * variances) / (prior + own)
        freedom = prior + own
    else:
        freedom = np.full(len(pairs), SURE)
        if len(pairs) >= MANY:
            spread = NORMAL_MAD * np.median(np.abs(logarithms - np.median(logarithms)))
            variances = variances + max(0.0, spread**2 - float(np.median(variances)))
            freedom = np.full(len(pairs), MAD_EFFICIENCY * len(pairs))
    widths = student_t(ALPHA / len(pairs), freedom) * np.sqrt(variances)
    changes = tuple(
        Change(
            name,
            a.estimate.ratio,
            b.estimate.ratio,
            math.exp(logarithm),
            math.exp(logarithm - width),
            math.exp(logarithm + width),
        )
        for name, (a, b), logarithm, width in zip(names, pairs, logarithms, widths, strict=True)
    )
    return Comparison(
        old,
        new,
        changes,
        tuple(name for name in judged(old) if name not in new.cases),
        tuple(name for name in judged(new) if name not in old.cases),
        max(math.exp(float(np.median(widths))), 1 + LEAST),
        passes,
    )


def student_t(alpha: float, freedom: np.ndarray) -> np.ndarray:
    """How many standard errors a number may be off on either side with a probability of alpha."""
    try:
        from scipy import stats  # here, for whoever reads runs needs no SciPy
    except ModuleNotFoundError as error:
        raise BadResult("SciPy is not installed, which pip install -e '.[bench]' does") from error
    return stats.t.isf(alpha / 2, freedom)


def judged(run: Run) -> list[str]:
    return [name for name, case in run.cases.items() if not case.about["peer"]]


def why_not(old: Run, new: Run) -> str | None:
    """Why ratios of two runs say nothing of a change in fastdrop: they are of different machines."""
    for field, what in MACHINE.items():
        if old.machine[field] != new.machine[field]:
            return f"the {what} differs: {old.machine[field]} and {new.machine[field]}"
    return None


def label(case: str) -> str:
    """A case's name without what is the same for all, in Markdown."""
    name = short_name(case).partition("::")[2].removeprefix("test_") or case
    # In a terminal too it must be easy to read: brackets and underscores are escaped only where they would be markup.
    return re.sub(r"\](?=\()", r"\]", escaped(name, r"\\`*<>|&~"))


def lines(comparison: Comparison) -> list[str]:
    """The summary in Markdown."""
    old, new = comparison.old, comparison.new
    slower, faster = comparison.those("slower"), comparison.those("faster")
    count = len(comparison.changes)
    if slower or faster:
        headline = f"{len(slower)} slower, {len(faster)} faster, of {count} cases"
    else:
        headline = f"no change beyond the noise in {count} cases"
    result = [
        f"### Benchmarks: {headline}",
        "",
        (
            f"{code(old.commit)} ({escaped(old.date)}) -> {code(new.commit)} ({escaped(new.date)}), "
            f"{escaped(new.environment['cpu'])}, {escaped(new.environment['isa'])}. Ratios to the reference "
            "measured in the same rounds; above 1 is slower. "
            f"Half of the cases would show a change from {comparison.seen - 1:.0%} on; more passes show smaller ones."
        ),
    ]
    if comparison.passes == 1:
        result += [
            "",
            (
                "One pass only: how far passes differ is not known, and a change may be such a difference. "
                "`--passes 4` tells."
            ),
        ]
    if slower or faster:
        result += ["", "| case | old | new | change | interval |", "|---|---|---|---|---|"]
        for change in (*slower, *faster):
            result.append(
                f"| {label(change.name)} | {ratio(change.old)} | {ratio(change.new)} "
                f"| **{change.factor - 1:+.1%}** {change.verdict} | {change.low - 1:+.1%} to {change.high - 1:+.1%} |"
            )
    for title, names in (
        ("Failed in the new run", new.environment["failed"]),
        ("Only in the old run", comparison.gone),
        ("Only in the new run", comparison.added),
    ):
        if names:
            shown = [f"- {label(name)}" for name in names[:20]]
            more = [f"- and {len(names) - 20} more"] if len(names) > 20 else []
            result += ["", f"{title}:", "", *shown, *more]
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary there too")
    parser.add_argument("--other-machine", action="store_true", help="compare although the machines differ")
    return guarded(parser.prog, lambda: _compare_files(parser.parse_args(arguments)))


def _compare_files(options: argparse.Namespace) -> int:
    old, new = read(options.old), read(options.new)
    why = why_not(old, new)
    if why and not options.other_machine:
        raise BadResult(f"{options.old} and {options.new}: {why} (--other-machine compares all the same)")
    comparison = compare(old, new)
    text = "\n".join(lines(comparison))
    if options.markdown:
        try:
            options.markdown.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise Failure(f"--markdown {options.markdown}: {error.strerror}") from error
    say(text)
    return int(comparison.is_worse)


if __name__ == "__main__":
    sys.exit(main())
