"""Attention on a GPU with a certificate of what is dropped, against the fastest dense attention.

    python -m asv_benchmarks.experiments.attention_certified --captures FOLDER [--cases 40960x1 ...] [--eps 0.1 0.01]

With `--bent`, logits are capped and have a learnt sink, which is checked, not timed.

Keys and queries are those of `attention_gpu.py`. A case is so many keys of so many sequences. Those of a batch have the
same keys, shifted by 1,024, and queries of other steps; where there are more keys than are captured, they come again,
with some noise. Times are those of a CUDA graph's replay. Of some answers the share that was dropped is computed in
float64, and held against its certificate; what is kept is compared with the smallest set that would do. `--looked` says
of how many steps.
"""

import argparse
from pathlib import Path

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.attention_gpu import (
    CACHE,
    DIM,
    HEADS,
    QUERY_HEADS,
    SCALE,
    STEPS,
    captured,
    drawn,
    in_graph,
    rivals,
)
from halfspace import gpu
from halfspace.attention import KVIndex
from halfspace.model.kv_cache import Aim

CASES = ("40960x1", "32768x8", "131072x4", "1048576x1")
CAPTURED = 131072
"""Keys that are captured at most."""


def sequences(captures, rows, batch):
    """Keys and values (batch, heads, rows, d) and queries (STEPS, batch, query heads, d)."""
    few = min(rows, CAPTURED)
    keys, values, queries = captured(captures, few) if captures else drawn(few)
    rng = cp.random.RandomState(0)
    whole = []
    for part in (keys, values):
        own = cp.empty((batch, HEADS, rows, DIM), np.float16)
        for b in range(batch):
            for first in range(0, rows, few):
                last = min(first + few, rows)
                own[b, :, first:last] = cp.roll(part, 1024 * b, axis=1)[:, : last - first]
                if first:
                    noise = rng.standard_normal((HEADS, last - first, DIM), dtype=np.float32)
                    own[b, :, first:last] += (0.02 * float(part.astype(np.float32).std()) * noise).astype(np.float16)
        whole.append(own)
    steps = (cp.arange(STEPS)[:, None] + cp.arange(batch)) % STEPS
    return *whole, cp.ascontiguousarray(queries[steps])


def cache_of(keys, values):
    """A cache of all sequences."""
    batch, _, rows, _ = keys.shape
    cache = gpu.new_cache(batch, HEADS, DIM, np.dtype(np.uint16), rows, False)
    gpu.extend(cache, keys.view(np.uint16), values.view(np.uint16), None)
    gpu.reframe(cache)
    return cache


def examined(keys, queries, answer, eps):
    """Of every head: the share that was dropped over its certificate, kept over the smallest set, and kept."""
    tau, dropped = answer.tau, answer.dropped
    figures = []
    for b in range(len(keys)):
        for head in range(HEADS):
            own = slice(4 * head, 4 * head + 4)
            scores = keys[b, head].astype(np.float64) @ queries[b, own].astype(np.float64).T
            weights = cp.exp(SCALE * (scores - scores.max(axis=0)))
            lost = cp.where(scores < tau[b, own], weights, 0.0).sum(axis=0) / weights.sum(axis=0)
            ordered = cp.cumsum(cp.sort(weights, axis=0), axis=0)
            least = len(scores) - (ordered <= eps * ordered[-1]).sum(axis=0)
            kept = (scores >= tau[b, own]).sum(axis=0)
            assert (kept == answer.attention.kept[b, own]).all()
            assert (lost <= dropped[b, own] * (1 + 1e-9)).all()
            assert (dropped[b, own] <= eps).all()
            figures.append(cp.stack([dropped[b, own], kept / least, kept / len(scores), least / len(scores)]))
    return cp.concatenate(figures, axis=1)


def certified(captures=None, cases=CASES, epsilons=(0.1, 0.01), looked=4):
    """Lines of a table."""
    stream = cp.cuda.Stream(non_blocking=True)
    yield "| keys x sequences | fastest dense | eps | time | dense / ours | kept | kept / smallest set | dropped |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        rows, batch = map(int, case.split("x"))
        keys, values, queries = sequences(captures, rows, batch)
        copies = max(2, -(-CACHE // (2 * keys.nbytes)))
        dense = rivals([keys.copy() for _ in range(copies)], [values.copy() for _ in range(copies)], queries)
        name = min(dense, key=dense.get)
        cp.get_default_memory_pool().free_all_blocks()
        caches = [cache_of(keys, values) for _ in range(copies)]
        bits = queries.view(np.uint16)
        gpu.wait()  # what follows runs on another stream
        for eps in epsilons:
            for cache in caches:
                cache.kept.clear()

            def work(step, caches=caches, bits=bits, eps=eps):
                return gpu.attend_chosen(caches[step % len(caches)], bits[step], Aim(eps, None), SCALE, 0, 0, 1)

            time = in_graph(work, stream)
            found = []
            for step in range(looked):
                caches[0].kept.clear()  # nothing is known of the step before: thresholds are looked for
                answer = gpu.attend_chosen(caches[0], bits[step], Aim(eps, None), SCALE, 0, 0, 1)
                found.append(examined(keys, queries[step], answer, eps))
            dropped, ratio, kept, least = cp.concatenate(found, axis=1)
            yield (
                f"| {rows:,} x {batch} | {name} {dense[name]:.1f} us | {eps:g} | {time:.1f} us "
                f"| {dense[name] / time:.2f} | {float(kept.mean()):.1%} | {float(ratio.mean()):.2f} in the mean, "
                f"{float(kept.sum() / least.sum()):.2f} of the means "
                f"| {dropped.size:,} pairs, at most {float(dropped.max()):.3g} |"
            )
        del caches, keys, values, queries
        cp.get_default_memory_pool().free_all_blocks()


def bent(captures=None, rows=32768, batch=4, eps=0.01, cap=20.0):
    """A line on capped logits and learnt sinks: what was certified is held against float64."""
    keys, values, queries = sequences(captures, rows, batch)
    sinks = np.linspace(-2.0, 8.0, QUERY_HEADS, dtype=np.float32)
    index = KVIndex(
        HEADS, DIM, num_query_heads=QUERY_HEADS, batch_size=batch, device="gpu", soft_cap=cap, sink_logits=sinks
    )
    index.append(keys, values)
    worst, off, kept, pairs = 0.0, 0.0, 0, 0
    for step in range(STEPS):
        found = index.attend(queries[step], eps=eps, details=True)
        for b in range(batch):
            for g in range(QUERY_HEADS):
                scores = keys[b, g // 4].astype(np.float64) @ queries[step, b, g].astype(np.float64)
                logits = cap * cp.tanh(SCALE * scores / cap)
                weights = cp.exp(logits - logits.max())
                whole = weights.sum() + cp.exp(float(sinks[g]) - logits.max())
                exact = weights @ values[b, g // 4].astype(np.float64) / whole
                lost = float(weights[scores < found.tau[b, g]].sum() / whole)
                assert lost <= float(found.dropped[b, g]) * (1 + 1e-9) <= eps * (1 + 2e-9)
                distance = float(cp.linalg.norm(exact - found.output[b, g].astype(np.float64)))
                assert distance <= float(found.error[b, g]) + 1e-3 * float(cp.linalg.norm(exact))
                worst = max(worst, lost)
                if found.dropped[b, g] > 0:  # where all keys are kept there is rounding alone
                    off = max(off, distance / float(found.error[b, g]))
                kept, pairs = kept + int(found.kept[b, g]), pairs + 1
    yield (
        f"capped at {cap:g}, with sinks, eps = {eps:g}: {pairs:,} pairs, none above its certificate; "
        f"{kept / pairs / rows:.1%} kept, at most {worst:.3g} dropped, outputs off by {off:.1%} of their bound at most"
    )


def main():
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captures", type=Path)
    arguments.add_argument("--cases", nargs="+", default=CASES)
    arguments.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.01])
    arguments.add_argument("--looked", type=int, default=4, help="steps that are looked at, at most 16")
    arguments.add_argument("--bent", action="store_true")
    options = arguments.parse_args()
    lines = (
        bent(options.captures)
        if options.bent
        else certified(options.captures, options.cases, options.eps, options.looked)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
