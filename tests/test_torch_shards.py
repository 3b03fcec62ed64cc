# SPDX-License-Identifier: BSD-3-Clause
"""Processes that hold slices of a tensor take the same slices of one mask, if they say which they hold."""

import math

import pytest
from torch_helpers import assert_nothing_drawn, assert_same, ft, key_of, normals, torch

from fastdrop.torch import _shards

F = torch.nn.functional
nn = torch.nn


@pytest.fixture(autouse=True)
def _says_nothing_afterwards(monkeypatch):
    monkeypatch.setattr(_shards, "_said", None)


def pieces(total, counts):
    start = 0
    for count in counts:
        yield start, count
        start += count
    assert start == total


@pytest.mark.parametrize("name", ["dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize(("total", "counts"), [(2, (1, 1)), (8, (3, 3, 2)), (4, (1, 1, 1, 1))])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 3, 1)])
def test_slices_of_one_mask(name, dim, total, counts, order):
    x = normals(8, 16, 8, 24)
    function = getattr(ft, name)
    key_of(3)
    whole = function(x, 0.3, training=True)
    size = x.shape[dim] // total
    for start, count in pieces(total, counts):
        part = x.narrow(dim, start * size, count * size)
        back = [order.index(d) for d in range(4)]
        part = part.permute(order).contiguous().permute(back)
        key_of(3)
        with ft.shard(start, total, count=count, dim=dim):
            dropped = function(part.requires_grad_(), 0.3, training=True)
        assert_same(dropped, whole.narrow(dim, start * size, count * size))
        # The backward pass knows its slice, also when the context has ended.
        (dx,) = torch.autograd.grad(dropped.sum(), part)
        if name == "dropout":
            assert torch.equal(dx != 0, dropped != 0)


def test_two_dimensions_at_a_time():
    x = normals(4, 6, 10)
    key_of(1)
    whole = ft.dropout(x)
    for row in range(2):
        for column in range(5):
            with ft.shard(row, 2), ft.shard(column, 5, dim=-1):
                key_of(1)
                part = ft.dropout(x[2 * row : 2 * row + 2, :, 2 * column : 2 * column + 2])
            assert_same(part.contiguous(), whole[2 * row : 2 * row + 2, :, 2 * column : 2 * column + 2].contiguous())


def test_operators_know_the_shards_too():
    x = normals(4, 6)
    key_of(1)
    whole = ft.dropout(x)
    with ft.shard(1, 2):
        key_of(1)
        assert_same(torch.compile(ft.dropout, fullgraph=True, backend="aot_eager")(x[2:]), whole[2:])
        key_of(1)
        batch = torch.vmap(ft.dropout, randomness="same")(torch.stack([x[2:]] * 3))
        assert_same(batch, whole[2:].expand(3, 2, 6).contiguous())
    with ft.shard(1, 2, dim=-1):
        key_of(1)
        batch = torch.vmap(ft.dropout, randomness="same")(torch.stack([x[:, 3:]] * 3))
        assert_same(batch, whole[:, 3:].expand(3, 4, 3).contiguous())


def test_what_was_said_holds_until_it_is_said_anew():
    x = torch.ones(4, 6)
    key_of(1)
    whole = ft.dropout(x)
    ft.shard(1, 2)
    key_of(1)
    assert_same(ft.dropout(x[2:]), whole[2:])
    ft.shard(0, 2)
    key_of(1)
    assert_same(ft.dropout(x[:2]), whole[:2])
    with ft.shard(0, 1):
        key_of(1)
        assert_same(ft.dropout(x), whole)
    key_of(1)
    assert_same(ft.dropout(x[:2]), whole[:2])
    ft.shard(0, 1)
    assert _shards.said() == ()


def test_wrong_shards_are_named_and_nothing_is_drawn():
    state = torch.get_rng_state()
    for arguments, options, kind, words in (
        ((2, 2), {}, ValueError, "start and count must be pieces of a total of 2"),
        ((-1, 2), {}, ValueError, "start must be"),
        ((0, 0), {}, ValueError, "total must be"),
        ((0, 2.0), {}, TypeError, "total must be"),
        ((0, 2), {"count": 0}, ValueError, "count must be"),
        ((0, 2), {"count": 3}, ValueError, "start and count must be"),
        ((0, 2), {"dim": "x"}, TypeError, "dim must be an int"),
    ):
        with pytest.raises(kind, match=words):
            ft.shard(*arguments, **options)
    assert _shards.said() == ()
    x = torch.ones(3, 4)
    with ft.shard(0, 2, dim=5), pytest.raises(ValueError, match="dim must be a dimension"):
        ft.dropout(x)
    with ft.shard(0, 4, count=2), pytest.raises(ValueError, match="count must divide dimension 0"):
        ft.dropout(x)
    with ft.enable(), ft.shard(0, 2, dim=5), pytest.raises(ValueError, match="dim must be a dimension"):
        F.dropout(x)
    with ft.shard(0, 2), ft.shard(0, 2, dim=1), pytest.raises(ValueError, match=r"dim must be one of \[0, 1\]"):
        ft.shard(0, 2, dim=2)
    assert_nothing_drawn(state)


# Processes

BATCH, STEPS = 24, 4


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 16), nn.Dropout(0.5)).double()


def train(rank, processes, path, results, is_sharded):
    """Some steps of a net on the rows of this process; gradients are added up over all processes."""
    with ft.enable():
        if processes > 1:
            torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=processes)
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        size = BATCH // processes
        if is_sharded and processes > 1:
            ft.shard(rank, processes)
        torch.manual_seed(5)
        x = normals(BATCH, 10, dtype=torch.float64)[rank * size : (rank + 1) * size]
        masks = []
        for _ in range(STEPS):
            y = net(x)
            masks.append((y != 0).tolist())
            (y.square().sum() / BATCH).backward()
            for parameter in net.parameters():
                if processes > 1:
                    torch.distributed.all_reduce(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()
        results[rank] = [p.detach().numpy().tolist() for p in net.parameters()], masks
        if processes > 1:
            torch.distributed.destroy_process_group()


def trained(processes, tmp_path, is_sharded=True):
    if processes == 1:
        results = {}
        train(0, 1, None, results, is_sharded)
        return [results[0]]
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        path = tmp_path / f"store {processes} {is_sharded}"
        torch.multiprocessing.spawn(train, (processes, path, results, is_sharded), nprocs=processes)
        return [results[rank] for rank in range(processes)]


@pytest.mark.parametrize("processes", [2, 3])
def test_ranks_that_share_a_mask_learn_what_one_process_does(processes, tmp_path):
    ((expected, masks),) = trained(1, tmp_path)
    for rank, (weights, own_masks) in enumerate(trained(processes, tmp_path)):
        size = BATCH // processes
        assert own_masks == [step[rank * size : (rank + 1) * size] for step in masks]
        for given, wanted in zip(weights, expected, strict=True):
            # Gradients are sums in another order: a few units in the last place of numbers of about 1.
            torch.testing.assert_close(torch.tensor(given), torch.tensor(wanted), rtol=1e-12, atol=1e-13)


def test_ranks_that_say_nothing_draw_different_masks(tmp_path):
    (_, first), (_, second) = trained(2, tmp_path, is_sharded=False)
    assert first != second
    kept = [sum(map(sum, step)) / (BATCH // 2 * 16) for step in (*first, *second)]
    assert math.isclose(sum(kept) / len(kept), 0.5, abs_tol=0.1)
    ((_, alone),) = trained(1, tmp_path)
    assert first == [step[: BATCH // 2] for step in alone]  # those of the first rank are one process's
