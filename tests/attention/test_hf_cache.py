"""What a HalfspaceCache can do: be cropped, reset, copied and reordered, as models and generation ask for it."""

import copy

import pytest
import torch
import transformers
from helpers.models import cache_of, close, generated, logits, made, padded
from transformers import DynamicCache


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
