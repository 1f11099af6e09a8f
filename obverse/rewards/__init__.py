"""Rewards: verifiers (reward functions), each a function of a problem and a completion that returns a GradeResult."""

from obverse.rewards.composite import parse_verifiers, verifier_weights, with_weights
from obverse.rewards.python_file import NOT_APPLICABLE, SECONDS, Verifier
from obverse.rewards.registry import (
    ERRORS,
    NAMES,
    REFUSED,
    extract_answer,
    get_verifier,
    grade_completion,
    grade_completions,
    reference_error,
    reference_notes,
    same_answer,
    start_workers,
    suggest_name,
    unparseable_references,
)

__all__ = [
    "ERRORS",
    "NAMES",
    "NOT_APPLICABLE",
    "REFUSED",
    "SECONDS",
    "Verifier",
    "extract_answer",
    "get_verifier",
    "grade_completion",
    "grade_completions",
    "parse_verifiers",
    "reference_error",
    "reference_notes",
    "same_answer",
    "start_workers",
    "suggest_name",
    "unparseable_references",
    "verifier_weights",
    "with_weights",
]
