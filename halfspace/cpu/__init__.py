"""The stages on the CPU, compiled by Numba."""

import numpy as xp

from halfspace.arguments.checks import as_tau, asarray
from halfspace.cpu.attention.attend import attend
from halfspace.cpu.attention.cache import extend, new_cache, reframe
from halfspace.cpu.attention.choose import attend_chosen
from halfspace.cpu.attention.threshold import estimate
from halfspace.cpu.collect import best, collect, edges, higher, joined, ranked, sort_by_score, without
from halfspace.cpu.filters.balls import enclose
from halfspace.cpu.filters.cells import encode
from halfspace.cpu.filters.groups import enclose_groups
from halfspace.cpu.formats import measure, store
from halfspace.cpu.guess import SPARE, guess
from halfspace.cpu.partition import partition
from halfspace.cpu.runtime.device import (
    DEVICE,
    REMEMBERED,
    capturing,
    fill,
    finish,
    is_kernel_ready,
    may_fill,
    named,
    on,
    place,
    preallocate,
    wait,
)
from halfspace.cpu.runtime.jit import zeros
from halfspace.cpu.runtime.records import tabulate
from halfspace.cpu.runtime.threads import available
from halfspace.cpu.search import MOST_HITS, room, search

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
    "tabulate",
    "wait",
    "without",
    "xp",
    "zeros",
]
