"""The figures of a step: lengths, repetition, components of the reward, the divergence from the initial model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.training.metrics import (
    PhaseTimer,
    UpdateMetrics,
    peak_memory,
    repetition,
    rollout_metrics,
    teacher_metrics,
)
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def rollout(ids: list[int], grade: GradeResult, **fields: Any) -> Sample:
    sources = [Source.ROLLOUT] * len(ids)
    return Sample("rollout", ModelInput((1,)), ids, sources, [0.0] * len(ids), "", **{"grade": grade, **fields})


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([], 0.0), ([1, 2, 3], 0.0), ([1, 2, 3, 4], 0.0), ([1, 2, 3, 4, 1, 2, 3, 4], 0.2), ([7] * 10, 6 / 7)],
)
def test_repetition_counts_runs_of_four_tokens_that_came_before(ids: list[int], expected: float) -> None:
    assert repetition(ids) == pytest.approx(expected)


def test_lengths_are_told_apart_by_grade_and_by_the_limit() -> None:
    samples = [
        rollout([1, 2], GradeResult.passed(), finish="stop"),
        rollout([1, 2, 3, 4], GradeResult.failed("no"), finish="stop"),
        rollout([1] * 6, GradeResult.failed("no"), finish="length"),
        rollout([1] * 5, GradeResult(None, 0.0, "timeout"), finish="stop"),
    ]
    row = rollout_metrics([Group(Problem("p", "?"), samples)], [samples])
    lengths = {name.removeprefix("completions/"): value for name, value in row.items() if "length" in name}
    assert lengths == {
        "mean_length": 4.25,
        "min_length": 2,
        "max_length": 6,
        "mean_terminated_length": pytest.approx(11 / 3),
        "mean_length_correct": 2,
        "mean_length_incorrect": 5,
    }


def test_components_of_a_reward_have_a_mean_and_a_spread_each() -> None:
    samples = [
        rollout([1], GradeResult(True, 1.2, components={"math": 1.0, "style": 1.0})),
        rollout([1], GradeResult(False, 0.0, components={"math": 0.0})),
    ]
    row = rollout_metrics([Group(Problem("p", "?"), samples)], [samples])
    figures = {name: value for name, value in row.items() if name.startswith("rewards/")}
    assert figures == {
        "rewards/math/mean": 0.5,
        "rewards/math/std": 0.5,
        "rewards/style/mean": 1.0,
        "rewards/style/std": 0.0,
    }


def update_inputs(**columns: Any) -> PartInputs:
    """Two rollout tokens and one of a demonstration, in one sample."""
    logp = torch.tensor([-1.0, -2.0, -3.0])
    source = torch.tensor([int(Source.ROLLOUT), int(Source.ROLLOUT), int(Source.DEMONSTRATION)])
    tokens = Tokens(torch.zeros(3, dtype=torch.long), source, torch.arange(3), logp, sampler=logp, **columns)
    counts = torch.zeros(1, len(Source), dtype=torch.long)
    zero = torch.zeros(1)
    samples = Samples(zero, zero > 0, zero.long(), zero > 0, counts)
    return PartInputs(tokens, samples, PolicyOutputs(logp, torch.zeros(3)))


def test_kl_is_k3_from_the_initial_model_on_rollout_tokens() -> None:
    metrics = UpdateMetrics()
    inputs = update_inputs(anchor=torch.tensor([-1.5, -1.0, 5.0]))
    metrics.add_tokens(torch.tensor(0.0), inputs, torch.zeros(3))
    expected = [math.exp(ratio) - 1 - ratio for ratio in (-0.5, 1.0)]
    assert metrics.row()["kl"] == pytest.approx(sum(expected) / 2)


def test_rollouts_of_another_model_give_no_kl() -> None:
    metrics = UpdateMetrics()
    inputs = update_inputs(anchor=torch.tensor([-1.5, -1.0, 5.0]))
    metrics.add_tokens(torch.tensor(0.0), inputs, torch.zeros(3), samples_policy=False)
    assert "kl" not in metrics.row()


def test_without_an_initial_model_there_is_no_kl() -> None:
    metrics = UpdateMetrics()
    metrics.add_tokens(torch.tensor(0.0), update_inputs(), torch.zeros(3))
    assert "kl" not in metrics.row()


def test_speed_by_phase_and_memory() -> None:
    timer = PhaseTimer()
    timer.seconds = {"sample": 2.0, "grade": 1.0, "train": 5.0}
    row = timer.row(num_generated=40, num_trained=20)
    assert row["tokens_per_second"] == 7.5
    assert (row["tokens_per_second/sample"], row["tokens_per_second/train"]) == (20.0, 4.0)
    assert "tokens_per_second/sample" not in timer.row(0, 20)
    assert 0.01 < peak_memory(torch.device("cpu"))["memory/peak_gb"] < 1000


def test_the_distance_from_the_teacher_is_that_of_rollout_tokens_it_scored() -> None:
    prompt = ModelInput((1,))
    scored = rollout([1, 2, 3], GradeResult.passed(), teacher=[-1.0, -3.0, -0.5], teacher_prompt=prompt)
    scored.behavior[:] = [-2.0, -1.0, -0.5]
    demonstration = Sample("demonstration", prompt, [1], [Source.DEMONSTRATION], [0.0], "", teacher=[-9.0])
    unread = rollout([1], GradeResult.passed(), teacher=[0.0])  # no part reads the teacher there
    row = teacher_metrics([[scored, demonstration], [unread], []])
    assert row == {"teacher/kl": pytest.approx((-1.0 + 2.0 + 0.0) / 3), "teacher/better": pytest.approx(1 / 3)}
    assert teacher_metrics([[unread]]) == {}
