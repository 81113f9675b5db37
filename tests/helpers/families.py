"""Families of awkward data, and thresholds on the boundary.

Each makes (n, d) vectors of ``dtype`` and (m, d) float32 directions, from bit patterns or integers.
"""

import numpy as np

from helpers import reference


def _pattern(rng, shape, dtype, lowest, highest):
    """Random signs and fractions; biased exponents from ``lowest`` up to, but without, ``highest``."""
    _, width, fraction = reference.FORMATS[dtype]
    sign = rng.integers(0, 2, shape) << (width + fraction)
    exponent = rng.integers(lowest, highest, shape) << fraction
    return reference.from_bits(sign | exponent | rng.integers(0, 2**fraction, shape), dtype)


def _top(dtype):
    return 2 ** reference.FORMATS[dtype][1] - 1


def gaussian(rng, n, d, m, dtype):
    """Ordinary floats near one."""
    return rng.standard_normal((n, d)).astype(reference.DTYPES[dtype]), rng.standard_normal((m, d)).astype(np.float32)


def integers(rng, n, d, m, dtype):
    """Small integers: ties everywhere, many products of zero."""
    vectors = rng.integers(-3, 4, (n, d)).astype(reference.DTYPES[dtype])
    return vectors, rng.integers(-2, 3, (m, d)).astype(np.float32)


def one_hot(rng, n, d, m, dtype):
    """Unit vectors of the axes; every dot product is an entry of the direction."""
    vectors = np.eye(d, dtype=np.float32)[rng.integers(0, d, n)].astype(reference.DTYPES[dtype])
    return vectors, rng.integers(-1, 2, (m, d)).astype(np.float32)


def duplicates(rng, n, d, m, dtype):
    """Few distinct rows, one of them zero."""
    vectors, directions = gaussian(rng, 5, d, m, dtype)
    vectors[0] = 0
    return vectors[rng.integers(0, 5, n)], directions


def neighbours(rng, n, d, m, dtype):
    """One row, and rows that differ from it by a unit in the last place of one entry."""
    vectors, directions = gaussian(rng, 1, d, m, dtype)
    patterns = np.repeat(reference.bits(vectors), n, axis=0)
    patterns[np.arange(n), rng.integers(0, d, n)] ^= rng.integers(0, 2, n).astype(patterns.dtype)
    return reference.from_bits(patterns, dtype), directions


def subnormal(rng, n, d, m, dtype):
    """Subnormal vectors; directions subnormal, or near one."""
    directions = _pattern(rng, (m, d), "float32", 0, 1)
    directions[::2] = rng.standard_normal(directions[::2].shape)
    return _pattern(rng, (n, d), dtype, 0, 1), directions


def tiny(rng, n, d, m, dtype):
    """The lowest exponents, subnormals among them: every product underflows float32."""
    return _pattern(rng, (n, d), dtype, 0, 3), _pattern(rng, (m, d), "float32", 0, 20)


def huge(rng, n, d, m, dtype):
    """The highest exponents: dot products beyond float32, of both signs."""
    top = _top(dtype)
    return _pattern(rng, (n, d), dtype, top - 3, top), _pattern(rng, (m, d), "float32", 252, 255)


def any_bits(rng, n, d, m, dtype):
    """Every finite pattern alike: 1e-38 beside 1e38 in one vector."""
    return _pattern(rng, (n, d), dtype, 0, _top(dtype)), _pattern(rng, (m, d), "float32", 0, 255)


def rows_of_scales(rng, n, d, m, dtype):
    """Each row has a scale of its own, from the lowest to the highest."""
    top = _top(dtype)
    scale = rng.integers(0, top - 4, (n, 1))
    return _pattern(rng, (n, d), dtype, scale, scale + 4), _pattern(rng, (m, d), "float32", 100, 150)


def cancelling(rng, n, d, m, dtype):
    """Huge entries that cancel in pairs and leave a small rest, exactly or nearly."""
    top, third = _top(dtype), d // 3
    vectors = rng.integers(-2, 3, (n, d)).astype(reference.DTYPES[dtype])
    vectors[:, :third] = _pattern(rng, (n, third), dtype, top - 12, top)
    vectors[:, third : 2 * third] = -vectors[:, :third]
    patterns = reference.bits(vectors)
    patterns[::3, 0] ^= 1
    directions = np.ones((m, d), np.float32)
    directions[::2] *= 2.0**-20
    return reference.from_bits(patterns, dtype), directions


def cancelling_by_steps(rng, n, d, m, dtype):
    """Large and middling products cancel exactly and leave a few bits, 2**60 to 2**100 times smaller."""
    third, order = d // 3, rng.permutation(d)
    vectors = rng.integers(-255, 256, (n, d)).astype(reference.DTYPES[dtype])
    vectors[:, third : 2 * third] = -vectors[:, :third]
    directions = rng.integers(1, 8, (m, d)) * 2.0 ** -rng.integers(60, 90, (m, 1))
    directions[:, :third] = rng.integers(1, 256, (m, third))
    directions[:, 1:third:2] = rng.standard_normal(directions[:, 1:third:2].shape) * 2.0**-17
    directions[:, third : 2 * third] = directions[:, :third]
    return vectors[:, order], directions[:, order].astype(np.float32)


FAMILIES = [
    gaussian,
    integers,
    one_hot,
    duplicates,
    neighbours,
    subnormal,
    tiny,
    huge,
    any_bits,
    rows_of_scales,
    cancelling,
    cancelling_by_steps,
]


def heavy_tailed(rng, n, d, m, dtype):
    """Norms that differ by orders of magnitude, few of them large."""
    vectors = np.clip(rng.standard_normal((n, d)) * rng.pareto(0.7, (n, 1)), -60_000, 60_000)
    return vectors.astype(reference.DTYPES[dtype]), rng.standard_normal((m, d)).astype(np.float32)


def uneven(rng, n, d, m, dtype):
    """Spreads from 1 down to 2**-20; directions that make up for it, or do not."""
    spreads = 2.0 ** -(np.arange(d) * 5 % 21)
    vectors, directions = rng.standard_normal((n, d)) * spreads, rng.standard_normal((m, d))
    directions[::2] /= spreads
    return vectors.astype(reference.DTYPES[dtype]), directions.astype(np.float32)


def constant(rng, n, d, m, dtype):
    """All rows alike, so that each is the mean."""
    vectors, directions = gaussian(rng, 1, d, m, dtype)
    return np.repeat(vectors, n, axis=0), directions


def around_the_mean(rng, n, d, m, dtype):
    """Rows in pairs that lie opposite to each other as seen from a third, which is the mean and there as well."""
    middle, offsets = rng.integers(-4, 5, d), rng.integers(-9, 10, (n, d))
    offsets[1::2] = -offsets[: n // 2 * 2 : 2]
    offsets[n // 4 // 2 * 2 : n // 2 // 2 * 2] = 0
    offsets[n // 2 * 2 :] = 0
    return (middle + offsets).astype(reference.DTYPES[dtype]), rng.standard_normal((m, d)).astype(np.float32)


MORE_FAMILIES = [heavy_tailed, uneven, constant, around_the_mean]
EXTREME_TAUS = [0.0, -0.0, 5e-324, -5e-324, 1e-310, 2.0**-149, -(2.0**-298), 1e300, -1e300, np.inf, -np.inf]


def boundary_taus(rng, vectors, direction, k):
    """For ``k`` stored vectors the float64 nearest to the real dot product, and its two neighbours."""
    products, exponent = reference.dots(vectors[rng.integers(0, len(vectors), k)], direction)
    tau = reference.from_bits([reference.encode(p, exponent, "float64") for p in products], "float64")
    return np.concatenate([tau, np.nextafter(tau, np.inf), np.nextafter(tau, -np.inf)])


def pairs(rng, vectors, directions, k=3):
    """A batch of (direction, tau): every direction with taus on the boundary and with the extreme ones."""
    taus = [np.concatenate([boundary_taus(rng, vectors, q, k), EXTREME_TAUS]) for q in directions]
    return np.repeat(directions, [len(t) for t in taus], axis=0), np.concatenate(taus)
