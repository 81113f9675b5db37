"""The scan: every vector is read."""

from halfspace.model.counters import Stage
from halfspace.model.filters.spec import Building, FilterSpec
from halfspace.model.metrics import METRICS
from halfspace.model.rounding import MAX_DIM
from halfspace.model.segment import SCAN as SCAN_NAME
from halfspace.model.segment import Segment
from halfspace.runtime.progress import Meter

__all__ = ["SCAN"]


def _build(how: Building, segment: Segment, meter: Meter) -> Segment:
    return segment


SCAN = FilterSpec(
    name=SCAN_NAME,
    summary="every vector is read",
    stages=(Stage.SCAN,),
    build=_build,
    code={"cpu": "halfspace.cpu.filters.scan", "gpu": "halfspace.gpu.filters.scan"},
    most_dim=MAX_DIM,
    metrics=METRICS,
    tried=True,
)
