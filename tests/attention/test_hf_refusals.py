"""Models, arguments, masks and thresholds that the cache for transformers does not serve: refused before it decodes."""

import pytest
import torch
import transformers
from helpers.models import cache_of, generated, logits, made, padded

from halfspace.attention import hf

OLD = transformers.__version__ < "5"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("FalconConfig", {"alibi": True}),
        ("T5Config", {}),
        ("Gemma3nTextConfig", {}),
        pytest.param("FalconH1Config", {}, marks=pytest.mark.skipif(OLD, reason="it has a cache of its own")),
        pytest.param("Qwen3NextConfig", {}, marks=pytest.mark.skipif(not OLD, reason="it is served")),
    ],
)
def test_configs_that_are_not_served(kind, config):
    with pytest.raises(NotImplementedError, match="does not serve"):
        hf.HalfspaceCache(getattr(transformers, kind)(**config), eps=0.1)


@pytest.mark.parametrize(
    "more", [{"sliding_window": 8}, {"position_bias": torch.zeros(1)}, {"output_attentions": True}], ids=str
)
def test_arguments_that_are_not_served(more, sparse, prompts):
    cache = cache_of(sparse)
    with pytest.raises(NotImplementedError, match=next(iter(more))):
        logits(sparse, prompts, cache, **more)
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize(
    "how", [{}, {"tau": 0.0, "eps": 0.1}, {"eps": 2.0}, {"keep": 0.1, "estimator": "none"}], ids=str
)
def test_thresholds_are_checked_at_once(how, sparse):
    with pytest.raises(ValueError, match=r"tau, eps and keep|eps must|estimator must"):
        hf.HalfspaceCache(sparse.config, **how)


def test_a_model_with_other_attention_is_refused_before_it_decodes(dense, prompts):
    cache = cache_of(dense)
    with pytest.raises(RuntimeError, match="attn_implementation='halfspace'"):
        logits(dense, prompts, cache)
    assert cache.get_seq_length() == 0
    alone = made(num_hidden_layers=1, implementation="sdpa")
    cache = cache_of(alone)
    logits(alone, prompts, cache)  # only the next step tells
    with pytest.raises(RuntimeError, match="attn_implementation='halfspace'"):
        logits(alone, prompts[:, :1], cache)
    assert cache.get_seq_length() == 0


def test_masks_that_are_not_served(sparse, prompts):
    cache = cache_of(sparse)
    ids, mask = padded(prompts, (40, 9, 23), "left")
    logits(sparse, ids, cache, mask)
    token = prompts[:, :1]
    with pytest.raises(NotImplementedError, match="needs the attention mask"):
        logits(sparse, token, cache, torch.ones(3, 41, dtype=torch.long))
    mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], -1)
    mask[0, 3] = 0
    with pytest.raises(NotImplementedError, match="contradicts"):
        logits(sparse, token, cache, mask)
    assert cache.get_seq_length() == 40
    for wrong in (torch.zeros(3, 1, 1, 41), torch.ones(3, 4, 1, 41, dtype=torch.bool), torch.ones(3, 1, 1, 40) > 0):
        with pytest.raises(NotImplementedError, match="mask"):
            logits(sparse, token, cache, wrong)


def test_dropout_and_attention_in_both_directions(prompts):
    model = made(attention_dropout=0.1).train()
    with pytest.raises(NotImplementedError, match="dropout"):
        logits(model, prompts, cache_of(model))
    model.eval()
    with pytest.raises(NotImplementedError, match="causal"):
        logits(model, prompts, cache_of(model), is_causal=False)


def test_capacity_and_offloading(sparse, prompts):
    cache = cache_of(sparse, tau=0.0, capacity=64)
    with pytest.raises(ValueError, match="capacity"):
        generated(sparse, prompts, cache, max_new_tokens=40)
    with pytest.raises(NotImplementedError, match="offload=True"):
        cache.layers[0].offload()
    with pytest.raises(ValueError, match="offload"):
        logits(sparse, prompts, cache_of(sparse, tau=0.0, offload=True))
