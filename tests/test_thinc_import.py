# SPDX-License-Identifier: BSD-3-Clause
"""Who asks for fastdrop.thinc imports it: by its name, or by what thinc finds where fastdrop is installed."""

import pytest
from thinc_helpers import installed, run

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "thinc":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_importing_and_calling_fastdrop_does_not_import_thinc():
    code = """
import sys, numpy, fastdrop, fastdrop.__main__
fastdrop.dropout(numpy.ones(5))
print([name for name in sys.modules if name.partition(".")[0] == "thinc" or name.startswith("fastdrop.thinc")])
"""
    result = run(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_without_thinc_one_line_says_what_to_install():
    result = run(BLOCKED + "import fastdrop.thinc")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: fastdrop.thinc needs thinc, which is not installed: python -m pip install thinc"
    )
    assert "During handling" not in result.stderr  # nor that of the import within


def test_a_module_that_thinc_itself_lacks_is_not_taken_for_thinc():
    result = run(BLOCKED.replace('"thinc"', '"catalogue"') + "import fastdrop.thinc")
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'catalogue'"


@pytest.mark.parametrize("version", ["8.2.5", "7.4.6"])
def test_an_older_thinc_is_refused(version, tmp_path):
    """Of which no more is imported than says so: built for another NumPy, it would say something else."""
    (tmp_path / "thinc").mkdir()
    (tmp_path / "thinc" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    result = run("import fastdrop.thinc", tmp_path)
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: fastdrop.thinc needs thinc 8.3 or newer, got {version}: python -m pip install -U thinc"
    )


@pytest.mark.parametrize("first", ["import fastdrop.thinc", "import thinc.api"])
def test_where_fastdrop_is_installed_thinc_finds_it_by_name(first, tmp_path):
    code = f"""
import sys
{first}
from thinc.api import get_current_ops, get_ops, registry
print("fastdrop.thinc" in sys.modules)
print(registry.layers.get("fastdrop.Dropout.v1").__module__)
print(type(get_ops("fastdrop")).__name__, get_ops("fastdrop").name, type(registry.ops.get("FastdropOps")()).__name__)
print(type(get_ops("cpu")).__name__ == type(get_current_ops()).__name__ == registry.ops.get("NumpyOps").__name__)
"""
    result = run(code, installed(tmp_path))
    assert result.stderr == ""
    assert result.stdout.split() == [
        str("fastdrop" in first),
        *("fastdrop.thinc", "FastdropOps", "fastdrop", "FastdropOps", "True"),
    ]


@pytest.mark.parametrize(("module", "name"), [("thinc_apple_ops", "AppleOps"), ("thinc_bigendian_ops", "BigEndianOps")])
def test_our_ops_are_based_on_those_that_thinc_would_take(module, name, tmp_path):
    (tmp_path / f"{module}.py").write_text(f"""
from thinc.api import NumpyOps, registry

@registry.ops("{name}")
class {name}(NumpyOps):
    name = {name.lower().removesuffix("ops")!r}
""")
    code = """
import fastdrop.thinc
from thinc.api import get_ops
print(type(get_ops("cpu")).__name__, fastdrop.thinc.FastdropOps.__base__.__name__, get_ops("fastdrop").name)
"""
    result = run(code, tmp_path)
    assert result.stderr == ""
    base = "NumpyOps" if name == "AppleOps" and has_ops_of_apple() else name
    assert result.stdout.split() == [base, base, "fastdrop"]


def has_ops_of_apple():
    """Whether thinc has them itself, so that it asks no other package."""
    return run("from thinc.compat import has_apple_ops").returncode == 0
