"""Draw and tabulate what the benchmarks measured.

    python -m asv_benchmarks.report.benchmarks

reads what lies in `asv_benchmarks/results`: cpu.json, which `collect.py` wrote, paper.json, which
`experiments/paper.py` wrote, and gpu.json, comparisons that `halfspace bench` wrote on a GPU. It draws
docs/images/benchmarks-*.svg, and puts tables between the markers `<!-- table: NAME -->` and `<!-- end -->` of
docs/benchmarks.md and docs/paper.md.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asv_benchmarks.report.style import GREY, STYLE
from asv_benchmarks.report.tables import Report, Row, rows_of, updated

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"
COLOURS = {
    "halfspace": "#2f9e44",
    "halfspace-cells": "#2f9e44",
    "halfspace-groups": "#94d82d",
    "halfspace-balls": "#f06595",
    "halfspace-sweep": "#22b8cf",
    "halfspace-scan": "#fab005",
    "faiss-flat": "#1c7ed6",
    "faiss-panorama": "#9775fa",
    "faiss-ivf": "#f59f00",
    "faiss-hnsw": "#e8590c",
    "faiss-ivfpq": "#e64980",
    "faiss-lsh": "#a0522d",
    "usearch-exact": "#c2255c",
    "numpy": "#868e96",
    "sklearn-balltree": "#b8860b",
    "halfspace-gpu": "#2f9e44",
    "cupy": "#1c7ed6",
    "torch": "#e8590c",
}
DASHED = {"halfspace-cells", "halfspace-groups", "halfspace-balls", "halfspace-sweep", "halfspace-scan"}


def lines(axes: Axes, rows: Iterable[Row], x: str, by: str = "engine", scale: float = 1e3) -> None:
    """Draw a line for each engine, with quartiles where there are any, on logarithmic axes."""
    rows = list(rows)
    for name in dict.fromkeys(row[by] for row in rows):
        own = [row for row in rows if row[by] == name]
        colour, style = COLOURS.get(name), "o--" if name in DASHED else "o-"
        axes.plot([row[x] for row in own], [scale * row["value"] for row in own], style, color=colour, label=name)
        if all("low" in row for row in own):
            low, high = ([scale * row[key] for row in own] for key in ("low", "high"))
            axes.fill_between([row[x] for row in own], low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put the legend above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=columns, loc="outside upper center")


def panels(count: int, height: float = 3.8, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(7.6, height), squeeze=False, layout="constrained", **options)
    return figure, list(axes[0])


# -- pictures ---------------------------------------------------------------------------------------------------------


def share(report: Report) -> Figure:
    """Time of a query against the share of hits."""
    figure, (axes,) = panels(1)
    lines(axes, rows_of(report, "share.Query.time_query"), "share", scale=1e3)
    axes.set_xlabel("hits, share of the vectors")
    axes.set_ylabel("ms per query")
    legend(figure, axes)
    return figure


def ratios(report: Report) -> Figure:
    """Time of each engine over that of `halfspace`, in the same process."""
    rows = rows_of(report, "share.Turns.track_ratio")
    kinds = list(dict.fromkeys(row["data"] for row in rows))
    figure, parts = panels(len(kinds), sharey=True)
    for axes, kind in zip(parts, kinds, strict=True):
        lines(axes, (row for row in rows if row["data"] == kind), "share", scale=1)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("hits, share of the vectors")
    parts[0].set_ylabel("time / time of halfspace")
    legend(figure, parts[0])
    return figure


def size(report: Report) -> Figure:
    """Time of a query against the number of vectors."""
    figure, (axes,) = panels(1)
    lines(axes, rows_of(report, "size.Query.time_query"), "n")
    axes.set_xlabel("vectors, d = 64")
    axes.set_ylabel("ms per query")
    legend(figure, axes)
    return figure


def dimension(report: Report) -> Figure:
    """Time of a query against the number of dimensions."""
    figure, (low, high) = panels(2, sharey=True)
    for axes, name, title in (
        (low, "dimension.Low.time_query", "Gaussian, n = 200,000"),
        (high, "dimension.High.time_query", "clustered unit vectors, n = 50,000"),
    ):
        rows = rows_of(report, name)
        lines(axes, rows, "d")
        ticks = sorted({row["d"] for row in rows})
        axes.set_xticks(ticks, [str(d) for d in ticks])
        axes.minorticks_off()
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("dimensions")
    low.set_ylabel("ms per query")
    legend(figure, low)
    return figure


def recall(report: Report) -> Figure:
    """Recall against time: a curve for each approximate engine, a point for each exact one."""
    found = rows_of(report, "recall.Curve.track_recall")
    times = {(row["data"], row["engine"]): row["value"] for row in rows_of(report, "recall.Curve.track_milliseconds")}
    kinds = list(dict.fromkeys(row["data"] for row in found))
    figure, parts = panels(len(kinds), sharey=True)
    for axes, kind in zip(parts, kinds, strict=True):
        for name in dict.fromkeys(row["engine"].split()[0] for row in found):
            own = [row for row in found if row["data"] == kind and row["engine"].split()[0] == name]
            points = [(times[kind, row["engine"]], row["value"]) for row in own]
            axes.plot(*zip(*points, strict=True), "o-" if len(points) > 1 else "D", color=COLOURS[name], label=name)
        axes.set_xscale("log")
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("ms per query")
    parts[0].set_ylabel("recall")
    legend(figure, parts[0])
    return figure


def batch(report: Report) -> Figure:
    """Time per query against the size of a batch."""
    figure, (axes,) = panels(1)
    rows = rows_of(report, "batch.Batch.time_batch")
    for row in rows:
        for key in ("value", "low", "high"):
            row[key] /= row["directions"]
    lines(axes, rows, "directions")
    axes.set_xlabel("directions in a batch")
    axes.set_ylabel("ms per query")
    legend(figure, axes)
    return figure


def build(report: Report) -> Figure:
    """Time to build, and bytes of the index."""
    figure, (left, right) = panels(2, sharey=True)
    for axes, name, label in (
        (left, "build.Build.time_build", "s to build"),
        (right, "build.Build.track_bytes", "bytes, float32 vectors = 1"),
    ):
        rows = rows_of(report, name)
        names = [row["engine"] for row in rows]
        axes.barh(names, [row["value"] for row in rows], color=[COLOURS.get(name) for name in names])
        axes.set_xlabel(label)
    left.set_xscale("log")
    left.invert_yaxis()
    return figure


def roofline(report: Report) -> Figure:
    """Bytes that a query reads against its time, and what memory gives."""
    figure, (axes,) = panels(1)
    seconds = {tuple(row[key] for key in POINT): row["value"] for row in rows_of(report, "work.Roofline.track_seconds")}
    rows = rows_of(report, "work.Roofline.track_bytes")
    for name in dict.fromkeys(row["filter"] for row in rows):
        own = [(row["value"], seconds[tuple(row[key] for key in POINT)]) for row in rows if row["filter"] == name]
        axes.plot(*zip(*own, strict=True), "o", color=COLOURS[f"halfspace-{name}"], label=f'filter="{name}"')
    (bandwidth,) = (row["value"] for row in rows_of(report, "work.track_bandwidth"))
    ends = [min(row["value"] for row in rows), max(row["value"] for row in rows)]
    axes.plot(ends, [end / bandwidth for end in ends], color=GREY, label=f"memory: {bandwidth / 1e9:.1f} GB/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bytes read by a query")
    axes.set_ylabel("s per query")
    legend(figure, axes)
    return figure


def gpu(report: Report) -> Figure:
    """Time per query on a GPU against the share of hits."""
    rows = rows_of(report, "")
    sizes = sorted({row["directions"] for row in rows})
    figure, parts = panels(len(sizes))
    for axes, size in zip(parts, sizes, strict=True):
        lines(axes, (row for row in rows if row["directions"] == size), "share", scale=1e6)
        axes.set_title("one at a time" if size == 1 else f"{size:,} at once", fontsize=9)
        axes.set_xlabel("hits, share of the vectors")
    parts[0].set_ylabel("µs per query")
    legend(figure, parts[0])
    return figure


def attention(report: Report) -> Figure:
    """Time of a decode step against context length."""
    figure, (axes,) = panels(1)
    rows = rows_of(report, "kv.Attend.time_step")
    colours = itertools.cycle(("#868e96", "#2f9e44", "#94d82d", "#1c7ed6", "#e8590c"))
    for name, colour in zip(dict.fromkeys(row["how"] for row in rows), colours, strict=False):
        own = [row for row in rows if row["how"] == name]
        axes.plot([row["keys"] for row in own], [1e3 * row["value"] for row in own], "o-", color=colour, label=name)
    ticks = sorted({row["keys"] for row in rows})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("keys")
    axes.set_ylabel("ms per decode step")
    legend(figure, axes)
    return figure


POINT = ("n", "filter", "share")
PICTURES: dict[str, tuple[str, str, Callable[[Report], Figure]]] = {
    "share": ("cpu", "share.Query.time_query", share),
    "ratios": ("cpu", "share.Turns.track_ratio", ratios),
    "size": ("cpu", "size.Query.time_query", size),
    "dimension": ("cpu", "dimension.High.time_query", dimension),
    "recall": ("cpu", "recall.Curve.track_recall", recall),
    "batch": ("cpu", "batch.Batch.time_batch", batch),
    "build": ("cpu", "build.Build.time_build", build),
    "roofline": ("cpu", "work.Roofline.track_bytes", roofline),
    "attention": ("cpu", "kv.Attend.time_step", attention),
    "gpu": ("gpu", "", gpu),
}
"""Pictures by name: the report, and the benchmark without which they are not drawn."""


def main() -> None:
    """Draw all pictures and write all tables that the reports have the numbers for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documents, and of images/")
    options = parser.parse_args()
    reports = {path.stem: json.loads(path.read_text()) for path in options.results.glob("*.json")}
    matplotlib.rcParams.update(STYLE)
    for name, (source, needed, draw) in PICTURES.items():
        if rows_of(reports.get(source, {}), needed):
            figure = draw(reports[source])
            path = options.docs / "images" / f"benchmarks-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            plt.close(figure)
    for document in ("benchmarks.md", "paper.md"):
        path = options.docs / document
        path.write_text(updated(path.read_text(), reports))


if __name__ == "__main__":
    main()
