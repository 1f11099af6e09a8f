"""What an update is worth knowing: sums over its micro batches, and the row of figures that they make."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.formula import Term
from obverse.estimator.tables import LOG_RATIO_LIMIT, PartInputs
from obverse.training.metrics import Row
from obverse.training.train_inference_kl import divergence
from obverse.types import Source


@dataclass
class UpdateMetrics:
    """Sums over the tokens of an update, by what they were."""

    loss: float = 0.0
    entropy: float = 0.0
    demonstration_logp: float = 0.0
    log_ratio: float = 0.0  # |log pi_theta - log pi_sampler| of own tokens
    mismatch: float = 0.0  # KL(sampler || trainer) of own tokens, where nothing has moved since they were drawn
    num_compared: int = 0  # tokens that it was taken over
    num_masked: float = 0.0
    num_tokens: int = 0
    num_demonstration: int = 0
    num_rollout: int = 0
    margin: float = 0.0  # by how much a method that compares pairs prefers the chosen one
    num_preferred: int = 0
    num_pairs: int = 0
    error: float = 0.0  # squared, of a critic
    num_valued: int = 0
    farthest: float = 0.0  # the largest log-ratio of trainer to sampler, where `mismatch` is measured

    def add(self, value: Tensor, inputs: PartInputs, out: Tensor) -> None:
        """Add a micro batch: its loss, what the policy says of it, and which tokens the stability mask shut out [T]."""
        tokens, policy = inputs.tokens, inputs.policy
        shown, own = tokens.source == int(Source.DEMONSTRATION), tokens.source == int(Source.ROLLOUT)
        self.loss += float(value.detach())
        self.entropy += float(policy.entropy.sum())
        self.demonstration_logp += float(policy.logp[shown].sum())
        self.log_ratio += float((policy.logp - tokens.sampler)[own].abs().sum())
        self.num_masked += float(out.sum())
        self.num_tokens += len(tokens)
        self.num_demonstration += int(shown.sum())
        self.num_rollout += int(own.sum())

    def agree(self, inputs: PartInputs, trained: Tensor) -> None:
        """Add what a micro batch says of sampler and trainer: `trained` [T] has the trainer's log-probs of the law."""
        own = inputs.tokens.source == int(Source.ROLLOUT)
        self.mismatch += float(divergence(trained, inputs.tokens.sampler)[own].sum())
        self.num_compared += int(own.sum())
        if bool(own.any()):
            self.farthest = max(self.farthest, float((trained - inputs.tokens.sampler)[own].max()))

    def compare(self, inputs: PartInputs, terms: Iterable[Term]) -> None:
        """Add what a scalar head or a comparison of pairs says of a micro batch."""
        terms = tuple(terms)
        if any(term.on == "value" for term in terms):
            self.error += float(((inputs.policy.value - inputs.tokens.returns) ** 2).sum())
            self.num_valued += len(inputs.tokens)
        comparing = [term.advantage for term in terms if hasattr(term.advantage, "margins")]
        if comparing:  # every term of such a method compares the same pairs
            margins = comparing[0].margins(inputs.visible_to(comparing[0]))
            self.margin += float(margins.sum())
            self.num_preferred += int((margins > 0).sum())
            self.num_pairs += len(margins)

    def pooled(self, process_group: ProcessGroup) -> UpdateMetrics:
        """The sums over all ranks, and the largest of what is a maximum."""
        total = process_group.sum(torch.tensor(astuple(self), dtype=torch.float64)).tolist()
        made = UpdateMetrics(*(type(own)(value) for own, value in zip(astuple(self), total, strict=True)))
        return replace(made, farthest=max(process_group.gather(self.farthest)))

    def row(self) -> Row:
        """`loss` is the surrogate; `nll` is the plain negative log-likelihood of demonstrations, for all methods."""
        num_tokens = max(self.num_tokens, 1)
        row = {"loss": self.loss, "entropy": self.entropy / num_tokens, "clip_ratio": self.num_masked / num_tokens}
        if self.num_demonstration:
            row["nll"] = -self.demonstration_logp / self.num_demonstration
        if self.num_rollout:
            row["sampler_gap"] = self.log_ratio / self.num_rollout
        if self.num_compared:
            row["mismatch_kl"] = self.mismatch / self.num_compared
            row["mismatch_ratio"] = math.exp(min(self.farthest, LOG_RATIO_LIMIT))
        if self.num_pairs:
            row["rewards/margins"] = self.margin / self.num_pairs
            row["rewards/accuracies"] = self.num_preferred / self.num_pairs
        if self.num_valued:
            row["critic/error"] = self.error / self.num_valued
        return row
