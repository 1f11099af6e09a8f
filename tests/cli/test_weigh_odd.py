"""Whatever a step file holds, it is weighed or refused by one sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from obverse.analysis.step_coefficients import weigh
from obverse.analysis.step_file import read_step
from obverse.errors import UserError

STEP = Path(__file__).parents[1] / "data" / "step.json"
ODD: list[Any] = [
    None,
    True,
    "",
    "x",
    -1,
    0,
    10**400,
    -(10**400),
    1e308,
    -1e308,
    1e-320,
    [],
    {},
    [[]],
    {"a": []},
    "rollout",
]
ODD += ["\ud800", ["rollout"], [0.5], [None], [10**400], "hint", 2**63, 0.5]


def mutated(value: Any, rng: random.Random) -> Any:
    """The step with an odd value in one place, or without something."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        kept = {name: each for name, each in value.items() if name != key or rng.random() < 0.9}
        return {**kept, key: mutated(value[key], rng)} if key in kept else kept
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], *([] if rng.random() < 0.1 else [mutated(value[at], rng)]), *value[at + 1 :]]
    return rng.choice(ODD)


@pytest.mark.parametrize("name", ["grpo", "hpt", "ppo", "dpo", "reward_model", "sft_then_rl"])
def test_odd_steps_are_weighed_or_named(name: str) -> None:
    step, rng = (read_step(STEP), random.Random(name))
    for _ in range(150):
        odd = mutated(step, rng)
        for _ in range(rng.randrange(3)):
            odd = mutated(odd, rng)
        try:
            found = weigh(name, odd)
        except UserError as error:
            assert str(error) and "\n" not in str(error)
        else:
            json.dumps(found, allow_nan=False, default=str)
