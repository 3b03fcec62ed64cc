# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout: a net that is not trained, and draws all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fastdrop import _streams
from fastdrop._streams import RNG

# Whether a module trains is the module's, and the random state the process's: one thread at a time can change them.
_lock = threading.RLock()


@contextmanager
def stochastic(*modules: nn.Module, rng: RNG = None) -> Iterator[None]:
    """A context in which nets drop as in training, and do nothing else as in training.

    All modules inside are set to train, also those that ask themselves whether they do, such as ``nn.LSTM`` and
    ``nn.MultiheadAttention``, but for the norms with statistics of batches (``nn.BatchNorm1d`` and its like), which
    stay as they are. Behind the block each module is as it was before.

    Parameters
    ----------
    *modules : torch.nn.Module
        At least one.
    rng : any that ``fastdrop.dropout`` takes, optional
        What PyTorch's random state is seeded from inside: the same ``rng`` gives the same masks. Behind the block the
        state is what it was before. Without it the masks are the next ones of that state.

    Notes
    -----
    It is one thread's at a time: another that enters such a context waits until the first has left its own. PyTorch
    shares the work of one pass among threads itself; passes side by side need processes, or a Dask cluster.

    Examples
    --------
    >>> import torch, fastdrop, fastdrop.torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(100, 1)).eval()
    >>> @torch.no_grad()
    ... def f(x, stream):
    ...     with fastdrop.torch.stochastic(net, rng=stream):
    ...         return net(x).numpy()
    >>> prediction = fastdrop.mc_predict(f, torch.ones(3, 100), 50, rng=7)
    >>> prediction.variance.shape
    (3, 1)
    """
    if not modules:
        raise ValueError("modules must be at least one module, got none")
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules must be modules of PyTorch, got {module!r} of type {type(module).__name__}")
    source = None if rng is None else _streams.source(rng)
    with _lock:
        before = {inner: inner.training for module in modules for inner in module.modules()}
        seed = None if source is None else _streams.fold_in(*source.next_draw())
        generator = torch.default_generator
        state = None if seed is None else generator.get_state()
        try:
            for inner, trains in before.items():
                inner.training = trains or not isinstance(inner, _NormBase)
            if seed is not None:
                generator.manual_seed(seed)
            yield
        finally:
            for inner, trains in before.items():
                inner.training = trains
            if state is not None:
                generator.set_state(state)
