"""The divergence of the policy's distribution from a target's over the vocabulary, by chunks, with explicit gradients.

With the target's distribution q, the policy's p = softmax(z) and m = beta q + (1 - beta) p, the gradient by z is

    forward KL, beta 0   p - q
    reverse KL, beta 1   p (log p/q - D)
    between              (1 - beta) p (log p/m - KL(p || m))

Top-k forms have the k tokens, and with a tail one category for all others, in place of the vocabulary; the tail's
gradient is divided among its tokens in proportion to p. Policy and target of unequal padded vocabularies are compared
over the ids that both have, each renormalised over these.

A log-prob counts as at least `FLOOR` below that of the most probable token, so that a reverse KL is finite where the
target has a probability of 0 (it is then at most 10,000 nats), and so is every gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from obverse.estimator.divergence import Divergence
from obverse.models.logit_chunks import Distribution, cool, write_product

FLOOR = -1e4  # nats; float32 logits of a language model span a few hundred


class Target(NamedTuple):
    """The target at each trained token of a micro batch, without a gradient: its states [T, H] and its head."""

    states: Tensor
    head: Callable[[Tensor], Tensor]  # states [n, H] -> logits [n, V]
    matrix: Tensor | None = None  # [V, H], if the head is one matrix; then `head` is not called


@dataclass(frozen=True)
class Comparison:
    """What is compared at the trained tokens: the target, the form of the divergence, observed tokens, temperatures."""

    divergence: Divergence
    target: Target
    observed: Tensor  # [T]
    temperature: Tensor  # [T], by which the target's logits are divided too

    def num_buffers(self, device: torch.device) -> int:
        """The number of chunks of logits in memory, relative to those without a comparison."""
        has_mixture = self.divergence.beta not in (0, 1)
        return 3 if has_mixture and device.type != "cpu" else 2

    def open(self, logits: Tensor, num_rows: int) -> OpenComparison:
        """The comparison with buffers for a pass over the policy's logits: chunks as `logits`, blocks of `num_rows`."""
        return OpenComparison(self, logits, num_rows)


class OpenComparison:
    """Compares the policy's distributions with the target's, one chunk at a time; the buffers are reused.

    Call `read` for a chunk, then for some of its rows `value`, then `slope` if the gradient is needed.
    """

    def __init__(self, comparison: Comparison, logits: Tensor, num_rows: int) -> None:
        self.divergence, self.target = comparison.divergence, comparison.target
        self.observed, self.temperature = comparison.observed, comparison.temperature
        self.logits, self.num_rows = logits, num_rows
        states, matrix = self.target.states, self.target.matrix
        self.matrix = None if matrix is None else matrix.detach().to(states.dtype)
        self.buffers: list[Tensor] = []  # the target's logits of a chunk, its exponentials, the mixture's log-probs
        self.start = 0

    def read(self, part: slice) -> None:
        """Compute the target's logits of the tokens `part`."""
        self.start, states = part.start, self.target.states[part]
        if self.matrix is None:
            logits = self.target.head(states)
            rows = self._buffer(0, len(self.logits), logits.shape[1])[: len(states)]
            rows.copy_(logits)
        else:
            rows = self._buffer(0, len(self.logits), len(self.matrix))[: len(states)]
            write_product(states, self.matrix, out=rows)
        cool(rows, self.temperature[part])

    def _buffer(self, index: int, num_rows: int, width: int) -> Tensor:
        """A buffer [num_rows, width] that is allocated at its first use."""
        if index == len(self.buffers):
            self.buffers.append(self.logits.new_empty(num_rows, width))
        return self.buffers[index]

    def value(self, rows: slice, policy: Distribution) -> Tensor:
        """D at the tokens `rows`, with the policy's distribution `policy`; [n]."""
        num = rows.stop - rows.start
        logits = self.buffers[0][rows.start - self.start :][:num]
        common = min(logits.shape[1], policy.logits.shape[1])
        weights = self._buffer(1, self.num_rows, logits.shape[1])[:num, :common]
        target = self._built(logits[:, :common], weights, self.observed[rows])
        policy = policy.among_first(common)
        for distribution in (policy, target):
            distribution.logits.clamp_(min=FLOOR)
        form, top_k = self.divergence, self.divergence.top_k
        self.block: WholeBlock | TopBlock
        if top_k is not None and top_k < common:
            self.block = TopBlock(policy, target, form, top_k)
        else:
            spare = target.weights if form.beta in (0, 1) else self._buffer(2, self.num_rows, common)[:num]
            self.block = WholeBlock(policy, target, form.beta, spare)
        return self.block.value

    def slope(self, by_value: Tensor) -> Tensor:
        """The gradient by the policy's logits over the common ids, for the gradient `by_value` [n] by D; [n, W]."""
        return self.block.slope(by_value.to(self.block.value.dtype))

    def _built(self, logits: Tensor, weights: Tensor, observed: Tensor) -> Distribution:
        """The target's distribution, mixed with the uniform one and tilted towards the observed tokens."""
        form, width = self.divergence, logits.shape[1]
        if form.smooth:
            plain = Distribution(logits, weights)
            torch.mul(weights, ((1 - form.smooth) / plain.total)[:, None], out=logits)
            logits.add_(form.smooth / width).log_()
        if form.tilt:
            tilt = torch.where(observed < width, form.tilt, 0.0).to(logits.dtype)
            logits.scatter_add_(-1, observed.clamp(max=width - 1)[:, None], tilt[:, None])
        return Distribution(logits, weights)


class WholeBlock:
    """D over the whole vocabulary for some rows; the target's logits are overwritten. `value` is [n]."""

    def __init__(self, policy: Distribution, target: Distribution, beta: float, spare: Tensor) -> None:
        self.policy, self.target, self.beta = policy, target, beta
        self.ratio = target.logits  # becomes log p/q or log p/m, but for a constant per row
        log_totals = policy.total.log(), target.total.log()
        if beta == 0:
            self.value = target.mean_of(self.ratio.sub_(policy.logits)) + log_totals[0] - log_totals[1]
        elif beta == 1:
            torch.sub(policy.logits, target.logits, out=self.ratio)
            self.mean = policy.mean_of(self.ratio)
            self.value = self.mean - log_totals[0] + log_totals[1]
        else:
            torch.mul(target.weights, (beta / target.total)[:, None], out=spare)
            spare.addcmul_(policy.weights, ((1 - beta) / policy.total)[:, None])
            log_mixture = spare.clamp_(min=torch.finfo(spare.dtype).tiny).log_()
            of_target = target.mean_of(self.ratio.sub_(log_mixture)) - log_totals[1]
            torch.sub(policy.logits, log_mixture, out=self.ratio)
            self.mean = policy.mean_of(self.ratio)
            self.value = beta * of_target + (1 - beta) * (self.mean - log_totals[0])

    def slope(self, by_value: Tensor) -> Tensor:
        """The gradient by the policy's logits, in the buffer of the target's; [n, V]."""
        policy, target = self.policy, self.target
        if self.beta == 0:
            torch.mul(policy.weights, (by_value / policy.total)[:, None], out=self.ratio)
            return self.ratio.addcmul_(target.weights, (-by_value / target.total)[:, None])
        scale = by_value * (1.0 if self.beta == 1 else 1 - self.beta) / policy.total
        return self.ratio.sub_(self.mean[:, None]).mul_(policy.weights).mul_(scale[:, None])


class TopBlock:
    """D over the k most probable tokens, with or without a tail, for some rows. `value` is [n]."""

    def __init__(self, policy: Distribution, target: Distribution, form: Divergence, top_k: int) -> None:
        chosen = policy if form.top_k_of == "policy" else target
        self.policy, self.buffer, self.tail = policy, target.logits, form.tail
        self.tokens = chosen.logits.topk(top_k, dim=-1).indices  # [n, k]
        categories = [distribution.logits.gather(-1, self.tokens) for distribution in (policy, target)]
        if form.tail:
            self.log_rest = log_sum_of_others(policy, self.tokens)
            rests = self.log_rest, log_sum_of_others(target, self.tokens)
            categories = [torch.cat([top, rest[:, None]], -1) for top, rest in zip(categories, rests, strict=True)]
        log_p, log_q = (logits.log_softmax(-1).clamp(min=FLOOR) for logits in categories)
        self.value, self.by_category = category_divergence(log_p, log_q, form.beta)

    def slope(self, by_value: Tensor) -> Tensor:
        """The gradient by the policy's logits, in the buffer of the target's; [n, V]."""
        by_category = self.by_category * by_value[:, None]
        if self.tail:
            torch.sub(self.policy.logits, self.log_rest[:, None], out=self.buffer).exp_()
            self.buffer.mul_(by_category[:, -1:])
            by_category = by_category[:, :-1]
        else:
            self.buffer.zero_()
        return self.buffer.scatter_(-1, self.tokens, by_category)


def log_sum_of_others(distribution: Distribution, tokens: Tensor) -> Tensor:
    """The log of the sum of exponentiated logits of all tokens but `tokens` [n, k]; [n], at least `FLOOR`."""
    top = distribution.logits.gather(-1, tokens)
    total = distribution.weights.scatter(-1, tokens, 0.0).sum(-1).log()
    if bool(total.isinf().any()):  # the exponentials underflow, their logarithms do not
        total = distribution.logits.scatter_(-1, tokens, -math.inf).logsumexp(-1)
        distribution.logits.scatter_(-1, tokens, top)
    return total.clamp(min=FLOOR)


def category_divergence(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """D [n] of categories with log-probs [n, C], and its gradient by the logits of p; [n, C]."""
    p, q = log_p.exp(), log_q.exp()
    if beta == 0:
        return (q * (log_q - log_p)).sum(-1), p - q
    log_m = log_q
    if beta != 1:
        log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    ratio = log_p - log_m
    of_policy = (p * ratio).sum(-1)
    scale = 1.0 if beta == 1 else 1 - beta
    value = scale * of_policy + (beta * (q * (log_q - log_m)).sum(-1) if beta != 1 else 0.0)
    return value, scale * p * (ratio - of_policy[:, None])


class LogitDivergence(torch.autograd.Function):
    """D [n] from the policy's logits [n, V], already divided by the temperature, of the tokens `part`.

    For heads that are not one matrix; the gradient by the logits is stored until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, comparison: Comparison, part: slice) -> Tensor:
        policy = Distribution(logits.clone(), torch.empty_like(logits))
        open_comparison = comparison.open(policy.logits, len(logits))
        open_comparison.read(part)
        value = open_comparison.value(part, policy)
        slope = open_comparison.slope(torch.ones_like(value))
        gradient = policy.logits.zero_()
        gradient[:, : slope.shape[1]] = slope
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0][:, None], None, None
