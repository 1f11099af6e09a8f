"""KTO's z_0: the mean log-ratio of policy to initial model of responses behind the prompts of other samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from obverse.distributed.balance import balanced_shares
from obverse.errors import ConfigError
from obverse.estimator.parts import MismatchedKL
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.scoring import ScoringRequest
from obverse.models.policy import Policy
from obverse.training.learners import Learner
from obverse.training.metrics import Row
from obverse.training.prepared_update import PreparedUpdate
from obverse.types import ModelInput, Sample


def with_mismatched_kl(learner: Learner, update: PreparedUpdate) -> tuple[PreparedUpdate, Row]:
    """The update with z_0 of the policy as it is now as the samples' memory, and the figure `mismatched_kl`.

    Unchanged, without a figure, for a method that does not read it. All ranks call it together.
    """
    if not isinstance(learner.method.memory, MismatchedKL):
        return update, {}
    kl = estimate(learner, update.rows)
    samples = replace(update.samples, memory=torch.full_like(update.samples.reward, kl))
    return replace(update, samples=samples), {"mismatched_kl": kl}


def scoring_cost(learner: Learner, num_trained: int) -> tuple[int, float]:
    """Tokens and operations of the estimates of a step that trained `num_trained` tokens, zeros for other methods.

    Policy and initial model read as many response tokens as are trained; 2 operations per parameter and token.
    """
    if learner.anchor is None or not isinstance(learner.method.memory, MismatchedKL):
        return 0, 0.0
    num_parameters = learner.policy.num_parameters + learner.anchor.num_parameters
    return 2 * num_trained, 2.0 * num_parameters * num_trained


def mismatched(rows: Sequence[Sample]) -> list[ScoringRequest]:
    """For every sample of an update a response that belongs to another prompt, behind the sample's own prompt.

    It is that of the sample before, and the last one for the first sample. Of samples with equal prompts, as the two of
    a pair, all first ones come before all second ones, as in TRL, which lists the chosen responses of pairs before the
    rejected ones; a sample before that has the same prompt is passed over. Raises ConfigError if all prompts are equal.
    """
    if all(row.prompt == rows[0].prompt for row in rows):
        raise ConfigError(
            "the estimate of the KL reads each response behind another row's prompt, and an update of one prompt has "
            "none: raise --prompts_per_step, lower --num_mini_batches, or give a --loss without the estimate"
        )
    num_seen: Counter[ModelInput] = Counter()
    occurrences: list[int] = []
    for row in rows:
        occurrences.append(num_seen[row.prompt])
        num_seen[row.prompt] += 1
    order = sorted(range(len(rows)), key=occurrences.__getitem__)
    requests = []
    for position, index in enumerate(order):
        previous = (rows[order[position - distance]] for distance in range(1, len(rows)))
        response = next(row for row in previous if row.prompt != rows[index].prompt)
        requests.append(ScoringRequest(rows[index].prompt, response.ids, response.sources))
    return requests


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
