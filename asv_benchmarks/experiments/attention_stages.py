"""What attention on a GPU does beside attending by a given threshold: appending tokens, coding keys anew, and keeping a
share of the keys that their bounds choose.

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
from halfspace.model.kv_cache import Aim

SIZES = (16384, 32768, 131072)
KEEP = 0.01
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


def stages(captures=None, sizes=SIZES):
    """Lines of a table."""
    stream = cp.cuda.Stream(non_blocking=True)
    yield "| keys | append a token | prefill | 1 % kept, by their bounds | kept |"
    yield "|---|---|---|---|---|"
    for rows in sizes:
        keys, values, queries = captured(captures, rows) if captures else drawn(rows)
        cache, bits = cache_of(keys, values), queries.view(np.uint16)[:, None]
        gpu.wait()  # what follows runs on another stream

        def attended(step, cache=cache, bits=bits):
            return gpu.attend_chosen(cache, bits[step], Aim(None, KEEP), SCALE, 0, 0, 1)

        time = in_graph(attended, stream)
        kept = cp.stack([attended(step).attention.kept for step in range(STEPS)]) / rows
        yield (
            f"| {rows:,} | {appended(keys, values, stream):.2f} us | {prefilled(keys, values):.2f} ms "
            f"| {time:.1f} us | {float(kept.mean()):.2%}, by heads and steps {float(kept.min()):.2%} to "
            f"{float(kept.max()):.2%} |"
        )


def main():
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captures", type=Path, help="folder of pycode_lm.py")
    for line in stages(arguments.parse_args().captures):
        print(line, flush=True)


if __name__ == "__main__":
    main()
