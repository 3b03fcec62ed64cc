# SPDX-License-Identifier: BSD-3-Clause
"""What the scripts of examples/ compute and print is right.

They need minutes and the packages of the group ``examples``, so they run where FASTDROP_TEST_EXAMPLES=1 asks for them;
there it is an error that a package is missing. FASTDROP_SEED_TABLE names the data file of the exercise whose table
``inverted_dropout.py`` reproduces; if it is not set, ../shared/seed_table/data.mat is looked for beside the checkout.
"""

import functools
import importlib
import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastdrop

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = ("bidirectional_wrapper", "inverted_dropout", "lstm_classifier")
OF_PYTORCH = ("pytorch_step", "text_transformer")  # they print times too, and draw nothing

SEED_TABLE = Path(os.environ.get("FASTDROP_SEED_TABLE", ROOT.parent / "shared" / "seed_table" / "data.mat"))
needs_seed_table = pytest.mark.skipif(
    not SEED_TABLE.is_file(),
    reason="the data of the published table is not here: FASTDROP_SEED_TABLE can name the file",
)


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing and os.environ.get("FASTDROP_TEST_EXAMPLES") == "1":
        raise pytest.UsageError(f"FASTDROP_TEST_EXAMPLES=1 asks for packages that are missing: {', '.join(missing)}")
    return pytest.mark.asked_for("FASTDROP_TEST_EXAMPLES")


needs_packages = needs("matplotlib", "scipy", "sklearn", "tqdm")


def needs_torch(test):
    """PyTorch cannot be had everywhere. Where it must be there, FASTDROP_TEST_PEERS=torch says so."""
    is_missing = importlib.util.find_spec("torch") is None
    # What imports it meets a part of it that it deprecates.
    test = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")(needs("tqdm")(test))
    return pytest.mark.skipif(is_missing, reason="PyTorch is not installed")(test)


def run(script, *arguments):
    """What a script prints. Warnings of its own code are errors."""
    warnings = ["-W", "error:::__main__", "-W", "error:::nets"]
    warnings += ["-W", "ignore:fastdrop was built without its compiled core"]
    # On a busy machine the threads of a linear algebra library wait for each other; the nets are too small for them.
    settings = {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *warnings, EXAMPLES / f"{script}.py", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """What each script prints with --quick, and its plot: run once, when it is first asked for."""

    @functools.cache
    def result(script):
        path = tmp_path_factory.mktemp(script) / "plot.png"
        return run(script, "--quick", "--seed", "5", "--plot", path), path

    return result


@pytest.fixture
def module(monkeypatch):
    """Imports a module of examples/ by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def rows(text, names):
    """The numbers in the lines of a table, which begin with these names and two spaces, by name."""
    number = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
    found = {}
    for line in text.splitlines():
        for name in names:
            if line.startswith(f"{name}  "):
                found[name] = [float(match) for match in number.findall(line[len(name) :])]
    assert list(found) == list(names)
    return found


def is_picture(path):
    """A PNG file on which something is drawn."""
    from matplotlib import image

    pixels = image.imread(path)
    return pixels.shape[0] > 300 and pixels.shape[1] > 600 and len(np.unique(pixels)) > 100


# All of them


def test_no_script_is_left_out():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted([*SCRIPTS, *OF_PYTORCH, "nets"])


def assert_help_names_every_option(script, expected):
    options = set(
        re.findall(r'add_argument\(\s*"(--[a-z-]+)"', (EXAMPLES / f"{script}.py").read_text(encoding="utf-8"))
    )
    assert expected <= options
    text = run(script, "--help")
    assert options <= set(re.findall(r"--[a-z-]+", text))


@needs_packages
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(script):
    assert_help_names_every_option(script, {"--quick", "--plot", "--seed"})


@needs_torch
@pytest.mark.parametrize("script", OF_PYTORCH)
def test_help_names_every_option_of_the_examples_in_pytorch(script):
    assert_help_names_every_option(script, {"--quick"})


@needs_packages
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_plot_is_drawn_and_the_same_seed_prints_the_same(script, quick_run, tmp_path):
    text, path = quick_run(script)
    assert is_picture(path)
    again = run(script, "--quick", "--seed", "5", "--plot", tmp_path / "again.png")
    assert again == text.replace(str(path), str(tmp_path / "again.png"))


# nets.py


def relative(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


def differences(loss, arrays, gradients, module):
    """The gradients against finite differences, in each element of each array."""
    finite_difference = module("nets").finite_difference
    return {
        name: relative(
            gradients[name],
            np.array([finite_difference(loss, array, index) for index in np.ndindex(array.shape)]).reshape(array.shape),
        )
        for name, array in arrays.items()
    }


# Finite differences with steps of 1e-5 are right to about 1e-10; gradients here are between 1e-3 and 1. An error in a
# formula, or in a mask, shows in the first digits.
TOLERANCE = 1e-6


@pytest.mark.parametrize("per_gate", [True, False])
def test_back_propagation_through_time_with_both_dropouts_has_the_gradients_of_the_forward_pass(module, per_gate):
    rng = np.random.default_rng(0)
    lstm = module("nets").LSTM(3, 4, rng=rng, dtype=np.float64)
    x, dh = rng.standard_normal((6, 2, 3)), rng.standard_normal((6, 2, 4))
    masks = fastdrop.RecurrentDropout(0.3, 0.4, per_gate=per_gate, rng=1).draw(2, 3, 4)
    lstm.forward(x, masks)
    dx = lstm.backward(dh)
    arrays = {**lstm.parameters, "x": x}
    gradients = {**lstm.gradients, "x": dx}
    found = differences(lambda: float(np.sum(lstm.forward(x, masks) * dh)), arrays, gradients, module)
    assert set(found) == {"w", "u", "b", "x"}
    assert max(found.values()) < TOLERANCE


def test_the_lstm_is_the_textbook_s_with_the_masks_of_each_gate(module):
    """Sequence by sequence, gate by gate, with masks as arrays of booleans."""
    rng = np.random.default_rng(0)
    lstm = module("nets").LSTM(3, 4, rng=rng, dtype=np.float64)
    x = rng.standard_normal((5, 2, 3))
    masks = fastdrop.RecurrentDropout(0.25, 0.5, rng=1).draw(2, 3, 4)
    keep_x, keep_h = (np.asarray(kind.mask) for kind in masks)
    assert not keep_x.all()
    assert not keep_h.all()
    w, u, b = (lstm.parameters[name] for name in "wub")
    h_all = lstm.forward(x, masks)

    def logistic(z):
        return 1 / (1 + np.exp(-z))

    for sequence in range(2):
        c = h = np.zeros(4)
        for t in range(5):
            into = [
                (x[t, sequence] * keep_x[gate, sequence] / 0.75) @ w[gate]
                + (h * keep_h[gate, sequence] / 0.5) @ u[gate]
                + b[gate, 0]
                for gate in range(4)
            ]
            c = logistic(into[1]) * c + logistic(into[0]) * np.tanh(into[3])
            h = logistic(into[2]) * np.tanh(c)
            # Another order of adding, a few times in a row.
            np.testing.assert_allclose(h_all[t, sequence], h, rtol=1e-12)


def test_without_dropout_the_lstm_is_its_cell_step_by_step(module):
    rng = np.random.default_rng(0)
    lstm = module("nets").LSTM(3, 4, rng=rng)
    x = rng.standard_normal((5, 2, 3)).astype(np.float32)
    h_all = lstm.forward(x, fastdrop.RecurrentDropout(0.5, 0.5).eval().draw(2, 3, 4))
    state = lstm.cell.zero_state(2)
    for t in range(5):
        y, state = lstm.cell(x[t], state)
        assert y is state.h
        assert y.dtype == h_all.dtype == np.float32
        np.testing.assert_allclose(h_all[t], y, rtol=1e-5)  # float32, added in another order


def test_the_gradients_of_embedding_dense_and_losses_are_those_of_finite_differences(module):
    nets = module("nets")
    rng = np.random.default_rng(0)
    embedding = nets.Embedding(5, 3, rng=rng, dtype=np.float64)
    words = np.array([0, 2, 2, 4])
    cases = (
        (nets.binary_cross_entropy, np.array([0, 1, 1, 0]), 1),
        (nets.cross_entropy, np.array([0, 2, 1, 1]), 3),
    )
    for loss_of, labels, outputs in cases:
        dense = nets.Dense(3, outputs, rng=rng, dtype=np.float64)

        def loss(dense=dense, loss_of=loss_of, labels=labels):
            return loss_of(dense.forward(embedding.forward(words)), labels)

        embedding.backward(dense.backward(loss()[1]))
        found = differences(
            lambda loss=loss: loss()[0],
            {**dense.parameters, **embedding.parameters},
            {**dense.gradients, **embedding.gradients},
            module,
        )
        assert set(found) == {"w", "b", "table"}
        assert max(found.values()) < TOLERANCE


def test_the_losses_are_those_of_the_probabilities(module):
    nets = module("nets")
    z, y = np.array([[-1.0], [0.5], [40.0]]), np.array([0, 1, 1])
    p = 1 / (1 + np.exp(-z[:, 0]))
    assert nets.binary_cross_entropy(z, y)[0] == pytest.approx(-np.mean([np.log(1 - p[0]), np.log(p[1]), np.log(p[2])]))
    z, y = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]]), np.array([1, 0])
    assert nets.cross_entropy(z, y)[0] == pytest.approx(-np.log(np.exp(2) / np.exp([1, 2, 3]).sum()) / 2)


def test_adam_does_what_its_paper_says(module):
    nets = module("nets")
    dense = nets.Dense(2, 1, rng=np.random.default_rng(0), dtype=np.float64)
    adam = nets.Adam([dense], learning_rate=0.1)
    w, m, v = dense.parameters["w"].copy(), 0.0, 0.0
    for t, gradient in enumerate(([1.0, -2.0], [0.5, 0.0], [-3.0, 1.0]), start=1):
        g = np.array(gradient)[:, None]
        dense.gradients = {"w": g, "b": np.zeros(1)}
        adam.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        # Its epsilon stands inside the correction of the step, as in the paper's faster form.
        np.testing.assert_allclose(dense.parameters["w"], w, rtol=1e-6)
    np.testing.assert_array_equal(dense.parameters["b"], 0)


def test_adam_shortens_long_gradients_and_no_others(module):
    nets = module("nets")
    found = []
    for length, largest_norm in ((5.0, 1.0), (1.0, 1.0), (1.0, math.inf)):
        dense = nets.Dense(2, 1, rng=np.random.default_rng(0), dtype=np.float64)
        adam = nets.Adam([dense], epsilon=1.0, largest_norm=largest_norm)  # so that the step depends on the length
        dense.gradients = {"w": length * np.array([[0.6], [0.0]]), "b": length * np.array([0.8])}
        adam.step()
        found.append(np.append(dense.parameters["w"], dense.parameters["b"]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)  # 1 / 5 is rounded
    np.testing.assert_array_equal(found[1], found[2])


# inverted_dropout.py


@needs_packages
@pytest.mark.parametrize("variant", ["scaled", "not scaled", "none"])
@pytest.mark.parametrize("frozen", [False, True], ids=["fresh", "frozen"])
def test_a_step_of_inverted_dropout_goes_against_the_gradient(module, variant, frozen):
    page = module("inverted_dropout")
    points = page.two_moons(np.random.default_rng(0), 7)
    masks = next(page.frozen_masks(variant, 7) if frozen else page.fresh_masks(variant, 7, 0))
    net = page.new_net()
    for bias in ("b1", "b2"):
        net[bias] += 0.1  # at first they are 0, which is where the slope of ReLU jumps once all of a layer is dropped
    before = {name: array.copy() for name, array in net.items()}

    def cost():
        return page.train_step({name: array.copy() for name, array in net.items()}, points, masks)

    assert page.train_step(net, points, masks) == cost_of(page, before, points, masks)
    gradients = {name: (before[name] - net[name]) / page.LEARNING_RATE for name in net}
    net.update(before)
    found = differences(cost, net, gradients, module)
    assert set(found) == {"W1", "b1", "W2", "b2", "W3", "b3"}
    assert max(found.values()) < TOLERANCE


def cost_of(page, net, points, masks):
    """The cost with the masks as arrays."""
    keep1, keep2 = (np.asarray(mask) * mask.scale for mask in masks)
    a1 = np.maximum(net["W1"] @ points.x + net["b1"], 0) * keep1
    a2 = np.maximum(net["W2"] @ a1 + net["b2"], 0) * keep2
    return page.cost(net["W3"] @ a2 + net["b3"], points.y)


VARIANTS = [("scaled", 1 / 0.86, 0.86), ("not scaled", 1.0, 0.86), ("none", 1.0, 1.0)]


@needs_packages
@pytest.mark.parametrize(("variant", "scale", "keep_prob"), VARIANTS, ids=[variant for variant, *_ in VARIANTS])
def test_fresh_masks_are_new_at_each_step_and_scaled_if_they_shall_be(module, variant, scale, keep_prob):
    first, second = itertools.islice(module("inverted_dropout").fresh_masks(variant, 211, 0), 2)
    kept = [np.asarray(mask) for mask in (*first, *second)]
    assert [keep.shape for keep in kept] == [(20, 211), (3, 211)] * 2
    assert [mask.scale for mask in (*first, *second)] == [pytest.approx(scale)] * 4
    for one, other in itertools.combinations([kept[0][:3], kept[1], kept[2][:3], kept[3]], 2):
        assert np.array_equal(one, other) == (variant == "none")
    # The share that is kept of 9706 elements has a standard deviation of 0.0035.
    share = np.concatenate(kept).mean()
    assert share == 1 if variant == "none" else abs(share - keep_prob) < 0.0175


@needs_packages
@pytest.mark.parametrize(("variant", "scale", "keep_prob"), VARIANTS, ids=[variant for variant, *_ in VARIANTS])
def test_frozen_masks_are_those_of_the_exercise_at_each_step(module, variant, scale, keep_prob):
    first, second = itertools.islice(module("inverted_dropout").frozen_masks(variant, 211), 2)
    assert first == second
    rng = np.random.RandomState(1)
    for mask, units in zip(first, (20, 3), strict=True):
        kept = rng.rand(units, 211) < keep_prob
        np.testing.assert_array_equal(mask.apply(np.ones((units, 211))), np.where(kept, np.float64(mask.scale), 0))
        assert mask.scale == pytest.approx(scale)


# As published: the cost at steps 0, 10000 and 20000, and the accuracy in training and test.
PUBLISHED = {
    "scaled": (0.6543912405149825, 0.061016986574905605, 0.060582435798513114, 0.928910, 0.95),
    "not scaled": (0.6634619861891963, 0.05040089794130624, 0.049722351029060516, 0.933649, 0.95),
}
WITHOUT_DROPOUT = [0.6557, 0.1633, 0.1385, 0.9479, 0.915]


@needs_packages
@needs_seed_table
def test_the_published_table_comes_out_to_15_digits(tmp_path):
    text = run("inverted_dropout", "--data", SEED_TABLE, "--frozen", "--plot", tmp_path / "plot.png")
    table = rows(text, ["scaled", "not scaled", "none"])
    for variant, published in PUBLISHED.items():
        # Linear algebra libraries add in different orders: with five kernels of OpenBLAS the differences to what was
        # published are up to 4e-16 of the number, which is a few units of the last of a double's 16 or 17 digits.
        assert table[variant][:3] == pytest.approx(published[:3], rel=1e-15, abs=0)
        assert table[variant][3:5] == [pytest.approx(accuracy, abs=5e-7) for accuracy in published[3:]]
    assert [round(number, 4) for number in table["none"][:5]] == WITHOUT_DROPOUT


@needs_packages
@needs_seed_table
def test_with_fresh_masks_there_is_no_such_cost_and_scaling_hardly_moves_accuracy(module):
    page = module("inverted_dropout")
    train_points, test_points = page.exercise_points(SEED_TABLE)
    accuracies = []
    for variant in ("scaled", "not scaled"):
        net, costs = page.train(train_points, page.fresh_masks(variant, 211, 0), 30_000, lambda: None)
        assert 0.16 < np.mean(costs[9_500:10_500]) < 0.23  # published: 0.061 and 0.050
        accuracies.append(page.accuracy(page.predict(net, test_points.x), test_points.y))
    assert all(0.92 <= accuracy <= 0.95 for accuracy in accuracies)
    assert abs(accuracies[0] - accuracies[1]) < 0.017  # the standard error of one


@needs_packages
def test_inverted_dropout_prints_what_it_computed(module, quick_run):
    page = module("inverted_dropout")
    text, _ = quick_run("inverted_dropout")
    printed = rows(text, page.VARIANTS)
    rng = np.random.default_rng(5)
    train_points, test_points = page.two_moons(rng, 211), page.two_moons(rng, 2000)
    right = {}
    for variant in page.VARIANTS:
        trained, costs = page.train(train_points, page.fresh_masks(variant, 211, 5), 3_000, lambda: None)
        z = page.predict(trained, test_points.x)
        right[variant] = int(np.sum((z > 0) == test_points.y))
        assert printed[variant] == [
            pytest.approx(number, abs=1e-6)  # six digits are shown
            for number in (
                costs[0],
                costs[1000],
                costs[2000],
                page.accuracy(page.predict(trained, train_points.x), train_points.y),
                right[variant] / 2000,
                page.cost(z, test_points.y),
            )
        ]
        assert costs[-1] < 0.6 * costs[0]
        assert right[variant] > 1500
    for one, other in (("scaled", "not scaled"), ("scaled", "none")):
        points = re.search(rf"^{one} against {other}: ([+-]\d+) points right \(([+-][\d.]+)\)", text, re.MULTILINE)
        assert int(points[1]) == right[one] - right[other]
        assert float(points[2]) == pytest.approx((right[one] - right[other]) / 2000, abs=5e-5)


# lstm_classifier.py


def small_net(page, words=7, outputs=1):
    return page.Classifier(words, 5, 6, outputs, page.Rates(0.25, 0.5, 0.5), 0, np.float64)


@needs_packages
@pytest.mark.parametrize(("words", "outputs"), [(7, 1), (0, 3)], ids=["words", "numbers"])
def test_the_classifier_with_all_three_dropouts_has_the_gradients_of_finite_differences(module, words, outputs):
    page = module("lstm_classifier")
    rng = np.random.default_rng(0)
    x = rng.integers(words, size=(9, 4)) if words else rng.standard_normal((9, 4, 5))
    y = np.array([0, 1, 1, 0]) if outputs == 1 else np.array([0, 2, 1, 1])
    found = page.check_gradients(small_net(page, words, outputs), x, y, None, rng)
    assert set(found) == {*(["Embedding.table"] if words else []), "LSTM.w", "LSTM.u", "LSTM.b", "Dense.w", "Dense.b"}
    assert max(found.values()) < TOLERANCE


@needs_packages
def test_the_check_of_gradients_finds_a_backward_pass_without_its_mask(module, monkeypatch):
    page = module("lstm_classifier")
    rng = np.random.default_rng(0)
    net = small_net(page)
    monkeypatch.setattr(net.dropout, "backward", lambda dy: dy)
    found = page.check_gradients(net, rng.integers(7, size=(9, 4)), np.array([0, 1, 1, 0]), None, rng)
    assert found["Embedding.table"] > 0.1
    assert max(number for name, number in found.items() if name != "Embedding.table") < TOLERANCE


@needs_packages
def test_the_classifier_draws_in_training_only(module):
    page = module("lstm_classifier")
    x = np.random.default_rng(0).integers(7, size=(9, 4))
    net = small_net(page)
    assert not np.array_equal(net.forward(x), net.forward(x))
    calls = net.dropout.rng.call, net.masks.rng.call
    assert calls == (2, 4)
    np.testing.assert_array_equal(page.predict(net, x), page.predict(net, x))
    np.testing.assert_allclose(page.predict(net, x, chunk=3), page.predict(net, x), rtol=1e-12)  # other sums in BLAS
    assert (net.dropout.rng.call, net.masks.rng.call) == calls
    assert net.dropout.training
    assert net.masks.training


@needs_packages
def test_the_tasks_are_what_the_script_says(module):
    page = module("lstm_classifier")
    task = page.made_up_task(np.random.default_rng(0), 128, 512, 498, 100)
    assert task.train_x.shape == (498, 128)
    assert task.test_x.shape == (498, 512)
    assert task.train_x.min() == page.PADDING
    assert task.train_x.max() < page.WORDS
    lengths = np.sum(task.train_x != page.PADDING, axis=0)
    assert lengths.min() >= 20
    assert lengths.max() <= 100
    assert (task.train_x[-20:] != page.PADDING).all()  # the padding is at the front
    assert task.is_wrong.sum() == 19
    np.testing.assert_array_equal(task.train_y != np.arange(128) % 2, task.is_wrong)
    np.testing.assert_array_equal(task.test_y, np.arange(512) % 2)

    digits = page.digits_task(np.random.default_rng(0), 200)
    assert digits.train_x.shape == (8, 200, 8)
    assert digits.test_x.shape == (8, 1597, 8)
    assert digits.train_x.min() == 0
    assert digits.train_x.max() == 1
    assert set(digits.test_y) == set(range(10))
    assert not digits.is_wrong.any()
    # An image is the same one whether it is in the first or in the second part.
    whole = page.load_digits()
    of_image = {tuple(image.ravel() / 16): label for image, label in zip(whole.images, whole.target, strict=True)}
    images = np.concatenate([digits.train_x, digits.test_x], axis=1).transpose(1, 0, 2).reshape(-1, 64)
    labels = np.concatenate([digits.train_y, digits.test_y])
    assert [of_image[tuple(image)] for image in images] == list(labels)


@needs_packages
def test_check_gradients_prints_small_differences():
    text = run("lstm_classifier", "--quick", "--check-gradients")
    names = ["Embedding.table", "LSTM.w", "LSTM.u", "LSTM.b", "Dense.w", "Dense.b"]
    found = rows(textwrap.dedent(text.partition("\n")[2]), names)
    assert all(0 < difference < TOLERANCE for (difference,) in found.values())


@needs_packages
def test_lstm_classifier_trains_and_says_what_its_table_shows(module, quick_run):
    page = module("lstm_classifier")
    text, _ = quick_run("lstm_classifier")
    titles = ["made-up words", "digits row by row"]
    parts = re.split(rf"^(?={'|'.join(titles)})", text, flags=re.MULTILINE)[1:]
    assert [part.split(":")[0] for part in parts] == titles
    for part, columns, epochs, n_test in zip(parts, (6, 5), (40, 20), (64, 1697), strict=True):
        table = rows(part, page.VARIANTS)
        assert {len(numbers) for numbers in table.values()} == {columns}
        for *_, test_loss, accuracy, lowest, at in table.values():
            assert lowest < test_loss if at < epochs else lowest == test_loss
            assert abs(accuracy * n_test - round(accuracy * n_test)) <= 0.0005 * n_test + 1e-9  # three digits are shown
        plain = table.pop("no dropout")
        *_, test_loss, accuracy, lowest, at = plain
        lower = [name for name, numbers in table.items() if numbers[-4] < test_loss]
        said = re.search(rf"^After {epochs} epochs a lower test loss than without dropout: (.*)\.$", part, re.MULTILINE)
        assert said[1] == (", ".join(lower) or "none")
        stopped = re.search(r"stopped at epoch (\d+): test loss ([\d.]+), accuracy ([\d.]+)\.$", part, re.MULTILINE)
        assert (float(stopped[1]), float(stopped[2])) == (at, lowest)
        error = float(re.search(r"standard error of about ([\d.]+)\.", part)[1])
        assert error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / n_test), abs=0.001)
        # It learns: the loss of a guess is log(2) for words, log(10) for digits. All three dropouts slow that down.
        assert plain[0] < (0.2 if columns == 6 else 1.8)
        assert table["all three"][0] > plain[0] + 0.1


# bidirectional_wrapper.py


@needs_packages
def test_bidirectional_wrapper_finds_all_that_it_claims(quick_run):
    text, _ = quick_run("bidirectional_wrapper")
    claims = re.findall(r"^  (yes|NO ) ", text, re.MULTILINE)
    assert claims == ["yes"] * 7
    agreement = re.findall(r"decided as for the (step|sequence) before.*: ([\d.]+)$", text, re.MULTILINE)
    anew, shared = [float(share) for _, share in agreement[:2]], [float(share) for _, share in agreement[2:]]
    assert anew == pytest.approx([0.5, 0.5], abs=0.03)  # the standard deviation of 10,000 coins is 0.005
    assert shared == [1.0, 1.0]
    found = re.findall(r" (-?[\d.]+)  ([\d.]+), by theory ([\d.]+)$", text, re.MULTILINE)
    expected = float(re.search(r"without dropout +(-?[\d.]+)", text)[1])
    assert len(found) == 4
    for mean, deviation, theory in (map(float, numbers) for numbers in found):
        # Of 100 trials, within five standard deviations.
        assert abs(mean - expected) < 5 * theory / math.sqrt(100)
        assert abs(deviation / theory - 1) < 5 / math.sqrt(200)
    separate, together = float(found[0][2]), float(found[2][2])
    assert together > 1.5 * separate


# What is in PyTorch


@needs("tqdm")
@pytest.mark.parametrize("script", OF_PYTORCH)
def test_without_pytorch_one_line_says_what_to_install(script):
    code = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(EXAMPLES / f'{script}.py')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "This example needs PyTorch: python -m pip install torch\n"


# text_transformer.py


def small(page, steps=4):
    return page.Size(steps, batch=8, length=32, width=32)  # as with --quick


def curves(text):
    """The losses of a printed table: PyTorch's and fastdrop's."""
    found = re.findall(r"^ +(\d+-\d+|test) +(\d\.\d{4}) +(\d\.\d{4})$", text, re.MULTILINE)
    assert [name for name, *_ in found] == [*(f"{step}-{step}" for step in range(1, 9)), "test"]
    return [[float(loss) for loss in column] for column in list(zip(*found, strict=True))[1:]]


@needs_torch
def test_the_losses_are_the_same_on_one_process_and_on_three(module):
    page = module("text_transformer")
    text = run("text_transformer", "--quick", "--seed", "5", "--processes", "3")  # with 2, 3 and 3 of 8 rows
    alone, together = text.split("3 processes:")
    computed = page.train(small(page, steps=8), 5, False)
    expected = [[*computed.losses[kind], computed.test[kind]] for kind in page.KINDS]
    assert curves(alone) == [pytest.approx(losses, abs=1.01e-4) for losses in expected]  # four digits are shown
    assert curves(together)[1] == pytest.approx(expected[1], abs=1.01e-4)
    assert curves(together)[0] != pytest.approx(expected[0], abs=1e-3)
    for part in (alone, together):
        assert re.search(r"^A step takes \d+\.\d+ ms with PyTorch's dropout and \d+\.\d+ ms with", part, re.MULTILINE)
    found = re.findall(r"^    (\w+) +differ by (.*) at most: (.*)$", together, re.MULTILINE)
    assert [(kind, same) for kind, _, same in found] == [
        ("PyTorch", "not the same"),
        ("fastdrop", "the same, to rounding"),
    ]
    assert float(found[0][1]) > 1e-3
    assert float(found[1][1]) < 1e-5  # float32, a few steps, added in another order
    for losses in expected:
        assert losses[0] == pytest.approx(math.log(len(page.manual().alphabet)), abs=0.5)  # as by a guess
        assert losses[-1] < losses[0] - 0.5


@needs_torch
def test_each_net_is_trained_with_its_own_dropout_and_both_on_the_same_batches(module, monkeypatch):
    page = module("text_transformer")
    seen = []
    loss_of = page.loss_of

    def noting(net, x, y):
        seen.append((page.fastdrop.torch.is_enabled(), net.training, x))
        return loss_of(net, x, y)

    monkeypatch.setattr(page, "loss_of", noting)
    result = page.train(small(page), 5, False)
    assert not page.fastdrop.torch.is_enabled()
    assert [(enabled, training) for enabled, training, _ in seen] == [(False, True), (True, True)] * 4 + [
        (False, False)
    ] * 2
    batches = [x for *_, x in seen]
    for one, other in zip(batches[::2], batches[1::2], strict=True):
        assert page.torch.equal(one, other)
    assert not page.torch.equal(batches[0], batches[2])
    assert result.losses["PyTorch"] != result.losses["fastdrop"]
    assert page.train(small(page), 5, False).losses == result.losses
    assert page.train(small(page), 6, False).losses != result.losses


@needs_torch
def test_the_net_sees_what_stands_before_and_not_what_follows(module):
    page = module("text_transformer")
    torch = page.torch
    torch.manual_seed(0)
    net = page.Writer(11, 32, 16).eval()
    text = torch.arange(17) % 11
    x, y = page.excerpts(text, torch.tensor([0]), 16)
    assert torch.equal(x[0, 1:], y[0, :-1])
    other = x.clone()
    other[0, 9] += 1
    differ = (net(x) != net(other))[0].any(dim=-1)
    assert differ.tolist() == [False] * 9 + [True] * 7


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "9", "--quick"], "--processes must be from 1 to 8, the rows of a batch, got 9"),
        (["--processes", "0"], "--processes must be from 1 to 16, the rows of a batch, got 0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
    ],
)
def test_text_transformer_refuses_what_it_cannot_do(arguments, message):
    command = [sys.executable, EXAMPLES / "text_transformer.py", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"text_transformer.py: error: {message}"


# pytorch_step.py


@needs_torch
def test_pytorch_step_prints_what_it_measured_and_puts_it_into_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- step: begin -->\nold\n<!-- step: end -->\nbehind\n")
    text = run("pytorch_step", "--quick", "--page", page)
    number = r"(-?\d+\.\d\d) ms"
    table = {
        name: tuple(map(float, numbers))
        for name, *numbers in re.findall(rf"^(.*\S) +{number} +{number} +-?\d+%$", text, re.MULTILINE)
    }
    assert list(table) == ["eager PyTorch", "eager, enable()", "compiled PyTorch", "compiled, enable()"]
    rests = [float(rest) for rest in re.findall(rf"^\w+, no dropout +{number} *$", text, re.MULTILINE)]
    assert len(rests) == 2
    for (whole, dropout), rest in zip(table.values(), (rests[0], rests[0], rests[1], rests[1]), strict=True):
        assert dropout == pytest.approx(whole - rest, abs=0.016)  # three numbers of two digits behind the point
    for mode, gain in re.findall(r"^(\w+): enable\(\) makes the step (\d+\.\d\d) times as fast$", text, re.MULTILINE):
        expected = table[f"{mode} PyTorch"][0] / table[f"{mode}, enable()"][0]
        assert float(gain) == pytest.approx(expected, abs=0.011)

    written = page.read_text(encoding="utf-8")
    before, _, behind = written.partition("```python\n")
    code, _, behind = behind.partition("```\n")
    assert before.startswith("before\n<!-- step: begin -->\nfloat32, one thread, on ")
    assert behind == "<!-- step: end -->\nbehind\n"
    names = {}
    exec(code, names)
    assert names["step"] == {
        name: (whole, rest)
        for (name, (whole, _)), rest in zip(table.items(), (rests[0], rests[0], rests[1], rests[1]), strict=True)
    }


@needs_torch
def test_pytorch_step_leaves_a_page_without_its_marks_alone(module, monkeypatch, tmp_path):
    script = module("pytorch_step")
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    monkeypatch.setattr(script, "measure", lambda *_: dict.fromkeys((kind.name for kind in script.KINDS), 2.0))
    monkeypatch.setattr(sys, "argv", ["pytorch_step.py", "--page", str(page)])
    threads = script.torch.get_num_threads()
    try:
        with pytest.raises(SystemExit, match=r"must have one part between .*, got 0"):
            script.main()
    finally:
        script.torch.set_num_threads(threads)
    assert page.read_text() == "no marks\n"
