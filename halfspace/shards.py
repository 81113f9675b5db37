"""A folder of index files that is asked like one index: more vectors than a file should have."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.building import Told
from halfspace.files import index_file, manifest, mapped
from halfspace.files.atomic import replacing
from halfspace.files.manifest import Manifest, Shard
from halfspace.files.sources import source_of
from halfspace.filling import OF_PLAN, Filler, Options
from halfspace.index import HalfspaceIndex
from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric
from halfspace.model.segment import join
from halfspace.runtime.lock import Lock
from halfspace.runtime.progress import Progress
from halfspace.sharding import about_of, build_shards, open_shard
from halfspace.spread import OnDevices, Spread, named
from halfspace.state.snapshot import Snapshot

__all__ = ["SHARD_ROWS", "Shards"]

SHARD_ROWS = 1 << 24
"""Vectors of a shard at most, where nobody says."""


class Shards(OnDevices):
    """A folder of index files and a manifest, asked like one `HalfspaceIndex`, whose files are mapped.

    An answer is that of one index of all vectors, to the bit, however they were dealt out. An object shows the folder
    as it was when it was opened, or last changed by it; who opens it later sees later changes. Changes of several
    processes follow one another. A crash leaves the folder as it was before the change, or after it.

    Parameters
    ----------
    folder : path
        Made by `Shards.create` or `Shards.build`.
    threads : int, optional
        As for `HalfspaceIndex`.
    device : str, or list or tuple of str, optional
        GPUs, as ``["gpu:0", "gpu:1"]``; ``"gpu"`` is the one that is current now. ``"cpu"`` is taken, too, alone or
        beside them. Whole shards are copied to all of these, about as many vectors to each, and copied anew when the
        folder is opened or changed. `query`, `search` and `count` then ask all at once, with directions of the host,
        and bring the answers back there. What else there is, and ``within=``, goes by the files.

    Raises
    ------
    TypeError, ValueError
        If a file is damaged, or does not fit the manifest, or `device` is no such name, is empty, or names one twice.
    OSError
        If the folder or a file cannot be read.

    Notes
    -----
    What an index answers, this does, too: `query`, `search`, `count`, `explain`, `pairs`, `join`, `groups`,
    `representatives`, `histogram`, `vectors`; `save` brings all of it into one file.

    Examples
    --------
    >>> import tempfile
    >>> from halfspace import Shards
    >>> folder = tempfile.TemporaryDirectory()
    >>> shards = Shards.create(f"{folder.name}/eyes", 2, shard_rows=2)
    >>> shards.insert([[1, 0], [0, 1], [1, 1]]).tolist()
    [0, 1, 2]
    >>> [hit.id for hit in shards.query([1, 0], 1.0)], shards.count([1, 0], 1.0), shards.search([1, 1], 1).ids.tolist()
    ([0, 2], 2, [2])
    >>> len(shards.files)
    2
    >>> shards.delete(0)
    >>> shards.compact()
    >>> Shards(f"{folder.name}/eyes")
    <Shards: 2 vectors in 1 files, dim=2, metric='ip', dtype='float32'>

    Of vectors that need not fit into memory, and with a file that was written elsewhere:

    >>> import halfspace
    >>> more = Shards.build(f"{folder.name}/more", iter([[[1, 0], [0, 1]], [[1, 1]]]), shard_rows=2)
    >>> _ = halfspace.build(f"{folder.name}/other.index", [[2, 2]], ids=[7])
    >>> more.add(f"{folder.name}/other.index")
    >>> more.ids.tolist()
    [0, 1, 2, 7]
    >>> folder.cleanup()
    """

    _bits: np.dtype[Any]
    _writing: Lock
    _manifest: Manifest
    _parts: list[Snapshot]  # of each shard

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: str | list[str] | tuple[str, ...] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._asked_threads, self._devices, self._spread = threads, named(device), None
        self._open()

    # -- making it ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        dim: int,
        *,
        shard_rows: int = SHARD_ROWS,
        **options: Unpack[Options],
    ) -> "Shards":
        """Make a folder without vectors.

        Parameters
        ----------
        folder : path
            It is made if it is not there; it must hold no shards.
        dim : int
            Number of dimensions.
        shard_rows : int
            Vectors of a shard at most.
        **options
            ``metric``, ``filter``, ``dtype``, ``threads``, ``subspaces`` and ``group_size`` of `HalfspaceIndex`.

        Raises
        ------
        TypeError, ValueError
            As for `HalfspaceIndex`, and if the folder holds shards already.
        """
        where, index = Path(folder), HalfspaceIndex(dim, **options)
        rows = checks.as_count(shard_rows, "shard_rows", 1)
        where.mkdir(parents=True, exist_ok=True)
        with manifest.changing(where):
            if (where / manifest.NAME).exists():
                raise ValueError(f"{where}: holds shards already: open them by Shards({str(where)!r})")
            manifest.write(where, Manifest(about_of(index), rows))
        return cls(where, threads=options.get("threads"))

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        source: Any,
        *,
        dim: int | None = None,
        column: str | None = None,
        ids: npt.ArrayLike | str | None = None,
        shard_rows: int = SHARD_ROWS,
        memory: int | None = None,
        progress: Told | None = None,
        **options: Unpack[Options],
    ) -> "Shards":
        """Make a folder of the vectors of a source that need not fit into memory: so many to a shard.

        Parameters, errors and what happens after a kill are those of `halfspace.build`; `shard_rows` are the vectors of
        a shard. Shards that are finished may be opened and asked before the others are.
        """
        filler = Filler(source_of(source, column, ids), dim, **options)
        build_shards(Path(folder), filler, checks.as_count(shard_rows, "shard_rows", 1), memory, progress)
        return cls(folder, threads=options.get("threads"))

    # -- reading it ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the files of the newest manifest."""
        while True:
            found = manifest.read(self._folder)
            try:
                self._take(found)
                return
            except FileNotFoundError:
                if manifest.read(self._folder) == found:  # else it was changed meanwhile
                    raise

    def _take(self, found: Manifest) -> None:
        if not hasattr(self, "_snapshot"):
            self._manifest = found
            self.__dict__.update(self._empty(self._asked_threads).__dict__)
        builder, tail = self._snapshot.builder, self._snapshot.tail
        stored, parts = [], []
        for shard in found.shards:
            loaded = index_file.load(self._folder / shard.file, mmap=True)
            own = {name: getattr(loaded, "format" if name == "dtype" else name) for name in OF_PLAN}
            if own != found.about:
                raise ValueError(f"{self._folder / shard.file}: is of {own}, the manifest of {found.about}")
            assert loaded.stored is not None
            stored.append(loaded.stored)
            sealed = [*loaded.sealed, *([join([loaded.tail])] if loaded.tail.live else [])]
            part = Snapshot(tuple(sealed), tail, loaded.next_id, builder)
            parts.append(part.without(manifest.read_dead(self._folder, shard)))
        whole = Snapshot((), tail, found.next_id, builder)
        whole = whole.holding([segment for part in parts for segment in part.sealed], tail)
        mapped.expect(whole.segments, sparse=True)
        self._stored, self._manifest, self._parts = tuple(stored), found, parts
        self._snapshot = whole
        if self._devices:
            self._spread = Spread(self, parts, self._devices, found.about)

    @property
    def files(self) -> list[Path]:
        """The index files, in order."""
        return [self._folder / shard.file for shard in self._manifest.shards]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """What the manifest says of each file."""
        return self._manifest.shards

    @property
    def folder(self) -> Path:
        """The folder, as given."""
        return self._folder

    def __repr__(self) -> str:
        return (
            f"<Shards: {len(self):,} vectors in {len(self.files):,} files, dim={self._dim}, "
            f"metric={self.metric!r}, dtype={self._format!r}>"
        )

    def __reduce__(self) -> Any:
        """Pickle the path: whoever reads it opens the folder."""
        return _reopened, (str(self._folder), self._asked_threads, self._devices)

    # -- changing it --------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Manifest]:
        """Be the only one who changes the folder, and see its newest state; afterwards, show what was made of it."""
        with self._writing.once, manifest.changing(self._folder):
            if manifest.read(self._folder) != self._manifest:
                self._open()
            yield self._manifest
            self._open()

    def insert(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Add vectors to the newest shard, and to new ones once it is full; as `HalfspaceIndex.insert`.

        The newest shard is written anew each time, so that many vectors at once cost less than few.
        """
        numbers, single = checks.as_matrix(self._backend.asarray(vectors, "vectors"), self._dim, "vectors")
        bits = checks.rounded(numbers, self._bits, "vectors", self._backend, self._threads)
        if self._metric == Metric.COSINE:
            checks.nonzero(as_float32(bits), "vectors")
        own = None if ids is None else checks.as_ids(self._backend.asarray(ids, "ids"), scalar=single)
        if replace and own is None:
            raise ValueError("replace=True needs ids: which vectors are to be replaced")
        if own is not None:
            if own.size != len(numbers):
                raise ValueError(f"ids must have shape ({len(numbers)},), got {own.shape}")
            checks.distinct(own)
        with self._changing() as state:
            before = self._snapshot.without(own) if replace and own is not None else self._snapshot
            own = before.claimed(own, len(numbers))
            if not own.size:
                return own
            next_id = max(state.next_id, int(own.max()) + 1)
            kept = state if not replace else self._without(state, own[self._snapshot.locate(own)[0] >= 0])
            manifest.write(self._folder, self._longer(kept, numbers, own, next_id, progress))
        return own

    def _longer(
        self, state: Manifest, numbers: Any, ids: npt.NDArray[np.int64], next_id: int, progress: Progress | None
    ) -> Manifest:
        """Write the newest shard anew with more vectors, and others behind it; returns their manifest."""
        begin = 0
        while begin < len(numbers):
            newest = state.shards[-1] if state.shards else None
            room = 0 if newest is None else state.shard_rows - newest.vectors
            index = (
                self._empty(self._threads)
                if newest is None or room <= 0
                else open_shard(self._folder, newest, self._threads)
            )
            count = min(len(numbers) - begin, room if room > 0 else state.shard_rows)
            index.insert(numbers[begin : begin + count], ids[begin : begin + count], progress=progress)
            name = state.name("shard")
            index.save(self._folder / name)
            shards = state.shards if room <= 0 else state.shards[:-1]
            fresh = (*shards, Shard(name, len(index)))
            state = dataclasses.replace(state, shards=fresh, next_id=next_id, next_file=state.next_file + 1)
            begin += count
        return state

    def _empty(self, threads: int | None) -> HalfspaceIndex:
        about = dict(self._manifest.about)
        return HalfspaceIndex(about.pop("dim"), threads=threads, **about)

    def delete(self, ids: npt.ArrayLike) -> None:
        """Remove vectors; as `HalfspaceIndex.delete`. Their ids are noted; `compact` reclaims their space."""
        gone = checks.as_ids(self._backend.asarray(ids, "ids"), scalar=True)
        checks.distinct(gone)
        with self._changing() as state:
            self._snapshot.known(gone)
            if gone.size:
                manifest.write(self._folder, self._without(state, gone))

    def _without(self, state: Manifest, gone: npt.NDArray[np.int64]) -> Manifest:
        """Write down that ids (k,) are dead, each in its shard; returns the manifest of what is left."""
        shards = []
        for shard, part in zip(self._manifest.shards, self._parts, strict=True):
            own = gone[part.locate(gone)[0] >= 0]
            if own.size == 0:
                shards.append(shard)
            elif own.size < shard.vectors:
                name = state.name("dead")
                dead = np.concatenate([manifest.read_dead(self._folder, shard), own])
                manifest.write_dead(self._folder, name, dead)
                shards.append(Shard(shard.file, shard.vectors - own.size, name))
                state = dataclasses.replace(state, next_file=state.next_file + 1)
        return dataclasses.replace(state, shards=tuple(shards))

    def compact(self, *, progress: Progress | None = None) -> None:
        """Bring each shard into one segment, small ones that follow one another together, and reclaim what is dead.

        One shard at a time, which has to fit into memory while it is written.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress(done, total)``, in vectors, after each shard.
        """
        with self._changing() as state:
            groups: list[list[int]] = []
            for number, shard in enumerate(state.shards):
                held = sum(state.shards[other].vectors for other in groups[-1]) if groups else state.shard_rows
                if groups and held + shard.vectors <= state.shard_rows:
                    groups[-1].append(number)
                else:
                    groups.append([number])
            done, places = 0, dict(enumerate(state.shards))
            for group in groups:
                parts = [segment for number in group for segment in self._parts[number].sealed]
                count = sum(segment.live for segment in parts)
                if len(parts) > 1 or any(segment.live < segment.rows for segment in parts):
                    index = self._empty(self._threads)
                    index._publish(index._snapshot.holding(parts, index._snapshot.tail))
                    index._snapshot = dataclasses.replace(index._snapshot, next_id=state.next_id)
                    index.compact()
                    name = state.name("shard")
                    index.save(self._folder / name)
                    for number in group:
                        del places[number]
                    places[group[0]] = Shard(name, count)
                    kept = tuple(places[number] for number in sorted(places))
                    state = dataclasses.replace(state, shards=kept, next_file=state.next_file + 1)
                    manifest.write(self._folder, state)
                done += count
                if progress is not None:
                    progress(done, len(self))

    def add(self, path: str | os.PathLike[str]) -> None:
        """Take in an index file that was written elsewhere, as by `halfspace.build` on another machine.

        It is linked where that can be, and copied otherwise.

        Raises
        ------
        ValueError
            If it was built with other arguments, or an id is there already. Nothing has changed then.
        """
        index = HalfspaceIndex.load(path, mmap=True, threads=self._threads)
        with self._changing() as state:
            if (own := about_of(index)) != state.about:
                raise ValueError(f"{path}: is of {own}, the manifest of {state.about}")
            self._snapshot.claimed(index.ids, len(index))
            if len(index):
                name = state.name("shard")
                place = self._folder / name
                place.unlink(missing_ok=True)  # what a crash may have left, perhaps a link to another file
                try:
                    os.link(os.path.realpath(path), place)
                except OSError:
                    with open(path, "rb") as source, replacing(place) as file:
                        shutil.copyfileobj(source, file, 1 << 22)
                next_id = max(state.next_id, index._snapshot.next_id)
                fresh = (*state.shards, Shard(name, len(index)))
                more = dataclasses.replace(state, shards=fresh, next_id=next_id, next_file=state.next_file + 1)
                manifest.write(self._folder, more)


def _reopened(folder: str, threads: int | None, devices: tuple[str, ...]) -> Shards:
    return Shards(folder, threads=threads, device=devices or None)
