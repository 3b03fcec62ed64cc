/* SPDX-License-Identifier: BSD-3-Clause
 *
 * gather.inc.h: keep bits of blocks, and of single elements, that lie anywhere in the stream.
 *
 * A column of a wide mask has each element in a block of its own. The generator makes 2 * LANES blocks at a time, whose
 * counters need not follow each other.
 */

enum {
    BATCH = 64, /* blocks that are drawn before the tails among them are decided */
    LIST = 256, /* elements in work */
};

/* Elements that are undecided, by the blocks that will tell: planes, and in the end tails. Behind them there is room,
 * with any numbers, for the lanes of the last vectors. */
typedef struct {
    unsigned count;
    uint64_t block[LIST + 2 * LANES];
    uint8_t within[LIST]; /* the block: which of its elements */
    uint16_t place[LIST]; /* of the answer */
} undecided_list;

/* Decide all of them by their tails. The answers are bits of bytes that hold so many each. */
INLINE void decide_list(const plan *p, const undecided_list *list, uint8_t *keep, unsigned per_byte)
{
    for (unsigned i = 0; i < list->count; i += 2 * LANES) {
        uint64_t w[4][2 * LANES];
        words_of(p, list->block + i, TAIL_DOMAIN, w);
        for (unsigned j = 0; j < 2 * LANES && i + j < list->count; ++j) {
            const unsigned at = list->place[i + j];
            const uint32_t tail = (uint32_t)w[list->within[i + j]][j] >> 8;
            keep[at / per_byte] &= (uint8_t)~((unsigned)(tail < (p->threshold & 0xFFFFFF)) << at % per_byte);
        }
    }
}

/* Decide by their tails the elements of blocks of planes that are left undecided. */
INLINE void decide_tails_of(const plan *p, const uint64_t *block, unsigned n, uint8_t *keep, const uint8_t *undecided)
{
    undecided_list list;
    list.count = 0;
    memset(list.block, 0, sizeof list.block);
    for (unsigned at = 0; at < n * BLOCK; at += 64) {
        for (uint64_t bits = load_le64(undecided + at / 8); bits != 0; bits &= bits - 1) {
            const unsigned element = at + ctz64(bits);
            list.block[list.count] = block[element / BLOCK] * (BLOCK / 4) + element % BLOCK / 4;
            list.within[list.count] = element % 4;
            list.place[list.count] = (uint16_t)element;
            if (++list.count == LIST) {
                decide_list(p, &list, keep, 8);
                list.count = 0;
            }
        }
    }
    decide_list(p, &list, keep, 8);
}

static void NAME(keep_blocks)(const fd_draw *draw, const uint64_t *block, size_t n, uint8_t *bits)
{
    const plan p = make_plan(draw);
    uint64_t lanes[2 * LANES];
    first_indices(lanes);
    for (size_t done = 0; done < n; done += BATCH) {
        const unsigned some = (unsigned)(n - done < BATCH ? n - done : BATCH);
        uint8_t keep[BATCH * BLOCK / 8] = {0}, undecided[BATCH * BLOCK / 8];
        for (unsigned i = 0; i < some; i += 2 * LANES) {
            uint64_t own[2 * LANES];
            for (unsigned j = 0; j < 2 * LANES; ++j) {
                own[j] = block[done + (i + lanes[j] < some ? i + lanes[j] : i)];
            }
            const vec index[PAIR] = {load_lanes(own), load_lanes(own + LANES)};
            comparison c = nothing_compared(&p);
            for (int plane = 0; plane < p.planes; ++plane) {
                draw_planes(&c, &p, index, plane, PAIR, NULL);
            }
            store_step(keep + i * (BLOCK / 8), c.kept);
            store_step(undecided + i * (BLOCK / 8), c.undecided);
        }
        if (p.has_tail) {
            decide_tails_of(&p, block + done, some, keep, undecided);
        }
        memcpy(bits + done * (BLOCK / 8), keep, some * (BLOCK / 8));
    }
}

/* Draw one plane for all of the list. Those stay whose bit is that of the threshold; each answer is a byte. */
INLINE void decide_by_plane(const plan *p, undecided_list *list, unsigned plane, uint8_t *keep)
{
    const unsigned of_threshold = (unsigned)digit(p, (int)plane);
    unsigned left = 0;
    for (unsigned i = 0; i < list->count; i += 2 * LANES) {
        uint64_t w[4][2 * LANES];
        words_of(p, list->block + i, plane, w);
        const unsigned filled = list->count - i < 2 * LANES ? list->count - i : 2 * LANES;
        for (unsigned j = 0; j < filled; ++j) {
            const uint64_t block = list->block[i + j];
            const uint8_t within = list->within[i + j];
            const uint16_t at = list->place[i + j];
            const unsigned bit = (unsigned)(w[within / 32][j] >> within % 32) & 1;
            keep[at] = (uint8_t)(bit | !of_threshold);
            list->block[left] = block;
            list->within[left] = within;
            list->place[left] = at;
            left += bit == of_threshold;
        }
    }
    list->count = left;
}

/* Each plane decides half of what is left, so an element takes two in the mean, whatever the rate. */
static void NAME(keep_at)(const fd_draw *draw, const uint64_t *index, size_t n, uint8_t *bits)
{
    const plan p = make_plan(draw);
    undecided_list list;
    memset(list.block, 0, sizeof list.block);
    for (size_t done = 0; done < n; done += LIST) {
        uint8_t keep[LIST] = {0};
        const unsigned some = (unsigned)(n - done < LIST ? n - done : LIST);
        memset(keep, !p.all_dropped, some);
        list.count = some;
        for (unsigned i = 0; i < some; ++i) {
            list.block[i] = index[done + i] / BLOCK;
            list.within[i] = index[done + i] % BLOCK;
            list.place[i] = (uint16_t)i;
        }
        for (int plane = 0; plane < p.planes; ++plane) {
            decide_by_plane(&p, &list, (unsigned)plane, keep);
        }
        if (p.has_tail) {
            for (unsigned i = 0; i < list.count; ++i) {
                list.block[i] = list.block[i] * (BLOCK / 4) + list.within[i] / 4;
                list.within[i] %= 4;
            }
            decide_list(&p, &list, keep, 1);
        }
        for (unsigned i = 0; i < some; i += 8) {
            bits[(done + i) / 8] = (uint8_t)(load_le64(keep + i) * UINT64_C(0x0102040810204080) >> 56);
        }
    }
}
