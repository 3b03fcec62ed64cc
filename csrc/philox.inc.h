/* SPDX-License-Identifier: BSD-3-Clause
 *
 * philox.inc.h: Philox4x32 on 2 * LANES blocks at a time.
 *
 * A word stands in the low half of a 64-bit lane and the high half holds anything: mul32 multiplies low halves into
 * the whole lane, so a round needs no shuffle. Two vectors side by side hide the latency of the multiply.
 *
 * The compiler moves out of a loop around philox() what stays constant in it. Along the planes of a block only the
 * fourth counter word changes, so a fifth of all multiplies is saved without a line of code here.
 */

enum { PAIR = 2, CHAINS = PAIR * PLANES_AT_ONCE, PHILOX_ROUNDS = 10 };

#define M0 UINT32_C(0xD2511F53)
#define M1 UINT32_C(0xCD9E8D57)

/* Round keys, of which 7 or 10 pairs are used. */
typedef struct {
    uint64_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS];
} round_keys;

/* The four words of blocks, LANES a chain: first counters, in the end results. */
typedef struct {
    vec w0[CHAINS], w1[CHAINS], w2[CHAINS], w3[CHAINS];
} blocks;

INLINE round_keys expand_key(uint64_t key)
{
    round_keys keys;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int r = 0; r < PHILOX_ROUNDS; ++r) {
        keys.k0[r] = k0;
        keys.k1[r] = k1;
        k0 += UINT32_C(0x9E3779B9); /* the golden ratio */
        k1 += UINT32_C(0xBB67AE85); /* sqrt(3) - 1 */
    }
    return keys;
}

/* Rounds `begin` to `end` of the first chains. */
INLINE void philox_rounds(blocks *b, int chains, const round_keys *keys, int begin, int end)
{
    const vec m0 = set1(M0), m1 = set1(M1);
    UNROLL(10)
    for (int r = begin; r < end; ++r) {
        const vec k0 = set1(keys->k0[r]), k1 = set1(keys->k1[r]);
        for (int j = 0; j < chains; ++j) {
            const vec p0 = mul32(b->w0[j], m0), p1 = mul32(b->w2[j], m1);
            b->w0[j] = xor3(srl32(p1), b->w1[j], k0);
            b->w1[j] = p1;
            b->w2[j] = xor3(srl32(p0), b->w3[j], k1);
            b->w3[j] = p0;
        }
    }
}

/* The last round of two chains, for their words in pairs: even32(), of a word's two vectors, without making those. That
 * takes 7 instructions a chain in place of 10. */
INLINE void last_round_in_pairs(const blocks *b, int first, const round_keys *keys, vec words[4])
{
    const vec m0 = set1(M0), m1 = set1(M1), *const w0 = b->w0 + first, *const w2 = b->w2 + first;
    const vec k0 = set1(keys->k0[PHILOX_ROUNDS - 1] * UINT64_C(0x100000001));
    const vec k1 = set1(keys->k1[PHILOX_ROUNDS - 1] * UINT64_C(0x100000001));
    const vec p0 = mul32(w0[0], m0), q0 = mul32(w0[1], m0), p1 = mul32(w2[0], m1), q1 = mul32(w2[1], m1);
    words[0] = xor3(odd32(p1, q1), even32(b->w1[first], b->w1[first + 1]), k0);
    words[1] = even32(p1, q1);
    words[2] = xor3(odd32(p0, q0), even32(b->w3[first], b->w3[first + 1]), k1);
    words[3] = even32(p0, q0);
}

static void NAME(philox)(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t result[4])
{
    const round_keys keys = expand_key(key[0] | (uint64_t)key[1] << 32);
    blocks b;
    for (int j = 0; j < PAIR; ++j) {
        b.w0[j] = set1(counter[0]);
        b.w1[j] = set1(counter[1]);
        b.w2[j] = set1(counter[2]);
        b.w3[j] = set1(counter[3]);
    }
    philox_rounds(&b, PAIR, &keys, 0, rounds);
    const vec *const words[4] = {b.w0, b.w1, b.w2, b.w3};
    for (int i = 0; i < 4; ++i) {
        uint64_t lanes[LANES];
        store_lanes(lanes, words[i][PAIR - 1]);
        result[i] = (uint32_t)lanes[LANES - 1];
    }
}
