"""What `generate` does, for many types of models, with this cache where transformers makes one by default."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from helpers.hybrids import BY_TURNS, SIZES
from helpers.models import CACHE, VOCABULARY

from halfspace.attention import hf

pytestmark = pytest.mark.skipif(transformers.__version__ < "5", reason="some of these models have no mask there")
TYPES = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma": {},
    "Gemma2": BY_TURNS | {"attn_logit_softcapping": 5.0},
    "GPT2": {},
    "GPTNeoX": {},
    "GptOss": BY_TURNS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Phi3": {},
    "Olmo2": {},
    "Cohere2": BY_TURNS,
    "Granite": {},
    "Glm4": {},
    "Starcoder2": {"sliding_window": None},
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 32},
    "StableLm": {"head_dim": 8},
}


@pytest.fixture(params=TYPES)
def models(request, monkeypatch):
    """A model with eager attention and transformers' cache, and the same one with this library's as the default."""
    names = {"GPT2": "GPT2LMHeadModel"}
    model = getattr(transformers, names.get(request.param, request.param + "ForCausalLM"))
    config = getattr(transformers, request.param + "Config")(**SIZES | TYPES[request.param])
    made, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for more
    for implementation in ("eager", "halfspace"):
        torch.manual_seed(0)
        made.append(model._from_config(config, attn_implementation=implementation, dtype=torch.float32).eval())
    eager, own = made
    theirs = transformers.generation.utils.DynamicCache

    def default(config=None, **options):
        implementation = getattr(config, "_attn_implementation", None)
        return (
            hf.HalfspaceCache(config, tau=-np.inf)
            if implementation == "halfspace"
            else theirs(config=config, **options)
        )

    monkeypatch.setattr(transformers.generation.utils, "DynamicCache", default)
    yield SimpleNamespace(eager=eager, own=own)
    torch.set_num_threads(threads)


def same(models, ids, **options):
    """Generate with both; returns what the second one did."""
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True} | options
    found = []
    for model in (models.eager, models.own):
        torch.manual_seed(5)
        found.append(model.generate(ids, **{"attention_mask": torch.ones_like(ids)} | options))
    assert torch.equal(found[0].sequences, found[1].sequences), options
    return found[1]


def test_generation(models, prompts):
    ids = prompts[:2, :12]
    answer = same(models, ids, output_logits=True)
    cache = getattr(answer, CACHE)
    assert isinstance(cache, hf.HalfspaceCache)
    assert cache.get_seq_length() == 12 + 8 - 1
    for layer in cache.layers:
        rows = 19 if type(layer).__name__ == "HalfspaceLayer" else 7
        for part in (layer.keys, layer.values):
            assert tuple(part.shape[::2]) == (2, rows)
    same(models, ids, do_sample=True, num_return_sequences=2)
    same(models, ids, num_beams=3, num_return_sequences=2)
    same(models, ids, num_beams=2, do_sample=True)
    same(models, ids, prefill_chunk_size=5)
    same(models, ids, repetition_penalty=1.3, no_repeat_ngram_size=2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    same(models, ids * mask, attention_mask=mask)


def test_generation_goes_on_from_its_cache(models, prompts):
    ids = prompts[:2, :12]
    whole = same(models, ids, max_new_tokens=9)
    first = models.own.generate(ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    rest = {"max_new_tokens": 6, "do_sample": False, CACHE: getattr(first, CACHE)}
    assert torch.equal(models.own.generate(first.sequences, **rest), whole.sequences)


def test_generation_from_embeddings(models, prompts):
    ids = prompts[:2, :12]
    embedded = {"inputs_embeds": models.own.get_input_embeddings()(ids).detach(), "max_new_tokens": 5}
    same(models, ids, **embedded)
    found, expected = (
        model.generate(**embedded, do_sample=False, attention_mask=torch.ones_like(ids))
        for model in (models.own, models.eager)
    )
    assert torch.equal(found, expected)


def test_assisted_generation(models, prompts):
    ids = prompts[:1, :6].repeat(1, 3)
    same(models, ids, prompt_lookup_num_tokens=3, eos_token_id=VOCABULARY - 1)
    same(models, ids, assistant_model=models.own, eos_token_id=VOCABULARY - 1)
