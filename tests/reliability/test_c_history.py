"""C11 to C13: a folder holds one line of history, whatever is resumed from; states of every version; marks in time."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import Count
from reliability import faults
from reliability.test_c_kills import At

import runs
from obverse.cli.train import run as train_command
from obverse.distributed.env import launcher
from obverse.errors import CheckpointError, ConfigError, StorageError
from obverse.report.load_runs import find_runs, read_run
from obverse.runtime import branches as history
from obverse.runtime import checkpoint
from obverse.runtime.manifest import MANIFEST, SCHEMA, STATE, sealed_text, size_and_sha256
from obverse.runtime.run_dir import LOCK, RunFolder
from obverse.training.banner import saves
from obverse.training.loop import is_save_due, train
from obverse.training.run_state import VERSION, migrate

OPTIONS: dict[str, Any] = {
    "max_steps": 4,
    "save_steps": 1,
    "save_total_limit": 9,
    "eval_dataset": "arithmetic:1",
    "eval_steps": 1,
    "num_eval_problems": 2,
    "num_generations_eval": 1,
}
OTHER_RATE = {"learning_rate": 1e-9, "allow_config_change": "learning_rate"}
DATA = Path(__file__).parents[1] / "data"
STATES = [
    *(DATA / "checkpoints" / f"schema-{schema}" / "checkpoint-3" / STATE for schema in range(1, SCHEMA + 1)),
    *(DATA / "states" / f"version-{version}.json" for version in range(2, VERSION + 1)),  # the others are of version 1
]


@pytest.fixture(scope="module")
def first(tiny: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, with what a report and a comparison write beside it."""
    folder = tmp_path_factory.mktemp("line") / "run"
    train(runs.config("sft", folder, tiny, problems, **OPTIONS))
    (folder / "report.html").write_text("of four steps")
    (folder / "checkpoint-2-copy").mkdir()
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "run"))


def steps(folder: Path) -> list[int]:
    return [int(row["step"]) for row in RunFolder(folder).metrics()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_c11_a_checkpoint_of_another_folder_never_writes_over_a_run(
    folder: Path, first: Path, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """Also where both folders have one number, for one is a copy of the other."""
    train(runs.config("sft", tmp_path / "other", tiny, problems, max_steps=1))
    before = content(folder)
    for start in (tmp_path / "other" / "checkpoint-1", first / "checkpoint-2"):
        with pytest.raises(CheckpointError) as refusal:
            train(runs.config("sft", folder, tiny, problems, resume_from_checkpoint=str(start), **OPTIONS))
        for number in (RunFolder(start.parent).run_id(), RunFolder(folder).run_id()):
            assert number in str(refusal.value)
    shutil.copytree(tmp_path / "other" / "checkpoint-1", folder / "checkpoint-9")
    with pytest.raises(CheckpointError, match="another folder"):
        train(runs.config("sft", folder, tiny, problems, resume_from_checkpoint=str(folder / "checkpoint-9")))
    shutil.move(folder / "checkpoint-9", folder / "best")
    with pytest.raises(CheckpointError, match=r"is of run .*, and .* holds run"):
        train(runs.config("sft", folder, tiny, problems, resume_from_checkpoint=str(folder / "best"), **OPTIONS))
    shutil.rmtree(folder / "best")
    assert content(folder) == before


def test_c11_what_comes_after_a_checkpoint_that_is_gone_back_to_is_set_aside(
    folder: Path, tiny: Path, problems: Path
) -> None:
    old = content(folder)
    watch = At("save", signal.SIGINT, after=2)
    back = {"resume_from_checkpoint": str(folder / "checkpoint-1"), **OTHER_RATE}
    assert train(runs.config("sft", folder, tiny, problems, **OPTIONS, **back), watch).step == 2
    branch = folder / "set_aside" / "branch-1"
    assert any(str(branch) in note for note in watch.notes)
    kept = content(branch)
    assert kept["report.html"] == old["report.html"] and kept["config.yaml"] == old["config.yaml"]
    moved = [f"checkpoint-{step}/{STATE}" for step in (2, 3, 4)]
    moved += [f"{name}/step-00000{step}.json{end}" for name, end in (("samples", "l"), ("eval", "")) for step in (2, 4)]
    assert {name: kept[name] for name in moved} == {name: old[name] for name in moved}
    rows = old["metrics.jsonl"].splitlines(keepends=True)
    assert kept["metrics.jsonl"].splitlines(keepends=True) == rows[1:]
    # what is left is the line that goes on, for every reader
    assert steps(folder) == [1, 2] and checkpoint.newest(folder) == folder / "checkpoint-2"
    assert [path.name for path in checkpoint.folders(folder)] == ["checkpoint-1", "checkpoint-2"]
    assert sorted(read_run(folder).evals) == [0, 1] and (folder / "checkpoint-2-copy").is_dir()
    assert [run.path for run in find_runs(folder.parent)] == [folder]
    # broken off there, it goes on from its own newest checkpoint, with its own options
    assert yaml.safe_load((folder / "config.yaml").read_text())["learning_rate"] == 1e-9
    train(runs.config("sft", folder, tiny, problems, **OPTIONS, resume_from_checkpoint="auto", learning_rate=1e-9))
    assert steps(folder) == [1, 2, 3, 4] and sorted(read_run(folder).evals) == [0, 1, 2, 3, 4]
    told = RunFolder(folder).environment()["resumed"]
    assert [entry["step"] for entry in told] == [1, 2] and told[0]["changes"] == {"learning_rate": [1e-3, 1e-9]}
    assert [path.name for path in (folder / "set_aside").iterdir()] == ["branch-1"]


def test_c11_held_out_problems_that_are_measured_otherwise_begin_a_new_curve(
    folder: Path, tiny: Path, problems: Path
) -> None:
    again = OPTIONS | {"num_eval_problems": 1, "max_steps": 5, "resume_from_checkpoint": "auto"}
    train(runs.config("sft", folder, tiny, problems, **again))
    assert sorted(read_run(folder).evals) == [4, 5]
    assert len(list((folder / "set_aside" / "branch-1" / "eval").iterdir())) == 5


def test_c11_a_move_that_is_killed_at_any_call_is_finished_and_never_half_seen(tmp_path: Path, count: Count) -> None:
    def fresh(name: str) -> Path:
        root = tmp_path / name
        for step in (1, 2, 3):
            faults.save(root, step, keep=9)
            (root / "eval").mkdir(exist_ok=True)
            (root / "eval" / f"step-00000{step}.json").write_text(json.dumps({"summary": {"all": {}}}))
        (root / "config.yaml").write_text("method: sft\n")
        (root / "initial-1").mkdir()
        (root / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3)))
        return root

    def leave(root: Path) -> None:
        history.set_aside(root, 1, len('{"step": 1}\n'), history.names_after(root, 1, 0))

    whole = fresh("whole")
    names = {str(path.relative_to(whole)) for path in whole.rglob("*")}
    number = faults.num_calls(lambda: leave(whole))
    assert number > 12
    for at in range(1, number + 1):
        root = fresh(str(at))
        assert faults.in_child(lambda root=root: leave(root), "kill", at) == -signal.SIGKILL
        seen = [path.name for path in checkpoint.folders(root)]
        steps = [row["step"] for row in read_run(root).rows], sorted(read_run(root).evals)
        if history.pending_move(root) is None and seen[-1] == "checkpoint-3":  # it never began
            assert steps == ([1, 2, 3], [1, 2, 3]) and {str(p.relative_to(root)) for p in root.rglob("*")} >= names
            leave(root)
        else:
            assert seen == ["checkpoint-1"] and steps == ([1], [1]), f"call {at}"
            history.finish_move(root)
        assert history.pending_move(root) is None and [path.name for path in checkpoint.folders(root)] == [
            "checkpoint-1"
        ]
        lost = names - {str(p.relative_to(root)) for p in root.rglob("*")}
        assert {f"set_aside/branch-1/{name}" for name in lost} <= {str(p.relative_to(root)) for p in root.rglob("*")}
        assert (root / "set_aside" / "branch-1" / "metrics.jsonl").read_text() == '{"step": 2}\n{"step": 3}\n'
        count("C11 moves killed at a call")


def test_c11_steps_that_were_not_saved_are_taken_again_and_kept_once(folder: Path, tiny: Path, problems: Path) -> None:
    """However often a run dies at the same place, it takes no more room."""
    for number in (1, 2):
        shutil.rmtree(folder / "checkpoint-4", ignore_errors=True)
        again = OPTIONS | {"resume_from_checkpoint": "auto", "save_steps": 0}
        train(runs.config("sft", folder, tiny, problems, **again))
        assert steps(folder) == [1, 2, 3, 4] and [p.name for p in (folder / "set_aside").iterdir()] == ["unsaved"]
        assert [row["step"] for row in RunFolder(folder / "set_aside" / "unsaved").metrics()] == [4], number


def test_c11_a_run_that_goes_on_in_a_folder_of_its_own_is_another_run(
    folder: Path, first: Path, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """It needs its parent no longer, and ends with the same bits."""
    fork = tmp_path / "fork"
    start = {"resume_from_checkpoint": str(folder / "checkpoint-2"), "save_steps": 0}
    train(runs.config("sft", fork, tiny, problems, **(OPTIONS | start | {"max_steps": 3})))
    parent = RunFolder(fork).environment()["parent"]
    assert (parent["run"], parent["step"]) == (RunFolder(folder).run_id(), 2) != (RunFolder(fork).run_id(), 2)
    assert parent["seconds"] == pytest.approx(RunFolder(folder).seconds(2))
    shutil.rmtree(fork / "checkpoint-3")
    shutil.rmtree(folder)
    train(runs.config("sft", fork, tiny, problems, **OPTIONS, resume_from_checkpoint="auto"))
    assert steps(fork) == [3, 4]
    ours, theirs = (runs.fingerprint(each, 4) for each in (fork, first))
    assert [ours[name] for name in ("model.safetensors", "optimizer.safetensors")] == [
        theirs[name] for name in ("model.safetensors", "optimizer.safetensors")
    ]


@pytest.mark.parametrize("how", ["a figure", "a row of another run"])
def test_c11_rows_that_were_edited_are_refused(how: str, folder: Path, tiny: Path, problems: Path) -> None:
    file = folder / "metrics.jsonl"
    if how == "a figure":
        file.write_text(file.read_text().replace('"step": 2', '"step": 5'))
    else:
        file.write_text("".join(sorted(file.read_text().splitlines(keepends=True), reverse=True)))
    before = content(folder)
    with pytest.raises(CheckpointError, match="step 4"):
        train(runs.config("sft", folder, tiny, problems, **(OPTIONS | {"resume_from_checkpoint": "auto"})))
    assert content(folder) == before


def test_c11_what_others_put_under_a_checkpoints_name_is_moved_and_copies_stay(tmp_path: Path) -> None:
    for step in (1, 2):
        faults.save(tmp_path, step)
    for name in ("checkpoint-007", "checkpoint-1-copy", "checkpoint-backup-0", "checkpoint-3"):
        shutil.copytree(tmp_path / "checkpoint-1", tmp_path / name)
    (tmp_path / "checkpoint-0").symlink_to(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-3" / "mine.txt").write_text("kept")
    (tmp_path / "checkpoint-2" / "notes.txt").write_text("of a user")
    faults.save(tmp_path, 3, keep=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"set_aside", *(f"checkpoint-{name}" for name in ("0", "007", "1-copy", "2", "3", "backup-0"))}
    assert (tmp_path / "set_aside" / "branch-1" / "checkpoint-3" / "mine.txt").read_text() == "kept"
    assert checkpoint.newest(tmp_path, "mine") == tmp_path / "checkpoint-3"


def test_c11_a_fresh_run_finds_nothing_of_an_earlier_one(folder: Path, tiny: Path, problems: Path) -> None:
    for path in [*folder.glob("checkpoint-?"), folder / "checkpoint-2-copy"]:
        shutil.rmtree(path)
    for name in ("config.yaml", "metrics.jsonl", "environment.json"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(runs.config("sft", folder, tiny, problems, max_steps=1))
    train(runs.config("sft", folder, tiny, problems, **(OPTIONS | {"max_steps": 1}), resume_from_checkpoint="auto"))
    assert sorted(read_run(folder).evals) == [0, 1]
    assert len(list((folder / "set_aside" / "branch-1" / "eval").iterdir())) == 5


# how a run goes on


def test_c12_the_printed_command_goes_on_with_the_options_of_the_last_start(
    folder: Path, tiny: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = At("save", signal.SIGINT, after=5)
    longer = OPTIONS | {"max_steps": 7, "resume_from_checkpoint": "auto", "eval_dataset": None}
    train(runs.config("sft", folder, tiny, problems, **longer), watch)
    command = watch.notes[-1].removeprefix("go on with: obverse train ")
    assert yaml.safe_load((folder / "config.yaml").read_text())["max_steps"] == 7
    assert train_command([*command.split(), "--no-report"]) == 0
    assert steps(folder)[-1] == 7
    # moved, or read from elsewhere: which folder is meant is not guessed
    moved = Path(shutil.copytree(folder, folder.with_name("moved")))
    words = ["--config", str(moved / "config.yaml"), "--resume_from_checkpoint", "auto", "--max_steps", "8"]
    with pytest.raises(ConfigError, match="output_dir"):
        train_command([*words])
    assert train_command([*words, "--output_dir", str(moved), "--no-report"]) == 0
    assert (steps(moved)[-1], steps(folder)[-1]) == (8, 7)


def test_c12_the_printed_command_starts_as_many_processes() -> None:
    assert launcher({}) == launcher({"WORLD_SIZE": "1"}) == "obverse"
    assert launcher({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}) == "torchrun --nproc-per-node 4 -m obverse"
    several = launcher({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host"})
    assert several.startswith("torchrun --nnodes 2 --nproc-per-node 2 ") and "host" in several


def test_c12_a_checkpoint_by_time_is_decided_by_the_first_rank_and_changes_no_bit(
    first: Path, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    often = OPTIONS | {"save_steps": 0, "save_minutes": 1e-9}
    train(runs.config("sft", tmp_path / "run", tiny, problems, **often))
    assert [path.name for path in checkpoint.folders(tmp_path / "run")] == [f"checkpoint-{n}" for n in range(1, 5)]
    names = ("model.safetensors", "optimizer.safetensors")
    ours, theirs = (runs.fingerprint(each, 4) for each in (tmp_path / "run", first))
    assert [ours[name] for name in names] == [theirs[name] for name in names]

    config = runs.config("sft", tmp_path, tiny, problems, save_steps=0, save_minutes=1e-9)
    for answer in (True, False):
        process_group, state = SimpleNamespace(broadcast=lambda value, a=answer: a), SimpleNamespace(step=1)
        run: Any = SimpleNamespace(config=config, process_group=process_group, state=state, saved_at=0.0)
        assert is_save_due(run) is answer


def test_c12_by_default_a_kill_loses_no_whole_run_and_the_banner_says_what(tiny: Path, problems: Path) -> None:
    config = runs.config("sft", Path("run"), tiny, problems)
    assert config.save_steps > 0 and config.save_minutes > 0 and config.save_total_limit == 2
    assert f"every {config.save_steps:g} steps or {config.save_minutes:g} minutes" in saves(config)
    never = runs.config("sft", Path("run"), tiny, problems, save_steps=0, save_minutes=0)
    assert "loses the whole run" in saves(never)


def test_c12_an_environment_that_is_damaged_is_kept_and_the_run_keeps_its_number(
    folder: Path, tiny: Path, problems: Path
) -> None:
    number = RunFolder(folder).run_id()
    (folder / "environment.json").write_text('{"run": ')
    train(runs.config("sft", folder, tiny, problems, **OPTIONS, resume_from_checkpoint="auto"))
    assert RunFolder(folder).run_id() == number
    assert (folder / "set_aside" / "branch-1" / "environment.json").read_text() == '{"run": '


# states of other versions


def with_state(path: Path, change: Any) -> None:
    """Rewrite a checkpoint's state, and the manifest that proves it."""
    state = change(json.loads((path / STATE).read_text()))
    (path / STATE).write_text(json.dumps(state))
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["seal"]
    manifest["files"][STATE] = size_and_sha256(path / STATE)
    (path / MANIFEST).write_text(sealed_text(manifest))


@pytest.mark.parametrize("stored", STATES, ids=lambda path: str(path.relative_to(DATA)))
def test_c9_a_run_goes_on_from_the_state_of_every_version(
    stored: Path, folder: Path, first: Path, tiny: Path, problems: Path
) -> None:
    """The fields that a stored state lacks have the value of a run without them: the run ends with the same bits."""
    known = json.loads(stored.read_text())
    migrate(known, stored, {})
    number = {"version": known["version"]} if "version" in known else {}
    with_state(folder / "checkpoint-3", lambda now: {name: now[name] for name in known} | number)
    shutil.rmtree(folder / "checkpoint-4")
    train(runs.config("sft", folder, tiny, problems, **OPTIONS, resume_from_checkpoint="auto"))
    ours, theirs = (runs.fingerprint(each, 4)["optimizer.safetensors"] for each in (folder, first))
    assert ours == theirs and steps(folder) == [1, 2, 3, 4]
    assert checkpoint.read_state(folder / "checkpoint-4")["version"] == VERSION


def test_c9_a_state_of_a_later_version_is_refused_by_both_numbers(folder: Path, tiny: Path, problems: Path) -> None:
    with_state(folder / "checkpoint-4", lambda now: now | {"version": VERSION + 1, "another": 1})
    with pytest.raises(CheckpointError, match=rf"version {VERSION + 1} .*obverse .*this version reads 1 to {VERSION}"):
        train(runs.config("sft", folder, tiny, problems, **OPTIONS, resume_from_checkpoint="auto"))


def test_c9_a_state_without_a_field_of_its_version_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="cursor, replay, validation, waiting"):
        state = {"version": VERSION, "step": 1, "num_tokens": 1, "flops": 1.0, "before": 0.0, "lane": 0, "memory": {}}
        migrate(state | {"optimizers": {}, "metrics": {}}, Path("checkpoint-1"), {})


# folders


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 2100, "file/run", "loop/run"])
def test_c6_a_folder_that_cannot_be_made_is_a_sentence(name: str, tiny: Path, problems: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((StorageError, ConfigError), match=r"cannot be written: .*--output_dir|output_dir: is too long"):
        train(runs.config("sft", tmp_path / name, tiny, problems))


def test_c6_names_that_no_file_of_text_can_hold_are_refused(tiny: Path, problems: Path) -> None:
    for name in ("r\udcff", "r\0"):
        with pytest.raises(ConfigError, match="output_dir"):
            runs.config("sft", Path(name), tiny, problems)


def test_c8_a_file_system_without_locks_is_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("obverse.runtime.run_dir.fcntl.flock", refuse)
    with pytest.raises(StorageError, match="No locks available"):
        RunFolder(tmp_path).lock()
    monkeypatch.undo()
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        RunFolder(tmp_path).lock()
