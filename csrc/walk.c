/* SPDX-License-Identifier: BSD-3-Clause
 *
 * walk.c: a whole array of any number of dimensions, as runs that kernels take.
 *
 * A run is a row of elements whose indices follow each other, or are all the same. Long ones go to a kernel as they are.
 * The keep bits of short ones are put together first, because a kernel earns its start only over some hundred elements.
 */
#include "compiler.h"
#include "fastdrop.h"

enum {
    LONG = 1024,                      /* elements of a run that goes to a kernel by itself */
    PART = 4096,                      /* elements whose bits are put together */
    SLACK = 8,                        /* bytes that put_bits() may write behind the last bit */
};

static const size_t sizes[FD_NUM_DTYPES] = {[FD_F16] = 2, [FD_BF16] = 2, [FD_F32] = 4, [FD_F64] = 8};

/* The place of the next element. */
typedef struct {
    int64_t at[FD_MAX_DIMS];
    int64_t index;
} cursor;

/* Elements that follow each other in the array. */
typedef struct {
    int64_t index;
    size_t n;
    int is_repeated;                  /* all have the same index */
} run;

static cursor cursor_at(const fd_places *p, int64_t element)
{
    cursor c;
    c.index = p->offset + (p->ndim == 0 ? element : 0);
    for (int d = p->ndim - 1; d >= 0; --d) {
        c.at[d] = element % p->shape[d];
        element /= p->shape[d];
        c.index += c.at[d] * p->stride[d];
    }
    return c;
}

static run next_run(const fd_places *p, const cursor *c, size_t most)
{
    run r = {c->index, most, 0};
    if (p->ndim > 0) {
        const int last = p->ndim - 1;
        const size_t left = (size_t)(p->shape[last] - c->at[last]);
        const size_t n = p->stride[last] == 0 || p->stride[last] == 1 ? left : 1;
        r.n = n < most ? n : most;
        r.is_repeated = p->stride[last] == 0;
    }
    return r;
}

static void advance(const fd_places *p, cursor *c, size_t n)
{
    if (p->ndim == 0) {
        c->index += (int64_t)n;
        return;
    }
    int d = p->ndim - 1;
    c->at[d] += (int64_t)n;
    c->index += (int64_t)n * p->stride[d];
    for (; d > 0 && c->at[d] == p->shape[d]; --d) {
        c->index += p->stride[d - 1] - c->at[d] * p->stride[d];
        c->at[d] = 0;
        ++c->at[d - 1];
    }
}

static int is_kept(const fd_job *job, int64_t index)
{
    uint8_t bit;
    if (job->places.bits != NULL) {
        return job->places.bits[index / 8] >> index % 8 & 1;
    }
    job->kernels->keep_bits(&job->draw, (uint64_t)index, 1, &bit);
    return bit;
}

/* Put n bits at bit `at` of a string; what stood behind them is lost. They are those at bit `first` of a string that ends
 * before `end`. */
static void put_bits(uint8_t *to, size_t at, const uint8_t *from, size_t first, size_t n, const uint8_t *end)
{
    while (n > 0) {
        const uint8_t *const p = from + first / 8;
        uint8_t bytes[8] = {0};
        memcpy(bytes, p, end - p < 8 ? (size_t)(end - p) : 8);
        const unsigned odd = (unsigned)(at % 8), skipped = (unsigned)(first % 8);
        const size_t most = 64 - (odd > skipped ? odd : skipped), part = n < most ? n : most;
        const uint64_t before = to[at / 8] & ((1u << odd) - 1);
        store_le64(to + at / 8, before | load_le64(bytes) >> skipped << odd);
        at += part;
        first += part;
        n -= part;
    }
}

/* The keep bits of the next runs, while they are short, up to n elements; returns how many those are. */
static size_t collect_bits(const fd_job *job, cursor *c, size_t n, uint8_t bits[PART / 8 + SLACK])
{
    static const uint8_t none[LONG / 8], all[] = {
#define ONES_8 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF
#define ONES_32 ONES_8, ONES_8, ONES_8, ONES_8
        ONES_32, ONES_32, ONES_32, ONES_32
#undef ONES_32
#undef ONES_8
    };
    const fd_places *const p = &job->places;
    size_t done = 0;
    while (done < n) {
        uint8_t drawn[LONG / 8];
        const run r = next_run(p, c, n - done);
        if (r.n >= LONG) {
            break;
        }
        if (r.is_repeated) {
            const uint8_t *const same = is_kept(job, r.index) ? all : none;
            put_bits(bits, done, same, 0, r.n, same + LONG / 8);
        } else if (p->bits != NULL) {
            put_bits(bits, done, p->bits, (size_t)r.index, r.n, p->bits + p->bytes);
        } else {
            job->kernels->keep_bits(&job->draw, (uint64_t)r.index, r.n, drawn);
            put_bits(bits, done, drawn, 0, r.n, drawn + (r.n + 7) / 8);
        }
        advance(p, c, r.n);
        done += r.n;
    }
    return done;
}

static void apply_run(const fd_job *job, run r, const fd_operands *o)
{
    if (!r.is_repeated || job->kernels->apply[job->op][job->dtype] == NULL) {
        if (job->places.bits != NULL) {
            job->kernels->apply[job->op][job->dtype](job->places.bits, (uint64_t)r.index, r.n, o);
        } else {
            job->kernels->draw[job->op][job->dtype](&job->draw, (uint64_t)r.index, r.n, o);
        }
        return;
    }
    /* One decision for all is a draw that keeps all, or none. */
    fd_draw same = job->draw;
    same.threshold = is_kept(job, r.index) ? 0 : UINT64_C(1) << 32;
    if (same.threshold != 0 && job->op == FD_DROPOUT) {
        memset(o->y, 0, r.n * sizes[job->dtype]);
        return;
    }
    job->kernels->draw[job->op][job->dtype](&same, 0, r.n, o);
}

void fd_walk(const fd_job *job, int64_t first, size_t n, const fd_operands *operands)
{
    const int takes_bits = job->kernels->apply[job->op][job->dtype] != NULL;
    cursor c = cursor_at(&job->places, first);
    for (size_t done = 0; done < n;) {
        const fd_operands o = operands_at(operands, done, sizes[job->dtype]);
        const run r = next_run(&job->places, &c, n - done);
        if (r.n < LONG && r.n < n - done && takes_bits) {
            uint8_t bits[PART / 8 + SLACK];
            const size_t part = collect_bits(job, &c, n - done < PART ? n - done : PART, bits);
            job->kernels->apply[job->op][job->dtype](bits, 0, part, &o);
            done += part;
        } else {
            apply_run(job, r, &o);
            advance(&job->places, &c, r.n);
            done += r.n;
        }
    }
}

void fd_walk_keep(const fd_job *job, int64_t first, size_t n, uint8_t *bools)
{
    cursor c = cursor_at(&job->places, first);
    for (size_t done = 0; done < n;) {
        const run r = next_run(&job->places, &c, n - done);
        if (r.is_repeated) {
            memset(bools + done, is_kept(job, r.index), r.n);
        } else if (job->places.bits != NULL) {
            for (size_t i = 0; i < r.n; ++i) {
                const size_t at = (size_t)r.index + i;
                bools[done + i] = job->places.bits[at / 8] >> at % 8 & 1;
            }
        } else {
            job->kernels->keep_bools(&job->draw, (uint64_t)r.index, r.n, bools + done);
        }
        advance(&job->places, &c, r.n);
        done += r.n;
    }
}
