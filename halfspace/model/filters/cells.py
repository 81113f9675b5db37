"""Cells: each vector scalar-quantised to 8 bits in two planes of 4, longest first, and a PCA prefix where it pays.

The mathematics is in `halfspace.cpu.filters.cells` and `halfspace.cpu.filters.axes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import namespace
from halfspace.model.counters import Stage
from halfspace.model.filters.spec import Building, FilterData, FilterSpec, Rows
from halfspace.model.layout import BLOCK, CHUNK, Arrays, Sections, Shape, blocks_of, chunks_of, words_of
from halfspace.model.metrics import METRICS, Metric
from halfspace.model.segment import Segment
from halfspace.runtime.progress import Advance, Meter

__all__ = ["AXES_STEP", "CELLS", "Axes", "Cells"]

AXES_STEP = 16
"""Axes come in multiples of this: each half of them takes whole words of 8 codes."""

SORTED_GAIN = 0.8
"""Rows are put in order of norms if that lowers the mean over chunks of their longest to this share."""
JOIN, ENCODE = 1.0, 6.0
"""What ordering and encoding cost for each component, about."""


@dataclass(frozen=True, eq=False)
class Axes(Arrays):
    """Principal axes (PCA), and for every vector its part along them, coded in 4 bits, with the length of what is left.

    Blocks are those of `Cells.high`. The axes are halved into two parts, so that a vector may be dropped after the
    first.
    """

    SECTIONS: ClassVar = {
        "axes": "axes/axes",
        "weights": "axes/weights",
        "spread": "axes/spread",
        "codes": "axes/codes",
        "scales": "axes/scales",
        "radii": "axes/radii",
        "rests": "axes/rests",
    }

    axes: npt.NDArray[np.float32]  # (spaces, h, d)
    weights: npt.NDArray[np.float32]  # (spaces, h)
    spread: npt.NDArray[np.float64]  # (spaces,), see `halfspace.model.rounding.axes_spread`
    codes: npt.NDArray[np.uint8]  # (spaces, 2, blocks, words, 16, 4)
    scales: npt.NDArray[np.uint16]  # (spaces, 16 blocks), bfloat16
    radii: npt.NDArray[np.uint16]  # (spaces, 2, 16 blocks), bfloat16: errors of the first part, and of both
    rests: npt.NDArray[np.uint16]  # (spaces, 2, 16 blocks), bfloat16: lengths of what lies beyond

    @staticmethod
    def shapes(spaces: int, rows: int, dim: int, count: int) -> dict[str, tuple[Any, Shape]]:
        """Return the dtype and the shape of each array, for `count` axes."""
        blocks = blocks_of(rows)
        return {
            "axes": (np.float32, (spaces, count, dim)),
            "weights": (np.float32, (spaces, count)),
            "spread": (np.float64, (spaces,)),
            "codes": (np.uint8, (spaces, 2, blocks, count // AXES_STEP, BLOCK, 4)),
            "scales": (np.uint16, (spaces, BLOCK * blocks)),
            "radii": (np.uint16, (spaces, 2, BLOCK * blocks)),
            "rests": (np.uint16, (spaces, 2, BLOCK * blocks)),
        }


@dataclass(frozen=True, eq=False)
class Cells(FilterData):
    """A ball for every vector, its centre coded on a lattice: centre + scale * weights * (code - 128), in two planes.

    A code of 8 bits is 16 times its high half, plus its low half. The high halves lie in blocks of 16 vectors, where
    byte b of word w holds dimension 8 w + b in its low four bits and 8 w + 4 + b in its high ones; the low halves lie
    vector by vector, in the same words.
    """

    SECTIONS: ClassVar = {
        "centre": "cells/centre",
        "weights": "cells/weights",
        "spans": "cells/spans",
        "high": "cells/high",
        "low": "cells/low",
        "scales": "cells/scales",
        "radii": "cells/radii",
        "peaks": "cells/peaks",
        "lengths": "cells/lengths",
    }
    FRAME: ClassVar = ("centre", "weights", "spans")
    """Arrays that hold nothing of single rows."""
    PASSES = 2

    centre: npt.NDArray[np.float32]  # (spaces, d)
    weights: npt.NDArray[np.float32]  # (spaces, d), at most 1, of 8 significant bits
    spans: npt.NDArray[np.float64]  # (spaces, 2): norms of the longest high code (the middle of its 16) and code
    high: npt.NDArray[np.uint8]  # (spaces, blocks, words, 16, 4)
    low: npt.NDArray[np.uint8]  # (spaces, 64 blocks words + 64): words of 4 bytes, one vector after another
    scales: npt.NDArray[np.uint16]  # (spaces, 16 blocks), bfloat16, 0 beyond the last vector
    radii: npt.NDArray[np.uint16]  # (spaces, 2, 16 blocks), bfloat16: around the high code, and around the whole one
    peaks: npt.NDArray[np.float32]  # (spaces, chunks): the largest norm among each 1,024 rows
    axes: Axes | None = None
    lengths: npt.NDArray[np.float32] | None = None
    """Of each row, (spaces, 16 blocks): e(x) of `halfspace.model.metrics`, of which it lacks a share of 2^-22 at most.

    |x| rounded up with ``"cosine"``, |x - centre|^2 / 2 rounded down with ``"l2"``; 0 beyond the last vector.
    """

    @staticmethod
    def shapes(spaces: int, rows: int, dim: int, metric: Metric = Metric.IP) -> dict[str, tuple[Any, Shape]]:
        """Return the dtype and the shape of each array but the axes'."""
        blocks, words = blocks_of(rows), words_of(dim)
        lengths = {} if metric == Metric.IP else {"lengths": (np.float32, (spaces, BLOCK * blocks))}
        return lengths | {
            "centre": (np.float32, (spaces, dim)),
            "weights": (np.float32, (spaces, dim)),
            "spans": (np.float64, (spaces, 2)),
            "high": (np.uint8, (spaces, blocks, words, BLOCK, 4)),
            "low": (np.uint8, (spaces, 4 * BLOCK * blocks * words + 64)),
            "scales": (np.uint16, (spaces, BLOCK * blocks)),
            "radii": (np.uint16, (spaces, 2, BLOCK * blocks)),
            "peaks": (np.float32, (spaces, chunks_of(rows))),
        }

    @classmethod
    def read(cls, sections: Sections, rows: int, dim: int, about: Mapping[str, Any]) -> "Cells":
        """Take cells, and axes if there are any, out of a file."""
        axes = None
        if Axes.SECTIONS["weights"] in sections:
            count = sections.size(Axes.SECTIONS["weights"])
            if not AXES_STEP <= count <= dim or count % AXES_STEP:
                raise ValueError(f"there are {count} axes of {dim} dimensions")
            axes = Axes.taken(sections, Axes.shapes(1, rows, dim, count))
        return cls.taken(sections, cls.shapes(1, rows, dim, Metric.named(about["metric"])), axes=axes)

    def sections(self, prefix: str = "") -> dict[str, Any]:
        """Return all arrays by the names of their sections, those of the axes among them."""
        return super().sections(prefix) | ({} if self.axes is None else self.axes.sections(prefix))

    def again(self, rows: Rows, how: Building, advance: Advance) -> "Cells":
        """Encode the vectors again, in the same frame."""
        cells: Cells = how.backend.encode(*rows, how.threads, self, advance, how.metric)
        return cells


def _build(how: Building, segment: Segment, meter: Meter) -> Segment:
    ordering, encoding = meter.split(JOIN, ENCODE)
    if how.metric == Metric.IP:
        segment = _by_norm(segment, ordering)
    advance = encoding.over(Cells.PASSES * segment.vectors.size)
    data = how.backend.encode(segment.vectors, segment.norms, how.threads, advance=advance, metric=how.metric)
    return replace(segment, data=data)


def _by_norm(segment: Segment, meter: Meter) -> Segment:
    """Return the longest vectors first, if chunks of them then differ in the norm of their longest."""
    norms = segment.norms
    if len(norms) > 1 or segment.rows <= CHUNK:
        return segment
    xp = namespace(norms)
    order = xp.argsort(-norms[0], kind="stable")
    padded = xp.zeros((2, chunks_of(segment.rows) * CHUNK), np.float32)
    padded[0, : segment.rows], padded[1, : segment.rows] = norms[0], norms[0, order]
    with np.errstate(over="ignore"):
        before, after = padded.reshape(2, -1, CHUNK).max(axis=2).mean(axis=1, dtype=np.float64)
    if not after < SORTED_GAIN * before:
        return segment
    return segment.reordered(order, meter.over(segment.vectors.size))


CELLS = FilterSpec(
    name="cells",
    summary="norms, principal axes, codes in two planes",
    stages=(Stage.NORMS, Stage.AXES, Stage.HIGH, Stage.LOW, Stage.SCAN),
    build=_build,
    code={"cpu": "halfspace.cpu.filters.cells", "gpu": "halfspace.gpu.filters.cells"},
    data=Cells,
    metrics=METRICS,
    tried=True,
)
