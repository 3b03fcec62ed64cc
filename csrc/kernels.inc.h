/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kernels.inc.h: the algorithm, as a template over the primitives of one instruction set.
 *
 * An isa_*.c file defines ISA, LANES, the types vec, fvec, dvec and the primitives, and includes this file, which
 * exports one table of kernels. Primitives, in the order in which each of those files gives them:
 *
 *   64-bit lanes   set1 load_lanes store_lanes store_bits add mul32 srl32 xor3 and andnot clear
 *                  even32 lo32 hi32 lo64 hi64 nonzero
 *   float32        set1_f32 load_f32 load_f16 scale_kept_f32 store_f32 store_f16
 *   bfloat16       scale_kept_bf16
 *   float64        set1_f64 load_f64 scale_kept_f64 store_f64 fence
 *
 * andnot(a, b) is a & ~b and clear(a, b, c) is a & ~(b & ~c). even32(a, b) puts, in each 128-bit group, the even 32-bit
 * lanes of a before those of b; lo32, hi32, lo64 and hi64 interleave the lower or upper half of each group. nonzero gives
 * a bit for each of LANES words in memory. scale_kept(a, scale, keep, i) multiplies the lanes whose bits are set, from bit
 * i on of the four bytes at keep, and zeroes the others; scale_kept_bf16 does so from memory to memory. A store with `stream` bypasses the caches, where there is such a
 * store; fence makes those visible to other threads.
 */
#define CONCAT_(a, b) fd_##a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define NAME(what) CONCAT(what, ISA)

#include "philox.inc.h"
#include "planes.inc.h"
#include "apply.inc.h"

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

const fd_kernels CONCAT(kernels, ISA) = {
    .name = TEXT(ISA),
    .philox = NAME(philox),
    .keep_bits = NAME(keep_bits),
    .keep_bools = NAME(keep_bools),
    .dropout = {NAME(dropout_f16), NAME(dropout_bf16), NAME(dropout_f32), NAME(dropout_f64)},
    .apply = {NAME(apply_f16), NAME(apply_bf16), NAME(apply_f32), NAME(apply_f64)},
};

#undef TEXT
#undef TEXT_
#undef NAME
#undef CONCAT
#undef CONCAT_
#undef ISA
