# SPDX-License-Identifier: BSD-3-Clause
"""Runs of the benchmark suite that were never measured: their rounds are drawn, and what they must show is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np

KIB, MIB = 1 << 10, 1 << 20

ENVIRONMENT = {
    "fastdrop_format": 1,
    "fastdrop": "0.1.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "cpu": "Made-up CPU",
    "family": "1",
    "model": "2",
    "caches": {"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB},
    "cpus": 2,
    "isa": "avx2",
    "isas": ["portable", "sse2", "avx2"],
    "threads": 2,
    "python": "3.11.7",
    "numpy": "2.4.6",
    "platform": "Linux",
    "compiler": "GCC: 12.2.0",
    "flags": ["-O3"],
    "huge pages": "madvise",
    "load": {"first": 0.1, "mean": 0.5, "largest": 1.0, "last": 0.9},
    "stolen": 0.0,
    "seconds": 100.0,
    "set": "short",
    "complete": True,
    "failed": [],
    "skipped": [],
    "peers": {},
}


def about(**fields: Any) -> dict[str, Any]:
    usual = {
        "operation": "forward",
        "function": "dropout",
        "bytes": MIB,
        "dtype": "float32",
        "rate": 0.1,
        "planes": 8,
        "isa": "avx2",
        "threads": 1,
        "out": "given",
        "memory": 200,
        "peer": None,
        "axis": None,
    } | fields
    return {"elements": usual["bytes"] // 4, "moved": 2 * usual["bytes"]} | usual


def record(
    name: str,
    ratio: float,
    generator: np.random.Generator,
    *,
    passes: int = 4,
    rounds: int = 26,
    noise: float = 0.02,
    shift: float = 0.0,
    references: tuple[str, ...] = ("np.copyto",),
    bounds: tuple[dict[str, Any], ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    """A case that takes so many times as long as its references, as pytest-benchmark stores it.

    ``noise`` is the relative deviation of a round, ``shift`` that which a pass has in all of its rounds.
    """
    n = passes * rounds
    copies = 1e-4 * np.exp(0.02 * np.abs(generator.standard_normal((len(references), n))))
    of_pass = np.repeat(shift * generator.standard_normal(passes), rounds)
    seconds = ratio * copies[0] * np.exp(of_pass + noise * generator.standard_normal(n))
    return {
        "fullname": f"benchmarks/test_dropout.py::test_dropout[{name}]",
        "stats": {"data": seconds.tolist()},
        "extra_info": {
            "case": about(**fields),
            "bounds": list(bounds),
            "references": dict(zip(references, copies.tolist(), strict=True)),
            "passes": [rounds] * passes,
        },
    }


def document(records: list[dict[str, Any]], date: str = "2026-01-02T03:04:05", **environment: Any) -> dict[str, Any]:
    return {
        "machine_info": {"fastdrop": ENVIRONMENT | environment},
        "datetime": date,
        "benchmarks": records,
    }


def store(path: Path, records: list[dict[str, Any]], **options: Any) -> Path:
    path.write_text(json.dumps(document(records, **options)), encoding="utf-8")
    return path


def pytorch_records(seed: int = 0) -> list[dict[str, Any]]:
    """Cases with PyTorch's tensors: a step that spends 20 % on fastdrop's dropout, a dropout, and what it keeps."""
    generator = np.random.default_rng(seed)
    usual = {"client": "PyTorch", "out": "fresh", "moved": None, "memory": None}
    fast, slow = ({"name": "PyTorch", "over": {"PyTorch": 1}, "at_most": 1 / least} for least in (1.25, 12.0))
    step = record(
        "step", 1.25, generator, noise=0.0, operation="training step", function="A block", called="eager",
        references=("without dropout", "PyTorch"), bounds=(fast,), **usual,
    )  # fmt: skip
    times = step["extra_info"]["references"]
    times["PyTorch"] = [2 * seconds for seconds in times["without dropout"]]
    alone = record(
        "alone", 0.1, generator, operation="forward and backward", called="F.dropout with enable()", objects=460,
        references=("PyTorch",), bounds=(slow, {"name": "100 bytes", "memory": 100}), peer_memory=MIB,
        **usual | {"memory": 72},
    )  # fmt: skip
    layout = record(
        "layout", 0.5, generator, called="F.dropout with enable()", layout="channels_last", references=("PyTorch",),
        dtype="float16", threads=2, **usual,
    )  # fmt: skip
    return [step, alone, layout]


def report_records(seed: int = 0) -> list[dict[str, Any]]:
    """Enough cases for everything that a report shows, with a peer that wins and names that are markup."""
    generator = np.random.default_rng(seed)
    records = []

    def add(name: str, ratio: float, **options: Any) -> None:
        records.append(record(name, ratio, generator, **options))

    copy = {"name": "the copy", "over": {"np.copyto": 1}}
    for shift in range(0, 27, 2):
        for rate in (0.1, 0.5):
            references = ("np.copyto", "np.multiply") if shift == 0 else ("np.copyto",)
            add(
                f"forward-{shift}-{rate}",
                1 + 4 / (shift + 1),
                references=references,
                bytes=4 << shift,
                rate=rate,
                axis="size",
            )
    for rate, most in ((0.1, 2.0), (0.5, 1.2)):
        bounds = ({**copy, "at_most": most},)
        add(f"forward-8MiB-{rate}", 1.5, bounds=bounds, bytes=8 * MIB, rate=rate, axis="size")
        for isa in ("portable", "sse2"):
            for nbytes in (MIB, 8 * MIB):
                add(f"forward-{isa}-{nbytes}-{rate}", 3.0, isa=isa, bytes=nbytes, rate=rate)
        add(f"bits-{rate}", 0.5, operation="mask bits", rate=rate, moved=MIB / 32)
        for dims in range(6):
            add(f"dims-{dims}-{rate}", 2.0, axis="dims", dims=dims, rate=rate)
        for threads in (1, 2):
            references = ("np.copyto", "one thread")
            add(f"threads-{threads}-{rate}", 1.4 / threads, references=references, threads=threads, bytes=8 * MIB,
                rate=rate, axis="threads")  # fmt: skip
    for rate, planes in ((0.5, 1), (0.25, 2), (0.1, 8)):
        add(f"rate-{rate}", 1.2, rate=rate, planes=planes, axis="rate")
    peer = {"references": ("np.copyto", "fastdrop"), "out": "fresh", "statement": "y = peer(x)"}
    add("peer-slow", 20.0, peer="Slow peer", memory=MIB // 4, **peer)
    add("peer-fast", 0.7, peer="<b>Fast|peer</b>", memory=1, **peer)
    add("recipe", 12.0, peer="NumPy Generator float32", memory=MIB // 4, **peer)
    return records
