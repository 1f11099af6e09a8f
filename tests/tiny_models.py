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
    config_class, model_class, own = ARCHITECTURES[family]
    config = config_class(
        **{**SMALL, **own},
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval()


def save_tiny(family: str, folder: Path | str, seed: int = 0) -> Path:
    """Write the family's model, tokenizer, template and generation defaults into `folder`; return it."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer(family)
    model = tiny_model(family, tokenizer, seed)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(FAMILIES[family].stops))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(save_tiny(arguments.family, arguments.folder, arguments.seed))


if __name__ == "__main__":
    main()
