# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: implementations that they run on, the oracle, the family, the peers, hypothesis' settings."""

import dataclasses
import importlib.metadata
import os
import platform
import warnings

import hypothesis
import ml_dtypes
import numpy as np
import pytest

with warnings.catch_warnings():
    # Without the compiled core there is a warning, which would end the session; the header and the skips say it too.
    warnings.filterwarnings("ignore", "fastdrop was built without its compiled core", RuntimeWarning)
    import fastdrop

import helpers
from peers import MISSING_PEERS, PEERS, imported, listed

DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]

# The implementation under test stays the same along the examples of a test, so it need not be made anew for each.
SHARED_FIXTURES = [hypothesis.HealthCheck.function_scoped_fixture]
FEW_CASES, MANY_CASES = 40, 300
hypothesis.settings.register_profile(
    "default", max_examples=FEW_CASES, deadline=None, suppress_health_check=SHARED_FIXTURES
)
hypothesis.settings.register_profile(
    "ci", max_examples=MANY_CASES, deadline=None, derandomize=True, suppress_health_check=SHARED_FIXTURES
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def _compiled_names():
    """The instruction sets that a build for this machine's architecture holds, whether there is such a build or not."""
    if helpers.compiled() is not None:
        return helpers.compiled().built()
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return ("portable", "sse2", "avx2", "avx512")
    return ("portable", "neon") if machine in ("aarch64", "arm64") else ("portable",)


def _why_skipped(name):
    """Why an instruction set is not tested here; None if it is."""
    if os.environ.get("FASTDROP_NO_EXTENSION") == "1":
        return "FASTDROP_NO_EXTENSION=1 is set"
    if helpers.compiled() is None:
        return "fastdrop was built without its compiled core"
    return None if name in helpers.names() else "this machine cannot run it"


SKIPPED = {name: why for name in _compiled_names() if (why := _why_skipped(name)) is not None}


def _row(name):
    """An instruction set as a row of tests, which says so where it is skipped."""
    why = SKIPPED.get(name)
    return pytest.param(name, id=name, marks=[] if why is None else [pytest.mark.skip(reason=f"{name}: {why}")])


REFERENCE = pytest.param("reference", id="reference")
COMPILED = [_row(name) for name in _compiled_names()]
FASTEST = _row(([name for name in _compiled_names() if name not in SKIPPED] or _compiled_names())[-1])


def _asked_but_not_run(variable, known, skipped, why_unknown):
    """What an environment variable lists although it will not run here, with the reasons."""
    return [
        f"{name} ({skipped.get(name, why_unknown)})"
        for name in listed(variable)
        if name in skipped or name not in known
    ]


def pytest_configure(config):
    """FASTDROP_TEST_ISAS=portable,sse2: to leave one of them out is an error, not a skip that nobody reads.

    The same holds for the peers in FASTDROP_TEST_PEERS=torch,keras,thinc.
    """
    config.addinivalue_line("markers", "asked_for(variable): runs only where this environment variable is set")
    for variable, known, skipped, why_unknown in (
        ("FASTDROP_TEST_ISAS", ("reference", *_compiled_names()), SKIPPED, "not in this build"),
        ("FASTDROP_TEST_PEERS", PEERS, MISSING_PEERS, "not a peer"),
    ):
        missing = _asked_but_not_run(variable, known, skipped, why_unknown)
        if missing:
            raise pytest.UsageError(f"{variable} asks for what will not run: {', '.join(missing)}")


def pytest_report_header(config):
    run = ["reference", *(name for name in _compiled_names() if name not in SKIPPED)]
    peers = [f"{peer} {importlib.metadata.version(peer)}" for peer in PEERS if peer not in MISSING_PEERS]
    return [
        f"implementations that run: {', '.join(run)}",
        f"implementations skipped: {', '.join(f'{name} ({why})' for name, why in SKIPPED.items()) or 'none'}",
        f"peers that run: {', '.join(peers) or 'none'}",
        f"peers skipped: {', '.join(f'{peer} ({why})' for peer, why in MISSING_PEERS.items()) or 'none'}",
    ]


# What takes minutes, or other machines, programs and libraries than fastdrop needs, and which variable asks for it.
ASKED_FOR = {
    "FASTDROP_TEST_CROSS": "the core compiled alone, with sanitizers and for other machines",
    "FASTDROP_TEST_PEERS": "other libraries beside fastdrop, and fastdrop's clients of them",
    "FASTDROP_TEST_4GB": "4 GB on two workers of Dask's, one of which is killed",
    "FASTDROP_TEST_EXAMPLES": "the scripts of examples/",
    "FASTDROP_TEST_BENCHMARKS": "reports of benchmarks",
    "FASTDROP_TEST_BROWSER": "their page in a browser",
}


def pytest_unconfigure(config):
    """The last line of a run of all tests: what it left out."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.stats or config.args_source != config.ArgsSource.TESTPATHS:
        return
    left_out = [f"{what} ({variable})" for variable, what in ASKED_FOR.items() if not os.environ.get(variable)]
    if (cases := hypothesis.settings.default.max_examples) < MANY_CASES:
        left_out.append(f"{MANY_CASES - cases} of {MANY_CASES} random cases of a property (HYPOTHESIS_PROFILE=ci)")
    if left_out:
        reporter.write_line(
            f"left out here: {', '.join(left_out)}. That is fine: the tests above hold every promise on this machine, "
            "and .ci/run asks for the others before a change is merged."
        )


@pytest.fixture(params=[REFERENCE, *COMPILED])
def implementation(request):
    """The kernels of each implementation in turn. The whole package works with them during the test."""
    with helpers.using(request.param):
        yield helpers.running()


@pytest.fixture(params=COMPILED)
def compiled(request):
    """The same without the reference: for comparisons with it, which it would pass whatever it did."""
    with helpers.using(request.param):
        yield helpers.running()


@pytest.fixture(params=[REFERENCE, FASTEST])
def either(request):
    """The reference and the fastest kernels of this machine: for what stands above the kernels.

    That those between give the same is what the tests of kernels, of known answers, of invariance and of threads prove.
    """
    with helpers.using(request.param):
        yield helpers.running()


@pytest.fixture
def oracle():
    return helpers.oracle()


@pytest.fixture
def dtypes():
    return DTYPES


@pytest.fixture(params=DTYPES, ids=[dtype.name for dtype in DTYPES])
def dtype(request):
    return request.param


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of the family, and what it takes to call all of them in one way."""

    name: str
    shape: tuple[int, ...] = (7, 5, 9)
    operands: tuple[str, ...] = ("x",)
    shared: tuple[int, ...] = ()  # the axes along which elements drop together
    amount: str = "rate"  # the argument that says how much noise there is

    def __call__(self, *arrays, **options):
        return getattr(fastdrop, self.name)(*arrays, **options)

    def arrays(self, dtype=np.float32, seed=0):
        """An array for each operand: normal numbers, and zeros of both signs."""
        random = np.random.default_rng(seed)
        shapes = [self.shape[-1:] if operand == "bias" else self.shape for operand in self.operands]
        arrays = [random.standard_normal(shape).astype(dtype) for shape in shapes]
        for array in arrays:
            array.flat[1], array.flat[2] = 0.0, -0.0
        return arrays

    def mask(self, amount, stream, call):
        """The mask that a call in training has, made without the function."""
        if self.name.startswith("gaussian"):
            stddev = amount if self.amount == "stddev" else (amount / (1 - amount)) ** 0.5
            additive = self.name == "gaussian_noise"
            return fastdrop.GaussianMask(self.shape, stddev, key=stream.key, call=call, additive=additive)
        if self.name == "drop_block2d":
            return fastdrop.BlockMask(self.shape, amount, key=stream.key, call=call)
        noise_shape = tuple(1 if axis in self.shared else n for axis, n in enumerate(self.shape))
        options = {"scale": 1.0} if self.name == "zoneout" else {}
        kind = fastdrop.AlphaMask if "alpha" in self.name else fastdrop.DropoutMask
        return kind(self.shape, amount, key=stream.key, call=call, noise_shape=noise_shape, **options)


FUNCTIONS = [
    Function("dropout"),
    Function("dropout1d", shared=(2,)),
    Function("dropout2d", (3, 4, 5, 6), shared=(2, 3)),
    Function("dropout3d", (2, 3, 4, 3, 5), shared=(2, 3, 4)),
    Function("drop_block2d", (3, 4, 9, 10)),
    Function("drop_path", (31, 3, 4), shared=(1, 2)),
    Function("dropconnect", operands=("weights",)),
    Function("embedding_dropout", (40, 7), operands=("table",), shared=(1,)),
    Function("alpha_dropout"),
    Function("feature_alpha_dropout", shared=(2,)),
    Function("gaussian_dropout"),
    Function("gaussian_noise", amount="stddev"),
    Function("dropout_add", operands=("x", "residual")),
    Function("bias_dropout_add", operands=("x", "bias", "residual")),
    Function("relu_dropout"),
    Function("zoneout", operands=("new", "old")),
]
FAMILY = {function.name: function for function in FUNCTIONS}


@pytest.fixture(params=FAMILY)
def function(request):
    """Each function of the family in turn; ``parametrize(..., indirect=True)`` takes some of them by name."""
    return FAMILY[request.param]


def pytest_runtest_setup(item):
    """Skip what nobody asks for, or wants a peer that is missing. Here, and not where it stands, it makes one line."""
    for marker in item.iter_markers("asked_for"):
        if not os.environ.get(marker.args[0]):
            pytest.skip(f"{item.path.name}: runs where {marker.args[0]}=1 asks for it")
    for peer, why in MISSING_PEERS.items():
        if peer in item.fixturenames:
            pytest.skip(f"{peer}: {why}")


@pytest.fixture
def torch():
    return imported("torch")


@pytest.fixture
def dask():
    return imported("dask")


@pytest.fixture(scope="session")
def keras(tmp_path_factory):
    """Keras 3 with its NumPy backend, whatever the user's own configuration says, which stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "numpy")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        module = imported("keras")
    assert module.backend.backend() == "numpy"
    return module


@pytest.fixture
def thinc():
    return imported("thinc.api")
