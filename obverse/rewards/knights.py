"""Knights and knaves: the final answer says of each person, exactly once, `NAME is a knight` or `NAME is a knave`.

It consists of such clauses alone, joined by commas, "and", full stops or line ends and numbered if need be. `is not a
knight`, `: knight`, `is the knight` and "liar" are read too; a condition, an "or", a doubt or a quotation is none of
them, and makes the whole answer wrong.
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
    """Return who is a knight (True) and who a knave, by name.

    Errors: GraderError if the answer does not hold distinct `names` and one true or false for each in `solution`.
    """
    answer: Any = problem.answer
    if not isinstance(answer, dict) or not {"names", "solution"} <= answer.keys():
        raise GraderError("the knights verifier needs an object with names and solution")
    names, solution = answer["names"], answer["solution"]
    if not isinstance(names, list) or not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise GraderError("names must be a list of names")
    if len(set(names)) < len(names):
        raise GraderError("two people have the same name")
    if not isinstance(solution, list) or any(type(knight) is not bool for knight in solution):
        raise GraderError("solution must be a list of true and false")
    if len(solution) != len(names):
        raise GraderError(f"{len(names)} names but {len(solution)} in solution")
    return dict(zip(names, solution, strict=True))


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text."""
    return final_answer(text)


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers say the same of everybody, in any order."""
    mine, other = (sorted(_said(gold(problem), found) or []) for found in (first, second))
    return first == second or (bool(mine) and mine == other)


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    said = (f"{name} is a {'knight' if knight else 'knave'}" for name, knight in gold(problem).items())
    return f"<answer>{', '.join(said)}</answer>"


def _said(expected: dict[str, bool], found: str) -> list[tuple[str, str]] | None:
    """Who is called what in an answer, by name and role; None if it says anything else."""
    names = {name.casefold(): name for name in expected}
    fold = 0 if len(names) < len(expected) else re.IGNORECASE
    somebody = "|".join(re.escape(name) for name in sorted(expected, key=len, reverse=True))
    clause = re.compile(
        rf"(?P<name>{somebody})(?:\s*(?::|=|->|\u2192|-|\u2013|\u2014)\s*|\s+(?i:is|must be|has to be)\s+)"
        rf"(?P<negated>(?i:not)\s+)?(?:(?i:an?|the)\s+)?(?i:{_ROLE})",
        fold,
    )
    several = re.compile(
        rf"((?:{somebody})(?:\s*,\s*(?:{somebody})){{0,{len(expected)}}}\s*,?\s*(?i:and|&)\s*(?:{somebody}))\s+(?i:are)\s+(?:(?i:both"
        rf"|all)\s+)?(?i:(knight|knave|liar|truth-teller)s)\b",
        fold,
    )
    found = re.sub(r"[*_`$]|\\text\s*\{|[{}]", "", found)
    found = several.sub(
        lambda match: ", ".join(f"{name} is a {match[2]}" for name in re.findall(somebody, match[1], fold)), found
    )
    said = []
    for part in _CLAUSES.split(found):
        part = part[_NUMBERED.match(part).end() :].strip()  # type: ignore[union-attr]
        part = part[_LEAD.match(part).end() :].strip()  # type: ignore[union-attr]
        if not part or part.isdigit():
            continue
        match = clause.fullmatch(part)
        if match is None:
            return None
        is_knight = match["role"].lower().startswith(("knight", "truth")) != bool(match["negated"])
        said.append((names[match["name"].casefold()] if fold else match["name"], "knight" if is_knight else "knave"))
    return said


def verify(problem: Problem, text: str) -> GradeResult:
    """Right if each person is named once and called what they are, in any order.

    Example:
        answer = {"names": ["Al", "Bo"], "solution": [False, True]}
        verify(Problem("p", "...", answer=answer), "Al+Bo-:no;Al-Bo+:ok#Al is a knave,Bo is a knight").correct
    """
    expected = gold(problem)
    found = final_answer(text)
    if not found:
        return UNANSWERED
    said = _said(expected, found)
    if said is None:
        return GradeResult.wrong("says something else than who is a knight and who is a knave")
    if sorted(name for name, _ in said) != sorted(expected):
        return GradeResult.wrong("does not say of everybody exactly once who they are")
    mistaken = [name for name, role in said if (role == "knight") != expected[name]]
    return GradeResult.wrong(f"wrong about {', '.join(mistaken)}"[:200]) if mistaken else GradeResult.right()
