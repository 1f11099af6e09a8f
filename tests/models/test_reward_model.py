"""A reward model as the judge: its scores are transformers' own, and they are the rewards of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exam.batches import sample
from scripted_sampler import ScriptedSampler
from tiny_models import save_tiny
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import runs
from obverse.data.renderer import Renderer
from obverse.errors import GraderError
from obverse.inference import SamplingParams
from obverse.models.load import load_scalar
from obverse.models.reward_model import RewardModel
from obverse.runtime.checkpoint import newest
from obverse.runtime.run_dir import RunFolder
from obverse.training.build_models import load_reward_model
from obverse.training.collector import Collector
from obverse.training.loop import train
from obverse.types import Group, Problem, Sample

PROBLEM = Problem("p", "What is 2+2?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy and tiny reward models whose heads say something, one of another family."""
    root = tmp_path_factory.mktemp("scorer")
    for family, name in (("qwen2", "scorer"), ("llama", "other")):
        save_tiny(family, root / family, seed=3)
        model, tokenizer, _ = load_scalar(str(root / family))
        with torch.no_grad():
            model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def scorer(folder: Path, name: str, tmp_path: Path, **options: object) -> RewardModel:
    config = runs.config("grpo", tmp_path, folder / "qwen2", "arithmetic", reward_model=str(folder / name), **options)
    made = load_reward_model(config, AutoTokenizer.from_pretrained(folder / "qwen2"))
    assert made is not None
    return made


def plain(place: Path, texts: list[list[int]]) -> list[float]:
    """transformers' own forward pass over each text alone; without padding it reads the last token."""
    model = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([text])).logits[0, 0]) for text in texts]


def answers(num: int) -> list[tuple[Problem, Sample]]:
    import random

    rng = random.Random(0)
    return [(PROBLEM, sample(rng, "rollout", 0.0, rng.randint(1, 30))) for _ in range(num)]


@pytest.mark.parametrize("batch_tokens", [1, pytest.param(64, marks=pytest.mark.slow), 10**6])
def test_scores_are_those_of_each_text_alone(folder: Path, tmp_path: Path, batch_tokens: int) -> None:
    made = scorer(folder, "scorer", tmp_path, micro_batch_tokens=batch_tokens)
    assert made.same_tokens
    mine = answers(9)
    expected = plain(folder / "scorer", [list(each.model_input.token_ids) for _, each in mine])
    assert len(set(expected)) == 9
    assert made.score(mine) == pytest.approx(expected, abs=1e-5)
    assert made.score([]) == []


def test_a_reward_model_with_another_tokenizer_reads_the_text_in_its_own_way(folder: Path, tmp_path: Path) -> None:
    made = scorer(folder, "other", tmp_path)
    assert not made.same_tokens
    own = Renderer(AutoTokenizer.from_pretrained(folder / "other"))
    texts = ["2+2=4", "no", "It is four, since two and two are four.", ""]
    mine = [(PROBLEM, replace(each, text=text)) for text, (_, each) in zip(texts, answers(4), strict=True)]
    written = [[*own.prompt(PROBLEM).token_ids, *own.response(PROBLEM, (text,)).ids] for text in texts]
    assert made.score(mine) == pytest.approx(plain(folder / "other", written), abs=1e-5)


class Fixed:
    """Scores by the number of tokens, or one number for all."""

    def __init__(self, score: float | None = None) -> None:
        self.fixed = score

    def score(self, samples: object) -> list[float]:
        return [each.ids[0] - 10.0 if self.fixed is None else self.fixed for _, each in samples]  # type: ignore[attr-defined]


def judged(folder: Path, judge: Fixed, own: bool = True) -> Group:
    import random

    rng = random.Random(0)
    renderer = Renderer(AutoTokenizer.from_pretrained(folder / "qwen2"))
    params = SamplingParams(renderer.stop_ids, max_tokens=4)
    maker = Collector(ScriptedSampler(lambda *_: [5]), renderer, params, seed=1, scorer=judge)
    kinds = ("demonstration", "rollout", "greedy", "chosen", "rejected", "hinted")
    group = Group(PROBLEM, [replace(sample(rng, kind, 0.0, 1), ids=[10 + n]) for n, kind in enumerate(kinds)])
    maker.grade([group], own)
    return group


def test_a_score_is_the_reward_and_above_zero_is_right(folder: Path) -> None:
    found = {each.kind: (each.reward, each.grade.correct) for each in judged(folder, Fixed()).samples}
    assert {kind: found[kind] for kind in ("rollout", "greedy", "hinted")} == {
        "rollout": (1.0, True), "greedy": (2.0, True), "hinted": (5.0, True)
    }  # fmt: skip
    assert found["demonstration"] == found["chosen"] == (1.0, True)
    assert found["rejected"] == (0.0, False)
    assert judged(folder, Fixed(-0.5)).of("rollout")[0].grade.correct is False
    assert judged(folder, Fixed(0.0)).of("rollout")[0].grade.correct is False


def test_a_method_that_reads_no_reward_is_not_scored(folder: Path) -> None:
    assert judged(folder, Fixed(), own=False).of("rollout")[0].grade.correct is None


def test_a_score_that_is_no_number_is_no_verdict(folder: Path) -> None:
    grade = judged(folder, Fixed(float("nan"))).of("rollout")[0].grade
    assert (grade.correct, grade.reward) == (None, 0.0) and "not finite" in grade.reason


def test_a_broken_reward_model_ends_a_run(folder: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = load_scalar(str(folder / "scorer"))
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "broken")
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    with pytest.raises(GraderError, match="reward model's score"):
        options = {"reward_model": str(tmp_path / "broken"), "max_steps": 1}
        train(runs.config("grpo", tmp_path / "run", folder / "qwen2", problems, **options))


def test_from_pairs_to_a_reward_model_to_a_policy(folder: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    options = {"max_steps": 24, "learning_rate": 3e-3, "prompts_per_step": 8}
    train(runs.config("reward_model", tmp_path / "judge", folder / "qwen2", problems, **options))
    rows = RunFolder(tmp_path / "judge").metrics()
    assert rows[0]["rewards/margins"] == 0.0, "an untrained head prefers nothing"
    assert rows[-1]["rewards/accuracies"] > 0.7 and rows[-1]["rewards/margins"] > 0.02
    assert rows[0]["problems/pairs"] == 1.0 and "entropy" not in rows[0] and "reward" not in rows[0]
    judge = newest(tmp_path / "judge")
    assert judge is not None
    given = {"reward_model": str(judge), "max_steps": 2, "verifier": None, "num_generations": 4}
    train(runs.config("rloo", tmp_path / "run", folder / "qwen2", problems, **given))
    first, second = RunFolder(tmp_path / "run").metrics()
    written = [
        json.loads(line) for line in (tmp_path / "run" / "samples" / "step-000001.jsonl").read_text().splitlines()
    ]
    renderer = Renderer(AutoTokenizer.from_pretrained(folder / "qwen2"))
    prompts = {row["id"]: row["prompt"] for row in map(json.loads, problems.read_text().splitlines())}
    texts = [
        [*renderer.prompt(Problem(row["problem"], prompts[row["problem"]])).token_ids, *row["ids"]] for row in written
    ]
    assert [row["reward"] for row in written] == pytest.approx(plain(judge, texts), abs=1e-5)
    assert first["reward"] == pytest.approx(sum(row["reward"] for row in written) / len(written))
    assert first["accuracy"] == sum(row["reward"] > 0 for row in written) / len(written)
    assert first["grad_norm"] > 0 and second["step_taken"] == 1.0
