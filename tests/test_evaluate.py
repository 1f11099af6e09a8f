"""Evaluation: what is sampled, counted, stored and said, of a model and of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs
from tiny_models import save_tiny
from transformers import AutoTokenizer

from obverse.config import EvalConfig
from obverse.errors import ConfigError
from obverse.evaluate import Report, Score, evaluate, measure
from obverse.records import Problem
from obverse.sampling import Law
from obverse.sampling.scripted import ScriptedSampler
from obverse.text import Renderer
from obverse.train import train
from obverse.watch import Silent

LUCKY = "def lucky(problem, text):\n    return len(text) % 2\n"


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("evaluate") / "qwen2")


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    return runs.write_problems(tmp_path / "chains.jsonl", num_problems=6)


def config(model: Path, **options: object) -> EvalConfig:
    given = {"model": str(model), "num_problems": 4, "k": (1, 3), "max_completion_length": 8}
    return EvalConfig(**(given | options))  # type: ignore[arg-type]


def score(difficulty: str, num_correct: int, num_samples: int = 4) -> Score:
    return Score("p", difficulty, num_samples, num_correct, 1, num_samples, 0, [], [])


def test_a_report_has_a_row_per_difficulty_and_one_for_all() -> None:
    report = Report("r", [score("2", 4), score("10", 0), score("2", 0)], k=(1, 2))
    summary = report.summary()
    assert list(summary) == ["2", "10", "all"]
    assert summary["2"]["avg@4"] == summary["2"]["pass@1"] == 0.5
    assert summary["all"]["problems"] == 3
    assert summary["all"]["truncated"] == 0.25
    low, high = summary["all"]["interval"]
    assert low <= 1 / 3 <= high


def test_every_sample_is_stored_with_its_verdict(tiny: Path, chains: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(LUCKY)
    report = evaluate(config(tiny, dataset=str(chains), output=tmp_path / "out", verifier=f"{reward}:lucky"))
    assert report.path is not None
    stored = json.loads(report.path.read_text())
    assert stored["summary"]["all"]["problems"] == 4
    rows = [json.loads(line) for line in (tmp_path / "out" / "chains.samples.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["correct"] == [len(text) % 2 == 1 for text in row["texts"]]
        assert row["num_correct"] == sum(row["correct"])
    share = sum(row["num_correct"] for row in rows) / 12
    assert stored["summary"]["all"]["avg@3"] == pytest.approx(share) and 0 < share < 1


def test_a_seed_names_the_problem_and_the_number_not_the_place(tiny: Path) -> None:
    def seeds(problems: list[Problem]) -> dict[str, list[int]]:
        sampler = ScriptedSampler(lambda prompt, seed: [5, renderer.stop_ids[0]])
        measure(problems, sampler, renderer, Law(renderer.stop_ids, 4), num_samples=3, seed=1)
        return {problem.id: list(order.seeds) for problem, order in zip(problems, sampler.orders, strict=True)}

    renderer = Renderer(AutoTokenizer.from_pretrained(tiny))
    problems = [Problem(name, "1+1=", "2", verifier="math") for name in "abc"]
    found = seeds(problems)
    assert len({seed for row in found.values() for seed in row}) == 9
    assert seeds(problems[::-1]) == found


def test_the_same_evaluation_twice_and_in_other_batches_is_the_same(tiny: Path, chains: Path, tmp_path: Path) -> None:
    texts = []
    for name, batch_size in (("a", 256), ("b", 256), ("c", 5)):
        report = evaluate(config(tiny, dataset=str(chains), output=tmp_path / name, batch_size=batch_size))
        texts.append([score.texts for score in report.scores])
    assert texts[0] == texts[1] == texts[2]


def test_a_run_is_evaluated_at_its_newest_checkpoint_with_its_own_settings(
    tiny: Path, chains: Path, tmp_path: Path
) -> None:
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=1))
    watch = Notes()
    report = evaluate(EvalConfig(model=str(tmp_path / "run"), num_problems=2, k=(1,)), watch)
    assert report.path == tmp_path / "run" / "eval" / "checkpoint-1" / "chains.json"
    assert json.loads(report.path.read_text())["config"]["max_completion_length"] == 12
    assert any("training problems" in note for note in watch.notes)


def test_a_run_without_a_checkpoint_is_one_sentence(tiny: Path, chains: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: sft\n")
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        evaluate(EvalConfig(model=str(tmp_path)))


def test_held_out_problems_are_measured_at_the_base_between_and_at_the_end(
    tiny: Path, chains: Path, tmp_path: Path
) -> None:
    held_out = {"eval_dataset": "arithmetic:1-2", "num_eval_problems": 4, "num_generations_eval": 2}
    watch = Notes()
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=5, eval_steps=2, **held_out), watch)
    names = sorted(path.name for path in (tmp_path / "run" / "eval").iterdir())
    assert names == [f"step-{step:06d}.json" for step in (0, 2, 4, 5)]
    assert sum("held-out problems solved" in note for note in watch.notes) == 4


def test_prompts_that_are_too_long_are_left_out_and_counted(tiny: Path, chains: Path, tmp_path: Path) -> None:
    rows = chains.read_text() + '{"prompt": "' + "long " * 50 + '", "answer": "1", "demonstration": "1"}\n'
    chains.write_text(rows)
    watch = Notes()
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=1, max_prompt_length=80), watch)
    assert "1 of 7 problems left out by --max_prompt_length" in watch.notes
    with pytest.raises(ConfigError, match="raise --max_prompt_length"):
        train(runs.config("sft", tmp_path / "other", tiny, chains, max_steps=1, max_prompt_length=2))
