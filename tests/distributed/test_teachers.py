"""Several ranks with a teacher learn what one process learns: scores behind siblings' answers, and the average."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.teams import Job, Teams
from distributed.test_ranks import Pair
from distributed.test_shards import Runs, stored
from teacher_methods import TAUGHT

import runs

SIBLING = {"who": "average", "sees": "sibling+feedback", "num_generations": 3}


def test_two_ranks_with_a_teacher_are_one_process(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, TAUGHT, dtype="float64", max_steps=1, num_mini_batches=2, **SIBLING)
    several = pair.run([3, 5])
    assert len(pair.weights(several)) == 2  # the policy and the average
    assert all(pair.samples(several))
    assert pair.parameters(several) < 1e-9 and max(pair.losses(several)) < 1e-9
    of_one, of_two = runs.figures(pair.one), runs.figures(several)
    assert [row["tokens/teacher"] for row in of_one] == [row["tokens/teacher"] for row in of_two]
    assert of_one[0]["tokens/teacher"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("who", ["average", "policy", "model", "initial"])
def test_sharded_teachers_are_whole_ones(who: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    """A rank without work runs as many forward passes as the other."""
    model = {"teacher_model": str(tiny)} if who == "model" else {}
    pairs = Runs(teams, tiny, problems, tmp_path, TAUGHT, who=who, sees="sibling+prompt", save_steps=1, **model)
    one = pairs.alone()
    for name, split in (("two", [3, 5]), ("idle", [8, 0])):
        two = pairs.start(name, split, fsdp=True)
        assert len(stored(pairs.last(two))) == (3 if who == "average" else 2)
        assert max(map(row_difference, runs.figures(one), runs.figures(two))) < 1e-9


def row_difference(first: dict[str, float], second: dict[str, float]) -> float:
    assert first["tokens/teacher"] == second["tokens/teacher"]
    return abs(first["loss"] - second["loss"])


@pytest.mark.slow
def test_a_sharded_average_goes_on_by_one_process(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    options = {"who": "average", "sees": "sibling+prompt", "save_steps": 1}
    pairs = Runs(teams, tiny, problems, tmp_path, TAUGHT, **options)
    one, fault = pairs.alone(), {"rank": 1, "phase": "teacher", "after": 2, "kind": "kill"}
    two = pairs.start("two", [3, 5], {-9, 8}, fault=fault, fsdp=True, fsdp_state_dict_type="sharded")
    pairs.start("two", 1, resume_from_checkpoint="auto", gradient_checkpointing=True)
    assert pairs.differ(one, two) < 1e-9


@pytest.mark.slow
def test_a_signal_stops_two_ranks_in_the_phase(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    fault = {"rank": 1, "phase": "teacher", "after": 0, "kind": "term"}
    options = {"max_steps": 2, "prompts_per_step": 4, **SIBLING}
    job = Job(TAUGHT, str(tmp_path / "run"), str(tiny), str(problems), options, 2, fault=fault)
    assert [ended.code for ended in teams.run(job)] == [143, 143]
    assert (tmp_path / "run" / "checkpoint-0").is_dir()
