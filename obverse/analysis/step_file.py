"""Step files: the numbers of one update as JSON, for `obverse weigh`. Every mistake is one sentence. No torch import.

    {"progress": 0.0, "samples": [{"problem": "p0", "kind": "rollout", "reward": 1.0, "source": ["rollout", "rollout"],
      "logp": [-0.2, -1.1], "behavior": [-0.25, -1.0], "anchor": [-0.3, -1.2], "entropy": [0.4, 0.9]}]}

`progress` is the fraction of the run that is done. `reward` may be left out for samples that are not rollouts. The
default of `correct` is a reward of at least 1, that of `truncated` is false. A column may be left out, or hold null,
where the method does not read it: `sampler` is the log-prob that another sampling program reported, `teacher` the
token's log-prob under the method's teacher, `value` the critic's value (of a reward model: its score, at the last
token), `old_value` and `returns` its value before the update and its target. `memory` is the number that the method
stored in earlier updates, `draw` the uniform number of the problem in [0, 1).

Several reward functions: a sample has `"rewards": {"math": 1.0, "style": 0.5}` by name, a name that does not apply left
out, and the file may have `"reward_weights": {"style": 0.2}` beside `samples` (default 1 each). Without `reward` the
sample's reward is their weighted sum.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from obverse.errors import DataError
from obverse.types import POLICY_KINDS, GradeResult, Kind, ModelInput, Sample, Source

KINDS: tuple[str, ...] = get_args(Kind)
SOURCES = {source.label: source for source in Source}
# beside `source` and `logp`, where a method reads them
COLUMNS = ("behavior", "anchor", "entropy", "advantage", "sampler", "teacher", "value", "old_value", "returns")
NUMBERS = ("memory", "draw")  # of a whole sample
KEYS = ("problem", "kind", "reward", "rewards", "correct", "truncated", "source", "logp", *COLUMNS, *NUMBERS)


@dataclass(frozen=True)
class Row:
    """A sample of the step file: the record that methods read, and its columns ([n], None for absent columns)."""

    name: str  # in messages
    problem: str | int
    sample: Sample
    has_reward: bool
    memory: float | None
    logp: list[float]
    columns: Mapping[str, list[float | None] | None]


def read_step(path: str | Path) -> Any:
    """The JSON of a step file; DataError says what is wrong with it."""
    try:
        return json.loads(
            Path(path).expanduser().read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_once,
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for a step file") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{path}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; DataError for a key that occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the step file gives {twice!r:.40} twice in one object: leave one of them out")
    return values


def _refuse_constant(name: str) -> float:
    raise DataError(f"the step file holds {name}: every number must be finite")


def parse(step: Any) -> tuple[float, list[Row]]:
    """Progress (0 to 1) and the rows of a step file."""
    if not isinstance(step, dict) or not isinstance(step.get("samples"), list):
        raise DataError('a step file is an object with a list "samples"')
    progress = _number(step.get("progress", 0.0), "progress")
    if not 0 <= progress <= 1:
        raise DataError(f"progress must be between 0 and 1, not {progress:g}")
    weights = _by_name(step.get("reward_weights"), "reward_weights")
    rows = [_row(sample, f"samples[{index}]", weights) for index, sample in enumerate(step["samples"])]
    for name in sorted(weights.keys() - {name for row in rows for name in row.sample.grade.components}):
        raise DataError(f"reward_weights: no sample has a reward {name!r:.40} in its rewards")
    return progress, rows


def _row(raw: Any, name: str, weights: Mapping[str, float]) -> Row:
    if not isinstance(raw, dict):
        raise DataError(f"{name}: expects an object, not {raw!r:.40}")
    for key in [key for key in raw if key not in KEYS]:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
        if near:  # other unknown keys are ignored; this one is a typing error
            raise DataError(f"{name}: unknown key {key!r}: did you mean {near[0]!r}?")
    problem = _needed(raw, "problem", name)
    if isinstance(problem, bool) or not isinstance(problem, str | int):
        raise DataError(f"{name}: problem: expects a name, not {problem!r:.40}")
    labels = _list(_needed(raw, "source", name), f"{name}: source")
    sources = [SOURCES[_choice(label, list(SOURCES), f"{name}: source[{at}]")] for at, label in enumerate(labels)]
    logp = _column(_needed(raw, "logp", name), len(sources), f"{name}: logp")
    if None in logp:
        raise DataError(f"{name}: logp[{logp.index(None)}] is null: every token needs a log-prob")
    columns = {
        key: None if raw.get(key) is None else _column(raw[key], len(sources), f"{name}: {key}") for key in COLUMNS
    }
    sample = _sample(raw, name, sources, columns["behavior"], weights)
    memory = None if raw.get("memory") is None else _number(raw["memory"], f"{name}: memory")
    has_reward = not math.isnan(sample.reward)
    return Row(name, problem, sample, has_reward, memory, [value or 0.0 for value in logp], columns)


def _sample(
    raw: Mapping[str, Any],
    name: str,
    sources: list[Source],
    behavior: list[float | None] | None,
    weights: Mapping[str, float],
) -> Sample:
    """The record that the method's selection reads; its token ids have no meaning."""
    kind = _choice(_needed(raw, "kind", name), KINDS, f"{name}: kind")
    rewards = _by_name(raw.get("rewards"), f"{name}: rewards")
    weight_of = {reward_name: weights.get(reward_name, 1.0) for reward_name in rewards}
    if kind in POLICY_KINDS and not rewards:
        _needed(raw, "reward", name)
    # An absent reward is NaN: coefficients that depend on it are not finite.
    reward = sum(weight_of[reward_name] * value for reward_name, value in rewards.items()) if rewards else math.nan
    reward = reward if raw.get("reward") is None else _number(raw["reward"], f"{name}: reward")
    correct = reward >= 1.0 if raw.get("correct") is None else _flag(raw["correct"], f"{name}: correct")
    truncated = raw.get("truncated") is not None and _flag(raw["truncated"], f"{name}: truncated")
    return Sample(
        kind=cast(Kind, kind),
        prompt=ModelInput((0,)),
        ids=list(range(len(sources))),
        sources=sources,
        behavior=[value or 0.0 for value in behavior or [0.0] * len(sources)],
        text="",
        finish="length" if truncated else "stop",
        grade=GradeResult(correct, reward, components=rewards, weights=weight_of),
        uniform=1.0 if raw.get("draw") is None else _number(raw["draw"], f"{name}: draw"),
    )


def _needed(sample: Mapping[str, Any], key: str, name: str) -> Any:
    if sample.get(key) is None:
        raise DataError(f"{name}: {key} is missing")
    return sample[key]


def _choice(value: Any, choices: Sequence[str], where: str) -> str:
    if value in choices:
        return str(value)
    near = difflib.get_close_matches(str(value), choices, n=1)
    raise DataError(
        f"{where}: unknown {value!r:.40}: " + (f"did you mean {near[0]!r}?" if near else f"one of {', '.join(choices)}")
    )


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expects a list, not {value!r:.40}")
    return value


def _column(value: Any, length: int, where: str) -> list[float | None]:
    """A list with a number, or null, for every token."""
    values = _list(value, where)
    if len(values) != length:
        raise DataError(f"{where}: has {len(values)} numbers for {length} tokens in source")
    return [None if number is None else _number(number, f"{where}[{at}]") for at, number in enumerate(values)]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: expects a number, not {value!r:.40}")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond what a float holds
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where}: must be finite, not {value!r:.40}")
    return number


def _by_name(value: Any, where: str) -> dict[str, float]:
    """Numbers by name, from a JSON object or nothing."""
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{where}: expects an object of names and numbers, not {value!r:.40}")
    return {name: _number(number, f"{where}: {name}") for name, number in (value or {}).items()}


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{where}: expects true or false, not {value!r:.40}")
    return value
