"""Time a decode step of SmolLM2-135M-Instruct after a long text: dense attention, and the halfspace's by thresholds.

    python -m asv_benchmarks.experiments.attention_decode --context 8000 --steps 40

One prefill is read by all. Each step is taken with every cache before the next one; CPU time is that of all threads.
What lies outside attention is nearly what a step over 16 tokens takes.
"""

import argparse
import time
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache

from asv_benchmarks.experiments.quality.decoding import CACHE
from asv_benchmarks.experiments.quality.tasks import reference_text
from halfspace.attention.hf import HalfspaceCache
from halfspace.bench import smollm

HOW: dict[str, dict[str, Any]] = {
    "eps = 0.1": {"eps": 0.1},
    "eps = 0.01": {"eps": 0.01},
    "keep = 0.05": {"keep": 0.05},
}


def main() -> None:
    """Read the options, read the text, and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    model, tokenizer = smollm.load()
    tokens = tokenizer(reference_text()[: 8 * options.context])["input_ids"]
    ids = torch.tensor([tokens[: options.context + options.steps]])
    dense, bare = DynamicCache(config=model.config), DynamicCache(config=model.config)

    def step(given: torch.Tensor, cache: Any) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            model(given, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        return time.perf_counter() - wall, time.process_time() - cpu

    print(f"prefill {step(ids[:, : options.context], dense)[0]:.1f} s", flush=True)
    step(ids[:, :16], bare)
    caches: dict[str, Any] = {"16 tokens": bare, "dense": dense}
    for name, how in HOW.items():
        caches[name] = HalfspaceCache.from_cache(dense, model.config, **how)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in caches}
    for at in range(options.context, options.context + options.steps):
        for name, cache in caches.items():
            spent[name].append(step(ids[:, at : at + 1], cache))
    middle = {name: [1e3 * median(column) for column in zip(*rows[4:], strict=True)] for name, rows in spent.items()}
    for name, (wall, cpu) in middle.items():
        share = middle["dense"][1] / cpu
        print(f"{name:12} {wall:7.1f} ms, CPU {cpu:7.1f} ms, dense CPU over this {share:.2f}")


if __name__ == "__main__":
    main()
