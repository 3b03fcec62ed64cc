# SPDX-License-Identifier: BSD-3-Clause
"""The C core alone, without Python: warnings, sanitizers, other architectures, emulated CPUs.

``tests/core/main.c`` is compiled with every compiler at hand, and has to answer a list of requests as the reference
does: built for this machine, under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, for AArch64 (NEON)
and s390x (big-endian) under an emulator, and on emulated x86-64 CPUs that lack AVX-512 or AVX.

A compiler or an emulator that is missing is a skip that says so, or a failure where FASTDROP_TEST_CROSS=1 is set.
"""

import dataclasses
import functools
import itertools
import json
import os
import platform
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fastdrop import _reference

ROOT = Path(__file__).parents[1]
VECTORS = ROOT / "tests" / "vectors"
SOURCES = [*sorted((ROOT / "csrc").glob("*.c")), ROOT / "tests" / "core" / "main.c"]

# As in setup.py, but that warnings are errors.
FLAGS = [
    "-std=c11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
    "-I",
    str(ROOT / "csrc"),
]
MEMORY = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DGUARD=0"]
RACES = ["-O1", "-g", "-fsanitize=thread"]

X86_64 = ("portable", "sse2", "avx2", "avx512")
AARCH64 = ("portable", "neon")
BUILT = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}
MACHINE = platform.machine().lower()


def missing(reason):
    """What was to be tested can not be, here."""
    if os.environ.get("FASTDROP_TEST_CROSS") == "1":
        pytest.fail(f"FASTDROP_TEST_CROSS=1 is set, but {reason}")
    pytest.skip(reason)


def run(command, text=None):
    # The core allocates nothing that could leak, and looking for leaks is not allowed in every container.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Build:
    """A compiler with its flags, what runs its programs, and which instruction sets they hold."""

    compiler: str
    flags: tuple[str, ...]
    runner: tuple[str, ...] = ()
    built: tuple[str, ...] = BUILT.get(MACHINE, ("portable",))


NATIVE = {
    "cc": Build("cc", ("-O3",)),
    "clang": Build("clang", ("-O3",)),
}
SANITIZED = {
    # Not optimized: compilers take minutes to optimize what they instrument.
    "cc-address-undefined": Build("cc", ("-O0", *MEMORY)),
    "clang-address-undefined": Build("clang", ("-O0", *MEMORY)),
}
THREADED = {
    "cc-thread": Build("cc", tuple(RACES)),
    "clang-thread": Build("clang", tuple(RACES)),
}
CROSS = {
    "aarch64": Build("aarch64-linux-gnu-gcc", ("-O2", "-static"), ("qemu-aarch64",), AARCH64),
    "s390x": Build("s390x-linux-gnu-gcc", ("-O2", "-static"), ("qemu-s390x",), ("portable",)),
}
ANSWERING = {**NATIVE, **SANITIZED, **CROSS}
ALL = {**ANSWERING, **THREADED}

# x86-64 CPUs to emulate, and what can run on each.
EMULATED_CPUS = {
    "qemu64": ("portable", "sse2"),
    "max,-xsave": ("portable", "sse2"),
    "max,-f16c": ("portable", "sse2"),
    "max": ("portable", "sse2", "avx2"),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Compile a build, once; gives its object files."""

    @functools.cache
    def compiled(name):
        build = ALL[name]
        for tool in (build.compiler, *build.runner):
            if shutil.which(tool) is None:
                missing(f"{name}: {tool} is not installed")
        directory = tmp_path_factory.mktemp(name)
        empty = directory / "empty.c"
        empty.write_text("int main(void) { return 0; }\n")
        link = [build.compiler, *build.flags, empty, "-o", directory / "empty", "-pthread"]
        linked = subprocess.run(link, capture_output=True, text=True)
        if linked.returncode != 0:
            missing(f"{name}: {build.compiler} can not link an empty program: {linked.stderr.strip()[-300:]}")

        def compile_one(source):
            target = directory / f"{source.stem}.o"
            run([build.compiler, *build.flags, *FLAGS, "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, SOURCES))

    return compiled


@pytest.fixture(scope="module")
def programs(objects):
    """Link a build, once; gives the command that runs its program."""

    @functools.cache
    def linked(name):
        build, files = ALL[name], objects(name)
        target = files[0].with_name("main")
        run([build.compiler, *build.flags, *files, "-o", target, "-pthread"])
        return (*build.runner, target)

    return linked


def kernels_of(command):
    """The instruction sets that a program holds, and whether its machine runs them."""
    return {name: word == "supported" for name, word in (line.split() for line in run([*command, "list"]).splitlines())}


# Inputs, checksums and answers, as main.c has them.

GOLDEN = 0x9E3779B97F4A7C15
PRINTED = 40
DTYPES = {
    "f16": (np.dtype(np.float16), np.uint16, 0x8000, 0x7C00),
    "bf16": (np.dtype(ml_dtypes.bfloat16), np.uint16, 0x8000, 0x7F80),
    "f32": (np.dtype(np.float32), np.uint32, 1 << 31, 0x7F800000),
    "f64": (np.dtype(np.float64), np.uint64, 1 << 63, 0x7FF0000000000000),
}


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def steps(n):
    return np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def random_numbers(n, seed):
    return mix(steps(n) + np.uint64(seed))


def elements(n, dtype, seed):
    floating, unsigned, sign, exponent = DTYPES[dtype]
    r = random_numbers(n, seed)
    sign, exponent = np.uint64(sign), np.uint64(exponent)
    special = [r | exponent, r & ~exponent, (r & sign) | exponent, r & sign]
    kind = r >> np.uint64(61)
    return np.select([kind == i for i in range(4)], special, r).astype(unsigned).view(floating)


def answer(integers):
    checksum = int(np.sum(mix(integers.astype(np.uint64) + steps(len(integers))), dtype=np.uint64))
    width = 2 * integers.itemsize
    printed = [f"{int(e):0{width}x}" for e in integers] if len(integers) <= PRINTED else []
    return " ".join([f"{checksum:016x}", *printed])


@dataclasses.dataclass(frozen=True)
class Draw:
    """The keep bits or keep bools of a part of a mask."""

    op: str
    key: int
    call: int
    threshold: int
    start: int
    n: int
    offset: int = 0

    def line(self):
        return f"{self.op} all {self.key} {self.call} {self.threshold} {self.start} {self.n} {self.offset}"

    def expected(self, oracle):
        if self.op == "bits":
            return answer(oracle.keep_bits(self.n, self.key, self.call, self.threshold, self.start))
        out = np.empty(self.n, np.bool_)
        oracle.keep(out, 0, self.n, self.key, self.call, self.threshold, self.start)
        return answer(out.view(np.uint8))


@dataclasses.dataclass(frozen=True)
class Scale:
    """Dropout of a part of a mask (``draw``), or given keep bits applied (``draw`` is None)."""

    draw: Draw | None
    first: int
    n: int
    dtype: str
    offset_x: int
    offset_y: int
    scale: float
    stream: int
    seed: int

    def line(self):
        head = f"apply all {self.first} {self.n}"
        if self.draw is not None:
            head = f"dropout all {self.draw.key} {self.draw.call} {self.draw.threshold} {self.first} {self.n}"
        tail = f"{self.dtype} {self.offset_x} {self.offset_y} {float(self.scale).hex()} {self.stream} {self.seed}"
        return f"{head} {tail}"

    def expected(self, oracle):
        x = elements(self.n, self.dtype, self.seed)
        out = np.empty_like(x)
        key, call, threshold, bits = 0, 0, 0, None
        if self.draw is not None:
            key, call, threshold = self.draw.key, self.draw.call, self.draw.threshold
        else:
            bits = random_numbers((self.first + self.n + 7) // 8, self.seed + 1).astype(np.uint8)
        oracle.apply(x, out, 0, self.n, key, call, threshold, self.scale, self.first, bits=bits)
        return answer(out.view(DTYPES[self.dtype][1]))


# Edges of lanes (2 to 16), groups (32), blocks (128), steps (512, 1024) and tiles (2048).
EDGES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 6144)
LENGTHS = sorted({*range(10), *(edge + d for edge in EDGES for d in (-1, 0, 1)), 2048 + 129, 10_000})
# Near 2**32 an index outgrows 32 bits; near 2**34 that of a tail block, near 2**39 that of a plane block.
STARTS = (0, 1, 31, 32, 127, 128, 129, 2047, 2048)
STARTS += (2**32 - 100, 2**32 + 5, 2**34 - 100, 2**39 - 100, 2**40 + 77, 2**62 + 3)
TENTH = 429496730
THRESHOLDS = (0, 1, TENTH, 1 << 29, 1 << 30, 1 << 31, 3 << 30, 1 << 32)
THRESHOLDS += ((1 << 24) - 1, 1 << 24, 255 << 24, (1 << 32) - 1)
CALLS = (0, 1, 2**32 + 5, 2**56 - 1)
KEYS = (0, 0x0123456789ABCDEF, 2**64 - 1)
SCALES = (1.0, 2.0, 1 / 0.9, 4 / 3, 0.1, 2.0**32)
LINE = 64  # bytes

# The tile of 2048 elements from CROWDED on, of key 0 and call 0: 22 of its elements are undecided after eight planes of
# TENTH, more than any instruction set takes at a time.
CROWDED = 351 * 2048


def make_requests():
    choose = random.Random(20)

    def draw(op, n):
        key, call, threshold = choose.choice(KEYS), choose.choice(CALLS), choose.choice(THRESHOLDS)
        return Draw(op, key, call, threshold, choose.choice(STARTS), n, choose.choice((0, choose.randrange(LINE))))

    def scale(op, n, dtype, offset_x, offset_y, stream):
        how = draw("bits", n) if op == "dropout" else None
        first = how.start if how is not None else choose.choice((0, 1, 7, 8, choose.randrange(3000)))
        return Scale(how, first, n, dtype, offset_x, offset_y, choose.choice(SCALES), stream, choose.randrange(2**63))

    for n, op, _ in itertools.product(LENGTHS, ("bits", "bools"), range(4)):
        yield draw(op, n)
    for start, threshold in itertools.product(STARTS, THRESHOLDS):
        yield Draw("bits", KEYS[1], 3, threshold, start, 200)
    for start, n in itertools.product((CROWDED, CROWDED - 1, CROWDED - 2000), (2048, 4096)):
        yield Draw("bits", 0, 0, TENTH, start, n)
    for op, (dtype, (floating, *_)) in itertools.product(("dropout", "apply"), DTYPES.items()):
        places = LINE // floating.itemsize
        for n, stream, _ in itertools.product(LENGTHS, (0, 1), range(2)):
            offset_x, offset_y = (choose.choice((0, choose.randrange(places))) for _ in "xy")
            yield scale(op, n, dtype, choose.choice((-1, offset_x, offset_x)), offset_y, stream)
        for offset, stream in itertools.product(range(places), (0, 1)):
            yield scale(op, 300, dtype, choose.randrange(places), offset, stream)


@pytest.fixture(scope="module")
def requests():
    return list(make_requests())


@pytest.fixture(scope="module")
def expected(requests):
    oracle = _reference.Kernels()
    return [request.expected(oracle) for request in requests]


def assert_answers(command, lines, expected):
    """Every instruction set that the program's machine runs gives the expected answer to every request."""
    names = [name for name, supported in kernels_of(command).items() if supported]
    got = run(command, "".join(f"{line}\n" for line in lines)).splitlines()
    want = [f"{name} {text}" for text in expected for name in names]
    asked = [line for line in lines for _ in names]
    wrong = [f"{a}\n  got      {g}\n  expected {w}" for a, g, w in zip(asked, got, want, strict=True) if g != w]
    assert not wrong, f"{len(wrong)} of {len(want)} answers differ:\n" + "\n".join(wrong[:5])


def cases(builds):
    return pytest.mark.parametrize("build", builds)


@cases(ANSWERING)
def test_a_build_holds_the_instruction_sets_of_its_architecture(build, programs):
    assert tuple(kernels_of(programs(build))) == ALL[build].built


@cases(ANSWERING)
def test_every_kernel_gives_the_bits_of_the_reference(build, programs, requests, expected):
    assert_answers(programs(build), [request.line() for request in requests], expected)


@cases(ANSWERING)
def test_philox_gives_the_published_answers(build, programs):
    rows = [line.split() for line in (VECTORS / "philox4x32.txt").read_text().splitlines() if line[:1].isdigit()]
    assert len(rows) == 6
    lines = [" ".join(["philox all", row[0], *(f"0x{word}" for word in row[1:7])]) for row in rows]
    expected = [answer(np.array([int(word, 16) for word in row[7:]], np.uint32)) for row in rows]
    assert_answers(programs(build), lines, expected)


@cases(ANSWERING)
def test_masks_are_those_of_the_vectors(build, programs):
    vectors = json.loads((VECTORS / "stream_v1.json").read_text())["cases"]
    draws = [Draw("bits", int(v["key"], 16), v["call"], v["threshold"], v["start"], v["n"]) for v in vectors]
    expected = [answer(np.frombuffer(bytes.fromhex(v["keep_bits_little"]), np.uint8)) for v in vectors]
    assert_answers(programs(build), [draw.line() for draw in draws], expected)


@cases(THREADED)
def test_threads_may_look_up_and_run_kernels_at_once(build, programs):
    assert run([*programs(build), "threads", "8"]) == "agree\n"


def test_the_crowded_tile_is_crowded():
    oracle = _reference.Kernels()
    upper = TENTH >> 24
    not_below, not_above = (oracle.keep_bits(2048, 0, 0, (upper + i) << 24, CROWDED) for i in (0, 1))
    assert np.unpackbits(not_below & ~not_above).sum() == 22


@pytest.mark.parametrize("cpu", EMULATED_CPUS)
def test_dispatch_offers_what_the_cpu_can_run(cpu, programs, requests, expected):
    """On an emulated CPU: the right instruction sets are offered, and all of those run there."""
    if MACHINE not in ("x86_64", "amd64"):
        pytest.skip(f"builds x86-64 programs on x86-64 only, this is {MACHINE}")
    if shutil.which("qemu-x86_64") is None:
        missing("qemu-x86_64 is not installed")
    command = ("qemu-x86_64", "-cpu", cpu, *programs("cc"))
    kernels = kernels_of(command)
    assert tuple(name for name, supported in kernels.items() if supported) == EMULATED_CPUS[cpu]
    assert tuple(kernels) == X86_64
    assert_answers(command, [request.line() for request in requests], expected)


@pytest.mark.parametrize("build", NATIVE)
def test_a_plain_cpu_meets_no_instruction_it_lacks(build, objects):
    """What runs before a choice or without one has no AVX: no register but xmm, no mnemonic that begins with v."""
    if MACHINE not in ("x86_64", "amd64"):
        pytest.skip(f"about x86-64, this is {MACHINE}")
    if shutil.which("objdump") is None:
        missing("objdump is not installed")
    wide = re.compile(r"[yz]mm[0-9]|\tv[a-z0-9]+ ")
    files = objects(build)
    found = [path.stem for path in files if wide.search(run(["objdump", "-d", "--no-show-raw-insn", path]))]
    assert found == ["isa_avx2", "isa_avx512"]


@pytest.mark.parametrize("build", [*NATIVE, *CROSS])
def test_kernels_call_nothing_and_keep_no_state(build, objects):
    """They can not fail, allocate or lock: what they call is what compilers put in, and nothing of theirs is zeroed."""
    if shutil.which("nm") is None:
        missing("nm is not installed")
    allowed = {"memcpy", "memset", "memmove", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    for path in objects(build):
        if path.stem.startswith("isa_"):
            symbols = [line.split()[-2:] for line in run(["nm", path]).splitlines()]
            assert {name for kind, name in symbols if kind == "U"} <= allowed, path.stem
            assert not {name for kind, name in symbols if kind in "bBcC"}, path.stem
