"""Counts of data sets, leaks between splits, and problems and tokens as a person reads them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from obverse.cli.data import check, compared_as_text, counts, overlaps, read, show, show_tokens, some, splits, visible
from obverse.config.commands import DataConfig
from obverse.data import load_dataset
from obverse.errors import ConfigError
from obverse.types import Problem


def a_console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=80), file


def rows(path: Path, *prompts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    return path


def test_counts_say_what_is_there() -> None:
    problems = [
        Problem("a", "2+2=", "4", ("2+2=4", "#4"), verifier="exact", meta={"difficulty": 1}),
        Problem("b", [{"role": "user", "content": "2+2="}], verifier="math", meta={"difficulty": 2}),
        Problem("c", "long  prompt", "5", meta={"difficulty": 2}),
    ]
    assert counts(problems) == {
        "problems": "3",
        "answers": "2",
        "demonstrations": "1",
        "verifiers": "exact 1, math 1, none 1",
        "difficulty": "1 1, 2 2",
        "repeated": "1 prompts occur more than once",
        "prompt": "4 characters in the middle, 11 at most",
        "demonstration": "7 characters in the middle, 7 at most",
        "steps": "2 steps in the middle, 2 at most",
    }


def test_embedded_splits_do_not_overlap() -> None:
    config = DataConfig(dataset="arithmetic:1-2", num_problems=50)
    assert overlaps(config, read(config, "train")) == ["no prompt is in two of train, heldout"]


def test_answers_that_computer_algebra_cannot_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "a", "answer": "x+1"}\n{"prompt": "b", "answer": "[[)"}\n{"prompt": "c", "answer": 7}\n'
    )
    (line,) = compared_as_text(load_dataset(str(tmp_path / "rows.jsonl")))
    assert line.startswith("rows-2: the answer '[[)' is compared as text")


def test_a_leak_between_the_files_of_a_folder_is_told(tmp_path: Path) -> None:
    rows(tmp_path / "x_train.jsonl", "a?", "b?", "c  ?")
    rows(tmp_path / "x_test.jsonl", "c ?", "d?")
    console, file = a_console()
    check(DataConfig(dataset=str(tmp_path)), console)
    assert "LEAK: 1 prompts of train are also in test" in file.getvalue()
    assert splits(str(tmp_path)) == ["train", "test"] and splits(str(tmp_path / "x_test.jsonl")) == []


def test_show_prints_the_parts_and_no_escape(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"prompt": "evil\u001b[31m [b]?", "answer": "7", "demonstration": ["one", "two"], "x": 1})
    )
    console, file = a_console()
    show(DataConfig(dataset=str(path)), console)
    words = file.getvalue().split()
    assert "evil\\x1b[31m" in words and "[b]?" in words
    assert words[words.index("one") - 2 : words.index("one") + 4] == ["step", "1", "one", "step", "2", "two"]
    assert "answer" in words and "x" in words


def test_what_is_shown_follows_the_seed(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *map(str, range(100)))
    chosen = [
        [problem.prompt for problem in some(DataConfig(dataset=str(path), num=3, seed=seed))] for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 3
    assert len(some(DataConfig(dataset=str(path), num=500))) == 100


@pytest.mark.parametrize("tiny_dir", ["llama"], indirect=True)
def test_tokens_are_shown_as_the_model_sees_them(tiny_dir: Path, tmp_path: Path) -> None:
    config = DataConfig(dataset="arithmetic:1", num=1, model=str(tiny_dir))
    (problem,) = some(config)
    console, file = a_console()
    show_tokens(config, [problem], console)
    text = file.getvalue()
    assert "tokens, never trained" in text and "tokens, trained by methods that imitate" in text
    shown = "".join(line for line in text.splitlines() if "|" in line).replace("|", "")
    assert visible(str(problem.prompt)) in shown and visible(problem.demonstration_text) in shown


def test_the_teachers_prompt_is_shown(tmp_path: Path) -> None:
    path, method = tmp_path / "rows.jsonl", tmp_path / "m.py"
    path.write_text(json.dumps({"prompt": "2+2?", "answer": "4", "demonstration": "two and two"}) + "\n")
    source = (Path(__file__).parents[1] / "teacher_methods.py").read_text()
    method.write_text(source.replace('sees: str = "prompt"', 'sees: str = "sibling+demonstration"'))
    options = {"dataset": str(path), "teacher": f"{method}:taught"}
    console, file = a_console()
    show(DataConfig(**options), console)
    sibling, demonstration = file.getvalue().split("the teacher's context: ")[1:]
    assert sibling.startswith("sibling") and "placeholder" in sibling and "2+2?" in sibling
    assert demonstration.startswith("demonstration") and "two and two" in demonstration
    console, file = a_console()
    show(DataConfig(**options, teacher_context="<think>no, 5</think>it is 4"), console)
    assert "it is 4" in file.getvalue() and "no, 5" not in file.getvalue()
    console, file = a_console()
    show_tokens(
        DataConfig(**options, model="embedded", teacher_context="it is 4"), some(DataConfig(**options)), console
    )
    text = file.getvalue().replace("|", "").replace("\n", "")
    assert "Correct answer: it is 4" in text and "Worked solution: two and two" in text
    with pytest.raises(ConfigError, match="--teacher grpo"):
        show(DataConfig(dataset=str(path), teacher="grpo"), console)
    with pytest.raises(ConfigError, match="--teacher_context"):
        show(DataConfig(dataset=str(path), teacher_context="it is 4"), console)
