# SPDX-License-Identifier: BSD-3-Clause
"""What tests of fastdrop.thinc share. A file that imports this is skipped where thinc is missing or not asked for."""

import os
import subprocess
import sys
import tomllib

import helpers
import numpy as np
import pytest
from peers import MISSING_PEERS, imported

import fastdrop

if "thinc" in MISSING_PEERS:
    pytest.skip(f"thinc: {MISSING_PEERS['thinc']}", allow_module_level=True)

thinc = imported("thinc.api")
ft = imported("fastdrop.thinc")


def normals(*shape, dtype=np.float32, seed=0):
    """Normal numbers, whatever state NumPy's global generator is in."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def keys_of(seed, n=1):
    """The keys of the first n masks after ``numpy.random.seed(seed)``, which is called again then, for these masks."""
    np.random.seed(seed)
    words = np.random.randint(0, 2**32, (n, 2), np.uint32).tolist()
    np.random.seed(seed)
    return [low + (high << 32) for low, high in words]


def mask_of(shape, rate, key):
    """The definition: the mask of a key, as the reference draws it, with its scale in place of ones."""
    with helpers.using("reference"):
        return fastdrop.DropoutMask(shape, rate, key=key).to_array()


def dropped(x, rate, key):
    """The definition of dropout, by the reference."""
    with helpers.using("reference"):
        return fastdrop.DropoutMask(x.shape, rate, key=key).apply(x)


def state():
    """NumPy's global generator, to be compared."""
    name, numbers, *rest = np.random.get_state()
    return name, numbers.tolist(), *rest


def assert_same(actual, expected):
    """Bit for bit, NaN and the sign of zeros included."""
    assert (type(actual), actual.shape, actual.dtype) == (type(expected), expected.shape, expected.dtype)
    np.testing.assert_array_equal(actual.view(f"u{actual.itemsize}"), expected.view(f"u{expected.itemsize}"))


def installed(folder):
    """What an installation adds to a folder: the entry points of pyproject.toml, by which fastdrop is found."""
    with open(helpers.PACKAGE.parent / "pyproject.toml", "rb") as file:
        groups = tomllib.load(file)["project"]["entry-points"]
    info = folder / "fastdrop-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastdrop\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in of.items()) for group, of in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(code, *folders, arguments=()):
    """A program that finds fastdrop, and what is in these folders before anything else."""
    environment = helpers.environment()
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), environment["PYTHONPATH"]])
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
