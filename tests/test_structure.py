# SPDX-License-Identifier: BSD-3-Clause
"""The package is built from the ground up: each module imports what stands below it, and nothing that needs it."""

import ast
import graphlib

import helpers

MODULES = {
    ".".join(path.relative_to(helpers.PACKAGE.parent).with_suffix("").parts): path
    for path in helpers.PACKAGE.rglob("*.py")
}


def imported(path):
    """The package's modules that a file imports, wherever in it that stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & (MODULES.keys() | {"fastdrop._core"}) or {node.module}
    return {name for name in found if name.partition(".")[0] == "fastdrop"}


def test_no_module_needs_one_that_needs_it():
    graph = {name: imported(path) for name, path in MODULES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # a circle is an error
    assert order.index("fastdrop._backend") < order.index("fastdrop._arguments") < order.index("fastdrop.__init__")


def test_no_module_imports_the_package_itself():
    assert {name for name, path in MODULES.items() if "fastdrop" in imported(path)} == set()


def test_the_package_itself_is_imports_and_names():
    tree = ast.parse((helpers.PACKAGE / "__init__.py").read_text())
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in rest[:-1])
    assert isinstance(rest[-1], ast.Assign)
    assert rest[-1].targets[0].id == "__all__"
    assert not [path.name for path in MODULES.values() if "noqa" in path.read_text()]
