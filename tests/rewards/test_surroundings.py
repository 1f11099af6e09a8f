"""What stands around a box in its sentence: denials, conditions, relations, other answers, ordinary solutions."""

from __future__ import annotations

import time

import pytest

from obverse.rewards import get_verifier
from obverse.types import Problem

DENIED = [
    r"It is false that the answer is \boxed{38}.",
    r"It would be wrong to claim that it is \boxed{38}.",
    r"I doubt that it is \boxed{38}.",
    r"No one would say \boxed{38}.",
    r"A common mistake is \boxed{38}.",
    r"An incorrect approach gives \boxed{38}.",
    r"My first guess was \boxed{38}, but it is 37.",
    r"One might think \boxed{38}, but it is 37.",
    r"I take back \boxed{38}.",
    r"Ignore \boxed{38}.",
    r"Unless it is \boxed{38}",
    r"Ann claims \boxed{38}. She is wrong.",
    r"Suppose \boxed{38} were the answer.",
    r"Assuming the answer is \boxed{38}, we get 1=2.",
    r"If m is odd, \boxed{38}; otherwise 37.",
    r"If m=4 then \boxed{38}, else 37.",
    r"\boxed{38} would be right if m=4.",
    r"at least \boxed{38}",
    r"the opposite of \boxed{38}",
    r"The answer differs from \boxed{38}.",
    r"twice \boxed{38}",
    r"Perhaps \boxed{38}.",
    r"It might be \boxed{38}",
    r"The wrong method suggests \boxed{38}",
    "Nobody believes the answer is 38.",
    "If m is odd the answer is 38.",
]
CHANGED = [
    "\\boxed{38} \u2717",
    r"\boxed{38} (maybe)",
    r"\boxed{38} is off by two.",
    r"\boxed{38} is too small.",
    r"\boxed{38} fails the check.",
    r"\boxed{38} does not satisfy the equation.",
    r"\boxed{38} must be rejected.",
    r"\boxed{38} is two less than the answer.",
    r"\boxed{38}. Wait, no.",
    r"\boxed{38}. Oops.",
    r"\boxed{38}, or rather 37.",
    r"\boxed{38} or 37",
    r"37 or \boxed{38}",
    r"\boxed{38}, though it may be 37.",
    r"\boxed{38}\%",
    r"\boxed{38} percent",
    r"\boxed{38}k",
    r"\boxed{38}\sqrt3",
    r"\boxed{38} times 3",
    r"3\cdot\boxed{38}",
    r"y > \boxed{38}",
    r"|\boxed{38}|+2",
    r"~~\boxed{38}~~",
    r"<del>\boxed{38}</del>",
    r"so <s>\boxed{38}</s>",
    "Guess 1: \\boxed{37}\nGuess 2: \\boxed{38}",
    r"\boxed{37} is possible. \boxed{38} is also possible.",
    "Case n even: \\boxed{37}\nCase n odd: \\boxed{38}",
    r"\boxed{37}\cup\boxed{38}",
    r"The answer is \boxed{37} or the answer is \boxed{38}",
]
ORDINARY = [
    r"**Answer:** \boxed{38}",
    "**Final Answer**\n\n\\boxed{38}",
    "y = 4\n\\boxed{38}",
    r"- \boxed{38}",
    r"Answer - \boxed{38}",
    "= 38\n\\boxed{38}",
    r"The answer is:** \boxed{38}**",
    r"\boxed{38}^\circ",
    r"If y=4, then z=5. Hence the answer is \boxed{38}",
    r"Suppose m=2j. Then j = 19, so we get \boxed{38}.",
    r"Since at most 3 can sit down, the answer is \boxed{38}.",
    r"From the above, the answer is \boxed{38}.",
    r"Without a doubt, the answer is \boxed{38}.",
    r"If a train travels 2 hours, it covers \boxed{38} miles.",
    r"If he eats 2 of 40, he has \boxed{38} left.",
    r"The most that it could be is \boxed{38}.",
    r"There are \boxed{38} that do not pass.",
    r"\boxed{38} were sold.",
    r"This is \boxed{38}, which is 2 more than 36.",
    r"\boxed{38} rather than 37",
    r"I would say \boxed{38}",
    r"Because 37 is wrong the answer is \boxed{38}",
    r"If $y=2$, then $19y=\boxed{38}$.",
    "\\boxed{38}\n\nIf y were 3 it would be 57.",
    r"The smallest is \boxed{38}, since 37 fails.",
    r"She runs \boxed{38} times a week",
    r"$36 < y < 40$, giving \boxed{38}",
    r"It is \boxed{38} or 38 apples",
]


def right(text: str, answer: str = "38") -> bool:
    return bool(get_verifier("math")(Problem("p", "q", answer=answer), text).correct)


@pytest.mark.parametrize("text", DENIED + CHANGED)
def test_a_box_that_its_sentence_denies_or_changes_is_no_answer(text: str) -> None:
    assert not right(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_sentence_takes_nothing_away(text: str) -> None:
    assert right(text)


def test_a_percent_sign_behind_the_box_belongs_to_it() -> None:
    assert right(r"\boxed{38}\%", r"38\%")


def test_long_lines_around_a_box_cost_no_more() -> None:
    for filler in ("if x ", "the answer is ", "$ ", "** ", "not ", "- ", "or 3 ", "x" * 5):
        line = filler * (200_000 // len(filler))
        start = time.process_time()
        right(line + r"\boxed{38} " + line)
        assert time.process_time() - start < 5
