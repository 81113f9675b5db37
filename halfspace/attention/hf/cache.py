"""The index as the KV cache of language models of Hugging Face transformers, versions 4.57 and 5.

    register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="halfspace")
    model.generate(**inputs, cache=HalfspaceCache(model.config, eps=1e-3))  # past_key_values= before transformers 5.24

The first step, the prefill, is dense. Each token after it attends over exactly the keys that reach a threshold. The
attention function gets no cache, but the keys that the cache returned: they carry an attribute that leads to its layer.
"""

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from halfspace.arguments import checks
from halfspace.attention.hf.layer import OWNER, HalfspaceLayer
from halfspace.attention.hf.masks import Masks
from halfspace.attention.policy import Threshold

__all__ = ["HalfspaceCache", "attention", "register"]

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


class HalfspaceCache(Cache):
    """A transformers cache whose layers attend over exactly the keys that reach a threshold.

    Give it to ``generate`` or to the model as ``cache``, which is ``past_key_values`` in transformers before 5.24.
    Exactly one of `tau`, `eps` and `keep` is given; see `KVIndex.attend` for them and for `estimator`.

    The first step is dense, and so are later ones of more than 64 tokens.
    In shorter ones each token attends by its threshold.
    Greedy and beam search, sampling, assisted decoding and batches with padding work as with a `DynamicCache`.
    Padding is not stored.

    Parameters
    ----------
    config : PretrainedConfig
        The model's.
    tau : float or array, optional
        The threshold of <q, k>, without the scale.
    eps : float, optional
        The share of each head's softmax that may be dropped, proved at run time.
    keep : float, optional
        About the share of the keys to be kept.
    estimator : {"budget", "max", "gap"}
        How `keep` becomes a threshold.
    recent, sinks : int
        So many of the last, and of the first, tokens are attended whatever their scores.
    capacity : int, optional
        Tokens that each sequence has room for; by default room grows.
    offload : bool
        On a GPU: keep keys and values in the host's memory.
    threads : int, optional
        Threads of a call on the CPU.

    Raises
    ------
    NotImplementedError
        If the model has attention that is not served: sliding windows or chunks, soft-capped logits, ALiBi, layers that
        share keys, an encoder. Of what only the call of attention shows, sinks and biases that are learnt, a custom
        mask, dropout, it is raised there, before anything is stored.
    """

    def __init__(
        self,
        config: Any,
        *,
        tau: Any = None,
        eps: float | None = None,
        keep: float | None = None,
        estimator: str = "budget",
        recent: int = 0,
        sinks: int = 0,
        capacity: int | None = None,
        offload: bool = False,
        threads: int | None = None,
    ) -> None:
        text = config.get_text_config(decoder=True)
        _must_serve(config)
        _must_serve(text)
        how = Threshold.of(tau, eps, keep, estimator)
        options = {
            "recent": checks.as_count(recent, "recent", 0),
            "sinks": checks.as_count(sinks, "sinks", 0),
            "capacity": capacity if capacity is None else checks.as_count(capacity, "capacity", 1),
            "offload": offload,
            "threads": threads if threads is None else checks.as_count(threads, "threads", 1),
        }
        masks = Masks()
        super().__init__(layers=[HalfspaceLayer(how, masks, **options) for _ in range(text.num_hidden_layers)])


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
        What the cache returned. Without a cache, attention is dense.

    Returns
    -------
    output : tensor, shape (batch, tokens, query heads, head_dim)
    weights : None

    Raises
    ------
    NotImplementedError
        If attention is asked for that is not served.
    """
    for name, given in kwargs.items():
        if given is not None and given is not False and name not in _HARMLESS:
            raise NotImplementedError(f"halfspace attention does not serve {name}")

    def dense(keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        output: torch.Tensor = sdpa_attention_forward(
            module, query, keys, values, mask, dropout=dropout, scaling=scaling, is_causal=is_causal
        )[0]
        return output

    layer: HalfspaceLayer | None = getattr(key, OWNER, None)
    if layer is None:
        if key.shape[2] != query.shape[2]:
            raise NotImplementedError(
                "halfspace attention needs keys as a HalfspaceCache returned them: give the model one as cache= "
                "(past_key_values= in transformers before 5.24)"
            )
        return dense(key, value, attention_mask), None
    if dropout:
        raise NotImplementedError("halfspace attention with a cache has no dropout")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal and attention_mask is None and query.shape[2] > 1:
        raise NotImplementedError("halfspace attention with a cache is causal")
    return layer.attend(query, key, value, attention_mask, scaling, dense), None


def _must_serve(config: Any) -> None:
    """Raise if a config has attention that is not served."""

    def has(name: str) -> Any:
        return getattr(config, name, None)

    if has("layer_types") is None:
        kinds = [name for name in ("sliding_window", "attention_chunk_size") if has(name) is not None]
    else:
        kinds = sorted(set(config.layer_types) - {"full_attention"})
    kinds += [name for name in ("attn_logit_softcapping", "alibi", "is_encoder_decoder") if has(name)]
    kinds += [name for name in ("num_kv_shared_layers", "kv_sharing_modes") if has(name)]
    if kinds:
        raise NotImplementedError(f"halfspace attention does not serve {config.model_type} with {', '.join(kinds)}")
