# SPDX-License-Identifier: BSD-3-Clause
"""Answers that others have published, or that programs made which share no code with this project."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastdrop._backend import Draw, IndexMap, Operands
from fastdrop._kernels import Kernels, Operation

# rounds, counter, key, words: published with Random123 (D. E. Shaw Research), tests/kat_vectors.
PHILOX = (
    (7, "00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)

# key, call, start, n, rate, keep bits in little bit order: from tests/vectors/stream_v1.json, which a program made
# that shares no code with this project. The last one passes 2**32 in the element index and in the call.
STREAM = (
    (0, 0, 0, 300, 0.5, "d5e827668dc569e14cac57bcd8db009ba4cce4f8db00b25ceb74a5b167ff7e0929a3fa04a602"),
    (0, 0, 0, 300, 0.1, "f5ffefffffe7fdfffeeffffefffbb7fbefdfffffdb4dfe7dff7ef7fbffff7fffefffff9ca70f"),
    (
        0xDEADBEEFCAFEF00D,
        4294967301,
        4294967232,
        256,
        0.1,
        "7fffb7ffff7bbffddefffffaffffaff4bfffffeffef7dfff7bebff7ffdfda7ff",
    ),
)

# key, call, start, bits of normal numbers: from tests/vectors/normals_v1.json, made by a program of its own too. The
# last ones pass 2**34 in the element index, which is 2**32 in that of the block.
NORMALS = (
    (0, 0, 0, "3f213af2 bfe73d87 beb54d6d 3ec82ad3 bfab1ffd bf87e968 3f48eafc be38cb1a"),
    (
        0xDEADBEEFCAFEF00D,
        4294967301,
        17179869180,
        "bf2656a4 401198ec 3f0a7e67 3f0f6696 3ec31c60 3e7b1710 be98a90d bf19be5d",
    ),
)


def differences(kernels: Kernels) -> Iterator[str | None]:
    """For each known answer what is wrong with that of an implementation, or None if it is right."""
    for what, got, expected in _answers(kernels):
        yield None if got == expected else f"known answer of {what}\ngot     {got}\nmust be {expected}"


def _answers(kernels: Kernels) -> Iterator[tuple[str, str, str]]:
    """What was asked, what came, and what must come."""
    for rounds, counter, key, expected in PHILOX:
        low, high = _words(key)
        got = " ".join(f"{word:08x}" for word in kernels.philox(_words(counter), (low, high), rounds))
        yield f"Philox4x32-{rounds} (Random123's kat_vectors): counter {counter}, key {key}", got, expected
    for draw_key, call, start, n, rate, expected in STREAM:
        got = kernels.keep_bits(n, Draw(draw_key, call, threshold(rate)), start).tobytes().hex()
        draw = f"key={draw_key:#x}, call={call}, start={start}, n={n}, rate={rate}"
        yield f"the stream (tests/vectors/stream_v1.json): {draw}", got, expected
    for draw_key, call, start, expected in NORMALS:
        normals = np.full(len(expected.split()), -0.0, np.float32)  # to which anything can be added without a change
        kernels.apply(
            Operation.GAUSSIAN_NOISE,
            Operands(normals, normals),
            Draw(draw_key, call),
            IndexMap(start),
        )
        got = " ".join(f"{bits:08x}" for bits in normals.view(np.uint32))
        draw = f"key={draw_key:#x}, call={call}, start={start}"
        yield f"normal numbers (tests/vectors/normals_v1.json): {draw}", got, expected


def threshold(rate: float) -> int:
    """As the stream's contract has it; the package's own is among what is verified."""
    return round(rate * 2.0**32)


def _words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())
