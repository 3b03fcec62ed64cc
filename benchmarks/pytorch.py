# SPDX-License-Identifier: BSD-3-Clause
"""What test_torch.py measures: tensors, the oracle of their masks, models, and what is kept for a backward pass.

Only who measures with PyTorch imports it, because PyTorch takes seconds to import and starts threads.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastdrop
import fastdrop.torch
from benchmarks.measuring import WrongResult, kept, numbers, same_bits
from fastdrop import _backend
from fastdrop._tools.arrays import bfloat16_dtype

KEYS = (1 << 63) - 1  # below it are the keys that PyTorch's generator gives
SEED = 7


@contextlib.contextmanager
def settings(threads: int) -> Iterator[None]:
    """So many threads, PyTorch's own dropout and a seed; afterwards all as it was."""
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    # Attention without dropout would take a fused kernel, and with it does not: what is compared with is what is left
    # of the same step.
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        try:
            yield
        finally:
            fastdrop.torch.disable()
            torch.set_num_threads(before)
            torch.set_rng_state(state)


def switch(is_fastdrop: bool) -> None:
    """Who does the dropout of ``torch.nn.functional`` from here on."""
    if is_fastdrop:
        fastdrop.torch.enable()
    else:
        fastdrop.torch.disable()


# Tensors

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last (16, 64, 32, 32)": lambda x: x.view(16, 32, 32, 64).permute(0, 3, 1, 2),
    ".t() of 1024 x 1024": lambda x: x.view(1024, 1024).t(),
}


def tensor(nbytes: int, dtype: str, layout: str, seed: int = 0) -> Tensor:
    """A new tensor of normal numbers."""
    flat = torch.from_numpy(numbers(4 * (nbytes // getattr(torch, dtype).itemsize), seed=seed))
    return LAYOUTS[layout](flat.to(getattr(torch, dtype)))


def as_array(x: Tensor) -> np.ndarray:
    """The elements, with NumPy's dtypes, in C order."""
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy().view(bfloat16_dtype()) if x.dtype is torch.bfloat16 else x.numpy()


def mask_of(shape: Sequence[int], p: float, key: int | None = None) -> fastdrop.DropoutMask:
    """The mask that is due: by a key, or by PyTorch's generator."""
    key = int(torch.randint(KEYS, (1,))) if key is None else key
    return fastdrop.DropoutMask(tuple(shape), p, key=key)


def prove(call: Callable[[Tensor], Tensor], x: Tensor, p: float) -> None:
    """Show that a call gives the bits of the reference and the layout of x, and so does its backward pass."""
    torch.manual_seed(SEED)
    mask = mask_of(x.shape, p)
    torch.manual_seed(SEED)
    y = call(x)
    with _backend._using("reference"):
        same_bits(as_array(y), mask.apply(as_array(x)), "the forward pass")
        if y.stride() != x.stride():
            raise WrongResult(f"strides {y.stride()} in place of {x.stride()}")
        if x.requires_grad:
            (dx,) = torch.autograd.grad(y, x, x.detach())
            same_bits(as_array(dx), mask.apply(as_array(x)), "the backward pass")


def prove_compiled(call: Callable[[Tensor], Tensor], x: Tensor, p: float) -> None:
    """The same of compiled code, which draws its keys in a way of its own: by the one that it draws."""
    call(x)  # and compile it
    with recorded() as keys:
        y = call(x)
    if len(keys) != 1:
        raise WrongResult(f"a compiled dropout has drawn {len(keys)} masks")
    mask = mask_of(x.shape, p, keys[0])
    (dx,) = torch.autograd.grad(y, x, x.detach())
    with _backend._using("reference"):
        same_bits(as_array(y), mask.apply(as_array(x)), "the forward pass")
        same_bits(as_array(dx), mask.apply(as_array(x)), "the backward pass")


def show(x: Tensor, p: float, dropout: Callable[[Tensor, float], Tensor] = F.dropout) -> None:
    """That PyTorch does dropout: it drops as often as p says, scales what it keeps, and does not do the same twice."""
    y, again = (dropout(x, p).detach() for _ in range(2))
    x = x.detach()
    dropped = (y == 0) & (x != 0)
    rounding = 4 * torch.finfo(x.dtype).eps
    if not torch.allclose(y[~dropped].double(), x[~dropped].double() / (1 - p), rtol=rounding, atol=rounding**2):
        raise WrongResult(f"PyTorch: what is kept is not x / {1 - p}")
    share = dropped.double().mean().item()
    deviation = abs(share - p) / (p * (1 - p) / x.numel()) ** 0.5
    if deviation > 5:
        raise WrongResult(f"PyTorch: {share} are dropped, {deviation:.1f} standard deviations from {p}")
    if torch.equal(y, again):
        raise WrongResult("PyTorch: the same mask twice")


def dropout(x: Tensor, p: float) -> Tensor:
    """To be compiled."""
    return F.dropout(x, p)


# What is kept


def saved(call: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that a dropout of x keeps for its backward pass in tensors.

    They are those that autograd's hooks see, but for x and the result, which others keep anyhow.
    """
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = call(x)
    return sum(nbytes for at, nbytes in found.items() if at not in (x.data_ptr(), y.data_ptr()))


def objects(y: Tensor) -> int:
    """Bytes that the node of a result keeps in objects of Python: its attributes, where it is written in Python."""
    return kept(*getattr(y.grad_fn, "__dict__", {}).values())


# Training steps: forward and backward. Without an optimizer, so that the weights are the same in all rounds.


class Block(nn.Module):
    """A pre-norm transformer block, written out: dropout of attention, within the MLP and in front of both sums."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(), nn.Linear(4 * width, width), nn.Dropout()
        )
        self.of_attention, self.of_sum = nn.Dropout(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        mixed = (self.of_attention(attention) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.of_sum(self.project(mixed))
        return x + self.mlp(self.norms[1](x))


def block() -> tuple[nn.Module, Tensor, Tensor | None]:
    return Block(256, 8), torch.randn(16, 128, 256, requires_grad=True), None


def encoder_layer() -> tuple[nn.Module, Tensor, Tensor | None]:
    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    return layer, torch.randn(4, 128, 768, requires_grad=True), None


def mlp() -> tuple[nn.Module, Tensor, Tensor | None]:
    layers = [
        *(nn.Linear(784, 1024), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout()),
        nn.Linear(1024, 10),
    ]
    return nn.Sequential(*layers), torch.randn(512, 784), torch.randint(10, (512,))


# A model, its input, and its classes; where there are none, a gradient comes from above.
MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor | None]]] = {
    "pre-norm block 16 x 128 x 256": block,
    "encoder layer 4 x 128 x 768": encoder_layer,
    "MLP 784-1024-1024-10, batch 512": mlp,
}

PARTIES = ("fastdrop", "PyTorch", "without dropout")


class Step:
    """A training step of one model, with fastdrop's dropout, with PyTorch's and with none.

    All of them have the same weights. ``use`` says whose turn it is, and ``__call__`` is the step.
    """

    def __init__(self, model: str, p: float, is_compiled: bool) -> None:
        torch.manual_seed(SEED)
        self.model, self.x, self.classes = MODELS[model]()
        self.p, self.is_compiled = p, is_compiled
        self.dy = torch.randn_like(self.x)
        # What is compiled while fastdrop is enabled and what is not are the same to torch.compile, which keeps what it
        # has made with the code: so each has code of its own.
        self.forwards = {party: torch.compile(copied(_forward)) if is_compiled else _forward for party in PARTIES}
        self.use("fastdrop")

    def use(self, party: str) -> None:
        self.forward = self.forwards[party]
        switch(party == "fastdrop")
        p = 0.0 if party == "without dropout" else self.p
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = p
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = p

    def __call__(self) -> Tensor:
        self.model.zero_grad()
        self.x.grad = None
        y = self.forward(self.model, self.x)
        if self.classes is None:
            y.backward(self.dy)
        else:
            F.cross_entropy(y, self.classes).backward()
        return y

    def outcome(self, seed: int = SEED) -> list[Tensor]:
        """The output and all gradients."""
        torch.manual_seed(seed)
        y = self().detach()
        leaves = [self.x, *self.model.parameters()]
        return [y, *(leaf.grad.clone() for leaf in leaves if leaf.grad is not None)]

    def prove(self) -> None:
        """Show that a step is what it is with the masks that are due, multiplied in the plain way.

        Compiled code draws its keys in a way of its own, so there they are taken from those that it draws.
        """
        self.use("fastdrop")
        self()  # and compile it
        with recorded() as keys:
            got = self.outcome()
        if self.is_compiled and not keys:
            raise WrongResult("the compiled step does not call fastdrop's dropout")
        self.use("PyTorch")
        self.forward = _forward
        with by_the_oracle(keys if self.is_compiled else ()):
            expected = self.outcome()
        _same_to_rounding(got, expected, "the step with fastdrop's dropout")
        self._prove_the_others()

    def _prove_the_others(self) -> None:
        self.use("PyTorch")
        with recorded() as keys:
            once, again = self.outcome(1), self.outcome(2)
        if keys:
            raise WrongResult("the step with PyTorch's dropout calls fastdrop's")
        if not all(map(_is_finite, once)) or all(map(torch.equal, once, again)):
            raise WrongResult("the step with PyTorch's dropout drops nothing")
        self.use("without dropout")
        got = self.outcome(1)
        self.forward = _forward
        _same_to_rounding(got, self.outcome(2), "the step without dropout")


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def copied(function: types.FunctionType) -> types.FunctionType:
    """The function once more, with code of its own."""
    return types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _is_finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


def _same_to_rounding(got: list[Tensor], expected: list[Tensor], of: str) -> None:
    """Sums of thousands of products differ in their order, where compiled or shared between threads otherwise."""
    for number, (one, other) in enumerate(zip(got, expected, strict=True)):
        error = (one - other).abs().max() / other.abs().max()
        if not error < 1e-4:
            raise WrongResult(f"{of}: tensor {number} is off by {error:.2g} of its largest element")


@contextlib.contextmanager
def recorded() -> Iterator[list[int]]:
    """The keys of the masks that are applied meanwhile, each once, in the order of their first use."""
    from fastdrop.torch import _masks

    keys: dict[int, None] = {}
    apply = _masks.apply

    @functools.wraps(apply)
    def recording(draw, *args, **kwargs):
        keys[draw.key] = None
        return apply(draw, *args, **kwargs)

    found: list[int] = []
    _masks.apply = recording
    try:
        yield found
    finally:
        _masks.apply = apply
        found += keys


@contextlib.contextmanager
def by_the_oracle(keys: Sequence[int] = ()) -> Iterator[None]:
    """Have PyTorch's dropout done by masks of the reference, and by PyTorch's own product with its derivative.

    The masks have these keys, one after the other; without any, keys come from PyTorch's generator.
    """
    waiting = list(keys)

    def dropout(input: Tensor, p: float, train: bool) -> Tensor:
        if not train or p == 0.0:
            return input
        with _backend._using("reference"):
            keep = np.asarray(mask_of(input.shape, p, waiting.pop(0) if keys else None))
        return torch.where(torch.from_numpy(keep), input * (1.0 / (1.0 - p)), 0.0)

    library = torch.library.Library("aten", "IMPL")
    for key in ("CPU", "AutogradCPU"):
        library.impl("dropout", dropout, key)
    try:
        yield
    finally:
        library._destroy()
    if waiting:
        raise WrongResult(f"{len(waiting)} masks more than there are dropouts")
