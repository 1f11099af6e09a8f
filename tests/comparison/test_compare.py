"""A comparison end to end, small: equal budgets, the same problems, a kill, figures from samples, exports."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.evaluation.metrics import pass_at_k
from obverse.runtime.run_dir import RunFolder

BUDGET = 1_500
WORDS = [
    "compare", "sft", "hpt,gate=1", "--budget", "1.5K", "--seeds", "2", "--learning_rates", "1e-4,1e-3",
    "--prompts_per_step", "4", "--num_test_problems", "3", "--num_generations_test", "2", "--k", "1,2",
    "--num_validation_problems", "4", "--num_generations_eval", "1", "--num_marks", "2", "--num_problems", "60",
    "--dataset", "arithmetic:1-3",
]  # fmt: skip
NAMES = ("sft", "hpt-gate-1")
SEEDS = (42, 43)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing disturbed."""
    root = tmp_path_factory.mktemp("compare") / "whole"
    assert main([*WORDS, "--output_dir", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def table(done: Path) -> dict[str, Any]:
    return json.loads((done / "standings.json").read_text())


def runs_of(root: Path) -> list[Path]:
    return [root / "runs" / name / f"seed-{seed}" for name in NAMES for seed in SEEDS]


def test_budgets_are_equal_within_a_step(done: Path) -> None:
    grid = [done / "grid" / name / f"rate-{rate}" for name in NAMES for rate in ("0.0001", "0.001")]
    for run in [*runs_of(done), *grid]:
        tokens = [row["num_tokens"] for row in RunFolder(run).metrics()]
        assert tokens[-2] < BUDGET <= tokens[-1], run


def test_methods_see_the_same_problems_in_the_same_order(done: Path) -> None:
    for seed in SEEDS:
        seen = [
            [
                json.loads(line)["problem"]
                for path in sorted((done / "runs" / name / f"seed-{seed}" / "samples").glob("step-*.jsonl"))
                for line in path.read_text().splitlines()
            ]
            for name in NAMES
        ]
        first, second = (list(dict.fromkeys(problems)) for problems in seen)
        short = min(len(first), len(second))
        assert short >= 4 and first[:short] == second[:short]
    tested = {
        tuple(json.loads(line)["problem"] for line in path.read_text().splitlines())
        for path in (done / "figures").glob("*/*/hard/*.jsonl")
    }
    assert len(tested) == 1


def test_the_rate_is_the_best_on_validation_and_its_cost_is_told(done: Path, table: dict[str, Any]) -> None:
    for row in table["entries"]:
        trials = [json.loads(path.read_text()) for path in (done / "grid" / row["entry"]).glob("*/trial.json")]
        scores = {trial["rate"]: trial["validation"][str(trial["last"])] for trial in trials}
        best = max(scores.values())
        assert row["rate"] == min(rate for rate, score in scores.items() if score == best)
        assert {cell["rate"]: cell["score"] for cell in row["grid"]} == scores
        assert all(cell["num_tokens"] >= BUDGET and cell["seconds"] > 0 for cell in row["grid"])
        for seed in SEEDS:
            config = (done / "runs" / row["entry"] / f"seed-{seed}" / "config.yaml").read_text()
            assert f"learning_rate: {row['rate']}" in config


def test_the_best_step_is_chosen_on_validation_and_never_mixed_with_the_last(done: Path, table: dict[str, Any]) -> None:
    by_name = {row["entry"]: row for row in table["entries"]}
    for run in runs_of(done):
        trial, row = json.loads((run / "trial.json").read_text()), by_name[run.parent.name]
        marks = {int(step): score for step, score in trial["validation"].items() if int(step) > 0}
        stored = {
            int(path.stem.partition("-")[2]): json.loads(path.read_text())["all"]["pass@1"]
            for path in (run / "eval").glob("step-*.json")
        }
        assert {int(step): score for step, score in trial["validation"].items()} == stored and len(marks) == 2
        assert trial["last"] == max(marks) and marks[trial["best"]] == max(marks.values())
        assert trial["best"] == row["best_steps"][SEEDS.index(trial["seed"])]
        kept = {int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*")}
        assert kept == {trial["last"], trial["best"]}
        for test in (column["name"] for column in table["tests"]):
            last, best = (
                done / "figures" / run.parent.name / step / test / f"seed-{trial['seed']}.jsonl"
                for step in ("last", "best")
            )
            if trial["last"] == trial["best"]:
                assert last.read_text() == best.read_text()
    cells = {(figure["step"], figure["k"]) for figure in table["figures"]}
    assert cells == {("last", 1), ("last", 2), ("best", 1), ("best", 2)}


def test_every_figure_comes_from_its_samples(done: Path, table: dict[str, Any]) -> None:
    inside = [test["name"] for test in table["tests"] if test["role"] == "in"]
    assert len(table["figures"]) == 3 * 2 * 2 * len(table["columns"]) and len(inside) == 3
    for figure in table["figures"]:
        folder = f"figures/{figure['entry']}/{figure['step']}"
        tests = inside if figure["test"] == "in domain" else [figure["test"]]
        assert figure["samples"] == (None if len(tests) > 1 else f"{folder}/{tests[0]}")
        files = [path for test in tests for path in sorted((done / folder / test).iterdir())]
        assert len(files) == 2 * len(tests)
        grades = [json.loads(line)["correct"] for path in files for line in path.read_text().splitlines()]
        mean = fmean(pass_at_k(len(correct), sum(correct), figure["k"]) for correct in grades)
        assert figure["mean"] == pytest.approx(mean, abs=1e-12)
        assert figure["low"] <= figure["mean"] <= figure["high"]


def test_others_are_held_against_the_best_baseline(table: dict[str, Any]) -> None:
    assert table["baselines"] == ["sft"]
    for figure in table["figures"]:
        if figure["k"] != 1:
            assert figure["verdict"] == ""
        elif figure["entry"] == "sft":
            assert figure["verdict"] == "best baseline" and figure["baseline"] is None
        else:
            low, high = figure["difference_low"], figure["difference_high"]
            says = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
            assert (figure["baseline"], figure["verdict"]) == ("sft", says)


def test_exports_hold_the_same_numbers(done: Path, table: dict[str, Any]) -> None:
    rows = list(csv.DictReader((done / "standings.csv").open()))
    assert [(row["entry"], row["step"], row["test"], int(row["k"])) for row in rows] == [
        (figure["entry"], figure["step"], figure["test"], figure["k"]) for figure in table["figures"]
    ]
    assert [float(row["mean"]) for row in rows] == [figure["mean"] for figure in table["figures"]]
    text, tex = (done / "standings.md").read_text(), (done / "standings.tex").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 40 and all((done / link).exists() for link in links)
    assert len(re.findall(r"not distinguishable|better|worse", text)) > 5
    width = len(table["columns"])
    lines = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 2 * 4 and all(line.count("&") == width for line in lines)
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    for line in text.splitlines():
        if line.startswith("| [sft]") and "figures/sft/last/hard" in line:
            hard = next(figure for figure in table["figures"] if (figure["entry"], figure["test"]) == ("sft", "hard"))
            assert f"[{100 * hard['mean']:.1f}](figures/sft/last/hard)" in line
            break
    else:
        pytest.fail("no row of sft")


def test_a_finished_comparison_is_not_run_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(done)
    assert main(["compare", "--output_dir", str(done)]) == 0
    assert "8 of 8 runs are done already" in capsys.readouterr().out
    assert fingerprint(done) == before


def test_another_comparison_is_refused_in_its_folder(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--num_marks", "3", "--output_dir", str(done)]) == 2
    assert "num_marks" in capsys.readouterr().err
    assert main([*WORDS, "--output_dir", str(done / "runs")]) == 2
    assert "not empty" in capsys.readouterr().err


def fingerprint(root: Path) -> dict[str, str]:
    """sha256 of everything that a table is made of and of the table itself, without what a clock measured."""
    files = [*root.glob("figures/*/*/*/*.jsonl"), *root.glob("runs/*/*/eval/*.json"), root / "standings.csv"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.mark.slow  # that a killed run goes on is in `make test`: reliability/test_c_kills.py
def test_a_kill_changes_nothing(done: Path, tmp_path: Path) -> None:
    """Two workers; their parent is killed without warning in the middle of a run; one process does the rest."""
    root = tmp_path / "killed"
    pid = os.fork()  # what the parent of workers imports is here already
    if pid == 0:
        try:
            with (tmp_path / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                main([*WORDS, "--jobs", "2", "--output_dir", str(root)])
        finally:
            os._exit(1)
    wait_for(root / "runs" / "sft" / "seed-42" / "metrics.jsonl", pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not (root / "runs" / "hpt-gate-1" / "seed-43" / "trial.json").exists()
    assert main(["compare", "--output_dir", str(root)]) == 0
    assert fingerprint(root) == fingerprint(done)


def wait_for(path: Path, pid: int) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < end, f"{path} is not written"
        time.sleep(0.05)
