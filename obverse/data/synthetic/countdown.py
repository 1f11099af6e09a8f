"""Reach a target from given numbers with + - * /; each number is used once, and intermediate results are integers.

Prompt:         Q:3,5,7,2>24\\nA:
Demonstration:  5*3=15;  15+7=22;  22+2=24  #5*3+7+2   (steps, then the expression with the brackets it needs)
Difficulty:     the number of numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from obverse.data.splits import Draft, Range, deal
from obverse.types import Problem

ALLOWED = {"train": (2, 4), "heldout": (2, 4), "ood": (5, 5)}
LARGEST = 30  # the largest number given
LIMIT = 99  # the largest intermediate result, and the largest target
SIGNS = "+-*/"

_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Value:
    """A given number (rank 3) or a result: its expression, the rank of its last sign, the steps that lead to it."""

    number: int
    text: str
    rank: int = 3
    steps: tuple[str, ...] = ()


def generate(split: str, num_problems: int, seed: int, difficulty: Range | None = None) -> list[Problem]:
    """Return distinct problems of a split (train, heldout: 2 to 4 numbers; ood: 5), dealt evenly.

    Errors: ConfigError if the split does not have that difficulty or that many problems.
    """
    return deal("countdown", split, num_problems, seed, difficulty, allowed=ALLOWED, draw=_draw, verifier="countdown")


def solve(numbers: Sequence[int], target: int) -> tuple[str, ...] | None:
    """Return the steps of a demonstration by exhaustive search, None if there is no solution by whole numbers to 99.

    Example:
        solve([3, 5], 15) == ("5*3=15", "#5*3")
    """
    seen: set[tuple[int, ...]] = set()

    def search(values: tuple[Value, ...]) -> Value | None:
        if len(values) == 1:
            return values[0] if values[0].number == target else None
        key = tuple(sorted(value.number for value in values))
        if key in seen:
            return None
        seen.add(key)
        for i, j in combinations(range(len(values)), 2):
            rest = tuple(value for k, value in enumerate(values) if k not in (i, j))
            for sign in SIGNS:
                combined = combine(values[i], sign, values[j])
                solution = combined and search((*rest, combined))
                if solution:
                    return solution
        return None

    solution = search(tuple(Value(number, str(number)) for number in numbers))
    return demonstration(solution) if solution else None


def combine(left: Value, sign: str, right: Value) -> Value | None:
    """Return the result of an operation on the larger and the smaller value, None if it is not allowed.

    Allowed are integer results from 1 to LIMIT, without operations that change nothing (1*x, x/1).
    """
    if left.number < right.number:
        left, right = right, left
    if sign in "*/" and (right.number == 1 or (left.number % right.number and sign == "/")):
        return None
    a, b = left.number, right.number
    number = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
    if not 1 <= number <= LIMIT:
        return None
    rank = _RANK[sign]
    head = left.text if left.rank >= rank else f"({left.text})"
    tail = right.text if right.rank >= rank + (sign in "-/") else f"({right.text})"
    return Value(number, f"{head}{sign}{tail}", rank, (*left.steps, *right.steps, f"{a}{sign}{b}={number}"))


def combine_at_random(rng: Random, numbers: Sequence[int]) -> Value | None:
    """Combine numbers at random, with equal probability for all allowed signs; None if no sign is allowed."""
    values = [Value(number, str(number)) for number in numbers]
    while len(values) > 1:
        second, first = (values.pop(rng.randrange(len(values))) for _ in range(2))
        candidates = [value for sign in SIGNS if (value := combine(first, sign, second))]
        if not candidates:
            return None
        values.append(rng.choice(candidates))
    return values[0]


def demonstration(value: Value) -> tuple[str, ...]:
    """Return the steps that lead to a value, followed by its expression, ready to be joined."""
    *steps, last = value.steps
    return (*(f"{step};" for step in steps), last, f"#{value.text}")


def _draw(rng: Random, num_numbers: int) -> Draft:
    result = None
    while result is None:
        numbers = [rng.randint(1, LARGEST) for _ in range(num_numbers)]
        result = combine_at_random(rng, numbers)
    target = result.number
    canonical = f"{','.join(map(str, sorted(numbers)))}>{target}"  # permutations of a problem are in the same split
    prompt = f"Q:{','.join(map(str, numbers))}>{target}\nA:"
    return Draft(canonical, prompt, {"numbers": numbers, "target": target}, demonstration(result))
