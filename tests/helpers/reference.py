"""The answer by exact arithmetic. Imports nothing of the library that it judges.

Every float is decoded from its bits into ``mantissa * 2**exponent`` with integers alone, so what is computed here does
not depend on the processor's floating-point mode. The functions have the names of the methods they are held against.
"""

from fractions import Fraction
from functools import lru_cache, wraps

import ml_dtypes
import numpy as np

# name: (the unsigned integer of the same width, bits of the exponent, bits of the fraction)
FORMATS = {
    "float16": (np.uint16, 5, 10),
    "bfloat16": (np.uint16, 8, 7),
    "float32": (np.uint32, 8, 23),
    "float64": (np.uint64, 11, 52),
}
DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in FORMATS}


def remembered(function):
    """``function`` of arrays, at once where it was asked last: thresholds change more often."""

    @lru_cache(maxsize=2)
    def of_contents(*contents):
        return function(*(np.frombuffer(content, dtype).reshape(shape) for content, dtype, shape in contents))

    @wraps(function)
    def remembering(*arrays):
        return of_contents(*((array.tobytes(), array.dtype, array.shape) for array in arrays))

    return remembering


def bits(array):
    """The bit patterns of ``array``, as unsigned integers: what "equal to the bit" compares."""
    array = np.asarray(array, order="C")
    return array.view(FORMATS[array.dtype.name][0])


def from_bits(patterns, dtype):
    """The floats with these bit patterns."""
    return np.array(patterns, FORMATS[dtype][0]).view(DTYPES[dtype])


def decode(array):
    """Integers ``(mantissa, exponent)``, both int64, with ``array == mantissa * 2**exponent`` for finite entries."""
    _, width, fraction = FORMATS[array.dtype.name]
    pattern = bits(array).astype(np.uint64)
    biased = (pattern >> np.uint64(fraction) & np.uint64(2**width - 1)).astype(np.int64)
    assert np.all(biased < 2**width - 1), "infinity or NaN has no mantissa"
    mantissa = (pattern & np.uint64(2**fraction - 1)).astype(np.int64)
    mantissa = np.where(biased > 0, mantissa + 2**fraction, mantissa)
    negative = (pattern >> np.uint64(width + fraction)).astype(bool)
    exponent = np.maximum(biased, 1) - (2 ** (width - 1) - 1) - fraction
    return np.where(negative, -mantissa, mantissa), exponent


def encode(mantissa, exponent, dtype, negative=None):
    """The bit pattern of the float nearest to ``mantissa * 2**exponent``, ties to even, infinite on overflow.

    ``negative`` is the sign of a zero; by default it is that of the mantissa, so that an exact zero is +0.
    """
    _, width, fraction = FORMATS[dtype]
    negative = mantissa < 0 if negative is None else negative
    size = abs(int(mantissa))
    bias = 2 ** (width - 1) - 1
    step = max(size.bit_length() + exponent - fraction - 1, 1 - bias - fraction)  # the last place weighs 2**step
    if step <= exponent:
        units = size << (exponent - step)
    else:
        drop = step - exponent
        units, rest = size >> drop, size & ((1 << drop) - 1)
        units += rest > 1 << (drop - 1) or (rest == 1 << (drop - 1) and units & 1)
    pattern = ((step + bias + fraction - 1) << fraction) + units if units else 0  # a carry runs on into the exponent
    pattern = min(pattern, (2**width - 1) << fraction)
    return pattern | int(negative) << (width + fraction)


def store(array, dtype):
    """``array`` (floats or integers) converted to ``dtype``: nearest, ties to even, signs of zeros kept."""
    array = np.asarray(array)
    if array.dtype.name in FORMATS:
        mantissa, exponent = decode(array)
        negative = bits(array) >> np.uint8(8 * array.dtype.itemsize - 1)
    else:
        mantissa, exponent = array.astype(object), np.zeros(array.shape, np.int64)
        negative = array < 0
    entries = zip(mantissa.flat, exponent.flat, negative.flat, strict=True)
    patterns = [encode(int(m), int(e), dtype, bool(s)) for m, e, s in entries]
    return from_bits(patterns, dtype).reshape(array.shape)


def whole(array):
    """``(integers, exponent)`` with ``array == integers * 2**exponent``: Python ints in an object array."""
    mantissa, exponent = decode(array)
    least = int(exponent[mantissa != 0].min(initial=0))
    return mantissa.astype(object) << np.maximum(exponent - least, 0).astype(object), least


@remembered
def dots(vectors, direction):
    """``(integers, exponent)``: the real dot products of ``direction`` with the rows of ``vectors``."""
    (rows, e), (q, f) = whole(vectors), whole(direction)
    return rows @ q, e + f


def dot(direction, vector):
    """The real dot product as a Fraction."""
    integer, exponent = dots(vector[None], direction)
    return integer[0] * Fraction(2) ** exponent


def reaches(integers, exponent, tau):
    """Which ``integers * 2**exponent`` are at least ``tau``."""
    tau = np.asarray(tau, np.float64)
    if np.isinf(tau):
        return np.full(len(integers), bool(tau < 0))
    threshold, e = (int(part) for part in decode(tau))
    least = min(e, exponent)
    return ((integers << (exponent - least)) >= (threshold << (e - least))).astype(bool)


def score(direction, vector):
    """The real dot product rounded once to the nearest float32."""
    integer, exponent = dots(vector[None], direction)
    return from_bits([encode(integer[0], exponent, "float32")], "float32")[0]


def hits(vectors, direction, tau):
    """Positions of the rows whose dot product with ``direction`` is at least ``tau``, ascending."""
    return np.flatnonzero(reaches(*dots(vectors, direction), tau))


def one(vectors, direction, tau):
    """``(positions, scores)`` of the hits of one direction."""
    integers, exponent = dots(vectors, direction)
    found = np.flatnonzero(reaches(integers, exponent, tau))
    return found, from_bits([encode(n, exponent, "float32") for n in integers[found]], "float32")


@remembered
def bounds(vectors, direction):
    """Bounds in float64 of the real dot products.

    Products of two float32 are exact in float64 and whole multiples of 2**-298, so nothing underflows, and a sum of
    ``d`` of them, in any order, errs by less than ``d * 2**-52`` times the sum of their absolute values.
    """
    (mantissa, exponent), (q, f) = decode(vectors), decode(direction)
    products = np.ldexp(mantissa.astype(np.float64), exponent) * np.ldexp(q.astype(np.float64), f)
    middle = products.sum(axis=1)
    slack = np.abs(products).sum(axis=1) * (products.shape[1] * 2.0**-52)
    return middle - slack, middle + slack


def one_faster(vectors, direction, tau):
    """``one``, with exact arithmetic only for the rows on which float64 leaves a doubt."""
    low, high = bounds(vectors, direction)
    with np.errstate(over="ignore"):
        scores = low.astype(np.float32)
        doubt = (bits(scores) != bits(high.astype(np.float32))) | ((low < tau) & (high >= tau))
    keep = low >= tau
    if doubt.any():
        integers, exponent = dots(vectors[doubt], direction)
        keep[doubt] = reaches(integers, exponent, tau)
        scores[doubt] = from_bits([encode(n, exponent, "float32") for n in integers], "float32")
    return np.flatnonzero(keep), scores[keep]


def query(vectors, directions, tau, *, ids=None, faster=False):
    """For each direction ``(ids, scores)`` of its hits, by ascending id; ids are row numbers unless given."""
    directions = np.atleast_2d(directions)
    taus = np.broadcast_to(np.asarray(tau, np.float64), len(directions))
    answers = [(one_faster if faster else one)(vectors, q, t) for q, t in zip(directions, taus, strict=True)]
    if ids is None:
        return answers
    named = [(np.asarray(ids, np.int64)[found], scores) for found, scores in answers]
    return [(i[np.argsort(i)], scores[np.argsort(i)]) for i, scores in named]


def best(ids, scores, limit=None):
    """The answer of one direction by descending score, then id, cut to the ``limit`` best."""
    order = np.lexsort((ids, -scores))[:limit]
    return ids[order], scores[order]
