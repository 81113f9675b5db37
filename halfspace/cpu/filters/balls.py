"""Balls: each subspace has its own partition of the rows into small groups, and a ball around each group.

Write U_s(i) for the upper bound <q_s, c> + |q_s| r of the ball that holds row i in subspace s, and L_s(i) for the lower
one. By the lemma, applied to each subspace,

    sum_s L_s(i)   <=   <q, x_i>   <=   sum_s U_s(i)

so row i is dropped if the right side is below tau, and taken if the left side reaches it. In series, the subspace that
rules out most first: after the k-th, a row is dropped as soon as what it has, and the most that there is in the rest,
are below tau. A ball fails its *gate* if even with the most that there is in all other subspaces it stays below tau,

    U_s < tau_s := tau - sum_{t != s} max_i U_t(i);

its bound is then minus infinity, and with it that of every row it holds. All of it follows from tau alone.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import DROP, LOOK, TAKE, blank, dot_centre, mean, put_ball, widen_centre
from halfspace.cpu.directions import prepare
from halfspace.cpu.formats import SLICE, round_up32
from halfspace.cpu.partition import partition
from halfspace.cpu.rounding import radius_factor
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, inlined, pointer
from halfspace.cpu.runtime.simd import tile_dot
from halfspace.model.filters.balls import Balls
from halfspace.model.layout import BLOCK, TILE
from halfspace.model.rounding import UNIT, sum_margin
from halfspace.model.segment import address
from halfspace.runtime.progress import Advance, ignore

__all__ = ["Bounds", "bound", "enclose", "record", "test_balls"]

SPAN = 1 << 14
"""Groups that are bounded as one task."""
GATED = 1 << 20
"""Groups that meet a gate as one task."""


def enclose(
    vectors: np.ndarray,
    columns: npt.NDArray[np.int64],
    size: int,
    threads: int,
    advance: Advance = ignore,
    like: Balls | None = None,
) -> Balls:
    """Partition stored vectors (spaces, n, d) into groups of `size` in each subspace, and put balls around them.

    columns : (S + 1,), where subspaces begin and end
    like : balls whose partition and centre are taken over
    advance : told of each component twice: of those that `partition` tells of, and of those in balls
    """
    spaces, rows, _ = vectors.shape
    subspaces, groups = columns.size - 1, -(-rows // size)
    if like is None:
        members = np.empty((spaces, subspaces, rows), np.int32)
        for x, own in zip(vectors, members, strict=True):
            partition(x, columns, size, threads, advance, own)
        centre = mean(vectors, threads)
    else:
        members, centre = like.members, like.centre
        advance(vectors.size)
    holders = np.empty_like(members)
    codes = blank(spaces * subspaces, groups, int(np.diff(columns).max()))
    tasks = [
        (space, part, span)
        for space in range(spaces)
        for part in range(subspaces)
        for span in _threads.spans(groups, -(-rows * int(columns[part + 1] - columns[part]) // SLICE))
    ]

    def fill(task: tuple[int, int, tuple[int, int]]) -> None:
        space, part, span = task
        low, high = columns[part], columns[part + 1]
        at = space * subspaces + part
        places = codes.codes[at], codes.scales[at], codes.radii[at]
        lists = members[space, part], holders[space, part]
        _enclose(vectors[space], *lists, low, centre[space, low:high], *places, size, *span)
        advance((min(span[1] * size, rows) - span[0] * size) * int(high - low))

    _threads.run(fill, tasks, threads)
    return Balls(columns, size, centre, codes, members, holders)


@compiled
def _enclose(vectors, members, holders, low, centre, codes, scales, radii, size, first, last):
    """Put balls around groups [first, last) of one subspace, whose dimensions begin at `low`."""
    base = widen_centre(centre)
    middle = np.empty(centre.size)
    for group in range(first, last):
        start = group * size
        stop = min(start + size, members.size)
        put_ball(vectors, members, low, base, 0.0, codes, scales, radii, group, start, stop, middle)
        for at in range(start, stop):
            holders[members[at]] = group


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
    subspaces, groups = balls.columns.size - 1, -(-balls.members.shape[2] // balls.size)
    width = int(np.diff(balls.columns).max())
    parts = np.zeros((2, subspaces, width), np.float32)
    for part, (low, high) in enumerate(zip(balls.columns[:-1], balls.columns[1:], strict=True)):
        parts[0, part, : high - low] = direction[low:high]
        parts[1, part, : high - low] = balls.centre[space, low:high]
    ready = prepare(parts[0])
    bounds = np.empty((subspaces, groups, 2), np.float32)
    tasks = [(part, span) for part in range(subspaces) for span in _threads.spans(groups, -(-groups // SPAN), TILE)]

    def fill(task: tuple[int, tuple[int, int]]) -> float:
        part, span = task
        at = space * subspaces + part
        seen = ready.wide[part], ready.digits[part], ready.plans[part : part + 1], parts[1, part]
        places = balls.groups.codes[at], balls.groups.scales[at], balls.groups.radii[at]
        total: float = _bound(*seen, *places, bounds[part], *span)
        return total

    largest = np.zeros(subspaces)
    for (part, _), size in zip(tasks, _threads.run(fill, tasks, threads), strict=True):
        largest[part] = max(largest[part], size)
    margin = sum_margin(float(tau), float(largest.sum()), subspaces) if np.isfinite(tau) else 0.0
    order, rest = _gates(bounds, tau - margin, threads)
    read = subspaces * groups * (4 * ready.digits.shape[1] + 8)
    return Bounds(bounds, order, rest, tau - margin, tau + margin, read)


@compiled
def _bound(direction, digits, plans, centre, codes, scales, radii, bounds, first, last):
    """Bound balls [first, last) of one subspace, from whole tiles; returns the largest magnitude of a finite bound."""
    plan = plans[0]
    steps = digits.shape[0]
    base, error = dot_centre(direction, plan, centre)
    error += 8 * UNIT * abs(base)
    factor = radius_factor(plan.norm)
    places = np.empty(4, np.int64)
    products = np.empty((2, TILE), np.int32)
    largest = 0.0
    for tile in range(first, last, TILE):
        for b in range(4):
            places[b] = codes.ctypes.data + (tile // BLOCK + b) * (4 * BLOCK * steps)
        tile_dot(places.ctypes.data, digits.ctypes.data, steps, products.ctypes.data)
        for i in range(min(TILE, last - tile)):
            product = np.float64(products[0, i]) * 256.0 + np.float64(products[1, i])
            scale = np.float64(scales[tile + i])
            value = base + scale * (plan.digit_scale * (product - np.float64(plan.bias)))
            slack = scale * plan.reach + factor * np.float64(radii[tile + i]) + error
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
def test_balls(balls, rows, low, high, sums, alive, verdicts):
    """Test rows [low, high) of a segment that are candidates; returns how many came to the gates, failed them, the sum.

    balls : a BALLS record; sums : float64 scratch; alive : int32 scratch; verdicts : int32, from that of row `low` on

    The fourth number counts the bounds that were looked up.
    """
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


def record(balls: Balls, space: int, bounds: Bounds, candidates: npt.NDArray[np.uint8] | None) -> tuple[object, ...]:
    """Fields of a `halfspace.cpu.runtime.records.BALLS`."""
    return (
        *bounds.bounds.shape[:2],
        address(bounds.bounds),
        address(balls.holders[space]),
        address(bounds.order),
        address(bounds.rest),
        0 if candidates is None else address(candidates),
        bounds.below,
        bounds.above,
    )
