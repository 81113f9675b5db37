"""A teacher-forced decode by way of transformers, token by token, as `generate` would go."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache

from asv_benchmarks.experiments.quality.decoding import CACHE, Decoded, Lab
from halfspace.attention.hf import HalfspaceCache, register

CHOICES: tuple[dict[str, Any], ...] = ({"eps": 1e-1}, {"eps": 1e-2}, {"eps": 1e-3}, {"keep": 0.05})


def decodes(lab: Lab) -> Iterator[tuple[dict[str, Any], Decoded]]:
    """Yield rows and what came out: of dense attention (`sdpa`), then of the index as a cache."""
    register()
    config = lab.model.config
    yield {"method": "dense, sdpa"}, decode(lab, "sdpa", DynamicCache(config=config))
    for how in CHOICES:
        yield {"method": "HalfspaceCache", **how}, decode(lab, "halfspace", HalfspaceCache(config, **how))


@torch.inference_mode()
def decode(lab: Lab, attention: str, cache: Any) -> Decoded:
    """Read the lab's prompt and go through its text a token at a time."""
    lab.model.set_attn_implementation(attention)
    lab.model(lab.prompt[None], **{CACHE: cache}, use_cache=True, logits_to_keep=1)
    logits = [lab.model(token.view(1, 1), **{CACHE: cache}, use_cache=True).logits[0, -1] for token in lab.text]
    lab.model.set_attn_implementation("quality")
    return Decoded(torch.stack(logits).float(), None)
