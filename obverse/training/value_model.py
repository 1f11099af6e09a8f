"""The value model: what it expects becomes the `advantage` column, and it learns from where it was wrong."""

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
    """The micro batches of a collection's updates with the columns value, returns and advantage written.

    Advantages are whitened over all own tokens of the collection, in whatever update, micro batch or rank.
    """
    written: list[list[Micro]] = []
    for samples, micros in batches:
        written.append([])
        for micro in micros:
            tokens = replace(micro.tokens, value=critic.values(micro))
            if isinstance(tokens.reward, MissingColumn):  # no shaping
                tokens = replace(tokens, reward=tokens.reward.new_zeros(tokens.reward.shape))
            advantage, returns = gae(_view(tokens, samples))
            written[-1].append(replace(micro, tokens=replace(tokens, advantage=advantage, returns=returns)))
    if not gae.whitens:
        return written
    mine = [micro.tokens.advantage for micros in written for micro in micros if not micro.is_padding]
    own = torch.cat(mine) if mine else batches[0][0].reward.new_zeros(0)
    everything = torch.cat(process_group.gather_tensors(own.double())).to(own.dtype)
    mean, scale = everything.mean(), (everything.var(unbiased=False) + SMALLEST_VARIANCE).rsqrt()
    return [[_whitened(micro, mean, scale) for micro in micros] for micros in written]


def _whitened(micro: Micro, mean: Tensor, scale: Tensor) -> Micro:
    return replace(micro, tokens=replace(micro.tokens, advantage=(micro.tokens.advantage - mean) * scale))


def _view(tokens: Tokens, samples: Samples) -> PartInputs:
    entropy: Any = MissingColumn("policy.entropy", tokens.behavior)
    return PartInputs(tokens, samples, PolicyOutputs(tokens.behavior, entropy))
