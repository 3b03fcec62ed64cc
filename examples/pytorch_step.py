# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a training step goes: a transformer block in PyTorch, with its own dropout and with fastdrop's.

The block is ``nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, norm_first=True)``, which is given a batch of
16 x 128 x 256. A step is the forward pass, the backward pass and SGD. Six kinds of steps take turns in one process:
without dropout (p = 0), with PyTorch's, and with fastdrop's, each in eager mode and compiled by ``torch.compile``.
Times are medians. What dropout costs is what a step takes longer than one without.

To measure takes about two minutes, of which the first is spent to compile:

    python examples/pytorch_step.py

To measure, and put the figures and the picture of docs/pytorch.md in the place of those that are there:

    python examples/pytorch_step.py --page docs/pytorch.md && python tests/markdown_pages.py docs/pytorch.md
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import statistics
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit("This example needs PyTorch: python -m pip install torch")

import fastdrop.torch

P = 0.1
BATCH, LENGTH, WIDTH, HEADS = 16, 128, 256, 4
BEGIN, END = "<!-- step: begin -->\n", "<!-- step: end -->\n"


class Kind(NamedTuple):
    """A kind of step."""

    name: str
    p: float
    is_enabled: bool
    is_compiled: bool


KINDS = [
    Kind(name, p, is_enabled, is_compiled)
    for mode, is_compiled in (("eager", False), ("compiled", True))
    for name, p, is_enabled in (
        (f"{mode}, no dropout", 0.0, False),
        (f"{mode} PyTorch", P, False),
        (f"{mode}, enable()", P, True),
    )
]


class Trainee:
    """A block, and how it is trained."""

    def __init__(self, kind: Kind, batch: int, length: int) -> None:
        self.kind = kind
        # What was compiled for one class is not taken for another. Those of one class share it, whatever was enabled.
        block = type("Block", (nn.TransformerEncoderLayer,), {})
        torch.manual_seed(0)
        net = block(WIDTH, HEADS, 4 * WIDTH, dropout=kind.p, norm_first=True, batch_first=True)
        self.x, self.target = torch.randn(2, batch, length, WIDTH)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        self.net = torch.compile(net, fullgraph=True) if kind.is_compiled else net

    def step(self) -> float:
        """Train once. Returns the seconds that it takes."""
        with fastdrop.torch.enable() if self.kind.is_enabled else contextlib.nullcontext():
            begin = time.perf_counter()
            loss: Tensor = nn.functional.mse_loss(self.net(self.x), self.target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return time.perf_counter() - begin


def measure(rounds: int, batch: int, length: int) -> dict[str, float]:
    """The median of each kind of step, in milliseconds."""
    trainees = [Trainee(kind, batch, length) for kind in KINDS]
    times: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
    warm_up = 2
    with tqdm(total=(warm_up + rounds) * len(KINDS), unit="step", leave=False) as bar:
        for n in range(warm_up + rounds):
            for trainee in trainees:
                bar.set_description(trainee.kind.name if n else f"first step, {trainee.kind.name}")
                seconds = trainee.step()
                if n >= warm_up:
                    times[trainee.kind.name].append(1e3 * seconds)
                bar.update()
    return {name: statistics.median(found) for name, found in times.items()}


def report(medians: dict[str, float]) -> str:
    """A line for each kind of step, and how much faster a step becomes."""
    lines = [f"{'':24}{'step':>12}{'of which dropout':>20}"]
    for mode in ("eager", "compiled"):
        rest = medians[f"{mode}, no dropout"]
        for kind in KINDS:
            if kind.name.startswith(mode):
                whole = medians[kind.name]
                share = f"{whole - rest:.2f} ms {1 - rest / whole:4.0%}" if kind.p else ""
                lines.append(f"{kind.name:24}{whole:>9.2f} ms{share:>20}")
    lines += [
        f"{mode}: enable() makes the step {medians[f'{mode} PyTorch'] / medians[f'{mode}, enable()']:.2f} times as fast"
        for mode in ("eager", "compiled")
    ]
    return "\n".join(lines)


def processor() -> str:
    with contextlib.suppress(OSError):  # only Linux has the file
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def description(threads: int, rounds: int) -> str:
    """How it was measured, and where."""
    return (
        f"float32, {'one thread' if threads == 1 else f'{threads} threads'}, on {processor()} with Python "
        f"{platform.python_version()} and PyTorch {torch.__version__}: medians of {rounds} rounds"
    )


def of_page(medians: dict[str, float], threads: int, rounds: int) -> str:
    """The figures as they stand on the page, which draws its picture of them."""
    how = f"{description(threads, rounds)}, in each of which the kinds of steps take turns."
    lines = [
        f'    "{kind.name}": ({medians[kind.name]:.2f}, {medians[KINDS[3 * kind.is_compiled].name]:.2f}),'
        for kind in KINDS
        if kind.p
    ]
    return "\n".join(
        [
            textwrap.fill(how, width=120),
            "",
            "```python",
            "step = {  # milliseconds: with dropout, and without",
            *lines,
            "}",
            "```",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="steps of each kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch and fastdrop (default: %(default)s)")
    parser.add_argument("--page", type=Path, metavar="PATH", help="put the figures into this page")
    parser.add_argument("--quick", action="store_true", help="3 rounds with a batch of 4 x 32, to see that it runs")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    rounds, batch, length = (3, 4, 32) if arguments.quick else (arguments.rounds, BATCH, LENGTH)

    medians = measure(rounds, batch, length)
    print(f"A pre-norm transformer block, {batch} x {length} x {WIDTH}, p = {P}")
    print(f"{description(arguments.threads, rounds)}\n\n{report(medians)}")
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        figures = BEGIN + of_page(medians, arguments.threads, rounds) + END
        text, found = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: figures, text, flags=re.DOTALL)
        if found != 1:
            sys.exit(f"{arguments.page} must have one part between {BEGIN.strip()} and {END.strip()}, got {found}")
        arguments.page.write_text(text, encoding="utf-8")
        print(f"\nThe figures are in {arguments.page}")


if __name__ == "__main__":
    main()
