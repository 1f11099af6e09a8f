"""A run with a store of own samples: the log-probs that come back, one rollout fewer, and equal runs after a stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import runs
from obverse.errors import ConfigError
from obverse.runtime import checkpoint
from obverse.training.loop import train

OPTIONS: dict[str, Any] = {
    "dataset": "arithmetic:1-2",
    "num_problems": 24,
    "prompts_per_step": 8,
    "num_generations": 4,
    "replay_start": 0.2,
    "max_completion_length": 24,
    "learning_rate": 1e-4,
    "seed": 5,
}


def rows(folder: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples" / f"step-{step:06d}.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """The last state, without the size of metrics.jsonl, which has seconds in it."""
    stored = checkpoint.read_state(folder / "checkpoint-4")
    return {name: value for name, value in stored.items() if name != "metrics"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = runs.config("exgrpo", tmp_path_factory.mktemp("replay") / "run", "embedded", **OPTIONS, max_steps=4)
    return train(config).folder


def test_replayed_samples_are_earlier_ones_with_their_log_probs(whole: Path) -> None:
    written = {(row["problem"], row["text"]): step for step in (3, 2, 1) for row in rows(whole, step)}
    for step in range(2, 5):
        replayed = [row for row in rows(whole, step) if row["kind"] == "replayed"]
        assert all(written[row["problem"], row["text"]] <= step - 1 for row in replayed)
        for row in replayed:
            group = [one["kind"] for one in rows(whole, step) if one["problem"] == row["problem"]]
            assert group == ["replayed", *["rollout"] * 3]
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["replay/replayed"] for row in metrics) > 0 and metrics[0]["replay/replayed"] == 0
    state = checkpoint.read_state(whole / "checkpoint-4")
    assert state["cursor"] == 32 - sum(row["replay/replayed"] for row in metrics)
    stored = [record for entry in state["replay"]["problems"].values() for record in entry["samples"]]
    assert all(len(record["ids"]) == len(record["behavior"]) and max(record["behavior"]) < 0 for record in stored)


@pytest.mark.slow
def test_a_run_that_was_stopped_takes_the_same_samples_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(runs.config("exgrpo", folder, "embedded", **OPTIONS, max_steps=4, save_steps=2))
    shutil.rmtree(folder / "checkpoint-4")
    train(
        runs.config("exgrpo", folder, "embedded", **OPTIONS, max_steps=4, save_steps=2, resume_from_checkpoint="auto")
    )
    ours, theirs = ({**runs.fingerprint(one, 4), "state.json": state(one)} for one in (folder, whole))
    assert ours == theirs
    assert [rows(folder, step) for step in range(1, 5)] == [rows(whole, step) for step in range(1, 5)]


def test_the_requests_are_not_known_one_step_ahead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="async_sampling"):
        train(runs.config("exgrpo", tmp_path / "run", "embedded", **OPTIONS, max_steps=1, async_sampling=True))
