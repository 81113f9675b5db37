"""Groups: a ball tree of two levels. Rows that lie close together follow one another.

The mathematics is in `halfspace.cpu.filters.groups`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfspace.model.counters import Stage
from halfspace.model.filters.spec import Building, FilterData, FilterSpec, Rows
from halfspace.model.layout import BLOCK, CHUNK, Codes, Sections
from halfspace.model.metrics import METRICS, Metric
from halfspace.model.segment import Segment
from halfspace.runtime.progress import Advance, Meter

__all__ = ["GROUPS", "LEVELS", "MAX_ROWS", "Groups"]

LEVELS = {"cells": 1, "groups": BLOCK, "chunks": CHUNK}
"""Rows in a ball of each level, by the attribute of `Groups`, which begins the names of its sections."""
MAX_ROWS = 2**31 - 1
"""Rows that partitions can number."""
HALVE, JOIN, ENCLOSE = 3.0, 1.0, 10.0
"""What halving a set once, ordering and enclosing cost for each component, about."""


@dataclass(frozen=True, eq=False)
class Groups(FilterData):
    """Rows that lie close together follow one another: balls around each 1,024 of them, each 16 and each one.

    Each level is coded around the centre of the ball above, the uppermost around `centre`.

    With the metric ``"cosine"``, the length of a ball is the least norm of its vectors, as segments have norms. With
    ``"l2"``, a ball around C has the length (|C - centre|^2 - radius^2) / 2, rounded down.
    """

    SECTIONS: ClassVar = {"centre": "centre", "slack": "slack"}
    PASSES = 3

    centre: npt.NDArray[np.float32]  # (spaces, d)
    cells: Codes  # of each row
    groups: Codes  # of each 16 rows
    chunks: Codes  # of each 1,024 rows
    slack: npt.NDArray[np.float64] | None = None
    """How much lengths may lack, (spaces,), where there are any: with ``"cosine"`` 0, or infinite if a norm is."""

    @classmethod
    def read(cls, sections: Sections, rows: int, dim: int, about: Mapping[str, Any]) -> "Groups":
        """Take groups out of a file."""
        metric = Metric.named(about["metric"])
        levels = {
            name: Codes.taken(sections, Codes.shapes(1, -(-rows // size), dim, metric), f"{name}/")
            for name, size in LEVELS.items()
        }
        slack = None if metric == Metric.IP else sections.take(cls.SECTIONS["slack"], np.float64, (1,))
        return cls(sections.take(cls.SECTIONS["centre"], np.float32, (1, dim)), **levels, slack=slack)

    def sections(self, prefix: str = "") -> dict[str, Any]:
        """Return all arrays by the names of their sections."""
        parts = super().sections(prefix)
        for name in LEVELS:
            parts |= getattr(self, name).sections(f"{prefix}{name}/")
        return parts

    def again(self, rows: Rows, how: Building, advance: Advance) -> "Groups":
        """Enclose the vectors again, around the same centre."""
        groups: Groups = how.backend.enclose_groups(*rows, how.threads, self.centre, advance, how.metric)
        return groups


def _build(how: Building, segment: Segment, meter: Meter) -> Segment:
    vectors = segment.vectors
    whole = np.array([0, vectors.shape[2]])
    grouping, ordering, enclosing = meter.split(HALVE * segment.rows.bit_length(), JOIN, ENCLOSE)
    advance = grouping.over(vectors.size)
    order = how.backend.partition(vectors[0], whole, BLOCK, how.threads, advance)[0]
    segment = segment.reordered(order.astype(np.int64), ordering.over(vectors.size))
    advance = enclosing.over(Groups.PASSES * vectors.size)
    rows = Rows(segment.vectors, segment.norms)
    return replace(segment, data=how.backend.enclose_groups(*rows, how.threads, advance=advance, metric=how.metric))


GROUPS = FilterSpec(
    name="groups",
    summary="balls around 1,024 and 16 vectors that lie close together, then around each",
    stages=(Stage.CHUNKS, Stage.GROUPS, Stage.ROWS),
    build=_build,
    code={"cpu": "halfspace.cpu.filters.groups", "gpu": "halfspace.gpu.filters.groups"},
    data=Groups,
    most_rows=MAX_ROWS,
    metrics=METRICS,
    tried=True,
)
