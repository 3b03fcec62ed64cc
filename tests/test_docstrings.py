# SPDX-License-Identifier: BSD-3-Clause
"""What docstrings say, holds: their examples run, and every function of the family and kind of mask has some."""

import doctest
import inspect
import re

import pytest
from peers import MISSING_PEERS, imported

import fastdrop

BESIDE_FAMILY = {
    "get_include",
    "get_num_threads",
    "mc_predict",
    "num_threads",
    "set_num_threads",
    "show_config",
    "stochastic",
}
OF_FAMILY = [
    name for name in fastdrop.__all__ if name.endswith("Mask") or (name.islower() and name not in BESIDE_FAMILY)
]


def examples():
    """The docstrings that have examples, of the package and of all that is public in it, methods too."""
    finder = doctest.DocTestFinder()
    found = finder.find(fastdrop.__doc__, "fastdrop", globs={})
    for name in fastdrop.__all__:
        found += finder.find(getattr(fastdrop, name), name, globs={})
    for peer in sorted({"dask", "jax", "thinc", "torch"} - MISSING_PEERS.keys()):
        client = imported(f"fastdrop.{peer}")
        found += finder.find(client.__doc__, f"fastdrop.{peer}", globs={})
        for name in client.__all__:
            found += finder.find(getattr(client, name), f"fastdrop.{peer}.{name}", globs={})
    return [pytest.param(test, id=test.name) for test in found if test.examples]


@pytest.mark.parametrize("test", examples())
def test_examples_run_and_give_what_they_show(test):
    report = []
    results = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


def test_every_function_of_the_family_and_every_mask_has_an_example():
    with_examples = {parameter.id for parameter in examples()}
    assert [name for name in OF_FAMILY if name not in with_examples] == []
    assert len(OF_FAMILY) == 25


@pytest.mark.parametrize("name", OF_FAMILY)
def test_a_docstring_names_every_parameter(name):
    other = {"dropout1d": "dropout2d", "dropout3d": "dropout2d", "AlphaMask": "DropoutMask"}.get(name, name)
    documented = inspect.getdoc(getattr(fastdrop, name)), inspect.getdoc(getattr(fastdrop, other))
    assert other == name or f"``{other}``" in documented[0]
    for parameter in inspect.signature(getattr(fastdrop, name)).parameters:
        # Alone or beside others, before a colon and the type or at the end of the line.
        assert re.search(rf"^(\w+, )*\*?{parameter}(, \w+)*( :|$)", documented[1], re.MULTILINE), parameter


def test_docstrings_in_torch_name_every_parameter(torch):
    """But for modules of ``torch.nn``'s names, which have its arguments."""
    client = imported("fastdrop.torch")
    for name in client.__all__:
        if not hasattr(torch.nn, name):
            documented = inspect.getdoc(getattr(client, name))
            for parameter in inspect.signature(getattr(client, name)).parameters:
                assert re.search(rf"^(\w+, )*\*?{parameter}(, \w+)*( :|$)", documented, re.MULTILINE), (name, parameter)


def test_docstrings_in_thinc_name_every_parameter(thinc):
    client = imported("fastdrop.thinc")
    for function in (client.Dropout, client.replace_dropout, client.FastdropOps.get_dropout_mask):
        documented = inspect.getdoc(function)
        for parameter in set(inspect.signature(function).parameters) - {"self"}:
            assert re.search(rf"^(\w+, )*{parameter}(, \w+)*( :|$)", documented, re.MULTILINE), (function, parameter)


def test_docstrings_in_dask_name_every_parameter(dask):
    client = imported("fastdrop.dask")
    for name in client.__all__:
        documented = inspect.getdoc(getattr(client, name))
        for parameter in inspect.signature(getattr(client, name)).parameters:
            assert re.search(rf"^(\w+, )*{parameter}(, \w+)*( :|$)", documented, re.MULTILINE), (name, parameter)
