"""The verifiers that read words: knights, choice and exact; and finding a verifier by name."""

from __future__ import annotations

import pytest

from obverse.errors import ConfigError, GraderError
from obverse.rewards import NAMES, get_verifier
from obverse.types import Problem

WHO = {"names": ["Zoey", "Ann", "Mary Ann"], "solution": [True, False, True], "statements": "ignored"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer>(1) Zoey is a knight\n(2) Ann is a knave\n(3) Mary Ann is a knight</answer>", ""),
        ("#Mary Ann is a knight,Ann is a Knave, Zoey is a  knight", ""),
        ("<answer>Zoey is a knight, Ann is a knight, Mary Ann is a knave</answer>", "wrong about Ann, Mary Ann"),
        ("#Zoey is a knight, Ann is a knave", "does not say of everybody exactly once who they are"),
        ("#Zoey is a knight, Ann is a knave, Mary Ann is not a knight", "wrong about Mary Ann"),
        ("#Zoey is a knight, Zoey is a knave, Ann is a knave, Mary Ann is a knight", "does not say of everybody"),
        ("#Zoey is a knight, Ann is a knave, Mary Ann is a knight, Bob is a knave", "says something else"),
        ("#JoAnn is a knave, Zoey is a knight, Mary Ann is a knight", "says something else"),
        ("Zoey is a knight, Ann is a knave, Mary Ann is a knight", "no final answer"),
        ("<think>#Zoey is a knight, Ann is a knave, Mary Ann is a knight</think>", "no final answer"),
        ("<answer></answer>", "no final answer"),
    ],
)
def test_knights(text, reason):
    grade = get_verifier("knights")(Problem("p", "q", answer=WHO), text)
    assert grade.correct == (reason == "")
    assert grade.reason.startswith(reason)
    assert grade.formatted == (reason != "no final answer")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Ann is a knight", "the knights verifier needs an object with names and solution"),
        ({"names": ["Ann"], "solution": [True, False]}, "1 names but 2 in solution"),
        ({"names": ["Ann", "Ann"], "solution": [True, False]}, "two people have the same name"),
        ({"names": ["Ann"], "solution": ["knight"]}, "solution must be a list of true and false"),
        ({"names": [], "solution": []}, "names must be a list of names"),
        ({"names": [" "], "solution": [True]}, "names must be a list of names"),
    ],
)
def test_knights_need_names_and_a_solution(answer, reason):
    with pytest.raises(GraderError, match=f"^problem p: answer: {reason}$"):
        get_verifier("knights")(Problem("p", "q", answer=answer), "#Ann is a knight")


CITIES = {"choices": ["Rome", "Paris.", "Berlin"]}


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "(B)",
        "<answer>B</answer>",
        "\\boxed{b}",
        "#B.",
        "The answer is (B).",
        "answer: B) Paris",
        "PARIS",
        "#(B) Paris",
    ],
)
@pytest.mark.parametrize("answer", ["B", "(B)", "Paris"])
def test_a_choice_is_a_letter_or_the_text_of_an_option(text, answer):
    assert get_verifier("choice")(Problem("p", "q", answer=answer, meta=CITIES), text).correct


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#A", "A is not the answer"),
        ("#Rome", "A is not the answer"),
        ("#D", "D is not the answer"),
        ("#B. Rome", "'B. Rome' is neither a letter nor an option"),
        ("#A and B", "'A and B' is neither a letter nor an option"),
        ("I think B or C", "no final answer"),
        ("", "no final answer"),
    ],
)
def test_wrong_choices(text, reason):
    grade = get_verifier("choice")(Problem("p", "q", answer="B", meta=CITIES), text)
    assert (grade.correct, grade.reason) == (False, reason)
    assert grade.formatted == (reason != "no final answer")


def test_a_choice_without_options_is_a_letter():
    problem = Problem("p", "q", answer="C")
    assert get_verifier("choice")(problem, "#C) because").correct
    assert not get_verifier("choice")(problem, "#Berlin").correct


@pytest.mark.parametrize(
    ("answer", "choices", "reason"),
    [
        (1, ["Rome", "Paris"], "needs a letter or an option, not int"),
        ("Madrid", ["Rome", "Paris"], "neither a letter nor one of choices"),
        ("C", ["Rome", "Paris"], "neither a letter nor one of choices"),
        ("A", "Rome, Paris", "choices must be a list of text"),
        ("A", [], "choices must have 1 to 26 entries"),
    ],
)
def test_the_right_choice_must_be_one_of_them(answer, choices, reason):
    with pytest.raises(GraderError, match=f"^problem p: answer: .*{reason}$"):
        get_verifier("choice")(Problem("p", "q", answer=answer, meta={"choices": choices}), "#A")


@pytest.mark.parametrize(
    ("text", "correct", "formatted"),
    [
        ("7+5=12#12", True, True),
        ("<answer> 12 </answer>", True, True),
        (" 12\n", True, True),
        ("<think>13</think>12", True, True),
        ("7+5=12#12.0", False, True),
        ("12 or 13", False, False),
        ("<answer></answer>12", False, False),
    ],
)
@pytest.mark.parametrize("answer", ["12", 12, " 12 "])
def test_exact(text, correct, formatted, answer):
    grade = get_verifier("exact")(Problem("p", "q", answer=answer), text)
    assert (grade.correct, grade.formatted) == (correct, formatted)


@pytest.mark.parametrize("answer", [None, True, 1.5, [], "", " "])
def test_exact_needs_text(answer):
    with pytest.raises(GraderError, match=r"^problem p: answer: "):
        get_verifier("exact")(Problem("p", "q", answer=answer), "12")


def test_an_unknown_verifier_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'math'\?$"):
        get_verifier("maths")
    with pytest.raises(ConfigError, match=f"there are {', '.join(NAMES)}$"):
        get_verifier("zzz")
