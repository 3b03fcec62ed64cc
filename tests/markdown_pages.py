# SPDX-License-Identifier: BSD-3-Clause
"""Pages in Markdown whose code runs: README.md and those of docs/.

A page's ```python blocks run from top to bottom in one namespace. What one prints stands below it, in a ```text block.
A block that draws names pyplot and saves its figures beside the page; what it defines stays its own, so that the rest
of the page runs without matplotlib too. A block for PyTorch names torch, and one for Keras keras; without it the block
is skipped. The numbers that a figure shows are kept in its file, where tests find them: pixels depend on fonts and
versions, the numbers do not.

To write the outputs and figures of pages anew, after a look at what changed: ``python tests/markdown_pages.py PAGE...``
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import io
import json
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODE = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
METADATA = "Plotted"  # the entry of a PNG file

# Packages that not everybody has, and how code names them.
OPTIONAL = {
    "keras": re.compile(r"\bkeras\b"),
    "matplotlib": re.compile(r"\bpyplot\b"),
    "torch": re.compile(r"\btorch\b"),
}
MISSING = {package for package in OPTIONAL if importlib.util.find_spec(package) is None}


@dataclass(frozen=True)
class Block:
    """Code on a page, where it begins, and what stands below it as its output."""

    code: str
    line: int
    output: str

    @property
    def needs(self) -> set[str]:
        return {package for package, name in OPTIONAL.items() if name.search(self.code)}

    @property
    def draws(self) -> bool:
        return "matplotlib" in self.needs


@dataclass
class Run:
    """What the code of a page did."""

    names: dict[str, Any]
    printed: dict[int, str] = field(default_factory=dict)  # by the line where the block begins
    skipped: list[int] = field(default_factory=list)  # lines of blocks that need a package that is missing
    lacking: set[str] = field(default_factory=set)  # these packages


def blocks(text: str) -> list[Block]:
    """The code of a page, which must be all its ```python and ```text blocks."""
    matches = list(CODE.finditer(text))
    outputs = sum(match["output"] is not None for match in matches)
    if (len(matches), outputs) != (text.count("```python\n"), text.count("```text\n")):
        raise ValueError("each ```text block must be the output of a ```python block right above it")
    return [
        Block(match["code"], 1 + text.count("\n", 0, match.start("code")), match["output"] or "") for match in matches
    ]


def run(page: Path, directory: Path) -> Run:
    """Run the code of a page; its files go into the directory."""
    result = Run({"__name__": page.stem})
    parts = blocks(page.read_text(encoding="utf-8"))
    with contextlib.chdir(directory), contextlib.nullcontext() if "matplotlib" in MISSING else _drawing():
        for block in parts:
            if lacking := block.needs & MISSING:
                result.skipped.append(block.line)
                result.lacking |= lacking
                continue
            code = compile("\n" * (block.line - 1) + block.code, page, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, dict(result.names) if block.draws else result.names)
            result.printed[block.line] = printed.getvalue()
    return result


@contextlib.contextmanager
def _drawing():
    """Draw into files alone, in matplotlib's own style, with the numbers that a figure shows."""
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    save = Figure.savefig

    @functools.wraps(save)
    def save_with_numbers(figure, path, **options):
        packed = base64.b85encode(zlib.compress(json.dumps(_shown(figure)).encode(), 9)).decode()
        save(figure, path, metadata={METADATA: packed}, **options)

    Figure.savefig = save_with_numbers
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            pyplot.switch_backend("agg")
            yield
    finally:
        Figure.savefig = save
        pyplot.close("all")


def _shown(figure: Any) -> dict[str, list[Any]]:
    """What a figure shows: its words, and the numbers of its lines, images, bars and points."""
    words, numbers = [], []
    for axes in figure.axes:
        named = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        legend = axes.get_legend()
        named += legend.get_texts() if legend is not None else []
        words += [text.get_text() for text in named if text.get_text()]
        shown = [line.get_xydata() for line in axes.lines]
        shown += [image.get_array() for image in axes.images]
        shown += [patch.get_patch_transform().transform(patch.get_path().vertices) for patch in axes.patches]
        shown += [points.get_offsets() for points in axes.collections]
        numbers += [[float(f"{number:.6g}") for number in array.ravel()] for array in shown]
    return {"words": words, "numbers": numbers}


def plotted(path: Path) -> dict[str, list[Any]]:
    """What the figure in a PNG file shows, as it was noted when the file was made."""
    from PIL import Image

    with Image.open(path) as image:
        packed = image.info.get(METADATA)
    if packed is None:
        raise ValueError(f"{path.name} was not made by tests/markdown_pages.py: make it anew")
    return json.loads(zlib.decompress(base64.b85decode(packed)))


def rewrite(page: Path) -> None:
    """Put what the code prints and draws now in the place of what stands on the page and beside it."""
    result = run(page, page.parent)
    if result.skipped:
        sys.exit(f"{page} needs {' and '.join(sorted(result.lacking))}: install it, and nothing will be left out")
    printed = iter(result.printed.values())

    def with_output(match: re.Match[str]) -> str:
        output = next(printed)
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    page.write_text(CODE.sub(with_output, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        rewrite(Path(path))
