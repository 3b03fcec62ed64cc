# SPDX-License-Identifier: BSD-3-Clause
"""The whole extension, Cython's part too, under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

It is compiled with gcc beside a copy of the package and of the tests, some of which then run on it. Python and NumPy
are as they are: what they do with memory and locks, the sanitizers know from the calls of the C library. This takes
minutes, and runs only where FASTDROP_TEST_SANITIZERS=1 asks for it; what is missing then is a failure.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("FASTDROP_TEST_SANITIZERS") != "1", reason="takes minutes: asked for by FASTDROP_TEST_SANITIZERS=1"
)

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds

# Not optimized: compilers take minutes to optimize what they instrument.
FLAGS = [
    *("-O0", "-g1", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-pthread"),
    *("-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION", "-DNPY_TARGET_VERSION=NPY_2_0_API_VERSION"),
    *("-I", str(ROOT / "csrc"), "-I", np.get_include(), "-I", sysconfig.get_path("include")),
]
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RACES = ["-fsanitize=thread"]
LIBRARIES = {"memory": ("libasan.so", "libubsan.so"), "races": ("libtsan.so",)}
OPTIONS = {
    # Python keeps what it needs to its end. Without its own allocator every block has its guards.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "PYTHONMALLOC": "malloc",
    "TSAN_OPTIONS": "exitcode=66",
}

# Programs that must fail, or the sanitizer has seen nothing: beyond the end of an array, and two threads in one.
BEYOND = """
import numpy as np
import fastdrop
x = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (4096,))
fastdrop.dropout(x, 0.5, out=np.ones(4096, np.float32))
"""
TOGETHER = """
import threading
import numpy as np
import fastdrop
x = out = np.ones(1 << 18, np.float32)
threads = [threading.Thread(target=lambda: [fastdrop.dropout(x, 0.5, out=out) for _ in range(50)]) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run(command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, **options)


def succeed(command, **options):
    done = run(command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build with some flags, once; gives the folder with the package and the tests."""

    @functools.cache
    def build(*flags):
        folder = tmp_path_factory.mktemp("sanitized")
        core = folder / "_core.c"
        succeed([sys.executable, "-m", "cython", "-3", ROOT / "fastdrop" / "_core.pyx", "-o", core])

        def compiled(source):
            target = folder / f"{source.stem}.o"
            succeed(["gcc", *FLAGS, *flags, "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, [core, *sorted((ROOT / "csrc").glob("*.c"))]))
        ignore = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
        for name in ("fastdrop", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        extension = folder / "fastdrop" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        succeed(["gcc", "-shared", *flags, *objects, "-o", extension, "-lm"])
        return folder

    return build


def sanitized(folder, kind):
    """The environment and the beginning of the command of a program that runs there."""
    preloaded = [succeed(["gcc", f"-print-file-name={library}"]).strip() for library in LIBRARIES[kind]]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTDROP_")}
    environment = {**clean, **OPTIONS, "LD_PRELOAD": " ".join(preloaded), "PYTHONPATH": str(folder)}
    # Where addresses are drawn from more bits than gcc 13 and older know of, ThreadSanitizer does not start.
    fixed = ["setarch", platform.machine(), "-R"] if kind == "races" else []
    return [*fixed, sys.executable], {"env": environment, "cwd": folder}


def selected(*arguments):
    return ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def test_the_extension_is_clean_under_address_and_undefined_behavior_sanitizer(built):
    command, options = sanitized(built(*MEMORY), "memory")
    done = run([*command, "-c", BEYOND], **options)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer" in done.stderr
    succeed([*command, *selected("tests/test_survival.py", "tests/test_masks.py", "tests/test_shared.py")], **options)


def test_threads_are_clean_under_thread_sanitizer(built):
    command, options = sanitized(built(*RACES), "races")
    done = run([*command, "-c", TOGETHER], **options)
    assert done.returncode == 66
    assert "data race" in done.stderr
    # A child of a process with threads may not start any under ThreadSanitizer, which also needs more memory than some
    # tests leave, and makes calls so slow that none seems to follow another. All instruction sets share alike.
    left_out = "fork and not multiprocessing and not sent_to and not exit and not portable and not sse2 and not avx2"
    left_out += " and not can_be_had and not only_when"
    succeed([*command, *selected("tests/test_threads.py", "-k", f"not {left_out}")], **options)
    succeed([*command, *selected("tests/test_streams.py", "-k", "threads_that")], **options)
