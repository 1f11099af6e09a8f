"""The start of a run: new, from a checkpoint of its folder, or from a checkpoint of another run, as a new run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obverse.config.train import TrainConfig
from obverse.config.yaml_file import write
from obverse.errors import CheckpointError, ConfigError
from obverse.runtime import branches as history
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Watcher
from obverse.runtime.output_dir import holds_run
from obverse.runtime.run_dir import RunFolder, environment, packages
from obverse.training.input_fingerprints import MODELS, SERVED, differences
from obverse.training.resume import FREE, all_changes, config_record, is_inside, refuse_changes
from obverse.training.run import Run, RunSetup
from obverse.training.run_state import migrate
from obverse.training.save import save

ENVIRONMENT = "environment.json"
UNRECORDED = TrainConfig.with_resume("unrecorded")


def find_shared_start(setup: RunSetup) -> Path | None:
    """The checkpoint to resume from, which the first rank finds and broadcasts; None for a new run."""
    path = None
    if setup.process_group.is_first:
        start = find_start(setup.config, setup.folder, setup.data, setup.watcher, setup.inputs)
        path = None if start is None else str(start)
    shared = setup.process_group.broadcast(path)
    return None if shared is None else Path(shared)


def find_start(
    config: TrainConfig, folder: RunFolder, data: str, watcher: Watcher, inputs: Mapping[str, str] | None = None
) -> Path | None:
    """The checkpoint to resume from, None for a new run. The folder must be locked.

    Raises CheckpointError if the checkpoint of the option is missing, damaged, from another branch of the run or saved
    by a later version, if a folder with a run has no intact checkpoint, and if options or data differ. Checkpoints that
    are skipped are noted. Raises ConfigError for a new run in a folder that holds one.
    """
    wanted = config.resume_from_checkpoint
    if wanted == "never":
        if holds_run(folder.path):  # another run has started in it before the lock
            raise ConfigError(f"--output_dir: {folder.path} already holds a run: give another --output_dir")
        return None
    path = newest_checkpoint(folder, watcher) if wanted == "auto" else checkpoint_at(Path(wanted).expanduser(), folder)
    if path is None:
        return None
    then = manifest.run_info(path)
    state = migrate(checkpoint.read_state(path), path, then.packages)
    if is_inside(path, folder.path):
        folder.metrics_size_at(state["step"], state["metrics"])
    allowed = refuse_changes(config, data, path, then, inputs or {}, later=(MODELS | SERVED) & then.inputs.keys())
    note_changes(allowed, watcher)
    for name, (before, after) in differences(then.inputs, inputs or {}).items():
        if name in FREE:
            watcher.note(f"--{name}: {after}, and {before} before: figures from this step on are of other rows")
    return path


def note_changes(changes: Mapping[str, tuple[Any, Any]], watcher: Watcher) -> None:
    """Note the changes that allow_config_change permits."""
    for name, (before, after) in sorted(changes.items()):
        watcher.note(f"resumes with another {name}: {before!r} then, {after!r} now")


def newest_checkpoint(folder: RunFolder, watcher: Watcher) -> Path | None:
    """The newest intact checkpoint of the folder's run, None in a folder without a run."""
    path, skipped = checkpoint.search(folder.path, folder.run_id())
    for sentence in skipped:
        watcher.note(sentence)
    parent = folder.environment().get("parent")
    if path is None and parent and not skipped:
        raise CheckpointError(
            f"{folder.path} has no checkpoint yet: it was to continue from {parent['checkpoint']}: give that as "
            "--resume_from_checkpoint"
        )
    if path is None and (skipped or folder.metrics_path.exists()):
        raise CheckpointError(
            f"{folder.path} has a run but no whole checkpoint{': ' + skipped[0] if skipped else ''}; start anew in "
            "another --output_dir"
        )
    if path is None:
        watcher.note(f"nothing to resume in {folder.path}: a new run starts")
    return path


def checkpoint_at(path: Path, folder: RunFolder) -> Path:
    """The checkpoint at a path; CheckpointError if it is damaged, or the folder holds another run."""
    checkpoint.verify(path)  # before anything is loaded from it
    saved_by, run = manifest.run_info(path).run, folder.run_id()
    if is_inside(path, folder.path):
        if run and saved_by and run != saved_by:
            raise CheckpointError(
                f"checkpoint {path} is of run {saved_by}, and {folder.path} holds run {run}: move it away, or "
                "continue from it in another --output_dir"
            )
    elif holds_run(folder.path):
        raise CheckpointError(
            f"checkpoint {path} (run {saved_by or 'without a number'}) is not in {folder.path}, which holds run "
            f"{run or 'without a number'}: give --resume_from_checkpoint auto to continue that run, or a new or "
            "empty --output_dir to continue from the checkpoint"
        )
    return path


def initialize_run_folder(run: Run, start: Path | None, threads: int, sampler: Mapping[str, Any]) -> None:
    """Write config.yaml and environment.json before the first step; all ranks call this.

    A run that starts from a checkpoint of another folder is a new run, with its parent noted. It saves a checkpoint at
    once, so that its folder does not depend on the parent's.
    """
    folder, config = run.folder, run.config
    if start is None:
        branch = (
            history.set_aside(folder.path, 0, 0, history.names_after(folder.path, -1, 0))
            if run.process_group.is_first
            else None
        )
        if branch is not None:
            run.watcher.note(f"files of an earlier run in {folder.path} are set aside in {branch}")
        folder.write_json(ENVIRONMENT, {**environment(threads), **sampler})
    elif is_inside(start, folder.path):
        if run.process_group.is_first and (folder.path / ENVIRONMENT).exists() and not folder.environment():
            moved = history.move_aside(folder.path, ENVIRONMENT)
            run.watcher.note(f"{folder.path / ENVIRONMENT} is damaged: it is moved to {moved}, and replaced")
        folder.write_json(ENVIRONMENT, {**continued(run, start, threads), **sampler})
    else:
        then = manifest.run_info(start)
        parent = {"checkpoint": str(start.resolve()), "run": then.run, "step": run.state.step, "seconds": run.seconds}
        folder.write_json(ENVIRONMENT, {**environment(threads), **sampler, "parent": parent})
        save(run)
    if start is not None:  # a path would restart from that checkpoint each time
        config = config.model_copy(update={"resume_from_checkpoint": "auto"})
    folder.write_text("config.yaml", write(config))


def continued(run: Run, start: Path, threads: int) -> dict[str, Any]:
    """The environment.json of a resumed run: how it began, and what changed each time it was resumed."""
    recorded, then = run.folder.environment(), manifest.run_info(start)
    changed = all_changes(then.config, config_record(run.config))
    entry: dict[str, Any] = {"step": run.state.step, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    entry["changes"] = {name: list(values) for name, values in sorted(changed.items()) if name not in UNRECORDED}
    if dict(then.packages) != packages():
        entry["packages"] = packages()
    original = recorded or environment(threads, then.run)
    return {**original, "threads": threads, "resumed": [*recorded.get("resumed", []), entry]}
