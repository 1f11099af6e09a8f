"""Schemas of the stored files that a report reads; a file is checked once, when it is read. Imports no torch.

Further fields are allowed and ignored. Numbers are finite; null means that a figure is undefined.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse.errors import DataError
from obverse.types import Kind

LARGEST = 1e100  # no figure of a run is larger, and arithmetic with such numbers stays finite
MOST_STEPS = 2**53

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Ends = Annotated[list[Number], Field(min_length=2, max_length=2)]
Maybe = Number | None
Text = str | int | None

_FRACTION = re.compile(r"(avg|pass|maj)@([1-9]\d{0,8})", re.ASCII)
_METRIC = re.compile(r"(avg|pass|maj)@", re.ASCII)


def check(schema: TypeAdapter[Any], value: Any, where: str) -> Any:
    """Returns the value unchanged. Raises DataError with `where` and the field if it does not fit the schema."""
    try:
        return schema.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:120]
        raise DataError(f"{where}: {field}: {first['msg']}: {REMEDY}") from None


REMEDY = "restore the file, or move it away to make the page without it"


class Level(TypedDict):
    """A row of a summary: problems of one difficulty, or all; avg@n, pass@k and maj@k beside these."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    problems: NotRequired[Count]
    interval: NotRequired[Ends]
    truncated: NotRequired[Maybe]
    ungraded: NotRequired[Maybe]


def _check_fractions(row: Level) -> Level:
    for name, value in row.items():
        if _METRIC.match(name) and not (_FRACTION.fullmatch(name) and type(value) in (int, float) and 0 <= value <= 1):  # type: ignore[operator]
            raise ValueError(f"{name[:40]} is not a number from 0 to 1")
    return row


Summary = dict[str, Annotated[Level, AfterValidator(_check_fractions)]]


class Named(TypedDict):
    name: NotRequired[str]


class Result(TypedDict):
    """result.json of an evaluation."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    summary: Summary
    name: NotRequired[str]
    model: NotRequired[Named]


class Completion(TypedDict):
    """A row of samples/step-N.jsonl."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    problem: str | int
    kind: Kind
    reward: Number
    correct: bool | None
    finish: str
    text: str
    ids: list[int]
    reason: NotRequired[str]
    kept: NotRequired[bool]
    num_hint: NotRequired[Count]
    behavior: NotRequired[list[Number]]
    teacher: NotRequired[list[Number]]
    prompt: NotRequired[str | list[dict[str, Any]] | None]


def _check_hint(row: Completion) -> Completion:
    if row.get("num_hint", 0) > len(row["ids"]):
        raise ValueError("num_hint is larger than the number of ids")
    if any(name in row and len(row[name]) != len(row["ids"]) for name in ("behavior", "teacher")):
        raise ValueError("expects one log-prob of behavior and of teacher for each of ids")
    return row


class Cost(TypedDict):
    num_tokens: Number


class Entry(TypedDict):
    """An entry of a comparison."""

    entry: str
    label: str
    rate: Number
    steps: NotRequired[list[Number]]
    num_tokens: NotRequired[list[Number]]
    seconds: NotRequired[list[Number]]
    flops: NotRequired[list[Number]]
    grid: NotRequired[list[Cost]]
    failed: NotRequired[list[str]]


class Cell(TypedDict):
    """A figure of a comparison."""

    entry: str
    step: str
    test: str
    k: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    mean: Fraction
    low: Number
    high: Number
    verdict: NotRequired[str | None]
    samples: NotRequired[str | None]
    baseline: NotRequired[str | None]
    difference: NotRequired[Maybe]
    difference_low: NotRequired[Maybe]
    difference_high: NotRequired[Maybe]


class Standings(TypedDict):
    """standings.json."""

    budget: Number
    budget_in: str
    teacher_cost: NotRequired[Number | None]
    k: Annotated[list[Count], Field(min_length=1)]
    columns: list[str]
    entries: list[Entry]
    figures: list[Cell]


Demo = dict[str, dict[str, dict[str, Number]]]


def _check_demo(value: Demo) -> Demo:
    first = next(iter(value.values()), {})
    names = {name for rows in value.values() for row in rows.values() for name in row}
    for policy, rows in value.items():
        if rows.keys() != first.keys() or any(row.keys() != names for row in rows.values()):
            raise ValueError(f"{policy[:40]} has difficulties or figures that other policies lack")
    return value


class Success(TypedDict):
    success: Number


class Stage(TypedDict):
    bias: Maybe
    variance: Maybe
    error: Maybe


class Estimator(TypedDict):
    method: str
    lane: NotRequired[int]
    objective: NotRequired[str]
    stages: list[Stage]


class Variance(TypedDict):
    stages: list[Success]
    methods: list[Estimator]


def _check_stages(value: Variance) -> Variance:
    if any(len(method["stages"]) != len(value["stages"]) for method in value["methods"]):
        raise ValueError("a method does not have a value for every stage")
    return value


class Norm(TypedDict):
    name: str
    part: str
    norm: Maybe


class Cosines(TypedDict):
    names: list[str]
    values: list[list[Maybe]]


class GradientStage(TypedDict):
    name: str
    rows: list[Norm]
    cosines: Cosines


def _check_cosines(value: GradientStage) -> GradientStage:
    num = len(value["cosines"]["names"])
    if [len(row) for row in value["cosines"]["values"]] != [num] * num:
        raise ValueError("cosines: expects one value for each pair of names")
    return value


class Gradients(TypedDict):
    stages: list[Annotated[GradientStage, AfterValidator(_check_cosines)]]


class Mass(TypedDict):
    by: str
    name: str
    share: Maybe


class Masses(TypedDict):
    method: str
    masses: list[Mass]


class Shaded(TypedDict):
    problem: str | int
    kind: str
    reward: Maybe
    tokens: list[str]
    coefficients: dict[str, list[Number] | None]


def _check_coefficients(value: Shaded) -> Shaded:
    num_tokens = len(value["tokens"])
    if any(values is not None and len(values) != num_tokens for values in value["coefficients"].values()):
        raise ValueError("expects one coefficient for each token")
    return value


class Coefficients(TypedDict):
    about: NotRequired[str]
    methods: list[Masses]
    completions: NotRequired[list[Annotated[Shaded, AfterValidator(_check_coefficients)]]]


class Position(TypedDict):
    position: Number
    before: Maybe
    after: Maybe


class Moved(TypedDict):
    token: Text
    change: Maybe
    num: Text


class Kinds(TypedDict):
    kind: str
    num_tokens: Number
    edges: Annotated[list[Number], Field(min_length=2)]
    before: list[Number]
    after: list[Number]
    entropy: NotRequired[list[Position] | None]
    raised: NotRequired[list[Moved] | None]
    lowered: NotRequired[list[Moved] | None]


def _check_bins(value: Kinds) -> Kinds:
    if not len(value["edges"]) - 1 == len(value["before"]) == len(value["after"]):
        raise ValueError("expects one share between each two edges")
    return value


class Shift(TypedDict):
    before: NotRequired[str]
    after: NotRequired[str]
    kinds: list[Annotated[Kinds, AfterValidator(_check_bins)]]


Tries = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]


class Policy(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    name: str
    interval: NotRequired[dict[str, Ends] | None]


def _check_tries(value: Policy) -> Policy:
    _TRIES.validate_python(value.get("pass"), strict=True)
    return value


_TRIES = TypeAdapter(Annotated[dict[Tries, Fraction], Field(min_length=1)])


class Against(TypedDict):
    name: str
    crossover: NotRequired[int | None]
    gained: list[str]
    lost: list[str]
    forgotten: list[str]
    able: int


class Coverage(TypedDict):
    num_problems: int
    policies: list[Annotated[Policy, AfterValidator(_check_tries)]]
    against: list[Against]


class Weights(TypedDict):
    """A tensor in the header of a safetensors file."""

    shape: list[Count]


ROW = TypeAdapter(dict[str, Maybe])
STEP = TypeAdapter(Count)
SUMMARY = TypeAdapter(Summary)
RESULT = TypeAdapter(Result)
COMPLETION = TypeAdapter(Annotated[Completion, AfterValidator(_check_hint)])
STANDINGS = TypeAdapter(Standings)
DEMO = TypeAdapter(Annotated[Demo, AfterValidator(_check_demo)])
HEADER = TypeAdapter(dict[str, Weights])
ANALYSES: dict[str, TypeAdapter[Any]] = {
    "variance": TypeAdapter(Annotated[Variance, AfterValidator(_check_stages)]),
    "gradients": TypeAdapter(Gradients),
    "coefficients": TypeAdapter(Coefficients),
    "shift": TypeAdapter(Shift),
    "coverage": TypeAdapter(Coverage),
}
