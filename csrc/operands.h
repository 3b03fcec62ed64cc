/* SPDX-License-Identifier: BSD-3-Clause
 *
 * operands.h: the operands of a part of an array, for walk.c, which splits an array into runs, and for the kernels that
 * split a run into parts.
 */
#ifndef FASTDROP_OPERANDS_H
#define FASTDROP_OPERANDS_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"
#include "fastdrop.h"

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
