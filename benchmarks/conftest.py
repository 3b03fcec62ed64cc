# SPDX-License-Identifier: BSD-3-Clause
"""The suite's options, its progress line, the fixture that measures, and what goes into the JSON beside the times.

    python -m pytest benchmarks            a short set, under three minutes, and as long again with PyTorch
    python -m pytest benchmarks --full     every combination that tells something, about an hour
    python -m pytest benchmarks --quick    a few rounds of each case: to try the suite, not to measure

A run of the whole suite writes its JSON into benchmarks/results. A part of it (-k, --ignore, a file, or whatever else
leaves something out) writes what --benchmark-json or --benchmark-save asks for. With --benchmark-disable every case is
proven, and none measured.

The whole suite is measured in several passes, each in a process of its own. Where memory and code come to lie is drawn
anew for a process, and makes a case faster or slower by some per cent for as long as it lives: how far passes differ
tells what such a difference is worth.
"""

import ast
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measuring
from benchmarks.results import MACHINE, short_name
from fastdrop import _backend
from fastdrop._tools.output import Failure, OutputFile
from fastdrop._tools.progress import Progress

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
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
    option = config.option
    if not hasattr(option, "passes"):
        raise pytest.UsageError("the suite's options are known only where it is named: python -m pytest benchmarks")
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("the suite needs pytest-benchmark, which is not installed, or left out by -p")
    if _backend.compiled is None:
        raise pytest.UsageError("the suite measures the compiled core, which this build does not have")
    if option.passes is not None and option.passes < 1:
        raise pytest.UsageError(f"--passes: at least one, not {option.passes}")
    if option.pass_of:
        for name in OUTPUTS:
            setattr(option, name, None)
    # The case and its references are timed under the same conditions: see measuring.measure().
    option.benchmark_disable_gc = True
    option.benchmark_project_name = "fastdrop"  # and not the name of a directory
    option.benchmark_save_data = True  # a run without its rounds is none
    if not any(argument.startswith("--benchmark-columns") for argument in config.invocation_params.args):
        option.benchmark_columns = ["min", "median", "iqr", "rounds"]
    if _measures(option):
        _check_that_it_can(option)
    else:
        # That nothing uses its fixture.
        config.addinivalue_line("filterwarnings", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")
    # It is an error, and not a warning: see pytest_collection_finish.
    warnings.filterwarnings("ignore", "Can't compare")
    option.is_whole = False  # until it is known what was collected
    config.pluginmanager.register(Session(config), "fastdrop-session")


# What only the first pass writes: it has the rounds of all.
OUTPUTS = (
    "benchmark_save",
    "benchmark_autosave",
    "benchmark_compare",
    "benchmark_compare_fail",
    "benchmark_histogram",
    "xmlpath",
)


def _measures(option) -> bool:
    """Whether the cases are to be measured, and not only listed or proven."""
    only_proves = option.benchmark_disable and not option.benchmark_enable
    skips = option.benchmark_skip and not option.benchmark_only
    return not (only_proves or skips or option.collectonly or option.setuponly or option.setupplan)


def _check_that_it_can(option) -> None:
    """Find now what would be found only when all is measured, or never."""
    if getattr(option, "dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ:
        raise pytest.UsageError(
            "nothing can be measured in several processes at a time: leave -n out (or add --benchmark-disable, with "
            "which every case is proven, and none measured)"
        )
    if option.benchmark_compare_fail and not option.benchmark_compare:
        raise pytest.UsageError("--benchmark-compare-fail needs --benchmark-compare")
    if option.benchmark_histogram and importlib.util.find_spec("pygal") is None:
        raise pytest.UsageError("--benchmark-histogram needs pygal, which is not installed")
    if option.benchmark_json:
        _check_that_it_can_be_written("--benchmark-json", option.benchmark_json)


def _check_that_it_can_be_written(what: str, path: Path) -> None:
    try:
        OutputFile(path, 1 << 20).close()
    except Failure as error:
        raise pytest.UsageError(f"{what}: {error}") from error


def _functions() -> set[tuple[str, str]]:
    """The files of the suite and their functions: what a run of the whole has."""
    return {
        (path.name, node.name)
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _result_file() -> Path:
    """A new name in benchmarks/results: date, CPU, instruction set, commit."""
    here = measuring.environment()
    cpu = re.sub(r"\((r|tm)\)|[^a-z0-9]+", "-", here["cpu"].lower())
    cpu = re.sub(r"-+", "-", cpu).strip("-")
    at = f"{(here['commit'] or 'unversioned')[:7]}{'-dirty' if here['dirty'] else ''}"
    name = f"{datetime.datetime.now(datetime.UTC).date()}-{cpu}-{here['isa']}-{at}"
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(path for path in (RESULTS / f"{name}.json" for name in names) if not path.exists())


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
        self.is_selection = False  # whether somebody left out what the set has
        self.found: set[tuple[str, str]] = set()  # files and their functions

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

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        """Leave out what only --full measures, and what only the first pass does."""
        self.found = {(item.path.name, item.originalname) for item in items}
        left_out = [item for item in items if self.leaves_out(item)]
        if left_out:
            dropped = set(left_out)
            items[:] = [item for item in items if item not in dropped]
            self.config.hook.pytest_deselected(items=left_out)

    def leaves_out(self, item) -> bool:
        option = self.config.option
        marks = [mark for mark, leaves in (("full", not option.full), ("once", option.pass_of)) if leaves]
        return any(item.get_closest_marker(mark) for mark in marks)

    def pytest_deselected(self, items):
        self.is_selection = self.is_selection or not all(map(self.leaves_out, items))

    def pytest_collection_finish(self, session):
        self.cases = len(session.items)
        option, benchmarks = self.config.option, self.config._benchmarksession
        option.is_whole = self.is_whole()
        if option.passes is None:
            option.passes = PASSES if option.is_whole else 1
        if option.is_whole and not option.benchmark_json:
            option.benchmark_json = benchmarks.json = _result_file()
            _check_that_it_can_be_written("the result", benchmarks.json)
        if option.benchmark_compare and not benchmarks.compared_mapping:
            raise pytest.UsageError(f"--benchmark-compare: there is no such run in {benchmarks.storage}")
        if _measures(option) and (benchmarks.save or benchmarks.autosave) and hasattr(benchmarks.storage, "path"):
            _check_that_it_can_be_written("--benchmark-storage", Path(benchmarks.storage.get("trial")))

    def is_whole(self) -> bool:
        """Whether the suite is to be measured as a whole, so that its JSON is a result to keep.

        There are more ways to ask for a part than can be listed here, so it is looked at what was collected.
        """
        option = self.config.option
        if option.quick or option.pass_of or option.maxfail or self.is_selection or not _measures(option):
            return False
        paths = [Path(argument).resolve() for argument in self.config.args]
        return paths == [HERE] and self.found >= _functions()

    def pytest_runtest_logstart(self, nodeid):
        # Here and not sooner: until now pytest has captured stderr.
        if self.progress is None and self.shows_progress:
            self.progress = Progress()
        if self.progress is not None:
            case = short_name(nodeid).removeprefix("test_").replace(".py::test_", " ")
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
        has_ended = int(exitstatus) in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self.is_complete = has_ended and self.done == self.cases
        measured = self.config._benchmarksession.benchmarks
        if not measured:
            # Else pytest-benchmark warns that there is nothing to write, and the warning hides why.
            for output in ("json", "save", "autosave"):
                setattr(self.config._benchmarksession, output, None)
        if self.is_complete and measured and not self.config.option.pass_of:
            for number in range(2, self.config.option.passes + 1):
                self.add_pass(session, measured, number)
        yield  # pytest-benchmark writes its file
        path = self.config._benchmarksession.json
        if path and path.is_file():
            path.write_text(compact(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter):
        option = self.config.option
        asked = option.benchmark_json or option.benchmark_save or option.benchmark_autosave
        if asked and not self.config._benchmarksession.benchmarks:
            terminalreporter.write_line("nothing was measured, so no run is written")

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

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_compare_machine_info(self, benchmarksession, machine_info, compared_benchmark):
        """Say whether the machine is another one. To pytest-benchmark it is, whenever its load is another."""
        here, there = machine_info["fastdrop"], compared_benchmark["machine_info"].get("fastdrop", {})
        for field, what in MACHINE.items():
            if here.get(field) != there.get(field):
                benchmarksession.logger.info(f"the {what} differs: {there.get(field)} and {here.get(field)}")
        compared_benchmark["machine_info"] = machine_info

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
    for module in ("torch", "tensorflow", "keras", "jax", "dask", "thinc", "spacy", "numba", "mkl_random"):
        if module in sys.modules:
            # Its own word, for a library comes in packages of several names (tensorflow, tensorflow-cpu).
            own = getattr(sys.modules[module], "__version__", None)
            versions[module] = importlib.metadata.version(module) if own is None else str(own)
    return versions


def compact(value: Any) -> str:
    """JSON in which a list of numbers is a line: a run is a file of half a megabyte, and changes of it can be read."""
    text = json.dumps(value, indent=1)
    return re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


@pytest.fixture
def in_turn(benchmark, request) -> Callable[..., None]:
    """``in_turn(make, about, bounds)``: see measuring.measure(). ``fewest`` asks for so many rounds of a slow case."""
    _, passes = request.config.pluginmanager.get_plugin("fastdrop-session").pass_of
    if request.node.get_closest_marker("once"):
        passes = 1
    is_quick = request.config.option.quick

    def measure(make, about, bounds=(), *, fewest=0, **options) -> None:
        usual = measuring.Effort()
        effort = dataclasses.replace(usual, fewest=max(usual.fewest, fewest)).share(passes)
        measuring.measure(benchmark, make, about, bounds, effort=measuring.QUICK if is_quick else effort, **options)

    return measure


@pytest.fixture(params=[0.1, 0.5])
def rate(request) -> float:
    return request.param
