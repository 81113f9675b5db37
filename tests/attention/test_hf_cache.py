"""What a HalfspaceCache can do: be cropped, reset, copied and reordered, as models and generation ask for it."""

import copy
import itertools

import pytest
import torch
import transformers
from helpers.models import CACHE, TAU, cache_of, close, generated, logits, made, padded
from transformers import DynamicCache

from halfspace.attention import KVIndex, hf


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
    assert tuple(layer.keys.shape) == tuple(layer.values.shape) == (3, 2, 40, 64)
    assert layer.keys.data_ptr() == layer.index.stored()[0].ctypes.data
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


@pytest.mark.parametrize("lengths", [None, (40, 9, 23)], ids=str)
def test_keys_and_values_lie_where_those_of_a_dynamic_cache_do(lengths, sparse, dense, prompts):
    ids, mask = padded(prompts, lengths or (40, 40, 40), "left")
    cache, other = cache_of(sparse), DynamicCache()
    assert cache.layers[0].keys is None
    for model, kept in ((sparse, cache), (dense, other)):
        logits(model, ids, kept, mask)
        logits(model, prompts[:, :2], kept, torch.cat([mask, torch.ones(3, 2, dtype=torch.long)], -1))
    places = torch.cat([mask, torch.ones(3, 2, dtype=torch.long)], -1).bool()[:, None, :, None]
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        close(mine.keys, theirs.keys * places)
        close(mine.values, theirs.values * places)


@pytest.mark.parametrize("lengths", [None, (40, 9, 23)], ids=str)
def test_a_dynamic_cache_is_taken_over(lengths, sparse, dense, prompts):
    ids, mask = padded(prompts, lengths or (40, 40, 40), "left")
    theirs = DynamicCache()
    logits(dense, ids, theirs, mask)
    how = {"tau": TAU, "capacity": 64}
    cache = hf.HalfspaceCache.from_cache(theirs, sparse.config, attention_mask=mask, **how)
    own = cache_of(sparse, **how)
    logits(sparse, ids, own, mask)
    order = torch.tensor([2, 0])
    for kept in (cache, own):
        kept.reorder_cache(order)
        kept.crop(-3)
    longer = torch.cat([mask[order, :-3], torch.ones(2, 1, dtype=torch.long)], -1)
    for token in (3, 4):
        close(*(logits(sparse, torch.full((2, 1), token), kept, longer) for kept in (cache, own)))
        longer = torch.cat([longer, torch.ones(2, 1, dtype=torch.long)], -1)
    assert theirs.get_seq_length() == 40
    assert hf.HalfspaceCache.from_cache(DynamicCache(config=dense.config), sparse.config, tau=0.0).get_seq_length() == 0
    with pytest.raises(ValueError, match="must have the 2 layers"):
        hf.HalfspaceCache.from_cache(DynamicCache(), sparse.config, tau=0.0)
    with pytest.raises(ValueError, match="attention_mask must have shape"):
        hf.HalfspaceCache.from_cache(theirs, sparse.config, attention_mask=mask[:, 1:], tau=0.0)


def test_a_prompt_is_kept_in_a_file(sparse, prompts, tmp_path):
    cache = cache_of(sparse, tau=TAU)
    ids, mask = padded(prompts, (40, 9, 23), "left")
    logits(sparse, ids, cache, mask)
    torch.save(cache, tmp_path / "prompt.pt")
    loaded = torch.load(tmp_path / "prompt.pt", weights_only=False)
    longer = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], -1)
    found, expected = (logits(sparse, prompts[:, :1], kept, longer) for kept in (loaded, cache))
    assert torch.equal(found, expected)


def test_a_prompt_in_small_pieces_is_dense_where_the_caller_says_so(sparse, dense, prompts):
    """Decoded by a threshold that nothing reaches, tokens would attend to nothing."""
    nothing = {"tau": 1e9}
    expected = logits(dense, prompts, None)
    cache = cache_of(sparse, **nothing)
    with cache.prefill():
        pieces = [logits(sparse, prompts[:, at : at + 8], cache) for at in range(0, 40, 8)]
    close(torch.cat(pieces, 1), expected)
    assert cache.layers[0].index.lengths.tolist() == [40] * 3
    for most, same in ((7, True), (8, False)):
        cache = cache_of(sparse, dense_above=most, **nothing)
        pieces = [logits(sparse, prompts[:, at : at + 8], cache) for at in range(0, 40, 8)]
        assert torch.allclose(torch.cat(pieces, 1), expected, atol=1e-3) is same


def test_another_cache_is_dense(sparse, dense, prompts):
    """No cache given, one of transformers, and the second one that guidance and an assistant make for themselves."""
    expected = generated(dense, prompts)
    assert torch.equal(generated(sparse, prompts), expected)
    assert torch.equal(generated(sparse, prompts, DynamicCache(config=sparse.config)), expected)
    guided = {"guidance_scale": 1.5, "negative_prompt_ids": prompts[:, :7]}
    assert torch.equal(generated(sparse, prompts, cache_of(sparse), **guided), generated(dense, prompts, **guided))
    helper = made(num_hidden_layers=1)  # which has halfspace attention, and a cache of its own
    ids, options = prompts[:1], {"max_new_tokens": 12}
    helped = generated(sparse, ids, cache_of(sparse), assistant_model=helper, **options)
    assert torch.equal(helped, generated(dense, ids, **options))


def test_steps_with_gradients(sparse, dense, prompts):
    """Nothing says no_grad: numbers are the same, and keys of the step are not kept alive by the cache."""
    cache = cache_of(sparse)
    for rows in (slice(0, 20), slice(20, 21), slice(21, 24)):
        found = sparse(prompts[:, rows], use_cache=True, **{CACHE: cache}).logits
        assert found.requires_grad
    close(found.detach(), logits(dense, prompts[:, :24], None)[:, -3:])


@pytest.mark.parametrize("at", [0, 1])
def test_a_failed_step_leaves_the_cache_as_it_was(at, sparse, prompts, monkeypatch):
    """In the attention of either layer, in whatever the step is made of, the first one and later ones."""
    cache, plain = cache_of(sparse, tau=TAU), cache_of(sparse, tau=TAU)
    for ids in (prompts[:, :20], prompts[:, 20:21], prompts[:, 21:23]):
        for name in ("append", "attend"):
            if name == "attend" and ids.shape[1] == 20:
                continue
            with monkeypatch.context() as patch:
                calls = itertools.count()
                plainly = getattr(KVIndex, name)

                def failing(self, *args, plainly=plainly, calls=calls, **how):
                    found = plainly(self, *args, **how)
                    if next(calls) == at:
                        raise KeyboardInterrupt
                    return found

                patch.setattr(KVIndex, name, failing)
                with pytest.raises(KeyboardInterrupt):
                    logits(sparse, ids, cache)
            assert {layer.get_seq_length() for layer in cache.layers} == {plain.get_seq_length()}
        assert torch.equal(logits(sparse, ids, cache), logits(sparse, ids, plain))
        assert torch.equal(cache.layers[1].keys, plain.layers[1].keys)


def test_a_compiled_model_leaves_attention_out(prompts):
    """What is around it is compiled, here by a backend that runs it as it is."""
    model = made()
    compiled = torch.compile(model, backend="eager")
    cache, plain = cache_of(model, tau=TAU), cache_of(model, tau=TAU)
    for rows in (slice(0, 20), slice(20, 21), slice(21, 22)):
        close(*(logits(one, prompts[:, rows], kept) for one, kept in ((compiled, cache), (model, plain))), 1e-5)
    assert cache.layers[0].index.lengths.tolist() == [22] * 3
