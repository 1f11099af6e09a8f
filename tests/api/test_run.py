"""A run with data and a reward of the calling program: its files, what is read of them, and how it is resumed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import obverse
from obverse.api.table import Table
from obverse.cli.main import main
from obverse.errors import CheckpointError, ConfigError, DataError

ROWS = [
    {"prompt": f"Q:{first}+{second}\nA:", "answer": str(first + second), "demonstration": f"#{first + second}"}
    for first in range(1, 5)
    for second in range(1, 5)
]
OPTIONS = {"prompts_per_step": 4, "num_generations": 2, "max_completion_length": 8, "report": False}


def short(completions: list[str], **columns: object) -> list[float]:
    return [float(len(text) < 6) for text in completions]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> obverse.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    reward = [short, lambda problem, text: float(text.startswith("#"))]
    return obverse.train(
        "hpt", dataset=ROWS, eval_dataset=ROWS[:2], reward=reward, output_dir=folder, max_steps=1, **OPTIONS
    )


def test_rows_and_rewards_are_files_of_the_run(run: obverse.Run) -> None:
    assert (run.step, run.stopped, run.exit_code, run.method) == (1, False, 0, "hpt")
    assert run.config["dataset"].startswith(f"{run.folder}/data/train-")
    assert run.config["eval_dataset"].startswith(f"{run.folder}/data/eval-")
    verifier, written = run.config["verifier"].split(",")
    assert verifier == f"{Path(__file__)}:short" and written.startswith(f"{run.folder}/reward-")


def test_a_run_is_read_from_its_folder(run: obverse.Run) -> None:
    assert run.metrics[-1]["step"] == 1 and len(run.metrics["reward"]) == len(run.metrics) == 1
    assert {"reward", "num_tokens"} <= set(run.metrics.columns)
    assert run.samples()[0]["problem"].startswith("train-") and run.samples(1) == run.samples()
    assert list(run.evaluations) == [1] and [path.name for path in run.checkpoints] == ["checkpoint-1"]
    assert obverse.load_run(run.folder).metrics == run.metrics
    with pytest.raises(DataError, match="step 7"):
        run.samples(7)
    with pytest.raises(DataError, match="step 7"):
        run.model(7)
    ids = run.tokenizer()("1+1", return_tensors="pt").input_ids
    assert run.model()(ids).logits.shape[:2] == ids.shape


@pytest.mark.slow  # four seconds
def test_a_run_is_resumed_from_its_folder_alone(run: obverse.Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run.folder, moved)
    command = ["train", "--config", f"{moved}/config.yaml", "--output_dir", str(moved)]
    assert main([*command, "--resume_from_checkpoint", "auto", "--max_steps", "2"]) == 0
    copy = obverse.load_run(moved)
    assert copy.step == 2 and copy.config["dataset"].startswith(f"{moved}/data/")
    assert copy.resume(max_steps=3).step == 3
    with pytest.raises(CheckpointError, match="learning_rate"):
        copy.resume(max_steps=4, learning_rate=1.0)


def test_bad_rows_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^dataset\[16\]: prompt: empty"):
        obverse.train("hpt", dataset=[*ROWS, {"prompt": ""}], output_dir=tmp_path / "run", max_steps=1)
    assert not (tmp_path / "run").exists()


def test_one_reward_per_call() -> None:
    with pytest.raises(ConfigError, match="reward and verifier"):
        obverse.train("hpt", reward=short, verifier="math")


def test_a_table_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        Table([{"step": 1}]).to_pandas()


def test_a_table_is_a_sequence_with_columns() -> None:
    table = Table([{"step": 1, "reward": 0.5}, {"step": 2}], "metrics")
    assert table.columns == ["step", "reward"] and table["reward"] == [0.5, None]
    assert table[1:] == [{"step": 2}] and table[-1]["step"] == 2 and "2 rows" in repr(table)
    with pytest.raises(KeyError, match="did you mean 'reward'"):
        table["rewad"]
