# SPDX-License-Identifier: BSD-3-Clause
"""What the pages of docs/ say, holds: their code runs, prints what stands below it, and draws the figures beside it."""

import re
from pathlib import Path

import markdown_pages
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]+)?\)")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # which torch.compile imports
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")  # that of Keras's variables
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "README"], ids=lambda page: page.stem)
def test_the_code_of_the_page_does_what_stands_there(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    result = markdown_pages.run(page, tmp_path)
    assert result.printed == {
        block.line: block.output for block in markdown_pages.blocks(text) if block.line not in result.skipped
    }
    if result.skipped:
        lacking = " and ".join(sorted(result.lacking))
        pytest.skip(f"without {lacking} {len(result.skipped)} of the page's blocks did not run; the others did")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {target for target, _ in LINK.findall(text) if target.endswith(".png")}
    for name in sorted(drawn):
        now, before = markdown_pages.plotted(tmp_path / name), markdown_pages.plotted(DOCS / name)
        assert now["words"] == before["words"]
        assert [len(numbers) for numbers in now["numbers"]] == [len(numbers) for numbers in before["numbers"]]
        for numbers, expected in zip(now["numbers"], before["numbers"], strict=True):
            # Another linear algebra library adds in another order, and training makes the differences grow.
            np.testing.assert_allclose(numbers, expected, rtol=1e-3, atol=1e-3)


def test_there_are_no_figures_but_those_of_the_pages():
    linked = {target for page in PAGES for target, _ in LINK.findall(page.read_text(encoding="utf-8"))}
    assert {path.name for path in DOCS.iterdir() if path.suffix != ".md"} == {
        target for target in linked if target.endswith(".png")
    }


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []
