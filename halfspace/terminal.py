"""What the commands print: consoles, progress, JSON and tables."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halfspace.runtime.notices import shown_by

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.progress import ProgressColumn

    from halfspace.explain import Explanation

__all__ = [
    "console",
    "print_json",
    "print_summary",
    "progress",
    "query_document",
    "show_explanation",
    "show_hits",
    "spinner",
]

_TABLE_ROWS = 20


def console(*, err: bool = False) -> Console:
    """Return a console; what is no terminal has no width of its own and gets a steady one."""
    from rich.console import Console

    found = Console(stderr=err, highlight=False, markup=False)
    return found if found.is_terminal else Console(stderr=err, highlight=False, markup=False, width=140)


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show on stderr, if it is a terminal, that work goes on, and for how long."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with _live(text, SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()):
        yield


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar with numbers, the time and the time left on stderr, if it is a terminal; yield what takes progress.

    Where nobody knows of how much, the total is None.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with _live(text, TextColumn("{task.description}"), *columns) as update:
        yield lambda done, total: update(completed=done, total=total)


@contextlib.contextmanager
def _live(text: str, *columns: ProgressColumn) -> Iterator[Callable[..., None]]:
    """Show one task, and in its place what is compiled meanwhile; yield what updates it."""
    from rich.progress import Progress

    err = console(err=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        update = partial(bar.update, bar.add_task(text, total=None))
        with shown_by(lambda what: update(description=what or text)):
            yield update


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it: arrays as lists, infinities as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(_plain(document), allow_nan=False, ensure_ascii=False))


def print_summary(summary: dict[str, Any], as_json: bool) -> None:
    """Print names and values in two columns, or as JSON."""
    if as_json:
        print_json(summary)
        return
    width = max(map(len, summary))
    for name, value in summary.items():
        typer.echo(f"{name:{width}}  {_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_readable, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def query_document(
    index: Path,
    output: Path | None,
    found: dict[str, NDArray[Any]],
    limits: dict[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """Return the JSON of a query: totals per direction, and the hits themselves unless a file has them.

    limits : the thresholds of the directions, by their names
    """
    totals = found["totals"]
    document: dict[str, Any] = {"index": str(index), "directions": len(totals), "hits": int(totals.sum())}
    if output is not None:
        document["output"] = str(output)
    answers = []
    for j, total in enumerate(totals):
        answer: dict[str, Any] = {**{name: limit[j] for name, limit in limits.items()}, "total": total}
        if output is None and "ids" in found:
            own = slice(found["offsets"][j], found["offsets"][j + 1])
            answer |= {name: found[name][own] for name in ("ids", "scores") if name in found}
        answers.append(answer)
    return document | {"answers": answers}


def show_hits(
    output: Path | None,
    found: dict[str, NDArray[Any]],
    limits: dict[str, NDArray[np.float64]],
) -> None:
    """Print a summary and, unless a file has them all, the first hits; of a count, the first counts."""
    import numpy as np
    from rich.table import Table

    hits, m = int(found["totals"].sum()), len(found["totals"])
    typer.echo(f"{m:,} directions, {hits:,} hits" + ("" if output is None else f", written to {output}"))
    if output is not None:
        return
    table = Table(box=None, pad_edge=False)
    if "ids" in found:
        owners = np.repeat(np.arange(m), np.diff(found["offsets"]))
        columns = {"direction": owners, **{name: own[owners] for name, own in limits.items()}, "id": found["ids"]}
        columns |= {"score": found["scores"]} if "scores" in found else {}
    else:
        columns = {"direction": np.arange(m), "tau": limits["tau"], "hits": found["totals"]}
    for name in columns:
        table.add_column(name, justify="right")
    shown = min(_TABLE_ROWS, len(columns["direction"]))
    for row in range(shown):
        table.add_row(*(str(column[row]) for column in columns.values()))
    if shown:
        console().print(table)
    rest = len(columns["direction"]) - shown
    if rest:
        typer.echo(f"... and {rest:,} more rows (-o FILE.csv or --json for all)")


def show_explanation(direction: int, explanation: Explanation) -> None:
    """Print the stages of one query as a table, and what chose the filter."""
    from rich.table import Table

    typer.echo(f"\ndirection {direction}: filter {explanation.filter}, {explanation.hits:,} hits")
    table = Table(box=None, pad_edge=False)
    for stage in map(asdict, explanation.stages):
        if not table.columns:
            for name in stage:
                table.add_column(name.replace("_", " "), justify="left" if name == "name" else "right")
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in stage.values()))
    console().print(table)
    for decision in explanation.decisions:
        typer.echo(decision)
