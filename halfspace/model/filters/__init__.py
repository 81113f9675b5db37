"""The table of filters: names, stages, help texts, engines of the benchmark, warm-up and file sections follow from it.

A filter is one `FilterSpec`. A new one is made known by `register`, from any file.
"""

from halfspace.model.filters.balls import BALLS, SWEEP
from halfspace.model.filters.cells import CELLS
from halfspace.model.filters.groups import GROUPS
from halfspace.model.filters.scan import SCAN
from halfspace.model.filters.spec import Building, FilterData, FilterSpec, Rows

__all__ = ["AUTO", "FILTERS", "Building", "FilterData", "FilterSpec", "Rows", "names", "register", "tried"]

AUTO = "auto"
"""The name that stands for whichever filter reads least."""

FILTERS: dict[str, FilterSpec] = {}
"""All filters by name, cheapest to build first."""


def register(spec: FilterSpec) -> FilterSpec:
    """Make a filter known; ValueError if its name is taken.

    An index that is loaded from a file needs its filters to be known.
    """
    if spec.name in (AUTO, *FILTERS):
        raise ValueError(f"there is a filter {spec.name!r} already")
    FILTERS[spec.name] = spec
    return spec


def names() -> tuple[str, ...]:
    """Return all that an index takes as its filter."""
    return (AUTO, *FILTERS)


def tried(dim: int, device: str, metric: str) -> tuple[str, ...]:
    """Return the filters that ``"auto"`` tries, cheapest to build first."""
    return tuple(
        spec.name
        for spec in FILTERS.values()
        if spec.tried and spec.why_not(dim, metric) is None and device in spec.code
    )


for _spec in (SCAN, CELLS, GROUPS, BALLS, SWEEP):
    register(_spec)
