"""Small language models whose layers differ: windows, chunks, linear attention, capped logits, learnt sinks."""

import torch
import transformers

from helpers.models import VOCABULARY

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_experts": 4}
FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"
BY_TURNS = {"sliding_window": 8, "layer_types": [SLIDING, FULL, SLIDING, FULL]}
LINEAR_SIZES = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "decoder_sparse_step": 1,
}
HYBRIDS = {
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        BY_TURNS | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 20.0, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"sliding_window": 8, "layer_types": [SLIDING, SLIDING, FULL, SLIDING], "query_pre_attn_scalar": 16},
    ),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", BY_TURNS | EXPERTS),
    "mistral": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 8}),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", BY_TURNS),
    "olmo3": ("Olmo3ForCausalLM", "Olmo3Config", BY_TURNS),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        EXPERTS
        | {
            "attention_chunk_size": 8,
            "layer_types": [CHUNKED, CHUNKED, CHUNKED, FULL],
            "no_rope_layers": [1, 1, 1, 0],
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 32,
        },
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        EXPERTS | LINEAR_SIZES | {"layer_types": [LINEAR, LINEAR, FULL, LINEAR]},
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        EXPERTS
        | {
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "mamba_expand": 1,
            "use_mamba_kernels": False,
        },
    ),
}


def hybrid(kind, implementation="halfspace"):
    model, config, more = HYBRIDS[kind]
    config = getattr(transformers, config)(**SIZES | more)
    torch.manual_seed(0)
    made = getattr(transformers, model)._from_config(config, attn_implementation=implementation, dtype=torch.float32)
    for name, parameter in made.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter, 0.0, 2.0)
    return made.eval()
