# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop does not need PyTorch: it is imported by who asks for fastdrop.torch, and by nobody else."""

import subprocess
import sys

import helpers

WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=helpers.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_and_calling_fastdrop_does_not_import_torch():
    code = """
import sys, numpy, fastdrop, fastdrop.__main__
fastdrop.dropout(numpy.ones(5))
print([name for name in sys.modules if name.partition(".")[0] == "torch" or name.startswith("fastdrop.torch")])
"""
    result = run(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_without_torch_one_line_says_what_to_install():
    result = run(WITHOUT_TORCH + "import fastdrop.torch")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: fastdrop.torch needs PyTorch, which is not installed: python -m pip install torch"
    )
    assert "During handling" not in result.stderr  # nor that of the import within


def test_without_torch_the_error_can_be_caught_as_that_of_a_missing_torch():
    code = """
try:
    import fastdrop.torch
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(WITHOUT_TORCH + code).stdout == "torch\n"


def test_without_torch_fastdrop_itself_works():
    assert run(WITHOUT_TORCH + "import numpy, fastdrop; print(fastdrop.dropout(numpy.ones(1), 0))").stdout == "[1.]\n"


def test_a_module_that_torch_itself_lacks_is_not_taken_for_torch():
    """A broken installation of PyTorch says what it lacks, and not that PyTorch is not installed."""
    code = """
import sys, types

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'sympy'", name="sympy")

sys.meta_path.insert(0, Broken())
import fastdrop.torch
"""
    result = run(code)
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'sympy'"
