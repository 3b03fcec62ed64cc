/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_avx2.c: the primitives for AVX2 with F16C. Keep bits widen to lanes by a shift to the sign and a compare.
 */
#include "fastdrop.h"

#ifdef FD_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("bmi,bmi2,avx2,f16c"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("bmi,bmi2,avx2,f16c")
#endif

#include "compiler.h"

#define ISA avx2
#define LANES 4
#define PLANES_AT_ONCE 1
#define BROADCASTS_FROM_MEMORY 0
#define WOVEN 0
#define GROUPS_AT_ONCE 2

typedef __m256i vec;
typedef __m256 fvec;
typedef __m256d dvec;

INLINE vec set1(uint64_t a) { return _mm256_set1_epi64x((long long)a); }
INLINE vec load_lanes(const uint64_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void store_lanes(uint64_t *p, vec a) { _mm256_storeu_si256((__m256i *)p, a); }
INLINE void store_bits(uint8_t *p, vec a) { _mm256_storeu_si256((__m256i *)p, a); }
INLINE vec add(vec a, vec b) { return _mm256_add_epi64(a, b); }
INLINE vec mul32(vec a, vec b) { return _mm256_mul_epu32(a, b); }
INLINE vec srl32(vec a) { return _mm256_srli_epi64(a, 32); }
INLINE vec srl64(vec a, unsigned n) { return _mm256_srli_epi64(a, (int)n); }
INLINE vec sll64(vec a, unsigned n) { return _mm256_slli_epi64(a, (int)n); }
INLINE vec xor3(vec a, vec b, vec c) { return _mm256_xor_si256(_mm256_xor_si256(b, c), a); }
INLINE vec andv(vec a, vec b) { return _mm256_and_si256(a, b); }
INLINE vec andnot(vec a, vec b) { return _mm256_andnot_si256(b, a); }
INLINE vec clear(vec a, vec b, vec c) { return andnot(a, andnot(b, c)); }
INLINE vec even32(vec a, vec b)
{
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
INLINE vec odd32(vec a, vec b)
{
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xDD));
}
INLINE vec lo32(vec a, vec b) { return _mm256_unpacklo_epi32(a, b); }
INLINE vec hi32(vec a, vec b) { return _mm256_unpackhi_epi32(a, b); }
INLINE vec lo64(vec a, vec b) { return _mm256_unpacklo_epi64(a, b); }
INLINE vec hi64(vec a, vec b) { return _mm256_unpackhi_epi64(a, b); }
INLINE void stay(vec *a) { (void)a; }

#include "lanes.inc.h"

INLINE vec set1_u32(uint32_t a) { return _mm256_set1_epi32((int)a); }
INLINE vec sub_u32(vec a, vec b) { return _mm256_sub_epi32(a, b); }
INLINE vec srl_u32(vec a, unsigned n) { return _mm256_srli_epi32(a, (int)n); }
INLINE vec sll_u32(vec a, unsigned n) { return _mm256_slli_epi32(a, (int)n); }
INLINE fvec to_f32(vec a) { return _mm256_cvtepi32_ps(a); }
INLINE vec bits_of_f32(fvec a) { return _mm256_castps_si256(a); }
INLINE fvec f32_of_bits(vec a) { return _mm256_castsi256_ps(a); }

INLINE fvec set1_f32(float a) { return _mm256_set1_ps(a); }
INLINE fvec add_f32(fvec a, fvec b) { return _mm256_add_ps(a, b); }
INLINE fvec mul_f32(fvec a, fvec b) { return _mm256_mul_ps(a, b); }
INLINE fvec sqrt_f32(fvec a) { return _mm256_sqrt_ps(a); }
INLINE fvec flip_sign(fvec a, vec b) { return _mm256_xor_ps(a, f32_of_bits(b)); }
INLINE fvec choose_by_sign(fvec a, fvec b, vec c) { return _mm256_blendv_ps(b, a, f32_of_bits(c)); }
/* The keep bits as signs of lanes. */
INLINE vec signs_f32(const uint8_t *keep, int i)
{
    const __m256i to_sign = _mm256_sub_epi32(_mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24), _mm256_set1_epi32(i));
    return _mm256_sllv_epi32(_mm256_set1_epi32((int)load_le32(keep)), to_sign);
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    return _mm256_and_ps(_mm256_mul_ps(a, scale), f32_of_bits(_mm256_srai_epi32(signs_f32(keep, i), 31)));
}
INLINE fvec choose_f32(fvec a, fvec b, const uint8_t *keep, int i) { return choose_by_sign(a, b, signs_f32(keep, i)); }
INLINE fvec unless_negative_f32(fvec a) { return _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NLE_UQ), a); }
INLINE fvec where_nonzero_f32(fvec a, fvec b)
{
    return _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ), b);
}
INLINE fvec load_f32(const float *p) { return _mm256_loadu_ps(p); }
INLINE fvec load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE fvec load_bf16(const uint16_t *p)
{
    return f32_of_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE void store_f32(float *p, fvec a, int nontemporal)
{
    if (nontemporal) {
        _mm256_stream_ps(p, a);
    } else {
        _mm256_storeu_ps(p, a);
    }
}
INLINE void store_f16(uint16_t *p, fvec a, int nontemporal)
{
    const __m128i half = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (nontemporal) {
        _mm_stream_si128((__m128i *)p, half);
    } else {
        _mm_storeu_si128((__m128i *)p, half);
    }
}
INLINE __m256i round_bf16(fvec a)
{
    const __m256i u = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
}
INLINE void store_bf16(uint16_t *p, fvec a, int nontemporal)
{
    const __m256i upper = _mm256_srai_epi32(round_bf16(a), 16);
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(upper, upper), 0x08);
    if (nontemporal) {
        _mm_stream_si128((__m128i *)p, _mm256_castsi256_si128(both));
    } else {
        _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(both));
    }
}
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int nontemporal)
{
    const __m256i both = _mm256_loadu_si256((const __m256i *)x), upper = _mm256_set1_epi32((int)0xFFFF0000);
    const __m256i even = round_bf16(_mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)), scale));
    const __m256i odd = round_bf16(_mm256_mul_ps(_mm256_castsi256_ps(_mm256_and_si256(both, upper)), scale));
    const __m256i merged = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA);
    const __m256i lane_bit =
        _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, (short)32768);
    const __m256i bits = _mm256_and_si256(_mm256_set1_epi16((short)(load_le32(keep) >> i)), lane_bit);
    const __m256i kept = _mm256_and_si256(merged, _mm256_cmpeq_epi16(bits, lane_bit));
    if (nontemporal) {
        _mm256_stream_si256((__m256i *)y, kept);
    } else {
        _mm256_storeu_si256((__m256i *)y, kept);
    }
}

INLINE dvec set1_f64(double a) { return _mm256_set1_pd(a); }
INLINE dvec add_f64(dvec a, dvec b) { return _mm256_add_pd(a, b); }
INLINE dvec mul_f64(dvec a, dvec b) { return _mm256_mul_pd(a, b); }
INLINE vec signs_f64(const uint8_t *keep, int i)
{
    const __m256i to_sign = _mm256_sub_epi64(_mm256_setr_epi64x(63, 62, 61, 60), _mm256_set1_epi64x(i));
    return _mm256_sllv_epi64(_mm256_set1_epi64x(load_le32(keep)), to_sign);
}
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    const __m256i mask = _mm256_cmpgt_epi64(_mm256_setzero_si256(), signs_f64(keep, i));
    return _mm256_and_pd(_mm256_mul_pd(a, scale), _mm256_castsi256_pd(mask));
}
INLINE dvec choose_f64(dvec a, dvec b, const uint8_t *keep, int i)
{
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(signs_f64(keep, i)));
}
INLINE dvec unless_negative_f64(dvec a) { return _mm256_and_pd(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NLE_UQ), a); }
INLINE dvec where_nonzero_f64(dvec a, dvec b)
{
    return _mm256_and_pd(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NEQ_UQ), b);
}
INLINE dvec load_f64(const double *p) { return _mm256_loadu_pd(p); }
INLINE dvec widen_f32(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
INLINE void store_f64(double *p, dvec a, int nontemporal)
{
    if (nontemporal) {
        _mm256_stream_pd(p, a);
    } else {
        _mm256_storeu_pd(p, a);
    }
}
INLINE void fence(void) { _mm_sfence(); }

#include "kernels.inc.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
