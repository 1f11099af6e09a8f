"""The teacher phase: which prompt each sample's teacher reads, and the log-prob of every token of the response."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_methods import IN_TWO_STAGES, MIXED, TAUGHT
from tiny_models import save_tiny

import runs
from obverse.errors import ConfigError, DivergedError
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.scoring import ScoringRequest
from obverse.models.load import load
from obverse.models.policy import Policy
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training import teacher_scores
from obverse.training.loop import train, train_step
from obverse.training.metrics import PhaseTimer
from obverse.training.rollout_phase import Rollouts
from obverse.training.run import Run
from obverse.training.setup import prepare
from obverse.training.teacher_scores import FLOOR, score_rollouts
from obverse.training.update_phase import run_updates
from obverse.types import GradeResult, Group, Sample, Source

ROLLOUT, HINT = Source.ROLLOUT, Source.HINT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("teachers") / "qwen2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("teachers") / "chains.jsonl", num_problems=6)


@pytest.fixture(scope="module")
def policy(tiny: Path) -> Policy:
    return load(str(tiny), dtype="float64")[0]


@pytest.fixture
def run_of(tiny: Path, problems: Path, tmp_path: Path) -> Callable[..., Run]:
    """Prepares a run of a method with a teacher, in float64."""

    def prepared(method: str = TAUGHT, **options: Any) -> Run:
        given = {"dtype": "float64", "max_steps": 2, "prompts_per_step": 2, **options}
        return prepare(runs.config(method, tmp_path / "run", tiny, problems, **given), SignalWatcher(Silent()))

    return prepared


def plain_scores(policy: Policy, request: ScoringRequest, temperature: float) -> list[float]:
    """The log-probs by one forward pass of the whole model over one row."""
    ids = [*request.prompt.token_ids, *request.ids]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0].double()
    scores = []
    for number, (token, source) in enumerate(zip(request.ids, request.sources, strict=True)):
        row = logits[len(request.prompt) + number - 1] / (temperature if source is ROLLOUT else 1.0)
        scores.append(float(row.log_softmax(-1)[token]))
    return scores


def requests_of(run: Run, seed: int = 0) -> list[ScoringRequest]:
    """Responses of uneven lengths, one of them empty and one with a hint, behind prompts that some share."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [run.collector.renderer.prompt(problem) for problem in run.problems[:3]]
    result = []
    for number, length in enumerate((4, 0, 7, 1, 5)):
        ids = torch.randint(3, 90, (length,), generator=generator).tolist()
        sources = [HINT] * min(2, length) + [ROLLOUT] * max(0, length - 2) if number == 2 else [ROLLOUT] * length
        result.append(ScoringRequest(prompts[number % 3], ids, sources))
    return result


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("micro_batch_tokens", [20, 4096])
def test_a_policy_scores_given_ids_as_a_plain_forward_pass(
    shares: bool, micro_batch_tokens: int, policy: Policy, run_of: Callable[..., Run]
) -> None:
    requests = requests_of(run_of())
    assert policy.shares
    progress: list[int] = []
    scorer = PolicyScorer(replace(policy, shares=shares), 0.7, micro_batch_tokens)
    scores = scorer.score(requests, progress.append)
    for request, row in zip(requests, scores, strict=True):
        assert row == pytest.approx(plain_scores(policy, request, 0.7), abs=1e-7)
    assert progress[-1] == 4 and scorer.score([]) == []
    assert scorer.num_parameters == sum(weight.numel() for weight in policy.model.parameters())


def test_an_id_beyond_the_vocabulary_cannot_be_said(policy: Policy, run_of: Callable[..., Run]) -> None:
    request = requests_of(run_of())[0]
    beyond = replace(request, ids=[*request.ids[:2], policy.model.config.vocab_size + 5])
    scores = PolicyScorer(policy, 1.0, 256).score([replace(beyond, sources=[ROLLOUT] * 3)])[0]
    assert scores[2] == -math.inf and all(math.isfinite(score) for score in scores[:2])


def rollouts_of(run: Run, rewards: Sequence[Sequence[float]]) -> Rollouts:
    """Groups with made-up rollouts of these rewards; a wrong one has a reason."""
    groups = []
    for number, (problem, row) in enumerate(zip(run.problems, rewards, strict=False)):
        samples = []
        for position, reward in enumerate(row):
            ids = [10 + number, 20 + position, 30]
            grade = GradeResult.passed() if reward else GradeResult.failed(f"wrong unit {number}.{position}")
            text = f"<think>no</think>answer {number}.{position}"
            prompt = run.collector.renderer.prompt(problem)
            samples.append(Sample("rollout", prompt, ids, [ROLLOUT] * 3, [-1.0] * 3, text, grade=grade))
        groups.append(Group(problem, samples))
    method = run.schedule.methods[0]
    return Rollouts(groups, [method.select(group) for group in groups])


def texts_of(run: Run, rollouts: Rollouts) -> list[list[str]]:
    """The teacher's prompt of each selected sample as text."""
    decode = run.collector.renderer.coder.decode
    return [[decode(sample.teacher_prompt.token_ids) for sample in samples] for samples in rollouts.selected]  # type: ignore[union-attr]


def test_a_sibling_is_the_first_other_right_rollout(run_of: Callable[..., Run], policy: Policy) -> None:
    run = run_of(sees="sibling")
    rollouts = rollouts_of(run, [(0, 1, 1), (0, 1, 0), (0, 0, 0)])
    counts = score_rollouts(run, 0, rollouts, PhaseTimer())
    texts = texts_of(run, rollouts)
    assert [len(row) for row in texts] == [3, 2, 0]  # the only right one has no sibling, a failed group has none
    answers = [[next(f"0.{n}" for n in range(3) if f"answer 0.{n}" in text) for text in texts[0]]]
    assert answers == [["0.1", "0.2", "0.1"]]
    assert all("answer 1.1" in text for text in texts[1]) and "<think>" not in "".join(map("".join, texts))
    assert all(run.problems[0].prompt in text for text in texts[0])
    assert (counts.num_tokens, counts.num_clamped) == (15, 0)
    assert counts.flops == 2.0 * policy.num_parameters * 15
    for samples in rollouts.selected:
        for sample in samples:
            assert sample.teacher_prompt is not None
            request = ScoringRequest(sample.teacher_prompt, sample.ids, sample.sources)
            assert sample.teacher == pytest.approx(plain_scores(policy, request, 1.0), abs=1e-7)


def test_feedback_is_read_where_no_sibling_is_right(run_of: Callable[..., Run]) -> None:
    run = run_of(sees="sibling+feedback")
    rollouts = rollouts_of(run, [(0, 1, 0), (0, 0, 0)])
    score_rollouts(run, 0, rollouts, PhaseTimer())
    first, second = texts_of(run, rollouts)
    assert len(first) == 2 and all("answer 0.1" in text and "wrong unit" not in text for text in first)
    assert [f"wrong unit 1.{n}" in text for n, text in enumerate(second)] == [True] * 3


def test_a_long_context_is_cut_and_the_response_is_not(run_of: Callable[..., Run]) -> None:
    run = run_of(sees="sibling", max_teacher_prompt_length=200)
    rollouts = rollouts_of(run, [(1, 1, 0)])
    for sample in rollouts.groups[0].samples:
        sample.text = "123456789 " * 40
    score_rollouts(run, 0, rollouts, PhaseTimer())
    for sample in rollouts.selected[0]:
        assert sample.teacher_prompt is not None and 190 <= len(sample.teacher_prompt) <= 200
        assert sample.teacher is not None and len(sample.teacher) == 3


def test_samples_without_a_reader_of_the_teacher_are_kept_unscored(run_of: Callable[..., Run]) -> None:
    run = run_of(MIXED, max_mismatch_kl=None)
    rollouts = rollouts_of(run, [(1, 1, 0), (0, 0, 0)])
    for group in rollouts.groups:
        ids = run.collector.renderer.demonstration(group.problem).ids
        sources = [Source.DEMONSTRATION] * len(ids)
        shown = Sample("demonstration", group.samples[0].prompt, ids, sources, [0.0] * len(ids), "")
        group.samples.append(replace(shown, grade=GradeResult.passed()))
    rollouts.selected = [run.schedule.methods[0].select(group) for group in rollouts.groups]
    counts = score_rollouts(run, 0, rollouts, PhaseTimer())
    assert [[sample.kind for sample in samples] for samples in rollouts.selected] == [
        ["rollout", "rollout", "rollout", "demonstration"],
        ["demonstration"],
    ]
    demonstration = rollouts.selected[1][0]
    assert demonstration.teacher == [0.0] * len(demonstration.ids) and demonstration.teacher_prompt is None
    assert counts.num_tokens == 9
    row, num_trained = run_updates(run, 0, rollouts, 0.0)
    assert math.isfinite(row["loss"]) and num_trained > 9


class Scripted:
    """A scorer that returns given numbers."""

    num_parameters = 0

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def score(
        self, requests: Sequence[ScoringRequest], progress: Callable[[int], None] | None = None
    ) -> list[list[float]]:
        if progress is not None:
            progress(len(requests))
        return [list(self.scores) for _ in requests]


def scored_by(run: Run, scorer: Scripted) -> Rollouts:
    run.learners[0] = replace(run.learners[0], scorers={"": scorer})
    rollouts = rollouts_of(run, [(1, 0)])
    scored_by.counts = score_rollouts(run, 0, rollouts, PhaseTimer())  # type: ignore[attr-defined]
    return rollouts


def test_a_token_that_the_teacher_cannot_say_is_clamped(run_of: Callable[..., Run]) -> None:
    rollouts = scored_by(run_of(), Scripted(-0.5, -math.inf, FLOOR - 1))
    assert [sample.teacher for sample in rollouts.selected[0]] == [[-0.5, FLOOR, FLOOR]] * 2
    row = scored_by.counts.row()  # type: ignore[attr-defined]
    assert row == {"tokens/teacher": 6, "teacher/clamped": pytest.approx(2 / 3)}


@pytest.mark.parametrize("score", [math.nan, math.inf, 0.5])
def test_a_score_that_is_no_log_prob_ends_the_run(score: float, run_of: Callable[..., Run]) -> None:
    with pytest.raises(FloatingPointError, match="the teacher's log-prob"):
        scored_by(run_of(), Scripted(-0.5, score, -1.0))


def test_the_error_has_an_exit_code(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_scores, "PolicyScorer", lambda *options: Scripted(*[math.nan] * 99))
    monkeypatch.setattr(teacher_scores, "runs_together", lambda scorer: False)
    with pytest.raises(DivergedError, match="step 1: the teacher's log-prob") as caught:
        train(runs.config(TAUGHT, tmp_path / "run", tiny, problems, max_steps=1))
    assert caught.value.exit_code == 5


def test_each_sample_is_scored_once_a_step(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    score = PolicyScorer.score

    def counted(self: PolicyScorer, requests: Sequence[ScoringRequest], *rest: Any) -> list[list[float]]:
        calls.append(len(requests))
        return score(self, requests, *rest)

    monkeypatch.setattr(PolicyScorer, "score", counted)
    several = {"num_iterations": 2, "num_mini_batches": 2}
    train(runs.config(TAUGHT, tmp_path / "run", tiny, problems, max_steps=2, who="initial", **several))
    assert calls == [12, 12]
    rows = RunFolder(tmp_path / "run").metrics()
    budget = 0.0
    for row in rows:
        assert row["tokens/teacher"] == row["tokens/generated"] and row["tokens/trained"] == 2 * row["tokens/generated"]
        budget += row["tokens/generated"] + row["tokens/trained"] + row["tokens/teacher"]
        assert row["num_tokens"] == budget and "time/teacher" in row
    size = sum(weight.numel() for weight in load(str(tiny))[0].model.parameters())
    assert rows[0]["flops"] == size * (2 + 6 * 2 + 2) * rows[0]["tokens/generated"]
    samples = [json.loads(line) for line in (tmp_path / "run/samples/step-000001.jsonl").read_text().splitlines()]
    assert all(len(row["teacher"]) == len(row["ids"]) for row in samples if row["kept"])


def test_a_signal_in_the_phase_leaves_the_run_before_the_step(tiny: Path, problems: Path, tmp_path: Path) -> None:
    class Stopping(Silent):
        def phase(self, phase: str, done: int, total: int) -> None:
            if phase == "teacher" and steps == [1]:
                signal.raise_signal(signal.SIGINT)

        def step(self, step: int, total_steps: int, metrics: object) -> None:
            steps.append(step)

    steps: list[int] = []
    options = {"max_steps": 3, "who": "average"}
    outcome = train(runs.config(TAUGHT, tmp_path / "run", tiny, problems, **options), Stopping())
    assert (outcome.stopped, outcome.step, outcome.exit_code) == (True, 1, 130)
    train(runs.config(TAUGHT, tmp_path / "run", tiny, problems, **options, resume_from_checkpoint="auto"))
    train(runs.config(TAUGHT, tmp_path / "whole", tiny, problems, **options))
    assert runs.figures(tmp_path / "run") == runs.figures(tmp_path / "whole")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load(str(folder), dtype="float64")[0].model.state_dict()
    return state


def test_the_average_follows_the_policy_by_its_rate(tiny: Path, problems: Path, tmp_path: Path) -> None:
    options = {"who": "average", "rate": 0.25, "dtype": "float64", "sees": "demonstration"}
    train(runs.config(TAUGHT, tmp_path / "run", tiny, problems, max_steps=1, **options))
    saved = tmp_path / "run" / "checkpoint-1"
    before, after, average = map(weights, (tiny, saved, saved / "teacher"))
    for name, value in average.items():
        assert torch.allclose(value, 0.75 * before[name] + 0.25 * after[name], rtol=0, atol=1e-12)
    assert any(not torch.equal(average[name], after[name]) for name in average)


@pytest.mark.parametrize("who", ["initial", "average"])
def test_a_later_stage_begins_with_its_own_teacher(who: str, run_of: Callable[..., Run]) -> None:
    run = run_of(IN_TWO_STAGES, who=who)
    train_step(run)
    before = [weight.clone() for weight in run.learners[1].policy.model.parameters()]
    assert run.stage == 1
    rollouts: list[list[torch.Tensor]] = []
    real = teacher_scores.score_on_all_ranks

    def watched(*arguments: Any) -> Any:
        teacher = run.learners[1].teacher
        assert teacher is not None
        rollouts.append([weight.clone() for weight in teacher.model.parameters()])
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_scores, "score_on_all_ranks", watched)
        train_step(run)
    assert all(torch.equal(a, b) for a, b in zip(rollouts[0], before, strict=True))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"who": "model"}, "give --teacher_model"),
        ({"teacher_model": "embedded"}, "--teacher_model: .* leave it out"),
        ({"teacher_template": "{prompt}{context}"}, "--teacher_template: .* leave it out"),
        ({"sees": "sibling", "teacher_template": "{prompt} alone"}, "no {context}"),
        ({"sees": "sibling", "format_reward": 0.5}, "--format_reward"),
        ({"sees": "sibling", "teacher_template": "./gone.txt"}, "--teacher_template: .* no readable file"),
    ],
)
def test_options_of_teachers_are_checked_before_anything_is_loaded(
    options: dict[str, Any], match: str, run_of: Callable[..., Run]
) -> None:
    with pytest.raises(ConfigError, match=match):
        run_of(**options)
