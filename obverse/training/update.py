"""One update: forward, the one loss line, backward, step - in micro batches that cannot change the result."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from obverse.distributed.balance import deal
from obverse.distributed.fsdp import root_of
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.columns import MissingColumn
from obverse.estimator.formula import has_zero_gradient, known_logp_gradient, loss, masked, shaped
from obverse.estimator.method import Method
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.inference import SamplingParams
from obverse.models.batch import Micro, Update
from obverse.models.policy import Policy, logprobs, mixed, scalars
from obverse.models.router_loss import Balance
from obverse.models.shared_prefix import Reader
from obverse.runtime.callbacks import Watcher
from obverse.training.metrics import Row
from obverse.training.optimizer import Optimizer
from obverse.training.train_inference_kl import logprobs_under
from obverse.training.update_metrics import UpdateMetrics
from obverse.training.value_model import Critic, fill_advantages
from obverse.types import Source


@dataclass(frozen=True)
class Learner:
    """What an update needs: the networks that the method reads, the method, the optimizer.

    For a method that trains a reward model `policy` is that model: it has a scalar head, and nobody asks for log-probs.
    """

    policy: Policy
    anchor: Policy | None  # the frozen initial model
    method: Method
    optimizer: Optimizer
    micro_batch_tokens: int
    critic: Critic | None = None
    samples_itself: bool = False  # the sampler draws from the policy as it is: nothing cut away
    table: torch.nn.Module | None = None  # the initial model's embeddings, for a method that mixes its inputs
    params: SamplingParams | None = (
        None  # that the policy's own samples are drawn by, just before; None: they come from elsewhere
    )
    process_group: ProcessGroup = SINGLE_PROCESS  # the ranks that share each update
    balance: Balance | None = None  # of a mixture's routers, whose loss is added


@dataclass(frozen=True)
class PreparedUpdate:
    """An update ready to be learned from: this rank's micro batches of it, on the policy's device.

    `is_frozen` says that the token columns hold the numbers of the policy that sampled, because it will have moved
    before the lesson is over, or because the reward was shaped by them.
    """

    samples: Samples
    micros: list[Micro]
    num_rows: int
    is_frozen: bool
    is_unmoved: bool  # the samples are the present policy's own: every ratio to their behavior is 1


class UpdateResult(NamedTuple):
    """What an update leaves: the step's figures, and what every sample showed to the method's memory; [S] or None."""

    figures: Row
    observed: list[float] | None = None


def prepare_updates(
    learner: Learner, updates: Sequence[Update | None], is_repeated: bool
) -> list[PreparedUpdate | None]:
    """The lessons of one collection; with a critic their advantages are whitened over all of it."""
    prepared_updates = [None if update is None else prepare_update(learner, update, is_repeated) for update in updates]
    gae, critic = learner.method.critic, learner.critic
    if gae is None or critic is None:
        return prepared_updates
    present = [each for each in prepared_updates if each is not None]
    written = iter(
        fill_advantages(critic, gae, [(each.samples, each.micros) for each in present], learner.process_group)
    )
    return [None if each is None else replace(each, micros=next(written)) for each in prepared_updates]


def prepare_update(learner: Learner, update: Update, is_repeated: bool) -> PreparedUpdate:
    """Split `update` into micro batches; fill in now what the moving policy forgets, and what shapes the reward."""
    method, policy = learner.method, learner.policy
    samples = update.samples.to(policy.device)
    is_frozen = is_repeated or bool(method.shaping) or method.critic is not None
    needed = None
    if method.memory is None and not method.shaping:  # a memory looks at every sample, and shaping moves all rewards
        needed = set((~has_zero_gradient(samples, method.terms)).nonzero()[:, 0].tolist())
    is_shared = shares_prompts(learner, update)
    if not learner.process_group.is_alone:
        needed = rows_of_rank(learner.process_group, update, needed, is_shared)
    made = [*update.micros(learner.micro_batch_tokens, method.needs_whole_groups, is_shared, needed)]
    micros = [micro.to(policy.device) for micro in made + padding_microbatches(learner, update, len(made))]
    if is_frozen:
        readers = PromptReaders(learner)
        micros = [replace(micro, tokens=fill_logprobs(micro, None, learner, readers)) for micro in micros]
    if method.shaping:
        found = [shaped(micro.tokens, samples, method.shaping) for micro in micros[: len(made)]]
        shapes = [replace(micro, tokens=tokens) for micro, (tokens, _) in zip(micros, found, strict=False)]
        micros = shapes + micros[len(made) :]
        added = sum((added for _, added in found), start=torch.zeros_like(samples.reward))
        samples = replace(samples, reward=samples.reward + learner.process_group.sum(added.double()).to(added.dtype))
    is_unmoved = learner.samples_itself and not is_frozen and not method.needs("sampler")
    return PreparedUpdate(samples, micros, sum(len(micro.input_ids) for micro in made), is_frozen, is_unmoved)


def padding_microbatches(learner: Learner, update: Update, num: int) -> list[Micro]:
    """Micro batches that teach nothing, for a rank with `num` of them: so many that all ranks have the same number.

    A policy that is shared out computes in step: whoever has nothing left to compute would miss in the others' layers.
    """
    if root_of(learner.policy.model) is None:
        return []
    missing = max(learner.process_group.gather(num)) - num
    return [update.padding()] * missing if missing else []


def rows_of_rank(
    process_group: ProcessGroup, update: Update, needed: Collection[int] | None, is_shared: bool
) -> set[int]:
    """The samples that this rank computes: whole problems, dealt by the tokens that go through the model.

    Only those `needed` (None: all) cost something, and prompts that are shared are read once a problem.
    """
    group, rows = update.samples.group.tolist(), update.rows
    costs = [0] * (max(group) + 1)
    read: set[int] = set()
    for index in range(len(rows)) if needed is None else sorted(needed):
        is_read = is_shared and group[index] in read
        read.add(group[index])
        costs[group[index]] += len(rows[index].ids) + (0 if is_read else len(rows[index].prompt))
    mine = set(deal(costs, process_group.size)[process_group.rank])
    return {index for index in range(len(rows)) if group[index] in mine and (needed is None or index in needed)}


# Below so many samples a prompt, reading it apart costs more than it saves.
SHARING_PAYS = 1.5


def shares_prompts(learner: Learner, update: Update) -> bool:
    """Whether the update's prompts are better computed once: the model can, the method lets it, and they repeat."""
    method = learner.method
    if not learner.policy.shares or method.inputs is not None or method.streams & {"value", "score"}:
        return False
    if learner.balance is not None:  # a prompt's tokens count once for every sample
        return False
    return len(update.rows) >= SHARING_PAYS * len({sample.prompt for sample in update.rows})


class PromptReaders:
    """The policy's and the anchor's place in the prompts that consecutive micro batches share."""

    def __init__(self, learner: Learner) -> None:
        self.policy = Reader(learner.policy.model, learner.policy.table)
        self.anchor = Reader(learner.anchor.model) if learner.anchor else None


def optimizer_step(
    learner: Learner, current: PreparedUpdate, progress: float, watcher: Watcher, is_first: bool = False
) -> UpdateResult:
    """One optimizer step on a lesson; on the first one of a collection sampler and trainer must agree."""
    method, optimizer = learner.method, learner.optimizer
    learning_rate = optimizer.learning_rate
    metrics, num_done = UpdateMetrics(), 0
    observed: Tensor | None = None
    readers, is_in_step = PromptReaders(learner), root_of(learner.policy.model) is not None
    routed = RouterLoss(learner, current)
    for number, micro in enumerate(current.micros):
        slope = None
        if current.is_unmoved and not micro.is_padding:
            slope = known_logp_gradient(micro.tokens, current.samples, method.terms, progress)
        with routed.watching() as logits:
            outputs = forward(learner, micro, readers.policy, slope)
        seen = PolicyOutputs(*(stream.detach() for stream in outputs))
        tokens = (
            micro.tokens if current.is_frozen else fill_logprobs(micro, seen.logp, learner, readers, current.is_unmoved)
        )
        # under a law that cuts it takes a forward pass of its own: one micro batch tells
        tells = is_first and learner.params is not None and number == len(current.micros) // 2
        if micro.is_padding:
            zero_graph_anchor(outputs).backward()
            if tells and learner.params is not None and not learner.params.is_untruncated:
                logprobs_under(learner.policy, micro, learner.params)
            continue
        value = loss(tokens, current.samples, outputs.logp, outputs.entropy, method.terms, progress, outputs.value)
        routed.added(value + zero_graph_anchor(outputs) if is_in_step else value, logits, micro).backward()
        inputs = PartInputs(tokens, current.samples, seen, progress)
        metrics.add(value, inputs, masked(inputs, method.terms))
        if is_first and learner.params is not None:
            if learner.params.is_untruncated:
                metrics.agree(inputs, seen.logp)
            elif tells:
                metrics.agree(inputs, logprobs_under(learner.policy, micro, learner.params))
        metrics.compare(inputs, method.terms)
        if method.memory is not None and (shown := method.memory_observation(inputs)) is not None:
            observed = torch.zeros_like(current.samples.reward) if observed is None else observed
            observed[tokens.sample] = shown[tokens.sample].to(observed.dtype)
        num_done += int(micro.input_ids.shape[0])
        watcher.phase("train", num_done, current.num_rows)
    readers.policy.finish()
    metrics, observed, is_still = reduce_over_ranks(learner, current, metrics, observed)
    if is_still:  # the step is one with a gradient of zero
        optimizer.zero_grad_step()
    is_finite = math.isfinite(metrics.loss)
    result = optimizer.step(is_finite)
    row = metrics.row()
    if not method.trains_policy:  # nobody was asked for log-probs: these figures would be zeros that look like news
        row = {name: value for name, value in row.items() if name not in ("entropy", "clip_ratio")}
    figures = {"grad_norm": result.grad_norm, "learning_rate": learning_rate, "step_taken": float(result.taken)}
    if learner.critic is not None and method.critic is not None:
        figures["critic/grad_norm"] = learner.critic.optimizer.step(is_finite).grad_norm
    return UpdateResult(row | figures | routed.row(), None if observed is None else observed.tolist())


class RouterLoss:
    """What a mixture's routers add to an update, where the learner balances them; else nothing."""

    def __init__(self, learner: Learner, current: PreparedUpdate) -> None:
        self.balance, self.process_group, self.loss = learner.balance, learner.process_group, 0.0
        if self.balance is None:
            return
        counts = torch.zeros(self.balance.num_experts + 1, dtype=torch.float64, device=learner.policy.device)
        for micro in current.micros:  # the shares of the whole update come first: they weigh every token's gradient
            with torch.no_grad(), self.balance.watching() as logits:
                forward(learner, micro)
            counts += self.balance.counts(logits, micro)
        self.counts = self.process_group.sum(counts)

    def watching(self) -> AbstractContextManager[list[Tensor]]:
        """Inside, the list gets what the routers say."""
        return nullcontext([]) if self.balance is None else self.balance.watching()

    def added(self, value: Tensor, logits: Sequence[Tensor], micro: Micro) -> Tensor:
        """The loss of a micro batch with its part of the balancing loss."""
        if self.balance is None:
            return value
        part = self.balance.loss(logits, micro, self.counts)
        self.loss += float(part.detach())
        return value + part

    def row(self) -> Row:
        """Its figure: the balancing loss of the whole update, with its weight."""
        return (
            {}
            if self.balance is None
            else {"router_aux_loss": float(self.process_group.sum(torch.tensor(self.loss).double()))}
        )


def zero_graph_anchor(outputs: PolicyOutputs) -> Tensor:
    """Exactly 0, with a graph to every network that was asked: a backward pass that all ranks go through alike."""
    return torch.stack([stream[:0].sum() for stream in outputs if stream.requires_grad]).sum()


def reduce_over_ranks(
    learner: Learner, current: PreparedUpdate, metrics: UpdateMetrics, observed: Tensor | None
) -> tuple[UpdateMetrics, Tensor | None, bool]:
    """Sums over the ranks: gradients, where they stand, the tally, what memory saw; and whether nobody had to compute.

    Gradients are summed and never averaged: all denominators are those of the whole update.
    """
    process_group = learner.process_group
    if process_group.is_alone:
        return metrics, observed, not current.micros
    flags = torch.tensor([sum(not micro.is_padding for micro in current.micros), observed is not None])
    num_micros, has_observed = process_group.sum(flags).tolist()
    if has_observed:
        observed = process_group.sum(
            (torch.zeros_like(current.samples.reward) if observed is None else observed).double()
        )
    if num_micros:
        sum_gradients(process_group, learner.optimizer)
        if learner.critic is not None and learner.method.critic is not None:
            sum_gradients(process_group, learner.critic.optimizer)
    return metrics.pooled(process_group), observed, not num_micros


def sum_gradients(process_group: ProcessGroup, optimizer: Optimizer) -> None:
    """Sum each parameter's gradient over the ranks; it is None where it is so on all of them."""
    if root_of(optimizer.model) is not None:  # its layers have summed them on the way
        return
    parameters = [parameter for _, parameter in optimizer.named]
    has_one = process_group.sum(torch.tensor([parameter.grad is not None for parameter in parameters]).int()).tolist()
    learning = [parameter for parameter, number in zip(parameters, has_one, strict=True) if number]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    process_group.sum_(parameter.grad for parameter in learning if parameter.grad is not None)


def forward(learner: Learner, micro: Micro, reader: Reader | None = None, slope: Tensor | None = None) -> PolicyOutputs:
    """What the networks say of a micro batch, with graphs; [T] each. Without a scalar head `value` is unfilled.

    `slope` is the gradient by the log-probs where it is known before they are.
    """
    method, policy = learner.method, learner.policy
    logp = entropy = micro.tokens.behavior.new_zeros(len(micro.tokens))
    value: Any = MissingColumn("policy.value", logp)
    if method.trains_policy:
        embeddings = None
        if method.inputs is not None and learner.table is not None:
            embeddings = mixed(policy, micro, method.inputs, learner.table)
        logp, entropy = logprobs(policy, micro, "entropy" in method.streams, embeddings, reader, slope)
    if "value" in method.streams and learner.critic is not None:
        value = learner.critic.values(micro)
    if "score" in method.streams:
        value = scalars(policy.model, micro, after=True)
    return PolicyOutputs(logp, entropy, value)


def skip_update(learner: Learner) -> Row:
    """A step with nothing to learn from: time passes, the weights stay."""
    learning_rate = learner.optimizer.learning_rate
    learner.optimizer.skip_step()
    if learner.critic is not None and learner.method.critic is not None:
        learner.critic.optimizer.skip_step()
    return {"learning_rate": learning_rate, "step_taken": 0.0}


def fill_logprobs(
    micro: Micro, logp: Tensor | None, learner: Learner, readers: PromptReaders, is_unmoved: bool = False
) -> Tokens:
    """The micro batch's token columns with what the method's parts read beyond the sampler's: [T] each.

    While the policy has not moved since it sampled, its own log-prob *is* the behavior of tokens that others wrote, of
    all tokens where the sampler is another program, and of own tokens where nothing was cut from it (`is_unmoved`).
    `logp` is that log-prob where a forward pass was just made, None asks for one.
    """
    tokens, method, anchor = micro.tokens, learner.method, learner.anchor
    foreign = [source for source in method.sources if source is not Source.ROLLOUT]
    corrected = method.needs("sampler")
    with torch.no_grad():
        if is_unmoved and logp is not None:
            tokens = replace(tokens, behavior=logp)
        elif corrected or any(method.reads_behavior(source) for source in foreign):
            now = logprobs(learner.policy, micro, reader=readers.policy)[0] if logp is None else logp
            own = tokens.source == int(Source.ROLLOUT)
            tokens = replace(tokens, behavior=now if corrected else torch.where(own, tokens.behavior, now))
        if anchor is not None and method.needs("anchor"):
            tokens = replace(tokens, anchor=logprobs(anchor, micro, reader=readers.anchor)[0])
    return tokens
