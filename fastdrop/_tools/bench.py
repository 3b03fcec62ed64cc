# SPDX-License-Identifier: BSD-3-Clause
"""How fast it is here: ``python -m fastdrop bench``."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fastdrop import _threads
from fastdrop._config import show_config
from fastdrop._tools.arrays import random_array
from fastdrop._tools.bounds import Bound, bounds_and_groups
from fastdrop._tools.output import OutputFile, complain, one_line, say, width
from fastdrop._tools.tables import bounds_table, rounds_text, size_table
from fastdrop._tools.timing import MAX_ROUNDS, NOISY, RECIPE, Bar, Group, array_group
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
    json_file: OutputFile | None = None,
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
    json_file : OutputFile, optional
        Where all that was measured is written.
    """
    # Made before anything is measured: memory that is lacking is found now and not after a minute.
    bounds, bound_groups = bounds_and_groups() if with_bounds else ([], {})
    arrays = [array] if array is not None else [random_array(nbytes, dtype) for nbytes in sizes]
    groups = [array_group(x, rates, isa, threads) for x in arrays]
    all_groups = [*groups, *bound_groups.values()]
    progress = Bar(seconds)
    is_complete = False
    try:
        verify_seconds = min(seconds / 10, 5.0)
        progress.begin(verify_seconds)
        verified = verify(seconds=verify_seconds, progress=progress.update)
        wrong = [result.name for result in verified if result.difference is not None]
        if not wrong:
            is_complete = _measure(all_groups, seconds - verify_seconds, progress)
    finally:
        progress.bar.clear()
    if wrong:
        say(f"{report(verified)}\n\n{', '.join(wrong)}: wrong on this machine, so nothing was timed")
        return 1
    measured = [group for group in groups if group.is_measured]
    if not measured:
        raise KeyboardInterrupt  # before there was anything to keep
    bound_groups = {name: group for name, group in bound_groups.items() if group.is_measured}
    for bound in bounds:
        bound.evaluate(bound_groups)
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
        kept = record(settings, verified, measured, bound_groups.values(), bounds, is_complete)
        json_file.write(json.dumps(kept, indent=1) + "\n")

    version, shown = show_config("dicts")["fastdrop"], groups[0].dtype
    comparisons = sum(result.comparisons for result in verified)
    machine = f"fastdrop {version} on {cpu_model()}, Python {platform.python_version()}, NumPy {np.__version__}"
    title = f"{one_line(array_name or 'arrays')} of {shown}, {isa}, {threads} thread{'s' * (threads > 1)}"
    paragraphs = [
        textwrap.fill(one_line(machine), width())
        + f"\nverified: {comparisons:,} comparisons of {len(verified)} implementations, no difference",
        title,
        size_table(measured, rates, width()),
        f"x copy:    times as long as np.copyto(y, x)\nx recipe:  times as fast as {RECIPE}\n"
        + rounds_text([*measured, *bound_groups.values()], width()),
    ]
    if bound_groups:
        paragraphs.append(bounds_table(bounds))
    if json_file is not None:
        path = one_line(str(json_file.path))
        separator = " " if len("written: ") + len(path) <= width() else "\n"
        paragraphs.append(f"written:{separator}{path}")
    say("\n\n".join(paragraphs))
    if is_complete:
        return 0
    text = f"{len(measured) + len(bound_groups)} of {len(all_groups)} groups were measured"
    where = "" if json_file is None else f", and written to {json_file.path}"
    complain(f"python -m fastdrop bench: interrupted: {text}{where}")
    return 130


def needed_memory(sizes: Iterable[int], itemsize: int) -> int:
    """Bytes that it takes to time arrays of so many bytes: x and y of each, and what the recipe makes on its way."""
    sizes = list(sizes)
    of_recipe = 8 + 1 + 2 * itemsize  # an element's random number, its comparison, and two results
    return 2 * sum(sizes) + max(sizes) // itemsize * of_recipe


def most_bytes(arrays: int, rates: int) -> int:
    """Of the JSON file, for so many arrays and rates, and the bounds."""
    contenders = arrays * (1 + 2 * rates) + 50
    return contenders * (MAX_ROUNDS * 30 + 1000)


def _measure(groups: Sequence[Group], seconds: float, progress: Bar) -> bool:
    """Share the time out by weight; what a group does not need goes to those after it.

    Returns whether all were measured. Where the user interrupts it, what there is by then is kept.
    """
    rng = np.random.default_rng()
    end = time.monotonic() + seconds
    weight = sum(group.weight for group in groups)
    try:
        for group in groups:
            progress.begin(seconds * group.weight / sum(other.weight for other in groups))
            share = max(end - time.monotonic(), 0.0) * group.weight / weight
            group.measure(max(share, 1e-3), rng, progress)
            weight -= group.weight
    except KeyboardInterrupt:
        group.forget_unfinished_round()
        return False
    return True


# The file


def record(
    settings: dict[str, object],
    verified: Iterable[Result],
    groups: Iterable[Group],
    bound_groups: Iterable[Group],
    bounds: Iterable[Bound],
    is_complete: bool,
) -> dict[str, object]:
    """All that was measured, for the JSON file. Times are in seconds; None where a round left a contender out."""
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": is_complete,  # or interrupted
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
