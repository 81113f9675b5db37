"""The tests of balls: bounds of all groups for one direction, gates, and sums over the subspaces.

See `halfspace.cpu.filters.balls` for the mathematics.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.by_chunk import chunkwise
from halfspace.cpu.codes import dot_centre
from halfspace.cpu.directions import prepare
from halfspace.cpu.filters.records import BALLS
from halfspace.cpu.formats import round_up32
from halfspace.cpu.job import BALLS as BALLS_STAGE
from halfspace.cpu.job import BYTES, DROP, DROPPED, GATES, LEFT, LOOK, TAKE, TAKEN, TESTED, keep
from halfspace.cpu.rounding import radius_factor
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import array_at, compiled, inlined, pointer, record_at
from halfspace.cpu.runtime.records import DIRECTION
from halfspace.cpu.runtime.simd import tile_dot
from halfspace.model.filters.balls import Balls
from halfspace.model.layout import BLOCK, TILE
from halfspace.model.rounding import UNIT, sum_margin
from halfspace.model.segment import address

__all__ = ["Bounds", "bound", "record", "search_balls", "threads_for"]

SPAN = 1 << 14
"""Groups that are bounded as one task."""
GATED = 1 << 20
"""Groups that meet a gate as one task."""
WORTH = 1 << 22
"""Members of groups from which on threads are worth waking."""


class Bounds(NamedTuple):
    """The balls of one space of one segment, seen from one direction."""

    bounds: npt.NDArray[np.float32]  # (S, groups, 2), lower and upper
    order: npt.NDArray[np.int64]  # (S,), the subspace that rules out most first
    rest: npt.NDArray[np.float64]  # (S + 1,), sum of the largest upper bounds of the k-th in that order and all after
    below: float  # rows whose upper bounds sum to less are dropped
    above: float  # rows whose lower bounds sum to as much are taken
    bytes_read: int


def bound(balls: Balls, space: int, direction: npt.NDArray[np.float32], tau: float, threads: int) -> Bounds:
    """Bound every ball of one space of a segment for one direction (d,), and let the gates rule out what they can."""
    threads = threads_for(balls, threads)
    subspaces, groups = balls.shape
    width = int(np.diff(balls.columns).max())
    parts = np.zeros((2, subspaces, width), np.float32)
    for part, (low, high) in enumerate(zip(balls.columns[:-1], balls.columns[1:], strict=True)):
        parts[0, part, : high - low] = direction[low:high]
        parts[1, part, : high - low] = balls.centre[space, low:high]
    ready = prepare(parts[0], np.zeros(subspaces))
    bounds = np.empty((subspaces, groups, 2), np.float32)
    tasks = [(part, span) for part in range(subspaces) for span in _threads.spans(groups, -(-groups // SPAN), TILE)]

    def fill(task: tuple[int, tuple[int, int]]) -> float:
        part, span = task
        at = space * subspaces + part
        codes = balls.groups.codes[at], balls.groups.scales[at], balls.groups.radii[at]
        total: float = _bound(address(ready.records[part : part + 1]), parts[1, part], codes, bounds[part], span)
        return total

    largest = np.zeros(subspaces)
    for (part, _), size in zip(tasks, _threads.run(fill, tasks, threads), strict=True):
        largest[part] = max(largest[part], size)
    margin = sum_margin(float(tau), float(largest.sum()), subspaces) if np.isfinite(tau) else 0.0
    order, rest = _gates(bounds, tau - margin, threads)
    read = subspaces * groups * (4 * ready.digits.shape[1] + 8)
    return Bounds(bounds, order, rest, tau - margin, tau + margin, read)


@compiled
def _bound(direction, centre, arrays, bounds, span):
    """Bound balls [*span) of one subspace, from whole tiles; returns the largest magnitude of a finite bound.

    direction : address of a DIRECTION; arrays : the codes, scales and radii of the balls
    """
    asked = record_at(direction, DIRECTION)
    codes, scales, radii = arrays
    first, last = span
    steps, digits = asked.steps, asked.digits
    base, error = dot_centre(array_at(asked.wide, np.float64, centre.size), asked, centre)
    error += 8 * UNIT * abs(base)
    factor = radius_factor(asked.norm)
    places = np.empty(4, np.int64)
    products = np.empty((2, TILE), np.int32)
    largest = 0.0
    for tile in range(first, last, TILE):
        for b in range(4):
            places[b] = codes.ctypes.data + (tile // BLOCK + b) * (4 * BLOCK * steps)
        tile_dot(places.ctypes.data, digits, steps, products.ctypes.data)
        for i in range(min(TILE, last - tile)):
            product = np.float64(products[0, i]) * 256.0 + np.float64(products[1, i])
            scale = np.float64(scales[tile + i])
            value = base + scale * (asked.digit_scale * (product - np.float64(asked.bias)))
            slack = scale * asked.reach + factor * np.float64(radii[tile + i]) + error
            lower, upper = _outward(value - slack, value + slack)
            bounds[tile + i, 0], bounds[tile + i, 1] = lower, upper
            for one in (lower, upper):
                if abs(one) < np.inf:
                    largest = max(largest, np.float64(abs(one)))
    return largest


@inlined
def _outward(lower, upper):
    """Round a lower bound down to float32, and an upper bound up; where either is NaN, they bound nothing."""
    if not lower <= upper:
        return -np.float32(np.inf), np.float32(np.inf)
    return -round_up32(-lower), round_up32(upper)


def threads_for(balls: Balls, threads: int) -> int:
    """Say how many of the threads are worth waking."""
    return threads if balls.members.size >= WORTH else 1


def _gates(
    bounds: npt.NDArray[np.float32], below: float, threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Give balls that fail their gates the upper bound minus infinity; returns the order of subspaces and the rest."""
    subspaces, groups, _ = bounds.shape
    tasks = [(s, span) for s in range(subspaces) for span in _threads.spans(groups, -(-groups // GATED))]
    most, failing = [-np.inf] * subspaces, np.zeros(subspaces, np.int64)
    for (s, _), largest in zip(tasks, _threads.run(lambda t: _most(bounds[t[0]], *t[1]), tasks, threads), strict=True):
        most[s] = max(most[s], largest)
    gates = [below - sum(most[t] for t in range(subspaces) if t != s) for s in range(subspaces)]
    failed = _threads.run(lambda t: _gate(bounds[t[0]], gates[t[0]], *t[1]), tasks, threads)
    for (s, _), count in zip(tasks, failed, strict=True):
        failing[s] += count
    order = np.argsort(-failing, kind="stable")
    rest = [0.0]
    for s in order[::-1].tolist():
        rest.append(rest[-1] + most[s])
    return order, np.array(rest[::-1])


@compiled
def _most(bounds, first, last):
    """Find the largest upper bound of balls [first, last)."""
    most = -np.inf
    for g in range(first, last):
        most = max(most, np.float64(bounds[g, 1]))
    return most


@compiled
def _gate(bounds, gate, first, last):
    """Give balls [first, last) below their gate the upper bound minus infinity; returns how many there are."""
    failing = 0
    for g in range(first, last):
        if np.float64(bounds[g, 1]) < gate:
            bounds[g, 1] = -np.inf
            failing += 1
    return failing


@inlined
def _classify_balls(job, balls, rows, low, high):
    """Test rows [low, high) of a segment that are candidates: verdicts are put into the job, from that of row `low` on.

    Returns how many came to the gates, how many failed them, and the sum; and how many bounds were looked up.
    """
    sums, alive, verdicts = job.sums, job.alive, job.verdicts
    count = 0
    for row in range(low, high):
        verdicts[row - low] = DROP
        if balls.candidates == 0 or (pointer(balls.candidates, np.uint8)[row >> 3] >> (row & 7)) & 1 == 1:
            sums[count] = 0.0
            alive[count] = row - low
            count += 1
    came, gated, looked = count, 0, 0
    order = pointer(balls.order, np.int64)
    rest = pointer(balls.rest, np.float64)
    for k in range(balls.subspaces):
        holders = pointer(balls.holders + 4 * (order[k] * rows + low), np.int32)
        bounds = pointer(balls.bounds + 8 * order[k] * balls.groups, np.float32)
        looked += count
        kept = 0
        for at in range(count):
            group = holders[alive[at]]
            inside = 0 <= group < balls.groups  # not so in a damaged file that is mapped and not verified
            total = sums[at] + np.float64(bounds[2 * group + 1] if inside else np.float32(np.inf))
            gated += total == -np.inf
            if not total + rest[k + 1] < balls.below:
                sums[kept] = total
                alive[kept] = alive[at]
                kept += 1
        count = kept
    for at in range(count):
        lower = 0.0
        for k in range(balls.subspaces):
            holders = pointer(balls.holders + 4 * (k * rows + low), np.int32)
            bounds = pointer(balls.bounds + 8 * k * balls.groups, np.float32)
            group = holders[alive[at]]
            lower += np.float64(bounds[2 * group] if 0 <= group < balls.groups else -np.float32(np.inf))
        verdicts[alive[at]] = TAKE if lower >= balls.above else LOOK
    return came, gated, came - gated - count, looked + balls.subspaces * count


@inlined
def _classify(job, segment, state, direction, low, high):
    """List which rows of a chunk the balls that hold them leave; returns how many, and that no hit is counted here."""
    balls = record_at(segment.data, BALLS)
    came, gated, dropped, looked = _classify_balls(job, balls, segment.rows, low, high)
    left, taken = 0, 0
    if came > gated + dropped:
        for i in range(high - low):
            if job.verdicts[i] != DROP:
                taken += job.verdicts[i] == TAKE
                left = keep(job, segment, low + i, job.verdicts[i], left)
    work = job.work
    work[GATES, TESTED] += came
    work[GATES, DROPPED] += gated
    work[GATES, LEFT] += came - gated
    work[BALLS_STAGE, TESTED] += came - gated
    work[BALLS_STAGE, DROPPED] += dropped
    work[BALLS_STAGE, TAKEN] += taken
    work[BALLS_STAGE, LEFT] += came - gated - dropped - taken
    work[BALLS_STAGE, BYTES] += 8 * looked + (high - low + 7) // 8 * (balls.candidates != 0)
    return left, 0


search_balls = chunkwise(_classify)


def record(balls: Balls, space: int, bounds: Bounds, candidates: npt.NDArray[np.uint8] | None) -> np.ndarray:
    """Return BALLS (1,), for one direction."""
    made = np.zeros(1, BALLS)
    row = made[0]
    row["subspaces"], row["groups"] = bounds.bounds.shape[:2]
    row["bounds"], row["holders"] = address(bounds.bounds), address(balls.holders[space])
    row["order"], row["rest"] = address(bounds.order), address(bounds.rest)
    row["candidates"] = 0 if candidates is None else address(candidates)
    row["below"], row["above"] = bounds.below, bounds.above
    return made
