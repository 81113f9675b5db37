"""The commands about all pairs of a file of vectors: ``halfspace pairs``, ``groups`` and ``dedup``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfspace.commands import built, errors
from halfspace.terminal import print_summary, progress, spinner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfspace import HalfspaceIndex

__all__ = ["add"]

_PER_PAIR = {".parquet": 20, ".csv": 36, ".jsonl": 60}
"""Bytes that a pair takes in a file, about."""

_METRIC = "What is compared with --tau: cosine, ip (inner products), or l2 (Euclidean distances, to be at most that)."
_IDS = ".npy file of one integer id per vector, in place of those in lines of JSON, or of 0, 1, ..."
_TABLE = ".csv, .jsonl or .parquet. It is replaced as a whole. It may be no input, pipe or device."

Vectors = Annotated[
    str, typer.Argument(help="File of vectors, as for `halfspace build`; not an index.", show_default=False)
]
Tau = Annotated[float, typer.Option("--tau", "--radius", help="Threshold, of the metric.", show_default=False)]
Metric = Annotated[str, typer.Option(help=_METRIC)]
Dtype = Annotated[str, typer.Option(help="Type to store: float32, float16 or bfloat16.")]
Ids = Annotated[Path | None, typer.Option(help=_IDS, show_default=False)]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use.  [default: all cores]", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def add(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (pairs, groups, dedup):
        app.command()(command)


def pairs(
    vectors: Vectors,
    tau: Tau,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Write id_a, id_b and score here: {_TABLE}", show_default=False)
    ],
    metric: Metric = "cosine",
    dtype: Dtype = "float32",
    ids: Ids = None,
    force: Annotated[bool, typer.Option("--force", help="Write even if the file may not fit the disk.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find every pair of vectors that reaches tau, and write them as they are found."""
    with errors():
        from halfspace.best_pairs import estimated_pairs
        from halfspace.files.outputs import write_table

        start = time.perf_counter()
        index, _ = _built(vectors, output, ids, metric=metric, dtype=dtype, threads=threads)
        with spinner("estimating"):
            estimate = round(estimated_pairs(index, tau))
        free, needed = shutil.disk_usage(output.resolve().parent).free, estimate * _PER_PAIR[output.suffix.lower()]
        if needed > free and not force:
            raise ValueError(
                f"{output}: about {estimate:,} pairs would take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are "
                "free: raise the threshold, or try all the same with --force"
            )
        with progress(f"about {estimate:,} pairs") as report:
            count = write_table(output, index.pairs(tau, blocks=True, progress=report).columns())
        summary = {"vectors": len(index), "metric": metric, "tau": tau, "pairs": count}
        print_summary(summary | {"output": str(output), "seconds": round(time.perf_counter() - start, 3)}, as_json)


def groups(
    vectors: Vectors,
    tau: Tau,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Write id and group here: {_TABLE}", show_default=False)
    ],
    metric: Metric = "cosine",
    dtype: Dtype = "float32",
    ids: Ids = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Group vectors that chains of pairs join; a group is called by its smallest id."""
    with errors():
        import numpy as np

        from halfspace.files.outputs import write_table

        start = time.perf_counter()
        index, _ = _built(vectors, output, ids, metric=metric, dtype=dtype, threads=threads)
        with progress("grouping") as report:
            labels = index.groups(tau, progress=report)
        write_table(output, iter([{"id": index.ids, "group": labels}]))
        sizes = np.unique(labels, return_counts=True)[1]
        summary = {"vectors": len(index), "metric": metric, "tau": tau, "groups": sizes.size}
        summary |= {"largest": int(sizes.max(initial=0)), "alone": int((sizes == 1).sum())}
        print_summary(summary | {"output": str(output), "seconds": round(time.perf_counter() - start, 3)}, as_json)


def dedup(
    vectors: Vectors,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Write the ids to keep here: {_TABLE}", show_default=False)
    ],
    tau: Annotated[
        float | None,
        typer.Option(
            "--tau", "--radius", help="Threshold, of the metric.  [default: 0.95 of cosines]", show_default=False
        ),
    ] = None,
    priority: Annotated[
        Path | None,
        typer.Option(
            help=".npy file of a number per vector: the highest stay.  [default: the first]", show_default=False
        ),
    ] = None,
    metric: Metric = "cosine",
    dtype: Dtype = "float32",
    ids: Ids = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Choose vectors that stand for all others: no two of them reach tau, and every other one does with one."""
    with errors():
        import numpy as np

        from halfspace.files.outputs import write_table
        from halfspace.files.vectors import read_column

        start = time.perf_counter()
        if tau is None and metric != "cosine":
            raise ValueError(f"--tau has no default for the metric {metric}: give one")
        tau = 0.95 if tau is None else tau
        options: dict[str, Any] = {"metric": metric, "dtype": dtype, "threads": threads}
        index, rows = _built(vectors, output, ids, [] if priority is None else [priority], **options)
        first = None
        if priority is not None:
            given = read_column(priority, rows.size, "priority", "fiu")
            bad = np.flatnonzero(np.isnan(given))
            if bad.size:
                raise ValueError(f"{priority}: row {int(bad[0])}: nan")
            first = given[np.argsort(rows)]  # a priority for each row, and answers are in order of ids
        with progress("choosing") as report:
            kept = index.representatives(tau, priority=first, progress=report)
        write_table(output, iter([{"id": kept}]))
        summary = {"vectors": len(index), "metric": metric, "tau": tau, "kept": kept.size}
        print_summary(summary | {"output": str(output), "seconds": round(time.perf_counter() - start, 3)}, as_json)


def _built(
    vectors: str, output: Path, ids: Path | None, others: Iterable[Path] = (), **options: Any
) -> tuple[HalfspaceIndex, NDArray[np.int64]]:
    """Refuse an output that must not be written; then as `built`."""
    from halfspace.files.outputs import TABLES, check_output
    from halfspace.files.vectors import file_of

    check_output(output, [file_of(vectors), *filter(None, [ids]), *others], tuple(TABLES))
    return built(vectors, ids, **options)
