"""The records that travel through the house: a problem, a wish, a sample, its verdict, the group. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, cast

from obverse.errors import ConfigError
from obverse.seeds import seed_for

Message = dict[str, Any]  # role and content are texts; others are what its chat template reads
Prompt = str | list[Message]
Kind = Literal["rollout", "hinted", "greedy", "demonstration", "chosen", "rejected"]
OWN: tuple[Kind, ...] = ("rollout", "hinted", "greedy")  # what a policy wrote, in whole or in part
Finish = Literal["stop", "length"]


class Source(IntEnum):
    """Who wrote a trained token. Prompt tokens have no source: they are never trained."""

    HINT = 0
    DEMONSTRATION = 1
    ROLLOUT = 2
    CHOSEN = 3
    REJECTED = 4

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """One row of data: what is asked, how an answer is checked and, optionally, how somebody solved it.

    Example:
        Problem("gsm8k-7", "What is 2+2?", answer="4", demonstration=("2+2=4", "\\n#### 4"), verifier="math")
    """

    id: str
    prompt: Prompt
    answer: Any = None
    demonstration: tuple[str, ...] = ()  # the steps of one solution; joined as they are, without a separator
    verifier: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    # What the chat template is given beside the prompt: `tools`, `documents`, `chat_template_kwargs`, and what the last
    # message has beside its content, by `demonstration`, `chosen` or `rejected`.
    template: Mapping[str, Any] = field(default_factory=dict)

    @property
    def demonstration_text(self) -> str:
        return "".join(self.demonstration)

    @property
    def draw(self) -> float:
        """A number in [0, 1) by which methods choose problems at random: the same in every run."""
        return seed_for(0, "draw", self.id) / 2**63


@dataclass(frozen=True)
class GradeResult:
    """What a verifier says of a text: three states, never an error dressed up as a wrong answer.

    `correct` is None when the grader failed; `reason` then says how. `reward` is what training sees.
    """

    correct: bool | None
    reward: float
    reason: str = ""
    formatted: bool = True  # an answer was found where the verifier looks for one

    @classmethod
    def right(cls) -> GradeResult:
        return cls(True, 1.0)

    @classmethod
    def wrong(cls, reason: str, *, formatted: bool = True) -> GradeResult:
        return cls(False, 0.0, reason, formatted)


@dataclass(frozen=True)
class GenerationRequest:
    """What a method asks for one problem; one wish may ask for several kinds of samples.

    Example:
        GenerationRequest(rollouts=8, demonstrations=1)      # HPT, LUFFY
        GenerationRequest(rollouts=4, hint=0.5)              # UFT: continue after half of the demonstration's steps
        GenerationRequest(rollouts=2, greedy=1)              # ReMax: a greedy answer to compare with
    """

    rollouts: int = 0
    demonstrations: int = 0
    pairs: int = 0  # 1: the problem's chosen and its rejected response
    greedy: int = 0  # 1: a rollout at temperature 0; it is graded and never trained
    hint: float = 0.0  # the share of the demonstration that rollouts continue
    hint_in: Literal["steps", "tokens"] = "steps"  # what that share counts; rounded to whole ones
    author: Literal["policy", "initial"] = "policy"  # who writes the rollouts: the policy as it is, or as it began
    max_tokens: int | None = None  # of these rollouts; None: the run's limit


@dataclass
class Sample:
    """One response to one problem, as token ids: what was sampled or rendered is what is trained.

    Example (prompt "2+2=", own answer "4" and the stop token):
        Sample("rollout", prompt_ids=[7, 3, 7, 9], ids=[11, 2], sources=[Source.ROLLOUT] * 2,
               behavior=[-0.1, -0.02], text="4", finish="stop", verdict=GradeResult.right())
    """

    kind: Kind
    prompt_ids: list[int]
    ids: list[int]  # the response, hint tokens and the stop token included; [n]
    sources: list[Source]  # who wrote each response token; [n]
    behavior: list[float]  # log-prob under the distribution that sampled it, 0.0 where nobody did; [n]
    text: str  # the decoded response that the verifier reads (the hint included)
    finish: Finish = "stop"
    grade: GradeResult = GradeResult(None, 0.0, "not graded")
    draw: float = 1.0  # the problem's own number in [0, 1), the same in every run; 1 where nobody drew one
    weights: int | None = None  # own samples: the step after which the policy stood that wrote it

    @property
    def reward(self) -> float:
        return self.grade.reward

    @property
    def correct(self) -> bool:
        return bool(self.grade.correct)


class Unread:
    """In place of a verdict that a method does not ask for: reading it raises ConfigError, naming `reader`."""

    def __init__(self, reader: str) -> None:
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigError(
            f"{self.reader} reads a verdict ({name}), and the method grades nothing: write "
            f"needs = frozenset({{'correct'}}) into {self.reader}"
        )


def unread(sample: Sample, reader: str) -> Sample:
    """The sample with a verdict that `reader` cannot read."""
    return replace(sample, grade=cast(Any, Unread(reader)))


@dataclass
class Group:
    """All samples of one problem in one update."""

    problem: Problem
    samples: list[Sample]

    def of(self, *kinds: Kind) -> list[Sample]:
        return [sample for sample in self.samples if sample.kind in kinds]

    @property
    def greedy_reward(self) -> float:
        """The reward of the greedy answer; 0 where nobody asked for one."""
        return next((sample.reward for sample in self.of("greedy")), 0.0)

    @property
    def num_correct(self) -> int:
        """Correct rollouts (hinted ones not counted): what a gate looks at."""
        return sum(sample.correct for sample in self.of("rollout"))


def sample_rows(group: Group) -> Iterator[dict[str, Any]]:
    """The group's samples as plain rows for `samples/step-*.jsonl`, in the group's order.

    Example: {"problem": "arithmetic-train-3", "prompt": "Q:7+5A:", "answer": "12", "kind": "rollout", "reward": 1.0,
    "correct": true, "reason": "", "finish": "stop", "weights": 4, "num_hint": 0, "text": "7+5=12#12", "ids": [58, ...]}
    """
    problem = group.problem
    answer = None if problem.answer is None else str(problem.answer)
    for sample in group.samples:
        yield {
            "problem": problem.id,
            "prompt": problem.prompt,
            "answer": answer,
            "kind": sample.kind,
            "reward": sample.reward,
            "correct": sample.grade.correct,
            "reason": sample.grade.reason,
            "finish": sample.finish,
            "weights": sample.weights,
            "num_hint": sample.sources.count(Source.HINT),
            "text": sample.text,
            "ids": sample.ids,
        }


def to_json(row: Mapping[str, Any]) -> str:
    """One line of JSON; a NaN is an error here, not in the reader."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)
