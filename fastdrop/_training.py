# SPDX-License-Identifier: BSD-3-Clause
"""What every object that draws in a training loop has: whether it trains, a stream, a state for checkpoints."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, overload

import numpy as np

from fastdrop import _arguments, _streams
from fastdrop._contexts import Entered
from fastdrop._streams import RNG, PhiloxStream


class Kept(NamedTuple):
    """The layers of a ``stochastic()`` context, and the stream that they draw from in it, if not from their own."""

    layers: frozenset[TrainingMode]
    stream: PhiloxStream | None


# The contexts that the thread or task is in.
kept_stochastic: Entered[Kept] = Entered("fastdrop.stochastic")


class TrainingMode:
    """What draws in training, and outside it only if that was asked for."""

    def __init__(self, always: bool) -> None:
        self.training: bool = True
        self._always = _arguments.flag(always, "always")

    def _inside(self) -> Sequence[TrainingMode]:
        """The objects inside this one, to which all that is asked of it goes on."""
        return ()

    def train(self, mode: bool = True) -> Self:
        """Draw from now on, or with ``mode=False`` stop it; return the object."""
        self.training = _arguments.flag(mode, "mode")
        for inner in self._inside():
            inner.train(mode)
        return self

    def eval(self) -> Self:
        """Change to inference; return the object."""
        return self.train(False)

    @property
    def always(self) -> bool:
        return self._always

    @always.setter
    def always(self, always: bool) -> None:
        self._always = _arguments.flag(always, "always")
        for inner in self._inside():
            inner.always = always

    def _with_all_inside(self) -> list[TrainingMode]:
        return [self, *(found for inner in self._inside() for found in inner._with_all_inside())]

    @property
    def is_stochastic(self) -> bool:
        """Whether a forward pass would draw, here and now: by ``training``, ``always`` or ``fastdrop.stochastic``."""
        return self.training or self.always or any(self in kept.layers for kept in kept_stochastic.values())

    def _draws(self, training: object) -> bool:
        """Whether one call draws, told to whoever watches. What it says itself outweighs all that was said before."""
        return _streams.tell(self.is_stochastic if training is None else _arguments.flag(training, "training"))


class Stochastic(TrainingMode):
    """What draws in training, from a stream of its own, and can go on from a checkpoint.

    A subclass names the attributes that decide on its masks, beside the stream, and what a state may hold in addition.
    """

    _NUMBERS: ClassVar[tuple[str, ...]]
    _EXACT: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in cls.__dict__:
            cls.__init__ = _advising(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, rng: RNG, always: bool) -> None:
        super().__init__(always)
        self.rng = rng  # last, so that a Generator is drawn from only where nothing else is wrong

    @property
    def rng(self) -> PhiloxStream:
        return self._stream

    @rng.setter
    def rng(self, rng: RNG) -> None:
        self._stream = _streams.stream(rng)

    @property
    def _stream_here(self) -> PhiloxStream:
        """What it draws from, here and now: its own stream, or that of the innermost ``fastdrop.stochastic``."""
        for kept in reversed(kept_stochastic.values()):
            if kept.stream is not None and self in kept.layers:
                return kept.stream
        return self._stream

    def __copy__(self) -> Self:
        """An object that goes on where this one stands, with a stream of its own, as by pickle and ``deepcopy``."""
        return self._twin({})

    def _twin(self, streams: dict[int, Any]) -> Self:
        """A copy, of objects that share a stream with copies that share one: ``streams`` is a memo of ``deepcopy``."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._stream = copy.deepcopy(self._stream, streams)
        return twin

    def state_dict(self) -> dict[str, Any]:
        """What decides on the coming masks: plain values, for ``json``, ``pickle`` or ``numpy.savez``.

        Returns
        -------
        dict
            The name of the class, the numbers that say how much it disturbs, the key and the call number of its stream,
            and, for masks that are held along a sequence, their call numbers. Whether it trains is not in it.
        """
        numbers = {name: getattr(self, name) for name in self._NUMBERS}
        return {"layer": type(self).__name__, **numbers, "key": self.rng.key, "call": self.rng.call}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on where the object stood that this is the state of, with the masks that would have come next.

        Its other parameters must be the same. Where objects share a stream, it is set for all of them.

        Parameters
        ----------
        state : mapping
            From ``state_dict``, or read from where that was saved; what ``numpy.load`` gives is taken as it is.

        Raises
        ------
        TypeError, ValueError
            For a state that is not of such an object; nothing is changed.
        """
        self._prepared(state)()

    def _prepared(self, state: Mapping[str, object]) -> Callable[[], None]:
        """What sets the object to a state, once it is known that nothing is wrong with it."""
        own = self.state_dict()
        needed = own.keys() - set(self._EXACT)
        names = ", ".join(name for name in own if name in needed)
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping with {names}, got {state!r} of type {type(state).__name__}")
        if not needed <= set(state) <= needed | set(self._EXACT):
            raise ValueError(f"state must hold {names} and nothing else, got {', '.join(map(str, state)) or 'nothing'}")
        values = {name: _plain(value) for name, value in state.items()}
        layer = values["layer"]
        if isinstance(layer, bytes):  # as HDF5 keeps text
            layer = layer.decode(errors="replace")
        if layer != own["layer"]:
            raise ValueError(f"layer must be {own['layer']!r} in a state for this object, got {layer!r}")
        return self._prepared_for(values)

    def _checked(self, name: str, value: object) -> float:
        return _arguments.probability(value, name)

    def _prepared_for(self, values: dict[str, object]) -> Callable[[], None]:
        """The same, of a state that holds what it must, in plain values."""
        numbers = {name: self._checked(name, values[name]) for name in self._NUMBERS}
        key = _arguments.unsigned(values["key"], "key", _arguments.KEY_BITS)
        call = _arguments.next_call(values["call"])

        def load() -> None:
            own_key, _, seed = self.rng._state()
            # Another key has another family of spawned streams.
            self.rng._restore(key, call, seed if key == own_key else None)
            for name, number in numbers.items():
                setattr(self, name, number)

        return load


def _plain(value: object) -> object:
    """A value of a state as a Python object, from an array or what NumPy makes one of, such as a data set of HDF5."""
    return np.asarray(value).tolist() if hasattr(value, "__array__") else value


# What other libraries call an argument that has another name here. They and fastdrop mean the same by it.
_OUR_NAMES = {
    **dict.fromkeys(("seed", "random_state", "generator", "key"), "rng"),
    **dict.fromkeys(("p", "drop", "ratio", "prob", "drop_prob", "dropout_rate", "dropout_prob"), "rate"),
    **dict.fromkeys(("axis", "axes", "broadcast_dims", "shared_axis"), "shared_axes"),
    "std": "stddev",
    "sigma": "stddev",
    "dropout_state_filter_visitor": "dropout_state_filter",
}
_NOT_NEEDED = {
    **dict.fromkeys(("dtype", "input_size", "input_shape"), "arrays say it themselves"),
    **dict.fromkeys(("inplace", "in_place"), "layers leave x as it is, and the functions have out"),
    "deterministic": "eval() stops the drawing, and so does training=False in a call",
    "training": "train() and eval() set it, and a call may say it",
}


def parameters_of(function: Callable[..., None]) -> tuple[str, ...] | None:
    """The names of a Python function's parameters, for whole signatures would take a tenth of the package's import."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _advising(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a class, which tells those who come from another library what an argument is called here."""
    taken = parameters_of(init)
    if taken is None or inspect.unwrap(init).__code__.co_flags & inspect.CO_VARKEYWORDS:
        return init  # which takes any

    @functools.wraps(init)
    def checked(self: object, *args: object, **options: object) -> None:
        for name in options:
            if name in taken:
                continue
            refused = f"{type(self).__name__} takes no argument {name!r}"
            if _OUR_NAMES.get(name) in taken:
                raise TypeError(f"{refused}: it is {_OUR_NAMES[name]!r} here")
            if name in _NOT_NEEDED:
                raise TypeError(f"{refused}: {_NOT_NEEDED[name]}")
        init(self, *args, **options)

    return checked


class Probability:
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
