"""What every sampler speaks: orders in, completions out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from obverse.config.analyze import SceneOptions
from obverse.config.eval import EvalConfig
from obverse.config.train import TrainConfig
from obverse.types import Finish, ModelInput


@dataclass(frozen=True)
class SamplingParams:
    """The distribution to sample from, softmax(logits / temperature), cut by top_k, top_p and min_p, renormalized,
    and where a completion ends.

    A completion whose text comes to hold one of `stop_strings` ends with the token that completes it. Once a call has
    taken `max_seconds` or sampled `max_call_tokens`, whatever is unfinished ends as it is, with finish "length".
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
    def is_whole(self) -> bool:
        """No token is cut away: the law is the policy itself at this temperature."""
        return self.temperature > 0 and self.top_p >= 1 and self.top_k == 0 and self.min_p == 0


def sampling_params(config: TrainConfig | EvalConfig | SceneOptions, stop_ids: tuple[int, ...]) -> SamplingParams:
    """The law that the options of a run, an evaluation or an analysis describe."""
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
    """One prompt and the seed of each completion wanted for it.

    A completion depends on its seed and the prompt, not on what else is sampled beside it.
    """

    prompt: ModelInput
    seeds: Sequence[int]


@dataclass(frozen=True)
class Completion:
    """One sampled continuation; the stop token is part of `ids`.

    Example: Completion(ids=[11, 2], behavior=[-0.1, -0.02], finish="stop")
    """

    ids: list[int]
    behavior: list[float]  # log-prob of each id under the law (not under the bare model)
    finish: Finish
    weights: int = 0  # the step after which the policy stood that wrote it


class Sampler(Protocol):
    """Draws completions; one list per order, in the order's seeds' order."""

    def sync_weights(self, step: int) -> None:
        """The policy stands as it is after `step`: from here on it is drawn from as it stands."""

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """`progress` is called with the number of completions that are finished."""
