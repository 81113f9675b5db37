"""Answers by id, by score and cut to the best, against NumPy's sort: ties, zeros, infinities, subnormals, any ids."""

import importlib
import inspect
import tracemalloc
from contextlib import ExitStack, contextmanager
from itertools import chain
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from helpers import reference
from hypothesis import given
from hypothesis import strategies as st
from numba import types
from numba.core.dispatcher import Dispatcher
from on_gpu import same_bits

from halfspace import cpu
from halfspace.cpu import radix, shares
from halfspace.cpu.emit import Found
from halfspace.cpu.search import Answer

collecting = importlib.import_module("halfspace.cpu.collect")

INT64 = np.iinfo(np.int64)
AWKWARD = np.array(
    [0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 1.5, 2.0**-149, -(2.0**-149), 2.0**-126, -(2.0**-126), 3e38, -3e38],
    np.float32,
)
SMALL = {
    collecting: {"RUN": 64, "SAMPLED": 4, "STRIDE": 16, "SELECTIVE": 2, "MANY": 16},
    shares: {"RUN": 64, "FEW": 16, "SHARED": 100, "LONG": 200},
}
"""Sizes at which a few hundred hits are many: threads share them, rows are cut, samples are taken."""
USED = {module: {name: getattr(module, name) for name in sizes} for module, sizes in SMALL.items()}


@contextmanager
def taking(sizes):
    with ExitStack() as stack:
        for module, own in sizes.items():
            stack.enter_context(mock.patch.multiple(module, **own))
        yield


def scores_of(kind, size, rng):
    if kind == "awkward":
        return rng.choice(AWKWARD, size)
    if kind == "equal":
        return np.full(size, 0.25, np.float32)
    if kind == "normal":
        return rng.standard_normal(size).astype(np.float32)
    if kind == "falling":
        return np.sort(rng.standard_normal(size).astype(np.float32))[::-1].copy()
    if kind == "rising":
        return np.sort(rng.standard_normal(size).astype(np.float32))
    if kind == "subnormal":
        return (rng.integers(0, 1 << 10, size) | rng.integers(0, 2, size) << 31).astype(np.uint32).view(np.float32)
    patterns = rng.integers(0, 1 << 32, size, np.uint64).astype(np.uint32)
    patterns[(patterns & 0x7F800000) == 0x7F800000] = 0x3F800000  # neither infinite nor NaN
    return patterns.view(np.float32)


def ids_of(kind, size, rng):
    if kind == "rows":
        return np.arange(size)
    if kind == "permuted":
        return rng.permutation(3 * size)[:size] - size
    ids = np.unique(rng.integers(INT64.min, INT64.max, size + 2, endpoint=True))
    ids[[0, -1]] = INT64.min, INT64.max
    return rng.permutation(ids)[:size]


SCORES = ["awkward", "equal", "normal", "falling", "rising", "subnormal", "any"]
IDS = ["rows", "permuted", "wide"]


def drawn(counts, scores, ids, rng, parts=5):
    """An answer with so many hits of each direction, in parts; in each part directions alternate in runs."""
    counts = np.asarray(counts, np.int64)
    owners = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
    own_ids = [ids_of(ids, count, rng) for count in counts]
    own_ids = np.concatenate(own_ids) if own_ids else np.empty(0, np.int64)
    order = np.argsort(rng.random(owners.size // 7 + 1)[np.arange(owners.size) // 7], kind="stable")
    hits = Found(owners[order], own_ids[order].astype(np.int64), scores_of(scores, owners.size, rng))
    cuts = np.sort(rng.integers(0, owners.size + 1, parts - 1))
    pieces = [np.split(column, cuts) for column in hits]
    return Answer(counts, [Found(*(column.copy() for column in part)) for part in zip(*pieces, strict=True)], None, 0)


def sorted_alone(found):
    """The same answer as a search hands it back for a single direction, in one part."""
    whole = Found(*(np.concatenate(columns) for columns in zip(*found.parts, strict=True)))
    order = np.argsort(whole.ids)
    return found._replace(parts=[Found(*(column[order] for column in whole))], ordered=True)


def rows_of(found, limit=None, by_score=False):
    """The oracle: offsets, ids and scores."""
    owners, ids, scores = (np.concatenate(columns) for columns in zip(*found.parts, strict=True))
    out_ids, out_scores = [], []
    for direction in range(found.counts.size):
        mine = owners == direction
        order = np.lexsort((ids[mine], -scores[mine].astype(np.float64)))[:limit]  # subnormals are normal in float64
        kept, values = ids[mine][order], scores[mine][order]
        order = slice(None) if by_score else np.argsort(kept)
        out_ids.append(kept[order])
        out_scores.append(values[order])
    offsets = np.cumsum([0, *(own.size for own in out_ids)])
    return offsets, np.concatenate([np.empty(0, np.int64), *out_ids]), np.concatenate([scores[:0], *out_scores])


def copied(found):
    """Another answer, for what orders its hits in place."""
    return found._replace(parts=[Found(*(column.copy() for column in part)) for part in found.parts])


def shaped(found, limit, by_score, threads):
    """What `halfspace.query.Query.rows` does with an answer."""
    found = copied(found)
    if limit is not None:
        return cpu.best(found, limit, threads, by_score)
    rows = cpu.collect(found, threads)
    return cpu.sort_by_score(*rows, threads) if by_score else rows


def same_rows(ours, theirs):
    for own, expected in zip(ours, theirs, strict=True):
        same_bits(own, expected)


def check(found, limits, threads=(1, 2, 3)):
    for limit in limits:
        for by_score in (False, True):
            expected = rows_of(found, limit, by_score)
            for workers in threads:
                same_rows(shaped(found, limit, by_score, workers), expected)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("scores", SCORES)
def test_few_hits_and_many(scores, ids, rng):
    """Rows that insertion orders, rows that digits order, and rows that are empty."""
    counts = [0, 1, 2, 47, 48, 49, 50, 0, 0, 300, 2500]
    check(drawn(counts, scores, ids, rng), [None, 0, 1, 10, 49, 2499, 2500, 10**9, INT64.max])


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("counts", [[3000], [900, 900, 900, 900], [2500, 0, 3, 60, 0, 40]])
def test_long_rows_are_cut(counts, scores, ids, rng):
    with taking(SMALL):
        found = drawn(counts, scores, ids, rng, parts=9)
        check(found, [None, 0, 1, 7, 100, 600, 899, 2999])


@pytest.mark.parametrize("parts", [1, 12])
@pytest.mark.parametrize("scores", ["normal", "equal", "awkward"])
@pytest.mark.parametrize("ids", IDS)
def test_one_direction_with_as_many_hits_as_threads_share(ids, scores, parts, rng):
    """At the sizes that are used."""
    found = drawn([150_000], scores, ids, rng, parts)
    check(found, [None, 10, 3000, 75_000], threads=(1, 2))


def test_one_huge_direction_beside_many_small_ones(rng):
    counts = rng.integers(0, 20, 500)
    counts[123] = 120_000
    check(drawn(counts, "any", "permuted", rng, 40), [None, 3, 15, 60_000], threads=(1, 2))


def test_a_batch_of_like_directions(rng):
    check(drawn([20_000] * 16, "normal", "permuted", rng, 30), [None, 10, 10_000], threads=(1, 2))


def test_the_best_may_all_come_last(rng):
    """A sample of the hits then leaves out none of them, or none that matter."""
    for scores in ("rising", "falling", "equal"):
        check(drawn([50_000, 50_000], scores, "rows", rng), [1, 100], threads=(1, 2))


@pytest.mark.parametrize("size", [0, 1, 2, 48, 49, 5000])
@pytest.mark.parametrize("scores", ["awkward", "any"])
def test_one_direction_in_one_part(size, scores, rng):
    check(sorted_alone(drawn([size], scores, "permuted", rng)), [None, 0, 1, size // 2, size])


def test_one_part_of_many_hits_need_not_be_in_order(rng):
    check(drawn([70_000], "normal", "permuted", rng, parts=1), [None, 5])


@pytest.mark.parametrize("threads", [1, 2])
def test_without_scores(threads, rng):
    for counts in ([4000, 0, 3, 70], [4000], []):
        for sizes in (USED, SMALL):
            found = drawn(counts, "normal", "wide", rng)
            bare = found._replace(parts=[part._replace(scores=part.scores[:0]) for part in found.parts])
            with taking(sizes):
                offsets, ids, scores = cpu.collect(copied(bare), threads)
            same_rows((offsets, ids), rows_of(found)[:2])
            same_bits(scores, np.empty(0, np.float32))


def test_an_answer_of_nothing():
    for m in (0, 1, 3):
        for parts in ([], [Found(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))] * 2):
            found = Answer(np.zeros(m, np.int64), parts, None, 0)
            for limit in (None, 0, 5):
                for rows in (shaped(found, limit, by_score, 2) for by_score in (False, True)):
                    same_rows(rows, (np.zeros(m + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)))


@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=6),
    scores=st.sampled_from(SCORES),
    ids=st.sampled_from(IDS),
    parts=st.integers(1, 12),
    order=st.tuples(st.none() | st.integers(0, 450), st.booleans()),
    threads=st.integers(1, 4),
    sizes=st.sampled_from([USED, SMALL]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_answer(counts, scores, ids, parts, order, threads, sizes, seed):
    """`order` is the limit, and whether rows are ordered by score."""
    with taking(sizes):
        found = drawn(counts, scores, ids, np.random.default_rng(seed), parts)
        if len(counts) == parts == 1:
            found = sorted_alone(found)
        same_rows(shaped(found, *order, threads), rows_of(found, *order))


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=120), st.integers(0, 130))
def test_any_scores(values, limit):
    scores = np.array(values, np.float32)
    part = Found(np.zeros(scores.size, np.int32), np.arange(scores.size), scores)
    found = Answer(np.array([scores.size]), [part], None, 0)
    for by_score in (False, True):
        same_rows(shaped(found, limit, by_score, 1), rows_of(found, limit, by_score))


@pytest.mark.gpu
@pytest.mark.parametrize("few", [0, 1 << 16])  # hits that kernels compare; more are sorted
@pytest.mark.parametrize("scores", ["awkward", "equal", "normal", "any"])
def test_both_devices_keep_and_order_alike(scores, few, rng, gpu):
    found = drawn([0, 1, 300, 0, 63], scores, "wide", rng)
    offsets, ids, values = (gpu.xp.asarray(column) for column in rows_of(found))
    there = SimpleNamespace(offsets=offsets, ids=ids, scores=values)
    with mock.patch.multiple(importlib.import_module("halfspace.gpu.collect"), FEW=few, LONG=few):
        for limit in (None, 0, 1, 50, 1000):
            rows = gpu.collect(there, 2) if limit is None else gpu.best(there, limit, 2)
            same_rows(map(gpu.xp.asnumpy, rows), shaped(found, limit, False, 2))
            ordered = gpu.sort_by_score(*rows, 2) if limit is None else gpu.best(there, limit, 2, True)
            same_rows(map(gpu.xp.asnumpy, ordered), shaped(found, limit, True, 2))


def test_totals_count_all(rng):
    vectors = rng.integers(-2, 3, (3000, 4)).astype(np.float32)
    index = importlib.import_module("halfspace").HalfspaceIndex(4)
    index.insert(vectors, ids=rng.permutation(9000)[:3000])
    directions = rng.integers(-2, 3, (5, 4)).astype(np.float32)
    expected = [len(found) for found, _ in reference.query(vectors, directions, 1.0, faster=True)]
    for limit in (0, 1, 100, 3000):
        for sort in (False, True):
            assert index.query(directions, 1.0, limit=limit, sort=sort).totals.tolist() == expected


# -- how it is done ---------------------------------------------------------------------------------------------------


def entries(module):
    """The compiled functions of a module that Python calls."""
    return {
        name: function
        for name, function in vars(module).items()
        if isinstance(function, Dispatcher) and "no_cpython_wrapper" not in function.targetoptions
    }


def test_kernels_take_arrays_and_numbers_and_make_no_arrays(rng):
    """A signal's exception must find no array that a kernel hands back."""
    check(drawn([3000], "normal", "permuted", rng), [None, 10], threads=(1,))
    for name, function in (entries(collecting) | entries(radix)).items():
        assert len(inspect.signature(function.py_func).parameters) < 9, name
        for signature in function.nopython_signatures:
            returned = signature.return_type
            each = returned.types if isinstance(returned, types.BaseTuple) else [returned]
            assert all(isinstance(own, types.Number | types.Boolean | types.NoneType) for own in each), name
            parts = chain.from_iterable(getattr(own, "types", [own]) for own in signature.args)
            assert all(isinstance(own, types.Array | types.Number | types.Boolean) for own in parts), name


@pytest.mark.parametrize("counts", [[6000], [3000, 3000], [50] * 120, [5000, *[9] * 100]])
def test_no_kernel_takes_more_than_a_run_and_a_row(counts, rng):
    """So that none lasts: what a process is told while one runs, it hears when that has ended."""
    most = SMALL[shares]["RUN"] + SMALL[shares]["LONG"]
    taken = []

    def watched(name, function):
        def call(*arguments):
            size = arguments[0].size
            if name == "order_rows":
                size = arguments[0][-1] - arguments[0][0]
            elif name in ("worst_of_rows", "keep_rows"):
                size = (arguments[0][:, 1] - arguments[0][:, 0]).sum()
            taken.append(int(size))
            return function(*arguments)

        return call

    found = drawn(counts, "normal", "permuted", rng)
    with taking(SMALL), ExitStack() as stack:
        for module in SMALL:
            for name, function in entries(module).items():
                stack.enter_context(mock.patch.object(module, name, watched(name, function)))
        check(found, [None, 5, 2500], threads=(1, 2))
    assert len(taken) > 10
    assert max(taken) <= most


@pytest.mark.parametrize("counts", [[400_000], [100_000] * 4, [100] * 4000])
def test_scratch_is_no_more_than_three_times_the_hits(counts, rng):
    found = drawn(counts, "normal", "permuted", rng, 20)
    size = 12 * found.hits
    for limit, by_score in ((None, False), (None, True), (10, False), (max(counts) // 2, True)):
        own = copied(found)
        tracemalloc.start()
        try:
            rows = cpu.collect(own, 2) if limit is None else cpu.best(own, limit, 2)
            if by_score:
                rows = cpu.sort_by_score(*rows, 2)
            kept = sum(column.nbytes for column in rows)
            assert tracemalloc.get_traced_memory()[1] - kept <= 3 * size
        finally:
            tracemalloc.stop()


def test_what_does_not_fit_is_named(rng):
    found = drawn([1000, 1000], "normal", "rows", rng)
    real = np.empty

    def empty(shape, *arguments):
        if shape == 2000 and arguments == (np.int64,):
            raise MemoryError
        return real(shape, *arguments)

    whole = cpu.collect(copied(found), 1)
    with mock.patch.object(shares.np, "empty", empty), pytest.raises(MemoryError, match="2,000 hits"):
        cpu.collect(copied(found), 1)
    same_rows(cpu.collect(copied(found), 1), whole)
