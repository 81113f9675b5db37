"""The sweep: down the lists of all subspaces at once, until what is left cannot reach tau (Fagin's threshold idea).

Each subspace lists its groups by upper bound, descending; groups that fail their gate are not listed, since no row in
them is a hit. A *cut* (L_1, ..., L_S) collects the members of the first L_s groups of each list. A row that no list
has collected is bounded by the groups at the cuts,

    <q, x>  <=  sum_s U_s[L_s],

so a cut with that sum below tau misses no hit. Past its end a list's bound is minus infinity: a row that a whole list
does not hold has failed a gate. Going down in step, L_1 = ... = L_S, is the classical sweep, and the first safe row is
where it stops. Unequal cuts collect fewer where lists fall off at different rates: at a given price for the bound, each
list has a best cut of its own, and the lowest price at which the sum is safe is found by bisection; or one list is
taken whole, and no other is needed.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.filters import Bounded
from halfspace.cpu.filters.balls import CODE as BALLS_CODE
from halfspace.cpu.filters.gates import Bounds, bound, record, threads_for
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, inlined
from halfspace.model.counters import WORK_SHAPE, Column, Stage
from halfspace.model.filters.balls import Balls
from halfspace.model.segment import Segment

__all__ = ["CODE", "Swept", "cut", "sweep"]

COLLECTED = 1 << 18
"""Groups whose members are collected at once."""


class Swept(NamedTuple):
    """The rows that a sweep collected."""

    candidates: npt.NDArray[np.uint8]  # (ceil(rows / 8),), a bit a row, lowest first
    left: int  # rows collected
    bytes_read: int


def sweep(balls: Balls, space: int, bounds: Bounds, threads: int) -> Swept:
    """Collect the candidates of one space of a segment: a superset of the rows that `bounds` does not rule out."""
    rows = balls.members.shape[2]
    uppers = bounds.bounds[:, :, 1]
    lists = _threads.run(_descending, list(uppers), threads)
    cuts = cut([upper[order] for upper, order in zip(uppers, lists, strict=True)], bounds.below)
    candidates = np.zeros(-(-rows // 8), np.uint8)
    touched = left = 0
    for part, (order, depth) in enumerate(zip(lists, cuts, strict=True)):
        for first in range(0, depth, COLLECTED):
            groups = order[first : min(first + COLLECTED, depth)]
            left += _collect(balls.members[space, part], balls.size, groups, candidates)
        touched += depth
    listed = sum(order.size for order in lists)
    return Swept(candidates, left, 4 * uppers.size + 8 * listed + touched * (8 + 4 * balls.size))


def _descending(upper: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """List the groups that passed their gate, by upper bound and then by number."""
    passed = np.flatnonzero(upper > -np.inf)
    return passed[np.argsort(-upper[passed], kind="stable")]


def cut(lists: list[npt.NDArray[np.float32]], below: float) -> npt.NDArray[np.int64]:
    """Find how deep to go into each list of descending bounds, so that the bounds at the cuts sum to less than `below`.

    Returns the depths (S,) of the cheapest of three safe cuts: one list whole; in step; at one price for all.
    """
    sizes = np.array([bounds.size for bounds in lists])
    padded = np.full((sizes.size, sizes.max()), -np.inf, np.float32)
    for row, bounds in zip(padded, lists, strict=True):
        row[: bounds.size] = bounds
    depths: npt.NDArray[np.int64] = _cut(padded, sizes, below)
    return depths


@compiled
def _cut(bounds, sizes, below):
    """Like `cut`, of lists (S, k) that are padded with minus infinity."""
    shortest = np.argmin(sizes)
    depths = np.zeros_like(sizes)
    depths[shortest] = sizes[shortest]
    step = _stop(bounds, sizes[shortest], below)
    if step * sizes.size < depths.sum():
        depths[:] = step
    if sizes[shortest] > 0:
        priced = np.empty_like(sizes)
        if _priced(bounds, sizes, below, priced) and priced.sum() < depths.sum():
            depths[:] = priced
    return depths


@inlined
def _stop(bounds, last, below):
    """First row at which the sweep in step may stop, at most `last`: sums descend, so it is found by bisection."""
    low, high = 0, last
    while low < high:
        row = (low + high) // 2
        total = 0.0
        for s in range(bounds.shape[0]):
            total += np.float64(bounds[s, row])
        if total < below:
            high = row
        else:
            low = row + 1
    return low


@inlined
def _priced(bounds, sizes, below, depths):
    """Find the cuts that minimise depth + price * bound in each list, at the lowest price that makes the sum safe.

    depths : gets the cuts (S,), short of the lists' ends; returns whether they are safe
    """
    spread = 0.0
    for s in range(sizes.size):
        most, least = np.float64(bounds[s, 0]), np.float64(bounds[s, sizes[s] - 1])
        if not most - least < np.inf:
            return False
        spread = max(spread, most - least)
    unit = 1.0 / spread if spread > 0.0 else 0.0
    low, high = 0.0, 1.0
    while not _at_price(bounds, sizes, high * unit, depths) < below:
        low, high = high, 16.0 * high
        if high > 2.0**80:
            return False
    for _ in range(30):
        price = (low + high) / 2
        if _at_price(bounds, sizes, price * unit, depths) < below:
            high = price
        else:
            low = price
    return _at_price(bounds, sizes, high * unit, depths) < below


@inlined
def _at_price(bounds, sizes, price, depths):
    """Find each list's best cut at a price, among eight depths to an octave; returns the sum of the bounds there."""
    total = 0.0
    for s in range(sizes.size):
        best, depth = np.inf, 0
        while True:
            cost = depth + price * np.float64(bounds[s, depth])
            if cost < best:
                best = cost
                depths[s] = depth
            if depth == sizes[s] - 1:
                break
            depth = min(depth + max(1, depth >> 3), sizes[s] - 1)
        total += np.float64(bounds[s, depths[s]])
    return total


@compiled
def _collect(members, size, groups, candidates):
    """Set the bits of the members of some groups; returns how many were not set before."""
    fresh = 0
    for group in groups:
        for at in range(group * size, min((group + 1) * size, members.size)):
            row = members[at]
            if not 0 <= row < members.size:  # of a damaged file that is mapped and not verified
                continue
            bit = np.uint8(1 << (row & 7))
            if candidates[row >> 3] & bit == 0:
                candidates[row >> 3] |= bit
                fresh += 1
    return fresh


def _bound(segment: Segment, space: int, direction: npt.NDArray[np.float32], tau: float, threads: int) -> Bounded:
    """Bound the balls of a segment for one direction, and sweep them."""
    balls = segment.data
    assert isinstance(balls, Balls)
    bounds = bound(balls, space, direction, tau, threads)
    swept = sweep(balls, space, bounds, threads_for(balls, threads))
    work = np.zeros(WORK_SHAPE, np.int64)
    work[Stage.GATES, Column.BYTES] = bounds.bytes_read
    work[Stage.SWEEP] = segment.rows, segment.rows - swept.left, 0, swept.left, 0, swept.bytes_read
    return Bounded(record(balls, space, bounds, swept.candidates), work, (bounds, swept))


CODE = BALLS_CODE._replace(bound=_bound)
