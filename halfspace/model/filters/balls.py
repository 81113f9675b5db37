"""Balls, and the sweep over them: subspaces, each with its own partition of the rows into small groups.

The mathematics is in `halfspace.cpu.filters.balls` and `halfspace.cpu.filters.sweep`.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import equal, pieces
from halfspace.model.counters import Stage
from halfspace.model.filters.groups import MAX_ROWS
from halfspace.model.filters.spec import Building, FilterData, FilterSpec, Rows
from halfspace.model.layout import Codes, Sections
from halfspace.model.segment import Segment
from halfspace.runtime.progress import Advance, Meter

__all__ = ["BALLS", "SWEEP", "Balls"]

WIDTH = 8
"""Dimensions in a subspace, if nothing else is asked for."""
GROUP_SIZE = 4
"""Rows in a group of a subspace, if nothing else is asked for."""


@dataclass(frozen=True, eq=False)
class Balls(FilterData):
    """Subspaces, each with its own partition of the rows into groups of one size, and a ball around each group."""

    SECTIONS: ClassVar = {"centre": "centre", "columns": "columns", "members": "members", "holders": "holders"}
    ON_HOST = frozenset({"columns"})
    ABOUT = ("size",)
    PASSES = 2

    columns: npt.NDArray[np.int64]  # (S + 1,), on the host: subspace s is dimensions columns[s] to columns[s + 1] - 1
    size: int  # rows in a group; the last one may have fewer
    centre: npt.NDArray[np.float32]  # (spaces, d)
    groups: Codes  # (spaces * S, ...), coded around that subspace's part of the centre
    members: npt.NDArray[np.int32]  # (spaces, S, n): rows, group after group
    holders: npt.NDArray[np.int32]  # (spaces, S, n): the group that holds each row

    @property
    def shape(self) -> tuple[int, int]:
        """Subspaces, and groups in each."""
        return self.columns.size - 1, -(-self.members.shape[2] // self.size)

    @classmethod
    def read(cls, sections: Sections, rows: int, dim: int, about: Mapping[str, Any]) -> "Balls":
        """Take balls out of a file; that groups have as many rows as is stated is checked in constant time."""
        size = operator.index(about["size"])
        if isinstance(about["size"], bool) or not 1 <= size <= max(rows, 1):
            raise ValueError(f"groups have {about['size']!r:.100} rows")
        columns = sections.take("columns", np.int64, (sections.size("columns"),))
        if columns.size < 2 or columns[0] != 0 or columns[-1] != dim or (columns[1:] <= columns[:-1]).any():
            raise ValueError(f"groups of {size} rows lie in the dimensions between {columns.tolist()}")
        count, width = columns.size - 1, int(np.diff(columns).max())
        balls = cls(
            columns,
            size,
            sections.take("centre", np.float32, (1, dim)),
            Codes.taken(sections, Codes.shapes(count, -(-rows // size), width), "balls/"),
            sections.take("members", np.int32, (1, count, rows)),
            sections.take("holders", np.int32, (1, count, rows)),
        )
        members, holders = balls.members[0], balls.holders[0]
        for subspace in range(count):  # the first group ends where it should
            ends = members[subspace, size - 1 : size + 1]
            if not equal(holders[subspace, ends], np.arange(ends.size)):
                raise ValueError(f"groups do not have {size} rows")
        return balls

    def sections(self, prefix: str = "") -> dict[str, Any]:
        """Return all arrays by the names of their sections."""
        return super().sections(prefix) | self.groups.sections(f"{prefix}balls/")

    def again(self, rows: Rows, how: Building, advance: Advance) -> "Balls":
        """Enclose the groups again; ValueError if `members` does not name each row once in each subspace."""
        for members in self.members.reshape(-1, self.members.shape[2]):
            named = np.zeros(members.size, np.bool_)
            for part in pieces(members.size, 1):
                own = members[part]
                if own.min() < 0 or own.max() >= members.size:
                    break
                named[own] = True
            if not named.all():  # as many names as rows: each once, if all are named
                raise ValueError("members does not name each row once")
        balls: Balls = how.backend.enclose(rows.vectors, self.columns, self.size, how.threads, advance, self)
        return balls


def _build(how: Building, segment: Segment, meter: Meter) -> Segment:
    vectors = segment.vectors
    size = min(how.group_size or GROUP_SIZE, segment.rows)
    columns, advance = columns_of(vectors.shape[2], how.subspaces), meter.over(Balls.PASSES * vectors.size)
    return replace(segment, data=how.backend.enclose(vectors, columns, size, how.threads, advance=advance))


def columns_of(dim: int, subspaces: int | None) -> npt.NDArray[np.int64]:
    """Where subspaces begin and end: runs of dimensions whose lengths differ by one at most."""
    count = max(1, round(dim / WIDTH)) if subspaces is None else subspaces
    return dim * np.arange(count + 1) // count


BALLS = FilterSpec(
    name="balls",
    summary="balls of 4 in subspaces, as published",
    stages=(Stage.GATES, Stage.BALLS),
    build=_build,
    code={"cpu": "halfspace.cpu.filters.balls", "gpu": "halfspace.gpu.filters.balls"},
    data=Balls,
    options=("subspaces", "group_size"),
    most_rows=MAX_ROWS,
    tried=True,
)
SWEEP = replace(
    BALLS,
    name="sweep",
    summary="sorted lists of those balls, as published",
    stages=(Stage.SWEEP, Stage.GATES, Stage.BALLS),
    code={"cpu": "halfspace.cpu.filters.sweep", "gpu": "halfspace.gpu.filters.sweep"},
)
