"""What the terms of a method multiply by coefficients: the outputs of the models for a micro batch, with graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from obverse.estimator.columns import MissingColumn
from obverse.estimator.formula import KnownGradients
from obverse.estimator.tables import PolicyOutputs
from obverse.models.batch import Micro
from obverse.models.fused_divergence import Comparison
from obverse.models.policy import compared_logprobs, logprobs, mixed_embeddings, scalars
from obverse.models.shared_prefix import SharedPrefix
from obverse.training.learners import Learner


class Streams(NamedTuple):
    """What terms multiply by coefficients at the trained tokens, with graphs; [T] each.

    `value` is unfilled without a scalar head, `divergence` None without a target.
    """

    logp: Tensor
    entropy: Tensor
    value: Tensor
    divergence: Tensor | None = None

    def detached(self) -> PolicyOutputs:
        """The outputs that parts read."""
        return PolicyOutputs(self.logp.detach(), self.entropy.detach(), self.value.detach())


def forward(
    learner: Learner,
    micro: Micro,
    reader: SharedPrefix | None = None,
    known: KnownGradients | None = None,
    comparison: Comparison | None = None,
) -> Streams:
    """The outputs of the models for a micro batch, with graphs.

    `known` are the loss's gradients, where they are known before the outputs are computed. `comparison` has the target
    of the method's divergence; without it no divergence is computed.
    """
    method, policy = learner.method, learner.policy
    logp = entropy = micro.tokens.behavior.new_zeros(len(micro.tokens))
    value: Any = MissingColumn("policy.value", logp)
    divergence, has_bonus = None, "entropy" in method.streams
    if method.trains_policy and comparison is not None:
        logp, entropy, divergence = compared_logprobs(policy, micro, comparison, has_bonus, reader, known)
    elif method.trains_policy:
        embeddings = None
        if method.inputs is not None and learner.table is not None:
            embeddings = mixed_embeddings(policy, micro, method.inputs, learner.table)
        logp, entropy = logprobs(policy, micro, has_bonus, embeddings, reader, known and known.logp)
    if "value" in method.streams and learner.critic is not None:
        value = learner.critic.values(micro)
    if "score" in method.streams:
        value = scalars(policy.model, micro, after=True)
    return Streams(logp, entropy, value, divergence)
