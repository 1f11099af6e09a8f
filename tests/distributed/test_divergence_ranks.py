"""Divergences on several ranks, with whole and with sharded weights: those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed.teams import Teams
from distributed.test_shards import Runs
from tiny_models import save_tiny

import runs

pytestmark = pytest.mark.slow  # each case is two runs, one of them of two processes

METHODS = """
from obverse.estimator import Divergence, Method, Teacher, Term
from obverse.estimator.parts import PerToken, Request, Standardized
from obverse.types import Source

BOTH = (Source.ROLLOUT, Source.DEMONSTRATION)

def held(num_generations: int = 2) -> Method:
    terms = tuple(Term(source, normalizer=PerToken(BOTH), weight=0.1, on="divergence") for source in BOTH)
    return Method(
        ask=Request(num_generations, 1),
        terms=(Term(Source.ROLLOUT, Standardized(), normalizer=PerToken(BOTH)), *terms),
        divergence=Divergence(target="anchor", beta=0.5),
    )

def taught(num_generations: int = 2, who: str = "policy", sees: str = "demonstration") -> Method:
    return Method(
        ask=Request(num_generations),
        terms=(Term(Source.ROLLOUT, normalizer=PerToken(), on="divergence"),),
        teacher=Teacher(who, sees, rate=0.2),
        divergence=Divergence(target="teacher", beta=1.0, top_k=20),
    )
"""
CASES: dict[str, dict[str, Any]] = {
    "held": {"num_iterations": 2},
    "taught": {},
    "taught by an average": {"who": "average"},
    "taught by the initial model": {"who": "initial"},
    "taught by a model": {"who": "model", "sees": "prompt", "teacher_model": True},
}


def runs_of(case: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> Runs:
    (tmp_path / "methods.py").write_text(METHODS)
    options = dict(CASES[case])
    if options.pop("teacher_model", False):
        options["teacher_model"] = str(save_tiny("qwen2", tmp_path / "teacher", seed=3))
    method = f"{tmp_path / 'methods.py'}:{case.split()[0]}"
    return Runs(teams, tiny, problems, tmp_path / "runs", method, micro_batch_tokens=400, **options)


@pytest.mark.parametrize("case", CASES)
def test_sharded_weights_learn_what_one_process_learns(
    case: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """The second rank has more micro batches, so that the first runs padding; the head's matrix is gathered."""
    compared = runs_of(case, teams, tiny, problems, tmp_path)
    one, two = compared.alone(), compared.start("two", [2, 6], fsdp=True)
    assert compared.differ(one, two) < 1e-9
    figures = [[row["divergence"] for row in runs.figures(folder)] for folder in (one, two)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-9) and max(figures[0]) > 0


@pytest.mark.parametrize("case", ["held", "taught"])
def test_two_ranks_learn_what_one_learns(case: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    compared = runs_of(case, teams, tiny, problems, tmp_path)
    one, two = compared.alone(), compared.start("two", [3, 5], gradient_checkpointing=True)
    assert compared.differ(one, two) < 1e-9
