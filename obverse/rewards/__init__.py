"""Verifiers: what is right? Each is a function of a problem and a text, found by name or in a file of the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial

from obverse import python_files as user_code
from obverse.errors import ConfigError, GraderError
from obverse.rewards import choice, countdown, exact, knights, math, numeric
from obverse.rewards import reference_check as golds
from obverse.rewards import worker_pool as workers
from obverse.rewards.algebra_requests import TOO_HARD, WORKER
from obverse.rewards.answer_extraction import final_answer
from obverse.rewards.composite import combined, split, weighted
from obverse.rewards.python_file import NOT_APPLICABLE, SECONDS, Verifier, from_file
from obverse.types import GradeResult, Problem

_MODULES = {
    "math": math,
    "countdown": countdown,
    "knights": knights,
    "choice": choice,
    "exact": exact,
    "numeric": numeric,
}

NAMES = tuple(_MODULES)
# What a verdict's reason begins with, up to a colon, where grading itself is what there is to tell: errors, and wrong
# answers that were refused.
ERRORS = ("timeout", "crash", "raised", "unusable")
REFUSED = ("prefilter", "unparseable", TOO_HARD)

__all__ = [
    "ERRORS",
    "NAMES",
    "NOT_APPLICABLE",
    "REFUSED",
    "SECONDS",
    "Verifier",
    "answer_of",
    "gold_notes",
    "judge",
    "judge_all",
    "nearest",
    "objection",
    "same",
    "split",
    "unreadable",
    "verifier",
    "warm",
    "weighted",
]


def verifier(spec: str, seconds: float = SECONDS) -> Verifier:
    """Return the verifier of that name, or the user's function `path/to/file.py:function` (`verify` if none is named).

    Several, separated by commas, make one with the sum of their rewards: see `obverse.rewards.composite`. `seconds` is
    what a user's function may take for one completion.

    Errors: ConfigError for an unknown name, file, function or signature; a call raises GraderError if the problem's
    answer is not what the verifier can check.

    Example:
        verifier("math")(Problem("p", "2+2=", answer="4"), "\\boxed{4}").correct
    """
    parts = split(spec)
    if len(parts) == 1 and parts[0][1] == 1.0:
        return _single(parts[0][0], seconds)
    each, weights = [_single(name, seconds) for name, _ in parts], [weight for _, weight in parts]
    return lambda problem, text: combined([verify(problem, text) for verify in each], weights)


def judge(problem: Problem, text: str, seconds: float = SECONDS) -> GradeResult | None:
    """Return what the problem's own verifier says of the text; None if the problem names no verifier.

    Errors: as of `verifier`.
    """
    return _cached(problem.verifier, seconds, user_code.period())(problem, text) if problem.verifier else None


def judge_all(pairs: Sequence[tuple[Problem, str]], seconds: float = SECONDS) -> list[GradeResult | None]:
    """Return the verdicts on many texts, in their order; those that need a worker process get several at once.

    Errors: as of `verifier`.
    """
    found = [_decided(problem, text, seconds) for problem, text in pairs]
    rest = [index for index, grade in enumerate(found) if grade is None and pairs[index][0].verifier]
    if len(rest) <= 1 or workers.NUM_WORKERS == 1:
        grades: Iterable[GradeResult | None] = [judge(*pairs[index], seconds) for index in rest]
    else:
        with ThreadPoolExecutor(workers.NUM_WORKERS) as threads:
            grades = list(threads.map(lambda index: judge(*pairs[index], seconds), rest))
    for index, grade in zip(rest, grades, strict=True):
        found[index] = grade
    return found


def answer_of(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text as the problem's verifier, or the first of several, reads it; None if none."""
    name = _first(problem)
    found = _MODULES[name].answer(problem, text) if name in _MODULES else final_answer(text, phrases=True)
    return (found or "").strip() or None


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers are equal to the problem's verifier; for a function of the user: the same text."""
    name = _first(problem)
    return first == second or (name in _MODULES and bool(_MODULES[name].same(problem, first, second)))


def gold_notes(problems: Iterable[Problem]) -> list[str]:
    """Return a line for every sort of expected answer that the math verifier reads in an unexpected way."""
    return golds.notes(each for each in problems if each.verifier and _first(each) == "math")


def nearest(name: str) -> str:
    """Return what to write instead of an unknown verifier name."""
    near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}"


def objection(name: str, problem: Problem) -> str | None:
    """Return why this built-in verifier could never judge the problem by its answer, None if it can.

    The expected answer, given as an answer, must be right.
    """
    module = _MODULES[name]
    try:
        module.gold(problem)
        if hasattr(module, "stated") and not module.verify(problem, module.stated(problem)).correct:
            return f"given as an answer, the {name} verifier calls it wrong"
    except GraderError as error:
        return str(error)
    return None


def warm(spec: str) -> None:
    """Start now what the verifiers of that name need, so that no first answer waits for it (a second or two)."""
    if "math" in [name for name, _ in split(spec)]:
        workers.pool(WORKER).warm()


def unreadable(problems: Iterable[Problem], limit: int | None = None) -> list[Problem]:
    """Return problems of the math verifier whose expected answer computer algebra cannot read: text decides there.

    Of equal answers one problem is looked at; with `limit` only the first so many answers that are no plain numbers.
    """
    first = {math.gold(each): each for each in problems if each.verifier and _first(each) == "math"}
    asked = [gold for gold in first if not math.is_plain(gold)][:limit]
    return [first[gold] for gold in asked if not math.readable(gold)]


@cache
def _cached(spec: str, seconds: float, _period: int) -> Verifier:
    """One user file is asked for once, not once per completion, and again in the next `user_code.read_once`."""
    return verifier(spec, seconds)


def _first(problem: Problem) -> str:
    return split(problem.verifier)[0][0] if problem.verifier else ""


def _decided(problem: Problem, text: str, seconds: float) -> GradeResult | None:
    """The verdict if it takes no worker."""
    if problem.verifier == "math":
        with _named(problem):
            return math.decide(problem, text)
    return judge(problem, text, seconds) if problem.verifier in _MODULES else None


def _single(name: str, seconds: float) -> Verifier:
    if name in _MODULES:
        return partial(_judge, name)
    if ".py" in name:
        return from_file(name, seconds)
    raise ConfigError(f"unknown verifier {name!r}: {nearest(name)}")


def _judge(name: str, problem: Problem, text: str) -> GradeResult:
    with _named(problem):
        return _MODULES[name].verify(problem, text)


@contextmanager
def _named(problem: Problem) -> Iterator[None]:
    """Errors say whose answer it is."""
    try:
        yield
    except GraderError as error:
        raise GraderError(f"problem {problem.id}: answer: {error}") from error
