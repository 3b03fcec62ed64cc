# SPDX-License-Identifier: BSD-3-Clause
"""How fast it is here: ``python -m fastdrop bench``."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fastdrop import _threads
from fastdrop._config import show_config
from fastdrop._tools.arrays import random_array
from fastdrop._tools.bounds import Bound, bounds_and_groups
from fastdrop._tools.tables import bounds_table, rounds_text, size_table
from fastdrop._tools.timing import NOISY, RECIPE, Bar, Group, array_group
from fastdrop._tools.verify import Result, report, verify

SCHEMA = 2  # of the JSON file; raised when a field changes its meaning

SIZES = (None, 16 << 10, 1 << 20, 8 << 20, 64 << 20)  # bytes; None is one element


def run(
    *,
    seconds: float,
    sizes: Sequence[int | None],
    dtype: np.dtype,
    rates: Sequence[float],
    isa: str,
    threads: int,
    with_bounds: bool,
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
        One of ``_backend.names()``.
    threads : int
        How many may work on one array in the first table.
    with_bounds : bool
        Measure the project's bounds too.
    array, array_name : ndarray and str, optional
        To be timed in place of the sizes.
    json_file : Path, optional
        Where all that was measured is written.
    """
    progress = Bar(seconds)
    try:
        verify_seconds = min(seconds / 10, 5.0)
        progress.begin(verify_seconds)
        verified = verify(seconds=verify_seconds, progress=progress.update)
        wrong = [result.name for result in verified if result.difference is not None]
        if wrong:
            progress.bar.clear()
            print(report(verified))
            print(f"\n{', '.join(wrong)}: wrong on this machine, so nothing was timed")
            return 1
        bounds, bound_groups = bounds_and_groups() if with_bounds else ([], {})
        arrays = [array] if array is not None else [random_array(nbytes, dtype) for nbytes in sizes]
        groups = [array_group(x, rates, isa, threads) for x in arrays]
        _measure([*groups, *bound_groups.values()], seconds - verify_seconds, progress)
    finally:
        progress.bar.clear()
    for bound in bounds:
        bound.evaluate(bound_groups)

    version, shown = show_config("dicts")["fastdrop"], groups[0].dtype
    comparisons = sum(result.comparisons for result in verified)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"fastdrop {version} on {cpu_model()}, {versions}")
    print(f"verified: {comparisons:,} comparisons of {len(verified)} implementations, no difference")
    print(f"\n{array_name or 'arrays'} of {shown}, {isa}, {threads} thread{'s' * (threads > 1)}\n")
    print(size_table(groups, rates))
    print(f"\nx copy:    times as long as np.copyto(y, x)\nx recipe:  times as fast as {RECIPE}")
    print(rounds_text([*groups, *bound_groups.values()]))
    if bounds:
        print(f"\n{bounds_table(bounds)}")
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
        text = json.dumps(record(settings, verified, groups, bound_groups.values(), bounds), indent=1)
        try:
            json_file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"python -m fastdrop bench: error: argument --json: {json_file}: {error.strerror}", file=sys.stderr)
            return 2
        print(f"\nwritten: {json_file}")
    return 0


def _measure(groups: Sequence[Group], seconds: float, progress: Bar) -> None:
    """Share the time out by weight; what a group does not need goes to those after it."""
    rng = np.random.default_rng()
    end = time.monotonic() + seconds
    weight = sum(group.weight for group in groups)
    for group in groups:
        progress.begin(seconds * group.weight / sum(other.weight for other in groups))
        share = max(end - time.monotonic(), 0.0) * group.weight / weight
        group.measure(max(share, 1e-3), rng, progress)
        weight -= group.weight


# The file


def record(
    settings: dict[str, object],
    verified: Iterable[Result],
    groups: Iterable[Group],
    bound_groups: Iterable[Group],
    bounds: Iterable[Bound],
) -> dict[str, object]:
    """All that was measured, for the JSON file. Times are in seconds; None where a round left a contender out."""
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": show_config("dicts")
        | {"cpu": cpu_model(), "cpus of this process": _threads._usable_cpus(), "platform": platform.platform()},
        "settings": settings,
        "verified": [
            {"name": result.name, "known answers": result.known_answers, "comparisons": result.comparisons}
            for result in verified
        ],
        "groups": [_group_record(group) for group in groups],
        "bound groups": [_group_record(group) for group in bound_groups],
        "bounds": [_bound_record(bound) for bound in bounds],
    }


def _group_record(group: Group) -> dict[str, object]:
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


def _bound_record(bound: Bound) -> dict[str, object]:
    return {
        "case": bound.case,
        "bound": bound.text(),
        "group": bound.group,
        "contender": bound.contender,
        "baseline": bound.baseline,
        "value": bound.value,
        "met": bound.met,
        "not measured": bound.missing or None,
    }


def cpu_model() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
