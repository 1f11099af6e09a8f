"""Failing graders: their samples train nothing, their errors are counted, and too many end the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import runs
from obverse.errors import GraderError
from obverse.rewards import NOT_APPLICABLE
from obverse.runtime.run_dir import RunFolder
from obverse.training.grader_errors import NUM_RECENT, GraderErrorLimit, count_by_reason, sum_counts
from obverse.training.loop import train
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample

FAILED = GradeResult(None, 0.0, "timeout")


def step(num_failed: int, num: int, grade: GradeResult = FAILED) -> list[Group]:
    grades = [grade] * num_failed + [GradeResult.passed()] * (num - num_failed)
    samples = [Sample("rollout", ModelInput((1,)), [2], [], [], "", grade=each) for each in grades]
    return [Group(Problem("p", "q"), samples)]


def test_samples_without_a_verdict_are_left_out() -> None:
    (group,) = GraderErrorLimit(0.01).drop_ungraded(step(1, 8))
    assert len(group.samples) == 7 and all(sample.correct for sample in group.samples)
    (group,) = GraderErrorLimit(0.01).drop_ungraded(step(8, 8, NOT_APPLICABLE))
    assert group.samples == []
    (group,) = GraderErrorLimit(0.01).drop_ungraded(step(8, 8, NOT_APPLICABLE), grades_rollouts=False)
    assert len(group.samples) == 8


def test_a_run_ends_when_errors_pass_the_share() -> None:
    graders = GraderErrorLimit(0.01)
    for _ in range(2):
        graders.drop_ungraded(step(1, 20))  # one in a small step is more than 1 %, and ends nothing
    with pytest.raises(GraderError, match=r"3 of the last 60 \(the first: timeout\)"):
        graders.drop_ungraded(step(1, 20))


def test_rare_errors_end_nothing_and_old_ones_are_forgotten() -> None:
    graders = GraderErrorLimit(0.01)
    for _ in range(60):
        graders.drop_ungraded(step(1, 200))
    assert sum(num for _, num in graders.recent) <= NUM_RECENT + 200


def test_the_share_is_an_option() -> None:
    with pytest.raises(GraderError, match="max_grader_errors"):
        GraderErrorLimit(0.0).drop_ungraded(step(1, 1_000))
    GraderErrorLimit(0.5).drop_ungraded(step(9, 20))
    with pytest.raises(GraderError):
        GraderErrorLimit(0.5).drop_ungraded(step(11, 20))
    with pytest.raises(GraderError):
        GraderErrorLimit(0.5).drop_ungraded(step(1, 1))
    GraderErrorLimit(1.0).drop_ungraded(step(2, 2))


def test_errors_and_refusals_are_counted_by_reason() -> None:
    grades = ["timeout", "crash", "raised: ValueError: no", "no connection"]
    groups = [group for reason in grades for group in step(1, 1, GradeResult(None, 0.0, reason))]
    groups += step(2, 4, GradeResult.failed("prefilter: exponent")) + step(1, 1, GradeResult.failed("unparseable: 'x'"))
    groups += step(1, 1, NOT_APPLICABLE) + step(1, 1, GradeResult.failed("'7' is not the answer"))
    assert count_by_reason(groups) == {
        "grader/crash": 1,
        "grader/other": 1,
        "grader/prefilter": 2,
        "grader/raised": 1,
        "grader/timeout": 1,
        "grader/unparseable": 1,
    }
    assert sum_counts([{"grader/crash": 1.0}, {}, {"grader/crash": 2.0}]) == {"grader/crash": 3.0}


def test_a_run_counts_what_its_graders_failed_on(tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl", num_problems=8, difficulty=(1, 2))
    reward = tmp_path / "reward.py"
    reward.write_text(
        "from obverse.types import GradeResult\n"
        "calls = []\n"
        "def fn(problem, text):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3:\n        raise OSError('no connection')\n"
        "    return GradeResult.failed('prefilter: mine') if len(calls) < 3 else 1.0\n"
    )
    given = {"verifier": f"exact*0,{reward}:fn", "max_steps": 1, "num_generations": 2, "prompts_per_step": 4}
    train(runs.config("grpo", tmp_path / "run", "embedded", problems, max_completion_length=8, **given))
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["grader/raised"] == 1.0 and row["completions/ungraded"] == 0.0
