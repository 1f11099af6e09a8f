"""A model that the embedded sampler refuses: what does not sample goes on, what samples is refused with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runs
from obverse.analysis.context import load_context, with_run_options
from obverse.config.analyze import ShiftConfig
from obverse.config.eval import EvalConfig
from obverse.errors import ConfigError
from obverse.estimator import Method
from obverse.estimator.parts import Request
from obverse.evaluation.evaluate import evaluate
from obverse.inference import hf
from obverse.training.loop import train

pytestmark = pytest.mark.parametrize("tiny_dir", ["llama"], indirect=True)


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Any) -> None:
        raise ConfigError("models of this type cannot be sampled here")

    monkeypatch.setattr(hf, "decode_path", refuse)


@pytest.mark.parametrize("method", ["sft", "dft", "dpo"])
def test_methods_that_do_not_sample_train(method: str, tiny_dir: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    train(runs.config(method, tmp_path / "run", tiny_dir, problems, max_steps=1))
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


@pytest.mark.parametrize(
    ("method", "options", "remedy"),
    [
        ("grpo", {}, "--sampler vllm"),
        ("sft_then_rl", {}, "does not sample"),
        ("sft", {"eval_dataset": "arithmetic"}, "--eval_dataset"),
        ("reft", {}, "does not sample"),
    ],
)
def test_runs_that_sample_are_refused_before_the_first_step(
    method: str, options: dict[str, Any], remedy: str, tiny_dir: Path, tmp_path: Path
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    with pytest.raises(ConfigError, match=remedy):
        train(runs.config(method, tmp_path / "run", tiny_dir, problems, max_steps=1, **options))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_evaluations_are_refused_with_a_remedy(tiny_dir: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    with pytest.raises(ConfigError, match="obverse grade"):
        evaluate(EvalConfig(model=str(tiny_dir), dataset=str(problems), output=tmp_path / "out"))


def test_analyses_of_demonstrations_sample_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    config = with_run_options(ShiftConfig(model=str(tiny_dir), before=str(tiny_dir), dataset=str(problems)))
    context = load_context(config, str(tiny_dir), str(tiny_dir))
    groups = context.groups(Method(ask=Request(demonstrations=1), terms=()), 0, 2, 0.0)
    assert all(group.samples for group in groups)
    with pytest.raises(ConfigError, match="--step"):
        context.groups(Method(ask=Request(rollouts=1), terms=()), 0, 2, 0.0)
