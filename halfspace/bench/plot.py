"""One picture of comparisons: time per query of each engine, approximate ones as curves of recall against time.

It is legible on a light and on a dark page: the background is transparent, text is mid-grey, and the colours have
contrast on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from halfspace.bench.contest import REFERENCE, Row, reference_among
from halfspace.bench.report import Report
from halfspace.files.atomic import replacing

__all__ = ["draw"]

_GREY = "#808080"
_OURS = "#d9541e"
_OTHERS = ("#3a87d0", "#3a9e4f", "#a869c9", "#b0862a", "#2a9d9d", "#c95a86", "#7a7fd0", "#8a8f3a")


def draw(reports: Sequence[Report], path: Path) -> None:
    """Write a picture, a row for each comparison.

    Parameters
    ----------
    reports : sequence of Report
    path : Path
        Its suffix says the format: ``.svg``, ``.png``, ``.pdf``.

    Raises
    ------
    ValueError
        If matplotlib is not installed, or does not know the format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a picture needs matplotlib: pip install matplotlib") from None
    height = max(len({row.name for row in report.rows}) for report in reports)
    figure = Figure(figsize=(12, (1.6 + 0.3 * height) * len(reports)), layout="constrained")
    axes = figure.subplots(len(reports), 2, squeeze=False)
    for report, (left, right) in zip(reports, axes, strict=True):
        colours = _colours(report.rows)
        _medians(left, report, colours)
        _curves(right, report, colours)
        for own in (left, right):
            _grey(own)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.lower()[1:], transparent=True, dpi=150)


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """Give each engine a colour: one to all of ours, one to each of the others."""
    names = list(dict.fromkeys(row.name for row in rows))
    others = [name for name in names if not name.startswith(REFERENCE)]
    return dict.fromkeys(names, _OURS) | {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}


def _medians(axes: Any, report: Report, colours: dict[str, str]) -> None:
    """Draw the median of each exact engine, its best setting, with quartiles, fastest at the top."""
    slowest_first = sorted((row for row in report.rows if row.exact), key=lambda row: -row.median)
    best = sorted({row.name: row for row in slowest_first}.values(), key=lambda row: -row.median)
    times = [1e6 * row.median for row in best]
    spread = [
        [1e6 * max(row.median - row.low, 0) for row in best],
        [1e6 * max(row.high - row.median, 0) for row in best],
    ]
    axes.errorbar(times, range(len(best)), xerr=spread, fmt="none", ecolor=_GREY, capsize=2)
    axes.scatter(times, range(len(best)), c=[colours[row.name] for row in best], s=60, zorder=3)
    axes.set_yticks(range(len(best)), [row.label for row in best])
    for place, row in enumerate(best):
        if row.wrong:
            note = f"  {row.wrong} of {row.directions} sets wrong"
            axes.annotate(note, (1e6 * row.high, place), color=_GREY, va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("microseconds per query, exact engines")
    axes.set_title(report.data, loc="left", color=_GREY)
    axes.margins(x=0.25)


def _curves(axes: Any, report: Report, colours: dict[str, str]) -> None:
    """Draw recall against time: approximate engines at all their settings, and halfspace."""
    ours = reference_among(row.name for row in report.rows)
    rows = [row for row in report.rows if not row.exact or row.name == ours]
    for name, group in groupby(rows, key=lambda row: row.name):
        own = list(group)
        times, recalls = [1e6 * row.median for row in own], [row.recall for row in own]
        marker, size = ("*", 12) if name == ours else ("o", 5)
        axes.plot(times, recalls, marker=marker, ms=size, color=colours[name], label=name)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.06)
    axes.set_xlabel("microseconds per query")
    axes.set_ylabel("recall")
    if rows:
        axes.legend(frameon=False, labelcolor=_GREY, fontsize=8, loc="lower right")


def _grey(axes: Any) -> None:
    """Colour what is no data so that it reads on any page."""
    axes.grid(axis="both", color=_GREY, alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, which="both", labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(_GREY)
    for side, spine in axes.spines.items():
        spine.set_color(_GREY)
        spine.set_visible(side in ("left", "bottom"))
