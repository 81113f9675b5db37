"""Language models of transformers: tokens and logits with a HalfspaceCache against those with a DynamicCache."""

import copy
from inspect import signature

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.masking_utils import sdpa_mask

from halfspace.attention import hf
from halfspace.attention.hf.layer import MOST_DECODED

CACHE = "cache" if "cache" in signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What models call the argument: `cache` since transformers 5.24."""
EVERYTHING = {"tau": -np.inf}
VOCABULARY = 96
TAU = 40.0  # of <q, k>: about a fifth of the keys of these models reach it, and what they give changes
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


@pytest.fixture(scope="module")
def dense():
    return made(implementation="sdpa")


@pytest.fixture(scope="module")
def sparse():
    return made()


@pytest.fixture(scope="module")
def prompts():
    return torch.from_numpy(np.random.default_rng(7).integers(1, VOCABULARY, (3, 40)))


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


# -- generation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_search_gives_the_tokens_of_dense_attention(kind, prompts):
    model = made(kind)
    cache = cache_of(model)
    assert torch.equal(generated(model, prompts, cache), generated(made(kind, "sdpa"), prompts))
    assert cache.get_seq_length() == prompts.shape[1] + 15


@pytest.mark.parametrize("how", [{"eps": 1e-5}, {"keep": 1.0}, {"tau": -1e3}, {"tau": [-1e3] * 4}], ids=str)
def test_thresholds_that_drop_next_to_nothing_change_no_token(how, dense, sparse, prompts):
    if "tau" in how:
        how = {"tau": np.array(how["tau"])}
    assert torch.equal(generated(sparse, prompts, cache_of(sparse, **how)), generated(dense, prompts))


def test_sampling(dense, sparse, prompts):
    draws = []
    for model, cache in ((dense, None), (sparse, cache_of(sparse, eps=1e-6))):
        torch.manual_seed(3)
        draws.append(generated(model, prompts, cache, do_sample=True, num_return_sequences=2))
    assert torch.equal(*draws)


def test_beam_search(dense, sparse, prompts):
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 10}
    found = generated(sparse, prompts[:2], cache_of(sparse, eps=1e-6), **options)
    assert torch.equal(found, generated(dense, prompts[:2], **options))


def test_beam_search_with_padding(dense, sparse, prompts):
    ids, mask = padded(prompts, (40, 9), "left")
    options = {"num_beams": 2, "max_new_tokens": 8, "mask": mask}
    assert torch.equal(generated(sparse, ids, cache_of(sparse), **options), generated(dense, ids, **options))


@pytest.mark.parametrize("how", [EVERYTHING, {"tau": TAU}], ids=str)
def test_assisted_decoding_gives_the_tokens_of_greedy_search(how, sparse, prompts):
    helper = made(num_hidden_layers=1, implementation="sdpa")
    ids = prompts[:1, :12].repeat(1, 3)
    alone, lookup, helped = (
        generated(sparse, ids, cache_of(sparse, **how), max_new_tokens=20, eos_token_id=VOCABULARY - 1, **more)
        for more in ({}, {"prompt_lookup_num_tokens": 4}, {"assistant_model": helper})
    )
    assert torch.equal(lookup, alone)
    assert torch.equal(helped, alone)


def test_a_conversation_goes_on_from_its_cache(dense, sparse, prompts):
    cache, ids = cache_of(sparse), prompts[:1]
    for _ in range(2):
        ids = generated(sparse, ids, cache, max_new_tokens=6)
        ids = torch.cat([ids, prompts[1:2, :9]], -1)
    expected = prompts[:1]
    for _ in range(2):
        expected = torch.cat([generated(dense, expected, max_new_tokens=6), prompts[1:2, :9]], -1)
    assert torch.equal(ids, expected)


def test_inference_mode(dense, sparse, prompts):
    with torch.inference_mode():
        assert torch.equal(generated(sparse, prompts, cache_of(sparse, eps=1e-5)), generated(dense, prompts))


# -- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_formats(dtype, tolerance, prompts):
    model, expected = made(dtype=dtype), made(implementation="sdpa", dtype=dtype)
    cache, other = cache_of(model), DynamicCache()
    for rows in (slice(0, 30), *(slice(at, at + 1) for at in range(30, 36))):
        found = logits(model, prompts[:, rows], cache)
        assert found.dtype == dtype
        close(found.float(), logits(expected, prompts[:, rows], other).float(), tolerance)
    assert cache.layers[0].index.dtype.name == str(dtype).removeprefix("torch.")


def thresholded(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attend over the keys whose product with the query reaches TAU, but densely at first."""
    key, value = (rows.repeat_interleave(query.shape[1] // key.shape[1], 1) for rows in (key, value))
    scores = query.double() @ key.double().transpose(2, 3)
    positions = torch.arange(key.shape[2])
    kept = positions[-query.shape[2] :, None] >= positions
    if key.shape[2] > query.shape[2]:
        kept = kept & (scores >= TAU)
    weights = (scores * scaling).masked_fill(~kept, -torch.inf).softmax(-1).nan_to_num(0.0)
    return (weights @ value.double()).to(query.dtype).transpose(1, 2).contiguous(), None


def test_exactly_the_keys_above_tau_are_attended(sparse, prompts):
    AttentionInterface.register("thresholded", thresholded)
    AttentionMaskInterface.register("thresholded", sdpa_mask)
    reference = made(implementation="thresholded")
    cache, other = cache_of(sparse, tau=TAU), DynamicCache()
    for start, stop in ((0, 20), (20, 21), (21, 22), (22, 26), (26, 27)):
        found = logits(sparse, prompts[:, start:stop], cache)
        close(found, logits(reference, prompts[:, start:stop], other))
    assert not torch.allclose(found, logits(made(implementation="sdpa"), prompts[:, :27], None)[:, -1:], atol=1e-2)


def padded(prompts, lengths, side):
    ids, mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
        ids[row, place], mask[row, place] = prompts[row, :length], 1
    return ids, mask.long()


def test_a_batch_with_padding_gives_what_each_sequence_gives_alone(sparse, prompts):
    lengths = 40, 9, 1
    ids, mask = padded(prompts, lengths, "left")
    cache = cache_of(sparse, tau=TAU)
    found = generated(sparse, ids, cache, mask=mask)
    for row, length in enumerate(lengths):
        alone = generated(sparse, prompts[row : row + 1, :length], cache_of(sparse, tau=TAU))
        assert torch.equal(found[row, -16:], alone[0, -16:])
    assert cache.layers[1].index.lengths.tolist() == [length + 15 for length in lengths]
    assert cache.get_seq_length() == 40 + 15


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("steps", [(1, 1, 3), (80, 1), (1, 70, 2)], ids=str)
def test_steps_after_padding(side, steps, dense, sparse, prompts):
    lengths = 40, 9, 23
    ids, mask = padded(prompts, lengths, side)
    cache, other = cache_of(sparse), DynamicCache()
    rng = np.random.default_rng(3)
    for rows in (None, *steps):
        if rows is not None:
            ids = torch.from_numpy(rng.integers(1, VOCABULARY, (3, rows)))
            mask = torch.cat([mask, torch.ones_like(ids)], -1)
            mask[1, -1] = rows != 3  # padding may come at any time
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found, expected = (
            logits(model, ids, kept, mask, position_ids=positions) for model, kept in ((sparse, cache), (dense, other))
        )
        fresh = mask[:, -ids.shape[1] :].bool()
        close(found[fresh], expected[fresh])
    assert cache.layers[0].index.lengths.tolist() == mask.sum(-1).tolist()
    assert cache.get_seq_length() == mask.shape[1]


def test_a_long_prefill_may_come_in_pieces(dense, sparse, prompts):
    ids = prompts.repeat(1, 5)
    cache = cache_of(sparse)
    found = [logits(sparse, ids[:, start : start + 90], cache) for start in (0, 90, 180)]
    assert MOST_DECODED < 90
    close(torch.cat(found, 1), logits(dense, ids, None))


# -- what a cache can do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, (40, 9, 23)], ids=str)
def test_crop(lengths, sparse, prompts):
    ids, mask = padded(prompts, lengths or (40, 40, 40), "left")
    cache, shorter = cache_of(sparse), cache_of(sparse)
    logits(sparse, ids, cache, mask)
    logits(sparse, ids[:, :25], shorter, mask[:, :25])
    cache.crop(-10)
    cache.crop(-5)
    cache.crop(99)
    assert cache.get_seq_length() == 25
    token, mask = prompts[:, -1:], torch.cat([mask[:, :25], torch.ones(3, 1, dtype=torch.long)], -1)
    found, expected = (logits(sparse, token, kept, mask) for kept in (cache, shorter))
    close(found, expected, 1e-4)
    cache.crop(20)
    assert cache.get_seq_length() == 20
    cache.crop(-20)
    assert cache.get_seq_length() == 0
    close(logits(sparse, ids[:, :25], cache, mask[:, :25]), logits(sparse, ids[:, :25], None, mask[:, :25]))


def test_crop_by_nothing_follows_transformers(sparse, prompts):
    cache, other = cache_of(sparse), DynamicCache()
    for kept in (cache, other):
        logits(sparse if kept is cache else made(implementation="sdpa"), prompts, kept)
        kept.crop(0)
    assert cache.get_seq_length() == other.get_seq_length()


def test_reset_takes_another_batch(sparse, dense, prompts):
    cache = cache_of(sparse)
    generated(sparse, prompts, cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(generated(sparse, prompts[:2], cache), generated(dense, prompts[:2]))


def test_a_prompt_is_read_once_and_continued_twice(sparse, dense, prompts):
    prompt = cache_of(sparse)
    ids, mask = padded(prompts, (40, 9, 23), "left")
    logits(sparse, ids, prompt, mask)
    for token in (3, 4):
        more, longer = torch.full((3, 1), token), torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], -1)
        other = DynamicCache()
        logits(dense, ids, other, mask)
        close(logits(sparse, more, copy.deepcopy(prompt), longer), logits(dense, more, other, longer))
    assert prompt.get_seq_length() == 40
    assert prompt.layers[0].index.lengths.tolist() == [40, 9, 23]


@pytest.mark.parametrize("lengths", [None, (40, 9, 23)], ids=str)
def test_sequences_are_repeated_and_chosen(lengths, sparse, dense, prompts):
    ids, mask = padded(prompts, lengths or (40, 40, 40), "left")
    cache, other = cache_of(sparse), DynamicCache()
    for model, kept in ((sparse, cache), (dense, other)):
        logits(model, ids, kept, mask)
        kept.batch_repeat_interleave(2)
        kept.batch_select_indices(torch.tensor([5, 0, 3]))
        kept.reorder_cache(torch.tensor([2, 2, 0, 1]))
    mask = torch.cat([mask[[1, 1, 2, 0]], torch.ones(4, 1, dtype=torch.long)], -1)
    tokens = torch.tensor([[5], [6], [7], [8]])
    close(logits(sparse, tokens, cache, mask), logits(dense, tokens, other, mask))
    cache.batch_select_indices(torch.tensor([True, False, False, True]))
    assert cache.layers[0].index.batch_size == 2


def test_keys_are_held_once(sparse, prompts):
    cache = cache_of(sparse, tau=0.0, capacity=64)
    logits(sparse, prompts, cache)
    layer = cache.layers[0]
    assert layer.keys is None
    assert layer.values is None
    assert layer._waiting is None
    assert layer.index.stats()["bytes_keys_values"] == 2 * 3 * 2 * 64 * 64 * 4
    assert cache.get_mask_sizes(torch.arange(3) if transformers.__version__ < "5" else 3, 0) == (43, 0)
    assert layer.get_max_cache_shape() == 64
    assert not cache.is_compileable
    assert cache.is_sliding == [False, False]


def test_attention_without_a_cache_is_dense(dense, sparse, prompts):
    close(sparse(prompts, use_cache=False).logits.detach(), dense(prompts, use_cache=False).logits.detach())
    loss = sparse(prompts, labels=prompts).loss
    loss.backward()
    sparse.zero_grad()


# -- what is not served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("MistralConfig", {"sliding_window": 16}),
        ("Gemma2Config", {}),
        ("GptOssConfig", {}),
        ("Llama4TextConfig", {}),
        ("FalconConfig", {"alibi": True}),
        ("T5Config", {}),
        ("Qwen3NextConfig", {}),
    ],
)
def test_configs_that_are_not_served(kind, config):
    with pytest.raises(NotImplementedError, match="does not serve"):
        hf.HalfspaceCache(getattr(transformers, kind)(**config), eps=0.1)


@pytest.mark.parametrize(
    "more", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"sliding_window": 8}, {"position_bias": torch.zeros(1)}]
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
    logits(dense, prompts, cache)
    with pytest.raises(RuntimeError, match="attn_implementation='halfspace'"):
        logits(dense, prompts[:, :1], cache)
    cache.reset()
    assert cache.get_seq_length() == 0


def test_another_cache_is_refused_before_it_decodes(sparse, prompts):
    with pytest.raises(NotImplementedError, match="HalfspaceCache"):
        generated(sparse, prompts)


def test_masks_that_are_not_served(sparse, prompts):
    cache = cache_of(sparse)
    ids, mask = padded(prompts, (40, 9, 23), "left")
    logits(sparse, ids, cache, mask)
    token = prompts[:, :1]
    with pytest.raises(NotImplementedError, match="needs the attention mask"):
        logits(sparse, token, cache, torch.ones(3, 41, dtype=torch.long))
    cache.reset()
    logits(sparse, ids, cache, mask)
    mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], -1)
    mask[0, 3] = 0
    with pytest.raises(NotImplementedError, match="contradicts"):
        logits(sparse, token, cache, mask)
    assert cache.get_seq_length() == 40
    for wrong in (torch.zeros(3, 1, 1, 41), torch.ones(3, 4, 1, 41, dtype=torch.bool), torch.ones(3, 1, 1, 40) > 0):
        cache.reset()
        logits(sparse, ids, cache)
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
