"""C1 with a teacher: a killed run that goes on has the average, scores and figures of the whole run, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Count
from reliability.forks import Forks
from reliability.test_c_kills import Field
from teacher_methods import IN_TWO_STAGES, TAUGHT

AVERAGE = {"who": "average", "sees": "demonstration"}


@pytest.mark.slow  # law 12 resumes sdpo, whose teacher is the average, in every test run
def test_c1_a_killed_run_goes_on_with_its_average(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    field = Field(forks, tmp_path, tiny, problems, TAUGHT, 2, count, num_mini_batches=2, **AVERAGE)
    assert "checkpoint-2/teacher/model.safetensors" in field.expected
    at = 1 + max(number for number, kind in enumerate(field.points) if kind == "teacher")
    field.survives(at, "killed")


@pytest.mark.slow
@pytest.mark.parametrize("method", [TAUGHT, IN_TWO_STAGES])
@pytest.mark.parametrize("who", ["average", "initial"])
@pytest.mark.parametrize("use_peft", [False, True])
def test_c1_kills_with_every_teacher(
    method: str, who: str, use_peft: bool, forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    adapters = {}
    if use_peft:
        pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
        adapters = {"use_peft": True, "lora_r": 4}
    field = Field(forks, tmp_path, tiny, problems, method, 4, count, who=who, sees="demonstration", **adapters)
    assert any(name.startswith("checkpoint-4/teacher/") for name in field.expected) == (who == "average")
    for number, at in enumerate(field.spots(2, seed=len(who))):
        field.survives(at, str(number))
