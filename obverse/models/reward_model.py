"""A trained reward model: its score of prompt and response is the reward of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.models.rope_frequencies import frequency_switches
from obverse.types import Problem, Sample


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier with one label, as `obverse train reward_model` and TRL write it."""

    model: Any
    renderer: Renderer  # with the reward model's own tokenizer
    same_tokens: bool  # as the policy's: then the sampled ids are scored as they are
    batch_tokens: int
    num_positions: int | None = None  # the longest text, in tokens; None without a limit
    unused_weights: str | None = None  # a message about weights in the files that the model does not use

    @torch.inference_mode()
    def score(self, samples: Sequence[tuple[Problem, Sample]]) -> list[float]:
        """The score of every sample, at its last token, in order.

        Raises ConfigError for a text longer than the model's positions.
        """
        switches, limit = frequency_switches(self.model.config)
        texts = [self.ids(problem, sample) for problem, sample in samples]
        bound = min((bound for bound in (self.num_positions, limit) if bound is not None), default=None)
        if bound is not None and (longest := max(map(len, texts), default=0)) > bound:
            raise ConfigError(
                f"the reward model has {bound:,} positions and is to score a text of {longest:,} tokens: "
                "lower --max_completion_length"
            )
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = [0.0] * len(texts)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and len(texts[order[end]]) * (end + 1 - start) <= self.batch_tokens:
                if any(len(texts[order[start]]) <= switch < len(texts[order[end]]) for switch in switches):
                    break  # a longer row has different rotary frequencies
                end += 1
            members = order[start:end]
            for index, score in zip(members, self._batch([texts[i] for i in members]), strict=True):
                scores[index] = score
            start = end
        return scores

    def ids(self, problem: Problem, sample: Sample) -> list[int]:
        """Prompt and response in the token ids of the reward model's tokenizer."""
        if self.same_tokens:
            return list(sample.model_input.token_ids)
        response = self.renderer.response(problem, (sample.text,)).ids
        return list(self.renderer.prompt(problem).extended(response).token_ids)

    def _batch(self, texts: Sequence[list[int]]) -> list[float]:
        width, device = max(map(len, texts)), self.model.device
        # right padding: causal attention never sees it
        input_ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        last = torch.tensor([len(text) - 1 for text in texts], device=device)
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        scores: Tensor = self.model.score(hidden[torch.arange(len(texts), device=device), last])
        numbers: list[float] = scores.float()[:, 0].tolist()
        return numbers
