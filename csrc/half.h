/* SPDX-License-Identifier: BSD-3-Clause
 *
 * half.h: IEEE binary16 to float and back, for instruction sets without the conversions.
 *
 * Rounds to nearest, ties to even. A NaN stays quiet and keeps its sign and the upper bits of its payload, as the
 * conversions in hardware do. Every case is computed and one chosen, because a mask puts zeros where no branch
 * predictor expects them.
 */
#ifndef FASTDROP_HALF_H
#define FASTDROP_HALF_H

#include <stdint.h>
#include <string.h>

#include "compiler.h"

INLINE uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

INLINE float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* a where the condition holds, else b. Compilers turn the conditional operator into a branch. */
INLINE uint32_t choose(int condition, uint32_t a, uint32_t b) { return b ^ ((a ^ b) & (0 - (uint32_t)condition)); }

INLINE float half_to_float(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7FFF;
    const uint32_t normal = (magnitude << 13) + (UINT32_C(112) << 23); /* the exponents' biases differ by 112 */
    const uint32_t subnormal = bits_of((float)(int32_t)magnitude * (1.0f / 16777216.0f));
    const uint32_t special = 0x7F800000 | magnitude << 13 | (uint32_t)(magnitude > 0x7C00) << 22;
    return float_of(sign | choose(magnitude >= 0x7C00, special, choose(magnitude >= 0x400, normal, subnormal)));
}

INLINE uint16_t float_to_half(float f)
{
    const uint32_t sign = bits_of(f) >> 16 & 0x8000, magnitude = bits_of(f) & 0x7FFFFFFF;
    const uint32_t normal = (magnitude - (UINT32_C(112) << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    /* Added to 0.5, a small number is rounded by the hardware to a multiple of 2^-24, the least subnormal. */
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t special = choose(magnitude > 0x7F800000, 0x7E00 | (magnitude >> 13 & 0x3FF), 0x7C00);
    /* 65520 and above round to infinity. */
    return (uint16_t)(sign |
                      choose(magnitude >= 0x477FF000, special, choose(magnitude >= 0x38800000, normal, subnormal)));
}

#endif
