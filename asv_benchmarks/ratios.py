"""Time the index against NumPy's line and FAISS, in one process, with the same threads, in alternating runs.

    python asv_benchmarks/ratios.py [--threads 2] [--only NAME ...] [--quick] [--markdown]
                                    [--keys keys.npz] [--sentences sentences.npz] [--factors factors.npz]

Prints medians of ratios, so that a noisy machine is noisy for everyone; the smallest ratio of a row is that to the
fastest rival. The contenders take turns: a pause, in which the threads of the one before fall asleep, a warm-up, unless
the call is long, then all queries. Where f is given for single queries, tau is the float64 midpoint between the k-th
and the (k+1)-th real score, k = f n; directions are not stored vectors. NumPy gets float32 vectors and a float tau, and
returns no scores; FAISS, whose comparison is strict, gets the float32 just below the smallest that is at least tau.
Ours returns ids and scores, in order of ids. Panorama is the fastest in its row of FAISS's four: plain, or rotated to
principal axes, with 8 or 16 levels. FAISS is left out where it is not installed.

The floor of one query is the time to read from memory, at the speed measured here, what `explain` counts: caches that
hold the index can be faster. That of a batch of m x n pairs is a multiply-add of int8 for each number of each pair:
an index that rules out groups can need less.

`--keys` names an .npz with float16 `<layer>_keys` (n, d) and `<layer>_queries` (heads, steps, d); by default the
package's own keys. `--sentences` names what `sentences.py` writes, and `--factors` an .npz with float16 `items` (n, d)
and `users` (m, d); without them, the work over them is left out.
"""

import argparse
from pathlib import Path

import batches
import rest
import single
from contest import Contest
from rich.console import Console
from threadpoolctl import threadpool_limits

ROUNDS = 9


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = {
        "clustered": single.clustered_vectors,
        "sentences": lambda contest: single.sentences(contest, options.sentences),
        "keys": lambda contest: single.keys(contest, options.keys),
        "batch": lambda contest: batches.batch(contest, options.sentences),
        "factors": lambda contest: batches.factors(contest, options.factors),
        "small": single.small,
        "low": single.low_dimensions,
        "memory": batches.memory,
        "inserts": rest.inserts,
        "ties": rest.ties,
        "stream": rest.stream,
        "opening": rest.opening,
    }
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--factors", type=Path)
    parser.add_argument("--only", nargs="+", choices=work, metavar="NAME", help=f"of {', '.join(work)}")
    parser.add_argument(
        "--quick", action="store_true", help="a twentieth of the vectors, 3 rounds: to see that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables as lines for docs/benchmarks.md")
    options = parser.parse_args()
    files = {"sentences": options.sentences, "batch": options.sentences, "factors": options.factors}
    missing = [name for name in files if files[name] is None]
    for name in missing:
        if name in (options.only or ()):
            parser.error(f"{name} needs its file: see --help")
    rounds, shrink = (3, 20) if options.quick else (ROUNDS, 1)
    contest = Contest(options.threads, rounds, shrink, Console(width=160), options.markdown)
    with threadpool_limits(options.threads):
        for name in options.only or [name for name in work if name not in missing]:
            work[name](contest)
            contest.show()


if __name__ == "__main__":
    main()
