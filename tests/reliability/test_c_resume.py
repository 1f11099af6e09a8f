"""C8 to C10: who may write to a folder, which checkpoints are read, and with which configuration a run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from reliability import faults
from safetensors.torch import load_file

import runs
from obverse.config.train import TrainConfig
from obverse.errors import CheckpointError, InUseError
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import LOCK, RunFolder
from obverse.training.loop import train
from obverse.training.resume import FREE, MEASURING, changes

FIXTURES = Path(__file__).parents[1] / "data" / "checkpoints"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with two checkpoints of one run."""
    faults.save(tmp_path, 1)
    faults.save(tmp_path, 2)
    return tmp_path


@pytest.mark.slow
# C8: one run per folder


def test_c8_of_many_that_begin_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    """Four processes, twenty times: the one that has it holds it until all have tried.

    The others are told within a second.
    """
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        gate, held = os.pipe(), os.pipe()
        pids = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                os.close(gate[1])
                code = 70
                try:
                    begin = time.monotonic()
                    mine = RunFolder(folder)  # the lock lives as long as this
                    mine.lock()
                    os.write(held[1], b"1")
                    os.read(gate[0], 1)  # until the parent is done with the others
                    code = 0
                except InUseError as error:
                    os.write(held[1], b"0")
                    code = error.exit_code if time.monotonic() - begin < 1 else 71
                finally:
                    os._exit(code)
            pids.append(pid)
        answers = b"".join(os.read(held[0], 1) for _ in pids)
        os.close(gate[1])
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
        for end in (gate[0], *held):
            os.close(end)
        assert (sorted(answers), codes) == (sorted(b"0001"), [0, 7, 7, 7])


def test_c8_a_second_run_is_refused_by_name_and_the_first_goes_on(tiny: Path, problems: Path, tmp_path: Path) -> None:
    class Second(Silent):
        refusal = ""

        def step(self, step: int, total_steps: int, metrics: object) -> None:
            if step == 1:
                with pytest.raises(InUseError) as error:
                    train(runs.config("sft", tmp_path, tiny, problems, resume_from_checkpoint="auto"))
                self.refusal = str(error.value)

    watch = Second()
    train(runs.config("sft", tmp_path, tiny, problems, max_steps=2), watch)
    assert f"in use by process {os.getpid()} on " in watch.refusal
    assert [row["step"] for row in RunFolder(tmp_path).metrics()] == [1, 2]
    assert RunFolder(tmp_path).lock() == ""  # it was given back


def test_c8_the_lock_of_a_process_that_was_killed_is_taken_over_with_a_word(tmp_path: Path) -> None:
    def killed() -> None:
        mine = RunFolder(tmp_path)
        mine.lock()
        os.kill(os.getpid(), signal.SIGKILL)

    assert faults.in_child(killed) == -signal.SIGKILL
    assert "was killed" in RunFolder(tmp_path).lock()
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_c8_checkpoints_of_another_run_are_neither_taken_nor_removed(saved: Path) -> None:
    faults.save(saved, 5000, run="another")
    faults.save(saved, 3, keep=1)
    assert [path.name for path in checkpoint.folders(saved)] == ["checkpoint-3", "checkpoint-5000"]
    assert checkpoint.newest(saved, "mine") == saved / "checkpoint-3"
    assert checkpoint.newest(saved) == saved / "checkpoint-5000"


# C9: schemas


@pytest.mark.parametrize("schema", range(1, manifest.SCHEMA + 1))
def test_c9_checkpoints_of_every_schema_are_read(schema: int) -> None:
    path = FIXTURES / f"schema-{schema}" / "checkpoint-3"
    assert json.loads((path / "manifest.json").read_text())["schema"] == schema
    saved = checkpoint.load(path)
    assert saved.state["cursor"] == 12 and load_file(path / "model.safetensors")["w"].shape == (2, 3)
    assert manifest.run_info(path).config == ({"seed": 42} if schema > 1 else {})


@pytest.mark.parametrize("schema", [manifest.SCHEMA + 1, 0, -1, "2", None, 1.0, True])
def test_c9_other_schemas_are_refused_with_both_numbers(schema: object, saved: Path) -> None:
    file = saved / "checkpoint-2" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": schema}))
    with pytest.raises(CheckpointError, match=rf"schema {schema!r}, this version reads 1 to {manifest.SCHEMA}"):
        checkpoint.load(file.parent)


# C10: the configuration


def test_c10_options_declare_what_a_resumed_run_does_with_them() -> None:
    assert {"max_steps", "save_steps", "micro_batch_tokens", "sampler", "fsdp", "output_dir", *MEASURING} <= FREE
    assert {"eval_dataset", "num_eval_problems", "num_generations_eval"} == MEASURING
    assert not FREE & {"model", "dataset", "seed", "learning_rate", "temperature", "prompts_per_step", "use_peft"}
    assert TrainConfig.with_resume("unrecorded") == {"output_dir", "resume_from_checkpoint", "allow_config_change"}
    assert "method_options" not in FREE and "method" not in FREE


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("learning_rate", 2e-3),
        ("seed", 43),
        ("temperature", 0.5),
        ("prompts_per_step", 5),
        ("num_iterations", 2),
        ("max_grad_norm", 0.5),
        ("max_completion_length", 13),
        ("lr_scheduler_type", "linear"),
        ("adam_beta2", 0.9),
        ("num_generations", 4),
    ],
)
def test_c10_a_change_that_makes_another_run_is_refused_with_both_values(
    name: str, now: object, first: Path, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(first, tmp_path / "run"))

    def again(**options: object) -> None:
        given = {"max_steps": 1, "resume_from_checkpoint": "auto", name: now}
        train(runs.config("grpo", folder, tiny, problems, **given, **options))

    with pytest.raises(CheckpointError, match=rf"{name}: .* then, {now!r} now.*--allow_config_change {name}$"):
        again()
    again(allow_config_change=name)


@pytest.fixture(scope="module")
def first(tiny: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("first")
    train(runs.config("grpo", folder, tiny, problems, max_steps=1))
    return folder


@pytest.mark.parametrize(
    ("name", "now"),
    [("max_steps", 9), ("save_steps", 7), ("logging_steps", 3), ("micro_batch_tokens", 99), ("save_total_limit", 5)],
)
def test_c10_other_changes_are_free(name: str, now: object, tiny: Path, problems: Path) -> None:
    then, after = (
        runs.config("sft", Path("run"), tiny, problems, **given).model_dump(mode="json") for given in ({}, {name: now})
    )
    assert then[name] != after[name] and changes(then, after) == {}


def test_c10_rows_that_were_changed_are_another_data_set(tiny: Path, tmp_path: Path) -> None:
    rows = runs.write_problems(tmp_path / "chains.jsonl", num_problems=8)
    train(runs.config("sft", tmp_path / "run", tiny, rows, max_steps=1))
    rows.write_text(rows.read_text().replace("=", " ="))
    given = {"max_steps": 2, "resume_from_checkpoint": "auto"}
    with pytest.raises(CheckpointError, match="dataset"):
        train(runs.config("sft", tmp_path / "run", tiny, rows, **given))
    train(runs.config("sft", tmp_path / "run", tiny, rows, allow_config_change="dataset", **given))


def test_metrics_that_lost_rows_are_refused(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("sft", tmp_path, tiny, problems, max_steps=1))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has 0 bytes"):
        train(runs.config("sft", tmp_path, tiny, problems, max_steps=2, resume_from_checkpoint="auto"))


def test_a_checkpoint_that_is_not_there_is_an_error(tiny: Path, problems: Path, tmp_path: Path) -> None:
    missing = tmp_path / "run" / "checkpoint-9"
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        train(runs.config("sft", tmp_path / "run", tiny, problems, resume_from_checkpoint=str(missing)))
