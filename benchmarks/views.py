# SPDX-License-Identifier: BSD-3-Clause
"""What a report says of a run, before it is a page, a Markdown file or a part of README.md: texts and numbers.

Nothing here needs more than NumPy and fastdrop.
"""

import os
import re
import textwrap
import urllib.parse
from typing import Any

from benchmarks.results import BLOCK, DRAWS, LEVEL, OFF, BadResult, Case, Estimate, Run
from fastdrop._tools.output import one_line

KIB, MIB = 1 << 10, 1 << 20
RATES = (0.1, 0.5)
SIZES = (16 * KIB, MIB, 8 * MIB, 64 * MIB, 256 * MIB)

# Of which the report shows how they went from run to run.
HISTORY = (
    ("1 MiB, rate 0.1", {"axis": "size", "bytes": MIB, "rate": 0.1}),
    ("1 MiB, rate 0.5", {"axis": "size", "bytes": MIB, "rate": 0.5}),
    ("8 MiB, rate 0.1", {"axis": "size", "bytes": 8 * MIB, "rate": 0.1}),
    ("64 MiB, rate 0.1", {"axis": "size", "bytes": 64 * MIB, "rate": 0.1}),
)


# Numbers as people read them


def number(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{float(f'{value:.3g}'):.12g}"


def duration(seconds: float) -> str:
    seconds = float(f"{seconds:.3g}")  # what rounds up to the next unit is shown in that one
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{number(seconds / factor)} {unit}"
    return f"{number(seconds * 1e9)} ns"


def ratio(value: float) -> str:
    """Two decimals where they say something: one more for what is small, fewer for what is large."""
    decimals = 3 if value < 0.0995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def interval(estimate: Estimate) -> str:
    return f"{ratio(estimate.low)} - {ratio(estimate.high)}"


def size(nbytes: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes:.4g} B"


def escaped(text: str, special: str = r"\\`*_<>\[\]|&~") -> str:
    """A text that Markdown shows as it is, in one line and in a cell of a table."""
    return re.sub(f"([{special}])", r"\\\1", one_line(" ".join(text.split())))


def code(text: str) -> str:
    """A text as code in Markdown, whatever backticks it has."""
    text = one_line(" ".join(text.split()))
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def link(source: str) -> str:
    """The way to a file, as it stands in a link."""
    return urllib.parse.quote(os.fsencode(source))


def array(case: Case) -> str:
    return "one element" if case.about["elements"] == 1 else size(case.about["bytes"])


def peer_label(case: Case) -> str:
    threads = case.about["threads"]
    return case.about["peer"] + (f", {threads} threads" if threads > 1 else "")


# What a report says


def judged(case: Case, bound: dict[str, Any] | None, group: str, label: str) -> dict[str, Any]:
    """A row of what can be read off at one glance: a ratio, and whether it keeps its bound."""
    if bound is not None and "seconds" in bound:
        value, most = case.median, bound["seconds"]
        return {
            "group": group,
            "case": label,
            "against": duration(most),
            "ratio": value / most,
            "low": None,
            "high": None,
            "bound": 1.0,
            "met": value <= most,
            "noisy": case.estimate.is_noisy,
            "seconds": value,
        }
    if bound is not None and "memory" in bound:
        kept, most = case.about["memory"], bound["memory"]
        return {
            "group": group,
            "case": label,
            "against": f"{bound['name']}: {size(kept)}",
            "ratio": kept / most,
            "low": None,
            "high": None,
            "bound": 1.0,
            "met": kept <= most,
            "noisy": False,
            "seconds": None,
        }
    over = bound["over"] if bound else {case.reference: 1}
    estimate = case.estimate_over(over)
    most = bound["at_most"] if bound else None
    return {
        "group": group,
        "case": label,
        "against": bound["name"] if bound else "the copy",
        "ratio": estimate.ratio,
        "low": estimate.low,
        "high": estimate.high,
        "bound": most,
        "met": None if most is None else estimate.ratio <= most,
        "noisy": estimate.is_noisy,
        "seconds": case.median,
    }


COPY, REST, FUSED, FAMILY, PYTORCH = GROUPS = (
    "dropout beside the copy",
    "the call, threads, masks, dtypes",
    "fused functions",
    "the rest of the family",
    "PyTorch",
)


def bounds(run: Run) -> list[dict[str, Any]]:
    """Whatever has a bound, and whether it keeps it, by groups."""
    result = [
        judged(case, bound, group_of(case, bound), what(case, run))
        for case in run.cases.values()
        for bound in case.bounds
    ]
    return sorted(result, key=lambda row: GROUPS.index(row["group"]))


def group_of(case: Case, bound: dict[str, Any]) -> str:
    function = case.about["function"]
    if is_pytorchs(case):
        return PYTORCH
    if function == "dropout":
        return COPY if bound == bound_in_copies(case) else REST
    return FUSED if function in ("dropout_add", "bias_dropout_add", "relu_dropout") else FAMILY


def bound_in_copies(case: Case) -> dict[str, Any] | None:
    """The one that says how many copies it may cost."""
    return next((bound for bound in case.bounds if bound.get("over") == {"np.copyto": 1}), None)


def score(run: Run) -> str:
    """How many of the bounds are met."""
    rows = bounds(run)
    return f"{sum(row['met'] for row in rows)} of the project's own {len(rows)} bounds"


def plain_dropout(run: Run) -> dict[tuple[str, int], dict[tuple[int, float], Case]]:
    """By instruction set and threads, and then by bytes and rate: float32, into a given result, beside the copy."""
    plain = {"operation": "forward", "function": "dropout", "dtype": "float32", "out": "given", "peer": None}
    found: dict[tuple[str, int], dict[tuple[int, float], Case]] = {}
    for case in run.select(**plain):
        about = case.about
        if about["axis"] in ("size", "threads", None) and case.reference == "np.copyto":
            cells = found.setdefault((about["isa"], about["threads"]), {})
            if about["axis"] == "size" or (about["bytes"], about["rate"]) not in cells:
                cells[about["bytes"], about["rate"]] = case
    return found


def glance(run: Run) -> dict[str, Any]:
    """Plain dropout in copies: a row for each instruction set and number of threads, a column for each size."""
    found = plain_dropout(run)
    order = list(run.environment["isas"])
    keys = sorted(found, key=lambda key: (-order.index(key[0]), key[1]))
    sizes = [nbytes for nbytes in SIZES if any(nbytes == at for cells in found.values() for at, _ in cells)]
    return {
        "columns": [size(nbytes) for nbytes in sizes],
        "rates": [f"{rate:g}" for rate in RATES],
        "rows": [
            {
                "label": isa + (f", {threads} threads" if threads > 1 else ""),
                "cells": [[in_copies(found[isa, threads].get((nbytes, rate))) for rate in RATES] for nbytes in sizes],
            }
            for isa, threads in keys
        ],
    }


def in_copies(case: Case | None) -> dict[str, Any] | None:
    """A cell of what can be read off at one glance."""
    if case is None:
        return None
    return judged(case, bound_in_copies(case), "", what(case))


def what(case: Case, run: Run | None = None) -> str:
    """A case in words, short. What is usual in the run is not said."""
    about = case.about
    if is_pytorchs(case):
        words = [what_of_pytorch(case), f"p {about['rate']:g}"]
    else:
        words = [about["function"]]
        if about["operation"] != "forward":
            words[0] += f" {about['operation']}"
        words += [array(case), f"rate {about['rate']:g}"]
    if about["dtype"] != "float32":
        words.append(about["dtype"])
    if about["out"] == "fresh" and not is_pytorchs(case):
        words.append("new result")
    if about["threads"] > 1:
        words.append(f"{about['threads']} threads")
    if run is not None and about["isa"] != run.environment["isa"]:
        words.append(about["isa"])
    if "data_format" in about:
        words.append(about["data_format"])
    if "per_gate" in about:
        words.append("a mask for each gate" if about["per_gate"] else "a mask for all gates")
    return ", ".join(words)


# PyTorch's tensors


def is_pytorchs(case: Case) -> bool:
    """Whether it is dropout of PyTorch's tensors, beside PyTorch's own."""
    return case.about.get("client") == "PyTorch"


def what_of_pytorch(case: Case) -> str:
    """A case of PyTorch's in words, without p, dtype and threads."""
    about = case.about
    if about["operation"] == "training step":
        return f"{about['function']}, {about['called']}"
    words = [about["operation"], elements(about["elements"])]
    if about.get("layout", "contiguous") != "contiguous":
        words[-1] = about["layout"]
    return ", ".join([*words, about["called"]])


def elements(count: int) -> str:
    for unit, factor in (("Mi", 1 << 20), ("Ki", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return str(count)


def pytorch(run: Run) -> dict[str, Any] | None:
    """Tables of the cases with PyTorch's tensors: what a step spends on dropout, how fast it is alone, what it keeps.

    None where the run has none of them.
    """
    cases = [case for case in run.cases.values() if is_pytorchs(case)]
    if not cases:
        return None
    return {
        "shares": [share(case) for case in cases if "without dropout" in case.references],
        "speeds": [speed(case) for case in cases if "without dropout" not in case.references],
        "memory": [
            {
                "case": what(case),
                "tensors": case.about["memory"],
                "objects": case.about.get("objects"),
                "pytorch": case.about["peer_memory"],
            }
            for case in cases
            if "peer_memory" in case.about
        ],
    }


def speed(case: Case) -> dict[str, Any]:
    """How fast a case is, in PyTorch's speed: the other way round than a ratio, more is better."""
    estimate = case.estimate_over({"PyTorch": 1})
    bound = next((bound for bound in case.bounds if bound.get("over") == {"PyTorch": 1}), None)
    return {
        "case": what(case),
        "before": case.median_of("PyTorch"),
        "after": case.median,
        "times": 1 / estimate.ratio,
        "low": 1 / estimate.high,
        "high": 1 / estimate.low,
        "at_least": None if bound is None else 1 / bound["at_most"],
        "met": None if bound is None else estimate.ratio <= bound["at_most"],
        "noisy": estimate.is_noisy,
    }


def share(case: Case) -> dict[str, Any]:
    """What part of a training step is dropout, before and after; the rest is the same step without it.

    Both come from ratios within rounds. Where dropout costs less than the rounds differ, a share may be below zero.
    """
    without = case.estimate_over({"without dropout": 1})
    before = without.ratio / case.estimate_over({"PyTorch": 1}).ratio
    return speed(case) | {
        "without": case.median_of("without dropout"),
        "share_before": 1 - 1 / before,
        "share_after": 1 - 1 / without.ratio,
        "share_low": 1 - 1 / without.low,
        "share_high": 1 - 1 / without.high,
    }


def percent(part: float) -> str:
    """A share, with a decimal where it is small."""
    return f"{part:.0%}" if abs(part) >= 0.0995 else f"{part:.1%}"


COLUMNS: tuple[tuple[str, str, str, bool, str], ...] = (
    ("what", "operation", "text", True, "the function, and what of it"),
    ("peer", "library", "text", True, "fastdrop, or another one"),
    ("bytes", "array", "number", True, "its size"),
    ("rate", "rate", "number", True, "the probability to drop"),
    ("dtype", "dtype", "text", True, ""),
    ("isa", "instructions", "text", True, "the instruction set that fastdrop ran"),
    ("threads", "threads", "number", True, ""),
    ("out", "result", "text", True, "given: written to an array that is there; fresh: to a new one"),
    ("seconds", "time", "number", False, "median of all rounds"),
    ("ratio", "ratio", "number", False, "to the reference, in the same rounds"),
    ("interval", "interval", "text", False, f"{LEVEL:.0%}, by a bootstrap over passes and rounds"),
    ("reference", "reference", "text", True, "what the ratio is taken to"),
    ("fastdrop", "in fastdrop's", "number", False, "a library's time, in that of fastdrop.dropout"),
    ("gbs", "GB/s", "number", False, "read and written"),
    ("memory", "kept", "number", False, "bytes in memory for the backward pass"),
    ("rounds", "rounds", "number", False, "good ones of all"),
)


def rows(run: Run) -> list[dict[str, Any]]:
    """A row for each case, with a cell for each column."""
    return [row(case) for case in run.cases.values()]


def row(case: Case) -> dict[str, Any]:
    about, estimate = case.about, case.estimate
    beside = case.estimate_over({"fastdrop": 1}) if about["peer"] else None
    name = about["function"] + ("" if about["operation"] == "forward" else f" {about['operation']}")
    if is_pytorchs(case):
        name = what_of_pytorch(case)
    flags = []
    if beside is not None and beside.ratio < 1:
        flags.append("peer wins")
    if estimate.is_noisy:
        flags.append("noisy")
    if case.bounds:
        met = all(judged(case, bound, "", "")["met"] for bound in case.bounds)
        flags.append("bound met" if met else "bound missed")
    memory = about.get("memory")
    cells: dict[str, tuple[str, Any]] = {
        "what": (name, name),
        "peer": (about["peer"] or "fastdrop", about["peer"] or "fastdrop"),
        "bytes": (array(case), about["bytes"]),
        "rate": (f"{about['rate']:g}", about["rate"]),
        "dtype": (about["dtype"], about["dtype"]),
        "isa": ("", None) if about["peer"] else (about["isa"], about["isa"]),
        "threads": (str(about["threads"]), about["threads"]),
        "out": (about["out"], about["out"]),
        "seconds": (duration(case.median), case.median),
        "ratio": (ratio(estimate.ratio), estimate.ratio),
        "interval": (interval(estimate), estimate.low),
        "reference": (case.reference, case.reference),
        "fastdrop": (ratio(beside.ratio), beside.ratio) if beside else ("", None),
        "gbs": (number(about["moved"] / case.median / 1e9), about["moved"] / case.median)
        if about["moved"]
        else ("", None),
        "memory": ("", None) if memory is None else (size(memory), memory),
        "rounds": (f"{estimate.good}/{estimate.rounds}", estimate.good),
    }
    return {key: {"text": text, "value": value} for key, (text, value) in cells.items()} | {"flags": flags}


def environment(run: Run) -> list[tuple[str, str]]:
    known = run.environment
    caches = ", ".join(f"{level} {size(nbytes)}" for level, nbytes in known.get("caches", {}).items())
    load = known.get("load")
    pairs = [
        ("CPU", f"{known['cpu']} (family {known.get('family')}, model {known.get('model')}), {known['cpus']} CPUs"),
        ("caches", caches),
        ("instruction set", f"{known['isa']}, of {', '.join(known['isas'])}"),
        ("threads", f"{known['threads']} for one large array unless a case says otherwise"),
        ("fastdrop", f"{known['fastdrop']}, commit {run.commit}"),
        ("Python, NumPy", f"{known['python']}, {known['numpy']}"),
        ("compiler", f"{known.get('compiler')}: {' '.join(known.get('flags', []))}"),
        ("system", f"{known.get('platform')}, transparent huge pages: {known.get('huge pages')}"),
        (
            "other libraries",
            ", ".join(f"{name} {version}" for name, version in known.get("peers", {}).items()) or "none",
        ),
        ("load while it ran", f"mean {load['mean']}, largest {load['largest']}" if load else "not known"),
        ("CPU time taken by others", "not known" if known.get("stolen") is None else f"{known['stolen']:.1%}"),
        ("run", f"{run.date} UTC, {known.get('seconds', 0):.0f} s, the {known['set']} set, {len(run.cases)} cases"),
    ]
    return [(label, text) for label, text in pairs if text]


METHOD = (
    (
        "A case first proves its result: bit for bit against the NumPy reference, for large arrays as a whole "
        "against another instruction set and in parts against the reference; other libraries show that they drop as "
        "often as they say and scale what is kept. What is wrong has no number."
    ),
    (
        "Each case is measured in turn with its references on the same warmed buffers, in rounds; the order is "
        "shuffled in each. A ratio is taken within a round. A time is that of this machine in those minutes: compare "
        "ratios."
    ),
    (
        f"A round in which the reference takes more than {OFF:g} times its best is left out. A pass is a process of "
        "its own with buffers of its own. The ratio is the median of a pass's good rounds, and the geometric mean of "
        f"the passes; the interval ({LEVEL:.0%}) is from a bootstrap of {DRAWS} draws over passes and blocks of "
        f"{BLOCK} rounds. A case is called noisy if few rounds are good or the interval is wide."
    ),
    (
        "What a library keeps for the backward pass is counted in the objects that it keeps: saved tensors, "
        "booleans, or, for fastdrop, the mask's object of a few numbers."
    ),
)


METHOD_OF_PYTORCH = (
    "With PyTorch's tensors a case is PyTorch's own function while fastdrop.torch is enabled, and its reference the "
    "same function while it is not; to switch is not a part of the time. A case that names fastdrop.torch.dropout "
    "calls it instead. A training step is a forward and a backward pass, without an optimizer. It must first give the "
    "gradients that plain products with the masks of the reference give. What is left of a step without dropout is the "
    "same step with p = 0, in which attention is kept to the kernels that it takes with dropout."
)


def method(run: Run) -> list[str]:
    return [*METHOD, *([METHOD_OF_PYTORCH] if any(map(is_pytorchs, run.cases.values())) else [])]


def lead(run: Run) -> str:
    return (
        "Dropout is compared with a copy of the same array: a ratio of 1 costs as much as np.copyto. Measured on "
        f"{run.environment['cpu']} with {run.environment['isa']}; {score(run)} are met in "
        "this run."
    )


def losses(run: Run) -> list[Case]:
    """Where a peer is faster."""
    return [
        case
        for case in run.cases.values()
        if case.about["peer"] and "fastdrop" in case.references and case.estimate_over({"fastdrop": 1}).ratio < 1
    ]


def history(runs: list[Run]) -> dict[str, Any] | None:
    """A table of the ratios that the plot of the history shows."""
    if len(runs) < 2:
        return None
    table = []
    for run in runs:
        cells = [f"{run.date[:16]} {run.commit}"]
        for _, fields in HISTORY:
            found = run.select(**fields)
            cells.append(f"{ratio(found[0].estimate.ratio)} ({interval(found[0].estimate)})" if found else "")
        table.append(cells)
    return {"columns": ["run", *(label for label, _ in HISTORY)], "rows": table}


def readme_figures(run: Run, source: str) -> str:
    """The part of README.md that has figures, beside the copy and the NumPy recipe. Source is the run's file."""
    cases = {(case.about["bytes"], case.about["rate"]): case for case in run.select(axis="size")}
    recipe = {
        (case.about["bytes"], case.about["rate"]): case
        for case in run.select(peer="NumPy Generator float32", threads=1)
    }
    lines = [
        "| array | `np.copyto` | dropout at 0.1, times the copy | at 0.5 | the NumPy recipe at 0.1, in dropouts |",
        "|---|---|---|---|---|",
    ]
    lacking = [
        f"{size(nbytes)} at {rate:g}" for nbytes in (4, *SIZES[:4]) for rate in RATES if (nbytes, rate) not in cases
    ]
    if lacking:
        raise BadResult(f"{run.path}: README's figures need the whole suite, and this lacks {', '.join(lacking)}")
    for nbytes in SIZES[:4]:
        slow, fast = cases[nbytes, 0.1], cases[nbytes, 0.5]
        beside = recipe.get((nbytes, 0.1))
        lines.append(
            f"| {size(nbytes)} | {duration(slow.median_of('np.copyto'))} | {ratio(slow.estimate.ratio)} | "
            f"{ratio(fast.estimate.ratio)} | {ratio(beside.estimate_over({'fastdrop': 1}).ratio) if beside else ''} |"
        )
    one = cases[4, 0.1].estimate_over({"np.multiply": 1}).ratio
    known = run.environment
    said = (
        f"float32, one thread, {escaped(known['isa'])}, on {escaped(known['cpu'])} with Python "
        f"{escaped(known['python'])} and NumPy {escaped(known['numpy'])}; medians of ratios measured in turn "
        "within the same rounds:"
    )
    below = (
        "The recipe is `x * (rng.random(x.shape, np.float32) < keep) / keep`, and both give a new array. In the "
        f"smaller arrays the call itself counts: an array of one element takes {ratio(one)} times as long as with "
        "`np.multiply`. [The report](benchmarks/REPORT.md) has PyTorch, TensorFlow, JAX and others beside it, every "
        f"case, the method and the plots; all of it is made from [one file of rounds]({link(source)}). This run met "
        f"{score(run)}."
    )
    return "\n".join(
        [*textwrap.wrap(said, 118), "", *lines, "", *textwrap.wrap(below, 118, break_on_hyphens=False), ""]
    )
