"""The plateau rule: when a schedule leaves its first stage, what is measured, and that a resumed run does the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exam.test_runs import assert_law_12
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.schedule import Clock, InOrder, TrainingSchedule, UntilPlateau
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train
from obverse.training.setup import prepare
from obverse.training.validation_loss import validation_loss


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("plateau") / "qwen2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("plateau") / "chains.jsonl")


def options(**changed: object) -> dict[str, object]:
    """A first stage that moves no weight, so that the second measurement is not below the first."""
    given = {"max_steps": 6, "sft_share": 0.9, "patience": 2, "validation_steps": 1, "imitation_learning_rate": 1e-30}
    return {**given, "eval_dataset": "arithmetic:1-2", "num_eval_problems": 8, "eval_steps": 0, **changed}


def test_the_second_stage_begins_after_measurements_without_a_new_minimum() -> None:
    selector, state, stages = UntilPlateau(0.5, patience=2, every=5), {}, []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.5, 1.5, 1.6]):
        state = selector.observed(state, 5 * step, loss)
        stages.append(selector.stage(Clock(num_not_lower=int(state["num_not_lower"]))))
    assert stages == [0, 0, 0, 0, 0, 1]
    assert state == {"step": 25, "loss": 1.6, "lowest": 1.5, "num_not_lower": 2}
    assert selector.stage(Clock(progress=0.49)) == 0 and selector.stage(Clock(progress=0.5)) == 1


def test_without_patience_the_share_alone_decides() -> None:
    schedule = methods.build("sft_then_rl")
    assert isinstance(schedule, TrainingSchedule) and schedule.plateau is None
    assert schedule.selector == InOrder(0.3)


def test_a_run_switches_and_its_rows_say_why(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("sft_then_rl", tmp_path / "run", tiny, problems, **options()))
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["lane"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert ["validation/loss" in row for row in rows] == [True, True, False, False, False, False]
    assert rows[0]["validation/loss"] == rows[1]["validation/loss"]


def test_a_falling_loss_leaves_the_share_in_charge(tiny: Path, problems: Path, tmp_path: Path) -> None:
    changed = options(imitation_learning_rate=1e-3, sft_share=0.5)
    train(runs.config("sft_then_rl", tmp_path / "run", tiny, problems, **changed))
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["lane"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert rows[2]["validation/loss"] < rows[0]["validation/loss"]


def test_the_loss_is_the_mean_over_tokens(tiny: Path, problems: Path, tmp_path: Path) -> None:
    run = prepare(runs.config("sft_then_rl", tmp_path / "run", tiny, problems, **options()), SignalWatcher(Silent()))
    policy, total, num_tokens = run.learners[0].policy, 0.0, 0
    for problem in run.eval_problems:
        prompt, answer = run.collector.renderer.prompt(problem), run.collector.renderer.demonstration(problem).ids
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*prompt.token_ids, *answer]])).logits[0].double()
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        total -= sum(float(row[token]) for row, token in zip(scores, answer, strict=True))
        num_tokens += len(answer)
    assert validation_loss(run) == pytest.approx(total / num_tokens, rel=1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: Path, problems: Path, tmp_path: Path) -> None:
    assert_law_12("sft_then_rl", tiny, problems, tmp_path, **options(max_steps=4, patience=1))


def test_patience_needs_held_out_demonstrations(tiny: Path, problems: Path, tmp_path: Path) -> None:
    config = runs.config("sft_then_rl", tmp_path / "run", tiny, problems, **options(eval_dataset=None))
    with pytest.raises(ConfigError, match="--eval_dataset"):
        prepare(config, SignalWatcher(Silent()))
