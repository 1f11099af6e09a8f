"""One update: forward, the one loss line, backward, step - in micro batches that cannot change the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from obverse.batch import Micro, Update
from obverse.critic import Critic, assess
from obverse.estimator import loss, masked, shaped
from obverse.method import Method
from obverse.metrics import Row
from obverse.model import Policy, logprobs, mixed, scalars
from obverse.optim import Optimizer
from obverse.records import Source
from obverse.tally import Tally
from obverse.view import Live, Samples, Tokens, View
from obverse.watch import Watcher


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
    table: torch.nn.Module | None = None  # the initial model's embeddings, for a method that mixes its inputs


@dataclass(frozen=True)
class Lesson:
    """An update ready to be learned from: its micro batches on the policy's device.

    `is_frozen` says that the token columns hold the numbers of the policy that sampled, because it will have moved
    before the lesson is over, or because the reward was shaped by them.
    """

    samples: Samples
    micros: list[Micro]
    num_rows: int
    is_frozen: bool


class Learned(NamedTuple):
    """What an update leaves: the step's figures, and what every sample showed to the method's memory; [S] or None."""

    figures: Row
    observed: list[float] | None = None


def prepare_lessons(learner: Learner, updates: Sequence[Update | None], is_repeated: bool) -> list[Lesson | None]:
    """The lessons of one collection; with a critic their advantages are whitened over all of it."""
    lessons = [None if update is None else lesson(learner, update, is_repeated) for update in updates]
    gae, critic = learner.method.critic, learner.critic
    if gae is None or critic is None:
        return lessons
    present = [each for each in lessons if each is not None]
    written = iter(assess(critic, gae, [(each.samples, each.micros) for each in present]))
    return [None if each is None else replace(each, micros=next(written)) for each in lessons]


def lesson(learner: Learner, update: Update, is_repeated: bool) -> Lesson:
    """Split `update` into micro batches; fill in now what the moving policy forgets, and what shapes the reward."""
    method, policy = learner.method, learner.policy
    samples = update.samples.to(policy.device)
    is_frozen = is_repeated or bool(method.shaping) or method.critic is not None
    micros = [micro.to(policy.device) for micro in update.micros(learner.micro_batch_tokens, method.together)]
    if is_frozen:
        micros = [replace(micro, tokens=annotate(micro, None, learner)) for micro in micros]
    if method.shaping:
        found = [shaped(micro.tokens, samples, method.shaping) for micro in micros]
        micros = [replace(micro, tokens=tokens) for micro, (tokens, _) in zip(micros, found, strict=True)]
        samples = replace(samples, reward=samples.reward + sum(added for _, added in found))
    return Lesson(samples, micros, len(update.rows), is_frozen)


def learn(learner: Learner, current: Lesson, progress: float, watcher: Watcher) -> Learned:
    """One optimizer step on a lesson."""
    method, optimizer = learner.method, learner.optimizer
    learning_rate = optimizer.learning_rate
    tally, num_done = Tally(), 0
    observed: Tensor | None = None
    for micro in current.micros:
        live = forward(learner, micro)
        seen = Live(*(stream.detach() for stream in live))
        tokens = micro.tokens if current.is_frozen else annotate(micro, seen.logp, learner)
        value = loss(tokens, current.samples, live.logp, live.entropy, method.terms, progress, live.value)
        value.backward()
        view = View(tokens, current.samples, seen, progress)
        tally.add(value, view, masked(view, method.terms))
        tally.compare(view, method.terms)
        if method.memory is not None and (shown := method.memory.observe(view)) is not None:
            observed = torch.zeros_like(current.samples.reward) if observed is None else observed
            observed[tokens.sample] = shown[tokens.sample].to(observed.dtype)
        num_done += int(micro.input_ids.shape[0])
        watcher.phase("train", num_done, current.num_rows)
    result = optimizer.step()
    row = tally.row()
    if not method.trains_policy:  # nobody was asked for log-probs: these figures would be zeros that look like news
        row = {name: value for name, value in row.items() if name not in ("entropy", "clip_ratio")}
    figures = {"grad_norm": result.grad_norm, "learning_rate": learning_rate, "step_taken": float(result.taken)}
    if learner.critic is not None and method.critic is not None:
        figures["critic/grad_norm"] = learner.critic.optimizer.step().grad_norm
    return Learned(row | figures, None if observed is None else observed.tolist())


def forward(learner: Learner, micro: Micro) -> Live:
    """What the networks say of a micro batch, with graphs; [T] each, zeros for a stream that the method has not."""
    method, policy = learner.method, learner.policy
    logp = entropy = value = micro.tokens.behavior.new_zeros(len(micro.tokens))
    if method.trains_policy:
        embeddings = None
        if method.inputs is not None and learner.table is not None:
            embeddings = mixed(policy, micro, method.inputs, learner.table)
        logp, entropy = logprobs(policy, micro, "entropy" in method.streams, embeddings)
    if "value" in method.streams and learner.critic is not None:
        value = learner.critic.values(micro)
    if "score" in method.streams:
        value = scalars(policy.model, micro, after=True)
    return Live(logp, entropy, value)


def idle(learner: Learner) -> Row:
    """A step with nothing to learn from: time passes, the weights stay."""
    learning_rate = learner.optimizer.learning_rate
    learner.optimizer.pass_by()
    if learner.critic is not None and learner.method.critic is not None:
        learner.critic.optimizer.pass_by()
    return {"learning_rate": learning_rate, "step_taken": 0.0}


def annotate(micro: Micro, logp: Tensor | None, learner: Learner) -> Tokens:
    """The micro batch's token columns with what the method's parts read beyond the sampler's: [T] each.

    While the policy has not moved since it sampled, its own log-prob *is* the behavior of tokens that others wrote,
    and of all tokens where the sampler is another program; `logp` is that log-prob where a forward pass was just made,
    None asks for one.
    """
    tokens, method, anchor = micro.tokens, learner.method, learner.anchor
    foreign = [source for source in method.sources if source is not Source.ROLLOUT]
    corrected = method.needs("sampler")
    with torch.no_grad():
        if corrected or any(method.needs("behavior", source) for source in foreign):
            now = logprobs(learner.policy, micro)[0] if logp is None else logp
            own = tokens.source == int(Source.ROLLOUT)
            tokens = replace(tokens, behavior=now if corrected else torch.where(own, tokens.behavior, now))
        if anchor is not None and method.needs("anchor"):
            tokens = replace(tokens, anchor=logprobs(anchor, micro)[0])
    return tokens
