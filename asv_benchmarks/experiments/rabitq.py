"""How often the probabilistic bound of RaBitQ fails on these data, and what a search loses by it.

    python -m asv_benchmarks.experiments.rabitq

RaBitQ (Gao and Long, 2024) codes a vector in one bit a dimension after a random rotation, and bounds its inner product
with a confidence: the parameter eps0, 1.9 by default, says how many standard deviations. Here the direction is not
rounded, which is a favour to it. A vector is lost if it reaches the threshold and its upper bound does not. Vectors
that the upper bound does not rule out are left, and so are those that the codes of halfspace leave to be verified.
"""

import argparse

import numpy as np

from asv_benchmarks.report.tables import table
from halfspace import HalfspaceIndex
from halfspace.bench import clustered, exact_hits, midpoints
from halfspace.datasets import load_keys, load_pydocs

EPS0 = (1.9, 3.0, 4.0)
SHARES = (0.001, 0.01)
SEED = 0


def upper_bounds(vectors, directions, eps0, seed=SEED):
    """Bound <q, x> from above as RaBitQ does: (m, n) float64."""
    x, q = vectors.astype(np.float64), directions.astype(np.float64)
    d = x.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    centre = x.mean(axis=0)
    away = x - centre
    lengths = np.linalg.norm(away, axis=1)
    turned = away / lengths[:, None] @ rotation
    codes = np.where(turned > 0, 1.0, -1.0) / np.sqrt(d)
    own = (codes * turned).sum(axis=1)  # the cosine of a vector with its code
    sizes = np.linalg.norm(q, axis=1)[:, None]
    estimates = (q / sizes @ rotation) @ codes.T / own
    errors = np.sqrt((1 - own**2) / own**2) * eps0 / np.sqrt(d - 1)
    return q @ centre[:, None] + sizes * lengths * (estimates + errors)


def counted(vectors, directions, eps0):
    """Count failures of the bound; and for each share lost hits, all hits, answers that lack one, and what is left."""
    bounds = upper_bounds(vectors, directions, eps0)
    scores = directions.astype(np.float64) @ vectors.astype(np.float64).T
    failed = float((scores > bounds).mean())
    found = []
    for share in SHARES:
        tau = midpoints(vectors, directions, share)
        offsets, ids = exact_hits(vectors, directions, tau)
        rows = np.repeat(np.arange(len(directions)), np.diff(offsets))
        lost = bounds[rows, ids] < tau[rows]
        lacking = np.unique(rows[lost]).size
        index = HalfspaceIndex(vectors.shape[1], filter="cells", threads=1)
        index.insert(vectors)
        assert np.array_equal(index.query(directions, tau).ids, ids)
        verified = sum(index.explain(*asked).stage("verify").tested for asked in zip(directions, tau, strict=True))
        left = float((bounds >= tau[:, None]).mean()), verified / scores.size
        found.append((int(lost.sum()), len(ids), lacking, *left))
    return failed, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000, help="clustered unit vectors")
    options = parser.parse_args()
    docs, keys = load_pydocs(), load_keys()
    data = {
        "docstrings, d = 384": (docs.vectors, docs.query_vectors),
        "attention keys, d = 128": (keys.keys, keys.queries.reshape(-1, 128)[::4]),
        "clustered, d = 384": (clustered(options.vectors, 384, 1), clustered(64, 384, 2)),
    }
    lines = {share: [] for share in SHARES}
    for name, (vectors, directions) in data.items():
        vectors, directions = vectors.astype(np.float32), directions.astype(np.float32)
        for eps0 in EPS0:
            failed, found = counted(vectors, directions, eps0)
            for share, (lost, hits, lacking, left, ours) in zip(SHARES, found, strict=True):
                counts = [f"{lost:,} of {hits:,}", f"{lacking} of {len(directions)}"]
                shares = [f"{100 * part:.3g} %" for part in (failed, left, ours)]
                lines[share].append([name, f"{eps0:g}", shares[0], *counts, *shares[1:]])
    heads = ["eps0", "bounds that fail", "hits lost", "answers not whole", "left", "left by halfspace"]
    for share in SHARES:
        print(table([f"data, {100 * share:g} % of hits", *heads], lines[share]), end="\n\n")


if __name__ == "__main__":
    main()
