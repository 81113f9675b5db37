"""The attention function of transformers' models: of keys that a `HalfspaceCache` returned, and dense of all others."""

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from halfspace.attention.hf.dense import Logits, attend_densely
from halfspace.attention.hf.layer import OWNER, HalfspaceLayer
from halfspace.attention.hf.paged import BATCH, OF_BATCHES, Batch

__all__ = ["NAME", "attention", "register"]

NAME = "halfspace"
_HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "labels",
        "logits_to_keep",
        "mm_token_type_ids",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "token_type_ids",
        "use_cache",
    }
)
"""Arguments that attention functions are passed and that do not change what they compute."""


def register() -> None:
    """Make ``attn_implementation="halfspace"`` known to transformers, with the masks of ``"sdpa"``."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.compiler.disable  # a compiled model calls it as it is
def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, as an attention function of transformers does.

    Parameters
    ----------
    query : tensor, shape (batch, query heads, tokens, head_dim)
    key, value : tensor, shape (batch, KV heads, tokens, head_dim)
        What the cache returned. Attention is dense without a cache, with another one, and in layers that keep their
        keys in a cache layer of transformers.

    Returns
    -------
    output : tensor, shape (batch, tokens, query heads, head_dim)
    weights : None

    Raises
    ------
    NotImplementedError
        If attention is asked for that is not served. A `HalfspaceCache` is as it was before the step then.
    """
    batch: Batch | None = getattr(key, BATCH, None)
    if batch is not None:
        others = {name: given for name, given in kwargs.items() if name not in OF_BATCHES}
        return batch.attend(module, query, key, value, *_logits(scaling, others)), None
    layer: HalfspaceLayer | None = getattr(key, OWNER, None)
    try:
        logits, window = _logits(scaling, dict(kwargs))

        def dense(keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            return attend_densely(module, query, keys, values, mask, logits, dropout, is_causal)

        if layer is None:
            return dense(key, value, attention_mask), None
        if window is not None:
            raise NotImplementedError(
                "halfspace attention does not serve sliding_window in a layer that its config has as full attention"
            )
        if dropout:
            raise NotImplementedError("halfspace attention with a cache has no dropout")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if not causal and attention_mask is None and query.shape[2] > 1:
            raise NotImplementedError("halfspace attention with a cache is causal")
        return layer.attend(query, key, value, attention_mask, logits, dense), None
    except BaseException:
        if layer is not None:
            layer.undo_step()
        raise


def _logits(scale: float | None, kwargs: dict[str, Any]) -> tuple[Logits, int | None]:
    """Take from further arguments what becomes of logits, and the width of a window; refuse what changes anything."""
    cap, sinks, window = (kwargs.pop(name, None) for name in ("softcap", "s_aux", "sliding_window"))
    for name, given in kwargs.items():
        if given is not None and given is not False and name not in _HARMLESS:
            raise NotImplementedError(f"halfspace attention does not serve {name}")
    return Logits(scale, cap, sinks), window
