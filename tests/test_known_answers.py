# SPDX-License-Identifier: BSD-3-Clause
"""The stream is the one that its contract states: answers from outside, and the contract restated in a few lines."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastdrop

VECTORS = Path(__file__).parent / "vectors"


def philox_answers():
    for line in (VECTORS / "philox4x32.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            rounds, *numbers = line.split()
            numbers = [int(number, 16) for number in numbers]
            yield pytest.param(int(rounds), numbers[:4], numbers[4:6], numbers[6:], id=f"{rounds}-{numbers[0]:08x}")


def stream_cases():
    for case in json.loads((VECTORS / "stream_v1.json").read_text())["cases"]:
        yield pytest.param(case, id=f"{case['key']}-{case['call']}-{case['start']}-{case['rate']:.4g}")


def is_kept(kernels, i, key, call, threshold):
    out = np.empty(1, np.bool_)
    kernels.keep(out, 0, 1, key, call, threshold, i)
    return bool(out[0])


@pytest.mark.parametrize(("rounds", "counter", "key", "answer"), list(philox_answers()))
def test_philox_gives_the_published_answers(implementation, rounds, counter, key, answer):
    assert implementation.philox(counter, key, rounds) == tuple(answer)


def test_the_published_answers_are_all_there():
    assert [case.values[0] for case in philox_answers()] == [7, 7, 7, 10, 10, 10]
    assert len(list(stream_cases())) == 22


@pytest.mark.parametrize("case", list(stream_cases()))
def test_masks_are_those_of_the_vectors(implementation, case):
    n, start, key, call = case["n"], case["start"], int(case["key"], 16), case["call"]
    assert fastdrop.DropoutMask(n, case["rate"], key=key).threshold == case["threshold"]
    bits = implementation.keep_bits(n, key, call, case["threshold"], start)
    assert bits.tobytes().hex() == case["keep_bits_little"]
    keep = np.empty(n, np.bool_)
    implementation.keep(keep, 0, n, key, call, case["threshold"], start)
    assert np.count_nonzero(keep) == case["kept"]
    assert np.packbits(keep, bitorder="little").tobytes().hex() == case["keep_bits_little"]


@pytest.mark.parametrize("case", list(stream_cases()))
def test_uniforms_are_those_of_the_vectors(implementation, case):
    """An element is kept iff U >= D, so U is known once it is kept at D = U and dropped at D = U + 1."""
    for i, text in enumerate(case["first_uniforms"], start=case["start"]):
        uniform = int(text, 16)
        assert is_kept(implementation, i, int(case["key"], 16), case["call"], uniform)
        assert not is_kept(implementation, i, int(case["key"], 16), case["call"], uniform + 1)


# The contract again, one element at a time and in Python's integers.


def philox4x32_10(counter, key):
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1, c2, c3


def words(index, key, call, domain):
    counter = (index % 2**32, index // 2**32, call % 2**32, call // 2**32 * 256 + domain)
    return philox4x32_10(counter, (key % 2**32, key // 2**32))


def uniform_of(i, key, call):
    planes = [words(i // 128, key, call, b)[i // 32 % 4] >> i % 32 & 1 for b in range(8)]
    tail = words(i // 4, key, call, 8)[i % 4] >> 8
    return sum(bit << 31 - b for b, bit in enumerate(planes)) + tail


indices = (
    st.integers(0, 10_000)
    | st.integers(0, 2**62)
    | st.sampled_from([2**32, 2**34, 2**39, 2**40, 2**62]).flatmap(lambda edge: st.integers(edge - 300, edge + 300))
)
keys = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**32 - 1, 2**32, 2**64 - 1])
calls = st.integers(0, 2**56 - 1) | st.sampled_from([0, 2**32 - 1, 2**32, 2**56 - 1])


@given(i=indices, key=keys, call=calls)
def test_the_uniform_of_any_element_follows_the_contract(implementation, i, key, call):
    uniform = uniform_of(i, key, call)
    assert is_kept(implementation, i, key, call, uniform)
    assert not is_kept(implementation, i, key, call, uniform + 1)


@given(start=indices, key=keys, call=calls, threshold=st.integers(0, 2**32), n=st.integers(1, 40))
def test_the_mask_of_any_run_follows_the_contract(implementation, start, key, call, threshold, n):
    keep = np.empty(n, np.bool_)
    implementation.keep(keep, 0, n, key, call, threshold, start)
    assert keep.tolist() == [uniform_of(i, key, call) >= threshold for i in range(start, start + n)]


def test_no_bit_of_key_call_or_index_is_ignored(implementation):
    """Each of them changes the mask of 256 elements, of which a hash-like stream leaves none the same by chance."""
    n, key, call, start = 256, 0x0123456789ABCDEF, 0x13579BDF02468A, 0x1122334455667780
    draws = [(key, call, start)]
    draws += [(key ^ 1 << bit, call, start) for bit in range(64)]
    draws += [(key, call ^ 1 << bit, start) for bit in range(56)]
    draws += [(key, call, start ^ 1 << bit) for bit in range(8, 62)]  # lower bits move within these 256
    masks = {implementation.keep_bits(n, key, call, 1 << 31, start).tobytes() for key, call, start in draws}
    assert len(masks) == len(draws)
