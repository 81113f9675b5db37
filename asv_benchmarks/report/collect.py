"""Keep what asv measured for the documents: one small file, without names of machines and folders.

    python -m asv_benchmarks.report.collect "2 cores of an Intel Xeon, 24 GB" asv_benchmarks/results/cpu.json

reads the latest results under .asv/results, adds the versions of all packages in this environment that matter, and
writes numbers to four digits. Results of an earlier run of the same commit stay, as asv keeps them.
"""

import argparse
import ast
import datetime
import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".asv" / "results"
PACKAGES = (
    "halfspace-search",
    "numpy",
    "numba",
    "faiss-cpu",
    "usearch",
    "scikit-learn",
    "torch",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "asv",
)
STATISTICS = ("result", "stats_q_25", "stats_q_75")


def latest(folder: Path) -> dict[str, Any]:
    """Read the results that were written last."""
    files = [path for path in folder.glob("*/*.json") if path.name != "machine.json"]
    if not files:
        raise FileNotFoundError(f"{folder}: no results; run asv with --set-commit-hash")
    found: dict[str, Any] = json.loads(max(files, key=lambda path: path.stat().st_mtime).read_text())
    return found


def digits(value: Any) -> Any:
    """Round numbers, in lists too, to four digits; what is not a number is None."""
    if isinstance(value, list):
        return [digits(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def benchmarks(results: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Name parameters and figures of each benchmark that has any."""
    found = {}
    for name, row in results["results"].items():
        columns = dict(zip(results["result_columns"], row, strict=False))
        if columns["result"] is None or name not in known:
            continue
        found[name] = {
            "unit": known[name]["unit"],
            "param_names": known[name]["param_names"],
            "params": [[ast.literal_eval(value) for value in values] for values in columns["params"]],
        } | {statistic: digits(columns[statistic]) for statistic in STATISTICS if columns.get(statistic) is not None}
    return found


def written(content: dict[str, Any]) -> str:
    """Write JSON with a line for each benchmark, so that changes can be read."""
    head = {name: value for name, value in content.items() if name != "benchmarks"}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(content["benchmarks"].items()))
    return json.dumps(head, indent=1)[:-2] + f',\n "benchmarks": {{\n{rows}\n }}\n}}\n'


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", help="what measured, in words")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    results = latest(FOLDER)
    content = {
        "machine": options.machine,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": results["commit_hash"][:8],
        "python": platform.python_version(),
        "versions": versions(),
        "benchmarks": benchmarks(results, json.loads((FOLDER / "benchmarks.json").read_text())),
    }
    options.file.parent.mkdir(exist_ok=True)
    options.file.write_text(written(content))


if __name__ == "__main__":
    main()
