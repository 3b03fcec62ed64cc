# SPDX-License-Identifier: BSD-3-Clause
"""Dropout in recurrent nets: masks that stay along a sequence, and masks around a cell.

Two habits of the field stand side by side here. Keras's LSTM and GRU multiply the input and the state of each gate by
masks that are drawn once a batch: that is :class:`RecurrentDropout`. TensorFlow 1 wraps a cell and drops what goes into
it and what comes out of it: that is :class:`DropoutWrapper`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt

import fastdrop
from fastdrop import _arguments, _engine
from fastdrop._masks import Dims, DropoutMask, _whole
from fastdrop._streams import RNG
from fastdrop._training import Stochastic, TrainingMode

Cell: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]


class _Probability:
    """An attribute that takes a number from 0 to 1 and nothing else, whenever it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> float: ...
    def __get__(self, instance: object | None, owner: type) -> Self | float:
        return self if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: float) -> None:
        instance.__dict__[self._name] = _arguments.probability(value, self._name)


# The masks of Keras's LSTM and GRU


@dataclass(frozen=True, slots=True)
class GateMasks:
    """The masks of one kind, of the input or of the state, for all gates: drawn, and held as one bit an element.

    Made by :meth:`RecurrentDropout.draw`. It pickles as the numbers that it was drawn from.

    Attributes
    ----------
    gates, batch, depth : int
        The depth is the number of features for the input, of units for the state.
    per_gate : bool
        Whether each gate has a mask of its own.
    rate : float
        The probability to drop; 0 in evaluation.
    key, call : int
        Of the one draw that all gates come from.
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
        bits = None
        if self.rate > 0.0:
            size = self.batch * self.depth * (self.gates if self.per_gate else 1)
            threshold = _engine.threshold_and_scale(self.rate)[0]
            bits = fastdrop._kernels.keep_bits(size, self.key, self.call, threshold)
        object.__setattr__(self, "_bits", bits)

    @property
    def mask(self) -> DropoutMask:
        """The same decisions as a mask of shape (gates, batch, depth), or (batch, depth) where all gates share one."""
        shape = (self.gates, self.batch, self.depth) if self.per_gate else (self.batch, self.depth)
        return DropoutMask(shape, self.rate, key=self.key, call=self.call)

    def apply(
        self, x: npt.ArrayLike, out: np.ndarray | None = None, *, time_axis: int | None = None
    ) -> npt.NDArray[Any]:
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
        dims = self._dims(x.shape, time_axis, "x")
        shape = (self.gates, *x.shape)
        if out is None:
            if self._is_common:
                return np.broadcast_to(self._dropped(x, 0, dims), shape)
            out = np.empty(shape, x.dtype.newbyteorder("="))
        else:
            if isinstance(out, np.ndarray) and out.shape != shape:
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

    def backward(self, dy: npt.ArrayLike, *, time_axis: int | None = None) -> npt.NDArray[Any]:
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
        if not _arguments.is_index(time_axis) or time_axis not in (0, 1):
            raise ValueError(f"time_axis must be 0, 1 or None, got {time_axis!r}")
        if len(shape) != 3 or shape[:time_axis] + shape[time_axis + 1 :] != step:
            axes = "(time, batch, depth)" if time_axis == 0 else "(batch, time, depth)"
            raise ValueError(f"{name} must have the shape {axes} with batch and depth {step}, got {shape}")
        if time_axis == 0:
            return ((shape[0], 0), (self.batch * self.depth, 1))
        return ((self.batch, self.depth), (shape[1], 0), (self.depth, 1))

    def _dropped(self, x: np.ndarray, gate: int, dims: Dims, out: np.ndarray | None = None) -> np.ndarray:
        """What one gate sees of x."""
        if self._bits is None:
            return x
        if out is None:
            out = _engine.result_for(x)
        threshold, scale = _engine.threshold_and_scale(self.rate)
        offset = gate * self.batch * self.depth
        _engine.apply(x, out, self.key, self.call, threshold, scale, offset, dims, self._bits)
        return out

    def __reduce__(self) -> tuple:
        numbers = (self.gates, self.batch, self.depth, self.per_gate, self.rate, self.key, self.call)
        return type(self), numbers


class RecurrentMasks(NamedTuple):
    """The masks of one batch."""

    input: GateMasks
    state: GateMasks


class RecurrentDropout(Stochastic):
    """The masks of Keras's LSTM and GRU: drawn for a batch, and the same at each step of its sequences.

    ``draw`` is to be called once for each batch. What it returns is immutable and applies to steps or to whole
    sequences, forward and backward, any number of times; nothing is drawn again.

    Parameters
    ----------
    dropout : float
        The probability to drop an element of the input of a step.
    recurrent_dropout : float
        The probability to drop an element of the state that a step takes from the step before.
    gates : int
        4 for an LSTM, 3 for a GRU.
    per_gate : bool
        A mask of its own for each gate, or, with False, one for all of them.
    rng : None, int, numpy.random.SeedSequence, Generator or BitGenerator, or PhiloxStream
        Where the object's stream comes from. None takes fresh entropy from the operating system. An int or a
        SeedSequence is the seed of the stream: unlike for a function, where it names one mask, successive draws give
        successive masks. A Generator gives a key, once. A PhiloxStream is used as it is, and may be shared. Two objects
        with the same seed draw the same masks: give each one of ``PhiloxStream(seed).spawn(n)``.
    always : bool
        Draw in inference too, as Monte-Carlo dropout does (see ``fastdrop.mc_predict``).

    Attributes
    ----------
    dropout, recurrent_dropout : float
        May be set between batches: the call numbers that follow do not depend on them.
    gates, per_gate
        As given.
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
    of shape (gates, batch, units) and rate ``recurrent_dropout``. With ``per_gate=False`` the first axis is left out.

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

    dropout = _Probability()
    recurrent_dropout = _Probability()

    def __init__(
        self,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        *,
        gates: int = 4,
        per_gate: bool = True,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.gates = _arguments.count(gates, "gates")
        self.per_gate = _arguments.flag(per_gate, "per_gate")
        super().__init__(rng, always)

    def draw(self, batch: int, features: int, units: int) -> RecurrentMasks:
        """The masks of the next batch.

        Parameters
        ----------
        batch, features, units : int
            How many sequences there are, and how long the input and the state of one step of one of them are.

        Returns
        -------
        RecurrentMasks
            A pair of GateMasks, ``input`` and ``state``.
        """
        batch = _arguments.unsigned(batch, "batch", 31)
        features = _arguments.unsigned(features, "features", 31)
        units = _arguments.unsigned(units, "units", 31)
        gates, per_gate = self.gates, self.per_gate
        if not self.is_stochastic:
            return RecurrentMasks(
                GateMasks(gates, batch, features, per_gate, 0.0, 0, 0),
                GateMasks(gates, batch, units, per_gate, 0.0, 0, 0),
            )
        stream = self._stream
        return RecurrentMasks(
            GateMasks(gates, batch, features, per_gate, self.dropout, *stream.next_draw()),
            GateMasks(gates, batch, units, per_gate, self.recurrent_dropout, *stream.next_draw()),
        )

    def __repr__(self) -> str:
        return (
            f"RecurrentDropout({self.dropout}, {self.recurrent_dropout}, gates={self.gates}, per_gate={self.per_gate}, "
            f"rng={self.rng!r}, always={self.always}){'' if self.training else '.eval()'}"
        )


# Around a cell, as in TensorFlow 1


class LSTMState(NamedTuple):
    """The state of an LSTM: its memory ``c``, which DropoutWrapper leaves alone, and its output ``h``."""

    c: Any
    h: Any


class StepMasks(NamedTuple):
    """The masks of one step of a DropoutWrapper: a DropoutMask for each array, in the structure of these arrays.

    What was not dropped has a mask of rate 0, which changes nothing. A step is differentiated from its end:

        dy, dstate = masks.backward_outputs(dy, dstate)     # now with respect to what the cell itself returned
        dx, dstate = ...                                    # the cell's own backward pass
        dx = masks.backward_input(dx)
    """

    input: Any
    state: Any
    output: Any

    def backward_outputs(self, dy: Any, dstate: Any) -> tuple[Any, Any]:
        """Gradients with respect to the cell's own output and new state, from those of the wrapper's."""
        return _backward(self.output, dy, "dy"), _backward(self.state, dstate, "dstate")

    def backward_input(self, dx: Any) -> Any:
        """The gradient with respect to the wrapper's input, from that of the cell's."""
        return _backward(self.input, dx, "dx")


_KINDS = ("input", "state", "output")  # what a wrapper drops, in the order in which it does


class DropoutWrapper(Stochastic):
    """A cell whose input, output and new state are dropped, as TensorFlow 1's ``tf.nn.rnn_cell.DropoutWrapper`` does.

    The wrapper is a cell itself: ``y, state = wrapper(x, state)``. What it drops of the output goes to the next layer
    and not to the next step; what the next step sees is the state, which has masks of its own.

    Parameters
    ----------
    cell : callable
        ``(x, state) -> (y, state)`` on NumPy arrays. Each of the three is an array or a structure of arrays: tuples,
        named tuples, lists and dicts, in any depth.
    input_keep_prob, output_keep_prob, state_keep_prob : float
        The probabilities to keep an element, from 0 to 1. Kept ones are divided by it.
    variational_recurrent : bool
        False draws masks anew at every step, one decision an element. True draws masks of shape (1, depth), the same
        for all of a batch and for all steps until ``start_sequence``; arrays must then be (batch, depth) or have more
        axes after these.
    dropout_state_filter : callable, bool or structure of bool, optional
        Which parts of the state are dropped. A callable is given the state: it returns False to leave all of it alone,
        True to be asked again about each of its parts, or a structure of such answers, one for each part. A structure
        of bools says it at once; True stands for everything below it. By default all is dropped but the ``c`` of every
        LSTMState.
    rng : None, int, numpy.random.SeedSequence, Generator or BitGenerator, or PhiloxStream
        Where the object's stream comes from. None takes fresh entropy from the operating system. An int or a
        SeedSequence is the seed of the stream: unlike for a function, where it names one mask, successive draws give
        successive masks. A Generator gives a key, once. A PhiloxStream is used as it is, and may be shared. Two objects
        with the same seed draw the same masks: give each one of ``PhiloxStream(seed).spawn(n)``.
    always : bool
        Draw in inference too, as Monte-Carlo dropout does (see ``fastdrop.mc_predict``).

    Attributes
    ----------
    input_keep_prob, output_keep_prob, state_keep_prob : float
        May be set between steps: the call numbers that follow do not depend on them.
    cell, variational_recurrent, dropout_state_filter
        As given.
    rng : PhiloxStream
        The stream. It can be set later, to all that the parameter may be; a stream of another key has other masks.
    training : bool
        True at first. ``train()`` and ``eval()`` set it, and that of a cell that is a wrapper too. Outside training
        a step is the cell's own.
    always : bool
        As given; it can be set later.
    is_stochastic : bool
        Whether masks would be drawn, here and now.
    masks : StepMasks or None
        Of the last step; None before the first. To differentiate through time keep those of each step: they are
        recipes of a few numbers, and say themselves how a backward pass uses them.

    Notes
    -----
    In training each step takes a call number of the stream for each array: for those of the input, then for those of
    the new state, then for those of the output, in the order of the structure, where a dict's keys are sorted. It takes
    them whatever the keep_probs and the filter are, so that changing one does not shift the masks of the others. With
    ``variational_recurrent`` the first step of a sequence does this, and the others take none.

    The variational form is that of Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in
    recurrent neural networks", NIPS 2016, with TensorFlow's choice of one mask for the whole batch.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> def cell(x, state):
    ...     h = np.tanh(x + state)
    ...     return h, h
    >>> wrapper = fastdrop.DropoutWrapper(cell, output_keep_prob=0.5, rng=7)
    >>> y, state = wrapper(np.ones((2, 6)), np.zeros((2, 6)))
    >>> int(np.count_nonzero(state)), int(np.count_nonzero(y))
    (12, 7)
    >>> np.array_equal(y, wrapper.masks.output.apply(state))
    True
    """

    _NUMBERS = ("input_keep_prob", "output_keep_prob", "state_keep_prob")

    input_keep_prob = _Probability()
    output_keep_prob = _Probability()
    state_keep_prob = _Probability()

    def __init__(
        self,
        cell: Cell,
        input_keep_prob: float = 1.0,
        output_keep_prob: float = 1.0,
        state_keep_prob: float = 1.0,
        variational_recurrent: bool = False,
        dropout_state_filter: Any = None,
        *,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        if not callable(cell):
            raise TypeError(f"cell must be a callable (x, state) -> (y, state), got {cell!r}")
        self.cell: Any = cell
        self.input_keep_prob = input_keep_prob
        self.output_keep_prob = output_keep_prob
        self.state_keep_prob = state_keep_prob
        self.variational_recurrent = _arguments.flag(variational_recurrent, "variational_recurrent")
        if dropout_state_filter is not None and not callable(dropout_state_filter):
            for flag in _leaves(dropout_state_filter):
                _check_flag(flag)
        self.dropout_state_filter = dropout_state_filter
        self.masks: StepMasks | None = None
        # Call numbers of the sequence, by key, so that another stream gives other masks, and by what is dropped.
        self._held: dict[tuple[int, str], list[int]] = {}
        super().__init__(rng, always)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step: the cell's ``(y, state)``, with what is to be dropped dropped."""
        x, of_input = self._dropped("input", x, self.input_keep_prob)
        result = self.cell(x, state)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"cell must return a pair (y, state), got {type(result).__name__}")
        y, state = result
        is_dropped = None
        if self.is_stochastic and self.state_keep_prob < 1.0:
            is_dropped = _chosen(self.dropout_state_filter, state)
        state, of_state = self._dropped("state", state, self.state_keep_prob, is_dropped)
        y, of_output = self._dropped("output", y, self.output_keep_prob)
        self.masks = StepMasks(of_input, of_state, of_output)
        return y, state

    def start_sequence(self) -> Self:
        """Let go of the masks of ``variational_recurrent``, so that the next step draws new ones.

        To be called before each batch of sequences. It goes on to a cell that is a wrapper. Returns the wrapper.
        """
        self._held.clear()
        if isinstance(self.cell, DropoutWrapper):
            self.cell.start_sequence()
        return self

    def train(self, mode: bool = True) -> Self:
        if isinstance(self.cell, TrainingMode):
            self.cell.train(mode)
        return super().train(mode)

    def _dropped(
        self, kind: str, values: Any, keep_prob: float, is_dropped: list[bool] | None = None
    ) -> tuple[Any, Any]:
        """Arrays with their elements dropped, and the masks, both in the structure in which the arrays came."""
        leaves = _leaves(values)
        rate = 1.0 - keep_prob if self.is_stochastic else 0.0
        rates = [rate] * len(leaves) if is_dropped is None else [rate if dropped else 0.0 for dropped in is_dropped]
        # All that may be wrong with the arrays is seen before anything is drawn.
        for i, leaf in enumerate(leaves):
            if rates[i] > 0.0:
                leaves[i] = _arguments.float_array(leaf, f"the {kind} of the cell")
                if self.variational_recurrent and leaves[i].ndim < 2:
                    raise ValueError(
                        f"the {kind} of the cell must have the shape (batch, depth, ...) with variational_recurrent, "
                        f"got {leaves[i].shape}"
                    )
        masks = []
        for i, call in enumerate(self._calls(kind, len(leaves))):
            shape = np.shape(leaves[i])
            is_shared = self.variational_recurrent and rates[i] > 0.0 and shape[0] != 1
            masks.append(_whole(shape, rates[i], self.rng.key, call, (1, *shape[1:]) if is_shared else None))
            if rates[i] > 0.0:
                leaves[i] = masks[i].apply(leaves[i])
        return _packed(values, iter(leaves)), _packed(values, iter(masks))

    def _calls(self, kind: str, n: int) -> list[int]:
        """Call numbers for n arrays: new ones, or those of the sequence."""
        if not self.is_stochastic:
            return [0] * n
        held = self._held.get((self.rng.key, kind)) if self.variational_recurrent else None
        if held is not None and len(held) != n:
            raise ValueError(
                f"the {kind} of the cell must hold the same number of arrays at each step of a sequence, got {n} after "
                f"{len(held)}: call start_sequence() before a new one"
            )
        if held is None:
            held = [self.rng.next_draw()[1] for _ in range(n)]
            if self.variational_recurrent:
                self._held[self.rng.key, kind] = held
        return held

    def state_dict(self) -> dict[str, Any]:
        held = {f"{kind}_calls": list(self._held.get((self.rng.key, kind), ())) for kind in _KINDS}
        return {**super().state_dict(), **held}

    def _load(self, values: dict[str, Any]) -> None:
        held = {}
        for kind in _KINDS:
            name = f"{kind}_calls"
            if not isinstance(values[name], (list, tuple)):
                raise TypeError(f"{name} must be a list of ints, got {values[name]!r}")
            calls = [_arguments.unsigned(call, name, _arguments.CALL_BITS) for call in values[name]]
            if calls:
                held[kind] = calls
        super()._load(values)
        self._held = {(self.rng.key, kind): calls for kind, calls in held.items()}

    def __repr__(self) -> str:
        return (
            f"DropoutWrapper({self.cell!r}, input_keep_prob={self.input_keep_prob}, "
            f"output_keep_prob={self.output_keep_prob}, state_keep_prob={self.state_keep_prob}, "
            f"variational_recurrent={self.variational_recurrent}, dropout_state_filter={self.dropout_state_filter!r}, "
            f"rng={self.rng!r}, always={self.always}){'' if self.training else '.eval()'}"
        )


# Structures: what holds arrays is a tuple, a named tuple, a list or a dict; everything else is a leaf


def _parts(structure: Any) -> list[Any] | None:
    """What a structure holds, or None for a leaf."""
    if isinstance(structure, dict):
        return [structure[name] for name in sorted(structure)]
    return list(structure) if isinstance(structure, (tuple, list)) else None


def _names(structure: Any) -> set[Any] | None:
    return set(structure) if isinstance(structure, dict) else None


def _leaves(structure: Any) -> list[Any]:
    parts = _parts(structure)
    return [structure] if parts is None else [leaf for part in parts for leaf in _leaves(part)]


def _packed(structure: Any, leaves: Iterator[Any]) -> Any:
    """The same structure with other leaves."""
    parts = _parts(structure)
    if parts is None:
        return next(leaves)
    packed = [_packed(part, leaves) for part in parts]
    if isinstance(structure, dict):
        result = copy.copy(structure)
        result.update(zip(sorted(structure), packed, strict=True))
        return result
    return structure._make(packed) if hasattr(structure, "_make") else type(structure)(packed)


def _pairs(structure: Any, other: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """The leaves of a structure, each with what another one has in its place."""
    parts = _parts(structure)
    if parts is None:
        yield structure, other
        return
    others = _parts(other)
    if others is None or len(others) != len(parts) or _names(structure) != _names(other):
        raise ValueError(f"{name} must have the structure {_outline(structure)}, got {_outline(other)}")
    for part, matching in zip(parts, others, strict=True):
        yield from _pairs(part, matching, name)


def _backward(masks: Any, gradients: Any, name: str) -> Any:
    pairs = _pairs(masks, gradients, name)
    return _packed(masks, (mask.backward(dy) if mask.rate > 0.0 else dy for mask, dy in pairs))


def _outline(structure: Any) -> str:
    """A structure without its leaves, for messages."""
    return repr(_packed(structure, itertools.repeat(...))).replace("Ellipsis", "...")


# Which arrays of a state are dropped


def _all_but_memory(part: Any) -> Any:
    """The filter, if none is given."""
    return LSTMState(c=False, h=True) if isinstance(part, LSTMState) else True


def _chosen(state_filter: Any, state: Any) -> list[bool]:
    """For each leaf of a state, whether it is dropped."""
    if state_filter is None:
        return list(_asked(_all_but_memory, state))
    if callable(state_filter):
        return list(_asked(state_filter, state))
    return [
        bool(flag)
        for flag, part in _pairs(state_filter, state, "the state under dropout_state_filter")
        for _ in _leaves(part)
    ]


def _asked(visitor: Callable[[Any], Any], part: Any) -> Iterator[bool]:
    answer = visitor(part)
    if _parts(answer) is None:
        _check_flag(answer)
        parts = _parts(part) if answer else None
        if parts is None:
            yield from [bool(answer)] * len(_leaves(part))
        else:
            for inner in parts:
                yield from _asked(visitor, inner)
        return
    for flag, inner in _pairs(answer, part, "the state under dropout_state_filter"):
        _check_flag(flag)
        yield from _asked(visitor, inner) if flag else [False] * len(_leaves(inner))


def _check_flag(flag: Any) -> None:
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"dropout_state_filter must say True or False, or a structure of these, got {flag!r}")
