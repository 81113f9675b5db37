"""What a comparison says: a table for people, Markdown, JSON, and a verdict that does not flatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from halfspace.bench.contest import REFERENCE, Row, reference_among
from halfspace.bench.engines import ENGINES
from halfspace.bench.machine import warning

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "duration", "markdown", "share_of", "show", "size", "two_digits", "verdict"]

_BRUTE_FORCE = {
    "numpy": "NumPy",
    "numpy-direct": "NumPy without a product",
    "faiss-flat": "FAISS Flat",
    "cupy": "CuPy",
    "torch": "PyTorch",
}
_COLUMNS = ("engine", "per query", "quartiles", "/ ours", "recall", "false", "wrong sets", "build", "memory")
_FEW = 10_000
_LEVELS = {"that missed nothing": 1.0, "with 99 % of the hits": 0.99, "with 95 %": 0.95, "overall": 0.0}
"""Kinds of other engines whose fastest is named, by the recall that they have at least."""


@dataclass(frozen=True)
class Report:
    """A comparison on one set of vectors.

    Attributes
    ----------
    data : str
        What the vectors are.
    metric : str
    vectors, dim, directions, batch, threads, rounds : int
    hits : int
        Of all directions, in real arithmetic.
    rows : list of Row
    left_out : dict of str
        Engines that did not take part, and why.
    processors : float, optional
        The fewest that so many threads got, before and after; without it, nobody looked.
    known : str, optional
        How right the answers are that came with the vectors.
    """

    data: str
    metric: str
    vectors: int
    dim: int
    directions: int
    batch: int
    threads: int
    rounds: int
    hits: int
    rows: list[Row]
    left_out: dict[str, str]
    processors: float | None = None
    known: str | None = None

    @property
    def warning(self) -> str | None:
        """What is wrong with the times, None if nothing is."""
        least = self.threads if self.processors is None else self.processors
        return warning(self.threads, least, max((row.waited for row in self.rows), default=0.0))

    @property
    def said(self) -> list[str]:
        """The verdict, line by line; where the times are wrong, the warning in its place."""
        found = [self.warning] if self.warning else verdict(self.rows, self.vectors).splitlines()
        return [*([self.known] if self.known else []), *found]

    @property
    def title(self) -> str:
        """One line on what was measured."""
        each = "one at a time" if self.batch == 1 else f"{min(self.batch, self.directions):,} at once"
        share = self.hits / (self.vectors * self.directions)
        return (
            f"{self.data}: {self.vectors:,} vectors of {self.dim} dimensions, {self.directions:,} directions {each}, "
            f"{self.hits:,} hits ({share:.2%}), metric {self.metric}, {self.threads} threads, {self.rounds} rounds"
        )

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self) | {"warning": self.warning, "verdict": verdict(self.rows, self.vectors)}


def two_digits(value: float) -> str:
    """Write a number with the two digits that a measurement has."""
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"


def duration(seconds: float) -> str:
    """Write a time with two digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.995 * scale or unit == "us":
            break
    return f"{two_digits(seconds / scale)} {unit}"


def size(count: int) -> str:
    """Write bytes in megabytes."""
    return f"{count / 1e6:,.3g} MB" if count < 1e9 else f"{count / 1e6:,.0f} MB"


def verdict(rows: Sequence[Row], vectors: int) -> str:
    """Say in plain sentences, for each device, who is the better choice for these questions, and what it costs.

    Parameters
    ----------
    rows : sequence of Row
    vectors : int
        How many were searched.

    Returns
    -------
    str
        Empty where halfspace took no part.
    """
    found = []
    for device in ("cpu", "gpu"):
        own = [row for row in rows if ENGINES[row.name].device == device]
        ours = reference_among(row.name for row in own)
        if ours is not None:
            found += _verdict(next(row for row in own if row.name == ours), own, vectors)
    return "\n".join(found)


def _verdict(ours: Row, rows: Sequence[Row], vectors: int) -> list[str]:
    """Compare with the others on one device."""
    found = [_brute_force(row, ours) for row in rows if row.name in _BRUTE_FORCE]
    if ours.wrong:
        found.insert(0, f"{ours.name} itself was wrong in {_answers(ours)}: please report it.")
    faster = [row for row in rows if row.name in _BRUTE_FORCE and row.median < ours.median]
    if vectors < _FEW:
        found.append(
            f"{vectors:,} vectors are few: the fixed cost of a call of {ours.name} counts, and brute force is a good "
            "choice where an answer that may be wrong at the boundary will do."
            if faster
            else f"{vectors:,} vectors are few: with fewer still, brute force is the better choice for speed."
        )
    others = [row for row in rows if not row.name.startswith(REFERENCE)]
    named: Row | None = None
    for what, least in _LEVELS.items():
        field = [row for row in others if row.recall >= least]
        fastest = min(field, key=lambda row: row.median, default=None)
        if fastest is not None and fastest is not named:
            found.append(_fastest(fastest, ours, what))
            named = fastest
    return found


def _brute_force(row: Row, ours: Row) -> str:
    """Compare with brute force: which is the better choice for speed, and how many answers were wrong."""
    name, times = _BRUTE_FORCE[row.name], max(row.median, ours.median) / min(row.median, ours.median)
    cost = (
        f"{row.wrong} of its {row.directions} answers were not the exact set" if row.wrong else "its answers were exact"
    )
    if row.median < ours.median:
        return f"{name} is the better choice for speed, {two_digits(times)} times as fast as {ours.name}; {cost}."
    return f"{ours.name} is {two_digits(times)} times as fast as {name}; {cost}."


def _fastest(row: Row, ours: Row, what: str) -> str:
    """Compare with the fastest of some others."""
    times = max(row.median, ours.median) / min(row.median, ours.median)
    how = (
        f"{ours.name} is {two_digits(times)} times as fast"
        if ours.median < row.median
        else f"{two_digits(times)} times the speed of {ours.name}"
    )
    return (
        f"The fastest other engine {what} is {row.label}: {how}; recall {share_of(row.recall)}, "
        f"{row.false_positives:,} false positives, {_answers(row)} wrong."
    )


def _answers(row: Row) -> str:
    return f"{row.wrong} of {row.directions} answers"


def share_of(value: float) -> str:
    """Write a recall so that only 1 reads as 100 %."""
    return "100 %" if value == 1 else f"{min(100 * value, 99.99):.2f} %"


def _cells(row: Row, least: float) -> tuple[str, ...]:
    """Write a row; approximate engines are marked."""
    return (
        row.label + ("" if row.exact else " ~"),
        duration(row.median) + (" *" if row.median == least else ""),
        f"{duration(row.low)} .. {duration(row.high)}",
        "-" if row.ratio is None else two_digits(row.ratio),
        share_of(row.recall),
        f"{row.false_positives:,}",
        f"{row.wrong} of {row.directions}",
        duration(row.build_seconds),
        size(row.nbytes),
    )


_LEGEND = (
    "~ approximate by design; * the fastest; / ours: median over rounds of its time over halfspace's (without it, over "
    "that of the first other of ours); false: vectors "
    "that do not reach tau; wrong sets: answers that are not the set that real arithmetic gives"
)


def markdown(reports: Sequence[Report]) -> str:
    """Write all comparisons as Markdown."""
    lines = []
    for report in reports:
        least = min(row.median for row in report.rows)
        table = [_COLUMNS, ("---", *("---:",) * (len(_COLUMNS) - 1)), *(_cells(row, least) for row in report.rows)]
        lines += [f"## {report.title}", "", *(f"| {' | '.join(cells)} |" for cells in table), ""]
        lines += [f"{_LEGEND}.", "", *(f"- {line}" for line in report.said), ""]
        lines += [*(f"- left out: {name}: {reason}" for name, reason in report.left_out.items()), ""]
    return "\n".join(lines)


def show(report: Report, console: Console) -> None:
    """Print one comparison for people: the table, who was left out, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"\n{report.title}", style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == _COLUMNS[0] else "right", no_wrap=True)
    least = min(row.median for row in report.rows)
    ours = reference_among(row.name for row in report.rows)
    for row in report.rows:
        table.add_row(*_cells(row, least), style="bold" if row.name == ours else "")
    console.print(table)
    console.print(Text(_LEGEND, style="dim"), soft_wrap=True)
    for name, reason in report.left_out.items():
        console.print(Text(f"left out: {name}: {reason}", style="dim"), soft_wrap=True)
    for line in report.said:
        console.print(Text(line, style="bold red" if report.warning else ""), soft_wrap=True)
