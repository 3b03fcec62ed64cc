/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_portable.c: the primitives in plain C11, of any byte order. What a "lane" is here, is arithmetic: lane 2j of 32
 * bits is the low half of the j-th 64, whatever the order of bytes in memory.
 */
#include "compiler.h"
#include "fastdrop.h"
#include "half.h"

#define ISA portable
#define LANES 2

typedef struct {
    uint64_t v[2];
} vec;
typedef struct {
    float v[4];
} fvec;
typedef struct {
    double v[2];
} dvec;

#define LOW UINT64_C(0xFFFFFFFF)

INLINE vec set1(uint64_t a) { return (vec){{a, a}}; }
INLINE vec load_lanes(const uint64_t *p) { return (vec){{p[0], p[1]}}; }
INLINE void store_lanes(uint64_t *p, vec a) { memcpy(p, a.v, sizeof a.v); }
INLINE void store_bits(uint8_t *p, vec a)
{
    for (int i = 0; i < 16; ++i) {
        p[i] = (uint8_t)(a.v[i / 8] >> i % 8 * 8);
    }
}
INLINE vec add(vec a, vec b) { return (vec){{a.v[0] + b.v[0], a.v[1] + b.v[1]}}; }
INLINE vec mul32(vec a, vec b) { return (vec){{(a.v[0] & LOW) * (b.v[0] & LOW), (a.v[1] & LOW) * (b.v[1] & LOW)}}; }
INLINE vec srl32(vec a) { return (vec){{a.v[0] >> 32, a.v[1] >> 32}}; }
INLINE vec xor3(vec a, vec b, vec c) { return (vec){{a.v[0] ^ b.v[0] ^ c.v[0], a.v[1] ^ b.v[1] ^ c.v[1]}}; }
INLINE vec and(vec a, vec b) { return (vec){{a.v[0] & b.v[0], a.v[1] & b.v[1]}}; }
INLINE vec andnot(vec a, vec b) { return (vec){{a.v[0] & ~b.v[0], a.v[1] & ~b.v[1]}}; }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b)
{
    return (vec){{(a.v[0] & LOW) | a.v[1] << 32, (b.v[0] & LOW) | b.v[1] << 32}};
}
INLINE vec lo32(vec a, vec b) { return (vec){{(a.v[0] & LOW) | b.v[0] << 32, a.v[0] >> 32 | (b.v[0] & ~LOW)}}; }
INLINE vec hi32(vec a, vec b) { return (vec){{(a.v[1] & LOW) | b.v[1] << 32, a.v[1] >> 32 | (b.v[1] & ~LOW)}}; }
INLINE vec lo64(vec a, vec b) { return (vec){{a.v[0], b.v[0]}}; }
INLINE vec hi64(vec a, vec b) { return (vec){{a.v[1], b.v[1]}}; }
INLINE unsigned nonzero(const uint8_t *p) { return (unsigned)!!load_le64(p) | (unsigned)!!load_le64(p + 8) << 1; }

INLINE fvec set1_f32(float a) { return (fvec){{a, a, a, a}}; }
INLINE fvec load_f32(const float *p) { return (fvec){{p[0], p[1], p[2], p[3]}}; }
INLINE fvec load_f16(const uint16_t *p)
{
    return (fvec){{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}};
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    const uint32_t bits = load_le32(keep) >> i;
    for (int j = 0; j < 4; ++j) {
        a.v[j] = float_of(bits_of(a.v[j] * scale.v[j]) & (0 - (bits >> j & 1)));
    }
    return a;
}
INLINE void store_f32(float *p, fvec a, int stream)
{
    (void)stream;
    memcpy(p, a.v, sizeof a.v);
}
INLINE void store_f16(uint16_t *p, fvec a, int stream)
{
    (void)stream;
    for (int i = 0; i < 4; ++i) {
        p[i] = float_to_half(a.v[i]);
    }
}
/* A NaN needs no case of its own: the widened half has no lower bits, so rounding cannot carry into its payload. */
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int stream)
{
    (void)stream;
    for (int j = 0; j < 8; ++j) {
        const uint32_t u = bits_of(float_of((uint32_t)x[j] << 16) * scale.v[0]);
        y[j] = (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16 & (0 - ((unsigned)keep[i / 8] >> j & 1)));
    }
}

INLINE dvec set1_f64(double a) { return (dvec){{a, a}}; }
INLINE dvec load_f64(const double *p) { return (dvec){{p[0], p[1]}}; }
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    const uint32_t bits = load_le32(keep) >> i;
    for (int j = 0; j < 2; ++j) {
        uint64_t u;
        a.v[j] *= scale.v[j];
        memcpy(&u, &a.v[j], 8);
        u &= 0 - (uint64_t)(bits >> j & 1);
        memcpy(&a.v[j], &u, 8);
    }
    return a;
}
INLINE void store_f64(double *p, dvec a, int stream)
{
    (void)stream;
    memcpy(p, a.v, sizeof a.v);
}
INLINE void fence(void) {}

#undef LOW

#include "kernels.inc.h"
