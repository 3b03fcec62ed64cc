# SPDX-License-Identifier: BSD-3-Clause
"""What mutation.py loads into pytest: which tests run and in which order, what they execute, an end to what hangs.

MUTATION_PLAN names a JSON file that says so: "tests" (functions in their order, or null for all), "implementations",
"timeout" of a test in seconds, "memory" in bytes or null, and "trace", the file that gets what was executed, or null.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPLEMENTATION_FIXTURES = ("implementation", "compiled")


def _plan() -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(Path(os.environ["MUTATION_PLAN"]).read_text())
    return plan


def _function(item: pytest.Item) -> str:
    return item.nodeid.split("[")[0]


class _Trace:
    """Which lines of the package are executed while it is imported, and then by each test function."""

    def __init__(self, target: str) -> None:
        self.target, self.package = target, str(ROOT / "fastdrop")
        self.seen: set[tuple[str, int]] = set()
        self.imported: set[tuple[str, int]] = set()
        self.tests: dict[str, dict[str, Any]] = {}
        self.starts_python = False
        sys.addaudithook(self.audit)
        threading.settrace(self.called)
        sys.settrace(self.called)

    def audit(self, event: str, details: tuple[Any, ...]) -> None:
        """What a process of a test executes is not seen: such a test counts for every line."""
        self.starts_python |= event == "os.fork" or (event == "subprocess.Popen" and "python" in str(details[0]))

    def called(self, frame: Any, event: str, argument: object) -> Any:
        return self.executed if frame.f_code.co_filename.startswith(self.package) else None

    def executed(self, frame: Any, event: str, argument: object) -> Any:
        if event == "line":
            self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self.executed

    @pytest.hookimpl
    def pytest_collection_finish(self) -> None:
        self.imported, self.seen = self.seen, set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.seen, self.starts_python = set(), False
        sys.settrace(self.called)  # a test may have taken it away
        began = time.perf_counter()
        result = yield
        test = self.tests.setdefault(_function(item), {"seconds": 0.0, "starts_python": False, "lines": set()})
        test["seconds"] += time.perf_counter() - began
        test["starts_python"] |= self.starts_python
        test["lines"] |= self.seen
        return result

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        by_file = {"imported": self._by_file(self.imported), "tests": self.tests}
        for test in self.tests.values():
            test["lines"] = self._by_file(test["lines"])
        Path(self.target).write_text(json.dumps(by_file))

    def _by_file(self, lines: set[tuple[str, int]]) -> dict[str, list[int]]:
        result = collections.defaultdict(list)
        for file, line in sorted(lines):
            result[str(Path(file).relative_to(ROOT))].append(line)
        return result


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    import hypothesis

    hypothesis.settings.register_profile(
        "mutation", max_examples=15, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    plan = _plan()
    if plan["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (plan["memory"], plan["memory"]))
    if plan["trace"] is not None:
        early_config.pluginmanager.register(_Trace(plan["trace"]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only the functions of the plan, in its order, and of the implementations only those that it names."""
    plan = _plan()
    rank = {function: i for i, function in enumerate(plan["tests"] or map(_function, items))}
    others = []
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        fixed = {parameters[name] for name in IMPLEMENTATION_FIXTURES if name in parameters}
        if _function(item) not in rank or not fixed <= set(plan["implementations"]):
            others.append(item)
    config.hook.pytest_deselected(items=others)
    left_out = set(others)
    items[:] = sorted((item for item in items if item not in left_out), key=lambda item: rank[_function(item)])


_stderr = os.dup(2)  # before pytest captures it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the whole run when a test hangs, in C as well."""
    faulthandler.dump_traceback_later(_plan()["timeout"], exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
