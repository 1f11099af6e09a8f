"""Tiny random models of real architectures, each with a tokenizer and a chat template in its family's style.

    python tests/tiny_models.py llama DIR

writes a directory that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read: about
40,000 random weights in float32 and a byte-level BPE of about 500 tokens learned on GSM8K. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny_templates import FAMILIES, TEMPLATES, Family
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

EXCERPT = Path(__file__).parent / "data" / "gsm8k_excerpt.jsonl"
NUM_MERGED = 490  # tokens before the special ones

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}

# Each with what real checkpoints of the family have and others lack.
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": True, "head_dim": 16}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "gemma": (GemmaConfig, GemmaForCausalLM, {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 30.0, "sliding_window": 64},
    ),
}

MAMBA2: dict[str, Any] = {  # as Falcon-H1, Granite-hybrid and Bamba call the sizes of Mamba-2
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 16,
}
LINEAR: dict[str, Any] = {  # of a gated delta net
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
MLA: dict[str, Any] = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}

# Types whose layers keep more than keys and values, each with every kind of layer of its published models.
STATEFUL: dict[str, dict[str, Any]] = {
    "bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "deepseek_v32": MLA
    | {
        "q_lora_rank": 16,
        "index_n_heads": 16,
        "index_head_dim": 16,
        "index_topk": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "num_key_value_heads": 4,
        "mlp_layer_types": ["dense", "sparse"],
    },
    "falcon_h1": MAMBA2 | {"mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8},
    "granitemoehybrid": MAMBA2
    | EXPERTS
    | {
        "intermediate_size": 16,
        "shared_intermediate_size": 32,
        "attention_multiplier": 0.35,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "mamba_d_state": 8,
    },
    "kimi_linear": MLA
    | EXPERTS
    | {
        "moe_intermediate_size": 16,
        "linear_head_dim": 8,
        "linear_num_heads": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "num_key_value_heads": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 16},
    "minimax": EXPERTS | {"block_size": 16, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "num_hidden_layers": 4,
        "head_dim": 8,
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo_hybrid": LINEAR | {"linear_num_key_heads": 4},
    "qwen3_5_text": LINEAR | {"head_dim": 16},
    "qwen3_next": LINEAR
    | {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "mamba_d_state": 8,
        "mamba_ngroups": 2,
        "n_mamba_heads": 4,
        "chunk_size": 16,
        "num_mem_blocks": 1,
        "adapter_rank": 4,
        "use_mem_rope": True,
        "num_key_value_heads": 4,
    },
}


@cache
def gsm8k_texts() -> tuple[str, ...]:
    rows = [json.loads(line) for line in EXCERPT.read_text(encoding="utf-8").split("\n") if line]
    return tuple(row[name] for row in rows for name in ("question", "answer"))


def byte_level_bpe(num_tokens: int = NUM_MERGED) -> Tokenizer:
    """A byte-level BPE learned on the excerpt: every text can be written and comes back byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(gsm8k_texts(), trainer)
    return tokenizer


def tiny_tokenizer(family: str, template: str | dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """The family's special tokens and template (or another) on the common BPE; BOS comes where the family adds it."""
    kind: Family = TEMPLATES[family]
    backend = byte_level_bpe()
    backend.add_special_tokens(list(kind.specials))
    backend.add_tokens(list(kind.words))
    if kind.bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", special_tokens=[(kind.bos, backend.token_to_id(kind.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=kind.bos,
        eos_token=kind.eos,
        pad_token=kind.pad,
        chat_template=template or kind.template,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    """A random model for `tokenizer`; as in real checkpoints the vocabulary is padded to a multiple of 64."""
    config_class, make_model, options = architecture(family)
    config = config_class(
        **{**SMALL, **options},
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model(config).eval()


def architecture(family: str) -> tuple[Any, Any, dict[str, Any]]:
    """The class of a family's configuration, a function that makes a model of it, and the configuration's options."""
    if family in STATEFUL:
        return CONFIG_MAPPING[family], AutoModelForCausalLM.from_config, STATEFUL[family]
    return ARCHITECTURES[family]


def save_tiny(family: str, folder: Path | str, seed: int = 0) -> Path:
    """Write the family's model, tokenizer, template and generation defaults into `folder`; return it."""
    folder, style = Path(folder), "qwen2" if family in STATEFUL else family
    tokenizer = tiny_tokenizer(style)
    model = tiny_model(family, tokenizer, seed)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(FAMILIES[style].stops))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[*FAMILIES, *STATEFUL])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(save_tiny(arguments.family, arguments.folder, arguments.seed))


if __name__ == "__main__":
    main()
