"""One update: forward, the one loss line, backward, step - in micro batches that cannot change the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse.batch import Micro, Update
from obverse.estimator import loss, masked
from obverse.method import Method
from obverse.metrics import Row
from obverse.model import Policy, logprobs
from obverse.optim import Optimizer
from obverse.records import Source
from obverse.view import Live, Samples, Tokens, View
from obverse.watch import Watcher


@dataclass
class Tally:
    """Sums over the tokens of an update, by what they were."""

    loss: float = 0.0
    entropy: float = 0.0
    demonstration_logp: float = 0.0
    log_ratio: float = 0.0  # |log pi_theta - log behavior| of own tokens
    num_masked: float = 0.0
    num_tokens: int = 0
    num_demonstration: int = 0
    num_rollout: int = 0

    def add(self, value: Tensor, view: View, out: Tensor) -> None:
        """Add a micro batch: its loss, what the policy says of it, and which tokens the stability mask shut out [T]."""
        tokens, live = view.tokens, view.live
        shown, own = tokens.source == int(Source.DEMONSTRATION), tokens.source == int(Source.ROLLOUT)
        self.loss += float(value.detach())
        self.entropy += float(live.entropy.sum())
        self.demonstration_logp += float(live.logp[shown].sum())
        self.log_ratio += float((live.logp - tokens.behavior)[own].abs().sum())
        self.num_masked += float(out.sum())
        self.num_tokens += len(tokens)
        self.num_demonstration += int(shown.sum())
        self.num_rollout += int(own.sum())

    def row(self) -> Row:
        """`loss` is the surrogate; `nll` is the plain negative log-likelihood of demonstrations, for all methods."""
        num_tokens = max(self.num_tokens, 1)
        row = {"loss": self.loss, "entropy": self.entropy / num_tokens, "clip_ratio": self.num_masked / num_tokens}
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


@dataclass(frozen=True)
class Lesson:
    """An update ready to be learned from: its micro batches on the policy's device.

    `is_frozen` says that the token columns hold the numbers of the policy that sampled, because it will have moved
    before the lesson is over.
    """

    samples: Samples
    micros: list[Micro]
    num_rows: int
    is_frozen: bool


def lesson(learner: Learner, update: Update, is_repeated: bool) -> Lesson:
    """Split `update` into micro batches; for a lesson that is repeated, fill in now what the moving policy forgets."""
    policy = learner.policy
    micros = [micro.to(policy.device) for micro in update.micros(learner.micro_batch_tokens)]
    if is_repeated:
        micros = [replace(micro, tokens=annotate(micro, None, learner)) for micro in micros]
    return Lesson(update.samples.to(policy.device), micros, len(update.rows), is_repeated)


def learn(learner: Learner, current: Lesson, progress: float, watcher: Watcher) -> Row:
    """One optimizer step on a lesson; the step's figures."""
    policy, method, optimizer = learner.policy, learner.method, learner.optimizer
    learning_rate = optimizer.learning_rate
    tally, num_done = Tally(), 0
    entropy_graph = any(term.on == "entropy" for term in method.terms)
    for micro in current.micros:
        logp, entropy = logprobs(policy, micro, entropy_graph)
        tokens = micro.tokens if current.is_frozen else annotate(micro, logp.detach(), learner)
        value = loss(tokens, current.samples, logp, entropy, method.terms, progress)
        value.backward()
        view = View(tokens, current.samples, Live(logp.detach(), entropy.detach()), progress)
        tally.add(value, view, masked(view, method.terms))
        num_done += len(micro.input_ids)
        watcher.phase("train", num_done, current.num_rows)
    result = optimizer.step()
    figures = {"grad_norm": result.grad_norm, "learning_rate": learning_rate, "step_taken": float(result.taken)}
    return tally.row() | figures


def idle(learner: Learner) -> Row:
    """A step with nothing to learn from: time passes, the weights stay."""
    learning_rate = learner.optimizer.learning_rate
    learner.optimizer.pass_by()
    return {"learning_rate": learning_rate, "step_taken": 0.0}


def annotate(micro: Micro, logp: Tensor | None, learner: Learner) -> Tokens:
    """The micro batch's token columns with what the method's parts read beyond the sampler's: [T] each.

    While the policy has not moved since it sampled, its own log-prob *is* the behavior of tokens that others wrote;
    `logp` is that log-prob where a forward pass was just made, None asks for one.
    """
    tokens, method, anchor = micro.tokens, learner.method, learner.anchor
    foreign = [source for source in method.sources if source is not Source.ROLLOUT]
    with torch.no_grad():
        if any(method.needs("behavior", source) for source in foreign):
            own = tokens.source == int(Source.ROLLOUT)
            now = logprobs(learner.policy, micro)[0] if logp is None else logp
            tokens = replace(tokens, behavior=torch.where(own, tokens.behavior, now))
        if anchor is not None and method.needs("anchor"):
            tokens = replace(tokens, anchor=logprobs(anchor, micro)[0])
    return tokens
