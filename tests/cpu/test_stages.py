"""The stages by themselves: conversions, bounds that hold, verdicts that are true, spaces that do not mix."""

import dis
import importlib
import pkgutil
from fractions import Fraction
from itertools import pairwise
from types import CodeType, FunctionType

import numpy as np
import pytest
from helpers import reference
from helpers.cascade import prepared
from helpers.checking import DTYPES
from helpers.families import FAMILIES, boundary_taus
from numba import njit
from numba.core.dispatcher import Dispatcher

from halfspace import cpu
from halfspace.cpu import by_chunk, formats, pipeline, stored
from halfspace.cpu.job import DROP, LOOK, TAKE
from halfspace.cpu.metrics import inner_product
from halfspace.model.formats import FORMATS, as_bits
from halfspace.model.question import Question
from halfspace.model.segment import Segment
from halfspace.model.table import Table

search = importlib.import_module("halfspace.cpu.search")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES)


@njit
def _each(function, values, out):
    for i in range(values.size):
        out[i] = function(values[i])


@njit
def _verdicts_of_scan(vectors, norms, direction, low, high):
    verdicts = np.empty(high - low, np.int32)
    inner_product.classify_rows(vectors, norms.ctypes.data, direction, (low, high), verdicts)
    return verdicts


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
def test_verdicts_of_a_scan_are_true(family, dtype, rng):
    vectors, directions = family(rng, 100, 13, 2, dtype)
    stored = as_bits(np.ascontiguousarray(vectors))
    norms, _ = cpu.measure(stored[None], 1)
    for q in directions:
        for tau in [*boundary_taus(rng, vectors, q, 3), 0.0, -np.inf, np.inf]:
            hit = np.isin(np.arange(100), reference.hits(vectors, q, tau))
            ready = prepared(q[None], tau)
            args = stored, norms[0], ready.records[0]
            verdicts = _verdicts_of_scan(*args, 0, 100)
            np.testing.assert_array_equal(_verdicts_of_scan(*args, 37, 91), verdicts[37:91])
            assert not hit[verdicts == DROP].any()
            assert hit[verdicts == TAKE].all()
            assert set(verdicts.tolist()) <= {DROP, LOOK, TAKE}


SEALED = {
    "scan": lambda x, norms, threads: {},
    "cells": lambda x, norms, threads: {"data": cpu.encode(x, norms, threads)},
    "groups": lambda x, norms, threads: {"data": cpu.enclose_groups(x, norms, threads)},
    "balls": lambda x, norms, threads: {"data": cpu.enclose(x, np.array([0, 8, 13, 24]), 4, threads)},
    "sweep": lambda x, norms, threads: {"data": cpu.enclose(x, np.array([0, 8, 13, 24]), 4, threads)},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", SEALED)
@pytest.mark.parametrize("m", [1, 9, 16])
@every_dtype
def test_spaces_are_searched_apart(m, threads, filter, dtype, rng, monkeypatch):
    """With 16 directions of each space, cells meet them in a matrix product."""
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    spaces, n, dim = 3, 300, 24
    vectors = rng.standard_normal((spaces, n, dim)).astype(np.float32).astype(reference.DTYPES[dtype])
    directions = rng.standard_normal((spaces, m, dim)).astype(np.float32)
    stored = as_bits(vectors)
    segments = []
    for part, sealed in ((slice(0, 257), True), (slice(257, n), False)):
        x = np.ascontiguousarray(stored[:, part])
        norms, grain = cpu.measure(x, threads)
        derived = {"filter": filter} | SEALED[filter](x, norms, threads) if sealed else {}
        segments.append(Segment(x, np.arange(n)[part], norms, grain, **derived))
    table, tau = Table.of(segments, cpu), rng.normal(3, 2, spaces * m)
    found = cpu.search(Question(table, np.empty(0, stored.dtype), directions.reshape(-1, dim), tau, threads=threads))
    offsets, ids, scores = cpu.collect(found, threads)
    for k in range(spaces * m):
        expected, rounded = reference.one(vectors[k // m], directions[k // m, k % m], tau[k])
        row = slice(offsets[k], offsets[k + 1])
        assert ids[row].tolist() == expected.tolist()
        assert reference.bits(scores[row]).tolist() == reference.bits(rounded).tolist()


def _steps(code):
    """Pairs of successive instructions of a function and of those inside it."""
    yield from pairwise(dis.get_instructions(code))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _steps(inner)


def test_python_calls_no_stage():
    """Stages have no wrapper for Python: a call would end the process."""
    called = []
    # What is compiled in the form that filters and stored formats give it:
    templates = {by_chunk._search, pipeline._search_chunks, stored._scan, stored._verify}
    modules = list(pkgutil.walk_packages(cpu.__path__, "halfspace.cpu."))
    assert len(modules) > 40
    for module in modules:
        for name, function in vars(importlib.import_module(module.name)).items():
            if not isinstance(function, FunctionType) or name.endswith("_overload") or function in templates:
                continue
            for step, then in _steps(function.__code__):
                held = function.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
                if isinstance(held, Dispatcher) and "no_cpython_wrapper" in held.targetoptions:
                    called += [(name, step.argval)] * (then.argval != "py_func")
    assert not called
