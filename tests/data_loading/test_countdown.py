from __future__ import annotations

import re
from fractions import Fraction
from random import Random

import pytest

from obverse.data.synthetic import countdown
from obverse.rewards import get_verifier


def compute(expression):
    """The value of an expression by the usual precedence, worked out apart from the task (no eval)."""
    tokens = re.findall(r"\d+|[-+*/()]", expression)
    assert "".join(tokens) == expression
    return add(tokens, 0, len(tokens))


def add(tokens, start, end):
    """Split at the last sign outside brackets, the weakest first, and go on with both sides."""
    for signs in ("+-", "*/"):
        depth = 0
        for i in range(end - 1, start - 1, -1):
            depth += {")": 1, "(": -1}.get(tokens[i], 0)
            if depth == 0 and tokens[i] in signs:
                left, right = add(tokens, start, i), add(tokens, i + 1, end)
                if tokens[i] == "/":
                    return left / right
                return {"+": left + right, "-": left - right, "*": left * right}[tokens[i]]
    if tokens[start] == "(":
        return add(tokens, start + 1, end - 1)
    assert end == start + 1
    return Fraction(int(tokens[start]))


def check(numbers, target, demonstration):
    """Assert that the steps use and make whole numbers only, each once, and that the expression is right."""
    *steps, last = demonstration
    at_hand = sorted(numbers)
    for step in steps:
        left, sign, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+);?", step).groups()
        at_hand.remove(int(left))
        at_hand.remove(int(right))
        at_hand.append(int(result))
        assert compute(f"{left}{sign}{right}") == int(result) and 1 <= int(result) <= countdown.LIMIT
    assert at_hand == [target]
    assert sorted(map(int, re.findall(r"\d+", last))) == sorted(numbers)
    assert last[0] == "#" and compute(last[1:]) == target


def test_the_check_itself_computes():
    assert compute("20-(15-3)/4*2") == 14 and compute("2*(3+4)-5") == 9 and compute("9-4-5") == 0


@pytest.mark.parametrize(("split", "num_problems"), [("train", 900), ("heldout", 600), ("ood", 300)])
def test_every_problem_and_demonstration_is_right(split, num_problems):
    for problem in countdown.generate(split, num_problems, seed=1):
        numbers, target = problem.answer["numbers"], problem.answer["target"]
        assert problem.prompt == f"Q:{','.join(map(str, numbers))}>{target}\nA:"
        assert len(numbers) == problem.meta["difficulty"] == len(problem.demonstration)
        check(numbers, target, problem.demonstration)


def test_the_verifier_agrees():
    judge = get_verifier("countdown")
    for problem in countdown.generate("train", 60, seed=2):
        assert problem.verifier == "countdown" and judge(problem, problem.demonstration_text).correct
        assert not judge(problem, f"{problem.demonstration_text}+0").correct


@pytest.mark.parametrize(("num_numbers", "num_problems"), [(2, 100), (3, 60), (4, 20)])
def test_the_solver_finds_what_the_generator_made(num_numbers, num_problems):
    for problem in countdown.generate("heldout", num_problems, 3, (num_numbers, num_numbers)):
        numbers, target = problem.answer["numbers"], problem.answer["target"]
        check(numbers, target, countdown.solve(numbers, target))


def test_the_solver_says_when_there_is_no_way():
    assert countdown.solve([2, 4], 9) is None
    assert countdown.solve([3, 5], 15) == ("5*3=15", "#5*3")


def test_brackets_only_where_needed():
    a, b, c = (countdown.Value(n, str(n)) for n in (12, 8, 2))
    combine = countdown.combine
    assert combine(a, "-", combine(b, "-", c)).text == "12-(8-2)"
    assert combine(combine(a, "-", b), "-", c).text == "12-8-2"
    assert combine(a, "/", combine(b, "-", c)).text == "12/(8-2)"
    assert combine(combine(a, "+", b), "*", c).text == "(12+8)*2"
    assert combine(combine(b, "*", c), "-", a).text == "8*2-12"
    assert combine(combine(a, "*", b), "/", c).text == "12*8/2"
    assert combine(countdown.Value(24, "24"), "/", combine(b, "/", c)).text == "24/(8/2)"


def test_operations_that_are_not_allowed():
    two, three, one = (countdown.Value(n, str(n)) for n in (2, 3, 1))
    assert countdown.combine(two, "/", three) is None  # not exact
    assert countdown.combine(two, "-", two) is None  # nothing left
    assert countdown.combine(three, "*", one) is None and countdown.combine(three, "/", one) is None  # no change
    assert countdown.combine(countdown.Value(50, "50"), "*", two) is None  # too large


def test_permutations_are_one_problem():
    rng = Random(0)
    drafts = [countdown._draw(rng, 2) for _ in range(3_000)]
    forms = {(tuple(sorted(d.answer["numbers"])), d.answer["target"]) for d in drafts}
    assert len({d.canonical for d in drafts}) == len(forms) < len({d.prompt for d in drafts})
