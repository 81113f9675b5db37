"""What the commands write: which files they refuse to write, and the formats of hits."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfspace.files.atomic import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HITS", "TABLES", "check_output", "write_batches", "write_hits", "write_table", "write_text"]

_PIECE = 1 << 16
"""Rows that are brought into another form at once."""
_ROW_GROUP = 1 << 20
"""Rows of a Parquet row group at most."""


def check_output(output: Path, inputs: Iterable[str | Path], suffixes: Sequence[str] = ()) -> None:
    """Refuse, before any work, a file that cannot be written or that must not be.

    Parameters
    ----------
    output : Path
    inputs : iterable of str or Path
        Files that the same command reads; those that are not there are passed over.
    suffixes : sequence of str, optional
        Those that say a format that can be written; by default any.

    Raises
    ------
    ValueError
        If the folder is missing, the output is a folder, a pipe or a device, the suffix is another one or needs a
        library that is missing, or the output is one of the inputs, standard input or what the command prints to, by
        whatever name.
    """
    try:
        found = output.stat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{output}: is a folder")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"{output}: is a pipe or a device; name a file, or use --json, which prints to standard output"
        )
    if suffixes and output.suffix.lower() not in suffixes:
        raise ValueError(f"{output}: unknown suffix {output.suffix!r}; known are {', '.join(suffixes)}")
    if suffixes and output.suffix.lower() == ".parquet":
        _pyarrow(output)
    folder = Path(os.path.realpath(output)).parent
    if not folder.is_dir():
        raise ValueError(f"{output}: no such folder {str(folder)!r}")
    if found is None:
        return
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(path, output):
            raise ValueError(f"{output}: is the input {str(path)!r}, which would be lost; name another file")
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):  # of a stream that is closed
            if os.path.samestat(found, os.fstat(stream)):
                role = "where this command prints" if stream else "standard input, which would be lost"
                raise ValueError(f"{output}: is {role}; name another file" + (", or use --json" if stream else ""))


def write_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8, in one step."""
    with replacing(path) as file:
        file.write(text.encode())


def write_hits(path: Path, found: dict[str, NDArray[Any]]) -> None:
    """Write hits, or counts, in the format that the suffix says, in one step.

    Parameters
    ----------
    path : Path
        With one of the suffixes `HITS`.
    found : dict of str to ndarray
        ``totals`` (m,) and, unless hits were only counted, ``ids`` (hits,), ``offsets`` (m + 1,) and perhaps ``scores``
        (hits,): the hits of direction j are those from offsets[j] to offsets[j + 1] - 1.

    Raises
    ------
    ValueError
        If pyarrow, which Parquet needs, is missing.
    OSError
        If the file cannot be written; what was there before is untouched.

    Notes
    -----
    ``.npz`` holds these arrays. The others hold a row for each hit: ``query``, the direction counted from 0, ``id`` and
    ``score``; or, for counts, a row for each direction: ``query`` and ``count``. They are written piece by piece.
    """
    if path.suffix.lower() != ".npz":
        write_table(path, _pieces(found))
        return
    with replacing(path) as file:
        _npz(file, found)


def write_table(path: Path, pieces: Iterable[dict[str, NDArray[Any]]], suffix: str = "") -> int:
    """Write a table, in one step, as its pieces come; there is at least one. Returns its number of rows.

    Parameters
    ----------
    path : Path
    pieces : iterable of dict of str to ndarray
        Columns, by their names.
    suffix : str, optional
        One of `TABLES`, which says the format; by default that of the path.

    Raises
    ------
    ValueError
        If pyarrow, which Parquet needs, is missing.
    OSError
        If the file cannot be written; what was there before is untouched.
    """
    suffix = suffix or path.suffix.lower()
    if suffix == ".parquet":
        _pyarrow(path)
    rows = 0

    def counted() -> Iterator[dict[str, NDArray[Any]]]:
        nonlocal rows
        for piece in pieces:
            rows += len(next(iter(piece.values())))
            yield piece

    with replacing(path) as file:
        TABLES[suffix](file, counted())
    return rows


def write_batches(path: Path, batches: Iterable[Any]) -> int:
    """Write record batches of Arrow to a file of Parquet, in one step, as they come; returns the number of rows."""
    _pyarrow(path)
    from pyarrow import Table

    with replacing(path) as file:
        return _parquet_of(file, (Table.from_batches([batch]) for batch in batches))


def _pieces(found: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the columns of a table, some rows at a time; of no rows, too, so that the columns are known."""
    import numpy as np

    from halfspace.hits import columns

    if "ids" in found:
        table = columns(found["ids"], found.get("scores"), found["offsets"])
    else:
        table = {"query": np.arange(len(found["totals"])), "count": found["totals"]}
    for low in range(0, max(len(table["query"]), 1), _PIECE):
        yield {name: column[low : low + _PIECE] for name, column in table.items()}


def _npz(file: io.BufferedWriter, found: dict[str, NDArray[Any]]) -> None:
    import numpy as np

    np.savez(file, **found)  # type: ignore[arg-type]


def _csv(file: io.BufferedWriter, pieces: Iterable[dict[str, NDArray[Any]]]) -> None:
    text = io.TextIOWrapper(file, encoding="ascii", newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, piece in enumerate(pieces):
        if number == 0:
            writer.writerow(piece)
        writer.writerows(zip(*map(_shortest, piece.values()), strict=True))
    text.detach()  # which flushes it, and leaves the file open


def _jsonl(file: io.BufferedWriter, pieces: Iterable[dict[str, NDArray[Any]]]) -> None:
    for piece in pieces:
        columns = []
        for column in piece.values():
            words = _shortest(column)  # JSON has no infinities: those are text
            columns.append([word if word.lstrip("-") != "inf" else json.dumps(word) for word in words])
        line = "{" + ", ".join(f'"{name}": %s' for name in piece) + "}\n"
        file.write("".join(line % row for row in zip(*columns, strict=True)).encode("ascii"))


def _shortest(column: NDArray[Any]) -> list[str]:
    """Return numbers as the shortest decimal text that is read as the same number of their dtype."""
    words: list[str] = column.astype("U").tolist()
    return words


def _parquet(file: io.BufferedWriter, pieces: Iterable[dict[str, NDArray[Any]]]) -> None:
    import pyarrow

    _parquet_of(file, map(pyarrow.table, pieces))


def _parquet_of(file: io.BufferedWriter, tables: Iterator[Any]) -> int:
    """Write tables as groups of rows; returns the number of rows."""
    import pyarrow
    from pyarrow import parquet

    first = next(tables)
    count = first.num_rows
    with parquet.ParquetWriter(file, first.schema) as writer:
        waiting, rows = [first], first.num_rows
        for piece in tables:
            if rows + piece.num_rows > _ROW_GROUP:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting, rows = [], 0
            waiting.append(piece)
            rows += piece.num_rows
            count += piece.num_rows
        writer.write_table(pyarrow.concat_tables(waiting))
    return int(count)


def _pyarrow(path: Path) -> None:
    """Refuse a file of Parquet, which only pyarrow writes, where it is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError(f"{path}: writing Parquet needs pyarrow: pip install pyarrow") from None


TABLES: dict[str, Callable[[io.BufferedWriter, Iterable[dict[str, Any]]], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}
"""Writers of tables by the suffix of their files."""
HITS = (".npz", *TABLES)
"""Suffixes of files of hits."""
