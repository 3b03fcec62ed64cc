/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fastdrop.h: the contract of the C core.
 *
 * The core draws dropout masks from a counter and applies them in the same pass over memory. It knows nothing of
 * Python, allocates nothing, keeps no state and cannot fail; its callers keep the preconditions stated here.
 *
 * The stream, version 1. A mask is a function of (key, call, element index i, threshold D) and of nothing else:
 *
 *     words(index, call, domain) = philox4x32_10(
 *         counter = (index mod 2^32, index div 2^32, call mod 2^32, (call div 2^32) * 256 + domain),
 *         key     = (key mod 2^32, key div 2^32))                 -> w[0..3], 32 bits each
 *
 *     plane b (b = 0..7):  bit i mod 32 of words(i div 128, call, b)[(i div 32) mod 4]      -> bit 31-b of U(i)
 *     tail:                words(i div 4, call, 8)[i mod 4] >> 8                            -> bits 23..0 of U(i)
 *
 *     D = rate * 2^32, rounded to the nearest integer, ties to even
 *     element i is dropped  iff  U(i) < D
 *
 * Philox4x32-10 is the generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
 * SC'11. One block (4 words) of a plane decides one bit of 128 elements, so D is compared with whole registers of
 * elements, one plane after the other, and only the 1 in 256 that eight planes leave undecided looks at its tail.
 */
#ifndef FASTDROP_H
#define FASTDROP_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#define FD_X86 1
#elif (defined(__aarch64__) || defined(_M_ARM64)) && !defined(__AARCH64EB__)
#define FD_ARM64 1
#endif

/* One draw of a mask. threshold is D, from 0 (all kept) to 2^32 (all dropped); call is below 2^56. */
typedef struct fd_draw {
    uint64_t key;
    uint64_t call;
    uint64_t threshold;
} fd_draw;

typedef enum fd_dtype { FD_F16, FD_BF16, FD_F32, FD_F64, FD_NUM_DTYPES } fd_dtype;

/* The kernels of one instruction set.
 *
 * A string of keep bits is stored as NumPy's packbits(bitorder="little") does: element j is bit j mod 8 of byte
 * j div 8, and 1 means kept. x and y hold n elements, are aligned to their element size, and are either the same
 * array or do not overlap; no byte outside them is read or written.
 *
 * y = x * scale, rounded once to the dtype, where kept, and +0.0 where dropped, whatever x holds there. The product
 * is taken in float32 (scale is rounded to it) for float16, bfloat16 and float32, in float64 for float64.
 *
 * stream asks for stores that bypass the caches. It pays where y is larger than the last level of them.
 */
typedef struct fd_kernels {
    const char *name;

    /* The generator alone, for its known answers. rounds <= 10. */
    void (*philox)(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t result[4]);

    /* The keep bits of elements start .. start+n-1, unused bits of the last byte 0. */
    void (*keep_bits)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bits);

    /* The same, one byte an element, 0 or 1. */
    void (*keep_bools)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bools);

    /* Draw the mask of elements start .. start+n-1 and apply it to x, in one pass. By fd_dtype. */
    void (*dropout[FD_NUM_DTYPES])(const fd_draw *draw, uint64_t start, size_t n, const void *x, void *y, double scale,
                                   int stream);

    /* Apply keep bits first .. first+n-1 of a given string to x. By fd_dtype. */
    void (*apply[FD_NUM_DTYPES])(const uint8_t *bits, uint64_t first, size_t n, const void *x, void *y, double scale,
                                 int stream);
} fd_kernels;

/* The kernels of the i-th instruction set that this build holds, from the plainest to the fastest; NULL past the
 * last. The first is portable C and runs everywhere. */
const fd_kernels *fd_built(size_t i);

/* Whether this CPU, under this operating system, can run them. */
int fd_supported(size_t i);

#endif
