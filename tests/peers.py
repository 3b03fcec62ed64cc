# SPDX-License-Identifier: BSD-3-Clause
"""Libraries that fastdrop is tested beside: which of them are there and asked for, and how they are imported."""

import importlib
import importlib.util
import os
import warnings

# Each with all that it needs for that. Keras's NumPy backend imports the other two, and does not install them; so do
# PyTorch's sample inputs with the other one, and exported programs of JAX with theirs.
PEERS = {
    "torch": ("torch", "expecttest"),
    "jax": ("jax", "flatbuffers"),
    "keras": ("keras", "jax", "scipy"),
    "tensorflow": ("tensorflow",),
    "dask": ("dask", "distributed", "xarray"),
    "thinc": ("thinc",),
    "spacy": ("spacy",),
}


def listed(variable):
    """The names that an environment variable lists."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def _why_not_tested(peer):
    """Why fastdrop is not tested beside a peer here; None if it is."""
    lacking = [module for module in PEERS[peer] if importlib.util.find_spec(module) is None]
    if peer in lacking:
        return "not installed"
    if lacking:
        return f"lacks {' and '.join(lacking)}"
    return None if peer in listed("FASTDROP_TEST_PEERS") else "FASTDROP_TEST_PEERS does not ask for it"


MISSING_PEERS = {peer: why for peer in PEERS if (why := _why_not_tested(peer)) is not None}


def imported(module):
    """A module of a peer. If it is installed and cannot be imported, that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer deprecates is not ours to mend
        return importlib.import_module(module)
