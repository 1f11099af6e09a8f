"""Reading the stored samples of a step as groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse.data.renderer import Renderer
from obverse.errors import DataError
from obverse.rewards import verifier_weights
from obverse.runtime.json_lines import read_objects
from obverse.types import POLICY_KINDS, Finish, GradeResult, Group, Kind, Problem, Sample, Source


class Row(TypedDict):
    """The fields of a stored sample that are read."""

    problem: str
    kind: Kind
    ids: list[int]
    num_hint: int
    text: str
    finish: Finish
    correct: bool | None
    reward: float
    reason: str
    rewards: NotRequired[dict[str, float]]


_ROW = TypeAdapter(Row)


def checked(raw: dict[str, Any], where: str) -> Row:
    """Check a row of stored samples; DataError names the field that does not fit."""
    try:
        row = _ROW.validate_python(raw, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not 0 <= row["num_hint"] <= len(row["ids"]):
        raise DataError(f"{where}: num_hint: {row['num_hint']} of {len(row['ids'])} tokens")
    return row


def grade_of(row: Row, problem: Problem) -> GradeResult:
    """The grade of a stored sample; the weights of its rewards are those of the problem's verifiers."""
    rewards = row.get("rewards", {})
    weights = verifier_weights(problem.verifier) if problem.verifier and rewards else {}
    weights = {name: weights.get(name, 1.0) for name in rewards}
    return GradeResult(row["correct"], row["reward"], row["reason"], components=rewards, weights=weights)


def read_groups(run: str, step: int, renderer: Renderer, problems: Sequence[Problem]) -> list[Group]:
    """The groups of `samples/step-N.jsonl` in the run's folder; `behavior` is not stored and is zeros here.

    Raises DataError if the step has no file, or for a problem that the data set does not have.
    """
    path = Path(run) / "samples" / f"step-{step:06d}.jsonl"
    if not path.is_file():
        raise DataError(f"--step: {path} does not exist: samples are stored with --log_completions")
    problem_by_id = {problem.id: problem for problem in problems}
    groups: dict[str, Group] = {}
    for number, raw in enumerate(read_objects(path), 1):
        row = checked(raw, f"{path}:{number}")
        name = row["problem"]
        if name not in problem_by_id:
            raise DataError(f"{path}:{number}: the data set has no problem {name!r}: give the run's own --dataset")
        source = Source.ROLLOUT if row["kind"] in POLICY_KINDS else Source[row["kind"].upper()]
        num_hint = row["num_hint"]
        groups.setdefault(name, Group(problem_by_id[name], [])).samples.append(
            Sample(
                kind=row["kind"],
                prompt=renderer.prompt(problem_by_id[name]),
                ids=row["ids"],
                sources=[Source.HINT] * num_hint + [source] * (len(row["ids"]) - num_hint),
                behavior=[0.0] * len(row["ids"]),
                text=row["text"],
                finish=row["finish"],
                grade=grade_of(row, problem_by_id[name]),
                uniform=problem_by_id[name].uniform,
            )
        )
    return list(groups.values())
