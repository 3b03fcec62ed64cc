# SPDX-License-Identifier: BSD-3-Clause
"""Masks around a cell of a recurrent net, as in TensorFlow 1: on what goes into it and on what comes out of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from fastdrop import _arguments, _geometry
from fastdrop._arguments import Rate
from fastdrop._kernels import bare
from fastdrop._masks import DropoutMask
from fastdrop._nested import Structure, leaves, pairs, parts, with_leaves
from fastdrop._streams import RNG, PhiloxStream
from fastdrop._training import Probability, Stochastic

Cell: TypeAlias = Callable[[Structure, Structure], tuple[Structure, Structure]]
StateFilter: TypeAlias = Structure  # of bool, or a callable that gives one for a part of the state; or None


class LSTMState(NamedTuple):
    """The state of an LSTM: its memory, which DropoutWrapper leaves alone, and its output.

    Attributes
    ----------
    c : ndarray
        The memory.
    h : ndarray
        The output.
    """

    c: Structure
    h: Structure


class StepMasks(NamedTuple):
    """The masks of one step of a DropoutWrapper: a DropoutMask for each array, in the structure of these arrays.

    What was not dropped has a mask of rate 0, which changes nothing. A step is differentiated from its end: first
    ``backward_outputs``, then the cell's own backward pass, then ``backward_input``.

    Attributes
    ----------
    input, state, output : DropoutMask or structure of DropoutMask
        Of the cell's input, of its new state and of its output.

    Examples
    --------
    >>> import numpy as np, fastdrop
    >>> def cell(x, state):
    ...     return x, x + state
    >>> wrapper = fastdrop.DropoutWrapper(cell, 0.5, 0.5, 0.5, rng=7)
    >>> y, state = wrapper(np.ones((2, 6)), np.zeros((2, 6)))
    >>> masks = wrapper.masks
    >>> dy, dstate = masks.backward_outputs(np.ones((2, 6)), np.ones((2, 6)))
    >>> dx, dstate = dy + dstate, dstate                                     # the cell's own backward pass
    >>> dx = masks.backward_input(dx)
    >>> bool(np.all(dx[~np.asarray(masks.input)] == 0))
    True
    """

    input: Structure
    state: Structure
    output: Structure

    def backward_outputs(self, dy: Structure, dstate: Structure) -> tuple[Structure, Structure]:
        """Gradients with respect to what the cell itself returned, from those of what the wrapper returned.

        Parameters
        ----------
        dy, dstate : array_like or structure of array_like
            The gradients with respect to the wrapper's output and new state, in their structures.

        Returns
        -------
        tuple
            The gradients with respect to the cell's own output and new state, in the same structures.
        """
        return _backward(self.output, dy, "dy"), _backward(self.state, dstate, "dstate")

    def backward_input(self, dx: Structure) -> Structure:
        """The gradient with respect to the wrapper's input, from that of the cell's.

        Parameters
        ----------
        dx : array_like or structure of array_like
            The gradient with respect to what the cell was given.

        Returns
        -------
        ndarray or structure of ndarray
            The gradient with respect to what the wrapper was given.
        """
        return _backward(self.input, dx, "dx")


_KINDS = ("input", "state", "output")  # what a wrapper drops, in the order in which it does
_OF_CELL = "cell."  # before the names of a cell's state in that of its wrapper


class DropoutWrapper(Stochastic):
    """A cell whose input, output and new state are dropped, as TensorFlow 1's ``tf.nn.rnn_cell.DropoutWrapper`` does.

    The wrapper is a cell itself: ``y, state = wrapper(x, state)``. What it drops of the output goes to the next layer
    and not to the next step; what the next step sees is the state, which has masks of its own.

    Parameters
    ----------
    cell : callable
        ``(x, state) -> (y, state)`` on NumPy arrays, or another DropoutWrapper. Each of the three is an array or a
        structure of arrays: tuples, named tuples, lists and dicts, in any depth.
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
        LSTMState, and of other named tuples with ``c`` and ``h``, such as TensorFlow's LSTMStateTuple. A plain pair
        does not say which part is the memory: both are dropped, as in TensorFlow.
    rng : None, int, sequence of int, numpy.random.SeedSequence, Generator or BitGenerator, or DrawSource
        Where the object's stream comes from. None takes fresh entropy from the operating system. An int, a sequence
        of int or a SeedSequence is the seed of the stream: unlike for a function, where it names one mask, successive
        draws give successive masks. A Generator gives a key, once. A PhiloxStream is used as it is, and may be shared.
        Two objects with the same seed draw the same masks: give each one of ``PhiloxStream(seed).spawn(n)``.
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
        True at first. ``train()`` and ``eval()`` set it. Outside training a step is the cell's own.
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

    Where the cell is a wrapper, all that is asked of the outer one goes on to it: ``train``, ``eval``, ``always``,
    ``fastdrop.stochastic``, ``start_sequence``, copies, and states, in which its values are named ``cell.key`` and so
    on. Layers within any other cell cannot be known: they are the caller's to train, to save and to load.

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

    input_keep_prob: Probability = Probability()
    output_keep_prob: Probability = Probability()
    state_keep_prob: Probability = Probability()

    def __init__(
        self,
        cell: Cell,
        input_keep_prob: float = 1.0,
        output_keep_prob: float = 1.0,
        state_keep_prob: float = 1.0,
        variational_recurrent: bool = False,
        dropout_state_filter: StateFilter = None,
        *,
        rng: RNG = None,
        always: bool = False,
    ) -> None:
        if not callable(cell):
            raise TypeError(f"cell must be a callable (x, state) -> (y, state), got {cell!r}")
        self.cell: Cell = cell
        self.input_keep_prob = input_keep_prob
        self.output_keep_prob = output_keep_prob
        self.state_keep_prob = state_keep_prob
        self.variational_recurrent: bool = _arguments.flag(variational_recurrent, "variational_recurrent")
        if dropout_state_filter is not None and not callable(dropout_state_filter):
            for flag in leaves(dropout_state_filter):
                _check_flag(flag)
        self.dropout_state_filter: StateFilter = dropout_state_filter
        self.masks: StepMasks | None = None
        # Call numbers of the sequence, by key, so that another stream gives other masks, and by what is dropped.
        self._held: dict[tuple[int, str], list[int]] = {}
        super().__init__(rng, always)
        if self.always:
            for inner in self._inside():
                inner.always = True

    def _twin(self, streams: dict[int, Any]) -> Self:
        twin = super()._twin(streams)
        twin._held = copy.deepcopy(self._held)
        for cell in self._inside():
            twin.cell = cell._twin(streams)
        return twin

    def __call__(self, x: Structure, state: Structure, training: bool | None = None) -> tuple[Structure, Structure]:
        """One step of the cell, with dropout before and after it.

        Parameters
        ----------
        x, state : array_like or structure of array_like
            What the cell takes.
        training : bool, optional
            Whether to draw in this step, whatever ``training``, ``always`` and ``fastdrop.stochastic`` say. None leaves
            it to them. It goes on to a cell that is a wrapper.

        Returns
        -------
        (y, state) : tuple
            What the cell returned, in its structures, with elements dropped.
        """
        undo: list[Callable[[], object]] = []
        try:
            return self._step(x, state, training, undo)
        except BaseException:
            # A step that fails, for want of memory at its end or in the cell, has drawn nothing.
            for action in reversed(undo):
                action()
            raise

    def _step(
        self, x: Structure, state: Structure, training: bool | None, undo: list[Callable[[], object]]
    ) -> tuple[Structure, Structure]:
        """The same, with what undoes it in a list, in the order in which it was done."""
        undo.append(partial(self._go_back, dict(self._held), self.masks))
        draws = self._draws(training)
        x, of_input = self._dropped("input", x, self.input_keep_prob, draws, undo)
        result = self._result_of_cell(x, state, training, undo)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"cell must return a pair (y, state), got {type(result).__name__}")
        y, state = result
        is_dropped = None
        if draws and self.state_keep_prob < 1.0:
            is_dropped = _chosen(self.dropout_state_filter, state)
        state, of_state = self._dropped("state", state, self.state_keep_prob, draws, undo, is_dropped)
        y, of_output = self._dropped("output", y, self.output_keep_prob, draws, undo)
        self.masks = StepMasks(of_input, of_state, of_output)
        return y, state

    def _go_back(self, held: dict[tuple[int, str], list[int]], masks: StepMasks | None) -> None:
        """To where the wrapper stood before a step."""
        self._held, self.masks = held, masks

    def _result_of_cell(
        self, x: Structure, state: Structure, training: bool | None, undo: list[Callable[[], object]]
    ) -> object:
        """What the cell returns, with what the call said on training if it is a wrapper itself."""
        cell: object = self.cell
        if not isinstance(cell, DropoutWrapper):
            return self.cell(x, state)
        if type(cell).__call__ is DropoutWrapper.__call__:
            return cell._step(x, state, training, undo)  # which may have to be undone when it is done
        return cell(x, state, training)

    def start_sequence(self) -> Self:
        """Let go of the masks of ``variational_recurrent``, so that the next step draws new ones.

        A training loop calls it before each batch of sequences. It goes on to a cell that is a wrapper.

        Returns
        -------
        DropoutWrapper
            The wrapper itself.
        """
        self._held.clear()
        for cell in self._inside():
            cell.start_sequence()
        return self

    def _inside(self) -> Sequence[DropoutWrapper]:
        return (self.cell,) if isinstance(self.cell, DropoutWrapper) else ()

    def _dropped(
        self,
        kind: str,
        values: Structure,
        keep_prob: float,
        draws: bool,
        undo: list[Callable[[], object]],
        is_dropped: list[bool] | None = None,
    ) -> tuple[Structure, Structure]:
        """Arrays with their elements dropped, and the masks, both in the structure in which the arrays came."""
        arrays = leaves(values)
        keep_prob = keep_prob if draws else 1.0
        rate = 1.0 - keep_prob
        rates = [rate] * len(arrays) if is_dropped is None else [rate if dropped else 0.0 for dropped in is_dropped]
        # All that may be wrong with the arrays is seen before anything is drawn.
        for i, leaf in enumerate(arrays):
            if rates[i] > 0.0:
                arrays[i] = _arguments.float_array(leaf, f"the {kind} of the cell")
                shape = bare(arrays[i]).shape
                if self.variational_recurrent and len(shape) < 2:
                    raise ValueError(
                        f"the {kind} of the cell must have the shape (batch, depth, ...) with variational_recurrent, "
                        f"got {shape}"
                    )
        masks: list[DropoutMask] = []
        stream = self._stream_here
        for i, call in enumerate(self._calls(stream, kind, len(arrays), draws, undo)):
            array = arrays[i]
            shape = bare(array).shape if isinstance(array, np.ndarray) else np.shape(array)
            is_shared = self.variational_recurrent and rates[i] > 0.0 and shape[0] != 1
            noise_shape = (1, *shape[1:]) if is_shared else None
            strides = _geometry.strides_of(shape, noise_shape)
            probabilities = Rate(rate, keep_prob)
            numbers = (*probabilities, DropoutMask._usual_scale(probabilities)) if rates[i] > 0.0 else (0.0, 1.0, 1.0)
            masks.append(DropoutMask._made(shape, strides, 0, stream.key, call, *numbers, None))
            if rates[i] > 0.0:
                arrays[i] = masks[i].apply(arrays[i])
        return with_leaves(values, iter(arrays)), with_leaves(values, iter(masks))

    def _calls(
        self, stream: PhiloxStream, kind: str, n: int, draws: bool, undo: list[Callable[[], object]]
    ) -> list[int]:
        """Call numbers for n arrays: new ones, or those of the sequence."""
        if not draws:
            return [0] * n
        held = self._held.get((stream.key, kind)) if self.variational_recurrent else None
        if held is not None and len(held) != n:
            raise ValueError(
                f"the {kind} of the cell must hold the same number of arrays at each step of a sequence, got {n} after "
                f"{len(held)}: call start_sequence() before a new one"
            )
        if held is None:
            held = []
            for _ in range(n):
                drawn = stream.next_draw()
                undo.append(partial(stream._take_back, drawn))
                held.append(drawn[1])
            if self.variational_recurrent:
                self._held[stream.key, kind] = held
        return held

    def state_dict(self) -> dict[str, Any]:
        held = {f"{kind}_calls": list(self._held.get((self.rng.key, kind), ())) for kind in _KINDS}
        of_cell = {_OF_CELL + name: value for cell in self._inside() for name, value in cell.state_dict().items()}
        return {**super().state_dict(), **held, **of_cell}

    def _prepared_for(self, values: dict[str, object]) -> Callable[[], None]:
        held = {}
        for kind in _KINDS:
            name = f"{kind}_calls"
            value = values[name]
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"{name} must be a list of ints, got {value!r}")
            calls = [_arguments.unsigned(call, name, _arguments.CALL_BITS) for call in value]
            if calls:
                held[kind] = calls
        of_cell = {name.removeprefix(_OF_CELL): values[name] for name in values if name.startswith(_OF_CELL)}
        load_cells = [cell._prepared(of_cell) for cell in self._inside()]
        load_own = super()._prepared_for(values)

        def load() -> None:
            load_own()
            self._held = {(self.rng.key, kind): calls for kind, calls in held.items()}
            for load_cell in load_cells:
                load_cell()

        return load

    def __repr__(self) -> str:
        return (
            f"DropoutWrapper({self.cell!r}, input_keep_prob={self.input_keep_prob}, "
            f"output_keep_prob={self.output_keep_prob}, state_keep_prob={self.state_keep_prob}, "
            f"variational_recurrent={self.variational_recurrent}, dropout_state_filter={self.dropout_state_filter!r}, "
            f"rng={self.rng!r}, always={self.always}){'' if self.training else '.eval()'}"
        )


def _backward(masks: Structure, gradients: Structure, name: str) -> Structure:
    found = pairs(masks, gradients, name)
    return with_leaves(masks, (mask.backward(dy) if mask.rate > 0.0 else dy for mask, dy in found))


# Which arrays of a state are dropped


def _all_but_memory(part: Structure) -> bool | list[bool]:
    """The filter, if none is given."""
    names = getattr(part, "_fields", ())
    return [name != "c" for name in names] if isinstance(part, tuple) and {"c", "h"} <= set(names) else True


def _chosen(state_filter: StateFilter, state: Structure) -> list[bool]:
    """For each leaf of a state, whether it is dropped."""
    if state_filter is None:
        return list(_asked(_all_but_memory, state))
    if callable(state_filter):
        return list(_asked(state_filter, state))
    return [
        bool(flag)
        for flag, part in pairs(state_filter, state, "the state under dropout_state_filter")
        for _ in leaves(part)
    ]


def _asked(visitor: Callable[[Structure], Structure], part: Structure) -> Iterator[bool]:
    answer = visitor(part)
    if parts(answer) is None:
        _check_flag(answer)
        held = parts(part) if answer else None
        if held is None:
            yield from [bool(answer)] * len(leaves(part))
        else:
            for inner in held:
                yield from _asked(visitor, inner)
        return
    for flag, inner in pairs(answer, part, "the state under dropout_state_filter"):
        _check_flag(flag)
        yield from _asked(visitor, inner) if flag else [False] * len(leaves(inner))


def _check_flag(flag: object) -> None:
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"dropout_state_filter must say True or False, or a structure of these, got {flag!r}")
