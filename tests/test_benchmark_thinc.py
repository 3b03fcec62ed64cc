# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks of thinc and spaCy prove what they measure: what is wrong, or no dropout, is not timed."""

import importlib

import helpers
import numpy as np
import pytest
from thinc_helpers import ft, thinc

from benchmarks import measuring

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what thinc says of others
    pytest.mark.skipif(helpers.compiled() is None, reason="the benchmark suite: it measures the compiled core"),
]
RATE = 0.1


@pytest.fixture
def cases(monkeypatch):
    """The module of the benchmarks, with a net that takes a moment."""
    module = importlib.import_module("benchmarks.test_thinc")

    def small(rate):
        thinc.fix_random_seed(1)
        layers = thinc.HashEmbed(16, 40, column=0, seed=1, dropout=rate), thinc.Relu(16, dropout=rate), thinc.Softmax()
        model = thinc.chain(*layers)
        X, Y = np.arange(64, dtype=np.uint64).reshape(32, 2), np.eye(4, dtype="f")[np.arange(32) % 4]
        model.initialize(X, Y)
        optimizer = thinc.Adam(0.01)

        def call():
            Yh, backprop = model.begin_update(X)
            backprop(Yh - Y)
            model.finish_update(optimizer)

        return module.Step(call, [model], X.nbytes)

    monkeypatch.setitem(module.MAKERS, "small", small)
    return module


def in_turn(make, what, bounds=(), **options):
    turn = make()
    assert what["client"] in turn.references
    for call in (turn.case, *turn.references.values()):
        call()
    turn.proof()


def test_all_cases_are_proven(cases):
    cases.test_mask(in_turn, thinc, 4, RATE)
    cases.test_forward_and_backward(in_turn, thinc, 4, RATE)
    cases.prove("small", RATE)


def test_other_masks_are_not_proven(cases, monkeypatch):
    next_mask = ft._next_mask
    monkeypatch.setattr(ft, "_next_mask", lambda shape, rate: next_mask(shape, rate)[::-1])
    with pytest.raises(measuring.WrongResult, match="the mask"):
        cases.test_mask(in_turn, thinc, 4, RATE)
    with pytest.raises(measuring.WrongResult, match="the forward pass"):
        cases.test_forward_and_backward(in_turn, thinc, 4, RATE)


def test_a_step_with_other_masks_is_not_proven(cases, monkeypatch):
    monkeypatch.setattr(ft, "forward", lambda model, X, is_train: (X, lambda dY: dY))
    with pytest.raises(measuring.WrongResult, match="small: the weights"):
        cases.prove("small", RATE)


def test_a_thinc_that_does_not_drop_is_not_proven(cases, monkeypatch):
    monkeypatch.setattr(thinc.Ops, "get_dropout_mask", lambda ops, shape, drop: np.ones(shape, np.float32))
    with pytest.raises(measuring.WrongResult, match="small: thinc and without dropout end with the same weights"):
        cases.prove("small", RATE)


def test_a_replacement_that_replaces_nothing_is_not_proven(cases, monkeypatch):
    monkeypatch.setattr(ft, "replace_dropout", lambda model: 0)
    with pytest.raises(measuring.WrongResult, match="small: the weights"):
        cases.prove("small", RATE)
