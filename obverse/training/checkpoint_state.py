"""Where a run stands, as a checkpoint's `state.json` has it, and how states of earlier versions are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from obverse.errors import CheckpointError

VERSION = 2
StateJson = dict[str, Any]  # a state.json: the fields of State, "version", "metrics", "optimizers", "template", "ahead"


@dataclass
class RunState:
    """Where a run stands; all that a checkpoint holds beside weights and moments.

    A field that is added, renamed or removed makes another VERSION, with an entry in MIGRATIONS.
    """

    step: int = 0
    cursor: int = 0  # problems taken so far
    num_tokens: int = 0  # generated plus trained
    flops: float = 0.0  # that these took, by the rule of `metrics.num_flops`
    before: float = 0.0  # the run's progress before its last step
    lane: int = 0  # the last stage of the schedule that has begun; its name in the file is older than `Stage`
    memory: dict[str, float] = field(default_factory=dict)  # what the method remembers
    waiting: list[str] = field(default_factory=list)  # problems put aside for another lane, the newest last


def migrate(kept: Mapping[str, Any], path: Path, packages: Mapping[str, Any]) -> StateJson:
    """A state of any version up to VERSION as one of VERSION; `packages` are those that saved it.

    Raises CheckpointError for a state of a later version, and for one that no version has written.
    """
    version = kept.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"checkpoint {path}: its state has version {version!r:.40} and was saved by obverse "
            f"{packages.get('obverse') or 'of a version that is not known'}; this version reads 1 to {VERSION}: resume "
            "it with that one, or start anew in another --output_dir"
        )
    now = dict(kept)
    for each in range(version, VERSION):
        now = MIGRATIONS[each](now)
    expected = {each.name for each in fields(RunState)} | {"optimizers", "metrics"}
    if missing := sorted(expected - now.keys()):
        raise CheckpointError(
            f"checkpoint {path}: its state of version {version} has no {', '.join(missing)}, which every state of that "
            "version has: resume from another one, or start anew in another --output_dir"
        )
    return now


def state_of(kept: Mapping[str, Any]) -> RunState:
    """The state among all that a migrated state.json says."""
    return RunState(**{each.name: kept[each.name] for each in fields(RunState)})


def _from_1(kept: StateJson) -> StateJson:
    """Version 1 had no number. Its fields came one by one: one that is missing has the value of a run without it.

    Of metrics.jsonl it knew the size, at first not even that; None is where the row of its step ends.
    """
    rows = {"bytes": kept.get("metrics_offset"), "sha256": ""}
    known = {name: value for name, value in kept.items() if name != "metrics_offset"}
    return {**asdict(RunState()), **known, "version": 2, "metrics": rows}


# From each older version to the next one. States of every version stand in tests/data/checkpoints.
MIGRATIONS: dict[int, Callable[[StateJson], StateJson]] = {1: _from_1}
