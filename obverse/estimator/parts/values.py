"""The critic: advantages from its values (GAE), and its own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Named, Part

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class GAE(Named):
    """Generalized advantage estimation: A_t = sum_k (gamma lam)^k delta_(t+k), delta_t = r_t + gamma V_(t+1) - V_t.

    r_t is the shaping reward of the token, plus the grader's reward at the last one. Advantages are whitened over the
    tokens of a step; the returns A + V, which the critic learns, are not. Source: 1506.02438 eq. 16.
    """

    gamma: float = 1.0
    lam: float = 1.0
    whitens: bool = True
    learning_rate: float = 1e-5  # of the critic
    needs: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"gamma and lam must be between 0 and 1, not {self.gamma} and {self.lam}")

    def __call__(self, inputs: PartInputs) -> tuple[Tensor, Tensor]:
        """The advantages before whitening and the returns of this micro batch's tokens; [T] each."""
        graded = inputs.samples.reward - inputs.sample_sum(inputs.tokens.reward)
        last = inputs.is_last()
        reward = inputs.tokens.reward + inputs.spread(graded).where(last, graded.new_zeros(()))
        rewards, indices = inputs.in_rows(reward)
        values, _ = inputs.in_rows(inputs.tokens.value)
        advantages = rewards.new_zeros(rewards.shape)
        carried = later = rewards.new_zeros(len(rewards))
        # rewards and values are 0 in the padding, so nothing is carried into a row from it
        for step in reversed(range(rewards.shape[1])):
            delta = rewards[:, step] + self.gamma * later - values[:, step]
            carried = delta + self.gamma * self.lam * carried
            advantages[:, step], later = carried, values[:, step]
        advantage = advantages[indices]
        return advantage, advantage + inputs.tokens.value


@dataclass(frozen=True)
class Written(Part):
    """A = the `advantage` column, computed by a critic; [T]. Source: PPO, 1707.06347 eq. 11."""

    needs: ClassVar[frozenset[str]] = frozenset({"advantage"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.tokens.advantage


@dataclass(frozen=True)
class Surprise(Part):
    """A = returns - V: minus the gradient of the critic's max((V - ret)^2, (clip(V, V_old +- clip) - ret)^2) / 2.

    0 where the clipped branch is the larger one and V has left its range; `clip` None is the plain square; [T].
    Source: PPO's value clipping as in 2005.12729 [mem], constants of verl.
    """

    clip: float | None = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"advantage"})  # with it come value and returns

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"a value clip must be above 0, not {self.clip:g}; None is no clip")

    def __call__(self, inputs: PartInputs) -> Tensor:
        value, old, returns = inputs.policy.value, inputs.tokens.value, inputs.tokens.returns
        error = returns - value
        if self.clip is None:
            return error
        clipped = value.maximum(old - self.clip).minimum(old + self.clip)
        return error.where(error**2 >= (returns - clipped) ** 2, error.new_zeros(()))
