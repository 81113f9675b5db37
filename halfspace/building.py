"""Writing an index file of vectors that need not fit into memory: a segment is filled, derived, written, and let go."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.files import index_file
from halfspace.files.growing import Growing
from halfspace.files.sources import source_of
from halfspace.filling import Filler, Options
from halfspace.index import HalfspaceIndex
from halfspace.model.segment import Segment
from halfspace.runtime import memory as memories
from halfspace.runtime.progress import SILENT, Meter
from halfspace.state.snapshot import Snapshot

__all__ = ["Told", "build", "built", "check_distinct"]

SHARE = 4
"""One part in so many of the memory that the process may use is for a segment, where nobody says how much."""
MOST_ROWS = 1 << 22
"""Rows of a segment at most: what is finished is kept, and a segment takes a minute or so."""
LEAST_ROWS = 1 << 12
"""Rows of a segment at least."""
COPIES, DERIVED, BESIDE = 2, 3, 160
"""What a segment takes while it is built: copies of its vectors, and bytes for each component and for each row."""
SORTED = 24
"""Bytes that an id takes while ids are compared."""
FILL, BUILD = 1.0, 15.0
"""What reading and rounding rows costs, and what building does, about."""


Told = Callable[[int, int | None], object]


def build(
    path: str | os.PathLike[str],
    source: Any,
    *,
    dim: int | None = None,
    column: str | None = None,
    ids: npt.ArrayLike | str | None = None,
    memory: int | None = None,
    progress: Told | None = None,
    **options: Unpack[Options],
) -> HalfspaceIndex:
    """Write an index file of vectors that need not fit into memory, and open it.

    Parameters
    ----------
    path : path
        The file, which `HalfspaceIndex.load` reads. It is there when all of it is, and replaced in one step.
    source : array_like (n, d), path, or iterable
        Vectors, rounded to the index's dtype:

        - an array, such as one that NumPy maps;
        - the path of a file of any kind that ``halfspace build`` takes, a pattern, or a folder of Parquet files, in the
          order of their names; ``"emb/*.parquet:embedding"`` names the column, too;
        - a table, a reader or an iterator of record batches of Arrow, with `column`;
        - an iterator of arrays (k, d).
    dim : int, optional
        Number of dimensions; by default that of the source.
    column : str, optional
        The column of vectors, lists of real numbers; of a file of Parquet, by default the only one.
    ids : array_like of int (n,), or str, optional
        Ids of the vectors, or the name of the column that has them; by default 0, 1, ...
    memory : int, optional
        Bytes that a segment may take while it is built, beside what the process takes anyway. By default a quarter of
        what the machine, its control group and the limits of the process allow.
    progress : callable, optional
        Called as ``progress(done, total)``, in rows; `total` is None where the source does not tell. An exception from
        it ends the work as a kill does.
    **options
        ``metric``, ``filter``, ``dtype``, ``threads``, ``subspaces`` and ``group_size`` of `HalfspaceIndex`.

    Returns
    -------
    HalfspaceIndex
        The file, mapped.

    Raises
    ------
    TypeError, ValueError
        If the source holds no such vectors, a number is not finite in the index's dtype, with ``"cosine"`` a vector is
        zero, or an id comes twice; the error has the place. If what is there already was begun otherwise.
    OSError
        If a file cannot be read or written; what was there before is untouched.

    Notes
    -----
    What is finished is kept: after a kill or an error, the same call goes on after the last segment that was written,
    and the file is the same to the bit. Until then the file is called ``path.building``, with a journal beside it. An
    iterator has to yield the same rows again; those that are in the file are passed over. More segments are no less
    exact; each costs a query some microseconds.

    Examples
    --------
    >>> import tempfile, numpy, halfspace
    >>> folder = tempfile.TemporaryDirectory()
    >>> vectors = numpy.eye(4, dtype=numpy.float32)
    >>> index = halfspace.build(f"{folder.name}/eye.index", iter([vectors[:3], vectors[3:]]))
    >>> [hit.id for hit in index.query([0, 0, 1, 1], 1)]
    [2, 3]
    >>> folder.cleanup()
    """
    given = source_of(source, column, ids)
    filler = Filler(given, dim, **options)
    built(path, filler, 0, given.rows, memory, progress)
    return HalfspaceIndex.load(path, mmap=True, threads=options.get("threads"))


def built(
    path: str | os.PathLike[str],
    filler: Filler,
    first: int,
    last: int | None,
    memory: int | None,
    progress: Told | None,
    probe: Sequence[int] = (),
) -> int:
    """Write the file of the rows [first, last) of a source, or of all from `first` on, and return how many there are.

    Ids are by default those of the rows in the source. `probe` is that of the rows before, if others wrote them.
    """
    index = filler.index
    builder, threads = index._snapshot.builder, index._threads
    plan = {"kind": "halfspace index", "first": first, "last": last, **filler.plan}
    with Growing(path, plan) as growing:
        state = _State.of(growing.told) if growing.told is not None else _State(first, _rows(index, memory))
        state.rows = min(state.rows, _rows(index, memory))
        filler.begin(state.done, state.probe or list(probe))
        meters = _meters(progress, first, state, last)
        if progress is not None and last is None:
            progress(state.done - first, None)
        while True:
            own = next(meters)
            filling, building = own.split(FILL, BUILD)
            most = state.rows if last is None else min(state.rows, last - state.done)
            filled = filler.take(most, filling) if most else None
            if filled is None:
                break
            bits, ids = filled
            norms, grain = builder.backend.measure(bits[None], threads)
            fresh = Segment(bits[None], ids, norms, grain, live=ids.size)
            del bits, filled
            state.done += ids.size
            state.next_id = max(state.next_id, int(ids.max()) + 1)
            segment = builder.build([fresh], building)
            building.finish()
            del fresh, ids, norms
            if not state.segments and (filler.ended or state.done == last):
                index_file.save(path, Snapshot((segment,), index._snapshot.tail, state.next_id, builder), *filler.kind)
                return state.done - first  # as any index is written, in one step
            about, arrays = index_file.taken_apart(segment)
            growing.add({f"{len(state.segments)}/{name}": array for name, array in arrays.items()})
            state.segments.append(about)
            state.ends.append(list(segment.ends))
            state.probe = filler.probe
            growing.keep(vars(state))
            if progress is not None and last is None:
                progress(state.done - first, None)
        if not state.segments:
            index_file.save(path, index._snapshot, *filler.kind)
            return 0
        check_distinct([growing.array(f"{number}/ids") for number in range(len(state.ends))], state.ends, memory)
        _finish(growing, state, index, filler.kind)
    return state.done - first


@dataclass
class _State:
    """What is finished, as a journal has it."""

    done: int  # rows of the source, up to which
    rows: int  # of a segment
    next_id: int = 0
    probe: list[int] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    ends: list[list[int]] = field(default_factory=list)  # the smallest and the largest id of each

    @classmethod
    def of(cls, told: dict[str, Any]) -> "_State":
        return cls(**told)


def _rows(index: HalfspaceIndex, memory: int | None) -> int:
    """Count the rows of a segment that can be derived in so many bytes."""
    room = memories.allowed() // SHARE if memory is None else checks.as_count(memory, "memory", 1)
    per_row = index.dim * (COPIES * index._bits.itemsize + DERIVED) + BESIDE
    return int(min(max(room // per_row, LEAST_ROWS), MOST_ROWS))


def _meters(progress: Told | None, first: int, state: _State, last: int | None) -> Iterator[Meter]:
    """Return a share of the progress for each segment to come."""
    if progress is None or last is None:
        return repeat(SILENT)
    left = last - state.done
    sizes = [float(min(state.rows, left - begin)) for begin in range(0, left, state.rows)]
    done, *shares = Meter(progress, last - first).split(float(state.done - first), *sizes)
    done.finish()
    return chain(shares, repeat(SILENT))


def check_distinct(held: list[np.ndarray], ends: list[list[int]], memory: int | None = None) -> None:
    """Refuse an id that is in two arrays (k,), which are looked at in as many parts as fit into memory.

    ends : the smallest and the largest id of each
    """
    ordered = sorted(ends)
    if all(before[1] < after[0] for before, after in pairwise(ordered)):
        return
    room = memories.allowed() // SHARE if memory is None else memory
    parts = -(-sum(ids.size for ids in held) * SORTED // room)
    for part in range(parts):
        own = [ids if parts == 1 else ids[ids % parts == part] for ids in held]
        checks.distinct(np.concatenate(own).astype(np.int64))


def _finish(growing: Growing, state: _State, index: HalfspaceIndex, kind: tuple[int, str]) -> None:
    """Put segments in the order of their first ids, and an empty tail behind them."""
    order = sorted(range(len(state.ends)), key=lambda number: state.ends[number])
    about, arrays = index_file.taken_apart(index._snapshot.tail)
    growing.add({f"{len(order)}/{name}": array for name, array in arrays.items()})
    segments = [*(state.segments[number] for number in order), about]
    places = {number: place for place, number in enumerate(order)} | {len(order): len(order)}
    metadata = index_file.metadata_of(index._snapshot.builder, *kind, state.next_id, segments)
    growing.finish(metadata, places)
