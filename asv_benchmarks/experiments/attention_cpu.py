"""Time one decode step of attention on the CPU against PyTorch's, in one process, in alternating runs.

    python -m asv_benchmarks.experiments.attention_cpu keys.npz [--rounds 25] [--shares 0.01 0.05]

`keys.npz` has float16 `<layer>_keys` (n, d) and `<layer>_queries` (group, steps, d): each layer is a KV head here, with
a group of query heads of its own; values are Gaussian. PyTorch gets float32 keys and values, all of which it reads, by
`scaled_dot_product_attention`, once with `enable_gqa` and once with the query heads of a group as if they were steps of
one head, which is faster. Its threads go on spinning for a while after a call unless OMP_WAIT_POLICY is PASSIVE, and
would take the cores from what is timed next; so that is set here. Ours gets keys as float16 and as float32, and for
each query head the float64 midpoint between the scores of rank k and k + 1 as its threshold, k being the share of the
keys.

Printed are medians over rounds, in milliseconds a step, medians of the ratios of each round, the time to append one
token, and that of certified thresholds. Tokens are appended by a loop of its own: each makes the index longer, so that
no warm-up and no turn could do the same again.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when PyTorch is loaded

import torch
from rich.console import Console
from rich.table import Table

from halfspace.attention import KVIndex
from halfspace.bench import alternate, median_ratio, midpoints

STEPS = 4
"""Decode steps that are asked in turn."""
DTYPES = ("float16", "float32")


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return keys (heads, n, d) and queries (steps, query heads, d), float16."""
    with np.load(path) as data:
        layers = sorted(name.removesuffix("_keys") for name in data.files if name.endswith("_keys"))
        keys = np.stack([data[f"{layer}_keys"] for layer in layers])
        queries = np.concatenate([data[f"{layer}_queries"] for layer in layers])
    chosen = np.linspace(0, queries.shape[1] - 1, STEPS).astype(int)
    return keys, np.ascontiguousarray(queries[:, chosen].swapaxes(0, 1))


def thresholds(keys: np.ndarray, queries: np.ndarray, share: float) -> np.ndarray:
    """Thresholds (steps, query heads) that a share of the keys reaches."""
    heads = queries.shape[1]
    return np.stack([midpoints(keys[head * len(keys) // heads], queries[:, head], share) for head in range(heads)], 1)


def every_step(call: Callable[[int], object]) -> Callable[[], object]:
    """Make one call of those of all steps."""
    return lambda: [call(step) for step in range(STEPS)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--eps", type=float, nargs="+", default=[1e-2, 1e-3])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keys, queries = load(options.keys)
    heads, rows, dim = keys.shape
    values = np.random.default_rng(0).standard_normal(keys.shape).astype(np.float16)
    query_heads = queries.shape[1]
    asked = queries.astype(np.float32)[:, None]
    tensors = [torch.from_numpy(part.astype(np.float32))[None] for part in (keys, values)]
    tensor_queries = torch.from_numpy(asked[:, :, :, None])
    attention = torch.nn.functional.scaled_dot_product_attention
    calls: dict[str, Callable[[int], object]] = {
        "PyTorch": lambda step: attention(tensor_queries[step].view(1, heads, -1, dim), *tensors),
        "PyTorch, enable_gqa": lambda step: attention(tensor_queries[step], *tensors, enable_gqa=True),
    }
    indexes = {}
    for dtype in DTYPES:
        index = KVIndex(heads, dim, num_query_heads=query_heads, dtype=dtype, threads=options.threads)
        index.append(keys.astype(dtype), values.astype(dtype))
        indexes[dtype] = index
        for share in options.shares:
            taus = thresholds(keys, queries, share)
            calls[f"{share:.1%} kept, {dtype}"] = lambda step, i=index, t=taus: i.attend(asked[step], tau=t[step])
        for eps in options.eps:
            calls[f"eps = {eps:g}, {dtype}"] = lambda step, i=index, e=eps: i.attend(asked[step], eps=e)
    times = alternate({name: every_step(call) for name, call in calls.items()}, options.rounds)
    table = Table("one step", "ms", "PyTorch / ours")
    for name, own in times.items():
        table.add_row(name, f"{own.median / STEPS * 1e3:.3f}", f"{median_ratio(times['PyTorch'], own):.2f}")
    for dtype, index in indexes.items():
        token = [np.ascontiguousarray(part[None, :, :1].astype(dtype)) for part in (keys, values)]
        appended = []
        for _ in range(200):
            begin = time.perf_counter()
            index.append(*token)
            appended.append(time.perf_counter() - begin)
        table.add_row(f"append of one token, {dtype}", f"{statistics.median(appended) * 1e3:.3f}", "")
    console = Console()
    console.print(f"{rows:,} keys, {query_heads} query heads over {heads}, d = {dim}, {options.threads} threads")
    console.print(table)


if __name__ == "__main__":
    main()
