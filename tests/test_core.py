# SPDX-License-Identifier: BSD-3-Clause
"""The C core alone, without Python: warnings, sanitizers, other architectures, emulated CPUs.

``tests/core/main.c`` is compiled with every compiler at hand, and has to answer a list of requests as the reference
does: built for this machine, under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, for AArch64 (NEON)
and s390x (big-endian) under an emulator, and on emulated x86-64 CPUs that lack AVX-512 or AVX.

All of that takes minutes, compilers and emulators, so it is done where FASTDROP_TEST_CROSS=1 asks for it. There a
compiler or an emulator that is missing is a failure.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
import platform
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers
import ml_dtypes
import numpy as np
import pytest
from helpers import Operation

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


is_asked_for = pytest.mark.asked_for("FASTDROP_TEST_CROSS")


def missing(reason):
    """What was to be tested cannot be, here."""
    pytest.fail(f"FASTDROP_TEST_CROSS=1 is set, but {reason}")


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
        link = [build.compiler, *build.flags, empty, "-o", directory / "empty", "-pthread", "-lm"]
        linked = subprocess.run(link, capture_output=True, text=True)
        if linked.returncode != 0:
            missing(f"{name}: {build.compiler} cannot link an empty program: {linked.stderr.strip()[-300:]}")

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
        run([build.compiler, *build.flags, *files, "-o", target, "-pthread", "-lm"])
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


def elements(n, dtype, seed, is_wild=True):
    floating, unsigned, sign, exponent = DTYPES[dtype]
    r = random_numbers(n, seed)
    sign, exponent = np.uint64(sign), np.uint64(exponent)
    special = [r | exponent, r & ~exponent, (r & sign) | exponent, r & sign]
    kind = mix(r) >> np.uint64(61)
    highest = exponent & ~(exponent >> np.uint64(1))
    e = np.select([kind == i for i in range(4)], special, r) & ~(np.uint64(0) if is_wild else highest)
    return e.astype(unsigned).view(floating)


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
class Places:
    """Elements first .. first+n-1 of an array, and where they lie in a draw, or in a string of given keep bits."""

    key: int
    call: int
    threshold: int
    offset: int
    dims: tuple[tuple[int, int], ...] | None
    is_given: bool
    first: int
    n: int

    def line(self):
        dims = ",".join(f"{length}x{stride}" for length, stride in self.dims or ()) or "-"
        draw = f"{self.key} {self.call} {self.threshold}"
        return f"{draw} {self.offset} {dims} {self.bytes} {self.first} {self.n}"

    @property
    def bytes(self):
        """Of the given keep bits: as many as hold the elements of the whole array."""
        steps = [(length - 1) * stride for length, stride in self.dims or ((self.size, 1),)]
        return (self.offset + sum(steps) + 8) // 8 if self.is_given else 0

    @property
    def size(self):
        return math.prod(length for length, _ in self.dims) if self.dims is not None else self.first + self.n

    def arguments(self, seed):
        """For the reference. The part begins at ``first``, so that what stands before it does not count."""
        bits = random_numbers(self.bytes, seed + 1).astype(np.uint8) if self.is_given else None
        return {"key": self.key, "call": self.call, "threshold": self.threshold} | {
            "offset": self.offset,
            "dims": self.dims,
            "bits": bits,
        }


@dataclasses.dataclass(frozen=True)
class Order:
    """What fd_order_bits() gives."""

    places: Places
    at_y: int
    seed: int

    def line(self):
        return f"order all {self.places.line()} {self.at_y} {self.seed}"

    def expected(self, oracle):
        given = self.places.arguments(self.seed)
        return answer(oracle.order_bits(self.places.n, given["offset"], given["dims"], given["bits"]))


@dataclasses.dataclass(frozen=True)
class Keep:
    """What fd_walk_keep() gives."""

    places: Places
    at_y: int
    seed: int

    def line(self):
        return f"keep all {self.places.line()} {self.at_y} {self.seed}"

    def expected(self, oracle):
        first, stop = self.places.first, self.places.first + self.places.n
        out = np.empty(self.places.size, np.bool_)
        oracle.keep(out, first, stop, **self.places.arguments(self.seed))
        return answer(out[first:stop].view(np.uint8))


@dataclasses.dataclass(frozen=True)
class Work:
    """An operation: of a kernel that draws or takes given keep bits, or of fd_walk()."""

    kind: str
    places: Places
    op: Operation
    dtype: str
    at_x: int
    at_other: int
    at_bias: int
    at_y: int
    period: int
    bias_at: int
    scale: float
    shift: float
    fill: float
    stream: int
    wild: int
    seed: int

    def line(self):
        places = self.places
        head = {
            "draw": f"{places.key} {places.call} {places.threshold} {places.offset} {places.n}",
            "apply": f"{places.offset} {places.n}",
            "walk": places.line(),
        }
        numbers = " ".join(float(number).hex() for number in (self.scale, self.shift, self.fill))
        arrays = f"{self.at_x} {self.at_other} {self.at_bias} {self.at_y} {self.period} {self.bias_at}"
        work = f"{self.op.name.lower()} {self.dtype} {arrays} {numbers} {self.stream} {self.wild} {self.seed}"
        return f"{self.kind} all {head[self.kind]} {work}"

    def expected(self, oracle):
        first, n, size = self.places.first, self.places.n, self.places.size

        def array(bit, seed):
            whole = np.zeros(size, DTYPES[self.dtype][0])
            whole[first : first + n] = elements(n, self.dtype, seed, self.wild & bit)
            return whole

        x = array(1, self.seed)
        other = x if self.at_x == self.at_other == IN_PLACE else array(2, self.seed + 2)
        bias = elements(self.period, self.dtype, self.seed + 3, self.wild & 4)
        out = np.empty_like(x)
        oracle.apply(
            *(x, out, first, first + n),
            **self.places.arguments(self.seed),
            scale=self.scale,
            op=self.op,
            other=other if self.op in WITH_OTHER else None,
            # The reference counts from element 0 of the array, and the core from where its operands begin.
            bias=np.roll(bias, (first - self.bias_at) % self.period) if self.op == Operation.BIAS_DROPOUT_ADD else None,
            shift=self.shift,
            fill=self.fill,
        )
        return answer(out[first : first + n].view(DTYPES[self.dtype][1]))


IN_PLACE = -1
ADDING = (Operation.DROPOUT_ADD, Operation.BIAS_DROPOUT_ADD)
WITH_OTHER = (*ADDING, Operation.RELU_BACKWARD, Operation.ZONEOUT)
WITH_NORMALS = (Operation.GAUSSIAN_DROPOUT, Operation.GAUSSIAN_NOISE)

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
NUMBERS = (0.0, -0.0, -1.7580993408473766, 0.3, 1e-7, 70000.0)  # to shift by and to fill with; float16 holds not all
PERIODS = (32, 33, 47, 63, 64, 65, 100, 129, 1000, 5000)
LINE = 64  # bytes

# The tile of 2048 elements from CROWDED on, of key 0 and call 0: 22 of its elements are undecided after eight planes of
# TENTH, more than any instruction set takes at a time.
CROWDED = 351 * 2048


FAR = ((2, 2**33), (9, 2**20), (130, 1))

# Lengths and strides, as broadcasts and parts of masks have them: runs of the same decision, of successive ones, and
# rows that repeat; shorter and longer than the 1024 or 8192 elements from which a run goes to a kernel by itself, and
# than the 4096 whose bits are put together.
WALKS = (
    None,
    ((1, 1),),
    ((5000, 1),),
    ((5000, 0),),
    ((700, 3),),
    ((7, 900), (700, 1)),
    ((40, 33), (31, 1)),
    ((300, 1), (17, 0)),
    ((17, 0), (300, 1)),
    ((5, 1), (1023, 0)),
    ((5, 1), (1024, 0)),
    ((3, 1), (8191, 0)),
    ((3, 1), (8192, 0)),
    ((2, 1), (40_000, 0)),
    ((5, 1023), (1023, 1)),
    ((5, 1024), (1024, 1)),
    ((9, 0), (1023, 1)),
    ((9, 0), (1024, 1)),
    ((700, 0), (13, 1)),
    ((2, 100), (90, 0), (96, 1)),
    ((3, 40), (90, 0), (7, 1), (5, 0)),
    ((2, 4000), (9, 0), (50, 7)),
    ((6, 8), (4, 0), (8, 1), (33, 0)),
    ((3, 500), (5, 0), (7, 64), (64, 1)),
    ((4, 0), (3, 2), (1, 5), (2, 0), (2, 1), (130, 0)),
    ((2, 3), *((1, 7),) * 61, (3, 1), (5, 0)),
    FAR,
)

# Dense arrays in other orders of axes than C's: whole squares of 64 x 64, parts of them, and rows of few elements.
ACROSS = (
    ((64, 1), (64, 64)),
    ((128, 1), (192, 128)),
    ((100, 1), (70, 100)),
    ((3, 4000), (500, 1), (8, 500)),
    ((5, 1), (7, 5), (9, 35)),
    ((9, 7), (7, 1), (70, 63)),
    ((2, 1), (1000, 2)),
    ((65, 130), (2, 65), (65, 1)),
)


def make_requests():
    choose = random.Random(20)

    def draw(op, n):
        key, call, threshold = choose.choice(KEYS), choose.choice(CALLS), choose.choice(THRESHOLDS)
        return Draw(op, key, call, threshold, choose.choice(STARTS), n, choose.choice((0, choose.randrange(LINE))))

    def places(n, is_given, offset=None, dims=None, first=0):
        if offset is None:
            offset = choose.choice((0, 1, 7, 8, choose.randrange(3000)) if is_given else STARTS)
        how = choose.choice(KEYS), choose.choice(CALLS), choose.choice(THRESHOLDS)
        return Places(*how, offset, dims, is_given, first, n)

    def work(kind, where, op, dtype, stream, at_y=None):
        in_line = LINE // DTYPES[dtype][0].itemsize
        at_x, at_other, at_bias = (choose.choice((0, choose.randrange(in_line))) for _ in range(3))
        at_y = choose.choice((0, choose.randrange(in_line))) if at_y is None else at_y
        in_place = choose.randrange(3) == 0
        at_x = IN_PLACE if in_place else at_x
        at_other = IN_PLACE if choose.randrange(3) == 0 else at_other
        wild = choose.choice((1, 2, 4)) if op in ADDING else 7
        return Work(
            *(kind, where, op, dtype, at_x, at_other, at_bias, at_y),
            *(choose.choice(PERIODS), choose.choice((0, 1, choose.randrange(6000), 2**40 + choose.randrange(6000)))),
            *(choose.choice(SCALES), choose.choice(NUMBERS), choose.choice(NUMBERS)),
            *(stream, wild, choose.randrange(2**63)),
        )

    for n, op, _ in itertools.product(LENGTHS, ("bits", "bools"), range(4)):
        yield draw(op, n)
    for start, threshold in itertools.product(STARTS, THRESHOLDS):
        yield Draw("bits", KEYS[1], 3, threshold, start, 200)
    for start, n in itertools.product((CROWDED, CROWDED - 1, CROWDED - 2000), (2048, 4096)):
        yield Draw("bits", 0, 0, TENTH, start, n)
    for kind, op, (dtype, (floating, *_)) in itertools.product(("draw", "apply"), Operation, DTYPES.items()):
        if kind == "apply" and op in WITH_NORMALS:
            continue
        is_given = kind == "apply"
        for n in LENGTHS:
            yield work(kind, places(n, is_given), op, dtype, choose.randrange(2))
        for at_y, stream in itertools.product(range(LINE // floating.itemsize), (0, 1)):
            yield work(kind, places(300, is_given), op, dtype, stream, at_y)
    for dims, is_given, _ in itertools.product(WALKS, (False, True), range(3)):
        if is_given and dims == FAR:
            continue
        size = math.prod(length for length, _ in dims) if dims is not None else 5000
        for first, stop in ((0, size), sorted((choose.randrange(size), choose.randrange(size)))):
            where = places(stop - first, is_given, dims=dims, first=first)
            yield Keep(where, choose.choice((0, choose.randrange(LINE))), choose.randrange(2**63))
            # Where elements do not follow each other, each of them takes a kernel of normals a whole unit of 64.
            takes_normals = not is_given and (dims is None or dims[-1][1] == 1 or stop - first < 2000)
            op = choose.choice([op for op in Operation if takes_normals or op not in WITH_NORMALS])
            yield work("walk", where, op, choose.choice(list(DTYPES)), choose.randrange(2))

    for dims, _ in itertools.product((*WALKS, *ACROSS), range(3)):
        if dims not in (None, FAR):
            where = places(math.prod(length for length, _ in dims), is_given=True, dims=dims)
            yield Order(where, choose.choice((0, choose.randrange(LINE))), choose.randrange(2**63))


@pytest.fixture(scope="module")
def requests():
    return list(make_requests())


@pytest.fixture(scope="module")
def expected(requests):
    oracle = helpers.oracle()
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


@is_asked_for
@cases(ANSWERING)
def test_a_build_holds_the_instruction_sets_of_its_architecture(build, programs):
    assert tuple(kernels_of(programs(build))) == ALL[build].built


@is_asked_for
@cases(ANSWERING)
def test_every_kernel_gives_the_bits_of_the_reference(build, programs, requests, expected):
    assert_answers(programs(build), [request.line() for request in requests], expected)


@is_asked_for
@cases(ANSWERING)
def test_philox_gives_the_published_answers(build, programs):
    rows = [line.split() for line in (VECTORS / "philox4x32.txt").read_text().splitlines() if line[:1].isdigit()]
    assert len(rows) == 6
    lines = [" ".join(["philox all", row[0], *(f"0x{word}" for word in row[1:7])]) for row in rows]
    expected = [answer(np.array([int(word, 16) for word in row[7:]], np.uint32)) for row in rows]
    assert_answers(programs(build), lines, expected)


@is_asked_for
@cases(ANSWERING)
def test_masks_are_those_of_the_vectors(build, programs):
    vectors = json.loads((VECTORS / "stream_v1.json").read_text())["cases"]
    draws = [Draw("bits", int(v["key"], 16), v["call"], v["threshold"], v["start"], v["n"]) for v in vectors]
    expected = [answer(np.frombuffer(bytes.fromhex(v["keep_bits_little"]), np.uint8)) for v in vectors]
    assert_answers(programs(build), [draw.line() for draw in draws], expected)


@is_asked_for
@cases(THREADED)
def test_threads_may_look_up_and_run_kernels_at_once(build, programs):
    assert run([*programs(build), "threads", "8"]) == "agree\n"


@is_asked_for
@cases(ALL)
def test_the_pool_has_each_element_worked_on_once(build, programs):
    for callers in (1, 3):
        assert run([*programs(build), "share", str(callers)]) == "each once\n"


def test_the_crowded_tile_is_crowded():
    oracle = helpers.oracle()
    upper = TENTH >> 24
    not_below, not_above = (oracle.keep_bits(2048, 0, 0, (upper + i) << 24, CROWDED) for i in (0, 1))
    assert np.unpackbits(not_below & ~not_above).sum() == 22


@is_asked_for
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


@is_asked_for
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


@is_asked_for
@pytest.mark.parametrize("build", [*NATIVE, *CROSS])
def test_kernels_call_nothing_and_keep_no_state(build, objects):
    """They cannot fail, allocate or lock: what they call is what compilers put in, and nothing of theirs is zeroed."""
    if shutil.which("nm") is None:
        missing("nm is not installed")
    allowed = {"memcpy", "memset", "memmove", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    for path in objects(build):
        if path.stem.startswith("isa_"):
            symbols = [line.split()[-2:] for line in run(["nm", path]).splitlines()]
            assert {name for kind, name in symbols if kind == "U"} <= allowed, path.stem
            assert not {name for kind, name in symbols if kind in "bBcC"}, path.stem
