"""Options of the configurations of `tests/architectures.py`: what the default of a type lacks of its published models.

Some defaults build no model, and some have only one of the kinds of layers of the published models. The types of
`TWELVE` have tiny sizes, because they are compared in every test run.
"""

from __future__ import annotations

from typing import Any

TWELVE = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma3",
    "gpt_oss",
    "deepseek_v3",
    "qwen3_next",
    "qwen3_5_text",
    "lfm2",
    "falcon_h1",
    "mamba2",
)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
HYBRID = ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"]
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "n_routed_experts": 8, "num_key_value_heads": 4}
INDEXER = {"indexer_n_heads": 32, "indexer_kv_heads": 1, "indexer_head_dim": 64}
INDEXER |= {"head_dim": 64, "indexer_budget": 8, "indexer_compress_ratio": 4}
BYTES = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}

TINY: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 16},
    "qwen3_moe": SIZES | EXPERTS | {"head_dim": 16, "num_experts": 8},
    "gemma3": {
        "text_config": SIZES | {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
        "image_token_index": 90,
        "boi_token_index": 91,
        "eoi_token_index": 92,
    },
    "gpt_oss": SIZES | {"head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v3": SIZES
    | EXPERTS
    | LATENT
    | {
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "qk_nope_head_dim": 16,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
    },
    "qwen3_next": SIZES
    | EXPERTS
    | LINEAR
    | {"head_dim": 16, "num_experts": 8, "shared_expert_intermediate_size": 32, "layer_types": MIXED[:2]},
    "qwen3_5_text": SIZES | LINEAR | {"head_dim": 16, "layer_types": MIXED[:2]},
    "lfm2": SIZES | {"full_attn_idxs": [1]},
    "falcon_h1": SIZES | {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16},
    "mamba2": {
        **TOKENS,
        "vocab_size": 96,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "n_groups": 2,
    },
}

OPTIONS: dict[str, dict[str, Any]] = {
    **TINY,
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "patcher_config": BYTES | {"num_hidden_layers": 2},
        "encoder_config": BYTES | {"hidden_size_global": 64},
        "decoder_config": BYTES | {"hidden_size_global": 64, "num_hidden_layers": 2},
        "global_config": BYTES | {"hidden_size": 64, "num_hidden_layers": 2},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "vocab_size": 96,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 500000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots3_note_text": SIZES
    | EXPERTS
    | LATENT
    | TOKENS
    | {
        "num_hidden_layers": 4,
        "shared_experts_intermediate_size": 32,
        "index_n_heads": 32,  # with few heads, many keys have the same score, 0
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 32,
    },
    **{
        f"granite{name}": {"attention_multiplier": 0.015625}  # 1 amplifies rounding
        for name in ("", "_swa", "moe", "moe_swa", "moeshared")
    },
    "granitemoehybrid": {"attention_multiplier": 0.015625, "num_hidden_layers": 4, "layer_types": MIXED},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": SIZES | {"num_key_value_heads": 4, "num_hidden_layers": 5, "layers_block_type": HYBRID},
    "zamba2": SIZES
    | {
        "num_key_value_heads": 4,
        "num_hidden_layers": 5,
        "layers_block_type": HYBRID,
        "mamba_d_state": 16,
        "n_mamba_heads": 4,
        "num_mem_blocks": 2,
        "use_mem_rope": True,
    },
}
OPTIONS["dots3_note"] = {
    "text_config": OPTIONS["dots3_note_text"],
    "vision_config": {"adapter_out_dim": 64},
    "audio_config": {"adapter_out_dim": 64},
}

# Remarks on types that cannot be trained, where the error of their class does not explain it.
REMARKS = {
    **dict.fromkeys(("musicgen", "musicgen_melody"), "no model: reads and writes the codes of several audio codebooks"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "no model: reads the cache of another model"),
    "gemma3n": "no model: its vision tower needs the library timm (`gemma3n_text` does not)",
    "reformer": "its backward pass raises an error in evaluation mode",
}
