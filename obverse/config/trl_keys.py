"""The keys of TRL's configuration files (1.16): ScriptArguments, ModelConfig, SFTConfig, DPOConfig, GRPOConfig, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from obverse.config.foreign_keys import Dialect, Fixed, Ignored, Refused, Renamed, Rule, Translation, as_number, as_text
from obverse.config.sources import ALIASES, is_option
from obverse.config.train import TrainConfig
from obverse.config.trainer_keys import (
    BATCH,
    COLOCATED,
    OFF,
    PROCESSES,
    WHOLE_ROWS,
    adapter_targets,
    batch_sizes,
    intervals,
    precision,
    sharding,
    warmup,
)
from obverse.config.trainer_keys import RULES as TRAINER_RULES
from obverse.errors import ConfigError
from obverse.estimator.parts import Standardized
from obverse.estimator.parts.preference_losses import PairLoss
from obverse.estimator.schedule import as_schedule
from obverse.methods import call, find, parameters

# The losses that are a method of the same name, by comparison of gradients (tests/parity), and those of plain SFT.
SAME_LOSS = {
    "grpo": "grpo",
    "dr_grpo": "dr_grpo",
    "sapo": "sapo",
    "cispo": "cispo",
    "luspo": "luspo",
    "vespo": "vespo",
    "simpo": "simpo",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "sft": "sft",
    "dft": "dft",
    "nll": "sft",
    "chunked_nll": "sft",
}
ABSOLUTE_BOUND = ("cispo",)  # epsilon_high is the bound itself; here the bound is 1 + epsilon_high
PREFERENCE_LOSSES = (*get_args(PairLoss), "kto", "apo_zero_unpaired")
OTHER_METHOD = "it belongs to another method: see 'obverse methods'"
SERVER = ("vllm_mode", "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout")

_IGNORED = (
    *("dataset_num_proc", "dataset_streaming", "ignore_bias_buffers", "pad_to_multiple_of", "padding_free"),
    *("eval_packing", "packing_strategy", "activation_offloading", "precompute_ref_log_probs", "log_multimodal"),
    *("precompute_ref_batch_size", "ds3_gather_for_generation", "log_unique_prompts", "log_completions_hub_repo"),
    *("cache_implementation", "use_transformers_paged", "use_transformers_continuous_batching", "dataset_test_split"),
    *("transformers_continuous_batching_config", "vllm_enable_sleep_mode", "vllm_gpu_memory_utilization"),
    *("vllm_tensor_parallel_size", "vllm_model_impl", "vllm_group_port", "vllm_max_model_length", "pad_token"),
    *("use_flash_attention_2", "trackio_space_id", "preprocessing_num_workers", "overwrite_cache", "wandb_entity"),
    *("benchmarks", "callbacks"),
)

RULES: Mapping[str, Rule] = {
    **TRAINER_RULES,
    **{key: Ignored() for key in _IGNORED},
    "reward_model_name_or_path": Renamed("reward_model"),
    "wandb_project": Renamed("project"),
    "f_divergence_type": Renamed("divergence", {"js_divergence": "js", "alpha_divergence": "alpha"}),
    "f_alpha_divergence_coef": Renamed("alpha"),
    "max_length": Fixed(("none",), WHOLE_ROWS),
    "max_seq_length": Fixed(("none",), WHOLE_ROWS),
    "truncation_mode": Ignored(),
    "max_prompt_length": Fixed(
        ("none",), "TRL cut longer prompts, here such problems are left out: give --max_prompt_length if that is meant"
    ),
    "dataset_text_field": Refused("plain texts are not trained: rows have a prompt and a completion, or messages"),
    "dataset_kwargs": Fixed(("none",), "rows are read as docs/data.md says: leave it out"),
    "completion_only_loss": Fixed(("true", "none"), "prompt tokens are never trained"),
    "assistant_only_loss": Fixed(
        ("false",), "of a conversation the last answer is trained: leave it out if rows have one answer"
    ),
    "shuffle_dataset": Fixed(("true",), "problems are drawn in random order, by seed: leave it out"),
    "chat_template_path": Renamed("chat_template"),
    "eos_token": Fixed(("none",), "the end of a turn is the chat template's: give --chat_template FILE.jinja"),
    "model_init_kwargs": Fixed(("none",), "write the options themselves, such as dtype"),
    "teacher_model_init_kwargs": Fixed(("none",), "a teacher has the run's dtype and device: leave it out"),
    "disable_dropout": Fixed(("true",), "dropout is always off: write true"),
    "cast_lm_head_to_fp32": Fixed(OFF, "write dtype: float32 or mixed"),
    "bnb_4bit_quant_type": Fixed(("nf4",), "load_in_4bit is NF4"),
    "use_bnb_nested_quant": Fixed(("true",), "load_in_4bit quantizes its constants too: write true"),
    "lora_target_parameters": Fixed(("none",), "name matrices of experts in lora_target_modules"),
    "ld_alpha": Fixed(("none",), OTHER_METHOD),
    "rpo_alpha": Fixed(OFF, OTHER_METHOD),
    "use_weighting": Fixed(OFF, OTHER_METHOD),
    "loss_weights": Fixed(("none",), OTHER_METHOD),
    "discopop_tau": Ignored(),
    "simpo_gamma": Renamed("gamma"),
    "cpo_alpha": Fixed(OFF, "the method adds no SFT: write 0.0, or train by cpo"),
    "sync_ref_model": Fixed(OFF, "the reference model is the initial one, or anchor_model"),
    "ref_model_mixup_alpha": Ignored(),
    "ref_model_sync_steps": Ignored(),
    "repetition_penalty": Fixed(("1",), "it changes the distribution that is trained: write 1.0"),
    "generation_kwargs": Fixed(("none",), "write top_p, top_k, min_p or stop_strings"),
    "vllm_structured_outputs_regex": Fixed(("none",), "completions are free text"),
    "delta": Fixed(("none",), OTHER_METHOD),
    "beta": Fixed(OFF, "the method has none: write kl_coef, the weight of a KL to the initial model"),
    "vllm_device": Ignored(),
    "hub_model_revision": Fixed(("none", "main"), "the model is pushed to the branch main: leave it out"),
    "env": Refused("environment variables are set in the shell: leave it out"),
    "accelerate_config": Refused(PROCESSES),
    "importance_sampling_level": Fixed(("token",), OTHER_METHOD),
    "mask_truncated_completions": Fixed(OFF, "completions that were cut off train too: see overlong_factor"),
    "use_adaptive_entropy": Fixed(OFF, "entropy_coef is constant"),
    "multi_objective_aggregation": Fixed(("sum_then_normalize",), "rewards are added, then normalized"),
    "off_policy_mask_threshold": Fixed(("none",), OTHER_METHOD),
    "use_bias_correction_kl": Fixed(OFF, "the KL is k3 without a ratio: write false"),
    "max_tool_calling_iterations": Fixed(("none",), "there are no tool calls"),
    "normalize_advantages": Fixed(OFF, OTHER_METHOD),
    "teacher_model_kind": Renamed("teacher", {"base": "initial", "live": "policy", "ema": "average"}),
    "teacher_sync_steps": Fixed(("1",), "the average moves after every optimizer step"),
    "teacher_prompt_template": Refused("write teacher_template, in which {context} is TRL's {privileged_context}"),
    "generate_from_teacher": Fixed(OFF, "rollouts are the policy's, which reads the plain prompt"),
    "num_loss_tokens_to_skip": Fixed(("0",), "the teacher scores every token"),
    "use_teacher_server": Fixed(OFF, "a server of the teacher is teacher_url"),
    "distillation_weight": Fixed(("1",), "the distillation is not added to GRPO"),
    "sdpo_policy_loss_mode": Fixed(("distillation_only",), "the distillation is not added to GRPO"),
    "dont_reprompt_on_self_success": Fixed(("true",), "a rollout is never its own teacher's context"),
    "use_successful_as_teacher": Fixed(("true",), "the teacher reads a right sibling first"),
    "environment_feedback_only_without_solution": Fixed(
        ("true",), "feedback is read where no sibling is right: write true"
    ),
    "iw_opd_gamma": Renamed("gamma"),
    "iw_opd_epsilon": Fixed(("1e-08",), "it is 1e-8"),
    "max_new_tokens": Renamed("max_completion_length"),
    "seq_kd": Fixed(OFF, "write the teacher's text into the data as demonstrations"),
    "reward_clip_range": Fixed(("none",), "clip the reward in your own file.py:function"),
}


def _loss(read: Translation) -> None:
    """Read `loss_type`: a method of its own here, or the `loss` of one that trains on preferences."""
    if "loss_type" not in read.rest or read.method is None or "loss_type" in parameters(find(read.method)):
        return
    loss = as_text(read.take("loss_type"))
    if "loss" in parameters(find(read.method)) and loss in PREFERENCE_LOSSES:
        read.map(f"loss_type: {loss}", "loss", loss)
    elif SAME_LOSS.get(loss) == read.method:
        read.ignored.append("loss_type")
        if loss in ABSOLUTE_BOUND and (bound := as_number(read.take("epsilon_high"))) is not None:
            read.map(f"epsilon_high: {bound:g}, the bound of the ratio, - 1", "epsilon_high", round(bound - 1, 12))
    else:
        name = SAME_LOSS.get(loss)
        advice = f"train by the method {name}" if name else "choose the method that has it: see 'obverse methods'"
        read.refuse("loss_type", loss, advice)


def _reward_scale(read: Translation) -> None:
    """Read `scale_rewards`, an option of some methods and part of the others."""
    if "scale_rewards" not in read.rest or read.method is None:
        return
    scale = {"true": "group", "false": "none"}.get(text := as_text(read.take("scale_rewards")), text)
    make = find(read.method)
    if "scale_rewards" in parameters(make):
        read.values["scale_rewards"] = scale
        return
    stages = as_schedule(call(read.method, make, {})).stages
    divides = any(isinstance(term.advantage, Standardized) for stage in stages for term in stage.method.terms)
    if scale == ("group" if divides else "none"):
        read.ignored.append("scale_rewards")
    else:
        has = "divides by the group's standard deviation" if divides else "does not divide by a standard deviation"
        read.refuse("scale_rewards", scale, f"the method {read.method} {has}: {OTHER_METHOD.partition(': ')[2]}")


def _rewards(read: Translation) -> None:
    """Read `reward_funcs`: names of verifiers pass, TRL's own functions and dotted paths are refused."""
    names = read.rest.get("reward_funcs")
    for name in as_text(names).split(",") if names is not None else ():
        if name.endswith(("_reward", "_punishment")) or ("." in name and ".py:" not in name):
            read.take("reward_funcs")
            read.refuse(
                "reward_funcs", name, "write verifier: math, another name, or file.py:function (docs/graders.md)"
            )


def _engine(read: Translation) -> None:
    """Read `use_vllm` and the address of its server."""
    if "use_vllm" not in read.rest:
        return
    server = {key: read.take(key) for key in SERVER if key in read.rest}
    if "sampler" in read.given:
        read.notes.append(f"the command line's sampler replaces {', '.join(['use_vllm', *server])}")
        read.take("use_vllm")
        return
    if as_text(read.take("use_vllm")) != "true":
        read.ignored += ["use_vllm", *server]
    elif as_text(server.get("vllm_mode", "colocate")) != "server":
        read.refuse("use_vllm", True, COLOCATED)
    else:
        read.map("use_vllm: true", "sampler", "vllm")
        host = as_text(server.get("vllm_server_host", "127.0.0.1")).replace("0.0.0.0", "127.0.0.1")
        address = server.get("vllm_server_base_url") or f"http://{host}:{server.get('vllm_server_port', 8000)}"
        read.map("vllm_server", "vllm_url", address)
        if "vllm_server_timeout" in server:
            read.map("vllm_server_timeout", "vllm_timeout", server["vllm_server_timeout"])


def _prepare(read: Translation) -> None:
    if (subset := read.take("dataset_config")) is not None:
        name = read.take("dataset_name", read.take("dataset"))
        if name is not None:
            read.map(f"dataset_config: {subset}", "dataset", f"{name}:{subset}")
        elif "dataset" in read.given:
            read.notes.append("the command line's dataset replaces dataset_config")
        else:
            read.refuse("dataset_config", subset, "needs dataset_name")
    try:
        _loss(read)
        _reward_scale(read)
    except ConfigError as error:  # an unknown method
        read.problems.append(str(error))
    _rewards(read)
    _engine(read)
    adapter_targets(read, "lora_target_modules", ("all-linear",))
    precision(read, frozen="mixed")
    sharding(read)
    intervals(read)
    warmup(read)
    batch_sizes(read)


READ_TOGETHER = ("loss_type", "use_vllm", "dataset_config", "save_strategy", "eval_strategy", "bf16", *BATCH)
TRL = Dialect(
    "TRL",
    frozenset(key for key in (*RULES, *READ_TOGETHER) if not is_option(TrainConfig, key) and key not in ALIASES),
    RULES,
    _prepare,
)
