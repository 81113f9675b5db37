"""What commands share: errors as one line, and their inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from halfspace.model.filters import names
from halfspace.terminal import progress, spinner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfspace import HalfspaceIndex, Hits, Shards

__all__ = [
    *("FILES", "FILTER_HELP", "METRIC_HELP", "OUTPUT", "Json", "Threads"),
    *("answers", "built", "bytes_of", "errors", "fail", "fits", "located", "open_index", "read_ids"),
]

FILES = (
    ".npy, .npz[:NAME], .hdf5[:NAME], .parquet[:COLUMN], .safetensors[:NAME], .fvecs, .bvecs, .fbin, .bin, .u8bin, "
    ".i8bin, .jsonl, or - for lines of JSON on standard input"
)
FILTER_HELP = f"{', '.join(names()[:-1])} or {names()[-1]}."
METRIC_HELP = (
    "What is compared with thresholds: ip (inner products), cosine, or l2 (Euclidean distances, to be at most that)."
)
OUTPUT = "It is replaced as a whole. It may be no input, pipe or device."

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use.  [default: all cores]", show_default=False)]

_CHUNK_ROWS = 1024  # directions per question


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and end with this code."""
    typer.echo(f"halfspace: error: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn the errors of bad input into one line and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 2)
    except KeyError as error:
        fail(str(error.args[0]) if error.args else "key error", 2)
    except (ValueError, TypeError, ImportError) as error:
        fail(str(error), 2)
    except MemoryError as error:
        fail(f"not enough memory: {error}", 2)


@contextlib.contextmanager
def located(path: str, chunk: NDArray[Any], low: int, dtype: str) -> Iterator[None]:
    """Name the file, and the row counted from its start, in an error about a chunk that begins at row ``low``."""
    try:
        yield
    except ValueError as error:
        import ml_dtypes
        import numpy as np

        from halfspace.files.vectors import called

        with np.errstate(all="ignore"):
            stored = chunk.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if bad.size:
            row = int(bad[0])
            column = int(np.flatnonzero(~np.isfinite(stored[row]))[0])
            place = f"{called(path)}: row {low + row}, column {column}"
            raise ValueError(f"{place}: {chunk[row, column]} in {dtype}") from error
        place = f"{called(path)}: " if low == 0 else f"{called(path)}, rows from {low} on: "
        raise ValueError(f"{place}{error}") from error


def open_index(path: Path, *, mmap: bool = False, threads: int | None = None) -> HalfspaceIndex | Shards:
    """Load an index, or map it where it would take too much memory, or open a folder of shards.

    A damaged file ends the program with code 1.
    """
    from halfspace.runtime.memory import allowed

    mmap = mmap or path.stat().st_size > allowed() // 2
    try:
        with spinner("opening"):
            from halfspace import HalfspaceIndex, Shards

            if path.is_dir():
                return Shards(path, threads=threads)
            return HalfspaceIndex.load(path, mmap=mmap, threads=threads)
    except ValueError as error:
        text = str(error)
        fail(text if str(path) in text else f"{path}: {text}", 1)


def fits(path: str, directions: NDArray[Any], dim: int) -> None:
    """Refuse directions of a file that an index has not the dimension of, before anything is made for each of them."""
    from halfspace.files.vectors import called

    if directions.shape[1] != dim:
        raise ValueError(
            f"{called(path)}: directions must have shape (n, {dim}), as the index has {dim} dimensions, got "
            f"{directions.shape}"
        )


def read_ids(path: Path, n: int) -> NDArray[np.int64]:
    """Read ids (n,) from a file, and refuse those that an index refuses, naming the file."""
    from halfspace.arguments import checks
    from halfspace.files.vectors import read_column

    column = read_column(path, n, "id", "iu")
    try:
        ids = checks.as_ids(column)
        checks.distinct(ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return ids


def built(vectors: str, ids: Path | None, **options: Any) -> tuple[HalfspaceIndex, NDArray[np.int64]]:
    """Read vectors from a file, and build an index of them.

    options : those of `HalfspaceIndex`, ``dtype`` among them

    Returns it, and the id of each row of the file.
    """
    from halfspace.files.vectors import read_identified, read_vectors

    with progress("reading") as report:
        from halfspace import HalfspaceIndex

        data, own = read_identified(vectors, report) if ids is None else (read_vectors(vectors, report), None)
    own = own if ids is None else read_ids(ids, len(data))
    index = HalfspaceIndex(data.shape[1], **options)
    with progress("inserting") as report, located(vectors, data, 0, options["dtype"]):
        rows = index.insert(data, own, progress=report)
    with progress("compacting") as report:
        index.compact(progress=report)
    return index, rows


def answers(
    path: str, directions: NDArray[Any], ask: Callable[[NDArray[Any], slice], Hits | NDArray[np.int64]]
) -> dict[str, NDArray[Any]]:
    """Ask directions of a file block by block, and join what comes of it.

    ask : takes some of them, and which they are; returns their hits, or how many each has

    Returns ``totals``, and of hits ``ids``, ``offsets`` and, if there are any, ``scores``.
    """
    import numpy as np

    m = len(directions)
    parts: list[dict[str, NDArray[Any]]] = []
    with progress("asking") as report:
        for low in range(0, max(m, 1), _CHUNK_ROWS):
            part = slice(low, low + _CHUNK_ROWS)
            chunk = np.ascontiguousarray(directions[part])
            with located(path, chunk, low, "float32"):
                answer = ask(chunk, part)
            if isinstance(answer, np.ndarray):
                parts.append({"totals": answer})
            else:
                own = {"ids": answer.ids, "sizes": np.diff(answer.offsets), "totals": answer.totals}
                parts.append(own | ({} if answer.scores is None else {"scores": answer.scores}))
            report(low + len(chunk), m)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "sizes" in found:
        found["offsets"] = np.concatenate([[0], np.cumsum(found.pop("sizes"))]).astype(np.int64)
    return found


def bytes_of(index: Path) -> int:
    """Bytes of an index file, or of all files of a folder of shards."""
    return sum(path.stat().st_size for path in (index.iterdir() if index.is_dir() else [index]))
