"""Shards on a cluster of Ray: an actor for each shard answers questions, and tasks over pairs of shards find pairs.

All nodes see the folder under the same path. Nothing here talks to the network: that is Ray's.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.files.atomic import replacing
from halfspace.files.manifest import Shard
from halfspace.files.outputs import write_table
from halfspace.hits import Hits, library
from halfspace.index import HalfspaceIndex
from halfspace.joins.graph import components
from halfspace.merged import Merged
from halfspace.runtime.progress import Progress
from halfspace.sharding import open_shard
from halfspace.shards import Shards

try:
    import ray
except ImportError as error:
    raise ImportError('halfspace.ray needs Ray: pip install "halfspace-search[ray]"', name="ray") from error

__all__ = ["RayShards"]

RETRIES = 20
"""How often a task is begun again whose worker or node died."""
WAITING = 4
"""Tasks for each CPU that are handed to Ray at once."""
PLAN = "_plan.json"


class _Part(NamedTuple):
    """One shard of a folder, as workers are told of it."""

    folder: str
    shard: Shard
    threads: int


@lru_cache(8)
def _opened(part: _Part) -> HalfspaceIndex:
    """Open a shard, once in each process."""
    return open_shard(Path(part.folder), part.shard, part.threads)


class _Asked:
    """What an actor does: answers for one shard. It is begun anew wherever there is room if its node dies."""

    def __init__(self, part: _Part) -> None:
        self._index = _opened(part)

    def ask(self, kind: str, directions: np.ndarray, *arguments: Any, **options: Any) -> Any:
        """Answer a question by the index."""
        found = getattr(self._index, kind)(directions, *arguments, **options)
        return (found.offsets, found.ids, found.scores, found.totals) if isinstance(found, Hits) else found

    def vectors(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], np.ndarray]:
        """Return those of the ids that are here, and their vectors."""
        own = ids[self._index._snapshot.locate(ids)[0] >= 0]
        return own, self._index.vectors(own)


def _pairs(one: _Part, other: _Part, tau: float, options: dict[str, Any], path: str) -> int:
    """Write the pairs of two shards, or of one, to a file in one step, unless it is there; return their number."""
    place = Path(path)
    if place.exists():
        return int(library("pyarrow.parquet", "pairs").read_metadata(place).num_rows)
    return write_table(place, _columns(one, other, tau, options))


def _columns(one: _Part, other: _Part, tau: float, options: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns of pairs, the smaller id first; the first block is empty."""
    index = _opened(one)
    if one == other:
        yield from index.pairs(tau, blocks=True, **options).columns()
        return
    for columns in index.join(_opened(other), tau, blocks=True, **options).columns():
        ours, theirs = columns["id_a"], columns["id_b"]
        yield columns | {"id_a": np.minimum(ours, theirs), "id_b": np.maximum(ours, theirs)}


def _forest(one: _Part, other: _Part, tau: float) -> np.ndarray:
    """Return edges (2, k), fewer than vectors, that connect what the pairs of two shards, or of one, connect."""
    ids = np.unique(np.concatenate([_opened(one).ids, _opened(other).ids]))
    found = _columns(one, other, tau, {"scores": False})
    labels = components(ids, ((columns["id_a"], columns["id_b"], None) for columns in found))
    inner = labels != ids
    return np.stack([ids[inner], labels[inner]])


class RayShards(Merged):
    """A folder of shards, asked on a cluster of Ray; answers are those of `halfspace.Shards`, to the bit.

    Parameters
    ----------
    folder : path
        Made by `Shards.create` or `Shards.build`, under the same path on all nodes. What counts is the folder as it is
        now: open it anew to see later changes.
    threads : int
        Of each task, which takes so many of Ray's CPUs, and of each actor.

    Raises
    ------
    ImportError
        If Ray, of the extra ``ray``, is missing.
    OSError, ValueError
        As for `halfspace.Shards`.

    Notes
    -----
    ``ray.init()`` comes first: without arguments on one machine, or with the address of a cluster. Actors start with
    the first question, and map their shard; `close` ends them. ``docs/scale.md`` says how it starts on a cluster.

    Examples
    --------
    >>> import tempfile, ray
    >>> from halfspace import Shards
    >>> from halfspace.ray import RayShards
    >>> _ = ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = Shards.build(f"{folder.name}/shards", [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], shard_rows=2)
    >>> shards = RayShards(f"{folder.name}/shards")
    >>> [hit.id for hit in shards.query([1, 0], 1.0)], [hit.id for hit in shards.search([1, 0], 1)]
    ([0, 2], [0])
    >>> shards.count([1, 0], 1.0), shards.pairs(1.0, f"{folder.name}/pairs"), shards.groups(1.0).tolist()
    (2, 2, [0, 0, 0])
    >>> shards.close()
    >>> ray.shutdown()
    >>> folder.cleanup()
    """

    _whole: Shards

    def __init__(self, folder: str | os.PathLike[str], *, threads: int = 1) -> None:
        self._threads = checks.as_count(threads, "threads", 1)
        self._whole = Shards(folder, threads=threads)
        where = os.path.realpath(folder)
        self._parts = [_Part(where, shard, self._threads) for shard in self._whole.shards]
        self._actors: list[Any] = []

    def __len__(self) -> int:
        return len(self._whole)

    def __repr__(self) -> str:
        return f"<Ray{repr(self._whole)[1:]}"

    def close(self) -> None:
        """End the actors; the next question starts others."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    # -- questions ----------------------------------------------------------------------------------------------------

    def _all(self, kind: str, directions: np.ndarray, *arguments: Any, **options: Any) -> list[Any]:
        """Ask all actors."""
        if not self._actors and self._parts:
            make = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0, scheduling_strategy="SPREAD")(_Asked)
            self._actors = [make.remote(part) for part in self._parts]
        sent = ray.put(directions)
        found: list[Any] = ray.get([actor.ask.remote(kind, sent, *arguments, **options) for actor in self._actors])
        return found

    def _vectors(self, ids: npt.NDArray[np.int64]) -> dict[int, np.ndarray]:
        """Return vectors by their ids: each shard has its own."""
        held = ray.get([actor.vectors.remote(ids) for actor in self._actors])
        return {id: row for own, vectors in held for id, row in zip(own.tolist(), vectors, strict=True)}

    # -- joins --------------------------------------------------------------------------------------------------------

    def pairs(
        self,
        tau: float,
        folder: str | os.PathLike[str],
        *,
        unless: float | None = None,
        scores: bool = True,
        progress: Progress | None = None,
    ) -> int:
        """Write every pair of vectors whose score reaches tau to files of Parquet, as they are found.

        Parameters
        ----------
        tau, unless, scores
            As for `HalfspaceIndex.pairs`.
        folder : path
            Under the same path on all nodes. It gets a file for each pair of shards, with the columns ``id_a``,
            ``id_b`` and ``score``: each pair of vectors is in one of them, once. A call that was stopped goes on with
            the files that are missing.
        progress : callable, optional
            Called as ``progress(done, total)``, in pairs of shards; an exception from it ends the work.

        Returns
        -------
        int
            The number of pairs.

        Raises
        ------
        TypeError, ValueError
            As for `HalfspaceIndex.pairs`, and if the folder holds pairs of something else.
        """
        options = {"unless": unless, "scores": scores}
        where = self._planned(Path(os.path.realpath(folder)), tau, options)
        total = 0
        for count in self._each(
            _pairs,
            lambda one, other: (tau, options, str(where / f"pairs-{one:05d}-{other:05d}.parquet")),
            progress,
        ):
            total += count
        return total

    def groups(self, tau: float, *, progress: Progress | None = None) -> npt.NDArray[np.int64]:
        """Group vectors that chains of pairs join; as `HalfspaceIndex.groups`, of each id in `Shards.ids`.

        Tasks return a forest for each pair of shards; this process, which joins them, holds a label for each vector.
        """
        self._whole._asking(tau, None, 1)
        edges = self._each(_forest, lambda one, other: (tau,), progress)
        return components(self._whole.ids, ((one, other, None) for one, other in edges))

    def _planned(self, folder: Path, tau: float, options: dict[str, Any]) -> Path:
        """Validate, and write down what a folder of pairs is of, or compare."""
        library("pyarrow", "pairs")
        self._whole._asking(tau, options["unless"], 1)
        shards = [[part.folder, part.shard.file, part.shard.dead] for part in self._parts]
        plan = {"shards": shards, "tau": repr(float(tau)), **{name: repr(value) for name, value in options.items()}}
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / PLAN
        if note.exists():
            if json.loads(note.read_text()) != plan:
                raise ValueError(f"{folder}: holds pairs of other shards or thresholds: name another folder")
        else:
            if any(folder.glob("pairs-*.parquet")):
                raise ValueError(f"{folder}: holds pairs of nobody knows what: name another folder")
            with replacing(note) as file:
                file.write(json.dumps(plan).encode())
        return folder

    def _each(
        self, work: Callable[..., Any], arguments: Callable[[int, int], tuple[Any, ...]], progress: Progress | None
    ) -> Iterator[Any]:
        """Run a task for each pair of shards, the largest first, some at a time; yield results as they come."""
        count = len(self._parts)
        across = ((one, other) for one in range(count) for other in range(one + 1, count))
        left = chain(across, ((one, one) for one in range(count)))
        task = ray.remote(num_cpus=self._threads, max_retries=RETRIES)(work)
        most = WAITING * max(1, int(ray.cluster_resources().get("CPU", 1)))
        total, done = count * (count + 1) // 2, 0
        running: set[Any] = set()
        if progress is not None:
            progress(0, total)
        while True:
            while len(running) < most and (pair := next(left, None)) is not None:
                one, other = pair
                running.add(task.remote(self._parts[one], self._parts[other], *arguments(one, other)))
            if not running:
                return
            ready, _ = ray.wait(list(running))
            running -= set(ready)
            for result in ready:
                yield ray.get(result)
                done += 1
                if progress is not None:
                    progress(done, total)
