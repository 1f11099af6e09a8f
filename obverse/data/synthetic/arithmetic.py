"""Chains of sums and products, evaluated strictly from left to right; all intermediate results are in 0..99.

Intermediate results are distinct, so that stopping too early is never correct by chance.

Prompt:         Q:7+5*3-4\\nA:
Demonstration:  7+5=12;  12*3=36;  36-4=32  #32      (four steps, joined as they are)
Difficulty:     the number of operations
"""

from __future__ import annotations

import re
from random import Random

from obverse.data.splits import Draft, Range, deal
from obverse.types import Problem

ALLOWED = {"train": (1, 6), "heldout": (1, 6), "ood": (7, 8)}
LIMIT = 99

_CHAIN = re.compile(r"[0-9]+(?:[+*-][0-9]+)+")
_OPERATION = re.compile(r"([+*-])([0-9]+)")


def generate(split: str, num_problems: int, seed: int, difficulty: Range | None = None) -> list[Problem]:
    """Return distinct problems of a split (train, heldout: 1 to 6 operations; ood: 7 to 8), dealt evenly.

    Errors: ConfigError if the split does not have that difficulty or that many problems.

    Example:
        generate("train", 1000, seed=42, difficulty=(2, 6))
    """
    return deal("arithmetic", split, num_problems, seed, difficulty, allowed=ALLOWED, draw=_draw, verifier="exact")


def solve(chain: str) -> tuple[str, ...]:
    """Return the steps of a demonstration; joined they are the whole response.

    Errors: ValueError if `chain` is not numbers joined by `+`, `-` and `*`.

    Example:
        solve("7+5*3-4") == ("7+5=12;", "12*3=36;", "36-4=32", "#32")
    """
    if not _CHAIN.fullmatch(chain):
        raise ValueError(f"not a chain of numbers joined by +, - and *: {chain!r}")
    operations = _OPERATION.findall(chain)
    value = int(re.match("[0-9]+", chain)[0])  # type: ignore[index]  # the chain begins with a number
    steps = []
    for sign, number in operations:
        result = apply(value, sign, int(number))
        steps.append(f"{value}{sign}{number}={result};")
        value = result
    steps[-1] = steps[-1].removesuffix(";")
    return (*steps, f"#{value}")


def mistaken(steps: tuple[str, ...], value: int) -> str:
    """Return the response of `steps` with its last result, `value`, wrong by one.

    Example:
        mistaken(("7+5=12;", "12-4=8", "#8"), 8) == "7+5=12;12-4=9#9"
    """
    wrong = value + 1 if value < LIMIT else value - 1
    return "".join(steps[:-2]) + f"{steps[-2].removesuffix(str(value))}{wrong}#{wrong}"


def apply(value: int, sign: str, number: int) -> int:
    """Return `value sign number` for one of the three signs."""
    return {"+": value + number, "-": value - number, "*": value * number}[sign]


def _draw(rng: Random, num_operations: int) -> Draft:
    first = value = rng.randint(1, rng.choice((9, LIMIT)))  # low starts, because products would be rare otherwise
    values, operations = {value}, []
    for _ in range(num_operations):
        numbers = {
            "+": range(1, min(9, LIMIT - value) + 1),
            "-": range(1, min(9, value) + 1),
            "*": range(2, min(9, LIMIT // value) + 1) if value else range(0),  # a product with 0 would hide the chain
        }
        unused_numbers = {sign: [n for n in numbers[sign] if apply(value, sign, n) not in values] for sign in numbers}
        sign = rng.choice([sign for sign in unused_numbers if unused_numbers[sign]])
        number = rng.choice(unused_numbers[sign])
        operations.append((sign, number))
        value = apply(value, sign, number)
        values.add(value)
    chain = str(first) + "".join(f"{sign}{number}" for sign, number in operations)
    steps = solve(chain)
    return Draft(_canonical(first, operations), f"Q:{chain}\nA:", str(value), steps, mistaken(steps, value))


def _canonical(first: int, operations: list[tuple[str, int]]) -> str:
    """The chain with its first two numbers sorted where they may be swapped: 5+7*3 and 7+5*3 are one problem."""
    sign, second = operations[0]
    if sign in "+*":
        first, second = sorted((first, second))
    suffix = "".join(f"{sign}{number}" for sign, number in operations[1:])
    return f"{first}{sign}{second}{suffix}"
