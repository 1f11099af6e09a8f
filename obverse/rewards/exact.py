"""The final answer, or the whole text, must be the expected answer letter for letter, apart from spaces around it."""

from __future__ import annotations

from obverse.errors import GraderError
from obverse.rewards.answer_extraction import final_answer, outcome
from obverse.types import GradeResult, Problem


def gold(problem: Problem) -> str:
    """Return the expected text. Errors: GraderError if the answer is neither text nor a whole number, or is blank."""
    answer = problem.answer
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise GraderError(f"the exact verifier needs text or a whole number, not {type(answer).__name__}")
    if not str(answer).strip():
        raise GraderError("empty")
    return str(answer).strip()


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text, or, without one, all that follows the reasoning."""
    found = final_answer(text)
    return outcome(text).strip() if found is None else found


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers are equal letter for letter, apart from spaces around them."""
    return first.strip() == second.strip()


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Right if the final answer equals the expected one; a text without a final answer is compared as a whole.

    Example:
        verify(Problem("p", "2+2=", answer="4"), "2+2=4#4").correct
    """
    expected = gold(problem)
    found = final_answer(text)
    if expected == (outcome(text).strip() if found is None else found):
        return GradeResult.right()
    reason = (
        "no final answer, and the text as a whole differs" if found is None else f"{found[:80]!a} is not the answer"
    )
    return GradeResult.wrong(reason, formatted=bool(found))
