/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_portable.c: the primitives in plain C11, for any byte order. Lanes are defined by arithmetic: lane 2j of 32 bits
 * is the low half of lane j of 64 bits, whatever the order of bytes in memory.
 */
#include "compiler.h"
#include "fastdrop.h"
#include "half.h"

#define ISA portable
#define LANES 2
#define PLANES_AT_ONCE 1
#define BROADCASTS_FROM_MEMORY 0
#define WOVEN 0
#define GROUPS_AT_ONCE 1

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
INLINE vec srl64(vec a, unsigned n) { return (vec){{a.v[0] >> n, a.v[1] >> n}}; }
INLINE vec sll64(vec a, unsigned n) { return (vec){{a.v[0] << n, a.v[1] << n}}; }
INLINE vec xor3(vec a, vec b, vec c) { return (vec){{a.v[0] ^ b.v[0] ^ c.v[0], a.v[1] ^ b.v[1] ^ c.v[1]}}; }
INLINE vec andv(vec a, vec b) { return (vec){{a.v[0] & b.v[0], a.v[1] & b.v[1]}}; }
INLINE vec andnot(vec a, vec b) { return (vec){{a.v[0] & ~b.v[0], a.v[1] & ~b.v[1]}}; }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b) { return (vec){{(a.v[0] & LOW) | a.v[1] << 32, (b.v[0] & LOW) | b.v[1] << 32}}; }
INLINE vec odd32(vec a, vec b) { return (vec){{a.v[0] >> 32 | (a.v[1] & ~LOW), b.v[0] >> 32 | (b.v[1] & ~LOW)}}; }
INLINE vec lo32(vec a, vec b) { return (vec){{(a.v[0] & LOW) | b.v[0] << 32, a.v[0] >> 32 | (b.v[0] & ~LOW)}}; }
INLINE vec hi32(vec a, vec b) { return (vec){{(a.v[1] & LOW) | b.v[1] << 32, a.v[1] >> 32 | (b.v[1] & ~LOW)}}; }
INLINE vec lo64(vec a, vec b) { return (vec){{a.v[0], b.v[0]}}; }
INLINE vec hi64(vec a, vec b) { return (vec){{a.v[1], b.v[1]}}; }
INLINE void stay(vec *a) { (void)a; }

#include "lanes.inc.h"

INLINE uint32_t lane_u32(vec a, int j) { return (uint32_t)(a.v[j / 2] >> j % 2 * 32); }
INLINE vec lanes_u32(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    return (vec){{a | (uint64_t)b << 32, c | (uint64_t)d << 32}};
}
INLINE vec set1_u32(uint32_t a) { return lanes_u32(a, a, a, a); }
INLINE vec sub_u32(vec a, vec b)
{
    return lanes_u32(lane_u32(a, 0) - lane_u32(b, 0), lane_u32(a, 1) - lane_u32(b, 1), lane_u32(a, 2) - lane_u32(b, 2),
                     lane_u32(a, 3) - lane_u32(b, 3));
}
INLINE vec srl_u32(vec a, unsigned n)
{
    return lanes_u32(lane_u32(a, 0) >> n, lane_u32(a, 1) >> n, lane_u32(a, 2) >> n, lane_u32(a, 3) >> n);
}
INLINE vec sll_u32(vec a, unsigned n)
{
    return lanes_u32(lane_u32(a, 0) << n, lane_u32(a, 1) << n, lane_u32(a, 2) << n, lane_u32(a, 3) << n);
}
INLINE fvec to_f32(vec a)
{
    fvec f;
    for (int j = 0; j < 4; ++j) {
        f.v[j] = (float)(int32_t)lane_u32(a, j);
    }
    return f;
}
INLINE vec bits_of_f32(fvec a) { return lanes_u32(bits_of(a.v[0]), bits_of(a.v[1]), bits_of(a.v[2]), bits_of(a.v[3])); }
INLINE fvec f32_of_bits(vec a)
{
    return (fvec){
        {float_of(lane_u32(a, 0)), float_of(lane_u32(a, 1)), float_of(lane_u32(a, 2)), float_of(lane_u32(a, 3))}};
}

INLINE fvec set1_f32(float a) { return (fvec){{a, a, a, a}}; }
INLINE fvec add_f32(fvec a, fvec b)
{
    return (fvec){{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}};
}
INLINE fvec mul_f32(fvec a, fvec b)
{
    return (fvec){{a.v[0] * b.v[0], a.v[1] * b.v[1], a.v[2] * b.v[2], a.v[3] * b.v[3]}};
}
INLINE fvec sqrt_f32(fvec a)
{
    return (fvec){{square_root(a.v[0]), square_root(a.v[1]), square_root(a.v[2]), square_root(a.v[3])}};
}
INLINE fvec flip_sign(fvec a, vec b)
{
    const vec u = bits_of_f32(a);
    return f32_of_bits((vec){{u.v[0] ^ b.v[0], u.v[1] ^ b.v[1]}});
}
INLINE fvec choose_by_sign(fvec a, fvec b, vec c)
{
    for (int j = 0; j < 4; ++j) {
        a.v[j] = float_of(choose((int)(lane_u32(c, j) >> 31), bits_of(a.v[j]), bits_of(b.v[j])));
    }
    return a;
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    const uint32_t bits = load_le32(keep) >> i;
    for (int j = 0; j < 4; ++j) {
        a.v[j] = float_of(bits_of(a.v[j] * scale.v[j]) & (0 - (bits >> j & 1)));
    }
    return a;
}
INLINE fvec choose_f32(fvec a, fvec b, const uint8_t *keep, int i)
{
    const uint32_t bits = load_le32(keep) >> i;
    for (int j = 0; j < 4; ++j) {
        a.v[j] = float_of(choose((int)(bits >> j & 1), bits_of(a.v[j]), bits_of(b.v[j])));
    }
    return a;
}
INLINE fvec unless_negative_f32(fvec a)
{
    for (int j = 0; j < 4; ++j) {
        a.v[j] = a.v[j] <= 0.0f ? 0.0f : a.v[j];
    }
    return a;
}
INLINE fvec where_nonzero_f32(fvec a, fvec b)
{
    for (int j = 0; j < 4; ++j) {
        b.v[j] = a.v[j] == 0.0f ? 0.0f : b.v[j];
    }
    return b;
}
INLINE fvec load_f32(const float *p) { return (fvec){{p[0], p[1], p[2], p[3]}}; }
INLINE fvec load_f16(const uint16_t *p)
{
    return (fvec){{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}};
}
INLINE fvec load_bf16(const uint16_t *p)
{
    const fvec a = {{float_of((uint32_t)p[0] << 16), float_of((uint32_t)p[1] << 16), float_of((uint32_t)p[2] << 16),
                     float_of((uint32_t)p[3] << 16)}};
    return a;
}
INLINE void store_f32(float *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    memcpy(p, a.v, sizeof a.v);
}
INLINE void store_f16(uint16_t *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    for (int i = 0; i < 4; ++i) {
        p[i] = float_to_half(a.v[i]);
    }
}
/* A NaN needs no case of its own: the widened half has no lower bits, so rounding cannot carry into its payload. */
INLINE uint32_t upper_half(float f)
{
    const uint32_t u = bits_of(f);
    return (u + 0x7FFF + (u >> 16 & 1)) >> 16;
}
INLINE void store_bf16(uint16_t *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    for (int j = 0; j < 4; ++j) {
        p[j] = (uint16_t)upper_half(a.v[j]);
    }
}
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int nontemporal)
{
    (void)nontemporal;
    for (int j = 0; j < 8; ++j) {
        const uint32_t upper = upper_half(float_of((uint32_t)x[j] << 16) * scale.v[0]);
        y[j] = (uint16_t)(upper & (0 - ((unsigned)keep[i / 8] >> j & 1)));
    }
}

INLINE dvec set1_f64(double a) { return (dvec){{a, a}}; }
INLINE dvec add_f64(dvec a, dvec b) { return (dvec){{a.v[0] + b.v[0], a.v[1] + b.v[1]}}; }
INLINE dvec mul_f64(dvec a, dvec b) { return (dvec){{a.v[0] * b.v[0], a.v[1] * b.v[1]}}; }
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
INLINE dvec choose_f64(dvec a, dvec b, const uint8_t *keep, int i)
{
    const uint32_t bits = load_le32(keep) >> i;
    return (dvec){{bits & 1 ? a.v[0] : b.v[0], bits >> 1 & 1 ? a.v[1] : b.v[1]}};
}
INLINE dvec unless_negative_f64(dvec a) { return (dvec){{a.v[0] <= 0.0 ? 0.0 : a.v[0], a.v[1] <= 0.0 ? 0.0 : a.v[1]}}; }
INLINE dvec where_nonzero_f64(dvec a, dvec b)
{
    return (dvec){{a.v[0] == 0.0 ? 0.0 : b.v[0], a.v[1] == 0.0 ? 0.0 : b.v[1]}};
}
INLINE dvec load_f64(const double *p) { return (dvec){{p[0], p[1]}}; }
INLINE dvec widen_f32(const float *p) { return (dvec){{(double)p[0], (double)p[1]}}; }
INLINE void store_f64(double *p, dvec a, int nontemporal)
{
    (void)nontemporal;
    memcpy(p, a.v, sizeof a.v);
}
INLINE void fence(void) {}

#undef LOW

#include "kernels.inc.h"
