"""Knights and knaves: the final answer says of everybody, exactly once, `NAME is a knight` or `NAME is a knave`."""

from __future__ import annotations

import re
from typing import Any

from obverse.errors import GraderError
from obverse.records import Problem, Verdict
from obverse.verifiers.extract import UNANSWERED, final_answer

_SAID = r"\bis\s+an?\s+(knight|knave)\b"
_ANYBODY = re.compile(_SAID, re.IGNORECASE)


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
    mine, other = (sorted(_said(gold(problem), found)) for found in (first, second))
    return first == second or (bool(mine) and mine == other)


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    said = (f"{name} is a {'knight' if knight else 'knave'}" for name, knight in gold(problem).items())
    return f"<answer>{', '.join(said)}</answer>"


def _said(expected: dict[str, bool], found: str) -> list[tuple[str, str]]:
    """Who is called what in an answer, by name and role."""
    somebody = "|".join(map(re.escape, expected))
    said = re.findall(rf"(?<!\w)({somebody})\s+(?i:{_SAID})", found)
    return [(name, role.lower()) for name, role in said]


def verify(problem: Problem, text: str) -> Verdict:
    """Right if everybody is named once and called what they are, in any order; names keep their case.

    Example:
        answer = {"names": ["Al", "Bo"], "solution": [False, True]}
        verify(Problem("p", "...", answer=answer), "Al+Bo-:no;Al-Bo+:ok#Al is a knave,Bo is a knight").correct
    """
    expected = gold(problem)
    found = final_answer(text)
    if not found:
        return UNANSWERED
    said = _said(expected, found)
    if len(said) != len(_ANYBODY.findall(found)):
        return Verdict.wrong("speaks of somebody else")
    if sorted(name for name, _ in said) != sorted(expected):
        return Verdict.wrong("does not say of everybody exactly once who they are")
    mistaken = [name for name, role in said if (role == "knight") != expected[name]]
    return Verdict.wrong(f"wrong about {', '.join(mistaken)}"[:200]) if mistaken else Verdict.right()
