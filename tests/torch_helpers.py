# SPDX-License-Identifier: BSD-3-Clause
"""What tests of fastdrop.torch share. A file that imports this is skipped where PyTorch is missing or not asked for."""

import ml_dtypes
import numpy as np
import pytest
from helpers import using
from peers import MISSING_PEERS, imported

import fastdrop
from fastdrop import PhiloxStream

if "torch" in MISSING_PEERS:
    pytest.skip(f"torch: {MISSING_PEERS['torch']}", allow_module_level=True)

torch = imported("torch")
ft = imported("fastdrop.torch")

KEYS = 2**63 - 1
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def array(t):
    """The elements of a tensor as NumPy has them, in C order."""
    t = t.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()


def tensor(a):
    a = np.array(a, order="C")
    return (
        torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        if a.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(a)
    )


def normals(*shape, dtype=torch.float32, seed=0):
    """Normal numbers, whatever state PyTorch's own generator is in."""
    return tensor(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def assert_same(actual, expected):
    """Bit for bit, NaN and the sign of zeros included."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    bits = [t.detach().resolve_neg().contiguous().view(INTEGERS[t.element_size()]).numpy() for t in (actual, expected)]
    np.testing.assert_array_equal(*bits)


def key_of(seed):
    """The key of the first mask that is drawn after ``torch.manual_seed(seed)``, which this calls."""
    return keys_of(seed, 1)[0]


def keys_of(seed, n):
    """The keys of the first n masks. The generator begins anew then, for the masks themselves."""
    torch.manual_seed(seed)
    keys = [int(torch.randint(0, KEYS, (1,))) for _ in range(n)]
    torch.manual_seed(seed)
    return keys


def defined(name, *operands, p, key, **options):
    """What NumPy's function of that name gives: the definition, by the reference, with the mask of a key."""
    with using("reference"):
        function = getattr(fastdrop, name)
        return tensor(function(*map(array, operands), p, rng=PhiloxStream.from_key(key), **options))


def defined_with_mask(name, *operands, p, key):
    with using("reference"):
        function = getattr(fastdrop, name)
        y, mask = function(*map(array, operands), p, rng=PhiloxStream.from_key(key), return_mask=True)
        return tensor(y), mask


def kept(shape, p, key, **options):
    """Which elements the mask of a key keeps."""
    with using("reference"):
        return torch.from_numpy(fastdrop.DropoutMask(shape, p, key=key, **options).to_array())


def assert_nothing_drawn(state):
    assert torch.equal(torch.get_rng_state(), state), "numbers were drawn"


class Dropped(torch.utils.data.Dataset):
    """For workers of a DataLoader. It stands here because those that are spawned import all of the file it is in."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return ft.dropout(torch.ones(64))
