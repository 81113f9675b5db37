"""What a GPU does for each filter.

A module that `FilterSpec.code` names for the GPU has a `FilterCode`, called ``CODE``. Segments are tested one filter
after the other, and nothing is read back: what one kernel finds, the next one reads.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from halfspace.model.filters import FILTERS
from halfspace.model.segment import Segment

__all__ = ["FilterCode", "code_of"]


def _nothing(segment: Segment, space: int, record: Any) -> list[object]:
    """Leave a record as it is: ids, vectors and norms are there already."""
    return []


def _no_bytes(segment: Segment) -> int:
    """Count nothing: all that is kept between kernels is prepared for all filters."""
    return 0


class FilterCode(NamedTuple):
    """What a GPU does for a filter.

    kind : a `halfspace.gpu.runtime.records.Kind`: what is in the record of a segment, and how directions are prepared
    launches : ``(run, uploaded, part)`` yields what launches its kernels over a `halfspace.gpu.runtime.tables.Part` for
        a `halfspace.gpu.run.Run`: functions of nothing, which return what has to be kept alive until all is done
    tabulate : ``(segment, space, record)`` fills in what was derived in a SEGMENT, by address, and returns what that
        refers to beside the segment's own arrays
    bytes_for_each_direction : of a segment, device memory that its test takes
    lists : whether its kernels list candidates, which are verified then, or decide themselves
    passes : whether its kernels look at no chunk beside those that they are given
    """

    kind: int
    launches: Callable[..., Iterator[Callable[[], Any]]]
    tabulate: Callable[[Segment, int, Any], list[object]] = _nothing
    bytes_for_each_direction: Callable[[Segment], int] = _no_bytes
    lists: bool = True
    passes: bool = False


_codes: dict[str, FilterCode] = {}


def code_of(filter: str) -> FilterCode:
    """Return what a GPU does for a filter, by its name."""
    known = _codes.get(filter)
    return known or _codes.setdefault(filter, FILTERS[filter].on("gpu").CODE)
