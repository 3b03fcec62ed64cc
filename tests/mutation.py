# SPDX-License-Identifier: BSD-3-Clause
"""Does the suite notice a mistake? Mistakes are made in the package one at a time, and the tests run on each.

Such a copy of a file with one mistake is a mutant. A failing test, a crash or a hang kills it; one that survives shows
a line that no test holds to its promise, or a change that changes nothing. Each survivor needs an explanation, which is
written by hand into mutation_results.json and carried over to the next results for as long as the line stays.

    python tests/mutation.py --sample 300 --seed 1 --jobs 2    mutants of all files, drawn at random, and the results
    python tests/mutation.py --files '*_masks.py' --sample 40  of some files; results are only shown
    python tests/mutation.py --only ID                         one of them: its change, and what the tests say
    python tests/mutation.py --summary                         what mutation_results.json says

Everything happens in a temporary folder, in a copy of the files under version control. It is built there once, and
one run of the suite records which test executes which line: a mutant is tried on those tests, the quick ones first.
A mutant of C is tried at -O1 on one fast instruction set, then on all of them by the tests of the core, with
sanitizers. One that does not compile, or compiles to the same object, does not count.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import difflib
import fnmatch
import hashlib
import json
import os
import queue
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

from mutants import Mutant, mutants_of, sampled

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests/mutation_results.json"
MUTATED = (
    "fastdrop/*.py",
    "csrc/*.inc.h",
    "csrc/walk.c",
    "csrc/order.c",
    "csrc/runs.h",
    "csrc/bits.h",
)  # * takes subfolders too
LEFT_OUT = ("test_core.py", "test_benchmark_*.py", "test_report_page.py", "test_against_peers.py")
CORE_TESTS = ["tests/test_core.py", "-k", "cc-address-undefined"]  # only for C that all others let pass: slow
PLUGIN = "tests/mutation_plugin.py"
ENOUGH = 95.0  # per cent killed
QUICK = 4.0  # seconds of tests that a mutant meets first
TEST_TIMEOUT = 30  # seconds
MEMORY = 8 << 30  # bytes that a test run may address: a mutant must not take the machine along
CFLAGS = ("-O1", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-w")
EXTENSION = "fastdrop/_core" + sysconfig.get_config_var("EXT_SUFFIX")


# A built copy, and what the tests of the suite execute


@dataclass(frozen=True)
class Prepared:
    """The folder with the copy, what was recorded, and the instruction set on which mutants of C are tried."""

    home: Path
    imported: dict[str, list[int]]
    tests: dict[str, dict[str, Any]]
    fastest: str
    isa: str

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
    """The files under version control, and those about to be, but for what tries mutants."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return [name for name in names if "mutation" not in name.name and name.name != "mutants.py"]


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
    tree: Path, tests: list[str] | None, implementations: tuple[str, ...], files: list[str] | None = None, *,
    timeout: float, trace: Path | None = None, c_isa: str | None = None, slow: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """Whether a mutant survived, was killed or ran into a timeout; and the output."""
    plan = tree.parent / f"{tree.name}.plan.json"
    limits = {"timeout": 900 if slow else TEST_TIMEOUT * (4 if trace else 1), "memory": None if slow else MEMORY}
    told = {"tests": tests, "implementations": implementations, "trace": str(trace) if trace else None}
    plan.write_text(json.dumps({**told, **limits}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTDROP_")}
    environment = {**clean, "MUTATION_PLAN": str(plan), "HYPOTHESIS_PROFILE": "mutation",
                   "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}  # fmt: skip
    if trace is None:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # what is of the same second and size would be taken for the same
    if c_isa is not None:
        environment["FASTDROP_ISA"] = c_isa
    if slow:
        environment["FASTDROP_TEST_CROSS"] = "1"  # nothing may be skipped
    files = files or list(dict.fromkeys(name.split("::")[0] for name in tests or ()))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "mutation_plugin", *files]
    process = subprocess.Popen(
        command if trace else [*command, "-x"], cwd=tree, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
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
        return "survived", output
    return "timeout" if "Timeout (0:" in output else "killed", output


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
    shutil.copy(ROOT / PLUGIN, tree / PLUGIN)
    ask = [sys.executable, "-c", "import fastdrop._core as core; print(*core.supported())"]
    supported = subprocess.run(ask, cwd=tree, capture_output=True, check=True, text=True).stdout.split()
    isa = "avx2" if "avx2" in supported else supported[-1]
    if not recorded.exists():
        _say("recording which test executes which line")
        left_out = [path.name for pattern in LEFT_OUT for path in (tree / "tests").glob(pattern)]
        files = [f"tests/{path.name}" for path in sorted(tree.glob("tests/test_*.py")) if path.name not in left_out]
        run = _run_tests(tree, None, ("reference", supported[-1]), files, timeout=3600, trace=home / "recording.json")
        _must_pass(run)
        (home / "recording.json").rename(recorded)
    prepared = Prepared(home, **json.loads(recorded.read_text()), fastest=supported[-1], isa=isa)
    if with_c and not c_passed.exists():
        _say("the tests of unchanged C at -O1")
        (home / "same").mkdir(exist_ok=True)
        for source in sorted(tree.glob("csrc/*.c")):
            if not _compile(f"csrc/{source.name}", tree, home / "same" / f"{source.stem}.o"):
                sys.exit(f"{source.name} does not compile")
        with _workplace(prepared) as copy:
            _link(home / "objects", home / "same", copy)
            _must_pass(_run_tests(copy, list(prepared.tests), (isa,), timeout=3600, c_isa=isa))
            _must_pass(_run_tests(copy, None, (), CORE_TESTS, timeout=3600, slow=True))
        c_passed.touch()
    return prepared


def _must_pass(run: tuple[str, str]) -> None:
    _say(run[1].strip().splitlines()[-1])
    if run[0] != "survived" or " passed" not in run[1]:
        sys.exit(f"{run[1][-6000:]}\nthe tests do not pass without a mutant: {run[0]}")


@contextlib.contextmanager
def _workplace(prepared: Prepared) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fastdrop-mutant-") as folder:
        yield Path(shutil.copytree(prepared.home / "tree", Path(folder).resolve() / "tree"))


# Trying mutants


def try_mutant(mutant: Mutant, prepared: Prepared, tree: Path) -> tuple[str, str]:
    """Whether it survived, was killed, ran into a timeout or, not counted, is the same; and the last tests' output."""
    path = tree / mutant.file
    original = path.read_bytes()
    path.write_bytes(mutant.applied(original))
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()
    try:
        outcome = "same", ""
        for outcome in (_python_runs if path.suffix == ".py" else _c_runs)(mutant, prepared, tree):
            if outcome[0] != "survived":
                break
        return outcome
    finally:
        path.write_bytes(original)


def _python_runs(mutant: Mutant, prepared: Prepared, tree: Path) -> Iterator[tuple[str, str]]:
    original, changed = ((home / mutant.file).read_text() for home in (prepared.home / "tree", tree))
    try:
        if ast.dump(ast.parse(original)) == ast.dump(ast.parse(changed)):
            return
    except SyntaxError:
        return
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
    """On one instruction set, and then, on all of this build, the tests of the core alone."""
    changed = tree.parent / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    changed.mkdir()
    name = f"isa_{prepared.isa}" if mutant.file.endswith(".inc.h") else Path(mutant.file).stem
    if not _compile(f"csrc/{name}.c", tree, changed / f"{name}.o"):
        return
    if (prepared.home / "same" / f"{name}.o").read_bytes() == (changed / f"{name}.o").read_bytes():
        return
    try:
        _link(prepared.home / "objects", changed, tree)
        yield from _quick_then_others(prepared.functions(mutant), prepared, tree, (prepared.isa,), prepared.isa)
        yield _run_tests(tree, None, (), CORE_TESTS, timeout=1800, slow=True)
    finally:
        (tree / EXTENSION).unlink()
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
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        stack.callback(pool.shutdown, cancel_futures=True)  # where it is interrupted
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
        head = {
            "version": 1,
            "commit": git.stdout.strip(),
            "command": " ".join(["python tests/mutation.py", *sys.argv[1:]]),
            "sample": options.sample,
            "seed": options.seed,
            "mutants": sum(map(len, mutants.values())),
        }
        RESULTS.write_text(json.dumps({**head, "files": files}, indent=1) + "\n")
    return status


def _only(name: str) -> int:
    file = name.split(":")[0]
    source = (ROOT / file).read_bytes()
    mutant = next((mutant for mutant in mutants_of(file, source) if mutant.id == name), None)
    if mutant is None:
        sys.exit(f"there is no mutant {name}")
    old, new = (text.decode().splitlines(keepends=True) for text in (source, mutant.applied(source)))
    prepared = prepare(with_c=file.startswith("csrc"))
    with _workplace(prepared) as tree:
        outcome, output = try_mutant(mutant, prepared, tree)
    _say(f"{''.join(difflib.unified_diff(old, new, file, file))}\n{output}\n{outcome}")
    return int(outcome == "survived")


if __name__ == "__main__":
    sys.exit(main())
