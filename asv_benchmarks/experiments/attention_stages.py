"""What attention on a GPU does beside attending: appending tokens, coding keys anew, and finding thresholds.

    python -m asv_benchmarks.experiments.attention_stages --captures FOLDER

Keys and queries are those of `attention_gpu.py`; times are those of a CUDA graph's replay, as a decoder would have
them, but for a prefill, which is timed whole.
"""

import argparse
from pathlib import Path

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.attention_gpu import DIM, HEADS, SCALE, STEPS, cache_of, captured, drawn, in_graph
from halfspace import gpu
from halfspace.bench import alternate

SIZES = (8192, 32768, 131072)
EPS = 0.01
ROUNDS = 30


def prefilled(keys, values):
    """Milliseconds of a prefill: a new cache, rows appended and coded, a frame chosen, and all coded in it."""
    bits = [part[None].view(np.uint16) for part in (keys, values)]

    def prefill():
        cache = gpu.new_cache(1, HEADS, DIM, np.dtype(np.uint16), keys.shape[1], False)
        gpu.extend(cache, *bits, None)
        gpu.reframe(cache)
        gpu.wait()

    return 1e3 * alternate({"prefill": prefill}, ROUNDS)["prefill"].median


def appended(keys, values, stream):
    """Microseconds of one token that is appended."""
    room = 64 * STEPS  # for all that graph and rounds append
    cache = gpu.new_cache(1, HEADS, DIM, np.dtype(np.uint16), keys.shape[1] + room, False)
    bits = [part[None].view(np.uint16) for part in (keys, values)]
    gpu.extend(cache, *bits, None)
    gpu.reframe(cache)
    token = [part[:, :, :1].copy() for part in bits]
    gpu.wait()
    found = in_graph(lambda step: gpu.extend(cache, *token, None), stream, ROUNDS)
    assert int(cache.lengths[0]) == keys.shape[1] + (ROUNDS + 1) * STEPS
    assert int(cache.status[0]) == 0
    return found


def smallest(keys, queries, eps):
    """How many keys (STEPS, query heads) the smallest sets hold that weigh 1 - eps of the softmax."""
    counts = []
    for own in queries:
        scores = cp.einsum("hgd,hnd->hgn", own.reshape(HEADS, -1, DIM).astype(np.float64), keys.astype(np.float64))
        weights = cp.sort(cp.exp(SCALE * (scores - scores.max(axis=2, keepdims=True))), axis=2)[:, :, ::-1]
        sums = cp.cumsum(weights, axis=2)
        counts.append(1 + (sums < (1 - eps) * sums[:, :, -1:]).sum(axis=2).ravel())
    return cp.stack(counts)


def stages(captures=None, sizes=SIZES):
    """Lines of a table."""
    stream = cp.cuda.Stream(non_blocking=True)
    yield f"| keys | append a token | prefill | eps = {EPS}: threshold | and attend | kept | kept / smallest set |"
    yield "|---|---|---|---|---|---|---|"
    for rows in sizes:
        keys, values, queries = captured(captures, rows) if captures else drawn(rows)
        cache, bits = cache_of(keys, values), queries.view(np.uint16)[:, None]
        gpu.wait()  # what follows runs on another stream

        def certified(step, cache=cache, bits=bits):
            return gpu.certify(cache, bits[step], EPS, SCALE, 1)

        def attended(step, cache=cache, bits=bits):
            tau, dropped = gpu.certify(cache, bits[step], EPS, SCALE, 1)
            return gpu.attend(cache, bits[step], tau, SCALE, 0, 0, 1), tau, dropped

        times = [in_graph(work, stream) for work in (certified, attended)]
        fresh = cache_of(keys, values)  # of which nothing is known yet: every threshold is looked for
        kept = []
        for step in range(STEPS):
            fresh.kept.clear()
            kept.append(attended(step, fresh)[0].kept[0])
        kept, least = cp.stack(kept), smallest(keys, queries, EPS)
        yield (
            f"| {rows:,} | {appended(keys, values, stream):.2f} us | {prefilled(keys, values):.2f} ms "
            f"| {times[0]:.1f} us | {times[1]:.1f} us | {float(kept.mean()) / rows:.1%} "
            f"| {float((kept / least).mean()):.2f} in the mean, {float(kept.sum() / least.sum()):.2f} of the means |"
        )


def main():
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captures", type=Path, help="folder of pycode_lm.py")
    for line in stages(arguments.parse_args().captures):
        print(line, flush=True)


if __name__ == "__main__":
    main()
