# SPDX-License-Identifier: BSD-3-Clause
"""The report's plots, as SVG whose text and axes take the colour of what is around them.

Everything that is written or is an axis is drawn in INK, which is then replaced by currentColor; the colours of the
series are light enough for a dark page and dark enough for a light one. Text stays text. The same run gives the same
bytes.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from benchmarks.results import Case, Estimate, Run
from benchmarks.views import HISTORY, KIB, MIB, RATES, bound_in_copies, peer_label, plain_dropout, ratio, size

INK = "#010203"
BLUE, ORANGE, GREEN, VIOLET, GREY = "#3d85d1", "#d9822b", "#35a06f", "#9a6fd0", "#8a8f98"
COLORS = {0.1: ORANGE, 0.5: BLUE}  # of rates
DASHED = (0, (4, 2))
WIDTH = 8.2  # inches, of 72 points

STYLE = {
    "text.parse_math": False,  # a name with dollars is a name
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "system-ui", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
}


@dataclass(frozen=True)
class Plot:
    id: str
    title: str
    caption: str
    alt: str
    svg: str  # to stand in a page

    @property
    def file(self) -> str:
        """The same to stand alone: black on light, white on dark."""
        style = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
        head, end, rest = self.svg.partition(">")
        return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{end}\n {style}{rest}'


def render(name: str, figure: Figure) -> str:
    """An <svg> element. Identifiers begin with the plot's name, for several plots stand in one page."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05
        )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    return svg.replace(INK, "currentColor").strip() + "\n"


def figure(columns: int = 1, height: float = 3.2, rows: int = 1, **options) -> tuple[Figure, list[Axes]]:
    made = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(axes.flat)


def sizes(axes: Axes, values: list[int]) -> None:
    """An axis of bytes, with the names that people give them."""
    axes.set_xscale("log", base=2)
    ticks = [4, KIB, 16 * KIB, MIB, 64 * MIB]
    ticks = [tick for tick in ticks if min(values) <= tick <= max(values)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([size(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def plain_log(axis, *ticks: float) -> None:
    """A logarithmic axis with these ticks, as plain numbers."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def line(axes: Axes, at: list[float], estimates: list[Estimate], color: str, label: str) -> None:
    """Ratios with their intervals as a band."""
    axes.plot(at, [e.ratio for e in estimates], "o-", color=color, label=label)
    axes.fill_between(at, [e.low for e in estimates], [e.high for e in estimates], color=color, alpha=0.25, linewidth=0)


def the_copy(axes: Axes) -> None:
    axes.axhline(1, color=GREY, linewidth=1.2, linestyle=DASHED, label="the copy")


def by_rate(cases: list[Case], key: str) -> dict[float, list[Case]]:
    """Cases of rates 0.1 and 0.5 in the order of a field."""
    return {
        rate: sorted((case for case in cases if case.about["rate"] == rate), key=lambda case: case.about[key])
        for rate in RATES
    }


def throughput(run: Run) -> Figure | None:
    series = by_rate(run.select(axis="size"), "bytes")
    if not all(series.values()):
        return None
    made, (left, right) = figure(2)
    for rate, cases in series.items():
        at = [case.about["bytes"] for case in cases]
        left.plot(at, [case.about["moved"] / case.median / 1e9 for case in cases], "o-", color=COLORS[rate])
        line(right, at, [case.estimate for case in cases], COLORS[rate], f"rate {rate:g}")
    copies = [case.about["moved"] / case.median_of("np.copyto") / 1e9 for case in cases]
    left.plot(at, copies, color=GREY, linewidth=1.2, linestyle=DASHED)
    left.set(title="read and written, GB/s", xlabel="array", yscale="log")
    plain_log(left.yaxis, 0.01, 0.1, 1, 10, 100)
    the_copy(right)
    for rate, cases in series.items():
        for nbytes, bound in ((case.about["bytes"], bound_in_copies(case)) for case in cases):
            if bound is not None:
                style = {"marker": "_", "markersize": 13, "markeredgewidth": 2, "alpha": 0.6}
                right.plot([nbytes], [bound["at_most"]], color=COLORS[rate], **style)
    right.set(title="time, in copies", xlabel="array", yscale="log")
    plain_log(right.yaxis, 0.5, 1, 2, 4)
    right.legend()
    for axes in (left, right):
        sizes(axes, at)
    return made


def isas(run: Run) -> Figure | None:
    panels = []
    for nbytes in (MIB, 8 * MIB):
        cases = {
            (isa, rate): case
            for (isa, threads), found in plain_dropout(run).items()
            for (at, rate), case in found.items()
            if threads == 1 and at == nbytes
        }
        names = [name for name in run.environment["isas"] if all((name, rate) in cases for rate in RATES)]
        if names:
            panels.append((nbytes, names, cases))
    if not panels:
        return None
    made, all_axes = figure(len(panels), height=2.6)
    for axes, (nbytes, names, cases) in zip(all_axes, panels, strict=True):
        for number, rate in enumerate(RATES):
            estimates = [cases[name, rate].estimate for name in names]
            at = [place + 0.2 - 0.4 * number for place in range(len(names))]
            bars(axes, at, estimates, COLORS[rate], 0.36, f"rate {rate:g}")
        axes.axvline(1, color=GREY, linewidth=1.2, linestyle=DASHED)
        axes.set(title=f"{size(nbytes)}, in copies", yticks=range(len(names)), yticklabels=names)
        axes.set_xlim(0, 1.16 * max(cases[name, rate].estimate.ratio for name in names for rate in RATES))
        axes.grid(visible=False, axis="y")
    all_axes[-1].legend(loc="upper right")
    return made


def bars(axes: Axes, at: list[float], estimates: list[Estimate], color: str, height: float, label: str | None) -> None:
    ratios = [e.ratio for e in estimates]
    errors = [[e.ratio - min(e.low, e.ratio) for e in estimates], [max(e.high, e.ratio) - e.ratio for e in estimates]]
    axes.barh(at, ratios, height, color=color, label=label, xerr=errors, error_kw={"ecolor": INK, "elinewidth": 0.8})
    for place, e in zip(at, estimates, strict=True):
        axes.annotate(
            f" {ratio(e.ratio)}",
            (max(e.high, e.ratio), place),
            va="center",
            fontsize=8,
            xytext=(2, 0),
            textcoords="offset points",
        )


def peers(run: Run) -> Figure | None:
    found = [case for case in run.cases.values() if case.about["peer"] and "fastdrop" in case.references]
    panels = [
        (nbytes, rate, sorted(cases, key=lambda case: -case.estimate_over({"fastdrop": 1}).ratio))
        for nbytes, rate in ((MIB, 0.1), (MIB, 0.5), (4, 0.1))
        if (cases := [case for case in found if (case.about["bytes"], case.about["rate"]) == (nbytes, rate)])
    ]
    if not panels:
        return None
    made = Figure(figsize=(WIDTH, 0.6 + 0.5 * len(panels) + 0.2 * sum(len(p[2]) for p in panels)), layout="constrained")
    all_axes = made.subplots(len(panels), 1, squeeze=False, height_ratios=[len(p[2]) + 1 for p in panels], sharex=True)
    for axes, (nbytes, rate, cases) in zip(all_axes.flat, panels, strict=True):
        estimates = [case.estimate_over({"fastdrop": 1}) for case in cases]
        ratios = [e.ratio for e in estimates]
        colors = [ORANGE if value < 1 else BLUE for value in ratios]
        axes.barh(range(len(cases)), [value - 1 for value in ratios], 0.72, left=1, color=colors)
        for place, value in enumerate(ratios):
            what = ratio(value) + (" — the peer wins" if value < 1 else "")
            axes.annotate(
                what, (max(value, 1), place), va="center", fontsize=8, xytext=(4, 0), textcoords="offset points"
            )
        labels = [peer_label(case) for case in cases]
        what = "one element" if nbytes == 4 else size(nbytes)
        axes.set(title=f"{what}, rate {rate:g}", yticks=range(len(cases)), yticklabels=labels, xscale="log")
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.grid(visible=False, axis="y")
    slowest = max(case.estimate_over({"fastdrop": 1}).ratio for _, _, cases in panels for case in cases)
    all_axes.flat[-1].set_xlim(0.5, 4 * slowest)  # of all, for they share it
    all_axes.flat[-1].set_xlabel("time, in that of fastdrop.dropout with one thread")
    plain_log(all_axes.flat[-1].xaxis, 1, 10, 100, 1000)
    return made


def roofline(run: Run) -> Figure | None:
    panels = []
    for nbytes in (MIB, 8 * MIB):
        found = [
            case
            for case in run.select(bytes=nbytes, dtype="float32", isa=run.environment["isa"], threads=1, peer=None)
            if case.about["rate"] in RATES and case.about["out"] == "given" and case.about["axis"] in ("size", None)
            and case.reference == "np.copyto" and case.about["moved"]
        ]  # fmt: skip
        if found:
            panels.append((nbytes, found))
    if not panels:
        return None
    made, all_axes = figure(len(panels), height=3.6, sharey=True)
    for axes, (nbytes, cases) in zip(all_axes, panels, strict=True):
        bandwidth = 2 * nbytes / cases[0].median_of("np.copyto")
        intensities = [case.about["elements"] / case.about["moved"] for case in cases]
        ends = [0.7 * min(intensities), 1.4 * max(intensities)]
        axes.plot(ends, [bandwidth * end / 1e9 for end in ends], color=GREY, linestyle=DASHED)
        axes.annotate(
            f"the copy: {bandwidth / 1e9:.3g} GB/s", (0.02, 0.97), xycoords="axes fraction", fontsize=8, va="top"
        )
        draw = {case.about["rate"]: case for case in cases if case.about["operation"] == "mask bits"}
        for rate, case in draw.items():
            speed = case.about["elements"] / case.median / 1e9
            axes.axhline(speed, color=COLORS[rate], linewidth=0.8, alpha=0.6)
        for case, intensity in zip(cases, intensities, strict=True):
            speed = case.about["elements"] / case.median / 1e9
            axes.plot([intensity], [speed], "o", color=COLORS[case.about["rate"]], alpha=0.8)
        axes.set(title=size(nbytes), xscale="log", yscale="log", xlabel="elements per byte moved")
        plain_log(axes.xaxis, 0.1, 1, 8)
        plain_log(axes.yaxis, 0.1, 1, 3, 10, 30, 100)
    all_axes[0].set_ylabel("elements a second, 10⁹")
    for rate, color in COLORS.items():
        all_axes[-1].plot([], [], "o-", color=color, label=f"rate {rate:g}; line: its bits alone")
    all_axes[-1].legend(loc="lower right", fontsize=8)
    return made


def growth(run: Run) -> Figure | None:
    by_size = by_rate(run.select(axis="size"), "bytes")
    by_dims = by_rate(run.select(axis="dims"), "dims")
    by_threads = {
        (nbytes, rate): cases
        for nbytes in (8 * MIB, 64 * MIB)
        for rate, cases in by_rate(run.select(axis="threads", bytes=nbytes), "threads").items()
        if cases
    }
    rates = sorted(run.select(axis="rate"), key=lambda case: -case.about["rate"])
    if not (all(by_size.values()) and all(by_dims.values()) and by_threads and rates):
        return None
    made, (top, threads, rate_axes, dims) = figure(2, rows=2, height=2.9)
    for rate, cases in by_size.items():
        at = [case.about["bytes"] for case in cases]
        per_element = [case.median / case.about["elements"] * 1e9 for case in cases]
        top.plot(at, per_element, "o-", color=COLORS[rate], label=f"rate {rate:g}")
    copies = [case.median_of("np.copyto") / case.about["elements"] * 1e9 for case in cases]
    top.plot(at, copies, color=GREY, linestyle=DASHED, linewidth=1.2, label="the copy")
    top.set(title="with the size: ns an element", yscale="log", xlabel="array")
    plain_log(top.yaxis, 0.1, 1, 10, 100, 1000)
    sizes(top, at)
    top.legend(fontsize=8)
    for (nbytes, rate), cases in by_threads.items():
        at = [case.about["threads"] for case in cases]
        speed = [1 / case.estimate_over({"one thread": 1}).ratio for case in cases]
        style = "o-" if nbytes == 64 * MIB else "s--"
        threads.plot(at, speed, style, color=COLORS[rate], label=f"{size(nbytes)}, rate {rate:g}")
    threads.plot(at, at, color=GREY, linewidth=0.8)
    threads.set(title="with the threads: times as fast as one", xlabel="threads", xticks=at)
    threads.legend(fontsize=8)
    names = [f"{case.about['rate']:.3g}\n{case.about['planes']}" for case in rates]
    places = list(range(len(rates)))
    line(rate_axes, places, [case.estimate for case in rates], GREEN, "")
    rate_axes.set(title="with the rate: copies", xlabel="rate, and its planes", xticks=places, xticklabels=names)
    rate_axes.tick_params(axis="x", labelsize=8 if len(rates) < 8 else 6.5)
    rate_axes.set_ylim(0)
    for rate, cases in by_dims.items():
        line(
            dims,
            [case.about["dims"] for case in cases],
            [case.estimate for case in cases],
            COLORS[rate],
            f"rate {rate:g}",
        )
    dims.set(title="with dimensions that are not contiguous: copies", xlabel="dimensions", xticks=range(6))
    dims.set_ylim(0)
    dims.legend(fontsize=8)
    return made


def history(runs: list[Run]) -> Figure | None:
    if not runs:
        return None
    made, (axes,) = figure(height=2.8)
    for (label, fields), color in zip(HISTORY, (ORANGE, BLUE, VIOLET, GREEN), strict=True):
        found = [(place, cases[0].estimate) for place, run in enumerate(runs) if (cases := run.select(**fields))]
        if found:
            line(axes, [place for place, _ in found], [estimate for _, estimate in found], color, label)
    the_copy(axes)
    names = [f"{run.date[5:10]}\n{run.commit}" for run in runs]
    axes.set(title="time, in copies", xticks=range(len(runs)), xticklabels=names, xlim=(-0.3, len(runs) - 0.7))
    axes.set_ylim(0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return made


def make(run: Run, past: list[Run]) -> list[Plot]:
    """All plots that the run has the cases for. ``past`` are runs of the same machine in their order, with this one."""
    made = []
    with matplotlib.rc_context(STYLE):
        for name, title, caption, alt, draw in PLOTS:
            drawn = draw(past if draw is history else run)
            if drawn is not None:
                made.append(Plot(name, title, caption, alt, render(name, drawn)))
    return made


PLOTS: tuple[tuple[str, str, str, str, Callable], ...] = (
    (
        "throughput",
        "Throughput against size",
        (
            "float32, one thread, into a given result. Left: bytes read and written in a second; dashed: np.copyto "
            "of the same buffers. Right: the same as a ratio, with the interval as a band; a short bar is a bound "
            "that the project has set itself."
        ),
        "Two line charts over the array's size, at rates 0.1 and 0.5.",
        throughput,
    ),
    (
        "instruction-sets",
        "Instruction sets",
        "Times the copy, float32, one thread. All of them give the same bits.",
        "Bars for each instruction set, at rates 0.1 and 0.5, for arrays of 1 MiB and 8 MiB.",
        isas,
    ),
    (
        "peers",
        "Beside other libraries",
        (
            "The same array and rate, each as its users call it, giving a new array. Both measured in the same "
            "rounds. The axis is logarithmic."
        ),
        "Bars: how many times as long as fastdrop each library takes.",
        peers,
    ),
    (
        "roofline",
        "Roofline",
        (
            "Each point is an operation of the core or the family; the dashed roof is what this machine's own copy "
            "moves in a second. A horizontal line is the speed at which decisions are drawn when nothing else is "
            "moved. What stands near the lower of the two cannot become much faster. From left to right: two arrays "
            "in and one out, one in and one out, booleans, bits."
        ),
        "Scatter chart of elements a second against elements per byte moved, with the copy's bandwidth as a slope.",
        roofline,
    ),
    (
        "growth",
        "How the cost grows",
        (
            "With the size over eight decades; with threads; with the rate, which decides how many planes of random "
            "bits are drawn; and with the number of dimensions that do not lie side by side."
        ),
        "Four charts of the cost: against size, threads, rate and dimensions.",
        growth,
    ),
    (
        "history",
        "From run to run",
        "The ratio to the copy in each stored run of this machine, with its interval as a band.",
        "Line chart of ratios to the copy, a point for each run.",
        history,
    ),
)
