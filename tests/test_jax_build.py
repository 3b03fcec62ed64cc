# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop does not need JAX; fastdrop.jax says what it lacks, and one command builds what it needs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import helpers
import pytest
from peers import MISSING_PEERS

if "jax" in MISSING_PEERS:
    pytest.skip(f"jax: {MISSING_PEERS['jax']}", allow_module_level=True)

from fastdrop import _jax_build

MODULE = f"_ffi{sysconfig.get_config_var('EXT_SUFFIX')}"
COMMAND = "python -m fastdrop build-jax"
DROPS = (
    "import jax, fastdrop.jax; print(int((fastdrop.jax.dropout(jax.random.key(0), jax.numpy.ones(8), .5) == 0).sum()))"
)
WITHOUT_JAX = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
WITHOUT_CORE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "fastdrop._core":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(*arguments, package=helpers.PACKAGE, **variables):
    command = [sys.executable, "-W", "ignore", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), **variables}
    return subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, timeout=300)


def build(package, **variables):
    return run("-m", "fastdrop", "build-jax", package=package, **variables)


def last_line(result):
    """Of an import that has failed."""
    assert result.returncode == 1
    assert "During handling" not in result.stderr
    return result.stderr.splitlines()[-1]


@pytest.fixture
def package(tmp_path):
    """A copy of the package in which the module for XLA is not built, as in a wheel."""
    copy = tmp_path / "site" / "fastdrop"
    no_module = shutil.ignore_patterns("__pycache__", "_ffi*.so", "_ffi*.pyd")
    shutil.copytree(helpers.PACKAGE, copy, ignore=no_module)
    sources = helpers.PACKAGE.parent / "csrc"
    if sources.exists():
        shutil.copytree(sources, copy / "csrc")
    return copy


def test_importing_and_calling_fastdrop_does_not_import_jax():
    code = """
import sys, numpy, fastdrop, fastdrop.__main__
fastdrop.dropout(numpy.ones(5))
print([name for name in sys.modules if name.partition(".")[0] in ("jax", "jaxlib") or name.startswith("fastdrop.jax")])
"""
    result = run("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_without_jax_one_line_says_what_to_install():
    assert last_line(run("-c", WITHOUT_JAX + "import fastdrop.jax")) == (
        "ModuleNotFoundError: fastdrop.jax needs JAX, which is not installed: python -m pip install jax"
    )


def test_without_jax_the_command_says_what_to_install():
    code = WITHOUT_JAX + "from fastdrop._tools.command_line import main; sys.exit(main(['build-jax']))"
    result = run("-c", code)
    assert result.returncode == 2
    assert re.fullmatch(
        r"python -m fastdrop build-jax: error: JAX cannot be imported .*pip install jax\n", result.stderr
    )


def test_a_module_that_jax_itself_lacks_is_not_taken_for_jax():
    code = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            raise ModuleNotFoundError("No module named 'opt_einsum'", name="opt_einsum")

sys.meta_path.insert(0, Broken())
import fastdrop.jax
"""
    assert last_line(run("-c", code)) == "ModuleNotFoundError: No module named 'opt_einsum'"


def test_an_old_jax_is_refused():
    code = "import jax; jax.__version__ = '0.7.2'; import fastdrop.jax"
    assert last_line(run("-c", code)) == (
        "ImportError: fastdrop.jax needs JAX 0.8 or newer, got 0.7.2: python -m pip install -U jax"
    )


def test_without_the_compiled_core_it_says_so():
    assert last_line(run("-c", "import fastdrop.jax", FASTDROP_NO_EXTENSION="1")) == (
        "ImportError: fastdrop.jax needs fastdrop's compiled core, but FASTDROP_NO_EXTENSION=1 is set: unset it"
    )
    assert last_line(run("-c", WITHOUT_CORE + "import fastdrop.jax")) == (
        "ImportError: fastdrop.jax needs fastdrop's compiled core, but this build has none: reinstall fastdrop with a "
        "C compiler"
    )


def test_one_command_builds_what_is_missing(package):
    assert last_line(run("-c", "import fastdrop.jax", package=package)) == (
        f"ImportError: the module of fastdrop.jax for XLA is not built: {COMMAND}"
    )
    # Twice at once, and once more over what is there.
    command = [sys.executable, "-m", "fastdrop", "build-jax"]
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    options = {"cwd": package.parent, "env": environment, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    for process in both:
        assert process.communicate()[0] == f"built {package / 'jax' / MODULE}\n"
        assert process.returncode == 0
    assert build(package).returncode == 0
    assert sorted(path.name for path in (package / "jax").glob("*_ffi*")) == [MODULE]
    assert not list((package / "jax").glob(".build*"))
    assert run("-c", DROPS, package=package).stdout == run("-c", DROPS).stdout != ""


def test_where_the_package_is_not_to_be_written_to_there_is_a_cache(package, tmp_path):
    code = f"""
import os, sys
access = os.access
os.access = lambda path, mode: str(path) != {str(package / "jax")!r} and access(path, mode)
from fastdrop._tools.command_line import main
sys.exit(main(["build-jax"]))
"""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LOCALAPPDATA": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    result = run("-c", code, package=package, **cache)
    assert result.stderr == ""
    built = Path(result.stdout.removeprefix("built ").strip())
    assert built.is_file()
    assert built.is_relative_to(tmp_path)
    assert not built.is_relative_to(package)
    assert run("-c", DROPS, package=package, **cache).returncode == 0
    assert "is not built" in last_line(run("-c", DROPS, package=package, **{**cache, "XDG_CACHE_HOME": str(tmp_path)}))


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler -pipe", "no-such-compiler -pipe cannot be run"),
        ("false", r"false -O2 .* has failed"),
        (f"{sys.executable} -c 'import_error'", "NameError: name 'import_error' is not defined"),
    ],
)
def test_a_compiler_that_fails_is_quoted(package, compiler, message):
    result = build(package, CC=compiler)
    assert result.returncode == 2
    assert re.search(message, result.stderr), result.stderr
    assert not list((package / "jax").glob("*_ffi*"))


def test_the_compiler_is_the_one_of_the_environment_or_pythons(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(_jax_build.sysconfig, "get_config_var", {"CC": f"{sys.executable} -pthread"}.get)
    assert _jax_build._compiler() == [sys.executable, "-pthread"]
    monkeypatch.setattr(_jax_build.sysconfig, "get_config_var", {"CC": "gone-since-then -pthread"}.get)
    assert _jax_build._compiler() == ["cc"]
    monkeypatch.setenv("CC", "clang -O3")
    assert _jax_build._compiler() == ["clang", "-O3"]


def build_from(package, edit, tmp_path):
    """Build with changed headers."""
    import jax

    headers = tmp_path / "headers"
    shutil.copytree(Path(jax.ffi.include_dir()), headers / "xla_", symlinks=True)
    edit(package / "csrc" / "client.h", headers / "xla_" / "xla" / "ffi" / "api" / "c_api.h")
    code = f"""
import sys, jax
jax.ffi.include_dir = lambda: {str(headers / "xla_")!r}
from fastdrop._tools.command_line import main
sys.exit(main(["build-jax"]))
"""
    assert run("-c", code, package=package).returncode == 0


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_module_for_another_core_is_refused(package, tmp_path):
    build_from(package, lambda client, _: replaced(client, "FD_CLIENT_VERSION = 1", "FD_CLIENT_VERSION = 0"), tmp_path)
    line = last_line(run("-c", DROPS, package=package))
    assert line.startswith("ImportError: ")
    assert line.endswith(f"was built for another fastdrop: {COMMAND}")


def test_a_module_for_another_xla_is_refused_and_jax_goes_on(package, tmp_path):
    build_from(package, lambda _, api: replaced(api, "XLA_FFI_API_MINOR ", "XLA_FFI_API_MINOR 99"), tmp_path)
    line = last_line(run("-c", DROPS, package=package))
    assert re.search(r"was built for version 0\.99\d of XLA's interface, and the JAX [\d.]+ .* has 0\.\d+: ", line)
    assert line.endswith(COMMAND)
    code = "import jax\ntry:\n    import fastdrop.jax\nexcept ImportError:\n    print(jax.numpy.ones(3).sum())"
    assert run("-c", code, package=package).stdout == "3.0\n"


def test_a_module_that_is_no_library_is_refused(package):
    (package / "jax" / MODULE).write_bytes(b"no library")
    line = last_line(run("-c", DROPS, package=package))
    assert re.fullmatch(rf"ImportError: {re.escape(str(package))}.* cannot be loaded \(.*\): {COMMAND}", line)


# The threads of the process that XLA runs in


THREADS = """
import jax, fastdrop, fastdrop.jax, helpers
{}
x = jax.numpy.ones(1 << 22)
fastdrop.jax.dropout(jax.random.key(0), x).block_until_ready()
print(helpers.threads_in_pool({}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shows the names of threads")
@pytest.mark.parametrize(
    ("code", "variables", "helpers_expected"),
    [
        ("", {"FASTDROP_NUM_THREADS": "3"}, 2),
        ("", {"FASTDROP_NUM_THREADS": "1"}, 0),
        ("fastdrop.set_num_threads(4)", {"FASTDROP_NUM_THREADS": "1"}, 3),
        ("fastdrop.set_num_threads(1 << 40)", {}, 63),
        ("fastdrop.num_threads(3).__enter__()", {"FASTDROP_NUM_THREADS": "1"}, 2),
    ],
)
def test_as_many_threads_as_fastdrop_is_told(code, variables, helpers_expected):
    environment = {**helpers.environment(), **variables}
    program = THREADS.format(code, helpers_expected)
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.stdout == f"{helpers_expected}\n", result.stderr
