"""The records that all packages share: problem, generation request, sample, grade, group. No torch import."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, cast

from obverse.errors import ConfigError
from obverse.seeds import seed_for

Message = dict[str, Any]  # role and content are texts; further keys are for the chat template
Prompt = str | list[Message]
Kind = Literal["rollout", "hinted", "greedy", "demonstration", "chosen", "rejected", "replayed"]
POLICY_KINDS: tuple[Kind, ...] = ("rollout", "hinted", "greedy")  # written by a policy, in whole or in part
Finish = Literal["stop", "length"]


class Source(IntEnum):
    """The origin of a trained token. Prompt tokens have no source: they are never trained."""

    HINT = 0
    DEMONSTRATION = 1
    ROLLOUT = 2
    CHOSEN = 3
    REJECTED = 4
    REPLAYED = 5

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def is_sampled(self) -> bool:
        """Whether a policy of this run sampled the token, now or in an earlier step, and its log-prob is stored."""
        return self in (Source.ROLLOUT, Source.REPLAYED)


@dataclass(frozen=True)
class Problem:
    """One row of data: a prompt, a reference answer to grade by, and optionally a demonstration or a pair.

    Example:
        Problem("gsm8k-7", "What is 2+2?", answer="4", demonstration=("2+2=4", "\\n#### 4"), verifier="math")
    """

    id: str
    prompt: Prompt
    answer: Any = None
    demonstration: tuple[str, ...] = ()  # the steps of one solution; concatenated without a separator
    verifier: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    # Inputs of the chat template beside the prompt: `tools`, `documents`, `chat_template_kwargs`, and the further keys
    # of the last message under `demonstration`, `chosen` or `rejected`.
    template: Mapping[str, Any] = field(default_factory=dict)

    @property
    def demonstration_text(self) -> str:
        return "".join(self.demonstration)

    @property
    def uniform(self) -> float:
        """A fixed uniform number in [0, 1), by which methods choose problems at random: the same in every run."""
        return seed_for(0, "draw", self.id) / 2**63


@dataclass(frozen=True)
class GradeResult:
    """The grade of a response: correct, incorrect, or not graded because the grader failed.

    `correct` is None if the grader failed; `reason` is the error, or why an answer is incorrect. `reward` is what
    training uses. `components` has the reward of each verifier by name, before its weight, if several were combined;
    `weights` has the weights of their sum, `reward`.
    """

    correct: bool | None
    reward: float
    reason: str = ""
    formatted: bool = True  # the response has an answer where the grader expects one
    components: Mapping[str, float] = field(default_factory=dict, hash=False)
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def rewards(self) -> Mapping[str, float]:
        """The reward of each verifier by name; `{"reward": reward}` for a single one."""
        return self.components or {"reward": self.reward}

    @classmethod
    def passed(cls) -> GradeResult:
        return cls(True, 1.0)

    @classmethod
    def failed(cls, reason: str, *, formatted: bool = True) -> GradeResult:
        return cls(False, 0.0, reason, formatted)


@dataclass(frozen=True)
class GenerationRequest:
    """The samples that a method requests for one problem; one request may have several kinds.

    Example:
        GenerationRequest(rollouts=8, demonstrations=1)      # HPT, LUFFY
        GenerationRequest(rollouts=4, hint=0.5)              # UFT: continue after half of the demonstration's steps
        GenerationRequest(rollouts=2, greedy=1)              # ReMax: a greedy answer as baseline
    """

    rollouts: int = 0
    demonstrations: int = 0
    pairs: int = 0  # 1: the problem's chosen and rejected response
    labeled: int = 0  # 1: the problem's chosen response, its rejected one, or both: what it has
    greedy: int = 0  # 1: a rollout at temperature 0, graded but not trained
    hint: float = 0.0  # the fraction of the demonstration that rollouts continue
    hint_in: Literal["steps", "tokens"] = "steps"  # the unit of that fraction, rounded to whole ones
    hint_margin: float = 0.0  # in tokens: the hint ends at the first blank line that is at most this fraction later
    author: Literal["policy", "initial"] = "policy"  # the sampled model: the policy, or the frozen initial one
    max_tokens: int | None = None  # longest completion of these rollouts; None: the run's limit


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the model reads of a prompt: its token ids. Equal inputs have equal hashes, so prefix sharing keys on them.

    Every other kind of input, images for instance, is to be added as a further field: renderers make this value, and
    samplers, batches and policies read it. `len()` counts tokens. Raises TypeError for ids that are not a tuple.

    Example: ModelInput((7, 3, 7, 9))
    """

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if type(self.token_ids) is not tuple:
            raise TypeError(f"ModelInput takes a tuple of token ids, not a {type(self.token_ids).__name__}")

    def __len__(self) -> int:
        return len(self.token_ids)

    def extended(self, ids: Sequence[int]) -> ModelInput:
        """This input with `ids` behind it: a hint, or a response."""
        return replace(self, token_ids=(*self.token_ids, *ids))


@dataclass
class Sample:
    """One response to one problem, as token ids; exactly these ids are trained.

    Example (prompt "2+2=", sampled answer "4" and the stop token):
        Sample("rollout", ModelInput((7, 3, 7, 9)), ids=[11, 2], sources=[Source.ROLLOUT] * 2,
               behavior=[-0.1, -0.02], text="4", finish="stop", grade=GradeResult.passed())
    """

    kind: Kind
    prompt: ModelInput
    ids: list[int]  # the response, hint tokens and the stop token included; [n]
    sources: list[Source]  # the origin of each response token; [n]
    behavior: list[float]  # log-prob under the distribution that sampled it, 0.0 for tokens not sampled; [n]
    text: str  # the decoded response that is graded (the hint included)
    finish: Finish = "stop"
    grade: GradeResult = GradeResult(None, 0.0, "not graded")
    uniform: float = 1.0  # `Problem.uniform`; 1 if there is none
    teacher: list[float] | None = None  # log-prob of each token under the method's teacher, once scored; [n]
    teacher_prompt: ModelInput | None = None  # what the method's teacher reads before the response; None: no teacher
    weights: int | None = None  # rollouts: the step after which the policy had the weights that sampled it

    @property
    def model_input(self) -> ModelInput:
        """Prompt and response as one forward pass reads them."""
        return self.prompt.extended(self.ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt) + len(self.ids)

    @property
    def num_tokens_with_teacher(self) -> int:
        """`num_tokens` with the longer of the sample's own prompt and its teacher's."""
        return max(len(self.prompt), len(self.teacher_prompt or ())) + len(self.ids)

    @property
    def reward(self) -> float:
        return self.grade.reward

    @property
    def correct(self) -> bool:
        return bool(self.grade.correct)


class MissingGrade:
    """The grade of a sample that is not graded: reading it raises ConfigError, naming `reader`."""

    def __init__(self, reader: str) -> None:
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigError(
            f"{self.reader} reads a grade ({name}), but the method declares none: write "
            f"needs = frozenset({{'correct'}}) into {self.reader}"
        )


def without_grade(sample: Sample, reader: str) -> Sample:
    """The sample with a grade that raises ConfigError when `reader` reads it."""
    return replace(sample, grade=cast(Any, MissingGrade(reader)))


@dataclass
class Group:
    """All samples of one problem in one update."""

    problem: Problem
    samples: list[Sample]

    def of(self, *kinds: Kind) -> list[Sample]:
        """The samples of these kinds, in order."""
        return [sample for sample in self.samples if sample.kind in kinds]

    @property
    def greedy_reward(self) -> float:
        """The reward of the greedy answer; 0 if there is none."""
        return next((sample.reward for sample in self.of("greedy")), 0.0)

    @property
    def num_correct(self) -> int:
        """The number of correct rollouts, hinted ones not counted."""
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
            **({"rewards": dict(sample.grade.components)} if sample.grade.components else {}),
            "finish": sample.finish,
            "weights": sample.weights,
            "num_hint": sample.sources.count(Source.HINT),
            "text": sample.text,
            "ids": sample.ids,
            **({} if sample.teacher is None else {"behavior": sample.behavior, "teacher": sample.teacher}),
        }


def to_json(row: Mapping[str, Any]) -> str:
    """One line of JSON; raises ValueError for NaN."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)
