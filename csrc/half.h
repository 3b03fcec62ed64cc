/* SPDX-License-Identifier: BSD-3-Clause
 *
 * half.h: IEEE binary16 to float and back, for instruction sets that cannot.
 *
 * Rounds to nearest, ties to even. A NaN stays quiet and keeps its sign and the upper bits of its payload, as the
 * conversions in hardware do.
 */
#ifndef FASTDROP_HALF_H
#define FASTDROP_HALF_H

#include <stdint.h>
#include <string.h>

#include "compiler.h"

INLINE float half_to_float(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7FFF;
    uint32_t u;
    float f;
    if (magnitude >= 0x7C00) {                     /* infinity, NaN */
        u = sign | 0x7F800000 | (magnitude & 0x3FF) << 13 | (magnitude > 0x7C00 ? 0x400000 : 0);
    } else if (magnitude >= 0x400) {               /* normal: the exponents' biases differ by 112 */
        u = sign | ((magnitude << 13) + (UINT32_C(112) << 23));
    } else {                                       /* subnormal, zero: an exact product with 2^-24 */
        f = (float)magnitude * (1.0f / 16777216.0f);
        memcpy(&u, &f, 4);
        u |= sign;
    }
    memcpy(&f, &u, 4);
    return f;
}

INLINE uint16_t float_to_half(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    const uint32_t sign = u >> 16 & 0x8000, magnitude = u & 0x7FFFFFFF;
    uint32_t h;
    if (magnitude > 0x7F800000) {                  /* NaN */
        h = 0x7E00 | (magnitude >> 13 & 0x3FF);
    } else if (magnitude >= 0x477FF000) {          /* 65520 and above round to infinity */
        h = 0x7C00;
    } else if (magnitude >= 0x38800000) {          /* normal: drop 13 bits */
        h = (magnitude - (UINT32_C(112) << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    } else if (magnitude >= 0x33000000) {          /* subnormal: a multiple of 2^-24 */
        const uint32_t shift = 126 - (magnitude >> 23), full = (magnitude & 0x7FFFFF) | 0x800000;
        const uint32_t kept = full >> shift, rest = full & ((UINT32_C(1) << shift) - 1);
        const uint32_t tie = UINT32_C(1) << (shift - 1);
        h = kept + (rest > tie || (rest == tie && (kept & 1)));
    } else {                                       /* below half of the least subnormal */
        h = 0;
    }
    return (uint16_t)(sign | h);
}

#endif
