"""Several verifiers in one: `math,my.py:style`, with weights `math*1,my.py:style*0.2`.

The reward is the weighted sum (TRL's `reward_weights`: 1 each if nobody says otherwise; what does not apply is left
out). Correct is what the first of them that applies says. One that fails makes the whole verdict an error: a sum with a
part missing is no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from obverse.errors import ConfigError
from obverse.rewards.python_file import NOT_APPLICABLE
from obverse.types import GradeResult


def split(spec: str) -> list[tuple[str, float]]:
    """Return the verifiers that a text names, each with its weight. Errors: ConfigError for a weight that is none.

    Example:
        split("math,my.py:style*0.2") == [("math", 1.0), ("my.py:style", 0.2)]
    """
    found = []
    for part in spec.split(","):
        name, star, weight = part.strip().partition("*")
        found.append((name.strip(), _weight(weight, spec) if star else 1.0))
    return found


def weighted(spec: str | None, weights: Sequence[float]) -> str | None:
    """Return a text that names the same verifiers with these weights; without weights as it is.

    Errors: ConfigError if their numbers differ or no verifier is named.
    """
    if not weights:
        return spec
    if spec is None:
        raise ConfigError("--verifier_weights: weights of what? Name the verifiers with --verifier")
    names = [name for name, _ in split(spec)]
    if len(names) != len(weights):
        raise ConfigError(f"--verifier_weights: {len(weights)} weights for {len(names)} verifiers ({spec})")
    return ",".join(f"{name}*{weight!r}" for name, weight in zip(names, weights, strict=True))


def combined(grades: Sequence[GradeResult], weights: Sequence[float]) -> GradeResult:
    """Return the one verdict of several."""
    applying = [(each, weight) for each, weight in zip(grades, weights, strict=True) if each != NOT_APPLICABLE]
    if failed := [each for each, _ in applying if each.correct is None]:
        return failed[0]
    if not applying:
        return NOT_APPLICABLE
    first = applying[0][0]
    return GradeResult(
        first.correct, sum(each.reward * weight for each, weight in applying), first.reason, first.formatted
    )


def _weight(text: str, spec: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise ConfigError(f"verifier {spec!r}: {text.strip()!r} is no weight; write math*1,my.py:style*0.2")
    return weight
