"""Demonstrations as problems of their own: a problem per step but the last."""

from __future__ import annotations

from pathlib import Path

import pytest
from exam.batches import groups

import runs
from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.parts import NextStep, RewardSpread
from obverse.estimator.parts.steps import split_steps
from obverse.estimator.schedule import as_schedule
from obverse.training.validate import load_problems
from obverse.types import Problem

ROW = Problem("p", "Q:6*3*4\nA:", answer="72", demonstration=("6*3=18;", "18*4=72", "#72"), verifier="exact")


def test_the_prompt_has_the_steps_before_and_the_answer_is_the_next_one() -> None:
    first, second = NextStep()([ROW])
    assert (first.prompt, first.answer, first.id) == ("Q:6*3*4\nA:", "6*3=18;", "p-step-1")
    assert (second.prompt, second.answer, second.verifier) == ("Q:6*3*4\nA:6*3=18;", "18*4=72", "similarity")


def test_in_a_conversation_the_steps_follow_in_the_last_message() -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6*3*4?"}]
    first, second = NextStep()([Problem("p", asked, demonstration=ROW.demonstration)])
    assert first.prompt[0] == asked[0] and second.prompt[0] == asked[0]  # type: ignore[comparison-overlap]
    assert second.prompt[1]["content"].startswith("6*3*4?\n\nThe solution so far:\n6*3=18;\n\nThink")  # type: ignore[index]
    assert "so far" not in first.prompt[1]["content"]  # type: ignore[index]


def test_paragraphs_of_a_single_text_are_its_steps() -> None:
    text = "First, so.\n\nThen\nso.\n \n\nLast."
    steps = split_steps((text,))
    assert [step.strip() for step in steps] == ["First, so.", "Then\nso.", "Last."] and "".join(steps) == text
    assert NextStep()([Problem("p", "?", demonstration=("one step",))]) == []


def test_groups_of_nearly_equal_rewards_are_left_out() -> None:
    equal, mixed = groups(1, rewards=((0.5, 0.505), (0.2, 0.9)), demonstrations=False)
    assert RewardSpread(0.01)(equal) == [] and len(RewardSpread(0.01)(mixed)) == 2


def test_a_run_trains_on_the_steps_or_names_what_is_missing(tmp_path: Path) -> None:
    schedule = as_schedule(methods.build("srl"))
    rows = load_problems(runs.config("srl", tmp_path / "run", "embedded", "arithmetic:2-3"), schedule)
    assert all("-step-" in row.id and row.verifier == "similarity" for row in rows)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2+2=", "demonstration": "4", "answer": "4"}\n')
    with pytest.raises(ConfigError, match="at least two steps"):
        load_problems(runs.config("srl", tmp_path / "run", "embedded", str(tmp_path / "rows.jsonl")), schedule)
