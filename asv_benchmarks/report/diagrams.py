"""Draw what the documents explain: a halfspace and its balls, a block of codes, the cascade.

    python -m asv_benchmarks.report.diagrams docs/images

Nothing is measured here but the cascade, whose counts are those of one question to the package's data.
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from asv_benchmarks.report.style import GREY, OURS, STYLE
from halfspace import HalfspaceIndex
from halfspace.datasets import load_pydocs
from halfspace.model.layout import BLOCK

PALE = {"drop": "#868e96", "take": OURS, "look": "#1c7ed6"}
QUESTION = 7
TAU = 0.5


def halfspace() -> Figure:
    """Draw the plane <q, x> = tau, and balls on either side of it and across."""
    figure, axes = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
    axes.set(aspect="equal", xlim=(-1, 9), ylim=(-0.6, 4.6), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    normal, distance = np.array([0.96, 0.28]), 5.2
    along = np.array([-normal[1], normal[0]])
    ends = np.array([distance * normal + t * along for t in (-3.0, 4.5)])
    axes.fill([*ends[:, 0], 12, 12], [*ends[:, 1], 8, -4], color=OURS, alpha=0.1, linewidth=0)
    axes.plot(*ends.T, color=OURS, linewidth=2)
    axes.annotate("", 2.2 * normal, (0, 0), arrowprops={"arrowstyle": "->", "color": OURS, "linewidth": 2})
    axes.text(0.4, 0.6, "direction q", color=OURS)
    axes.text(4.55, 4.2, "⟨q, x⟩ = τ", color=OURS)
    rng = np.random.default_rng(4)
    for verdict, centre, radius, words in (
        ("drop", (2.5, 2.7), 0.85, "drop: no member can reach τ"),
        ("look", (5.05, 1.0), 0.8, "look: the plane cuts the ball"),
        ("take", (7.4, 2.4), 0.9, "take: all members reach τ"),
    ):
        axes.add_patch(Circle(centre, radius, facecolor=PALE[verdict], edgecolor=PALE[verdict], alpha=0.25))
        axes.add_patch(Circle(centre, radius, fill=False, edgecolor=PALE[verdict], linewidth=1.6))
        inside = rng.standard_normal((16, 2))
        inside *= (0.9 * radius * np.sqrt(rng.random(16)) / np.linalg.norm(inside, axis=1))[:, None]
        axes.plot(*(inside + centre).T, "o", color=PALE[verdict], markersize=3)
        axes.plot(*centre, "+", color=PALE[verdict], markersize=9)
        place = (
            {"x": 5.25, "ha": "right"} if verdict == "look" else {"x": centre[0], "ha": "center"}
        )  # beside the plane
        axes.text(y=centre[1] - radius - 0.28, s=words, fontsize=9, color=PALE[verdict], **place)
    return figure


def block() -> Figure:
    """Draw a block of codes: a vector is a column; the high halves lie together, and the low halves elsewhere."""
    figure, axes = plt.subplots(figsize=(8.4, 2.9), layout="constrained")
    axes.set(aspect="equal", xlim=(-2, 39), ylim=(-4.2, 9.8), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    codes = np.random.default_rng(2).integers(0, 16, (2, 8, BLOCK))
    for plane, (left, colour, words) in enumerate(
        ((0, OURS, "high halves: 4 bits, read first"), (22, "#1c7ed6", "low halves: 4 bits, read of what is left"))
    ):
        for row, column in np.ndindex(8, BLOCK):
            shade = 0.12 + 0.5 * codes[plane, row, column] / 15
            axes.add_patch(Rectangle((left + column, row), 1, 1, facecolor=colour, alpha=shade, linewidth=0))
        axes.add_patch(Rectangle((left, 0), BLOCK, 8, fill=False, edgecolor=colour, linewidth=1.2))
        axes.text(left, 8.5, words, color=colour, fontsize=9)
    for left in (0, 22):
        axes.add_patch(Rectangle((left + 5, 0), 1, 8, fill=False, edgecolor=GREY, linewidth=1.6))
    axes.annotate(
        "one vector", (5.5, 0), (5.5, -2.0), ha="center", fontsize=9, arrowprops={"arrowstyle": "-", "color": GREY}
    )
    axes.annotate(
        "the same", (27.5, 0), (27.5, -2.0), ha="center", fontsize=9, arrowprops={"arrowstyle": "-", "color": GREY}
    )
    axes.text(-0.6, 4, "dimensions", rotation=90, va="center", ha="right", fontsize=9)
    axes.text(
        0,
        -3.6,
        f"{BLOCK} vectors side by side: one instruction multiplies a dimension, or four, of all of them",
        fontsize=9,
    )
    return figure


def cascade() -> Figure:
    """Draw how many vectors each stage leaves for one question to the package's data, and what it reads."""
    docs = load_pydocs()
    index = HalfspaceIndex(docs.vectors.shape[1], filter="cells")
    index.insert(docs.vectors)
    index.compact()
    explained = index.explain(docs.query_vectors[QUESTION], TAU)
    whole, left = 4 * docs.vectors.size, explained.vectors
    bars = [("stored", left, 0)]
    for stage in explained.stages:
        left -= stage.dropped
        bars.append((stage.name, left, stage.bytes_read))
    bars = [bar for bar, before in zip(bars, [("", 0, 0), *bars], strict=False) if bar[1] != before[1]]
    assert bars[-1][1] == explained.hits
    figure, axes = plt.subplots(figsize=(8.4, 3.4), layout="constrained")
    places = range(len(bars))
    axes.barh(places, [count for _, count, _ in bars], color=[GREY, *[OURS] * (len(bars) - 1)], height=0.55)
    for place, (_, count, read) in enumerate(bars):
        note = f"{count:,}" + (f", by reading {100 * read / whole:.2g} % of the bytes" if read else "")
        axes.annotate(note, (count, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    names = {"high": "left by high codes", "low": "left by low codes", "axes": "left by axes", "verify": "hits"}
    axes.set_yticks(places, [names.get(name, name) for name, _, _ in bars])
    axes.set(xscale="log", xlim=(1, 1e5), xlabel="vectors")
    axes.grid(visible=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.invert_yaxis()
    asked = f'"{docs.query_texts[QUESTION]}", τ = {TAU}, among {explained.vectors:,} docstrings, d = 384'
    axes.set_title(f"What each step leaves: {asked}")
    return figure


def main() -> None:
    """Draw all of them into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="svg")
    options = parser.parse_args()
    matplotlib.rcParams.update(STYLE)
    for draw in (halfspace, block, cascade):
        path = options.folder / f"diagram-{draw.__name__}.{options.format}"
        draw().savefig(path, transparent=True, metadata={"Date": None} if options.format == "svg" else None)


if __name__ == "__main__":
    main()
