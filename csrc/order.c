/* SPDX-License-Identifier: BSD-3-Clause
 *
 * order.c: given keep bits, in the order of an array whose axes follow each other in another order than theirs.
 *
 * The last dimension of the array goes across the bits, and along one of the others they follow each other. Those two
 * are transposed in squares of 64 x 64 bits.
 */
#include "bits.h"
#include "compiler.h"
#include "fastdrop.h"
#include "runs.h"

enum { SIDE = 64, FLAT = 8 };

/* Exchange the upper bits of each `half` of a word with the lower bits of the word that many places on. */
INLINE void exchange(uint64_t a[SIDE], unsigned half, uint64_t mask)
{
    for (unsigned top = 0; top < SIDE; top += 2 * half) {
        for (unsigned i = top; i < top + half; ++i) {
            const uint64_t differ = (a[i] >> half ^ a[i + half]) & mask;
            a[i] ^= differ << half;
            a[i + half] ^= differ;
        }
    }
}

/* Transpose a square: bit j of word i becomes bit i of word j. Halves, quarters and so on change places, as in
 * H. S. Warren, "Hacker's Delight", section 7-3. Each step is a call with constants, of which compilers make vectors. */
static void transpose(uint64_t a[SIDE])
{
    exchange(a, 32, UINT64_C(0x00000000FFFFFFFF));
    exchange(a, 16, UINT64_C(0x0000FFFF0000FFFF));
    exchange(a, 8, UINT64_C(0x00FF00FF00FF00FF));
    exchange(a, 4, UINT64_C(0x0F0F0F0F0F0F0F0F));
    exchange(a, 2, UINT64_C(0x3333333333333333));
    exchange(a, 1, UINT64_C(0x5555555555555555));
}

/* Set those bits of a string, from bit `at` on, that are set in a word. */
INLINE void or_bits(uint8_t *to, size_t at, uint64_t word)
{
    const unsigned odd = (unsigned)(at % 8);
    uint8_t *const p = to + at / 8;
    store_le64(p, load_le64(p) | word << odd);
    if (odd > 0) {
        p[8] |= (uint8_t)(word >> (64 - odd));
    }
}

/* The dimension along which indices follow each other, where that is not the last; -1 where there is none. */
static int crossing(const fd_index_map *map)
{
    const int last = map->ndim - 1;
    if (last < 1 || (-1 <= map->stride[last] && map->stride[last] <= 1)) {
        return -1;
    }
    int d = last - 1;
    while (d >= 0 && map->stride[d] != 1) {
        --d;
    }
    return d;
}

/* The bits of the last dimension and of the crossing one, at some coordinates along the others: rows of bits begin
 * `stride` apart, and become columns that begin `apart` from each other, the first of them at bit `at`. */
typedef struct {
    bit_string from;
    size_t index, stride, rows, columns;
    uint8_t *to;
    size_t at, apart;
} plane;

/* So few rows that a byte holds a column: eight columns at a time. */
static void transpose_flat(const plane *p)
{
    const unsigned rows = (unsigned)p->rows, gap = FLAT - rows;
    const uint64_t one = (UINT64_C(1) << rows) - 1, ones = one * UINT64_C(0x0001000100010001);
    const uint64_t twos = ((UINT64_C(1) << 2 * rows) - 1) * UINT64_C(0x0000000100000001);
    const uint64_t four = (UINT64_C(1) << 4 * rows) - 1;
    for (size_t column = 0; column < p->columns; column += 64) {
        const size_t width = p->columns - column < 64 ? p->columns - column : 64;
        uint64_t row[FLAT] = {0};
        for (size_t i = 0; i < rows; ++i) {
            row[i] = word_at(p->from, p->index + i * p->stride + column);
        }
        for (size_t j = 0; j < width; j += FLAT) {
            uint64_t w = 0;
            for (unsigned i = 0; i < rows; ++i) {
                w |= (row[i] & 0xFF) << 8 * i;
                row[i] >>= 8;
            }
            uint64_t differ = (w >> 28 ^ w) & UINT64_C(0x00000000F0F0F0F0);
            w ^= differ << 28 ^ differ;
            differ = (w >> 14 ^ w) & UINT64_C(0x0000CCCC0000CCCC);
            w ^= differ << 14 ^ differ;
            differ = (w >> 7 ^ w) & UINT64_C(0x00AA00AA00AA00AA);
            w ^= differ << 7 ^ differ;
            const size_t some = width - j < FLAT ? width - j : FLAT;
            if (p->apart ==
                rows) { /* columns that follow each other are moved together, pairs and then pairs of those */
                w = (w & ones) | (w >> gap & ones << rows);
                w = (w & twos) | (w >> 2 * gap & twos << 2 * rows);
                w = (w & four) | (w >> 4 * gap & four << 4 * rows);
                or_bits(p->to, p->at + (column + j) * rows, first_bits(w, some * rows));
            } else {
                for (size_t i = 0; i < some; ++i) {
                    or_bits(p->to, p->at + (column + j + i) * p->apart, w >> 8 * i & one);
                }
            }
        }
    }
}

/* 64 rows of a square, or fewer. */
INLINE void load_square(uint64_t square[SIDE], const plane *p, size_t row, size_t column, size_t height, size_t width)
{
    size_t at = p->index + row * p->stride + column;
    const size_t highest = (int64_t)p->stride > 0 ? at + (height - 1) * p->stride : at;
    if (height == SIDE && width == SIDE && (at | p->stride) % 8 == 0 && highest / 8 + 8 <= p->from.size) {
        for (size_t i = 0; i < SIDE; ++i, at += p->stride) {
            square[i] = load_le64(p->from.bytes + at / 8);
        }
        return;
    }
    for (size_t i = 0; i < SIDE; ++i, at += p->stride) {
        square[i] = i < height ? first_bits(word_at(p->from, at), width) : 0;
    }
}

static void transpose_plane(const plane *p)
{
    const int is_in_bytes = (p->at | p->apart) % 8 == 0;
    for (size_t row = 0; row < p->rows; row += SIDE) {
        const size_t height = p->rows - row < SIDE ? p->rows - row : SIDE;
        for (size_t column = 0; column < p->columns; column += SIDE) {
            const size_t width = p->columns - column < SIDE ? p->columns - column : SIDE;
            uint64_t square[SIDE];
            load_square(square, p, row, column, height, width);
            transpose(square);
            size_t at = p->at + column * p->apart + row;
            for (size_t j = 0; j < width; ++j, at += p->apart) {
                if (is_in_bytes && height == SIDE) {
                    store_le64(p->to + at / 8, square[j]);
                } else {
                    or_bits(p->to, at, square[j]);
                }
            }
        }
    }
}

void fd_order_bits(const fd_index_map *map, size_t n, uint8_t *ordered)
{
    const int cross = crossing(map);
    if (cross < 0) {
        cursor c = cursor_at(map, 0);
        for (size_t done = 0; done < n;) {
            const run r = next_run(map, &c, n - done);
            put_run(ordered, done, given_bits(map), r);
            advance(map, &c, r.n);
            done += r.n;
        }
        if (n % 8 > 0) {
            ordered[n / 8] &= (uint8_t)((1u << n % 8) - 1);
        }
        return;
    }
    /* The other dimensions, as a map of their own, and how far apart their neighbours are in the array. */
    const int last = map->ndim - 1;
    fd_index_map others = {.offset = map->offset};
    plane p = {.from = given_bits(map),
               .stride = (size_t)map->stride[last],
               .rows = (size_t)map->shape[last],
               .columns = (size_t)map->shape[cross],
               .to = ordered};
    size_t step[FD_MAX_DIMS] = {0}, length = 1, steps[FD_MAX_DIMS] = {0};
    for (int d = last; d >= 0; --d) {
        step[d] = length;
        length *= (size_t)map->shape[d];
    }
    p.apart = step[cross];
    for (int d = 0; d < last; ++d) {
        if (d != cross) {
            others.shape[others.ndim] = map->shape[d];
            others.stride[others.ndim] = map->stride[d];
            steps[others.ndim++] = step[d];
        }
    }
    const size_t planes = n / (p.rows * p.columns);
    for (size_t number = 0; number < planes; ++number) {
        size_t left = number;
        p.index = (size_t)others.offset;
        p.at = 0;
        for (int d = others.ndim - 1; d >= 0; --d) {
            const size_t coordinate = left % (size_t)others.shape[d];
            left /= (size_t)others.shape[d];
            p.index += coordinate * (size_t)others.stride[d];
            p.at += coordinate * steps[d];
        }
        if (p.rows <= FLAT) {
            transpose_flat(&p);
        } else {
            transpose_plane(&p);
        }
    }
}
