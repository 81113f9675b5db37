"""Where one way of the CPU becomes faster than another: both are timed on either side of the constant that decides.

    python -m asv_benchmarks.experiments.crossovers

Times are those of one thread's processor, so that other programs disturb them little; the ways take turns, and the
fastest of some turns counts. ``docs/tunables.md`` has what it printed, beside the constants.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from types import ModuleType

import numpy as np

from asv_benchmarks.experiments.tunables import put
from halfspace import HalfspaceIndex
from halfspace.bench import generate, midpoints
from halfspace.cpu.filters import prepared

collect, search = (import_module(f"halfspace.cpu.{name}") for name in ("collect", "search"))  # not the functions
TURNS = 7
NEVER = 1 << 40
Ways = dict[str, list[tuple[ModuleType, str, int]]]


def fastest(call: Callable[[], object], ways: Ways) -> dict[str, float]:
    """Milliseconds of a call, each way."""
    took = dict.fromkeys(ways, np.inf)
    for turn in range(TURNS + 1):
        for name, settings in ways.items():
            with ExitStack() as stack:
                for setting in settings:
                    stack.enter_context(put(*setting))
                begun = time.thread_time()
                call()
                if turn:  # the first one warms up
                    took[name] = min(took[name], 1e3 * (time.thread_time() - begun))
    return took


def tell(what: str, took: dict[str, float]) -> None:
    """Print a line."""
    print(f"{what}: {', '.join(f'{name} {ms:.2f} ms' for name, ms in took.items())}", flush=True)


def batches(kind: str, dim: int, share: float) -> None:
    """Directions of cells one after another, and in a matrix product."""
    make = getattr(generate, kind)
    index = HalfspaceIndex(dim, filter="cells", threads=1)
    vectors = make(100_000, dim, 1)
    index.insert(vectors)
    index.compact()
    ways: Ways = {
        "one by one": [(search, "LEAST", 1), (prepared, "LEAST", NEVER)],  # both are prepared before
        "product": [(search, "LEAST", 1), (prepared, "LEAST", 1)],
    }
    for count in (8, 16, 24, 32, 48):
        directions = make(count, dim, 2)
        taus = midpoints(vectors, directions, share)
        tell(f"{kind}, d = {dim}, {count} directions", fastest(lambda d=directions, t=taus: index.count(d, t), ways))


def limits(hits: int, directions: int) -> None:
    """The best of many hits, with and without looking at some first."""
    vectors = generate.gaussian(hits, 4, 1)
    index = HalfspaceIndex(4, filter="scan", threads=1)
    index.insert(vectors)
    asked = generate.gaussian(directions, 4, 2)
    ways: Ways = {
        "all": [(collect, "MANY", NEVER)],
        "some first": [(collect, "MANY", 0), (collect, "SELECTIVE", 0)],
    }
    for limit in (hits // 1024, hits // 256, hits // 64, hits // 32, hits // 16):
        call = lambda limit=limit: index.query(asked, -np.inf, limit=limit)  # noqa: E731
        tell(f"{directions} x {hits:,} hits, limit {limit}", fastest(call, ways))


def main() -> None:
    """Print all of it."""
    batches("clustered", 128, 1e-4)
    batches("gaussian", 64, 1e-3)
    for hits in (1 << 15, 1 << 17, 1 << 19):
        limits(hits, 1)


if __name__ == "__main__":
    main()
