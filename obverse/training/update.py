"""One update: per micro batch a forward pass, the loss and a backward pass; then one optimizer step.

How an update is split into micro batches does not change its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.formula import Term, known_gradients, loss, masked
from obverse.estimator.tables import PartInputs, Samples, Tokens
from obverse.models.batch import Micro
from obverse.runtime.callbacks import Watcher
from obverse.training.divergence_target import comparison_of
from obverse.training.learners import Learner
from obverse.training.metrics import Row, UpdateMetrics
from obverse.training.mismatched_kl import with_mismatched_kl
from obverse.training.optimizer import Optimizer
from obverse.training.prepared_update import PreparedUpdate, PromptReaders, fill_logprobs
from obverse.training.streams import Streams, forward
from obverse.training.train_inference_kl import logprobs_under
from obverse.training.whole_update import whole_update


class UpdateResult(NamedTuple):
    """The figures of an update, and what each sample showed to the method's memory; [S], None without a memory."""

    figures: Row
    observed: list[float] | None = None


def optimizer_step(
    learner: Learner, update: PreparedUpdate, progress: float, watcher: Watcher, is_first: bool = False
) -> UpdateResult:
    """Accumulate the gradients of all micro batches, sum them over ranks and step the optimizers.

    `is_first`: no optimizer step was made since the rollouts were sampled, so the log-probs of sampler and trainer must
    agree; `mismatch_kl` measures it.
    """
    learning_rate = learner.optimizer.learning_rate
    backward = BackwardPass(learner, update, progress, compares_sampler=is_first and learner.params is not None)
    num_rows = 0
    for number, micro in enumerate(update.micros):
        backward.run(micro, number)
        if not micro.is_padding:
            num_rows += int(micro.input_ids.shape[0])
            watcher.phase("train", num_rows, update.num_rows)
    backward.readers.policy.finish()
    metrics, observed, is_empty = reduce_over_ranks(learner, update, backward.metrics, backward.observed)
    if is_empty:  # no rank had a micro batch: the gradient is zero
        learner.optimizer.zero_grad_step()
    figures = _step_optimizers(learner, learning_rate, is_finite=math.isfinite(metrics.loss))
    row = metrics.row()
    if not learner.method.trains_policy:  # no log-probs were computed: these figures would be meaningless zeros
        row = {name: value for name, value in row.items() if name not in ("entropy", "clip_ratio")}
    row |= backward.figures
    return UpdateResult(row | figures | backward.router_loss.row(), None if observed is None else observed.tolist())


class BackwardPass:
    """Forward and backward over the micro batches of an update, with the sums of its metrics.

    `observed` [S] collects what the samples show to the method's memory; None as long as nothing was observed.
    """

    def __init__(self, learner: Learner, update: PreparedUpdate, progress: float, compares_sampler: bool) -> None:
        self.learner, self.progress = learner, progress
        self.update, self.figures = with_mismatched_kl(learner, update)
        self.compares_sampler = compares_sampler
        self.readers = PromptReaders(learner)
        self.router_loss = RouterLoss(learner, update)
        self.metrics = UpdateMetrics()
        self.observed: Tensor | None = None
        self.is_sharded = is_sharded(learner.policy.model)
        self.whole = whole_update(learner, update, progress)

    def run(self, micro: Micro, number: int) -> None:
        """Add the gradient and the metrics of micro batch `number` of the update."""
        learner, update, terms = self.learner, self.update, self.learner.method.terms
        known = None
        if (update.is_unmoved or learner.method.divergence is not None) and not micro.is_padding:
            known = known_gradients(micro.tokens, update.samples, terms, self.progress, update.is_unmoved)
        comparison = comparison_of(learner, micro, self.readers)  # not recorded: the target may be the policy's model
        with self.router_loss.recording() as router_logits:
            streams = forward(learner, micro, self.readers.policy, known, comparison)
        detached = streams.detached()
        tokens = micro.tokens
        if self.whole is not None:
            tokens = self.whole.tokens[number]
        elif not update.is_frozen:
            tokens = fill_logprobs(micro, detached.logp, learner, self.readers, update.is_unmoved)
        if micro.is_padding:
            zero_graph_anchor(streams).backward()
            self._restricted_logprobs(micro, number)  # a collective forward pass under FSDP
            return
        whole = None if self.whole is None else self.whole.inputs
        value = loss_of(streams, tokens, update.samples, terms, self.progress, whole)
        total = value + zero_graph_anchor(streams) if self.is_sharded else value
        self.router_loss.added_to(total, router_logits, micro).backward()
        self._measure(PartInputs(tokens, update.samples, detached, self.progress, whole), value, micro, number)
        if streams.divergence is not None:
            self.metrics.add_divergence(streams.divergence, tokens, terms)

    def _measure(self, inputs: PartInputs, value: Tensor, micro: Micro, number: int) -> None:
        """Add a micro batch to the metrics and to the observations of the method's memory."""
        method = self.learner.method
        self.metrics.add_tokens(value, inputs, masked(inputs, method.terms), self.learner.params is not None)
        if self.compares_sampler:
            restricted = self._restricted_logprobs(micro, number)
            if restricted is not None:
                self.metrics.add_mismatch(inputs, restricted)
            elif self.learner.params is not None and self.learner.params.is_untruncated:
                self.metrics.add_mismatch(inputs, inputs.policy.logp)
        self.metrics.add_values_and_pairs(inputs, method.terms)
        if method.memory is not None and (observation := method.memory_observation(inputs)) is not None:
            if self.observed is None:
                self.observed = torch.zeros_like(self.update.samples.reward)
            samples = inputs.tokens.sample
            self.observed[samples] = observation[samples].to(self.observed.dtype)

    def _restricted_logprobs(self, micro: Micro, number: int) -> Tensor | None:
        """Log-probs under sampling parameters that exclude tokens; [T], None where no forward pass is needed for them.

        They take a second forward pass, so only the middle micro batch of an update is compared.
        """
        params = self.learner.params
        is_middle = number == len(self.update.micros) // 2
        if not (self.compares_sampler and is_middle) or params is None or params.is_untruncated:
            return None
        return logprobs_under(self.learner.policy, micro, params)


def _step_optimizers(learner: Learner, learning_rate: float, is_finite: bool) -> Row:
    """Step the policy's and the critic's optimizer; gradient norms, learning rate, and whether the step was taken."""
    result = learner.optimizer.step(is_finite)
    if result.taken and learner.average is not None:
        learner.average.update()
    figures = {"grad_norm": result.grad_norm, "learning_rate": learning_rate, "step_taken": float(result.taken)}
    if learner.critic is not None and learner.method.critic is not None:
        figures["critic/grad_norm"] = learner.critic.optimizer.step(is_finite).grad_norm
    return figures


def skip_update(learner: Learner) -> Row:
    """An update without samples: the learning-rate schedules advance, the weights do not change."""
    learning_rate = learner.optimizer.learning_rate
    learner.optimizer.skip_step()
    if learner.critic is not None and learner.method.critic is not None:
        learner.critic.optimizer.skip_step()
    return {"learning_rate": learning_rate, "step_taken": 0.0}


class RouterLoss:
    """The load-balancing loss of a mixture of experts; adds nothing where the learner has none."""

    def __init__(self, learner: Learner, update: PreparedUpdate) -> None:
        self.balance, self.process_group, self.loss = learner.balance, learner.process_group, 0.0
        if self.balance is None:
            return
        counts = torch.zeros(self.balance.num_experts + 1, dtype=torch.float64, device=learner.policy.device)
        for micro in update.micros:  # the loads of the whole update come first: they weigh every token's gradient
            with torch.no_grad(), self.balance.watching() as router_logits:
                forward(learner, micro)
            counts += self.balance.counts(router_logits, micro)
        self.counts = self.process_group.sum(counts)

    def recording(self) -> AbstractContextManager[list[Tensor]]:
        """A context whose list collects the logits of the routers."""
        return nullcontext([]) if self.balance is None else self.balance.watching()

    def added_to(self, value: Tensor, router_logits: Sequence[Tensor], micro: Micro) -> Tensor:
        """The loss of a micro batch plus its part of the load-balancing loss."""
        if self.balance is None:
            return value
        part = self.balance.loss(router_logits, micro, self.counts)
        self.loss += float(part.detach())
        return value + part

    def row(self) -> Row:
        """`router_aux_loss`: the weighted load-balancing loss of the whole update, over all ranks."""
        if self.balance is None:
            return {}
        return {"router_aux_loss": float(self.process_group.sum(torch.tensor(self.loss).double()))}


def zero_graph_anchor(streams: Streams) -> Tensor:
    """A zero-valued loss that touches every output, so that backward triggers all FSDP hooks, on every rank alike."""
    outputs = [stream for stream in streams if stream is not None and stream.requires_grad]
    return torch.stack([stream[:0].sum() for stream in outputs]).sum()


def reduce_over_ranks(
    learner: Learner, update: PreparedUpdate, metrics: UpdateMetrics, observed: Tensor | None
) -> tuple[UpdateMetrics, Tensor | None, bool]:
    """Sum gradients (in place), metrics and observations [S] over ranks; True if no rank had a micro batch.

    Gradients are summed and never averaged: every normalizer counts over the whole update.
    """
    process_group = learner.process_group
    if process_group.is_alone:
        return metrics, observed, not update.micros
    flags = torch.tensor([sum(not micro.is_padding for micro in update.micros), observed is not None])
    num_micros, has_observed = process_group.sum(flags).tolist()
    if has_observed:
        observed = process_group.sum(
            (torch.zeros_like(update.samples.reward) if observed is None else observed).double()
        )
    if num_micros:
        sum_gradients(process_group, learner.optimizer)
        if learner.critic is not None and learner.method.critic is not None:
            sum_gradients(process_group, learner.critic.optimizer)
    return metrics.summed_over_ranks(process_group), observed, not num_micros


def sum_gradients(process_group: ProcessGroup, optimizer: Optimizer) -> None:
    """Sum each parameter's gradient over the ranks, in place; it stays None where it is None on all of them."""
    if is_sharded(optimizer.model):  # FSDP's reduce-scatter has summed them
        return
    parameters = [parameter for _, parameter in optimizer.named]
    counts = process_group.sum(torch.tensor([parameter.grad is not None for parameter in parameters]).int()).tolist()
    with_gradient = [parameter for parameter, count in zip(parameters, counts, strict=True) if count]
    for parameter in with_gradient:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    process_group.sum_(parameter.grad for parameter in with_gradient if parameter.grad is not None)


def loss_of(
    streams: Streams,
    tokens: Tokens,
    samples: Samples,
    terms: Sequence[Term],
    progress: float,
    update: PartInputs | None = None,
) -> Tensor:
    """The scalar loss of a micro batch; see `obverse.estimator.formula.loss`."""
    logp, entropy, value, divergence = streams
    return loss(tokens, samples, logp, entropy, terms, progress, value, divergence, update)
