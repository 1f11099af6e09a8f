from __future__ import annotations

import re

import pytest

from obverse.data.synthetic import arithmetic
from obverse.rewards import get_verifier


def chain_of(problem):
    return re.fullmatch(r"Q:(.+)\nA:", problem.prompt)[1]


def walk(chain):
    """Every number on the way from left to right, worked out apart from the task."""
    tokens = re.findall(r"\d+|[-+*]", chain)
    numbers = [int(tokens[0])]
    for sign, number in zip(tokens[1::2], map(int, tokens[2::2]), strict=True):
        left = numbers[-1]
        numbers.append(left + number if sign == "+" else left - number if sign == "-" else left * number)
    return numbers


def test_the_example_of_the_page():
    assert arithmetic.solve("7+5*3-4") == ("7+5=12;", "12*3=36;", "36-4=32", "#32")


@pytest.mark.parametrize("chain", ["", "7", "7+", "+7", "7+5/3", "7 + 5", "-3+4", "7+5\n"])
def test_what_is_no_chain_is_refused(chain):
    with pytest.raises(ValueError, match="not a chain"):
        arithmetic.solve(chain)


@pytest.mark.parametrize("split", ["train", "heldout", "ood"])
def test_every_problem_and_demonstration_is_right(split):
    for problem in arithmetic.generate(split, 600, seed=1):
        numbers = walk(chain_of(problem))
        assert all(0 <= number <= 99 for number in numbers) and len(set(numbers)) == len(numbers)
        assert problem.answer == str(numbers[-1])
        *steps, last = problem.demonstration
        assert last == f"#{numbers[-1]}"
        assert len(steps) == len(numbers) - 1 == problem.meta["difficulty"]
        for step, before, after in zip(steps, numbers, numbers[1:], strict=False):
            assert walk(step.rstrip(";").split("=")[0]) == [before, after] and step.rstrip(";").endswith(f"={after}")
        assert "".join(step[-1] for step in steps[:-1]) == ";" * (len(steps) - 1)


def test_the_verifier_agrees():
    judge = get_verifier("exact")
    for problem in arithmetic.generate("train", 60, seed=2):
        assert problem.verifier == "exact" and judge(problem, problem.demonstration_text).correct
        assert not judge(problem, f"#{int(problem.answer) + 1}").correct


def test_all_three_signs_are_common():
    text = "".join(chain_of(problem) for problem in arithmetic.generate("train", 1_000, seed=3, difficulty=(3, 6)))
    signs = re.findall(r"[-+*]", text)
    assert all(signs.count(sign) > 0.15 * len(signs) for sign in "+-*")


def test_swapped_first_numbers_are_one_problem():
    chains = {chain_of(problem) for problem in arithmetic.generate("train", 1_300, seed=4, difficulty=(1, 1))}
    for chain in chains:
        left, sign, right = re.fullmatch(r"(\d+)([-+*])(\d+)", chain).groups()
        if sign in "+*" and left != right:
            assert f"{right}{sign}{left}" not in chains
