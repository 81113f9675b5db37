"""What is counted, what is wanted, how a search ends: numbers that kernels of all devices and their callers share.

``gpu/kernels/runtime/records.cuh`` has its twins of these; a test compares them.
"""

from enum import IntEnum

__all__ = ["STAGES", "WORK_SHAPE", "Column", "Stage", "State", "Want"]


class Stage(IntEnum):
    """Stages of a query, on any device, in order; not all have something to do. Rows of the counters."""

    NORMS = 0
    AXES = 1
    HIGH = 2
    LOW = 3
    CHUNKS = 4
    GROUPS = 5
    ROWS = 6
    SWEEP = 7
    GATES = 8
    BALLS = 9
    SCAN = 10
    VERIFY = 11
    EXACT = 12


STAGES = tuple(stage.name.lower() for stage in Stage)
"""Names of the stages, as users see them."""


class Column(IntEnum):
    """Columns of the counters: vectors, dot products, bytes."""

    TESTED = 0
    DROPPED = 1
    TAKEN = 2
    LEFT = 3
    DOTS = 4
    BYTES = 5


WORK_SHAPE = (len(Stage), len(Column))
"""Shape of the counters of a search."""


class Want(IntEnum):
    """What is wanted of the hits."""

    COUNT = 0
    IDS = 1
    SCORES = 2
    EXPLAINED = 3  # scores, and the counters of what the stages did


class State(IntEnum):
    """How a search ended."""

    DONE = 0
    NOT_FINITE = -1  # a direction is not finite, or a threshold is NaN
    OVERFULL = -2  # there are more hits than may be held at once
