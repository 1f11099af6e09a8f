"""Several verifiers in one: their sum, whose correctness counts, and what a failing part does."""

from __future__ import annotations

import pytest

from obverse.errors import ConfigError
from obverse.rewards import (
    NOT_APPLICABLE,
    get_verifier,
    grade_completions,
    parse_verifiers,
    verifier_weights,
    with_weights,
)
from obverse.rewards.composite import combine_grades, component_names
from obverse.types import GradeResult, Problem

SOURCE = """
def short(problem, text):
    return float(len(text) < 12)

def none(completions, **columns):
    return [None for _ in completions]

def fails(problem, text):
    return 1 / 0
"""
PROBLEM = Problem("p", "6*7=", answer="42")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "style.py").write_text(SOURCE)
    return tmp_path / "style.py"


def test_the_reward_is_the_weighted_sum_and_the_first_says_what_is_correct(file):
    verify, weights = get_verifier(f"math,{file}:short*0.25"), {"math": 1.0, "short": 0.25}
    grade = verify(PROBLEM, "#### 42")
    assert grade == GradeResult(True, 1.25, components={"math": 1.0, "short": 1.0}, weights=weights)
    grade = verify(PROBLEM, "#### 43")
    rewards = {"math": 0.0, "short": 1.0}
    assert grade == GradeResult(False, 0.25, "'43' is not the answer", components=rewards, weights=weights)
    grade = verify(PROBLEM, "a long way to #### 42")
    assert grade == GradeResult(True, 1.0, components={"math": 1.0, "short": 0.0}, weights=weights)
    turned = get_verifier(f"{file}:short*0.25, math")
    assert turned(PROBLEM, "#### 43") == GradeResult(True, 0.25, components=rewards, weights=weights)


def test_what_does_not_apply_is_left_out_and_what_fails_fails_the_whole(file):
    grade = get_verifier(f"{file}:none,math")(PROBLEM, "#### 42")
    assert grade == GradeResult(True, 1.0, components={"math": 1.0}, weights={"math": 1.0})
    assert get_verifier(f"{file}:none,{file}:none")(PROBLEM, "#### 42") == NOT_APPLICABLE
    failed = get_verifier(f"math,{file}:fails*0.1")(PROBLEM, "#### 42")
    assert (failed.correct, failed.reward) == (None, 0.0)
    assert failed.reason.startswith("raised: ZeroDivisionError")


def test_weights_are_written_into_the_name():
    assert with_weights("math,my.py:fn", (1.0, 0.2)) == "math*1.0,my.py:fn*0.2"
    assert with_weights("math", ()) == "math"
    assert parse_verifiers("math*1.0, my.py:fn*0.2") == [("math", 1.0), ("my.py:fn", 0.2)]
    combined = combine_grades([GradeResult.passed(), GradeResult.failed("no")], [2.0, 3.0], ["math", "style"])
    assert combined.reward == 2.0
    assert combined.components == {"math": 1.0, "style": 0.0}
    assert combined.weights == {"math": 2.0, "style": 3.0}
    assert verifier_weights("math*2,my.py:style*3") == {"math": 2.0, "style": 3.0}
    assert component_names(["math", "my.py:style"]) == ["math", "style"]
    assert component_names(["a.py:score", "b.py:score"]) == ["a.py:score", "b.py:score"]


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        (None, (1.0,), "weights of what"),
        ("math,exact", (1.0,), "1 weights for 2 verifiers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(spec, weights, message):
    with pytest.raises(ConfigError, match=message):
        with_weights(spec, weights)


@pytest.mark.parametrize("spec", ["math*", "math*nan", "math*x", "math,"])
def test_a_weight_or_a_name_that_is_none_is_refused(spec):
    with pytest.raises(ConfigError, match="weight|unknown"):
        get_verifier(spec)


def test_many_are_judged_in_their_order(file):
    rows = [Problem(str(n), "q", answer="x+1", verifier="math") for n in range(6)]
    rows += [Problem("u", "q", answer="42", verifier=f"{file}:short"), Problem("none", "q", answer="42")]
    texts = ["#### 1+x", "#### x-1", "#### x+1", "no", "#### 7", "\\boxed{9^{9^9}}", "short", "text"]
    found = grade_completions(list(zip(rows, texts, strict=True)))
    assert [grade and grade.correct for grade in found] == [True, False, True, False, False, False, True, None]
    assert found[-1] is None
