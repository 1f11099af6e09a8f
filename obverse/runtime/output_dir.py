"""The folder of a run: the given one, or the next free one; a folder with another run is refused. No torch import."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.redact import masked
from obverse.runtime import branches

DATA_FOLDER = "data"  # of a run folder: rows that a Python call has written
INPUTS = ("dataset", "eval_dataset", "verifier", "method")  # options that may name files of the run folder


def with_folder(config: TrainConfig, root: Path = Path("runs"), create: bool = True) -> TrainConfig:
    """The configuration with its run folder: the given one, else the next free `runs/METHOD-DATASET-N`.

    A folder that holds a run is refused unless the run is resumed.
    """
    resumes = config.resume_from_checkpoint != "never"
    if config.output_dir is not None:
        if holds_run(config.output_dir) and not resumes:
            raise ConfigError(
                f"--output_dir: {config.output_dir} already holds a run: continue it with "
                "--resume_from_checkpoint auto, or give another --output_dir"
            )
        return config
    if resumes and config.resume_from_checkpoint == "auto":
        raise ConfigError("--resume_from_checkpoint auto needs --output_dir: the folder of the run to continue")
    if resumes:
        path = Path(config.resume_from_checkpoint).expanduser()
        folder = path.resolve().parent
        folder = folder if path.is_absolute() else Path(os.path.relpath(folder))
        if not (folder / "config.yaml").is_file() or folder.resolve().parent.name == branches.FOLDER:
            raise ConfigError(
                f"--resume_from_checkpoint: {config.resume_from_checkpoint} is not in a run folder: give "
                "--output_dir, a new or empty folder, to continue from it there"
            )
        return config.model_copy(update={"output_dir": folder})
    folder = free_folder(root, f"{slug(config.method)}-{slug(config.dataset)}", create)
    return config.model_copy(update={"output_dir": folder})


def refuse_moved(config: TrainConfig, file: str | Path, is_given: bool) -> None:
    """Raise ConfigError where a run is resumed by its own config.yaml, which names another folder as its output_dir.

    The folder was moved or copied, or the path is relative to another working folder: the named folder may hold another
    run, or none. `is_given`: the command line has an output_dir, which is used.
    """
    home = Path(file).expanduser().parent
    is_run_config = Path(file).name == "config.yaml" and (home / "environment.json").is_file()
    if is_given or not is_run_config or config.resume_from_checkpoint == "never" or config.output_dir is None:
        return
    if config.output_dir.resolve() != home.resolve():
        raise ConfigError(
            f"--config: {file} is in {home.resolve()} and names {config.output_dir.resolve()} as its output_dir: "
            "say which of them to continue by --output_dir"
        )


def is_input_file(path: Path) -> bool:
    """Whether a name in a run folder is of rows or functions that a Python call writes before the run begins."""
    return path.name == DATA_FOLDER or re.fullmatch(r"(reward|method)-[0-9a-f]{12}\.py", path.name) is not None


def in_folder_of(values: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """The options of a run's config.yaml, with inputs that are files of its run folder found where the folder is now.

    Rows and functions of a Python call are such files. The folder may have been moved, and a relative path may be of
    another working folder. Options of any other configuration file are unchanged.
    """
    home, stored = Path(file).expanduser().parent, values.get("output_dir")
    if Path(file).name != "config.yaml" or not (home / "environment.json").is_file() or not stored:
        return dict(values)
    moved = {
        name: ",".join(
            f"{home}/{path.removeprefix(f'{stored}/')}" if path.startswith(f"{stored}/") else path
            for path in str(values[name]).split(",")
        )
        for name in INPUTS
        if values.get(name) is not None
    }
    return {**values, **moved}


def free_folder(root: Path, name: str, create: bool = True, at_least: int = 1) -> Path:
    """The next free `root/name-N`; `create` makes it at once, so that two runs started together never share it."""
    taken = [
        int(path.name.rpartition("-")[2])
        for path in root.glob(f"{name}-*")
        if re.fullmatch(rf"{re.escape(name)}-\d+", path.name)
    ]
    number = max(at_least, max(taken, default=0) + 1)
    while create and not _claimed(root / f"{name}-{number}"):
        number += 1
    return root / f"{name}-{number}"


def holds_run(folder: Path) -> bool:
    """Whether the folder has files of a run; False for an unreadable folder, which is refused when it is created."""
    try:
        if any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl")):
            return True
        return any(folder.glob("checkpoint-*")) or bool(branches.names_after(folder, -1, 0))
    except OSError:
        return False


def _claimed(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def slug(name: str) -> str:
    """A name as part of a folder's name: `arithmetic:1-6` is `arithmetic-1-6`, `data/gsm8k.jsonl` is `gsm8k`."""
    head, colon, tail = masked(name).partition(":")
    text = Path(head).stem + (f"-{tail}" if colon else "")
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:40] or "run"
