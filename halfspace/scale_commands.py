"""The commands for more vectors than memory holds: ``halfspace build`` and ``match``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from halfspace.commands import (
    FILES,
    FILTER_HELP,
    METRIC_HELP,
    OUTPUT,
    Json,
    Threads,
    bytes_of,
    errors,
    open_index,
    read_ids,
)
from halfspace.model.filters import FILTERS
from halfspace.terminal import print_summary, progress

__all__ = ["add"]

_OF_BALLS = " and ".join(spec.name for spec in FILTERS.values() if spec.options)


def add(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (build, match):
        app.command()(command)


def build(
    vectors: Annotated[str, typer.Argument(help=FILES, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help=f"Index file to write. {OUTPUT}", show_default=False)],
    metric: Annotated[str, typer.Option(help=METRIC_HELP)] = "ip",
    dtype: Annotated[str, typer.Option(help="Type to store: float32, float16 or bfloat16.")] = "float32",
    filter: Annotated[str, typer.Option(help=FILTER_HELP)] = "auto",
    ids: Annotated[
        Path | None,
        typer.Option(
            help=".npy file of one integer id per vector, in place of those in lines of JSON, or of 0, 1, ...",
            show_default=False,
        ),
    ] = None,
    subspaces: Annotated[
        int | None,
        typer.Option(help=f"Subspaces of {_OF_BALLS}.  [default: one for 8 dimensions]", show_default=False),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help=f"Vectors in a ball of {_OF_BALLS}.  [default: 4]", show_default=False)
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Write a folder of index files, with so many vectors in each at most.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Build an index of a file of vectors, a pattern of files, or a folder of Parquet files.

    They need not fit into memory. After a kill, the same command goes on where it was.
    """
    with errors():
        from halfspace.files.outputs import check_output
        from halfspace.files.sources import files_of, identified, source_of
        from halfspace.files.vectors import called

        start = time.perf_counter()
        if shard_rows is None:
            check_output(output, [*files_of(vectors)[0], *([] if ids is None else [ids])])
        with progress("reading") as report:
            from halfspace import Shards
            from halfspace import build as work

            source = source_of(vectors, report=report, own_ids=ids is None)
        if source.rows == 0:
            raise ValueError(f"{called(vectors)}: holds no vectors: build needs one at least")
        if ids is not None:
            source = identified(source, read_ids(ids, source.rows or 0))
        how: dict[str, Any] = {"threads": threads, "subspaces": subspaces, "group_size": group_size}
        with progress("building") as report:
            how |= {"progress": report, "metric": metric, "filter": filter, "dtype": dtype}
            index = (
                work(output, source, **how)
                if shard_rows is None
                else Shards.build(output, source, shard_rows=shard_rows, **how)
            )
        summary = {
            "index": str(output),
            "vectors": len(index),
            "dim": index.dim,
            "metric": metric,
            "dtype": dtype,
            "filter": filter,
            "bytes": bytes_of(output),
            "seconds": round(time.perf_counter() - start, 3),
        }
        print_summary(summary, as_json)


def match(
    index: Annotated[Path, typer.Argument(help="Index file, or folder of shards.", show_default=False)],
    vectors: Annotated[
        str,
        typer.Argument(help="Parquet: a file, a pattern or a folder, and perhaps :COLUMN.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=f"Parquet file. {OUTPUT}", show_default=False)],
    tau: Annotated[
        float | None, typer.Option("--tau", "--radius", help="Threshold, of the index's metric.", show_default=False)
    ] = None,
    k: Annotated[int | None, typer.Option("-k", min=0, help="How many of the best.", show_default=False)] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that goes along with each match, NAME or NAME:OTHER; may be given several times.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Match vectors of Parquet files with an index, piece by piece; write query, id and score of each match."""
    with errors():
        from halfspace import arrow
        from halfspace.files import parquet
        from halfspace.files.outputs import check_output, write_batches
        from halfspace.files.sources import files_of

        if tau is None and k is None:
            raise ValueError("match needs --tau, a threshold, or -k, how many of the best")
        start = time.perf_counter()
        paths, column = files_of(vectors)
        check_output(output, [*paths, index], (".parquet",))
        for path in paths:
            if path.suffix.lower() != ".parquet":
                raise ValueError(f"{path}: holds no Parquet: use halfspace query, or search")
        total = sum(parquet.begun(path, column)[0] for path in paths)
        names = dict((name.split(":", 1) * 2)[:2] for name in keep or ())
        opened = open_index(index, mmap=True, threads=threads)
        done = 0

        def batches() -> Iterator[Any]:
            nonlocal done
            for path in paths:
                for batch in parquet.batches(path):
                    yield batch
                    done += batch.num_rows
                    report(done, total)

        with progress("matching") as report:
            found = arrow.matches(batches(), opened, tau, k=k, column=column, keep=names)
            count = write_batches(output, found)
        summary = {"index": str(index), "rows": total, "matches": count, "output": str(output)}
        print_summary(summary | {"seconds": round(time.perf_counter() - start, 3)}, as_json)
