"""The stages on the CPU, compiled by Numba."""

from halfspace.cpu._threads import available
from halfspace.cpu.balls import enclose
from halfspace.cpu.cells import encode
from halfspace.cpu.chunks import STAGES
from halfspace.cpu.collect import best, collect, sort_by_score
from halfspace.cpu.directions import prepare
from halfspace.cpu.formats import measure, store
from halfspace.cpu.groups import enclose_groups
from halfspace.cpu.partition import partition
from halfspace.cpu.pipeline import COUNT, IDS, NOT_FINITE, OUT_OF_MEMORY, OVERFULL, SCORES
from halfspace.cpu.records import tabulate
from halfspace.cpu.search import search

__all__ = [
    "COUNT",
    "IDS",
    "NOT_FINITE",
    "OUT_OF_MEMORY",
    "OVERFULL",
    "SCORES",
    "STAGES",
    "available",
    "best",
    "collect",
    "enclose",
    "enclose_groups",
    "encode",
    "measure",
    "partition",
    "prepare",
    "search",
    "sort_by_score",
    "store",
    "tabulate",
]
