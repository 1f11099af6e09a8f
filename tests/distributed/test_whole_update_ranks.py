"""Numbers of the whole update, and a store of samples, on two ranks, also with sharded weights: those of one rank."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.teams import Teams
from distributed.test_shards import Runs

import runs

pytestmark = pytest.mark.slow  # each case is two runs, one of them of two processes

METHODS = """
from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, One, PerToken, Request, SecondMomentClip, TopEntropy
from obverse.types import Source

def gated(num_generations: int = 3) -> Method:
    mask = TopEntropy(Clip(), 0.3)
    return Method(Request(num_generations), (Term(Source.ROLLOUT, One(), Behavior(), mask, normalizer=PerToken()),))

def bounded(num_generations: int = 3) -> Method:
    mask = SecondMomentClip(1e-6, 0.0, 0.0, advantage=One())
    return Method(Request(num_generations), (Term(Source.ROLLOUT, One(), Behavior(), mask, normalizer=PerToken()),))
"""


@pytest.mark.parametrize("fsdp", [False, True])
@pytest.mark.parametrize("name", ["gated", "bounded"])
def test_two_ranks_learn_what_one_learns(
    name: str, fsdp: bool, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    (tmp_path / "methods.py").write_text(METHODS)
    options = {"num_iterations": 2, "micro_batch_tokens": 400}
    compared = Runs(teams, tiny, problems, tmp_path / "runs", f"{tmp_path / 'methods.py'}:{name}", **options)
    one, two = compared.alone(), compared.start("two", [2, 6], fsdp=fsdp, gradient_checkpointing=not fsdp)
    assert compared.differ(one, two) < 1e-9


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_ranks_replay_what_one_replays(fsdp: bool, teams: Teams, tmp_path: Path) -> None:
    options = {"num_generations": 4, "replay_start": 0.2, "num_problems": 24, "max_completion_length": 24}
    problems = Path("arithmetic:1-2")
    compared = Runs(teams, Path("embedded"), problems, tmp_path / "runs", "exgrpo", **options)
    one, two = compared.alone(), compared.start("two", [2, 6], fsdp=fsdp, gradient_checkpointing=not fsdp)
    assert compared.differ(one, two) < 1e-9
    figures = [[row["replay/replayed"] for row in runs.figures(folder)] for folder in (one, two)]
    assert figures[0] == figures[1] and sum(figures[0]) > 0


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_ranks_request_the_further_samples_that_one_requests(fsdp: bool, teams: Teams, tmp_path: Path) -> None:
    options = {"num_generations": 2, "num_problems": 24, "max_completion_length": 24}
    problems = Path("arithmetic:1-4")
    compared = Runs(teams, Path("embedded"), problems, tmp_path / "runs", "bread", **options)
    one, two = compared.alone(), compared.start("two", [2, 6], fsdp=fsdp, gradient_checkpointing=not fsdp)
    assert compared.differ(one, two) < 1e-9
    figures = [[row["follow_ups/samples"] for row in runs.figures(folder)] for folder in (one, two)]
    assert figures[0] == figures[1] and max(figures[0]) > 2


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_ranks_leave_a_stage_when_one_does(fsdp: bool, teams: Teams, tmp_path: Path) -> None:
    options = {"num_generations": 2, "num_problems": 24, "max_completion_length": 24, "sft_share": 0.9, "patience": 1}
    options |= {"validation_steps": 1, "imitation_learning_rate": 1e-30, "num_eval_problems": 8, "eval_steps": 0}
    options |= {"eval_dataset": "arithmetic:1-2"}
    compared = Runs(teams, Path("embedded"), Path("arithmetic:1-4"), tmp_path / "runs", "sft_then_rl", **options)
    one, two = compared.alone(), compared.start("two", [2, 6], fsdp=fsdp, gradient_checkpointing=not fsdp)
    assert compared.differ(one, two) < 1e-9
    lanes = [[row["lane"] for row in runs.figures(folder)] for folder in (one, two)]
    assert lanes[0] == lanes[1] and lanes[0][:2] == [0, 1]
