"""The stages on a GPU: CuPy arrays, and kernels in ``kernels/``."""

try:
    import cupy as xp
except ImportError as error:
    raise ImportError(
        "an index on a GPU needs CuPy: pip install cupy-cuda13x, or cupy-cuda12x for a driver of CUDA 12"
    ) from error

from halfspace.gpu.attention.attend import attend
from halfspace.gpu.attention.cache import extend, new_cache, reframe
from halfspace.gpu.attention.choose import attend_chosen
from halfspace.gpu.attention.threshold import estimate
from halfspace.gpu.collect import best, collect, edges, higher, joined, ranked, sort_by_score, without
from halfspace.gpu.filters.balls import enclose
from halfspace.gpu.filters.cells import encode
from halfspace.gpu.filters.groups import enclose_groups
from halfspace.gpu.formats import measure, store
from halfspace.gpu.guess import SPARE, guess
from halfspace.gpu.out import fill, may_fill, preallocate
from halfspace.gpu.partition import partition
from halfspace.gpu.runtime.device import (
    DEVICE,
    REMEMBERED,
    as_tau,
    asarray,
    available,
    capturing,
    finish,
    is_kernel_ready,
    named,
    on,
    place,
    stream,
    wait,
    zeros,
)
from halfspace.gpu.runtime.records import tabulate
from halfspace.gpu.search import MOST_HITS, room, search

__all__ = [
    "DEVICE",
    "MOST_HITS",
    "REMEMBERED",
    "SPARE",
    "as_tau",
    "asarray",
    "attend",
    "attend_chosen",
    "available",
    "best",
    "capturing",
    "collect",
    "edges",
    "enclose",
    "enclose_groups",
    "encode",
    "estimate",
    "extend",
    "fill",
    "finish",
    "guess",
    "higher",
    "is_kernel_ready",
    "joined",
    "may_fill",
    "measure",
    "named",
    "new_cache",
    "on",
    "partition",
    "place",
    "preallocate",
    "ranked",
    "reframe",
    "room",
    "search",
    "sort_by_score",
    "store",
    "stream",
    "tabulate",
    "wait",
    "without",
    "xp",
    "zeros",
]
