"""What gets adapters: on mixtures of experts and hybrids none is dead, and exports compute what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_lora import batch, configured, gradients
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from obverse.errors import ConfigError
from obverse.models.adapter_io import load_any
from obverse.models.load import load
from obverse.models.lora import load_adapted, merged
from obverse.models.lora_targets import coverage
from obverse.models.policy import Policy, logprobs

pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")

SIZE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 8, "num_experts_per_tok": 2}
KINDS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "deepseek_v3": {  # a dense layer first, shared experts, and PEFT takes their names for those of experts
        **EXPERTS,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "v_head_dim": 4,
    },
    "jamba": {  # its state-space layers read the weight of dt_proj without calling it
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 2,
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "mamba": {"state_size": 4, "time_step_rank": 2},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets")
    for kind, own in KINDS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**SIZE, **own})
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(root / kind)
        tiny_tokenizer("llama").save_pretrained(root / kind)
    return root


def moved(model: Path, folder: Path, **options: Any) -> Policy:
    """A policy whose adapters have learned something, prompts apart: every sample is read alone."""
    policy, _ = load_adapted(configured(model, folder, **options), None)
    torch.manual_seed(1)
    for name, weight in policy.adapter.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    return replace(policy, shares=False)


def says(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([logprobs(policy, micro)[0] for micro in batch().micros(10**6)])


CASES = [
    ("mixtral", (), "gate_up_proj"),
    ("mixtral", ("q_proj", "gate_up_proj", "down_proj"), "k_proj"),
    ("deepseek_v3", (), "gate_up_proj"),
    ("deepseek_v3", ("kv_b_proj", "experts.down_proj"), "gate_up_proj"),
    ("jamba", (), "gate_up_proj"),
    ("mamba", (), "out_proj"),
]


@pytest.mark.parametrize(("kind", "names", "left"), CASES)
def test_every_adapter_learns_and_the_sum_is_what_was_trained(
    kind: str, names: tuple[str, ...], left: str, models: Path, tmp_path: Path
) -> None:
    fresh, _ = load_adapted(configured(models / kind, tmp_path, lora_target_modules=names), None)
    base, tokenizer = load(str(models / kind))
    torch.testing.assert_close(says(fresh), says(base))
    policy = moved(models / kind, tmp_path, lora_target_modules=names)
    found = gradients(policy, 10**6, shared=False)
    assert all(float(found[name].abs().max()) > 0 for name, _ in policy.adapter.named_parameters())
    trained = says(policy)
    assert float((trained - says(base)).abs().max()) > 1e-2
    weights = merged(policy)
    assert weights.keys() >= {name for name, _ in base.model.named_parameters()}
    base.model.load_state_dict(weights)
    torch.testing.assert_close(says(base), trained, rtol=1e-4, atol=1e-4)
    policy.adapter.save_pretrained(tmp_path / "kept")
    tokenizer.save_pretrained(tmp_path / "kept")
    torch.testing.assert_close(says(load_any(str(tmp_path / "kept"))[0]), trained, rtol=1e-4, atol=1e-4)
    again, _ = load_adapted(configured(models / kind, tmp_path, lora_target_modules=names), None)
    again.adapter.restore(tmp_path / "kept")
    torch.testing.assert_close(says(again), trained)
    told, without = coverage(policy).split("; without: ")
    assert left in without and left not in told


def test_names_that_cannot_have_adapters_are_refused_with_those_that_can(models: Path, tmp_path: Path) -> None:
    for kind, name, there in (
        ("deepseek_v3", "gate_proj", "matrices of experts: down_proj, gate_up_proj"),
        ("mamba", "out_proj", r"available: in_proj, x_proj\)"),
        ("mamba", "weight", r"available: in_proj, x_proj\)"),  # of a convolution, which is no matrix of experts
        ("jamba", "dt_proj", "in_proj"),
        ("mixtral", "embed_tokens", "k_proj, o_proj, q_proj, v_proj"),
    ):
        with pytest.raises(ConfigError, match=f"no layer that can have an adapter is called {name} .*{there}"):
            load_adapted(configured(models / kind, tmp_path, lora_target_modules=(name,)), None)
