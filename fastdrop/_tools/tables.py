# SPDX-License-Identifier: BSD-3-Clause
"""What was measured, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from fastdrop._tools.bounds import Bound
from fastdrop._tools.timing import NOISY, Group
from fastdrop._tools.units import format_ratio, format_speed, format_time


def size_table(groups: Iterable[Group], rates: Sequence[float]) -> str:
    """A row for each group. The columns of two rates fit in a line; more of them make more tables."""
    blocks = []
    for first in range(0, len(rates), 2):
        shown = rates[first : first + 2]
        titles = f"{'':10}{'np.copyto(y, x)':^18}" + "".join(f"   {f'rate {rate}':^33}" for rate in shown)
        columns = f"{'array':>10}{'time':>10}{'GB/s':>8}"
        columns += f"   {'time':>8}{'GB/s':>7}{'x copy':>8}{'x recipe':>10}" * len(shown)
        rule = f"{'':10} {'-' * 17}" + f"   {'-' * 33}" * len(shown)
        lines = [titles.rstrip(), rule, columns]
        for group in groups:
            copy = group["copy"]
            line = f"{group.name:>10}{format_time(copy.median):>10}{format_speed(copy.nbytes, copy.median):>8}"
            for rate in shown:
                name = f"dropout {rate}"
                ours = group[name]
                to_copy = format_ratio(group.ratio(name, "copy"))
                faster = format_ratio(group.ratio(f"recipe {rate}", name))
                line += f"   {format_time(ours.median):>8}{format_speed(ours.nbytes, ours.median):>7}"
                line += f"{to_copy:>8}{faster:>10}"
            lines.append(line)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def bounds_table(bounds: Iterable[Bound]) -> str:
    """A row for each bound."""
    bounds = list(bounds)
    lines = [f"{'case':<40}{'bound':<28}{'measured':>8}", "-" * 99]
    for bound in bounds:
        value = "   " if bound.value is None else f"{bound.value:>8.2f}   "
        lines.append(f"{bound.case:<40}{bound.text():<28}{value}{bound.verdict()}")
    measured = [bound for bound in bounds if bound.value is not None]
    lines.append(f"\n{sum(bool(bound.met) for bound in measured)} of {len(measured)} bounds met")
    return "\n".join(lines)


def rounds_text(groups: Sequence[Group]) -> str:
    """How many rounds there were, and how many were disturbed."""
    rounds = [group.rounds for group in groups]
    noisy = sum(len(group.noisy_rounds()) for group in groups)
    span = f"{min(rounds)}" if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
    text = f"medians of {span} rounds; noisy ones (baseline over {NOISY} x its best): {noisy} of {sum(rounds)}"
    worst = [group.name for group in groups if 4 * len(group.noisy_rounds()) > group.rounds]
    if worst:
        names = f"noisy in more than a quarter of the rounds: {', '.join(worst)}"
        text += "\n" + textwrap.fill(names, 100, subsequent_indent="  ")
    return text
