# SPDX-License-Identifier: BSD-3-Clause
"""fastdrop.keras on each backend of Keras, of which a process has one: the tests of the layers, and Keras's own.

What a child process leaves out is said in the messages here, and an error where it is not known beforehand.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import helpers
import pytest
from peers import MISSING_PEERS

if "keras" in MISSING_PEERS:
    pytest.skip(f"keras: {MISSING_PEERS['keras']}", allow_module_level=True)

TESTS = Path(__file__).parent
BACKENDS = ["numpy", "torch", "tensorflow", "jax"]

# Keras's own tests, by what puts fastdrop into their place.
REGULARIZATION = "layers/regularization"
OWN_TESTS = {
    "layers": [
        f"{REGULARIZATION}/{name}_test.py"
        for name in ("dropout", "spatial_dropout", "alpha_dropout", "gaussian_dropout", "gaussian_noise")
    ],
    # The classes there, which are Keras's; and all others that drop, but for recurrent layers that take half a minute
    # to compile and draw by the same cells.
    "enable": [
        f"{REGULARIZATION}/dropout_test.py",
        f"{REGULARIZATION}/alpha_dropout_test.py",
        f"{REGULARIZATION}/gaussian_noise_test.py",
        "layers/attention/attention_test.py",
        "layers/rnn/dropout_rnn_cell_test.py",
        "random/random_test.py::RandomCorrectnessTest::test_dropout",
        "random/random_test.py::RandomCorrectnessTest::test_dropout_noise_shape",
        "random/random_test.py::RandomDTypeTest::test_dropout_float16",
        "random/random_test.py::RandomDTypeTest::test_dropout_bfloat16",
        "random/random_test.py::RandomDTypeTest::test_dropout_float32",
    ],
}
LEAST = {"layers": 30, "enable": 50}  # tests, of which each release of Keras has others


def environment(tmp_path, **others):
    return helpers.environment() | {
        "KERAS_HOME": str(tmp_path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        **others,
    }


def run(arguments, env, cwd=None):
    return subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=400)


def counts(result):
    """How many tests of a child process passed, were left out, and so on."""
    summary = result.stdout.rstrip().splitlines()[-1]
    return {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}


def need(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


@pytest.mark.parametrize("backend", BACKENDS[1:])  # the tests of a run itself are on NumPy
def test_the_tests_of_layers_hold_on(backend, tmp_path):
    need(backend)
    env = environment(tmp_path, FASTDROP_TEST_KERAS_BACKEND=backend, FASTDROP_TEST_PEERS="keras", JAX_ENABLE_X64="1")
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--no-header"]
    result = run(["-m", "pytest", *options, str(TESTS / "test_keras.py")], env, TESTS.parent)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", result.stdout, re.MULTILINE)
    assert all(backend not in reason for reason in reasons), reasons
    assert counts(result)["passed"] > 250


@pytest.mark.parametrize("by", OWN_TESTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_own_tests_hold_on(backend, by, tmp_path):
    need(backend)
    (keras,) = importlib.util.find_spec("keras").submodule_search_locations
    source = Path(keras) / "src"
    env = environment(tmp_path, KERAS_BACKEND=backend, FASTDROP_KERAS_BY=by)
    options = ["-q", "-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-W", "ignore"]
    tests = [f"{source}/{name}" for name in OWN_TESTS[by]]
    result = run(["-m", "pytest", *options, "-p", "keras_own_tests", *tests], env, tmp_path)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    found = counts(result)
    assert found == {"passed": found["passed"]}, result.stdout[-2000:]  # and none left out
    assert found["passed"] >= LEAST[by]


SAVES = """
import sys, keras, fastdrop.keras
keras.Sequential([keras.Input((8,)), fastdrop.keras.Dropout(0.5, seed=7)]).save(sys.argv[1])
"""
LOADS = "import sys, keras; keras.saving.load_model(sys.argv[1])"


def test_where_fastdrop_is_not_imported_keras_says_which_layer_it_does_not_know(tmp_path):
    env, path = environment(tmp_path, KERAS_BACKEND="numpy"), str(tmp_path / "model.keras")
    assert run(["-W", "ignore", "-c", SAVES, path], env).returncode == 0
    result = run(["-W", "ignore", "-c", LOADS, path], env)
    assert result.returncode == 1
    assert "Could not locate class 'Dropout'" in result.stderr
    assert "'module': 'fastdrop.keras'" in result.stderr
    assert run(["-W", "ignore", "-c", f"import fastdrop.keras; {LOADS}", path], env).returncode == 0


# What is missing

WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import fastdrop.keras
"""
NEEDS = (
    r"fastdrop\.keras needs a backend of Keras, and the one that is chosen needs {0}, which is not installed: "
    "python -m pip install {0}, or choose another by KERAS_BACKEND"
)
FAKE = """
import sys, types
sys.modules["keras"] = types.ModuleType("keras")
sys.modules["keras"].__version__ = {version!r}
import fastdrop.keras
"""


@pytest.mark.parametrize(
    ("blocked", "backend", "said"),
    [
        ("keras", "numpy", r"fastdrop\.keras needs Keras 3, which is not installed: python -m pip install keras"),
        ("tensorflow", "tensorflow", NEEDS.format("tensorflow")),
        ("torch", "torch", NEEDS.format("torch")),
        ("jax", "numpy", NEEDS.format("jax")),  # which Keras takes to find out shapes
        ("absl", "numpy", "No module named 'absl'"),  # which is Keras's own affair
    ],
    ids=["keras", "tensorflow", "torch", "jax for NumPy", "what Keras itself needs"],
)
def test_what_is_missing_is_said_in_one_line(blocked, backend, said, tmp_path):
    result = run(["-W", "ignore", "-c", WITHOUT.format(blocked=blocked)], environment(tmp_path, KERAS_BACKEND=backend))
    assert re.fullmatch(f"ModuleNotFoundError: {said}", result.stderr.splitlines()[-1])


@pytest.mark.parametrize("version", ["2.15.0", "3.0.5"])
def test_an_older_keras_is_refused_with_what_to_do(version, tmp_path):
    result = run(["-c", FAKE.format(version=version)], environment(tmp_path))
    assert re.fullmatch(
        rf"ImportError: fastdrop\.keras needs Keras 3\.\d+ or newer, got {re.escape(version)}: python -m pip install "
        "--upgrade keras",
        result.stderr.splitlines()[-1],
    )


def test_importing_and_calling_fastdrop_does_not_import_keras(tmp_path):
    code = """
import sys, numpy, fastdrop, fastdrop.__main__
fastdrop.dropout(numpy.ones(5))
print([name for name in sys.modules if name.partition(".")[0] == "keras" or name.startswith("fastdrop.keras")])
"""
    assert run(["-W", "ignore", "-c", code], environment(tmp_path)).stdout == "[]\n"
