# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo passes of models of other libraries, and on a cluster: the same ones wherever and in whatever number."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from peers import MISSING_PEERS, imported

import fastdrop

X = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((30, 2)).astype(np.float32)


def needs(*peers):
    for peer in peers:
        if peer in MISSING_PEERS:
            pytest.skip(f"{peer}: {MISSING_PEERS[peer]}")


def one_pass(x, stream):
    return fastdrop.dropout(x, 0.5, rng=stream) @ WEIGHTS


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_of_a_cluster_predict_the_same_bits():
    needs("dask")
    from dask_helpers import cluster

    expected = fastdrop.mc_predict(one_pass, X, 200, rng=7, return_samples=True)
    with cluster("512MiB") as (client, _):
        for workers in (client, client.get_executor()):
            spread = fastdrop.mc_predict(one_pass, X, 200, rng=7, workers=workers, return_samples=True)
            assert equal(spread, expected)
        scattered = fastdrop.mc_predict(one_pass, client.scatter(X), 200, rng=7, workers=client, return_samples=True)
        assert equal(scattered, expected)


def run(code, **variables):
    path = [str(Path(__file__).parent), str(Path(fastdrop.__file__).parent.parent)]
    code = f"import sys\nsys.path[:0] = {path!r}\n" + textwrap.dedent(code)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


KERAS = """
    import keras, numpy as np, fastdrop, fastdrop.keras
    import pytest
    from test_monte_carlo_clients import X, equal
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((30,)), keras.layers.Dense(8, activation="relu"), keras.layers.BatchNormalization(),
        fastdrop.keras.Dropout(0.5), keras.layers.Dense(2), fastdrop.keras.GaussianNoise(0.1),
    ])
    weights = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    states = [keras.ops.convert_to_numpy(v).copy() for v in model.non_trainable_variables]
    quiet = keras.ops.convert_to_numpy(model(X))

    def f(x, stream):
        with fastdrop.keras.stochastic(model, rng=stream):
            return keras.ops.convert_to_numpy(model(x))

    samples = fastdrop.mc_predict(f, X, 20, rng=7, return_samples=True).samples
    assert len({s.tobytes() for s in samples}) == 20
    assert np.array_equal(fastdrop.mc_predict(f, X, 1, rng=7, start=13, return_samples=True).samples[0], samples[13])
    in_threads = fastdrop.mc_predict(f, X, 20, rng=7, workers=3, return_samples=True).samples
    assert np.array_equal(in_threads, samples)
    assert np.array_equal(keras.ops.convert_to_numpy(model(X)), quiet)
    for before, now in ((weights, model.weights), (states, model.non_trainable_variables)):
        assert all(np.array_equal(b, keras.ops.convert_to_numpy(n)) for b, n in zip(before, now, strict=True))

    # Without an rng: the next masks of the layers.
    with fastdrop.keras.stochastic(model):
        first, second = (keras.ops.convert_to_numpy(model(X)) for _ in range(2))
    assert not np.array_equal(first, second)

    # The mask is that of the stream's key.
    layer = fastdrop.keras.Dropout(0.5)
    with fastdrop.keras.stochastic(layer, rng=9):
        y = keras.ops.convert_to_numpy(layer(keras.ops.ones((5, 6))))
        z = keras.ops.convert_to_numpy(layer(keras.ops.ones((5, 6))))
    for call, drawn in enumerate((y, z)):
        key = fastdrop.fold_in(fastdrop.PhiloxStream(9).key, call)
        assert np.array_equal(drawn, fastdrop.DropoutMask((5, 6), 0.5, key=key).apply(np.ones((5, 6), np.float32)))

    for models, error, message in (
        ((), ValueError, "at least one"),
        ((3,), TypeError, "models must be models or layers of Keras, got 3"),
        ((keras.layers.Dense(2),), ValueError, "has none: fastdrop.keras.replace_layers"),
    ):
        with pytest.raises(error, match=message):
            fastdrop.keras.stochastic(*models)
    with pytest.raises(TypeError, match="rng must be"):
        fastdrop.keras.stochastic(model, rng=1.5)
"""


@pytest.mark.parametrize("backend", ["numpy", "torch", "tensorflow", "jax"])
def test_a_model_of_keras_draws_by_the_stream_of_a_pass(backend):
    needs("keras", *{"torch", "jax"} & {backend})
    run(KERAS, KERAS_BACKEND=backend)


def test_a_function_of_jax_draws_by_the_stream_of_a_pass():
    needs("jax")
    jax, client = imported("jax"), imported("fastdrop.jax")

    @jax.jit
    def net(x, key):
        return client.dropout(key, x, 0.5) @ WEIGHTS

    def f(x, stream):
        return np.asarray(net(x, client.key_of(stream)))

    samples = fastdrop.mc_predict(f, X, 20, rng=7, return_samples=True).samples
    assert len({s.tobytes() for s in samples}) == 20
    np.testing.assert_array_equal(fastdrop.mc_predict(f, X, 1, rng=7, start=13).mean, samples[13])
    np.testing.assert_array_equal(fastdrop.mc_predict(f, X, 20, rng=7, workers=3, return_samples=True).samples, samples)


def test_a_model_of_thinc_draws_by_the_seed_of_a_pass():
    needs("thinc")
    thinc, client = imported("thinc.api"), imported("fastdrop.thinc")
    model = thinc.chain(thinc.Relu(8, dropout=0.5), thinc.Linear(2)).initialize(X, WEIGHTS[:4])
    client.replace_dropout(model)

    def f(x, stream):
        thinc.fix_random_seed(stream.key % 2**32)
        return model(x, is_train=True)[0]

    samples = fastdrop.mc_predict(f, X, 20, rng=7, return_samples=True).samples
    assert len({s.tobytes() for s in samples}) == 20
    np.testing.assert_array_equal(fastdrop.mc_predict(f, X, 1, rng=7, start=13).mean, samples[13])
