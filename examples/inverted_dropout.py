# SPDX-License-Identifier: BSD-3-Clause
"""Why are the kept elements divided by keep_prob? A net on points in the plane: dropout scaled, not scaled, and none.

A net of 2 -> 20 -> 3 -> 1 units (ReLU, ReLU, sigmoid) learns two classes of points by full-batch gradient descent, with
dropout of keep_prob 0.86 on both hidden layers:

    scaled       inverted dropout: what is kept is divided by keep_prob
    not scaled   what is kept stays as it is, and nothing is corrected at prediction either
    none         no dropout

The default run makes 30,000 steps with each, on points of two overlapping half moons, and takes about 6 seconds.

A well-known course exercise has this net, and a table of its results is found in many places, in which dropout, scaled,
ends at a cost of 0.061. With the exercise's data file and its masks this script prints the same table:

    python examples/inverted_dropout.py --data data.mat --frozen

What that table shows is not dropout. The exercise seeds its generator anew inside the forward pass, so all 30,000 steps
have the same two masks: each point is seen without the same units from beginning to end, and the net learns the points
with their holes. On the same data the cost of step 10,000 is 0.14 to 0.22 where masks are fresh at each step, as they
are here without --frozen.

With fresh masks, scaling hardly moves the accuracy on this task. In 16 runs, on both kinds of points, the accuracies
with and without it differed by 0.0001 on average, and by up to 0.0125 in either direction. A test point is right or not
by the sign of one number, which seldom changes when all hidden units are 1 / 0.86 times as large as in training. What
does change is how sure the net is of its answers: in 14 of the 16 runs the test points cost less with scaling.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from tqdm import tqdm

import fastdrop

Array: TypeAlias = npt.NDArray[np.float64]
Masks: TypeAlias = tuple[fastdrop.DropoutMask, fastdrop.DropoutMask]
Net: TypeAlias = dict[str, Array]

KEEP_PROB = 0.86
UNITS = (2, 20, 3, 1)
LEARNING_RATE = 0.3
VARIANTS = ("scaled", "not scaled", "none")


# The points


class Points(NamedTuple):
    """Where they are, (2, n), and their classes 0 and 1, (1, n)."""

    x: Array
    y: Array


def two_moons(rng: np.random.Generator, n: int) -> Points:
    """Two half circles that reach into each other, blurred until they overlap."""
    y = np.arange(n) % 2
    angle = rng.uniform(0.0, np.pi, n)
    x = np.where(y == 0, [np.cos(angle), np.sin(angle)], [1.0 - np.cos(angle), 0.5 - np.sin(angle)])
    return Points(x + 0.4 * rng.standard_normal((2, n)), y[np.newaxis].astype(np.float64))


def exercise_points(path: Path) -> tuple[Points, Points]:
    """Those of the exercise, for training and testing, from its MATLAB file."""
    from scipy.io import loadmat

    data = loadmat(path)
    train, test = (
        Points(np.ascontiguousarray(data[x].T, np.float64), np.ascontiguousarray(data[y].T, np.float64))
        for x, y in (("X", "y"), ("Xval", "yval"))
    )
    return train, test


# The masks: an endless iterator of a pair for each step


def fresh_masks(variant: str, n: int, seed: int) -> Iterator[Masks]:
    """New ones at each step."""
    key = fastdrop.PhiloxStream(seed).key
    rate = 0.0 if variant == "none" else 1.0 - KEEP_PROB
    scale = 1.0 if variant == "not scaled" else None  # None divides by keep_prob
    for step in itertools.count():
        yield (
            fastdrop.DropoutMask((UNITS[1], n), rate, key=key, call=2 * step, scale=scale),
            fastdrop.DropoutMask((UNITS[2], n), rate, key=key, call=2 * step + 1, scale=scale),
        )


def frozen_masks(variant: str, n: int) -> Iterator[Masks]:
    """The exercise's: the same two at each step, in the bits of its generator."""
    rng = np.random.RandomState(1)
    drawn = [rng.rand(units, n) for units in UNITS[1:3]]
    keep_prob = 1.0 if variant == "none" else KEEP_PROB
    rate = 1.0 - KEEP_PROB if variant == "scaled" else 0.0  # for a given mask the rate says the scale only
    first, second = (fastdrop.DropoutMask.from_array(numbers < keep_prob, rate) for numbers in drawn)
    return itertools.repeat((first, second))


# The net


def new_net() -> Net:
    """The exercise's weights at the beginning."""
    rng = np.random.RandomState(3)
    net = {}
    for layer, (fan_in, units) in enumerate(itertools.pairwise(UNITS), start=1):
        net[f"W{layer}"] = rng.randn(units, fan_in) / np.sqrt(fan_in)
        net[f"b{layer}"] = np.zeros((units, 1))
    return net


def train_step(net: Net, points: Points, masks: Masks) -> float:
    """One step of gradient descent, in place. Returns the cost before it."""
    x, y = points
    mask1, mask2 = masks
    m = y.size

    # Forward. What dropout leaves of a layer is what the next one sees.
    a1 = mask1.apply(np.maximum(net["W1"] @ x + net["b1"], 0.0))
    a2 = mask2.apply(np.maximum(net["W2"] @ a1 + net["b2"], 0.0))
    z3 = net["W3"] @ a2 + net["b3"]

    # Backward. A gradient passes where the unit was kept, with the same scale, and where ReLU was open.
    dz3 = sigmoid(z3) - y
    dz2 = mask2.backward(net["W3"].T @ dz3) * (a2 > 0.0)
    dz1 = mask1.backward(net["W2"].T @ dz2) * (a1 > 0.0)

    for layer, dz, below in ((1, dz1, x), (2, dz2, a1), (3, dz3, a2)):
        net[f"W{layer}"] -= LEARNING_RATE * (1.0 / m * (dz @ below.T))
        net[f"b{layer}"] -= LEARNING_RATE * (1.0 / m * dz.sum(axis=1, keepdims=True))
    return cost(z3, y)


def predict(net: Net, x: Array) -> Array:
    """The net without dropout: before the sigmoid, so above 0 for class 1."""
    a1 = np.maximum(net["W1"] @ x + net["b1"], 0.0)
    a2 = np.maximum(net["W2"] @ a1 + net["b2"], 0.0)
    return net["W3"] @ a2 + net["b3"]


def sigmoid(z: Array) -> Array:
    with np.errstate(over="ignore"):  # exp may be infinite: 1 / inf is the 0 that is meant
        return 1.0 / (1.0 + np.exp(-z))


def cost(z3: Array, y: Array) -> float:
    """Cross-entropy of sigmoid(z3), averaged over the points."""
    return float(1.0 / y.size * np.sum(np.logaddexp(0.0, (1.0 - 2.0 * y) * z3)))


def accuracy(z3: Array, y: Array) -> float:
    return float(np.mean((z3 > 0.0) == y))


# A run


class Run(NamedTuple):
    """A trained net, and the cost before each of its steps, with the masks of that step."""

    net: Net
    costs: list[float]


def train(points: Points, masks: Iterator[Masks], steps: int, tick: Callable[[], object]) -> Run:
    """Train from the beginning, with a tick for each step."""
    net = new_net()
    costs = []
    for step_masks in itertools.islice(masks, steps):
        costs.append(train_step(net, points, step_masks))
        tick()
    return Run(net, costs)


def table(runs: dict[str, Run], train_points: Points, test_points: Points, *, all_digits: bool) -> str:
    """A line for each variant, with its costs at three of its steps."""
    steps = len(runs[VARIANTS[0]].costs)
    shown = [0, steps // 3, 2 * steps // 3]
    width = 24 if all_digits else 15
    lines = [" " * 10 + "".join(f"{f'cost at {step}':>{width}}" for step in shown)]
    lines[0] += f"{'train accuracy':>17}{'test accuracy':>16}{'test cost':>12}"
    for variant, run in runs.items():
        costs = (repr(run.costs[step]) if all_digits else f"{run.costs[step]:.6f}" for step in shown)
        z_train, z_test = (predict(run.net, points.x) for points in (train_points, test_points))
        lines.append(
            f"{variant:<10}{''.join(f'{text:>{width}}' for text in costs)}{accuracy(z_train, train_points.y):>17.6f}"
            f"{accuracy(z_test, test_points.y):>16.6f}{cost(z_test, test_points.y):>12.6f}"
        )
    return "\n".join(lines)


def findings(runs: dict[str, Run], points: Points) -> str:
    """What the figures of the test points say, with the size of the differences that chance makes."""
    logits = {variant: predict(run.net, points.x) for variant, run in runs.items()}
    accuracies = {variant: accuracy(z, points.y) for variant, z in logits.items()}
    costs = {variant: cost(z, points.y) for variant, z in logits.items()}
    n = points.y.size
    p = accuracies["scaled"]
    lines = [f"Of {n} test points an accuracy near {p:.2f} has a standard error of {np.sqrt(p * (1.0 - p) / n):.4f}."]
    for one, other in (("scaled", "not scaled"), ("scaled", "none")):
        lines.append(
            f"{one} against {other}: {round(n * (accuracies[one] - accuracies[other])):+d} points right "
            f"({accuracies[one] - accuracies[other]:+.4f}), test cost {costs[one] - costs[other]:+.4f}"
        )
    return "\n".join(lines)


def plot(runs: dict[str, Run], train_points: Points, test_points: Points, path: Path | None) -> None:
    """The probability of class 1 all over the plane, for each net, and the costs along the training."""
    if path is not None:
        pyplot.switch_backend("agg")  # which needs no display
    figure, axes = pyplot.subplots(1, 4, figsize=(17, 4.4), layout="constrained")
    low, high = train_points.x.min(axis=1), train_points.x.max(axis=1)
    margin = 0.1 * (high - low)
    plane = np.meshgrid(*np.linspace(low - margin, high + margin, 200).T)
    places = np.stack([coordinate.ravel() for coordinate in plane])
    for (variant, run), axis in zip(runs.items(), axes, strict=False):
        z = predict(run.net, places).reshape(plane[0].shape)
        filled = axis.contourf(*plane, sigmoid(z), np.linspace(0.0, 1.0, 11), cmap="RdBu_r", alpha=0.6)
        axis.contour(*plane, z, [0.0], colors="black", linewidths=1.5)
        for label, color, marker in ((0, "tab:blue", "o"), (1, "tab:red", "s")):
            of_class = train_points.x[:, train_points.y[0] == label]
            axis.scatter(*of_class, s=14, color=color, marker=marker, edgecolors="white", linewidths=0.4)
        right = accuracy(predict(run.net, test_points.x), test_points.y)
        axis.set(title=f"{variant}: test accuracy {right:.3f}", xticks=[], yticks=[])
    figure.colorbar(filled, ax=axes[:3], label="probability of class 1", pad=0.01)
    for variant, run in runs.items():
        window = max(len(run.costs) // 100, 1)
        pieces = len(run.costs) // window
        means = np.reshape(run.costs[: pieces * window], (pieces, window)).mean(axis=1)
        axes[3].plot(window * (np.arange(pieces) + 0.5), means, label=variant)
    axes[3].set(title="cost in training", xlabel="step", ylim=(0.0, None))
    axes[3].legend()
    if path is None:
        pyplot.show()
    else:
        figure.savefig(path, dpi=100)
        print(f"\nThe plot is in {path}")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="the exercise's points (a MATLAB file) instead of two moons"
    )
    parser.add_argument("--frozen", action="store_true", help="the exercise's masks, the same two at each step")
    parser.add_argument("--seed", type=int, default=0, help="for the moons and the fresh masks (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the plot there, as PNG, instead of showing it")
    parser.add_argument("--quick", action="store_true", help="3,000 steps instead of 30,000")
    arguments = parser.parse_args()
    steps = 3_000 if arguments.quick else 30_000

    if arguments.data is not None:
        train_points, test_points = exercise_points(arguments.data)
    else:
        rng = np.random.default_rng(arguments.seed)
        train_points, test_points = two_moons(rng, 211), two_moons(rng, 2000)

    runs = {}
    n = train_points.y.size
    with tqdm(total=len(VARIANTS) * steps, unit="step", leave=False) as progress:
        for variant in VARIANTS:
            progress.set_description(variant)
            masks = frozen_masks(variant, n) if arguments.frozen else fresh_masks(variant, n, arguments.seed)
            runs[variant] = train(train_points, masks, steps, progress.update)

    print(f"Masks: {'the same two at each step' if arguments.frozen else 'fresh at each step'}\n")
    print(table(runs, train_points, test_points, all_digits=arguments.frozen))
    print(f"\n{findings(runs, test_points)}")
    if arguments.frozen:
        print("With masks that never change these are costs of nets that know the points with their holes: see --help.")
    plot(runs, train_points, test_points, arguments.plot)


if __name__ == "__main__":
    main()
