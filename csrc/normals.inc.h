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
    UNITS = 2, /* drawn at once */
};

/* The counters of a step's blocks, in lanes such that even32() puts the words of the blocks in their order. */
INLINE void consecutive_indices(uint64_t lanes[2 * LANES])
{
    for (int i = 0; i < 2 * LANES; ++i) {
        lanes[i % 4 / 2 * LANES + i / 4 * 2 + i % 2] = (uint64_t)i;
    }
}

/* All that follows is done to PAIRS vectors side by side: one alone is a chain of instructions that wait for each other. */
enum { PAIRS = 2 * PLANES_AT_ONCE };

INLINE void polynomial(fvec y[PAIRS], const fvec x[PAIRS], const float *coefficients, int degree)
{
    for (int j = 0; j < PAIRS; ++j) {
        y[j] = set1_f32(coefficients[degree]);
    }
    UNROLL(8)
    for (int i = degree - 1; i >= 0; --i) {
        for (int j = 0; j < PAIRS; ++j) {
            y[j] = add_f32(mul_f32(y[j], x[j]), set1_f32(coefficients[i]));
        }
    }
}

/* sqrt(-2 ln u). The multiple of 2^-31 is split into 2^k * (1 + f), with 1 + f from sqrt(1/2) to sqrt(2). Then
 * -2 ln (1 + f) is f times a polynomial, so that nothing cancels where u is near 1. */
INLINE void radii(const vec words[PAIRS], fvec r[PAIRS])
{
    static const float log_coefficients[] = {-2.00000175f, 1.00002797f, -0.66632059f, 0.49793585f,
                                             -0.40909511f, 0.37565461f, -0.24421963f};
    fvec f[PAIRS], from_k[PAIRS];
    for (int j = 0; j < PAIRS; ++j) {
        const vec u = sub_u32(bits_of_f32(add_f32(to_f32(srl_u32(words[j], 1)), set1_f32(0.5f))), set1_u32(31u << 23));
        const vec k = andv(sub_u32(u, set1_u32(0x3F3504F3)), set1_u32(0xFF800000));
        f[j] = add_f32(f32_of_bits(sub_u32(u, k)), set1_f32(-1.0f));
        from_k[j] = mul_f32(to_f32(k), set1_f32(-1.3862944f / 8388608.0f));
    }
    polynomial(r, f, log_coefficients, 6);
    for (int j = 0; j < PAIRS; ++j) {
        r[j] = sqrt_f32(add_f32(from_k[j], mul_f32(f[j], r[j])));
    }
}

/* Two normals from two words. */
INLINE void normal_pairs(const vec for_radius[PAIRS], const vec for_angle[PAIRS], fvec even[PAIRS], fvec odd[PAIRS])
{
    static const float sine[] = {0.78539423f, -0.080714f, 0.00242711f};
    static const float cosine[] = {0.99999997f, -0.30842425f, 0.01584992f, -0.00031888051f};
    fvec r[PAIRS], v[PAIRS], v2[PAIRS], s[PAIRS], c[PAIRS];
    radii(for_radius, r);
    for (int j = 0; j < PAIRS; ++j) {
        v[j] = mul_f32(to_f32(for_angle[j]), set1_f32(1.0f / 2147483648.0f));
        v2[j] = mul_f32(v[j], v[j]);
    }
    polynomial(s, v2, sine, 2);
    polynomial(c, v2, cosine, 3);
    for (int j = 0; j < PAIRS; ++j) {
        const vec swap = sll_u32(for_radius[j], 31);
        s[j] = mul_f32(r[j], mul_f32(v[j], s[j]));
        c[j] = mul_f32(r[j], flip_sign(c[j], sll_u32(for_angle[j], 31)));
        even[j] = choose_by_sign(s[j], c[j], swap);
        odd[j] = choose_by_sign(c[j], s[j], swap);
    }
}

/* The normals of AT_ONCE units. */
INLINE void draw_units(const plan *p, const uint64_t lanes[2 * LANES], uint64_t unit, float normals[UNITS * UNIT])
{
    for (int step = 0; step < UNIT_BLOCKS * UNITS; step += CHAINS * LANES) {
        blocks b;
        for (int j = 0; j < CHAINS; ++j) {
            const uint64_t first = unit * UNIT_BLOCKS + (uint64_t)(step + j / PAIR * PAIR * LANES);
            b.w0[j] = add(load_lanes(lanes + j % PAIR * LANES), set1(first));
            b.w1[j] = srl32(b.w0[j]);
            b.w2[j] = set1(p->call_low);
            b.w3[j] = set1(p->call_high + NORMAL_DOMAIN);
        }
        philox_rounds(&b, CHAINS, &p->keys, 0, PHILOX_ROUNDS - 1);
        vec for_radius[PAIRS], for_angle[PAIRS];
        for (int j = 0; j < CHAINS; j += PAIR) {
            vec words[4];
            last_round_in_pairs(&b, j, &p->keys, words);
            for_radius[j] = words[0];
            for_angle[j] = words[1];
            for_radius[j + 1] = words[2];
            for_angle[j + 1] = words[3];
        }
        fvec even[PAIRS], odd[PAIRS];
        normal_pairs(for_radius, for_angle, even, odd);
        for (int j = 0; j < PAIRS; ++j) {
            const int block = step + j / PAIR * PAIR * LANES, at = block / UNIT_BLOCKS * UNIT + block % UNIT_BLOCKS;
            float *const to = normals + at + j % PAIR * 2 * UNIT_BLOCKS;
            store_f32(to, even[j], 0);
            store_f32(to + UNIT_BLOCKS, odd[j], 0);
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
        alignas(ALIGNMENT) float normals[UNITS * UNIT];
        draw_units(&p, lanes, (start + done) / UNIT, normals);
        part = n - done < UNITS * UNIT - at ? n - done : UNITS * UNIT - at;
        if (part == UNITS * UNIT) {
            for (int i = 0; i < UNITS; ++i) {
                const size_t from = (done + (size_t)i * UNIT) * size;
                perturb(op, x + from, y + from, o->scale, normals + i * UNIT);
            }
        } else {
            alignas(ALIGNMENT) uint8_t from[UNITS * UNIT * 8] = {0}, to[UNITS * UNIT * 8];
            memcpy(from + at * size, x + done * size, part * size);
            for (size_t i = 0; i < UNITS; ++i) {
                perturb(op, from + i * UNIT * size, to + i * UNIT * size, o->scale, normals + i * UNIT);
            }
            memcpy(y + done * size, to + at * size, part * size);
        }
    }
}
