"""Exact match: the final answer, or the whole completion, equals the reference answer apart from surrounding spaces."""

from __future__ import annotations

from obverse.errors import GraderError
from obverse.rewards.answer_extraction import final_answer, outcome
from obverse.types import GradeResult, Problem


def gold(problem: Problem) -> str:
    """Return the reference answer. Errors: GraderError if it is neither text nor a whole number, or is blank."""
    answer = problem.answer
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise GraderError(f"the exact verifier needs text or a whole number, not {type(answer).__name__}")
    if not str(answer).strip():
        raise GraderError("empty")
    return str(answer).strip()


def extract(problem: Problem, text: str) -> str | None:
    """Return the final answer of a completion or, without one, everything after the reasoning."""
    answer = final_answer(text)
    return outcome(text).strip() if answer is None else answer


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers are identical apart from surrounding spaces."""
    return first.strip() == second.strip()


def example(problem: Problem) -> str:
    """Return a completion that gives the reference answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if the final answer equals the reference; without one, the whole text is compared.

    Example:
        verify(Problem("p", "2+2=", answer="4"), "2+2=4#4").correct
    """
    expected = gold(problem)
    answer = final_answer(text)
    if expected == (outcome(text).strip() if answer is None else answer):
        return GradeResult.passed()
    reason = (
        "no final answer, and the text as a whole differs" if answer is None else f"{answer[:80]!a} is not the answer"
    )
    return GradeResult.failed(reason, formatted=bool(answer))
