"""The shards of a folder, spread over several GPUs, which search at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace import backend as backends
from halfspace.hits import Hits
from halfspace.index import HalfspaceIndex
from halfspace.joins.asked import Joins
from halfspace.merged import Merged
from halfspace.model.arrays import host
from halfspace.state.snapshot import Snapshot

__all__ = ["OnDevices", "Spread", "named"]


def named(device: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of devices, of which each may come once; none where vectors stay where they are."""
    if device is None:
        return ()
    given = [device] if isinstance(device, str) else device
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"device must be 'cpu', 'gpu' or 'gpu:<number>', or a list or tuple of these, got {device!r}")
    if not given:
        raise ValueError(f"device must name at least one, got {device!r}: leave it out to search the files")
    names = tuple(map(backends.plain, given))
    if len(set(names)) == len(names):  # what is wrong in the names themselves needs no GPU to be refused
        names = tuple(backends.load(name).named(name) for name in names)
    if len(set(names)) < len(names):
        raise ValueError(f"device names one twice, give each once: {', '.join(map(repr, given))}")
    return names


class Spread(Merged):
    """Indexes on several devices, each with the segments of some shards.

    whole : an index on the host of all vectors; parts : the state of each shard; devices : their names
    """

    def __init__(self, whole: Joins, parts: Sequence[Snapshot], devices: Sequence[str], about: Any) -> None:
        self._whole, self._threads = whole, whole._threads
        shares: list[list[Snapshot]] = [[] for _ in devices]
        for part in sorted(parts, key=lambda part: part.live, reverse=True):  # the largest first
            min(shares, key=lambda share: sum(other.live for other in share)).append(part)
        self._indexes = [_brought(share, device, about) for share, device in zip(shares, devices, strict=True)]
        self._pool = ThreadPoolExecutor(len(devices))

    @property
    def indexes(self) -> list[HalfspaceIndex]:
        """The indexes, in the order of the devices."""
        return self._indexes

    def _all(self, kind: str, directions: np.ndarray, *arguments: Any, **options: Any) -> list[Any]:
        """Ask all devices, a thread each."""
        asked = [self._pool.submit(_answer, own, kind, (directions, *arguments), options) for own in self._indexes]
        return [one.result() for one in asked]


def _brought(parts: Sequence[Snapshot], device: str, about: dict[str, Any]) -> HalfspaceIndex:
    """Copy the segments of some shards to a device."""
    index = HalfspaceIndex(device=device, **about)
    convert = index._backend.xp.asarray
    with index._on:
        segments = [segment.moved(convert) for part in parts for segment in part.sealed]
        index._publish(index._snapshot.holding(segments, index._snapshot.tail))
    return index


def _answer(index: HalfspaceIndex, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Ask an index on a device, with arrays of the host, to which the answer comes back."""
    with index._on:
        given = [_there(index, value) for value in arguments]
        found = getattr(index, kind)(*given, **{name: _there(index, value) for name, value in options.items()})
        if not isinstance(found, Hits):
            return host(found)
        own = found._on_host()
        return own.offsets, own.ids, own.scores, own.totals


def _there(index: HalfspaceIndex, value: Any) -> Any:
    return index._backend.xp.asarray(value) if isinstance(value, np.ndarray) else value


class OnDevices(Joins):
    """An index of files that may be spread over devices: those answer what they can."""

    _spread: Spread | None

    def query(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        unless: npt.ArrayLike | None = None,
        scores: bool = True,
        sort: bool = False,
        within: npt.ArrayLike | None = None,
        limit: int | None = None,
        threads: int | None = None,
        out: Hits | None = None,
    ) -> Hits:
        """Find every vector that reaches tau; as `HalfspaceIndex.query`."""
        options: dict[str, Any] = {"unless": unless, "scores": scores, "sort": sort, "limit": limit}
        if self._spread is None or within is not None or out is not None:
            return super().query(directions, tau, within=within, threads=threads, out=out, **options)
        self._workers(threads)
        return self._spread.query(directions, tau, **options)

    def count(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        unless: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> int | npt.NDArray[np.int64]:
        """Count the vectors that reach tau; as `HalfspaceIndex.count`."""
        if self._spread is None or within is not None:
            return super().count(directions, tau, unless=unless, within=within, threads=threads)
        self._workers(threads)
        return self._spread.count(directions, tau, unless=unless)

    def search(
        self,
        directions: npt.ArrayLike,
        k: int,
        *,
        tau: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> Hits:
        """Find the k best vectors; as `HalfspaceIndex.search`."""
        if self._spread is None or within is not None:
            return super().search(directions, k, tau=tau, within=within, threads=threads)
        self._workers(threads)
        return self._spread.search(directions, k, tau=tau)
