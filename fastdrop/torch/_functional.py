# SPDX-License-Identifier: BSD-3-Clause
"""The functions: PyTorch's, by its names and with its arguments, and those that are fused with what stands beside."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from fastdrop.torch import _autograd, _masks, _operators
from fastdrop.torch._masks import Numbers

NumbersOf = Callable[[float], Numbers]
_is_tracing = torch._C._is_tracing


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Set random elements to zero and divide the others by ``1 - p``: ``torch.nn.functional.dropout``, faster.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        On the CPU, of any shape and layout.
    p : float
        The probability to drop, from 0 to 1.
    training : bool
        Otherwise ``input`` itself is returned.
    inplace : bool
        Drop in ``input`` itself.
    generator : torch.Generator, optional
        Of the CPU, where the key of the mask comes from. By default it is PyTorch's own, which ``torch.manual_seed``
        sets.

    Returns
    -------
    Tensor
        Of the shape, dtype and layout of ``input``. It is ``input`` itself where nothing is dropped.

    Notes
    -----
    One number is drawn for a mask, from the generator; the elements of the mask follow from it, so that the mask is the
    same for each dtype, layout, machine and number of threads. Only this number is kept for the backward pass.

    What is dropped is 0, also where ``input`` is infinite or no number, which PyTorch on the CPU makes NaN of.

    Examples
    --------
    >>> import torch, fastdrop.torch
    >>> seed = torch.manual_seed(0)
    >>> fastdrop.torch.dropout(torch.ones(8), 0.25)
    tensor([1.3333, 1.3333, 0.0000, 1.3333, 0.0000, 1.3333, 0.0000, 1.3333])
    """
    if has_torch_function_unary(input):
        return _overridden(dropout, input, p, training, inplace, generator)
    return _dropped(torch.nn.functional.dropout, _masks.dropout_numbers, input, p, training, inplace, generator)


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Set random elements to SELU's lower limit and keep mean 0 and variance 1: as ``torch.nn.functional`` does.

    Parameters
    ----------
    input, p, training, inplace, generator
        As for ``dropout``; but ``training`` is False by default, as it is there.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NIPS 2017.
    """
    if has_torch_function_unary(input):
        return _overridden(alpha_dropout, input, p, training, inplace, generator)
    own = torch.nn.functional.alpha_dropout
    return _dropped(own, _masks.alpha_dropout_numbers, input, p, training, inplace, generator)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Drop whole channels of (N, C, L), or of (C, L): as ``torch.nn.functional.dropout1d``.

    Parameters
    ----------
    input, p, training, inplace, generator
        As for ``dropout``.
    """
    if has_torch_function_unary(input):
        return _overridden(dropout1d, input, p, training, inplace, generator)
    _check_first(input, p)
    if input.dim() not in (2, 3):
        raise RuntimeError(f"input must be (N, C, L) or (C, L), got {input.dim()} dimensions")
    own = torch.nn.functional.dropout1d
    return _channels_dropped(own, input, p, training, inplace, generator, has_batch=input.dim() == 3)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Drop whole channels of (N, C, H, W): as ``torch.nn.functional.dropout2d``.

    Parameters
    ----------
    input, p, training, inplace, generator
        As for ``dropout``. As there, (C, H, W) is taken for (N, C, L), with a warning.
    """
    if has_torch_function_unary(input):
        return _overridden(dropout2d, input, p, training, inplace, generator)
    _check_first(input, p)
    if input.dim() not in (3, 4):
        warnings.warn(_unexpected("dropout2d", input, "(N, C, H, W)"), stacklevel=2)
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: an input of 3 dimensions is taken for (N, C, L), as in PyTorch; for (C, H, W) add a batch "
            "dimension",
            stacklevel=2,
        )
    own = torch.nn.functional.dropout2d
    return _channels_dropped(own, input, p, training, inplace, generator, has_batch=True)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Drop whole channels of (N, C, D, H, W), or of (C, D, H, W): as ``torch.nn.functional.dropout3d``.

    Parameters
    ----------
    input, p, training, inplace, generator
        As for ``dropout``.
    """
    if has_torch_function_unary(input):
        return _overridden(dropout3d, input, p, training, inplace, generator)
    _check_first(input, p)
    if input.dim() not in (4, 5):
        warnings.warn(_unexpected("dropout3d", input, "(N, C, D, H, W) or (C, D, H, W)"), stacklevel=2)
    own = torch.nn.functional.dropout3d
    return _channels_dropped(own, input, p, training, inplace, generator, has_batch=input.dim() != 4)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Alpha dropout of whole channels of (N, C, ...): as ``torch.nn.functional.feature_alpha_dropout``.

    Parameters
    ----------
    input, p, training, inplace, generator
        As for ``alpha_dropout``.
    """
    if has_torch_function_unary(input):
        return _overridden(feature_alpha_dropout, input, p, training, inplace, generator)
    own = torch.nn.functional.feature_alpha_dropout
    _check_first(input, p)
    if training and p > 0.0:
        _check_channels(input)
    shared = tuple(range(2, input.dim()))
    return _dropped(own, _masks.alpha_dropout_numbers, input, p, training, inplace, generator, shared)


def drop_path(
    x: Tensor,
    drop_prob: float = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Drop whole samples, the first dimension: stochastic depth, with the arguments of timm's ``drop_path``.

    Parameters
    ----------
    x : Tensor of float16, bfloat16, float32 or float64
        (N, ...), on the CPU.
    drop_prob : float
        The probability to drop a sample.
    training : bool
        Otherwise x itself is returned.
    scale_by_keep : bool
        Divide the samples that are kept by ``1 - drop_prob``.
    generator
        As for ``dropout``.

    References
    ----------
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep networks with stochastic depth", ECCV 2016.
    """
    if has_torch_function_unary(x):
        overridden: Tensor = handle_torch_function(
            drop_path, (x,), x, drop_prob, training=training, scale_by_keep=scale_by_keep, generator=generator
        )
        return overridden
    _check_first(x, drop_prob, "x", "drop_prob")
    if training and x.dim() == 0:
        raise RuntimeError("x must be (N, ...), got no dimension")
    numbers = _masks.dropout_numbers if scale_by_keep else _unscaled
    shared = tuple(range(1, x.dim()))
    return _dropped(None, numbers, x, drop_prob, training, False, generator, shared, names=("x", "drop_prob"))


def relu_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None) -> Tensor:
    """``dropout(relu(input))`` in one pass, of which only the result is kept for the backward pass.

    Parameters
    ----------
    input, p, training, generator
        As for ``dropout``.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(
            relu_dropout, (input,), input, p=p, training=training, generator=generator
        )
        return overridden
    _check(input, p, generator, training)
    if not training or p == 0.0 or input.numel() == 0:
        return torch.relu(input)
    if not torch.compiler.is_compiling() and _autograd.is_plain(input):
        return _autograd.relu_dropped(input, _masks.next_draw(input, p, (), generator), _masks.dropout_numbers(p))
    return dropout(torch.relu(input), p, generator=generator)


def bias_dropout_add(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """``residual + dropout(x + bias)`` in one pass: what ends a block of a transformer, as in Megatron.

    Parameters
    ----------
    x, residual : Tensor of float16, bfloat16, float32 or float64
        On the CPU, of one shape and dtype.
    bias : Tensor or None
        As long as the last dimension of x, and of its dtype.
    p, training, generator
        As for ``dropout``.

    Notes
    -----
    In half precision the sum is rounded once, where the three steps round each.
    """
    tensors = (x, residual) if bias is None else (x, bias, residual)
    if has_torch_function(tensors):
        overridden: Tensor = handle_torch_function(
            bias_dropout_add, tensors, x, bias, residual, p=p, training=training, generator=generator
        )
        return overridden
    _check(x, p, generator, training, name="x")
    for name, tensor, shape in (("residual", residual, x.shape), ("bias", bias, x.shape[-1:])):
        if tensor is not None and (tensor.shape, tensor.dtype, tensor.device) != (shape, x.dtype, x.device):
            raise ValueError(
                f"{name} must be of shape {tuple(shape)}, {x.dtype} and on {x.device}, as x asks for, got "
                f"{tuple(tensor.shape)}, {tensor.dtype} and {tensor.device}"
            )
    if bias is not None and x.dim() == 0:
        raise ValueError("x must have features along its last dimension for a bias, got no dimension")
    is_dropping = training and p > 0.0 and x.numel() > 0
    is_eager = not torch.compiler.is_compiling() and all(_autograd.is_plain(tensor) for tensor in tensors)
    if is_dropping and is_eager:
        draw = _masks.next_draw(x, p, (), generator)
        return _autograd.bias_dropped_add(x, bias, residual, draw, _masks.dropout_numbers(p))
    summed = x if bias is None else x + bias
    return residual + (dropout(summed, p, generator=generator) if is_dropping else summed)


# How each of them is done


def _unscaled(p: float) -> Numbers:
    return Numbers(1.0)


def _overridden(
    function: Callable[..., Tensor],
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    generator: Generator | None,
) -> Tensor:
    result: Tensor = handle_torch_function(
        function, (input,), input, p=p, training=training, inplace=inplace, generator=generator
    )
    return result


def _unexpected(name: str, input: Tensor, expected: str) -> str:
    return f"{name}: input should be {expected}, got {input.dim()} dimensions, of which the second is that of channels"


def _check_channels(input: Tensor) -> None:
    if input.dim() < 2:
        raise RuntimeError(f"input must have a batch and channels, (N, C, ...), got {input.dim()} dimensions")


def _channels_dropped(
    own: Callable[..., Tensor],
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    generator: Generator | None,
    has_batch: bool,
) -> Tensor:
    if training and p > 0.0 and has_batch:
        _check_channels(input)
    shared = tuple(range(2 if has_batch else 1, input.dim()))
    return _dropped(own, _masks.dropout_numbers, input, p, training, inplace, generator, shared)


def _check(
    input: Any,
    p: Any,
    generator: Any,
    training: bool,
    name: str = "input",
    p_name: str = "p",
) -> None:
    """All that can be wrong, before anything is drawn."""
    _check_first(input, p, name, p_name)
    if generator is not None:
        if not isinstance(generator, Generator):
            raise TypeError(f"generator must be a torch.Generator, got a {type(generator).__name__}")
        if generator.device.type != "cpu":
            raise ValueError(f"generator must be one of the CPU, got one of {generator.device}")
    if input.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"{name} must be on the CPU, got a tensor on {input.device}: torch.nn.functional drops there, also where "
            "fastdrop.torch.enable() was called"
        )
    if input.layout is not torch.strided or input.is_nested:
        kind = "nested" if input.is_nested else str(input.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a strided tensor, got a {kind} one: torch.nn.functional may know how to drop")
    if training and input.dtype not in _masks.DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _masks.DTYPES)
        raise TypeError(f"{name} must be of {allowed}, got {input.dtype}")


def _check_first(input: Any, p: Any, name: str = "input", p_name: str = "p") -> None:
    """What is looked at before the dimensions are."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} must be a Tensor, got a {type(input).__name__}")
    _check_p(p, p_name)


def _check_p(p: Any, name: str) -> None:
    try:
        is_probability = 0.0 <= p <= 1.0
    except TypeError:
        raise TypeError(f"{name} must be a number from 0 to 1, got {p!r} of type {type(p).__name__}") from None
    if not is_probability:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {p}")


def _dropped(
    own: Callable[..., Tensor] | None,
    numbers_of: NumbersOf,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    generator: Generator | None,
    shared: tuple[int, ...] = (),
    names: tuple[str, str] = ("input", "p"),
) -> Tensor:
    """Dropout in the way that suits the tensor. ``own`` is PyTorch's function of this name, if it has one."""
    is_eager = not torch.compiler.is_compiling() and _autograd.is_plain(input)
    if not is_eager or generator is not None:  # else there is less to check
        _check(input, p, generator, training, *names)
    else:
        _check_p(p, names[1])
    if not training or p == 0.0 or input.numel() == 0:
        return input
    is_exported = _is_tracing() if is_eager else torch.compiler.is_exporting()
    if is_exported and own is not None and generator is None:
        return own(input, p, training, inplace)  # which the graph holds, to be run where fastdrop is not
    if is_eager:
        return _autograd.drop(input, float(p), numbers_of, shared, inplace, generator)
    is_beside = generator is not None and torch.compiler.is_compiling()
    draw = _draw_of(input, p, generator) if is_beside else _operators.fresh_draw(input, p, generator)
    y = _operators.dropout(input, draw, p, numbers_of(p), shared)
    return input.copy_(y) if inplace else y


@torch.compiler.disable
def _draw_of(input: Tensor, p: float, generator: Generator | None) -> Tensor:
    """A draw from a generator, which compiled code cannot hold."""
    return _operators.as_tensor(_masks.next_draw(input, p, (), generator))
