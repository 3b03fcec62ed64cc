/* SPDX-License-Identifier: BSD-3-Clause
 *
 * walk.c: a whole array of any number of dimensions, as runs that kernels take.
 *
 * A run is a row of elements whose indices follow each other, or are all the same. Long ones go to a kernel as they
 * are. The keep bits of short ones are collected first, because starting a kernel pays only from some hundred elements
 * on.
 */
#include "compiler.h"
#include "fastdrop.h"
#include "operands.h"

enum {
    LONG = 1024, /* elements of a run that goes to a kernel by itself */
    PART = 4096, /* elements whose bits are collected */
    SLACK = 8,   /* bytes that put_bits() may write behind the last bit */
};

static const size_t sizes[FD_NUM_DTYPES] = {[FD_F16] = 2, [FD_BF16] = 2, [FD_F32] = 4, [FD_F64] = 8};

/* The next element: its coordinates, and its index. */
typedef struct {
    int64_t at[FD_MAX_DIMS];
    int64_t index;
} cursor;

/* Elements that follow each other in the array. */
typedef struct {
    int64_t index;
    size_t n;
    int is_repeated; /* all have the same index */
} run;

static int is_long(run r) { return r.n >= LONG; }

static cursor cursor_at(const fd_index_map *map, int64_t element)
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
static run next_run(const fd_index_map *map, const cursor *c, size_t most)
{
    run r = {c->index, most, 0};
    if (map->ndim > 0) {
        const int last = map->ndim - 1;
        const size_t left = (size_t)(map->shape[last] - c->at[last]);
        r.is_repeated = map->stride[last] == 0;
        const size_t n = r.is_repeated || map->stride[last] == 1 ? left : 1;
        r.n = n < most ? n : most;
    }
    return r;
}

/* Advance by n along dimension d, at most to its end; the dimensions behind it are at their beginning. */
static void advance_along(const fd_index_map *map, cursor *c, int d, size_t n)
{
    c->at[d] += (int64_t)n;
    c->index += (int64_t)n * map->stride[d];
    for (int outer = d - 1; outer >= 0 && c->at[outer + 1] == map->shape[outer + 1]; --outer) {
        c->index += map->stride[outer] - c->at[outer + 1] * map->stride[outer + 1];
        c->at[outer + 1] = 0;
        ++c->at[outer];
    }
}

static void advance(const fd_index_map *map, cursor *c, size_t n)
{
    if (map->ndim == 0) {
        c->index += (int64_t)n;
    } else {
        advance_along(map, c, map->ndim - 1, n);
    }
}

static int given_bit(const fd_index_map *map, size_t index) { return map->bits[index / 8] >> index % 8 & 1; }

static int is_kept(const fd_job *job, int64_t index)
{
    uint8_t bit;
    if (job->map.bits != NULL) {
        return given_bit(&job->map, (size_t)index);
    }
    job->kernels->keep_bits(&job->draw, (uint64_t)index, 1, &bit);
    return bit;
}

/* Put n bits at bit `at` of a string, from bit `first` on of another that ends before `end`. Up to SLACK bytes
 * behind them are overwritten. */
static void put_bits(uint8_t *to, size_t at, const uint8_t *from, size_t first, size_t n, const uint8_t *end)
{
    while (n > 0) {
        const uint8_t *p = from + first / 8;
        uint8_t bytes[8] = {0};
        if (end - p < 8) {
            memcpy(bytes, p, (size_t)(end - p));
            p = bytes;
        }
        const unsigned odd = (unsigned)(at % 8), skipped = (unsigned)(first % 8);
        const size_t most = 64 - (odd > skipped ? odd : skipped), part = n < most ? n : most;
        const uint64_t before = to[at / 8] & ((1u << odd) - 1);
        store_le64(to + at / 8, before | load_le64(p) >> skipped << odd);
        at += part;
        first += part;
        n -= part;
    }
}

/* The same with n equal bits. */
static void put_same(uint8_t *to, size_t at, int bit, size_t n)
{
    const uint64_t same = bit ? ~UINT64_C(0) : 0;
    const unsigned odd = (unsigned)(at % 8);
    uint8_t *p = to + at / 8;
    store_le64(p, (*p & ((1u << odd) - 1)) | same << odd);
    for (uint8_t *const end = to + (at + n + 7) / 8; (p += 8) < end;) {
        store_le64(p, same);
    }
}

/* How many whole runs that repeat one given bit come next within n elements, as where channels come first. */
static size_t whole_runs(const fd_index_map *map, const cursor *c, size_t n)
{
    const int last = map->ndim - 1;
    if (last < 1 || map->bits == NULL || map->stride[last] != 0 || map->stride[last - 1] != 1 || c->at[last] != 0) {
        return 0;
    }
    const size_t fit = n / (size_t)map->shape[last], left = (size_t)(map->shape[last - 1] - c->at[last - 1]);
    return left < fit ? left : fit;
}

/* Put their keep bits at bit `at`; returns how many elements those are. */
static size_t repeat_bits(const fd_index_map *map, cursor *c, size_t n, size_t at, uint8_t *bits)
{
    const size_t runs = whole_runs(map, c, n);
    if (runs == 0) {
        return 0;
    }
    const int last = map->ndim - 1;
    const size_t length = (size_t)map->shape[last];
    for (size_t i = 0; i < runs; ++i) {
        put_same(bits, at + i * length, given_bit(map, (size_t)c->index + i), length);
    }
    advance_along(map, c, last - 1, runs);
    return runs * length;
}

/* How many of them, from the first on, share one decision and can be done as one run. */
static size_t equal_runs(const fd_index_map *map, const cursor *c, size_t n)
{
    const size_t runs = whole_runs(map, c, n), index = (size_t)c->index;
    size_t equal = runs > 0;
    while (equal < runs && given_bit(map, index + equal) == given_bit(map, index)) {
        ++equal;
    }
    return equal;
}

/* Collect the keep bits of the next runs, while they are short, up to n elements; returns how many those are. */
static size_t collect_bits(const fd_job *job, cursor *c, size_t n, uint8_t bits[PART / 8 + SLACK])
{
    const fd_index_map *const map = &job->map;
    size_t done = 0;
    while (done < n) {
        const run r = next_run(map, c, n - done);
        if (is_long(r)) {
            break;
        }
        const size_t repeated = repeat_bits(map, c, n - done, done, bits);
        if (repeated > 0) {
            done += repeated;
            continue;
        }
        if (r.is_repeated) {
            put_same(bits, done, is_kept(job, r.index), r.n);
        } else if (map->bits != NULL) {
            put_bits(bits, done, map->bits, (size_t)r.index, r.n, map->bits + map->bytes);
        } else {
            uint8_t drawn[LONG / 8];
            job->kernels->keep_bits(&job->draw, (uint64_t)r.index, r.n, drawn);
            put_bits(bits, done, drawn, 0, r.n, drawn + (r.n + 7) / 8);
        }
        advance(map, c, r.n);
        done += r.n;
    }
    return done;
}

/* How many of the next n elements repeat the decisions of a short row, as where channels come last: a number of whole
 * rows, or 0. */
static size_t periodic(const fd_index_map *map, const cursor *c, size_t n)
{
    const int last = map->ndim - 1;
    if (last < 1 || map->stride[last] != 1 || map->stride[last - 1] != 0 || c->at[last] != 0 ||
        map->shape[last] >= LONG) {
        return 0;
    }
    const size_t row = (size_t)map->shape[last], rows = (size_t)(map->shape[last - 1] - c->at[last - 1]);
    return (rows < n / row ? rows : n / row) * row;
}

/* Apply one decision to n elements. */
static void apply_same(const fd_job *job, fd_op op, int kept, size_t n, const fd_operands *o)
{
    /* clang-format off */
    static const uint8_t none[4096], all[] = {
#define ONES_8 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF
#define ONES_64 ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8
#define ONES_512 ONES_64, ONES_64, ONES_64, ONES_64, ONES_64, ONES_64, ONES_64, ONES_64
        ONES_512, ONES_512, ONES_512, ONES_512, ONES_512, ONES_512, ONES_512, ONES_512
#undef ONES_512
#undef ONES_64
#undef ONES_8
    };
    /* clang-format on */
    for (size_t done = 0; done < n; done += 8 * sizeof all) {
        const fd_operands part = operands_at(o, done, sizes[job->dtype]);
        const size_t some = n - done < 8 * sizeof all ? n - done : 8 * sizeof all;
        job->kernels->apply[op][job->dtype](kept ? all : none, 0, some, &part);
    }
}

/* Apply one normal number to n elements. Its factor or term is drawn with a 1 or a 0 for x, in the arithmetic type; to
 * multiply by it is dropout that keeps all, and to add it alpha dropout that does, with the same roundings. The 0 is
 * negative, because -0 + t is t for both zeros. */
static void apply_same_normal(const fd_job *job, int64_t index, size_t n, const fd_operands *o)
{
    const int is_factor = job->op == FD_GAUSSIAN_DROPOUT, is_wide = job->dtype == FD_F64;
    double wide = is_factor ? 1.0 : -0.0;
    float narrow = (float)wide;
    fd_operands one = {0}, rest = *o;
    one.scale = o->scale;
    one.x = one.y = is_wide ? (void *)&wide : (void *)&narrow;
    job->kernels->draw[job->op][is_wide ? FD_F64 : FD_F32](&job->draw, (uint64_t)index, 1, &one);
    const double number = is_wide ? wide : (double)narrow;
    rest.scale = is_factor ? number : 1.0;
    rest.shift = number;
    apply_same(job, is_factor ? FD_DROPOUT : FD_ALPHA_DROPOUT, 1, n, &rest);
}

static void apply_run(const fd_job *job, run r, const fd_operands *o)
{
    if (!r.is_repeated) {
        if (job->map.bits != NULL) {
            job->kernels->apply[job->op][job->dtype](job->map.bits, (uint64_t)r.index, r.n, o);
        } else {
            job->kernels->draw[job->op][job->dtype](&job->draw, (uint64_t)r.index, r.n, o);
        }
        return;
    }
    if (job->kernels->apply[job->op][job->dtype] == NULL) {
        apply_same_normal(job, r.index, r.n, o);
        return;
    }
    const int kept = is_kept(job, r.index);
    if (!kept && job->op == FD_DROPOUT) {
        memset(o->y, 0, r.n * sizes[job->dtype]);
        return;
    }
    apply_same(job, job->op, kept, r.n, o);
}

/* Apply to elements that repeat the decisions of a row. Its bits are copied as often as there is room. */
static void apply_periodic(const fd_job *job, cursor *c, size_t n, const fd_operands *o)
{
    uint8_t bits[PART / 8 + SLACK];
    const size_t row = (size_t)job->map.shape[job->map.ndim - 1];
    cursor first = *c;
    size_t filled = collect_bits(job, &first, row, bits);
    while (filled + row <= PART && filled < n) {
        const size_t more = filled < (PART - filled) / row * row ? filled : (PART - filled) / row * row;
        put_bits(bits, filled, bits, 0, more, bits + sizeof bits);
        filled += more;
    }
    for (size_t done = 0; done < n; done += filled) {
        const fd_operands part = operands_at(o, done, sizes[job->dtype]);
        job->kernels->apply[job->op][job->dtype](bits, 0, n - done < filled ? n - done : filled, &part);
    }
    advance_along(&job->map, c, job->map.ndim - 2, n / row);
}

void fd_walk(const fd_job *job, int64_t first, size_t n, const fd_operands *operands)
{
    if (job->map.ndim == 0) {
        apply_run(job, (run){job->map.offset + first, n, 0}, operands);
        return;
    }
    const int takes_bits = job->kernels->apply[job->op][job->dtype] != NULL;
    cursor c = cursor_at(&job->map, first);
    for (size_t done = 0, part; done < n; done += part) {
        const fd_operands o = operands_at(operands, done, sizes[job->dtype]);
        const run r = next_run(&job->map, &c, n - done);
        if (takes_bits && (part = periodic(&job->map, &c, n - done)) > 0) {
            apply_periodic(job, &c, part, &o);
        } else if (takes_bits && !is_long(r) && r.n < n - done) {
            uint8_t bits[PART / 8 + SLACK];
            part = collect_bits(job, &c, n - done < PART ? n - done : PART, bits);
            job->kernels->apply[job->op][job->dtype](bits, 0, part, &o);
        } else {
            const size_t runs = takes_bits ? equal_runs(&job->map, &c, n - done) : 0;
            if (runs > 1) {
                part = runs * r.n;
                apply_run(job, (run){r.index, part, 1}, &o);
                advance_along(&job->map, &c, job->map.ndim - 2, runs);
            } else {
                part = r.n;
                apply_run(job, r, &o);
                advance(&job->map, &c, r.n);
            }
        }
    }
}

void fd_walk_keep(const fd_job *job, int64_t first, size_t n, uint8_t *bools)
{
    cursor c = cursor_at(&job->map, first);
    for (size_t done = 0; done < n;) {
        const run r = next_run(&job->map, &c, n - done);
        if (r.is_repeated) {
            memset(bools + done, is_kept(job, r.index), r.n);
        } else if (job->map.bits != NULL) {
            for (size_t i = 0; i < r.n; ++i) {
                bools[done + i] = (uint8_t)given_bit(&job->map, (size_t)r.index + i);
            }
        } else {
            job->kernels->keep_bools(&job->draw, (uint64_t)r.index, r.n, bools + done);
        }
        advance(&job->map, &c, r.n);
        done += r.n;
    }
}

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

/* Up to 64 given bits from bit `first` on. */
static uint64_t some_bits(const fd_index_map *map, size_t first, size_t n)
{
    const uint8_t *const p = map->bits + first / 8;
    const size_t left = map->bytes - first / 8;
    const unsigned skipped = (unsigned)(first % 8);
    uint8_t bytes[9] = {0};
    memcpy(bytes, p, left < sizeof bytes ? left : sizeof bytes);
    uint64_t word = load_le64(bytes) >> skipped;
    if (skipped > 0) {
        word |= (uint64_t)bytes[8] << (64 - skipped);
    }
    return n < 64 ? word & ((UINT64_C(1) << n) - 1) : word;
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
                square[i] = some_bits(map, index + (row + i) * stride + column, width);
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
            if (r.is_repeated) {
                put_same(ordered, done, given_bit(map, (size_t)r.index), r.n);
            } else {
                put_bits(ordered, done, map->bits, (size_t)r.index, r.n, map->bits + map->bytes);
            }
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
