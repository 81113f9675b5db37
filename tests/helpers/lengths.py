"""A filter in one file: rows are dropped, 16 at a time, that are too short to reach the threshold.

|q| |x| < tau is proof enough (Cauchy-Schwarz). `halfspace` knows nothing of it until `register` is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from halfspace.cpu.by_chunk import chunkwise
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.job import BYTES, DROPPED, LEFT, LOOK, NORMS, TESTED, keep
from halfspace.cpu.rounding import longest_product
from halfspace.cpu.runtime.jit import inlined, pointer, record_at
from halfspace.model.counters import Stage
from halfspace.model.filters import FilterData, FilterSpec, register
from halfspace.model.layout import BLOCK
from halfspace.model.segment import address

__all__ = ["LENGTHS"]


@dataclass(frozen=True, eq=False)
class Lengths(FilterData):
    """The norm of the longest of each 16 rows."""

    SECTIONS: ClassVar[Mapping[str, str]] = {"longest": "lengths/longest"}

    longest: np.ndarray  # float32 (spaces, ceil(n / 16))

    @classmethod
    def of(cls, norms):
        starts = np.arange(0, norms.shape[1], BLOCK)
        return cls(np.maximum.reduceat(norms, starts, axis=1))

    @classmethod
    def read(cls, sections, rows, dim, about):
        return cls.taken(sections, {"longest": (np.float32, (1, -(-rows // BLOCK)))})

    def again(self, rows, how, advance):
        advance(rows.vectors.size)
        return self.of(rows.norms)


RECORD = np.dtype([("longest", np.int64)])


def describe(lengths: Lengths, space: int) -> np.ndarray:
    return np.array([(address(lengths.longest[space]),)], RECORD)


@inlined
def classify(job, segment, state, direction, low, high):
    data = record_at(segment.data, RECORD)
    longest = pointer(data.longest, np.float32)
    left, dropped = 0, 0
    for first in range(low, high, BLOCK):
        last = min(first + BLOCK, high)
        if longest_product(direction.norm, np.float64(longest[first // BLOCK])) < direction.tau:
            dropped += last - first
            continue
        for row in range(first, last):
            left = keep(job, segment, row, LOOK, left)
    work = job.work
    work[NORMS, TESTED] += high - low
    work[NORMS, DROPPED] += dropped
    work[NORMS, LEFT] += high - low - dropped
    work[NORMS, BYTES] += 4 * ((high - low + BLOCK - 1) // BLOCK)
    return left, 0


def build(how, segment, meter):
    return replace(segment, data=Lengths.of(segment.norms))


CODE = FilterCode("lengths", describe, chunkwise(classify), sources=(__file__,))

LENGTHS: Any = register(
    FilterSpec(
        name="lengths",
        summary="the longest of each 16 vectors",
        stages=(Stage.NORMS,),
        build=build,
        code={"cpu": __name__},
        data=Lengths,
    )
)
