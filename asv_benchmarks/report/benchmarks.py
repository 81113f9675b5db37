"""Draw and tabulate what the benchmarks measured.

    python -m asv_benchmarks.report.benchmarks

reads what lies in `asv_benchmarks/results`: cpu.json, which `collect.py` wrote, paper.json, which
`experiments/paper.py` wrote, gpu.json, comparisons that `halfspace bench` wrote on a GPU, and gpu-roofline.json, which
`experiments/gpu_roofline.py` wrote there. It draws
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

from asv_benchmarks.report.style import COLOURS, DASHES, GREY, OURS, STYLE, Ends, logarithmic, percent, titled
from asv_benchmarks.report.tables import Report, Row, rows_of, updated

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"
SHARES = (1e-4, 1e-3, 1e-2, 1e-1)
MAIN = ("halfspace", "faiss-flat", "faiss-panorama", "usearch-exact", "numpy")
"""Engines that every picture has; single filters are in the tables."""


def lines(axes: Axes, rows: Iterable[Row], x: str, scale: float = 1e3) -> Ends:
    """Draw a line for each engine, with quartiles where there are any, on logarithmic axes; returns where they end."""
    rows = list(rows)
    ends = {}
    for name in dict.fromkeys(row["engine"] for row in rows):
        own = [row for row in rows if row["engine"] == name]
        colour, dashes = COLOURS[name], DASHES.get(name, "-")
        width = 2.2 if name in ("halfspace", "halfspace-gpu") else 1.3
        places, values = [row[x] for row in own], [scale * row["value"] for row in own]
        axes.plot(places, values, marker="o", linestyle=dashes, color=colour, label=name, linewidth=width)
        if all("low" in row for row in own):
            low, high = ([scale * row[key] for row in own] for key in ("low", "high"))
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        ends[name] = places[-1], values[-1], colour
    logarithmic(axes.yaxis)
    return ends


def panels(count: int, height: float = 3.8, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(8.4, height), squeeze=False, layout="constrained", **options)
    return figure, list(axes[0])


def main_of(rows: Iterable[Row]) -> list[Row]:
    """Keep the engines that every picture has."""
    return [row for row in rows if row["engine"] in MAIN]


# -- pictures ---------------------------------------------------------------------------------------------------------


def share(report: Report) -> Figure:
    """Time of a query against the share of hits."""
    figure, (axes,) = panels(1)
    logarithmic(axes.xaxis, percent, SHARES)
    ends = lines(axes, rows_of(report, "share.Query.time_query"), "share")
    axes.set_xlabel("hits, share of the vectors")
    axes.set_ylabel("ms per query")
    return titled(figure, "Time of a query: 100,000 clustered unit vectors, d = 128", report, {axes: ends})


def ratios(report: Report) -> Figure:
    """Time of each engine over that of `halfspace`, in the same process."""
    rows = main_of(rows_of(report, "share.Turns.track_ratio"))
    kinds = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.0), sharex=True, sharey=True, layout="constrained")
    ends = {}
    for own, kind in zip(axes.flat, kinds, strict=True):
        logarithmic(own.xaxis, percent, SHARES)
        ends[own] = lines(own, (row for row in rows if row["data"] == kind), "share", scale=1)
        own.axhline(1, color=OURS, linewidth=0.8)
        own.set_title(kind)
    for own in axes[-1]:
        own.set_xlabel("hits, share of the vectors")
    for own in axes[:, 0]:
        own.set_ylabel("time / time of halfspace")
    return titled(figure, "How many times the time of halfspace others take, one query at a time", report, ends)


def size(report: Report) -> Figure:
    """Time of a query against the number of vectors."""
    figure, (axes,) = panels(1)
    rows = main_of(rows_of(report, "size.Query.time_query"))
    logarithmic(axes.xaxis, at=sorted({row["n"] for row in rows}))
    ends = lines(axes, rows, "n")
    axes.set_xlabel("vectors")
    axes.set_ylabel("ms per query")
    return titled(
        figure, "Time of a query: clustered unit vectors, d = 64, a thousandth are hits", report, {axes: ends}
    )


def dimension(report: Report) -> Figure:
    """Time of a query against the number of dimensions."""
    figure, parts = panels(2, sharey=True)
    ends = {}
    for axes, name, title in (
        (parts[0], "dimension.Low.time_query", "200,000 Gaussian vectors"),
        (parts[1], "dimension.High.time_query", "50,000 clustered unit vectors"),
    ):
        rows = [row for row in rows_of(report, name) if row["engine"] != "halfspace-cells"]
        logarithmic(axes.xaxis, at=sorted({row["d"] for row in rows}))
        ends[axes] = lines(axes, rows, "d")
        axes.set_title(title)
        axes.set_xlabel("dimensions")
    parts[0].set_ylabel("ms per query")
    return titled(figure, "Time of a query against dimensions, a thousandth are hits", report, ends)


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
            marker = "o-" if len(points) > 1 else "D"
            axes.plot(*zip(*points, strict=True), marker, color=COLOURS[name], label=name)
        logarithmic(axes.xaxis)
        axes.set_title(kind)
        axes.set_xlabel("ms per query")
    parts[0].set_ylabel("share of the hits that is found")
    handles, labels = parts[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    return titled(figure, "What approximate engines find in what time; diamonds find all", report)


def batch(report: Report) -> Figure:
    """Time per query against the size of a batch."""
    figure, (axes,) = panels(1)
    rows = main_of(rows_of(report, "batch.Batch.time_batch"))
    for row in rows:
        for key in ("value", "low", "high"):
            row[key] /= row["directions"]
    logarithmic(axes.xaxis, at=sorted({row["directions"] for row in rows}))
    ends = lines(axes, rows, "directions")
    axes.set_xlabel("directions in a batch")
    axes.set_ylabel("ms per query")
    return titled(
        figure, "Time of each query in a batch: 100,000 clustered unit vectors, d = 128", report, {axes: ends}
    )


def build(report: Report) -> Figure:
    """Time to build, and bytes of the index."""
    figure, parts = panels(2, sharey=True)
    for axes, name, label in (
        (parts[0], "build.Build.time_build", "s to build"),
        (parts[1], "build.Build.track_bytes", "bytes, over those of the float32 vectors"),
    ):
        rows = rows_of(report, name)
        names = [row["engine"] for row in rows]
        axes.barh(names, [row["value"] for row in rows], color=[COLOURS[name] for name in names])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
    logarithmic(parts[0].xaxis)
    parts[0].invert_yaxis()
    return titled(figure, "Building an index of 50,000 clustered unit vectors, d = 128", report)


def roofline(report: Report) -> Figure:
    """Bytes that a query reads against its time, and what memory gives."""
    figure, (axes,) = panels(1)
    seconds = {tuple(row[key] for key in POINT): row["value"] for row in rows_of(report, "work.Roofline.track_seconds")}
    rows = rows_of(report, "work.Roofline.track_bytes")
    markers = itertools.cycle("osD^v")
    for name, marker in zip(dict.fromkeys(row["filter"] for row in rows), markers, strict=False):
        own = [
            (row["value"] / 1e6, 1e3 * seconds[tuple(row[key] for key in POINT)])
            for row in rows
            if row["filter"] == name
        ]
        axes.plot(*zip(*own, strict=True), marker, color=OURS, alpha=0.7, label=f'filter="{name}"', markersize=5)
    (bandwidth,) = (row["value"] for row in rows_of(report, "work.track_bandwidth"))
    ends = [min(row["value"] for row in rows), max(row["value"] for row in rows)]
    times = [1e3 * end / bandwidth for end in ends]
    axes.plot([end / 1e6 for end in ends], times, color=GREY, label=f"memory: {bandwidth / 1e9:.1f} GB/s")
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    axes.set_ylim(top=400)
    axes.text(
        0.03,
        0.93,
        "above the line: arithmetic, or the cost of a call, takes longer than reading",
        transform=axes.transAxes,
        fontsize=8,
    )
    axes.text(
        0.97, 0.06, "below the line: what is read lies in a cache", transform=axes.transAxes, fontsize=8, ha="right"
    )
    axes.set_xlabel("MB read by a query")
    axes.set_ylabel("ms per query")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return titled(figure, "Time of a query against what it reads: clustered unit vectors, d = 128", report)


def gpu_roofline(report: Report) -> Figure:
    """Time of kernels on a GPU against the bytes that one direction reads, and the operations of a batch."""
    figure, (left, right) = panels(2)
    for axes, work, of, unit, label in (
        (left, "one", "bytes", 1e6, "MB read by one query"),
        (right, "batch", "operations", 1e12, "10¹² operations of a batch"),
    ):
        rows = [row for row in report["rows"] if row["work"] == work]
        kinds = "filter" if work == "one" else "dim"
        for kind, marker in zip(dict.fromkeys(row[kinds] for row in rows), "osD^v", strict=False):
            own = [(row[of] / unit, 1e6 * row["seconds"]) for row in rows if row[kinds] == kind]
            named = f'filter="{kind}"' if work == "one" else f"d = {kind}"
            axes.plot(*zip(*own, strict=True), marker, color=OURS, alpha=0.7, label=named, markersize=5)
        most = report["ceilings"][of]
        ends = [min(row[of] for row in rows), max(row[of] for row in rows)]
        shown = f"memory: {most / 1e12:.1f} TB/s" if work == "one" else f"int8 products: {most / 1e12:.0f} TOP/s"
        axes.plot([end / unit for end in ends], [1e6 * end / most for end in ends], color=GREY, label=shown)
        logarithmic(axes.xaxis)
        logarithmic(axes.yaxis)
        axes.set_xlabel(label)
        axes.legend(fontsize=8, loc="upper left")
    left.set_ylabel("µs of kernels")
    return titled(figure, "Kernels of a query against what they read, or multiply", report)


def gpu(report: Report) -> Figure:
    """Time per query on a GPU against the share of hits."""
    rows = rows_of(report, "")
    sizes = sorted({row["directions"] for row in rows})
    figure, parts = panels(len(sizes), sharey=True)
    ends = {}
    for axes, size in zip(parts, sizes, strict=True):
        logarithmic(axes.xaxis, percent, SHARES[:3])
        ends[axes] = lines(axes, (row for row in rows if row["directions"] == size), "share", scale=1e6)
        axes.set_title("one at a time" if size == 1 else f"{size:,} at once")
        axes.set_xlabel("hits, share of the vectors")
    parts[0].set_ylabel("µs per query")
    return titled(figure, "Time of a query on one NVIDIA H200: 1,000,000 vectors, d = 128", report, ends)


def attention(report: Report) -> Figure:
    """Time of a decode step against context length."""
    figure, (axes,) = panels(1)
    rows = rows_of(report, "kv.Attend.time_step")
    ends = {}
    looks: dict[str, Any] = {"dense, torch": "-", "tau, 1 %": "-", "tau, 5 %": (0, (6, 2)), "keep, 5 %": (0, (2, 2))}
    for name in dict.fromkeys(row["how"] for row in rows):
        own = [row for row in rows if row["how"] == name]
        colour = COLOURS["numpy"] if name.startswith("dense") else OURS
        places, times = [row["keys"] for row in own], [1e3 * row["value"] for row in own]
        axes.plot(places, times, marker="o", linestyle=looks.get(name, (0, (1, 2))), color=colour)
        ends[name] = places[-1], times[-1], colour
    logarithmic(axes.xaxis, at=sorted({row["keys"] for row in rows}))
    logarithmic(axes.yaxis)
    axes.set_xlabel("keys")
    axes.set_ylabel("ms per decode step")
    return titled(
        figure, "Time of a decode step on a CPU: 4 query heads over one KV head, d = 128", report, {axes: ends}
    )


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
    "gpu-roofline": ("gpu-roofline", "rows", gpu_roofline),
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
        report = reports.get(source, {})
        if report.get(needed) or rows_of(report, needed):
            figure = draw(report)
            path = options.docs / "images" / f"benchmarks-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            plt.close(figure)
    for document in ("benchmarks.md", "paper.md"):
        path = options.docs / document
        path.write_text(updated(path.read_text(), reports))


if __name__ == "__main__":
    main()
