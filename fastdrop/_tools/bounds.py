# SPDX-License-Identifier: BSD-3-Clause
"""The bounds that the project sets itself, and what measures them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastdrop import _backend, _threads
from fastdrop._functions import dropout
from fastdrop._tools.arrays import bfloat16_dtype, placed, random_array
from fastdrop._tools.timing import RATES, Contender, Group, array_group
from fastdrop._tools.units import format_size


@dataclass
class Bound:
    """A bound that the project sets itself, and what was measured."""

    case: str
    limit: float
    unit: str
    group: str = ""
    contender: str = ""
    baseline: str = ""
    at_least: bool = False  # the limit is a number of times faster, not a number of times the baseline's time
    missing: str = ""  # why it cannot be measured here
    value: float | None = None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def evaluate(self, groups: dict[str, Group]) -> None:
        """Take the value from the groups that were measured."""
        if not self.missing and self.group not in groups:
            self.missing = "interrupted"
        if not self.missing:
            group = groups[self.group]
            pair = (self.baseline, self.contender) if self.at_least else (self.contender, self.baseline)
            self.value = group.ratio(*pair)

    def text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f} x {self.unit}"

    def verdict(self) -> str:
        if self.value is None:
            return f"not measured: {self.missing}"
        if self.met:
            return "met"
        percent = 100 * abs(self.value / self.limit - 1)
        return f"missed by {percent:.{1 if percent < 10 else 0}f} %"


def bounds_and_groups() -> tuple[list[Bound], dict[str, Group]]:
    """The bounds, float32 and one thread if they say nothing else, and the groups that measure them."""
    here = _backend.running.name
    float32 = np.dtype(np.float32)
    bounds: list[Bound] = []
    groups: dict[str, Group] = {}
    copies = (
        ("avx512", 1 << 20, (1.35, 1.12)),
        ("avx512", 8 << 20, (1.05, 1.0)),
        ("avx512", 64 << 20, (0.70, 0.58)),
        ("avx2", 1 << 20, (2.0, 1.15)),
    )
    for isa, nbytes, limits in copies:
        key = f"{isa} {format_size(nbytes)}"
        missing = "" if isa in _backend.names() else f"no {isa}"
        if not missing:
            groups[key] = array_group(random_array(nbytes, float32), RATES, isa, 1, with_recipe=False)
            groups[key].name = key
        for rate, limit in zip(RATES, limits, strict=True):
            case = f"{isa}, {format_size(nbytes)}, rate {rate}"
            bounds.append(Bound(case, limit, "copy", key, f"dropout {rate}", "copy", missing=missing))

    one = array_group(random_array(None, float32), RATES, here, 1, with_recipe=False)
    one.name = "one element"
    multiply = "np.multiply(x, c, out=y)"
    one.contenders[0] = Contender("multiply", multiply, one.contenders[0].names | {"c": 1.25}, 2 * one.nbytes, here)
    groups[one.name] = one
    for rate in RATES:
        case, limit = f"one element, rate {rate}", {0.1: 0.6, 0.5: 0.5}[rate]
        bounds.append(Bound(case, limit, "np.multiply", one.name, f"dropout {rate}", "multiply"))

    two = array_group(random_array(8 << 20, float32), RATES[:1], here, 1, with_recipe=False)
    two.name = "two threads"
    forward = two[f"dropout {RATES[0]}"]
    two.contenders.append(Contender("two threads", forward.statement, forward.names, forward.nbytes, here, threads=2))
    missing = "" if _threads._usable_cpus() >= 2 else "one CPU"
    if not missing:
        groups[two.name] = two
    case = f"two threads, 8 MiB, rate {RATES[0]}"
    bounds.append(
        Bound(case, 1.8, "one's speed", two.name, "two threads", forward.name, at_least=True, missing=missing)
    )

    kinds, kind_bounds = _kinds(here)
    groups[kinds.name] = kinds
    return bounds + kind_bounds, groups


def _kinds(isa: str) -> tuple[Group, list[Bound]]:
    """The backward pass and the other dtypes, beside the forward pass in float32, at 1 MiB of float32."""
    x = random_array(1 << 20, np.dtype(np.float32))
    group = array_group(x, RATES, isa, 1, with_recipe=False)
    group.name = "1 MiB, kinds"
    bounds = []
    bfloat16 = bfloat16_dtype()
    # As many bytes, and for the narrow ones as many elements.
    others: dict[str, tuple[str, np.ndarray | None]] = {
        "float64": ("1 MiB", placed(x[: x.size // 2].astype(np.float64))),
        "float16": ("512 KiB", placed(x.astype(np.float16))),
        "bfloat16": ("512 KiB", None if bfloat16 is None else placed(x.astype(bfloat16))),
    }
    for rate in RATES:
        forward = f"dropout {rate}"
        backward = f"backward {rate}"
        _, mask = dropout(x, rate, return_mask=True)
        names = {"mask": mask, "dy": x, "dx": group[forward].names["y"]}
        group.contenders.append(Contender(backward, "mask.apply(dy, out=dx)", names, 2 * x.nbytes, isa))
        # No figure comes with "as the forward pass": two equal times are rarely nearer than this to each other.
        case = f"mask.apply, 1 MiB, rate {rate}"
        bounds.append(Bound(case, 1.02, "dropout", group.name, backward, forward))
    for dtype, (length, array) in others.items():
        for rate in RATES:
            name = f"{dtype} {rate}"
            missing = "no ml_dtypes" if array is None else ""
            if array is not None:
                names = group["copy"].names | {"x": array, "y": placed(array)}
                statement = f"fastdrop.dropout(x, {rate}, out=y)"
                group.contenders.append(Contender(name, statement, names, 2 * array.nbytes, isa))
            case = f"{dtype}, {length}, rate {rate}"
            bounds.append(Bound(case, 1.0, "float32", group.name, name, f"dropout {rate}", missing=missing))
    return group, bounds
