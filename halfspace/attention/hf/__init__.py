"""The cache of `transformers`: its models generate with a `halfspace.attention.KVIndex` for each layer.

>>> import torch
>>> from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
>>> from halfspace.attention.hf import HalfspaceCache, attention, register
>>> register()
>>> AttentionInterface()["halfspace"] is attention
True
>>> sizes = dict(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
>>> config = LlamaConfig(**sizes, num_key_value_heads=1, head_dim=64, pad_token_id=0, eos_token_id=None)
>>> model = LlamaForCausalLM._from_config(config, attn_implementation="halfspace").eval()
>>> cache = HalfspaceCache(config, eps=1e-3)
>>> prompt = torch.arange(1, 21)[None]
>>> tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, cache=cache)
>>> tokens.shape, cache.layers[0].index.lengths.tolist()
(torch.Size([1, 25]), [24])

Steps in `prefill` are dense whatever their size; and a cache of transformers can be taken over:

>>> from transformers import DynamicCache
>>> pieces = HalfspaceCache(config, eps=1e-3)
>>> with torch.no_grad(), pieces.prefill():
...     for piece in prompt.split(7, dim=1):
...         _ = model(piece, past_key_values=pieces)
>>> pieces.layers[0].index.lengths.tolist()
[20]
>>> dense = DynamicCache(config=config)
>>> with torch.no_grad():
...     _ = model(prompt, past_key_values=dense)
>>> HalfspaceCache.from_cache(dense, config, eps=1e-3).layers[0].index.lengths.tolist()
[20]
"""

from halfspace.attention.hf.cache import HalfspaceCache
from halfspace.attention.hf.function import attention, register
from halfspace.attention.hf.serving import batching

__all__ = ["HalfspaceCache", "attention", "batching", "register"]
