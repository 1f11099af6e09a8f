"""The Countdown grammar: everything it accepts, everything it must refuse, and its values against exact arithmetic."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obverse.errors import GraderError
from obverse.rewards import get_verifier
from obverse.rewards.countdown import MAX_DEPTH, ExpressionError, evaluate, tokenize
from obverse.types import Problem


def judge(numbers, target, answer):
    return get_verifier("countdown")(Problem("p", "q", answer={"numbers": numbers, "target": target}), answer)


@pytest.mark.parametrize(
    ("numbers", "target", "text"),
    [
        ([3, 5, 7, 2], 24, "<answer>3*5+7+2</answer>"),
        ([10, 3, 3, 1], 10, "<answer>10/3*3*1</answer>"),
        ([3, 5], 8, "<answer>3+5=8</answer>"),
        ([3, 5], 8, "<answer> 3\n+ 5 = 8 </answer>"),
        ([5, 3], -2, "<answer>3-5=-2</answer>"),
        ([3, 5], 15, "<answer>3\u00d75</answer>"),
        ([15, 5], 3, "<answer>15\u00f75</answer>"),
        ([15, 5], 10, "<answer>15\u22125</answer>"),
        ([3, 5, 7, 2], 24, "5*3=15;15+7=22;22+2=24#5*3+7+2"),
        ([8], 8, "\\boxed{((8))}"),
        ([2, 3, 4], 14, "#2+3*4"),
        ([20, 5, 2], 2, "#20/5/2"),
        ([20, 5, 2], 13, "#20-5-2"),
        ([0, 7], 7, "#0+7"),
        ([3, 5], 15, "#3 \\times 5"),
        ([3, 5], 15, "#3(5)"),
        ([3, 5], 15, "3 * 5"),
        ([3, 5], 15, "<answer>15 = 3x5</answer>"),
        ([3, 5], 15, "<answer>`3*5 = 15.0`</answer>"),
        ([3, 5, 2], 16, "<answer>**[3+5]*2**</answer>"),
        ([3, 5, 2], 16, "\\boxed{\\left(3+5\\right)\\cdot 2}"),
    ],
)
def test_right(numbers, target, text):
    assert judge(numbers, target, text).correct


@pytest.mark.parametrize(
    ("numbers", "target", "text", "reason"),
    [
        ([3, 5, 7, 2], 22, "#3*5+7", "does not use every number exactly once"),
        ([3, 5, 7, 2], 24, "#3*5+7+2+3-3", "does not use every number exactly once"),
        ([3, 5, 7, 2], 24, "#24", "does not use every number exactly once"),
        ([1, 2], 12, "#12", "does not use every number exactly once"),
        ([1, 1], 1, "#1*" + "9" * 4999, "no final answer"),
        ([1, 1], 1, "#1*" + "9" * 4000, "does not use every number exactly once"),
        ([1, 3, 7, 7], 1, "#1/3+7/7", "does not equal the target"),
        ([3, 5], 9, "#3+5=9", "does not equal the target"),
        ([3, 5], 8, "#3+5=9", "the other side of = is not the target"),
        ([3, 5], 8, "#8=3+5=8", "'=8' is not part of an expression"),
        ([3, 5], 8, "#3+5=8=8", "the other side of = is not the target"),
        ([3, 5], -2, "#-5+3", "expected a number or a bracket, found '-'"),
        ([3, 5], 8, "#3++5", "expected a number or a bracket, found '+'"),
        ([9, 9], 81, "#9**9", "expected a number or a bracket, found '*'"),
        ([3], 3, "#3+", "expected a number or a bracket, found 'the end'"),
        ([3, 5], 8, "#(3+5", "a bracket is not closed"),
        ([3, 5], 8, "#3+5)", "unexpected ')'"),
        ([3, 5], 9, "#3(5)", "does not equal the target"),
        ([3, 5], 125, "#5^3", "'^3' is not part of an expression"),
        ([3, 5], 8, "#3 5", "unexpected 5"),
        ([3, 0], 0, "#3/0", "divides by zero"),
        ([3, 3, 3], 0, "#3/(3-3)", "divides by zero"),
        ([7, 2], 1, "#7%2", "'%2' is not part of an expression"),
        ([16], 16, "#0x10", "does not use every number exactly once"),
        ([100], 100, "#1e2", "'e2' is not part of an expression"),
        ([1, 0], 10, "#1_0", "'_0' is not part of an expression"),
        ([3, 5], 8, "#3+05", "does not use every number exactly once"),
        ([3, 5], 8, "#3.0+5", "'.0+5' is not part of an expression"),
        ([3, 5], 15, "#3 \\star 5", "'\\\\star 5' is not part of an expression"),
        ([3, 5], 15, "#3*5 or 5*3", "'or 5*3' is not part of an expression"),
        ([3, 5], 15, "#3*5 \\text{ maybe}", "'\\\\text{ maybe}' is not part of an expression"),
        ([3, 5], 8, "#\u0663+5", "'\\u0663+5' is not part of an expression"),
        ([3, 5], 8, "<answer>3+5\x00</answer>", "'\\x00' is not part of an expression"),
        ([3, 5], 8, "<answer></answer>", "no final answer"),
        ([3, 5], 8, "<think><answer>3+5</answer></think> I give up", "no final answer"),
        ([3, 5], 8, f"#{'(' * (MAX_DEPTH + 1)}3+5{')' * (MAX_DEPTH + 1)}", "more than 50 brackets in brackets"),
    ],
)
def test_wrong(numbers, target, text, reason):
    grade = judge(numbers, target, text)
    assert (grade.correct, grade.reward, grade.reason) == (False, 0.0, reason)
    assert grade.formatted == (reason != "no final answer")


def test_long_and_deep_answers_are_refused_at_once():
    for text in (
        "1" + "+1" * 100_000,
        "(" * 5_000 + "3+5" + ")" * 5_000,
        "9" * 10_000,
        "9" * 4_900,
        "(" * 4_990,
        "1+" * 2_400,
    ):
        start = time.process_time()
        assert not judge([3, 5], 8, f"<answer>{text}</answer>").correct
        assert time.process_time() - start < 0.1


def trees(values):
    """(expression, value) pairs: the value is worked out beside the text, in fractions."""
    return st.recursive(
        st.integers(0, 99).map(lambda n: (str(n), Fraction(n))),
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner, st.sampled_from(["", " ", "\n"])).map(joined),
        max_leaves=values,
    )


def joined(parts):
    (left, a), sign, (right, b), space = parts
    value = None if a is None or b is None or (sign == "/" and b == 0) else compute(a, sign, b)
    return f"({left}){space}{sign}{space}({right})", value


def compute(a, sign, b):
    return {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b


@given(trees(12))
def test_values_are_exact(tree):
    text, expected = tree
    tokens = tokenize(text, max_numbers=12)
    if expected is None:
        with pytest.raises(ExpressionError):
            evaluate(tokens)
    else:
        assert evaluate(tokens) == expected


@given(st.lists(st.sampled_from("123+-*/"), min_size=1, max_size=9).map("".join))
def test_precedence_is_the_usual_one(text):
    tokens = [c if c in "+-*/" else int(c) for c in text]
    expected = by_hand(text)
    if expected is None:
        with pytest.raises(ExpressionError):
            evaluate(tokens)
    else:
        assert evaluate(tokens) == expected


def by_hand(text):
    """Single digits and signs in turns: products first, then sums, both from the left; None if it is no expression."""
    digits, signs = text[::2], text[1::2]
    if not digits.isdigit() or (signs and not set(signs) <= set("+-*/")) or len(digits) == len(signs):
        return None
    terms = [Fraction(digits[0])]
    for sign, digit in zip(signs, digits[1:], strict=True):
        if sign in "*/":
            terms[-1] = compute(terms[-1], sign, Fraction(digit))
        else:
            terms.append(Fraction(digit) * (1 if sign == "+" else -1))
    return sum(terms)


@given(st.text(alphabet="0123456789+-*/()= \n.x", max_size=80))
def test_nothing_makes_it_fail(text):
    assert judge([3, 5], 8, f"<answer>{text}</answer>").correct in (True, False)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("24", "the countdown verifier needs an object with numbers and target"),
        ({"numbers": [1]}, "the countdown verifier needs an object with numbers and target"),
        ({"numbers": [], "target": 1}, "numbers must be a list of whole numbers from 0 up"),
        ({"numbers": [1, "2"], "target": 1}, "numbers must be a list of whole numbers from 0 up"),
        ({"numbers": [1, True], "target": 1}, "numbers must be a list of whole numbers from 0 up"),
        ({"numbers": [-1], "target": 1}, "numbers must be a list of whole numbers from 0 up"),
        ({"numbers": [1], "target": "1"}, "target must be a whole number"),
    ],
)
def test_an_answer_of_another_shape_is_an_error(answer, reason):
    with pytest.raises(GraderError, match=f"^problem p: answer: {reason}$"):
        get_verifier("countdown")(Problem("p", "q", answer=answer), "#1")
