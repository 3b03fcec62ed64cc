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

from fastdrop import _arguments, _backend, _engine, _geometry, _streams
from fastdrop._arguments import Rate
from fastdrop._kernels import Operation, bare
from fastdrop._masks import DropoutMask, GaussianMask
from fastdrop._streams import PhiloxStream

Lengths: TypeAlias = tuple[int, ...] | None
Groups: TypeAlias = Callable[[tuple[int, ...]], Lengths]
Given: TypeAlias = tuple[object, object, np.ndarray | None, object]  # training, rng, out and return_mask

KEEP_ALL = Rate(0.0, 1.0)
DROP_ALL = Rate(1.0, 0.0)
IDENTITIES_AT_0 = Operation.DROPOUT, Operation.ALPHA_DROPOUT


# What does plain calls, before any of this. Its arguments are the operation, x, a second array, and then rate,
# keep_prob, noise_shape, training, rng, out and return_mask as they were given. To what is not plain it answers None.
plain = _backend.PlainCalls(_streams.default, DropoutMask, _arguments.DEFAULT_RATE, _geometry.index_map_of)


class Call(NamedTuple):
    """The arguments of a call, checked."""

    x: np.ndarray
    other: np.ndarray | None  # a second array, of x's shape and dtype
    bias: np.ndarray | None
    noise_shape: Lengths  # that the mask is drawn in, None where it is x's own
    out: np.ndarray | None
    training: bool
    return_mask: bool
    source: _streams.DrawSource

    def result(self) -> np.ndarray:
        """Where the result goes. To be called before a draw: where there is no memory, no stream shall have moved."""
        return _engine.result_for(self.x) if self.out is None else self.out

    @property
    def shape(self) -> tuple[int, ...]:
        return bare(self.x).shape

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Those of the mask, None for what follows from x's shape."""
        return None if self.noise_shape is None else _geometry.strides_of(self.shape, self.noise_shape)

    def without_overlap(self) -> Call:
        """With copies of arrays that ``out`` would overwrite before they are read. To be called before a draw too."""
        if self.out is None:
            return self
        x = _engine.apart(self.x, self.out)
        other = None if self.other is None else _engine.apart(self.other, self.out)
        return self if x is self.x and other is self.other else self._replace(x=x, other=other)

    def draw(self, y: np.ndarray | None) -> tuple[int, int]:
        """Key and call number of the mask for a result in y. Who gets them must give them back if nothing comes of it.

        The source may be anybody's, and do more than draw.
        """
        shape = self.shape
        drawn = self.source.next_draw()
        if any(array is not None and bare(array).shape != shape for array in (self.x, self.other, y)):
            self.take_back(drawn)
            raise ValueError(f"rng has changed the shape of an array, which was {shape}, while it was drawn from")
        return drawn

    def take_back(self, drawn: tuple[int, int]) -> None:
        """Undo a draw of which nothing has come."""
        _streams.take_back(self.source, drawn)


def checked(
    arrays: Mapping[str, object],
    options: Given,
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
    noise_shape = None if noise_shape_of is None else noise_shape_of(bare(x).shape)
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


def plain_groups(
    x: object,
    groups: Groups,
    rate: object,
    keep_prob: object,
    options: Given,
) -> Any:
    """The answer of ``plain`` for a function that says itself what drops together."""
    if type(x) is not np.ndarray:
        return None
    try:
        noise_shape = groups(x.shape)
    except ValueError:
        return None  # which is said where all other arguments have been looked at
    training, rng, out, return_mask = options
    return plain(Operation.DROPOUT, x, None, rate, keep_prob, noise_shape, training, rng, out, return_mask)


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
        return _result(call, idle, operation, call.out)
    is_identity = rate.rate == 0.0 and operation in IDENTITIES_AT_0
    y = call.out if is_identity else call.result()
    if call.out is not None:
        call = call.without_overlap()
    if scale is None:
        scale = kind._usual_scale(rate)
    source = call.source
    drawn = source.next_draw() if type(source) is PhiloxStream else call.draw(y)
    try:
        is_seen = is_identity or call.return_mask or call.noise_shape is not None or kind is not DropoutMask
        if y is not None and not is_seen:  # the mask, which need not be made
            operands = _backend.Operands(call.x, y, scale, call.other, call.bias)
            _engine.apply(operation, operands, _backend.Draw(drawn[0], drawn[1], rate.threshold))
            return y
        mask = kind._made(call.shape, call.strides, 0, *drawn, *rate, scale)
        return _result(call, mask, operation, y)
    except BaseException:
        call.take_back(drawn)
        raise


def perturbed(call: Call, stddev: float, additive: bool) -> Any:
    """The same for normal noise, which is added or multiplied."""
    operation = Operation.GAUSSIAN_NOISE if additive else Operation.GAUSSIAN_DROPOUT
    if not call.training:
        idle = GaussianMask._made(call.shape, None, 0, 0, 0, 0.0, additive)
        return _result(call, idle, operation, call.out)
    y = call.result() if stddev > 0.0 else call.out
    if call.out is not None:
        call = call.without_overlap()
    drawn = call.draw(y)
    try:
        mask = GaussianMask._made(call.shape, call.strides, 0, *drawn, stddev, additive)
        return _result(call, mask, operation, y)
    except BaseException:
        call.take_back(drawn)
        raise


def _result(call: Call, mask: DropoutMask | GaussianMask, operation: Operation, out: np.ndarray | None) -> Any:
    y = mask._applied(operation, call.x, out, call.other, call.bias)
    return (y, mask) if call.return_mask else y
