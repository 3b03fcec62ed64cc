# SPDX-License-Identifier: BSD-3-Clause
"""What README.md says, holds: its code runs, and its figures are those of the measurement that it names."""

import json
import re
import statistics
from pathlib import Path

import markdown_pages
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULT = re.search(r"\]\((benchmarks/results/[^)]+\.json)\)", README)


def test_the_code_runs_from_top_to_bottom(tmp_path):
    result = markdown_pages.run(ROOT / "README.md", tmp_path)
    assert list(result.printed.values()) == [""] * 4
    y, x, dx = (result.names[name] for name in ("y", "x", "dx"))
    np.testing.assert_array_equal(dx, y)  # x was ones, and so was the gradient
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert x.all()
    np.testing.assert_array_equal(result.names["dh"], result.names["h"])


def rows():
    """The cells of the table of sizes."""
    lines = re.findall(r"^\| (\d+ [KM]iB) \|(.*)\|$", README, re.MULTILINE)
    return {size: [cell.strip() for cell in cells.split("|")] for size, cells in lines}


def test_the_figures_are_those_of_the_measurement():
    record = json.loads((ROOT / RESULT[1]).read_text(encoding="utf-8"))
    groups = {group["name"]: {c["name"]: c["seconds"] for c in group["contenders"]} for group in record["groups"]}

    def ratio(group, one, other):
        pairs = zip(groups[group][one], groups[group][other], strict=True)
        return statistics.median(a / b for a, b in pairs if a is not None and b is not None)

    table = rows()
    assert set(table) == {"16 KiB", "1 MiB", "8 MiB", "64 MiB"}
    for size, (copy, slow, fast, recipe) in table.items():
        copy_us = statistics.median(groups[size]["copy"]) * 1e6
        assert float(copy) == pytest.approx(copy_us, rel=0.006)  # three digits are shown
        assert float(slow) == round(ratio(size, "dropout 0.1", "copy"), 2)
        assert float(fast) == round(ratio(size, "dropout 0.5", "copy"), 2)
        assert float(recipe) == round(ratio(size, "recipe 0.1", "dropout 0.1"))
