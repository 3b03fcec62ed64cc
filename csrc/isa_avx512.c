/* SPDX-License-Identifier: BSD-3-Clause
 *
 * isa_avx512.c: the primitives for AVX-512 (F, BW, DQ, VL). Keep bits go from memory into mask registers.
 */
#include "fastdrop.h"

#ifdef FD_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("bmi,bmi2,popcnt,avx512cd,avx512f,avx512bw,avx512dq,avx512vl"))),   \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("bmi,bmi2,popcnt,avx512cd,avx512f,avx512bw,avx512dq,avx512vl")
#endif

#include "compiler.h"

#define ISA avx512
#define LANES 8
#define PLANES_AT_ONCE 2
#define BROADCASTS_FROM_MEMORY 1
#define WOVEN 8
#define GROUPS_AT_ONCE 4

typedef __m512i vec;
typedef __m512 fvec;
typedef __m512d dvec;

/* Compilers load a mask through a general register, whatever the intrinsic says, so the load is spelled out. They also
 * make a load part of the masked instruction that uses it, which then waits for its mask: with data in the last-level
 * cache that takes an eighth longer. */
#if defined(_MSC_VER) && !defined(__clang__)
#define LOAD_MASK(mask, suffix, p) memcpy(&(mask), (p), sizeof(mask))
#define LOAD_FIRST(a) (void)(a)
#define KEEP_PLACE(a) (void)(a)
#else
#define LOAD_MASK(mask, suffix, p) __asm__("kmov" suffix " %1, %0" : "=k"(mask) : "m"(*(p)))
#define LOAD_FIRST(a) __asm__("" : "+v"(a))
#define KEEP_PLACE(a) __asm__ volatile("" : "+v"(a))
#endif

INLINE vec set1(uint64_t a) { return _mm512_set1_epi64((long long)a); }
INLINE vec load_lanes(const uint64_t *p) { return _mm512_loadu_si512(p); }
INLINE void store_lanes(uint64_t *p, vec a) { _mm512_storeu_si512(p, a); }
INLINE void store_bits(uint8_t *p, vec a) { _mm512_storeu_si512(p, a); }
INLINE vec add(vec a, vec b) { return _mm512_add_epi64(a, b); }
INLINE vec mul32(vec a, vec b) { return _mm512_mul_epu32(a, b); }
INLINE vec srl32(vec a) { return _mm512_srli_epi64(a, 32); }
INLINE vec srl64(vec a, unsigned n) { return _mm512_srli_epi64(a, n); }
INLINE vec sll64(vec a, unsigned n) { return _mm512_slli_epi64(a, n); }
INLINE vec xor3(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
INLINE vec andv(vec a, vec b) { return _mm512_and_si512(a, b); }
INLINE vec andnot(vec a, vec b) { return _mm512_andnot_si512(b, a); }
INLINE vec clear(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0xB0); }
INLINE vec even32(vec a, vec b)
{
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88));
}
INLINE vec odd32(vec a, vec b)
{
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xDD));
}
INLINE vec lo32(vec a, vec b) { return _mm512_unpacklo_epi32(a, b); }
INLINE vec hi32(vec a, vec b) { return _mm512_unpackhi_epi32(a, b); }
INLINE vec lo64(vec a, vec b) { return _mm512_unpacklo_epi64(a, b); }
INLINE vec hi64(vec a, vec b) { return _mm512_unpackhi_epi64(a, b); }
INLINE vec lowest_bit(vec a)
{
    const __m512i alone = _mm512_and_si512(a, _mm512_sub_epi64(_mm512_setzero_si512(), a));
    return _mm512_sub_epi64(_mm512_set1_epi64(63), _mm512_lzcnt_epi64(alone));
}
INLINE unsigned append_nonzero(const uint8_t *p, uint64_t first, uint64_t *to, uint64_t *numbers)
{
    const __m512i words = _mm512_loadu_si512(p);
    const __m512i all =
        _mm512_add_epi64(_mm512_set1_epi64((long long)first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    const __mmask8 holds = _mm512_test_epi64_mask(words, words);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(holds, words));
    _mm512_storeu_si512(numbers, _mm512_maskz_compress_epi64(holds, all));
    return (unsigned)_mm_popcnt_u32(holds);
}
INLINE unsigned are_below(const vec words[4], vec which, uint32_t limit)
{
    const __mmask8 odd = _mm512_test_epi64_mask(which, _mm512_set1_epi64(1));
    const __mmask8 upper = _mm512_test_epi64_mask(which, _mm512_set1_epi64(2));
    const __m512i low = _mm512_mask_blend_epi64(odd, words[0], words[1]);
    const __m512i high = _mm512_mask_blend_epi64(odd, words[2], words[3]);
    const __m512i word = _mm512_slli_epi64(_mm512_mask_blend_epi64(upper, low, high), 32);
    return _mm512_cmplt_epu64_mask(word, _mm512_set1_epi64((long long)((uint64_t)limit << 32)));
}
/* Nothing that uses a is computed before this place. */
INLINE void stay(vec *a) { KEEP_PLACE(*a); }

INLINE vec set1_u32(uint32_t a) { return _mm512_set1_epi32((int)a); }
INLINE vec sub_u32(vec a, vec b) { return _mm512_sub_epi32(a, b); }
INLINE vec srl_u32(vec a, unsigned n) { return _mm512_srli_epi32(a, n); }
INLINE vec sll_u32(vec a, unsigned n) { return _mm512_slli_epi32(a, n); }
INLINE fvec to_f32(vec a) { return _mm512_cvtepi32_ps(a); }
INLINE vec bits_of_f32(fvec a) { return _mm512_castps_si512(a); }
INLINE fvec f32_of_bits(vec a) { return _mm512_castsi512_ps(a); }

INLINE fvec set1_f32(float a) { return _mm512_set1_ps(a); }
INLINE fvec add_f32(fvec a, fvec b) { return _mm512_add_ps(a, b); }
INLINE fvec mul_f32(fvec a, fvec b) { return _mm512_mul_ps(a, b); }
INLINE fvec sqrt_f32(fvec a) { return _mm512_sqrt_ps(a); }
INLINE fvec flip_sign(fvec a, vec b) { return f32_of_bits(_mm512_xor_si512(bits_of_f32(a), b)); }
INLINE fvec choose_by_sign(fvec a, fvec b, vec c) { return _mm512_mask_blend_ps(_mm512_movepi32_mask(c), b, a); }
INLINE __mmask16 mask_f32(const uint8_t *keep, int i)
{
    __mmask16 mask;
    LOAD_MASK(mask, "w", (const uint8_t (*)[2])(keep + i / 8));
    return mask;
}
INLINE fvec scale_kept_f32(fvec a, fvec scale, const uint8_t *keep, int i)
{
    const __mmask16 mask = mask_f32(keep, i);
    return _mm512_maskz_mul_ps(mask, a, scale);
}
INLINE fvec choose_f32(fvec a, fvec b, const uint8_t *keep, int i)
{
    const __mmask16 mask = mask_f32(keep, i);
    return _mm512_mask_blend_ps(mask, b, a);
}
INLINE fvec unless_negative_f32(fvec a)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLE_UQ), a);
}
INLINE fvec where_nonzero_f32(fvec a, fvec b)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), b);
}
INLINE fvec load_f32(const float *p)
{
    fvec a = _mm512_loadu_ps(p);
    LOAD_FIRST(a);
    return a;
}
INLINE fvec load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE fvec load_bf16(const uint16_t *p)
{
    return f32_of_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE void store_f32(float *p, fvec a, int nontemporal)
{
    if (nontemporal) {
        _mm512_stream_ps(p, a);
    } else {
        _mm512_storeu_ps(p, a);
    }
}
INLINE void store_f16(uint16_t *p, fvec a, int nontemporal)
{
    const __m256i half = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (nontemporal) {
        _mm256_stream_si256((__m256i *)p, half);
    } else {
        _mm256_storeu_si256((__m256i *)p, half);
    }
}
/* Half a unit of the upper halves is added, or just less for a tie that goes down to an even number. */
INLINE __m512i round_bf16(fvec a)
{
    const __m512i u = _mm512_castps_si512(a);
    const __mmask16 is_odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    return _mm512_add_epi32(u, _mm512_mask_blend_epi32(is_odd, _mm512_set1_epi32(0x7FFF), _mm512_set1_epi32(0x8000)));
}
INLINE void store_bf16(uint16_t *p, fvec a, int nontemporal)
{
    const __m256i upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(a), 16));
    if (nontemporal) {
        _mm256_stream_si256((__m256i *)p, upper);
    } else {
        _mm256_storeu_si256((__m256i *)p, upper);
    }
}
/* Rounded with integers: the bfloat16 instructions treat subnormals as zero. */
INLINE void scale_kept_bf16(const uint16_t *x, uint16_t *y, fvec scale, const uint8_t *keep, int i, int nontemporal)
{
    const __m512i both = _mm512_loadu_si512(x), upper = _mm512_set1_epi32((int)0xFFFF0000);
    const __m512i even = round_bf16(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), scale));
    const __m512i odd = round_bf16(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(both, upper)), scale));
    const __m512i merged = _mm512_ternarylogic_epi32(upper, odd, _mm512_srli_epi32(even, 16), 0xEA);
    __mmask32 mask;
    LOAD_MASK(mask, "d", (const uint8_t (*)[4])(keep + i / 8));
    const __m512i kept = _mm512_maskz_mov_epi16(mask, merged);
    if (nontemporal) {
        _mm512_stream_si512((__m512i *)y, kept);
    } else {
        _mm512_storeu_si512(y, kept);
    }
}

INLINE dvec set1_f64(double a) { return _mm512_set1_pd(a); }
INLINE dvec add_f64(dvec a, dvec b) { return _mm512_add_pd(a, b); }
INLINE dvec mul_f64(dvec a, dvec b) { return _mm512_mul_pd(a, b); }
INLINE __mmask8 mask_f64(const uint8_t *keep, int i)
{
    __mmask8 mask;
    LOAD_MASK(mask, "b", keep + i / 8);
    return mask;
}
INLINE dvec scale_kept_f64(dvec a, dvec scale, const uint8_t *keep, int i)
{
    const __mmask8 mask = mask_f64(keep, i);
    return _mm512_maskz_mul_pd(mask, a, scale);
}
INLINE dvec choose_f64(dvec a, dvec b, const uint8_t *keep, int i)
{
    const __mmask8 mask = mask_f64(keep, i);
    return _mm512_mask_blend_pd(mask, b, a);
}
INLINE dvec unless_negative_f64(dvec a)
{
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NLE_UQ), a);
}
INLINE dvec where_nonzero_f64(dvec a, dvec b)
{
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NEQ_UQ), b);
}
INLINE dvec load_f64(const double *p)
{
    dvec a = _mm512_loadu_pd(p);
    LOAD_FIRST(a);
    return a;
}
INLINE dvec widen_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE void store_f64(double *p, dvec a, int nontemporal)
{
    if (nontemporal) {
        _mm512_stream_pd(p, a);
    } else {
        _mm512_storeu_pd(p, a);
    }
}
INLINE void fence(void) { _mm_sfence(); }

#include "kernels.inc.h"

#undef LOAD_MASK
#undef LOAD_FIRST
#undef KEEP_PLACE

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
