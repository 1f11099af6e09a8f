"""Models with an impossible configuration, or without a tokenizer, are refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import EXCERPT, save_tiny

from obverse.config.commands import DataConfig
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.memory_plan.table import memory
from obverse.models.load import load
from obverse.models.load_renderer import load_renderer
from obverse.models.policy import capabilities_of

INVALID: dict[str, tuple[str, dict[str, Any], str]] = {  # type, changes of its config.json, part of the message
    "layer type": ("qwen3_5_text", {"layer_types": ["linear_attention", "magic"]}, "config.json is invalid: .*magic"),
    "layer count": ("qwen3_5_text", {"layer_types": ["full_attention"] * 3}, "config.json is invalid: .*layer_types"),
    "heads": ("mamba2", {"num_heads": 7}, "config.json is invalid: .*num_heads"),
    "period": ("jamba", {"attn_layer_period": 0}, "config.json is invalid: ZeroDivisionError"),
    "experts": ("deepseek_v32", {"num_experts_per_tok": 9}, "forward of DeepseekV32ForCausalLM .*out of range"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_impossible_configuration_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    """By every command that loads the model; the memory plan and the tokenizer read the configuration alone."""
    kind, changes, message = INVALID[case]
    path = save_tiny(kind, tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    config = TrainConfig(method="sft", model=str(tmp_path), dataset=str(EXCERPT))
    with pytest.raises(ConfigError, match=message) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        list(memory(config))
    if case != "experts":
        with pytest.raises(ConfigError, match=message):
            load_renderer(DataConfig(dataset=str(EXCERPT), model=str(tmp_path)))


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_a_forward_pass_that_fails_on_the_own_weights_is_one_sentence(tiny_dir: Path) -> None:
    policy, _ = load(str(tiny_dir))
    policy.model.model.layers[0].self_attn.head_dim = 7  # the small copy has the head size of the configuration
    with pytest.raises(ConfigError, match=r"forward of Qwen2ForCausalLM .*RuntimeError"):
        capabilities_of(policy.model)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load(str(tmp_path))
