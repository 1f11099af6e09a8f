"""Prepare an update before the policy moves: micro batches of this rank, frozen log-probs, rewards, advantages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse.distributed.balance import balanced_shares
from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.formula import has_zero_gradient, shaped
from obverse.estimator.method import Method
from obverse.estimator.requests import max_samples_per_problem
from obverse.estimator.tables import Samples, Tokens
from obverse.models.batch import Micro, Update, is_sampled
from obverse.models.policy import logprobs
from obverse.training.learners import Learner
from obverse.training.value_model import fill_advantages
from obverse.types import Sample, Source

# Computing a prompt once for all its samples pays from this mean number of samples per prompt on.
MIN_SAMPLES_PER_PROMPT = 1.5


@dataclass(frozen=True)
class PreparedUpdate:
    """An update ready for `optimizer_step`: this rank's micro batches, on the policy's device.

    `is_frozen`: the token columns hold the log-probs of the policy that sampled, because it moves before the update is
    used for the last time, or because the reward was shaped by them.
    """

    samples: Samples
    micros: list[Micro]
    num_rows: int
    is_frozen: bool
    is_unmoved: bool  # the rollouts are the current policy's own: every ratio to their behavior is 1
    rows: Sequence[Sample] = ()  # the samples of the table
    without_gradient: Sequence[Micro] = ()  # the other samples, where a part reads the policy over the whole update


class PromptReaders:
    """The models' readers of prompts that consecutive micro batches share."""

    def __init__(self, learner: Learner) -> None:
        self.policy = learner.policy.prompt_reader()
        self.anchor = learner.anchor.prompt_reader() if learner.anchor else None


def prepare_updates(
    learner: Learner, updates: Sequence[Update | None], is_repeated: bool
) -> list[PreparedUpdate | None]:
    """Prepare the updates of one rollout phase; with a critic, advantages are whitened over all of them."""
    prepared_updates = [None if update is None else prepare_update(learner, update, is_repeated) for update in updates]
    gae, critic = learner.method.critic, learner.critic
    if gae is None or critic is None:
        return prepared_updates
    batches = [(prepared.samples, prepared.micros) for prepared in prepared_updates if prepared is not None]
    with_advantages = iter(fill_advantages(critic, gae, batches, learner.process_group))
    return [
        None if prepared is None else replace(prepared, micros=next(with_advantages)) for prepared in prepared_updates
    ]


def prepare_update(learner: Learner, update: Update, is_repeated: bool) -> PreparedUpdate:
    """Split `update` into micro batches; compute now what depends on the policy before it moves, and shape rewards.

    `is_repeated`: the policy steps more than once on the rollouts that the update comes from.
    """
    method, policy = learner.method, learner.policy
    samples = update.samples.to(policy.device)
    is_frozen = is_repeated or bool(method.shaping) or method.critic is not None
    rows: set[int] | None = None  # all of them: a memory observes every sample, and shaping changes all rewards
    others: set[int] = set()
    if method.memory is None and not method.shaping:
        rows = set((~has_zero_gradient(samples, method.terms)).nonzero()[:, 0].tolist())
        others = set(range(len(samples))) - rows if method.reads_update else set()
    is_shared = shares_prompts(learner, update)
    if not learner.process_group.is_alone:
        rows = rows_of_rank(learner.process_group, update, rows, is_shared)
    together, pads_prompts = method.needs_whole_groups, policy.pads_prompts
    has_teacher = method.compares_with("teacher")
    micros = [*update.micros(learner.micro_batch_tokens, together, is_shared, rows, pads_prompts, has_teacher)]
    num_rows = sum(len(micro.input_ids) for micro in micros)
    num_micros = len(micros)
    micros += padding_microbatches(learner, update, num_micros)
    if has_teacher:
        micros = [replace(micro, teacher=_behind_teacher_prompts(learner, update, micro)) for micro in micros]
    micros = [micro.to(policy.device) for micro in micros]
    if is_frozen:
        readers = PromptReaders(learner)
        micros = [replace(micro, tokens=fill_logprobs(micro, None, learner, readers)) for micro in micros]
    if method.shaping:
        shaped_micros, samples = _shape_rewards(learner, micros[:num_micros], samples)
        micros = shaped_micros + micros[num_micros:]
    is_of_policy = learner.samples_itself and Source.REPLAYED not in method.sources
    is_unmoved = is_of_policy and not is_frozen and not method.needs("sampler")
    without_gradient = _micros_without_gradient(learner, update, others, is_shared, is_frozen) if others else []
    return PreparedUpdate(samples, micros, num_rows, is_frozen, is_unmoved, update.rows, without_gradient)


def _micros_without_gradient(
    learner: Learner, update: Update, rows: set[int], is_shared: bool, is_frozen: bool
) -> list[Micro]:
    """Micro batches of `rows`, the samples with a gradient of zero: their policy outputs count in the whole update."""
    if not learner.process_group.is_alone:
        rows = rows_of_rank(learner.process_group, update, rows, is_shared)
    pads_prompts = learner.policy.pads_prompts
    micros = [*update.micros(learner.micro_batch_tokens, False, is_shared, rows, pads_prompts)]
    micros += padding_microbatches(learner, update, len(micros))
    micros = [micro.to(learner.policy.device) for micro in micros]
    if not is_frozen:
        return micros
    readers = PromptReaders(learner)
    return [replace(micro, tokens=fill_logprobs(micro, None, learner, readers)) for micro in micros]


def _behind_teacher_prompts(learner: Learner, update: Update, micro: Micro) -> Micro:
    """The tokens of a micro batch behind the teacher's prompts; ids that its padded vocabulary lacks become 0."""
    teacher = learner.teacher
    if teacher is None:
        raise ValueError("the method's divergence reads a teacher, which the learner does not have")
    batch = update.teacher_micro(micro, teacher.shares, teacher.pads_prompts)
    size = teacher.model.config.get_text_config().vocab_size
    return replace(batch, input_ids=batch.input_ids.masked_fill(batch.input_ids >= size, 0))


def _shape_rewards(learner: Learner, micros: Sequence[Micro], samples: Samples) -> tuple[list[Micro], Samples]:
    """Write the shaping of each token into the micro batches and its sum, over all ranks, into the samples' rewards."""
    shapings = [shaped(micro.tokens, samples, learner.method.shaping) for micro in micros]
    shaped_micros = [replace(micro, tokens=tokens) for micro, (tokens, _) in zip(micros, shapings, strict=True)]
    added = sum((rewards for _, rewards in shapings), start=torch.zeros_like(samples.reward))
    total = learner.process_group.sum(added.double()).to(added.dtype)
    return shaped_micros, replace(samples, reward=samples.reward + total)


def padding_microbatches(learner: Learner, update: Update, num: int) -> list[Micro]:
    """Micro batches without a gradient for a rank that has `num`, so that all ranks have equally many; [] without FSDP.

    Under FSDP all ranks run every layer together: one that finished early would block the collectives of the others.
    """
    if not is_sharded(learner.policy.model):
        return []
    missing = max(learner.process_group.gather(num)) - num
    return [update.padding()] * missing if missing else []


def rows_of_rank(
    process_group: ProcessGroup, update: Update, needed: Collection[int] | None, is_shared: bool
) -> set[int]:
    """The samples that this rank computes: whole problems, balanced by the tokens that go through the model.

    Only the samples in `needed` (None: all) cost anything; a shared prompt (`is_shared`) is counted once per problem.
    """
    group, rows = update.samples.group.tolist(), update.rows
    costs = [0] * (max(group) + 1)
    problems_with_prompt: set[int] = set()
    for index in range(len(rows)) if needed is None else sorted(needed):
        has_prompt = is_shared and group[index] in problems_with_prompt
        problems_with_prompt.add(group[index])
        costs[group[index]] += len(rows[index].ids) + (0 if has_prompt else len(rows[index].prompt))
    problems = set(balanced_shares(costs, process_group.size)[process_group.rank])
    return {index for index in range(len(rows)) if group[index] in problems and (needed is None or index in needed)}


def reads_prompts_unchanged(method: Method) -> bool:
    """Whether the method reads each prompt only through the policy's log-probs, on the embeddings of its tokens."""
    return method.inputs is None and not method.streams & {"value", "score"}


def repeats_prompts(method: Method) -> bool:
    """Whether updates of the method hold several samples per prompt, so that the prompt could be computed once."""
    may_share = method.trains_policy and reads_prompts_unchanged(method)
    return may_share and max_samples_per_problem(method) >= MIN_SAMPLES_PER_PROMPT


def shares_prompts(learner: Learner, update: Update) -> bool:
    """Whether each prompt is computed once for all its samples: if model and method allow it, and prompts repeat."""
    if not learner.policy.shares or not reads_prompts_unchanged(learner.method):
        return False
    if learner.balance is not None:  # the balancing loss counts a prompt's tokens once per sample
        return False
    return len(update.rows) >= MIN_SAMPLES_PER_PROMPT * len({sample.prompt for sample in update.rows})


def fill_logprobs(
    micro: Micro, logp: Tensor | None, learner: Learner, readers: PromptReaders, is_unmoved: bool = False
) -> Tokens:
    """The token columns of a micro batch with the log-probs that the method reads beyond the sampler's; [T] each.

    While the policy has not moved since it sampled, its current log-prob *is* the behavior of tokens from other
    sources, of all tokens if a server samples, and of rollout tokens if no sampling parameter excluded any
    (`is_unmoved`). `logp` is that log-prob if a forward pass was just made; None: make one.
    """
    tokens, method, anchor = micro.tokens, learner.method, learner.anchor
    off_policy = [source for source in method.sources if not source.is_sampled]
    is_corrected = method.needs("sampler")
    with torch.no_grad():
        if is_unmoved and logp is not None:
            tokens = replace(tokens, behavior=logp)
        elif is_corrected or any(method.reads_behavior(source) for source in off_policy):
            current = logprobs(learner.policy, micro, reader=readers.policy)[0] if logp is None else logp
            keeps = tokens.source == int(Source.REPLAYED) if is_corrected else is_sampled(tokens.source)
            behavior = torch.where(keeps, tokens.behavior, current)
            tokens = replace(tokens, behavior=behavior)
        if anchor is not None and method.needs("anchor"):
            tokens = replace(tokens, anchor=logprobs(anchor, micro, reader=readers.anchor)[0])
    return tokens
