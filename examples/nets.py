# SPDX-License-Identifier: BSD-3-Clause
"""What the examples share: an LSTM with back-propagation through time, an Embedding, a Dense layer, and Adam.

Only what they need, in NumPy, to be read. The dropout itself is fastdrop's.

Sequences lie with time first, (time, batch, features), so that a step is one block of memory. A layer keeps its arrays
in ``parameters``, by name; ``backward`` leaves the gradients in ``gradients``, by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastdrop import LSTMState, RecurrentMasks

Array: TypeAlias = npt.NDArray[np.floating]

GATES = ("input", "forget", "output", "candidate")


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), of any size of x without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def glorot(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Uniform weights, of a spread that keeps the variance from layer to layer.

    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
    The last two lengths of the shape are those of the input and of the output.
    """
    limit = np.sqrt(6.0 / (shape[-2] + shape[-1]))
    return rng.uniform(-limit, limit, shape).astype(dtype)


class LSTMCell:
    """One step of an LSTM: ``y, state = cell(x, state)``.

    S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), with the forget gate of
    F. Gers, J. Schmidhuber and F. Cummins, "Learning to forget", Neural Computation 12 (2000), whose bias begins at 1.

    Parameters
    ----------
    features, units : int
        How long the input and the output of one step of one sequence are.
    rng : numpy.random.Generator
        Where the weights come from.
    dtype : float32 or float64
        Of the weights, and so of all that follows; float64 for checks of gradients.

    Attributes
    ----------
    parameters : dict of ndarray
        ``w`` of shape (4, features, units) for the input, ``u`` of shape (4, units, units) for the state, ``b`` of
        shape (4, 1, units). The first axis is that of GATES.
    """

    def __init__(
        self, features: int, units: int, *, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.features, self.units = features, units
        bias = np.zeros((len(GATES), 1, units), dtype)
        bias[GATES.index("forget")] = 1.0
        self.parameters = {
            "w": glorot(rng, (len(GATES), features, units), dtype),
            "u": np.stack([np.linalg.qr(rng.standard_normal((units, units)))[0] for _ in GATES]).astype(dtype),
            "b": bias,
        }

    def zero_state(self, batch: int) -> LSTMState:
        """What a sequence begins with: arrays of shape (batch, units)."""
        zeros = np.zeros((batch, self.units), self.parameters["b"].dtype)
        return LSTMState(c=zeros, h=zeros)

    def __call__(self, x: Array, state: LSTMState) -> tuple[Array, LSTMState]:
        """From the input (batch, features) and the state before, the output (batch, units) and the state after."""
        w, u, b = (self.parameters[name] for name in "wub")
        _, c, _, h = step(x @ w + state.h @ u + b, state.c)
        return h, LSTMState(c, h)


def step(z: Array, c: Array) -> tuple[Array, Array, Array, Array]:
    """The part of an LSTM's step that has no weights.

    Parameters
    ----------
    z : ndarray (4, batch, units)
        What comes into each gate.
    c : ndarray (batch, units)
        The memory before the step.

    Returns
    -------
    gates : ndarray (4, batch, units)
        How far each is open, from 0 to 1, and the candidate, from -1 to 1.
    c, tanh_c, h : ndarray (batch, units)
        The memory after the step, its tanh, and the output.
    """
    gates = np.concatenate([sigmoid(z[:3]), np.tanh(z[3:])])
    write, keep, show, candidate = gates
    c = keep * c + write * candidate
    tanh_c = np.tanh(c)
    return gates, c, tanh_c, show * tanh_c


class LSTM:
    """An LSTM over whole sequences, with its backward pass and with the two dropouts of Keras's LSTM.

    The parameters are those of its ``cell``, an LSTMCell.
    """

    def __init__(
        self, features: int, units: int, *, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.cell = LSTMCell(features, units, rng=rng, dtype=dtype)
        self.parameters = self.cell.parameters
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array, masks: RecurrentMasks) -> Array:
        """From inputs (time, batch, features) the outputs of all steps, (time, batch, units).

        ``masks`` are what ``RecurrentDropout.draw`` gives, in training or not: what a gate sees of the input and of the
        state, at every step of these sequences.
        """
        w, u, b = (self.parameters[name] for name in "wub")
        time, batch, _ = x.shape
        units = self.cell.units
        # All steps' inputs at once; the state's share is added as the steps come.
        seen = masks.input.apply(x, time_axis=0).reshape(len(GATES), time * batch, -1)
        gates = (seen @ w + b).reshape(len(GATES), time, batch, units)
        # States before each step, and after the last: [t] and [t + 1].
        c, h = (np.zeros((time + 1, batch, units), x.dtype) for _ in "ch")
        tanh_c = np.empty((time, batch, units), x.dtype)
        for t in range(time):
            z = gates[:, t] + masks.state.apply(h[t]) @ u
            gates[:, t], c[t + 1], tanh_c[t], h[t + 1] = step(z, c[t])
        self._saved = x, masks, gates, c, tanh_c, h
        return h[1:]

    def backward(self, dh: Array) -> Array:
        """From the gradient with respect to the outputs of all steps that with respect to the inputs."""
        w, u = self.parameters["w"], self.parameters["u"]
        x, masks, gates, c, tanh_c, h = self._saved
        time, batch, units = dh.shape
        write, keep, show, candidate = gates
        # How fast each gate opens with what comes in, and the memory's way out through tanh.
        slope = gates * (1.0 - gates)
        slope[3] = 1.0 - candidate * candidate
        way_out = show * (1.0 - tanh_c * tanh_c)
        dz = np.empty_like(gates)
        dh_later, dc = np.zeros((2, batch, units), dh.dtype)
        for t in reversed(range(time)):
            dh_here = dh[t] + dh_later
            dc = dc + dh_here * way_out[t]
            opened = np.stack([dc * candidate[t], dc * c[t], dh_here * tanh_c[t], dc * write[t]])
            np.multiply(opened, slope[:, t], out=dz[:, t])
            dc = dc * keep[t]
            dh_later = masks.state.backward(dz[:, t] @ u.transpose(0, 2, 1))
        # The rest has no order in time: all steps at once, what each gate saw drawn once more.
        dz = dz.reshape(len(GATES), time * batch, units)
        seen_x = masks.input.apply(x, time_axis=0).reshape(len(GATES), time * batch, -1)
        seen_h = masks.state.apply(h[:-1], time_axis=0).reshape(len(GATES), time * batch, units)
        self.gradients = {
            "w": seen_x.transpose(0, 2, 1) @ dz,
            "u": seen_h.transpose(0, 2, 1) @ dz,
            "b": dz.sum(axis=1, keepdims=True),
        }
        dseen = (dz @ w.transpose(0, 2, 1)).reshape(len(GATES), *x.shape)
        return masks.input.backward(dseen, time_axis=0)


class Embedding:
    """A table with one row for each word."""

    def __init__(
        self, words: int, features: int, *, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.parameters = {"table": rng.uniform(-0.05, 0.05, (words, features)).astype(dtype)}
        self.gradients: dict[str, Array] = {}

    def forward(self, words: npt.NDArray[np.integer]) -> Array:
        """From words of any shape their rows, with one more axis."""
        self._words = words
        return self.parameters["table"][words]

    def backward(self, dy: Array) -> None:
        """A row's gradient is the sum over the places where its word stands."""
        table = self.parameters["table"]
        is_word = np.arange(len(table))[:, None] == self._words.reshape(-1)
        self.gradients = {"table": is_word.astype(dy.dtype) @ dy.reshape(-1, table.shape[1])}


class Dense:
    """x @ w + b."""

    def __init__(
        self, features: int, units: int, *, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.parameters = {"w": glorot(rng, (features, units), dtype), "b": np.zeros(units, dtype)}
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array) -> Array:
        """From (batch, features) to (batch, units)."""
        self._x = x
        return x @ self.parameters["w"] + self.parameters["b"]

    def backward(self, dy: Array) -> Array:
        self.gradients = {"w": self._x.T @ dy, "b": dy.sum(axis=0)}
        return dy @ self.parameters["w"].T


def binary_cross_entropy(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """The mean loss of sigmoid(logits), of shape (batch, 1), for labels 0 and 1, and its gradient."""
    y = labels.reshape(logits.shape).astype(logits.dtype)
    loss = np.mean(np.logaddexp(0.0, logits) - y * logits)
    return float(loss), (sigmoid(logits) - y) / len(y)


def cross_entropy(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """The mean loss of softmax(logits), of shape (batch, classes), for labels from 0 on, and its gradient."""
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    is_label = np.arange(logits.shape[1]) == labels[:, None]
    loss = -np.mean(log_p[is_label])
    return float(loss), (np.exp(log_p) - is_label) / len(labels)


class Adam:
    """D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Parameters
    ----------
    layers : iterable of layers
        Whose ``parameters`` it changes in place, by their ``gradients``.
    learning_rate, beta1, beta2, epsilon : float
        As in the paper, in the faster order of computation that it gives.
    largest_norm : float
        Longer gradients, all layers' together, are scaled down to this length, because a few steps of a long sequence
        can make them very long: R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
        networks", ICML 2013.
    """

    def __init__(
        self,
        layers: Iterable[Embedding | LSTM | Dense],
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        largest_norm: float = math.inf,
    ) -> None:
        self.layers = list(layers)
        self.largest_norm = largest_norm
        self.learning_rate, self.beta1, self.beta2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.steps = 0
        self.means, self.squares = (
            [[np.zeros_like(array) for array in layer.parameters.values()] for layer in self.layers] for _ in range(2)
        )

    def step(self) -> None:
        """One step against the gradients."""
        norm = math.sqrt(sum(float(np.vdot(g, g)) for layer in self.layers for g in layer.gradients.values()))
        shorter = min(1.0, self.largest_norm / norm) if norm > 0.0 else 1.0
        self.steps += 1
        rate = self.learning_rate * math.sqrt(1.0 - self.beta2**self.steps) / (1.0 - self.beta1**self.steps)
        for layer, means, squares in zip(self.layers, self.means, self.squares, strict=True):
            for name, mean, square in zip(layer.parameters, means, squares, strict=True):
                gradient = shorter * layer.gradients[name]
                mean += (1.0 - self.beta1) * (gradient - mean)
                square += (1.0 - self.beta2) * (gradient * gradient - square)
                layer.parameters[name] -= rate * mean / (np.sqrt(square) + self.epsilon)


def finite_difference(loss: Callable[[], float], array: Array, index: tuple[int, ...], width: float = 1e-5) -> float:
    """The derivative of a loss with respect to one element of a float64 array, from a step to either side.

    The array is as it was when this returns. Of a smooth loss near 1 the result is right to about 1e-10.
    """
    middle = array[index]
    array[index] = middle + width
    above = loss()
    array[index] = middle - width
    below = loss()
    array[index] = middle
    return (above - below) / (2.0 * width)
