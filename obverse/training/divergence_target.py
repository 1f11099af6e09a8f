"""The distribution that a method's divergence compares the policy with, at the trained tokens of a micro batch."""

from __future__ import annotations

from obverse.estimator.divergence import Divergence
from obverse.models.batch import Micro
from obverse.models.fused_divergence import Comparison
from obverse.models.policy import Policy, target_of
from obverse.training.learners import Learner
from obverse.training.prepared_update import PromptReaders


def comparison_of(learner: Learner, micro: Micro, readers: PromptReaders) -> Comparison | None:
    """The target's states at the tokens of `micro`, without a gradient; None for a method without a divergence.

    It is a forward pass of the target, which all ranks make for every micro batch. The anchor reads the micro batch
    itself. A teacher reads the same responses behind its own prompts, with the weights that it has now: those of the
    policy itself have moved since an earlier update of the same rollouts.
    """
    divergence = learner.method.divergence
    if divergence is None:
        return None
    if divergence.target == "anchor":
        target = target_of(target_policy(learner, divergence), micro, readers.anchor)
    else:
        raise NotImplementedError
    return Comparison(divergence, target, micro.target, micro.temperature)


def target_policy(learner: Learner, divergence: Divergence) -> Policy:
    """The model that the divergence's target is."""
    policy = learner.anchor if divergence.target == "anchor" else None
    if policy is None:
        raise ValueError(f"the method's divergence reads the {divergence.target}, which the learner does not have")
    return policy
