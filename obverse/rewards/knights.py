"""Knights and knaves: the final answer has one clause `NAME is a knight` or `NAME is a knave` for each person.

It consists of such clauses only, joined by commas, "and", full stops or line ends, with or without numbering. `is not a
knight`, `: knight`, `is the knight` and "liar" are accepted too; a condition, an "or", a doubt or a quotation makes the
whole answer wrong.
"""

from __future__ import annotations

import re
from typing import Any

from obverse.errors import GraderError
from obverse.rewards.answer_extraction import UNANSWERED, final_answer
from obverse.types import GradeResult, Problem

_ROLE = r"(?P<role>knights?|knaves?|liars?|truth[- ]?tellers?)"
_CLAUSES = re.compile(r"[,;\n]+|\.(?=\s|$)|\band\b|\bwhile\b|\bbut\b|&", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(?:\(?[0-9]{1,2}[).:]|[-*\u2022](?=\s))?\s*")
_LEAD = re.compile(
    r"\s*(?:(?:so|thus|therefore|hence|then|finally)\b[\s,:]*)*"
    r"(?:(?:the\s)?(?:final\s)?(?:answer|solution|conclusion)(?:\sis)?\s*:)?\s*",
    re.IGNORECASE,
)


def gold(problem: Problem) -> dict[str, bool]:
    """Return by name whether each person is a knight (True) or a knave.

    Errors: GraderError if the reference does not have distinct `names` and one boolean for each of them in `solution`.
    """
    reference: Any = problem.answer
    if not isinstance(reference, dict) or not {"names", "solution"} <= reference.keys():
        raise GraderError("the knights verifier needs an object with names and solution")
    names, solution = reference["names"], reference["solution"]
    if not isinstance(names, list) or not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise GraderError("names must be a list of names")
    if len(set(names)) < len(names):
        raise GraderError("two people have the same name")
    if not isinstance(solution, list) or any(type(knight) is not bool for knight in solution):
        raise GraderError("solution must be a list of true and false")
    if len(solution) != len(names):
        raise GraderError(f"{len(names)} names but {len(solution)} in solution")
    return dict(zip(names, solution, strict=True))


def extract(problem: Problem, text: str) -> str | None:
    """Return the final answer of a completion."""
    return final_answer(text)


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers give every person the same role, in any order."""
    first_claims, second_claims = (sorted(_claims(gold(problem), answer) or []) for answer in (first, second))
    return first == second or (bool(first_claims) and first_claims == second_claims)


def example(problem: Problem) -> str:
    """Return a completion that gives the reference answer."""
    clauses = (f"{name} is a {'knight' if knight else 'knave'}" for name, knight in gold(problem).items())
    return f"<answer>{', '.join(clauses)}</answer>"


def _claims(expected: dict[str, bool], answer: str) -> list[tuple[str, str]] | None:
    """Return the (name, role) pairs of an answer in its order; None if it contains anything else."""
    names = {name.casefold(): name for name in expected}
    fold = 0 if len(names) < len(expected) else re.IGNORECASE
    any_name = "|".join(re.escape(name) for name in sorted(expected, key=len, reverse=True))
    clause = re.compile(
        rf"(?P<name>{any_name})(?:\s*(?::|=|->|\u2192|-|\u2013|\u2014)\s*|\s+(?i:is|must be|has to be)\s+)"
        rf"(?P<negated>(?i:not)\s+)?(?:(?i:an?|the)\s+)?(?i:{_ROLE})",
        fold,
    )
    joint_clause = re.compile(
        rf"((?:{any_name})(?:\s*,\s*(?:{any_name})){{0,{len(expected)}}}\s*,?\s*(?i:and|&)\s*(?:{any_name}))\s+(?i:are)\s+(?:(?i:both"
        rf"|all)\s+)?(?i:(knight|knave|liar|truth-teller)s)\b",
        fold,
    )
    answer = re.sub(r"[*_`$]|\\text\s*\{|[{}]", "", answer)
    answer = joint_clause.sub(
        lambda match: ", ".join(f"{name} is a {match[2]}" for name in re.findall(any_name, match[1], fold)), answer
    )
    claims = []
    for part in _CLAUSES.split(answer):
        part = part[_NUMBERED.match(part).end() :].strip()  # type: ignore[union-attr]
        part = part[_LEAD.match(part).end() :].strip()  # type: ignore[union-attr]
        if not part or part.isdigit():
            continue
        match = clause.fullmatch(part)
        if match is None:
            return None
        is_knight = match["role"].lower().startswith(("knight", "truth")) != bool(match["negated"])
        claims.append((names[match["name"].casefold()] if fold else match["name"], "knight" if is_knight else "knave"))
    return claims


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if each person is named once with the right role, in any order.

    Example:
        answer = {"names": ["Al", "Bo"], "solution": [False, True]}
        verify(Problem("p", "...", answer=answer), "Al+Bo-:no;Al-Bo+:ok#Al is a knave,Bo is a knight").correct
    """
    expected = gold(problem)
    answer = final_answer(text)
    if not answer:
        return UNANSWERED
    claims = _claims(expected, answer)
    if claims is None:
        return GradeResult.failed("says something else than who is a knight and who is a knave")
    if sorted(name for name, _ in claims) != sorted(expected):
        return GradeResult.failed("does not say of everybody exactly once who they are")
    wrong_names = [name for name, role in claims if (role == "knight") != expected[name]]
    return GradeResult.failed(f"wrong about {', '.join(wrong_names)}"[:200]) if wrong_names else GradeResult.passed()
