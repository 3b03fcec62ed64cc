# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``python -m fastdrop`` and their arguments."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, read_array_header_1_0, read_array_header_2_0

from fastdrop import _arguments, _backend, _jax_build
from fastdrop._config import show_config
from fastdrop._tools import bench, verify
from fastdrop._tools.arrays import bfloat16_dtype, free_memory
from fastdrop._tools.output import Failure, OutputFile, Parser, guarded, say
from fastdrop._tools.timing import RATES, RECIPE
from fastdrop._tools.units import format_size
from fastdrop._version import __version__

PROG = "python -m fastdrop"

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit status: 0, or 1 when an implementation gives wrong results, or 2 when the command cannot do its work,
        or 130 when it was interrupted. Wrong arguments raise SystemExit with status 2.
    """
    return guarded(PROG, lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser, bench_parser = _parsers()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0

    def run() -> int:
        if arguments.command == "info":
            return _info(arguments)
        if arguments.command == "verify":
            seconds = 10.0 if arguments.seconds is None and arguments.cases is None else arguments.seconds
            return verify.run(seed=arguments.seed, seconds=seconds, cases=arguments.cases)
        if arguments.command == "build-jax":
            return _build_jax()
        return _run_bench(arguments, bench_parser)

    return guarded(f"{PROG} {arguments.command}", run)


def _parsers() -> tuple[Parser, Parser]:
    """The parser, and that of bench, which has more to check than one argument at a time."""
    parser = Parser(prog=PROG, description="Dropout on the CPU for NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"fastdrop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    of_info = commands.add_parser("info", help="show version, instruction sets, threads and caches")
    of_info.add_argument("--json", action="store_true", help="print it as JSON")

    of_verify = commands.add_parser(
        "verify",
        help="compare every instruction set of this machine with known answers and with the reference",
        description="Compare every instruction set of this machine with known answers and, on random cases, bit for "
        "bit with the NumPy reference. The exit status is 1 if anything differs.",
    )
    length = of_verify.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=_seconds, metavar="N", help="how long to go on (10)")
    length.add_argument("--cases", type=_count, metavar="N", help="how many cases to compare instead")
    of_verify.add_argument("--seed", type=_seed, default=0, metavar="S", help="which cases (0)")

    of_bench = commands.add_parser(
        "bench",
        help="time dropout beside a copy and the NumPy recipe",
        description="Time dropout(x, rate, out=y) in turn with np.copyto(y, x) and the NumPy recipe "
        f"{RECIPE}. It verifies first, and wrong results are not timed.",
    )
    of_bench.add_argument("--seconds", type=_seconds, metavar="N", help="about how long to take (75)")
    of_bench.add_argument("--quick", action="store_true", help="the same as --seconds 10")
    of_bench.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        metavar="SIZE",
        help="bytes of the arrays, as in 4 16K 1M (one element to 64M)",
    )
    of_bench.add_argument("--array", metavar="FILE.npy", help="time this array instead")
    of_bench.add_argument(
        "--dtype",
        type=str.lower,
        choices=["float16", "bfloat16", "float32", "float64"],
        help="of the arrays (float32)",
    )
    of_bench.add_argument("--rates", type=_rate, nargs="+", metavar="RATE", help="probabilities to drop (0.1 0.5)")
    of_bench.add_argument("--isa", type=_isa, metavar="NAME", help=f"instruction set ({_backend.running.name})")
    of_bench.add_argument("--threads", type=_count, metavar="N", help="how many may work on one array (1)")
    of_bench.add_argument(
        "--bounds",
        action=argparse.BooleanOptionalAction,
        help="measure the project's bounds too, which have sizes and dtypes of their own (where no option from "
        "--sizes to --threads is given)",
    )
    of_bench.add_argument("--json", type=Path, metavar="FILE", help="write all that is measured, every round of it")

    commands.add_parser(
        "build-jax",
        help="compile the module of fastdrop.jax, where JAX was installed after fastdrop",
        description="Compile the module by which XLA calls fastdrop, for the JAX that is installed, with the compiler "
        "of the environment variable CC or the one that Python was built with. It is put beside fastdrop.jax or, where "
        "that folder is not writable, into the user's cache.",
    )
    return parser, of_bench


def _info(arguments: argparse.Namespace) -> int:
    if arguments.json:
        say(json.dumps(show_config("dicts"), indent=2))
    else:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            show_config()
        say(text.getvalue().rstrip("\n"))
    return 0


def _build_jax() -> int:
    try:
        say(f"built {_jax_build.build()}")
    except RuntimeError as error:
        raise Failure(str(error)) from None
    return 0


def _run_bench(arguments: argparse.Namespace, parser: Parser) -> int:
    if arguments.quick and arguments.seconds is not None:
        parser.error("argument --quick: not allowed with argument --seconds")
    if arguments.array is not None and arguments.sizes is not None:
        parser.error("argument --sizes: not allowed with argument --array")
    narrowed = ("sizes", "array", "dtype", "rates", "isa", "threads")
    is_default = all(getattr(arguments, name) is None for name in narrowed)
    dtype = _dtype(arguments.dtype, parser)
    sizes = bench.SIZES if arguments.sizes is None else arguments.sizes
    for nbytes in sizes:
        if nbytes is not None and (nbytes % dtype.itemsize or nbytes == 0):
            parser.error(
                f"argument --sizes: must be multiples of {dtype.itemsize} bytes for {dtype.name}, got {nbytes}"
            )
    array = None if arguments.array is None else _array(arguments.array, arguments.dtype, parser)
    if array is not None and arguments.json is not None and _is_same_file(arguments.array, arguments.json):
        parser.error("argument --json: not the file of argument --array, which would be lost")
    if array is not None:
        dtype, sizes = array.dtype, (array.nbytes,)
    needed = bench.needed_memory((nbytes or dtype.itemsize for nbytes in sizes), dtype.itemsize)
    free = free_memory()
    if free is not None and needed > free:
        name = "--sizes" if array is None else "--array"
        parser.error(f"argument {name}: timing them takes {format_size(needed)} of memory, of {format_size(free)} free")
    rates = list(dict.fromkeys(arguments.rates or RATES))
    with contextlib.ExitStack() as stack:
        json_file = None
        if arguments.json is not None:
            try:
                json_file = stack.enter_context(OutputFile(arguments.json, bench.most_bytes(len(sizes), len(rates))))
            except Failure as error:
                parser.error(f"argument --json: {error}")
        return bench.run(
            seconds=10.0 if arguments.quick else arguments.seconds or 75.0,
            sizes=sizes,
            dtype=dtype,
            rates=rates,
            isa=arguments.isa or _backend.running.name,
            threads=arguments.threads or 1,
            with_bounds=is_default if arguments.bounds is None else arguments.bounds,
            array=array,
            array_name=arguments.array,
            json_file=json_file,
        )


def _dtype(name: str | None, parser: Parser) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name or "float32")
    bfloat16 = bfloat16_dtype()
    if bfloat16 is None:
        parser.error("argument --dtype: bfloat16 needs the package ml_dtypes, which is not installed")
    return bfloat16


def _array(name: str, dtype: str | None, parser: Parser) -> np.ndarray:
    """The array of a file, which must be one that dropout takes."""
    path = Path(name)
    if path.exists() and not path.is_file():
        parser.error(f"argument --array: {name!r} is not a file")  # and np.load would wait for a pipe
    try:
        array = np.load(name, allow_pickle=False)
    except OSError as error:
        parser.error(f"argument --array: {name!r}: {error.strerror or error}")
    except Exception:  # of many kinds, for there are many kinds of damage
        parser.error(f"argument --array: {name!r} {_why_no_array(path)}")
    if not isinstance(array, np.ndarray):
        array.close()
        parser.error(f"argument --array: {name!r} holds several arrays: save one of them with numpy.save")
    if array.dtype == np.dtype("V2") and dtype == "bfloat16":
        array = array.view(_dtype(dtype, parser))  # a .npy file has no name for bfloat16
    try:
        array = _arguments.float_array(array, f"{name!r}")
    except TypeError as error:
        hint = "; for bfloat16 say so with --dtype bfloat16" if array.dtype == np.dtype("V2") else ""
        parser.error(f"argument --array: {error}{hint}")
    if dtype not in (None, array.dtype.name):
        parser.error(f"argument --dtype: {name!r} is of {array.dtype.name}, got {dtype}")
    if array.size == 0:
        parser.error(f"argument --array: {name!r} has no elements")
    return array


def _why_no_array(path: Path) -> str:
    """What is wrong with a file that NumPy does not read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start.startswith(b"PK\x03\x04"):
            return "is a .npz file that is truncated or damaged"
        if not start or not (start.startswith(MAGIC_PREFIX) or MAGIC_PREFIX.startswith(start)):
            return "is not a .npy file of numbers"
        # The magic string, two bytes of version, the length of the header in two bytes or, from version 2 on, in four.
        digits = start[8:10] if start[6:7] == b"\x01" else start[8:12]
        begin = 8 + len(digits) + int.from_bytes(digits, "little")
        if size < max(begin, 12):
            return "is truncated within its header"
        file.seek(8)
        read_header = read_array_header_1_0 if len(digits) == 2 else read_array_header_2_0
        with contextlib.suppress(Exception):
            shape, _, dtype = read_header(file)
            nbytes = math.prod(shape) * dtype.itemsize
            if size - begin < nbytes and not dtype.hasobject:
                return f"is truncated: it has {size - begin:,} bytes of data, of {nbytes:,}"
    return "is not a .npy file of numbers"


def _is_same_file(name: str, other: Path) -> bool:
    return other.exists() and other.samefile(name)


# Types of arguments: argparse puts the argument's name before what they raise.


def _checked(convert: Callable[[str], T], is_allowed: Callable[[T], bool], allowed: str) -> Callable[[str], T]:
    def check(text: str) -> T:
        with contextlib.suppress(ValueError):
            value = convert(text)
            if is_allowed(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {_shown(text)}")

    return check


def _shown(text: str) -> str:
    """What was given, as far as it fits in a line."""
    return repr(text) if len(text) <= 50 else f"{text[:50]!r}... ({len(text):,} letters)"


_seconds = _checked(float, lambda n: 0.0 < n < math.inf, "a number above 0")
_count = _checked(int, lambda n: n >= 1, "an int of at least 1")
_seed = _checked(int, lambda n: n >= 0, "an int of at least 0")
_rate = _checked(float, lambda rate: 0.0 <= rate < 1.0, "at least 0 and below 1 (at 1 the recipe divides by 0)")


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,30})\s*([KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, as 4, 16K, 1M or 64MiB, got {_shown(text)}")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def _isa(text: str) -> str:
    try:
        _backend.find(text.lower())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.lower()
