"""Benchmarks: names, protocols, the layouts of their files, and what is said when a file is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from obverse.config.eval import EvalConfig
from obverse.data import benchmarks
from obverse.data.benchmarks import BENCHMARKS, find, read
from obverse.data.layouts import RowLocation
from obverse.errors import ConfigError, DataError
from obverse.evaluation.eval_sets import Target, find_eval_sets
from obverse.rewards import grade_completion
from obverse.runtime.callbacks import Silent

NAMES = "aime24 aime25 amc23 math500 minerva olympiadbench gsm8k arc_c gpqa countdown knights arithmetic"
ARC = {
    "id": "Mercury_1",
    "question": "What melts?",
    "choices": {"text": ["ice", "air", "fire", "light"], "label": ["1", "2", "3", "4"]},
    "answerKey": "1",
}
GPQA = {
    "Record ID": "rec1",
    "Question": "Which is right?",
    "Correct Answer": "the right one\n",
    "Incorrect Answer 1": "wrong 1",
    "Incorrect Answer 2": "wrong 2",
    "Incorrect Answer 3": "wrong 3",
}


def write(path: Path, *rows: dict[str, Any]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def hub(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def rows_of(name: str, split: str) -> Any:
        asked.append((name, split))
        return ((RowLocation("rows", number), row) for number, row in enumerate(rows, start=1))

    monkeypatch.setattr(benchmarks, "hub_rows", rows_of)
    return asked


def test_every_benchmark_of_the_papers_is_there_and_a_typo_is_told() -> None:
    assert list(BENCHMARKS) == NAMES.split()
    with pytest.raises(ConfigError, match="'math50'.*'math500'"):
        find("math50")
    with pytest.raises(ConfigError, match="'avg23'.*'avg32'"):
        find("aime24@avg23")


def test_the_protocol_of_the_papers() -> None:
    protocol = find("aime24@avg32").protocol
    assert protocol is not None
    assert (protocol.num_samples, protocol.temperature, protocol.top_p, protocol.max_completion_length) == (
        32,
        0.6,
        0.95,
        8192,
    )
    assert find("aime24").protocol is None
    assert all(each.source for bench in BENCHMARKS.values() for each in bench.protocols)


def test_a_list_of_prompts_and_answers_is_read(tmp_path: Path) -> None:
    write(tmp_path / "bench_aime24.json", {"prompt": "2+2?", "answer": "\\boxed{4}"}, {"prompt": "1+1?", "answer": "2"})
    found = read(BENCHMARKS["aime24"], tmp_path)
    assert [problem.id for problem in found.problems] == ["bench_aime24-1", "bench_aime24-2"]
    assert found.source == str(tmp_path / "bench_aime24.json")
    grade = grade_completion(found.problems[0], "so it is \\boxed{4}")
    assert grade is not None and grade.correct
    assert len(read(BENCHMARKS["aime24"], tmp_path, num_problems=1).problems) == 1


def test_gsm8k_countdown_and_knights_are_read_from_their_files(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_test.jsonl", {"question": "2+2?", "answer": "It is\n#### 4"})
    assert read(BENCHMARKS["gsm8k"], tmp_path).problems[0].answer == "4"
    row = {"prompt": [{"role": "user", "content": "make 3"}], "hint": ["1+2"], "answer": "1+2"}
    truth = {"ground_truth": {"numbers": [1, 2], "target": 3}, "style": "rule"}
    write(tmp_path / "uft_countdown_test.parquet", {**row, "reward_model": truth, "data_source": "countdown"})
    (problem,) = read(BENCHMARKS["countdown"], tmp_path).problems
    assert problem.verifier == "countdown" and problem.answer == {"numbers": [1, 2], "target": 3}
    # without its file an embedded task is made here, and says so
    assert read(BENCHMARKS["knights"], tmp_path, num_problems=3).source == "embedded knights, heldout"


@pytest.mark.parametrize(
    ("name", "row", "prompt", "answer"),
    [
        ("aime24", {"id": 60, "problem": "a?", "solution": "\\boxed{204}", "url": "u"}, "a?", "\\boxed{204}"),
        ("aime25", {"problem": "a?", "answer": "70", "id": "0"}, "a?", "70"),
        ("amc23", {"id": 0, "question": "a?", "answer": "27.0", "url": "u"}, "a?", "27.0"),
        (
            "math500",
            {"problem": "a?", "solution": "long", "answer": "p - q", "level": 5, "unique_id": "t/1"},
            "a?",
            "p - q",
        ),
        ("minerva", {"question": "a?", "answer": "1.6"}, "a?", "1.6"),
        (
            "olympiadbench",
            {"id": 1606, "question": "a?", "solution": ["long"], "final_answer": ["2", "3"]},
            "a?",
            "2, 3",
        ),
    ],
)
def test_the_row_layouts_of_the_hub(
    name: str, row: dict[str, Any], prompt: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(monkeypatch, row)
    found = read(BENCHMARKS[name])
    assert asked == [(BENCHMARKS[name].hub, "test")] and found.source == f"hub {BENCHMARKS[name].hub}"
    (problem,) = found.problems
    assert (problem.prompt, problem.answer, problem.verifier) == (prompt, answer, "math")
    if name == "math500":
        assert problem.id == "t/1" and problem.meta["level"] == 5


def test_arc_has_lettered_options(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ARC, {**ARC, "id": "2", "answerKey": "4"})
    first, last = read(BENCHMARKS["arc_c"]).problems
    assert "\nA. ice\nB. air\n" in str(first.prompt) and (first.answer, last.answer) == ("A", "D")
    for text, right in (("\\boxed{A}", True), ("The answer is ice.", True), ("\\boxed{B}", False)):
        grade = grade_completion(first, text)
        assert grade is not None and grade.correct is right


def test_gpqa_is_shuffled_by_the_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**GPQA, "Question": f"Which is {n}?", "Record ID": f"r{n}"} for n in range(40)]
    hub(monkeypatch, *rows)
    problems = read(BENCHMARKS["gpqa"]).problems
    assert {problem.answer for problem in problems} == set("ABCD")
    assert all(problem.meta["choices"]["ABCD".index(problem.answer)] == "the right one" for problem in problems)
    hub(monkeypatch, *rows[::-1])
    again = {problem.id: problem for problem in read(BENCHMARKS["gpqa"]).problems}
    assert all(again[problem.id].prompt == problem.prompt for problem in problems)


def test_an_answer_that_is_no_option_is_a_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {**ARC, "answerKey": "E"})
    with pytest.raises(DataError, match="rows:1"):
        read(BENCHMARKS["arc_c"])


def test_a_row_that_lacks_a_key_is_a_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, GPQA, {key: value for key, value in GPQA.items() if key != "Incorrect Answer 2"})
    with pytest.raises(DataError, match="rows:2: Incorrect Answer 2: missing"):
        read(BENCHMARKS["gpqa"])


def test_a_missing_file_says_which_and_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bench_aime25.*--benchmark_dir"):
        read(BENCHMARKS["aime25"], tmp_path)


def trial(tmp_path: Path, name: str, **given: Any) -> Any:
    write(tmp_path / "bench_aime24.json", {"prompt": "2+2?", "answer": "4"}, {"prompt": "1+1?", "answer": "2"})
    config = EvalConfig(model="m", benchmarks=(name,), benchmark_dir=tmp_path, **given)
    run = {"max_completion_length": 12, "temperature": 1.0, "verifier": "exact", "chat_template": "none"}
    (found,) = find_eval_sets(config, Target("m", "m", tmp_path, run=run), Silent())
    return found


def test_a_protocol_wins_over_the_run_and_what_is_given_over_the_protocol(tmp_path: Path) -> None:
    found = trial(tmp_path, "aime24@avg32")
    config = found.config
    assert (config.num_samples, config.temperature, config.top_p, config.max_completion_length) == (32, 0.6, 0.95, 8192)
    assert found.problems[0].verifier == "math" and config.reached_k == (1, 8) and not found.overridden
    found = trial(tmp_path, "aime24@avg32", temperature=0.7, top_p=0.95, num_generations=8, num_problems=1)
    assert found.overridden == {"temperature": (0.6, 0.7), "num_generations": (32, 8), "num_problems": ("all", 1)}
    assert (found.config.num_samples, found.config.temperature) == (8, 0.7)
    assert "temperature 0.7 instead of 0.6" in found.notes()[1]


def test_without_a_protocol_the_options_and_the_run_decide(tmp_path: Path) -> None:
    found = trial(tmp_path, "aime24", k=(1, 4))
    assert (found.config.num_samples, found.config.max_completion_length) == (4, 12) and found.notes() == []
    assert len(found.problems) == 2 and found.problems[0].verifier == "math"
    assert trial(tmp_path, "aime24@greedy").config.reached_k == (1,)
    with pytest.raises(ConfigError, match="32 samples .*k = 64"):
        trial(tmp_path, "aime24@avg32", k=(1, 64))
