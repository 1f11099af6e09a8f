"""A grammar of answers: values in many spellings, and mutations of which it is known whether they keep the value."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Mutant:
    """An expected answer, a text that answers, and whether that is right; None: garbage that must only not be right."""

    gold: str
    text: str
    right: bool | None


def mutant(draw: random.Random) -> Mutant:
    """One answer: a number, a formula or a collection, kept, changed or broken; then said in some way."""
    kind = draw.choice((number, number, formula, collection, broken))
    gold, answer, right = kind(draw)
    return Mutant(gold, said(draw, answer, plain=right is not None), right)


def number(draw: random.Random) -> tuple[str, str, bool]:
    value = draw.choice(
        (
            Fraction(draw.randint(-999, 999)),
            Fraction(draw.randint(1_000, 99_999_999)),
            Fraction(draw.randint(-99, 99), draw.randint(2, 40)),
            Fraction(draw.randint(-99_999, 99_999), 10 ** draw.randint(1, 4)),
        )
    )
    if draw.random() < 0.5:
        return spelled(draw, value), spelled(draw, value), True
    other = value + draw.choice((1, -1, 10, Fraction(1, 3), Fraction(1, 1000), -2 * value if value else 5))
    return spelled(draw, value), spelled(draw, other), False


def spelled(draw: random.Random, value: Fraction) -> str:
    """One of the spellings of a number."""
    sign, size = "-" if value < 0 else draw.choice(("", "", "", "+")), abs(value)
    top, bottom = size.numerator, size.denominator
    ways = [
        f"{sign}\\frac{{{top}}}{{{bottom}}}",
        f"{sign}\\dfrac{{{3 * top}}}{{{3 * bottom}}}",
        f"{sign}{top}/{bottom}",
    ]
    if bottom == 1:
        ways += [
            f"{sign}{top}",
            f"{sign}{top:,}",
            f"{sign}{top}.0",
            f"{sign}{top:,}".replace(",", "{,}"),
            f"{{{sign}{top}}}",
        ]
    elif top > bottom:
        ways.append(f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}")
    if 10**6 % bottom == 0:
        ways.append(f"{sign}{top * (10**6 // bottom) / 10**6:.6f}")
    return draw.choice(ways)


LETTERS = "xyabkn"


def formula(draw: random.Random) -> tuple[str, str, bool]:
    """A formula and the same one expanded, turned round or rationalized, or another one."""
    x = draw.choice(LETTERS)
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    c = a + draw.choice((1, 2, 3))
    gold, same, other = draw.choice(
        (
            (f"{x}^2+{a + b}{x}+{a * b}", f"({x}+{a})({x}+{b})", f"({x}+{a})({x}-{b})"),
            (f"{a}{x}+{b}", f"{b}+{a}{x}", f"{c}{x}+{b}"),
            (
                f"\\frac{{\\sqrt{{{a}}}}}{{{b}}}",
                f"\\frac{{{a}}}{{{b}\\sqrt{{{a}}}}}",
                f"\\frac{{\\sqrt{{{c}}}}}{{{b}}}",
            ),
            (f"{a}\\pi", f"\\frac{{{2 * a}\\pi}}{{2}}", f"{c}\\pi"),
            (f"2^{{{a}}}{x}", f"{2**a}{x}", f"{2**c}{x}"),
            (f"y={a}x+{b}", f"y={b}+{a}x", f"y={c}x+{b}"),
            (f"{a}+{b}i", f"{b}i+{a}", f"{a}-{b}i"),
            (f"\\frac{{{x}+{a}}}{{{x}}}", f"1+\\frac{{{a}}}{{{x}}}", f"1-\\frac{{{a}}}{{{x}}}"),
        )
    )
    right = draw.random() < 0.5
    return draw.choice((gold, f"${gold}$")), same if right else other, right


def collection(draw: random.Random) -> tuple[str, str, bool]:
    """A set, tuple, interval or matrix, kept or changed in one place."""
    members = draw.sample(range(-20, 20), draw.randint(2, 4))
    changed = [*members[:-1], 50 + members[-1]]
    right = draw.random() < 0.5
    kind = draw.choice(("set", "tuple", "interval", "matrix"))
    if kind == "set":
        found = draw.sample(members, len(members)) if right else changed
        return _listed("\\{", members, "\\}"), _listed("\\{", found, "\\}"), right
    if kind == "tuple":
        return _listed("(", [*members, 3], ")"), _listed("(", [*(members if right else changed), 3], ")"), right
    if kind == "interval":
        low, high = sorted(members[:2])
        return f"({low},{high}]", f"({low}, {high}{']' if right else ')'}", right
    rows = "\\\\".join(map(str, members)), "\\\\".join(map(str, members if right else changed))
    return f"\\begin{{pmatrix}}{rows[0]}\\end{{pmatrix}}", f"\\begin{{bmatrix}} {rows[1]} \\end{{bmatrix}}", right


def _listed(opening: str, members: list[int], closing: str) -> str:
    return opening + ", ".join(map(str, members)) + closing


PIECES = (
    *"0123456789+-*/^_=(){}[]|<>!%&,.;:'\"$#@~?\\ \n\t\0", "9" * 50, "^{", "^{9^{", "\\frac{", "\\sqrt{", "\\boxed{",
    "\\left(", "\\right)", "}" * 5, "(" * 9, "\\int_0^", "\\sum_{k=1}^{", "\\lim_{x\\to 0}", "\\begin{pmatrix}",
    "\\end{pmatrix}", "&", "\\\\", "\\cup", "\\text{", "or", "not", "__import__('os')", "e", "x", "sin", "\\log_",
    "10^{10^{", "!!", "\\binom{9999999}{", "\\mod", "\u00b2", "\u200b", "\u0664", "\ud83d", "\u202e", "\\pm", "\\infty",
)  # fmt: skip


def broken(draw: random.Random) -> tuple[str, str, None]:
    """Pieces of hostile answers in any order; the expected answer is one that they never make."""
    gold = draw.choice(("123456789123", "\\frac{987654}{98761}", "$\\sqrt{98765431}$", "(123456789,5)", "98761x^{31}"))
    pieces = [draw.choice(PIECES) * draw.choice((1, 1, 1, 2, 40)) for _ in range(draw.randint(1, 25))]
    start = draw.choice(("", gold[: len(gold) // 2], "42", "x^2"))
    return gold, start + "".join(pieces), None


def said(draw: random.Random, answer: str, *, plain: bool) -> str:
    """An answer in one of the ways in which models give theirs."""
    if not plain:
        return draw.choice((f"\\boxed{{{answer}}}", f"<answer>{answer}</answer>", f"The answer is {answer}", answer))
    return draw.choice(
        (
            f"<think>maybe \\boxed{{7}}?</think> So \\boxed{{{answer}}}.",
            f"\\boxed{{1}} no, wait: $\\boxed{{{answer}}}$",
            f"<answer> {answer} </answer>",
            f"We add and get it.\n#### {answer}",
            f"# Solution\n\nThe final answer is ${answer}$.",
            f"**Answer:** {answer}\n",
        )
    )
