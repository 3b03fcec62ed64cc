/* SPDX-License-Identifier: BSD-3-Clause
 *
 * compiler.h: what compilers spell differently, and the few scalar helpers that every kernel file uses.
 */
#ifndef FASTDROP_COMPILER_H
#define FASTDROP_COMPILER_H

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#include <math.h>
#define INLINE static __forceinline
#define UNROLL(n)
#define NOINLINE static __declspec(noinline)
#define HIDE(p) (void)(p)
#else
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
/* From here on the compiler does not know what p points to. */
#define HIDE(p) __asm__("" : "+r"(p))
#define PRAGMA_(text) _Pragma(#text)
#ifdef __clang__
#define UNROLL(n) PRAGMA_(clang loop unroll_count(n))
#else
#define UNROLL(n) PRAGMA_(GCC unroll n)
#endif
#endif

/* x87 rounds a double product twice. */
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 2
#error "fastdrop needs IEEE arithmetic in the type itself: compile with -msse2 -mfpmath=sse"
#endif

INLINE unsigned ctz64(uint64_t a)
{
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long at;
    _BitScanForward64(&at, a);
    return at;
#else
    return (unsigned)__builtin_ctzll(a);
#endif
}

/* Eight little-endian bytes. */
INLINE uint64_t load_le64(const uint8_t *p)
{
    uint64_t a;
    memcpy(&a, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    a = __builtin_bswap64(a);
#endif
    return a;
}

INLINE void store_le64(uint8_t *p, uint64_t a)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    a = __builtin_bswap64(a);
#endif
    memcpy(p, &a, 8);
}

INLINE uint32_t load_le32(const uint8_t *p)
{
    uint32_t a;
    memcpy(&a, p, 4);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    a = __builtin_bswap32(a);
#endif
    return a;
}

INLINE void store_le32(uint8_t *p, uint32_t a)
{
    for (int i = 0; i < 4; ++i) {
        p[i] = (uint8_t)(a >> 8 * i);
    }
}

/* One instruction, given -fno-math-errno. */
INLINE float square_root(float a)
{
#if defined(_MSC_VER) && !defined(__clang__)
    return sqrtf(a);
#else
    return __builtin_sqrtf(a);
#endif
}

INLINE void prefetch(const void *p)
{
#if defined(_MSC_VER) && !defined(__clang__)
    (void)p;
#else
    __builtin_prefetch(p);
#endif
}

#endif
