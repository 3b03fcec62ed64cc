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
 * Normal numbers N(i) come from domain 16. A block gives four, to elements 16 apart, so that neighbouring blocks serve
 * neighbouring elements.
 *
 *     w = words(16 * (i div 64) + i mod 16, call, 16),    r = (i div 16) mod 4
 *     u = (w[r & 2] >> 1) + 0.5, as a multiple of 2^-31; v = w[r | 1] as a signed number, in units of 2^31
 *     N(i) = sqrt(-2 ln u) * (c or s),  c = cos(pi/4 v), with the sign of bit 0 of w[r | 1];  s = sin(pi/4 v)
 *     even r takes c and odd r takes s, or the other way round where bit 0 of w[r & 2] is set
 *
 * That is the transform of Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29
 * (1958). normals.inc.h defines its functions to the last bit.
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

/* What is done with the elements. d is x * scale where kept and +0.0 where dropped, whatever x holds there; N is a
 * standard normal number. Everything is computed in the order written here, and each step is rounded once to the
 * arithmetic type: float64 for float64, float32 for the others. The result is rounded once to the dtype. */
typedef enum fd_op {
    FD_DROPOUT,          /* y = d */
    FD_DROPOUT_ADD,      /* y = other + d */
    FD_BIAS_DROPOUT_ADD, /* y = other + d, with x + bias for x */
    FD_RELU_DROPOUT,     /* y = d, with +0.0 for x where x <= 0 */
    FD_RELU_BACKWARD,    /* y = d where other != 0, else +0.0 */
    FD_ALPHA_DROPOUT,    /* y = x * scale + shift where kept, fill where dropped */
    FD_ZONEOUT,          /* y = x where kept, other where dropped */
    FD_GAUSSIAN_DROPOUT, /* y = x * (1 + scale * N) */
    FD_GAUSSIAN_NOISE,   /* y = x + scale * N */
    FD_NUM_OPS
} fd_op;

/* The arrays that an operation works on, and its numbers; those that it does not use are ignored. Element i takes
 * bias[(bias_at + i) mod period], where period is at least 32. */
typedef struct fd_operands {
    const void *x, *other, *bias;
    void *y;
    size_t bias_at, period;
    double scale, shift, fill;
    int nontemporal; /* store past the caches: that pays where y is larger than the last of them */
} fd_operands;

/* The kernels of one instruction set.
 *
 * A string of keep bits is stored as NumPy's packbits(bitorder="little") does: element j is bit j mod 8 of byte
 * j div 8, and 1 means kept. Arrays hold n elements and are aligned to their element size. An array that is read is
 * either y itself or does not overlap it. No byte outside the arrays is read or written. */
typedef struct fd_kernels {
    const char *name;

    /* The generator alone, for its known answers. rounds <= 10. */
    void (*philox)(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t result[4]);

    /* The keep bits of elements start .. start+n-1, unused bits of the last byte 0. */
    void (*keep_bits)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bits);

    /* The same, one byte per element, 0 or 1. */
    void (*keep_bools)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bools);

    /* The keep bits of n blocks anywhere, 16 bytes each: block b has the elements 128 * b .. 128 * b + 127. */
    void (*keep_blocks)(const fd_draw *draw, const uint64_t *block, size_t n, uint8_t *bits);

    /* The keep bits of n elements anywhere, unused bits of the last byte 0. */
    void (*keep_at)(const fd_draw *draw, const uint64_t *index, size_t n, uint8_t *bits);

    /* Draw for the elements start .. start+n-1, and do the operation with them. */
    void (*draw[FD_NUM_OPS][FD_NUM_DTYPES])(const fd_draw *draw, uint64_t start, size_t n, const fd_operands *operands);

    /* The same with keep bits first .. first+n-1 of a given string; NULL for the operations that take normals. */
    void (*apply[FD_NUM_OPS][FD_NUM_DTYPES])(const uint8_t *bits, uint64_t first, size_t n,
                                             const fd_operands *operands);
} fd_kernels;

/* The kernels of the i-th instruction set that this build holds, from the plainest to the fastest; NULL past the
 * last. The first is portable C and runs everywhere. */
const fd_kernels *fd_built(size_t i);

/* Whether this CPU, under this operating system, can run them. */
int fd_supported(size_t i);

/* Maps an element's position in the array to its index in the stream: the element with coordinates c has the index
 * offset + sum(c[d] * stride[d]). A stride of 0 shares decisions along a dimension. With ndim 0, element i has the
 * index offset + i. If keep bits are given, the index is that of a bit in their string, and the draw is ignored. */
enum { FD_MAX_DIMS = 64 };

typedef struct fd_index_map {
    int64_t offset;
    int ndim;
    int64_t shape[FD_MAX_DIMS], stride[FD_MAX_DIMS];
    const uint8_t *bits; /* or NULL */
    size_t bytes;        /* of bits */
} fd_index_map;

/* An operation on a whole array. */
typedef struct fd_job {
    const fd_kernels *kernels;
    fd_draw draw;
    fd_index_map map;
    fd_op op;
    fd_dtype dtype;
} fd_job;

/* Do the elements first .. first+n-1 of the array, with operands whose memory begins with element `first`. */
void fd_walk(const fd_job *job, int64_t first, size_t n, const fd_operands *operands);

/* Write which of them are kept, one byte per element. */
void fd_walk_keep(const fd_job *job, int64_t first, size_t n, uint8_t *bools);

/* Bytes that fd_order_bits() may write behind the last bit. */
enum { FD_BITS_SLACK = 9 };

/* Write the given keep bits of all n elements of a map in the order of the array, unused bits of the last byte 0.
 * `ordered` has room for them and for FD_BITS_SLACK bytes more, which are overwritten too, and holds 0. */
void fd_order_bits(const fd_index_map *map, size_t n, uint8_t *ordered);

#endif
