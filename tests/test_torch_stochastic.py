# SPDX-License-Identifier: BSD-3-Clause
"""Monte-Carlo dropout of nets in PyTorch: which modules draw, from which seed, and what is as before afterwards."""

import threading

import numpy as np
import pytest
from peers import imported

import fastdrop

PATIENCE = 60  # seconds until a test that hangs is given up


@pytest.fixture
def client(torch):
    return imported("fastdrop.torch")


@pytest.fixture(params=[False, True], ids=["PyTorch's dropout", "enable()"])
def switched(request, client):
    """The nets' dropout by PyTorch, and by fastdrop."""
    if not request.param:
        yield
        return
    with client.enable():
        yield


def nets(torch):
    """Nets whose dropout is a module, or inside of one, with what they take."""
    nn = torch.nn
    x = torch.randn(4, 6, 16)
    return {
        "Dropout": (nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)), x),
        "Dropout1d": (nn.Dropout1d(0.5), x),
        "AlphaDropout": (nn.AlphaDropout(0.5), x),
        "LSTM": (nn.LSTM(16, 8, num_layers=2, dropout=0.5), x),
        "attention": (nn.TransformerEncoderLayer(16, 2, 8, dropout=0.5), x),
        "ours": (imported("fastdrop.torch").Dropout(0.5), x),
    }


def output(torch, net, x):
    with torch.no_grad():
        y = net(x)
    return (y[0] if isinstance(y, tuple) else y).numpy()


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "AlphaDropout", "LSTM", "attention", "ours"])
def test_nets_draw_within_and_not_after(torch, client, switched, name):
    net, x = nets(torch)[name]
    net.eval()
    quiet = output(torch, net, x)
    with client.stochastic(net):
        first, second = (output(torch, net, x) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(output(torch, net, x), quiet)
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "AlphaDropout", "LSTM", "attention", "ours"])
def test_a_seeded_pass_is_the_same_alone_and_among_many(torch, client, switched, name):
    net, x = nets(torch)[name]
    net.eval()

    def f(x, stream):
        with client.stochastic(net, rng=stream):
            return output(torch, net, x)

    state = torch.get_rng_state()
    samples = fastdrop.mc_predict(f, x, 20, rng=7, return_samples=True).samples
    assert len({sample.tobytes() for sample in samples}) == 20
    for start in (0, 3, 19):
        alone = fastdrop.mc_predict(f, x, 1, rng=7, start=start)
        np.testing.assert_array_equal(alone.mean, samples[start])
    in_threads = fastdrop.mc_predict(f, x, 20, rng=7, workers=3, return_samples=True).samples
    np.testing.assert_array_equal(in_threads, samples)
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_of_batches_are_neither_taken_nor_used(torch, client):
    nn = torch.nn
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.InstanceNorm1d(3, track_running_stats=True)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(5, 3, 7)
    with client.stochastic(net):
        assert [module.training for module in net] == [False, True, False]
        net(x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_modules_that_trained_train_afterwards_and_errors_go_on(torch, client):
    nn = torch.nn
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval(), nn.BatchNorm1d(3))
    net.training = False
    state = torch.get_rng_state()

    def fail():
        with client.stochastic(net, rng=3):
            assert [module.training for module in net.modules()] == [True, True, True, True]
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in net.modules()] == [False, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_another_thread_waits_until_the_first_has_left(torch, client):
    net = torch.nn.Dropout(0.5).eval()
    entered = threading.Event()

    def enter():
        with client.stochastic(net):
            entered.set()

    with client.stochastic(net), client.stochastic(net, rng=1):  # the same thread may
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(PATIENCE)
    assert entered.is_set()
    assert not net.training


def test_what_is_no_module_or_no_rng_is_refused_and_nothing_is_changed(torch, client):
    net = torch.nn.Dropout(0.5).eval()
    stream = fastdrop.PhiloxStream(1)
    for modules, rng, error, message in (
        ((), None, ValueError, "modules must be at least one module"),
        ((net, 3), stream, TypeError, "modules must be modules of PyTorch, got 3"),
        ((fastdrop.Dropout(0.5),), stream, TypeError, "modules must be modules of PyTorch"),
        ((net,), 1.5, TypeError, "rng must be"),
        ((net,), -1, ValueError, "rng must be at least 0"),
    ):
        with pytest.raises(error, match=message), client.stochastic(*modules, rng=rng):
            raise AssertionError("it was entered")
    assert not net.training
    assert stream.call == 0
