"""How all pictures look: backgrounds are transparent and text is grey, to be read on light and on dark pages.

`halfspace` has one colour everywhere; its single filters have that colour, broken. Ticks are plain numbers, and lines
are named where they end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

GREY = "#808080"
OURS = "#d9541e"
COLOURS = {
    "halfspace": OURS,
    "halfspace-gpu": OURS,
    "halfspace-cells": OURS,
    "halfspace-groups": OURS,
    "halfspace-balls": OURS,
    "halfspace-sweep": OURS,
    "halfspace-scan": OURS,
    "faiss-flat": "#1c7ed6",
    "faiss-panorama": "#7950f2",
    "faiss-ivf": "#0ca678",
    "faiss-hnsw": "#4263eb",
    "faiss-ivfpq": "#ae3ec9",
    "faiss-lsh": "#a0763a",
    "usearch-exact": "#d6336c",
    "numpy": "#868e96",
    "sklearn-balltree": "#b8860b",
    "cupy": "#1c7ed6",
    "torch": "#7950f2",
}
DASHES = {
    "halfspace-cells": (0, (6, 2)),
    "halfspace-groups": (0, (2, 2)),
    "halfspace-balls": (0, (6, 2, 1, 2)),
    "halfspace-sweep": (0, (6, 2, 1, 2, 1, 2)),
    "halfspace-scan": (0, (1, 2)),
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halfspace",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.markersize": 4,
    "lines.linewidth": 1.4,
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "grid.color"),
    GREY,
)
Ends = dict[str, tuple[float, float, str]]
"""Of the name of each line, where it ends, and its colour."""
_APART = 11.0
"""Points between the middles of two labels, at least."""


def number(value: float, _: Any = None) -> str:
    """Write a number as all pictures do: 0.001, 20, 1,000,000."""
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:.10g}"


def power(value: float, _: Any = None) -> str:
    """Write a power of ten as one, for axes that go further down than a thousandth."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent(value: float, _: Any = None) -> str:
    """Write a share in percent."""
    return f"{100 * value:.6g} %"


def logarithmic(axis: Any, show: Callable[..., str] = number, at: Sequence[float] | None = None) -> None:
    """Give a logarithmic axis its ticks: the powers of ten, or those that were measured."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if at is None:
        axis.set_major_locator(LogLocator(10.0, numticks=12))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ticks(list(at))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(show))


def _name_ends(axes: Axes, ends: Ends) -> None:
    """Write names to the right of where lines end, pushed apart so that none covers another."""
    figure: Any = axes.figure
    points = 72.0 / figure.dpi
    places = {name: axes.transData.transform((x, y)) * points for name, (x, y, _) in ends.items()}
    right = max((place[0] for place in places.values()), default=0.0)
    heights = _apart({name: float(place[1]) for name, place in places.items()})
    for name, (x, y, colour) in ends.items():
        offset = (right - places[name][0] + 6, heights[name] - places[name][1])
        axes.annotate(
            name,
            (x, y),
            offset,
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Move heights as little as it takes for all to be apart: runs that touch share their mean."""
    runs: list[list[str]] = []
    tops: list[float] = []
    for name in sorted(heights, key=heights.__getitem__):
        runs.append([name])
        tops.append(heights[name])
        while len(runs) > 1 and tops[-1] - tops[-2] < _APART * (len(runs[-1]) + len(runs[-2])) / 2:
            joined = runs[-2] + runs[-1]
            tops[-2:] = [math.fsum(heights[own] for own in joined) / len(joined)]
            runs[-2:] = [joined]
    return {
        name: top + _APART * (place - (len(run) - 1) / 2)
        for run, top in zip(runs, tops, strict=True)
        for place, name in enumerate(run)
    }


def titled(figure: Figure, what: str, report: Mapping[str, Any], ends: Mapping[Axes, Ends] | None = None) -> Figure:
    """Say above a picture what was measured, below it where and when, and beside lines what they are."""
    figure.suptitle(what, fontsize=11, x=0.01, ha="left", color=GREY)
    versions = report.get("versions", {})
    others = ", ".join(
        f"{name} {versions[name]}" for name in ("numpy", "faiss-cpu", "torch", "cupy") if name in versions
    )
    parts = [report.get("machine"), report.get("date"), others]
    figure.supxlabel("; ".join(part for part in parts if part), fontsize=7, x=0.01, ha="left", color=GREY)
    figure.canvas.draw()  # scales and limits are as they stay from now on
    for axes, own in (ends or {}).items():
        _name_ends(axes, own)
    return figure
