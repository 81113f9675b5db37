"""Everything that only a GPU can show, in one call: the tests, the sanitizer, the ceilings and the benchmark.

    python -m asv_benchmarks.experiments.gpu --report docs/gpu-report.md

writes a dated report. `--only` picks parts of it; `--short` is the little program that the sanitizer watches.
Whole calls are timed by the turns of `halfspace.bench`; kernels alone, and ceilings, between two events of the device,
which the host's clock cannot see.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cupy as cp  # noqa: TID251
import numpy as np

from asv_benchmarks.experiments.attention_certified import certified
from asv_benchmarks.experiments.attention_gpu import attention
from asv_benchmarks.experiments.attention_offload import offloaded
from asv_benchmarks.experiments.attention_stages import stages
from halfspace import HalfspaceIndex, Hits
from halfspace.attention import KVIndex
from halfspace.bench import alternate

ROOT = Path(__file__).parents[2]
PARTS = (
    "tests",
    "memcheck",
    "racecheck",
    "ceilings",
    "single",
    "large",
    "batch",
    "many",
    "half",
    "build",
    "roofline",
    "attention",
    "certified",
    "stages",
    "offload",
)
CENTRES, NOISE = 2000, 0.7
SHARES = (1e-4, 1e-3, 1e-2)
STEP = 1 << 20
"""Rows that are made, or scored, at once."""
PATIENCE = 240
"""Seconds for the tests, and for each tool of the sanitizer."""


def clustered(rows, dim, seed):
    """Clustered unit vectors: a Gaussian centre each, and Gaussian noise; the centres are the same for all seeds."""
    centres = cp.random.RandomState(0).standard_normal((CENTRES, dim), dtype=np.float32)
    rng = cp.random.RandomState(seed)
    vectors = cp.empty((rows, dim), np.float32)
    for first in range(0, rows, STEP):
        part = vectors[first : first + STEP]
        part[:] = centres[rng.randint(0, CENTRES, len(part))]
        part += np.float32(NOISE) * rng.standard_normal(part.shape, dtype=np.float32)
        part /= cp.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def thresholds(vectors, directions, share):
    """Midpoints between the k-th and the next real score, k = share * n: (m,) Python floats."""
    rows, found = len(vectors), []
    count = round(share * rows)
    for direction in directions.astype(np.float64):
        scores = cp.concatenate([vectors[k : k + STEP].astype(np.float64) @ direction for k in range(0, rows, STEP)])
        ordered = cp.partition(scores, [rows - count - 1, rows - count])
        found.append(float(ordered[rows - count - 1] + ordered[rows - count]) / 2)
    return found


def by_the_clock(works, repeats=15):
    """Time calls whole, results waited for: microseconds each, medians over alternating rounds; `works` by name."""

    def waited(work):
        work()
        cp.cuda.Device().synchronize()

    times = alternate({name: partial(waited, work) for name, work in works.items()}, repeats)
    return {name: 1e6 * own.median for name, own in times.items()}


def on_the_device(work, repeats=15, inner=8):
    """Time what `work` launches, captured into a graph and replayed: microseconds, median."""
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        work()
        stream.synchronize()
        stream.begin_capture()
        for _ in range(inner):
            work()
        graph = stream.end_capture()
        graph.launch(stream)
        times = []
        for _ in range(repeats):
            start, stop = cp.cuda.Event(), cp.cuda.Event()
            start.record(stream)
            graph.launch(stream)
            stop.record(stream)
            stop.synchronize()
            times.append(cp.cuda.get_elapsed_time(start, stop))
    return 1e3 * statistics.median(times) / inner


def by_events(work, repeats=15):
    """Time what `work` launches between two events: microseconds, median."""
    times = []
    for _ in range(repeats + 2):
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(cp.cuda.get_elapsed_time(start, stop))
    return 1e3 * statistics.median(times[2:])


def index_of(vectors, filter="cells"):
    """Index device vectors."""
    index = HalfspaceIndex(vectors.shape[1], device="gpu", dtype=vectors.dtype.name, filter=filter)
    index.insert(vectors)
    return index


def ceilings():
    """What the device can do: copies, and int8 matrix products."""
    import torch

    source = cp.random.RandomState(0).randint(0, 256, 1 << 30, dtype=np.uint8)
    target = cp.empty_like(source)
    copied = 2 * source.nbytes / by_events(lambda: cp.copyto(target, source)) / 1e6
    left = torch.randint(-127, 128, (8192, 8192), dtype=torch.int8, device="cuda")
    right = torch.randint(-127, 128, (8192, 8192), dtype=torch.int8, device="cuda").T
    product = by_events_of_torch(lambda: torch._int_mm(left, right))
    yield f"device-to-device copy, read and written: {copied:.2f} TB/s"
    yield f"int8 matrix product of 8,192 x 8,192 (cuBLAS): {2 * 8192**3 / product / 1e6:.0f} TOP/s"


def by_events_of_torch(work):
    """As `by_events`, on torch's stream."""
    import torch

    with cp.cuda.Stream.from_external(torch.cuda.current_stream()):
        return by_events(work)


def single(rows=1_000_000, dim=128, dtype="float32", shares=SHARES):
    """One direction at a time, against a matrix product, a comparison and flatnonzero."""
    vectors = clustered(rows, dim, 1).astype(dtype)
    directions = clustered(4, dim, 2)
    index = index_of(vectors)
    narrow = directions.astype(dtype)
    product = by_events(lambda: vectors @ narrow[0])
    source, target = (cp.empty(rows * dim // 2, np.uint8) for _ in range(2))
    copied = by_events(lambda: cp.copyto(target, source))  # moves as many bytes as the codes have, read and written
    yield f"{rows:,} x {dim} {dtype}: `X @ q` {product:.1f} us; copying what the codes have {copied:.1f} us"
    yield "| share of hits | cupy.flatnonzero(X @ q >= tau) | query | ratio | ids only | count | kernels | / `X @ q` |"
    yield "|---|---|---|---|---|---|---|---|"
    for share in shares:
        taus = thresholds(vectors, directions, share)
        for direction, tau in zip(directions, taus, strict=True):
            assert index.count(direction, tau) == round(share * rows)
        pairs = list(zip(directions, narrow, taus, strict=True))
        times = by_the_clock(
            {
                "flatnonzero": lambda pairs=pairs: [cp.flatnonzero(vectors @ q >= tau) for _, q, tau in pairs],
                "query": lambda pairs=pairs: [index.query(q, tau) for q, _, tau in pairs],
                "ids": lambda pairs=pairs: [index.query(q, tau, scores=False) for q, _, tau in pairs],
                "count": lambda pairs=pairs: [index.count(q, tau) for q, _, tau in pairs],
            }
        )
        rival, query, ids, count = (own / len(pairs) for own in times.values())
        out = Hits.preallocate(round(1.5 * share * rows) + 1000)
        direction, tau = directions[0], taus[0]
        kernels = on_the_device(lambda out=out, q=direction, tau=tau: index.query(q, tau, out=out))
        yield (
            f"| {share:.2%} | {rival:.0f} us | {query:.0f} us | {rival / query:.2f} | {ids:.0f} us | {count:.0f} us | "
            f"{kernels:.1f} us | {kernels / product:.0%} |"
        )


def batch(rows, dim, count, shares, dtype="float32", tf32=False):
    """Many directions at once, against torch's matrix product, comparison and nonzero."""
    import torch

    vectors, directions = clustered(rows, dim, 1).astype(dtype), clustered(count, dim, 2)
    index = index_of(vectors)
    theirs = torch.from_dlpack(vectors)
    asked = torch.from_dlpack(directions).to(theirs.dtype)
    step = max(1, min(count, (1 << 32) // rows))  # directions whose scores fit into 16 GiB
    yield f"{count:,} directions, {rows:,} x {dim} {dtype}"
    yield "| share of hits | torch | torch, TF32 | query | ratio | ids only | ratio | ids / TF32 | count |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for share in shares:
        few = thresholds(vectors, directions[:16], share)
        tau = cp.asarray(thresholds(vectors, directions, share) if count <= 64 else (few * (count // 16 + 1))[:count])
        limits = torch.from_dlpack(tau).to(theirs.dtype)

        def rival(limits=limits):
            for first in range(0, count, step):
                part = slice(first, first + step)
                ((asked[part] @ theirs.T) >= limits[part, None]).nonzero()
            torch.cuda.synchronize()

        def allowing(tf32, rival=rival):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            rival()
            torch.backends.cuda.matmul.allow_tf32 = False

        times = by_the_clock(
            {
                "torch": lambda allowing=allowing: allowing(False),
                "tf32": lambda allowing=allowing: allowing(True),
                "query": lambda tau=tau: index.query(directions, tau),
                "ids": lambda tau=tau: index.query(directions, tau, scores=False),
                "count": lambda tau=tau: index.count(directions, tau),
            },
            5 if count > 64 else 15,
        )
        torch_, tf, query, ids, counted = times.values()
        yield (
            f"| {share:.2%} | {torch_:,.0f} us | {tf:,.0f} us | {query:,.0f} us | {torch_ / query:.2f} | "
            f"{ids:,.0f} us | {torch_ / ids:.2f} | {tf / ids:.2f} | {counted:,.0f} us |"
        )


def build(rows=1_000_000, dim=128):
    """Building cells from vectors in device memory."""
    from halfspace.gpu import encode, measure

    for dtype in ("float32", "float16"):
        vectors = clustered(rows, dim, 1).astype(dtype)
        bits = vectors[None] if dtype == "float32" else vectors[None].view(np.uint16)
        norms, _ = measure(bits, 1)
        encoded = by_the_clock({"encode": lambda bits=bits, norms=norms: encode(bits, norms, 1)})["encode"]
        whole = by_the_clock({"insert": lambda vectors=vectors: index_of(vectors)})["insert"]
        yield (
            f"{rows:,} x {dim} {dtype}: cells {rows / encoded:,.0f} million vectors a second; "
            f"a new index, whole, {rows / whole:,.0f}"
        )


def roofline():
    """Kernels against what they read and multiply; `asv_benchmarks.experiments.gpu_roofline` writes it down, too."""
    from asv_benchmarks.experiments.gpu_roofline import roofline  # which takes from here how it measures

    return roofline()


def short():
    """Ask every kind of segment a little: what the sanitizer watches."""
    rng = cp.random.RandomState(0)
    for filter in ("scan", "cells", "groups", "balls", "sweep"):
        for dim, dtype in ((7, "float32"), (40, "float16")):
            vectors = rng.standard_normal((1300, dim), dtype=np.float32).astype(dtype)
            index = index_of(vectors, filter)
            index.insert(vectors[:9])
            index.delete(cp.asarray([3, 700]))
            directions = rng.standard_normal((140, dim), dtype=np.float32)
            for count in (1, 3, 20, 140):
                for scores in (True, False):
                    index.query(directions[:count], 2.0, scores=scores)
            for k in (5, 300):
                index.search(directions[:20], k)
            index.query(directions[0], float(vectors[5].astype(np.float64) @ directions[0].astype(np.float64)))
    for offload in (False, True):
        keys, queries = (rng.standard_normal((2, *shape, 64)).astype(np.float16) for shape in ((2, 700), (6,)))
        index = KVIndex(2, 64, num_query_heads=6, batch_size=2, device="gpu", recent=3, offload=offload)
        index.append(keys, keys, lengths=[700, 120])
        index.append(keys[:, :, :1], keys[:, :, :1])
        for how in ({"tau": 5.0}, {"tau": -np.inf}, {"eps": 0.1}, {"keep": 0.1}, {"keep": 0.1, "estimator": "gap"}):
            for _ in range(2):  # what was of use says how it is read next
                index.attend(queries, **how)
        index.query(queries, 5.0)
        index.check()
    print("asked")


def command(*words):
    """Run a command; returns its last lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        run = subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return [f"    took more than {PATIENCE} s"]
    lines = (run.stdout + run.stderr).strip().splitlines()
    return [f"    {line[:160]}" for line in (lines[-3:] if run.returncode == 0 else lines[-40:])]


def parts(wanted, captures):
    """Run the parts, attention on the keys of a model in the folder `captures`; yields a heading and lines for each."""
    python, own = sys.executable, ("-m", __spec__.name)
    plugins = ["-p", "no:cacheprovider", "-p", "no:benchmark"]  # the latter minds the workers
    if find_spec("xdist"):  # most of the time goes into what they compare with
        plugins += ["-n", "6"]
    works = {
        "tests": lambda: command(python, "-m", "pytest", "-m", "gpu", *plugins),
        "memcheck": lambda: command("compute-sanitizer", "--tool", "memcheck", python, *own, "--short"),
        "racecheck": lambda: command("compute-sanitizer", "--tool", "racecheck", python, *own, "--short"),
        "ceilings": ceilings,
        "single": single,
        "large": lambda: single(20_000_000),
        "batch": lambda: batch(1_000_000, 128, 64, SHARES),
        "many": lambda: batch(1_000_000, 384, 4096, (1e-4,)),
        "half": lambda: [*single(dtype="float16"), "", *batch(1_000_000, 128, 64, (1e-4, 1e-2), "float16")],
        "build": build,
        "roofline": roofline,
        "attention": lambda: attention(captures),
        "certified": lambda: certified(captures),
        "stages": lambda: stages(captures),
        "offload": lambda: offloaded(captures),
    }
    for name in wanted:
        yield name, works[name]()
        cp.get_default_memory_pool().free_all_blocks()


def main():
    """Run what is asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--short", action="store_true")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--report", type=Path)
    arguments.add_argument("--commit", default="")
    arguments.add_argument("--captures", type=Path, help="folder of pycode_lm.py, whose keys attention is measured on")
    options = arguments.parse_args()
    if options.short:
        short()
        return
    device = cp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    lines = [
        "# What a GPU printed",
        "",
        f"{datetime.date.today()}, {device}, CuPy {cp.__version__}, Python {sys.version.split()[0]}"
        + (f", commit {options.commit}" if options.commit else "")
        + f", `python -m {__spec__.name} --only {' '.join(options.only)}`",
    ]
    for name, found in parts(options.only, options.captures):
        lines += ["", f"## {name}", ""]
        print(f"\n## {name}", flush=True)
        for line in found:
            print(line, flush=True)
            lines.append(line)
        if options.report:
            options.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
