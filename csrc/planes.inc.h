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
    STEP_BLOCKS = 2 * LANES,
    PLANES = 8,
    TAIL_DOMAIN = 8,
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

/* The counters of blocks with these indices, in `domain` and those that follow it: one for every two chains. */
INLINE void set_counters(blocks *b, const plan *p, const vec index[PAIR], uint64_t domain, int chains)
{
    for (int j = 0; j < chains; ++j) {
        b->w0[j] = index[j % PAIR];
        b->w1[j] = srl32(index[j % PAIR]);
        b->w2[j] = set1(p->call_low);
        b->w3[j] = set1(p->call_high + domain + (uint64_t)(j / PAIR));
    }
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

INLINE comparison nothing_compared(const plan *p)
{
    comparison c;
    for (int r = 0; r < 4; ++r) {
        c.kept[r] = set1(p->all_dropped ? 0 : ~UINT64_C(0));
        c.undecided[r] = set1(~UINT64_C(0));
    }
    return c;
}

/* Compare a bit more of some elements. */
INLINE void compare_bits(vec *kept, vec *undecided, int digit, vec bits)
{
    if (digit) {
        *kept = clear(*kept, *undecided, bits);
        *undecided = andv(*undecided, bits);
    } else {
        *undecided = andnot(*undecided, bits);
    }
}

INLINE int digit(const plan *p, int plane) { return p->threshold >> (31 - plane) & 1; }

INLINE void compare_plane(comparison *c, const plan *p, int plane, const vec words[4])
{
    if (digit(p, plane)) {
        for (int r = 0; r < 4; ++r) {
            compare_bits(&c->kept[r], &c->undecided[r], 1, words[r]);
        }
    } else {
        for (int r = 0; r < 4; ++r) {
            compare_bits(&c->kept[r], &c->undecided[r], 0, words[r]);
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

/* For at most LANES blocks, planes stand beside blocks in the lanes: two planes of LANES blocks, or eight of two, are one
 * Philox of two chains, where a step would draw elements that nobody asked for. Returns how many blocks are drawn. */
NOINLINE unsigned NAME(draw_few)(const plan *p, const uint64_t lanes[2 * LANES], uint64_t block, unsigned count,
                                 uint8_t *keep, uint8_t *undecided)
{
    unsigned log = 0;
    while (count > 1u << log) {
        ++log;
    }
    const unsigned few = 1u << log;
    uint64_t words[(PLANES * LANES + 2 * LANES) * BLOCK / 64];
    uint64_t index[2 * LANES], plane[2 * LANES];
    for (int j = 0; j < 2 * LANES; ++j) {
        index[j] = block + (lanes[j] & (few - 1));
        plane[j] = p->call_high + (lanes[j] >> log);
    }
    for (unsigned i = 0; i < (unsigned)p->planes << log; i += 2 * LANES) {
        blocks b;
        for (int j = 0; j < PAIR; ++j) {
            b.w0[j] = load_lanes(index + j * LANES);
            b.w1[j] = srl32(b.w0[j]);
            b.w2[j] = set1(p->call_low);
            b.w3[j] = add(load_lanes(plane + j * LANES), set1(i >> log));
        }
        philox_rounds(&b, PAIR, &p->keys, 0, PHILOX_ROUNDS - 1);
        vec w[4];
        last_round_in_pairs(&b, 0, &p->keys, w);
        store_step((uint8_t *)(words + i * (BLOCK / 64)), w);
    }
    const unsigned row = few * (BLOCK / 64);
    for (unsigned i = 0; i < row; i += LANES) {
        vec kept = set1(p->all_dropped ? 0 : ~UINT64_C(0)), open = set1(~UINT64_C(0));
        for (int at = 0; at < p->planes; ++at) {
            compare_bits(&kept, &open, digit(p, at), load_lanes(words + (unsigned)at * row + i));
        }
        uint64_t w[2][LANES];
        store_lanes(w[0], kept);
        store_lanes(w[1], open);
        memcpy(keep + 8 * i, w[0], sizeof w[0]);
        memcpy(undecided + 8 * i, w[1], sizeof w[1]);
    }
    return few;
}

enum { TAILS = 2 * LANES }; /* drawn at once */

/* The words of the blocks with these indices, in one domain: word r of lane j goes to w[r][j]. */
INLINE void words_of(const plan *p, const uint64_t index[TAILS], uint64_t domain, uint64_t w[4][TAILS])
{
    const vec indices[PAIR] = {load_lanes(index), load_lanes(index + LANES)};
    blocks b;
    set_counters(&b, p, indices, domain, PAIR);
    philox_rounds(&b, PAIR, &p->keys, 0, PHILOX_ROUNDS);
    const vec *const words[4] = {b.w0, b.w1, b.w2, b.w3};
    for (int r = 0; r < 4; ++r) {
        store_lanes(w[r], words[r][0]);
        store_lanes(w[r] + LANES, words[r][1]);
    }
}

/* Decide at once, by their tails, the elements of a tile that eight planes have left undecided. Its keep bits and those
 * of the undecided ones begin with block `block`, and stand in so many words of 64. */
NOINLINE void NAME(decide_tile)(const plan *p, uint64_t block, unsigned words, uint8_t *keep, const uint8_t *undecided)
{
    uint64_t index[TILE + TAILS];
    uint16_t at[TILE + TAILS];
    uint8_t holding[TILE / 64 + 1];
    unsigned held = 0, count = 0;
    /* Which words hold any is found without a branch: about one in four does, which no predictor guesses. */
    for (unsigned i = 0; i < words; ++i) {
        holding[held] = (uint8_t)i;
        held += load_le64(undecided + 8 * i) != 0;
    }
    for (unsigned i = 0; i < held; ++i) {
        for (uint64_t bits = load_le64(undecided + 8 * holding[i]); bits != 0; bits &= bits - 1) {
            at[count] = (uint16_t)(64 * holding[i] + ctz64(bits));
            index[count] = block * (BLOCK / 4) + at[count] / 4;
            ++count;
        }
    }
    memset(index + count, 0, TAILS * sizeof index[0]);
    memset(at + count, 0, TAILS * sizeof at[0]);
    for (unsigned i = 0; i < count; i += TAILS) {
        uint64_t w[4][TAILS];
        words_of(p, index + i, TAIL_DOMAIN, w);
        for (unsigned j = i; j < count && j < i + TAILS; ++j) {
            const uint32_t tail = (uint32_t)w[at[j] % 4][j - i] >> 8;
            keep[at[j] / 8] &= (uint8_t)~((unsigned)(tail < (p->threshold & 0xFFFFFF)) << at[j] % 8);
        }
    }
}

/* Tails on their way, of elements that are cleared in y when all else is done.
 *
 * Listed are words of 64 elements that hold some which eight planes have left undecided, with their numbers. Of up to
 * MANY words at a time the tails of one element each are drawn, and then those elements are cleared that are dropped.
 * Nothing here branches on what was drawn as long as that is on its way: no predictor guesses which word in four holds
 * any, and a wrong guess throws away what a core has begun of the next tile. */
enum { MANY = 64, MOST = 2 * MANY + 6 * TILE / 64 };

typedef struct {
    unsigned head, end; /* of those that wait */
    unsigned ripe;      /* how many of them were listed before this tile */
    unsigned drawn;
    uint32_t dropped[MANY / TAILS];
    uint64_t at[MANY], word[MOST + TAILS], number[MOST + TAILS];
} tails;

INLINE void clear_tails(tails *t) { t->head = t->end = t->ripe = t->drawn = 0; }

INLINE int are_waiting(const tails *t) { return t->end > t->head; }

/* List so many words, of which the first has this number. */
INLINE void list_tails(tails *t, uint64_t first, unsigned words, const uint8_t *undecided)
{
    unsigned end = t->end;
    for (unsigned i = 0; i < words; i += LANES) {
        end += append_nonzero(undecided + 8 * i, first + i, t->word + end, t->number + end);
    }
    t->end = end;
}

/* Draw for the first words, MANY of them or as many as there are. A word that holds more elements comes again. */
NOINLINE void NAME(draw_tails)(const plan *p, tails *t, uint64_t block)
{
    const unsigned head = t->head, end = t->end, drawn = end - head < MANY ? end - head : MANY;
    memset(t->word + end, 0, TAILS * sizeof t->word[0]);
    memset(t->number + end, 0, TAILS * sizeof t->number[0]);
    for (unsigned i = 0; i < drawn; i += TAILS) {
        vec index[PAIR], at[PAIR];
        for (int j = 0; j < PAIR; ++j) {
            const unsigned from = head + i + (unsigned)j * LANES;
            at[j] = add(sll64(load_lanes(t->number + from), 6), lowest_bit(load_lanes(t->word + from)));
            store_lanes(t->at + i + j * LANES, at[j]);
            index[j] = add(srl64(at[j], 2), set1(block * (BLOCK / 4)));
        }
        blocks b;
        set_counters(&b, p, index, TAIL_DOMAIN, PAIR);
        philox_rounds(&b, PAIR, &p->keys, 0, PHILOX_ROUNDS);
        uint32_t dropped = 0;
        for (int j = 0; j < PAIR; ++j) {
            const vec words[4] = {b.w0[j], b.w1[j], b.w2[j], b.w3[j]};
            dropped |= (uint32_t)are_below(words, at[j], p->threshold << 8) << j * LANES;
        }
        t->dropped[i / TAILS] = drawn - i < TAILS ? dropped & ((1u << (drawn - i)) - 1) : dropped;
    }
    for (unsigned i = head; i < head + drawn; ++i) {
        const uint64_t word = t->word[i], number = t->number[i], rest = word & (word - 1);
        t->word[t->end] = rest;
        t->number[t->end] = number;
        t->end += rest != 0;
    }
    t->head += drawn;
    t->drawn = drawn;
    if (t->end > MOST - MANY - TILE / 64) {
        memmove(t->word, t->word + t->head, (t->end - t->head) * sizeof t->word[0]);
        memmove(t->number, t->number + t->head, (t->end - t->head) * sizeof t->number[0]);
        t->end -= t->head;
        t->head = 0;
    }
}

/* Once a tile: draw when so many wait that no lane is idle, but none of the tile that has just been drawn. What is drawn
 * here is cleared a tile later, and by then applied, even the group at its end that needs bits of the tile after it. */
INLINE void draw_ripe_tails(const plan *p, tails *t, uint64_t block)
{
    if (t->ripe >= MANY) {
        NAME(draw_tails)(p, t, block);
    }
    t->ripe = t->end - t->head;
}

INLINE void clear_element(uint8_t *y, uint64_t element, unsigned bits)
{
    if (bits == 1) {
        y[element / 8] &= (uint8_t)~(1u << element % 8);
    } else {
        memset(y + element * (bits / 8), 0, bits / 8);
    }
}

/* Clear what is dropped by the tails that are drawn, in y, where element `first` is the first of n, of `bits` bits. */
INLINE void drop_by_tails(tails *t, uint64_t first, size_t n, uint8_t *y, unsigned bits)
{
    for (unsigned i = 0; i < t->drawn; i += TAILS) {
        for (uint32_t dropped = t->dropped[i / TAILS]; dropped != 0; dropped &= dropped - 1) {
            const uint64_t element = t->at[i + ctz64(dropped)] - first;
            if (element < n) {
                clear_element(y, element, bits);
            }
        }
    }
    t->drawn = 0;
}
