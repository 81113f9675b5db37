"""The stages on a GPU: CuPy arrays, and kernels in ``kernels/``."""

try:
    import cupy as xp
except ImportError as error:
    raise ImportError(
        "an index on a GPU needs CuPy: pip install cupy-cuda13x, or cupy-cuda12x for a driver of CUDA 12"
    ) from error

from halfspace.explain import STAGES
from halfspace.gpu.attend import attend
from halfspace.gpu.balls import enclose
from halfspace.gpu.cache import extend, new_cache, reframe
from halfspace.gpu.cells import encode
from halfspace.gpu.collect import best, collect, joined, sort_by_score
from halfspace.gpu.device import REMEMBERED, as_tau, asarray, available, capturing, finish, on, plain, stream, wait
from halfspace.gpu.formats import measure, store
from halfspace.gpu.groups import enclose_groups
from halfspace.gpu.partition import partition
from halfspace.gpu.preallocated import fill, may_fill
from halfspace.gpu.records import tabulate
from halfspace.gpu.search import (
    COUNT,
    EXPLAINED,
    IDS,
    MOST_HITS,
    NOT_FINITE,
    OVERFULL,
    SCORES,
    room,
    search,
)
from halfspace.gpu.threshold import certify, estimate

__all__ = [
    "COUNT",
    "EXPLAINED",
    "IDS",
    "MOST_HITS",
    "NOT_FINITE",
    "OVERFULL",
    "REMEMBERED",
    "SCORES",
    "STAGES",
    "as_tau",
    "asarray",
    "attend",
    "available",
    "best",
    "capturing",
    "certify",
    "collect",
    "enclose",
    "enclose_groups",
    "encode",
    "estimate",
    "extend",
    "fill",
    "finish",
    "joined",
    "may_fill",
    "measure",
    "new_cache",
    "on",
    "partition",
    "plain",
    "reframe",
    "room",
    "search",
    "sort_by_score",
    "store",
    "stream",
    "tabulate",
    "wait",
    "xp",
]
