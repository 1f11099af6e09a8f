"""The balancing loss of a mixture's routers: transformers' own, over a whole update, however it is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import runs
from obverse.errors import ConfigError
from obverse.models.batch import pack
from obverse.models.policy import Policy, with_checkpoints
from obverse.models.router_loss import balance_of
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.banner import balancing
from obverse.training.loop import train
from obverse.training.optimizer import Optimizer
from obverse.training.prepared_update import prepare_update
from obverse.training.run import Run
from obverse.training.setup import prepare
from obverse.training.update import optimizer_step

SIZE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"vocab_size": 512, "num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0, "eos_token_id": 2}
KINDS = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8, "layer_types": ["full_attention"] * 2},
}
WEIGHT = 0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("routing")
    for kind, own in {**KINDS, "llama": {}}.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZE, **own}))
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(root / kind)
        tiny_tokenizer("llama").save_pretrained(root / kind)
    return root


def prepared(model: Path, folder: Path, **options: Any) -> Run:
    given = {"router_aux_loss_coef": WEIGHT, "dtype": "float64", "max_grad_norm": 0.0, "learning_rate": 0.0, **options}
    return prepare(
        runs.config("sft", folder, model, "arithmetic:1-4", num_problems=8, **given), SignalWatcher(Silent())
    )


def gradient(run: Run, tokens: int, weight: float = WEIGHT, policy: Policy | None = None) -> tuple[torch.Tensor, float]:
    """Of one update by the whole loss, as the optimizer gets it, and the balancing loss's value."""
    optimizer = run.learner.optimizer
    balance, policy = balance_of(optimizer.model, weight), policy or run.learner.policy
    learner = replace(run.learner, policy=policy, micro_batch_tokens=tokens, balance=balance)
    groups = run.collector.collect(run.problems[:4], learner.method, 0, 0.0)
    update = pack([group.samples for group in groups], learner.method.sources, dtype=torch.float64)
    assert update is not None
    current = prepare_update(learner, update, is_repeated=False)
    assert current is not None
    found: list[torch.Tensor] = []
    take = type(optimizer).step

    def step(self: Optimizer, is_finite: bool = True) -> Any:
        found.extend(each.grad.flatten().clone() for _, each in self.named if each.grad is not None)
        return take(self, is_finite)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", step)
        figures = optimizer_step(learner, current, 0.0, Silent()).figures
    return torch.cat(found), figures.get("router_aux_loss", 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_that_of_transformers_and_no_split_changes_it(kind: str, models: Path, tmp_path: Path) -> None:
    run = prepared(models / kind, tmp_path / "run")
    model = run.learner.policy.model
    whole, value = gradient(run, 10**6)
    small, same = gradient(run, 30)
    torch.testing.assert_close(small, whole, rtol=1e-6, atol=1e-9)
    assert same == pytest.approx(value, rel=1e-6)
    without, nothing = gradient(run, 10**6, 0.0)
    assert nothing == 0.0
    # transformers' own, one row at a time: its counts are of all rows at once
    groups = run.collector.collect(run.problems[:4], run.method, 0, 0.0)
    rows = [list(sample.model_input.token_ids) for group in groups for sample in group.samples]
    width = max(map(len, rows)) - 1
    ids = torch.tensor([row[:-1] + [0] * (width - len(row) + 1) for row in rows])
    mask = torch.tensor([[1] * (len(row) - 1) + [0] * (width - len(row) + 1) for row in rows])
    model.zero_grad()
    loss = WEIGHT * model(input_ids=ids, attention_mask=mask, output_router_logits=True, use_cache=False).aux_loss
    loss.backward()
    named = [each for _, each in run.learner.optimizer.named]
    expected = torch.cat(
        [torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten() for each in named]
    )
    assert value == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(whole - without, expected, rtol=1e-3, atol=1e-6)
    assert float((whole - without).abs().max()) > 1e-4
    model.zero_grad()
    again, _ = gradient(run, 30, policy=with_checkpoints(run.learner.policy))
    torch.testing.assert_close(again, whole, rtol=1e-6, atol=1e-9)


def test_a_run_with_it_trains_and_says_so(models: Path, tmp_path: Path) -> None:
    options = {"router_aux_loss_coef": 0.01, "max_steps": 2, "report": False, "gradient_checkpointing": True}
    folder = train(runs.config("sft", tmp_path / "run", models / "mixtral", num_problems=8, **options)).folder
    assert all(row["router_aux_loss"] > 0 and row["step_taken"] == 1 for row in RunFolder(folder).metrics())


@pytest.mark.parametrize(
    ("method", "kind", "options", "named"),
    [
        ("sft", "llama", {}, "LlamaForCausalLM has no routers"),
        ("sft", "mixtral", {"fsdp": True}, "--fsdp"),
        ("reward_model", "mixtral", {}, "trains no policy"),
        ("ift", "mixtral", {}, "trains no policy"),
    ],
)
def test_where_it_cannot_be_it_is_refused(
    method: str, kind: str, options: dict[str, Any], named: str, models: Path, tmp_path: Path
) -> None:
    config = runs.config(method, tmp_path / "run", models / kind, router_aux_loss_coef=0.1, num_problems=8, **options)
    with pytest.raises(ConfigError, match=named):
        prepare(config, SignalWatcher(Silent()))


def test_a_routers_own_loss_is_said_to_be_left_out(models: Path) -> None:
    mixture, plain = (AutoConfig.from_pretrained(models / kind) for kind in ("mixtral", "llama"))
    assert "router_aux_loss_coef 0.001" in str(balancing(mixture, 0.0))
    assert "balanced" in str(balancing(mixture, 0.1))
    assert balancing(plain, 0.0) is None
