"""What some constants trade, in counts: bytes that questions read, rows that are copied. Nothing is timed.

    python -m asv_benchmarks.experiments.tunables

The counts repeat on any machine. ``docs/tunables.md`` has them, beside the constants.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from halfspace import HalfspaceIndex
from halfspace.bench import generate, midpoints
from halfspace.cpu.filters import axes, cells
from halfspace.datasets import load_keys, load_pydocs
from halfspace.model.filters import cells as layout
from halfspace.state import snapshot, tail

DIRECTIONS = 16
SHARE_OF_HITS = 0.001


@contextmanager
def put(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Give a constant that no kernel knows another value for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def data() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Vectors and directions by name: those in the package, and some from a seed."""
    docs, keys = load_pydocs(), load_keys()
    yield "docstrings", docs.vectors, docs.query_vectors[:DIRECTIONS]
    yield "attention keys", keys.keys, keys.queries[:, ::16].reshape(DIRECTIONS, -1)
    yield "heavy-tailed norms", generate.heavy_tailed(20_000, 64, 1), generate.heavy_tailed(DIRECTIONS, 64, 2)
    yield "clustered", generate.clustered(20_000, 384, 1), generate.clustered(DIRECTIONS, 384, 2)


def bytes_read(vectors: np.ndarray, directions: np.ndarray) -> float:
    """Bytes that cells read for a thousandth of the vectors, in percent of the float32 vectors."""
    stored, asked = (np.asarray(part, np.float32) for part in (vectors, directions))
    index = HalfspaceIndex(stored.shape[1], filter="cells")
    index.insert(stored)
    index.compact()
    taus = midpoints(stored, asked, SHARE_OF_HITS)
    read = [sum(stage.bytes_read for stage in index.explain(q, tau).stages) for q, tau in zip(asked, taus, strict=True)]
    return 100 * float(np.mean(read)) / stored.nbytes


def rows_copied(rows: int, at_once: int) -> tuple[float, int]:
    """How often a row is copied into a segment, and how many segments there are at most, if rows come a few at once."""
    index = HalfspaceIndex(1, filter="scan")
    copied, most = 0, 0
    for first in range(0, rows, at_once):
        before = index._snapshot
        copied += before.work(at_once) if before.tail.rows + at_once > snapshot.TAIL_ROWS else 0
        index.insert(np.full((at_once, 1), first, np.float32))
        most = max(most, len(index._snapshot.segments))
    return copied / rows, most


def table(constant: str, modules: list[ModuleType], values: Iterable[Any], measure: Callable[[], list[str]]) -> None:
    """Print what is measured for each value of a constant, which the first module has and the others import."""
    for value in values:
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(put(module, constant, value))
            print(f"{modules[0].__name__}.{constant} = {value}: {', '.join(measure())}", flush=True)


def main() -> None:
    """Print all tables."""
    sets = list(data())

    def read() -> list[str]:
        return [f"{name} {bytes_read(vectors, directions):.2f} %" for name, vectors, directions in sets]

    def copies() -> list[str]:
        often, most = rows_copied(1 << 17, 32)
        return [f"a row is copied {often:.2f} times", f"{most} segments at most"]

    table("FLATTEN", [cells], (0.0, 0.5, 0.75, 1.0), read)
    table("SPREAD_ROWS", [cells], (1 << 10, 1 << 12, 1 << 14), read)
    table("SHARE", [axes], (8, 4, 2), lambda: read()[:1])
    table("MOST_LEFT", [axes], (0.0, 0.4, 1.0), lambda: [*read()[:1], *read()[3:]])
    table("SORTED_GAIN", [layout], (0.0, 0.8, 1.0), read)
    table("FANOUT", [snapshot], (2, 4, 8), copies)
    table("TAIL_ROWS", [snapshot, tail], (64, 256, 1024), copies)


if __name__ == "__main__":
    main()
