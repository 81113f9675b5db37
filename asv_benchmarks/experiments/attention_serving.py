"""Time decode steps of continuous batching with SmolLM2-135M-Instruct: transformers' own attention, and by thresholds.

    python -m asv_benchmarks.experiments.attention_serving --requests 8 --prefix 2000 --tokens 12

Requests share the pages of a prefix, and have some tokens of their own. Steps of all requests at once are timed, one
token each; CPU time is that of all threads.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from asv_benchmarks.experiments.quality.tasks import reference_text
from halfspace.attention.hf import batching
from halfspace.bench import smollm

PAGE = 256
HOW: dict[str, dict[str, Any]] = {
    "sdpa": {},
    "eps = 0.1": {"eps": 0.1},
    "eps = 0.01": {"eps": 0.01},
    "keep = 0.05": {"keep": 0.05},
}


@contextmanager
def served(model: Any, how: dict[str, Any], settings: dict[str, Any]) -> Iterator[Any]:
    """A manager at work: with a threshold, or transformers' own."""
    if how:
        with batching(model, **how, **settings) as manager:
            yield manager
    else:
        model.set_attn_implementation("sdpa")
        with model.continuous_batching_context_manager(**settings) as manager:
            yield manager


def main() -> None:
    """Read the options, serve with each attention, and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=list(HOW), default=list(HOW))
    options = parser.parse_args()
    model, tokenizer = smollm.load()
    text = tokenizer(reference_text()[: 12 * options.prefix])["input_ids"]
    rest = text[options.prefix :]
    prompts = [text[: options.prefix] + rest[20 * k : 20 * k + 20] for k in range(options.requests)]
    pages = options.requests * (-(-(options.prefix + 20 + options.tokens) // PAGE) + 1)
    settings = {
        "generation_config": GenerationConfig(max_new_tokens=options.tokens, do_sample=False, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=512),
    }
    said: dict[str, dict[str, list[int]]] = {}
    for name in options.only:
        steps: list[tuple[int, float, float]] = []
        with served(model, HOW[name], settings) as manager:
            step = manager._generation_step

            def timed(step: Any = step, manager: Any = manager, steps: Any = steps) -> None:
                tokens, wall, cpu = (
                    manager.batch_processor.inputs_and_outputs.num_q_tokens,
                    time.perf_counter(),
                    time.process_time(),
                )
                step()
                steps.append((tokens, time.perf_counter() - wall, time.process_time() - cpu))

            manager._generation_step = timed
            first = manager.add_requests(prompts[:1])  # its pages are shared by the others
            results = [manager.get_result(timeout=300)]
            names = manager.add_requests(prompts[1:] + prompts[:1])
            results += [manager.get_result(timeout=300) for _ in names]
        said[name] = {one.request_id: one.generated_tokens for one in results}
        own = [row for row in steps if row[0] == options.requests][1:]
        wall, cpu = (1e3 * median(row[at] for row in own) for at in (1, 2))
        same = sum(said[name][one] == said[options.only[0]][one] for one in [*first, *names])
        print(f"{name:12} {wall:8.1f} ms, CPU {cpu:8.1f} ms a step of {options.requests} requests ({len(own)} steps); ")
        print(f"{'':12} answers as with {options.only[0]}: {same} of {len(names) + 1}", flush=True)


if __name__ == "__main__":
    main()
