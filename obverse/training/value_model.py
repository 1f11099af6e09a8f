"""The value model: its estimates become the `advantage` column, and it is trained on the returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.columns import MissingColumn
from obverse.estimator.parts.values import GAE
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.models.batch import Micro
from obverse.models.policy import scalars
from obverse.training.optimizer import Optimizer

# As the variance's floor in the whitening of verl and TRL.
SMALLEST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Critic:
    """A model with a scalar head, and its own optimizer."""

    model: Any
    optimizer: Optimizer

    def values(self, micro: Micro) -> Tensor:
        """V of the state before each trained token; [T], with a graph."""
        return scalars(self.model, micro, after=False)


@torch.no_grad()
def fill_advantages(
    critic: Critic,
    gae: GAE,
    batches: Sequence[tuple[Samples, Sequence[Micro]]],
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> list[list[Micro]]:
    """The micro batches of each update with the columns `value`, `returns` and `advantage` filled in.

    `batches` are the updates of one rollout phase. Advantages are whitened over all rollout tokens of the phase, across
    updates, micro batches and ranks.
    """
    filled = [[_with_advantages(critic, gae, micro, samples) for micro in micros] for samples, micros in batches]
    if not gae.whitens:
        return filled
    of_micros = [micro.tokens.advantage for micros in filled for micro in micros if not micro.is_padding]
    of_rank = torch.cat(of_micros) if of_micros else batches[0][0].reward.new_zeros(0)
    advantages = torch.cat(process_group.gather_tensors(of_rank.double())).to(of_rank.dtype)
    mean, scale = advantages.mean(), (advantages.var(unbiased=False) + SMALLEST_VARIANCE).rsqrt()
    return [[_whitened(micro, mean, scale) for micro in micros] for micros in filled]


def _with_advantages(critic: Critic, gae: GAE, micro: Micro, samples: Samples) -> Micro:
    tokens = replace(micro.tokens, value=critic.values(micro))
    if isinstance(tokens.reward, MissingColumn):  # no shaping
        tokens = replace(tokens, reward=tokens.reward.new_zeros(tokens.reward.shape))
    advantage, returns = gae(_part_inputs(tokens, samples))
    return replace(micro, tokens=replace(tokens, advantage=advantage, returns=returns))


def _whitened(micro: Micro, mean: Tensor, scale: Tensor) -> Micro:
    return replace(micro, tokens=replace(micro.tokens, advantage=(micro.tokens.advantage - mean) * scale))


def _part_inputs(tokens: Tokens, samples: Samples) -> PartInputs:
    entropy: Any = MissingColumn("policy.entropy", tokens.behavior)
    return PartInputs(tokens, samples, PolicyOutputs(tokens.behavior, entropy))
