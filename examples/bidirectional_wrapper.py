# SPDX-License-Identifier: BSD-3-Clause
"""What ``output_keep_prob`` of a DropoutWrapper does to a bidirectional LSTM, and what it is equal to.

Two LSTM cells of 500 units, one going forward in time and one back, each in a DropoutWrapper that keeps half of its
outputs. These lie side by side, (time, batch, 1000), as the next layer would get them. The script checks that

1. the next layer sees dropped outputs, but the cells do not: what a cell takes from its step before is the state, and
   ``output_keep_prob`` leaves that alone;
2. the wrappers therefore are one dropout of the outputs side by side: the same bits if it gets the same masks, and the
   same distribution if it draws its own;
3. with ``variational_recurrent`` they are something else. One mask of shape (1, depth) serves all steps and the whole
   batch, so that what it does to a unit does not average out along the sequence.

    python examples/bidirectional_wrapper.py --plot bidirectional.png
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from nets import LSTMCell
from tqdm import tqdm

import fastdrop

Array: TypeAlias = npt.NDArray[Any]

UNITS = 500
KEEP_PROB = 0.5


class NotingWrapper(fastdrop.DropoutWrapper):
    """A DropoutWrapper that notes which of its outputs were kept, step by step."""

    def __init__(self, cell: Any, variational: bool, rng: fastdrop.PhiloxStream) -> None:
        super().__init__(cell, output_keep_prob=KEEP_PROB, variational_recurrent=variational, rng=rng)
        self.kept: list[Array] = []

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        result = super().__call__(x, state)
        assert self.masks is not None  # there has been a step
        self.kept.append(np.asarray(self.masks.output))
        return result


def bidirectional(cells: Sequence[Any], x: Array, states: Sequence[Any]) -> Array:
    """The outputs of two cells side by side, (time, batch, 2 * units), as their steps lie in time.

    The first cell goes through x, which has time as its first axis, from the first step to the last; the second back.
    """
    outputs = []
    for cell, in_order, state in zip(cells, (slice(None), slice(None, None, -1)), states, strict=True):
        steps = []
        for step in x[in_order]:
            y, state = cell(step, state)
            steps.append(y)
        outputs.append(np.stack(steps[in_order]))
    return np.concatenate(outputs, axis=2)


def of_wrappers(outputs: Array, variational: bool, rng: fastdrop.PhiloxStream) -> Callable[[], Array]:
    """What drops the outputs as wrappers do, anew at every call.

    No LSTM runs for it again. As what is dropped of an output does not reach the next step, the cells' outputs are the
    same every time, and cells that replay them do: their input is the number of the step.
    """
    wrappers = [
        fastdrop.DropoutWrapper(
            lambda t, state, y=y: (y[t], state),
            output_keep_prob=KEEP_PROB,
            variational_recurrent=variational,
            rng=own,
        )
        for y, own in zip(np.split(outputs, 2, axis=2), rng.spawn(2), strict=True)
    ]

    def dropped() -> Array:
        for wrapper in wrappers:
            wrapper.start_sequence()
        return bidirectional(wrappers, np.arange(len(outputs)), (None, None))

    return dropped


def side_by_side(outputs: Array, shared: bool, rng: fastdrop.PhiloxStream) -> Callable[[], Array]:
    """What drops the outputs with one call, anew at every call; ``shared``: one decision a unit."""
    noise_shape = (1, 1, None) if shared else None
    return lambda: fastdrop.dropout(outputs, keep_prob=KEEP_PROB, noise_shape=noise_shape, rng=rng)


def check(claim: str, holds: bool | np.bool_) -> None:
    """Say what was found, and end the script if it is not as claimed."""
    print(f"  {'yes' if holds else 'NO '}  {claim}")
    if not holds:
        sys.exit("This should not be.")


def compare_masks(cells: Sequence[LSTMCell], x: Array, states: Sequence[Any], streams: Sequence[Any]) -> list[Array]:
    """Wrapped cells against one dropout with the same masks; returns the masks of both forms."""
    plain = bidirectional(cells, x, states)
    noted = []
    for variational, stream in zip((False, True), streams, strict=True):
        wrappers = [NotingWrapper(cell, variational, own) for cell, own in zip(cells, stream.spawn(2), strict=True)]
        dropped = bidirectional(wrappers, x, states)
        kept = np.concatenate([wrappers[0].kept, wrappers[1].kept[::-1]], axis=2)
        noted.append(kept)
        name = "variational, " if variational else "new masks at each step, "
        at_once = fastdrop.DropoutMask.from_array(kept, 1.0 - KEEP_PROB).apply(plain)
        check(f"{name}the wrappers equal one dropout of the outputs side by side", np.array_equal(dropped, at_once))
        before_in_time, before_in_batch = np.mean(kept[1:] == kept[:-1]), np.mean(kept[:, 1:] == kept[:, :-1])
        print(f"       kept: {np.mean(kept):.3f} of the elements; decided as for the step before: {before_in_time:.3f}")
        print(f"       decided as for the sequence before in the batch: {before_in_batch:.3f}")
    wrappers = [fastdrop.DropoutWrapper(cell, state_keep_prob=KEEP_PROB, rng=streams[0]) for cell in cells]
    check(
        "with state_keep_prob the cells' own outputs are others",
        not np.allclose(bidirectional(wrappers, x, states), plain),
    )
    return noted


def compare_distributions(
    outputs: Array, weights: Array, streams: Sequence[Any], trials: int
) -> dict[str, tuple[Array, float]]:
    """What one unit of a next layer gets to see, ``mean over time of outputs[:, 0] @ weights``, under each dropout.

    Returns, by the name of the dropout, this number for each trial, and the standard deviation that it should have.
    """
    share = outputs[:, 0] * weights / len(outputs)  # of each output in that number
    # A share is multiplied by 1 / keep_prob or by 0: the variance of that is (1 - keep_prob) / keep_prob.
    odds = (1.0 - KEEP_PROB) / KEEP_PROB
    separate = math.sqrt(odds * np.sum(share**2))
    together = math.sqrt(odds * np.sum(share.sum(axis=0) ** 2))
    kinds = {
        "wrappers, new masks at each step": (of_wrappers(outputs, False, streams[0]), separate),
        "one dropout side by side": (side_by_side(outputs, False, streams[1]), separate),
        "wrappers, variational": (of_wrappers(outputs, True, streams[2]), together),
        "one dropout, noise_shape=(1, 1, None)": (side_by_side(outputs, True, streams[3]), together),
    }
    found = {}
    with tqdm(total=trials * len(kinds), desc="drawing", unit="mask", leave=False) as bar:
        for name, (dropped, deviation) in kinds.items():
            seen = np.empty(trials)
            for trial in range(trials):
                seen[trial] = np.mean(dropped()[:, 0] @ weights)
                bar.update()
            found[name] = seen, deviation
    return found


def plot(path: str | None, noted: Sequence[Array], found: dict[str, tuple[Array, float]], expected: float) -> None:
    """The masks of the first sequence as pictures, and the distributions."""
    if path is not None:
        pyplot.switch_backend("agg")  # which needs no display
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4.5), width_ratios=(1, 1, 1.5), layout="constrained")
    for panel, kept, title in zip(panels, noted, ("new masks at each step", "variational_recurrent"), strict=False):
        panel.imshow(kept[:, 0, :60].T, cmap="gray_r", vmin=0, vmax=1.6, aspect="auto", interpolation="nearest")
        panel.set(title=f"{title}\n(dark: kept)", xlabel="time step", ylabel="unit (the first 60)")
    width = 4 * max(deviation for _, deviation in found.values())
    bins = np.linspace(expected - width, expected + width, 50)
    for (name, (seen, _)), colour, line in zip(found.items(), "ccmm", ("-", ":", "-", ":"), strict=True):
        panels[2].hist(
            seen, bins, density=True, histtype="step", color=colour, linestyle=line, linewidth=1.8, label=name
        )
    panels[2].axvline(expected, color="gray", linewidth=0.8, label="without dropout")
    panels[2].set(title="what a unit of the next layer sees\n(mean over time)", xlabel="value", ylabel="density")
    panels[2].legend(loc="upper left", fontsize="small")
    panels[2].set_ylim(top=1.45 * panels[2].get_ylim()[1])  # room for the legend
    if path is None:
        pyplot.show()
    else:
        figure.savefig(path, dpi=100)
        print(f"\nThe plot is in {path}")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="output_keep_prob of a bidirectional LSTM, shown to be what it is")
    parser.add_argument("--quick", action="store_true", help="few steps and few trials: seconds")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and masks")
    parser.add_argument("--plot", metavar="PATH", help="write the plot there, as PNG, instead of showing it")
    arguments = parser.parse_args()
    time, batch, features, trials = (10, 2, 8, 100) if arguments.quick else (40, 8, 32, 2000)

    rng = np.random.default_rng(arguments.seed)
    streams = fastdrop.PhiloxStream(arguments.seed).spawn(6)
    cells = [LSTMCell(features, UNITS, rng=rng) for _ in range(2)]
    x = rng.standard_normal((time, batch, features), np.float32)
    states = [cell.zero_state(batch) for cell in cells]
    print(f"Bidirectional LSTM, 2 x {UNITS} units, {time} steps, {batch} sequences, output_keep_prob={KEEP_PROB}\n")

    print("With the same masks:")
    noted = compare_masks(cells, x, states, streams[:2])

    print(f"\nWith masks of their own, what a unit of the next layer sees on average over time, {trials} times:")
    outputs = bidirectional(cells, x, states)
    weights = rng.standard_normal(2 * UNITS).astype(np.float32)
    expected = float(np.mean(outputs[:, 0] @ weights))
    found = compare_distributions(outputs, weights, streams[2:], trials)
    print(f"  {'':38}  mean     standard deviation")
    print(f"  {'without dropout':38} {expected:7.4f}  0")
    for name, (seen, deviation) in found.items():
        print(f"  {name:38} {seen.mean():7.4f}  {seen.std(ddof=1):.4f}, by theory {deviation:.4f}")
    # A mean of n numbers is off by deviation / sqrt(n), their deviation by 1 / sqrt(2 n) of itself; five times that
    # comes about once in two million.
    for name, (seen, deviation) in found.items():
        mean_is_right = abs(seen.mean() - expected) < 5 * deviation / math.sqrt(trials)
        spread_is_right = abs(seen.std(ddof=1) / deviation - 1) < 5 / math.sqrt(2 * trials)
        check(f"{name}: mean and deviation are as they should", mean_is_right and spread_is_right)

    plot(arguments.plot, noted, found, expected)


if __name__ == "__main__":
    main()
