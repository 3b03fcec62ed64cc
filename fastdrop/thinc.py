# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for thinc and spaCy on the CPU.

>>> import fastdrop.thinc
>>> from thinc.api import Relu, Softmax, chain
>>> model = chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax())
>>> fastdrop.thinc.replace_dropout(model)  # or a spaCy pipeline
2

Layers that are replaced keep no mask in memory, and are saved as thinc's own. ``FastdropOps``, which thinc and spaCy
know by name, is for those who ask a model's ops for a mask. Keys come from NumPy's global generator, from which thinc
draws too: ``thinc.util.fix_random_seed`` means what it always means.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, TypeAlias, cast

import numpy as np
from numpy.random import mtrand

from fastdrop import _arguments
from fastdrop._arguments import Rate
from fastdrop._masks import DropoutMask

try:
    import thinc

    if tuple(map(int, thinc.__version__.split(".")[:2])) < (8, 3):  # the first that is built for NumPy 2
        raise ImportError(
            f"fastdrop.thinc needs thinc 8.3 or newer, got {thinc.__version__}: python -m pip install -U thinc"
        )
    from thinc import compat
    from thinc.api import Model, NumpyOps, registry, set_current_ops
    from thinc.layers import dropout
    from thinc.layers.dropout import InT
    from thinc.types import FloatsXd, Padded, Ragged, Shape
    from thinc.util import is_cupy_array
except ModuleNotFoundError as _error:
    if _error.name != "thinc":
        raise
    raise ModuleNotFoundError(
        "fastdrop.thinc needs thinc, which is not installed: python -m pip install thinc", name="thinc"
    ) from None

__all__ = ["Dropout", "FastdropOps", "replace_dropout"]

Backprop: TypeAlias = Callable[[Any], Any]

_DTYPES = np.float32, np.float64  # that thinc computes in

_thincs_forward: Any = dropout.forward


# Masks


def _rate(drop: Any, name: str) -> Rate:
    """The rate that an argument or attribute says. None drops nothing, as everywhere in thinc."""
    if type(drop) is not float or not 0.0 <= drop <= 1.0:
        drop = 0.0 if drop is None else _arguments.probability(drop, name)
    return _arguments.rate_of(drop)


def _next_mask(shape: tuple[int, ...], rate: Rate) -> DropoutMask:
    """The mask of the next key: two words of NumPy's global generator. At rate 1 nothing is random, and none is drawn.

    From what ``numpy.random.seed`` seeds these are the words that ``numpy.random.randint(0, 2**32, 2, numpy.uint32)``
    would give, at a tenth of the time.
    """
    key = 0
    if rate.rate < 1.0:
        low, high = mtrand.get_bit_generator().random_raw(2).tolist()
        key = (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32  # other generators than the usual one have 64 bits a word
    return DropoutMask._made(shape, None, 0, key, 0, *rate, rate.scale)


def _times(array: np.ndarray, mask: DropoutMask) -> np.ndarray:
    """An array times a mask. What has neither of thinc's dtypes becomes what NumPy makes of it and of float32."""
    if array.dtype.type in _DTYPES:
        return mask.apply(array)
    product: np.ndarray = array * mask.to_array()
    return product


# Ops


def _cpu_ops() -> Any:
    """The class of ops that thinc itself takes for the CPU of this machine.

    ``get_ops("cpu")`` would tell, but it imports whatever is registered, which is this module too.
    """
    apples = "thinc.backends.apple_ops" if hasattr(compat, "has_apple_ops") else "thinc_apple_ops"
    for module, name in (("thinc_bigendian_ops", "BigEndianOps"), (apples, "AppleOps")):
        with suppress(ImportError):
            return getattr(import_module(module), name)
    return NumpyOps


if TYPE_CHECKING:
    from thinc.api import Ops as _CpuOps  # what all of them are
else:
    _CpuOps = _cpu_ops()


@registry.ops("FastdropOps")
class FastdropOps(_CpuOps):
    """The ops that thinc takes for the CPU of this machine, with masks that are fastdrop's.

    ``thinc.api.get_ops("fastdrop")`` gives them wherever fastdrop is installed: thinc imports this module for it.

    Examples
    --------
    >>> import fastdrop.thinc
    >>> from thinc.api import fix_random_seed, get_ops
    >>> fix_random_seed(0)
    >>> get_ops("fastdrop").get_dropout_mask((2, 5), 0.5)
    array([[2., 2., 0., 2., 2.],
           [0., 0., 2., 0., 0.]], dtype=float32)
    """

    name = "fastdrop"

    def get_dropout_mask(self, shape: Shape, drop: Optional[float]) -> FloatsXd:
        """A mask that carries its scale: what elements are multiplied by.

        Parameters
        ----------
        shape : int or sequence of int
        drop : float, optional
            The probability to drop, from 0 to 1. None drops nothing.

        Returns
        -------
        ndarray of float32
            ``1 / (1 - drop)`` where kept, 0 where dropped. At 0 it is ones and at 1 zeros, and nothing is drawn.

        Raises
        ------
        TypeError, ValueError
            For a shape or a rate that is none; nothing is drawn.
        """
        lengths = _arguments.mask_shape(shape)
        rate = _rate(drop, "drop")
        mask = np.empty(lengths, np.float32)
        mask.fill(1.0)  # a fifth of the time of numpy.ones, where there are few
        if rate.rate > 0.0:
            _next_mask(lengths, rate).apply(mask, out=mask)
        return cast(FloatsXd, mask)


# Layers


class _Kind(NamedTuple):
    """A kind of batch: its arrays, and another of the kind with other arrays."""

    name: str
    arrays: Callable[[Any], Sequence[Any]]
    like: Callable[[Any, Any], Any]


def _is_array(batch: object) -> bool:
    return isinstance(batch, np.ndarray) or is_cupy_array(batch)


_ARRAY = _Kind("an array", lambda X: (X,), lambda X, arrays: arrays[0])
_RAGGED = _Kind("a Ragged", lambda X: (X.data,), lambda X, arrays: Ragged(arrays[0], X.lengths))
_PADDED = _Kind("a Padded", lambda X: (X.data,), lambda X, arrays: Padded(arrays[0], X.size_at_t, X.lengths, X.indices))
_LIST = _Kind("a list of arrays", lambda X: X, lambda X, arrays: arrays)


def _kind_of(batch: object, name: str) -> _Kind:
    if isinstance(batch, np.ndarray):
        return _ARRAY
    if isinstance(batch, Ragged):
        return _RAGGED
    if isinstance(batch, Padded):
        return _PADDED
    if isinstance(batch, Sequence) and all(map(_is_array, batch)):
        return _LIST
    if is_cupy_array(batch):
        return _ARRAY
    raise TypeError(f"{name} must be an array, a Ragged, a Padded or a list of arrays, got {_described(batch)}")


def _described(batch: object) -> str:
    others = [part for part in batch if not _is_array(part)] if isinstance(batch, (list, tuple)) else []
    return f"a {type(batch).__name__}" + (f" with a {type(others[0]).__name__}" if others else "")


def _unchanged(dY: Any) -> Any:
    return dY


def forward(model: Model[InT, InT], X: InT, is_train: bool) -> tuple[InT, Backprop]:
    """What a Dropout layer does: the batch, dropped, and its backward pass, which keeps a key, a rate and a shape.

    It is for thinc to call. Arrays on a GPU are left to thinc's own layer.
    """
    if not (is_train and model.attrs["is_enabled"]):
        return X, _unchanged
    rate = _rate(model.attrs["dropout_rate"], "dropout_rate")
    if rate.rate == 0.0:
        return X, _unchanged
    kind = _kind_of(X, "X")
    arrays = kind.arrays(X)
    if any(map(is_cupy_array, arrays)):
        left: tuple[InT, Backprop] = _thincs_forward(model, X, is_train)
        return left
    for array in arrays:
        if array.dtype.kind not in "biufc":
            raise TypeError(f"X must be of numbers, got dtype {array.dtype}")
    masks = [_next_mask(array.shape, rate) for array in arrays]

    def backprop(dY: Any) -> Any:
        if _kind_of(dY, "dY") is not kind:
            raise TypeError(f"dY must be {kind.name}, as X was, got {_described(dY)}")
        gradients = kind.arrays(dY)
        shapes = [gradient.shape for gradient in gradients], [mask.shape for mask in masks]
        if shapes[0] != shapes[1]:
            raise ValueError(f"dY must have the shapes of X, {shapes[1]}, got {shapes[0]}")
        return kind.like(dY, [_times(gradient, mask) for gradient, mask in zip(gradients, masks, strict=True)])

    Y: InT = kind.like(X, [_times(array, mask) for array, mask in zip(arrays, masks, strict=True)])
    return Y, backprop


@registry.layers("fastdrop.Dropout.v1")
def Dropout(rate: float = 0.0) -> Model[InT, InT]:
    """thinc's ``Dropout``, without a mask in memory.

    Parameters
    ----------
    rate : float
        The probability to drop, from 0 to 1.

    Returns
    -------
    thinc.model.Model
        A layer for arrays, Ragged, Padded and lists of arrays. Its name and its attributes are those of thinc's, so
        that ``set_dropout_rate`` reaches it, and either loads what the other has saved.

    Examples
    --------
    >>> import numpy as np, fastdrop.thinc
    >>> from thinc.api import fix_random_seed
    >>> fix_random_seed(0)
    >>> Y, backprop = fastdrop.thinc.Dropout(0.5)(np.ones((2, 5), np.float32), is_train=True)
    >>> Y
    array([[2., 2., 0., 2., 2.],
           [0., 0., 2., 0., 0.]], dtype=float32)
    """
    return Model("dropout", forward, attrs={"dropout_rate": _rate(rate, "rate").rate, "is_enabled": True})


def replace_dropout(model: Any) -> int:
    """Let fastdrop do the dropout of a model or of a pipeline that is built already.

    Its Dropout layers become fastdrop's: those that were asked for by ``dropout=`` of another layer too. Other layers
    with a ``dropout_rate``, such as HashEmbed, ask ``FastdropOps`` for their masks from here on.

    Parameters
    ----------
    model : thinc.model.Model or spacy.Language
        Of a pipeline all components that have a model, disabled ones too.

    Returns
    -------
    int
        How many layers it has changed. What fastdrop does already is left as it is, and so are other layers whose ops
        are not those that thinc takes for the CPU.

    Raises
    ------
    TypeError
        For what is neither a model nor a pipeline.
    """
    return sum(_replace(node) for node in _nodes(model))


def _nodes(model: Any) -> Iterator[Model[Any, Any]]:
    """The layers of a model, or of all models of a pipeline. One that two share comes twice."""
    if isinstance(model, Model):
        yield from model.walk()
    elif isinstance(getattr(model, "components", None), list):
        for _, component in model.components:
            if isinstance(getattr(component, "model", None), Model):
                yield from component.model.walk()
    else:
        raise TypeError(f"model must be a thinc Model or a spaCy pipeline, got {_described(model)}")


def _replace(node: Model[Any, Any]) -> bool:
    """Change a layer, if it draws masks in thinc's own way; whether it did."""
    if node._func is _thincs_forward:
        node._func = forward
        return True
    if "dropout_rate" in node.attrs and node._func is not forward and type(node.ops) is _CpuOps:
        settings = vars(node.ops)
        node.ops = FastdropOps()
        vars(node.ops).update(settings)
        return True
    return False


# Callbacks of spaCy, which finds them by the entry points in pyproject.toml


def _create_replace_dropout() -> Callable[[Any], Any]:
    def callback(nlp: Any) -> Any:
        replace_dropout(nlp)
        return nlp

    return callback


def _create_set_current_ops() -> Callable[[type], type]:
    def callback(language: type) -> type:
        set_current_ops(FastdropOps())
        return language

    return callback
