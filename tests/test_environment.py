# SPDX-License-Identifier: BSD-3-Clause
"""What the environment asks for is what runs, or an error at import; never something else in silence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
from helpers import PACKAGE

import fastdrop

CORE = helpers.compiled()
COMPILED = CORE.supported() if CORE is not None else ()
KNOWN = ("portable", "sse2", "avx2", "avx512", "neon")

needs_core = pytest.mark.skipif(not COMPILED, reason="this build has no compiled core to choose in")

REPORT = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastdrop
    import fastdrop
config = fastdrop.show_config(mode="dicts")
y = fastdrop.dropout([1.0] * 300, 0.5, rng=fastdrop.PhiloxStream.from_key(0))
print(json.dumps({
    "running": config["running"],
    "threads": config["threads"],
    "warnings": [[warning.category.__name__, str(warning.message)] for warning in caught],
    "blamed": [warning.filename for warning in caught],
    "kept": [i for i, value in enumerate(y) if value],
}))
"""


# Which of the first 300 elements are kept by key 0 at rate 0.5, as the vectors have it.
VECTORS = json.loads((Path(__file__).parent / "vectors" / "stream_v1.json").read_text())["cases"]
FIRST = next(v for v in VECTORS if (int(v["key"], 16), v["call"], v["start"], v["n"], v["rate"]) == (0, 0, 0, 300, 0.5))
KEPT = [i for i in range(300) if bytes.fromhex(FIRST["keep_bits_little"])[i // 8] >> i % 8 & 1]


# An editable installation would find the modules that a copy of the package lacks.
ONLY_FROM_PATH = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
"""


def run(code=REPORT, path=PACKAGE.parent, **environment):
    """A fresh interpreter with these FASTDROP_ variables and no others, nor OpenMP's."""
    ours = ("FASTDROP_", "OMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-c", ONLY_FROM_PATH + code],
        env={**clean, "PYTHONPATH": str(path), **environment},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=60,
    )


def report(**arguments):
    result = run(**arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refusal(**arguments):
    """The last line of the traceback of an import that fails."""
    result = run("import fastdrop", **arguments)
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def without_core(tmp_path):
    """A copy of the package without its compiled module, as from a build without a compiler."""
    shutil.copytree(
        PACKAGE, tmp_path / "fastdrop", ignore=lambda _, names: [n for n in names if n.startswith("_core.")]
    )
    return tmp_path


# FASTDROP_ISA


@pytest.mark.parametrize(
    "isa",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in COMPILED, reason=f"{name} cannot run here"))
        for name in KNOWN
    ],
)
def test_the_instruction_set_that_is_asked_for_runs(isa):
    assert report(FASTDROP_ISA=isa)["running"] == isa


@needs_core
def test_the_fastest_instruction_set_runs_by_default_and_nothing_is_warned_of():
    found = report()
    assert (found["running"], found["warnings"]) == (COMPILED[-1], [])


@needs_core
@pytest.mark.parametrize("isa", ["avx9000", "AVX2", "avx2 ", "reference"])
def test_an_unknown_instruction_set_is_an_error_at_import(isa):
    message = refusal(FASTDROP_ISA=isa)
    assert message.startswith("ValueError: FASTDROP_ISA=" + repr(isa))
    assert ", ".join(COMPILED) in message


@needs_core
def test_an_instruction_set_of_another_machine_is_an_error_at_import():
    other = next(name for name in ("neon", "avx2") if name not in CORE.built())
    message = refusal(FASTDROP_ISA=other)
    assert message.startswith("ValueError: FASTDROP_ISA=" + repr(other))
    assert "this build does not have it" in message


@needs_core
def test_a_built_instruction_set_that_the_machine_cannot_run_is_an_error_and_never_called():
    # No machine of ours lacks one of them, so the answer of the detection is replaced for the import.
    last = CORE.built()[-1]
    code = (
        "import sys, types\n"
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        "import importlib.machinery, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('fastdrop._core', {CORE.__file__!r})\n"
        "core = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(core)\n"
        "less = types.SimpleNamespace(**{**vars(core), 'supported': lambda: core.built()[:-1]})\n"
        "sys.modules['fastdrop._core'] = less\n"
        "import fastdrop\n"
    )
    result = run(code, FASTDROP_ISA=last)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ValueError: FASTDROP_ISA={last!r}: this machine cannot run it")
    assert message.endswith(", ".join(CORE.built()[:-1]))


@pytest.mark.parametrize("variable", ["FASTDROP_ISA", "FASTDROP_NUM_THREADS", "FASTDROP_NO_EXTENSION"])
def test_an_empty_variable_is_as_none(variable):
    expected, found = report(), report(**{variable: ""})
    assert found == expected


# FASTDROP_NUM_THREADS


@pytest.mark.parametrize("threads", ["1", "3", "64"])
def test_the_number_of_threads_that_is_asked_for_is_used(threads):
    assert report(FASTDROP_NUM_THREADS=threads)["threads"] == int(threads)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the CPUs of a process cannot be set here")
def test_by_default_there_are_as_many_threads_as_cpus_that_the_process_may_use():
    usable = os.sched_getaffinity(0)
    assert report()["threads"] == len(usable)
    code = f"import os; os.sched_setaffinity(0, [{min(usable)}]); import fastdrop; print(fastdrop.get_num_threads())"
    assert run(code).stdout == "1\n"


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", " 2", "1_0", "²", "9" * 5000])
def test_a_number_of_threads_that_cannot_be_is_an_error_at_import(threads):
    message = refusal(FASTDROP_NUM_THREADS=threads)
    assert message.startswith("ValueError: FASTDROP_NUM_THREADS")
    assert "at least 1" in message
    assert threads in message


@pytest.mark.parametrize(("text", "threads"), [("3", 3), ("4,2", 4), (" 5 ", 5), ("1", 1), ("9" * 5, 99999)])
def test_openmps_number_of_threads_is_used_where_ours_is_not_set(text, threads):
    assert report(OMP_NUM_THREADS=text)["threads"] == threads
    assert report(OMP_NUM_THREADS=text, FASTDROP_NUM_THREADS="")["threads"] == threads
    assert report(OMP_NUM_THREADS=text, FASTDROP_NUM_THREADS="2")["threads"] == 2


@pytest.mark.parametrize("text", ["", "0", "-1", "four", "1.5", ",2", "²", "9" * 5000])
def test_a_number_of_threads_that_is_not_ours_and_cannot_be_is_as_none(text):
    assert report(OMP_NUM_THREADS=text)["threads"] == report()["threads"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the CPUs of a process cannot be set here")
def test_an_affinity_that_is_set_after_the_import_holds():
    code = f"""
import os
import fastdrop
os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])
print(fastdrop.get_num_threads(), fastdrop.show_config("dicts")["threads"])
"""
    assert run(code).stdout == "1 1\n"


V1 = {"proc/self/cgroup": "5:memory:/\n2:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n"}
V2 = {"proc/self/cgroup": "0::/user.slice/work\n"}
QUOTAS = {
    "version 2": ({**V2, "sys/fs/cgroup/user.slice/work/cpu.max": "150000 100000\n"}, 2),
    "version 2, less than one": ({**V2, "sys/fs/cgroup/user.slice/work/cpu.max": "5000 100000\n"}, 1),
    "version 2, none": ({**V2, "sys/fs/cgroup/user.slice/work/cpu.max": "max 100000\n"}, None),
    "version 2, of a group around": (
        {
            **V2,
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/user.slice/work/cpu.max": "max 100000\n",
        },
        3,
    ),
    "version 2, the tightest": (
        {
            **V2,
            "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/user.slice/work/cpu.max": "800000 100000\n",
        },
        2,
    ),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        {
            **V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, in a container": (
        {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n"},
        1,
    ),
    "version 1, none": (
        {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "nonsense": ({**V2, "sys/fs/cgroup/user.slice/work/cpu.max": "1 0 x\n", "sys/fs/cgroup/cpu.max": "5 0\n"}, None),
    "a line that is none": ({"proc/self/cgroup": "\n0:\n0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
    "no such system": ({}, None),
}


@pytest.mark.parametrize(("files", "cpus"), QUOTAS.values(), ids=QUOTAS)
def test_the_quota_of_a_container_is_read(files, cpus, tmp_path):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert helpers.cpu_quota(tmp_path) == cpus


def test_the_fewest_of_cpus_and_quota_hold(monkeypatch):
    helpers.give_quota(monkeypatch, None)
    cpus = fastdrop.get_num_threads()
    for quota in (1, cpus, cpus + 1):
        helpers.give_quota(monkeypatch, quota)
        assert fastdrop.get_num_threads() == min(quota, cpus)


# FASTDROP_NO_EXTENSION, and the compiled module missing or broken


def test_the_reference_runs_in_silence_where_it_is_asked_for():
    found = report(FASTDROP_NO_EXTENSION="1")
    assert (found["running"], found["warnings"]) == ("reference", [])


@needs_core
@pytest.mark.parametrize("value", ["0", ""])
def test_the_compiled_core_runs_where_the_reference_is_not_asked_for(value):
    assert report(FASTDROP_NO_EXTENSION=value)["running"] == COMPILED[-1]


@pytest.mark.parametrize("value", ["yes", "2", "true"])
def test_another_value_of_no_extension_is_an_error_at_import(value):
    message = refusal(FASTDROP_NO_EXTENSION=value)
    assert message.startswith("ValueError: FASTDROP_NO_EXTENSION")
    assert repr(value) in message
    assert "0 or 1" in message


def test_the_reference_together_with_an_instruction_set_is_an_error_at_import():
    message = refusal(FASTDROP_NO_EXTENSION="1", FASTDROP_ISA="portable")
    assert message.startswith("ValueError: FASTDROP_ISA='portable'")
    assert "FASTDROP_NO_EXTENSION=1" in message


def test_a_missing_core_is_warned_of_once_and_the_reference_runs(without_core):
    found = report(path=without_core)
    assert found["running"] == "reference"
    assert len(found["warnings"]) == 1
    assert found["blamed"] == ["<string>"], "the warning does not point to the import of fastdrop"
    category, message = found["warnings"][0]
    assert category == "RuntimeWarning"
    assert "NumPy reference" in message
    assert "FASTDROP_NO_EXTENSION=1" in message
    assert found["kept"] == KEPT


def test_a_missing_core_is_no_news_where_the_reference_is_asked_for(without_core):
    found = report(path=without_core, FASTDROP_NO_EXTENSION="1")
    assert (found["running"], found["warnings"]) == ("reference", [])


def test_a_missing_core_together_with_an_instruction_set_is_an_error_at_import(without_core):
    message = refusal(path=without_core, FASTDROP_ISA="portable")
    assert message.startswith("ValueError: FASTDROP_ISA='portable'")
    assert "no compiled core" in message


BROKEN = {
    "fails to load": ("raise ImportError('undefined symbol: PyUnknown')", "ImportError: undefined symbol: PyUnknown"),
    "needs a module that is missing": (
        "import no_such_module",
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "fails otherwise": ("raise RuntimeError('built for another NumPy')", "RuntimeError: built for another NumPy"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_core_is_an_error_at_import_and_not_a_missing_one(content, message, without_core):
    (without_core / "fastdrop" / "_core.py").write_text(content)
    assert refusal(path=without_core) == message


def test_a_broken_core_does_not_stop_who_asks_for_the_reference(without_core):
    (without_core / "fastdrop" / "_core.py").write_text(BROKEN["fails to load"][0])
    assert report(path=without_core, FASTDROP_NO_EXTENSION="1")["running"] == "reference"


def test_a_core_that_is_no_extension_module_is_an_error_at_import(without_core):
    (without_core / "fastdrop" / f"_core{'.pyd' if os.name == 'nt' else '.abi3.so'}").write_bytes(b"not a library")
    assert refusal(path=without_core).startswith("ImportError")


# Every implementation


@pytest.mark.parametrize("isa", ["reference", *KNOWN])
def test_every_choice_gives_the_same_mask(isa):
    if isa != "reference" and isa not in COMPILED:
        pytest.skip(f"{isa} cannot run here")
    choice = {"FASTDROP_NO_EXTENSION": "1"} if isa == "reference" else {"FASTDROP_ISA": isa}
    assert report(**choice)["kept"] == KEPT


def test_show_config_prints_what_it_returns(capsys):
    config = fastdrop.show_config(mode="dicts")
    capsys.readouterr()
    assert fastdrop.show_config() is None
    printed = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert list(printed) == list(config)
    assert printed["running"].strip() == config["running"] == helpers.running().name
    assert printed["threads"].strip() == str(fastdrop.get_num_threads())
    assert printed["fastdrop"].strip() == fastdrop.__version__


@pytest.mark.skipif(sys.platform == "win32", reason="the command is that of Unix compilers")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_program_in_c_that_is_compiled_with_our_sources_drops_what_we_drop(tmp_path):
    include = Path(fastdrop.get_include())
    program = Path(__file__).parent.parent / "examples" / "dropout_in_c.c"
    sources = [program, include / "dispatch.c", *sorted(include.glob("isa_*.c"))]
    executable = tmp_path / "dropout_in_c"
    options = ["-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", include, "-lm", "-o", executable]
    subprocess.run(["cc", *sources, *options], check=True)
    _, *lines = subprocess.run([executable], check=True, capture_output=True, text=True).stdout.splitlines()
    x = np.arange(1000, dtype=np.float32)
    mask = fastdrop.DropoutMask(1000, 0.25, key=2026, call=3)
    in_c = np.array([line.split() for line in lines], np.float32)
    np.testing.assert_array_equal(in_c, np.stack([mask.apply(x), mask.backward(np.ones_like(x))], axis=1))
