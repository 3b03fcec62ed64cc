# SPDX-License-Identifier: BSD-3-Clause
"""From a run's JSON to REPORT.md with its plots, to index.html, and to the figures in README.md.

    python -m benchmarks.report                    of the newest run in benchmarks/results
    python -m benchmarks.report RESULT.json        of this one
    python -m benchmarks.report RESULT.json --output DIRECTORY --no-readme

Every figure comes from the JSON, and the same files give the same bytes. Runs of the same machine that lie beside this
one are its history.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import views
from benchmarks.results import BadResult, Run, read
from fastdrop._tools.output import Parser, complain, guarded, one_line, say

try:
    import jinja2
    from markupsafe import Markup

    from benchmarks import plots
except ModuleNotFoundError as error:
    complain(f"python -m benchmarks.report: error: {error.name} is not installed, which pip install -e '.[bench]' does")
    raise SystemExit(2) from error

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
TITLE = "fastdrop benchmarks"

# What stands in README.md between these is written here.
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def context(run: Run, past: list[Run], drawn: list[plots.Plot], source: str) -> dict[str, Any]:
    """All that the templates say. ``source`` is the way to the run's file from where they will stand."""
    return {
        "title": TITLE,
        "lead": views.lead(run),
        "glance": views.glance(run),
        "bounds": views.bounds(run),
        "pytorch": views.pytorch(run),
        "plots": [vars(plot) | {"svg": Markup(plot.svg)} for plot in drawn],
        "columns": [
            dict(zip(("key", "label", "kind", "filter", "help"), column, strict=True)) for column in views.COLUMNS
        ],
        "rows": views.rows(run),
        "environment": views.environment(run),
        "method": views.method(run),
        "skipped": run.environment.get("skipped", []),
        "failed": run.environment["failed"],
        "history": views.history(past),
        "level": f"{views.LEVEL:.0%}",
        "source": source,
    }


def templates(autoescape: bool) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"ratio": views.ratio, "duration": views.duration, "size": views.size, "percent": views.percent}
    made.filters |= {"cell": views.escaped, "code": views.code, "link": views.link}
    return made


def page(run: Run, past: list[Run], drawn: list[plots.Plot], source: str) -> str:
    return templates(True).get_template("index.html.jinja").render(**context(run, past, drawn, source))


def markdown(run: Run, past: list[Run], drawn: list[plots.Plot], source: str) -> str:
    known = context(run, past, drawn, source)
    peers = [case for case in run.cases.values() if case.about["peer"] and "fastdrop" in case.references]
    return (
        templates(False)
        .get_template("REPORT.md.jinja")
        .render(
            **known,
            peers=[
                {
                    "name": views.peer_label(case),
                    "array": views.array(case),
                    "rate": case.about["rate"],
                    "seconds": case.median,
                    "estimate": case.estimate_over({"fastdrop": 1}),
                    "copies": case.estimate.ratio,
                    "memory": case.about["memory"],
                }
                for case in peers
            ],
            statements=dict.fromkeys(
                (case.about["peer"], case.about["statement"]) for case in peers if "statement" in case.about
            ),
            losses=[
                f"{views.peer_label(case)}: {views.array(case)}, rate {case.about['rate']:g}"
                for case in views.losses(run)
            ],
        )
    )


def figures_of(run: Run) -> str:
    """README.md's figures, with a link to the run's file."""
    return views.readme_figures(run, Path(os.path.relpath(run.path, README.parent)).as_posix())


def with_figures(readme: str, figures: str) -> str:
    """README.md with its figures exchanged."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise BadResult(f"{README}: the lines {BEGIN.strip()} and {END.strip()} are not there")
    return f"{head}{begin}{figures}{end}{tail}"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def past_of(run: Run) -> list[Run]:
    """The run and those beside its file that are of the same machine, in the order of their dates."""
    runs = [run]
    for path in sorted(run.path.parent.glob("*.json")):
        if path.resolve() != run.path.resolve():
            try:
                other = read(path)
            except BadResult as error:
                complain(f"left out of the history: {error}")
                continue
            if other.machine == run.machine and other.date <= run.date:
                runs.append(other)
    return sorted(runs, key=lambda other: other.date)


def newest() -> Path:
    runs = [read(path) for path in sorted(RESULTS.glob("*.json"))]
    if not runs:
        raise BadResult(f"{RESULTS}: no runs there; python -m pytest benchmarks makes one")
    return max(runs, key=lambda run: run.date).path


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, nargs="?", metavar="RESULT.json")
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIRECTORY", help="benchmarks, by default")
    parser.add_argument("--no-readme", action="store_true", help="leave README.md as it is")
    return guarded(parser.prog, lambda: _report(parser.parse_args(arguments)))


def _report(options: argparse.Namespace) -> int:
    run = read((options.result or newest()).absolute())
    past = past_of(run)
    drawn = plots.make(run, past)
    output = options.output.absolute()
    source = Path(os.path.relpath(run.path, output)).as_posix()
    written = [write(output / "plots" / f"{plot.id}.svg", plot.file) for plot in drawn]
    written.append(write(output / "REPORT.md", markdown(run, past, drawn, source)))
    written.append(write(output / "index.html", page(run, past, drawn, source)))
    if not options.no_readme:
        written.append(write(README, with_figures(README.read_text(encoding="utf-8"), figures_of(run))))
    say("\n".join(f"written: {one_line(os.path.relpath(path))}" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
