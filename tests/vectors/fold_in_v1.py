# SPDX-License-Identifier: BSD-3-Clause
"""Known answers of fold_in, in Python's own numbers, written from its docstring and from the paper on Philox.

python tests/vectors/fold_in_v1.py > tests/vectors/fold_in_v1.json
"""

import hashlib
import json

MASK = 2**32 - 1
CASES = (
    (0, []),
    (0, [0]),
    (0, [0, 0]),
    (0, [1]),
    (0, ["1"]),
    (0, [""]),
    (0, [2**32]),
    (1, [0]),
    (2**64 - 1, [2**64 - 1, 2**64 - 1]),
    (0xDEADBEEFCAFEF00D, ["encoder", 3, "attention"]),
    (0xDEADBEEFCAFEF00D, [3, "encoder", "attention"]),
    (7, ["Schicht Ä", 12345678901234567890]),
)


def philox4x32_10(counter, key):
    """Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k, right & MASK, (left >> 32) ^ d ^ m, left & MASK
        k, m = (k + 0x9E3779B9) & MASK, (m + 0xBB67AE85) & MASK
    return a, b, c, d


def folded(key, path):
    for part in path:
        kind = int(isinstance(part, str))
        if kind:
            part = int.from_bytes(hashlib.blake2b(part.encode("utf-8"), digest_size=8).digest(), "little")
        w = philox4x32_10((part & MASK, part >> 32, kind, 32), (key & MASK, key >> 32))
        key = w[0] | w[1] << 32
    return key


if __name__ == "__main__":
    cases = [{"key": f"{key:#x}", "path": path, "folded": f"{folded(key, path):#018x}"} for key, path in CASES]
    print(json.dumps({"contract": "fold_in, version 1 (its docstring)", "cases": cases}, indent=1, ensure_ascii=False))
