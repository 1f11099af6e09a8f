"""Answers by grammar, mutated: those that keep the value are right, all others are not, and none takes long."""

from __future__ import annotations

import random
import time

import pytest
from conftest import Count
from rewards.mutations import mutant

from obverse.rewards import get_verifier, start_workers
from obverse.types import Problem

NUM_ALWAYS = 150
NUM_BEFORE_A_RELEASE = 5_000


def survey(seed: int, number: int) -> tuple[list[str], float, int]:
    """What went wrong, the longest time, and how many came to no verdict."""
    draw, verify = random.Random(seed), get_verifier("math")
    start_workers("math")
    wrong, longest, num_errors = [], 0.0, 0
    for _ in range(number):
        one = mutant(draw)
        start = time.perf_counter()
        grade = verify(Problem("p", "q", answer=one.gold), one.text)
        longest = max(longest, time.perf_counter() - start)
        num_errors += grade.correct is None
        if grade.correct is not one.right if one.right is not None else grade.correct:
            wrong.append(f"{one} -> {grade.correct} {grade.reason}")
        assert grade.correct is not None, (one, grade)
    return wrong, longest, num_errors


def test_a_few_mutants(count: Count) -> None:
    wrong, longest, num_errors = survey(seed=1, number=NUM_ALWAYS)
    assert not wrong, "\n".join(wrong)
    assert longest < 1.5 and num_errors == 0
    count("G1 mutated answers judged", NUM_ALWAYS - num_errors)


@pytest.mark.release
def test_thousands_of_mutants(count: Count) -> None:
    wrong, longest, num_errors = survey(seed=2, number=NUM_BEFORE_A_RELEASE)
    print(f"{NUM_BEFORE_A_RELEASE} mutants: longest {longest:.3f} s, {num_errors} without a verdict")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:20])
    count("G1 mutated answers judged", NUM_BEFORE_A_RELEASE - num_errors)
    assert longest < 1.0
