"""Types whose layers keep more than keys and values: adapters, checkpointing and whole runs are right for them too."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_lora import batch, configured, gradients
from safetensors.torch import load_file
from tiny_models import STATEFUL, save_tiny
from transformers import AutoModelForCausalLM

import runs
from obverse.distributed.process_group import SINGLE_PROCESS
from obverse.errors import ConfigError
from obverse.inference.build import PolicyWeights
from obverse.memory_plan.batch_shapes import Lengths
from obverse.memory_plan.plan import plan
from obverse.models.load import load
from obverse.models.lora import load_adapted, merged
from obverse.models.policy import Policy, logprobs, with_checkpoints
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

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


@pytest.mark.parametrize(
    "options",
    [
        {"use_peft": True},
        *(pytest.param(options, marks=pytest.mark.slow) for options in ({}, {"gradient_checkpointing": True})),
    ],
)
def test_the_memory_of_training_is_planned(options: dict[str, Any], tmp_path: Path) -> None:
    """Experts and recurrent layers run with fake tensors; adapters are on the layers that get them in a run."""
    folder = save_tiny("jamba", tmp_path / "jamba")
    config = runs.config("sft", tmp_path / "run", folder, micro_batch_tokens=512, **options)
    planned = plan(config, Lengths(prompt=10, response=20, completion=20))
    trained = load_adapted(config, None)[0].adapter.parameters() if options.get("use_peft") else None
    weights = trained or list(load(str(folder))[0].model.parameters())
    assert planned.gradients == 4 * sum(weight.numel() for weight in weights)
    assert planned.activations > planned.gradients


@pytest.mark.parametrize(
    ("kind", "method", "options", "word"),
    [
        ("mamba2", "sft", {"torch_compile": True}, "--torch_compile"),
        ("lfm2", "reward_model", {}, "sequence classification"),
    ],
)
def test_what_a_type_lacks_is_refused_before_the_first_step(
    kind: str, method: str, options: dict[str, Any], word: str, tmp_path: Path
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    config = runs.config(method, tmp_path / "run", save_tiny(kind, tmp_path / kind), problems, max_steps=1, **options)
    with pytest.raises(ConfigError, match=word):
        train(config)


@pytest.mark.parametrize("kind", ["mamba", pytest.param("nemotron_h", marks=pytest.mark.slow)])
def test_a_head_takes_float32_states_in_its_own_type(kind: str, tmp_path: Path) -> None:
    """Models with float32 residuals and bfloat16 weights return float32 states, which their head rounds."""
    policy, _ = load(str(save_tiny(kind, tmp_path / kind)), "bfloat16")
    (micro,) = batch().micros(10**6)
    with torch.no_grad():
        logits = policy.model(input_ids=micro.input_ids, use_cache=False).logits[micro.row, micro.position]
        expected = logits.float().log_softmax(-1).gather(-1, micro.target[:, None])[:, 0]
        torch.testing.assert_close(logprobs(policy, micro)[0], expected, rtol=0, atol=0.02)


SIX = ("qwen3_5_text", "qwen3_next", "lfm2", "falcon_h1", "mamba2", "jamba")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind == "lfm2" else pytest.mark.slow) for kind in SIX])
def test_runs_sample_and_resume_to_the_bit(kind: str, tmp_path: Path) -> None:
    """Completions are sampled with the log-probs that training computes, and a resumed run ends with equal weights."""
    problems, folder = runs.write_problems(tmp_path / "chains.jsonl"), save_tiny(kind, tmp_path / kind)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = {"max_steps": 2, "save_steps": 1, "num_generations": 4, "report": False}
    train(runs.config("grpo", whole, folder, problems, **options))
    rows = RunFolder(whole).metrics()
    assert len(rows) == 2 and all(abs(row["mismatch_kl"]) < 1e-6 for row in rows)
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoint-2")
    train(runs.config("grpo", resumed, folder, problems, resume_from_checkpoint="auto", **options))
    assert runs.figures(resumed) == runs.figures(whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (resumed / "checkpoint-2" / name).read_bytes() == (whole / "checkpoint-2" / name).read_bytes()


@pytest.mark.parametrize("kind", [pytest.param("jamba"), *(pytest.param(kind, marks=pytest.mark.slow) for kind in SIX)])
def test_a_server_gets_merged_weights_by_the_names_of_published_files(kind: str, tmp_path: Path) -> None:
    """Names of the files of the base model, such as one matrix per expert, not those of modules in memory."""
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    folder = save_tiny(kind, tmp_path / kind)
    policy, _ = load_adapted(configured(folder, tmp_path), None)
    for name, weight in policy.adapter.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    PolicyWeights(policy, SINGLE_PROCESS).save(tmp_path / "weights")
    names = {name for path in (tmp_path / "weights").glob("*.safetensors") for name in load_file(path)}
    assert names >= set(load_file(folder / "model.safetensors"))
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "weights").eval()
    ids = torch.arange(12)[None] + 5
    with torch.no_grad():
        torch.testing.assert_close(served(ids).logits, policy.model(ids).logits, rtol=1e-4, atol=1e-4)
