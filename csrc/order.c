/* SPDX-License-Identifier: BSD-3-Clause
 *
 * order.c: given keep bits, in the order of an array whose axes lie in another order than theirs.
 */
#include "bits.h"
#include "compiler.h"
#include "fastdrop.h"
#include "runs.h"

/* Transpose 64 words of 64 bits: bit j of word i becomes bit i of word j. Halves, quarters and so on change places, as
 * in H. S. Warren, "Hacker's Delight", section 7-3. */
static void transpose_64(uint64_t a[64])
{
    uint64_t mask = UINT64_C(0x00000000FFFFFFFF);
    for (unsigned half = 32; half > 0; half /= 2, mask ^= mask << half) {
        for (unsigned top = 0; top < 64; top += 2 * half) {
            for (unsigned i = top; i < top + half; ++i) {
                const uint64_t swapped = (a[i] >> half ^ a[i + half]) & mask;
                a[i] ^= swapped << half;
                a[i + half] ^= swapped;
            }
        }
    }
}

/* Set those bits of a string, from bit `at` on, that are set in a word. */
static void or_bits(uint8_t *to, size_t at, uint64_t word)
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
    if (map->ndim < 2 || map->stride[map->ndim - 1] <= 1) {
        return -1;
    }
    int d = map->ndim - 2;
    while (d >= 0 && map->stride[d] != 1) {
        --d;
    }
    return d;
}

/* The bits of the last dimension and of the crossing one, at the coordinates of c along the others: squares that are
 * read along the one and written along the other. Neighbours along the crossing one are `apart` elements apart. */
static void transpose_plane(const fd_index_map *map, int cross, size_t index, size_t at, size_t apart, uint8_t *ordered)
{
    const size_t columns = (size_t)map->shape[cross], rows = (size_t)map->shape[map->ndim - 1];
    const size_t stride = (size_t)map->stride[map->ndim - 1];
    for (size_t row = 0; row < rows; row += 64) {
        const size_t height = rows - row < 64 ? rows - row : 64;
        for (size_t column = 0; column < columns; column += 64) {
            const size_t width = columns - column < 64 ? columns - column : 64;
            uint64_t square[64] = {0};
            for (size_t i = 0; i < height; ++i) {
                square[i] = first_bits(word_at(given_bits(map), index + (row + i) * stride + column), width);
            }
            transpose_64(square);
            for (size_t j = 0; j < width; ++j) {
                or_bits(ordered, at + (column + j) * apart + row, square[j]);
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
    fd_index_map others = {.offset = map->offset};
    size_t step[FD_MAX_DIMS], apart = 1, planes = 1, length = 1;
    for (int d = map->ndim - 1; d >= 0; --d) {
        if (d == cross) {
            apart = length;
        }
        step[d] = length;
        length *= (size_t)map->shape[d];
    }
    size_t steps[FD_MAX_DIMS] = {0};
    for (int d = 0; d < map->ndim - 1; ++d) {
        if (d != cross) {
            others.shape[others.ndim] = map->shape[d];
            others.stride[others.ndim] = map->stride[d];
            steps[others.ndim++] = step[d];
            planes *= (size_t)map->shape[d];
        }
    }
    for (size_t plane = 0; plane < planes; ++plane) {
        size_t index = (size_t)others.offset, at = 0, left = plane;
        for (int d = others.ndim - 1; d >= 0; --d) {
            const size_t coordinate = left % (size_t)others.shape[d];
            left /= (size_t)others.shape[d];
            index += coordinate * (size_t)others.stride[d];
            at += coordinate * steps[d];
        }
        transpose_plane(map, cross, index, at, apart, ordered);
    }
}
