/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The core in a program of one's own, without Python. It drops elements of an array, and then finds the gradient by the
 * same draw, for which nothing was kept but four numbers. In Python this mask is
 * fastdrop.DropoutMask(N, 0.25, key=2026, call=3).
 *
 *     include=$(python -c 'import fastdrop; print(fastdrop.get_include())')
 *     cc -O3 -ffp-contract=off -I "$include" dropout_in_c.c "$include"/{dispatch,isa_*}.c -lm -o dropout_in_c
 */
#include <stdio.h>

#include "fastdrop.h"

enum { N = 1000 };

/* The fastest kernels that this CPU can run: instruction sets follow each other from the plainest on. */
static const fd_kernels *fastest(void)
{
    const fd_kernels *found = NULL;
    for (size_t i = 0; fd_built(i) != NULL; i++) {
        if (fd_supported(i)) {
            found = fd_built(i);
        }
    }
    return found;
}

int main(void)
{
    const double rate = 0.25;
    /* D is the rate in units of 2^-32. This one is exact; otherwise it is rounded, ties to even. */
    const fd_draw draw = {.key = 2026, .call = 3, .threshold = (uint64_t)(rate * 4294967296.0)};
    const fd_kernels *kernels = fastest();

    float x[N], y[N], dy[N], dx[N];
    for (int i = 0; i < N; i++) {
        x[i] = (float)i;
        dy[i] = 1.0F;
    }
    fd_operands forward = {.x = x, .y = y, .scale = 1.0 / (1.0 - rate)};
    kernels->draw[FD_DROPOUT][FD_F32](&draw, 0, N, &forward);

    /* A part has the same decisions: what another thread, or another machine, would do with these elements. */
    fd_operands backward = {.x = dy, .y = dx, .scale = 1.0 / (1.0 - rate)};
    kernels->draw[FD_DROPOUT][FD_F32](&draw, 0, 600, &backward);
    backward.x = dy + 600;
    backward.y = dx + 600;
    kernels->draw[FD_DROPOUT][FD_F32](&draw, 600, N - 600, &backward);

    printf("%s\n", kernels->name);
    for (int i = 0; i < N; i++) {
        printf("%.9g %.9g\n", (double)y[i], (double)dx[i]);
    }
    return 0;
}
