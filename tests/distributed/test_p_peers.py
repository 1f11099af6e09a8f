"""P1, N5 and C7 with several ranks: whatever befalls one, all end, say why, and the last checkpoint holds."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Count
from distributed.ranks import variables
from distributed.teams import MARK, Ended, Job, Teams
from safetensors.torch import load_file
from tiny_models import save_tiny

import runs
from obverse.cli.main import main
from obverse.distributed.watchdog import is_alive
from obverse.runtime import checkpoint

TIMEOUT = 8.0  # above what loading takes on a busy machine
LOST = "ranks lost whose peers ended in time"
PHASES = ("load", "sample", "grade", "train", "eval", "save")


@pytest.fixture
def job(tiny: Path, problems: Path, tmp_path: Path) -> Job:
    options = {
        "max_steps": 4, "save_steps": 1, "prompts_per_step": 4, "max_completion_length": 6, "num_generations": 2,
        "eval_dataset": str(problems), "eval_steps": 1, "num_eval_problems": 2, "ddp_timeout": TIMEOUT,
    }  # fmt: skip
    return Job("hpt", str(tmp_path / "run"), str(tiny), str(problems), options, 2, seconds=TIMEOUT + 60)


def faulty(teams: Teams, job: Job, rank: int, phase: str, kind: str) -> list[Ended]:
    fault = {"rank": rank, "phase": phase, "after": 0 if phase == "load" else 1, "kind": kind}
    return teams.run(replace(job, fault=fault))


def ends(teams: Teams, job: Job, rank: int, phase: str, kind: str) -> None:
    """One rank fails; the others end in time with its name and cause, nothing is left running, the checkpoint holds."""
    job = replace(job, mark=uuid.uuid4().hex)
    ended = faulty(teams, job, rank, phase, kind)
    assert ended[rank].code == {"raise": 1, "kill": -9, "hang": 8}[kind]
    cause = {"raise": "failed: RuntimeError: planted", "kill": "is gone", "hang": "hangs: no progress for"}
    for other in ended[:rank] + ended[rank + 1 :]:
        assert other.code == 8, other.err
        told = [line for line in other.err.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and f"rank {rank} (process" in told[0] and cause[kind] in told[0], other.err
        assert "Traceback" not in other.err
        assert other.fault is not None
        assert other.seconds - other.fault < (TIMEOUT if kind == "hang" else 0) + 5
        folder = Path(job.folder)
        if (folder / "checkpoint-1").exists():
            assert f"{folder / 'checkpoint-1'}" in told[0] and "--resume_from_checkpoint auto" in told[0]
    assert not left_running(job)
    last = checkpoint.newest(Path(job.folder))
    assert phase in ("load", "save") or last is not None


def left_running(job: Job, seconds: float = 3.0) -> list[str]:
    """Processes of the run, graders included, that are there once they had the time to notice that they are alone."""
    mark = f"{MARK}={job.mark}".encode()
    deadline = time.monotonic() + seconds
    while True:
        found = [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in _content(path)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("rank", "phase", "kind"),
    [
        pytest.param(1, "sample", "raise", marks=pytest.mark.slow),
        (0, "train", "kill"),
        pytest.param(1, "train", "hang", marks=pytest.mark.slow),
        pytest.param(1, "eval", "kill", marks=pytest.mark.slow),
        pytest.param(0, "load", "raise", marks=pytest.mark.slow),
    ],
)
def test_p1_peers_of_a_lost_rank_end_and_say_why(
    teams: Teams, job: Job, rank: int, phase: str, kind: str, count: Count
) -> None:
    ends(teams, job, rank, phase, kind)
    count(LOST)


@pytest.mark.release
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ["raise", "hang", "kill"])
def test_p1_in_every_phase(teams: Teams, job: Job, tmp_path: Path, phase: str, kind: str, count: Count) -> None:
    for rank in (0, 1):  # with graders in processes of their own
        ends(teams, replace(job, folder=str(tmp_path / f"rank-{rank}"), lucky=False), rank, phase, kind)
        count(LOST)


@pytest.mark.release
def test_p1_among_four(teams: Teams, job: Job, tmp_path: Path, count: Count) -> None:
    for number, kind in enumerate(["raise", "hang", "kill"]):
        ends(teams, replace(job, folder=str(tmp_path / kind), size=4), 3 - number, "train", kind)
        count(LOST)


def test_n5_numbers_of_one_rank_that_are_not_finite_end_all_with_5(teams: Teams, job: Job) -> None:
    """Its gradient reaches no weight of any rank; three such steps in a row end the run."""
    options = {**job.options, "max_steps": 8, "eval_steps": 0, "save_total_limit": 8}
    ended = teams.run(replace(job, options=options, poison={"rank": 1, "step": 2}))
    assert [each.code for each in ended] == [5, 5], ended
    assert all("in 3 steps" in each.err and "Traceback" not in each.err for each in ended)
    assert [row["step_taken"] for row in runs.figures(Path(job.folder))] == [1, 0, 0]
    good, bad = (load_file(Path(job.folder) / f"checkpoint-{step}" / "model.safetensors") for step in (1, 3))
    assert all(bool((bad[name] == good[name]).all()) for name in good)


@pytest.mark.slow  # the gradient of one rank is the same path
def test_n5_logits_of_one_rank_that_are_not_finite_end_all_with_5(teams: Teams, job: Job) -> None:
    ended = faulty(teams, job, 1, "sample", "numbers")
    assert [each.code for each in ended] == [5, 5], ended
    assert all("rank 1: the model's logits" in each.err for each in ended)


def test_n5_a_weight_of_one_rank_that_differs_by_a_bit_is_not_saved(teams: Teams, job: Job) -> None:
    ended = teams.run(replace(job, poison={"rank": 1, "step": 2, "bit": True}))
    assert [each.code for each in ended] == [5, 5], ended
    assert all("the weights of rank 1 differ from those of rank 0" in each.err for each in ended)
    assert [path.name for path in checkpoint.folders(Path(job.folder))] == ["checkpoint-1"]


def stops(teams: Teams, job: Job, phase: str, kind: str, whole: dict[str, str]) -> None:
    """One rank gets a signal: all save, end with its code, and go on as if nothing had been."""
    job = replace(job, mark=uuid.uuid4().hex)
    ended = faulty(teams, job, 1, phase, kind)
    code = {"term": 143, "int": 130}[kind]
    assert [each.code for each in ended] == [code, code], ended
    assert ended[0].fault is not None and max(each.seconds for each in ended) - ended[0].fault < 5
    assert not left_running(job)
    again = teams.run(replace(job, options={**job.options, "resume_from_checkpoint": "auto"}))
    assert [each.code for each in again] == [0, 0], again
    found = runs.fingerprint(Path(job.folder), job.options["max_steps"])
    assert found["model.safetensors"] == whole["model.safetensors"]


@pytest.mark.parametrize(("phase", "kind"), [("sample", "term"), pytest.param("train", "int", marks=pytest.mark.slow)])
def test_c7_a_signal_to_one_of_two_ranks(phase: str, kind: str, teams: Teams, job: Job, tmp_path: Path) -> None:
    assert [ended.code for ended in teams.run(replace(job, folder=str(tmp_path / "whole")))] == [0, 0]
    stops(teams, replace(job, folder=str(tmp_path / "run")), phase, kind, runs.fingerprint(tmp_path / "whole", 4))


@pytest.mark.release
@pytest.mark.parametrize("kind", ["term", "int"])
def test_c7_a_signal_in_any_phase(teams: Teams, job: Job, tmp_path: Path, kind: str) -> None:
    job = replace(job, lucky=False)  # graders in processes of their own
    assert [each.code for each in teams.run(replace(job, folder=str(tmp_path / "whole")))] == [0, 0]
    for phase in PHASES:
        stops(teams, replace(job, folder=str(tmp_path / phase)), phase, kind, runs.fingerprint(tmp_path / "whole", 4))


def refused(teams: Teams, job: Job, told: str) -> None:
    ended = teams.run(job)
    assert [each.code for each in ended] == [2, 2], ended
    for each in ended:
        assert each.err.count("error: ") == 1 and each.err.startswith(f"error: {told}"), each.err
    assert not Path(job.folder, "metrics.jsonl").exists()


@pytest.mark.parametrize(("name", "value", "first"), [("learning_rate", 0.002, 0.001), ("num_generations", 3, 2)])
def test_ranks_with_other_options_are_refused_with_both_values(
    teams: Teams, job: Job, name: str, value: float, first: float
) -> None:
    refused(teams, replace(job, own={"1": {name: value}}), f"rank 1 has {name} {value}, rank 0 has {first}: start all")


def test_ranks_with_other_rows_or_weights_under_one_name_are_refused(teams: Teams, job: Job, tmp_path: Path) -> None:
    homes = [tmp_path / "first", tmp_path / "second"]
    for number, home in enumerate(homes):
        save_tiny("qwen2", home / "model", seed=number)
        runs.write_problems(home / "chains.jsonl", 24 - number)
    named = replace(job, homes=[str(home) for home in homes])
    refused(teams, replace(named, dataset="./chains.jsonl"), "rank 1 has dataset with sha256")
    refused(teams, replace(named, model="./model"), "rank 1 has weights")


def test_commands_that_share_nothing_are_refused_among_several(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in variables(1, 2, 29500).items():
        monkeypatch.setenv(name, value)
    assert main(["compare", "sft", "grpo"]) == 2
    assert "WORLD_SIZE" in capsys.readouterr().err
    assert main(["methods"]) == 0


def test_a_process_that_is_dead_is_known_to_be(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid) and is_alive(os.getpid())
    process.kill()
    time.sleep(0.2)
    assert not is_alive(process.pid)  # not yet fetched by us
    process.wait()
    assert not is_alive(process.pid)
