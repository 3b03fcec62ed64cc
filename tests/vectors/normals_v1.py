# SPDX-License-Identifier: BSD-3-Clause
"""The normal numbers of the stream, version 1, one element at a time and in Python's own numbers.

Written from what csrc/fastdrop.h and csrc/normals.inc.h state, without NumPy and without a line of fastdrop. It made
normals_v1.json, once, by ``python normals_v1.py > normals_v1.json``; what it prints now has to be that file still.
"""

import json
import math
import struct

MASK = 2**32 - 1


def philox4x32_10(counter, key):
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(index, key, call, domain):
    counter = (index & MASK, index >> 32, call & MASK, (call >> 32) * 256 + domain)
    return philox4x32_10(counter, (key & MASK, key >> 32))


def f32(x):
    """x rounded to float32.

    A sum, product or square root of two numbers of float32 that Python rounds to float64, and this to float32, is what
    one rounding would give, because 53 >= 2 * 24 + 2 bits: S. A. Figueroa, "When is double rounding innocuous?", ACM
    SIGNUM Newsletter 30 (1995).
    """
    return struct.unpack("<f", struct.pack("<f", x))[0]


def polynomial(x, coefficients):
    """Horner's rule, rounded after each step; the constant comes first."""
    y = f32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        y = f32(f32(y * x) + f32(coefficient))
    return y


MINUS_2_LN = (-2.00000175, 1.00002797, -0.66632059, 0.49793585, -0.40909511, 0.37565461, -0.24421963)
SINE = (0.78539423, -0.080714, 0.00242711)
COSINE = (0.99999997, -0.30842425, 0.01584992, -0.00031888051)
SQRT_HALF = 0x3F3504F3 - 0x3F000000  # as a part of the numbers of float32 from 1/2 on


def radius(word):
    """sqrt(-2 ln u) of u = (word div 2 + 1/2) / 2**31, as 2**k * (1 + f) with 1 + f from sqrt(1/2) to sqrt(2)."""
    u = f32(f32(word >> 1) + 0.5) / 2.0**31
    mantissa, k = math.frexp(u)
    if (mantissa - 0.5) * 2**24 < SQRT_HALF:
        mantissa, k = 2 * mantissa, k - 1
    f = f32(mantissa - 1.0)
    return f32(math.sqrt(f32(f32(k * f32(-1.3862944)) + f32(f * polynomial(f, MINUS_2_LN)))))


def normal_pair(for_radius, for_angle):
    """Two normal numbers of two words: of the even place and of the odd one."""
    r = radius(for_radius)
    v = f32(for_angle - (for_angle >> 31 << 32)) / 2.0**31
    v2 = f32(v * v)
    s = f32(r * f32(v * polynomial(v2, SINE)))
    c = f32(r * (-polynomial(v2, COSINE) if for_angle & 1 else polynomial(v2, COSINE)))
    return (s, c) if for_radius & 1 else (c, s)


def normal(i, key, call):
    """The normal number of element i."""
    w = words(i // 64 * 16 + i % 16, key, call, 16)
    r = i // 16 % 4
    return normal_pair(w[r & 2], w[r | 1])[r & 1]


# key, call, start, n
CASES = (
    (0, 0, 0, 200),
    (0x0123456789ABCDEF, 7, 61, 70),
    (2**64 - 1, 2**56 - 1, 2**32 - 40, 80),  # the element's index passes 32 bits
    (0xDEADBEEFCAFEF00D, 2**32 + 5, 2**34 - 40, 80),  # and here that of its block
    (2026, 2**32 - 1, 2**40 + 77, 40),
    (1, 2**32, 2**62 + 3, 40),
    (0, 0, 11117056, 20),  # u rounds to 1 in two of them, which are zeros
    (0, 0, 150702120, 20),  # the same, with zeros of either sign
    (0, 0, 102880450, 8),  # one beyond 6 sigma
)

if __name__ == "__main__":
    cases = []
    for key, call, start, n in CASES:
        normals = [struct.pack(">f", normal(i, key, call)).hex() for i in range(start, start + n)]
        cases.append({"key": f"{key:016x}", "call": call, "start": start, "n": n, "normals": normals})
    fields = "normals: N(start), N(start+1), ..., each as the bits of a float32"
    contract = "normal numbers of the stream, version 1 (csrc/fastdrop.h)"
    print(json.dumps({"contract": contract, "fields": fields, "cases": cases}, indent=1))
