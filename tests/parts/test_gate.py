"""SolvedGate: who trains on what, at every count of correct rollouts."""

from __future__ import annotations

import pytest

from obverse.estimator.parts import SolvedGate
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def group(num_correct: int, demonstrations: int = 1) -> Group:
    grades = [GradeResult.passed()] * num_correct + [GradeResult.failed("no")] * (4 - num_correct)
    own = [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [-0.1], "", grade=grade) for grade in grades]
    shown = Sample(
        "demonstration", ModelInput((1,)), [2], [Source.DEMONSTRATION], [0.0], "", grade=GradeResult.passed()
    )
    return Group(Problem("p", "x"), [*own, *[shown] * demonstrations])


@pytest.mark.parametrize("gate", [0, 1, 2])
@pytest.mark.parametrize("num_correct", range(5))
def test_a_problem_solved_more_often_than_the_gate_trains_on_its_rollouts(gate: int, num_correct: int) -> None:
    kinds = {sample.kind for sample in SolvedGate(gate)(group(num_correct))}
    assert kinds == ({"rollout"} if num_correct > gate else {"demonstration"})


def test_a_correct_demonstration_does_not_count_as_solved() -> None:
    assert [sample.kind for sample in SolvedGate(0)(group(0))] == ["demonstration"]


def test_a_failed_problem_without_a_demonstration_leaves_nothing() -> None:
    assert SolvedGate(0)(group(0, demonstrations=0)) == []
