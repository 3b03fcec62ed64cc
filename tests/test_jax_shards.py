# SPDX-License-Identifier: BSD-3-Clause
"""Devices that hold blocks of an array drop by blocks of one mask. The cases stand in jax_shards.py."""

import json
import subprocess
import sys

import helpers
import pytest
from jax_shards import CASES


@pytest.fixture(scope="module")
def found():
    program = helpers.TESTS / "jax_shards.py"
    result = subprocess.run(
        [sys.executable, str(program)], env=helpers.environment(), capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", CASES)
def test_on_four_devices(found, name):
    assert found[name] == "", found[name]
