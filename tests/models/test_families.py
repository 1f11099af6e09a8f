"""Types whose layers keep more than keys and values: adapters, checkpointing and whole runs are right for them too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_lora import batch, configured, gradients
from tiny_models import STATEFUL, save_tiny

import runs
from obverse.memory_plan.batch_shapes import Lengths
from obverse.memory_plan.plan import plan
from obverse.models.load import load
from obverse.models.lora import load_adapted, merged
from obverse.models.policy import Policy, logprobs, with_checkpoints

FAST = ("deepseek_v32", "zamba2")  # an indexer that only selects keys; layers inside layers, and shared weights
KINDS = [pytest.param(kind, marks=[] if kind in FAST else pytest.mark.slow) for kind in STATEFUL]


def log_probs(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([logprobs(policy, micro)[0] for micro in batch().micros(10**6)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_learns_and_merged_weights_compute_the_same(kind: str, tmp_path: Path) -> None:
    """Layers get no adapter where the output does not depend on it, or where its weight is that of several layers."""
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    folder = save_tiny(kind, tmp_path / kind)
    policy = replace(load_adapted(configured(folder, tmp_path), None)[0], shares=False)
    torch.manual_seed(1)
    for name, weight in policy.adapter.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    by_name = gradients(policy, 10**6, shared=False)
    assert all(float(by_name[name].abs().max()) > 0 for name, _ in policy.adapter.named_parameters())
    trained, (base, _) = log_probs(policy), load(str(folder))
    assert float((trained - log_probs(base)).abs().max()) > 1e-2
    base.model.load_state_dict(merged(policy))
    torch.testing.assert_close(log_probs(base), trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_checkpointing_are_those_without(kind: str, tmp_path: Path) -> None:
    policy, _ = load(str(save_tiny(kind, tmp_path / kind)), trains=True)
    policy = replace(policy, shares=False)
    torch.manual_seed(3)
    for weight in policy.model.parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.2)
    plain = gradients(policy, 40, shared=False)
    repeated = gradients(with_checkpoints(policy), 40, shared=False)
    assert repeated.keys() == plain.keys()
    assert all(torch.equal(repeated[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("options", [{}, {"use_peft": True}, {"gradient_checkpointing": True}])
def test_the_memory_of_training_is_planned(options: dict[str, Any], tmp_path: Path) -> None:
    """Experts and recurrent layers run with fake tensors; adapters are on the layers that get them in a run."""
    folder = save_tiny("jamba", tmp_path / "jamba")
    config = runs.config("sft", tmp_path / "run", folder, micro_batch_tokens=512, **options)
    planned = plan(config, Lengths(prompt=10, response=20, completion=20))
    trained = load_adapted(config, None)[0].adapter.parameters() if options.get("use_peft") else None
    weights = trained or list(load(str(folder))[0].model.parameters())
    assert planned.gradients == 4 * sum(weight.numel() for weight in weights)
    assert planned.activations > planned.gradients
