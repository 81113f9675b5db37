"""A fair comparison with other libraries: the same process, the same threads, alternating turns, exact ground truth.

``halfspace bench`` runs it.
It needs threadpoolctl, and the libraries that it compares with: the extra ``bench`` brings them.
Nothing else in the package imports it.

>>> from halfspace.bench import Row, build, build_curve, clustered, compare, exact_hits, midpoints
>>> vectors, directions = clustered(500, 16, seed=1), clustered(4, 16, seed=2)
>>> tau = midpoints(vectors, directions, share=0.02)
>>> truth = exact_hits(vectors, directions, tau)
>>> engines = [build("halfspace", vectors, threads=1), *build_curve("numpy", vectors, threads=1)]
>>> rows: list[Row] = compare(engines, directions, tau, truth, threads=1, rounds=1)
>>> [(row.name, row.recall, row.hits) for row in rows]
[('halfspace', 1.0, 40), ('numpy', 1.0, 40)]
"""

from halfspace.bench.contest import Row, Timing, alternate, compare, median_ratio
from halfspace.bench.engines import ENGINES, Engine, EngineSpec, build, build_curve
from halfspace.bench.generate import clustered, gaussian, heavy_tailed
from halfspace.bench.threads import pinned
from halfspace.bench.truth import exact_hits, midpoints, recall_and_false, wrong_answers
from halfspace.runtime.patience import wait_always

__all__ = [
    "ENGINES",
    "Engine",
    "EngineSpec",
    "Row",
    "Timing",
    "alternate",
    "build",
    "build_curve",
    "clustered",
    "compare",
    "exact_hits",
    "gaussian",
    "heavy_tailed",
    "median_ratio",
    "midpoints",
    "pinned",
    "recall_and_false",
    "wrong_answers",
]

wait_always()  # for a kernel that is compiled, instead of measuring what answers meanwhile
