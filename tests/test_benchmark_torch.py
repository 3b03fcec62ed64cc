# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks of dropout in PyTorch prove what they measure: what is wrong, or not dropout, is not timed."""

import contextlib
import functools
import importlib

import helpers
import pytest

from benchmarks import measuring

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what PyTorch deprecates of itself
    pytest.mark.skipif(helpers.compiled() is None, reason="the benchmark suite: it measures the compiled core"),
]

P = 0.25


@pytest.fixture
def pytorch(torch):
    module = importlib.import_module("benchmarks.pytorch")
    with module.settings(1):
        yield module


@pytest.fixture
def x(pytorch):
    return pytorch.tensor(1 << 16, "float32", "contiguous").requires_grad_()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dropout_with_the_masks_that_are_due_is_proven(pytorch, dtype):
    x = pytorch.tensor(1 << 12, dtype, "contiguous").requires_grad_()
    pytorch.switch(True)
    pytorch.prove(lambda x: pytorch.F.dropout(x, P), x, P)


@pytest.mark.parametrize("layout", ["channels_last (16, 64, 32, 32)", ".t() of 1024 x 1024"])
def test_layouts_are_proven_and_are_what_their_names_say(pytorch, layout):
    x = pytorch.tensor(1 << 22, "float32", layout)
    assert not x.is_contiguous()
    assert x.is_contiguous(memory_format=pytorch.torch.channels_last) if x.ndim == 4 else x.t().is_contiguous()
    pytorch.prove(lambda x: pytorch.fastdrop.torch.dropout(x, P), x, P)
    with pytest.raises(measuring.WrongResult, match="strides"):
        pytorch.prove(lambda x: pytorch.fastdrop.torch.dropout(x.contiguous(), P), x, P)


def test_what_is_wrong_is_not_proven(pytorch, x):
    own, ours = pytorch.F.dropout, pytorch.fastdrop.torch.dropout
    with pytest.raises(measuring.WrongResult, match="the forward pass"):
        pytorch.prove(lambda x: own(x, P), x, P)  # not enabled
    with pytest.raises(measuring.WrongResult, match="the forward pass"):
        pytorch.prove(lambda x: ours(x, 0.3), x, P)
    with pytest.raises(measuring.WrongResult, match="the backward pass"):
        pytorch.prove(lambda x: ours(x.detach(), P) + 0 * x, x, P)


def test_pytorchs_own_must_be_dropout(pytorch, x):
    pytorch.show(x, P)
    key = pytorch.mask_of(x.shape, P)
    same = pytorch.torch.from_numpy(key.apply(pytorch.as_array(x)))
    for dropout, message in (
        (lambda x, p: x, "what is kept is not"),
        (lambda x, p: x / (1 - p), "are dropped"),
        (lambda x, p: same, "the same mask twice"),
    ):
        with pytest.raises(measuring.WrongResult, match=message):
            pytorch.show(x, P, dropout)


def test_what_is_kept_is_counted(pytorch, x):
    own = functools.partial(pytorch.F.dropout, p=P)
    assert pytorch.saved(own, x) >= x.numel()
    pytorch.switch(True)
    assert pytorch.saved(own, x) == 0
    assert 0 < pytorch.objects(own(x)) < 1000


@pytest.fixture
def small(pytorch, monkeypatch):
    """A step that takes a moment."""
    torch = pytorch.torch
    block = lambda: (pytorch.Block(16, 2), torch.randn(2, 8, 16, requires_grad=True), None)  # noqa: E731
    monkeypatch.setitem(pytorch.MODELS, "small", block)
    return pytorch.Step("small", P, is_compiled=False)


def test_steps_are_proven(small):
    small.prove()


def test_a_step_with_other_masks_is_not_proven(pytorch, small, monkeypatch):
    mask_of = pytorch.mask_of
    monkeypatch.setattr(pytorch, "mask_of", lambda shape, p, key=None: mask_of(shape, 0.3, key))
    with pytest.raises(measuring.WrongResult, match="the step with fastdrop's dropout: tensor 0 is off"):
        small.prove()


def test_each_party_of_a_step_has_its_own_dropout(pytorch, small):
    for party, masks in (("fastdrop", 4), ("PyTorch", 0), ("without dropout", 0)):
        small.use(party)
        with pytorch.recorded() as keys:
            small()
        assert len(keys) == masks
    assert pytorch.torch.equal(small(), small())


def test_settings_are_taken_back(torch):
    pytorch = importlib.import_module("benchmarks.pytorch")
    before, state = torch.get_num_threads(), torch.get_rng_state()
    with contextlib.suppress(KeyboardInterrupt), pytorch.settings(1):
        pytorch.switch(True)
        torch.rand(1)
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not pytorch.fastdrop.torch.is_enabled()
