"""Greedy generation by way of transformers: tokens and logits with a HalfspaceCache beside those of dense attention.

    python -m asv_benchmarks.experiments.attention_generate --model DIR --tokens TOKENS.npy --eps 1e-3
    python -m asv_benchmarks.experiments.attention_generate --loader FILE.py:function --tokens TOKENS.npy --new 512

The model is a directory of Hugging Face, or what a function without arguments returns. Both runs start from the same
`--context` tokens, of which all but the last are prefill. At a first token that differs, it is printed how far apart
dense attention's two best logits lie there, and how much logits have changed.

A run takes minutes and changes its cache, so it is timed once, not by turns.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from asv_benchmarks.experiments.attention_quality import add_source, load
from asv_benchmarks.experiments.quality.decoding import CACHE
from halfspace.attention.hf import HalfspaceCache, register


class Run(NamedTuple):
    """What a model generated."""

    tokens: np.ndarray  # (new,)
    logits: np.ndarray  # (new, vocabulary), float32
    prefill: float  # seconds
    decode: float  # seconds


class Kept:
    """Counts the keys that each call of each layer keeps."""

    def __init__(self, cache: HalfspaceCache) -> None:
        self.shares: list[np.ndarray] = []  # of each call: kept / keys (query heads,)
        self.dropped = 0.0
        for layer in cache.layers:
            layer.index.attend = self._counted(layer.index, layer.index.attend)

    def _counted(self, index: Any, attend: Any) -> Any:
        def counted(q: Any, **how: Any) -> Any:
            found = attend(q, **(how | {"details": True}))
            self.shares.append(found.kept.cpu().numpy()[0] / index.lengths[0])
            if found.dropped is not None:
                self.dropped = max(self.dropped, float(found.dropped.max()))
            return found.output

        return counted


def generate(model: Any, ids: torch.Tensor, cache: Any, new: int) -> tuple[Run, Kept | None]:
    """Generate greedily after ids (1, context)."""
    start = time.perf_counter()
    with torch.no_grad():
        model(ids[:, :-1], **{CACHE: cache}, use_cache=True, logits_to_keep=1)
    prefill = time.perf_counter() - start
    kept = Kept(cache) if isinstance(cache, HalfspaceCache) else None
    start = time.perf_counter()
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **{CACHE: cache},
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    decode = time.perf_counter() - start
    logits = torch.cat(found.logits).float().cpu().numpy()
    return Run(found.sequences[0, ids.shape[1] :].cpu().numpy(), logits, prefill, decode), kept


def compare(dense: Run, ours: Run) -> None:
    """Print where tokens first differ, and how much logits do up to there."""
    differ = np.flatnonzero(dense.tokens != ours.tokens)
    same = int(differ[0]) if differ.size else len(dense.tokens)
    changes = np.abs(dense.logits - ours.logits).max(1)
    before = changes[: min(same + 1, len(changes))]  # after it the two read different texts
    gaps = -np.diff(np.sort(dense.logits, 1)[:, -2:][:, ::-1], axis=1)[:, 0]
    print(f"tokens that are equal: {same} of {len(dense.tokens)}")
    print(f"change of a logit: median {np.median(before):.2e}, largest {before.max():.2e}")
    print(f"gap of dense attention's two best logits: smallest {gaps[: len(before)].min():.2e}")
    if differ.size:
        fine = "no further apart than" if gaps[same] <= 2 * changes[same] else "FURTHER APART THAN"
        print(f"first difference, at {same}: gap {gaps[same]:.2e}, {fine} twice the change there, {changes[same]:.2e}")


def main() -> None:
    """Read the command line, generate twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source(parser)
    parser.add_argument("--start", type=int, default=0, help="the token that the context begins with")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--new", type=int, default=512)
    parser.add_argument("--eps", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    options = parser.parse_args()

    register()
    model = load(options).to(options.device, getattr(torch, options.dtype))
    tokens = np.load(options.tokens)[options.start :][: options.context].astype(np.int64)
    ids = torch.from_numpy(tokens)[None].to(options.device)
    model.set_attn_implementation("sdpa")
    dense, _ = generate(model, ids, DynamicCache(config=model.config), options.new)
    model.set_attn_implementation("halfspace")
    generate(model, ids[:, :64], HalfspaceCache(model.config, eps=options.eps), 2)  # compiles
    ours, kept = generate(model, ids, HalfspaceCache(model.config, eps=options.eps), options.new)

    print(f"context {ids.shape[1]}, {options.new} new tokens, eps {options.eps}, {options.dtype} on {options.device}")
    compare(dense, ours)
    assert kept is not None
    print(
        f"keys kept: {np.mean(kept.shares):.2%} in the mean of all heads and steps; dropped at most {kept.dropped:.2e}"
    )
    for name, run in (("dense", dense), ("halfspace", ours)):
        print(f"{name}: prefill {run.prefill:.1f} s, {1e3 * run.decode / options.new:.1f} ms a token")


if __name__ == "__main__":
    main()
