"""Language models of transformers: tokens and logits with a HalfspaceCache against those with a DynamicCache."""

import numpy as np
import pytest
import torch
from helpers.models import EVERYTHING, KINDS, TAU, VOCABULARY, cache_of, close, generated, logits, made, padded
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import sdpa_mask

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
    close(torch.cat(found, 1), logits(dense, ids, None))
