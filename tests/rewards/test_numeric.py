"""The numeric verifier: near enough by a tolerance that is stated."""

from __future__ import annotations

import pytest

from obverse.errors import GraderError
from obverse.rewards import extract_answer, get_verifier, same_answer
from obverse.types import Problem


@pytest.mark.parametrize(
    ("answer", "text", "tolerance", "right"),
    [
        (9.81, "The answer is 9.81.", None, True),
        (9.81, "#### 9.819", None, True),
        (9.81, "#### 9.82", None, False),
        (9.81, "#### 9.8 m", 0.01, True),
        (9.81, "#### 9.7", 0.01, False),
        ("4.5e33", "\\boxed{4.503 \\times 10^{33}}", None, True),
        ("4.5e33", "\\boxed{4.5}", None, False),
        (0, "#### 0.0000001", None, False),
        (0, "#### 0", None, True),
        (-2, "#### 2", None, False),
        ("1/3", "x = 0.3333", None, False),
        ("1/3", "answer: x = 0.3333", None, True),
        ("5 cm", "#### 5.001 m", None, False),
        (50, "#### 50\\%", None, False),
        (3, "#### 3", 0, True),
    ],
)
def test_near_enough_is_right(answer, text, tolerance, right):
    meta = {} if tolerance is None else {"tolerance": tolerance}
    assert get_verifier("numeric")(Problem("p", "q", answer=answer, meta=meta), text).correct is right


def test_what_is_no_number_is_wrong_and_says_so():
    grade = get_verifier("numeric")(Problem("p", "q", answer=3), "#### \\sqrt{x}")
    assert (grade.correct, grade.reason) == (False, "unparseable: '\\\\sqrt{x}'")
    assert not get_verifier("numeric")(Problem("p", "q", answer=3), "no idea").formatted


@pytest.mark.parametrize(("answer", "tolerance"), [("x", 0.1), (None, 0.1), (3, 1), (3, -0.1), (3, "a"), (3, True)])
def test_an_answer_that_is_no_number_and_a_tolerance_that_is_no_share_are_refused(answer, tolerance):
    with pytest.raises(GraderError, match=r"^problem p: answer: "):
        get_verifier("numeric")(Problem("p", "q", answer=answer, meta={"tolerance": tolerance}), "#### 3")


@pytest.mark.parametrize(
    ("name", "answer", "text", "found", "equal", "other"),
    [
        ("math", "1/2", "so \\boxed{0.5}", "0.5", "\\frac{2}{4}", "2"),
        ("math", "x", "\\boxed{(x+1)^2}", "(x+1)^2", "x^2+2x+1", "x^2+1"),
        ("numeric", 3, "#### 3.0001", "3.0001", "3", "4"),
        ("exact", "a b", "a b ", "a b", " a b", "ab"),
        ("choice", "A", "The answer is (B).", "(B)", "b", "A"),
        ("countdown", {"numbers": [3, 5], "target": 8}, "#3 + 5", "3 + 5", "3+5", "5+3"),
        (None, "x", "answer: 4", "4", "4", "4.0"),
    ],
)
def test_final_answers_and_their_equality_are_the_verifiers(name, answer, text, found, equal, other):
    problem = Problem("p", "q", answer=answer, verifier=name)
    assert extract_answer(problem, text) == found
    assert same_answer(problem, found, equal) and not same_answer(problem, found, other)
    assert extract_answer(problem, "\\boxed{}") is None or name == "exact"


def test_knights_are_the_same_in_any_order():
    who = {"names": ["Al", "Bo"], "solution": [True, False]}
    problem = Problem("p", "q", answer=who, verifier="knights")
    assert same_answer(problem, "Al is a knight, Bo is a knave", "Bo is a knave and Al is a knight")
    assert not same_answer(problem, "Al is a knight, Bo is a knave", "Al is a knave, Bo is a knave")
    assert not same_answer(problem, "nobody", "somebody")
