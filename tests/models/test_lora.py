"""Adapters: their gradient is autograd's, only they learn, the initial model is the base bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exam.batches import sample
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

import runs
from obverse import methods
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.estimator.schedule import as_schedule
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.batch import pack
from obverse.models.load import load
from obverse.models.lora import FOUR_BITS, frozen, load_adapted, merged, quantized, refuse_unready, without
from obverse.models.policy import Policy, logprobs, with_checkpoints
from obverse.models.shared_prefix import SharedPrefix
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.build_models import load_models
from obverse.training.loop import train_loop
from obverse.training.setup import prepare
from obverse.types import ModelInput, Source

pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")

OWN = frozenset({Source.ROLLOUT})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("lora") / "qwen2")


def configured(model: Path | str, folder: Path, method: str = "grpo", **options: Any) -> TrainConfig:
    return runs.config(method, folder, model, use_peft=True, **{"lora_r": 4, **options})


def moved(model: Path | str, folder: Path, **options: Any) -> Policy:
    """A policy whose adapters have learned something: B is zero in fresh ones."""
    policy, _ = load_adapted(configured(model, folder, **options), None)
    torch.manual_seed(1)
    for name, weight in policy.adapter.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    return policy


def learning(policy: Policy) -> set[str]:
    return {name for name, each in policy.model.named_parameters() if each.requires_grad}


def batch(num_problems: int = 3) -> Any:
    """Problems with three samples each; a prompt is all its samples'."""
    rng = random.Random(5)
    groups = []
    for _ in range(num_problems):
        prompt = ModelInput(tuple(rng.randrange(3, 30) for _ in range(rng.randrange(1, 8))))
        groups.append([replace(sample(rng, "rollout", 1.0, num), prompt=prompt) for num in (4, 1, 7)])
    made = pack(groups, OWN)
    assert made is not None
    return made


def gradients(policy: Policy, budget: int, shared: bool, known_logp_gradient: bool = False) -> dict[str, torch.Tensor]:
    """Of a weighted sum of the log-probs, by the names of the weights that have one."""
    policy.model.zero_grad()
    reader = SharedPrefix(policy.model, policy.table)
    for micro in batch().micros(budget, shared=shared):
        weight = torch.cos(micro.tokens.sample * 7.0 + micro.tokens.position)
        logp, _ = logprobs(policy, micro, reader=reader, known_logp_gradient=weight if known_logp_gradient else None)
        (logp * weight).sum().backward()
    reader.finish()
    return {name: each.grad.clone() for name, each in policy.model.named_parameters() if each.grad is not None}


def plain_gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """The same by nothing but transformers and autograd, a sample at a time."""
    policy.model.zero_grad()
    (micro,) = batch().micros(10**6)
    for row, position, target, number, place in zip(
        *(each.tolist() for each in (micro.row, micro.position, micro.target)),
        micro.tokens.sample.tolist(),
        micro.tokens.position.tolist(),
        strict=True,
    ):
        logits = policy.model(micro.input_ids[row : row + 1, : position + 1], use_cache=False).logits[0, -1]
        (logits.log_softmax(-1)[target] * torch.cos(torch.tensor(number * 7.0 + place))).backward()
    return {name: each.grad.clone() for name, each in policy.model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("budget", [1, 40, 10**6])
@pytest.mark.parametrize("way", ["plain", "shared", "foreseen", "checkpointed"])
def test_the_gradient_is_that_of_autograd(way: str, budget: int, tiny: Path, tmp_path: Path) -> None:
    policy = moved(tiny, tmp_path, dtype="float64", use_rslora=True)
    assert policy.shares and policy.matrix is not None
    expected = plain_gradients(policy)
    if way == "checkpointed":
        policy = with_checkpoints(policy)
    found = gradients(policy, budget, shared=way in ("shared", "foreseen"), known_logp_gradient=way == "foreseen")
    assert found.keys() == expected.keys() == {name for name, _ in policy.adapter.named_parameters()}
    assert all(each.dtype == torch.float64 for each in found.values())
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, each in found.items():
        torch.testing.assert_close(each, expected[name], rtol=1e-5, atol=1e-6 * largest)  # log-probs are float32


def test_only_the_adapters_learn(tiny: Path, tmp_path: Path) -> None:
    run = prepare(configured(tiny, tmp_path / "run", "sft", max_steps=1), SignalWatcher(Silent()))
    learned = {name for name, _ in run.learner.optimizer.named}
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-4] for name in learned} == linear and len(learned) == 2 * 2 * 7
    before = {name: each.detach().clone() for name, each in run.learner.policy.model.named_parameters()}
    train_loop(run)
    run.folder.release()
    after = dict(run.learner.policy.model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} <= learned
    assert any(not torch.equal(before[name], after[name]) for name in learned)


def test_the_initial_model_is_the_base_bit_for_bit_and_no_second_one(tiny: Path, tmp_path: Path) -> None:
    config = configured(tiny, tmp_path, beta=0.1)
    networks = load_models(config, as_schedule(methods.build("grpo", config.method_options)), None)
    policy, anchor = networks.policy, networks.anchor
    assert anchor is not None and anchor.model is policy.model
    base, _ = load(str(tiny))
    assert sum(each.numel() for each in policy.model.parameters()) == sum(
        each.numel() for each in (*base.model.parameters(), *policy.adapter.parameters())
    )
    (micro,) = batch().micros(10**6)
    with torch.no_grad():
        assert torch.equal(
            logprobs(policy, micro)[0], logprobs(base, micro)[0]
        )  # B is zero: the run begins as the base
        for name, weight in policy.adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
        assert torch.equal(logprobs(anchor, micro)[0], logprobs(base, micro)[0])
        assert not torch.allclose(logprobs(policy, micro)[0], logprobs(base, micro)[0], atol=1e-3)
    request, params = [SamplingRequest(ModelInput((5, 6, 7)), [1, 2, 3])], SamplingParams(stop_ids=(0,), max_tokens=8)
    drawn = HFSampler(anchor.model, scope=anchor.scope).sample(request, params)
    assert drawn == HFSampler(base.model).sample(request, params) != HFSampler(policy.model).sample(request, params)


def test_a_look_at_the_initial_model_takes_no_gradient_away(tiny: Path, tmp_path: Path) -> None:
    policy = moved(tiny, tmp_path)
    expected = gradients(policy, 10**6, shared=False)
    (micro,) = batch().micros(10**6)
    policy.model.zero_grad()
    logp, _ = logprobs(policy, micro)
    for anchor in (without(policy), frozen(policy)):
        with torch.no_grad():
            logprobs(anchor, micro)
        with pytest.raises(KeyError), anchor.scope():
            assert learning(policy) == expected.keys()
            raise KeyError  # what breaks off inside leaves the policy as it was
    (logp * torch.cos(micro.tokens.sample * 7.0 + micro.tokens.position)).sum().backward()
    for name, weight in policy.adapter.named_parameters():
        assert torch.equal(weight.grad, expected[name]), name
    assert learning(policy) == expected.keys()


def test_a_later_stage_keeps_the_adapters_it_began_with(tiny: Path, tmp_path: Path) -> None:
    policy = moved(tiny, tmp_path)
    (micro,) = batch().micros(10**6)
    with torch.no_grad():
        then = logprobs(policy, micro)[0]
        anchor = frozen(policy)
        for _, weight in policy.adapter.named_parameters():
            weight.mul_(2)
        assert torch.equal(logprobs(anchor, micro)[0], then) and not torch.equal(logprobs(policy, micro)[0], then)
    anchor.savable.save_pretrained(tmp_path / "initial-1")
    with torch.no_grad():
        again = frozen(policy, tmp_path / "initial-1")
        assert torch.equal(logprobs(again, micro)[0], then)
    assert learning(policy) == {name for name, _ in policy.adapter.named_parameters()}


def test_merged_weights_compute_what_the_adapters_do(tiny: Path, tmp_path: Path) -> None:
    policy, plain = moved(tiny, tmp_path), AutoModelForCausalLM.from_pretrained(tiny).eval()
    plain.load_state_dict(merged(policy))
    critic = AutoModelForCausalLM.from_pretrained(tiny).eval()
    critic.base_model.load_state_dict(merged(policy, policy.model.base_model))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        found = policy.model(ids).logits
        torch.testing.assert_close(plain(ids).logits, found, rtol=1e-4, atol=1e-5)
        assert torch.equal(critic(ids).logits, plain(ids).logits)


def test_the_seed_decides_where_adapters_begin_and_moves_no_other_stream(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (load_adapted(configured(tiny, tmp_path, seed=seed), None)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    first, second, third = (each.adapter.tensors() for each in (one, same, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_a_bfloat16_base_has_float32_adapters(tiny: Path, tmp_path: Path) -> None:
    policy = moved(tiny, tmp_path, dtype="bfloat16")
    assert policy.model.dtype == torch.bfloat16 and not policy.mixed
    assert {each.dtype for each in policy.adapter.parameters()} == {torch.float32}
    assert {each.dtype for each in gradients(policy, 10**6, shared=False).values()} == {torch.float32}


def test_what_learns_takes_a_small_share_of_the_memory(tmp_path: Path) -> None:
    policy, _ = load_adapted(configured("embedded", tmp_path, lora_r=16), None)
    base = load("embedded")[0].model
    whole = sum(each.numel() for each in base.parameters())
    shapes = [each.weight.shape for each in base.get_decoder().modules() if isinstance(each, torch.nn.Linear)]
    own = sum(each.numel() for each in policy.adapter.parameters())
    full, adapted = whole * (4 + 4 + 8), whole * 4 + own * (4 + 4 + 8)  # float32: weight, gradient, two moments
    assert own == 16 * sum(map(sum, shapes)) and adapted < 0.45 * full


# 4 bits: what is asked of transformers; no test here has a CUDA device


def test_four_bits_are_those_of_the_paper(tiny: Path, tmp_path: Path) -> None:
    asked = quantized(configured(tiny, tmp_path, load_in_4bit=True, device="cuda:1"))
    found = asked["quantization_config"]
    assert (found.load_in_4bit, found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert found.bnb_4bit_compute_dtype == torch.bfloat16 == FOUR_BITS["bnb_4bit_compute_dtype"]
    assert asked["device_map"] == {"": torch.device("cuda:1")}


def test_four_bits_without_cuda_or_without_the_library_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="CUDA device"):
        prepare(configured(tiny, tmp_path / "run", load_in_4bit=True, device="cpu"), SignalWatcher(Silent()))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("obverse.models.lora.installed", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'obverse\\[gpu\\]'"):
        refuse_unready(configured(tiny, tmp_path, load_in_4bit=True, device="cuda"))


def test_a_base_in_four_bits_is_not_merged(tiny: Path, tmp_path: Path) -> None:
    policy = moved(tiny, tmp_path)
    policy.model.is_loaded_in_4bit = True
    with pytest.raises(ConfigError, match="4 bits"):
        merged(policy)
