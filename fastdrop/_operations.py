# SPDX-License-Identifier: BSD-3-Clause
"""What kernels can do with the elements of an array, by the numbers that the C core has for it."""

from __future__ import annotations

from enum import IntEnum


class Operation(IntEnum):
    """An operation, in terms of the arguments of ``Kernels.apply``.

    ``d`` is ``x * scale`` where an element is kept and +0 where it is dropped; ``N`` is a standard normal number. All
    is computed in the order in which it is written, each step rounded to the arithmetic type: float64 for float64,
    float32 for the other dtypes. The result is rounded once to the dtype.
    """

    DROPOUT = 0  # d
    DROPOUT_ADD = 1  # other + d
    BIAS_DROPOUT_ADD = 2  # other + d, with x + bias for x; element i takes bias[i % len(bias)]
    RELU_DROPOUT = 3  # d, with +0 for x where x <= 0
    RELU_BACKWARD = 4  # d where other != 0, else +0
    ALPHA_DROPOUT = 5  # x * scale + shift where kept, fill where dropped
    ZONEOUT = 6  # x where kept, other where dropped
    GAUSSIAN_DROPOUT = 7  # x * (1 + scale * N)
    GAUSSIAN_NOISE = 8  # x + scale * N
