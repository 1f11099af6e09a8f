"""KTO's z_0: the mean log-ratio of policy to initial model of responses behind the prompts of other samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from obverse.distributed.balance import balanced_shares
from obverse.estimator.parts import MismatchedKL
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.scoring import ScoringRequest
from obverse.models.policy import Policy
from obverse.training.learners import Learner
from obverse.training.metrics import Row
from obverse.training.prepared_update import PreparedUpdate
from obverse.types import Sample


def with_mismatched_kl(learner: Learner, update: PreparedUpdate) -> tuple[PreparedUpdate, Row]:
    """The update with z_0 of the policy as it is now as the samples' memory, and the figure `mismatched_kl`.

    Unchanged, without a figure, for a method that does not read it. All ranks call it together.
    """
    if not isinstance(learner.method.memory, MismatchedKL):
        return update, {}
    kl = estimate(learner, update.rows)
    samples = replace(update.samples, memory=torch.full_like(update.samples.reward, kl))
    return replace(update, samples=samples), {"mismatched_kl": kl}


def mismatched(rows: Sequence[Sample]) -> list[ScoringRequest]:
    """Response i - 1 behind prompt i, for every sample of an update in order; the last one behind the first prompt."""
    return [ScoringRequest(row.prompt, rows[i - 1].ids, rows[i - 1].sources) for i, row in enumerate(rows)]


def log_prob_sums(learner: Learner, policy: Policy, requests: Sequence[ScoringRequest]) -> list[float]:
    """The summed log-prob of each request under a model; each rank scores its share, and all have all."""
    group = learner.process_group
    shares = balanced_shares([len(request.prompt) + len(request.ids) for request in requests], group.size)
    scorer = PolicyScorer(policy, 1.0, learner.micro_batch_tokens, group)
    local = [sum(values) for values in scorer.score([requests[index] for index in shares[group.rank]])]
    sums = [0.0] * len(requests)
    for share, values in zip(shares, group.gather(local), strict=True):
        for index, value in zip(share, values, strict=True):
            sums[index] = value
    return sums


def estimate(learner: Learner, rows: Sequence[Sample]) -> float:
    """z_0 of an update of `rows` under the policy as it is now, at least 0; all ranks call it together."""
    anchor = learner.anchor
    if anchor is None:
        raise ValueError("the method reads the KL to its initial model, which the learner does not have")
    requests = mismatched(rows)
    policy_sums = log_prob_sums(learner, learner.policy, requests)
    anchor_sums = log_prob_sums(learner, anchor, requests)
    gaps = [first - second for first, second in zip(policy_sums, anchor_sums, strict=True)]
    return max(0.0, sum(gaps) / len(gaps))
