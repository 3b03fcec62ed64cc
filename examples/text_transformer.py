# SPDX-License-Identifier: BSD-3-Clause
"""A transformer in PyTorch that learns to write as Python's manual does, with PyTorch's dropout and with fastdrop's.

    characters -> Embedding -> 2 x (attention, feedforward) -> the next character

Dropout at 0.1 stands after the embedding, on the weights of the attention and after it, in the feedforward net and
after it. The net has PyTorch's own modules and functions throughout; ``enable()`` around a step is all that makes their
dropout fastdrop's. The text is what ``help("topics")`` shows, which comes with Python.

Two nets that begin with the same weights take turns, step by step, on the same batches: one with each dropout. Their
masks differ, so their losses do too, by chance; what a step takes can be compared.

    python examples/text_transformer.py --processes 2

trains the same nets a second time by two processes, each of which has half of every batch. With ``shard``, a process
says which rows it holds and takes the same rows of the masks. So the net with fastdrop has the same losses as with one
process, to rounding. With PyTorch's dropout each process draws masks of its own, and the losses differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

from tqdm import tqdm

try:
    import torch
    from torch import Tensor, distributed, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit("This example needs PyTorch: python -m pip install torch")

import fastdrop.torch

P = 0.1
HEADS = 4
LAYERS = 2
KINDS = ("PyTorch", "fastdrop")

# The losses of float32 that are added in another order part slowly, as training makes differences grow.
ROUNDING = 1e-4


# The text


class Text(NamedTuple):
    """Characters as numbers."""

    train: Tensor
    test: Tensor
    alphabet: str


def manual() -> Text:
    """Python's manual, as far as ``help`` shows it. The last tenth is for the test."""
    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(text)))
    of_character = {character: number for number, character in enumerate(alphabet)}
    numbers = torch.tensor([of_character[character] for character in text])
    cut = len(numbers) * 9 // 10
    return Text(numbers[:cut], numbers[cut:], alphabet)


def excerpts(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(n, length) characters from each start on, and those that follow on them."""
    rows = text[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]


# The net


class Attention(nn.Module):
    """Each character looks at those before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.into(x).chunk(3, dim=-1))
        p = P if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a feedforward net, each added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width), nn.Dropout(P))
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(P),
            nn.Linear(4 * width, width),
            nn.Dropout(P),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feedforward(x)


class Writer(nn.Module):
    """(n, length) characters to (n, length, characters) logits of the next one."""

    def __init__(self, characters: int, width: int, length: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.dropout = nn.Dropout(P)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(LAYERS)), nn.LayerNorm(width))
        self.out = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.dropout(self.characters(x) + self.positions)))


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The sum over all characters."""
    return functional.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="sum")


# Training, as one of several processes or alone


class Size(NamedTuple):
    steps: int
    batch: int
    length: int
    width: int


class Trainee:
    """A net with one of the dropouts, and the state of the random numbers that are its own."""

    def __init__(self, kind: str, characters: int, size: Size, seed: int, rank: int, is_compiled: bool) -> None:
        self.kind = kind
        # What was compiled for one class is not taken for another. Those of one class share it, whatever was enabled.
        writer = type("Writer", (Writer,), {})
        torch.manual_seed(seed)
        net = writer(characters, size.width, size.length)
        # The ranks of fastdrop draw the same numbers, and each takes its part of a mask. PyTorch's cannot do that.
        torch.manual_seed(seed if kind == "fastdrop" else seed + rank)
        self.random = torch.get_rng_state()
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2e-3)
        self.net = torch.compile(net) if is_compiled else net

    def dropout(self) -> contextlib.AbstractContextManager[object]:
        return fastdrop.torch.enable() if self.kind == "fastdrop" else contextlib.nullcontext()

    def step(self, x: Tensor, y: Tensor, characters: int) -> tuple[float, float]:
        """Train once on the rows of this process, of a batch of so many characters. Returns the loss, and seconds."""
        torch.set_rng_state(self.random)
        with self.dropout():
            begin = time.perf_counter()
            self.optimizer.zero_grad()
            loss = loss_of(self.net, x, y) / characters
            loss.backward()
            loss = loss.detach()
            if distributed.is_initialized():
                gradients = [parameter.grad for parameter in self.parameters]
                sums = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
                distributed.all_reduce(sums)
                loss = sums[0]
                nn.utils.vector_to_parameters(sums[1:], gradients)
            self.optimizer.step()
            seconds = time.perf_counter() - begin
        self.random = torch.get_rng_state()
        return loss.item(), seconds


class Result(NamedTuple):
    """Of each kind: the loss of each step, the median of a step's seconds, the loss on the text for the test."""

    losses: dict[str, list[float]]
    seconds: dict[str, float]
    test: dict[str, float]


def train(size: Size, seed: int, is_compiled: bool, rank: int = 0, processes: int = 1) -> Result:
    """Train a net with each dropout, in turn."""
    text = manual()
    rows = range(size.batch * rank // processes, size.batch * (rank + 1) // processes)
    trainees = [Trainee(kind, len(text.alphabet), size, seed, rank, is_compiled) for kind in KINDS]
    losses: dict[str, list[float]] = {kind: [] for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    random = torch.Generator().manual_seed(seed)
    bar = tqdm(total=size.steps, unit="step", leave=False, disable=rank > 0, desc=f"{processes} at a time")
    with bar, fastdrop.torch.shard(rows.start, size.batch, count=len(rows)):
        for _ in range(size.steps):
            starts = torch.randint(len(text.train) - size.length, (size.batch,), generator=random)
            x, y = excerpts(text.train, starts[rows.start : rows.stop], size.length)
            for trainee in trainees:
                loss, time_taken = trainee.step(x, y, size.batch * size.length)
                losses[trainee.kind].append(loss)
                seconds[trainee.kind].append(time_taken)
            bar.set_postfix({kind: f"{found[-1]:.3f}" for kind, found in losses.items()}, refresh=False)
            bar.update()
    # The first steps warm up, or compile.
    medians = {kind: statistics.median(found[min(3, len(found) - 1) :]) for kind, found in seconds.items()}
    return Result(losses, medians, {trainee.kind: score(trainee.net, text.test, size.length) for trainee in trainees})


@torch.no_grad()
def score(net: nn.Module, text: Tensor, length: int) -> float:
    """The mean loss in inference, on excerpts from all over a text."""
    net.eval()
    x, y = excerpts(text, torch.linspace(0, len(text) - length - 1, 128).long(), length)
    return loss_of(net, x, y).item() / y.numel()


def work(rank: int, processes: int, size: Size, seed: int, is_compiled: bool, directory: str) -> None:
    """What each of several processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=(Path(directory) / "meeting").as_uri(), rank=rank, world_size=processes
    )
    result = train(size, seed, is_compiled, rank, processes)
    if rank == 0:
        (Path(directory) / "result").write_text(json.dumps(result))
    distributed.destroy_process_group()


def train_together(processes: int, size: Size, seed: int, is_compiled: bool) -> Result:
    """The same by several processes."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = (processes, size, seed, is_compiled, directory)
        torch.multiprocessing.spawn(work, arguments, nprocs=processes)
        return Result(*json.loads((Path(directory) / "result").read_text()))


# What comes out


def report(result: Result) -> str:
    """Losses along the way, and the time of a step."""
    lines = [f"{'steps':>10}{'loss, PyTorch':>18}{'loss, fastdrop':>18}"]
    steps = len(result.losses["fastdrop"])
    part = math.ceil(steps / 8)
    for first in range(0, steps, part):
        means = [statistics.fmean(result.losses[kind][first : first + part]) for kind in KINDS]
        lines.append(f"{f'{first + 1}-{min(first + part, steps)}':>10}" + "".join(f"{mean:18.4f}" for mean in means))
    lines.append(f"{'test':>10}" + "".join(f"{result.test[kind]:18.4f}" for kind in KINDS))
    own, ours = (1e3 * result.seconds[kind] for kind in KINDS)
    gain = f"{own / ours:.2f} times as fast"
    lines += ["", f"A step takes {own:.2f} ms with PyTorch's dropout and {ours:.2f} ms with fastdrop's: {gain}"]
    return "\n".join(lines)


def comparison(alone: Result, together: Result, processes: int) -> str:
    """Whether the curves are the same."""
    lines = [f"Losses of one process and of {processes}, from the same seed:"]
    for kind in KINDS:
        largest = max(abs(one - other) for one, other in zip(alone.losses[kind], together.losses[kind], strict=True))
        same = "the same, to rounding" if largest < ROUNDING else "not the same"
        lines.append(f"    {kind:10} differ by {largest:.1e} at most: {same}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="of each net (default: 300, with --quick 8)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="train by so many too, and compare")
    parser.add_argument("--seed", type=int, default=0, help="for weights, batches and masks (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile, which takes a while at first")
    parser.add_argument("--quick", action="store_true", help="small nets, few steps: seconds")
    arguments = parser.parse_args()
    steps = arguments.steps if arguments.steps is not None else 8 if arguments.quick else 300
    size = Size(steps, *((8, 32, 32) if arguments.quick else (16, 128, 128)))
    if steps < 1:
        parser.error(f"--steps must be at least 1, got {steps}")
    if not 1 <= arguments.processes <= size.batch:
        parser.error(f"--processes must be from 1 to {size.batch}, the rows of a batch, got {arguments.processes}")
    if arguments.processes > 1 and not distributed.is_available():
        parser.error("--processes needs a PyTorch with torch.distributed, which this one was built without")
    torch.set_num_threads(1)  # as each of several processes has

    text = manual()
    print(f"{len(text.train):,} characters to learn from, {len(text.alphabet)} different ones\n")
    alone = train(size, arguments.seed, arguments.compile)
    print(report(alone))
    if arguments.processes > 1:
        together = train_together(arguments.processes, size, arguments.seed, arguments.compile)
        print(f"\n{arguments.processes} processes:\n\n{report(together)}")
        print(f"\n{comparison(alone, together, arguments.processes)}")


if __name__ == "__main__":
    main()
