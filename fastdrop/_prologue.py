# SPDX-License-Identifier: BSD-3-Clause
"""How every function of the family begins and ends, but for plain calls.

It begins with a look at all arguments, always in the same order: rate or amount, arrays, shared axes, ``out``,
``training``, ``return_mask``, ``rng``. So the same mistake has the same message everywhere, and nothing is drawn or
written before all is known to be right. It ends with a draw, the mask of it, and the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastdrop import _arguments, _engine, _geometry, _streams
from fastdrop._arguments import Rate
from fastdrop._kernels import Operation
from fastdrop._masks import AlphaMask, DropoutMask, GaussianMask

Lengths: TypeAlias = tuple[int, ...] | None
D = TypeVar("D", DropoutMask, AlphaMask)
M = TypeVar("M", DropoutMask, AlphaMask, GaussianMask)

KEEP_ALL = Rate(0.0, 1.0)
DROP_ALL = Rate(1.0, 0.0)


class Call(NamedTuple):
    """The arguments of a call, checked."""

    x: np.ndarray
    other: np.ndarray | None  # a second array, of x's shape and dtype
    bias: np.ndarray | None
    noise_shape: Lengths  # that the mask is drawn in, None where it is x's own
    out: np.ndarray | None
    training: bool
    return_mask: bool
    source: _streams.Source

    def result(self) -> np.ndarray:
        """Where the result goes. To be called before a draw: where there is no memory, no stream shall have moved."""
        return _engine.result_for(self.x) if self.out is None else self.out

    @property
    def shape(self) -> tuple[int, ...]:
        return _arguments.bare(self.x).shape

    def mask(self, kind: type[D], rate: Rate, key: int, call: int, scale: float | None = None) -> D:
        """The mask of a draw at a rate, with the scale that follows from it unless another is given."""
        strides = None if self.noise_shape is None else _geometry.strides_of(self.shape, self.noise_shape)
        number = kind._usual_scale(rate) if scale is None else scale
        return kind._made(self.shape, strides, 0, key, call, *rate, number, None)

    def idle_mask(self, kind: type[D], scale: float = 1.0) -> D:
        """The mask of a call outside training, which drops nothing."""
        rate = KEEP_ALL if scale != 0.0 else DROP_ALL  # 0 times infinity is no zero
        return kind._made(self.shape, None, 0, 0, 0, *rate, scale, None)


def checked(
    arrays: Mapping[str, object],
    options: tuple[object, object, object, object],
    *,
    bias: tuple[object] | None = None,
    noise_shape_of: Callable[[tuple[int, ...]], Lengths] | None = None,
) -> Call:
    """The arguments of a call, after its rate or amount.

    Parameters
    ----------
    arrays : mapping
        One or two arrays, by the names of the function's parameters.
    options : tuple
        training, rng, out and return_mask, as the functions take them.
    bias : tuple of array_like, optional
        The one that ``bias_dropout_add`` was given.
    noise_shape_of : callable, optional
        From the shape of the first array to that in which the mask is drawn, or to None where they are the same. It
        raises ValueError for an array that the function does not take.
    """
    training, rng, out, return_mask = options
    (name, given), *others = arrays.items()
    x = _arguments.float_array(given, name)
    repeated_bias = None if bias is None else _arguments.repeated_bias(*bias, x)
    other = None
    for other_name, other_given in others:
        other = _arguments.same_kind(other_given, x, other_name, name)
    noise_shape = None if noise_shape_of is None else noise_shape_of(_arguments.bare(x).shape)
    return Call(
        x,
        other,
        repeated_bias,
        noise_shape,
        None if out is None else _arguments.output(out, x, name),
        _arguments.flag(training, "training"),
        _arguments.flag(return_mask, "return_mask"),
        _streams.source(rng),
    )


def finished(
    call: Call,
    operation: Operation,
    mask_of: Callable[[int, int], M],
    idle_mask: Callable[[], M],
    *,
    changes: bool = True,
) -> Any:
    """Draw, do the operation, and return what the function returns.

    Parameters
    ----------
    operation : Operation
        What is done with the mask.
    mask_of : callable
        From a key and a call number to the mask.
    idle_mask : callable
        The mask outside training.
    changes : bool
        False where the operation leaves x as it is, whatever is drawn.
    """
    if not call.training:
        mask = idle_mask()
        y = mask._applied(operation, call.x, call.out, call.other, call.bias)
        return (y, mask) if call.return_mask else y
    # What takes much memory comes before the draw.
    out = call.result() if changes else call.out
    x = _engine.apart(call.x, out)
    other = None if call.other is None else _engine.apart(call.other, out)
    shape = call.shape
    drawn = call.source.next_draw()
    try:
        _check_shapes(shape, x, other, out)
        mask = mask_of(*drawn)
        y = mask._applied(operation, x, out, other, call.bias)
    except BaseException:
        _streams.take_back(call.source, drawn)
        raise
    return (y, mask) if call.return_mask else y


def _check_shapes(shape: tuple[int, ...], *arrays: np.ndarray | None) -> None:
    """A source of the caller's own may do more in a draw than draw."""
    for array in arrays:
        if array is not None and _arguments.bare(array).shape != shape:
            raise ValueError(f"rng has changed the shape of an array, which was {shape}, while it was drawn from")
