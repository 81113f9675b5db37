"""All pairs of millions of vectors on a GPU, at a cosine of at least 0.9.

    python -m asv_benchmarks.experiments.gpu_joins

Clustered unit vectors, a tenth of which are near duplicates of others: the copies are made by adding noise. Seconds of
whole calls, building apart; memory of the device beyond the index; and how many pairs some vectors have by float64
products, which is compared.
"""

import argparse
import time

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.gpu import clustered
from halfspace import HalfspaceIndex

TAU = 0.9
SIZES = ((1_800_000, 256), (5_000_000, 384))
NOISE = 0.3
"""Length of the noise of a copy: its cosine with the original is about 0.96."""
CHECKED = 64


def vectors_with_copies(rows, dim):
    """Clustered unit vectors; the last tenth are copies of the first, with noise."""
    vectors = clustered(rows, dim, 1)
    copies = rows // 10
    rng = cp.random.RandomState(2)
    for first in range(0, copies, 1 << 18):
        last = min(copies, first + (1 << 18))
        part = vectors[first:last] + np.float32(NOISE / dim**0.5) * rng.standard_normal(
            (last - first, dim), dtype=np.float32
        )
        vectors[rows - copies + first : rows - copies + last] = part / cp.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def timed(work):
    """Call, wait, and return seconds and the answer."""
    cp.cuda.Device().synchronize()
    begun = time.perf_counter()
    answer = work()
    cp.cuda.Device().synchronize()
    return time.perf_counter() - begun, answer


def agrees(vectors, pairs, rng):
    """Whether some vectors have as many pairs as float64 products say."""
    rows = len(vectors)
    for row in rng.integers(0, rows // 10, CHECKED).tolist():
        own = vectors[row].astype(np.float64)
        scores = cp.concatenate(
            [
                part @ own / cp.linalg.norm(part, axis=1)
                for part in (vectors[k : k + (1 << 19)].astype(np.float64) for k in range(0, rows, 1 << 19))
            ]
        )
        scores /= cp.linalg.norm(own)
        expected = int((scores >= TAU).sum()) - 1
        if int(((pairs.ids_a == row) | (pairs.ids_b == row)).sum()) != expected:
            return False
    return True


def all_pairs(rows, dim):
    """Print a row of the table."""
    pool = cp.get_default_memory_pool()
    vectors = vectors_with_copies(rows, dim)
    index = HalfspaceIndex(dim, device="gpu", metric="cosine", filter="cells")
    built, _ = timed(lambda: index.insert(vectors))
    index.query(vectors[:200], TAU)  # kernels are compiled, or loaded
    HalfspaceIndex(dim, device="gpu", metric="cosine").join(vectors[:2], TAU)
    pool.free_all_blocks()
    held = pool.total_bytes()
    seconds, pairs = timed(lambda: index.pairs(TAU))
    again, _ = timed(lambda: index.pairs(TAU))
    beyond = pool.total_bytes() - held
    counted, grid = timed(lambda: index.histogram([TAU]))
    grouped, groups = timed(lambda: index.groups(TAU))
    right = "agrees" if agrees(vectors, pairs, np.random.default_rng(0)) else "DIFFERS"
    print(
        f"| {rows:,} x {dim} | {len(pairs):,} | {built:.2f} s | {seconds:.2f} s, {again:.2f} s | "
        f"{beyond / 2**20:,.0f} MiB | {counted:.2f} s | {grouped:.2f} s | "
        f"{rows * rows * dim / again / 1e12:,.0f} TOP/s | {right} |",
        flush=True,
    )
    assert grid.tolist() == [len(pairs)]
    assert len(groups) == rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="at most so many of each size")
    how = parser.parse_args()
    print("| vectors | pairs | building | `pairs` | memory | `histogram` | `groups` | products | float64 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rows, dim in SIZES:
        all_pairs(min(rows, how.rows or rows), dim)


if __name__ == "__main__":
    main()
