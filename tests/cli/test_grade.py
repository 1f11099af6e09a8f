"""obverse grade: a line per row in its order, bad rows by file and line before anything is graded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.cli.main import main


def graded(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main(["grade", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(0 <= row.pop("seconds") < 30 for row in rows)
    return rows


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_math(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"prediction": "So \\boxed{(x+1)^2}", "answer": "x^2+2x+1"},
        {"prediction": "\ud800 #### 41", "answer": 42},
        {"prediction": "\\boxed{9^{9^{9}}}", "answer": "42"},
        {"prediction": "no idea", "answer": "42"},
    )
    assert graded(capsys, "math", file) == [
        {"verdict": "true", "reason": ""},
        {"verdict": "false", "reason": "'41' is not the answer"},
        {"verdict": "false", "reason": "prefilter: exponent"},
        {"verdict": "false", "reason": "no final answer"},
    ]


def test_countdown_choice_and_numeric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sums = write(tmp_path / "a.jsonl", {"prediction": "#3+5", "answer": {"numbers": [3, 5], "target": 8}})
    assert graded(capsys, "countdown", sums) == [{"verdict": "true", "reason": ""}]
    letters = write(tmp_path / "b.jsonl", {"prediction": "#Rome", "answer": "A", "choices": ["Rome", "Bonn"]})
    assert graded(capsys, "choice", letters)[0]["verdict"] == "true"
    numbers = write(tmp_path / "c.jsonl", {"prediction": "#9.7", "answer": 9.81, "tolerance": 0.05})
    assert graded(capsys, "numeric", numbers)[0]["verdict"] == "true"


def test_functions_of_the_user_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = tmp_path / "my.py"
    reward.write_text(
        "import os\n"
        "def fn(completions, level, **columns):\n    return [level[0] * len(text) for text in completions]\n"
        "def hangs(problem, text):\n    while True: pass\n"
        "def dies(problem, text):\n    os._exit(1)\n"
    )
    file = write(tmp_path / "rows.jsonl", {"prediction": "#1", "level": 0.25, "answer": "1"})
    assert graded(capsys, f"{reward}:fn", file) == [{"verdict": "false", "reason": "", "reward": 0.5}]
    assert graded(capsys, f"{reward}:hangs", file, "--verifier_seconds", "0.3") == [
        {"verdict": "error", "reason": "timeout"}
    ]
    assert graded(capsys, f"{reward}:dies", file) == [{"verdict": "error", "reason": "crash"}]
    mixed = graded(capsys, f"exact,{reward}:fn", file, "--verifier_weights", "1,0.5")
    assert mixed == [{"verdict": "true", "reason": "", "reward": 1.25}]


def test_bad_rows_are_named_and_nothing_is_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "rows.jsonl", {"prediction": "#1", "answer": "1"}, {"answer": "1"}, {"prediction": "#1"}, "{", [1]
    )
    assert main(["grade", "math", file]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    for line in ("2: prediction: missing", "3: answer: missing", "4: json: ", "5: row: not an object"):
        assert f"rows.jsonl:{line}" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["math"], 2, "VERIFIER FILE"),
        (["maths", "x.jsonl"], 2, "did you mean 'math'?"),
        (["math", "nowhere.jsonl"], 3, "nowhere.jsonl: not a file of rows"),
        (["math", "x.jsonl", "--verifier_weights", "1,2"], 2, "2 weights for 1 verifiers"),
        (["nowhere.py:fn", "x.jsonl"], 2, "there is no file 'nowhere.py'"),
    ],
)
def test_mistakes_end_with_their_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grade", *words]) == code
    assert message in capsys.readouterr().err
