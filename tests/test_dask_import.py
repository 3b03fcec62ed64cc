# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop needs neither Dask nor xarray: who asks for fastdrop.dask imports Dask, and nobody imports xarray."""

import importlib.util
import subprocess
import sys

import helpers
import pytest

NEEDS_DASK = pytest.mark.skipif(importlib.util.find_spec("dask") is None, reason="dask: not installed")
INSTALL = 'python -m pip install --upgrade "dask[array,distributed]" xarray'

# A finder of modules that lacks some of them.
WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code):
    arguments = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(arguments, env=helpers.environment(), capture_output=True, text=True, timeout=120)


def last_line(code):
    result = run(code)
    assert result.returncode == 1
    assert "During handling" not in result.stderr  # nor that of the import within
    return result.stderr.splitlines()[-1]


def test_importing_and_calling_fastdrop_does_not_import_dask():
    code = """
import sys, numpy, fastdrop, fastdrop.__main__
fastdrop.dropout(numpy.ones(5))
found = [name for name in sys.modules if name.partition(".")[0] in ("dask", "distributed", "xarray")]
print(found + [name for name in sys.modules if name.startswith("fastdrop.dask")])
"""
    result = run(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_without_dask_one_line_says_what_to_install():
    assert last_line(WITHOUT.format(missing="dask") + "import fastdrop.dask") == (
        f"ModuleNotFoundError: fastdrop.dask needs Dask's arrays, and dask is not installed: {INSTALL}"
    )


@NEEDS_DASK
def test_dask_without_what_its_arrays_need_is_told_from_none():
    line = last_line(WITHOUT.format(missing="toolz") + "import fastdrop.dask")
    assert line == f"ModuleNotFoundError: fastdrop.dask needs Dask's arrays, and toolz is not installed: {INSTALL}"


def test_without_dask_fastdrop_itself_works():
    code = WITHOUT.format(missing="dask") + "import numpy, fastdrop; print(fastdrop.dropout(numpy.ones(1), 0))"
    assert run(code).stdout == "[1.]\n"


@NEEDS_DASK
def test_a_dask_that_is_too_old_is_refused():
    line = last_line("import dask; dask.__version__ = '2024.12.1'; import fastdrop.dask")
    assert line == f"ImportError: fastdrop.dask needs dask 2025.1 or newer, got 2024.12.1: {INSTALL}"


@NEEDS_DASK
def test_neither_xarray_nor_distributed_is_imported_or_needed():
    code = WITHOUT.format(missing="xarray") + WITHOUT.format(missing="distributed") + "import dask.array as da\n"
    code += "import fastdrop.dask; print(fastdrop.dask.dropout(da.ones(3), 1.0).compute(scheduler='synchronous'))"
    result = run(code)
    assert (result.stdout, result.stderr) == ("[0. 0. 0.]\n", "")


@NEEDS_DASK
@pytest.mark.skipif(importlib.util.find_spec("xarray") is None, reason="xarray: not installed")
def test_an_xarray_that_is_too_old_is_refused():
    code = "import xarray, fastdrop.dask; xarray.__version__ = '2023.1.0'\n"
    line = last_line(code + "fastdrop.dask.dropout(xarray.DataArray([1.0]), 0.5)")
    assert line == f"ImportError: fastdrop.dask needs xarray 2024.7 or newer, got 2023.1.0: {INSTALL}"
