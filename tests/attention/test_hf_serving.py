"""Continuous batching of transformers: the tokens of its own attention, whoever comes, goes, and shares pages."""

import numpy as np
import pytest
import torch
from helpers.hybrids import hybrid
from helpers.models import EVERYTHING, VOCABULARY, generated, made
from transformers import GenerationConfig

from halfspace.attention import KVIndex, hf
from halfspace.attention.hf import paged, serving

if serving.FullAttentionCacheAllocator is None:
    pytest.skip("this transformers has another continuous batching", allow_module_level=True)

from transformers import ContinuousBatchingConfig

TOKENS = 10
REQUESTS = 16


def settings(**more):
    return ContinuousBatchingConfig(**{"page_size": 64, "num_blocks": 64, "max_batch_tokens": 256} | more)


def greedy(**more):
    return GenerationConfig(max_new_tokens=TOKENS, do_sample=False, eos_token_id=-1, **more)


def expected(model, prompts, **more):
    """Tokens by transformers' own attention."""
    found = model.generate_batch(prompts, generation_config=greedy(), continuous_batching_config=settings(**more))
    assert len(found) == len(prompts)
    return [one.generated_tokens for one in found.values()]


def results(manager, count):
    """Wait for so many requests; by name."""
    found = {}
    while len(found) < count:
        one = manager.get_result(timeout=60)
        assert one is not None, manager.background_thread_status.fatal_error
        assert one.error is None
        found[one.request_id] = one.generated_tokens
    return found


def served(model, prompts, how=EVERYTHING, generation=None, **more):
    with hf.batching(
        model, threads=1, generation_config=generation or greedy(), continuous_batching_config=settings(**more), **how
    ) as manager:
        names = manager.add_requests(prompts)
        found = results(manager, len(names))
        codes = manager.batch_processor.cache.update.__self__
    return [found[name] for name in names], codes


@pytest.fixture(scope="module")
def prefixed():
    """Prompts with a shared prefix of two pages and some, and of many lengths."""
    rng = np.random.default_rng(3)
    prefix = rng.integers(1, VOCABULARY, 150).tolist()
    return [prefix + rng.integers(1, VOCABULARY, 1 + 3 * k).tolist() for k in range(REQUESTS)]


@pytest.mark.parametrize("sharing", [True, False])
def test_requests_with_a_shared_prefix_get_the_tokens_of_dense_attention(sharing, dense, prefixed):
    tokens, codes = served(dense, prefixed, allow_block_sharing=sharing)
    assert tokens == expected(dense, prefixed, allow_block_sharing=sharing)
    once = sum(map(len, prefixed)) + REQUESTS * (TOKENS - 1)
    shared = codes._layers[0].pages._written
    assert shared == once if not sharing else shared <= once - 8 * 128
    assert dense.config._attn_implementation == "sdpa"


def test_mixed_lengths_in_small_chunks(dense):
    """Prompts are cut into chunks, which meet decode steps of others in one batch."""
    rng = np.random.default_rng(4)
    prompts = [rng.integers(1, VOCABULARY, length).tolist() for length in (1, 200, 3, 64, 65, 130, 2, 63)]
    tokens, _ = served(dense, prompts, max_batch_tokens=48)
    assert tokens == expected(dense, prompts)


def test_pages_are_taken_again_when_requests_end(dense):
    """There is room for a few requests at a time: the others wait, and get slots that held other keys."""
    rng = np.random.default_rng(5)
    prompts = [rng.integers(1, VOCABULARY, int(length)).tolist() for length in rng.integers(40, 150, 14)]
    for sharing in (True, False):
        tokens, codes = served(dense, prompts, num_blocks=7, allow_block_sharing=sharing)
        assert tokens == expected(dense, prompts)
        assert codes._layers[0].pages._written > 2 * 7 * 64


def test_requests_join_leave_and_are_cancelled(dense, prefixed):
    with hf.batching(
        dense, threads=1, **EVERYTHING, generation_config=greedy(), continuous_batching_config=settings()
    ) as manager:
        known, found = {}, {}
        for begin in range(0, REQUESTS, 4):
            few = prefixed[begin : begin + 4]
            known |= dict(zip(manager.add_requests(few), few, strict=True))
            gone = manager.add_request(prefixed[0] * 2, max_new_tokens=400)
            manager.cancel_request(gone)
            found |= results(manager, 2)
        found |= results(manager, REQUESTS - len(found))
    assert [found[name] for name in known] == expected(dense, list(known.values()))


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "gpt_oss", "mistral", "cohere2", "olmo3"])
def test_models_whose_layers_differ(kind):
    """Windows, capped logits and learnt sinks: each request gets what it gets by itself."""
    rng = np.random.default_rng(6)
    prompts = [rng.integers(1, VOCABULARY, length).tolist() for length in (70, 5, 33)]
    alone = [generated(hybrid(kind, "eager"), torch.tensor([ids]), max_new_tokens=TOKENS) for ids in prompts]
    tokens, _ = served(hybrid(kind), prompts)
    assert tokens == [own[0, len(ids) :].tolist() for own, ids in zip(alone, prompts, strict=True)]


def shared(model, how):
    """Requests that share the pages of a prefix."""
    rng = np.random.default_rng(8)
    prefix = rng.integers(1, VOCABULARY, 130).tolist()
    served(model, [prefix + rng.integers(1, VOCABULARY, 9 * k).tolist() for k in range(1, 6)], how)
    return 5


def reused(model, how):
    """Requests of which the later ones get slots that held other keys."""
    rng = np.random.default_rng(9)
    served(model, [rng.integers(1, VOCABULARY, 70).tolist() for _ in range(9)], how, num_blocks=5)
    return 9


def forked(model, how):
    """Requests of three answers: pages that are not full are copied."""
    rng = np.random.default_rng(10)
    sampled = GenerationConfig(max_new_tokens=TOKENS, do_sample=True, eos_token_id=-1, num_return_sequences=3)
    with hf.batching(
        model, threads=1, generation_config=sampled, continuous_batching_config=settings(), **how
    ) as manager:
        names = manager.add_requests([rng.integers(1, VOCABULARY, 100).tolist() for _ in range(2)])
        results(manager, 3 * len(names))
    return 3 * len(names)


@pytest.fixture
def watched(monkeypatch):
    """Hold every answer of a threshold against that of a `KVIndex` of the request's keys; returns their number."""

    def begin(how, tolerance=1e-5):
        done = []
        original = paged.Batch._by_threshold

        def compared(batch, layer, rows, query, logits):
            output = original(batch, layer, rows, query, logits)
            at = torch.from_numpy(rows // layer.stride), torch.from_numpy(rows % layer.stride)
            keys, values = (part[at].transpose(0, 1)[None] for part in (layer.keys, layer.values))
            stored = str(keys.dtype).removeprefix("torch.")
            index = KVIndex(2, 64, num_query_heads=4, dtype=stored, scale=logits.scale, threads=1)
            index.append(keys, values)
            found = index.attend(query, **how, details=True)
            apart = (output - found.output).float().norm(dim=-1)
            if "tau" in how:  # the same keys; others in other frames may be certified
                assert apart.max() <= tolerance * values.float().norm(dim=-1).max()
            else:
                assert (apart <= 2 * found.error + 1e-4).all()
                whole = index.attend(query, tau=-np.inf)
                allowed = 2 * how.get("eps", 0.8) * values.norm(dim=-1).max() + 1e-5
                assert ((output - whole).norm(dim=-1) <= allowed).all()
            done.append(rows.size)
            return output

        monkeypatch.setattr(paged.Batch, "_by_threshold", compared)
        return done

    return begin


@pytest.mark.parametrize("how", [{"eps": 1e-2}, {"keep": 0.2}, {"tau": 40.0}], ids=str)
@pytest.mark.parametrize("scene", [shared, reused, forked])
def test_each_answer_is_that_of_an_index_of_its_own(scene, how, dense, watched):
    """Codes of other keys would show."""
    done = watched(how)
    requests = scene(dense, how)
    assert len(done) >= requests * (TOKENS - 1) * dense.config.num_hidden_layers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_two_bytes(dtype, watched):
    done = watched({"tau": 40.0}, 2.0**-7)
    shared(made(implementation="sdpa", dtype=dtype), {"tau": 40.0})
    assert done


def test_keys_that_are_not_finite_end_the_requests(dense, prefixed):
    model = made(implementation="sdpa")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] = torch.nan
    with hf.batching(model, eps=0.1, generation_config=greedy(), continuous_batching_config=settings()) as manager:
        manager.add_requests(prefixed[:1])
        assert "layer 1" in manager.get_result(timeout=60).error


def test_what_is_not_served_is_refused_at_once(monkeypatch):
    model = made(implementation="sdpa")
    for options, kind, match in (
        ({"eps": 0.1, "keep": 0.1}, ValueError, "exactly one of tau, eps and keep"),
        ({"eps": 0.1, "recent": -1}, ValueError, "recent"),
        ({"tau": float("nan")}, ValueError, "tau is nan"),
        ({"tau": "x"}, TypeError, "tau must be a number"),
        ({"tau": [[0.0]]}, ValueError, "tau must be a scalar or have shape"),
        ({"eps": 0.1, "generation_config": {}}, TypeError, "generation_config must be a GenerationConfig"),
        ({"eps": 0.1, "continuous_batching_config": {}}, TypeError, "must be a ContinuousBatchingConfig"),
        ({"eps": 0.1, "continuous_batching_config": settings(page_size=-64)}, ValueError, "page_size must be a mult"),
        ({"eps": 0.1, "continuous_batching_config": settings(page_size=100)}, ValueError, "page_size must be a mult"),
        ({"eps": 0.1, "continuous_batching_config": settings(cpu_offload_space=1.0)}, NotImplementedError, "offload"),
    ):
        with pytest.raises(kind, match=match), hf.batching(model, **options):
            pass
    with pytest.raises(NotImplementedError, match="runs on the CPU, and the model is on meta"):
        hf.batching(made(implementation="sdpa").to("meta"), eps=0.1).__enter__()
    with pytest.raises(TypeError, match="model must be a PreTrainedModel of transformers, got None"):
        hf.batching(None, eps=0.1).__enter__()
    with pytest.raises(TypeError, match="a LlamaModel has no head"):
        hf.batching(model.model, eps=0.1).__enter__()
    with pytest.raises(NotImplementedError, match=r"torch\.float64: use model\.float"):
        hf.batching(made(implementation="sdpa").double(), eps=0.1).__enter__()
    for layers in ({"layer_types": ["linear_attention", "full_attention"]}, {"kv_lora_rank": 16}):
        other = made(implementation="sdpa")
        vars(other.config).update(layers)
        with pytest.raises(NotImplementedError, match=r"does not serve llama with (linear_attention|kv_lora_rank)"):
            hf.batching(other, eps=0.1).__enter__()
    monkeypatch.setattr(serving, "FullAttentionCacheAllocator", None)
    with pytest.raises(NotImplementedError, match=r"needs transformers 5\.24"):
        hf.batching(model, eps=0.1).__enter__()
    assert model.config._attn_implementation == "sdpa"


def test_a_model_is_as_it_was_after_errors_and_has_one_manager_at_a_time():
    model = made(implementation="sdpa")
    model.train()
    unserved = GenerationConfig(do_sample=True, top_k=-1)  # which transformers refuses when its manager is made
    with pytest.raises(ValueError, match="top_k"), hf.batching(model, eps=0.1, generation_config=unserved):
        pass
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    how = {**EVERYTHING, "generation_config": greedy(), "continuous_batching_config": settings()}
    with hf.batching(model, **how):
        with pytest.raises(RuntimeError, match="another manager is at work with this model"):
            hf.batching(model, **how).__enter__()
        assert model.config._attn_implementation == "halfspace"
    assert model.config._attn_implementation == "sdpa"
    assert model.training
