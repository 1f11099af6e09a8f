"""Verifiers: what is right? Each is a function of a problem and a text, found by name or in a file of the user."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

from obverse.errors import ConfigError, GraderError
from obverse.records import Problem, Verdict
from obverse.verifiers import choice, countdown, exact, knights, math
from obverse.verifiers.extract import final_answer
from obverse.verifiers.user import NOT_APPLICABLE, Verifier, from_file

_MODULES = {"math": math, "countdown": countdown, "knights": knights, "choice": choice, "exact": exact}

NAMES = tuple(_MODULES)

__all__ = [
    "NAMES",
    "NOT_APPLICABLE",
    "Verifier",
    "answer_of",
    "judge",
    "judge_all",
    "nearest",
    "objection",
    "same",
    "verifier",
]


def verifier(name_or_path: str) -> Verifier:
    """Return the verifier of that name, or the user's function `path/to/file.py:function` (`verify` if none is named).

    Errors: ConfigError for an unknown name, file, function or signature; a call raises GraderError if the problem's
    answer is not what the verifier can check.

    Example:
        verifier("math")(Problem("p", "2+2=", answer="4"), "\\boxed{4}").correct
    """
    if name_or_path in _MODULES:
        return partial(_judge, name_or_path)
    if ".py" in name_or_path:
        return from_file(name_or_path)
    raise ConfigError(f"unknown verifier {name_or_path!r}: {nearest(name_or_path)}")


def judge(problem: Problem, text: str) -> Verdict | None:
    """Return what the problem's own verifier says of the text; None if the problem names no verifier.

    Errors: as of `verifier`.
    """
    return _cached(problem.verifier)(problem, text) if problem.verifier else None


def judge_all(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict | None]:
    """Return the verdict on each (problem, text), in their order. Errors: as of `verifier`."""
    return [judge(problem, text) for problem, text in pairs]


def answer_of(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text as the problem's verifier reads it; None if there is none."""
    return final_answer(text, phrases=problem.verifier in ("math", "choice")) or None


def same(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers are equal to the problem's verifier; by their text where it has no opinion."""
    if first == second or problem.verifier not in ("math", "choice", "exact"):
        return first == second
    try:
        verdict = judge(replace(problem, answer=first), f"\\boxed{{{second}}}")
    except GraderError:  # the first one is nothing that could be asked for
        return False
    return verdict is not None and bool(verdict.correct)


# one user file is read once, not once per completion
_cached = cache(verifier)


def nearest(name: str) -> str:
    """Return what to write instead of an unknown verifier name."""
    near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}"


def objection(name: str, problem: Problem) -> str | None:
    """Return why this built-in verifier could never judge the problem by its answer, None if it can."""
    try:
        _MODULES[name].gold(problem)
    except GraderError as error:
        return str(error)
    return None


def _judge(name: str, problem: Problem, text: str) -> Verdict:
    try:
        return _MODULES[name].verify(problem, text)
    except GraderError as error:
        raise GraderError(f"problem {problem.id}: answer: {error}") from error
