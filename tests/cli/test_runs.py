"""`obverse runs`: every state of a run folder, and damage that stays in its row."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.cli.runs import age
from obverse.config.resolve import resolve
from obverse.config.yaml_file import write
from obverse.methods import find
from obverse.runtime.run_summary import find_runs, is_alive, last_row, summarize


def a_run(folder: Path, steps: int, saved: int = 0, holder: str = "", **options: Any) -> Path:
    """A run folder as training leaves it after `steps` steps, with a checkpoint of `saved` unless it is 0."""
    method = options.pop("method", "grpo")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(write(resolve(method, find(method), options), origins=True))
    (folder / "environment.json").write_text("{}")
    rows = [
        {"step": n, "reward": n / 10, "accuracy": 0.5, "step_time": 2.0, "num_tokens": 100 * n}
        for n in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.lock").write_text(holder)
    if saved:
        (folder / f"checkpoint-{saved}").mkdir()
        (folder / f"checkpoint-{saved}" / "state.json").write_text(
            json.dumps({"step": saved, "before": (saved - 1) / 40})
        )
    return folder


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_that_has_ended_is_not_alive_though_its_exit_code_was_not_read() -> None:
    with subprocess.Popen(["true"]) as process:
        for _ in range(200):
            if not (alive := is_alive(process.pid, socket.gethostname())):
                break
            time.sleep(0.01)
        assert not alive and is_alive(os.getpid(), socket.gethostname())


def test_every_state(tmp_path: Path) -> None:
    host = socket.gethostname()
    runs = {
        "running": a_run(tmp_path / "a", 3, holder=f"process {os.getpid()} on {host}\n", max_steps=10),
        "finished": a_run(tmp_path / "b", 10, 10, max_steps=10),
        "stopped": a_run(tmp_path / "c", 4, 4, max_steps=10),
        "failed": a_run(tmp_path / "d", 7, 4, max_steps=10),
    }
    assert {state: summarize(folder).state for state, folder in runs.items()} == {state: state for state in runs}
    assert "step 4" in summarize(runs["stopped"]).detail and "step 4" in summarize(runs["failed"]).detail
    killed = summarize(a_run(tmp_path / "e", 2, holder=f"process {ended_process()} on {host}\n"))
    assert killed.state == "failed" and "killed" in killed.detail and "without a checkpoint" in killed.detail
    assert summarize(a_run(tmp_path / "f", 2, holder="process 1 on another-host\n")).state == "running"


def test_the_figures_are_those_of_the_last_row(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "r", 12, 12, model="org/name", dataset="d.jsonl")
    (folder / "eval").mkdir()
    for step, share in ((6, 0.25), (12, 0.75)):
        levels = {"1": {"pass@1": 0.9}, "all": {"pass@1": share}}
        (folder / "eval" / f"step-{step:06d}.json").write_text(json.dumps(levels))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "rew')  # being written
    run = summarize(folder)
    assert (run.method, run.model, run.dataset, run.step, run.total) == ("grpo", "org/name", "d.jsonl", 12, 40)
    assert (run.reward, run.accuracy, run.held_out, run.state) == (1.2, 0.5, 0.75, "stopped")


@pytest.mark.parametrize(("unit", "budget"), [("tokens", 500), ("steps", 5), ("seconds", 10)])
def test_a_budget_that_is_used_up_is_the_end(tmp_path: Path, unit: str, budget: int) -> None:
    assert summarize(a_run(tmp_path / "r", 5, 5, budget=budget, budget_in=unit)).state == "finished"
    assert summarize(a_run(tmp_path / "s", 4, 4, budget=budget, budget_in=unit)).state == "stopped"
    assert summarize(tmp_path / "s").total is None
    assert summarize(a_run(tmp_path / "t", 4, 4, budget=budget, budget_in=unit, max_steps=10**7)).total is None


def damage(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"method: [grpo\n"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"model: m\n"),
        ("metrics.jsonl", b"not json\n"),
        ("metrics.jsonl", b"[1]\n"),
        ("metrics.jsonl", b'{"step": 3, "reward": "high"}\n'),
        ("eval/step-000003.json", b'{"all": {"pass@1": "x"}}'),
        ("checkpoint-3/state.json", b"{"),
    ],
)
def test_a_damaged_folder_says_so_in_its_row(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(a_run(tmp_path / "bad", 3, 3, max_steps=9), name, content)
    a_run(tmp_path / "good", 3, 3, max_steps=3)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    rows = {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert rows["bad"]["state"] == "damaged" and rows["bad"]["detail"] and rows["good"]["state"] == "finished"
    assert main(["runs", str(tmp_path)]) == 0
    assert "damaged: " in capsys.readouterr().out


def test_a_figure_that_is_not_finite_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(a_run(tmp_path / "r", 3, 3, max_steps=3), "metrics.jsonl", b'{"step": 3, "reward": NaN}\n')
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert '"reward": null' in capsys.readouterr().out


def test_runs_are_found_at_any_level_and_not_inside_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [a_run(tmp_path / name, 1) for name in ("x", "compare/trials/y")]
    a_run(tmp_path / "x" / "set_aside" / "branch-1", 1)
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == sorted(runs) and find_runs(runs[0]) == [runs[0]]
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("compare/trials/y" in line for line in lines) and not any("branch" in line for line in lines)


def test_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0 and "no runs" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 2


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * 200_000 + b"\n" + b'{"step": 7}\n')
    assert last_row(path) == {"step": 7} and last_row(tmp_path / "none") == {}


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d")])
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text and age(None) == ""
