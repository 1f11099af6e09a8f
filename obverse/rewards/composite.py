"""Several verifiers combined into one: `math,my.py:style`, with weights `math*1,my.py:style*0.2`.

The reward is the weighted sum as in TRL's `reward_weights` (default weight 1); verifiers that return NOT_APPLICABLE are
left out of it. `correct` is that of the first applicable verifier. If one of them fails, the combined grade is that
failure, because a sum with a missing part is not a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from obverse.errors import ConfigError
from obverse.rewards.python_file import NOT_APPLICABLE
from obverse.types import GradeResult


def parse_verifiers(spec: str) -> list[tuple[str, float]]:
    """Return the (name, weight) pairs of a `verifier` option. Errors: ConfigError for a weight that is not a number.

    Example:
        parse_verifiers("math,my.py:style*0.2") == [("math", 1.0), ("my.py:style", 0.2)]
    """
    verifiers = []
    for part in spec.split(","):
        name, star, weight = part.strip().partition("*")
        verifiers.append((name.strip(), _weight(weight, spec) if star else 1.0))
    return verifiers


def with_weights(spec: str | None, weights: Sequence[float]) -> str | None:
    """Return the `verifier` option with these weights in it; without weights, unchanged.

    Errors: ConfigError if there are not as many weights as verifiers, or `spec` is None.
    """
    if not weights:
        return spec
    if spec is None:
        raise ConfigError("--verifier_weights: weights of what? Name the verifiers with --verifier")
    names = [name for name, _ in parse_verifiers(spec)]
    if len(names) != len(weights):
        raise ConfigError(f"--verifier_weights: {len(weights)} weights for {len(names)} verifiers ({spec})")
    return ",".join(f"{name}*{weight!r}" for name, weight in zip(names, weights, strict=True))


def component_names(specs: Sequence[str]) -> list[str]:
    """Short names of verifiers for figures: a function's own name, or the whole specification where two are equal.

    Example:
        component_names(["math", "my.py:style"]) == ["math", "style"]
    """
    names = [spec.rpartition(":")[2] for spec in specs]
    return [name if names.count(name) == 1 else spec for name, spec in zip(names, specs, strict=True)]


def verifier_weights(spec: str) -> dict[str, float]:
    """Return the weight of each verifier in a `verifier` option by its name in `GradeResult.components`."""
    verifiers = parse_verifiers(spec)
    names = component_names([name for name, _ in verifiers])
    return dict(zip(names, [weight for _, weight in verifiers], strict=True))


def combine_grades(grades: Sequence[GradeResult], weights: Sequence[float], names: Sequence[str]) -> GradeResult:
    """Return the grade of the weighted combination, with the reward of each applicable verifier by its name."""
    applicable = [(grade, weight) for grade, weight in zip(grades, weights, strict=True) if grade != NOT_APPLICABLE]
    if failures := [grade for grade, _ in applicable if grade.correct is None]:
        return failures[0]
    if not applicable:
        return NOT_APPLICABLE
    first = applicable[0][0]
    reward = sum(grade.reward * weight for grade, weight in applicable)
    components = {name: grade.reward for name, grade in zip(names, grades, strict=True) if grade != NOT_APPLICABLE}
    weight_by_name = dict(zip(names, weights, strict=True))
    return GradeResult(
        first.correct,
        reward,
        first.reason,
        first.formatted,
        components,
        {name: weight_by_name[name] for name in components},
    )


def _weight(text: str, spec: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise ConfigError(f"verifier {spec!r}: {text.strip()!r} is not a weight; write math*1,my.py:style*0.2")
    return weight
