"""Files of TRL and LLaMA-Factory: what is kept is exact, what is not is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.config.foreign_keys import Refused, Renamed, translated
from obverse.config.llama_factory_keys import LLAMA_FACTORY
from obverse.config.resolve import resolve
from obverse.config.sources import Layer, is_option
from obverse.config.train import TrainConfig
from obverse.config.trl_keys import TRL
from obverse.config.yaml_file import read, write
from obverse.errors import ConfigError
from obverse.methods import find, parameters

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
BATCH_KEYS = "per_device_train_batch_size, gradient_accumulation_steps"  # 128 completions in groups of 7
DIALECTS = (LLAMA_FACTORY, TRL)


def configured(name: str, method: str | None = None, num_processes: int = 1, **given: Any) -> tuple[TrainConfig, str]:
    """The configuration of a run from one of the files, and the notes as one text."""
    file, notes = translated(read(CONFIGS / f"{name}.yaml"), DIALECTS, method, given, num_processes)
    method = method or str(file.values["method"])
    return resolve(method, find(method), given, file), "\n".join(notes)


def refusals(name: str, method: str | None = None) -> dict[str, str]:
    """The refused keys of one of the files, with what is said of them."""
    with pytest.raises(ConfigError) as error:
        configured(name, method)
    lines = [line.partition(".yaml: ")[2].partition(": ") for line in str(error.value).splitlines()]
    return {key: text for key, _, text in lines}


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        (
            "trl_sft_lora",
            "sft",
            {"model": "Qwen/Qwen2.5-0.5B", "use_peft": True, "lora_r": 16, "lora_target_modules": (), "dtype": "mixed"}
            | {"dataset": "trl-lib/Capybara", "learning_rate": 2e-4, "prompts_per_step": 16, "warmup_steps": 0.03}
            | {"save_steps": 0, "save_minutes": 30.0, "report_to": ("trackio",), "lr_scheduler_type": "cosine"},
        ),
        (
            "trl_grpo_vllm",
            "grpo",
            {"dataset": "openai/gsm8k:main", "verifier": "math", "prompts_per_step": 4, "num_mini_batches": 1}
            | {"sampler": "vllm", "vllm_url": "http://127.0.0.1:8000", "max_steps": 500, "dtype": "bfloat16", "seed": 7}
            | {"report_to": ("wandb",), "save_steps": 100, "max_completion_length": 1024},
        ),
        (
            "llama_factory_full_sft",
            None,
            {"method": "sft", "use_peft": False, "dtype": "mixed", "num_problems": 10000, "prompts_per_step": 2}
            | {"chat_template": "auto", "warmup_steps": 0.1, "gradient_checkpointing": True, "weight_decay": 0.1}
            | {"ddp_timeout": 600.0, "learning_rate": 1e-5, "save_steps": 500},
        ),
        (
            "llama_factory_qlora_dpo",
            None,
            {"method": "dpo", "use_peft": True, "lora_r": 16, "lora_alpha": 64, "load_in_4bit": True, "dtype": "auto"}
            | {"lora_target_modules": ("q_proj", "v_proj"), "use_rslora": True, "prompts_per_step": 8}
            | {"warmup_steps": 20, "save_steps": 0, "save_minutes": 0, "report_to": ("wandb",), "seed": 3},
        ),
    ],
)
def test_a_file_becomes_the_options_of_the_same_run(name: str, method: str | None, expected: dict[str, Any]) -> None:
    config, notes = configured(name, method)
    assert {option: getattr(config, option) for option in expected} == expected
    assert "ignored: " in notes and config.origin("learning_rate").endswith(f"{name}.yaml")


def test_options_of_the_method_are_its_own() -> None:
    config, _ = configured("llama_factory_qlora_dpo")
    assert (config.method_options["beta"], config.method_options["loss"]) == (0.2, "ipo")
    config, _ = configured("trl_grpo_vllm", "grpo")
    assert (config.method_options["beta"], config.method_options["num_generations"]) == (0.0, 8)


def test_the_arithmetic_of_batches_is_shown() -> None:
    config, notes = configured("trl_dpo", "dpo", num_processes=4)
    assert config.prompts_per_step == 64 and "4 x gradient_accumulation_steps 4 x 4 processes = 64 rows" in notes
    assert (config.save_steps, config.eval_steps, config.fsdp) == (0.5, 0, True)  # epochs, as shares of the run
    config, notes = configured("trl_grpo_vllm", "grpo", num_generations=4)  # the command line wins
    assert config.prompts_per_step == 8 and "32 completions / num_generations 4" in notes


def test_a_collection_of_several_updates_is_one_step() -> None:
    values = {"per_device_train_batch_size": 4, "steps_per_generation": 4, "num_generations": 8, "max_steps": 400}
    file, _ = translated(Layer("t.yaml", values), DIALECTS, "grpo", {}, 2)
    assert file.values == {"prompts_per_step": 4, "num_mini_batches": 4, "num_generations": 8, "max_steps": 100}
    with pytest.raises(ConfigError, match="max_steps"):
        translated(Layer("t.yaml", {**values, "max_steps": 402}), DIALECTS, "grpo", {}, 2)
    with pytest.raises(ConfigError, match="not whole groups of 6"):
        translated(Layer("t.yaml", {**values, "num_generations": 6}), DIALECTS, "grpo", {}, 2)


def test_what_has_another_meaning_is_refused_with_what_to_write() -> None:
    lines = refusals("trl_grpo_colocate", "grpo")
    keys = {"dtype", "reward_funcs", "max_prompt_length", "loss_type", "scale_rewards", "mask_truncated_completions"}
    assert set(lines) == keys | {"use_vllm", "max_steps"}
    assert "serve-vllm" in lines["use_vllm"] and "dr_grpo" in lines["loss_type"] and "verifier" in lines["reward_funcs"]
    lines = refusals("trl_grpo_recipe", "grpo")  # of TRL, though it has a key that LLaMA-Factory has too
    assert set(lines) - {"unknown option dataset_prompt_column"} == {"use_vllm", "max_prompt_length", BATCH_KEYS}
    lines = refusals("llama_factory_lora_sft")
    assert set(lines) == {"dataset", "cutoff_len"}
    lines = refusals("llama_factory_dft")
    assert set(lines) == {"cutoff_len", "train_on_prompt", "optim", "use_badam", "val_size"}


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"), [(0, 0.1, 0.1), (20, 0.1, 20), (20, None, 20), (None, 0.1, 0.1)]
)
def test_of_warmup_steps_and_ratio_the_steps_count(steps: int | None, ratio: float | None, expected: float) -> None:
    values = {"warmup_steps": steps, "warmup_ratio": ratio, "bf16": True}
    given = {name: value for name, value in values.items() if value is not None}
    assert translated(Layer("t", given), DIALECTS, "sft", {}, 1)[0].values["warmup_steps"] == expected


def test_an_option_that_is_given_beside_the_key_for_it_is_refused() -> None:
    values = {"per_device_train_batch_size": 4, "prompts_per_step": 8}
    with pytest.raises(ConfigError, match="prompts_per_step: 8: is also given by another key, as 4"):
        translated(Layer("t", values), DIALECTS, "sft", {}, 1)


def test_the_upper_bound_of_a_truncated_ratio_is_converted() -> None:
    values = {"loss_type": "cispo", "epsilon_high": 5.0}
    assert translated(Layer("t", values), DIALECTS, "cispo", {}, 1)[0].values == {"epsilon_high": 4.0}


@pytest.mark.parametrize(
    ("method", "keys", "options"),
    [
        ("kto", {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.3}, {"loss": "apo_zero_unpaired"}),
        ("simpo", {"loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}, {"gamma": 0.5}),
        ("cpo", {"loss_type": "hinge", "cpo_alpha": 0.5}, {"loss": "hinge"}),
        ("apo_down", {"loss_type": "apo_down"}, {}),
    ],
)
def test_losses_of_preferences(method: str, keys: dict[str, Any], options: dict[str, Any]) -> None:
    file, _ = translated(Layer("t", {**keys, "bf16": True}), DIALECTS, method, {}, 1)
    same = {key: value for key, value in keys.items() if key in parameters(find(method))}
    assert file.values == {"dtype": "mixed"} | same | options


def test_sft_beside_a_loss_that_has_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="cpo_alpha"):
        translated(Layer("t", {"loss_type": "simpo", "cpo_alpha": 1.0}), DIALECTS, "simpo", {}, 1)


@pytest.mark.parametrize("name", ["sft", "grpo", "hpt", "srft"])
def test_a_file_of_obverse_is_as_it_was(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(write(resolve(name, find(name), {"learning_rate": "1e-5"})))
    file = read(tmp_path / "t.yaml")
    assert translated(file, DIALECTS, None, {}, 4) == (file, [])


def test_a_key_that_nothing_has_stays_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text("bf16: true\nlearning_rat: 1\nno_such_key_at_all: 2\n")
    assert main(["train", "sft", "--config", str(tmp_path / "t.yaml"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "did you mean learning_rate?" in error and "no_such_key_at_all" in error


def test_the_command_line_says_what_was_translated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text("stage: sft\nfinetuning_type: full\nper_device_train_batch_size: 3\nstage2: 1\n")
    assert main(["train", "--config", str(tmp_path / "t.yaml"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "note: " in error and "= 3 rows -> prompts_per_step: 3" in error and "stage2" in error


def test_the_tables_name_options_that_exist_and_the_page_names_the_keys() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text()
    of_methods = {"beta", "label_smoothing", "divergence", "alpha", "teacher", "gamma", "kl_weight"}
    for dialect in DIALECTS:
        for key, rule in dialect.rules.items():
            option = rule.option if isinstance(rule, Renamed) else "model"
            assert is_option(TrainConfig, option) or option in of_methods, key
            assert not isinstance(rule, Renamed | Refused) or f"`{key}`" in page, key
    assert not [key for key in TRL.signs | LLAMA_FACTORY.signs if is_option(TrainConfig, key)]


@pytest.mark.parametrize(
    ("key", "value", "given"),
    [
        ("max_prompt_length", 512, {"max_prompt_length": "512"}),
        ("reward_funcs", ["my.rewards.format"], {"verifier": "math"}),
        ("use_vllm", True, {"sampler": "hf"}),
        ("per_device_train_batch_size", 7, {"prompts_per_step": "32"}),
        ("dataset_config", "main", {"dataset": "rows.jsonl"}),
    ],
)
def test_a_key_that_the_command_line_replaces_is_neither_refused_nor_translated(
    key: str, value: Any, given: dict[str, Any]
) -> None:
    file = Layer("t", {key: value, "bf16": True, "num_generations": 8})
    with pytest.raises(ConfigError, match=key):
        translated(file, DIALECTS, "grpo", {}, 1)
    read_file, notes = translated(file, DIALECTS, "grpo", given, 1)
    assert read_file.values == {"num_generations": 8, "dtype": "mixed"}
    assert any("command line" in note and key in note for note in notes)


def test_a_list_of_reward_functions_is_one_text_with_commas() -> None:
    file, _ = translated(Layer("t", {"bf16": True, "reward_funcs": ["math", "choice"]}), DIALECTS, "grpo", {}, 1)
    assert resolve("grpo", find("grpo"), {}, file).verifier == "math,choice"


def test_packing_and_quantization_are_not_dropped_silently() -> None:
    values = {"stage": "sft", "finetuning_type": "full", "dataset": "a/b", "quantization_bit": 4, "neat_packing": True}
    with pytest.raises(ConfigError) as error:
        translated(Layer("t", {**values, "tokenized_path": "saved", "dtype": "float16"}), DIALECTS, None, {}, 1)
    keys = {line.split(": ")[1] for line in str(error.value).splitlines()}
    assert keys == {"quantization_bit", "neat_packing", "tokenized_path", "dtype"}  # invalid values are in the report


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group_by_length", True),
        ("average_tokens_across_devices", False),
        ("hub_model_revision", "v1"),
        ("env", {"CUDA_VISIBLE_DEVICES": 0}),
        ("accelerate_config", "zero3"),
        ("num_processes", 7),
        ("dataset_mixture", {"datasets": []}),
    ],
)
def test_a_key_that_changes_the_run_is_not_ignored(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        translated(Layer("t", {"bf16": True, key: value}), DIALECTS, "sft", {}, 1)


def test_a_kl_is_refused_where_the_method_has_no_beta() -> None:
    file = Layer("t", {"loss_type": "dr_grpo", "beta": 0.04})
    with pytest.raises(ConfigError, match="kl_coef"):
        translated(file, DIALECTS, "dr_grpo", {}, 1)
    assert translated(Layer("t", {**file.values, "beta": 0.0}), DIALECTS, "dr_grpo", {}, 1)[0].values == {}


def test_keys_of_distillation_become_the_teachers() -> None:
    values = {"lmbda": 0.3, "beta": 1.0, "max_new_tokens": 64, "seq_kd": False}
    options = translated(Layer("t", values), DIALECTS, "gkd", {}, 1)[0].values
    assert options == {"lmbda": 0.3, "beta": 1.0, "max_completion_length": 64}
    values = {"teacher_model_kind": "ema", "distillation_mode": "full_logits", "teacher_sync_steps": 1}
    options = translated(Layer("t", values), DIALECTS, "sdpo", {}, 1)[0].values
    assert options == {"teacher": "average", "distillation_mode": "full_logits"}
    refused = {"distillation_weight": 0.5, "generate_from_teacher": True, "teacher_prompt_template": "{prompt}"}
    with pytest.raises(ConfigError) as error:
        translated(Layer("t", {**values, **refused}), DIALECTS, "sdft", {}, 1)
    assert {line.split(": ")[1] for line in str(error.value).splitlines()} == set(refused)
    file = Layer("t", {"stage": "sft", "finetuning_type": "full", "use_asft_loss": True, "asft_alpha": 0.05})
    options = translated(file, DIALECTS, None, {}, 1)[0].values
    assert (options["method"], options["kl_weight"]) == ("asft", 0.05)
