# SPDX-License-Identifier: BSD-3-Clause
"""What is more than its numbers, and would lose the rest in silence: arrays of other libraries, units, hidden elements.

Nothing is imported to tell them. A list, a data frame and whatever has ``__array__`` alone are their numbers.
"""

from __future__ import annotations

import numpy as np

# By the name of the library: what would be lost, and what to use in place of an array x.
_WAYS = {
    "dask": (
        "which would be computed as a whole",
        "use fastdrop.dask, whose functions are lazy and draw the same mask for any chunks, or {x}.compute()",
    ),
    "torch": (
        "whose gradient would be lost",
        "use fastdrop.torch, which takes tensors, or {x}.detach().cpu().numpy() if the numbers alone are meant",
    ),
    "jax": (
        "whose gradient and device would be lost",
        "use fastdrop.jax, or numpy.asarray({x}) outside of transformations if the numbers alone are meant",
    ),
    "tensorflow": (
        "whose gradient would be lost",
        "use the layers of fastdrop.keras, or {x}.numpy() if the numbers alone are meant",
    ),
    "keras": (
        "whose gradient would be lost",
        "use the layers of fastdrop.keras, or keras.ops.convert_to_numpy({x}) if the numbers alone are meant",
    ),
    "cupy": ("which would leave its device", "use {x}.get()"),
}
_OTHER_WAY = ("which would be no more than its numbers", "if these alone are meant, use numpy.asarray({x})")
_LIBRARIES = {name: name for name in _WAYS} | {"jaxlib": "jax"}
# Of gradients or devices, with __array__ and no protocol that would tell them.
_OTHER_LIBRARIES = {"autograd", "chainer", "mindspore", "mlx", "mxnet", "oneflow", "paddle", "tinygrad"}
# Who has one of these wants to be asked before NumPy, and not to be converted by it.
_PROTOCOLS = {
    "__torch_function__": "torch",
    "__jax_array__": "jax",
    "__array_function__": None,
    "__array_namespace__": None,
}
_MAX_DEPTH = 64  # of NumPy's arrays

# Nothing but numbers, however they are stored or multiplied.
_PLAIN = (np.ndarray, np.memmap, np.matrix)


def refuse(value: object, what_must_be: str, name: str, depth: int = 0) -> None:
    """A TypeError for an array of another library, or for a list of such.

    Parameters
    ----------
    value : object
        Anything but an ndarray.
    what_must_be : str
        The beginning of the message, such as "x must be an array".
    name : str
        The argument, in the advice.
    """
    if isinstance(value, (list, tuple)) and depth < _MAX_DEPTH:
        for part in value:
            if type(part) not in (float, int):
                refuse(part, what_must_be, name, depth + 1)
        return
    if isinstance(value, (np.ndarray, np.generic)):
        return
    way = _way(value)
    if way is not None:
        kind = type(value)
        library = str(kind.__module__).partition(".")[0]
        described = f"a {library}.{kind.__name__}" if depth == 0 else f"a sequence of {library}.{kind.__name__}"
        lost, use = way
        array = "each" if depth > 0 else name if name.isidentifier() else "it"
        raise TypeError(f"{what_must_be}, got {described}, {lost}: {use.format(x=array)}")


def _way(value: object) -> tuple[str, str] | None:
    """What an array of another library would lose, and what to do; None for what loses nothing."""
    kind = type(value)
    for base in kind.__mro__:
        library = str(base.__module__).partition(".")[0]
        if library in _LIBRARIES:
            return _WAYS[_LIBRARIES[library]]
        if library in _OTHER_LIBRARIES:
            return _OTHER_WAY
    # That of xarray is None where the array is no Dask array.
    if hasattr(kind, "__dask_graph__") and value.__dask_graph__() is not None:  # type: ignore[attr-defined]
        return _WAYS["dask"]
    for protocol, protocols_library in _PROTOCOLS.items():
        if hasattr(kind, protocol):
            return _OTHER_WAY if protocols_library is None else _WAYS[protocols_library]
    return None


def is_plain(array: np.ndarray) -> bool:
    """Whether it is of no class that may give its numbers a unit, or hide some of them."""
    return type(array) in _PLAIN


def refuse_subclass(array: np.ndarray, what_must_be: str, name: str) -> None:
    """A TypeError for an array whose class may give its numbers a unit, or hide some of them."""
    if not is_plain(array):
        use = f"{name}.filled(...)" if hasattr(array, "filled") else f"{name}.view(numpy.ndarray)"
        raise TypeError(
            f"{what_must_be}, got a {type(array).__name__}, which may be more than its numbers: if these alone are "
            f"meant, use {use}"
        )
