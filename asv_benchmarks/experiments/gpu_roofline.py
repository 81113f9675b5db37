"""What kernels of a query on a GPU take, against what they must read and multiply.

    python -m asv_benchmarks.experiments.gpu_roofline --write asv_benchmarks/results/gpu-roofline.json

Kernels alone, by replays of a graph. Bytes are those that `explain` counts, operations two for each product of 8 bits;
the ceilings are measured in the same run. `asv_benchmarks.report.benchmarks` draws the picture from what is written.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.gpu import by_events, by_events_of_torch, clustered, index_of, on_the_device, thresholds
from halfspace import HalfspaceIndex

DIM = 128
ONE = ((100_000, ("cells", "groups", "scan")), (1_000_000, ("cells", "groups", "scan")), (8_000_000, ("cells",)))
"""Vectors, and the filters that one direction is asked of."""
MANY = ((1_000_000, 128), (1_000_000, 384))
"""Vectors and dimensions that batches are asked of."""
BATCHES = (16, 64, 128, 256, 1024, 2048)
SHARES = (1e-4, 1e-2)
RARE = 1e-6
"""The share of hits of batches: products, and little else."""

Row = dict[str, Any]


def kernels(index: HalfspaceIndex, directions: Any, tau: Any, capacity: int) -> float:
    """Time the kernels of a question alone, in seconds."""
    count = None if directions.ndim == 1 else len(directions)
    out = index.preallocate(capacity, count)
    index.query(directions, tau, out=out).check()
    return on_the_device(lambda: index.query(directions, tau, out=out), 9, 3) / 1e6


def read(index: HalfspaceIndex, direction: Any, tau: float) -> int:
    """Bytes that all stages read for a question."""
    return sum(stage.bytes_read for stage in index.explain(direction, tau).stages)


def one_at_a_time() -> Iterator[Row]:
    """One direction: bytes read, and seconds."""
    for rows, filters in ONE:
        vectors, direction = clustered(rows, DIM, 1), clustered(1, DIM, 2)
        for filter in filters:
            index = index_of(vectors, filter)
            for share in SHARES:
                (tau,) = thresholds(vectors, direction, share)
                seconds = kernels(index, direction[0], tau, round(1.5 * share * rows) + 1000)
                yield {
                    "work": "one",
                    "n": rows,
                    "filter": filter,
                    "share": share,
                    "bytes": read(index, direction[0], tau),
                    "seconds": seconds,
                }


def batches() -> Iterator[Row]:
    """Many directions: 8-bit operations, and seconds."""
    for rows, dim in MANY:
        vectors, directions = clustered(rows, dim, 1), clustered(max(BATCHES), dim, 2)
        index = index_of(vectors)
        (tau,) = thresholds(vectors, directions[:1], RARE)
        for count in BATCHES:
            seconds = kernels(index, directions[:count], tau, 1 << 18)
            operations = 2 * rows * dim * count
            yield {"work": "batch", "n": rows, "dim": dim, "count": count, "operations": operations, "seconds": seconds}


def ceilings() -> Row:
    """What the device reads, copies and multiplies in a second."""
    import torch

    source = cp.random.RandomState(0).randint(0, 256, 1 << 30, dtype=np.uint8)
    words = source.view(np.uint64)
    copied = 2e6 * source.nbytes / by_events(lambda: cp.copyto(cp.empty_like(words), words))
    left = torch.randint(-127, 128, (8192, 8192), dtype=torch.int8, device="cuda")
    product = by_events_of_torch(lambda: torch._int_mm(left, left.T))
    return {"bytes": copied, "operations": 2e6 * 8192**3 / product}


def roofline(path: Path | None = None) -> Iterator[str]:
    """Measure everything; yields lines of a table, and writes rows."""
    most, rows = ceilings(), []
    copies, products = most["bytes"] / 1e12, most["operations"] / 1e12
    yield f"copies, read and written: {copies:.2f} TB/s; int8 products: {products:.0f} TOP/s"
    yield "| one direction | filter | share of hits | read | kernels | TB/s |"
    yield "|---|---|---|---|---|---|"
    for row in one_at_a_time():
        rows.append(row)
        yield (
            f"| {row['n']:,} x {DIM} | {row['filter']} | {row['share']:.2%} | {row['bytes'] / 1e6:,.1f} MB | "
            f"{1e6 * row['seconds']:.1f} us | {row['bytes'] / row['seconds'] / 1e12:.2f} |"
        )
    yield ""
    yield "| directions | vectors | kernels | TOP/s |"
    yield "|---|---|---|---|"
    for row in batches():
        rows.append(row)
        yield (
            f"| {row['count']:,} | {row['n']:,} x {row['dim']} | {1e6 * row['seconds']:,.1f} us | "
            f"{row['operations'] / row['seconds'] / 1e12:.0f} |"
        )
    if path is not None:
        name = cp.cuda.runtime.getDeviceProperties(0)["name"].decode()
        about = {"date": f"{datetime.date.today()}", "machine": f"one {name}", "versions": {"cupy": cp.__version__}}
        about |= {"python": sys.version.split()[0], "ceilings": most, "rows": rows}
        path.write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    """Print everything."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", type=Path)
    for line in roofline(arguments.parse_args().write):
        print(line, flush=True)


if __name__ == "__main__":
    main()
