"""What outlives an update: how it is learned, how it is read, and who reads nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exam.batches import for_method, groups, learned, numbers, ours
from parts.test_golden import inputs

from obverse.estimator.parts import (
    AboveMemory,
    AdaptiveKL,
    AnchorPenalty,
    Contrast,
    GreedyReward,
    LogPartition,
    RunningMean,
)
from obverse.estimator.schedule import only
from obverse.estimator.tables import PartInputs
from obverse.methods import build
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def remembering(at: PartInputs, *numbers: float) -> PartInputs:
    return at._replace(samples=replace(at.samples, memory=torch.tensor(numbers, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("observed", "expected"),
    [([6.6] * 100, 0.05005), ([60.0] * 100, 0.0501), ([-5.0] * 100, 0.0499), ([5.0, 7.0], 0.05), ([], 0.05)],
)
def test_the_coefficient_of_a_kl_follows_its_target(observed: list[float], expected: float) -> None:
    assert AdaptiveKL(0.05, target=6.0, horizon=10_000).updated_value(0.05, observed) == pytest.approx(
        expected, abs=1e-12
    )


def test_a_sample_shows_the_mean_divergence_of_its_own_tokens() -> None:
    two = inputs((1.0, 0.0), tokens=3)
    assert AdaptiveKL(0.05, 6.0).observe(two).tolist() == pytest.approx([math.log(0.25 / 0.20)] * 2)
    source = torch.tensor([int(Source.HINT)] + [int(Source.ROLLOUT)] * 5)
    counts = two.samples.counts.clone()
    counts[0, int(Source.HINT)], counts[0, int(Source.ROLLOUT)] = 1, 2
    behavior = two.tokens.behavior.clone()
    behavior[0] = 0.0  # the hint was not sampled
    hinted = two._replace(
        tokens=replace(two.tokens, source=source, behavior=behavior), samples=replace(two.samples, counts=counts)
    )
    assert AdaptiveKL(0.05, 6.0).observe(hinted).tolist() == pytest.approx([math.log(0.25 / 0.20)] * 2)


def test_a_penalty_reads_the_coefficient_that_is_remembered() -> None:
    two = remembering(inputs((1.0, 0.0)), 0.1, 0.3)
    assert AnchorPenalty(None)(two).tolist() == pytest.approx([-0.1 * math.log(1.25), -0.3 * math.log(1.25)])


def test_a_running_mean_moves_a_little() -> None:
    mean = RunningMean(0.9)
    assert mean.start == 0.0
    assert mean.updated_value(0.5, [1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.475)
    assert mean.updated_value(0.5, []) == 0.5
    assert mean.observe(inputs((1.0, 0.25))).tolist() == [1.0, 0.25]
    assert AboveMemory()(remembering(inputs((1.0, 0.0)), 0.25, 0.25)).tolist() == [0.75, -0.25]


@pytest.mark.parametrize("greedy", [0.0, 1.0])
def test_a_greedy_answer_is_a_baseline_and_never_trains(greedy: float) -> None:
    grade = GradeResult.passed() if greedy else GradeResult.failed("no")
    ids = {"prompt": ModelInput((1,)), "ids": [2], "sources": [Source.ROLLOUT], "behavior": [-0.1]}
    own = [Sample("rollout", **ids, text="", grade=each) for each in (GradeResult.passed(), GradeResult.failed("no"))]
    method = only(build("reinforce", {"baseline": "greedy"}))
    assert [request.greedy for request in method.ask(Problem("p", "x"), 0.0)] == [1]
    group = Group(Problem("p", "x"), [Sample("greedy", **ids, text="", grade=grade), *own])
    assert GreedyReward().value_for(group, stored=7.0) == greedy
    assert GreedyReward().observe(inputs()) is None
    update = learned([group], method)
    assert update is not None and [row.kind for row in update.rows] == ["rollout"] * 2
    assert update.samples.memory.tolist() == [greedy] * 2
    assert AboveMemory()(remembering(inputs((1.0, 0.0)), greedy, greedy)).tolist() == [1.0 - greedy, -greedy]


def scored(*problems: tuple[float, ...], known: float = 0.0) -> PartInputs:
    """Per problem one demonstration, then rollouts of one token with the given log-ratios to the anchor."""
    group = torch.tensor([index for index, scores in enumerate(problems) for _ in (0.0, *scores)])
    gaps = torch.tensor([gap for scores in problems for gap in (0.0, *scores)], dtype=torch.float64)
    shown = torch.cat([torch.tensor([True] + [False] * len(scores)) for scores in problems])
    source = torch.where(shown, int(Source.DEMONSTRATION), int(Source.ROLLOUT))
    flat = inputs((1.0,) * len(gaps), groups=tuple(group.tolist()))
    counts = torch.zeros(len(gaps), len(Source), dtype=torch.long).scatter(1, source[:, None], 1)
    tokens = replace(flat.tokens, source=source, anchor=flat.policy.logp - gaps)
    at = flat._replace(tokens=tokens, samples=replace(flat.samples, counts=counts))
    return remembering(at, *([known] * len(gaps)))


def test_without_memory_the_contrast_is_a_softmax() -> None:
    found = Contrast(LogPartition(gamma=1.0))(scored((0.0, math.log(3.0)), (2.0,)))
    assert found[[1, 2, 4]].tolist() == pytest.approx([-0.25, -0.75, -1.0])


def test_the_log_partition_is_an_average_of_probabilities() -> None:
    partition, at = LogPartition(gamma=0.75), scored((0.0, math.log(3.0)), (), known=math.log(4.0))
    # (1 - 0.75) 4 + 0.75 (1 + 3) / 2 = 2.5; the second problem has no own samples
    assert partition.observe(at).tolist() == pytest.approx([math.log(2.5)] * 3 + [math.log(4.0)])
    assert partition.updated_value(0.0, [math.log(2.5)] * 3) == math.log(2.5)
    assert partition.updated_value(0.3, []) == 0.3
    assert Contrast(partition)(at)[1:3].tolist() == pytest.approx([-0.5 / 2.5, -1.5 / 2.5])
    assert partition.per_problem and partition.needs_whole_groups and Contrast.needs_whole_groups
    assert partition.start == 0.0


def test_tau_divides_the_policys_own_part_only() -> None:
    at = scored((0.0,))
    logp = float(at.policy.logp[0])
    assert LogPartition(1.0, tau=2.0).observe(at)[1].item() == pytest.approx(logp / 2 - logp)
    averaged = LogPartition(1.0, tau=2.0, length_averaged=True)
    assert averaged.observe(at)[1].item() == pytest.approx(logp / 2)
    assert averaged.observe(inputs((1.0,), tokens=3)).tolist() == pytest.approx([math.log(0.30) / 2])


@pytest.mark.parametrize("gap", [-2000.0, 2000.0])
@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_a_contrast_stays_finite(gap: float, gamma: float) -> None:
    at = scored((gap, 0.0))
    found = Contrast(LogPartition(gamma))(
        at._replace(policy=at.policy._replace(logp=at.tokens.anchor + at.policy.logp))
    )
    assert torch.isfinite(found).all() and found.min() >= -1 / gamma - 1e-12 and found.max() <= 0


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 1.5}, {"tau": 0.0}])
def test_a_partition_that_never_learns_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gamma must be above 0"):
        LogPartition(**options)


@pytest.mark.parametrize(
    ("name", "options", "grades", "anchor", "behavior", "together"),
    [
        ("upft", {}, False, False, False, False),
        ("discriminative", {}, False, True, False, True),
        ("discriminative", {"variant": "dft2"}, False, False, False, True),
        ("ift", {}, False, False, False, False),
        ("rft", {}, True, False, False, False),
        ("raft", {"select": "best"}, True, False, False, False),
        ("reinforce", {"baseline": "running"}, True, False, False, False),
        ("reinforce", {"baseline": "greedy"}, True, False, False, False),
        ("rloo", {"beta": 0.05}, True, True, True, False),
        ("rloo", {"ratio": "none"}, True, False, False, False),
        ("dapo", {}, True, False, True, False),
    ],
)
def test_nothing_is_demanded_that_nobody_reads(
    name: str, options: dict[str, object], grades: bool, anchor: bool, behavior: bool, together: bool
) -> None:
    method = only(build(name, options))
    read = (method.grades, method.needs("anchor"), method.needs("behavior"), method.needs_whole_groups)
    assert read == (grades, anchor, behavior, together)


def test_the_new_partition_is_the_one_that_counts() -> None:
    """The share of every negative follows from the u that this very update arrives at, not from the one before."""
    method = only(build("discriminative"))
    made = for_method(groups(3), method, 3)
    data = numbers(made, method, 3)
    assert data is not None and isinstance(method.memory, LogPartition)
    outputs = inputs()._replace(tokens=data.tokens, samples=data.samples)
    outputs = outputs._replace(policy=outputs.policy._replace(logp=data.logp.detach()))
    moved = method.memory.observe(outputs)
    rows = dict(data.rows(Source.ROLLOUT))
    slopes = ours(data, method)[0]
    for row, mask in rows.items():
        others = [rows[member] for member in data.members(row) if member in rows]
        score = (data.logp[mask] - data.tokens.anchor[mask]).sum().detach()
        expected = (score - moved[row]).exp() / len(others) / len(data.rows(Source.DEMONSTRATION))
        torch.testing.assert_close(slopes[mask], expected.expand(int(mask.sum())))
