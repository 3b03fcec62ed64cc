/* SPDX-License-Identifier: BSD-3-Clause
 *
 * runs.h: the elements of an array as runs, whose indices are all the same or lie at equal distances.
 */
#ifndef FASTDROP_RUNS_H
#define FASTDROP_RUNS_H

#include "bits.h"
#include "fastdrop.h"

/* The next element: its coordinates, and its index. */
typedef struct {
    int64_t at[FD_MAX_DIMS];
    int64_t index;
} cursor;

/* Elements that follow each other in the array. */
typedef struct {
    int64_t index;  /* of the first */
    int64_t stride; /* from one to the next: 0 where they share a decision */
    size_t n;
} run;

INLINE bit_string given_bits(const fd_index_map *map) { return (bit_string){map->bits, map->bytes}; }

INLINE cursor cursor_at(const fd_index_map *map, int64_t element)
{
    cursor c;
    c.index = map->offset + (map->ndim == 0 ? element : 0);
    for (int d = map->ndim - 1; d >= 0; --d) {
        c.at[d] = element % map->shape[d];
        element /= map->shape[d];
        c.index += c.at[d] * map->stride[d];
    }
    return c;
}

/* The next run, of at most `most` elements. */
INLINE run next_run(const fd_index_map *map, const cursor *c, size_t most)
{
    if (map->ndim == 0) {
        return (run){c->index, 1, most};
    }
    const int last = map->ndim - 1;
    const size_t left = (size_t)(map->shape[last] - c->at[last]);
    return (run){c->index, map->stride[last], left < most ? left : most};
}

/* Advance by n along dimension d, at most to its end; the dimensions behind it are at their beginning. */
INLINE void advance_along(const fd_index_map *map, cursor *c, int d, size_t n)
{
    c->at[d] += (int64_t)n;
    c->index += (int64_t)n * map->stride[d];
    for (int outer = d - 1; outer >= 0 && c->at[outer + 1] == map->shape[outer + 1]; --outer) {
        c->index += map->stride[outer] - c->at[outer + 1] * map->stride[outer + 1];
        c->at[outer + 1] = 0;
        ++c->at[outer];
    }
}

INLINE void advance(const fd_index_map *map, cursor *c, size_t n)
{
    if (map->ndim == 0) {
        c->index += (int64_t)n;
    } else {
        advance_along(map, c, map->ndim - 1, n);
    }
}

/* Put the given bits of a run at bit `at` of a string. */
INLINE void put_run(uint8_t *to, size_t at, bit_string from, run r)
{
    if (r.stride == 1) {
        put_bits(to, at, from, (size_t)r.index, r.n);
    } else if (r.stride == 0) {
        put_same(to, at, bit_at(from, (size_t)r.index), r.n);
    } else {
        put_every(to, at, from, (size_t)r.index, r.stride, r.n);
    }
}

#endif
