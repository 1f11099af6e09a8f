"""Numbers of the whole update on several ranks, with whole and with sharded weights: those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.teams import Teams
from distributed.test_shards import Runs

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
