/* SPDX-License-Identifier: BSD-3-Clause
 *
 * instructions.c: calls of the core's kernels, one after the other, for callgrind to count: see instructions.py.
 *
 *     instructions ISA ELEMENTS
 *
 * Prints the name of each call, a line each, in the order in which they are made: the kernel, the dtype, the rate. Each
 * is made in measured(), which callgrind is told to count.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastdrop.h"

static const struct {
    const char *name;
    size_t size;
    uint32_t one; /* the bits of 1.0; the upper ones of float64 */
} dtypes[FD_NUM_DTYPES] = {
    [FD_F16] = {"float16", 2, 0x3C00},
    [FD_BF16] = {"bfloat16", 2, 0x3F80},
    [FD_F32] = {"float32", 4, 0x3F800000},
    [FD_F64] = {"float64", 8, 0x3FF00000},
};

static const char *const ops[FD_NUM_OPS] = {
    [FD_DROPOUT] = "dropout",
    [FD_DROPOUT_ADD] = "dropout_add",
    [FD_BIAS_DROPOUT_ADD] = "bias_dropout_add",
    [FD_RELU_DROPOUT] = "relu_dropout",
    [FD_RELU_BACKWARD] = "relu_dropout_backward",
    [FD_ALPHA_DROPOUT] = "alpha_dropout",
    [FD_ZONEOUT] = "zoneout",
    [FD_GAUSSIAN_DROPOUT] = "gaussian_dropout",
    [FD_GAUSSIAN_NOISE] = "gaussian_noise",
};

/* Plain dropout in float32 and the masks are called at all of these, normal noise at the first, the others at two. */
static const double rates[] = {0.1, 0.5, 0.25, 0.125, 1e-6};
enum { ALL_RATES = sizeof rates / sizeof rates[0] };

enum { BITS = -2, BOOLS = -1 }; /* in place of an operation */

typedef struct {
    const fd_kernels *kernels;
    int op;
    fd_dtype dtype;
    fd_draw draw;
    size_t n;
    fd_operands operands;
} call;

void measured(const call *c);

__attribute__((noinline)) void measured(const call *c)
{
    if (c->op == BITS) {
        c->kernels->keep_bits(&c->draw, 0, c->n, c->operands.y);
    } else if (c->op == BOOLS) {
        c->kernels->keep_bools(&c->draw, 0, c->n, c->operands.y);
    } else {
        c->kernels->draw[c->op][c->dtype](&c->draw, 0, c->n, &c->operands);
    }
}

/* An array of ones, at the beginning of a page. */
static void *ones(fd_dtype dtype, size_t n)
{
    enum { PAGE = 4096 };
    const size_t size = dtypes[dtype].size, bytes = (n * size + PAGE - 1) / PAGE * PAGE;
    uint8_t *const memory = aligned_alloc(PAGE, bytes);
    if (memory == NULL) {
        fputs("no memory\n", stderr);
        exit(EXIT_FAILURE);
    }
    for (size_t i = 0; i < n; ++i) {
        const uint64_t wide = (uint64_t)dtypes[dtype].one << 32;
        const uint32_t word = dtypes[dtype].one;
        const uint16_t half = (uint16_t)word;
        const void *const bits = size == 8   ? (const void *)&wide
                                 : size == 4 ? (const void *)&word
                                             : (const void *)&half;
        memcpy(memory + i * size, bits, size);
    }
    return memory;
}

static int rates_of(int op, fd_dtype dtype)
{
    if (op == FD_GAUSSIAN_DROPOUT || op == FD_GAUSSIAN_NOISE) {
        return 1;
    }
    return op == BITS || op == BOOLS || (op == FD_DROPOUT && dtype == FD_F32) ? ALL_RATES : 2;
}

static void make(call c, double rate)
{
    c.draw = (fd_draw){.key = 0x5EED, .call = 0, .threshold = (uint64_t)(rate * 4294967296.0 + 0.5)};
    c.operands.scale = 1 / (1 - rate);
    measured(&c);
    if (c.op == BITS || c.op == BOOLS) {
        printf("%s %g\n", c.op == BITS ? "keep_bits" : "keep_bools", rate);
    } else {
        printf("%s %s %g\n", ops[c.op], dtypes[c.dtype].name, rate);
    }
}

int main(int argc, char **argv)
{
    const fd_kernels *kernels = NULL;
    for (size_t i = 0; argc == 3 && fd_built(i) != NULL; ++i) {
        if (strcmp(fd_built(i)->name, argv[1]) == 0 && fd_supported(i)) {
            kernels = fd_built(i);
        }
    }
    if (kernels == NULL) {
        fputs("usage: instructions ISA ELEMENTS, with an instruction set that can run here\n", stderr);
        return 2;
    }
    const size_t n = (size_t)strtoull(argv[2], NULL, 10);
    for (int dtype = 0; dtype < FD_NUM_DTYPES; ++dtype) {
        const size_t period = n < 1024 ? n : 1024;
        const fd_operands arrays = {
            .x = ones((fd_dtype)dtype, n),
            .other = ones((fd_dtype)dtype, n),
            .bias = ones((fd_dtype)dtype, period),
            .y = ones((fd_dtype)dtype, n),
            .period = period,
        };
        for (int op = dtype == FD_F32 ? BITS : FD_DROPOUT; op < FD_NUM_OPS; ++op) {
            for (int rate = 0; rate < rates_of(op, (fd_dtype)dtype); ++rate) {
                const call c = {.kernels = kernels, .op = op, .dtype = (fd_dtype)dtype, .n = n, .operands = arrays};
                make(c, rates[rate]);
            }
        }
    }
    return 0;
}
