"""Models whose layers differ: full attention by the index, all else as in transformers; tokens of eager attention."""

import copy
import pickle

import numpy as np
import pytest
import torch
import transformers
from helpers.hybrids import HYBRIDS, hybrid
from helpers.models import cache_of, close, generated, logits, padded
from transformers import DynamicCache

from halfspace.attention import hf
from halfspace.attention.hf.layer import HalfspaceLayer

if transformers.__version__ < "5":
    pytest.skip("models with linear attention have caches of their own", allow_module_level=True)
EACH = pytest.mark.parametrize("kind", HYBRIDS)


@EACH
def test_tokens_are_those_of_eager_attention(kind, prompts):
    """Greedily, with padding on the left, with beams, and in a conversation; windows are full long before."""
    model, eager = hybrid(kind), hybrid(kind, "eager")
    ids, mask = padded(prompts, (40, 9, 35), "left")
    for given, options in ((prompts, {}), (ids, {"mask": mask}), (prompts[:2], {"num_beams": 3})):
        cache = cache_of(model)
        expected = generated(eager, given, **options)
        assert torch.equal(generated(model, given, cache, **options), expected)
    assert [type(layer) is HalfspaceLayer for layer in cache.layers].count(True) == {"mistral": 0}.get(
        kind, [type(layer).__name__ for layer in DynamicCache(config=model.config).layers].count("DynamicLayer")
    )
    ends = []
    for own, cache in ((model, cache_of(model)), (eager, DynamicCache(config=eager.config))):
        said = prompts[:1]
        for _ in range(3):
            said = torch.cat([generated(own, said, cache, max_new_tokens=6), prompts[1:2, :9]], -1)
        ends.append(said)
    assert torch.equal(*ends)


@EACH
def test_logits_are_those_of_eager_attention(kind, prompts):
    """In steps of a prompt, of tokens, and with padding that comes at any time."""
    model, eager = hybrid(kind), hybrid(kind, "eager")
    cache, other = cache_of(model), DynamicCache(config=eager.config)
    ids, mask = padded(prompts, (20, 9, 15), "left")
    for rows in (20, 1, 1, 1, 1):
        found, expected = (logits(one, ids, kept, mask) for one, kept in ((model, cache), (eager, other)))
        close(found[mask[:, -rows:].bool()], expected[mask[:, -rows:].bool()])
        ids = expected[:, -1:].argmax(-1) % 90 + 1
        mask = torch.cat([mask, torch.ones_like(ids)], -1)


@EACH
def test_an_interrupted_step_leaves_no_trace(kind, prompts, monkeypatch):
    """Whichever layer it does not come to: the next one gives what it would have given without it."""
    model = hybrid(kind)
    tokens = [prompts[:, :20], prompts[:, 20:21], prompts[:, 21:24]]
    plain, cache = cache_of(model), cache_of(model)
    for at, ids in enumerate(tokens):
        for layer in model.model.layers:
            mixer = next(module for name, module in layer.named_children() if "norm" not in name)
            with monkeypatch.context() as patch:
                patch.setattr(mixer, "forward", _interrupt)
                with pytest.raises(KeyboardInterrupt):
                    logits(model, ids, cache)
            assert cache.get_seq_length() == plain.get_seq_length()
        close(logits(model, ids, cache), logits(model, ids, plain), 1e-5)
        assert cache.get_seq_length() == (20, 21, 24)[at]


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["gemma2", "qwen3_next", "jamba"])
def test_caches_are_copied_and_taken_over(kind, prompts):
    model, eager = hybrid(kind), hybrid(kind, "eager")
    ids, mask = padded(prompts, (40, 9, 35), "left")
    theirs, own = DynamicCache(config=eager.config), cache_of(model)
    logits(eager, ids, theirs, mask)
    logits(model, ids, own, mask)
    taken = hf.HalfspaceCache.from_cache(theirs, model.config, attention_mask=mask, tau=-np.inf)
    assert taken.get_seq_length() == 40
    longer = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], -1)
    expected = logits(eager, prompts[:, :1], copy.deepcopy(theirs), longer)
    for cache in (taken, copy.deepcopy(own), pickle.loads(pickle.dumps(own)), own):
        close(logits(model, prompts[:, :1], cache, longer), expected)


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_certificates(kind, eps, prompts):
    """What is dropped of capped logits, and of those beside a sink, is at most eps in every head and step."""
    model = hybrid(kind)
    cache = cache_of(model, eps=eps)
    seen = []
    logits(model, prompts, cache)
    for layer in cache.layers:
        if isinstance(layer, HalfspaceLayer):
            layer.index.attend = _certified(layer.index, layer.index.attend, seen)
    generated_ids = prompts
    for token in range(20):
        generated_ids = torch.cat([generated_ids, prompts[:, token : token + 1]], -1)
        logits(model, generated_ids[:, -1:], cache)
    dropped, bound = np.array(seen).T
    assert len(dropped) == 20 * 2 * 3 * 4
    assert (dropped <= bound * (1 + 1e-6) + 1e-12).all()
    assert (bound <= eps).all()
    assert dropped.max() > 0.1 * eps


def _certified(index, attend, seen):
    """Attend, and note of every head what is dropped by all logits in float64, and its bound."""

    def attended(q, **how):
        found = attend(q, **how, details=True)
        keys = index.stored()[0].astype(np.float64)
        sinks = index._options["sink_logits"]
        cap = index._options["soft_cap"]
        for b, h in np.ndindex(*found.tau.shape):
            products = keys[b, h // (q.shape[1] // keys.shape[1])] @ q[b, h].double().numpy()
            values = products * index._options["scale"]
            values = values if cap is None else cap * np.tanh(values / cap)
            weights = np.exp(values - values.max())
            whole = weights.sum() + (0.0 if sinks is None else np.exp(np.float64(sinks[h]) - values.max()))
            lost = weights[products < float(found.tau[b, h])].sum()
            seen.append((lost / whole, float(found.dropped[b, h])))
        return found.output

    return attended
