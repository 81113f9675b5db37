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

from halfspace.cpu import _threads
from halfspace.cpu._jit import entry
from halfspace.cpu.balls import Bounds
from halfspace.segment import Balls

__all__ = ["Swept", "cut", "sweep"]


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
        left += _collect(balls.members[space, part], balls.size, order[:depth], candidates)
        touched += depth
    listed = sum(order.size for order in lists)
    return Swept(candidates, left, 4 * uppers.size + 8 * listed + touched * (8 + 4 * balls.size))


def _descending(upper: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """List the groups that passed their gate, by upper bound and then by number."""
    passed = np.flatnonzero(upper > -np.inf)
    return passed[np.argsort(-upper[passed], kind="stable")]


def cut(lists: list[npt.NDArray[np.float32]], below: float) -> npt.NDArray[np.int64]:
    """Find how deep to go into each list of descending bounds, so that the bounds at the cuts sum to less than `below`.

    Returns the depths (S,) of the cheapest of three safe cuts: in step; one list whole; at one price for all.
    """
    sizes = np.array([bounds.size for bounds in lists])
    whole = np.zeros_like(sizes)
    whole[np.argmin(sizes)] = sizes.min()
    choices = [whole, np.full_like(sizes, _stop(lists, below))]
    if sizes.min() > 0:
        choices += _priced(lists, below)
    return min(choices, key=lambda depths: int(depths.sum()))


def _stop(lists: list[npt.NDArray[np.float32]], below: float) -> int:
    """First row at which the sweep in step may stop: the sums descend, so it is found by bisection."""
    low, high = 0, min(bounds.size for bounds in lists)
    while low < high:
        row = (low + high) // 2
        if sum(float(bounds[row]) for bounds in lists) < below:
            high = row
        else:
            low = row + 1
    return low


def _priced(lists: list[npt.NDArray[np.float32]], below: float) -> list[npt.NDArray[np.int64]]:
    """Find the cuts that minimise depth + price * bound in each list, at the lowest price that makes the sum safe."""
    depths = [_depths(bounds.size) for bounds in lists]
    values = [bounds[depth].astype(np.float64) for bounds, depth in zip(lists, depths, strict=True)]
    if not all(np.isfinite(value).all() for value in values) or sum(float(value[-1]) for value in values) >= below:
        return []
    spread = max(float(value[0] - value[-1]) for value in values) or 1.0

    def at(price: float) -> tuple[npt.NDArray[np.int64], float]:
        best = [int(np.argmin(depth + price * (value / spread))) for depth, value in zip(depths, values, strict=True)]
        chosen = np.array([depth[k] for depth, k in zip(depths, best, strict=True)])
        return chosen, sum(float(value[k]) for value, k in zip(values, best, strict=True))

    low, high = 0.0, 1.0
    while at(high)[1] >= below:
        low, high = high, 16.0 * high
        if high > 2.0**80:
            return []
    for _ in range(30):
        price = (low + high) / 2
        low, high = (low, price) if at(price)[1] < below else (price, high)
    return [at(high)[0]]


def _depths(size: int) -> npt.NDArray[np.int64]:
    """Depths that are considered in a list: every one of the first few, then eight to an octave, and the last."""
    grid = np.unique(np.floor(2.0 ** np.arange(0, np.log2(size) + 1, 1 / 8)).astype(np.int64))
    return np.concatenate([[0], grid[grid < size - 1], [size - 1]]) if size > 1 else np.zeros(1, np.int64)


@entry
def _collect(members, size, groups, candidates):
    """Set the bits of the members of some groups; returns how many were not set before."""
    fresh = 0
    for group in groups:
        for at in range(group * size, min((group + 1) * size, members.size)):
            row = members[at]
            bit = np.uint8(1 << (row & 7))
            if candidates[row >> 3] & bit == 0:
                candidates[row >> 3] |= bit
                fresh += 1
    return fresh
