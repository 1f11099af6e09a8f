"""The interface of samplers: requests with prompts and seeds in, completions out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from obverse.config.analyze import AnalysisOptions
from obverse.config.eval import EvalConfig
from obverse.config.train import TrainConfig
from obverse.types import Finish, ModelInput


@dataclass(frozen=True)
class SamplingParams:
    """The distribution to sample from, and where a completion ends.

    The distribution is softmax(logits / temperature), truncated by top_k, top_p and min_p, and renormalized. A
    completion ends with a token of `stop_ids`, or with the token that completes one of `stop_strings` in its text.
    Once a call has taken `max_seconds` or sampled `max_call_tokens`, unfinished completions end with finish "length".
    """

    stop_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    stop_strings: tuple[str, ...] = ()
    max_seconds: float | None = None
    max_call_tokens: int | None = None

    @property
    def is_untruncated(self) -> bool:
        """Whether every token may be sampled: the distribution is the policy's at this temperature."""
        return self.temperature > 0 and self.top_p >= 1 and self.top_k == 0 and self.min_p == 0


def sampling_params(config: TrainConfig | EvalConfig | AnalysisOptions, stop_ids: tuple[int, ...]) -> SamplingParams:
    """The sampling parameters that the options of a run, an evaluation or an analysis set."""
    return SamplingParams(
        stop_ids,
        config.max_completion_length,
        config.temperature,
        config.top_p,
        config.top_k,
        config.min_p,
        config.stop_strings,
        config.max_sampling_seconds,
    )


@dataclass(frozen=True)
class SamplingRequest:
    """One prompt and the seed of each completion to sample for it.

    A completion depends on its seed and the prompt, not on the other requests of a call.
    """

    prompt: ModelInput
    seeds: Sequence[int]


@dataclass(frozen=True)
class Completion:
    """One sampled continuation; the stop token is part of `ids`.

    Example: Completion(ids=[11, 2], behavior=[-0.1, -0.02], finish="stop")
    """

    ids: list[int]
    behavior: list[float]  # log-prob of each id under the distribution sampled from, after temperature and truncation
    finish: Finish
    weights: int = 0  # the step after which the policy had the weights that sampled it


class Sampler(Protocol):
    """Samples completions from the policy."""

    def sync_weights(self, step: int) -> None:
        """Sample from the policy's current weights from now on; they are those after `step`."""

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """Return a list per request, in the order of its seeds; `progress` receives the number of finished ones."""
