"""The stages by themselves: conversions, bounds that hold, verdicts that are true, spaces that do not mix."""

import importlib
from fractions import Fraction

import numpy as np
import pytest
import reference
from conftest import DTYPES, FAMILIES, boundary_taus
from numba import njit

from halfspace import cpu
from halfspace.cpu import cells, formats, scan
from halfspace.cpu._simd import TILE, count_bits, lowest_bit_of, tile_dot
from halfspace.cpu.chunks import SCRATCH, list_blocks
from halfspace.dtypes import FORMATS, as_bits
from halfspace.segment import Segment
from halfspace.table import Table

search = importlib.import_module("halfspace.cpu.search")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES)


@njit
def _each(function, values, out):
    for i in range(values.size):
        out[i] = function(values[i])


@njit
def _tile_dot(places, digits, out, portable):
    tile_dot(places.ctypes.data, digits.ctypes.data, digits.shape[0], out.ctypes.data, portable)


@njit
def _verdicts_of_cells(segment, centre, wide, digits, plans, tau, scratch, portable):
    verdicts = np.empty(segment.rows, np.int32)
    below, above = cells.thresholds(wide[0], plans[0], tau, centre)
    listed = list_blocks(0, segment.rows, below, above, scratch)
    for row in range(0, segment.rows, 64):
        at = row // 16
        count = min(4, listed - at)
        left, taken = cells.test_tile(
            segment.codes, segment.scales, segment.radii, at, count, digits[0], plans[0], scratch, portable
        )
        for i in range(min(64, segment.rows - row)):
            verdicts[row + i] = 2 * (taken >> i & 1) + (left >> i & 1)
    return verdicts


@njit
def _verdicts_of_scan(vectors, norms, low, high, narrow, plans, tau):
    verdicts = np.empty(high - low, np.int32)
    scan.test_rows(vectors, norms, low, high, narrow[0], plans[0], tau, verdicts)
    return verdicts


@njit
def _each_bit(masks, counts, lowest):
    for i in range(masks.size):
        counts[i] = count_bits(masks[i])
        lowest[i] = lowest_bit_of(masks[i])


def test_float16_widens_alike_with_and_without_an_instruction():
    patterns = np.arange(2**16, dtype=np.uint16)
    for widen in (formats.half_by_bits, njit(lambda bits: formats.widen(bits))):
        wide = np.empty(2**16, np.float32)
        _each(widen, patterns, wide)
        expected = patterns.view(np.float16).astype(np.float32)
        np.testing.assert_array_equal(np.isnan(wide), np.isnan(expected))
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(wide[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@every_dtype
@pytest.mark.parametrize(
    "source", [np.float16, np.float32, np.float64, FORMATS["bfloat16"][0], np.int16, np.int64, np.uint64]
)
def test_store_rounds_once(source, dtype, rng):
    source = np.dtype(source)
    if source.kind in "iu":
        values = rng.integers(0, 2**63, 3000, np.uint64) >> rng.integers(0, 63, 3000).astype(np.uint64)
        ends = [0, 1, 2**24 + 1, 2**40 + 2**16, 2**53 + 1, 2**62 + 2**38, 2**62 + 2**38 + 1, 2**63 - 1]
        values = np.concatenate([values, np.array(ends, np.uint64)]).astype(source)
    else:
        width = source.itemsize
        patterns = rng.integers(0, 2**63, 4000).astype(f"u{width}")
        values = patterns.view(source)
        if source == np.float64:  # most of them would overflow
            values = np.concatenate([values, np.ldexp(rng.standard_normal(4000), rng.integers(-160, 128, 4000))])
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = values[np.isfinite(values)]
    expected = reference.store(values, dtype)
    fits = np.isfinite(expected)
    stored, bad = cpu.store(values[fits][:, None], FORMATS[dtype][1], 2)
    assert bad == -1
    np.testing.assert_array_equal(stored[:, 0], as_bits(expected[fits]))
    if not fits.all():
        assert cpu.store(values[:, None], FORMATS[dtype][1], 1)[1] == np.flatnonzero(~fits)[0]


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 31, 1024])
def test_tile_dot(steps, portable, rng):
    codes = rng.integers(0, 256, (9, steps, 16, 4)).astype(np.uint8)
    digits = rng.integers(-128, 128, (steps, 2, 4)).astype(np.int8)
    codes[0, :, 0], digits[:, 0] = 255, -128
    for blocks in ([0, 1, 2, 3], [8, 0, 5, 2], [7, 7, 7, 7]):
        out = np.zeros((2, TILE), np.int32)
        _tile_dot(codes.ctypes.data + np.array(blocks) * (64 * steps), digits, out, portable)
        rows = codes[blocks].transpose(0, 2, 1, 3).reshape(TILE, -1).astype(np.int64)
        np.testing.assert_array_equal(out, digits.transpose(1, 0, 2).reshape(2, -1).astype(np.int64) @ rows.T)


def test_bits_of_a_tile(rng):
    masks = rng.integers(-(2**63), 2**63, 1000) << rng.integers(0, 64, 1000)
    masks = np.concatenate([masks[masks != 0], [1, -1, -(2**63), 2**63 - 1]])
    counts, lowest = np.empty((2, masks.size), np.int64)
    _each_bit(masks, counts, lowest)
    for mask, count, bit in zip(masks.tolist(), counts, lowest, strict=True):
        assert count == (mask % 2**64).bit_count()
        assert mask % 2 ** (int(bit) + 1) == 2 ** int(bit)


@every_family
@every_dtype
def test_norms_and_grains_bound(family, dtype, rng):
    vectors, _ = family(rng, 40, 7, 1, dtype)
    norms, grain = cpu.measure(as_bits(vectors)[None], 1)
    for vector, norm in zip(vectors, norms[0], strict=True):
        assert norm == np.inf or reference.dot(vector, vector) <= Fraction(float(norm)) ** 2
        assert (norm == 0) == (not vector.any())
    if grain < np.inf:
        integers, exponent = reference.whole(vectors)
        assert all((n * Fraction(2) ** exponent / Fraction(grain)).denominator == 1 for n in integers.flat)


@every_family
@every_dtype
def test_cells_hold_their_vectors(family, dtype, rng):
    vectors, _ = family(rng, 70, 9, 1, dtype)
    made = cpu.encode(as_bits(vectors)[None], 1)
    assert made.groups is None
    assert made.chunks is None
    codes = made.cells.codes[0].transpose(0, 2, 1, 3).reshape(-1, 12)[:, :9].astype(int) - 128
    for i, vector in enumerate(vectors):
        scale, radius = Fraction(float(made.cells.scales[0, i])), made.cells.radii[0, i]
        rest = [
            Fraction(float(x)) - Fraction(float(m)) - scale * int(c)
            for x, m, c in zip(vector, made.centre[0], codes[i], strict=True)
        ]
        assert radius == np.inf or sum(part * part for part in rest) <= Fraction(float(radius)) ** 2


@every_family
@every_dtype
@pytest.mark.parametrize("portable", [True, False])
def test_verdicts_are_true(family, dtype, portable, rng):
    vectors, directions = family(rng, 100, 13, 2, dtype)
    stored = as_bits(np.ascontiguousarray(vectors))
    made = cpu.encode(stored[None], 1)
    norms, grain = cpu.measure(stored[None], 1)
    segment = Segment(stored[None], np.arange(100), norms, grain, cells=made)
    table, scratch = np.array(segment.addresses, cpu.SEGMENT), np.zeros(1, SCRATCH)
    for q in directions:
        ready = cpu.prepare(q[None])
        for tau in [*boundary_taus(rng, vectors, q, 3), 0.0, -np.inf, np.inf]:
            hit = np.isin(np.arange(100), reference.hits(vectors, q, tau))
            args = table[0], made.centre[0], ready.wide, ready.digits, ready.plans
            by_cells = _verdicts_of_cells(*args, float(tau), scratch[0], portable)
            assert set(by_cells.tolist()) <= {0, 1, 3}  # dropped, left, left and taken
            by_cells = np.array([cells.DROP, cells.LOOK, -1, cells.TAKE])[by_cells]
            args = stored, norms[0], 0, 100, ready.narrow, ready.plans, float(tau)
            by_scan = _verdicts_of_scan(*args)
            np.testing.assert_array_equal(_verdicts_of_scan(*args[:2], 37, 91, *args[4:]), by_scan[37:91])
            for verdicts in (by_cells, by_scan):
                assert not hit[verdicts == cells.DROP].any()
                assert hit[verdicts == cells.TAKE].all()
                assert set(verdicts.tolist()) <= {cells.DROP, cells.LOOK, cells.TAKE}


SEALED = {
    "scan": lambda x, threads: {},
    "cells": lambda x, threads: {"cells": cpu.encode(x, threads)},
    "groups": lambda x, threads: {"cells": cpu.encode(x, threads, grouped=True)},
    "balls": lambda x, threads: {"balls": cpu.enclose(x, np.array([0, 8, 13, 24]), 4, threads)},
    "sweep": lambda x, threads: {"balls": cpu.enclose(x, np.array([0, 8, 13, 24]), 4, threads)},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", SEALED)
@every_dtype
def test_spaces_are_searched_apart(threads, filter, dtype, rng, monkeypatch):
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    spaces, n, dim, m = 3, 300, 24, 4
    vectors = rng.standard_normal((spaces, n, dim)).astype(np.float32).astype(reference.DTYPES[dtype])
    directions = rng.standard_normal((spaces, m, dim)).astype(np.float32)
    stored = as_bits(vectors)
    segments = []
    for part, sealed in ((slice(0, 257), True), (slice(257, n), False)):
        x = np.ascontiguousarray(stored[:, part])
        norms, grain = cpu.measure(x, threads)
        derived = {"filter": filter} | SEALED[filter](x, threads) if sealed else {}
        segments.append(Segment(x, np.arange(n)[part], norms, grain, **derived))
    table, tau = Table.of(segments, cpu), rng.normal(3, 2, spaces * m)
    ready = cpu.prepare(directions.reshape(-1, dim))
    found = cpu.search(table, np.empty(0, stored.dtype), ready, tau, False, cpu.SCORES, threads)
    offsets, ids, scores = cpu.collect(found)
    for k in range(spaces * m):
        expected, rounded = reference.one(vectors[k // m], directions[k // m, k % m], tau[k])
        row = slice(offsets[k], offsets[k + 1])
        assert ids[row].tolist() == expected.tolist()
        assert reference.bits(scores[row]).tolist() == reference.bits(rounded).tolist()
