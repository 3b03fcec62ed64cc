# SPDX-License-Identifier: BSD-3-Clause
"""Dropout in compiled code: whole graphs, masks of their own, and the operators that are in place when it is called."""

import subprocess
import sys

import helpers
import pytest
from torch_helpers import assert_same, defined, ft, imported, kept, key_of, normals, torch

from fastdrop.torch import _compiled

F = torch.nn.functional
# PyTorch scripts some functions when its compiler is first imported, and warns that this is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]
imported("torch._inductor.compile_fx")


@pytest.fixture(autouse=True)
def _compiles_anew():
    torch._dynamo.reset()
    yield
    ft.disable()


def both(function, *inputs, backend="inductor"):
    """A function's result and gradients as it stands, and compiled, from the same random numbers."""
    with torch._inductor.config.patch(fallback_random=True):  # else compiled code has random numbers of its own
        results = []
        for call in (function, torch.compile(function, fullgraph=True, backend=backend)):
            torch.manual_seed(3)
            y = call(*inputs)
            results.append((y.detach(), *torch.autograd.grad(y.sum(), inputs)))
    return results


@pytest.mark.parametrize("is_enabled", [False, True])
def test_compiled_code_drops_as_eager_code_does(is_enabled):
    functional = F if is_enabled else ft

    def model(x, w):
        h = functional.dropout(torch.tanh(x @ w), 0.3)
        h = functional.alpha_dropout(h, 0.2, training=True) + functional.dropout(x, 0.5)
        return (
            h
            + functional.feature_alpha_dropout(x.view(8, 4, 4), 0.5, True).view(8, 16)
            + functional.dropout(x * 2, 0.3, inplace=True)
        )

    x, w = normals(8, 16).requires_grad_(), normals(16, 16).requires_grad_()
    with ft.enable() if is_enabled else torch.enable_grad():
        eager, compiled = both(model, x, w)
    for expected, given in zip(eager, compiled, strict=True):
        # The same masks; sums and products of the compiled code are in another order.
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(given == 0, expected == 0)


@pytest.mark.parametrize("function", [ft.dropout2d, ft.drop_path, ft.relu_dropout], ids=lambda f: f.__name__)
def test_other_functions_compile_too(function):
    x = normals(3, 4, 5, 6).requires_grad_()
    eager, compiled = both(lambda t: function(t, 0.4, training=True), x, backend="aot_eager")
    for expected, given in zip(eager, compiled, strict=True):
        assert_same(given, expected)
    eager, compiled = both(lambda t: ft.bias_dropout_add(t, t[0, 0, 0], t, 0.4), x, backend="aot_eager")
    torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)  # the gradient of the bias is a sum


def test_each_dropout_of_a_graph_has_a_mask_of_its_own():
    """They differ in nothing but their random numbers, so a compiler might take one for the other."""

    def twice(x):
        return F.dropout(x, 0.5) + 2 * F.dropout(x, 0.5)

    x = torch.ones(400)
    with ft.enable():
        compiled = torch.compile(twice, fullgraph=True)
        first, second = compiled(x), compiled(x)
    assert set(first.unique().tolist()) == {0.0, 2.0, 4.0, 6.0}
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    with ft.enable():
        first = compiled(x)
        torch.manual_seed(1)
        assert_same(compiled(x), first)


@pytest.mark.parametrize("own_numbers", [False, True], ids=["PyTorch's numbers", "the compiler's numbers"])
def test_a_compiled_checkpoint_draws_the_same_mask_again(own_numbers):
    w = normals(16, 16).requires_grad_()

    def block(t):
        return torch.utils.checkpoint.checkpoint(lambda t: F.dropout((t @ w).sin(), 0.5), t, use_reentrant=False)

    x = normals(200, 16).requires_grad_()
    with ft.enable(), torch._inductor.config.patch(fallback_random=not own_numbers):
        y = torch.compile(block, fullgraph=True)(x)
        (dw,) = torch.autograd.grad(y.sum(), w)
    # The gradient by the mask that the result shows, in another order of additions.
    factor = torch.where(y.detach() != 0, 2.0, 0.0)
    expected = x.detach().t() @ (factor * torch.cos(x.detach() @ w.detach()))
    torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4)
    assert 0.3 < (y != 0).float().mean() < 0.7


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which the checks look at
def test_operators_pass_pytorchs_checks():
    draw = torch.ops.fastdrop.draw(torch.tensor([7]))
    for x in (
        normals(6, 7).requires_grad_(),
        normals(7, 6).t(),
        normals(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ):
        for rest in ((0.5, 2.0), (0.2, 0.9, 0.3, -1.0), (0.5, 2.0, 0.0, 0.0, [1])):
            results = torch.library.opcheck(torch.ops.fastdrop.dropout.default, (x, draw, *rest))
            assert set(results.values()) == {"SUCCESS"}
    assert set(torch.library.opcheck(torch.ops.fastdrop.draw.default, (torch.tensor([7]),)).values()) == {"SUCCESS"}
    key = 2**63 - 5
    x = normals(50)
    y = torch.ops.fastdrop.dropout(x, torch.ops.fastdrop.draw(torch.tensor([key])), 0.3, 1 / 0.7)
    assert_same(y, defined("dropout", x, p=0.3, key=key))


def test_compiled_code_follows_enable_and_disable(monkeypatch):
    applied = []
    helpers.watch_torch_masks(monkeypatch, applied.append)

    def model(x):
        return F.dropout(x, 0.5).sin()

    def masks(call):
        applied.clear()
        call(torch.ones(64))
        return len(applied)

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    before = torch.compile(model, fullgraph=True, backend=counter)
    assert masks(before) == 0
    ft.enable()
    later = torch.compile(model, fullgraph=True, backend=counter)
    assert (masks(later), masks(before)) == (1, 1)
    ft.disable()
    assert (masks(later), masks(before)) == (0, 0)
    compiled = counter.frame_count
    for _ in range(3):
        with ft.enable():
            assert (masks(later), masks(before)) == (1, 1)
        assert (masks(later), masks(before)) == (0, 0)
    assert counter.frame_count == compiled or not _compiled._is_guarded


def test_code_that_was_compiled_to_the_disk_is_not_taken_for_the_other(tmp_path):
    code = """
import sys, warnings
warnings.simplefilter("ignore")
import helpers, pytest, torch, fastdrop.torch as ft
if sys.argv[1] == "on":
    ft.enable()
applied = []
helpers.watch_torch_masks(pytest.MonkeyPatch(), applied.append)
torch.compile(lambda x: torch.nn.functional.dropout(x, 0.5).sin(), fullgraph=True)(torch.ones(64))
print(len(applied))
"""
    for argument, masks in (("off", 0), ("on", 1), ("off", 0), ("on", 1)):
        environment = helpers.environment() | {
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": str(helpers.TESTS),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, argument], env=environment, capture_output=True, text=True, timeout=300
        )
        assert (done.stdout, done.returncode) == (f"{masks}\n", 0), done.stderr


def test_a_generator_draws_beside_the_graph():
    x = torch.ones(50)
    generator = torch.Generator().manual_seed(3)
    expected = ft.dropout(x, generator=torch.Generator().manual_seed(3))
    assert_same(torch.compile(lambda t: ft.dropout(t, generator=generator), backend="aot_eager")(x), expected)


@pytest.mark.parametrize("function", [ft.dropout, ft.alpha_dropout], ids=lambda f: f.__name__)
def test_p_may_change_from_call_to_call(function):
    x = normals(200)
    compiled = torch.compile(lambda t, p: function(t, p, True), fullgraph=True, backend="aot_eager")
    for p in (0.1, 0.2, 0.3, 0.7, 0.9):
        key = key_of(1)
        assert_same(compiled(x, p), defined(function.__name__, x, p=p, key=key))


def test_vmap_within_compiled_code():
    def batch(x):
        return torch.vmap(ft.dropout, randomness="different")(x)

    y = torch.compile(batch, fullgraph=True, backend="aot_eager")(torch.ones(3, 100))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row.tolist()) for row in y}) == 3


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("module", [torch.nn.Dropout, ft.Dropout], ids=["nn", "ours"])
def test_an_exported_graph_has_pytorchs_operator(module, strict):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), module(0.5)).train()
    with ft.enable():
        program = torch.export.export(model, (torch.ones(2, 4),), strict=strict)
        assert torch.ops.aten.dropout.default in {node.target for node in program.graph.nodes}
        key = key_of(1)
        y = program.module()(torch.ones(2, 4))
    assert torch.equal(y != 0, kept((2, 4), 0.5, key) != 0)
