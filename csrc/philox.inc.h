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

enum { PAIR = 2, PHILOX_ROUNDS = 10 };

/* Round keys, of which 7 or 10 pairs are used. */
typedef struct {
    uint64_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS];
} round_keys;

/* The four words of 2 * LANES blocks: first counters, in the end results. */
typedef struct {
    vec w0[PAIR], w1[PAIR], w2[PAIR], w3[PAIR];
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

INLINE void philox_round(blocks *b, vec k0, vec k1)
{
    const vec m0 = set1(UINT32_C(0xD2511F53)), m1 = set1(UINT32_C(0xCD9E8D57));
    for (int j = 0; j < PAIR; ++j) {
        const vec p0 = mul32(b->w0[j], m0), p1 = mul32(b->w2[j], m1);
        b->w0[j] = xor3(srl32(p1), b->w1[j], k0);
        b->w1[j] = p1;
        b->w2[j] = xor3(srl32(p0), b->w3[j], k1);
        b->w3[j] = p0;
    }
}

INLINE void philox(blocks *b, const round_keys *keys, int rounds)
{
    UNROLL(10)
    for (int r = 0; r < rounds; ++r) {
        philox_round(b, set1(keys->k0[r]), set1(keys->k1[r]));
    }
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
    philox(&b, &keys, rounds);
    const vec *const words[4] = {b.w0, b.w1, b.w2, b.w3};
    for (int i = 0; i < 4; ++i) {
        uint64_t lanes[LANES];
        store_lanes(lanes, words[i][PAIR - 1]);
        result[i] = (uint32_t)lanes[LANES - 1];
    }
}
