"""The keys of LLaMA-Factory's configuration files (0.9.4 and later): model, data, finetuning and training arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from obverse.config.foreign_keys import Dialect, Fixed, Ignored, Refused, Renamed, Rule, Translation, as_number, as_text
from obverse.config.trainer_keys import (
    NO_PACKING,
    OFF,
    WHOLE_ROWS,
    adapter_targets,
    batch_sizes,
    intervals,
    precision,
    sharding,
    warmup,
)
from obverse.config.trainer_keys import RULES as TRAINER_RULES

STAGES = {"sft": "sft", "dpo": "dpo", "rm": "reward_model"}
SFT_LOSSES = ("dft", "asft")  # by use_NAME_loss; here a method of that name
PAIR_LOSSES = ("sigmoid", "ipo")
OWN_TEMPLATES = ("default", "empty", "vanilla", "alpaca", "fewshot", "none")  # of no model's tokenizer
RANK = 8  # default of lora_rank; lora_alpha is twice the rank
REGISTERED = "a name of dataset_info.json: write the path of its file, or owner/name of the hub (docs/data.md)"
ADAPTERS_ONLY = "write finetuning_type: lora or full"

_IGNORED = (
    *("overwrite_cache", "preprocessing_num_workers", "preprocessing_batch_size", "plot_loss", "dataset_dir"),
    *("media_dir", "flash_attn", "use_unsloth_gc", "enable_liger_kernel", "cache_dir"),
    *("use_fast_tokenizer", "low_cpu_mem_usage", "use_reentrant_gc", "upcast_layernorm", "upcast_lmhead_output"),
    *("print_param_status", "compute_accuracy", "include_effective_tokens_per_second", "infer_backend", "infer_dtype"),
    *("quantization_device_map", "eval_num_beams", "eval_on_each_dataset", "streaming"),
    *("buffer_size", "predict_with_generate", "ray_run_name", "use_swanlab", "freeze_vision_tower"),
    *("freeze_multi_modal_projector", "image_max_pixels", "image_min_pixels", "video_max_pixels", "use_v1_kernels"),
)
_OTHER_OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
_OTHER_ADAPTERS = ("pissa_init", "use_llama_pro", "shift_attn", "create_new_adapter", "resize_vocab")

RULES: Mapping[str, Rule] = {
    **TRAINER_RULES,
    **{key: Ignored() for key in _IGNORED},
    **{key: Fixed(OFF, "the optimizer is AdamW") for key in _OTHER_OPTIMIZERS},
    **{key: Fixed(OFF, "adapters are LoRA's, on the model as it is") for key in _OTHER_ADAPTERS},
    "use_unsloth": Fixed(OFF, "the model is that of transformers: write false"),
    "max_samples": Renamed("num_problems"),
    "pref_beta": Renamed("beta"),
    "dpo_label_smoothing": Renamed("label_smoothing"),
    "moe_aux_loss_coef": Renamed("router_aux_loss_coef"),
    "disable_gradient_checkpointing": Renamed("gradient_checkpointing", {"true": False, "false": True}),
    "default_system": Renamed("system_prompt"),
    "ignore_pad_token_for_loss": Fixed(("true",), "padding is never trained: leave it out"),
    "neat_packing": Fixed(OFF, NO_PACKING),
    "tokenized_path": Fixed(("none",), "rows are read as texts: write dataset, the file that was tokenized"),
    "cutoff_len": Fixed(("none",), WHOLE_ROWS),
    "val_size": Fixed(OFF, "no rows are held out: write eval_dataset, a file of problems"),
    "train_on_prompt": Fixed(OFF, "prompt tokens are never trained"),
    "mask_history": Fixed(("true",), "of a conversation the last answer is trained: leave it out if rows have one"),
    "mix_strategy": Fixed(("concat",), "there is one data set: put the files together"),
    "interleave_probs": Fixed(("none",), "there is one data set: put the files together"),
    "tool_format": Fixed(("none",), "tools are rendered by the chat template"),
    "disable_shuffling": Fixed(OFF, "problems are drawn in random order, by seed"),
    "neftune_alpha": Fixed(OFF, "no noise is added to embeddings"),
    "adapter_name_or_path": Fixed(("none",), "merge it first: obverse export ADAPTER --output DIR, and give DIR"),
    "additional_target": Fixed(("none",), "every trained weight is in an adapter"),
    "loraplus_lr_ratio": Fixed(("none",), "both matrices of an adapter have one rate"),
    "quantization_method": Fixed(("bnb", "bitsandbytes", "none"), "load_in_4bit is bitsandbytes' NF4"),
    "quantization_type": Fixed(("nf4",), "load_in_4bit is NF4"),
    "double_quantization": Fixed(("true",), "load_in_4bit quantizes its constants too"),
    "rope_scaling": Fixed(("none",), "write rope_theta and max_position_embeddings"),
    "mixture_of_depths": Fixed(("none",), "the model is trained as it is"),
    "train_from_scratch": Fixed(OFF, "training starts from a model's weights"),
    "split_special_tokens": Fixed(("true",), "control tokens in rows stay text: write parse_special_tokens: true"),
    "add_tokens": Fixed(("none",), "the vocabulary is the tokenizer's"),
    "add_special_tokens": Fixed(("none",), "the vocabulary is the tokenizer's"),
    "pref_ftx": Fixed(OFF, "no method adds SFT to a loss of pairs by this weight"),
    "pref_bco_weight": Fixed(OFF, "no method has this term"),
    "ld_alpha": Fixed(("none",), "no method has this term"),
    "ref_model_adapters": Fixed(("none",), "export the adapter, and give the folder as anchor_model"),
    "ref_model_quantization_bit": Fixed(("none",), "the reference model is not quantized"),
    "early_stopping_steps": Fixed(("none",), "a run takes max_steps, or ends with its budget"),
    "asft_alpha": Renamed("kl_weight"),
    "freeze_trainable_layers": Refused(ADAPTERS_ONLY),
    "freeze_trainable_modules": Refused(ADAPTERS_ONLY),
}


def _stage(read: Translation) -> None:
    stage = as_text(read.take("stage", "sft"))
    losses = [name for name in SFT_LOSSES if as_text(read.take(f"use_{name}_loss", False)) == "true"]
    method = losses[0] if stage == "sft" and losses else STAGES.get(stage)
    if read.method is None and method is None:
        read.refuse(
            "stage", stage, f"expects {', '.join(STAGES)}; name a method here: obverse train METHOD --config FILE"
        )
    elif read.method is None:
        read.method = method
        used = f", use_{method}_loss" if method in SFT_LOSSES else ""
        read.map(f"stage: {stage}{used}", "method", method)
    else:
        read.values["method"] = read.method
    if (pair_loss := read.take("pref_loss")) is not None:
        if as_text(pair_loss) in PAIR_LOSSES:
            read.map(f"pref_loss: {pair_loss}", "loss", pair_loss)
        else:
            read.refuse("pref_loss", pair_loss, f"expects {' or '.join(PAIR_LOSSES)}")


def _adapters(read: Translation) -> None:
    kind = as_text(read.take("finetuning_type", "lora"))
    of_adapters = [key for key in ("lora_rank", "lora_alpha", "lora_target", "quantization_bit") if key in read.rest]
    rank, alpha = as_number(read.take("lora_rank", RANK)), as_number(read.take("lora_alpha"))
    bits = as_text(read.take("quantization_bit"))
    if kind not in ("lora", "full"):
        read.refuse("finetuning_type", kind, ADAPTERS_ONLY)
    read.map(f"finetuning_type: {kind}", "use_peft", kind == "lora")
    if kind != "lora":
        read.ignored += [key for key in of_adapters if key != "quantization_bit"]
        read.take("lora_target")
        if bits != "none":
            read.refuse("quantization_bit", as_number(bits), "needs finetuning_type: lora")
        return
    read.map(f"lora_rank: {rank or RANK:g}", "lora_r", int(rank or RANK))
    source = "lora_alpha" if alpha else "lora_alpha, by default twice the rank"
    read.map(source, "lora_alpha", int(alpha or 2 * (rank or RANK)))
    adapter_targets(read, "lora_target", ("all",))
    if bits == "4":
        read.map("quantization_bit: 4", "load_in_4bit", True)
    elif bits != "none":
        read.refuse("quantization_bit", bits, "write 4, or leave it out")


def _data(read: Translation) -> None:
    for key in ("dataset", "eval_dataset"):
        name = as_text(read.rest.get(key))
        if name != "none" and ("," in name or not ("/" in name or ":" in name or Path(name).suffix)):
            read.refuse(key, read.take(key), "one data set: put the files together" if "," in name else REGISTERED)


def _template(read: Translation) -> None:
    template = as_text(read.take("template"))
    if template != "none" and template in OWN_TEMPLATES:
        read.refuse("template", template, "write chat_template: a text holding {prompt}, or a .jinja file")
    elif template != "none":
        read.map(
            f"template: {template}, the tokenizer's own ('obverse data show --model' prints it)",
            "chat_template",
            "auto",
        )
    if (thinking := read.take("enable_thinking")) is not None:
        read.map(f"enable_thinking: {as_text(thinking)}", "chat_template_kwargs", {"enable_thinking": thinking})


def _prepare(read: Translation) -> None:
    _stage(read)
    _adapters(read)
    _data(read)
    _template(read)
    if as_text(read.take("pure_bf16")) == "true":
        read.map("pure_bf16: true", "dtype", "bfloat16")
        read.take("bf16")
    else:
        precision(read, frozen="auto")
    sharding(read)
    intervals(read)
    warmup(read)
    batch_sizes(read)


LLAMA_FACTORY = Dialect(
    "LLaMA-Factory",
    frozenset(
        {"stage", "finetuning_type", "template", "cutoff_len", "lora_rank", "lora_target", "pref_loss", "pref_beta"}
        | {"dataset_dir", "quantization_bit", "neat_packing"}
    ),
    RULES,
    _prepare,
)
