from __future__ import annotations

import re
from itertools import product
from random import Random

import pytest

from obverse.data.synthetic import knights
from obverse.data.synthetic.knights import Claim
from obverse.rewards import get_verifier


def true(words, who):
    """Whether a sentence holds in a world, read from its words alone, apart from the task's table of forms."""
    names = re.findall("[A-Z][a-z]", words)
    a, b = who[names[0]], who[names[-1]]
    if words.startswith("if"):
        return not a or b
    if "the same" in words or "different" in words:
        return (a == b) == ("same" in words)
    if " or " in words:
        return (a or b) if words.endswith("knight") else not (a and b)
    if words.endswith(("knights", "knaves")):
        return (a and b) if words.endswith("knights") else not (a or b)
    if " and " in words:
        return a and not b
    return a == words.endswith("knight")


def worlds_of(problem):
    """All worlds that fit the prompt's text."""
    sayings = [saying.split(":") for saying in problem.prompt[2:-3].split(";")]
    names = list(dict.fromkeys(name for name, _ in sayings))
    assert names == problem.answer["names"]
    worlds = (dict(zip(names, world, strict=True)) for world in product((True, False), repeat=len(names)))
    return [who for who in worlds if all(true(words, who) == who[name] for name, words in sayings)]


@pytest.mark.parametrize(("split", "num_problems"), [("train", 450), ("heldout", 300), ("ood", 60)])
def test_every_puzzle_has_one_solution_and_the_demonstration_finds_it(split, num_problems):
    for problem in knights.generate(split, num_problems, seed=1):
        names, solution = problem.answer["names"], problem.answer["solution"]
        assert worlds_of(problem) == [dict(zip(names, solution, strict=True))]
        assert len(names) == problem.meta["difficulty"]
        *cases, last = problem.demonstration
        assert last == "#" + ",".join(
            f"{name} is a {'knight' if knight else 'knave'}" for name, knight in zip(names, solution, strict=True)
        )
        assert all(case.endswith(":no;") for case in cases[:-1]) and cases[-1].endswith(":ok")
        signs = dict(re.findall("([A-Z][a-z])([+-])", cases[-1]))
        assert signs == {name: "+" if knight else "-" for name, knight in zip(names, solution, strict=True)}


def test_a_dropped_case_is_impossible():
    for problem in knights.generate("train", 200, seed=2):
        for case in problem.demonstration[:-2]:
            signs = re.findall("([A-Z][a-z])([+-])", case)
            assert not all(worlds_of(problem)[0][name] == (sign == "+") for name, sign in signs)


def test_the_verifier_agrees():
    judge = get_verifier("knights")
    for problem in knights.generate("train", 60, seed=3):
        assert problem.verifier == "knights" and judge(problem, problem.demonstration_text).correct
        turned = problem.demonstration_text.replace("knight", "x").replace("knave", "knight").replace("x", "knave")
        assert not judge(problem, turned).correct


def test_renamed_puzzles_are_one_problem():
    rng = Random(0)
    for num_people in (2, 3, 4):
        for _ in range(20):
            claims = [knights._claim(rng, speaker, num_people) for speaker in range(num_people)]
            order = rng.sample(range(num_people), num_people)
            renamed = [claim.rename(order) for claim in claims]
            rng.shuffle(renamed)
            assert knights._canonical(claims, num_people) == knights._canonical(renamed, num_people)
            assert len(knights.solutions(claims, num_people)) == len(knights.solutions(renamed, num_people))


def test_swapped_people_are_the_same_claim_only_where_order_says_nothing():
    same, then = "{} and {} are the same", "if {} is a knight,so is {}"
    assert Claim(0, same, (1, 0)).rename((0, 1)) == Claim(0, same, (0, 1)).rename((0, 1))
    assert Claim(0, then, (1, 0)).rename((0, 1)) != Claim(0, then, (0, 1)).rename((0, 1))


def test_a_case_analysis_by_hand():
    claims = [Claim(0, "{} is a knave", (1,)), Claim(1, "{} and {} are different", (0, 1))]
    assert knights.solve(claims, ("Al", "Bo")) == ("Al+Bo-:no;", "Al-Bo+:ok", "#Al is a knave,Bo is a knight")


def test_no_world_fits():
    with pytest.raises(ValueError, match="no world"):
        knights.solve([Claim(0, "{} is a knave", (0,))], ("Al",))
