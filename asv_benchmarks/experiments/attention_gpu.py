"""One step of attention on a GPU, against the fastest dense attention that there is.

    python -m asv_benchmarks.experiments.attention_gpu --captures FOLDER

FOLDER holds `pycode_lm.py` and its model, whose keys, values and queries are then captured; without it they are drawn,
with norms and spreads that differ. Thresholds are the midpoints between two real scores, so that each query head keeps
exactly a share of the keys. What is timed is the replay of CUDA graphs, between two events, as a decoder calls it;
turns of `halfspace.bench` would count the launches from Python, too.
"""

import argparse
import statistics
import sys
from importlib.util import find_spec

import cupy as cp  # noqa: TID251
import numpy as np

from halfspace import gpu

QUERY_HEADS, HEADS, DIM = 32, 8, 128
SCALE = DIM**-0.5
CHOSEN = ((1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (4, 0), (5, 0), (5, 1))
"""Layers and heads that are captured."""
PIECE = 1 << 15
"""Tokens that the model sees at once."""
STEPS = 16
"""Steps that a graph holds, each with queries of its own."""
SHARES = (0.01, 0.02, 0.05, 0.2, 0.5, 1.0)
SIZES = (4096, 8192, 16384, 32768, 131072)
CACHE = 1 << 28
"""Bytes of keys and values that are gone over by turns: several times what the GPU's own cache holds."""


def captured(folder, rows):
    """Keys and values (heads, rows, d), and queries (STEPS, query heads, d), of a language model."""
    import torch

    sys.path.insert(0, str(folder))
    import pycode_lm

    parts = []
    with torch.no_grad():
        model, tokens = pycode_lm.load("cuda", torch.bfloat16), pycode_lm.heldout().cuda()
        for first in range(0, rows, PIECE):
            found = []
            model(tokens[None, first : first + min(rows, PIECE)], found)
            keys, values = (
                torch.stack([found[layer][which][0, head] for layer, head in CHOSEN]).half() for which in (1, 2)
            )
            queries = torch.stack(
                [found[layer][0][0, 4 * head : 4 * head + 4, -STEPS:] for layer, head in CHOSEN]
            ).half()
            parts.append((keys, values, queries))
            del found
    keys, values = (torch.cat([part[which] for part in parts], 1).contiguous() for which in (0, 1))
    queries = parts[-1][2].permute(2, 0, 1, 3).reshape(STEPS, QUERY_HEADS, DIM).contiguous()
    return tuple(cp.from_dlpack(part) for part in (keys, values, queries))


def drawn(rows):
    """The same, drawn at random."""
    rng = cp.random.RandomState(0)
    spread = cp.exp(rng.standard_normal((HEADS, 1, DIM), dtype=np.float32))
    length = cp.exp(0.3 * rng.standard_normal((HEADS, rows, 1), dtype=np.float32))
    keys = spread * length * rng.standard_normal((HEADS, rows, DIM), dtype=np.float32)
    values = rng.standard_normal((HEADS, rows, DIM), dtype=np.float32)
    queries = rng.standard_normal((STEPS, QUERY_HEADS, DIM), dtype=np.float32)
    return tuple(part.astype(np.float16) for part in (keys, values, queries))


def thresholds(keys, queries, share):
    """Midpoints (STEPS, query heads) between the scores of this share and the next one, and how many reach them."""
    count = max(1, round(share * keys.shape[1]))
    wide, taus = keys.astype(np.float32), cp.empty((STEPS, QUERY_HEADS))
    kept = cp.full((STEPS, QUERY_HEADS), count)
    for head in range(HEADS):
        for step in range(STEPS):
            own = slice(4 * head, 4 * head + 4)
            rough = queries[step, own].astype(np.float32) @ wide[head].T
            for k, scores in enumerate(rough):
                near = cp.argsort(scores)[-min(count + 64, scores.size) :]
                exact = cp.sort(keys[head, near].astype(np.float64) @ queries[step, 4 * head + k].astype(np.float64))
                below = exact[-count - 1] if count < exact.size else exact[0] - 1.0
                taus[step, 4 * head + k] = (exact[-count] + below) / 2
                kept[step, 4 * head + k] += (exact[:-count] >= taus[step, 4 * head + k]).sum()  # equal scores
    return taus, kept


def cache_of(keys, values):
    """A cache of one sequence."""
    cache = gpu.new_cache(1, HEADS, DIM, np.dtype(np.uint16), keys.shape[1], False)
    gpu.extend(cache, keys[None].view(np.uint16), values[None].view(np.uint16), None)
    gpu.reframe(cache)
    return cache


def in_graph(work, stream, repeats=30):
    """Microseconds of one of STEPS calls in a CUDA graph, by replaying it."""
    graph, kept = None, []
    with stream:
        for step in range(STEPS):
            kept.append(work(step))
        stream.synchronize()
        stream.begin_capture()
        for step in range(STEPS):
            kept.append(work(step))
        graph = stream.end_capture()
        times = []
        for _ in range(repeats):
            start, end = cp.cuda.Event(), cp.cuda.Event()
            start.record()
            graph.launch()
            end.record()
            end.synchronize()
            times.append(1e3 * cp.cuda.get_elapsed_time(start, end) / STEPS)
    return statistics.median(times[3:])


def in_torch_graph(work):
    """Microseconds of one of STEPS calls of PyTorch in a CUDA graph, by replaying it."""
    import torch

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for step in range(STEPS):
            work(step)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for step in range(STEPS):
                work(step)
        found = []
        for _ in range(30):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(1e3 * start.elapsed_time(end) / STEPS)
    return statistics.median(found[3:])


def in_torch(keys, values, queries):
    """Pairs of keys and values (batch, heads, rows, d), and queries (STEPS, batch, query heads, 1, d), as tensors."""
    import torch

    shape = -1, HEADS, keys[0].shape[-2], DIM
    parts = [tuple(torch.from_dlpack(part).view(shape) for part in pair) for pair in zip(keys, values, strict=True)]
    return parts, torch.from_dlpack(queries).view(STEPS, -1, QUERY_HEADS, 1, DIM)


def standard(keys, values, queries):
    """Microseconds of PyTorch's standard attention: written out, as transformers' "eager" has it, and its own."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parts, asked = in_torch(keys, values, queries)
    group = QUERY_HEADS // HEADS

    def eager(step):
        own, theirs = (part.repeat_interleave(group, dim=1) for part in parts[step % len(parts)])
        weights = torch.softmax(asked[step] @ own.transpose(2, 3) * SCALE, dim=-1, dtype=torch.float32)
        return weights.to(asked.dtype) @ theirs

    def math(step):
        return F.scaled_dot_product_attention(asked[step], *parts[step % len(parts)], enable_gqa=True)

    with sdpa_kernel(SDPBackend.MATH):
        return {"eager": in_torch_graph(eager), "math": in_torch_graph(math)}


def rivals(keys, values, queries):
    """Microseconds of each dense attention that is there, by its name, for one sequence or a batch."""
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parts, asked = in_torch(keys, values, queries)
    times = {}
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                times[name] = in_torch_graph(
                    lambda step: F.scaled_dot_product_attention(
                        asked[step], *parts[step % len(parts)], enable_gqa=True
                    ),
                )
        except RuntimeError:
            continue
    if len(asked[0]) == 1 and find_spec("flashinfer"):
        from flashinfer import single_decode_with_kv_cache

        times["FlashInfer"] = in_torch_graph(
            lambda step: single_decode_with_kv_cache(
                asked[step, 0, :, 0],
                *(part[0] for part in parts[step % len(parts)]),
                kv_layout="HND",
                use_tensor_cores=True,
            ),
        )
    return times


def attention(captures=None, sizes=SIZES, shares=SHARES):
    """Lines of a table."""
    stream = cp.cuda.Stream(non_blocking=True)
    yield f"{QUERY_HEADS} query heads, {HEADS} KV heads, d = {DIM}, float16, {'captured' if captures else 'drawn'} keys"
    yield "| keys | fastest dense | " + " | ".join(f"{share:.0%} kept" for share in shares) + " |"
    yield "|---|---|" + "---|" * len(shares)
    for rows in sizes:
        keys, values, queries = captured(captures, rows) if captures else drawn(rows)
        copies = max(2, -(-CACHE // (2 * keys.nbytes)))
        dense = rivals([keys.copy() for _ in range(copies)], [values.copy() for _ in range(copies)], queries)
        name = min(dense, key=dense.get)
        caches = [cache_of(keys, values) for _ in range(copies)]
        bits = queries.view(np.uint16)[:, None]
        found = []
        for share in shares:
            taus, kept = thresholds(keys, queries, share)

            def work(step, caches=caches, bits=bits, taus=taus, copies=copies):
                return gpu.attend(caches[step % copies], bits[step], taus[step, None], SCALE, 0, 0, 1)

            time = in_graph(work, stream)
            assert all((work(step).kept == kept[step]).all() for step in range(STEPS))
            found.append(f"{time:.1f} us, {dense[name] / time:.2f}")
        yield f"| {rows:,} | {name} {dense[name]:.1f} us | " + " | ".join(found) + " |"
        del caches
        cp.get_default_memory_pool().free_all_blocks()


def beside_standard(captures=None, rows=40960, share=0.01):
    """Lines on PyTorch's standard attention."""
    keys, values, queries = captured(captures, rows) if captures else drawn(rows)
    keys, values = keys[:, :rows].copy(), values[:, :rows].copy()
    copies = max(2, -(-CACHE // (2 * keys.nbytes)))
    dense = standard([keys] + [keys.copy()] * (copies - 1), [values] + [values.copy()] * (copies - 1), queries)
    caches, bits = [cache_of(keys, values) for _ in range(copies)], queries.view(np.uint16)[:, None]
    taus, _ = thresholds(keys, queries, share)
    time = in_graph(
        lambda step: gpu.attend(caches[step % copies], bits[step], taus[step, None], SCALE, 0, 0, 1),
        cp.cuda.Stream(non_blocking=True),
    )
    yield f"{rows:,} keys, {share:.0%} kept: {time:.1f} us"
    for name, own in dense.items():
        yield f"PyTorch, {name}: {own:,.0f} us, {own / time:.1f}"


def main():
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--captures")
    arguments.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments.add_argument("--shares", type=float, nargs="+", default=SHARES)
    arguments.add_argument("--standard", action="store_true", help="PyTorch's own attention, at 40,960 keys")
    options = arguments.parse_args()
    lines = (
        beside_standard(options.captures)
        if options.standard
        else attention(options.captures, options.sizes, options.shares)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
