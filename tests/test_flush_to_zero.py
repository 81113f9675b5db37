"""The promise with denormals flushed: a library in the process may have switched FTZ and DAZ on.

The tests run this file in a process of their own, which sets the mode before any thread of the library starts, and in
which all data are made from bit patterns and judged by integer arithmetic.
"""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.checking import DTYPES, FILTERS, build, check, equal
from helpers.families import EXTREME_TAUS, _pattern, subnormal, tiny

SERVED = ["scan", "cells", "groups"]  # with every metric
LEAST = 16  # directions from which on cells are multiplied with them as matrices
FLUSH = 1 << 15 | 1 << 6  # flush to zero, denormals are zero


def machine_code(code, register):
    """Call ``code``, a function of one pointer, with the address of ``register``."""
    executable = {} if os.name == "nt" else {"prot": mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC}
    page = mmap.mmap(-1, mmap.PAGESIZE, **executable)
    page.write(bytes(code))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))(
        ctypes.addressof(register)
    )


def flush_denormals():
    """Set both bits of MXCSR; two instructions of machine code need no compiler."""
    pointer = 0x01 if os.name == "nt" else 0x07  # the first argument: [rcx] or [rdi]
    register = ctypes.c_uint32()
    machine_code([0x0F, 0xAE, 0x18 | pointer, 0xC3], register)  # stmxcsr, ret
    register.value |= FLUSH
    machine_code([0x0F, 0xAE, 0x10 | pointer, 0xC3], register)  # ldmxcsr, ret


def assert_flushing():
    """A subnormal is zero as an operand, as a result, and when it is widened."""
    smallest32, smallest64 = (reference.from_bits([1], dtype) for dtype in ("float32", "float64"))
    assert reference.bits(smallest64 * np.float64(1)).tolist() == [0]
    assert reference.bits(np.array([1e-200]) * np.array([1e-120])).tolist() == [0]
    assert reference.bits(smallest32.astype(np.float64)).tolist() == [0]


@cache
def twice():
    """Code that Numba compiled, for threads that it starts."""
    import numba

    @numba.njit(parallel=True)
    def twice(values):
        out = np.empty_like(values)
        for i in numba.prange(values.size):
            out[i] = values[i] * 2.0
        return out

    return twice


def compiled_code_flushes():
    """The same in code that Numba compiled and in the threads that it started."""
    doubled = twice()(reference.from_bits(np.arange(1, 4097), "float64"))
    assert not reference.bits(doubled).any()


def taus(vectors, direction, metric="ip"):
    """Boundary and extreme thresholds, by their bits."""
    if metric == "ip":
        products, exponent = reference.dots(vectors[:4], direction)
        near = np.array([reference.encode(p, exponent, "float64") for p in products], np.uint64)
    else:
        near = reference.bits(metrics.roots(metrics.measures(metric, vectors[:4], direction), "float64"))
    return reference.from_bits(np.concatenate([near, near + 1, np.maximum(near, 1) - 1, EXTREME]), "float64")


def halves(thresholds):
    """Batches of so few that cells meet one direction after another."""
    parts = np.array_split(thresholds, 2)
    assert len(parts[0]) < LEAST
    return parts


EXTREME = np.array(EXTREME_TAUS).view(np.uint64)  # taken while the mode is still the usual one


def answer(metric, vectors, direction, tau):
    """The answer of one direction, by integers alone."""
    return (reference.one if metric == "ip" else partial(metrics.one, metric))(vectors, direction, tau)


def answers(filter, metric="ip"):
    """Queries and counts on subnormal and tiny data, in all dtypes."""
    rng = np.random.default_rng(1)
    compared = 0
    for dtype in DTYPES:
        for family in (subnormal, tiny):
            for d in (1, 3, 17, 130):
                vectors, directions = metrics.made(metric, family, rng, 40, d, 3, dtype)
                index = build(vectors, filter=filter, dtype=dtype, metric=metric)
                for q in directions:
                    thresholds = taus(vectors, q, metric)
                    for part in halves(thresholds):
                        batch = np.repeat(q[None], len(part), axis=0)
                        compared += check([index], vectors, batch, part, metric=metric)
                    for tau in thresholds[::4]:
                        equal(index.query(q, tau), answer(metric, vectors, q, tau))
    assert compared > 10_000


def mixed(rng, n, d, m, dtype):
    """Ordinary numbers, a third of the components subnormal, and rows of nothing else."""
    middle = 2 ** (reference.FORMATS[dtype][1] - 1) - 1
    few, low = rng.random((n, d)) < 0.33, _pattern(rng, (n, d), dtype, 0, 1)
    few[::9] = True
    vectors = np.where(few, reference.bits(low), reference.bits(_pattern(rng, (n, d), dtype, middle - 2, middle + 1)))
    directions = _pattern(rng, (m, d), "float32", 120, 128)
    patterns = np.where(rng.random((m, d)) < 0.33, reference.bits(_pattern(rng, (m, d), "float32", 0, 1)), 0)
    patterns = np.where(patterns != 0, patterns, reference.bits(directions))
    patterns[0] = reference.bits(_pattern(rng, (1, d), "float32", 0, 1))[0]
    return reference.from_bits(vectors, dtype), reference.from_bits(patterns, "float32")


def batches(metric="ip"):
    """So many directions that cells are multiplied with them as matrices: the low digits of norms and radii matter."""
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        for family in (subnormal, tiny, mixed):
            for d in (1, 7, 64, 130):
                vectors, directions = metrics.made(metric, family, rng, 40, d, 3, dtype)
                index = build(vectors, filter="cells", dtype=dtype, metric=metric)
                thresholds = [taus(vectors, q, metric) for q in directions]
                batch = np.repeat(directions, [part.size for part in thresholds], axis=0)
                assert len(batch) > 2 * LEAST
                assert check([index], vectors, batch, np.concatenate(thresholds), metric=metric) > 0
                index.verify()


def along_axes(metric="ip"):
    """Principal axes of vectors that have subnormal components."""
    from halfspace.cpu.filters import axes

    axes.DIMS, axes.ROWS, axes.MOST_LEFT = (64, 64), 0, 2.0
    rng = np.random.default_rng(4)
    for dtype in DTYPES:
        vectors, directions = metrics.made(metric, mixed, rng, 70, 64, 6, dtype)
        index = build(vectors, filter="cells", dtype=dtype, metric=metric)
        assert index._snapshot.sealed[0].data.axes is not None
        for q in directions:
            thresholds = taus(vectors, q, metric)
            for part in halves(thresholds):
                batch = np.repeat(q[None], len(part), axis=0)
                assert check([index], vectors, batch, part, metric=metric) > 0
            for tau in thresholds[::4]:
                equal(index.query(q, tau), answer(metric, vectors, q, tau))
        index.verify()


def unequal():
    """Rows in order of norms that are themselves near the smallest there are."""
    rng = np.random.default_rng(5)
    exponents = rng.integers(0, 3, (3000, 1))
    vectors = _pattern(rng, (3000, 3), "float32", exponents, exponents + 1)
    index = build(vectors, filter="cells")
    direction = reference.from_bits([0x3F800000, 0x3F000000, 0xBE800000], "float32")
    products, exponent = reference.dots(vectors, direction)
    for rank in (1, 30, 1500, 2999):
        tau = reference.from_bits([reference.encode(np.sort(products)[-rank], exponent, "float64")], "float64")
        expected = reference.query(vectors, direction, tau)[0]
        equal(index.query(direction, tau[0]), expected)
        assert index.count(np.repeat(direction[None], 30, axis=0), np.repeat(tau, 30)).tolist() == 30 * [
            len(expected[0])
        ]
    index.verify()


def zeros():
    """Nothing but zeros, or all but one: a subnormal threshold is not reached by what is only not below zero."""
    for filter in FILTERS:
        for dtype in DTYPES:
            for d in (1, 3, 17):
                vectors = reference.from_bits(np.zeros((70, d), int), dtype)
                for last in (0, 1, 3):
                    vectors[-1] = last
                    index = build(vectors, filter=filter, dtype=dtype)
                    for q in (np.zeros(d, np.float32), np.ones(d, np.float32)):
                        thresholds = reference.from_bits(EXTREME, "float64")
                        directions = np.repeat(q[None], len(thresholds), axis=0)
                        assert check([index], vectors, directions, thresholds) > 0
                        plain = index.query(directions, thresholds, scores=False)
                        assert plain.totals.tolist() == index.count(directions, thresholds).tolist()


def attention():
    """Attention keeps exactly the keys that reach its thresholds."""
    from halfspace.attention import KVIndex

    rng = np.random.default_rng(6)
    for dtype in DTYPES:
        for family in (subnormal, tiny, mixed):
            for d in (1, 17):
                keys, directions = family(rng, 40, d, 2, dtype)
                thresholds = [taus(keys, q) for q in directions]
                batch = np.repeat(directions, [part.size for part in thresholds], axis=0)
                index = KVIndex(1, d, num_query_heads=len(batch), dtype=dtype)
                index.append(keys[None], keys[None])
                kept = index.attend(batch, tau=np.concatenate(thresholds), details=True).kept[0]
                answers = reference.query(keys, batch, np.concatenate(thresholds), faster=True)
                assert kept.tolist() == [len(ids) for ids, _ in answers]


def conversions():
    """Rounding on insert, of directions, and the way through a file keep every subnormal."""
    from halfspace import HalfspaceIndex

    rng = np.random.default_rng(2)
    for dtype in DTYPES:
        for source, lowest, highest in (("float64", 840, 900), ("float32", 0, 30), ("bfloat16", 0, 30)):
            if dtype == "float16":
                lowest, highest = {"float64": (990, 1024), "float32": (95, 120), "bfloat16": (95, 120)}[source]
            _, width, fraction = reference.FORMATS[source]
            sign = rng.integers(0, 2, (60, 8)) << (width + fraction)
            exponent = rng.integers(lowest, highest, (60, 8)) << fraction
            pattern = sign | exponent | rng.integers(0, 2**fraction, (60, 8))
            given = reference.from_bits(pattern, source)
            stored = reference.store(given, dtype)
            index = build(given, dtype=dtype)
            equal_bits(index.vectors(index.ids), stored)
            direction = reference.from_bits(rng.integers(0, 2**40, 8) + (880 << 52), "float64")  # subnormal in float32
            expected = reference.query(stored, reference.store(direction, "float32"), 0.0)[0]
            equal(index.query(direction, 0.0), expected)
            with tempfile.TemporaryDirectory() as folder:
                index.save(Path(folder) / "index")
                for use_mmap in (False, True):
                    loaded = HalfspaceIndex.load(Path(folder) / "index", mmap=use_mmap)
                    equal_bits(loaded.vectors(loaded.ids), stored)
                    equal(loaded.query(direction, 0.0), expected)
                    loaded.verify()
                    del loaded


def order():
    """Subnormal scores keep their places in sorted and limited answers; float32 thresholds are read by their bits."""
    stored = reference.from_bits([[2], [4], [3], [5], [0x80000002], [0], [5]], "float32")
    index = build(stored)
    everything = index.query(np.ones(1), -np.inf, sort=True)
    assert everything.ids.tolist() == [3, 6, 1, 2, 0, 5, 4]
    assert index.query(np.ones(1), -np.inf, sort=True, limit=3).ids.tolist() == [3, 6, 1]
    assert index.query(np.ones(1), -np.inf, limit=3).ids.tolist() == [1, 3, 6]
    smallest = reference.from_bits([3], "float32")
    assert index.query(np.ones(1), smallest[0]).ids.tolist() == [1, 2, 3, 6]
    assert index.count(np.ones((1, 1)), smallest).tolist() == [4]
    scores = np.array([hit.score for hit in everything])
    exact = [reference.encode(int(m), -149, "float64") for m in (5, 5, 4, 3, 2, 0, -2)]
    assert reference.bits(scores).tolist() == exact


def refusals():
    """Infinity is still found, and a subnormal is not taken for it."""
    index = build(reference.from_bits([[1, 2]], "float32"))
    for bad in (np.array([np.inf, 0]), np.array([1e39, 0])):
        try:
            index.insert(bad)
        except ValueError:
            continue
        raise AssertionError(f"{bad} was taken")
    assert len(index) == 1


def equal_bits(ours, theirs):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(reference.bits(ours), reference.bits(theirs))


PARTS = {f"answers-{filter}": lambda filter=filter: answers(filter) for filter in FILTERS}
for metric in ("cosine", "l2"):
    PARTS |= {
        f"answers-{filter}-{metric}": lambda filter=filter, metric=metric: answers(filter, metric) for filter in SERVED
    }
    PARTS |= {f"{f.__name__}-{metric}": lambda f=f, metric=metric: f(metric) for f in (batches, along_axes)}
PARTS |= {"batches": batches, "along-axes": along_axes, "unequal": unequal, "attention": attention}
PARTS |= {"zeros": zeros, "conversions": conversions, "refusals": refusals, "order": order}


@pytest.fixture(scope="module")
def told():
    """What the process says, which has all parts behind it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", __file__, *PARTS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="MXCSR is a register of x86")
@pytest.mark.parametrize("part", PARTS)
def test_with_denormals_flushed(part, told):
    assert f"{part}: flushed before and after" in told.stdout.splitlines(), told.stderr
    assert told.returncode == 0, told.stderr


if __name__ == "__main__":
    flush_denormals()
    for name in sys.argv[1:]:
        try:
            assert_flushing()
            compiled_code_flushes()
            PARTS[name]()
            assert_flushing()
        except Exception:
            print(f"{name}:\n{traceback.format_exc()}", file=sys.stderr)
        else:
            print(f"{name}: flushed before and after")
