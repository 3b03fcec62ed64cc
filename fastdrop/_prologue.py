# SPDX-License-Identifier: BSD-3-Clause
"""How every function of the family begins and ends, but for plain calls.

It begins with a look at all arguments, always in the same order: rate or amount, x and ``out``, other arrays,
``training``, shared axes, ``return_mask``, ``rng``. So the same mistake has the same message everywhere, and nothing is
drawn or written before all is known to be right. It ends with a draw, the mask of it, and the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastdrop import _arguments, _backend, _engine, _foreign, _geometry, _streams
from fastdrop._arguments import Rate
from fastdrop._kernels import Operation
from fastdrop._masks import DropoutMask, GaussianMask, _Mask

Lengths: TypeAlias = tuple[int, ...] | None
Groups: TypeAlias = Callable[[tuple[int, ...]], Lengths]

KEEP_ALL = Rate(0.0, 1.0)
DROP_ALL = Rate(1.0, 0.0)
IDENTITIES_AT_0 = Operation.DROPOUT, Operation.ALPHA_DROPOUT


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
        return _foreign.bare(self.x).shape

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Those of the mask, None for what follows from x's shape."""
        return None if self.noise_shape is None else _geometry.strides_of(self.shape, self.noise_shape)


def checked(
    arrays: Mapping[str, object],
    options: tuple[object, object, np.ndarray | None, object],
    *,
    bias: tuple[object] | None = None,
    noise_shape_of: Groups | None = None,
    groups: tuple[Groups, Rate] | None = None,
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
        raises ValueError for what the caller said and the array has not.
    groups : (callable, Rate), optional
        The same for a function that says itself what drops together, with the rate. Which arrays it takes is a question
        only where something is dropped: in training, at a rate above 0.
    """
    training, rng, out, return_mask = options
    names = iter(arrays)
    name = next(names)
    x = _arguments.operand(arrays[name], out, name)
    repeated_bias = None if bias is None else _arguments.repeated_bias(*bias, x)
    other = None
    for other_name in names:
        other = _arguments.same_kind(arrays[other_name], x, other_name, name)
    is_training = training if type(training) is bool else _arguments.flag(training, "training")
    if groups is not None and is_training:
        noise_shape_of = partial(_lengths_of_groups, *groups)
    noise_shape = None if noise_shape_of is None else noise_shape_of(_foreign.bare(x).shape)
    return Call(
        x,
        other,
        repeated_bias,
        noise_shape,
        out if x is arrays[name] else _engine.out_for_converted(x, out),
        _streams.tell(is_training),
        return_mask if type(return_mask) is bool else _arguments.flag(return_mask, "return_mask"),
        _streams.source(rng),
    )


def _lengths_of_groups(groups: Groups, rate: Rate, shape: tuple[int, ...]) -> Lengths:
    try:
        return groups(shape)
    except ValueError:
        if rate.rate > 0.0:
            raise
        return None


def dropped(
    call: Call,
    rate: Rate,
    operation: Operation = Operation.DROPOUT,
    kind: type[DropoutMask] = DropoutMask,
    *,
    scale: float | None = None,
    idle_scale: float = 1.0,
) -> Any:
    """Draw a mask that drops at a rate, and do the operation with it; outside training with one that drops nothing.

    Parameters
    ----------
    scale, idle_scale : float, optional
        What kept elements are multiplied by in training, where it does not follow from the rate, and outside it.

    Returns
    -------
    y or (y, mask)
        What the function returns.
    """
    if not call.training:
        # A scale of 0 is that of a mask that drops all, because 0 times infinity is no zero.
        idle = kind._made(call.shape, None, 0, 0, 0, *(KEEP_ALL if idle_scale != 0.0 else DROP_ALL), idle_scale)
        return result(call, idle, operation, call.out)
    is_identity = rate.rate == 0.0 and operation in IDENTITIES_AT_0
    y = call.out if is_identity else call.result()
    if scale is None:
        scale = kind._usual_scale(rate)

    def finish(call: Call, key: int, number: int) -> Any:
        if y is not None and kind is DropoutMask and call.noise_shape is None and not call.return_mask:
            # Nobody looks at the mask.
            operands = _backend.Operands(call.x, y, scale, call.other, call.bias)
            _engine.apply(operation, operands, _backend.Draw(key, number, rate.threshold))
            return y
        mask = kind._made(call.shape, call.strides, 0, key, number, *rate, scale)
        return result(call, mask, operation, y)

    return drawn(call, y, finish)


def perturbed(call: Call, stddev: float, additive: bool) -> Any:
    """The same for normal noise, which is added or multiplied."""
    operation = Operation.GAUSSIAN_NOISE if additive else Operation.GAUSSIAN_DROPOUT
    if not call.training:
        idle = GaussianMask._made(call.shape, None, 0, 0, 0, 0.0, additive)
        return result(call, idle, operation, call.out)
    y = call.result() if stddev > 0.0 else call.out

    def finish(call: Call, key: int, number: int) -> Any:
        return result(
            call, GaussianMask._made(call.shape, call.strides, 0, key, number, stddev, additive), operation, y
        )

    return drawn(call, y, finish)


def drawn(call: Call, y: np.ndarray | None, finish: Callable[[Call, int, int], Any]) -> Any:
    """Draw, and finish a call with the key and the call number. If that fails, no stream has moved.

    Parameters
    ----------
    y : ndarray, optional
        Where the result goes. What else takes as much memory, a copy of what overlaps it, comes before the draw.
    """
    if call.out is not None:
        other = None if call.other is None else _engine.apart(call.other, y)
        call = call._replace(x=_engine.apart(call.x, y), other=other)
    shape = call.shape
    draw = call.source.next_draw()
    try:
        if type(call.source) is not _streams.PhiloxStream:
            _check_shapes(shape, call.x, call.other, y)
        return finish(call, *draw)
    except BaseException:
        _streams.take_back(call.source, draw)
        raise


def _check_shapes(shape: tuple[int, ...], *arrays: np.ndarray | None) -> None:
    """A source of the caller's own may do more in a draw than draw."""
    for array in arrays:
        if array is not None and _foreign.bare(array).shape != shape:
            raise ValueError(f"rng has changed the shape of an array, which was {shape}, while it was drawn from")


def result(call: Call, mask: _Mask, operation: Operation, out: np.ndarray | None) -> Any:
    """Do the operation, and return what the function returns."""
    y = mask._applied(operation, call.x, out, call.other, call.bias)
    return (y, mask) if call.return_mask else y
