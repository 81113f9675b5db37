"""The stages on the CPU, compiled by Numba."""

from halfspace.cpu._threads import available
from halfspace.cpu.cells import encode
from halfspace.cpu.collect import best, collect, sort_by_score
from halfspace.cpu.directions import prepare
from halfspace.cpu.formats import measure, store
from halfspace.cpu.search import ADAPT, CELLS, COUNT, IDS, SCAN, SCORES, SEGMENT, STAGES, search

__all__ = [
    "ADAPT",
    "CELLS",
    "COUNT",
    "IDS",
    "SCAN",
    "SCORES",
    "SEGMENT",
    "STAGES",
    "available",
    "best",
    "collect",
    "encode",
    "measure",
    "prepare",
    "search",
    "sort_by_score",
    "store",
]
