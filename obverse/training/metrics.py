"""Figures of a step for metrics.jsonl, by the field's usual names: of its rollouts, its updates and its time."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from statistics import fmean, pstdev

import torch
from torch import Tensor

from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.columns import MissingColumn
from obverse.estimator.formula import Term
from obverse.estimator.parts.interfaces import LabeledAdvantage, PairedAdvantage
from obverse.estimator.tables import LOG_RATIO_LIMIT, PartInputs, Tokens
from obverse.models.batch import Update
from obverse.training.train_inference_kl import kl_per_token
from obverse.types import Group, Sample, Source

Row = dict[str, float]
REPEATED = 4  # tokens of an n-gram whose repetition is counted


def rollout_metrics(groups: Sequence[Group], selected: Sequence[Sequence[Sample]]) -> Row:
    """Figures of the sampled groups and of the samples of each that were selected for training.

    `problems/demonstration`, `problems/rollout`, `problems/none`: shares of the step's problems that train on a
    demonstration, on rollouts, on nothing (a problem may be in the first two); `problems/pairs`: on a chosen and a
    rejected response, where there are any. Greedy completions, which never train, are in none of the figures.
    """
    rollouts = [sample for group in groups for sample in group.of("rollout", "hinted")]
    graded = [sample for sample in rollouts if sample.grade.correct is not None]
    row: Row = {
        f"problems/{source.label}": share(_has_source(samples, source) for samples in selected)
        for source in (Source.DEMONSTRATION, Source.ROLLOUT)
    }
    if any(group.of("chosen") for group in groups):
        row["problems/pairs"] = share(_has_source(samples, Source.CHOSEN) for samples in selected)
    row["problems/none"] = share(not samples for samples in selected)
    if rollouts:
        row |= completion_metrics(rollouts)
    if graded:
        rewards = [[sample.reward for sample in group.of("rollout", "hinted")] for group in groups]
        row |= {
            "reward": fmean(sample.reward for sample in graded),
            "reward_std": fmean(pstdev(group_rewards) for group_rewards in rewards if group_rewards),
            "accuracy": share(sample.correct for sample in graded),
            "frac_reward_zero_std": share(len(set(group_rewards)) == 1 for group_rewards in rewards if group_rewards),
            **component_metrics(graded),
        }
    return row


def follow_up_metrics(groups: Sequence[Group]) -> Row:
    """Figures of further samples, of a method that requests some once the first are graded.

    `follow_ups/samples`: samples per problem, all rounds together; `follow_ups/hinted`: the share of problems with a
    hint; `follow_ups/hint_length`: mean tokens of a hint, where there are any.
    """
    lengths = [sample.sources.count(Source.HINT) for group in groups for sample in group.of("hinted")]
    return {
        "follow_ups/samples": fmean(len(group.samples) for group in groups) if groups else 0.0,
        "follow_ups/hinted": share(bool(group.of("hinted")) for group in groups),
        **({"follow_ups/hint_length": fmean(lengths)} if lengths else {}),
    }


def component_metrics(graded: Sequence[Sample]) -> Row:
    """`rewards/NAME/mean` and `/std` of each verifier, before its weight, if the reward is a sum of several."""
    row: Row = {}
    for name in dict.fromkeys(name for sample in graded for name in sample.grade.components):
        rewards = [sample.grade.components[name] for sample in graded if name in sample.grade.components]
        row |= {f"rewards/{name}/mean": fmean(rewards), f"rewards/{name}/std": pstdev(rewards)}
    return row


def completion_metrics(rollouts: Sequence[Sample]) -> Row:
    """Lengths in tokens, with TRL's names where it has the figure, and what shows degenerate text.

    `mean_terminated_length`: of completions that ended before the limit; `mean_length_correct` and `_incorrect`: of
    graded ones; `repetition`: the fraction of a completion's n-grams of REPEATED tokens that occurred before in it.
    """
    lengths = [len(sample.ids) for sample in rollouts]
    groups = {
        "mean_terminated_length": [len(sample.ids) for sample in rollouts if sample.finish != "length"],
        "mean_length_correct": [len(sample.ids) for sample in rollouts if sample.grade.correct],
        "mean_length_incorrect": [len(sample.ids) for sample in rollouts if sample.grade.correct is False],
    }
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": share(sample.finish == "length" for sample in rollouts),
        "completions/formatted": share(sample.grade.formatted for sample in rollouts),
        "completions/ungraded": share(sample.grade.correct is None for sample in rollouts),
        "completions/repetition": fmean(repetition(sample.ids) for sample in rollouts),
        **{f"completions/{name}": fmean(values) for name, values in groups.items() if values},
    }


def repetition(ids: Sequence[int]) -> float:
    """The fraction of n-grams of REPEATED tokens that occurred before in `ids`; 0 for fewer tokens."""
    num_grams = len(ids) - REPEATED + 1
    if num_grams < 1:
        return 0.0
    return 1 - len(set(zip(*(ids[start:] for start in range(REPEATED)), strict=False))) / num_grams


def _has_source(samples: Sequence[Sample], source: Source) -> bool:
    return any(source in sample.sources for sample in samples)


def share(flags: Iterable[bool]) -> float:
    """The fraction of true values; 0 without values."""
    values = list(flags)
    return sum(values) / len(values) if values else 0.0


def teacher_metrics(selected: Sequence[Sequence[Sample]]) -> Row:
    """Policy and teacher on the rollout tokens that the teacher scored: {} if it scored none.

    `teacher/kl`: mean log pi - log pi_T, pi the policy that sampled: an estimate of KL(pi || pi_T) per token, in nats;
    `teacher/better`: the share of tokens with a higher log-prob under the teacher.
    """
    gaps = [
        policy - teacher
        for samples in selected
        for sample in samples
        if sample.teacher is not None and sample.teacher_prompt is not None
        for source, policy, teacher in zip(sample.sources, sample.behavior, sample.teacher, strict=True)
        if source is Source.ROLLOUT
    ]
    return {"teacher/kl": fmean(gaps), "teacher/better": share(gap < 0 for gap in gaps)} if gaps else {}


def staleness(groups: Sequence[Group], step: int) -> Row:
    """The mean age of the weights that wrote the rollouts, in steps before the policy of `step`."""
    ages = [step - sample.weights for group in groups for sample in group.samples if sample.weights is not None]
    return {"staleness": fmean(ages)} if ages else {}


def num_generated(groups: Sequence[Group]) -> int:
    """The number of tokens that the policy generated in this step."""
    return sum(source is Source.ROLLOUT for group in groups for sample in group.samples for source in sample.sources)


def num_trained(update: Update | None) -> int:
    """The number of tokens of an update that carry a gradient."""
    return update.num_tokens if update else 0


def num_flops(num_parameters: int, num_generated: int, num_trained: int) -> float:
    """Floating-point operations: 2 per parameter and generated token, 6 per trained one (2001.08361, sec. 2.1).

    Prompts, attention, an anchor, a critic and evaluations are left out: the same rule for every method. A teacher's
    operations are added: 2 per parameter of the teacher and token that it scored (TeacherScores).
    """
    return float(num_parameters) * (2 * num_generated + 6 * num_trained)


def mean(rows: Sequence[Row]) -> Row:
    """The mean of each figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


@dataclass
class UpdateMetrics:
    """Sums over the tokens of an update, from which its figures are computed."""

    loss: float = 0.0
    entropy: float = 0.0
    demonstration_logp: float = 0.0
    log_ratio: float = 0.0  # |log pi_theta - log pi_sampler| of rollout tokens
    mismatch: float = 0.0  # KL(sampler || trainer) of rollout tokens, before the first optimizer step on them
    num_compared: int = 0  # tokens in `mismatch`
    anchor_kl: float = 0.0  # KL(policy || anchor) of rollout tokens, estimated by k3
    num_anchored: int = 0  # tokens in `anchor_kl`
    num_masked: float = 0.0
    num_tokens: int = 0
    num_demonstration: int = 0
    num_rollout: int = 0
    margin: float = 0.0  # of the chosen response over the rejected one
    num_preferred: int = 0
    num_pairs: int = 0
    chosen_reward: float = 0.0  # implicit, of single responses with a label
    num_chosen: int = 0
    rejected_reward: float = 0.0
    num_rejected: int = 0
    value_error: float = 0.0  # squared error of the critic
    num_valued: int = 0
    divergence: float = 0.0  # from the method's target, of the tokens of its divergence terms
    num_diverging: int = 0  # tokens in `divergence`
    max_log_ratio: float = 0.0  # the largest log-ratio of trainer to sampler among the tokens in `mismatch`

    def add_tokens(self, loss: Tensor, inputs: PartInputs, masked: Tensor, samples_policy: bool = True) -> None:
        """Add a micro batch: its loss, the policy's numbers for it, and the tokens that the mask excludes, [T].

        Without `samples_policy` another model wrote the rollouts, which then do not estimate the KL of the policy.
        """
        tokens, policy = inputs.tokens, inputs.policy
        is_demonstration = tokens.source == int(Source.DEMONSTRATION)
        is_rollout = tokens.source == int(Source.ROLLOUT)
        self.loss += float(loss.detach())
        self.entropy += float(policy.entropy.sum())
        self.demonstration_logp += float(policy.logp[is_demonstration].sum())
        self.log_ratio += float((policy.logp - tokens.sampler)[is_rollout].abs().sum())
        self.num_masked += float(masked.sum())
        self.num_tokens += len(tokens)
        self.num_demonstration += int(is_demonstration.sum())
        self.num_rollout += int(is_rollout.sum())
        if samples_policy and not isinstance(tokens.anchor, MissingColumn):
            log_ratio = (tokens.anchor - policy.logp)[is_rollout].detach()
            self.anchor_kl += float((log_ratio.expm1() - log_ratio).sum())
            self.num_anchored += len(log_ratio)

    def add_mismatch(self, inputs: PartInputs, logp: Tensor) -> None:
        """Compare sampler and trainer: `logp` [T] has the trainer's log-probs under the sampling parameters."""
        is_rollout = inputs.tokens.source == int(Source.ROLLOUT)
        self.mismatch += float(kl_per_token(logp, inputs.tokens.sampler)[is_rollout].sum())
        self.num_compared += int(is_rollout.sum())
        if bool(is_rollout.any()):
            log_ratio = float((logp - inputs.tokens.sampler)[is_rollout].max())
            self.max_log_ratio = max(self.max_log_ratio, log_ratio)

    def add_divergence(self, divergence: Tensor, tokens: Tokens, terms: Sequence[Term]) -> None:
        """Add the divergence [T] from the method's target at the tokens of the terms that it has."""
        sources = {int(term.source) for term in terms if term.on == "divergence"}
        is_covered = torch.isin(tokens.source, tokens.source.new_tensor(sorted(sources)))
        self.divergence += float(divergence.detach()[is_covered].sum())
        self.num_diverging += int(is_covered.sum())

    def add_values_and_pairs(self, inputs: PartInputs, terms: Sequence[Term]) -> None:
        """Add the critic's squared error and the margins of a PairedAdvantage, where a term has them."""
        if any(term.on == "value" for term in terms):
            self.value_error += float(((inputs.policy.value - inputs.tokens.returns) ** 2).sum())
            self.num_valued += len(inputs.tokens)
        paired = [term.advantage for term in terms if isinstance(term.advantage, PairedAdvantage)]
        if paired:  # every term of such a method compares the same pairs
            margins = paired[0].margins(inputs.visible_to(paired[0]))
            self.margin += float(margins.sum())
            self.num_preferred += int((margins > 0).sum())
            self.num_pairs += len(margins)
        labeled = [term.advantage for term in terms if isinstance(term.advantage, LabeledAdvantage)]
        if labeled:  # every term of such a method has the same rewards
            self._add_implicit_rewards(labeled[0].rewards(inputs.visible_to(labeled[0])), inputs)

    def _add_implicit_rewards(self, rewards: Tensor, inputs: PartInputs) -> None:
        """Add the rewards [S] of the micro batch's chosen and rejected samples."""
        local = inputs.tokens.sample.unique()
        is_chosen, is_rejected = (
            inputs.samples.counts[local, int(source)] > 0 for source in (Source.CHOSEN, Source.REJECTED)
        )
        self.chosen_reward += float(rewards[local][is_chosen].sum())
        self.num_chosen += int(is_chosen.sum())
        self.rejected_reward += float(rewards[local][is_rejected].sum())
        self.num_rejected += int(is_rejected.sum())

    def summed_over_ranks(self, process_group: ProcessGroup) -> UpdateMetrics:
        """The sums over all ranks, and the maximum of `max_log_ratio`."""
        totals = process_group.sum(torch.tensor(astuple(self), dtype=torch.float64)).tolist()
        summed = UpdateMetrics(*(type(value)(total) for value, total in zip(astuple(self), totals, strict=True)))
        return replace(summed, max_log_ratio=max(process_group.gather(self.max_log_ratio)))

    def row(self) -> Row:
        """`loss` is the surrogate; `nll` is the plain negative log-likelihood of demonstrations, for all methods."""
        num_tokens = max(self.num_tokens, 1)
        row = {"loss": self.loss, "entropy": self.entropy / num_tokens, "clip_ratio": self.num_masked / num_tokens}
        if self.num_demonstration:
            row["nll"] = -self.demonstration_logp / self.num_demonstration
        if self.num_rollout:
            row["sampler_gap"] = self.log_ratio / self.num_rollout
        if self.num_anchored:
            row["kl"] = self.anchor_kl / self.num_anchored
        if self.num_diverging:
            row["divergence"] = self.divergence / self.num_diverging
        if self.num_compared:
            row["mismatch_kl"] = self.mismatch / self.num_compared
            row["mismatch_ratio"] = math.exp(min(self.max_log_ratio, LOG_RATIO_LIMIT))
        if self.num_pairs:
            row["rewards/margins"] = self.margin / self.num_pairs
            row["rewards/accuracies"] = self.num_preferred / self.num_pairs
        if self.num_chosen:
            row["rewards/chosen"] = self.chosen_reward / self.num_chosen
        if self.num_rejected:
            row["rewards/rejected"] = self.rejected_reward / self.num_rejected
        if self.num_chosen and self.num_rejected:
            row["rewards/margins"] = row["rewards/chosen"] - row["rewards/rejected"]
        if self.num_valued:
            row["critic/error"] = self.value_error / self.num_valued
        return row


class PhaseTimer:
    """Wall-clock seconds by phase: `with timer("train"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def row(self, num_generated: int, num_trained: int) -> Row:
        """`time/<phase>`, their sum as `step_time`, and generated plus trained tokens per second, also by phase."""
        total = sum(self.seconds.values())
        row = {f"time/{phase}": value for phase, value in self.seconds.items()}
        row |= {"step_time": total, "tokens_per_second": (num_generated + num_trained) / total if total else 0.0}
        for phase, number in (("sample", num_generated), ("train", num_trained)):
            if number and self.seconds.get(phase):
                row[f"tokens_per_second/{phase}"] = number / self.seconds[phase]
        return row


def peak_memory(device: torch.device) -> Row:
    """`memory/peak_gb`: of a CUDA device since the start, otherwise the resident memory of this process; GB are 1e9."""
    if device.type == "cuda":
        return {"memory/peak_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory/peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
