/* SPDX-License-Identifier: BSD-3-Clause
 *
 * main.c: the C core without Python, for sanitizers, cross compilers and emulators.
 *
 *     main list          the instruction sets in this build, a line each: NAME supported|unsupported
 *     main threads N     look up and run every kernel from N threads at once; prints "agree", or fails
 *     main share N       share work with the pool, from N threads at once; prints "each once", or fails
 *     main               a request a line from standard input, an answer a line for each kernel that is asked for
 *
 * Requests (KERNEL is a name, or "all" for every one that this machine can run; integers are decimal or 0x...):
 *
 *     philox  KERNEL rounds c0 c1 c2 c3 k0 k1
 *     bits    KERNEL key call threshold start n at_y
 *     bools   KERNEL key call threshold start n at_y
 *     draw    KERNEL key call threshold start n WORK
 *     apply   KERNEL first n WORK
 *     walk    KERNEL MAP WORK
 *     keep    KERNEL MAP at_y seed
 *     order   KERNEL MAP at_y seed      (of fd_order_bits(): first is 0, n is all elements, and keep bits are given)
 *
 * MAP is "key call threshold offset DIMENSIONS bytes first n": the arguments of fd_walk(), with LENGTHxSTRIDE,...
 * for the dimensions, or - for none, and with so many bytes of given keep bits, or 0 for drawn ones.
 *
 * WORK is "op dtype at_x at_other at_bias at_y period bias_at scale shift fill nontemporal wild seed". An at_... is the
 * distance, in elements, of an array from an address that is a multiple of 64, or -1 for y itself. Numbers may be
 * hexadecimal floats. A request that cannot be read ends the program.
 *
 * An answer is "KERNEL checksum" and, for at most 40 elements, the elements as hexadecimal integers (for bits, the
 * bytes). The checksum of elements e[0], e[1], ... is the sum of mix(e[i] + (i + 1) * GOLDEN), modulo 2^64, so it
 * depends on their order but not on the order of their bytes.
 *
 * Inputs are made of numbers r[i] = mix(seed + (i + 1) * GOLDEN), splitmix64's, and element i is the low bits of
 * r[i], of which mix(r[i]) div 2^61 makes something special in half of the cases:
 *
 *     0   exponent all ones: a NaN of any payload, quiet or signalling
 *     1   exponent zero: a subnormal
 *     2   infinity of any sign
 *     3   zero of any sign
 *
 * That is so for the arrays whose bit is set in wild: 1 for x, 2 for other, 4 for the bias. In the others the highest
 * bit of the exponent is cleared, which leaves numbers below 2, and nothing special but zeros and subnormals. That
 * is because IEEE 754 does not say which NaN comes of two, or of infinities of different signs, and machines differ.
 *
 * x is made of seed, the bytes of given keep bits are the low ones of the r of seed + 1, other is made of seed + 2 and
 * the bias of seed + 3. Where x and other are the same array it holds x.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastdrop.h"
#include "pool.h"

/* Bytes behind an array that must stay as they are. A build with AddressSanitizer sets this to 0: there the byte
 * behind an array is the first that it does not own, and reading it is seen too. */
#ifndef GUARD
#define GUARD 64
#endif

enum { ALIGNMENT = 64, PRINTED = 40, GUARD_BYTE = 0xA5 };

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)

static const struct {
    const char *name;
    size_t size;
    uint64_t sign, exponent;
} dtypes[FD_NUM_DTYPES] = {
    [FD_F16] = {"f16", 2, 0x8000, 0x7C00},
    [FD_BF16] = {"bf16", 2, 0x8000, 0x7F80},
    [FD_F32] = {"f32", 4, UINT64_C(0x80000000), UINT64_C(0x7F800000)},
    [FD_F64] = {"f64", 8, UINT64_C(0x8000000000000000), UINT64_C(0x7FF0000000000000)},
};

static void fail(const char *what, const char *about)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", what, about);
    exit(EXIT_FAILURE);
}

/* The finalizer of splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint64_t load(const uint8_t *p, size_t size)
{
    uint16_t half;
    uint32_t word;
    uint64_t wide;
    switch (size) {
    case 2:
        memcpy(&half, p, 2);
        return half;
    case 4:
        memcpy(&word, p, 4);
        return word;
    case 8:
        memcpy(&wide, p, 8);
        return wide;
    default:
        return *p;
    }
}

static void store(uint8_t *p, size_t size, uint64_t value)
{
    const uint16_t half = (uint16_t)value;
    const uint32_t word = (uint32_t)value;
    switch (size) {
    case 2:
        memcpy(p, &half, 2);
        break;
    case 4:
        memcpy(p, &word, 4);
        break;
    case 8:
        memcpy(p, &value, 8);
        break;
    default:
        *p = (uint8_t)value;
    }
}

/* An array on the heap that ends where its elements do. */
typedef struct {
    uint8_t *memory, *data;
    size_t bytes;
} array;

static array new_array(size_t n, size_t size, size_t offset)
{
    array a = {NULL, NULL, n * size};
    void *memory;
    const size_t whole = offset * size + a.bytes + GUARD;
    if (posix_memalign(&memory, ALIGNMENT, whole > 0 ? whole : 1) != 0) {
        fail("no memory", "array");
    }
    a.memory = memory;
    a.data = a.memory + offset * size;
    memset(a.memory, GUARD_BYTE, whole);
    return a;
}

/* Release an array, after a look at the bytes around it. */
static void end_array(array a, const char *kernel)
{
    const uint8_t *const end = a.data + a.bytes;
    for (const uint8_t *p = a.memory; p < a.data; ++p) {
        if (*p != GUARD_BYTE) {
            fail("a byte before the array was written", kernel);
        }
    }
    for (const uint8_t *p = end; p < end + GUARD; ++p) {
        if (*p != GUARD_BYTE) {
            fail("a byte behind the array was written", kernel);
        }
    }
    free(a.memory);
}

static uint64_t element(fd_dtype dtype, uint64_t seed, int is_wild, size_t i)
{
    const uint64_t sign = dtypes[dtype].sign, exponent = dtypes[dtype].exponent;
    const uint64_t r = mix(seed + (i + 1) * GOLDEN);
    const uint64_t special[8] = {r | exponent, r & ~exponent, (r & sign) | exponent, r & sign, r, r, r, r};
    const uint64_t highest = exponent & ~(exponent >> 1);
    return special[mix(r) >> 61] & ~(is_wild ? 0 : highest);
}

static void fill_elements(array a, fd_dtype dtype, uint64_t seed, int is_wild)
{
    const size_t size = dtypes[dtype].size;
    for (size_t i = 0; i < a.bytes / size; ++i) {
        store(a.data + i * size, size, element(dtype, seed, is_wild, i));
    }
}

static void check_elements(array a, fd_dtype dtype, uint64_t seed, int is_wild, const char *kernel)
{
    const array expected = new_array(a.bytes, 1, 0);
    fill_elements(expected, dtype, seed, is_wild);
    if (memcmp(a.data, expected.data, a.bytes) != 0) {
        fail("an input was written", kernel);
    }
    end_array(expected, kernel);
}

static void fill_bits(array a, uint64_t seed)
{
    for (size_t i = 0; i < a.bytes; ++i) {
        a.data[i] = (uint8_t)mix(seed + 1 + (i + 1) * GOLDEN);
    }
}

static uint64_t checksum(const uint8_t *data, size_t n, size_t size)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; ++i) {
        sum += mix(load(data + i * size, size) + (i + 1) * GOLDEN);
    }
    return sum;
}

static void answer(const char *kernel, const uint8_t *data, size_t n, size_t size)
{
    printf("%s %016" PRIx64, kernel, checksum(data, n, size));
    for (size_t i = 0; i < n && n <= PRINTED; ++i) {
        printf(" %0*" PRIx64, (int)(2 * size), load(data + i * size, size));
    }
    putchar('\n');
}

typedef enum { PHILOX, BITS, BOOLS, DRAW, APPLY, WALK, KEEP, ORDER } request_kind;

enum { X, OTHER, BIAS, NUM_INPUTS, IN_PLACE = -1 };

static const char *const op_names[FD_NUM_OPS] = {
    [FD_DROPOUT] = "dropout",
    [FD_DROPOUT_ADD] = "dropout_add",
    [FD_BIAS_DROPOUT_ADD] = "bias_dropout_add",
    [FD_RELU_DROPOUT] = "relu_dropout",
    [FD_RELU_BACKWARD] = "relu_backward",
    [FD_ALPHA_DROPOUT] = "alpha_dropout",
    [FD_ZONEOUT] = "zoneout",
    [FD_GAUSSIAN_DROPOUT] = "gaussian_dropout",
    [FD_GAUSSIAN_NOISE] = "gaussian_noise",
};

static const uint64_t seeds[NUM_INPUTS] = {[X] = 0, [OTHER] = 2, [BIAS] = 3};

static int reads(fd_op op, int input)
{
    switch (input) {
    case X:
        return 1;
    case OTHER:
        return op == FD_DROPOUT_ADD || op == FD_BIAS_DROPOUT_ADD || op == FD_RELU_BACKWARD || op == FD_ZONEOUT;
    default:
        return op == FD_BIAS_DROPOUT_ADD;
    }
}

typedef struct {
    request_kind kind;
    char kernel[16];
    uint32_t counter[4], key[2];
    int rounds;
    fd_draw draw;
    fd_index_map map;
    uint64_t first, seed;
    size_t n, at_y;
    fd_op op;
    fd_dtype dtype;
    int64_t at[NUM_INPUTS];
    unsigned wild;
    fd_operands operands; /* its numbers */
} request;

/* Take the next field of the line that strtok holds. */
static const char *next_field(void)
{
    const char *const field = strtok(NULL, " \n");
    if (field == NULL) {
        fail("a field is missing", "request");
    }
    return field;
}

static uint64_t next_integer(void)
{
    const char *const field = next_field();
    char *end;
    const uint64_t value = strtoull(field, &end, 0);
    if (end == field || *end != '\0') {
        fail("not an integer", field);
    }
    return value;
}

static double next_number(void) { return strtod(next_field(), NULL); }

static fd_op next_op(void)
{
    const char *const field = next_field();
    int op = 0;
    while (strcmp(field, op_names[op]) != 0) {
        if (++op == FD_NUM_OPS) {
            fail("unknown operation", field);
        }
    }
    return (fd_op)op;
}

static fd_dtype next_dtype(void)
{
    const char *const field = next_field();
    int dtype = 0;
    while (strcmp(field, dtypes[dtype].name) != 0) {
        if (++dtype == FD_NUM_DTYPES) {
            fail("unknown dtype", field);
        }
    }
    return (fd_dtype)dtype;
}

static void read_draw(request *r)
{
    r->draw.key = next_integer();
    r->draw.call = next_integer();
    r->draw.threshold = next_integer();
}

static void read_map(request *r)
{
    read_draw(r);
    r->map.offset = (int64_t)next_integer();
    const char *field = next_field();
    while (*field != '-' && *field != '\0') {
        char *end;
        if (r->map.ndim == FD_MAX_DIMS) {
            fail("too many dimensions", field);
        }
        r->map.shape[r->map.ndim] = strtoll(field, &end, 10);
        if (*end != 'x') {
            fail("not a dimension", field);
        }
        r->map.stride[r->map.ndim++] = strtoll(end + 1, &end, 10);
        field = *end == ',' ? end + 1 : end;
    }
    r->map.bytes = (size_t)next_integer();
    r->first = next_integer();
    r->n = (size_t)next_integer();
}

static void read_work(request *r)
{
    r->op = next_op();
    r->dtype = next_dtype();
    for (int i = 0; i < NUM_INPUTS; ++i) {
        r->at[i] = (int64_t)next_integer();
    }
    r->at_y = (size_t)next_integer();
    r->operands.period = (size_t)next_integer();
    r->operands.bias_at = (size_t)next_integer();
    r->operands.scale = next_number();
    r->operands.shift = next_number();
    r->operands.fill = next_number();
    r->operands.nontemporal = (int)next_integer();
    r->wild = (unsigned)next_integer();
    r->seed = next_integer();
}

static request read_request(char *line)
{
    static const char *const kinds[] = {"philox", "bits", "bools", "draw", "apply", "walk", "keep", "order"};
    const char *const kind = strtok(line, " \n");
    request r = {0};
    while (kind == NULL || strcmp(kind, kinds[r.kind]) != 0) {
        if (kind == NULL || r.kind == ORDER) {
            fail("unknown request", kind ? kind : "empty line");
        }
        r.kind = (request_kind)(r.kind + 1);
    }
    snprintf(r.kernel, sizeof r.kernel, "%s", next_field());
    if (r.kind == PHILOX) {
        r.rounds = (int)next_integer();
        for (int i = 0; i < 4; ++i) {
            r.counter[i] = (uint32_t)next_integer();
        }
        r.key[0] = (uint32_t)next_integer();
        r.key[1] = (uint32_t)next_integer();
        return r;
    }
    if (r.kind == WALK || r.kind == KEEP || r.kind == ORDER) {
        read_map(&r);
    } else {
        if (r.kind != APPLY) {
            read_draw(&r);
        }
        r.first = next_integer();
        r.n = (size_t)next_integer();
    }
    if (r.kind == DRAW || r.kind == APPLY || r.kind == WALK) {
        read_work(&r);
    } else {
        r.at_y = (size_t)next_integer();
        r.seed = r.kind == KEEP || r.kind == ORDER ? next_integer() : 0;
    }
    return r;
}

/* The given keep bits; an array of no bytes where there are none. */
static array new_bits(const request *r)
{
    const array bits = new_array(r->kind == APPLY ? (size_t)(r->first + r->n + 7) / 8 : r->map.bytes, 1, 0);
    fill_bits(bits, r->seed);
    return bits;
}

static fd_job job_of(const fd_kernels *k, const request *r, array bits)
{
    fd_job job = {k, r->draw, r->map, r->op, r->dtype};
    job.map.bits = bits.bytes > 0 ? bits.data : NULL;
    return job;
}

static void draw_mask(const fd_kernels *k, const request *r)
{
    const size_t n = r->kind == BITS || r->kind == ORDER ? (r->n + 7) / 8 : r->n;
    const array y = new_array(n + (r->kind == ORDER ? FD_BITS_SLACK : 0), 1, r->at_y), bits = new_bits(r);
    if (r->kind == KEEP) {
        const fd_job job = job_of(k, r, bits);
        fd_walk_keep(&job, (int64_t)r->first, r->n, y.data);
    } else if (r->kind == ORDER) {
        const fd_job job = job_of(k, r, bits);
        memset(y.data, 0, y.bytes);
        fd_order_bits(&job.map, r->n, y.data);
    } else {
        (r->kind == BITS ? k->keep_bits : k->keep_bools)(&r->draw, r->first, r->n, y.data);
    }
    answer(k->name, y.data, n, 1);
    end_array(bits, k->name);
    end_array(y, k->name);
}

static void operate(const fd_kernels *k, const request *r)
{
    const size_t size = dtypes[r->dtype].size;
    const array y = new_array(r->n, size, r->at_y), bits = new_bits(r);
    array inputs[NUM_INPUTS] = {0};
    for (int i = NUM_INPUTS - 1; i >= 0; --i) {
        if (reads(r->op, i)) {
            const size_t n = i == BIAS ? r->operands.period : r->n;
            inputs[i] = r->at[i] == IN_PLACE ? y : new_array(n, size, (size_t)r->at[i]);
            fill_elements(inputs[i], r->dtype, r->seed + seeds[i], r->wild >> i & 1);
        }
    }
    fd_operands o = r->operands;
    o.x = inputs[X].data;
    o.other = inputs[OTHER].data;
    o.bias = inputs[BIAS].data;
    o.y = y.data;
    if (r->kind == WALK) {
        const fd_job job = job_of(k, r, bits);
        fd_walk(&job, (int64_t)r->first, r->n, &o);
    } else if (r->kind == DRAW) {
        k->draw[r->op][r->dtype](&r->draw, r->first, r->n, &o);
    } else if (k->apply[r->op][r->dtype] != NULL) {
        k->apply[r->op][r->dtype](bits.data, r->first, r->n, &o);
    } else {
        fail("takes no keep bits", op_names[r->op]);
    }
    answer(k->name, y.data, r->n, size);
    for (int i = 0; i < NUM_INPUTS; ++i) {
        if (inputs[i].data != NULL && inputs[i].data != y.data) {
            check_elements(inputs[i], r->dtype, r->seed + seeds[i], r->wild >> i & 1, k->name);
            end_array(inputs[i], k->name);
        }
    }
    end_array(bits, k->name);
    end_array(y, k->name);
}

static void run_request(const fd_kernels *k, const request *r)
{
    switch (r->kind) {
    case PHILOX: {
        uint32_t result[4];
        k->philox(r->counter, r->key, r->rounds, result);
        answer(k->name, (const uint8_t *)result, 4, 4);
        break;
    }
    case BITS:
    case BOOLS:
    case KEEP:
    case ORDER:
        draw_mask(k, r);
        break;
    default:
        operate(k, r);
    }
}

static int answer_requests(void)
{
    char line[512];
    while (fgets(line, sizeof line, stdin) != NULL) {
        const request r = read_request(line);
        int ran = 0;
        for (size_t i = 0; fd_built(i) != NULL; ++i) {
            const fd_kernels *const k = fd_built(i);
            if (fd_supported(i) && (strcmp(r.kernel, "all") == 0 || strcmp(r.kernel, k->name) == 0)) {
                run_request(k, &r);
                ran = 1;
            }
        }
        if (!ran) {
            fail("this machine cannot run", r.kernel);
        }
    }
    return EXIT_SUCCESS;
}

static int list_kernels(void)
{
    for (size_t i = 0; fd_built(i) != NULL; ++i) {
        printf("%s %s\n", fd_built(i)->name, fd_supported(i) ? "supported" : "unsupported");
    }
    return EXIT_SUCCESS;
}

/* What a thread finds, and when it may start. */
typedef struct {
    pthread_t thread;
    atomic_int *started;
    uint64_t found;
} worker;

enum { THREAD_ELEMENTS = 2500, THREAD_PERIOD = 100, THREAD_ROUNDS = 2 };

/* One number for all that the core answers: names, support, masks, elements of every kernel. */
static void *use_everything(void *argument)
{
    worker *const w = argument;
    const fd_draw draw = {UINT64_C(0x0123456789ABCDEF), 7, 429496730};
    while (!atomic_load(w->started)) {
    }
    w->found = 0;
    for (int round = 0; round < THREAD_ROUNDS; ++round) {
        for (size_t i = 0; fd_built(i) != NULL; ++i) {
            const fd_kernels *const k = fd_built(i);
            const uint64_t name = checksum((const uint8_t *)k->name, strlen(k->name), 1);
            w->found = mix(w->found + name + (uint64_t)fd_supported(i));
            if (!fd_supported(i)) {
                continue;
            }
            const array bits = new_array((THREAD_ELEMENTS + 7) / 8, 1, 0);
            k->keep_bits(&draw, 3, THREAD_ELEMENTS, bits.data);
            w->found = mix(w->found + checksum(bits.data, bits.bytes, 1));
            for (int dtype = 0; dtype < FD_NUM_DTYPES; ++dtype) {
                const size_t size = dtypes[dtype].size;
                const array a = new_array(THREAD_ELEMENTS, size, 0), bias = new_array(THREAD_PERIOD, size, 0);
                fill_elements(a, (fd_dtype)dtype, 1, 0);
                fill_elements(bias, (fd_dtype)dtype, 2, 0);
                fd_operands o = {.x = a.data, .other = a.data, .bias = bias.data, .y = a.data};
                o.period = THREAD_PERIOD;
                o.scale = 1.25;
                o.nontemporal = round % 2;
                for (int op = 0; op < FD_NUM_OPS; ++op) {
                    k->draw[op][dtype](&draw, 3, THREAD_ELEMENTS, &o);
                    if (k->apply[op][dtype] != NULL) {
                        k->apply[op][dtype](bits.data, 0, THREAD_ELEMENTS, &o);
                    }
                    w->found = mix(w->found + checksum(a.data, THREAD_ELEMENTS, size));
                }
                end_array(a, k->name);
                end_array(bias, k->name);
            }
            end_array(bits, k->name);
        }
    }
    return NULL;
}

static int run_threads(int n)
{
    atomic_int started = 0;
    worker *const workers = calloc((size_t)n, sizeof *workers);
    if (workers == NULL) {
        fail("no memory", "threads");
    }
    for (int i = 0; i < n; ++i) {
        workers[i].started = &started;
        if (pthread_create(&workers[i].thread, NULL, use_everything, &workers[i]) != 0) {
            fail("cannot start", "thread");
        }
    }
    /* Nothing has been looked up before this: what the core may find out once, all of them find out together. */
    atomic_store(&started, 1);
    int agree = 1;
    for (int i = 0; i < n; ++i) {
        pthread_join(workers[i].thread, NULL);
        agree &= workers[i].found == workers[0].found;
    }
    free(workers);
    puts(agree ? "agree" : "differ");
    return agree ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Elements that callers share, and how often each has been worked on. */
enum { SHARED_ELEMENTS = 1000, SHARED_CHUNK = 7, SHARED_ROUNDS = 300 };

typedef struct {
    pthread_t thread;
    int helpers, wrong;
    unsigned char times[SHARED_ELEMENTS];
} sharer;

static void count_part(void *context, int number, int64_t first, int64_t n)
{
    sharer *const s = context;
    if (number < 0 || number > s->helpers || n < 1 || first < 0 || first + n > SHARED_ELEMENTS) {
        fail("a part that cannot be", "share");
    }
    for (int64_t i = first; i < first + n; ++i) {
        ++s->times[i];
    }
}

/* Nothing of this is atomic: that a part is one thread's own, and the caller's afterwards, is up to the pool. */
static void *share_all(void *argument)
{
    sharer *const s = argument;
    for (int round = 0; round < SHARED_ROUNDS; ++round) {
        s->helpers = round % 4;
        memset(s->times, 0, sizeof s->times);
        fd_share(count_part, s, SHARED_ELEMENTS - round, SHARED_CHUNK, 1 + s->helpers);
        for (int i = 0; i < SHARED_ELEMENTS; ++i) {
            s->wrong |= s->times[i] != (i < SHARED_ELEMENTS - round);
        }
    }
    return NULL;
}

static int run_shares(int n)
{
    sharer *const sharers = calloc((size_t)n, sizeof *sharers);
    int wrong = !fd_prepare_pool();
    if (sharers == NULL) {
        fail("no memory", "shares");
    }
    for (int i = 0; i < n; ++i) {
        if (pthread_create(&sharers[i].thread, NULL, share_all, &sharers[i]) != 0) {
            fail("cannot start", "thread");
        }
    }
    for (int i = 0; i < n; ++i) {
        pthread_join(sharers[i].thread, NULL);
        wrong |= sharers[i].wrong;
    }
    free(sharers);
    puts(wrong ? "not each once" : "each once");
    return wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        return answer_requests();
    }
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        return list_kernels();
    }
    if (argc == 3 && strcmp(argv[1], "threads") == 0 && atoi(argv[2]) > 0) {
        return run_threads(atoi(argv[2]));
    }
    if (argc == 3 && strcmp(argv[1], "share") == 0 && atoi(argv[2]) > 0) {
        return run_shares(atoi(argv[2]));
    }
    fprintf(stderr, "usage: %s [list | threads N | share N]\n", argv[0]);
    return EXIT_FAILURE;
}
