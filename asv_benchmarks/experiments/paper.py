"""The experiments of the paper that this library starts from, on real attention keys.

    python -m asv_benchmarks.experiments.paper asv_benchmarks/results/paper.json [--keys keys32k.npz ...]

measures the keys in the package, and those of each file given: an .npz with float16 `<layer>_keys` (n, d) and
`<layer>_queries` (heads, steps, d).

*Recall*: what share of the k keys with the best scores approximate indexes return when asked for k, as FAISS builds
them and with a thorough setting; and what share our index returns, asked with a threshold midway between the scores of
rank k and k + 1. *Scanned*: what share of the keys is left to be looked at, by the number of subspaces and the size of
groups of the method of balls, and by the codes that are the library's default. All figures are counts, not times.
"""

import argparse
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asv_benchmarks.benchmarks.work import built, counted
from asv_benchmarks.report.collect import versions
from halfspace import HalfspaceIndex
from halfspace.bench import midpoints, pinned
from halfspace.bench.threads import load_faiss
from halfspace.datasets import load_keys

faiss = load_faiss()

RANKS = (10, 20, 50, 100)
SHARES = (0.001, 0.01, 0.1)
SUBSPACES = (1, 4, 8, 16, 32)
GROUPS = (4, 16)
ASKED = 16
"""Directions of which survivors are counted."""


def sets(files: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield names, keys (n, d) and queries (m, d), float32."""
    data = load_keys()
    yield "package", data.keys.astype(np.float32), data.queries.reshape(-1, data.keys.shape[1]).astype(np.float32)
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            for layer in sorted(name.removesuffix("_keys") for name in arrays.files if name.endswith("_keys")):
                keys, queries = arrays[f"{layer}_keys"], arrays[f"{layer}_queries"]
                yield (
                    f"{Path(file).stem}, {layer}",
                    keys.astype(np.float32),
                    queries.reshape(-1, keys.shape[1]).astype(np.float32),
                )


def approximate(keys: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yield approximate indexes of inner products and how they are set; np: codes are not made to be hashes, too."""
    n, d = keys.shape
    lists = round(4 * n**0.5)
    for name, factory, setting, values in (
        ("HNSW", "HNSW32", "efSearch", (16, 128)),
        ("IVF", f"IVF{lists},Flat", "nprobe", (1, 16)),
        ("PQ, 16 bytes", "PQ16np", None, (None,)),
        ("PQ, 64 bytes", "PQ64np", None, (None,)),
    ):
        index = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(keys)
        index.add(keys)
        for value in values:
            if setting is not None:
                faiss.ParameterSpace().set_index_parameter(index, setting, value)
            yield name + (f", {setting} = {value}" if setting else ""), index
    for bits in (2 * d, 16 * d):
        index = faiss.IndexLSH(d, bits)
        index.train(keys)
        index.add(keys)
        yield f"LSH, {bits:,} bits", index


def recall(keys: np.ndarray, queries: np.ndarray) -> dict[str, list[float]]:
    """Mean share of the k best keys that each index returns, for each k, and ours."""
    scores = queries.astype(np.float64) @ keys.T.astype(np.float64)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : max(RANKS)]
    found = {}
    for name, index in approximate(keys):
        found[name] = []
        for k in RANKS:
            _, ids = index.search(queries, k)
            found[name].append(float(np.mean([np.isin(best[m, :k], ids[m]).mean() for m in range(len(queries))])))
    ours = HalfspaceIndex(keys.shape[1])
    ours.insert(keys)
    found["halfspace"] = []
    for k in RANKS:
        hits = ours.query(queries, midpoints(keys, queries, k / len(keys)))
        found["halfspace"].append(float(np.mean([np.isin(best[m, :k], own.ids).mean() for m, own in enumerate(hits)])))
    return found


def scanned(keys: np.ndarray, queries: np.ndarray, threads: int) -> list[dict[str, Any]]:
    """Mean shares of the keys that bounds leave, and of bytes read, for each way to bound and share of hits."""
    chosen = queries[np.linspace(0, len(queries) - 1, ASKED).astype(int)]
    taus = {share: midpoints(keys, chosen, share) for share in SHARES}
    ways: list[dict[str, Any]] = [
        {"filter": "balls", "subspaces": subspaces, "group_size": size} for size in GROUPS for subspaces in SUBSPACES
    ]
    rows = []
    for way in [*ways, {"filter": "cells"}]:
        index = built(keys, threads, **way)
        for share in SHARES:
            left, read, _ = counted(index, chosen, taus[share])
            rows.append(way | {"share": share, "left": left, "bytes": read})
    return rows


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--keys", nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "ranks": RANKS,
        "sets": {},
    }
    for name, keys, queries in sets(options.keys):
        n, d = keys.shape
        with pinned(options.threads):
            report["sets"][f"{name}, n = {n:,}, d = {d}"] = {
                "recall": recall(keys, queries),
                "scanned": scanned(keys, queries, options.threads),
            }
    options.report.parent.mkdir(exist_ok=True)
    options.report.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
