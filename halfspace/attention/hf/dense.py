"""Dense attention of a prefill, and of layers that keep their keys in a cache of transformers."""

from dataclasses import dataclass

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["Logits", "attend_densely"]

MOST_SCORES = 1 << 22
"""Scores of a head that are held at once where PyTorch's own attention does not serve."""


@dataclass(frozen=True, eq=False)
class Logits:
    """How <q, k> becomes a logit.

    scale : None for 1 / sqrt(head_dim); cap : s becomes cap * tanh(s / cap), None: it stays
    sinks : logits (query heads,) of learnt sinks, or None
    """

    scale: float | None
    cap: float | None
    sinks: torch.Tensor | None


def attend_densely(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    logits: Logits,
    dropout: float,
    causal: bool | None,
) -> torch.Tensor:
    """Attend over all keys that the mask allows.

    query : (batch, query heads, tokens, head_dim); key, value : (batch, KV heads, keys, head_dim)
    mask : as for PyTorch's attention, None where attention is causal, or not restricted

    Returns (batch, tokens, query heads, head_dim).
    """
    if logits.cap is None and logits.sinks is None:
        output: torch.Tensor = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=logits.scale, is_causal=causal
        )[0]
        return output
    tokens, keys = query.shape[2], key.shape[2]
    if mask is None and tokens > 1 and (causal or (causal is None and getattr(module, "is_causal", True))):
        mask = torch.ones(1, 1, tokens, keys, dtype=torch.bool, device=query.device).tril(keys - tokens)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    step = max(1, MOST_SCORES // max(keys, 1))
    parts = []
    for first in range(0, tokens, step):
        rows = slice(first, first + step)
        allowed = None if mask is None else mask[:, :, rows] if mask.shape[2] > 1 else mask
        weights = _weights(query[:, :, rows], key, allowed, logits)
        weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
        parts.append(weights @ value)
    return torch.cat(parts, 2).transpose(1, 2).contiguous()


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, logits: Logits) -> torch.Tensor:
    """Return the softmax (batch, query heads, tokens, keys) of which learnt sinks have taken their part."""
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if logits.scale is None else logits.scale)
    if logits.cap is not None:
        scores = logits.cap * torch.tanh(scores / logits.cap)
    if mask is not None:
        least = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
    if logits.sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    sinks = logits.sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat([scores, sinks], -1).softmax(-1, dtype=torch.float32)[..., :-1].to(query.dtype)
