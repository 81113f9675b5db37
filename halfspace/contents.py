"""What can be read off an index without asking it a question, kept in a file, and checked."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.backend import Backend
from halfspace.files import index_file
from halfspace.files.container import StoredFile
from halfspace.files.streams import Target
from halfspace.model.formats import FORMATS, as_numbers
from halfspace.model.metrics import Metric
from halfspace.runtime.progress import Meter, Progress
from halfspace.state.snapshot import MAX_ID, Snapshot

__all__ = ["Contents"]


class Contents:
    """The arguments of an index, its ids and vectors, counts and sizes."""

    _dim: int
    _device: str
    _filter: str
    _metric: Metric
    _format: str
    _threads: int
    _backend: Backend
    _on: AbstractContextManager[Any]  # makes the device the current one
    _snapshot: Snapshot
    _stored: tuple[StoredFile, ...]  # files that are mapped, and not all checked yet

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self._dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of stored vectors."""
        return FORMATS[self._format][0]

    @property
    def metric(self) -> str:
        """The metric, as given."""
        return self._metric.label

    @property
    def filter(self) -> str:
        """The filter, as given."""
        return self._filter

    @property
    def device(self) -> str:
        """The device, as given."""
        return self._device

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of all vectors, ascending, (n,), on the index's device."""
        with self._on:
            ids = self._snapshot.ids()
            self._backend.wait()  # nobody else keeps what they are gathered from
            return ids

    def __len__(self) -> int:
        return self._snapshot.live

    def __bool__(self) -> bool:
        return True  # an index without vectors is one nevertheless

    def __contains__(self, id: object) -> bool:
        try:
            number = checks.as_count(id, "id", -MAX_ID - 1)
        except (TypeError, ValueError):
            return False
        if number > MAX_ID:
            return False
        with self._on:
            return bool(self._snapshot.locate(self._backend.xp.asarray([number], np.int64))[0][0] >= 0)

    def __repr__(self) -> str:
        metric = "" if self._metric == Metric.IP else f"metric={self._metric.label!r}, "
        return (
            f"<HalfspaceIndex: {len(self):,} vectors, dim={self._dim}, {metric}dtype={self._format!r}, "
            f"filter={self._filter!r}, device={self._device!r}>"
        )

    def vectors(self, ids: npt.ArrayLike) -> np.ndarray:
        """Return stored vectors by id.

        Parameters
        ----------
        ids : array_like of int, shape (n,), or int

        Returns
        -------
        ndarray of `dtype`, shape (n, d), or (d,) for a single id
            A copy, in the order of `ids`, on the index's device.

        Raises
        ------
        KeyError
            If an id is not in the index.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 2], [3, 4]])
        >>> index.vectors([1, 0]).tolist()
        [[3.0, 4.0], [1.0, 2.0]]
        >>> index.vectors(1).tolist()
        [3.0, 4.0]
        """
        with self._on:
            given = self._backend.asarray(ids, "ids")
            vectors = as_numbers(self._snapshot.vectors(checks.as_ids(given, scalar=True)))
            self._backend.wait()  # nobody else keeps what they are gathered from
            return vectors if given.ndim else vectors[0]

    def stats(self) -> dict[str, Any]:
        """Count what the index holds: vectors, segments, bytes.

        Returns
        -------
        dict
            ``vectors`` and ``deleted`` (rows whose space is not reclaimed yet); ``segments`` (sealed) and ``tail``
            (rows not sealed yet); ``filters`` (rows by the filter that they have); ``dim``, ``metric``, ``dtype``,
            ``filter``, ``device``, ``threads``; ``bytes_vectors``, ``bytes_codes`` (what filters derived) and, under
            its name of before, ``bytes_cells``, ``bytes_ids`` and ``bytes_bounds`` (norms and tombstones).

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.delete(0)
        >>> index.stats()["vectors"], index.stats()["deleted"]
        (2, 1)
        """
        snapshot = self._snapshot
        given = {"dim": self._dim, "metric": self.metric, "dtype": self._format}
        given |= {"filter": self._filter, "device": self._device}
        sizes = snapshot.sizes()
        counted = {**snapshot.counted(), **given, "threads": self._threads, **sizes}
        return counted | {"bytes_cells": sizes["bytes_codes"]}

    def preallocate(self, capacity: int, directions: int | None = None, *, scores: bool = True) -> Any:
        """Make room on the index's GPU for an answer, for ``query(..., out=...)``.

        A query into it does not wait for the GPU, and may be captured in a CUDA graph once it has run outside of one;
        replays ask what is then in the memory of the directions and thresholds, of the index as it was captured.

        Parameters
        ----------
        capacity : int
            Hits that there is room for, of all directions together.
        directions : int, optional
            Number of directions of a batch; by default the query has one, of shape (d,).
        scores : bool
            Whether there is room for scores.

        Returns
        -------
        Hits
            Its ``check()`` waits for the answer, raises ValueError if it did not fit or the question was bad, and
            makes it readable; until then nothing in it is. Its ``buffers`` are the whole arrays, for kernels that
            follow on the same stream.

        Raises
        ------
        ValueError
            If the index is on the CPU, where `query` returns its answer.

        Examples
        --------
        >>> index = HalfspaceIndex(2, device="gpu")  # doctest: +SKIP
        >>> out = index.preallocate(100)  # doctest: +SKIP
        >>> index.query([1, 0], 0.5, out=out).check()  # doctest: +SKIP
        """
        with self._on:
            return self._backend.preallocate(capacity, directions, scores)

    # -- keeping it ---------------------------------------------------------------------------------------------------

    def save(self, path: Target) -> None:
        """Write the index to one file, in one step: a crash leaves the old file or the new one, whole.

        The state written is that of one moment; other threads may go on querying and inserting. Files are the same for
        all devices, and an index of any may read them.

        Parameters
        ----------
        path : path, or binary file object
            A file object gets the same bytes from where it stands, all of them or an error. It needs `write` alone, so
            that a pipe or an upload will do.

        Raises
        ------
        OSError
            If the file cannot be written; what was there before is untouched. (Of a file object, that which it took
            before it failed is not.)
        TypeError
            If `path` is neither.

        Examples
        --------
        >>> import io
        >>> from halfspace import HalfspaceIndex
        >>> index, file = HalfspaceIndex(2), io.BytesIO()
        >>> _ = index.insert([[1, 2], [3, 4]])
        >>> index.save(file)
        >>> HalfspaceIndex.load(file.getvalue())
        <HalfspaceIndex: 2 vectors, dim=2, dtype='float32', filter='auto', device='cpu'>
        """
        with self._on:
            index_file.save(path, self._snapshot, self._dim, self._format)

    def verify(self, *, progress: Progress | None = None) -> None:
        """Check all data: the checksums of the file that it maps, and all that is derived from the vectors.

        Time O(n d), on the host for all devices.

        Parameters
        ----------
        progress : callable, optional
            As for `insert`; ``total`` is the number of vectors.

        Raises
        ------
        ValueError
            If anything is damaged; the error says what.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.verify()  # says nothing: all is well
        """
        snapshot = self._snapshot
        meter = Meter(progress, snapshot.live)
        stored = self._stored
        reading, deriving = meter.split(1.0 if stored else 0.0, 4.0)
        advance = reading.over(sum(file.nbytes for file in stored))
        for file in stored:
            file.verify(advance)
        with self._on:
            index_file.check(snapshot, self._threads, deriving)
        meter.finish()
