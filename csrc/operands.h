/* SPDX-License-Identifier: BSD-3-Clause
 *
 * operands.h: what an operation reads beside x, and the operands of a part of an array, for whoever splits an array
 * into runs and parts.
 */
#ifndef FASTDROP_OPERANDS_H
#define FASTDROP_OPERANDS_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"
#include "fastdrop.h"

INLINE int reads_other(fd_op op)
{
    return op == FD_DROPOUT_ADD || op == FD_BIAS_DROPOUT_ADD || op == FD_RELU_BACKWARD || op == FD_ZONEOUT;
}

INLINE int reads_bias(fd_op op) { return op == FD_BIAS_DROPOUT_ADD; }

INLINE int reads_normals(fd_op op) { return op == FD_GAUSSIAN_DROPOUT || op == FD_GAUSSIAN_NOISE; }

/* The operands of the elements from `done` on, of `size` bytes each. */
INLINE fd_operands operands_at(const fd_operands *operands, size_t done, size_t size)
{
    fd_operands o = *operands;
    o.x = (const uint8_t *)operands->x + done * size;
    o.y = (uint8_t *)operands->y + done * size;
    o.other = operands->other ? (const uint8_t *)operands->other + done * size : NULL;
    o.bias_at = operands->bias_at + done;
    return o;
}

#endif
