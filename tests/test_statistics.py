# SPDX-License-Identifier: BSD-3-Clause
"""Masks are as random as they say, and normal numbers as normal.

Keys are fixed, so nothing here passes or fails by luck of the day. One implementation is enough: the bits are the
same for all, which other tests see to. Every bound is at 4 sigma, that is a probability of 3.2e-5 on either side, which
a few hundred comparisons leave room for.
"""

import math
from statistics import NormalDist

import numpy as np
import pytest

import fastdrop

FOUR_SIGMA = 3.167e-5  # P(a normal variable is more than 4 sigma above its mean)

# Where a chi-square variable is with all but that probability on either side, by degrees of freedom: from
# scipy.stats.chi2.ppf(FOUR_SIGMA, dof) and .isf(FOUR_SIGMA, dof). What is below the lower one fits too well for chance.
CHI_SQUARE = {
    3: (0.00242, 23.51),
    15: (2.020, 47.41),
    64: (28.318, 119.55),
    255: (174.47, 355.50),
    2048: (1801.9, 2314.1),
}
NORMAL = NormalDist()


def dropped(n, rate, key, call=0, start=0):
    """Which elements are dropped, from ``start`` on."""
    return ~np.asarray(fastdrop.DropoutMask(start + n, rate, key=key, call=call)[start:])


def count_dropped(n, rate, key):
    return n - int(np.bitwise_count(fastdrop.DropoutMask(n, rate, key=key).packbits()).sum())


def probability_of(rate):
    """What the rate is drawn as: a multiple of 2**-32."""
    return round(rate * 2**32) / 2**32


def binomial_tail(k, n, p):
    """P(X <= k) or P(X >= k), whichever is on k's side of the mean, of the binomial law of n and p.

    The terms fall from k outward, so the sum ends where they no longer count.
    """
    step, odds = (-1, (1 - p) / p) if k <= n * p else (1, p / (1 - p))
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    term = total = math.exp(logs)
    while 0 <= k + step <= n and term > total * 1e-12:
        term *= odds * (k / (n - k + 1) if step < 0 else (n - k) / (k + 1))
        total += term
        k += step
    return total


def assert_binomial(k, n, p):
    tail = binomial_tail(int(k), n, p)
    assert tail > FOUR_SIGMA, f"{k} of {n} at probability {p}: a tail of {tail:.2g}"


def assert_independent(a, b, p, q=None):
    """Two rows of booleans, true with probability p and q: all four combinations come as often as they should."""
    q = p if q is None else q
    counts = np.bincount((2 * a.reshape(-1) + b.reshape(-1)).astype(np.int64), minlength=4)
    expected = a.size * np.array([(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q])
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    low, high = CHI_SQUARE[3]
    assert low < chi_square < high, f"counts {counts}, expected {expected}"


def test_the_binomial_tail_is_the_exact_one():
    """Against sums of whole numbers."""
    for n, p in ((10, 0.5), (50, 0.25), (40, 0.9375)):
        for k in range(n + 1):
            below = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))
            above = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))
            assert math.isclose(binomial_tail(k, n, p), below if k <= n * p else above, rel_tol=1e-9)


# How many


RATES = [1e-6, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 0.999, 1 - 1e-5, 1 - 1e-6]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("key", [1, 0xDEADBEEF00000000])
def test_the_fraction_dropped_follows_the_binomial_law(rate, key):
    n = 1 << 24
    assert_binomial(count_dropped(n, rate, key), n, probability_of(rate))


def test_rates_of_8_bits_neighbours_are_told_apart():
    """A rate rounded to 1/256, as 8 random bits an element would have it, would make these three the same."""
    n = 1 << 22
    counts = [count_dropped(n, rate, 5) for rate in (0.0990, 0.1, 0.1010)]
    for count, rate in zip(counts, (0.0990, 0.1, 0.1010), strict=True):
        assert_binomial(count, n, probability_of(rate))


def test_every_place_of_a_tile_is_dropped_as_often():
    draws, rate = 2000, 0.3
    counts = sum(dropped(2048, rate, 77, call).astype(np.int64) for call in range(draws))
    p = probability_of(rate)
    chi_square = float(((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)))
    low, high = CHI_SQUARE[2048]
    assert low < chi_square < high


# Independence


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 31, 32, 33, 64, 127, 128, 129, 512, 2048, 4096])
def test_neighbours_are_independent(rate, lag):
    """Over pairs that share no element, or their counts would not follow the law."""
    pairs = dropped((1 << 21) // (2 * lag) * 2 * lag, rate, 11).reshape(-1, 2, lag)
    assert_independent(pairs[:, 0], pairs[:, 1], probability_of(rate))


@pytest.mark.parametrize("width", [10, 100, 128, 1000, 4096])
def test_rows_are_independent(width):
    mask = fastdrop.DropoutMask((2 * (250_000 // width), width), 0.3, key=12)
    drop = ~np.asarray(mask)
    assert_independent(drop[::2], drop[1::2], probability_of(0.3))


@pytest.mark.parametrize("bit", range(56))
def test_calls_are_independent(bit):
    """Those that differ in a bit, the next one among them."""
    n, call = 1 << 17, 0x5A5A5A5A5A5A5A
    a, b = (dropped(n, 0.3, 13, c) for c in (call, call ^ 1 << bit))
    assert_independent(a, b, probability_of(0.3))


@pytest.mark.parametrize("bit", range(64))
def test_keys_are_independent(bit):
    n, key = 1 << 17, 0x0123456789ABCDEF
    a, b = (dropped(n, 0.3, k) for k in (key, key ^ 1 << bit))
    assert_independent(a, b, probability_of(0.3))


@pytest.mark.parametrize("power", [17, 31, 32, 34, 38, 39, 40, 50, 62])
def test_far_parts_of_a_mask_are_independent(power):
    """Where a counter's words begin and end, and an index of 32 bits would wrap."""
    a, b = (dropped(1 << 17, 0.3, 14, start=start) for start in (0, 1 << power))
    assert_independent(a, b, probability_of(0.3))


def test_calls_in_a_row_are_independent_of_place():
    """A mask is not the last one moved along."""
    n = 1 << 18
    a, b = dropped(n, 0.5, 15, 0), dropped(n, 0.5, 15, 1)
    for shift in (1, 4, 32, 128, 2048):
        assert_binomial(np.count_nonzero(a[shift:] ^ b[:-shift]), n - shift, 0.5)


# The uniforms themselves, which are seen through masks alone: U >= D exactly where an element is kept at D.


def upper_bytes(n, key):
    return sum(np.asarray(fastdrop.DropoutMask(n, k / 256, key=key)).astype(np.int64) for k in range(1, 256))


def test_the_eight_planes_make_uniform_bytes():
    n = 1 << 18
    counts = np.bincount(upper_bytes(n, 21), minlength=256)
    chi_square = float(((counts - n / 256) ** 2).sum() / (n / 256))
    low, high = CHI_SQUARE[255]
    assert low < chi_square < high


def test_planes_are_independent_of_each_other_and_of_their_neighbours():
    """Any two of them, of the same element and of elements a word, a block or one place apart."""
    n = 1 << 18
    planes = [(upper_bytes(n, 22) >> 7 - b & 1).astype(np.bool_) for b in range(8)]
    for lag in (0, 1, 32, 128):
        for a in range(8):
            for b in range(8):
                if lag > 0 or a < b:
                    differ = planes[a][lag:] ^ planes[b][: n - lag]
                    assert_binomial(np.count_nonzero(differ), n - lag, 0.5)


def test_tails_are_uniform():
    """Sixteen equal parts of the uniforms below 2**24, where the upper byte is 0 and the tail decides."""
    n = 1 << 24
    below = np.array([count_dropped(n, k / 16 / 256, 23) for k in range(17)])
    counts = np.diff(below)
    chi_square = float(((counts - below[-1] / 16) ** 2).sum() / (below[-1] / 16))
    low, high = CHI_SQUARE[15]
    assert low < chi_square < high


def test_all_32_bits_of_a_uniform_are_balanced():
    """Each found by bisection: 32 masks of an element tell its uniform."""
    n, key = 1024, 24
    uniforms = []
    for i in range(n):
        low = 0
        for bit in reversed(range(32)):
            if not dropped(1, (low + (1 << bit)) / 2**32, key, start=i)[0]:
                low += 1 << bit
        uniforms.append(low)
    bits = np.array(uniforms, np.uint64)[:, None] >> np.arange(32, dtype=np.uint64) & np.uint64(1)
    for count in bits.sum(axis=0):
        assert_binomial(count, n, 0.5)
    for bit in range(31):  # and neighbouring bits of one uniform, across the seam of planes and tail too
        assert_binomial(np.count_nonzero(bits[:, bit] != bits[:, bit + 1]), n, 0.5)


# What it is for


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_stays_and_the_variance_grows_as_it_should(dtype, rate):
    """For fixed x, y = x * Bernoulli(1-r) / (1-r) has the mean x, and y**2 the mean x**2 / (1-r).

    Sums over a quarter of a million elements are normal enough for 4 sigma. Roundings of 2**-24 do not show.
    """
    x = np.random.default_rng(31).uniform(0.5, 1.5, 1 << 18).astype(dtype)
    y = fastdrop.dropout(x, rate, rng=32).astype(np.float64)
    x = x.astype(np.float64)
    sigma = math.sqrt((x**2).sum() * rate / (1 - rate))
    assert abs(y.sum() - x.sum()) < 4 * sigma
    sigma = math.sqrt((x**4).sum() * rate / (1 - rate) ** 3)
    assert abs((y**2).sum() - (x**2).sum() / (1 - rate)) < 4 * sigma


def test_each_element_keeps_its_mean_over_many_draws():
    draws, rate = 4000, 0.3
    x = np.linspace(-2, 2, 501)
    rng = fastdrop.PhiloxStream.from_key(33)
    mean = sum(fastdrop.dropout(x, rate, rng=rng) for _ in range(draws)) / draws
    sigma = np.abs(x) * math.sqrt(rate / (1 - rate) / draws)
    assert (np.abs(mean - x) <= 4.5 * sigma).all()  # 501 comparisons: at 4 sigma 3 % of all keys would fail


# Normal numbers. Their errors, of 1e-6 relatively, are far below what the numbers of draws here can tell.


def normals(n, key, call=0, start=0):
    return np.asarray(fastdrop.GaussianMask(start + n, 1.0, key=key, call=call, additive=True)[start:])


def is_positive(x):
    return x > 0


def is_large(x):
    """As likely as not, and independent of the sign."""
    return np.abs(x) > NORMAL.inv_cdf(0.75)


def assert_independent_normals(x, y):
    for of_x in (is_positive, is_large):
        for of_y in (is_positive, is_large):
            assert_independent(of_x(x), of_y(y), 0.5)
    # The sum of so many products is normal.
    correlation = float(np.sum(x * y, dtype=np.float64)) / math.sqrt(x.size)
    assert abs(correlation) < 4


def assert_equally_often(bins, n):
    """Each of n values as often as the others."""
    counts = np.bincount(bins.reshape(-1), minlength=n)
    expected = bins.size / n
    low, high = CHI_SQUARE[n - 1]
    assert low < float(((counts - expected) ** 2).sum() / expected) < high


# E x**power, and the variance of x**power.
MOMENTS = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 5: (0, 945), 6: (15, 10395 - 15**2)}


@pytest.mark.parametrize("power", MOMENTS)
@pytest.mark.parametrize("key", [41, 0xFEED000000000000])
def test_moments_are_those_of_the_normal_law(key, power):
    n = 1 << 22
    mean, variance = MOMENTS[power]
    x = normals(n, key).astype(np.float64)
    assert abs((x**power).mean() - mean) < 4 * math.sqrt(variance / n)


def kolmogorov(t):
    """The probability that sqrt(n) times the largest distance of n draws from their law is above t, for large n."""
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * t * t) for k in range(1, 101))


def test_the_law_of_kolmogorov_is_the_known_one():
    """Against the percentiles of any table."""
    for t, probability in ((0.828, 0.5), (1.224, 0.1), (1.358, 0.05), (1.628, 0.01), (1.949, 0.001)):
        assert math.isclose(kolmogorov(t), probability, rel_tol=0.005)


@pytest.mark.parametrize(("key", "call", "start"), [(42, 0, 0), (43, 2**40 + 1, 0), (44, 0, 2**33 + 5)])
def test_the_distribution_is_normal_by_kolmogorov_and_smirnov(key, call, start):
    n = 1 << 19
    x = np.sort(normals(n, key, call, start))
    law = np.array([math.erfc(-value * math.sqrt(0.5)) / 2 for value in x.tolist()])
    below, above = np.arange(n) / n, np.arange(1, n + 1) / n
    distance = max((law - below).max(), (above - law).max())
    assert FOUR_SIGMA < kolmogorov(math.sqrt(n) * distance) < 1 - FOUR_SIGMA


def test_equal_parts_of_the_law_are_hit_equally_often():
    edges = [NORMAL.inv_cdf(k / 256) for k in range(1, 256)]
    assert_equally_often(np.searchsorted(edges, normals(1 << 21, 45)), 256)


def test_tails_are_as_heavy_as_they_should_be():
    """Beyond 5 sigma there are 10 in the mean on either side."""
    parts, n = 8, 1 << 22
    counts = dict.fromkeys([-5, -4, -3, 3, 4, 5], 0)
    for part in range(parts):
        x = normals(n, 46, start=part * n)
        for edge in counts:
            counts[edge] += np.count_nonzero(x > edge if edge > 0 else x < edge)
    for edge, count in counts.items():
        assert_binomial(count, parts * n, math.erfc(abs(edge) * math.sqrt(0.5)) / 2)


def test_every_place_of_a_unit_is_as_normal():
    draws = 20_000
    x = normals(64 * draws, 47).reshape(draws, 64).astype(np.float64)
    low, high = CHI_SQUARE[64]
    assert low < float((x.sum(axis=0) ** 2).sum() / draws) < high
    assert low < float((((x**2).sum(axis=0) - draws) ** 2).sum() / (2 * draws)) < high


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 128, 1024])
def test_neighbouring_normals_are_independent(lag):
    """Over pairs that share no element."""
    pairs = normals((1 << 20) // (2 * lag) * 2 * lag, 48).reshape(-1, 2, lag)
    assert_independent_normals(pairs[:, 0], pairs[:, 1])


def test_the_two_normals_of_a_pair_are_a_point_in_any_direction():
    """Both coordinates come from the same two words, and they stand 16 places apart.

    exp(-r**2 / 2) is uniform, the angle too, and they are independent of each other. The eighths of the circle and of
    the quarters, in which the polynomials work, are among the 256 directions.
    """
    x, y = normals(1 << 21, 49).reshape(-1, 2, 2, 16).transpose(2, 0, 1, 3).astype(np.float64)
    uniform = np.exp(-(x**2 + y**2) / 2)
    turn = np.arctan2(y, x) / (2 * np.pi) % 1
    assert_equally_often((uniform * 256).astype(np.int64), 256)
    assert_equally_often((turn * 256).astype(np.int64) % 256, 256)
    both = (uniform * 16).astype(np.int64) * 16 + (turn * 16).astype(np.int64) % 16
    assert_equally_often(both, 256)
    assert_independent_normals(x, y)


@pytest.mark.parametrize("bit", range(56))
def test_normals_of_calls_are_independent(bit):
    call = 0x5A5A5A5A5A5A5A
    assert_independent_normals(*(normals(1 << 16, 50, c) for c in (call, call ^ 1 << bit)))


@pytest.mark.parametrize("bit", range(64))
def test_normals_of_keys_are_independent(bit):
    key = 0x0123456789ABCDEF
    assert_independent_normals(*(normals(1 << 16, k) for k in (key, key ^ 1 << bit)))


@pytest.mark.parametrize("power", [16, 31, 32, 34, 36, 38, 40, 50, 62])
def test_far_normals_are_independent(power):
    """Where a counter's words begin and end, and an index of 32 bits would wrap."""
    assert_independent_normals(*(normals(1 << 16, 51, start=start) for start in (0, 1 << power)))


@pytest.mark.parametrize("of_normals", [is_positive, is_large], ids=["sign", "size"])
def test_normals_are_independent_of_the_mask_of_the_same_key_and_call(of_normals):
    """Of every plane, and of what planes and tails make together."""
    n, key, call = 1 << 18, 52, 3
    found = of_normals(normals(n, key, call))
    upper = sum(
        np.asarray(fastdrop.DropoutMask(n, k / 256, key=key, call=call)).astype(np.int64) for k in range(1, 256)
    )
    for plane in range(8):
        assert_independent(found, (upper >> 7 - plane & 1).astype(np.bool_), 0.5)
    for rate in (0.1, 0.3, 0.9):
        assert_independent(found, dropped(n, rate, key, call), 0.5, probability_of(rate))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_gaussian_dropout_has_the_mean_and_the_variance_of_dropout(rate):
    """For fixed x: the mean x, and the variance x**2 * rate / (1 - rate)."""
    x = np.random.default_rng(53).uniform(0.5, 1.5, 1 << 18).astype(np.float32)
    y = fastdrop.gaussian_dropout(x, rate, rng=54).astype(np.float64)
    x = x.astype(np.float64)
    variance = x**2 * rate / (1 - rate)
    assert abs((y - x).sum()) < 4 * math.sqrt(variance.sum())
    assert abs(((y - x) ** 2 - variance).sum()) < 4 * math.sqrt(2 * (variance**2).sum())
