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

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import mean, put_ball, widen_centre
from halfspace.cpu.filters import Bounded, FilterCode
from halfspace.cpu.filters.gates import bound, record, search_balls
from halfspace.cpu.filters.records import nothing_bounded
from halfspace.cpu.formats import SLICE
from halfspace.cpu.partition import partition
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled
from halfspace.model.counters import WORK_SHAPE, Column, Stage
from halfspace.model.filters.balls import Balls
from halfspace.model.layout import Codes
from halfspace.model.segment import Segment
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "enclose"]


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
    advance : called with components done, each twice: by `partition`, and in balls
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
    width = int(np.diff(columns).max())
    codes = Codes.blank(_jit.zeros, Codes.shapes(spaces * subspaces, groups, width))
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
        _enclose(vectors[space], lists, low, centre[space, low:high], places, size, span)
        advance((min(span[1] * size, rows) - span[0] * size) * int(high - low))

    _threads.run(fill, tasks, threads)
    return Balls(columns, size, centre, codes, members, holders)


@compiled
def _enclose(vectors, lists, low, centre, places, size, span):
    """Put balls around groups [first, last) of one subspace, whose dimensions begin at `low`.

    lists : members and holders (n,), of which the latter are filled in; places : codes, scales, radii
    """
    members, holders = lists
    around = widen_centre(centre), 0.0
    first, last = span
    middle = np.empty(centre.size)
    for group in range(first, last):
        start = group * size
        stop = min(start + size, members.size)
        put_ball(vectors, members, low, around, places, group, (start, stop), middle)
        for at in range(start, stop):
            holders[members[at]] = group


def _bound(segment: Segment, space: int, direction: npt.NDArray[np.float32], tau: float, threads: int) -> Bounded:
    """Bound the balls of a segment for one direction."""
    balls = segment.data
    assert isinstance(balls, Balls)
    bounds = bound(balls, space, direction, tau, threads)
    work = np.zeros(WORK_SHAPE, np.int64)
    work[Stage.GATES, Column.BYTES] = bounds.bytes_read
    return Bounded(record(balls, space, bounds, None), work, bounds)


CODE = FilterCode("balls", describe=nothing_bounded, search=search_balls, bound=_bound, sources=(__file__,))
