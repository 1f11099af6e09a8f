"""Gradient checkpointing changes no gradient, and mixed precision little; both train, resume and sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exam.batches import groups
from tiny_models import save_tiny, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM, OPTConfig, OPTForCausalLM

import runs
from obverse.errors import ConfigError
from obverse.models.batch import pack
from obverse.models.load import load, load_scalar
from obverse.models.policy import Policy, as_policy, logprobs, with_checkpoints
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.types import Source

SOURCES = frozenset({Source.ROLLOUT, Source.DEMONSTRATION})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("precision") / "qwen2")


def gradient(policy: Policy) -> torch.Tensor:
    update = pack([group.samples for group in groups(1)], SOURCES)
    assert update is not None
    policy.model.zero_grad()
    for micro in update.micros(60):
        logp, _ = logprobs(policy, micro)
        (logp * torch.cos(micro.tokens.sample * 7.0)).sum().backward()
    return torch.cat([each.grad.flatten() for each in policy.model.parameters() if each.grad is not None])


def test_checkpointing_gives_the_same_gradient_and_leaves_dropout_off(tiny: Path) -> None:
    plain = gradient(load(str(tiny))[0])
    policy = with_checkpoints(load(str(tiny))[0])
    assert not policy.shares
    num_forward: list[int] = []
    layer = policy.model.get_decoder().layers[0].self_attn
    layer.register_forward_hook(lambda *_: num_forward.append(1))
    torch.testing.assert_close(gradient(policy), plain, rtol=1e-5, atol=1e-7)
    update = pack([group.samples for group in groups(1)], SOURCES)
    assert update is not None
    assert len(num_forward) == 2 * len(list(update.micros(60)))  # forward, and again for the gradient
    assert not any(module.training for module in policy.model.modules())


def test_layers_that_drop_out_in_functions_drop_nothing() -> None:
    """OPT's layers call dropout as a function of the switch that turns checkpointing on."""
    config = OPTConfig(vocab_size=64, hidden_size=16, ffn_dim=16, word_embed_proj_dim=16, num_attention_heads=2)
    config.num_hidden_layers, config.dropout, config.max_position_embeddings = 2, 0.5, 128
    torch.manual_seed(0)
    policy = as_policy(OPTForCausalLM(config))
    plain = gradient(replace(policy, shares=False))
    torch.testing.assert_close(gradient(with_checkpoints(policy)), plain, rtol=1e-5, atol=1e-7)


def test_a_model_whose_layers_cannot_be_computed_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = as_policy(GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1)))
    monkeypatch.setattr(GPT2LMHeadModel, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="--gradient_checkpointing: GPT2LMHeadModel"):
        with_checkpoints(policy)


def test_mixtures_of_experts_compute_in_float64(tmp_path: Path) -> None:
    config = MixtralConfig(vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=2)
    config.num_attention_heads = config.num_key_value_heads = 2
    config.num_local_experts = 3
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    wide, narrow = (gradient(load(str(tmp_path), dtype)[0]) for dtype in ("float64", "float32"))
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), narrow, rtol=1e-3, atol=1e-5)
    assert load_scalar(str(tmp_path), "float64")[0].dtype == torch.float64


def test_mixed_precision_is_near(tiny: Path) -> None:
    full, half = gradient(load(str(tiny), "float32")[0]), gradient(load(str(tiny), "mixed")[0])
    assert load(str(tiny), "mixed")[0].model.dtype == torch.float32
    assert 0 < float((full - half).norm() / full.norm()) < 0.05


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"dtype": "mixed"}, {"dtype": "bfloat16"}])
def test_such_runs_train(options: dict[str, object], tiny: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    folder = train(runs.config("hpt", tmp_path / "run", tiny, problems, max_steps=3, **options)).folder
    rows = RunFolder(folder).metrics()
    assert len(rows) == 3 and all(row["step_taken"] == 1 and row["grad_norm"] > 0 for row in rows)
    if options.get("dtype") == "mixed":  # sampled and trained at the same precision
        own = train(
            runs.config("reinforce", tmp_path / "own", tiny, problems, max_steps=1, baseline="batch", **options)
        )
        assert RunFolder(own.folder).metrics()[0].get("sampler_gap", 0.0) < 0.02
