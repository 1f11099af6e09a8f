"""The verifiers by name, and what callers need of them: grading, answer extraction and checks of reference answers.

A built-in verifier is a module with the functions `gold` (the reference answer of a problem), `extract` (the final
answer of a completion), `same_answer`, `verify` (the grade) and, where it applies, `example` (a correct completion).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial

from obverse import python_files
from obverse.errors import ConfigError, GraderError
from obverse.rewards import choice, countdown, exact, knights, math, numeric, reference_check, similarity, worker_pool
from obverse.rewards.algebra_requests import TOO_HARD, WORKER
from obverse.rewards.answer_extraction import final_answer
from obverse.rewards.composite import combine_grades, component_names, parse_verifiers
from obverse.rewards.python_file import SECONDS, Verifier, from_file
from obverse.types import GradeResult, Problem

_MODULES = {
    "math": math,
    "countdown": countdown,
    "knights": knights,
    "choice": choice,
    "exact": exact,
    "numeric": numeric,
    "similarity": similarity,
}

NAMES = tuple(_MODULES)
# The first word of `GradeResult.reason`, up to a colon: failures of grading, and answers that were refused as wrong.
ERRORS = ("timeout", "crash", "raised", "unusable")
REFUSED = ("prefilter", "unparseable", TOO_HARD)


def get_verifier(spec: str, seconds: float = SECONDS) -> Verifier:
    """Return the built-in verifier of that name, or the function in a file of the user.

    Args:
        spec: A name in NAMES, or `path/to/file.py:function` (`verify` without a function name). Several, separated by
            commas, give one verifier whose reward is the sum of theirs: see `obverse.rewards.composite`.
        seconds: Time limit of a user's function for one completion.

    Errors: ConfigError for an unknown name, file, function or signature; calling the verifier raises GraderError if it
    cannot use the problem's reference answer.

    Example:
        get_verifier("math")(Problem("p", "2+2=", answer="4"), "\\boxed{4}").correct
    """
    parts = parse_verifiers(spec)
    if len(parts) == 1 and parts[0][1] == 1.0:
        return _single_verifier(parts[0][0], seconds)
    verifiers = [_single_verifier(name, seconds) for name, _ in parts]
    weights = [weight for _, weight in parts]
    names = component_names([name for name, _ in parts])
    return lambda problem, text: combine_grades([verify(problem, text) for verify in verifiers], weights, names)


def grade_completion(problem: Problem, text: str, seconds: float = SECONDS) -> GradeResult | None:
    """Return the grade of a completion by the problem's verifier; None if the problem has no verifier.

    Errors: see `get_verifier`.
    """
    if not problem.verifier:
        return None
    return _cached_verifier(problem.verifier, seconds, python_files.period())(problem, text)


def grade_completions(pairs: Sequence[tuple[Problem, str]], seconds: float = SECONDS) -> list[GradeResult | None]:
    """Return the grades of many completions, in the order of `pairs`; worker processes grade several in parallel.

    Errors: see `get_verifier`.
    """
    grades = [_grade_in_process(problem, text, seconds) for problem, text in pairs]
    pending = [index for index, grade in enumerate(grades) if grade is None and pairs[index][0].verifier]
    if len(pending) <= 1 or worker_pool.NUM_WORKERS == 1:
        results: Iterable[GradeResult | None] = [grade_completion(*pairs[index], seconds) for index in pending]
    else:
        with ThreadPoolExecutor(worker_pool.NUM_WORKERS) as threads:
            results = list(threads.map(lambda index: grade_completion(*pairs[index], seconds), pending))
    for index, grade in zip(pending, results, strict=True):
        grades[index] = grade
    return grades


def extract_answer(problem: Problem, text: str) -> str | None:
    """Return the final answer of a completion as the problem's (first) verifier extracts it; None without an answer."""
    name = _first_verifier(problem)
    answer = _MODULES[name].extract(problem, text) if name in _MODULES else final_answer(text, phrases=True)
    return (answer or "").strip() or None


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether the problem's verifier takes two final answers as equal; a user's function: if the texts are."""
    name = _first_verifier(problem)
    return first == second or (name in _MODULES and bool(_MODULES[name].same_answer(problem, first, second)))


def reference_notes(problems: Iterable[Problem]) -> list[str]:
    """Return a line for every kind of reference answer that the math verifier interprets in an unexpected way."""
    return reference_check.notes(problem for problem in problems if _first_verifier(problem) == "math")


def suggest_name(name: str) -> str:
    """Return a hint for a message about an unknown verifier name: the nearest name, or all names."""
    matches = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"there are {', '.join(NAMES)}"


def reference_error(name: str, problem: Problem) -> str | None:
    """Return why a built-in verifier cannot use the problem's reference answer, None if it can.

    The reference answer, given as a completion, must be graded as correct.
    """
    module = _MODULES[name]
    try:
        module.gold(problem)
        if hasattr(module, "example") and not module.verify(problem, module.example(problem)).correct:
            return f"given as an answer, the {name} verifier calls it wrong"
    except GraderError as error:
        return str(error)
    return None


def start_workers(spec: str) -> None:
    """Start the worker process that the verifiers in `spec` use (1-2 s), so that the first grade does not wait."""
    if "math" in [name for name, _ in parse_verifiers(spec)]:
        worker_pool.pool(WORKER).warm()


def unparseable_references(problems: Iterable[Problem], limit: int | None = None) -> list[Problem]:
    """Return the problems of the math verifier whose reference answer computer algebra cannot parse.

    Such answers are only compared as text. One problem is checked per distinct answer; with `limit` only that many
    answers that are not plain numbers.
    """
    by_answer = {math.gold(problem): problem for problem in problems if _first_verifier(problem) == "math"}
    checked = [gold for gold in by_answer if not math.is_number(gold)][:limit]
    return [by_answer[gold] for gold in checked if not math.is_parseable(gold)]


@cache
def _cached_verifier(spec: str, seconds: float, _period: int) -> Verifier:
    """`get_verifier`, called once per `python_files.read_once` block rather than once per completion."""
    return get_verifier(spec, seconds)


def _first_verifier(problem: Problem) -> str:
    return parse_verifiers(problem.verifier)[0][0] if problem.verifier else ""


def _grade_in_process(problem: Problem, text: str, seconds: float) -> GradeResult | None:
    """Return the grade if no worker process is needed for it."""
    if problem.verifier == "math":
        with _problem_in_errors(problem):
            return math.decide(problem, text)
    return grade_completion(problem, text, seconds) if problem.verifier in _MODULES else None


def _single_verifier(name: str, seconds: float) -> Verifier:
    if name in _MODULES:
        return partial(_verify, name)
    if ".py" in name:
        return from_file(name, seconds)
    raise ConfigError(f"unknown verifier {name!r}: {suggest_name(name)}")


def _verify(name: str, problem: Problem, text: str) -> GradeResult:
    with _problem_in_errors(problem):
        return _MODULES[name].verify(problem, text)


@contextmanager
def _problem_in_errors(problem: Problem) -> Iterator[None]:
    """Add the problem's id to a GraderError."""
    try:
        yield
    except GraderError as error:
        raise GraderError(f"problem {problem.id}: answer: {error}") from error
