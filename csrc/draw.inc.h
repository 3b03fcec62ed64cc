/* SPDX-License-Identifier: BSD-3-Clause
 *
 * draw.inc.h: the loop that draws keep bits and applies them in one pass over memory.
 *
 * The generator multiplies integers, applying moves memory, and a core does both at once, but only what stands close
 * together: it looks a few hundred instructions ahead, which is about one plane. So while the planes of a tile are
 * drawn, the tile before it is applied, a group of elements after each round. Tails are decided later still, many at a
 * time, and what they drop is cleared in y.
 */

enum { CARRY = 8 }; /* bytes of the tile before, for a group that straddles the two */

/* The bits of a tile, on their way from planes to elements. */
typedef struct {
    uint8_t keep[CARRY + TILE / 8 + SLACK];
    uint8_t moved[CARRY + TILE / 8]; /* such that each group begins with a byte */
    uint8_t undecided[TILE / 8];
} stage;

/* The tile that is applied meanwhile. */
typedef struct {
    pass a;
    const uint8_t *bits; /* the group at element i begins with byte (offset + i) / 8 */
    int64_t offset, next_offset;
    size_t end, next_end; /* elements whose bits are there, and will be when the next tile takes its place */
    size_t groups;        /* to apply after a plane, besides the woven ones */
    unsigned odd;         /* bit of a byte of keep with which groups begin */
} weft;

/* Whether so many groups can be applied without a look at where the bits or the bias end. */
INLINE int has_ready(const weft *w, size_t groups)
{
    const pass *const a = &w->a;
    return a->done + groups * GROUP <= w->end && (!reads_bias(a->op) || a->bias_at + groups * GROUP <= a->o.period);
}

/* All rounds but the last, and between them WOVEN groups a plane if there is a weft that has so many. */
INLINE void draw_rounds(blocks *b, int chains, const round_keys *keys, weft *w)
{
    const int woven = chains / PAIR * WOVEN, rounds = PHILOX_ROUNDS - 1;
    if (woven == 0 || w == NULL || !has_ready(w, (size_t)woven)) {
        philox_rounds(b, chains, keys, 0, rounds);
        return;
    }
    const uint8_t *const keep = w->bits + (uint64_t)(w->offset + (int64_t)w->a.done) / 8;
    UNROLL(10)
    for (int r = 0; r < rounds; ++r) {
        philox_rounds(b, chains, keys, r, r + 1);
        for (int j = 0; j < chains; ++j) {
            stay(&b->w0[j]);
            stay(&b->w2[j]);
        }
        for (int g = woven * r / rounds; g < woven * (r + 1) / rounds; ++g) {
            apply_next(&w->a, (size_t)g, keep);
        }
    }
    advance(&w->a, (size_t)woven * GROUP);
}

/* Compare a plane of a step for every two chains. */
INLINE void draw_planes(comparison *c, const plan *p, const vec index[PAIR], int plane, int chains, weft *w)
{
    const round_keys *keys = &p->keys;
    if (BROADCASTS_FROM_MEMORY) {
        /* Held in registers, the keys would push blocks out into memory. */
        HIDE(keys);
    }
    blocks b;
    set_counters(&b, p, index, (uint64_t)plane, chains);
    draw_rounds(&b, chains, keys, w);
    for (int j = 0; j < chains; j += PAIR) {
        vec words[4];
        last_round_in_pairs(&b, j, keys, words);
        compare_plane(c, p, plane + j / PAIR, words);
    }
}

/* The tile that is drawn takes the place of the one that is applied: move its bits such that each group begins with a
 * byte. */
INLINE void turn_over(stage *s, weft *w)
{
    to_bytes(s->moved, s->keep, w->odd, sizeof s->moved);
    memcpy(s->keep, s->keep + TILE / 8, CARRY);
    w->offset = w->next_offset;
    w->end = w->next_end;
}

/* Draw a step of the tile, from its block `at` on, into the stage, where the tile before it still is at the first one.
 * Returns how many blocks are drawn. */
INLINE unsigned draw_step(const plan *p, const uint64_t lanes[2 * LANES], uint64_t block, unsigned at, unsigned count,
                          stage *s, int is_first, weft *w)
{
    uint8_t *const keep = s->keep + CARRY + at * (BLOCK / 8), *const undecided = s->undecided + at * (BLOCK / 8);
    const int turns_over = at == 0 && !is_first;
    if (count - at <= LANES && p->planes > 1) {
        if (turns_over) {
            turn_over(s, w);
        }
        return NAME(draw_few)(p, lanes, block + at, count - at, keep, undecided);
    }
    const vec first = set1(block + at);
    const vec index[PAIR] = {add(load_lanes(lanes), first), add(load_lanes(lanes + LANES), first)};
    comparison c = nothing_compared(p);
    /* The tile before is turned over after a plane: bits that have just been stored are slow to read in other pieces.
     * Until then there is nothing to weave. */
    int plane = 0;
    if (WOVEN > 0 && p->planes % PLANES_AT_ONCE != 0) {
        draw_planes(&c, p, index, 0, PAIR, NULL);
        plane = 1;
    } else if (WOVEN > 0 && p->planes > 0) {
        draw_planes(&c, p, index, 0, CHAINS, NULL);
        plane = PLANES_AT_ONCE;
    }
    if (turns_over && (plane > 0 || p->planes == 0)) {
        turn_over(s, w);
    }
    if (plane > 0) {
        apply_groups(&w->a, w->bits, w->offset, w->end, w->groups);
    }
    for (; plane < p->planes; plane += PLANES_AT_ONCE) {
        draw_planes(&c, p, index, plane, CHAINS, w);
        if (WOVEN == 0 && turns_over && plane == 0) {
            turn_over(s, w);
        }
        apply_groups(&w->a, w->bits, w->offset, w->end, w->groups);
    }
    store_step(keep, c.kept);
    if (p->has_tail) {
        store_step(undecided, c.undecided);
    }
    return STEP_BLOCKS;
}

/* Whether a dropped element is all zero bits whatever the operands, so that it can be cleared after the others. */
INLINE int drops_to_zero(const pass *a)
{
    return (a->op == FD_DROPOUT || a->op == FD_RELU_DROPOUT || a->op == FD_RELU_BACKWARD) && !a->o.nontemporal;
}

/* Groups to apply after planes, besides the woven ones, so that a tile is applied while the next one is drawn. */
INLINE size_t groups_a_turn(const plan *p)
{
    const size_t turns = p->planes > 0 ? ((size_t)p->planes + PLANES_AT_ONCE - 1) / PLANES_AT_ONCE : 1;
    const size_t woven = (turns - 1) * PLANES_AT_ONCE * WOVEN, all = STEP / GROUP, rest = all > woven ? all - woven : 0;
    return (rest + turns * GROUPS_AT_ONCE - 1) / (turns * GROUPS_AT_ONCE) * GROUPS_AT_ONCE;
}

INLINE void draw_and_apply(const fd_draw *draw, uint64_t start, size_t n, pass a)
{
    enum { BLOCKS = TILE / BLOCK };
    if (n == 0) {
        return;
    }
    start_pass(&a);
    const plan p = make_plan(draw);
    uint64_t lanes[2 * LANES];
    first_indices(lanes);
    const uint64_t block = start / BLOCK;
    const size_t phase = start % BLOCK; /* bits of the first block before the first element */
    const size_t all_blocks = (n - 1) / BLOCK + ((n - 1) % BLOCK + phase) / BLOCK + 1;
    const int postpones = p.has_tail && drops_to_zero(&a);
    stage s;
    weft w = {.a = a, .bits = s.moved, .groups = groups_a_turn(&p)};
    tails t;
    clear_tails(&t);
    for (size_t done = 0; done < all_blocks; done += BLOCKS) {
        const unsigned count = all_blocks - done < BLOCKS ? (unsigned)(all_blocks - done) : BLOCKS;
        for (unsigned at = 0; at < count; at += STEP_BLOCKS) {
            const unsigned drawn = draw_step(&p, lanes, block + done, at, count, &s, done == 0, &w);
            if (postpones) {
                list_tails(&t, (done + at) * (BLOCK / 64), drawn * (BLOCK / 64), s.undecided + at * (BLOCK / 8));
            }
        }
        apply_groups(&w.a, w.bits, w.offset, w.end, SIZE_MAX);
        if (postpones) {
            drop_by_tails(&t, phase, n, w.a.o.y, w.a.bits_y);
            draw_ripe_tails(&p, &t, block);
        } else if (p.has_tail) {
            NAME(decide_tile)(&p, block + done, count * (BLOCK / 64), s.keep + CARRY, s.undecided);
        }
        w.next_offset = (int64_t)(8 * CARRY + phase) - (int64_t)(done * BLOCK);
        w.next_end = done * BLOCK + TILE - phase < n ? done * BLOCK + TILE - phase : n;
        if (done == 0) {
            apply_head(&w.a, s.keep, (uint64_t)w.next_offset, n);
            w.odd = (unsigned)(phase + w.a.done) % 8;
        }
    }
    /* Those drawn a tile ago are not cleared yet: the group at the end of their tile is still to be applied. */
    if (t.drawn == 0 && are_waiting(&t)) {
        NAME(draw_tails)(&p, &t, block); /* their latency is that of what follows */
    }
    to_bytes(s.moved, s.keep, w.odd, sizeof s.moved);
    w.offset = w.next_offset;
    apply_groups(&w.a, w.bits, w.offset, n, SIZE_MAX);
    apply_few(&w.a, s.keep, (uint64_t)(w.offset + (int64_t)w.a.done), n - w.a.done);
    drop_by_tails(&t, phase, n, w.a.o.y, w.a.bits_y);
    while (are_waiting(&t)) {
        NAME(draw_tails)(&p, &t, block);
        drop_by_tails(&t, phase, n, w.a.o.y, w.a.bits_y);
    }
    if (w.a.o.nontemporal) {
        fence();
    }
}

static void NAME(keep_bits)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bits)
{
    draw_and_apply(draw, start, n, (pass){.o = {.x = bits, .y = bits}, .bits_y = 1, .group = group_bits});
}

static void NAME(keep_bools)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bools)
{
    draw_and_apply(draw, start, n, (pass){.o = {.x = bools, .y = bools}, .bits_y = 8, .group = group_bools});
}
