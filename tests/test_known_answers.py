# SPDX-License-Identifier: BSD-3-Clause
"""The stream is the one that its contract states: answers from outside, and the contract restated in a few lines."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import Operation, normal_pair
from hypothesis import given
from hypothesis import strategies as st

import fastdrop

VECTORS = Path(__file__).parent / "vectors"


def program_of_the_normals():
    spec = importlib.util.spec_from_file_location("normals_v1", VECTORS / "normals_v1.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


contract = program_of_the_normals()


def philox_answers():
    for line in (VECTORS / "philox4x32.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            rounds, *numbers = line.split()
            numbers = [int(number, 16) for number in numbers]
            yield pytest.param(int(rounds), numbers[:4], numbers[4:6], numbers[6:], id=f"{rounds}-{numbers[0]:08x}")


def stream_cases():
    for case in json.loads((VECTORS / "stream_v1.json").read_text())["cases"]:
        yield pytest.param(case, id=f"{case['key']}-{case['call']}-{case['start']}-{case['rate']:.4g}")


def normal_cases():
    for case in json.loads((VECTORS / "normals_v1.json").read_text())["cases"]:
        yield pytest.param(case, id=f"{case['key']}-{case['call']}-{case['start']}")


def is_kept(kernels, i, key, call, threshold):
    out = np.empty(1, np.bool_)
    kernels.keep(out, 0, 1, key, call, threshold, i)
    return bool(out[0])


def normals_of(kernels, start, n, key, call):
    """Added to -0, which alone leaves the bits of any number as they are."""
    normals = np.empty(n, np.float32)
    kernels.apply(np.full(n, -0.0, np.float32), normals, 0, n, key, call, 0, 1.0, start, op=Operation.GAUSSIAN_NOISE)
    return normals


@pytest.mark.parametrize(("rounds", "counter", "key", "answer"), list(philox_answers()))
def test_philox_gives_the_published_answers(implementation, rounds, counter, key, answer):
    assert implementation.philox(counter, key, rounds) == tuple(answer)


def test_the_published_answers_are_all_there():
    assert [case.values[0] for case in philox_answers()] == [7, 7, 7, 10, 10, 10]
    assert len(list(stream_cases())) == 22
    assert len(list(normal_cases())) == 9


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


@pytest.mark.parametrize("case", list(normal_cases()))
def test_normals_are_those_of_the_vectors(implementation, case):
    normals = normals_of(implementation, case["start"], case["n"], int(case["key"], 16), case["call"])
    assert [f"{bits:08x}" for bits in normals.view(np.uint32)] == case["normals"]


def test_the_program_of_the_normals_still_makes_their_vectors():
    made = subprocess.run([sys.executable, VECTORS / "normals_v1.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (VECTORS / "normals_v1.json").read_text()


# The contract again, one element at a time and in Python's integers.


def uniform_of(i, key, call):
    planes = [contract.words(i // 128, key, call, b)[i // 32 % 4] >> i % 32 & 1 for b in range(8)]
    tail = contract.words(i // 4, key, call, 8)[i % 4] >> 8
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


@given(start=indices, key=keys, call=calls, n=st.integers(1, 70))
def test_the_normals_of_any_run_follow_the_contract(implementation, start, key, call, n):
    expected = [struct.pack("<f", contract.normal(i, key, call)).hex() for i in range(start, start + n)]
    normals = normals_of(implementation, start, n, key, call)
    assert [normal.tobytes().hex() for normal in normals.astype("<f4")] == expected


some_words = (
    st.integers(0, 2**32 - 1)
    | st.integers(0, 300)
    | st.integers(0, 300).map(lambda below: 2**32 - 1 - below)
    | st.tuples(st.integers(0, 31), st.integers(-300, 300)).map(lambda at: max((1 << at[0]) + at[1], 0))
    | st.tuples(st.integers(0, 31), st.integers(-300, 300)).map(lambda at: (0xB504F334 >> at[0]) + at[1])
)


@given(for_radius=some_words, for_angle=some_words)
def test_the_normals_of_any_two_words_follow_the_contract(for_radius, for_angle):
    """Of the reference, which alone lets words be chosen: around powers of two, and where 1 + f wraps, at sqrt(1/2)."""
    pair = normal_pair(*(np.array([word & 0xFFFFFFFF], np.uint32) for word in (for_radius, for_angle)))
    expected = contract.normal_pair(for_radius & 0xFFFFFFFF, for_angle & 0xFFFFFFFF)
    assert [normal.astype("<f4").tobytes() for normal in pair] == [struct.pack("<f", normal) for normal in expected]


def test_no_bit_of_key_call_or_index_is_ignored(implementation):
    """Each of them changes the mask of 256 elements, of which a hash-like stream leaves none the same by chance."""
    n, key, call, start = 256, 0x0123456789ABCDEF, 0x13579BDF02468A, 0x1122334455667780
    draws = [(key, call, start)]
    draws += [(key ^ 1 << bit, call, start) for bit in range(64)]
    draws += [(key, call ^ 1 << bit, start) for bit in range(56)]
    draws += [(key, call, start ^ 1 << bit) for bit in range(8, 62)]  # lower bits move within these 256
    masks = {implementation.keep_bits(n, key, call, 1 << 31, start).tobytes() for key, call, start in draws}
    assert len(masks) == len(draws)
    normals = {normals_of(implementation, start, n, key, call).tobytes() for key, call, start in draws}
    assert len(normals) == len(draws)


# How near the normal numbers are to what their formulas say

LOG_ERROR, SIN_ERROR, COS_ERROR = 1.4e-6, 6e-7, 7e-8  # as stated beside the coefficients
ROUNDING = 2.0**-24  # of float32, relatively


def in_float64(x, coefficients):
    return sum(float(np.float32(c)) * x**power for power, c in enumerate(coefficients))


def test_the_polynomials_are_as_near_as_they_say():
    f = np.linspace(0.5**0.5, 2**0.5, 1_000_001) - 1
    f = f[f != 0]
    true = -2 * np.log1p(f)
    assert np.abs(f * in_float64(f, contract.MINUS_2_LN) / true - 1).max() < LOG_ERROR
    v = np.linspace(-1, 1, 1_000_001)
    assert np.abs(v * in_float64(v * v, contract.SINE) - np.sin(np.pi / 4 * v)).max() < SIN_ERROR
    assert np.abs(in_float64(v * v, contract.COSINE) - np.cos(np.pi / 4 * v)).max() < COS_ERROR


def test_normals_are_those_of_box_and_muller():
    """Against float64 and libm, from the same words: those of a draw, small ones, and such that u is near 1.

    The radius is off by half the relative error of the logarithm, and each coordinate by the radius times the error of
    sine or cosine; a dozen roundings come to both. u itself is rounded twice, which moves -2 ln u by up to 4 roundings:
    next to 1, where the root is steep, that is the most that an error can be.
    """
    rng = np.random.default_rng(40)
    n = 1 << 20
    for_radius, for_angle = rng.integers(0, 1 << 32, (2, n), np.uint32)
    for_radius[: n // 4] >>= rng.integers(0, 32, n // 4, np.uint32)
    for_radius[n // 4 : n // 2] = ~(for_radius[n // 4 : n // 2] >> rng.integers(0, 32, n // 4, np.uint32))
    pair = normal_pair(for_radius, for_angle)
    u = ((for_radius >> 1) + 0.5) / 2**31
    angle = np.pi / 4 * for_angle.view(np.int32) / 2**31
    radius = np.sqrt(-2 * np.log(u))
    c = radius * np.cos(angle) * np.where(for_angle & 1, -1, 1)
    s = radius * np.sin(angle)
    from_u = 4 * ROUNDING
    tolerance = radius * (LOG_ERROR / 2 + SIN_ERROR + 12 * ROUNDING)
    tolerance += np.minimum(from_u / radius, np.sqrt(from_u))
    is_swapped = (for_radius & 1).astype(np.bool_)
    for got, expected in zip(pair, (np.where(is_swapped, s, c), np.where(is_swapped, c, s)), strict=True):
        assert (np.abs(got - expected) <= tolerance).all()


def test_no_normal_is_larger_than_its_mask_says():
    """Nearest to 0 u is 2**-32."""
    assert contract.radius(0) == contract.radius(1) == pytest.approx((64 * np.log(2)) ** 0.5, rel=LOG_ERROR)
    assert max(map(abs, contract.normal_pair(0, 0))) == pytest.approx(6.66, abs=0.001)


# Keys of places


def folding_cases():
    for case in json.loads((VECTORS / "fold_in_v1.json").read_text(encoding="utf-8"))["cases"]:
        yield pytest.param(case, id=f"{case['key']}-{case['path']}")


@pytest.mark.parametrize("case", list(folding_cases()))
def test_fold_in_gives_the_keys_of_the_vectors(either, case):
    assert f"{fastdrop.fold_in(int(case['key'], 16), *case['path']):#018x}" == case["folded"]


def test_the_program_of_fold_in_still_makes_its_vectors():
    made = subprocess.run(
        [sys.executable, VECTORS / "fold_in_v1.py"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    assert made.stdout == (VECTORS / "fold_in_v1.json").read_text(encoding="utf-8")
