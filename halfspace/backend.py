"""Which devices there are, and what each of them does: the contract that the CPU and the GPU both keep.

A backend is a module of plain functions. They take and return arrays of its device, of the module `xp` (NumPy or
CuPy); tables of addresses are NumPy's on every device.
"""

import re
import sys
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from halfspace.model.metrics import Metric
from halfspace.model.question import Question
from halfspace.model.segment import Segment
from halfspace.model.table import Table
from halfspace.runtime.interrupts import undisturbed
from halfspace.runtime.progress import Advance, ignore

__all__ = ["Backend", "load", "plain"]


class Backend(Protocol):
    """What the rest of the library uses of a device; ``tests/test_twins.py`` holds both devices against it."""

    DEVICE: str
    """``"cpu"`` or ``"gpu"``: the key of `FilterSpec.code`."""
    xp: ModuleType
    """The module of its arrays."""
    MOST_HITS: int
    """How many hits are held at once."""
    REMEMBERED: int
    """Of the questions that were answered, one in so many is remembered."""
    SPARE: float
    """How many standard deviations deeper in a sample than the k-th best is expected a threshold is looked for."""

    # -- the device

    def available(self) -> int:
        """Count the threads that a call may use."""

    def on(self, device: str) -> AbstractContextManager[Any]:
        """Return what makes the device the current one while it is entered."""

    def named(self, device: str) -> str:
        """Return a name of a device as one that no other has: that of a GPU with its number."""

    def wait(self) -> None:
        """Wait for what was begun."""

    def finish(self, snapshot: Any) -> None:
        """Wait until a state of an index is there, and make it ready to be asked."""

    def capturing(self) -> bool:
        """Whether what is launched goes into a graph instead of being run."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Make an array of zeros, aligned as kernels want it."""

    # -- what may be given to it

    def asarray(self, values: Any, name: str) -> Any:
        """Return an array on the device."""

    def as_tau(self, tau: Any, count: int, single: bool, name: str = "tau") -> Any:
        """Return thresholds, as `halfspace.model.question.Question` takes them."""

    def is_kernel_ready(self, array: Any) -> bool:
        """Whether kernels take an array as it is."""

    # -- building

    def store(self, values: Any, bits: Any, threads: int, advance: Advance = ignore) -> tuple[Any, int]:
        """Round numbers to a stored format."""

    def measure(self, vectors: Any, threads: int, advance: Advance = ignore) -> tuple[Any, float]:
        """Bound norms, and find the common grain."""

    def encode(
        self,
        vectors: Any,
        norms: Any,
        threads: int,
        like: Any = None,
        advance: Advance = ignore,
        metric: Metric = Metric.IP,
    ) -> Any:
        """Derive `halfspace.model.filters.cells.Cells`."""

    def enclose_groups(
        self,
        vectors: Any,
        norms: Any,
        threads: int,
        centre: Any = None,
        advance: Advance = ignore,
        metric: Metric = Metric.IP,
    ) -> Any:
        """Derive `halfspace.model.filters.groups.Groups`."""

    def enclose(
        self, vectors: Any, columns: Any, size: int, threads: int, advance: Advance = ignore, like: Any = None
    ) -> Any:
        """Derive `halfspace.model.filters.balls.Balls`."""

    def partition(self, vectors: Any, columns: Any, size: int, threads: int, advance: Advance = ignore) -> Any:
        """Find rows that lie close together."""

    # -- asking

    def tabulate(self, segment: Segment) -> tuple[Any, Any]:
        """Return the records of a segment, (spaces,), and what they refer to beside the segment's own arrays."""

    def room(self, table: Table, dim: int, loose: bool = False) -> int:
        """Count the directions that are prepared at once; it may be more if hits may come in any order."""

    def search(self, question: Question) -> Any:
        """Run the query stages.

        What is found has a ``state`` (`halfspace.model.counters.State`), the number of ``hits``, their ``counts`` (m,)
        and the counters of its ``work``.
        """

    def guess(self, question: Question, sample: Any, rank: int) -> Any:
        """Return thresholds (m,) that about so many of a sample of stored bits (s, d) reach, none below the question's.

        They rest on float32 scores: good guesses, and no more.
        """

    def collect(self, found: Any, threads: int) -> Any:
        """Return offsets (m + 1,), ids and scores of what was found, in order of ids."""

    def edges(self, found: Any, ids: Any, threads: int) -> tuple[Any, Any, Any]:
        """Return ids of directions, of which these are all (m,), and of vectors (hits,), and scores of what was found.

        Pairs are in order of directions and ids, unless the question said that any order would do.
        """

    def best(self, found: Any, limit: int, threads: int, sort: bool = False) -> Any:
        """Return only the best of each direction, in order of ids, or by descending score and then by id."""

    def ranked(self, found: Any, limit: int, threads: int) -> tuple[Any, npt.NDArray[np.bool_], Any]:
        """Return the `limit` best of each direction by descending score, and on the host, (m,), where that is clear.

        They come as offsets, ids, scores and their numbers (m,). It is clear where there are so many, and no two of the
        best ``limit + 1`` share a score: then it is the order of real scores, too. Elsewhere rows may hold anything.
        Where it is not clear of all, offsets, ids and scores of the best ``limit + 1``, or of more, come last.
        """

    def sort_by_score(self, offsets: Any, ids: Any, scores: Any, threads: int) -> Any:
        """Order each row by descending score, then by id."""

    def higher(self, tau: Any, unless: Any) -> Any:
        """Return the higher of two thresholds, of each direction."""

    def without(self, found: Any, beyond: Any, threads: int) -> Any:
        """Return what was found without the hits of another answer, all of which are among them."""

    def joined(self, whole: Any, block: Any) -> Any:
        """Add a block of rows to those before."""

    def place(self, *arrays: npt.NDArray[Any]) -> tuple[Any, ...]:
        """Return arrays of the host on the device."""

    def preallocate(self, capacity: int, directions: int | None, scores: bool) -> Any:
        """Make room for an answer that is filled without waiting."""

    def may_fill(self, out: Any, directions: Any, tau: Any, within: Any) -> None:
        """Refuse a question whose answer cannot go into `out` without waiting."""

    def fill(
        self, out: Any, question: Question, *, scores: bool, sort: bool, limit: int | None, single: bool, columns: int
    ) -> Any:
        """Answer into `out`, without waiting."""

    # -- attention

    def new_cache(self, batch: int, heads: int, dim: int, bits: Any, capacity: int, offload: bool) -> Any:
        """Make an empty `halfspace.model.kv_cache.Cache`."""

    def extend(self, cache: Any, keys: Any, values: Any, counts: Any, threads: int = 1) -> None:
        """Append rows to sequences, and code them."""

    def reframe(self, cache: Any, threads: int = 1) -> None:
        """Choose centre and weights anew, and code all rows again."""

    def attend(
        self, cache: Any, queries: Any, tau: Any, scale: float, recent: int, sinks: int, threads: int, cap: float = 0.0
    ) -> Any:
        """Attend over the keys that reach a threshold."""

    def attend_chosen(
        self, cache: Any, queries: Any, aim: Any, scale: float, recent: int, sinks: int, threads: int, cap: float = 0.0
    ) -> Any:
        """Attend over the keys that one pass over their codes chooses: a `halfspace.model.kv_cache.Chosen`."""

    def estimate(self, cache: Any, queries: Any, keep: float, estimator: str, threads: int) -> Any:
        """Estimate thresholds that a share of the keys reaches."""


_loaded: dict[str, ModuleType] = {}


def plain(device: Any) -> str:
    """Return the name of a device, its number without leading zeros; refuse what is none."""
    expected = f"device must be 'cpu', 'gpu' or 'gpu:<number>', got {device!r}"
    if not isinstance(device, str):
        raise TypeError(expected)
    if re.fullmatch(r"cpu|gpu(:[0-9]+)?", device) is None:
        raise ValueError(expected)
    return re.sub(r":0+(?=[0-9])", ":", device)


def load(device: Any) -> Backend:
    """Import the backend of a device: ``"cpu"``, ``"gpu"`` or ``"gpu:<number>"``."""
    name = f"halfspace.{plain(device)[:3]}"
    module = _loaded.get(name)
    if module is None or sys.modules.get(name) is not module:
        module = _loaded[name] = undisturbed(import_module, name)
    return cast(Backend, module)
