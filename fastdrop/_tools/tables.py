# SPDX-License-Identifier: BSD-3-Clause
"""What was measured, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from fastdrop._tools.bounds import Bound
from fastdrop._tools.timing import NOISY, Group
from fastdrop._tools.units import format_ratio, format_speed, format_time


def size_table(groups: Sequence[Group], rates: Sequence[float], width: int) -> str:
    """A row for each group. Rates that do not fit in the width make more tables."""
    blocks = []
    beside = max((width - 28) // 36, 1)
    for first in range(0, len(rates), beside):
        shown = rates[first : first + beside]
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
    cases = max(len(bound.case) for bound in bounds) + 1
    texts = max(len(bound.text()) for bound in bounds) + 1
    lines = [f"{'case':<{cases}}{'bound':<{texts}}measured", "-" * 79]
    for bound in bounds:
        value = "" if bound.value is None else f"{bound.value:>6.2f}  "
        lines.append(f"{bound.case:<{cases}}{bound.text():<{texts}}{value}{bound.verdict()}")
    measured = [bound for bound in bounds if bound.value is not None]
    lines.append(f"\n{sum(bool(bound.met) for bound in measured)} of {len(measured)} bounds met")
    return "\n".join(lines)


def rounds_text(groups: Sequence[Group], width: int) -> str:
    """How many rounds there were, and how many were disturbed."""
    rounds = [group.rounds for group in groups]
    noisy = sum(len(group.noisy_rounds()) for group in groups)
    span = f"{min(rounds)}" if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
    lines = [f"medians of {span} rounds; noisy ones (baseline over {NOISY} x its best): {noisy} of {sum(rounds)}"]
    worst = [group.name for group in groups if 4 * len(group.noisy_rounds()) > group.rounds]
    if worst:
        lines.append(f"noisy in more than a quarter of the rounds: {', '.join(worst)}")
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ") for line in lines)
