# SPDX-License-Identifier: BSD-3-Clause
"""How every function of the family is checked by the core, and done chunk by chunk.

The core is asked with a stand-in: an array of x's shape and dtype without its memory. So arguments are checked where
they are checked for NumPy, with the same messages, before any stream moves. Then one draw is made while the graph is
built, and a chunk is given the whole mask, which is a recipe of a few numbers, and its own place in the array. The mask
of a chunk is that slice of the whole, so neither the chunks nor who computes them can change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import delayed
from dask.layers import ArraySliceDep

from fastdrop import _prologue
from fastdrop._arguments import Rate
from fastdrop._masks import DropoutMask, GaussianMask
from fastdrop._prologue import Call
from fastdrop._threads import num_threads
from fastdrop.dask import _labels

Mask: TypeAlias = DropoutMask | GaussianMask
# What is done with a chunk: from its mask and its arrays to its result. It stands in a module, so that workers find it.
OnChunk: TypeAlias = Callable[..., np.ndarray]


def stand_in(x: object, name: str, function: str, *, takes_labels: bool = True) -> np.ndarray:
    """An array of the shape, dtype and class of x's chunks, of one element's memory; x's own, if xarray has that."""
    data = _labels.data_of(x) if takes_labels else x
    if isinstance(data, np.ndarray) and data is not x:
        return data
    if not isinstance(data, da.Array):
        raise TypeError(f"{name} must be a Dask array{_instead(data, name, function, takes_labels)}")
    if any(math.isnan(n) for n in data.shape):
        raise ValueError(
            f"{name} must have chunks of known sizes, because a mask goes by the position in the whole array, got "
            f"shape {data.shape}: {name}.compute_chunk_sizes() finds them"
        )
    meta = data._meta
    if not isinstance(meta, (np.ndarray, np.generic)):
        kind = type(meta)
        raise TypeError(
            f"{name} must be a Dask array of NumPy arrays, got one of {kind.__module__.partition('.')[0]}."
            f"{kind.__name__}: convert its chunks with {name}.map_blocks"
        )
    one = np.broadcast_to(np.zeros((), data.dtype), data.shape)
    return one.view(type(meta)) if isinstance(meta, np.ndarray) else one


def _instead(data: object, name: str, function: str, takes_labels: bool) -> str:
    """What came in place of a Dask array, and what to do with it."""
    kind = type(data)
    if _labels.is_dataset(data):
        return (
            f", got an xarray.Dataset of several: {name}.map(fastdrop.dask.{function}, ...) gives each its own mask, "
            "with a PhiloxStream or a Generator as rng"
        )
    if _labels.is_labelled(data):
        return f", got an xarray.{kind.__name__}, which {function} does not take: pass {name}.data"
    or_labelled = " or an xarray object" if takes_labels else ""
    library = kind.__module__.partition(".")[0]
    came = kind.__name__ if library == "builtins" else f"{library}.{kind.__name__}"
    return f"{or_labelled}, got {came}: NumPy arrays are for fastdrop.{function}"


def checked(
    function: str,
    arrays: Mapping[str, object],
    options: tuple[object, object, object],
    *,
    takes_labels: bool = True,
    **how: Any,
) -> Call:
    """The arguments of a call, checked by the core, which gets stand-ins for arrays that are not there.

    Parameters
    ----------
    function : str
        Its name.
    arrays : mapping
        One or two, by the names of the function's parameters. The second may be NumPy's.
    options : tuple
        training, rng and return_mask.
    how
        As for the core's.
    """
    training, rng, return_mask = options
    stand_ins = {
        name: array
        if number > 0 and isinstance(array, np.ndarray)
        else stand_in(array, name, function, takes_labels=takes_labels)
        for number, (name, array) in enumerate(arrays.items())
    }
    return _prologue.checked(stand_ins, (training, rng, None, return_mask), **how)


def dropped(
    function: str,
    on_chunk: OnChunk,
    call: Call,
    arrays: tuple[Any, ...],
    mask_of: Callable[[tuple[int, int]], Mask],
    idle: Mask,
) -> Any:
    """Draw a mask and build the graph; outside training with an idle mask.

    Parameters
    ----------
    function : str
        Its name, for the names of tasks.
    on_chunk : callable
    call : Call
        What ``checked`` returned.
    arrays : tuple
        Those of the user, x first.
    mask_of : callable
        From a key and a call number to the mask of them.
    idle : DropoutMask or GaussianMask

    Returns
    -------
    y or (y, mask)
        What the function returns.
    """
    if not call.training:
        y = mapped(function, on_chunk, idle, *arrays)
        return (y, idle) if call.return_mask else y
    drawn = call.draw(None)
    try:
        mask = mask_of(drawn)
        y = mapped(function, on_chunk, mask, *arrays)
    except BaseException:
        call.take_back(drawn)
        raise
    return (y, mask) if call.return_mask else y


def masks_of(
    call: Call,
    rate: Rate,
    kind: type[DropoutMask] = DropoutMask,
    *,
    scale: float | None = None,
    idle_scale: float = 1.0,
) -> tuple[Callable[[tuple[int, int]], DropoutMask], DropoutMask]:
    """The mask of a draw at a rate, and the one outside training. Arguments as for the core's ``dropped``."""

    def mask_of(drawn: tuple[int, int]) -> DropoutMask:
        factor = kind._usual_scale(rate) if scale is None else scale
        return kind._made(call.shape, call.strides, 0, *drawn, *rate, factor)

    kept = _prologue.KEEP_ALL if idle_scale != 0.0 else _prologue.DROP_ALL
    return mask_of, kind._made(call.shape, None, 0, 0, 0, *kept, idle_scale)


def noise_masks_of(
    call: Call, stddev: float, *, additive: bool
) -> tuple[Callable[[tuple[int, int]], GaussianMask], GaussianMask]:
    """The same for normal noise."""

    def mask_of(drawn: tuple[int, int]) -> GaussianMask:
        return GaussianMask._made(call.shape, call.strides, 0, *drawn, stddev, additive)

    return mask_of, GaussianMask._made(call.shape, None, 0, 0, 0, 0.0, additive)


def mapped(function: str, on_chunk: OnChunk, mask: Mask, x: Any, *others: Any) -> Any:
    """What is done with each chunk of x, lazily; at once where xarray holds a NumPy array.

    Parameters
    ----------
    function : str
        How the names of tasks begin.
    on_chunk : callable
    mask : DropoutMask or GaussianMask
        Of x's shape.
    x : dask.array.Array, or an xarray object
    *others : dask.array.Array or ndarray
        Of x's shape, or of that of its last dimensions. They get its chunks.
    """
    data = _labels.data_of(x)
    if on_chunk is applied and mask._changes_nothing():
        return x
    if not isinstance(data, da.Array):
        return _labels.around(x, on_chunk(mask, data))
    aligned = [_with_chunks(other, data.chunks) for other in others]
    arrays = [data, *aligned]
    token = tokenize(on_chunk.__name__, type(mask).__name__, mask._state(), *(array.name for array in arrays))
    axes = tuple(range(data.ndim))
    task = partial(_on_chunk, on_chunk)
    stored: tuple[Any, ...] = ()
    if isinstance(mask, DropoutMask) and mask._bits is not None:
        stored = (delayed(mask, pure=True, traverse=False), None)  # once in the graph, and not in each task
    else:
        task = partial(task, mask)  # Dask takes less time for a task with fewer arguments
    pairs = [part for array in arrays for part in (array, axes[data.ndim - array.ndim :])]
    y = da.blockwise(
        task,
        axes,
        *stored,
        *(ArraySliceDep(data.chunks), axes),
        *pairs,
        name=f"{function}-{token}",
        meta=_meta(on_chunk, mask, arrays),
        align_arrays=False,
    )
    return _labels.around(x, y)


def _on_chunk(on_chunk: OnChunk, mask: Mask, where: tuple[slice, ...], *chunks: Any) -> np.ndarray:
    """The task: the result of a chunk, in memory of its own, for nobody can know who else reads the chunk.

    Schedulers give a thread to each chunk, so it does not share its work with others of fastdrop's own.
    """
    with num_threads(1):
        return on_chunk(mask[where], *chunks)


def _with_chunks(other: Any, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Another array, of x's shape or of that of its last dimensions, in the chunks of x."""
    own = chunks[len(chunks) - other.ndim :]
    array: da.Array = other if isinstance(other, da.Array) else da.from_array(other, chunks=own)
    return array if array.chunks == own else array.rechunk(own)


def _meta(on_chunk: OnChunk, mask: Mask, arrays: list[da.Array]) -> np.ndarray:
    """The result for no elements: its dtype and class."""
    metas = [np.asanyarray(array._meta) for array in arrays]
    return on_chunk(mask[tuple(slice(0, n) for n in metas[0].shape)], *metas)


def applied(mask: Mask, x: Any) -> np.ndarray:
    return mask.apply(x)
