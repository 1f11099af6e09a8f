"""The libraries of --report_to, offline: what they wrote is read back. Each test needs its library."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from obverse.runtime.trackers import trackers
from obverse.runtime.trackers.tracker import Completion, TrackedRun

RUN_ID = "0123456789abcdef" * 2
CONFIG = {"method": "example", "learning_rate": 1e-5, "terms": [{"source": "rollout", "advantage": "centered"}]}
BLOCK, HEADER = 32768, 7  # bytes of a block of a .wandb file, and of the header of the file and of a record


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed")


def log_twice(folder: Path, name: str) -> None:
    """A run of four steps that is killed, and resumed from a checkpoint of step 2 until step 6."""
    for first, last in ((1, 4), (3, 6)):
        num_before = first - 1
        run = TrackedRun(folder, RUN_ID, "sft-1", "", "comparison-1", CONFIG, num_before, 100 * num_before)
        running = trackers.start((name,), run, print)
        for step in range(first, last + 1):
            running.log_step(step, {"step": step, "num_tokens": 100 * step, "reward": step / 10, "step_time": 1.0})
            row = Completion("p1", "rollout", "1 + 1 | ?", "2\nor so", 1.0, True)
            running.log_completions(step, lambda row=row: [row], num=1)  # type: ignore[misc]
        running.log_evaluation(last, 100 * last, {"all": {"pass@1": 0.5}, "hard": {"pass@1": 0.25}})
        running.close(0)


def in_a_process(folder: Path, name: str, **env: str) -> str:
    """`log_twice` in another process, with its own environment; returns its output."""
    code = f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"from {Path(__file__).stem} import log_twice\nlog_twice(Path({str(folder)!r}), {name!r})"
    return output_of(["-c", code], **env)


def output_of(words: list[str], **env: str) -> str:
    """The output of Python with the arguments `words`, in which no tracker was turned off."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--report_to" not in done.stdout
    return done.stdout


@needs("tensorboard")
@pytest.mark.slow
def test_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginData

    log_twice(tmp_path, "tensorboard")
    assert str(tmp_path / "tensorboard") in capsys.readouterr().out
    by_step = EventAccumulator(str(tmp_path / "tensorboard" / "steps"), {"tensors": 0, "scalars": 0}).Reload()
    assert [(event.step, round(event.value, 6)) for event in by_step.Scalars("reward")] == [
        (step, step / 10) for step in range(1, 7)
    ]
    assert [(event.step, event.value) for event in by_step.Scalars("eval/hard/pass@1")] == [(6, 0.25)]
    by_tokens = EventAccumulator(str(tmp_path / "tensorboard" / "tokens"), {"scalars": 0}).Reload()
    assert [event.step for event in by_tokens.Scalars("by_tokens/reward")] == [100 * step for step in range(1, 7)]
    texts = PluginData(str(tmp_path / "tensorboard" / "steps"), {"tensors": 0}).Reload()  # as TensorBoard shows them
    tables = texts.Tensors("completions/text_summary")
    assert [event.step for event in tables] == [*range(1, 7)]
    text = tables[0].tensor_proto.string_val[0].decode()
    assert "| p1 | rollout | 1 + 1 \\| ? | 2<br>or so | 1.0 | True |" in text
    config = texts.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(config.removeprefix("```json\n").removesuffix("\n```")) == CONFIG


@needs("trackio")
def test_trackio(tmp_path: Path) -> None:
    output = in_a_process(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "database"))
    assert output.splitlines() == ["trackio: trackio show --project obverse"] * 2  # and nothing of trackio's own
    connection = sqlite3.connect(tmp_path / "database" / "obverse.db")
    rows = [
        (name, step, json.loads(metrics))
        for name, step, metrics in connection.execute("select run_name, step, metrics from metrics order by id")
    ]
    assert {name for name, _, _ in rows} == {f"sft-1-{RUN_ID[:6]}"}
    figures = [(step, row["num_tokens"], row["reward"]) for _, step, row in rows if "reward" in row]
    assert figures == [(step, 100 * step, step / 10) for step in range(1, 7)]
    assert [(step, row["eval/hard/pass@1"]) for _, step, row in rows if "eval/pass@1" in row] == [(4, 0.25), (6, 0.25)]
    tables = [row["completions"]["_value"] for _, _, row in rows if "completions" in row]
    assert len(tables) == 6
    assert tables[0][0]["completion"] == "2\nor so"
    (config,) = (json.loads(text) for (text,) in connection.execute("select config from configs"))
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert config["_Group"] == "comparison-1"
    connection.close()


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, which has LevelDB's log format: blocks of pieces with checksum, size and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, offset, piece = path.read_bytes(), HEADER, b""
    while offset + HEADER <= len(content):
        if BLOCK - offset % BLOCK < HEADER:
            offset += BLOCK - offset % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", content, offset)
        piece += content[offset + HEADER : offset + HEADER + size]
        offset += HEADER + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(piece)
            piece = b""


def wandb_runs_and_history(folder: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """The descriptions of the runs below a run folder, one for each start, and the rows of all of them."""
    runs, history = [], []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                runs.append(record.run)
            elif record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                history.append({name: json.loads(value) for name, value in items.items()})
    return runs, history


@needs("wandb")
@pytest.mark.slow
def test_wandb(tmp_path: Path) -> None:
    output = in_a_process(tmp_path, "wandb", WANDB_MODE="offline", WANDB_DIR="", WANDB_PROJECT="")
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(f"wandb sync {folder}" in output for folder in folders)
    runs, history = wandb_runs_and_history(tmp_path)
    assert {(run.run_id, run.display_name, run.run_group, run.project) for run in runs} == {
        (RUN_ID, "sft-1", "comparison-1", "obverse")
    }
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert {name: config[name] for name in CONFIG} == CONFIG
    figures = [(row["_step"], row["num_tokens"], row["reward"]) for row in history if "reward" in row]
    assert figures == [(step, 100 * step, step / 10) for step in range(1, 7)]
    assert [row["_step"] for row in history if "eval/hard/pass@1" in row] == [4, 6]
    tables = sorted((tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json"))
    assert len(tables) == 6
    table = json.loads(tables[0].read_text())
    assert table["data"] == [["p1", "rollout", "1 + 1 | ?", "2\nor so", 1.0, True]]


@needs("tensorboard")
@needs("trackio")
@needs("wandb")
@pytest.mark.slow
def test_a_resumed_run_of_the_command_line_goes_on_in_all_three(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, env = tmp_path / "run", {"WANDB_MODE": "offline", "WANDB_DIR": "", "WANDB_PROJECT": ""}
    env["TRACKIO_DIR"] = str(tmp_path / "database")
    words = ["-m", "obverse", "train", "hpt", "--report_to", "trackio,tensorboard,wandb", "--output_dir", str(folder)]
    words += ["--prompts_per_step", "2", "--num_generations", "4", "--no-report", "--resume_from_checkpoint", "auto"]
    for max_steps in (3, 5):
        output_of([*words, "--max_steps", str(max_steps)], **env)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rewards = [(row["step"], row["reward"]) for row in rows]
    assert [step for step, _ in rewards] == [1, 2, 3, 4, 5]
    events = EventAccumulator(str(folder / "tensorboard" / "steps")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == rewards
    connection = sqlite3.connect(tmp_path / "database" / "obverse.db")
    logged = [(step, json.loads(row)) for step, row in connection.execute("select step, metrics from metrics")]
    assert [(step, row["reward"]) for step, row in logged if "reward" in row] == rewards
    assert connection.execute("select count(distinct run_id) from metrics").fetchone() == (1,)
    connection.close()
    runs, history = wandb_runs_and_history(folder)
    assert len({run.run_id for run in runs}) == 1
    assert [(row["_step"], row["reward"]) for row in history if "reward" in row] == rewards
