/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_sse2.c: the primitives for SSE2, which every x86-64 has. float16 is converted by portable code.
 */
#include "fastdrop.h"

#ifdef FD_X86
#include <emmintrin.h>

#include "compiler.h"
#include "half.h"

#define ISA sse2
#define LANES 2
#define PLANES_AT_ONCE 1
#define BROADCASTS_FROM_MEMORY 0
#define WOVEN 0
#define GROUPS_AT_ONCE 1

typedef __m128i vec;
typedef __m128 fvec;
typedef __m128d dvec;

INLINE vec set1(uint64_t a) { return _mm_set1_epi64x((long long)a); }
INLINE vec load_lanes(const uint64_t *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE void store_lanes(uint64_t *p, vec a) { _mm_storeu_si128((__m128i *)p, a); }
INLINE void store_bits(uint8_t *p, vec a) { _mm_storeu_si128((__m128i *)p, a); }
INLINE vec add(vec a, vec b) { return _mm_add_epi64(a, b); }
INLINE vec mul32(vec a, vec b) { return _mm_mul_epu32(a, b); }
INLINE vec srl32(vec a) { return _mm_srli_epi64(a, 32); }
INLINE vec srl64(vec a, unsigned n) { return _mm_srli_epi64(a, (int)n); }
INLINE vec sll64(vec a, unsigned n) { return _mm_slli_epi64(a, (int)n); }
INLINE vec xor3(vec a, vec b, vec c) { return _mm_xor_si128(_mm_xor_si128(b, c), a); }
INLINE vec andv(vec a, vec b) { return _mm_and_si128(a, b); }
INLINE vec andnot(vec a, vec b) { return _mm_andnot_si128(b, a); }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b)
{
    return _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0x88));
}
INLINE vec odd32(vec a, vec b)
{
    return _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0xDD));
}
INLINE vec lo32(vec a, vec b) { return _mm_unpacklo_epi32(a, b); }
INLINE vec hi32(vec a, vec b) { return _mm_unpackhi_epi32(a, b); }
INLINE vec lo64(vec a, vec b) { return _mm_unpacklo_epi64(a, b); }
INLINE vec hi64(vec a, vec b) { return _mm_unpackhi_epi64(a, b); }
INLINE void stay(vec *a) { (void)a; }

#include "lanes.inc.h"

INLINE vec set1_u32(uint32_t a) { return _mm_set1_epi32((int)a); }
INLINE vec sub_u32(vec a, vec b) { return _mm_sub_epi32(a, b); }
INLINE vec srl_u32(vec a, unsigned n) { return _mm_srli_epi32(a, (int)n); }
INLINE vec sll_u32(vec a, unsigned n) { return _mm_slli_epi32(a, (int)n); }
INLINE fvec to_f32(vec a) { return _mm_cvtepi32_ps(a); }
INLINE vec bits_of_f32(fvec a) { return _mm_castps_si128(a); }
INLINE fvec f32_of_bits(vec a) { return _mm_castsi128_ps(a); }

INLINE fvec set1_f32(float a) { return _mm_set1_ps(a); }
INLINE fvec add_f32(fvec a, fvec b) { return _mm_add_ps(a, b); }
INLINE fvec mul_f32(fvec a, fvec b) { return _mm_mul_ps(a, b); }
INLINE fvec sqrt_f32(fvec a) { return _mm_sqrt_ps(a); }
INLINE fvec flip_sign(fvec a, vec b) { return _mm_xor_ps(a, f32_of_bits(b)); }
INLINE fvec choose_lanes(fvec a, fvec b, vec mask)
{
    return _mm_or_ps(_mm_and_ps(f32_of_bits(mask), a), _mm_andnot_ps(f32_of_bits(mask), b));
}
INLINE fvec choose_by_sign(fvec a, fvec b, vec c) { return choose_lanes(a, b, _mm_srai_epi32(c, 31)); }
/* The keep bits as lanes of ones or zeros. */
INLINE vec mask_f32(const uint8_t *keep, int i)
{
    const __m128i lane_bit = _mm_slli_epi32(_mm_setr_epi32(1, 2, 4, 8), i);
    return _mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32((int)load_le32(keep)), lane_bit), lane_bit);
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    return _mm_and_ps(_mm_mul_ps(a, scale), f32_of_bits(mask_f32(keep, i)));
}
INLINE fvec choose_f32(fvec a, fvec b, const uint8_t *keep, int i) { return choose_lanes(a, b, mask_f32(keep, i)); }
INLINE fvec unless_negative_f32(fvec a) { return _mm_and_ps(_mm_cmpnle_ps(a, _mm_setzero_ps()), a); }
INLINE fvec where_nonzero_f32(fvec a, fvec b) { return _mm_and_ps(_mm_cmpneq_ps(a, _mm_setzero_ps()), b); }
INLINE fvec load_f32(const float *p) { return _mm_loadu_ps(p); }
INLINE fvec load_f16(const uint16_t *p)
{
    return _mm_setr_ps(half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3]));
}
INLINE fvec load_bf16(const uint16_t *p)
{
    return f32_of_bits(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)p)));
}
INLINE void store_f32(float *p, fvec a, int nontemporal)
{
    if (nontemporal) {
        _mm_stream_ps(p, a);
    } else {
        _mm_storeu_ps(p, a);
    }
}
/* Four elements of two bytes do not fill a non-temporal store from a vector, which takes 16 bytes. */
INLINE void store_f16(uint16_t *p, fvec a, int nontemporal)
{
    float lanes[4];
    (void)nontemporal;
    _mm_storeu_ps(lanes, a);
    for (int i = 0; i < 4; ++i) {
        p[i] = float_to_half(lanes[i]);
    }
}
INLINE __m128i round_bf16(fvec a)
{
    const __m128i u = _mm_castps_si128(a);
    const __m128i odd = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
    return _mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7FFF)));
}
INLINE void store_bf16(uint16_t *p, fvec a, int nontemporal)
{
    const __m128i upper = _mm_srai_epi32(round_bf16(a), 16);
    (void)nontemporal;
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi32(upper, upper));
}
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int nontemporal)
{
    const __m128i both = _mm_loadu_si128((const __m128i *)x), upper = _mm_set1_epi32((int)0xFFFF0000);
    const __m128i even = round_bf16(_mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(both, 16)), scale));
    const __m128i odd = round_bf16(_mm_mul_ps(_mm_castsi128_ps(_mm_and_si128(both, upper)), scale));
    const __m128i merged = _mm_or_si128(_mm_srli_epi32(even, 16), _mm_and_si128(odd, upper));
    const __m128i lane_bit = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
    const __m128i bits = _mm_and_si128(_mm_set1_epi16(keep[i / 8]), lane_bit);
    const __m128i kept = _mm_and_si128(merged, _mm_cmpeq_epi16(bits, lane_bit));
    if (nontemporal) {
        _mm_stream_si128((__m128i *)y, kept);
    } else {
        _mm_storeu_si128((__m128i *)y, kept);
    }
}

INLINE dvec set1_f64(double a) { return _mm_set1_pd(a); }
INLINE dvec add_f64(dvec a, dvec b) { return _mm_add_pd(a, b); }
INLINE dvec mul_f64(dvec a, dvec b) { return _mm_mul_pd(a, b); }
INLINE dvec mask_f64(const uint8_t *keep, int i)
{
    const __m128i lane_bit = _mm_slli_epi32(_mm_setr_epi32(1, 1, 2, 2), i);
    const __m128i bits = _mm_and_si128(_mm_set1_epi32((int)load_le32(keep)), lane_bit);
    return _mm_castsi128_pd(_mm_cmpeq_epi32(bits, lane_bit));
}
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    return _mm_and_pd(_mm_mul_pd(a, scale), mask_f64(keep, i));
}
INLINE dvec choose_f64(dvec a, dvec b, const uint8_t *keep, int i)
{
    return _mm_or_pd(_mm_and_pd(mask_f64(keep, i), a), _mm_andnot_pd(mask_f64(keep, i), b));
}
INLINE dvec unless_negative_f64(dvec a) { return _mm_and_pd(_mm_cmpnle_pd(a, _mm_setzero_pd()), a); }
INLINE dvec where_nonzero_f64(dvec a, dvec b) { return _mm_and_pd(_mm_cmpneq_pd(a, _mm_setzero_pd()), b); }
INLINE dvec load_f64(const double *p) { return _mm_loadu_pd(p); }
INLINE dvec widen_f32(const float *p) { return _mm_setr_pd((double)p[0], (double)p[1]); }
INLINE void store_f64(double *p, dvec a, int nontemporal)
{
    if (nontemporal) {
        _mm_stream_pd(p, a);
    } else {
        _mm_storeu_pd(p, a);
    }
}
INLINE void fence(void) { _mm_sfence(); }

#include "kernels.inc.h"
#endif
