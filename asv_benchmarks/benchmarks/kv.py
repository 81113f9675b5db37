"""Attention over a KV cache, on the CPU: a decode step and an append against context length, and PyTorch's dense one.

Keys are those in the package; a context longer than them goes on with the same keys, moved by Gaussian noise of a
quarter of their standard deviation.
"""

import functools
import itertools
from typing import Any

from .common import THREADS, Timed, grid

LENGTHS = grid([1024, 4096, 8192, 16384, 32768], [1024])
HOW = grid(["dense, torch", "tau, 1 %", "tau, 5 %", "keep, 5 %", "eps = 0.01"], ["dense, torch", "tau, 1 %"])
STEPS = 16


@functools.cache
def cache(length: int) -> tuple[Any, ...]:
    """Keys and values (1, length, 128) in float16, and queries (steps, 4, 128) in float32."""
    import numpy as np

    from halfspace.datasets import load_keys

    data = load_keys()
    rng = np.random.default_rng(0)
    keys, values = (np.resize(part, (length, part.shape[1])) for part in (data.keys, data.values))
    known = len(data.keys)
    if length > known:
        noise = rng.standard_normal((length - known, keys.shape[1]), dtype=np.float32)
        keys[known:] = keys[known:] + 0.25 * data.keys.std(axis=0, dtype=np.float32) * noise
    queries = data.queries.swapaxes(0, 1)[:: data.queries.shape[1] // STEPS].astype(np.float32)
    return keys[None], values[None], queries


@functools.cache
def index(length: int) -> Any:
    """Index the first keys and values."""
    from halfspace.attention import KVIndex

    keys, values, queries = cache(length)
    found = KVIndex(1, keys.shape[2], num_query_heads=queries.shape[1], threads=THREADS)
    found.append(keys, values)
    return found


@functools.cache
def steps(length: int, how: str) -> Any:
    """Endless decode steps: calls without arguments."""
    import numpy as np

    from halfspace.bench import midpoints

    keys, values, queries = cache(length)
    kind, _, amount = how.partition(", ")
    if kind == "dense":
        try:
            import torch
        except ImportError:
            raise NotImplementedError("torch is not installed") from None
        torch.set_num_threads(THREADS)
        parts = [torch.from_numpy(part.astype(np.float32))[None] for part in (keys, values)]
        attention = torch.nn.functional.scaled_dot_product_attention
        # the query heads of a group as steps of one head, which is faster than enable_gqa
        asked = torch.from_numpy(queries)[:, None, None]
        calls = [lambda q=q: attention(q, *parts) for q in asked]
    elif kind == "tau":
        share = float(amount.split()[0]) / 100
        taus = np.stack([midpoints(keys[0], own, share) for own in queries.swapaxes(0, 1)], axis=1)
        calls = [lambda q=q, t=t: index(length).attend(q, tau=t) for q, t in zip(queries, taus, strict=True)]
    elif kind == "keep":
        share = float(amount.split()[0]) / 100
        calls = [lambda q=q: index(length).attend(q, keep=share) for q in queries]
    else:
        eps = float(how.split()[-1])
        calls = [lambda q=q: index(length).attend(q, eps=eps) for q in queries]
    return itertools.cycle(calls)


class Attend(Timed):
    """One decode step of 4 query heads over one KV head, d = 128."""

    params = (LENGTHS, HOW)
    param_names = ("keys", "how")

    def setup(self, length: int, how: str) -> None:
        self.steps = steps(length, how)

    def time_step(self, length: int, how: str) -> None:
        next(self.steps)()


class Append(Timed):
    """One token, after so many and those of the same sample."""

    params = LENGTHS
    param_names = ("keys",)

    def setup(self, length: int) -> None:
        self.index = index(length)
        self.index.crop(length)
        keys, values, _ = cache(length)
        self.token = keys[:, :1], values[:, :1]

    def time_token(self, length: int) -> None:
        self.index.append(*self.token)


class Prefill(Timed):
    """A whole context, coded."""

    params = LENGTHS
    param_names = ("keys",)
    repeat = (2, 10, 1.0)

    def setup(self, length: int) -> None:
        index(length).reset()
        self.index = index(length)
        self.keys, self.values, _ = cache(length)

    def time_prefill(self, length: int) -> None:
        self.index.append(self.keys, self.values)

    def peakmem_prefill(self, length: int) -> None:
        self.index.append(self.keys, self.values)
