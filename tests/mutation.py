# SPDX-License-Identifier: BSD-3-Clause
"""Does the suite notice a mistake? Mistakes are made in the package one at a time, and the tests run on each.

Such a copy of a file with one mistake is a mutant. A failing test, a crash or a hang kills it; one that survives shows
a line that no test holds to its promise, or a change that changes nothing. Each survivor needs an explanation, which is
written by hand into mutation_results.json and carried over to the next results for as long as the line stays.

    python tests/mutation.py --sample 300 --seed 1 --jobs 2    mutants of all files, drawn at random, and the results
    python tests/mutation.py --files '*_masks.py' --sample 40  of some files; results are only shown
    python tests/mutation.py --only ID                         one of them: its change, and what the tests say
    python tests/mutation.py --summary                         what mutation_results.json says

Everything happens in a temporary folder, in a copy of the files under version control. It is built there once, and one
run of the suite records which test executes which line: a mutant is tried on those tests, the quick ones first. Mutants
of C are tried at -O1, on a fast instruction set, then on the portable one, then on what compiles the core by itself.
One that does not compile, or compiles to the same object, does not count.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import difflib
import faulthandler
import fnmatch
import hashlib
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests/mutation_results.json"
MUTATED = ("fastdrop/*.py", "csrc/*.inc.h", "csrc/walk.c")  # * takes subfolders too
LEFT_OUT = ("test_mutation.py", "test_core.py", "test_benchmark_*.py", "test_report_page.py", "test_against_peers.py")
CORE_TESTS = "tests/test_core.py"  # slow: only for mutants of C that all other tests let pass
IMPLEMENTATION_FIXTURES = ("implementation", "compiled")
ENOUGH = 95.0  # per cent killed
FEWEST = 3  # mutants of a file
QUICK = 4.0  # seconds of tests that a mutant meets first
TEST_TIMEOUT = 30  # seconds
MEMORY = 8 << 30  # bytes that a test run may address: a mutant must not take the machine along
CFLAGS = ("-O1", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-w")
EXTENSION = "fastdrop/_core" + sysconfig.get_config_var("EXT_SUFFIX")


# Mutants


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the bytes from start to end become text."""

    file: str
    line: int
    column: int
    kind: str
    start: int
    end: int
    text: str
    change: str  # to be read
    code: str  # the line
    statement: range  # the lines of the statement, or of its head

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.column}:{self.kind}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def _mutant(file: str, source: bytes, kind: str, start: int, end: int, text: str, statement: range | None) -> Mutant:
    line_start = source.rfind(b"\n", 0, start) + 1
    line = source.count(b"\n", 0, start) + 1
    code = source[line_start:].split(b"\n", 1)[0].decode().strip()
    old = " ".join(source[start:end].decode().split())
    change = f"{old} -> {text or 'nothing'}"
    column = start - line_start + 1
    return Mutant(file, line, column, kind, start, end, text, change, code, statement or range(line, line + 1))


OPERATORS: dict[type, tuple[str, ...]] = {  # each with what it is exchanged for
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}


def python_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a module that are Python and differ from it as such."""
    starts = [0, *(i + 1 for i, byte in enumerate(source) if byte == 10)]
    tree = ast.parse(source)
    found = []
    for node, statement in _nodes(tree, range(1, 2)):
        for kind, begin, end, text in _python_changes(node, source, starts):
            mutant = _mutant(file, source, kind, begin, end, text, statement)
            with contextlib.suppress(SyntaxError):
                if ast.dump(ast.parse(mutant.applied(source))) != ast.dump(tree):
                    found.append(mutant)
    return list({mutant.id: mutant for mutant in found}.values())


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _nodes(node: ast.AST, statement: range) -> Iterator[tuple[Any, range]]:
    """A node and all below it with the lines of their statement; no annotations, overloads and messages."""
    parts: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        statement = range(first, max(body[0].lineno, first + 1) if body else (node.end_lineno or first) + 1)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if any("overload" in ast.dump(decorator) for decorator in node.decorator_list):
            return
        defaults = [default for default in node.args.kw_defaults if default is not None]
        parts = [*node.decorator_list, *node.args.defaults, *defaults, *node.body]
    elif isinstance(node, ast.AnnAssign):
        parts = [] if node.value is None or "TypeAlias" in ast.dump(node.annotation) else [node.target, node.value]
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        yield from (each for part in node.orelse for each in _nodes(part, statement))
        return
    elif _is_text(node) or (isinstance(node, ast.BinOp) and (_is_text(node.left) or _is_text(node.right))):
        return
    elif isinstance(node, ast.Raise):
        parts = []
    yield node, statement
    for part in parts:
        yield from _nodes(part, statement)


def _python_changes(node: Any, source: bytes, starts: list[int]) -> Iterator[tuple[str, int, int, str]]:
    """Changes of one node: kind, first and last byte, new text."""

    def span(part: Any) -> tuple[int, int]:
        return starts[part.lineno - 1] + part.col_offset, starts[part.end_lineno - 1] + part.end_col_offset

    def exchanged(left: Any, operator: Any, right: Any, suffix: str = "") -> Iterator[tuple[str, int, int, str]]:
        old, *new = OPERATORS.get(type(operator), ("",))
        begin, end = span(left)[1], span(right)[0]
        match = re.search(re.escape(old).replace(r"\ ", r"\s+").encode(), source[begin:end])
        for text in new if match else ():
            at = begin + match.start()
            yield f"{type(operator).__name__}-{text}".replace(" ", "-"), at, begin + match.end(), text + suffix

    match node:
        case ast.Compare():
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from exchanged(left, operator, right)
        case ast.BoolOp():
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from exchanged(left, node.op, right)
        case ast.BinOp():
            yield from exchanged(node.left, node.op, node.right)
        case ast.AugAssign():
            yield from exchanged(node.target, node.op, node.value)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            begin = span(node)[0]
            yield "dropped", begin, begin + (3 if isinstance(node.op, ast.Not) else 1), ""
        case ast.Constant(value=bool()):
            yield "flipped", *span(node), str(not node.value)
        case ast.Constant(value=int() | float()):
            yield "more", *span(node), str(node.value + 1)
            if isinstance(node.value, int):
                yield "less", *span(node), str(node.value - 1) if node.value else "(-1)"
        case ast.Raise():
            yield "pass", *span(node), "pass"
        case ast.Expr(value=ast.Call()):
            yield "pass", *span(node), "pass"
        case ast.Return(value=ast.AST()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "none", *span(node), "return None"
        case ast.Call():
            for keyword in node.keywords:
                begin, end = span(keyword)
                comma = re.match(rb"\s*,\s*", source[end:])
                if keyword.arg not in (None, "help", "description", "epilog", "metavar"):
                    yield "keyword", begin, end + (comma.end() if comma else 0), ""
    conditions = list(getattr(node, "ifs", ()))
    if isinstance(node, ast.If | ast.IfExp):
        conditions.append(node.test)
    for test in conditions:
        yield "true", *span(test), "True"
        yield "false", *span(test), "False"
    if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield "false", *span(node.test), "False"


C_HIDDEN = re.compile(
    rb'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M
)
C_TOKEN = re.compile(
    rb"(?P<call>(?<=[;{}\s])\n[ ]+[a-z_]\w*\([^;{}]*\);)|(?P<jump>\b(?:break|continue);)"
    rb"|(?P<number>(?<![\w.])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)(?=[uUlLf]*\b))"
    rb"|(?P<operator>->|<<=|>>=|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|!|~| [-+*/%&|^<>](?= ))"
)
C_OPERATORS = {old.strip(): new for old, *new in OPERATORS.values()} | {
    **{"&&": ["||"], "||": ["&&"], "++": ["--"], "--": ["++"], "+=": ["-="], "-=": ["+="], "|=": ["&="], "&=": ["|="]},
    **{"^=": ["|="], "<<=": [">>="], ">>=": ["<<="], "*=": ["/="], "/=": ["*="], "!": [""], "~": [""]},
}


def c_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a C file outside of comments, strings and the preprocessor; not all of them will compile."""
    visible = C_HIDDEN.sub(lambda hidden: re.sub(rb"[^\n]", b" ", hidden[0]), source)
    found = []
    position = 0
    while match := C_TOKEN.search(visible, position):
        kind, old = match.lastgroup or "", match[0].decode()
        begin, end = match.span()
        position = end
        if kind == "number":
            value = float(old) if "." in old else int(old, 0)
            write = hex if old[:2].lower() == "0x" else str
            for name, new in (("more", value + 1), ("less", value - 1)):
                if new >= 0 and (isinstance(value, int) or name == "more"):
                    found.append(_mutant(file, source, name, begin, end, write(new), None))  # type: ignore[operator]
        elif kind == "operator":
            begin += len(old) - len(old.strip())
            for new in C_OPERATORS.get(old.strip(), ()):
                found.append(_mutant(file, source, f"operator{new}", begin, end, new, None))
        else:
            begin += len(old) - len(old.lstrip())
            position = begin + 1  # what is in the call is met as well
            found.append(_mutant(file, source, "statement", begin, end, ";", None))
    return found


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    return (python_mutants if file.endswith(".py") else c_mutants)(file, source)


def sampled(mutants: dict[str, list[Mutant]], size: int, seed: int) -> dict[str, tuple[int, list[Mutant]]]:
    """By file, how many mutants to try, and the order in which to take them: in proportion, and a few of each file."""
    total = sum(map(len, mutants.values()))
    return {
        file: (min(len(found), max(FEWEST, round(size * len(found) / total))),
               random.Random(f"{seed} {file}").sample(found, len(found)))
        for file, found in mutants.items() if found
    }  # fmt: skip


# Inside pytest, which loads this file as a plugin. MUTATION_PLAN names a JSON file that says what to run.


def _plan() -> dict[str, Any]:
    return json.loads(Path(os.environ["MUTATION_PLAN"]).read_text())


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
    if target := _plan().get("trace"):
        early_config.pluginmanager.register(_Trace(target))


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


_stderr = os.dup(2) if "MUTATION_PLAN" in os.environ else None  # before pytest captures it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the whole run when a test hangs, in C as well."""
    faulthandler.dump_traceback_later(_plan()["timeout"], exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


# A built copy, and what the tests of the suite execute


@dataclass(frozen=True)
class Prepared:
    """The folder with the copy, what was recorded, and the instruction sets on which mutants of C are tried."""

    home: Path
    imported: dict[str, list[int]]
    tests: dict[str, dict[str, Any]]
    fastest: str
    isas: tuple[str, ...]

    def functions(self, mutant: Mutant) -> list[str]:
        """The tests that may notice: nearest files and quick tests first, those with processes of their own last."""
        lines = set(mutant.statement)
        everything = mutant.file.startswith("csrc") or lines & set(self.imported.get(mutant.file, ()))
        stem = Path(mutant.file).name.split(".")[0].strip("_").removesuffix("s")

        def order(name: str) -> tuple[bool, float]:
            test = self.tests[name]
            return test["starts_python"], test["seconds"] * (0.1 if stem in name.split("::")[0] else 1)

        def may_notice(test: dict[str, Any]) -> bool:
            executed = test["lines"] if everything else lines & set(test["lines"].get(mutant.file, ()))
            return bool(executed) or test["starts_python"]

        return sorted((name for name, test in self.tests.items() if may_notice(test)), key=order)


def _versioned() -> list[Path]:
    """The files under version control, and those about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return [
        name for name in names if name.parent != Path("tests") or not name.name.startswith(("mutation", "test_mut"))
    ]


def _compile(source: str, tree: Path, target: Path) -> bool:
    command = [os.environ.get("CC", "cc"), *CFLAGS, "-I", "csrc", "-c", source, "-o", str(target)]
    return subprocess.run(command, cwd=tree, capture_output=True).returncode == 0


def _link(objects: Path, changed: Path, tree: Path) -> None:
    """The extension of all objects, with those that were changed in place of the others."""
    chosen = {path.name: path for path in (*objects.glob("*.o"), *changed.glob("*.o"))}
    (tree / EXTENSION).unlink(missing_ok=True)
    command = [os.environ.get("CC", "cc"), "-shared", *map(str, chosen.values()), "-o", EXTENSION]
    subprocess.run(command, cwd=tree, check=True)


def _run_tests(
    tree: Path, tests: list[str] | None, isas: tuple[str, ...], files: list[str] = (), *, timeout: float,
    trace: Path | None = None, c_isa: str | None = None, slow: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """passed, failed or timeout, and the output."""
    plan = tree.parent / f"{tree.name}.plan.json"
    told = {"tests": tests, "implementations": isas, "trace": str(trace) if trace else None}
    plan.write_text(json.dumps({**told, "timeout": 900 if slow else TEST_TIMEOUT * (4 if trace else 1)}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTDROP_")}
    environment = {**clean, "MUTATION_PLAN": str(plan), "HYPOTHESIS_PROFILE": "mutation",
                   "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}  # fmt: skip
    if trace is None:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # what is of the same second and size would be taken for the same
    if c_isa is not None:
        environment["FASTDROP_ISA"] = c_isa
    files = files or list(dict.fromkeys(name.split("::")[0] for name in tests or ()))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "mutation", *files]
    process = subprocess.Popen(
        command if trace else [*command, "-x"], cwd=tree, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
        preexec_fn=None if slow else lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return "timeout", f"no end after {timeout:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode in (0, 5):  # 5: no test was left
        return "passed", output
    return "timeout" if "Timeout (0:" in output else "failed", output


def prepare(with_c: bool) -> Prepared:
    """Copy, build and record, if that has not been done for the very same files; all tests must pass there."""
    names = _versioned()
    content = hashlib.sha256("".join([sys.version, *map(str, names)]).encode())
    for name in names:
        content.update((ROOT / name).read_bytes())
    home = Path(tempfile.gettempdir()).resolve() / f"fastdrop-mutation-{content.hexdigest()[:16]}"
    tree, recorded, c_passed = home / "tree", home / "recorded.json", home / "c-passed"
    if not recorded.exists():
        shutil.rmtree(home, ignore_errors=True)
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
        _say("building")
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(home / "wheel"), "."]
        subprocess.run(pip, cwd=tree, check=True, capture_output=True)
        shutil.copy(next(tree.glob(f"build/lib*/{EXTENSION}")), tree / EXTENSION)
        (home / "objects").mkdir()
        for path in tree.glob("build/temp*/**/*.o"):
            path.rename(home / "objects" / path.name)
        shutil.rmtree(tree / "build")
    shutil.copy(__file__, tree / "tests/mutation.py")
    ask = [sys.executable, "-c", "import fastdrop._core as core; print(*core.supported())"]
    supported = subprocess.run(ask, cwd=tree, capture_output=True, check=True, text=True).stdout.split()
    isas = tuple(dict.fromkeys(["avx2" if "avx2" in supported else supported[-1], "portable"]))
    if not recorded.exists():
        _say("recording which test executes which line")
        left_out = [path.name for pattern in LEFT_OUT for path in (tree / "tests").glob(pattern)]
        files = [f"tests/{path.name}" for path in sorted(tree.glob("tests/test_*.py")) if path.name not in left_out]
        run = _run_tests(tree, None, ("reference", supported[-1]), files, timeout=3600, trace=home / "recording.json")
        _must_pass(run)
        (home / "recording.json").rename(recorded)
    prepared = Prepared(home, **json.loads(recorded.read_text()), fastest=supported[-1], isas=isas)
    if with_c and not c_passed.exists():
        _say("the tests of unchanged C at -O1")
        (home / "same").mkdir(exist_ok=True)
        for source in sorted(tree.glob("csrc/*.c")):
            if not _compile(f"csrc/{source.name}", tree, home / "same" / f"{source.stem}.o"):
                sys.exit(f"{source.name} does not compile")
        with _workplace(prepared) as copy:
            _link(home / "objects", home / "same", copy)
            for isa in isas:
                _must_pass(_run_tests(copy, list(prepared.tests), (isa,), timeout=3600, c_isa=isa))
            _must_pass(_run_tests(copy, None, isas, [CORE_TESTS], timeout=3600, slow=True))
        c_passed.touch()
    return prepared


def _must_pass(run: tuple[str, str]) -> None:
    _say(run[1].strip().splitlines()[-1])
    if run[0] != "passed":
        sys.exit(f"{run[1][-6000:]}\nthe tests do not pass without a mutant: {run[0]}")


@contextlib.contextmanager
def _workplace(prepared: Prepared) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fastdrop-mutant-") as folder:
        yield Path(shutil.copytree(prepared.home / "tree", Path(folder).resolve() / "tree"))


# Trying mutants


def try_mutant(mutant: Mutant, prepared: Prepared, tree: Path) -> tuple[str, str]:
    """killed, timeout, survived or, where there is nothing to try, same; and the output of the last tests."""
    path = tree / mutant.file
    original = path.read_bytes()
    path.write_bytes(mutant.applied(original))
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()
    try:
        for run in (_python_runs if path.suffix == ".py" else _c_runs)(mutant, prepared, tree):
            if run[0] != "passed":
                return ("killed" if run[0] == "failed" else run[0]), run[1]
        return ("survived", run[1]) if "run" in locals() else ("same", "")
    finally:
        path.write_bytes(original)


def _python_runs(mutant: Mutant, prepared: Prepared, tree: Path) -> Iterator[tuple[str, str]]:
    functions = prepared.functions(mutant)
    yield from _quick_then_others(functions, prepared, tree, ("reference", prepared.fastest), None)


def _quick_then_others(
    functions: list[str], prepared: Prepared, tree: Path, implementations: tuple[str, ...], c_isa: str | None
) -> Iterator[tuple[str, str]]:
    seconds, n = 0.0, 0
    while n < len(functions) and (n == 0 or seconds + prepared.tests[functions[n]]["seconds"] < QUICK):
        seconds += prepared.tests[functions[n]]["seconds"]
        n += 1
    for part in (functions[:n], functions[n:]):
        if part:
            timeout = 60 + 5 * sum(prepared.tests[name]["seconds"] for name in part)
            yield _run_tests(tree, part, implementations, timeout=timeout, c_isa=c_isa)


def _c_runs(mutant: Mutant, prepared: Prepared, tree: Path) -> Iterator[tuple[str, str]]:
    """One instruction set after the other, as far as there is a difference, then the tests of the core alone."""
    changed = tree.parent / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    changed.mkdir()
    functions = prepared.functions(mutant)
    differs = False
    try:
        for isa in prepared.isas:
            sources = [f"isa_{isa}"] if mutant.file.endswith(".inc.h") else [Path(mutant.file).stem]
            for source in sources:
                if not _compile(f"csrc/{source}.c", tree, changed / f"{source}.o"):
                    return
                same = (prepared.home / "same" / f"{source}.o").read_bytes() == (changed / f"{source}.o").read_bytes()
                differs |= not same
            if not same:
                _link(prepared.home / "objects", changed, tree)
                yield from _quick_then_others(functions, prepared, tree, (isa,), isa)
        if differs:
            yield _run_tests(tree, None, prepared.isas, [CORE_TESTS], timeout=1800, slow=True)
    finally:
        (tree / EXTENSION).unlink(missing_ok=True)
        shutil.copy(prepared.home / "tree" / EXTENSION, tree / EXTENSION)


def try_all(
    plan: dict[str, tuple[int, list[Mutant]]], prepared: Prepared, jobs: int
) -> dict[str, list[tuple[str, Mutant]]]:
    """The outcomes of each file's sample: the first of its order that count."""
    waiting = {file: iter(order) for file, (_, order) in plan.items()}
    outcomes: dict[str, list[tuple[str, Mutant]]] = {file: [] for file in plan}
    total, lock, began = sum(size for size, _ in plan.values()), threading.Lock(), time.monotonic()
    with contextlib.ExitStack() as stack:
        places: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for _ in range(jobs):
            places.put(stack.enter_context(_workplace(prepared)))

        def one(file: str) -> None:
            tree = places.get()
            outcome = "same"
            while outcome == "same":
                with lock:
                    mutant = next(waiting[file], None)
                if mutant is None:
                    break
                start = time.monotonic()
                outcome, _ = try_mutant(mutant, prepared, tree)
                with lock:
                    outcomes[file].append((outcome, mutant))
                    done = sum(each != "same" for found in outcomes.values() for each, _ in found)
                    took = f"{time.monotonic() - start:4.0f} s {time.monotonic() - began:6.0f} s"
                    _say(f"{done:4}/{total} {took}  {outcome:8} {mutant.id}  {mutant.change[:80]}")
            places.put(tree)

        slots = [file for file, (size, _) in plan.items() for _ in range(size)]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, slots))
    return outcomes


# Results


def results(outcomes: dict[str, list[tuple[str, Mutant]]], before: dict[str, Any]) -> dict[str, Any]:
    """By file what stands in the result file, with the explanations of earlier survivors that are the same."""
    known = {
        (file, old["change"], old["code"]): old["explanation"]
        for file, entry in before.get("files", {}).items() for old in entry["survivors"]
    }  # fmt: skip
    files = {}
    for file, found in sorted(outcomes.items()):
        count = collections.Counter(outcome for outcome, _ in found)
        survivors = sorted(
            (m for outcome, m in found if outcome == "survived"), key=lambda m: (m.line, m.column, m.kind)
        )
        files[file] = {
            "tried": len(found) - count["same"], "killed": count["killed"] + count["timeout"],
            "timeouts": count["timeout"], "not counted": count["same"],
            "survivors": [
                {"id": m.id, "line": m.line, "code": m.code, "change": m.change,
                 "explanation": known.get((file, m.change, m.code), "")}
                for m in survivors
            ],
        }  # fmt: skip
    return files


def summary(files: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print, and the exit status: 0 if enough were killed and every survivor is explained."""

    def line(name: str, tried: int, killed: int, timeouts: int) -> str:
        return f"{name:<34}{tried:6}{killed:7}{timeouts:9}{100 * killed / max(tried, 1):8.1f} %"

    lines = [f"{'':<34}{'tried':>6}{'killed':>7}{'timeouts':>9}"]
    sums = [sum(entry[key] for entry in files.values()) for key in ("tried", "killed", "timeouts")]
    lines += [line(name, entry["tried"], entry["killed"], entry["timeouts"]) for name, entry in files.items()]
    lines.append(line("all", *sums))
    unexplained = [s for entry in files.values() for s in entry["survivors"] if not s["explanation"].strip()]
    lines += [f"no explanation: {s['id']}  {s['change']}\n    {s['code']}" for s in unexplained]
    return lines, int(bool(unexplained) or 100 * sums[1] < ENOUGH * sums[0])


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="how many mutants, about (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants (%(default)s)")
    parser.add_argument("--files", nargs="+", metavar="PATTERN", help="only of these; no result file")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (%(default)s)")
    parser.add_argument("--only", metavar="ID", help="try one mutant, show its change and the output of the tests")
    parser.add_argument("--summary", action="store_true", help="show the result file")
    options = parser.parse_args()
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.summary:
        lines, status = summary(before["files"])
        _say("\n".join(lines))
        return status
    if options.only:
        return _only(options.only)
    names = [str(name) for name in _versioned()]
    names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in MUTATED)]
    if options.files:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in options.files)]
    mutants = {name: mutants_of(name, (ROOT / name).read_bytes()) for name in names}
    plan = sampled(mutants, options.sample, options.seed)
    prepared = prepare(with_c=any(name.startswith("csrc") for name in plan))
    files = results(try_all(plan, prepared, options.jobs), before)
    lines, status = summary(files)
    _say("\n".join(lines))
    if not options.files:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        head = {"version": 1, "commit": git.stdout.strip(), "command": " ".join(["python tests/mutation.py", *sys.argv[1:]]),
                "sample": options.sample, "seed": options.seed, "mutants": sum(map(len, mutants.values()))}  # fmt: skip
        RESULTS.write_text(json.dumps({**head, "files": files}, indent=1) + "\n")
    return status


def _only(name: str) -> int:
    file = name.split(":")[0]
    source = (ROOT / file).read_bytes()
    mutant = next((mutant for mutant in mutants_of(file, source) if mutant.id == name), None)
    if mutant is None:
        sys.exit(f"there is no mutant {name}")
    changed = [text.decode().splitlines(keepends=True) for text in (source, mutant.applied(source))]
    prepared = prepare(with_c=file.startswith("csrc"))
    with _workplace(prepared) as tree:
        outcome, output = try_mutant(mutant, prepared, tree)
    _say(f"{''.join(difflib.unified_diff(*changed, file, file))}\n{output}\n{outcome}")
    return int(outcome == "survived")


if __name__ == "__main__":
    sys.exit(main())
