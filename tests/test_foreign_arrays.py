# SPDX-License-Identifier: BSD-3-Clause
"""Arrays of other libraries are refused where they would lose something; what is its numbers alone is welcome."""

import numpy as np
import pytest

import fastdrop
from fastdrop import DropoutMask, GaussianMask

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
MASK = DropoutMask(X.shape, 0.5, key=1)


class Frame:
    """A data frame: it has ``__array__``, which may give memory that is the frame's own and read-only."""

    def __init__(self, values=X):
        self._values = values.copy()
        self._values.flags.writeable = False

    def __array__(self, dtype=None, copy=None):
        return self._values.copy() if copy else self._values


def stand_in(module, name, **attributes):
    """A class of a library that need not be here, with the attributes by which it is told."""
    return type(name, (Frame,), {"__module__": module, **attributes})


def method(result):
    return lambda self, *args, **options: result


FOREIGN = {
    "dask": (
        stand_in("dask.array.core", "Array"),
        r"a dask\.Array, which would be computed .*: use fastdrop\.dask.*compute",
    ),
    "dask inside": (stand_in("xarray.core", "DataArray", __dask_graph__=method({})), r"use .*\.compute\(\)"),
    "torch": (stand_in("torch", "Tensor"), r"a torch\.Tensor, whose gradient would be lost: use .*\.detach\(\)"),
    "a module's parameter": (stand_in("mine", "Weights", __torch_function__=method(None)), r"use .*\.detach\(\)"),
    "jax": (stand_in("jaxlib._jax", "ArrayImpl"), r"a jaxlib\.ArrayImpl, .* use fastdrop\.jax, or numpy\.asarray\("),
    "jax inside": (stand_in("flax.core", "Param", __jax_array__=method(None)), r"use fastdrop\.jax, or numpy\.as"),
    "tensorflow": (stand_in("tensorflow.python.framework.ops", "EagerTensor"), r"use .*fastdrop\.keras.*\.numpy\(\)"),
    "keras": (stand_in("keras.src.backend", "KerasVariable"), r"use .*fastdrop\.keras, or keras\.ops\.convert_to_n"),
    "a class of theirs": (type("Mine", (stand_in("tensorflow", "Tensor"),), {}), r"use .*\.numpy\(\)"),
    "cupy": (stand_in("cupy", "ndarray"), r"use .*\.get\(\)"),
    "paddle": (stand_in("paddle.base", "Tensor"), r"use numpy\.asarray\("),
    "a unit": (stand_in("pint", "Quantity", __array_function__=method(None)), r"a pint\.Quantity, .* numpy\.asarray\("),
    "the array API": (stand_in("strict", "Array", __array_namespace__=method(None)), r"use numpy\.asarray\("),
}


@pytest.fixture(params=FOREIGN)
def foreign(request):
    """A class, and what is said of its arrays."""
    return FOREIGN[request.param]


def test_no_array_loses_what_it_is_in_silence(foreign):
    cls, message = foreign
    x = cls()
    gates = fastdrop.RecurrentDropout(0.5, rng=1).draw(batch=2, features=3, units=3).input
    wrapper = fastdrop.DropoutWrapper(lambda x, state: (x, state), 0.5, rng=1)
    stream = fastdrop.PhiloxStream(1)
    calls = {
        "x": [
            lambda: fastdrop.dropout(x, rng=stream),
            lambda: fastdrop.dropout(x, training=False),
            lambda: fastdrop.dropout1d(x),
            lambda: fastdrop.gaussian_noise(x, 0.5),
            lambda: fastdrop.bias_dropout_add(x, X[0], X, rng=stream),
            lambda: fastdrop.Dropout(0.5)(x),
            lambda: MASK.apply(x),
            lambda: GaussianMask(X.shape, 0.5, key=1).apply(x),
            lambda: gates.apply(x),
        ],
        "dy": [
            lambda: MASK.backward(x),
            lambda: fastdrop.dropout_add_backward(x, MASK),
            lambda: fastdrop.bias_dropout_add_backward(x, MASK),
            lambda: fastdrop.relu_dropout_backward(x, X, MASK),
            lambda: fastdrop.zoneout_backward(x, DropoutMask(X.shape, 0.5, key=1, scale=1.0)),
            lambda: gates.backward(x),
        ],
        "table": [lambda: fastdrop.embedding_dropout(x)],
        "weights": [lambda: fastdrop.dropconnect(x)],
        "residual": [lambda: fastdrop.dropout_add(X, x, rng=stream)],
        "bias": [lambda: fastdrop.bias_dropout_add(X, x, X, rng=stream)],
        "old": [lambda: fastdrop.zoneout(X, x, rng=stream)],
        "y": [lambda: fastdrop.relu_dropout_backward(X, x, MASK)],
        "keep": [lambda: DropoutMask.from_array(x, 0.5)],
        "the input of the cell": [lambda: wrapper(x, X)],
    }
    for name, wrong in calls.items():
        for call in wrong:
            with pytest.raises(TypeError, match=rf"^{name} must be an array of .* got .*{message}"):
                call()
    with pytest.raises(TypeError, match=rf"f must return .* got .*{message}"):
        fastdrop.mc_predict(lambda x: x, x, 2)
    with pytest.raises(TypeError, match="out must be a NumPy array, got"):
        fastdrop.dropout(X, out=x)
    assert stream.call == wrapper.rng.call == 0


def test_a_list_of_such_arrays_is_as_one(foreign):
    cls, _ = foreign
    for x in ([cls(), cls()], (1.0, [2.0, [cls()]])):
        with pytest.raises(TypeError, match=r"x must be an array of .* got a sequence of .* use .*each"):
            fastdrop.dropout(x)


WELCOME = {
    "list": lambda: X.tolist(),
    "tuple": lambda: tuple(map(tuple, X.tolist())),
    "frame": Frame,
    "list of rows": lambda: [Frame(row) for row in X],
    "series with ufuncs": lambda: stand_in("pandas", "Series", __array_ufunc__=method(None))(),
    "xarray of numbers": lambda: stand_in("xarray.core", "DataArray", __dask_graph__=method(None))(),
    "mask": lambda: GaussianMask(X.shape, 0.5, key=1),
}
NOTHING_CHANGES = {
    "training=False": lambda x: fastdrop.dropout(x, training=False),
    "rate 0": lambda x: fastdrop.dropout(x, 0.0),
    "alpha": lambda x: fastdrop.alpha_dropout(x, 0.0),
    "gaussian": lambda x: fastdrop.gaussian_noise(x, 0.0),
    "layer": lambda x: fastdrop.Dropout().eval()(x),
    "mask": lambda x: DropoutMask(X.shape, 0.0, key=1).apply(x),
    "alpha mask": lambda x: fastdrop.AlphaMask(X.shape, 0.0, key=1).backward(x),
    "gaussian mask": lambda x: GaussianMask(X.shape, 0.5, key=1, additive=True).backward(x),
    "dx": lambda x: fastdrop.dropout_add_backward(x, DropoutMask(X.shape, 0.0, key=1))[0],
    "dnew": lambda x: fastdrop.zoneout_backward(x, DropoutMask(X.shape, 0.0, key=1))[0],
    "dresidual": lambda x: fastdrop.dropout_add_backward(x, MASK)[1],
    "dresidual beside dbias": lambda x: fastdrop.bias_dropout_add_backward(x, MASK)[2],
}


@pytest.mark.parametrize("welcome", WELCOME.values(), ids=WELCOME.keys())
def test_numbers_in_any_form_give_a_new_array_whether_or_not_anything_changes(welcome, either):
    given = welcome()
    numbers = np.array(given)
    dropped = fastdrop.dropout(given, 0.5, rng=0)
    np.testing.assert_array_equal(dropped, fastdrop.dropout(numbers, 0.5, rng=0))
    for what, function in NOTHING_CHANGES.items():
        y = function(given)
        assert (type(y), y.flags.writeable, y.dtype) == (np.ndarray, True, dropped.dtype), what
        np.testing.assert_array_equal(y, numbers, what)
        y[...] = 9
        np.testing.assert_array_equal(np.asarray(given), numbers, what)
        assert function(numbers) is numbers, what


def test_numbers_without_dimensions_are_welcome_too():
    for number in (2.5, np.float32(2.5)):
        y = fastdrop.dropout(number, training=False)
        assert (type(y), y.shape, y.flags.writeable, float(y)) == (np.ndarray, (), True, 2.5)
