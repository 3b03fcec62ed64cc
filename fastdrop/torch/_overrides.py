# SPDX-License-Identifier: BSD-3-Clause
"""Every dropout of CPU tensors in the process, without a change in the model.

PyTorch's operators are replaced where it looks them up for tensors of the CPU. So whatever ends in one of them is
reached: modules, functions, attention, the layers between those of an LSTM, and what is written in C++.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch._C import DispatchKey

from fastdrop.torch import _autograd, _compiled, _library, _masks, _operators
from fastdrop.torch._masks import Numbers

Function: TypeAlias = Callable[[Tensor, float, bool], Tensor]

_registered: torch.library.Library | None = None


class enable:
    """Let fastdrop do every dropout of CPU tensors in this process, from now on.

    To call it twice is to call it once. As a context manager it holds for the block. Tensors of other devices, of
    integers or complex numbers and sparse ones are left to PyTorch, and so is all within the transformations of
    ``torch.func``. What ``torch.compile`` has compiled is compiled anew for it, when it is called next.

    Raises
    ------
    RuntimeError
        Where PyTorch is older than what fastdrop was tested with.

    Examples
    --------
    >>> import torch, fastdrop.torch
    >>> with fastdrop.torch.enable():
    ...     y = torch.nn.functional.dropout(torch.ones(4, 4))
    >>> fastdrop.torch.is_enabled()
    False
    """

    def __init__(self) -> None:
        self._was_enabled = is_enabled()
        if not self._was_enabled:
            _library.check_release()
            _register()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._was_enabled:
            disable()


def disable() -> None:
    """Give all dropout back to PyTorch."""
    global _registered
    if _registered is not None:
        _registered._destroy()
        _registered = None
        _compiled.switched(False, _FUNCTIONS)


def is_enabled() -> bool:
    """Whether fastdrop does the dropout of CPU tensors."""
    return _registered is not None


def _register() -> None:
    global _registered
    library = torch.library.Library("aten", "IMPL")
    for name, function in _FUNCTIONS.items():
        # Without derivatives, as in inference mode, and with them.
        for key in ("CPU", "AutogradCPU"):
            library.impl(name, function, key)
    with warnings.catch_warnings():  # PyTorch warns of the first kernel of its own that is replaced
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        library.impl("native_dropout", _native_dropout, "CPU", allow_override=True)
    _registered = library
    _compiled.switched(True, _FUNCTIONS)


def _pytorchs(packet: Any) -> Function:
    """What PyTorch itself does for an operator that is made of others."""
    operator = packet.default

    def function(input: Tensor, p: float, train: bool) -> Tensor:
        result: Tensor = operator._op_dk(DispatchKey.CompositeImplicitAutograd, input, p, train)
        return result

    return function


def _is_watched(x: Tensor) -> bool:
    """Whether x stands for a tensor, for someone who compiles, or a mode sees what is done with it."""
    if isinstance(x, (torch._subclasses.FakeTensor, torch._subclasses.functional_tensor.FunctionalTensor)):
        return x.dtype in _masks.DTYPES and x.device.type == "cpu"
    return _autograd.is_plain(x, are_modes_allowed=True)


def _dropped(pytorchs: Function, numbers_of: Callable[[float], Numbers], inplace: bool, has_features: bool) -> Function:
    def function(input: Tensor, p: float, train: bool) -> Tensor:
        if not train or not 0.0 < p <= 1.0 or (has_features and input.dim() < 2) or input.numel() == 0:
            return pytorchs(input, p, train)
        shared = tuple(range(2, input.dim())) if has_features else ()
        if _autograd.is_plain(input):
            return _autograd.drop(input, p, numbers_of, shared, inplace)
        if _is_watched(input):
            y = _operators.dropout(input, _operators.fresh_draw(input, p), p, numbers_of(p), shared)
            return input.copy_(y) if inplace else y
        return pytorchs(input, p, train)

    return function


_FUNCTIONS = {
    name + ("_" if inplace else ""): _dropped(
        _pytorchs(getattr(torch.ops.aten, name + ("_" if inplace else ""))), numbers_of, inplace, has_features
    )
    for name, numbers_of, has_features in (
        ("dropout", _masks.dropout_numbers, False),
        ("feature_dropout", _masks.dropout_numbers, True),
        ("alpha_dropout", _masks.alpha_dropout_numbers, False),
        ("feature_alpha_dropout", _masks.alpha_dropout_numbers, True),
    )
    for inplace in (False, True)
}


def _native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Dropout that gives its mask too, by which PyTorch differentiates it."""
    if train is False:
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    mask = torch.empty_like(input, dtype=torch.bool)
    if not 0.0 < p < 1.0 or input.numel() == 0 or not _autograd.is_plain(input):
        mask.bernoulli_(1.0 - p)
        return input.mul(mask).mul_(_masks.dropout_numbers(p).scale), mask
    draw = _masks.next_draw(input, p)
    return _masks.apply(draw, _masks.dropout_numbers(p), input), mask.copy_(_masks.keep(draw, input))
