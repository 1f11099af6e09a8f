"""Scores given tokens with a language model of this process: no sampling, no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.inference.scoring import ScoringRequest
from obverse.models.batch import Micro, Update, pack
from obverse.models.logit_chunks import wide_type
from obverse.models.policy import Policy, logprobs
from obverse.types import ModelInput, Sample, Source

# A pass for ranks that have fewer micro batches than the others under FSDP; its scores are dropped.
PADDING = ScoringRequest(ModelInput((0,)), (0,), (Source.ROLLOUT,))


@dataclass(frozen=True)
class PolicyScorer:
    """A `TokenScorer` of a `Policy`.

    Requests with equal prompts share one forward pass of the prompt where the model can continue from a cache, and the
    head computes log-probs in chunks. Of a model sharded by FSDP all ranks run equally many forward passes. An id
    beyond the model's vocabulary, which another model's padded head may sample, has a log-prob of -inf.
    """

    policy: Policy
    temperature: float  # of rollout tokens
    micro_batch_tokens: int
    process_group: ProcessGroup = SINGLE_PROCESS

    @property
    def num_parameters(self) -> int:
        """Parameters of the model with its adapter."""
        return self.policy.num_parameters

    @torch.no_grad()
    def score(
        self, requests: Sequence[ScoringRequest], progress: Callable[[int], None] | None = None
    ) -> list[list[float]]:
        """The log-prob of each id of each request, in order (see `TokenScorer`)."""
        size = self.policy.model.config.get_text_config().vocab_size
        return [
            [value if token < size else -math.inf for token, value in zip(request.ids, values, strict=True)]
            for request, values in zip(requests, self._outputs(requests, 0, progress), strict=True)
        ]

    @torch.no_grad()
    def entropies(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """The entropy of the policy's distribution at each id of each request, in nats."""
        return self._outputs(requests, 1, None)

    def _outputs(
        self, requests: Sequence[ScoringRequest], number_of_output: int, progress: Callable[[int], None] | None
    ) -> list[list[float]]:
        """The log-probs (output 0) or entropies (output 1) of the ids of each request."""
        outputs = [[0.0] * len(request.ids) for request in requests]
        micros = self._micros(requests)
        num_real = len(micros)
        if is_sharded(self.policy.model):
            num_passes = max(self.process_group.gather(num_real))
            micros += [*self._update([PADDING]).micros(self.micro_batch_tokens)] * (num_passes - num_real)
        reader, num_scored = self.policy.prompt_reader(), 0
        for number, micro in enumerate(micros):
            streams = logprobs(self.policy, micro.to(self.policy.device), reader=reader)
            values = streams[number_of_output].tolist()
            if number >= num_real:
                continue
            members, positions = micro.tokens.sample.tolist(), micro.tokens.position.tolist()
            for member, position, value in zip(members, positions, values, strict=True):
                outputs[member][position] = value
            num_scored += len(set(members))
            if progress is not None:
                progress(num_scored)
        return outputs

    def _micros(self, requests: Sequence[ScoringRequest]) -> list[Micro]:
        """The requests as micro batches; their column `sample` has the index of the request."""
        filled = {index for index, request in enumerate(requests) if request.ids}
        if not filled:
            return []
        shares = self.policy.shares and len({request.prompt for request in requests}) < len(requests)
        update = self._update(requests)
        return [
            *update.micros(self.micro_batch_tokens, shared=shares, needed=filled, pads_prompts=self.policy.pads_prompts)
        ]

    def _update(self, requests: Sequence[ScoringRequest]) -> Update:
        """The requests as samples of an update that trains every token."""
        size = self.policy.model.config.get_text_config().vocab_size
        samples = [
            Sample(
                kind="rollout",
                prompt=request.prompt,
                ids=[token if token < size else 0 for token in request.ids],
                sources=[*request.sources],
                behavior=[0.0] * len(request.ids),
                text="",
            )
            for request in requests
        ]
        update = pack(
            [[sample] for sample in samples],
            frozenset(Source),
            self.temperature,
            dtype=wide_type(self.policy.model.dtype),
        )
        assert update is not None
        return update
