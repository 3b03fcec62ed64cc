# SPDX-License-Identifier: BSD-3-Clause
"""Instructions an element of every kernel, counted by callgrind: what a busy machine cannot move.

    python -m benchmarks.instructions             count, and compare with benchmarks/instructions.json
    python -m benchmarks.instructions --update    count, and write that file

The core is compiled with the flags of setup.py, and instructions.c calls each kernel once on 65,536 elements. Another
compiler, or another major version of the same, makes other instructions: then nothing is compared, which is said. What
differs from the file by more than 2 % ends in exit status 1, whether it grew or shrank: what became better must be
kept by an update. Valgrind does not know AVX-512.

An instruction is not a time. Fewer of them are mostly faster, and the same number of them in the same code takes the
same time; for the rest there are the other benchmarks.
"""

import argparse
import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdrop._tools.output import Parser, guarded, say

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "benchmarks" / "instructions.json"
FORMAT = 1

ISAS = ("portable", "sse2", "avx2")
ELEMENTS = 1 << 16
TOLERANCE = 0.02

Counts = dict[str, dict[str, float]]  # instructions an element, by instruction set and call


class Failed(Exception):
    """Nothing could be counted, or what was found cannot be read."""


def build_flags() -> list[str]:
    """What setup.py asks of GCC and Clang."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    flags = next(keyword.value for keyword in keywords if keyword.arg == "extra_compile_args")
    if not isinstance(flags, ast.IfExp):
        raise Failed("setup.py: extra_compile_args is not a choice between those of MSVC and the others")
    return ast.literal_eval(flags.orelse)


def run(*command: object) -> str:
    """What a command prints; an error with what it complains of."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"{words[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Compiler:
    """Who made the instructions."""

    name: str
    version: str

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    @classmethod
    def of(cls, command: str) -> "Compiler":
        first = run(command, "--version").partition("\n")[0]
        version = re.search(r"\b\d+\.\d+\.\d+\b", first)
        if version is None:
            raise Failed(f"{command} --version does not tell its version: {first}")
        return cls("clang" if "clang" in first else "gcc", version[0])

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def build(command: str, directory: Path) -> Path:
    """Compile the core and the driver."""
    program = directory / "instructions"
    sources = [*sorted((ROOT / "csrc").glob("*.c")), ROOT / "benchmarks" / "instructions.c"]
    # Symbols are looked up before it begins, and not in the first call that needs them.
    run(command, *build_flags(), "-I", ROOT / "csrc", *sources, "-o", program, "-Wl,-z,now", "-pthread", "-lm")
    return program


def count(program: Path, isa: str, directory: Path) -> dict[str, float]:
    """Instructions an element of each call that the driver makes."""
    profile = directory / f"{isa}.out"
    names = run(
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--collect-atstart=no",
        "--toggle-collect=measured",
        "--dump-after=measured",
        f"--callgrind-out-file={profile}",
        program,
        isa,
        ELEMENTS,
    ).splitlines()
    parts = [profile.with_name(f"{profile.name}.{number + 1}") for number in range(len(names))]
    missing = [part.name for part in parts if not part.exists()]
    if missing or not names:
        raise Failed(f"callgrind did not write {', '.join(missing) or 'anything'}")
    return {name: in_part(part) for name, part in zip(names, parts, strict=True)}


def in_part(part: Path) -> float:
    """Instructions an element in one file of callgrind's, to five digits."""
    summary = re.search(r"^summary: (\d+)$", part.read_text(), re.MULTILINE)
    if summary is None:
        raise Failed(f"{part.name} has no summary of what callgrind counted")
    return float(f"{int(summary[1]) / ELEMENTS:.5g}")


def changes(before: Counts, now: Counts) -> list[str]:
    """A line for each call of which the count differs by more than the tolerance, or that only one of them has."""
    lines = []
    for isa in (isa for isa in before if isa in now):
        for name in dict.fromkeys([*before[isa], *now[isa]]):
            old, new = before[isa].get(name), now[isa].get(name)
            if old is None or new is None:
                lines.append(f"{isa:<10}{name:<38}{'new' if old is None else 'gone'}")
            elif abs(new / old - 1) > TOLERANCE:
                lines.append(f"{isa:<10}{name:<38}{old:>9.4g} {new:>9.4g} {new / old - 1:>+8.1%}")
    return lines


def table(counts: Counts) -> str:
    """A row for each call, a column for each instruction set."""
    names = dict.fromkeys(name for column in counts.values() for name in column)
    lines = [f"{'instructions an element':<38}" + "".join(f"{isa:>10}" for isa in counts)]
    for name in names:
        lines.append(f"{name:<38}" + "".join(f"{column[name]:>10.4g}" for column in counts.values()))
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """The baseline."""
    try:
        baseline = json.loads(path.read_text(encoding="utf-8"))
        if baseline["fastdrop_format"] != FORMAT:
            raise Failed(f"{path}: its format is {baseline['fastdrop_format']}, and this reads {FORMAT}")
        Compiler(**baseline["compiler"])
        return baseline
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"{path} is not a baseline: {error!r}") from error


def why_not_comparable(baseline: dict[str, Any], compiler: Compiler) -> str | None:
    """Why a baseline says nothing about what this compiler makes here."""
    its = Compiler(**baseline["compiler"])
    if baseline["machine"] != platform.machine():
        return f"the baseline is of {baseline['machine']}, and this is {platform.machine()}"
    if (its.name, its.major) != (compiler.name, compiler.major):
        return f"the baseline is of {its}, and this is {compiler}"
    if baseline["flags"] != build_flags():
        return f"the baseline is of the flags {' '.join(baseline['flags'])}, and these are {' '.join(build_flags())}"
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.instructions", description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the baseline anew")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), metavar="COMPILER", help="cc, or $CC, by default")
    return guarded(parser.prog, lambda: _count_and_compare(parser.parse_args(arguments)))


def _count_and_compare(options: argparse.Namespace) -> int:
    try:
        if shutil.which("valgrind") is None:
            raise Failed("valgrind is not installed")
        baseline = None if options.update else read(BASELINE)
        compiler = Compiler.of(options.cc)
        counts: Counts = {}
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            program = build(options.cc, directory)
            for isa in ISAS:
                try:
                    counts[isa] = count(program, isa, directory)
                except Failed as error:
                    if "can run here" not in str(error):
                        raise
                    say(f"NOT COUNTED: {isa}, which cannot run here under valgrind")
    except Failed as error:
        print(f"python -m benchmarks.instructions: error: {error}", file=sys.stderr)
        return 2
    say(f"{compiler}, {' '.join(build_flags())}\n\n{table(counts)}\n")
    if baseline is None:
        record = {
            "fastdrop_format": FORMAT,
            "machine": platform.machine(),
            "compiler": vars(compiler),
            "flags": build_flags(),
            "valgrind": run("valgrind", "--version").strip().removeprefix("valgrind-"),
            "elements": ELEMENTS,
            "counts": counts,
        }
        BASELINE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        say(f"written: {BASELINE}")
        return 0
    why = why_not_comparable(baseline, compiler)
    if why:
        say(f"NOT COMPARED: {why}")
        return 0
    different = changes(baseline["counts"], counts)
    if different:
        say("\n".join([f"{len(different)} differ from the baseline by more than {TOLERANCE:.0%}:", *different]))
        say("if that is meant: python -m benchmarks.instructions --update")
        return 1
    say(f"none of {sum(map(len, counts.values()))} differs from the baseline by more than {TOLERANCE:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
