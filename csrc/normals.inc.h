/* SPDX-License-Identifier: BSD-3-Clause
 *
 * normals.inc.h: from Philox blocks to normal numbers, and those applied to elements.
 *
 * Logarithm, sine and cosine are polynomials, so that everything is made of additions, multiplications and square roots
 * in float32, which IEEE 754 defines to the last bit. Nothing is fused. The coefficients are minimax fits: the relative
 * error of the logarithm is within 1.4e-6, the absolute errors of sine and cosine are within 6e-7 and 7e-8. The largest
 * number is 6.66, which one in 10^11 should exceed.
 */

enum {
    UNIT = 64, /* elements whose normals come from the same 16 blocks */
    UNIT_BLOCKS = 16,
    NORMAL_DOMAIN = 16,
};

/* The counters of a step's blocks, in lanes such that even32() puts the words of the blocks in their order. */
INLINE void consecutive_indices(uint64_t lanes[2 * LANES])
{
    for (int i = 0; i < 2 * LANES; ++i) {
        lanes[i % 4 / 2 * LANES + i / 4 * 2 + i % 2] = (uint64_t)i;
    }
}

INLINE fvec polynomial(fvec x, const float *coefficients, int degree)
{
    fvec y = set1_f32(coefficients[degree]);
    for (int i = degree - 1; i >= 0; --i) {
        y = add_f32(mul_f32(y, x), set1_f32(coefficients[i]));
    }
    return y;
}

/* sqrt(-2 ln u). The multiple of 2^-31 is split into 2^k * (1 + f), with 1 + f from sqrt(1/2) to sqrt(2). Then
 * -2 ln (1 + f) is f times a polynomial, so that nothing cancels where u is near 1. */
INLINE fvec radius(vec word)
{
    static const float log_coefficients[] = {-2.00000175f, 1.00002797f, -0.66632059f, 0.49793585f,
                                             -0.40909511f, 0.37565461f, -0.24421963f};
    const vec u = sub_u32(bits_of_f32(add_f32(to_f32(srl_u32(word, 1)), set1_f32(0.5f))), set1_u32(31u << 23));
    const vec k = andv(sub_u32(u, set1_u32(0x3F3504F3)), set1_u32(0xFF800000));
    const fvec f = add_f32(f32_of_bits(sub_u32(u, k)), set1_f32(-1.0f));
    const fvec from_k = mul_f32(to_f32(k), set1_f32(-1.3862944f / 8388608.0f));
    return sqrt_f32(add_f32(from_k, mul_f32(f, polynomial(f, log_coefficients, 6))));
}

/* Two normals from two words. */
INLINE void normal_pair(vec for_radius, vec for_angle, fvec *even, fvec *odd)
{
    static const float sine[] = {0.78539423f, -0.080714f, 0.00242711f};
    static const float cosine[] = {0.99999997f, -0.30842425f, 0.01584992f, -0.00031888051f};
    const fvec r = radius(for_radius);
    const fvec v = mul_f32(to_f32(for_angle), set1_f32(1.0f / 2147483648.0f));
    const fvec v2 = mul_f32(v, v);
    const fvec s = mul_f32(r, mul_f32(v, polynomial(v2, sine, 2)));
    const fvec c = mul_f32(r, flip_sign(polynomial(v2, cosine, 3), sll_u32(for_angle, 31)));
    const vec swap = sll_u32(for_radius, 31);
    *even = choose_by_sign(s, c, swap);
    *odd = choose_by_sign(c, s, swap);
}

INLINE void draw_unit(const plan *p, const uint64_t lanes[2 * LANES], uint64_t unit, float normals[UNIT])
{
    for (int step = 0; step < UNIT_BLOCKS; step += 2 * LANES) {
        const vec first = set1(unit * UNIT_BLOCKS + (uint64_t)step);
        const vec index[PAIR] = {add(load_lanes(lanes), first), add(load_lanes(lanes + LANES), first)};
        blocks b = counters(p, index, NORMAL_DOMAIN, PAIR);
        philox_rounds(&b, PAIR, &p->keys, 0, PHILOX_ROUNDS);
        fvec n[4];
        normal_pair(even32(b.w0[0], b.w0[1]), even32(b.w1[0], b.w1[1]), &n[0], &n[1]);
        normal_pair(even32(b.w2[0], b.w2[1]), even32(b.w3[0], b.w3[1]), &n[2], &n[3]);
        for (int r = 0; r < 4; ++r) {
            store_f32(normals + UNIT_BLOCKS * r + step, n[r], 0);
        }
    }
}

INLINE fvec perturbed_f32(fd_op op, fvec x, fvec scale, const float *normals)
{
    const fvec noise = mul_f32(scale, load_f32(normals));
    return op == FD_GAUSSIAN_NOISE ? add_f32(x, noise) : mul_f32(x, add_f32(set1_f32(1.0f), noise));
}

INLINE dvec perturbed_f64(fd_op op, dvec x, dvec scale, const float *normals)
{
    const dvec noise = mul_f64(scale, widen_f32(normals));
    return op == FD_GAUSSIAN_NOISE ? add_f64(x, noise) : mul_f64(x, add_f64(set1_f64(1.0), noise));
}

typedef void unit_function(fd_op op, const void *x, void *y, double scale, const float normals[UNIT]);

#define DEFINE_UNIT_FUNCTION(dtype, element, arithmetic, vector, lanes)                                                \
    INLINE void unit_##dtype(fd_op op, const void *x, void *y, double scale, const float normals[UNIT])                \
    {                                                                                                                  \
        for (int i = 0; i < UNIT; i += lanes) {                                                                        \
            const vector factor = number_##arithmetic(scale), in = load_##dtype((const element *)x + i);               \
            store_##dtype((element *)y + i, perturbed_##arithmetic(op, in, factor, normals + i), 0);                   \
        }                                                                                                              \
    }

DEFINE_UNIT_FUNCTION(f16, uint16_t, f32, fvec, F32_LANES)
DEFINE_UNIT_FUNCTION(bf16, uint16_t, f32, fvec, F32_LANES)
DEFINE_UNIT_FUNCTION(f32, float, f32, fvec, F32_LANES)
DEFINE_UNIT_FUNCTION(f64, double, f64, dvec, F64_LANES)

#undef DEFINE_UNIT_FUNCTION

/* Whole units go from memory to memory, and parts of units at the ends through a copy. The generator takes so much
 * longer than memory that non-temporal stores would gain nothing. */
INLINE void draw_normals_and_apply(fd_op op, const fd_draw *draw, uint64_t start, size_t n, const fd_operands *o,
                                   size_t size, unit_function *perturb)
{
    const plan p = make_plan(draw);
    const uint8_t *const x = o->x;
    uint8_t *const y = o->y;
    uint64_t lanes[2 * LANES];
    consecutive_indices(lanes);
    for (size_t done = 0, part; done < n; done += part) {
        const size_t at = (size_t)((start + done) % UNIT);
        alignas(ALIGNMENT) float normals[UNIT];
        draw_unit(&p, lanes, (start + done) / UNIT, normals);
        part = n - done < UNIT - at ? n - done : UNIT - at;
        if (part == UNIT) {
            perturb(op, x + done * size, y + done * size, o->scale, normals);
        } else {
            alignas(ALIGNMENT) uint8_t from[UNIT * 8] = {0}, to[UNIT * 8];
            memcpy(from + at * size, x + done * size, part * size);
            perturb(op, from, to, o->scale, normals);
            memcpy(y + done * size, to + at * size, part * size);
        }
    }
}
