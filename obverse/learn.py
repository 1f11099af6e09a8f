"""One update: forward, the one loss line, backward, step - in micro batches that cannot change the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse.batch import Micro, Update
from obverse.estimator import loss
from obverse.method import Method
from obverse.metrics import Row
from obverse.model import Policy, logprobs
from obverse.optim import Optimizer
from obverse.records import Source
from obverse.view import Tokens
from obverse.watch import Watcher


@dataclass
class Tally:
    """Sums over the tokens of an update, by what they were."""

    loss: float = 0.0
    entropy: float = 0.0
    demonstration_logp: float = 0.0
    log_ratio: float = 0.0  # log pi_theta - log behavior of own tokens
    num_tokens: int = 0
    num_demonstration: int = 0
    num_rollout: int = 0

    def add(self, value: Tensor, micro: Micro, logp: Tensor, entropy: Tensor) -> None:
        source = micro.tokens.source
        shown, own = source == int(Source.DEMONSTRATION), source == int(Source.ROLLOUT)
        self.loss += float(value.detach())
        self.entropy += float(entropy.detach().sum())
        self.demonstration_logp += float(logp.detach()[shown].sum())
        self.log_ratio += float((logp.detach() - micro.tokens.behavior)[own].abs().sum())
        self.num_tokens += len(source)
        self.num_demonstration += int(shown.sum())
        self.num_rollout += int(own.sum())

    def row(self) -> Row:
        """`loss` is the surrogate; `nll` is the plain negative log-likelihood of demonstrations, for all methods."""
        row = {"loss": self.loss, "entropy": self.entropy / max(self.num_tokens, 1)}
        if self.num_demonstration:
            row["nll"] = -self.demonstration_logp / self.num_demonstration
        if self.num_rollout:
            row["sampler_gap"] = self.log_ratio / self.num_rollout
        return row


@dataclass(frozen=True)
class Learner:
    """What an update needs: the policy, the frozen initial model where a part reads it, the method, the optimizer."""

    policy: Policy
    anchor: Policy | None
    method: Method
    optimizer: Optimizer
    micro_batch_tokens: int


def learn(learner: Learner, update: Update | None, progress: float, watcher: Watcher) -> Row:
    """One optimizer step on `update`; the step's figures. An update of None (nothing kept) only lets time pass."""
    policy, method, optimizer = learner.policy, learner.method, learner.optimizer
    learning_rate = optimizer.learning_rate
    if update is None:
        optimizer.pass_by()
        return {"learning_rate": learning_rate, "step_taken": 0.0}
    tally, num_done = Tally(), 0
    entropy_graph = any(term.on == "entropy" for term in method.terms)
    samples = update.samples.to(policy.device)
    for micro in update.micros(learner.micro_batch_tokens):
        micro = micro.to(policy.device)
        logp, entropy = logprobs(policy, micro, entropy_graph)
        tokens = annotate(micro, logp.detach(), learner.anchor, method)
        value = loss(tokens, samples, logp, entropy, method.terms, progress)
        value.backward()
        tally.add(value, micro, logp, entropy)
        num_done += len(micro.input_ids)
        watcher.phase("train", num_done, len(update.rows))
    result = optimizer.step()
    figures = {"grad_norm": result.grad_norm, "learning_rate": learning_rate, "step_taken": float(result.taken)}
    return tally.row() | figures


def annotate(micro: Micro, logp: Tensor, anchor: Policy | None, method: Method) -> Tokens:
    """The micro batch's token columns with what the method's parts read beyond the sampler's: [T] each.

    The policy has not moved since it sampled, so its own log-prob *is* the behavior of tokens that others wrote.
    """
    tokens = micro.tokens
    foreign = [source for source in method.sources if source is not Source.ROLLOUT]
    if any(method.needs("behavior", source) for source in foreign):
        own = tokens.source == int(Source.ROLLOUT)
        tokens = replace(tokens, behavior=torch.where(own, tokens.behavior, logp))
    if anchor is not None and method.needs("anchor"):
        with torch.no_grad():
            tokens = replace(tokens, anchor=logprobs(anchor, micro)[0])
    return tokens
