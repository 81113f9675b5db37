"""What a query did: the counts behind an answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from halfspace.model.segment import Segment

__all__ = ["Choice", "Explanation", "Stage"]


@dataclass(frozen=True)
class Stage:
    """The work of one stage of a query, in vectors and bytes.

    Attributes
    ----------
    name : str
        ``"norms"``, ``"axes"`` (principal axes), ``"high"`` and ``"low"`` (the halves of codes); ``"chunks"``,
        ``"groups"`` and ``"rows"`` (balls around 1,024, around 16 vectors and around each); ``"sweep"`` (the sorted
        lists), ``"gates"`` and ``"balls"`` (the bounds of one subspace, and their sums);
        ``"scan"`` (float32 dot products), ``"verify"`` (float64) or ``"exact"`` (no error at all).
    tested : int
        Vectors that reached the stage.
    dropped : int
        Vectors proved not to reach the threshold.
    taken : int
        Vectors proved to reach it.
    left : int
        Vectors handed on to the next stage.
    dot_products : int
        Floating-point (or exact) dot products with stored vectors.
    bytes_read : int
        Bytes of vectors, codes and bounds touched.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(2)
    >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
    >>> stage = index.explain([1, 0], 0.5).stage("verify")
    >>> stage.tested, stage.dropped, stage.taken
    (2, 0, 2)
    """

    name: str
    tested: int
    dropped: int
    taken: int
    left: int
    dot_products: int
    bytes_read: int


@dataclass(frozen=True)
class Choice:
    """What a segment was built for.

    Attributes
    ----------
    filter : str
        The filter of the segment.
    vectors : int
        Its number of vectors.
    trial : dict of str to int, or None
        The bytes that each filter read for a few queries on a sample of the segment, where they decided.
    """

    filter: str
    vectors: int
    trial: dict[str, int] | None


@dataclass(frozen=True)
class Explanation:
    """How a query came to its answer; ``print`` shows it as a table.

    Attributes
    ----------
    filter : str
        The filter of the index.
    hits : int
        Number of hits.
    vectors : int
        Number of stored vectors.
    stages : tuple of Stage
        What each stage tested and decided, in order; a stage that had nothing to do is left out.
    choices : tuple of Choice
        What each segment was built for, and the counts that decided.
    from_disk : int, or None
        Of an index that is mapped, the bytes that the system read for this process meanwhile, where it tells: what was
        not in memory, and what it read ahead. It differs from time to time, and does not count in comparisons.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(2)
    >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
    >>> explained = index.explain([1, 0], 0.5)
    >>> explained.filter, explained.hits, explained.vectors
    ('auto', 2, 3)
    """

    filter: str
    hits: int
    vectors: int
    stages: tuple[Stage, ...]
    choices: tuple[Choice, ...]
    from_disk: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, filter: str, hits: int, work: Iterable[tuple[Any, ...]], segments: Sequence[Segment]) -> "Explanation":
        """Explain a query by the counters of each stage, its name first, and the segments that it searched.

        Examples
        --------
        >>> Explanation.of("scan", 0, [("scan", 3, 3, 0, 0, 3, 24)], []).stages[0].dropped
        3
        """
        return cls(
            filter,
            hits,
            sum(segment.live for segment in segments),
            tuple(Stage(*counted) for counted in work if any(counted[1:])),
            tuple(Choice(segment.filter, segment.live, segment.trial) for segment in segments),
        )

    def __str__(self) -> str:
        head = f"filter {self.filter!r}: {self.hits:,} hits among {self.vectors:,} vectors"
        columns = ("stage", "tested", "dropped", "taken", "left", "dot products", "bytes read")
        rows = [columns] + [
            (s.name, *(f"{n:,}" for n in (s.tested, s.dropped, s.taken, s.left, s.dot_products, s.bytes_read)))
            for s in self.stages
        ]
        widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(row[k].rjust(widths[k]) for k in range(1, len(columns)))])
            for row in rows
        ]
        disk = [] if self.from_disk is None else [f"mapped: {self.from_disk:,} bytes were read from the disk"]
        return "\n".join([head, *lines, *disk, *self.decisions])

    def stage(self, name: str) -> Stage:
        """Return a stage by its name; KeyError if it had nothing to do.

        ``"cells"`` is the name of before for ``"rows"``.

        Examples
        --------
        >>> Explanation.of("scan", 0, [("scan", 3, 3, 0, 0, 3, 24)], []).stage("scan").tested
        3
        """
        renamed = {"cells": "rows"}
        for stage in self.stages:
            if renamed.get(stage.name, stage.name) == renamed.get(name, name):
                return stage
        raise KeyError(f"stage {name!r} had nothing to do")

    @property
    def decisions(self) -> list[str]:
        """A line for each segment whose filter was chosen by a trial."""
        return [
            f"{choice.filter!r} for {choice.vectors:,} vectors, by the bytes that a trial read: "
            + ", ".join(f"{filter} {count:,}" for filter, count in choice.trial.items())
            for choice in self.choices
            if choice.trial is not None
        ]
