# SPDX-License-Identifier: BSD-3-Clause
"""Dropout for PyTorch gives the masks of the reference, with PyTorch's meaning of every name, and right gradients."""

import copy
import itertools
import multiprocessing
import threading
import warnings
from functools import partial

import helpers
import numpy as np
import pytest
import torch_helpers
from torch_helpers import DTYPES, assert_nothing_drawn, assert_same, defined, ft, key_of, keys_of, normals, torch

F = torch.nn.functional
nn = torch.nn
RATES = (0.1, 0.5)

# By the name in both libraries: an input's shape, and the function and options of the NumPy package that define it.
FUNCTIONS = {
    "dropout": ((4, 5, 6), "dropout", {}),
    "alpha_dropout": ((4, 5, 6), "alpha_dropout", {}),
    "dropout1d": ((4, 5, 6), "dropout", {"shared_axes": 2}),
    "dropout2d": ((4, 5, 3, 6), "dropout", {"shared_axes": (2, 3)}),
    "dropout3d": ((4, 5, 3, 2, 6), "dropout", {"shared_axes": (2, 3, 4)}),
    "feature_alpha_dropout": ((4, 5, 3, 6), "feature_alpha_dropout", {}),
}
MODULES = {
    "Dropout": "dropout",
    "Dropout1d": "dropout1d",
    "Dropout2d": "dropout2d",
    "Dropout3d": "dropout3d",
    "AlphaDropout": "alpha_dropout",
    "FeatureAlphaDropout": "feature_alpha_dropout",
}
named = pytest.mark.parametrize("name", FUNCTIONS)
typed = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _is_off_afterwards():
    yield
    was_enabled = ft.is_enabled()
    ft.disable()
    assert not was_enabled


def count_masks(monkeypatch, call):
    """How many masks of ours are applied in a call."""
    applied = []
    with monkeypatch.context() as patch:
        helpers.watch_torch_masks(patch, applied.append)
        call()
    return len(applied)


# The masks


@named
@typed
@pytest.mark.parametrize("p", [*RATES, 1.0])
def test_functions_are_what_the_reference_defines(name, dtype, p):
    shape, numpys, options = FUNCTIONS[name]
    x = normals(*shape, dtype=dtype)
    key = key_of(3) if p < 1 else 0
    assert_same(getattr(ft, name)(x, p, training=True), defined(numpys, x, p=p, key=key, **options))


@typed
@pytest.mark.parametrize("shape", [(), (1,), (1023,), (3, 1, 5), (2, 2000)], ids=str)
def test_any_shape_and_dtype_has_the_mask_of_the_reference(dtype, shape):
    for p in RATES:
        x = normals(*shape, dtype=dtype)
        key = key_of(1)
        assert_same(ft.dropout(x, p), defined("dropout", x, p=p, key=key))


def layouts():
    x = normals(6, 5, 8, 9)
    yield "contiguous", x
    yield "channels_last", x.to(memory_format=torch.channels_last)
    for order in ((3, 1, 0, 2), (1, 0, 3, 2), (3, 2, 1, 0), (0, 2, 1, 3)):
        back = tuple(int(i) for i in np.argsort(order))
        yield f"permuted {order}", x.permute(order).contiguous().permute(back)
    yield "every other row", torch.empty(12, 5, 8, 9)[::2].copy_(x)
    yield "every other column", torch.empty(6, 5, 8, 18)[..., ::2].copy_(x)
    yield "unaligned", torch.frombuffer(bytearray(1 + x.nbytes), dtype=torch.float32, offset=1).view_as(x).copy_(x)
    yield "negative", torch.complex(torch.zeros_like(x), -x).conj().imag


@pytest.mark.parametrize(("layout", "x"), [pytest.param(*row, id=row[0]) for row in layouts()])
def test_the_mask_does_not_depend_on_the_layout(layout, x):
    for name, (p, inplace) in itertools.product(("dropout", "alpha_dropout", "dropout2d"), ((0.3, False), (0.5, True))):
        function = getattr(ft, name)
        key_of(5)
        expected = function(x.clone(memory_format=torch.contiguous_format), p, training=True)
        key_of(5)
        given = x.clone().copy_(x) if layout == "negative" else copy.deepcopy(x)
        y = function(given, p, training=True, inplace=inplace)
        assert_same(y, expected)
        assert (y is given) == inplace
        if not inplace:
            assert y.stride() == getattr(F, name)(x, p, training=True).stride()


def test_expanded_tensors_have_decisions_of_their_own():
    x = torch.ones(5, 1).expand(5, 400)
    key_of(2)
    y = ft.dropout(x)
    key_of(2)
    assert_same(y, ft.dropout(x.contiguous()))
    assert len({tuple(row) for row in (y != 0).T.tolist()}) > 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "dims"), [((1100, 1000), None), ((1000, 1100), (1, 0)), ((8, 64, 48, 50), (0, 2, 3, 1))]
)
def test_large_tensors_on_any_number_of_threads(threads, shape, dims):
    before = torch.get_num_threads()
    x = normals(*shape) if dims is None else normals(*(shape[d] for d in dims)).permute(*np.argsort(dims).tolist())
    assert x.shape == shape
    assert x.numel() > 1 << 20
    torch.set_num_threads(threads)
    try:
        for name, numpys in (("dropout", "dropout"), ("alpha_dropout", "alpha_dropout")):
            key = key_of(9)
            assert_same(getattr(ft, name)(x, 0.3, training=True), defined(numpys, x, p=0.3, key=key))
    finally:
        torch.set_num_threads(before)


def test_what_is_dropped_is_zero_whatever_it_was():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0] * 50)
    for p in (0.5, 1.0):
        y = ft.dropout(x, p)
        dropped = ~torch_helpers.kept(x.shape, p, 0).bool() if p == 1 else y == 0
        assert dropped.any()
        assert not torch.signbit(y[dropped]).any()
        assert torch.equal(y[dropped], torch.zeros(int(dropped.sum())))


@named
def test_where_nothing_is_dropped_it_is_the_same_tensor_and_nothing_is_drawn(name):
    function, x = getattr(ft, name), normals(*FUNCTIONS[name][0])
    state = torch.get_rng_state()
    for y in (function(x, 0.0, training=True), function(x, 0.5, training=False)):
        assert y is x
    empty = x[:0]
    assert function(empty, 0.5, training=True) is empty
    function(x, 1.0, training=True)
    assert_nothing_drawn(state)


def test_drop_path_drops_samples():
    x = torch.ones(400, 2, 3)
    key = key_of(4)
    y = ft.drop_path(x, 0.25, training=True)
    keep = torch_helpers.kept((400, 1, 1), 0.25, key)
    assert_same(y, (x * keep).contiguous())
    key_of(4)
    assert_same(ft.drop_path(x, 0.25, True, scale_by_keep=False), (keep != 0).float().expand(400, 2, 3).contiguous())
    assert ft.drop_path(x, 0.25) is x  # as in timm, where training is False unless it is said


@typed
def test_fused_functions_are_their_steps_rounded_once(dtype):
    x, residual, bias = (
        normals(7, 50, dtype=dtype),
        normals(7, 50, dtype=dtype, seed=1),
        normals(50, dtype=dtype, seed=2),
    )
    key = key_of(1)
    assert_same(ft.relu_dropout(x, 0.3), defined("relu_dropout", x, p=0.3, key=key))
    key = key_of(1)
    expected = torch_helpers.tensor(
        helpers.fastdrop.bias_dropout_add(
            *map(torch_helpers.array, (x, bias, residual)), 0.3, rng=helpers.fastdrop.PhiloxStream.from_key(key)
        )
    )
    assert_same(ft.bias_dropout_add(x, bias, residual, 0.3), expected)
    key = key_of(1)
    assert_same(ft.bias_dropout_add(x, None, residual, 0.3), defined("dropout_add", x, residual, p=0.3, key=key))
    few = x[:, :3].contiguous()
    key_of(1)
    y = ft.bias_dropout_add(few.double(), bias[:3].double(), residual[:, :3].double(), 0.3)
    key_of(1)
    assert_same(y, residual[:, :3].double() + ft.dropout(few.double() + bias[:3].double(), 0.3))
    assert_same(ft.bias_dropout_add(x, bias, residual, training=False), residual + (x + bias))
    assert_same(ft.relu_dropout(x, training=False), torch.relu(x))


def test_dimensions_are_taken_as_pytorch_takes_them():
    x = torch.ones(5, 6)
    key_of(1)
    y = ft.dropout1d(x)  # (C, L)
    key_of(1)
    assert_same(y, ft.dropout1d(x[None])[0])
    for shape in ((4,), (2, 3, 4, 5)):
        with pytest.raises(RuntimeError, match="input must be"):
            ft.dropout1d(torch.ones(shape))
    with pytest.warns(UserWarning, match="3 dimensions"):
        ft.dropout2d(torch.ones(2, 3, 4))
    with pytest.warns(UserWarning, match="should be"), pytest.raises(RuntimeError, match="a batch and channels"):
        ft.dropout2d(torch.ones(4))
    key_of(1)
    y = ft.dropout3d(torch.ones(50, 2, 3, 4))  # (C, D, H, W)
    assert all(len(channel.unique()) == 1 for channel in y)
    with pytest.raises(RuntimeError, match="a batch and channels"):
        ft.feature_alpha_dropout(torch.ones(4), training=True)


# Gradients


def differentiable():
    for name, (shape, *_) in FUNCTIONS.items():
        small = tuple(min(n, 3) for n in shape)
        function = partial(getattr(ft, name), p=0.4, training=True)
        yield name, small, function
        yield f"{name} in place", small, lambda x, function=function: function(x * 1, inplace=True)
    yield "drop_path", (6, 4), lambda x: ft.drop_path(x, 0.4, True)
    yield "relu_dropout", (6, 4), lambda x: ft.relu_dropout(x, 0.4)
    yield "bias_dropout_add", (6, 4), lambda x: ft.bias_dropout_add(x, x[0] * 2, x * 3, 0.4)
    yield "without bias", (6, 4), lambda x: ft.bias_dropout_add(x, None, x * 3, 0.4)
    yield "transposed", (6, 4), lambda x: ft.dropout(x.t(), 0.4)
    yield "expanded", (4,), lambda x: ft.dropout(x.expand(6, 4), 0.4)


@pytest.fixture(scope="module")
def forward_mode():
    """PyTorch's forward mode, imported: it scripts functions then, and warns that this is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.forward_ad.dual_level():
            torch.autograd.forward_ad.make_dual(torch.ones(1), torch.ones(1))


@pytest.mark.parametrize(("shape", "function"), [pytest.param(*row[1:], id=row[0]) for row in differentiable()])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore:dropout2d")
def test_gradients_of_every_order_and_mode(shape, function, forward_mode):
    def seeded(x):
        torch.manual_seed(5)
        return function(x)

    x = normals(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(seeded, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(seeded, x, check_fwd_over_rev=True, check_batched_grad=True)


@typed
def test_the_gradient_goes_where_elements_were_kept(dtype):
    x = normals(40, 30, dtype=dtype).requires_grad_()
    key = key_of(1)
    y = ft.dropout(x, 0.3)
    for grad in (normals(40, 30, dtype=dtype, seed=1), normals(30, 40, dtype=dtype).t(), torch.ones((), dtype=dtype)):
        grad = grad.expand(40, 30)
        (dx,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        assert_same(dx, defined("dropout", grad, p=0.3, key=key))


@named
def test_for_the_backward_pass_a_few_numbers_are_kept(name):
    kept = []
    x = normals(*FUNCTIONS[name][0]).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        y = getattr(ft, name)(x, 0.3, training=True)
    assert sum(kept) == 0
    draw, numbers = y.grad_fn.draw, y.grad_fn.numbers
    assert 8 * len([draw.key, draw.p, *draw.shared, *draw.shards, *numbers]) < 100


def test_in_place_is_seen_by_autograd():
    leaf = torch.ones(5, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        ft.dropout(leaf, inplace=True)
    x = torch.ones(50)
    version = x._version
    assert ft.dropout(x, inplace=True) is x
    assert x._version > version
    x = leaf * 1
    squared = x * x
    ft.dropout(x, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()
    base = torch.ones(4, 6, requires_grad=True) * 1
    ft.dropout(base[1], inplace=True)
    (grad,) = torch.autograd.grad(base.sum(), base)
    assert torch.equal(grad, torch.ones(4, 6))
    with pytest.raises(RuntimeError, match="single memory location"):
        ft.dropout(torch.ones(5, 1).expand(5, 4), inplace=True)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_checkpoint_draws_the_same_mask_again(reentrant, is_enabled):
    linear, x = nn.Linear(8, 8), normals(6, 8).requires_grad_()
    drop = F.dropout if is_enabled else ft.dropout
    results = []
    with ft.enable() if is_enabled else warnings.catch_warnings():
        for checkpoint in (True, False):
            torch.manual_seed(3)
            block = lambda t: drop(linear(t), 0.5).sin()  # noqa: E731
            y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant) if checkpoint else block(x)
            x.grad = None
            y.sum().backward()
            results.append((y.detach(), x.grad))
    for ours, expected in zip(*results, strict=True):
        assert_same(ours, expected)


# torch.func


def test_vmap_takes_its_randomness():
    x = torch.ones(4, 200)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(ft.dropout)(x)
    key = key_of(1)
    same = torch.vmap(ft.dropout, randomness="same")(x)
    assert_same(same, defined("dropout", x[0], p=0.5, key=key).expand(4, 200).contiguous())
    different = torch.vmap(ft.dropout, randomness="different")(x)
    assert len({tuple(row.tolist()) for row in different}) == 4
    shared = torch.vmap(ft.dropout2d, randomness="different")(torch.ones(3, 2, 50, 4, 4))
    assert set(shared.mean((3, 4)).unique().tolist()) == {0.0, 2.0}
    from_outside = torch.vmap(lambda i: ft.dropout(torch.ones(100)) * i, randomness="different")(torch.ones(3))
    assert len({tuple(row.tolist()) for row in from_outside}) == 3
    behind = torch.vmap(ft.alpha_dropout, in_dims=1, randomness="same")
    assert behind(torch.ones(3, 5)).shape == (5, 3)


def test_vmap_takes_a_generator():
    x = torch.ones(4, 200)
    keys = torch.randint(0, torch_helpers.KEYS, (4, 1), generator=torch.Generator().manual_seed(1)).flatten().tolist()
    generator = torch.Generator().manual_seed(1)
    state = torch.get_rng_state()
    y = torch.vmap(lambda t: ft.dropout(t, generator=generator), randomness="different")(x)
    assert_same(y, torch.stack([defined("dropout", x[0], p=0.5, key=key) for key in keys]))
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda t: ft.dropout(t, generator=generator))(x)
    assert_nothing_drawn(state)


def test_nested_vmaps_take_their_randomness_each():
    x = torch.ones(2, 3, 100)
    for outer, inner, masks in (("different", "different", 6), ("different", "same", 2), ("same", "different", 3)):
        y = torch.vmap(torch.vmap(ft.dropout, randomness=inner), randomness=outer)(x)
        assert len({tuple(row) for row in y.reshape(6, 100).tolist()}) == masks


def test_transformations_differentiate(forward_mode):
    x = normals(30)
    torch.manual_seed(1)
    y = ft.dropout(x.clone())
    factor = torch.where(y != 0, 2.0, 0.0)
    for transformed in (
        lambda: torch.func.grad(lambda t: ft.dropout(t).sum())(x),
        lambda: torch.func.jvp(ft.dropout, (x,), (torch.ones(30),))[1],
        lambda: torch.func.vjp(ft.dropout, x)[1](torch.ones(30))[0],
        lambda: torch.func.jacrev(ft.dropout)(x).diagonal(),
        lambda: torch.func.jacfwd(ft.dropout, randomness="same")(x).diagonal(),
        lambda: (
            torch.func.jacfwd(torch.func.grad(lambda t: ft.dropout(t * t).sum()), randomness="same")(x).diagonal() / 2
        ),
        lambda: torch.vmap(torch.func.grad(lambda t: ft.dropout(t).sum()), randomness="same")(x[None])[0],
    ):
        torch.manual_seed(1)
        assert_same(transformed().contiguous(), factor)


def test_under_transformations_pytorchs_own_runs_where_it_is_enabled(monkeypatch):
    with ft.enable():
        x = torch.ones(3, 50)
        calls = (
            lambda: torch.vmap(F.dropout, randomness="different")(x),
            lambda: torch.func.grad(lambda t: F.dropout(t).sum())(x),
        )
        assert [count_masks(monkeypatch, call) for call in calls] == [0, 0]


# Seeds


def test_masks_follow_pytorchs_seed():
    x = torch.ones(100)
    torch.manual_seed(7)
    first, second = ft.dropout(x), ft.dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert_same(ft.dropout(x), first)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        ft.dropout(x)
    assert_same(ft.dropout(x), second)
    torch.set_rng_state(state)
    assert_same(ft.dropout(x), first)
    generator = torch.Generator().manual_seed(7)
    before = torch.get_rng_state()
    for function, expected in ((ft.dropout, first), (ft.dropout, second)):
        assert_same(function(x, generator=generator), expected)
    assert_nothing_drawn(before)


@named
def test_every_function_takes_a_generator(name):
    x = normals(*FUNCTIONS[name][0])
    torch.manual_seed(3)
    expected = getattr(ft, name)(x, 0.3, training=True)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    assert_same(getattr(ft, name)(x, 0.3, training=True, generator=generator), expected)
    assert_nothing_drawn(state)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_workers_of_a_loader_draw_what_the_seed_says(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not a way to start processes here")
    epochs = []
    for seed in (5, 5, 6):
        loader = torch.utils.data.DataLoader(
            torch_helpers.Dropped(),
            batch_size=1,
            num_workers=2,
            multiprocessing_context=method,
            generator=torch.Generator().manual_seed(seed),
        )
        epochs.append(torch.cat(list(loader)))
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    assert len({tuple(row.tolist()) for row in epochs[0]}) == 4  # workers differ


def test_threads_that_call_at_once_each_get_a_mask():
    x = torch.ones(64)
    torch.manual_seed(1)
    expected = {tuple(ft.dropout(x).tolist()) for _ in range(400)}
    torch.manual_seed(1)
    seen = []

    def draw():
        mine = [tuple(ft.dropout(x).tolist()) for _ in range(100)]
        seen.extend(mine)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 400
    assert set(seen) == expected


# enable()


def models():
    x = normals(4, 6, 8)
    for name, (shape, *_) in FUNCTIONS.items():
        call = partial(getattr(F, name), normals(*shape), 0.3, training=True)
        yield f"F.{name}", call, 1
        yield f"F.{name} in place", partial(call, inplace=True), 1
    for name, function in MODULES.items():
        yield f"nn.{name}", partial(getattr(nn, name)(0.3), normals(*FUNCTIONS[function][0])), 1
    yield "torch.dropout", lambda: torch.dropout(x, 0.3, True), 1
    yield "torch.native_dropout", lambda: torch.native_dropout(x, 0.3, True), 1
    attention = nn.MultiheadAttention(8, 2, dropout=0.3)
    yield "MultiheadAttention", lambda: attention(x, x, x), 1
    yield "MultiheadAttention without weights", lambda: attention(x, x, x, need_weights=False), 1
    yield "attention", lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3), 1
    lstm, gru = nn.LSTM(8, 8, 3, dropout=0.3), nn.GRU(8, 8, 2, dropout=0.3)
    yield "LSTM", lambda: lstm(x), 2
    yield "GRU", lambda: gru(x), 1
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3)
    yield "TransformerEncoderLayer", lambda: encoder(x), 4
    decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.3)
    yield "TransformerDecoderLayer", lambda: decoder(x, x), 6
    yield "within inference_mode", lambda: torch.inference_mode()(F.dropout)(x), 1
    yield "within no_grad", lambda: torch.no_grad()(F.dropout)(x), 1
    yield "in place within inference_mode", lambda: torch.inference_mode()(F.dropout)(x.clone(), inplace=True), 1
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
    yield "a nested tensor", lambda: F.dropout(nested), 1
    yield "eval", lambda: F.dropout(x, training=False), 0
    yield "rate 0", lambda: F.dropout(x, 0.0), 0


@pytest.mark.parametrize(("call", "masks"), [pytest.param(*row[1:], id=row[0]) for row in models()])
def test_one_line_reaches_every_dropout_of_a_model(monkeypatch, call, masks):
    assert count_masks(monkeypatch, call) == 0
    with ft.enable():
        assert count_masks(monkeypatch, call) == masks
    assert count_masks(monkeypatch, call) == 0


@named
@typed
def test_enabled_functions_are_those_of_these_names(name, dtype):
    x = normals(*FUNCTIONS[name][0], dtype=dtype).requires_grad_()
    for p in (0.3, 1.0):
        results = []
        for function in (getattr(ft, name), getattr(F, name)):
            torch.manual_seed(1)
            with ft.enable():
                y = function(x, p, training=True)
            results.append((y, *torch.autograd.grad(y.sum(), x)))
        for ours, enabled in zip(*results, strict=True):
            assert_same(ours, enabled)


def test_native_dropout_gives_its_mask():
    for x in (normals(20, 30), normals(4, 5, 6, 7).to(memory_format=torch.channels_last)):
        x.requires_grad_()
        key = key_of(1)
        with ft.enable():
            y, mask = torch.native_dropout(x, 0.3, True)
        assert_same(y, defined("dropout", x, p=0.3, key=key))
        assert torch.equal(mask, torch_helpers.kept(x.shape, 0.3, key) != 0)
        assert mask.stride() == x.stride()
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(dx != 0, mask)
    with ft.enable():
        for train, p in ((False, 0.5), (True, 0.0), (True, 1.0), (None, 1.0)):
            y, mask = torch.native_dropout(normals(9), p, train)
            assert mask.all() == (p < 1.0)
            assert (y != 0).all() == (p < 1.0)


def test_twice_is_once():
    ft.enable()
    ft.enable()
    with ft.enable():
        pass
    assert ft.is_enabled()
    ft.disable()
    assert not ft.is_enabled()
    ft.disable()
    with pytest.raises(KeyError), ft.enable():
        raise KeyError
    assert not ft.is_enabled()


def outcome(call):
    torch.manual_seed(0)
    try:
        return call()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(5),
        torch.ones(5, dtype=torch.bool),
        torch.ones(5, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
    ],
    ids=["ints", "bools", "complex", "sparse", "meta"],
)
@pytest.mark.parametrize("p", [0.5, 0.0, 1.5])
def test_what_is_not_ours_is_left_to_pytorch(monkeypatch, x, p):
    for function in (F.dropout, torch.dropout):
        expected = outcome(lambda: function(x, p, True))  # noqa: B023
        with ft.enable():
            given = []
            assert count_masks(monkeypatch, lambda: given.append(outcome(lambda: function(x, p, True)))) == 0  # noqa: B023
        assert type(given[0]) is type(expected)
        if isinstance(expected, str):
            assert given[0] == expected
        elif x.device.type != "meta":
            torch.testing.assert_close(given[0], expected, rtol=0, atol=0)


def test_an_old_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.1.2+cpu")
    with pytest.raises(RuntimeError, match=r"needs PyTorch 2\.\d+ or newer, got 2\.1\.2\+cpu"):
        ft.enable()
    assert not ft.is_enabled()


def test_a_trace_records_pytorchs_operator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, which deprecates its tracer
        for function in (ft.dropout, F.dropout):
            with ft.enable():
                traced = torch.jit.trace(function, torch.ones(5), check_trace=False)
            assert "aten::dropout" in str(traced.graph)


def test_a_subclass_stays_one():
    class Named(torch.Tensor):
        pass

    x = torch.ones(5).as_subclass(Named)
    assert type(ft.dropout(x)) is Named
    with ft.enable():
        assert type(F.dropout(x)) is Named


# PyTorch's own samples


def samples():
    common = torch_helpers.imported("torch.testing._internal.common_methods_invocations")
    wanted = [op for op in common.op_db if "dropout" in op.name and op.name.removeprefix("nn.functional.") in FUNCTIONS]
    assert len(wanted) >= 5
    for op in wanted:
        yield pytest.param(op, id=op.formatted_name)


@pytest.mark.parametrize("op", list(samples()))
@typed
@pytest.mark.filterwarnings("ignore:dropout")
def test_pytorchs_sample_inputs(op, dtype):
    name = op.name.removeprefix("nn.functional.")
    if dtype not in op.supported_dtypes("cpu"):
        pytest.skip(f"PyTorch has no samples of {op.formatted_name} in {dtype}")
    own, ours = getattr(F, name), getattr(ft, name)
    seen = 0
    for sample, inplace, apart in itertools.product(op.sample_inputs("cpu", dtype, requires_grad=True), (0, 1), (0, 1)):
        x = sample.noncontiguous().input if apart else sample.input
        options = dict(sample.kwargs) | {"inplace": bool(inplace)}
        p = sample.args[0] if sample.args else options.pop("p", 0.5)
        results = []
        for function in (ours, own):
            torch.manual_seed(2)
            with ft.enable():
                y = function(x * 1 if inplace else x, p, **options)
            (dx,) = torch.autograd.grad(y.sum(), x)
            results += [y, dx]
        y, dx = results[:2]
        for ours_too, enabled in zip((y, dx), results[2:], strict=True):
            assert_same(ours_too, enabled)
        if name == "dropout" and options.get("training", True) and x.numel() > 0:
            keep = torch_helpers.kept(x.shape, p, key_of(2) if p < 1 else 0) != 0
            assert torch.equal(dx != 0, keep)
            scaled = x.detach().to(torch.float64) / (1 - p) if p < 1 else x.detach()
            # Rounded to the arithmetic type and then to the dtype, where this is rounded once.
            tolerance = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(y[keep].double(), scaled[keep].double(), rtol=tolerance, atol=0)
            assert not y[~keep].any()
        seen += 1
    assert seen > 0


# Who watches


def test_a_mode_that_watches_sees_the_same_mask():
    counter = torch_helpers.imported("torch.utils.flop_counter").FlopCounterMode(display=False)
    x = normals(400)
    for name, options in (("dropout", {}), ("alpha_dropout", {}), ("dropout", {"inplace": True})):
        results = []
        for watching in (counter, torch.enable_grad()):
            torch.manual_seed(1)
            with ft.enable(), watching:
                results.append(getattr(F, name)(x.clone(), 0.3, True, **options))
        assert_same(*results)


def test_meta_tensors_have_no_mask():
    state = torch.get_rng_state()
    for x in (torch.ones(3, 4, 5, device="meta"), torch.ones(3, 4, 5, device="meta", requires_grad=True)):
        for name in ("dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout", "relu_dropout"):
            y = getattr(ft, name)(x, 0.5, training=True)
            assert (y.device.type, y.shape, y.requires_grad) == ("meta", x.shape, x.requires_grad)
    assert_nothing_drawn(state)


# Modules, and what is wrong


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_those_of_pytorch(name):
    ours, own = getattr(ft, name)(0.3), getattr(nn, name)(0.3)
    assert isinstance(ours, getattr(nn, name))
    assert (repr(ours), ours.state_dict()) == (repr(own), own.state_dict())
    x = normals(*FUNCTIONS[MODULES[name]][0])
    torch.manual_seed(1)
    y = ours(x)
    torch.manual_seed(1)
    assert_same(y, getattr(ft, MODULES[name])(x, 0.3, training=True))
    assert ours.eval()(x) is x


def test_drop_path_module():
    layer = ft.DropPath(0.25)
    x = torch.ones(20, 3)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    assert_same(y, ft.drop_path(x, 0.25, True))
    assert repr(layer) == "DropPath(drop_prob=0.250)"
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="drop_prob must be a probability"):
        ft.DropPath(1.5)


@pytest.mark.parametrize("name", [*FUNCTIONS, "relu_dropout", "drop_path"])
def test_wrong_arguments_are_named_and_nothing_is_drawn(name):
    function = getattr(ft, name)
    x = normals(*FUNCTIONS.get(name, [(4, 5)])[0])
    given, p_name = ("x", "drop_prob") if name == "drop_path" else ("input", "p")
    state = torch.get_rng_state()
    for p, kind in ((-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("0.5", TypeError)):
        with pytest.raises(kind, match=f"^{p_name} must be"):
            function(x, p, training=True)
    wrong = (x.long(), x.to(torch.complex64), x.bool(), x.to_sparse())
    for tensor in wrong:
        with pytest.raises(TypeError, match=f"^{given} must be"):
            function(tensor, 0.5, training=True)
    with pytest.raises(TypeError, match=r"^generator must be a torch\.Generator, got a int"):
        function(x, 0.5, training=True, generator=7)
    assert_nothing_drawn(state)


@pytest.mark.parametrize("name", [*FUNCTIONS, "relu_dropout"])
def test_what_is_no_tensor_is_refused_by_name(name):
    with pytest.raises(TypeError, match=r"^input must be a Tensor, got a ndarray"):
        getattr(ft, name)(np.ones((3, 3, 3)))


def test_operands_must_fit():
    x = torch.ones(3, 4)
    state = torch.get_rng_state()
    for bias, residual, name in (
        (torch.ones(3), x, "bias"),
        (torch.ones(4).double(), x, "bias"),
        (None, torch.ones(4), "residual"),
        (None, x.half(), "residual"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be of shape"):
            ft.bias_dropout_add(x, bias, residual)
    with pytest.raises(ValueError, match="last dimension for a bias"):
        ft.bias_dropout_add(torch.ones(()), torch.ones(()), torch.ones(()))
    assert_nothing_drawn(state)


def test_two_masks_have_two_keys():
    first, second = keys_of(1, 2)
    x = torch.ones(500)
    assert_same(ft.dropout(x), defined("dropout", x, p=0.5, key=first))
    assert_same(ft.dropout(x), defined("dropout", x, p=0.5, key=second))
