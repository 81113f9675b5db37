"""Attention on a GPU whose keys and values lie in the host's memory: time, bytes over the bus, memory of the device.

    python -m asv_benchmarks.experiments.attention_offload --captures FOLDER

Keys, queries and thresholds are those of `attention_gpu.py`. Rows that cross the bus are counted from the arrays of the
cache, as bounds leave them: a key is read if the upper bound of its score, for any head of its group, reaches the
threshold, a value if its score does.
"""

import argparse
from pathlib import Path

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.attention_gpu import (
    DIM,
    HEADS,
    QUERY_HEADS,
    SCALE,
    STEPS,
    captured,
    drawn,
    in_graph,
    thresholds,
)
from halfspace import gpu
from halfspace.model.kv_cache import Aim

ROWS = 1 << 15
SHARES = (0.001, 0.005, 0.01, 0.05)
GROUP = QUERY_HEADS // HEADS
ROW_BYTES = 2 * DIM


def cache_of(keys, values, offload):
    """A cache of one sequence, and the bytes of the device that it took."""
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    cache = gpu.new_cache(1, HEADS, DIM, np.dtype(np.uint16), keys.shape[1], offload)
    gpu.extend(cache, keys[None].view(np.uint16), values[None].view(np.uint16), None)
    taken = pool.used_bytes() - before
    gpu.reframe(cache)
    return cache, taken


def widened(bits):
    """The numbers that bfloat16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rows_read(cache, keys, queries, taus):
    """Keys that bounds leave, and keys that are kept, for any query head of a group: rows of all heads, in a step."""
    cells, rows = cache.cells, keys.shape[1]
    left = kept = 0
    for head in range(HEADS):
        asked, own = queries[GROUP * head : GROUP * head + GROUP].astype(np.float64), keys[head].astype(np.float64)
        levels = taus[GROUP * head : GROUP * head + GROUP, None]
        scores = asked @ own.T
        high = cells.high[head].swapaxes(1, 2).reshape(rows, DIM // 8, 4)
        low = cells.low[head, : 4 * rows * (DIM // 8)].reshape(rows, DIM // 8, 4)
        codes = cp.concatenate([(high & 15) * 16 + (low & 15), (high & 240) + (low >> 4)], axis=2)
        offsets = (codes.reshape(rows, DIM).astype(np.float64) - 128) * widened(cells.scales[head])[:, None]
        centres = cells.centre[head] + cells.weights[head] * offsets
        bounds = asked @ centres.T + cp.linalg.norm(asked, axis=1)[:, None] * widened(cells.radii[head, 1])
        left += int((bounds >= levels).any(axis=0).sum())
        kept += int((scores >= levels).any(axis=0).sum())
    return left, kept


def bus(cache):
    """Gigabytes a second that a copy of all keys from the host's memory reaches."""
    to, times = cp.empty(cache.keys.shape, cache.keys.dtype), []
    for _ in range(10):
        start, end = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        to.data.copy_from_device_async(cache.keys.data, to.nbytes)
        end.record()
        end.synchronize()
        times.append(cp.cuda.get_elapsed_time(start, end))
    return to.nbytes / min(times) / 1e6


def offloaded(captures=None):
    """Lines of two tables."""
    keys, values, queries = captured(captures, ROWS) if captures else drawn(ROWS)
    (here, _), (there, taken) = (cache_of(keys, values, offload) for offload in (False, True))
    stream = cp.cuda.Stream(non_blocking=True)
    bits = queries.view(np.uint16)[:, None]

    def lookup(cache, taus):
        return in_graph(lambda step: gpu.attend(cache, bits[step], taus[step][None], SCALE, 0, 0, 1), stream)

    dense = 2 * HEADS * ROWS * ROW_BYTES
    yield f"{ROWS:,} keys x {HEADS} heads, {QUERY_HEADS} query heads, d = {DIM}, float16; one step in a graph's replay"
    yield f"device memory: {taken / 2**20:.1f} MiB offloaded; keys and values alone are {dense / 2**20:.1f} MiB"
    yield f"a copy of all keys over the bus: {bus(there):.1f} GB/s"
    yield "| kept | on the device, us | offloaded, us | over the bus, KiB | of the survivors' K and V | GB/s |"
    yield "|---|---|---|---|---|---|"
    for share in SHARES:
        taus, _ = thresholds(keys, queries, share)
        near, far = lookup(here, taus), lookup(there, taus)
        for step in range(STEPS):
            ours, theirs = (gpu.attend(cache, bits[step], taus[step][None], SCALE, 0, 0, 1) for cache in (here, there))
            assert bool((ours.kept == theirs.kept).all())
        counts = np.array([rows_read(there, keys, queries[step], taus[step]) for step in range(STEPS)])
        left, kept = counts.mean(axis=0)
        moved, needed = ROW_BYTES * (left + kept), 2 * ROW_BYTES * kept
        yield (
            f"| {share:.1%} | {near:.1f} | {far:.1f} | {moved / 2**10:.0f} | {moved / needed:.3f} "
            f"| {moved / far / 1e3:.1f} |"
        )
    yield ""
    yield "| certified, eps | on the device, us | offloaded, us |"
    yield "|---|---|---|"
    for eps in (0.1, 0.01):
        times = [
            in_graph(
                lambda step, c=cache, e=eps: gpu.attend_chosen(c, bits[step], Aim(e, None), SCALE, 0, 0, 1),
                stream,
            )
            for cache in (here, there)
        ]
        yield f"| {eps} | {times[0]:.1f} | {times[1]:.1f} |"


def main():
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captures", type=Path, help="folder of pycode_lm.py")
    for line in offloaded(arguments.parse_args().captures):
        print(line, flush=True)


if __name__ == "__main__":
    main()
