"""Tables of what the benchmarks measured, as lines of Markdown, and the places in the documents where they go."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Report = dict[str, Any]


def rows_of(report: Report, name: str) -> list[Row]:
    """Measured combinations of a benchmark: its parameters by name, `value`, and quartiles where it has them.

    Without a name: the times per query of comparisons that `halfspace bench` wrote.
    """
    if not name:
        return [compared(whole, row) for whole in report.get("comparisons", ()) for row in whole["rows"]]
    found = report.get("benchmarks", {}).get(name)
    if found is None:
        return []
    rows = []
    for place, (own, value) in enumerate(zip(itertools.product(*found["params"]), found["result"], strict=True)):
        if value is None:
            continue
        row = dict(zip(found["param_names"], own, strict=True)) | {"value": value}
        for key, column in (("low", "stats_q_25"), ("high", "stats_q_75")):
            if column in found:
                row[key] = found[column][place]
        rows.append(row)
    return rows


def compared(whole: Row, row: Row) -> Row:
    """Read a row of a comparison: `share` of hits, `directions` at once, `value` and quartiles in seconds per query."""
    return {
        "engine": row["label"],
        "share": float(f"{whole['hits'] / (whole['vectors'] * whole['directions']):.3g}"),
        "directions": whole["batch"],
        "value": row["median"],
        "low": row["low"],
        "high": row["high"],
    }


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Make a table of Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def grid(rows: Iterable[Row], down: Sequence[str], across: str, show: Callable[[Any], str]) -> str:
    """Tabulate values: some parameters down, one across."""
    rows = list(rows)
    heads = sorted({row[across] for row in rows}, key=lambda head: (isinstance(head, str), head))
    lines: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in down), {})[row[across]] = show(row["value"])
    return table(
        [*down, *(f"{across} = {named(across, head)}" for head in heads)],
        [
            [*(named(name, key) for name, key in zip(down, keys, strict=True)), *(own.get(head, "") for head in heads)]
            for keys, own in lines.items()
        ],
    )


def named(name: str, value: Any) -> str:
    """Write a parameter."""
    if name == "share":
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def digits(value: float) -> str:
    """Write three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.3g} %"


def microseconds(value: float) -> str:
    """Write seconds as microseconds."""
    return digits(1e6 * value)


def milliseconds(value: float) -> str:
    """Write seconds as milliseconds."""
    return digits(1e3 * value)


def run(report: Report) -> str:
    """Say when, on what and with what it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    place = "".join(f"{report[name]}, " for name in ("machine",) if name in report)
    commit = f", commit `{report['commit']}`" if "commit" in report else ""
    python = f"Python {report['python']}, " if "python" in report else ""
    return f"{report['date']}{commit}: {place}{python}{versions}."


def batches(report: Report) -> str:
    """Tabulate the time per query of batches."""
    rows = rows_of(report, "batch.Batch.time_batch")
    return grid(
        [row | {"value": row["value"] / row["directions"]} for row in rows], ["engine"], "directions", milliseconds
    )


def building(report: Report) -> str:
    """Tabulate what an index costs before it is asked."""
    parts = {
        "s": ("build.Build.time_build", digits),
        "peak of the process, MB": ("build.Build.peakmem_build", lambda value: digits(value / 1e6)),
        "bytes / bytes of the vectors": ("build.Build.track_bytes", digits),
    }
    lines: dict[str, dict[str, str]] = {}
    for column, (name, show) in parts.items():
        for row in rows_of(report, name):
            lines.setdefault(row["engine"], {})[column] = show(row["value"])
    return table(
        ["engine", *parts], [[name, *(own.get(column, "") for column in parts)] for name, own in lines.items()]
    )


def curves(report: Report) -> str:
    """Tabulate settings of the approximate engines."""
    parts = {
        "recall": ("track_recall", lambda value: f"{value:.4f}"),
        "false positives": ("track_false_positives", digits),
        "ms per query": ("track_milliseconds", digits),
        "time / halfspace": ("track_ratio", digits),
    }
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for column, (name, show) in parts.items():
        for row in rows_of(report, f"recall.Curve.{name}"):
            lines.setdefault((row["data"], row["engine"]), {})[column] = show(row["value"])
    return table(
        ["data", "engine", *parts],
        [[*keys, *(own.get(column, "") for column in parts)] for keys, own in lines.items()],
    )


def wrongs(report: Report) -> str:
    """Tabulate how many answers are wrong, and how many a batch answers otherwise."""
    parts = {
        "answers": ("track_answers", digits),
        "wrong, one by one": ("track_wrong_one_by_one", percent),
        "wrong, in a batch": ("track_wrong_in_batch", percent),
        "batch differs": ("track_differ", percent),
    }
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for column, (name, show) in parts.items():
        for row in rows_of(report, f"wrong.Wrong.{name}"):
            lines.setdefault((row["data"], row["thresholds"], row["engine"]), {})[column] = show(row["value"])
    return table(
        ["data", "threshold", "engine", *parts],
        [[*keys, *(own[column] for column in parts)] for keys, own in sorted(lines.items())],
    )


def small(report: Report) -> str:
    """Tabulate the fixed cost of a call, in microseconds."""
    rows = rows_of(report, "living.Small.time_query")
    return grid(rows, ["n", "engine"], "d", lambda value: digits(1e6 * value))


def growth(report: Report) -> str:
    """Tabulate queries in few dimensions, in microseconds."""
    rows = [row | {"what": "1,000 hits with scores"} for row in rows_of(report, "living.Growth.time_query")]
    rows += [row | {"what": "count of a tenth"} for row in rows_of(report, "living.Growth.time_count")]
    return grid(rows, ["d", "what"], "n", lambda value: digits(1e6 * value))


REST = (
    ("10,000 vectors, d = 32, inserted one by one, s", "living.Insert.time_insert", {"how": "one by one"}),
    ("the same at once, s", "living.Insert.time_insert", {"how": "at once"}),
    (
        "a query (1 % hits) after 250,000 inserts one by one; fresh = 1",
        "living.AfterInserts.track_ratio",
        {"share": 1e-2},
    ),
    ("ties, all on the threshold, integers; without = 1", "living.Ties.track_ratio", {"ties": "integers"}),
    ("ties, one-hot vectors", "living.Ties.track_ratio", {"ties": "one-hot"}),
    ("ties, one Gaussian vector 50,000 times", "living.Ties.track_ratio", {"ties": "one vector, many times"}),
    ("save 500,000 vectors, d = 384, s", "living.File.time_save", {}),
    ("load them, checksums verified, s", "living.File.time_load", {}),
    ("map them, s", "living.File.time_map", {}),
    ("bytes of the file over those of the float32 vectors", "living.File.track_bytes_per_vector_byte", {}),
    ("`import halfspace`, s", "living.Process.timeraw_import", {}),
    ("import, insert and first query of a process, s", "living.Process.timeraw_first_query", {}),
)


def rest(report: Report) -> str:
    """Tabulate what has one figure each."""
    lines = []
    for label, name, chosen in REST:
        for row in rows_of(report, name):
            if all(row[key] == value for key, value in chosen.items()):
                lines.append([label, digits(row["value"])])
    return table(["", "measured"], lines)


def paper_recall(report: Report) -> str:
    """Tabulate recall of the best k keys."""
    lines = [
        [name, index, *(f"{100 * share:.1f} %" for share in shares)]
        for name, own in report["sets"].items()
        for index, shares in own["recall"].items()
    ]
    return table(["keys", "index", *(f"k = {k}" for k in report["ranks"])], lines)


def paper_scanned(report: Report) -> str:
    """Tabulate keys left, and bytes."""
    lines: dict[tuple[str, str], dict[float, str]] = {}
    for name, own in report["sets"].items():
        for row in own["scanned"]:
            way = f"balls, S = {row['subspaces']}, groups of {row['group_size']}" if "subspaces" in row else "codes"
            lines.setdefault((name, way), {})[row["share"]] = f"{percent(row['left'])} ({percent(row['bytes'])})"
    shares = list(next(iter(lines.values())))
    columns = ["keys", "bounds", *(f"hits {percent(share)}" for share in shares)]
    return table(columns, [[*keys, *(own[share] for share in shares)] for keys, own in lines.items()])


def of(name: str, down: Sequence[str], across: str, show: Callable[[Any], str]) -> Callable[[Report], str]:
    """Tabulate one benchmark."""
    return lambda report: grid(rows_of(report, name), down, across, show)


TABLES: dict[str, tuple[str, str, Callable[[Report], str]]] = {
    "run": ("cpu", "", run),
    "share": ("cpu", "share.Query.time_query", of("share.Query.time_query", ["engine"], "share", milliseconds)),
    "ratios": ("cpu", "share.Turns.track_ratio", of("share.Turns.track_ratio", ["data", "engine"], "share", digits)),
    "size": ("cpu", "size.Query.time_query", of("size.Query.time_query", ["engine"], "n", milliseconds)),
    "low": ("cpu", "dimension.Low.time_query", of("dimension.Low.time_query", ["engine"], "d", milliseconds)),
    "high": ("cpu", "dimension.High.time_query", of("dimension.High.time_query", ["engine"], "d", milliseconds)),
    "recall": ("cpu", "recall.Curve.track_recall", curves),
    "batch": ("cpu", "batch.Batch.time_batch", batches),
    "memory": (
        "cpu",
        "batch.Memory.peakmem_batch",
        of("batch.Memory.peakmem_batch", ["engine"], "directions", lambda value: digits(value / 1e6)),
    ),
    "build": ("cpu", "build.Build.time_build", building),
    "wrong": ("cpu", "wrong.Wrong.track_answers", wrongs),
    "survivors": (
        "cpu",
        "work.Count.track_survivors",
        of("work.Count.track_survivors", ["data", "filter"], "share", percent),
    ),
    "bytes": (
        "cpu",
        "work.Count.track_bytes_read",
        of("work.Count.track_bytes_read", ["data", "filter"], "share", percent),
    ),
    "small": ("cpu", "living.Small.time_query", small),
    "growth": ("cpu", "living.Growth.time_query", growth),
    "rest": ("cpu", "living.Insert.time_insert", rest),
    "attention": ("cpu", "kv.Attend.time_step", of("kv.Attend.time_step", ["how"], "keys", milliseconds)),
    "gpu-run": ("gpu", "", run),
    "gpu": ("gpu", "", lambda report: grid(rows_of(report, ""), ["directions", "engine"], "share", microseconds)),
    "paper-run": ("paper", "", run),
    "paper-recall": ("paper", "", paper_recall),
    "paper-scanned": ("paper", "", paper_scanned),
}
"""Tables by name: the report, the benchmark without which it stays as it is, and what writes it."""


def updated(text: str, reports: dict[str, Report]) -> str:
    """Replace what stands between the markers of each table that the reports have the numbers for."""

    def replaced(match: re.Match[str]) -> str:
        source, needed, write = TABLES[match[1]]
        if source not in reports or (needed and not rows_of(reports[source], needed)):
            return match[0]
        return f"<!-- table: {match[1]} -->\n\n{write(reports[source])}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->.*?<!-- end -->", replaced, text, flags=re.DOTALL)
