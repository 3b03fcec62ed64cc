# SPDX-License-Identifier: BSD-3-Clause
"""The types that users' tools see. mypy reads this file where it lints the package; pytest runs it."""

from typing import Any, assert_type

import numpy as np
import pytest

import fastdrop
from fastdrop import (
    RNG,
    AlphaMask,
    BlockMask,
    DropoutMask,
    GateMasks,
    GaussianMask,
    Prediction,
    RecurrentMasks,
    StepMasks,
)

X = np.ones((2, 3, 4, 5), np.float32)
ROWS = np.ones((6, 4), np.float32)


def test_without_return_mask_there_is_an_array() -> None:
    assert_type(fastdrop.dropout(X, 0.1, shared_axes=(0, 1), mode="downscale_in_infer"), np.ndarray)
    assert_type(fastdrop.dropout(X, noise_shape=(None, 1, 1, 5), return_mask=False), np.ndarray)
    assert_type(fastdrop.dropout1d(ROWS, 0.1, data_format="channels_last"), np.ndarray)
    assert_type(fastdrop.dropout2d(X, keep_prob=0.9, training=False), np.ndarray)
    assert_type(fastdrop.dropout3d(X, rng=np.random.default_rng(1)), np.ndarray)
    assert_type(fastdrop.drop_block2d(X, 0.1, 3, data_format="channels_last"), np.ndarray)
    assert_type(fastdrop.drop_path(X, 0.1, out=X), np.ndarray)
    assert_type(fastdrop.dropconnect(weights=ROWS, rate=0.1), np.ndarray)
    assert_type(fastdrop.embedding_dropout(table=ROWS, rng=fastdrop.PhiloxStream(1)), np.ndarray)
    assert_type(fastdrop.alpha_dropout([1.0, 2.0]), np.ndarray)
    assert_type(fastdrop.feature_alpha_dropout(X, rng=np.random.SeedSequence(1)), np.ndarray)
    assert_type(fastdrop.gaussian_dropout(X, 0.1, return_mask=False), np.ndarray)
    assert_type(fastdrop.gaussian_noise(X, 0.1, out=None), np.ndarray)
    assert_type(fastdrop.dropout_add(X, residual=X), np.ndarray)
    assert_type(fastdrop.bias_dropout_add(X, X[0, 0, 0], X, 0.1), np.ndarray)
    assert_type(fastdrop.relu_dropout(X, rate=0), np.ndarray)
    assert_type(fastdrop.zoneout(X, old=X, rng=None), np.ndarray)


def test_with_return_mask_there_is_the_mask_of_its_kind_too() -> None:
    pairs = (
        assert_type(fastdrop.dropout(X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.dropout1d(ROWS, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.dropout2d(X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.dropout3d(X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.drop_path(X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.dropconnect(ROWS, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.embedding_dropout(ROWS, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.dropout_add(X, X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.bias_dropout_add(ROWS, ROWS[0], ROWS, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.relu_dropout(X, return_mask=True), tuple[np.ndarray, DropoutMask]),
        assert_type(fastdrop.zoneout(X, X, return_mask=True), tuple[np.ndarray, DropoutMask]),
    )
    assert [(type(y), type(mask)) for y, mask in pairs] == [(np.ndarray, DropoutMask)] * 11
    y, mask = assert_type(fastdrop.drop_block2d(X, return_mask=True), tuple[np.ndarray, BlockMask])
    assert (type(y), type(mask)) == (np.ndarray, BlockMask)
    alpha = (
        assert_type(fastdrop.alpha_dropout(X, return_mask=True), tuple[np.ndarray, AlphaMask]),
        assert_type(fastdrop.feature_alpha_dropout(X, return_mask=True), tuple[np.ndarray, AlphaMask]),
    )
    assert [(type(y), type(mask)) for y, mask in alpha] == [(np.ndarray, AlphaMask)] * 2
    gaussian = (
        assert_type(fastdrop.gaussian_dropout(X, return_mask=True), tuple[np.ndarray, GaussianMask]),
        assert_type(fastdrop.gaussian_noise(X, 0.1, return_mask=True), tuple[np.ndarray, GaussianMask]),
    )
    assert [(type(y), type(mask)) for y, mask in gaussian] == [(np.ndarray, GaussianMask)] * 2


def test_masks_and_backward_functions() -> None:
    mask = fastdrop.DropoutMask((6, 4), 0.5, key=1, scale=1.0)
    assert_type(mask.apply(ROWS), np.ndarray)
    assert_type(mask.backward(ROWS, out=ROWS), np.ndarray)
    assert_type(mask[1:, 2], DropoutMask)
    assert_type(fastdrop.AlphaMask(3, 0.5, key=1)[1:], AlphaMask)
    assert_type(fastdrop.BlockMask((3, 4, 5), 0.5, key=1)[1:], BlockMask)
    assert_type(fastdrop.GaussianMask(3, 0.5, key=1).backward([1.0, 2.0, 3.0]), np.ndarray)
    assert_type(fastdrop.dropout_add_backward(ROWS, mask), tuple[np.ndarray, np.ndarray])
    assert_type(fastdrop.bias_dropout_add_backward(ROWS, mask), tuple[np.ndarray, np.ndarray, np.ndarray])
    assert_type(fastdrop.relu_dropout_backward(ROWS, ROWS, mask), np.ndarray)
    assert_type(fastdrop.zoneout_backward(ROWS, mask), tuple[np.ndarray, np.ndarray])


def test_whatever_a_public_call_returns_has_a_public_type() -> None:
    masks = assert_type(fastdrop.RecurrentDropout(0.5, rng=1).draw(2, 3, 4), RecurrentMasks)
    assert_type(masks.input, GateMasks)
    assert_type(masks.state.apply(np.ones((2, 4))), np.ndarray)
    wrapper = fastdrop.DropoutWrapper(lambda x, state: (x, state), 0.5, rng=1)
    wrapper(ROWS, ROWS)
    assert_type(wrapper.masks, StepMasks | None)
    layer = fastdrop.Dropout(0.5, always=True)
    assert_type(layer.mask, DropoutMask | Any)
    assert_type(fastdrop.DropBlock2d(0.1, 3).mask, BlockMask | Any)
    assert_type(fastdrop.SpatialDropout1D(0.5).mask, DropoutMask | Any)
    assert_type(fastdrop.AlphaDropout(0.5).mask, AlphaMask | Any)
    assert_type(fastdrop.GaussianNoise(0.5).mask, GaussianMask | Any)
    assert_type(fastdrop.mc_predict(layer, ROWS, 3), Prediction)

    def seeded(rng: RNG) -> fastdrop.Dropout:
        return fastdrop.Dropout(rng=rng)

    assert seeded(None).rng.key != seeded(7).rng.key == seeded(np.random.SeedSequence(7)).rng.key


def test_a_tool_finds_mistakes() -> None:
    """Each of these lines has an error that mypy sees: it reports an ignore that it did not need."""
    with pytest.raises(TypeError, match="rate"):
        fastdrop.drop_path(X, "0.5")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="noise_shape"):
        fastdrop.relu_dropout(X, noise_shape=None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="keep_prob"):
        fastdrop.gaussian_noise(X, 0.1, keep_prob=0.5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="stddev"):
        fastdrop.gaussian_noise(X)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="residual"):
        fastdrop.dropout_add(X)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="data_format"):
        fastdrop.dropout2d(X, data_format="NCHW")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="mode"):
        fastdrop.dropout(X, mode="downscale")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="rng"):
        fastdrop.relu_dropout(X, rng="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="out"):
        fastdrop.zoneout(X, X, out=[1.0])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="mask"):
        fastdrop.dropout_add_backward(X, GaussianMask(3, 0.5, key=1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional"):
        fastdrop.dropout(X, 0.5, True)  # type: ignore[call-overload]
