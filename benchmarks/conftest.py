# SPDX-License-Identifier: BSD-3-Clause
"""The suite's options, its progress line, the fixture that measures, and what goes into the JSON beside the times.

    python -m pytest benchmarks            a short set, under three minutes
    python -m pytest benchmarks --full     every combination that tells something, about an hour
    python -m pytest benchmarks --quick    a few rounds of each case: to try the suite, not to measure

A run of the whole suite writes its JSON into benchmarks/results. A part of it (-k, a file) writes what --benchmark-json
asks for. With --benchmark-disable every case is proven, and none measured.

The whole suite is measured in several passes, each in a process of its own. Where memory and code come to lie is drawn
anew for a process, and makes a case faster or slower by some per cent for as long as it lives: how far passes differ
tells what such a difference is worth.
"""

import datetime
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measuring
from fastdrop import _backend
from fastdrop._tools.progress import Progress

RESULTS = Path(__file__).parent / "results"
PASSES = 4


def pytest_addoption(parser):
    group = parser.getgroup("fastdrop")
    group.addoption("--full", action="store_true", help="measure the whole suite, and not the short set")
    group.addoption("--quick", action="store_true", help="a few rounds of each case, to try the suite")
    group.addoption(
        "--passes", type=int, metavar="N", help=f"processes that share the rounds: {PASSES} for the whole suite, else 1"
    )
    group.addoption("--pass-of", metavar="K/N", help="be one of those processes")


def pytest_configure(config):
    if _backend.compiled is None:
        raise pytest.UsageError("the suite measures the compiled core, which this build does not have")
    # The case and its references are timed under the same conditions: see measuring.measure().
    config.option.benchmark_disable_gc = True
    config.option.benchmark_project_name = "fastdrop"  # and not the name of a directory
    if not any(argument.startswith("--benchmark-columns") for argument in config.invocation_params.args):
        config.option.benchmark_columns = ["min", "median", "iqr", "rounds"]
    option = config.option
    option.is_whole = _is_whole(config)
    if option.passes is None:
        option.passes = PASSES if option.is_whole else 1
    elif option.passes < 1:
        raise pytest.UsageError(f"--passes: at least one, not {option.passes}")
    if option.is_whole and not option.benchmark_json:
        option.benchmark_json = _result_file()
    config.pluginmanager.register(Session(config), "fastdrop-session")


def _is_whole(config) -> bool:
    """Whether the suite is to be measured as a whole, so that its JSON is a result to keep."""
    option = config.option
    selects = ("keyword", "markexpr", "deselect", "lf", "last_failed", "stepwise", "maxfail")
    partly = any(getattr(option, name, None) for name in selects)
    unmeasured = (
        option.quick or option.collectonly or option.benchmark_disable or option.benchmark_skip or option.pass_of
    )
    paths = [Path(argument).resolve() for argument in config.args]
    return paths == [Path(__file__).parent] and not partly and not unmeasured


def _result_file() -> Path:
    """A new name in benchmarks/results: date, CPU, instruction set, commit."""
    here = measuring.environment()
    cpu = re.sub(r"\((r|tm)\)|[^a-z0-9]+", "-", here["cpu"].lower())
    cpu = re.sub(r"-+", "-", cpu).strip("-")
    at = f"{(here['commit'] or 'unversioned')[:7]}{'-dirty' if here['dirty'] else ''}"
    name = f"{datetime.datetime.now(datetime.UTC).date()}-{cpu}-{here['isa']}-{at}"
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(path for path in (RESULTS / f"{name}.json" for name in names) if not path.exists())


def pytest_collection_modifyitems(config, items):
    """Leave out what only --full measures, and what only the first pass does."""
    marks = [mark for mark, leaves in (("full", not config.option.full), ("once", config.option.pass_of)) if leaves]
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    if left_out:
        dropped = set(left_out)
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=left_out)


class Session:
    """What is noted while the suite runs: how far it is, what failed or was left out, the load."""

    def __init__(self, config):
        self.config = config
        self.watch = measuring.Watch()
        self.progress: Progress | None = None
        self.cases = self.done = 0
        self.failed: list[str] = []
        self.skipped: dict[str, str] = {}  # the first case that was left out for a reason, by reason
        self.is_complete = False

    @property
    def pass_of(self) -> tuple[int, int]:
        """Which pass this process is, and of how many."""
        if self.config.option.pass_of:
            number, passes = map(int, self.config.option.pass_of.split("/"))
            return number, passes
        return 1, self.config.option.passes

    @property
    def shows_progress(self) -> bool:
        """On a terminal, and where pytest does not write a line for each case anyhow."""
        return sys.stderr.isatty() and self.config.get_verbosity() <= 0

    def pytest_collection_finish(self, session):
        self.cases = len(session.items)

    def pytest_runtest_logstart(self, nodeid):
        # Here and not sooner: until now pytest has captured stderr.
        if self.progress is None and self.shows_progress:
            self.progress = Progress()
        if self.progress is not None:
            case = nodeid.rpartition("/")[2].removeprefix("test_").replace(".py::test_", " ")
            number, passes = self.pass_of
            part = (number - 1 + self.done / max(self.cases, 1)) / passes
            of = f"pass {number}/{passes}, " if passes > 1 else ""
            self.progress.update(part, f"{of}{self.done + 1}/{self.cases} {case}")

    def pytest_runtest_logreport(self, report):
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped.setdefault(why.removeprefix("Skipped: "), report.nodeid)
        if report.when == "teardown":
            self.done += 1
            self.watch.look()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report):
        """No dots between the lines of progress."""
        if self.progress is not None and report.passed:
            return ("passed", "", "") if report.when == "call" else ("", "", "")
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if self.progress is not None:
            self.progress.clear()
        self.is_complete = int(exitstatus) in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        measured = self.config._benchmarksession.benchmarks
        if not measured:
            # Else pytest-benchmark warns that there is nothing to write, and the warning hides why.
            self.config._benchmarksession.json = None
        if self.is_complete and measured and not self.config.option.pass_of:
            for number in range(2, self.config.option.passes + 1):
                self.add_pass(session, measured, number)
        yield  # pytest-benchmark writes its file
        path = self.config.option.benchmark_json
        if path and path.exists():
            path.write_text(compact(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")

    def add_pass(self, session, measured, number) -> None:
        """Measure everything once more in a process of its own, and add its rounds to those that there are."""
        passes = self.config.option.passes
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "pass.json"
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", *self.config.invocation_params.args),
                    *(f"--pass-of={number}/{passes}", f"--benchmark-json={path}", "--benchmark-quiet"),
                ],
                cwd=self.config.invocation_params.dir,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.watch.look()
            if done.returncode != 0:
                print(done.stdout)
                self.failed.append(f"pass {number} of {passes}, with exit status {done.returncode}")
                self.is_complete = self.is_complete and done.returncode == pytest.ExitCode.TESTS_FAILED
                session.exitstatus = session.exitstatus or done.returncode
            again = json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else []
        by_name = {case["fullname"]: case for case in again}
        for bench in measured:
            if bench.fullname in by_name:
                add_rounds(bench, by_name[bench.fullname])

    def pytest_benchmark_update_machine_info(self, machine_info):
        machine_info.pop("node", None)  # whose machine it is says nothing
        option = self.config.option
        machine_info["fastdrop"] = {
            **measuring.environment(),
            **self.watch.record(),
            "set": "quick" if option.quick else "part" if not option.is_whole else "full" if option.full else "short",
            "complete": self.is_complete,
            "failed": self.failed,
            "skipped": [{"case": case, "why": why} for why, case in self.skipped.items()],
            "peers": peers(),
        }

    def pytest_benchmark_update_json(self, output_json):
        for case in output_json["benchmarks"]:
            case["stats"]["data"] = [measuring.digits(seconds) for seconds in case["stats"]["data"]]


def add_rounds(bench, again: dict[str, Any]) -> None:
    """Add another pass's rounds of a case to what pytest-benchmark has of it."""
    for seconds in again["stats"]["data"]:
        bench.stats.update(seconds)
    mine, other = bench.extra_info, again["extra_info"]
    mine["load"] += other["load"]
    mine["off"] += [sum(mine["passes"]) + number for number in other["off"]]
    mine["passes"] += other["passes"]
    for name, seconds in other["references"].items():
        mine["references"][name] += seconds


def peers() -> dict[str, str]:
    """The versions of those other libraries that have been imported."""
    versions = {}
    for module in ("torch", "tensorflow", "keras", "jax", "thinc", "numba", "mkl_random"):
        if module in sys.modules:
            versions[module] = importlib.metadata.version(module)
    return versions


def compact(value: Any) -> str:
    """JSON in which a list of numbers is a line: a run is a file of half a megabyte, and changes of it can be read."""
    text = json.dumps(value, indent=1)
    return re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


@pytest.fixture
def in_turn(benchmark, request) -> Callable[..., None]:
    """``in_turn(make, about, bounds)``: see measuring.measure()."""
    _, passes = request.config.pluginmanager.get_plugin("fastdrop-session").pass_of
    if request.node.get_closest_marker("once"):
        passes = 1
    effort = measuring.QUICK if request.config.option.quick else measuring.Effort().share(passes)

    def measure(make, about, bounds=(), **options) -> None:
        measuring.measure(benchmark, make, about, bounds, effort=effort, **options)

    return measure


@pytest.fixture(params=[0.1, 0.5])
def rate(request) -> float:
    return request.param
