"""The keys of transformers' TrainingArguments in configuration files, which TRL and LLaMA-Factory share."""

from __future__ import annotations

from collections.abc import Mapping

from obverse.config.foreign_keys import Fixed, Ignored, Refused, Renamed, Rule, Translation, as_number, as_text
from obverse.errors import ConfigError
from obverse.estimator.schedule import as_schedule
from obverse.methods import call, find, parameters
from obverse.types import Source

OFF = ("none", "false", "0")
ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw")
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size", "steps_per_generation")
PER_DEVICE, ACCUMULATED = 8, 1  # defaults of per_device_train_batch_size and gradient_accumulation_steps
EPOCHS = 3.0  # default of num_train_epochs
WHOLE_ROWS = (
    "rows are trained whole, none is cut: delete the line if no row is longer, else take longer rows out of the data"
)
NO_PACKING = (
    "rows are not packed, so that a step has a number of rows: write packing: false, and the batch size in rows"
)
PROCESSES = "processes are those of torchrun --nproc-per-node, --fsdp shards: leave it out"
COLOCATED = "start 'obverse serve-vllm MODEL', and write sampler: vllm and vllm_url"

_IGNORED = (
    *("overwrite_output_dir", "logging_dir", "logging_strategy", "logging_first_step", "log_level", "disable_tqdm"),
    *("logging_nan_inf_filter", "include_num_input_tokens_seen", "include_for_metrics", "save_safetensors"),
    *("save_only_model", "save_on_each_node", "per_device_eval_batch_size", "eval_accumulation_steps", "eval_delay"),
    *("eval_on_start", "bf16_full_eval", "fp16_full_eval", "prediction_loss_only", "batch_eval_metrics", "do_eval"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "remove_unused_columns", "label_names", "skip_memory_metrics"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_backend", "ddp_timeout"),
    *("ddp_static_graph", "deepspeed", "fsdp_config", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"),
    *("hub_strategy", "hub_always_push", "trust_remote_code", "full_determinism", "tf32", "use_liger_kernel"),
    *("attn_implementation", "torch_compile_backend", "torch_compile_mode", "restore_callback_states_from_checkpoint"),
    *("local_rank", "log_on_each_node", "accelerator_config", "use_cache"),
)

_MIXTURES = ("datasets", "dataset_mixture", "dataset_mixer")  # of TRL and of recipes written for it

RULES: Mapping[str, Rule] = {
    **{key: Ignored() for key in _IGNORED},
    "warmup_ratio": Renamed("warmup_steps"),
    "use_cpu": Renamed("device", {"true": "cpu", "false": "auto"}),
    "no_cuda": Renamed("device", {"true": "cpu", "false": "auto"}),
    "hub_revision": Fixed(("none", "main"), "the model is pushed to the branch main"),
    "hub_token": Fixed(("none",), "set HF_TOKEN in the environment, because options are stored"),
    "fp16": Fixed(OFF, "write bf16: true, or dtype: mixed"),
    "optim": Fixed(ADAMW, "the optimizer is AdamW: write optim: adamw_torch"),
    "optim_args": Fixed(OFF, "the optimizer is AdamW, by adam_beta1, adam_beta2 and adam_epsilon"),
    "lr_scheduler_kwargs": Fixed(
        ("none",),
        "schedules have no options, and linear and cosine end at 0: leave it out",
    ),
    "use_liger": Ignored(),
    "group_by_length": Fixed(OFF, "problems are drawn in random order, by seed: leave it out"),
    "average_tokens_across_devices": Fixed(("true",), "a loss is normalized over all processes: leave it out"),
    "num_processes": Refused(PROCESSES),
    **{key: Refused("one data set: put the files together, and give --dataset FILE") for key in _MIXTURES},
    "label_smoothing_factor": Fixed(OFF, "no loss on demonstrations is smoothed: leave it out"),
    "neftune_noise_alpha": Fixed(OFF, "no noise is added to embeddings: leave it out"),
    "auto_find_batch_size": Fixed(OFF, "micro_batch_tokens bounds memory without changing a gradient: leave it out"),
    "load_best_model_at_end": Fixed(OFF, "the last step is saved: evaluate checkpoints with obverse eval"),
    "metric_for_best_model": Ignored(),
    "greater_is_better": Ignored(),
    "data_seed": Fixed(("none",), "one seed orders the data and samples: write seed"),
    "dataloader_drop_last": Fixed(OFF, "the last step of an epoch is filled from the next one: leave it out"),
    "ignore_data_skip": Fixed(OFF, "a resumed run goes on at its place in the data: leave it out"),
    "do_train": Fixed(("true",), "obverse train trains; obverse eval evaluates"),
    "do_predict": Fixed(OFF, "obverse eval samples and grades"),
    "packing": Fixed(OFF, NO_PACKING),
    "lora_dropout": Fixed(OFF, "adapters have no dropout, so that a ratio compares one function: write 0"),
    "lora_task_type": Ignored(),
    "lora_modules_to_save": Fixed(OFF, "every trained weight is in an adapter: leave it out, or write use_peft: false"),
    "use_dora": Fixed(OFF, "adapters are LoRA's, with use_rslora if wanted"),
    "load_in_8bit": Fixed(OFF, "write load_in_4bit: true, or dtype: bfloat16"),
    "model_revision": Fixed(("none", "main"), "download the revision, and give its folder as model"),
}


def precision(read: Translation, frozen: str) -> None:
    """Read `bf16`; `frozen` is the dtype of LoRA's frozen weights under it, as an option of obverse."""
    dtype = read.take("torch_dtype", read.take("dtype"))
    bf16 = read.take("bf16")
    if as_text(dtype) == "auto":
        read.refuse("dtype", dtype, "the checkpoint's type is not looked up: write bfloat16, mixed or float32")
    elif dtype is not None:
        read.values["dtype"] = dtype
        if bf16 is not None:
            read.ignored.append("bf16")
    elif as_text(bf16) == "true":
        read.map("bf16: true", "dtype", frozen if as_text(read.values.get("use_peft")) == "true" else "mixed")
    elif bf16 is not None:
        read.map("bf16: false", "dtype", "float32")


def sharding(read: Translation) -> None:
    """Read `fsdp`, a text of words such as full_shard in transformers."""
    if isinstance(text := read.rest.get("fsdp"), str) and as_text(text) not in ("true", "false", "none"):
        read.map(f"fsdp: {read.take('fsdp')}", "fsdp", "full_shard" in text or "shard_grad_op" in text)


def intervals(read: Translation) -> None:
    """Read the strategies of saving and evaluation: an epoch is a share of the run."""
    for name in ("save", "eval"):
        strategy = as_text(read.take(f"{name}_strategy", read.take("evaluation_strategy") if name == "eval" else None))
        if strategy in ("none", "steps"):
            read.ignored += [f"{name}_strategy"] if strategy == "steps" else []
            continue
        key = f"{name}_strategy: {strategy}"
        if strategy in ("no", "false"):
            read.take(f"{name}_steps")
            if name == "save":
                read.map(key, "save_minutes", 0)
            read.map(key, f"{name}_steps", 0)
        elif strategy != "epoch" or (as_number(read.rest.get("max_steps")) or 0) > 0:
            read.refuse(f"{name}_strategy", strategy, f"write {name}_steps, a number of steps or a share of the run")
        else:
            epochs = as_number(read.rest.get("num_train_epochs", EPOCHS)) or EPOCHS
            read.take(f"{name}_steps")
            share = round(1 / epochs, 6) if epochs > 1 else 0
            read.map(f"{key} of {epochs:g} epochs", f"{name}_steps", share)


def completions_per_problem(read: Translation) -> float | None:
    """The rollouts per problem of the method in this file; None for a method that trains on rows alone."""
    if read.method is None:
        return None
    try:
        make = find(read.method)
        stages = as_schedule(call(read.method, make, {})).stages
    except ConfigError:  # the method itself is reported where it is read
        return None
    defaults = {name: parameter.default for name, parameter in parameters(make).items()}
    if "num_generations" not in defaults or all(Source.ROLLOUT not in stage.method.sources for stage in stages):
        return None
    number = read.given.get("num_generations", read.rest.get("num_generations", defaults["num_generations"]))
    return as_number(number) or None


def warmup(read: Translation) -> None:
    """Read `warmup_steps` beside `warmup_ratio`: the steps count unless they are 0, as in transformers."""
    if read.rest.get("warmup_ratio") is None:
        read.take("warmup_ratio")
    elif as_number(read.rest.get("warmup_steps")):
        read.ignored.append("warmup_ratio")
        read.take("warmup_ratio")
    else:
        read.take("warmup_steps")


def batch_sizes(read: Translation) -> None:
    """Read the sizes of a batch: rows or completions per device become problems per step, with their arithmetic."""
    sizes = {key: as_number(read.take(key)) for key in BATCH if read.rest.get(key) is not None}
    if not sizes:
        return
    if "prompts_per_step" in read.given:
        read.notes.append(f"the command line's prompts_per_step replaces {', '.join(sizes)}")
        return
    if any(size is None or size < 1 or size != int(size) for size in sizes.values()):
        read.refuse(", ".join(sizes), list(sizes.values()), "expects whole numbers")
        return
    per_device = sizes.get(BATCH[0]) or PER_DEVICE
    accumulated = sizes.get(BATCH[1]) or ACCUMULATED
    per_update = per_device * read.num_processes * accumulated
    source = f"{BATCH[0]} {per_device:g} x {BATCH[1]} {accumulated:g} x {read.num_processes} processes"
    collected = sizes.get(BATCH[2]) or (sizes.get(BATCH[3]) or accumulated) * per_device * read.num_processes
    num_completions = completions_per_problem(read)
    if num_completions is None:
        read.map(f"{source} = {per_update:g} rows", "prompts_per_step", int(per_update))
        return
    num_updates = collected / per_update
    if num_updates != int(num_updates) or collected % num_completions:
        read.refuse(
            ", ".join(sizes),
            list(sizes.values()),
            f"{collected:g} completions in updates of {per_update:g} are not whole groups of {num_completions:g}: "
            "write prompts_per_step, the problems of a step",
        )
        return
    text = f"{source} = {per_update:g} completions" + (f", {collected:g} a collection" if num_updates > 1 else "")
    read.map(f"{text} / num_generations {num_completions:g}", "prompts_per_step", int(collected / num_completions))
    if num_updates > 1:
        read.map(f"{collected:g} / {per_update:g} completions", "num_mini_batches", int(num_updates))
    _in_collections(read, int(num_updates * (as_number(read.rest.get("num_iterations")) or 1)))


def _in_collections(read: Translation, num_updates: int) -> None:
    """Divide the counts of updates by those of a step: a step here is a collection with all of its updates."""
    for key in ("max_steps", "save_steps", "eval_steps", "logging_steps"):
        number = as_number(read.rest.get(key))
        if num_updates == 1 or number is None or number < 1:
            continue
        if number % num_updates:
            read.refuse(key, read.take(key), f"a step here is {num_updates} updates: write a multiple of {num_updates}")
        else:
            text = f"{key}: {read.take(key)} updates / {num_updates} a step"
            read.map(text, key, int(number / num_updates))


def adapter_targets(read: Translation, key: str, everything: tuple[str, ...]) -> None:
    """Read the layers that have adapters; `everything` are the words for all linear layers."""
    target = read.take(key)
    if target is not None and as_text(target) in everything:
        read.values["lora_target_modules"] = ()
        read.notes.append(f"{key}: {as_text(target)} -> every linear layer below the head, the default")
    elif target is not None:
        read.values["lora_target_modules"] = target
