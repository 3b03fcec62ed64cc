/* SPDX-License-Identifier: BSD-3-Clause
 *
 * planes.inc.h: from Philox blocks to the keep bits of a tile.
 *
 * U(i) < D is decided from the most significant bit down, for 128 elements a block at a time. An element is
 * undecided while the bits of U and D agree; it is below D where they first differ and D has the set bit.
 */

enum {
    BLOCK = 128,              /* elements whose plane bits one block holds */
    TILE = 2048,              /* elements drawn at a time: large enough to share the tails' Philox */
    GROUPS = LANES / 2,       /* 128-bit groups of a vector */
    STEP = 2 * LANES * BLOCK, /* elements that one philox() decides, 1 / STEPS of a tile */
    STEPS = TILE / STEP,
    PLANES = 8,
    TAIL_DOMAIN = 8,
    FEW_BLOCKS = 2,
};

/* What stays the same along a draw. */
typedef struct {
    round_keys keys;
    uint64_t call_low;
    uint64_t call_high; /* with domain 0 */
    uint32_t threshold; /* D mod 2^32 */
    int all_dropped;    /* D is 2^32 */
    int planes;         /* down to the last set bit of D: 1 for rate 0.5, 3 for 0.125, 0 where nothing is random */
    int has_tail;       /* D has bits below the planes */
} plan;

INLINE plan make_plan(const fd_draw *draw)
{
    plan p;
    p.keys = expand_key(draw->key);
    p.call_low = (uint32_t)draw->call;
    p.call_high = (draw->call >> 32) << 8;
    p.threshold = (uint32_t)draw->threshold;
    p.all_dropped = draw->threshold >> 32 != 0;
    p.has_tail = (p.threshold & 0xFFFFFF) != 0;
    p.planes = 0;
    while (p.planes < PLANES && p.threshold << p.planes != 0) {
        ++p.planes;
    }
    return p;
}

/* The counters of blocks with these indices. */
INLINE blocks counters(const plan *p, const vec index[PAIR], uint64_t domain)
{
    blocks b;
    for (int j = 0; j < PAIR; ++j) {
        b.w0[j] = index[j];
        b.w1[j] = srl32(index[j]);
        b.w2[j] = set1(p->call_low);
        b.w3[j] = set1(p->call_high + domain);
    }
    return b;
}

/* The comparison in progress, in the order of the lanes: vector r holds word r of each of the blocks of a step. */
typedef struct {
    vec kept[4], undecided[4];
} comparison;

/* Lanes of counters such that the words of a step interleave by unpacking within 128-bit groups: in the merged
 * vectors of a comparison, lane 4g + j holds block GROUPS * j + g. */
INLINE void first_indices(uint64_t lanes[2 * LANES])
{
    for (int g = 0; g < GROUPS; ++g) {
        for (int j = 0; j < 4; ++j) {
            lanes[(j / 2) * LANES + 2 * g + j % 2] = (uint64_t)(GROUPS * j + g);
        }
    }
}

INLINE void compare_plane(comparison *c, const plan *p, const vec index[PAIR], int plane)
{
    blocks b = counters(p, index, (uint64_t)plane);
    philox(&b, &p->keys, PHILOX_ROUNDS);
    const vec *const words[4] = {b.w0, b.w1, b.w2, b.w3};
    if (p->threshold >> (31 - plane) & 1) {
        for (int r = 0; r < 4; ++r) {
            const vec bits = even32(words[r][0], words[r][1]);
            c->kept[r] = clear(c->kept[r], c->undecided[r], bits);
            c->undecided[r] = andv(c->undecided[r], bits);
        }
    } else {
        for (int r = 0; r < 4; ++r) {
            const vec bits = even32(words[r][0], words[r][1]);
            c->undecided[r] = andnot(c->undecided[r], bits);
        }
    }
}

/* Write the words of a step in the order of its elements. */
INLINE void store_step(uint8_t *bits, const vec w[4])
{
    const vec lo01 = lo32(w[0], w[1]), lo23 = lo32(w[2], w[3]);
    const vec hi01 = hi32(w[0], w[1]), hi23 = hi32(w[2], w[3]);
    const size_t row = STEP / 4 / 8;
    store_bits(bits, lo64(lo01, lo23));
    store_bits(bits + row, hi64(lo01, lo23));
    store_bits(bits + 2 * row, lo64(hi01, hi23));
    store_bits(bits + 3 * row, hi64(hi01, hi23));
}

/* The words of 2 * LANES blocks with counters of their own: word r of lane j goes to w[r][j]. */
INLINE void words_at(const plan *p, const uint64_t index[2 * LANES], const uint64_t high[2 * LANES],
                     uint64_t w[4][2 * LANES])
{
    blocks b;
    for (int j = 0; j < PAIR; ++j) {
        b.w0[j] = load_lanes(index + j * LANES);
        b.w1[j] = srl32(b.w0[j]);
        b.w2[j] = set1(p->call_low);
        b.w3[j] = load_lanes(high + j * LANES);
    }
    philox(&b, &p->keys, PHILOX_ROUNDS);
    const vec *const words[4] = {b.w0, b.w1, b.w2, b.w3};
    for (int r = 0; r < 4; ++r) {
        store_lanes(w[r], words[r][0]);
        store_lanes(w[r] + LANES, words[r][1]);
    }
}

/* For a run within FEW_BLOCKS, planes stand beside blocks in the lanes: eight planes of two blocks are one or a few
 * words_at(), where a step would draw thousands of elements that nobody asked for. */
INLINE void draw_few(const plan *p, uint64_t block, uint8_t *keep, uint8_t *undecided)
{
    uint64_t w[PLANES * FEW_BLOCKS / (2 * LANES)][4][2 * LANES];
    for (int i = 0; i < p->planes * FEW_BLOCKS; i += 2 * LANES) {
        uint64_t index[2 * LANES], high[2 * LANES];
        for (int j = 0; j < 2 * LANES; ++j) {
            index[j] = block + (uint64_t)((i + j) % FEW_BLOCKS);
            high[j] = p->call_high + (uint64_t)((i + j) / FEW_BLOCKS);
        }
        words_at(p, index, high, w[i / (2 * LANES)]);
    }
    memset(undecided, 0, TILE / 8);
    for (int j = 0; j < FEW_BLOCKS; ++j) {
        for (int r = 0; r < 4; ++r) {
            uint32_t kept = p->all_dropped ? 0 : UINT32_MAX, open = UINT32_MAX;
            for (int plane = 0; plane < p->planes; ++plane) {
                const int lane = plane * FEW_BLOCKS + j;
                const uint32_t bits = (uint32_t)w[lane / (2 * LANES)][r][lane % (2 * LANES)];
                if (p->threshold >> (31 - plane) & 1) {
                    kept &= ~(open & ~bits);
                    open &= bits;
                } else {
                    open &= ~bits;
                }
            }
            store_le32(keep + 16 * j + 4 * r, kept);
            store_le32(undecided + 16 * j + 4 * r, open);
        }
    }
}

/* Decide by their tails the elements that eight planes have left undecided, 2 * LANES at a time.
 *
 * keep and undecided hold the bits of n elements from `first` on; the answer goes to keep. */
INLINE void decide_tails(const plan *p, uint64_t first, unsigned n, uint8_t *keep, const uint8_t *undecided)
{
    uint64_t index[TILE + 2 * LANES];
    uint16_t position[TILE];
    unsigned count = 0;
    for (unsigned base = 0; base < n; base += 64 * 64) {
        /* Which words hold any is found without a branch: about one in four does, which no predictor guesses. */
        uint64_t holds = 0;
        for (unsigned i = 0; i < 64 && base + 64 * i < n; i += LANES) {
            holds |= (uint64_t)nonzero(undecided + base / 8 + 8 * i) << i;
        }
        for (; holds != 0; holds &= holds - 1) {
            const unsigned word = base + 64 * ctz64(holds);
            for (uint64_t w = load_le64(undecided + word / 8); w != 0; w &= w - 1) {
                const unsigned at = word + ctz64(w);
                position[count] = (uint16_t)at;
                index[count] = (first + at) / 4;
                ++count;
            }
        }
    }
    uint64_t high[2 * LANES];
    for (unsigned j = 0; j < 2 * LANES; ++j) {
        index[count + j] = 0;
        high[j] = p->call_high + TAIL_DOMAIN;
    }
    for (unsigned i = 0; i < count; i += 2 * LANES) {
        uint64_t w[4][2 * LANES];
        words_at(p, index + i, high, w);
        const unsigned filled = count - i < 2 * LANES ? count - i : 2 * LANES;
        for (unsigned j = 0; j < filled; ++j) {
            const unsigned at = position[i + j];
            const uint32_t tail = (uint32_t)w[at % 4][j] >> 8;
            keep[at / 8] &= (uint8_t)~((unsigned)(tail < (p->threshold & 0xFFFFFF)) << at % 8);
        }
    }
}
