/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_neon.c: the primitives for NEON, which every little-endian AArch64 has.
 */
#include "fastdrop.h"

#ifdef FD_ARM64
#include <arm_neon.h>

#include "compiler.h"

#define ISA neon
#define LANES 2
#define PLANES_AT_ONCE 1
#define BROADCASTS_FROM_MEMORY 0
#define WOVEN 0
#define GROUPS_AT_ONCE 1

typedef uint64x2_t vec;
typedef float32x4_t fvec;
typedef float64x2_t dvec;

#define U32(a) vreinterpretq_u32_u64(a)
#define U64(a) vreinterpretq_u64_u32(a)

INLINE vec set1(uint64_t a) { return vdupq_n_u64(a); }
INLINE vec load_lanes(const uint64_t *p) { return vld1q_u64(p); }
INLINE void store_lanes(uint64_t *p, vec a) { vst1q_u64(p, a); }
INLINE void store_bits(uint8_t *p, vec a) { vst1q_u8(p, vreinterpretq_u8_u64(a)); }
INLINE vec add(vec a, vec b) { return vaddq_u64(a, b); }
INLINE vec mul32(vec a, vec b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
INLINE vec srl32(vec a) { return vshrq_n_u64(a, 32); }
INLINE vec srl64(vec a, unsigned n) { return vshlq_u64(a, vdupq_n_s64(-(int64_t)n)); }
INLINE vec sll64(vec a, unsigned n) { return vshlq_u64(a, vdupq_n_s64((int64_t)n)); }
INLINE vec xor3(vec a, vec b, vec c) { return veorq_u64(veorq_u64(b, c), a); }
INLINE vec andv(vec a, vec b) { return vandq_u64(a, b); }
INLINE vec andnot(vec a, vec b) { return vbicq_u64(a, b); }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b) { return U64(vuzp1q_u32(U32(a), U32(b))); }
INLINE vec odd32(vec a, vec b) { return U64(vuzp2q_u32(U32(a), U32(b))); }
INLINE vec lo32(vec a, vec b) { return U64(vzip1q_u32(U32(a), U32(b))); }
INLINE vec hi32(vec a, vec b) { return U64(vzip2q_u32(U32(a), U32(b))); }
INLINE vec lo64(vec a, vec b) { return vzip1q_u64(a, b); }
INLINE vec hi64(vec a, vec b) { return vzip2q_u64(a, b); }
INLINE void stay(vec *a) { (void)a; }

#include "lanes.inc.h"

INLINE vec set1_u32(uint32_t a) { return U64(vdupq_n_u32(a)); }
INLINE vec sub_u32(vec a, vec b) { return U64(vsubq_u32(U32(a), U32(b))); }
INLINE vec srl_u32(vec a, unsigned n) { return U64(vshlq_u32(U32(a), vdupq_n_s32(-(int)n))); }
INLINE vec sll_u32(vec a, unsigned n) { return U64(vshlq_u32(U32(a), vdupq_n_s32((int)n))); }
INLINE fvec to_f32(vec a) { return vcvtq_f32_s32(vreinterpretq_s32_u64(a)); }
INLINE vec bits_of_f32(fvec a) { return vreinterpretq_u64_f32(a); }
INLINE fvec f32_of_bits(vec a) { return vreinterpretq_f32_u64(a); }

INLINE fvec set1_f32(float a) { return vdupq_n_f32(a); }
INLINE fvec add_f32(fvec a, fvec b) { return vaddq_f32(a, b); }
INLINE fvec mul_f32(fvec a, fvec b) { return vmulq_f32(a, b); }
INLINE fvec sqrt_f32(fvec a) { return vsqrtq_f32(a); }
INLINE fvec flip_sign(fvec a, vec b) { return f32_of_bits(veorq_u64(bits_of_f32(a), b)); }
INLINE fvec choose_by_sign(fvec a, fvec b, vec c)
{
    return vbslq_f32(vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u64(c), 31)), a, b);
}
/* The keep bits as lanes of ones or zeros. */
INLINE uint32x4_t mask_f32(const uint8_t *keep, int i)
{
    static const uint32_t lane_bit[4] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(load_le32(keep) >> i), vld1q_u32(lane_bit));
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vmulq_f32(a, scale)), mask_f32(keep, i)));
}
INLINE fvec choose_f32(fvec a, fvec b, const uint8_t *keep, int i) { return vbslq_f32(mask_f32(keep, i), a, b); }
INLINE fvec unless_negative_f32(fvec a)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vclezq_f32(a)));
}
INLINE fvec where_nonzero_f32(fvec a, fvec b)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(b), vceqzq_f32(a)));
}
INLINE fvec load_f32(const float *p) { return vld1q_f32(p); }
INLINE fvec load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE fvec load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
/* Compilers have no intrinsic for STNP, the non-temporal store of a pair: an ordinary store does. */
INLINE void store_f32(float *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    vst1q_f32(p, a);
}
INLINE void store_f16(uint16_t *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
INLINE uint32x4_t round_bf16(fvec a)
{
    const uint32x4_t u = vreinterpretq_u32_f32(a);
    return vaddq_u32(u, vaddq_u32(vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1)), vdupq_n_u32(0x7FFF)));
}
INLINE void store_bf16(uint16_t *p, fvec a, int nontemporal)
{
    (void)nontemporal;
    vst1_u16(p, vshrn_n_u32(round_bf16(a), 16));
}
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int nontemporal)
{
    static const uint16_t lane_bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(x));
    const uint32x4_t upper = vdupq_n_u32(0xFFFF0000);
    const uint32x4_t even = round_bf16(vmulq_f32(vreinterpretq_f32_u32(vshlq_n_u32(both, 16)), scale));
    const uint32x4_t odd = round_bf16(vmulq_f32(vreinterpretq_f32_u32(vandq_u32(both, upper)), scale));
    const uint16x8_t merged = vreinterpretq_u16_u32(vsriq_n_u32(odd, even, 16));
    (void)nontemporal;
    vst1q_u16(y, vandq_u16(merged, vtstq_u16(vdupq_n_u16(keep[i / 8]), vld1q_u16(lane_bit))));
}

INLINE dvec set1_f64(double a) { return vdupq_n_f64(a); }
INLINE dvec add_f64(dvec a, dvec b) { return vaddq_f64(a, b); }
INLINE dvec mul_f64(dvec a, dvec b) { return vmulq_f64(a, b); }
INLINE uint64x2_t mask_f64(const uint8_t *keep, int i)
{
    static const uint64_t lane_bit[2] = {1, 2};
    return vtstq_u64(vdupq_n_u64(load_le32(keep) >> i), vld1q_u64(lane_bit));
}
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(vmulq_f64(a, scale)), mask_f64(keep, i)));
}
INLINE dvec choose_f64(dvec a, dvec b, const uint8_t *keep, int i) { return vbslq_f64(mask_f64(keep, i), a, b); }
INLINE dvec unless_negative_f64(dvec a)
{
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a), vclezq_f64(a)));
}
INLINE dvec where_nonzero_f64(dvec a, dvec b)
{
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(b), vceqzq_f64(a)));
}
INLINE dvec load_f64(const double *p) { return vld1q_f64(p); }
INLINE dvec widen_f32(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
INLINE void store_f64(double *p, dvec a, int nontemporal)
{
    (void)nontemporal;
    vst1q_f64(p, a);
}
INLINE void fence(void) {}

#undef U32
#undef U64

#include "kernels.inc.h"
#endif
