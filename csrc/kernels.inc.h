/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kernels.inc.h: the algorithm, as a template over the primitives of one instruction set.
 *
 * An isa_*.c file defines ISA, LANES, the types vec, fvec, dvec, the primitives and how the loops are shaped, and
 * includes this file, which exports one table of kernels. The shape: PLANES_AT_ONCE planes of a step are drawn side by
 * side, 1 or 2; WOVEN groups of elements are applied among the rounds of each, and GROUPS_AT_ONCE in a row besides;
 * BROADCASTS_FROM_MEMORY says that an instruction can take the same number for all lanes from memory. Primitives, in the
 * order in which those files give them:
 *
 *   64-bit lanes   set1 load_lanes store_lanes store_bits add mul32 srl32 srl64 sll64 xor3 andv andnot clear
 *                  even32 odd32 lo32 hi32 lo64 hi64 stay lowest_bit append_nonzero are_below
 *   32-bit lanes   set1_u32 sub_u32 srl_u32 sll_u32 to_f32 bits_of_f32 f32_of_bits
 *   float32        set1_f32 add_f32 mul_f32 sqrt_f32 flip_sign choose_by_sign
 *                  scale_kept_f32 choose_f32 unless_negative_f32 where_nonzero_f32
 *                  load_f32 load_f16 load_bf16 store_f32 store_f16 store_bf16
 *   bfloat16       scale_kept_bf16
 *   float64        set1_f64 add_f64 mul_f64 scale_kept_f64 choose_f64 unless_negative_f64 where_nonzero_f64
 *                  load_f64 widen_f32 store_f64
 *   memory         fence
 *
 * andnot(a, b) is a & ~b and clear(a, b, c) is a & ~(b & ~c). even32(a, b) puts, in each 128-bit group, the even 32-bit
 * lanes of a before those of b, and odd32 the odd ones; lo32, hi32, lo64 and hi64 interleave the lower or upper half of
 * each group. stay(&a) computes nothing that needs a before this place, as far as the compiler is concerned.
 *
 * lowest_bit gives for each lane the number of its lowest set bit, and anything below 64 where there is none.
 * append_nonzero(p, first, to, numbers) writes those of LANES words of 64 bits in memory that are not 0, and their
 * numbers from `first` on, and returns how many those are; it may overwrite LANES of each. are_below(words, which, limit)
 * gives a bit for each lane j: whether the low half of lane j of words[which[j] mod 4] is below the limit.
 *
 * to_f32 converts signed integers, and the two that follow it reinterpret. flip_sign(a, b) is a with its sign bits
 * xored with b's, whose other bits are 0; choose_by_sign(a, b, c) is a where the upper bit of c is set, else b.
 *
 * scale_kept(a, scale, keep, i) multiplies the lanes whose bits are set, from bit i on of the four bytes at keep, and
 * zeroes the others; choose(a, b, keep, i) takes a's lanes where they are set, else b's. unless_negative(a) zeroes the
 * lanes with a <= 0, where_nonzero(a, b) those of b with a == 0; a NaN is neither. scale_kept_bf16 goes from memory to
 * memory. widen_f32 loads LANES numbers of float32 as float64. With `nontemporal`, a store bypasses the caches if the
 * instruction set has such a store; fence makes those visible to other threads.
 */
#define CONCAT_(a, b) fd_##a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define NAME(what) CONCAT(what, ISA)

#include "operands.h"

#include "philox.inc.h"
#include "planes.inc.h"
#include "apply.inc.h"
#include "draw.inc.h"
#include "gather.inc.h"
#include "normals.inc.h"

typedef void apply_function(const uint8_t *bits, uint64_t first, size_t n, const fd_operands *operands);

/* Draw a part and apply it, and so on. Doing both at once is faster by up to a fifth, but costs a function of 8 KiB for
 * each operation and dtype: float32 has those, and plain dropout. */
static void NAME(draw_then_apply)(const fd_draw *draw, uint64_t start, size_t n, const fd_operands *operands,
                                  size_t size, apply_function *apply)
{
    enum { PART = 4 * TILE };
    uint8_t bits[PART / 8];
    const int is_random = draw->threshold != 0;
    memset(bits, 0xFF, is_random ? 0 : sizeof bits);
    for (size_t done = 0, part; done < n; done += part) {
        const fd_operands o = operands_at(operands, done, size);
        part = PART - (size_t)((start + done) % BLOCK);
        part = part < n - done ? part : n - done;
        if (is_random) {
            NAME(keep_bits)(draw, start + done, part, bits);
        }
        apply(bits, 0, part, &o);
    }
}

#define DEFINE_APPLY(op, name, dtype, size)                                                                            \
    static void NAME(apply_##name##_##dtype)(const uint8_t *bits, uint64_t first, size_t n, const fd_operands *o)      \
    {                                                                                                                  \
        apply_given(bits, first, n, (pass){op, *o, 8 * size, 8 * size, group_##dtype, 0, 0});                          \
    }
#define DEFINE_AT_ONCE(op, name, dtype, size)                                                                          \
    DEFINE_APPLY(op, name, dtype, size)                                                                                \
    static void NAME(name##_##dtype)(const fd_draw *draw, uint64_t start, size_t n, const fd_operands *o)              \
    {                                                                                                                  \
        draw_and_apply(draw, start, n, (pass){op, *o, 8 * size, 8 * size, group_##dtype, 0, 0});                       \
    }
#define DEFINE_IN_TURN(op, name, dtype, size)                                                                          \
    DEFINE_APPLY(op, name, dtype, size)                                                                                \
    static void NAME(name##_##dtype)(const fd_draw *draw, uint64_t start, size_t n, const fd_operands *o)              \
    {                                                                                                                  \
        NAME(draw_then_apply)(draw, start, n, o, size, NAME(apply_##name##_##dtype));                                  \
    }
#define DEFINE_WITH_NORMALS(op, name, dtype, size)                                                                     \
    static void NAME(name##_##dtype)(const fd_draw *draw, uint64_t start, size_t n, const fd_operands *o)              \
    {                                                                                                                  \
        draw_normals_and_apply(op, draw, start, n, o, size, unit_##dtype);                                             \
    }
#define FOR_ALL_DTYPES(define, define_f32, op, name)                                                                   \
    define(op, name, f16, 2) define(op, name, bf16, 2) define_f32(op, name, f32, 4) define(op, name, f64, 8)

FOR_ALL_DTYPES(DEFINE_AT_ONCE, DEFINE_AT_ONCE, FD_DROPOUT, dropout)
FOR_ALL_DTYPES(DEFINE_IN_TURN, DEFINE_AT_ONCE, FD_DROPOUT_ADD, dropout_add)
FOR_ALL_DTYPES(DEFINE_IN_TURN, DEFINE_AT_ONCE, FD_BIAS_DROPOUT_ADD, bias_dropout_add)
FOR_ALL_DTYPES(DEFINE_IN_TURN, DEFINE_AT_ONCE, FD_RELU_DROPOUT, relu_dropout)
FOR_ALL_DTYPES(DEFINE_IN_TURN, DEFINE_IN_TURN, FD_RELU_BACKWARD, relu_backward)
FOR_ALL_DTYPES(DEFINE_IN_TURN, DEFINE_AT_ONCE, FD_ALPHA_DROPOUT, alpha_dropout)
/* Elements move as they are, so float16 takes bfloat16's kernels, whose widening has no arithmetic. */
DEFINE_IN_TURN(FD_ZONEOUT, zoneout, bf16, 2)
DEFINE_AT_ONCE(FD_ZONEOUT, zoneout, f32, 4)
DEFINE_IN_TURN(FD_ZONEOUT, zoneout, f64, 8)
FOR_ALL_DTYPES(DEFINE_WITH_NORMALS, DEFINE_WITH_NORMALS, FD_GAUSSIAN_DROPOUT, gaussian_dropout)
FOR_ALL_DTYPES(DEFINE_WITH_NORMALS, DEFINE_WITH_NORMALS, FD_GAUSSIAN_NOISE, gaussian_noise)

#define ROW(name) {NAME(name##_f16), NAME(name##_bf16), NAME(name##_f32), NAME(name##_f64)}
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* clang-format off */
const fd_kernels CONCAT(kernels, ISA) = {
    .name = TEXT(ISA),
    .philox = NAME(philox),
    .keep_bits = NAME(keep_bits),
    .keep_bools = NAME(keep_bools),
    .keep_blocks = NAME(keep_blocks),
    .keep_at = NAME(keep_at),
    .draw = {
        [FD_DROPOUT] = ROW(dropout),
        [FD_DROPOUT_ADD] = ROW(dropout_add),
        [FD_BIAS_DROPOUT_ADD] = ROW(bias_dropout_add),
        [FD_RELU_DROPOUT] = ROW(relu_dropout),
        [FD_RELU_BACKWARD] = ROW(relu_backward),
        [FD_ALPHA_DROPOUT] = ROW(alpha_dropout),
        [FD_ZONEOUT] = {NAME(zoneout_bf16), NAME(zoneout_bf16), NAME(zoneout_f32), NAME(zoneout_f64)},
        [FD_GAUSSIAN_DROPOUT] = ROW(gaussian_dropout),
        [FD_GAUSSIAN_NOISE] = ROW(gaussian_noise),
    },
    .apply = {
        [FD_DROPOUT] = ROW(apply_dropout),
        [FD_DROPOUT_ADD] = ROW(apply_dropout_add),
        [FD_BIAS_DROPOUT_ADD] = ROW(apply_bias_dropout_add),
        [FD_RELU_DROPOUT] = ROW(apply_relu_dropout),
        [FD_RELU_BACKWARD] = ROW(apply_relu_backward),
        [FD_ALPHA_DROPOUT] = ROW(apply_alpha_dropout),
        [FD_ZONEOUT] = {NAME(apply_zoneout_bf16), NAME(apply_zoneout_bf16), NAME(apply_zoneout_f32),
                        NAME(apply_zoneout_f64)},
    },
};
/* clang-format on */

#undef TEXT
#undef TEXT_
#undef ROW
#undef FOR_ALL_DTYPES
#undef DEFINE_WITH_NORMALS
#undef DEFINE_IN_TURN
#undef DEFINE_AT_ONCE
#undef DEFINE_APPLY
#undef NAME
#undef CONCAT
#undef CONCAT_
#undef ISA
#undef LANES
#undef PLANES_AT_ONCE
#undef WOVEN
#undef GROUPS_AT_ONCE
#undef BROADCASTS_FROM_MEMORY
#undef M0
#undef M1
