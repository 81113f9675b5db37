"""What the CPU does for each filter.

A module that `FilterSpec.code` names for the CPU has a `FilterCode`, called ``CODE``. Its functions are compiled into
one search kernel for each filter. Most filters need no more than a test of one chunk for one direction, of which
`halfspace.cpu.by_chunk.chunkwise` makes their search.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from halfspace.cpu.runtime.jit import inlined
from halfspace.model.filters import FILTERS

__all__ = ["Bounded", "FilterCode", "code_of", "nothing"]


@inlined
def nothing(table, which, directions, dim, shared):
    """Prepare nothing."""
    return 0


class Bounded(NamedTuple):
    """A segment's data, bounded for one direction by `FilterCode.bound`."""

    record: np.ndarray  # (1,), that kernels take instead of `describe`'s
    work: np.ndarray  # int64 (stages, columns): what this has cost
    keepalive: object  # what the record refers to


class FilterCode(NamedTuple):
    """What the CPU does for a filter.

    name : of the kernel; filters that differ in `bound` alone share one
    describe : ``(data, space) -> record (1,)``, whose address is the ``data`` of SEGMENT; None where vectors and norms
        are enough
    search : compiled; ``(job, segment, state, directions, counts, span)`` searches chunks [*span) of one space,
        and returns the chunk at which it stopped; see `halfspace.cpu.by_chunk`
    prepare : compiled; ``(table, which, directions, dim, shared)`` makes the ``state`` of all spaces of one segment
    share : ``(table, directions, threads) -> (address, keepalive)`` makes for all threads what `prepare` then finds at
        the address ``shared``; None where there is nothing to share
    bound : ``(segment, space, direction, tau, threads) -> Bounded``, of filters that are asked for one direction at a
        time; None for others
    needs_digits : whether the digits of whole directions are needed
    sources : files with all the code that its functions take from outside of `halfspace.cpu`. Without any, its kernels
        are compiled in each process and not kept on disk, where nothing would tell that their code has changed
    """

    name: str
    describe: Callable[[Any, int], np.ndarray] | None
    search: Any
    prepare: Any = nothing
    share: Callable[[Any, Any, int], tuple[int, object]] | None = None
    bound: Callable[..., Bounded] | None = None
    needs_digits: bool = False
    sources: tuple[str, ...] = ()


_codes: dict[str, FilterCode] = {}


def code_of(filter: str) -> FilterCode:
    """Return what the CPU does for a filter, by its name."""
    known = _codes.get(filter)
    return known or _codes.setdefault(filter, FILTERS[filter].on("cpu").CODE)
