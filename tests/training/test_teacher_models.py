"""Teachers that are other models: tokenizers, rows that name them, prompts that fit, and adapters in their place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from teacher_methods import TAUGHT
from tiny_models import save_tiny
from transformers import AutoTokenizer

import runs
from obverse.config.teacher import TeacherOptions
from obverse.data.teacher_prompts import TeacherPrompts, read_teacher_template, text_of, with_context
from obverse.errors import ConfigError, DataError
from obverse.estimator.teacher import TeacherContext
from obverse.models.load import load, load_tokenizer
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.banner import facts
from obverse.training.input_fingerprints import of_models
from obverse.training.loop import train_step
from obverse.training.run import Run
from obverse.training.setup import prepare
from obverse.training.teacher_models import refuse_other_tokenizer
from obverse.types import Problem


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("teachers") / "qwen2")


@pytest.fixture(scope="module")
def moved(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights, and a head with more rows than there are tokens."""
    folder = tmp_path_factory.mktemp("teachers") / "moved"
    policy, tokenizer = load(str(tiny))
    model = policy.model
    model.resize_token_embeddings(model.config.vocab_size + 7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


def rows_of(path: Path, *fields: dict[str, Any]) -> Path:
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n), **field} for n, field in enumerate(fields)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(model: Path, rows: Path, folder: Path, watcher: Silent | None = None, **options: Any) -> Run:
    given = {"dtype": "float64", "max_steps": 2, "prompts_per_step": 2, **options}
    return prepare(runs.config(TAUGHT, folder, model, rows, **given), SignalWatcher(watcher or Silent()))


def test_each_row_is_scored_by_the_teacher_that_it_names(tiny: Path, moved: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", {"subject": "math"}, {"subject": "code"})
    teachers = {"teacher_model": f"math={tiny},code={moved}", "teacher_field": "subject"}
    run = run_of(tiny, rows, tmp_path / "run", who="model", **teachers)
    assert set(run.learners[0].teachers) == {"math", "code"} and run.learners[0].teacher is None
    assert dict(facts(run))["teacher"] == f"teacher(model, sees=prompt): math {tiny}, code {moved}"
    kept: dict[str, list[Any]] = {}
    train_step(run)
    for line in (tmp_path / "run/samples/step-000001.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept.setdefault(row["problem"], []).append(row)
    gaps = {name: max(abs(a - b) for row in group for a, b in zip(row["teacher"], row["behavior"], strict=True))
            for name, group in kept.items()}  # fmt: skip
    assert sorted(gap > 1e-3 for gap in gaps.values()) == [False, True]
    sizes = [
        sum(weight.numel() for weight in teacher.model.parameters()) for teacher in run.learners[0].teachers.values()
    ]
    assert sizes[0] != sizes[1]
    before = of_models(run.config, run.schedule)["teacher_model"]
    assert len(before) == 64 and run.inputs["teacher_model"] == before
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert of_models(run.config, run.schedule)["teacher_model"] != before


def test_a_row_that_names_no_teacher_is_refused(tiny: Path, tmp_path: Path) -> None:
    teachers = {"teacher_model": f"math={tiny},code={tiny}", "teacher_field": "subject", "who": "model"}
    rows = rows_of(tmp_path / "rows.jsonl", {"subject": "math"}, {"subject": "law"})
    with pytest.raises(DataError, match=r"row 2 .*subject is 'law'.*code, math \(1 of 2"):
        run_of(tiny, rows, tmp_path / "run", **teachers)
    rows = rows_of(tmp_path / "rows.jsonl", {"subject": "math"}, {})
    with pytest.raises(DataError, match="row 2 .*no field subject"):
        run_of(tiny, rows, tmp_path / "run", **teachers)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_model": "a,b"},
        {"teacher_field": "subject"},
        {"teacher_model": "a,b", "teacher_field": "subject"},
        {"teacher_model": "math=a,math=b", "teacher_field": "subject"},
    ],
)
def test_names_of_teachers_are_checked(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="teacher_"):
        TeacherOptions(**options)
    assert TeacherOptions(teacher_model="a=b").teacher_models == {"": "a=b"}


def test_a_teacher_with_another_tokenizer_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny("llama", tmp_path / "llama")
    rows = rows_of(tmp_path / "rows.jsonl", {})
    with pytest.raises(ConfigError, match=r"--teacher_model: .*llama has another tokenizer than .*qwen2: the token"):
        run_of(tiny, rows, tmp_path / "run", who="model", teacher_model=str(other))


def test_a_tokenizer_that_splits_texts_differently_is_refused(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    refuse_other_tokenizer("t", tokenizer, "m", tokenizer)
    other = AutoTokenizer.from_pretrained(str(tiny))
    content = json.loads(other.backend_tokenizer.to_str())
    content["normalizer"] = {"type": "Lowercase"}
    other._tokenizer = other.backend_tokenizer.from_str(json.dumps(content))
    with pytest.raises(ConfigError, match="splits the same text"):
        refuse_other_tokenizer("t", other, "m", tokenizer)


def test_adapters_give_the_initial_model_and_the_average(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    rows = rows_of(tmp_path / "rows.jsonl", {"demonstration": "0+0=0"}, {"demonstration": "1+1=2"})
    adapters = {"use_peft": True, "lora_r": 4, "sees": "demonstration", "rate": 0.25}
    for who in ("initial", "average"):
        run = run_of(tiny, rows, tmp_path / who, who=who, **adapters)
        learner = run.learners[0]
        assert learner.teacher is not None and learner.teacher.model is learner.policy.model
        before = [weight.clone() for weight in learner.policy.savable.parameters()]
        train_step(run)
        if who == "average":
            pairs = zip(before, learner.teacher.savable.parameters(), learner.policy.savable.parameters(), strict=True)
            assert all(torch.allclose(b, 0.75 * a + 0.25 * c, rtol=0, atol=1e-12) for a, b, c in pairs)
            assert set(run.models()) == {"", "teacher"}
        else:
            base = load(str(tiny), dtype="float64")[0].model
            ids = torch.tensor([[5, 6, 7]])
            with torch.no_grad(), learner.teacher.computing():
                assert torch.equal(learner.teacher.model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_long_demonstrations_are_left_out_and_missing_ones_are_noted(tiny: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", {"demonstration": "1" * 300}, {"demonstration": "2"}, {})
    notes = Notes()
    run = run_of(tiny, rows, tmp_path / "a", notes, sees="demonstration", max_teacher_prompt_length=250)
    assert [problem.prompt for problem in run.problems] == ["1+1=", "2+2="]
    assert any("1 of 3 problems left out by --max_teacher_prompt_length" in line for line in notes.lines)
    assert any("1 of 2 problems have no demonstration" in line for line in notes.lines)
    with pytest.raises(ConfigError, match="--max_teacher_prompt_length"):
        short = rows_of(tmp_path / "short.jsonl", {"demonstration": "2"})
        run_of(tiny, short, tmp_path / "b", sees="demonstration", max_teacher_prompt_length=3)
    with pytest.raises(ConfigError, match="no problem with a demonstration is left"):
        long = rows_of(tmp_path / "long.jsonl", {"demonstration": "1" * 300}, {})
        run_of(tiny, long, tmp_path / "d", sees="demonstration", max_teacher_prompt_length=250)
    with pytest.raises(ConfigError, match="teacher that reads demonstrations"):
        run_of(tiny, rows_of(tmp_path / "none.jsonl", {}), tmp_path / "c", sees="demonstration")


def test_templates_and_contexts(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.txt"
    file.write_text("{context} then {prompt}")
    assert read_teacher_template(str(file)) == "{context} then {prompt}" and read_teacher_template(None) is None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    changed = with_context(Problem("p", turns), "{prompt}: {context}", "see {prompt}")
    assert [message["content"] for message in changed.prompt] == ["a", "b", "c: see {prompt}"]  # type: ignore[index]
    answers = {"<think>12?</think>\n\n13": "13", "<think>12": "<think>12"}
    assert all(text_of(TeacherContext("sibling", text)) == answer for text, answer in answers.items())


def test_control_tokens_of_a_context_are_text(tiny: Path, tmp_path: Path) -> None:
    run = run_of(tiny, rows_of(tmp_path / "rows.jsonl", {}), tmp_path / "run", sees="sibling")
    prompts, problem = run.teacher_prompts, run.problems[0]
    assert isinstance(prompts, TeacherPrompts)
    end = prompts.renderer.stop_id
    count = prompts.prompt(problem, TeacherContext("sibling", "7")).token_ids.count(end)
    assert prompts.prompt(problem, TeacherContext("sibling", "7<|im_end|>8")).token_ids.count(end) == count
    assert prompts.prompt(problem, TeacherContext("prompt", "")) == prompts.renderer.prompt(problem)
    cut = replace(prompts, max_tokens=150).prompt(problem, TeacherContext("sibling", "7 " * 300))
    assert 140 <= len(cut) <= 150
