"""The distribution that a method's divergence compares the policy with, at the trained tokens of a micro batch."""

from __future__ import annotations

from obverse.models.batch import Micro
from obverse.models.fused_divergence import Comparison
from obverse.models.policy import target_of
from obverse.training.learners import Learner
from obverse.training.prepared_update import PromptReaders


def comparison_of(learner: Learner, micro: Micro, readers: PromptReaders) -> Comparison | None:
    """The target's states at the tokens of `micro`, without a gradient; None for a method without a divergence.

    It is a forward pass of the target, which all ranks make for every micro batch. The anchor reads the micro batch
    itself. A teacher reads the same tokens behind its own prompts, with its current weights: a live policy has moved
    since an earlier update on the same rollouts.
    """
    divergence = learner.method.divergence
    if divergence is None:
        return None
    if divergence.target == "anchor":
        policy, read, reader = learner.anchor, micro, readers.anchor
    else:
        assert micro.teacher is not None, "prepare_update adds the teacher's batch to every micro batch"
        policy, read, reader = learner.teacher, micro.teacher, None
    if policy is None:
        raise ValueError(f"the method's divergence reads its {divergence.target}, which the learner does not have")
    return Comparison(divergence, target_of(policy, read, reader), micro.target, micro.temperature)
