/* SPDX-License-Identifier: BSD-3-Clause
 *
 * walk.c: a whole array of any number of dimensions, in pieces that kernels take.
 *
 * A piece is elements that follow each other in the array, and what decides on them. Long runs of elements are pieces as
 * they are. The keep bits of short ones are collected first, because starting a kernel pays only from some hundred
 * elements on.
 */
#include "bits.h"
#include "compiler.h"
#include "fastdrop.h"
#include "operands.h"
#include "runs.h"

enum {
    LONG = 1024,          /* elements of a run that is a piece by itself */
    ENOUGH = 1024,        /* elements for which a way of their own pays */
    PART = 8192,          /* elements whose bits are collected at a time */
    BLOCK = 128,          /* elements that the generator decides at a time */
    DRAWN = PART + BLOCK, /* decisions that are drawn at a time, to be repeated */
    FAR = 48,             /* from one element to the next where each is drawn by itself */
    AT_ONCE = 256,        /* of those */
    BLOCKS = 64,          /* that are drawn at a time for rows */
    ROWS = 128,
};

static const size_t sizes[FD_NUM_DTYPES] = {[FD_F16] = 2, [FD_BF16] = 2, [FD_F32] = 4, [FD_F64] = 8};

typedef struct {
    enum { RUN, SAME, BITS } by; /* indices that follow each other; one decision; bits that have been collected */
    size_t n;
    int64_t index; /* of a run's first element */
    int kept;      /* the one decision */
    size_t period; /* after so many elements the collected bits begin anew */
} piece;

static const piece nothing;

/* A walk on its way. */
typedef struct {
    const fd_job *job;
    cursor next;
    size_t left; /* elements */
    int64_t first_drawn;
    size_t num_drawn;
    uint8_t drawn[DRAWN / 8];
    repetition repeated; /* of no length as long as it is not prepared */
    uint8_t bits[PART / 8 + BITS_SLACK];
} walk;

static void begin(walk *w, const fd_job *job, int64_t first, size_t n)
{
    w->job = job;
    w->next = cursor_at(&job->map, first);
    w->left = n;
    w->first_drawn = 0;
    w->num_drawn = 0;
    w->repeated.length = 0;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static int is_kept(const fd_job *job, int64_t index)
{
    uint8_t bit;
    if (job->map.bits != NULL) {
        return bit_at(given_bits(&job->map), (size_t)index);
    }
    job->kernels->keep_bits(&job->draw, (uint64_t)index, 1, &bit);
    return bit;
}

/* How many rows of a length to take at a time, of so many: all that go into a part, or a number after which the next
 * elements lie as well in the lines of a cache. */
static size_t rows_at_once(size_t rows, size_t length)
{
    const size_t most = PART / length, power = length & (0 - length), together = power < 64 ? 64 / power : 1;
    return rows <= most ? rows : most < together ? most : most / together * together;
}

/* Collecting bits */

/* The bits of the next runs, while they are short, up to n elements; returns how many those are. */
static size_t collect_given(const fd_index_map *map, cursor *c, size_t n, uint8_t *bits)
{
    size_t done = 0;
    while (done < n) {
        const run r = next_run(map, c, n - done);
        if (r.n >= LONG && (r.stride == 0 || r.stride == 1)) {
            break;
        }
        put_run(bits, done, given_bits(map), r);
        advance(map, c, r.n);
        done += r.n;
    }
    return done;
}

/* Elements that lie so far apart that each has a block of its own, or nearly so: drawn one by one. */
static size_t collect_scattered(const fd_job *job, cursor *c, size_t n, uint8_t *bits)
{
    uint64_t index[AT_ONCE];
    for (size_t done = 0; done < n; done += AT_ONCE) {
        const size_t some = least(n - done, AT_ONCE);
        for (size_t i = 0; i < some;) {
            const run r = next_run(&job->map, c, some - i);
            for (size_t j = 0; j < r.n; ++j) {
                index[i++] = (uint64_t)(r.index + (int64_t)j * r.stride);
            }
            advance(&job->map, c, r.n);
        }
        job->kernels->keep_at(&job->draw, index, some, bits + done / 8);
    }
    return n;
}

/* Runs each of which repeats one decision. */
static size_t collect_shared(const fd_job *job, cursor *c, size_t n, uint8_t *bits)
{
    uint64_t index[64];
    size_t length[64], done = 0;
    while (done < n) {
        size_t runs = 0, taken = done;
        for (; runs < 64 && taken < n; ++runs) {
            const run r = next_run(&job->map, c, n - taken);
            if (r.n >= LONG) {
                break;
            }
            index[runs] = (uint64_t)r.index;
            length[runs] = r.n;
            taken += r.n;
            advance(&job->map, c, r.n);
        }
        if (runs == 0) {
            break;
        }
        uint8_t kept[8];
        job->kernels->keep_at(&job->draw, index, runs, kept);
        for (size_t i = 0; i < runs; ++i) {
            put_same(bits, done, bit_at((bit_string){kept, sizeof kept}, i), length[i]);
            done += length[i];
        }
    }
    return done;
}

/* Short rows, and elements near each other: the blocks that they lie in are drawn together, and each once where it
 * serves one row after the other. They are as many elements as so many blocks hold, or n. */
static size_t collect_rows(const fd_job *job, cursor *c, size_t n, uint8_t *bits)
{
    uint64_t block[BLOCKS];
    run rows[ROWS];
    uint8_t drawn[BLOCKS * BLOCK / 8];
    size_t done = 0;
    for (int is_full = 0; !is_full && done < n;) {
        size_t blocks = 0, num_rows = 0, taken = done;
        while (!is_full && taken < n && num_rows < ROWS) {
            run r = next_run(&job->map, c, n - taken);
            if (r.stride == 1 && r.n >= LONG) {
                is_full = 1;
                break;
            }
            const int64_t step = r.stride < 0 ? -r.stride : r.stride;
            r.n = least(r.n, (size_t)((BLOCKS - 2) * BLOCK / step));
            const int64_t across = (int64_t)(r.n - 1) * r.stride;
            const uint64_t low = (uint64_t)(r.index + (across < 0 ? across : 0)) / BLOCK;
            uint64_t high = (uint64_t)(r.index + (across > 0 ? across : 0)) / BLOCK;
            const size_t first = blocks > 0 && block[blocks - 1] == low ? blocks - 1 : blocks;
            if (first + (size_t)(high - low) >= BLOCKS) {
                /* What there is room for, up to an element with which the next piece is as well aligned in memory. */
                const size_t room = (BLOCKS - first) * BLOCK - (size_t)(r.index % BLOCK), odd = (taken + room) % 64;
                is_full = taken >= ENOUGH;
                if (!is_full || r.stride != 1 || first == BLOCKS || room <= odd) {
                    break;
                }
                r.n = room - odd;
                high = (uint64_t)(r.index + (int64_t)r.n - 1) / BLOCK;
            }
            blocks = first;
            for (uint64_t b = low; b <= high; ++b) {
                block[blocks++] = b;
            }
            rows[num_rows++] = (run){r.index - (int64_t)(low - first) * BLOCK, r.stride, r.n};
            taken += r.n;
            advance(&job->map, c, r.n);
        }
        job->kernels->keep_blocks(&job->draw, block, blocks, drawn);
        for (size_t i = 0; i < num_rows; ++i) {
            put_run(bits, done, (bit_string){drawn, sizeof drawn}, rows[i]);
            done += rows[i].n;
        }
    }
    return done;
}

static size_t collect_drawn(const fd_job *job, cursor *c, size_t n, uint8_t *bits)
{
    const int64_t stride = next_run(&job->map, c, n).stride;
    return stride == 0                       ? collect_shared(job, c, n, bits)
           : stride >= FAR || stride <= -FAR ? collect_scattered(job, c, n, bits)
                                             : collect_rows(job, c, n, bits);
}

static size_t collect(const fd_job *job, cursor *c, size_t n, uint8_t *bits)
{
    return job->map.bits != NULL ? collect_given(&job->map, c, n, bits) : collect_drawn(job, c, n, bits);
}

/* A piece of elements that repeat the decisions of a short row, as where channels come last; of none where they do not.
 * The bits of the row are copied as often as there is room. */
static piece of_equal_rows(walk *w)
{
    const fd_index_map *const map = &w->job->map;
    const int last = map->ndim - 1;
    if (last < 1 || map->stride[last] == 0 || map->stride[last - 1] != 0 || w->next.at[last] != 0 ||
        map->shape[last] >= LONG) {
        return nothing;
    }
    const size_t row = (size_t)map->shape[last];
    const size_t rows = least((size_t)(map->shape[last - 1] - w->next.at[last - 1]), w->left / row);
    if (rows < 2 || (rows * row < ENOUGH && rows * row < w->left)) {
        return nothing;
    }
    const size_t period = rows_at_once(rows, row) * row;
    cursor first = w->next;
    for (size_t filled = collect(w->job, &first, row, w->bits); filled < period;) {
        const size_t more = least(filled, period - filled);
        put_bits(w->bits, filled, (bit_string){w->bits, sizeof w->bits}, 0, more);
        filled += more;
    }
    advance_along(map, &w->next, last - 1, rows);
    return (piece){.by = BITS, .n = rows * row, .period = period};
}

/* The decisions from an index on, of which the next n are wanted and some more will be. */
static bit_string decisions(walk *w, int64_t index, size_t n, size_t more, size_t *first)
{
    const fd_job *const job = w->job;
    if (job->map.bits != NULL) {
        *first = (size_t)index;
        return given_bits(&job->map);
    }
    if (index < w->first_drawn || (size_t)(index - w->first_drawn) + n > w->num_drawn) {
        w->first_drawn = index;
        w->num_drawn = least(more, DRAWN - (size_t)index % BLOCK);
        job->kernels->keep_bits(&job->draw, (uint64_t)index, w->num_drawn, w->drawn);
    }
    *first = (size_t)(index - w->first_drawn);
    return (bit_string){w->drawn, sizeof w->drawn};
}

/* A piece of runs each of which repeats one decision, as where channels come first; of none where they do not. */
static piece of_repeated(walk *w)
{
    const fd_index_map *const map = &w->job->map;
    const int last = map->ndim - 1;
    if (last < 1 || map->stride[last] != 0 || map->stride[last - 1] != 1) {
        return nothing;
    }
    const size_t length = (size_t)map->shape[last], whole = w->left / length;
    const int64_t index = w->next.index;
    if (w->next.at[last] != 0 || whole == 0) {
        const size_t n = least(length - (size_t)w->next.at[last], w->left);
        advance(map, &w->next, n);
        return (piece){.by = SAME, .n = n, .kept = is_kept(w->job, index)};
    }
    const size_t runs = least(whole, (size_t)(map->shape[last - 1] - w->next.at[last - 1]));
    if (runs * length < ENOUGH && runs < whole) {
        return nothing;
    }
    size_t first, some = length < LONG ? rows_at_once(runs, length) : 1;
    const bit_string from = decisions(w, index, some, runs, &first);
    if (length >= LONG) {
        const size_t known = map->bits != NULL ? runs : least(runs, w->num_drawn - first);
        while (some < known && bit_at(from, first + some) == bit_at(from, first)) {
            ++some;
        }
    } else if (length <= MOST_REPEATED) {
        if (w->repeated.length == 0) {
            prepare_repetition(&w->repeated, runs, (unsigned)length);
        }
        repeat_bits(w->bits, &w->repeated, from, first, some);
    } else {
        for (size_t i = 0; i < some; ++i) {
            put_same(w->bits, i * length, bit_at(from, first + i), length);
        }
    }
    advance_along(map, &w->next, last - 1, some);
    if (length >= LONG) {
        return (piece){.by = SAME, .n = some * length, .kept = bit_at(from, first)};
    }
    return (piece){.by = BITS, .n = some * length, .period = some * length};
}

static piece next_piece(walk *w)
{
    const fd_index_map *const map = &w->job->map;
    piece p = of_equal_rows(w);
    if (p.n == 0) {
        p = of_repeated(w);
    }
    if (p.n == 0) {
        const run r = next_run(map, &w->next, w->left);
        if (r.n >= LONG && r.stride == 0) {
            p = (piece){.by = SAME, .n = r.n, .kept = is_kept(w->job, r.index)};
            advance(map, &w->next, r.n);
        } else if (r.stride == 1 && (r.n >= LONG || r.n == w->left)) {
            p = (piece){.by = RUN, .n = r.n, .index = r.index};
            advance(map, &w->next, r.n);
        } else {
            const size_t n = collect(w->job, &w->next, least(w->left, PART), w->bits);
            p = (piece){.by = BITS, .n = n, .period = n};
        }
    }
    w->left -= p.n;
    return p;
}

/* Applying them */

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
        job->kernels->apply[op][job->dtype](kept ? all : none, 0, least(n - done, 8 * sizeof all), &part);
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

/* Normal numbers are drawn run by run, and those of other strides one by one. */
static void walk_normals(const fd_job *job, int64_t first, size_t n, const fd_operands *operands)
{
    cursor c = cursor_at(&job->map, first);
    for (size_t done = 0; done < n;) {
        const fd_operands o = operands_at(operands, done, sizes[job->dtype]);
        run r = next_run(&job->map, &c, n - done);
        if (r.stride == 0) {
            apply_same_normal(job, r.index, r.n, &o);
        } else {
            r.n = r.stride == 1 ? r.n : 1;
            job->kernels->draw[job->op][job->dtype](&job->draw, (uint64_t)r.index, r.n, &o);
        }
        advance(&job->map, &c, r.n);
        done += r.n;
    }
}

static void apply_piece(const walk *w, const piece *p, const fd_operands *o)
{
    const fd_job *const job = w->job;
    if (p->by == RUN && job->map.bits == NULL) {
        job->kernels->draw[job->op][job->dtype](&job->draw, (uint64_t)p->index, p->n, o);
    } else if (p->by == RUN) {
        job->kernels->apply[job->op][job->dtype](job->map.bits, (uint64_t)p->index, p->n, o);
    } else if (p->by == SAME) {
        if (!p->kept && job->op == FD_DROPOUT) {
            memset(o->y, 0, p->n * sizes[job->dtype]);
        } else {
            apply_same(job, job->op, p->kept, p->n, o);
        }
    } else {
        for (size_t done = 0; done < p->n; done += p->period) {
            const fd_operands part = operands_at(o, done, sizes[job->dtype]);
            job->kernels->apply[job->op][job->dtype](w->bits, 0, least(p->n - done, p->period), &part);
        }
    }
}

/* Write a byte for each of n bits. */
static void write_bools(bit_string from, size_t first, size_t n, uint8_t *bools)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        store_le64(bools + i, bools_of((uint8_t)word_at(from, first + i)));
    }
    for (; i < n; ++i) {
        bools[i] = (uint8_t)bit_at(from, first + i);
    }
}

static void write_piece(const walk *w, const piece *p, uint8_t *bools)
{
    const fd_job *const job = w->job;
    if (p->by == RUN && job->map.bits == NULL) {
        job->kernels->keep_bools(&job->draw, (uint64_t)p->index, p->n, bools);
    } else if (p->by == RUN) {
        write_bools(given_bits(&job->map), (size_t)p->index, p->n, bools);
    } else if (p->by == SAME) {
        memset(bools, p->kept, p->n);
    } else {
        for (size_t done = 0; done < p->n; done += p->period) {
            const bit_string bits = {w->bits, sizeof w->bits};
            write_bools(bits, 0, least(p->n - done, p->period), bools + done);
        }
    }
}

void fd_walk(const fd_job *job, int64_t first, size_t n, const fd_operands *operands)
{
    if (job->kernels->apply[job->op][job->dtype] == NULL) {
        walk_normals(job, first, n, operands);
        return;
    }
    if (job->map.ndim == 0 && job->map.bits == NULL) { /* the plain call, straight on */
        job->kernels->draw[job->op][job->dtype](&job->draw, (uint64_t)(job->map.offset + first), n, operands);
        return;
    }
    walk w;
    begin(&w, job, first, n);
    for (size_t done = 0; w.left > 0;) {
        const fd_operands o = operands_at(operands, done, sizes[job->dtype]);
        const piece p = next_piece(&w);
        apply_piece(&w, &p, &o);
        done += p.n;
    }
}

void fd_walk_keep(const fd_job *job, int64_t first, size_t n, uint8_t *bools)
{
    walk w;
    begin(&w, job, first, n);
    while (w.left > 0) {
        const piece p = next_piece(&w);
        write_piece(&w, &p, bools);
        bools += p.n;
    }
}
