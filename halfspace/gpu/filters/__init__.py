"""The filters: what is derived for each, and the kernels that test it.

The module that a filter's `halfspace.model.filters.FilterSpec` names for ``"gpu"`` has

- ``KIND``, a `halfspace.gpu.runtime.records.Kind`: what is in the record of a segment, and how directions are prepared;
- ``LISTS``: whether its kernels list candidates, which are verified then, or decide themselves;
- ``tabulate(segment, space, record)``, which fills in what it derived in a SEGMENT, by address, and returns what that
  refers to beside the segment's own arrays;
- ``launches(run, uploaded, part)``, which yields what launches its kernels over the segments of a
  `halfspace.gpu.runtime.tables.Part` for a `halfspace.gpu.run.Run`: functions of nothing, which return what has to be
  kept alive until the kernels are done;
- ``bytes_for_each_direction(segment)``, device memory that this takes while a segment is tested.

Segments are tested one after the other, and nothing is read back: what one kernel finds, the next one reads.
"""
