"""What an engine is: an index of vectors at one setting, and what is known of it before it is built."""

from __future__ import annotations

import copy
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfspace.model.metrics import METRICS

__all__ = ["Engine", "EngineSpec", "How", "Rows", "join", "nothing_lacking", "reason_of", "rows_of", "rows_of_each"]

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Answers in compressed rows: offsets (m + 1,) and ids; those of direction j are ``ids[offsets[j]:offsets[j + 1]]``."""

Call = Callable[[], list[Any]]


class How(NamedTuple):
    """How an engine is built: what `halfspace.bench.build` takes."""

    threads: int
    dtype: str = "float32"
    metric: str = "ip"
    setting: Mapping[str, Any] = {}


class Engine(ABC):
    """Vectors, indexed by one library at one setting.

    Attributes
    ----------
    name : str
        As in ``ENGINES``.
    metric : str
        Thresholds are of its scores: with ``"l2"``, radii.
    setting : dict
        What it is set to, by the library's own names where it has them.
    build_seconds : float
        How long the index took to build.
    expected_hits : int
        How many candidates an engine without range search ranks: a favour, the true greatest number of hits of a
        direction. All vectors, unless it is set.

    Examples
    --------
    >>> from halfspace.bench import build, gaussian
    >>> vectors = gaussian(200, 8, seed=1)
    >>> engine = build("numpy", vectors, threads=1)
    >>> engine.label, engine.nbytes
    ('numpy', 6400)
    >>> offsets, ids = engine.query(vectors[:1], 1.0)  # brings the question into the library's form, and asks
    >>> call = engine.prepare(vectors[:1], 1.0)  # what is timed is this call alone
    >>> np.array_equal(engine.rows(call())[1], ids)
    True
    >>> answer = engine.ask(vectors[:1], np.array([1.0]))()  # as the library returns it
    >>> np.array_equal(engine.found(answer)[1], ids)
    True
    >>> build("halfspace", vectors, threads=1).tuned(limit=3).setting
    {'limit': 3}
    """

    many_taus = True
    """Whether one call takes a threshold for each direction."""

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        self.name = ""
        self.metric = how.metric
        self.setting = dict(how.setting)
        self.build_seconds = float("nan")
        self.expected_hits = len(vectors)

    @property
    def label(self) -> str:
        """Name and setting, such as ``faiss-hnsw efSearch=64``."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.setting.items())])

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all that it needs for its answers, the vectors included where it reads them."""

    @abstractmethod
    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        """Prepare a question (m, d), (m,): return what calls the library, and nothing else, and returns what it does.

        Thresholds are all the same unless `many_taus`.
        """

    @abstractmethod
    def found(self, answer: Any) -> Rows:
        """Bring into rows what the library returned."""

    def prepare(self, directions: ArrayLike, tau: ArrayLike) -> Call:
        """Return a call without arguments that asks the library: what is timed.

        Parameters
        ----------
        directions : array_like of float32, shape (m, d)
            At least one.
        tau : array_like of float64, scalar or shape (m,)
            One threshold, or one for each direction. An engine whose range search takes a single threshold is asked
            direction by direction where they differ.

        Returns
        -------
        callable
            It returns what `rows` takes.
        """
        asked = np.ascontiguousarray(directions, np.float32)
        taus = np.ascontiguousarray(np.broadcast_to(np.asarray(tau, np.float64), len(asked)))
        if self.many_taus or (taus == taus[0]).all():
            only = self.ask(asked, taus)
            return lambda: [only()]
        calls = [self.ask(asked[j : j + 1], taus[j : j + 1]) for j in range(len(asked))]
        return lambda: [call() for call in calls]

    def rows(self, answers: list[Any]) -> Rows:
        """Return the answers of a call of `prepare`: offsets (m + 1,) and ids, of each direction a set in any order."""
        return join([self.found(answer) for answer in answers])

    def query(self, directions: ArrayLike, tau: ArrayLike) -> Rows:
        """Find what the engine holds to be the vectors that reach tau; arguments as for `prepare`."""
        return self.rows(self.prepare(directions, tau)())

    def tuned(self, **setting: Any) -> Self:
        """Return the same index at another setting of its queries."""
        other = copy.copy(self)
        other.setting = self.setting | setting
        return other


def nothing_lacking(modules: Mapping[str, str]) -> str | None:
    """Take the modules as they are: those of a CPU need no more than to be installed."""
    return None


@dataclass(frozen=True)
class EngineSpec:
    """What is known of an engine before it is built.

    Attributes
    ----------
    name : str
    about : str
        One line: how it is asked.
    make : callable
        Makes an `Engine` of vectors, and of `How`.
    exact : bool
        Whether it is meant to find all vectors that reach the threshold, in its own float arithmetic or in real
        arithmetic.
    device : {"cpu", "gpu"}
    metrics : tuple of str
        Those that it has.
    needs : dict
        Modules that must be there, and what to give pip to have them.
    lacking : callable
        Takes the modules once they are there, and says what they lack on this machine, None for nothing.
    curve : tuple of dict
        Settings from fast to thorough; a single one for exact engines, unless which is best depends on the data.
    at_build : frozenset of str
        Names of settings that another index must be built for.
    least_dim, most_dim, least_rows : int
        Between which dimensions, and from how many vectors on, it suits.

    Examples
    --------
    >>> from halfspace.bench import ENGINES
    >>> spec = ENGINES["numpy"]
    >>> spec.available(), spec.lacking(spec.needs), spec.why_not(1000, 8, metric="l2")
    (None, None, None)
    >>> spec.complete({})
    {}
    """

    name: str
    about: str
    make: Callable[..., Engine]
    exact: bool = True
    device: str = "cpu"
    metrics: tuple[str, ...] = METRICS
    needs: Mapping[str, str] = field(default_factory=dict)
    lacking: Callable[[Mapping[str, str]], str | None] = nothing_lacking
    curve: Sequence[dict[str, Any]] = ({},)
    at_build: frozenset[str] = frozenset()
    least_dim: int = 1
    most_dim: int = 1 << 30
    least_rows: int = 1

    def available(self) -> str | None:
        """Return None if it can run here, else the reason why not."""
        for module, install in self.needs.items():
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed: pip install {install}"
        return self.lacking(self.needs)

    def why_not(self, n: int, d: int, *, metric: str = "ip") -> str | None:
        """Return None if it suits n vectors of d dimensions and a metric, else the reason why not."""
        if metric not in self.metrics:
            return f"has no metric {metric!r}"
        if d < self.least_dim:
            return f"needs at least {self.least_dim} dimensions"
        if d > self.most_dim:
            return f"reads everything beyond {self.most_dim} dimensions"
        if n < self.least_rows:
            return f"needs at least {self.least_rows} vectors"
        return None

    def complete(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Fill a setting up with that in the middle of the curve; refuse a name that the engine has not."""
        middle = self.curve[len(self.curve) // 2]
        unknown = set(setting) - set(middle)
        if unknown:
            known = ", ".join(middle) or "none"
            raise TypeError(f"{self.name} has no setting {min(unknown)!r}; it has {known}")
        return {**middle, **setting}


def reason_of(error: BaseException) -> str:
    """Say in one line what went wrong."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def rows_of(places: NDArray[Any], ids: NDArray[Any], m: int) -> Rows:
    """Bring hits, given by ascending direction and id, into rows."""
    offsets = np.searchsorted(places, np.arange(m + 1)).astype(np.int64)
    return offsets, np.asarray(ids, np.int64)


def rows_of_each(answers: Sequence[Any]) -> Rows:
    """Bring the ids of each direction, arrays or lists, into rows."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in answers])]).astype(np.int64)
    return offsets, np.concatenate([np.asarray(ids, np.int64) for ids in answers])


def join(parts: Sequence[Rows]) -> Rows:
    """Put the rows of some directions after those of others."""
    sizes = np.concatenate([np.diff(offsets) for offsets, _ in parts])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return offsets, np.concatenate([ids for _, ids in parts])
