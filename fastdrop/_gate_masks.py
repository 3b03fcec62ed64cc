# SPDX-License-Identifier: BSD-3-Clause
"""The masks of Keras's LSTM and GRU: drawn once a batch, for the input and for the state of each gate."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastdrop import _arguments, _backend, _engine, _foreign
from fastdrop._arguments import Rate
from fastdrop._backend import Draw, IndexMap, Operands
from fastdrop._kernels import Dims, Operation
from fastdrop._masks import DropoutMask
from fastdrop._streams import RNG
from fastdrop._training import Probability, Stochastic


@dataclass(frozen=True, slots=True)
class GateMasks:
    """The masks of one kind, of the input or of the state, for all gates: drawn, and held as one bit an element.

    :meth:`RecurrentDropout.draw` makes them. They are immutable, and pickle as the numbers that they were drawn from.

    Parameters
    ----------
    gates : int
        How many gates see the array.
    batch : int
        How many sequences there are.
    depth : int
        The number of features for the input, of units for the state.
    per_gate : bool
        Whether each gate has a mask of its own.
    rate : float
        The probability to drop; 0 in inference.
    key, call : int
        Of the one draw that all gates come from.

    Attributes
    ----------
    gates, batch, depth, per_gate, rate, key, call
        As given.
    mask : DropoutMask
        The same decisions as one mask.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> masks = fastdrop.RecurrentDropout(recurrent_dropout=0.5, gates=3, rng=7).draw(batch=2, features=4, units=5)
    >>> h = np.ones((2, 5), np.float32)
    >>> seen = masks.state.apply(h)
    >>> seen.shape
    (3, 2, 5)
    >>> np.array_equal(seen, masks.state.mask.apply(np.ones((3, 2, 5), np.float32)))
    True
    >>> np.array_equal(masks.state.backward(np.ones_like(seen)), seen.sum(axis=0))
    True
    """

    gates: int
    batch: int
    depth: int
    per_gate: bool
    rate: float
    key: int
    call: int
    _bits: npt.NDArray[np.uint8] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # They may come from a pickle, and so from anywhere.
        _arguments.count(self.gates, "gates")
        _arguments.unsigned(self.batch, "batch", 31)
        _arguments.unsigned(self.depth, "depth", 31)
        _arguments.flag(self.per_gate, "per_gate")
        rate = _arguments.rate_of(self.rate)
        draw = Draw(
            _arguments.unsigned(self.key, "key", _arguments.KEY_BITS),
            _arguments.unsigned(self.call, "call", _arguments.CALL_BITS),
            rate.threshold,
        )
        size = self.batch * self.depth * (self.gates if self.per_gate else 1)
        if size >= 1 << 63:
            _arguments.mask_shape((self.gates, self.batch, self.depth))  # which says what is wrong with it
        bits = _backend.running.keep_bits(size, draw) if rate.rate > 0.0 else None
        object.__setattr__(self, "_bits", bits)

    @property
    def mask(self) -> DropoutMask:
        """The same decisions as a mask of shape (gates, batch, depth), or (batch, depth) where all gates share one."""
        shape = (self.gates, self.batch, self.depth) if self.per_gate else (self.batch, self.depth)
        return DropoutMask(shape, self.rate, key=self.key, call=self.call)

    def apply(self, x: npt.ArrayLike, out: np.ndarray | None = None, *, time_axis: int | None = None) -> np.ndarray:
        """Drop and scale the input or the state, once for each gate.

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            Of shape (batch, depth) for one step. A whole sequence has the shape (time, batch, depth) with
            ``time_axis=0``, or (batch, time, depth) with ``time_axis=1``; each step gets the same masks.
        out : ndarray of shape (gates, \\*x.shape), optional
            Where the result goes. Of a dtype that holds x's values without loss.
        time_axis : 0 or 1, optional
            The axis of x along which the steps lie. None for one step.

        Returns
        -------
        ndarray of shape (gates, \\*x.shape)
            What gate ``g`` sees is ``[g]``, and ``numpy.matmul`` with weights of shape (gates, depth, units) takes it
            as it is. Where all gates see the same, because they share one mask or nothing is dropped, and ``out`` is
            not given, it is a read-only view that holds this once.
        """
        x = _arguments.float_array(x)
        _foreign.refuse_subclass(x, "x must be a plain ndarray, for the result holds those of all gates", "x")
        dims = self._dims(x.shape, time_axis, "x")
        shape = (self.gates, *x.shape)
        if out is None:
            if self._is_common:
                return np.broadcast_to(self._dropped(x, 0, dims), shape)
            out = np.empty(shape, x.dtype.newbyteorder("="))
        else:
            if isinstance(out, np.ndarray):
                _foreign.refuse_subclass(out, "out must be a plain ndarray where out is another array than x", "out")
                if out.shape != shape:
                    raise ValueError(f"out must have the shape (gates, *x.shape), {shape}, got {out.shape}")
            _arguments.output(out[0] if isinstance(out, np.ndarray) else out, x)
            if np.may_share_memory(x, out):
                x = x.copy()  # a gate's result must not be the next gate's input
            if self._is_common:
                out[...] = self._dropped(x, 0, dims)
                return out
        for gate in range(self.gates):
            self._dropped(x, gate, dims, out[gate])
        return out

    def backward(self, dy: npt.ArrayLike, *, time_axis: int | None = None) -> np.ndarray:
        """The gradient with respect to what :meth:`apply` was given.

        Parameters
        ----------
        dy : array_like of shape (gates, \\*x.shape)
            The gradient with respect to what each gate saw.
        time_axis : 0 or 1, optional
            As in ``apply``: the axis of x, which ``dy`` has one further on.

        Returns
        -------
        ndarray of x's shape
            The sum over the gates, in their order, of the gradients that their masks let through.
        """
        dy = _arguments.float_array(dy, "dy")
        _foreign.refuse_subclass(dy, "dy must be a plain ndarray, for it holds those of all gates", "dy")
        if dy.ndim == 0 or dy.shape[0] != self.gates:
            raise ValueError(f"dy must have {self.gates} gates as its first axis, got shape {dy.shape}")
        dims = self._dims(dy.shape[1:], time_axis, "dy[0]")
        if self._is_common:
            return self._dropped(dy.sum(axis=0), 0, dims)
        total = self._dropped(dy[0], 0, dims)
        for gate in range(1, self.gates):
            total += self._dropped(dy[gate], gate, dims)
        return total

    @property
    def _is_common(self) -> bool:
        """Whether all gates see the same."""
        return self._bits is None or not self.per_gate

    def _dims(self, shape: tuple[int, ...], time_axis: int | None, name: str) -> Dims:
        """How the elements of an array lie in the mask of one gate, as ``Kernels`` takes it."""
        step = (self.batch, self.depth)
        if time_axis is None:
            if shape != step:
                advice = "; say with time_axis where the steps of a sequence lie" if len(shape) == 3 else ""
                raise ValueError(f"{name} must have the shape (batch, depth), {step}, got {shape}{advice}")
            return None
        axis = operator.index(time_axis) if _arguments.is_index(time_axis) else None
        if axis not in (0, 1):
            raise ValueError(f"time_axis must be 0, 1 or None, got {time_axis!r}")
        if len(shape) != 3 or shape[:axis] + shape[axis + 1 :] != step:
            axes = "(time, batch, depth)" if axis == 0 else "(batch, time, depth)"
            raise ValueError(f"{name} must have the shape {axes} with batch and depth {step}, got {shape}")
        if axis == 0:
            return ((shape[0], 0), (self.batch * self.depth, 1))
        return ((self.batch, self.depth), (shape[1], 0), (self.depth, 1))

    def _dropped(self, x: np.ndarray, gate: int, dims: Dims, out: np.ndarray | None = None) -> np.ndarray:
        """What one gate sees of x."""
        if self._bits is None:
            return x
        if out is None:
            out = _engine.result_for(x)
        index_map = IndexMap(gate * self.batch * self.depth, dims, self._bits)
        scale = Rate(self.rate, 1.0 - self.rate).scale
        _engine.apply(Operation.DROPOUT, Operands(x, out, scale), Draw(), index_map)
        return out

    def __reduce__(self) -> tuple[type[GateMasks], tuple[object, ...]]:
        numbers = (self.gates, self.batch, self.depth, self.per_gate, self.rate, self.key, self.call)
        return type(self), numbers


class RecurrentMasks(NamedTuple):
    """The masks of one batch, as :meth:`RecurrentDropout.draw` returns them.

    Attributes
    ----------
    input : GateMasks
        Those of the input, whose depth is the number of features.
    state : GateMasks
        Those of the state, whose depth is the number of units.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> masks = fastdrop.RecurrentDropout(0.5, 0.25, rng=7).draw(batch=32, features=64, units=100)
    >>> of_input, of_state = masks
    >>> of_input.depth, of_state.depth, masks.state.rate
    (64, 100, 0.25)
    """

    input: GateMasks
    state: GateMasks


class RecurrentDropout(Stochastic):
    """The masks of Keras's LSTM and GRU: drawn for a batch, and the same at each step of its sequences.

    A training loop calls ``draw`` once for each batch. What that returns is immutable and applies to steps or to whole
    sequences, forward and backward, any number of times; nothing is drawn again.

    Parameters
    ----------
    dropout : float
        The probability to drop an element of the input of a step.
    recurrent_dropout : float
        The probability to drop an element of the state that a step takes from the step before.
    gates : int
        4 for an LSTM, 3 for a GRU.
    per_gate : bool, optional
        A mask of its own for each gate, or, with False, one for all of them. None is Keras's rule: the gates share
        their masks as long as ``recurrent_dropout`` is 0, and have masks of their own with it, or with Keras's
        ``implementation=1``, which is True here.
    rng : None, int, sequence of int, numpy.random.SeedSequence, Generator or BitGenerator, or DrawSource
        Where the object's stream comes from. None takes fresh entropy from the operating system. An int, a sequence
        of int or a SeedSequence is the seed of the stream: unlike for a function, where it names one mask, successive
        draws give successive masks. A Generator gives a key, once. A PhiloxStream is used as it is, and may be shared.
        Two objects with the same seed draw the same masks: give each one of ``PhiloxStream(seed).spawn(n)``.
    always : bool
        Draw in inference too, as Monte-Carlo dropout does (see ``fastdrop.mc_predict``).

    Attributes
    ----------
    dropout, recurrent_dropout : float
        May be set between batches: the call numbers that follow do not depend on them.
    gates, per_gate
        As given. The rule that None stands for is looked at in each ``draw``, with the rates that hold then.
    rng : PhiloxStream
        The stream. It can be set later, to all that the parameter may be.
    training : bool
        True at first. ``train()`` and ``eval()`` set it. Outside training all masks keep everything, and no call number
        is used up.
    always : bool
        As given; it can be set later.
    is_stochastic : bool
        Whether masks would be drawn, here and now.

    Notes
    -----
    In training each ``draw`` takes two call numbers of the stream, whatever the rates. The first gives the mask of the
    input, ``DropoutMask((gates, batch, features), dropout, key=rng.key, call=call)``, and the second that of the state,
    of shape (gates, batch, units) and rate ``recurrent_dropout``. Where the gates share their masks the first axis is
    left out: what all see then is what the first gate would see of masks of its own.

    A rate of 1 drops everything.

    The state's masks are those of Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in
    recurrent neural networks", NIPS 2016.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> dropout = fastdrop.RecurrentDropout(0.5, 0.5, rng=7)
    >>> x, h = np.ones((10, 32, 64), np.float32), np.zeros((32, 100), np.float32)   # (time, batch, features)
    >>> w, u = np.ones((4, 64, 100), np.float32), np.ones((4, 100, 100), np.float32)
    >>> masks = dropout.draw(batch=32, features=64, units=100)
    >>> from_input = masks.input.apply(x, time_axis=0)                   # (gates, time, batch, features), all at once
    >>> for t in range(10):
    ...     gates = from_input[:, t] @ w + masks.state.apply(h) @ u      # (gates, batch, units)
    >>> dh = masks.state.backward(gates @ u.transpose(0, 2, 1))          # (batch, units)
    >>> dropout.rng.call
    2
    """

    _NUMBERS = ("dropout", "recurrent_dropout")

    dropout: Probability = Probability()
    recurrent_dropout: Probability = Probability()

    def __init__(
        self,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        *,
        gates: int = 4,
        per_gate: bool | None = None,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.gates: int = _arguments.count(gates, "gates")
        self.per_gate: bool | None = None if per_gate is None else _arguments.flag(per_gate, "per_gate")
        super().__init__(rng, always)

    def draw(self, batch: int, features: int, units: int, training: bool | None = None) -> RecurrentMasks:
        """The masks of the next batch.

        Parameters
        ----------
        batch, features, units : int
            How many sequences there are, and how long the input and the state of one step of one of them are.
        training : bool, optional
            Whether to draw for this batch, whatever ``training``, ``always`` and ``fastdrop.stochastic`` say. None
            leaves it to them.

        Returns
        -------
        RecurrentMasks
            A pair of GateMasks, ``input`` and ``state``.
        """
        batch = _arguments.unsigned(batch, "batch", 31)
        features = _arguments.unsigned(features, "features", 31)
        units = _arguments.unsigned(units, "units", 31)
        gates, dropout, recurrent_dropout = self.gates, self.dropout, self.recurrent_dropout
        per_gate = recurrent_dropout > 0.0 if self.per_gate is None else self.per_gate
        if not self._draws(training):
            return RecurrentMasks(
                GateMasks(gates, batch, features, per_gate, 0.0, 0, 0),
                GateMasks(gates, batch, units, per_gate, 0.0, 0, 0),
            )
        stream = self._stream_here
        drawn: list[tuple[int, int]] = []
        try:
            for _ in range(2):
                drawn.append(stream.next_draw())
            return RecurrentMasks(
                GateMasks(gates, batch, features, per_gate, dropout, *drawn[0]),
                GateMasks(gates, batch, units, per_gate, recurrent_dropout, *drawn[1]),
            )
        except BaseException:
            for draw in reversed(drawn):
                stream._take_back(draw)
            raise

    def __repr__(self) -> str:
        return (
            f"RecurrentDropout({self.dropout}, {self.recurrent_dropout}, gates={self.gates}, per_gate={self.per_gate}, "
            f"rng={self.rng!r}, always={self.always}){'' if self.training else '.eval()'}"
        )
