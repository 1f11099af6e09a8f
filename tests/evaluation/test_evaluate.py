"""Evaluation: what is sampled, counted, stored and said, of a model and of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from evaluation.eval_runs import Notes, config, stored_rows
from rich.console import Console
from scripted_sampler import ScriptedSampler
from tiny_models import save_tiny
from transformers import AutoTokenizer

import runs
from obverse.config.eval import EvalConfig
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.evaluation import evaluate as evaluation
from obverse.evaluation.bootstrap import nested_interval
from obverse.evaluation.evaluate import EvalSetup, Report, Score, evaluate, evaluate_each, measure, quote
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.training.loop import train
from obverse.types import Problem

LUCKY = "def lucky(problem, text):\n    return len(text) % 2\n"


def score(difficulty: str, num_correct: int, num_samples: int = 4) -> Score:
    return Score("p", difficulty, num_samples, num_correct, 1, num_samples, 0, [], [])


def test_a_report_has_a_row_per_difficulty_and_one_for_all() -> None:
    report = Report("r", [score("2", 4), score("10", 0), score("2", 0)], k=(1, 2))  # of one name, and still three
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
    assert stored["summary"]["all"]["problems"] == 4 and stored["grader"]["verifiers"] == [f"{reward}:lucky"]
    rows = stored_rows(tmp_path / "out" / "chains")
    assert len({(row["problem"], row["seed"]) for row in rows}) == 12
    assert all(row["correct"] == (len(row["text"]) % 2 == 1) for row in rows)
    assert {row["finish"] for row in rows} <= {"stop", "length"} and all(row["num_tokens"] <= 8 for row in rows)
    share = sum(row["correct"] for row in rows) / 12
    assert stored["summary"]["all"]["avg@3"] == pytest.approx(share) and 0 < share < 1
    assert stored["summary"]["all"]["pass@1"] == pytest.approx(share)


def test_a_seed_names_the_problem_and_the_number_not_the_place(tiny: Path) -> None:
    def seeds(problems: list[Problem]) -> dict[str, list[int]]:
        sampler = ScriptedSampler(lambda prompt, seed: [5, renderer.stop_ids[0]])
        measure(problems, EvalSetup(sampler, renderer, SamplingParams(renderer.stop_ids, 4), num_samples=3, seed=1))
        return {problem.id: list(request.seeds) for problem, request in zip(problems, sampler.requests, strict=True)}

    renderer = Renderer(AutoTokenizer.from_pretrained(tiny))
    problems = [Problem(name, "1+1=", "2", verifier="math") for name in "abc"]
    found = seeds(problems)
    assert len({seed for row in found.values() for seed in row}) == 9
    assert seeds(problems[::-1]) == found


def test_the_same_evaluation_twice_and_in_other_batches_is_the_same(tiny: Path, chains: Path, tmp_path: Path) -> None:
    found = []
    for name, batch_size in (("a", 256), ("b", 256), ("c", 5)):
        evaluate(config(tiny, dataset=str(chains), output=tmp_path / name, batch_size=batch_size))
        found.append(stored_rows(tmp_path / name / "chains"))
    assert found[0] == found[1] == found[2]


def test_a_run_is_evaluated_at_its_newest_checkpoint_with_its_own_settings(
    tiny: Path, chains: Path, tmp_path: Path
) -> None:
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=1))
    watch = Notes()
    report = evaluate(EvalConfig(model=str(tmp_path / "run"), num_problems=2, k=(1,)), watch)
    assert report.path == tmp_path / "run" / "eval" / "checkpoint-1" / "chains" / "result.json"
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
    assert any("1 of 7 problems" in note for note in watch.notes)
    with pytest.raises(ConfigError, match="raise --max_prompt_length"):
        train(runs.config("sft", tmp_path / "other", tiny, chains, max_steps=1, max_prompt_length=2))


def test_figures_over_seeds_have_an_interval_over_seeds() -> None:
    scores = [
        replace(score("", c), problem=p, round=r)
        for r, row in enumerate([[4, 0], [2, 1]])
        for p, c in zip("ab", row, strict=True)
    ]
    row = Report("r", scores, k=(1,)).summary()["all"]
    assert row["problems"] == 2 and row["avg@4"] == 7 / 16
    assert row["interval"] == list(nested_interval([[1.0, 0.0], [0.5, 0.25]], bounds=(0, 1)))


def test_reasons_for_no_verdict_are_shares_and_maj_stands_beside_pass() -> None:
    scores = [
        replace(score("", 1), num_ungraded=2, reasons={"timeout": 1, "crash": 1}, majority={2: 0.5}) for _ in "ab"
    ]
    report = Report("r", scores, k=(1, 2))
    row = report.summary()["all"]
    assert row["reasons"] == {"timeout": 0.25, "crash": 0.25} and row["ungraded"] == 0.5 and row["maj@2"] == 0.5
    assert "maj@1" not in row and set(row["intervals"]) == {"pass@1", "pass@2", "maj@2"}


def test_a_table_prints_what_models_and_verifiers_say_as_it_is() -> None:
    odd = {"problem": "[red]p[/]", "num_ungraded": 1, "reasons": {"[/bold] \x1b[31m": 1}}
    scores = [replace(score(level, 1), **odd) for level in ("[blue]", "[/x]")]
    console = Console(width=100, record=True, file=StringIO())
    console.print(Report("[m] on d", scores, k=(1,), notes=("see [/this]",)).table())
    text = console.export_text()
    for said in ("[m] on d: 2 problems", "[blue]", "[/x]", "[/bold] \\x1b[31m", "see [/this]", "25.0%"):
        assert said in text


def test_a_second_start_draws_only_what_is_missing(tiny: Path, chains: Path, tmp_path: Path, drawn: list[int]) -> None:
    given = {"dataset": str(chains), "output": tmp_path / "out", "k": (1,)}
    evaluate(config(tiny, **given, num_generations=2))
    assert len(drawn) == 8
    first = evaluate(config(tiny, **given, num_generations=3)).summary()
    assert len(drawn) == 12 == len(set(drawn))
    again = evaluate(config(tiny, **given, num_generations=3))
    assert len(drawn) == 12 and again.summary() == first
    evaluate(config(tiny, **given, num_generations=1, num_seeds=2))
    assert len(drawn) == 16 and len(stored_rows(tmp_path / "out" / "chains")) == 16
    fresh = evaluate(config(tiny, **(given | {"output": tmp_path / "new"}), num_generations=3))
    assert fresh.summary() == first
    chains.write_text(chains.read_text().replace('"answer": "', '"answer": "1', 1))  # what is right has changed
    evaluate(config(tiny, **given, num_generations=3))
    assert len(drawn) == 16 + 12 + 3


def test_a_stop_keeps_whole_chunks_and_the_same_command_goes_on(
    tiny: Path, chains: Path, tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obverse.evaluation.sample_and_score.CHUNK_SAMPLES", 6)
    asked = config(tiny, dataset=str(chains), output=tmp_path / "out")
    whole, sample = HFSampler.sample, HFSampler.sample

    def stopping(self: HFSampler, requests: Sequence[SamplingRequest], *rest: Any) -> Any:
        if len(drawn) >= 6:
            raise KeyboardInterrupt
        return sample(self, requests, *rest)

    watch = Notes()
    monkeypatch.setattr(HFSampler, "sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, watch)
    assert "6 of 12 samples are in" in watch.notes[-1]
    assert not (tmp_path / "out" / "chains" / "result.json").exists()
    monkeypatch.setattr(HFSampler, "sample", whole)
    evaluate(asked)
    assert len(drawn) == 12 == len(set(drawn)) == len(stored_rows(tmp_path / "out" / "chains"))


def test_samples_of_another_model_or_law_are_refused(tiny: Path, chains: Path, tmp_path: Path) -> None:
    given = {"dataset": str(chains), "output": tmp_path / "out", "k": (1,)}
    evaluate(config(tiny, **given))
    with pytest.raises(ConfigError, match="law.temperature 1.0 there, 0.5 now"):
        evaluate(config(tiny, **given, temperature=0.5))
    with pytest.raises(ConfigError, match="template.form"):
        evaluate(config(tiny, **given, chat_template="Q: {prompt}"))
    with pytest.raises(ConfigError, match="model.identity"):
        evaluate(config(save_tiny("qwen2", tmp_path / "other", seed=1), **given))


def test_several_benchmarks_load_the_model_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load_any = evaluation.load_any
    monkeypatch.setattr(evaluation, "load_any", lambda place, *rest: loaded.append(place) or load_any(place, *rest))
    given = {"benchmarks": ("arithmetic@avg8", "knights"), "output": tmp_path, "num_problems": 2, "k": (1, 2)}
    watch = Notes()
    first, second = evaluate_each(EvalConfig(model=str(tiny), max_completion_length=4, **given), watch)
    assert loaded == [str(tiny)]
    assert first.scores[0].num_samples == 8 and second.scores[0].num_samples == 2
    result = json.loads((tmp_path / "arithmetic-avg8" / "result.json").read_text())
    assert result["protocol"]["options"]["max_completion_length"] == 96
    assert result["protocol"]["overridden"] == {"max_completion_length": [96, 4], "num_problems": ["all", 2]}
    assert any("max_completion_length 4" in note for note in watch.notes)
    assert json.loads((tmp_path / "knights" / "result.json").read_text())["protocol"] is None


def test_greedy_is_one_sample_and_tokens_are_shown(tiny: Path, chains: Path, tmp_path: Path) -> None:
    watch = Notes()
    asked = EvalConfig(
        model=str(tiny), dataset=str(chains), output=tmp_path, temperature=0, max_completion_length=4, show_tokens=True
    )
    report = evaluate(asked, watch)
    assert {score.num_samples for score in report.scores} == {1} and report.k == (1,)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (sent,) = [note for note in watch.notes if "is sent as" in note]
    ids = json.loads(sent[sent.index("[") :])
    assert f"which read: {tokenizer.decode(ids)!r}" in watch.notes
    assert quote("a   b\n\u00e9") == "'a \\x20 b\\n\\xe9'"


def test_a_checkpoint_knows_its_template_and_another_one_is_told(tiny: Path, chains: Path, tmp_path: Path) -> None:
    form = "Problem: {prompt}\nSolution:"
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=1, chat_template=form))
    moved = tmp_path / "elsewhere"
    (tmp_path / "run" / "checkpoint-1").rename(moved)
    given = {"dataset": str(chains), "num_problems": 2, "k": (1,), "max_completion_length": 4}
    watch = Notes()
    report = evaluate(EvalConfig(model=str(moved), output=tmp_path / "a", **given), watch)
    assert report.path is not None and not any("was trained with" in note for note in watch.notes)
    assert json.loads(report.path.read_text())["template"]["form"] == form
    report = evaluate(EvalConfig(model=str(moved), output=tmp_path / "b", chat_template="none", **given), watch)
    (told,) = [note for note in watch.notes if "was trained with" in note]
    assert told.startswith(f"this model was trained with template {form!r}") and "template none" in told
    assert told in report.notes
