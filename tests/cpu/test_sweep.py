"""Where a sweep may stop: cuts that are safe, and no deeper than the simple ones."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfspace import HalfspaceIndex
from halfspace.cpu.filters.sweep import cut


def is_safe(lists, depths, below):
    """Whether what no list has collected is bounded by less than ``below``, or cannot be: a list is collected whole."""
    if any(depth == len(bounds) for bounds, depth in zip(lists, depths, strict=True)):
        return True
    total = 0.0
    for bounds, depth in zip(lists, depths, strict=True):
        total += float(bounds[depth])
    return total < below


def in_step(lists, below):
    """How many groups the classical sweep collects: row by row, until the row is safe."""
    row = 0
    while not is_safe(lists, [row] * len(lists), below):
        row += 1
    return row * len(lists)


def fewest(lists, below):
    """How many groups the best of all cuts collects."""
    depths = product(*(range(len(bounds) + 1) for bounds in lists))
    return min(sum(each) for each in depths if is_safe(lists, each, below))


def check_cut(lists, below):
    """A cut that is safe and at most as deep as in step, or as one list; returns how many groups it collects."""
    lists = [np.array(bounds, np.float32) for bounds in lists]
    depths = cut(lists, below)
    assert depths.dtype == np.int64
    assert all(0 <= depth <= len(bounds) for bounds, depth in zip(lists, depths, strict=True))
    assert is_safe(lists, depths, below)
    assert depths.sum() <= in_step(lists, below)
    assert depths.sum() <= min(len(bounds) for bounds in lists)
    np.testing.assert_array_equal(cut(lists, below), depths)
    return int(depths.sum())


ANY = st.floats(width=32, allow_nan=False, allow_subnormal=False)
TIED = st.sampled_from([np.inf, 3.0, 2.0, 1.0, 0.5, 0.0, -1.0])
NEAR = st.floats(-10, 10, width=32, allow_subnormal=False)
BELOW = st.one_of(st.floats(allow_nan=False), st.integers(-8, 8).map(float), st.floats(-30, 30))


def descending(values, largest):
    row = st.lists(values, max_size=largest).map(lambda row: sorted(row, reverse=True))
    return st.lists(row, min_size=1, max_size=5)


@given(st.one_of(descending(ANY, 40), descending(TIED, 40), descending(NEAR, 40)), BELOW)
def test_cuts_are_safe_and_no_deeper_than_the_simple_ones(lists, below):
    check_cut(lists, below)


@given(st.one_of(descending(NEAR, 5), descending(TIED, 5)).filter(lambda lists: len(lists) <= 4), BELOW)
def test_cuts_of_short_lists_against_all_cuts(lists, below):
    collected = check_cut(lists, below)
    best = fewest([np.array(bounds, np.float32) for bounds in lists], below)
    assert best <= collected <= best * len(lists)  # in step, no list is cut deeper than the deepest of the best cut


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
def test_cuts_of_long_lists(size, rng):
    for spaces in (1, 2, 5):
        for scale in (1e-30, 1.0, 1e37):
            lists = [np.sort((scale * rng.standard_normal(size)).astype(np.float32))[::-1] for _ in range(spaces)]
            lists[0] = lists[0][: size - rng.integers(0, size)]
            sums = [sum(float(bounds[row]) for bounds in lists) for row in range(len(lists[0]))]
            for below in [*rng.choice(sums, 3), np.nextafter(sums[0], np.inf), -1e300, 0.0, -np.inf, np.inf]:
                check_cut(lists, float(below))


def test_a_steep_list_is_cut_before_a_flat_one():
    flat, steep = np.linspace(5.0, 4.9, 1000), 5.0 / (1 + np.arange(1000) / 50)
    needed = np.count_nonzero(steep >= 2)
    assert in_step([flat, steep], 7.0) > 1.9 * needed
    for lists in ([flat, steep], [steep, flat]):
        assert check_cut(lists, 7.0) <= 1.2 * needed


def test_a_short_list_is_taken_whole():
    assert check_cut([np.full(1000, 5.0), [9.0, 8.0, 7.0], np.full(1000, 5.0)], 1.0) == 3


@pytest.mark.parametrize("lists", [[[]], [[], [1.0]], [[np.inf, 1.0], []]])
def test_an_empty_list_collects_nothing(lists):
    assert check_cut(lists, -np.inf) == 0


@pytest.mark.parametrize("filter", ["balls", "sweep"])
def test_no_group_passes_where_nothing_reaches_tau(filter, rng):
    index = HalfspaceIndex(6, filter=filter, subspaces=3)
    index.insert(rng.standard_normal((2000, 6)))
    stages = {stage.name: stage for stage in index.explain(np.ones(6), 1e4).stages}
    if filter == "sweep":
        assert stages["sweep"].left == 0
    else:
        assert stages["gates"].dropped == 2000
    assert "verify" not in stages
