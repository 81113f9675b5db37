"""Draw and tabulate what `experiments/attention_quality.py` reported.

python -m asv_benchmarks.report.attention asv_benchmarks/results/attention-quality.json docs/images
python -m asv_benchmarks.report.attention asv_benchmarks/results/attention-quality.json --markdown
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from asv_benchmarks.report.style import COLOURS as ENGINES
from asv_benchmarks.report.style import GREY, OURS, STYLE, logarithmic, number, power, titled

COLOURS = {
    "halfspace, tau": OURS,
    "halfspace, eps": OURS,
    "halfspace, keep (budget)": OURS,
    "halfspace, keep (max)": OURS,
    "halfspace, keep (gap)": OURS,
    "HNSW": "#4263eb",
    "Quest": "#0ca678",
    "StreamingLLM": "#d6336c",
    "H2O": "#a0763a",
}
MARKS = {
    "halfspace, eps": "s:",
    "halfspace, keep (budget)": "D--",
    "halfspace, keep (max)": "^--",
    "halfspace, keep (gap)": "v--",
}
Report = dict[str, Any]
RATIOS = ("kept / smallest, mean", "worst", "simple / smallest, mean")
SHARES = (0.5, 1, 2, 5, 10, 20)
WINDOW = {"machine": "a language model of 23 million parameters, 8,192 tokens of context"}
ASKED = ("method", "eps", "keep", "share", "rank", "where", "layer")
"""What tells rows of one window apart."""


def rows_of(report: Report, *parts: str) -> list[dict[str, Any]]:
    """Rows of some parts, of all windows, one after the other."""
    return [row for part in parts for key in report if key.split()[0] == part for row in report[key]["rows"]]


def windows(report: Report) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the windows in which losses were measured, and their rows."""
    rows = rows_of(report, "baselines", "graph", "oracle", "certified", "estimates")
    for start in sorted({row["start"] for row in rows}):
        yield start, [row for row in rows if row["start"] == start]


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the mean over windows of what was asked alike."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in ASKED), []).append(row)
    found = []
    for group in groups.values():
        row = dict(group[0])
        for name in set(row) - set(ASKED):
            row[name] = mean([own[name] for own in group])
        if "standard error" in row:
            row["standard error"] = sum(own["standard error"] ** 2 for own in group) ** 0.5 / len(group)
        found.append(row)
    return found


def mean(values: list[Any]) -> Any:
    """Mean of numbers, of lists of numbers, or of numbers by name."""
    if isinstance(values[0], dict):
        return {name: mean([value[name] for value in values]) for name in values[0]}
    if isinstance(values[0], list):
        return [mean(list(column)) for column in zip(*values, strict=True)]
    return sum(values) / len(values)


def losses(report: Report) -> Figure:
    """Loss above dense attention's, and divergence from it, against the share of the keys that was kept."""
    figure, panels = plt.subplots(2, 1, figsize=(8.4, 6.6), sharex=True, layout="constrained")
    _, rows = next(windows(report))
    for axes, figure_of in zip(panels, ("more", "divergence"), strict=True):
        for name, colour in COLOURS.items():
            own = [row for row in rows if row["method"] == name]
            by_eps = name == "halfspace, eps"
            axes.plot(
                [100 * row["kept"] for row in own],
                [row[figure_of] for row in own],
                MARKS.get(name, "o-"),
                color=colour,
                label=name + (" = 0.1 ... 0.0001" if by_eps else ""),
            )
        logarithmic(axes.xaxis, at=(*SHARES, 50))
    panels[0].set_yscale("symlog", linthresh=0.01, linscale=0.5)
    panels[0].set_ylabel("loss above dense, nats per token")
    panels[0].yaxis.set_major_formatter(number)
    logarithmic(panels[1].yaxis, power)
    panels[1].set_ylabel("KL to dense, nats per token")
    panels[1].set_xlabel("keys kept, % (mean over layers, heads and steps)")
    panels[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return titled(figure, "What attention over a part of the keys costs", WINDOW)


def missed(report: Report) -> Figure:
    """Divergence of the next token against the rank of the key that was hidden."""
    figure, axes = plt.subplots(figsize=(8.4, 3.8), layout="constrained")
    rows = merged(rows_of(report, "missed"))
    ranks = list(dict.fromkeys(str(row["rank"]) for row in rows))
    for where, colour in (("all heads", "#d6336c"), ("one layer", "#b8860b"), ("one head", "#1c7ed6")):
        means = []
        for rank in ranks:
            own = [row["divergence"] for row in rows if str(row["rank"]) == rank and row["where"] == where]
            means.append(sum(own) / len(own))
        label = {
            "all heads": "in all heads of all layers",
            "one layer": "in all heads of one layer",
            "one head": "in one head",
        }
        axes.plot(ranks, means, "o-", color=colour, label=label[where])
    logarithmic(axes.yaxis, power)
    axes.set_xlabel("rank of the hidden key by its softmax weight")
    axes.set_ylabel("KL to dense, nats, mean")
    axes.legend(fontsize=8)
    return titled(figure, "What one missed key changes", WINDOW)


def half_sets(report: Report) -> Figure:
    """Size of the set that holds half of the mass, at 256 steps, in the first head of each layer."""
    rows = rows_of(report, "sets")
    rows = [row for row in rows if row["start"] == rows[0]["start"]]
    figure, panels = plt.subplots(
        -(-len(rows) // 3),
        3,
        figsize=(8.4, 2 * -(-len(rows) // 3)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, axes in zip(rows, panels.flat, strict=False):
        axes.plot(row["sizes of the first head"][:256], color="#1c7ed6", linewidth=0.6)
        logarithmic(axes.yaxis)
        axes.set_title(f"layer {row['layer']}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("keys")
    return titled(figure, "Keys that hold half of the softmax, step by step, first head of each layer", WINDOW)


def certificates(report: Report) -> Figure:
    """Shares of keys that are kept at eps = 0.01, by layer."""
    rows = [row for row in rows_of(report, "certificate") if row["eps"] == 0.01 and row["dtype"] == "float32"]
    layers = sorted({row["layer"] for row in rows})
    figure, axes = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    kinds = (
        ("smallest set", ENGINES["numpy"], "smallest set that holds 99 %"),
        ("kept", OURS, "kept by halfspace, certified"),
        ("simple bound", "#b8860b", "simple bound, m + ln(eps / n)"),
    )
    for place, (name, colour, label) in enumerate(kinds):
        means = [[row[name] for row in rows if row["layer"] == layer] for layer in layers]
        axes.bar(
            [layer + 0.27 * (place - 1) for layer in range(len(layers))],
            [100 * sum(own) / len(own) for own in means],
            0.25,
            color=colour,
            label=label,
        )
    axes.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    axes.set_ylabel("keys, %")
    axes.legend(fontsize=8)
    return titled(figure, "Keys that are kept when at most 1 % of each softmax may be dropped", WINDOW)


def spread(report: Report) -> Figure:
    """Coefficient of variation of the kept share, over heads and steps."""
    figure, axes = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    rows = merged(rows_of(report, "estimates"))
    for name in COLOURS:
        own = [row for row in rows if row["method"] == name and "keep" in name]
        if own:
            shares = [100 * row["share"] for row in own]
            for kind, line in (("over all", "-"), ("over steps, mean of heads", ":")):
                values = [100 * row["variation"][kind] for row in own]
                label = f"{name.partition('(')[2][:-1]}, {kind.partition(',')[0]}"
                axes.plot(shares, values, MARKS[name][0] + line, color=COLOURS[name], label=label)
    axes.axhline(25, color=GREY, linewidth=1, linestyle="--")
    logarithmic(axes.xaxis, at=SHARES)
    axes.set_ylim(0)
    axes.set_xlabel("share asked for, %")
    axes.set_ylabel("coefficient of variation, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.annotate("the paper: up to 25 %", (SHARES[-2], 25), (0, 4), textcoords="offset points", fontsize=8)
    return titled(figure, "How far the kept share varies when it is estimated from a sample", WINDOW)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(title: str, columns: Sequence[Any], lines: Iterable[Sequence[Any]]) -> str:
    """Make a table of Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join([f"### {title}", "", *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""])


def by_share(title: str, rows: list[dict[str, Any]], figure: Callable[[dict[str, Any]], str]) -> str:
    """Tabulate one figure of the methods that have a budget."""
    rows = [row for row in rows if "share" in row]
    shares = sorted({row["share"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = {row["share"]: row for row in rows if row["method"] == name}
        lines.append([name, *(figure(own[share]) if share in own else "" for share in shares)])
    return table(title, ["share", *(percent(share) for share in shares)], lines)


def variation(row: dict[str, Any]) -> str:
    """Write the variation of a kept share: over heads and steps, and over the steps of a head."""
    kinds = "over all", "over steps, mean of heads"
    return " / ".join(f"{100 * row['variation'][kind]:.0f} %" for kind in kinds)


def percent(share: float, digits: int = 3) -> str:
    """Write a share."""
    return f"{100 * share:.{digits}g} %"


def tables(report: Report) -> Iterator[str]:
    """Yield all tables that the report has the numbers for."""
    for part, content in report.items():
        run = content["run"]
        versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        yield f"{part}: {run['date']}, {run['hardware']}, Python {run['python']}, {versions}, `{run['command']}`\n"
    for start, rows in windows(report):
        yield by_share(f"Loss above dense, window {start}", rows, lambda row: f"{row['more']:+.4f}")
        yield by_share(f"Standard error of it, window {start}", rows, lambda row: f"{row['standard error']:.4f}")
        yield by_share(f"KL to dense, window {start}", rows, lambda row: f"{row['divergence']:.5f}")
        yield by_share(f"Top changed, window {start}", rows, lambda row: percent(row["top changed"]))
        yield by_share(f"Keys kept, window {start}", rows, lambda row: percent(row["kept"]))
        found = [row for row in rows if "recall" in row]
        yield by_share(f"Real top-k found, window {start}", found, lambda row: percent(row["recall"]))
    estimates = merged(rows_of(report, "estimates"))
    yield by_share("Variation of the kept share, over heads and steps / over the steps of a head", estimates, variation)
    certified = [row for row in rows_of(report, "baselines", "certified", "generate") if "share" not in row]
    columns = ["window", "method", "loss", "above dense", "standard error", "KL to dense", "top changed", "kept"]
    lines: Iterable[list[Any]] = (
        [
            row["start"],
            row["method"].removesuffix(", eps")
            + "".join(f", {name} = {row[name]:g}" for name in ASKED[1:3] if name in row),
            f"{row['loss']:.4f}",
            f"{row['more']:+.6f}",
            f"{row['standard error']:.6f}",
            f"{row['divergence']:.2e}",
            percent(row["top changed"]),
            percent(row["kept"]) if "kept" in row else "",
            ", ".join(f"{100 * share:.1f}" for share in row.get("kept by layer", [])),
            variation(row) if "eps" in row and "variation" in row else "",
        ]
        for row in sorted(certified, key=lambda row: row["start"])
    )
    yield table("Certified", [*columns, "by layer", "variation"], lines)
    if rows_of(report, "missed"):
        yield missed_table(merged(rows_of(report, "missed")))
    if rows_of(report, "sets"):
        names = [name for name in rows_of(report, "sets")[0] if isinstance(rows_of(report, "sets")[0][name], float)]
        lines = (
            [
                row["start"],
                row["layer"],
                *(f"{size:.0f}" for size in row["quantiles 5 25 50 75 95"]),
                *(f"{row[name]:.3g}" for name in names),
            ]
            for row in rows_of(report, "sets")
        )
        yield table("Half of the mass", ["start", "layer", "5 %", "25 %", "median", "75 %", "95 %", *names], lines)
    if rows_of(report, "certificate"):
        yield from certificate_tables(rows_of(report, "certificate"))


def missed_table(rows: list[dict[str, Any]]) -> str:
    """Tabulate what hiding a key of each rank does: mean over layers where it is hidden in one."""
    columns = ["rank"]
    lines: dict[str, list[Any]] = {str(row["rank"]): [row["rank"]] for row in rows}
    for where in dict.fromkeys(row["where"] for row in rows):
        columns += [f"{where}: KL", "top changed", "loss"]
        for rank, line in lines.items():
            own = [row for row in rows if str(row["rank"]) == rank and row["where"] == where]
            kl, top, more = (sum(row[k] for row in own) / len(own) for k in ("divergence", "top changed", "more"))
            line += [f"{kl:.2e}", percent(top), f"{more:+.4f}"]
    return table("One key missed", columns, lines.values())


def certificate_tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Tabulate what was dropped and kept: by eps, and by layer."""
    lines, layers = [], []
    for dtype, eps in dict.fromkeys((row["dtype"], row["eps"]) for row in rows):
        own = [row for row in rows if (row["dtype"], row["eps"]) == (dtype, eps)]
        sizes: dict[int, dict[str, float]] = {}
        for layer in sorted({row["layer"] for row in own}):
            of_layer = [row for row in own if row["layer"] == layer]
            sizes[layer] = {
                name: sum(row[name] for row in of_layer) / len(of_layer)
                for name in ("smallest set", "kept", "simple bound", "kept / smallest, mean", "simple / smallest, mean")
            }
            sizes[layer]["worst"] = max(row["kept / smallest, worst"] for row in of_layer)
            layers.append(
                [
                    dtype,
                    f"{eps:g}",
                    layer,
                    *(percent(sizes[layer][name]) for name in ("smallest set", "kept", "simple bound")),
                    f"{sizes[layer]['kept'] / sizes[layer]['smallest set']:.2f}",
                    *(f"{sizes[layer][name]:.2f}" for name in RATIOS),
                ]
            )
        ratios = [size["kept / smallest, mean"] for size in sizes.values()]
        lines.append(
            [
                dtype,
                f"{eps:g}",
                f"{sum(row['pairs'] for row in own):,}",
                f"{max(row['dropped, largest'] for row in own) / eps:.4f}",
                sum(row["pairs above eps"] for row in own),
                sum(row["pairs above their bound"] for row in own),
                f"{max(row['output error over max|v|, largest'] for row in own) / (2 * eps):.3f}",
                sum(row["counts that differ from float64"] for row in own),
                f"{sum(ratios) / len(ratios):.2f}",
                f"{max(ratios):.2f}",
            ]
        )
    promises = ["dtype", "eps", "pairs", "largest dropped / eps", "pairs above eps", "above their own bound"]
    promises += ["largest output error / (2 eps max abs v)", "counts unlike float64's", "kept / smallest, mean"]
    yield table("Certificate", [*promises, "worst layer"], lines)
    columns = ["dtype", "eps", "layer", "smallest set", "kept", "simple bound", "kept / smallest, of means"]
    yield table(
        "Certificate by layer", [*columns, "mean of ratios", "worst pair", "simple / smallest, mean of ratios"], layers
    )


PICTURES: dict[str, tuple[str, Callable[[Report], Figure]]] = {
    "attention-loss": ("certified", losses),
    "attention-missed": ("missed", missed),
    "attention-half": ("sets", half_sets),
    "attention-certificate": ("certificate", certificates),
    "attention-spread": ("estimates", spread),
}
"""Pictures by name, and the part of the report without which they are not drawn."""


def main() -> None:
    """Draw all pictures that the report has the numbers for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", help="where pictures go")
    parser.add_argument("--markdown", action="store_true", help="print the tables")
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    if options.markdown:
        print("\n".join(tables(report)))
    if options.folder is None:
        return
    options.folder.mkdir(exist_ok=True)
    matplotlib.rcParams.update(STYLE)
    for name, (part, draw) in PICTURES.items():
        if rows_of(report, part):
            figure = draw(report)
            figure.savefig(options.folder / f"{name}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
