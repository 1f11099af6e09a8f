"""`load`: which of the four kinds of data sets a name means, and what it says of a name that is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from obverse.data import EMBEDDED, NUM_PROBLEMS, load_dataset
from obverse.errors import ConfigError, DataError
from obverse.rewards import get_verifier


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_embedded_tasks_load_by_name_with_demonstrations_judged_right(name):
    problems = load_dataset(name, num_problems=12, seed=1)
    assert [problem.id for problem in problems] == [f"{name}-train-{index}" for index in range(12)]
    for problem in problems:
        assert get_verifier(problem.verifier or "")(problem, problem.demonstration_text).correct


def test_difficulty_split_seed_and_number_reach_the_task():
    problems = load_dataset("arithmetic:2-3", split="heldout", num_problems=10, seed=5)
    assert {problem.meta["difficulty"] for problem in problems} == {2, 3}
    assert problems[0].id == "arithmetic-heldout-0"
    assert problems == load_dataset("arithmetic:2-3", split="heldout", num_problems=10, seed=5)
    assert problems != load_dataset("arithmetic:2-3", split="heldout", num_problems=10, seed=6)
    assert {problem.meta["difficulty"] for problem in load_dataset("countdown:3", num_problems=4)} == {3}
    assert len(load_dataset("arithmetic")) == NUM_PROBLEMS


def test_a_verifier_from_outside_replaces_the_task_s_own():
    assert {problem.verifier for problem in load_dataset("arithmetic", num_problems=3, verifier="math")} == {"math"}


@pytest.mark.parametrize("text", ["", "hard", "2-", "1-2-3", "-2", "2,6", "\u0663"])
def test_a_difficulty_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="arithmetic:2-6$"):
        load_dataset(f"arithmetic:{text}")


def test_files_and_folders_load_by_path(tmp_path, monkeypatch):
    (tmp_path / "sums.jsonl").write_text('{"prompt": "1+1=", "answer": 2}\n{"prompt": "2+2=", "answer": 4}\n')
    for name in (str(tmp_path / "sums.jsonl"), str(tmp_path)):
        assert [problem.answer for problem in load_dataset(name)] == [2, 4]
    assert len(load_dataset(str(tmp_path / "sums.jsonl"), split="heldout", num_problems=1)) == 1
    monkeypatch.chdir(tmp_path.parent)
    assert len(load_dataset(f"{tmp_path.name}/sums.jsonl")) == 2
    (tmp_path / "arithmetic").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_dataset("arithmetic", num_problems=1)[0].id == "arithmetic-train-0"  # an embedded name comes first
    with pytest.raises(DataError, match=r"^arithmetic: no \.jsonl"):
        load_dataset("./arithmetic")


@pytest.mark.parametrize(
    "name", ["nowhere.jsonl", "./nowhere", "/no/such/file", "a/b/c", "~/no-such-file.parquet", "a/b.json"]
)
def test_what_looks_like_a_path_is_a_missing_file(name):
    with pytest.raises(DataError, match="there is no file"):
        load_dataset(name)


@pytest.mark.parametrize("name", ["openai/gsm8k", "openai/gsm8k:main", "some-one/data_1.5"])
def test_owner_and_name_is_the_hub(name, monkeypatch):
    asked = []
    monkeypatch.setattr("obverse.data.load.read_hub", lambda *args: asked.append(args))
    load_dataset(name, split="test", num_problems=3, verifier="exact")
    assert asked == [(name, "test", 3, "exact")]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("aritmetic", "did you mean 'arithmetic'?"),
        ("Knight:2", "did you mean 'knights'?"),
        ("gsm8k", "embedded are arithmetic, countdown, knights;"),
        ("", "embedded are arithmetic, countdown, knights;"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_the_look_of_a_path(name, hint):
    with pytest.raises(ConfigError) as error:
        load_dataset(name)
    assert str(error.value) == (
        f"unknown data set {name!r}: {hint} a file looks like path/to/rows.jsonl (or .json, .csv, .parquet), "
        "a hub data set like owner/name"
    )


def test_reading_data_needs_neither_torch_nor_pyarrow_before_a_parquet_file_comes():
    code = "import sys, obverse.data; print({'torch', 'pyarrow', 'datasets', 'numpy', 'sympy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
