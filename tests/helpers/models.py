"""Small language models of transformers, made at random, and what they generate with a cache."""

from inspect import signature

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from halfspace.attention import hf

CACHE = "cache" if "cache" in signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What models call the argument: `cache` since transformers 5.24."""
EVERYTHING = {"tau": -np.inf}
TAU = 40.0  # of <q, k>: about a fifth of the keys of these models reach it, and what they give changes
VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
}
hf.register()


def made(kind="llama", implementation="halfspace", dtype=torch.float32, **sizes):
    model, config, more = KINDS[kind]
    torch.manual_seed(0)
    return (
        model._from_config(config(**SIZES | more | sizes), attn_implementation=implementation, dtype=torch.float32)
        .to(dtype)
        .eval()
    )


def generated(model, ids, cache=None, **options):
    options = {"max_new_tokens": 16, "do_sample": False, CACHE: cache} | options
    return model.generate(ids, attention_mask=options.pop("mask", torch.ones_like(ids)), **options)


def cache_of(model, **how):
    return hf.HalfspaceCache(model.config, **(how or EVERYTHING))


def logits(model, ids, cache, mask=None, **more):
    with torch.no_grad():
        return model(ids, attention_mask=mask, use_cache=True, **{CACHE: cache}, **more).logits


def close(a, b, tolerance=2e-4):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance, atol=tolerance)


def padded(prompts, lengths, side):
    ids, mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
        ids[row, place], mask[row, place] = prompts[row, :length], 1
    return ids, mask.long()
