# SPDX-License-Identifier: BSD-3-Clause
"""What README.md says, holds: its code runs, and its figures are those of the measurement that it names."""

import re
from pathlib import Path

import markdown_pages
import numpy as np

from benchmarks import results, views

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_from_top_to_bottom(tmp_path):
    result = markdown_pages.run(ROOT / "README.md", tmp_path)
    assert list(result.printed.values()) == [""] * 4
    y, x, dx = (result.names[name] for name in ("y", "x", "dx"))
    np.testing.assert_array_equal(dx, y)  # x was ones, and so was the gradient
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert x.all()
    np.testing.assert_array_equal(result.names["dh"], result.names["h"])


def test_the_figures_are_those_of_the_measurement():
    """Written by python -m benchmarks.report, and by nobody's hand."""
    begin, end = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
    figures = README.partition(begin)[2].partition(end)[0]
    source = re.search(r"\]\((benchmarks/results/[^)]+\.json)\)", figures)[1]
    assert views.readme_figures(results.read(ROOT / source), source) == figures
