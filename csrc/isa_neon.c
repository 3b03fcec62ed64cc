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
INLINE vec xor3(vec a, vec b, vec c) { return veorq_u64(veorq_u64(b, c), a); }
INLINE vec and(vec a, vec b) { return vandq_u64(a, b); }
INLINE vec andnot(vec a, vec b) { return vbicq_u64(a, b); }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b) { return U64(vuzp1q_u32(U32(a), U32(b))); }
INLINE vec lo32(vec a, vec b) { return U64(vzip1q_u32(U32(a), U32(b))); }
INLINE vec hi32(vec a, vec b) { return U64(vzip2q_u32(U32(a), U32(b))); }
INLINE vec lo64(vec a, vec b) { return vzip1q_u64(a, b); }
INLINE vec hi64(vec a, vec b) { return vzip2q_u64(a, b); }
INLINE unsigned nonzero(const uint8_t *p) { return (unsigned)!!load_le64(p) | (unsigned)!!load_le64(p + 8) << 1; }

INLINE fvec set1_f32(float a) { return vdupq_n_f32(a); }
INLINE fvec load_f32(const float *p) { return vld1q_f32(p); }
INLINE fvec load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    static const uint32_t lane_bit[4] = {1, 2, 4, 8};
    const uint32x4_t mask = vtstq_u32(vdupq_n_u32(load_le32(keep) >> i), vld1q_u32(lane_bit));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vmulq_f32(a, scale)), mask));
}
/* Compilers have no intrinsic for the paired store that hints at streaming: an ordinary store does. */
INLINE void store_f32(float *p, fvec a, int stream)
{
    (void)stream;
    vst1q_f32(p, a);
}
INLINE void store_f16(uint16_t *p, fvec a, int stream)
{
    (void)stream;
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
INLINE uint32x4_t round_bf16(fvec a)
{
    const uint32x4_t u = vreinterpretq_u32_f32(a);
    return vaddq_u32(u, vaddq_u32(vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1)), vdupq_n_u32(0x7FFF)));
}
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int stream)
{
    static const uint16_t lane_bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(x));
    const uint32x4_t upper = vdupq_n_u32(0xFFFF0000);
    const uint32x4_t even = round_bf16(vmulq_f32(vreinterpretq_f32_u32(vshlq_n_u32(both, 16)), scale));
    const uint32x4_t odd = round_bf16(vmulq_f32(vreinterpretq_f32_u32(vandq_u32(both, upper)), scale));
    const uint16x8_t merged = vreinterpretq_u16_u32(vsriq_n_u32(odd, even, 16));
    (void)stream;
    vst1q_u16(y, vandq_u16(merged, vtstq_u16(vdupq_n_u16(keep[i / 8]), vld1q_u16(lane_bit))));
}

INLINE dvec set1_f64(double a) { return vdupq_n_f64(a); }
INLINE dvec load_f64(const double *p) { return vld1q_f64(p); }
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    static const uint64_t lane_bit[2] = {1, 2};
    const uint64x2_t mask = vtstq_u64(vdupq_n_u64(load_le32(keep) >> i), vld1q_u64(lane_bit));
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(vmulq_f64(a, scale)), mask));
}
INLINE void store_f64(double *p, dvec a, int stream)
{
    (void)stream;
    vst1q_f64(p, a);
}
INLINE void fence(void) {}

#undef U32
#undef U64

#include "kernels.inc.h"
#endif
